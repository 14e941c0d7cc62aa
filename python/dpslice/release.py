r"""Release: the published artefact, and everything one may do with it for ever.

There are two kinds. A release of *rows* (`RowRelease`) is (U, O = XU + V, sigma, guarantee): the
public frame, the noisy projections of the private rows in random order, the standard deviation of
the noise, and what it all guarantees. A release of *sums* (`SumRelease`) is (phi, T = sum of phi(x)
+ noise, sigma, guarantee). Whatever is computed from either is post-processing and costs nothing.
Nothing here reads private data.

On disk it is a directory:

``certificate.json``
    Format version, kind, sizes, sigma, the guarantee, metadata, the SHA-256 of each array file,
    and one of the certificate itself. Checksums find damage, not forgery: they are no signature.
``frame.npy``, ``projections.npy``, or ``sums.npy``
    Plain arrays, never pickles.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import math
import os
import tokenize
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays, _storage, frames
from dpslice.accounting import Guarantee
from dpslice.accounting._guarantee import rounded_up
from dpslice.features import FeatureMap

__all__ = ["ProtectedError", "Release", "ReleaseError", "RowRelease", "Slices", "SumRelease"]

FORMAT: Final = "dpslice release"
FORMAT_VERSION: Final = 1
CERTIFICATE: Final = "certificate.json"
FRAME: Final = "frame.npy"
PROJECTIONS: Final = "projections.npy"
SUMS: Final = "sums.npy"

_COMMON_ENTRIES: Final = {
    "format",
    "format_version",
    "kind",
    "n",
    "sigma",
    "guarantee",
    "metadata",
    "files",
    "certificate_sha256",
}
_ENTRIES: Final = {  # by kind
    "rows": _COMMON_ENTRIES | {"frame_kind", "d", "p", "dtype"},
    "sums": _COMMON_ENTRIES | {"features"},
}
_FILES: Final = {"rows": {FRAME, PROJECTIONS}, "sums": {SUMS}}
_LARGEST_SUM: Final = 1e100  # squares of larger ones, and what is made of them, leave float64
_MOST_RECORDS: Final = 2.0**53  # float64 counts no farther
_BLOCK_BYTES: Final = 1 << 24  # looked at together for NaN

Array = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]


class ReleaseError(ValueError):
    """A release that cannot be used: damaged, altered, incomplete, or of a newer format."""


class ProtectedError(ReleaseError, AttributeError):
    """What a release does not tell; for Python, an attribute that it does not have."""


@dataclass(frozen=True, eq=False)
class Slices:
    """Fixed slices of a release: consecutive groups of its columns.

    Attributes
    ----------
    frame : array, shape (m, d, k), float64
        Directions of each slice: ``frame[s] = U[:, columns[s]]``.
    columns : array, shape (m, k), int64
        Columns of the release that make up each slice.
    """

    frame: Array  # [m, d, k]
    columns: NDArray[np.int64]  # [m, k]

    @property
    def n_slices(self) -> int:
        """Number of slices m."""
        return int(self.columns.shape[0])

    @property
    def slice_dim(self) -> int:
        """Dimension k of a slice."""
        return int(self.columns.shape[1])


class Release(ABC):
    """A published release, of rows (`RowRelease`) or of sums (`SumRelease`).

    This is what both have: the noise, the guarantee, public metadata, and files.
    """

    def _hold(self, sigma: object, guarantee: object, metadata: Mapping[str, Any] | None) -> None:
        """Check and keep what both kinds have."""
        self._sigma = _arrays.positive_real("sigma", sigma)
        if not isinstance(guarantee, Guarantee):
            raise TypeError(f"guarantee must be a Guarantee; got {_arrays.describe(guarantee)}")
        self._guarantee = guarantee
        self._metadata = plain_metadata(metadata)
        self._stored_digests: dict[str, str] | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what was pickled or deeply copied; NumPy makes such arrays writable."""
        self.__dict__.update(state)
        for array in self._files().values():
            array.flags.writeable = False

    # --------------------------------------------------------------------------- what it holds

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, in the unit of the rows, or of the features."""
        return self._sigma

    @property
    def guarantee(self) -> Guarantee:
        """What the release promises; ``str()`` of it is a certificate in words."""
        return self._guarantee

    @property
    @abstractmethod
    def kind(self) -> str:
        """Kind of release: ``rows``, one noisy row per private row, or ``sums`` over them."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Public facts kept with the release; a copy."""
        return copy.deepcopy(self._metadata)

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of records, where it is public."""

    @property
    def estimated_n(self) -> int:
        """Number of records where it is public, else an estimate from what was released."""
        return self.n

    @property
    @abstractmethod
    def d(self) -> int:
        """Number of features of a row, or of columns of a record."""

    @property
    @abstractmethod
    def p(self) -> int:
        """Number of released columns, or sums."""

    # ----------------------------------------------------------------------------------- files

    @property
    def fingerprint(self) -> str:
        """Hex digest that identifies the release: of its certificate, checksums included.

        It is the same before and after saving, and differs between any two releases.
        """
        return str(self._certificate["certificate_sha256"])

    def verify(self) -> None:
        """Check the arrays against the checksums of the certificate, and that they are finite.

        Raises
        ------
        ReleaseError
            If an array is not what the certificate says, or holds NaN or infinity.
        """
        stored = self._certificate["files"]
        for name, array in self._files().items():
            _refuse_infinite(name, array)
            if _storage.array_digest(array) != stored[name]:
                raise ReleaseError(
                    f"{name} has been altered or damaged: its checksum is not the certificate's"
                )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Save the release as a directory, whole or not at all.

        Parameters
        ----------
        path : path
            Directory to create.
        overwrite : bool
            Whether to replace an existing release; it is in place until the new one is complete.

        Raises
        ------
        TypeError
            If `path` is no path, or `overwrite` no bool.
        FileExistsError
            If `path` exists and is not to be (or cannot be) overwritten.
        FileNotFoundError
            If the parent directory does not exist.
        OSError
            If the disk is full or cannot be written; nothing is left behind.
        ReleaseError
            If `path` is a directory that holds something else than a release.
        """
        target = _arrays.path("path", path)
        refuse_foreign(target)
        with _storage.publishing(target, overwrite=overwrite) as directory:
            self.write_files(directory)

    def write_files(self, directory: Path) -> None:
        """Write the files of the release into an empty directory.

        Parameters
        ----------
        directory : Path
            Where to. Not atomic: `save` is.
        """
        for name, array in self._files().items():
            _storage.write_npy(directory / name, array)
        write_certificate(directory, self._certificate)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = True, verify: bool = True) -> Self:
        """Load a saved release.

        Parameters
        ----------
        path : path
            Directory that `save`, or a mechanism, wrote.
        mmap : bool
            Whether to map projections, if there are any, into memory instead of reading them.
        verify : bool
            Whether to check the checksums, and that all numbers are finite, which reads each file
            in pieces.

        Returns
        -------
        RowRelease or SumRelease
            What is there. Called on one of these classes: that one.

        Raises
        ------
        TypeError
            If `path` is no path, or `mmap` or `verify` no bool.
        ReleaseError
            If there is no release at `path`, or it is incomplete, damaged, altered, inconsistent,
            of a newer format, or of another kind than the class.
        """
        mmap = _arrays.boolean("mmap", mmap)
        verify = _arrays.boolean("verify", verify)
        directory = _arrays.path("path", path)
        certificate = _read_certificate(directory)
        kind = {"rows": RowRelease, "sums": SumRelease}[certificate["kind"]]
        if not issubclass(kind, cls):
            raise ReleaseError(
                f"{directory} holds a release of {certificate['kind']}, no {cls.__name__}"
            )
        digests = certificate["files"]
        try:
            shapes = _shapes(certificate)
        except (TypeError, ValueError) as error:
            raise ReleaseError(f"{directory / CERTIFICATE} is inconsistent: {error}") from error
        arrays = {}
        for name, (shape, dtype) in shapes.items():
            arrays[name] = _open_array(directory / name, shape, dtype)
            if verify and _storage.file_digest(directory / name) != digests[name]:
                raise ReleaseError(
                    f"{directory / name} has been altered or damaged: its checksum is not the "
                    "certificate's"
                )
            if verify:
                _refuse_infinite(str(directory / name), arrays[name])
        mapped = {PROJECTIONS} if mmap else set()
        arrays = {name: a if name in mapped else np.array(a) for name, a in arrays.items()}
        try:
            release = _rebuild(certificate, arrays)
        except (TypeError, ValueError) as error:
            raise ReleaseError(f"{directory / CERTIFICATE} is inconsistent: {error}") from error
        assert isinstance(release, cls)
        release._stored_digests = dict(digests)
        return release

    # --------------------------------------------------------------------------------- helpers

    @abstractmethod
    def _files(self) -> dict[str, FloatArray]:
        """Return the arrays by the names of their files."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """Return the certificate's entries about this kind."""

    @functools.cached_property
    def _certificate(self) -> dict[str, Any]:
        digests = self._stored_digests
        if digests is None:
            digests = {name: _storage.array_digest(a) for name, a in self._files().items()}
        return make_certificate(
            self._facts(), guarantee=self._guarantee, metadata=self._metadata, digests=digests
        )

    def _check_sigma(self) -> None:
        stated_sigma = self._guarantee.sigma
        if stated_sigma is not None and not math.isclose(stated_sigma, self._sigma, rel_tol=1e-12):
            raise _about_another("sigma", stated_sigma, self._sigma)


def _about_another(name: str, stated: object, actual: object) -> ReleaseError:
    return ReleaseError(
        f"the guarantee is about another release: it says {name} = {stated}, this one has {actual}"
    )


def checked_release(release: object) -> Release:
    """Return a release, or raise unless it is one."""
    if not isinstance(release, Release):
        raise TypeError(f"release must be a dpslice.Release; got {_arrays.describe(release)}")
    return release


class RowRelease(Release):
    r"""A published release of rows: frame, noisy projections, and their guarantee.

    Made by `SlicingMechanism.release` or `Release.load`. Arrays are read-only.

    Parameters
    ----------
    frame : array, shape (d, p), float64
        Public directions U.
    projections : array, shape (n, p), float32 or float64
        Released rows O = XU + V, in random order.
    sigma : float
        Standard deviation of the noise V, in the unit of the projections. Positive.
    guarantee : Guarantee
        What the release promises.
    frame_kind : {"orthonormal", "gaussian"}
        Law of the frame.
    metadata : mapping, optional
        Public facts to keep with the release: anything that JSON can hold.

    Attributes
    ----------
    n, d, p : int
        Rows, features, released columns.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind or dtype.
    ValueError
        If shapes, kind or sigma are wrong; `ReleaseError` if the parts contradict one another.

    Examples
    --------
    >>> import numpy as np
    >>> from dpslice import Guarantee, RowRelease
    >>> promise = Guarantee(epsilon=1.0, delta=1e-6, adjacency="zero_out", mechanism="example")
    >>> release = RowRelease(np.eye(3), np.zeros((10, 3), np.float32), 5.0, promise,
    ...                      frame_kind="orthonormal")
    >>> release
    RowRelease(n=10, d=3, p=3, frame_kind='orthonormal', sigma=5, epsilon=1, delta=1e-06)
    """

    def __init__(
        self,
        frame: Array,
        projections: FloatArray,
        sigma: float,
        guarantee: Guarantee,
        *,
        frame_kind: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._hold(sigma, guarantee, metadata)
        self._frame: Array = _read_only("frame", frame, (np.float64,))
        self._projections: FloatArray = _read_only(
            "projections", projections, (np.float32, np.float64)
        )
        self._frame_kind = _arrays.choice("frame_kind", frame_kind, frames.FRAMES)
        self._check_consistency()
        for name, array in (("frame", self._frame), ("projections", self._projections)):
            # A memory map is not to be read before it is used: `verify` looks at it.
            if not isinstance(array, np.memmap):
                _refuse_infinite(name, array)

    @property
    def kind(self) -> str:
        """Kind of release: ``rows``."""
        return "rows"

    @property
    def frame(self) -> Array:
        """Public directions U, shape (d, p), float64, read-only."""
        return self._frame

    @property
    def projections(self) -> FloatArray:
        """Released rows O = XU + V, shape (n, p), read-only; memory-mapped if loaded so.

        Each release has directions of its own. Where they are all of them, orthonormal with p = d,
        ``projections @ frame.T`` are the noisy rows in the coordinates of the private ones, in
        which releases compare.
        """
        return self._projections

    @property
    def frame_kind(self) -> str:
        """Law of the frame: ``orthonormal`` or ``gaussian``."""
        return self._frame_kind

    @property
    def n(self) -> int:
        """Number of rows; public."""
        return int(self._projections.shape[0])

    @property
    def d(self) -> int:
        """Number of features of a private row."""
        return int(self._frame.shape[0])

    @property
    def p(self) -> int:
        """Number of released columns."""
        return int(self._frame.shape[1])

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return (
            f"RowRelease(n={self.n}, d={self.d}, p={self.p}, "
            f"frame_kind={self.frame_kind!r}, sigma={self.sigma:.6g}, "
            f"epsilon={rounded_up(self.guarantee.epsilon)}, "
            f"delta={rounded_up(self.guarantee.delta)})"
        )

    # ---------------------------------------------------------------------------------- slices

    def slices(self, slice_dim: int, n_slices: int | None = None) -> Slices:
        """Cut the released columns into fixed slices: consecutive groups.

        Parameters
        ----------
        slice_dim : int
            Dimension k of a slice.
        n_slices : int, optional
            Number of slices m, with m k <= p. Default: as many as fit.

        Returns
        -------
        Slices
            Columns ``s k ... (s+1) k - 1`` are slice s.

        Raises
        ------
        TypeError
            If an argument is no integer.
        ValueError
            If k or m is less than 1, or the release has fewer than m k columns.
        """
        k = _arrays.positive_integer("slice_dim", slice_dim)
        if k > self.p:
            raise ValueError(
                f"slice_dim must be at most p, the number of released columns ({self.p}); got {k}"
            )
        m = self.p // k if n_slices is None else _arrays.positive_integer("n_slices", n_slices)
        if m * k > self.p:
            raise ValueError(
                f"n_slices * slice_dim must be at most p, the number of released columns "
                f"({self.p}); got {m} * {k} = {m * k}"
            )
        columns = np.arange(m * k, dtype=np.int64).reshape(m, k)
        frame = np.ascontiguousarray(self._frame[:, columns].transpose(1, 0, 2))  # [m, d, k]
        return Slices(frame=frame, columns=columns)

    def reslice(
        self, slice_dim: int, n_slices: int, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        r"""Draw fresh slices from the released ones, free of privacy cost.

        For W with orthonormal columns :math:`OW = X(UW) + VW`, and VW is again
        :math:`N(0, \sigma^2)` noise: slice s of the private rows, at the same noise, is
        ``projections @ W[s]``, in the directions ``(U W)[s]``.

        Parameters
        ----------
        slice_dim : int
            Dimension k of a slice, at most p.
        n_slices : int
            Number of slices m.
        rng : numpy.random.Generator
            Source of the (public) randomness.

        Returns
        -------
        w : array, shape (m, p, k), float64
            Haar-random orthonormal columns, independent over slices.
        directions : array, shape (m, d, k), float64
            U W, with orthonormal columns.

        Raises
        ------
        TypeError
            If a size is no integer, or `rng` no NumPy generator.
        ValueError
            If k > p, or the frame does not have orthonormal columns (gaussian, or p > d): then
            U W would not be a slice of unit directions.
        """
        k = _arrays.positive_integer("slice_dim", slice_dim)
        m = _arrays.positive_integer("n_slices", n_slices)
        rng = _arrays.random_generator("rng", rng)
        if self._frame_kind != "orthonormal" or self.p > self.d:
            raise ValueError(
                "re-slicing needs a release with an orthonormal frame and p <= d, whose columns "
                f"are orthonormal; this one has a {self._frame_kind} frame with p = {self.p}, "
                f"d = {self.d}: use its fixed slices"
            )
        if k > self.p:
            raise ValueError(
                f"slice_dim must be at most p, the number of released columns ({self.p}); got {k}"
            )
        w = frames.haar_columns((m, self.p, k), rng)
        return w, self._frame @ w

    # --------------------------------------------------------------------------------- helpers

    def _files(self) -> dict[str, FloatArray]:
        return {FRAME: self._frame, PROJECTIONS: self._projections}

    def _facts(self) -> dict[str, Any]:
        return row_facts(
            self._frame, self._frame_kind, self.n, self._projections.dtype, self._sigma
        )

    def _check_consistency(self) -> None:
        n, d, p = self.n, self.d, self.p
        if self._projections.shape[1] != p:
            raise ReleaseError(
                f"projections must have as many columns as the frame ({p}); "
                f"got shape {self._projections.shape}"
            )
        if min(n, d, p) < 1:
            raise ReleaseError(
                f"a release must have at least one row, feature and column; "
                f"got n = {n}, d = {d}, p = {p}"
            )
        promised = self._guarantee
        for name, actual in (("n", n), ("d", d), ("p", p), ("frame", self._frame_kind)):
            stated = getattr(promised, name)
            if stated is not None and stated != actual:
                raise _about_another(name, stated, actual)
        self._check_sigma()
        if self._frame_kind == "orthonormal" and not _looks_orthonormal(self._frame):
            raise ReleaseError("the frame is said to be orthonormal, but its columns are not")
        reach = promised.frame_norm
        if reach is not None and self._frame_kind == "orthonormal" and reach**2 >= -(-p // d):
            reach = None  # no frame of that kind is longer
        if reach is not None and _least_norm(self._frame) > reach * (1.0 + 1e-9):
            raise ReleaseError(
                f"the guarantee is about another frame: it says that its spectral norm is at most "
                f"{reach:.9g}, and this one's is more"
            )


class SumRelease(Release):
    r"""A published release of sums: feature map, noisy sums, and their guarantee.

    Made by `SumMechanism.release` or `Release.load`. Arrays are read-only.

    Parameters
    ----------
    features : FeatureMap
        Public feature map.
    sums : array, shape (n_cells,), float64
        Noisy sums of its features.
    sigma : float
        Standard deviation of the noise, in the unit of the features. Positive.
    guarantee : Guarantee
        What the release promises.
    n : int, optional
        Number of records, where it is public.
    metadata : mapping, optional
        Public facts to keep with the release: anything that JSON can hold.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind or dtype.
    ValueError
        If a shape or sigma is wrong; `ReleaseError` if the parts contradict one another.
    """

    def __init__(
        self,
        features: FeatureMap,
        sums: Array,
        sigma: float,
        guarantee: Guarantee,
        *,
        n: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._hold(sigma, guarantee, metadata)
        if not isinstance(features, FeatureMap):
            raise TypeError(f"features must be a feature map; got {_arrays.describe(features)}")
        self._features = features
        if not isinstance(sums, np.ndarray):
            raise TypeError(f"sums must be a NumPy array; got {_arrays.describe(sums)}")
        if sums.shape not in ((features.n_cells,), (features.n_cells, 1)):
            raise ReleaseError(
                f"sums must have shape ({features.n_cells},), a number for each of the features; "
                f"got {sums.shape}"
            )
        # A column, as every array file of a release has two axes.
        self._sums: Array = _read_only("sums", sums.reshape(-1, 1), (np.float64,))
        _refuse_infinite("sums", self._sums)
        if self._sums.size and (largest := float(np.abs(self._sums).max())) > _LARGEST_SUM:
            raise ReleaseError(f"sums must lie within ±{_LARGEST_SUM:g}; got one of {largest:g}")
        self._n = None if n is None else _arrays.positive_integer("n", n)
        for name, stated, actual in (
            ("p", guarantee.p, features.n_cells),
            ("n", guarantee.n, self._n),
        ):
            if (stated is not None or name == "n") and stated != actual:
                raise _about_another(name, stated, actual)
        for name, bound, reach in (
            ("norm", guarantee.max_norm, features.norm),
            ("distance", guarantee.diameter, features.diameter),
        ):
            # More is stated where something else was paid for: choices, in rounds.
            if bound is not None and bound < reach * (1.0 - 1e-9):
                raise ReleaseError(
                    f"the guarantee is about other features: it says that the {name} of records' "
                    f"is at most {bound:.9g}, of these it is up to {reach:.9g}"
                )
        self._check_sigma()

    @property
    def kind(self) -> str:
        """Kind of release: ``sums``."""
        return "sums"

    @property
    def features(self) -> FeatureMap:
        """Public feature map."""
        return self._features

    @property
    def sums(self) -> Array:
        """Noisy sums of the map's natural features, shape (n_cells,), float64, read-only."""
        return self._sums[:, 0]

    @property
    def noise(self) -> Array:
        """Standard deviation of the noise on each of `sums`, shape (n_cells,), float64."""
        return self._sigma / self._features.cell_weights()

    @property
    def n(self) -> int:
        """Number of records, where it is public; `estimated_n` serves elsewhere.

        Where it is protected, asking raises `dpslice.ProtectedError`.
        """
        if self._n is None:
            raise ProtectedError(
                "the number of records is protected by this release; estimated_n is an estimate "
                "from what was released"
            )
        return self._n

    @property
    def estimated_n(self) -> int:
        """Number of records where it is public, else an estimate from what was released.

        Of a release with sampling it is the number of records in the table too, not in the sample.
        A feature map that does not count records raises a ValueError where it is protected, and so
        do sums that no table has.
        """
        if self._n is not None:
            return self._n
        taking_part = self._features.estimate_n(self.sums, self.noise)
        estimate = taking_part / (self.guarantee.sampling_rate or 1.0)
        if not estimate <= _MOST_RECORDS:
            raise ReleaseError(
                f"sums must be such as a table can have; these lead to {estimate:.6g} records"
            )
        return max(1, round(estimate))

    @property
    def d(self) -> int:
        """Number of columns of a record."""
        return self._features.n_columns

    @property
    def p(self) -> int:
        """Number of released sums."""
        return self._features.n_cells

    def __repr__(self) -> str:
        return (
            f"SumRelease({type(self._features).__name__}, columns={self.d}, sums={self.p}, "
            f"sigma={self.sigma:.6g}, adjacency={self.guarantee.adjacency!r}, "
            f"epsilon={rounded_up(self.guarantee.epsilon)}, "
            f"delta={rounded_up(self.guarantee.delta)})"
        )

    def _files(self) -> dict[str, FloatArray]:
        return {SUMS: self._sums}

    def _facts(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "n": self._n,
            "sigma": self._sigma,
            "features": self._features.to_dict(),
        }


def total_guarantee(release: Release, *others: Guarantee) -> Guarantee:
    """Compose a release's guarantee with what finding its schema has cost.

    Parameters
    ----------
    release : Release
        The cost of its schema, if that was inferred from private rows, is in its metadata.
    *others : Guarantee
        Costs of schemas that may or may not be the release's own; counted if they are not.

    Returns
    -------
    Guarantee
        The release's own, if nothing else was spent.

    Raises
    ------
    ValueError
        If the adjacencies or the rows per person differ.
    """
    recorded = release.metadata.get("schema_guarantee")
    spent = [] if recorded is None else [Guarantee.from_dict(recorded)]
    # Two inferences never have equal guarantees: each has a number of its own among its notes.
    spent += [other for other in others if other not in spent]
    return with_earlier_costs(release.guarantee, spent)


def with_earlier_costs(own: Guarantee, spent: Sequence[Guarantee]) -> Guarantee:
    """Compose a guarantee with what was spent before, perhaps on another version of the table."""
    adapted = [
        cost
        if cost.n is None or own.n is None or cost.n == own.n
        # The sum bounds what either tells of a record that is in both.
        else dataclasses.replace(
            cost, n=None, notes=(*cost.notes, f"estimated from a table of {cost.n} rows.")
        )
        for cost in spent
    ]
    return Guarantee.compose(*adapted, own)


# ------------------------------------------------------------------------ files of a release


def row_facts(
    frame: Array, frame_kind: str, n: int, dtype: np.dtype[Any], sigma: float
) -> dict[str, Any]:
    """Put together the certificate's entries about a release of rows."""
    d, p = frame.shape
    return {
        "kind": "rows",
        "frame_kind": frame_kind,
        "n": n,
        "d": d,
        "p": p,
        "dtype": dtype.name,
        "sigma": sigma,
    }


def make_certificate(
    facts: Mapping[str, Any],
    *,
    guarantee: Guarantee,
    metadata: Mapping[str, Any],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """Put together the content of ``certificate.json``, its own checksum included."""
    certificate: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **facts,
        "guarantee": guarantee.to_dict(),
        "metadata": dict(metadata),
        "files": dict(digests),
    }
    certificate["certificate_sha256"] = _certificate_digest(certificate)
    return certificate


def write_certificate(directory: Path, certificate: Mapping[str, Any]) -> None:
    """Write ``certificate.json``."""
    text = json.dumps(certificate, indent=2, sort_keys=True, allow_nan=False)
    with open(directory / CERTIFICATE, "x", encoding="utf-8") as file:
        file.write(text + "\n")


def refuse_foreign(target: Path) -> None:
    """Raise unless `target` is free, or a release alone: nothing else is ever overwritten."""
    if not target.is_dir():
        return
    if not (target / CERTIFICATE).is_file():
        raise ReleaseError(
            f"{target} exists and is no release (it has no {CERTIFICATE}); it is not overwritten"
        )
    foreign = foreign_entries(target)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ReleaseError(
            f"{target} holds {foreign[0]!r}{more} besides a release; it is not overwritten: move "
            "what is no part of the release away, or name another directory"
        )


def holds_release(directory: Path) -> bool:
    """Tell whether a directory is that of a release, be it damaged: nothing else belongs there."""
    arrays = set[str]().union(*_FILES.values())
    return (directory / CERTIFICATE).is_file() and any((directory / f).is_file() for f in arrays)


def foreign_entries(directory: Path, kind: str | None = None) -> list[str]:
    """Name what lies in the directory of a release and is no file of one, in order.

    Parameters
    ----------
    directory : Path
        The directory.
    kind : {"rows", "sums"}, optional
        Kind of the release. Default: files of either kind are a release's.
    """
    kinds = _FILES if kind is None else (kind,)
    own = {CERTIFICATE}.union(*(_FILES[known] for known in kinds))
    return sorted(
        entry.name for entry in directory.iterdir() if entry.name not in own or not entry.is_file()
    )


def _certificate_digest(certificate: Mapping[str, Any]) -> str:
    content = {key: value for key, value in certificate.items() if key != "certificate_sha256"}
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_certificate(directory: Path) -> dict[str, Any]:
    path = directory / CERTIFICATE
    if not directory.is_dir():
        why = "it is a file" if directory.exists() else "no such directory"
        raise ReleaseError(f"there is no release at {directory}: {why}")
    if not path.is_file():
        raise ReleaseError(f"{directory} is no release, or an incomplete one: no {CERTIFICATE}")
    try:
        text = path.read_text(encoding="utf-8")
        certificate = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except ValueError as error:
        raise ReleaseError(f"{path} is damaged or truncated: it is not JSON ({error})") from error
    except RecursionError:
        raise ReleaseError(f"{path} is no certificate: it is nested too deeply") from None
    if not isinstance(certificate, dict) or certificate.get("format") != FORMAT:
        raise ReleaseError(f"{path} is not the certificate of a dpslice release")
    version = certificate.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ReleaseError(f"{path} has no valid format_version; got {version!r}")
    if version > FORMAT_VERSION:
        raise ReleaseError(
            f"{path} was written by a newer dpslice (format version {version}; this one reads "
            f"up to {FORMAT_VERSION}): update dpslice"
        )
    kind = certificate.get("kind")
    if not isinstance(kind, str) or kind not in _ENTRIES:
        raise ReleaseError(f"{path} is of an unknown kind of release: {kind!r}")
    if set(certificate) != _ENTRIES[kind]:
        missing = sorted(_ENTRIES[kind] - set(certificate))
        unknown = sorted(set(certificate) - _ENTRIES[kind])
        raise ReleaseError(f"{path} lacks the entries {missing} or has unknown ones {unknown}")
    if certificate["certificate_sha256"] != _certificate_digest(certificate):
        raise ReleaseError(f"{path} has been altered: its checksum does not match its content")
    files = certificate["files"]
    if not isinstance(files, dict) or set(files) != _FILES[kind]:
        raise ReleaseError(f"{path} is inconsistent: the list of files is not valid")
    return certificate


def _shapes(certificate: Mapping[str, Any]) -> dict[str, tuple[tuple[int, int], str]]:
    """Shape and dtype of each array file, as the certificate has them."""
    if certificate["kind"] == "sums":
        features = FeatureMap.from_dict(certificate["features"])
        return {SUMS: ((features.n_cells, 1), "float64")}
    n, d, p = (_arrays.integer(name, certificate[name], minimum=1) for name in ("n", "d", "p"))
    dtype = _arrays.choice("dtype", certificate["dtype"], ("float32", "float64"))
    return {FRAME: ((d, p), "float64"), PROJECTIONS: ((n, p), dtype)}


def _rebuild(certificate: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Release:
    """Make the release of a certificate and its arrays."""
    guarantee = Guarantee.from_dict(certificate["guarantee"])
    if certificate["kind"] == "sums":
        return SumRelease(
            FeatureMap.from_dict(certificate["features"]),
            arrays[SUMS],
            certificate["sigma"],
            guarantee,
            n=certificate["n"],
            metadata=certificate["metadata"],
        )
    return RowRelease(
        arrays[FRAME],
        arrays[PROJECTIONS],
        certificate["sigma"],
        guarantee,
        frame_kind=certificate["frame_kind"],
        metadata=certificate["metadata"],
    )


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is beyond the numbers of float64")
    return number


# What NumPy's reader of headers lets through from Python's own.
_DAMAGE: Final = (
    ValueError,
    OSError,
    EOFError,
    OverflowError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
)


def _open_array(path: Path, shape: tuple[int, int], dtype: str) -> FloatArray:
    if not path.is_file():
        raise ReleaseError(f"the release is incomplete: {path} is missing")
    try:
        array: FloatArray = np.lib.format.open_memmap(path, mode="r")
    except _DAMAGE as error:
        raise ReleaseError(f"{path} is damaged or truncated: {error}") from error
    if array.shape != shape or array.dtype.name != dtype or not array.flags.c_contiguous:
        raise ReleaseError(
            f"{path} holds a {array.dtype.name} array of shape {array.shape}, where the "
            f"certificate says {dtype} of shape {shape}"
        )
    return array


def _read_only(name: str, value: object, dtypes: tuple[type, ...]) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array; got {_arrays.describe(value)}")
    if value.ndim != 2:
        raise ValueError(f"{name} must have two axes; got shape {value.shape}")
    if value.dtype not in dtypes:
        known = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"{name} must have dtype {known}; got {value.dtype}")
    view: NDArray[Any] = np.require(value, requirements=["C", "A"]).view()
    view.flags.writeable = False
    return view


def _refuse_infinite(name: str, array: FloatArray) -> None:
    """Raise if an array holds NaN or infinity; block by block, as it may be larger than memory."""
    rows = max(1, _BLOCK_BYTES // max(1, array.shape[1] * array.itemsize))
    for start in range(0, array.shape[0], rows):
        if not _arrays.all_finite(array[start : start + rows]):
            raise ReleaseError(f"{name} must be finite; some are NaN or infinity")


def plain_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of metadata as JSON holds them, or raise if it cannot."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping; got {_arrays.describe(metadata)}")
    try:
        # Through JSON and back, so that a release holds the same before and after saving.
        plain: dict[str, Any] = json.loads(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must hold only what JSON can hold: {error}") from error
    return plain


def _least_norm(frame: Array) -> float:
    """Bound the spectral norm from below, by power iteration: O(d p) where the norm costs O(d^2 p).

    From a generic start a few rounds come near it; a frame that is another one is found out.
    """
    generator = np.random.Generator(np.random.PCG64(21))
    v: Array = generator.standard_normal((frame.shape[1],))
    length = 0.0
    for _ in range(16):
        v = frame.T @ (frame @ (v / np.linalg.norm(v)))
        length = float(np.linalg.norm(v))
        if length == 0.0:
            break
    return math.sqrt(length)


def _looks_orthonormal(frame: Array) -> bool:
    """Check B^T B v = v for each block B at one generic v: O(d p), where B^T B costs O(d^2 p)."""
    d, p = frame.shape
    v = np.random.Generator(np.random.PCG64(20)).standard_normal(min(d, p))
    for start in range(0, p, d):
        block = frame[:, start : start + d]
        part = v[: block.shape[1]]
        error = np.linalg.norm(block.T @ (block @ part) - part)
        if not error <= 10.0 * frames.ORTHONORMAL_TOLERANCE * np.linalg.norm(part):
            return False
    return True
