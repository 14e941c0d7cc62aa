"""``dpslice schema``: schema files, as templates, inferred from data, and checked."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpslice import _arrays
from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import (
    DEFAULT_DELTA,
    Adjacency,
    AdjacencyOption,
    DeltaOption,
    DropOption,
    EncodingOption,
    JsonOption,
    MissingOption,
    OverwriteOption,
    PersonOption,
    QuietOption,
    RowsPerPersonOption,
    SeparatorOption,
    TableArgument,
    load_schema,
    private_table,
    reading,
    reading_header,
)
from dpslice._cli._outputs import STANDARD_OUTPUT, check_outputs, telling

if TYPE_CHECKING:
    from dpslice.accounting import Guarantee
    from dpslice.tabular.columns import Column

schema_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make and check schema files.",
)
app.add_typer(schema_app, name="schema")


@schema_app.command(
    "template", epilog=examples("dpslice schema template people.csv --out people.toml")
)
def schema_template(
    table: TableArgument,
    out: Annotated[
        str, typer.Option("--out", help="Schema file to write; - is standard output.")
    ] = "-",
    separator: SeparatorOption = ",",
    encoding: EncodingOption = "utf-8",
    drop: DropOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a schema file to fill in, with a table's column names.

    Reads the header line alone, or the names of a Parquet file: column names are public, values
    are not looked at, nor what else the file says of its columns.
    """
    path = None if out == "-" else Path(out)
    check_outputs({"--out": path}, [table], overwrite=overwrite, hint=STANDARD_OUTPUT)
    from dpslice._storage import replacing
    from dpslice.tabular.files import read_header

    text = _template(read_header(table, **reading_header(separator, encoding, drop))).encode()
    if path is None:
        if sys.stdout is None:
            raise ValueError("standard output is closed: open it, or name a file by --out")
        with telling():
            sys.stdout.buffer.write(text)  # UTF-8, as schema files are, whatever the locale's is
        return
    with replacing(path, overwrite=overwrite) as handle:
        handle.write(text)


_TEMPLATE_HEAD = """\
# Fill in each column from public knowledge: a survey's codebook, the law, common sense. Never
# from the data; what only the data can tell, `dpslice schema infer` pays for with privacy budget.
#
#   type = "integer"      or "real": min and max, beyond which values are clipped;
#                         special = [0] for values that are states of their own;
#                         scale = "log" for a heavy tail; step = 100 if recorded in hundreds
#   type = "categorical"  categories = ["a", "b"]; other = "b" takes values that are not listed
#   type = "boolean"
#   type = "datetime"     min = 2019-01-01, max = 2024-12-31
#   nullable = true       if values may be missing
#
# What no row can be, whatever the data: [[impossible]] tables at the end of the file, such as
#
#   [[impossible]]
#   age = { max = 15 }    or a value, a list of values, { not = "a" }, { missing = true }
#   married = true

"""


def _template(names: Sequence[str]) -> str:
    from dpslice.tabular import _toml

    return _TEMPLATE_HEAD + _toml.dumps({"columns": {name: {"type": ""} for name in names}})


@schema_app.command(
    "infer",
    epilog=examples(
        "dpslice schema infer people.csv --types types.toml --epsilon 0.5 --out people.toml"
    ),
)
def schema_infer(
    table: TableArgument,
    types: Annotated[
        Path,
        typer.Option(
            "--types",
            help="Public types of the columns: a TOML file like a schema in which bounds and "
            "categories may be left out, or SDV metadata in JSON. Types are those of a schema and, "
            "where those are left out, date (datetimes of whole days) and categorical_integer; "
            "columns may have missing values unless nullable = false.",
        ),
    ],
    epsilon: Annotated[
        float, typer.Option("--epsilon", help="Privacy loss allowed for the schema alone, > 0.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Schema file to write.")],
    delta: DeltaOption = DEFAULT_DELTA,
    adjacency: AdjacencyOption = Adjacency.zero_out,
    rows_per_person: RowsPerPersonOption = 1,
    person: PersonOption = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Target column to note in the schema.")
    ] = None,
    separator: SeparatorOption = ",",
    missing: MissingOption = None,
    encoding: EncodingOption = "utf-8",
    drop: DropOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Estimate bounds and categories from a private table.

    This spends the stated share of the privacy budget.

    The cost is written into the schema file; every release made with it adds it to its own
    guarantee. Columns that are described completely cost nothing. Where nothing stands out from
    the noise in some columns, the file keeps what was found in the others, for another run.

    The types file says ``type`` for each ``[columns.<name>]``; what else it says counts as
    public.
    """
    check_outputs({"--out": out}, [table, types], overwrite=overwrite)
    from dpslice._storage import FileKeptError
    from dpslice.tabular.inference import InferenceError
    from dpslice.tabular.schema import Schema

    kinds, nullable, prior, noted, rules = _read_types(types)
    how = reading(separator, missing, encoding, drop)
    how |= {"person": person, "rows_per_person": rows_per_person}
    frame, _ = private_table(table, kinds, whole=True, **how)
    target = noted if target is None else target
    try:
        inferred = Schema.infer(
            frame,
            epsilon=epsilon,
            delta=delta,
            types=kinds,
            adjacency=adjacency.value,
            nullable=nullable,
            target=target,
            prior=prior,
            impossible=rules,
            rows_per_person=rows_per_person,
        )
    except InferenceError as error:
        # Paid for: not to be lost.
        kept = f"What was found in other columns, and what it has cost, is in {out}"
        try:
            error.save_types(out, target=target, overwrite=overwrite)
        except FileKeptError as beside:
            kept = f"What was found in other columns, and what it has cost: {beside}"
        error.add_note(f"{kept}: describe these there, or give it as --types with more epsilon.")
        raise
    inferred.save(out, overwrite=overwrite)
    cost = inferred.guarantee
    with telling(out):
        if json:
            _console.print_json(
                {
                    "command": "schema infer",
                    "file": str(out),
                    "columns": len(inferred),
                    "guarantee": None if cost is None else cost.to_dict(),
                }
            )
        elif not quiet:
            if cost is None:
                print("every column was described completely: the schema cost nothing")
            else:
                print(cost)
            print(f"written: {out}")


_Types = tuple[dict[str, "str | Column"], list[str], "Guarantee | None", "str | None", Any]


def _read_types(path: Path) -> _Types:
    """Types for `Schema.infer`, columns that may have missing values, what is spent, target, rules.

    The file may be a schema that was itself inferred, some of its columns to be done again: what it
    has cost is not undone by that.
    """
    from dpslice.tabular._documents import read_document
    from dpslice.tabular.sdv import sdv_types

    document, is_sdv = read_document(path)
    try:
        if not is_sdv:
            return _types_of(document)
        sdv: dict[str, str | Column] = dict(sdv_types(document))
    except (TypeError, ValueError) as error:  # in a file, a wrong kind of value is wrong content
        raise ValueError(f"{path}: {error}") from error
    return sdv, list(sdv), None, None, ()


def _types_of(document: Mapping[str, Any]) -> _Types:
    from dpslice.tabular._documents import DOCUMENT_KEYS, read_guarantee, table_keys
    from dpslice.tabular.inference import checked_rules
    from dpslice.tabular.schema import Schema

    unknown = [key for key in document if key not in DOCUMENT_KEYS]
    if unknown:
        raise ValueError(
            "must have the tables [columns.<name>], [table], [[impossible]] and [guarantee] "
            f"alone; got {unknown[0]!r}"
        )
    tables = document.get("columns")
    if not isinstance(tables, Mapping) or not tables:
        raise ValueError("must have a table [columns.<name>] for each column")
    kinds: dict[str, str | Column] = {}
    nullable = []
    for name, keys in tables.items():
        if isinstance(keys, Mapping) and "type" in keys and set(keys) <= {"type", "nullable"}:
            kinds[name] = _arrays.text(f"column {name!r}: type", keys["type"])
            may_miss = _arrays.boolean(f"column {name!r}: nullable", keys.get("nullable", True))
        else:
            kinds[name] = described = Schema.from_dict({"columns": {name: keys}}).columns[0]
            may_miss = described.nullable
        if may_miss:
            nullable.append(name)
    # Now, while it is known which file they are of.
    rules = checked_rules(document.get("impossible"), kinds, nullable)
    return kinds, nullable, read_guarantee(document), table_keys(document).get("target"), rules


@schema_app.command("check", epilog=examples("dpslice schema check people.toml people.csv"))
def schema_check(
    schema: Annotated[
        Path,
        typer.Argument(metavar="SCHEMA", help="Schema file: TOML, or SDV metadata in JSON."),
    ],
    table: Annotated[
        Path | None,
        typer.Argument(
            metavar="TABLE",
            help="A table, CSV or Parquet, to hold against it. What is said of it is not private: "
            "rows are counted, and messages may quote cells.",
        ),
    ] = None,
    separator: SeparatorOption = ",",
    missing: MissingOption = None,
    encoding: EncodingOption = "utf-8",
    drop: DropOption = None,
    json: JsonOption = False,
) -> None:
    """Check a schema file, and a table against it.

    Spends nothing and writes nothing.
    """
    from dpslice.tabular.columns import Datetime, Number
    from dpslice.tabular.encoding import Encoding
    from dpslice.tabular.files import iter_table

    description = load_schema(schema)
    encoder = Encoding(description)
    n = None
    clipped: Counter[str] = Counter()
    rounded: Counter[str] = Counter()
    broken = [0] * len(description.impossible)
    if table is not None:
        n = 0
        for piece in iter_table(table, description, **reading(separator, missing, encoding, drop)):
            # Encoding checks every cell as a release would; the rows are thrown away.
            n += len(encoder.encode(piece))
            more = description.broken_rules(piece).sum(axis=0).tolist()
            broken = [rows + also for rows, also in zip(broken, more, strict=True)]
            for column in description:
                if isinstance(column, (Number, Datetime)):
                    clipped[column.name] += column.outside(piece[column.name])
                    rounded[column.name] += column.rounded(piece[column.name])
    whole = encoder.max_norm or 1.0  # 0 if no column allows two values
    shares = [(block.radius / whole) ** 2 for block in encoder.blocks]
    blocks = [
        {
            "name": block.column,
            "type": column.type,
            "entries": block.stop - block.start,
            "share_of_squared_norm": share,
        }
        for column, block, share in zip(description, encoder.blocks, shares, strict=True)
    ]
    cost = description.guarantee
    if json:
        _console.print_json(
            {
                "valid": True,
                "columns": blocks,
                "d": encoder.d,
                "max_norm": encoder.max_norm,
                "diameter": encoder.diameter,
                "target": description.target,
                "n": n,
                "outside_bounds": None if table is None else dict(clipped),
                "rounded": None if table is None else dict(rounded),
                "impossible": [
                    {"rule": str(rule), "rows": None if table is None else rows}
                    for rule, rows in zip(description.impossible, broken, strict=True)
                ],
                "private": None if table is None else False,
                "guarantee": None if cost is None else cost.to_dict(),
            }
        )
        return
    _console.print_table(
        ["column", "type", "entries", "share of squared norm"],
        [
            [str(b["name"]), str(b["type"]), str(b["entries"]), f"{share:.1%}"]
            for b, share in zip(blocks, shares, strict=True)
        ],
    )
    print(
        f"d = {encoder.d}, rows of norm at most {encoder.max_norm:.6g}, "
        f"{encoder.diameter:.6g} apart at most"
    )
    if cost is not None:
        print(f"this schema was inferred from data:\n{cost}")
    if n is not None:
        for name, count in clipped.items():
            if count:
                print(
                    f"column {name!r}: {count} of {n} values lie outside the bounds and would be "
                    "clipped to them"
                )
        for name, count in rounded.items():
            if count:
                print(
                    f"column {name!r}: {count} of {n} values are finer than "
                    f"{_grain(description[name])} and would be rounded"
                )
        for rule, rows in zip(description.impossible, broken, strict=True):
            if rows:
                print(f"impossible: {rows} of {n} rows have {rule}; no synthetic row will")
        print(f"the table follows the schema: {n} rows")
        print("Real rows are counted without noise: NOT PRIVATE, for the data holder's eyes only.")


def _grain(column: Column) -> str:
    """Say to what values of a number or a date are rounded."""
    from dpslice.tabular.columns import Datetime, Number

    if isinstance(column, Number):
        return f"its step of {column.step:g}"
    if isinstance(column, Datetime) and not column.whole_days:
        return "whole seconds"
    return "whole days (its min and max are dates; give times to keep the time of day)"
