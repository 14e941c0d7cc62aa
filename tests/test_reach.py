"""The one look at points and bandwidths that arguments are checked by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dpslice import _core

pytestmark = pytest.mark.usefixtures("isa")
SIZES = (1, 2, 7, 8, 15, 16, 17, 31, 33, 65)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make(m: int, size: int, dtype: str, seed: int = 0) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((m, size, 1)) * 10.0 ** rng.integers(-30, 30, (m, size, 1))
    return points.astype(dtype), rng.uniform(0.1, 10.0, m).astype(dtype)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    m=st.integers(1, 3),
    size=st.sampled_from(SIZES),
    dtype=st.sampled_from(("float32", "float64")),
    seed=st.integers(0, 99),
)
def test_it_is_the_largest_of_all(m: int, size: int, dtype: str, seed: int) -> None:
    points, bandwidth = make(m, size, dtype, seed)
    wide = np.abs(points.astype(np.float64)).max(axis=(1, 2)) / bandwidth.astype(np.float64)
    assert _core.reach(points, bandwidth) == wide.max()


@DTYPES
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen_anywhere(bad: float, dtype: str) -> None:
    for size in SIZES:
        for at in range(size):
            points, bandwidth = make(2, size, dtype)
            points[1, at] = bad
            assert np.isnan(_core.reach(points, bandwidth))


@DTYPES
def test_only_normal_positive_bandwidths_will_do(dtype: str) -> None:
    limits = np.finfo(dtype)
    points, bandwidth = make(2, 5, dtype)
    for bad in (0.0, -0.0, -1.0, np.nan, np.inf, limits.smallest_subnormal):
        bandwidth[1] = bad
        assert np.isnan(_core.reach(points, bandwidth))
    points[:] = 0.0
    for good in (limits.tiny, limits.max):
        bandwidth[1] = good
        assert _core.reach(points, bandwidth) == 0.0
    points[1, 2] = -limits.max
    bandwidth[1] = limits.tiny
    expected = float(limits.max) / float(limits.tiny) if dtype == "float32" else np.inf
    assert _core.reach(points, bandwidth) == expected
