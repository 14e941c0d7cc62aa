"""The kernels in plain torch, formula by formula: oracles for values and, by autograd, gradients.

They share no code with the library, form every matrix whole, and use torch's own derivatives.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[m, b, k], [m, c, k] -> [m, b, c], by differences: exact where points are close."""
    return (x[:, :, None, :] - y[:, None, :, :]).square().sum(-1)


def gaussian_kernel(x: Tensor, y: Tensor, bandwidth: Tensor) -> Tensor:
    return torch.exp(-squared_distances(x, y) / (2 * bandwidth[:, None, None] ** 2))


def gaussian_kernel_sum(
    x: Tensor, y: Tensor, bandwidth: Tensor, weights: Tensor | None = None
) -> Tensor:
    kernel = gaussian_kernel(x, y, bandwidth)
    return kernel.sum(-1) if weights is None else (kernel * weights[:, None, :]).sum(-1)


def gaussian_kernel_logsumexp(
    x: Tensor, y: Tensor, bandwidth: Tensor, log_weights: Tensor | None = None
) -> Tensor:
    exponent = -squared_distances(x, y) / (2 * bandwidth[:, None, None] ** 2)
    if log_weights is not None:
        exponent = exponent + log_weights[:, None, :]
    return torch.logsumexp(exponent, -1)


def density_ratio(
    q: Tensor, p: Tensor, bandwidth: Tensor, ridge: float, sigma: float = 0.0
) -> Tensor:
    b, c, k = q.shape[1], p.shape[1], q.shape[2]
    wide = torch.sqrt(bandwidth**2 + sigma**2)
    w = (b / c) * gaussian_kernel(q, p, wide).sum(-1)
    w = w * ((bandwidth / wide) ** k)[:, None]
    gram = gaussian_kernel(q, q, bandwidth) + ridge * torch.eye(b, dtype=q.dtype)
    return torch.linalg.solve(gram, w.unsqueeze(-1)).squeeze(-1)


# f with f(1) = 0 and f'(1) = 0 where that exists.
DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": lambda t: t * torch.log(t) - t + 1,
    "reverse_kl": lambda t: -torch.log(t) + t - 1,
    "js": lambda t: 0.5 * (t * torch.log(2 * t / (1 + t)) + torch.log(2 / (1 + t))),
    "squared_hellinger": lambda t: (torch.sqrt(t) - 1) ** 2,
    "pearson": lambda t: (t - 1) ** 2,
    "neyman": lambda t: (t - 1) ** 2 / t,
    "total_variation": lambda t: 0.5 * (t - 1).abs(),
}


def sliced_wasserstein(x: Tensor, y: Tensor, order: float) -> Tensor:
    """Integral of |difference of quantile functions|^order, exact at the joint breakpoints."""
    b, c = x.shape[1], y.shape[1]
    cuts = sorted({i / b for i in range(b + 1)} | {j / c for j in range(c + 1)})
    # Equal fractions may differ in their last bit: keep one of each.
    cuts = [u for u, v in zip(cuts, [*cuts[1:], math.inf], strict=True) if v - u > 1e-12]
    x, y = x.sort(-1).values, y.sort(-1).values
    total = x.new_zeros(x.shape[0])
    for low, high in itertools.pairwise(cuts):
        middle = (low + high) / 2
        i, j = int(middle * b), int(middle * c)
        total = total + (high - low) * (x[:, i] - y[:, j]).abs() ** order
    return total


def median_distance(x: Tensor) -> Tensor:
    i, j = torch.triu_indices(x.shape[1], x.shape[1], offset=1)
    distances = (x[:, i] - x[:, j]).square().sum(-1)
    # sqrt has no derivative at 0; there the library's is 0.
    distances = torch.where(distances > 0, distances, torch.ones_like(distances)).sqrt() * (
        distances > 0
    )
    ordered = distances.sort(-1).values
    count = ordered.shape[-1]
    return 0.5 * (ordered[:, (count - 1) // 2] + ordered[:, count // 2])
