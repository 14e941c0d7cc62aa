r"""The f-divergences that the losses can be trained with.

.. math:: D_f(P \,\|\, Q) = \mathbb E_{Q}\, f(dP/dQ)

with P the synthetic and Q the private distribution, so that the argument of f is the density ratio
synthetic/private. Every f is convex with f(1) = 0, in the form with f'(1) = 0: adding c(t - 1) to f
changes no divergence between probability measures, and in this form each term is non-negative.

The formulas themselves are compiled (``csrc/common/divergence.h``), once for this module and for
the kernels. A divergence of one's own is a `Divergence` with a function.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dpslice import _arrays

__all__ = ["REGISTRY", "Divergence", "alpha_divergence", "get_divergence"]

# Where f' falls without bound at 0, ratios are clipped where it reaches this slope (a single
# private row can then pull no harder), and never below _LEAST_CLIP, which changes f by at most
# 0.002 where f itself is finite.
_STEEPEST = 1000.0
_LEAST_CLIP = 1e-6

_ALPHA_CODE = 7


@dataclass(frozen=True)
class Divergence:
    r"""One f-divergence.

    Parameters
    ----------
    name : str
        How it is asked for.
    value : callable
        f. That of a divergence of one's own is called by the torch losses on a tensor, with
        autograd. Those of the registry take a number or an array (NumPy, torch or CuPy, float32
        or float64, any shape), finite and >= 0, and return the same kind, without autograd.
    derivative : callable, optional
        f', which the losses do not call: they differentiate `value`. Those of the registry have it.
    domain : str
        Interval of t on which f is finite, in words: it is shown, not checked.
    r_min : float
        Losses evaluate f at ``max(r, r_min)``, with gradient zero where the maximum is `r_min`.
        It is 0 where f and f' are finite there.
    doc : str
        Formula and name in words.

    Raises
    ------
    TypeError
        If a field is of the wrong kind.
    ValueError
        If `name` or `domain` is empty, `value` is a derivative of the registry's, or `r_min`
        negative or not below 1.

    Examples
    --------
    >>> Divergence("squared_log", value=lambda t: t.log() ** 2, domain="(0, inf)", r_min=0.4)
    Divergence(name='squared_log', domain='(0, inf)', r_min=0.4)
    """

    name: str
    value: Callable[[Any], Any] = field(repr=False)
    derivative: Callable[[Any], Any] | None = field(default=None, repr=False)
    domain: str = "[0, inf)"
    r_min: float = 0.0
    doc: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _arrays.text("name", self.name)
        if not callable(self.value):
            raise TypeError(f"value must be callable; got {_arrays.describe(self.value)}")
        if isinstance(self.value, _Compiled) and self.value.part != 0:
            raise ValueError("value must be f; got a derivative of the registry's")
        if self.derivative is not None and not callable(self.derivative):
            found = _arrays.describe(self.derivative)
            raise TypeError(f"derivative must be callable or None; got {found}")
        _arrays.text("domain", self.domain)
        if not isinstance(self.doc, str):
            raise TypeError(f"doc must be a string; got {_arrays.describe(self.doc)}")
        if _arrays.nonnegative_real("r_min", self.r_min) >= 1:
            raise ValueError(
                f"r_min must be >= 0 and < 1, the ratio of equal densities; got {self.r_min}"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def code(self) -> int:
        """Number of the compiled formula; -1 of a divergence of one's own."""
        return self.value.code if isinstance(self.value, _Compiled) else -1

    @property
    def alpha(self) -> float:
        """Parameter of the family ``alpha``; 0 of others."""
        return self.value.alpha if isinstance(self.value, _Compiled) else 0.0


@dataclass(frozen=True)
class _Compiled:
    """f or f' as compiled. A class, not a closure, so that divergences compare and pickle."""

    code: int
    alpha: float
    part: int  # 0: f, 1: f'

    def __call__(self, t: Any) -> Any:
        ratios = _arrays.ratio_values("t", t)
        core = _arrays.backend_for(ratios.place)
        result = core.divergence(self.code, self.alpha, ratios.array)[self.part]
        if isinstance(t, numbers.Real):  # NumPy's own numbers have a shape, too
            return float(result)
        return _arrays.same_kind(result, ratios.place)


def _compiled(
    name: str, code: int, domain: str, r_min: float, doc: str, alpha: float = 0.0
) -> Divergence:
    return Divergence(
        name,
        value=_Compiled(code, alpha, 0),
        derivative=_Compiled(code, alpha, 1),
        domain=domain,
        r_min=r_min,
        doc=doc,
    )


_ALL = (
    _compiled("kl", 0, "[0, inf)", _LEAST_CLIP, "t log t - t + 1: KL(synthetic || private)"),
    _compiled(
        "reverse_kl",
        1,
        "(0, inf)",
        1 / (1 + _STEEPEST),
        "t - 1 - log t: KL(private || synthetic)",
    ),
    _compiled(
        "js",
        2,
        "[0, inf)",
        _LEAST_CLIP,
        "(t log t - (t + 1) log((t + 1)/2)) / 2: Jensen-Shannon divergence, at most log 2",
    ),
    _compiled(
        "squared_hellinger",
        3,
        "[0, inf)",
        _LEAST_CLIP,
        "(sqrt(t) - 1)^2: integral of (sqrt(p) - sqrt(q))^2, at most 2",
    ),
    _compiled("pearson", 4, "[0, inf)", 0.0, "(t - 1)^2: Pearson's chi-squared divergence"),
    _compiled(
        "neyman",
        5,
        "(0, inf)",
        1 / math.sqrt(1 + _STEEPEST),
        "(t - 1)^2 / t: Neyman's chi-squared divergence",
    ),
    _compiled(
        "total_variation",
        6,
        "[0, inf)",
        0.0,
        "|t - 1| / 2: total variation distance; 0 is taken as the slope at t = 1",
    ),
)

_BY_NAME = {each.name: each for each in _ALL}  # the compiler of torch 2.6 looks into no proxy
#: The divergences without parameter, by name. `alpha_divergence` makes the family ``alpha(a)``.
REGISTRY: Mapping[str, Divergence] = MappingProxyType(_BY_NAME)


def alpha_divergence(alpha: float) -> Divergence:
    r"""Return the alpha-divergence, :math:`f(t) = (t^a - a t - 1 + a) / (a (a - 1))`.

    It is ``reverse_kl`` at a = 0 and ``kl`` at a = 1 (as limits), half of ``neyman`` at a = -1,
    twice ``squared_hellinger`` at a = 1/2, half of ``pearson`` at a = 2.

    Parameters
    ----------
    alpha : float
        The parameter a, any finite number.

    Returns
    -------
    Divergence
        Named ``"alpha(a)"``.

    Raises
    ------
    TypeError, ValueError
        If `alpha` is not a finite number.

    Examples
    --------
    >>> alpha_divergence(2.0).value(3.0)
    2.0
    """
    alpha = _arrays.finite_real("alpha", alpha)
    # f'(t) = (t^(alpha-1) - 1) / (alpha - 1) reaches -_STEEPEST where t^(alpha-1) is `power`.
    power = 1 - _STEEPEST * (alpha - 1)
    if power <= 0:
        r_min = 0.0
    else:
        log_t = -_STEEPEST if alpha == 1 else math.log(power) / (alpha - 1)
        r_min = max(math.exp(log_t), _LEAST_CLIP)
    return _compiled(
        f"alpha({alpha!r})",
        _ALPHA_CODE,
        "[0, inf)" if alpha > 0 else "(0, inf)",
        r_min,
        f"(t^a - a t - 1 + a) / (a (a - 1)) at a = {alpha!r}",
        alpha,
    )


def get_divergence(divergence: str | Divergence) -> Divergence:
    """Return a divergence by name; a `Divergence` is returned as it is.

    Parameters
    ----------
    divergence : str or Divergence
        A name of `REGISTRY`, or ``"alpha(a)"`` with a number a.

    Returns
    -------
    Divergence
        The divergence.

    Raises
    ------
    TypeError
        If `divergence` is neither a string nor a `Divergence`.
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> get_divergence("alpha(0.5)").alpha
    0.5
    >>> get_divergence("kl").derivative(1.0)
    0.0
    """
    if isinstance(divergence, Divergence):
        return divergence
    if not isinstance(divergence, str):
        how = " (make one of your function: Divergence(name, value=...))"
        raise TypeError(
            f"divergence must be a name or a Divergence{how if callable(divergence) else ''}; "
            f"got {_arrays.describe(divergence)}"
        )
    if divergence in _BY_NAME:
        return _BY_NAME[divergence]
    parameter = re.fullmatch(r"alpha\((.*)\)", divergence)
    if parameter is not None:
        try:
            alpha = float(parameter.group(1))
        except ValueError:
            alpha = math.nan
        if math.isfinite(alpha):
            return alpha_divergence(alpha)
    raise ValueError(
        f"divergence must be one of {', '.join(REGISTRY)}, or alpha(a) with a finite number a; "
        f"got {divergence!r}"
    )
