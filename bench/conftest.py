"""Measures a case once, and gives each of its contenders to pytest-benchmark as a test."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

import ceilings
import dpslice
import harness
from dpslice import _core


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="the marked cases, two rounds each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        # Compiling takes longer than all the rest.
        kept = [
            item
            for item in items
            if item.get_closest_marker("quick")
            and item.callspec.params["contender"] != harness.COMPILED  # type: ignore[attr-defined]
        ]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    import numpy
    import torch

    found = ceilings.measure(repeats=5 if config.getoption("--quick") else 20)
    machine_info["ceilings"] = None if found is None else asdict(found)
    machine_info["dpslice"] = {"isa": _core.isa(), **_core.build_config()}
    machine_info["versions"] = {
        "dpslice": dpslice.__version__,
        "numpy": numpy.__version__,
        "torch": torch.__version__,
    }


class _Replay:
    """A clock that tells the times that were measured, for pytest-benchmark to take down."""

    def __init__(self) -> None:
        self._ticks: list[float] = []

    def load(self, samples: tuple[float, ...]) -> None:
        self._ticks = [tick for sample in reversed(samples) for tick in (sample, 0.0)]

    def __call__(self) -> float:
        return self._ticks.pop()


CLOCK = _Replay()


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@pytest.fixture(scope="session")
def _measured() -> dict[str, dict[str, harness.Measurement]]:
    return {}


@pytest.fixture
def replay(
    benchmark: Any,
    _measured: dict[str, dict[str, harness.Measurement]],
    request: pytest.FixtureRequest,
) -> harness.Replay:
    """Measure the case unless that was done, and replay the samples of one contender."""

    def run(case: harness.Case, contender: str) -> None:
        if case.id not in _measured:
            # Contenders that were deselected are not run.
            names = [
                callspec.params["contender"]
                for item in request.session.items
                if (callspec := getattr(item, "callspec", None))
                and callspec.params.get("case") is case
            ]
            quick = request.config.getoption("--quick")
            _measured[case.id] = harness.measure(case, names, quick=quick)
        result = _measured[case.id][contender]
        if result.skipped:
            pytest.skip(f"{contender}: {result.skipped}")
        if result.failed:
            pytest.fail(result.failed, pytrace=False)
        benchmark.group = case.id
        benchmark.extra_info.update(
            kernel=case.kernel,
            variant=case.variant,
            sizes=dict(case.sizes),
            series=case.series,
            contender=contender,
            threads=result.threads,
            error=dict(result.error),
            counts=asdict(result.counts),
            facts=dict(result.facts),
        )
        CLOCK.load(result.samples)
        benchmark.pedantic(lambda: None, rounds=len(result.samples))

    return run
