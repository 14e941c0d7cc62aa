r"""Losses between synthetic rows and a release of sums.

Each compares averages over the synthetic rows with the released sums, every one weighted by its
noise, and is scaled so that 1 is what the noise alone explains. An average over a batch is itself
uncertain, and its square too large by its variance; two independent halves of a batch give an
unbiased estimate of the squared distance instead. A release is public, so no call costs any
privacy.

`expected_sums` tells what sums a generator's rows would have, for `dpslice.AdaptiveSumMechanism`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpslice import _arrays
from dpslice.features import CustomFeatures, KernelSums, MarginalSums, SecondMoments
from dpslice.release import SumRelease
from dpslice.torch import functional
from dpslice.torch.losses import check_kind, full_precision

__all__ = ["FeatureMatching", "MarginalMatching", "expected_sums"]

_EACH_PRODUCT = 12_000  # cells; see _taken_apart
_BLOCK_NUMBERS = 1 << 22  # projections made at a time


def _parts(rows: int, halves: bool) -> list[slice]:
    """Cut a batch into its two halves, or leave it whole."""
    return [slice(0, rows // 2), slice(rows // 2, rows)] if halves else [slice(0, rows)]


def _distance(
    average: Callable[[Tensor], Tensor],
    rows: Tensor,
    target: Tensor,
    weight: Tensor,
    halves: bool,
) -> Tensor:
    """Weighted squared distance of an average over rows from a target, by `_parts`."""
    misfits = [average(rows[part]) - target for part in _parts(rows.shape[0], halves)]
    return (weight * misfits[0] * misfits[-1]).sum()


def _moments(part: Tensor, condition: int | None) -> Tensor:
    """Average over rows of x x^T, times an entry of x where there is a condition: [D, D]."""
    left = part if condition is None else part * part[:, condition : condition + 1]
    return left.mT @ part / part.shape[0]


def _pulled(part: Tensor, pull: Tensor, condition: int | None) -> Tensor:
    """Gradient of half the sum of ``pull * _moments(part, condition)``, pull being symmetric."""
    back = part @ pull / part.shape[0]
    if condition is None:
        return back
    grad = part[:, condition : condition + 1] * back
    grad[:, condition] += 0.5 * (part * back).sum(dim=1)
    return grad


class _MomentMisfit(torch.autograd.Function):
    """Half the weighted squared misfit of second moments, each perhaps on a condition.

    The gradient is made with the value and scaled in backward.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        rows: Tensor,  # [c, D]
        targets: Tensor,  # [moments, D, D], symmetric
        weights: Tensor,  # as targets
        conditions: Sequence[int | None],  # one for each of them
        halves: bool,
    ) -> tuple[Tensor, Tensor]:
        value = rows.new_zeros(())
        grad = torch.zeros_like(rows)
        parts = _parts(rows.shape[0], halves)
        for target, weight, condition in zip(targets, weights, conditions, strict=True):
            misfits = [_moments(rows[part], condition) - target for part in parts]
            value += 0.5 * (weight * misfits[0] * misfits[-1]).sum()
            # Each half's gradient carries the other half's misfit; a batch as a whole, its own.
            for part, other in zip(parts, reversed(misfits), strict=True):
                grad[part] += _pulled(rows[part], weight * other, condition)
        return value, grad if halves else 2.0 * grad

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad, rows = ctx.saved_tensors
        scaled = _ScaledOnce.apply(grads[0], grad, rows)  # type: ignore[no-untyped-call]
        return scaled, *[None] * 4  # targets, weights, conditions, halves


def _moment_misfit(*args: Any) -> Tensor:
    value: Tensor = _MomentMisfit.apply(*args)[0]  # type: ignore[no-untyped-call]
    return value


class _ScaledOnce(torch.autograd.Function):
    """A gradient that was made beforehand, times the one that came.

    It depends on the rows, which autograd would not know: its derivative would be zero in silence.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(scale: Tensor, grad: Tensor, rows: Tensor) -> Tensor:
        return scale * grad

    setup_context = staticmethod(functional._save_nothing)
    backward = staticmethod(functional._dead_end("the misfit of second moments"))


def _taken_apart(
    groups: Sequence[tuple[int, ...]], sizes: Sequence[int], d: int
) -> dict[tuple[int, ...], int]:
    """Choose the groups of three that are second moments on each level of a column, and which.

    Every level of that column costs a product of matrices over all d levels, so it should be a
    column of few that many groups share. The other groups are products of their own columns.
    """
    triples = [group for group in groups if len(group) == 3]
    shared = Counter(j for group in triples for j in group)
    apart = {group: max(group, key=lambda j: shared[j] / sizes[j]) for group in triples}
    # In cells of one large symmetric matrix: the small products of a table are some times as slow,
    # and take some time beside their arithmetic.
    saved: Counter[int] = Counter()
    for group, column in apart.items():
        saved[column] += _EACH_PRODUCT + 8 * math.prod(sizes[j] for j in group)
    worth = {column for column in saved if saved[column] > sizes[column] * d**2}
    return {group: group.index(column) for group, column in apart.items() if column in worth}


def balanced(columns: Sequence[int], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Cut columns into two runs with about as many cells each, for `shares`."""

    def cells(run: Sequence[int]) -> int:
        return math.prod(sizes[column] for column in run)

    cut = min(range(1, len(columns)), key=lambda i: cells(columns[:i]) + cells(columns[i:]))
    return list(columns[:cut]), list(columns[cut:])


def _joint(parts: Sequence[Any], columns: Sequence[int]) -> Any:
    """Distributions of independent columns together: [c, product of their levels]."""
    joint = parts[columns[0]]
    for column in columns[1:]:
        joint = (joint[:, :, None] * parts[column][:, None, :]).reshape(joint.shape[0], -1)
    return joint


def shares(parts: Sequence[Any], left: Sequence[int], right: Sequence[int]) -> Any:
    """Average over rows of the table of some columns, in C order: [cells].

    Parameters
    ----------
    parts : sequence of arrays or tensors, one of shape (c, levels) per column
        Distributions of the columns, which are independent in each row.
    left, right : sequence of int
        The table's columns, in two runs (`balanced`).
    """
    return (_joint(parts, left).T @ _joint(parts, right)).reshape(-1) / parts[0].shape[0]


class _SumLoss(nn.Module, ABC):
    """What the losses on a release of sums share."""

    halves: bool

    def _checked_misfit(self, x: Tensor) -> Tensor:
        """Return the misfit of checked rows, which must be enough for two halves if these are."""
        if self.halves and x.shape[0] < 2:
            raise ValueError("x_synthetic must have at least two rows, one for each half; got one")
        with full_precision(x.device):
            return self._misfit(x)

    @abstractmethod
    def _misfit(self, x: Tensor) -> Tensor:
        """Return the misfit of rows that are fit for it."""

    def _like(self, buffer: Tensor, x: Tensor) -> Tensor:
        if buffer.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(
                f"{type(self).__name__} must stay in float32 or float64; it was cast to "
                f"{buffer.dtype}, which the released sums do not survive: make it anew"
            )
        return buffer.to(dtype=x.dtype, device=x.device)


def _checked_columns(columns: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Return the columns that a generator makes, or raise; all of them for None."""
    if columns is None:
        return tuple(range(count))
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise TypeError(f"columns must be a sequence of integers; got {_arrays.describe(columns)}")
    checked = tuple(_arrays.integer("columns", column, minimum=0) for column in columns)
    if not set(checked) <= set(range(count)) or len(set(checked)) != len(checked):
        raise ValueError(
            f"columns must be different ones of the release's {count}; got {list(checked)}"
        )
    return checked


class MarginalMatching(_SumLoss):
    r"""Distance of the generator's tables from those of a sum release.

    With :math:`T_g` the released table of group g, as shares of the rows (whose number is estimated
    where it is protected, or a sample was counted), :math:`s_g` its noise on the same scale and
    :math:`M_g` the generator's,

    .. math:: L = \frac{1}{\text{cells}} \sum_g \|M_g - T_g\|^2 / s_g^2,

    so that 1 is what the noise alone explains: the true distribution scores 1 in expectation, and
    one that scores much less has learned noise. With `columns_weight`, single columns as all tables
    show them are further tables of that weight.

    A row is the distributions of a product over the columns, side by side: softmax heads, whose
    columns are independent given the noise that they were made from, enter by their exact
    conditional tables. One-hot rows are such distributions too, so any generator of hard rows does.

    Parameters
    ----------
    release : SumRelease
        A release of kind ``sums`` of `MarginalSums`.
    columns : sequence of int, optional
        The columns that the generator makes, in its order; groups that reach beyond them are left
        out. Default: all.
    halves : bool
        Whether to compare two independent halves of the batch with the release, each with its own
        misfit: M is an average over the batch, so its square is too large by the variance of that
        average, while the product of two independent misfits is unbiased (and may be negative).
        Switch it off where a batch is the whole model, as of `ProductMixture`, or a whole table: in
        the halves of one, what the first has too much of the second lacks.
    columns_weight : float
        How often the counts of single columns, as all tables together show them, are counted beside
        the tables; 0 leaves them out. They keep a model's columns true where noise is large:
        probabilities cannot be negative, so what noise adds to the empty cells of a table is taken
        from the others.

    Raises
    ------
    TypeError
        If `release` is no Release, or an argument is of the wrong kind.
    ValueError
        If it is of another kind or map, `columns_weight` is negative, `columns` are not columns of
        it, or no group lies within `columns`.
    """

    def __init__(
        self,
        release: SumRelease,
        *,
        columns: Sequence[int] | None = None,
        halves: bool = True,
        columns_weight: float = 0.0,
    ) -> None:
        super().__init__()
        check_kind(type(self).__name__, release, "sums")
        features, sums, noise = release.features, release.sums, release.noise
        if not isinstance(features, MarginalSums):
            raise ValueError(
                f"MarginalMatching takes a release of MarginalSums; got {features!r}: "
                "FeatureMatching takes others"
            )
        self.release = release
        self.columns = _checked_columns(columns, len(features.sizes))
        place = {column: i for i, column in enumerate(self.columns)}
        self.halves = _arrays.boolean("halves", halves)
        self.columns_weight = _arrays.nonnegative_real("columns_weight", columns_weight)
        self.sizes = tuple(features.sizes[column] for column in self.columns)
        ends = np.cumsum([0, *self.sizes])
        self.d = int(ends[-1])
        n = getattr(release, "n", None)  # where it is public
        if n is None or release.guarantee.sampling_rate is not None:
            n = features.estimate_n(sums, noise)  # of those that took part
        self.n_cells = 0
        # Single columns: by their own tables, and by all tables together.
        share, share_weight = np.zeros((2, self.d)), np.zeros((2, self.d))
        # Second moments of a row's entries: of all rows, or times the entry of one level.
        moments: dict[int | None, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        tables: list[NDArray[np.float64]] = []
        precisions: list[NDArray[np.float64]] = []
        inside = [group for group in features.groups if set(group) <= set(place)]
        apart = _taken_apart(inside, features.sizes, self.d)
        self._products = []
        for group, table, deviation in features.tables(sums, noise):
            if not set(group) <= set(place):
                continue
            self.n_cells += table.size
            precision = (n / deviation) ** 2
            spans = [slice(ends[place[j]], ends[place[j] + 1]) for j in group]
            if len(group) == 1:
                share[0, spans[0]], share_weight[0, spans[0]] = table / n, precision
                continue
            if len(group) > 2 and group not in apart:
                self._products.append(balanced([place[j] for j in group], self.sizes))
                tables.append(table.ravel() / n)
                precisions.append(np.full(table.size, precision))
                continue
            levels = [np.arange(span.start, span.stop) for span in spans]
            given: NDArray[np.int64] | list[None] = [None]
            if len(group) == 2:
                table = table[None]
            else:
                given, table = levels.pop(apart[group]), np.moveaxis(table, apart[group], 0)
            for level, two_way in zip(given, table, strict=True):
                key = None if level is None else int(level)
                if key not in moments:
                    moments[key] = np.zeros((self.d, self.d)), np.zeros((self.d, self.d))
                target, weight = moments[key]
                a, b = np.ix_(*levels), np.ix_(*reversed(levels))
                target[a], target[b] = two_way / n, two_way.T / n
                weight[a] = weight[b] = precision
        if not self.n_cells:
            raise ValueError("columns must hold at least one group of the release; got none")
        weight_of_all = float(self.n_cells)
        if self.columns_weight:
            for column, (table, deviation) in features.estimate_columns(sums, noise).items():
                if column in place:
                    span = slice(ends[place[column]], ends[place[column] + 1])
                    share[1, span] = table / n
                    share_weight[1, span] = self.columns_weight * (n / deviation) ** 2
                    weight_of_all += self.columns_weight * table.size
        self._conditions = tuple(moments)
        for name, array in (
            ("target", np.array([target for target, _ in moments.values()])),
            ("weight", np.array([weight for _, weight in moments.values()]) / weight_of_all),
            ("share", share),
            ("share_weight", share_weight / weight_of_all),
            ("table", np.concatenate([np.zeros(0), *tables])),
            ("table_weight", np.concatenate([np.zeros(0), *precisions]) / weight_of_all),
        ):
            buffer = torch.tensor(array, dtype=torch.float32)
            self.register_buffer(name, buffer, persistent=False)

    target: Tensor
    weight: Tensor
    share: Tensor
    share_weight: Tensor
    table: Tensor
    table_weight: Tensor

    def extra_repr(self) -> str:
        """Show the sizes and settings."""
        columns = len(self.sizes) if self.columns == tuple(range(len(self.sizes))) else self.columns
        weight = f", columns_weight={self.columns_weight:g}" if self.columns_weight else ""
        return f"columns={columns}, cells={self.n_cells}, halves={self.halves}{weight}"

    def forward(self, x_synthetic: Tensor) -> Tensor:
        """Return the misfit of synthetic rows.

        Parameters
        ----------
        x_synthetic : Tensor, shape (c, D), float32 or float64
            Rows of distributions: non-negative, the entries of each column adding up to 1; D is the
            sum of the columns' levels. Under autocast, float16 and bfloat16 are taken too and
            computed with in float32.

        Returns
        -------
        Tensor, shape ()
            The loss; about 1 where only the release's noise is left.

        Raises
        ------
        TypeError
            If it is no such tensor.
        ValueError
            If its shape is wrong, or it has a single row where two halves are wanted. (NaN gives
            NaN.)
        """
        (x,) = functional._tensors(x_synthetic=x_synthetic)
        _arrays.layout("x_synthetic", x, ("c", self.d))
        return self._checked_misfit(x)

    def _misfit(self, x: Tensor) -> Tensor:
        target, weight, share, share_weight, table, table_weight = (
            self._like(buffer, x)
            for buffer in (
                self.target, self.weight, self.share, self.share_weight, self.table,
                self.table_weight,
            )
        )  # fmt: skip
        misfit = _moment_misfit(x, target, weight, self._conditions, self.halves)
        misfit = misfit + _distance(
            lambda part: part.mean(dim=0), x, share, share_weight, self.halves
        )
        if self._products:
            misfit = misfit + _distance(self._tables, x, table, table_weight, self.halves)
        return misfit

    def _tables(self, part: Tensor) -> Tensor:
        """Average over rows of the tables that are made as products, one after the other."""
        columns = part.split(self.sizes, dim=1)
        return torch.cat([shares(columns, left, right) for left, right in self._products])


class FeatureMatching(_SumLoss):
    r"""Distance of the averages of a generator's features from those of a sum release.

    With :math:`T_j` the released sum divided by the number of records, :math:`s_j` its noise on the
    same scale, and :math:`M_j` the average feature of the synthetic rows,

    .. math:: L = \frac1J \sum_{j=1}^J (M_j - T_j)^2 / s_j^2,

    so that 1 is what the noise alone explains: the true distribution scores 1 in expectation, and
    one that scores much less has learned noise. Rows are clipped as the private ones were; the
    gradient still draws a row in that is too long, where the clipped one had better be shorter.

    Parameters
    ----------
    release : SumRelease
        A release of kind ``sums`` of `SecondMoments`, `KernelSums` or `CustomFeatures`.
    function : callable, optional
        Of `CustomFeatures`: the same function for torch, differentiable, of rows (c, d) into
        features (c, n_cells).
    n : float, optional
        Number of records in the table. Default: ``release.estimated_n``; needed where the number is
        protected and the features do not count records, as `SecondMoments` and `KernelSums` with a
        constant do. `CustomFeatures` say how they can.
    halves : bool
        Whether to compare two independent halves of the batch with the release, each with its own
        misfit: M is an average over the batch, so its square is too large by the variance of that
        average, while the product of two independent misfits is unbiased (and may be negative).
        Switch it off to score a whole table: what one half of it has too much of the other lacks,
        and the product is far below that of independent rows.

    Raises
    ------
    TypeError
        If `release` is no Release, `function` is missing or not callable, or an argument is of the
        wrong kind.
    ValueError
        If the release is of another kind or map, `function` comes without `CustomFeatures`, or `n`
        is not positive or cannot be estimated.

    Notes
    -----
    Kernel sums, forward and backward, are one sweep of the compiled kernels each. Of a release with
    sampling, the sample's own deviation is not in the noise: the truth scores more than 1.

    Examples
    --------
    >>> import numpy as np, torch, dpslice
    >>> rows = np.random.default_rng(0).normal(size=(20000, 3)) * 0.2
    >>> features = dpslice.SecondMoments(3)
    >>> release = dpslice.SumMechanism(features=features, epsilon=1.0, delta=1e-6).release(rows)
    >>> loss = FeatureMatching(release, halves=False)  # as a whole table is to be scored
    >>> near, far = torch.from_numpy(rows), torch.from_numpy(rows) * 1.5
    >>> bool(loss(near) < loss(far))
    True
    """

    def __init__(
        self,
        release: SumRelease,
        *,
        function: Callable[[Tensor], Tensor] | None = None,
        n: float | None = None,
        halves: bool = True,
    ) -> None:
        super().__init__()
        check_kind(type(self).__name__, release, "sums")
        features = release.features
        if isinstance(features, CustomFeatures):
            if not callable(function):
                raise TypeError(
                    "function must be given for CustomFeatures, the same for torch; "
                    f"got {_arrays.describe(function)}"
                )
        elif not isinstance(features, (SecondMoments, KernelSums)):
            raise ValueError(
                f"FeatureMatching takes SecondMoments, KernelSums or CustomFeatures; got "
                f"{type(features).__name__}: MarginalMatching takes MarginalSums"
            )
        elif function is not None:
            raise ValueError(f"function is for CustomFeatures; got one with {features!r}")
        self.n = None if n is None else _arrays.positive_real("n", n)
        records = release.estimated_n if self.n is None else self.n
        self.release = release
        self.function = function
        self.halves = _arrays.boolean("halves", halves)
        self.d = features.n_columns
        # Of a sample, the sums are those of fewer records.
        taking_part = records * (release.guarantee.sampling_rate or 1.0)
        target, noise = release.sums / taking_part, release.noise / taking_part
        self.n_cells = features.n_cells
        if isinstance(features, SecondMoments):
            target, weight = self._matrices(features, target, noise)
        else:
            weight = noise**-2.0
        if isinstance(features, KernelSums):  # the number of records is no feature of a generator
            self.n_cells = features.n_slices * features.n_landmarks
            target, weight = target[-self.n_cells :], weight[-self.n_cells :]
        for name, array in (("target", target), ("weight", weight / self.n_cells)):
            self.register_buffer(name, torch.tensor(array), persistent=False)
        constants = _kernel_constants(features) if isinstance(features, KernelSums) else {}
        for name, constant in constants.items():
            self.register_buffer(name, torch.tensor(constant), persistent=False)
        self._constants = tuple(constants)

    target: Tensor
    weight: Tensor

    def _matrices(
        self, features: SecondMoments, target: Any, noise: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Second moments and their weights as symmetric matrices, of (x, 1) with a constant."""
        _, mean, second = features.moments(target)
        _, mean_noise, deviation = features.moments(noise)
        # _MomentMisfit halves the sum over the matrix, in which all but the diagonal occurs twice.
        weight = deviation**-2.0 * (1.0 + np.eye(self.d))
        if mean is None or mean_noise is None:
            return second, weight
        self.n_cells -= 1  # the number of records is no feature of a generator
        target = np.block([[second, mean[:, None]], [mean[None, :], np.ones((1, 1))]])
        side = mean_noise[:, None] ** -2.0
        return target, np.block([[weight, side], [side.T, np.zeros((1, 1))]])

    def extra_repr(self) -> str:
        """Show the map and the settings."""
        given = "" if self.n is None else f", n={self.n:g}"
        return f"{self.release.features!r}, cells={self.n_cells}, halves={self.halves}{given}"

    def forward(self, x_synthetic: Tensor) -> Tensor:
        """Return the misfit of synthetic rows.

        Parameters
        ----------
        x_synthetic : Tensor, shape (c, d), float32 or float64
            Synthetic rows, in the coordinates of the private ones. Under autocast, float16 and
            bfloat16 are taken too and computed with in float32.

        Returns
        -------
        Tensor, shape ()
            The loss; about 1 where only the release's noise is left.

        Raises
        ------
        TypeError
            If it is no such tensor.
        ValueError
            If its shape is wrong, it holds NaN or infinity, has a single row where two halves are
            wanted, or the function's result has another shape than (c, n_cells) or holds NaN.
            (Under `torch.vmap` and in graphs of `torch.compile`, NaN gives NaN but for kernel
            sums.)
        """
        x = _arrays.synthetic_rows("x_synthetic", x_synthetic, d=self.d)
        return self._checked_misfit(x)

    def _misfit(self, x: Tensor) -> Tensor:
        features = self.release.features
        target, weight = self._like(self.target, x), self._like(self.weight, x)
        if isinstance(features, SecondMoments):
            rows = _clipped(x, features.max_norm)
            if target.shape[0] > self.d:
                rows = torch.cat([rows, rows.new_ones(rows.shape[0], 1)], dim=1)
            return _moment_misfit(rows, target[None], weight[None], (None,), self.halves)
        averages = self._kernel_averages if isinstance(features, KernelSums) else self._averages
        return _distance(averages, x, target, weight, self.halves)

    def _kernel_averages(self, x: Tensor) -> Tensor:
        """Average kernel of some rows at every landmark: [n_cells]."""
        features = self.release.features
        assert isinstance(features, KernelSums)
        constants = {name: self._like(getattr(self, name), x) for name in self._constants}
        return _kernel_sums(features, x, **constants).flatten() / x.shape[0]

    def _averages(self, x: Tensor) -> Tensor:
        """Average of the function over some rows: [n_cells]."""
        assert self.function is not None
        values: Tensor = self.function(x)
        _arrays.layout("the result of function", values, (x.shape[0], self.n_cells))
        if values.is_cpu and not _arrays.values_hidden() and not _arrays.all_finite(values):
            raise ValueError("the result of function must hold finite numbers; got NaN or infinity")
        return _clipped(values, self.release.features.norm).mean(dim=0)


class _Clip(torch.autograd.Function):
    """Rows longer than `norm` scaled down to it; a gradient that draws them in is let through.

    What is clipped does not change with the length of a row, so a generator of rows that are too
    long, as many are before training, would stay as it is. The gradient at the clipped row tells
    whether it should be shorter: then, and only then, its part along the row is kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, norm: float) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        clipped: Tensor = rows * (norm / length.clamp(min=norm))
        return clipped

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        rows, ctx.norm = inputs
        ctx.save_for_backward(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (rows,) = ctx.saved_tensors
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=ctx.norm)
        direction, scale = rows / length, ctx.norm / length
        outwards = (grads[0] * direction).sum(dim=1, keepdim=True).clamp(max=0.0)
        # Shorter rows have a scale of 1 and are passed on as they are.
        return scale * (grads[0] - torch.where(scale < 1.0, direction * outwards, 0.0)), None


def _clipped(rows: Tensor, norm: float) -> Tensor:
    """Scale down the rows that are longer than `norm`."""
    clipped: Tensor = _Clip.apply(rows, norm)  # type: ignore[no-untyped-call]
    return clipped


# ---------------------------------------------------------------------------------- kernel sums


def _kernel_constants(features: KernelSums) -> dict[str, NDArray[np.float64]]:
    """Return what `_kernel_sums` takes of a map."""
    constants = {
        "frame": features.frame.transpose(1, 0, 2).reshape(features.d, -1),  # [d, m k]
        "landmarks": features.landmarks,
        "bandwidth": features.bandwidth,
    }
    if features.cuts:  # [m, 1] of each slice, or [1] of all
        constants["bound"] = np.array([features.bound]).T
    return constants


def _kernel_sums(
    features: KernelSums,
    x: Tensor,
    frame: Tensor,
    landmarks: Tensor,
    bandwidth: Tensor,
    bound: Tensor | None = None,
) -> Tensor:
    """Sum of the features of some rows, each bounded as private ones are: [m, c]."""
    projected = _clipped(x, features.max_norm) @ frame
    # Sizes are asked of a tensor: of an array, they would make it an input of a compiled graph.
    y = projected.reshape(-1, landmarks.shape[0], landmarks.shape[2]).transpose(0, 1)
    weights = None
    if bound is not None:
        squares = functional.gaussian_kernel_sum(y, landmarks, bandwidth / math.sqrt(2.0))  # [m, b]
        if bound.ndim == 1:
            squares = squares.sum(dim=0)
        # Not the root of 0, which has no gradient.
        length = torch.clamp(squares, min=bound**2).sqrt()
        weights = (bound / length).expand(y.shape[:2]).contiguous()
    return functional.gaussian_kernel_sum(landmarks, y.contiguous(), bandwidth, weights)


def expected_sums(features: KernelSums, x_synthetic: Tensor, *, n: float) -> NDArray[np.float64]:
    r"""Tell what sums n records would have that are distributed as synthetic rows are.

    What `dpslice.AdaptiveSumMechanism` asks a model for, to find the slices that it fits worst. The
    more rows, the better: with b of them, an error of about :math:`n / \sqrt b` times the deviation
    of a kernel is left.

    Parameters
    ----------
    features : KernelSums
        Slices, with their landmarks and bandwidths.
    x_synthetic : Tensor, shape (b, d), float32 or float64
        Synthetic rows, in the coordinates of the private ones.
    n : float
        Number of records in the private table, or an estimate of it.

    Returns
    -------
    array, shape (m, c), float64
        Sums of every slice at its landmarks, with no gradient.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a shape is wrong, the rows hold NaN or infinity, or `n` is not positive.

    Examples
    --------
    >>> import torch, dpslice
    >>> slices = dpslice.KernelSums.on_random_slices(3, n_slices=5, n_landmarks=8, seed=0)
    >>> sums = expected_sums(slices, 0.2 * torch.randn(1000, 3), n=20_000)
    >>> sums.shape
    (5, 8)
    """
    if not isinstance(features, KernelSums):
        raise TypeError(f"features must be KernelSums; got {_arrays.describe(features)}")
    records = _arrays.positive_real("n", n)
    x = _arrays.synthetic_rows("x_synthetic", x_synthetic, d=features.d).detach()
    constants = {
        name: torch.tensor(constant, dtype=x.dtype, device=x.device)
        for name, constant in _kernel_constants(features).items()
    }
    total = torch.zeros(features.landmarks.shape[:2], dtype=torch.float64, device=x.device)
    with torch.no_grad(), full_precision(x.device):
        for part in x.split(max(1, _BLOCK_NUMBERS // constants["frame"].shape[1])):
            total += _kernel_sums(features, part, **constants)
    return np.asarray((total * (records / x.shape[0])).cpu().numpy())
