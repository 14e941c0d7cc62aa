"""gaussian_kernel_sum and its derivative: against the twin in float64, and its laws."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import reference
from dpslice import _core
from dpslice.kernels import gaussian_kernel_sum
from pair_kernels import (
    ALL,
    DTYPES,
    KERNEL_SUM,
    LAW_DIMS,
    Array,
    Case,
    assert_close,
    assert_gradients,
    assert_totals,
    cases,
    log_kernels_by_products,
    pull_on_y,
)

make_case = KERNEL_SUM.make_case
kernel_sum_vjp, twin_vjp = KERNEL_SUM.vjp, KERNEL_SUM.twin_vjp


# ------------------------------------------------------------------------------------- values


@pytest.mark.usefixtures("isa")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(wide=True))
def test_against_the_twin(case: Case) -> None:
    found = _core.gaussian_kernel_sum(case.x, case.y, case.bandwidth, case.weights)
    truth = reference.gaussian_kernel_sum(case.x, case.y, case.bandwidth, case.weights)
    assert_close(found, truth, case.x.dtype.name)


@pytest.mark.usefixtures("isa")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(wide=True))
def test_derivative_against_the_twin(case: Case) -> None:
    assert_gradients(kernel_sum_vjp(case), case, twin_vjp)


def assert_total(case: Case) -> None:
    parts = (case.x, case.y, case.bandwidth, case.weights)
    totals, rows, *grads = _core.gaussian_kernel_sum_total(*parts, case.grad, True, True)
    assert_close(rows, reference.gaussian_kernel_sum(*parts), case.x.dtype.name)
    assert_gradients(grads, case, twin_vjp)
    assert_totals(totals, case.grad, rows)
    alone = _core.gaussian_kernel_sum_total(*parts, case.grad, False, False)
    np.testing.assert_array_equal(alone[0], totals)
    np.testing.assert_array_equal(alone[1], rows)
    assert alone[2:] == (None, None)


@pytest.mark.usefixtures("isa")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(wide=True))
def test_total_against_the_twin(case: Case) -> None:
    """Sums, and gradients of their total, from one sweep."""
    assert_total(case)


@pytest.mark.usefixtures("isa")
def test_more_sums_than_fit_a_cache() -> None:
    """Above a mebibyte of sums over rows of x, blocks of these rows are longer."""
    case = make_case(4, 300, 530, 520, "float32")
    _, rows, grad_y, _ = _core.gaussian_kernel_sum_total(
        case.x, case.y, case.bandwidth, None, case.grad, True, False
    )
    kernel = np.exp(log_kernels_by_products(case))
    assert_close(rows, kernel.sum(-1), "float32")
    assert_close(grad_y, pull_on_y(case, kernel * case.grad[..., None]), "float32")


def test_closed_form() -> None:
    x = np.array([[[0.0, 0.0]]])
    y = np.array([[[0.0, 0.0], [3.0, 4.0], [0.0, 10.0]]])
    expected = 2 + 3 * np.exp(-0.5) - 5 * np.exp(-2)
    weights = np.array([[2.0, 3.0, -5.0]])
    np.testing.assert_allclose(gaussian_kernel_sum(x, y, 5.0, weights), [[expected]], rtol=1e-14)


# --------------------------------------------------------------------------------------- laws


@DTYPES
@LAW_DIMS
def test_zero_weight_equals_removed_row(k: int, dtype: str) -> None:
    case = make_case(2, 30, 40, k, dtype, weighted=True)
    assert case.weights is not None
    weights = case.weights.copy()
    weights[:, 5:] = 0
    found = gaussian_kernel_sum(case.x, case.y, case.bandwidth, weights)
    removed = gaussian_kernel_sum(case.x, case.y[:, :5], case.bandwidth, weights[:, :5])
    assert_close(found, removed, dtype)


@DTYPES
@LAW_DIMS
def test_symmetric_in_x_and_y(k: int, dtype: str) -> None:
    """sum_i g_i S_i(x, y; w) = sum_j w_j S_j(y, x; g): the kernel sum is its own adjoint."""
    case = make_case(3, 70, 110, k, dtype, weighted=True)
    assert case.weights is not None
    ahead = gaussian_kernel_sum(case.x, case.y, case.bandwidth, case.weights)
    back = gaussian_kernel_sum(case.y, case.x, case.bandwidth, case.grad)
    assert_close(back, kernel_sum_vjp(case)[2], dtype)
    assert_close((back * case.weights).sum(-1), (ahead * case.grad).sum(-1).astype(float), dtype)


@DTYPES
@LAW_DIMS
def test_gradients_of_a_translation_cancel(k: int, dtype: str) -> None:
    """Moving all points together changes nothing, so the gradients add up to zero."""
    case = make_case(3, 70, 110, k, dtype)
    grad_x, grad_y, _ = kernel_sum_vjp(case)
    assert grad_x is not None
    assert grad_y is not None
    total = grad_x.sum(1, dtype=np.float64) + grad_y.sum(1, dtype=np.float64)
    size = np.abs(grad_x).sum(1, dtype=np.float64) + np.abs(grad_y).sum(1, dtype=np.float64)
    assert (np.abs(total) <= (1e-5 if dtype == "float32" else 1e-12) * size).all()


# ----------------------------------------------------------------------------- singular points


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize("k", [1, 8, 9, 94])
def test_coincident_points(k: int, dtype: str) -> None:
    points = np.random.default_rng(0).normal(size=(1, 1, k)).astype(dtype)
    x, y = np.repeat(points, 5, axis=1), np.repeat(points, 7, axis=1)
    g, grad = np.ones(1, dtype), np.ones((1, 5), dtype)
    found = _core.gaussian_kernel_sum(x, y, g, None)
    np.testing.assert_allclose(found, 7, rtol=1e-6 if dtype == "float32" else 1e-14)
    assert (found <= 7).all()
    grad_x, grad_y, grad_weights = _core.gaussian_kernel_sum_vjp(x, y, g, None, grad, *ALL)
    scale = np.abs(points).max()
    bound = (1e-5 if dtype == "float32" else 1e-13) * 7 * scale
    assert np.abs(grad_x).max() <= bound
    assert np.abs(grad_y).max() <= bound
    np.testing.assert_allclose(grad_weights, 5, rtol=1e-6)


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize("k", [2, 12])
def test_far_points_underflow_to_zero(k: int, dtype: str) -> None:
    x, y = np.zeros((1, 3, k), dtype), np.full((1, 20, k), 1e4, dtype)
    g, grad = np.ones(1, dtype), np.ones((1, 3), dtype)
    assert not _core.gaussian_kernel_sum(x, y, g, None).any()
    for gradient in _core.gaussian_kernel_sum_vjp(x, y, g, None, grad, *ALL):
        assert not gradient.any()


@functools.cache  # for all instruction sets
def near_points(k: int, bandwidth: float) -> tuple[Case, tuple[Array, ...]]:
    """Points nearer to each other than to the mean; their sums, and gradients in x and y."""
    rng = np.random.default_rng(k)
    y = rng.normal(size=(1, 140, k)).astype(np.float32)
    x = (y[:, rng.permutation(140)] + 0.05 * rng.normal(size=y.shape)).astype(np.float32)
    g, grad = np.array([bandwidth], np.float32), rng.normal(size=(1, 140)).astype(np.float32)
    gradients = reference.gaussian_kernel_sum_vjp(x, y, g, None, grad)[:2]
    truths = reference.gaussian_kernel_sum(x, y, g, None), *gradients
    return Case(x, y, g, None, grad), truths


# What README's "Accuracy and precision" says of them.
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bandwidth", [0.75, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("k", [94, 784])
def test_points_nearer_to_each_other_than_to_the_mean(k: int, bandwidth: float) -> None:
    case, truths = near_points(k, bandwidth)
    sums = _core.gaussian_kernel_sum(case.x, case.y, case.bandwidth, None)
    for one, truth in zip((sums, *kernel_sum_vjp(case)[:2]), truths, strict=True):
        assert reference.relative_error(one, truth) <= max(1e-5, 1.5e-6 * k / bandwidth**2)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("k", [12, 94, 300, 784])
def test_points_whose_products_round_as_badly_as_they_can(k: int) -> None:
    """Coordinates of one size: all terms of a point's own product are alike, and round alike."""
    rng = np.random.default_rng(0)
    g, worst = np.ones(1, np.float32), 0.0
    for _ in range(40):
        longest = np.sqrt(max(369.0, 2.88 * k))  # farther points are not multiplied
        size = longest * rng.uniform(0.3, 0.98) / np.sqrt(k)
        x = (size * np.sign(rng.normal(size=(1, 33, k)))).astype(np.float32)
        found = _core.gaussian_kernel_logsumexp(x, x, g, None)
        error = np.abs(found - reference.gaussian_kernel_logsumexp(x, x, g, None)).max()
        square = ((x.astype(float) - x.mean(axis=1, dtype=float)) ** 2).sum(axis=2).max()
        worst = max(worst, float(error / square))
    assert worst <= 1.5e-6


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("k", [2, 12])
def test_all_weights_zero(k: int) -> None:
    case = make_case(2, 30, 20, k, weighted=True)
    weights = np.zeros_like(case.grad[:, :20])
    assert not _core.gaussian_kernel_sum(case.x, case.y, case.bandwidth, weights).any()
    grad_x, grad_y, grad_weights = _core.gaussian_kernel_sum_vjp(
        case.x, case.y, case.bandwidth, weights, case.grad, *ALL
    )
    assert not grad_x.any()
    assert not grad_y.any()
    truth = reference.gaussian_kernel_sum_vjp(case.x, case.y, case.bandwidth, weights, case.grad)
    assert_close(grad_weights, truth[2], "float64")


@pytest.mark.usefixtures("isa")
def test_many_columns_in_float32() -> None:
    """Long sums: blocks keep the rounding of float32 at bay."""
    case = make_case(1, 3, 100_000, 2, "float32")
    found = _core.gaussian_kernel_sum(case.x, case.y, case.bandwidth, None)
    truth = reference.gaussian_kernel_sum(case.x, case.y, case.bandwidth)
    assert reference.relative_error(found, truth) < 1e-6
