r"""The mechanisms: private records in, a `Release` out.

With `dpslice.adaptive`, which chooses what is counted in rounds, and `dpslice.tabular.inference`,
the only code that publishes what follows from private records.

Rows
----
`SlicingMechanism`: each row is clipped to ``max_norm``, projected on a public random frame U, and
published with Gaussian noise, in random order:

.. math:: O = XU + V, \qquad V_{ij} \sim N(0, \sigma^2) \text{ i.i.d.}

Noise is made of ChaCha20 key streams under keys that the operating system supplies, in float64,
and the result is rounded to a power-of-two grid below sigma; what a computer's rounding can still
reveal is bounded by `dpslice.accounting.numerical_loss` and included in the guarantee. Nobody can
choose or read a key through this interface, and no two releases share one.

Sums
----
`SumMechanism`: the features of all records are added up and published with Gaussian noise. The sum
S is a vector of exact integers, in units that the feature map fixes, the same for any order of the
records and any blocks. Noise V is made in float64 of random bits of the operating system. What is
published is h round((S + V) / h) on a power-of-two grid h below the noise's standard deviation: the
multiples of h in S are split off in integers, so that only what is left of S, below h, meets V in
floating point. (On exact real numbers that rounding is post-processing; ties have probability 0.)
The only difference to the ideal mechanism is the error of V itself and of that one addition:
`dpslice.accounting.sum_numerical_loss`.

Both
----
No statistic of the rows is kept or shown, apart from their number, where that is public,
and from errors about rows that cannot be released (NaN, infinity), which are for the data holder's
eyes. How long the work takes depends on the rows' number and length; a protection against someone
who can time it on the data holder's machine is not attempted.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays, _core, _storage, accounting, frames
from dpslice import release as _release
from dpslice.accounting import ADJACENCIES, SUM_ADJACENCIES, Guarantee
from dpslice.accounting._adjacency import (
    check_order_unit,
    checked_rows_per_person,
    notes_on_people,
    public_n,
)
from dpslice.accounting._slicing import check_sure_norm
from dpslice.accounting._sums import checked_sampling_rate
from dpslice.features import FeatureMap
from dpslice.features._base import checked_map
from dpslice.release import RowRelease, SumRelease

__all__ = ["SlicingMechanism", "SumMechanism"]

_DEFAULT_DELTA: Final = 1e-6  # where sigma is given: epsilon has to be stated at some delta

Array = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]

# Released numbers are multiples of h >= sigma/2^11 below 2^11 (C/sigma + 17) h: 24 bits hold them
# while C/sigma < 8000, provided that h and they are normal float32 numbers.
_FLOAT32_RATIO: Final = 8000.0
_FLOAT32_SIGMA: Final = (2.0**-100, 2.0**100)
# In float64 the same numbers must stay below 2^52, or rounding to the grid would do nothing.
_LARGEST_RATIO: Final = 2.0**40
_SIGMA_RANGE: Final = (1e-150, 1e150)

# Sums stay below 2^32 times the norm of a record's features over the cell's weight, and the grid is
# 2^-11 of the noise at least: with the noise at 2^-9 of that norm at least, float64 holds all
# multiples of the grid that can occur.
_MOST_RECORDS: Final = 1 << 32
_LARGEST_SUM_RATIO: Final = 2.0**9
_NOISE_CHUNK: Final = 1 << 16  # pairs of normals made at a time

_ORDER_UNCLAIMED: Final = "rows are published in random order; no amplification by it is claimed"
_ORDER_UNUSED: Final = (
    "rows are published in random order; amplification by it would gain nothing and is not claimed"
)

_BLOCK_NUMBERS: Final = 1 << 21  # a block of rows, and its output, hold about this many numbers
_SMALLEST_BLOCK: Final = 64


@dataclass(frozen=True, kw_only=True)
class SlicingMechanism:
    r"""Publish private rows as noisy projections on random directions.

    Parameters
    ----------
    epsilon : float, optional
        Privacy parameter of a release, > 0; the total, loss by rounding included. Exactly one of
        `epsilon` and `sigma` is given.
    delta : float, optional
        Privacy parameter, 0 < delta < 1. Needed with `epsilon`; with `sigma` it is the delta at
        which epsilon is stated (default 1e-6).
    sigma : float, optional
        Standard deviation of the noise, in the unit of the rows.
    n_slices, slice_dim : int, optional
        Slices m and their dimension k: p = m k columns are released. Default: p = d, all that is
        to be had, since any number of slices can be drawn from that afterwards, free of cost.
        With `n_slices` alone k = 1; with `slice_dim` alone m = d // k.
    frame : {"orthonormal", "gaussian"}
        Law of the directions. ``orthonormal`` needs less noise; ``gaussian`` is the paper's.
    adjacency : {"zero_out", "replace_one"}
        What one record's contribution means. ``zero_out``: its row against a row of zeros, at
        distance max_norm. ``replace_one``: its row against any other, at distance `diameter`. The
        number of rows is public in both.
    max_norm : float
        Bound C on the L2 norm of a row; longer rows are scaled down to it. It must be public
        knowledge: never take it from the data.
    diameter : float, optional
        Public bound on the distance of two rows of the domain, where it is less than the default
        2 max_norm. It is not enforced.
    seed : int, optional
        Seed of the public directions U alone; noise and order of rows never depend on it. Someone
        who knows it may have known U before the records were fixed, so the guarantee is then for
        the two rows that U tells apart best. With all orthonormal directions, the default, that is
        the same; with some of them, or a ``gaussian`` frame, it takes more noise (up to
        :math:`\sqrt{d/p}` times as much for p < d): leave the seed out there.
    amplify_by_order : bool
        Whether the guarantee counts on the secret order of the rows, which is drawn uniformly in
        any case: each of the n rows may be any record's. That saves noise where epsilon is small
        and rows are many: of ten thousand, at delta = 1e-6, sigma falls to 0.7 of itself at epsilon
        = 1 and stays as it is from 2 on; under ``replace_one`` it falls to 0.35 at 1, and stays
        from 4 on. It is claimed where it helps. The guarantee is then for those who learn of no row
        whose it is, and counts on `diameter` under ``zero_out``, too. Not for ``gaussian`` frames
        without a seed, whose spectral norm has no bound, nor with several `rows_per_person`.
    rows_per_person : int
        Rows that one person has at most, which must be public knowledge: nothing here tells whose a
        row is. The guarantee is then for people: neighbouring tables differ in all rows of one.
        That takes sqrt(rows) times the noise; of partial orthonormal blocks up to sqrt(d/p) times
        more, as some of the directions may favour several rows together.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument is out of range, both or neither of `epsilon` and `sigma` are given,
        `epsilon` comes without `delta`, or the order cannot be claimed for the frame.

    Notes
    -----
    Every call of `release` spends the guarantee anew: the guarantees of several releases of the
    same rows add up (`Guarantee.compose`).

    Examples
    --------
    >>> import numpy as np
    >>> import dpslice
    >>> rows = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 3))
    >>> mechanism = dpslice.SlicingMechanism(epsilon=5.0, delta=1e-6, seed=1)
    >>> release = mechanism.release(rows)
    >>> release.projections.shape
    (1000, 3)
    >>> release.guarantee.epsilon, release.guarantee.adjacency
    (5.0, 'zero_out')
    """

    epsilon: float | None = None
    delta: float | None = None
    sigma: float | None = None
    n_slices: int | None = None
    slice_dim: int | None = None
    frame: str = "orthonormal"
    adjacency: str = "zero_out"
    max_norm: float = 1.0
    diameter: float | None = None
    seed: int | None = None
    amplify_by_order: bool = False
    rows_per_person: int = 1

    def __post_init__(self) -> None:
        _arrays.store(self, **checked_budget(self.epsilon, self.delta, self.sigma))
        for name in ("n_slices", "slice_dim"):
            if getattr(self, name) is not None:
                size = _arrays.positive_integer(name, getattr(self, name))
                _arrays.store(self, **{name: size})
        _arrays.choice("frame", self.frame, frames.FRAMES)
        _arrays.choice("adjacency", self.adjacency, ADJACENCIES)
        _arrays.store(self, max_norm=_arrays.positive_real("max_norm", self.max_norm))
        if self.diameter is not None:
            _arrays.store(self, diameter=_arrays.positive_real("diameter", self.diameter))
        if self.seed is not None:
            _arrays.store(self, seed=_arrays.integer("seed", self.seed, minimum=0))
        _arrays.boolean("amplify_by_order", self.amplify_by_order)
        _arrays.store(self, rows_per_person=checked_rows_per_person(self.rows_per_person))
        known = self.seed is not None
        if self.rows_per_person > 1:
            check_sure_norm("rows_per_person", self.frame, known=known)
        if self.amplify_by_order:
            check_sure_norm("amplify_by_order", self.frame, known=known)
            check_order_unit("amplify_by_order", self.rows_per_person)

    # ------------------------------------------------------------------------------ accounting

    def account(self, d: int, *, n: int | None = None) -> Guarantee:
        """Tell what a release of rows with d features will guarantee, and its sigma.

        Parameters
        ----------
        d : int
            Number of features.
        n : int, optional
            Number of rows, public, to be named in the guarantee. Needed with `amplify_by_order`.

        Returns
        -------
        Guarantee
            The one that `release` will attach; ``guarantee.sigma`` is the noise.

        Raises
        ------
        TypeError
            If a size is no integer.
        ValueError
            If a size is out of range, ``slice_dim > d``, n is missing with `amplify_by_order`, or
            epsilon or delta is so small, or sigma so small against max_norm, that floating-point
            numbers cannot deliver it.
        """
        d = _arrays.positive_integer("d", d)
        p = self._columns(d)
        assert self.delta is not None
        known = None  # a frame that is drawn afresh
        if self.seed is not None:
            known = frames.worst_case_norm(self.frame, d, p, self.seed)
        column_norm = frames.column_norm_bound(self.frame, d, p)
        longest = self.max_norm * column_norm  # bound on a number of XU
        setting = _Setting(
            delta=self.delta,
            d=d,
            p=p,
            frame=self.frame,
            adjacency=self.adjacency,
            max_norm=self.max_norm,
            diameter=self._diameter,
            column_norm=column_norm,
            frame_norm=known,
            rows_per_person=self.rows_per_person,
        )
        if self.epsilon is None:
            assert self.sigma is not None
            sigma = self.sigma
        else:
            sigma = accounting.calibrate_slicing(
                epsilon=self.epsilon, n=n, amplify_by_order=self.amplify_by_order, **setting
            )
        _check_sigma(sigma, longest)
        guarantee = accounting.slicing_guarantee(
            sigma=sigma,
            n=n,
            amplify_by_order=self.amplify_by_order,
            epsilon=self.epsilon,
            **setting,
        )
        claimed = guarantee.amplified_by_order
        notes = [] if claimed else [_ORDER_UNUSED if self.amplify_by_order else _ORDER_UNCLAIMED]
        if self._diameter < 2.0 * self.max_norm:
            assuming = "replace_one assumes"
            if claimed:
                assuming = "replace_one and the claim of the order assume"
            notes.append(
                f"{assuming} records at most {self._diameter:.9g} apart: a property of "
                "their public domain"
            )
        notes.extend(notes_on_people(self.rows_per_person))
        guarantee = dataclasses.replace(guarantee, notes=(*notes, *guarantee.notes))
        return _as_asked(guarantee, self.epsilon)

    @property
    def _diameter(self) -> float:
        # Clipping keeps any two rows within 2 C, whatever the caller's bound.
        whole = 2.0 * self.max_norm
        return whole if self.diameter is None else min(self.diameter, whole)

    def _columns(self, d: int) -> int:
        k = self.slice_dim
        if k is not None and k > d:
            raise ValueError(f"slice_dim must be at most d, the number of features ({d}); got {k}")
        if self.n_slices is None:
            return d if k is None else d // k * k
        return self.n_slices * (1 if k is None else k)

    # --------------------------------------------------------------------------------- release

    def release(
        self,
        X: object,
        *,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        block_rows: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
        n: int | None = None,
    ) -> RowRelease:
        """Release private rows: read once, block by block.

        Parameters
        ----------
        X : array, shape (n, d), or iterable of such
            Private rows: a NumPy (memory maps included), torch or CuPy array, float32 or float64;
            or blocks of rows, all with d columns. A row of zeros is released like any other.
        path : path, optional
            Directory to save the release in. It is written as it is made, so that memory holds
            one block, and appears once it is complete; the release returned is memory-mapped.
        overwrite : bool
            Whether a release that is already at `path` may be replaced.
        block_rows : int, optional
            Rows read, projected and written at a time. Default: blocks of about 16 MiB.
        metadata : mapping, optional
            Public facts to keep with the release: anything that JSON can hold.
        progress : callable, optional
            Called with the number of rows done after each block.
        n : int, optional
            Number of rows in X, which is public. Needed with `amplify_by_order` where X is an
            iterable of blocks, as the noise depends on it. Other numbers of rows are refused.

        Returns
        -------
        RowRelease
            Projections are float32 while sigma > max_norm / 8000 (they are exact then; of gaussian
            frames, times `dpslice.frames.column_norm_bound`), else float64.

        Raises
        ------
        TypeError
            If X is not made of arrays of float32 or float64 (integers and float16 included:
            convert them, so that their unit is a choice and not an accident).
        ValueError
            If X has no row or no column, is not two-dimensional, changes its number of columns,
            or holds NaN or infinity (the row is named); if it has not n rows, or n is missing; or
            as in `account`.
        FileExistsError
            If `path` exists and is not to be (or cannot be) overwritten.
        ReleaseError
            If `path` is a directory that holds something else than a release.
        FileNotFoundError
            If the parent directory does not exist.
        OSError
            If the disk is full or cannot be written. After this or any other error, Ctrl-C
            included, nothing is left at `path`.

        Notes
        -----
        A process that is killed outright cannot tidy up: beside `path` a directory
        ``.NAME.….partial`` may be left. The noisy rows in it are released as much as any, so to
        release again spends the guarantee again, unless it is deleted unseen. They may still be in
        the order of X: who sees them has the guarantee of the noise alone, as if `amplify_by_order`
        were not set.
        """
        if block_rows is not None:
            block_rows = _arrays.positive_integer("block_rows", block_rows)
        if n is not None:
            n = _arrays.positive_integer("n", n)
        facts = _release.plain_metadata(metadata)
        pieces, length = _blocks(X, block_rows)
        if n is None:
            n = length
        elif length is not None and n != length:
            raise ValueError(f"n must be the number of rows of X ({length}); got {n}")
        if self.amplify_by_order and n is None:
            raise ValueError(
                "the number of rows must be known before noise is made with amplify_by_order: pass "
                "X as one array (a memory map will do), or n, the number of rows in all blocks"
            )
        if path is None:
            return self._release_in_memory(pieces, n, facts, progress)
        place = _arrays.path("path", path)
        return self._release_to_disk(pieces, n, place, overwrite, facts, progress)

    def _release_in_memory(
        self,
        pieces: Iterator[FloatArray],
        n: int | None,
        metadata: dict[str, Any],
        progress: Callable[[int], None] | None,
    ) -> RowRelease:
        plan, pieces = self._plan(pieces, n)
        rows = _Rows(n, plan.p, plan.dtype)
        plan.project(pieces, rows, progress)
        projections = rows.finish()
        _shuffle(projections)
        return RowRelease(
            plan.frame,
            projections,
            plan.sigma,
            dataclasses.replace(plan.guarantee, n=projections.shape[0]),
            frame_kind=self.frame,
            metadata=metadata,
        )

    def _release_to_disk(
        self,
        pieces: Iterator[FloatArray],
        expected: int | None,
        path: Path,
        overwrite: bool,
        metadata: dict[str, Any],
        progress: Callable[[int], None] | None,
    ) -> RowRelease:
        _release.refuse_foreign(path)
        with _storage.publishing(path, overwrite=overwrite) as directory:
            plan, pieces = self._plan(pieces, expected)
            file = directory / _release.PROJECTIONS
            writer = _storage.NpyWriter(file, plan.p, plan.dtype)
            try:
                plan.project(pieces, writer, progress)
                writer.close()
            finally:
                writer.abandon()
            projections = np.lib.format.open_memmap(file, mode="r+")
            _shuffle(projections)
            projections.flush()
            n = projections.shape[0]
            del projections
            _storage.write_npy(directory / _release.FRAME, plan.frame)
            certificate = _release.make_certificate(
                _release.row_facts(plan.frame, self.frame, n, plan.dtype, plan.sigma),
                guarantee=dataclasses.replace(plan.guarantee, n=n),
                metadata=metadata,
                digests={
                    name: _storage.file_digest(directory / name)
                    for name in (_release.FRAME, _release.PROJECTIONS)
                },
            )
            _release.write_certificate(directory, certificate)
        return RowRelease.load(path, verify=False)

    def _plan(
        self, pieces: Iterator[FloatArray], n: int | None
    ) -> tuple[_Plan, Iterator[FloatArray]]:
        """Look at the first block for the number of features; draw the frame, find sigma."""
        first = next(pieces, None)
        if first is None:
            raise ValueError("X must have at least one row; got none")
        d = first.shape[1]
        guarantee = self.account(d, n=n)
        assert guarantee.p is not None
        assert guarantee.sigma is not None
        plan = _Plan(
            guarantee=guarantee,
            frame=frames.make_frame(self.frame, d, guarantee.p, self.seed),
            sigma=guarantee.sigma,
            max_norm=self.max_norm,
            dtype=_output_dtype(self.frame, d, guarantee.p, guarantee.sigma, self.max_norm),
        )
        return plan, itertools.chain([first], pieces)


@dataclass(frozen=True, kw_only=True)
class SumMechanism:
    r"""Publish noisy sums of the features of private records.

    .. math:: T = \sum_i \phi(x_i) + V, \qquad V_j \sim N(0, \sigma^2) \text{ i.i.d.}

    Parameters
    ----------
    features : FeatureMap
        Public feature map (`MarginalSums`, `SecondMoments`, `KernelSums`, `CustomFeatures`); the
        bounds on its norm and diameter set the noise.
    epsilon : float, optional
        Privacy parameter of a release, > 0; the total, loss by rounding included. Exactly one of
        `epsilon` and `sigma` is given.
    delta : float, optional
        Privacy parameter, 0 < delta < 1. Needed with `epsilon`; with `sigma` it is the delta at
        which epsilon is stated (default 1e-6).
    sigma : float, optional
        Standard deviation of the noise, in the unit of the features.
    adjacency : {"zero_out", "replace_one", "add_remove"}
        What one record's contribution means. ``zero_out``: the record against one that counts
        nowhere, and ``add_remove``: the record in the table or not, at distance
        ``features.norm``; ``replace_one``: the record against any other, at distance
        ``features.diameter``. ``add_remove`` protects the number of records too, and a release
        does not state it then; under the other two it is public.
    sampling_rate : float, optional
        Probability with which each record takes part, independently of all others (Poisson
        sampling), delta < rate < 1; which ones did, and how many, nobody learns. The accounting is
        exact, and the noise smaller; so are the sums. Not under ``replace_one``.
    rows_per_person : int
        Records that one person has at most, which must be public knowledge: nothing here tells
        whose a record is. The guarantee is then for people: neighbouring tables differ in all
        records of one. That takes so many times the noise. Not with a `sampling_rate`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument is out of range, both or neither of `epsilon` and `sigma` are given,
        `epsilon` comes without `delta`, or sampling is asked for under ``replace_one`` or with
        several `rows_per_person`. (What floating-point numbers cannot deliver, `account` and
        `release` refuse.)

    Notes
    -----
    Every call of `release` spends the guarantee anew (`Guarantee.compose`).

    At one and the same epsilon, a sample of records with less noise tells less about the sums than
    all records with more. Sampling is for tables that are too large to be read in full, and for
    comparisons.

    Examples
    --------
    >>> import numpy as np
    >>> import dpslice
    >>> codes = np.random.default_rng(0).integers(0, 3, (5000, 2))
    >>> features = dpslice.MarginalSums((3, 3), [(0,), (1,), (0, 1)])
    >>> mechanism = dpslice.SumMechanism(features=features, epsilon=1.0, delta=1e-6)
    >>> release = mechanism.release(codes)
    >>> release.kind, release.sums.shape
    ('sums', (15,))
    """

    features: FeatureMap
    epsilon: float | None = None
    delta: float | None = None
    sigma: float | None = None
    adjacency: str = "zero_out"
    sampling_rate: float | None = None
    rows_per_person: int = 1

    def __post_init__(self) -> None:
        checked_map(self.features)
        _arrays.store(self, **checked_budget(self.epsilon, self.delta, self.sigma))
        _arrays.choice("adjacency", self.adjacency, SUM_ADJACENCIES)
        assert self.delta is not None
        rows = checked_rows_per_person(self.rows_per_person)
        _arrays.store(self, rows_per_person=rows)
        checked_sampling_rate(self.sampling_rate, self.adjacency, self.delta, rows)

    def account(self, *, n: int | None = None) -> Guarantee:
        """Tell what a release will guarantee, and its sigma.

        Parameters
        ----------
        n : int, optional
            Number of records, to be named in the guarantee where it is public (else left out).

        Returns
        -------
        Guarantee
            The one that `release` will attach; ``guarantee.sigma`` is the noise.

        Raises
        ------
        TypeError
            If `n` is no integer.
        ValueError
            If `n` is negative, or epsilon, delta or sigma is so small, or sigma so large, that
            floating-point numbers cannot deliver it.
        """
        assert self.delta is not None
        setting = SumSetting(
            delta=self.delta,
            cells=self.features.n_cells,
            norm=self.features.norm,
            diameter=self.features.diameter,
            adjacency=self.adjacency,
            sampling_rate=self.sampling_rate,
            rows_per_person=self.rows_per_person,
        )
        return account_sums(
            setting,
            epsilon=self.epsilon,
            sigma=self.sigma,
            weights=self.features.cell_weights(),
            notes=self.features.notes,
            n=n,
        )

    def release(
        self,
        X: object,
        *,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        block_rows: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> SumRelease:
        """Release private records: read once, block by block.

        Parameters
        ----------
        X : array, shape (n, columns), or iterable of such
            Private records, memory maps included, or blocks of them: integer codes (NumPy) for
            `MarginalSums`, rows of float32 or float64 (NumPy, torch or CuPy) for other features.
        path : path, optional
            Directory to save the release in; it appears once it is complete.
        overwrite : bool
            Whether a release that is already at `path` may be replaced.
        block_rows : int, optional
            Records counted at a time. Default: blocks of about 16 MiB.
        metadata : mapping, optional
            Public facts to keep with the release: anything that JSON can hold.
        progress : callable, optional
            Called with the number of records read after each block. Under ``add_remove`` that
            number is private: not to be shown or kept.

        Returns
        -------
        SumRelease

        Raises
        ------
        TypeError
            If X is not made of such arrays.
        ValueError
            If there is no record, a shape is wrong, or a value is not allowed: a code outside its
            column's levels, NaN or infinity (the record is named); or as in `account`.
        FileExistsError, ReleaseError, FileNotFoundError, OSError
            As `SlicingMechanism.release`.
        """
        if block_rows is not None:
            block_rows = _arrays.positive_integer("block_rows", block_rows)
        facts = _release.plain_metadata(metadata)
        guarantee = self.account()

        def make() -> SumRelease:
            return self._release(X, guarantee, block_rows, facts, progress)

        return made_at(path, make, overwrite=overwrite)

    def _release(
        self,
        X: object,
        guarantee: Guarantee,
        block_rows: int | None,
        metadata: dict[str, Any],
        progress: Callable[[int], None] | None,
    ) -> SumRelease:
        total, n = add_up(
            self.features, self.adjacency, X, block_rows, progress, self.sampling_rate
        )
        assert guarantee.sigma is not None
        told = public_n(self.adjacency, n)
        return SumRelease(
            self.features,
            total.with_noise(guarantee.sigma),
            guarantee.sigma,
            dataclasses.replace(guarantee, n=told),
            n=told,
            metadata=metadata,
        )


def made_at(
    path: str | os.PathLike[str] | None, make: Callable[[], SumRelease], *, overwrite: bool
) -> SumRelease:
    """Make a release, and save it if there is a path: refused beforehand if that is not free."""
    if path is None:
        return make()
    place = _arrays.path("path", path)
    _release.refuse_foreign(place)
    with _storage.publishing(place, overwrite=overwrite) as directory:
        release = make()
        release.write_files(directory)
    return release


# ------------------------------------------------------------------------------------ accounting


class SumSetting(TypedDict):
    """What calibration and guarantee of a sum release share."""

    delta: float
    cells: int
    norm: float
    diameter: float
    adjacency: str
    sampling_rate: float | None
    rows_per_person: int


def account_sums(
    setting: SumSetting,
    *,
    epsilon: float | None,
    sigma: float | None,
    weights: Array,
    notes: tuple[str, ...],
    n: int | None,
) -> Guarantee:
    """Tell what a release of sums guarantees, at the sigma that is given or that epsilon allows."""
    if epsilon is not None:
        sigma = accounting.calibrate_sums(epsilon, **setting)
    assert sigma is not None
    check_sum_sigma(sigma, setting["norm"], weights)
    told = public_n(setting["adjacency"], n)
    notes = (*notes_on_people(setting["rows_per_person"]), *notes)
    guarantee = accounting.sum_guarantee(sigma=sigma, n=told, notes=notes, **setting)
    return _as_asked(guarantee, epsilon)


def _as_asked(guarantee: Guarantee, epsilon: float | None) -> Guarantee:
    """State the epsilon that was asked for, unless more was computed."""
    if epsilon is None or guarantee.epsilon > epsilon:
        return guarantee
    return dataclasses.replace(guarantee, epsilon=epsilon)


class _Setting(TypedDict):
    """What calibration and guarantee of a release of rows share."""

    delta: float
    d: int
    p: int
    frame: str
    adjacency: str
    max_norm: float
    diameter: float
    column_norm: float
    frame_norm: float | None
    rows_per_person: int


def checked_budget(epsilon: object, delta: object, sigma: object) -> dict[str, float]:
    """Check that one of epsilon and sigma is given, and a delta with it; return what is."""
    checked = {}
    if (epsilon is None) == (sigma is None):
        given = "both" if epsilon is not None else "neither"
        raise ValueError(f"exactly one of epsilon and sigma must be given; got {given}")
    if epsilon is not None:
        checked["epsilon"] = _arrays.positive_real("epsilon", epsilon)
        if delta is None:
            raise ValueError("delta must be given together with epsilon")
    else:
        checked["sigma"] = _arrays.positive_real("sigma", sigma)
    checked["delta"] = _arrays.open_unit("delta", _DEFAULT_DELTA if delta is None else delta)
    return checked


def check_sum_sigma(sigma: float, norm: float, weights: Array) -> None:
    """Raise unless noise of sigma, over each weight, can be made and protects anything."""
    if norm / sigma > _LARGEST_SUM_RATIO:
        raise ValueError(
            f"sigma must be at least 2**-9 times the norm of the features (below that it "
            f"protects nothing any more); got {sigma:g} for norms up to {norm:g}"
        )
    low, high = _SIGMA_RANGE
    least, most = sigma / float(weights.max()), sigma / float(weights.min())
    if not (low <= least and most <= high):
        raise ValueError(
            f"the noise on a sum must lie between {low:g} and {high:g}; got {least:g} to "
            f"{most:g}: change sigma, or the unit or the weights of the features"
        )


def _check_sigma(sigma: float, longest: float) -> None:
    if not _SIGMA_RANGE[0] <= sigma <= _SIGMA_RANGE[1]:
        raise ValueError(
            f"sigma must be between {_SIGMA_RANGE[0]:g} and {_SIGMA_RANGE[1]:g}; got {sigma:g}: "
            "change the unit of the rows, max_norm with it"
        )
    if longest / sigma > _LARGEST_RATIO:
        raise ValueError(
            "sigma must be at least 2**-40 times the longest projection (below that it protects "
            f"nothing any more); got sigma = {sigma:g} for projections up to {longest:g}"
        )


def _output_dtype(frame: str, d: int, p: int, sigma: float, max_norm: float) -> np.dtype[Any]:
    longest = max_norm * frames.column_norm_bound(frame, d, p)
    exact = longest < _FLOAT32_RATIO * sigma and _FLOAT32_SIGMA[0] < sigma < _FLOAT32_SIGMA[1]
    return np.dtype(np.float32 if exact else np.float64)


# ----------------------------------------------------------------------------------- exact sums


def add_up(
    features: FeatureMap,
    adjacency: str,
    X: object,
    block_rows: int | None,
    progress: Callable[[int], None] | None,
    sampling_rate: float | None = None,
) -> tuple[ExactSums, int]:
    """Add up the features of all records, exactly, and count the records: both private."""
    _arrays.optional_callable("progress", progress)
    name = "X"
    blocks: Iterable[Any] = [X]
    if not hasattr(X, "dtype"):
        table = hasattr(X, "columns")  # whose iteration gives names
        if table or not isinstance(X, Iterable) or isinstance(X, (str, bytes, Mapping)):
            raise TypeError(
                "X must be an array of records or an iterable of such blocks; "
                f"got {type(X).__name__} (tables are encoded by dpslice.tabular first)"
            )
        name, blocks = "a block of X", X
    step = block_rows or max(_SMALLEST_BLOCK, _BLOCK_NUMBERS // features.n_columns)
    # In a sample, as under add_remove, the places of all later records depend on each record.
    step = min(step, features.most_at_once("add_remove" if sampling_rate else adjacency))
    total = ExactSums(features)
    done = 0
    for block in blocks:
        rows = features.block_rows(name, block)
        for start in range(0, rows, step):
            records = _arrays.settled(block[start : start + step])
            piece = features.check_block(name, records, first_row=done)
            done += len(piece)
            if sampling_rate is not None:
                piece = piece[_sampled(len(piece), sampling_rate)]
            if len(piece):  # of a sample, there may be none
                total.add(features.sum(piece), len(piece))
            if progress is not None:
                progress(done)
    if done == 0:
        raise ValueError("X must have at least one row; got none")
    if done >= _MOST_RECORDS:
        raise ValueError(f"X must have fewer than 2**32 rows; got {done}")
    return total, done


def _sampled(rows: int, rate: float) -> NDArray[np.bool_]:
    """Draw which of some records take part: each with a probability of `rate`, or 2^-64 less."""
    words = np.frombuffer(os.urandom(8 * rows), dtype=np.uint64)
    return np.asarray(words < np.uint64(int(math.ldexp(rate, 64))))


class ExactSums:
    """Sums in units of 2^e as integers of 95 bits, high 2^32 + low: exact for any table."""

    def __init__(self, features: FeatureMap) -> None:
        self._features = features
        self._high = np.zeros(features.n_cells, dtype=np.int64)
        self._low = np.zeros(features.n_cells, dtype=np.int64)
        self._records = 0  # added to low since it was last below 2^32

    @classmethod
    def of(cls, features: FeatureMap, sums: NDArray[np.int64]) -> ExactSums:
        """Take sums that were added up elsewhere."""
        exact = cls(features)
        exact._low += sums
        exact._settle()
        return exact

    def whole(self) -> NDArray[np.int64]:
        """Return sums that fit 63 bits, in their units: private."""
        self._settle()
        return np.asarray((self._high << 32) + self._low)

    def add(self, sums: NDArray[np.int64], records: int) -> None:
        """Add the sums of some records, at most ``features.most_records``."""
        if self._records + records > self._features.most_records:
            self._settle()
        self._low += sums
        self._records += records

    def _settle(self) -> None:
        self._high += self._low >> 32
        self._low &= 0xFFFFFFFF
        self._records = 0

    def with_noise(self, sigma: float) -> Array:
        """Publish: h round((S + V) / h) for every sum S, shape (n_cells,), float64."""
        self._settle()
        weights, units = self._features.cell_weights(), self._features.unit_exponents()
        out = np.empty(weights.size)
        for first in range(0, out.size, 2 * _NOISE_CHUNK):
            part = slice(first, first + 2 * _NOISE_CHUNK)
            deviation = sigma / weights[part]
            grid = np.frexp(deviation)[1].astype(np.int64) - 11  # h = 2^(floor(log2 s) - 10)
            whole, rest = _divided(self._high[part], self._low[part], grid - units[part])
            # By powers of two, so exactly; the sum with the rest is the one rounding there is.
            noise = np.ldexp(_normals(rest.size) * deviation, -grid)
            out[part] = np.ldexp(whole + np.rint(rest + noise), grid)
        return out


def _divided(
    high: NDArray[np.int64], low: NDArray[np.int64], shift: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Array]:
    """Divide high 2^32 + low by 2^shift: whole part, rounded down, and the rest below 1.

    The whole part must fit 63 bits. Both cases of each choice are computed for all entries, so
    shifts are clipped to what is defined, also where the result is not used.
    """
    small = shift <= 32
    up, down = np.clip(32 - shift, 0, 62), np.clip(shift - 32, 0, 62)
    right, left = np.clip(shift, 0, 32), np.clip(-shift, 0, 62)
    whole = np.where(small, (high << up) + ((low >> right) << left), high >> down)
    one = np.int64(1)
    rest = np.where(
        small,
        np.ldexp((low & ((one << right) - one)).astype(np.float64), -right),
        np.ldexp((high & ((one << down) - one)) + np.ldexp(low.astype(np.float64), -32), -down),
    )
    tiny = shift > 94  # far more than the sum: all of it is rest
    return (
        np.where(tiny, 0, whole),
        np.where(tiny, np.ldexp(high + np.ldexp(low.astype(np.float64), -32), 32 - shift), rest),
    )


def _normals(size: int) -> Array:
    """Draw standard normals from fresh random bits of the operating system."""
    pairs = (size + 1) // 2
    words = np.frombuffer(os.urandom(24 * pairs), dtype=np.uint32).reshape(pairs, 6)
    return np.asarray(_core.secure_normals(words).ravel()[:size])


# --------------------------------------------------------------------------------- rows in and out


def _blocks(X: object, block_rows: int | None) -> tuple[Iterator[FloatArray], int | None]:
    """Turn X into checked blocks of rows in host memory, and tell n if it is known."""
    if hasattr(X, "ndim") and hasattr(X, "dtype") and not hasattr(X, "columns"):
        n, _ = _arrays.row_matrix("X", X)
        if n == 0:
            raise ValueError(f"X must have at least one row; got {_arrays.describe(X)}")
        return _pieces(iter([X]), "X", block_rows), n
    if not isinstance(X, Iterable) or isinstance(X, (str, bytes, Mapping)) or hasattr(X, "columns"):
        raise TypeError(
            "X must be an array of rows (NumPy, torch or CuPy) or an iterable of such blocks; "
            f"got {type(X).__name__} (tables are encoded by dpslice.tabular first)"
        )
    return _pieces(iter(X), "a block of X", block_rows), None


def _pieces(blocks: Iterator[Any], name: str, block_rows: int | None) -> Iterator[FloatArray]:
    done = 0
    d: int | None = None
    for block in blocks:
        rows, columns = _arrays.row_matrix(name, block)
        d = columns if d is None else d
        step = block_rows or max(_SMALLEST_BLOCK, _BLOCK_NUMBERS // d)
        for start in range(0, rows, step) if rows else ():
            rows_of_piece = _arrays.settled(block[start : start + step])
            yield _arrays.row_block(name, rows_of_piece, first_row=done + start, d=d)
        done += rows


class _Sink(Protocol):
    """Where projected rows go."""

    def append(self, block: FloatArray) -> None:
        """Take some more rows."""


class _Rows:
    """Rows in memory, their number known beforehand or not."""

    def __init__(self, n: int | None, columns: int, dtype: np.dtype[Any]) -> None:
        self._rows: FloatArray = np.empty((n or 0, columns), dtype)
        self._used = 0

    def append(self, block: FloatArray) -> None:
        needed = self._used + block.shape[0]
        if needed > self._rows.shape[0]:
            # In place where the allocator can (it moves pages, not bytes), by an eighth at least,
            # so that many small blocks do not cost a copy each.
            capacity = max(needed, self._used + self._used // 8)
            self._rows.resize((capacity, self._rows.shape[1]), refcheck=False)
        self._rows[self._used : needed] = block
        self._used = needed

    def finish(self) -> FloatArray:
        if self._used < self._rows.shape[0]:
            self._rows.resize((self._used, self._rows.shape[1]), refcheck=False)
        return self._rows


@dataclass(frozen=True, eq=False)
class _Plan:
    """Everything about a release but its rows."""

    guarantee: Guarantee  # its n is that of the rows to come, or None where that is not known
    frame: Array  # [d, p]
    sigma: float
    max_norm: float
    dtype: np.dtype[Any]

    @property
    def p(self) -> int:
        return int(self.frame.shape[1])

    def project(
        self,
        pieces: Iterator[FloatArray],
        sink: _Sink,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Clip, project and noise block after block, all under one fresh key."""
        _arrays.optional_callable("progress", progress)
        done, n = 0, self.guarantee.n
        with _fresh_key() as key:
            for piece in pieces:
                if n is not None and done + piece.shape[0] > n:
                    raise ValueError(f"X must have n = {n} rows, as was said; it has more")
                sink.append(
                    _core.project_secure(
                        piece, self.frame, self.sigma, key, done, self.max_norm, self.dtype.name
                    )
                )
                done += piece.shape[0]
                if progress is not None:
                    progress(done)
        if n is not None and done != n:
            raise ValueError(f"X must have n = {n} rows, as was said; got {done}")


def _shuffle(rows: FloatArray) -> None:
    """Put all rows of a release into one secret, uniformly random order, in place.

    The claim of `amplify_by_order` rests on this: every row is in the one array that is shuffled,
    whatever blocks it came in, under a key of its own that nobody keeps.
    """
    with _fresh_key() as key:
        _core.shuffle_rows(rows, key)


@contextmanager
def _fresh_key() -> Iterator[bytearray]:
    # Python frees the bytes that urandom made without wiping them: this is best effort.
    key = bytearray(os.urandom(32))
    try:
        yield key
    finally:
        key[:] = bytes(len(key))
