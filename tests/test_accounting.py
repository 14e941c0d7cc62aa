"""Exact profiles, calibration, bounds, composition, subsampling and certificates."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import subprocess
import sys
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

import accounting_oracle as oracle
from dpslice import _core, accounting
from dpslice.accounting import (
    Guarantee,
    Slicing,
    Subsample,
    _shuffling,
    _slicing,
    _special,
    _subsampling,
)
from dpslice.accounting._comparison import compare_slicing
from gaussian_mechanism import gaussian_delta

GOLDEN = json.loads(oracle.GOLDEN.read_text())
FRAMES = accounting.FRAMES


def allowance(log_delta: float) -> float:
    """What a reported ln delta may exceed the truth by: twice what accounting adds to it."""
    size = abs(log_delta)
    return min(5e-14, 2e-12 * size) + 1e-14 * size


def name_of(case: dict) -> str:
    return " ".join(f"{name}={value}" for name, value in case.items() if "log" not in name)


def mean_over_chi2(f, p: int, *, c: float) -> float:
    """E f(c sqrt(S)), S ~ chi2(p), by adaptive quadrature."""
    points = list(stats.chi2.ppf([1e-8, 0.01, 0.5, 0.99, 1 - 1e-8], p))
    return sum(
        integrate.quad(
            lambda s: stats.chi2.pdf(s, p) * f(c * math.sqrt(s)), low, high, epsrel=1e-11, limit=200
        )[0]
        for low, high in zip([0, *points], [*points, 60 * p + 400], strict=True)
    )


# --------------------------------------------------------------------------- numbers known before


@pytest.mark.parametrize(
    ("frame", "p", "expected"),
    [
        ("gaussian", 60, 2.1002090938586e-5),
        ("orthonormal", 60, 7.0991431648283e-6),
        ("orthonormal", 75, 6.1542422489650e-5),
    ],
)
def test_worked_examples_of_delta(frame: str, p: int, expected: float) -> None:
    value = accounting.delta(3.0, sigma=2.0, d=30, p=p, frame=frame)
    assert value == pytest.approx(expected, rel=1e-12)


def test_worked_example_of_sigma() -> None:
    sigma = accounting.calibrate_sigma(1.0, 1e-6, d=30, p=60, frame="gaussian", sensitivity=2.0)
    assert sigma == pytest.approx(12.703327901087, rel=3e-10)
    assert sigma > 12.703327901087


def test_worked_example_of_subsampling() -> None:
    sample = Subsample(n=8000, size=2000)
    setting = {"d": 30, "p": 60, "adjacency": "replace_one", "diameter": 2.0, "sample": sample}
    sigma = accounting.calibrate_subsampled_sigma(1.0, 1e-6, **setting)
    assert sigma == pytest.approx(5.7481630004961, rel=3e-10)
    base = accounting.delta(2.0634553550148, sigma=sigma, d=30, p=60, sensitivity=2.0)
    assert base == pytest.approx(4e-6, rel=1e-8)


@pytest.mark.parametrize("case", GOLDEN["profiles"], ids=name_of)
def test_log_delta_against_thirty_digits(case: dict) -> None:
    setting = {name: case[name] for name in ("sigma", "d", "p", "frame")}
    truth = mp.mpf(case["log_delta"])
    value = accounting.log_delta(case["epsilon"], **setting)
    assert 0.0 <= float(mp.mpf(value) - truth) <= allowance(value)


@pytest.mark.parametrize("mu", [3e2, 1e3, 1e4, 1e6])
def test_epsilon_is_an_upper_bound_at_tiny_sigma(mu: float) -> None:
    """Where eps/mu - mu/2 cancels: delta at the epsilon that is found is not above the target."""
    for target in 10.0 ** np.random.default_rng(5).uniform(-30, -1, 20):
        found = accounting.epsilon(target, sigma=1 / mu, d=1, p=1)
        with mp.workdps(60):
            truth = oracle.gaussian_delta(mp.mpf(found), 1 / mp.mpf(1 / mu))
            assert truth <= mp.mpf(target)
            assert truth >= mp.mpf(target) * (1 - mp.mpf(10) ** -8)


@pytest.mark.parametrize("mu", [1e2, 1e3, 1e4, 1e5, 1e6, 1e8])
def test_averaged_delta_is_an_upper_bound_at_tiny_sigma(mu: float) -> None:
    """Against the closed form of two columns, e^(-b eps) / (2b + 1)."""
    for log_delta in -np.exp(np.random.default_rng(6).uniform(-4, 3, 40)):
        b = math.expm1(0.5 * math.log1p(8.0 / mu**2)) / 2.0
        epsilon = (-log_delta - math.log1p(2.0 * b)) / b
        if epsilon > 0.0:
            got = accounting.log_delta(epsilon, sigma=1.0 / mu, d=2, p=2, frame="gaussian")
            assert 0.0 <= got - log_delta <= 1e-9 * mu + (2e-3 if mu > 1e4 else 0.0)


@pytest.mark.parametrize("case", GOLDEN["profiles"][::5], ids=name_of)
def test_inverses_against_thirty_digits(case: dict) -> None:
    # As far as their condition allows: ln delta itself is known to its allowance.
    setting = {name: case[name] for name in ("sigma", "d", "p", "frame")}
    target, epsilon = float(mp.mpf(case["log_delta"])), case["epsilon"]
    if target > -1e-6:
        return
    value = accounting.log_delta(epsilon, **setting)
    noise = 2 * allowance(value)
    step = 1e-4 * max(epsilon, 1e-3)
    slope = (accounting.log_delta(epsilon + step, **setting) - value) / step
    found = accounting.epsilon(log_delta=target, **setting)
    assert abs(found - epsilon) <= 1e-9 * epsilon + 1.1 * noise / abs(slope) + 1e-300
    if epsilon > 0:
        rest = {name: setting[name] for name in ("d", "p", "frame")}
        sigma = accounting.calibrate_sigma(epsilon, log_delta=target, **rest)
        wider = accounting.log_delta(epsilon, **{**setting, "sigma": setting["sigma"] * 1.0001})
        slope = abs(wider - value) / 1e-4
        assert abs(sigma / setting["sigma"] - 1) <= 1e-9 + 1.1 * noise / slope
        assert accounting.log_delta(epsilon, sigma=sigma, **rest) <= target


def test_delta_is_exact_near_one() -> None:
    # 1 - delta of a release with hardly any noise, to relative accuracy.
    for case in GOLDEN["profiles"]:
        rest = float(mp.mpf(case["log_rest"]))
        if not -600 < rest < -5:
            continue
        setting = {name: case[name] for name in ("sigma", "d", "p", "frame")}
        value = accounting.log_delta(case["epsilon"], **setting)
        assert math.log(-math.expm1(value)) == pytest.approx(rest, rel=1e-9, abs=2e-9)


@pytest.mark.parametrize("case", GOLDEN["kummer"], ids=name_of)
def test_kummer_function_against_thirty_digits(case: dict) -> None:
    value = _special.log_1f1(case["a"], case["b"], case["z"])
    assert value == pytest.approx(float(mp.mpf(case["log"])), rel=2e-12)


def test_profile_of_the_gaussian_mechanism_against_thirty_digits() -> None:
    rng = np.random.default_rng(20)
    for _ in range(80):
        mu, epsilon = 10 ** rng.uniform(-4, 2.2), 10 ** rng.uniform(-5, 3.7)
        # 1 - delta takes as many digits as it is small
        below = max(0.0, mu / 2 - epsilon / mu)
        with mp.workdps(60 + int(below**2 / 4)):
            truth = mp.log(oracle.gaussian_delta(mp.mpf(epsilon), mp.mpf(mu)))
            value = float(_special.log_gaussian_profile(epsilon, mu))
            assert abs(float(value - truth)) <= 3e-14 + 3e-15 * abs(float(truth))
            rest = mp.log(-mp.expm1(truth))
            value = float(_special.log_gaussian_complement(epsilon, mu))
            assert abs(float(value - rest)) <= 3e-14 + 3e-15 * abs(float(rest))


def test_mills_ratio_and_binomials_against_scipy() -> None:
    x = np.concatenate([np.linspace(-0.6, 12, 4001), np.geomspace(12, 1e9, 500)])
    expected = math.sqrt(math.pi / 2) * special.erfcx(x / math.sqrt(2))
    np.testing.assert_allclose(_special._mills(x), expected, rtol=3e-15)
    n = np.array([1.0, 1.0, 5.0, 20.0, 1000.0, 1000.0, 10**6, 10**6])
    k = np.array([0.0, 1.0, 2.0, 20.0, 500.0, 3.0, 500_100.0, 700_000.0])
    np.testing.assert_allclose(
        _special.log_fair_binomial(n, k), stats.binom.logpmf(k, n, 0.5), rtol=1e-9
    )


# ---------------------------------------------------------------------------- laws of the profile


@pytest.mark.parametrize("d", [1, 7, 1000])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 7.0, 200.0])
def test_two_gaussian_columns_have_a_closed_form(d: int, sigma: float, epsilon: float) -> None:
    b = (math.sqrt(1 + 4 * d * sigma**2) - 1) / 2
    expected = -b * epsilon - math.log(2 * b + 1)
    value = accounting.log_delta(epsilon, sigma=sigma, d=d, p=2, frame="gaussian")
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("p", [1, 3, 8, 40])
def test_gaussian_loss_is_a_difference_of_gamma_variables(p: int) -> None:
    d, sigma, epsilon = 5, 0.9, 2.0
    b = (math.sqrt(1 + 4 * d * sigma**2) - 1) / 2
    # delta = E (1 - e^(eps - L))+ with L = G1/b - G2/(b+1): inner tails of G1 by SciPy
    law = stats.gamma(p / 2)

    def over_loss(g2: float) -> float:
        low = b * (epsilon + g2 / (b + 1))
        # E[(1 - e^(eps - L)); G1 > low]; e^(-G1/b) tilts the gamma law to rate 1 + 1/b
        tilted = stats.gamma(p / 2, scale=1 / (1 + 1 / b)).sf(low) * (1 + 1 / b) ** (-p / 2)
        return law.pdf(g2) * (law.sf(low) - math.exp(epsilon + g2 / (b + 1)) * tilted)

    points = [0.0, *law.ppf([0.01, 0.5, 0.99, 1 - 1e-9]), p + 60.0]
    total = sum(
        integrate.quad(over_loss, a, c, epsrel=1e-9)[0] for a, c in itertools.pairwise(points)
    )
    value = accounting.delta(epsilon, sigma=sigma, d=d, p=p, frame="gaussian")
    assert value == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("frame", "p"), [("gaussian", 1), ("gaussian", 9), ("orthonormal", 2), ("orthonormal", 9)]
)
def test_survival_form(frame: str, p: int) -> None:
    d, sigma, epsilon = 6, 1.3, 1.5
    q, r = divmod(p, d)

    def survival(x: float) -> float:  # Pr[||U'v||^2 > x]
        if frame == "gaussian":
            return float(stats.chi2.sf(d * x, p))
        return float(stats.beta.sf(x - q, r / 2, (d - r) / 2)) if x > q else 1.0

    def integrand(t: float) -> float:
        return float(stats.norm.pdf(t / 2 - epsilon / t)) * survival((sigma * t) ** 2)

    kinks = [1e-9, math.sqrt(q) / sigma, math.sqrt(q + 1) / sigma, 40.0]
    total = sum(
        integrate.quad(integrand, a, b, epsrel=1e-11, limit=200)[0]
        for a, b in itertools.pairwise(kinks)
        if b > a
    )
    value = accounting.delta(epsilon, sigma=sigma, d=d, p=p, frame=frame)
    assert value == pytest.approx(total, rel=1e-8)


@pytest.mark.parametrize(("d", "p"), [(1, 1), (30, 30), (30, 60), (7, 700)])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-10), (1.0, 1e-6), (8.0, 1e-3)])
def test_full_blocks_are_the_gaussian_mechanism(
    d: int, p: int, epsilon: float, delta: float
) -> None:
    common = pytest.importorskip("dp_accounting.pld.common")
    from dp_accounting.pld import privacy_loss_mechanism

    loss = privacy_loss_mechanism.GaussianPrivacyLoss.from_privacy_guarantee(
        common.DifferentialPrivacyParameters(epsilon, delta)
    )
    sigma = accounting.calibrate_sigma(epsilon, delta, d=d, p=p, sensitivity=3.0)
    expected = loss.standard_deviation * 3.0 * math.sqrt(p / d)
    assert sigma == pytest.approx(expected, rel=1e-5)  # theirs is found to that accuracy


def test_full_blocks_against_the_closed_form() -> None:
    sigma = accounting.calibrate_sigma(2.0, 1e-7, d=12, p=36, sensitivity=0.4)
    mu = 0.4 * math.sqrt(3) / sigma
    assert float(gaussian_delta(2.0, mu)) == pytest.approx(1e-7, rel=1e-8)


def test_only_p_and_the_scaled_ratio_matter_for_gaussian_frames() -> None:
    one = accounting.log_delta(1.0, sigma=3.0, d=4, p=10, frame="gaussian", sensitivity=2.0)
    two = accounting.log_delta(1.0, sigma=0.15, d=400, p=10, frame="gaussian", sensitivity=1.0)
    assert one == pytest.approx(two, rel=1e-13)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("d", "p"), [(1, 3), (3, 2), (4, 6), (6, 4)])
def test_monte_carlo_of_the_mechanism(frame: str, d: int, p: int) -> None:
    # The whole thing by sampling: frames, noise, likelihood ratio of the two outputs. One of 8
    # tests fails by chance once in 10^5 runs of a new seed (5 standard errors).
    rng = np.random.default_rng(7)
    trials, sigma, epsilon = 100_000, 1.1, 0.7
    v = np.zeros(d)
    v[0] = 1.0
    if frame == "gaussian":
        u = rng.standard_normal((trials, d, p)) / math.sqrt(d)
    else:
        blocks = []
        for start in range(0, p, d):
            q, r = np.linalg.qr(rng.standard_normal((trials, d, d)))
            q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
            blocks.append(q[:, :, : min(d, p - start)])
        u = np.concatenate(blocks, axis=2)
    shift = np.einsum("tdp,d->tp", u, v)
    noise = rng.standard_normal((trials, p)) * sigma
    loss = ((noise + shift) ** 2 - noise**2).sum(axis=1) / (2 * sigma**2)
    gains = np.maximum(0.0, -np.expm1(epsilon - loss))
    error = gains.std() / math.sqrt(trials)
    value = accounting.delta(epsilon, sigma=sigma, d=d, p=p, frame=frame)
    assert abs(gains.mean() - value) <= 5 * error


release_settings = st.fixed_dictionaries(
    {
        "d": st.integers(1, 10**5),
        "p": st.integers(1, 10**6),
        "frame": st.sampled_from(FRAMES),
        "sensitivity": st.floats(0.01, 100.0),
    }
)


@settings(max_examples=60, deadline=None)
@given(release_settings, st.floats(1e-3, 100.0), st.floats(-34.0, -0.7))
def test_sigma_epsilon_and_delta_invert_one_another(
    setting: dict, epsilon: float, log_delta: float
) -> None:
    sigma = accounting.calibrate_sigma(epsilon, log_delta=log_delta, **setting)
    value = accounting.log_delta(epsilon, sigma=sigma, **setting)
    assert value <= log_delta
    # d ln delta / d ln sigma times the safety margin of 1e-10
    wider = accounting.log_delta(epsilon, sigma=sigma * 1.001, **setting)
    assert log_delta - value <= 3e-7 * abs(wider - value) + 1e-12 * abs(log_delta)
    again = accounting.epsilon(log_delta=value, sigma=sigma, **setting)
    further = accounting.log_delta(epsilon * 1.001, sigma=sigma, **setting)
    noise = 1e-14 * (1 + abs(value))
    assert again == pytest.approx(epsilon, rel=1e-9 + 1e-3 * noise / abs(further - value))
    assert accounting.log_delta(again, sigma=sigma, **setting) <= value


@settings(max_examples=60, deadline=None)
@given(
    release_settings,
    st.floats(0.0, 20.0),
    st.floats(0.05, 20.0),
    st.floats(1.0001, 3.0),
    st.integers(1, 1000),
)
def test_delta_is_monotone(
    setting: dict, epsilon: float, multiplier: float, factor: float, more: int
) -> None:
    sigma = multiplier * setting["sensitivity"] * math.sqrt(setting["p"] / setting["d"])
    value = accounting.log_delta(epsilon, sigma=sigma, **setting)
    slack = 1e-14 * abs(value)
    assert accounting.log_delta(epsilon * factor, sigma=sigma, **setting) <= value + slack
    assert accounting.log_delta(epsilon, sigma=sigma * factor, **setting) <= value + slack
    wide = {**setting, "sensitivity": setting["sensitivity"] * factor}
    assert accounting.log_delta(epsilon, sigma=sigma, **wide) >= value - slack
    long = {**setting, "p": setting["p"] + more}
    assert accounting.log_delta(epsilon, sigma=sigma, **long) >= value - slack


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.floats(0.2, 50.0),
    st.floats(-34.0, -0.7),
)
def test_exact_is_below_rdp_is_below_theorem_1(
    d: int, p: int, multiplier: float, log_delta: float
) -> None:
    setting = {"sigma": multiplier * math.sqrt(p / d), "d": d, "p": p, "log_delta": log_delta}
    exact = accounting.epsilon(frame="gaussian", **setting)
    renyi = accounting.rdp_epsilon(frame="gaussian", **setting)
    paper = accounting.paper_epsilon(**setting)
    assert exact <= renyi * (1 + 1e-12)
    assert renyi <= paper * (1 + 1e-9)
    orthonormal = accounting.epsilon(frame="orthonormal", **setting)
    assert orthonormal <= accounting.rdp_epsilon(frame="orthonormal", **setting) * (1 + 1e-12)


def test_epsilon_is_zero_exactly_where_zero_will_do() -> None:
    setting = {"sigma": 100.0, "d": 10, "p": 10}
    at_zero = accounting.delta(0.0, **setting)
    assert accounting.epsilon(at_zero, **setting) == 0.0
    assert accounting.epsilon(0.9, **setting) == 0.0
    assert accounting.epsilon(at_zero * 0.999, **setting) > 0.0


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("d", "p"), [(1, 1), (100_000, 1), (1, 1_000_000), (99_999, 1_000_000)])
@pytest.mark.parametrize(
    ("epsilon", "delta"), [(1e-3, 1e-15), (1e-3, 0.5), (100.0, 1e-15), (5e3, 0.5)]
)
def test_corners(frame: str, d: int, p: int, epsilon: float, delta: float) -> None:
    sigma = accounting.calibrate_sigma(epsilon, delta, d=d, p=p, frame=frame)
    value = accounting.delta(epsilon, sigma=sigma, d=d, p=p, frame=frame)
    assert delta * (1 - 1e-5) <= value <= delta
    smaller = accounting.delta(epsilon, sigma=sigma * (1 - 3e-10), d=d, p=p, frame=frame)
    assert smaller > delta


@pytest.mark.parametrize("sigma", [1e-200, 1e-12, 1e12, 1e200])
@pytest.mark.parametrize("p", [4, 6, 7])
@pytest.mark.parametrize("frame", FRAMES)
def test_absurd_noise_gives_the_limits(sigma: float, p: int, frame: str) -> None:
    value = accounting.log_delta(1.0, sigma=sigma, d=4, p=p, frame=frame)
    if sigma < 1:
        assert -1e-9 < value <= 0.0
    else:
        assert value < -1e11


# --------------------------------------------------------------------- Renyi, Theorem 1, the paper


@pytest.mark.parametrize("alpha", [1.0001, 1.5, 4.0, 30.0])
@pytest.mark.parametrize(("d", "p"), [(4, 4), (4, 6), (4, 3), (50, 20), (1, 3)])
def test_rdp_is_the_mean_of_gaussian_divergences(alpha: float, d: int, p: int) -> None:
    sigma = 9.0
    q, r = divmod(p, d)
    x = alpha * (alpha - 1) / (2 * sigma**2)
    expected = alpha * q / (2 * sigma**2)
    if r:
        expected += float(oracle.log_1f1(r / 2, d / 2, x)) / (alpha - 1)
    value = accounting.rdp(alpha, sigma=sigma, d=d, p=p)
    assert value == pytest.approx(expected, rel=1e-11)
    assert value >= expected
    gaussian = accounting.rdp(alpha, sigma=sigma, d=d, p=p, frame="gaussian")
    if 2 * x / d < 0.3:
        mean = mean_over_chi2(lambda mu: math.expm1(x * mu**2), p, c=1 / math.sqrt(d))
        assert gaussian == pytest.approx(math.log1p(mean) / (alpha - 1), rel=1e-6)


def test_rdp_is_infinite_from_an_order_on() -> None:
    # x = a (a - 1)/(d sigma^2) = 1 at a = 2 for d sigma^2 = 2
    assert accounting.rdp(1.999, sigma=1.0, d=2, p=3, frame="gaussian") < math.inf
    assert accounting.rdp(2.0, sigma=1.0, d=2, p=3, frame="gaussian") == math.inf
    assert accounting.rdp(200.0, sigma=1.0, d=2, p=3) < math.inf


@pytest.mark.parametrize("sigma", [0.3, 2.0, 50.0])
@pytest.mark.parametrize("delta", [1e-15, 1e-5, 0.4])
def test_theorem_1_takes_the_best_order(sigma: float, delta: float) -> None:
    d, p = 30, 60

    def bound(alpha: float) -> float:
        g = (alpha**2 - alpha) / sigma**2
        return p * alpha / (2 * sigma**2 * (d - g)) + math.log(1 / delta) / (alpha - 1)

    highest = (1 + math.sqrt(1 + 4 * d * sigma**2)) / 2
    found = optimize.minimize_scalar(
        bound, bounds=(1 + 1e-9, highest * (1 - 1e-12)), options={"xatol": 1e-10}, method="bounded"
    )
    value = accounting.paper_epsilon(delta, sigma=sigma, d=d, p=p)
    alpha = accounting.paper_alpha(delta, sigma=sigma, d=d, p=p)
    assert value == pytest.approx(found.fun, rel=1e-10)
    assert 1 < alpha < highest
    assert bound(alpha) == pytest.approx(value, rel=1e-12)
    sigma_again = accounting.paper_sigma(value, delta, d=d, p=p)
    assert sigma_again == pytest.approx(sigma, rel=1e-8)
    assert accounting.paper_epsilon(delta, sigma=sigma_again, d=d, p=p) <= value


def test_exact_accounting_with_orthonormal_frames_saves_noise() -> None:
    for d, p, epsilon in [(30, 30, 0.5), (94, 94, 5.0), (10, 10, 3.0)]:
        ours = accounting.calibrate_sigma(epsilon, 1e-6, d=d, p=p)
        ratio = accounting.paper_sigma(epsilon, 1e-6, d=d, p=p) / ours
        assert 1.12 < ratio < 2.0


# ------------------------------------------------------------------------------------ composition


def test_gaussian_frames_with_equal_sigma_add_their_columns() -> None:
    parts = [Slicing(sigma=2.0, d=30, p=p, frame="gaussian") for p in (10, 20, 30)]
    total = accounting.delta(3.0, sigma=2.0, d=30, p=60, frame="gaussian")
    assert accounting.composed_delta(3.0, parts) == pytest.approx(total, rel=1e-13)
    epsilon = accounting.epsilon(1e-6, sigma=2.0, d=30, p=60, frame="gaussian")
    assert accounting.composed_epsilon(1e-6, parts) == pytest.approx(epsilon, rel=1e-12)


def test_full_blocks_add_their_squared_ratios() -> None:
    parts = [
        Slicing(sigma=2.0, d=30, p=60),
        Slicing(sigma=5.0, d=10, p=30, sensitivity=2.0),
        Slicing(sigma=1.0, d=7, p=7, sensitivity=0.3),
    ]
    mu = math.sqrt(2 / 4 + 3 * 4 / 25 + 0.09)
    assert accounting.composed_delta(2.0, parts) == pytest.approx(
        float(gaussian_delta(2.0, mu)), rel=1e-10
    )


def test_full_block_with_one_random_part() -> None:
    parts = [Slicing(sigma=1.5, d=8, p=8), Slicing(sigma=1.0, d=5, p=3, frame="gaussian")]
    fixed = 1 / 1.5**2
    expected = mean_over_chi2(
        lambda mu: float(gaussian_delta(2.0, math.sqrt(fixed + mu**2))), 3, c=1 / math.sqrt(5)
    )
    assert accounting.composed_delta(2.0, parts) == pytest.approx(expected, rel=1e-7)
    parts[1] = Slicing(sigma=1.0, d=5, p=3)
    expected = stats.beta(1.5, 1.0).expect(lambda b: gaussian_delta(2.0, np.sqrt(fixed + b)))
    assert accounting.composed_delta(2.0, parts) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    "parts",
    [
        [Slicing(sigma=1.5, d=5, p=2), Slicing(sigma=2.0, d=5, p=4)],
        [Slicing(sigma=1.5, d=5, p=2, frame="gaussian"), Slicing(sigma=2.0, d=5, p=4)],
        [
            Slicing(sigma=1.5, d=5, p=2, frame="gaussian"),
            Slicing(sigma=2.0, d=5, p=4, frame="gaussian"),
        ],
        [Slicing(sigma=1.0, d=5, p=7), Slicing(sigma=2.0, d=5, p=4)],  # and a full block
        [Slicing(sigma=2.0, d=3, p=1), Slicing(sigma=0.8, d=30, p=20)],
        [Slicing(sigma=0.8, d=30, p=20), Slicing(sigma=2.0, d=3, p=1), Slicing(sigma=2, d=2, p=1)],
    ],
)
def test_several_random_parts_are_bounded_from_above(parts: list[Slicing]) -> None:
    rng = np.random.default_rng(3)

    def squares(part: Slicing) -> np.ndarray:
        q, r = divmod(part.p, part.d)
        draws = (
            rng.chisquare(part.p, 200_000) / part.d
            if part.frame == "gaussian"
            else q + rng.beta(r / 2, (part.d - r) / 2, 200_000)
        )
        return draws / part.sigma**2

    mu = np.sqrt(sum(squares(part) for part in parts))
    values = gaussian_delta(1.0, mu)
    truth = values.mean()
    bound = accounting.composed_delta(1.0, parts)
    assert bound >= truth - 5 * values.std() / math.sqrt(values.size)
    epsilon = accounting.composed_epsilon(1e-5, parts)
    basic = sum(
        accounting.epsilon(0.5e-5, sigma=x.sigma, d=x.d, p=x.p, frame=x.frame) for x in parts
    )
    assert epsilon < basic
    assert accounting.composed_delta(epsilon, parts) <= 1e-5 * (1 + 1e-12)


def test_other_mechanisms_are_randomised_responses_at_worst() -> None:
    parts, e, dlt = [Slicing(sigma=2.0, d=4, p=4)], 0.8, 1e-4
    odds = math.exp(e) / (1 + math.exp(e))
    both = odds * gaussian_delta(1.5 - e, 0.5) + (1 - odds) * gaussian_delta(1.5 + e, 0.5)
    expected = 1 - (1 - dlt) * (1 - float(both))
    value = accounting.composed_delta(1.5, parts, others=[(e, dlt)])
    assert value == pytest.approx(expected, rel=1e-9)
    # negative arguments: everything below the loss of the other mechanism
    both = odds * gaussian_delta(0.1 - e, 0.5) + (1 - odds) * gaussian_delta(0.1 + e, 0.5)
    value = accounting.composed_delta(0.1, parts, others=[(e, 0.0)])
    assert value == pytest.approx(float(both), rel=1e-9)


def test_the_least_of_many_other_mechanisms_are_added_up() -> None:
    """Above the truth, for which all patterns of losses are listed."""
    epsilons = np.linspace(0.1, 0.4, 12)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=12)))
    weights = np.prod(1 / (1 + np.exp(-signs * epsilons)), axis=1)
    parts = [Slicing(sigma=2.0, d=4, p=4)]
    for epsilon in (1.0, 2.5):
        inside = weights @ gaussian_delta(epsilon - signs @ epsilons, 0.5)
        truth = 1 - (1 - 1e-7) ** 12 * (1 - float(inside))
        others = [(float(e), 1e-7) for e in reversed(epsilons)]
        value = accounting.composed_delta(epsilon, parts, others=others)
        sure = accounting.composed_delta(
            epsilon - math.fsum(epsilons[:4]), parts, others=[(e, 1e-7) for e in epsilons[4:]]
        )
        assert truth <= value == pytest.approx(sure + 4e-7 * (1 - sure), rel=1e-9)


def test_composition_with_others_lies_below_basic_composition() -> None:
    parts = [Slicing(sigma=2.0, d=4, p=6, frame="gaussian")]
    others = [(0.3, 1e-7), (0.1, 0.0), (0.2, 1e-7)]
    total = accounting.composed_epsilon(1e-5, parts, others=others)
    alone = accounting.epsilon(1e-5 - 2e-7, sigma=2.0, d=4, p=6, frame="gaussian")
    assert alone < total <= alone + 0.6
    many = accounting.composed_epsilon(1e-5, parts, others=[(0.01, 0.0)] * 40)
    assert accounting.epsilon(1e-5, sigma=2.0, d=4, p=6, frame="gaussian") < many <= alone + 0.4


# ------------------------------------------------------------------------------------ subsampling

TABLE = {"d": 6, "p": 6, "sigma": 1.2}


def profile(epsilon: float, distance: float) -> float:
    """Profile of `TABLE` at a distance, any real epsilon, by SciPy."""
    return float(gaussian_delta(epsilon, distance / 1.2))


@pytest.mark.parametrize("epsilon", [1e-6, 0.4, 2.0, 9.0])
def test_fixed_size_replace_one_is_the_formula(epsilon: float) -> None:
    t = 0.2
    inner = math.log(1 + (math.exp(epsilon) - 1) / t)
    value = accounting.subsampled_delta(
        epsilon, sample=Subsample(n=50, size=10), adjacency="replace_one", **TABLE
    )
    assert value == pytest.approx(t * profile(inner, 2.0), rel=1e-7)
    added = accounting.subsampled_delta(
        epsilon, sample=Subsample(n=50, size=10), adjacency="add_remove", **TABLE
    )
    assert added == value


@pytest.mark.parametrize(("t", "diameter"), [(0.5, 2.0), (0.1, 1.5), (0.9, 1.42)])
@pytest.mark.parametrize("epsilon", [0.05, 0.8, 3.0])
def test_fixed_size_zero_out_takes_the_best_weight(
    t: float, diameter: float, epsilon: float
) -> None:
    def objective(u: float) -> float:
        w, rest = special.expit(u), special.expit(-u)
        far = math.log((1 - t) * math.expm1(epsilon) / (t * rest))
        return t * (rest * profile(far, diameter) + w * profile(epsilon - math.log(w), 1.0))

    grid = np.linspace(-30, 30, 601)
    best = grid[int(np.argmin([objective(u) for u in grid]))]
    found = optimize.minimize_scalar(objective, bounds=(best - 0.2, best + 0.2), method="bounded")
    value = accounting.subsampled_delta(
        epsilon, sample=Subsample(n=100, size=round(100 * t)), diameter=diameter, **TABLE
    )
    assert value == pytest.approx(found.fun, rel=1e-8)
    kept = Subsample(n=100, size=round(100 * t), order="kept")
    assert value <= accounting.subsampled_delta(epsilon, sample=kept, diameter=diameter, **TABLE)


@pytest.mark.parametrize("frame", FRAMES)
def test_zero_out_at_equal_distances_is_replace_one(frame: str) -> None:
    setting = {"d": 5, "p": 8, "sigma": 1.5, "frame": frame, "diameter": 1.0, "max_norm": 1.0}
    for size in (3, 50, 97):
        sample = Subsample(n=100, size=size)
        zero = accounting.subsampled_delta(0.7, sample=sample, adjacency="zero_out", **setting)
        one = accounting.subsampled_delta(0.7, sample=sample, adjacency="replace_one", **setting)
        assert zero == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("sample", [Subsample(n=9, size=9), Subsample(n=9, rate=1.0)])
def test_drawing_every_row_changes_nothing(frame: str, sample: Subsample) -> None:
    setting = {"d": 5, "p": 8, "sigma": 1.5, "frame": frame}
    for adjacency, distance in (("zero_out", 1.0), ("replace_one", 2.0)):
        value = accounting.subsampled_delta(0.7, sample=sample, adjacency=adjacency, **setting)
        plain = accounting.delta(0.7, sensitivity=distance, **setting)
        assert value == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_kept_order_gains_in_delta_only(adjacency: str) -> None:
    distance = 1.0 if adjacency == "zero_out" else 2.0
    for sample in (
        Subsample(n=100, size=25, order="kept"),
        Subsample(n=9, rate=0.25, order="kept"),
    ):
        value = accounting.subsampled_delta(0.7, sample=sample, adjacency=adjacency, **TABLE)
        assert value == pytest.approx(0.25 * profile(0.7, distance), rel=1e-9)


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
@pytest.mark.parametrize(("n", "rate"), [(12, 0.3), (400, 0.5), (20_000, 0.25), (10**6, 1e-5)])
def test_poisson_averages_the_fixed_size_values(adjacency: str, n: int, rate: float) -> None:
    setting = {**TABLE, "adjacency": adjacency}
    value = accounting.subsampled_delta(0.9, sample=Subsample(n=n, rate=rate), **setting)
    low, high = stats.binom.ppf([1e-12, 1 - 1e-12], n, rate)
    counts = np.unique(np.linspace(low, high, int(min(high - low + 1, 60))).astype(int))
    fixed = [
        accounting.subsampled_delta(0.9, sample=Subsample(n=n, size=int(k)), **setting)
        if k
        else 0.0
        for k in counts
    ]
    every = np.arange(low, high + 1)
    weights = stats.binom.pmf(every, n, rate)
    if len(counts) == len(every):
        assert value == pytest.approx(float(weights @ np.array(fixed)), rel=1e-8)
    else:
        between = np.exp(np.interp(every, counts, np.log(fixed)))
        assert value == pytest.approx(float(weights @ between), rel=1e-3)
    if round(n * rate) == n * rate:
        at_mean = accounting.subsampled_delta(
            0.9, sample=Subsample(n=n, size=round(n * rate)), **setting
        )
        assert value > at_mean


def test_poisson_interpolation_agrees_with_every_term() -> None:
    for adjacency in ("zero_out", "replace_one"):
        base = _subsampling._subsampled(
            Subsample(n=3000, rate=0.3), adjacency, 1.2, 6, 6, "orthonormal", 1.0, None
        )
        t = np.arange(700, 1100) / 3000
        direct = base._fixed(0.9, t)
        quick = _subsampling._interpolated(lambda t, base=base: base._fixed(0.9, t), t)
        np.testing.assert_allclose(quick, direct, atol=3e-10)
        assert (quick >= direct - 1e-12).all()


def test_poisson_counts_the_numbers_of_rows_that_it_leaves_out() -> None:
    """Far out in the tail of delta it is the rarest, largest samples that tell most."""
    n, rate, epsilon = 2000, 0.01, 5.0
    base = _subsampling._subsampled(
        Subsample(n=n, rate=rate), "replace_one", 2.0 / 0.15, 6, 6, "orthonormal", 1.0, None
    )
    drawn = np.arange(1, n + 1)
    terms = stats.binom.logpmf(drawn, n, rate) + base._fixed(epsilon, drawn / n)
    assert drawn[np.argmax(terms)] > _subsampling.binomial(n, rate)[0].max()
    assert base.log_delta(epsilon) >= np.logaddexp.reduce(terms)


def test_poisson_interpolation_is_raised_by_its_error() -> None:
    """Of a kink, which polynomials of any degree miss: never below it, and above by 1e-10 or so."""
    asked = []

    def kink(t: np.ndarray) -> np.ndarray:
        asked.append(t.size)
        return -1.0 + 3e-7 * np.abs(np.log(t / 0.2)) ** 3

    t = np.linspace(0.1, 0.5, 2000)
    found = _subsampling._interpolated(kink, t)
    assert sum(asked) < t.size  # it was interpolated
    above = found - kink(t)
    assert above.min() >= 0.0
    assert 1e-12 < above.max() < 2.1e-10


@pytest.mark.parametrize("epsilon", [0.2, 1.0])
@pytest.mark.parametrize("x", [(1.0, 0.0), (1.0, -1.0), (0.3, 1.0)])
@pytest.mark.parametrize("other", [-1.0, -0.3, 0.4, 1.0])
def test_rules_hold_for_two_records_and_one_drawn(
    epsilon: float, x: tuple[float, float], other: float
) -> None:
    # d = p = 1: the output is a mixture of two normal laws, and the divergence one integral.
    sigma = 0.8

    def law(value: float) -> stats.rv_continuous:
        return lambda y: 0.5 * (stats.norm.pdf(y, other, sigma) + stats.norm.pdf(y, value, sigma))

    def hockey_stick(a: float, b: float) -> float:
        p, q = law(a), law(b)
        y = np.linspace(-12, 12, 200_001)
        return float(integrate.trapezoid(np.maximum(p(y) - math.exp(epsilon) * q(y), 0.0), y))

    truth = max(hockey_stick(*x), hockey_stick(*reversed(x)))
    sample = Subsample(n=2, size=1)
    setting = {"d": 1, "p": 1, "sigma": sigma, "sample": sample}
    bound = accounting.subsampled_delta(epsilon, adjacency="replace_one", **setting)
    assert truth <= bound + 1e-9
    if 0.0 in x:
        bound = accounting.subsampled_delta(epsilon, adjacency="zero_out", **setting)
        assert truth <= bound + 1e-9


def test_lemma_1_is_no_guarantee() -> None:
    # One of two records is drawn; the record 1 is zeroed beside another at -1. The paper's rule,
    # with its base sensitivity of 1, promises less loss than there is.
    sigma, epsilon = 0.4, 1.0
    inner = math.log(1 + (math.exp(epsilon) - 1) / 0.5)
    base = float(gaussian_delta(inner, 1 / sigma))
    claimed, delta = accounting.lemma1_not_a_guarantee(inner, base, rate=0.5)
    assert claimed == pytest.approx(epsilon, rel=1e-12)
    y = np.linspace(-10, 10, 400_001)
    with_it = 0.5 * (stats.norm.pdf(y, -1, sigma) + stats.norm.pdf(y, 1, sigma))
    without = 0.5 * (stats.norm.pdf(y, -1, sigma) + stats.norm.pdf(y, 0, sigma))
    truth = max(
        float(integrate.trapezoid(np.maximum(a - math.exp(epsilon) * b, 0), y))
        for a, b in ((with_it, without), (without, with_it))
    )
    assert truth > 1.02 * delta
    bound = accounting.subsampled_delta(
        epsilon, sample=Subsample(n=2, size=1), sigma=sigma, d=1, p=1
    )
    assert bound >= truth - 1e-8  # attained: what is left is the quadrature's
    assert accounting.lemma1_not_a_guarantee(50.0, 0.1, rate=0.5)[0] == pytest.approx(
        50 + math.log(0.5), rel=1e-12
    )


@pytest.mark.parametrize(("mu", "t", "epsilon"), [(1.0, 0.25, 1.0), (0.5, 0.1, 0.3)])
def test_fixed_size_equals_the_sampled_gaussian_of_dp_accounting(
    mu: float, t: float, epsilon: float
) -> None:
    pytest.importorskip("dp_accounting")
    from dp_accounting.pld import privacy_loss_distribution

    pld = privacy_loss_distribution.from_gaussian_mechanism(
        1 / mu, sampling_prob=t, value_discretization_interval=1e-4, use_connect_dots=True
    )
    theirs = pld.get_delta_for_epsilon(epsilon)
    value = accounting.subsampled_delta(
        epsilon,
        sample=Subsample(n=100, size=round(100 * t)),
        adjacency="replace_one",
        sigma=2 / mu,
        d=3,
        p=3,
    )
    assert value == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
@pytest.mark.parametrize("sample", [Subsample(n=300, size=60), Subsample(n=300, rate=0.2)])
@pytest.mark.parametrize(("frame", "p"), [("orthonormal", 5), ("gaussian", 7)])
def test_subsampled_inverses(adjacency: str, sample: Subsample, frame: str, p: int) -> None:
    setting = {"d": 5, "p": p, "frame": frame, "adjacency": adjacency, "sample": sample}
    sigma = accounting.calibrate_subsampled_sigma(0.8, 1e-5, **setting)
    assert accounting.subsampled_delta(0.8, sigma=sigma, **setting) <= 1e-5
    assert accounting.subsampled_delta(0.8, sigma=sigma * (1 - 1e-8), **setting) > 1e-5
    epsilon = accounting.subsampled_epsilon(1e-5, sigma=sigma, **setting)
    assert epsilon == pytest.approx(0.8, rel=1e-8)
    plain = accounting.calibrate_sigma(
        0.8, 1e-5, d=5, p=p, frame=frame, sensitivity=1.0 if adjacency == "zero_out" else 2.0
    )
    assert sigma < plain


# --------------------------------------------------------------------------------------- shuffling


def clone_bound(epsilon: float, mu: float, n: int, epsilon0: float, lost: float = 0.0) -> float:
    """The shuffling bound at one epsilon0, term by term with SciPy."""
    eta = (n - 1) * stats.norm.sf(epsilon0 / mu - mu / 2)
    theta = (1 - eta) * math.exp(-epsilon0 - lost)
    mean, reach = (n - 1) * theta, 100 + 16 * math.sqrt(n)  # beyond, less than 1e-50
    c = np.arange(max(0, int(mean - reach)), min(n, int(mean + reach)))
    a = np.floor(math.exp(epsilon) * (c + 1) / (1 + math.exp(epsilon))) + 1
    inner = stats.binom.sf(a - 2, c, 0.5) - math.exp(epsilon) * stats.binom.sf(a - 1, c, 0.5)
    return float(stats.binom.pmf(c, n - 1, theta) @ inner + (1 + math.exp(epsilon)) * eta)


@pytest.mark.parametrize(
    ("epsilon", "mu", "n"),
    [
        *((0.05, 0.3, 3000), (0.3, 0.4, 2000), (1.0, 0.8, 5000)),
        (0.0, 1.0, 1000),  # eta is a hundredth: what it takes off theta shows
        (0.005, 0.2, 25_000),  # several counts at a time are taken for the least of them
    ],
)
def test_shuffling_takes_the_best_epsilon0(epsilon: float, mu: float, n: int) -> None:
    grid = mu**2 / 2 + mu * np.linspace(4.0, 9.0, 40)
    i = int(np.argmin([clone_bound(epsilon, mu, n, float(x)) for x in grid]))
    best = optimize.minimize_scalar(
        lambda x: clone_bound(epsilon, mu, n, x),
        bounds=(grid[max(i - 1, 0)], grid[min(i + 1, 39)]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    value = math.exp(_shuffling.log_shuffled_delta(epsilon, mu, n))
    assert value < float(gaussian_delta(epsilon, mu))
    assert best.fun * (1 - 1e-7) <= value <= best.fun * 1.01
    # The public function may find a slightly smaller epsilon that does better.
    lower = min(clone_bound(0.97 * epsilon, mu, n, float(x)) for x in grid)
    public = accounting.shuffled_delta(epsilon, mu=mu, n=n)
    assert 0.95 * min(best.fun, lower) <= public <= value * (1 + 1e-9)


def test_shuffling_counts_fewer_rows_where_rounding_makes_them_rarer() -> None:
    """By far more than rounding does: theta falls by that factor, and delta rises."""
    epsilon, mu, n, lost = 0.5, 0.5, 3000, 0.4
    value = math.exp(_shuffling.log_shuffled_delta(epsilon, mu, n, lost))
    grid = mu**2 / 2 + mu * np.linspace(4.0, 9.0, 100)
    least = min(clone_bound(epsilon, mu, n, float(x), lost) for x in grid)
    assert value == pytest.approx(least, rel=5e-3)
    assert value > 1.1 * math.exp(_shuffling.log_shuffled_delta(epsilon, mu, n))


def test_shuffling_is_raised_by_more_than_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the least bound of all thetas that it tried, to thirty digits, by at least 5e-10."""
    epsilon, mu, n = 0.0, 1.0, 1000
    tried = []

    def noted(rows: int, theta: float) -> Any:
        tried.append(theta)
        return _subsampling.binomial(rows, theta)

    monkeypatch.setattr(_shuffling, "binomial", noted)
    value = _shuffling.log_shuffled_delta(epsilon, mu, n)

    def exact(theta: float) -> Any:
        def eta(epsilon0: Any) -> Any:
            return (n - 1) * mp.ncdf(mp.mpf(mu) / 2 - epsilon0 / mu)

        epsilon0 = mp.findroot(
            lambda x: mp.log1p(-eta(x)) - x - mp.log(theta), -math.log(theta) - 0.01
        )
        total = (1 + mp.exp(epsilon)) * eta(epsilon0)
        weight, odds = (1 - mp.mpf(theta)) ** (n - 1), mp.mpf(theta) / (1 - mp.mpf(theta))
        for c in range(150):  # beyond, less than 1e-30
            a = c // 2 + 1  # (c + 1) / 2 rounded down, and one more
            total += weight * mp.binomial(c, a - 1) / mp.mpf(2) ** c  # as e^epsilon = 1
            weight *= odds * (n - 1 - c) / (c + 1)
        return mp.log(total)

    with mp.workdps(30):
        assert 5e-10 <= value - min(map(exact, tried)) <= 1.1e-9


def test_shuffling_never_loses_and_inverts() -> None:
    assert accounting.shuffled_delta(5.0, mu=1.0, n=100) == pytest.approx(
        float(gaussian_delta(5.0, 1.0)), rel=1e-10
    )
    assert accounting.shuffled_delta(1.0, mu=1.0, n=1) == pytest.approx(
        float(gaussian_delta(1.0, 1.0)), rel=1e-10
    )
    epsilon = accounting.shuffled_epsilon(1e-6, mu=0.6, n=10_000)
    assert accounting.shuffled_delta(epsilon, mu=0.6, n=10_000) <= 1e-6
    assert epsilon < accounting.epsilon(1e-6, sigma=1 / 0.6, d=1, p=1)
    mu = accounting.calibrate_shuffled_mu(1.0, 1e-6, n=10_000)
    assert accounting.shuffled_delta(1.0, mu=mu, n=10_000) <= 1e-6
    plain = 1 / accounting.calibrate_sigma(1.0, 1e-6, d=1, p=1)
    assert 1.7 <= mu / plain <= 6.6
    assert accounting.shuffled_epsilon(0.9, mu=0.1, n=10) == 0.0
    assert accounting.calibrate_shuffled_mu(5.0, 1e-6, n=50) >= 1 / accounting.calibrate_sigma(
        5.0, 1e-6, d=1, p=1
    ) * (1 - 1e-9)


# ------------------------------------------------------------------------ rounding and certificates


def test_numerical_loss() -> None:
    epsilon, delta = accounting.numerical_loss(p=100, sigma=2.0, max_norm=3.0)
    assert epsilon == pytest.approx(2e-11 * 100 * 12.5)
    assert delta == 100 * 2.0**-70
    # (1 + e^epsilon) 2^-74 a number is what the two laws may differ by, beyond the first.
    for stated in (0.0, 1.0, 2.7, 2.8, 5.0, 30.0):
        delta = accounting.numerical_loss(p=100, sigma=2.0, max_norm=3.0, epsilon=stated)[1]
        needed = 100 * (1 + math.exp(stated)) * 2.0**-74
        assert needed <= delta <= max(100 * 2.0**-70, 2 * needed)
        assert delta == accounting.sum_numerical_loss(100, stated)[1]


def test_no_epsilon_is_stated_where_computed_noise_ends() -> None:
    """Box and Muller's radius ends at 13.37: rows farther apart can be told apart for sure."""
    end = _core.secure_normals(np.zeros((1, 6), np.uint32))[0, 0]
    assert 13.3 < end < 13.4
    for frame in FRAMES:
        for mu in (8.7, 20.0, 1000.0):
            # Of the row at mu, so much lies beyond all that the zero row can be released as.
            assert 0.5 * math.erfc((end - mu) / math.sqrt(2)) > 1e-6
            promise = accounting.slicing_guarantee(
                sigma=1 / mu, delta=1e-6, d=1, p=1, frame=frame, column_norm=8.0
            )
            assert promise.epsilon == promise.epsilon_replace_one == math.inf
            assert Guarantee.from_dict(promise.to_dict()) == promise
            assert "infinite" in str(promise)
    sums: dict = {"cells": 2, "norm": 1.0, "diameter": 1.4}
    assert accounting.sum_guarantee(sigma=0.05, delta=1e-6, **sums).epsilon == math.inf
    hopeless = r"at p = 30 and epsilon = 50 .which protects nothing.*; choose a smaller epsilon$"
    with pytest.raises(ValueError, match=hopeless):
        accounting.calibrate_slicing(50.0, 1e-6, d=30, p=30)
    with pytest.raises(ValueError, match="for 2 sums and epsilon = 300"):
        accounting.calibrate_sums(300.0, 1e-6, **sums)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0, 3.0])
def test_rounding_is_charged_at_the_epsilon_that_is_stated(mu: float) -> None:
    """(e^r delta + (1 + e^epsilon) t) at epsilon - r, all of it within the delta that is stated."""
    for promise, numbers in (
        (accounting.slicing_guarantee(sigma=1 / mu, delta=1e-7, d=50, p=50), 50),
        (accounting.sum_guarantee(
            sigma=1 / mu, delta=1e-7, cells=10**4, norm=1.0, diameter=1.4), 10**4),
    ):  # fmt: skip
        rounding = promise.epsilon_numerical
        exact = float(oracle.gaussian_delta(mp.mpf(promise.epsilon - rounding), mp.mpf(mu)))
        lost = numbers * (1 + math.exp(promise.epsilon)) * 2.0**-74
        assert promise.delta_numerical >= lost
        assert math.exp(rounding) * exact + lost <= 1e-7
        # And nothing is given away: with a little less of epsilon it would not hold.
        fewer = float(oracle.gaussian_delta(mp.mpf(promise.epsilon - rounding - 1e-3), mp.mpf(mu)))
        assert math.exp(rounding) * fewer + 2 * lost + numbers * 2.0**-70 > 1e-7 * (1 - 1e-6)


@pytest.mark.parametrize("kind", ["rows", "sums"])
@pytest.mark.parametrize("mu", [0.5, 1.2])
def test_rounding_of_norms_and_frames_is_charged(kind: str, mu: float) -> None:
    """Neighbours are taken to be 1e-9 farther apart, alone and composed; against 30 digits."""
    if kind == "rows":
        one = accounting.slicing_guarantee(sigma=1 / mu, delta=1e-7, d=2, p=2)
    else:
        one = accounting.sum_guarantee(sigma=1 / mu, delta=1e-7, cells=2, norm=1.0, diameter=1.4)
    three = Guarantee.compose(one, one, one)
    assert three.epsilon_numerical == pytest.approx(3 * one.epsilon_numerical, rel=1e-12)
    assert three.delta_numerical == pytest.approx(3 * one.delta_numerical, rel=1e-12, abs=0.0)
    for promise, ratio in ((one, mu), (three, math.sqrt(3.0) * mu)):
        rounding = mp.mpf(promise.epsilon_numerical)
        farther = mp.mpf(ratio) * (1 + mp.mpf(10) ** -9)
        exact = oracle.gaussian_delta(mp.mpf(promise.epsilon) - rounding, farther)
        total = mp.exp(rounding) * exact + promise.delta_numerical
        assert promise.delta * (1 - mp.mpf(10) ** -9) <= total <= promise.delta


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("sigma", "delta"), [(2.0, 1e-7), (5.0, 1e-13)])
def test_rounding_of_all_that_is_composed_is_charged(
    sigma: float, delta: float, times: int
) -> None:
    """Of many numbers, at the epsilon of all; and of sums that rounds have counted twice."""
    one = accounting.sum_guarantee(
        sigma=sigma, delta=delta, cells=times * 10**6, norm=1.0, diameter=1.4
    )
    one = dataclasses.replace(one, p=10**6)
    total = Guarantee.compose(one, one, one)
    rounding = mp.mpf(total.epsilon_numerical)
    assert total.composition == "joint"
    farther = mp.sqrt(3) / sigma * (1 + mp.mpf(10) ** -9)
    exact = oracle.gaussian_delta(mp.mpf(total.epsilon) - rounding, farther)
    lost = 3 * times * 10**6 * (1 + mp.exp(total.epsilon)) * mp.mpf(2) ** -74
    assert mp.exp(rounding) * exact + lost <= 3 * delta


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("adjacency", accounting.ADJACENCIES)
@pytest.mark.parametrize("epsilon", [0.01, 5.0, 25.0])
def test_calibrated_release_stays_within_its_budget(
    frame: str, adjacency: str, epsilon: float
) -> None:
    setting = {
        "d": 20, "p": 30, "frame": frame, "adjacency": adjacency, "max_norm": 3.0,
        "diameter": 4.5, "column_norm": 1.0 if frame == "orthonormal" else 1.8,
    }  # fmt: skip
    sigma = accounting.calibrate_slicing(epsilon, 1e-6, **setting)
    guarantee = accounting.slicing_guarantee(sigma=sigma, delta=1e-6, n=7, **setting)
    assert epsilon * (1 - 1e-6) <= guarantee.epsilon <= epsilon
    assert guarantee.delta == 1e-6
    assert guarantee.mechanism == "slicing"
    assert guarantee.sensitivity == (3.0 if adjacency == "zero_out" else 4.5)
    rounding = accounting.numerical_loss(
        p=30, sigma=sigma, max_norm=3.0 * setting["column_norm"], epsilon=epsilon
    )
    assert guarantee.epsilon_numerical == rounding[0]
    needed = 30 * 2.0**-74 * (1 + math.exp(epsilon))
    assert needed * (1 - 1e-9) <= guarantee.delta_numerical <= rounding[1]
    exact = accounting.epsilon(
        1e-6, sigma=sigma, d=20, p=30, frame=frame, sensitivity=guarantee.sensitivity
    )
    assert exact < guarantee.epsilon
    if adjacency == "zero_out":
        other = accounting.slicing_guarantee(
            sigma=sigma, delta=1e-6, **{**setting, "adjacency": "replace_one"}
        )
        assert guarantee.epsilon_replace_one == other.epsilon > guarantee.epsilon
    else:
        assert guarantee.epsilon_replace_one is None


def test_products_with_long_columns_are_accounted_for() -> None:
    size = {"sigma": 0.1, "d": 10**6, "p": 10**4, "frame": "gaussian"}
    promise = accounting.slicing_guarantee(delta=1e-6, column_norm=50.0, **size)
    rounding = accounting.numerical_loss(p=10**4, sigma=0.1, max_norm=50.0)[0]
    assert promise.epsilon_numerical == rounding
    exact = accounting.epsilon(
        log_delta=math.log(1e-6 - promise.delta_numerical) - rounding,
        sensitivity=1.0 + 1e-9 + 2.0 * 50.0 * 10**6 * math.sqrt(10**4) * 2.0**-53,
        **size,
    )
    assert promise.epsilon - rounding == pytest.approx(exact, rel=1e-9)


def test_diameter_is_at_most_twice_the_norm() -> None:
    setting = {"sigma": 3.0, "delta": 1e-6, "d": 4, "p": 4, "adjacency": "replace_one"}
    wide = accounting.slicing_guarantee(diameter=50.0, **setting)
    assert wide.sensitivity == 2.0
    assert wide.epsilon == accounting.slicing_guarantee(**setting).epsilon


def test_rounding_may_use_up_the_budget() -> None:
    with pytest.raises(ValueError, match=r"delta must exceed what rounding needs at p = 100"):
        accounting.slicing_guarantee(sigma=1.0, delta=1e-20, d=10, p=100)
    with pytest.raises(ValueError, match=r"epsilon must exceed what rounding needs"):
        accounting.calibrate_slicing(1e-5, 0.1, d=10, p=1_000_000)


def a_guarantee(**changes: object) -> Guarantee:
    setting: dict = {"sigma": 2.0, "delta": 1e-6, "d": 8, "p": 8, "n": 1000}
    return accounting.slicing_guarantee(**{**setting, **changes})


def test_certificate_names_what_it_must() -> None:
    text = str(a_guarantee())
    for words in (
        "slicing", "zero_out", "Delta", "n is public: n = 1000", "epsilon", "delta", "sigma",
        "orthonormal", "d = 8", "p = 8", "replace_one", "1e-06",
    ):  # fmt: skip
        assert words in text
    assert "replace_one: one record is replaced" in str(a_guarantee(adjacency="replace_one"))
    assert "rows were drawn" in str(a_guarantee(notes=("rows were drawn at random",)))


def test_a_certificate_of_several_speaks_of_what_they_are() -> None:
    counted = accounting.sum_guarantee(
        sigma=9.0, delta=1e-6, cells=5, norm=1.0, diameter=1.4, n=1000
    )
    inferred = dataclasses.replace(counted, mechanism="schema inference")
    for parts, words in (
        ((a_guarantee(), a_guarantee()), "replaced by a row of zeros"),
        ((a_guarantee(), counted), "replaced by a row of zeros"),
        ((inferred, counted), "replaced by one that counts nowhere"),
    ):
        assert words in str(Guarantee.compose(*parts)).split("Composed of")[0]


def test_certificate_never_rounds_down() -> None:
    guarantee = Guarantee(epsilon=1.2345601, delta=1e-6, adjacency="zero_out", mechanism="slicing")
    assert "(1.23457, 1e-06)" in str(guarantee)
    exact = Guarantee(epsilon=5.0, delta=0.1, adjacency="zero_out", mechanism="slicing")
    assert "(5, 0.1)" in str(exact)
    endless = Guarantee(epsilon=math.inf, delta=1.0, adjacency="zero_out", mechanism="x")
    assert "infinite" in str(endless)


def test_certificate_of_fast_noise_denies_privacy() -> None:
    text = str(a_guarantee(private=False))
    assert text.startswith("NOT PRIVATE")
    assert "differential privacy" not in text


def test_guarantee_survives_json() -> None:
    parts = [a_guarantee(), a_guarantee(sigma=3.0, frame="gaussian", notes=("a", "b"))]
    infinite = Guarantee(epsilon=math.inf, delta=0, adjacency="zero_out", mechanism="other")
    for guarantee in (*parts, Guarantee.compose(*parts), Guarantee.compose(*parts, infinite)):
        text = json.dumps(guarantee.to_dict(), allow_nan=False)
        assert Guarantee.from_dict(json.loads(text)) == guarantee


def test_from_dict_is_strict() -> None:
    record = a_guarantee().to_dict()
    with pytest.raises(ValueError, match="no entry for: sigma"):
        Guarantee.from_dict({k: v for k, v in record.items() if k != "sigma"})
    with pytest.raises(ValueError, match="unknown entries: extra"):
        Guarantee.from_dict({**record, "extra": 1})
    with pytest.raises(TypeError, match="must be a mapping"):
        Guarantee.from_dict([1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="parts must be a list"):
        Guarantee.from_dict({**record, "parts": None})
    with pytest.raises(TypeError, match="epsilon must be a number"):
        Guarantee.from_dict({**record, "epsilon": "5"})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"epsilon": -1.0}, ValueError, "epsilon must be a number >= 0"),
        ({"epsilon": math.nan}, ValueError, "epsilon must be a number >= 0"),
        ({"delta": 1.5}, ValueError, "delta must be at most 1"),
        ({"delta": -0.1}, ValueError, "delta must be a finite number >= 0"),
        ({"adjacency": "swap"}, ValueError, "adjacency must be one of"),
        ({"mechanism": ""}, ValueError, "mechanism must not be empty"),
        ({"mechanism": 3}, TypeError, "mechanism must be a string"),
        ({"frame": "haar"}, ValueError, "frame must be one of"),
        ({"sigma": -2.0}, ValueError, "sigma must be a finite number >= 0"),
        ({"d": 0}, ValueError, "d must be an integer >= 1"),
        ({"n": 1.5}, TypeError, "n must be an integer >= 0"),
        ({"epsilon_replace_one": -1}, ValueError, "epsilon_replace_one must be a number >= 0"),
        ({"private": 1}, TypeError, "private must be True or False"),
        ({"parts": (1,)}, TypeError, "parts must hold Guarantee"),
        ({"composition": "foo"}, ValueError, "composition must be one of basic, joint"),
        ({"notes": "a"}, TypeError, "notes must be a sequence"),
        ({"notes": (1,)}, TypeError, "notes must be a string"),
    ],
)
def test_guarantee_checks_itself(change: dict, error: type[Exception], words: str) -> None:
    content: dict = {"epsilon": 1.0, "delta": 1e-6, "adjacency": "zero_out", "mechanism": "x"}
    with pytest.raises(error, match=words):
        Guarantee(**{**content, **change})


def test_compose_adds_up() -> None:
    one = a_guarantee()
    two = Guarantee(
        epsilon=0.5, delta=1e-7, adjacency="zero_out", mechanism="schema inference",
        epsilon_replace_one=0.7,
    )  # fmt: skip
    total = Guarantee.compose(one, two)
    assert total.epsilon == one.epsilon + 0.5
    assert total.delta == pytest.approx(1.1e-6)
    assert total.epsilon_replace_one == one.epsilon_replace_one + 0.7
    assert total.composition == "basic"
    assert total.parts == (one, two)
    assert total.n == 1000
    assert Guarantee.compose(one) is one
    assert "schema inference" in str(total)
    assert not Guarantee.compose(two, a_guarantee(private=False)).private
    unknown = Guarantee(epsilon=1, delta=0, adjacency="zero_out", mechanism="x")
    assert Guarantee.compose(one, unknown).epsilon_replace_one is None


@pytest.mark.parametrize("adjacency", accounting.ADJACENCIES)
def test_compose_of_full_orthonormal_releases_is_joint(adjacency: str) -> None:
    one = a_guarantee(adjacency=adjacency, diameter=1.5)
    total = Guarantee.compose(one, one, one)
    distance = 1.0 if adjacency == "zero_out" else 1.5
    setting = {"sigma": 2.0, "d": 8, "p": 24}
    exact = accounting.epsilon(3e-6, sensitivity=distance, **setting)
    assert total.composition == "joint"
    assert exact < total.epsilon == pytest.approx(exact, rel=1e-7)
    if adjacency == "zero_out":
        wide = accounting.epsilon(3e-6, sensitivity=1.5, **setting)
        assert wide < total.epsilon_replace_one == pytest.approx(wide, rel=1e-7)
    nested = Guarantee.compose(Guarantee.compose(one, one), one)
    assert nested.epsilon == pytest.approx(total.epsilon, rel=1e-12)


@pytest.mark.parametrize(("frame", "p"), [("gaussian", 4), ("orthonormal", 4)])
def test_compose_covers_releases_that_share_a_random_frame(frame: str, p: int) -> None:
    # Two releases of one seed have one U: together they are one release at half the variance,
    # which costs more than two releases of independent frames.
    setting = {"sigma": 1.0, "d": 20, "p": p, "frame": frame}
    one = accounting.slicing_guarantee(delta=1e-6, n=50, **setting)
    total = Guarantee.compose(one, one)
    shared = accounting.epsilon(2e-6, sensitivity=math.sqrt(2.0), **setting)
    apart = accounting.composed_epsilon(2e-6, [accounting.Slicing(**setting)] * 2)
    assert apart < shared <= total.epsilon
    assert total.composition == "basic"


# ------------------------------------------------------------------- the order of rows, claimed

IN_ORDER: dict = {"d": 20, "p": 20, "n": 10_000, "adjacency": "replace_one"}


@functools.cache
def ordered(sigma: float = 3.2, **changes: object) -> Guarantee:
    return accounting.slicing_guarantee(
        sigma=sigma, delta=1e-6, amplify_by_order=True, **{**IN_ORDER, **changes}
    )


@pytest.mark.parametrize(
    ("change", "reach"),
    [
        ({}, 2.0),
        ({"diameter": 1.3}, 1.3),
        ({"adjacency": "zero_out"}, 2.0),  # any two rows are compared, not a row and zero alone
        ({"adjacency": "zero_out", "diameter": 1.3}, 1.3),
        ({"adjacency": "zero_out", "diameter": 0.2}, 1.0),  # zero is farther away than that
        ({"p": 10}, 2.0),
        ({"p": 50}, 2.0 * math.sqrt(3.0)),
        ({"p": 40}, 2.0 * math.sqrt(2.0)),
        ({"frame": "gaussian", "frame_norm": 1.7, "column_norm": 2.5}, 3.4),
    ],
)
def test_order_is_claimed_for_any_two_rows_and_any_frame(change: dict, reach: float) -> None:
    sigma = 1.6 * reach
    guarantee = ordered(sigma, **change)
    exact = accounting.shuffled_epsilon(1e-6, mu=reach / sigma, n=10_000)
    stated = guarantee.epsilon
    alone = accounting.slicing_guarantee(sigma=sigma, delta=1e-6, **{**IN_ORDER, **change})
    if exact < alone.epsilon:
        assert guarantee.amplified_by_order
        assert exact * (1 - 1e-6) <= stated == pytest.approx(exact, rel=1e-5)
        assert accounting.shuffled_delta(stated, mu=reach / sigma, n=10_000) <= 1e-6
    else:
        assert stated == alone.epsilon
    if guarantee.epsilon_replace_one is not None:
        wide = (change.get("diameter") or 2.0) / sigma
        other = accounting.shuffled_epsilon(1e-6, mu=wide, n=10_000)
        assert guarantee.epsilon_replace_one == pytest.approx(
            min(other, alone.epsilon_replace_one), rel=1e-5
        )


def test_order_charges_rounding_of_all_rows() -> None:
    guarantee = ordered()
    assert guarantee.delta_numerical == 10_000 * 20 * 2.0**-65
    assert guarantee.epsilon_numerical == accounting.numerical_loss(p=20, sigma=3.2, max_norm=1)[0]
    # The bound holds at what is left of epsilon and delta after rounding.
    left = guarantee.epsilon - guarantee.epsilon_numerical
    value = accounting.shuffled_delta(left, mu=2.0 / 3.2, n=10_000)
    assert value <= (1e-6 - guarantee.delta_numerical) * (1 - guarantee.epsilon_numerical)


def test_order_pays_for_rounding_in_theta_and_in_delta() -> None:
    """By far more than rounding takes: rows hide less, and delta itself grows by that factor."""
    setting = _slicing.checked_setting(
        **{name: IN_ORDER[name] for name in ("d", "p", "adjacency")},
        frame="orthonormal",
        max_norm=1.0,
        diameter=None,
        column_norm=1.0,
        frame_norm=None,
        rows_per_person=1,
    )
    lost, epsilon, sigma, n = 0.3, 0.5, 4.0, 3000
    found = setting.log_delta_in_order(epsilon, sigma, "replace_one", n, lost)
    mu = 2.0 / sigma
    grid = mu**2 / 2 + mu * np.linspace(4.0, 9.0, 100)
    least = min(clone_bound(epsilon, mu, n, float(x), lost) for x in grid)
    assert found == pytest.approx(math.log(least) + lost, abs=5e-3)


@pytest.mark.parametrize("adjacency", accounting.ADJACENCIES)
@pytest.mark.parametrize("sigma", [0.5, 1.5, 4.0, 12.0])
def test_order_never_states_more_than_noise_alone(adjacency: str, sigma: float) -> None:
    for n in (1, 300, 5_000):
        claimed = ordered(sigma, adjacency=adjacency, n=n)
        alone = accounting.slicing_guarantee(
            sigma=sigma, delta=1e-6, **{**IN_ORDER, "adjacency": adjacency, "n": n}
        )
        assert claimed.epsilon <= alone.epsilon
        assert (claimed.epsilon_replace_one or 0) <= (alone.epsilon_replace_one or 0)
        if n == 1:
            assert claimed == alone


@pytest.mark.parametrize(
    ("adjacency", "epsilon", "n"),
    [
        *(("replace_one", epsilon, 10_000) for epsilon in (0.3, 1.0, 2.0, 4.0, 8.0)),
        *(("zero_out", epsilon, 1_000) for epsilon in (0.3, 8.0)),
        *(("replace_one", epsilon, 1_000_000) for epsilon in (1.0, 4.0)),
    ],
)
def test_order_calibrates_to_the_least_noise(adjacency: str, epsilon: float, n: int) -> None:
    setting = {**IN_ORDER, "adjacency": adjacency}
    del setting["n"]
    alone = accounting.calibrate_slicing(epsilon, 1e-6, **setting)
    sigma = accounting.calibrate_slicing(epsilon, 1e-6, n=n, amplify_by_order=True, **setting)
    mu = accounting.calibrate_shuffled_mu(epsilon, 1e-6, n=n)
    least = min(alone, 2.0 / mu)
    # Smaller epsilons are tried too, so it may be less than at this epsilon alone.
    assert (0.9 if epsilon > 1 else 1 - 1e-6) * least <= sigma <= least * (1 + 1e-5)
    guarantee = accounting.slicing_guarantee(
        sigma=sigma, delta=1e-6, n=n, amplify_by_order=True, epsilon=epsilon, **setting
    )
    assert guarantee.epsilon <= epsilon * (1 + 1e-12)
    shares = [1.0, 0.9, 0.8, 0.65, 0.5]
    exact = min(accounting.shuffled_delta(epsilon * x, mu=2.0 / sigma, n=n) for x in shares)
    assert exact <= 1e-6 or sigma == alone
    if sigma < alone and epsilon <= 2.0:  # above, within a hundredth
        assert guarantee.amplified_by_order
        less = accounting.slicing_guarantee(
            sigma=sigma * 0.999, delta=1e-6, n=n, amplify_by_order=True, epsilon=epsilon, **setting
        )
        assert less.epsilon > epsilon
    if epsilon == 8.0:
        assert sigma == alone
    if epsilon <= 1.0 and n >= 10_000 and adjacency == "replace_one":
        assert sigma < alone / 2


def test_order_cannot_be_claimed_everywhere() -> None:
    for n in (None, 0):
        with pytest.raises(ValueError, match=r"^n(,| must)"):
            ordered(n=n)
        with pytest.raises(ValueError, match=r"^n(,| must)"):
            accounting.calibrate_slicing(1.0, 1e-6, d=5, p=5, n=n, amplify_by_order=True)
    with pytest.raises(ValueError, match="sure bound on the frame"):
        ordered(frame="gaussian")
    with pytest.raises(ValueError, match="sure bound on the frame"):
        accounting.calibrate_slicing(
            1.0, 1e-6, d=5, p=5, n=10, frame="gaussian", amplify_by_order=True
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mechanism": "sums"}, "for one slicing release alone"),
        ({"sampling_rate": 0.5}, "for one slicing release alone"),
        ({"adjacency": "add_remove", "n": None}, "adjacency must be one of zero_out, replace_one"),
        ({"n": None}, "amplified_by_order needs n"),
        ({"sigma": None, "diameter": None}, "amplified_by_order needs sigma, diameter"),
        ({"frame": "gaussian"}, "amplified_by_order needs frame_norm"),
    ],
)
def test_a_claim_needs_what_it_follows_from(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(ordered(), **change)


def test_certificate_of_a_claim() -> None:
    guarantee = ordered()
    text = str(guarantee)
    assert "order         claimed: " in text
    assert "all n = 10000 rows; n is public" in text
    alone = accounting.slicing_guarantee(sigma=3.2, delta=1e-6, **IN_ORDER)
    assert f"without the order, at the same delta: epsilon {alone.epsilon:.3f}"[:-1] in text
    assert "claimed" not in str(alone)
    assert "amplified_by_order" not in alone.to_dict()
    for claim in (guarantee, ordered(adjacency="zero_out"), Guarantee.compose(guarantee, alone)):
        text = json.dumps(claim.to_dict(), allow_nan=False)
        assert Guarantee.from_dict(json.loads(text)) == claim


@pytest.mark.parametrize("name", ["mechanism", "notes"])
@pytest.mark.parametrize("text", ["a\n  epsilon       0.1", "\x1b[2Ja", "a\rb", "\u2028a"])
def test_no_text_of_a_certificate_can_write_lines_of_its_own(name: str, text: str) -> None:
    right = Guarantee(epsilon=1.0, delta=1e-6, adjacency="zero_out", mechanism="x").to_dict()
    with pytest.raises(ValueError, match=f"{name} must be one line of printable characters"):
        Guarantee.from_dict(right | {name: [text] if name == "notes" else text})


@pytest.mark.parametrize(
    ("factors", "named"),
    [
        ({"epsilon": 1 - 1e-4}, "epsilon is too small"),
        ({"epsilon": 0.0}, "epsilon is too small"),
        ({"epsilon_replace_one": 1 - 1e-4}, "epsilon_replace_one is too small"),
        ({"delta": 0.999}, "epsilon is too small"),
        ({"delta": 0.0}, "what rounding costs is too small"),
        ({"sigma": 0.999}, "what rounding costs is too small"),
        ({"sigma": 0.999, "epsilon_numerical": 1.01}, "epsilon is too small"),
        ({"n": 0.5}, "epsilon is too small"),
        ({"p": 2}, "what rounding costs is too small"),
        ({"diameter": 1.001}, "epsilon is too small"),
        ({"delta_numerical": 0.5}, "what rounding costs is too small"),
        ({"epsilon_numerical": 0.5}, "what rounding costs is too small"),
    ],
)
def test_tampered_claims_are_refused(factors: dict, named: str) -> None:
    record = ordered(adjacency="zero_out", diameter=1.5).to_dict()
    assert Guarantee.from_dict(record).amplified_by_order
    for name, factor in factors.items():
        record[name] = int(record[name] * factor) if name in "np" else record[name] * factor
    with pytest.raises(ValueError, match=f"claims more than its numbers give: {named}"):
        Guarantee.from_dict(record)
    one = ordered(adjacency="zero_out")
    with pytest.raises(ValueError, match="claims more than its numbers give"):
        Guarantee.from_dict({**Guarantee.compose(one, one).to_dict(), "parts": [record]})


def test_more_may_be_stated_than_a_claim_gives() -> None:
    record = ordered().to_dict()
    for epsilon in (record["epsilon"] * 1.2, 4.0, 50.0):
        assert Guarantee.from_dict({**record, "epsilon": epsilon}).epsilon == epsilon
    with pytest.raises(TypeError, match="amplified_by_order must be True or False"):
        Guarantee.from_dict({**record, "amplified_by_order": 1})


def test_compose_counts_claims_as_noise_or_as_what_they_state() -> None:
    def noise(*sigmas: float) -> list[accounting.Slicing]:
        return [accounting.Slicing(sigma=s, d=20, p=20, sensitivity=2.0) for s in sigmas]

    # One claim beside much noise: its epsilon and delta; the sum may be better still.
    claim = ordered(3.2)
    other = accounting.slicing_guarantee(sigma=8.0, delta=1e-6, **IN_ORDER)
    total = Guarantee.compose(claim, other)
    stated = accounting.composed_epsilon(2e-6, noise(8.0), others=[(claim.epsilon, 1e-6)])
    as_noise = accounting.composed_epsilon(2e-6, noise(3.2, 8.0))
    basic = claim.epsilon + other.epsilon
    assert total.delta == 2e-6
    assert stated < as_noise
    assert total.epsilon == pytest.approx(min(stated, as_noise, basic), rel=1e-6)
    assert total.epsilon >= min(stated, as_noise, basic) * (1 - 1e-9)
    # Many of them: their noise, whose squared ratios add up.
    many = [ordered(10.0, n=1000)] * 40
    assert all(g.amplified_by_order for g in many)
    total = Guarantee.compose(*many)
    exact = accounting.composed_epsilon(4e-5, noise(*[10.0] * 40))
    assert total.composition == "joint"
    assert exact < math.fsum(g.epsilon for g in many)
    assert exact <= total.epsilon == pytest.approx(exact, rel=1e-6)
    # Two alone: each draws an order of its own, so the claims add up.
    total = Guarantee.compose(claim, claim)
    assert total.composition == "basic"
    assert total.epsilon == 2 * claim.epsilon
    assert not total.amplified_by_order


@pytest.mark.parametrize("sigma", [3.2, 2.55])  # claimed under both adjacencies, and under one
def test_compose_of_claims_under_the_other_adjacency(sigma: float) -> None:
    claim = ordered(sigma, adjacency="zero_out")
    assert (claim.epsilon_replace_one > 1.2 * claim.epsilon) == (sigma == 2.55)
    other = a_guarantee(d=20, p=20, n=10_000, sigma=9.0)
    total = Guarantee.compose(claim, other)
    parts = [accounting.Slicing(sigma=9.0, d=20, p=20, sensitivity=2.0)]
    pairs = [(claim.epsilon_replace_one, 1e-6)]
    together = accounting.composed_epsilon(2e-6, parts, others=pairs)
    least = min(together, claim.epsilon_replace_one + other.epsilon_replace_one)
    assert total.epsilon_replace_one == pytest.approx(least, rel=1e-6)


def test_clone_bound_does_not_lose_digits() -> None:
    with mp.workdps(60):
        for c, epsilon in ((1000, 0.01), (100_000, 0.1), (1_000_000, 2.0)):
            odds = mp.exp(mp.mpf(epsilon))
            a = int(mp.floor(odds * (c + 1) / (1 + odds))) + 1
            first = mp.binomial(c, a - 1) / mp.mpf(2) ** c
            term, tail, k = first * (c - a + 1) / a, mp.mpf(0), a
            while k <= c and term > first * mp.mpf(10) ** -45:
                tail += term
                term *= mp.mpf(c - k) / (k + 1)
                k += 1
            exact = mp.log(first + tail - odds * tail)
            (value,) = _shuffling._log_clones(np.array([float(c)]), epsilon)
            assert abs(float(value - exact)) <= 5e-10 + c * 2.0**-50


def test_compose_errors() -> None:
    one = a_guarantee()
    with pytest.raises(ValueError, match="at least one guarantee"):
        Guarantee.compose()
    with pytest.raises(TypeError, match="takes Guarantee objects; got float"):
        Guarantee.compose(one, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same adjacency; got replace_one and zero_out"):
        Guarantee.compose(one, a_guarantee(adjacency="replace_one"))
    with pytest.raises(ValueError, match="same rows; got n = 1000 and 1001"):
        Guarantee.compose(one, a_guarantee(n=1001))


def test_comparison_is_of_one_epsilon_or_one_sigma() -> None:
    shape = {"delta": 1e-6, "d": 5, "p": 7, "adjacency": "replace_one"}
    by_epsilon = compare_slicing(epsilon=1.0, n=30_000, **shape)
    stated = [*by_epsilon.frames.values(), by_epsilon.in_order]
    assert all(g.epsilon == pytest.approx(1.0, rel=1e-6) and g.epsilon <= 1.0 for g in stated)
    assert by_epsilon.sensitivity == 2.0
    sigma = by_epsilon.frames["orthonormal"].sigma
    by_sigma = compare_slicing(sigma=sigma, **shape)
    assert by_sigma.frames["orthonormal"] == by_epsilon.frames["orthonormal"]
    assert {*(g.sigma for g in by_sigma.frames.values()), by_sigma.paper.sigma} == {sigma}
    assert by_sigma.paper.epsilon > 1.0
    assert by_sigma.in_order is None
    for asked in ({}, {"epsilon": 1.0, "sigma": 1.0}):
        with pytest.raises(ValueError, match="exactly one of epsilon and sigma"):
            compare_slicing(**asked, **shape)


# ------------------------------------------------------------------------------- far-out numbers


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("frame", ["orthonormal", "gaussian"])
def test_calibration_at_the_ends_of_the_number_range(frame: str) -> None:
    """It neither fails nor goes on for ever."""
    setting = {"d": 30, "p": 60, "frame": frame}
    least = accounting.calibrate_sigma(1e-300, 1e-6, **setting)
    assert accounting.calibrate_sigma(1e-320, 1e-6, **setting) == pytest.approx(least, rel=1e-9)
    # mu^2 / 2 is epsilon there, and p / d = 2
    largest = 0.5 * sys.float_info.max
    sigma = accounting.calibrate_sigma(sys.float_info.max, 1e-6, d=30, p=60)
    assert sigma == pytest.approx(largest**-0.5, rel=1e-6)
    for sensitivity, where in ((1e-320, "below"), (1e305, "above")):
        with pytest.raises(ValueError, match=f"^epsilon, delta and sensitivity must .* be {where}"):
            accounting.calibrate_sigma(1.0, 1e-6, **setting, sensitivity=sensitivity)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("frame", ["orthonormal", "gaussian"])
def test_profiles_at_the_ends_of_the_number_range(frame: str) -> None:
    setting = {"d": 30, "p": 60, "frame": frame}
    assert accounting.log_delta(1.0, sigma=1e300, **setting) < -1e90
    assert accounting.log_delta(sys.float_info.max, sigma=1.0, **setting) < -1e90
    assert accounting.log_delta(1.0, sigma=1e-300, **setting) == 0.0
    assert accounting.epsilon(1e-6, sigma=1e300, **setting) == 0.0
    for function in (
        functools.partial(accounting.epsilon, 1e-6),
        functools.partial(accounting.rdp, 2.0),
        functools.partial(accounting.rdp_epsilon, 1e-6),
    ):
        with pytest.raises(ValueError, match="sigma must not be so far from sensitivity"):
            function(sigma=1e-200, **setting)
    with pytest.raises(ValueError, match="sigma must not be so far from sensitivity"):
        accounting.rdp_epsilon(1e-6, sigma=1e200, **setting)


# ------------------------------------------------------------------------------------------ errors

RELEASE = {"sigma": 1.0, "d": 3, "p": 3}
BAD_RELEASE = [
    ({"sigma": 0.0}, ValueError, "sigma must be a finite number > 0; got 0.0"),
    ({"sigma": math.inf}, ValueError, "sigma must be a finite number > 0"),
    ({"sigma": "1"}, TypeError, "sigma must be a finite number > 0; got str"),
    ({"d": 0}, ValueError, "d must be an integer >= 1; got 0"),
    ({"d": 3.0}, TypeError, "d must be an integer >= 1; got float"),
    ({"p": 0}, ValueError, "p must be an integer >= 1; got 0"),
    ({"p": True}, TypeError, "p must be an integer >= 1; got bool"),
    ({"frame": "haar"}, ValueError, "frame must be one of orthonormal, gaussian; got 'haar'"),
    ({"frame": None}, TypeError, "frame must be one of"),
    ({"sensitivity": -1.0}, ValueError, "sensitivity must be a finite number > 0; got -1.0"),
    ({"sensitivity": np.complex128(1)}, TypeError, "sensitivity must be a finite number > 0; got"),
    ({"d": 10**400}, ValueError, r"d must be an integer < 2\*\*63; got 1000"),
    ({"p": np.array(3.0)}, TypeError, "p must be an integer >= 1; got ndarray"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD_RELEASE)
def test_bad_release_arguments(change: dict, error: type[Exception], words: str) -> None:
    setting = {**RELEASE, **change}
    rest = {name: value for name, value in setting.items() if name != "sigma"}
    calls = [
        lambda: accounting.log_delta(1.0, **setting),
        lambda: accounting.delta(1.0, **setting),
        lambda: accounting.epsilon(1e-6, **setting),
        lambda: accounting.rdp(2.0, **setting),
        lambda: accounting.rdp_epsilon(1e-6, **setting),
        lambda: Slicing(**setting),
    ]
    if "sigma" not in change:
        calls.append(lambda: accounting.calibrate_sigma(1.0, 1e-6, **rest))
    if "frame" not in change:
        calls.append(lambda: accounting.paper_epsilon(1e-6, **setting))
        calls.append(lambda: accounting.paper_alpha(1e-6, **setting))
        if "sigma" not in change:
            calls.append(lambda: accounting.paper_sigma(1.0, 1e-6, **rest))
    for call in calls:
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_calibration_needs_a_positive_epsilon(epsilon: float) -> None:
    words = "epsilon must be a finite number > 0"
    with pytest.raises(ValueError, match=words):
        accounting.calibrate_sigma(epsilon, 1e-6, d=2, p=2)
    with pytest.raises(ValueError, match=words):
        accounting.paper_sigma(epsilon, 1e-6, d=2, p=2)
    with pytest.raises(ValueError, match=words):
        accounting.calibrate_slicing(epsilon, 1e-6, d=2, p=2)
    with pytest.raises(ValueError, match=words):
        accounting.calibrate_subsampled_sigma(
            epsilon, 1e-6, sample=Subsample(n=5, size=2), d=2, p=2
        )
    with pytest.raises(ValueError, match=words):
        accounting.calibrate_shuffled_mu(epsilon, 1e-6, n=5)


def test_delta_at_a_negative_epsilon_is_an_error() -> None:
    for call in (
        lambda: accounting.delta(-0.1, **RELEASE),
        lambda: accounting.composed_delta(-0.1, [Slicing(**RELEASE)]),
        lambda: accounting.subsampled_delta(-0.1, sample=Subsample(n=5, size=2), **RELEASE),
        lambda: accounting.shuffled_delta(-0.1, mu=1.0, n=4),
    ):
        with pytest.raises(ValueError, match=r"epsilon must be a finite number >= 0; got -0.1"):
            call()


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, 2.0, math.nan])
def test_delta_must_lie_inside_the_unit_interval(delta: float) -> None:
    for call in (
        lambda: accounting.epsilon(delta, **RELEASE),
        lambda: accounting.rdp_epsilon(delta, **RELEASE),
        lambda: accounting.paper_epsilon(delta, **RELEASE),
        lambda: accounting.calibrate_sigma(1.0, delta, d=3, p=3),
        lambda: accounting.calibrate_slicing(1.0, delta, d=3, p=3),
        lambda: accounting.slicing_guarantee(delta=delta, **RELEASE),
        lambda: accounting.composed_epsilon(delta, [Slicing(**RELEASE)]),
        lambda: accounting.subsampled_epsilon(delta, sample=Subsample(n=5, size=2), **RELEASE),
        lambda: accounting.shuffled_epsilon(delta, mu=1.0, n=4),
        lambda: accounting.lemma1_not_a_guarantee(1.0, delta, rate=0.5),
    ):
        with pytest.raises(ValueError, match="delta must be strictly between 0 and 1"):
            call()


def test_exactly_one_of_delta_and_log_delta() -> None:
    for arguments in ({}, {"delta": 1e-6, "log_delta": -13.0}):
        with pytest.raises(ValueError, match="exactly one of delta and log_delta"):
            accounting.epsilon(**arguments, **RELEASE)
    with pytest.raises(ValueError, match="log_delta must be a finite number < 0"):
        accounting.epsilon(log_delta=0.0, **RELEASE)
    with pytest.raises(TypeError, match="log_delta must be a finite number < 0; got str"):
        accounting.calibrate_sigma(1.0, log_delta="-3", d=2, p=2)


def test_log_delta_reaches_where_delta_underflows() -> None:
    setting = {"sigma": 1e3, "d": 3, "p": 3}
    assert accounting.delta(1.0, **setting) == 0.0
    value = accounting.log_delta(1.0, **setting)
    assert value == pytest.approx(-5e5, rel=0.01)
    assert accounting.epsilon(log_delta=value, **setting) == pytest.approx(1.0, rel=1e-9)
    sigma = accounting.calibrate_sigma(1.0, log_delta=value, d=3, p=3)
    assert sigma == pytest.approx(1e3, rel=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 0.5, math.inf, math.nan])
def test_order_must_exceed_one(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be a finite number > 1"):
        accounting.rdp(alpha, **RELEASE)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n": 5}, ValueError, "exactly one of size and rate"),
        ({"n": 5, "size": 2, "rate": 0.5}, ValueError, "exactly one of size and rate"),
        ({"n": 5, "size": 6}, ValueError, "size must be at most n = 5; got 6"),
        ({"n": 5, "size": 0}, ValueError, "size must be an integer >= 1; got 0"),
        ({"n": 0, "size": 1}, ValueError, "n must be an integer >= 1; got 0"),
        ({"n": 5, "rate": 1.5}, ValueError, "rate must be at most 1; got 1.5"),
        ({"n": 5, "rate": 0.0}, ValueError, "rate must be a finite number > 0"),
        ({"n": 5, "size": 2, "order": "sorted"}, ValueError, "order must be one of"),
    ],
)
def test_bad_subsamples(arguments: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Subsample(**arguments)


def test_bad_subsampling() -> None:
    sample = Subsample(n=5, size=2)
    with pytest.raises(ValueError, match="add_remove needs a fixed sample size"):
        accounting.subsampled_delta(
            1.0, sample=Subsample(n=5, rate=0.5), adjacency="add_remove", **RELEASE
        )
    with pytest.raises(ValueError, match="add_remove needs order='permuted'"):
        accounting.subsampled_delta(
            1.0, sample=Subsample(n=5, size=2, order="kept"), adjacency="add_remove", **RELEASE
        )
    with pytest.raises(ValueError, match="adjacency must be one of"):
        accounting.subsampled_delta(1.0, sample=sample, adjacency="swap", **RELEASE)
    with pytest.raises(TypeError, match="sample must be a Subsample; got int"):
        accounting.subsampled_delta(1.0, sample=5, **RELEASE)
    with pytest.raises(ValueError, match="max_norm must be a finite number > 0"):
        accounting.subsampled_delta(1.0, sample=sample, max_norm=0.0, **RELEASE)
    with pytest.raises(ValueError, match="diameter must be a finite number > 0"):
        accounting.subsampled_delta(1.0, sample=sample, diameter=-1.0, **RELEASE)
    with pytest.raises(ValueError, match=r"delta must be below the share of the rows drawn, 0\.4"):
        accounting.calibrate_subsampled_sigma(1.0, 0.4, sample=sample, d=3, p=3)
    with pytest.raises(ValueError, match="rate must be at most 1"):
        accounting.lemma1_not_a_guarantee(1.0, 0.1, rate=1.2)


def test_bad_composition() -> None:
    part = Slicing(**RELEASE)
    with pytest.raises(TypeError, match="sequence of Slicing; got one"):
        accounting.composed_delta(1.0, part)
    with pytest.raises(TypeError, match="must hold Slicing objects; got int"):
        accounting.composed_delta(1.0, [1])
    with pytest.raises(ValueError, match="at least one Slicing"):
        accounting.composed_delta(1.0, [])
    with pytest.raises(TypeError, match="parts must be a sequence; got int 5"):
        accounting.composed_delta(1.0, 5)
    with pytest.raises(TypeError, match="others must be a sequence; got int 5"):
        accounting.composed_delta(1.0, [part], others=5)
    with pytest.raises(TypeError, match="others must hold pairs"):
        accounting.composed_delta(1.0, [part], others=[0.5])
    with pytest.raises(ValueError, match="epsilon of a pair in others"):
        accounting.composed_delta(1.0, [part], others=[(-1.0, 0.0)])
    with pytest.raises(ValueError, match="delta of a pair in others must be below 1"):
        accounting.composed_delta(1.0, [part], others=[(1.0, 1.0)])
    with pytest.raises(ValueError, match="delta must exceed what the other mechanisms need"):
        accounting.composed_epsilon(1e-6, [part], others=[(1.0, 1e-6)])


def test_parts_and_notes_are_sequences() -> None:
    """An iterator is kept whole, and one sentence is not taken for its letters."""
    facts = {"epsilon": 1.0, "delta": 1e-6, "adjacency": "zero_out", "mechanism": "test"}
    part = Guarantee(**facts)
    assert Guarantee(**facts, parts=(each for each in [part])).parts == (part,)
    for name in ("parts", "notes"):
        with pytest.raises(TypeError, match=f"{name} must be a sequence; got int 5"):
            Guarantee(**facts, **{name: 5})
    with pytest.raises(TypeError, match="notes must be a sequence; got str"):
        accounting.slicing_guarantee(sigma=1.0, delta=1e-6, d=3, p=3, notes="One sentence.")
    with pytest.raises(TypeError, match="notes must be a sequence; got str"):
        accounting.sum_guarantee(
            sigma=1.0, delta=1e-6, cells=3, norm=1.0, diameter=1.4, notes="One sentence."
        )


def test_bad_numerical_loss_and_shuffling() -> None:
    with pytest.raises(ValueError, match="p must be an integer >= 1"):
        accounting.numerical_loss(p=0, sigma=1.0, max_norm=1.0)
    with pytest.raises(ValueError, match="sigma must be a finite number > 0"):
        accounting.numerical_loss(p=1, sigma=0.0, max_norm=1.0)
    with pytest.raises(ValueError, match="max_norm must be a finite number > 0"):
        accounting.numerical_loss(p=1, sigma=1.0, max_norm=math.inf)
    with pytest.raises(ValueError, match="mu must be a finite number > 0"):
        accounting.shuffled_delta(1.0, mu=0.0, n=5)
    with pytest.raises(ValueError, match="n must be an integer >= 1"):
        accounting.shuffled_delta(1.0, mu=1.0, n=0)


def test_root_finder_needs_a_bracket() -> None:
    with pytest.raises(ValueError, match="not bracketed"):
        _special.brent(lambda x: x, 1.0, 2.0, 1.0, 2.0)
    assert _special.brent(lambda x: x, 0.0, 2.0, 0.0, 2.0) == 0.0
    assert _special.brent(lambda x: x - 2, 0.0, 2.0, -2.0, 0.0) == 2.0
    root = _special.brent(lambda x: math.cos(x) - x, 0.0, 1.0, 1.0, math.cos(1) - 1)
    assert root == pytest.approx(0.7390851332151607, rel=1e-15)


def test_many_roots_at_once() -> None:
    targets = np.array([-5.0, -0.3, 0.0, 0.7, 5.0])
    found = _special.roots(
        lambda x: np.tanh(x) - targets, np.full(5, -3.0), np.full(5, 3.0), tol=1e-9
    )
    np.testing.assert_allclose(found[1:4], np.arctanh(targets[1:4]), atol=1e-8)
    assert found[0] == -3.0
    assert found[4] == 3.0


def test_numpy_is_enough() -> None:
    code = (
        "import sys; from dpslice import accounting as a; a.delta(1.0, sigma=2.0, d=3, p=4);"
        "print(sorted({'scipy', 'torch', 'pandas', 'mpmath'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
