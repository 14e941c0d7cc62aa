"""``dpslice verify``: a release is held against its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpslice import accounting
from dpslice import release as releases
from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import JsonOption, QuietOption
from dpslice._cli._run import sizes_of
from dpslice.accounting import Guarantee
from dpslice.accounting._guarantee import leaves_of, rounded_up
from dpslice.release import Release, total_guarantee


@app.command(epilog=examples("dpslice verify people.dpslice"))
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
    # Of several releases, it is no more than what is stated of a part that lacks its numbers.
    if again is None or any(map(_lacks_numbers, leaves_of([own]))):
        again = None
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
    if total is not own:
        _console.remark(
            "what the schema has cost is as stated: it is not computed again", quiet=quiet
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
                **sizes_of(loaded),
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


def _lacks_numbers(part: Guarantee) -> bool:
    return not part.amplified_by_order and accounting.computed_again(part) is None
