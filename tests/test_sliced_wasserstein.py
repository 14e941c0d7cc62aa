"""sliced_wasserstein and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

import reference
from dpslice import _core, kernels

Array = NDArray[Any]

ORDERS = [1.0, 1.5, 2.0, 3.25]
# Sizes straddle the change of digit width at 4096 and the runs of 256 terms.
SIZES = [(1, 1), (1, 7), (6, 4), (64, 64), (255, 256), (257, 257), (300, 4095), (4096, 4096)]
SIZES += [(4097, 1000)]


def problem(b: int, c: int, m: int = 2, dtype: type = np.float64) -> tuple[Array, Array]:
    rng = np.random.default_rng([b, c])
    return rng.normal(size=(m, b)).astype(dtype), rng.normal(0.5, 2, size=(m, c)).astype(dtype)


def vjp(
    x: Array, y: Array, order: float, grad: Array, need_x: bool, need_y: bool
) -> tuple[Array | None, Array | None]:
    """Gradients in x and y for a gradient in the values."""
    value, *grads = _core.sliced_wasserstein_gradient(x, y, order, need_x, need_y)
    np.testing.assert_array_equal(value, _core.sliced_wasserstein(x, y, order))
    grad_x, grad_y = (None if part is None else grad[:, None] * part for part in grads)
    return grad_x, grad_y


def gradients_twin(x: Array, y: Array, order: float, grad: Array) -> tuple[Array, Array]:
    x, y = x.astype(np.float64), y.astype(np.float64)
    by_x, by_y = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    grad_x, grad_y = np.zeros_like(x), np.zeros_like(y)
    b, c = x.shape[1], y.shape[1]
    cuts = np.union1d(
        np.arange(b + 1) * c, np.arange(c + 1) * b
    )  # breakpoints, in units of 1 / (b c)
    i, j, mass = cuts[:-1] // c, cuts[:-1] // b, np.diff(cuts) / (b * c)
    for s in range(len(x)):
        at_x, at_y = by_x[s][i], by_y[s][j]
        difference = x[s, at_x] - y[s, at_y]
        pull = grad[s] * mass * order * np.sign(difference) * np.abs(difference) ** (order - 1)
        np.add.at(grad_x[s], at_x, pull)
        np.add.at(grad_y[s], at_y, -pull)
    return grad_x, grad_y


# ----------------------------------------------------------------------------------- accuracy


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("b", "c"), SIZES)
def test_value_against_the_exact_matching(b: int, c: int, order: float) -> None:
    x, y = problem(b, c)
    found = _core.sliced_wasserstein(x, y, order)
    np.testing.assert_allclose(found, reference.sliced_wasserstein(x, y, order), rtol=1e-12)
    x, y = problem(b, c, dtype=np.float32)
    found = _core.sliced_wasserstein(x, y, order)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, reference.sliced_wasserstein(x, y, order), rtol=1.2e-7
    )  # one rounding


@pytest.mark.parametrize(("b", "c"), SIZES)
def test_order_one_against_scipy(b: int, c: int) -> None:
    x, y = problem(b, c)
    expected = [stats.wasserstein_distance(u, v) for u, v in zip(x, y, strict=True)]
    np.testing.assert_allclose(_core.sliced_wasserstein(x, y, 1.0), expected, rtol=1e-11)


def test_order_two_against_sorting() -> None:
    x, y = problem(500, 500)
    expected = ((np.sort(x) - np.sort(y)) ** 2).mean(axis=1)
    np.testing.assert_allclose(_core.sliced_wasserstein(x, y, 2.0), expected, rtol=1e-13)


def test_order_two_between_gaussians() -> None:
    """W_2^2 between N(a, s^2) and N(b, t^2) is (a - b)^2 + (s - t)^2."""
    quantiles = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[None]
    found = _core.sliced_wasserstein(0.3 + 2 * quantiles, -0.5 + 1.2 * quantiles, 2.0)
    assert found[0] == pytest.approx(
        0.8**2 + 0.8**2, rel=1e-3
    )  # the tails beyond the last quantile


# ---------------------------------------------------------------------------------- gradients


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("b", "c"), SIZES)
def test_gradients_against_the_exact_matching(b: int, c: int, order: float, dtype: type) -> None:
    x, y = problem(b, c, dtype=dtype)
    grad = np.array([1.0, -0.25], dtype)
    found = vjp(x, y, order, grad, True, True)
    expected = gradients_twin(x, y, order, grad)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=2 * np.finfo(dtype).eps, atol=1e-13 * scale)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("sizes", [(2, 300_000), (300_000, 3), (997, 997 * 256)])
def test_gradients_of_few_values_against_many(sizes: tuple[int, int]) -> None:
    """A hundred thousand equal terms, each of which rounds as the one before did."""
    x, y = (part[:1] for part in problem(*sizes))
    few, many = sorted((x, y), key=lambda part: part.shape[1])
    found = vjp(x, y, 1.0, np.ones(1), True, True)[0 if few is x else 1][0]
    # Of order 1, the share of the others below a value, less that of those above.
    others = np.sort(many[0]).reshape(few.shape[1], -1)
    ranked = np.sort(few[0])[:, None]
    shares = ((ranked > others).sum(1) - (ranked < others).sum(1)) / many.shape[1]
    np.testing.assert_allclose(found[np.argsort(few[0])], shares, rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_against_finite_differences(order: float) -> None:
    x, y = problem(23, 17)
    grad = np.array([0.7, 1.3])
    found = vjp(x, y, order, grad, True, True)
    rng = np.random.default_rng(1)
    move_x, move_y = rng.normal(size=x.shape), rng.normal(size=y.shape)

    def along(step: float) -> float:
        return float(grad @ _core.sliced_wasserstein(x + step * move_x, y + step * move_y, order))

    step = 1e-6  # small enough that no two values change places
    difference = (along(step) - along(-step)) / (2 * step)
    assert np.sum(found[0] * move_x) + np.sum(found[1] * move_y) == pytest.approx(
        difference, rel=1e-7
    )


def test_gradients_only_where_needed() -> None:
    x, y = problem(5, 9)
    grad = np.ones(2)
    both = vjp(x, y, 2.0, grad, True, True)
    only_x = vjp(x, y, 2.0, grad, True, False)
    only_y = vjp(x, y, 2.0, grad, False, True)
    assert only_x[1] is None
    assert only_y[0] is None
    np.testing.assert_array_equal(only_x[0], both[0])
    np.testing.assert_array_equal(only_y[1], both[1])
    assert vjp(x, y, 2.0, grad, False, False) == (None, None)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_give_a_subgradient(dtype: type) -> None:
    # Two equal values meet 0 and 4; the lower index takes the lower one. Moving either x alone by e
    # then changes W_2^2 by no less than the slope says to the left, no more to the right.
    x, y = np.array([[1, 1]], dtype), np.array([[4, 0]], dtype)
    grad_x, grad_y = vjp(x, y, 2.0, np.ones(1, dtype), True, True)
    np.testing.assert_array_equal(grad_x, [[1, -3]])
    np.testing.assert_array_equal(grad_y, [[3, -1]])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
def test_equal_samples_have_neither_distance_nor_gradient(dtype: type, order: float) -> None:
    x = problem(50, 1, dtype=dtype)[0]
    y = np.ascontiguousarray(x[:, ::-1])
    np.testing.assert_array_equal(_core.sliced_wasserstein(x, y, order), 0)
    for grad in vjp(x, y, order, np.ones(2, dtype), True, True):
        np.testing.assert_array_equal(grad, 0)


# --------------------------------------------------------------------------------------- laws


def crowds(rng: np.random.Generator, size: int) -> dict[str, Array]:
    """Numbers that are hard on a sort by interpolation."""
    normal, coin = rng.normal(size=size), rng.integers(0, 2, size)
    tiny = np.finfo(np.float32).smallest_subnormal
    half = float(np.finfo(np.float32).max) / 2
    return {
        "normal": normal,
        "uniform": rng.random(size),
        "sorted": np.sort(normal),
        "reversed": -np.sort(normal),
        "all equal": np.full(size, -1.5),
        "few values": rng.integers(-3, 4, size).astype(float),
        "two values": coin * 1e-20,
        "one apart": np.where(np.arange(size) == size // 2, 1e6, 0.25 * coin),
        "Cauchy": rng.standard_cauchy(size),
        "far clusters": normal + 1e6 * coin,
        "clusters within clusters": 1e30 * coin + 1e15 * rng.permuted(coin) + rng.normal(size=size),
        "all magnitudes": normal * 10.0 ** rng.integers(-30, 30, size),
        "denormals": tiny * rng.integers(-1000, 1000, size),
        "denormals and ones": np.where(coin, tiny * rng.integers(-1000, 1000, size), normal),
        "zeros of both signs": np.where(coin, 0.0, -0.0),
        "zeros among others": np.where(coin, rng.choice([0.0, -0.0], size), normal),
        "the whole range": rng.choice([-half, half, 0.0, 1.0], size) * (1 + rng.random(size) / 2),
        "next to each other": 1 + np.finfo(np.float32).eps * rng.integers(0, 5, size),
    }


# Sizes straddle those from which on a bucket is sorted by itself (24) and arrays are cut (2048);
# those at which counters double (powers of two); digits of the radix sort widen at 4096.
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "size", [1, 2, 3, 24, 25, 50, 512, 513, 2047, 2048, 2049, 4096, 10_000, 100_001]
)
def test_sorting_any_values(dtype: type, size: int) -> None:
    """Against 0, ..., size - 1, the gradient tells the rank of each number."""
    cases = crowds(np.random.default_rng(size), size)
    x = np.stack(list(cases.values())).astype(dtype)
    by_x = np.argsort(x, axis=1, kind="stable")
    rank = np.empty_like(by_x)
    np.put_along_axis(rank, by_x, np.arange(size)[None], axis=1)
    # At order 2 the pull of rank r on x is 2 (x - y_r) / size: huge steps of y show each rank.
    steps = np.arange(size) * (2.0**110 if dtype == np.float32 else 2.0**300)
    y = np.tile(steps.astype(dtype), (len(x), 1))
    grad_x, grad_y = vjp(x, y, 2.0, np.ones(len(x), dtype), True, True)
    limits, wide = np.finfo(dtype), x.astype(np.float64)
    expected_x = 2 * (wide - steps[rank]) / size
    expected_y = -2 * (np.take_along_axis(wide, by_x, axis=1) - steps) / size
    for name, *found in zip(cases, grad_x, grad_y, expected_x, expected_y, strict=True):
        np.testing.assert_allclose(found[0], found[2], 2 * limits.eps, limits.tiny, err_msg=name)
        np.testing.assert_allclose(found[1], found[3], 2 * limits.eps, limits.tiny, err_msg=name)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [10, 1000, 5000])
def test_infinities_and_nan_leave_the_other_slices_alone(dtype: type, size: int) -> None:
    x, y = problem(size, size, m=3, dtype=dtype)
    expected = _core.sliced_wasserstein(x, y, 2.0)
    for bad in (np.inf, -np.inf, np.nan):
        spoilt = x.copy()
        spoilt[1, size // 3 :: 2] = bad
        found = _core.sliced_wasserstein(spoilt, y, 2.0)
        assert not np.isfinite(found[1])
        np.testing.assert_array_equal(found[::2], expected[::2])


@given(
    b=st.integers(1, 30),
    c=st.integers(1, 30),
    order=st.floats(1, 4),
    copies=st.integers(2, 4),
    shift=st.floats(-10, 10),
    scale=st.floats(0.1, 10),
)
def test_laws(b: int, c: int, order: float, copies: int, shift: float, scale: float) -> None:
    x, y = problem(b, c)
    value = _core.sliced_wasserstein(x, y, order)
    np.testing.assert_allclose(_core.sliced_wasserstein(y, x, order), value, rtol=1e-13)
    # The same empirical measure with every point repeated.
    repeated = np.repeat(x, copies, axis=1)
    np.testing.assert_allclose(_core.sliced_wasserstein(repeated, y, order), value, rtol=1e-12)
    shuffled = np.random.default_rng(2).permuted(x, axis=1)
    np.testing.assert_allclose(_core.sliced_wasserstein(shuffled, y, order), value, rtol=1e-13)
    moved = _core.sliced_wasserstein(x * scale + shift, y * scale + shift, order)
    np.testing.assert_allclose(moved, value * scale**order, rtol=1e-8)
    grad_x, grad_y = vjp(x, y, order, np.ones(2), True, True)
    np.testing.assert_allclose(grad_x.sum(axis=1), -grad_y.sum(axis=1), atol=1e-12)
    # Euler's theorem: W is homogeneous of degree `order` in (x, y).
    inner = (grad_x * x).sum(axis=1) + (grad_y * y).sum(axis=1)
    np.testing.assert_allclose(inner, order * value, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("isa", "keep_threads")
def test_batch_equals_loop_with_any_number_of_threads() -> None:
    x, y = problem(300, 200, m=7)
    grad, results = np.linspace(-1, 1, 7), []
    for threads in (1, 2, 5):
        _core.set_num_threads(threads)
        value = _core.sliced_wasserstein(x, y, 1.5)
        results.append((value, *vjp(x, y, 1.5, grad, True, True)))
    loop = []
    for s in range(7):
        one = slice(s, s + 1)
        value = _core.sliced_wasserstein(x[one], y[one], 1.5)
        loop.append((value, *vjp(x[one], y[one], 1.5, grad[one], True, True)))
    results.append(tuple(np.concatenate(parts) for parts in zip(*loop, strict=True)))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------------- arguments, errors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_layout_gives_the_same(dtype: type) -> None:
    x, y = problem(20, 31, dtype=dtype)
    expected = kernels.sliced_wasserstein(x, y, 2)
    strided = np.repeat(x, 3, axis=1)[:, ::3]
    misaligned = np.frombuffer(b"\0" + y.tobytes(), dtype, offset=1).reshape(y.shape)
    assert not misaligned.flags.aligned
    assert not misaligned.flags.writeable
    np.testing.assert_array_equal(kernels.sliced_wasserstein(strided, misaligned, 2), expected)
    swapped = x.astype(x.dtype.newbyteorder())
    np.testing.assert_array_equal(kernels.sliced_wasserstein(swapped, y, 2), expected)


def test_torch_tensors_come_back_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    x, y = problem(20, 31)
    found = kernels.sliced_wasserstein(torch.from_numpy(x), torch.from_numpy(y), 1.5)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), kernels.sliced_wasserstein(x, y, 1.5))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [[1.0]]}, TypeError, "x must be a NumPy, torch or CuPy array; got list"),
        ({"x": np.ones(3)}, ValueError, r"x must have shape \(m, b\); got \(3,\)"),
        ({"y": np.ones((3, 4))}, ValueError, r"y must have shape \(2, c\); got \(3, 4\)"),
        ({"y": np.ones((2, 0))}, ValueError, r"y must have shape .* without an empty axis"),
        ({"x": np.ones((2, 3), np.float16)}, TypeError, "x must have dtype float32 or float64"),
        ({"x": np.ones((2, 3), int)}, TypeError, "x must have dtype float32 or float64; got int64"),
        (
            {"y": np.ones((2, 3), np.float32)},
            TypeError,
            "y must have dtype float64 like the others",
        ),
        (
            {"y": np.array([[1], [np.nan]])},
            ValueError,
            r"y must hold finite .*nan at index \(1, 0\)",
        ),
        (
            {"x": np.array([[1.0, 2.0], [1.0, 1e155]])},
            ValueError,
            r"x and y must be .* to the power 2 fit float64; got numbers up to 1e\+155 in slice 1",
        ),
        ({"order": 0.5}, ValueError, "order must be .*>= 1; got 0.5"),
        ({"order": np.inf}, ValueError, "order must be a finite number"),
        ({"order": "2"}, TypeError, "order must be a finite number"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"x": np.ones((2, 3)), "y": np.ones((2, 4)), "order": 2.0}
    with pytest.raises(error, match=message):
        kernels.sliced_wasserstein(**(arguments | change))


@pytest.mark.parametrize(
    ("dtype", "order", "largest"),
    [(np.float32, 2.0, 9e18), (np.float64, 2.0, 6e153), (np.float32, 4.0, 2e9), ("f8", 1.0, 8e307)],
)
def test_the_largest_numbers(dtype: type, order: float, largest: float) -> None:
    """Results and gradients are finite, or the numbers are refused; in torch as well."""
    torch = pytest.importorskip("torch")
    from dpslice.torch import functional

    for size in (2, 3):  # as many on the other side, or not
        x = largest * np.array([[-1.0, 1.0]], dtype=dtype)
        y = -largest * np.ones((1, size), dtype=dtype)
        assert np.isfinite(kernels.sliced_wasserstein(x, y, order)).all()
        tensor = torch.from_numpy(x).requires_grad_()
        functional.sliced_wasserstein(tensor, torch.from_numpy(y), order).sum().backward()
        assert tensor.grad.isfinite().all()
        with pytest.raises(ValueError, match="x and y must be of a size whose distances"):
            kernels.sliced_wasserstein(2 * x, 2 * y, order)
        with pytest.raises(ValueError, match="x and y must be of a size whose distances"):
            functional.sliced_wasserstein(2 * tensor, 2 * torch.from_numpy(y), order)


def test_extension_guards_its_bounds() -> None:
    x, y = problem(5, 4)
    with pytest.raises(ValueError, match="x must have 2 axes"):
        _core.sliced_wasserstein(x[0], y, 2.0)
    with pytest.raises(ValueError, match="y does not have the shape"):
        _core.sliced_wasserstein(x, y[:1], 2.0)
    with pytest.raises(ValueError, match="at least one value"):
        _core.sliced_wasserstein(x, y[:, :0], 2.0)
    with pytest.raises(TypeError):
        _core.sliced_wasserstein(x.astype(np.float32), y, 2.0)
