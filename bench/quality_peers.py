r"""What a user would pick instead of this library for a private table: the peers of `quality.py`.

Every function maps (schema, private table, epsilon, delta, seed) to a synthetic table and its
guarantee. Peers are imported where they are used.

All are compared under ``zero_out``: neighbouring tables differ in one record that counts or does
not, and the number of rows is public. ``mst`` and ``aim`` measure histograms, which one record more
or less moves by 1 in L2: that is their authors' add/remove convention, and ``mst`` is told the
exact number of rows besides, which makes it this one. Their epsilon is what they state (zero-
concentrated DP, turned into epsilon and delta by OpenDP), not checked here.

``dpgan``, ``dpctgan`` and ``pategan`` run on opacus 0.14, which smartnoise-synth 1.0.8 pins, and
current torch. Their epsilon, too, is what they state for the steps they did (often less than what
was asked, for time is up first), and states too little for ``dpctgan``: the exact shares of the
levels, which it draws its conditions from, are not counted, and its batches, drawn by level, are
accounted as if drawn evenly. ``pategan`` gives labels by votes of n / 1000 teachers with Laplace
noise of scale 1000. ``patectgan`` is left out: in 1.0.8 its teachers and its student are one
network, trained on the private rows themselves, whatever epsilon it states.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpslice.accounting import Guarantee, calibrate_sums, sum_guarantee
from dpslice.tabular import Boolean, Categorical, Datetime, Number, Schema
from dpslice.tabular._places import (
    bounds_of,
    place_to_value,
    special_values,
    states_of,
    value_to_place,
)
from dpslice.tabular.discretization import Discretization
from mbi_numpy import tree_megabytes, without_compiler

# What a method needs beyond the project's own environment: a module, and what brings it.
NEEDS = {
    "mst": ("snsynth", "smartnoise-synth==1.0.8 mbi==1.1.0"),
    "aim": ("snsynth", "smartnoise-synth==1.0.8 mbi==1.1.0"),
    "aim, 32 rounds": ("snsynth", "smartnoise-synth==1.0.8 mbi==1.1.0"),
    "aim, 1 MB": ("snsynth", "smartnoise-synth==1.0.8 mbi==1.1.0"),
    "dpgan": ("snsynth", "smartnoise-synth==1.0.8"),
    "dpctgan": ("snsynth", "smartnoise-synth==1.0.8"),
    "pategan": ("snsynth", "smartnoise-synth==1.0.8"),
}


def missing(method: str) -> str | None:
    """Say what to install before `method` can run, or None if nothing is missing."""
    module, packages = NEEDS.get(method, (None, ""))
    if module is None or importlib.util.find_spec(module):
        return None
    return f"{method} needs {module}: pip install {packages}"


# ------------------------------------------------------------------- what smartnoise-synth gets


def _codes(
    schema: Schema, private: pd.DataFrame
) -> tuple[Discretization, pd.DataFrame, pd.DataFrame]:
    """Return the bins of ``sums``, the rows in codes of them, and a public table of all codes."""
    discretization = Discretization(schema)
    names, columns = list(schema.names), discretization.n_columns
    last = np.array(discretization.sizes[:columns]) - 1
    codes = pd.DataFrame(discretization.encode(private)[:, :columns], columns=names)
    every = pd.DataFrame(np.minimum(np.arange(last.max() + 1)[:, None], last), columns=names)
    return discretization, codes, every


# ------------------------------------------------------------------------------- mst and aim


def smartnoise(
    schema: Schema,
    private: pd.DataFrame,
    epsilon: float,
    delta: float,
    seed: int,
    method: str,
    megabytes: float | None = None,
    **options: Any,
) -> Any:
    """MST or AIM of smartnoise-synth, with defaults but for `options`, on the codes of ``sums``.

    `megabytes` bounds the junction tree of AIM's models, as in its paper. What smartnoise-synth
    bounds is the tables that were measured; the tree, which estimation works on, may be any size.

    Numbers lie in 32 bins of the public bounds, special values and missing are levels of their own,
    and values are drawn evenly inside bins: no budget goes into preprocessing. The noise of their
    measurements comes from the operating system, so `seed` repeats only part of a run.
    """
    from snsynth.aim import AIMSynthesizer
    from snsynth.mst import MSTSynthesizer
    from snsynth.transform import LabelTransformer, TableTransformer

    discretization, codes, every = _codes(schema, private)
    # Labels are learned from whatever table the transformer sees first. A private one would tell
    # which levels occur, and spend no budget on it; this one holds every level of the schema.
    transformer = TableTransformer([LabelTransformer(nullable=False) for _ in schema])
    transformer.fit(every)

    np.random.seed(seed)  # noqa: NPY002  (where their choices and samples come from)
    kind = MSTSynthesizer if method == "mst" else AIMSynthesizer
    with contextlib.ExitStack() as stack:
        if megabytes is not None:
            options["max_model_size"] = megabytes
            sizes = mock.patch("snsynth.aim.aim.hypothetical_model_size", tree_megabytes)
            stack.enter_context(sizes)
        peer = kind(epsilon=epsilon, delta=delta, **options)
        # Standard output is for the results; mbi deprecates the tables that smartnoise gives it.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(without_compiler())
        warnings.filterwarnings("ignore", message="Pandas dataframe inputs")
        peer.fit(codes, transformer=transformer)
        peer.synthesizer = _Independent(peer.synthesizer)
        sampled = peer.sample(len(private)).to_numpy(dtype=np.int64)
    guarantee = Guarantee(
        epsilon=epsilon,
        delta=delta,
        adjacency="zero_out",
        mechanism=method,
        n=len(private),
        notes=("As stated by smartnoise-synth.",),
    )
    return discretization.decode(sampled, {}, np.random.default_rng(seed)), guarantee


@dataclass(frozen=True)
class _Independent:
    """A model of mbi that draws rows independently of one another.

    Its default in 1.1.0, "round", fills every group of rows in their order, so that columns which
    the model makes independent come out ordered alike, and dependent: MST at epsilon = 5 gave 98 %
    and 36 % of the two sexes public cover on ACSPublicCoverage, where the rows have 61 % and 65 %.
    """

    model: Any

    def synthetic_data(self, rows: int) -> Any:
        return self.model.synthetic_data(rows=rows, method="sample")


# -------------------------------------------------------------- dpgan, dpctgan and pategan


# Training stops after about 100 s of a busy core, by a count of steps of the generator that repeats
# and that tells nothing of the rows; of DP-SGD it is whole epochs, and one at least.
GAN_STEPS = {"dpgan": 4000, "dpctgan": 100, "pategan": 60}

# Of smartnoise-synth, for the accounting below.
GAN_BATCH = {"dpgan": 64, "dpctgan": 500, "pategan": 64}
GAN_NOISE = {"dpgan": 3.5, "dpctgan": 5.0}  # over the clipping norm
GAN_ORDERS = [1.0 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
TEACHER_ROUNDS = 5  # for a step of the generator; as many rounds of labels
VOTE_PRECISION = 1e-3  # one over the scale of the Laplace noise of votes
VOTE_ORDERS = np.arange(1, 101)


def _gan_epsilon(method: str, n: int, delta: float, steps: int) -> float:
    """Compute what smartnoise-synth states after so many steps of the generator."""
    if method in GAN_NOISE:
        from opacus.privacy_analysis import compute_rdp, get_privacy_spent

        # Of the two steps of the discriminator, that on generated rows counts as well.
        rate = GAN_BATCH[method] / n
        moments = compute_rdp(rate, GAN_NOISE[method], 2 * steps, GAN_ORDERS)
        return float(get_privacy_spent(GAN_ORDERS, moments, delta)[0])
    labels = GAN_BATCH[method] * TEACHER_ROUNDS * steps
    moments = labels * 2.0 * VOTE_PRECISION**2 * VOTE_ORDERS * (VOTE_ORDERS + 1)
    return float(np.min((moments - math.log(delta)) / VOTE_ORDERS))


def _gan_rounds(method: str, n: int, epsilon: float, delta: float) -> tuple[int, int]:
    """Return how many epochs (of `pategan`: steps) time and `epsilon` allow, and steps of each."""
    each = n // GAN_BATCH[method] if method in GAN_NOISE else 1
    rounds = max(GAN_STEPS[method] // each, 1)
    while rounds and _gan_epsilon(method, n, delta, rounds * each) > epsilon:
        rounds -= 1
    if not rounds:
        raise ValueError(f"{method}: epsilon = {epsilon:g} is too little for {each} steps")
    return rounds, each


@contextlib.contextmanager
def _stop_after(module: Any, labellings: int) -> Iterator[None]:
    """End the loop of `pategan`, which only epsilon ends: what is after that costs infinitely."""
    original, count = module.moments_acc, itertools.count(1)

    def moments_acc(*given: Any, **options: Any) -> Tensor:
        moments = original(*given, **options)
        return moments if next(count) < labellings else torch.full_like(moments, math.inf)

    module.moments_acc = moments_acc
    try:
        yield
    finally:
        module.moments_acc = original


def smartnoise_gan(
    schema: Schema, private: pd.DataFrame, epsilon: float, delta: float, seed: int, method: str
) -> Any:
    """Train a GAN of smartnoise-synth, with its defaults, on the codes of ``sums``, one-hot.

    The last step is one that `epsilon` pays for; by themselves they stop after one that it does
    not. Their noise, and much else that they draw, comes from the operating system or from seeds of
    their own: `seed` repeats only part of a run.
    """
    from snsynth.pytorch.nn import dpctgan, dpgan, pategan
    from snsynth.transform import OneHotEncoder, TableTransformer

    discretization, codes, every = _codes(schema, private)
    transformer = TableTransformer([OneHotEncoder() for _ in schema])
    transformer.fit(every)
    n = len(private)
    rounds, each = _gan_rounds(method, n, epsilon, delta)

    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    limit: Any = contextlib.nullcontext()
    if method == "pategan":
        peer = pategan.PATEGAN(epsilon=epsilon, delta=delta)
        limit = _stop_after(pategan, rounds * TEACHER_ROUNDS)
    else:
        kind = dpgan.DPGAN if method == "dpgan" else dpctgan.DPCTGAN
        peer = kind(epsilon=epsilon, delta=delta, epochs=rounds)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), limit:
        warnings.simplefilter("ignore")
        peer.fit(codes, transformer=transformer)
        sampled = peer.sample(n).to_numpy(dtype=np.int64)
    guarantee = Guarantee(
        epsilon=_gan_epsilon(method, n, delta, rounds * each),
        delta=delta,
        adjacency="zero_out",
        mechanism=method,
        n=n,
        notes=("As stated by smartnoise-synth.",),
    )
    return discretization.decode(sampled, {}, np.random.default_rng(seed)), guarantee


# ------------------------------------------------------------------------------------ dp-merf


FREQUENCIES = 1000  # each a cosine and a sine: 2000 random Fourier features
COUNT_WEIGHT = 0.25  # of a class count in the release, where a record's other features have norm 1
# The best of 1, 1/2 and 1/4 by its scores on Adult at epsilon = 5 (one seed): in the peer's favour,
# since what such a choice tells of the rows is not accounted for.
LENGTH_SCALE = 0.25
LATENT_DIM = 10
HIDDEN = (256, 128)
STEPS = 3000
BATCH = 1000  # per class
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class _Part:
    """A column as DP-MERF sees it: a choice between states, a place in its bounds, or both."""

    column: Categorical | Boolean | Number | Datetime
    n_states: int

    @property
    def has_place(self) -> bool:
        return isinstance(self.column, Number | Datetime)

    def encode(self, rows: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """States [n] and places [n]; a value that is not regular lies at the lower end."""
        values = self.column.to_numbers(rows[self.column.name])
        if not isinstance(self.column, Number | Datetime):
            states = np.where(np.isnan(values), self.n_states - 1, values).astype(np.intp)
            return states, np.zeros(len(values))
        states = states_of(self.column, values)
        regular = np.where(states == 0, values, bounds_of(self.column)[0])
        return states, value_to_place(self.column, regular)

    def decode(self, states: NDArray[np.intp], places: NDArray[np.float64]) -> pd.Series[Any]:
        if isinstance(self.column, Number | Datetime):
            others = np.array([0.0, *special_values(self.column), np.nan])
            values = np.where(states == 0, place_to_value(self.column, places), others[states])
        else:
            values = states.astype(np.float64)
            if self.column.nullable:
                values[states == self.n_states - 1] = np.nan
        return self.column.from_numbers(values)


def _part(column: Categorical | Boolean | Number | Datetime) -> _Part:
    if isinstance(column, Number | Datetime):
        extra = len(special_values(column)) + column.nullable
        return _Part(column, 1 + extra if extra else 0)
    levels = len(column.categories) if isinstance(column, Categorical) else 2
    return _Part(column, levels + column.nullable)


class _Embedding:
    """The feature map: random Fourier features of the places beside one-hot states, of norm 1."""

    def __init__(self, parts: list[_Part], seed: int) -> None:
        self.n_places = sum(part.has_place for part in parts)
        self.n_choices = sum(part.n_states > 0 for part in parts)
        both = bool(self.n_places and self.n_choices)
        self.share = math.sqrt(0.5) if both else 1.0
        # A share of the root mean square distance of two even points of the unit cube: the usual
        # median distance of the rows would have to be paid for.
        scale = LENGTH_SCALE * math.sqrt(max(self.n_places, 1) / 6.0)
        source = torch.Generator().manual_seed(seed)
        self.frequencies = torch.randn(self.n_places, FREQUENCIES, generator=source) / scale

    def __call__(self, states: Tensor, places: Tensor) -> Tensor:
        """[n, all states] one-hot or shares, [n, places] -> [n, features]."""
        blocks = []
        if self.n_places:
            angles = places @ self.frequencies  # [n, FREQUENCIES]
            waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
            blocks.append(waves * (self.share / math.sqrt(FREQUENCIES)))
        if self.n_choices:
            blocks.append(states * (self.share / math.sqrt(self.n_choices)))
        return torch.cat(blocks, dim=1)


class _Generator(nn.Module):
    """Noise and a one-hot label to shares of states and places."""

    def __init__(self, parts: list[_Part], n_classes: int) -> None:
        super().__init__()
        self.sizes = [part.n_states for part in parts if part.n_states]
        layers: list[nn.Module] = []
        width = LATENT_DIM + n_classes
        for size in HIDDEN:
            layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.ReLU()]
            width = size
        n_places = sum(part.has_place for part in parts)
        self.network = nn.Sequential(*layers, nn.Linear(width, sum(self.sizes) + n_places))

    def forward(self, noise: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.network(torch.cat([noise, label], dim=1))
        *choices, places = outputs.split([*self.sizes, outputs.shape[1] - sum(self.sizes)], dim=1)
        shares = [torch.softmax(scores, dim=1) for scores in choices]
        return torch.cat([places[:, :0], *shares], dim=1), torch.sigmoid(places)


def _one_hot_states(parts: list[_Part], rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Rows as the embedding takes them."""
    states, places = [torch.empty(len(rows), 0)], [torch.empty(len(rows), 0)]
    for part in parts:
        state, place = part.encode(rows)
        if part.n_states:
            states.append(nn.functional.one_hot(torch.from_numpy(state), part.n_states).float())
        if part.has_place:
            places.append(torch.from_numpy(place).float()[:, None])
    return torch.cat(states, dim=1), torch.cat(places, dim=1)


def dp_merf(
    schema: Schema, private: pd.DataFrame, epsilon: float, delta: float, seed: int
) -> tuple[pd.DataFrame, Guarantee]:
    """DP-MERF: one noisy mean embedding per class, and a generator trained to match it.

    Harder, Adamczewski and Park, "DP-MERF: Differentially Private Mean Embeddings with Random
    Features for Practical Privacy-preserving Data Generation", AISTATS 2021, arXiv:2002.11603, in
    its form for mixed tables with a label: the sum over records of (features, weighted 1) times the
    one-hot label, with Gaussian noise. The calibration is exact rather than the paper's bound, so
    the noise is as low as it may be, and the class counts belong to the same release.
    """
    label_column = schema[schema.target] if schema.target else None
    if not isinstance(label_column, Categorical | Boolean):
        raise ValueError("dp-merf needs a schema whose target is categorical or boolean")
    label_part = _part(label_column)
    parts = [_part(column) for column in schema if column.name != schema.target]
    n_classes = label_part.n_states
    embedding = _Embedding(parts, seed)

    total = torch.zeros(n_classes, 0)
    for first in range(0, len(private), 4096):
        rows = private[first : first + 4096]
        states, places = _one_hot_states(parts, rows)
        label = nn.functional.one_hot(torch.from_numpy(label_part.encode(rows)[0]), n_classes)
        features = embedding(states, places)
        counted = torch.cat([features, torch.full((len(rows), 1), COUNT_WEIGHT)], dim=1)
        block = label.double().T @ counted.double()
        total = block if first == 0 else total + block
    norm = math.hypot(1.0, COUNT_WEIGHT) * (1.0 + 1e-6)  # the features are rounded to float32
    bounds: dict[str, Any] = {
        "cells": total.numel(), "norm": norm, "diameter": 2.0 * norm, "adjacency": "zero_out",
    }  # fmt: skip
    sigma = calibrate_sums(epsilon, delta, **bounds)
    source = torch.Generator().manual_seed(seed + 1)
    noisy = total + sigma * torch.randn(total.shape, generator=source, dtype=torch.float64)
    guarantee = sum_guarantee(sigma=sigma, delta=delta, n=len(private), **bounds)

    counts = torch.clamp(noisy[:, -1] / COUNT_WEIGHT, min=1.0)
    target = (noisy[:, :-1] / counts[:, None]).float()  # [n_classes, features]
    torch.manual_seed(seed)
    generator = _Generator(parts, n_classes)
    optimizer = torch.optim.Adam(generator.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    each = torch.eye(n_classes).repeat_interleave(BATCH, dim=0)
    for _ in range(STEPS):
        made = embedding(*generator(torch.randn(len(each), LATENT_DIM), each))
        loss = (made.reshape(n_classes, BATCH, -1).mean(dim=1) - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    classes = torch.multinomial(counts, len(private), replacement=True)
    generator.eval()
    with torch.no_grad():
        noise = torch.randn(len(private), LATENT_DIM)
        shares, places = generator(noise, torch.eye(n_classes)[classes])
    columns = {}
    first_state = place = 0
    for part in parts:
        state = torch.zeros(len(private), dtype=torch.long)
        if part.n_states:
            # Drawn, not the likeliest: shares entered the embedding as they are, so draws from
            # them have the embedding that was trained.
            chosen = shares[:, first_state : first_state + part.n_states]
            state = torch.multinomial(chosen, 1)[:, 0]
            first_state += part.n_states
        at = np.zeros(len(private))
        if part.has_place:
            at = places[:, place].double().numpy()
            place += 1
        columns[part.column.name] = part.decode(state.numpy(), at)
    columns[label_column.name] = label_part.decode(classes.numpy(), np.zeros(len(private)))
    return pd.DataFrame(columns)[list(schema.names)], guarantee
