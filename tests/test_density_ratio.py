"""density_ratio, its gradients, and the fused divergence."""

from __future__ import annotations

import functools
import math
import os
import re
import subprocess
import sys
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference
from dpslice import _core, kernels
from dpslice.divergences import REGISTRY, Divergence, get_divergence

Array = NDArray[Any]

# Sizes straddle the tiles: vectors of 2 to 8, rows of 4 or 8, sources of 32, panels of 64.
SIZES = [(1, 1, 1), (2, 3, 2), (7, 1, 3), (8, 33, 1), (9, 32, 2), (31, 8, 5), (33, 40, 2)]
SIZES += [(64, 65, 2), (65, 31, 17), (130, 100, 3), (200, 20, 1), (257, 40, 2)]


def problem(b: int, c: int, k: int, m: int = 2, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng([seed, b, c, k])
    q, p = rng.normal(size=(m, b, k)), 0.8 * rng.normal(size=(m, c, k)) + 0.3
    return q, p, rng.uniform(0.4, 1.2, size=m)


def solve_long(matrix: Array, right: Array) -> Array:
    """Solve by Cholesky in long double, which LAPACK has not."""
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("long double is no longer than double here")
    a = np.concatenate([matrix, right[:, None]], axis=1)
    n = len(matrix)
    for i in range(n):
        a[i, i:] /= np.sqrt(a[i, i])
        a[i + 1 :, i + 1 :] -= np.outer(a[i, i + 1 : n], a[i, i + 1 :])
    x = np.zeros(n, np.longdouble)
    for i in reversed(range(n)):
        x[i] = (a[i, n] - a[i, i + 1 : n] @ x[i + 1 :]) / a[i, i]
    return x


def kernel_long(x: Array, y: Array, variance: Any) -> Array:
    """Gaussian kernel of each pair, [len(x), len(y)], in the dtype of x: long double."""
    return np.exp(-((x[:, None] - y) ** 2).sum(-1) / (2 * variance))


def ratio_long(
    q: Array, p: Array, bandwidth: Array, ridge: float, sigma: float = 0.0
) -> NDArray[np.longdouble]:
    """The formula of reference.density_ratio in long double: float64 is as uncertain as ours."""
    rows = []
    for q_s, p_s, g in zip(*(a.astype(np.longdouble) for a in (q, p, bandwidth)), strict=True):
        b, k = q_s.shape
        h2 = g**2 + np.longdouble(sigma) ** 2
        gram, cross = kernel_long(q_s, q_s, g**2), kernel_long(q_s, p_s, h2)
        w = np.longdouble(b) / len(p_s) * (g**2 / h2) ** (np.longdouble(k) / 2) * cross.sum(1)
        rows.append(solve_long(gram + np.longdouble(ridge) * np.eye(b, dtype=np.longdouble), w))
    return np.array(rows)


def ratio_torch(q: Any, p: Any, bandwidth: Any, ridge: float, sigma: float) -> Any:
    """The formula as a torch user writes it, for autograd in the dtype of `q`."""
    import torch

    b, k = q.shape[1:]
    g2 = bandwidth[:, None, None] ** 2
    h2 = g2 + sigma**2
    gram = torch.exp(-((q[:, :, None] - q[:, None]) ** 2).sum(-1) / (2 * g2))
    cross = torch.exp(-((q[:, :, None] - p[:, None]) ** 2).sum(-1) / (2 * h2))
    w = b / p.shape[1] * (g2 / h2)[:, :, 0] ** (k / 2) * cross.sum(2)
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(b, dtype=q.dtype))
    return torch.cholesky_solve(w[..., None], factor)[..., 0]


def gradients_torch(
    q: Array, p: Array, bandwidth: Array, ridge: float, sigma: float, grad: Array
) -> tuple[Array, Array]:
    torch = pytest.importorskip("torch")
    tensors = [
        torch.from_numpy(a.copy()).requires_grad_(i < 2) for i, a in enumerate((q, p, bandwidth))
    ]
    ratio_torch(*tensors, ridge, sigma).backward(torch.from_numpy(grad.copy()))
    return tensors[0].grad.numpy(), tensors[1].grad.numpy()


def error(found: Array, expected: Array) -> float:
    """Largest error, relative to the largest entry."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# ----------------------------------------------------------------------------------- accuracy


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize(("b", "c", "k"), SIZES)
def test_float64_against_long_double(b: int, c: int, k: int, sigma: float) -> None:
    q, p, bandwidth = problem(b, c, k)
    found = _core.density_ratio(q, p, bandwidth, 1e-2, sigma)
    # The rounding of w and of the solution is amplified by at most the condition number b / ridge;
    # where the solution is refined (from 192 rows on), that of its residual is, too.
    tolerance = max(1e-12, (1 if b < 192 else 3) * np.finfo(float).eps * b / 1e-2)
    assert error(found, ratio_long(q, p, bandwidth, 1e-2, sigma)) < tolerance


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("b", [191, 192, 260])
@pytest.mark.parametrize("ridge", [1e-1, 1e-3, 2e-4, 1e-6, 1e-9])
def test_float32_is_refined_or_factored_in_float64(b: int, ridge: float) -> None:
    """Whatever the condition: with a factor in float32 alone, none of these would be right."""
    rng = np.random.default_rng(b)
    q, p = (rng.normal(size=(2, b, 1)).astype(np.float32) for _ in range(2))
    bandwidth = np.array([1.5, 0.7], np.float32)
    wide = [part.astype(np.float64) for part in (q, p, bandwidth)]
    found = _core.density_ratio(q, p, bandwidth, ridge, 0.3)
    np.testing.assert_allclose(found, _core.density_ratio(*wide, ridge, 0.3), rtol=1e-5, atol=1e-6)
    f = get_divergence("pearson")
    arguments = (ridge, 0.3, f.code, f.alpha, f.r_min, True)
    value, grad = _core.density_ratio_divergence(q, p, bandwidth[None], *arguments)
    exact_value, exact_grad = _core.density_ratio_divergence(
        wide[0], wide[1], wide[2][None], *arguments
    )
    np.testing.assert_allclose(value, exact_value, rtol=1e-5)
    assert error(grad, exact_grad) < 1e-5


def rows_of_kind(kind: str, b: int, k: int) -> Array:
    """[1, b, k]: rows that few of them span, rows that seem so, and rows that none do."""
    rng = np.random.default_rng([b, k])
    normal = rng.normal(size=(b, k))
    some = rng.random(size=(b, 1)) < 0.05
    return {
        "normal": normal,
        "repeated": normal[rng.integers(0, 9, size=b)],
        "equal": np.full((b, k), 0.7),
        "clusters": np.where(rng.random(size=(b, 1)) < 0.5, 0.01 * normal, 5 + 0.01 * normal),
        "outliers": np.where(some, 100.0, 1.0) * normal,
        "line": np.linspace(-3, 3, b)[:, None] * np.ones(k),
        "apart": 1e3 * normal,
        "far from the origin": 2.0**20 + np.round(normal * 1024) / 1024,
    }[kind][None]


Operands = tuple[Array, Array, Array, float, float]


@functools.cache  # for all instruction sets
def operands_of_kind(
    kind: str, b: int, k: int, ridge: float, dtype: type
) -> tuple[Operands, NDArray[np.longdouble]]:
    """Arguments of the density ratio, and what it is."""
    q = rows_of_kind(kind, b, k).astype(dtype)
    p = q[:, 3:40] + dtype(0.25)
    operands = q, p, np.full(1, 1.5, dtype), ridge, 0.25
    return operands, ratio_long(*operands)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 10.0])
@pytest.mark.parametrize(("b", "k"), [(203, 1), (256, 2), (280, 3)])
@pytest.mark.parametrize(
    "kind",
    ["normal", "repeated", "equal", "clusters", "outliers", "line", "apart", "far from the origin"],
)
def test_rows_that_others_span(kind: str, b: int, k: int, ridge: float, dtype: type) -> None:
    operands, expected = operands_of_kind(kind, b, k, ridge, dtype)
    found = _core.density_ratio(*operands)
    conditioned = max(1e-13, 3 * np.finfo(float).eps * (b + ridge) / ridge)
    # float32 is refined to 1e-9, or factored in float64 where that cannot be had.
    refined = max(conditioned, 2e-9 if dtype is np.float32 else 0.0)
    assert error(found, expected) < refined + np.finfo(dtype).eps


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_rounding_does_not_grow_with_the_rows(ridge: float) -> None:
    """Rows of eight kinds, whose ratios solve a system of eight."""
    b, bandwidth = 2048, 8.0
    corners = np.array(
        [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.longdouble
    )
    p = np.array([[0.3, 0.2, 0.1], [1.0, 0.0, 0.5]])
    kind = np.random.default_rng(0).permutation(np.arange(b) % 8)
    gram, cross = (kernel_long(corners, other, bandwidth**2) for other in (corners, p))
    matrix = (b // 8) * gram + np.longdouble(ridge) * np.eye(8, dtype=np.longdouble)
    expected = solve_long(matrix, b // 2 * cross.sum(1))[kind]
    found = _core.density_ratio(
        corners[kind].astype(float)[None], p[None], np.full(1, bandwidth), ridge, 0.0
    )
    assert error(found[0], expected) < 2 * np.finfo(float).eps * b / ridge


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("bandwidth", "ridge"), [(6.0, 0.03), (5.0, 0.3)])
def test_refinement_does_not_end_too_early(bandwidth: float, ridge: float) -> None:
    """One row's lambda is large, and what a factor of low rank lacks of it shows up late."""
    b = 272
    angle = np.linspace(0, 2 * np.pi, b, endpoint=False)
    q = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    p = 0.8 * q[:20] + 0.25
    grad = np.eye(1, b)
    rest = (np.full(1, bandwidth), ridge, 0.0)
    _, found = _core.density_ratio_vjp(q[None], p[None], *rest, grad, grad, False, True)
    across = q[:, None].astype(np.longdouble) - p
    gram, cross = (
        np.exp(-(x**2).sum(-1) / (2 * bandwidth**2))
        for x in (q[:, None].astype(np.longdouble) - q, across)
    )
    weights = solve_long(
        gram + np.longdouble(ridge) * np.eye(b, dtype=np.longdouble), grad[0].astype(np.longdouble)
    )
    pull = b / len(p) / bandwidth**2 * (weights[:, None] * cross)[..., None] * across
    assert error(found[0], pull.sum(0)) < np.finfo(float).eps * b / ridge


@pytest.mark.usefixtures("isa")
def test_large_gradients_do_not_overflow_on_the_way() -> None:
    size = 2.0**1017
    q = np.random.default_rng(0).normal(size=(1, 200, 2))
    p = q[:, :5] + 0.25
    rest = (np.full(1, 5.0), 1e-2, 0.25)
    r = _core.density_ratio(q, p, *rest)
    found = _core.density_ratio_vjp(q, p, *rest, r, np.full((1, 200), size), True, True)
    expected = _core.density_ratio_vjp(q, p, *rest, r, np.ones((1, 200)), True, True)
    for one, other in zip(found, expected, strict=True):
        assert error(one / size, other) < 1e-11


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", [0, 5, 199])
def test_rows_that_are_no_numbers(row: int, dtype: type) -> None:
    q = np.random.default_rng(0).normal(size=(1, 200, 2)).astype(dtype)
    p, bandwidth = q[:, :5] + dtype(0.25), np.full(1, 1.5, dtype)
    q[0, row, 1] = 1e6
    far = _core.density_ratio(q, p, bandwidth, 1e-2, 0.25)
    q[0, row, 1] = np.inf
    np.testing.assert_allclose(_core.density_ratio(q, p, bandwidth, 1e-2, 0.25), far, rtol=1e-6)
    q[0, row, 1] = np.nan
    with pytest.raises(ValueError, match="not positive definite"):
        _core.density_ratio(q, p, bandwidth, 1e-2, 0.25)
    q[0, row, 1], p[0, 3, 0] = 0, np.nan
    assert np.isnan(_core.density_ratio(q, p, bandwidth, 1e-2, 0.25)).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize(("b", "c", "k"), SIZES)
def test_float32_against_long_double(b: int, c: int, k: int, sigma: float) -> None:
    q, p, bandwidth = (a.astype(np.float32) for a in problem(b, c, k))
    found = _core.density_ratio(q, p, bandwidth, 1e-2, sigma)
    assert found.dtype == np.float32
    # Entry by entry: inside it is float64, so little more than the rounding of the result is left.
    np.testing.assert_allclose(found, ratio_long(q, p, bandwidth, 1e-2, sigma), rtol=2e-7)


def test_long_double_against_the_twin() -> None:
    q, p, bandwidth = problem(33, 20, 2)
    exact = ratio_long(q, p, bandwidth, 1e-2, 0.4)
    assert error(exact, reference.density_ratio(q, p, bandwidth, 1e-2, 0.4)) < 1e-12


@pytest.mark.usefixtures("isa")
def test_float64_against_mpmath() -> None:
    q, p, bandwidth = problem(6, 4, 2, m=1)
    with mpmath.workdps(50):
        g = mpmath.mpf(bandwidth[0])
        sigma, ridge = mpmath.mpf(0.25), mpmath.mpf(1e-6)
        h2 = g**2 + sigma**2

        def kernel(u: Array, v: Array, width2: Any) -> Any:
            return mpmath.exp(
                -sum((mpmath.mpf(a) - mpmath.mpf(b)) ** 2 for a, b in zip(u, v, strict=True))
                / (2 * width2)
            )

        gram = mpmath.matrix(
            [
                [kernel(u, v, g**2) + ridge * (i == j) for j, v in enumerate(q[0])]
                for i, u in enumerate(q[0])
            ]
        )
        w = mpmath.matrix(
            [mpmath.mpf(6) / 4 * (g**2 / h2) * sum(kernel(u, v, h2) for v in p[0]) for u in q[0]]
        )
        expected = np.array([float(r) for r in mpmath.lu_solve(gram, w)])
    found = _core.density_ratio(q, p, bandwidth, 1e-6, 0.25)[0]
    assert error(found, expected) < 1e-12


# ---------------------------------------------------------------------------------- gradients


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize(("b", "c", "k"), SIZES)
def test_gradients_against_autograd_in_float64(b: int, c: int, k: int, sigma: float) -> None:
    q, p, bandwidth = problem(b, c, k)
    grad = np.random.default_rng(1).normal(size=(2, b))
    ratio = _core.density_ratio(q, p, bandwidth, 1e-2, sigma)
    found_q, found_p = _core.density_ratio_vjp(
        q, p, bandwidth, 1e-2, sigma, ratio, grad, True, True
    )
    expected_q, expected_p = gradients_torch(q, p, bandwidth, 1e-2, sigma, grad)
    # Both sides carry errors of eps times the condition number, twice (two solves).
    assert error(found_p, expected_p) < 1e-10
    if b > 1:
        assert error(found_q, expected_q) < 1e-10
    else:
        np.testing.assert_allclose(found_q, expected_q, rtol=1e-10)


@pytest.mark.parametrize("wanted", ["q", "p"])
def test_gradients_against_finite_differences(wanted: str) -> None:
    q, p, bandwidth = problem(9, 7, 2)
    rng = np.random.default_rng(2)
    grad = rng.normal(size=(2, 9))
    ratio = _core.density_ratio(q, p, bandwidth, 0.1, 0.3)
    found = _core.density_ratio_vjp(q, p, bandwidth, 0.1, 0.3, ratio, grad, True, True)[
        wanted == "p"
    ]
    direction = rng.normal(size=found.shape)

    def along(step: float) -> float:
        move = step * direction
        moved = (q + move, p) if wanted == "q" else (q, p + move)
        return float(np.sum(grad * _core.density_ratio(*moved, bandwidth, 0.1, 0.3)))

    step = 1e-4  # fourth-order differences: error step^4 against rounding / step
    difference = (8 * (along(step) - along(-step)) - (along(2 * step) - along(-2 * step))) / (
        12 * step
    )
    assert np.sum(found * direction) == pytest.approx(difference, rel=1e-9)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("b", "k"), [(128, 1), (128, 2), (128, 3), (128, 8), (256, 2)])
def test_float32_gradients_are_no_worse_than_torch(b: int, k: int) -> None:
    q, p, bandwidth = problem(b, b, k)
    grad = np.random.default_rng(3).normal(size=(2, b)) / b
    single = [a.astype(np.float32) for a in (q, p, bandwidth, grad)]
    # The oracle at the rounded inputs, so that rounding them is nobody's error.
    exact = gradients_torch(
        *(a.astype(np.float64) for a in single[:3]), 1e-2, 0.3, single[3].astype(np.float64)
    )
    theirs = gradients_torch(*single[:3], 1e-2, 0.3, single[3])
    ratio = _core.density_ratio(*single[:3], 1e-2, 0.3)
    ours = _core.density_ratio_vjp(*single[:3], 1e-2, 0.3, ratio, single[3], True, True)
    for our, their, true in zip(ours, theirs, exact, strict=True):
        assert error(our, true) <= error(their, true)
    assert error(ours[1], exact[1]) < 1e-6  # this one does not go through the rounded ratio


def test_gradients_only_where_needed() -> None:
    q, p, bandwidth = problem(5, 4, 2)
    ratio = _core.density_ratio(q, p, bandwidth, 1e-2, 0.0)
    both = _core.density_ratio_vjp(q, p, bandwidth, 1e-2, 0.0, ratio, ratio, True, True)
    only_q = _core.density_ratio_vjp(q, p, bandwidth, 1e-2, 0.0, ratio, ratio, True, False)
    only_p = _core.density_ratio_vjp(q, p, bandwidth, 1e-2, 0.0, ratio, ratio, False, True)
    assert only_q[1] is None
    assert only_p[0] is None
    np.testing.assert_array_equal(only_q[0], both[0])
    np.testing.assert_array_equal(only_p[1], both[1])
    assert _core.density_ratio_vjp(q, p, bandwidth, 1e-2, 0.0, ratio, ratio, False, False) == (
        None,
        None,
    )


# --------------------------------------------------------------------------------- divergence


def divergence_twin(
    q: Array, p: Array, bandwidths: Array, ridge: float, sigma: float, f: Divergence
) -> tuple[Array, Array]:
    """Value and gradient composed of the separate functions, all in float64."""
    ratios = [_core.density_ratio(q, p, g, ridge, sigma) for g in bandwidths]
    r = np.mean(ratios, axis=0)
    clipped = np.maximum(r, f.r_min)
    slope = np.where(r > f.r_min, f.derivative(clipped), 0.0) / r.shape[1] / len(bandwidths)
    grad = sum(
        _core.density_ratio_vjp(q, p, g, ridge, sigma, ratio, slope, False, True)[1]
        for g, ratio in zip(bandwidths, ratios, strict=True)
    )
    return f.value(clipped).mean(axis=1), grad


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", [*REGISTRY, "alpha(0.5)"])
@pytest.mark.parametrize(("b", "count"), [(33, 1), (33, 3), (240, 3)])
def test_divergence_is_composed_of_its_parts(name: str, b: int, count: int) -> None:
    # Of 240 rows of a plane some span the others at the bandwidth and twice that, not at half.
    q, p, bandwidth = problem(b, 20, 2, m=3)
    bandwidths = np.outer([1.0, 0.5, 2.0][:count], bandwidth)
    f = get_divergence(name)
    value, grad = _core.density_ratio_divergence(
        q, p, bandwidths, 1e-2, 0.2, f.code, f.alpha, f.r_min, True
    )
    expected_value, expected_grad = divergence_twin(q, p, bandwidths, 1e-2, 0.2, f)
    # Slopes of up to 1000 amplify the rounding of the ratios, and that grows with b.
    np.testing.assert_allclose(value, expected_value, rtol=1e-10)
    assert error(grad, expected_grad) < (1e-10 if b < 192 else 1e-9)
    alone, none = _core.density_ratio_divergence(
        q, p, bandwidths, 1e-2, 0.2, f.code, f.alpha, f.r_min, False
    )
    assert none is None
    np.testing.assert_array_equal(alone, value)


@pytest.mark.usefixtures("isa")
def test_divergence_gradient_against_finite_differences() -> None:
    q, p, bandwidth = problem(12, 9, 2, m=1)
    bandwidths = np.outer([1.0, 0.6], bandwidth)
    direction = np.random.default_rng(4).normal(size=p.shape)

    def value(step: float, need: bool = False) -> Any:
        return _core.density_ratio_divergence(
            q, p + step * direction, bandwidths, 0.3, 0.2, REGISTRY["pearson"].code, 0.0, 0.0, need
        )

    step = 1e-4
    difference = (
        8 * (value(step)[0] - value(-step)[0]) - (value(2 * step)[0] - value(-2 * step)[0])
    ) / (12 * step)
    assert np.sum(value(0.0, True)[1] * direction) == pytest.approx(float(difference[0]), rel=1e-9)


@pytest.mark.usefixtures("isa")
def test_divergence_in_float32() -> None:
    q, p, bandwidth = (a.astype(np.float32) for a in problem(128, 128, 2))
    f = REGISTRY["kl"]
    value, grad = _core.density_ratio_divergence(
        q, p, bandwidth[None], 1e-2, 0.3, f.code, 0.0, f.r_min, True
    )
    assert value.dtype == grad.dtype == np.float32
    exact_value, exact_grad = divergence_twin(
        q.astype(np.float64), p.astype(np.float64), bandwidth[None].astype(np.float64), 1e-2, 0.3, f
    )
    np.testing.assert_allclose(value, exact_value, rtol=1e-6)
    assert error(grad, exact_grad) < 1e-6


def test_rows_that_are_clipped_pull_on_nothing() -> None:
    # Synthetic rows out of the kernel's reach: every ratio is 0, the value f(r_min), the slope 0.
    q, p, bandwidth = problem(6, 5, 2)
    for f in REGISTRY.values():
        value, grad = _core.density_ratio_divergence(
            q, p + 1e3, bandwidth[None], 1e-2, 0.0, f.code, 0.0, f.r_min, True
        )
        np.testing.assert_allclose(value, f.value(f.r_min), rtol=1e-14)
        np.testing.assert_array_equal(grad, 0)


def test_divergence_of_two_gaussians_is_estimated() -> None:
    """Pearson between N(0.5, 1) and N(0, 1) is exp(0.25) - 1; KL is 0.125."""
    rng = np.random.default_rng(5)
    q, p = rng.normal(size=(40, 400, 1)), rng.normal(0.5, 1, size=(40, 2000, 1))
    bandwidths = np.full((1, 40), 0.7)
    for name, expected in [
        ("pearson", math.exp(0.25) - 1),
        ("kl", 0.125),
        ("squared_hellinger", 2 - 2 * math.exp(-0.25 / 8)),
    ]:
        f = REGISTRY[name]
        value, _ = _core.density_ratio_divergence(
            q, p, bandwidths, 1.0, 0.0, f.code, 0.0, f.r_min, False
        )
        # Smoothing, ridge and overfitting bias the estimate; seed and sizes are fixed.
        assert value.mean() == pytest.approx(expected, rel=0.25)


# --------------------------------------------------------------------------------------- laws


def test_same_rows_give_one_as_the_ridge_vanishes() -> None:
    q = np.linspace(-3, 3, 12).reshape(1, 12, 1)  # apart, so that K itself is well conditioned
    bandwidth = np.array([0.4])
    for ridge in (1e-1, 1e-3, 1e-6, 1e-9):
        r = _core.density_ratio(q, q, bandwidth, ridge, 0.0)
        smallest = np.linalg.eigvalsh(np.exp(-((q[0] - q[0].T) ** 2) / (2 * 0.4**2)))[0]
        assert 0 < np.abs(r - 1).max() < math.sqrt(12) * ridge / smallest
    np.testing.assert_allclose(_core.density_ratio(q, q, bandwidth, 0.0, 0.0), 1, rtol=1e-12)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("b", [40, 220])
def test_permuting_private_rows_permutes_the_ratio(b: int) -> None:
    q, p, _ = problem(b, 30, 2)
    bandwidth = np.array([0.7, 1.6])
    order = np.random.default_rng(6).permutation(b)
    moved = np.ascontiguousarray(q[:, order])
    r = _core.density_ratio(q, p, bandwidth, 1e-2, 0.3)
    assert error(_core.density_ratio(moved, p, bandwidth, 1e-2, 0.3), r[:, order]) < 1e-11
    up = np.random.default_rng(7).normal(size=r.shape)
    rest = (bandwidth, 1e-2, 0.3)
    grad_q, grad_p = _core.density_ratio_vjp(q, p, *rest, r, up, True, True)
    other_q, other_p = _core.density_ratio_vjp(
        moved, p, *rest, r[:, order].copy(), up[:, order].copy(), True, True
    )
    assert error(other_q, grad_q[:, order]) < 1e-10
    assert error(other_p, grad_p) < 1e-10


@pytest.mark.usefixtures("isa")
def test_permuting_synthetic_rows_changes_nothing() -> None:
    q, p, bandwidth = problem(40, 33, 2)
    order = np.random.default_rng(7).permutation(33)
    moved = np.ascontiguousarray(p[:, order])
    r = _core.density_ratio(q, p, bandwidth, 1e-2, 0.3)
    assert error(_core.density_ratio(q, moved, bandwidth, 1e-2, 0.3), r) < 1e-12
    f = REGISTRY["js"]
    _, grad = _core.density_ratio_divergence(
        q, p, bandwidth[None], 1e-2, 0.3, f.code, 0.0, f.r_min, True
    )
    _, other = _core.density_ratio_divergence(
        q, moved, bandwidth[None], 1e-2, 0.3, f.code, 0.0, f.r_min, True
    )
    assert error(other, grad[:, order]) < 1e-11


@given(
    b=st.integers(1, 20),
    c=st.integers(1, 40),
    k=st.integers(1, 5),
    shift=st.sampled_from([-64.0, 0.25, 1024.0]),
    exponent=st.integers(-300, 300),
)
def test_translation_and_scale_change_nothing(
    b: int, c: int, k: int, shift: float, exponent: int
) -> None:
    # Coordinates on a grid, so that translating them is exact.
    q, p, bandwidth = problem(b, c, k)
    q, p = np.round(q * 256) / 256, np.round(p * 256) / 256
    r = _core.density_ratio(q, p, bandwidth, 1e-2, 0.3)
    np.testing.assert_array_equal(
        _core.density_ratio(q + shift, p + shift, bandwidth, 1e-2, 0.3), r
    )
    scale = 2.0**exponent
    np.testing.assert_array_equal(
        _core.density_ratio(q * scale, p * scale, bandwidth * scale, 1e-2, 0.3 * scale), r
    )
    scaled = _core.density_ratio(q * 3, p * 3, bandwidth * 3, 1e-2, 0.9)
    assert error(scaled, r) < 1e-11


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_equals_loop(dtype: type) -> None:
    q, p, bandwidth = (a.astype(dtype) for a in problem(33, 20, 2, m=5))
    f = REGISTRY["kl"]
    rest = (1e-2, 0.3, f.code, 0.0, f.r_min, True)
    r = _core.density_ratio(q, p, bandwidth, 1e-2, 0.3)
    grads = _core.density_ratio_vjp(q, p, bandwidth, 1e-2, 0.3, r, r, True, True)
    value, grad = _core.density_ratio_divergence(q, p, bandwidth[None], *rest)
    for s in range(5):
        one = slice(s, s + 1)
        np.testing.assert_array_equal(
            _core.density_ratio(q[one], p[one], bandwidth[one], 1e-2, 0.3), r[one]
        )
        single = _core.density_ratio_vjp(
            q[one], p[one], bandwidth[one], 1e-2, 0.3, r[one], r[one], True, True
        )
        np.testing.assert_array_equal(single[0], grads[0][one])
        np.testing.assert_array_equal(single[1], grads[1][one])
        alone = _core.density_ratio_divergence(q[one], p[one], bandwidth[None, one], *rest)
        np.testing.assert_array_equal(alone[0], value[one])
        np.testing.assert_array_equal(alone[1], grad[one])


@pytest.mark.usefixtures("isa", "keep_threads")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [1e-5, 1e-2])
def test_slices_leave_nothing_behind(ridge: float, dtype: type) -> None:
    """One thread's slices are solved in different ways, one after the other, as each would be."""
    kinds = ["normal", "repeated", "apart", "line", "outliers", "normal", "equal", "line", "apart"]
    q = np.concatenate([rows_of_kind(kind, 203, 2) for kind in kinds]).astype(dtype)
    p = q[:, 3:30] + dtype(0.25)
    bandwidths = np.outer([1.5, 0.5, 20.0], np.ones(len(kinds))).astype(dtype)
    f = REGISTRY["kl"]
    rest = (ridge, 0.3, f.code, 0.0, f.r_min, True)
    _core.set_num_threads(1)
    value, grad = _core.density_ratio_divergence(q, p, bandwidths, *rest)
    for s in range(len(kinds)):
        one = slice(s, s + 1)
        alone = _core.density_ratio_divergence(q[one], p[one], bandwidths[:, one].copy(), *rest)
        np.testing.assert_array_equal(alone[0], value[one])
        np.testing.assert_array_equal(alone[1], grad[one])


@pytest.mark.usefixtures("isa", "keep_threads")
def test_threads_change_nothing() -> None:
    q, p, bandwidth = problem(40, 30, 2, m=7)
    f = REGISTRY["kl"]
    results = []
    for threads in (1, 2, 5):
        _core.set_num_threads(threads)
        r = _core.density_ratio(q, p, bandwidth, 1e-2, 0.3)
        grads = _core.density_ratio_vjp(q, p, bandwidth, 1e-2, 0.3, r, r, True, True)
        fused = _core.density_ratio_divergence(
            q, p, bandwidth[None], 1e-2, 0.3, f.code, 0.0, f.r_min, True
        )
        results.append((r, *grads, *fused))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


def test_closed_form_noise_is_the_mean_over_sampled_noise() -> None:
    q, p, bandwidth = problem(10, 6, 2, m=1)
    draws, sigma = 20_000, 0.6
    noise = np.random.default_rng(8).normal(0, sigma, size=(draws, 6, 2))
    many = (np.repeat(a, draws, axis=0) for a in (q, p, bandwidth))
    many_q, many_p, many_g = many
    sampled = _core.density_ratio(many_q, many_p + noise, many_g, 0.1, 0.0)
    expected = _core.density_ratio(q, p, bandwidth, 0.1, sigma)[0]
    z = (sampled.mean(axis=0) - expected) / (sampled.std(axis=0) / math.sqrt(draws))
    # The ratio is linear in w, so the means agree. Ten normal z: beyond 5 with probability 6e-6.
    assert np.abs(z).max() < 5


def test_tiny_noise_is_no_noise() -> None:
    q, p, bandwidth = problem(10, 6, 2)
    without = _core.density_ratio(q, p, bandwidth, 1e-2, 0.0)
    np.testing.assert_array_equal(_core.density_ratio(q, p, bandwidth, 1e-2, 1e-200), without)
    assert error(_core.density_ratio(q, p, bandwidth, 1e-2, 1e-9), without) < 1e-12


# ----------------------------------------------------------------------------- singular points


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_private_row(dtype: type) -> None:
    q, p, bandwidth = (a.astype(dtype) for a in problem(1, 5, 2))
    w = np.exp(-((q - p) ** 2).sum(-1) / (2 * bandwidth[:, None] ** 2)).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(_core.density_ratio(q, p, bandwidth, 0.5, 0.0), w / 1.5, rtol=1e-5)


@pytest.mark.usefixtures("isa")
def test_one_synthetic_row() -> None:
    q, p, bandwidth = problem(5, 1, 2)
    twice = np.repeat(p, 2, axis=1)
    r = _core.density_ratio(q, p, bandwidth, 1e-2, 0.0)
    np.testing.assert_allclose(_core.density_ratio(q, twice, bandwidth, 1e-2, 0.0), r, rtol=1e-12)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coincident_points(dtype: type) -> None:
    """All rows equal: K = 11^T, w = b, so r = b / (b + ridge); all differences vanish."""
    q, p = np.full((1, 9, 2), 0.7, dtype), np.full((1, 4, 2), 0.7, dtype)
    bandwidth = np.ones(1, dtype)
    r = _core.density_ratio(q, p, bandwidth, 0.01, 0.0)
    np.testing.assert_allclose(r, 9 / 9.01, rtol=4 * np.finfo(dtype).eps * 900)
    grads = _core.density_ratio_vjp(q, p, bandwidth, 0.01, 0.0, r, np.ones_like(r), True, True)
    for grad in grads:
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("dtype", "far"), [(np.float32, 1e15), (np.float64, 1e100)])
def test_far_points_give_zero(dtype: type, far: float) -> None:
    q, p, bandwidth = (a.astype(dtype) for a in problem(9, 4, 2))
    p = p + dtype(far)
    r = _core.density_ratio(q, p, bandwidth, 0.01, 0.0)
    np.testing.assert_array_equal(r, 0)
    for grad in _core.density_ratio_vjp(q, p, bandwidth, 0.01, 0.0, r, np.ones_like(r), True, True):
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("b", [1, 5, 8, 203])
@pytest.mark.parametrize("ridge", [1e6, 1e16, 1e300])
def test_large_ridge(dtype: type, b: int, ridge: float) -> None:
    """Such a matrix is ridge times the identity, in every row that pads it, too."""
    q = np.zeros((1, b, 2), dtype)
    r = _core.density_ratio(q, np.zeros((1, 4, 2), dtype), np.ones(1, dtype), ridge, 0.0)
    expected = (b / (b + ridge)) * np.ones((1, b))
    np.testing.assert_allclose(r, expected, rtol=1e-6, atol=np.finfo(dtype).tiny)


def test_private_rows_far_apart_decouple() -> None:
    q = np.arange(5.0).reshape(1, 5, 1) * 1e3
    r = _core.density_ratio(q, q, np.ones(1), 0.25, 0.0)
    np.testing.assert_allclose(r, 1 / 1.25, rtol=1e-14)


# ---------------------------------------------------------------------------- arguments, errors

_LITTLE_MEMORY = """
import resource
import numpy as np
import dpslice
from dpslice import _core, kernels

rng = np.random.default_rng(0)
q, p = rng.normal(size=(2, 60_000, 1)), rng.normal(size=(2, 4, 1))
few = kernels.density_ratio(q[:, :50], p, 1.0, 0.1)
calls = [
    lambda: kernels.density_ratio(q, p, 1.0, 0.1),
    lambda: kernels.density_ratio(q.astype(np.float32), p.astype(np.float32), 1.0, 0.1),
    lambda: _core.density_ratio_divergence(q, p, np.ones((1, 2)), 0.1, 0.0, 0, 0.0, 0.0, True),
    lambda: kernels.project(np.ones((10**7, 1)), np.ones((1, 300)), 0.1, "fast"),
]
for threads in (1, 2):
    dpslice.set_num_threads(threads)
    kernels.density_ratio(q[:, :50], p, 1.0, 0.1)  # starts them
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**30, resource.RLIM_INFINITY))
    for call in calls:
        try:
            call()
        except MemoryError as error:
            print(error)
    assert np.array_equal(kernels.density_ratio(q[:, :50], p, 1.0, 0.1), few)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="it ends the process")
def test_lack_of_memory_names_the_kernel_the_shapes_and_the_bytes() -> None:
    """On one thread and on several; what comes afterwards works."""
    done = subprocess.run([sys.executable, "-c", _LITTLE_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shapes = r"q of shape \(2, 60000, 1\), p of shape \(2, 4, 1\), bandwidth of shape"
    wanted = r"got no memory: \d{10,} bytes were wanted at once, for"
    expected = 2 * [
        rf"density_ratio {wanted} {shapes} \(2,\)",
        rf"density_ratio {wanted} {shapes} \(2,\)",
        rf"density_ratio_divergence {wanted} {shapes} \(1, 2\)",
        r"project_fast got no memory: Unable to allocate .*, for x of shape \(10000000, 1\), .*",
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected)
    assert all(re.fullmatch(*pair) for pair in zip(expected, lines, strict=True)), done.stdout


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_layout_gives_the_same(dtype: type) -> None:
    q, p, bandwidth = (a.astype(dtype) for a in problem(20, 31, 3))
    expected = kernels.density_ratio(q, p, bandwidth, 1e-2, 0.3)
    strided = np.repeat(q, 3, axis=1)[:, ::3]
    misaligned = np.frombuffer(b"\0" + p.tobytes(), dtype, offset=1).reshape(p.shape)
    assert not misaligned.flags.aligned
    assert not misaligned.flags.writeable
    found = kernels.density_ratio(strided, misaligned, bandwidth, 1e-2, 0.3)
    np.testing.assert_array_equal(found, expected)
    columns = np.asfortranarray(q)
    np.testing.assert_array_equal(kernels.density_ratio(columns, p, bandwidth, 1e-2, 0.3), expected)


def test_one_bandwidth_serves_all_slices() -> None:
    q, p, _ = problem(20, 31, 3)
    np.testing.assert_array_equal(
        kernels.density_ratio(q, p, 0.5, 1e-2), kernels.density_ratio(q, p, np.full(2, 0.5), 1e-2)
    )


def test_torch_tensors_come_back_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    q, p, _ = problem(20, 31, 3)
    found = kernels.density_ratio(torch.from_numpy(q), torch.from_numpy(p), 0.5, 1e-2)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), kernels.density_ratio(q, p, 0.5, 1e-2))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": [[[1.0]]]}, TypeError, "q must be a NumPy, torch or CuPy array; got list"),
        ({"q": np.ones((3, 2))}, ValueError, r"q must have shape \(m, b, k\); got \(3, 2\)"),
        ({"p": np.ones((2, 4, 1))}, ValueError, r"p must have shape \(2, c, 2\); got \(2, 4, 1\)"),
        ({"p": np.ones((3, 4, 2))}, ValueError, r"p must have shape \(2, c, 2\); got \(3, 4, 2\)"),
        ({"p": np.ones((2, 0, 2))}, ValueError, "p must have shape .* without an empty axis"),
        ({"q": np.ones((2, 3, 2), int)}, TypeError, "q must have dtype float32 or float64"),
        ({"p": np.ones((2, 3, 2), np.float32)}, TypeError, "p must have dtype float64 like"),
        ({"q": np.full((2, 3, 2), np.nan)}, ValueError, "q must hold finite numbers; got nan"),
        ({"p": np.full((2, 3, 2), np.inf)}, ValueError, "p must hold finite numbers; got inf"),
        ({"p": np.full((2, 3, 2), 1e200)}, ValueError, "p must lie within 1e.150 bandwidths"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth must be a finite number > 0; got 0.0"),
        ({"bandwidth": np.array([1.0, -1.0])}, ValueError, "bandwidth must be finite and > 0"),
        ({"bandwidth": np.ones(3)}, ValueError, r"bandwidth must have shape \(2,\)"),
        ({"ridge": -1e-9}, ValueError, "ridge must be a finite number >= 0; got -1e-09"),
        ({"ridge": np.nan}, ValueError, "ridge must be a finite number >= 0; got nan"),
        ({"sigma": -1.0}, ValueError, "sigma must be a finite number >= 0; got -1.0"),
        ({"sigma": "1"}, TypeError, "sigma must be a finite number >= 0; got str"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "q": np.ones((2, 3, 2)),
        "p": np.ones((2, 4, 2)),
        "bandwidth": 1.0,
        "ridge": 0.1,
        "sigma": 0.1,
    }
    with pytest.raises(error, match=message):
        kernels.density_ratio(**(arguments | change))


@pytest.mark.usefixtures("isa", "keep_threads")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_matrix_names_the_slice(dtype: type) -> None:
    q, p, bandwidth = (a.astype(dtype) for a in problem(70, 4, 2, m=6))
    q[:, :, 0] = np.arange(70) * 10  # apart, so that only duplicates make the matrix singular
    q[3, 50] = q[3, 2]
    q[5, 1] = q[5, 0]
    message = "slice 3 plus ridge = 0.0 is not positive definite to working precision: use a larger"
    ones = np.ones((6, 70), dtype)
    for threads in (1, 2):
        _core.set_num_threads(threads)
        with pytest.raises(ValueError, match=message):
            _core.density_ratio(q, p, bandwidth, 0.0, 0.0)
        with pytest.raises(ValueError, match=message):
            _core.density_ratio_vjp(q, p, bandwidth, 0.0, 0.0, ones, ones, True, True)
        with pytest.raises(ValueError, match=message):
            _core.density_ratio_divergence(q, p, bandwidth[None], 0.0, 0.0, 0, 0.0, 0.0, True)
    assert np.isfinite(_core.density_ratio(q, p, bandwidth, 1e-9, 0.0)).all()


def test_extension_guards_its_bounds() -> None:
    q, p, bandwidth = problem(5, 4, 2)
    ratio = np.ones((2, 5))
    with pytest.raises(ValueError, match="q must have 3 axes"):
        _core.density_ratio(q[0], p, bandwidth, 0.1, 0.0)
    with pytest.raises(ValueError, match="p does not have the shape"):
        _core.density_ratio(q, p[:1], bandwidth, 0.1, 0.0)
    with pytest.raises(ValueError, match="bandwidth does not have the shape"):
        _core.density_ratio(q, p, bandwidth[:1], 0.1, 0.0)
    with pytest.raises(ValueError, match="ratio does not have the shape"):
        _core.density_ratio_vjp(q, p, bandwidth, 0.1, 0.0, ratio[:, :1].copy(), ratio, True, True)
    with pytest.raises(ValueError, match="grad does not have the shape"):
        _core.density_ratio_vjp(q, p, bandwidth, 0.1, 0.0, ratio, ratio[:, :1].copy(), True, True)
    with pytest.raises(ValueError, match="at least one row"):
        _core.density_ratio(q, p[:, :0], bandwidth, 0.1, 0.0)
    with pytest.raises(ValueError, match="bandwidth must have 2 axes"):
        _core.density_ratio_divergence(q, p, bandwidth, 0.1, 0.0, 0, 0.0, 0.0, True)
    with pytest.raises(ValueError, match="bandwidth must have at least one row"):
        _core.density_ratio_divergence(q, p, bandwidth[None][:0], 0.1, 0.0, 0, 0.0, 0.0, True)
    with pytest.raises(ValueError, match="unknown divergence code"):
        _core.density_ratio_divergence(q, p, bandwidth[None], 0.1, 0.0, -1, 0.0, 0.0, True)
    with pytest.raises(TypeError):
        _core.density_ratio(q.astype(np.float32), p, bandwidth, 0.1, 0.0)
