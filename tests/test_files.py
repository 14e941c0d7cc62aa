"""CSV files: typed reading, atomic writing, and one clear error for each way a file can be bad."""

from __future__ import annotations

import bz2
import datetime
import errno
import gzip
import io
import lzma
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from dpslice._storage import FileKeptError, replacing
from dpslice.tabular import (
    Boolean,
    Categorical,
    Datetime,
    Number,
    Schema,
    iter_table,
    read_table,
    write_table,
)
from dpslice.tabular.files import cell_value, count_rows, read_header
from table_strategies import schemas, tables

SCHEMA = Schema(
    [
        Number("age", "integer", 0, 100, nullable=True),
        Number("height", "real", 0, 3, nullable=True),
        Categorical("job", ["NA", "?", "clerk, senior"], nullable=True),
        Categorical("code", [1, 2]),
        Boolean("smoker", nullable=True),
        Datetime("seen", "2020-01-01", "2021-12-31", nullable=True),
    ]
)
HEADER = "age,height,job,code,smoker,seen\n"


def write(path, text):
    path.write_bytes(text.encode())
    return path


def test_types_come_from_the_schema(tmp_path):
    path = write(
        tmp_path / "t.csv",
        "\ufeffseen,job,age,height,code,smoker\r\n"
        '2020-05-06,"clerk, senior",30,1.5,1,True\r\n'
        "2020-05-07T10:00:00,NA,,,2,\r\n"
        "\r\n"
        ",,41.0,2e0,1.0,0\r\n",
    )
    got = read_table(path, SCHEMA)
    assert tuple(got.columns) == SCHEMA.names
    assert got["age"].tolist() == [30, pd.NA, 41]
    assert got["height"].fillna(-1).tolist() == [1.5, -1, 2.0]
    assert got["job"].tolist() == ["clerk, senior", "NA", None]
    assert got["code"].tolist() == [1, 2, 1]
    assert got["smoker"].tolist() == [True, pd.NA, False]
    assert got["seen"].tolist()[:2] == [
        pd.Timestamp("2020-05-06"),
        pd.Timestamp("2020-05-07 10:00"),
    ]
    assert pd.isna(got["seen"][2])
    SCHEMA.validate(got)


def test_types_may_be_given_alone(tmp_path):
    path = write(tmp_path / "t.csv", "a,b,c\n1,x,2020-01-02\n")
    got = read_table(path, {"b": "categorical", "a": "real", "c": "date"})
    assert list(got.columns) == ["b", "a", "c"]
    assert got["a"].dtype == np.float64
    assert got["c"][0] == pd.Timestamp("2020-01-02")
    with pytest.raises(ValueError, match="type of column 'a' must be one of"):
        read_table(path, {"a": "number"})


def test_words_for_missing_are_the_caller_s(tmp_path):
    path = write(tmp_path / "t.csv", HEADER + "NA,NA,NA,1,NA,NA\n")
    got = read_table(path, SCHEMA, missing=("", "NA"))
    assert got["job"].tolist() == ["NA"]  # a category of its column stays one
    assert got[["age", "height", "smoker", "seen"]].isna().to_numpy().all()


def test_the_separator_is_the_caller_s(tmp_path):
    comma = write(tmp_path / "comma.csv", HEADER + '3,1.5,"?",1,true,2020-05-06\n')
    for separator in (";", "\t", "|", " "):
        path = write(tmp_path / "t.csv", comma.read_text().replace(",", separator))
        pd.testing.assert_frame_equal(
            read_table(path, SCHEMA, separator=separator), read_table(comma, SCHEMA)
        )
        assert read_header(path, separator=separator) == read_header(comma)
    with pytest.raises(ValueError, match="as if separated by commas, not by semicolons"):
        read_table(comma, SCHEMA, separator=";")
    for wrong in ("", ";;", '"', "\n", None):
        with pytest.raises(ValueError, match="separator must be one character"):
            read_table(comma, SCHEMA, separator=wrong)


def test_messages_tell_which_cells_are_missing_values(tmp_path):
    path = write(tmp_path / "t.csv", "a\nold\n")
    for missing, words in (
        (("",), "an empty cell is a missing value, others must be named"),
        (("NA", ""), "missing values: an empty cell, 'NA'"),
        (("NA",), "missing values: 'NA'"),
        ((), "no cell is a missing value"),
    ):
        with pytest.raises(ValueError, match=rf"must be a number \({words}\); got 'old'$"):
            read_table(path, {"a": "real"}, missing=missing)


def test_the_encoding_is_the_caller_s(tmp_path):
    text = "a;b\nMálaga;1\n"
    expected = pd.DataFrame({"a": pd.Series(["Málaga"], dtype=object), "b": [1]})
    for encoding in ("utf-8", "UTF8", "latin-1", "cp1252", "utf-16", "utf-16-be"):
        path = write_bytes(tmp_path / "t.csv", text.encode(encoding))
        how = {"separator": ";", "encoding": encoding}
        got = read_table(path, {"a": "categorical", "b": "integer"}, **how)
        pd.testing.assert_frame_equal(got, expected)
        assert read_header(path, **how) == ("a", "b")
        assert count_rows(path, **how) == 1
    marked = write_bytes(tmp_path / "t.csv", text.encode("utf-8-sig"))
    assert read_header(marked, separator=";", encoding="utf-8") == ("a", "b")
    utf16 = write_bytes(tmp_path / "t.csv", text.encode("utf-16"))
    with pytest.raises(
        ValueError, match=r"must be UTF-8 text .*; give its encoding, such as utf-16"
    ):
        read_header(utf16)
    with pytest.raises(ValueError, match=r"must be utf-16 text .* near line 1\)"):
        read_header(write(tmp_path / "t.csv", text), encoding="utf-16")
    for wrong in ("latin-15", "base64", "undefined", "a\0b"):
        with pytest.raises(ValueError, match="encoding must be a text encoding that Python knows"):
            read_header(marked, encoding=wrong)
    with pytest.raises(TypeError, match="encoding must be a string; got None"):
        read_header(marked, encoding=None)


def test_columns_are_dropped(tmp_path):
    path = write(tmp_path / "t.csv", "id,a,note,b\nP1,1,x,2\n")
    types = {"b": "integer", "a": "integer"}
    with pytest.raises(ValueError, match=r"not in the schema: 'id', 'note' \(drop them"):
        read_table(path, types)
    got = read_table(path, types, drop=("note", "id", "absent"))
    pd.testing.assert_frame_equal(got, pd.DataFrame({"b": [2], "a": [1]}))
    assert read_header(path, drop=["id"]) == ("a", "note", "b")
    with pytest.raises(ValueError, match="drop must name columns that the schema lacks; got 'a'"):
        read_table(path, types, drop=["a"])
    with pytest.raises(TypeError, match="drop must be a sequence; got str 'id'"):
        read_table(path, types, drop="id")


def test_all_columns_with_bad_cells_are_told_at_once(tmp_path):
    names = ["a", "b", "c", "d", "e", "f"]
    path = write(tmp_path / "t.csv", ",".join(names) + "\n1,1,1,1,1,1\nu,1,w,x,y,z\n")
    with pytest.raises(ValueError, match="column 'a', about line 3: must be a number") as caught:
        read_table(path, dict.fromkeys(names, "real"))
    message = str(caught.value)
    assert message.endswith("got 'x'; and such cells in 'e', 'f'")
    assert "column 'c', about line 3" in message
    assert "'b'" not in message


def test_booleans_are_read_in_the_usual_words(tmp_path):
    for words in ("True,false", "t,F", "Yes,no", "Y,n", "1,0", "1.0,0.0"):
        path = write(tmp_path / "t.csv", f"a,b\n{words}\n")
        got = read_table(path, {"a": "boolean", "b": "boolean"})
        assert got.iloc[0].tolist() == [True, False]


def test_an_empty_text_may_be_a_category(tmp_path):
    schema = Schema([Categorical("a", ["", "x"]), Boolean("b")])
    path = write(tmp_path / "t.csv", "a,b\n,1\nx,0\n")
    assert read_table(path, schema)["a"].tolist() == ["", "x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (HEADER, "the table has no rows, only a header"),
        ("age,height\n1,2\n", "missing from the file: 'job', 'code', 'smoker', 'seen'$"),
        ("age;height;job;code;smoker;seen\n", "as if separated by semicolons, not by commas"),
        ("age\theight\tjob\tcode\tsmoker\tseen\n", "as if separated by tabs"),
        ("Age,Height,job,code,smoker,seen\n", "in other letters, small or capital"),
        ("age, height, job, code, smoker, seen\n", "has them with spaces around the name"),
        (HEADER.strip() + ",name\n", "not in the schema: 'name'"),
        (HEADER.strip() + ",age\n", "column 'age' occurs twice in the header"),
        (HEADER + "1,2,?,1,1,\n1,2,?,1,1\n", r"line 3: 5 cell\(s\), but the header has 6"),
        (HEADER + "1,2,?,1,1,,7\n", r"line 2: 7 cell\(s\), but the header has 6"),
        (HEADER + '1,2,"?,1,1,\n', "line 2: unexpected end of data"),
        (HEADER + "1,2,?,1,1,\nold,2,?,1,1,\n", "column 'age', about line 3: .* got 'old'"),
        (HEADER + "1.5,2,?,1,1,\n", "column 'age', about line 2: must be a whole number"),
        (HEADER + "inf,2,?,1,1,\n", "column 'age', about line 2: must be a whole number"),
        (HEADER + "1_0,2,?,1,1,\n", "column 'age', about line 2: must be a number"),
        (HEADER + "1,nan,?,1,1,\n", "column 'height', about line 2: must be a number"),
        (HEADER + '1,"1,234",?,1,1,\n', "a decimal point and nothing between thousands"),
        (HEADER + '1,"0,5",?,1,1,\n', "a decimal point and nothing between thousands"),
        (HEADER + "1,50 %,?,1,1,\n", "must be a number alone, without a unit or sign"),
        (HEADER + "1,$5,?,1,1,\n", "must be a number alone, without a unit or sign"),
        (HEADER + "1,2,?,1,maybe,\n", "column 'smoker', about line 2: must be true or false, t/f"),
        (HEADER + "1,2,?,1,1,06/05/2020\n", "column 'seen', about line 2: must be an ISO 8601"),
        (HEADER + "1,2,?,1,1,2020-01-01T00:00Z\n", "column 'seen', .* time without zone"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path, SCHEMA)
    assert str(path) in str(caught.value)


def test_other_encodings_and_files_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes((HEADER + "1,2,é,1,1,\n").encode("latin-1"))
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        read_table(path, SCHEMA)
    with pytest.raises(ValueError, match="not a complete gzip file"):
        read_table(path.rename(tmp_path / "t.csv.gz"), SCHEMA)
    packed = gzip.compress((HEADER + "1,2,?,1,1,\n" * 99).encode())
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-20])
    with pytest.raises(ValueError, match="not a complete gzip file"):
        read_table(tmp_path / "cut.csv.gz", SCHEMA)
    damaged = bytearray(packed)
    damaged[10] |= 0b110  # a kind of block that does not exist
    with pytest.raises(ValueError, match="not a complete gzip file"):
        read_table(write_bytes(tmp_path / "damaged.csv.gz", damaged), SCHEMA)
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        read_table(write_bytes(tmp_path / "picture.csv", b"\x89PNG\r\n\x1a\n"), SCHEMA)
    for content, called in (
        (b"PK\x03\x04...", "a ZIP archive or an Excel workbook"),
        (bz2.compress(b"age\n"), "packed by bzip2: unpack it"),
        (lzma.compress(b"age\n"), "packed by xz: unpack it"),
    ):
        with pytest.raises(
            ValueError, match=f"must be a CSV or Parquet file; this one is {called}"
        ):
            read_table(write_bytes(tmp_path / "other.csv", content), SCHEMA)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv", SCHEMA)


def test_gzip_is_recognised_by_its_content(tmp_path):
    packed = gzip.compress((HEADER + "1,2,?,1,1,\n").encode())
    frames = [
        read_table(write_bytes(tmp_path / name, packed), SCHEMA)
        for name in ("t.csv.gz", "t.csv", "t.CSV.GZ", "t")
    ]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])
    assert count_rows(tmp_path / "t.csv") == 1
    write_table(frames[0], tmp_path / "u.GZ")
    assert gzip.decompress((tmp_path / "u.GZ").read_bytes()).startswith(b"age,")


def test_blank_lines_of_one_column_are_empty_cells(tmp_path):
    schema = Schema([Number("age", "integer", 0, 100, nullable=True)])
    path = write(tmp_path / "t.csv", "age\n1\n\n3\n\r\n\n")
    assert read_table(path, schema)["age"].tolist() == [1, pd.NA, 3, pd.NA, pd.NA]
    assert count_rows(path) == 5
    assert len(read_table(write(path, "age\n1\n"), schema)) == 1
    assert len(read_table(write(path, "age\n1"), schema)) == 1
    strict = Schema([Number("age", "integer", 0, 100)])
    (block,) = iter_table(write(path, "age\n1\n\n"), strict)
    with pytest.raises(ValueError, match=r"'age': missing values \(the first at line 3\), but"):
        strict.validate(block)


def test_messages_name_the_line_of_the_file(tmp_path):
    path = write(
        tmp_path / "t.csv",
        HEADER
        + '1,2,"clerk,\nsenior",1,1,\n\n'  # lines 2 to 4
        + "1,2,?,1,1,\n" * 3  # lines 5 to 7
        + "1,inf,?,,1,\n" * 3,  # lines 8 to 10
    )
    blocks = list(iter_table(path, SCHEMA, block_rows=3))
    assert [list(block.index) for block in blocks] == [[2, 5, 6], [7, 8, 9], [10]]
    for name, block, line, message in (
        ("job", 0, 2, "not among the schema's categories: 'clerk,.nsenior'"),
        ("height", 1, 8, "holds infinite values"),
        ("code", 1, 8, "missing values"),
        ("code", 2, 10, "missing values"),
    ):
        column = SCHEMA[name]
        with pytest.raises(ValueError, match=rf"{message} \(the first at line {line}\)[;,]"):
            column.to_numbers(blocks[block][name])
    frame = read_table(path, SCHEMA)
    with pytest.raises(ValueError, match="the first at index 0"):
        SCHEMA["job"].to_numbers(frame["job"])
    frame.index = ["Ann", "Bob", *"abcde"]
    with pytest.raises(ValueError, match="senior'; add them") as caught:
        SCHEMA["job"].to_numbers(frame["job"])
    assert "Ann" not in str(caught.value)


def test_long_cells_are_shortened_in_messages(tmp_path):
    for cells in (f"{'x' * 3000},2,?,1,1,", f"1,2,?,1,{'x' * 3000},"):
        path = write(tmp_path / "t.csv", f"{HEADER}{cells}\n")
        with pytest.raises(ValueError, match=r"about line 2: .*; got 'x{76}\.\.\.$"):
            read_table(path, SCHEMA)
    with pytest.raises(ValueError, match=r"got 'x{76}\.\.\.$"):
        cell_value(SCHEMA["age"], "x" * 3000)


@pytest.mark.parametrize("digits", [18, 19, 25, 300, 400, 4000, 5000])
def test_integers_of_any_length_are_clipped(tmp_path, digits):
    schema = Schema([Number("age", "integer", 0, 100, nullable=True)])
    path = write(tmp_path / "t.csv", f'age\n{"9" * digits}\n-{"9" * digits}\n7\n""\n')
    frame = read_table(path, schema)
    assert schema.validate(frame)["age"].tolist() == [100, 0, 7, pd.NA]


def write_bytes(path, data):
    path.write_bytes(data)
    return path


def test_blocks_join_to_the_whole(tmp_path):
    rows = "".join(f"{i},{i / 8},?,1,1,2020-01-0{i + 1}\n" for i in range(5))
    path = write(tmp_path / "t.csv", HEADER + rows)
    blocks = list(iter_table(path, SCHEMA, block_rows=2))
    assert [len(b) for b in blocks] == [2, 2, 1]
    whole = read_table(path, SCHEMA)
    pd.testing.assert_frame_equal(pd.concat(blocks, ignore_index=True), whole)
    with pytest.raises(ValueError, match="block_rows must be an integer >= 1"):
        next(iter_table(path, SCHEMA, block_rows=0))


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_written_tables_are_read_back(tmp_path, name):
    table = SCHEMA.validate(
        pd.DataFrame(
            {
                "age": [1, None],
                "height": [0.1, None],
                "job": ["clerk, senior", None],
                "code": [1, 2],
                "smoker": [True, None],
                "seen": [datetime.date(2020, 5, 6), None],
            }
        )
    )
    write_table(table, tmp_path / name)
    pd.testing.assert_frame_equal(SCHEMA.validate(read_table(tmp_path / name, SCHEMA)), table)
    before = (tmp_path / name).read_bytes()
    write_table(table, tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert os.listdir(tmp_path) == [name]


@given(schemas().flatmap(lambda s: tables(s).map(lambda t: (s, s.validate(t)))))
@settings(deadline=None)
def test_any_table_survives_a_file(tmp_path_factory, pair):
    schema, table = pair
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    write_table(table, path)
    pd.testing.assert_frame_equal(schema.validate(read_table(path, schema)), table)


@pytest.mark.parametrize("dtype", ["object", "string", "category"])
def test_carriage_returns_survive_a_file(tmp_path, dtype):
    """Of columns of any type, and behind a NUL, up to which pandas compares texts."""
    for texts in (["a", "b\rc"], ["a\0b", "a\0\r"]):
        values = pd.Series(pd.Categorical.from_codes([0, 1], texts)).astype(dtype)
        write_table(pd.DataFrame({"job": values, "age": [1, 2]}), tmp_path / "t.csv")
        back = read_table(tmp_path / "t.csv", {"job": "categorical", "age": "integer"})
        assert back["job"].tolist() == texts


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = write(tmp_path / "t.csv", "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(pd.DataFrame({"a": [1]}), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.parametrize("refused", [False, True])
def test_the_directory_is_flushed_once_the_file_has_its_name(tmp_path, monkeypatch, refused):
    """And where the system flushes no directories, the file is written all the same."""
    path = write(tmp_path / "t.csv", "old")
    flush, flushed = os.fsync, []

    def watched(descriptor):
        directory = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        flushed.append((directory, path.read_text()))
        if directory and refused:
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_table(pd.DataFrame({"a": [1]}), path)
    assert flushed == [(False, "old"), (True, "a\n1\n")]
    assert path.read_text() == "a\n1\n"
    assert os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, mode):
    """From the first byte on: it may have been a report, which is for the data holder alone."""
    path = write(tmp_path / "t.csv", "old")
    path.chmod(mode)
    with replacing(path) as handle:
        assert os.fstat(handle.fileno()).st_mode & 0o777 == mode
        handle.write(b"new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", mode)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("name", "beside"),
    [("t.csv", "t-{}.csv"), ("t.csv.gz", "t-{}.csv.gz"), (".t", ".t-{}"), ("v 1.2", "v 1-{}.2")],
)
def test_a_file_that_appears_is_kept_and_the_new_one_is_beside_it(
    tmp_path, monkeypatch, links, name, beside
):
    """On file systems without links, too."""

    def refused(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", refused)
    with replacing(tmp_path / name, overwrite=False) as handle:
        handle.write(b"first")
    for i in (1, 2):
        place = tmp_path / beside.format(i)
        said = f"{tmp_path / name} exists already and is kept; what .* is in {place}$"
        with (
            pytest.raises(FileKeptError, match=said) as caught,
            replacing(tmp_path / name, overwrite=False) as handle,
        ):
            handle.write(b"new")
        assert caught.value.beside == place
        assert place.read_text() == "new"
    assert (tmp_path / name).read_text() == "first"
    assert len(os.listdir(tmp_path)) == 3
    with pytest.raises(TypeError, match="overwrite must be True or False; got 'no'"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / name, overwrite="no")


def test_an_interrupt_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "t.csv", "old")

    def interrupted():
        with replacing(path) as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["t.csv"]


def test_only_frames_are_written(tmp_path):
    with pytest.raises(TypeError, match=r"df must be a pandas DataFrame; got list$"):
        write_table([["secret"]], tmp_path / "t.csv")


def test_a_place_that_can_hold_no_file_is_named(tmp_path):
    """Not the temporary name beside it, and before anything is made."""
    table = pd.DataFrame({"a": [1]})
    with pytest.raises(IsADirectoryError, match=f"^{tmp_path} is a directory"):
        write_table(table, tmp_path)
    absent = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match=f"^there is no directory {absent} to save t.csv"):
        write_table(table, absent / "t.csv")
    assert os.listdir(tmp_path) == []


def test_whole_numbers_are_written_as_such(tmp_path):
    table = pd.DataFrame(
        {
            "whole": [0.0, 38700.0, np.nan, -5.0],
            "fine": [0.5, 2.0, np.nan, 1.0],
            "large": [2.0**53, 1.0, 0.0, 1.0],
            "gone": [np.nan] * 4,
        }
    )
    path = tmp_path / "t.csv"
    write_table(table, path)
    assert path.read_text(encoding="utf-8").splitlines() == [
        "whole,fine,large,gone",
        "0,0.5,9007199254740992.0,",
        "38700,2.0,1.0,",
        ",,0.0,",
        "-5,1.0,1.0,",
    ]
    back = read_table(path, dict.fromkeys(table.columns, "real"))
    pd.testing.assert_frame_equal(back, table)


def test_arguments_of_other_kinds_are_refused(tmp_path):
    """A word is no list of its letters, of which some may be cells of the table."""
    path = write(tmp_path / "t.csv", "job\nA\n")
    with pytest.raises(TypeError, match="missing must be a sequence; got str 'NA'"):
        read_table(path, {"job": "categorical"}, missing="NA")
    with pytest.raises(TypeError, match="schema must be a Schema, or a mapping"):
        read_table(path, ["job"])
    assert read_table(path, {"job": "categorical"}, missing={"NA", ""})["job"].tolist() == ["A"]
    for other in (3, None, io.BytesIO(b"job\nA\n")):
        with pytest.raises(TypeError, match="path must be a string or a path; got"):
            read_table(other, {"job": "categorical"})
