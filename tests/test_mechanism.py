"""The slicing mechanism: what it accepts, what it promises, and whether its output keeps it."""

from __future__ import annotations

import dataclasses
import inspect
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.spatial import distance

from dpslice import _core, accounting, frames, mechanism
from dpslice.accounting import Guarantee
from dpslice.features import MarginalSums
from dpslice.mechanism import SlicingMechanism, SumMechanism
from dpslice.release import Release
from gaussian_mechanism import gaussian_delta
from peak_memory import PEAK, reads_proc

Array = NDArray[np.float64]

# Noise of a release cannot be seeded: the statistical tests below fail a correct mechanism with
# probability below 1e-9 each. A normal beyond Z_LIMIT in absolute value is that unlikely.
Z_LIMIT = 6.12
AUDIT_LIMIT = 6.6  # for a standard error that is estimated, of few outputs, so skewed
MARGIN = 1 + 1e-9  # on the sensitivity, privacy.md's allowance for rounding


def rows(n: int = 200, d: int = 6, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (n, d))


def blocks_of(x: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(x), size):
        yield x[start : start + size]


NOISELESS: dict[str, Any] = {"sigma": 1e-9, "max_norm": 10.0}


def assert_releases_rows(release: Release, x: NDArray[np.floating], sigma: float = 1e-9) -> None:
    """Check that a nearly noiseless release holds the projections of exactly these rows."""
    expected = np.asarray(x, dtype=np.float64) @ release.frame
    assert release.projections.shape == expected.shape
    # Of rows that are sorted, some pair's first coordinates lie closer together than their noise
    # now and then; so each is matched with the nearest.
    apart = distance.cdist(expected, release.projections, "chebyshev")
    one, other = optimize.linear_sum_assignment(apart)
    assert apart[one, other].max() <= 10 * sigma + 1e-7 * np.abs(expected).max()


# ------------------------------------------------------------------------------------ construction


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of epsilon and sigma must be given; got neither"),
        ({"epsilon": 1.0, "sigma": 1.0, "delta": 1e-6}, "exactly one of .* got both"),
        ({"epsilon": 1.0}, "delta must be given together with epsilon"),
        ({"epsilon": 0.0, "delta": 1e-6}, "epsilon must be a finite number > 0; got 0.0"),
        ({"epsilon": -1.0, "delta": 1e-6}, "epsilon must be a finite number > 0; got -1.0"),
        ({"epsilon": math.inf, "delta": 1e-6}, "epsilon must be a finite number > 0; got inf"),
        ({"epsilon": math.nan, "delta": 1e-6}, "epsilon must be a finite number > 0; got nan"),
        ({"epsilon": 1.0, "delta": 0.0}, "delta must be strictly between 0 and 1; got 0.0"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta must be strictly between 0 and 1; got 1.0"),
        ({"epsilon": 1.0, "delta": -1e-6}, "delta must be strictly between 0 and 1"),
        ({"sigma": 0.0}, "sigma must be a finite number > 0; got 0.0"),
        ({"sigma": -1.0}, "sigma must be a finite number > 0; got -1.0"),
        ({"sigma": 1.0, "n_slices": 0}, "n_slices must be an integer >= 1; got 0"),
        ({"sigma": 1.0, "slice_dim": 0}, "slice_dim must be an integer >= 1; got 0"),
        ({"sigma": 1.0, "frame": "haar"}, "frame must be one of orthonormal, gaussian; got 'haar'"),
        (
            {"sigma": 1.0, "adjacency": "add_remove"},
            "adjacency must be one of zero_out, replace_one",
        ),
        ({"sigma": 1.0, "max_norm": 0.0}, "max_norm must be a finite number > 0; got 0.0"),
        ({"sigma": 1.0, "max_norm": math.inf}, "max_norm must be a finite number > 0; got inf"),
        ({"sigma": 1.0, "diameter": 0.0}, "diameter must be a finite number > 0; got 0.0"),
        ({"sigma": 1.0, "seed": -1}, "seed must be an integer >= 0; got -1"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlicingMechanism(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": "1", "delta": 1e-6}, "epsilon must be a finite number > 0; got str '1'"),
        ({"epsilon": True, "delta": 1e-6}, "epsilon must be a finite number > 0; got bool True"),
        ({"epsilon": 1.0, "delta": "1e-6"}, "delta must be a number strictly between 0 and 1"),
        ({"sigma": 1.0, "n_slices": 2.5}, "n_slices must be an integer >= 1; got float 2.5"),
        ({"sigma": 1.0, "frame": 3}, "frame must be one of orthonormal, gaussian; got 3"),
        ({"sigma": 1.0, "seed": 1.0}, "seed must be an integer >= 0; got float 1.0"),
        ({"sigma": 1.0, "seed": "a"}, "seed must be an integer >= 0; got str 'a'"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SlicingMechanism(**arguments)


def test_nobody_can_set_a_key_or_choose_weaker_noise() -> None:
    accepted = set(inspect.signature(SlicingMechanism).parameters)
    accepted |= set(inspect.signature(SlicingMechanism.release).parameters)
    assert not {name for name in accepted if "key" in name or "noise" in name}


# ------------------------------------------------------------------ the order of rows, counted on

CLAIM: dict[str, Any] = {
    "epsilon": 1.0, "delta": 1e-6, "adjacency": "replace_one", "amplify_by_order": True,
}  # fmt: skip


def test_order_is_counted_on_if_asked_for() -> None:
    silent = SlicingMechanism(**{**CLAIM, "amplify_by_order": False})
    alone = silent.account(6, n=10_000)
    assert not alone.amplified_by_order
    assert alone.notes[0].endswith("no amplification by it is claimed")
    guarantee = SlicingMechanism(**CLAIM).account(6, n=10_000)
    assert guarantee.amplified_by_order
    assert guarantee.epsilon == 1.0
    assert guarantee.sigma is not None
    assert alone.sigma is not None
    assert 1.7 * guarantee.sigma < alone.sigma < 6.6 * guarantee.sigma
    assert accounting.shuffled_delta(1.0, mu=2.0 / guarantee.sigma, n=10_000) <= 1e-6
    assert "no amplification" not in str(guarantee)
    assert Guarantee.from_dict(guarantee.to_dict()) == guarantee
    # The same sigma, given: the same epsilon, or less by the last digits.
    there = SlicingMechanism(
        sigma=guarantee.sigma, delta=1e-6, adjacency="replace_one", amplify_by_order=True
    ).account(6, n=10_000)
    assert 1 - 1e-6 <= there.epsilon <= 1.0


@pytest.mark.parametrize("adjacency", accounting.ADJACENCIES)
def test_order_is_not_claimed_where_it_gains_nothing(adjacency: str) -> None:
    asked = {**CLAIM, "epsilon": 8.0, "adjacency": adjacency}
    guarantee = SlicingMechanism(**asked).account(6, n=10_000)
    alone = SlicingMechanism(**{**asked, "amplify_by_order": False}).account(6, n=10_000)
    assert guarantee.sigma == alone.sigma
    assert not guarantee.amplified_by_order
    assert "would gain nothing and is not claimed" in guarantee.notes[0]
    assert dataclasses.replace(guarantee, notes=()) == dataclasses.replace(alone, notes=())


def test_a_claim_names_the_diameter_it_assumes() -> None:
    asked = {**CLAIM, "adjacency": "zero_out", "diameter": 1.2}
    guarantee = SlicingMechanism(**asked).account(6, n=10_000)
    assert guarantee.notes[0].startswith("replace_one and the claim of the order assume records")


def test_order_needs_n_and_a_bound_on_the_frame() -> None:
    with pytest.raises(ValueError, match="n, the public number of rows, must be given"):
        SlicingMechanism(**CLAIM).account(6)
    with pytest.raises(ValueError, match="n must be an integer >= 1; got 0"):
        SlicingMechanism(**CLAIM).account(6, n=0)
    with pytest.raises(ValueError, match=r"sure bound on the frame.*orthonormal.*seed"):
        SlicingMechanism(**CLAIM, frame="gaussian")
    with pytest.raises(TypeError, match="amplify_by_order must be True or False"):
        SlicingMechanism(**{**CLAIM, "amplify_by_order": 1})
    # Seeded frames have one: that of the frame itself.
    for frame, p in (("gaussian", 9), ("orthonormal", 9), ("orthonormal", 4)):
        seeded = SlicingMechanism(**CLAIM, frame=frame, n_slices=p, seed=3).account(6, n=10_000)
        assert seeded.amplified_by_order
        assert seeded.sigma is not None
        norm = np.linalg.norm(frames.make_frame(frame, 6, p, 3), 2)
        mu = 2.0 * float(norm) / seeded.sigma
        assert accounting.shuffled_delta(1.0, mu=mu, n=10_000) <= 1e-6
        assert Guarantee.from_dict(seeded.to_dict()) == seeded


@pytest.mark.usefixtures("account_once")
@pytest.mark.parametrize("to_disk", [False, True])
def test_release_that_counts_on_its_order(tmp_path: Path, to_disk: bool) -> None:
    x = rows(3000)
    path = tmp_path / "x.dpslice" if to_disk else None
    mechanism = SlicingMechanism(**CLAIM)
    expected = mechanism.account(6, n=3000)
    assert expected.amplified_by_order
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for private, options in (
        (x, {}),
        (mapped, {"block_rows": 700}),
        (x, {"n": 3000}),
        (blocks_of(x, 700), {"n": 3000}),
    ):
        release = mechanism.release(private, path=path, overwrite=True, **options)
        assert release.guarantee == expected
        assert release.n == 3000
    if path is not None:
        loaded = Release.load(path)
        assert loaded.guarantee == expected


@pytest.mark.usefixtures("account_once")
@pytest.mark.parametrize("to_disk", [False, True])
def test_order_of_blocks_needs_their_rows_beforehand(tmp_path: Path, to_disk: bool) -> None:
    path = tmp_path / "x.dpslice" if to_disk else None
    mechanism = SlicingMechanism(**CLAIM)

    def unread() -> Iterator[Array]:
        raise AssertionError("a block was read")
        yield rows()

    with pytest.raises(ValueError, match=r"must be known before noise is made.*pass X as one"):
        mechanism.release(unread(), path=path)
    with pytest.raises(ValueError, match=r"n must be the number of rows of X \(200\); got 199"):
        mechanism.release(rows(200), n=199, path=path)
    for n, message in ((199, "n = 199 rows, as was said; it has more"), (201, "got 200")):
        for honest in (mechanism, SlicingMechanism(sigma=1.0)):
            with pytest.raises(ValueError, match=message):
                honest.release(blocks_of(rows(200), 64), n=n, path=path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("account_once")
@pytest.mark.parametrize("to_disk", [False, True])
def test_order_is_one_of_all_rows(tmp_path: Path, to_disk: bool) -> None:
    # A row of the first block lands beyond that block's end with the probability of 31/32. Places
    # are drawn without replacement: how many stay varies less than the binomial law.
    x = np.zeros((320, 1))
    x[:10] = 1.0
    path = tmp_path / "x.dpslice" if to_disk else None
    stay = 0
    for _ in range(40):
        release = SlicingMechanism(sigma=1e-6).release(x, block_rows=10, path=path, overwrite=True)
        marked = np.abs(np.asarray(release.projections)[:, 0]) > 0.5
        assert marked.sum() == 10
        stay += int(marked[:10].sum())
    assert stay <= stats.binom.isf(1e-9, 400, 1 / 32)


# ----------------------------------------------------------------------------------- rows: refused


@pytest.mark.parametrize(
    "dtype", ["int64", "int8", "uint16", "bool", "float16", "complex128", "U3", "O"]
)
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="X must have dtype float32 or float64; got"):
        SlicingMechanism(sigma=1.0).release(np.zeros((3, 2)).astype(dtype))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros(3), ValueError, r"X must have shape \(n, d\); got shape \(3,\)"),
        (np.zeros((2, 3, 4)), ValueError, r"X must have shape \(n, d\); got shape \(2, 3, 4\)"),
        (np.array(1.0), ValueError, r"X must have shape \(n, d\); got shape \(\)"),
        (np.zeros((0, 3)), ValueError, r"X must have at least one row; .*shape \(0, 3\)"),
        (np.zeros((3, 0)), ValueError, r"X must have at least one column; got shape \(3, 0\)"),
        ([], ValueError, "X must have at least one row; got none"),
        ([np.zeros((0, 3))] * 2, ValueError, "X must have at least one row; got none"),
        (np.ma.masked_array(np.zeros((3, 2))), TypeError, "X must be a plain array; got a masked"),
        ("rows.csv", TypeError, "X must be an array of rows .* got str"),
        ({"a": [1.0]}, TypeError, "X must be an array of rows .* got dict"),
        (3.0, TypeError, "X must be an array of rows .* got float"),
        (None, TypeError, "X must be an array of rows .* got NoneType"),
        ([[1.0, 2.0]], TypeError, "a block of X must be a NumPy, torch or CuPy array; got list"),
        (
            [[np.zeros((3, 2)), np.zeros(3)]],  # as a DataLoader over a TensorDataset gives it
            TypeError,
            r"got list of arrays, .* pass the rows alone, batch\[0\]",
        ),
        ([np.zeros((3, 2), int)], TypeError, "a block of X must have dtype float32 or float64"),
        ([np.zeros(2)], ValueError, r"a block of X must have shape \(n, d\); got shape \(2,\)"),
    ],
)
def test_bad_rows(x: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SlicingMechanism(sigma=1.0).release(x)


def test_data_frames_are_pointed_to_the_tables() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"got DataFrame \(tables are encoded by dpslice.tabular"):
        SlicingMechanism(sigma=1.0).release(pandas.DataFrame({"a": [1.0]}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_not_finite_are_named(bad: float, dtype: type) -> None:
    x = rows(500).astype(dtype)
    x[321, 4] = bad
    with pytest.raises(
        ValueError, match=r"X must hold finite numbers; got .* in row 321, column 4"
    ):
        SlicingMechanism(sigma=1.0).release(x)
    with pytest.raises(ValueError, match="in row 321, column 4"):
        SlicingMechanism(sigma=1.0).release(x, block_rows=50)
    with pytest.raises(ValueError, match="in row 321, column 4"):
        SlicingMechanism(sigma=1.0).release(blocks_of(x, 77))


def test_blocks_must_have_one_width() -> None:
    with pytest.raises(
        ValueError,
        match=r"must have 3 columns in every block; got shape \(4, 2\) for the block that "
        "starts at row 5",
    ):
        SlicingMechanism(sigma=1.0).release([np.zeros((5, 3)), np.zeros((4, 2))])


def test_bad_options_of_release(tmp_path: Path) -> None:
    mechanism_ = SlicingMechanism(sigma=1.0)
    with pytest.raises(ValueError, match="block_rows must be an integer >= 1; got 0"):
        mechanism_.release(rows(), block_rows=0)
    with pytest.raises(TypeError, match="metadata must be a mapping; got 'x'"):
        mechanism_.release(rows(), metadata="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metadata must hold only what JSON can hold"):
        mechanism_.release(rows(), path=tmp_path / "r", metadata={"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_slices_wider_than_the_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"slice_dim must be at most d, .* \(6\); got 7"):
        SlicingMechanism(sigma=1.0, slice_dim=7).release(rows())


# ---------------------------------------------------------------------------------- rows: accepted


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 5), (5, 1), (40, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_size_is_released(n: int, d: int, dtype: type) -> None:
    x = rows(n, d).astype(dtype)
    release = SlicingMechanism(**NOISELESS).release(x)
    assert (release.n, release.d, release.p) == (n, d, d)
    assert_releases_rows(release, x)


def strange_arrays() -> dict[str, Array]:
    x = rows(50, 4)
    frozen = x.copy()
    frozen.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)
    misaligned = raw[1:].view(np.float64).reshape(x.shape)
    misaligned[:] = x
    assert not misaligned.flags.aligned
    return {
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(x, 2, axis=0)[::2],
        "reversed": x[::-1],
        "columns": np.repeat(x, 2, axis=1)[:, ::2],
        "read-only": frozen,
        "misaligned": misaligned,
        "big-endian": x.astype(">f8"),
        "zeros": np.zeros((50, 4)),
        "constant": np.full((50, 4), 0.25),
    }


@pytest.mark.parametrize("name", strange_arrays())
def test_any_memory_layout_is_released(name: str) -> None:
    x = strange_arrays()[name]
    kept = x.copy()
    assert_releases_rows(SlicingMechanism(**NOISELESS).release(x, block_rows=7), x)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_tensors_are_released(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(rows(), dtype=getattr(torch, dtype), requires_grad=True)
    for given_rows in (x, x.detach().T.contiguous().T, [x[:70], x[70:]]):
        release = SlicingMechanism(**NOISELESS).release(given_rows)
        assert_releases_rows(release, x.detach().numpy())
    for wrong in (torch.float16, torch.bfloat16, torch.int64):
        with pytest.raises(TypeError, match="X must have dtype float32 or float64; got torch"):
            SlicingMechanism(sigma=1.0).release(x.detach().to(wrong))


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("to_disk", [False, True])
def test_iterators_and_memory_maps_are_released(tmp_path: Path, size: int, to_disk: bool) -> None:
    x = rows(500)
    path = tmp_path / "r.dpslice" if to_disk else None
    release = SlicingMechanism(**NOISELESS).release(blocks_of(x, size), path=path)
    assert_releases_rows(release, x)
    assert release.guarantee.n == 500
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    path = tmp_path / "s.dpslice" if to_disk else None
    assert_releases_rows(
        SlicingMechanism(**NOISELESS).release(mapped, path=path, block_rows=size), x
    )


def test_blocks_without_rows_are_passed_over() -> None:
    x = rows(20)
    blocks = [x[:0], x[:5], x[5:5], x[5:]]
    assert_releases_rows(SlicingMechanism(**NOISELESS).release(blocks), x)


def test_progress_must_be_callable_before_a_row_is_read() -> None:
    with pytest.raises(TypeError, match="progress must be callable, or None; got bool True"):
        SlicingMechanism(sigma=1.0).release(rows(30), progress=True)  # type: ignore[arg-type]


def test_progress_tells_rows_done(tmp_path: Path) -> None:
    for path in (None, tmp_path / "r"):
        seen: list[int] = []
        SlicingMechanism(sigma=1.0).release(
            rows(100), block_rows=30, progress=seen.append, path=path
        )
        assert seen == [30, 60, 90, 100]


def test_rows_are_clipped_to_the_bound() -> None:
    x = rows(100) * np.logspace(-2, 3, 100)[:, None]
    release = SlicingMechanism(sigma=1e-9, max_norm=0.5).release(x)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    assert_releases_rows(release, x * np.minimum(1.0, 0.5 / norm))


def test_a_clipping_factor_without_digits_leaves_no_row_too_long() -> None:
    # 4e-16 / 1.54e308 = 2.6e-324 would round to 4.9e-324, the smallest number there is.
    bound = 4e-16
    for shape in (1, 4):
        x = np.zeros((1, shape))
        x[0, :] = 1.54e308
        release = SlicingMechanism(sigma=1e-25, max_norm=bound).release(x)
        assert np.linalg.norm(release.projections) <= bound * (1.0 + 1e-6)


def test_a_zero_row_is_kept_as_a_row() -> None:
    x = rows(30)
    x[7] = 0.0
    release = SlicingMechanism(**NOISELESS).release(x)
    assert release.n == 30
    assert np.sum(np.abs(release.projections).max(axis=1) < 1e-8) == 1


@pytest.mark.parametrize(
    ("arguments", "p"),
    [
        ({}, 10),
        ({"n_slices": 4}, 4),
        ({"n_slices": 25}, 25),
        ({"slice_dim": 3}, 9),
        ({"slice_dim": 10}, 10),
        ({"n_slices": 7, "slice_dim": 3}, 21),
    ],
)
@pytest.mark.parametrize("frame", ["orthonormal", "gaussian"])
def test_number_of_columns(arguments: dict[str, Any], p: int, frame: str) -> None:
    release = SlicingMechanism(frame=frame, **NOISELESS, **arguments).release(rows(20, 10))
    assert release.p == p
    assert release.frame_kind == frame
    assert_releases_rows(release, rows(20, 10))


# -------------------------------------------------------------------------------------- guarantee


@settings(deadline=None, max_examples=40)
@given(
    epsilon=st.floats(-2, 2).map(lambda x: 10.0**x),
    log_delta=st.floats(-14, -0.5),
    d=st.integers(1, 40),
    multiple=st.sampled_from([(1, 1), (2, 1), (3, 2), (1, 3)]),
    frame=st.sampled_from(["orthonormal", "gaussian"]),
    adjacency=st.sampled_from(["zero_out", "replace_one"]),
    max_norm=st.sampled_from([1.0, 0.01, 37.5]),
    share=st.sampled_from([None, 1.5]),
)
def test_total_never_exceeds_the_request(
    epsilon: float,
    log_delta: float,
    d: int,
    multiple: tuple[int, int],
    frame: str,
    adjacency: str,
    max_norm: float,
    share: float | None,
) -> None:
    delta = 10.0**log_delta
    p = max(1, d * multiple[0] // multiple[1])
    # Else no computed noise can promise that: tests/test_accounting.py.
    assume(accounting.sum_numerical_loss(p, epsilon)[1] < delta)
    guarantee = SlicingMechanism(
        epsilon=epsilon,
        delta=delta,
        n_slices=p,
        frame=frame,
        adjacency=adjacency,
        max_norm=max_norm,
        diameter=None if share is None else share * max_norm,
    ).account(d)
    assert (guarantee.epsilon, guarantee.delta) == (epsilon, delta)
    assert (guarantee.d, guarantee.p, guarantee.frame) == (d, p, frame)
    diameter = (2.0 if share is None else share) * max_norm
    sensitivity = max_norm if adjacency == "zero_out" else diameter
    assert guarantee.sensitivity == sensitivity
    assert guarantee.sigma is not None
    # Put together again from the public functions, as privacy.md section 6 says.
    longest = max_norm * frames.column_norm_bound(frame, d, p)
    loss = accounting.numerical_loss(p=p, sigma=guarantee.sigma, max_norm=longest, epsilon=epsilon)
    assert guarantee.epsilon_numerical == loss[0]
    needed = p * 2.0**-74 * (1 + math.exp(epsilon))
    assert needed * (1 - 1e-9) <= guarantee.delta_numerical <= loss[1]
    loss = (loss[0], guarantee.delta_numerical)

    def exact_delta(at: float, sensitivity: float) -> float:
        return accounting.delta(
            at, sigma=guarantee.sigma, d=d, p=p, frame=frame, sensitivity=sensitivity * MARGIN
        )

    assert exact_delta(epsilon - loss[0], sensitivity) + loss[1] <= delta * (1 + 1e-12)
    # Not wasteful either: with 1e-6 less noise the promise would be broken.
    less = accounting.delta(
        epsilon - loss[0],
        sigma=guarantee.sigma * (1 - 1e-6),
        d=d,
        p=p,
        frame=frame,
        sensitivity=sensitivity * MARGIN,
    )
    assert less > (delta - loss[1]) * math.exp(-loss[0])
    replaced = guarantee.epsilon_replace_one
    assert (replaced is None) == (adjacency == "replace_one")
    if replaced is None or math.isinf(replaced):
        return
    assert replaced >= epsilon * (1 - 1e-8)
    lost = p * 2.0**-74 * (1 + math.exp(replaced))
    assert exact_delta(replaced - loss[0], diameter) + lost <= delta * (1 + 1e-8)


def test_epsilon_is_stated_for_a_given_sigma() -> None:
    guarantee = SlicingMechanism(sigma=2.0).account(10)
    assert guarantee.sigma == 2.0
    assert guarantee.delta == 1e-6
    exact = accounting.epsilon(1e-6, sigma=2.0, d=10, p=10)
    assert exact < guarantee.epsilon < exact + 1e-6
    other = SlicingMechanism(sigma=2.0, delta=1e-3).account(10)
    assert (other.delta, other.epsilon < guarantee.epsilon) == (1e-3, True)


def test_replace_one_is_named_beside_zero_out() -> None:
    zero_out = SlicingMechanism(epsilon=2.0, delta=1e-5, diameter=1.5).account(8)
    assert zero_out.epsilon_replace_one is not None
    assert zero_out.epsilon_replace_one > 2.0
    same_noise = SlicingMechanism(
        sigma=zero_out.sigma, delta=1e-5, adjacency="replace_one", diameter=1.5
    ).account(8)
    assert same_noise.epsilon == zero_out.epsilon_replace_one
    assert "replace_one   epsilon" in str(zero_out)


def test_diameter_is_at_most_twice_the_norm() -> None:
    wide = SlicingMechanism(sigma=1.0, adjacency="replace_one", diameter=5.0).account(4)
    default = SlicingMechanism(sigma=1.0, adjacency="replace_one").account(4)
    assert wide == default
    assert default.sensitivity == 2.0
    assert not any("assumes records" in note for note in default.notes)
    narrow = SlicingMechanism(sigma=1.0, adjacency="replace_one", diameter=1.5).account(4)
    assert any("assumes records at most 1.5 apart" in note for note in narrow.notes)


def test_large_products_are_accounted_with_a_larger_sensitivity() -> None:
    # d sqrt(p) > 4e6 Delta / C: the rounding of XU alone is added to Delta.
    d, p = 100_000, 1_700
    size = d * math.sqrt(p)
    assert size > 4e6
    large = SlicingMechanism(epsilon=1.0, delta=1e-6, n_slices=p, frame="gaussian").account(d)
    longest = frames.column_norm_bound("gaussian", d, p)
    accounted = MARGIN + 2.0 * longest * size * 2.0**-53
    assert any("accounted with Delta" in note for note in large.notes)
    loss = (large.epsilon_numerical, large.delta_numerical)
    value = accounting.delta(
        1.0 - loss[0], sigma=large.sigma or 0, d=d, p=p, frame="gaussian", sensitivity=accounted
    )
    assert value <= 1e-6 - loss[1]
    assert value > (1e-6 - loss[1]) * (1 - 1e-6)
    small = SlicingMechanism(epsilon=1.0, delta=1e-6).account(100)
    assert not any("accounted with Delta" in note for note in small.notes)
    narrow = SlicingMechanism(
        epsilon=1.0, delta=1e-6, adjacency="replace_one", diameter=1e-6
    ).account(100)
    assert any("accounted with Delta" in note for note in narrow.notes)


def test_what_rounding_makes_impossible_is_refused() -> None:
    with pytest.raises(ValueError, match="delta must exceed what rounding needs at p = 10"):
        SlicingMechanism(epsilon=1.0, delta=1e-21).account(10)
    with pytest.raises(ValueError, match="epsilon must exceed what rounding needs at p = 10"):
        SlicingMechanism(epsilon=1e-10, delta=1e-6).account(10)
    with pytest.raises(
        ValueError, match=r"sigma must be at least 2\*\*-40 times the longest projection"
    ):
        SlicingMechanism(sigma=1e-13).account(10)
    with pytest.raises(ValueError, match=r"sigma must be between 1e-150 and 1e\+150; got"):
        SlicingMechanism(sigma=1e-200, max_norm=1e-200).account(10)


def test_frame_and_noise_come_from_separate_streams() -> None:
    x = rows(50)
    seeded = SlicingMechanism(sigma=1.0, seed=5)
    first, second = seeded.release(x), seeded.release(x)
    np.testing.assert_array_equal(first.frame, second.frame)
    assert not np.any(np.all(first.projections == second.projections, axis=1))
    unseeded = SlicingMechanism(sigma=1.0)
    assert not np.array_equal(unseeded.release(x).frame, unseeded.release(x).frame)


@pytest.mark.parametrize("kind", ["rows", "codes"])
def test_what_is_checked_is_what_is_released(kind: str, tmp_path: Path) -> None:
    """Someone may write to a memory map meanwhile: each block of it is copied first."""
    given = rows(40) if kind == "rows" else np.zeros((40, 2), np.int64)
    table = np.memmap(tmp_path / "table", given.dtype, "w+", shape=given.shape)
    table[:] = given
    assert mechanism._arrays.settled(given) is given
    copy = mechanism._arrays.settled(table)
    table[:] = 7
    np.testing.assert_array_equal(copy, given)
    table[:] = given
    seen: list[Any] = []
    if kind == "rows":

        def watch(name: str, block: Any, **how: Any) -> Any:
            seen.append(block)
            return row_block(name, block, **how)

        row_block = mechanism._arrays.row_block
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mechanism._arrays, "row_block", watch)
            SlicingMechanism(sigma=1.0).release(table)
    else:

        class Watched(MarginalSums):
            def check_block(self, name: str, block: Any, *, first_row: int) -> Any:
                seen.append(block)
                return super().check_block(name, block, first_row=first_row)

        SumMechanism(features=Watched((2, 2), [(0,), (1,)]), sigma=1.0).release(table)
    assert seen
    assert not any(np.shares_memory(block, table) for block in seen)


# A seed may be known before the records are fixed, so delta is the largest over all pairs of rows
# at distance Delta, given the frame. The average over frames, right for a fresh one, is less.
@pytest.mark.parametrize(
    ("frame", "d", "n_slices"),
    [
        ("orthonormal", 100, 1),
        ("orthonormal", 100, 10),
        ("orthonormal", 10, 15),
        ("orthonormal", 4, 9),
        ("gaussian", 100, 1),
        ("gaussian", 30, 30),
        ("gaussian", 4, 9),
    ],
)
def test_seeded_frame_is_accounted_for_the_worst_pair_of_rows(
    frame: str, d: int, n_slices: int
) -> None:
    how: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-6, "n_slices": n_slices, "frame": frame}
    release = SlicingMechanism(**how, seed=0).release(rows(3, d))
    left, gains, _ = np.linalg.svd(release.frame)
    assert np.linalg.norm(release.frame.T @ left[:, 0]) == pytest.approx(gains[0])

    def worst_delta(sigma: float) -> float:
        mu = gains[0] / sigma  # the row left[:, 0] against the row of zeros
        return float(gaussian_delta(1.0, mu))

    assert worst_delta(release.sigma) <= 1e-6
    assert worst_delta(release.sigma * (1 - 1e-6)) > 0.999e-6  # no more noise than that takes
    fresh = SlicingMechanism(**how).release(rows(3, d))
    if frame == "orthonormal":  # a gaussian frame's norm may happen to be small
        assert worst_delta(fresh.sigma) > 2e-6
    assert fresh.guarantee.frame_norm is None
    certificate = release.guarantee
    assert "seeded, so perhaps known beforehand" in str(certificate)
    assert certificate.frame_norm == pytest.approx(gains[0], rel=1e-8)
    assert Guarantee.from_dict(certificate.to_dict()) == certificate
    # The same frame again: squared ratios add up.
    twice = Guarantee.compose(certificate, certificate)
    least = accounting.epsilon(
        2e-6, sigma=release.sigma / math.sqrt(2), d=1, p=1, sensitivity=gains[0]
    )
    assert least <= twice.epsilon <= least * (1 + 1e-6)


@pytest.mark.parametrize("n_slices", [5, 10])  # for a known frame as for a fresh one
def test_seed_of_full_orthonormal_blocks_takes_no_more_noise(n_slices: int) -> None:
    def account(seed: int | None) -> Guarantee:
        return SlicingMechanism(epsilon=2.0, delta=1e-6, n_slices=n_slices, seed=seed).account(5)

    assert account(3) == account(None)


def test_keys_come_from_the_operating_system_and_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    used: list[bytearray] = []
    seen: list[bytes] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return bytes([len(asked)]) * size

    class Watching:
        def __getattr__(self, name: str) -> Any:
            def call(*args: Any) -> Any:
                keys = [a for a in args if isinstance(a, bytearray)]
                used.extend(keys)
                seen.extend(bytes(key) for key in keys)
                return getattr(_core, name)(*args)

            return call

    monkeypatch.setattr(mechanism.os, "urandom", urandom)
    monkeypatch.setattr(mechanism, "_core", Watching())
    SlicingMechanism(sigma=1.0).release(rows(30), block_rows=10)
    assert asked == [32, 32]  # noise, order of rows
    assert seen == [b"\x01" * 32] * 3 + [b"\x02" * 32]
    assert all(not any(key) for key in used)
    with pytest.raises(ZeroDivisionError):
        SlicingMechanism(sigma=1.0).release(rows(30), progress=lambda _: 1 // 0)
    assert all(not any(key) for key in used)


@pytest.mark.parametrize("to_disk", [False, True])
def test_no_two_blocks_share_noise(tmp_path: Path, to_disk: bool) -> None:
    # Rows of 6 numbers on a grid of a thousandth: two are the same with a probability of 1e-16.
    path = tmp_path / "r" if to_disk else None
    release = SlicingMechanism(sigma=1.0).release(np.zeros((600, 6)), block_rows=100, path=path)
    assert len(np.unique(release.projections, axis=0)) == 600
    release = SlicingMechanism(sigma=1.0).release(blocks_of(np.zeros((600, 6)), 7))
    assert len(np.unique(release.projections, axis=0)) == 600


def test_no_less_is_stated_than_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = accounting.calibrate_slicing
    monkeypatch.setattr(accounting, "calibrate_slicing", lambda **how: 0.5 * right(**how))
    assert SlicingMechanism(epsilon=1.0, delta=1e-6).account(3).epsilon > 1.5


@pytest.mark.usefixtures("account_once")
def test_rows_come_in_random_order() -> None:
    # Row 0 of 5 in 300 nearly noiseless releases: where does it go?
    x = np.arange(5.0)[:, None] / 5
    places = np.zeros(5)
    one = SlicingMechanism(sigma=1e-6, seed=0)
    for _ in range(300):
        places[np.argmin(np.abs(one.release(x).projections))] += 1
    assert np.sum((places - 60) ** 2 / 60) < stats.chi2.isf(1e-10, 4)


# ------------------------------------------------------------------------------------------- audit


@pytest.mark.parametrize("epsilon", [0.5, 4.0])
@pytest.mark.parametrize("to_disk", [False, True])
def test_released_noise_has_the_stated_law(tmp_path: Path, epsilon: float, to_disk: bool) -> None:
    x = np.tile([0.6, -0.8, 0.0], (200_000, 1))
    release = SlicingMechanism(epsilon=epsilon, delta=1e-6, seed=3).release(
        x, path=tmp_path / "r" if to_disk else None
    )
    assert release.projections.dtype == np.float32
    h = 2.0 ** (math.floor(math.log2(release.sigma)) - 10)
    steps = release.projections.astype(np.float64) / h
    np.testing.assert_array_equal(steps, np.rint(steps))
    noise = (release.projections - x[0] @ release.frame) / release.sigma
    n = noise.size
    assert abs(noise.mean()) < Z_LIMIT / math.sqrt(n)
    assert abs(np.mean(noise**2) - 1) < Z_LIMIT * math.sqrt(2 / n) + 1e-6
    assert stats.kstest(noise.ravel(), "norm").statistic < math.sqrt(10.7 / n) + 4e-4
    correlations = np.corrcoef(noise.T) - np.eye(3)
    assert np.abs(correlations).max() < Z_LIMIT / math.sqrt(len(noise))
    lag = np.mean(noise[1:] * noise[:-1]) * math.sqrt(n)
    assert abs(lag) < Z_LIMIT


def empirical_delta(
    epsilon: float, near: Array, far: Array, shift: Array, sigma: float
) -> tuple[float, float]:
    """Estimate Pr[near in E] - e^epsilon Pr[far in E] on the worst event E, and its error.

    E is where the likelihood ratio exceeds e^epsilon; shift is the difference of the two means.
    """

    def inside(outputs: Array) -> Array:
        return np.asarray((outputs @ shift - shift @ shift / 2) / sigma**2 > epsilon)

    p, q = inside(near).mean(), inside(far).mean()
    error = math.sqrt(p * (1 - p) / len(near) + math.exp(2 * epsilon) * q * (1 - q) / len(far))
    return p - math.exp(epsilon) * q, error


@pytest.mark.parametrize(("epsilon", "delta"), [(0.2, 0.05), (1.0, 0.01), (3.0, 0.05)])
def test_audit_full_frame(epsilon: float, delta: float) -> None:
    # The worst pair for zero_out: a row of norm max_norm against the zero row. Every row of a
    # release is one experiment with the same frame; any orthonormal one gives the same privacy.
    d, n = 4, 400_000
    row = np.array([3.0, 0.0, 0.0, 4.0]) / 5.0 * 2.0
    make = SlicingMechanism(epsilon=epsilon, delta=delta, max_norm=2.0, seed=11)
    near = make.release(np.tile(row, (n, 1)))
    far = make.release(np.zeros((n, d)))
    value, error = empirical_delta(
        epsilon, near.projections, far.projections, row @ near.frame, near.sigma
    )
    assert value < delta + AUDIT_LIMIT * error
    assert value > delta - AUDIT_LIMIT * error  # the accounting is exact, so it is reached


@pytest.mark.parametrize(
    ("frame", "d", "p"), [("gaussian", 3, 2), ("orthonormal", 3, 2), ("orthonormal", 3, 4)]
)
def test_audit_random_frame(frame: str, d: int, p: int) -> None:
    # Over many frames: 2,000 releases of 100 equal rows each, near and far.
    epsilon, sigma, releases, n = 0.7, 0.8, 2000, 100
    row = np.zeros(d)
    row[0] = 1.0
    make = SlicingMechanism(sigma=sigma, delta=0.1, n_slices=p, frame=frame)
    stated = accounting.delta(epsilon, sigma=sigma, d=d, p=p, frame=frame)
    plan = make.account(d)
    values = []
    for _ in range(releases):
        u = frames.make_frame(frame, d, p)
        outputs = [
            _core.project_secure(
                np.tile(x, (n, 1)), u, plan.sigma, mechanism.os.urandom(32), 0, 1.0, "float64"
            )
            for x in (row, 0 * row)
        ]
        values.append(empirical_delta(epsilon, outputs[0], outputs[1], row @ u, sigma)[0])
    error = np.std(values) / math.sqrt(releases)
    assert abs(np.mean(values) - stated) < AUDIT_LIMIT * error


def test_audit_replace_one() -> None:
    row = np.array([0.6, 0.8])
    epsilon, delta, n = 1.0, 0.01, 400_000
    make = SlicingMechanism(epsilon=epsilon, delta=delta, adjacency="replace_one", seed=1)
    near, far = make.release(np.tile(row, (n, 1))), make.release(np.tile(-row, (n, 1)))
    shift = 2.0 * row @ near.frame
    middle = (row - row) @ near.frame
    value, error = empirical_delta(
        epsilon,
        near.projections - middle + shift / 2,
        far.projections - middle + shift / 2,
        shift,
        near.sigma,
    )
    assert abs(value - delta) < AUDIT_LIMIT * error


# ------------------------------------------------------------------------------- types and memory


@pytest.mark.parametrize(
    ("ratio", "dtype"), [(7000.0, np.float32), (9000.0, np.float64), (1.0, np.float32)]
)
def test_projections_are_float32_where_that_is_exact(ratio: float, dtype: type) -> None:
    release = SlicingMechanism(sigma=1.0, max_norm=ratio).release(rows())
    assert release.projections.dtype == dtype


def test_long_columns_of_a_frame_are_released_in_float64() -> None:
    mechanism_ = SlicingMechanism(sigma=1.0, max_norm=7000.0, frame="gaussian")
    assert frames.column_norm_bound("gaussian", 6, 6) > 8000.0 / 7000.0
    assert mechanism_.release(rows()).projections.dtype == np.float64


def test_noise_beyond_the_range_of_float32_is_released_in_float64() -> None:
    for unit in (1e-60, 1e60):
        release = SlicingMechanism(sigma=unit, max_norm=unit).release(unit * rows())
        assert release.projections.dtype == np.float64
        assert 0.5 < (release.projections / unit).std() < 2.0


def test_mechanism_is_a_plain_value() -> None:
    one = SlicingMechanism(epsilon=1, delta=1e-6)
    assert one == SlicingMechanism(epsilon=1.0, delta=1e-6)
    assert "epsilon=1.0" in repr(one)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.epsilon = 2.0  # type: ignore[misc]


STREAM = """
import sys
import numpy as np
from dpslice.mechanism import SlicingMechanism

def blocks(n):
    for start in range(0, n, 10_000):
        yield np.full((10_000, 32), 0.1)

mechanism = SlicingMechanism(sigma=1.0, seed=0)
mechanism.release(blocks(20_000), path=sys.argv[1] + "/warm-up")
before = peak()
if sys.argv[2] == "disk":
    release = mechanism.release(blocks(800_000), path=sys.argv[1] + "/r")
    mapped = release.projections.nbytes  # the page cache counts a shuffled map as resident
else:
    release = mechanism.release(blocks(800_000))
    mapped = release.projections.nbytes
print(peak() - before - mapped, mapped)
"""


@reads_proc
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_release_needs_one_block_beyond_its_output(tmp_path: Path, where: str) -> None:
    # 800,000 x 32 rows: 205 MB in float64, 102 MB released; a block and its output are 24 MB. In
    # memory, an iterator's output grows by an eighth at a time.
    run = subprocess.run(
        [sys.executable, "-c", PEAK + STREAM, str(tmp_path), where],
        capture_output=True,
        text=True,
        check=True,
    )
    beyond, output = map(int, run.stdout.split())
    assert output == 800_000 * 32 * 4
    assert beyond < 45e6
