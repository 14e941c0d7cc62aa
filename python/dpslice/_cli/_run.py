"""The release and the training of several commands, and what is said of them afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpslice._cli import _console
from dpslice._cli._app import Interrupted
from dpslice.release import Release, RowRelease, SumRelease

if TYPE_CHECKING:
    import pandas as pd

    from dpslice.accounting import Guarantee
    from dpslice.tabular.rules import Rule
    from dpslice.tabular.synthesizer import Synthesizer

# Noise of this share of all rows leaves next to nothing to be learned.
_HOPELESS = 0.2


def publish(
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

    # Said once rows are read: before that, the release may be refused for too many rounds.
    announced = synthesizer.rounds == 0

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


def tell_of_rules(
    synthesizer: Synthesizer,
    rules: Sequence[Rule] | None,
    *,
    conditions: bool = False,
    quiet: bool,
) -> float | None:
    """Tell how many rows had to be drawn anew, if there are rules: the schema's, or others.

    Their share is returned; None if nobody is told.
    """
    if quiet or not (synthesizer.schema.impossible if rules is None else rules):
        return None
    share = synthesizer.broken_share(rules)
    _console.remark(
        f"{share:.2%} of the model's own rows"
        f"{' (without conditions)' if conditions else ''} break a rule on what is impossible; such "
        "rows were drawn anew",
        quiet=quiet,
    )
    return share


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
    counted = release.guarantee.adjacency != "add_remove"
    rows = f"all {n} rows" if counted else f"all rows, about {n} of them,"
    if isinstance(release, SumRelease):
        share, what = float(np.min(release.noise)) / n, "each count"
    else:
        whole = release.guarantee.max_norm or math.inf
        share, what = release.sigma / math.sqrt(n) / whole, "the average row"
    if share > _HOPELESS:
        _console.remark(
            f"warning: the noise on {what} is {share:.0%} of what {rows} together can make: what "
            "is learned from this release will be little else",
            quiet=quiet,
        )


def run_training(
    synthesizer: Synthesizer, *, checkpoint: Path | None, quiet: bool, kept: str
) -> None:
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


@contextmanager
def having_spent(kept: str) -> Iterator[None]:
    """Where what follows a release fails, say that it was made, and what is kept."""
    try:
        yield
    except Interrupted:
        raise  # whose message says so
    except KeyboardInterrupt:
        raise Interrupted(f"the table was released before. {kept}") from None
    except Exception as error:
        error.add_note(f"The table was released: epsilon and delta are spent. {kept}")
        raise


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)


def sizes_of(release: Release) -> dict[str, Any]:
    """Return what is public of a release's sizes and noise."""
    sizes: dict[str, Any] = {"kind": release.kind, "d": release.d, "p": release.p}
    if release.guarantee.adjacency != "add_remove":
        sizes["n"] = release.n
    if isinstance(release, RowRelease):
        sizes["frame"] = release.frame_kind
    return {**sizes, "sigma": release.sigma}


def summary_of(
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


def print_summary(summary: Mapping[str, Any], guarantee: Guarantee) -> None:
    print(guarantee)
    print()
    width = max(map(len, summary["files"]))
    for name, path in summary["files"].items():
        print(f"{name:<{width}}  {path}")
    times = ", ".join(f"{name} {value:.1f} s" for name, value in summary["seconds"].items())
    if times:
        print(f"time: {times}")
