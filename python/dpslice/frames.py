r"""Random projection frames U: the public directions of a release.

Two laws are offered. ``orthonormal`` (the default): independent Haar-distributed orthogonal d x d
blocks side by side, of which the last keeps its first r = p mod d columns; every column has unit
norm. ``gaussian``: entries i.i.d. N(0, 1/d), Definition 5 of the paper (arXiv:2410.19941).

A frame is public, and drawn from a stream of its own that has nothing in common with the one of
the release's noise. How well it tells two rows apart depends on the direction of their difference.
A frame that nobody could know while the records were made favours no direction: the guarantee
averages over its law. A frame from a seed could be known, so the guarantee is for the two rows that
it tells apart best: `worst_case_norm`. Full orthonormal blocks (p a multiple of d) are the same in
all directions.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays

__all__ = [
    "FRAMES",
    "column_norm_bound",
    "gaussian_frame",
    "haar_columns",
    "make_frame",
    "orthonormal_frame",
    "worst_case_norm",
]

FRAMES: Final = ("orthonormal", "gaussian")

# The accounting counts on frames that are orthonormal to this accuracy, which is checked where one
# is drawn; QR is off by some 1e-15 d.
ORTHONORMAL_TOLERANCE: Final = 1e-9

Array = NDArray[np.float64]


def haar_columns(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw matrices with orthonormal columns, uniformly (Haar measure on the Stiefel manifold).

    Parameters
    ----------
    shape : tuple of int
        ``(..., rows, columns)`` with columns <= rows; leading axes are independent draws.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    array, shape `shape`, float64
        The QR factor Q of a Gaussian matrix, the signs of diag(R) moved into Q: without that step
        the law would depend on the conventions of the QR routine and not be uniform.

    Raises
    ------
    TypeError
        If `rng` is no NumPy generator.
    ValueError
        If `shape` has fewer than two axes, or more columns than rows.
    """
    rng = _arrays.random_generator("rng", rng)
    if len(shape) < 2 or shape[-1] > shape[-2]:
        raise ValueError(f"shape must be (..., rows, columns) with columns <= rows; got {shape}")
    q, r = np.linalg.qr(rng.standard_normal(shape))
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    signed: Array = q * np.where(diagonal < 0.0, -1.0, 1.0)[..., None, :]
    return signed


def orthonormal_frame(d: int, p: int, rng: np.random.Generator) -> Array:
    """Draw a frame of independent Haar-orthonormal blocks.

    Parameters
    ----------
    d : int
        Features, the number of rows of the frame.
    p : int
        Released columns. For p > d there are several blocks, each orthonormal in itself.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    array, shape (d, p), float64
        With q full blocks and no remainder, U U^T = q I to 1e-9 (checked).

    Raises
    ------
    TypeError
        If `d` or `p` is no integer, or `rng` no NumPy generator.
    ValueError
        If `d` or `p` is less than 1.
    RuntimeError
        If NumPy's QR routine returns columns that are not orthonormal.
    """
    d, p, rng = _checked(d, p, rng)
    frame = np.empty((d, p))
    for start in range(0, p, d):
        # The first r columns of a Haar orthogonal matrix are Haar on the Stiefel manifold.
        frame[:, start : start + d] = haar_columns((d, min(d, p - start)), rng)
    error = orthonormality_error(frame)
    if not error <= ORTHONORMAL_TOLERANCE:
        raise RuntimeError(
            f"the QR routine of NumPy returned a frame that is not orthonormal (error {error:.1e})"
        )
    return frame


def gaussian_frame(d: int, p: int, rng: np.random.Generator) -> Array:
    """Draw a frame with i.i.d. N(0, 1/d) entries (Definition 5 of the paper).

    Parameters
    ----------
    d, p : int
        Rows and columns of the frame.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    array, shape (d, p), float64
        Every column norm is at most ``column_norm_bound("gaussian", d, p)``: a frame that
        exceeds it (probability below 2^-72) is drawn again, which multiplies no probability by
        more than 1 + 2^-71.

    Raises
    ------
    TypeError
        If `d` or `p` is no integer, or `rng` no NumPy generator.
    ValueError
        If `d` or `p` is less than 1.
    """
    d, p, rng = _checked(d, p, rng)
    bound = column_norm_bound("gaussian", d, p)
    while True:
        frame: Array = rng.standard_normal((d, p))
        frame /= math.sqrt(d)
        if float(np.linalg.norm(frame, axis=0).max()) <= bound:
            return frame


def column_norm_bound(kind: str, d: int, p: int) -> float:
    r"""Bound the norm of every column of a frame of this kind, before it is drawn.

    The loss by rounding grows with the largest column norm. A bound that does not look at the
    frame keeps sigma independent of it, as the accounting assumes.

    Parameters
    ----------
    kind : {"orthonormal", "gaussian"}
        Law of the frame.
    d, p : int
        Rows and columns of the frame.

    Returns
    -------
    float
        1 for ``orthonormal``; for ``gaussian``
        :math:`\sqrt{1 + 2\sqrt{t/d} + 2t/d}` with t = 50 + ln p, which all p columns together
        exceed with probability at most e^-50 (Laurent and Massart 2000, Lemma 1).

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If `kind` is unknown, or `d` or `p` is less than 1.
    """
    d, p = _arrays.positive_integer("d", d), _arrays.positive_integer("p", p)
    if _arrays.choice("kind", kind, FRAMES) == "orthonormal":
        return 1.0
    t = (50.0 + math.log(p)) / d
    return math.sqrt(1.0 + 2.0 * math.sqrt(t) + 2.0 * t)


def orthonormal_norm(d: int, p: int) -> float:
    r"""Bound the spectral norm of any frame of orthonormal blocks.

    It is :math:`\sqrt{\lceil p/d \rceil}`, as U U^T is q I, plus a projection where the last block
    is partial; rounded up.
    """
    return math.sqrt(-(-p // d)) * (1.0 + ORTHONORMAL_TOLERANCE)


def worst_case_norm(kind: str, d: int, p: int, seed: int) -> float | None:
    r"""Bound the spectral norm of a frame that is known: how far it may part two rows.

    .. math:: \|U^T (x - x')\| \le \|U\|_2 \|x - x'\|

    Parameters
    ----------
    kind : {"orthonormal", "gaussian"}
        Law of the frame.
    d, p : int
        Rows and columns of the frame.
    seed : int
        Its seed, which matters for ``gaussian`` alone.

    Returns
    -------
    float or None
        For ``orthonormal`` :math:`\sqrt{\lceil p/d \rceil}`, attained; None for full blocks,
        p a multiple of d, whose accounting is the same for a known frame. For ``gaussian`` the
        largest singular value of the frame, which is drawn for it: O(d p min(d, p)) time. Both
        rounded up.

    Raises
    ------
    TypeError, ValueError
        As `make_frame`.
    """
    d, p = _arrays.positive_integer("d", d), _arrays.positive_integer("p", p)
    if _arrays.choice("kind", kind, FRAMES) == "orthonormal":
        return None if p % d == 0 else orthonormal_norm(d, p)
    frame = make_frame(kind, d, p, seed)
    gram = frame @ frame.T if d <= p else frame.T @ frame
    # The products are rounded by at most d p 2^-53 of the largest eigenvalue, a generous bound.
    return math.sqrt(float(np.linalg.eigvalsh(gram)[-1])) * (1.0 + 1e-9 + d * p * 2.0**-52)


def make_frame(kind: str, d: int, p: int, seed: int | None = None) -> Array:
    """Draw a frame from a seed.

    Parameters
    ----------
    kind : {"orthonormal", "gaussian"}
        Law of the frame.
    d, p : int
        Rows and columns of the frame.
    seed : int, optional
        Public seed, >= 0. Default: fresh entropy of the operating system.

    Returns
    -------
    array, shape (d, p), float64
        The same for the same arguments (and version of NumPy).

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If `kind` is unknown, `d` or `p` is less than 1, or `seed` is negative.
    RuntimeError
        As `orthonormal_frame`.
    """
    kind = _arrays.choice("kind", kind, FRAMES)
    entropy = None if seed is None else _arrays.integer("seed", seed, minimum=0)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    return orthonormal_frame(d, p, rng) if kind == "orthonormal" else gaussian_frame(d, p, rng)


def orthonormality_error(frame: Array) -> float:
    """Measure how far the blocks of a frame are from orthonormal columns.

    Parameters
    ----------
    frame : array, shape (d, p)
        Blocks of d columns side by side, the last perhaps narrower.

    Returns
    -------
    float
        Sum over blocks of the Frobenius norm of B^T B - I. For full blocks it bounds the spectral
        norm of U U^T - q I, since B B^T - I and B^T B - I have the same norm.
    """
    d, p = frame.shape
    total = 0.0
    for start in range(0, p, d):
        block = frame[:, start : start + d]
        gram = block.T @ block
        gram[np.diag_indices_from(gram)] -= 1.0
        total += float(np.linalg.norm(gram))
    return total


def _checked(
    d: object, p: object, rng: np.random.Generator
) -> tuple[int, int, np.random.Generator]:
    return (
        _arrays.positive_integer("d", d),
        _arrays.positive_integer("p", p),
        _arrays.random_generator("rng", rng),
    )
