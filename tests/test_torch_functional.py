"""The kernels as torch operators: values, derivatives, registration, transformations, errors."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import torch_reference as reference
from dpslice import _arrays, _core
from dpslice.divergences import Divergence, get_divergence
from dpslice.torch import functional

F64 = torch.float64


def points(*shape: int, seed: int = 0, dtype: torch.dtype = F64, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=F64).to(dtype)
    return values.requires_grad_(grad)


def bandwidths(m: int, dtype: torch.dtype = F64) -> Tensor:
    return 0.625 + 0.375 * torch.arange(m, dtype=dtype)  # the same numbers in both dtypes


@dataclasses.dataclass(frozen=True)
class Op:
    """An operator with inputs: `call` is ours and `naive` the formula, of the same tensors."""

    name: str
    call: Callable[..., Tensor]
    naive: Callable[..., Tensor]
    inputs: tuple[tuple[tuple[int, ...], int], ...]  # shapes and seeds of differentiable tensors
    direct: Callable[..., tuple[Any, ...]]  # arguments of torch.ops.dpslice.<name>
    constant: frozenset[int] = frozenset()  # positions that are not differentiated

    def tensors(self, dtype: torch.dtype = F64, *, grad: bool = False) -> tuple[Tensor, ...]:
        return tuple(
            points(*s, seed=i, dtype=dtype, grad=grad and position not in self.constant)
            for position, (s, i) in enumerate(self.inputs)
        )


M, B, C, K = 3, 7, 9, 2
X, Y, W, A = ((M, B, K), 1), ((M, C, K), 2), ((M, C), 3), ((M, B), 4)


def g_of(x: Tensor) -> Tensor:
    return bandwidths(x.shape[0], F64 if x.dtype == F64 else torch.float32)


def fused(q: Tensor, p: Tensor) -> Tensor:
    g = torch.stack([g_of(q), 2 * g_of(q)])
    return functional.density_ratio_divergence(q, p, g, 0.1, "pearson", 0.3)


def naive_fused(q: Tensor, p: Tensor) -> Tensor:
    ratios = [reference.density_ratio(q, p, f * g_of(q), 0.1, 0.3) for f in (1, 2)]
    return reference.DIVERGENCES["pearson"](torch.stack(ratios).mean(0).clamp_min(0)).mean(-1)


SUMS = ("gaussian_kernel_sum", "gaussian_kernel_logsumexp")


def kernel_sum(name: str) -> Op:
    ours, naive = getattr(functional, name), getattr(reference, name)
    return Op(
        name,
        lambda x, y, w: ours(x, y, g_of(x), w),
        lambda x, y, w: naive(x, y, g_of(x), w),
        (X, Y, W),
        lambda x, y, w: (x, y, g_of(x), w),
    )


def kernel_total(name: str) -> Op:
    ours, naive = getattr(functional, name), getattr(reference, name)
    return Op(
        f"{name}_total",
        lambda x, y, w, a: ours(x, y, g_of(x), w, row_weights=a),
        lambda x, y, w, a: (a * naive(x, y, g_of(x), w)).sum(-1),
        (X, Y, W, A),
        lambda x, y, w, a: (x, y, g_of(x), w, a, True, True),
        constant=frozenset({0}),
    )


PEARSON = get_divergence("pearson")

OPS = [
    *map(kernel_sum, SUMS),
    *map(kernel_total, SUMS),
    Op(
        "density_ratio",
        lambda q, p: functional.density_ratio(q, p, g_of(q), 0.1, 0.3),
        lambda q, p: reference.density_ratio(q, p, g_of(q), 0.1, 0.3),
        (X, Y),
        lambda q, p: (q, p, g_of(q), 0.1, 0.3),
    ),
    Op(
        "density_ratio_divergence",
        fused,
        naive_fused,
        (X, Y),
        lambda q, p: (
            q,
            p,
            g_of(q)[None],
            0.1,
            0.3,
            PEARSON.code,
            PEARSON.alpha,
            PEARSON.r_min,
            True,
        ),
        constant=frozenset({0}),
    ),
    Op(
        "sliced_wasserstein",
        lambda x, y: functional.sliced_wasserstein(x, y, 1.5),
        lambda x, y: reference.sliced_wasserstein(x, y, 1.5),
        (((M, B), 1), ((M, C), 2)),
        lambda x, y: (x, y, 1.5, True, True),
    ),
    Op(
        "median_distance",
        functional.median_distance,
        reference.median_distance,
        (X,),
        lambda x: (x,),
    ),
]
every_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)

# torch's own, in opcheck, since 2.14; it hides it from users, but not from who makes it an error.
opcheck_warns = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def gradients(outputs: Tensor, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of a fixed functional of the outputs, in the tensors that want one."""
    cotangent = points(*outputs.shape, seed=99, dtype=outputs.dtype)
    return list(torch.autograd.grad(outputs, [t for t in tensors if t.requires_grad], cotangent))


# ------------------------------------------------------------------------- values and derivatives


@every_op
@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, 2e-5), (F64, 1e-11)], ids=["float32", "float64"]
)
def test_value_and_gradient_are_those_of_the_formula(op, dtype, tol):
    # Tolerances: the accuracy promised for kernels (1e-5, 1e-12) times the condition number of a
    # Gram matrix with ridge 0.1, which is below 100, relative to the largest entry.
    ours = op.tensors(dtype, grad=True)
    exact = tuple(t.detach().to(F64).requires_grad_(t.requires_grad) for t in ours)
    value, expected = op.call(*ours), op.naive(*exact)
    assert value.dtype == dtype
    assert value.shape == expected.shape
    torch.testing.assert_close(value.to(F64), expected, rtol=tol, atol=tol)
    for got, want in zip(gradients(value, ours), gradients(expected, exact), strict=True):
        assert got.dtype == dtype
        scale = float(want.abs().max())
        torch.testing.assert_close(got.to(F64), want, rtol=5 * tol, atol=5 * tol * scale)


@every_op
def test_gradcheck(op):
    tensors = op.tensors(grad=True)
    assert gradcheck(op.call, tensors)


@pytest.mark.parametrize(("b", "c"), [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_gradcheck_of_single_points(b, c):
    x, y, w = (
        points(2, b, 3, grad=True),
        points(2, c, 3, seed=1, grad=True),
        points(2, c, grad=True),
    )
    g = bandwidths(2)
    assert gradcheck(lambda x, y, w: functional.gaussian_kernel_sum(x, y, g, w), (x, y, w))
    assert gradcheck(lambda x, y, w: functional.gaussian_kernel_logsumexp(x, y, g, w), (x, y, w))
    assert gradcheck(lambda q, p: functional.density_ratio(q, p, g, 0.1, 0.2), (x, y))
    assert gradcheck(
        lambda p: functional.density_ratio_divergence(x.detach(), p, g, 0.1, "pearson"), (y,)
    )
    assert gradcheck(
        lambda x, y: functional.sliced_wasserstein(x, y, 2),
        (points(2, b, grad=True), points(2, c, seed=1, grad=True)),
    )
    if b > 1:
        assert gradcheck(functional.median_distance, (x,))


def test_gradcheck_at_coincident_points():
    x = points(2, 4, 2)
    x[:, 1] = x[:, 0]
    q, p = x.clone().requires_grad_(), x[:, :3].clone().requires_grad_()
    g = bandwidths(2)
    assert gradcheck(lambda x, y: functional.gaussian_kernel_sum(x, y, g), (q, p))
    assert gradcheck(lambda x, y: functional.gaussian_kernel_logsumexp(x, y, g), (q, p))
    assert gradcheck(lambda q, p: functional.density_ratio(q, p, g, 0.1), (q, p))
    assert gradcheck(lambda p: functional.density_ratio_divergence(x, p, g, 0.1, "pearson"), (p,))


def test_gradient_of_coincident_values_is_that_of_the_minimum():
    # |x - y|^q has the subgradient 0 at x = y.
    x = torch.zeros(1, 3, dtype=F64, requires_grad=True)
    y = torch.zeros(1, 3, dtype=F64, requires_grad=True)
    for order in (1, 1.5, 2):
        value = functional.sliced_wasserstein(x, y, order)
        for grad in torch.autograd.grad(value.sum(), (x, y)):
            assert torch.equal(grad, torch.zeros_like(grad))
    points_ = torch.zeros(1, 4, 2, dtype=F64, requires_grad=True)
    (grad,) = torch.autograd.grad(functional.median_distance(points_).sum(), points_)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_gradcheck_where_kernels_underflow():
    x = points(2, 3, 2, grad=True)
    y = (points(2, 4, 2, seed=1) + 40.0).requires_grad_()
    g = bandwidths(2)  # exponents are below -1000, those of float64 above -746
    for function in (
        lambda x, y: functional.gaussian_kernel_sum(x, y, g),
        lambda x, y: functional.density_ratio(x, y, g, 0.1),
    ):
        value = function(x, y)
        assert torch.equal(value, torch.zeros_like(value))
        assert gradcheck(function, (x, y))
    assert gradcheck(lambda x, y: functional.gaussian_kernel_logsumexp(x, y, g), (x, y))


def test_all_weights_zero():
    x, y = points(1, 2, 2, grad=True), points(1, 3, 2, seed=1, grad=True)
    log_weights = torch.full((1, 3), -torch.inf, dtype=F64, requires_grad=True)
    value = functional.gaussian_kernel_logsumexp(x, y, 1.0, log_weights)
    assert torch.equal(value, torch.full_like(value, -torch.inf))
    for grad in torch.autograd.grad(value, (x, y, log_weights), torch.ones_like(value)):
        assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("name", ["gaussian_kernel_sum", "gaussian_kernel_logsumexp"])
def test_total_with_a_gradient_in_x(name):
    """Then the sums are a call of their own: the result is the same."""
    x, y, a = points(2, 5, 3, seed=1), points(2, 6, 3, seed=2), points(2, 5, seed=3)
    op, formula = getattr(functional, name), getattr(reference, name)
    for tensor in (x, y, a):
        tensor.requires_grad_(True)
    total = op(x, y, 0.8, row_weights=a)
    expected = (a * formula(x, y, torch.full((2,), 0.8, dtype=F64), None)).sum(-1)
    torch.testing.assert_close(total, expected)
    for found, truth in zip(
        gradients(total, (x, y, a)), gradients(expected, (x, y, a)), strict=True
    ):
        torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("name", ["gaussian_kernel_sum", "gaussian_kernel_logsumexp"])
@pytest.mark.parametrize("needed", ["nothing", "x", "y"])
def test_row_weights_are_checked_whatever_is_differentiated(name, needed):
    x, y = torch.ones(2, 3, 1), torch.ones(2, 4, 1)
    {"x": x, "y": y, "nothing": torch.ones(1)}[needed].requires_grad_()
    op = getattr(functional, name)
    for weights, error, match in (
        (torch.ones(3), ValueError, r"row_weights must have shape \(2, 3\)"),
        (torch.ones(2, 1), ValueError, r"row_weights must have shape \(2, 3\)"),
        (torch.ones(2, 3, dtype=torch.float64), TypeError, "row_weights must have"),
        (torch.ones(2, 3, dtype=torch.int64), TypeError, "row_weights must have"),
        (torch.tensor([[1.0, math.nan, 1.0], [1.0] * 3]), ValueError, "row_weights must hold fin"),
    ):
        with pytest.raises(error, match=match):
            op(x, y, 1.0, row_weights=weights)


@pytest.mark.parametrize("name", ["gaussian_kernel_sum", "gaussian_kernel_logsumexp"])
@pytest.mark.parametrize("wanted", [(), ("x",), ("y",)])
def test_gradient_in_the_row_weights_is_the_sums(name, wanted):
    """Also where a weight is zero, and whatever else has a gradient."""
    x, y = points(2, 5, 3, seed=1), points(2, 6, 3, seed=2)
    sums = getattr(functional, name)(x, y, 0.8)
    a = torch.zeros(2, 5, dtype=F64, requires_grad=True)
    for tensor, letter in ((x, "x"), (y, "y")):
        tensor.requires_grad_(letter in wanted)
    getattr(functional, name)(x, y, 0.8, row_weights=a).sum().backward()
    torch.testing.assert_close(a.grad, sums)


def test_total_leaves_out_rows_of_weight_zero():
    """Even one whose log sum is -inf."""
    x, y = points(2, 4, 2, seed=1), points(2, 3, 2, seed=2, grad=True)
    log_weights = torch.zeros(2, 3, dtype=F64)
    log_weights[1] = -math.inf
    a = torch.ones(2, 4, dtype=F64)
    a[1] = 0
    total = functional.gaussian_kernel_logsumexp(x, y, 1.0, log_weights, row_weights=a)
    assert torch.isfinite(total[0])
    assert total[1] == 0
    (grad,) = torch.autograd.grad(total.sum(), y)
    assert torch.isfinite(grad).all()
    assert (grad[1] == 0).all()


@pytest.mark.parametrize("wanted", [(), ("x",), ("y",)])
def test_a_row_that_is_left_out_has_no_gradient_in_its_weight(wanted):
    x, y = points(2, 4, 2, seed=1), points(2, 3, 2, seed=2)
    for tensor, letter in ((x, "x"), (y, "y")):
        tensor.requires_grad_(letter in wanted)
    log_weights = torch.zeros(2, 3, dtype=F64)
    log_weights[1] = -math.inf
    a = torch.ones(2, 4, dtype=F64)
    a[1] = 0
    a.requires_grad_(True)
    total = functional.gaussian_kernel_logsumexp(x, y, 1.0, log_weights, row_weights=a)
    (grad,) = torch.autograd.grad(total.sum(), a)
    torch.testing.assert_close(grad[0], functional.gaussian_kernel_logsumexp(x, y, 1.0)[0])
    assert (grad[1] == 0).all()


@pytest.mark.parametrize("name", [*reference.DIVERGENCES])
def test_fused_divergence_is_that_of_the_ratio(name):
    q, p = points(2, 8, 2), points(2, 6, 2, seed=1, grad=True)
    g = torch.stack([bandwidths(2), 1.5 * bandwidths(2), 0.4 * bandwidths(2)])
    chosen = get_divergence(name)
    value = functional.density_ratio_divergence(q, p, g, 0.05, name, 0.2)
    ratios = [reference.density_ratio(q, p, each, 0.05, 0.2) for each in g]
    ratio = torch.stack(ratios).mean(0)
    # Some ratios lie below 0: they are cut, and have no gradient.
    expected = reference.DIVERGENCES[name](ratio.clamp_min(max(chosen.r_min, 1e-300))).mean(-1)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    (got,) = torch.autograd.grad(value.sum(), p)
    (want,) = torch.autograd.grad(expected.sum(), p)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("name", ["kl", "js", "pearson", "alpha(0.5)"])
def test_divergence_of_ones_own_agrees_with_the_fused_one(name):
    formulas = {**reference.DIVERGENCES, "alpha(0.5)": lambda t: 2 * (t.sqrt() - 1) ** 2}
    built_in = get_divergence(name)
    own = Divergence("own", value=formulas[name], r_min=built_in.r_min)
    q, p = points(2, 8, 2), points(2, 6, 2, seed=1, grad=True)
    g = torch.stack([bandwidths(2), 1.5 * bandwidths(2)])
    values, grads = [], []
    for divergence in (built_in, own):
        value = functional.density_ratio_divergence(q, p, g, 0.1, divergence, 0.2)
        values.append(value.detach())
        grads.append(torch.autograd.grad(value.sum(), p)[0])
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-11)


# -------------------------------------------------------------------------------------- project

KEY = (2**64 - 3, 17)


def test_project_without_noise_is_a_product():
    x, frame = points(5, 3, grad=True), points(3, 4, seed=1, grad=True)
    value = functional.project(x, frame, 0.0, "fast")
    torch.testing.assert_close(value, x @ frame, rtol=1e-13, atol=1e-13)
    cotangent = points(5, 4, seed=2)
    got = torch.autograd.grad(value, (x, frame), cotangent)
    want = torch.autograd.grad(x @ frame, (x, frame), cotangent)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("noise", ["secure", "fast"])
def test_project_adds_noise_that_is_not_differentiated(noise):
    # 4000 normal values: their variance lies within 5 standard errors (wrong in 1 of 10^6 seeds).
    x, frame = points(1000, 3, grad=True), points(3, 4, seed=1)
    value = functional.project(x, frame, 0.5, noise)
    variance = float((value - x @ frame).detach().square().mean())
    assert abs(variance / 0.25 - 1) < 5 * math.sqrt(2 / 4000)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(gradient, frame.sum(1).expand(1000, 3))
    assert not torch.equal(value, functional.project(x, frame, 0.5, noise))


def test_project_derivatives():
    x, frame = points(5, 3, grad=True), points(3, 4, seed=1, grad=True)

    def call(x: Tensor, frame: Tensor) -> Tensor:
        return functional.project(x, frame, 0.3, "fast", KEY)

    assert torch.equal(call(x, frame), call(x, frame))
    assert gradcheck(call, (x, frame))
    assert gradgradcheck(call, (x, frame))
    pulled = torch.func.grad(lambda x: call(x, frame.detach()).square().sum())(x.detach())
    (want,) = torch.autograd.grad(call(x, frame).square().sum(), x)
    torch.testing.assert_close(pulled, want)


@opcheck_warns
def test_project_is_one_operator():
    x, frame = points(5, 3, grad=True), points(3, 4, seed=1, grad=True)
    op = torch.ops.dpslice.project.default
    torch.library.opcheck(op, (x, frame, 0.3, "fast", [-3, 17]))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: functional.project(x, frame, 0.3, "fast", KEY),
        fullgraph=True,
        backend="aot_eager",
    )
    assert torch.equal(compiled(x), functional.project(x, frame, 0.3, "fast", KEY))


def test_project_under_vmap():
    x, frame = points(2, 5, 3), points(3, 4, seed=1)
    exact = torch.func.vmap(lambda x: functional.project(x, frame, 0.0, "fast"))(x)
    torch.testing.assert_close(exact, x @ frame)
    noisy = torch.func.vmap(
        lambda x: functional.project(x, frame, 0.3, "fast", KEY), randomness="different"
    )
    noise = noisy(x) - x @ frame
    assert not torch.allclose(noise[0], noise[1])
    with pytest.raises(ValueError, match=r"needs vmap.*randomness='different'"):
        torch.func.vmap(lambda x: functional.project(x, frame, 0.3, "fast"))(x)
    with pytest.raises(NotImplementedError, match="vmap over frame"):
        torch.func.vmap(lambda f: functional.project(x[0], f, 0.0, "fast"))(
            torch.stack([frame] * 2)
        )


def test_project_refuses_wrong_arguments():
    x, frame = points(5, 3), points(3, 4)
    with pytest.raises(ValueError, match=r"frame must have shape \(3, p\); got \(4, 4\)"):
        functional.project(x, points(4, 4), 1.0)
    with pytest.raises(ValueError, match="sigma must be a finite number >= 0"):
        functional.project(x, frame, -1.0)
    with pytest.raises(ValueError, match="noise must be one of"):
        functional.project(x, frame, 1.0, "slow")
    with pytest.raises(TypeError, match="frame must be a torch tensor"):
        functional.project(x, frame.numpy(), 1.0)  # type: ignore[arg-type]
    for key in (3, "ab", (1,), (1.0, 2.0)):
        with pytest.raises(TypeError, match="key must be"):
            functional.project(x, frame, 1.0, "fast", key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"key must be two integers below 2\^64"):
        functional.project(x, frame, 1.0, "fast", (0, 2**64))


# --------------------------------------------------------------------------------- registration


@opcheck_warns
@every_op
def test_opcheck(op):
    tensors = op.tensors(grad=True)
    torch.library.opcheck(getattr(torch.ops.dpslice, op.name).default, op.direct(*tensors))


@opcheck_warns
def test_opcheck_without_weights():
    x, y, _ = OPS[0].tensors(grad=True)
    for name in ("gaussian_kernel_sum", "gaussian_kernel_logsumexp"):
        op = getattr(torch.ops.dpslice, name).default
        torch.library.opcheck(op, (x, y, g_of(x), None))


def test_opcheck_of_derivatives():
    x, y, w = OPS[0].tensors()
    g, grad = g_of(x), points(M, B)
    ops = torch.ops.dpslice
    log_sums = ops.gaussian_kernel_logsumexp(x, y, g, w)
    for needs in ((True, True, True), (True, False, False), (False, True, False)):
        torch.library.opcheck(ops.gaussian_kernel_sum_vjp.default, (x, y, g, w, grad, *needs))
        torch.library.opcheck(
            ops.gaussian_kernel_logsumexp_vjp.default, (x, y, g, w, log_sums, grad, *needs)
        )
    ratio = ops.density_ratio(x, y, g, 0.1, 0.3)
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            ops.density_ratio_vjp.default, (x, y, g, ratio, grad, 0.1, 0.3, *needs)
        )
        values = (x[..., 0], y[..., 0])
        _, *grads = ops.sliced_wasserstein(*values, 2.0, *needs)
        torch.library.opcheck(
            ops.sliced_wasserstein_vjp.default, (*values, *grads, grad[:, 0], *needs)
        )
    torch.library.opcheck(ops.median_distance_vjp.default, (x, grad[:, 0]))


@every_op
def test_one_node_under_compile(op):
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    tensors = op.tensors(grad=True)
    compiled = torch.compile(op.call, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*tensors), op.call(*tensors), rtol=0, atol=0)
    (graph,) = graphs
    nodes = [n for n in graph.graph.nodes if "dpslice" in str(n.target)]
    assert len(nodes) == 1


@every_op
def test_compiled_gradient(op):
    torch._dynamo.reset()
    tensors = op.tensors(grad=True)
    compiled = torch.compile(op.call, fullgraph=True, backend="aot_eager")
    for got, want in zip(
        gradients(compiled(*tensors), tensors), gradients(op.call(*tensors), tensors), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------ transformations


def last_argument(op: Op) -> int:
    """Position of a tensor that every operator differentiates."""
    return 1 if len(op.inputs) > 1 else 0


@every_op
def test_func_grad_and_vjp(op):
    tensors = op.tensors()
    argument = last_argument(op)
    want = torch.func.grad(lambda *t: op.naive(*t).sum(), argument)(*tensors)
    got = torch.func.grad(lambda *t: op.call(*t).sum(), argument)(*tensors)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    before, after = tensors[:argument], tensors[argument + 1 :]
    value, pull = torch.func.vjp(lambda t: op.call(*before, t, *after), tensors[argument])
    torch.testing.assert_close(pull(torch.ones_like(value))[0], want, rtol=1e-9, atol=1e-11)


@every_op
def test_vmap_is_a_loop(op):
    batch = [tuple(t + i for t in op.tensors()) for i in range(3)]
    stacked = [torch.stack(t, dim=1) for t in zip(*batch, strict=True)]
    got = torch.func.vmap(op.call, in_dims=1)(*stacked)
    want = torch.stack([op.call(*t) for t in batch])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    # One batched argument, the others shared.
    tensors, argument = op.tensors(), last_argument(op)
    shifted = torch.stack([tensors[argument] + 0.1 * i for i in range(3)])

    def of_one(t: Tensor) -> Tensor:
        return op.call(*tensors[:argument], t, *tensors[argument + 1 :])

    got = torch.func.vmap(of_one)(shifted)
    torch.testing.assert_close(got, torch.stack([of_one(t) for t in shifted]))
    # Gradients inside and outside.
    gradient = torch.func.grad(lambda t: of_one(t).sum())
    want = torch.stack([gradient(t) for t in shifted])
    inside = torch.func.vmap(gradient)(shifted)
    outside = torch.func.grad(lambda t: torch.func.vmap(of_one)(t).sum())(shifted)
    torch.testing.assert_close(inside, want, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(outside, want, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@every_op
def test_forward_mode_is_refused(op):
    tensors = op.tensors()
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(op.call, tensors, tensors)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@every_op
def test_tangents_are_refused(op):
    with torch.autograd.forward_ad.dual_level():
        tensors = [torch.autograd.forward_ad.make_dual(t, torch.ones_like(t)) for t in op.tensors()]
        with pytest.raises(NotImplementedError, match="jvp"):
            op.call(*tensors)


class Listener(TorchDispatchMode):
    """Keeps the names of operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.heard.append(str(func))
        return func(*args, **(kwargs or {}))


class Subclass(Tensor):
    """A tensor that hears of every function called with it."""

    heard: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.heard.append(str(func))
        return super().__torch_function__(func, types, args, kwargs or {})


@every_op
def test_what_listens_hears_of_the_operator(op):
    """Plain calls take a shorter way than torch's dispatcher, if nothing would miss them there."""
    tensors = op.tensors(grad=True)
    want = op.call(*tensors)
    with Listener() as listener:
        torch.testing.assert_close(op.call(*tensors), want, rtol=0, atol=0)
    assert f"dpslice.{op.name}.default" in listener.heard
    Subclass.heard.clear()
    got = op.call(*(t.as_subclass(Subclass) for t in tensors))
    torch.testing.assert_close(got.as_subclass(Tensor), want, rtol=0, atol=0)
    assert f"dpslice.{op.name}" in Subclass.heard


@every_op
def test_a_profile_shows_the_operator(op):
    with torch.profiler.profile() as profile:
        op.call(*op.tensors(grad=True))
    assert f"dpslice::{op.name}" in {event.key for event in profile.key_averages()}


@every_op
def test_meta_tensors_have_shapes(op):
    with torch.device("meta"):
        found = op.call(*(torch.empty(t.shape, dtype=t.dtype) for t in op.tensors()))
    assert found.is_meta
    assert found.shape == op.call(*op.tensors()).shape


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@every_op
def test_vectorized_jacobian(op):
    """Which hands backward a batch that looks like a plain tensor."""
    tensors, i = op.tensors(), last_argument(op)

    def of_one(t: Tensor) -> Tensor:
        return op.call(*tensors[:i], t, *tensors[i + 1 :])

    jacobian = torch.autograd.functional.jacobian
    torch.testing.assert_close(
        jacobian(of_one, tensors[i], vectorize=True), jacobian(of_one, tensors[i])
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@every_op
def test_a_trace_holds_the_operator(op):
    traced = torch.jit.trace(op.call, op.tensors(grad=True), check_trace=False)
    assert f"dpslice::{op.name}(" in str(traced.graph)


@every_op
def test_second_derivatives_are_refused(op):
    tensors = op.tensors(grad=True)
    argument = tensors[last_argument(op)]
    value = op.call(*tensors).square().sum()
    (gradient,) = torch.autograd.grad(value, argument, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"{op.name} can be differentiated once only"):
        gradient.sum().backward()

    constant, i = op.tensors(), last_argument(op)

    def of_one(t: Tensor) -> Tensor:
        return op.call(*constant[:i], t, *constant[i + 1 :]).sum()

    first = torch.func.grad(of_one)
    with pytest.raises(NotImplementedError, match=f"{op.name} can be differentiated once only"):
        torch.func.grad(lambda t: first(t).sum())(argument.detach())


@every_op
def test_no_grad(op):
    tensors = op.tensors(grad=True)
    with torch.no_grad():
        assert not op.call(*tensors).requires_grad
    with torch.inference_mode():
        assert not op.call(*op.tensors()).requires_grad
    assert op.call(*tensors).requires_grad


# ---------------------------------------------------------------------------------- inputs


@every_op
def test_strided_and_expanded_inputs(op):
    tensors = op.tensors(grad=True)
    value = op.call(*tensors)
    grads = gradients(value, tensors)
    strided = tuple(
        torch.stack([t.detach(), t.detach()], dim=-1).transpose(0, 1)[..., 0].transpose(0, 1)
        for t in tensors
    )
    assert not any(t.is_contiguous() for t in strided)
    for t, original in zip(strided, tensors, strict=True):
        t.requires_grad_(original.requires_grad)
    again = op.call(*strided)
    assert torch.equal(value, again)
    for got, want in zip(gradients(again, strided), grads, strict=True):
        assert torch.equal(got, want)
    row = tuple(t.detach()[:1].requires_grad_(t.requires_grad) for t in tensors)
    expanded = tuple(t.expand(M, *t.shape[1:]) for t in row)
    copied = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in expanded)
    a, b = op.call(*expanded), op.call(*copied)
    assert torch.equal(a, b)
    for got, want in zip(gradients(a, row), gradients(b, copied), strict=True):
        torch.testing.assert_close(got, want.sum(0, keepdim=True))


@pytest.mark.parametrize("bandwidth", [0.7, 1, torch.tensor(0.7), torch.tensor(0.7, dtype=F64)])
def test_scalar_bandwidth_is_broadcast(bandwidth):
    x, y = points(3, 4, 2), points(3, 5, 2, seed=1)
    vector = torch.full((3,), float(bandwidth), dtype=F64)
    for function in (
        functional.gaussian_kernel_sum,
        functional.gaussian_kernel_logsumexp,
        lambda x, y, g: functional.density_ratio(x, y, g, 0.1),
        lambda x, y, g: functional.density_ratio_divergence(x, y, g, 0.1),
    ):
        assert torch.equal(function(x, y, bandwidth), function(x, y, vector))


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    asked: list[tuple[bool, ...]] = []
    for name, flags in {
        "gaussian_kernel_sum_vjp": 3,
        "density_ratio_vjp": 2,
        "sliced_wasserstein_gradient": 2,
    }.items():
        kernel = getattr(_core, name)

        def spy(*args: Any, _kernel: Any = kernel, _flags: int = flags) -> Any:
            asked.append(args[-_flags:])
            return _kernel(*args)

        monkeypatch.setattr(_core, name, spy)
    x, y = points(2, 3, 2), points(2, 4, 2, grad=True)
    functional.density_ratio(x, y, 1.0, 0.1).sum().backward()
    functional.density_ratio(y, x, 1.0, 0.1).sum().backward()
    functional.sliced_wasserstein(x[..., 0], y[..., 0]).sum().backward()
    assert asked == [(False, True), (True, False), (False, True)]


def test_fused_loss_is_one_call(monkeypatch):
    calls: list[bool] = []
    kernel = _core.density_ratio_divergence

    def spy(*args: Any) -> Any:
        calls.append(args[-1])
        return kernel(*args)

    monkeypatch.setattr(_core, "density_ratio_divergence", spy)
    q, p = points(2, 3, 2), points(2, 4, 2, seed=1, grad=True)
    functional.density_ratio_divergence(q, p, 1.0, 0.1).sum().backward()
    assert calls == [True]  # backward only scaled what the first call made
    with torch.no_grad():
        functional.density_ratio_divergence(q, p, 1.0, 0.1)
    functional.density_ratio_divergence(q, p.detach(), 1.0, 0.1)
    assert calls == [True, False, False]


@pytest.mark.parametrize("name", ["gaussian_kernel_sum", "gaussian_kernel_logsumexp"])
def test_a_total_without_gradients_is_that_of_plain_sums(name, monkeypatch):
    """Which take one exponential a pair as well, and no sums over rows beside."""
    x, y, a = points(2, 5, 3, seed=1), points(2, 6, 3, seed=2, grad=True), points(2, 5, seed=3)
    total = getattr(functional, name)(x, y, 0.8, row_weights=a)
    monkeypatch.delattr(_core, f"{name}_total")
    with torch.no_grad():
        torch.testing.assert_close(getattr(functional, name)(x, y, 0.8, row_weights=a), total)


@every_op
def test_autocast(op):
    tensors = op.tensors(torch.bfloat16, grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = op.call(*tensors)
    expected = op.call(*(t.detach().float() for t in tensors))
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    for grad in gradients(value, tensors):
        assert grad.dtype == torch.bfloat16


@every_op
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_dtypes_are_refused(op, dtype):
    with pytest.raises(TypeError, match="must have dtype float32 or float64; got"):
        op.call(*op.tensors(dtype))


@every_op
def test_mixed_dtypes_are_refused(op):
    first, *rest = op.tensors()
    if rest:
        with pytest.raises(TypeError, match="must have dtype float32 like the others"):
            op.call(first.float(), *rest)


@every_op
def test_tensors_of_which_some_have_no_values_are_refused(op):
    first, *rest = op.tensors()
    if rest:
        for tensors in ((first.to("meta"), *rest), (first, rest[0].to("meta"), *rest[1:])):
            with pytest.raises(ValueError, match="must be on"):
                op.call(*tensors)


@every_op
def test_wrong_rank_and_empty_axes_are_refused(op):
    tensors = op.tensors()
    with pytest.raises(ValueError, match="must have shape"):
        op.call(*(t[0] for t in tensors))
    with pytest.raises(ValueError, match="without an empty axis"):
        op.call(*(t[:, :0] for t in tensors))


def test_mismatched_shapes_are_refused():
    x, y = points(2, 3, 2), points(2, 4, 2)
    with pytest.raises(ValueError, match=r"y must have shape \(2, c, 2\); got \(2, 4, 3\)"):
        functional.gaussian_kernel_sum(x, points(2, 4, 3), 1.0)
    with pytest.raises(ValueError, match=r"p must have shape \(2, c, 2\); got \(3, 4, 2\)"):
        functional.density_ratio(x, points(3, 4, 2), 1.0, 0.1)
    with pytest.raises(ValueError, match=r"weights must have shape \(2, 4\); got \(2, 3\)"):
        functional.gaussian_kernel_sum(x, y, 1.0, points(2, 3))
    with pytest.raises(ValueError, match=r"log_weights must have shape \(2, 4\); got \(2, 3\)"):
        functional.gaussian_kernel_logsumexp(x, y, 1.0, points(2, 3))
    with pytest.raises(ValueError, match=r"bandwidth must have shape \(2,\); got \(3,\)"):
        functional.gaussian_kernel_sum(x, y, bandwidths(3))
    with pytest.raises(ValueError, match=r"bandwidth must have shape \(2,\); got \(3,\)"):
        functional.density_ratio_divergence(x, y, points(4, 3).abs(), 0.1)
    with pytest.raises(ValueError, match=r"y must have shape \(2, c\); got \(3, 4\)"):
        functional.sliced_wasserstein(x[..., 0], points(3, 4))
    for gradient in (False, True):  # two ways to the total
        rows = x.clone().requires_grad_(gradient)
        for shape in ((3,), (2, 1), (2, 4)):
            with pytest.raises(ValueError, match=r"row_weights must have shape \(2, 3\)"):
                functional.gaussian_kernel_sum(rows, y, 1.0, row_weights=points(*shape))
        with pytest.raises(TypeError, match=r"row_weights must have dtype .*float64 like "):
            functional.gaussian_kernel_sum(rows, y, 1.0, row_weights=points(2, 3).float())
        with pytest.raises(ValueError, match="row_weights must hold finite numbers"):
            functional.gaussian_kernel_sum(rows, y, 1.0, row_weights=math.nan * points(2, 3))
    with pytest.raises(ValueError, match="b >= 2"):
        functional.median_distance(points(2, 1, 2))


def test_wrong_numbers_are_refused():
    x, y = points(2, 3, 2), points(2, 4, 2)
    for bandwidth in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="bandwidth must be a finite number > 0"):
            functional.gaussian_kernel_sum(x, y, bandwidth)
        with pytest.raises(ValueError, match="bandwidth must be finite and > 0"):
            functional.density_ratio(x, y, torch.tensor([1.0, bandwidth]), 0.1)
    with pytest.raises(TypeError, match="bandwidth must be a finite number > 0"):
        functional.gaussian_kernel_sum(x, y, "median")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a torch tensor; got ndarray of shape \(2,\) and dtype"):
        functional.gaussian_kernel_sum(x, y, np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ridge must be a finite number >= 0"):
        functional.density_ratio(x, y, 1.0, -0.1)
    with pytest.raises(ValueError, match="sigma must be a finite number >= 0"):
        functional.density_ratio(x, y, 1.0, 0.1, sigma=-1.0)
    with pytest.raises(ValueError, match="order must be a finite number >= 1"):
        functional.sliced_wasserstein(x[..., 0], y[..., 0], 0.5)
    for key in (3, (1,), (1, 2, 3)):
        with pytest.raises(TypeError, match="key must be a pair of integers"):
            functional.project(x[0], x[0].mT, 1.0, "fast", key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="key must be an integer >= 0; got -2"):
        functional.project(x[0], x[0].mT, 1.0, "fast", (1, -2))
    with pytest.raises(ValueError, match=r"key must be two integers below 2\^64"):
        functional.project(x[0], x[0].mT, 1.0, "fast", (1, 2**64))


def test_singular_gram_matrix_names_the_slice():
    q = points(3, 4, 2)
    q[1] = 0.0  # four coincident points, no ridge
    with pytest.raises(ValueError, match=r"slice 1.*ridge|ridge.*slice 1"):
        functional.density_ratio(q, points(3, 5, 2), 1.0, 0.0)


def test_what_is_not_differentiated_is_refused():
    x, y = points(2, 3, 2), points(2, 4, 2)
    g = bandwidths(2).requires_grad_()
    for call in (
        lambda: functional.gaussian_kernel_sum(x, y, g),
        lambda: functional.gaussian_kernel_logsumexp(x, y, g),
        lambda: functional.density_ratio(x, y, g, 0.1),
        lambda: functional.density_ratio_divergence(x, y, g, 0.1),
    ):
        with pytest.raises(ValueError, match="bandwidth must not require a gradient"):
            call()
    with pytest.raises(ValueError, match="q must not require a gradient"):
        functional.density_ratio_divergence(x.clone().requires_grad_(), y, 1.0, 0.1)
    # The same by the operators themselves, which only see it in backward.
    for name in ("gaussian_kernel_sum", "gaussian_kernel_logsumexp"):
        value = getattr(torch.ops.dpslice, name)(x, y, g, None)
        with pytest.raises(ValueError, match="bandwidth must not require a gradient"):
            value.sum().backward()


def test_arrays_of_other_libraries_are_refused():
    x = np.zeros((1, 2, 3))
    with pytest.raises(TypeError, match="x must be a torch tensor; got ndarray"):
        functional.gaussian_kernel_sum(x, x, 1.0)  # type: ignore[arg-type]
    t = torch.from_numpy(x)
    with pytest.raises(TypeError, match="weights must be a torch tensor; got ndarray"):
        functional.gaussian_kernel_sum(t, t, 1.0, x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="x must be a torch tensor; got NoneType"):
        functional.gaussian_kernel_sum(None, t, 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="y must be a torch tensor; got NoneType"):
        functional.sliced_wasserstein(t[0], None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bandwidth must be a floating-point tensor; got"):
        functional.gaussian_kernel_sum(t, t, torch.tensor(1 + 1j))


@every_op
def test_cuda_is_refused_clearly(op, monkeypatch):
    # The kernel that is registered for CUDA tensors; there may be no device to make one on.
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dpslice::{op.name}", "CUDA")
    monkeypatch.setitem(sys.modules, "dpslice._cuda", None)
    place = _arrays.Place("torch", "cuda:0", 0)
    for module in (_arrays, _arrays._operands):
        monkeypatch.setattr(module, "place_of", lambda name, value: place)
    with pytest.raises(NotImplementedError, match="this build of dpslice has no CUDA kernels"):
        op.call(*op.tensors())


def test_results_own_their_memory():
    x = points(1, 2, 2)
    value = functional.gaussian_kernel_sum(x, x, 1.0)
    value.zero_()  # writable, and nobody else's
    assert torch.equal(x, points(1, 2, 2))
