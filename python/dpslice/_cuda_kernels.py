"""The functions of ``dpslice._core`` for arrays on a CUDA device.

`_arrays.backend_for` has one `CudaKernels` for each place of arguments. Results are allocated
by the arguments' own library, on their device; the compiled module ``dpslice._cuda`` gets addresses
and launches on the stream that was current. Arguments were checked in `_arrays`; here, as in the
CPU's bindings, are only guards against reading out of bounds.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Sequence
from typing import Any

from dpslice import _arrays
from dpslice._arrays import Place

Array = Any

_MOST_KEPT_BYTES = 512 * 2**20  # of factors, from density_ratio to its gradients


def _dtype(array: Array) -> str:
    return str(array.dtype).removeprefix("torch.")


def _require(
    name: str, array: Array, shape: tuple[int, ...], like: Array, dtype: str | None = None
) -> None:
    """Refuse what would be read out of bounds: another shape, dtype or device than `like` implies.

    `like` is the first argument; a `dtype` is given where it is not that of `like`.
    """
    if array.shape != shape:
        raise ValueError(
            f"{name} does not have the shape {shape} that the other arguments imply; "
            f"got {tuple(array.shape)}"
        )
    good = array.dtype == like.dtype if dtype is None else _dtype(array) == dtype
    if not good:
        raise ValueError(f"{name} must have dtype {dtype or _dtype(like)}; got {_dtype(array)}")
    if array.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like the others; got {array.device}")


class _Report(ctypes.Structure):
    """What a device says of slices that failed in calls that did not wait. It lies in host memory.

    The device writes it while kernels run: the ridge first, then the slice, the least so far. Of
    several calls that failed since it was last read, these may be of two. What fails in the very
    moment in which the slice is reset may be missed, or reported twice: the host's and the device's
    accesses are not atomic to each other.
    """

    _fields_ = (("slice", ctypes.c_int64), ("ridge", ctypes.c_double))


# One for each compiled module and device, for as long as the process lives: recorded graphs have
# its address.
_reports: dict[tuple[Any, int], _Report] = {}
_reports_lock = threading.Lock()


def _report_of(module: Any, device: int) -> _Report:
    """Return the report of a device; RuntimeError if it gets no memory within its reach."""
    with _reports_lock:
        report = _reports.get((module, device))
        if report is None:
            report = _Report.from_address(module.host_numbers(device, len(_Report._fields_)))
            report.slice = -1
            _reports[module, device] = report
        return report


def _failure(failed: int, ridge: float, when: str = "") -> ValueError:
    return ValueError(
        f"{when}the kernel matrix of slice {failed} plus ridge = {ridge} is not positive definite "
        "to working precision: use a larger ridge (or the points hold NaN)"
    )


def _raise_earlier(report: _Report) -> None:
    """Raise for what is reported, once."""
    with _reports_lock:
        failed, ridge = report.slice, report.ridge
        report.slice = -1
    if failed >= 0:  # no other thread was quicker
        raise _failure(failed, ridge, when="in an earlier call, whose result holds NaN, ")


class CudaKernels:
    """Kernels on one device and stream, under the names of ``dpslice._core``.

    Parameters
    ----------
    module : module
        ``dpslice._cuda``.
    place : Place
        Library, device and stream of the arrays.
    later : bool
        Do not wait for a slice that may fail: a later call raises for it.
    """

    def __init__(self, module: Any, place: Place, later: bool = False) -> None:
        self._module = module
        self._place = place
        self._later = later
        self._device = int(place.device.removeprefix("cuda:"))

    # ------------------------------------------------------------------------------- helpers

    def _call(self, name: str, like: Array, given: Sequence[Any], results: Sequence[Any]) -> None:
        """Launch; arrays and None among the arguments become addresses.

        `results`, the last arguments, were made for this call, by `_empty`.
        """
        workspaces = []

        def allocate(size: int) -> int:
            workspaces.append(self._empty(like, size, dtype="uint8"))
            return _arrays.address(workspaces[-1], self._place)

        numbers = _arrays.device_addresses(given, self._place, new=results)
        function = getattr(self._module, name)
        function(_dtype(like), self._device, self._place.stream or 0, allocate, *numbers)

    def _empty(self, like: Array, *shape: int, dtype: str | None = None) -> Array:
        return _arrays.device_empty(shape, dtype, like, self._place)

    def _pair_sizes(
        self, x_name: str, x: Array, y_name: str, y: Array
    ) -> tuple[int, int, int, int]:
        if len(x.shape) != 3 or len(y.shape) != 3:
            raise ValueError(f"{x_name} and {y_name} must have 3 axes")
        m, b, k = x.shape
        c = y.shape[1]
        _require(y_name, y, (m, c, k), x)
        if min(m, b, c, k) < 1:
            raise ValueError(f"{x_name} and {y_name} must have no empty axis")
        return m, b, c, k

    def _weighted_pair_sizes(
        self, x: Array, y: Array, bandwidth: Array, weights_name: str, weights: Array | None
    ) -> tuple[int, int, int, int]:
        """Return m, b, c, k of x, y, the bandwidths and the weights of y, checked."""
        m, b, c, k = self._pair_sizes("x", x, "y", y)
        _require("bandwidth", bandwidth, (m,), x)
        if weights is not None:
            _require(weights_name, weights, (m, c), x)
        return m, b, c, k

    def _look_back(self) -> None:
        """Raise if a call before is known to have failed by now.

        Not while the stream is recorded: what is recorded has nothing to do with it.
        """
        if self._later:
            for report in tuple(_reports.values()):
                if report.slice >= 0 and not _arrays.capturing(self._place):
                    _raise_earlier(report)

    @functools.cached_property
    def _report_address(self) -> int:
        return ctypes.addressof(_report_of(self._module, self._device))

    def _launch_slices(
        self, name: str, like: Array, given: Sequence[Any], results: Sequence[Any], ridge: float
    ) -> None:
        """Launch what may fail on a slice, and raise for that: after waiting, or in a later call.

        While the stream is recorded, nobody can wait: then such a slice is NaN, and no more.
        """
        if self._later:
            self._call(name, like, given, (*results, self._report_address))
            return
        failed_slice = _arrays.device_full(2, -1, "int64", like, self._place)
        self._call(name, like, given, (*results, failed_slice))
        if not _arrays.capturing(self._place):
            failed = int(failed_slice[0])
            if failed >= 0:
                raise _failure(failed, ridge)

    # --------------------------------------------------------------------------- kernel sums
    #
    # Kernel sums and log sums take the arguments that the functions of ``dpslice._core`` do.

    def gaussian_kernel_sum(self, *given: Any) -> Array:
        """Return sum_j w_j K(x_i, y_j), (m, b)."""
        return self._pair_sum("gaussian_kernel_sum", "weights", *given)

    def gaussian_kernel_logsumexp(self, *given: Any) -> Array:
        """Return log sum_j exp(l_j) K(x_i, y_j), (m, b)."""
        return self._pair_sum("gaussian_kernel_logsumexp", "log_weights", *given)

    def _pair_sum(
        self,
        name: str,
        weights_name: str,
        x: Array,
        y: Array,
        bandwidth: Array,
        weights: Array | None,
    ) -> Array:
        m, b, c, k = self._weighted_pair_sizes(x, y, bandwidth, weights_name, weights)
        out = self._empty(x, m, b)
        halves = _arrays.product_halves(self._place)
        self._call(name, x, (m, b, c, k, halves, x, y, bandwidth, weights), (out,))
        return out

    def gaussian_kernel_sum_vjp(self, *given: Any) -> tuple[Array | None, ...]:
        """Return the gradients in x, y and weights, None where not needed."""
        return self._pair_vjp("gaussian_kernel_sum_vjp", "weights", ("grad",), *given)

    def gaussian_kernel_logsumexp_vjp(self, *given: Any) -> tuple[Array | None, ...]:
        """Return the gradients in x, y and log_weights, None where not needed."""
        rows = ("logsumexp", "grad")
        return self._pair_vjp("gaussian_kernel_logsumexp_vjp", "log_weights", rows, *given)

    def _pair_vjp(
        self,
        name: str,
        weights_name: str,
        row_names: tuple[str, ...],
        x: Array,
        y: Array,
        bandwidth: Array,
        weights: Array | None,
        *more: Any,
    ) -> tuple[Array | None, ...]:
        m, b, c, k = self._weighted_pair_sizes(x, y, bandwidth, weights_name, weights)
        rows, (need_x, need_y, need_weights) = more[:-3], more[-3:]
        for row_name, row in zip(row_names, rows, strict=True):
            _require(row_name, row, (m, b), x)
        grad_x = self._empty(x, m, b, k) if need_x else None
        grad_y = self._empty(x, m, c, k) if need_y else None
        grad_weights = self._empty(x, m, c) if need_weights else None
        grads = (grad_x, grad_y, grad_weights)
        halves = _arrays.product_halves(self._place)
        self._call(name, x, (m, b, c, k, halves, x, y, bandwidth, weights, *rows), grads)
        return grads

    def gaussian_kernel_sum_total(self, *given: Any) -> tuple[Array | None, ...]:
        """Return weighted totals of the sums, the sums, and gradients in y and weights."""
        return self._pair_total("gaussian_kernel_sum", "weights", *given)

    def gaussian_kernel_logsumexp_total(self, *given: Any) -> tuple[Array | None, ...]:
        """Return weighted totals of the log sums, these, and gradients in y and log_weights."""
        return self._pair_total("gaussian_kernel_logsumexp", "log_weights", *given)

    def _pair_total(
        self,
        name: str,
        weights_name: str,
        x: Array,
        y: Array,
        bandwidth: Array,
        weights: Array | None,
        row_weights: Array,
        need_y: bool,
        need_weights: bool,
    ) -> tuple[Array | None, ...]:
        m, b, c, k = self._weighted_pair_sizes(x, y, bandwidth, weights_name, weights)
        _require("row_weights", row_weights, (m, b), x)
        if not (need_y or need_weights):
            sums = self._pair_sum(name, weights_name, x, y, bandwidth, weights)
            return *self._row_totals(row_weights, sums), None, None
        sums = self._empty(x, m, b)
        grad_y = self._empty(x, m, c, k) if need_y else None
        grad_weights = self._empty(x, m, c) if need_weights else None
        halves = _arrays.product_halves(self._place)
        given = (m, b, c, k, halves, x, y, bandwidth, weights, row_weights)
        self._call(f"{name}_total", x, given, (sums, grad_y, grad_weights))
        return *self._row_totals(row_weights, sums), grad_y, grad_weights

    def _row_totals(self, row_weights: Array, rows: Array) -> tuple[Array, Array]:
        """Return weighted totals, and the rows with zeros for those that are left out."""
        m, b = rows.shape
        totals = self._empty(rows, m)
        self._call("row_totals", rows, (m, b, row_weights), (rows, totals))
        return totals, rows

    # ------------------------------------------------------------------------- density ratio

    def density_ratio(
        self,
        q: Array,
        p: Array,
        bandwidth: Array,
        ridge: float,
        sigma: float,
        kept: Array | None = None,
    ) -> Array:
        """Return the regularised density ratio at q, (m, b); `kept` is of `room_for_factors`."""
        m, b, c, k = self._pair_sizes("q", q, "p", p)
        _require("bandwidth", bandwidth, (m,), q)
        self._look_back()
        ratio = self._empty(q, m, b)
        given = (m, b, c, k, q, p, bandwidth, ridge, sigma)
        self._launch_slices("density_ratio", q, given, (ratio, kept), ridge)
        return ratio

    def room_for_factors(self, q: Array) -> Array | None:
        """Return room for what `density_ratio` may keep for its gradients; None if it is too much.

        These are the Cholesky factors of all slices.
        """
        m, b = int(q.shape[0]), int(q.shape[1])
        numbers = m * self._module.kept_numbers(b)
        if numbers * 8 > _MOST_KEPT_BYTES:
            return None
        return self._empty(q, numbers, dtype="float64")

    def density_ratio_vjp(
        self,
        q: Array,
        p: Array,
        bandwidth: Array,
        ridge: float,
        sigma: float,
        ratio: Array,
        grad: Array,
        need_q: bool,
        need_p: bool,
        kept: Array | None = None,
    ) -> tuple[Array | None, Array | None]:
        """Return the gradients in q and p, None where not needed.

        Parameters
        ----------
        kept : array, optional
            What `density_ratio` left there for the same points.
        """
        m, b, c, k = self._pair_sizes("q", q, "p", p)
        _require("bandwidth", bandwidth, (m,), q)
        _require("ratio", ratio, (m, b), q)
        _require("grad", grad, (m, b), q)
        grad_q = self._empty(q, m, b, k) if need_q else None
        grad_p = self._empty(q, m, c, k) if need_p else None
        if need_q or need_p:
            given = (m, b, c, k, q, p, bandwidth, ridge, sigma, ratio, grad, kept)
            if self._later:  # the call that made `ratio` reports the same failure
                self._call("density_ratio_vjp", q, given, (grad_q, grad_p, None))
            else:
                self._launch_slices("density_ratio_vjp", q, given, (grad_q, grad_p), ridge)
        return grad_q, grad_p

    def density_ratio_divergence(
        self,
        q: Array,
        p: Array,
        bandwidth: Array,
        ridge: float,
        sigma: float,
        divergence: int,
        alpha: float,
        r_min: float,
        need_p: bool,
    ) -> tuple[Array, Array | None]:
        """Return the f-divergence of each slice and its gradient in p, None if not needed."""
        m, b, c, k = self._pair_sizes("q", q, "p", p)
        bandwidths = bandwidth.shape[0]
        _require("bandwidth", bandwidth, (max(bandwidths, 1), m), q)
        self._look_back()
        value = self._empty(q, m)
        grad_p = self._empty(q, m, c, k) if need_p else None
        given = (
            *(m, b, c, k, bandwidths, q, p, bandwidth),
            *(ridge, sigma, divergence, alpha, r_min),
        )
        self._launch_slices("density_ratio_divergence", q, given, (value, grad_p), ridge)
        return value, grad_p

    def divergence(self, divergence: int, alpha: float, t: Array) -> tuple[Array, Array]:
        """Return f and its derivative at each t >= 0."""
        value, derivative = self._empty(t, *t.shape), self._empty(t, *t.shape)
        size = math.prod(t.shape)
        if size > 0:
            self._call("divergence", t, (size, divergence, alpha, t), (value, derivative))
        return value, derivative

    # ------------------------------------------------------------------ Wasserstein, medians

    def _line_sizes(self, x: Array, y: Array) -> tuple[int, int, int]:
        if len(x.shape) != 2 or len(y.shape) != 2:
            raise ValueError("x and y must have 2 axes")
        m, b = x.shape
        c = y.shape[1]
        _require("y", y, (m, c), x)
        if min(m, b, c) < 1:
            raise ValueError("x and y must have no empty axis")
        return m, b, c

    def sliced_wasserstein(self, x: Array, y: Array, order: float) -> Array:
        """Return W_q^q of each slice, (m,)."""
        return self.sliced_wasserstein_gradient(x, y, order, False, False)[0]

    def sliced_wasserstein_gradient(
        self, x: Array, y: Array, order: float, need_x: bool, need_y: bool
    ) -> tuple[Array, Array | None, Array | None]:
        """Return W_q^q of each slice, and its gradients in x and y, None where not needed."""
        m, b, c = self._line_sizes(x, y)
        value = self._empty(x, m)
        grad_x = self._empty(x, m, b) if need_x else None
        grad_y = self._empty(x, m, c) if need_y else None
        self._call("sliced_wasserstein", x, (m, b, c, x, y, order), (value, grad_x, grad_y))
        return value, grad_x, grad_y

    def median_distance(self, x: Array) -> Array:
        """Return the median pairwise distance of each slice, (m,)."""
        m, b, k = x.shape
        value = self._empty(x, m)
        self._call("median_distance", x, (m, b, k, x), (value,))
        return value

    def median_distance_vjp(self, x: Array, grad: Array) -> Array:
        """Return the gradient of the medians in x, (m, b, k)."""
        m, b, k = x.shape
        _require("grad", grad, (m,), x)
        grad_x = self._empty(x, m, b, k)
        self._call("median_distance_vjp", x, (m, b, k, x, grad), (grad_x,))
        return grad_x

    # ------------------------------------------------------------------------------- project

    def _product_sizes(
        self, x: Array, frame: Array, frame_dtype: str | None = None
    ) -> tuple[int, int, int]:
        if len(x.shape) != 2 or len(frame.shape) != 2:
            raise ValueError("x and frame must have 2 axes")
        n, d = x.shape
        p = frame.shape[1]
        _require("frame", frame, (d, p), x, frame_dtype)
        return n, d, p

    def project_secure(
        self,
        x: Array,
        frame: Array,
        sigma: float,
        key: bytes,
        first_row: int,
        max_norm: float,
        dtype: str,
    ) -> Array:
        """Return XU plus ChaCha20 noise, on the grid of the release; `frame` in float64."""
        if max_norm != math.inf:
            raise ValueError("rows are clipped on the CPU only; max_norm must be infinite here")
        if dtype != _dtype(x):
            raise ValueError(f"dtype must be {_dtype(x)}, that of x; got {dtype}")
        n, d, p = self._product_sizes(x, frame, "float64")
        out = self._empty(x, n, p, dtype=dtype)
        self._call("project_secure", x, (n, d, p, x, frame, sigma, key, first_row), (out,))
        return out

    def project_fast(
        self, x: Array, frame: Array, sigma: float, key: tuple[int, int], first_row: int
    ) -> Array:
        """Return XU plus Philox noise."""
        n, d, p = self._product_sizes(x, frame)
        out = self._empty(x, n, p)
        self._call("project_fast", x, (n, d, p, x, frame, sigma, *key, first_row), (out,))
        return out
