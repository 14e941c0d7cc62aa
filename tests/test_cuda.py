"""The CUDA kernels on a real GPU: against the CPU, gradients, streams, graphs, bad input.

Skipped, with the reason, where there is no GPU, no torch with CUDA, or no CUDA build; there
test_cuda_emulator.py runs the same kernels. It needs NumPy, torch and pytest alone, so that
bench/gpu.sh can run it on a machine that has little else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from dpslice import _arrays, _cuda_kernels, kernels
from dpslice.torch import functional

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def assert_close(found: Any, truth: Any, dtype: str, *, times: float = 1.0) -> None:
    """Compare within the library's target for `dtype`, norm of error over norm of truth."""
    assert found.dtype == np.dtype(dtype)
    assert found.shape == truth.shape
    error = np.linalg.norm(found.astype(np.float64) - truth)
    assert error <= times * TOLERANCE[dtype] * np.linalg.norm(truth)


@dataclass(frozen=True)
class Case:
    """Arguments of a kernel sum and of its derivative."""

    x: Any  # [m, b, k]
    y: Any  # [m, c, k]
    bandwidth: Any  # [m]
    weights: Any  # [m, c]
    grad: Any  # [m, b]


def make_case(m: int, b: int, c: int, k: int, dtype: str) -> Case:
    """Points at distances of about a bandwidth."""
    rng = np.random.default_rng([m, b, c, k])
    parts = (
        rng.normal(size=(m, b, k)),
        0.6 * rng.normal(size=(m, c, k)),
        rng.uniform(0.8, 1.3, size=m) * np.sqrt(k),
        rng.normal(size=(m, c)),
        rng.normal(size=(m, b)),
    )
    return Case(*(part.astype(dtype) for part in parts))


def on_side_stream(step: Callable[[], Any]) -> None:
    """Take a step before it is recorded, as torch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)


def record(step: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Record a step; return the graph, and what the step gives at each replay."""
    on_side_stream(step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    return graph, found


def _reason_to_skip() -> str:
    try:
        module = importlib.import_module("dpslice._cuda")
    except ImportError:
        return "this build of dpslice has no CUDA kernels"
    if module.device_count() == 0:
        return "there is no CUDA device"
    if not torch.cuda.is_available():
        return "this torch cannot use CUDA"
    return ""


REASON = _reason_to_skip()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
SHAPES = pytest.mark.parametrize(
    "shape",
    [
        *((1, 1, 1, 1), (3, 130, 257, 2), (1, 2000, 3000, 2)),
        *((2, 65, 63, 9), (1, 500, 300, 94), (1, 3000, 2000, 127), (2, 300, 700, 300)),
    ],
)


def on_gpu(array: Any) -> Any:
    return None if array is None else torch.from_numpy(array).cuda()


def host(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().numpy()


@DTYPES
@SHAPES
@pytest.mark.parametrize("name", ["gaussian_kernel_sum", "gaussian_kernel_logsumexp"])
def test_kernel_sums(name: str, shape: tuple[int, int, int, int], dtype: str) -> None:
    case = make_case(*shape, dtype)
    wide = [torch.from_numpy(a.astype(np.float64)) for a in (case.x, case.y, case.weights)]
    own = [on_gpu(a) for a in (case.x, case.y, case.weights)]
    for tensor in (*wide, *own):
        tensor.requires_grad_()
    function = getattr(functional, name)
    truth = function(*wide[:2], torch.from_numpy(case.bandwidth.astype(np.float64)), wide[2])
    found = function(*own[:2], on_gpu(case.bandwidth), own[2])
    assert found.is_cuda
    assert_close(host(found), host(truth), dtype)
    truths = torch.autograd.grad(truth, wide, torch.from_numpy(case.grad.astype(np.float64)))
    grads = torch.autograd.grad(found, own, on_gpu(case.grad))
    for grad, expected in zip(grads, truths, strict=True):
        assert_close(host(grad), host(expected), dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(2, 1030, 40, 2), (2, 129, 257, 33)])
@pytest.mark.parametrize("name", ["gaussian_kernel_sum", "gaussian_kernel_logsumexp"])
def test_weighted_totals_of_rows(name: str, shape: tuple[int, int, int, int], dtype: str) -> None:
    """In one call with their gradients; log sums that are -inf belong to rows of weight zero."""
    case = make_case(*shape, dtype)
    rows = np.abs(case.grad)
    rows[:, ::3] = 0
    if name == "gaussian_kernel_logsumexp":
        case.weights[1], rows[1] = -np.inf, 0
    wide = [torch.from_numpy(a.astype(np.float64)) for a in (case.x, case.y, case.weights, rows)]
    own = [on_gpu(a) for a in (case.x, case.y, case.weights, rows)]
    for tensor in (*wide[1:], *own[1:]):
        tensor.requires_grad_()
    function = getattr(functional, name)
    bandwidth = torch.from_numpy(case.bandwidth.astype(np.float64))
    truth = function(*wide[:2], bandwidth, wide[2], row_weights=wide[3])
    found = function(*own[:2], on_gpu(case.bandwidth), own[2], row_weights=own[3])
    assert_close(host(found), host(truth), dtype)
    truths = torch.autograd.grad(truth.sum(), wide[1:])
    grads = torch.autograd.grad(found.sum(), own[1:])
    for grad, expected in zip(grads, truths, strict=True):
        assert_close(host(grad), host(expected), dtype)


def test_gradients_of_points_far_from_the_centre() -> None:
    """Near each other, and so far from the mean that products would round their exponents."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(2, 140, 784)).astype(np.float32)
    x = (y[:, rng.permutation(140)] + 0.05 * rng.normal(size=y.shape)).astype(np.float32)
    bandwidth, grad = np.array([0.75, 28], np.float32), rng.normal(size=(2, 140))
    wide = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (x, y)]
    own = [on_gpu(a).requires_grad_() for a in (x, y)]
    truth = functional.gaussian_kernel_sum(*wide, torch.from_numpy(bandwidth.astype(np.float64)))
    found = functional.gaussian_kernel_sum(*own, on_gpu(bandwidth))
    truths = torch.autograd.grad(truth, wide, torch.from_numpy(grad))
    grads = torch.autograd.grad(found, own, on_gpu(grad.astype(np.float32)))
    for one, expected in zip(grads, truths, strict=True):
        for s in range(2):
            assert_close(host(one)[s], host(expected)[s], "float32")


@DTYPES
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("m", "b", "k"),
    # Part of the factor is in global memory from 128 rows on. With 64 and 16, shared memory is just
    # below what a kernel gets unasked. Many slices of some rows share a multiprocessor.
    [*((3, b, 2) for b in (1, 33, 128, 256, 700)), (3, 64, 16), (600, 130, 2)],
)
def test_density_ratio(
    m: int, b: int, k: int, kept: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:  # as where the factors would take too much memory
        monkeypatch.setattr(_cuda_kernels, "_MOST_KEPT_BYTES", 0)
    rng = np.random.default_rng(b)
    q, p = rng.normal(size=(m, b, k)).astype(dtype), rng.normal(size=(m, 50, k)).astype(dtype)
    wide = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (q, p)]
    own = [on_gpu(a).requires_grad_() for a in (q, p)]
    truth = functional.density_ratio(*wide, k / 2, 0.05, 0.3)
    found = functional.density_ratio(*own, k / 2, 0.05, 0.3)
    times = 2.0 if dtype == "float32" else 200.0
    assert_close(host(found), host(truth), dtype, times=times)
    truths = torch.autograd.grad(truth.square().sum(), wide)
    grads = torch.autograd.grad(found.square().sum(), own)
    for grad, expected in zip(grads, truths, strict=True):
        assert_close(host(grad), host(expected), dtype, times=2 * times)


@DTYPES
def test_density_ratio_divergence(dtype: str) -> None:
    rng = np.random.default_rng(0)
    q, p = rng.normal(size=(5, 100, 2)).astype(dtype), rng.normal(size=(5, 50, 2)).astype(dtype)
    wide = torch.from_numpy(p.astype(np.float64)).requires_grad_()
    own = on_gpu(p).requires_grad_()
    truth = functional.density_ratio_divergence(
        torch.from_numpy(q.astype(np.float64)), wide, 1.0, 0.05
    )
    found = functional.density_ratio_divergence(on_gpu(q), own, 1.0, 0.05)
    assert_close(host(found), host(truth), dtype, times=200)
    (expected,) = torch.autograd.grad(truth.sum(), wide)
    (grad,) = torch.autograd.grad(found.sum(), own)
    assert_close(host(grad), host(expected), dtype, times=200)


# Blocks sort 128, 512, 1024 or 2048 values, and 4096 of float32; more are sorted in global memory.
@DTYPES
@pytest.mark.parametrize("order", [1.0, 2.0, 2.5])
@pytest.mark.parametrize(
    "sizes",
    [
        *((4, 1, 1), (4, 500, 500), (4, 5000, 3000), (3, 128, 129), (3, 7, 512), (3, 513, 500)),
        *((3, 1024, 1024), (3, 1025, 2048), (2, 2049, 2049), (2, 4096, 4096), (2, 4096, 100)),
        *((300, 4097, 4097), (30, 50_000, 50_000), (3, 20, 50_000), (1, 300_000, 300_000)),
        (1, 2, 300_000),
    ],
)
def test_sliced_wasserstein(sizes: tuple[int, int, int], order: float, dtype: str) -> None:
    m, b, c = sizes
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(m, size)).astype(dtype) for size in (b, c))
    x[:, ::3] = np.round(x[:, ::3])  # ties, and zeros of both signs
    wide = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (x, y)]
    own = [on_gpu(a).requires_grad_() for a in (x, y)]
    truth = functional.sliced_wasserstein(*wide, order)
    found = functional.sliced_wasserstein(*own, order)
    assert_close(host(found), host(truth), dtype)
    assert torch.equal(kernels.sliced_wasserstein(*(a.detach() for a in own), order), found)
    truths = torch.autograd.grad(truth.sum(), wide)
    grads = torch.autograd.grad(found.sum(), own)
    for grad, expected in zip(grads, truths, strict=True):
        assert_close(host(grad), host(expected), dtype)


@DTYPES
@pytest.mark.parametrize(
    "shape",
    [
        *((3, size) for size in (1, 2, 31, 128, 129, 512, 513, 1000, 1024, 1025, 2048, 2049)),
        *((3, 4096), (3, 4097), (200, 5000), (700, 50_000), (1, 300_000)),
    ],
)
def test_equal_values_keep_their_order(shape: tuple[int, int], dtype: str) -> None:
    """The gradient against the numbers 0, 1, ... tells each value's rank."""
    size = shape[1]
    generator = torch.Generator("cuda").manual_seed(size)
    x = torch.randint(-3, 4, shape, device="cuda", generator=generator).to(getattr(torch, dtype))
    x[x == 3] = -0.0
    x[0] = torch.randn(size, device="cuda", generator=generator)
    steps = torch.arange(size, device="cuda", dtype=x.dtype)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(
        functional.sliced_wasserstein(leaf, steps.expand(shape).contiguous()).sum(), leaf
    )
    by_x = x.sort(dim=1, stable=True).indices
    rank = torch.empty_like(by_x).scatter_(1, by_x, torch.arange(size, device="cuda").expand(shape))
    found = (x.double() - grad.double() * (size / 2)).round()
    assert torch.equal(found.long(), rank)


@DTYPES
@pytest.mark.parametrize("size", [100, 1000, 5000])
def test_infinities_and_nan_leave_the_other_slices_alone(size: int, dtype: str) -> None:
    rng = np.random.default_rng(size)
    x, y = (on_gpu(rng.normal(size=(3, size)).astype(dtype)) for _ in range(2))
    expected = kernels.sliced_wasserstein(x, y)
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        x[1, 20::2] = bad
        found = kernels.sliced_wasserstein(x, y)
        assert not bool(found[1].isfinite())
        assert torch.equal(found[::2], expected[::2])


@DTYPES
@pytest.mark.parametrize("shape", [(20, 1000), (20, 5000), (1, 100_000)])
def test_sliced_wasserstein_inside_a_graph(shape: tuple[int, int], dtype: str) -> None:
    """No sort waits for the device."""
    rng = np.random.default_rng(0)
    x, y = (on_gpu(rng.normal(size=shape).astype(dtype)) for _ in range(2))

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = y.detach().requires_grad_()
        value = functional.sliced_wasserstein(x, leaf)
        return value, torch.autograd.grad(value.sum(), leaf)[0]

    graph, found = record(step)
    for _ in range(2):
        y.copy_(y.flip(1) * 1.25)
        graph.replay()
        for one, other in zip(found, step(), strict=True):
            assert torch.equal(one, other)


@DTYPES
@pytest.mark.parametrize("b", [2, 3, 64, 1001])
def test_median_distance(b: int, dtype: str) -> None:
    x = np.random.default_rng(b).normal(size=(3, b, 2)).astype(dtype)
    wide = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    own = on_gpu(x).requires_grad_()
    truth, found = functional.median_distance(wide), functional.median_distance(own)
    assert_close(host(found), host(truth), dtype)
    (expected,) = torch.autograd.grad(truth.sum(), wide)
    (grad,) = torch.autograd.grad(found.sum(), own)
    assert_close(host(grad), host(expected), dtype)


def median_by_pdist(x: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Give the median of all distances of one slice and its gradient, on the GPU, in float64."""
    wide = x.double()
    distances = torch.pdist(wide)
    ordered = distances.sort().values
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    value, grad = 0.0, torch.zeros_like(wide)
    for middle in (ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]):
        value += 0.5 * float(middle)
        pair = int((distances == middle).nonzero()[0])
        pull = 0.5 * (wide[i[pair]] - wide[j[pair]]) / middle
        grad[i[pair]] += pull
        grad[j[pair]] -= pull
    return value, grad


@DTYPES
@pytest.mark.parametrize("shape", [(1, 4096, 94), (100, 1024, 2), (2, 4096, 1), (1, 3001, 784)])
def test_median_of_many_distances(shape: tuple[int, int, int], dtype: str) -> None:
    x = on_gpu(np.random.default_rng(shape).normal(size=shape).astype(dtype)).requires_grad_()
    found = functional.median_distance(x)
    (grads,) = torch.autograd.grad(found.sum(), x)
    for points, value, grad in zip(x.detach(), found, grads, strict=True):
        truth, expected = median_by_pdist(points)
        assert abs(float(value.detach()) - truth) <= TOLERANCE[dtype] * truth
        assert_close(host(grad), host(expected), dtype)


@DTYPES
@pytest.mark.parametrize("k", [2, 9])
def test_median_of_equal_distances(k: int, dtype: str) -> None:
    """A lattice, whose sums are exact: the gradient goes to the first of many equal pairs."""
    x = on_gpu(np.random.default_rng(k).normal(size=(3, 1500, k)).round().astype(dtype))
    x[1] = 7.0
    x.requires_grad_()
    found = functional.median_distance(x)
    (grads,) = torch.autograd.grad(found.sum(), x)
    for s in (0, 2):
        truth, expected = median_by_pdist(x[s].detach())
        assert abs(float(found[s].detach()) - truth) <= TOLERANCE[dtype] * truth
        assert_close(host(grads[s]), host(expected), dtype)
    assert float(found[1].detach()) == 0
    assert not grads[1].any()


def test_medians_of_more_slices_than_are_worked_on_together() -> None:
    x = torch.randn(2000, 1000, 2, device="cuda")  # 256 MiB hold the entries of 1859 of them
    together = kernels.median_distance(x)
    apart = torch.cat([kernels.median_distance(part) for part in x.split(500)])
    assert torch.equal(together, apart)


@pytest.mark.parametrize("shape", [(1, 2000, 94), (20, 300, 2)])
def test_median_inside_a_graph(shape: tuple[int, int, int]) -> None:
    """What the passes do is decided on the device, for the points of the replay."""
    x = torch.randn(shape, device="cuda")

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.detach().requires_grad_()
        value = functional.median_distance(leaf)
        return value, torch.autograd.grad(value.sum(), leaf)[0]

    graph, found = record(step)
    for points in (3 * torch.randn_like(x), x.round(), torch.zeros_like(x)):
        x.copy_(points)
        graph.replay()
        for one, other in zip(found, step(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@DTYPES
def test_project(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, frame = rng.normal(size=(300, 40)).astype(dtype), rng.normal(size=(40, 70)).astype(dtype)
    found = kernels.project(on_gpu(x), on_gpu(frame), 0.5, "fast", (1, 2))
    assert_close(host(found), kernels.project(x, frame, 0.5, "fast", (1, 2)).astype(float), dtype)
    plain = kernels.project(on_gpu(x), on_gpu(frame), 0.0, "fast")
    secure = kernels.project(on_gpu(x), on_gpu(frame), 0.5)
    steps = host(secure).astype(np.float64) / (0.5 / 1024)
    np.testing.assert_array_equal(steps, np.round(steps))
    noise = host(secure - plain).astype(np.float64)
    assert abs(noise.std() / 0.5 - 1) < 0.02


def test_work_joins_the_current_stream() -> None:
    x = torch.randn(1, 20_000, 2, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = kernels.gaussian_kernel_sum(x + 1, x, 1.0)  # the temporary is freed at once
        again = torch.zeros(1, 20_000, 2, device="cuda")
    torch.cuda.current_stream().wait_stream(stream)
    truth = host(kernels.gaussian_kernel_sum(x + 1, x, 1.0)).astype(np.float64)
    assert_close(host(found), truth, "float32")
    assert not again.any()


@pytest.mark.parametrize("k", [5, 94])
def test_inside_a_graph(k: int) -> None:
    x, y = torch.randn(1, 500, k, device="cuda"), torch.randn(1, 400, k, device="cuda")
    g = torch.full((1,), k**0.5, device="cuda")

    def step() -> torch.Tensor:
        leaf = y.detach().requires_grad_()
        loss = -functional.gaussian_kernel_logsumexp(x, leaf, g).mean()
        (grad,) = torch.autograd.grad(loss, leaf)
        ratio = functional.density_ratio(x[:, :100].contiguous(), y, g, 0.1)
        return grad + ratio.mean()

    graph, found = record(step)
    y.add_(0.5)
    graph.replay()
    assert_close(host(found), host(step()).astype(np.float64), "float32")


def test_under_compile() -> None:
    x, y = torch.randn(1, 50, 3, device="cuda"), torch.randn(1, 40, 3, device="cuda")
    compiled = torch.compile(lambda a, b: functional.gaussian_kernel_sum(a, b, 1.0).sum())
    torch.testing.assert_close(compiled(x, y), functional.gaussian_kernel_sum(x, y, 1.0).sum())


def test_under_autocast() -> None:
    x = torch.randn(1, 50, 3, device="cuda")
    with torch.autocast("cuda"):
        found = functional.gaussian_kernel_sum(x.half(), x.half(), 1.0)
    assert found.dtype == torch.float32


def test_mixed_devices_are_refused() -> None:
    x = torch.randn(1, 5, 3)
    with pytest.raises(ValueError, match="y must be on cpu like the others; got cuda:0"):
        kernels.gaussian_kernel_sum(x, x.cuda(), 1.0)


def test_a_failed_slice_is_named() -> None:
    q = torch.randn(4, 15, 1, device="cuda", dtype=torch.float64) * 1e4
    q[2] = 0
    with pytest.raises(ValueError, match="slice 2 plus ridge"):
        kernels.density_ratio(q, q, 1.0, 0.0)


def test_a_failed_slice_of_an_operator_is_reported_later() -> None:
    q = torch.arange(30.0, device="cuda", dtype=torch.float64).reshape(2, 15, 1) * 100
    bad = q.clone()
    bad[1] = 0
    found = functional.density_ratio(bad, q, 1.0, 0.0)
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="in an earlier call"):
        functional.density_ratio(q, q, 1.0, 0.0)
    assert host(found.isnan().all(dim=1)).tolist() == [False, True]
    functional.density_ratio(q, q, 1.0, 0.0)


LATER = "in an earlier call, whose result holds NaN, the kernel matrix of "


def test_the_least_of_many_failed_slices_is_reported_with_its_ridge() -> None:
    q = torch.arange(15.0, device="cuda", dtype=torch.float64).reshape(1, 15, 1) * 100
    bad = q.repeat(5000, 1, 1)
    bad[7:] = 0
    for ridge in (1e-20, 1e-30):
        functional.density_ratio_divergence(bad, bad, 1.0, ridge)
        torch.cuda.synchronize()
        with pytest.raises(ValueError, match=f"{LATER}slice 7 plus ridge = {ridge}"):
            functional.density_ratio_divergence(q, q, 1.0, 0.0)
        functional.density_ratio_divergence(q, q, 1.0, 0.0)


def test_backward_reports_no_failure_of_its_own() -> None:
    q = torch.zeros(2, 15, 1, device="cuda", dtype=torch.float64, requires_grad=True)
    found = functional.density_ratio(q, q, 1.0, 0.0)
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match=LATER):
        functional.density_ratio(q, q, 1.0, 0.1)
    (grad,) = torch.autograd.grad(found.sum(), q)
    torch.cuda.synchronize()
    functional.density_ratio(q, q, 1.0, 0.1)
    assert bool(grad.isnan().all())


def test_a_replay_reports_what_fails() -> None:
    q = torch.arange(30.0, device="cuda", dtype=torch.float64).reshape(2, 15, 1) * 100
    x, g = q.clone(), torch.ones(2, device="cuda", dtype=torch.float64)
    on_side_stream(lambda: functional.density_ratio(x, q, g, 0.0))
    _cuda_kernels._reports.clear()  # so that its memory is made while the graph is recorded
    _arrays._devices._cuda_kernels.cache_clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = functional.density_ratio(x, q, g, 0.0)
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize()
        functional.density_ratio(q, q, g, 0.0)
        x[1] = 0
        graph.replay()
        torch.cuda.synchronize()
        with pytest.raises(ValueError, match=LATER + "slice 1 plus ridge = 0.0"):
            functional.density_ratio(q, q, g, 0.0)
        assert host(found.isnan().all(dim=1)).tolist() == [False, True]
        x.copy_(q)


def test_a_number_as_bandwidth_on_several_streams_and_in_a_graph() -> None:
    x = torch.randn(3, 50, 2, device="cuda", dtype=torch.float64)
    truth = kernels.gaussian_kernel_sum(x.cpu(), x.cpu(), 0.8125).numpy()
    for _ in range(3):
        for stream in [torch.cuda.Stream() for _ in range(3)]:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                found = functional.gaussian_kernel_sum(x, x, 0.8125)
            torch.cuda.current_stream().wait_stream(stream)
            assert_close(host(found), truth, "float64")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = functional.gaussian_kernel_sum(x, x, 0.8125)
    for number in range(1, 40):  # others take the place of what is kept
        functional.gaussian_kernel_sum(x, x, float(number))
    graph.replay()
    assert_close(host(found), truth, "float64")


def test_a_tensor_of_another_stream_is_not_given_away_too_soon() -> None:
    """What a call reads, and its results, when all is freed at once."""
    stream = torch.cuda.Stream()
    x = torch.randn(1, 20_000, 2, device="cuda")
    truth = host(functional.gaussian_kernel_sum(x + 1, x, 1.0)).astype(np.float64)
    for _ in range(5):
        moved = x + 1
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = functional.gaussian_kernel_sum(moved, x, 1.0)
        del moved
        torch.zeros_like(x)  # would get its memory
        torch.cuda.current_stream().wait_stream(stream)
        assert_close(host(found), truth, "float32")


def test_products_as_exact_as_torch_is_told() -> None:
    x = torch.randn(1, 300, 64, device="cuda")
    exact = functional.gaussian_kernel_logsumexp(x, x + 0.1, 8.0)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        rough = functional.gaussian_kernel_logsumexp(x, x + 0.1, 8.0)
    finally:
        torch.set_float32_matmul_precision(before)
    assert 0 < float((rough - exact).abs().max()) < 1e-2


def test_out_of_memory_is_an_error_and_no_more() -> None:
    """The sorted keys of rows that only just fit do not."""
    free, _ = torch.cuda.mem_get_info()
    x = torch.zeros(1, max(free // 16, 1), device="cuda")
    if x.shape[1] >= 2**31:
        x = x[:, : 2**31 - 1].reshape(1, -1)
    torch.cuda.empty_cache()
    filler = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.98), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            kernels.sliced_wasserstein(x, x)
    finally:
        del filler
    torch.cuda.empty_cache()
    assert host(kernels.sliced_wasserstein(x[:, :9].contiguous(), x[:, :9].contiguous())) == 0


def test_cupy_arrays() -> None:
    cupy = pytest.importorskip("cupy")
    x = np.random.default_rng(0).normal(size=(2, 50, 3))
    found = kernels.gaussian_kernel_sum(cupy.asarray(x)[:, ::2], cupy.asarray(x), 1.0)
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_allclose(found.get(), kernels.gaussian_kernel_sum(x[:, ::2], x, 1.0))
