"""``dpslice sample``: synthetic rows from a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import (
    OverwriteOption,
    QuietOption,
    check_rows,
    load_schema,
)
from dpslice._cli._outputs import STANDARD_OUTPUT, check_outputs, telling
from dpslice._cli._run import tell_of_rules
from dpslice.accounting._guarantee import rounded_up

if TYPE_CHECKING:
    from dpslice.tabular.columns import Column
    from dpslice.tabular.schema import Schema


@app.command(epilog=examples("dpslice sample model.pt -n 10000 --out synthetic.csv"))
def sample(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model that train or synthesize wrote.")
    ],
    rows: Annotated[int, typer.Option("--rows", "-n", help="Synthetic rows.")],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            help="Table to write: CSV (.gz if packed) or, if named .parquet, Parquet; - is "
            "standard output, as CSV.",
        ),
    ] = "-",
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema",
            help="Refuse a model that was made for other columns. The schema's rules on what is "
            "impossible hold in place of the model's.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Only rows with this value, such as sex=Female; nothing after = is a missing one. "
            "COLUMN!=VALUE: any other value; COLUMN!=: not missing. Numbers and dates may have a "
            "range, ends included: age=30..40, income=50000.., born=..1999-12-31. May be given "
            "several times; of several values for a column, rows have one.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of the rows. Default: that of training.")
    ] = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw synthetic rows from a model. Costs no privacy."""
    path = None if out == "-" else Path(out)
    inputs = [model] if schema is None else [model, schema]
    check_outputs({"--out": path}, inputs, overwrite=overwrite, hint=STANDARD_OUTPUT)
    check_rows(rows)
    if path is None and sys.stdout is None:
        raise ValueError("standard output is closed: open it, or name a file by --out")
    from dpslice.tabular._csv import write_text
    from dpslice.tabular.files import check_written, write_table
    from dpslice.tabular.synthesizer import Synthesizer

    if path is not None:
        check_written(path)
    synthesizer = Synthesizer.load(model)
    rules = None
    if schema is not None:
        given = load_schema(schema)
        _check_same_columns(synthesizer.schema, given, model)
        rules = given.impossible
        if synthesizer.schema.impossible and not rules:
            _console.remark(
                f"{schema} has no rules on what is impossible: those of the model do not count",
                quiet=quiet,
            )
    conditions = _conditions(synthesizer.schema, where or [])
    synthetic = synthesizer.sample(rows, seed=seed, conditions=conditions, impossible=rules)
    if path is None:
        with telling():
            write_text(synthetic, sys.stdout.buffer)
    else:
        write_table(synthetic, path, overwrite=overwrite)
    tell_of_rules(synthesizer, rules, conditions=bool(conditions), quiet=quiet)
    if path is None:
        return
    total = synthesizer.guarantee
    _console.remark(
        f"{rows} rows written to {path}; they carry the model's guarantee: epsilon "
        f"{rounded_up(total.epsilon)}, delta {rounded_up(total.delta)}, "
        f"{total.adjacency} adjacency",
        quiet=quiet,
    )


def _conditions(schema: Schema, where: Sequence[str]) -> dict[str, object]:
    """Read conditions as `Synthesizer.sample` takes them; values as the cells of a table are."""
    asked: dict[str, list[tuple[str, str]]] = {}
    for text in where:
        # A column's name may itself hold "=", and begin as another one does.
        fitting = (n for n in schema.names if text.startswith((f"{n}=", f"{n}!=")))
        name = max(fitting, key=len, default=None)
        if name is None:
            raise ValueError(
                f"--where must be COLUMN=VALUE for a column of the table; got {text!r}"
            )
        sign, equals, cell = text[len(name) :].partition("=")
        asked.setdefault(name, []).append((sign + equals, cell))
    return {name: _condition(schema[name], of_column) for name, of_column in asked.items()}


def _condition(column: Column, asked: Sequence[tuple[str, str]]) -> object:
    """Read what is asked of one column: pairs of = or != and what follows."""
    from dpslice.tabular._conditions import named_cell
    from dpslice.tabular.columns import Datetime, Number

    signs = {sign for sign, _ in asked}
    if len(signs) > 1:
        raise ValueError(f"--where must have = or != for column {column.name!r}; got both")
    # Only of these: the name of a category may well hold two dots.
    ranges = [cell for _, cell in asked if isinstance(column, Number | Datetime) and ".." in cell]
    if ranges:
        low, _, high = (end.strip() for end in ranges[0].partition(".."))
        if len(asked) > 1 or signs != {"="} or not (low or high):
            raise ValueError(
                f"--where must have a range alone for column {column.name!r}, as in "
                f"{column.name}=LOW..HIGH, of which one end may be left out; got "
                + ", ".join(repr(f"{column.name}{sign}{cell}") for sign, cell in asked)
            )
        return {key: end for key, end in (("min", low), ("max", high)) if end}
    values = [named_cell(column, cell) for _, cell in asked]
    if signs == {"="}:
        return values
    return {"missing": False} if values == [None] else {"not": values}


def _check_same_columns(of_model: Schema, given: Schema, model: Path) -> None:
    if of_model.columns == given.columns:
        return
    if of_model.names != given.names:
        what = "its columns are " + ", ".join(map(repr, of_model.names))
    else:
        differing = [c.name for c, other in zip(of_model, given, strict=True) if c != other]
        what = f"column {differing[0]!r} is described differently"
    raise ValueError(f"{model} was made for another schema: {what}")
