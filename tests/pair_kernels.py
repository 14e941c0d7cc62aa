"""Cases and laws that gaussian_kernel_sum and gaussian_kernel_logsumexp share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference
from dpslice import _core, kernels

Array = NDArray[Any]
ALL = (True, True, True)

# The targets of the library, as norms of error over norms of truth.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

# Sizes on both sides of every tile: vectors of 2 to 16 numbers, tiles of 4 and 8 rows, panels of 4
# to 48 columns, blocks of 64 rows and of 12 to 144 columns.
ROWS = (1, 2, 7, 8, 9, 63, 64, 65, 130)
COLUMNS = (1, 3, 4, 15, 16, 17, 47, 48, 49, 127, 128, 129, 143, 144, 145, 290)
# By differences up to 8, by products from 9; one column is added there for the sum of the weights.
DIMS = (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 47, 48, 94, 300)

LAW_DIMS = pytest.mark.parametrize("k", [2, 8, 9, 40])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@dataclass(frozen=True, repr=False)
class Case:
    """Arguments of a kernel and of its derivative."""

    x: Array  # [m, b, k]
    y: Array  # [m, c, k]
    bandwidth: Array  # [m]
    weights: Array | None  # [m, c]
    grad: Array  # [m, b]

    def __repr__(self) -> str:
        weighted = "weighted" if self.weights is not None else "plain"
        return f"Case({self.x.shape}, c={self.y.shape[1]}, {self.x.dtype}, {weighted})"


def make_case(
    m: int,
    b: int,
    c: int,
    k: int,
    dtype: str = "float64",
    *,
    weighted: bool = False,
    seed: int = 0,
    scale: float = 1.0,
    shift: float = 0.0,
    wide: bool = False,
) -> Case:
    """Points at distances of about a bandwidth per dimension, like rows and noise of a release.

    With `wide` at a bandwidth in all, so that kernels do not underflow however many the dimensions.
    """
    rng = np.random.default_rng([seed, m, b, c, k])
    x = scale * (shift + rng.normal(size=(m, b, k)))
    y = scale * (shift + 0.6 * rng.normal(size=(m, c, k)))
    bandwidth = scale * rng.uniform(0.8, 1.3, size=m) * (np.sqrt(k) if wide else 1)
    weights = rng.normal(size=(m, c)) if weighted else None
    grad = rng.normal(size=(m, b))
    return Case(
        *(None if part is None else part.astype(dtype) for part in (x, y, bandwidth, weights, grad))
    )  # type: ignore[arg-type]


@dataclass(frozen=True)
class Kernel:
    """One of the two kernels: compiled, and as its twin in float64."""

    name: str
    logarithms: bool

    def make_case(self, *sizes: Any, **options: Any) -> Case:
        """Make a case as `make_case` does, whose kernels can be added up."""
        return make_case(*sizes, wide=not self.logarithms, **options)

    def function(self, *arguments: Any) -> Array:
        found: Array = getattr(kernels, self.name)(*arguments)
        return found

    def value(self, case: Case) -> Array:
        found: Array = getattr(_core, self.name)(case.x, case.y, case.bandwidth, case.weights)
        return found

    def vjp(self, case: Case, need: tuple[bool, ...] = ALL) -> tuple[Array | None, ...]:
        saved = (self.value(case),) if self.logarithms else ()
        parts = (case.x, case.y, case.bandwidth, case.weights, *saved, case.grad)
        found: tuple[Array | None, ...] = getattr(_core, f"{self.name}_vjp")(*parts, *need)
        return found

    def twin(self, case: Case) -> Array:
        found: Array = getattr(reference, self.name)(case.x, case.y, case.bandwidth, case.weights)
        return found

    def twin_vjp(self, case: Case) -> tuple[Array, ...]:
        parts = (case.x, case.y, case.bandwidth, case.weights, case.grad)
        found: tuple[Array, ...] = getattr(reference, f"{self.name}_vjp")(*parts)
        return found


KERNEL_SUM = Kernel("gaussian_kernel_sum", logarithms=False)
LOGSUMEXP = Kernel("gaussian_kernel_logsumexp", logarithms=True)
KERNELS = (KERNEL_SUM, LOGSUMEXP)


def log_kernels_by_products(case: Case) -> Array:
    """Return log K in float64 [m, b, c], quick at sizes where the twins' differences are not."""
    x, y = case.x.astype(np.float64), case.y.astype(np.float64)
    h = case.bandwidth.astype(np.float64)[:, None, None]
    squares = (x * x).sum(-1)[:, :, None] + (y * y).sum(-1)[:, None] - 2 * x @ y.swapaxes(1, 2)
    logs: Array = -squares / (2 * h * h)
    return logs


def pull_on_y(case: Case, weights: Array) -> Array:
    """Return sum_i weights_ij (x_i - y_j) / h^2 in float64 [m, c, k]; weights: [m, b, c]."""
    h = case.bandwidth.astype(np.float64)[:, None, None]
    pull: Array = weights.swapaxes(1, 2) @ case.x - weights.sum(1)[..., None] * case.y
    return pull / (h * h)


@st.composite
def cases(draw: st.DrawFn, wide: bool = False) -> Case:
    dims = draw(st.sampled_from(DIMS))
    return make_case(
        draw(st.sampled_from((1, 2, 3) if dims < 100 else (1,))),
        draw(st.sampled_from(ROWS)),
        draw(st.sampled_from(COLUMNS)),
        dims,
        draw(st.sampled_from(("float32", "float64"))),
        weighted=draw(st.booleans()),
        seed=draw(st.integers(0, 9)),
        scale=10.0 ** draw(st.integers(-6, 6)),
        shift=draw(st.sampled_from((0.0, 0.0, 3.0))),
        wide=wide,
    )


def assert_totals(totals: Any, weights: Array, rows: Array) -> None:
    """Compare weighted totals of rows with exact sums: float64 within, then rounded once."""
    assert totals.dtype == rows.dtype
    with np.errstate(invalid="ignore"):
        terms = weights.astype(np.float64) * rows.astype(np.float64)
    for total, of_slice in zip(totals, terms, strict=True):
        if not np.isfinite(of_slice).all():
            assert total == of_slice.sum()
            continue
        exact = math.fsum(of_slice)
        within = 2.0**-53 * len(of_slice) * np.abs(of_slice).sum()
        assert abs(float(total) - exact) <= np.finfo(rows.dtype).eps * abs(exact) + within


def case_without_some_rows(b: int, c: int, dtype: str) -> Case:
    """Three slices whose log sums are -inf but for the first; of the second no row has a weight."""
    case = make_case(3, b, c, 2, dtype, weighted=True)
    assert case.weights is not None
    case.weights[1:] = -np.inf
    case.grad[:2, ::2] = 0
    case.grad[1] = 0
    case.grad[2] = np.abs(case.grad[2])
    return case


def assert_rows_left_out(case: Case, totals: Any, rows: Any, logsumexp: Any) -> None:
    """Rows of weight zero that are -inf become zeros; others count as they are."""
    np.testing.assert_array_equal(rows[0], logsumexp[0])
    assert_totals(totals[:1], case.grad[:1], rows[:1])
    assert not rows[1].any()
    assert totals[1] == 0
    assert (rows[2] == -np.inf).all()
    assert totals[2] == -np.inf


def assert_close(found: Any, truth: Any, dtype: str, *, times: float = 1.0) -> None:
    """Compare within the library's target for `dtype`."""
    assert found.dtype == np.dtype(dtype)
    error = reference.relative_error(found, truth)
    assert error <= times * TOLERANCE[dtype], f"relative error {error:.3g}"


def assert_gradients(
    found: Sequence[Any],
    case: Case,
    twin_vjp: Callable[[Case], tuple[Array, ...]],
    bound: float | None = None,
) -> None:
    """Compare gradients of `twin_vjp`, the last ones if `found` has fewer, within the target.

    The sum of few numbers may be far smaller than they are. Where that is so, by the signs of
    `case.grad`, its error is compared with the sum without these signs.
    """
    dtype = case.x.dtype
    bound = bound or TOLERANCE[dtype.name]
    truth = twin_vjp(case)
    for place, grad in enumerate(reversed(found), start=1):
        assert grad.dtype == dtype
        error = reference.relative_error(grad, truth[-place])
        if error > bound:
            unsigned = twin_vjp(replace(case, grad=np.abs(case.grad)))
            error *= float(np.linalg.norm(truth[-place]) / np.linalg.norm(unsigned[-place]))
        assert error <= bound, f"relative error {error:.3g} of gradient {len(truth) - place}"
