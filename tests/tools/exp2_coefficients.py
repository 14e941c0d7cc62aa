"""Coefficients of the polynomials in csrc/simd.h: 2^f = 1 + f q(f), |f| <= 1 / (2 steps).

q interpolates (2^f - 1) / f at Chebyshev nodes, which is within a factor of about 2 of the best
polynomial of its degree. The constant 1 is exact, so that 2^0 is. With several steps, the powers of
two between 1 and 2 come from a table, which is printed too.

    python tests/tools/exp2_coefficients.py
"""

from __future__ import annotations

import mpmath

# Number type, steps between powers of two, degree.
WANTED = [("float", 1, 6), ("double", 1, 11), ("float", 16, 3), ("double", 16, 6)]


def coefficients(degree: int, end: mpmath.mpf) -> tuple[list[mpmath.mpf], mpmath.mpf]:
    """Return those of q, lowest first, and the largest relative error of the whole, |f| <= end."""
    count = degree
    nodes = [end * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    matrix = mpmath.matrix(count, count)
    values = mpmath.matrix(count, 1)
    for i, f in enumerate(nodes):
        values[i] = (mpmath.power(2, f) - 1) / f if abs(f) > 1e-20 else mpmath.log(2)
        for power in range(count):
            matrix[i, power] = f**power
    found = list(mpmath.lu_solve(matrix, values))
    error = mpmath.mpf(0)
    for step in range(-500, 501):
        f = end * step / 500
        polynomial = 1 + f * sum(c * f**power for power, c in enumerate(found))
        error = max(error, abs(polynomial / mpmath.power(2, f) - 1))
    return found, error


def main() -> None:
    with mpmath.workdps(60):
        for dtype, steps, degree in WANTED:
            found, error = coefficients(degree, mpmath.mpf(1) / (2 * steps))
            print(
                f"{dtype}, {steps} steps: degree {degree}, "
                f"relative error {mpmath.nstr(error, 3)}, highest first"
            )
            for c in reversed(found):
                print(f"  {mpmath.nstr(c, 18)},")
        print("2^(j / 16)")
        for j in range(16):
            print(f"  {mpmath.nstr(mpmath.power(2, mpmath.mpf(j) / 16), 20)},")


if __name__ == "__main__":
    main()
