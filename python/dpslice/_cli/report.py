"""``dpslice report``: synthetic rows beside real ones, which is not private."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import (
    DropOption,
    EncodingOption,
    JsonOption,
    MissingOption,
    OverwriteOption,
    QuietOption,
    SchemaOption,
    SeparatorOption,
    load_schema,
    reading,
)
from dpslice._cli._outputs import check_outputs, telling
from dpslice._cli._reports import check_report_packages, print_scores
from dpslice.release import Release, total_guarantee


@app.command(
    epilog=examples(
        "dpslice report synthetic.csv --real people.csv --schema people.toml --out report.html"
    )
)
def report(
    synthetic: Annotated[
        Path, typer.Argument(metavar="SYNTHETIC", help="The synthetic table: CSV or Parquet.")
    ],
    real: Annotated[Path, typer.Option("--real", help="The real table to compare with.")],
    schema: SchemaOption,
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")],
    release_path: Annotated[
        Path | None,
        typer.Option("--release", help="Release that the rows come from: shows its certificate."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Model that the rows come from: shows its certificate."),
    ] = None,
    holdout: Annotated[
        Path | None,
        typer.Option("--holdout", help="Table of real rows that were not released, for the tests."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Column to predict. Default: the schema's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of random splits.")] = 0,
    separator: SeparatorOption = ",",
    missing: MissingOption = None,
    encoding: EncodingOption = "utf-8",
    drop: DropOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare synthetic with real rows. Not private.

    The comparison reads real rows without noise. The page and the scores are for the data
    holder's eyes only; the certificate does not cover them.
    """
    given = (synthetic, real, schema, holdout, release_path, model)
    inputs = [path for path in given if path is not None]
    check_outputs({"--out": out}, inputs, overwrite=overwrite)
    if release_path is not None and model is not None:
        raise ValueError("at most one of --release and --model may be given")
    check_report_packages()
    from dpslice.tabular.files import read_table
    from dpslice.tabular.report import write_report

    description = load_schema(schema)
    how = reading(separator, missing, encoding, drop)
    guarantee = None
    if release_path is not None:
        guarantee = total_guarantee(Release.load(release_path))
    elif model is not None:
        from dpslice.tabular.synthesizer import Synthesizer

        guarantee = Synthesizer.load(model).guarantee
    results = write_report(
        out,
        real=read_table(real, description, **how),
        synthetic=read_table(synthetic, description),
        schema=description,
        guarantee=guarantee,
        target=target,
        holdout=None if holdout is None else read_table(holdout, description, **how),
        seed=seed,
        overwrite=overwrite,
    )
    with telling(out):
        if json:
            _console.print_json(
                {"command": "report", "private": False, "file": str(out), **results}
            )
        elif not quiet:
            print_scores(results)
            print(f"written: {out}")
