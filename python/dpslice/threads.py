"""How many threads the kernels use."""

from __future__ import annotations

import os

from dpslice import _arrays, _core

__all__ = ["get_num_threads", "set_num_threads"]

# A forked child has none of its parent's threads, but OpenMP would wait for them for ever. Builds
# without OpenMP could start some; one rule for all is easier to remember.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _core.set_num_threads(1))


def get_num_threads() -> int:
    """Return the number of threads that kernels use.

    Returns
    -------
    int
        What `set_num_threads` said, else ``OMP_NUM_THREADS``, else the number of cores; 1 in a
        process that was forked.
    """
    return _core.num_threads()


def set_num_threads(threads: int) -> None:
    """Set the number of threads that kernels use.

    It changes no other library's threads. Results do not depend on it beyond rounding. A forked
    process (as of `multiprocessing` under Linux before Python 3.14) starts with 1: more would hang
    there if its parent had used several. Processes that are spawned are free of that.

    Parameters
    ----------
    threads : int
        At least 1.

    Raises
    ------
    TypeError
        If `threads` is no integer.
    ValueError
        If it is less than 1, or 2**31 or more.
    """
    number = _arrays.positive_integer("threads", threads)
    if number >= 2**31:
        raise ValueError(f"threads must be an integer < 2**31; got {_arrays.describe(number)}")
    _core.set_num_threads(number)
