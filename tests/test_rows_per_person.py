"""Guarantees for people who have several rows: accounting, mechanisms, certificates, tables."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import accounting_oracle as oracle
from dpslice import (
    AdaptiveSumMechanism,
    Guarantee,
    MarginalSums,
    Release,
    ReleaseError,
    SlicingMechanism,
    SumMechanism,
    accounting,
    frames,
)
from dpslice import adaptive as adaptive_module
from dpslice.cli import main
from dpslice.tabular import Boolean, MixtureOptions, Number, Schema, Synthesizer
from dpslice.tabular import limit_rows_per_person as limit
from dpslice.tabular._noise import discrete_gaussian_tail
from dpslice.tabular.inference import _Noise

Array = NDArray[np.float64]

AUDIT_LIMIT = 5.0  # standard errors: exceeded by chance once in three million


def gaussian_delta(epsilon: float, mu: float) -> float:
    with mp.workdps(40):
        return float(oracle.gaussian_delta(mp.mpf(epsilon), mp.mpf(mu)))


# ------------------------------------------------------------------------------------ accounting


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("blocks", [1, 3])
def test_rows_of_a_person_are_a_gaussian_mechanism(rows: int, blocks: int) -> None:
    """The Frobenius norm of E U is sqrt(p/d) times that of E, and that is at most sqrt(rows) C."""
    d, sigma = 6, 20.0
    stated = accounting.slicing_guarantee(
        sigma=sigma, delta=1e-5, d=d, p=blocks * d, rows_per_person=rows, max_norm=1.5
    )
    for epsilon, distance in ((stated.epsilon, 1.5), (stated.epsilon_replace_one, 3.0)):
        assert epsilon is not None
        mu = math.sqrt(rows * blocks) * distance / sigma
        assert 0.999 * 1e-5 < gaussian_delta(epsilon, mu) <= 1e-5
    assert stated.sensitivity == pytest.approx(math.sqrt(rows) * 1.5, rel=1e-15)


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one", "add_remove"])
def test_sums_of_a_person_are_a_gaussian_mechanism(rows: int, adjacency: str) -> None:
    stated = accounting.sum_guarantee(
        sigma=30.0,
        delta=1e-5,
        cells=20,
        norm=2.0,
        diameter=2.5,
        adjacency=adjacency,
        rows_per_person=rows,
    )
    distance = rows * (2.5 if adjacency == "replace_one" else 2.0)
    assert 0.999 * 1e-5 < gaussian_delta(stated.epsilon, distance / 30.0) <= 1e-5
    assert stated.sensitivity == distance
    if adjacency != "replace_one":
        assert stated.epsilon_replace_one is not None
        mu = rows * 2.5 / 30.0
        assert 0.999 * 1e-5 < gaussian_delta(stated.epsilon_replace_one, mu) <= 1e-5


@pytest.mark.parametrize(("d", "p"), [(3, 1), (4, 2), (3, 5)])
@pytest.mark.parametrize("shape", ["equal", "orthogonal", "mixed"])
def test_partial_frames_are_bounded_whichever_rows_a_person_has(d: int, p: int, shape: str) -> None:
    """The average over frames of the Gaussian profile, for several kinds of three rows."""
    rows = {
        "equal": np.tile(np.eye(d)[:1], (3, 1)),
        "orthogonal": np.eye(d)[:3] if d > 2 else np.eye(d)[[0, 1, 0]],
        "mixed": np.array([np.eye(d)[0], np.ones(d) / math.sqrt(d), np.eye(d)[0]]),
    }[shape]
    sigma = 1.2
    stated = accounting.slicing_guarantee(sigma=sigma, delta=1e-3, d=d, p=p, rows_per_person=3)
    found = []
    for seed in range(400):
        frame = frames.make_frame("orthonormal", d, p, seed)
        mu = np.linalg.norm(rows @ frame) / sigma
        found.append(gaussian_delta(stated.epsilon, mu))
    assert max(found) <= 1e-3  # of each frame, so of their average
    assert np.mean(found) > 0.0


@pytest.mark.parametrize("rows", [2, 7])
def test_noise_is_calibrated_for_all_rows(rows: int) -> None:
    one = accounting.calibrate_slicing(2.0, 1e-6, d=5, p=5)
    several = accounting.calibrate_slicing(2.0, 1e-6, d=5, p=5, rows_per_person=rows)
    assert several == pytest.approx(math.sqrt(rows) * one, rel=1e-6)
    how: dict[str, Any] = {"cells": 9, "norm": 1.0, "diameter": 1.4}
    one = accounting.calibrate_sums(2.0, 1e-6, **how)
    assert accounting.calibrate_sums(2.0, 1e-6, **how, rows_per_person=rows) == pytest.approx(
        rows * one, rel=1e-9
    )


def test_rounding_is_charged_for_every_row_of_a_person() -> None:
    how: dict[str, Any] = {"sigma": 2.0, "delta": 1e-6, "d": 5, "p": 10}
    one = accounting.slicing_guarantee(**how)
    several = accounting.slicing_guarantee(**how, rows_per_person=8)
    assert several.epsilon_numerical == pytest.approx(8 * one.epsilon_numerical, rel=1e-12)
    assert several.delta_numerical == pytest.approx(8 * one.delta_numerical, rel=1e-12)
    # In sums, all records of a person are in the same numbers.
    sums: dict[str, Any] = {"sigma": 9.0, "delta": 1e-6, "cells": 5, "norm": 1, "diameter": 1}
    assert (
        accounting.sum_guarantee(**sums, rows_per_person=8).epsilon_numerical
        == accounting.sum_guarantee(**sums).epsilon_numerical
    )


def test_what_cannot_be_counted_on_for_several_rows_is_refused() -> None:
    several: dict[str, Any] = {"sigma": 1.0, "rows_per_person": 2}
    with pytest.raises(ValueError, match="amplify_by_order is for people with one row each"):
        SlicingMechanism(**several, amplify_by_order=True)
    with pytest.raises(ValueError, match="rows_per_person needs a sure bound on the frame"):
        SlicingMechanism(**several, frame="gaussian")
    SlicingMechanism(**several, frame="gaussian", seed=1).account(3)  # whose norm is known
    features = MarginalSums((2, 2), [(0, 1)])
    with pytest.raises(ValueError, match="sampling_rate must be None with several rows_per_person"):
        SumMechanism(features=features, **several, sampling_rate=0.5)
    slicing: dict[str, Any] = {"sigma": 1.0, "delta": 1e-6, "d": 3, "p": 3, "rows_per_person": 2}
    with pytest.raises(ValueError, match="amplify_by_order is for people with one row each"):
        accounting.slicing_guarantee(**slicing, amplify_by_order=True, n=1000)
    with pytest.raises(ValueError, match="rows_per_person needs a sure bound on the frame"):
        accounting.slicing_guarantee(**slicing, frame="gaussian")
    with pytest.raises(ValueError, match="sampling_rate is for people with one record each"):
        Guarantee(
            epsilon=1.0,
            delta=1e-6,
            adjacency="zero_out",
            mechanism="sums",
            sampling_rate=0.5,
            rows_per_person=2,
        )


@pytest.mark.parametrize("make", [SlicingMechanism, SumMechanism, AdaptiveSumMechanism])
@pytest.mark.parametrize(
    ("rows", "kind"), [(0, ValueError), (-1, ValueError), (10**7, ValueError), (1.5, TypeError)]
)
def test_numbers_of_rows_are_checked(
    make: Callable[..., object], rows: object, kind: type[Exception]
) -> None:
    how: dict[str, Any] = {"sigma": 1.0}
    if make is not SlicingMechanism:
        how["features"] = MarginalSums((2, 2), [(0,), (1,)])
    if make is AdaptiveSumMechanism:
        how |= {"candidates": [(0, 1)], "rounds": 1}
    with pytest.raises(kind, match="rows_per_person must be"):
        make(**how, rows_per_person=rows)


# ------------------------------------------------------------------------------------ mechanisms


def test_audit_of_a_person_with_four_rows() -> None:
    """The likelihood ratio of a person's rows against rows of zeros, in releases of these alone.

    A release is one experiment; its rows are equal, so their random order is no matter. The claim
    is reached, and one for a single row would not hold.
    """
    rows, d, epsilon, delta = 4, 3, 1.0, 0.02
    make = SlicingMechanism(epsilon=epsilon, delta=delta, rows_per_person=rows, seed=3)
    row = np.array([2.0, -1.0, 2.0]) / 3.0
    experiments = 100_000
    near, far = (
        make.release(np.tile(x, (rows * experiments, 1))) for x in (row, np.zeros_like(row))
    )

    def loss(projections: Array, frame: Array, sigma: float) -> Array:
        shift = row @ frame
        each = (projections @ shift - shift @ shift / 2) / sigma**2
        return each.reshape(experiments, rows).sum(axis=1)

    p = (loss(near.projections, near.frame, near.sigma) > epsilon).mean()
    q = (loss(far.projections, far.frame, far.sigma) > epsilon).mean()
    value = p - math.exp(epsilon) * q
    error = math.sqrt((p * (1 - p) + math.exp(2 * epsilon) * q * (1 - q)) / experiments)
    assert abs(value - delta) < AUDIT_LIMIT * error
    single = SlicingMechanism(epsilon=epsilon, delta=delta).account(d)
    assert single.sigma is not None
    assert single.sigma < 0.6 * near.sigma


def test_noise_of_sums_is_that_of_all_records_of_a_person() -> None:
    """Of 4000 counts; a standard deviation that is 9 % off would be 8 standard errors off."""
    features = MarginalSums((4000,), [(0,)])
    make = SumMechanism(
        features=features, epsilon=1.0, delta=1e-6, adjacency="add_remove", rows_per_person=3
    )
    release = make.release(np.zeros((1, 1), dtype=np.int64))
    assert gaussian_delta(1.0, 3 * features.norm / release.sigma) <= 1e-6
    found = np.std(release.sums[1:]) / release.sigma
    assert abs(found - 1.0) < AUDIT_LIMIT / math.sqrt(2 * 4000)


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_scores_of_rounds_move_by_delta_at_most(
    adjacency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a person with any two records, the largest move is what the slope counts on."""
    sizes, groups = (2, 3, 2), [(0, 1), (0, 2), (1, 2)]
    seen: list[list[int]] = []
    slopes: list[float] = []

    def choose(scores: list, candidates: list, count: int, slope: float, *rest: object) -> list:
        seen.append(scores)
        slopes.append(slope)
        return candidates[:count]

    monkeypatch.setattr(adaptive_module, "_choose", choose)
    mechanism = AdaptiveSumMechanism(
        features=MarginalSums(sizes, [(0,), (1,), (2,)]),
        candidates=groups,
        rounds=1,
        epsilon=1.0,
        delta=1e-6,
        adjacency=adjacency,
        rows_per_person=2,
    )
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 20) for size in sizes], axis=1)
    codes[:2] = codes[0]
    expected = [rng.normal(3.0, 4.0, [sizes[j] for j in group]) for group in groups]
    neighbours = [np.delete(codes, (0, 1), axis=0)]
    if adjacency == "replace_one":
        records = [np.array(record) for record in itertools.product(*map(range, sizes))]
        pairs = itertools.combinations_with_replacement(records, 2)
        neighbours = [np.vstack([codes[2:], *pair]) for pair in pairs]
    for table in (codes, *neighbours):
        mechanism.release(table, lambda release, groups: expected)
    moves = np.abs(np.array(seen[1:]) - np.array(seen[0]))
    reach = 4 if adjacency == "replace_one" else 2
    assert moves.max() == reach
    sigma = mechanism.account().sigma
    assert sigma is not None
    # The range of losses is that of the share of mu that choosing has; a slope more would be less.
    mu = 2 * mechanism._norm * math.sqrt(mechanism.choosing_share) / sigma
    if adjacency == "replace_one":
        mu *= 2
    assert slopes[0] * 2 * reach == pytest.approx(accounting.choice_range(mu), rel=1e-12)


# ------------------------------------------------------------------------------- schema inference


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one", "add_remove"])
def test_counts_of_an_inference_may_all_move(adjacency: str) -> None:
    """By `rows` in each histogram, under replace_one in two bins of it: Gaussian noise for that."""
    rows, histograms = 5, 4
    noise = _Noise(
        0.7,
        1e-6,
        histograms=histograms,
        open_histograms=0,
        adjacency=adjacency,
        rows_per_person=rows,
    )
    bins = histograms + (adjacency == "add_remove")
    squared = rows**2 * bins * (2 if adjacency == "replace_one" else 1)
    stated = noise.guarantee(n=None)
    assert stated.sensitivity == pytest.approx(math.sqrt(squared))
    # The discrete Gaussian is no worse than the continuous one was accounted for, by Renyi bounds.
    exact = gaussian_delta(stated.epsilon, math.sqrt(squared) / noise.sigma)
    assert 1e-9 < exact <= 1e-6
    assert stated.rows_per_person == rows


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_categories_of_one_person_are_published_with_probability_at_most_delta(rows: int) -> None:
    """However a person's rows are shared out over categories that nobody else has."""
    noise = _Noise(
        1.0, 1e-5, histograms=3, open_histograms=2, adjacency="zero_out", rows_per_person=rows
    )
    for parts in range(1, rows + 1):
        largest = rows - parts + 1  # one category with all that is left, the others with one row
        counts = [largest] + [1] * (parts - 1)
        told = sum(discrete_gaussian_tail(noise.threshold - c, noise.variance) for c in counts)
        assert 2 * told <= noise.delta_threshold
    assert noise.delta_threshold <= 1e-5


def test_schema_and_release_must_be_for_the_same_people() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.integers(20, 60, 3000)})
    schema = Schema.infer(
        table, epsilon=1.0, delta=1e-6, types={"age": "integer"}, rows_per_person=3
    )
    assert schema.guarantee is not None
    assert schema.guarantee.rows_per_person == 3
    with pytest.raises(ValueError, match="rows_per_person must be 3"):
        Synthesizer(schema, epsilon=1.0, delta=1e-6)
    with pytest.raises(
        ValueError, match="rows_per_person must be that of what was spent before, 3"
    ):
        Schema.infer(
            table,
            epsilon=1.0,
            delta=1e-6,
            types={"age": "integer"},
            prior=schema.guarantee,
            rows_per_person=2,
        )
    synthesizer = Synthesizer(schema, epsilon=1.0, delta=1e-6, rows_per_person=3)
    synthesizer.publish(table)
    assert synthesizer.guarantee.rows_per_person == 3
    assert synthesizer.guarantee.epsilon <= 2.0


# ----------------------------------------------------------------------------------- certificates


def _release(rows: int = 5, **how: Any) -> Any:
    mechanism = SlicingMechanism(epsilon=2.0, delta=1e-6, rows_per_person=rows, **how)
    return mechanism.release(np.eye(30))


def test_certificates_say_whose_rows_they_are_about() -> None:
    release = _release()
    text = str(release.guarantee)
    assert "the rows of one person, at most 5, are replaced by rows of zeros" in text
    assert "if a person's records may be replaced by any others" in text
    assert "nobody has more than 5 rows" in text
    sums = SumMechanism(
        features=MarginalSums((2,), [(0,)]), sigma=50.0, rows_per_person=5
    ).account()
    assert "the records of one person, at most 5, are replaced by ones that count nowhere" in str(
        sums
    )
    one = str(_release(1).guarantee)
    assert "person" not in one
    assert "rows_per_person" not in json.dumps(_release(1).guarantee.to_dict())


@pytest.mark.parametrize("entry", ["rows", "sums"])
def test_more_rows_than_were_accounted_for_are_no_claim(entry: str) -> None:
    if entry == "rows":
        stated = _release().guarantee
    else:
        stated = SumMechanism(
            features=MarginalSums((2,), [(0,)]), sigma=50.0, rows_per_person=5
        ).account()
    assert Guarantee.from_dict(stated.to_dict()) == stated
    with pytest.raises(ValueError, match="claims more than its numbers give"):
        Guarantee.from_dict(stated.to_dict() | {"rows_per_person": 6})


def test_an_edited_certificate_is_refused(tmp_path: Path) -> None:
    release = _release()
    more = dataclasses.replace(release.guarantee, rows_per_person=50)
    forged = type(release)(
        release.frame, release.projections, release.sigma, more, frame_kind="orthonormal"
    )
    forged.save(tmp_path / "forged")
    with pytest.raises(ReleaseError, match="claims more than its numbers give"):
        Release.load(tmp_path / "forged")


@pytest.mark.parametrize("how", [{}, {"n_slices": 7}])
def test_releases_for_the_same_people_compose_as_gaussians(how: dict[str, int]) -> None:
    one = _release(**how).guarantee
    sums = SumMechanism(
        features=MarginalSums((2,), [(0,)]), sigma=50.0, rows_per_person=5
    ).account()
    both = Guarantee.compose(one, sums)
    assert both.rows_per_person == 5
    mu = math.hypot(math.sqrt(5) / one.sigma, 5 / 50.0)
    assert 0.99 * both.delta < gaussian_delta(both.epsilon, mu) <= both.delta
    assert both.composition == "joint"


def test_guarantees_for_other_people_do_not_compose() -> None:
    with pytest.raises(ValueError, match="must have the same rows_per_person; got 1 and 5"):
        Guarantee.compose(_release(1).guarantee, _release(5).guarantee)
    whole = Guarantee.compose(_release().guarantee, _release().guarantee).to_dict()
    del whole["rows_per_person"]
    with pytest.raises(ValueError, match="parts of a guarantee must have its rows_per_person"):
        Guarantee.from_dict(whole)


# ------------------------------------------------------------------------------------------ tables

SCHEMA = Schema([Number("age", "integer", 0, 9), Boolean("employed")])


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_synthesizers_release_for_people(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.integers(0, 10, 500), "employed": rng.random(500) < 0.5})
    training = MixtureOptions(steps=1, components=4) if method == "sums" else None
    how: dict[str, Any] = {"epsilon": 2.0, "delta": 1e-6, "method": method}
    synthesizer = Synthesizer(SCHEMA, **how, training=training, rows_per_person=4)
    release = synthesizer.publish(table, path=tmp_path / "release")
    one = Synthesizer(SCHEMA, **how).publish(table)
    times = 4 if method == "sums" else 2
    assert release.sigma == pytest.approx(times * one.sigma, rel=1e-6)
    assert release.guarantee.rows_per_person == 4
    again = Synthesizer.from_release(Release.load(tmp_path / "release"), training=training)
    assert again.rows_per_person == 4
    if method == "sums":
        again.train(progress=False)
        again.save(tmp_path / "model")
        assert Synthesizer.load(tmp_path / "model").rows_per_person == 4


def test_rounds_release_for_people() -> None:
    rng = np.random.default_rng(0)
    schema = Schema([Boolean(name) for name in "abcd"])
    table = pd.DataFrame({name: rng.random(400) < 0.5 for name in "abcd"})
    how: dict[str, Any] = {
        "epsilon": 2.0,
        "delta": 1e-6,
        "rounds": 1,
        "training": MixtureOptions(steps=1, components=4),
    }
    one, several = (
        Synthesizer(schema, **how, rows_per_person=rows).publish(table) for rows in (1, 3)
    )
    assert several.sigma == pytest.approx(3 * one.sigma, rel=1e-6)
    assert several.guarantee.rows_per_person == 3


def _visits(seed: int, n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    whose = rng.integers(0, 40, n).astype(str)
    return pd.DataFrame({"person": whose, "age": rng.integers(0, 10, n)})


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_the_first_rows_of_each_person_are_kept(rows: int) -> None:
    table = _visits(0)
    expected = table.groupby("person", sort=False).head(rows).sort_index()[["age"]]
    pd.testing.assert_frame_equal(limit(table, "person", rows), expected)


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_pieces_are_limited_as_the_whole(size: int) -> None:
    table = _visits(1)
    pieces = [table.iloc[start : start + size] for start in range(0, len(table), size)]
    kept = list(limit(iter(pieces), "person", 2))
    assert all(len(piece) for piece in kept)
    pd.testing.assert_frame_equal(pd.concat(kept), limit(table, "person", 2))


def test_rows_of_others_are_kept_alike_whatever_one_person_has() -> None:
    """The limited tables differ in one person's rows alone, and in `rows_per_person` at most."""
    table = _visits(2)
    table["age"] = np.arange(len(table))  # names the rows
    for person in table["person"].unique():
        without = table[table["person"] != person]
        kept, left = (set(limit(t, "person", 3)["age"]) for t in (table, without))
        assert left <= kept
        assert len(kept - left) == min(3, (table["person"] == person).sum())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"age": [1]}), "must name one column of the table; 'person' is there 0"),
        (
            pd.DataFrame([[1, 2]], columns=["person", "person"]),
            "must name one column of the table; 'person' is there 2",
        ),
        (
            pd.DataFrame({"person": ["a", None], "age": [1, 2]}),
            r"missing values \(the first at index 1\)",
        ),
    ],
)
def test_tables_without_people_are_refused(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        limit(table, "person", 2)


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(TypeError, match="df must be a DataFrame"):
        limit(3, "person", 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="df must hold DataFrames"):
        list(limit([np.zeros(3)], "person", 2))  # type: ignore[list-item]
    with pytest.raises(TypeError, match="must hold values that can be hashed"):
        limit(pd.DataFrame({"person": [[1], [2]]}), "person", 2)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        (([17, 17], ["17", "x"]), "numbers and texts"),
        (([17.0], ["17"]), "numbers and texts"),
        (([datetime.date(2020, 1, 1)], pd.to_datetime(["2020-01-01"])), "date values and times"),
        (([], ["17"], [17]), "numbers and texts"),
        ((pd.Series(["17", b"17"], dtype=object),), "bytes values and texts"),
    ],
)
def test_a_person_is_not_taken_for_two(values: Sequence[Any], kinds: str) -> None:
    """As pandas makes of 17 a number in one piece of a file, and a text in another."""
    pieces = [pd.DataFrame({"person": each, "age": range(len(each))}) for each in values]
    with pytest.raises(TypeError, match=f"values of one kind, .* same person; got {kinds}$"):
        list(limit(pieces, "person", 1))


def test_numbers_of_a_person_may_be_of_any_type() -> None:
    types = ["int64", "Int64", "uint8", "float64", "bool", "category", "object"]
    pieces = [pd.DataFrame({"person": pd.Series([1, 1]).astype(each)}) for each in types]
    assert sum(map(len, limit(pieces, "person", 3))) == 3


@pytest.mark.parametrize("dtype", ["object", "string"])
def test_people_are_told_apart_by_whole_texts(dtype: str) -> None:
    """Of a text with NULs in it, pandas' own tables of texts take what is before the first."""
    people = ["17\0a", "17\0b", "17", "17\0a", "17\0"]
    table = pd.DataFrame({"person": pd.Series(people, dtype=dtype), "age": range(5)})
    assert limit(table, "person", 1)["age"].tolist() == [0, 1, 2, 4]


def test_people_without_a_number_are_refused() -> None:
    """NaN is like no NaN of another piece, and not missing to pandas in columns of some types."""
    zero = pd.Series([0.0, 0.0], dtype="Float64")
    piece = pd.DataFrame({"person": zero / zero, "age": [1, 2]})
    with pytest.raises(ValueError, match=r"missing values|holds NaN"):
        list(limit([piece, piece], "person", 1))


# -------------------------------------------------------------------------------- the command line

TABLE_SCHEMA = '[columns.age]\ntype = "integer"\nmin = 0\nmax = 9\n'


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in a folder that holds a table of visits and its schema."""
    monkeypatch.chdir(tmp_path)
    _visits(3).to_csv("visits.csv", index=False)
    Path("schema.toml").write_text(TABLE_SCHEMA)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        return (code, *capsys.readouterr())

    return run


def test_commands_leave_out_what_people_have_more(run: Callable[..., tuple[int, str, str]]) -> None:
    kept = len(limit(_visits(3), "person", 2))
    people = ("--person", "person", "--rows-per-person", "2")
    asked = ("visits.csv", "--schema", "schema.toml", "--epsilon", "2", *people, "--json")
    for method in ("sums", "rows"):
        code, out, _ = run("release", *asked, "--method", method, "--out", method)
        assert code == 0
        told = json.loads(out)
        assert told["n"] == kept
        assert told["guarantee"]["rows_per_person"] == 2
    assert Release.load("rows").n == kept
    few = ("--steps", "2", "--out", "synthetic.csv", "--report", "report.html")
    code, out, _ = run("synthesize", *asked, *few)
    assert code == 0
    assert json.loads(out)["n"] == kept
    page = Path("report.html").read_text()
    assert "that person’s rows, at most 2, are blanked" in page
    assert "If those rows may be replaced by <em>any others</em> (replace_one)" in page


def test_the_order_of_first_rows_may_be_counted_on(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    """Of one row a person, whose number is known only once the others are left out."""
    code, out, _ = run(
        *("release", "visits.csv", "--schema", "schema.toml", "--epsilon", "1", "--out", "release"),
        *("--method", "rows", "--amplify-by-order", "--person", "person", "--json"),
    )
    assert code == 0
    assert json.loads(out)["n"] == len(limit(_visits(3), "person", 1))


def test_schemas_are_inferred_for_people(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("types.toml").write_text('[columns.age]\ntype = "integer"\n')
    code, _, _ = run(
        *("schema", "infer", "visits.csv", "--types", "types.toml", "--epsilon", "5"),
        *("--person", "person", "--rows-per-person", "2", "--out", "inferred.toml"),
    )
    assert code == 0
    cost = Schema.load("inferred.toml").guarantee
    assert cost is not None
    assert cost.rows_per_person == 2
    assert cost.n == len(limit(_visits(3), "person", 2))
    assert "nobody has more than 2 rows" in str(cost)  # as of a release: nothing else enforces it


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_accounts_are_for_people(method: str, run: Callable[..., tuple[int, str, str]]) -> None:
    def told(rows: str) -> Any:
        code, out, _ = run(
            *("account", "--epsilon", "1", "--schema", "schema.toml", "--json"),
            *("--rows-per-person", rows),
        )
        assert code == 0
        return json.loads(out)

    def noise(document: Any) -> float:
        at = document["sums"] if method == "sums" else document["frames"]["orthonormal"]
        return float(at["sigma"])

    several = told("4")
    assert noise(several) == pytest.approx((4 if method == "sums" else 2) * noise(told("1")))
    assert set(several["frames"]) == {"orthonormal"}
    assert "paper_theorem_1" not in several


@pytest.mark.parametrize(("columns", "said"), [("3", "bounded"), ("8", "exact")])
def test_accounts_of_partial_frames_are_bounds(
    columns: str, said: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    shape = ("--dim", "4", "--columns", columns)
    code, out, _ = run("account", "--epsilon", "1", *shape, "--rows-per-person", "2")
    assert code == 0
    assert f"orthonormal, {said}" in out
    code, out, _ = run("account", "--epsilon", "1", *shape)
    assert "orthonormal, exact" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--person", "age"), "--person must name a column that is neither in the schema"),
        (("--person", "person", "--drop", "person"), "--person must name a column that is neither"),
        (("--person", "who", "--drop", "person"), "missing from the file: 'who'"),
        (("--person", "person", "--rows-per-person", "0"), "rows_per_person must be"),
        (
            ("--person", "person", "--rows-per-person", "2", "--amplify-by-order"),
            "amplify_by_order is for",
        ),
    ],
)
def test_what_commands_refuse_of_people(
    arguments: tuple[str, ...], message: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = run(
        *("release", "visits.csv", "--schema", "schema.toml", "--epsilon", "1", "--out", "release"),
        *("--method", "rows", *arguments),
    )
    assert code != 0
    assert message in err
    assert err.count("\n") == 1
    assert not Path("release").exists()
