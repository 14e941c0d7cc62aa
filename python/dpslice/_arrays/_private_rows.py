"""Blocks of private rows: checked before anything is made of them.

Short, for an auditor (docs/privacy.md, section 2). Of other files it calls `library_of` and
`all_finite` alone. Messages are for the data holder: they may show a value, and name its row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dpslice._arrays._devices import library_of
from dpslice._arrays._finite import FloatArray, all_finite

__all__ = [
    "refuse_masked",
    "row_block",
    "row_matrix",
    "settled",
]


def refuse_masked(name: str, value: object) -> None:
    """Raise TypeError if the rows are a masked array: what it hides would be read."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain array; got a masked one: fill or drop its rows")


def row_matrix(name: str, value: object) -> tuple[int, int]:
    """Return the shape of a matrix of rows, or raise; its values are not looked at.

    Parameters
    ----------
    name : str
        Name in messages.
    value : array, shape (rows, d), float32 or float64
        NumPy, torch or CuPy; any byte order and strides.

    Returns
    -------
    rows, d : int
        The shape; ``rows`` may be 0, ``d`` may not.

    Raises
    ------
    TypeError
        If it is no such array, is masked, or has another dtype.
    ValueError
        If it has not two axes, or no column.
    """
    library = library_of(name, value)
    refuse_masked(name, value)
    shape = tuple(int(size) for size in value.shape)  # type: ignore[attr-defined]
    if len(shape) != 2:
        raise ValueError(f"{name} must have shape (n, d); got shape {shape}")
    dtype = value.dtype  # type: ignore[attr-defined]
    if library == "torch":
        known = str(dtype) in ("torch.float32", "torch.float64")
    else:
        known = dtype.kind == "f" and dtype.itemsize in (4, 8)
    if not known:
        raise TypeError(f"{name} must have dtype float32 or float64; got {dtype}")
    if shape[1] < 1:
        raise ValueError(f"{name} must have at least one column; got shape {shape}")
    return shape[0], shape[1]


def settled(block: Any) -> Any:
    """Copy a block of a memory map, which someone else may write to while it is used.

    What is checked and clipped must be what is then released.
    """
    return np.array(block) if isinstance(block, np.memmap) else block


def row_block(name: str, value: object, *, first_row: int, d: int) -> FloatArray:
    """Bring a block of rows to host memory, C-contiguous, in native byte order, and check it.

    Parameters
    ----------
    name : str
        Name in messages.
    value : array, shape (rows, d), float32 or float64
        NumPy, torch or CuPy.
    first_row : int
        Number of the block's first row in the table, for messages.
    d : int
        Columns that the block must have.

    Returns
    -------
    array, shape (rows, d), float32 or float64
        The block itself if nothing had to be changed, else a copy.

    Raises
    ------
    TypeError
        As in `row_matrix`.
    ValueError
        As in `row_matrix`, if the block has not d columns, or holds NaN or infinity: the message
        names the row.
    """
    rows, columns = row_matrix(name, value)
    if columns != d:
        raise ValueError(
            f"{name} must have {d} columns in every block; got shape ({rows}, {columns}) "
            f"for the block that starts at row {first_row}"
        )
    library = library_of(name, value)
    if library == "torch":
        value = value.detach().cpu().numpy()  # type: ignore[attr-defined]
    elif library == "cupy":
        value = value.get()  # type: ignore[attr-defined]
    values: FloatArray = np.asarray(value)
    native = np.float32 if values.dtype.itemsize == 4 else np.float64
    block: FloatArray = np.require(values, dtype=native, requirements=["C", "A"])
    if not all_finite(block):
        row = int(np.argmin(np.isfinite(block).all(axis=1)))
        column = int(np.argmin(np.isfinite(block[row])))
        raise ValueError(
            f"{name} must hold finite numbers; got {block[row, column]} "
            f"in row {first_row + row}, column {column}"
        )
    return block
