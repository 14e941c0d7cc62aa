"""The Typer application, and its way of failing: one line and an exit code."""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dpslice import __version__
from dpslice._cli import _console
from dpslice._cli._exits import FAILED, INTERRUPTED


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
    notes = getattr(error, "__notes__", ())
    return " ".join([*text.split(), *notes])


def examples(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)  # \b: keep these lines


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: the same on every terminal, and easy to search
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "dpslice demo",
        "dpslice synthesize people.csv --schema people.toml --epsilon 5 --out synthetic.csv",
    )
    + "\n\nExit codes: 0 success; 1 error in files, data or values; 2 wrong usage; 130 Ctrl-C.",
)


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
