"""Gaussian kernels between public landmarks and projections of the record, on slices."""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike

from dpslice import _arrays, _core, frames
from dpslice.features._base import (
    BLOCK_NUMBERS,
    FEATURE_BITS,
    MOST_FEATURES,
    FloatArray,
    GroupedSums,
    Integers,
    Numbers,
    RowFeatures,
    entries_of,
)

_FEWEST_ROWS: Final = 1 << 10  # that are projected at a time
_SEARCHED_KERNELS: Final = 1 << 22  # of a slice, to bound its sum of kernels


def _packed(array: Numbers) -> dict[str, Any]:
    """Describe an array bit by bit for JSON."""
    raw = np.ascontiguousarray(array, dtype="<f8").tobytes()
    return {"shape": list(array.shape), "float64": base64.b64encode(raw).decode("ascii")}


def _unpacked(record: object) -> Numbers:
    if not isinstance(record, Mapping) or set(record) != {"shape", "float64"}:
        raise ValueError("features hold an array that is not packed as shape and float64")
    raw = base64.b64decode(record["float64"], validate=True)
    return np.frombuffer(raw, dtype="<f8").reshape(record["shape"]).astype(np.float64)


def _largest_kernel_norm(landmarks: Numbers, bandwidth: float) -> float:
    r"""Find the largest :math:`\sqrt{\sum_l K(c_l, y)^2}` over y, for landmarks (c, k).

    The sum of squared kernels is a mixture of Gaussians, each of whose maxima is the limit of
    mean-shift steps from a landmark near it; of very many landmarks, some hundreds are tried. That
    finds the value to some digits; that no record exceeds what is declared is not left to it:
    features are clipped.
    """
    best = 0.0
    starts = landmarks[:: -(-len(landmarks) // 512)]
    together = max(1, (1 << 20) // len(landmarks))
    for first in range(0, len(starts), together):
        y = starts[first : first + together]
        for _ in range(64):
            offsets = y[:, None, :] - landmarks  # [starts, c, k]
            squares = np.exp(-(offsets**2).sum(axis=2) / bandwidth**2)
            total = squares.sum(axis=1)
            best = max(best, float(total.max()))
            y = squares @ landmarks / total[:, None]
    return math.sqrt(best) * (1.0 + 1e-6)


def _bound_on_kernel_sum(landmarks: Numbers, bandwidth: float) -> float:
    r"""Bound :math:`f(y) = \sum_l K(c_l, y)` for all y, given landmarks (c, k): never too low.

    At the largest f its gradient is 0, so y is there an average of the landmarks, weighted by their
    kernels, and lies in the box around them. The Hessian of ln f is a covariance matrix of
    landmarks over g^4, less 1/g^2 on the diagonal; so at a distance r from the largest value, ln f
    is lower by r^2 / 2g^2 at most. The box is filled with cells whose points are within r of their
    centre: no value exceeds the largest of a centre by more than that. Far more cells than can be
    searched give infinity.
    """
    c, k = landmarks.shape
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    most = max(1.0, (_SEARCHED_KERNELS / c) ** (1.0 / k))
    with np.errstate(over="ignore"):
        cells = np.clip(np.ceil(8.0 * (high - low) / bandwidth), 1.0, most).astype(np.int64)
        sides = (high - low) / cells
        # The second term is for the rounding of the centres.
        radius = 0.5 * np.linalg.norm(sides) + 1e-15 * math.sqrt(k) * np.abs(landmarks).max()
        loss = 0.5 * np.square(radius / bandwidth)
    if not loss < 50.0:
        return math.inf
    largest, together = 0.0, max(1, (1 << 20) // c)
    for first in range(0, int(cells.prod()), together):
        places = np.arange(first, min(first + together, int(cells.prod())))
        centres = low + (np.stack(np.unravel_index(places, cells), axis=1) + 0.5) * sides
        offsets = (centres[:, None, :] - landmarks) / bandwidth  # [cells, c, k]
        sums = np.exp(-0.5 * (offsets**2).sum(axis=2)).sum(axis=1)
        largest = max(largest, float(sums.max()))
    return largest * math.exp(loss)


@dataclass(frozen=True, eq=False)
class KernelSums(RowFeatures, GroupedSums[int]):
    r"""Gaussian kernels between public landmarks and the projections of a record, slice by slice.

    .. math:: \phi(x)_{s,l} = \exp\Big(-\frac{\|c_{s,l} - \theta_s^T x\|^2}{2 g_s^2}\Big),
              \qquad \|\phi(x)\| \le B

    Sums are, up to a factor, the kernel density estimates of every slice at its landmarks. Features
    are rounded down to multiples of 2**-30, so that sums are exact.

    With a `constant` c > 0, the number of records is released as well, before the slices, with
    noise sigma / c: features are :math:`(\phi(x), c)`, of norm :math:`\sqrt{B^2 + c^2}` at most,
    and two records are no farther apart than without. Training needs it where the number is
    protected.

    Slices may have weights. They are released as plain sums all the same, with noise sigma / w_s
    in each of slice s: more weight, less noise for this slice and more for all others.

    Parameters
    ----------
    frame : array, shape (m, d, k)
        Directions :math:`\theta_s` of each slice; public.
    landmarks : array, shape (c, k) or (m, c, k)
        Public points of a slice: the same for all slices, or each its own. Each must lie within
        ``max_norm`` times the slice's largest stretch, plus four bandwidths: the rows can come no
        nearer to others.
    bandwidth : float or array, shape (m,)
        Bandwidth g of all slices, or of each.
    max_norm : float
        Bound on the norm of a row; longer ones are scaled down before they are projected.
    bound : float or array, shape (m,), optional
        B: longer features are scaled down. Of an array, those of each slice by themselves, and B is
        the norm of bounds times weights. Default: about the largest norm that there can be, so that
        none are; for each slice if there are weights. A smaller one brings less noise, and a bias
        where it cuts. (How many rows it cuts is private and never shown.)
    weights : sequence of float, optional
        One per slice, finite and positive. Default: all 1. Others need a bound for each slice.
    constant : float
        c >= 0: weight of the number of records. 0 does not release it.

    Attributes
    ----------
    d, n_slices, slice_dim, n_landmarks : int
        Columns of a row, slices m, their dimension k, and landmarks of a slice.
    groups : tuple of int
        Numbers of the slices, 0 to m - 1; before them -1, which is the number of records, where
        there is a constant.
    cuts : bool
        Whether `bound` is so small that rows may exceed it.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit, an argument is out of range, or a landmark lies where no row can come
        near (it is named).

    Examples
    --------
    >>> features = KernelSums.on_random_slices(10, n_slices=5, n_landmarks=16, seed=0)
    >>> features.n_cells, round(features.norm, 2)
    (80, 2.98)
    """

    frame: Numbers  # [m, d, k]
    landmarks: Numbers  # [m, c, k]
    bandwidth: Numbers  # [m]
    max_norm: float = 1.0
    bound: float | Numbers | None = None  # of all slices together, or [m]
    weights: tuple[float, ...] = ()
    constant: float = 0.0

    if TYPE_CHECKING:  # what the fields are made of

        def __init__(
            self,
            frame: ArrayLike,
            landmarks: ArrayLike,
            bandwidth: ArrayLike,
            max_norm: float = 1.0,
            bound: ArrayLike | None = None,
            weights: Sequence[float] = (),
            constant: float = 0.0,
        ) -> None: ...

    name_in_files = "kernel_sums"
    _how_to_count = "release them with a constant"
    groups_called = "slices"
    unit_exponent = -FEATURE_BITS

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            if isinstance(value, np.ndarray):
                value = np.array(value, order="C")
                value.flags.writeable = False
            object.__setattr__(self, name, value)

        frame = _arrays.finite_values("frame", _arrays.real_array("frame", self.frame))
        if frame.ndim != 3 or not frame.size:
            raise ValueError(f"frame must have shape (m, d, k), none of them 0; got {frame.shape}")
        m, _, k = frame.shape
        given = _arrays.real_array("landmarks", self.landmarks)
        landmarks = _arrays.finite_values("landmarks", given)
        shape = landmarks.shape
        if landmarks.ndim == 2:
            landmarks = np.broadcast_to(landmarks, (m, *landmarks.shape))
        if landmarks.ndim != 3 or landmarks.shape[::2] != (m, k) or not landmarks.size:
            raise ValueError(f"landmarks must have shape (c, {k}) or ({m}, c, {k}); got {shape}")
        widths = _arrays.real_array("bandwidth", self.bandwidth)
        if widths.ndim > 1 or (widths.ndim == 1 and widths.shape != (m,)):
            raise ValueError(f"bandwidth must be a number or have shape ({m},); got {widths.shape}")
        bandwidth = np.broadcast_to(widths, (m,))
        _arrays.positive_reals("bandwidth", tuple(bandwidth.tolist()))
        put("frame", frame)
        put("landmarks", landmarks)
        put("bandwidth", bandwidth)
        put("max_norm", _arrays.positive_real("max_norm", self.max_norm))
        put("constant", _arrays.nonnegative_real("constant", self.constant))
        if self.constant and not 1e-100 <= self.constant <= 1e100:
            raise ValueError(f"constant must lie between 1e-100 and 1e100; got {self.constant}")
        if self.n_cells > MOST_FEATURES:
            raise ValueError(
                f"landmarks of all slices must be at most {MOST_FEATURES}; got {self.n_cells}"
            )
        # Where a square or a product overflows, a kernel may be no number: no bound would hold.
        if not ((bandwidth >= 1e-100) & (bandwidth <= 1e100)).all():
            raise ValueError(
                "bandwidth must lie between 1e-100 and 1e100; got "
                f"{bandwidth.min():g} to {bandwidth.max():g}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            stretch = self.max_norm * np.linalg.norm(frame, axis=(1, 2))
        if not (stretch <= 1e150).all():
            raise ValueError(
                f"frame must have slices of norm 1e150 over max_norm at most; got {stretch.max():g}"
            )
        reach = self.max_norm * np.linalg.norm(frame, ord=2, axis=(1, 2)) + 4.0 * bandwidth
        lengths = np.linalg.norm(landmarks, axis=2)
        if (lengths > reach[:, None]).any():
            s, c = np.unravel_index(int(np.argmax(lengths / reach[:, None])), lengths.shape)
            raise ValueError(
                "landmarks must lie within max_norm times the stretch of their slice, plus four "
                f"bandwidths; in slice {s} that is {reach[s]:.6g}, and landmark {c} has norm "
                f"{lengths[s, c]:.6g}"
            )
        weights = _arrays.elements("weights", self.weights) or (1.0,) * m
        weights = _arrays.positive_reals("weights", weights)
        if len(weights) != m:
            raise ValueError(f"weights must hold one number per slice ({m}); got {len(weights)}")
        put("weights", weights)
        alike = set(weights) == {1.0}
        bound = self.bound
        if bound is None:
            bound = math.hypot(*self._longest) if alike else self._longest
        if np.ndim(bound) == 0:
            put("bound", _arrays.positive_real("bound", bound))
            if not alike:
                raise ValueError(
                    f"bound must be one for each slice where they have weights; got {self.bound} "
                    "for all together"
                )
            return
        bound = _arrays.real_array("bound", bound)
        if bound.shape != (m,):
            raise ValueError(f"bound must be a number or have shape ({m},); got {bound.shape}")
        _arrays.positive_reals("bound", tuple(bound.tolist()))
        put("bound", bound)

    def _of_layouts(self, function: Callable[[Numbers, float], float]) -> Numbers:
        """Apply a function to the landmarks and the bandwidth of each slice, shape (m,)."""
        m, _, k = self.landmarks.shape
        slices = np.concatenate([self.landmarks.reshape(m, -1), self.bandwidth[:, None]], axis=1)
        layouts, which = np.unique(slices, axis=0, return_inverse=True)  # often all are the same
        values = [function(row[:-1].reshape(-1, k), float(row[-1])) for row in layouts]
        return np.array(values)[which.ravel()]

    @functools.cached_property
    def _longest(self) -> Numbers:
        """About the largest norm of each slice's features, never less by more than some digits."""
        return self._of_layouts(_largest_kernel_norm)

    @functools.cached_property
    def cuts(self) -> bool:
        """Whether `bound` is so small that rows may exceed it."""
        if isinstance(self.bound, np.ndarray):
            return bool((self.bound < self._longest * (1.0 - 1e-9)).any())
        return self._kernel_norm < math.hypot(*self._longest) * (1.0 - 1e-9)

    @classmethod
    def on_random_slices(
        cls,
        d: int,
        *,
        n_slices: int,
        slice_dim: int = 1,
        n_landmarks: int = 32,
        max_norm: float = 1.0,
        seed: int | None = None,
        constant: float = 0.0,
    ) -> KernelSums:
        """Choose random orthonormal slices, and landmarks on a grid where projections fall.

        Projections of rows of norm `max_norm` on a random direction have a standard deviation of
        ``max_norm / sqrt(d)``; the grid reaches four of them to both sides, `max_norm` at most.
        The bandwidth is the distance of neighbouring landmarks.

        Parameters
        ----------
        d : int
            Columns of a row.
        n_slices : int
            Slices m.
        slice_dim : int
            Their dimension k, at most d.
        n_landmarks : int
            Landmarks of a slice along each of its axes, at least 2. A slice has their k-th power,
            less the corners of the grid that are farther than `max_norm` from its centre.
        max_norm : float
            Bound on the norm of a row.
        seed : int, optional
            Public seed of the directions. Default: fresh entropy of the operating system.
        constant : float
            Weight of the number of records.

        Returns
        -------
        KernelSums

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of range.
        """
        d = _arrays.positive_integer("d", d)
        m = _arrays.positive_integer("n_slices", n_slices)
        k = _arrays.positive_integer("slice_dim", slice_dim)
        if k > d:
            raise ValueError(f"slice_dim must be at most d = {d}; got {k}")
        count = _arrays.integer("n_landmarks", n_landmarks, minimum=2)
        # In logarithms first: a power of large numbers takes long.
        if k * math.log(count) > 100.0 or m * count**k > MOST_FEATURES:
            raise ValueError(
                f"n_slices and n_landmarks must leave at most {MOST_FEATURES} sums; "
                f"got {_arrays.describe(count)}**{k} on {m} slices"
            )
        norm = _arrays.positive_real("max_norm", max_norm)
        rng = np.random.default_rng(None if seed is None else _arrays.seed("seed", seed))
        reach = min(norm, 4.0 * norm / math.sqrt(d))
        axis = np.linspace(-reach, reach, count)
        grid = np.stack(np.meshgrid(*[axis] * k, indexing="ij"), axis=-1).reshape(-1, k)
        inside = np.linalg.norm(grid, axis=1) <= norm  # corners of the grid may be out of reach
        return cls(
            frames.haar_columns((m, d, k), rng),
            grid[inside],
            axis[1] - axis[0],
            max_norm=norm,
            constant=constant,
        )

    @property
    def d(self) -> int:  # type: ignore[override]
        """Columns of a row."""
        return int(self.frame.shape[1])

    @property
    def n_slices(self) -> int:
        """Number of slices m."""
        return int(self.frame.shape[0])

    @property
    def slice_dim(self) -> int:
        """Dimension k of a slice."""
        return int(self.frame.shape[2])

    @property
    def n_landmarks(self) -> int:
        """Landmarks of a slice."""
        return int(self.landmarks.shape[1])

    @property
    def n_cells(self) -> int:
        """Released numbers: slices times landmarks, and one more with a constant."""
        return self.n_slices * self.n_landmarks + self._counts

    @property
    def _counts(self) -> bool:
        """Whether the number of records is released."""
        return self.constant > 0.0

    @property
    def norm(self) -> float:
        """Largest norm of the weighted features of a record, the constant included."""
        return math.hypot(self._kernel_norm, self.constant)

    @property
    def _kernel_norm(self) -> float:
        """Largest norm of the weighted kernels of a record."""
        if isinstance(self.bound, np.ndarray):
            return math.hypot(*(self.bound * self.weights))
        assert self.bound is not None
        return self.bound

    @property
    def diameter(self) -> float:
        """Largest distance of two records' features, none of which is negative.

        A constant is the same in both.
        """
        return math.sqrt(2.0) * self._kernel_norm

    def sum(self, block: FloatArray) -> Integers:
        """Add up the kernels of a checked block, without noise: private; see `FeatureMap.sum`."""
        directions = np.ascontiguousarray(self.frame.transpose(1, 0, 2).reshape(self.d, -1))
        total = np.zeros(self.landmarks.shape[:2], dtype=np.int64)
        step = max(_FEWEST_ROWS, BLOCK_NUMBERS // directions.shape[1])
        for first in range(0, len(block), step):
            rows = _core.bounded_rows(block[first : first + step], self.max_norm, 0.0)
            projected = _core.project_fast(rows, directions, 0.0, (0, 0), 0)  # no noise: sigma is 0
            points = projected.reshape(-1, self.n_slices, self.slice_dim)
            if not isinstance(self.bound, np.ndarray):
                total += self._bounded_sums(points, slice(None), self._kernel_norm)
                continue
            by_slice = np.ascontiguousarray(points.transpose(1, 0, 2))
            for s, bound in enumerate(self.bound.tolist()):
                one = slice(s, s + 1)
                total[one] += self._bounded_sums(by_slice[s][:, None, :], one, bound)
        if not self._counts:
            return total.ravel()
        return np.append(np.int64(len(block) << FEATURE_BITS), total)

    def estimate_n(self, sums: Numbers, noise: Numbers) -> float:
        """Estimate the number of records, as `FeatureMap.estimate_n`: a constant counts them."""
        if not self._counts:
            return super().estimate_n(sums, noise)
        return max(1.0, float(sums[0]))

    def _bounded_sums(self, points: Numbers, slices: slice, bound: float) -> Integers:
        """Add up the kernels of projected rows on some slices, bounded together: [slices, c]."""
        scale = math.ldexp(1.0, FEATURE_BITS)
        return _core.kernel_feature_sums(
            points,
            self.landmarks[slices],
            -0.5 * math.log2(math.e) / self.bandwidth[slices] ** 2,
            scale,
            bound * scale,
        )

    # --------------------------------------------------------------------------------- groups

    @property
    def groups(self) -> tuple[int, ...]:  # type: ignore[override]
        """Numbers of the slices, after -1 where the number of records is released."""
        return tuple(range(-1 if self._counts else 0, self.n_slices))

    @property
    def group_weights(self) -> tuple[float, ...]:
        """Weight of each group: the constant is that of the number of records."""
        return (self.constant, *self.weights) if self._counts else self.weights

    def shape_of(self, group: int) -> tuple[int, ...]:
        """Shape of the sums of a slice, or of the number of records."""
        return (self.n_landmarks if group >= 0 else 1,)

    def described(self, group: int) -> str:
        """Say what a model has to tell about a slice, for messages."""
        return f"sums of shape {self.shape_of(group)} for slice {group}"

    def columns_of(self, group: int) -> frozenset[int]:
        """Return no column: slices share all of them."""
        return frozenset()

    @property
    def _bounds(self) -> Numbers:
        """Bound on the norm of each slice's features, whatever the others are."""
        if isinstance(self.bound, np.ndarray):
            return self.bound
        if self.cuts:
            raise ValueError(
                "bound must be one for each slice where they are released apart; got "
                f"{self._kernel_norm:.6g} for all together, less than their largest norm"
            )
        return self._longest

    def group_norm(self, group: int) -> float:
        """Largest norm of a record's natural features of a slice."""
        return float(self._bounds[group]) if group >= 0 else 1.0

    @functools.cached_property
    def _totals(self) -> list[int]:
        # A part in 1e8 more is for rounding: of the norms that are kept, and of kernels above 2^-30
        # in compiled code and here, each within 1e-9.
        bounds = math.sqrt(self.n_landmarks) * self._bounds
        totals = np.minimum(bounds, self._of_layouts(_bound_on_kernel_sum)) * (1.0 + 1e-8)
        totals = np.minimum(totals, float(self.n_landmarks))
        return [math.floor(math.ldexp(total, FEATURE_BITS)) for total in totals.tolist()]

    def group_total(self, group: int) -> int:
        r"""Largest sum of a record's features of a slice, in units of 2**-30; never too low.

        It is the least of three bounds: every kernel is 1 at most, by Cauchy and Schwarz the sum is
        the norm's bound times :math:`\sqrt{c}` at most, and where landmarks overlap, the sum of
        Gaussians is bounded by a search of the whole slice.
        """
        return self._totals[group] if group >= 0 else 1 << FEATURE_BITS

    def take(self, groups: Sequence[int], weights: Sequence[float] = ()) -> KernelSums:
        """Return some slices, each with a bound of its own, with other weights if given.

        Parameters
        ----------
        groups : sequence of int
            Numbers of slices, at least one; before them -1 to keep the number of records, if the
            map releases it.
        weights : sequence of float, optional
            One for each. Default: their own.

        Returns
        -------
        KernelSums
            Its slices in that order.

        Raises
        ------
        TypeError
            If a number is no integer.
        ValueError
            If there is no such slice, none is given, weights are out of range, or `bound` is one
            for all together that cuts.
        """
        given = _arrays.elements("groups", groups)
        lowest = -1 if self._counts else 0
        picked = [_arrays.integer("groups", group, minimum=lowest) for group in given]
        chosen = _arrays.elements("weights", weights) or tuple(
            self.group_weights[group - lowest] for group in picked if group < self.n_slices
        )
        constant = 0.0
        if picked[:1] == [-1] and chosen:
            constant = _arrays.positive_real("weights", chosen[0])
            chosen, picked = chosen[1:], picked[1:]
        if not picked or max(picked) >= self.n_slices or min(picked) < 0:
            first = ", after -1 at most" if self._counts else ""
            raise ValueError(
                f"groups must be slices from 0 to {self.n_slices - 1}{first}; got {groups}"
            )
        return KernelSums(
            self.frame[picked],
            self.landmarks[picked],
            self.bandwidth[picked],
            self.max_norm,
            self._bounds[picked],
            chosen,
            constant,
        )

    def joined(self, candidates: Any) -> tuple[KernelSums, tuple[int, ...], tuple[int, ...]]:
        """Join the slices with candidates for more, as `GroupedSums.joined`.

        Candidates come first, so that their numbers stay what they are.
        """
        if not isinstance(candidates, KernelSums):
            raise TypeError(
                f"they must be KernelSums, as the features are; got {_arrays.describe(candidates)}"
            )
        for name in ("d", "slice_dim", "n_landmarks", "max_norm"):
            got, wanted = getattr(candidates, name), getattr(self, name)
            if got != wanted:
                raise ValueError(f"{name} must be that of the features, {wanted}; got {got}")
        places = {key: s for s, key in enumerate(candidates.apart()._keys())}
        bounds = candidates._bounds.copy()
        own: list[int] = []
        more: list[int] = []
        for s, key in enumerate(self._keys()):
            own.append(places.get(key, candidates.n_slices + len(more)))
            if key in places:  # the same slice, with the bound that it has here
                bounds[places[key]] = self._bounds[s]
            else:
                more.append(s)
        together = KernelSums(
            np.concatenate([candidates.frame, self.frame[more]]),
            np.concatenate([candidates.landmarks, self.landmarks[more]]),
            np.concatenate([candidates.bandwidth, self.bandwidth[more]]),
            self.max_norm,
            np.concatenate([bounds, self._bounds[more]]),
            constant=float(self._counts),
        )
        # The number of records is none of the slices to choose from.
        return together, (*self.groups[: self._counts], *own), tuple(range(candidates.n_slices))

    def apart(self) -> KernelSums:
        """Return the slices, each with a bound of its own, or raise unless they are different.

        Returns
        -------
        KernelSums

        Raises
        ------
        ValueError
            If two slices are the same, or `bound` is one for all together that cuts.
        """
        first: dict[bytes, int] = {}
        for s, key in enumerate(self._keys()):
            if first.setdefault(key, s) != s:
                raise ValueError(f"slices must be different; {first[key]} and {s} are the same")
        return self.take(self.groups)

    def _keys(self) -> Iterator[bytes]:
        """Tell what makes each slice another: its directions, landmarks and bandwidth."""
        for parts in zip(self.frame, self.landmarks, self.bandwidth, strict=True):
            yield b"".join(part.tobytes() for part in parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelSums) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.frame.tobytes(), self.landmarks.tobytes(), self.weights))

    def __repr__(self) -> str:
        return (
            f"KernelSums(n_slices={self.n_slices}, d={self.d}, slice_dim={self.slice_dim}, "
            f"n_landmarks={self.n_landmarks}, max_norm={self.max_norm:.6g}, "
            f"bound={self._kernel_norm:.6g}"
            + (f", constant={self.constant:.6g})" if self._counts else ")")
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a description that JSON can hold."""
        return {
            "map": self.name_in_files,
            "frame": _packed(self.frame),
            "landmarks": _packed(self.landmarks),
            "bandwidth": _packed(self.bandwidth),
            "max_norm": self.max_norm,
            **({"constant": self.constant} if self._counts else {}),
            **(
                {"bound": _packed(self.bound), "weights": list(self.weights)}
                if isinstance(self.bound, np.ndarray)
                else {"bound": self.bound}
            ),
        }

    @classmethod
    def _from_entries(cls, record: Mapping[str, Any]) -> KernelSums:
        weights: tuple[float, ...] = ()
        record = dict(record)
        constant = record.pop("constant", 0.0)  # of releases without a number of records: none
        if "weights" in record:  # each slice has a bound of its own
            weights = tuple(record["weights"])
            record = {key: value for key, value in record.items() if key != "weights"}
            record["bound"] = _unpacked(record.get("bound"))
        frame, landmarks, bandwidth, max_norm, bound = entries_of(
            record, "frame", "landmarks", "bandwidth", "max_norm", "bound"
        )
        return cls(
            _unpacked(frame),
            _unpacked(landmarks),
            _unpacked(bandwidth),
            max_norm,
            bound,
            weights,
            constant,
        )
