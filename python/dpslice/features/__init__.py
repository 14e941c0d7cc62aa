r"""Feature maps of sum releases: what is summed over the records, and how far one record reaches.

A sum release publishes :math:`T = \sum_i \phi(x_i) + N(0, \sigma^2)` for a public map phi
(`dpslice.SumMechanism`). What the privacy of T rests on are two numbers that follow from the map
alone, the bound on the norm of phi(x) and the diameter of the set of its values, and that the sum
itself is exact, so that no rounding error tells anything about the records. Every map therefore
gives whole numbers: multiples of a power of two, as many as float64 has digits for.

`MarginalSums`
    Counts of the levels of columns and of their combinations, for records of integer codes.
`SecondMoments`
    Sums of products of two coordinates: the variance along every direction at once.
`KernelSums`
    Gaussian kernels between landmarks and projections of the record, on slices.
`CustomFeatures`
    Any function of rows, clipped to a bound on its norm that is declared beforehand.

The features of the first and the third come in groups, tables and slices, each of which may be
released apart (`GroupedSums`).
"""

from __future__ import annotations

from dpslice.features._base import FeatureMap, GroupedSums
from dpslice.features._custom import CustomFeatures
from dpslice.features._kernels import KernelSums
from dpslice.features._marginals import MarginalSums
from dpslice.features._moments import SecondMoments

__all__ = [
    "CustomFeatures",
    "FeatureMap",
    "GroupedSums",
    "KernelSums",
    "MarginalSums",
    "SecondMoments",
]
