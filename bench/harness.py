"""Cases, contenders and the interleaved clock that all benchmarks share.

A *case* is one question at one size; its *contenders* answer it from the same data in one process.
Before anything is timed, each answer is compared with a float64 reference. Then the contenders run
in turn, many short rounds, so that a machine that is busy with other things disturbs all alike;
who is slow takes part in fewer rounds, evenly spread. The samples are then handed to
pytest-benchmark, one test per contender (`conftest.py`).
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

import dpslice
from ceilings import Ceilings
from dpslice import _core

OURS = "dpslice"
OURS_TWO = "dpslice, 2 threads"
OURS_APART = "dpslice, sums by themselves"  # value and gradient in two calls, by autograd
STRICT = "torch, strict"
NAIVE = "torch, as used"
COMPILED = "torch.compile"

# Seconds of timing per case, and bounds on the rounds of one contender.
BUDGET = 3.0
GROWTH_BUDGET = 0.8
QUICK_BUDGET = 0.1
MOST_ROUNDS = 100
FEWEST_ROUNDS = 5
SLOW_SECONDS = 0.7  # calls that take longer run three times only,
SLOWEST_SECONDS = 3.0  # and beyond this once, after the run that is checked

Answer = Mapping[str, Any]  # what is computed, by name: arrays or tensors


class Unavailable(Exception):
    """A contender that cannot run here, with the reason."""


@dataclass(frozen=True)
class Counts:
    """The least work of a case: float32 operations, exponentials, key stream, bytes moved.

    And what our way makes of it, counted from its source: `own_products`, multiply-adds of matrix
    products, and `own_lanes`, other vector operations, both in lanes of float32 (one of float64 is
    two); and the key stream that is made for it. Zero where that depends on the data.
    """

    flop: float = 0.0
    exp: float = 0.0
    key_bytes: float = 0.0
    read: float = 0.0
    written: float = 0.0
    own_products: float = 0.0
    own_lanes: float = 0.0
    own_key_bytes: float = 0.0

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds that one core needs at least: the resource that takes longest, by itself."""
        return max(
            self.flop / ceilings.flop,
            self.exp / ceilings.exp,
            self.key_bytes / ceilings.key_bytes,
            self.read / ceilings.read_bytes + self.written / ceilings.write_bytes,
        )

    def own_floor(self, ceilings: Ceilings) -> float:
        """Seconds that our way takes at least: they all need the same units, one after another."""
        return (
            2 * self.own_products / ceilings.flop
            + self.own_lanes / ceilings.lanes
            + self.own_key_bytes / ceilings.key_bytes
        )


def exponential_lanes(*, double: bool = False) -> int:
    """Vector operations of one of our exponentials (csrc/simd.h), in lanes of float32."""
    # Argument, table or shift, and the terms of the polynomial.
    if _core.isa() == "avx512":
        return 2 * 14 if double else 11
    return 2 * 17 if double else 12


@dataclass(frozen=True)
class Contender:
    """Something that answers the question of a case.

    `call` returns the answer; `threads` it may use; `default_malloc`: whether memory is returned to
    the system between calls, as it is by default, or kept. Where the answer of `call` is random,
    `checked` returns what is compared with the truth in its place. `facts` are measured once, apart
    from time.
    """

    call: Callable[[], Any]
    threads: int = 1
    default_malloc: bool = False
    checked: Callable[[], Answer] | None = None
    facts: Callable[[], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Group:
    """A case with its data: contenders by name, each made when its turn comes."""

    contenders: Mapping[str, Callable[[], Contender]]
    truth: Answer
    tolerance: Mapping[str, float]  # of the relative error, by name of the answer
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True)
class Case:
    """One question at one size.

    `series` names the size that grows, for the plot; cases without one are rows of the table.
    """

    kernel: str
    sizes: tuple[tuple[str, int], ...]
    build: Callable[..., Group]
    names: tuple[str, ...]
    series: str | None = None
    quick: bool = False
    variant: str = ""

    @property
    def id(self) -> str:
        """Name of the group of benchmarks."""
        sizes = " ".join(f"{name}={size}" for name, size in self.sizes)
        title = f"{self.kernel} {self.variant}".strip()
        return f"{title} [{sizes}]" + (f" over {self.series}" if self.series else "")

    def group(self) -> Group:
        """Make the data and the contenders."""
        return self.build(**dict(self.sizes))


Replay = Callable[[Case, str], None]  # reports what one contender of a case has measured


@dataclass(frozen=True)
class Measurement:
    """What is known of one contender after its case was run."""

    samples: tuple[float, ...] = ()
    error: Mapping[str, float] = field(default_factory=dict)
    threads: int = 1
    counts: Counts = field(default_factory=Counts)
    facts: Mapping[str, float] = field(default_factory=dict)
    skipped: str = ""
    failed: str = ""


def parameters(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Parametrize a test over cases and contenders; the reduced set is marked quick."""
    return pytest.mark.parametrize(
        ("case", "contender"),
        [
            pytest.param(
                case,
                name,
                id=f"{case.id}-{name}",
                marks=[pytest.mark.quick] if case.quick else [],
            )
            for case in cases
            for name in case.names
        ],
    )


# --------------------------------------------------------------------------------- surroundings

_MALLOC = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of glibc's malloc.h


def _keep_memory() -> None:
    """Make malloc keep what is freed: no page is faulted in twice."""
    if hasattr(_MALLOC, "mallopt"):
        _MALLOC.mallopt(_MMAP_MAX, 0)
        _MALLOC.mallopt(_TRIM_THRESHOLD, -1)


def _default_memory() -> None:
    """Set malloc to where its defaults lead once a large array was freed, and return memory."""
    if hasattr(_MALLOC, "mallopt"):
        _MALLOC.mallopt(_MMAP_MAX, 65536)
        _MALLOC.mallopt(_MMAP_THRESHOLD, 32 << 20)
        _MALLOC.mallopt(_TRIM_THRESHOLD, 64 << 20)
        _MALLOC.malloc_trim(0)


@contextmanager
def _surroundings(contender: Contender, pools: ThreadpoolController) -> Iterator[None]:
    dpslice.set_num_threads(contender.threads)
    torch.set_num_threads(contender.threads)
    if contender.default_malloc:
        _default_memory()
    try:
        with pools.limit(limits=contender.threads):
            yield
    finally:
        _keep_memory()


def two_threads(contender: Contender) -> Contender:
    """Give the same two threads; unavailable on one core."""
    if (os.cpu_count() or 1) < 2:
        raise Unavailable("this machine has one core")
    return replace(contender, threads=2)


def tuned(candidates: Sequence[Callable[[], Answer]]) -> Callable[[], Answer]:
    """Return the quickest of several ways to write a peer, so that ours is held to the best."""
    best: tuple[float, Callable[[], Answer]] = (math.inf, candidates[0])
    for call in candidates:
        call()
        start = time.perf_counter()
        call()
        best = min(best, (time.perf_counter() - start, call), key=lambda pair: pair[0])
    return best[1]


# -------------------------------------------------------------------------------------- errors


def relative_error(found: Any, truth: Any) -> float:
    """Norm of the error over the norm of the truth."""
    found = np.asarray(found, dtype=np.float64)
    truth = np.asarray(truth, dtype=np.float64)
    if found.shape != truth.shape:
        raise AssertionError(f"shapes differ: {found.shape} and {truth.shape}")
    error, scale = float(np.linalg.norm(found - truth)), float(np.linalg.norm(truth))
    return error / scale if scale > 0 else error


def check(name: str, answer: Answer, group: Group) -> dict[str, float]:
    """Return the errors of an answer; AssertionError where one is beyond tolerance."""
    errors = {}
    for quantity, truth in group.truth.items():
        if quantity not in answer:
            continue
        errors[quantity] = relative_error(answer[quantity], truth)
        limit = group.tolerance[quantity]
        if not errors[quantity] <= limit:
            raise AssertionError(
                f"{name}: {quantity} is off by {errors[quantity]:.2e}, more than {limit:.0e}"
            )
    return errors


# ---------------------------------------------------------------------------------------- time


def _timed(contender: Contender) -> float:
    start = time.perf_counter()
    contender.call()
    return time.perf_counter() - start


def _rounds(estimate: float, budget: float) -> int:
    if estimate > SLOW_SECONDS:
        return 1 if estimate > SLOWEST_SECONDS else 3
    return min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(budget / max(estimate, 1e-9))))


def measure(case: Case, names: Sequence[str], *, quick: bool) -> dict[str, Measurement]:
    """Check the answers of a case's contenders, then time them in turn."""
    _keep_memory()
    group = case.group()
    contenders: dict[str, Contender] = {}
    errors: dict[str, Mapping[str, float]] = {}
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    estimates: dict[str, float] = {}
    for name in names:
        try:
            with _surroundings(Contender(lambda: None), ThreadpoolController()):
                contender = group.contenders[name]()
            with _surroundings(contender, ThreadpoolController()):
                start = time.perf_counter()
                answer = (contender.checked or contender.call)()
                estimates[name] = time.perf_counter() - start
                errors[name] = check(name, answer, group)
                del answer
                if estimates[name] <= 2 * SLOW_SECONDS:
                    if contender.checked:
                        contender.call()
                    estimates[name] = _timed(contender)
        except Unavailable as reason:
            skipped[name] = str(reason)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
        else:
            contenders[name] = contender

    pools = ThreadpoolController()  # of all the libraries that are loaded by now
    budget = QUICK_BUDGET if quick else GROWTH_BUDGET if case.series else BUDGET
    share = budget / max(1, len(contenders))
    turns = {name: 2 if quick else _rounds(estimates[name], share) for name in contenders}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    total = max(turns.values(), default=0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for r in range(total):
            disturbed = False
            # Those that return their memory go first; the others fault theirs in again unseen.
            for name in sorted(contenders, key=lambda name: not contenders[name].default_malloc):
                n = turns[name]
                if (r + 1) * n // total == r * n // total:
                    continue
                contender = contenders[name]
                with _surroundings(contender, pools):
                    quick_one = estimates[name] <= SLOW_SECONDS
                    if disturbed and quick_one and not contender.default_malloc:
                        contender.call()
                    samples[name].append(_timed(contender))
                disturbed = disturbed or contender.default_malloc
    finally:
        if collecting:
            gc.enable()
    facts = {name: contender.facts() for name, contender in contenders.items() if contender.facts}
    results = {
        name: Measurement(
            tuple(samples[name]),
            errors[name],
            contenders[name].threads,
            group.counts,
            facts.get(name, {}),
        )
        for name in contenders
    }
    results |= {name: Measurement(skipped=reason) for name, reason in skipped.items()}
    results |= {name: Measurement(failed=message) for name, message in failed.items()}
    return results
