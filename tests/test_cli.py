"""The command line: what each command does, says and refuses, and how it ends."""

from __future__ import annotations

import csv
import dataclasses
import errno
import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dpslice
from commands import invoke, succeed
from dpslice import Release, SumRelease, accounting
from dpslice._cli import _console, _options
from dpslice._cli._outputs import check_outputs
from dpslice.accounting import Guarantee
from dpslice.cli import main
from dpslice.tabular import Schema, Synthesizer, read_table
from dpslice.tabular.synthesizer import METHODS

ROWS = 120
SCHEMA = """\
[table]
target = "smoker"

[columns.age]
type = "integer"
min = 18
max = 99

[columns.town]
type = "categorical"
categories = ["Aa", "Bern", "Chur"]

[columns.smoker]
type = "boolean"

[columns.income]
type = "real"
min = 0
max = 100_000
nullable = true
"""
TINY = ["--steps", "3"]


def test_choices_are_those_of_the_library() -> None:
    """The options name them anew, so that a help text imports nothing."""
    assert tuple(_options.Adjacency) == accounting.SUM_ADJACENCIES
    assert set(_options.Method) == set(METHODS)


def _rows(n: int) -> list[list[str]]:
    rng = np.random.default_rng(7)
    return [
        [
            str(rng.integers(18, 99)),
            str(rng.choice(["Aa", "Bern", "Chur"])),
            str(rng.choice(["true", "false"])),
            "" if rng.random() < 0.1 else f"{rng.uniform(0, 9e4):.2f}",
        ]
        for _ in range(n)
    ]


HEADER = ["age", "town", "smoker", "income"]


def _write(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("table") / "people.csv", _rows(ROWS))


@pytest.fixture(scope="module")
def schema(table: Path) -> Path:
    path = table.with_name("people.toml")
    path.write_text(SCHEMA, encoding="utf-8")
    return path


def refuse(match: str, *arguments: object, code: int = 1) -> None:
    """Expect one clear line on standard error, nothing on standard output, and an exit code."""
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert re.search(match, result.stderr), result.stderr
    if code == 1:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def released(table: Path, schema: Path) -> Path:
    path = table.with_name("people.dpslice")
    succeed("release", table, "--schema", schema, "--epsilon", 5, "--out", path, "--quiet")
    return path


@pytest.fixture(scope="module")
def released_rows(table: Path, schema: Path) -> Path:
    path = table.with_name("rows.dpslice")
    options = ["--method", "rows", "--epsilon", 5, "--out", path, "--quiet"]
    succeed("release", table, "--schema", schema, *options)
    return path


@pytest.fixture(scope="module")
def model(released: Path) -> Path:
    path = released.with_name("model.pt")
    succeed("train", released, "--out", path, *TINY, "--quiet")
    return path


@pytest.fixture
def only_reading(table: Path) -> Iterator[None]:
    """Fail if a command leaves anything beside the table."""
    before = sorted(p.name for p in table.parent.iterdir())
    yield
    assert sorted(p.name for p in table.parent.iterdir()) == before


# ------------------------------------------------------------------------------------------ help

COMMANDS = [
    ["synthesize"],
    ["release"],
    ["train"],
    ["sample"],
    ["account"],
    ["info"],
    ["verify"],
    ["report"],
    ["demo"],
    ["schema", "template"],
    ["schema", "infer"],
    ["schema", "check"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_has_an_example(command: list[str]) -> None:
    result = succeed(*command, "--help")
    assert f"dpslice {' '.join(command)}" in result.stdout.split("Example:")[1]


def test_help_lists_every_command_and_the_exit_codes() -> None:
    for arguments in (["--help"], ["-h"]):
        text = succeed(*arguments).stdout
        assert all(f"  {command[0]} " in text for command in COMMANDS)
        assert "Exit codes" in text


def test_every_command_that_states_an_epsilon_explains_adjacency() -> None:
    for command in ("synthesize", "release", "account", "demo"):
        text = " ".join(succeed(command, "--help").stdout.split())
        assert "number of rows is public" in text


def test_version() -> None:
    assert succeed("--version").stdout == f"dpslice {dpslice.__version__}\n"


def test_wrong_usage_has_its_own_exit_code() -> None:
    assert invoke().exit_code == 2
    for arguments in (
        ["nonsense"],
        ["release"],
        ["account", "--nonsense"],
        ["account", "--dim", "x"],
        ["account", "--dim", "3", "--epsilon", "1", "--adjacency", "nothing"],
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""


# ----------------------------------------------------------------------------------- the main job


def test_synthesize_writes_a_table_of_the_schema(table: Path, schema: Path, tmp_path: Path) -> None:
    out = tmp_path / "synthetic.csv"
    result = succeed("synthesize", table, "--schema", schema, "--epsilon", 5, "--out", out, *TINY)
    assert len(read_table(out, Schema.load(schema))) == ROWS
    assert "zero_out" in result.stdout
    assert f"n = {ROWS}" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic.csv"]


def test_synthesize_writes_everything_that_is_asked_for(
    table: Path, schema: Path, tmp_path: Path
) -> None:
    names = {
        "--out": "s.csv.gz",
        "--report": "r.html",
        "--release": "p.dpslice",
        "--model": "m.pt",
    }
    options = [x for option, name in names.items() for x in (option, tmp_path / name)]
    more = ["--rows", 50, "--adjacency", "replace_one", "--delta", 1e-5, "--target", "town"]
    result = succeed(
        "synthesize", table, "--schema", schema, "--epsilon", 8, *options, *more, *TINY, "--json"
    )
    summary = json.loads(result.stdout)
    assert (summary["n"], summary["rows"], summary["steps"]) == (ROWS, 50, 3)
    assert summary["guarantee"]["epsilon"] <= 8
    assert summary["guarantee"]["adjacency"] == "replace_one"
    assert set(summary["files"].values()) == {str(tmp_path / name) for name in names.values()}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names.values())
    with gzip.open(tmp_path / "s.csv.gz", "rt") as file:
        assert len(file.readlines()) == 51
    assert "replace_one" in (tmp_path / "r.html").read_text(encoding="utf-8")
    saved = dpslice.Release.load(tmp_path / "p.dpslice")
    assert saved.guarantee.to_dict() == summary["guarantee"]
    assert saved.metadata["schema"]["table"]["target"] == "town"
    succeed("sample", tmp_path / "m.pt", "-n", 5, "--out", tmp_path / "more.csv")


def test_synthesize_prints_no_score_of_the_real_rows(
    table: Path, schema: Path, tmp_path: Path
) -> None:
    options = ["--out", tmp_path / "s.csv", "--report", tmp_path / "r.html"]
    result = succeed("synthesize", table, "--schema", schema, "--epsilon", 5, *options, *TINY)
    assert "NOT PRIVATE" in result.stdout
    assert not re.search(r"0\.\d{3}\b", result.stdout.split("synthetic table")[1])


def test_quiet_prints_nothing(table: Path, schema: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "s.csv"]
    result = succeed(
        "synthesize", table, "--schema", schema, "--epsilon", 5, *out, *TINY, "--quiet"
    )
    assert result.output == ""


def test_a_bar_that_shows_nothing_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich 13, which may be installed, writes an empty line where it stops."""
    monkeypatch.setattr(_console.Progress, "start", lambda _: pytest.fail("started"))
    monkeypatch.setattr(_console.Progress, "stop", lambda _: pytest.fail("stopped"))
    with _console.rows_progress("rows", quiet=True) as done:
        done(3)
    with _console.steps_progress("steps", total=5, quiet=True) as step:
        step(3, 1.5)


def test_release_prints_its_certificate_and_is_valid(
    table: Path, schema: Path, tmp_path: Path
) -> None:
    out = tmp_path / "people.dpslice"
    arguments = ["release", table, "--schema", schema, "--epsilon", 5, "--out", out]
    result = succeed(*arguments)
    assert str(dpslice.Release.load(out).guarantee) in result.stdout
    summary = json.loads(succeed(*arguments, "--overwrite", "--json").stdout)
    again = dpslice.Release.load(out)
    assert summary["fingerprint"] == again.fingerprint
    assert (summary["n"], summary["d"], summary["p"]) == (ROWS, again.d, again.p)


def test_release_warns_of_a_large_delta(table: Path, schema: Path, tmp_path: Path) -> None:
    arguments = ["release", table, "--schema", schema, "--epsilon", 5, "--delta", 0.01]
    result = succeed(*arguments, "--out", tmp_path / "p")
    assert "warning: delta = 0.01 is not below 1/n" in result.stderr


def test_train_and_sample_are_reproducible(released: Path, model: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pt"
    result = succeed("train", released, "--out", again, *TINY, "--json")
    assert json.loads(result.stdout)["steps"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["again.pt"]  # the checkpoint is gone
    tables = [succeed("sample", path, "-n", 20).stdout for path in (model, again)]
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 21
    assert succeed("sample", model, "-n", 20, "--seed", 9).stdout != tables[0]


def test_sample_writes_the_same_to_a_file_and_to_standard_output(
    model: Path, tmp_path: Path
) -> None:
    succeed("sample", model, "-n", 9, "--out", tmp_path / "s.csv")
    assert invoke("sample", model, "-n", 9).stdout_bytes == (tmp_path / "s.csv").read_bytes()


def test_sample_to_a_file_states_the_guarantee(model: Path, schema: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    result = succeed("sample", model, "-n", 7, "--out", out, "--schema", schema)
    assert len(read_table(out, Schema.load(schema))) == 7
    assert "epsilon 5" in result.stderr
    assert "zero_out" in result.stderr


def test_report_compares_and_says_that_it_is_not_private(
    table: Path, schema: Path, released: Path, model: Path, tmp_path: Path
) -> None:
    synthetic, page = tmp_path / "s.csv", tmp_path / "r.html"
    succeed("sample", model, "-n", 80, "--out", synthetic, "--quiet")
    arguments = ["report", synthetic, "--real", table, "--schema", schema, "--out", page]
    result = succeed(*arguments, "--holdout", table, "--release", released)
    assert "NOT PRIVATE" in result.stdout
    assert "KSComplement" in result.stdout
    assert page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    result = succeed(*arguments, "--model", model, "--overwrite", "--json", "--target", "town")
    document = json.loads(result.stdout)
    assert document["private"] is False
    assert document["rows_synthetic"] == 80
    assert document["classifier"]["target"] == "town"


# -------------------------------------------------------------------------------- account, info


def test_account_agrees_with_the_library() -> None:
    arguments = ["--epsilon", 5, "--delta", 1e-6, "--dim", 94, "--columns", 94]
    document = json.loads(succeed("account", *arguments, "--json").stdout)
    exact = accounting.calibrate_sigma(5, 1e-6, d=94, p=94)
    stated = document["frames"]["orthonormal"]
    assert stated["sigma"] == pytest.approx(exact, rel=1e-6)
    assert exact <= stated["sigma"]
    assert stated["epsilon"] <= 5 < stated["epsilon_replace_one"]
    assert stated["epsilon_numerical"] > 0
    paper = document["paper_theorem_1"]
    assert paper["sigma"] == accounting.paper_sigma(5, 1e-6, d=94, p=94)
    frames = document["frames"]
    assert frames["orthonormal"]["sigma"] < frames["gaussian"]["sigma"] < paper["sigma"]


def test_account_prints_no_smaller_delta_than_was_asked_for(schema: Path) -> None:
    options = ["--epsilon", 5, "--delta", 1.0000001e-6]
    assert "delta 1.00001e-06, d = 3" in succeed("account", *options, "--dim", 3).stdout
    options += ["--schema", schema, "--adjacency", "add_remove"]
    assert "delta 1.00001e-06, " in succeed("account", *options).stdout


def test_account_inverts(schema: Path) -> None:
    shape = ["--dim", 20, "--columns", 8, "--delta", 1e-5, "--max-norm", 2, "--diameter", 3]
    there = json.loads(
        succeed("account", "--epsilon", 2, *shape, "--adjacency", "replace_one", "--json").stdout
    )
    assert there["sensitivity"] == 3
    noise = there["frames"]["gaussian"]["sigma"]
    back = json.loads(
        succeed("account", "--sigma", noise, *shape, "--adjacency", "replace_one", "--json").stdout
    )
    assert back["frames"]["gaussian"]["epsilon"] == pytest.approx(2, rel=1e-8)
    assert back["frames"]["gaussian"]["epsilon"] <= 2


def test_account_of_a_schema_tells_what_its_release_will_state(
    schema: Path, released: Path, released_rows: Path
) -> None:
    document = json.loads(succeed("account", "--epsilon", 5, "--schema", schema, "--json").stdout)
    stated = dpslice.Release.load(released).guarantee
    assert document["sums"]["sigma"] == stated.sigma
    assert document["sums"]["p"] == stated.p
    stated = dpslice.Release.load(released_rows).guarantee
    assert document["frames"]["orthonormal"]["sigma"] == pytest.approx(stated.sigma, rel=1e-9)
    assert document["frames"]["orthonormal"]["epsilon_replace_one"] == pytest.approx(
        stated.epsilon_replace_one, rel=1e-8
    )


def test_account_of_another_target(table: Path, schema: Path, tmp_path: Path) -> None:
    options = ["--epsilon", 5, "--schema", schema, "--target", "income", "--json"]
    document = json.loads(succeed("account", *options).stdout)
    made = succeed("release", table, *options, "--out", tmp_path / "p")
    assert document["sums"]["sigma"] == json.loads(made.stdout)["sigma"]
    own = json.loads(succeed("account", "--epsilon", 5, "--schema", schema, "--json").stdout)
    assert own["sums"]["sigma"] != document["sums"]["sigma"]
    refuse("give --schema", "account", "--epsilon", 5, "--dim", 3, "--target", "income")
    unknown = ["--schema", schema, "--target", "name"]
    refuse("target must name a column", "account", "--epsilon", 5, *unknown)


def test_account_where_all_rows_are_alike(tmp_path: Path) -> None:
    schema = tmp_path / "one.toml"
    schema.write_text('[columns.town]\ntype = "categorical"\ncategories = ["Bern"]\n')
    table = _write(tmp_path / "one.csv", [["Bern"]] * 9, ["town"])
    options = ["--epsilon", 5, "--schema", schema]
    document = json.loads(succeed("account", *options, "--json").stdout)
    made = succeed("release", table, *options, "--out", tmp_path / "p", "--json")
    assert document["sums"]["sigma"] == json.loads(made.stdout)["sigma"]
    assert "1 counts" in succeed("account", *options).stdout
    refuse("no column has two levels", "account", *options, "--rows", 10)


def test_account_tells_what_the_order_of_rows_gives() -> None:
    shape = ["--epsilon", 1, "--delta", 1e-6, "--dim", 94, "--adjacency", "replace_one"]
    document = json.loads(succeed("account", *shape, "--rows", 32_561, "--json").stdout)
    claimed = document["amplified_by_order"]
    mechanism = dpslice.SlicingMechanism(
        epsilon=1.0, delta=1e-6, adjacency="replace_one", amplify_by_order=True
    )
    assert claimed["sigma"] == mechanism.account(94, n=32_561).sigma
    assert claimed["amplified_by_order"] is True
    words = succeed("account", *shape, "--rows", 32_561).stdout
    assert f"orthonormal, order of 32561 rows   {claimed['sigma']:.3f}"[:-1] in words
    alone = document["frames"]["orthonormal"]["sigma"]
    page = Path(__file__).parents[1] / "docs" / "guides" / "certificate.md"
    guide = " ".join(page.read_text("utf-8").split())
    assert f"σ falls from {alone:.2f} to {claimed['sigma']:.2f} (`dpslice account" in guide
    assert "amplified_by_order" not in json.loads(succeed("account", *shape, "--json").stdout)
    given = ["--sigma", claimed["sigma"], *shape[2:], "--rows", 32_561, "--json"]
    back = json.loads(succeed("account", *given).stdout)["amplified_by_order"]
    assert back["epsilon"] == pytest.approx(1.0, rel=1e-6)
    refuse("n must be an integer >= 1", "account", *shape, "--rows", 0)


def test_release_may_count_on_its_order(schema: Path, tmp_path: Path) -> None:
    table = _write(tmp_path / "many.csv", _rows(3000))
    options = ["--schema", schema, "--epsilon", 1, "--adjacency", "replace_one", "--method", "rows"]
    noise = {}
    for number, order in enumerate(([], ["--amplify-by-order"])):
        out = tmp_path / f"{number}.dpslice"
        arguments = [table, *options, *order, "--out", out, "--json", "--quiet"]
        document = json.loads(succeed("release", *arguments).stdout)
        assert document["guarantee"].get("amplified_by_order", False) is bool(order)
        assert document["guarantee"]["n"] == document["n"] == 3000
        noise[number] = document["sigma"]
    assert noise[1] < noise[0] / 1.5
    assert "all n = 3000 rows" in succeed("verify", tmp_path / "1.dpslice").stdout
    # With a report, the table is read as a whole; and sums have no order.
    arguments = [table, *options, "--amplify-by-order", "--out", tmp_path / "made.csv", *TINY]
    document = json.loads(succeed("synthesize", *arguments, "--json", "--quiet").stdout)
    assert document["sigma"] == noise[1]
    refuse(
        "amplify_by_order is for method='rows'",
        *("release", table, "--schema", schema, "--epsilon", 1, "--out", tmp_path / "x.dpslice"),
        "--amplify-by-order",
    )
    os.mkfifo(tmp_path / "pipe.csv")
    refuse(
        "must be a regular file, as it is read twice",
        *("release", tmp_path / "pipe.csv", *options, "--amplify-by-order"),
        *("--out", tmp_path / "x.dpslice"),
    )


def test_synthesizer_counts_the_rows_of_a_whole_table(schema: Path, tmp_path: Path) -> None:
    table = _write(tmp_path / "many.csv", _rows(3000))
    described = Schema.load(schema)
    frame = read_table(table, described)
    settings: dict[str, Any] = {
        "epsilon": 1.0, "delta": 1e-6, "method": "rows", "adjacency": "replace_one",
        "amplify_by_order": True,
    }  # fmt: skip
    whole = Synthesizer(described, **settings).publish(frame)
    pieces = Synthesizer(described, **settings).publish(iter([frame]), n=3000)
    assert whole.guarantee == pieces.guarantee
    assert whole.guarantee.amplified_by_order
    assert Synthesizer.from_release(whole).amplify_by_order
    with pytest.raises(ValueError, match="must be known before noise is made"):
        Synthesizer(described, **settings).publish(iter([frame]))
    with pytest.raises(ValueError, match="n is for method='rows'"):
        Synthesizer(described, epsilon=1.0, delta=1e-6).publish(frame, n=3000)


def test_account_in_words_names_the_adjacency() -> None:
    for adjacency in ("zero_out", "replace_one"):
        result = succeed("account", "--epsilon", 1, "--dim", 5, "--adjacency", adjacency)
        assert result.stdout.startswith(f"adjacency {adjacency}: ")
        assert "Theorem 1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "exactly one of --epsilon and --sigma"),
        (["--epsilon", 1, "--sigma", 1], "exactly one of --epsilon and --sigma"),
        (["--epsilon", 1, "--columns", 3], "exactly one of --dim and --schema"),
        (["--epsilon", 0, "--dim", 3], r"epsilon must be a finite number > 0; got 0\.0"),
        (["--epsilon", -1, "--dim", 3], "epsilon must be a finite number > 0; got -1"),
        (["--epsilon", "nan", "--dim", 3], "epsilon must be a finite number > 0; got nan"),
        (["--sigma", 0, "--dim", 3], "sigma must be a finite number > 0"),
        (["--epsilon", 1, "--dim", 3, "--delta", 0], "delta must be .*0.* 1"),
        (["--epsilon", 1, "--dim", 3, "--delta", 1], "delta must be .*0.* 1"),
        (["--epsilon", 1, "--dim", 0], "dim must be"),
        (["--epsilon", 1, "--dim", 3, "--columns", 0], "columns must be"),
        (["--epsilon", 1, "--dim", 3, "--max-norm", 0], "max_norm must be"),
    ],
)
def test_account_refuses(arguments: list[object], match: str) -> None:
    refuse(match, "account", *arguments)


def test_account_tells_of_rows_where_sums_are_too_many(schema: Path) -> None:
    """Of these thousands of numbers, rounding alone would take delta; not of so few columns."""
    result = succeed("account", "--epsilon", 31, "--schema", schema, "--json")
    assert "of sums, no such release can be made: delta must exceed" in result.stderr
    assert "sums" not in json.loads(result.stdout)


def test_verify_computes_epsilon_again(table: Path, schema: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.dpslice"
    succeed("release", table, "--schema", schema, "--epsilon", 20, "--out", out, "--quiet")
    result = succeed("verify", out, "--json")
    again = json.loads(result.stdout)["computed_again"]
    assert again["epsilon"] == pytest.approx(20.0, rel=1e-6)
    assert "warning" not in result.stderr

    def rewritten(**entries: object) -> str:
        made = Release.load(out)
        changed = dataclasses.replace(made.guarantee, **entries)
        SumRelease(
            made.features, made.sums, made.sigma, changed, n=made.n, metadata=made.metadata
        ).save(tmp_path / "changed.dpslice", overwrite=True)
        return succeed("verify", tmp_path / "changed.dpslice").stderr

    # As before 2026-11-27, when less was charged; and with nothing to compute from.
    before = accounting.computed_again(Release.load(out).guarantee, at_least=True)
    assert before is not None
    assert "warning: epsilon is 20" in rewritten(epsilon=before.epsilon)
    replaced = rewritten(epsilon_replace_one=before.epsilon_replace_one)
    assert "warning: epsilon_replace_one is infinite" in replaced
    assert "epsilon is" not in replaced
    assert "warning: epsilon could not be computed again" in rewritten(diameter=None)


def test_verify_says_where_a_part_could_not_be_computed_again(
    released: Path, tmp_path: Path
) -> None:
    made = Release.load(released)
    part = dataclasses.replace(made.guarantee, mechanism="another", epsilon=0.1)
    forged = Guarantee.compose(part, part)
    assert forged.epsilon == 0.2
    SumRelease(made.features, made.sums, made.sigma, forged, n=made.n).save(tmp_path / "forged")
    result = succeed("verify", tmp_path / "forged", "--json")
    assert "warning: epsilon could not be computed again" in result.stderr
    assert json.loads(result.stdout)["computed_again"] is None


def test_verify_says_that_it_takes_the_cost_of_a_schema_as_stated(
    released: Path, tmp_path: Path
) -> None:
    made = Release.load(released)
    cost = Guarantee(
        epsilon=0.001, delta=1e-9, adjacency="zero_out", mechanism="schema inference", sigma=1.0
    )
    metadata = made.metadata | {"schema_guarantee": cost.to_dict()}
    SumRelease(
        made.features, made.sums, made.sigma, made.guarantee, n=made.n, metadata=metadata
    ).save(tmp_path / "inferred")
    said = "what the schema has cost is as stated"
    assert said in succeed("verify", tmp_path / "inferred").stderr
    assert said not in succeed("verify", released).stderr


def test_account_of_sums_under_add_remove_is_what_a_release_will_state(
    schema: Path, table: Path, tmp_path: Path
) -> None:
    shape = ["--schema", schema, "--adjacency", "add_remove"]
    document = json.loads(succeed("account", "--epsilon", 5, *shape, "--json").stdout)
    assert document["asked"] == {"epsilon": 5.0, "sigma": None, "delta": 1e-6}
    out = tmp_path / "p.dpslice"
    succeed("release", table, *shape, "--epsilon", 5, "--out", out, "--quiet")
    stated = Release.load(out).guarantee
    assert Guarantee.from_dict(document["sums"]) == dataclasses.replace(stated, notes=())
    back = succeed("account", "--sigma", stated.sigma, *shape, "--json").stdout
    assert json.loads(back)["sums"]["epsilon"] <= 5.0
    words = succeed("account", "--epsilon", 5, *shape).stdout
    assert words.startswith("adjacency add_remove: one record is in the table or not")
    assert f"{stated.p} counts" in words
    refuse(
        "is for releases of sums: give --schema",
        *("account", "--epsilon", 1, "--dim", 3, "--adjacency", "add_remove"),
    )
    refuse("are for releases of rows", "account", "--epsilon", 1, *shape, "--rows", 10)


def test_account_refuses_bounds_beside_a_schema(schema: Path) -> None:
    refuse("follow from --schema", "account", "--epsilon", 1, "--schema", schema, "--max-norm", 1)


def test_info() -> None:
    document = json.loads(succeed("info", "--json").stdout)
    assert document["dpslice"] == dpslice.__version__
    assert document["instruction set"] in document["instruction sets available"]
    assert document["threads"] >= 1
    assert document["packages"]["numpy"] == np.__version__
    text = succeed("info").stdout
    assert document["instruction set"] in text
    assert "cuda" in text


# ------------------------------------------------------------------------------ schema, verify


def test_verify_shows_the_certificate(released: Path) -> None:
    loaded = dpslice.Release.load(released)
    result = succeed("verify", released)
    assert str(loaded.guarantee) in result.stdout
    assert loaded.fingerprint in result.stdout
    document = json.loads(succeed("verify", released, "--json").stdout)
    assert document["valid"] is True
    assert document["guarantee"] == loaded.guarantee.to_dict()
    assert document["other_files"] == []
    assert succeed("verify", released, "--quiet").output == ""


def test_verify_names_what_is_no_part_of_the_release(released: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p.dpslice"
    shutil.copytree(released, folder)
    (folder / "frame.npy").write_bytes(b"")  # of the other kind
    (folder / "people.csv").write_text("mine")
    result = succeed("verify", folder, "--json")
    assert json.loads(result.stdout)["other_files"] == ["frame.npy", "people.csv"]
    assert "no part of the release" in result.stderr
    assert result.stderr.endswith("frame.npy, people.csv\n")


@pytest.mark.parametrize("kind", ["sums", "rows"])
def test_verify_refuses_what_is_damaged(
    kind: str, released: Path, released_rows: Path, tmp_path: Path
) -> None:
    large = {"sums": "sums.npy", "rows": "projections.npy"}[kind]

    def copy(name: str) -> Path:
        shutil.copytree({"sums": released, "rows": released_rows}[kind], tmp_path / name)
        return tmp_path / name

    refuse("no release at .* no such directory", "verify", tmp_path / "nowhere")
    (tmp_path / "model.pt").write_text("x")
    refuse("no release at .* it is a file", "verify", tmp_path / "model.pt")
    truncated = copy("truncated")
    with open(truncated / large, "rb+") as file:
        file.truncate(200)
    refuse("truncated", "verify", truncated)
    altered = copy("altered")
    with open(altered / large, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    refuse("altered", "verify", altered)
    refuse("altered", "train", altered, "--out", tmp_path / "m.pt")
    newer = copy("newer")
    certificate = json.loads((newer / "certificate.json").read_text())
    certificate["format_version"] += 1
    (newer / "certificate.json").write_text(json.dumps(certificate))
    refuse("newer dpslice", "verify", newer)
    refuse("newer dpslice", "train", newer, "--out", tmp_path / "m.pt")
    incomplete = copy("incomplete")
    (incomplete / large).unlink()
    refuse("incomplete", "verify", incomplete)
    assert not (tmp_path / "m.pt").exists()


def test_schema_check(schema: Path, table: Path) -> None:
    result = succeed("schema", "check", schema, table)
    assert f"{ROWS} rows" in result.stdout
    document = json.loads(succeed("schema", "check", schema, "--json").stdout)
    assert [c["name"] for c in document["columns"]] == HEADER
    assert document["n"] is None
    assert document["target"] == "smoker"


def test_schema_check_of_a_schema_that_allows_one_row(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text('[columns.x]\ntype = "categorical"\ncategories = ["a"]\n')
    assert "norm at most 0" in succeed("schema", "check", path).stdout


def test_schema_template_reads_names_only(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.toml"
    succeed("schema", "template", table, "--out", out)
    text = out.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("[columns")] == [
        f"[columns.{name}]" for name in HEADER
    ]
    assert "Bern" not in text
    refuse("column 'age': type must be one of", "schema", "check", out)
    assert succeed("schema", "template", table).stdout == text


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one", "add_remove"])
def test_schema_infer_adds_its_cost_to_the_release(adjacency: str, tmp_path: Path) -> None:
    big = _write(tmp_path / "big.csv", _rows(4000))
    types = tmp_path / "types.toml"
    types.write_text(
        '[columns.age]\ntype = "integer"\nmin = 18\nmax = 99\n[columns.town]\ntype = "categorical"'
        '\nnullable = false\n[columns.smoker]\ntype = "boolean"\nnullable = false\n'
        '[columns.income]\ntype = "real"\n',
        encoding="utf-8",
    )
    out, path = tmp_path / "inferred.toml", tmp_path / "p.dpslice"
    about = ["--adjacency", adjacency]
    result = succeed("schema", "infer", big, "--types", types, "--epsilon", 1, "--out", out, *about)
    assert "schema inference" in result.stdout
    assert adjacency in result.stdout
    written = re.sub("Inference [0-9a-f]{16}", "", result.stdout + out.read_text())
    assert ("4000" in written) == (adjacency != "add_remove")
    inferred = Schema.load(out)
    assert inferred["age"].max == 99
    assert inferred["income"].nullable
    assert not inferred["town"].nullable
    arguments = ["release", big, "--schema", out, "--epsilon", 4, "--out", path, "--json", *about]
    total = json.loads(succeed(*arguments).stdout)["guarantee"]
    assert total["epsilon"] == pytest.approx(5)
    assert total["adjacency"] == adjacency
    assert total["mechanism"] == "composition"
    assert json.loads(succeed("verify", path, "--json").stdout)["guarantee"] == total


def test_schema_infer_of_an_inferred_schema_counts_both(tmp_path: Path) -> None:
    big = _write(tmp_path / "big.csv", _rows(4000))
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(
        '[columns.age]\ntype = "integer"\n[columns.town]\ntype = "categorical"\n'
        '[columns.smoker]\ntype = "boolean"\n[columns.income]\ntype = "real"\n'
    )
    infer = ["schema", "infer", big, "--json", "--types"]
    succeed(*infer, first, "--epsilon", 1, "--out", second, "--target", "smoker")
    document = json.loads(
        succeed(*infer, second, "--epsilon", 0.5, "--out", tmp_path / "third.toml").stdout
    )
    assert document["guarantee"]["epsilon"] == 1.0  # nothing was left to be found
    text = second.read_text(encoding="utf-8")
    start = text.index("[columns.income]")
    stop = text.index("[", start + 1)
    second.write_text(text[:start] + '[columns.income]\ntype = "real"\n\n' + text[stop:])
    document = json.loads(
        succeed(*infer, second, "--epsilon", 0.5, "--out", tmp_path / "fourth.toml").stdout
    )
    assert document["guarantee"]["epsilon"] == pytest.approx(1.5)
    fourth = Schema.load(tmp_path / "fourth.toml")
    assert fourth.guarantee is not None
    assert fourth.target == "smoker"


def test_schema_infer_keeps_what_was_found_where_a_column_shows_nothing(tmp_path: Path) -> None:
    rows = [[*row, ""] for row in _rows(4000)]
    big, types, out = tmp_path / "big.csv", tmp_path / "types.toml", tmp_path / "out.toml"
    lines = [",".join(row) for row in [[*HEADER, "note"], *rows]]
    big.write_text("\n".join(lines) + "\n", encoding="utf-8")
    types.write_text(
        '[columns.age]\ntype = "integer"\nnullable = false\n[columns.town]\n'
        'type = "categorical"\n[columns.smoker]\ntype = "boolean"\n[columns.income]\n'
        'type = "real"\n[columns.note]\ntype = "categorical"\n',
        encoding="utf-8",
    )
    options = ("--epsilon", 1, "--out", out, "--target", "smoker")
    refuse(
        "column 'note': no category stands out .* What was found in other columns",
        *("schema", "infer", big, "--types", types, *options),
    )
    refuse("'note'", "schema", "check", out)  # it is no schema yet
    text = out.read_text(encoding="utf-8")
    assert '[columns.note]\ntype = "categorical"\nnullable = true\n' in text
    completed = text.replace(
        '[columns.note]\ntype = "categorical"',
        '[columns.note]\ntype = "categorical"\ncategories = ["x"]',
    )
    out.write_text(completed, encoding="utf-8")
    schema = Schema.load(out)
    assert schema.target == "smoker"
    assert schema.guarantee is not None
    assert schema.guarantee.epsilon == 1.0
    assert "4000 rows" in succeed("schema", "check", out, big).stdout


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("found", [False, True])
def test_schema_infer_reads_of_its_own_files_which_booleans_may_be_missing(
    tmp_path: Path, found: bool, nullable: bool
) -> None:
    """Both of a schema and of the file that is kept where a column shows nothing."""
    rows = [[*row, "x" if found else ""] for row in _rows(4000)]
    big = _write(tmp_path / "big.csv", rows, [*HEADER, "note"])
    first, second, third = (tmp_path / f"{name}.toml" for name in ("first", "second", "third"))
    first.write_text(
        '[columns.age]\ntype = "integer"\n[columns.town]\ntype = "categorical"\n'
        f'[columns.smoker]\ntype = "boolean"\nnullable = {str(nullable).lower()}\n'
        '[columns.income]\ntype = "real"\n[columns.note]\ntype = "categorical"\n'
    )
    infer = ["schema", "infer", big, "--epsilon", 1, "-q", "--types"]
    if found:
        succeed(*infer, first, "--out", second)
    else:
        refuse("'note'", *infer, first, "--out", second)
        note = '[columns.note]\ntype = "categorical"\n'
        text = second.read_text(encoding="utf-8")
        second.write_text(text.replace(note, f'{note}categories = ["x"]\n'), encoding="utf-8")
    succeed(*infer, second, "--out", third)
    assert Schema.load(third)["smoker"].nullable == nullable


def test_schema_infer_takes_sdv_metadata(tmp_path: Path) -> None:
    big = _write(tmp_path / "big.csv", [[row[0], row[1]] for row in _rows(4000)], HEADER[:2])
    types = tmp_path / "metadata.json"
    numerical = {"sdtype": "numerical", "computer_representation": "Int64"}
    types.write_text(json.dumps({"columns": {"age": numerical, "town": {"sdtype": "categorical"}}}))
    arguments = ["--types", types, "--epsilon", 1, "--out", tmp_path / "s.toml", "--json"]
    document = json.loads(succeed("schema", "infer", big, *arguments).stdout)
    assert document["guarantee"]["epsilon"] == 1
    refuse("no bounds and no categories", "schema", "check", types)


def test_schema_infer_refuses_a_file_without_types(table: Path, tmp_path: Path) -> None:
    types = tmp_path / "types.toml"
    types.write_text("[table]\n")
    arguments = ["--types", types, "--epsilon", 1, "--out", tmp_path / "s.toml"]
    refuse(r"must have a table \[columns", "schema", "infer", table, *arguments)
    types.write_text('[columns.age]\ntype = "integer"\nnullable = "no"\n')
    refuse("column 'age': nullable must be True or False", "schema", "infer", table, *arguments)
    for text, match in (
        ("type = 3", "column 'age': type must be a string; got int 3"),
        ('type = "real"\n[tables]\ntarget = "age"', "alone; got 'tables'"),
        ('type = "real"\n[table]\ntraget = "age"', r"\[table\]: unknown key 'traget'"),
        ('type = "real"\n[[table]]\ntarget = "age"', r"\[table\] must be a table of keys"),
    ):
        types.write_text(f"[columns.age]\n{text}\n")
        refuse(match, "schema", "infer", table, *arguments)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[impossible]]\nsmoker = 3", "impossible rule 1: .*'smoker' can hold, true or false; "),
        ("[[impossible]]\ntown = 3", "impossible rule 1 must name columns of the table; got 'town"),
        ("[[impossible]]\nage = 3", "impossible rule 1 must be about columns that are described"),
        ("impossible = 3", "impossible must be a list of rules"),
        ("[columns.town]\nmin = 3", "column 'town': type is missing"),
        (
            '[columns.town]\ntype = "categorical"\ncategories = ["", "a"]\nnullable = true',
            "column 'town': categories must not hold '' where values may be missing",
        ),
        ("[guarantee]\nepsilon = 3", ""),
        ("[table]\nname = 3\ntraget = 3", "unknown key 'traget'"),
    ],
)
def test_mistakes_in_a_file_of_types_name_the_file(text: str, match: str, tmp_path: Path) -> None:
    """Before the table is opened."""
    types = tmp_path / "types.toml"
    head, columns = "", '[columns.age]\ntype = "integer"\n[columns.smoker]\ntype = "boolean"\n'
    if not text.startswith("["):
        head, text = text, ""
    types.write_text(f"{head}\n{columns}{text}\n")
    arguments = ["--types", types, "--epsilon", 1, "--out", tmp_path / "s.toml"]
    match = f"^error: {re.escape(str(types))}: .*{match}"
    refuse(match, "schema", "infer", tmp_path / "no.csv", *arguments)


def test_mistakes_in_sdv_metadata_name_the_file(table: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "m.json"
    metadata.write_text('{"columns": {"age": {"sdtype": "numerical"}}}')
    match = f"^error: {re.escape(str(metadata))}: "
    refuse(match + "SDV metadata carries no bounds", "schema", "check", metadata)
    metadata.write_text('{"tables": {}}')
    arguments = ["--epsilon", 1, "--out", tmp_path / "s.toml"]
    refuse(match, "schema", "infer", table, "--types", metadata, *arguments)


def test_release_refuses_a_schema_of_another_adjacency(table: Path, tmp_path: Path) -> None:
    types, out = tmp_path / "types.toml", tmp_path / "p.dpslice"
    types.write_text(
        '[columns.age]\ntype = "integer"\n[columns.town]\ntype = "categorical"\n'
        '[columns.smoker]\ntype = "boolean"\n[columns.income]\ntype = "real"\n'
    )
    inferred = tmp_path / "inferred.toml"
    succeed("schema", "infer", table, "--types", types, "--epsilon", 90, "--out", inferred)
    arguments = ["--schema", inferred, "--epsilon", 4, "--out", out, "--adjacency", "replace_one"]
    refuse("adjacency must be 'zero_out'", "release", table, *arguments)
    assert not out.exists()


# ------------------------------------------------------------------------------- users' mistakes


@pytest.mark.parametrize(
    ("name", "write", "match"),
    [
        ("missing column", lambda p: _write(p, [r[:3] for r in _rows(5)], HEADER[:3]), "'income'"),
        (
            "extra column",
            lambda p: _write(p, [[*r, "x"] for r in _rows(5)], [*HEADER, "name"]),
            "not in the schema: 'name'",
        ),
        (
            "column twice",
            lambda p: _write(p, [[*r, "1"] for r in _rows(5)], [*HEADER, "age"]),
            "'age' occurs twice",
        ),
        ("empty cell", lambda p: _write(p, [["", "Aa", "true", "1"]]), "'age': missing"),
        ("nan", lambda p: _write(p, [["20", "Aa", "true", "nan"]]), "must be a number.*'nan'"),
        ("infinite", lambda p: _write(p, [["20", "Aa", "true", "inf"]]), "infinite"),
        ("text", lambda p: _write(p, [["old", "Aa", "true", "1"]]), "must be a number.*'old'"),
        ("category", lambda p: _write(p, [["20", "Basel", "true", "1"]]), "categories: 'Basel' "),
        ("ragged", lambda p: _write(p, [["20", "Aa"]]), "2 cell"),
        ("empty", lambda p: p.write_bytes(b""), "the file is empty"),
        ("header only", lambda p: _write(p, []), "no rows, only a header"),
        (
            "not UTF-8",
            lambda p: p.write_bytes(b"age,town,smoker,income\n20,Z\xfcri,t,1\n"),
            "UTF-8",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_table(
    name: str, write: Callable[[Path], object], match: str, schema: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.csv"
    write(bad)
    for command, out in (("release", "p.dpslice"), ("synthesize", "s.csv")):
        arguments = [command, bad, "--schema", schema, "--epsilon", 5, "--out", tmp_path / out]
        refuse(match, *arguments)
    refuse(match, "schema", "check", schema, bad)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.usefixtures("only_reading")
class TestRefusals:
    """Mistakes that are caught before anything is written."""

    def test_no_such_table(self, schema: Path, tmp_path: Path) -> None:
        arguments = ["--schema", schema, "--epsilon", 5, "--out", tmp_path / "p"]
        refuse(r"nowhere\.csv: No such file", "release", tmp_path / "nowhere.csv", *arguments)

    def test_directory_for_a_table(self, schema: Path, tmp_path: Path) -> None:
        arguments = ["--schema", schema, "--epsilon", 5, "--out", tmp_path / "p"]
        refuse("Is a directory", "release", tmp_path, *arguments)

    def test_no_such_schema(self, table: Path, tmp_path: Path) -> None:
        arguments = ["--epsilon", 5, "--out", tmp_path / "p"]
        refuse("No such file", "release", table, "--schema", tmp_path / "no.toml", *arguments)

    def test_table_for_a_schema(self, table: Path, tmp_path: Path) -> None:
        arguments = ["--epsilon", 5, "--out", tmp_path / "p"]
        refuse("not a valid TOML", "release", table, "--schema", table, *arguments)

    def test_contradictory_schema(self, table: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.toml"
        bad.write_text('[columns.age]\ntype = "integer"\nmin = 5\nmax = 5\n')
        arguments = ["--epsilon", 5, "--out", tmp_path / "p"]
        refuse("min must be less than max", "release", table, "--schema", bad, *arguments)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (["--epsilon", 0], "epsilon must be a finite number > 0"),
            (["--epsilon", "inf"], "epsilon must be a finite number > 0"),
            (["--epsilon", 5, "--delta", 0], "delta must be"),
            (["--epsilon", 5, "--delta", 1.5], "delta must be"),
            (["--epsilon", 5, "--seed", -1], "seed must be"),
            (["--epsilon", 5, "--target", "name"], "target must name a column"),
            (["--epsilon", 5, "--steps", 0], "steps must be"),
            (["--epsilon", 5, "--method", "rows", "--batch-size", 0], "batch_size must be"),
            (["--epsilon", 5, "--batch-size", 64], "--batch-size is for --method rows"),
            (["--epsilon", 5, "--method", "rows", "--models", 2], "--models is for --method sums"),
            (["--epsilon", 5, "--models", 0], "models must be"),
            (
                ["--epsilon", 5, "--method", "rows", "--adjacency", "add_remove"],
                "adjacency must be one of zero_out, replace_one",
            ),
            (["--epsilon", 5, "--rows", 0], "rows must be"),
        ],
    )
    def test_values(
        self, options: list[object], match: str, table: Path, schema: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "s.csv"
        refuse(match, "synthesize", table, "--schema", schema, "--out", out, *options)
        assert not out.exists()

    @pytest.mark.parametrize("rows", [0, -3])
    def test_no_rows_to_sample(self, rows: int, model: Path) -> None:
        refuse("rows must be", "sample", model, "-n", rows)

    def test_more_rows_than_can_be(self, model: Path, table: Path, schema: Path) -> None:
        match = "rows must be at most 1,000,000,000; got 100000000000000000000: draw more"
        refuse(match, "sample", model, "-n", 10**20)
        options = ["--schema", schema, "--epsilon", 5, "--out", table.with_name("no.csv")]
        refuse(match, "synthesize", table, *options, "-n", 10**20)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            (SCHEMA.replace("99", "9" * 400), "column 'age': max must be .* beyond float64"),
            ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
            ('{"columns":' * 50_000, "nested too deeply"),
        ],
    )
    def test_schemas_beyond_reason(self, text: str, match: str, tmp_path: Path) -> None:
        schema = tmp_path / "s.toml"
        schema.write_text(text)
        refuse(match, "schema", "check", schema)

    def test_not_enough_memory(
        self, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        monkeypatch.setattr(Synthesizer, "train", lambda *_, **__: torch.empty(10**16))
        match = r"not enough memory \(can't allocate memory: you tried to allocate"
        refuse(match, "train", released, "--out", tmp_path / "m.pt")
        monkeypatch.undo()
        many = ["--models", 10**6]
        refuse("components times models must be at most", "train", released, "--out", "m.pt", *many)

    def test_model_of_another_schema(self, model: Path, schema: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.toml"
        other.write_text(SCHEMA.replace("max = 99\n", "max = 100\n"))
        refuse("another schema: column 'age'", "sample", model, "-n", 5, "--schema", other)
        other.write_text(SCHEMA.replace("columns.age", "columns.years"))
        refuse("its columns are 'age'", "sample", model, "-n", 5, "--schema", other)

    def test_not_a_model(self, table: Path, released: Path, tmp_path: Path) -> None:
        refuse("not a model", "sample", table, "-n", 5)
        refuse("no such model", "sample", tmp_path / "no.pt", "-n", 5)
        refuse("is a directory, no model file", "sample", released, "-n", 5)

    def test_release_that_is_not_of_a_table(self, tmp_path: Path) -> None:
        rows = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
        path = tmp_path / "rows.dpslice"
        dpslice.SlicingMechanism(sigma=1.0).release(rows, path=path)
        refuse("holds no schema", "train", path, "--out", tmp_path / "m.pt")

    def test_report_for_two_guarantees(self, table: Path, schema: Path, tmp_path: Path) -> None:
        arguments = ["report", table, "--real", table, "--schema", schema]
        both = ["--release", tmp_path / "a", "--model", tmp_path / "b"]
        refuse("at most one of", *arguments, "--out", tmp_path / "r.html", *both)


# ------------------------------------------------------------------------------------ outputs


def test_existing_files_are_not_overwritten(
    table: Path, schema: Path, released: Path, model: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.write_text("mine")
    arguments = ["--schema", schema, "--epsilon", 5]
    for option in ("--report", "--release", "--model"):
        out = ["--out", tmp_path / "s.csv", option, released if option == "--release" else old]
        refuse("exists already: pass --overwrite", "synthesize", table, *arguments, *out)
    for command in (
        ["synthesize", table, *arguments],
        ["train", released],
        ["sample", model, "-n", 3],
        ["report", table, "--real", table, "--schema", schema],
        ["schema", "template", table],
        ["schema", "infer", table, "--types", schema, "--epsilon", 1],
    ):
        refuse("exists already: pass --overwrite", *command, "--out", old)
    refuse("must name a directory", "release", table, *arguments, "--out", old, "--overwrite")
    assert old.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    succeed("sample", model, "-n", 3, "--out", old, "--overwrite")
    assert len(old.read_text().splitlines()) == 4


def test_overwrite_replaces_no_foreign_directory(
    table: Path, schema: Path, model: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("unique")
    arguments = ["release", table, "--schema", schema, "--epsilon", 5]
    refuse("is no release", *arguments, "--out", mine, "--overwrite")
    refuse("is a directory", "sample", model, "-n", 3, "--out", mine, "--overwrite")
    assert (mine / "thesis.tex").read_text() == "unique"


def test_output_that_appears_meanwhile_is_kept(
    table: Path, schema: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpslice._cli.release.check_outputs", lambda *_, **__: None)
    options = ["--schema", schema, "--epsilon", 5, "--out", released]
    refuse("exists already; pass --overwrite to replace it", "release", table, *options)


def test_files_that_appear_meanwhile_are_kept_and_results_are_beside_them(
    table: Path,
    schema: Path,
    released: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them, and in the end the command fails and says where they are."""
    for command in ("synthesize", "train", "sample", "report", "schema", "demo"):
        monkeypatch.setattr(f"dpslice._cli.{command}.check_outputs", lambda *_, **__: None)
    old = tmp_path / "old.x"
    old.write_text("mine")
    options = ["--schema", schema, "--epsilon", 5]
    for count, command in enumerate(
        [
            ["train", released, *TINY],
            ["sample", model, "-n", 3],
            ["report", table, "--real", table, "--schema", schema],
            ["schema", "template", table],
            ["schema", "infer", table, "--types", schema, "--epsilon", 1],
            ["synthesize", table, *options, *TINY],
        ],
        start=1,
    ):
        place = tmp_path / f"old-{count}.x"
        said = f"error: {old} exists already and is kept; .* is in {place}"
        refuse(said, *command, "--out", old, *([] if command[1] == "template" else ["--quiet"]))
        assert place.stat().st_size > 0
    assert old.read_text() == "mine"
    for ending in ("csv", "pt", "html"):
        (tmp_path / f"s.{ending}").write_text("mine")
    outputs = ["--model", tmp_path / "s.pt", "--report", tmp_path / "s.html"]
    places = [tmp_path / f"s-1.{ending}" for ending in ("csv", "pt", "html")]
    refuse(
        f"{places[0]}; .* {places[1]}; .* {places[2]} The table was released: epsilon and delta "
        f"are spent. The synthetic table is there: {places[0]}$",
        *("synthesize", table, *options, *TINY, "--quiet", "--out", tmp_path / "s.csv", *outputs),
    )
    assert len(read_table(places[0], Schema.load(schema))) == ROWS
    assert len(Synthesizer.load(places[1]).sample(5)) == 5
    assert "<html" in places[2].read_text()


def test_what_an_inference_has_found_is_kept_beside_a_file_that_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpslice._cli.schema.check_outputs", lambda *_, **__: None)
    table = tmp_path / "t.csv"
    table.write_text("a,b\n" + "".join(f"w{i},{i % 7}\n" for i in range(500)))
    types, out = tmp_path / "types.toml", tmp_path / "s.toml"
    types.write_text("[columns.a]\ntype = 'categorical'\n[columns.b]\ntype = 'integer'\n")
    out.write_text("mine")
    command = ["schema", "infer", table, "--types", types, "--epsilon", 3, "--out", out]
    place = tmp_path / "s-1.toml"
    refuse(f"has cost: {out} exists already and is kept; .* is in {place}: describe", *command)
    assert out.read_text() == "mine"
    assert "guarantee" in place.read_text()


def test_nothing_beside_a_release_is_lost(
    table: Path, schema: Path, released: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "p.dpslice"
    shutil.copytree(released, folder)
    shutil.copy(table, folder / "people.csv")
    (folder / "notes").mkdir()
    options = ["--schema", schema, "--epsilon", 5, "--overwrite"]
    synthesis = ["synthesize", table, *options, "--out", tmp_path / "s.csv", "--release", folder]
    refuse("holds 'notes' and 1 more besides a release", *synthesis)
    (folder / "notes").rmdir()
    refuse("holds 'people.csv' besides", "release", table, *options, "--out", folder)
    inside = folder / "people.csv"
    refuse("--out must not hold the input", "release", inside, *options, "--out", folder)
    assert sorted(os.listdir(folder)) == ["certificate.json", "people.csv", "sums.npy"]
    inside.unlink()
    succeed("release", table, *options, "--out", folder, "--quiet")


def test_nothing_is_written_into_a_release(
    table: Path, schema: Path, released: Path, model: Path, tmp_path: Path
) -> None:
    inside = released / "x"
    match = "must not lie in a release"
    refuse(f"--out {match}", "train", released, "--out", inside)
    checkpoint = ["--checkpoint", released / "sums.npy", "--restart"]
    refuse(f"--checkpoint {match}", "train", released, "--out", tmp_path / "m", *checkpoint)
    refuse(f"--out {match}", "sample", model, "-n", 3, "--out", inside)
    refuse(f"--out {match}", "schema", "template", table, "--out", inside)
    refuse(f"--out {match}", "demo", "--out", inside)
    refuse(f"--out {match}", "demo", "--out", released)
    options = ["--schema", schema, "--epsilon", 5, "--release", released, "--overwrite"]
    refuse(f"--out {match}", "synthesize", table, *options, "--out", inside)
    assert sorted(os.listdir(released)) == ["certificate.json", "sums.npy"]


def test_inputs_are_no_outputs(table: Path, schema: Path, released: Path, model: Path) -> None:
    same = "same file as the input"
    before = model.read_bytes()
    report = ["report", table, "--real", table, "--schema", schema, "--overwrite"]
    refuse(same, *report, "--out", model, "--model", model)
    sample = ["sample", model, "-n", 3, "--overwrite"]
    refuse(same, *sample, "--out", schema, "--schema", schema)
    assert model.read_bytes() == before
    assert schema.read_text() == SCHEMA


def test_only_regular_files_are_overwritten(released: Path, model: Path, tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for out in (pipe, link):
        for more in ([], ["--overwrite"]):
            match = "must name a file; .* is none; standard output is --out -"
            refuse(match, "sample", model, "-n", 3, "--out", out, *more)
            refuse("must name a file; .* is none$", "train", released, "--out", out, *more)
    for device in ("/dev/null", "/dev/stdout"):  # the check alone: a failing test breaks nothing
        with pytest.raises(FileExistsError, match="must name a file"):
            check_outputs({"--out": Path(device)}, [], overwrite=True)
    out = tmp_path / "m.pt"
    refuse("--checkpoint must name a file", "train", released, "--out", out, "--checkpoint", pipe)
    assert pipe.is_fifo()
    assert link.is_symlink()
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    refuse("must name a file", "sample", model, "-n", 3, "--out", circle, "--overwrite")


def test_restart_removes_checkpoints_only(
    table: Path, released: Path, model: Path, tmp_path: Path
) -> None:
    out = ["--out", tmp_path / "m.pt"]
    before = table.read_bytes(), model.read_bytes()
    for other in (table, model):
        options = [*out, "--checkpoint", other, *TINY]
        refuse("--restart removes checkpoints that", "train", released, *options, "--restart")
        refuse("not a checkpoint of dpslice", "train", released, *options, "--quiet")
    assert (table.read_bytes(), model.read_bytes()) == before
    refuse("same file as --out", "train", released, *out, "--checkpoint", out[1])
    refuse("same file as the input", "train", released, *out, "--checkpoint", released)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"PK")
    # What --restart would refuse is not what the message without it recommends.
    refuse("delete it to start", "train", released, *out, "--checkpoint", damaged, "--quiet")
    succeed("train", released, *out, "--checkpoint", tmp_path / "new", *TINY, "--restart")


def test_outputs_that_cannot_be_written_are_refused_first(
    table: Path, schema: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["synthesize", table, "--schema", schema, "--epsilon", 5]
    refuse("no directory", *arguments, "--out", tmp_path / "nowhere" / "s.csv")
    refuse("no directory", *arguments, "--out", table / "s.csv")
    refuse("same file as the input", *arguments, "--out", table, "--overwrite")
    same = tmp_path / "s.csv"
    refuse("same file as --out", *arguments, "--out", same, "--model", same)
    # Root may write anywhere, so a directory without permission is simulated.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    refuse("cannot be written", *arguments, "--out", same)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing_half_written(
    model: Path, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dpslice.tabular.files.os.fsync", full)
    refuse(
        "no space left on the device to write .*it was not published",
        "sample",
        model,
        "-n",
        3,
        "--out",
        tmp_path / "s.csv",
    )
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------ as a process


def _environment() -> dict[str, str]:
    source = str(Path(dpslice.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


HANGS = 300  # seconds after which a process must be hanging, however busy the machine
_STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    yield
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:  # of a test that has failed
            process.kill()
            process.communicate()


def _heed_hang_up() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # though these tests may run under nohup


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    options.setdefault("preexec_fn", _heed_hang_up)
    process = subprocess.Popen(
        [sys.executable, "-m", "dpslice", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        **options,
    )
    _STARTED.append(process)
    return process


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def interrupt_when(
    process: subprocess.Popen[str],
    happened: Callable[[], bool],
    by: signal.Signals = signal.SIGINT,
) -> str:
    """Send Ctrl-C, or the like, as soon as something has happened; return standard error."""
    deadline = time.monotonic() + HANGS
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(by)
    output, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130, (output, errors)
    assert output == ""
    assert "Traceback" not in errors
    assert errors.startswith("interrupted")
    return errors


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGHUP])
def test_interrupted_release_leaves_nothing(
    by: signal.Signals, schema: Path, tmp_path: Path
) -> None:
    big = tmp_path / "big.csv"
    lines = "".join(",".join(row) + "\n" for row in _rows(1000))
    big.write_text(",".join(HEADER) + "\n" + lines * 500)
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = ["release", big, "--schema", schema, "--epsilon", 5, "--out", folder / "p"]
    process = start(*arguments)
    interrupt_when(process, lambda: any(folder.iterdir()), by)
    assert list(folder.iterdir()) == []


def test_ctrl_c_within_code_from_a_string_ends_in_the_exit_code_too(tmp_path: Path) -> None:
    """Python would end the process by the signal, if it is not made to forget."""
    code = (
        "import sys\n"
        "from dpslice._cli import _commands\n"
        "from dpslice import cli\n"
        "def hit(**_):\n"
        "    exec('raise KeyboardInterrupt')\n"
        "_commands.app = hit\n"
        "sys.exit(cli.main([]))"
    )
    (tmp_path / "hit.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "hit"]
    done = subprocess.run(command, capture_output=True, env=_environment(), cwd=tmp_path)
    assert done.returncode == 130, done.stderr
    assert done.stderr == b"interrupted\n"


def test_interrupted_synthesis_keeps_the_release_only(
    table: Path, schema: Path, tmp_path: Path
) -> None:
    out, kept = tmp_path / "s.csv", tmp_path / "p.dpslice"
    options = ["--out", out, "--release", kept, "--steps", 10**6]
    process = start("synthesize", table, "--schema", schema, "--epsilon", 5, *options)
    interrupt_when(process, kept.exists)
    assert [p.name for p in tmp_path.iterdir()] == ["p.dpslice"]
    succeed("verify", kept)


@pytest.mark.slow  # several processes that import torch
@pytest.mark.parametrize(
    ("by", "ignored"),
    [
        (signal.SIGINT, False),
        (signal.SIGHUP, False),  # a terminal that is closed
        # A scheduler, a container: of a job in a shell's background, too, which ignores Ctrl-C.
        (signal.SIGTERM, True),
    ],
)
def test_interrupted_training_goes_on_from_its_checkpoint(
    by: signal.Signals, ignored: bool, released_rows: Path, tmp_path: Path
) -> None:
    out, state = tmp_path / "m.pt", tmp_path / "m.pt.checkpoint"
    arguments = ["train", released_rows, "--out", out, "--batch-size", 16]
    options = {"preexec_fn": _ignore_ctrl_c} if ignored else {}
    process = start(*arguments, "--steps", 10**6, **options)
    errors = interrupt_when(process, state.exists, by)
    assert str(state) in errors
    stopped = int(re.search(r"after step (\d+)", errors)[1])  # type: ignore[index]
    assert [p.name for p in tmp_path.iterdir()] == [state.name]
    other = ["--batch-size", 17, "--steps", 3]
    refuse("--restart", "train", released_rows, "--out", out, *other, "--quiet")
    result = succeed(*arguments, "--steps", stopped + 2, "--json")
    assert json.loads(result.stdout)["steps"] == stopped + 2
    assert "going on from" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


def test_methods_and_adjacencies(table: Path, schema: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    for number, options in enumerate(
        (["--method", "rows", "--batch-size", 32], ["--adjacency", "add_remove"])
    ):
        kept = tmp_path / f"{number}.dpslice"
        common = ["--epsilon", 5, "--out", out, "--overwrite", "--release", kept]
        result = succeed(
            "synthesize", table, "--schema", schema, *common, *options, *TINY, "--json"
        )
        summary = json.loads(result.stdout)
        assert summary["kind"] == ("rows", "sums")[number]
        if summary["guarantee"]["adjacency"] == "add_remove":
            assert "n" not in summary
            assert "n is protected too" in succeed("verify", kept).stdout


def test_tables_with_other_separators_and_words_for_missing(
    table: Path, schema: Path, tmp_path: Path
) -> None:
    """Every command that reads a real table reads this one; what is written has commas."""
    rows = [[*row[:3], row[3] or "n/a"] for row in _rows(ROWS)]
    other = tmp_path / "other.csv"
    other.write_text("".join("\t".join(row) + "\n" for row in [HEADER, *rows]), encoding="utf-8")
    how = ("--separator", "tab", "--missing", "n/a", "--missing", "-")
    refuse(
        "as if separated by tabs, not by commas: give that separator",
        *("schema", "check", schema, other),
    )
    refuse(
        "column 'income', about line .*: must be a number",
        *("schema", "check", schema, other, "--separator", "tab"),
    )
    assert f"{ROWS} rows" in succeed("schema", "check", schema, other, *how).stdout
    assert "[columns.town]" in succeed("schema", "template", other, *how[:2]).stdout
    inferred = tmp_path / "inferred.toml"
    types = tmp_path / "types.toml"
    types.write_text(SCHEMA.replace("min = 18\nmax = 99\n", ""), encoding="utf-8")
    succeed(
        "schema", "infer", other, "--types", types, "--epsilon", 90, "--out", inferred, *how, "-q"
    )
    kept = tmp_path / "p.dpslice"
    succeed("release", other, "--schema", schema, "--epsilon", 5, "--out", kept, *how, "-q")
    out, page = tmp_path / "synthetic.csv", tmp_path / "report.html"
    options = ("--schema", schema, "--epsilon", 5, "--out", out, *TINY, "-q")
    succeed("synthesize", other, *options, *how)
    assert len(read_table(out, Schema.load(schema))) == ROWS
    succeed("report", out, "--real", other, "--schema", schema, "--out", page, *how, "-q")
    refuse("separator must be one character", "schema", "check", schema, other, "--separator", "::")


def test_tables_in_other_encodings_and_with_columns_to_drop(
    table: Path, schema: Path, tmp_path: Path
) -> None:
    """Every command that reads a real table reads this one; what is written is UTF-8."""
    other = tmp_path / "other.csv"
    lines = [
        f"name,{line}" if i == 0 else f"Zoë {i},{line}" for i, line in enumerate(_lines(table))
    ]
    other.write_text("\n".join(lines) + "\n", encoding="latin-1")
    encoding = ("--encoding", "latin-1")
    how = (*encoding, "--drop", "name")
    refuse("must be UTF-8 text .* give its encoding", "schema", "check", schema, other)
    refuse("not in the schema: 'name' .drop them", "schema", "check", schema, other, *encoding)
    assert f"{ROWS} rows" in succeed("schema", "check", schema, other, *how).stdout
    template = succeed("schema", "template", other, *how).stdout
    assert "[columns.town]" in template
    assert "columns.name" not in template
    inferred, types = tmp_path / "inferred.toml", tmp_path / "types.toml"
    types.write_text(SCHEMA.replace("min = 18\nmax = 99\n", ""), encoding="utf-8")
    options = ("--types", types, "--epsilon", 90, "--out", inferred, "-q")
    succeed("schema", "infer", other, *options, *how)
    kept = tmp_path / "p.dpslice"
    rows = ("--method", "rows", "--amplify-by-order")
    succeed("release", other, "--schema", schema, "--epsilon", 5, "--out", kept, *how, *rows, "-q")
    out, page = tmp_path / "synthetic.csv", tmp_path / "report.html"
    options = ("--schema", schema, "--epsilon", 5, "--out", out, *TINY, "-q")
    succeed("synthesize", other, *options, *how)
    assert tuple(_lines(out)[0].split(",")) == tuple(HEADER)
    succeed("report", out, "--real", other, "--schema", schema, "--out", page, *how, "-q")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_rounds(table: Path, schema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpslice.tabular import synthesizer

    quick = synthesizer.MixtureOptions(steps=8, components=16)  # of the release's own models
    monkeypatch.setattr(synthesizer, "default_options", lambda method: quick)
    kept = tmp_path / "p.dpslice"
    result = succeed(
        "release", table, "--schema", schema, "--epsilon", 5, "--out", kept, "--rounds", 1
    )
    assert "a model is fitted in each of 1 rounds" in result.stderr
    assert "round 1 of 1: counted " in result.stderr
    assert "tables were chosen by exponential mechanisms" in succeed("verify", kept).stdout
    refuse(
        "rounds are for method='sums'; got 1 with 'rows'",
        *("release", table, "--schema", schema, "--epsilon", 5, "--out", tmp_path / "other"),
        *("--rounds", 1, "--method", "rows"),
    )
    refuse(
        "rounds must be at most the number of tables of three columns",
        *("release", table, "--schema", schema, "--epsilon", 5, "--out", tmp_path / "other"),
        *("--rounds", 99),  # before any fit is announced
    )
    assert [path.name for path in tmp_path.iterdir()] == ["p.dpslice"]


@pytest.mark.parametrize("adjacency", ["zero_out", "add_remove"])
def test_progress_counts_rows_only_where_their_number_is_public(
    adjacency: str, table: Path, schema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal, so that the bar is drawn
    options = ["--epsilon", 5, "--adjacency", adjacency, "--out", tmp_path / "p.dpslice"]
    result = succeed("release", table, "--schema", schema, *options)
    assert "releasing" in result.stderr
    assert (f"{ROWS} rows" in result.stderr) == (adjacency == "zero_out")
    # The time it took tells of their number.
    assert ("0:00:0" in result.stderr.split("training")[0]) == (adjacency == "zero_out")
    assert (f"n = {ROWS}" in result.stdout) == (adjacency == "zero_out")
    assert ("time: release" in result.stdout) == (adjacency == "zero_out")
    summary = json.loads(
        succeed("release", table, "--schema", schema, *options, "--overwrite", "--json").stdout
    )
    assert ("release" in summary["seconds"]) == (adjacency == "zero_out")


def test_schema_check_counts_what_would_be_clipped(schema: Path, tmp_path: Path) -> None:
    rows = _rows(50)
    for row in rows[:7]:
        row[0] = "500"  # the age
    table = _write(tmp_path / "units.csv", rows)
    text = succeed("schema", "check", schema, table).stdout
    assert "column 'age': 7 of 50 values lie outside the bounds and would be clipped" in text
    document = json.loads(succeed("schema", "check", schema, table, "--json").stdout)
    assert document["outside_bounds"]["age"] == 7
    assert json.loads(succeed("schema", "check", schema, "--json").stdout)["outside_bounds"] is None


def test_schema_check_counts_what_would_be_rounded(tmp_path: Path) -> None:
    schema = tmp_path / "s.toml"
    schema.write_text(
        '[columns.pay]\ntype = "real"\nmin = 0\nmax = 900\nstep = 100\n'
        '[columns.seen]\ntype = "datetime"\nmin = 2020-01-01\nmax = 2020-12-31\n'
    )
    table = tmp_path / "t.csv"
    table.write_text("pay,seen\n100,2020-05-06\n150,2020-05-06T07:08\n999,2020-05-07T07:08\n")
    text = succeed("schema", "check", schema, table).stdout
    assert "'pay': 1 of 3 values are finer than its step of 100 and would be rounded" in text
    assert "'seen': 2 of 3 values are finer than whole days (its min and max are dates; " in text
    document = json.loads(succeed("schema", "check", schema, table, "--json").stdout)
    assert document["rounded"] == {"pay": 1, "seen": 2}
    assert json.loads(succeed("schema", "check", schema, "--json").stdout)["rounded"] is None
    text = schema.read_text().replace("2020-01-01", "2020-01-01T00:00:00")
    schema.write_text(text.replace("2020-12-31", "2020-12-31T23:59:59"))
    table.write_text("pay,seen\n100,2020-05-06T07:08:09\n100,2020-05-06T07:08:09.25\n")
    text = succeed("schema", "check", schema, table).stdout
    assert "'seen': 1 of 2 values are finer than whole seconds and would be rounded" in text


RULES = """
[[impossible]]
age = { max = 40 }
smoker = true

[[impossible]]
town = ["Aa", "Bern"]
income = { missing = true }
"""


def _breaking(rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        sum(int(age) <= 40 and smoker.lower() == "true" for age, _, smoker, _ in rows),
        sum(town in ("Aa", "Bern") and not income for _, town, _, income in rows),
    ]


@pytest.fixture
def ruled(tmp_path: Path) -> Path:
    path = tmp_path / "ruled.toml"
    path.write_text(SCHEMA + RULES, encoding="utf-8")
    return path


def _read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def test_schema_check_counts_rows_that_break_rules(ruled: Path, table: Path) -> None:
    counts = _breaking(_rows(ROWS))
    assert min(counts) > 0
    text = succeed("schema", "check", ruled, table).stdout
    assert f"impossible: {counts[0]} of {ROWS} rows have age at most 40 and smoker is True" in text
    assert f"{counts[1]} of {ROWS} rows have town is 'Aa' or 'Bern' and income is missing" in text
    assert "NOT PRIVATE" in text
    counted = json.loads(succeed("schema", "check", ruled, table, "--json").stdout)
    assert [entry["rows"] for entry in counted["impossible"]] == counts
    assert counted["private"] is False
    alone = json.loads(succeed("schema", "check", ruled, "--json").stdout)
    assert [entry["rows"] for entry in alone["impossible"]] == [None, None]
    assert alone["impossible"][0]["rule"] == "age at most 40 and smoker is True"
    ruled.write_text(SCHEMA + RULES.replace("smoker = true", "smoker = 3"))
    refuse("ruled.toml: impossible rule 1: .*'smoker' can hold", "schema", "check", ruled, table)


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_no_synthetic_row_breaks_a_rule(
    method: str, ruled: Path, schema: Path, table: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "s.csv", tmp_path / "m.pt"
    result = succeed(
        *("synthesize", table, "--schema", ruled, "--epsilon", 20, "--method", method, *TINY),
        *("--out", out, "--model", model, "-n", 400),
    )
    assert len(_read(out)) == 400
    assert _breaking(_read(out)) == [0, 0]
    assert re.search(r"\d\.\d\d% of the model's own rows break a rule", result.stderr)
    more = tmp_path / "more.csv"
    result = succeed("sample", model, "-n", 200, "--out", more, "--where", "smoker=true")
    assert _breaking(_read(more)) == [0, 0]
    assert min(int(age) for age, *_ in _read(more)) > 40
    match = "impossible rule 1 .age at most 40 and smoker is True. forbids all"
    refuse(match, "sample", model, "-n", 5, "--where", "smoker=true", "--where", "age=40")
    assert "rows (without conditions) break a rule" in result.stderr
    assert "rows break a rule" in succeed("sample", model, "-n", 1).stderr  # to standard output
    # Rules of another file, in place of the model's: here none.
    result = succeed(
        *("sample", model, "-n", 400, "--seed", 0, "--schema", schema, "--out", more),
        "--overwrite",
    )
    assert "break a rule" not in result.stderr
    assert "has no rules on what is impossible: those of the model do not count" in result.stderr
    assert max(_breaking(_read(more))) > 0
    again = succeed("sample", model, "-n", 400, "--seed", 0, "--schema", ruled, "--quiet").stdout
    assert again == succeed("sample", model, "-n", 400, "--seed", 0, "--quiet").stdout
    assert again == out.read_text(encoding="utf-8")


@pytest.mark.parametrize("quiet", [False, True])
def test_the_share_that_rules_cost_is_computed_once(
    quiet: bool, ruled: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and stands in the report too."""
    shares = []
    compute = Synthesizer.broken_share

    def counted(self: Synthesizer, *rules: Any) -> float:
        shares.append(compute(self, *rules))
        return shares[-1]

    monkeypatch.setattr(Synthesizer, "broken_share", counted)
    outputs = ["--out", tmp_path / "s.csv", "--report", tmp_path / "r.html"]
    options = [*TINY, *(["--quiet"] if quiet else [])]
    result = succeed("synthesize", table, "--schema", ruled, "--epsilon", 20, *options, *outputs)
    (share,) = shares
    assert (f"{share:.2%} of the model's own rows" in result.stderr) != quiet
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "rows drawn anew" in page
    assert f"{share:.2%}" in page


def test_what_was_paid_for_outlives_rules_that_leave_nothing(
    schema: Path, table: Path, tmp_path: Path
) -> None:
    """That a model makes no row that they allow is seen only when it is trained."""
    ruled, out, model = tmp_path / "ruled.toml", tmp_path / "s.csv", tmp_path / "m.pt"
    rules = ["age = { not = 33 }", "income = { missing = true }", "income = { not = 77 }"]
    ruled.write_text(
        SCHEMA + "".join(f"\n[[impossible]]\n{rule}\n" for rule in rules), encoding="utf-8"
    )
    result = invoke(
        *("synthesize", table, "--schema", ruled, "--epsilon", 20, *TINY, "-n", 400),
        *("--out", out, "--model", model),
    )
    assert result.exit_code == 1
    assert "impossible rules must leave rows that the model makes" in result.stderr
    assert f"The synthetic table is there: {out}, drawn without the rules" in result.stderr
    assert len(_read(out)) == 400
    assert succeed("sample", model, "-n", 5, "--schema", schema).stdout.count("\n") == 6


def test_schema_infer_keeps_rules(table: Path, tmp_path: Path) -> None:
    types, out = tmp_path / "types.toml", tmp_path / "s.toml"
    types.write_text(SCHEMA.replace("min = 0\nmax = 100_000\n", "") + RULES, encoding="utf-8")
    options = ["--types", types, "--epsilon", 5, "--out", out, "--quiet"]
    refuse("impossible rule 2 .* 'income' is still to be", "schema", "infer", table, *options)
    rule = RULES[: RULES.index("[[impossible]]\ntown")]
    types.write_text(types.read_text().replace(RULES, rule), encoding="utf-8")
    succeed("schema", "infer", table, *options)
    assert [str(rule) for rule in Schema.load(out).impossible] == [
        "age at most 40 and smoker is True"
    ]


def test_schema_check_says_that_it_is_not_private(schema: Path, table: Path) -> None:
    assert "NOT PRIVATE" in succeed("schema", "check", schema, table).stdout
    assert "NOT PRIVATE" not in succeed("schema", "check", schema).stdout  # no row was read
    counted = json.loads(succeed("schema", "check", schema, table, "--json").stdout)
    alone = json.loads(succeed("schema", "check", schema, "--json").stdout)
    assert (counted["private"], alone["private"]) == (False, None)


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_hopeless_noise_is_said(method: str, schema: Path, tmp_path: Path) -> None:
    table = _write(tmp_path / "few.csv", _rows(4))
    options = ["--epsilon", 0.5, "--method", method, "--out", tmp_path / "p"]
    errors = succeed("release", table, "--schema", schema, *options).stderr
    assert "% of what all 4 rows together can make" in errors
    if method == "sums":  # where their number is an estimate
        options += ["--adjacency", "add_remove", "--overwrite"]
        errors = succeed("release", table, "--schema", schema, *options).stderr
        assert re.search(r"% of what all rows, about \d+ of them, together can make", errors)


def test_conditions_on_columns_whose_names_hold_an_equals_sign(tmp_path: Path) -> None:
    names = ["a", "a=b", "c=d"]
    schema = tmp_path / "s.toml"
    schema.write_text(
        "".join(
            f'[columns."{name}"]\ntype = "categorical"\ncategories = ["x", "b=x", "y"]\n'
            for name in names
        )
    )
    table = _write(tmp_path / "t.csv", [["x", "y", "b=x"], ["b=x", "x", "y"]] * 20, names)
    model = tmp_path / "m.pt"
    options = ["--epsilon", 9, "--out", tmp_path / "s.csv", "--model", model, *TINY, "--quiet"]
    succeed("synthesize", table, "--schema", schema, *options)
    for where, column, value in (
        ("a=b=x", "a=b", "x"),  # the longest name that fits
        ("a=x", "a", "x"),
        ("c=d=b=x", "c=d", "b=x"),
    ):
        text = succeed("sample", model, "-n", 9, "--where", where).stdout
        assert {row[column] for row in csv.DictReader(text.splitlines())} == {value}


def test_sample_with_conditions(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    where = ["--where", "town=Bern", "--where", "smoker=true", "--where", "income="]
    succeed("sample", model, "-n", 20, "--out", out, *where, "--quiet")
    with open(out, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert {(row["town"], row["smoker"].lower(), row["income"]) for row in rows} == {
        ("Bern", "true", "")
    }
    for bad, match in (
        ("age=30.5..40", "'age': must be a whole number .*; got '30.5'"),
        ("age=40..30", "'age': min must not be greater than max; got min = 40, max = 30"),
        ("age=1000..", "'age': no value that it can hold is meant by {'min': 1000}"),
        ("age=young..30", "'age': must be a number .*; got 'young'"),
        ("age=..", "must have a range alone for column 'age'.*; got 'age=..'"),
        ("age!=30..40", "must have a range alone for column 'age'.*; got 'age!=30..40'"),
        ("age!=", "'age': missing is for columns that are nullable"),
        ("town=A..C", "not among the schema's categories"),
        ("city=Bern", "must be COLUMN=VALUE"),
        ("town", "must be COLUMN=VALUE"),
        ("town=Rome", "not among the schema's categories"),
        ("age=old", "must be a number"),
        ("age=1000", "conditions must be values that column 'age' can hold"),
        ("age=", "missing value"),
    ):
        refuse(match, "sample", model, "-n", 5, "--out", tmp_path / "t.csv", "--where", bad)


def _sampled(model: Path, *where: str, n: int = 60) -> list[dict[str, str]]:
    options = [option for one in where for option in ("--where", one)]
    text = succeed("sample", model, "-n", n, *options, "--quiet").stdout
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == n
    return rows


def test_sample_with_ranges_and_several_values(model: Path) -> None:
    ages = {int(row["age"]) for row in _sampled(model, "age=30..40")}
    assert ages <= set(range(30, 41))
    assert len(ages) > 4
    assert all(int(row["age"]) >= 60 for row in _sampled(model, "age=60.."))
    assert all(int(row["age"]) <= 30 for row in _sampled(model, "age= .. 30"))
    towns = _sampled(model, "town=Bern", "age=..50", "town=Chur")
    assert {row["town"] for row in towns} == {"Bern", "Chur"}
    assert all(int(row["age"]) <= 50 for row in towns)
    assert {row["town"] for row in _sampled(model, "town!=Bern", "town!=Chur")} == {"Aa"}
    assert all(row["income"] for row in _sampled(model, "income!="))
    incomes = {row["income"] for row in _sampled(model, "income=20000.5", "income=60000.25")}
    assert incomes <= {"20000.5", "60000.25"}
    answers = {row["smoker"] for row in _sampled(model, "smoker=yes", "smoker=no")}
    assert answers == {"True", "False"}
    twice = ["--where", "town=Bern", "--where", "town=Bern"]
    refuse("'town': values must differ; 'Bern' occurs twice", "sample", model, "-n", 1, *twice)
    both = ["--where", "town=Bern", "--where", "town!=Chur"]
    refuse("must have = or != for column 'town'; got both", "sample", model, "-n", 1, *both)
    two = ["--where", "age=..20", "--where", "age=60.."]
    match = "must have a range alone for column 'age'.*; got 'age=..20', 'age=60..'"
    refuse(match, "sample", model, "-n", 1, *two)


def test_conditions_where_names_hold_signs(tmp_path: Path) -> None:
    """What stands for a range, or for not, elsewhere is part of a name here."""
    names = ["a", "a!", "b..c", "seen"]
    levels = ["1..2", "!=x", "x, y", ".."]
    schema = tmp_path / "s.toml"
    schema.write_text(
        "".join(
            f'[columns."{name}"]\ntype = "categorical"\ncategories = {json.dumps(levels)}\n'
            for name in names[:3]
        )
        + '[columns.seen]\ntype = "datetime"\nmin = 2020-01-01\nmax = 2020-12-31\n'
    )
    rows = [[*levels[:3], "2020-03-04"], [*levels[1:], "2020-11-12"]] * 20
    model = tmp_path / "m.pt"
    options = ["--epsilon", 9, "--out", tmp_path / "s.csv", "--model", model, *TINY, "--quiet"]
    succeed("synthesize", _write(tmp_path / "t.csv", rows, names), "--schema", schema, *options)
    for where, column, value in (
        ("a=1..2", "a", "1..2"),
        ("a=!=x", "a", "!=x"),
        ("a=..", "a", ".."),
        ("a!=!=x", "a!", "!=x"),  # the longest name that fits
        ("a!=1..2", "a!", "1..2"),
        ("b..c=x, y", "b..c", "x, y"),
        ("b..c=..", "b..c", ".."),
    ):
        assert {row[column] for row in _sampled(model, where)} == {value}, where
    others = {row["b..c"] for row in _sampled(model, "b..c!=..", "b..c!=1..2")}
    assert others == {"!=x", "x, y"}
    for where, low, high in (
        ("seen=2020-03-01..2020-03-31", "2020-03-01", "2020-03-31"),
        ("seen=2020-12-30..", "2020-12-30", "2020-12-31"),
        ("seen=..2020-01-02", "2020-01-01", "2020-01-02"),
    ):
        assert all(low <= row["seen"] <= high for row in _sampled(model, where)), where
    match = "'seen': max must be a date such as 2019-01-31 .*; got 'May'"
    refuse(match, "sample", model, "-n", 1, "--where", "seen=2020-01-01..May")


def test_train_restart_ignores_the_checkpoint(released: Path, tmp_path: Path) -> None:
    out, state = tmp_path / "m.pt", tmp_path / "state"
    arguments = ["train", released, "--out", out, *TINY, "--checkpoint", state]
    succeed(*arguments, "--seed", 1, "--quiet")
    out.unlink()
    refuse("setting seed.*--restart", *arguments, "--quiet")
    assert json.loads(succeed(*arguments, "--restart", "--json").stdout)["steps"] == 3
    assert state.exists()  # named by the user, so it stays


def test_train_with_fewer_steps_than_the_checkpoint_has(released: Path, tmp_path: Path) -> None:
    state = ["--checkpoint", tmp_path / "state", "--quiet"]
    succeed("train", released, "--out", tmp_path / "a.pt", "--steps", 6, *state)
    arguments = ["train", released, "--out", tmp_path / "b.pt", "--steps", 3, *state]
    refuse("is of step 6, and steps = 3: .*--restart", *arguments)
    assert not (tmp_path / "b.pt").exists()
    succeed(*arguments, "--restart")


@pytest.mark.parametrize("extension", ["model", "report"])
def test_synthetic_rows_are_there_whatever_else_fails(
    extension: str, table: Path, schema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Synthesizer, "save", full)
    monkeypatch.setattr("dpslice.tabular.report.write_report", full)
    out = tmp_path / "s.csv"
    options = ["--epsilon", 5, "--out", out, f"--{extension}", tmp_path / "x", *TINY, "--quiet"]
    said = f"No space left .*epsilon and delta are spent. The synthetic table is there: {out}"
    refuse(said, "synthesize", table, "--schema", schema, *options)
    assert len(out.read_text().splitlines()) == 1 + ROWS


@pytest.mark.parametrize("keep", [True, False])
def test_a_failure_after_the_release_says_what_is_spent_and_kept(
    keep: bool, table: Path, schema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(*_: object, **__: object) -> None:
        raise MemoryError("too much")

    monkeypatch.setattr(Synthesizer, "sample", lack)
    release = tmp_path / "rows.dpslice"
    options = ["--epsilon", 5, "--out", tmp_path / "s.csv", *TINY, "--quiet"]
    options += ["--release", release] if keep else []
    kept = f"The release is kept: go on with dpslice train {release}" if keep else "Nothing was w"
    said = f"not enough memory .* The table was released: epsilon and delta are spent. {kept}"
    refuse(said, "synthesize", table, "--schema", schema, *options)
    assert release.exists() == keep


@pytest.mark.parametrize("command", ["release", "train"])
def test_file_size_limit_leaves_nothing_half_written(
    command: str, table: Path, schema: Path, released: Path, model: Path, tmp_path: Path
) -> None:
    # The system refuses to write beyond a limit: the same path through the code as a full disk.
    arguments = {
        "release": ["release", table, "--schema", schema, "--epsilon", 5],
        "train": ["train", released, *TINY],
    }[command]
    process = start(
        *arguments,
        "--out",
        tmp_path / "out",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert errors.startswith("error: ")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".checkpoint")] == []


def test_closed_pipe_ends_quietly(model: Path) -> None:
    process = start("sample", model, "-n", 50_000)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("age,")
    process.stdout.close()
    process.wait(timeout=HANGS)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.slow  # four processes, most of which import torch
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lost_output_is_told_and_files_are_named(
    unbuffered: str, table: Path, schema: Path, model: Path, tmp_path: Path
) -> None:
    def run(*arguments: object) -> str:
        with open("/dev/full", "w") as full:
            result = subprocess.run(
                [sys.executable, "-m", "dpslice", *map(str, arguments)],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env={**_environment(), "PYTHONUNBUFFERED": unbuffered},
            )
        assert result.returncode == 1
        assert result.stderr.startswith("error: standard output could not be written")
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    out = tmp_path / "p.dpslice"
    arguments = ["release", table, "--schema", schema, "--epsilon", 5, "--out", out]
    assert f"is there: {out}" in run(*arguments)
    succeed("verify", out)
    run("--help")
    run("sample", model, "-n", 2)
    if not unbuffered:  # more than the buffer holds; else the first line is lost as it is written
        run("sample", model, "-n", 20_000)


def test_summary_in_an_encoding_that_lacks_its_letters(
    table: Path, schema: Path, tmp_path: Path
) -> None:
    out = tmp_path / "Zürich"
    arguments = ["release", table, "--schema", schema, "--epsilon", 5, "--out", out]
    result = subprocess.run(
        [sys.executable, "-m", "dpslice", *map(str, arguments)],
        capture_output=True,
        env={**_environment(), "PYTHONIOENCODING": "ascii"},
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert rb"Z\xfcrich" in result.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_templates_on_standard_output_are_utf8(encoding: str, tmp_path: Path) -> None:
    """As schema files are, and as `--out` writes them."""
    table, out = tmp_path / "t.csv", tmp_path / "t.toml"
    table.write_text("Größe,Ort\n1,Bern\n", encoding="utf-8")
    succeed("schema", "template", table, "--out", out)
    result = subprocess.run(
        [sys.executable, "-m", "dpslice", "schema", "template", str(table)],
        capture_output=True,
        env={**_environment(), "PYTHONIOENCODING": encoding},
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == out.read_bytes()


def test_closed_streams(model: Path, tmp_path: Path) -> None:
    def run(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "dpslice", *map(str, arguments)]
        command = f"{' '.join(words)} {redirection}"
        return subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, env=_environment()
        )

    for arguments, code in ((["account", "--dim", 3], 1), (["account", "--nonsense"], 2)):
        result = run("2>&-", *arguments)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", "")
    result = run(">&-", "sample", model, "-n", 2)
    assert result.returncode == 1
    assert result.stderr == "error: standard output is closed: open it, or name a file by --out\n"
    # No file takes the place of a closed stream, and what is said on it.
    out = tmp_path / "s.csv"
    result = run(">&- 2>&-", "sample", model, "-n", 2, "--out", out)
    assert result.returncode == 0
    assert len(out.read_text().splitlines()) == 3


def test_nohup_is_kept(schema: Path) -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from dpslice import cli\n"
        "from dpslice._cli import _commands\n"
        "def hung_up(*args, **kwargs):\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print('still here')\n"
        "_commands.app = hung_up\n"
        "cli.main([])"
    )
    for ignored in (True, False):
        lines = code if ignored else code.replace("SIG_IGN", "SIG_DFL")
        result = subprocess.run(
            [sys.executable, "-c", lines], capture_output=True, text=True, env=_environment()
        )
        assert result.stdout == ("still here\n" if ignored else "")
        assert result.stderr == ("" if ignored else "interrupted\n")


@pytest.mark.parametrize("package", ["typer", "rich", "pandas"])
def test_without_a_package_the_extra_is_named(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from dpslice.cli import main; sys.exit(main(['--help']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=_environment()
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: the command line needs {package}")
    assert "pip install 'dpslice[tabular]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_is_quick() -> None:
    """It imports nothing that takes as long as all else."""
    code = (
        "import sys; from dpslice.cli import main; main(['--help'])\n"
        "print({'pandas', 'torch', 'sklearn', 'sdmetrics'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=_environment()
    )
    assert result.stdout.splitlines()[-1] == "set()"


def test_without_torch_the_extra_is_named(table: Path, schema: Path, tmp_path: Path) -> None:
    arguments = ["release", table, "--schema", schema, "--epsilon", 1, "--out", tmp_path / "p"]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from dpslice.cli import main; sys.exit(main({[str(a) for a in arguments]!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=_environment()
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: torch is needed here")
    assert result.stderr.count("\n") == 1


def test_main_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["account", "--epsilon", "1", "--dim", "3"]) == 0
    assert "adjacency zero_out" in capsys.readouterr().out
    assert main(["account", "--epsilon", "-1", "--dim", "3"]) == 1
    assert main(["nonsense"]) == 2


def test_keyboard_interrupt_in_any_command(monkeypatch: pytest.MonkeyPatch, released: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Release, "load", interrupted)
    result = invoke("verify", released)
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted")


def test_debug_shows_the_traceback() -> None:
    result = invoke("--debug", "account", "--epsilon", -1, "--dim", 3)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "error: epsilon" in result.stderr


# ------------------------------------------------------------------------------------------ demo


def test_demo_does_the_whole_job(tmp_path: Path) -> None:
    pytest.importorskip("statsmodels")
    out = tmp_path / "demo"
    result = succeed("demo", "--out", out, "--steps", 3)
    text = result.stdout
    assert "zero_out" in text
    assert "NOT PRIVATE" in text
    assert "ROC AUC" in text
    assert sorted(p.name for p in out.iterdir()) == [
        "model.pt",
        "randhie-holdout.csv",
        "randhie.csv",
        "randhie.dpslice",
        "randhie.toml",
        "report.html",
        "synthetic.csv",
    ]
    loaded = dpslice.Release.load(out / "randhie.dpslice")
    assert loaded.n == 16_152
    assert loaded.guarantee.epsilon <= 3
    assert loaded.guarantee.delta == 1e-5
    refuse("exists already", "demo", "--out", out)
    refuse("is a file", "demo", "--out", out / "model.pt")
    # The files are those of the command line: anyone can go on by hand.
    succeed("schema", "check", out / "randhie.toml", out / "randhie.csv")
    succeed("schema", "check", out / "randhie.toml", out / "synthetic.csv")


def test_demo_table_is_prepared_row_by_row() -> None:
    pytest.importorskip("statsmodels")
    from dpslice.tabular import demo

    private, held_out = demo.load_tables()
    assert (len(private), len(held_out)) == (16_152, 4_038)
    from statsmodels.datasets import randhie

    data = randhie.load_pandas().data
    whole = demo.prepare(data)
    pieces = [demo.prepare(data.iloc[:100]), demo.prepare(data.iloc[100:])]
    np.testing.assert_array_equal(
        whole.to_numpy(), np.concatenate([piece.to_numpy() for piece in pieces])
    )
    again, _ = demo.load_tables()
    assert again.equals(private)
