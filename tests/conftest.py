"""What all tests share: instruction sets, thread counts, data, hypothesis settings."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from dpslice import SlicingMechanism, SumMechanism, _core

# Fixed examples: a failure is one for everybody, and no test is flaky. Nor is any test about time.
settings.register_profile("dpslice", derandomize=True, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dpslice"))

# Shells start background jobs with Ctrl-C switched off; tests of it want it on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=_core.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once with each instruction set that the machine has."""
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


@pytest.fixture
def keep_threads() -> Iterator[None]:
    """Let the test set the number of threads, and put it back."""
    before = _core.num_threads()
    yield
    _core.set_num_threads(before)


@pytest.fixture
def account_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Account for each kind of release once: for tests that make many of the same kind."""
    for mechanism in (SlicingMechanism, SumMechanism):
        monkeypatch.setattr(mechanism, "account", functools.cache(mechanism.account))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the public tables; tests that need one are skipped where there is none."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("DPSLICE_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder of data at {folder}: set DPSLICE_DATA")
    return folder


@pytest.fixture(scope="session")
def once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder that all processes of a test run share: `once(name, make)`.

    The first process that asks calls `make(folder)`; the others wait, and call `make` only if that
    failed. Not for Windows.
    """
    import fcntl

    base = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # of xdist: its folder lies in that of the run
        base = base.parent

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                done.touch()
        return folder

    return folder_of
