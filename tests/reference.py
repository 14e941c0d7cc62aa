"""The kernels in plain float64 NumPy: formula by formula, every matrix whole.

Each function has the signature of its twin in `dpslice.kernels` and shares no code with it. Inputs
of any float dtype are widened first, so that results are those of the numbers that the kernel saw.
The `*_vjp` functions are the derivatives written out; test_kernel_sum.py and test_logsumexp.py
check them, too, by differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _wide(value: Any) -> Array:
    return np.asarray(value, dtype=np.float64)


def _bandwidths(bandwidth: Any, slices: int) -> Array:
    return np.broadcast_to(_wide(bandwidth), (slices,))


def differences(x: Any, y: Any) -> Array:
    """[m, b, k], [m, c, k] -> [m, b, c, k], y - x."""
    return _wide(y)[:, None, :, :] - _wide(x)[:, :, None, :]


def log_kernel(x: Any, y: Any, bandwidth: Any) -> Array:
    """[m, b, c]: -|x - y|^2 / (2 g^2), dividing first so that nothing overflows."""
    g = _bandwidths(bandwidth, len(x))[:, None, None, None]
    return -0.5 * np.square(differences(x, y) / g).sum(-1)


# ---------------------------------------------------------------------------------- kernel sums


def gaussian_kernel_sum(x: Any, y: Any, bandwidth: Any, weights: Any = None) -> Array:
    kernel = np.exp(log_kernel(x, y, bandwidth))
    return kernel.sum(-1) if weights is None else (kernel * _wide(weights)[:, None, :]).sum(-1)


def gaussian_kernel_sum_vjp(
    x: Any, y: Any, bandwidth: Any, weights: Any, grad: Any
) -> tuple[Array, Array, Array]:
    kernel = np.exp(log_kernel(x, y, bandwidth)) * _wide(grad)[:, :, None]
    weighted = kernel if weights is None else kernel * _wide(weights)[:, None, :]
    grad_x, grad_y = _pull(weighted, x, y, bandwidth)
    return grad_x, grad_y, kernel.sum(1)


def gaussian_kernel_logsumexp(x: Any, y: Any, bandwidth: Any, log_weights: Any = None) -> Array:
    exponent = _exponent(x, y, bandwidth, log_weights)
    peak = np.maximum(exponent.max(-1), np.finfo(np.float64).min)
    with np.errstate(divide="ignore"):
        return peak + np.log(np.exp(exponent - peak[..., None]).sum(-1))


def gaussian_kernel_logsumexp_vjp(
    x: Any, y: Any, bandwidth: Any, log_weights: Any, grad: Any
) -> tuple[Array, Array, Array]:
    exponent = _exponent(x, y, bandwidth, log_weights)
    total = gaussian_kernel_logsumexp(x, y, bandwidth, log_weights)[..., None]
    share = np.exp(exponent - np.where(np.isfinite(total), total, 0.0))
    share = share * _wide(grad)[:, :, None]
    grad_x, grad_y = _pull(share, x, y, bandwidth)
    return grad_x, grad_y, share.sum(1)


def _exponent(x: Any, y: Any, bandwidth: Any, log_weights: Any) -> Array:
    exponent = log_kernel(x, y, bandwidth)
    return exponent if log_weights is None else exponent + _wide(log_weights)[:, None, :]


def _pull(weight: Array, x: Any, y: Any, bandwidth: Any) -> tuple[Array, Array]:
    """Sum weight_ij (y_j - x_i) / g^2 over j, and minus that over i."""
    g = _bandwidths(bandwidth, len(x))[:, None, None, None]
    pull = weight[..., None] * (differences(x, y) / g) / g
    return pull.sum(2), -pull.sum(1)


# -------------------------------------------------------------------------------- density ratio


def density_ratio(q: Any, p: Any, bandwidth: Any, ridge: float, sigma: float = 0.0) -> Array:
    """(K_qq + ridge I)^-1 w, w_i = (b/c) sum_j E K(q_i, p_j + noise of deviation sigma)."""
    g = _bandwidths(bandwidth, len(q))
    wide = np.hypot(g, sigma)
    b, c, k = np.shape(q)[1], np.shape(p)[1], np.shape(q)[2]
    w = (b / c) * gaussian_kernel_sum(q, p, wide) * ((g / wide) ** k)[:, None]
    gram = np.exp(log_kernel(q, q, g)) + ridge * np.eye(b)
    ratio: Array = np.linalg.solve(gram, w[..., None])[..., 0]
    return ratio


# ------------------------------------------------------------------------- Wasserstein, medians


def sliced_wasserstein(x: Any, y: Any, order: float = 2.0) -> Array:
    """Integrate |difference of quantile functions|^order exactly, over the merged breakpoints."""
    x, y = np.sort(_wide(x), axis=-1), np.sort(_wide(y), axis=-1)
    b, c = x.shape[1], y.shape[1]
    # Breakpoints i/b and j/c as integers over b c: equal ones are equal.
    cuts = np.union1d(np.arange(b + 1) * c, np.arange(c + 1) * b)
    i, j = cuts[:-1] // c, cuts[:-1] // b
    mass = np.diff(cuts) / (b * c)
    total: Array = (mass * np.abs(x[:, i] - y[:, j]) ** order).sum(-1)
    return total


def median_distance(x: Any) -> Array:
    """Median over pairs i < j, averaging the middle two, as numpy.median does."""
    i, j = np.triu_indices(np.shape(x)[1], k=1)
    points = _wide(x)
    median: Array = np.median(np.linalg.norm(points[:, i] - points[:, j], axis=-1), axis=-1)
    return median


# -------------------------------------------------------------------------------------- helpers


def by_differences(function: Callable[[Array], Array], at: Array, step: float = 1e-5) -> Array:
    """Gradient of a scalar function by central differences, one coordinate after the other."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        ahead, behind = at.copy(), at.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = float(function(ahead) - function(behind)) / (2 * step)
    return gradient


def relative_error(found: Any, truth: Any) -> float:
    """Norm of the error over that of the truth; infinities must agree, NaN is infinitely wrong."""
    found, truth = np.asarray(found, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if found.shape != truth.shape:
        raise AssertionError(f"shapes differ: {found.shape} and {truth.shape}")
    infinite = np.isinf(truth)
    if np.isnan(found).any() or not np.array_equal(found[infinite], truth[infinite]):
        return float("inf")
    found, truth = found[~infinite], truth[~infinite]
    scale = float(np.linalg.norm(truth))
    error = float(np.linalg.norm(found - truth))
    return error / scale if scale > 0 else (0.0 if error == 0 else float("inf"))
