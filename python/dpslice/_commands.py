"""The commands of ``dpslice``, on Typer; `dpslice.cli` is the entry point.

Each command checks where it may write before it reads any data, imports what it needs (so that
``dpslice --help`` is quick), calls the library, and says what came of it: results to standard
output, everything else to standard error. Nothing here computes.

Only `synthesize`, `release`, `schema infer`, `schema check` and `report` open a private table. What
they print of it is the number of rows where the guarantee takes it as public (under add_remove
neither that nor the time the release took, which tells of it), and in an error message the cell
that breaks the schema. Such messages, and what `schema check` prints, are for the data holder.
`report` compares with real rows, which is not private, and says so.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import math
import os
import platform
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata as package_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from typer.core import TyperGroup

from dpslice import __version__, _arrays, _console, accounting, frames
from dpslice import release as releases
from dpslice.accounting._adjacency import NEIGHBOURS
from dpslice.accounting._guarantee import rounded_up, wording
from dpslice.release import Release, RowRelease, SumRelease, total_guarantee

if TYPE_CHECKING:
    import pandas as pd

    from dpslice.accounting import Guarantee
    from dpslice.tabular.schema import Column, Schema
    from dpslice.tabular.synthesizer import MixtureOptions, Synthesizer, TrainingOptions

__all__ = ["app"]

FAILED = 1
INTERRUPTED = 130

# A table of n rows wants delta well below 1/n. n is not known before the table is read, so the
# default is fixed: right up to some 100,000 rows. `_warn_of_delta` speaks up where it is not.
DEFAULT_DELTA = 1e-6

# Noise of this share of all rows leaves next to nothing to be learned.
_HOPELESS = 0.2

NOT_PRIVATE = (
    "Scores compare with real rows, without noise: NOT PRIVATE, for the data holder's eyes only."
)


# ---------------------------------------------------------------------------- failing in one line


class Interrupted(Exception):
    """Ctrl-C that was handled: the message says what was kept."""


class _Commands(TyperGroup):
    """Turns the errors that a user can mend into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # the context's class is internal to Typer
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _console.remark("interrupted: nothing was left half-written")
            raise typer.Exit(INTERRUPTED) from None
        except Interrupted as stopped:
            _console.remark(f"interrupted: {stopped}")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # the reader of our output has gone: Typer ends the process quietly
        except Exception as error:
            if not _is_for_the_user(error):
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            _console.remark(f"error: {_one_line(error)}")
            raise typer.Exit(FAILED) from None


def _is_for_the_user(error: Exception) -> bool:
    if isinstance(error, (typer.Exit, typer.Abort)):
        return False  # how Typer itself ends a command
    kinds = (ValueError, TypeError, OSError, ImportError, OverflowError, RecursionError)
    ours = type(error).__module__.startswith("dpslice.")
    return isinstance(error, kinds) or _is_lack_of_memory(error) or ours


def _is_lack_of_memory(error: Exception) -> bool:
    # torch reports it as a RuntimeError, on the CPU one of no class of its own.
    of_torch = isinstance(error, RuntimeError) and "allocate" in str(error)
    return isinstance(error, MemoryError) or of_torch


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    elif isinstance(error, ModuleNotFoundError):
        text = f"{error.name} is needed here and is not installed: pip install 'dpslice[tabular]'"
    else:
        text = str(error) or type(error).__name__
    if _is_lack_of_memory(error):
        text = f"not enough memory ({text.rpartition('Allocator: ')[2]})"
    elif isinstance(error, RecursionError):
        text = f"something is nested too deeply to be read ({text})"
    elif isinstance(error, OverflowError):
        text = f"a number is too large ({text})"
    text = text.replace("pass overwrite=True", "pass --overwrite")
    return " ".join(text.split())


def _examples(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)  # \b: keep these lines


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: the same on every terminal, and easy to search
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_examples(
        "dpslice demo",
        "dpslice synthesize people.csv --schema people.toml --epsilon 5 --out synthetic.csv",
    )
    + "\n\nExit codes: 0 success; 1 error in files, data or values; 2 wrong usage; 130 Ctrl-C.",
)
schema_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make and check schema files.",
)
app.add_typer(schema_app, name="schema")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dpslice {__version__}")
        raise typer.Exit


@app.callback()
def dpslice(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DPSLICE_DEBUG", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Synthetic tables from private ones, with differential privacy.

    A table is released once, as noisy counts (or as noisy projections of its rows); everything
    after that (training, sampling, another model) works on the release and costs no privacy.
    """


# ------------------------------------------------------------------------------ shared arguments


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
        metavar="TABLE", help="The private table: CSV, UTF-8, with a header line (.gz if packed)."
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
        "less noise at an epsilon of up to some 3. The table is read twice, to count its rows.",
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
        help="Of method sums: models fitted from different starts, whose union is the result.",
    ),
]
SeparatorOption = Annotated[
    str,
    typer.Option(
        "--separator",
        help="Character between the cells of the real tables, or the word tab. What is written "
        "has commas.",
    ),
]
MissingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        help="Cell of the real tables that means a missing value, beside the empty one; may be "
        "given several times.",
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


def _load_schema(path: Path, *, target: str | None = None) -> Schema:
    from dpslice.tabular.schema import Schema

    schema = Schema.load(path)
    return schema if target is None else dataclasses.replace(schema, target=target)


def _reading(separator: str, missing: Sequence[str] | None) -> dict[str, Any]:
    """Return how real tables are to be read: arguments of `read_csv`."""
    return {
        "separator": "\t" if separator == "tab" else separator,
        "missing": ("", *(missing or ())),
    }


def _training(
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


_STANDARD_OUTPUT = "; standard output is --out -"


def _check_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Sequence[Path],
    *,
    overwrite: bool,
    directory: str = "--release",
    hint: str = "",
) -> None:
    """Refuse, before any work is done or privacy spent, what could not be written in the end.

    `directory` is the option whose output is a directory, all others being files; `hint` is what to
    do instead of writing to what is no file. A checkpoint that is there is gone on from.
    """
    taken = {_real_path(path): "the input" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        place = _real_path(path)
        owner = taken.setdefault(place, option)
        if owner != option:
            raise ValueError(f"{option} must not be the same file as {owner}; got {path}")
        if option == directory:
            if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
                raise NotADirectoryError(f"{option} must name a directory; {path} is none")
            for source in inputs:
                if place in _real_path(source).parents:
                    raise ValueError(f"{option} must not hold the input; {source} lies in {path}")
        elif path.is_dir():
            raise IsADirectoryError(f"{option} must name a file; {path} is a directory")
        elif os.path.lexists(path) and (not path.is_file() or _is_device(path)):
            raise FileExistsError(f"{option} must name a file; {path} is none{hint}")
        if os.path.lexists(path) and not overwrite and option != "--checkpoint":
            raise FileExistsError(f"{path} exists already: pass --overwrite to replace it")
        if option == directory:
            releases.refuse_foreign(path)
        _refuse_in_release(option, place)
        parent = path.absolute().parent
        if not parent.is_dir():
            raise NotADirectoryError(f"{option}: there is no directory {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(f"{option}: the directory {parent} cannot be written to")


def _is_device(path: Path) -> bool:
    # /dev/stdout may lead to a file: what would be replaced is the link.
    return path.absolute().parent == Path("/dev")


def _real_path(path: Path) -> Path:
    return Path(os.path.realpath(path))  # which takes a circle of links, as `Path.resolve` does not


def _refuse_in_release(option: str, path: Path) -> None:
    for outer in path.parents:
        if releases.holds_release(outer):
            raise ValueError(f"{option} must not lie in a release; {path} would be in {outer}")


def _check_rows(rows: int) -> None:
    from dpslice.tabular.synthesizer import MOST_ROWS

    if _arrays.positive_integer("rows", rows) > MOST_ROWS:
        raise ValueError(
            f"rows must be at most {MOST_ROWS:,}; got {_arrays.describe(rows)}: draw more in "
            "several runs, each with a --seed of its own"
        )


@contextmanager
def _telling(*files: Path | None) -> Iterator[None]:
    """Write a result to standard output; where that fails, say which files are there all the same.

    They may have cost privacy.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        there = ", ".join(str(file) for file in files if file is not None)
        raise OSError(
            f"standard output could not be written ({error.strerror or error})"
            + (f"; what was to be written to files is there: {there}" if there else "")
        ) from error


def _check_report_packages() -> None:
    for package in ("jinja2", "sdmetrics", "sklearn"):
        _arrays.require(package, extra="tabular")


def _warn_of_delta(guarantee: Guarantee, n: int, *, quiet: bool) -> None:
    if guarantee.delta * n >= 1.0:
        _console.remark(
            f"warning: delta = {guarantee.delta:g} is not below 1/n = {1.0 / n:.2g}: so large a "
            "delta would even allow publishing a few rows as they are",
            quiet=quiet,
        )


def _warn_of_noise(release: Release, *, quiet: bool) -> None:
    """Say so where noise is about as large as all there is; told from public numbers alone."""
    n = release.estimated_n
    if isinstance(release, SumRelease):
        share, what = float(np.min(release.noise)) / n, "each count"
    else:
        whole = release.guarantee.max_norm or math.inf
        share, what = release.sigma / math.sqrt(n) / whole, "the average row"
    if share > _HOPELESS:
        _console.remark(
            f"warning: the noise on {what} is {share:.0%} of what all {n:.0f} rows together can "
            "make: what is learned from this release will be little else",
            quiet=quiet,
        )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)


# ------------------------------------------------------------------- the parts of the main job


def _publish(
    synthesizer: Synthesizer,
    table: pd.DataFrame | Iterator[pd.DataFrame],
    path: Path | None,
    *,
    overwrite: bool,
    quiet: bool,
    n: int | None = None,
) -> Release:
    counted = synthesizer.adjacency != "add_remove"

    counts: list[str] = []  # shown once the release is there: until then nothing has left

    def on_round(i: int, tables: list[tuple[str, ...]]) -> None:
        named = "; ".join(" x ".join(columns) for columns in tables)
        counts.append(f"round {i + 1} of {synthesizer.rounds}: counted {named}")

    announced = synthesizer.rounds == 0  # once rows are read, as there may be too many rounds

    with _console.rows_progress("releasing", quiet=quiet, counted=counted) as done:

        def on_rows(rows: int) -> None:
            nonlocal announced
            if not announced:
                announced = True
                _console.remark(
                    f"a model is fitted in each of {synthesizer.rounds} rounds, after the rows are "
                    "read; each fit takes some of the time of a training",
                    quiet=quiet,
                )
            done(rows)

        release = synthesizer.publish(
            table, path=path, overwrite=overwrite, progress=on_rows, on_round=on_round, n=n
        )
    for line in counts:
        _console.remark(line, quiet=quiet)
    _warn_of_delta(release.guarantee, release.estimated_n, quiet=quiet)
    _warn_of_noise(release, quiet=quiet)
    return release


def _train(synthesizer: Synthesizer, *, checkpoint: Path | None, quiet: bool, kept: str) -> None:
    """Train with a progress bar; Ctrl-C becomes `Interrupted`, whose message says what is kept."""
    total = synthesizer.training.steps
    with _console.steps_progress("training", total=total, quiet=quiet) as done:
        synthesizer.train(
            checkpoint=checkpoint,
            progress=False,
            callbacks=[lambda state: done(state.step, state.loss)],
        )
    result = synthesizer.result
    if result is not None and result.interrupted:
        raise Interrupted(f"training stopped after step {result.steps} of {total}. {kept}")


def _sizes(release: Release) -> dict[str, Any]:
    """Return what is public of a release's sizes and noise."""
    sizes: dict[str, Any] = {"kind": release.kind, "d": release.d, "p": release.p}
    if release.guarantee.adjacency != "add_remove":
        sizes["n"] = release.n
    if isinstance(release, RowRelease):
        sizes["frame"] = release.frame_kind
    return {**sizes, "sigma": release.sigma}


def _summary(
    command: str,
    guarantee: Guarantee,
    files: Mapping[str, Path | None],
    seconds: Mapping[str, float],
    **more: Any,
) -> dict[str, Any]:
    # How long a release takes tells how many rows there are.
    hidden = {"release", "report"} if guarantee.adjacency == "add_remove" else set()
    return {
        "command": command,
        "guarantee": guarantee.to_dict(),
        "files": {name: str(path) for name, path in files.items() if path is not None},
        "seconds": {name: value for name, value in seconds.items() if name not in hidden},
        **more,
    }


def _print_summary(summary: Mapping[str, Any], guarantee: Guarantee) -> None:
    print(guarantee)
    print()
    width = max(map(len, summary["files"]))
    for name, path in summary["files"].items():
        print(f"{name:<{width}}  {path}")
    times = ", ".join(f"{name} {value:.1f} s" for name, value in summary["seconds"].items())
    if times:
        print(f"time: {times}")


# ------------------------------------------------------------------------------------ synthesize


@app.command(
    epilog=_examples(
        "dpslice synthesize people.csv --schema people.toml --epsilon 5 \\",
        "    --out synthetic.csv --report report.html",
    )
)
def synthesize(
    table: TableArgument,
    schema: SchemaOption,
    epsilon: EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Synthetic CSV to write.")],
    delta: DeltaOption = DEFAULT_DELTA,
    adjacency: AdjacencyOption = Adjacency.zero_out,
    method: MethodOption = Method.sums,
    rounds: RoundsOption = 0,
    amplify_by_order: OrderOption = False,
    rows: Annotated[
        int | None, typer.Option("--rows", "-n", help="Synthetic rows. Default: as in the table.")
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
    _check_outputs(outputs, [table, schema], overwrite=overwrite)
    if rows is not None:
        _check_rows(rows)
    if report is not None:
        _check_report_packages()
    description = _load_schema(schema, target=target)  # before torch, which takes seconds
    from dpslice.tabular.files import count_csv_rows, iter_csv, read_csv, write_csv
    from dpslice.tabular.synthesizer import Synthesizer

    synthesizer = Synthesizer(
        description,
        epsilon=epsilon,
        delta=delta,
        method=method.value,
        adjacency=adjacency.value,
        rounds=rounds,
        training=_training(method.value, steps, batch_size, models),
        seed=seed,
        amplify_by_order=amplify_by_order,
    )
    seconds: dict[str, float] = {}
    with _timed(seconds, "release"):
        # The report needs the whole table; the release alone is made block by block.
        how = _reading(separator, missing)
        frame = read_csv(table, description, **how) if report is not None else None
        n = None
        if amplify_by_order and frame is None:
            n = count_csv_rows(table, separator=how["separator"])
        source = frame if frame is not None else iter_csv(table, description, **how)
        release = _publish(synthesizer, source, release_path, overwrite=overwrite, quiet=quiet, n=n)
    if release_path is None:
        kept = "Nothing was written (with --release, training could go on at no cost)."
    else:
        kept = f"The release is kept: go on with dpslice train {release_path}"
    with _timed(seconds, "training"):
        _train(synthesizer, checkpoint=None, quiet=quiet, kept=kept)
    with _timed(seconds, "sampling"):
        count = rows if rows is not None else release.estimated_n
        synthetic = synthesizer.sample(count)
        write_csv(synthetic, out)  # first: what was paid for is there, whatever else fails
        if model is not None or report is not None:
            _console.remark(f"written: {out}", quiet=quiet)
        if model is not None:
            synthesizer.save(model)
    if report is not None and frame is not None:
        from dpslice.tabular.report import write_report

        _console.remark("writing the report", quiet=quiet)
        with _timed(seconds, "report"):
            write_report(
                report,
                real=frame,
                synthetic=synthetic,
                schema=description,
                guarantee=synthesizer.guarantee,
                seed=seed,
                training=synthesizer.training_facts(),
            )
    summary = _summary(
        "synthesize",
        synthesizer.guarantee,
        {"synthetic table": out, "release": release_path, "model": model, "report": report},
        seconds,
        **_sizes(release),
        rows=count,
        steps=synthesizer.training.steps,
    )
    with _telling(out, release_path, model, report):
        if json:
            _console.print_json(summary)
        elif not quiet:
            _print_summary(summary, synthesizer.guarantee)
            if report is not None:
                print("The report compares with real rows: NOT PRIVATE, for the data holder only.")


# ----------------------------------------------------------------------- release, train, sample


@app.command(
    epilog=_examples(
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
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Release a private table: the one step that reads it.

    The result may be given to anyone.

    The table is read in blocks, so it may be larger than memory. Each run spends (epsilon, delta);
    the losses of several releases of one table add up.
    """
    _check_outputs({"--out": out}, [table, schema], overwrite=overwrite, directory="--out")
    description = _load_schema(schema, target=target)  # before torch, which takes seconds
    from dpslice.tabular.files import count_csv_rows, iter_csv
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
    )
    seconds: dict[str, float] = {}
    with _timed(seconds, "release"):
        how = _reading(separator, missing)
        n = count_csv_rows(table, separator=how["separator"]) if amplify_by_order else None
        source = iter_csv(table, description, **how)
        made = _publish(synthesizer, source, out, overwrite=overwrite, quiet=quiet, n=n)
    summary = _summary(
        "release",
        synthesizer.guarantee,
        {"release": out},
        seconds,
        **_sizes(made),
        fingerprint=made.fingerprint,
    )
    with _telling(out):
        if json:
            _console.print_json(summary)
        elif not quiet:
            _print_summary(summary, synthesizer.guarantee)


@app.command(epilog=_examples("dpslice train people.dpslice --out model.pt"))
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
    _check_outputs(outputs, [release_path], overwrite=overwrite)
    from dpslice.tabular.synthesizer import Synthesizer
    from dpslice.torch import CheckpointError

    release = Release.load(release_path)
    options = _training(release.kind, steps, batch_size, models)
    synthesizer = Synthesizer.from_release(release, training=options, seed=seed)
    if restart:
        _remove_checkpoint(state)
    elif state.exists():
        _console.remark(f"going on from {state}", quiet=quiet)
    seconds: dict[str, float] = {}
    with _timed(seconds, "training"):
        kept = f"The checkpoint is kept: the same command goes on from {state}"
        try:
            _train(synthesizer, checkpoint=state, quiet=quiet, kept=kept)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace("resume=False", "--restart")) from None
    synthesizer.save(out)
    if checkpoint is None:
        state.unlink(missing_ok=True)
    assert synthesizer.result is not None
    summary = _summary(
        "train",
        synthesizer.guarantee,
        {"model": out},
        seconds,
        steps=synthesizer.result.steps,
        loss=float(synthesizer.result.history[-1]),
    )
    with _telling(out):
        if json:
            _console.print_json(summary)
        elif not quiet:
            _print_summary(summary, synthesizer.guarantee)


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


@app.command(epilog=_examples("dpslice sample model.pt -n 10000 --out synthetic.csv"))
def sample(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model that train or synthesize wrote.")
    ],
    rows: Annotated[int, typer.Option("--rows", "-n", help="Synthetic rows.")],
    out: Annotated[
        str, typer.Option("--out", help="CSV to write (.gz if packed); - is standard output.")
    ] = "-",
    schema: Annotated[
        Path | None,
        typer.Option("--schema", help="Refuse a model that was made for another schema."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Only rows with this value, such as sex=Female; nothing after = is a missing "
            "one. May be given several times, for different columns.",
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
    _check_outputs({"--out": path}, inputs, overwrite=overwrite, hint=_STANDARD_OUTPUT)
    _check_rows(rows)
    if path is None and sys.stdout is None:
        raise ValueError("standard output is closed: open it, or name a file by --out")
    from dpslice.tabular.files import write_csv, write_text
    from dpslice.tabular.synthesizer import Synthesizer

    synthesizer = Synthesizer.load(model)
    if schema is not None:
        _check_same_schema(synthesizer.schema, _load_schema(schema), model)
    conditions = _conditions(synthesizer.schema, where or [])
    synthetic = synthesizer.sample(rows, seed=seed, conditions=conditions)
    if path is None:
        with _telling():
            write_text(synthetic, sys.stdout.buffer)
        return
    write_csv(synthetic, path)
    total = synthesizer.guarantee
    _console.remark(
        f"{rows} rows written to {path}; they carry the model's guarantee: epsilon "
        f"{rounded_up(total.epsilon)}, delta {rounded_up(total.delta)}, "
        f"{total.adjacency} adjacency",
        quiet=quiet,
    )


def _conditions(schema: Schema, where: Sequence[str]) -> dict[str, object]:
    """Read conditions COLUMN=VALUE as a CSV file's cells are read."""
    from dpslice.tabular.files import cell_value

    conditions: dict[str, object] = {}
    for text in where:
        # A column's name may itself hold "=", and begin as another one does.
        name = max((n for n in schema.names if text.startswith(f"{n}=")), key=len, default=None)
        if name is None:
            raise ValueError(
                f"--where must be COLUMN=VALUE for a column of the table; got {text!r}"
            )
        if name in conditions:
            raise ValueError(f"--where must name a column once; got {name!r} twice")
        conditions[name] = cell_value(schema[name], text[len(name) + 1 :])
    return conditions


def _check_same_schema(of_model: Schema, given: Schema, model: Path) -> None:
    if of_model.columns == given.columns:
        return
    if of_model.names != given.names:
        what = "its columns are " + ", ".join(map(repr, of_model.names))
    else:
        differing = [c.name for c, other in zip(of_model, given, strict=True) if c != other]
        what = f"column {differing[0]!r} is described differently"
    raise ValueError(f"{model} was made for another schema: {what}")


# ------------------------------------------------------------------------------- account, info


@app.command(
    epilog=_examples(
        "dpslice account --epsilon 5 --delta 1e-6 --dim 94 --columns 94",
        "dpslice account --sigma 0.8 --schema people.toml --adjacency replace_one",
        "dpslice account --epsilon 1 --dim 94 --adjacency replace_one --rows 32561",
    )
)
def account(
    dim: Annotated[
        int | None, typer.Option("--dim", help="Features d of an encoded row (or give --schema).")
    ] = None,
    columns: Annotated[
        int | None, typer.Option("--columns", help="Released columns p. Default: d.")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option("--schema", help="Take d and the bounds on the rows from a schema file."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Of --schema: the target that is to be released. Default: its own."
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Total epsilon wanted: what noise?")
    ] = None,
    sigma: Annotated[
        float | None, typer.Option("--sigma", help="Noise, in the unit of the rows: what epsilon?")
    ] = None,
    delta: DeltaOption = DEFAULT_DELTA,
    adjacency: AdjacencyOption = Adjacency.zero_out,
    max_norm: Annotated[
        float | None, typer.Option("--max-norm", help="Bound on the norm of a row. Default: 1.")
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option("--diameter", help="Bound on the distance of two rows. Default: 2 max-norm."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows", "-n", help="Rows n (public): show what counting on their order gives, too."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Convert between noise and guarantee; reads no data.

    Exact accounting of both kinds of frame, what rounding costs included, beside what Theorem 1
    of the paper (arXiv 2410.19941) would need; of a schema, the noise of a release of sums too.
    Under add_remove, of sums alone: --sigma is then the noise on each of a column of weight 1.
    """
    if (epsilon is None) == (sigma is None):
        raise ValueError("exactly one of --epsilon and --sigma must be given")
    if (dim is None) == (schema is None):
        raise ValueError("exactly one of --dim and --schema must be given")
    if target is not None and schema is None:
        raise ValueError("--target is a column of a schema: give --schema")
    if adjacency is Adjacency.add_remove:
        if schema is None:
            raise ValueError("--adjacency add_remove is for releases of sums: give --schema")
        if columns is not None or rows is not None:
            raise ValueError("--columns and --rows are for releases of rows: leave them out")
    if schema is not None:
        if max_norm is not None or diameter is not None:
            raise ValueError("--max-norm and --diameter follow from --schema: leave them out")
        from dpslice.tabular.encoding import Encoding

        description = _load_schema(schema, target=target)
        encoding = Encoding(description)
        if encoding.max_norm == 0.0 and (columns is not None or rows is not None):
            raise ValueError(
                f"all rows of {schema} are alike, as no column has two levels: there is no release "
                "of rows; leave out --columns and --rows"
            )
        if adjacency is Adjacency.add_remove or encoding.max_norm == 0.0:
            promise = _account_sums(description, epsilon, sigma, delta, adjacency.value)
            _print_sums(promise, {"epsilon": epsilon, "sigma": sigma, "delta": delta}, json)
            return
        dim, max_norm, diameter = encoding.d, encoding.max_norm, encoding.diameter
    d = _arrays.positive_integer("dim", dim)
    p = d if columns is None else _arrays.positive_integer("columns", columns)
    norm = 1.0 if max_norm is None else max_norm
    setting: dict[str, Any] = {
        "d": d,
        "p": p,
        "adjacency": adjacency.value,
        "max_norm": norm,
        "diameter": diameter,
    }
    stated: dict[str, Guarantee] = {}
    for frame in accounting.FRAMES:
        length = frames.column_norm_bound(frame, d, p)
        of_frame = {**setting, "frame": frame, "column_norm": length}
        noise = sigma
        if epsilon is not None:
            noise = accounting.calibrate_slicing(epsilon, delta, **of_frame)
        assert noise is not None
        stated[frame] = accounting.slicing_guarantee(sigma=noise, delta=delta, **of_frame)
    in_order = None
    if rows is not None:
        # As `SlicingMechanism` does: gaussian frames that are drawn afresh have no sure bound.
        claim: dict[str, Any] = {**setting, "n": rows, "amplify_by_order": True}
        noise = sigma
        if epsilon is not None:
            noise = accounting.calibrate_slicing(epsilon, delta, **claim)
        assert noise is not None
        in_order = accounting.slicing_guarantee(sigma=noise, delta=delta, epsilon=epsilon, **claim)
    distance = stated["gaussian"].sensitivity
    assert distance is not None
    at = {"d": d, "p": p, "sensitivity": distance}
    paper_noise = sigma
    if epsilon is not None:
        paper_noise = accounting.paper_sigma(epsilon, delta, **at)  # type: ignore[arg-type]
    assert paper_noise is not None
    paper = {
        "sigma": paper_noise,
        "epsilon": accounting.paper_epsilon(delta, sigma=paper_noise, **at),  # type: ignore[arg-type]
        "alpha": accounting.paper_alpha(delta, sigma=paper_noise, **at),  # type: ignore[arg-type]
    }
    sums = None
    if schema is not None and epsilon is not None:
        try:
            sums = _account_sums(description, epsilon, None, delta, adjacency.value)
        except ValueError as error:  # what rows can do, sums may not: they are more numbers
            _console.remark(f"of sums, no such release can be made: {error}")
    if json:
        _console.print_json(
            {
                "asked": {"epsilon": epsilon, "sigma": sigma, "delta": delta},
                **setting,
                "diameter": stated["gaussian"].diameter,
                "sensitivity": distance,
                "frames": {name: g.to_dict() for name, g in stated.items()},
                **({} if in_order is None else {"amplified_by_order": in_order.to_dict()}),
                "paper_theorem_1": paper,
                **({} if sums is None else {"sums": sums.to_dict()}),
            }
        )
        return
    neighbours = NEIGHBOURS[adjacency.value]
    print(f"adjacency {adjacency.value}: {neighbours}; the number of rows is public")
    print(f"delta {delta:g}, d = {d}, p = {p}, rows of norm at most {norm:.9g},")
    print(f"neighbouring rows at most {distance:.9g} apart")
    print()
    up = rounded_up
    shown = {f"{name}, exact": g for name, g in stated.items()}
    if in_order is not None:
        shown[f"orthonormal, order of {rows} rows"] = in_order
    cells = [
        [
            name,
            up(g.sigma or 0.0),
            f"{paper['sigma'] / (g.sigma or 1.0):.3f}",
            up(g.epsilon),
            "-" if g.epsilon_replace_one is None else up(g.epsilon_replace_one),
            up(g.epsilon_numerical),
        ]
        for name, g in shown.items()
    ]
    cells.append(
        ["gaussian, Theorem 1", up(paper["sigma"]), "1.000", up(paper["epsilon"]), "-", "-"]
    )
    replaced = "replace_one epsilon" if adjacency is Adjacency.zero_out else ""
    header = ["frame", "sigma", "Theorem 1's / this", "epsilon", replaced, "of it rounding"]
    kept = [i for i, name in enumerate(header) if name]
    _console.print_table([header[i] for i in kept], [[row[i] for i in kept] for row in cells])
    if sums is not None:
        print()
        print(
            f"a release of sums instead: {sums.p} counts, noise {up(sums.sigma or 0.0)} on each "
            "of a column of weight 1"
        )


def _account_sums(
    schema: Schema, epsilon: float | None, sigma: float | None, delta: float, adjacency: str
) -> Guarantee:
    """Tell what a release of sums of a table of this schema would guarantee."""
    from dpslice.mechanism import SumMechanism
    from dpslice.tabular.discretization import Discretization

    features = Discretization(schema).features()
    return SumMechanism(
        features=features, epsilon=epsilon, sigma=sigma, delta=delta, adjacency=adjacency
    ).account()


def _print_sums(promise: Guarantee, asked: Mapping[str, float | None], json: bool) -> None:
    """Print the account of a release of sums, of which no release of rows is the alternative."""
    if json:
        _console.print_json(
            {"asked": asked, "adjacency": promise.adjacency, "sums": promise.to_dict()}
        )
        return
    neighbours = NEIGHBOURS[promise.adjacency]
    if promise.adjacency == "zero_out":
        neighbours = wording(promise).nothing
    public = "" if promise.adjacency == "add_remove" else "; the number of rows is public"
    print(f"adjacency {promise.adjacency}: {neighbours}{public}")
    print(f"delta {promise.delta:g}, {promise.p} counts,")
    print(f"neighbouring tables at most {promise.sensitivity:.9g} apart")
    print()
    up = rounded_up
    shown = {
        "sigma on each of a column of weight 1": promise.sigma,
        "epsilon": promise.epsilon,
        "replace_one epsilon": promise.epsilon_replace_one,
        "of it rounding": promise.epsilon_numerical,
    }
    known = {name: up(value) for name, value in shown.items() if value is not None}
    _console.print_table(list(known), [list(known.values())])


_PACKAGES = ("numpy", "torch", "pandas", "scikit-learn", "sdmetrics", "statsmodels", "typer")


@app.command(epilog=_examples("dpslice info"))
def info(json: JsonOption = False) -> None:
    """Show versions, instruction set, threads and CUDA."""
    from dpslice import _core

    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = package_metadata.version(package)
        except package_metadata.PackageNotFoundError:
            versions[package] = None
    build = dict(_core.build_config())
    facts: dict[str, Any] = {
        "dpslice": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "instruction set": _core.isa(),
        "instruction sets available": list(_core.available_isas()),
        "threads": _core.num_threads(),
        "cuda kernels": importlib.util.find_spec("dpslice._cuda") is not None,
        "build": build,
        "packages": versions,
    }
    if json:
        _console.print_json(facts)
        return
    rows = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            rows += [
                [f"{name}: {key}", str(item or "not installed")] for key, item in value.items()
            ]
        elif isinstance(value, bool):
            rows.append([name, "yes" if value else "no"])
        else:
            rows.append([name, ", ".join(value) if isinstance(value, list) else str(value)])
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


# ------------------------------------------------------------------------------ verify, report


@app.command(epilog=_examples("dpslice verify people.dpslice"))
def verify(
    release_path: Annotated[
        Path, typer.Argument(metavar="RELEASE", help="A release (a directory).")
    ],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check a release and show its certificate.

    Every file is held against the checksums of the certificate.

    Exit code 1 if anything is missing, damaged or altered, or of a newer format. The checksums show
    damage; they do not show who made the release.
    """
    loaded = Release.load(release_path, verify=True)
    total = total_guarantee(loaded)
    own = loaded.guarantee
    # Claims of the order are computed again as they are read.
    again = own if own.amplified_by_order else accounting.computed_again(own)
    if again is None:
        _console.remark(
            "warning: epsilon could not be computed again; the certificate lacks the numbers",
            quiet=quiet,
        )
    else:
        for name in ("epsilon", "epsilon_replace_one"):
            stated, now = getattr(own, name), getattr(again, name)
            if stated is not None and now is not None and now > stated * (1.0 + 1e-6):
                _console.remark(
                    f"warning: {name} is {rounded_up(now)} by the accounting of this "
                    "version; the certificate is of an earlier one, which charged less for "
                    "rounding",
                    quiet=quiet,
                )
    foreign = releases.foreign_entries(release_path, loaded.kind)
    if foreign:
        _console.remark(
            f"warning: {release_path} holds what is no part of the release, and was not checked: "
            + ", ".join(foreign),
            quiet=quiet,
        )
    if json:
        _console.print_json(
            {
                "valid": True,
                **_sizes(loaded),
                "fingerprint": loaded.fingerprint,
                "other_files": foreign,
                "computed_again": None if again is None else again.to_dict(),
                "guarantee": total.to_dict(),
            }
        )
    elif not quiet:
        print(total)
        print()
        print(f"files match their checksums; fingerprint {loaded.fingerprint}")


_SCORES = (
    ("KSComplement (numbers)", "ks_complement", None),
    ("TVComplement (categories)", "tv_complement", None),
    ("ContingencySimilarity (pairs of categories)", "contingency_similarity", None),
    ("CorrelationSimilarity (pairs of numbers)", "correlation_similarity", None),
    ("logistic regression: ROC AUC", "auc_synthetic", "auc_real"),
    ("logistic regression: F1", "f1_synthetic", "f1_real"),
)


def _print_scores(results: Mapping[str, Any]) -> None:
    """Scores of the synthetic rows beside what real rows reach."""
    reference = results["reference"] or {}

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = []
    for label, key, real_key in _SCORES:
        of_real = reference.get(key) if real_key is None else results.get(real_key)
        rows.append([label, text(results[key]), text(of_real)])
    _console.print_table(["score (1 is best)", "synthetic", "real rows"], rows)
    target = results["classifier"]["target"]
    if results["classifier"]["reason"]:
        print(f"no classifier: {results['classifier']['reason']}")
    else:
        print(f"The classifier predicts {target!r}; it is trained on synthetic or on real rows and")
        print("tested on the same held-out real rows.")
    print(NOT_PRIVATE)


@app.command(
    epilog=_examples(
        "dpslice report synthetic.csv --real people.csv --schema people.toml --out report.html"
    )
)
def report(
    synthetic: Annotated[Path, typer.Argument(metavar="SYNTHETIC", help="The synthetic CSV.")],
    real: Annotated[Path, typer.Option("--real", help="The real CSV to compare with.")],
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
        typer.Option("--holdout", help="CSV of real rows that were not released, for the tests."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Column to predict. Default: the schema's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of random splits.")] = 0,
    separator: SeparatorOption = ",",
    missing: MissingOption = None,
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
    _check_outputs({"--out": out}, inputs, overwrite=overwrite)
    if release_path is not None and model is not None:
        raise ValueError("at most one of --release and --model may be given")
    _check_report_packages()
    from dpslice.tabular.files import read_csv
    from dpslice.tabular.report import write_report

    description = _load_schema(schema)
    how = _reading(separator, missing)
    guarantee = None
    if release_path is not None:
        guarantee = total_guarantee(Release.load(release_path))
    elif model is not None:
        from dpslice.tabular.synthesizer import Synthesizer

        guarantee = Synthesizer.load(model).guarantee
    results = write_report(
        out,
        real=read_csv(real, description, **how),
        synthetic=read_csv(synthetic, description),
        schema=description,
        guarantee=guarantee,
        target=target,
        holdout=None if holdout is None else read_csv(holdout, description, **how),
        seed=seed,
    )
    with _telling(out):
        if json:
            _console.print_json(
                {"command": "report", "private": False, "file": str(out), **results}
            )
        elif not quiet:
            _print_scores(results)
            print(f"written: {out}")


# ---------------------------------------------------------------------------------------- schema


@schema_app.command(
    "template", epilog=_examples("dpslice schema template people.csv --out people.toml")
)
def schema_template(
    table: TableArgument,
    out: Annotated[
        str, typer.Option("--out", help="Schema file to write; - is standard output.")
    ] = "-",
    separator: SeparatorOption = ",",
    overwrite: OverwriteOption = False,
) -> None:
    """Write a schema file to fill in, with the column names of a table's header.

    Reads the header line alone: column names are public, values are not looked at.
    """
    path = None if out == "-" else Path(out)
    _check_outputs({"--out": path}, [table], overwrite=overwrite, hint=_STANDARD_OUTPUT)
    from dpslice.tabular.files import read_header, replacing

    text = _template(read_header(table, separator=_reading(separator, None)["separator"]))
    if path is None:
        print(text, end="")
        return
    with replacing(path) as handle:
        handle.write(text.encode())


_TEMPLATE_HEAD = """\
# Fill in each column from public knowledge: a survey's codebook, the law, common sense. Never
# from the data; what only the data can tell, `dpslice schema infer` pays for with privacy budget.
#
#   type = "integer"      or "real": min and max, beyond which values are clipped;
#                         special = [0] for values that are states of their own;
#                         scale = "log" for a heavy tail
#   type = "categorical"  categories = ["a", "b"]; other = "b" takes values that are not listed
#   type = "boolean"
#   type = "datetime"     min = 2019-01-01, max = 2024-12-31
#   nullable = true       if values may be missing

"""


def _template(names: Sequence[str]) -> str:
    from dpslice.tabular import _toml

    return _TEMPLATE_HEAD + _toml.dumps({"columns": {name: {"type": ""} for name in names}})


@schema_app.command(
    "infer",
    epilog=_examples(
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
            "categories may be left out, or SDV metadata in JSON. Types are those of a schema, "
            "date (datetimes of whole days) and categorical_integer; columns may have missing "
            "values unless nullable = false.",
        ),
    ],
    epsilon: Annotated[
        float, typer.Option("--epsilon", help="Privacy loss allowed for the schema alone, > 0.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Schema file to write.")],
    delta: DeltaOption = DEFAULT_DELTA,
    adjacency: AdjacencyOption = Adjacency.zero_out,
    target: Annotated[
        str | None, typer.Option("--target", help="Target column to note in the schema.")
    ] = None,
    separator: SeparatorOption = ",",
    missing: MissingOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Estimate bounds and categories from a private table.

    This spends the stated share of the privacy budget.

    The cost is written into the schema file; every release made with it adds it to its own
    guarantee. Columns that are described completely cost nothing.

    The types file says ``type`` for each ``[columns.<name>]``; what else it says counts as
    public.
    """
    _check_outputs({"--out": out}, [table, types], overwrite=overwrite)
    from dpslice.tabular.files import read_csv
    from dpslice.tabular.schema import Schema

    kinds, nullable, prior, noted = _read_types(types)
    csv_types = {name: _csv_type(kind) for name, kind in kinds.items()}
    frame = read_csv(table, csv_types, **_reading(separator, missing))
    inferred = Schema.infer(
        frame,
        epsilon=epsilon,
        delta=delta,
        types=kinds,
        adjacency=adjacency.value,
        nullable=nullable,
        target=noted if target is None else target,
        prior=prior,
    )
    inferred.save(out)
    cost = inferred.guarantee
    with _telling(out):
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


def _read_types(
    path: Path,
) -> tuple[dict[str, str | Column], list[str], Guarantee | None, str | None]:
    """Types for `Schema.infer`, columns that may have missing values, what is spent, the target.

    The file may be a schema that was itself inferred, some of its columns to be done again: what it
    has cost is not undone by that.
    """
    from dpslice.tabular.schema import (
        Schema,
        read_document,
        read_guarantee,
        sdv_types,
        table_keys,
    )

    document, is_sdv = read_document(path)
    if is_sdv:
        sdv: dict[str, str | Column] = dict(sdv_types(document))
        return sdv, list(sdv), None, None
    unknown = [key for key in document if key not in ("table", "columns", "guarantee")]
    if unknown:
        raise ValueError(
            f"{path}: must have the tables [columns.<name>], [table] and [guarantee] alone; got "
            f"{unknown[0]!r}"
        )
    tables = document.get("columns")
    if not isinstance(tables, Mapping) or not tables:
        raise ValueError(f"{path}: must have a table [columns.<name>] for each column")
    try:
        about = table_keys(document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
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
    return kinds, nullable, read_guarantee(document), about.get("target")


def _csv_type(kind: str | Column) -> str:
    from dpslice.tabular.schema import Categorical

    if isinstance(kind, str):
        return kind
    if isinstance(kind, Categorical) and not kind.is_text:
        return "categorical_integer"
    return kind.type


@schema_app.command("check", epilog=_examples("dpslice schema check people.toml people.csv"))
def schema_check(
    schema: Annotated[
        Path,
        typer.Argument(metavar="SCHEMA", help="Schema file: TOML, or SDV metadata in JSON."),
    ],
    table: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TABLE]", help="A CSV to hold against it. Messages may quote its cells."
        ),
    ] = None,
    separator: SeparatorOption = ",",
    missing: MissingOption = None,
    json: JsonOption = False,
) -> None:
    """Check a schema file, and a table against it; spends nothing and writes nothing."""
    from dpslice.tabular.encoding import Encoding
    from dpslice.tabular.files import iter_csv
    from dpslice.tabular.schema import Datetime, Number

    description = _load_schema(schema)
    encoding = Encoding(description)
    n = None
    clipped: Counter[str] = Counter()
    if table is not None:
        n = 0
        for piece in iter_csv(table, description, **_reading(separator, missing)):
            # Encoding checks every cell as a release would; the rows are thrown away.
            n += len(encoding.encode(piece))
            for column in description:
                if isinstance(column, (Number, Datetime)):
                    clipped[column.name] += column.outside(piece[column.name])
    whole = encoding.max_norm or 1.0  # 0 if no column allows two values
    shares = [(block.radius / whole) ** 2 for block in encoding.blocks]
    blocks = [
        {
            "name": block.column,
            "type": column.type,
            "entries": block.stop - block.start,
            "share_of_squared_norm": share,
        }
        for column, block, share in zip(description, encoding.blocks, shares, strict=True)
    ]
    cost = description.guarantee
    if json:
        _console.print_json(
            {
                "valid": True,
                "columns": blocks,
                "d": encoding.d,
                "max_norm": encoding.max_norm,
                "diameter": encoding.diameter,
                "target": description.target,
                "n": n,
                "outside_bounds": None if table is None else dict(clipped),
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
        f"d = {encoding.d}, rows of norm at most {encoding.max_norm:.6g}, "
        f"{encoding.diameter:.6g} apart at most"
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
        print(f"the table follows the schema: {n} rows")


# ------------------------------------------------------------------------------------------ demo


@app.command(epilog=_examples("dpslice demo --out demo-output"))
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
    _refuse_in_release("--out", _real_path(paths["release"]))
    if out.exists():
        _check_outputs(paths, [], overwrite=overwrite, directory="release")
    _arrays.require("statsmodels", extra="demo")
    _check_report_packages()
    from dpslice.tabular import demo as embedded
    from dpslice.tabular.files import replacing, write_csv
    from dpslice.tabular.report import write_report
    from dpslice.tabular.schema import Schema
    from dpslice.tabular.synthesizer import Synthesizer

    out.mkdir(parents=True, exist_ok=True)
    with replacing(paths["schema"]) as handle:
        handle.write(embedded.schema_text().encode())
    schema = Schema.load(paths["schema"])
    private, held_out = embedded.load_tables()
    write_csv(private, paths["table"])
    write_csv(held_out, paths["held-out rows"])
    synthesizer = Synthesizer(
        schema,
        epsilon=epsilon,
        delta=delta,
        method=method.value,
        adjacency=adjacency.value,
        training=_training(method.value, steps, batch_size, models),
        seed=seed,
    )
    seconds: dict[str, float] = {}
    with _timed(seconds, "release"):
        release = _publish(synthesizer, private, paths["release"], overwrite=overwrite, quiet=quiet)
    with _timed(seconds, "training"):
        kept = f"The release is kept: go on with dpslice train {paths['release']}"
        _train(synthesizer, checkpoint=None, quiet=quiet, kept=kept)
    with _timed(seconds, "sampling"):
        synthetic = synthesizer.sample(release.estimated_n)
        synthesizer.save(paths["model"])
        write_csv(synthetic, paths["synthetic table"])
    _console.remark("writing the report", quiet=quiet)
    with _timed(seconds, "report"):
        results = write_report(
            paths["report"],
            real=private,
            synthetic=synthetic,
            schema=schema,
            guarantee=synthesizer.guarantee,
            holdout=held_out,
            seed=seed,
            training=synthesizer.training_facts(),
        )
    summary = _summary(
        "demo",
        synthesizer.guarantee,
        paths,
        seconds,
        **_sizes(release),
        rows=len(synthetic),
        scores_not_private={key: results[key] for _, key, _ in _SCORES},
    )
    with _telling(*paths.values()):
        if json:
            _console.print_json(summary)
        elif not quiet:
            _print_summary(summary, synthesizer.guarantee)
            print()
            _print_scores(results)
            print()
            print(f"Open {paths['report']} in a browser. By hand, the same job is:")
            print(
                f"  dpslice synthesize {paths['table']} --schema {paths['schema']} "
                f"--epsilon {epsilon:g} --delta {delta:g} --out synthetic.csv"
            )
