"""What every kernel does with arrays of each kind, layout and value: one test for each rule."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dpslice import Release, SlicingMechanism, SumMechanism, _arrays, kernels
from dpslice.features import SecondMoments
from dpslice.kernels import gaussian_kernel_logsumexp, gaussian_kernel_sum

torch = pytest.importorskip("torch", reason="torch tensors are one of the kinds tested")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 3))
Y = RNG.normal(size=(2, 4, 3))
W = RNG.normal(size=(2, 4))

PAIRS = pytest.mark.parametrize("function", [gaussian_kernel_sum, gaussian_kernel_logsumexp])

# name -> a call with a first argument, the other one made to match, and that argument
CALLS: dict[str, tuple[Callable[[Any], Any], np.ndarray[Any, Any]]] = {
    "gaussian_kernel_sum": (lambda x: gaussian_kernel_sum(x, like(Y, x), 1.0, like(W, x)), X),
    "gaussian_kernel_logsumexp": (
        lambda x: gaussian_kernel_logsumexp(x, like(Y, x), 1.0, like(W, x)),
        X,
    ),
    "density_ratio": (lambda q: kernels.density_ratio(q, like(Y, q), 1.0, 0.1, 0.5), X),
    "sliced_wasserstein": (lambda x: kernels.sliced_wasserstein(x, like(Y[..., 0], x)), X[..., 0]),
    "median_distance": (lambda x: kernels.median_distance(x), X),
    "project": (lambda x: kernels.project(x, like(Y[0].T, x), 0.5, "fast", (1, 2)), X[0]),
}
EACH = pytest.mark.parametrize("name", CALLS)


def like(values: Any, other: Any) -> Any:
    """Return `values` as the kind and dtype of `other`, but contiguous and of a legal dtype."""
    if isinstance(other, torch.Tensor):
        dtype = other.dtype if other.dtype in (torch.float32, torch.float64) else torch.float64
        return torch.tensor(np.ascontiguousarray(values), dtype=dtype)
    dtype = getattr(other, "dtype", np.dtype(float))
    return np.ascontiguousarray(
        values, dtype=dtype.newbyteorder("=") if dtype.kind == "f" else float
    )


# ------------------------------------------------------------------------- kinds and layouts


@EACH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_kind_and_dtype_come_out(name: str, dtype: type) -> None:
    call, first = CALLS[name]
    from_numpy = call(first.astype(dtype))
    assert type(from_numpy) is np.ndarray
    assert from_numpy.dtype == dtype
    from_torch = call(torch.from_numpy(first.astype(dtype)))
    assert type(from_torch) is torch.Tensor
    np.testing.assert_array_equal(from_torch.numpy(), from_numpy)


def strided(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def reversed_twice(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return a[::-1].copy()[::-1]


def read_only(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    raw = np.empty(a.nbytes + 1, np.uint8)
    shifted = raw[1:].view(a.dtype).reshape(a.shape)
    shifted[...] = a
    assert not shifted.flags.aligned
    return shifted


def memory_mapped(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, dtype=a.dtype, mode="w+", shape=a.shape)
    mapped[...] = a
    return mapped


LAYOUTS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "strided": strided,
    "negative strides": reversed_twice,
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "misaligned": misaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "memory-mapped": memory_mapped,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
}


@EACH
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_layout_equals_contiguous(name: str, layout: str, dtype: type) -> None:
    call, first = CALLS[name]
    first = first.astype(dtype)
    arranged = LAYOUTS[layout](first)
    before = arranged.copy()
    found = call(arranged)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, call(np.ascontiguousarray(arranged, dtype=dtype)))
    np.testing.assert_array_equal(arranged, before)


@EACH
def test_strided_tensors_equal_contiguous(name: str) -> None:
    call, first = CALLS[name]
    tensor = torch.from_numpy(first)
    wide = torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)
    wide[..., ::2] = tensor
    assert torch.equal(call(wide[..., ::2]), call(tensor))
    swapped = tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    assert torch.equal(call(swapped), call(tensor))


def test_lazily_negated_tensor() -> None:
    negated = torch.complex(torch.zeros(2, 5, 3), torch.from_numpy(X).float()).conj().imag
    assert negated.is_neg()
    y = torch.from_numpy(Y).float()
    found = gaussian_kernel_sum(negated, y, 1.0)
    assert torch.equal(found, gaussian_kernel_sum(-torch.from_numpy(X).float(), y, 1.0))


def test_contiguous_arrays_are_not_copied() -> None:
    seen = _arrays.operand("x", X, ("m", "b", "k"))
    assert seen.array is X or seen.array.base is X or np.shares_memory(seen.array, X)
    tensor = torch.from_numpy(X.copy())
    seen = _arrays.operand("x", tensor, ("m", "b", "k"))
    assert seen.array.ctypes.data == tensor.data_ptr()
    assert seen.place == _arrays.Place("torch", "cpu")


@EACH
@pytest.mark.parametrize("value", [[1.0], 1.0, None, "rows", object()])
def test_what_is_no_array(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=r"must be a NumPy, torch or CuPy array; got"):
        CALLS[name][0](value)


@EACH
@pytest.mark.parametrize(
    "dtype",
    [np.int64, np.int32, np.uint8, np.bool_, np.float16, np.complex128, np.longdouble, object],
)
def test_dtypes_of_numpy_that_are_refused(name: str, dtype: type) -> None:
    call, first = CALLS[name]
    with pytest.raises(TypeError, match="must have dtype float32 or float64; got"):
        call(first.astype(dtype))


@EACH
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16])
def test_dtypes_of_torch_that_are_refused(name: str, dtype: Any) -> None:
    call, first = CALLS[name]
    with pytest.raises(TypeError, match="must have dtype float32 or float64; got torch"):
        call(torch.from_numpy(first).to(dtype))


def test_structured_arrays_are_refused() -> None:
    x = np.zeros((2, 5, 3), dtype=[("value", float)])
    with pytest.raises(TypeError, match="x must have dtype float32 or float64"):
        gaussian_kernel_sum(x, Y, 1.0)


@EACH
def test_masked_arrays_are_refused(name: str) -> None:
    call, first = CALLS[name]
    with pytest.raises(TypeError, match="must not be a masked array"):
        call(np.ma.masked_invalid(first))


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be a dense tensor; got layout torch\.sparse"):
        gaussian_kernel_sum(torch.from_numpy(X).to_sparse(), torch.from_numpy(Y), 1.0)


@EACH
def test_tensors_that_require_a_gradient(name: str) -> None:
    call, first = CALLS[name]
    with pytest.raises(ValueError, match=r"use the function of the same name in dpslice\.torch"):
        call(torch.from_numpy(first.copy()).requires_grad_())


def test_companions_that_require_a_gradient() -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    w = torch.from_numpy(W.copy()).requires_grad_()
    with pytest.raises(ValueError, match="weights must not require a gradient"):
        gaussian_kernel_sum(x, y, 1.0, w)
    g = torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="bandwidth must not require a gradient"):
        gaussian_kernel_sum(x, y, g)


@PAIRS
def test_kinds_must_agree(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="y must be a numpy array like the others; got torch"):
        function(X, torch.from_numpy(Y), 1.0)
    with pytest.raises(TypeError, match="weights must be a torch array like the others; got numpy"):
        function(torch.from_numpy(X), torch.from_numpy(Y), 1.0, W)


@PAIRS
def test_dtypes_must_agree(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="y must have dtype float64 like the others; got float32"):
        function(X, Y.astype(np.float32), 1.0)
    with pytest.raises(TypeError, match="weights must have dtype float64 like the others"):
        function(X, Y, 1.0, W.astype(np.float32))


# --------------------------------------------------------------------------------- devices


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without CUDA kernels, whatever this one has."""
    monkeypatch.setitem(sys.modules, "dpslice._cuda", None)


@pytest.mark.usefixtures("no_cuda")
def test_no_backend_for_cuda() -> None:
    place = _arrays.Place("torch", "cuda:0", 0)
    for _ in range(2):  # what failed is not remembered
        with pytest.raises(
            NotImplementedError, match=r"no CUDA kernels, and the arrays are on cuda:0"
        ):
            _arrays.backend_for(place)


@pytest.mark.usefixtures("no_cuda")
def test_cuda_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    place = _arrays.Place("torch", "cuda:1", 7)
    monkeypatch.setattr(_arrays._operands, "place_of", lambda name, value: place)
    with pytest.raises(NotImplementedError, match=r"are on cuda:1; move them to the CPU"):
        gaussian_kernel_sum(torch.from_numpy(X), torch.from_numpy(Y), 1.0)


def test_devices_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    places = iter([_arrays.Place("torch", "cpu"), _arrays.Place("torch", "cuda:0", 0)])
    monkeypatch.setattr(_arrays._operands, "place_of", lambda name, value: next(places))
    with pytest.raises(ValueError, match="y must be on cpu like the others; got cuda:0"):
        gaussian_kernel_sum(torch.from_numpy(X), torch.from_numpy(Y), 1.0)


def test_other_devices_are_refused() -> None:
    x = torch.empty(2, 5, 3, device="meta")
    with pytest.raises(ValueError, match="x must be on the CPU or a CUDA device; got device meta"):
        gaussian_kernel_sum(x, x, 1.0)


@pytest.mark.usefixtures("no_cuda")
def test_cupy_arrays_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with CuPy's interface: read, placed on its device and stream, and refused."""

    class Device:
        id = 0

        def __enter__(self) -> Device:
            return self

        def __exit__(self, *exc: object) -> None: ...

    class Stream:
        ptr = 42

    class CupyArray:
        shape = (2, 5, 3)
        dtype = np.dtype(np.float64)
        device = Device()

    class Cupy:
        ndarray = CupyArray

        class cuda:
            @staticmethod
            def get_current_stream() -> Stream:
                return Stream()

    monkeypatch.setitem(sys.modules, "cupy", Cupy)
    assert _arrays.place_of("x", CupyArray()) == _arrays.Place("cupy", "cuda:0", 42)
    with pytest.raises(NotImplementedError, match=r"cupy\.asnumpy"):
        kernels.median_distance(CupyArray())


def test_import_loads_neither_torch_nor_cupy() -> None:
    code = (
        "import sys, dpslice.kernels, numpy as np;"
        "dpslice.kernels.median_distance(np.eye(3)[None]);"
        "assert not {'torch', 'cupy', 'scipy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------- shapes


@PAIRS
@pytest.mark.parametrize(
    ("x_shape", "y_shape", "message"),
    [
        ((5, 3), (2, 4, 3), r"x must have shape \(m, b, k\); got \(5, 3\)"),
        ((1, 2, 5, 3), (2, 4, 3), r"x must have shape \(m, b, k\); got"),
        ((2, 5, 3), (4, 3), r"y must have shape \(2, c, 3\); got \(4, 3\)"),
        ((2, 5, 3), (3, 4, 3), r"y must have shape \(2, c, 3\); got \(3, 4, 3\)"),
        ((2, 5, 3), (2, 4, 2), r"y must have shape \(2, c, 3\); got \(2, 4, 2\)"),
        (
            (0, 5, 3),
            (0, 4, 3),
            r"x must have shape \(m, b, k\) without an empty axis; got \(0, 5, 3\)",
        ),
        ((2, 0, 3), (2, 4, 3), r"x must have .* without an empty axis; got \(2, 0, 3\)"),
        ((2, 5, 0), (2, 4, 0), r"x must have .* without an empty axis; got \(2, 5, 0\)"),
        ((2, 5, 3), (2, 0, 3), r"y must have .* without an empty axis; got \(2, 0, 3\)"),
    ],
)
def test_shapes_of_points(
    function: Callable[..., Any], x_shape: tuple[int, ...], y_shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function(np.zeros(x_shape), np.zeros(y_shape), 1.0)


@PAIRS
@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 4), (2, 4, 1), (2, 0)])
def test_shape_of_weights(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"weights must have shape \(2, 4\)( without an empty axis)?; got"
    ):
        function(X, Y, 1.0, np.zeros(shape))


def test_one_point_each_is_fine() -> None:
    one = np.zeros((1, 1, 1))
    assert gaussian_kernel_sum(one, one, 1.0) == 1
    assert gaussian_kernel_logsumexp(one, one, 1.0) == 0


def test_shapes_of_the_other_kernels() -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(m, b\); got \(2, 5, 3\)"):
        kernels.sliced_wasserstein(X, X)
    with pytest.raises(ValueError, match=r"y must have shape \(2, c\); got \(1, 4\)"):
        kernels.sliced_wasserstein(X[..., 0], Y[:1, :, 0])
    with pytest.raises(ValueError, match=r"x must have shape \(m, b, k\) with b >= 2; got"):
        kernels.median_distance(X[:, :1])
    with pytest.raises(ValueError, match=r"p must have shape \(2, c, 3\); got"):
        kernels.density_ratio(X, Y[..., :2], 1.0, 0.1)
    with pytest.raises(ValueError, match=r"frame must have shape \(3, p\); got \(2, 4\)"):
        kernels.project(X[0], np.zeros((2, 4)), 1.0)


# ---------------------------------------------------------------------------------- values


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_points_must_be_finite(name: str, bad: float) -> None:
    call, first = CALLS[name]
    first = first.copy()
    first.flat[4] = bad
    with pytest.raises(ValueError, match=r"must hold finite numbers; got (nan|-?inf) at index \("):
        call(first)


@PAIRS
def test_second_points_must_be_finite(function: Callable[..., Any]) -> None:
    y = Y.copy()
    y[1, 2, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"y must hold finite numbers; got nan at index \(1, 2, 0\)"
    ):
        function(X, y, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(bad: float) -> None:
    w = W.copy()
    w[1, 1] = bad
    with pytest.raises(ValueError, match=r"weights must hold finite numbers; got .* \(1, 1\)"):
        gaussian_kernel_sum(X, Y, 1.0, w)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_log_weights_must_not_be_nan_or_infinite(bad: float) -> None:
    w = W.copy()
    w[1, 1] = bad
    with pytest.raises(ValueError, match=r"log_weights must hold finite numbers or -inf; got"):
        gaussian_kernel_logsumexp(X, Y, 1.0, w)


PAIRS_AND_RATIO = pytest.mark.parametrize(
    "call",
    [
        lambda g: gaussian_kernel_sum(X, Y, g),
        lambda g: gaussian_kernel_logsumexp(X, Y, g),
        lambda g: kernels.density_ratio(X, Y, g, 0.1),
    ],
)


@PAIRS_AND_RATIO
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, -0.0])
def test_bandwidth_must_be_finite_and_positive(call: Callable[[Any], Any], bad: float) -> None:
    with pytest.raises(ValueError, match="bandwidth must be a finite number > 0; got"):
        call(bad)
    with pytest.raises(ValueError, match=r"bandwidth must be finite and > 0 .* for slice 1"):
        call(np.array([1.0, bad]))


@PAIRS_AND_RATIO
@pytest.mark.parametrize("bad", ["wide", None, [1.0, 1.0], True, 1j])
def test_bandwidth_must_be_a_number_or_an_array(call: Callable[[Any], Any], bad: object) -> None:
    with pytest.raises(TypeError, match=r"bandwidth must be a (number or |finite number)"):
        call(bad)


@PAIRS_AND_RATIO
def test_shape_and_dtype_of_bandwidth(call: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"bandwidth must have shape \(2,\); got \(3,\)"):
        call(np.ones(3))
    with pytest.raises(ValueError, match=r"bandwidth must have shape \(2,\); got \(2, 1\)"):
        call(np.ones((2, 1)))
    with pytest.raises(TypeError, match="bandwidth must have dtype float32 or float64; got int64"):
        call(np.ones(2, dtype=np.int64))
    with pytest.raises(TypeError, match="bandwidth must be a number or a numpy array"):
        call(torch.ones(2))


@PAIRS_AND_RATIO
def test_bandwidths_of_any_form_agree(call: Callable[[Any], Any]) -> None:
    expected = call(1.5)
    for form in (np.float32(1.5), np.array(1.5), np.array([1.5, 1.5]), np.full(2, 1.5, np.float32)):
        np.testing.assert_array_equal(call(form), expected)
    np.testing.assert_array_equal(call(2), call(2.0))


def test_bandwidth_that_float32_cannot_hold() -> None:
    x, y = X.astype(np.float32), Y.astype(np.float32)
    for bad in (1e-50, 1e-40, 1e50):
        with pytest.raises(ValueError, match=r"bandwidth must be finite and > 0 \(in float32\)"):
            gaussian_kernel_sum(x, y, bad)


@PAIRS_AND_RATIO
def test_points_out_of_reach(call: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"must lie within 1e\+150 bandwidths of the origin"):
        call(1e-160)


def test_points_within_reach_are_finite() -> None:
    x = np.array([[[1e16]]], np.float32)
    assert gaussian_kernel_logsumexp(x, x, 1.0) == 0
    found = gaussian_kernel_logsumexp(x, -x, 1.0)
    np.testing.assert_allclose(found, -2e32, rtol=1e-6)


# ----------------------------------------------------------------------------- other options


@pytest.mark.parametrize(
    ("ridge", "sigma", "message"),
    [(-0.1, 0.0, "ridge"), (np.nan, 0.0, "ridge"), (0.1, -1.0, "sigma"), (0.1, np.inf, "sigma")],
)
def test_ridge_and_sigma(ridge: float, sigma: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} must be a finite number >= 0; got"):
        kernels.density_ratio(X, Y, 1.0, ridge, sigma)


def test_singular_matrix_names_the_slice() -> None:
    q = X.copy()
    q[1] = 0  # equal rows: without a ridge the matrix of slice 1 is singular
    with pytest.raises(ValueError, match=r"slice 1\b.*ridge"):
        kernels.density_ratio(q, Y, 1.0, 0.0)


@pytest.mark.parametrize("order", [0.5, 0, -1, np.inf, np.nan])
def test_order_of_sliced_wasserstein(order: float) -> None:
    with pytest.raises(ValueError, match="order must be a finite number >= 1; got"):
        kernels.sliced_wasserstein(X[..., 0], Y[..., 0], order)


class TestProject:
    """The wrapper: noise and its kernels are tested in test_project.py."""

    x, frame = X[0], Y[0].T.copy()

    def test_without_noise_it_is_a_product(self) -> None:
        found = kernels.project(self.x, self.frame, 0.0, "fast")
        np.testing.assert_allclose(found, self.x @ self.frame, rtol=1e-13)

    def test_key_fixes_the_fast_noise(self) -> None:
        one, two, other = (
            kernels.project(self.x, self.frame, 1.0, "fast", key)
            for key in ((3, 4), (3, 4), (3, 5))
        )
        np.testing.assert_array_equal(one, two)
        assert (one != other).all()

    @pytest.mark.parametrize("noise", ["secure", "fast"])
    def test_without_a_key_noise_is_fresh(self, noise: str) -> None:
        one, two = (kernels.project(self.x, self.frame, 1.0, noise) for _ in range(2))
        # Secure noise lies on a grid of about a thousandth of sigma: some numbers may agree.
        assert (one != two).mean() > 0.5

    def test_secure_noise_has_its_scale(self) -> None:
        x, frame = np.zeros((20_000, 1)), np.ones((1, 5))
        found = kernels.project(x, frame, 3.0)
        # 1e5 normals: the estimate's deviation is 3 / sqrt(2e5) = 0.0067. Beyond 6.5 deviations
        # by chance: less than once in 1e10 runs.
        assert abs(found.std() - 3) < 0.044

    def test_secure_noise_takes_no_key_and_some_sigma(self) -> None:
        with pytest.raises(ValueError, match="key must be None with noise='secure'"):
            kernels.project(self.x, self.frame, 1.0, key=(1, 2))
        with pytest.raises(ValueError, match="sigma must be > 0 with noise='secure'"):
            kernels.project(self.x, self.frame, 0.0)
        wide = np.ones((2, 3)), np.ones((3, 1))
        for far, shown in ((1e-300, "1e-300"), (1e300, r"1e\+300")):
            with pytest.raises(ValueError, match=f"between 1e-270 and 1e270 .*; got {shown}$"):
                kernels.project(*wide, far)

    @pytest.mark.parametrize("sigma", [-1.0, np.nan, np.inf])
    def test_sigma(self, sigma: float) -> None:
        with pytest.raises(ValueError, match="sigma must be a finite number >= 0; got"):
            kernels.project(self.x, self.frame, sigma)

    def test_noise(self) -> None:
        with pytest.raises(ValueError, match="noise must be one of secure, fast; got 'slow'"):
            kernels.project(self.x, self.frame, 1.0, "slow")

    @pytest.mark.parametrize("key", [7, (1,), (1, 2, 3), "ab", (1.0, 2.0)])
    def test_kind_of_key(self, key: Any) -> None:
        with pytest.raises(TypeError, match="key must be"):
            kernels.project(self.x, self.frame, 1.0, "fast", key)

    @pytest.mark.parametrize("key", [(-1, 0), (0, 2**64)])
    def test_range_of_key(self, key: Any) -> None:
        with pytest.raises(ValueError, match="key must be"):
            kernels.project(self.x, self.frame, 1.0, "fast", key)


def test_package_of_checks_gives_on_what_its_files_give() -> None:
    given: set[str] = set()
    for info in pkgutil.iter_modules(_arrays.__path__):
        module = importlib.import_module(f"dpslice._arrays.{info.name}")
        assert not given.intersection(module.__all__)  # a name has one home
        given.update(module.__all__)
        assert all(getattr(_arrays, name) is getattr(module, name) for name in module.__all__)


def test_missing_extension_says_how_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dpslice._core", None)
    with pytest.raises(ImportError, match="build them with 'pip install"):
        _arrays.backend_for(_arrays.Place("numpy", "cpu"))


def test_product_halves_follow_the_precision_of_torch() -> None:
    torch = pytest.importorskip("torch")
    place = _arrays.Place("torch", "cuda:0", 0)
    before = torch.get_float32_matmul_precision()
    try:
        for precision, halves in (("highest", 2), ("high", 1), ("medium", 1)):
            torch.set_float32_matmul_precision(precision)
            assert _arrays.product_halves(place) == halves
            assert _arrays.product_halves(_arrays.Place("cupy", "cuda:0", 0)) == 2
    finally:
        torch.set_float32_matmul_precision(before)
    assert _arrays.product_halves(place) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_finite_numbers_are_told_from_others(dtype: type, size: int) -> None:
    largest = np.finfo(dtype).max
    rng = np.random.default_rng(0)
    values = rng.normal(size=(size, 3)).astype(dtype)
    arrays = [values, values * (largest / 10), np.full((size, 3), -largest), values[::-1, ::2]]
    for good in arrays:  # sums and squares of some of them overflow
        assert _arrays.all_finite(good)
        assert _arrays.all_finite(torch.from_numpy(good.copy()))
        for bad in (np.nan, np.inf, -np.inf):
            spoilt = good.copy()
            spoilt[size // 2, 1] = bad
            assert not _arrays.all_finite(spoilt)
            assert not _arrays.all_finite(torch.from_numpy(spoilt))
            spoilt[0, 0] = -bad  # infinities that cancel
            assert not _arrays.all_finite(spoilt)
            assert not _arrays.all_finite(torch.from_numpy(spoilt))
    assert _arrays.all_finite(np.zeros((0, 3), dtype))


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_beyond_float64_are_refused_by_name(digits: int) -> None:
    number = 10**digits
    with pytest.raises(ValueError, match=r"^sigma must be a finite number > 0; got .*float64$"):
        _arrays.positive_real("sigma", number)
    with pytest.raises(ValueError, match=r"^n must be an integer >= 1; got (-1000|int of)"):
        _arrays.positive_integer("n", -number)


@pytest.mark.parametrize(
    "value", [np.complex64(1), np.complex128(1j), np.timedelta64(1, "s"), True]
)
def test_numbers_of_numpy_that_are_not_real(value: object) -> None:
    with pytest.raises(TypeError, match=r"^sigma must be a finite number > 0; got "):
        _arrays.positive_real("sigma", value)


@pytest.mark.parametrize("value", [np.array(2.0), np.ones(2), torch.tensor(0.5), 2.0, None, True])
def test_what_is_no_integer(value: object) -> None:
    with pytest.raises(TypeError, match=r"^n must be an integer >= 1; got "):
        _arrays.positive_integer("n", value)


def test_counts_have_63_bits() -> None:
    assert _arrays.positive_integer("n", 2**63 - 1) == 2**63 - 1
    for number in (2**63, 10**400, 10**5000):
        with pytest.raises(ValueError, match=r"^n must be an integer < 2\*\*63; got "):
            _arrays.positive_integer("n", number)


@pytest.mark.filterwarnings("error")
def test_points_infinitely_far_in_bandwidths() -> None:
    with pytest.raises(ValueError, match=r"x must lie within 1e\+150 bandwidths .* got inf band"):
        kernels.gaussian_kernel_sum(np.full((1, 1, 1), 1e300), np.zeros((1, 1, 1)), 1e-300)


@pytest.mark.parametrize("value", ["abc", 1j, [1j], [[1.0], [2.0, 3.0]], len, ["1.0"]])
def test_what_holds_no_real_numbers(value: object) -> None:
    with pytest.raises(TypeError, match=r"^frame must hold real numbers; got "):
        _arrays.real_array("frame", value)


def test_sequences() -> None:
    assert _arrays.elements("weights", np.arange(2)) == (0, 1)
    for value in (None, 3, "ab", len):
        with pytest.raises(TypeError, match=r"^weights must be a sequence; got "):
            _arrays.elements("weights", value)


# ------------------------------------------------------------------------------------------- paths


def _with_tables(name: str) -> Callable[[Any], Any]:
    """Return what takes a path and needs the packages for tables."""
    pd = pytest.importorskip("pandas")
    from dpslice import tabular
    from dpslice.tabular import files

    schema = tabular.Schema([tabular.Boolean("a"), tabular.Boolean("b")])
    table = pd.DataFrame({"a": [True, False] * 20, "b": [True, True] * 20})
    tables = {"real": table, "synthetic": table, "schema": schema, "guarantee": None}
    synthesizer = tabular.Synthesizer(schema, epsilon=1.0, delta=1e-5)
    return {
        "read_table": lambda path: tabular.read_table(path, schema),
        "iter_table": lambda path: next(tabular.iter_table(path, schema)),
        "read_header": files.read_header,
        "count_rows": files.count_rows,
        "write_table": lambda path: tabular.write_table(table, path),
        "write_report": lambda path: tabular.write_report(path, **tables),
        "Schema.load": tabular.Schema.load,
        "Schema.save": schema.save,
        "Synthesizer.load": tabular.Synthesizer.load,
        "Synthesizer.publish": lambda path: synthesizer.publish(table, path=path),
        "Synthesizer.fit": lambda path: synthesizer.fit(table, checkpoint=path),
    }[name]


def _fit(path: Any) -> None:
    from dpslice.torch import fit

    fit(torch.nn.Linear(2, 3), torch.mean, steps=1, batch_size=4, latent_dim=2, checkpoint=path)


ROWS = RNG.normal(size=(20, 3))
SUMS = SumMechanism(features=SecondMoments(3), sigma=1.0)
PATHS: dict[str, Callable[[Any], Any]] = {
    "Release.load": Release.load,
    "Release.save": lambda path: SUMS.release(ROWS).save(path),
    "SlicingMechanism.release": lambda path: SlicingMechanism(sigma=1.0).release(ROWS, path=path),
    "SumMechanism.release": lambda path: SUMS.release(ROWS, path=path),
    "fit": _fit,
}
TABLE_PATHS = (
    *("read_table", "iter_table", "read_header", "count_rows", "write_table", "write_report"),
    *("Schema.load", "Schema.save", "Synthesizer.load", "Synthesizer.publish", "Synthesizer.fit"),
)


@pytest.mark.parametrize("name", [*PATHS, *TABLE_PATHS])
def test_what_is_no_path_is_refused(name: str) -> None:
    """By the argument's name, and no number for an open file's."""
    call = PATHS[name] if name in PATHS else _with_tables(name)
    argument = "checkpoint" if name.endswith("fit") else "path"
    for other, shown in ((3, "int 3"), (b"x.csv", "bytes b'x.csv'"), (["x"], r"list \['x'\]")):
        with pytest.raises(
            TypeError, match=f"^{argument} must be a string or a path; got {shown}$"
        ):
            call(other)
