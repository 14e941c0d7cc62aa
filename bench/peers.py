r"""What a user would pick instead of each kernel, every formulation once.

*strict*: the fastest torch that could be written, with the gradient written out, nothing recorded
for autograd, blocks that stay in cache, and memory reused from call to call. *naive*: torch as it
is commonly written, differentiated by autograd. Then libraries made for the purpose. They are
imported where used; a missing one raises `Unavailable` with the reason.

Shapes are the library's: m slices, b and c points of dimension k. Each function takes the data and
returns a call without arguments, which returns the answer by name: ``value`` and ``gradient``, the
latter in the second cloud (the synthetic rows), for the upstream gradient given.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import Answer, Unavailable

Call = Callable[[], Answer]

# Numbers in a block of the strict formulations: from L1 to beyond L2; the best is kept.
BLOCKS = (1 << 14, 1 << 16, 1 << 18)


def imported(name: str) -> Any:
    """Import a peer's module; one that is missing or broken is unavailable."""
    try:
        with _silent():
            return importlib.import_module(name)
    except Exception as error:
        raise Unavailable(f"{name} cannot be imported: {error}") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        yield


def with_gradient(forward: Callable[[Tensor], Tensor], at: Tensor, upstream: Tensor) -> Call:
    """Differentiate a torch function by autograd, as a training step does."""
    at = at.detach().clone().requires_grad_()

    def call() -> Answer:
        value = forward(at)
        (gradient,) = torch.autograd.grad(value, at, upstream)
        return {"value": value.detach(), "gradient": gradient}

    return call


def kernel_total(
    name: str, x: Tensor, y: Tensor, bandwidth: float, upstream: Tensor
) -> tuple[Call, Call]:
    """Our weighted total of kernel sums and its gradient; and the same with the sums, to check."""
    from dpslice.torch import functional

    op = getattr(functional, name)

    def total(at: Tensor) -> Tensor:
        result: Tensor = op(x, at, bandwidth, row_weights=upstream)
        return result

    call = with_gradient(total, y, torch.ones(len(x)))

    def checked() -> Answer:
        rows = getattr(torch.ops.dpslice, f"{name}_total")(
            x, y, torch.full((len(x),), bandwidth), None, upstream, False, False
        )[1]
        answer = call()
        expected = (rows.double() * upstream).sum(-1)
        torch.testing.assert_close(answer["value"].double(), expected, rtol=1e-5, atol=0)
        return {**answer, "value": rows}

    return call, checked


def compiled(forward: Callable[[Tensor], Tensor], at: Tensor, upstream: Tensor) -> Call:
    """Compile the forward pass, and so the backward pass."""
    import logging

    logging.getLogger("torch").setLevel(logging.ERROR)
    call = with_gradient(torch.compile(forward, dynamic=False), at, upstream)
    try:
        call()
    except Exception as error:
        raise Unavailable(f"torch.compile: {type(error).__name__}: {error}"[:200]) from error
    return call


# ----------------------------------------------------------------------------------- kernel sums


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[m, b, k], [m, c, k] -> [m, b, c], as users write it."""
    return torch.cdist(x, y).square()


def kernel_sum(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(squared_distances(x, y) / (-2 * bandwidth**2)).sum(-1)


def kernel_logsumexp(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    return torch.logsumexp(squared_distances(x, y) / (-2 * bandwidth**2), -1)


def _augmented(x: Tensor, bandwidth: float, first: bool) -> Tensor:
    """Append two columns, so that the product of two clouds' rows is log K."""
    scaled = x / bandwidth
    half = scaled.square().sum(-1, keepdim=True) * -0.5
    one = torch.ones_like(half)
    return torch.cat([scaled, half, one] if first else [scaled, one, half], -1)


def _blocks(m: int, b: int, c: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices and rows whose kernel matrices hold about `size` numbers."""
    if b * c <= size:
        step = max(1, size // (b * c))
        for s in range(0, m, step):
            yield slice(s, min(s + step, m)), slice(0, b)
        return
    rows = max(1, size // c)
    for s in range(m):
        for i in range(0, b, rows):
            yield slice(s, s + 1), slice(i, min(i + rows, b))


def _log_kernels_by_products(a: Tensor, d: Tensor, out: Tensor) -> Tensor:
    return torch.matmul(a, d.mT, out=out)


def _log_kernels_by_differences(a: Tensor, d: Tensor, out: Tensor, spare: Tensor) -> Tensor:
    """Take differences of the coordinates, in k passes over the block."""
    k = a.shape[-1] - 2
    torch.sub(a[:, :, None, 0], d[:, None, :, 0], out=out)
    out.mul_(out)
    for coordinate in range(1, k):
        torch.sub(a[:, :, None, coordinate], d[:, None, :, coordinate], out=spare)
        out.addcmul_(spare, spare)
    return out.mul_(-0.5)


def pair_kernel_strict(
    x: Tensor,
    y: Tensor,
    bandwidth: float,
    upstream: Tensor,
    *,
    log: bool,
    block: int,
    differences: bool = False,
) -> Call:
    """Kernel sum or its logarithm, with the gradient in y from the same exponentials."""
    m, b, k = x.shape
    c = y.shape[1]
    blocks = list(_blocks(m, b, c, block))
    largest = max((s.stop - s.start) * (i.stop - i.start) for s, i in blocks) * c
    memory = x.new_empty(largest)
    spare = x.new_empty(largest if differences else 0)
    value = x.new_empty(m, b)
    pull = x.new_empty(m, c, k + 1)
    ones = torch.ones(m, b, 1, dtype=x.dtype)

    @torch.no_grad()
    def call() -> Answer:
        a, d = _augmented(x, bandwidth, True), _augmented(y, bandwidth, False)
        weighted = torch.cat([x, ones], -1)  # [m, b, k + 1]
        pull.zero_()
        for s, i in blocks:
            shape = (s.stop - s.start, i.stop - i.start, c)
            kernel = memory[: math.prod(shape)].view(shape)
            if differences:
                _log_kernels_by_differences(
                    a[s, i], d[s], kernel, spare[: math.prod(shape)].view(shape)
                )
            else:
                _log_kernels_by_products(a[s, i], d[s], kernel)
            if log:
                peak = kernel.amax(-1, keepdim=True)
                kernel.sub_(peak).exp_()
                total = kernel.sum(-1)
                value[s, i] = total.log() + peak.squeeze(-1)
                weights = upstream[s, i] / total
            else:
                kernel.exp_()
                torch.sum(kernel, -1, out=value[s, i])
                weights = upstream[s, i]
            pull[s].baddbmm_(kernel.mT, weighted[s, i] * weights[..., None])
        gradient = (pull[..., :k] - y * pull[..., k:]) / bandwidth**2
        return {"value": value, "gradient": gradient}

    return call


def pair_kernel_keops(
    x: Tensor, y: Tensor, bandwidth: float, upstream: Tensor, *, log: bool
) -> Call:
    """KeOps: one generated loop per reduction, autograd by a second formula."""
    lazy = imported("pykeops.torch").LazyTensor
    a = x.contiguous()

    def forward(at: Tensor) -> Tensor:
        distances = ((lazy(a[:, :, None, :]) - lazy(at[:, None, :, :])) ** 2).sum(-1)
        exponent = distances * (-0.5 / bandwidth**2)
        result = exponent.logsumexp(2) if log else exponent.exp().sum(2)
        summed: Tensor = result.squeeze(-1)
        return summed

    call = with_gradient(forward, y, upstream)
    try:
        with _silent():
            call()  # compiles
    except Exception as error:
        raise Unavailable(f"KeOps: {error}"[:200]) from error
    return call


def kernel_sum_sklearn(x: Tensor, y: Tensor, bandwidth: float) -> Call:
    """scikit-learn's kernel matrix, slice by slice; no gradient."""
    rbf_kernel = imported("sklearn.metrics.pairwise").rbf_kernel
    pairs = list(zip(x.numpy(), y.numpy(), strict=True))
    return lambda: {
        "value": np.stack([rbf_kernel(a, d, 0.5 / bandwidth**2).sum(1) for a, d in pairs])
    }


def kernel_logsumexp_scipy(x: Tensor, y: Tensor, bandwidth: float) -> Call:
    """SciPy's distances and logsumexp, slice by slice; no gradient."""
    cdist = imported("scipy.spatial.distance").cdist
    logsumexp = imported("scipy.special").logsumexp
    pairs = list(zip(x.numpy(), y.numpy(), strict=True))
    return lambda: {
        "value": np.stack(
            [
                logsumexp(cdist(a, d, "sqeuclidean") * (-0.5 / bandwidth**2), axis=1)
                for a, d in pairs
            ]
        )
    }


# -------------------------------------------------------------------------------- density ratio


def density_ratio_kl(
    q: Tensor, p: Tensor, bandwidth: float, ridge: float, sigma: float, r_min: float
) -> Tensor:
    """KL divergence of each slice from its density ratio, [m], as users write it."""
    b, c, k = q.shape[1], p.shape[1], q.shape[2]
    wide = math.hypot(bandwidth, sigma)
    gram = torch.exp(squared_distances(q, q) / (-2 * bandwidth**2))
    gram = gram + ridge * torch.eye(b, dtype=q.dtype)
    w = (b / c) * (bandwidth / wide) ** k * kernel_sum(q, p, wide)
    ratio = torch.linalg.solve(gram, w.unsqueeze(-1)).squeeze(-1).clamp_min(r_min)
    divergence: Tensor = (ratio * ratio.log() - ratio + 1).mean(-1)
    return divergence


def density_ratio_kl_strict(
    q: Tensor,
    p: Tensor,
    bandwidth: float,
    ridge: float,
    sigma: float,
    r_min: float,
    upstream: Tensor,
    *,
    block: int,
) -> Call:
    """Solve by one Cholesky factor, for the value and for the gradient written out."""
    m, b, k = q.shape
    c = p.shape[1]
    wide = math.hypot(bandwidth, sigma)
    scale = (b / c) * (bandwidth / wide) ** k
    step = min(m, max(1, block // (b * max(b, c))))
    gram, factor = q.new_empty(step, b, b), q.new_empty(step, b, b)
    cross = q.new_empty(step, b, c)
    value, pull = q.new_empty(m), q.new_empty(m, c, k + 1)
    ones = torch.ones(m, b, 1, dtype=q.dtype)

    @torch.no_grad()
    def call() -> Answer:
        a, d = _augmented(q, bandwidth, True), _augmented(q, bandwidth, False)
        a_wide, d_wide = _augmented(q, wide, True), _augmented(p, wide, False)
        weighted = torch.cat([q, ones], -1)
        for start in range(0, m, step):
            s = slice(start, min(start + step, m))
            n = s.stop - s.start
            matrix = torch.matmul(a[s], d[s].mT, out=gram[:n]).exp_()
            matrix.diagonal(dim1=-2, dim2=-1).add_(ridge)
            lower = torch.linalg.cholesky(matrix, out=factor[:n])
            kernel = torch.matmul(a_wide[s], d_wide[s].mT, out=cross[:n]).exp_()
            w = kernel.sum(-1, keepdim=True).mul_(scale)
            ratio = torch.cholesky_solve(w, lower).squeeze(-1)
            kept = ratio.clamp_min(r_min)
            logs = kept.log()
            value[s] = (kept * logs - kept + 1).mean(-1)
            slope = (logs * (ratio > r_min)).mul_(upstream[s, None] * (scale / b))
            dual = torch.cholesky_solve(slope.unsqueeze(-1), lower)
            torch.matmul(kernel.mT, weighted[s] * dual, out=pull[s])
        gradient = (pull[..., :k] - p * pull[..., k:]) / wide**2
        return {"value": value, "gradient": gradient}

    return call


# -------------------------------------------------------------------------------------- project


def project(x: Tensor, frame: Tensor, sigma: float) -> Call:
    return lambda: {"value": x @ frame + sigma * torch.randn(x.shape[0], frame.shape[1])}


def project_strict(x: Tensor, frame: Tensor, sigma: float, *, rows: int) -> Call:
    """Block by block, the noise in one buffer."""
    n, p = x.shape[0], frame.shape[1]
    out, noise = x.new_empty(n, p), x.new_empty(min(rows, n), p)

    @torch.no_grad()
    def call() -> Answer:
        for i in range(0, n, rows):
            part = out[i : i + rows]
            torch.mm(x[i : i + rows], frame, out=part)
            part.add_(noise[: len(part)].normal_(), alpha=sigma)
        return {"value": out}

    return call


def project_numpy(x: Tensor, frame: Tensor, sigma: float) -> Call:
    rows, directions = x.numpy(), frame.numpy()
    rng = np.random.default_rng(0)
    shape = (rows.shape[0], directions.shape[1])
    return lambda: {
        "value": rows @ directions
        + np.float32(sigma) * rng.standard_normal(shape, dtype=rows.dtype.type)
    }


# ------------------------------------------------------------------------- Wasserstein, medians


def sliced_wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """W_2^2 of each slice for b = c, [m], as users write it."""
    return (x.sort(-1).values - y.sort(-1).values).square().mean(-1)


def sliced_wasserstein_strict(x: Tensor, y: Tensor, upstream: Tensor, *, block: int) -> Call:
    m, b = x.shape
    step = min(m, max(1, block // b))
    x_sorted, y_sorted = x.new_empty(step, b), x.new_empty(step, b)
    x_order = torch.empty(step, b, dtype=torch.int64)
    y_order = torch.empty(step, b, dtype=torch.int64)
    value, gradient = x.new_empty(m), torch.empty_like(y)

    @torch.no_grad()
    def call() -> Answer:
        for start in range(0, m, step):
            s = slice(start, min(start + step, m))
            n = s.stop - s.start
            torch.sort(x[s], out=(x_sorted[:n], x_order[:n]))
            torch.sort(y[s], out=(y_sorted[:n], y_order[:n]))
            gap = y_sorted[:n].sub_(x_sorted[:n])
            value[s] = gap.square().mean(-1)
            gradient[s].scatter_(1, y_order[:n], gap.mul_(upstream[s, None] * (2 / b)))
        return {"value": value, "gradient": gradient}

    return call


def sliced_wasserstein_numpy(x: Tensor, y: Tensor, upstream: Tensor) -> Call:
    """NumPy, whose sort is vectorised on some processors."""
    a, d, scale = x.numpy(), y.numpy(), upstream.numpy()[:, None] * np.float32(2 / x.shape[1])

    def call() -> Answer:
        order = np.argsort(d, axis=1)
        gap = np.take_along_axis(d, order, 1) - np.sort(a, axis=1)
        gradient = np.empty_like(d)
        np.put_along_axis(gradient, order, gap * scale, 1)
        return {"value": np.square(gap).mean(1), "gradient": gradient}

    return call


def sliced_wasserstein_pot(x: Tensor, y: Tensor, upstream: Tensor) -> Call:
    """POT, differentiated by autograd."""
    wasserstein_1d = imported("ot").wasserstein_1d  # codespell:ignore ot
    transposed = x.T.contiguous()
    return with_gradient(lambda at: wasserstein_1d(transposed, at.T, p=2), y, upstream)


def median_distance(x: Tensor) -> Call:
    """Median of the pairwise distances of each slice, the two middle ones averaged."""

    def call() -> Answer:
        return {"value": torch.stack([torch.pdist(points).quantile(0.5) for points in x])}

    return call


def median_distance_strict(x: Tensor) -> Call:
    """By selection, not sorting, and with the root of two numbers only."""
    b = x.shape[1]
    count = b * (b - 1) // 2
    low, high = (count - 1) // 2 + 1, count // 2 + 1

    @torch.no_grad()
    def call() -> Answer:
        medians = []
        for points in x:
            distances = torch.pdist(points)
            middle = distances.kthvalue(low).values
            if high != low:
                middle = (middle + distances[distances > middle].min()) / 2
            medians.append(middle)
        return {"value": torch.stack(medians)}

    return call


def median_distance_scipy(x: Tensor) -> Call:
    pdist = imported("scipy.spatial.distance").pdist
    slices = list(x.numpy())
    return lambda: {"value": np.array([np.median(pdist(points)) for points in slices])}


# --------------------------------------------------------------------------- release, accounting


def release(rows: np.ndarray[Any, Any], frame: np.ndarray[Any, Any], sigma: float) -> Any:
    """Project and add noise as NumPy users do: no clipping, no grid, no secret order or noise."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((len(rows), frame.shape[1]), dtype=np.float32)
    return rows @ frame + np.float32(sigma) * noise


def release_torch(rows: np.ndarray[Any, Any], frame: np.ndarray[Any, Any], sigma: float) -> Any:
    """Do the same as torch users write it."""
    x = torch.from_numpy(np.ascontiguousarray(rows))
    u = torch.from_numpy(frame)
    return (x @ u + sigma * torch.randn(len(x), u.shape[1])).numpy()


def gaussian_delta(epsilon: float, sigma: float) -> float:
    """Compute delta of the Gaussian mechanism of sensitivity 1 (Balle and Wang 2018)."""
    log_ndtr = imported("scipy.special").log_ndtr
    near = log_ndtr(0.5 / sigma - epsilon * sigma)
    far = epsilon + log_ndtr(-0.5 / sigma - epsilon * sigma)
    return float(-math.expm1(far - near) * math.exp(near))


def gaussian_sigma(epsilon: float, delta: float) -> float:
    """Compute sigma of the Gaussian mechanism by bisection of the formula."""
    brentq = imported("scipy.optimize").brentq

    def f(log_sigma: float) -> float:
        return math.log(gaussian_delta(epsilon, math.exp(log_sigma)) / delta)

    return math.exp(brentq(f, -2.0, 1.5, xtol=1e-14))


def gaussian_epsilon(delta: float, sigma: float) -> float:
    """Compute epsilon of the Gaussian mechanism by bisection of the formula."""
    brentq = imported("scipy.optimize").brentq

    def f(epsilon: float) -> float:
        return math.log(gaussian_delta(epsilon, sigma) / delta)

    return float(brentq(f, 0.0, 10.0, xtol=1e-14))
