"""From a private table to a synthetic one: encode, release once, train, sample.

`Synthesizer.fit` is the one place of the tabular package where private rows meet the mechanism;
everything after its release works on the release alone, as does `Synthesizer.train`, which a user
can call on a release that came from somewhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dpslice import _arrays
from dpslice.accounting import Guarantee
from dpslice.mechanism import SlicingMechanism
from dpslice.release import Release
from dpslice.tabular.encoding import Encoding
from dpslice.tabular.files import replacing
from dpslice.tabular.generator import TabularGenerator
from dpslice.tabular.moments import estimate_moments
from dpslice.tabular.schema import Schema
from dpslice.torch.losses import SmoothedLikelihood
from dpslice.torch.training import FitResult, TrainingState, fit

__all__ = ["Synthesizer", "TrainingOptions"]

_MODEL_FORMAT = 1
_SAMPLE_ROWS = 16_384  # generated at a time: memory beyond the output does not grow with n


@dataclass(frozen=True)
class TrainingOptions:
    """How a generator is trained on a release. None of it costs privacy.

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
    """

    steps: int = 1000
    batch_size: int = 2048
    lr: float = 1e-3
    ema: float | None = 0.998
    code_dim: int = 16
    hidden: tuple[int, ...] = field(default=(128, 128))
    temperature: float = 0.5


class Synthesizer:
    """Private synthetic tables.

    Parameters
    ----------
    schema : Schema
        The public schema. If it was inferred from data (`Schema.infer`), its cost is added to the
        guarantee.
    epsilon, delta : float
        The guarantee of the release, under `adjacency`. What the schema cost comes on top:
        `guarantee` is the total.
    method : {"rows"}
        Kind of release: ``rows`` publishes one noisy encoded row per private row.
    adjacency : {"zero_out", "replace_one"}
        What neighbouring tables are. ``zero_out``: one person's row is blanked; ``replace_one``:
        it is exchanged for any other. The number of rows is public in both.
    training : TrainingOptions, optional
        How the generator is trained.
    seed : int
        Seed of the public randomness: frame, initial weights, batches, samples. Never of the
        release's noise.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or outside its range.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        epsilon: float,
        delta: float,
        method: str = "rows",
        adjacency: str = "zero_out",
        training: TrainingOptions | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(schema, Schema):
            raise TypeError(f"schema must be a Schema; got {_arrays.describe(schema)}")
        self.schema = schema
        self.epsilon = _arrays.positive_real("epsilon", epsilon)
        self.delta = _arrays.open_unit("delta", delta)
        self.method = _arrays.choice("method", method, ("rows",))
        self.adjacency = _arrays.choice("adjacency", adjacency, ("zero_out", "replace_one"))
        if training is not None and not isinstance(training, TrainingOptions):
            raise TypeError(f"training must be TrainingOptions; got {_arrays.describe(training)}")
        self.training = training if training is not None else TrainingOptions()
        self.seed = _arrays.integer("seed", seed, minimum=0)
        self.encoding = Encoding(schema)
        self.release: Release | None = None
        self.generator: TabularGenerator | None = None
        self.result: FitResult | None = None
        self._guarantee: Guarantee | None = None

    # ------------------------------------------------------------------------- private side

    def publish(
        self,
        df: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Release:
        """Release the table: the one step that reads private rows.

        Parameters
        ----------
        df : pandas.DataFrame, or iterable of them
            The private table, whole or in pieces (`iter_csv`).
        path : path, optional
            Where to save the release; it is then written as it is made, in memory for one block.
        overwrite : bool
            Whether a release that is already at `path` may be replaced.
        progress : callable, optional
            Called with the number of rows done after each block.

        Returns
        -------
        Release
            Also kept as `release`. Its metadata hold the schema, so that it can be trained on
            anywhere.

        Raises
        ------
        TypeError, ValueError
            If the table does not follow the schema, or the schema allows one row only.
        FileExistsError
            If `path` exists and is not to be overwritten.
        """
        if self.encoding.max_norm == 0.0:
            raise ValueError(
                "schema must allow at least two different rows; each of its columns has one "
                "possible value, so there is nothing to release"
            )
        mechanism = SlicingMechanism(
            epsilon=self.epsilon,
            delta=self.delta,
            adjacency=self.adjacency,
            max_norm=self.encoding.max_norm,
            diameter=self.encoding.diameter,
            seed=self.seed,
        )
        metadata = {"schema": self.schema.to_dict(), "encoding": self.encoding.weights()}
        if self.schema.guarantee is not None:
            metadata["schema_guarantee"] = self.schema.guarantee.to_dict()
        self.release = mechanism.release(
            self.encoding.encode_blocks(df),
            path=path,
            overwrite=overwrite,
            metadata=metadata,
            progress=progress,
        )
        self._guarantee = _total_guarantee(self.release)
        return self.release

    def fit(
        self,
        df: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Synthesizer:
        """Release the table, then train a generator on the release.

        Parameters
        ----------
        df : pandas.DataFrame, or iterable of them
            The private table.
        checkpoint : path, optional
            As in `train`.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        Synthesizer
            This one.

        Raises
        ------
        TypeError, ValueError
            As `publish` and `train`.
        """
        return self.train(self.publish(df), checkpoint=checkpoint, progress=progress)

    # -------------------------------------------------------------------------- public side

    @classmethod
    def from_release(
        cls, release: Release, *, training: TrainingOptions | None = None, seed: int = 0
    ) -> Synthesizer:
        """Make a synthesizer for a release of a table, not trained yet.

        Parameters
        ----------
        release : Release
            A release that `publish` made: its metadata hold the schema.
        training : TrainingOptions, optional
            How the generator is trained.
        seed : int
            Seed of training and sampling.

        Returns
        -------
        Synthesizer

        Raises
        ------
        ValueError
            If the release holds no schema, or one of another width than its rows.
        """
        if "schema" not in release.metadata or "encoding" not in release.metadata:
            raise ValueError(
                "release must be one of a table; this one holds no schema in its metadata "
                "(train on it with dpslice.torch.fit and a generator of your own)"
            )
        synthesizer = cls(
            Schema.from_dict(release.metadata["schema"]),
            epsilon=release.guarantee.epsilon,
            delta=release.guarantee.delta,
            adjacency=release.guarantee.adjacency,
            training=training,
            seed=seed,
        )
        synthesizer.encoding = Encoding(synthesizer.schema, **release.metadata["encoding"])
        if synthesizer.encoding.d != release.d:
            raise ValueError(
                f"release has rows of {release.d} entries, but its schema encodes to "
                f"{synthesizer.encoding.d}"
            )
        synthesizer.release = release
        synthesizer._guarantee = _total_guarantee(release)
        return synthesizer

    def train(
        self,
        release: Release | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = True,
        callbacks: Sequence[Callable[[TrainingState], object]] = (),
    ) -> Synthesizer:
        """Train a generator on a release; free of privacy cost, so as often as you like.

        Parameters
        ----------
        release : Release, optional
            Default: the synthesizer's own.
        checkpoint : path, optional
            File from which training resumes if it is there, and to which it is saved now and then.
        progress : bool
            Whether to show a progress bar.
        callbacks : sequence of callables
            Each is called after each step, as in `dpslice.torch.fit`.

        Returns
        -------
        Synthesizer
            This one; `result` tells how training went.

        Raises
        ------
        ValueError
            If there is no release, its rows do not fit the encoding, or the checkpoint belongs to
            another release.
        """
        release = release if release is not None else self.release
        if release is None:
            raise ValueError("there is no release to train on: call fit or publish first")
        if release.d != self.encoding.d:
            raise ValueError(
                f"release must have rows of {self.encoding.d} entries, as the schema encodes "
                f"them; got {release.d}"
            )
        options = self.training
        with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours to move
            torch.manual_seed(self.seed)
            generator = self._new_generator()
        generator.start_from(estimate_moments(release))
        loss = SmoothedLikelihood(release, batch_size=options.batch_size, seed=self.seed)
        self.result = fit(
            generator,
            loss,
            steps=options.steps,
            batch_size=options.batch_size,
            lr=options.lr,
            ema=options.ema,
            seed=self.seed,
            checkpoint=checkpoint,
            progress=progress,
            callbacks=callbacks,
        )
        self.release = release
        self.generator = generator.eval()
        self._guarantee = _total_guarantee(release)
        return self

    def sample(self, n: int, *, seed: int | None = None) -> pd.DataFrame:
        """Draw synthetic rows; free of privacy cost.

        Parameters
        ----------
        n : int
            Number of rows.
        seed : int, optional
            Default: the synthesizer's seed. The same seed gives the same rows.

        Returns
        -------
        pandas.DataFrame, n rows
            Columns and dtypes of the schema.

        Raises
        ------
        ValueError
            If the synthesizer is not trained, or n < 1.
        """
        n = _arrays.positive_integer("n", n)
        generator = self._trained()
        seed = self.seed if seed is None else _arrays.integer("seed", seed, minimum=0)
        source = torch.Generator().manual_seed(seed)
        pieces: list[pd.DataFrame] = []
        for first in range(0, n, _SAMPLE_ROWS):
            rows = min(_SAMPLE_ROWS, n - first)
            z = torch.randn(rows, generator.latent_dim, generator=source)
            with torch.no_grad():
                pieces.append(self.encoding.decode(generator(z).numpy().astype(np.float64)))
        return pd.concat(pieces, ignore_index=True)

    @property
    def guarantee(self) -> Guarantee:
        """What the synthetic rows guarantee: the release's, and what the schema cost."""
        if self._guarantee is None:
            raise ValueError("there is no guarantee yet: call fit or publish first")
        return self._guarantee

    def report(
        self,
        df: pd.DataFrame,
        path: str | os.PathLike[str],
        *,
        target: str | None = None,
        holdout: pd.DataFrame | None = None,
        n: int | None = None,
    ) -> dict[str, Any]:
        """Compare synthetic rows with real ones, on one HTML page for the data holder's eyes.

        Parameters
        ----------
        df : pandas.DataFrame
            Real rows, best such that were not released. The comparison is not private.
        path : path
            The page to write.
        target : str, optional
            Label of the train-on-synthetic test. Default: the schema's.
        holdout : pandas.DataFrame, optional
            Real rows to test classifiers on. Default: a random fifth of `df`.
        n : int, optional
            Synthetic rows to draw; default as many as `df` has.

        Returns
        -------
        dict
            The scores.

        Raises
        ------
        ValueError
            If the synthesizer is not trained, or `df` does not follow the schema.
        """
        from dpslice.tabular.report import write_report

        return write_report(
            path,
            real=df,
            synthetic=self.sample(n if n is not None else len(df)),
            schema=self.schema,
            guarantee=self.guarantee,
            target=target,
            holdout=holdout,
            seed=self.seed,
            training=self._training_facts(),
        )

    # ------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the trained synthesizer: weights, schema, guarantee; no row, real or released.

        Parameters
        ----------
        path : path
            File to write, under a temporary name first. An existing file is replaced.

        Raises
        ------
        ValueError
            If the synthesizer is not trained.
        """
        state = self._trained().state_dict()
        header = {
            "schema": self.schema.to_dict(),
            "encoding": self.encoding.weights(),
            "training": asdict(self.training),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "method": self.method,
            "adjacency": self.adjacency,
            "seed": self.seed,
            "guarantee": self.guarantee.to_dict(),
        }
        with replacing(path) as temporary:
            torch.save(
                {"dpslice_model": _MODEL_FORMAT, "header": json.dumps(header), "state": state},
                temporary,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Synthesizer:
        """Load what `save` wrote. No pickled code is run.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        Synthesizer
            Ready to sample.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no model of dpslice, is damaged, or was written by a newer version.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such model file")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version = content["dpslice_model"]
        except Exception as error:  # torch raises many kinds here; all mean the same to the user
            raise ValueError(f"{path}: not a model saved by dpslice, or damaged") from error
        if version > _MODEL_FORMAT:
            raise ValueError(
                f"{path}: written by a newer dpslice (model format {version}; this one reads "
                f"{_MODEL_FORMAT})"
            )
        try:
            header = json.loads(content["header"])
            training = header["training"] | {"hidden": tuple(header["training"]["hidden"])}
            synthesizer = cls(
                Schema.from_dict(header["schema"]),
                training=TrainingOptions(**training),
                **{k: header[k] for k in ("epsilon", "delta", "method", "adjacency", "seed")},
            )
            synthesizer.encoding = Encoding(synthesizer.schema, **header["encoding"])
            synthesizer._guarantee = Guarantee.from_dict(header["guarantee"])
            generator = synthesizer._new_generator()
            generator.load_state_dict(content["state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: damaged model file: {error}") from error
        synthesizer.generator = generator.eval()
        return synthesizer

    # ------------------------------------------------------------------------------ helpers

    def _new_generator(self) -> TabularGenerator:
        options = self.training
        return TabularGenerator(
            self.encoding,
            code_dim=options.code_dim,
            hidden=options.hidden,
            temperature=options.temperature,
        )

    def _training_facts(self) -> dict[str, Any] | None:
        """Return what the report says of the training; None for a model loaded from a file."""
        if self.result is None:
            return None
        return {
            "steps": self.result.steps,
            "seconds": round(self.result.seconds, 1),
            "loss": self.result.history,
        }

    def _trained(self) -> TabularGenerator:
        if self.generator is None:
            raise ValueError("the synthesizer is not trained: call fit first")
        return self.generator


def _total_guarantee(release: Release) -> Guarantee:
    """Compose the release's guarantee with what its schema cost, if that was inferred."""
    spent = release.metadata.get("schema_guarantee")
    if spent is None:
        return release.guarantee
    return Guarantee.compose(Guarantee.from_dict(spent), release.guarantee)
