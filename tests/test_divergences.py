"""The f-divergences: formulas against mpmath, laws of f, closed forms between Gaussians, errors."""

from __future__ import annotations

import math
import pickle
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpslice import _core
from dpslice.divergences import REGISTRY, Divergence, alpha_divergence, get_divergence

mp = mpmath.mp.clone()
mp.dps = 60

NAMES = [
    *REGISTRY,
    "alpha(-1.5)",
    "alpha(0.0)",
    "alpha(0.3)",
    "alpha(0.5)",
    "alpha(1.0)",
    "alpha(3.0)",
]


def _alpha_exact(a: float, t: Any) -> Any:
    if a == 0:
        return t - 1 - mp.log(t)
    if a == 1:
        return t * mp.log(t) - t + 1
    a = mp.mpf(a)
    return (t**a - a * t - 1 + a) / (a * (a - 1))


# f as the literature writes it, in exact arithmetic; the derivative is mpmath's own.
EXACT = {
    "kl": lambda t: t * mp.log(t) - t + 1,
    "reverse_kl": lambda t: t - 1 - mp.log(t),
    "js": lambda t: (t * mp.log(t) - (t + 1) * mp.log((t + 1) / 2)) / 2,
    "squared_hellinger": lambda t: (mp.sqrt(t) - 1) ** 2,
    "pearson": lambda t: (t - 1) ** 2,
    "neyman": lambda t: (t - 1) ** 2 / t,
    "total_variation": lambda t: abs(t - 1) / 2,
}


def exact(name: str) -> Any:
    if name in EXACT:
        return EXACT[name]
    a = get_divergence(name).alpha
    return lambda t: _alpha_exact(a, t)


ratios = st.floats(min_value=1e-12, max_value=1e12)


@pytest.mark.parametrize("name", NAMES)
@given(t=st.one_of(ratios, st.floats(min_value=0.99, max_value=1.01)))
def test_value_and_derivative_agree_with_mpmath(name: str, t: float) -> None:
    f = get_divergence(name)
    t_exact = mp.mpf(t)
    value, slope = (
        exact(name)(t_exact),
        mp.diff(exact(name), t_exact, h=t_exact * mp.mpf(10) ** -25),
    )
    # Near the double zero at 1 the error of f is a few ulps of |t - 1|, as divergence.h states;
    # elsewhere the terms that cancel are of that size too. A power t^a turns the rounding of
    # a log t into a relative error.
    scale = (abs(value) + abs(t_exact - 1)) * (1 + abs(f.alpha * mp.log(t_exact)))
    assert abs(f.value(t) - value) <= 16 * np.finfo(float).eps * scale
    if not (name == "total_variation" and t == 1):
        assert abs(f.derivative(t) - slope) <= 1e-13 * abs(slope) + 1e-20


@pytest.mark.parametrize("name", NAMES)
def test_f_and_its_slope_vanish_at_one(name: str) -> None:
    f = get_divergence(name)
    assert f.value(1.0) == 0
    assert f.derivative(1.0) == 0


@pytest.mark.parametrize("name", NAMES)
@given(s=ratios, t=ratios, share=st.floats(min_value=0, max_value=1))
def test_f_is_convex_and_not_negative(name: str, s: float, t: float, share: float) -> None:
    f = get_divergence(name)
    between = share * s + (1 - share) * t
    chord = share * f.value(s) + (1 - share) * f.value(t)
    slack = 1e-12 * (abs(chord) + s + t)
    assert f.value(between) <= chord + slack
    assert f.value(t) >= -1e-15 * abs(t - 1)
    assert f.value(s) >= f.value(t) + f.derivative(t) * (s - t) - 1e-12 * (
        abs(f.value(s)) + abs(f.derivative(t)) * (s + t) + s + t
    )


@pytest.mark.parametrize("name", NAMES)
def test_derivative_is_the_finite_difference_of_the_value(name: str) -> None:
    f = get_divergence(name)
    t = np.array([0.03, 0.2, 0.7, 1.4, 3.0, 20.0])
    step = 1e-5 * t
    difference = (f.value(t + step) - f.value(t - step)) / (2 * step)
    # Central differences: error step^2 |f'''| / 6 and eps |f| / step.
    np.testing.assert_allclose(f.derivative(t), difference, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [
        ("kl", 1, -math.inf),
        ("reverse_kl", math.inf, -math.inf),
        ("js", math.log(2) / 2, -math.inf),
        ("squared_hellinger", 1, -math.inf),
        ("pearson", 1, -2),
        ("neyman", math.inf, -math.inf),
        ("total_variation", 0.5, -0.5),
        ("alpha(-1.5)", math.inf, -math.inf),
        ("alpha(0.0)", math.inf, -math.inf),
        ("alpha(0.3)", 1 / 0.3, -math.inf),
        ("alpha(1.0)", 1, -math.inf),
        ("alpha(3.0)", 1 / 3, -0.5),
    ],
)
def test_limits_at_zero(name: str, value: float, slope: float) -> None:
    f = get_divergence(name)
    assert f.value(0.0) == pytest.approx(value, rel=1e-15)
    assert f.derivative(0.0) == pytest.approx(slope, rel=1e-15)
    assert (f.domain == "[0, inf)") == math.isfinite(value)


@pytest.mark.parametrize("name", [*NAMES, "alpha(0.9999)", "alpha(1.0005)", "alpha(-30)"])
def test_the_clip_keeps_slopes_below_the_documented_bound(name: str) -> None:
    f = get_divergence(name)
    assert f.derivative(f.r_min) >= -1000 * (1 + 1e-9)
    assert math.isfinite(f.value(f.r_min))
    if f.r_min > 1e-6:  # no larger than needed
        assert f.derivative(f.r_min) == pytest.approx(-1000, rel=1e-9)
    if f.r_min > 0:
        assert f.derivative(0.0) < -1000


@pytest.mark.parametrize(
    ("alpha", "name", "factor"),
    [
        (0, "reverse_kl", 1),
        (1, "kl", 1),
        (-1, "neyman", 0.5),
        (0.5, "squared_hellinger", 2),
        (2, "pearson", 0.5),
    ],
)
def test_the_alpha_family_holds_the_named_ones(alpha: float, name: str, factor: float) -> None:
    t = np.geomspace(1e-3, 1e3, 31)
    family, one = alpha_divergence(alpha), REGISTRY[name]
    np.testing.assert_allclose(family.value(t), factor * one.value(t), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        family.derivative(t), factor * one.derivative(t), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("special", [0.0, 1.0])
def test_the_alpha_family_is_continuous(special: float) -> None:
    t = np.geomspace(1e-3, 1e3, 31)
    near, at = alpha_divergence(special + 1e-9), alpha_divergence(special)
    np.testing.assert_allclose(near.value(t), at.value(t), rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(near.derivative(t), at.derivative(t), rtol=1e-7, atol=1e-14)


# ---------------------------------------------------------------------- between two Gaussians
# P = N(mean, 1) and Q = N(0, 1), or P = N(0, scale^2) where named so.


def _integral(f: Divergence, mean: float, scale: float = 1.0) -> float:
    """E_Q f(P/Q) by the trapezoidal rule, which converges geometrically here."""
    x = np.linspace(-14, 14, 20_001)
    log_q = -(x**2) / 2 - math.log(2 * math.pi) / 2
    log_p = -(((x - mean) / scale) ** 2) / 2 - math.log(2 * math.pi) / 2 - math.log(scale)
    return float(np.sum(np.exp(log_q) * f.value(np.exp(log_p - log_q))) * (x[1] - x[0]))


MEAN = 0.7


def kl_of_shifted() -> float:
    return MEAN**2 / 2


def squared_hellinger_of_shifted() -> float:
    return 2 - 2 * math.exp(-(MEAN**2) / 8)


def chi_squared_of_shifted() -> float:
    return math.exp(MEAN**2) - 1


def total_variation_of_shifted() -> float:
    return math.erf(MEAN / (2 * math.sqrt(2)))


def alpha_of_shifted(a: float) -> float:
    return (math.exp(a * (a - 1) * MEAN**2 / 2) - 1) / (a * (a - 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kl", kl_of_shifted()),
        ("reverse_kl", kl_of_shifted()),
        ("squared_hellinger", squared_hellinger_of_shifted()),
        ("pearson", chi_squared_of_shifted()),
        ("neyman", chi_squared_of_shifted()),
        ("total_variation", total_variation_of_shifted()),
        ("alpha(0.3)", alpha_of_shifted(0.3)),
        ("alpha(3.0)", alpha_of_shifted(3.0)),
    ],
)
def test_divergence_of_shifted_gaussians(name: str, expected: float) -> None:
    # The kink of total variation leaves the rule's second-order error.
    tolerance = 1e-6 if name == "total_variation" else 1e-10
    assert _integral(get_divergence(name), MEAN) == pytest.approx(expected, rel=tolerance)


def test_divergence_of_scaled_gaussians_tells_the_directions_apart() -> None:
    scale = 0.8
    assert _integral(REGISTRY["kl"], 0, scale) == pytest.approx(
        (scale**2 - 1) / 2 - math.log(scale), rel=1e-10
    )
    assert _integral(REGISTRY["reverse_kl"], 0, scale) == pytest.approx(
        (scale**-2 - 1) / 2 + math.log(scale), rel=1e-10
    )


def test_js_is_the_mean_of_two_divergences_from_the_mixture() -> None:
    p, q = np.array([0.1, 0.6, 0.3]), np.array([0.4, 0.4, 0.2])
    mid = (p + q) / 2
    expected = (np.sum(p * np.log(p / mid)) + np.sum(q * np.log(q / mid))) / 2
    assert np.sum(q * REGISTRY["js"].value(p / q)) == pytest.approx(expected, rel=1e-13)


# ------------------------------------------------------------------------------------ arrays


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_arrays_keep_shape_and_dtype(name: str, dtype: type) -> None:
    t = np.array([[0.2, 1.0, 5.0], [1e-3, 0.5, 40.0]], dtype)
    f = get_divergence(name)
    for function in (f.value, f.derivative):
        result = function(t)
        assert result.shape == t.shape
        assert result.dtype == dtype
        expected = function(t.astype(np.float64))
        np.testing.assert_allclose(result, expected, rtol=2 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(function(t[:, ::2]), result[:, ::2])
    assert f.value(np.zeros((0, 2), dtype)).shape == (0, 2)


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2.0), np.float32(2.0), np.int64(2)])
def test_numbers_give_floats(number: Any) -> None:
    for function in (REGISTRY["pearson"].value, REGISTRY["pearson"].derivative):
        assert function is not None
        assert type(function(number)) is float
    assert REGISTRY["pearson"].value(number) == 1.0
    assert REGISTRY["pearson"].value(np.array(2.0)).shape == ()


def test_every_instruction_set_gives_the_same() -> None:
    t = np.geomspace(1e-6, 1e6, 101)
    current = _core.isa()
    try:
        for name in NAMES:
            f = get_divergence(name)
            results = []
            for isa in _core.available_isas():
                _core.set_isa(isa)
                results.append(f.value(t))
            for result in results[1:]:  # contraction to FMA may differ
                np.testing.assert_allclose(result, results[0], rtol=1e-13, atol=1e-15)
    finally:
        _core.set_isa(current)


# ---------------------------------------------------------------------------------- registry


def test_registry_holds_each_name_once() -> None:
    assert all(name == f.name for name, f in REGISTRY.items())
    assert len({f.code for f in REGISTRY.values()}) == len(REGISTRY)
    assert all(f.doc for f in REGISTRY.values())
    with pytest.raises(TypeError):
        REGISTRY["mine"] = REGISTRY["kl"]  # type: ignore[index]


def test_get_divergence() -> None:
    mine = Divergence("mine", value=lambda t: (t - 1) ** 4)
    assert get_divergence("kl") is REGISTRY["kl"]
    assert get_divergence(mine) is mine
    assert (mine.code, mine.alpha, mine.derivative) == (-1, 0.0, None)
    # What is compiled cannot be claimed for another function.
    with pytest.raises(TypeError, match="code"):
        Divergence("mine", value=mine.value, code=0)  # type: ignore[call-arg]
    assert get_divergence("alpha(0.5)") == alpha_divergence(0.5)
    assert get_divergence(alpha_divergence(1 / 3).name) == alpha_divergence(1 / 3)
    assert str(get_divergence("alpha(2)")) == "alpha(2.0)"


@pytest.mark.parametrize("name", NAMES)
def test_divergences_pickle(name: str) -> None:
    f = get_divergence(name)
    assert pickle.loads(pickle.dumps(f)) == f


@pytest.mark.parametrize(
    "name", ["", "KL", "alpha", "alpha()", "alpha(x)", "alpha(nan)", "alpha(inf)"]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"divergence must be one of kl, .*or alpha\(a\)"):
        get_divergence(name)


def test_wrong_kinds() -> None:
    with pytest.raises(TypeError, match=r"a Divergence \(make one of your function: .*; got <func"):
        get_divergence(lambda t: t * t)
    with pytest.raises(TypeError, match="divergence must be a name or a Divergence; got 3"):
        get_divergence(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="t must be a NumPy, torch or CuPy array; got str"):
        REGISTRY["kl"].value("1")
    with pytest.raises(TypeError, match="t must have dtype float32 or float64; got int64"):
        REGISTRY["kl"].value(np.array([1, 2]))


@pytest.mark.parametrize("bad", [-0.5, math.nan, math.inf])
def test_ratios_outside_the_domain(bad: float) -> None:
    with pytest.raises(ValueError, match="t must be a finite number >= 0"):
        REGISTRY["kl"].value(bad)
    with pytest.raises(ValueError, match=r"t must hold .*index \(1,\)"):
        REGISTRY["kl"].derivative(np.array([1.0, bad]))


def _square(t: Any) -> Any:
    return (t - 1) ** 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": " "}, ValueError, "name must not be empty"),
        ({"value": 3}, TypeError, "value must be callable; got 3"),
        ({"derivative": 3}, TypeError, "derivative must be callable or None; got 3"),
        ({"value": REGISTRY["kl"].derivative}, ValueError, "value must be f; got a derivative"),
        ({"r_min": -1.0}, ValueError, "r_min must be a finite number >= 0"),
        ({"r_min": 1.0}, ValueError, "r_min must be >= 0 and < 1"),
        ({"domain": ""}, ValueError, "domain must not be empty"),
        ({"doc": 3}, TypeError, "doc must be a string; got 3"),
    ],
)
def test_divergence_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    fields = {"name": "mine", "value": _square, "derivative": _square} | change
    with pytest.raises(error, match=message):
        Divergence(**fields)


def test_alpha_must_be_finite() -> None:
    with pytest.raises(ValueError, match="alpha must be a finite number; got inf"):
        alpha_divergence(math.inf)


def test_unknown_codes_are_refused_by_the_extension() -> None:
    with pytest.raises(ValueError, match="unknown divergence code"):
        _core.divergence(8, 0.0, np.ones(1))
