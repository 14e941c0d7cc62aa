"""The synthesizer: fit, sample, save, load, report, and what it refuses."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the synthesizer trains with torch")
pd = pytest.importorskip("pandas", reason="the synthesizer works on tables")

from dpslice import Release, SlicingMechanism, mechanism  # noqa: E402
from dpslice.tabular import (  # noqa: E402
    Boolean,
    Categorical,
    Datetime,
    Discretization,
    Encoding,
    Number,
    Schema,
    Synthesizer,
)
from dpslice.tabular import discretization as discretization_module  # noqa: E402
from dpslice.tabular.sums import _EachByItself  # noqa: E402
from dpslice.tabular.synthesizer import MixtureOptions, TrainingOptions  # noqa: E402
from dpslice.torch.sum_losses import MarginalMatching  # noqa: E402
from dpslice.torch.training import sealed, unsealed  # noqa: E402

SCHEMA = Schema(
    [
        Categorical("job", ("clerk", "cook", "pilot")),
        Number("age", "integer", 0, 90),
        Boolean("member", nullable=True),
    ],
    target="member",
)
QUICK = {
    "rows": TrainingOptions(steps=20, batch_size=128),
    "sums": MixtureOptions(steps=20, components=32),
}


def _table(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    member = pd.array(rng.random(n) < 0.3, dtype="boolean")
    member[::10] = pd.NA
    return pd.DataFrame(
        {
            "job": rng.choice(["clerk", "cook", "pilot"], n, p=[0.6, 0.3, 0.1]),
            "age": rng.integers(20, 60, n),
            "member": member,
        }
    )


def _synthesizer(method: str, **options: object) -> Synthesizer:
    given: dict[str, object] = {"epsilon": 4.0, "delta": 1e-5, "training": QUICK[method]}
    schema = options.pop("schema", SCHEMA)
    return Synthesizer(schema, method=method, **(given | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["sums", "rows"])
def fitted(request: pytest.FixtureRequest) -> Synthesizer:
    return _synthesizer(request.param).fit(_table(600), progress=False)


def test_samples_follow_the_schema(fitted: Synthesizer) -> None:
    sample = fitted.sample(500)
    assert list(sample.columns) == ["job", "age", "member"]
    assert len(sample) == 500
    SCHEMA.validate(sample)
    assert sample["age"].between(0, 90).all()


def test_guarantee_is_the_requested_one(fitted: Synthesizer) -> None:
    promise = fitted.guarantee
    assert 3.99 < promise.epsilon <= 4.0
    assert 0 < promise.delta <= 1e-5
    assert promise.adjacency == "zero_out"
    assert fitted.release is not None
    rows = fitted.method == "rows"
    bound = Encoding(SCHEMA).max_norm if rows else fitted.release.features.norm
    assert promise.sensitivity == pytest.approx(bound, rel=1e-6)
    assert promise.epsilon_replace_one is not None
    assert promise.epsilon_replace_one > promise.epsilon


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_replace_one_uses_the_diameter(method: str) -> None:
    release = _synthesizer(method, adjacency="replace_one").publish(_table(50))
    assert release.guarantee.adjacency == "replace_one"
    far = Encoding(SCHEMA).diameter if method == "rows" else release.features.diameter
    assert release.guarantee.sensitivity == pytest.approx(far, rel=1e-6)


def test_same_release_and_seed_give_the_same_table(fitted: Synthesizer) -> None:
    assert fitted.release is not None
    again = Synthesizer.from_release(fitted.release, training=QUICK[fitted.method]).train(
        progress=False
    )
    pd.testing.assert_frame_equal(again.sample(300), fitted.sample(300, seed=0))
    pd.testing.assert_frame_equal(fitted.sample(50, seed=3), fitted.sample(50, seed=3))
    assert not fitted.sample(300, seed=3).equals(fitted.sample(300, seed=4))


def test_no_sample_repeats_another(fitted: Synthesizer) -> None:
    assert fitted.release is not None
    again = Synthesizer.from_release(fitted.release, training=QUICK[fitted.method])
    again.train(progress=False)
    with pytest.raises(ValueError, match="within its bounds"):
        again.sample(300, conditions={"age": 999})  # takes no seed
    samples = [again.sample(300) for _ in range(3)]
    pd.testing.assert_frame_equal(samples[0], again.sample(300, seed=0))
    for i in range(3):
        for j in range(i):
            assert not samples[i].equals(samples[j])


WRONG = {
    MixtureOptions: {
        "steps": -5,
        "components": 0,
        "lr": math.nan,
        "spread": math.nan,
        "stop_at": 0.0,
        "models": 0,
    },
    TrainingOptions: {
        "steps": 2.5,
        "batch_size": 0,
        "lr": 0.0,
        "ema": 2.0,
        "code_dim": 0,
        "hidden": (0,),
        "temperature": -1.0,
    },
}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(kind, {name: value}) for kind, each in WRONG.items() for name, value in each.items()],
)
def test_options_are_checked_before_anything_is_spent(kind: type, wrong: dict) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        kind(**wrong)


def test_training_may_stop_at_the_floor_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    # One noise: with some, 400 steps come near 1 and do not get there.
    monkeypatch.setattr(mechanism, "_normals", np.random.default_rng(0).standard_normal)
    options = dataclasses.replace(QUICK["sums"], steps=400, stop_at=1.0)
    seen: list[float] = []
    synthesizer = _synthesizer("sums", training=options)
    synthesizer.train(
        synthesizer.publish(_table(3000)),
        progress=False,
        callbacks=[lambda state: seen.append(state.loss)],
    )
    assert synthesizer.result is not None
    assert not synthesizer.result.interrupted
    assert synthesizer.result.steps == len(seen) < 400
    assert seen[-1] <= 1.0 < min(seen[:-1])


def test_several_models_are_fitted_each_by_itself_and_joined(tmp_path: Path) -> None:
    """The union of three is as good as the three on average, and their mean is nearer the truth."""
    options = dataclasses.replace(QUICK["sums"], steps=60, models=3)
    synthesizer = _synthesizer("sums", training=options)
    release = synthesizer.publish(_table(3000))
    synthesizer.train(release, progress=False)
    joined = synthesizer.model
    assert joined.components == 3 * options.components
    joined.zero_grad()
    # Each third is what it would have become alone: the gradient of one is not another's.
    loss = MarginalMatching(
        release, columns=range(len(joined.sizes)), halves=False, columns_weight=1.0
    )
    rows = joined(torch.zeros(joined.components, 1))
    thirds = torch.stack([loss(part) for part in rows.chunk(3)])
    assert loss(rows) < thirds.mean()
    _EachByItself(loss, 3)(rows).backward()
    together = joined.logits.grad.clone()
    joined.zero_grad()
    loss(joined(torch.zeros(joined.components, 1)).chunk(3)[1]).backward()
    torch.testing.assert_close(
        3 * together.chunk(3)[1], joined.logits.grad.chunk(3)[1], rtol=1e-4, atol=1e-7
    )
    synthesizer.save(tmp_path / "model")
    again = Synthesizer.load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.sample(50, seed=3), synthesizer.sample(50, seed=3))


def test_checkpoint_is_checked_before_anything_is_spent(tmp_path: Path) -> None:
    synthesizer = _synthesizer("sums")
    with pytest.raises(ValueError, match="checkpoint must lie in a directory that exists"):
        synthesizer.fit(_table(50), checkpoint=tmp_path / "no" / "state", progress=False)
    assert synthesizer.release is None


def test_mistakes_of_fit_are_found_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (2**63, 2**64, -1, 1.5):
        with pytest.raises((TypeError, ValueError), match="seed"):
            _synthesizer("sums", seed=seed)
    synthesizer = _synthesizer("sums", seed=2**63 - 1)
    there = tmp_path / "state"
    there.write_bytes(b"of another release")
    with pytest.raises(ValueError, match="checkpoint must be a new file, as each release is new"):
        synthesizer.fit(_table(50), checkpoint=there, progress=False)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="tqdm"):
        synthesizer.fit(_table(50))
    assert synthesizer.release is None
    sample = synthesizer.fit(_table(50), progress=False).sample(3, seed=2**63 - 1)
    assert len(sample) == 3


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (
            "sums",
            MixtureOptions(
                steps=np.int64(3),
                components=np.int32(8),
                lr=np.float32(0.05),
                spread=np.float64(0.5),
                stop_at=np.float32(0.5),
                models=np.int8(1),
            ),
        ),
        (
            "rows",
            TrainingOptions(
                steps=np.int64(3),
                batch_size=np.int32(8),
                lr=np.float32(0.01),
                ema=np.float32(0.9),
                code_dim=np.int16(4),
                hidden=[np.int64(8)],
                temperature=np.float32(0.5),
            ),
        ),
    ],
)
def test_options_of_numpy_are_saved_with_the_model(method, options, tmp_path: Path) -> None:
    synthesizer = _synthesizer(method, training=options).fit(_table(50), progress=False)
    synthesizer.save(tmp_path / "m.pt")
    assert Synthesizer.load(tmp_path / "m.pt").training == options


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_torchs_default_device_is_for_others(method: str, tmp_path: Path) -> None:
    # As after torch.set_default_device("cuda"): a tensor made on "meta" could not be computed with.
    with torch.device("meta"):
        schema, rounds = (WIDER, 1) if method == "sums" else (SCHEMA, 0)
        synthesizer = _synthesizer(method, schema=schema, rounds=rounds, epsilon=20.0)
        table = _wider_table(200) if rounds else _table(200)
        synthesizer.fit(table, progress=False).save(tmp_path / "m.pt")
        loaded = Synthesizer.load(tmp_path / "m.pt")
        sample = loaded.sample(20)
    pd.testing.assert_frame_equal(sample, loaded.sample(20, seed=0))


def test_a_second_release_is_said_to_spend_again() -> None:
    synthesizer = _synthesizer("sums")
    synthesizer.publish(_table(50))
    for again in (synthesizer.publish, functools.partial(synthesizer.fit, progress=False)):
        with pytest.warns(UserWarning, match="another release spends epsilon and delta again") as w:
            again(_table(50))
        assert [warning.filename for warning in w] == [__file__]


def test_a_release_by_a_loaded_synthesizer_is_said_to_spend_again(
    fitted: Synthesizer, tmp_path: Path
) -> None:
    # Its guarantee would be put in the place of the model's, where the total is that of both.
    fitted.save(tmp_path / "m.pt")
    with pytest.warns(UserWarning, match="another release spends epsilon and delta again"):
        Synthesizer.load(tmp_path / "m.pt").publish(_table(50))
    assert fitted.release is not None
    made = Synthesizer.from_release(fitted.release, training=QUICK[fitted.method])
    with pytest.warns(UserWarning, match="another release spends epsilon and delta again"):
        made.publish(_table(50))


def test_a_release_after_one_that_failed_once_a_round_was_told_spends_again() -> None:
    synthesizer = _synthesizer("sums", schema=WIDER, rounds=1)

    def stop(i: int, tables: list[tuple[str, ...]]) -> None:
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        synthesizer.publish(_wider_table(50), on_round=stop)
    with pytest.warns(UserWarning, match="another release spends epsilon and delta again"):
        synthesizer.publish(_wider_table(50))


def test_training_leaves_the_callers_random_state_alone(fitted: Synthesizer) -> None:
    assert fitted.release is not None
    before = torch.random.get_rng_state()
    Synthesizer.from_release(fitted.release, training=QUICK[fitted.method]).train(progress=False)
    assert torch.equal(before, torch.random.get_rng_state())


WIDER = Schema([*SCHEMA, Categorical("city", ("Bern", "Rome")), Number("rooms", "integer", 1, 4)])


def _wider_table(n: int) -> pd.DataFrame:
    """City and rooms tell the job's parity together, and nothing alone."""
    rng = np.random.default_rng(1)
    table = _table(n)
    city = rng.integers(0, 2, n)
    parity = (table["job"] == "cook").to_numpy().astype(int)
    table["city"] = np.array(["Bern", "Rome"])[city]
    table["rooms"] = 1 + 2 * rng.integers(0, 2, n) + (city + parity) % 2
    return table


@pytest.mark.parametrize("adjacency", ["zero_out", "add_remove", "replace_one"])
def test_rounds_count_what_pairs_do_not_tell(adjacency: str, tmp_path: Path) -> None:
    told: list = []
    synthesizer = _synthesizer(
        "sums", schema=WIDER, rounds=2, epsilon=20.0, adjacency=adjacency, seed=3
    )
    release = synthesizer.publish(
        _wider_table(3000),
        path=tmp_path / "r",
        on_round=lambda i, tables: told.append((i, tables)),
    )
    assert [i for i, _ in told] == [0, 1]
    assert ("job", "city", "rooms") in told[0][1]
    assert release.guarantee.epsilon == synthesizer.guarantee.epsilon == 20.0
    assert "tables were chosen by exponential mechanisms" in str(release.guarantee)
    if adjacency == "add_remove":
        certificate = json.loads((tmp_path / "r" / "certificate.json").read_text())
        certificate["files"] = certificate["certificate_sha256"] = None  # random digits
        assert "3000" not in json.dumps(certificate)
    again = Synthesizer.from_release(Release.load(tmp_path / "r"), training=QUICK["sums"])
    again.train(progress=False)
    again.save(tmp_path / "model.pt")
    loaded = Synthesizer.load(tmp_path / "model.pt")
    assert again.rounds == loaded.rounds == 2
    pd.testing.assert_frame_equal(loaded.sample(50), again.sample(50))
    facts = again.training_facts()
    assert facts is not None
    assert "misfit over noise, worst table 1" in facts


def test_rounds_of_more_tables_than_can_be_candidates(monkeypatch) -> None:
    """What was left out is not chosen; the guarantee is what it is with all of them."""
    promised = _synthesizer("sums", schema=WIDER, rounds=2).publish(_wider_table(300)).guarantee
    monkeypatch.setattr(discretization_module, "MOST_CANDIDATES", 3)
    told: list = []
    synthesizer = _synthesizer("sums", schema=WIDER, rounds=2)
    release = synthesizer.publish(_wider_table(300), on_round=lambda _, some: told.extend(some))
    kept = Discretization(WIDER).candidates()
    assert len(kept) == 3
    assert len(told) == 2
    assert set(told) <= {tuple(WIDER.names[j] for j in group) for group in kept}
    assert release.guarantee.sigma == pytest.approx(promised.sigma, rel=1e-5)
    assert release.guarantee.epsilon == promised.epsilon


def test_rounds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds are for method='sums'; got 2 with 'rows'"):
        _synthesizer("rows", rounds=2)
    with pytest.raises(ValueError, match="rounds must be an integer >= 0; got -1"):
        _synthesizer("sums", rounds=-1)
    two = Schema([Boolean("a"), Boolean("b")])
    rows = pd.DataFrame({"a": [True, False], "b": [True, True]})
    with pytest.raises(ValueError, match="the schema has 0 that are small enough"):
        _synthesizer("sums", schema=two, rounds=1).publish(rows)


def test_ctrl_c_in_a_round_leaves_no_release(tmp_path: Path, monkeypatch) -> None:
    from dpslice.tabular import sums as sums_module

    def interrupted(*args: object, **options: object):
        return sums_module.FitResult(steps=1, history=[1.0], seconds=0.0, interrupted=True)

    monkeypatch.setattr(sums_module, "fit", interrupted)
    synthesizer = _synthesizer("sums", schema=WIDER, rounds=1)
    with pytest.raises(KeyboardInterrupt):
        synthesizer.publish(_wider_table(200), path=tmp_path / "r")
    assert not list(tmp_path.iterdir())
    assert synthesizer.release is None


def test_large_samples_are_made_in_pieces(fitted: Synthesizer) -> None:
    assert len(fitted.sample(40_000)) == 40_000


def test_a_saved_release_can_be_trained_on_elsewhere(fitted: Synthesizer, tmp_path: Path) -> None:
    assert fitted.release is not None
    fitted.release.save(tmp_path / "people.dpslice")
    release = Release.load(tmp_path / "people.dpslice")
    again = Synthesizer.from_release(release, training=QUICK[fitted.method]).train(progress=False)
    assert again.schema == fitted.schema
    pd.testing.assert_frame_equal(again.sample(100), fitted.sample(100, seed=0))
    assert again.guarantee == fitted.guarantee


def test_saved_model_samples_the_same(fitted: Synthesizer, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    fitted.save(path)
    loaded = Synthesizer.load(path)
    pd.testing.assert_frame_equal(loaded.sample(200), fitted.sample(200, seed=0))
    assert loaded.guarantee == fitted.guarantee
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]  # no temporary file is left


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_table_in_pieces_is_released_whole(method: str) -> None:
    table = _table(100)
    synthesizer = _synthesizer(method)
    release = synthesizer.publish(piece for piece in (table[:40], table[40:]))
    assert release.n == 100


def test_cost_of_an_inferred_schema_is_in_the_guarantee() -> None:
    table = _table(3000)
    types = {"job": "categorical", "age": "integer", "member": "boolean"}
    schema = Schema.infer(table, epsilon=1.0, delta=1e-6, types=types, nullable=["member"])
    synthesizer = Synthesizer(schema, epsilon=3.0, delta=1e-5)
    release = synthesizer.publish(table)
    assert schema.guarantee is not None
    total = synthesizer.guarantee
    assert total.epsilon == pytest.approx(release.guarantee.epsilon + schema.guarantee.epsilon)
    assert total.epsilon > 3.5
    assert len(total.parts) == 2
    assert Synthesizer.from_release(release).guarantee == total


def test_report_is_written(fitted: Synthesizer, tmp_path: Path) -> None:
    scores = fitted.report(_table(400, seed=1), tmp_path / "report.html")
    assert 0 < scores["tv_complement"] <= 1
    assert "not private" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()


def test_a_report_needs_real_rows(fitted: Synthesizer, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="df must have at least one row; got an empty table"):
        fitted.report(_table(3)[:0], path)
    with pytest.raises(TypeError, match="df must be a pandas DataFrame; got int"):
        fitted.report(3, path)  # type: ignore[arg-type]
    assert not path.exists()


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_one_row_and_one_column_work(method: str) -> None:
    schema = Schema([Number("x", "real", 0.0, 1.0)])
    synthesizer = _synthesizer(method, schema=schema, epsilon=1.0)
    sample = synthesizer.fit(pd.DataFrame({"x": [0.25]}), progress=False).sample(5)
    assert sample["x"].between(0, 1).all()


def test_conditions_are_met(fitted: Synthesizer) -> None:
    sample = fitted.sample(40, conditions={"job": "cook", "member": True})
    assert len(sample) == 40
    assert set(sample["job"]) == {"cook"}
    assert sample["member"].all()
    assert fitted.sample(5, conditions={"member": None})["member"].isna().all()
    # The very value, not another of its bin, or one near it.
    age = int(fitted.sample(500)["age"].mode()[0])  # one that a hardly trained model makes
    assert (fitted.sample(20, conditions={"age": age})["age"] == age).all()
    for conditions, match in (
        ({"town": "Bern"}, "conditions must name columns of the table; got 'town'"),
        (
            {"job": "king"},
            "column 'job' can hold; got 'king', which is not among the schema's categories",
        ),
        (
            {"age": 91},
            "conditions must be values that column 'age' can hold, within its bounds; got 91$",
        ),
        ({"age": "91"}, "within its bounds; got 91$"),
        ({"age": "old"}, "old"),
        ({"age": 3.5}, "column 'age'"),
        ({"age": None}, "column 'age' can hold; got a missing value, and the column is not null"),
    ):
        with pytest.raises(ValueError, match=match):
            fitted.sample(5, conditions=conditions)
    if fitted.method == "sums":  # texts are read as cells of a CSV file are
        assert (fitted.sample(20, conditions={"age": "33"})["age"] == 33).all()


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_a_condition_on_an_unknown_level_is_no_condition_on_other(method: str) -> None:
    schema = Schema(
        [Categorical("job", ("cook", "?"), other="?", nullable=True), Categorical("n", (1, 2))]
    )
    table = pd.DataFrame({"job": ["cook", "pilot", None] * 20, "n": [1, 2, 1] * 20})
    synthesizer = _synthesizer(method, schema=schema).fit(table, progress=False)
    with pytest.raises(ValueError, match="column 'job' can hold; got 'Cook', which is not among"):
        synthesizer.sample(3, conditions={"job": "Cook"})
    with pytest.raises(ValueError, match="column 'n' can hold; got 3, which"):
        synthesizer.sample(3, conditions={"n": 3})
    with pytest.raises(TypeError, match="'n' can hold, integers; got True"):
        synthesizer.sample(3, conditions={"n": True})
    assert (synthesizer.sample(3, conditions={"job": "?", "n": 1})["job"] == "?").all()
    for missing in (None, pd.NA):
        assert synthesizer.sample(3, conditions={"job": missing})["job"].isna().all()


@pytest.mark.parametrize("conditions", [3, "age=3", ["age"]])
def test_conditions_of_another_kind(fitted: Synthesizer, conditions: object) -> None:
    with pytest.raises(TypeError, match="conditions must be a mapping from column names to"):
        fitted.sample(3, conditions=conditions)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_conditions_on_continuous_columns_are_met(method: str) -> None:
    schema = Schema(
        [
            Number("x", "real", 0.0, 100.0, special=(0.0,), nullable=True),
            Datetime("day", "2000-01-01", "2020-12-31"),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 100.0, 2000)
    x[::4], x[1::4] = 0.0, np.nan
    day = pd.Timestamp("2000-01-01") + pd.to_timedelta(rng.integers(0, 7000, 2000), unit="D")
    table = pd.DataFrame({"x": x, "day": day})
    synthesizer = _synthesizer(method, schema=schema, epsilon=20.0).fit(table, progress=False)
    made = synthesizer.sample(2000)
    likely = made[made["x"] > 0.0].iloc[0]
    for conditions in (
        {"x": likely["x"] + 1e-3},
        {"x": likely["x"], "day": likely["day"]},
        {"x": 0.0},
        {"x": None},
    ):
        sample = synthesizer.sample(30, conditions=conditions)
        assert len(sample) == 30
        for name, value in conditions.items():
            assert (sample[name].isna() if value is None else sample[name] == value).all()


def test_a_time_beyond_nanoseconds_is_reported_and_conditioned_on(tmp_path: Path) -> None:
    schema = Schema([Datetime("end", "2000-01-01", "9999-12-31"), Boolean("b")])
    days = [datetime.date(2020, 1, 1), datetime.date(9999, 12, 31)] * 20
    table = pd.DataFrame({"end": pd.Series(days, dtype=object), "b": [True, False] * 20})
    synthesizer = _synthesizer("sums", schema=schema).fit(table, progress=False)
    synthesizer.report(table, tmp_path / "report.html")
    for last in ("9999-12-31", datetime.date(9999, 12, 31), datetime.datetime(9999, 12, 31)):
        sample = synthesizer.sample(3, conditions={"end": last})
        assert (sample["end"] == np.datetime64("9999-12-31")).all()


def test_add_remove_tells_the_number_of_rows_nowhere(tmp_path: Path) -> None:
    synthesizer = _synthesizer("sums", adjacency="add_remove")
    release = synthesizer.publish(_table(73_127), path=tmp_path / "p.dpslice")
    certificate = json.loads((tmp_path / "p.dpslice" / "certificate.json").read_text("utf-8"))
    certificate["files"] = certificate["certificate_sha256"] = None  # random digits
    promise = release.guarantee
    for text in (json.dumps(certificate), repr(release), str(promise), repr(promise)):
        assert "73127" not in text
    with pytest.raises(ValueError, match="number of records is protected"):
        _ = release.n
    assert abs(release.estimated_n - 73_127) < 200


def test_report_under_add_remove_does_not_call_the_number_of_rows_public(tmp_path: Path) -> None:
    synthesizer = _synthesizer("sums", adjacency="add_remove").fit(_table(300), progress=False)
    synthesizer.report(_table(300, seed=1), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "one row in the table or not (add_remove)" in page
    assert "under replace_one, same δ" in page
    assert "is public: it is the same in both tables" not in page
    assert "misfit over noise, worst table 1" in page


def test_sums_hold_what_depends_on_what() -> None:
    """Pairs far from independent survive release, fit and sampling."""
    rng = np.random.default_rng(5)
    job = rng.integers(0, 3, 20_000)
    table = pd.DataFrame(
        {
            "job": np.array(["clerk", "cook", "pilot"])[job],
            "age": np.clip(20 + 20 * job + rng.integers(0, 8, 20_000), 0, 90),
            "member": pd.array(job == 2, dtype="boolean"),
        }
    )
    synthesizer = _synthesizer("sums", training=MixtureOptions(steps=1000, components=64))
    sample = synthesizer.fit(table, progress=False).sample(20_000)
    pilots = sample["job"] == "pilot"
    assert abs(pilots.mean() - (job == 2).mean()) < 0.02
    assert sample["member"][pilots].mean() > 0.97
    assert sample["member"][~pilots].mean() < 0.03
    assert sample["age"][pilots].between(57, 70).mean() > 0.95


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"epsilon": 0.0}, ValueError, "epsilon must be a finite number > 0; got 0.0"),
        ({"epsilon": float("nan")}, ValueError, "epsilon must be a finite number > 0"),
        ({"delta": 1.0}, ValueError, "delta must be strictly between 0 and 1; got 1.0"),
        ({"method": "maps"}, ValueError, "method must be one of sums, rows; got 'maps'"),
        ({"method": "rows", "adjacency": "add_remove"}, ValueError, "adjacency must be one of"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0; got -1"),
        ({"schema": "people.toml"}, TypeError, "schema must be a Schema"),
        (
            {"training": {"steps": 5}},
            TypeError,
            "training must be MixtureOptions with method='sums'",
        ),
        ({"method": "rows", "training": QUICK["sums"]}, TypeError, "must be TrainingOptions"),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, object], error: type[Exception], match: str
) -> None:
    given: dict[str, object] = {"schema": SCHEMA, "epsilon": 1.0, "delta": 1e-5} | options
    with pytest.raises(error, match=match):
        Synthesizer(**given)  # type: ignore[arg-type]


def test_nothing_works_before_fit(tmp_path: Path) -> None:
    synthesizer = Synthesizer(SCHEMA, epsilon=1.0, delta=1e-5)
    with pytest.raises(ValueError, match="not trained"):
        synthesizer.sample(1)
    with pytest.raises(ValueError, match="not trained"):
        synthesizer.save(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no guarantee yet"):
        _ = synthesizer.guarantee
    with pytest.raises(ValueError, match="no release to train on"):
        synthesizer.train()
    assert not list(tmp_path.iterdir())


def test_a_schema_that_allows_one_row_only_is_refused() -> None:
    synthesizer = _synthesizer("rows", schema=Schema([Categorical("x", ("a",))]))
    with pytest.raises(ValueError, match="at least two different rows"):
        synthesizer.publish(pd.DataFrame({"x": ["a", "a"]}))


def test_sample_size_is_checked(fitted: Synthesizer) -> None:
    with pytest.raises(ValueError, match="n must be an integer >= 1; got 0"):
        fitted.sample(0)


def test_a_release_of_no_table_is_refused(fitted: Synthesizer) -> None:
    from dpslice import SlicingMechanism

    release = SlicingMechanism(sigma=1.0, delta=1e-5).release(np.ones((5, 3)) / 2)
    with pytest.raises(ValueError, match="holds no schema"):
        Synthesizer.from_release(release)
    match = "rows of 10 entries" if fitted.method == "rows" else "release must be of kind 'sums'"
    with pytest.raises(ValueError, match=match):
        fitted.train(release)
    for call in (Synthesizer.from_release, fitted.train):
        with pytest.raises(TypeError, match=r"release must be a dpslice\.Release; got 5"):
            call(5)


def test_bad_model_files_are_refused(fitted: Synthesizer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such model file"):
        Synthesizer.load(tmp_path / "absent.pt")
    with pytest.raises(IsADirectoryError, match="is a directory, no model file"):
        Synthesizer.load(tmp_path)
    path = tmp_path / "model.pt"
    path.write_text("not a model")
    with pytest.raises(ValueError, match="not a model saved by dpslice"):
        Synthesizer.load(path)
    fitted.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a model saved by dpslice, or damaged"):
        Synthesizer.load(path)
    path.write_bytes(whole)
    file = torch.load(path, weights_only=True)
    content = unsealed(file)
    torch.save(file | {"dpslice_model": 99}, path)
    with pytest.raises(ValueError, match="written by a newer dpslice"):
        Synthesizer.load(path)
    for version in (1, 0):
        torch.save(file | {"dpslice_model": version}, path)
        with pytest.raises(ValueError, match="written by an older dpslice"):
            Synthesizer.load(path)
    for version in ("x", None, True, 2.5):
        torch.save(file | {"dpslice_model": version}, path)
        with pytest.raises(ValueError, match=r"model.pt: not a model saved by dpslice.* format"):
            Synthesizer.load(path)
    header = content["header"].replace('"age"', '"income"')
    path.write_bytes(sealed(content | {"header": header}, dpslice_model=3))
    changed = Synthesizer.load(path)  # a renamed column is another, equally valid model
    assert "income" in changed.schema.names
    path.write_bytes(sealed(content | {"header": "{}"}, dpslice_model=3))
    with pytest.raises(ValueError, match="damaged model file"):
        Synthesizer.load(path)


def test_what_was_not_saved_is_not_loaded(fitted: Synthesizer, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    fitted.save(path)
    whole = path.read_bytes()
    file = torch.load(path, weights_only=True)
    packed = bytes(file["content"].numpy())
    start = whole.index(packed)
    places = [start + whole[start:].index(b'"epsilon": 4.0') + 11]  # 4.0 becomes 5.0
    places += range(start, start + len(packed), len(packed) // 9)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"model.pt: damaged model file: .* checksum differs"):
            Synthesizer.load(path)
    for change in ({"sha256": None}, {"content": None}, {"sha256": "0" * 64}):
        torch.save(file | change, path)
        with pytest.raises(ValueError, match=r"model.pt: damaged model file: .* checksum"):
            Synthesizer.load(path)
    content = unsealed(file)
    name = next(iter(content["state"]))
    state = content["state"] | {name: torch.full_like(content["state"][name], math.nan)}
    path.write_bytes(sealed(content | {"state": state}, dpslice_model=3))
    with pytest.raises(ValueError, match=f"damaged model file: {name} holds NaN or infinity"):
        Synthesizer.load(path)


def test_models_of_the_previous_format_are_read(fitted: Synthesizer, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    fitted.save(path)
    content = unsealed(torch.load(path, weights_only=True))
    torch.save({"dpslice_model": 2} | content, path)
    again = Synthesizer.load(path)
    pd.testing.assert_frame_equal(again.sample(50), fitted.sample(50, seed=0))


def test_full_disk_loses_no_earlier_model(fitted: Synthesizer, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    fitted.save(path)
    before = path.read_bytes()
    # A limit on the size of files stands in for the disk: the write itself fails, in the system.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match=r"no space left on the device to write .*model\.pt"):
            fitted.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [
        ("sums", {"spread": 0.5}, {"spread": 0.3}),
        ("rows", {"temperature": 0.5}, {"temperature": 0.3}),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(
    tmp_path: Path, method: str, first: dict[str, float], second: dict[str, float]
) -> None:
    release = _synthesizer(method).publish(_table(200))
    how = {"checkpoint": tmp_path / "c.pt", "progress": False}
    training = dataclasses.replace(QUICK[method], **first)  # type: ignore[type-var]
    Synthesizer.from_release(release, training=training).train(**how)
    training = dataclasses.replace(QUICK[method], **second)  # type: ignore[type-var]
    with pytest.raises(ValueError, match=f"made with another value of settings: {first} there"):
        Synthesizer.from_release(release, training=training).train(**how)


def test_what_no_memory_holds_is_refused(fitted: Synthesizer) -> None:
    with pytest.raises(ValueError, match=r"n must be at most 1,000,000,000, .*; got 1000000000000"):
        fitted.sample(10**20)
    with pytest.raises(ValueError, match=r"components times models must .* models=1000000$"):
        MixtureOptions(models=10**6)
    with pytest.raises(ValueError, match="components times models must be at most 1048576"):
        MixtureOptions(components=10**9)
    assert MixtureOptions(models=1024).components == 1024


def test_a_schema_of_too_many_levels_is_refused() -> None:
    names = [f"code {i}" for i in range(12_000)]
    wide = Schema([Categorical("town", names[:9_000]), Boolean("b"), Categorical("job", names)])
    why = r"got 2100\d, most .* in 'job' \(12000\), 'town' \(9000\), 'b' \(2\): drop or coarsen"
    with pytest.raises(ValueError, match=rf"at most 20000 levels over all columns .* {why}"):
        Synthesizer(wide, epsilon=1.0, delta=1e-6)
    table = pd.DataFrame({"town": [names[0]], "b": [True], "job": [names[0]]})
    rows = Synthesizer(wide, epsilon=1.0, delta=1e-6, method="rows")
    with pytest.raises(ValueError, match=rf"rows of at most 20000 entries, .* {why}"):
        rows.publish(table)


def test_an_interrupted_fit_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    synthesizer = _synthesizer("sums")
    train = functools.partial(
        synthesizer.train,
        callbacks=[lambda state: signal.raise_signal(signal.SIGINT) if state.step == 3 else None],
    )
    monkeypatch.setattr(synthesizer, "train", train)
    with pytest.warns(UserWarning, match="training was interrupted after step 3 of 20"):
        assert synthesizer.fit(_table(60), progress=False) is synthesizer
    assert len(synthesizer.sample(3)) == 3


def test_repr_tells_what_was_asked_for_and_nothing_of_the_table() -> None:
    synthesizer = _synthesizer("sums", adjacency="add_remove")
    text = "Synthesizer(3 columns, method='sums', epsilon=4, delta=1e-05, adjacency='add_remove', "
    assert repr(synthesizer) == text + "not released)"
    synthesizer.publish(_table(50))
    assert repr(synthesizer) == text + "released)"
    synthesizer.train(progress=False)
    assert repr(synthesizer) == text + "trained)"


def test_repr_states_no_less_than_was_asked_for() -> None:
    synthesizer = Synthesizer(SCHEMA, epsilon=1.0000001, delta=1.0000001e-6)
    assert "epsilon=1.00001, delta=1.00001e-06," in repr(synthesizer)


def _inferred_schema(table: pd.DataFrame) -> Schema:
    types = {"job": "categorical", "age": "integer", "member": "boolean"}
    return Schema.infer(table, epsilon=1.0, delta=1e-6, types=types, nullable=["member"])


def test_cost_of_the_schema_is_counted_though_the_release_does_not_name_it() -> None:
    table = _table(3000)
    schema = _inferred_schema(table)
    synthesizer = _synthesizer("rows", schema=schema, epsilon=3.0)
    encoding = Encoding(schema)
    mechanism = SlicingMechanism(
        epsilon=3.0, delta=1e-5, max_norm=encoding.max_norm, diameter=encoding.diameter
    )
    release = mechanism.release(encoding.encode(table))
    synthesizer.train(release, progress=False)
    assert synthesizer.guarantee.epsilon == pytest.approx(4.0)


def test_a_schema_inferred_under_another_adjacency_is_refused_before_anything_is_spent() -> None:
    schema = _inferred_schema(_table(3000))
    with pytest.raises(ValueError, match="adjacency must be 'zero_out'"):
        Synthesizer(schema, epsilon=3.0, delta=1e-5, adjacency="replace_one")


def test_a_schema_inferred_from_more_rows_than_are_released() -> None:
    table = _table(3000)
    synthesizer = Synthesizer(_inferred_schema(table), epsilon=3.0, delta=1e-5)
    release = synthesizer.publish(table[:2500])
    total = synthesizer.guarantee
    assert total.n == 2500
    assert total.epsilon == pytest.approx(4.0)
    assert "estimated from a table of 3000 rows" in str(total)
    assert Synthesizer.from_release(release).guarantee == total
