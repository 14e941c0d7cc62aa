r"""Release: the published artefact, and everything one may do with it for ever.

A release is (U, O = XU + V, sigma, guarantee): the public frame, the noisy projections of the
private rows in random order, the standard deviation of the noise, and what it all guarantees.
Whatever is computed from it is post-processing and costs nothing. Nothing here reads private data.

On disk it is a directory:

``certificate.json``
    Format version, kind, sizes, sigma, the guarantee, metadata, the SHA-256 of each array file,
    and one of the certificate itself. Checksums find damage, not forgery: they are no signature.
``frame.npy``, ``projections.npy``
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays, _storage, frames
from dpslice.accounting import Guarantee

__all__ = ["Release", "ReleaseError", "Slices"]

FORMAT: Final = "dpslice release"
FORMAT_VERSION: Final = 1
CERTIFICATE: Final = "certificate.json"
FRAME: Final = "frame.npy"
PROJECTIONS: Final = "projections.npy"

_KINDS: Final = ("rows",)
_ENTRIES: Final = {
    "format",
    "format_version",
    "kind",
    "frame_kind",
    "n",
    "d",
    "p",
    "dtype",
    "sigma",
    "guarantee",
    "metadata",
    "files",
    "certificate_sha256",
}

Array = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]


class ReleaseError(ValueError):
    """A release that cannot be used: damaged, altered, incomplete, or of a newer format."""


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


class Release:
    r"""A published release: frame, noisy projections, and their guarantee.

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
    kind : {"rows"}
        One noisy row per private row.
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
    >>> from dpslice import Guarantee, Release
    >>> promise = Guarantee(epsilon=1.0, delta=1e-6, adjacency="zero_out", mechanism="example")
    >>> release = Release(np.eye(3), np.zeros((10, 3), np.float32), 5.0, promise,
    ...                   frame_kind="orthonormal")
    >>> release
    Release(n=10, d=3, p=3, kind='rows', frame_kind='orthonormal', sigma=5, epsilon=1, delta=1e-06)
    """

    def __init__(
        self,
        frame: Array,
        projections: FloatArray,
        sigma: float,
        guarantee: Guarantee,
        *,
        frame_kind: str,
        kind: str = "rows",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._frame: Array = _read_only("frame", frame, (np.float64,))
        self._projections: FloatArray = _read_only(
            "projections", projections, (np.float32, np.float64)
        )
        self._sigma = _arrays.positive_real("sigma", sigma)
        if not isinstance(guarantee, Guarantee):
            raise TypeError(f"guarantee must be a Guarantee; got {_arrays.describe(guarantee)}")
        self._guarantee = guarantee
        self._frame_kind = _arrays.choice("frame_kind", frame_kind, frames.FRAMES)
        self._kind = _arrays.choice("kind", kind, _KINDS)
        self._metadata = plain_metadata(metadata)
        self._stored_digests: dict[str, str] | None = None
        self._check_consistency()

    # --------------------------------------------------------------------------- what it holds

    @property
    def frame(self) -> Array:
        """Public directions U, shape (d, p), float64, read-only."""
        return self._frame

    @property
    def projections(self) -> FloatArray:
        """Released rows O = XU + V, shape (n, p), read-only; memory-mapped if loaded so."""
        return self._projections

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, in the unit of the projections."""
        return self._sigma

    @property
    def guarantee(self) -> Guarantee:
        """What the release promises; ``str()`` of it is a certificate in words."""
        return self._guarantee

    @property
    def frame_kind(self) -> str:
        """Law of the frame: ``orthonormal`` or ``gaussian``."""
        return self._frame_kind

    @property
    def kind(self) -> str:
        """Kind of release: ``rows``, one noisy row per private row."""
        return self._kind

    @property
    def metadata(self) -> dict[str, Any]:
        """Public facts kept with the release; a copy."""
        return copy.deepcopy(self._metadata)

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
            f"Release(n={self.n}, d={self.d}, p={self.p}, kind={self.kind!r}, "
            f"frame_kind={self.frame_kind!r}, sigma={self.sigma:.6g}, "
            f"epsilon={self.guarantee.epsilon:.6g}, delta={self.guarantee.delta:.6g})"
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

    # ----------------------------------------------------------------------------------- files

    @property
    def fingerprint(self) -> str:
        """Hex digest that identifies the release: of its certificate, checksums included.

        It is the same before and after saving, and differs between any two releases.
        """
        return str(self._certificate["certificate_sha256"])

    def verify(self) -> None:
        """Check the arrays against the checksums of the certificate, reading all of them once.

        Raises
        ------
        ReleaseError
            If an array is not what the certificate says.
        """
        stored = self._certificate["files"]
        for name, array in ((FRAME, self._frame), (PROJECTIONS, self._projections)):
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
        FileExistsError
            If `path` exists and is not to be (or cannot be) overwritten.
        FileNotFoundError
            If the parent directory does not exist.
        OSError
            If the disk is full or cannot be written; nothing is left behind.
        ReleaseError
            If `path` is a directory that holds something else than a release.
        """
        target = Path(path)
        refuse_foreign(target)
        with _storage.publishing(target, overwrite=overwrite) as directory:
            _storage.write_npy(directory / FRAME, self._frame)
            _storage.write_npy(directory / PROJECTIONS, self._projections)
            write_certificate(directory, self._certificate)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, mmap: bool = True, verify: bool = True
    ) -> Release:
        """Load a saved release.

        Parameters
        ----------
        path : path
            Directory that `save` or `SlicingMechanism.release` wrote.
        mmap : bool
            Whether to map the projections into memory instead of reading them.
        verify : bool
            Whether to check the checksums, which reads each file once, in pieces.

        Returns
        -------
        Release

        Raises
        ------
        ReleaseError
            If there is no release at `path`, or it is incomplete, damaged, altered, inconsistent,
            or of a newer format.
        """
        directory = Path(path)
        certificate = _read_certificate(directory)
        digests = certificate["files"]
        shapes = {
            FRAME: ((certificate["d"], certificate["p"]), "float64"),
            PROJECTIONS: ((certificate["n"], certificate["p"]), certificate["dtype"]),
        }
        arrays = {}
        for name, (shape, dtype) in shapes.items():
            arrays[name] = _open_array(directory / name, shape, dtype)
            if verify and _storage.file_digest(directory / name) != digests[name]:
                raise ReleaseError(
                    f"{directory / name} has been altered or damaged: its checksum is not the "
                    "certificate's"
                )
        try:
            release = cls(
                np.array(arrays[FRAME]),
                arrays[PROJECTIONS] if mmap else np.array(arrays[PROJECTIONS]),
                certificate["sigma"],
                Guarantee.from_dict(certificate["guarantee"]),
                frame_kind=certificate["frame_kind"],
                kind=certificate["kind"],
                metadata=certificate["metadata"],
            )
        except (TypeError, ValueError) as error:
            raise ReleaseError(f"{directory / CERTIFICATE} is inconsistent: {error}") from error
        release._stored_digests = dict(digests)
        return release

    # --------------------------------------------------------------------------------- helpers

    @functools.cached_property
    def _certificate(self) -> dict[str, Any]:
        digests = self._stored_digests
        if digests is None:
            digests = {
                FRAME: _storage.array_digest(self._frame),
                PROJECTIONS: _storage.array_digest(self._projections),
            }
        return make_certificate(
            kind=self._kind,
            frame_kind=self._frame_kind,
            n=self.n,
            d=self.d,
            p=self.p,
            dtype=self._projections.dtype.name,
            sigma=self._sigma,
            guarantee=self._guarantee,
            metadata=self._metadata,
            digests=digests,
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
        facts: tuple[tuple[str, object, object], ...] = (
            ("n", promised.n, n),
            ("d", promised.d, d),
            ("p", promised.p, p),
            ("frame", promised.frame, self._frame_kind),
        )
        for name, stated, actual in facts:
            if stated is not None and stated != actual:
                raise ReleaseError(
                    f"the guarantee is about another release: it says {name} = {stated}, "
                    f"this one has {actual}"
                )
        stated_sigma = promised.sigma
        if stated_sigma is not None and not math.isclose(stated_sigma, self._sigma, rel_tol=1e-12):
            raise ReleaseError(
                f"the guarantee is about another release: it says sigma = {stated_sigma}, "
                f"this one has {self._sigma}"
            )
        if self._frame_kind == "orthonormal" and not _looks_orthonormal(self._frame):
            raise ReleaseError("the frame is said to be orthonormal, but its columns are not")


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
        If the adjacencies differ.
    """
    recorded = release.metadata.get("schema_guarantee")
    spent = [] if recorded is None else [Guarantee.from_dict(recorded)]
    spent += [other for other in others if other not in spent]
    n = release.guarantee.n
    for i, cost in enumerate(spent):
        if cost.n is not None and n is not None and cost.n != n:
            # Of another version or a part of the table: the sum bounds what either tells of a
            # record that is in both.
            spent[i] = dataclasses.replace(
                cost, n=None, notes=(*cost.notes, f"estimated from a table of {cost.n} rows.")
            )
    return Guarantee.compose(*spent, release.guarantee)


# ------------------------------------------------------------------------ files of a release


def make_certificate(
    *,
    kind: str,
    frame_kind: str,
    n: int,
    d: int,
    p: int,
    dtype: str,
    sigma: float,
    guarantee: Guarantee,
    metadata: Mapping[str, Any],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """Put together the content of ``certificate.json``, its own checksum included."""
    certificate: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "frame_kind": frame_kind,
        "n": n,
        "d": d,
        "p": p,
        "dtype": dtype,
        "sigma": sigma,
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
    """Raise unless `target` is free, or a release: nothing else is ever overwritten."""
    if target.is_dir() and not (target / CERTIFICATE).is_file():
        raise ReleaseError(
            f"{target} exists and is no release (it has no {CERTIFICATE}); it is not overwritten"
        )


def _certificate_digest(certificate: Mapping[str, Any]) -> str:
    content = {key: value for key, value in certificate.items() if key != "certificate_sha256"}
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_certificate(directory: Path) -> dict[str, Any]:
    path = directory / CERTIFICATE
    if not directory.is_dir():
        raise ReleaseError(f"there is no release at {directory}: no such directory")
    if not path.is_file():
        raise ReleaseError(f"{directory} is no release, or an incomplete one: no {CERTIFICATE}")
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except ValueError as error:
        raise ReleaseError(f"{path} is damaged or truncated: it is not JSON ({error})") from error
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
    if set(certificate) != _ENTRIES:
        missing = sorted(_ENTRIES - set(certificate))
        unknown = sorted(set(certificate) - _ENTRIES)
        raise ReleaseError(f"{path} lacks the entries {missing} or has unknown ones {unknown}")
    if certificate["certificate_sha256"] != _certificate_digest(certificate):
        raise ReleaseError(f"{path} has been altered: its checksum does not match its content")
    sizes = [certificate[name] for name in ("n", "d", "p")]
    files = certificate["files"]
    if (
        not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
        or certificate["dtype"] not in ("float32", "float64")
        or not isinstance(files, dict)
        or set(files) != {FRAME, PROJECTIONS}
    ):
        raise ReleaseError(f"{path} is inconsistent: sizes, dtype or list of files are not valid")
    return certificate


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _open_array(path: Path, shape: tuple[int, int], dtype: str) -> FloatArray:
    if not path.is_file():
        raise ReleaseError(f"the release is incomplete: {path} is missing")
    try:
        array: FloatArray = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, OverflowError) as error:
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


def plain_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
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
