"""The application with all its commands, in the order in which the help lists them."""

# isort: off
from dpslice._cli._app import app
from dpslice._cli import synthesize, release, train, sample  # noqa: F401
from dpslice._cli import account, info, verify, report, demo, schema  # noqa: F401

__all__ = ["app"]
