"""Privacy profiles to thirty digits with mpmath: twins of `dpslice.accounting` that share no code.

They follow the definitions (a normal law averaged over chi-squared or Beta variables, by
tanh-sinh quadrature) and are slow. Run as a script, this file writes ``accounting_golden.json``,
which the tests read:

    python tests/accounting_oracle.py
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import mpmath as mp

GOLDEN = Path(__file__).with_name("accounting_golden.json")
DIGITS = 40


def gaussian_delta(epsilon: mp.mpf, mu: mp.mpf) -> mp.mpf:
    """Profile of the Gaussian mechanism; loses digits where mu is small, so keep spare ones."""
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    return mp.erfc(a / mp.sqrt(2)) / 2 - mp.exp(epsilon) * mp.erfc(b / mp.sqrt(2)) / 2


def _integral(log_density: Callable, ratio: Callable, epsilon: mp.mpf, start: mp.mpf) -> mp.mpf:
    """Integral of exp(log_density(x)) gaussian_delta(epsilon, ratio(x)) over the real line."""

    def log_f(x: mp.mpf) -> mp.mpf:
        value = gaussian_delta(epsilon, ratio(x))
        return log_density(x) + mp.log(value) if value > 0 else mp.mpf("-1e30")

    # Walk uphill with steps that shrink, then walk down both sides to 1e-36 of the mode.
    x, step = start, mp.mpf(1)
    fx = log_f(x)
    while step > mp.mpf("1e-7"):
        for side in (step, -step):
            f = log_f(x + side)
            if f > fx:
                x, fx = x + side, f
                break
        else:
            step /= 2
    ends = []
    for side in (-1, 1):
        step = mp.mpf("1e-6")
        while log_f(x + side * step) > fx - 83:
            step *= mp.mpf("1.5")
        ends.append(x + side * step)
    low, high = ends
    points = [low, (low + x) / 2, x, (high + x) / 2, high]
    return mp.exp(fx) * mp.quad(lambda t: mp.exp(log_f(t) - fx), points)


def log_delta(
    epsilon: float, *, sigma: float, d: int, p: int, frame: str, sensitivity: float = 1.0
) -> mp.mpf:
    """ln delta of one release."""
    # Spare digits against the cancellation in `gaussian_delta`, which grows with (eps/mu)^2.
    mu = sensitivity / sigma * (p / d) ** 0.5
    spare = int(2 * abs(mp.log10(mp.mpf(mu)))) + int(2 * mp.log10(1 + epsilon)) + 20
    with mp.workdps(DIGITS + spare):
        eps, c = mp.mpf(epsilon), mp.mpf(sensitivity) / mp.mpf(sigma)
        if frame == "gaussian":
            h = mp.mpf(p) / 2
            constant = mp.log(2) - h * mp.log(2) - mp.loggamma(h)

            def chi(x: mp.mpf) -> mp.mpf:  # log density of x = ln sqrt(S)
                return constant + 2 * h * x - mp.exp(2 * x) / 2

            return mp.log(_integral(chi, lambda x: c * mp.exp(x) / mp.sqrt(d), eps, mp.log(p) / 2))
        q, r = divmod(p, d)
        if r == 0:
            return mp.log(gaussian_delta(eps, c * mp.sqrt(q)))
        a, b = mp.mpf(r) / 2, mp.mpf(d - r) / 2
        log_beta = mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)

        def share(x: mp.mpf) -> mp.mpf:
            return 1 / (1 + mp.exp(-x))

        def beta(x: mp.mpf) -> mp.mpf:  # log density of x = logit B
            return a * mp.log(share(x)) + b * mp.log(share(-x)) - log_beta

        return mp.log(_integral(beta, lambda x: c * mp.sqrt(q + share(x)), eps, mp.log(a / b)))


def log_1f1(a: float, b: float, z: float) -> mp.mpf:
    """ln of Kummer's function."""
    with mp.workdps(DIGITS + 40):
        return mp.log(mp.hyp1f1(mp.mpf(a), mp.mpf(b), mp.mpf(z)))


# d, p; typical ratio mu; epsilon
SHAPES = (
    (1, 1), (1, 1_000_000), (2, 1), (3, 2), (7, 10), (30, 60), (30, 75), (94, 30), (1000, 999),
    (100_000, 1), (100_000, 1_000), (100_000, 99_999), (100_000, 1_000_000), (99_991, 1_000_000),
)  # fmt: skip
RATIOS = (1e-3, 0.3, 1.0, 3.0, 12.0)
EPSILONS = (0.0, 1e-3, 0.5, 4.0, 60.0, 3000.0)


def cases() -> list[dict[str, float | int | str]]:
    """The grid, thinned so that each pair of values still meets, without ln delta < -10^4."""
    chosen = []
    for i, ((d, p), mu, eps) in enumerate(itertools.product(SHAPES, RATIOS, EPSILONS)):
        centre = eps / mu - mu / 2
        if centre > 140 or (i * 7) % 3 == 0:
            continue
        sigma = float(f"{(p / d) ** 0.5 / mu:.6g}")
        for frame in ("gaussian", "orthonormal"):
            chosen.append({"epsilon": eps, "sigma": sigma, "d": d, "p": p, "frame": frame})
    return chosen


def main() -> None:
    """Compute and write the golden numbers."""
    profiles = []
    for case in cases():
        value = log_delta(**case)  # type: ignore[arg-type]
        if value < -1e4:
            continue
        with mp.workdps(DIGITS):
            rest = mp.log(-mp.expm1(value))
            profiles.append(
                {**case, "log_delta": mp.nstr(value, 25), "log_rest": mp.nstr(rest, 25)}
            )
        print(profiles[-1], flush=True)
    kummer = [
        {"a": r / 2, "b": d / 2, "z": z, "log": mp.nstr(log_1f1(r / 2, d / 2, z), 25)}
        for (r, d) in ((1, 2), (1, 30), (29, 30), (15, 30), (1, 1000), (999, 1000), (500, 1000))
        for z in (1e-8, 0.1, 3.0, 80.0, 499.0, 501.0, 3000.0, 1e5)
    ]
    GOLDEN.write_text(json.dumps({"profiles": profiles, "kummer": kummer}, indent=1) + "\n")


if __name__ == "__main__":
    main()
