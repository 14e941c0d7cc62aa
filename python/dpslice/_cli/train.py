"""``dpslice train``: a model from a release, with checkpoints to go on from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import (
    BatchSizeOption,
    JsonOption,
    ModelsOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    StepsOption,
    training_options,
)
from dpslice._cli._outputs import check_outputs, telling
from dpslice._cli._run import print_summary, run_training, summary_of, timed
from dpslice.release import Release


@app.command(epilog=examples("dpslice train people.dpslice --out model.pt"))
def train(
    release_path: Annotated[
        Path, typer.Argument(metavar="RELEASE", help="A release of a table (a directory).")
    ],
    out: Annotated[Path, typer.Option("--out", help="Model to write.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            help="File to save the state of training in, and to go on from if it is there. "
            "Default: the model's name with .checkpoint added, removed when training is done.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Ignore a checkpoint that is there.")
    ] = False,
    seed: SeedOption = 0,
    steps: StepsOption = None,
    batch_size: BatchSizeOption = None,
    models: ModelsOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a generator on a release.

    This costs no privacy: repeat it as often as you like.

    Ctrl-C keeps a checkpoint: the same command goes on from there.
    """
    state = checkpoint if checkpoint is not None else out.with_name(out.name + ".checkpoint")
    outputs = {"--out": out, "--checkpoint": state}
    check_outputs(outputs, [release_path], overwrite=overwrite)
    from dpslice.tabular.synthesizer import Synthesizer
    from dpslice.torch import CheckpointError

    release = Release.load(release_path)
    options = training_options(release.kind, steps, batch_size, models)
    synthesizer = Synthesizer.from_release(release, training=options, seed=seed)
    if restart:
        _remove_checkpoint(state)
    elif state.exists():
        _console.remark(f"going on from {state}", quiet=quiet)
    seconds: dict[str, float] = {}
    with timed(seconds, "training"):
        kept = f"The checkpoint is kept: the same command goes on from {state}"
        try:
            run_training(synthesizer, checkpoint=state, quiet=quiet, kept=kept)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace("resume=False", "--restart")) from None
    synthesizer.save(out, overwrite=overwrite)
    if checkpoint is None:
        state.unlink(missing_ok=True)
    assert synthesizer.result is not None
    summary = summary_of(
        "train",
        synthesizer.guarantee,
        {"model": out},
        seconds,
        steps=synthesizer.result.steps,
        loss=float(synthesizer.result.history[-1]),
    )
    with telling(out):
        if json:
            _console.print_json(summary)
        elif not quiet:
            print_summary(summary, synthesizer.guarantee)


def _remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and nothing that is not known to be one."""
    from dpslice.torch.training import CheckpointError, _read_checkpoint

    if not os.path.lexists(path):
        return
    try:
        _read_checkpoint(path)
    except CheckpointError:
        raise ValueError(
            f"--restart removes checkpoints that this dpslice can read; {path} is none: delete it "
            "yourself, or name another file by --checkpoint"
        ) from None
    path.unlink()
