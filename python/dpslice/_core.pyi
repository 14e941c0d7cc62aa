"""
Compiled kernels of dpslice. Arguments are checked in dpslice._arrays, not here.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['available_isas', 'bounded_rows', 'build_config', 'chacha20_block', 'density_ratio', 'density_ratio_divergence', 'density_ratio_vjp', 'divergence', 'exp2', 'gaussian_kernel_logsumexp', 'gaussian_kernel_logsumexp_total', 'gaussian_kernel_logsumexp_vjp', 'gaussian_kernel_sum', 'gaussian_kernel_sum_total', 'gaussian_kernel_sum_vjp', 'isa', 'kernel_feature_sums', 'median_distance', 'median_distance_vjp', 'num_threads', 'philox4x32', 'project_fast', 'project_secure', 'reach', 'secure_normals', 'set_isa', 'set_num_threads', 'shuffle_rows', 'sliced_wasserstein', 'sliced_wasserstein_gradient']
def available_isas() -> list[str]:
    """
    Instruction sets that this build and this processor both have, slowest first.
    """
@typing.overload
def bounded_rows(x: numpy.typing.NDArray[numpy.float32], max_norm: typing.SupportsFloat | typing.SupportsIndex, step: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float64]:
    """
    Rows clipped to max_norm, in multiples of step if that is not 0, [n, d].
    """
@typing.overload
def bounded_rows(x: numpy.typing.NDArray[numpy.float64], max_norm: typing.SupportsFloat | typing.SupportsIndex, step: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float64]:
    """
    Rows clipped to max_norm, in multiples of step if that is not 0, [n, d].
    """
def build_config() -> dict:
    """
    Facts about this build.
    """
def chacha20_block(key: typing_extensions.Buffer, counter: typing.SupportsInt | typing.SupportsIndex, nonce: bytes) -> bytes:
    """
    One block of the ChaCha20 key stream (RFC 8439).
    """
@typing.overload
def density_ratio(q: numpy.typing.NDArray[numpy.float32], p: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float32]:
    """
    Regularised density ratio at q, [m, b].
    """
@typing.overload
def density_ratio(q: numpy.typing.NDArray[numpy.float64], p: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float64]:
    """
    Regularised density ratio at q, [m, b].
    """
@typing.overload
def density_ratio_divergence(q: numpy.typing.NDArray[numpy.float32], p: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, divergence: typing.SupportsInt | typing.SupportsIndex, alpha: typing.SupportsFloat | typing.SupportsIndex, r_min: typing.SupportsFloat | typing.SupportsIndex, need_p: bool) -> tuple:
    """
    f-divergence of each slice and its gradient in p.
    """
@typing.overload
def density_ratio_divergence(q: numpy.typing.NDArray[numpy.float64], p: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, divergence: typing.SupportsInt | typing.SupportsIndex, alpha: typing.SupportsFloat | typing.SupportsIndex, r_min: typing.SupportsFloat | typing.SupportsIndex, need_p: bool) -> tuple:
    """
    f-divergence of each slice and its gradient in p.
    """
@typing.overload
def density_ratio_vjp(q: numpy.typing.NDArray[numpy.float32], p: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, ratio: numpy.typing.NDArray[numpy.float32], grad: numpy.typing.NDArray[numpy.float32], need_q: bool, need_p: bool) -> tuple:
    """
    Gradients in q and p, None where not needed.
    """
@typing.overload
def density_ratio_vjp(q: numpy.typing.NDArray[numpy.float64], p: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], ridge: typing.SupportsFloat | typing.SupportsIndex, sigma: typing.SupportsFloat | typing.SupportsIndex, ratio: numpy.typing.NDArray[numpy.float64], grad: numpy.typing.NDArray[numpy.float64], need_q: bool, need_p: bool) -> tuple:
    """
    Gradients in q and p, None where not needed.
    """
@typing.overload
def divergence(divergence: typing.SupportsInt | typing.SupportsIndex, alpha: typing.SupportsFloat | typing.SupportsIndex, t: numpy.typing.NDArray[numpy.float32]) -> tuple:
    """
    Value and derivative of f at t.
    """
@typing.overload
def divergence(divergence: typing.SupportsInt | typing.SupportsIndex, alpha: typing.SupportsFloat | typing.SupportsIndex, t: numpy.typing.NDArray[numpy.float64]) -> tuple:
    """
    Value and derivative of f at t.
    """
@typing.overload
def exp2(x: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
    """
    2 to the power of each number as kernels compute it, for tests.
    """
@typing.overload
def exp2(x: numpy.typing.NDArray[numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
    """
    2 to the power of each number as kernels compute it, for tests.
    """
@typing.overload
def gaussian_kernel_logsumexp(x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], log_weights: numpy.typing.NDArray[numpy.float32] | None) -> numpy.typing.NDArray[numpy.float32]:
    """
    log sum_j exp(l_j) K(x_i, y_j), [m, b].
    """
@typing.overload
def gaussian_kernel_logsumexp(x: numpy.typing.NDArray[numpy.float64], y: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], log_weights: numpy.typing.NDArray[numpy.float64] | None) -> numpy.typing.NDArray[numpy.float64]:
    """
    log sum_j exp(l_j) K(x_i, y_j), [m, b].
    """
@typing.overload
def gaussian_kernel_logsumexp_total(x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], log_weights: numpy.typing.NDArray[numpy.float32] | None, row_weights: numpy.typing.NDArray[numpy.float32], need_y: bool, need_log_weights: bool) -> tuple:
    """
    Totals [m] weighted by row_weights, the log sums [m, b], gradients in y and log_weights.
    """
@typing.overload
def gaussian_kernel_logsumexp_total(x: numpy.typing.NDArray[numpy.float64], y: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], log_weights: numpy.typing.NDArray[numpy.float64] | None, row_weights: numpy.typing.NDArray[numpy.float64], need_y: bool, need_log_weights: bool) -> tuple:
    """
    Totals [m] weighted by row_weights, the log sums [m, b], gradients in y and log_weights.
    """
@typing.overload
def gaussian_kernel_logsumexp_vjp(x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], log_weights: numpy.typing.NDArray[numpy.float32] | None, logsumexp: numpy.typing.NDArray[numpy.float32], grad: numpy.typing.NDArray[numpy.float32], need_x: bool, need_y: bool, need_log_weights: bool) -> tuple:
    """
    Gradients in x, y and log_weights, None where not needed.
    """
@typing.overload
def gaussian_kernel_logsumexp_vjp(x: numpy.typing.NDArray[numpy.float64], y: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], log_weights: numpy.typing.NDArray[numpy.float64] | None, logsumexp: numpy.typing.NDArray[numpy.float64], grad: numpy.typing.NDArray[numpy.float64], need_x: bool, need_y: bool, need_log_weights: bool) -> tuple:
    """
    Gradients in x, y and log_weights, None where not needed.
    """
@typing.overload
def gaussian_kernel_sum(x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], weights: numpy.typing.NDArray[numpy.float32] | None) -> numpy.typing.NDArray[numpy.float32]:
    """
    sum_j w_j K(x_i, y_j), [m, b].
    """
@typing.overload
def gaussian_kernel_sum(x: numpy.typing.NDArray[numpy.float64], y: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], weights: numpy.typing.NDArray[numpy.float64] | None) -> numpy.typing.NDArray[numpy.float64]:
    """
    sum_j w_j K(x_i, y_j), [m, b].
    """
@typing.overload
def gaussian_kernel_sum_total(x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], weights: numpy.typing.NDArray[numpy.float32] | None, row_weights: numpy.typing.NDArray[numpy.float32], need_y: bool, need_weights: bool) -> tuple:
    """
    Totals [m] weighted by row_weights, the sums [m, b], gradients in y and weights.
    """
@typing.overload
def gaussian_kernel_sum_total(x: numpy.typing.NDArray[numpy.float64], y: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], weights: numpy.typing.NDArray[numpy.float64] | None, row_weights: numpy.typing.NDArray[numpy.float64], need_y: bool, need_weights: bool) -> tuple:
    """
    Totals [m] weighted by row_weights, the sums [m, b], gradients in y and weights.
    """
@typing.overload
def gaussian_kernel_sum_vjp(x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32], weights: numpy.typing.NDArray[numpy.float32] | None, grad: numpy.typing.NDArray[numpy.float32], need_x: bool, need_y: bool, need_weights: bool) -> tuple:
    """
    Gradients in x, y and weights, None where not needed.
    """
@typing.overload
def gaussian_kernel_sum_vjp(x: numpy.typing.NDArray[numpy.float64], y: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64], weights: numpy.typing.NDArray[numpy.float64] | None, grad: numpy.typing.NDArray[numpy.float64], need_x: bool, need_y: bool, need_weights: bool) -> tuple:
    """
    Gradients in x, y and weights, None where not needed.
    """
def isa() -> str:
    """
    Instruction set in use.
    """
def kernel_feature_sums(y: numpy.typing.NDArray[numpy.float64], landmarks: numpy.typing.NDArray[numpy.float64], factors: numpy.typing.NDArray[numpy.float64], scale: typing.SupportsFloat | typing.SupportsIndex, bound: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.int64]:
    """
    Sums of floor(scale K) over rows at the landmarks of each slice, [m, c].
    """
@typing.overload
def median_distance(x: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
    """
    Median pairwise distance of each slice, [m].
    """
@typing.overload
def median_distance(x: numpy.typing.NDArray[numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
    """
    Median pairwise distance of each slice, [m].
    """
@typing.overload
def median_distance_vjp(x: numpy.typing.NDArray[numpy.float32], grad: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
    """
    Gradient in x.
    """
@typing.overload
def median_distance_vjp(x: numpy.typing.NDArray[numpy.float64], grad: numpy.typing.NDArray[numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
    """
    Gradient in x.
    """
def num_threads() -> int:
    """
    Threads that kernels use.
    """
def philox4x32(counter: typing.Annotated[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(4)"], key: typing.Annotated[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(2)"]) -> typing.Annotated[list[int], "FixedSize(4)"]:
    """
    One block of Philox4x32-10.
    """
@typing.overload
def project_fast(x: numpy.typing.NDArray[numpy.float32], frame: numpy.typing.NDArray[numpy.float32], sigma: typing.SupportsFloat | typing.SupportsIndex, key: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], first_row: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float32]:
    """
    Rows times frame plus Philox noise: reproducible, not private.
    """
@typing.overload
def project_fast(x: numpy.typing.NDArray[numpy.float64], frame: numpy.typing.NDArray[numpy.float64], sigma: typing.SupportsFloat | typing.SupportsIndex, key: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], first_row: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float64]:
    """
    Rows times frame plus Philox noise: reproducible, not private.
    """
@typing.overload
def project_secure(x: numpy.typing.NDArray[numpy.float32], frame: numpy.typing.NDArray[numpy.float64], sigma: typing.SupportsFloat | typing.SupportsIndex, key: typing_extensions.Buffer, first_row: typing.SupportsInt | typing.SupportsIndex, max_norm: typing.SupportsFloat | typing.SupportsIndex, dtype: str) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]:
    """
    Clipped rows times frame plus ChaCha20 noise, on the grid of the release.
    """
@typing.overload
def project_secure(x: numpy.typing.NDArray[numpy.float64], frame: numpy.typing.NDArray[numpy.float64], sigma: typing.SupportsFloat | typing.SupportsIndex, key: typing_extensions.Buffer, first_row: typing.SupportsInt | typing.SupportsIndex, max_norm: typing.SupportsFloat | typing.SupportsIndex, dtype: str) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]:
    """
    Clipped rows times frame plus ChaCha20 noise, on the grid of the release.
    """
@typing.overload
def reach(points: numpy.typing.NDArray[numpy.float32], bandwidth: numpy.typing.NDArray[numpy.float32]) -> float:
    """
    Largest |coordinate| over bandwidth; NaN where one of either is not usable.
    """
@typing.overload
def reach(points: numpy.typing.NDArray[numpy.float64], bandwidth: numpy.typing.NDArray[numpy.float64]) -> float:
    """
    Largest |coordinate| over bandwidth; NaN where one of either is not usable.
    """
def secure_normals(words: numpy.typing.NDArray[numpy.uint32]) -> numpy.typing.NDArray[numpy.float64]:
    """
    Pairs of standard normals, each from six uniform random words.
    """
def set_isa(name: str) -> None:
    """
    Use the kernels of another instruction set.
    """
def set_num_threads(threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Set the threads that kernels use.
    """
def shuffle_rows(array: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]], key: typing_extensions.Buffer) -> None:
    """
    Put the rows of an array into uniformly random order, in place.
    """
@typing.overload
def sliced_wasserstein(x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32], order: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float32]:
    """
    W_q^q of each slice, [m].
    """
@typing.overload
def sliced_wasserstein(x: numpy.typing.NDArray[numpy.float64], y: numpy.typing.NDArray[numpy.float64], order: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float64]:
    """
    W_q^q of each slice, [m].
    """
@typing.overload
def sliced_wasserstein_gradient(x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32], order: typing.SupportsFloat | typing.SupportsIndex, need_x: bool, need_y: bool) -> tuple:
    """
    W_q^q of each slice [m], and its gradients in x and y, None where not needed.
    """
@typing.overload
def sliced_wasserstein_gradient(x: numpy.typing.NDArray[numpy.float64], y: numpy.typing.NDArray[numpy.float64], order: typing.SupportsFloat | typing.SupportsIndex, need_x: bool, need_y: bool) -> tuple:
    """
    W_q^q of each slice [m], and its gradients in x and y, None where not needed.
    """
