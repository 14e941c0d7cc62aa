"""Where results go: files are checked before any work is done, standard output as it is written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dpslice import release as releases
from dpslice._storage import FileKeptError

STANDARD_OUTPUT = "; standard output is --out -"


def check_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Sequence[Path],
    *,
    overwrite: bool,
    directory: str = "--release",
    hint: str = "",
) -> None:
    """Refuse, before any work is done or privacy spent, what could not be written in the end.

    `directory` is the option whose output is a directory, all others being files; `hint` is what to
    do instead of writing to what is no file. An existing checkpoint is not in the way: training
    resumes from it.
    """
    taken = {real_path(path): "the input" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        place = real_path(path)
        owner = taken.setdefault(place, option)
        if owner != option:
            raise ValueError(f"{option} must not be the same file as {owner}; got {path}")
        if option == directory:
            if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
                raise NotADirectoryError(f"{option} must name a directory; {path} is none")
            for source in inputs:
                if place in real_path(source).parents:
                    raise ValueError(f"{option} must not hold the input; {source} lies in {path}")
        elif path.is_dir():
            raise IsADirectoryError(f"{option} must name a file; {path} is a directory")
        elif os.path.lexists(path) and (not path.is_file() or _is_device(path)):
            raise FileExistsError(f"{option} must name a file; {path} is none{hint}")
        if os.path.lexists(path) and not overwrite and option != "--checkpoint":
            raise FileExistsError(f"{path} exists already: pass --overwrite to replace it")
        if option == directory:
            releases.refuse_foreign(path)
        refuse_in_release(option, place)
        parent = path.absolute().parent
        if not parent.is_dir():
            raise NotADirectoryError(f"{option}: there is no directory {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(f"{option}: the directory {parent} cannot be written to")


class PutOff:
    """Errors of files that were written beside others, raised after all files are written."""

    def __init__(self) -> None:
        self._errors: list[FileKeptError] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        try:
            yield
        except FileKeptError as error:
            self._errors.append(error)

    def place(self, path: Path) -> Path:
        """Return where a file is that was just written, or beside it."""
        return self._errors[-1].beside if self._errors else path

    def tell(self) -> None:
        if self._errors:
            raise FileExistsError("; ".join(map(str, self._errors)))


def _is_device(path: Path) -> bool:
    # /dev/stdout may lead to a file: what would be replaced is the link.
    return path.absolute().parent == Path("/dev")


def real_path(path: Path) -> Path:
    return Path(os.path.realpath(path))  # which takes a circle of links, as `Path.resolve` does not


def refuse_in_release(option: str, path: Path) -> None:
    for outer in path.parents:
        if releases.holds_release(outer):
            raise ValueError(f"{option} must not lie in a release; {path} would be in {outer}")


@contextmanager
def telling(*files: Path | None) -> Iterator[None]:
    """Write a result to standard output; where that fails, say which files are there all the same.

    They may have cost privacy.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        there = ", ".join(str(file) for file in files if file is not None)
        raise OSError(
            f"standard output could not be written ({error.strerror or error})"
            + (f"; what was to be written to files is there: {there}" if there else "")
        ) from error
