"""dpslice: train generative models on private data.

Private records are read once and published with Gaussian noise, as a release: of rows, each
projected onto random directions (`SlicingMechanism`), or of sums of features (`SumMechanism`,
`AdaptiveSumMechanism`). All that follows is post-processing and costs no privacy: any generator is
trained, tuned and restarted against the release.

``dpslice`` itself needs NumPy alone. Two packages need the extras of the same names, and are
imported when they are first used:

``dpslice.torch``
    Losses between a release and synthetic rows, training, and differentiable kernels.
``dpslice.tabular``
    Tables: schemas, `dpslice.tabular.Synthesizer`, files, reports.

Beside the names below there are the modules ``dpslice.accounting`` (epsilon, delta and sigma),
``dpslice.kernels`` (array functions), ``dpslice.divergences``, ``dpslice.features`` (what sums
count) and ``dpslice.frames`` (random directions). The command ``dpslice --help`` is for tables.
"""

import importlib
from typing import TYPE_CHECKING

from dpslice import accounting, divergences, features, frames, kernels
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
from dpslice.release import ProtectedError, Release, ReleaseError, RowRelease, SumRelease
from dpslice.threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from dpslice import tabular as tabular
    from dpslice import torch as torch

__all__ = [
    "AdaptiveSumMechanism",
    "CustomFeatures",
    "FeatureMap",
    "Guarantee",
    "KernelSums",
    "MarginalSums",
    "ProtectedError",
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
    "features",
    "frames",
    "get_num_threads",
    "kernels",
    "set_num_threads",
]


if not TYPE_CHECKING:  # to type checkers, a module with __getattr__ has any name

    def __getattr__(name: str) -> object:
        if name in ("tabular", "torch"):
            return importlib.import_module(f"dpslice.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
