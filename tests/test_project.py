"""The projection kernels: products, clipping, grid, and independence of tiles and threads."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dpslice import _core, kernels
from peak_memory import PEAK, reads_proc

Array = NDArray[np.float64]
KEY = bytes(range(7, 39))

# Around every tile: groups of 4 rows, tiles of 32 x 128, depth 256, panels of up to 64 columns.
SIZES = [1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257]


def secure(
    x: NDArray[np.floating],
    frame: Array,
    sigma: float,
    *,
    max_norm: float = np.inf,
    dtype: str = "float64",
    key: bytes = KEY,
    first_row: int = 0,
) -> NDArray[np.floating]:
    out: NDArray[np.floating] = _core.project_secure(
        x, frame, sigma, key, first_row, max_norm, dtype
    )
    return out


def noise_only(n: int, p: int, sigma: float, *, first_row: int = 0) -> Array:
    """The grid-rounded noise that `secure` would add to a product of zeros."""
    return np.asarray(secure(np.zeros((n, 1)), np.zeros((1, p)), sigma, first_row=first_row))


def clipped(x: NDArray[np.floating], max_norm: float) -> Array:
    """Clip rows in a way that survives squares out of range."""
    x = np.asarray(x, dtype=np.float64)
    largest = np.abs(x).max(axis=1, keepdims=True)
    safe = np.where(largest > 0, largest, 1.0)
    scaled = x / safe
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    short = norm * safe <= max_norm
    with np.errstate(invalid="ignore"):
        return np.where(short, x, scaled / np.where(norm > 0, norm, 1.0) * max_norm)


def draw(n: int, d: int, p: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(d, p)) / np.sqrt(d)


# ----------------------------------------------------------------------------------------- product


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("axis", ["n", "d", "p"])
def test_without_noise_it_is_a_matrix_product(isa: str, axis: str, size: int) -> None:
    x, frame = draw(**({"n": 37, "d": 19, "p": 41} | {axis: size}))
    exact = x @ frame
    scale = np.abs(x) @ np.abs(frame)  # what a dot product's rounding is relative to
    out = _core.project_fast(x, frame, 0.0, (0, 0), 0)
    assert out.dtype == np.float64
    assert np.max(np.abs(out - exact) / scale) < 1e-15 * (1 + np.log2(x.shape[1]))
    x32, frame32 = x.astype(np.float32), frame.astype(np.float32)
    out32 = _core.project_fast(x32, frame32, 0.0, (0, 0), 0)
    exact32 = x32.astype(np.float64) @ frame32.astype(np.float64)
    assert out32.dtype == np.float32
    assert np.max(np.abs(out32 - exact32) / scale) < 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 140), st.integers(0, 2**31))
def test_secure_is_product_plus_its_noise_on_the_grid(n: int, d: int, p: int, seed: int) -> None:
    x, frame = draw(n, d, p, seed)
    sigma = 1.5
    h = 2.0**-10
    noise = noise_only(n, p, sigma, first_row=5)
    out = secure(x, frame, sigma, first_row=5)
    # The noise was rounded to the grid by itself here, so the two may differ by one cell.
    assert np.max(np.abs(out - x @ frame - noise)) <= h * (1 + 1e-9)


def test_nearly_noiseless_secure_projection_is_the_product(isa: str) -> None:
    x, frame = draw(70, 300, 150)
    out = secure(x, frame, 2.0**-40)
    assert np.max(np.abs(out - x @ frame)) < 8 * 2.0**-40


def test_float32_rows_give_what_their_values_give_in_float64(isa: str) -> None:
    x, frame = draw(50, 33, 20)
    narrow = (10 * x).astype(np.float32)
    for max_norm in (np.inf, 1.0):
        np.testing.assert_array_equal(
            secure(narrow, frame, 0.25, max_norm=max_norm),
            secure(narrow.astype(np.float64), frame, 0.25, max_norm=max_norm),
        )


# -------------------------------------------------------------------------- any tiling, any threads


def test_results_do_not_depend_on_threads(isa: str) -> None:
    x, frame = draw(200, 65, 130)
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            results.append(
                (secure(x, frame, 1.0, max_norm=3.0), _core.project_fast(x, frame, 1.0, (3, 4), 0))
            )
    finally:
        _core.set_num_threads(before)
    for one, two in results[1:]:
        np.testing.assert_array_equal(one, results[0][0])
        np.testing.assert_array_equal(two, results[0][1])


@pytest.mark.parametrize("cuts", [[1], [31, 33], [64, 65, 199], list(range(1, 200, 7))])
def test_results_do_not_depend_on_row_blocks(isa: str, cuts: list[int]) -> None:
    x, frame = draw(200, 20, 37)
    whole = secure(x, frame, 1.0, max_norm=3.0)
    whole_fast = _core.project_fast(x, frame, 1.0, (3, 4), 0)
    edges = [0, *cuts, 200]
    for start, stop in itertools.pairwise(edges):
        part = secure(x[start:stop], frame, 1.0, max_norm=3.0, first_row=start)
        np.testing.assert_array_equal(part, whole[start:stop])
        fast = _core.project_fast(x[start:stop], frame, 1.0, (3, 4), start)
        np.testing.assert_array_equal(fast, whole_fast[start:stop])


def test_a_column_does_not_depend_on_the_others(isa: str) -> None:
    x, frame = draw(40, 20, 150)
    whole = secure(x, frame, 1.0)
    for p in (1, 2, 30, 128, 129):
        np.testing.assert_array_equal(secure(x, frame[:, :p].copy(), 1.0), whole[:, :p])


def test_instruction_sets_agree_to_rounding() -> None:
    # Rounding may move a number that lies between two points of the grid to the other one.
    x, frame = draw(300, 94, 94)
    before = _core.isa()
    results = []
    try:
        for name in _core.available_isas():
            _core.set_isa(name)
            results.append(secure(x, frame, 1.0))
    finally:
        _core.set_isa(before)
    for other in results[1:]:
        assert np.max(np.abs(other - results[0])) <= 2.0**-10
        assert np.mean(other != results[0]) < 1e-6


def test_released_bits_are_those_of_every_instruction_set(isa: str) -> None:
    """Of those of other machines too: with a fixed key, x86-64 and ARM release the same bits.

    Sums and normals may differ in their last bits, so that some key in 10^9 gives others.
    """
    n, d, p = 70, 300, 200
    x = (np.arange(n * d).reshape(n, d) * 37 % 257 - 128.0) / 128
    frame = (np.arange(d * p).reshape(d, p) * 53 % 263 - 131.0) / 2048
    digest = hashlib.sha256()
    for rows in (x, x.astype(np.float32)):
        digest.update(secure(rows, frame, 0.7, max_norm=1.0, first_row=2**33).astype("<f8"))
    assert digest.hexdigest() == (
        "0b8f636739ade2ab470d2dc2e7c6a928ef1892763199dbff03349ba963b30e6d"
    )


# -------------------------------------------------------------------------------------------- grid


@pytest.mark.parametrize("sigma", [1.0, 1.999, 2.0, 0.75, 3e-7, 4.2e9, 1e-140, 1e140])
def test_released_numbers_lie_on_the_stated_grid(isa: str, sigma: float) -> None:
    x, frame = draw(50, 7, 11)
    h = 2.0 ** (np.floor(np.log2(sigma)) - 10)
    out = secure(sigma * x, frame, sigma)
    steps = out / h
    np.testing.assert_array_equal(steps, np.rint(steps))
    # Fine enough: neighbours on the grid are really used, odd multiples as well as even ones.
    assert 0.3 < np.mean(steps % 2 == 1) < 0.7


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_released_zeros_have_no_sign(isa: str, dtype: str) -> None:
    # What rounds to -0.0 came from the lower half of its cell: a finer grid than is accounted for.
    out = secure(np.zeros((20_000, 3)), np.eye(3, 20), 1.0, dtype=dtype)
    zeros = out[out == 0.0]
    assert zeros.size > 50
    assert not np.signbit(zeros).any()


def test_rounding_to_the_grid_is_to_nearest(isa: str) -> None:
    # With one normal z per number, out = h rint((x + sigma z) / h): z does not depend on sigma, so
    # a finer grid (sigma = 1) shows where a coarser one (sigma = 4, h = 2^-8) had to round to.
    fine = noise_only(100, 20, 1.0)
    coarse = noise_only(100, 20, 4.0)
    assert np.max(np.abs(coarse - 4.0 * fine)) <= 2.0**-9 + 4.0 * 2.0**-11
    assert np.mean(np.abs(coarse - np.rint(4.0 * fine * 256) / 256) > 0) < 0.3


@pytest.mark.parametrize("sigma", [1.0, 1.7, 3e-5])
def test_float32_holds_released_numbers_exactly_below_the_stated_ratio(sigma: float) -> None:
    max_norm = 7999.0 * sigma
    x = np.random.default_rng(1).normal(size=(2000, 3))
    x *= max_norm / np.linalg.norm(x, axis=1, keepdims=True)
    frame = np.eye(3)
    narrow = secure(x, frame, sigma, max_norm=max_norm, dtype="float32")
    assert narrow.dtype == np.float32
    wide = secure(x, frame, sigma, max_norm=max_norm)
    np.testing.assert_array_equal(narrow.astype(np.float64), wide)


# ---------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_long_rows_are_scaled_to_the_bound_and_short_ones_kept(
    isa: str, dtype: type, scale: float
) -> None:
    x = (scale * np.random.default_rng(2).normal(size=(60, 5))).astype(dtype)
    x[3] = 0.0
    sigma = 2.0**-40
    out = secure(x, np.eye(5), sigma, max_norm=2.0)
    assert np.max(np.abs(out - clipped(x, 2.0))) < 9 * sigma
    assert np.linalg.norm(out, axis=1).max() < 2.0 * (1 + 1e-9) + 20 * sigma


def test_rows_whose_squares_leave_the_range_are_clipped_too(isa: str) -> None:
    x = np.array([[1e300, -1e300], [1e-300, 2e-300], [1.7e308, 1.7e308], [5e-324, 0.0], [0.0, 0.0]])
    sigma = 2.0**-40
    out = secure(x, np.eye(2), sigma, max_norm=1.0)
    half = np.sqrt(0.5)
    expected = [[half, -half], [0, 0], [half, half], [0, 0], [0, 0]]
    assert np.max(np.abs(out - expected)) < 8 * sigma
    tiny = secure(1e-300 * np.array([[3.0, 4.0]]), np.eye(2), 1e-260, max_norm=1e-300)
    assert np.max(np.abs(tiny)) < 1e-258  # runs, and nothing overflows


def test_a_row_is_clipped_by_its_own_norm_alone() -> None:
    x, frame = draw(10, 4, 4)
    before = secure(x, frame, 1.0, max_norm=1.0)
    x[5] *= 1e6
    after = secure(x, frame, 1.0, max_norm=1.0)
    np.testing.assert_array_equal(np.delete(before, 5, axis=0), np.delete(after, 5, axis=0))


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_not_finite_are_refused_here_too(isa: str, bad: float, dtype: type) -> None:
    x = np.zeros((700, 9), dtype)
    x[613, 4] = bad
    x[650, 1] = bad
    with pytest.raises(ValueError, match="finite numbers; row 1613 does not"):
        secure(x, np.ones((9, 3)), 1.0, first_row=1000)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf, 1e-300])
def test_secure_noise_must_be_there(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma of secure noise must be between"):
        secure(np.zeros((2, 2)), np.eye(2), sigma)


@pytest.mark.parametrize("noise", ["secure", "fast"])
def test_noise_beyond_the_dtype_is_refused(noise: str) -> None:
    x, frame = np.zeros((3, 2), np.float32), np.eye(2, dtype=np.float32)
    with pytest.raises(ValueError, match=r"sigma must be at most 3.4e\+35 with float32 rows; got"):
        kernels.project(x, frame, 1e36, noise)
    assert np.isfinite(kernels.project(x, frame, 3e35, noise)).all()
    with pytest.raises(ValueError, match=r"sigma must be at most 1.8e\+305 with float64 rows"):
        kernels.project(x.astype(float), frame.astype(float), 1e306, noise)


def test_other_bad_arguments_are_refused() -> None:
    x, frame = draw(4, 3, 2)
    with pytest.raises(ValueError, match="key must be 32 bytes"):
        secure(x, frame, 1.0, key=bytes(31))
    with pytest.raises(ValueError, match="max_norm must be > 0"):
        secure(x, frame, 1.0, max_norm=0.0)
    with pytest.raises(ValueError, match="max_norm must be > 0"):
        secure(x, frame, 1.0, max_norm=np.nan)
    with pytest.raises(ValueError, match="first_row is too large"):
        secure(x, frame, 1.0, first_row=2**64 - 2)
    with pytest.raises(ValueError, match="dtype must be float32 or float64"):
        secure(x, frame, 1.0, dtype="float16")
    with pytest.raises(ValueError, match="frame must have one row for each column of x"):
        secure(x, frame[:2].copy(), 1.0)
    with pytest.raises(ValueError, match="x must have 2 axes"):
        secure(x[0].copy(), frame, 1.0)
    with pytest.raises(ValueError, match="x must have at least one column"):
        secure(x[:, :0].copy(), frame[:0].copy(), 1.0)
    with pytest.raises(TypeError):
        secure(x.astype(np.int64), frame, 1.0)
    with pytest.raises(TypeError):  # never converted behind the caller's back
        secure(x.T.copy().T, frame, 1.0)


def test_no_rows_give_no_rows() -> None:
    assert secure(np.zeros((0, 3)), np.ones((3, 2)), 1.0).shape == (0, 2)
    assert _core.project_fast(np.zeros((0, 3)), np.ones((3, 2)), 1.0, (0, 0), 0).shape == (0, 2)


# ------------------------------------------------------------------------------------------ memory

BESIDE_THE_OUTPUT = """
import numpy as np
from dpslice import _core

x = np.zeros((1000, 2), np.float32)
frame = np.ones((2, 64))
_core.project_secure(x, frame, 1.0, bytes(32), 0, 1.0, "float32")
x = np.zeros((400_000, 2), np.float32)
before = peak()
out = _core.project_secure(x, frame, 1.0, bytes(32), 0, 1.0, "float32")
print(peak() - before - out.nbytes)
"""


@reads_proc
@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="shadow memory counts")
def test_no_noise_matrix_is_held_beside_the_output() -> None:
    # Output 102 MB; a float64 noise matrix would be 205 MB more. What is held is one number per
    # row and a tile per thread.
    run = subprocess.run(
        [sys.executable, "-c", PEAK + BESIDE_THE_OUTPUT], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 16e6
