"""How many threads the kernels use."""

from __future__ import annotations

from dpslice import _arrays, _core

__all__ = ["get_num_threads", "set_num_threads"]


def get_num_threads() -> int:
    """Return the number of threads that kernels use.

    Returns
    -------
    int
        What `set_num_threads` said, else ``OMP_NUM_THREADS``, else the number of cores.
    """
    return _core.num_threads()


def set_num_threads(threads: int) -> None:
    """Set the number of threads that kernels use.

    It changes no other library's threads. Results do not depend on it.

    Parameters
    ----------
    threads : int
        At least 1.

    Raises
    ------
    TypeError
        If `threads` is no integer.
    ValueError
        If it is less than 1.
    """
    _core.set_num_threads(_arrays.positive_integer("threads", threads))
