"""dpslice: train generative models on private data.

Private rows are projected once onto random directions, with Gaussian noise, and published. All that
follows is post-processing and costs no privacy: any generator is trained, tuned and restarted
against the noisy slices.

``dpslice`` itself needs NumPy alone. ``dpslice.torch`` (losses and training) and
``dpslice.tabular`` (tables) need the extras of the same names.
"""

from dpslice import accounting, divergences, kernels
from dpslice._version import __version__
from dpslice.accounting import Guarantee
from dpslice.adaptive import AdaptiveSumMechanism
from dpslice.features import (
    CustomFeatures,
    FeatureMap,
    KernelSums,
    MarginalSums,
    SecondMoments,
)
from dpslice.mechanism import SlicingMechanism, SumMechanism
from dpslice.release import Release, ReleaseError, RowRelease, SumRelease
from dpslice.threads import get_num_threads, set_num_threads

__all__ = [
    "AdaptiveSumMechanism",
    "CustomFeatures",
    "FeatureMap",
    "Guarantee",
    "KernelSums",
    "MarginalSums",
    "Release",
    "ReleaseError",
    "RowRelease",
    "SecondMoments",
    "SlicingMechanism",
    "SumMechanism",
    "SumRelease",
    "__version__",
    "accounting",
    "divergences",
    "get_num_threads",
    "kernels",
    "set_num_threads",
]
