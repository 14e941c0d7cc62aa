"""From a private table to a synthetic one: release once, train, sample.

How, is the method's business: `SumMethod` (the default) or `RowMethod`. `Synthesizer.publish` is
the one place of the tabular package where private rows meet a mechanism; everything after it works
on the release alone, as does `Synthesizer.train`, which a user can call on a release that came from
somewhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from dpslice import _arrays
from dpslice._storage import replacing
from dpslice.accounting import Guarantee
from dpslice.accounting._adjacency import check_order_unit, checked_rows_per_person
from dpslice.accounting._guarantee import rounded_up
from dpslice.release import Release, checked_release, total_guarantee
from dpslice.tabular._conditions import (
    BLOCK_ROWS,
    Conditions,
    check_possible,
    keep_to_rules,
    read_conditions,
)
from dpslice.tabular.rows import RowMethod, TrainingOptions
from dpslice.tabular.rules import Rule
from dpslice.tabular.schema import Schema
from dpslice.tabular.sums import MixtureOptions, SumMethod
from dpslice.torch.training import FitResult, TrainingState, checkpoint_path, sealed, unsealed

__all__ = ["MixtureOptions", "Synthesizer", "TrainingOptions"]

_MODEL_FORMAT = 3
_UNSEALED_FORMAT = 2  # had no checksum; read as before

MOST_ROWS = 10**9  # of one sample, which is made in memory

METHODS: dict[str, type[RowMethod] | type[SumMethod]] = {"sums": SumMethod, "rows": RowMethod}


class _Method(Protocol):
    """What a `Synthesizer` asks of its method. Releases and models are of the method's own kind."""

    def settings(self) -> dict[str, Any]:
        """Return what makes the same coordinates of the same schema, as JSON can hold it."""

    def publish(
        self,
        df: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        epsilon: float,
        delta: float,
        adjacency: str,
        rows_per_person: int,
        seed: int,
        **where: Any,
    ) -> Release:
        """Release a private table: the one step that reads it."""

    def check(self, release: Any) -> None:
        """Raise ValueError unless a release is of the schema's coordinates."""

    def new_model(self) -> nn.Module:
        """Make a model, not trained yet, that the weights of a file fit."""

    def train(self, release: Any, *, seed: int, **how: Any) -> tuple[nn.Module, FitResult]:
        """Train a new model on a release; `how` is passed on to `dpslice.torch.fit`."""

    def sample(
        self,
        model: Any,
        n: int,
        *,
        seed: int,
        conditions: Conditions,
        schema: Schema,
    ) -> pd.DataFrame:
        """Draw rows of a trained model that meet the conditions and break no rule of the schema."""

    def facts(self, release: Any, model: Any) -> dict[str, Any]:
        """Return what a report says of the method beyond steps and loss."""


def _on_the_cpu() -> contextlib.AbstractContextManager[Any]:
    """Set torch's default device aside: models of tables are made and used on the CPU."""
    # Where there is nothing to set aside, a mode of torch would only slow every operator down.
    if torch.empty(0).is_cpu:  # in torch 2.6, get_default_device() knows no `with`
        return contextlib.nullcontext()
    return torch.device("cpu")


def default_options(method: str) -> MixtureOptions | TrainingOptions:
    """Return how a model of a method is trained unless the user says otherwise."""
    return METHODS[method].options_class()


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
    method : {"sums", "rows"}
        Kind of release. ``sums`` publishes noisy counts of all columns and pairs of columns: its
        noise falls with the number of rows. ``rows`` publishes one noisy encoded row per private
        row: noisier, but it holds the whole distribution and serves any loss.
    adjacency : {"zero_out", "replace_one", "add_remove"}
        What neighbouring tables are. ``zero_out``: one person's row is blanked; ``replace_one``:
        it is exchanged for any other; the number of rows is public in both. ``add_remove``, for
        sums only: the row is in the table or not.
    training : MixtureOptions or TrainingOptions, optional
        How the model is trained: the former for sums, the latter for rows.
    rounds : int
        Of sums: rounds in which a model is fitted and the tables of three columns that it fits
        worst are chosen and counted (`dpslice.AdaptiveSumMechanism`), all within `epsilon` and
        `delta`, of which they take some from the pairs. Default: none.
    seed : int
        Seed of the public randomness: frame, initial weights, batches, samples. Never of the
        release's noise.
    amplify_by_order : bool
        Of rows: whether the guarantee counts on their secret order, which takes less noise where
        epsilon is small and rows are many (`dpslice.SlicingMechanism`).
    rows_per_person : int
        Rows that one person has at most. The guarantee is then for people, each with all their
        rows. `limit_rows_per_person` makes a table such that it is so.

    Attributes
    ----------
    release : Release or None
        The release that was made, or trained on last; None before, and of a model that was loaded.
    model : torch.nn.Module or None
        The trained model, a `ProductMixture` or `TabularGenerator`; None before.
    result : dpslice.torch.FitResult or None
        How the last training went; None before, and of a model that was loaded.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or outside its range, or `adjacency` or
        `rows_per_person` is not that of the schema's guarantee.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from dpslice.tabular import Boolean, MixtureOptions, Number, Schema, Synthesizer
    >>> schema = Schema([Number("age", "integer", 17, 90), Boolean("employed")])
    >>> rng = np.random.default_rng(0)
    >>> ages, employed = rng.integers(17, 91, 2000), rng.random(2000) < 0.6
    >>> people = pd.DataFrame({"age": ages, "employed": employed})
    >>> synthesizer = Synthesizer(
    ...     schema, epsilon=1.0, delta=1e-6, training=MixtureOptions(steps=100, components=64))
    >>> table = synthesizer.fit(people, progress=False).sample(500)
    >>> table.shape
    (500, 2)
    >>> synthesizer.guarantee.epsilon, synthesizer.guarantee.adjacency
    (1.0, 'zero_out')
    """

    def __init__(
        self,
        schema: Schema,
        *,
        epsilon: float,
        delta: float,
        method: str = "sums",
        adjacency: str = "zero_out",
        training: MixtureOptions | TrainingOptions | None = None,
        rounds: int = 0,
        seed: int = 0,
        amplify_by_order: bool = False,
        rows_per_person: int = 1,
    ) -> None:
        self.schema = _arrays.instance("schema", schema, Schema, "a Schema")
        self.epsilon = _arrays.positive_real("epsilon", epsilon)
        self.delta = _arrays.open_unit("delta", delta)
        self.method = _arrays.choice("method", method, METHODS)
        kind = METHODS[self.method]
        self.adjacency = _arrays.choice("adjacency", adjacency, kind.adjacencies)
        if schema.guarantee is not None and schema.guarantee.adjacency != self.adjacency:
            # Said now: after the release its cost would be spent and the total still unknown.
            raise ValueError(
                f"adjacency must be {schema.guarantee.adjacency!r}, as the schema was inferred "
                f"under that; got {adjacency!r} (or infer the schema anew)"
            )
        self.rows_per_person = checked_rows_per_person(rows_per_person)
        if schema.guarantee is not None:
            unit = schema.guarantee.rows_per_person
            if unit != self.rows_per_person:
                raise ValueError(
                    f"rows_per_person must be {unit}, as the schema was inferred for that; got "
                    f"{rows_per_person} (or infer the schema anew)"
                )
        if training is not None and not isinstance(training, kind.options_class):
            raise TypeError(
                f"training must be {kind.options_class.__name__} with method={method!r}; "
                f"got {_arrays.describe(training)}"
            )
        self.training: Any = training if training is not None else default_options(self.method)
        self.seed = _arrays.seed("seed", seed)
        self.rounds = _arrays.integer("rounds", rounds, minimum=0)
        if self.rounds and self.method != "sums":
            raise ValueError(f"rounds are for method='sums'; got {rounds} with {method!r}")
        self.amplify_by_order = _arrays.boolean("amplify_by_order", amplify_by_order)
        if self.amplify_by_order and self.method != "rows":
            raise ValueError(
                "amplify_by_order is for method='rows': sums have no order to count on"
            )
        if self.amplify_by_order:
            check_order_unit("amplify_by_order", self.rows_per_person)
        self._use({})
        self.release: Release | None = None
        self.model: nn.Module | None = None
        self.result: FitResult | None = None
        self._guarantee: Guarantee | None = None
        self._samples = 0  # drawn without a seed
        self._told = False  # somebody of what a round of a release has found

    def __repr__(self) -> str:
        state = "released" if self.release is not None else "not released"
        state = "trained" if self.model is not None else state
        return (
            f"Synthesizer({len(self.schema)} columns, method={self.method!r}, epsilon="
            f"{rounded_up(self.epsilon)}, delta={rounded_up(self.delta)}, "
            f"adjacency={self.adjacency!r}, {state})"
        )

    def _use(self, settings: Mapping[str, Any]) -> None:
        """Take the method's coordinates of rows, with other settings than the defaults."""
        self._method: _Method = METHODS[self.method](self.schema, self.training, settings)

    # ------------------------------------------------------------------------- private side

    def publish(
        self,
        df: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
        on_round: Callable[[int, list[tuple[str, ...]]], None] | None = None,
        n: int | None = None,
    ) -> Release:
        """Release the table: the one step that reads private rows.

        Each call spends the guarantee anew, whatever becomes of the release before:
        ``Guarantee.compose(*(release.guarantee for release in releases))`` is the total. A second
        call, or `fit`, warns of that, also of a synthesizer that was loaded or made from a release,
        and after a call that failed once `on_round` had been told.

        Parameters
        ----------
        df : pandas.DataFrame, or iterable of them
            The private table, whole or in pieces (`iter_table`).
        path : path, optional
            Where to save the release; rows are then written as they are made, in memory for one
            block.
        overwrite : bool
            Whether a release that is already at `path` may be replaced.
        progress : callable, optional
            Called with the number of rows done after each block. Under ``add_remove`` that number
            is private: not to be shown or kept.
        on_round : callable, optional
            Called after each of the `rounds` with its number, from 0, and the columns of each table
            that it has counted. From then on the guarantee is spent, also if an error or Ctrl-C
            ends the release.
        n : int, optional
            Of rows: their number, which is public. Needed with `amplify_by_order` where the table
            comes in pieces; another number of rows is refused.

        Returns
        -------
        Release
            Also kept as `release`. Its metadata hold the schema, so that it can be trained on
            anywhere.

        Raises
        ------
        TypeError, ValueError
            If the table does not follow the schema, the schema allows one row only, or has too
            few tables of three columns for the rounds; or if n is needed and missing, or wrong.
        FileExistsError
            If `path` exists and is not to be overwritten.
        ReleaseError, OSError
            As `dpslice.SlicingMechanism.release`.
        """
        where: dict[str, Any] = {"path": path, "overwrite": overwrite, "progress": progress}
        if n is not None:
            if self.method != "rows":
                raise ValueError(f"n is for method='rows'; got {n} with {self.method!r}")
            where["n"] = n
        return self._publish(df, on_round=on_round, **where)

    def _publish(
        self,
        df: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        on_round: Callable[[int, list[tuple[str, ...]]], None] | None = None,
        **where: Any,
    ) -> Release:
        """Do what `publish` does; called by the methods that users call."""
        if self._guarantee is not None or self._told:
            warnings.warn(
                "this synthesizer has released a table before: another release spends epsilon "
                "and delta again, and the two guarantees add up",
                stacklevel=3,  # where that method was called
            )
        kind = METHODS[self.method]
        metadata: dict[str, Any] = {
            "schema": self.schema.to_dict(),
            kind.settings_key: self._method.settings(),
        }
        if self.rounds:
            metadata["rounds"] = self.rounds
        if self.schema.guarantee is not None:
            metadata["schema_guarantee"] = self.schema.guarantee.to_dict()

        def told(i: int, tables: list[tuple[str, ...]]) -> None:
            assert on_round is not None
            self._told = True
            on_round(i, tables)

        watched = None if on_round is None else told
        with _on_the_cpu():  # rounds fit models
            self.release = self._method.publish(
                df,
                epsilon=self.epsilon,
                delta=self.delta,
                adjacency=self.adjacency,
                rows_per_person=self.rows_per_person,
                seed=self.seed,
                metadata=metadata,
                **where,
                **({"rounds": self.rounds, "on_round": watched} if self.rounds else {}),
                **({"amplify_by_order": True} if self.amplify_by_order else {}),
            )
        self._guarantee = self._total(self.release)
        return self.release

    def fit(
        self,
        df: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Synthesizer:
        """Release the table, then train a generator on the release.

        Ctrl-C ends the training, with a warning; the model of the last whole step is kept.

        Parameters
        ----------
        df : pandas.DataFrame, or iterable of them
            The private table.
        checkpoint : path, optional
            File to which training is saved now and then, and from which `train` goes on; it must
            not be there yet.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        Synthesizer
            This one.

        Raises
        ------
        ValueError
            If `checkpoint` is there already.
        TypeError, ValueError, TrainingError, OSError, ImportError
            As `publish` and `train`.
        """
        # Refused now: after the release epsilon would be spent.
        path = checkpoint_path(checkpoint)
        if path is not None and os.path.lexists(path):
            raise ValueError(
                f"checkpoint must be a new file, as each release is new; got {str(path)!r}, which "
                "is there: name another, or go on by train(), which costs no privacy"
            )
        if _arrays.boolean("progress", progress):
            _arrays.require("tqdm", extra="torch")
        self.train(self._publish(df), checkpoint=checkpoint, progress=progress)
        if self.result is not None and self.result.interrupted:
            warnings.warn(
                f"training was interrupted after step {self.result.steps} of "
                f"{self.training.steps}; the model is what it was then. train() trains a new one "
                "on the same release, which costs no privacy",
                stacklevel=2,
            )
        return self

    # -------------------------------------------------------------------------- public side

    @classmethod
    def from_release(
        cls,
        release: Release,
        *,
        training: MixtureOptions | TrainingOptions | None = None,
        seed: int = 0,
    ) -> Synthesizer:
        """Make a synthesizer for a release of a table, not trained yet.

        Parameters
        ----------
        release : Release
            A release that `publish` made, of either kind: its metadata hold the schema.
        training : MixtureOptions or TrainingOptions, optional
            How the model is trained.
        seed : int
            Seed of training and sampling.

        Returns
        -------
        Synthesizer

        Raises
        ------
        TypeError
            If `release` is no Release, or `training` is not for its kind.
        ValueError
            If the release holds no schema, or one that it was not made with.
        """
        checked_release(release)
        kind = METHODS[release.kind]
        metadata = release.metadata
        if "schema" not in metadata or kind.settings_key not in metadata:
            raise ValueError(
                "release must be one of a table; this one holds no schema in its metadata "
                "(train on it with dpslice.torch.fit and a generator of your own)"
            )
        synthesizer = cls(
            Schema.from_dict(metadata["schema"]),
            epsilon=release.guarantee.epsilon,
            delta=release.guarantee.delta,
            method=release.kind,
            adjacency=release.guarantee.adjacency,
            training=training,
            rounds=metadata.get("rounds", 0),
            seed=seed,
            amplify_by_order=release.guarantee.amplified_by_order,
            rows_per_person=release.guarantee.rows_per_person,
        )
        synthesizer._use(metadata[kind.settings_key])
        synthesizer._method.check(release)
        synthesizer.release = release
        synthesizer._guarantee = synthesizer._total(release)
        return synthesizer

    def train(
        self,
        release: Release | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = True,
        callbacks: Sequence[Callable[[TrainingState], object]] = (),
    ) -> Synthesizer:
        """Train a model on a release; free of privacy cost, so as often as you like.

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
        TypeError
            If `release` is no Release.
        ValueError
            If there is no release, it is of another kind or was not made of the schema, or the
            checkpoint belongs to another release (a `dpslice.torch.CheckpointError`).
        TrainingError, OSError, ImportError
            As `dpslice.torch.fit`.
        """
        release = release if release is not None else self.release
        if release is None:
            raise ValueError("there is no release to train on: call fit or publish first")
        checked_release(release)
        if release.kind != self.method:
            raise ValueError(f"release must be of kind {self.method!r}; got {release.kind!r}")
        self._method.check(release)
        with _on_the_cpu():
            model, self.result = self._method.train(
                release,
                seed=self.seed,
                checkpoint=checkpoint,
                progress=progress,
                callbacks=callbacks,
            )
        self.release = release
        self._samples = 0
        self.model = model.eval()
        self._guarantee = self._total(release)
        return self

    def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        conditions: Mapping[str, object] | None = None,
        impossible: Sequence[Rule | Mapping[str, object]] | None = None,
    ) -> pd.DataFrame:
        """Draw synthetic rows; free of privacy cost.

        Rows that break a rule on what is impossible are rejected and drawn anew: what comes has the
        model's distribution given that none is broken.

        Parameters
        ----------
        n : int
            Number of rows.
        seed : int, optional
            The same seed gives the same rows. Default: that of the synthesizer, and for each
            further call one that follows from it, so that this object makes no rows twice. (A
            model that is loaded again begins anew.)
        conditions : mapping from str to object, optional
            What columns are to be, as rules of a `Schema` say it: a value (None: missing), such as
            ``{"sex": "Female"}``; a list or a set of values, one of which is to be there; or a
            mapping with ``min``, ``max`` or both (numbers and datetimes; both ends belong to it),
            with ``not`` (any value but this one, or these) or with ``missing`` (True or False).
            None may be in a list, too; missing values are in no range, and not among those that
            ``not`` leaves. Ends may lie outside the column's bounds. Text is a category, or read as
            the cell of a table would be.
        impossible : sequence of mappings, optional
            Rules as `Schema` takes them, in place of the schema's own: public, so they may well be
            written once a model is there. None in the list: every row is as the model has it.

        Returns
        -------
        pandas.DataFrame, n rows
            Columns and dtypes of the schema.

        Raises
        ------
        TypeError, ValueError
            If the synthesizer is not trained, n < 1 or n > 10**9; if a condition names no column,
            a value that its column cannot hold, a range without values, or rows that the model
            (nearly) never makes or that rules forbid; or if a rule is no such rule.

        Notes
        -----
        Models of sums draw from their exact conditional distribution: of bins that a range cuts,
        they take the share that lies in it. A real number has no share, and stands for its bin; if
        noise has left no count at any of the values asked for, their bins are taken for even.
        Models of rows draw until enough rows meet the conditions; a number that is named is met by
        what lies within 1/64 of its column's scale. In both the rows then have the very number, of
        several the nearest.
        """
        n = _arrays.integer("n", n, minimum=1)  # its own bound is lower than that of counts
        if n > MOST_ROWS:
            raise ValueError(
                f"n must be at most {MOST_ROWS:,}, as a table is made in memory; "
                f"got {_arrays.describe(n)}"
            )
        model = self._trained()
        if seed is not None:
            seed = _arrays.seed("seed", seed)
        meant = read_conditions(conditions, self.schema)
        schema = self._with_rules(impossible)
        check_possible(schema, meant)
        seed = self._next_seed() if seed is None else seed
        with _on_the_cpu():
            return self._method.sample(model, n, seed=seed, conditions=meant, schema=schema)

    def _with_rules(self, impossible: Sequence[Rule | Mapping[str, object]] | None) -> Schema:
        """Return the schema, with other rules if there are any."""
        if impossible is None:
            return self.schema
        return replace(self.schema, impossible=impossible)  # type: ignore[arg-type] # kept as Rule

    def broken_share(
        self, impossible: Sequence[Rule | Mapping[str, object]] | None = None
    ) -> float:
        """Estimate the share of the model's own rows that break a rule on what is impossible.

        `sample` draws them anew. The probability of anything among its rows (without conditions)
        differs from that in the model by at most this share, as a conditional distribution's does.
        Models are fitted without rules: of a table that keeps to them, counts say so up to their
        noise. A property of the model, so public as that is.

        Parameters
        ----------
        impossible : sequence of mappings, optional
            Rules in place of the schema's own, as in `sample`.

        Returns
        -------
        float
            From 0 to 1, of some ten thousand rows drawn; the same at every call.

        Raises
        ------
        TypeError, ValueError
            If the synthesizer is not trained, or a rule is no such rule.
        """
        model = self._trained()
        schema = self._with_rules(impossible)
        if not schema.impossible:
            return 0.0
        free = replace(self.schema, impossible=())
        with _on_the_cpu():
            own = self._method.sample(model, BLOCK_ROWS, seed=self.seed, conditions={}, schema=free)
        return float(np.mean(~keep_to_rules(own, schema)))

    def _next_seed(self) -> int:
        """Seed of the next sample that names none: the synthesizer's own for the first."""
        call, self._samples = self._samples, self._samples + 1
        if call == 0:
            return self.seed
        words = np.random.SeedSequence(self.seed, spawn_key=(call,)).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(1))

    @property
    def guarantee(self) -> Guarantee:
        """What the synthetic rows guarantee: the release's, and what the schema cost.

        A ValueError before there is a release.
        """
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
        TypeError, ValueError
            If the synthesizer is not trained, `df` or `holdout` does not follow the schema, or
            `target` names no column.
        OSError
            If the page cannot be written.
        """
        from dpslice.tabular.report import write_report

        self._trained()
        if n is None:
            self.schema.check_columns(df)  # whose length is asked for; the rest `scores` checks
            n = len(df)
        return write_report(
            path,
            real=df,
            synthetic=self.sample(n, seed=self.seed),
            schema=self.schema,
            guarantee=self.guarantee,
            target=target,
            holdout=holdout,
            seed=self.seed,
            training=self.training_facts(),
        )

    # ------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Save the trained synthesizer: weights, schema, guarantee; no row, real or released.

        Parameters
        ----------
        path : path
            File to write, under a temporary name first.
        overwrite : bool
            Whether an existing file is replaced. If not, and there is one, the new one is written
            beside it, as ``model-1.pt``, and a FileExistsError says so.

        Raises
        ------
        ValueError
            If the synthesizer is not trained.
        OSError
            If the file cannot be written, as on a full disk: an existing one is kept then.
        """
        state = self._trained().state_dict()
        header = {
            "schema": self.schema.to_dict(),
            "settings": self._method.settings(),
            "training": asdict(self.training),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "method": self.method,
            "adjacency": self.adjacency,
            "seed": self.seed,
            "rounds": self.rounds,
            "amplify_by_order": self.amplify_by_order,
            "rows_per_person": self.rows_per_person,
            "guarantee": self.guarantee.to_dict(),
        }
        data = sealed({"header": json.dumps(header), "state": state}, dpslice_model=_MODEL_FORMAT)
        with replacing(path, overwrite=overwrite) as temporary:
            temporary.write(data)

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
        IsADirectoryError
            If it is a directory, as a release is.
        ValueError
            If it is no model of dpslice, is damaged, or was written by a newer version.
        """
        path = _arrays.path("path", path)
        if path.is_dir():
            raise IsADirectoryError(
                f"{path} is a directory, no model file (a release must be trained on first)"
            )
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such model file")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version = content["dpslice_model"]
        except Exception as error:  # torch raises many kinds here; all mean the same to the user
            raise ValueError(f"{path}: not a model saved by dpslice, or damaged") from error
        if type(version) is not int:
            raise ValueError(
                f"{path}: not a model saved by dpslice, or damaged (model format {version!r})"
            )
        if not _UNSEALED_FORMAT <= version <= _MODEL_FORMAT:
            age = "a newer" if version > _MODEL_FORMAT else "an older"
            raise ValueError(
                f"{path}: written by {age} dpslice (model format {version}; this one reads "
                f"{_UNSEALED_FORMAT} to {_MODEL_FORMAT}): train it again from its release, which "
                "costs no privacy"
            )
        try:
            if version != _UNSEALED_FORMAT:
                content = unsealed(content)
            header = json.loads(content["header"])
            options = METHODS[header["method"]].options_class
            synthesizer = cls(
                Schema.from_dict(header["schema"]),
                training=options(**header["training"]),
                # Models of versions that did not say:
                rounds=header.get("rounds", 0),
                amplify_by_order=header.get("amplify_by_order", False),
                rows_per_person=header.get("rows_per_person", 1),
                **{k: header[k] for k in ("epsilon", "delta", "method", "adjacency", "seed")},
            )
            synthesizer._use(header["settings"])
            synthesizer._guarantee = Guarantee.from_dict(header["guarantee"])
            with _on_the_cpu():
                model = synthesizer._method.new_model()
            model.load_state_dict(content["state"])
            for name, value in model.state_dict().items():
                if not _arrays.all_finite(value):
                    raise ValueError(f"{name} holds NaN or infinity")
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: damaged model file: {error}") from error
        synthesizer.model = model.eval()
        return synthesizer

    # ------------------------------------------------------------------------------ helpers

    def _total(self, release: Release) -> Guarantee:
        """Guarantee of a release and of the schema, also of a release that does not name it."""
        cost = self.schema.guarantee
        return total_guarantee(release) if cost is None else total_guarantee(release, cost)

    def training_facts(self, *, broken_share: float | None = None) -> dict[str, Any] | None:
        """Return what the report says of the training; None for a model loaded from a file.

        Parameters
        ----------
        broken_share : float, optional
            What `broken_share` has told, if it was asked before.

        Returns
        -------
        dict or None
            JSON-safe.
        """
        if self.result is None:
            return None
        drawn_anew = {}
        if self.schema.impossible:
            share = self.broken_share() if broken_share is None else broken_share
            drawn_anew["rows drawn anew, as they broke a rule"] = f"{share:.2%}"
        return {
            "steps": self.result.steps,
            "seconds": round(self.result.seconds, 1),
            **self._method.facts(self.release, self._trained()),
            **drawn_anew,
            "seed": self.seed,
            "loss": [float(value) for value in self.result.history],
        }

    def _trained(self) -> nn.Module:
        if self.model is None:
            raise ValueError("the synthesizer is not trained: call fit first")
        return self.model
