"""Parquet files: the same table as in CSV, nothing more taken from them, and clear errors."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import succeed
from dpslice.tabular import (
    Boolean,
    Categorical,
    Datetime,
    Discretization,
    Encoding,
    Number,
    Schema,
    Synthesizer,
    iter_table,
    read_table,
    write_table,
)
from dpslice.tabular.files import count_rows, read_header
from peak_memory import PEAK, reads_proc
from table_strategies import schemas, tables

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

DAY, TIME, D = datetime.date, datetime.datetime, decimal.Decimal
SCHEMA = Schema(
    [
        Number("age", "integer", 0, 100, nullable=True),
        Number("height", "real", 0, 3, nullable=True),
        Categorical("job", ["cook", "none"], nullable=True),
        Categorical("code", [1, 2]),
        Boolean("smoker", nullable=True),
        Datetime("seen", "2020-01-01", "2021-12-31", nullable=True),
    ]
)
FILE = """\
[columns.age]
type = "integer"
min = 0
max = 100
nullable = true

[columns.height]
type = "real"
min = 0
max = 3
nullable = true

[columns.job]
type = "categorical"
categories = ["cook", "none"]
nullable = true

[columns.code]
type = "categorical"
categories = [1, 2]

[columns.smoker]
type = "boolean"
nullable = true

[columns.seen]
type = "datetime"
min = 2020-01-01
max = 2021-12-31
nullable = true
"""


def arrow_table(n: int = 60) -> Any:
    """Return a table as programs write it: categories, float32, days, a null in each column."""
    rng = np.random.default_rng(0)
    gone = np.arange(n) % 7 == 3
    return pa.table(
        {
            "seen": pa.array([DAY(2020, 1, 1 + i % 28) for i in range(n)], pa.date32(), mask=gone),
            "age": pa.array(rng.integers(0, 120, n), pa.uint8(), mask=gone),
            "height": pa.array(rng.uniform(1, 2, n).astype(np.float32), mask=gone),
            "job": pa.array(rng.choice(["cook", "none"], n), mask=gone).dictionary_encode(),
            "code": pa.array(rng.integers(1, 3, n), pa.int16()),
            "smoker": pa.array(rng.random(n) < 0.5, mask=gone),
        }
    )


def save(table: Any, path: Path, **how: Any) -> Path:
    pq.write_table(table, path, **how)
    return path


def csv_twin(table: Any, path: Path) -> Path:
    """Write the same table as CSV, by pandas' own writer."""
    table.to_pandas(integer_object_nulls=True).to_csv(path, index=False)
    return path


def column(values: Any, path: Path, name: str = "a") -> Path:
    return save(pa.table({name: values}), path)


# --------------------------------------------------------------------------- the same as in CSV


@given(schemas().flatmap(lambda s: tables(s).map(lambda t: (s, s.validate(t)))))
@settings(deadline=None)
def test_any_table_is_read_as_from_csv(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[Schema, pd.DataFrame]
) -> None:
    schema, table = pair
    folder = tmp_path_factory.mktemp("twins")
    read = []
    for name in ("t.csv", "t.parquet"):
        write_table(table, folder / name)
        read.append(read_table(folder / name, schema))
    pd.testing.assert_frame_equal(*read)
    pd.testing.assert_frame_equal(schema.validate(read[1]), table)


@pytest.mark.parametrize(
    ("kind", "values", "cells"),
    [
        ("integer", pa.array([1, None, -(2**63)]), ["1", "", str(-(2**63))]),
        ("integer", pa.array([2**64 - 1, 7], pa.uint64()), [str(2**64 - 1), "7"]),
        ("integer", pa.array([3.0, float("nan"), None, 1e18]), ["3.0", "", "", "1e18"]),
        ("integer", pa.array([D("41.00"), None, D("7.00")]), ["41.00", "", "7"]),
        ("integer", pa.array(["41", "", "2e0"]), ["41", "", "2e0"]),
        ("real", pa.array([0.1, 1e300, 5e-324, -0.0]), ["0.1", "1e300", "5e-324", "-0.0"]),
        ("real", pa.array([0.1, None, 16777216.0], pa.float32()), ["0.1", "", "16777216.0"]),
        ("real", pa.array(np.array([0.5, 2.0], np.float16)), ["0.5", "2"]),
        ("real", pa.array([D("0.10"), D("12345678901234.12")]), ["0.10", "12345678901234.12"]),
        ("real", pa.array([D("0.0000001"), None]), ["1E-7", ""]),
        ("real", pa.array([1, None]), ["1", ""]),
        ("real", pa.array([-np.inf, np.inf]), ["-inf", "inf"]),
        ("boolean", pa.array([True, None, False]), ["True", "", "False"]),
        ("boolean", pa.array([1, 0, None], pa.int8()), ["1", "0", ""]),
        ("boolean", pa.array([1.0, 0.0, float("nan")]), ["1.0", "0.0", ""]),
        ("boolean", pa.array(["yes", "N", None]), ["yes", "N", ""]),
        ("categorical", pa.array(["x", None, ""]), ["x", "", ""]),
        ("categorical", pa.array(["x", None], pa.large_string()), ["x", ""]),
        ("categorical", pa.array(["x", None], pa.string_view()), ["x", ""]),
        ("categorical", pa.array([1, None, 7]), ["1", "", "7"]),
        ("categorical", pa.array(["x", None, "y", "x"]).dictionary_encode(), ["x", "", "y", "x"]),
        ("categorical", pa.array([None, None]), ["", ""]),
        ("categorical_integer", pa.array([1, None, 7]), ["1", "", "7"]),
        ("categorical_integer", pa.array([1.0, None, 7.0]).dictionary_encode(), ["1", "", "7"]),
        ("datetime", pa.array([None, None]), ["", ""]),
        ("date", pa.array([DAY(999, 1, 2), None]), ["0999-01-02", ""]),
        ("date", pa.array([DAY(1969, 1, 2), None], pa.date64()), ["1969-01-02", ""]),
        ("datetime", pa.array(["2020-01-02T03:04", None]), ["2020-01-02T03:04", ""]),
        *(
            (
                "datetime",
                pa.array([TIME(1960, 1, 2, 3, 4, 5), None], pa.timestamp(unit)),
                ["1960-01-02 03:04:05", ""],
            )
            for unit in ("s", "ms", "us", "ns")
        ),
    ],
    ids=lambda value: str(getattr(value, "type", "")) if not isinstance(value, str) else value,
)  # fmt: skip
def test_each_type_is_read_as_its_text(
    kind: str, values: Any, cells: Sequence[str], tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{cell},0\n" for cell in cells), encoding="utf-8")
    expected = read_table(path, {"a": kind}, drop=["b"])
    got = read_table(column(values, tmp_path / "t.parquet"), {"a": kind})
    pd.testing.assert_frame_equal(got, expected)


@pytest.mark.skipif(not hasattr(pa, "decimal64"), reason="of newer versions")
def test_narrow_decimals_are_read(tmp_path: Path) -> None:
    for kind in (pa.decimal32(9, 2), pa.decimal64(18, 2)):
        path = column(
            pa.array([D("1.50"), None, D("-0.25"), D("1.50")], kind), tmp_path / "t.parquet"
        )
        got = read_table(path, {"a": "real"})["a"]
        assert got.isna().tolist() == [False, True, False, False]
        assert got.dropna().tolist() == [1.5, -0.25, 1.5]


def test_twins_are_encoded_alike(tmp_path: Path) -> None:
    table = arrow_table()
    read = [
        read_table(save(table, tmp_path / "t.parquet"), SCHEMA),
        read_table(csv_twin(table, tmp_path / "t.csv"), SCHEMA),
    ]
    pd.testing.assert_frame_equal(*read)
    for encoder in (Encoding(SCHEMA), Discretization(SCHEMA)):
        np.testing.assert_array_equal(*(encoder.encode(frame) for frame in read))


@pytest.fixture
def known_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what sets the noise's random bits back: for tests that compare releases alone."""
    state = {"rng": np.random.default_rng(0)}
    monkeypatch.setattr(os, "urandom", lambda size: state["rng"].bytes(size))

    def again() -> None:
        state["rng"] = np.random.default_rng(0)

    return again


@pytest.mark.parametrize("adjacency", ["zero_out", "add_remove"])
def test_twins_are_released_alike(
    adjacency: str, tmp_path: Path, known_noise: Callable[[], None]
) -> None:
    """Row groups are no blocks of a CSV file; a release knows neither."""
    table = arrow_table()
    released = []
    for path in (
        csv_twin(table, tmp_path / "t.csv"),
        save(table, tmp_path / "t.parquet", row_group_size=7),
    ):
        known_noise()
        synthesizer = Synthesizer(SCHEMA, epsilon=1.0, delta=1e-6, adjacency=adjacency)
        released.append(synthesizer.publish(iter_table(path, SCHEMA, block_rows=25)))
    assert released[0].fingerprint == released[1].fingerprint
    assert released[0].guarantee == released[1].guarantee


def test_words_for_missing_are_cells_of_parquet_too(tmp_path: Path) -> None:
    table = pa.table({"n": [-9, 3], "x": [-9.0, 0.5], "job": ["NA", "NA"]})
    schema = Schema(
        [
            Number("n", "integer", 0, 9, nullable=True),
            Number("x", "real", 0, 1, nullable=True),
            Categorical("job", ["NA", "cook"], nullable=True),
        ]
    )
    got = read_table(save(table, tmp_path / "t.parquet"), schema, missing=("-9", "NA"))
    assert got["n"].tolist() == [pd.NA, 3]
    assert got["x"].isna().tolist() == [True, False]
    assert got["job"].tolist() == ["NA", "NA"]  # a category of its column stays one


def test_a_null_is_missing_where_an_empty_text_is_a_category(tmp_path: Path) -> None:
    schema = Schema([Categorical("job", ["", "cook"])])
    path = column(["", "cook"], tmp_path / "t.parquet", "job")
    assert read_table(path, schema)["job"].tolist() == ["", "cook"]
    (block,) = iter_table(column(["", "cook", None], path, "job"), schema)
    with pytest.raises(ValueError, match=r"'job': missing values \(the first at row 3\)"):
        schema.validate(block)
    # Nor is it a text where no cell means a missing value.
    got = read_table(path, {"job": "categorical"}, missing=())
    assert got["job"].tolist() == ["", "cook", None]


def test_rows_are_read_group_by_group(tmp_path: Path) -> None:
    path = save(arrow_table(50), tmp_path / "t.parquet", row_group_size=20)
    blocks = list(iter_table(path, SCHEMA, block_rows=15))
    assert all(len(block) <= 15 for block in blocks)
    assert [i for block in blocks for i in block.index] == list(range(1, 51))
    assert {block.index.name for block in blocks} == {"row"}
    pd.testing.assert_frame_equal(pd.concat(blocks, ignore_index=True), read_table(path, SCHEMA))
    assert count_rows(path) == 50


@reads_proc
def test_a_row_group_may_be_larger_than_memory(tmp_path: Path) -> None:
    """Most files have few: of each column one buffer is read at a time."""
    rng, rows = np.random.default_rng(0), 2_000_000
    large = pa.table({name: rng.normal(size=rows) for name in "abcdefgh"})
    save(large, tmp_path / "large", row_group_size=rows)
    save(large.slice(0, 10), tmp_path / "small")
    assert (tmp_path / "large").stat().st_size > 100e6
    code = (
        "import sys; from dpslice.tabular import iter_table\n"
        "def first(path): next(iter_table(path, dict.fromkeys('abcdefgh', 'real'), block_rows=9))\n"
        "first(sys.argv[1])\n"
        "before = peak()\n"
        "first(sys.argv[2])\n"
        "print(peak() - before)"
    )
    command = [sys.executable, "-c", PEAK + code, tmp_path / "small", tmp_path / "large"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50e6


def test_names_may_look_like_paths(tmp_path: Path) -> None:
    """To pyarrow, a.b is also the field b of a record a."""
    table = pa.table({"a.b": [1, 2], "a": [3, 4], "c": [{"b": 5}, {"b": 6}]})
    path = save(table, tmp_path / "t.parquet")
    got = read_table(path, {"a": "integer", "a.b": "integer"}, drop=["c"])
    assert got.to_numpy().tolist() == [[3, 1], [4, 2]]
    assert read_header(path) == ("a.b", "a", "c")


def test_the_content_decides(tmp_path: Path) -> None:
    """As for gzip; and a CSV file may begin with Parquet's letters."""
    table = arrow_table()
    path = save(table, tmp_path / "t.csv")
    assert len(read_table(path, SCHEMA)) == 60
    for header in ("PAR1", "PAR1,b", "PARENTS"):
        plain = tmp_path / "plain.csv"
        plain.write_text(f"{header}\n{header}\n")
        assert count_rows(plain) == 1
    with pytest.raises(ValueError, match=r"t\.parquet: not a complete Parquet file \("):
        read_table(plain.rename(tmp_path / "t.parquet"), SCHEMA)


# -------------------------------------------------------------------------- what is left unread


def test_columns_that_are_dropped_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = arrow_table().append_column("tags", pa.array([["a"]] * 60))
    path = save(table, tmp_path / "t.parquet")
    asked = []
    read = pq.ParquetFile.iter_batches

    def watched(self: Any, *args: Any, **how: Any) -> Any:
        asked.append(how["columns"])
        return read(self, *args, **how)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    read_table(path, SCHEMA, drop=["tags", "absent"])
    assert asked == [list(SCHEMA.names)]


def test_what_the_file_says_of_its_columns_does_not_matter(tmp_path: Path) -> None:
    """Minima, maxima and counts that are false, or not there, give the same table."""
    low, high = 1_234_567_890_123, 8_765_432_109_876
    table = pa.table({"n": [low, 5_000_000_000_000, None, high]})
    path = save(table, tmp_path / "t.parquet")
    expected = read_table(path, {"n": "integer"})
    raw = bytearray(path.read_bytes())
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    for end in (low, high):  # in the footer alone
        said = bytes(raw[footer:]).count(end.to_bytes(8, "little"))
        assert said
        raw[footer:] = bytes(raw[footer:]).replace(
            end.to_bytes(8, "little"), (77).to_bytes(8, "little")
        )
    path.write_bytes(raw)
    statistics = pq.ParquetFile(path).metadata.row_group(0).column(0).statistics
    assert (statistics.min, statistics.max) == (77, 77)
    pd.testing.assert_frame_equal(read_table(path, {"n": "integer"}), expected)
    bare = save(table, path, write_statistics=False, store_schema=False)
    pd.testing.assert_frame_equal(read_table(bare, {"n": "integer"}), expected)


def test_no_list_of_categories_is_taken_from_a_file(tmp_path: Path) -> None:
    """A level that no row has does not show, nor is it held against the schema."""
    cells = pd.Categorical(["cook", None, "cook"] * 500, ["never seen", "cook"])
    path = column(pa.array(cells), tmp_path / "t.parquet", "job")
    assert "never seen" in pq.read_table(path)["job"].chunk(0).dictionary.to_pylist()
    schema = Schema([SCHEMA["job"]])
    got = read_table(path, schema)
    assert got["job"].dtype == object
    assert schema.validate(got)["job"].tolist()[:3] == ["cook", None, "cook"]
    types = {"job": "categorical"}
    inferred = Schema.infer(read_table(path, types), types=types, epsilon=5, delta=1e-6)
    assert inferred["job"] == Categorical("job", ["cook"], other="cook", nullable=True)
    assert inferred.guarantee is not None
    # What is no number is no matter either, where no row has it.
    codes = pa.array(pd.Categorical(["7", None], ["none", "7"]))
    assert read_table(column(codes, path), {"a": "integer"})["a"].tolist() == [7, pd.NA]


def test_a_template_takes_names_alone(tmp_path: Path) -> None:
    path = save(arrow_table(), tmp_path / "t.parquet")
    text = succeed("schema", "template", path).stdout
    assert re.findall(r"^\[columns\.(\w+)\]$", text, re.MULTILINE) == arrow_table().column_names
    assert set(re.findall(r"^type = (.*)$", text, re.MULTILINE)) == {'""'}


# --------------------------------------------------------------------------------------- errors


# A string to Arrow, which does not look.
NO_TEXT = pa.StringArray.from_buffers(
    1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
)


def typed(values: Any) -> Callable[[Path], Path]:
    return lambda path: column(values, path)


def bytes_of(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        column([1, 2, 3], path).write_bytes(change(path.read_bytes()))
        return path

    return write


@pytest.mark.parametrize(
    ("write", "kind", "match"),
    [
        (typed([[1], [2]]), "integer", "column 'a' must hold numbers, .*; it is of type 'list<"),
        (typed([{"b": 1}]), "real", "column 'a' must hold numbers, .*; it is of type 'struct<"),
        (typed([[1]]), "categorical", r"of type 'list<.*' \(drop it, or write it as one of"),
        (typed([b"x"]), "categorical", "column 'a' must hold numbers, .*; it is of type 'binary'"),
        (typed([datetime.time(1)]), "datetime", "it is of type 'time64"),
        (typed([datetime.timedelta(1)]), "real", "it is of type 'duration"),
        (typed([1.5]), "categorical", "must hold strings or integers, .*; it is of type 'double'"),
        (typed([True]), "categorical", "must hold strings or integers, .*; it is of type 'bool'"),
        (typed([True, False]), "integer", "column 'a', row 1: must be a number .* got 'true'"),
        (typed([1.0, 1.5]), "integer", "column 'a', row 2: must be a whole number .* got '1.5'"),
        (typed([1, 2]), "boolean", "column 'a', row 2: must be true or false"),
        (typed([1, 2]), "datetime", "column 'a', row 1: must be an ISO 8601 date"),
        (
            typed(pa.array([TIME(2020, 1, 1)], pa.timestamp("us", "UTC"))),
            "datetime",
            r"column 'a', row 1: must be a time without zone .* got '2020-01-01 00:00:00.000000Z'",
        ),
        (typed(pa.array([10**13]).cast(pa.timestamp("s"))), "datetime", "row 1: must be an ISO"),
        (typed(pa.array([], pa.int64())), "integer", "the table has no rows"),
        (bytes_of(lambda raw: raw[:-1]), "integer", r"not a complete Parquet file \("),
        (bytes_of(lambda raw: raw[: len(raw) // 2]), "integer", r"not a complete Parquet file \("),
        (bytes_of(lambda raw: raw[:8]), "integer", r"not a complete Parquet file \("),
        (bytes_of(lambda raw: b""), "integer", r"not a complete Parquet file \("),
        (bytes_of(lambda raw: raw[:4] + b"\x55" + raw[5:]), "integer", r"not a complete Parquet f"),
        (
            typed(NO_TEXT),
            "categorical",
            "strings must be UTF-8 text",
        ),
    ],
)  # fmt: skip
def test_bad_files(write: Callable[[Path], Path], kind: str, match: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=match) as caught:
        read_table(path, {"a": kind})
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_rows_are_not_lost_without_a_word(tmp_path: Path) -> None:
    path = column(pa.array(range(300)), tmp_path / "t.parquet")
    raw = path.read_bytes()
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    at = raw.index(b"\x16\xd8\x04", footer)  # of all numbers that are 300, that of the file's rows
    path.write_bytes(raw[:at] + b"\x16\xda\x04" + raw[at + 3 :])
    assert pq.ParquetFile(path).metadata.num_rows == 301
    with pytest.raises(ValueError, match=r"\(it states 301 rows, and has 300\)"):
        read_table(path, {"a": "integer"})
    with pytest.raises(ValueError, match=r"\(it states 301 rows, and has 300\)"):
        count_rows(path)


def test_columns_are_held_against_the_schema(tmp_path: Path) -> None:
    path = column([1], tmp_path / "t.parquet", "Age")
    with pytest.raises(ValueError, match=r"missing from the file: 'age' \(the header has them in"):
        read_table(path, {"age": "integer"})
    with pytest.raises(ValueError, match=r"not in the schema: 'Age' \(drop them"):
        read_table(save(pa.table({"age": [1], "Age": [2]}), path), {"age": "integer"})
    twice = pa.table([pa.array([1]), pa.array([2])], names=["age", "age"])
    with pytest.raises(ValueError, match="column 'age' occurs twice"):
        read_table(save(twice, path), {"age": "integer"})


def test_rows_are_named_in_the_whole_file(tmp_path: Path) -> None:
    ages = ["1"] * 37 + ["old"] + ["2"] * 10 + ["young"]
    path = save(pa.table({"age": ages}), tmp_path / "t.parquet", row_group_size=16)
    with pytest.raises(ValueError, match=r"column 'age', row 38: .* got 'old'$"):
        list(iter_table(path, {"age": "integer"}, block_rows=10))
    # A cell that stands there again is told where it is first.
    path = column(["1", "2", "old", "1", "old"], path, "age")
    with pytest.raises(ValueError, match="column 'age', row 3: "):
        read_table(path, {"age": "integer"})


@pytest.mark.parametrize("whole", [False, True])
def test_encrypted_files(whole: bool, tmp_path: Path) -> None:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):  # type: ignore[misc, name-defined]
        def __init__(self, _: object) -> None:
            encryption.KmsClient.__init__(self)

        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

        def unwrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64decode(key)

    settings = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"k": ["a"]}, plaintext_footer=not whole
    )
    properties = encryption.CryptoFactory(Keys).file_encryption_properties(
        encryption.KmsConnectionConfig(), settings
    )
    table = pa.table({"a": [1, 2]})
    path = tmp_path / "t.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    for named in (path, path.with_name("t")):
        path.rename(named)
        path = named
        with pytest.raises(ValueError, match="must not be encrypted; decrypt the Parquet file"):
            read_table(path, {"a": "integer"})


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    raw = column([1], tmp_path / "t.parquet").read_bytes()
    code = (
        "from dpslice.tabular import read_table\n"
        "try: read_table('/dev/stdin', {'a': 'integer'})\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=raw, capture_output=True, check=True)
    assert done.stdout.decode().startswith("/dev/stdin: must be a regular file, as Parquet is read")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    """And before anything is spent, where a Parquet file is to be written."""
    table = save(arrow_table(), tmp_path / "t.parquet")
    csv_file = csv_twin(arrow_table(), tmp_path / "t.csv")
    schema = tmp_path / "s.toml"
    schema.write_text(FILE)
    common = ["--schema", str(schema), "--epsilon", "1", "--out"]
    for arguments in (
        ["schema", "check", str(schema), str(table)],
        ["release", str(table), *common, str(tmp_path / "p")],
        ["synthesize", str(csv_file), *common, str(tmp_path / "s.parquet")],
    ):
        code = (
            "import sys; sys.modules['pyarrow'] = None; sys.modules['pyarrow.parquet'] = None\n"
            f"from dpslice.cli import main; sys.exit(main({arguments!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        assert done.stderr == (
            "error: pyarrow is needed here and is not installed: pip install 'dpslice[parquet]'\n"
        )
    assert sorted(os.listdir(tmp_path)) == ["s.toml", "t.csv", "t.parquet"]


# -------------------------------------------------------------------------------------- writing


def test_written_tables_are_typed(tmp_path: Path) -> None:
    table = SCHEMA.validate(arrow_table().to_pandas(integer_object_nulls=True))
    path = tmp_path / "t.PARQUET"
    write_table(table, path)
    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert types["age"] == types["code"] == "int64"
    assert types["height"] == "double"
    assert types["job"] in ("string", "large_string")
    assert types["smoker"] == "bool"
    assert types["seen"] == "timestamp[us]"  # which all readers know, unlike nanoseconds
    pd.testing.assert_frame_equal(SCHEMA.validate(read_table(path, SCHEMA)), table)
    before = path.read_bytes()
    write_table(table, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["t.PARQUET"]


def test_a_column_without_values_is_written_as_text(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"a": [None, None], "b": [1, 2]}), tmp_path / "t.parquet")
    assert str(pq.read_schema(tmp_path / "t.parquet").field("a").type) == "string"
    assert pd.read_parquet(tmp_path / "t.parquet")["a"].tolist() == [None, None]


def test_a_table_that_parquet_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("old")
    for mixed in ([1, "x"], [object(), object()]):
        with pytest.raises(ValueError, match=r"^df must have columns of one type each, .*column a"):
            write_table(pd.DataFrame({"a": mixed}), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["t.parquet"]


# ------------------------------------------------------------------------------- the command line


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "s.toml").write_text(FILE)
    save(arrow_table(200), tmp_path / "t.parquet", row_group_size=64)
    csv_twin(arrow_table(200), tmp_path / "t.csv")
    return tmp_path


def test_commands_take_and_make_parquet(folder: Path, known_noise: Callable[[], None]) -> None:
    """And what they make of twins is the same, down to the model's rows."""
    schema, made = folder / "s.toml", []
    for kind in ("csv", "parquet"):
        known_noise()
        release, model = folder / f"{kind}.dpslice", folder / f"{kind}.pt"
        arguments = ["--schema", schema, "--epsilon", 5, "--quiet"]
        succeed("release", folder / f"t.{kind}", *arguments, "--out", release)
        succeed("train", release, "--out", model, "--steps", 3, "--quiet")
        out = folder / f"sample.{kind}"
        succeed("sample", model, "-n", 50, "--out", out, "--quiet")
        made.append(read_table(out, Schema.load(schema)))
    pd.testing.assert_frame_equal(*made)
    checked = [
        json.loads(succeed("schema", "check", schema, folder / f"t.{kind}", "--json").stdout)
        for kind in ("csv", "parquet")
    ]
    assert checked[0] == checked[1]
    assert checked[0]["n"] == 200
    assert checked[0]["outside_bounds"]["age"] > 0


def test_synthesize_and_report_on_parquet(folder: Path) -> None:
    schema, out = folder / "s.toml", folder / "synthetic.parquet"
    arguments = ["--schema", schema, "--epsilon", 5, "--steps", 3, "--quiet", "--out", out]
    succeed("synthesize", folder / "t.parquet", *arguments, "--report", folder / "r.html")
    assert len(pd.read_parquet(out)) == 200
    again = ["--schema", schema, "--out", folder / "again.html", "--quiet"]
    succeed("report", out, "--real", folder / "t.parquet", *again)
    rows = ["--method", "rows", "--amplify-by-order", "--overwrite"]
    succeed("synthesize", folder / "t.parquet", *arguments, *rows)
    assert len(pd.read_parquet(out)) == 200


def test_a_schema_is_inferred_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpslice.tabular.inference.discrete_gaussian", lambda variance: 0)
    types = folder / "types.toml"
    kinds = {column.name: column.type for column in SCHEMA} | {"code": "categorical_integer"}
    lines = [f'[columns.{name}]\ntype = "{kind}"\n' for name, kind in kinds.items()]
    types.write_text("".join(lines))
    found = []
    for kind in ("csv", "parquet"):
        out = folder / f"{kind}.toml"
        arguments = ["--types", types, "--epsilon", 50, "--out", out, "--quiet"]
        succeed("schema", "infer", folder / f"t.{kind}", *arguments)
        found.append(Schema.load(out))
    assert found[0].columns == found[1].columns
    assert set(found[0]["job"].categories) == {"cook", "none"}
    assert found[0]["code"].categories == (1, 2)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_any_row_groups_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    size, rows = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 30))
    path = tmp_path_factory.mktemp("groups") / "t.parquet"
    save(arrow_table(30), path, row_group_size=size)
    blocks = list(iter_table(path, SCHEMA, block_rows=rows))
    whole = pd.concat(blocks, ignore_index=True)
    pd.testing.assert_frame_equal(whole, read_table(path, SCHEMA))
    assert len(whole) == 30
