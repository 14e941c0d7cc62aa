"""median_distance and its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

import reference
from dpslice import _core, kernels

Array = NDArray[Any]

# 65 points make 2080 pairs: from there on a sample brackets the median. From 16 dimensions on, four
# rows of distances are made at a time.
SIZES = [(2, 1), (3, 2), (4, 2), (5, 1), (31, 3), (32, 2), (33, 5), (64, 1), (65, 2), (66, 17)]
SIZES += [(181, 2), (182, 15), (300, 16), (303, 17), (600, 1), (601, 3), (1200, 2)]


def points(b: int, k: int, m: int = 2, dtype: type = np.float64) -> Array:
    return np.random.default_rng([b, k]).normal(size=(m, b, k)).astype(dtype)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("b", "k"), SIZES)
def test_value_against_the_twin(b: int, k: int) -> None:
    x = points(b, k)
    np.testing.assert_allclose(_core.median_distance(x), reference.median_distance(x), rtol=1e-14)
    x = points(b, k, dtype=np.float32)
    found = _core.median_distance(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference.median_distance(x), rtol=1.2e-7)  # one rounding


def test_median_of_normal_points() -> None:
    """In one dimension |x - y| / sqrt(2) is half-normal: its median is 0.67449 sqrt(2)."""
    x = np.random.default_rng(3).normal(size=(1, 3000, 1))
    # The estimate's standard deviation is about 0.012 at this size; the seed is fixed.
    assert _core.median_distance(x)[0] == pytest.approx(0.6744897501960817 * math.sqrt(2), abs=0.04)


# ------------------------------------------------------------------------------------- ties


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("b", [4, 5, 200, 401])
@pytest.mark.parametrize("levels", [1, 2, 3, 7])
def test_many_equal_distances(levels: int, b: int, dtype: type) -> None:
    # Integers: whole bins hold one value, so counting goes down to the last digit.
    x = np.random.default_rng(levels).integers(0, levels, size=(3, b, 2)).astype(dtype)
    np.testing.assert_allclose(
        _core.median_distance(x), reference.median_distance(x), rtol=2 * np.finfo(dtype).eps
    )
    grad = _core.median_distance_vjp(x, np.ones(3, dtype))
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-6)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("b", [3, 50, 300])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("count", [1, 3])
def test_the_extension_survives_what_is_not_finite(b: int, bad: float, count: int) -> None:
    """It is checked before, but somebody may write to the points meanwhile."""
    x = points(b, 2)
    x[1, :count] = bad
    value = _core.median_distance(x)
    assert np.isnan(value[1])
    np.testing.assert_array_equal(value[0], _core.median_distance(x[:1])[0])
    grad = _core.median_distance_vjp(x, np.ones(2))
    assert np.isnan(grad[1]).all()
    assert np.isfinite(grad[0]).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("b", "k"), [(3, 2), (31, 20), (66, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_of_subnormal_numbers(b: int, k: int, dtype: type) -> None:
    """No factor brings them to 1: the scale must not overflow."""
    step = float(np.finfo(dtype).smallest_subnormal)
    whole = np.random.default_rng([b, k]).integers(-5, 6, (2, b, k)).astype(dtype)
    found = _core.median_distance(whole * dtype(step))
    np.testing.assert_allclose(found, reference.median_distance(whole) * step, atol=0.51 * step)
    grad = np.ones(2, dtype)
    np.testing.assert_allclose(
        _core.median_distance_vjp(whole * dtype(step), grad),
        _core.median_distance_vjp(whole, grad),
        rtol=1e-6,
    )


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("spread", [1e-6, 0.0])
def test_two_middle_distances_in_different_bins(spread: float) -> None:
    # Without spread, half of all distances are 0 and half are equal: too many lie in a sample's
    # bracket, and the median is found by digits.
    # Two tight clusters of n and n + s points: distances within and between are orders of magnitude
    # apart. Where s^2 = 2n + s, within, (n(n-1) + (n+s)(n+s-1)) / 2, equals between, n(n+s).
    s = 30
    n = (s * s - s) // 2
    assert (n * (n - 1) + (n + s) * (n + s - 1)) // 2 == n * (n + s)
    rng = np.random.default_rng(4)
    x = spread * rng.normal(size=(1, 2 * n + s, 2))
    x[0, n:] += 1e3
    np.testing.assert_allclose(_core.median_distance(x), reference.median_distance(x), rtol=1e-14)
    grad = _core.median_distance_vjp(x, np.ones(1))
    # Of a distance of 0, nothing.
    assert np.count_nonzero(grad.any(axis=2)) in ((3, 4) if spread else (2,))


# ------------------------------------------------------------------------------------ gradient


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("b", "k"), SIZES)
def test_gradient_goes_to_the_attaining_pairs(b: int, k: int, dtype: type) -> None:
    x = points(b, k, dtype=dtype)
    grad = np.array([2.0, -0.5], dtype)
    found = _core.median_distance_vjp(x, grad)
    assert found.dtype == dtype
    i, j = np.triu_indices(b, 1)
    for s in range(2):
        rows = x[s].astype(np.float64)
        lengths = pdist(rows)
        order = np.argsort(lengths)
        middle = order[(len(order) - 1) // 2 : len(order) // 2 + 1]
        expected = np.zeros((b, k))
        for pair in middle:
            pull = grad[s] / len(middle) * (rows[i[pair]] - rows[j[pair]]) / lengths[pair]
            expected[i[pair]] += pull
            expected[j[pair]] -= pull
        np.testing.assert_allclose(found[s], expected, rtol=1e-6 if dtype == np.float32 else 1e-13)


def test_gradient_against_finite_differences() -> None:
    x = points(12, 3)
    direction = np.random.default_rng(5).normal(size=x.shape)
    grad, step = np.array([0.3, 1.7]), 1e-7
    up, down = (_core.median_distance(x + sign * step * direction) for sign in (1, -1))
    found = np.sum(_core.median_distance_vjp(x, grad) * direction)
    assert found == pytest.approx(grad @ (up - down) / (2 * step), rel=1e-6)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("b", [2, 5, 200])
def test_coincident_points_have_no_distance_and_no_gradient(b: int, dtype: type) -> None:
    x = np.full((1, b, 2), 0.3, dtype)
    np.testing.assert_array_equal(_core.median_distance(x), 0)
    np.testing.assert_array_equal(_core.median_distance_vjp(x, np.ones(1, dtype)), 0)


# ---------------------------------------------------------------------------------------- laws


@given(
    b=st.integers(2, 40),
    k=st.integers(1, 6),
    exponent=st.integers(-150, 150),
    shift=st.sampled_from([-32.0, 0.5, 4096.0]),
)
def test_laws(b: int, k: int, exponent: int, shift: float) -> None:
    x = np.round(points(b, k) * 256) / 256  # on a grid, so that translating is exact
    value = _core.median_distance(x)
    np.testing.assert_array_equal(_core.median_distance(x + shift), value)
    np.testing.assert_array_equal(_core.median_distance(x * 2.0**exponent), value * 2.0**exponent)
    shuffled = np.random.default_rng(6).permutation(x, axis=1)
    np.testing.assert_array_equal(_core.median_distance(np.ascontiguousarray(shuffled)), value)
    grad = _core.median_distance_vjp(x, np.ones(2))
    # Euler's theorem: the median is homogeneous of degree 1.
    np.testing.assert_allclose((grad * x).sum(axis=(1, 2)), value, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("isa", "keep_threads")
def test_batch_equals_loop_with_any_number_of_threads() -> None:
    x, grad = points(190, 2, m=7), np.linspace(-1, 1, 7)
    results = []
    for threads in (1, 2, 5):
        _core.set_num_threads(threads)
        results.append((_core.median_distance(x), _core.median_distance_vjp(x, grad)))
    results.append(
        (
            np.concatenate([_core.median_distance(x[s : s + 1]) for s in range(7)]),
            np.concatenate(
                [_core.median_distance_vjp(x[s : s + 1], grad[s : s + 1]) for s in range(7)]
            ),
        )
    )
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("isa", "keep_threads")
@pytest.mark.parametrize("k", [2, 20])  # rows one by one, and four at a time
@pytest.mark.parametrize("order", ["random", "sorted", "two far clusters", "many ties"])
def test_threads_share_the_rows_of_one_slice(order: str, k: int) -> None:
    x = points(701, k, m=1)
    if order == "sorted":
        x = x[:, np.argsort(x[0, :, 0])]
    elif order == "two far clusters":  # pairs in the bracket stand in few of the strips
        x[:, :350] += 50
    elif order == "many ties":
        x = np.round(x)
    results = []
    for threads in (1, 2, 3, 7):
        _core.set_num_threads(threads)
        results.append((_core.median_distance(x), _core.median_distance_vjp(x, np.ones(1))))
    np.testing.assert_allclose(results[0][0], np.median(pdist(x[0])), rtol=1e-14)
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("isa", "keep_threads")
def test_gradient_goes_to_the_middle_of_many_ties_with_any_number_of_threads() -> None:
    """Ties too many for one way of finding them, or for its share of one thread."""
    x = np.zeros((1, 1000, 1))
    x[0, 50:525], x[0, 525:] = 1.0, -1.0
    i, j = np.triu_indices(1000, 1)
    order = np.argsort(np.abs(x[0, i, 0] - x[0, j, 0]), kind="stable")
    expected = np.zeros_like(x)
    for pair in order[(len(order) - 1) // 2 : len(order) // 2 + 1]:
        sign = np.sign(x[0, i[pair], 0] - x[0, j[pair], 0])
        expected[0, i[pair], 0] += sign / 2
        expected[0, j[pair], 0] -= sign / 2
    for threads in (1, 2, 16):
        _core.set_num_threads(threads)
        np.testing.assert_array_equal(_core.median_distance_vjp(x, np.ones(1)), expected)


# ---------------------------------------------------------------------------- arguments, errors


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[[1.0]]], TypeError, "x must be a NumPy, torch or CuPy array; got list"),
        (np.ones((3, 2)), ValueError, r"x must have shape \(m, b, k\); got \(3, 2\)"),
        (
            np.ones((3, 1, 2)),
            ValueError,
            r"x must have shape \(m, b, k\) with b >= 2; got \(3, 1, 2\)",
        ),
        (np.ones((3, 2, 0)), ValueError, "without an empty axis"),
        (np.ones((3, 2, 1), int), TypeError, "x must have dtype float32 or float64; got int64"),
        (np.full((1, 2, 1), np.inf), ValueError, r"x must hold finite numbers; got inf at index"),
    ],
)
def test_refusals(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernels.median_distance(x)


def test_extension_guards_its_bounds() -> None:
    x = points(5, 2)
    with pytest.raises(ValueError, match="x must have 3 axes"):
        _core.median_distance(x[0])
    with pytest.raises(ValueError, match="x must have at least two rows in each slice"):
        _core.median_distance(x[:, :1].copy())
    with pytest.raises(ValueError, match="grad does not have the shape"):
        _core.median_distance_vjp(x, np.ones(3))
    with pytest.raises(TypeError):
        _core.median_distance_vjp(x, np.ones(2, np.float32))
