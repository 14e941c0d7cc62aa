"""Synthetic rows, torch tensors that losses compare with a release; and what hides their values."""

from __future__ import annotations

import sys
from typing import Any

from dpslice._arrays._finite import all_finite
from dpslice._arrays._scalars import kind_of

__all__ = [
    "synthetic_rows",
    "values_hidden",
]


def synthetic_rows(name: str, x: Any, *, d: int) -> Any:
    """Return a torch tensor (c, d) of float32 or float64, or raise; half types only under autocast.

    Parameters
    ----------
    name : str
        Name in messages.
    x : Tensor, shape (c, d)
        Synthetic rows; finite, which is not looked at in device memory.
    d : int
        Columns of the private rows that they are compared with.

    Returns
    -------
    Tensor, shape (c, d)
        The rows; in float32 if they came in a half type.
    """
    torch = sys.modules["torch"]  # of the caller; the graph of torch.compile could not import it
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor; got {kind_of(x)}")
    if x.ndim != 2 or x.shape[1] != d or x.shape[0] < 1:
        raise ValueError(
            f"{name} must have shape (c, {d}) with c >= 1, as the private rows have {d} columns; "
            f"got {tuple(x.shape)}"
        )
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        x = x.float()
    if x.dtype not in (torch.float32, torch.float64):
        half = x.dtype in (torch.float16, torch.bfloat16)
        remedy = "; half precision is taken under autocast alone: pass .float()" if half else ""
        raise TypeError(f"{name} must have dtype float32 or float64; got {x.dtype}{remedy}")
    # Kernels, which get the values in any case, look too; losses without one give NaN for NaN.
    if x.is_cpu and not values_hidden() and not all_finite(x):
        i, j = (int(index) for index in (~torch.isfinite(x.detach())).nonzero()[0])
        found = float(x.detach()[i, j])
        raise ValueError(f"{name} must hold finite numbers; got {found} at ({i}, {j})")
    return x


def values_hidden() -> bool:
    """Tell whether nothing may depend on values: in a graph of torch.compile, and under vmap."""
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling():
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch
    levels = functorch.get_interpreter_stack()
    return any(level.key() == functorch.TransformType.Vmap for level in levels)
