"""dpslice: train generative models on private data.

Private rows are projected once onto random directions, with Gaussian noise, and published. All that
follows is post-processing and costs no privacy: any generator is trained, tuned and restarted
against the noisy slices.

``dpslice`` itself needs NumPy alone. ``dpslice.torch`` (losses and training) and
``dpslice.tabular`` (tables) need the extras of the same names.
"""

from dpslice import accounting
from dpslice.accounting import Guarantee
from dpslice.release import Release, ReleaseError

__version__ = "0.1.0"

__all__ = [
    "Guarantee",
    "Release",
    "ReleaseError",
    "__version__",
    "accounting",
]
