"""``dpslice demo``: the whole job on a table that anyone may see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpslice import _arrays
from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import (
    Adjacency,
    AdjacencyOption,
    BatchSizeOption,
    JsonOption,
    Method,
    MethodOption,
    ModelsOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    StepsOption,
    training_options,
)
from dpslice._cli._outputs import PutOff, check_outputs, real_path, refuse_in_release, telling
from dpslice._cli._reports import SCORES, check_report_packages, print_scores
from dpslice._cli._run import print_summary, publish, run_training, sizes_of, summary_of, timed


@app.command(epilog=examples("dpslice demo --out demo-output"))
def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory to write to.")] = Path(
        "demo-output"
    ),
    epsilon: Annotated[float, typer.Option("--epsilon", help="Privacy loss, > 0.")] = 3.0,
    delta: Annotated[float, typer.Option("--delta", help="Probability of a larger loss.")] = 1e-5,
    adjacency: AdjacencyOption = Adjacency.zero_out,
    method: MethodOption = Method.sums,
    seed: SeedOption = 0,
    steps: StepsOption = None,
    batch_size: BatchSizeOption = None,
    models: ModelsOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Do the whole job on a real health table.

    The table comes with statsmodels: nothing is downloaded.

    The RAND Health Insurance Experiment: 20,190 person-years, of which four fifths are treated as
    private and a fifth is held out for comparison. Writes the table, its schema, the release, the
    model, a synthetic table and a report.
    """
    paths = {
        "table": out / "randhie.csv",
        "held-out rows": out / "randhie-holdout.csv",
        "schema": out / "randhie.toml",
        "release": out / "randhie.dpslice",
        "model": out / "model.pt",
        "synthetic table": out / "synthetic.csv",
        "report": out / "report.html",
    }
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out must name a directory; {out} is a file")
    refuse_in_release("--out", real_path(paths["release"]))
    if out.exists():
        check_outputs(paths, [], overwrite=overwrite, directory="release")
    _arrays.require("statsmodels", extra="demo")
    check_report_packages()
    from dpslice._storage import replacing
    from dpslice.tabular import demo as embedded
    from dpslice.tabular.files import write_table
    from dpslice.tabular.report import write_report
    from dpslice.tabular.schema import Schema
    from dpslice.tabular.synthesizer import Synthesizer

    out.mkdir(parents=True, exist_ok=True)
    with replacing(paths["schema"], overwrite=overwrite) as handle:
        handle.write(embedded.schema_text().encode())
    schema = Schema.load(paths["schema"])
    private, held_out = embedded.load_tables()
    write_table(private, paths["table"], overwrite=overwrite)
    write_table(held_out, paths["held-out rows"], overwrite=overwrite)
    synthesizer = Synthesizer(
        schema,
        epsilon=epsilon,
        delta=delta,
        method=method.value,
        adjacency=adjacency.value,
        training=training_options(method.value, steps, batch_size, models),
        seed=seed,
    )
    seconds: dict[str, float] = {}
    with timed(seconds, "release"):
        release = publish(synthesizer, private, paths["release"], overwrite=overwrite, quiet=quiet)
    with timed(seconds, "training"):
        kept = f"The release is kept: go on with dpslice train {paths['release']}"
        run_training(synthesizer, checkpoint=None, quiet=quiet, kept=kept)
    put_off = PutOff()
    with timed(seconds, "sampling"):
        synthetic = synthesizer.sample(release.estimated_n)
        with put_off.caught():
            synthesizer.save(paths["model"], overwrite=overwrite)
        with put_off.caught():
            write_table(synthetic, paths["synthetic table"], overwrite=overwrite)
    _console.remark("writing the report", quiet=quiet)
    with timed(seconds, "report"):
        results = write_report(
            paths["report"],
            real=private,
            synthetic=synthetic,
            schema=schema,
            guarantee=synthesizer.guarantee,
            holdout=held_out,
            seed=seed,
            training=synthesizer.training_facts(),
            overwrite=overwrite,
        )
    put_off.tell()
    summary = summary_of(
        "demo",
        synthesizer.guarantee,
        paths,
        seconds,
        **sizes_of(release),
        rows=len(synthetic),
        scores_not_private={key: results[key] for _, key, _ in SCORES},
    )
    with telling(*paths.values()):
        if json:
            _console.print_json(summary)
        elif not quiet:
            print_summary(summary, synthesizer.guarantee)
            print()
            print_scores(results)
            print()
            print(f"Open {paths['report']} in a browser. By hand, the same job is:")
            print(
                f"  dpslice synthesize {paths['table']} --schema {paths['schema']} "
                f"--epsilon {epsilon:g} --delta {delta:g} --out synthetic.csv"
            )
