"""``dpslice release``: the one step that reads the private table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import (
    DEFAULT_DELTA,
    Adjacency,
    AdjacencyOption,
    DeltaOption,
    DropOption,
    EncodingOption,
    EpsilonOption,
    JsonOption,
    Method,
    MethodOption,
    MissingOption,
    OrderOption,
    OverwriteOption,
    PersonOption,
    QuietOption,
    RoundsOption,
    RowsPerPersonOption,
    SchemaOption,
    SeedOption,
    SeparatorOption,
    TableArgument,
    load_schema,
    private_table,
    reading,
)
from dpslice._cli._outputs import check_outputs, telling
from dpslice._cli._run import print_summary, publish, sizes_of, summary_of, timed


@app.command(
    epilog=examples(
        "dpslice release people.csv --schema people.toml --epsilon 5 --out people.dpslice"
    )
)
def release(
    table: TableArgument,
    schema: SchemaOption,
    epsilon: EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Release (a directory) to write.")],
    delta: DeltaOption = DEFAULT_DELTA,
    adjacency: AdjacencyOption = Adjacency.zero_out,
    rows_per_person: RowsPerPersonOption = 1,
    person: PersonOption = None,
    method: MethodOption = Method.sums,
    rounds: RoundsOption = 0,
    amplify_by_order: OrderOption = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Column that matters most: more of the budget. Default: the schema's."
        ),
    ] = None,
    seed: SeedOption = 0,
    separator: SeparatorOption = ",",
    missing: MissingOption = None,
    encoding: EncodingOption = "utf-8",
    drop: DropOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Release a private table: the one step that reads it.

    The result may be given to anyone.

    The table is read in blocks, so it may be larger than memory. Each run spends (epsilon, delta);
    the losses of several releases of one table add up.
    """
    check_outputs({"--out": out}, [table, schema], overwrite=overwrite, directory="--out")
    description = load_schema(schema, target=target)  # before torch, which takes seconds
    from dpslice.tabular.synthesizer import Synthesizer

    synthesizer = Synthesizer(
        description,
        epsilon=epsilon,
        delta=delta,
        method=method.value,
        adjacency=adjacency.value,
        rounds=rounds,
        seed=seed,
        amplify_by_order=amplify_by_order,
        rows_per_person=rows_per_person,
    )
    seconds: dict[str, float] = {}
    with timed(seconds, "release"):
        how = reading(separator, missing, encoding, drop)
        how |= {"person": person, "rows_per_person": rows_per_person}
        source, n = private_table(table, description, counted=amplify_by_order, **how)
        made = publish(synthesizer, source, out, overwrite=overwrite, quiet=quiet, n=n)
    summary = summary_of(
        "release",
        synthesizer.guarantee,
        {"release": out},
        seconds,
        **sizes_of(made),
        fingerprint=made.fingerprint,
    )
    with telling(out):
        if json:
            _console.print_json(summary)
        elif not quiet:
            print_summary(summary, synthesizer.guarantee)
