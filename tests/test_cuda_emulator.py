"""The CUDA kernels and their dispatch, run on the CPU by tests/cuda_emulator.

Values at sizes that straddle every tile, against the twins in float64; then the dispatch from
arrays on a device to addresses; then races and stray accesses, watched by sanitizers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import emulated_cuda
import reference
from dpslice import _arrays, _core, _cuda_kernels, kernels
from dpslice.divergences import get_divergence
from emulated_cuda import EMULATOR, ROOT, DeviceArray, Emulation
from pair_kernels import (
    ALL,
    DTYPES,
    KERNELS,
    Case,
    Kernel,
    assert_close,
    assert_rows_left_out,
    assert_totals,
    case_without_some_rows,
    make_case,
)

_HAVE_COMPILER = sys.platform == "linux" and shutil.which("g++") is not None
pytestmark = pytest.mark.skipif(not _HAVE_COMPILER, reason="needs g++ on Linux")

# (m, b, c, k). Small k: 128 threads with 1 to 4 targets each, tiles of 128 sources, k padded to
# 1, 2, 4, 8. Large k: tiles of 64, 16 coordinates at a time, 64 for gradients.
SHAPES = (
    (1, 1, 1, 1),
    (2, 130, 129, 1),
    (1, 1025, 127, 1),
    (1, 513, 257, 2),
    (3, 65, 128, 3),
    (1, 7, 513, 4),
    (1, 129, 65, 5),
    (2, 63, 40, 8),
    (2, 65, 63, 9),
    (1, 64, 65, 16),
    (1, 3, 130, 17),
    (1, 66, 70, 65),
    (1, 40, 64, 94),
    (1, 10, 12, 300),
)


@pytest.fixture(scope="session")
def emulated_file(once: Any) -> Path:
    return emulated_cuda.module_in(once("cuda_emulator", emulated_cuda.build))


@pytest.fixture(scope="session")
def emulated_module(emulated_file: Path) -> Any:
    return emulated_cuda.load(emulated_file)


@pytest.fixture(scope="session")
def warp_products(emulated_file: Path, once: Any) -> Any:
    """The module of a device whose matrix instructions are those of one warp."""

    def build(folder: Path) -> Path:
        flags = ("-DDPSLICE_EMULATOR_WARP_PRODUCTS",)
        return emulated_cuda.build(folder, flags, ("products.cu",), emulated_file.parent)

    return emulated_cuda.load(emulated_cuda.module_in(once("warp_products", build)))


@pytest.fixture
def cuda(emulated_module: Any, monkeypatch: pytest.MonkeyPatch) -> Emulation:
    for report in _cuda_kernels._reports.values():  # failures of other tests
        report.slice = -1
    return Emulation(emulated_module, monkeypatch)


# -------------------------------------------------------------------------------- kernel sums


def sum_arguments(case: Case) -> tuple[Any, ...]:
    return case.x, case.y, case.bandwidth, case.weights


@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_kernel_sums(
    cuda: Emulation, kernel: Kernel, shape: tuple[int, int, int, int], dtype: str
) -> None:
    case = kernel.make_case(*shape, dtype, weighted=shape[1] % 2 == 1)
    arguments = sum_arguments(case)
    found = cuda(kernel.name, *arguments)
    assert_close(found, kernel.twin(case), dtype)
    saved = (found,) if kernel.logarithms else ()
    grads = cuda(f"{kernel.name}_vjp", *arguments, *saved, case.grad, *ALL)
    for grad, truth in zip(grads, kernel.twin_vjp(case), strict=True):
        assert_close(grad, truth, dtype)
    totals, *rest = cuda(f"{kernel.name}_total", *arguments, case.grad, True, True)
    for one, other in zip(rest, (found, *grads[1:]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert_totals(totals, case.grad, found)


@DTYPES
@pytest.mark.parametrize("need", [(False, False), (True, True)])
def test_a_total_leaves_out_rows_of_weight_zero(
    cuda: Emulation, need: tuple[bool, bool], dtype: str
) -> None:
    """Also where there are more of them than a block has threads."""
    case = case_without_some_rows(1030, 3, dtype)
    arguments = sum_arguments(case)
    found = cuda("gaussian_kernel_logsumexp", *arguments)
    totals, rows, *_ = cuda("gaussian_kernel_logsumexp_total", *arguments, case.grad, *need)
    assert_rows_left_out(case, totals, rows, found)


# Products: tiles of 128, packs of 32 coordinates, one coordinate more for the sums of the shares;
# from 257 coordinates on, and without much shared memory, in other stages.
PRODUCT_SHAPES = ((1, 129, 257, 33), (2, 128, 130, 127), (1, 131, 128, 128), (1, 100, 300, 290))


def check_products(cuda: Emulation, case: Case, times: float = 1.0) -> None:
    """Sums and log sums of a case, and their gradients, against the float64 twins."""
    arguments = sum_arguments(case)
    for name in ("gaussian_kernel_sum", "gaussian_kernel_logsumexp"):
        found = cuda(name, *arguments)
        assert_close(found, getattr(reference, name)(*arguments), "float32", times=times)
        saved = (found,) if name.endswith("logsumexp") else ()
        grads = cuda(f"{name}_vjp", *arguments, *saved, case.grad, *ALL)
        truths = getattr(reference, f"{name}_vjp")(*arguments, case.grad)
        for grad, truth in zip(grads, truths, strict=True):
            assert_close(grad, truth, "float32", times=times)


@pytest.mark.parametrize("shared", ["101376", "232448"])
@pytest.mark.parametrize("shape", PRODUCT_SHAPES)
def test_products(
    cuda: Emulation, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int, int], shared: str
) -> None:
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", shared)
    check_products(cuda, make_case(*shape, "float32", weighted=True, wide=True))


def test_products_of_warps(warp_products: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What devices without products of four warps compute."""
    cuda = Emulation(warp_products, monkeypatch)
    check_products(cuda, make_case(1, 131, 140, 40, "float32", weighted=True, wide=True))


def test_products_band_by_band(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of one tile at a time, and of all sources only piece by piece."""
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARES", str(128 * 128 * 4))
    check_products(cuda, make_case(2, 150, 300, 12, "float32", weighted=True, wide=True))


def test_products_of_one_half(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exact as TensorFloat32, where that is allowed: not more, and not less."""
    case = make_case(1, 140, 150, 70, "float32", weighted=True, wide=True)
    exact = cuda("gaussian_kernel_logsumexp", *sum_arguments(case))
    monkeypatch.setattr(_arrays, "product_halves", lambda place: 1)
    check_products(cuda, case, times=200)
    rough = cuda("gaussian_kernel_logsumexp", *sum_arguments(case))
    assert 1e-6 < np.abs(rough - exact).max() < 1e-2
    monkeypatch.setattr(_arrays, "product_halves", lambda place: 3)
    with pytest.raises(ValueError, match="halves must be 1 or 2; got 3"):
        cuda("gaussian_kernel_logsumexp", *sum_arguments(case))


def test_products_fill_their_tiles(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 by 64 pairs they compute four times as many; of fewer they leave it to differences."""
    monkeypatch.setattr(_arrays, "product_halves", lambda place: 1)
    for c, by_products in ((64, True), (63, False)):
        case = make_case(1, 64, c, 40, "float32", wide=True)
        found = cuda("gaussian_kernel_logsumexp", *sum_arguments(case))
        truth = reference.gaussian_kernel_logsumexp(*sum_arguments(case))
        assert (np.abs(found - truth).max() > 1.5e-6) == by_products


def test_products_keep_to_their_reach(cuda: Emulation) -> None:
    """Slices side by side, of which some are too wide for products, or not finite."""
    case = make_case(4, 100, 120, 12, "float32", weighted=True, wide=True)
    alone = cuda("gaussian_kernel_sum", *sum_arguments(case))
    case.x[1] *= 1e3
    case.y[1] *= 1e3
    case.bandwidth[1] *= np.float32(3)
    case.y[2, 7, 3] = np.nan
    found = cuda("gaussian_kernel_sum", *sum_arguments(case))
    np.testing.assert_array_equal(found[[0, 3]], alone[[0, 3]])
    assert np.isnan(found[2]).all()
    truth = reference.gaussian_kernel_sum(*(part[:2] for part in sum_arguments(case)))
    assert_close(found[:2], truth, "float32")
    grads = cuda("gaussian_kernel_sum_vjp", *sum_arguments(case), case.grad, *ALL)
    truths = reference.gaussian_kernel_sum_vjp(
        *(part[:2] for part in sum_arguments(case)), case.grad[:2]
    )
    for grad, truth in zip(grads, truths, strict=True):
        assert np.isfinite(grad[[0, 1, 3]]).all()
        assert_close(grad[:2], truth, "float32")


@pytest.mark.parametrize("logarithms", [True, False])
def test_gradients_of_the_least_sums(cuda: Emulation, logarithms: bool) -> None:
    """Sums of 1e-17 have gradients, too, and logarithms that are taken of them; so do far less."""
    case = make_case(1, 70, 80, 64, "float32")
    if not logarithms:
        case.bandwidth[:] *= np.float32(0.8)
    found = cuda("gaussian_kernel_sum", *sum_arguments(case))
    assert np.median(found) < (1e-16 if logarithms else 1e-25)
    grad = (1 / found).astype(np.float32) if logarithms else np.ones_like(found)
    grads = cuda("gaussian_kernel_sum_vjp", *sum_arguments(case), grad, True, True, False)
    truths = reference.gaussian_kernel_sum_vjp(*sum_arguments(case), grad)
    for one, truth in zip(grads[:2], truths[:2], strict=True):
        assert_close(one, truth, "float32", times=5.0)  # exponents of 50, in float32


@pytest.mark.parametrize("power", [10, 20, 60])
def test_gradients_of_many_small_kernels(cuda: Emulation, power: int) -> None:
    """One row near all columns, and many far away that count for as much by their weights."""
    k, rows = 12, 512
    rng = np.random.default_rng(0)
    y = (1e-2 * rng.normal(size=(1, 64, k))).astype(np.float32)
    x = rng.normal(size=(1, rows, k))
    x *= np.sqrt(2 * (power + 21) * np.log(2)) / np.linalg.norm(x, axis=-1, keepdims=True)
    x[0, 0] = 0
    grad = np.full((1, rows), 2.0**power, np.float32)
    grad[0, 0] = -1
    arguments = (x.astype(np.float32), y, np.ones(1, np.float32), None, grad)
    found = cuda("gaussian_kernel_sum_vjp", *arguments, *ALL)
    truths = reference.gaussian_kernel_sum_vjp(*arguments)
    for one, truth in zip(found, truths, strict=True):
        assert_close(one, truth, "float32", times=2.0)


def test_gradients_of_points_far_from_the_centre(cuda: Emulation) -> None:
    """Near each other, and so far from the mean that products would round their exponents."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(2, 140, 784)).astype(np.float32)
    x = (y[:, rng.permutation(140)] + 0.05 * rng.normal(size=y.shape)).astype(np.float32)
    grad = rng.normal(size=(2, 140)).astype(np.float32)
    arguments = (x, y, np.array([0.75, 28], np.float32), None, grad)
    found = cuda("gaussian_kernel_sum_vjp", *arguments, *ALL)
    truths = reference.gaussian_kernel_sum_vjp(*arguments)
    for one, truth in zip(found, truths, strict=True):
        for part, true_part in zip(one, truth, strict=True):
            assert_close(part, true_part, "float32")


@pytest.mark.parametrize("name", ["gaussian_kernel_sum", "gaussian_kernel_logsumexp"])
@pytest.mark.parametrize("size", [1e-12, 1e12, 1e36])
def test_gradients_of_any_size(cuda: Emulation, name: str, size: float) -> None:
    """One row with another gradient, far beyond what float16 holds of both."""
    case = make_case(1, 70, 80, 12, "float32", weighted=True, wide=True)
    case.x[0, 3] += 30 * case.bandwidth[0]  # so that it has no part in the others' gradients
    case.grad[0, 3] = size
    saved = (cuda(name, *sum_arguments(case)),) if name.endswith("logsumexp") else ()
    grads = cuda(f"{name}_vjp", *sum_arguments(case), *saved, case.grad, *ALL)
    truths = getattr(reference, f"{name}_vjp")(*sum_arguments(case), case.grad)
    for grad, truth in zip(grads, truths, strict=True):
        # Numbers of like size are compared with each other: one row's, then all others'.
        for rows in ([3], [i for i in range(truth.shape[1]) if i != 3]):
            error = grad[:, rows].astype(np.float64) - truth[:, rows]
            assert np.linalg.norm(error) <= 2e-5 * np.linalg.norm(truth[:, rows])


def test_nan_stays(cuda: Emulation) -> None:
    """A weight that is not a number reaches every gradient of its slice."""
    case = make_case(2, 70, 80, 12, "float32", weighted=True, wide=True)
    assert case.weights is not None
    case.weights[1, 5] = np.nan
    found = cuda("gaussian_kernel_logsumexp", *sum_arguments(case))
    grads = cuda("gaussian_kernel_logsumexp_vjp", *sum_arguments(case), found, case.grad, *ALL)
    for part in (found, *grads):
        assert np.isfinite(part[0]).all()
        assert np.isnan(part[1]).all()


@pytest.mark.parametrize("offset", [-3000.0, 300.0, 3000.0, 1e6])
def test_log_weights_of_any_size(cuda: Emulation, offset: float) -> None:
    """Shares are differences of numbers of that size."""
    case = make_case(1, 70, 80, 12, "float32", weighted=True, wide=True)
    assert case.weights is not None
    case.weights[:] += np.float32(offset)
    found = cuda("gaussian_kernel_logsumexp", *sum_arguments(case))
    assert_close(found, reference.gaussian_kernel_logsumexp(*sum_arguments(case)), "float32")
    grads = cuda("gaussian_kernel_logsumexp_vjp", *sum_arguments(case), found, case.grad, *ALL)
    truths = reference.gaussian_kernel_logsumexp_vjp(*sum_arguments(case), case.grad)
    for grad, truth in zip(grads, truths, strict=True):
        assert_close(grad, truth, "float32", times=2.0)


def test_memory_that_is_not_to_be_had(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the library that allocates comes through, and the next call works."""
    cupy = sys.modules["cupy"]
    empty = cupy.empty

    def refuse(shape: tuple[int, ...], dtype: str) -> Any:
        if dtype == "uint8":
            raise MemoryError("out of memory on the device")
        return empty(shape, dtype)

    case = make_case(1, 5, 6, 12, "float32")
    monkeypatch.setattr(cupy, "empty", refuse)
    with pytest.raises(MemoryError, match="out of memory on the device"):
        cuda("gaussian_kernel_sum", *sum_arguments(case))
    monkeypatch.setattr(cupy, "empty", empty)
    assert np.isfinite(cuda("gaussian_kernel_sum", *sum_arguments(case))).all()


@DTYPES
@pytest.mark.parametrize("k", [2, 12])
@pytest.mark.parametrize("shift", [1e2, 1e4])
def test_far_from_the_origin(cuda: Emulation, shift: float, k: int, dtype: str) -> None:
    case = make_case(2, 65, 50, k, dtype, shift=shift, weighted=True, wide=True)
    found = cuda("gaussian_kernel_sum_vjp", *sum_arguments(case), case.grad, *ALL)
    truths = reference.gaussian_kernel_sum_vjp(*sum_arguments(case), case.grad)
    for grad, truth in zip(found, truths, strict=True):
        assert_close(grad, truth, dtype)


@DTYPES
@pytest.mark.parametrize("k", [2, 12])
@pytest.mark.parametrize("apart", [30.0, 1000.0])
def test_far_clusters(cuda: Emulation, apart: float, k: int, dtype: str) -> None:
    """Exponents of hundreds and of ten millions: float32 shares need more than float32."""
    case = make_case(3, 40, 60, k, dtype, weighted=True)
    case.x[1, ::2] += apart  # one slice alone
    case.y[1, ::2] -= apart
    found = cuda("gaussian_kernel_logsumexp", *sum_arguments(case))
    assert_close(found, reference.gaussian_kernel_logsumexp(*sum_arguments(case)), dtype)
    grads = cuda("gaussian_kernel_logsumexp_vjp", *sum_arguments(case), found, case.grad, *ALL)
    truths = reference.gaussian_kernel_logsumexp_vjp(*sum_arguments(case), case.grad)
    # Exponents of 10^7, themselves rounded, leave float64 eight digits of a share.
    times = 1e4 if dtype == "float64" and apart == 1000 else 2.0
    for grad, truth in zip(grads, truths, strict=True):
        assert_close(grad, truth, dtype, times=times)


@DTYPES
@pytest.mark.parametrize("k", [2, 12])
def test_weights_of_zero(cuda: Emulation, k: int, dtype: str) -> None:
    case = make_case(2, 30, 70, k, dtype, weighted=True)
    log_weights = np.full((2, 70), -np.inf, dtype)
    log_weights[0, 7] = 0.5
    arguments = (case.x, case.y, case.bandwidth, log_weights)
    found = cuda("gaussian_kernel_logsumexp", *arguments)
    assert_close(found, reference.gaussian_kernel_logsumexp(*arguments), dtype)
    assert (found[1] == -np.inf).all()
    grads = cuda("gaussian_kernel_logsumexp_vjp", *arguments, found, case.grad, *ALL)
    truths = reference.gaussian_kernel_logsumexp_vjp(*arguments, case.grad)
    for grad, truth in zip(grads, truths, strict=True):
        assert_close(grad, truth, dtype)


@pytest.mark.parametrize("bandwidth", [1e-30, 1e-5, 1e5, 1e30])
@pytest.mark.parametrize("k", [2, 12])
def test_extreme_bandwidths(cuda: Emulation, bandwidth: float, k: int) -> None:
    case = make_case(1, 20, 30, k, "float32", wide=True)
    scaled = (case.x * np.float32(bandwidth), case.y * np.float32(bandwidth))
    g = case.bandwidth * np.float32(bandwidth)
    for name in ("gaussian_kernel_sum", "gaussian_kernel_logsumexp"):
        found = cuda(name, *scaled, g, None)
        assert_close(found, getattr(reference, name)(*scaled, g), "float32")


def test_many_columns_in_float32(cuda: Emulation) -> None:
    case = make_case(1, 3, 100_000, 2, "float32")
    found = cuda("gaussian_kernel_sum", *sum_arguments(case))
    truth = reference.gaussian_kernel_sum(*sum_arguments(case))
    assert reference.relative_error(found, truth) < 1e-6


@pytest.mark.parametrize("k", [3, 20])
@pytest.mark.parametrize("name", ["gaussian_kernel_sum", "gaussian_kernel_logsumexp"])
def test_each_gradient_alone(cuda: Emulation, name: str, k: int) -> None:
    case = make_case(2, 70, 75, k, weighted=True)
    saved = ()
    if name.endswith("logsumexp"):
        saved = (cuda(name, *sum_arguments(case)),)
    every = cuda(f"{name}_vjp", *sum_arguments(case), *saved, case.grad, *ALL)
    for position in range(3):
        need = tuple(i == position for i in range(3))
        alone = cuda(f"{name}_vjp", *sum_arguments(case), *saved, case.grad, *need)
        assert [grad is None for grad in alone] == [not wanted for wanted in need]
        np.testing.assert_array_equal(alone[position], every[position])


@pytest.mark.parametrize("multiprocessors", ["1", "500"])
@pytest.mark.parametrize("k", [2, 12])
def test_parts_change_only_the_rounding(
    cuda: Emulation, monkeypatch: pytest.MonkeyPatch, k: int, multiprocessors: str
) -> None:
    """Whole sums, and sums in as many parts as there may be, some of them empty."""
    monkeypatch.setenv("DPSLICE_EMULATOR_SMS", multiprocessors)
    case = make_case(1, 5, 128 * 17 + 3, k, weighted=True)
    for name in ("gaussian_kernel_sum", "gaussian_kernel_logsumexp"):
        found = cuda(name, *sum_arguments(case))
        assert_close(found, getattr(reference, name)(*sum_arguments(case)), "float64")
    grads = cuda("gaussian_kernel_sum_vjp", *sum_arguments(case), case.grad, *ALL)
    truths = reference.gaussian_kernel_sum_vjp(*sum_arguments(case), case.grad)
    for grad, truth in zip(grads, truths, strict=True):
        assert_close(grad, truth, "float64")


# ------------------------------------------------------------------------------ density ratio


def ratio_arguments(m: int, b: int, c: int, k: int, dtype: str) -> tuple[Any, ...]:
    rng = np.random.default_rng([m, b, c, k])
    q, p = rng.normal(size=(m, b, k)), 0.7 * rng.normal(size=(m, c, k))
    return q.astype(dtype), p.astype(dtype), rng.uniform(0.8, 1.3, size=m).astype(dtype)


# Squares of 32 rows in tiles of 8, sums over 16 targets, 128 threads up to b = 128; the shared
# memory of the emulated device has no room for all squares of the last ones.
RATIO_SHAPES = (
    (1, 1, 1, 1),
    (2, 15, 7, 2),
    (1, 16, 40, 2),
    (3, 17, 33, 3),
    (1, 31, 5, 5),
    (1, 32, 32, 4),
    (2, 33, 31, 1),
    (1, 64, 65, 9),
    (1, 97, 1, 2),
    (1, 129, 70, 2),
    (2, 161, 20, 2),
)


@DTYPES
@pytest.mark.parametrize("shape", RATIO_SHAPES)
def test_density_ratio(cuda: Emulation, shape: tuple[int, int, int, int], dtype: str) -> None:
    q, p, g = ratio_arguments(*shape, dtype)
    wide = [part.astype(np.float64) for part in (q, p, g)]
    ridge, sigma = 0.05, 0.3
    times = 1.0 if dtype == "float32" else 20.0  # the condition number is up to b / ridge
    found = cuda("density_ratio", q, p, g, ridge, sigma)
    assert_close(found, reference.density_ratio(q, p, g, ridge, sigma), dtype, times=times)
    # The derivatives: against the CPU's in float64, which have an oracle of their own.
    grad = np.random.default_rng(1).normal(size=found.shape).astype(dtype)
    grads = cuda("density_ratio_vjp", q, p, g, ridge, sigma, found, grad, True, True)
    ratio = _core.density_ratio(*wide, ridge, sigma)
    truths = _core.density_ratio_vjp(
        *wide, ridge, sigma, ratio, grad.astype(np.float64), True, True
    )
    for one, truth in zip(grads, truths, strict=True):
        assert_close(one, truth, dtype, times=times)


@DTYPES
@pytest.mark.parametrize("shape", RATIO_SHAPES)
def test_kept_factors(cuda: Emulation, shape: tuple[int, int, int, int], dtype: str) -> None:
    """Gradients from the factors that the ratio left, wherever those lay."""
    q, p, g = (cuda.to_device(part) for part in ratio_arguments(*shape, dtype))
    kept = cuda.kernels.room_for_factors(q)
    assert kept is not None
    rest = (q, p, g, 0.05, 0.3)
    ratio = cuda.kernels.density_ratio(*rest, kept)
    np.testing.assert_array_equal(ratio.get(), cuda.kernels.density_ratio(*rest).get())
    grad = cuda.to_device(np.random.default_rng(1).normal(size=ratio.shape).astype(dtype))
    found = cuda.kernels.density_ratio_vjp(*rest, ratio, grad, True, True, kept)
    truths = cuda.kernels.density_ratio_vjp(*rest, ratio, grad, True, True)
    for one, truth in zip(found, truths, strict=True):
        assert_close(one.get(), truth.get().astype(np.float64), dtype)


def test_kept_factors_of_failed_slices(cuda: Emulation) -> None:
    cuda.stream.capturing = True  # nobody waits, and nothing raises
    q = np.arange(200.0).reshape(2, 100, 1) * 100
    q[1, 99] = q[1, 40]
    q = cuda.to_device(q)
    kept = cuda.kernels.room_for_factors(q)
    rest = (q, q, cuda.to_device(np.ones(2)), 0.0, 0.0)
    ratio = cuda.kernels.density_ratio(*rest, kept)
    grads = cuda.kernels.density_ratio_vjp(*rest, ratio, ratio, True, True, kept)
    for grad in grads:
        assert np.isfinite(grad.get()[0]).all()
        assert np.isnan(grad.get()[1]).all()


def test_too_large_factors_are_not_kept(cuda: Emulation) -> None:
    assert cuda.kernels.room_for_factors(cuda.to_device(np.zeros((6000, 128, 1)))) is not None
    assert cuda.kernels.room_for_factors(cuda.to_device(np.zeros((7000, 128, 1)))) is None


def test_the_order_of_blocks_changes_nothing(
    cuda: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that add up, or decide, what others have left."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 150, 2)).astype(np.float32)
    points[1] = np.round(points[1])  # many equal distances
    lines = rng.normal(size=(2, 5000)).astype(np.float32)
    case = make_case(2, 150, 140, 12, "float32", weighted=True, wide=True)

    def results() -> list[Any]:
        return [
            cuda("median_distance", points),
            cuda("median_distance_vjp", points, np.ones(3, np.float32)),
            *cuda("sliced_wasserstein_gradient", lines, lines[:, ::-2] + 1, 1.5, True, True),
            *cuda("gaussian_kernel_sum_total", *sum_arguments(case), case.grad, True, True),
            *cuda("gaussian_kernel_logsumexp_total", *sum_arguments(case), case.grad, True, True),
        ]

    forwards = results()
    monkeypatch.setenv("DPSLICE_EMULATOR_REVERSED", "1")
    for one, other in zip(results(), forwards, strict=True):
        np.testing.assert_array_equal(one, other)


def test_storage_changes_nothing(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in global memory, some squares of the factor or of its rows in shared, or all of them."""
    q, p, g = ratio_arguments(1, 137, 21, 2, "float64")
    grad = np.random.default_rng(1).normal(size=(1, 137))
    rest = (q, p, g, 0.05, 0.3)
    kl = get_divergence("kl")
    bandwidths = np.stack([g, 2 * g])
    results = []
    for limit in ("0", "60000", "100000", "232448", "500000"):
        monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", limit)
        ratio = cuda("density_ratio", *rest)
        grads = cuda("density_ratio_vjp", *rest, ratio, grad, True, True)
        losses = cuda(
            *("density_ratio_divergence", q, p, bandwidths, 0.05, 0.3),
            *(kl.code, kl.alpha, kl.r_min, True),
        )
        results.append((ratio, *grads, *losses))
    for other in results[1:]:
        for one, first in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(one, first)


def test_exponential_of_the_density_ratio(cuda: Emulation) -> None:
    """One row each side: from 1 through the smallest normal numbers to 0."""
    distance = np.concatenate([np.linspace(0, 1, 60), np.linspace(1, 37.5, 60), [38.0, 50, 1e9]])
    q = distance.reshape(-1, 1, 1)
    found = cuda("density_ratio", q, np.zeros_like(q), np.ones(len(q)), 0.0, 0.0)[:, 0]
    exponent = -0.5 * distance**2
    truth = np.exp(exponent)
    assert (found[-3:] == 0).all()
    error = np.abs(found - truth)[:-3] / truth[:-3]
    assert (error <= 2.0**-53 * (4 - 2 * exponent[:-3])).all()


@pytest.mark.parametrize("place", [0, 40, 99])
def test_late_failure_leaves_other_slices_alone(cuda: Emulation, place: int) -> None:
    q = np.arange(200.0).reshape(2, 100, 1) * 100
    q[1, 99] = q[1, place] if place < 99 else np.nan
    with pytest.raises(ValueError, match=r"slice 1 plus ridge = 0\.0 is not positive definite"):
        cuda("density_ratio", q, q, np.ones(2), 0.0, 0.0)
    cuda.stream.capturing = True
    found = cuda("density_ratio", q, q, np.ones(2), 0.0, 0.0)
    np.testing.assert_allclose(found[0], 1)
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("shape", [(11, 17, 9, 2), (5, 137, 9, 2)])
def test_few_blocks_walk_along_many_slices(
    cuda: Emulation, shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room in shared memory there are four blocks to a multiprocessor, not one a slice."""
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", "0")
    monkeypatch.setenv("DPSLICE_EMULATOR_SMS", "1")
    q, p, g = ratio_arguments(*shape, "float64")
    found = cuda("density_ratio", q, p, g, 0.05, 0.3)
    truth = reference.density_ratio(q, p, g, 0.05, 0.3)
    assert_close(found, truth, "float64", times=20)
    grad = np.ones_like(found)
    grads = cuda("density_ratio_vjp", q, p, g, 0.05, 0.3, found, grad, True, True)
    truths = _core.density_ratio_vjp(q, p, g, 0.05, 0.3, truth, grad, True, True)
    for one, expected in zip(grads, truths, strict=True):
        assert_close(one, expected, "float64", times=20)


@DTYPES
@pytest.mark.parametrize("divergence", ["kl", "js", "pearson", "total_variation"])
@pytest.mark.parametrize("shape", [(2, 33, 31, 2), (1, 120, 10, 3)])
def test_density_ratio_divergence(
    cuda: Emulation, shape: tuple[int, int, int, int], divergence: str, dtype: str
) -> None:
    q, p, g = ratio_arguments(*shape, dtype)
    bandwidths = np.stack([g, 2 * g]).astype(dtype)  # the second shape needs global memory
    chosen = get_divergence(divergence)
    numbers = (0.05, 0.3, chosen.code, chosen.alpha, chosen.r_min)
    value, grad = cuda("density_ratio_divergence", q, p, bandwidths, *numbers, True)
    wide = [part.astype(np.float64) for part in (q, p, bandwidths)]
    truths = _core.density_ratio_divergence(*wide, *numbers, True)
    times = 1.0 if dtype == "float32" else 100.0
    assert_close(value, truths[0], dtype, times=times)
    assert_close(grad, truths[1], dtype, times=times)
    alone, nothing = cuda("density_ratio_divergence", q, p, bandwidths, *numbers, False)
    np.testing.assert_array_equal(alone, value)
    assert nothing is None


@pytest.mark.parametrize("limit", ["101376", "1024"])
def test_failed_slice_is_named(
    cuda: Emulation, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", limit)
    q = np.arange(60.0).reshape(4, 15, 1) * 100
    q[1] = q[3] = 0
    g = np.ones(4)
    with pytest.raises(ValueError, match=r"slice 1 plus ridge = 0\.0 is not positive definite"):
        cuda("density_ratio", q, q, g, 0.0, 0.0)
    cuda.stream.capturing = True  # nobody waits: the bad slices are NaN
    found = cuda("density_ratio", q, q, g, 0.0, 0.0)
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, False, True])
    np.testing.assert_allclose(found[[0, 2]], 1.0)


@DTYPES
def test_divergence(cuda: Emulation, dtype: str) -> None:
    t = np.linspace(0.1, 3, 300, dtype=dtype).reshape(2, 150)
    for name in ("kl", "js", "squared_hellinger", "neyman"):
        chosen = get_divergence(name)
        found = cuda("divergence", chosen.code, chosen.alpha, t)
        truth = _core.divergence(chosen.code, chosen.alpha, t)
        for one, two in zip(found, truth, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6 if dtype == "float32" else 1e-13)


# ----------------------------------------------------------------------- Wasserstein, medians


def check_sliced_wasserstein(
    cuda: Emulation, shape: tuple[int, int, int], order: float, dtype: str
) -> None:
    """Compare the values with the exact matching, and gradients with the CPU's."""
    m, b, c = shape
    rng = np.random.default_rng(b)
    x, y = rng.normal(size=(m, b)).astype(dtype), rng.normal(size=(m, c)).astype(dtype)
    x[:, : b // 3] = np.round(x[:, : b // 3])  # ties, and zeros of both signs
    found = cuda("sliced_wasserstein", x, y, order)
    assert_close(found, reference.sliced_wasserstein(x, y, order), dtype)
    _, *grads = cuda("sliced_wasserstein_gradient", x, y, order, True, True)
    _, *truths = _core.sliced_wasserstein_gradient(
        *(part.astype(np.float64) for part in (x, y)), order, True, True
    )
    for one, truth in zip(grads, truths, strict=True):
        assert_close(one, truth, dtype)


# Blocks sort 128, 512, 1024 or 2048 values, and 4096 of float32; from 32 times as many on the other
# side on, a warp adds up what overlaps with a rank; a part has 2048 ranks.
@DTYPES
@pytest.mark.parametrize("order", [1.0, 2.0, 2.5])
@pytest.mark.parametrize(
    "shape",
    [
        *((1, 1, 1), (3, 5, 5), (2, 64, 17), (1, 257, 300), (2, 128, 4), (2, 4, 129)),
        *((1, 1025, 1025), (2, 2049, 3), (1, 4097, 4097), (1, 9000, 4097), (1, 3, 5000)),
    ],
)
def test_sliced_wasserstein(
    cuda: Emulation, shape: tuple[int, int, int], order: float, dtype: str
) -> None:
    check_sliced_wasserstein(cuda, shape, order, dtype)


@DTYPES
@pytest.mark.parametrize("shares", [64, 5000, 1 << 28])
@pytest.mark.parametrize("shape", [(5, 1, 1), (7, 60, 60), (6, 33, 90), (5, 2, 64)])
def test_sliced_wasserstein_in_global_memory(
    cuda: Emulation,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    shares: int,
    dtype: str,
) -> None:
    """As of long slices; one row, some or all of them sorted at a time."""
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", "0")
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARES", str(shares))
    check_sliced_wasserstein(cuda, shape, 2.0, dtype)


@DTYPES
@pytest.mark.parametrize("shared", [0, 99 * 1024])
def test_the_gradient_is_as_wide_as_asked(
    cuda: Emulation, monkeypatch: pytest.MonkeyPatch, shared: int, dtype: str
) -> None:
    """Places are moved along for the sides that want a gradient, and no others."""
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", str(shared))
    rng = np.random.default_rng(0)
    for b, c in ((40, 40), (40, 30), (30, 40)):
        x, y = rng.normal(size=(3, b)).astype(dtype), rng.normal(size=(3, c)).astype(dtype)
        value, *both = cuda("sliced_wasserstein_gradient", x, y, 1.5, True, True)
        for needs in ((True, False), (False, True), (False, False)):
            alone, *grads = cuda("sliced_wasserstein_gradient", x, y, 1.5, *needs)
            np.testing.assert_array_equal(alone, value)
            for grad, whole, needed in zip(grads, both, needs, strict=True):
                assert (grad is not None) == needed
                if needed:
                    np.testing.assert_array_equal(grad, whole)


@DTYPES
@pytest.mark.parametrize("shared", [0, 99 * 1024])
@pytest.mark.parametrize("size", [1, 31, 128, 700])
def test_equal_values_keep_their_order(
    cuda: Emulation, monkeypatch: pytest.MonkeyPatch, size: int, shared: int, dtype: str
) -> None:
    """The gradient against the numbers 0, 1, ... tells each value's rank."""
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", str(shared))
    rng = np.random.default_rng(size)
    x = rng.integers(-3, 4, (3, size)).astype(dtype)
    x[1] = rng.choice([0.0, -0.0], size)
    x[2] = np.where(rng.integers(0, 2, size), np.finfo(dtype).max / 8, -0.0)
    x[2, 0] = 1
    y = np.tile(np.arange(size).astype(dtype), (3, 1))
    _, grad, _ = cuda("sliced_wasserstein_gradient", x, y, 1.0, True, False)
    _, truth, _ = _core.sliced_wasserstein_gradient(x, y, 1.0, True, False)
    np.testing.assert_array_equal(grad, truth)
    _, grad, _ = cuda("sliced_wasserstein_gradient", x, y, 2.0, True, False)
    by_x, place = np.argsort(x[:2], axis=1, kind="stable"), np.empty((2, size), int)
    np.put_along_axis(place, by_x, np.arange(size)[None], axis=1)
    np.testing.assert_allclose(x[:2] - grad[:2] * (size / 2), place, atol=1e-3)


@DTYPES
@pytest.mark.parametrize("shared", [0, 99 * 1024])
def test_infinities_and_nan_leave_the_other_slices_alone(
    cuda: Emulation, monkeypatch: pytest.MonkeyPatch, shared: int, dtype: str
) -> None:
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", str(shared))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 70)).astype(dtype), rng.normal(size=(3, 70)).astype(dtype)
    expected = cuda("sliced_wasserstein_gradient", x, y, 2.0, True, True)
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        x[1, 20::2] = bad
        found = cuda("sliced_wasserstein_gradient", x, y, 2.0, True, True)
        assert not np.isfinite(found[0][1])
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one[::2], other[::2])


@DTYPES
@pytest.mark.parametrize(
    "shape", [(1, 2, 1), (2, 3, 2), (3, 4, 5), (1, 33, 1), (2, 64, 3), (1, 300, 2)]
)
def test_median_distance(cuda: Emulation, shape: tuple[int, int, int], dtype: str) -> None:
    x = np.random.default_rng(shape).normal(size=shape).astype(dtype)
    assert_close(cuda("median_distance", x), reference.median_distance(x), dtype)
    grad = np.linspace(1, 2, shape[0]).astype(dtype)
    truth = _core.median_distance_vjp(x.astype(np.float64), grad.astype(np.float64))
    assert_close(cuda("median_distance_vjp", x, grad), truth, dtype)


def middle_distances(points: Any) -> tuple[Any, Any]:
    """Give the median of one slice and its gradient, in float64, to the first of equal pairs.

    Terms are added in the order of the coordinates, scaled by a power of two, as the kernels do;
    without fused operations, so sums must be exact where pairs are to be equal.
    """
    points = points.astype(np.float64)
    scale = 2.0 ** -np.floor(np.log2(np.abs(points).max() or 1.0))
    i, j = np.triu_indices(len(points), k=1)
    squared = np.zeros(len(i))
    for column in scale * points.T:
        squared += (column[i] - column[j]) ** 2
    ordered = np.sort(squared)
    value, grad = 0.0, np.zeros_like(points)
    for middle in (ordered[(len(i) - 1) // 2], ordered[len(i) // 2]):
        value += 0.5 * np.sqrt(middle) / scale
        if middle > 0:
            pair = np.argmax(squared == middle)
            pull = 0.5 * scale * (points[i[pair]] - points[j[pair]]) / np.sqrt(middle)
            grad[i[pair]] += pull
            grad[j[pair]] -= pull
    return value, grad


def assert_middle(cuda: Emulation, x: Any) -> None:
    """Compare with `middle_distances`: to the last places, or a median is of another pair."""
    truths = [middle_distances(points) for points in x]
    rtol = 2e-7 if x.dtype == np.float32 else 1e-14
    values = np.array([value for value, _ in truths])
    np.testing.assert_allclose(cuda("median_distance", x), values, rtol=rtol, atol=0)
    found = cuda("median_distance_vjp", x, np.ones(len(x), x.dtype))
    for one, (_, truth) in zip(found, truths, strict=True):
        np.testing.assert_allclose(one, truth, rtol=0, atol=rtol)


# Tiles have 64 points a side, or 128 where float32 coordinates are few; up to 45 points all pairs
# are collected at once. Odd and even numbers of pairs.
@DTYPES
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9, 94])
@pytest.mark.parametrize("b", [2, 3, 45, 46, 64, 127, 130, 257])
def test_the_middle_pairs(cuda: Emulation, b: int, k: int, dtype: str) -> None:
    assert_middle(cuda, np.random.default_rng([b, k]).normal(size=(1, b, k)).astype(dtype))


@DTYPES
@pytest.mark.parametrize("size", [1.0, 2.0**-100, 2.0**100])
@pytest.mark.parametrize(("k", "step"), [(1, 1.0), (2, 0.125), (9, 1.0)])
def test_the_middle_pairs_of_a_lattice(
    cuda: Emulation, k: int, step: float, size: float, dtype: str
) -> None:
    x = np.random.default_rng(k).normal(size=(2, 130, k))
    assert_middle(cuda, (size * step * np.round(x / step)).astype(dtype))


# So many points in the first of two places that as many distances are 0 as are not: the two
# medians are far apart.
@DTYPES
@pytest.mark.parametrize(("b", "first"), [(16, 10), (144, 78), (144, 72), (144, 80), (256, 136)])
@pytest.mark.parametrize("k", [1, 5])
def test_the_middle_pairs_of_two_places(
    cuda: Emulation, b: int, first: int, k: int, dtype: str
) -> None:
    x = np.zeros((2, b, k), dtype)
    x[:, first:] = 1.5
    x[1] += 2.0**-12 * np.round(8 * np.random.default_rng(b).normal(size=(b, k))).astype(dtype)
    assert_middle(cuda, x)


@pytest.mark.parametrize("b", [12, 70])
def test_the_middle_pairs_of_some_slices_at_a_time(
    cuda: Emulation, monkeypatch: pytest.MonkeyPatch, b: int
) -> None:
    x = np.random.default_rng(b).normal(size=(5, b, 2)).astype(np.float32)
    together = cuda("median_distance", x)
    monkeypatch.setenv("DPSLICE_EMULATOR_SHARES", "70000")
    np.testing.assert_array_equal(cuda("median_distance", x), together)
    assert_middle(cuda, x)


def test_the_middle_pairs_next_to_many_others(cuda: Emulation) -> None:
    """Those with the median's digits are few, and those that float32 cannot tell from it many."""
    x = np.zeros((1, 256, 1), np.float32)
    x[:, 130:] = 1.0
    x[:, 255] = 1.0 - 2.0**-22
    assert_middle(cuda, x)


def test_the_middle_pairs_in_the_last_digit_of_a_window(cuda: Emulation) -> None:
    """Many more pairs than are collected lie right behind it, where nobody has counted them."""
    some = {"0x1.a5cd08p-1": 20, "0x1.a5ce3ap-1": 30, "0x1.a5ce3cp-1": 5, "0x1.a5ce4ap-1": 50}
    near = [value for value, count in some.items() for _ in range(count)]
    x = [*[0.0] * 149, float.fromhex("0x1.81dabcp-28"), *map(float.fromhex, near)]
    x += [-10.0 * far for far in range(1, 62)]
    assert_middle(cuda, np.array(x, np.float32)[None, :, None])


@DTYPES
@pytest.mark.parametrize("k", [2, 9])
def test_the_middle_pairs_of_uneven_coordinates(cuda: Emulation, k: int, dtype: str) -> None:
    x = np.random.default_rng(k).normal(size=(3, 130, k))
    x[0] *= 10.0 ** -np.arange(k)
    x[1] *= 1e-30  # and squares that float32 has no normal numbers for, next to one that it has
    x[1, 0] = 1.0
    x[2] += 1e4
    assert_middle(cuda, x.astype(dtype))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float32", 1e-30), ("float32", 1e30), ("float64", 1e-160), ("float64", 1e160)],
)
@pytest.mark.parametrize("k", [2, 5])
def test_the_middle_pairs_of_extreme_points(
    cuda: Emulation, k: int, scale: float, dtype: str
) -> None:
    x = np.random.default_rng(k).normal(size=(1, 130, k))
    assert_middle(cuda, (scale * x).astype(dtype))


@DTYPES
@pytest.mark.parametrize("b", [5, 130])
def test_the_middle_pairs_beside_nan(cuda: Emulation, b: int, dtype: str) -> None:
    """Its distances count as the largest; other slices do not see it."""
    x = np.random.default_rng(b).normal(size=(3, b, 2)).astype(dtype)
    x[1] = np.nan
    x[2, -1] = np.nan
    found = cuda("median_distance", x)
    grads = cuda("median_distance_vjp", x, np.ones(3, dtype))
    value, grad = middle_distances(x[0])
    np.testing.assert_allclose(found[0], value, rtol=1e-6)
    np.testing.assert_allclose(grads[0], grad, atol=1e-6)
    assert np.isnan(found[1])
    assert not grads[1].any()
    i, j = np.triu_indices(b, k=1)
    lengths = np.sort(np.linalg.norm((x[2, i] - x[2, j]).astype(np.float64), axis=1))  # NaN last
    middle = lengths[[(len(i) - 1) // 2, len(i) // 2]].mean()
    np.testing.assert_allclose(found[2], middle, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_median_of_equal_and_of_extreme_distances(cuda: Emulation, scale: float) -> None:
    line = scale * np.array([[[0.0], [1.0], [3.0]]])
    np.testing.assert_allclose(cuda("median_distance", line), [2 * scale])
    same = np.full((2, 6, 2), scale)
    assert not cuda("median_distance", same).any()
    assert not cuda("median_distance_vjp", same, np.ones(2)).any()


# ------------------------------------------------------------------------------------- project


KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)


# Warps of 32 or 16 rows and 64 or 32 columns, blocks of up to 128 columns, chunks of 16
# coordinates in a ring of 3; the frame of (20, 130, 131) does not fit in shared memory.
PROJECT_SHAPES = pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (65, 17, 3),
        (63, 16, 64),
        (130, 5, 66),
        (4, 40, 131),
        (17, 31, 33),
        (200, 48, 16),
        (33, 52, 100),
        (20, 130, 131),
    ],
)


@DTYPES
@PROJECT_SHAPES
def test_project_fast(cuda: Emulation, shape: tuple[int, int, int], dtype: str) -> None:
    """The CPU's numbers, to rounding: the noise comes from the same counters."""
    n, d, p = shape
    rng = np.random.default_rng(n)
    x, frame = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(d, p)).astype(dtype)
    for sigma in (0.0, 0.5):
        for first_row in (0, 2**33 + 5):
            found = cuda("project_fast", x, frame, sigma, KEY, first_row)
            truth = _core.project_fast(x, frame, sigma, KEY, first_row)
            assert_close(found, truth.astype(np.float64), dtype)


@DTYPES
@PROJECT_SHAPES
def test_project_secure(cuda: Emulation, shape: tuple[int, int, int], dtype: str) -> None:
    """The CPU's numbers, and on the grid: a rounding error moves few by one step."""
    n, d, p = shape
    rng = np.random.default_rng(n)
    x, frame = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(d, p))
    key, sigma = bytes(range(32)), 0.7
    step = 2.0**-1 / 1024
    for first_row in (0, 2**33 + 5):
        found = cuda("project_secure", x, frame, sigma, key, first_row, np.inf, dtype)
        truth = _core.project_secure(x, frame, sigma, key, first_row, np.inf, dtype)
        assert found.dtype == truth.dtype
        steps = found.astype(np.float64) / step
        np.testing.assert_array_equal(steps, np.round(steps))
        moved = np.abs(steps - truth.astype(np.float64) / step)
        assert moved.max() <= 1
        assert (moved > 0).mean() < 1e-3


@DTYPES
@pytest.mark.parametrize("shape", [(900, 20, 4), (470, 33, 70), (150, 60, 131)])
@pytest.mark.parametrize("shared", [None, 90000])
def test_project_on_few_multiprocessors(
    cuda: Emulation,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    dtype: str,
    shared: int | None,
) -> None:
    """A block goes from rows to rows, with all its warps or with those that fit."""
    monkeypatch.setenv("DPSLICE_EMULATOR_SMS", "1")
    if shared is not None:
        monkeypatch.setenv("DPSLICE_EMULATOR_SHARED", str(shared))
    n, d, p = shape
    rng = np.random.default_rng(n)
    x, frame = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(d, p))
    fast = frame.astype(dtype)
    found = cuda("project_fast", x, fast, 0.5, KEY, 11)
    assert_close(found, _core.project_fast(x, fast, 0.5, KEY, 11).astype(np.float64), dtype)
    found = cuda("project_secure", x, frame, 1.0, bytes(32), 11, np.inf, dtype)
    truth = _core.project_secure(x, frame, 1.0, bytes(32), 11, np.inf, dtype)
    assert (found != truth).mean() < 1e-3
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1.01 / 1024)


@DTYPES
def test_project_from_any_address(cuda: Emulation, dtype: str) -> None:
    """Whole pieces of 16 bytes where an array starts at one, single numbers elsewhere."""
    n, d, p = 40, 36, 12
    size = np.dtype(dtype).itemsize
    rng = np.random.default_rng(5)
    frame = rng.normal(size=(d, p)).astype(dtype)
    memory = np.empty(n * d * size + 32, np.uint8)
    start = -memory.ctypes.data % 16
    for shift in (0, size % 16, 8):
        x = memory[start + shift :][: n * d * size].view(dtype).reshape(n, d)
        x[:] = rng.normal(size=(n, d))
        found = cuda("project_fast", x, frame, 0.5, KEY, 0)
        assert_close(found, _core.project_fast(x, frame, 0.5, KEY, 0).astype(np.float64), dtype)


@pytest.mark.parametrize("d", [1, 16, 128, 1500])
@pytest.mark.parametrize("positive", [False, True])
def test_project_is_exact_to_float32(cuda: Emulation, d: int, positive: bool) -> None:
    """Two TF32 numbers stand for a float32, and their sums do not drift with the coordinates."""
    rng = np.random.default_rng(d)
    x, frame = rng.normal(size=(40, d)), rng.normal(size=(d, 40))
    if positive:
        x, frame = np.abs(x), np.abs(frame)
    x, frame = x.astype(np.float32), frame.astype(np.float32)
    truth = x.astype(np.float64) @ frame.astype(np.float64)
    found = cuda("project_fast", x, frame, 0.0, KEY, 0)
    assert np.linalg.norm(found - truth) < 4e-7 * np.linalg.norm(truth)


def test_project_of_any_magnitude(cuda: Emulation) -> None:
    """From rows of 1e-25 to rows of 1e25, mixed within rows, and the ends of float32's range."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 50)) * 10.0 ** rng.uniform(-25, 25, (60, 1))
    x *= 10.0 ** rng.uniform(-6, 6, (60, 50))
    frame = rng.normal(size=(50, 20)) * 10.0 ** rng.uniform(-6, 6, (1, 20))
    x, frame = x.astype(np.float32), frame.astype(np.float32)
    found = cuda("project_fast", x, frame, 0.0, KEY, 0)
    wide, wide_frame = x.astype(np.float64), frame.astype(np.float64)
    scale = np.abs(wide) @ np.abs(wide_frame)
    assert (np.abs(found - wide @ wide_frame) < 1e-6 * scale).all()

    greatest = np.finfo(np.float32).max
    ends = np.array([[greatest, -greatest], [1e-45, 1e-38], [0.0, -0.0]], np.float32)
    found = cuda("project_fast", ends, np.array([[0.25], [-0.5]], np.float32), 0.0, KEY, 0)
    np.testing.assert_allclose(found[0], 0.75 * greatest, rtol=1e-6)
    np.testing.assert_allclose(found[1:], 0.0, atol=1e-38)
    other = np.array([[0.25], [-0.5]], np.float32)
    found = cuda("project_fast", other, np.array([[greatest]], np.float32), 0.0, KEY, 0)
    np.testing.assert_allclose(found, other * greatest, rtol=1e-6)


def test_secure_noise_is_the_key_stream(cuda: Emulation) -> None:
    """One number from the words of RFC 8439's block, without the CPU kernel in between."""
    key = bytes(range(32))
    found = cuda(
        "project_secure", np.zeros((1, 1)), np.zeros((1, 4)), 1.0, key, 7, np.inf, "float64"
    )
    block = _core.chacha20_block(key, 0, (7).to_bytes(8, "little") + bytes(4))
    words = np.frombuffer(block, "<u4").astype(np.uint32)
    normals = _core.secure_normals(np.stack([words[0:6], words[6:12]])).ravel()
    np.testing.assert_array_equal(found[0], np.round(normals * 1024) / 1024)


# ------------------------------------------------------------------------------------- dispatch


X = np.random.default_rng(0).normal(size=(2, 5, 3))
Y = np.random.default_rng(1).normal(size=(2, 4, 3))


def test_functions_take_and_give_device_arrays(cuda: Emulation) -> None:
    x, y = cuda.to_device(X), cuda.to_device(Y)
    calls = {
        "gaussian_kernel_sum": (1.5, cuda.to_device(np.ones((2, 4)))),
        "gaussian_kernel_logsumexp": (cuda.to_device(np.array([1.0, 2.0])),),
        "density_ratio": (1.5, 0.1, 0.2),
    }
    for name, rest in calls.items():
        found = getattr(kernels, name)(x, y, *rest)
        assert isinstance(found, DeviceArray)
        host = [part.get() if isinstance(part, DeviceArray) else part for part in rest]
        np.testing.assert_allclose(found.get(), getattr(kernels, name)(X, Y, *host), rtol=1e-12)
    found = kernels.median_distance(x)
    np.testing.assert_allclose(found.get(), kernels.median_distance(X), rtol=1e-14)
    flat, other = cuda.to_device(X[:, :, 0]), cuda.to_device(Y[:, :, 0])
    np.testing.assert_allclose(
        kernels.sliced_wasserstein(flat, other).get(),
        kernels.sliced_wasserstein(X[:, :, 0], Y[:, :, 0]),
    )
    frame = np.eye(3)
    assert kernels.project(cuda.to_device(X[0]), cuda.to_device(frame), 1.0).shape == (5, 3)
    noisy = kernels.project(cuda.to_device(X[0]), cuda.to_device(frame), 1.0, "fast", KEY)
    np.testing.assert_allclose(noisy.get(), kernels.project(X[0], frame, 1.0, "fast", KEY))
    kl = get_divergence("kl")
    np.testing.assert_allclose(kl.value(cuda.to_device(np.abs(X))).get(), kl.value(np.abs(X)))


def test_strided_arrays_and_bandwidths_of_another_dtype(cuda: Emulation) -> None:
    x = cuda.to_device(X.astype(np.float32)[:, ::-1])
    y = cuda.to_device(Y.astype(np.float32).transpose(0, 2, 1).copy().transpose(0, 2, 1))
    g = cuda.to_device(np.array(1.5))
    found = kernels.gaussian_kernel_sum(x, y, g)
    assert_close(found.get(), reference.gaussian_kernel_sum(X[:, ::-1], Y, 1.5), "float32")


def test_work_runs_on_the_arrays_device_and_stream(cuda: Emulation) -> None:
    seen = []

    class Spy:
        def median_distance(self, dtype: str, device: int, stream: int, *rest: int) -> None:
            seen.append((dtype, device, stream))

    cuda.device.id = 3
    cuda.stream.ptr = 42  # type: ignore[misc]
    sys.modules["dpslice._cuda"] = Spy()  # type: ignore[assignment]
    kernels.median_distance(cuda.to_device(X))
    assert seen == [("float64", 3, 42)]
    assert cuda.device.entered > 0


def test_mixed_places_are_refused(cuda: Emulation) -> None:
    x = cuda.to_device(X)
    with pytest.raises(TypeError, match="y must be a cupy array like the others; got numpy"):
        kernels.gaussian_kernel_sum(x, Y, 1.0)
    elsewhere = DeviceArray(Y, emulated_cuda.Device(1))
    with pytest.raises(ValueError, match="y must be on cuda:0 like the others; got cuda:1"):
        kernels.gaussian_kernel_sum(x, elsewhere, 1.0)
    with pytest.raises(ValueError, match="bandwidth must be on cuda:0 like the others"):
        kernels.gaussian_kernel_sum(
            x, cuda.to_device(Y), DeviceArray(np.ones(2), emulated_cuda.Device(1))
        )


def test_a_device_that_is_not_there(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    x = cuda.to_device(X)
    want = kernels.median_distance(x).get()
    cuda.device.id = 3
    with pytest.raises(RuntimeError, match="CUDA could not use device 3: invalid device ordinal"):
        kernels.median_distance(x)
    monkeypatch.setenv("DPSLICE_EMULATOR_DEVICES", "0")
    with pytest.raises(RuntimeError, match=r"find the current device .*: no CUDA-capable device"):
        kernels.median_distance(x)
    assert cuda.module.device_count() == 0
    monkeypatch.delenv("DPSLICE_EMULATOR_DEVICES")
    cuda.device.id = 0  # and the library is usable as before
    np.testing.assert_array_equal(kernels.median_distance(x).get(), want)


def test_a_device_that_is_too_old(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSLICE_EMULATOR_CAPABILITY", "75")
    with pytest.raises(RuntimeError, match=r"capability 8\.0 or newer; device 0 has 7\.5"):
        kernels.median_distance(cuda.to_device(X))


def test_a_stream_of_another_device(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on the device of their arrays, which is current meanwhile."""
    monkeypatch.setenv("DPSLICE_EMULATOR_DEVICES", "2")
    on_device = {0: 0x100 + 1, 1: 0x200 + 2}  # streams of the emulator
    want = kernels.median_distance(X)
    for device, other in ((1, 0), (0, 1)):
        cuda.device.id = device
        cuda.stream.ptr = on_device[device]  # type: ignore[misc]
        np.testing.assert_allclose(kernels.median_distance(cuda.to_device(X)).get(), want)
        cuda.stream.ptr = on_device[other]  # type: ignore[misc]
        with pytest.raises(RuntimeError, match="could not start a kernel: invalid resource handle"):
            kernels.median_distance(cuda.to_device(X))


def test_bad_input_is_refused_as_on_the_cpu(cuda: Emulation) -> None:
    x, y = cuda.to_device(X), cuda.to_device(Y)
    with pytest.raises(ValueError, match="y must have shape"):
        kernels.gaussian_kernel_sum(x, cuda.to_device(Y[:, :, :2].copy()), 1.0)
    with pytest.raises(TypeError, match="x must have dtype float32 or float64; got int64"):
        kernels.median_distance(cuda.to_device(np.zeros((1, 2, 2), np.int64)))
    with pytest.raises(ValueError, match="bandwidth must be a finite number > 0"):
        kernels.gaussian_kernel_sum(x, y, 0.0)
    with pytest.raises(ValueError, match="ridge must be"):
        kernels.density_ratio(x, y, 1.0, -1.0)
    with pytest.raises(ValueError, match="sigma must be between 1e-270 and 1e270"):
        kernels.project(cuda.to_device(X[0]), cuda.to_device(np.eye(3)), 1e-300)


def test_guards_against_reading_out_of_bounds(cuda: Emulation) -> None:
    with pytest.raises(ValueError, match="grad does not have the shape"):
        cuda("gaussian_kernel_sum_vjp", X, Y, np.ones(2), None, np.ones((2, 4)), *ALL)
    with pytest.raises(ValueError, match="grad must have dtype float64; got float32"):
        cuda(
            *("gaussian_kernel_sum_vjp", X, Y, np.ones(2), None),
            *(np.ones((2, 5), np.float32), True, True, True),
        )
    elsewhere = DeviceArray(np.ones((2, 5)), emulated_cuda.Device(1))
    with pytest.raises(ValueError, match="grad must be on"):
        cuda("gaussian_kernel_sum_vjp", X, Y, np.ones(2), None, elsewhere, *ALL)
    with pytest.raises(ValueError, match="frame does not have the shape"):
        cuda("project_fast", X[0], np.eye(4), 1.0, KEY, 0)
    with pytest.raises(ValueError, match="max_norm must be infinite here"):
        cuda("project_secure", X[0], np.eye(3), 1.0, bytes(32), 0, 1.0, "float64")
    with pytest.raises(ValueError, match="dtype must be float64, that of x; got float32"):
        cuda("project_secure", X[0], np.eye(3), 1.0, bytes(32), 0, np.inf, "float32")
    with pytest.raises(ValueError, match="key must be 32 bytes"):
        cuda("project_secure", X[0], np.eye(3), 1.0, bytes(31), 0, np.inf, "float64")


def test_without_the_compiled_module(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dpslice._cuda", None)
    with pytest.raises(NotImplementedError, match=r"no CUDA kernels, and the arrays are on cuda:0"):
        kernels.median_distance(cuda.to_device(X))


def test_place_names_the_device(cuda: Emulation) -> None:
    assert _arrays.place_of("x", cuda.to_device(X)) == _arrays.Place("cupy", "cuda:0", 0)


def test_the_stub_is_current(emulated_file: Path, tmp_path: Path) -> None:
    """python/dpslice/_cuda.pyi is what pybind11-stubgen makes of the bindings."""
    pytest.importorskip("pybind11_stubgen")
    subprocess.run(
        [sys.executable, "-m", "pybind11_stubgen", "_cuda", "--output-dir", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(emulated_file.parent)},
        check=True,
    )
    committed = ROOT / "python" / "dpslice" / "_cuda.pyi"
    assert (tmp_path / "_cuda.pyi").read_text() == committed.read_text()


# --------------------------------------------------------------------------------------- torch


@pytest.fixture
def torch_on_device(cuda: Emulation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Pretend that CPU tensors lie on a device: torch's way through the dispatch, and autograd."""
    torch = pytest.importorskip("torch")
    recorded: list[tuple[int, Any]] = []
    place = _arrays.Place("torch", "cuda:0", 0)
    for module in (_arrays, _arrays._operands):
        monkeypatch.setattr(module, "place_of", lambda name, value: place)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "current")
    monkeypatch.setattr(
        torch.Tensor,
        "record_stream",
        lambda tensor, stream: recorded.append((tensor.data_ptr(), stream)),
    )
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    _arrays._devices._stream_object.cache_clear()  # of what is no stream, now and afterwards
    torch.recorded_for_test = recorded
    yield torch
    del torch.recorded_for_test
    _arrays._devices._stream_object.cache_clear()


def test_torch_operators_on_a_device(torch_on_device: Any) -> None:
    torch = torch_on_device
    from dpslice.torch import functional

    generator = torch.Generator().manual_seed(0)

    def points(*shape: int) -> Any:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    x, y, weights = points(2, 3, 2), points(2, 2, 2), points(2, 2)
    check = torch.autograd.gradcheck
    assert check(lambda *a: functional.gaussian_kernel_sum(a[0], a[1], 1.5, a[2]), (x, y, weights))
    assert check(
        lambda *a: functional.gaussian_kernel_logsumexp(a[0], a[1], 1.5, a[2]), (x, y, weights)
    )
    assert check(lambda *a: functional.density_ratio(*a, 1.5, 0.1, 0.3), (x, y))
    assert check(lambda p: functional.density_ratio_divergence(x.detach(), p, 1.5, 0.1, "kl"), (y,))
    several = torch.tensor([[1.0, 1.5], [2.0, 2.5]], dtype=torch.float64)
    assert check(
        lambda p: functional.density_ratio_divergence(x.detach(), p, several, 0.1, "js"), (y,)
    )
    assert check(functional.sliced_wasserstein, (points(2, 3), points(2, 2)))
    assert check(functional.median_distance, (x,))
    assert check(
        lambda *a: functional.project(*a, 0.5, "fast", (1, 2)), (points(3, 2), points(2, 2))
    )
    assert functional.project(points(5, 3), points(3, 2), 0.5).shape == (5, 2)
    assert {stream for _, stream in torch.recorded_for_test} == {"current"}


def test_the_stream_is_told_of_what_it_reads(torch_on_device: Any) -> None:
    """And not of results: they were allocated on it."""
    torch = torch_on_device
    from dpslice.torch import functional

    x, y, g = torch.randn(2, 5, 3), torch.randn(2, 4, 3).requires_grad_(), torch.ones(2)
    found = functional.density_ratio(x, y, g, 0.1)
    read = [tensor.data_ptr() for tensor in (x, y, g)]
    assert [tensor for tensor, _ in torch.recorded_for_test] == read
    torch.recorded_for_test.clear()
    ones = torch.ones(2, 5)
    torch.autograd.grad(found, y, ones)
    read += [found.data_ptr(), ones.data_ptr()]
    *told, _ = [tensor for tensor, _ in torch.recorded_for_test]  # at last, of the kept factors
    assert told == read


def test_factors_without_memory_for_them_are_made_again(
    torch_on_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = torch_on_device
    from dpslice._cuda_kernels import CudaKernels
    from dpslice.torch import functional

    x, y = torch.randn(2, 40, 3), torch.randn(2, 20, 3).requires_grad_()
    wanted = torch.autograd.grad(functional.density_ratio(x, y, 1.0, 0.1).square().sum(), y)

    def none_left(kernels: Any, q: Any) -> None:
        raise torch.cuda.OutOfMemoryError("no memory left")

    monkeypatch.setattr(CudaKernels, "room_for_factors", none_left)
    found = torch.autograd.grad(functional.density_ratio(x, y, 1.0, 0.1).square().sum(), y)
    torch.testing.assert_close(found, wanted)


def test_kept_factors_are_differentiated_once_only(torch_on_device: Any) -> None:
    torch = torch_on_device
    from dpslice.torch import functional

    x, y = torch.randn(1, 6, 2), torch.randn(1, 5, 2).requires_grad_()
    value = functional.density_ratio(x, y, 1.0, 0.1).square().sum()
    (grad,) = torch.autograd.grad(value, y, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiated once only"):
        torch.autograd.grad(grad.sum(), y)


def test_nothing_is_told_or_kept_while_a_graph_is_recorded(
    torch_on_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = torch_on_device
    from dpslice.torch import functional

    x = torch.randn(1, 5, 3)
    functional.gaussian_kernel_sum(x, x, 0.375)
    filled: list[int] = []
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda *a, **b: filled.append(1) or full(*a, **b))
    functional.gaussian_kernel_sum(x, x, 0.375)
    assert not filled
    torch.recorded_for_test.clear()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    functional.gaussian_kernel_sum(x, x, 0.375)
    assert filled
    assert not torch.recorded_for_test


def test_no_bandwidth_of_a_transformation_is_kept(torch_on_device: Any) -> None:
    torch = torch_on_device
    from dpslice.torch import functional

    x = torch.randn(1, 5, 3)
    grad = torch.func.grad(lambda y: functional.gaussian_kernel_sum(x, y, 0.875).sum())(x)
    leaf = x.clone().requires_grad_()
    functional.gaussian_kernel_sum(x, leaf, 0.875).sum().backward()
    torch.testing.assert_close(leaf.grad, grad)


def test_a_bandwidth_from_inference_mode_can_be_saved(torch_on_device: Any) -> None:
    torch = torch_on_device
    from dpslice.torch import functional

    x = torch.randn(1, 5, 3)
    with torch.inference_mode():
        functional.gaussian_kernel_sum(x, x, 0.625)
    leaf = x.clone().requires_grad_()
    functional.gaussian_kernel_sum(x, leaf, 0.625).sum().backward()
    assert leaf.grad is not None


def test_failures_are_reported_later(torch_on_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators do not wait for the device: a later call raises, once."""
    torch = torch_on_device
    from dpslice.torch import functional

    q = torch.arange(45.0, dtype=torch.float64).reshape(3, 15, 1) * 100
    bad = q.clone()
    bad[1:] = 0
    leaf = q.clone().requires_grad_()
    found = functional.density_ratio(bad, leaf, 1.0, 0.0)
    assert torch.isnan(found).all(dim=1).tolist() == [False, True, True]
    torch.autograd.grad(found.sum(), leaf)  # of the same matrices: it is NaN, too, and no more
    later = r"in an earlier call.* slice 1 plus ridge = 0\.0"
    with pytest.raises(ValueError, match=later):
        functional.density_ratio_divergence(q, q, 1.0, 0.1)
    functional.density_ratio_divergence(q, q, 1.0, 0.1)

    # A graph is recorded undisturbed, and whatever fails when it is replayed is reported likewise.
    functional.density_ratio_divergence(bad, q, 1.0, 0.0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    functional.density_ratio(bad, q, 1.0, 0.0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(ValueError, match=later):
        functional.density_ratio(q, q, 1.0, 0.1)
    functional.density_ratio(q, q, 1.0, 0.1)


def test_without_memory_for_reports(torch_on_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = torch_on_device
    from dpslice.torch import functional

    monkeypatch.setattr(_cuda_kernels, "_reports", {})
    _arrays._devices._cuda_kernels.cache_clear()
    monkeypatch.setenv("DPSLICE_EMULATOR_PINNED", "0")
    q = torch.randn(1, 5, 3)
    with pytest.raises(RuntimeError, match="allocate 16 bytes of pinned host memory: out of mem"):
        functional.density_ratio(q, q, 1.0, 0.1)
    monkeypatch.delenv("DPSLICE_EMULATOR_PINNED")
    functional.density_ratio(q, q, 1.0, 0.1)
    _arrays._devices._cuda_kernels.cache_clear()


# ----------------------------------------------------------------------------------- sanitizers


def link_driver(folder: Path, objects: list[Path], flags: tuple[str, ...]) -> Path:
    """Link kernels and what calls them."""
    program = folder / "run_all"
    command = ["g++", "-pthread", *flags, *map(str, objects), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def build_driver(folder: Path, flags: tuple[str, ...]) -> None:
    """Compile the kernels and what calls them, once for all parts: the objects stay there."""
    objects = emulated_cuda.compile_kernels(folder, flags)
    driver = emulated_cuda.compile_object(EMULATOR / "run_all.cpp", folder / "run_all.o", flags)
    link_driver(folder, [*objects, driver], flags)


def run_driver(program: Path, *kernel: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "TSAN_OPTIONS": "exitcode=66 halt_on_error=1",
        "ASAN_OPTIONS": "exitcode=66:detect_stack_use_after_return=0",  # fibers
        "UBSAN_OPTIONS": "halt_on_error=1",
        "DPSLICE_EMULATOR_SMS": "1",  # few parts, so that each has several tiles
    }
    environment.pop("LD_PRELOAD", None)
    return subprocess.run([str(program), *kernel], capture_output=True, text=True, env=environment)


def needs_sanitizer(name: str) -> Any:
    """Skip a test where programs with that sanitizer cannot be linked or do not start."""
    reason = f"g++ -fsanitize={name} does not work here"
    if not _HAVE_COMPILER:
        return pytest.mark.skip(reason=reason)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "empty"
        command = ["g++", f"-fsanitize={name}", "-x", "c++", "-", "-o", str(program)]
        linked = subprocess.run(command, input=b"int main() {}", capture_output=True)
        works = linked.returncode == 0 and subprocess.run([program], check=False).returncode == 0
    return pytest.mark.skipif(not works, reason=reason)


thread_sanitizer = needs_sanitizer("thread")
address_sanitizer = needs_sanitizer("address,undefined")

THREAD_SANITIZER = ("-O1", "-g1", "-DDPSLICE_EMULATOR_THREADS", "-fsanitize=thread")


# Without optimisation, which takes five times as long as it saves here.
ADDRESS_SANITIZER = ("-O0", "-g1", "-fsanitize=address,undefined")


@pytest.fixture(scope="session")
def watched(once: Any) -> Path:
    """The folder of a driver whose threads are watched, and of its objects."""
    return once("cuda_threads", lambda folder: build_driver(folder, THREAD_SANITIZER))


# What run_all.cpp has a part for; each by itself, so that they share the processors.
PARTS = (
    "kernel_sum",
    "logsumexp",
    "density_ratio",
    "sliced_wasserstein",
    "median_distance",
    "project",
)
every_part = pytest.mark.parametrize("part", PARTS)


def test_every_part_of_the_driver_is_run() -> None:
    parts = re.findall(r'asked\("(\w+)"\)', (EMULATOR / "run_all.cpp").read_text())
    assert sorted(parts) == sorted(PARTS)


@pytest.mark.slow
@thread_sanitizer
@every_part
def test_no_race(part: str, watched: Path) -> None:
    """Its threads, real ones, under ThreadSanitizer."""
    done = run_driver(watched / "run_all", part)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@thread_sanitizer
def test_a_missing_barrier_is_caught(watched: Path, tmp_path: Path) -> None:
    """Without one of its barriers, the kernel sum must not pass: the watch is awake."""
    copy = tmp_path / "cuda"
    shutil.copytree(ROOT / "cuda", copy)
    source = (copy / "differences.cuh").read_text()
    start = source.index("__device__ inline void load_sources(")
    barrier = "  __syncthreads();\n"
    last = source.rindex(barrier, start, source.index("}\n\n", start))
    (copy / "differences.cuh").write_text(source[:last] + source[last + len(barrier) :])
    broken = emulated_cuda.compile_object(
        copy / "kernel_sum.cu", tmp_path / "kernel_sum.cu.o", THREAD_SANITIZER, copy
    )
    objects = [broken if path.name == broken.name else path for path in watched.glob("*.o")]
    assert broken in objects
    done = run_driver(link_driver(tmp_path, objects, THREAD_SANITIZER), "kernel_sum")
    assert done.returncode == 66
    assert "data race" in done.stderr


@pytest.mark.slow
@address_sanitizer
@every_part
def test_no_stray_access(part: str, once: Any) -> None:
    """Under AddressSanitizer and UndefinedBehaviorSanitizer."""
    folder = once("cuda_bounds", lambda folder: build_driver(folder, ADDRESS_SANITIZER))
    done = run_driver(folder / "run_all", part)
    assert done.returncode == 0, done.stderr[-4000:]
