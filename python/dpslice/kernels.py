r"""The kernels on arrays: batched over slices, NumPy, torch or CuPy arrays in, the same kind out.

Shapes are those of the whole library: m slices of dimension k, with b and c points in each. Results
are in the dtype of the arguments, float32 or float64, and are made with as many threads as
``dpslice.set_num_threads`` says. Arrays of any strides and byte order are taken; what the kernels
cannot read as it lies is copied first. No axis may be empty. Points in float32 must lie within 1e17
bandwidths of the origin, in float64 within 1e150, and Wasserstein distances to the power of their
order must fit the dtype. What breaks one of these rules is a ValueError, and a masked array a
TypeError. Ctrl-C is heeded when a call ends.

CUDA tensors and CuPy arrays are worked on where they lie, on the current stream of their device, if
this build has CUDA kernels (``dpslice info`` says so; else NotImplementedError). Their values are
not checked, and only `density_ratio` waits for its result, to name a slice that failed; while a
CUDA graph is recorded it does not, and such a slice is NaN. Memory for work comes from the arrays'
own library. Kernel sums of float32 tensors in more than 8 dimensions have the bits of TensorFloat32
where ``torch.set_float32_matmul_precision`` allows it; those of CuPy arrays, all of float32.

Nothing here is differentiable: a tensor that requires a gradient is a ValueError, and
``dpslice.torch.functional`` has each kernel as a torch operator with its derivative.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import numpy as np

from dpslice import _arrays

__all__ = [
    "density_ratio",
    "gaussian_kernel_logsumexp",
    "gaussian_kernel_sum",
    "median_distance",
    "project",
    "sliced_wasserstein",
]

# One of the array kinds that are understood; what comes out is of the kind that went in.
Array = Any

_KEY_WORD: Final = 2**64
_LARGEST_NORMAL: Final = 1e3  # far above what any noise gives: 13.4
_SECURE_SIGMA: Final = (1e-270, 1e270)  # within, the grid and its inverse are normal numbers


def project(
    x: Array,
    frame: Array,
    sigma: float,
    noise: str = "secure",
    key: tuple[int, int] | None = None,
) -> Array:
    r"""Project rows on directions and add noise.

    .. math:: O = XU + V, \qquad V_{ij} \sim N(0, \sigma^2)

    Parameters
    ----------
    x : array, shape (n, d), float32 or float64
        Rows X. They are not clipped here.
    frame : array, shape (d, p)
        Directions U; kind, dtype and device of `x`.
    sigma : float
        Standard deviation of the noise, in the unit of the result; >= 0.
    noise : {"secure", "fast"}
        ``secure``: ChaCha20 key streams under a key from the operating system, never the same
        twice, and the result rounded to a power-of-two grid below sigma. ``fast``: counter-based
        Philox, whatever the number of threads; quick and reproducible, and it protects nobody.
    key : pair of int, optional
        Key of the fast noise, two numbers below 2^64; row i and column j of the noise depend on
        the key, i and j alone. Default: fresh. Refused with secure noise.

    Returns
    -------
    array, shape (n, p)
        The projections O, kind and dtype of `x`.

    Raises
    ------
    TypeError
        If an input is not an array, or kinds or dtypes are unsupported or differ.
    ValueError
        If shapes or devices disagree, values are not finite, or `sigma` is negative or so large
        that noise leaves the dtype; if `noise` is another word; with secure noise, if `sigma` is 0
        or not between 1e-270 and 1e270, or a `key` is given; with fast noise, if a number of the
        `key` is out of range.

    Notes
    -----
    This is the kernel under `dpslice.SlicingMechanism`, not a mechanism: it neither clips nor
    shuffles nor accounts for anything. The noise is made in the tile that it is added to.

    Examples
    --------
    >>> import numpy as np
    >>> project(np.eye(2), np.array([[1.0], [2.0]]), sigma=0.0, noise="fast")
    array([[1.],
           [2.]])
    """
    rows = _arrays.operand("x", x, ("n", "d"))
    directions = _arrays.operand("frame", frame, (rows.shape[1], "p"), like=rows)
    sigma = _arrays.nonnegative_real("sigma", sigma)
    most = float(np.finfo(rows.dtype).max) / _LARGEST_NORMAL
    if sigma > most:
        raise ValueError(f"sigma must be at most {most:.3g} with {rows.dtype} rows; got {sigma}")
    noise = _arrays.choice("noise", noise, ("secure", "fast"))
    core = _arrays.backend_for(rows.place)
    if noise == "secure":
        if key is not None:
            raise ValueError("key must be None with noise='secure', whose keys nobody may choose")
        if sigma == 0:
            raise ValueError("sigma must be > 0 with noise='secure'; got 0")
        if not _SECURE_SIGMA[0] < sigma < _SECURE_SIGMA[1]:
            raise ValueError(
                f"sigma must be between 1e-270 and 1e270 with noise='secure'; got {sigma}"
            )
        out = core.project_secure(
            rows.array,
            _arrays.widened(directions.array, rows.place),
            sigma,
            secrets.token_bytes(32),
            0,
            np.inf,
            rows.dtype.name,
        )
    else:
        out = core.project_fast(rows.array, directions.array, sigma, _fast_key(key), 0)
    return _arrays.same_kind(out, rows.place)


def _fast_key(key: Any) -> tuple[int, int]:
    if key is None:
        return secrets.randbelow(_KEY_WORD), secrets.randbelow(_KEY_WORD)
    return checked_key(key)


def checked_key(key: object) -> tuple[int, int]:
    """Return a key of the fast noise, or raise unless it is two integers of 64 bits."""
    if not isinstance(key, (tuple, list)) or len(key) != 2:
        raise TypeError(f"key must be a pair of integers; got {_arrays.describe(key)}")
    first, second = (_arrays.integer("key", word, minimum=0) for word in key)
    if first >= _KEY_WORD or second >= _KEY_WORD:
        raise ValueError(f"key must be two integers below 2^64; got {_arrays.describe(key)}")
    return first, second


def pair_operands(
    x: Array, y: Array, bandwidth: Array | float, weights_name: str, weights: Array | None
) -> tuple[_arrays.Operand, _arrays.Operand, _arrays.FloatArray, _arrays.FloatArray | None]:
    """Check the arguments of a kernel sum or, by the name of its weights, of a log sum.

    Not part of the public interface.
    """
    first, second = _arrays.point_pair("x", x, "y", y)
    g = _arrays.bandwidths("bandwidth", bandwidth, first)
    _arrays.check_reach({"x": first, "y": second}, "bandwidth", g)
    if weights is None:
        return first, second, g, None
    logarithms = weights_name == "log_weights"
    given = _arrays.operand(
        weights_name, weights, second.shape[:2], like=first, finite=not logarithms
    )
    if logarithms:
        _arrays.log_weight_values(weights_name, given)
    return first, second, g, given.array


def gaussian_kernel_sum(
    x: Array, y: Array, bandwidth: Array | float, weights: Array | None = None
) -> Array:
    r"""Sum the Gaussian kernel of each row of `x` over the rows of `y`, slice by slice.

    .. math:: S_{si} = \sum_j w_{sj} \exp(-\|x_{si} - y_{sj}\|^2 / (2 g_s^2))

    Parameters
    ----------
    x : array, shape (m, b, k), float32 or float64
        Query points of each slice, in any one unit of length.
    y : array, shape (m, c, k)
        Source points; kind, dtype, device and unit of `x`.
    bandwidth : float or array, shape (m,) or ()
        Kernel bandwidth g, in the unit of `x`. Finite and positive. An array is of the kind and
        device of `x`, in float32 or float64.
    weights : array, shape (m, c), optional
        Weights w of the source points; zero and negative ones are fine. Default: all one.

    Returns
    -------
    array, shape (m, b)
        Sums, kind and dtype of `x`.

    Raises
    ------
    TypeError
        If an input is not an array, or kinds or dtypes are unsupported or differ.
    ValueError
        If shapes or devices disagree, an axis is empty, values are not finite, or `bandwidth` is
        not finite and positive.

    Notes
    -----
    The (b, c) matrix is never formed: O(mbck) time, and O((b + c) k) extra memory per thread.
    Kernel values below the smallest normal number of the dtype count as zero.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((1, 1, 2))
    >>> y = np.array([[[0.0, 0.0], [3.0, 4.0]]])
    >>> gaussian_kernel_sum(x, y, bandwidth=5.0).round(6)  # 1 + exp(-1/2)
    array([[1.606531]])
    """
    first, second, g, factor = pair_operands(x, y, bandwidth, "weights", weights)
    core = _arrays.backend_for(first.place)
    out = core.gaussian_kernel_sum(first.array, second.array, g, factor)
    return _arrays.same_kind(out, first.place)


def gaussian_kernel_logsumexp(
    x: Array, y: Array, bandwidth: Array | float, log_weights: Array | None = None
) -> Array:
    r"""Log of the Gaussian-kernel sum of each row of `x` over the rows of `y`, slice by slice.

    .. math:: L_{si} = \log \sum_j w_{sj} \exp(-\|x_{si} - y_{sj}\|^2 / (2 g_s^2))

    Parameters
    ----------
    x : array, shape (m, b, k), float32 or float64
        Query points of each slice, in any one unit of length.
    y : array, shape (m, c, k)
        Source points; kind, dtype, device and unit of `x`.
    bandwidth : float or array, shape (m,) or ()
        Kernel bandwidth g, in the unit of `x`. Finite and positive. An array is of the kind and
        device of `x`, in float32 or float64.
    log_weights : array, shape (m, c), optional
        Logarithms of the weights w; ``-inf`` is a weight of zero. Default: all zero.

    Returns
    -------
    array, shape (m, b)
        Log sums, kind and dtype of `x`; ``-inf`` where every weight is zero.

    Raises
    ------
    TypeError
        If an input is not an array, or kinds or dtypes are unsupported or differ.
    ValueError
        If shapes or devices disagree, an axis is empty, values are not finite, or `bandwidth` is
        not finite and positive.

    Notes
    -----
    The (b, c) matrix is never formed: O(mbck) time, and O((b + c) k) extra memory per thread. The
    sum is a running maximum and a running sum of what exceeds it [1]_, so that points however far
    apart have a finite result.

    References
    ----------
    .. [1] Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((1, 1, 2))
    >>> y = np.full((1, 1, 2), 1000.0)
    >>> gaussian_kernel_logsumexp(x, y, bandwidth=1.0)  # where the plain sum is zero
    array([[-1000000.]])
    """
    first, second, g, offset = pair_operands(x, y, bandwidth, "log_weights", log_weights)
    core = _arrays.backend_for(first.place)
    out = core.gaussian_kernel_logsumexp(first.array, second.array, g, offset)
    return _arrays.same_kind(out, first.place)


def density_ratio(
    q: Array, p: Array, bandwidth: Array | float, ridge: float, sigma: float = 0.0
) -> Array:
    r"""Estimate the density ratio p/q at the points of `q`, slice by slice.

    .. math:: r_s = (K_{qq} + \tau I)^{-1} w_s, \qquad
        w_{si} = \frac bc \sum_j \mathbb E\, K_{g_s}(q_{si}, p_{sj} + v),
        \quad v \sim N(0, \sigma^2 I_k)

    Parameters
    ----------
    q : array, shape (m, b, k), float32 or float64
        Points at which the ratio is estimated: the released, noisy rows.
    p : array, shape (m, c, k)
        Points of the other distribution: synthetic rows; kind, dtype and device of `q`.
    bandwidth : float or array, shape (m,) or ()
        Kernel bandwidth g, in the unit of `q`. Finite and positive. An array is of the kind and
        device of `q`, in float32 or float64.
    ridge : float
        The ridge tau on the diagonal, >= 0.
    sigma : float
        Noise on the points of `p` that is averaged over in closed form, in the unit of `q`; >= 0.

    Returns
    -------
    array, shape (m, b)
        Ratios, kind and dtype of `q`. They estimate a positive number but may be negative.

    Raises
    ------
    TypeError
        If an input is not an array, or kinds or dtypes are unsupported or differ.
    ValueError
        If shapes or devices disagree, an axis is empty, values are not finite, or a number is out
        of range; if the matrix of a slice is not positive definite to working precision: the slice
        is named, and a larger ridge helps.

    Notes
    -----
    Extra memory is O(b^2) per thread. Equations (1), (5) and (6) of [1]_; the expectation over the
    noise is :math:`(g^2/h^2)^{k/2} K_h` with :math:`h^2 = g^2 + \sigma^2`.

    References
    ----------
    .. [1] Greenewald, Yu, Wang and Xu, "Privacy without Noisy Gradients: Slicing Mechanism for
       Generative Model Training", NeurIPS 2024, arXiv:2410.19941.

    Examples
    --------
    >>> import numpy as np
    >>> q = np.array([[[0.0], [100.0]]])
    >>> density_ratio(q, q, bandwidth=1.0, ridge=0.25)  # 1 / (1 + ridge), for points far apart
    array([[0.8, 0.8]])
    """
    first, second, *numbers = ratio_operands(q, p, bandwidth, ridge, sigma)
    core = _arrays.backend_for(first.place)
    out = core.density_ratio(first.array, second.array, *numbers)
    return _arrays.same_kind(out, first.place)


def ratio_operands(
    q: Array, p: Array, bandwidth: float | Array, ridge: float, sigma: float
) -> tuple[Any, ...]:
    """Check the arguments of `density_ratio`. Not part of the public interface."""
    first, second = _arrays.point_pair("q", q, "p", p)
    g = _arrays.bandwidths("bandwidth", bandwidth, first)
    _arrays.check_reach({"q": first, "p": second}, "bandwidth", g)
    ridge = _arrays.nonnegative_real("ridge", ridge)
    return first, second, g, ridge, _arrays.nonnegative_real("sigma", sigma)


def value_operands(x: Array, y: Array) -> tuple[_arrays.Operand, _arrays.Operand]:
    """Check the two sides of `sliced_wasserstein`. Not part of the public interface."""
    first = _arrays.operand("x", x, ("m", "b"))
    return first, _arrays.operand("y", y, (first.shape[0], "c"), like=first)


def sliced_wasserstein(x: Array, y: Array, order: float = 2.0) -> Array:
    r"""Wasserstein distance of each one-dimensional slice, to the power of its order.

    .. math:: W_s = \int_0^1 |F_{x_s}^{-1}(u) - F_{y_s}^{-1}(u)|^q \, du

    Parameters
    ----------
    x : array, shape (m, b), float32 or float64
        Values of each slice.
    y : array, shape (m, c)
        Values to compare with; kind, dtype and device of `x`. Where c differs from b the quantile
        functions are matched exactly.
    order : float
        The order q >= 1.

    Returns
    -------
    array, shape (m,)
        W_q^q of each slice, kind and dtype of `x`. Their mean is the sliced distance [1]_.

    Raises
    ------
    TypeError
        If an input is not an array, or kinds or dtypes are unsupported or differ.
    ValueError
        If shapes or devices disagree, an axis is empty, values are not finite or so far apart that
        a result is beyond their dtype, or `order` < 1.

    References
    ----------
    .. [1] Rakotomamonjy and Ralaivola, "Differentially Private Sliced Wasserstein Distance",
       ICML 2021.

    Examples
    --------
    >>> import numpy as np
    >>> sliced_wasserstein(np.array([[0.0, 1.0]]), np.array([[3.0, 2.0]]))
    array([4.])
    """
    first, second = value_operands(x, y)
    order = _arrays.real_at_least_one("order", order)
    core = _arrays.backend_for(first.place)
    values = core.sliced_wasserstein(first.array, second.array, order)
    _arrays.power_values(values, first, second, order)
    return _arrays.same_kind(values, first.place)


def median_distance(x: Array) -> Array:
    """Median Euclidean distance of all pairs of points, slice by slice.

    Parameters
    ----------
    x : array, shape (m, b, k), float32 or float64
        Points of each slice; b >= 2.

    Returns
    -------
    array, shape (m,)
        Median over the pairs i < j, the mean of the middle two where their number is even; kind
        and dtype of `x`.

    Raises
    ------
    TypeError
        If `x` is not an array of float32 or float64.
    ValueError
        If its shape is not (m, b, k) with b >= 2, or its values are not finite.

    Notes
    -----
    O(m b^2 k) time, and O(b) extra memory per thread: most distances are counted, not stored.

    Examples
    --------
    >>> import numpy as np
    >>> median_distance(np.array([[[0.0], [1.0], [3.0]]]))
    array([2.])
    """
    points = _arrays.operand("x", x, ("m", "b", "k"))
    if points.shape[1] < 2:
        raise ValueError(f"x must have shape (m, b, k) with b >= 2; got {points.shape}")
    core = _arrays.backend_for(points.place)
    return _arrays.same_kind(core.median_distance(points.array), points.place)
