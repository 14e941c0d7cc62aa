"""Coefficients of the polynomials in csrc/simd.h: exp(r) = 1 + r + r^2 q(r), |r| <= ln(2)/2.

q interpolates (exp(r) - 1 - r) / r^2 at Chebyshev nodes, which is within a factor of about 2 of the
best polynomial of its degree. The first two coefficients are exact, so that exp(0) is.

    python tests/tools/exp_coefficients.py
"""

from __future__ import annotations

import mpmath

DEGREES = {"float": 6, "double": 11}


def coefficients(degree: int) -> tuple[list[mpmath.mpf], mpmath.mpf]:
    """Return those of q, lowest first, and the largest relative error of the whole."""
    count = degree - 1
    end = mpmath.log(2) / 2
    nodes = [end * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    matrix = mpmath.matrix(count, count)
    values = mpmath.matrix(count, 1)
    for i, r in enumerate(nodes):
        values[i] = (mpmath.exp(r) - 1 - r) / r**2 if abs(r) > 1e-20 else mpmath.mpf(1) / 2
        for power in range(count):
            matrix[i, power] = r**power
    found = list(mpmath.lu_solve(matrix, values))
    error = mpmath.mpf(0)
    for step in range(-500, 501):
        r = end * step / 500
        polynomial = 1 + r + r**2 * sum(c * r**power for power, c in enumerate(found))
        error = max(error, abs(polynomial / mpmath.exp(r) - 1))
    return found, error


def main() -> None:
    with mpmath.workdps(60):
        for dtype, degree in DEGREES.items():
            found, error = coefficients(degree)
            print(
                f"{dtype}: degree {degree}, relative error {mpmath.nstr(error, 3)}, highest first"
            )
            for c in reversed(found):
                print(f"  {mpmath.nstr(c, 18)},")


if __name__ == "__main__":
    main()
