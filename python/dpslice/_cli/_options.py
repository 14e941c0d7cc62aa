"""Arguments and options that several commands share, and what their values are turned into."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpslice import _arrays

if TYPE_CHECKING:
    from dpslice.tabular.columns import Column
    from dpslice.tabular.schema import Schema
    from dpslice.tabular.synthesizer import MixtureOptions, TrainingOptions

# A table of n rows wants delta well below 1/n. n is not known before the table is read, so the
# default is fixed: right up to some 100,000 rows. `publish` speaks up where it is not.
DEFAULT_DELTA = 1e-6


class Adjacency(enum.StrEnum):
    """Which tables are neighbours."""

    zero_out = "zero_out"
    replace_one = "replace_one"
    add_remove = "add_remove"


class Method(enum.StrEnum):
    """Kind of release."""

    sums = "sums"
    rows = "rows"


TableArgument = Annotated[
    Path,
    typer.Argument(
        metavar="TABLE",
        help="The private table: CSV with a header line (.gz if packed), or Parquet.",
    ),
]
SchemaOption = Annotated[
    Path, typer.Option("--schema", help="Schema file: TOML, or SDV metadata in JSON.")
]
EpsilonOption = Annotated[
    float, typer.Option("--epsilon", help="Privacy loss allowed for the release, > 0.")
]
DeltaOption = Annotated[
    float,
    typer.Option(
        "--delta",
        help="Probability of a larger loss. Choose it well below 1 / number of rows; the default "
        "suits tables of up to some 100,000 rows.",
    ),
]
AdjacencyOption = Annotated[
    Adjacency,
    typer.Option(
        "--adjacency",
        help="What epsilon protects: zero_out, that one person's row holds data or is blank; "
        "replace_one (stronger), which of all possible rows it is; the number of rows is public. "
        "add_remove, for sums: that the row is in the table at all.",
    ),
]
RowsPerPersonOption = Annotated[
    int,
    typer.Option(
        "--rows-per-person",
        help="Rows that one person has at most, a public number: epsilon protects all of them "
        "together, with more noise.",
    ),
]
PersonOption = Annotated[
    str | None,
    typer.Option(
        "--person",
        metavar="COLUMN",
        help="Column of the private table that tells whose a row is. Of each person, rows beyond "
        "the first --rows-per-person are left out; the column is not used otherwise.",
    ),
]
MethodOption = Annotated[
    Method,
    typer.Option(
        "--method",
        help="What is released: sums, noisy counts of all columns and pairs of columns (the best "
        "synthetic tables); or rows, one noisy row per row, for any loss and generator.",
    ),
]
RoundsOption = Annotated[
    int,
    typer.Option(
        "--rounds",
        help="Rounds, of method sums: in each a model is fitted, and the tables of three columns "
        "that it fits worst are counted too, within the same epsilon. Default: none.",
    ),
]
OrderOption = Annotated[
    bool,
    typer.Option(
        "--amplify-by-order",
        help="Of method rows: count on the secret random order of the released rows, which takes "
        "less noise where epsilon is small and rows are many: of ten thousand, below some 2, or 4 "
        "under replace_one. The table is read twice, to count its rows.",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        help="Seed of the public randomness (frame, training, samples), never of the noise.",
    ),
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", help="Training steps. Default: the library's choice.")
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", help="Rows per training step, of method rows. Default: as above."),
]
ModelsOption = Annotated[
    int | None,
    typer.Option(
        "--models",
        help="Of method sums: models fitted from different starts, whose union is the result. "
        "Default: 1.",
    ),
]
SeparatorOption = Annotated[
    str,
    typer.Option(
        "--separator",
        help="Character between the cells of the real tables that are CSV, or the word tab. What "
        "is written has commas.",
    ),
]
MissingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        metavar="CELL",
        help="Cell of the real tables that means a missing value, beside the empty one; may be "
        "given several times. In Parquet, a number -9.0 is the cell -9.",
    ),
]
EncodingOption = Annotated[
    str,
    typer.Option(
        "--encoding",
        help="Text encoding of the real tables that are CSV, such as latin-1 or utf-16. What is "
        "written is UTF-8.",
    ),
]
DropOption = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        metavar="COLUMN",
        help="Column of the real tables that is not read, such as names and numbers of persons; "
        "may be given several times.",
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist already.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write the answer to standard output as JSON.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bars, remarks or summary; errors only.")
]


def load_schema(path: Path, *, target: str | None = None) -> Schema:
    from dpslice.tabular.schema import Schema

    schema = Schema.load(path)
    return schema if target is None else dataclasses.replace(schema, target=target)


def reading(
    separator: str, missing: Sequence[str] | None, encoding: str, drop: Sequence[str] | None
) -> dict[str, Any]:
    """Return how real tables are to be read: arguments of `read_table`."""
    return {
        **reading_header(separator, encoding, drop),
        "missing": ("", *(missing or ())),
    }


def reading_header(separator: str, encoding: str, drop: Sequence[str] | None) -> dict[str, Any]:
    """Return how their header lines are to be read: arguments of `read_header`."""
    return {
        "separator": "\t" if separator == "tab" else separator,
        "encoding": encoding,
        "drop": tuple(drop or ()),
    }


def private_table(
    path: Path,
    columns: Schema | Mapping[str, str | Column],
    *,
    person: str | None,
    rows_per_person: int,
    whole: bool = False,
    counted: bool = False,
    **how: Any,
) -> tuple[Any, int | None]:
    """Read the private table, whole or in pieces, and no more of a person's rows than said.

    Returns it and, if its rows are to be counted before a release, their number.
    """
    from dpslice.tabular.files import columns_of, count_rows, iter_table, read_table
    from dpslice.tabular.people import limit_rows_per_person

    if person is None:
        if whole:
            return read_table(path, columns, **how), None  # which tells its length
        n = None
        if counted:
            n = count_rows(path, separator=how["separator"], encoding=how["encoding"])
        return iter_table(path, columns, **how), n
    named = columns_of(columns)
    if person in named or person in how["drop"]:
        raise ValueError(
            "--person must name a column that is neither in the schema nor dropped; got "
            f"{_arrays.describe(person)}"
        )
    pieces = iter_table(path, {**named, person: "categorical"}, **how)
    kept = limit_rows_per_person(pieces, person, rows_per_person)
    if not (whole or counted):
        return kept, None
    import pandas as pd

    return pd.concat(kept, ignore_index=True), None


def training_options(
    method: str, steps: int | None, batch_size: int | None, models: int | None
) -> MixtureOptions | TrainingOptions:
    from dpslice.tabular.synthesizer import MixtureOptions, TrainingOptions

    given: dict[str, Any] = {}
    if steps is not None:
        given["steps"] = _arrays.positive_integer("steps", steps)
    if batch_size is not None:
        if method != "rows":
            raise ValueError("--batch-size is for --method rows: sums are fitted as a whole")
        given["batch_size"] = _arrays.positive_integer("batch_size", batch_size)
    if models is not None:
        if method != "sums":
            raise ValueError("--models is for --method sums")
        given["models"] = _arrays.positive_integer("models", models)
    return TrainingOptions(**given) if method == "rows" else MixtureOptions(**given)


def check_rows(rows: int) -> None:
    from dpslice.tabular.synthesizer import MOST_ROWS

    if _arrays.integer("rows", rows, minimum=1) > MOST_ROWS:
        raise ValueError(
            f"rows must be at most {MOST_ROWS:,}; got {_arrays.describe(rows)}: draw more in "
            "several runs, each with a --seed of its own"
        )
