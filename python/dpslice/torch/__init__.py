"""Differentiable kernels, losses and training for torch.

`functional` holds each kernel as a registered, differentiable operator; the losses are modules that
map synthetic rows (c, d) to a scalar; `fit` trains any generator against one of them.

Losses on a release of rows: `SmoothedLikelihood`, `SlicedDivergence`, `SlicedWasserstein`. On a
release of sums: `MarginalMatching` of `dpslice.MarginalSums`, `FeatureMatching` of other features.
"""

from __future__ import annotations

from dpslice import _arrays

_arrays.require("torch", extra="torch")  # before the modules below, which import it plainly

from dpslice.torch import functional  # noqa: E402
from dpslice.torch.losses import (  # noqa: E402
    SlicedDivergence,
    SlicedWasserstein,
    SmoothedLikelihood,
)
from dpslice.torch.sum_losses import (  # noqa: E402
    FeatureMatching,
    MarginalMatching,
    expected_sums,
)
from dpslice.torch.training import (  # noqa: E402
    CheckpointError,
    FitResult,
    TrainingError,
    TrainingState,
    fit,
)

__all__ = [
    "CheckpointError",
    "FeatureMatching",
    "FitResult",
    "MarginalMatching",
    "SlicedDivergence",
    "SlicedWasserstein",
    "SmoothedLikelihood",
    "TrainingError",
    "TrainingState",
    "expected_sums",
    "fit",
    "functional",
]
