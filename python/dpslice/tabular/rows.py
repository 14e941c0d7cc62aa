"""Synthesis from a release of rows: encoded rows, a small network, the smoothed likelihood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import pandas as pd
import torch

from dpslice import _arrays
from dpslice.accounting import ADJACENCIES
from dpslice.mechanism import SlicingMechanism
from dpslice.release import RowRelease
from dpslice.tabular._conditions import Conditions, drawn_until, keep_to_rules, refusal_of
from dpslice.tabular._places import states_of, value_to_place
from dpslice.tabular.columns import Datetime, Number
from dpslice.tabular.encoding import Encoding, Rows
from dpslice.tabular.generator import TabularGenerator
from dpslice.tabular.moments import estimate_moments
from dpslice.tabular.schema import Schema
from dpslice.torch.losses import SmoothedLikelihood
from dpslice.torch.training import FitResult, fit

__all__ = ["RowMethod", "TrainingOptions"]

# Of a column's scale: what lies no farther from a number meets the condition to be it, and then is
# made it; of several numbers, the nearest. Bins of sums are as wide on both sides together.
_NEAR: Final = 1.0 / 64.0

# Of an encoded row: its frame has their square, gigabytes, and takes many minutes to make.
_MOST_ENTRIES: Final = 20_000


@dataclass(frozen=True)
class TrainingOptions:
    """How a generator is trained on a release of rows. None of it costs privacy.

    The defaults were chosen by measurement (``bench/quality.py``).

    Parameters
    ----------
    steps : int
        Steps of Adam.
    batch_size : int
        Released rows, and synthetic rows, per step.
    lr : float
        Peak learning rate; a cosine schedule lowers it to 0.
    ema : float or None
        Decay of the running mean of the weights, which is what is sampled from in the end.
    code_dim, hidden, temperature
        As in `TabularGenerator`.

    Raises
    ------
    TypeError
        If an option is of the wrong kind.
    ValueError
        If it is out of range: steps < 0, ema not between 0 and 1, the others not positive.
    """

    steps: int = 1000
    batch_size: int = 2048
    lr: float = 1e-3
    ema: float | None = 0.998
    code_dim: int = 16
    hidden: tuple[int, ...] = (128, 128)
    temperature: float = 0.5

    if TYPE_CHECKING:  # what the fields are made of

        def __init__(
            self,
            steps: int = 1000,
            batch_size: int = 2048,
            lr: float = 1e-3,
            ema: float | None = 0.998,
            code_dim: int = 16,
            hidden: Sequence[int] = (128, 128),
            temperature: float = 0.5,
        ) -> None: ...

    def __post_init__(self) -> None:
        # Checked before anything is released: the budget is not to be spent for a mistake. What is
        # kept are Python's own numbers, which a file can hold.
        hidden = _arrays.elements("hidden", self.hidden)  # lists come out of files
        _arrays.store(
            self,
            steps=_arrays.integer("steps", self.steps, minimum=0),
            batch_size=_arrays.positive_integer("batch_size", self.batch_size),
            lr=_arrays.positive_real("lr", self.lr),
            ema=None if self.ema is None else _arrays.open_unit("ema", self.ema),
            code_dim=_arrays.positive_integer("code_dim", self.code_dim),
            hidden=tuple(_arrays.positive_integer("hidden", width) for width in hidden),
            temperature=_arrays.positive_real("temperature", self.temperature),
        )


class RowMethod:
    """What `Synthesizer` does with ``method="rows"``.

    Parameters
    ----------
    schema : Schema
        The public schema.
    options : TrainingOptions
        How the generator is trained.
    settings : mapping, optional
        Arguments of `Encoding`, as `settings` returned them. Default: its defaults.
    """

    name: ClassVar[str] = "rows"
    adjacencies: ClassVar[tuple[str, ...]] = ADJACENCIES
    options_class: ClassVar[type[TrainingOptions]] = TrainingOptions
    settings_key: ClassVar[str] = "encoding"  # in the metadata of a release

    def __init__(
        self, schema: Schema, options: TrainingOptions, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.options = options
        self.encoding = Encoding(schema, **(settings or {}))

    def settings(self) -> dict[str, Any]:
        """Return what makes the same coordinates of the same schema."""
        return self.encoding.weights()

    def publish(
        self,
        df: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        epsilon: float,
        delta: float,
        adjacency: str,
        rows_per_person: int,
        seed: int,
        amplify_by_order: bool = False,
        n: int | None = None,
        **where: Any,
    ) -> RowRelease:
        """Release a private table; `where` is passed on to `SlicingMechanism.release`."""
        if self.encoding.max_norm == 0.0:
            raise ValueError(
                "schema must allow at least two different rows; each of its columns has one "
                "possible value, so there is nothing to release"
            )
        if self.encoding.d > _MOST_ENTRIES:
            widest = sorted(self.encoding.blocks, key=lambda b: b.start - b.stop)[:3]
            named = ", ".join(f"{b.column!r} ({b.stop - b.start})" for b in widest)
            raise ValueError(
                f"schema must encode rows of at most {_MOST_ENTRIES} entries, as a release of rows "
                f"has a frame of their square; got {self.encoding.d}, most of them in {named}: "
                "drop or coarsen such columns"
            )
        mechanism = SlicingMechanism(
            epsilon=epsilon,
            delta=delta,
            adjacency=adjacency,
            max_norm=self.encoding.max_norm,
            diameter=self.encoding.diameter,
            seed=seed,
            amplify_by_order=amplify_by_order,
            rows_per_person=rows_per_person,
        )
        if isinstance(df, pd.DataFrame) and n is None:
            n = len(df) or None  # of no rows, encoding speaks
        return mechanism.release(self.encoding.encode_blocks(df), n=n, **where)

    def check(self, release: RowRelease) -> None:
        """Raise ValueError unless the release's rows are of this encoding."""
        if release.d != self.encoding.d:
            raise ValueError(
                f"release must have rows of {self.encoding.d} entries, as the schema encodes "
                f"them; got {release.d}"
            )

    def new_model(self) -> TabularGenerator:
        """Make a generator, not trained yet."""
        options = self.options
        return TabularGenerator(
            self.encoding,
            code_dim=options.code_dim,
            hidden=options.hidden,
            temperature=options.temperature,
        )

    def train(
        self, release: RowRelease, *, seed: int, **how: Any
    ) -> tuple[TabularGenerator, FitResult]:
        """Train a new generator; `how` is passed on to `dpslice.torch.fit`."""
        options = self.options
        with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours to move
            torch.manual_seed(seed)
            generator = self.new_model()
        generator.start_from(estimate_moments(release))
        loss = SmoothedLikelihood(release, batch_size=options.batch_size, seed=seed)
        result = fit(
            generator,
            loss,
            steps=options.steps,
            batch_size=options.batch_size,
            lr=options.lr,
            ema=options.ema,
            seed=seed,
            settings={"temperature": options.temperature},
            **how,
        )
        return generator, result

    def sample(
        self,
        generator: TabularGenerator,
        n: int,
        *,
        seed: int,
        conditions: Conditions,
        schema: Schema,
    ) -> pd.DataFrame:
        """Draw rows; those that meet conditions and break no rule are found by rejection.

        Rules are those of `schema`, which is else the method's own.
        """
        source = torch.Generator().manual_seed(seed)

        def draw(rows: int) -> pd.DataFrame:
            z = torch.randn(rows, generator.latent_dim, generator=source)
            with torch.no_grad():
                piece = self.encoding.decode(generator(z).numpy().astype(np.float64))
            if conditions:
                piece = _meeting(piece, conditions, schema)
            return piece[keep_to_rules(piece, schema)] if schema.impossible else piece

        rejecting = bool(conditions or schema.impossible)
        return drawn_until(n, draw, refusal=refusal_of(schema, conditions), rejecting=rejecting)

    def facts(self, release: RowRelease | None, model: TabularGenerator) -> dict[str, Any]:
        """Return what a report says of the method beyond steps and loss."""
        return {"batch size": self.options.batch_size}


def _meeting(piece: pd.DataFrame, conditions: Conditions, schema: Schema) -> pd.DataFrame:
    """Return the rows that meet the conditions, with the very numbers where they are near them."""
    meets = np.ones(len(piece), dtype=bool)
    for name, part in conditions.items():
        column = schema[name]
        values = column.to_numbers(piece[name])
        if part.kind == "one of" and isinstance(column, Number | Datetime):
            near, values = _nearest(column, values, np.array(part.numbers))
            meets &= near
            piece[name] = column.from_numbers(values)
        else:
            meets &= part.holds(values)
    return piece[meets].reset_index(drop=True)


def _nearest(
    column: Number | Datetime, values: Rows, wanted: Rows
) -> tuple[np.ndarray[Any, Any], Rows]:
    """Tell which values are as good as one that is wanted, and put the nearest of those there."""
    states, wanted_states = states_of(column, values), states_of(column, wanted)
    near = np.isin(states, wanted_states[wanted_states > 0])  # special values and missing ones
    numbers = np.unique(wanted[wanted_states == 0])
    if len(numbers) == 0:
        return near, values
    at, places = value_to_place(column, values), value_to_place(column, numbers)
    nearest = np.searchsorted(0.5 * (places[:-1] + places[1:]), at)
    close = (states == 0) & (np.abs(at - places[nearest]) <= _NEAR)
    return near | close, np.where(close, numbers[nearest], values)
