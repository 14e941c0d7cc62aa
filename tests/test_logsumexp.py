"""gaussian_kernel_logsumexp and its derivative: against the twin in float64, and its laws."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import reference
from dpslice import _core
from dpslice.kernels import gaussian_kernel_logsumexp, gaussian_kernel_sum
from pair_kernels import (
    ALL,
    DTYPES,
    LAW_DIMS,
    LOGSUMEXP,
    TOLERANCE,
    Array,
    Case,
    assert_close,
    assert_gradients,
    assert_rows_left_out,
    assert_totals,
    case_without_some_rows,
    cases,
    log_kernels_by_products,
    make_case,
    pull_on_y,
)

logsumexp, logsumexp_vjp = LOGSUMEXP.value, LOGSUMEXP.vjp
twin, twin_vjp = LOGSUMEXP.twin, LOGSUMEXP.twin_vjp


def assert_total(case: Case, bound: float | None = None) -> None:
    """Log sums, and gradients of their total, from one sweep."""
    totals, rows, *found = _core.gaussian_kernel_logsumexp_total(
        case.x, case.y, case.bandwidth, case.weights, case.grad, True, True
    )
    assert_totals(totals, case.grad, rows)
    dtype = case.x.dtype.name
    truth = twin(case)
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(rows[~finite], truth[~finite])
    error = np.abs(rows[finite] - truth[finite]) / np.maximum(np.abs(truth[finite]), 1)
    assert error.max(initial=0) <= TOLERANCE[dtype]
    assert_gradients(found, case, twin_vjp, bound)


def assert_derivative(case: Case) -> None:
    assert_gradients(logsumexp_vjp(case), case, twin_vjp)


# ------------------------------------------------------------------------------------- values


@pytest.mark.usefixtures("isa")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_against_the_twin(case: Case) -> None:
    found, truth = logsumexp(case), twin(case)
    # A logarithm may be near zero by accident: there its error is that of the sum, an absolute one.
    error = np.abs(found - truth) / np.maximum(np.abs(truth), 1)
    assert error.max() <= TOLERANCE[case.x.dtype.name]


@pytest.mark.usefixtures("isa")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_total_against_the_twin(case: Case) -> None:
    assert_total(case)


@pytest.mark.usefixtures("isa")
@DTYPES
def test_a_total_leaves_out_rows_of_weight_zero(dtype: str) -> None:
    case = case_without_some_rows(21, 4, dtype)
    parts = (case.x, case.y, case.bandwidth, case.weights)
    totals, rows, _, _ = _core.gaussian_kernel_logsumexp_total(*parts, case.grad, True, False)
    assert_rows_left_out(case, totals, rows, logsumexp(case))


@pytest.mark.usefixtures("isa")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_derivative_against_the_twin(case: Case) -> None:
    assert_derivative(case)


@functools.cache  # for all instruction sets
def training_case(b: int, c: int, k: int, dtype: str) -> tuple[Case, Array, tuple[Array, ...]]:
    """A case of such a size, its values and derivatives."""
    case = make_case(1, b, c, k, dtype)
    return case, twin(case), twin_vjp(case)


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize(("b", "c", "k"), [(512, 700, 94), (128, 200, 784), (300, 1000, 8)])
def test_training_sizes(b: int, c: int, k: int, dtype: str) -> None:
    case, values, derivatives = training_case(b, c, k, dtype)
    assert_close(logsumexp(case), values, dtype)
    for found, expected in zip(logsumexp_vjp(case), derivatives, strict=True):
        assert_close(found, expected, dtype)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", [(8, 200, 530, 520), (4, 300, 530, 520)])  # a block each, and two
def test_more_sums_than_fit_a_cache(shape: tuple[int, int, int, int]) -> None:
    """Above a mebibyte of sums over rows of x, blocks of these rows are longer."""
    case = make_case(*shape, "float32", weighted=True, wide=True)
    weights = case.weights
    assert weights is not None
    _, rows, *found = _core.gaussian_kernel_logsumexp_total(
        case.x, case.y, case.bandwidth, weights, case.grad, True, True
    )
    logs = log_kernels_by_products(case) + weights[:, None]
    peak = logs.max(-1, keepdims=True)
    sums = np.exp(logs - peak).sum(-1, keepdims=True)
    shares = np.exp(logs - peak) / sums * case.grad[..., None]
    total = shares.sum(1)
    grad_y = pull_on_y(case, shares)
    for one, other in zip(
        (rows, *found), ((peak + np.log(sums))[..., 0], grad_y, total), strict=True
    ):
        assert_close(one, other, "float32")
    vjp = logsumexp_vjp(case)
    for one, other in zip(vjp[1:], (grad_y, total), strict=True):
        assert_close(one, other, "float32")


@pytest.mark.parametrize("k", [2, 12])
def test_logarithm_of_the_kernel_sum(k: int) -> None:
    case = make_case(3, 40, 60, k, weighted=True)
    assert case.weights is not None
    total = gaussian_kernel_sum(case.x, case.y, case.bandwidth, np.exp(case.weights))
    np.testing.assert_allclose(logsumexp(case), np.log(total), rtol=1e-12)


@pytest.mark.parametrize("k", [2, 12])
def test_one_source_point(k: int) -> None:
    """With c = 1 the value is the log kernel, and its gradient is (y - x) / g^2 exactly."""
    case = make_case(2, 5, 1, k)
    np.testing.assert_allclose(
        logsumexp(case)[..., None],
        reference.log_kernel(case.x, case.y, case.bandwidth),
        rtol=1e-13,
    )
    grad_x, _, grad_log_weights = logsumexp_vjp(case)
    expected = case.grad[..., None] * (case.y - case.x) / case.bandwidth[:, None, None] ** 2
    np.testing.assert_allclose(grad_x, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(grad_log_weights, case.grad.sum(1, keepdims=True), rtol=1e-12)


# --------------------------------------------------------------------------------------- laws


@DTYPES
@LAW_DIMS
def test_adding_to_log_weights_adds_to_the_value(k: int, dtype: str) -> None:
    case = make_case(2, 30, 40, k, dtype, weighted=True)
    assert case.weights is not None
    found = gaussian_kernel_logsumexp(case.x, case.y, case.bandwidth, case.weights + 100)
    assert_close(found, logsumexp(case) + 100, dtype)


@DTYPES
@LAW_DIMS
def test_weight_of_zero_equals_removed_row(k: int, dtype: str) -> None:
    case = make_case(2, 30, 40, k, dtype, weighted=True)
    assert case.weights is not None
    case.weights[:, 5:] = -np.inf
    removed = gaussian_kernel_logsumexp(case.x, case.y[:, :5], case.bandwidth, case.weights[:, :5])
    assert_close(logsumexp(case), removed, dtype)
    _, grad_y, grad_log_weights = logsumexp_vjp(case)
    assert grad_y is not None
    assert grad_log_weights is not None
    assert not grad_y[:, 5:].any()
    assert not grad_log_weights[:, 5:].any()


@DTYPES
@LAW_DIMS
def test_shares_add_up_to_one(k: int, dtype: str) -> None:
    """The gradient in the log weights holds each row's shares, so its sum is that of grad."""
    case = make_case(3, 70, 110, k, dtype, weighted=True)
    grad_log_weights = logsumexp_vjp(case)[2]
    assert grad_log_weights is not None
    total = grad_log_weights.sum(1, dtype=np.float64)
    size = np.abs(case.grad).sum(1, dtype=np.float64)
    expected = case.grad.sum(1, dtype=np.float64)
    assert (np.abs(total - expected) <= TOLERANCE[dtype] * size).all()


# ----------------------------------------------------------------------------- singular points


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize("k", [1, 8, 9, 94])
def test_coincident_points(k: int, dtype: str) -> None:
    points = np.random.default_rng(0).normal(size=(1, 1, k)).astype(dtype)
    x, y = np.repeat(points, 5, axis=1), np.repeat(points, 7, axis=1)
    case = Case(x, y, np.ones(1, dtype), None, np.ones((1, 5), dtype))
    np.testing.assert_allclose(
        logsumexp(case), np.log(7.0), rtol=1e-6 if dtype == "float32" else 1e-14
    )
    grad_x, grad_y, grad_log_weights = logsumexp_vjp(case)
    assert grad_x is not None
    assert grad_y is not None
    bound = (1e-6 if dtype == "float32" else 1e-14) * np.abs(points).max()
    assert np.abs(grad_x).max() <= bound
    assert np.abs(grad_y).max() <= 5 * bound
    np.testing.assert_allclose(grad_log_weights, 5 / 7, rtol=1e-6)


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize("k", [1, 2, 8, 12, 94])
@pytest.mark.parametrize("distance", [60.0, 300.0, 30_000.0])
def test_points_so_far_apart_that_the_kernel_underflows(
    distance: float, k: int, dtype: str
) -> None:
    rng = np.random.default_rng(k)
    x = rng.normal(size=(1, 20, k)).astype(dtype)
    # The spread shrinks with the distance, so that no single point takes all of a share.
    y = (distance + rng.normal(size=(1, 30, k)) / distance).astype(dtype)
    # Of one sign: signed terms would cancel, for all x pull a y the same way.
    case = Case(x, y, np.ones(1, dtype), None, rng.uniform(0.5, 2, size=(1, 20)).astype(dtype))
    assert not _core.gaussian_kernel_sum(x, y, case.bandwidth, None).any()
    found = logsumexp(case)
    assert np.isfinite(found).all()
    assert_close(found, twin(case), dtype)
    # An exponent of this size carries an error of about so many units of roundoff, here and in the
    # twin. In float32, gradients of such slices are computed in float64.
    exponent = 0.5 * k * distance**2
    bound = max(TOLERANCE[dtype], 8 * np.finfo(np.float64).eps * exponent)
    for grad, expected in zip(logsumexp_vjp(case), twin_vjp(case), strict=True):
        assert reference.relative_error(grad, expected) <= bound
    assert_total(case, bound)


@pytest.mark.usefixtures("isa")
@DTYPES
def test_only_some_slices_are_far(dtype: str) -> None:
    """Far slices take a way of their own: the others must come out as if alone."""
    case = make_case(4, 30, 40, 2, dtype, weighted=True)
    case.y[1] += 500
    case.y[3] -= 500
    assert_derivative(case)
    assert_total(case)
    assert case.weights is not None
    parts = (case.x, case.y, case.bandwidth, case.weights, case.grad)
    near = Case(*(part[::2].copy() for part in parts))
    for all_slices, alone in zip(logsumexp_vjp(case), logsumexp_vjp(near), strict=True):
        assert all_slices is not None
        assert_close(all_slices[::2], alone, dtype)


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize("k", [2, 12])
def test_all_weights_zero(k: int, dtype: str) -> None:
    case = make_case(2, 30, 20, k, dtype, weighted=True)
    assert case.weights is not None
    case.weights[0] = -np.inf
    found = logsumexp(case)
    assert (found[0] == -np.inf).all()
    assert np.isfinite(found[1]).all()
    for need in (ALL, (True, False, False), (False, True, True)):
        for grad in logsumexp_vjp(case, need):
            if grad is not None:
                assert not grad[0].any()
                assert np.isfinite(grad).all()
                assert grad[1].any()


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize("k", [2, 12])
def test_huge_and_tiny_log_weights(k: int, dtype: str) -> None:
    case = make_case(1, 30, 20, k, dtype, weighted=True)
    assert case.weights is not None
    case.weights[:] *= 1000
    assert_close(logsumexp(case), twin(case), dtype)
    assert_derivative(case)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bandwidth", [1e-30, 1e-5, 1e5, 1e30])
def test_extreme_bandwidths(bandwidth: float) -> None:
    """Squares of these bandwidths leave float32: coordinates are scaled before they are squared."""
    case = make_case(2, 20, 30, 3, "float32", weighted=True)
    scaled = Case(
        case.x * np.float32(bandwidth),
        case.y * np.float32(bandwidth),
        case.bandwidth * np.float32(bandwidth),
        case.weights,
        case.grad,
    )
    assert_close(logsumexp(scaled), twin(scaled), "float32")
    assert_derivative(scaled)
