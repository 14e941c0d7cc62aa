"""Laws that gaussian_kernel_sum and gaussian_kernel_logsumexp have in common, and derivatives.

What is about one of them alone is in test_kernel_sum.py and test_logsumexp.py.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import reference
from dpslice import _core
from pair_kernels import ALL, DTYPES, KERNELS, LAW_DIMS, Array, Case, Kernel, assert_close


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.name)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    found: Kernel = request.param
    return found


def assert_twin(kernel: Kernel, case: Case) -> None:
    """Compare the value and all gradients with the twin's."""
    dtype = case.x.dtype.name
    assert_close(kernel.value(case), kernel.twin(case), dtype)
    for grad, expected in zip(kernel.vjp(case), kernel.twin_vjp(case), strict=True):
        assert_close(grad, expected, dtype)


def test_twin_derivative_against_differences(kernel: Kernel) -> None:
    case = kernel.make_case(2, 3, 4, 2, weighted=True)
    parts = [case.x, case.y, case.weights]
    for position, grad in enumerate(kernel.twin_vjp(case)):

        def value(part: Array, position: int = position) -> float:
            x, y, weights = (part if i == position else p for i, p in enumerate(parts))
            total = kernel.twin(Case(x, y, case.bandwidth, weights, case.grad))
            return float((total * case.grad).sum())

        np.testing.assert_allclose(
            grad, reference.by_differences(value, parts[position]), rtol=1e-7, atol=1e-9
        )


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("k", [1, 3, 12, 60])
def test_against_many_digits(kernel: Kernel, k: int) -> None:
    case = kernel.make_case(1, 2, 5, k, weighted=True)
    found = kernel.value(case)
    assert case.weights is not None
    with mpmath.workdps(40):
        g = mpmath.mpf(float(case.bandwidth[0]))
        for i in range(2):
            total = mpmath.mpf(0)
            for j in range(5):
                square = sum(
                    (mpmath.mpf(float(u)) - mpmath.mpf(float(v))) ** 2
                    for u, v in zip(case.x[0, i], case.y[0, j], strict=True)
                )
                weight = mpmath.mpf(float(case.weights[0, j]))
                weight = mpmath.exp(weight) if kernel.logarithms else weight
                total += weight * mpmath.exp(-square / (2 * g * g))
            if kernel.logarithms:
                truth = mpmath.log(total)
                assert abs(found[0, i] - truth) <= 1e-14 * max(abs(truth), 1)
            else:
                assert abs(found[0, i] - total) <= 1e-13 * abs(total)


@DTYPES
@LAW_DIMS
def test_halves_make_up_the_whole(kernel: Kernel, k: int, dtype: str) -> None:
    case = kernel.make_case(2, 70, 90, k, dtype, weighted=True)
    assert case.weights is not None
    halves = [
        kernel.function(case.x, case.y[:, part], case.bandwidth, case.weights[:, part])
        for part in (slice(0, 37), slice(37, None))
    ]
    join = np.logaddexp if kernel.logarithms else np.add
    assert_close(join(*halves), kernel.value(case), dtype)


@DTYPES
@LAW_DIMS
def test_permuting_y_changes_nothing(kernel: Kernel, k: int, dtype: str) -> None:
    case = kernel.make_case(2, 20, 150, k, dtype, weighted=True)
    assert case.weights is not None
    order = np.random.default_rng(1).permutation(150)
    found = kernel.function(case.x, case.y[:, order], case.bandwidth, case.weights[:, order])
    assert_close(found, kernel.value(case), dtype)


@LAW_DIMS
def test_translating_both_changes_nothing(kernel: Kernel, k: int) -> None:
    case = kernel.make_case(2, 30, 40, k)
    # The sums x + 1000 are rounded to 1e-13: the values move with them, or, relatively, with the
    # distances.
    found = kernel.function(case.x + 1000, case.y + 1000, case.bandwidth)
    assert reference.relative_error(found, kernel.value(case)) < 1e-11


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize("k", [2, 9, 94])
@pytest.mark.parametrize("shift", [1e2, 1e4])
def test_far_from_the_origin(kernel: Kernel, shift: float, k: int, dtype: str) -> None:
    """As exact as at the origin: nothing cancels but what the inputs have lost already."""
    assert_twin(kernel, kernel.make_case(2, 65, 50, k, dtype, shift=shift, weighted=True))


@pytest.mark.usefixtures("isa")
@DTYPES
@pytest.mark.parametrize("k", [2, 12])
def test_two_far_clusters(kernel: Kernel, k: int, dtype: str) -> None:
    """Products of centred points would cancel here: differences have to take over."""
    case = kernel.make_case(1, 40, 60, k, dtype, weighted=True)
    case.x[:, ::2] += 1000
    case.y[:, ::2] += 1000
    assert_twin(kernel, case)


@DTYPES
@LAW_DIMS
def test_scaling_points_and_bandwidth_changes_nothing(kernel: Kernel, k: int, dtype: str) -> None:
    case = kernel.make_case(2, 30, 40, k, dtype)
    found = kernel.function(3 * case.x, 3 * case.y, 3 * case.bandwidth)
    assert_close(found, kernel.value(case), dtype)


@DTYPES
@LAW_DIMS
def test_batch_equals_loop(kernel: Kernel, k: int, dtype: str) -> None:
    case = kernel.make_case(5, 66, 40, k, dtype, weighted=True)
    assert case.weights is not None
    batch, grads = kernel.value(case), kernel.vjp(case)
    for s in range(5):
        one = slice(s, s + 1)
        alone = Case(
            case.x[one], case.y[one], case.bandwidth[one], case.weights[one], case.grad[one]
        )
        np.testing.assert_array_equal(batch[one], kernel.value(alone))
        for found, expected in zip(grads, kernel.vjp(alone), strict=True):
            assert found is not None
            # Parts of sums over x are cut differently where there are more slices.
            assert_close(found[one], expected, dtype)


@pytest.mark.usefixtures("isa", "keep_threads")
@pytest.mark.parametrize(
    "shape",
    [
        *((1, 300, 200, 3), (1, 300, 200, 20), (7, 65, 33, 2)),
        pytest.param((4, 300, 530, 520), marks=pytest.mark.slow),  # with sanitizers
    ],
)
@DTYPES
def test_threads_change_nothing(
    kernel: Kernel, shape: tuple[int, int, int, int], dtype: str
) -> None:
    case = kernel.make_case(*shape, dtype, weighted=True)
    found = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        alone = kernel.vjp(case, (False, True, False))[1]
        found.append((kernel.value(case), *kernel.vjp(case), alone))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("k", [3, 20])
@DTYPES
def test_each_gradient_alone(kernel: Kernel, k: int, dtype: str) -> None:
    """A gradient asked for alone comes from another sweep than all of them together."""
    case = kernel.make_case(2, 130, 75, k, dtype, weighted=True)
    every = kernel.vjp(case)
    for position in range(len(ALL)):
        need = tuple(i == position for i in range(3))
        alone = kernel.vjp(case, need)
        assert [grad is None for grad in alone] == [not wanted for wanted in need]
        assert_close(alone[position], every[position], dtype)
    assert kernel.vjp(case, (False, False, False)) == (None, None, None)
