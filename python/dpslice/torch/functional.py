r"""The kernels as differentiable torch operators, batched over slices.

Each function takes tensors and can be differentiated. It has the name and signature of its twin in
`dpslice.kernels`, but `density_ratio_divergence`, a loss made of `density_ratio`, which has none;
kernel sums also take ``row_weights``, for value and gradient in one sweep. Each is one operator
``torch.ops.dpslice.<name>``: one node of a graph under ``torch.compile``, and known to
``torch.func`` (``grad``, ``vjp``, ``vmap``). Rules for all:

- Tensors are float32 or float64, of one dtype, on one device (the CPU; a CUDA device where this
  build has CUDA kernels), of any strides. Under autocast, float16 and bfloat16 are computed with in
  float32; elsewhere they are a TypeError.
- No axis may be empty, and values on the CPU must be finite (log weights may be -inf): else a
  ValueError.
- A bandwidth is a number, or a tensor (m,) or () that is not differentiated: one that requires a
  gradient is an error, never a silent zero.
- Under ``torch.compile``, each is in the graph; ``torch.func.grad`` inside what is compiled breaks
  it, as torch knows no such operators there.
- Each but `project` can be differentiated once. Second derivatives and forward-mode derivatives
  (``jvp``, of `project` too) raise NotImplementedError.
- Only the gradients asked for are computed.
- The threads used are those of ``dpslice.set_num_threads``, not of ``torch.set_num_threads``. The
  two pools take turns, so both may be as large as the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dpslice import _arrays, kernels
from dpslice.divergences import Divergence, get_divergence

__all__ = [
    "density_ratio",
    "density_ratio_divergence",
    "gaussian_kernel_logsumexp",
    "gaussian_kernel_sum",
    "median_distance",
    "project",
    "sliced_wasserstein",
]

_LIBRARY = torch.library.Library("dpslice", "DEF")
_ops = torch.ops.dpslice

Number = float | int


# ------------------------------------------------------------------------------------ registering


@dataclass(frozen=True)
class _Operator:
    """The ways to call one operator."""

    kernel: Callable[..., Any]  # plain tensors, no gradient
    graded: type[torch.autograd.Function]  # plain tensors
    transformed: type[torch.autograd.Function]  # under torch.func, or with tangents
    dispatched: Callable[..., Any]  # torch.ops.dpslice.<name>: all else


_OPERATORS: dict[str, _Operator] = {}

_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor


def _register(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    slice_axes: Mapping[int, int] | None = None,
    vmap: Callable[..., Any] | None = None,
    check: Callable[..., None] | None = None,
    graded: Callable[..., Any] | None = None,
    tags: Sequence[torch.Tag] = (),
) -> None:
    """Define an operator: its kernel, its shapes, its derivative, its rule for `torch.vmap`.

    The kernel serves CPU and CUDA tensors alike: the arguments' place decides. `check` is
    called with the arguments of a derivative where anybody may have called it: not on the direct
    way from `backward`. There the call before has checked what was saved, autograd the gradient.
    `graded` replaces the kernel and `setup_context` where a gradient will be wanted and nobody
    listens.

    Without `backward`, the operator is itself a derivative, and a dead end: differentiating it
    raises. A batch is folded into the slices, unless there is a rule `vmap`; `slice_axes` says, for
    arguments where the slices are not the first axis, which one they are.

    The derivative is registered twice, since no one way serves both ``torch.compile`` (which wants
    it on the operator) and ``torch.func`` (which takes it from a Function only).
    """
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, *tags))

    def checked(*args: Any) -> Any:
        if check is not None:
            check(*args)
        return kernel(*args)

    _LIBRARY.impl(name, checked, "CPU")
    _LIBRARY.impl(name, checked, "CUDA")
    torch.library.register_fake(f"dpslice::{name}", fake, lib=_LIBRARY)
    if backward is None or setup_context is None:
        setup_context, backward = _save_nothing, _dead_end(name.removesuffix("_vjp"))
    torch.library.register_autograd(
        f"dpslice::{name}", backward, setup_context=setup_context, lib=_LIBRARY
    )
    dispatched = getattr(_ops, name)
    rule = vmap or _fold_into_slices(name, dict(slice_axes or {}))
    torch.library.register_vmap(f"dpslice::{name}", rule, lib=_LIBRARY)

    def plainly_graded(ctx: Any, *args: Any) -> Any:
        output = kernel(*args)
        setup_context(ctx, args, output)
        return output

    def function(**members: Callable[..., Any]) -> type[torch.autograd.Function]:
        static = {key: staticmethod(member) for key, member in members.items()}
        return type(name, (torch.autograd.Function,), static)

    _OPERATORS[name] = _Operator(
        kernel,
        function(forward=graded or plainly_graded, backward=backward),
        function(
            forward=lambda *args: dispatched(*args),
            setup_context=setup_context,
            backward=backward,
            vmap=rule,
        ),
        dispatched,
    )


def _call(name: str, *args: Any) -> Any:
    """Call an operator by the way that the present transformation understands.

    Through torch's dispatcher, an operator written in Python takes several times as long as the
    kernel of a small step. So it is gone through only where something may be listening there.
    """
    if torch.compiler.is_compiling():
        return getattr(_ops, name)(*args)
    operator = _OPERATORS[name]
    if (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0  # a Function refuses tangents
    ):
        return operator.transformed.apply(*args)
    if _listening():
        return operator.dispatched(*args)
    graded = False
    for arg in args:
        if isinstance(arg, Tensor):
            if not _plain(arg):
                return operator.dispatched(*args)
            graded = graded or arg.requires_grad
    if graded and torch.is_grad_enabled():
        return operator.graded.apply(*args)
    return operator.kernel(*args)


def _listening() -> bool:
    """Tell whether a mode, a trace or a profiler wants to see each operator."""
    return bool(
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
    )


def _is_direct() -> bool:
    """Tell whether operators are neither compiled nor transformed nor listened to."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or _listening()
    )


def _plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is its values and no more: no subclass, no batch, no meta tensor."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and (tensor.is_cpu or tensor.is_cuda)
        and not _is_legacy_batched(tensor)
    )


def _save_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """Set up the context of a derivative, which is not differentiated further."""


def _dead_end(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"{name} can be differentiated once only; its second derivative is not implemented"
        )

    return backward


def _fold_into_slices(name: str, slice_axes: Mapping[int, int]) -> Callable[..., Any]:
    """Make the vmap rule of a kernel: a batch of m slices is one call with (batch * m) slices."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        size = info.batch_size
        folded = []
        for position, (arg, dim) in enumerate(zip(args, in_dims, strict=True)):
            if isinstance(arg, Tensor):
                axis = slice_axes.get(position, 0)
                if dim is None:
                    shape = (*arg.shape[:axis], size, *arg.shape[axis:])
                    arg = arg.unsqueeze(axis).expand(shape)
                else:
                    arg = arg.movedim(dim, axis)
                arg = arg.flatten(axis, axis + 1)
            folded.append(arg)
        outputs = _call(name, *folded)
        if isinstance(outputs, Tensor):
            return outputs.unflatten(0, (size, -1)), 0
        # An output that was not asked for is an empty vector: there is nothing to unfold.
        return (
            tuple(o.unflatten(0, (size, -1)) if o.numel() else o for o in outputs),
            tuple(0 if o.numel() else None for o in outputs),
        )

    return rule


_NO_BANDWIDTH = (
    "bandwidth must not require a gradient: the kernels are not differentiated in it; "
    "pass bandwidth.detach()"
)


def _kernels_and_arrays(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Return the compiled kernels for the device of the first tensor, and what they take.

    That is a NumPy view on the CPU, and a tensor on a CUDA device; copied only if it is strided.
    That all are on one device, the kernels check.
    """
    place = _arrays.place_of("tensor", tensors[0])
    if _arrays.on_device(place):
        arrays = [None if t is None else _arrays.device_array("tensor", t, place) for t in tensors]
    else:
        arrays = [
            None if t is None else t.detach().resolve_neg().contiguous().numpy() for t in tensors
        ]
    return _arrays.backend_for(place, later=True), *arrays


def _tensor(array: Any) -> Tensor:
    """Return what the kernels gave as a tensor, which on a CUDA device it is."""
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


_Optional = TypeVar("_Optional", Tensor, Tensor | None)


def _detached(tensor: _Optional) -> _Optional:
    """Return a tensor that requires no gradient: itself, if it is one."""
    return tensor.detach() if tensor is not None and tensor.requires_grad else tensor


def _tensor_or_empty(array: Any, like: Tensor) -> Tensor:
    return like.new_empty(0) if array is None else _tensor(array)


def _asked(tensor: Tensor, needed: bool) -> Tensor | None:
    return tensor if needed else None


# ------------------------------------------------------------------------------ arguments


_OPTIONAL = ("weights", "log_weights", "row_weights")


def _tensors(**named: Tensor | None) -> tuple[Any, ...]:
    """Refuse what is no tensor, and apply the rule for autocast."""
    cast = False
    for name, value in named.items():
        if isinstance(value, Tensor):
            if value.dtype in (torch.float16, torch.bfloat16):
                cast = cast or torch.is_autocast_enabled(value.device.type)
        elif value is not None or name not in _OPTIONAL:
            raise TypeError(f"{name} must be a torch tensor; got {_arrays.kind_of(value)}")
    if not cast:
        return tuple(named.values())
    half = (torch.float16, torch.bfloat16)
    return tuple(v.float() if v is not None and v.dtype in half else v for v in named.values())


def _bandwidths(bandwidth: Number | Tensor, like: Tensor) -> Tensor:
    """Return the bandwidth as a tensor (..., m), in the dtype and on the device of `like`."""
    slices = like.shape[0] if like.ndim else 1
    if isinstance(bandwidth, Tensor):
        if bandwidth.requires_grad:
            raise ValueError(_NO_BANDWIDTH)
        if not bandwidth.is_floating_point():
            raise TypeError(f"bandwidth must be a floating-point tensor; got {bandwidth.dtype}")
        bandwidth = bandwidth.to(dtype=like.dtype, device=like.device)
        return bandwidth.expand(slices) if bandwidth.ndim == 0 else bandwidth
    # Numbers first: those that torch.compile has symbols for cannot be asked for attributes.
    if not isinstance(bandwidth, (float, int, np.number)) and hasattr(bandwidth, "__array__"):
        raise TypeError(
            f"bandwidth must be a number or a torch tensor; got {_arrays.describe(bandwidth)}"
        )
    value = _arrays.positive_real("bandwidth", bandwidth)
    if like.is_cuda and _is_direct() and _plain(like):
        place = _arrays.place_of("tensor", like)
        filled: Tensor = _arrays.kept_vector(value, slices, like, place)
        return filled
    return torch.full((slices,), value, dtype=like.dtype, device=like.device)


def _check_points(
    x_name: str, x: Tensor, y_name: str, y: Tensor, bandwidth: Tensor, *several: str
) -> None:
    """Raise unless these are two sets of points, and bandwidths: one of each slice, or several."""
    _arrays.layout(x_name, x, ("m", "b", "k"))
    m, _, k = x.shape
    _arrays.layout(y_name, y, (m, "c", k), like=x)
    _arrays.layout("bandwidth", bandwidth, (*several, m), like=x)


# --------------------------------------------------------------------------------------- project


def _project_fake(x: Tensor, frame: Tensor, sigma: float, noise: str, key: list[int]) -> Tensor:
    _arrays.layout("x", x, ("n", "d"))
    _arrays.layout("frame", frame, (x.shape[1], "p"), like=x)
    return x.new_empty(x.shape[0], frame.shape[1])


def _project_kernel(x: Tensor, frame: Tensor, sigma: float, noise: str, key: list[int]) -> Tensor:
    pair = (key[0] % 2**64, key[1] % 2**64) if key else None
    result: Tensor = kernels.project(_detached(x), _detached(frame), sigma, noise, pair)
    return result


def _project_setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, frame, *_ = inputs
    ctx.save_for_backward(x, frame)


def _project_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, frame = ctx.saved_tensors
    need_x, need_frame = ctx.needs_input_grad[:2]
    grad_x = grad @ frame.mT if need_x else None
    grad_frame = x.mT @ grad if need_frame else None
    return grad_x, grad_frame, *[None] * 3  # sigma, noise, key


def _project_vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
    x, frame, sigma, *rest = args
    if in_dims[1] is not None:
        raise NotImplementedError("project: vmap over frame is not implemented; join the frames")
    if sigma > 0 and info.randomness != "different":
        raise ValueError("project: vmap over noisy rows needs vmap(..., randomness='different')")
    rows = x.movedim(in_dims[0], 0).flatten(0, 1)
    result: Tensor = _call("project", rows, frame, sigma, *rest)
    return result.unflatten(0, (info.batch_size, -1)), 0


_register(
    "project(Tensor x, Tensor frame, float sigma, str noise, int[] key) -> Tensor",
    _project_kernel,
    _project_fake,
    setup_context=_project_setup_context,
    backward=_project_backward,
    vmap=_project_vmap,
    tags=(torch.Tag.nondeterministic_seeded,),  # two calls are two draws: never merge them
)


def project(
    x: Tensor,
    frame: Tensor,
    sigma: float,
    noise: str = "secure",
    key: tuple[int, int] | None = None,
) -> Tensor:
    r"""Noisy projection of rows, :math:`O = XU + V` with :math:`V \sim \mathcal N(0, \sigma^2)`.

    Parameters
    ----------
    x : Tensor, shape (n, d), float32 or float64
        Rows. Differentiable.
    frame : Tensor, shape (d, p)
        Directions U. Differentiable.
    sigma : float
        Standard deviation of the noise.
    noise : {"secure", "fast"}
        ChaCha20 keyed from the operating system, or counter-based Philox, which is quick and
        reproducible and protects nobody.
    key : pair of int, optional
        Key of the fast noise, two numbers below 2^64. Default: fresh.

    Returns
    -------
    Tensor, shape (n, p)
        The projections. Their derivative is that of XU.

    Raises
    ------
    TypeError
        If an input is no tensor, or dtypes are unsupported or differ.
    ValueError
        If shapes disagree, values are not finite, or a number is out of range, as for
        `dpslice.kernels.project`.

    Notes
    -----
    Unlike the kernels below, it is bilinear, so that it has derivatives of any order.

    Examples
    --------
    >>> project(torch.eye(2), torch.tensor([[1.0], [2.0]]), 0.0, "fast")
    tensor([[1.],
            [2.]])
    """
    x, frame = _tensors(x=x, frame=frame)
    sigma = _arrays.nonnegative_real("sigma", sigma)
    # An operator's integers are signed, a key's are not; the kernel undoes this.
    signed = [] if key is None else [(n + 2**63) % 2**64 - 2**63 for n in kernels.checked_key(key)]
    result: Tensor = _call("project", x, frame, sigma, noise, signed)
    return result


# ------------------------------------------------------------ gaussian_kernel_sum, …_logsumexp


def _check_sums(
    x: Tensor, y: Tensor, bandwidth: Tensor, weights_name: str, weights: Tensor | None
) -> None:
    _check_points("x", x, "y", y, bandwidth)
    if weights is not None:
        _arrays.layout(weights_name, weights, tuple(y.shape[:2]), like=x)


def _register_kernel_sum(name: str, weights_name: str, *, saves_output: bool) -> None:
    """Register one of the two kernel sums: they differ in one word, and in what backward needs."""
    saved = "Tensor output, " if saves_output else ""

    def forward(x: Tensor, y: Tensor, bandwidth: Tensor, weights: Tensor | None) -> Tensor:
        kernel: Callable[..., Tensor] = getattr(kernels, name)
        return kernel(_detached(x), _detached(y), _detached(bandwidth), _detached(weights))

    def check(x: Tensor, y: Tensor, bandwidth: Tensor, weights: Tensor | None, *rest: Any) -> None:
        _check_sums(x, y, bandwidth, weights_name, weights)
        for tensor in rest[:-3]:
            _arrays.layout("grad", tensor, tuple(x.shape[:2]), like=x)

    def fake(x: Tensor, y: Tensor, bandwidth: Tensor, weights: Tensor | None) -> Tensor:
        check(x, y, bandwidth, weights)
        return x.new_empty(x.shape[:2])

    def vjp(
        x: Tensor, y: Tensor, bandwidth: Tensor, weights: Tensor | None, *rest: Any
    ) -> tuple[Tensor, ...]:
        *tensors, need_x, need_y, need_weights = rest
        core, *arrays = _kernels_and_arrays(x, y, bandwidth, weights, *tensors)
        needs = (need_x, need_y, need_weights and weights is not None)
        grads = getattr(core, f"{name}_vjp")(*arrays, *needs)
        return tuple(_tensor_or_empty(grad, x) for grad in grads)

    def vjp_fake(
        x: Tensor, y: Tensor, bandwidth: Tensor, weights: Tensor | None, *rest: Any
    ) -> tuple[Tensor, ...]:
        need_x, need_y, need_weights = rest[-3:]
        return (
            x.new_empty(x.shape if need_x else 0),
            x.new_empty(y.shape if need_y else 0),
            x.new_empty(weights.shape if need_weights and weights is not None else 0),
        )

    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs, *((output,) if saves_output else ()))

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_x, need_y, need_bandwidth, need_weights = ctx.needs_input_grad
        if need_bandwidth:
            raise ValueError(_NO_BANDWIDTH)
        grad_x, grad_y, grad_weights = _call(
            f"{name}_vjp", *ctx.saved_tensors, grad, need_x, need_y, need_weights
        )
        return (
            _asked(grad_x, need_x),
            _asked(grad_y, need_y),
            None,  # bandwidth
            _asked(grad_weights, need_weights),
        )

    _register(
        f"{name}(Tensor x, Tensor y, Tensor bandwidth, Tensor? {weights_name}) -> Tensor",
        forward,
        fake,
        setup_context=setup_context,
        backward=backward,
    )
    _register(
        f"{name}_vjp(Tensor x, Tensor y, Tensor bandwidth, Tensor? {weights_name}, {saved}"
        "Tensor grad, bool need_x, bool need_y, bool need_weights) -> (Tensor, Tensor, Tensor)",
        vjp,
        vjp_fake,
        check=check,
    )


_register_kernel_sum("gaussian_kernel_sum", "weights", saves_output=False)
_register_kernel_sum("gaussian_kernel_logsumexp", "log_weights", saves_output=True)


def _register_kernel_total(name: str, weights_name: str) -> None:
    """Register the total over rows of one of the two kernel sums, made with its gradients.

    Returns the totals, the sums of the rows that are kept (which are the gradient in the row
    weights), and the gradients in `y` and the weights. `x` is not differentiated.
    """

    def fake(
        x: Tensor,
        y: Tensor,
        bandwidth: Tensor,
        weights: Tensor | None,
        row_weights: Tensor,
        need_y: bool,
        need_weights: bool,
    ) -> tuple[Tensor, ...]:
        _check_sums(x, y, bandwidth, weights_name, weights)
        _arrays.layout("row_weights", row_weights, tuple(x.shape[:2]), like=x)
        return (
            x.new_empty(x.shape[0]),
            x.new_empty(x.shape[:2]),
            x.new_empty(y.shape if need_y else 0),
            x.new_empty(weights.shape if need_weights and weights is not None else 0),
        )

    def kernel(
        x: Tensor,
        y: Tensor,
        bandwidth: Tensor,
        weights: Tensor | None,
        row_weights: Tensor,
        need_y: bool,
        need_weights: bool,
    ) -> tuple[Tensor, ...]:
        points, others, g, checked = kernels.pair_operands(
            _detached(x), _detached(y), _detached(bandwidth), weights_name, _detached(weights)
        )
        by_row = _arrays.operand("row_weights", _detached(row_weights), x.shape[:2], like=points)
        core = _arrays.backend_for(points.place, later=True)
        total, kept, grad_y, grad_weights = getattr(core, f"{name}_total")(
            points.array,
            others.array,
            g,
            checked,
            by_row.array,
            need_y,
            need_weights and weights is not None,
        )
        made = (_tensor_or_empty(grad_y, x), _tensor_or_empty(grad_weights, x))
        return _tensor(total), _tensor(kept), *made

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, y, bandwidth, weights, row_weights, need_y, need_weights = inputs
        ctx.mark_non_differentiable(*output[1:])
        # As for the divergence: the call may not have seen that a gradient would be wanted.
        ctx.made = (need_y, need_weights)
        ctx.save_for_backward(x, y, bandwidth, weights, row_weights, *output[1:])

    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        need_x, need_y, need_bandwidth, need_weights, need_row_weights = ctx.needs_input_grad[:5]
        x, y, bandwidth, weights, row_weights, rows, grad_y, grad_weights = ctx.saved_tensors
        if need_x:
            raise ValueError("x must not require a gradient where row_weights are given")
        if need_bandwidth:
            raise ValueError(_NO_BANDWIDTH)
        made_y, made_weights = ctx.made
        if (need_y and not made_y) or (need_weights and not made_weights):
            _, rows, grad_y, grad_weights = _call(
                f"{name}_total", x, y, bandwidth, weights, row_weights, need_y, need_weights
            )
        given = (y, grad_y, weights, grad_weights, rows, grad)
        scaled = _call(f"{name}_total_vjp", *given, need_y, need_weights, need_row_weights)
        return (
            None,  # x
            _asked(scaled[0], need_y),
            None,  # bandwidth
            _asked(scaled[1], need_weights),
            _asked(scaled[2], need_row_weights),
            None,  # need_y
            None,  # need_weights
        )

    def vjp(
        y: Tensor,
        grad_y: Tensor,
        weights: Tensor | None,
        grad_weights: Tensor,
        rows: Tensor,
        grad: Tensor,
        need_y: bool,
        need_weights: bool,
        need_row_weights: bool,
    ) -> tuple[Tensor, ...]:
        """Scale the gradients of each slice. `y` and `weights` are seen by a second one only."""
        return (
            grad_y * grad[:, None, None] if need_y else grad.new_empty(0),
            grad_weights * grad[:, None] if need_weights else grad.new_empty(0),
            rows * grad[:, None] if need_row_weights else grad.new_empty(0),
        )

    _register(
        f"{name}_total(Tensor x, Tensor y, Tensor bandwidth, Tensor? {weights_name}, "
        "Tensor row_weights, bool need_y, bool need_weights) -> (Tensor, Tensor, Tensor, Tensor)",
        kernel,
        fake,
        setup_context=setup_context,
        backward=backward,
    )
    _register(
        f"{name}_total_vjp(Tensor y, Tensor grad_y, Tensor? {weights_name}, Tensor grad_weights, "
        "Tensor rows, Tensor grad, bool need_y, bool need_weights, bool need_row_weights)"
        " -> (Tensor, Tensor, Tensor)",
        vjp,
        vjp,
    )


_register_kernel_total("gaussian_kernel_sum", "weights")
_register_kernel_total("gaussian_kernel_logsumexp", "log_weights")


def _kernel_total(
    name: str,
    x: Tensor,
    y: Tensor,
    bandwidth: Tensor,
    weights: Tensor | None,
    row_weights: Tensor,
) -> Tensor:
    """Weighted totals over rows, in one call with their gradients where only those are wanted."""
    graded = torch.is_grad_enabled()
    need_y = graded and y.requires_grad
    need_weights = graded and weights is not None and weights.requires_grad
    need_row_weights = graded and row_weights.requires_grad
    if x.requires_grad or not (need_y or need_weights or need_row_weights):
        sums: Tensor = _call(name, x, y, bandwidth, weights)
        # The other way, its kernel checks this.
        _arrays.layout("row_weights", row_weights, tuple(sums.shape), like=sums)
        if row_weights.is_cpu and _is_direct():
            _arrays.finite_values("row_weights", row_weights.detach().numpy())
        # As csrc/row_totals.h does, in a way that torch can differentiate.
        kept = torch.where((row_weights == 0) & ~torch.isfinite(sums), 0.0, sums)
        return (row_weights.double() * kept.double()).sum(-1).to(sums.dtype)
    given = (x, y, bandwidth, weights, row_weights)
    total: Tensor = _call(f"{name}_total", *given, need_y, need_weights)[0]
    return total


def gaussian_kernel_sum(
    x: Tensor,
    y: Tensor,
    bandwidth: Number | Tensor,
    weights: Tensor | None = None,
    *,
    row_weights: Tensor | None = None,
) -> Tensor:
    r"""Gaussian-kernel sum of each row of `x` over the rows of `y`, slice by slice.

    .. math:: S_{si} = \sum_j w_{sj} \exp(-\|x_{si} - y_{sj}\|^2 / (2 g_s^2))

    Parameters
    ----------
    x : Tensor, shape (m, b, k), float32 or float64
        Query points of each slice, in any one unit of length. Differentiable.
    y : Tensor, shape (m, c, k)
        Source points. Differentiable.
    bandwidth : float or Tensor, shape () or (m,)
        Kernel bandwidth g, in the unit of `x`. Finite and positive, not differentiated.
    weights : Tensor, shape (m, c), optional
        Weights w. Differentiable. Default: all one.
    row_weights : Tensor, shape (m, b), optional
        Weights a. Given, the result is the total :math:`\sum_i a_{si} S_{si}` of each slice, and
        its gradients in `y` and `weights` are made in the same sweep over the pairs: half the work
        of sums that are added up afterwards. Differentiable.

    Returns
    -------
    Tensor, shape (m, b), or (m,) with `row_weights`
        The sums, or their totals.

    Raises
    ------
    TypeError
        If an input is no tensor, or dtypes are unsupported or differ.
    ValueError
        If shapes disagree, values are not finite, or `bandwidth` is not finite and positive or
        requires a gradient.

    Notes
    -----
    The (b, c) matrix is never formed, forwards or backwards.

    Examples
    --------
    >>> x = torch.zeros(1, 1, 3, requires_grad=True)
    >>> gaussian_kernel_sum(x, torch.zeros(1, 2, 3), 1.0).detach()
    tensor([[2.]])
    """
    x, y, weights, row_weights = _tensors(x=x, y=y, weights=weights, row_weights=row_weights)
    g = _bandwidths(bandwidth, x)
    if row_weights is not None:
        return _kernel_total("gaussian_kernel_sum", x, y, g, weights, row_weights)
    result: Tensor = _call("gaussian_kernel_sum", x, y, g, weights)
    return result


def gaussian_kernel_logsumexp(
    x: Tensor,
    y: Tensor,
    bandwidth: Number | Tensor,
    log_weights: Tensor | None = None,
    *,
    row_weights: Tensor | None = None,
) -> Tensor:
    r"""Log of the Gaussian-kernel sum of each row of `x` over the rows of `y`, slice by slice.

    .. math:: L_{si} = \log \sum_j w_{sj} \exp(-\|x_{si} - y_{sj}\|^2 / (2 g_s^2))

    Parameters
    ----------
    x : Tensor, shape (m, b, k), float32 or float64
        Query points of each slice, in any one unit of length. Differentiable.
    y : Tensor, shape (m, c, k)
        Source points. Differentiable.
    bandwidth : float or Tensor, shape () or (m,)
        Kernel bandwidth g, in the unit of `x`. Finite and positive, not differentiated.
    log_weights : Tensor, shape (m, c), optional
        Logarithms of the weights w; ``-inf`` is a weight of zero. Differentiable. Default: all
        zero.
    row_weights : Tensor, shape (m, b), optional
        Weights a. Given, the result is the total :math:`\sum_i a_{si} L_{si}` of each slice, and
        its gradients in `y` and `log_weights` are made in the same sweep over the pairs. A row of
        weight zero is left out, whatever its L. Differentiable.

    Returns
    -------
    Tensor, shape (m, b), or (m,) with `row_weights`
        Log sums, or their totals; ``-inf``, with gradient 0, where every weight is zero.

    Raises
    ------
    TypeError
        If an input is no tensor, or dtypes are unsupported or differ.
    ValueError
        If shapes disagree, values are not finite, or `bandwidth` is not finite and positive or
        requires a gradient.

    Notes
    -----
    The (b, c) matrix is never formed, forwards or backwards (on a CUDA device backwards, up to
    256 MiB of it at a time): the largest exponent is found while summing, so far points do not
    underflow.

    On a CUDA device, in float32 and more than 8 dimensions,
    ``torch.set_float32_matmul_precision("high")`` lets exponents have the bits of TensorFloat32.

    Examples
    --------
    >>> x = torch.zeros(1, 1, 3, requires_grad=True)
    >>> gaussian_kernel_logsumexp(x, torch.full((1, 1, 3), 100.0), 1.0).detach()
    tensor([[-15000.]])
    """
    x, y, log_weights, row_weights = _tensors(
        x=x, y=y, log_weights=log_weights, row_weights=row_weights
    )
    g = _bandwidths(bandwidth, x)
    if row_weights is not None:
        return _kernel_total("gaussian_kernel_logsumexp", x, y, g, log_weights, row_weights)
    result: Tensor = _call("gaussian_kernel_logsumexp", x, y, g, log_weights)
    return result


# ------------------------------------------------------------------------------- density_ratio


def _ratio_kernel(q: Tensor, p: Tensor, bandwidth: Tensor, ridge: float, sigma: float) -> Tensor:
    return _ratio_and_factors(q, p, bandwidth, ridge, sigma, keep=False)[0]


def _ratio_and_factors(
    q: Tensor, p: Tensor, bandwidth: Tensor, ridge: float, sigma: float, *, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute the ratio, and on a CUDA device keep what its gradients can use, if asked to."""
    first, second, *numbers = kernels.ratio_operands(
        _detached(q), _detached(p), _detached(bandwidth), ridge, sigma
    )
    core = _arrays.backend_for(first.place, later=True)
    if not (keep and _arrays.on_device(first.place)):
        return _tensor(core.density_ratio(first.array, second.array, *numbers)), None
    try:
        kept = core.room_for_factors(first.array)
    except torch.cuda.OutOfMemoryError:  # they can be made again
        kept = None
    return core.density_ratio(first.array, second.array, *numbers, kept), kept


def _ratio_fake(q: Tensor, p: Tensor, bandwidth: Tensor, ridge: float, sigma: float) -> Tensor:
    _check_points("q", q, "p", p, bandwidth)
    return q.new_empty(q.shape[:2])


def _check_ratio_vjp(
    q: Tensor, p: Tensor, bandwidth: Tensor, ratio: Tensor, grad: Tensor, *_: Any
) -> None:
    _check_points("q", q, "p", p, bandwidth)
    _arrays.layout("ratio", ratio, tuple(q.shape[:2]), like=q)
    _arrays.layout("grad", grad, tuple(q.shape[:2]), like=q)


def _ratio_vjp_kernel(
    q: Tensor,
    p: Tensor,
    bandwidth: Tensor,
    ratio: Tensor,
    grad: Tensor,
    ridge: float,
    sigma: float,
    need_q: bool,
    need_p: bool,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    core, q_array, p_array, *arrays = _kernels_and_arrays(q, p, bandwidth, ratio, grad)
    g, ratio_array, grad_array = arrays
    given = (q_array, p_array, g, ridge, sigma, ratio_array, grad_array, need_q, need_p)
    grad_q, grad_p = core.density_ratio_vjp(*given, *(() if kept is None else (kept,)))
    return _tensor_or_empty(grad_q, q), _tensor_or_empty(grad_p, q)


def _ratio_vjp_fake(q: Tensor, p: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    need_q, need_p = rest[-2:]
    return q.new_empty(q.shape if need_q else 0), q.new_empty(p.shape if need_p else 0)


def _ratio_setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
    q, p, bandwidth, ctx.ridge, ctx.sigma = inputs
    ctx.save_for_backward(q, p, bandwidth, output)


def _ratio_graded(ctx: Any, *args: Any) -> Tensor:
    q, p, bandwidth, ctx.ridge, ctx.sigma = args
    output, kept = _ratio_and_factors(*args, keep=True)
    ctx.save_for_backward(q, p, bandwidth, output, kept)
    return output


def _ratio_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_q, need_p, need_bandwidth = ctx.needs_input_grad[:3]
    if need_bandwidth:
        raise ValueError(_NO_BANDWIDTH)
    q, p, bandwidth, ratio, *others = ctx.saved_tensors
    kept = others[0] if others else None
    arguments = (q, p, bandwidth, ratio, grad, ctx.ridge, ctx.sigma, need_q, need_p)
    if kept is None or torch.is_grad_enabled():  # the operator knows to refuse second derivatives
        grad_q, grad_p = _call("density_ratio_vjp", *arguments)
    else:
        grad_q, grad_p = _ratio_vjp_kernel(*arguments, kept)
    return _asked(grad_q, need_q), _asked(grad_p, need_p), *[None] * 3  # bandwidth, ridge, sigma


_register(
    "density_ratio(Tensor q, Tensor p, Tensor bandwidth, float ridge, float sigma) -> Tensor",
    _ratio_kernel,
    _ratio_fake,
    setup_context=_ratio_setup_context,
    backward=_ratio_backward,
    graded=_ratio_graded,
)
_register(
    "density_ratio_vjp(Tensor q, Tensor p, Tensor bandwidth, Tensor ratio, Tensor grad, "
    "float ridge, float sigma, bool need_q, bool need_p) -> (Tensor, Tensor)",
    _ratio_vjp_kernel,
    _ratio_vjp_fake,
    check=_check_ratio_vjp,
)


def density_ratio(
    q: Tensor, p: Tensor, bandwidth: Number | Tensor, ridge: float, sigma: float = 0.0
) -> Tensor:
    r"""Estimate of the density ratio dP/dQ at the rows of `q`, slice by slice.

    .. math:: r = (K_{qq} + \tau I)^{-1} w, \quad w_i = \frac bc \sum_j K_g(q_i, p_j)

    with :math:`K_g(u, v) = \exp(-\|u - v\|^2 / (2 g^2))`. With `sigma`, w is its expectation under
    noise :math:`\mathcal N(0, \sigma^2 I)` added to the rows of `p`, in closed form.

    Parameters
    ----------
    q : Tensor, shape (m, b, k), float32 or float64
        Rows of the reference (the noisy private rows). Differentiable.
    p : Tensor, shape (m, c, k)
        Rows whose density is compared (the synthetic rows). Differentiable.
    bandwidth : float or Tensor, shape () or (m,)
        Kernel bandwidth g, in the unit of `q`. Finite and positive, not differentiated.
    ridge : float
        Ridge τ >= 0.
    sigma : float
        Standard deviation of the noise on `p`, in the unit of `q`.

    Returns
    -------
    Tensor, shape (m, b)
        The ratios r; noise may make them negative.

    Raises
    ------
    TypeError
        If an input is no tensor, or dtypes are unsupported or differ.
    ValueError
        If shapes disagree, values are not finite, a number is out of range, `bandwidth` requires a
        gradient, or the Gram matrix plus ridge is not positive definite (the slice is named). On a
        CUDA device nothing waits for that: the slice is NaN, and the next call of this function or
        of `density_ratio_divergence`, once the device has come so far, raises for it; for a slice
        of a recorded graph, the next call after its replay. After the last call, nothing does.

    Notes
    -----
    On a CUDA device, where a gradient will be wanted, the Cholesky factors are kept for it: 4 b^2
    bytes a slice in float64, unless that is more than 512 MiB for all, or than there is; then they
    are made again.

    Examples
    --------
    >>> q = torch.zeros(1, 1, 2)
    >>> density_ratio(q, q, bandwidth=1.0, ridge=1.0)
    tensor([[0.5000]])
    """
    q, p = _tensors(q=q, p=p)
    ridge = _arrays.nonnegative_real("ridge", ridge)
    sigma = _arrays.nonnegative_real("sigma", sigma)
    result: Tensor = _call("density_ratio", q, p, _bandwidths(bandwidth, q), ridge, sigma)
    return result


# ----------------------------------------------------------------------- density_ratio_divergence


def _divergence_kernel(
    q: Tensor,
    p: Tensor,
    bandwidth: Tensor,
    ridge: float,
    sigma: float,
    divergence: int,
    alpha: float,
    r_min: float,
    need_p: bool,
) -> tuple[Tensor, Tensor]:
    private, synthetic = _arrays.point_pair("q", _detached(q), "p", _detached(p))
    given = _detached(bandwidth)
    rows = given.unbind(0) if given.ndim == 2 else [given]
    each = [_arrays.bandwidths("bandwidth", row, private) for row in rows]
    if len(each) == 1:
        bandwidths = each[0][None]  # [G, m]
    else:
        bandwidths = (torch.stack if _arrays.on_device(private.place) else np.stack)(each)
    for bandwidth_of_slice in each:
        _arrays.check_reach({"q": private, "p": synthetic}, "bandwidth", bandwidth_of_slice)
    core = _arrays.backend_for(private.place, later=True)
    value, grad_p = core.density_ratio_divergence(
        private.array,
        synthetic.array,
        bandwidths,
        _arrays.nonnegative_real("ridge", ridge),
        _arrays.nonnegative_real("sigma", sigma),
        divergence,
        alpha,
        r_min,
        need_p,
    )
    return _tensor(value), _tensor_or_empty(grad_p, q)


def _divergence_fake(
    q: Tensor, p: Tensor, bandwidth: Tensor, *numbers: Any
) -> tuple[Tensor, Tensor]:
    need_p = numbers[-1]
    _check_points("q", q, "p", p, bandwidth, "G")
    return q.new_empty(q.shape[0]), q.new_empty(p.shape if need_p else 0)


def _divergence_setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    q, p, bandwidth, *ctx.numbers, need_p = inputs
    ctx.mark_non_differentiable(output[1])
    # The call above may not have seen that a gradient would be wanted (it sees wrapped tensors
    # under torch.func). Then backward makes it, from the inputs.
    ctx.has_gradient = need_p
    ctx.save_for_backward(*((p, output[1]) if need_p else (p, q, bandwidth)))


def _divergence_backward(
    ctx: Any, grad: Tensor, grad_of_gradient: Tensor | None
) -> tuple[Tensor | None, ...]:
    need_q, need_p, need_bandwidth = ctx.needs_input_grad[:3]
    if need_q:
        raise ValueError(_NO_Q)
    if need_bandwidth:
        raise ValueError(_NO_BANDWIDTH)
    grad_p = None
    if need_p:
        if ctx.has_gradient:
            p, gradient = ctx.saved_tensors
        else:
            p, q, bandwidth = ctx.saved_tensors
            _, gradient = _call(
                "density_ratio_divergence", q, p.detach(), bandwidth, *ctx.numbers, True
            )
        grad_p = _call("density_ratio_divergence_vjp", p, gradient, grad)
    return None, grad_p, *[None] * 7  # q; all after p


def _divergence_vjp(p: Tensor, gradient: Tensor, grad: Tensor) -> Tensor:
    """Scale the gradient of each slice. `p` is there to be seen by a second differentiation."""
    return gradient * grad[:, None, None]


_NO_Q = (
    "q must not require a gradient: the fused loss is differentiated in p only; pass q.detach(), "
    "or use density_ratio"
)

_register(
    "density_ratio_divergence(Tensor q, Tensor p, Tensor bandwidth, float ridge, float sigma, "
    "int divergence, float alpha, float r_min, bool need_p) -> (Tensor, Tensor)",
    _divergence_kernel,
    _divergence_fake,
    setup_context=_divergence_setup_context,
    backward=_divergence_backward,
    slice_axes={2: 1},
)
_register(
    "density_ratio_divergence_vjp(Tensor p, Tensor gradient, Tensor grad) -> Tensor",
    _divergence_vjp,
    _divergence_vjp,
)


def density_ratio_divergence(
    q: Tensor,
    p: Tensor,
    bandwidth: Number | Tensor,
    ridge: float,
    divergence: str | Divergence = "kl",
    sigma: float = 0.0,
) -> Tensor:
    r"""Estimate of the f-divergence of P from Q by their density ratio, slice by slice.

    .. math::
        D_s = \frac1b \sum_i f(\max(r_{si}, 0)), \quad
        r = \frac1G \sum_g (K_{qq} + \tau I)^{-1} w

    with w and K as in `density_ratio`. Divergences that are infinite at 0, or steep there, cut r at
    their ``r_min`` instead of 0.

    Parameters
    ----------
    q : Tensor, shape (m, b, k), float32 or float64
        Rows of the reference (the noisy private rows). Not differentiated.
    p : Tensor, shape (m, c, k)
        Rows whose density is compared (the synthetic rows). Differentiable.
    bandwidth : float or Tensor, shape (), (m,) or (G, m)
        Kernel bandwidths g, in the unit of `q`; of several, the ratios are averaged.
    ridge : float
        Ridge τ >= 0.
    divergence : str or Divergence
        A name of the registry, or a divergence of one's own.
    sigma : float
        Standard deviation of the noise on `p`, averaged over in closed form.

    Returns
    -------
    Tensor, shape (m,)
        The divergence on each slice.

    Raises
    ------
    TypeError
        If an input is no tensor, or dtypes are unsupported or differ.
    ValueError
        If shapes disagree, values are not finite, a number is out of range, `q` or `bandwidth`
        requires a gradient, the divergence is unknown, or a Gram matrix plus ridge is not positive
        definite (the slice is named; on a CUDA device by a later call, as `density_ratio` says).

    Notes
    -----
    Value and gradient are made in one call, while the factors of a slice are in cache; backward is
    a multiplication. For a divergence of one's own, the ratio is a call of its own, and its
    ``value`` is called with a tensor and differentiated by autograd.

    Examples
    --------
    >>> q = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(1, 20, 1)
    >>> near = density_ratio_divergence(q, q, bandwidth=0.5, ridge=0.01)
    >>> far = density_ratio_divergence(q, q + 1, bandwidth=0.5, ridge=0.01)
    >>> bool(near < far)
    True
    """
    q, p = _tensors(q=q, p=p)
    if q.requires_grad:
        raise ValueError(_NO_Q)
    ridge = _arrays.nonnegative_real("ridge", ridge)
    sigma = _arrays.nonnegative_real("sigma", sigma)
    chosen = get_divergence(divergence)
    bandwidths = _bandwidths(bandwidth, q)
    if bandwidths.ndim == 1:
        bandwidths = bandwidths[None]  # [G, m]
    if chosen.code < 0:  # one's own
        ratios = [_call("density_ratio", q, p, g, ridge, sigma) for g in bandwidths.unbind(0)]
        ratio = torch.stack(ratios).mean(0)
        kept = torch.where(ratio > chosen.r_min, ratio, chosen.r_min)
        own: Tensor = chosen.value(kept)
        if not isinstance(own, Tensor) or own.shape != ratio.shape:
            raise ValueError(
                f"divergence {chosen.name!r} must map a tensor of ratios to one of its shape "
                f"{tuple(ratio.shape)}; got {_arrays.describe(own)}"
            )
        return own.mean(-1)
    need_p = torch.is_grad_enabled() and p.requires_grad
    value: Tensor = _call(
        "density_ratio_divergence",
        q,
        p,
        bandwidths,
        ridge,
        sigma,
        chosen.code,
        chosen.alpha,
        chosen.r_min,
        need_p,
    )[0]
    return value


# ---------------------------------------------------------------------------- sliced_wasserstein


def _wasserstein_kernel(
    x: Tensor, y: Tensor, order: float, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    first, second = kernels.value_operands(_detached(x), _detached(y))
    core = _arrays.backend_for(first.place, later=True)
    order = _arrays.real_at_least_one("order", order)
    value, grad_x, grad_y = core.sliced_wasserstein_gradient(
        first.array, second.array, order, need_x, need_y
    )
    _arrays.power_values(value, first, second, order)
    return _tensor(value), _tensor_or_empty(grad_x, x), _tensor_or_empty(grad_y, x)


def _wasserstein_fake(
    x: Tensor, y: Tensor, order: float, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _arrays.layout("x", x, ("m", "b"))
    _arrays.layout("y", y, (x.shape[0], "c"), like=x)
    return (
        x.new_empty(x.shape[0]),
        x.new_empty(x.shape if need_x else 0),
        x.new_empty(y.shape if need_y else 0),
    )


def _wasserstein_setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, y, ctx.order, *made = inputs
    ctx.mark_non_differentiable(*output[1:])
    # As for the divergence: the call may not have seen that a gradient would be wanted.
    ctx.made = tuple(made)
    ctx.save_for_backward(x, y, *output[1:])


def _wasserstein_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    need_x, need_y = ctx.needs_input_grad[:2]
    x, y, grad_x, grad_y = ctx.saved_tensors
    made_x, made_y = ctx.made
    if (need_x and not made_x) or (need_y and not made_y):
        _, grad_x, grad_y = _call("sliced_wasserstein", x, y, ctx.order, need_x, need_y)
    scaled = _call("sliced_wasserstein_vjp", x, y, grad_x, grad_y, grad, need_x, need_y)
    return _asked(scaled[0], need_x), _asked(scaled[1], need_y), *[None] * 3  # order, needs


def _wasserstein_vjp(
    x: Tensor,
    y: Tensor,
    grad_x: Tensor,
    grad_y: Tensor,
    grad: Tensor,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor]:
    """Scale the gradients of each slice. `x` and `y` are seen by a second differentiation only."""
    return (
        grad_x * grad[:, None] if need_x else grad.new_empty(0),
        grad_y * grad[:, None] if need_y else grad.new_empty(0),
    )


_register(
    "sliced_wasserstein(Tensor x, Tensor y, float order, bool need_x, bool need_y)"
    " -> (Tensor, Tensor, Tensor)",
    _wasserstein_kernel,
    _wasserstein_fake,
    setup_context=_wasserstein_setup_context,
    backward=_wasserstein_backward,
)
_register(
    "sliced_wasserstein_vjp(Tensor x, Tensor y, Tensor grad_x, Tensor grad_y, Tensor grad, "
    "bool need_x, bool need_y) -> (Tensor, Tensor)",
    _wasserstein_vjp,
    _wasserstein_vjp,
)


def sliced_wasserstein(x: Tensor, y: Tensor, order: float = 2) -> Tensor:
    r"""Wasserstein distance of two sets of numbers, to the power `order`, slice by slice.

    .. math:: W_s = \int_0^1 |X_s^{-1}(u) - Y_s^{-1}(u)|^q \, du

    with the empirical quantile functions; for b = c, the mean of :math:`|x_{(i)} - y_{(i)}|^q`.

    Parameters
    ----------
    x : Tensor, shape (m, b), float32 or float64
        Values of each slice. Differentiable.
    y : Tensor, shape (m, c)
        Values that they are compared with. Differentiable.
    order : float
        Order q >= 1.

    Returns
    -------
    Tensor, shape (m,)
        The distances to the power q.

    Raises
    ------
    TypeError
        If an input is no tensor, or dtypes are unsupported or differ.
    ValueError
        If shapes disagree, values are not finite or so far apart that a result is beyond their
        dtype, or `order` is below 1.

    Notes
    -----
    Value and gradients are made in one call, from one sort of each side; backward is a
    multiplication.

    Examples
    --------
    >>> sliced_wasserstein(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 2.0]]), order=1)
    tensor([2.])
    """
    x, y = _tensors(x=x, y=y)
    order = _arrays.real_at_least_one("order", order)
    graded = torch.is_grad_enabled()
    needs = (graded and x.requires_grad, graded and y.requires_grad)
    value: Tensor = _call("sliced_wasserstein", x, y, order, *needs)[0]
    return value


# ------------------------------------------------------------------------------- median_distance


def _median_kernel(x: Tensor) -> Tensor:
    result: Tensor = kernels.median_distance(_detached(x))
    return result


def _median_fake(x: Tensor) -> Tensor:
    _arrays.layout("x", x, ("m", "b", "k"))
    return x.new_empty(x.shape[0])


def _check_median_vjp(x: Tensor, grad: Tensor) -> None:
    _arrays.layout("x", x, ("m", "b", "k"))
    _arrays.layout("grad", grad, (x.shape[0],), like=x)


def _median_vjp_kernel(x: Tensor, grad: Tensor) -> Tensor:
    core, *arrays = _kernels_and_arrays(x, grad)
    return _tensor(core.median_distance_vjp(*arrays))


def _median_setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _median_backward(ctx: Any, grad: Tensor) -> Tensor:
    result: Tensor = _call("median_distance_vjp", *ctx.saved_tensors, grad)
    return result


_register(
    "median_distance(Tensor x) -> Tensor",
    _median_kernel,
    _median_fake,
    setup_context=_median_setup_context,
    backward=_median_backward,
)
_register(
    "median_distance_vjp(Tensor x, Tensor grad) -> Tensor",
    _median_vjp_kernel,
    lambda x, grad: torch.empty_like(x, memory_format=torch.contiguous_format),
    check=_check_median_vjp,
)


def median_distance(x: Tensor) -> Tensor:
    r"""Median of the pairwise distances of the rows, slice by slice.

    .. math:: \operatorname{median}_{i < j} \|x_{si} - x_{sj}\|

    Parameters
    ----------
    x : Tensor, shape (m, b, k), float32 or float64
        At least two points per slice. Differentiable: the gradient is that of the pair (or the two
        pairs) in the middle, and 0 if its points coincide.

    Returns
    -------
    Tensor, shape (m,)
        Medians, in the unit of `x`; for an even number of pairs, the mean of the two middle ones.

    Raises
    ------
    TypeError
        If `x` is no tensor, or its dtype is unsupported.
    ValueError
        If its shape is not (m, b, k) with b >= 2, or its values are not finite.

    Notes
    -----
    The distances are never stored: O(b) memory per slice.

    Examples
    --------
    >>> median_distance(torch.tensor([[[0.0], [1.0], [3.0]]]))
    tensor([2.])
    """
    (x,) = _tensors(x=x)
    result: Tensor = _call("median_distance", x)
    return result
