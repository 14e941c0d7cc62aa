"""The profile of the Gaussian mechanism by SciPy, which tests hold promises against."""

from __future__ import annotations

import numpy as np
from scipy import stats


def gaussian_delta(epsilon: float | np.ndarray, mu: float | np.ndarray) -> np.ndarray:
    """Delta at any real epsilon, mu being the ratio of sensitivity to noise."""
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    return stats.norm.sf(a) - np.exp(epsilon + stats.norm.logsf(b))
