r"""First and second moments of the private rows, estimated from a release.

Post-processing, so free of privacy cost. The mean row is known far better than anything else about
the rows, and a covariance shows which directions of dependence stand out of the noise at all.
A generator that starts from both (`TabularGenerator.start_from`) needs fewer steps, and ends in the
same place for every seed; without it the training of a row release finds the weaker dependences
late or never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpslice.release import RowRelease

__all__ = ["Moments", "estimate_moments"]

Rows = NDArray[np.float64]

_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Moments:
    """What a release says of the mean and the covariance of its rows.

    Parameters
    ----------
    mean : ndarray, shape (d,)
        Estimate of the mean row.
    factors : ndarray, shape (d, r)
        Directions of covariance that stand out of the noise, strongest first, scaled so that
        ``factors @ factors.T`` estimates the covariance of the rows. r may be 0.
    """

    mean: Rows
    factors: Rows


def estimate_moments(release: RowRelease) -> Moments:
    r"""Estimate mean and leading covariance of the rows behind a release.

    With full orthonormal blocks, :math:`Z = O U^\top d/p = X + \tau N`,
    :math:`\tau = \sigma\sqrt{d/p}`, so the sample covariance of Z is that of the rows plus
    :math:`\tau^2 I`, blurred by sampling. Eigenvalues above the bulk edge
    :math:`\tau^2 (1 + \sqrt{d/n})^2` carry signal; each is shrunk to
    :math:`\ell\, c^2`, the covariance along the sample eigenvector that the spiked model [1]_
    leaves after the noise in the eigenvalue (:math:`\ell`) and in the eigenvector (:math:`c^2`)
    is taken off.

    Other frames (p < d, gaussian) do not determine the covariance by so simple a formula: the mean
    is estimated by least squares and no factors are given.

    Parameters
    ----------
    release : RowRelease
        A release of rows.

    Returns
    -------
    Moments

    References
    ----------
    .. [1] Donoho, Gavish and Johnstone, "Optimal shrinkage of eigenvalues in the spiked covariance
       model", arXiv:1311.0851.
    """
    if release.kind != "rows":
        raise ValueError(f"moments are estimated of a release of rows; got kind {release.kind!r}")
    n, d, p = release.n, release.d, release.p
    total = np.zeros(p)
    products = np.zeros((p, p))
    for first in range(0, n, _BLOCK_ROWS):
        block = np.asarray(release.projections[first : first + _BLOCK_ROWS], dtype=np.float64)
        total += block.sum(axis=0)
        products += block.T @ block
    mean = total / n  # [p]
    back = np.linalg.pinv(release.frame)  # [p, d]; for full orthonormal blocks U^T d / p
    full = release.frame_kind == "orthonormal" and p % d == 0
    if not full or n <= d:
        return Moments(mean=mean @ back, factors=np.empty((d, 0)))
    covariance = back.T @ ((products - n * np.outer(mean, mean)) / (n - 1)) @ back  # [d, d]
    tau = release.sigma * np.sqrt(d / p)
    values, vectors = np.linalg.eigh(covariance)
    shrunk = _shrink(values[::-1] / tau**2, d / n) * tau**2
    rank = int(np.count_nonzero(shrunk))
    return Moments(mean=mean @ back, factors=vectors[:, ::-1][:, :rank] * np.sqrt(shrunk[:rank]))


def _shrink(values: NDArray[Any], ratio: float) -> Rows:
    """Shrink the eigenvalues (in units of the noise) of a sample covariance, ratio = d / n."""
    edge = (1.0 + np.sqrt(ratio)) ** 2
    above = values > edge
    y = np.where(above, values, edge)
    centred = y + 1.0 - ratio
    spike = (centred + np.sqrt(np.maximum(centred**2 - 4.0 * y, 0.0))) / 2.0 - 1.0
    cosine2 = (1.0 - ratio / spike**2) / (1.0 + ratio / spike)
    return np.where(above, spike * np.clip(cosine2, 0.0, 1.0), 0.0)
