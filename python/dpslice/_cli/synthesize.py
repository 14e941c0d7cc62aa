"""``dpslice synthesize``: a table in, a synthetic table out."""

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
    BatchSizeOption,
    DeltaOption,
    DropOption,
    EncodingOption,
    EpsilonOption,
    JsonOption,
    Method,
    MethodOption,
    MissingOption,
    ModelsOption,
    OrderOption,
    OverwriteOption,
    PersonOption,
    QuietOption,
    RoundsOption,
    RowsPerPersonOption,
    SchemaOption,
    SeedOption,
    SeparatorOption,
    StepsOption,
    TableArgument,
    check_rows,
    load_schema,
    private_table,
    reading,
    training_options,
)
from dpslice._cli._outputs import PutOff, check_outputs, telling
from dpslice._cli._reports import check_report_packages
from dpslice._cli._run import (
    having_spent,
    print_summary,
    publish,
    run_training,
    sizes_of,
    summary_of,
    tell_of_rules,
    timed,
)


@app.command(
    epilog=examples(
        "dpslice synthesize people.csv --schema people.toml --epsilon 5 \\",
        "    --out synthetic.csv --report report.html",
    )
)
def synthesize(
    table: TableArgument,
    schema: SchemaOption,
    epsilon: EpsilonOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Synthetic table to write: CSV (.gz if packed) or, if named .parquet, Parquet.",
        ),
    ],
    delta: DeltaOption = DEFAULT_DELTA,
    adjacency: AdjacencyOption = Adjacency.zero_out,
    rows_per_person: RowsPerPersonOption = 1,
    person: PersonOption = None,
    method: MethodOption = Method.sums,
    rounds: RoundsOption = 0,
    amplify_by_order: OrderOption = False,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            "-n",
            help="Synthetic rows. Default: as in the table, or under add_remove, as estimated from "
            "the release.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", help="HTML page to write that compares with the table. Not private."
        ),
    ] = None,
    release_path: Annotated[
        Path | None,
        typer.Option("--release", help="Also keep the release, to train on again at no cost."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Also keep the model, to sample from later.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="Column that matters most: it gets more of the budget, and the report predicts "
            "it. Default: the schema's.",
        ),
    ] = None,
    seed: SeedOption = 0,
    steps: StepsOption = None,
    batch_size: BatchSizeOption = None,
    models: ModelsOption = None,
    separator: SeparatorOption = ",",
    missing: MissingOption = None,
    encoding: EncodingOption = "utf-8",
    drop: DropOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a synthetic table from a private one.

    Releases the table, trains a model on the release, and samples from it.

    Each run reads the private table once and spends (epsilon, delta); the losses of several runs
    on one table add up. What the schema cost, if it was inferred, comes on top and is shown.
    """
    outputs = {"--out": out, "--report": report, "--release": release_path, "--model": model}
    check_outputs(outputs, [table, schema], overwrite=overwrite)
    if rows is not None:
        check_rows(rows)
    if report is not None:
        check_report_packages()
    description = load_schema(schema, target=target)  # before torch, which takes seconds
    from dpslice.tabular.files import check_written, write_table
    from dpslice.tabular.synthesizer import Synthesizer

    check_written(out)
    synthesizer = Synthesizer(
        description,
        epsilon=epsilon,
        delta=delta,
        method=method.value,
        adjacency=adjacency.value,
        rounds=rounds,
        training=training_options(method.value, steps, batch_size, models),
        seed=seed,
        amplify_by_order=amplify_by_order,
        rows_per_person=rows_per_person,
    )
    seconds: dict[str, float] = {}
    with timed(seconds, "release"):
        how = reading(separator, missing, encoding, drop)
        how |= {"person": person, "rows_per_person": rows_per_person}
        # The report needs the whole table; the release alone is made block by block.
        source, n = private_table(
            table, description, whole=report is not None, counted=amplify_by_order, **how
        )
        release = publish(synthesizer, source, release_path, overwrite=overwrite, quiet=quiet, n=n)
    if release_path is None:
        kept = "Nothing was written (with --release, training could go on at no cost)."
    else:
        kept = f"The release is kept: go on with dpslice train {release_path}"
    with timed(seconds, "training"), having_spent(kept):
        run_training(synthesizer, checkpoint=None, quiet=quiet, kept=kept)
    put_off = PutOff()
    with timed(seconds, "sampling"):
        with having_spent(kept):
            count = rows if rows is not None else release.estimated_n
            refused = None
            try:
                synthetic = synthesizer.sample(count)
            except ValueError as error:
                if not description.impossible:
                    raise
                # Rules that leave nothing are seen only now, and paid for is what they refuse.
                refused = error
                synthetic = synthesizer.sample(count, impossible=())
            # First: what was paid for is there, whatever else fails.
            with put_off.caught():
                write_table(synthetic, out, overwrite=overwrite)
        out = put_off.place(out)
        if model is not None or report is not None:
            _console.remark(f"written: {out}", quiet=quiet)
        kept = f"The synthetic table is there: {out}"
        if refused is not None:
            kept += ", drawn without the rules"
        with having_spent(kept):
            if model is not None:
                with put_off.caught():
                    synthesizer.save(model, overwrite=overwrite)
            if refused is not None:
                raise refused
            share = tell_of_rules(synthesizer, None, quiet=quiet)
    if report is not None:
        from dpslice.tabular.report import write_report

        _console.remark("writing the report", quiet=quiet)
        with timed(seconds, "report"), having_spent(kept), put_off.caught():
            write_report(
                report,
                real=source,
                synthetic=synthetic,
                schema=description,
                guarantee=synthesizer.guarantee,
                seed=seed,
                training=synthesizer.training_facts(broken_share=share),
                overwrite=overwrite,
            )
    with having_spent(kept):
        put_off.tell()
    summary = summary_of(
        "synthesize",
        synthesizer.guarantee,
        {"synthetic table": out, "release": release_path, "model": model, "report": report},
        seconds,
        **sizes_of(release),
        rows=count,
        steps=synthesizer.training.steps,
    )
    with telling(out, release_path, model, report):
        if json:
            _console.print_json(summary)
        elif not quiet:
            print_summary(summary, synthesizer.guarantee)
            if report is not None:
                print("The report compares with real rows: NOT PRIVATE, for the data holder only.")
