"""Special functions, quadrature and root finding for the accounting, on NumPy alone.

Everything is in logarithms, so that nothing underflows, and vectorised, so that a call takes
milliseconds. Relative errors are about 1e-14; `dpslice.accounting` says how they are turned to the
safe side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SQRT_PI: Final = math.sqrt(math.pi)
_HALF_LOG_2PI: Final = 0.5 * math.log(2.0 * math.pi)


# ------------------------------------------------------------------- Mills ratio of the normal law
#
# m(x) = (1 - Phi(x)) / phi(x) = sqrt(pi/2) erfcx(x / sqrt 2). The rational approximations of
# erf and erfcx are Cody's, "Rational Chebyshev approximations for the error function", Math. Comp.
# 23 (1969) 631-637; highest power first after the leading coefficient, relative error < 1e-16.

_ERF_P: Final = (
    1.85777706184603153e-1,
    3.16112374387056560e00,
    1.13864154151050156e02,
    3.77485237685302021e02,
    3.20937758913846947e03,
)
_ERF_Q: Final = (
    1.0,
    2.36012909523441209e01,
    2.44024637934444173e02,
    1.28261652607737228e03,
    2.84423683343917062e03,
)
_ERFCX_P: Final = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594e00,
    6.61191906371416295e01,
    2.98635138197400131e02,
    8.81952221241769090e02,
    1.71204761263407058e03,
    2.05107837782607147e03,
    1.23033935479799725e03,
)
_ERFCX_Q: Final = (
    1.0,
    1.57449261107098347e01,
    1.17693950891312499e02,
    5.37181101862009858e02,
    1.62138957456669019e03,
    3.29079923573345963e03,
    4.36261909014324716e03,
    3.43936767414372164e03,
    1.23033935480374942e03,
)
_TAIL_P: Final = (
    1.63153871373020978e-2,
    3.05326634961232344e-1,
    3.60344899949804439e-1,
    1.25781726111229246e-1,
    1.60837851487422766e-2,
    6.58749161529837803e-4,
)
_TAIL_Q: Final = (
    1.0,
    2.56852019228982242e00,
    1.87295284992346725e00,
    5.27905102951428412e-1,
    6.05183413124413191e-2,
    2.33520497626869185e-3,
)
_ERF_LIMIT: Final = 0.46875
_TAIL_LIMIT: Final = 4.0


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += coefficient
    return value


def _tail(y: Array) -> Array:
    # 1 - sqrt(pi) y erfcx(y) for y > 4, without the cancellation of that difference.
    inverse = 1.0 / (y * y)
    return _SQRT_PI * inverse * _horner(_TAIL_P, inverse) / _horner(_TAIL_Q, inverse)


def _erfcx(y: Array) -> Array:
    # Scaled complementary error function, y >= -0.46875.
    result = np.empty_like(y)
    low, high = y <= _ERF_LIMIT, y > _TAIL_LIMIT
    middle = ~(low | high)
    if low.any():
        x = y[low]
        square = x * x
        erf = x * _horner(_ERF_P, square) / _horner(_ERF_Q, square)
        result[low] = np.exp(square) * (1.0 - erf)
    if middle.any():
        x = y[middle]
        result[middle] = _horner(_ERFCX_P, x) / _horner(_ERFCX_Q, x)
    if high.any():
        x = y[high]
        result[high] = (1.0 - _tail(x)) / (_SQRT_PI * x)
    return result


def _mills(x: Array) -> Array:
    # m(x), x >= -0.66.
    return math.sqrt(0.5 * math.pi) * _erfcx(x * math.sqrt(0.5))


def _mills_slope(x: Array) -> Array:
    # -m'(x) = 1 - x m(x), x >= -0.66.
    y = x * math.sqrt(0.5)
    far = y > _TAIL_LIMIT
    result = np.empty_like(y)
    result[far] = _tail(y[far])
    near = ~far
    result[near] = 1.0 - _SQRT_PI * y[near] * _erfcx(y[near])
    return result


# ---------------------------------------------------------------------- analytic Gaussian profile

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)  # error below 1e-16 on an interval of 1
_FAR: Final = 30.0  # from here on ten terms of the asymptotic series of m are exact to rounding


def log_gaussian_profile(epsilon: ArrayLike, mu: ArrayLike) -> Array:
    r"""Log of the privacy profile of the Gaussian mechanism with ratio `mu`.

    .. math:: \delta(\epsilon) = \Phi(\mu/2 - \epsilon/\mu) - e^\epsilon \Phi(-\mu/2 - \epsilon/\mu)
              = \phi(A) (m(A) - m(B)),\quad A = \epsilon/\mu - \mu/2,\ B = \epsilon/\mu + \mu/2

    Parameters
    ----------
    epsilon : array_like
        Privacy parameter, >= 0.
    mu : array_like
        Sensitivity over standard deviation, >= 0; broadcast against `epsilon`.

    Returns
    -------
    array of float64
        ln delta; ``-inf`` where mu = 0.

    References
    ----------
    Balle and Wang, "Improving the Gaussian mechanism for differential privacy", arXiv:1805.06530.
    """
    eps, ratio = np.broadcast_arrays(
        np.asarray(epsilon, dtype=np.float64), np.asarray(mu, dtype=np.float64)
    )
    shape = eps.shape
    eps, ratio = eps.ravel(), ratio.ravel()
    result = np.full(ratio.shape, -np.inf)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        centre = eps / ratio
        a = centre - 0.5 * ratio
        b = centre + 0.5 * ratio
        far = a > _FAR
        near = ~far & (ratio < 1.0) & (ratio > 0.0)
        wide = ~far & (ratio >= 1.0)
        if far.any():
            x = a[far]
            step = np.log1p(ratio[far] / x)
            inverse = 1.0 / (x * x)
            power = 1.0 / x
            total = np.zeros_like(x)
            for j in range(10):
                total += power * -np.expm1(-(2 * j + 1) * step)
                power *= -(2 * j + 1) * inverse
            result[far] = np.log(total) - 0.5 * x * x - _HALF_LOG_2PI
        if near.any():
            x, width = a[near], ratio[near]
            nodes = x[:, None] + 0.5 * width[:, None] * (_NODES + 1.0)
            integral = 0.5 * width * (_mills_slope(nodes) @ _WEIGHTS)
            result[near] = np.log(integral) - 0.5 * x * x - _HALF_LOG_2PI
        if wide.any():
            x, y = a[wide], b[wide]
            value = np.empty_like(x)
            up = x > 0.0
            value[up] = np.log(_mills(x[up]) - _mills(y[up])) - 0.5 * x[up] * x[up] - _HALF_LOG_2PI
            down = ~up
            value[down] = np.log1p(-np.exp(_log_tails(x[down], y[down])))
            result[wide] = value
    result[np.isnan(result)] = -np.inf  # 0/0 and inf - inf arise only where mu is 0
    return result.reshape(shape)


def _log_tails(a: Array, b: Array) -> Array:
    # ln(Phi(a) + phi(a) m(b)) for a <= 0 <= b.
    return np.asarray(np.log(_mills(-a) + _mills(b)) - 0.5 * a * a - _HALF_LOG_2PI)


def log_gaussian_complement(epsilon: ArrayLike, mu: ArrayLike) -> Array:
    """Log of one minus the privacy profile, of arguments as in `log_gaussian_profile`."""
    eps, ratio = np.broadcast_arrays(
        np.asarray(epsilon, dtype=np.float64), np.asarray(mu, dtype=np.float64)
    )
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        centre = eps / ratio
        a = centre - 0.5 * ratio
        b = centre + 0.5 * ratio
        result = np.empty(ratio.shape)
        down = a <= 0.0
        result[down] = _log_tails(a[down], b[down])
        up = ~down
        result[up] = np.log1p(-np.exp(log_gaussian_profile(eps[up], ratio[up])))
    return result


def log_gaussian_loss_tail(epsilon: ArrayLike, mu: ArrayLike) -> Array:
    """Log of the probability that the privacy loss of the Gaussian mechanism exceeds epsilon.

    Parameters
    ----------
    epsilon : array_like
        Any real number.
    mu : array_like
        Sensitivity over standard deviation, > 0.

    Returns
    -------
    array of float64
        ln Phi(mu/2 - epsilon/mu).
    """
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        a = np.asarray(epsilon / np.asarray(mu) - 0.5 * np.asarray(mu))
        size = np.abs(a)
        tail = np.log(_mills(size)) - 0.5 * size * size - _HALF_LOG_2PI  # of the smaller side
        return np.asarray(np.where(a > 0.0, tail, np.log1p(-np.exp(tail))))


# ------------------------------------------------------------------------------- gamma and beta


def _stirling(x: float) -> float:
    # lnGamma(x) - [(x - 1/2) ln x - x + ln(2 pi)/2], x > 0.
    if x < 16.0:
        return math.lgamma(x) - ((x - 0.5) * math.log(x) - x + _HALF_LOG_2PI)
    return float(_stirling_series(np.float64(x)))


def _stirling_series(x: Any) -> Any:
    s = 1.0 / (x * x)
    return (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s * (1 / 1188))))) / x


def _stirling_array(x: Array) -> Array:
    # The same for an array of whole numbers >= 1.
    result = np.asarray(_stirling_series(np.maximum(x, 16.0)))
    small = x < 16.0
    table = np.array([0.0] + [_stirling(float(i)) for i in range(1, 16)])
    result[small] = table[x[small].astype(np.int64)]
    return result


def log_fair_binomial(n: Array, k: Array) -> Array:
    """Log of Pr[Bin(n, 1/2) = k].

    Parameters
    ----------
    n, k : array
        Whole numbers, 0 <= k <= n.

    Returns
    -------
    array
        Log probabilities; no log-gamma of the size of n cancels.
    """
    rest = n - k
    inner = (k > 0.0) & (rest > 0.0)
    result = -n * math.log(2.0)
    n, k, rest = n[inner], k[inner], rest[inner]
    spread = k * np.log(2.0 * k / n) + rest * np.log(2.0 * rest / n)
    correction = _stirling_array(n) - _stirling_array(k) - _stirling_array(rest)
    result[inner] = 0.5 * np.log(n / k / rest) - _HALF_LOG_2PI + correction - spread
    return np.asarray(result)


def chi_log_density(y: Array, p: int) -> Array:
    """Log density of y = ln sqrt(S / p), where S ~ chi2(p).

    Parameters
    ----------
    y : array
        Where.
    p : int
        Degrees of freedom.

    Returns
    -------
    array
        ``K - h (expm1(2y) - 2y)`` with h = p/2; K by Stirling, so that nothing large cancels.
    """
    h = 0.5 * p
    constant = math.log(2.0) + 0.5 * math.log(h / (2.0 * math.pi)) - _stirling(h)
    return np.asarray(constant - h * (np.expm1(2.0 * y) - 2.0 * y))


def beta_log_density(y: Array, a: float, b: float) -> tuple[Array, Array]:
    """Log density of y = logit(B) - ln(a / b), where B ~ Beta(a, b), and B itself.

    Parameters
    ----------
    y : array
        Where; y = 0 is the mode.
    a, b : float
        Shape parameters.

    Returns
    -------
    log_density, value : array
        Log density of y; B at y. Both are written around the mode, from the side of the rarer
        outcome: nothing of size a + b cancels.
    """
    share, rest = a / (a + b), b / (a + b)
    constant = 0.5 * (math.log(a) + math.log(rest)) - _HALF_LOG_2PI
    constant += _stirling(a + b) - _stirling(a) - _stirling(b)
    y = np.clip(y, -600.0, 600.0)  # the density is below e^-300 there
    if a <= b:
        shift = np.log1p(share * np.expm1(y))
        return constant + a * y - (a + b) * shift, share * np.exp(y - shift)
    shift = np.log1p(rest * np.expm1(-y))
    return constant - b * y - (a + b) * shift, share * np.exp(-shift)


# ----------------------------------------------------------------------------------- quadrature

_GRID: Final = np.linspace(0.0, 1.0, 33)
_DEPTH: Final = 46.0  # nats below the mode where the integral is cut: 1e-20 of it is left out


def log_integral(log_f: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Log of the integrals of exp(log_f), where log_f is unimodal, row by row.

    Parameters
    ----------
    log_f : callable
        Takes points of shape (rows, m), gives values of that shape; may be ``-inf``.
    low, high : array, shape (rows,)
        Brackets of the modes; better also of what matters of the integrand, to save time.

    Returns
    -------
    array, shape (rows,)
        Log integrals.

    Notes
    -----
    Grids that zoom in find the mode, then the points 46 nats below it; between these the
    trapezoidal rule, which converges geometrically for such integrands, is halved until two
    results agree to 1e-13.
    """
    rows = np.arange(low.size)
    left, right = low, high
    for _ in range(60):
        x = left[:, None] + (right - left)[:, None] * _GRID
        f = log_f(x)
        best = np.argmax(f, axis=1)
        below, above = np.maximum(best - 1, 0), np.minimum(best + 1, _GRID.size - 1)
        top, mode = f[rows, best], x[rows, best]
        left, right = x[rows, below], x[rows, above]
        with np.errstate(invalid="ignore"):  # -inf - -inf in a row that is zero everywhere
            drop = top - np.minimum(f[rows, below], f[rows, above])
        if not (drop > 1.0).any():
            break
    # A row that is zero everywhere stays -inf; it rides along with harmless numbers.
    alive = np.isfinite(top)
    level = np.where(alive, top, 0.0)

    outer = np.stack([low, high])  # [2, rows]
    for _ in range(60):  # widen a bracket that is too narrow
        shallow = (log_f(outer.T) >= (level - _DEPTH)[:, None]).T & alive
        if not shallow.any():
            break
        outer = np.where(shallow, 2.0 * outer - mode, outer)
    inner = np.stack([mode, mode])
    side = np.arange(2)[:, None]
    for _ in range(60):
        x = outer[..., None] + (inner - outer)[..., None] * _GRID  # [2, rows, grid]
        f = np.stack(np.split(log_f(np.concatenate([x[0], x[1]], axis=1)), 2, axis=1))
        inside = f >= (level - _DEPTH)[None, :, None]
        inside[..., -1] = True
        first = np.argmax(inside, axis=2)
        inner = x[side, rows, first]
        outer = x[side, rows, np.maximum(first - 1, 0)]
        if ((np.abs(inner - outer) <= 0.05 * np.abs(mode - outer)) | ~alive).all():
            break

    left, right = outer
    width = right - left
    count = 128
    x = left[:, None] + width[:, None] * np.linspace(0.0, 1.0, count + 1)
    values = _relative(log_f(x), level)
    total = (values.sum(axis=1) - 0.5 * (values[:, 0] + values[:, -1])) / count
    for _ in range(9):
        x = left[:, None] + width[:, None] * ((np.arange(count) + 0.5) / count)
        middle = _relative(log_f(x), level).sum(axis=1) / count
        finer = 0.5 * (total + middle)
        agree = (np.abs(finer - total) <= 1e-13 * finer) | ~alive
        total, count = finer, 2 * count
        if agree.all():
            break
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(alive, level + np.log(total * width), top))


def _relative(log_values: Array, level: Array) -> Array:
    # Where logs are so large that the mode is only found to many nats, exp must not overflow: the
    # result is then off by less than the rounding of those logs.
    return np.asarray(np.exp(np.minimum(log_values - level[:, None], 600.0)))


def log_1f1(a: float, b: float, z: float) -> float:
    """Log of Kummer's function 1F1(a; b; z) for 0 < a < b and z >= 0.

    It is the moment generating function of Beta(a, b - a) at z. Up to z = 500 the power series,
    whose terms are all positive; beyond, quadrature around the mode of the tilted density.

    Parameters
    ----------
    a, b : float
        Parameters, 0 < a < b.
    z : float
        Argument, >= 0.

    Returns
    -------
    float
        ln 1F1(a; b; z).
    """
    if not z < math.inf:
        return math.inf
    if z <= 500.0:
        k = np.arange(2000.0)
        terms = np.cumprod((a + k) / (b + k) * (z / (k + 1.0)))
        return math.log1p(float(terms.sum()))
    c = b - a
    root = math.sqrt((b - z) ** 2 + 4.0 * z * a)
    # The mode solves z B^2 + (b - z) B - a = 0; each root by the form that does not cancel.
    mode = (z - b + root) / (2.0 * z) if z > b else 2.0 * a / (b - z + root)
    rest = 2.0 * c / (b + z + math.sqrt((b - z) ** 2 + 4.0 * z * a))

    def log_f(t: Array) -> Array:
        # Log density times e^{zB}, relative to the mode; t is the logit relative to the mode.
        stretch = np.log(rest + mode * np.exp(t))
        gain = z * mode * rest * np.expm1(t) * np.exp(-stretch)
        return np.asarray(a * t - b * stretch + gain)

    width = _log_width(log_f, 3.0 + 120.0 / a, 40.0 + 120.0 / c)
    constant = 0.5 * (math.log(a) + math.log(c / b)) - _HALF_LOG_2PI
    constant += _stirling(b) - _stirling(a) - _stirling(c)
    share = a / b
    height = a * math.log(mode / share) + c * math.log(rest / (c / b)) + z * mode
    return constant + height + width


def _log_width(log_f: Callable[[Array], Array], below: float, above: float) -> float:
    return float(log_integral(log_f, np.array([-below]), np.array([above]))[0])


# ---------------------------------------------------------------------- roots and least values


def brent(f: Callable[[float], float], a: float, b: float, fa: float, fb: float) -> float:
    """Root of `f` between `a` and `b`, to rounding, by Brent's method.

    Parameters
    ----------
    f : callable
        Continuous function of one number.
    a, b : float
        Ends of the bracket.
    fa, fb : float
        Values there, of opposite sign (or zero).

    Returns
    -------
    float
        A point where `f` changes sign to within 4 rounding units.

    Raises
    ------
    ValueError
        If the values have the same sign.

    References
    ----------
    Brent, "Algorithms for Minimization without Derivatives", 1973, chapter 4.
    """
    if fa == 0.0:
        return a
    if fb == 0.0:
        return b
    if (fa > 0.0) == (fb > 0.0):
        raise ValueError(f"the root is not bracketed: f({a}) = {fa}, f({b}) = {fb}")
    old, f_old = a, fa
    step = previous = b - a
    for _ in range(200):
        if (fb > 0.0) == (f_old > 0.0):
            old, f_old = a, fa
            step = previous = b - a
        if abs(f_old) < abs(fb):
            a, b, old = b, old, b
            fa, fb, f_old = fb, f_old, fb
        tiny = 2.0 * np.finfo(float).eps * abs(b) + 1e-300
        half = 0.5 * (old - b)
        if abs(half) <= tiny or fb == 0.0:
            return b
        if abs(previous) < tiny or not math.isfinite(fa) or abs(fa) <= abs(fb):
            step = previous = half
        else:
            s = fb / fa
            if a == old:
                numerator, denominator = 2.0 * half * s, 1.0 - s
            else:
                q, r = fa / f_old, fb / f_old
                numerator = s * (2.0 * half * q * (q - r) - (b - a) * (r - 1.0))
                denominator = (q - 1.0) * (r - 1.0) * (s - 1.0)
            if numerator > 0.0:
                denominator = -denominator
            numerator = abs(numerator)
            inside = 3.0 * half * denominator - abs(tiny * denominator)
            if 2.0 * numerator < min(inside, abs(previous * denominator)):
                previous, step = step, numerator / denominator
            else:
                step = previous = half
        a, fa = b, fb
        b += step if abs(step) > tiny else math.copysign(tiny, half)
        fb = f(b)
    return b


def roots(f: Callable[[Array], Array], a: Array, b: Array, *, tol: float) -> Array:
    """Roots of increasing functions, many at once, by Chandrupatla's method.

    Parameters
    ----------
    f : callable
        Takes one point per row, gives one value per row; infinite values are allowed.
    a, b : array, shape (rows,)
        Brackets. Where `f` does not change sign, the end with the smaller value is returned.
    tol : float
        Width of the last bracket.

    Returns
    -------
    array, shape (rows,)
        Roots.

    References
    ----------
    Chandrupatla, "A new hybrid quadratic/bisection algorithm", Adv. Eng. Software 28 (1997) 145.
    """
    x1, x2 = b.copy(), a.copy()
    f1, f2 = f(x1), f(x2)
    result = np.where(f1 <= 0.0, x1, x2)
    open_ = (f1 > 0.0) & (f2 < 0.0)
    share = np.full(a.size, 0.5)
    for _ in range(100):
        x = x1 + share * (x2 - x1)
        fx = f(x)
        same = (fx > 0.0) == (f1 > 0.0)
        x3, f3 = np.where(same, x1, x2), np.where(same, f1, f2)
        x2, f2 = np.where(same, x2, x1), np.where(same, f2, f1)
        x1, f1 = x, fx
        best = np.where(np.abs(f2) < np.abs(f1), x2, x1)
        result = np.where(open_, best, result)
        width = np.abs(x2 - x1)
        if not (open_ & (width > tol) & (f1 != 0.0)).any():
            break
        with np.errstate(all="ignore"):  # rows without a bracket, and infinite values
            xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
            quadratic = (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
            step = f1 / (f2 - f1) * f3 / (f2 - f3)
            step = step + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
            edge = 0.25 * tol / width
            share = np.where(quadratic & np.isfinite(step), np.clip(step, edge, 1.0 - edge), 0.5)
            share = np.where(np.isfinite(share), share, 0.5)
    return np.asarray(result)


def minimise(
    f: Callable[[Array], Array], low: Array, high: Array, *, tol: float = 1e-7
) -> tuple[Array, Array]:
    """Least values of unimodal functions, row by row, by grids that zoom in.

    Parameters
    ----------
    f : callable
        Takes points of shape (rows, m), gives values of that shape; ``inf`` is allowed.
    low, high : array, shape (rows,)
        Brackets.
    tol : float, default 1e-7
        Width of the last bracket; the value is off by about its square.

    Returns
    -------
    point, value : array, shape (rows,)
        The best points seen and the values there, which are therefore attained.
    """
    rows = np.arange(low.size)
    point, value = low.copy(), np.full(low.size, np.inf)
    while True:
        x = low[:, None] + (high - low)[:, None] * _GRID
        values = f(x)
        best = np.argmin(values, axis=1)
        better = values[rows, best] < value
        point = np.where(better, x[rows, best], point)
        value = np.where(better, values[rows, best], value)
        low = x[rows, np.maximum(best - 1, 0)]
        high = x[rows, np.minimum(best + 1, _GRID.size - 1)]
        if ((high - low) <= tol * np.maximum(1.0, np.abs(point))).all():
            return point, value
