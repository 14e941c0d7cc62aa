"""Files and directories that appear whole or not at all, and .npy files written row by row.

Everything is written under a hidden name beside the target, flushed to disk and renamed. An error,
a full disk or Ctrl-C removes what is there; a killed process leaves at most that (its name ends in
``.partial`` or ``.tmp``), never a half-written target.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import itertools
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays

FloatArray = NDArray[np.floating[Any]]

_CHUNK_BYTES: Final = 1 << 24  # read, hashed and written at a time


# ----------------------------------------------------------------------- directories and files


@contextmanager
def publishing(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a directory to write into, and publish it under `target` if the block succeeds.

    Parameters
    ----------
    target : Path
        The directory to create. Its parent must exist.
    overwrite : bool
        Whether an existing directory is replaced. The two change places, in one step where the
        system can do that; then the old one is removed, with what it held when the block began.

    Yields
    ------
    Path
        An empty directory beside the target, for its owner's eyes only until it is published.

    Raises
    ------
    FileExistsError
        If the target exists and is not to be overwritten.
    FileNotFoundError, NotADirectoryError
        If there is no directory to put it into.
    OSError
        If the disk is full or cannot be written: nothing is published, and an existing target is
        as it was.
    """
    target = Path(os.path.abspath(target))
    refuse_existing(target, overwrite=overwrite)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {target.parent} to save {target.name} in")
    replaced = set(os.listdir(target)) if target.is_dir() else set()
    with telling_of_full_disk(target):
        partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
        try:
            # What is not complete may tell more than the whole: rows in the order of the table.
            partial.mkdir(mode=0o700)
            mode = _usual_mode(partial)
            yield partial
            for file in partial.iterdir():
                flush_to_disk(file)
            with suppress(PermissionError):  # of a file system that keeps no modes
                partial.chmod(mode)
            flush_to_disk(partial)
            refuse_existing(target, overwrite=overwrite)
            if overwrite and target.exists():
                _exchange(partial, target)  # the old one is now called `partial`
                # What someone else has put there in the meantime is kept.
                for name in set(os.listdir(partial)) - replaced - set(os.listdir(target)):
                    os.rename(partial / name, target / name)
            else:
                try:
                    os.rename(partial, target)
                except OSError:  # perhaps as something has appeared there just now
                    refuse_existing(target, overwrite=overwrite)
                    raise
            flush_to_disk(target.parent)
        finally:
            # After success only an overwritten directory is left under this name, if any.
            shutil.rmtree(partial, ignore_errors=True)


def _usual_mode(directory: Path) -> int:
    """Return the mode of directories that are made in this one: the umask cannot just be read."""
    probe = directory / "probe"
    probe.mkdir()
    mode = probe.stat().st_mode
    probe.rmdir()
    return mode


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError if something is there that must not be replaced."""
    overwrite = _arrays.boolean("overwrite", overwrite)  # "no" is no False
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise FileExistsError(f"{target} exists already; pass overwrite=True to replace it")
    if not target.is_dir() or target.is_symlink():
        raise FileExistsError(f"{target} exists and is no directory; it is not overwritten")


@contextmanager
def telling_of_full_disk(target: Path) -> Iterator[None]:
    """Turn "disk full" from anywhere in the block into an error that says what it means here."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"no space left on the device to write {target} ({os.strerror(error.errno)}); "
            "it was not published, and no existing file was changed",
        ) from error


class FileKeptError(FileExistsError):
    """Something was in the place of a file, and is kept: the file was written beside it.

    Attributes
    ----------
    beside : Path
        Where it was written.
    """

    def __init__(self, target: Path, beside: Path) -> None:
        super().__init__(
            f"{target} exists already and is kept; what was to be written there is in {beside}"
        )
        self.beside = beside


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears at `path` only once it is complete.

    The bytes go to a temporary name in the same directory, are flushed to disk, and are renamed;
    then the directory is flushed. The permissions of an old file are kept. After an error or an
    interrupt the old file, if any, is still there and nothing else is.

    Parameters
    ----------
    path : str or path-like
        The file to replace or create.
    overwrite : bool
        Whether an existing file is replaced, also one that appears while the new one is written.
        If not, the new one goes to the first free name beside it: what was long in the making is
        not lost.

    Yields
    ------
    file
        Binary file open for writing.

    Raises
    ------
    FileKeptError
        If the file was written beside an existing one.
    IsADirectoryError
        If `path` is a directory.
    FileNotFoundError
        If there is no directory to put the file into.
    OSError
        If the disk is full or cannot be written.
    """
    target, overwrite = _arrays.path("path", path), _arrays.boolean("overwrite", overwrite)
    # Said here, for the system's own words would be about the temporary name.
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a directory; a file cannot take its place")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"there is no directory {target.absolute().parent} to save {target.name} in"
        )
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with telling_of_full_disk(target), open(temporary, "xb") as handle:
            # Who may not read the old file, such as a report, may not read the new one either.
            with suppress(OSError):
                os.chmod(temporary, target.stat().st_mode & 0o777)
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        place = target
        if overwrite:
            os.replace(temporary, target)
        else:
            place = _put_aside(temporary, target)
    except BaseException:  # Ctrl-C too must leave no half-written file behind
        temporary.unlink(missing_ok=True)
        raise
    # The new name, too, is to outlast a loss of power. Where a directory cannot be opened or
    # flushed, the file is in its place all the same: that is no error.
    with suppress(OSError):
        flush_to_disk(target.absolute().parent)
    if place != target:
        raise FileKeptError(target, place)


def _put_aside(file: Path, target: Path) -> Path:
    """Give a file the name of its target, or the first one like it that is free: x-1.csv."""
    ending = "".join(target.suffixes)
    stem = target.name.removesuffix(ending)
    place = target
    for i in itertools.count(1):
        try:
            os.link(file, place)  # which, unlike a renaming, replaces nothing
            file.unlink()
            break
        except FileExistsError:
            pass
        except OSError:  # a file system that has no links
            if not os.path.lexists(place):
                os.rename(file, place)
                break
        place = target.with_name(f"{stem}-{i}{ending}")
    return place


def flush_to_disk(path: Path) -> None:
    """Have the system write a file or directory out before anything that follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def _exchange(new: Path, old: Path) -> None:
    """Make two directories change names."""
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 is not None:
            names = (os.fsencode(new), os.fsencode(old))
            if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
                return
            # Not every file system can: go on by hand.
    aside = new.with_name(new.name + ".old")
    try:
        os.rename(old, aside)
        os.rename(new, old)
    except BaseException:
        if aside.exists() and not old.exists():
            os.rename(aside, old)
        raise
    os.rename(aside, new)


# -------------------------------------------------------------------------------------- arrays


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    buffer = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


class NpyWriter:
    """A .npy file of rows whose number is not known beforehand.

    Rows are written with ordinary file calls, not through a memory map: on a full disk those give
    an error, where storing into a map would kill the process.

    Parameters
    ----------
    path : Path
        The file to create.
    columns : int
        Length of a row.
    dtype : dtype
        Type of the entries.
    """

    def __init__(self, path: Path, columns: int, dtype: np.dtype[Any]) -> None:
        self._columns = columns
        self._dtype = dtype
        self._file = open(path, "xb")  # noqa: SIM115 -- closed by close()
        self.rows = 0
        header = _header((0, columns), dtype)
        self._header_bytes = len(header)
        self._file.write(header)

    def append(self, block: FloatArray) -> None:
        """Write some more rows."""
        self._file.write(block.data.cast("B"))
        self.rows += block.shape[0]

    def close(self) -> None:
        """Write the number of rows into the header and close the file."""
        header = _header((self.rows, self._columns), self._dtype)
        # NumPy leaves room for the number of rows to grow; without it the rows would be shifted.
        if len(header) != self._header_bytes:
            raise RuntimeError("the .npy header of this version of NumPy has no fixed length")
        self._file.seek(0)
        self._file.write(header)
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()


def write_npy(path: Path, array: FloatArray) -> None:
    """Write an array as a .npy file, chunk by chunk."""
    with open(path, "xb") as file:
        file.write(_header(array.shape, array.dtype))
        for chunk in _chunks(array):
            file.write(chunk)


def array_digest(array: FloatArray) -> str:
    """Return the SHA-256, in hex digits, of the .npy file that `write_npy` makes of an array."""
    digest = hashlib.sha256(_header(array.shape, array.dtype))
    for chunk in _chunks(array):
        digest.update(chunk)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex digits, reading it in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(array: FloatArray) -> Iterator[memoryview]:
    rows = max(1, _CHUNK_BYTES // max(1, array.shape[1] * array.itemsize))
    for start in range(0, array.shape[0], rows):
        yield np.ascontiguousarray(array[start : start + rows]).data.cast("B")
