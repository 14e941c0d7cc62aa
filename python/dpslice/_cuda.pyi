"""
CUDA kernels: addresses in, launched on the given device and stream.
"""
from __future__ import annotations
import collections.abc
import typing
__all__: list[str] = ['density_ratio', 'density_ratio_divergence', 'density_ratio_vjp', 'device_count', 'divergence', 'gaussian_kernel_logsumexp', 'gaussian_kernel_logsumexp_total', 'gaussian_kernel_logsumexp_vjp', 'gaussian_kernel_sum', 'gaussian_kernel_sum_total', 'gaussian_kernel_sum_vjp', 'host_numbers', 'kept_numbers', 'median_distance', 'median_distance_vjp', 'project_fast', 'project_secure', 'row_totals', 'sliced_wasserstein']
def density_ratio(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, q: typing.SupportsInt | typing.SupportsIndex, p: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, ratio: typing.SupportsInt | typing.SupportsIndex, kept: typing.SupportsInt | typing.SupportsIndex, failed_slice: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Regularised density ratio at q, [m, b]; NaN in slices that failed. Unless its address is 0, kept [m, kept_numbers(b)] in float64 is filled for the gradients.
    """
def density_ratio_divergence(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, bandwidths: typing.SupportsInt | typing.SupportsIndex, q: typing.SupportsInt | typing.SupportsIndex, p: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, divergence: typing.SupportsInt | typing.SupportsIndex, alpha: typing.SupportsFloat | typing.SupportsIndex, r_min: typing.SupportsFloat | typing.SupportsIndex, value: typing.SupportsInt | typing.SupportsIndex, grad_p: typing.SupportsInt | typing.SupportsIndex, failed_slice: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    f-divergence of each slice, and its gradient in p unless the address is 0.
    """
def density_ratio_vjp(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, q: typing.SupportsInt | typing.SupportsIndex, p: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, ratio: typing.SupportsInt | typing.SupportsIndex, grad: typing.SupportsInt | typing.SupportsIndex, kept: typing.SupportsInt | typing.SupportsIndex, grad_q: typing.SupportsInt | typing.SupportsIndex, grad_p: typing.SupportsInt | typing.SupportsIndex, failed_slice: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Gradients in q and p, skipped where the address is 0. kept: of density_ratio, or 0.
    """
def device_count() -> int:
    """
    CUDA devices that can be used; 0 without a driver.
    """
def divergence(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], size: typing.SupportsInt | typing.SupportsIndex, divergence: typing.SupportsInt | typing.SupportsIndex, alpha: typing.SupportsFloat | typing.SupportsIndex, t: typing.SupportsInt | typing.SupportsIndex, value: typing.SupportsInt | typing.SupportsIndex, derivative: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Value and derivative of f at t.
    """
def gaussian_kernel_logsumexp(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, halves: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, y: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, log_weights: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    log sum_j exp(l_j) K(x_i, y_j), [m, b].
    """
def gaussian_kernel_logsumexp_total(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, halves: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, y: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, log_weights: typing.SupportsInt | typing.SupportsIndex, row_weights: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex, grad_y: typing.SupportsInt | typing.SupportsIndex, grad_log_weights: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Log sums, [m, b], and the gradients of their weighted total, skipped where the address is 0.
    """
def gaussian_kernel_logsumexp_vjp(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, halves: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, y: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, log_weights: typing.SupportsInt | typing.SupportsIndex, logsumexp: typing.SupportsInt | typing.SupportsIndex, grad: typing.SupportsInt | typing.SupportsIndex, grad_x: typing.SupportsInt | typing.SupportsIndex, grad_y: typing.SupportsInt | typing.SupportsIndex, grad_log_weights: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Gradients in x, y and log_weights, skipped where the address is 0.
    """
def gaussian_kernel_sum(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, halves: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, y: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, weights: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    sum_j w_j K(x_i, y_j), [m, b].
    """
def gaussian_kernel_sum_total(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, halves: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, y: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, weights: typing.SupportsInt | typing.SupportsIndex, row_weights: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex, grad_y: typing.SupportsInt | typing.SupportsIndex, grad_weights: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Sums, [m, b], and the gradients of their weighted total, skipped where the address is 0.
    """
def gaussian_kernel_sum_vjp(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, halves: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, y: typing.SupportsInt | typing.SupportsIndex, bandwidth: typing.SupportsInt | typing.SupportsIndex, weights: typing.SupportsInt | typing.SupportsIndex, grad: typing.SupportsInt | typing.SupportsIndex, grad_x: typing.SupportsInt | typing.SupportsIndex, grad_y: typing.SupportsInt | typing.SupportsIndex, grad_weights: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Gradients in x, y and weights, skipped where the address is 0.
    """
def host_numbers(device: typing.SupportsInt | typing.SupportsIndex, count: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Address of so many 8-byte numbers on the host, within reach of a device; never freed.
    """
def kept_numbers(b: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Numbers of a slice of b rows that density_ratio can keep for its gradients.
    """
def median_distance(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, value: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Median pairwise distance of each slice, [m].
    """
def median_distance_vjp(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, k: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, grad: typing.SupportsInt | typing.SupportsIndex, grad_x: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Gradient in x, [m, b, k].
    """
def project_fast(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], n: typing.SupportsInt | typing.SupportsIndex, d: typing.SupportsInt | typing.SupportsIndex, p: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, frame: typing.SupportsInt | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, key0: typing.SupportsInt | typing.SupportsIndex, key1: typing.SupportsInt | typing.SupportsIndex, first_row: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Rows times frame plus Philox noise.
    """
def project_secure(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], n: typing.SupportsInt | typing.SupportsIndex, d: typing.SupportsInt | typing.SupportsIndex, p: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, frame: typing.SupportsInt | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, key: bytes, first_row: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Rows times frame (float64) plus ChaCha20 noise, on the grid of the release.
    """
def row_totals(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, weights: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, totals: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Weighted totals of rows, [m]; rows of weight zero that are not finite become zeros.
    """
def sliced_wasserstein(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, allocate: collections.abc.Callable[[int], typing.SupportsInt | typing.SupportsIndex], m: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, c: typing.SupportsInt | typing.SupportsIndex, x: typing.SupportsInt | typing.SupportsIndex, y: typing.SupportsInt | typing.SupportsIndex, order: typing.SupportsFloat | typing.SupportsIndex, value: typing.SupportsInt | typing.SupportsIndex, grad_x: typing.SupportsInt | typing.SupportsIndex, grad_y: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    W_q^q of each slice, [m], and its gradients, skipped where the address is 0.
    """
