"""How close a synthetic table is to a real one: the scores of sdmetrics, and a classifier's.

Every score compares with real rows, so none of them is private: they are for the data holder's
eyes. Nothing here may be called while a generator is trained.

Two kinds of score:

* *Fidelity*: one-way and two-way distributions, as defined by sdmetrics [1]_.
* *Use*: a logistic regression that predicts one column from the others, trained once on the
  synthetic and once on real rows, both tested on the same held-out real rows.

References
----------
.. [1] DataCebo, "SDMetrics" 0.18 or later: KSComplement, TVComplement, ContingencySimilarity,
   CorrelationSimilarity, BinaryLogisticRegression.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.tabular.columns import Boolean, Categorical, Column, Number
from dpslice.tabular.schema import Schema

__all__ = ["TableColumn", "scores", "table_columns"]

MISSING = -1  # code of a missing category; a missing number is NaN

# A target with more classes than this is not classified: one-against-rest scores of dozens of
# rare classes say little, and a multinomial fit on a large table takes minutes.
MAX_CLASSES = 20
# Levels of one feature that the classifier tells apart; rarer ones share one column.
MAX_FEATURE_LEVELS = 100
# sdmetrics works on a dense matrix and copies it several times: 160 MB of float64 each.
MAX_DENSE_CELLS = 20_000_000
# Classifiers add up squares of numbers, which are to be well below 2**1024.
_LARGEST_EXPONENT = 400
# Bins of sdmetrics' ContingencySimilarity for numbers: its own default.
DISCRETE_BINS = 10


# ------------------------------------------------------------------------- one view of all columns


@dataclass(frozen=True)
class TableColumn:
    """One column of several tables, in the form that all scores and charts use.

    Attributes
    ----------
    name : str
        Column name.
    kind : str
        ``categorical``, ``boolean``, ``number`` or ``datetime``.
    schema : Categorical, Boolean, Number or Datetime
        The column's public description.
    levels : tuple of str
        What the codes of a categorical or boolean column mean, in the schema's order. Empty for
        numbers and dates.
    values : tuple of array, each of shape (n,)
        One array per table. Categories: int64 codes into `levels`, -1 where missing. Numbers:
        float64; dates: float64 seconds since 1970; NaN where missing. Values outside the
        schema's bounds lie on the bound.
    outside : tuple of float
        Share of each table's rows whose value was clipped or mapped to `other`.
    """

    name: str
    kind: str
    schema: Column
    levels: tuple[str, ...]
    values: tuple[NDArray[Any], ...]
    outside: tuple[float, ...]

    @property
    def is_discrete(self) -> bool:
        """Whether the values are codes of levels."""
        return self.kind in ("categorical", "boolean")

    def missing(self, table: int) -> NDArray[np.bool_]:
        """Tell which rows of one table are missing, shape (n,)."""
        values = self.values[table]
        gone: NDArray[np.bool_] = values == MISSING if self.is_discrete else np.isnan(values)
        return gone

    def present(self, table: int) -> NDArray[Any]:
        """Return the values of one table that are not missing."""
        kept: NDArray[Any] = self.values[table][~self.missing(table)]
        return kept


def _outside(column: Column, series: pd.Series[Any]) -> float:
    """Share of a table's values that the schema does not know: clipped, or mapped to `other`."""
    if isinstance(column, Boolean):
        return 0.0
    if isinstance(column, Categorical):
        present = series.dropna()
        outside = len(present) - int(present.isin(column.categories).sum())
    else:
        outside = column.outside(series)
    return outside / len(series)


def table_columns(schema: Schema, **tables: pd.DataFrame) -> tuple[TableColumn, ...]:
    """Read the schema's columns of several tables into one common form.

    Parameters
    ----------
    schema : Schema
        Public description of the columns.
    **tables : DataFrame
        The tables, each under the name that an error message shall use.

    Returns
    -------
    tuple of TableColumn
        One for each column of the schema, in its order; their `values` are in the order of
        `tables`.

    Raises
    ------
    TypeError
        If a table is not a pandas DataFrame, or a column holds values of the wrong kind.
    ValueError
        If a table is empty, its columns are not the schema's, or a value breaks the schema.
    """
    for name, table in tables.items():
        with _naming(name):
            schema.check_columns(table)
    columns = []
    for column in schema.columns:
        values: list[NDArray[Any]] = []
        outside: list[float] = []
        for name, table in tables.items():
            with _naming(name):
                numbers = column.to_numbers(table[column.name])
            values.append(numbers)
            outside.append(_outside(column, table[column.name]))
        kind = "number" if isinstance(column, Number) else column.type
        levels: tuple[str, ...] = ()
        if isinstance(column, Categorical | Boolean):
            values = [np.where(np.isnan(v), MISSING, v).astype(np.int64) for v in values]
            levels = (
                tuple(str(category) for category in column.categories)
                if isinstance(column, Categorical)
                else ("false", "true")
            )
        columns.append(
            TableColumn(column.name, kind, column, levels, tuple(values), tuple(outside))
        )
    return tuple(columns)


@contextlib.contextmanager
def _naming(table: str) -> Iterator[None]:
    """Put the name of the table in front of the schema's complaint about it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{table}: {error}") from error


# ------------------------------------------------------------------------------- fidelity


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of other libraries from the user: each case is answered here.

    A metric that cannot be computed comes back as None with a note; convergence of the sdmetrics
    classifier, for one, is warned about whenever its 50 steps are used up.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _finite(value: float) -> float | None:
    """Return a score as a plain float, or None where it does not exist (JSON has no NaN)."""
    return float(value) if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Average the scores that exist, or return None where none does."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _column_scores(columns: Sequence[TableColumn], table: int) -> list[dict[str, Any]]:
    """Score each column of a table: TVComplement for categories, else KSComplement.

    Both compare the values that are present, as sdmetrics defines them; the shares of missing
    values stand beside the score.
    """
    single_column = _arrays.require("sdmetrics.single_column", extra="tabular")
    entries = []
    for column in columns:
        metric = "TVComplement" if column.is_discrete else "KSComplement"
        real, synthetic = column.present(0), column.present(table)
        score: float | None = None
        note = ""
        if len(real) == 0 or len(synthetic) == 0:
            which = "real" if len(real) == 0 else "synthetic"
            note = f"every {which} value is missing"
        else:
            with _quiet():
                score = _finite(getattr(single_column, metric).compute(real, synthetic))
        entries.append(
            {
                "name": column.name,
                "kind": column.kind,
                "metric": metric,
                "score": score,
                "missing_real": float(column.missing(0).mean()),
                "missing_synthetic": float(column.missing(table).mean()),
                "outside_real": column.outside[0],
                "note": note,
            }
        )
    return entries


def _discrete(column: TableColumn, table: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes of the real and of another table for two-way tables; missing is a level of its own.

    Numbers are cut as sdmetrics cuts them: ten equal bins between the least and the greatest real
    value, the outer ones open. Done once per column, not once per pair.
    """
    real, synthetic = column.values[0], column.values[table]
    if column.is_discrete:
        return real, synthetic
    utils = _arrays.require("sdmetrics.utils", extra="tabular")
    present = column.present(0)
    if len(present):
        low, high = float(present.min()), float(present.max())
        # Bins narrower than the floats there are no bins: such values are cut after a shift.
        if high - low <= 2 * DISCRETE_BINS * np.spacing(max(abs(low), abs(high))):
            real, synthetic = real - low, synthetic - low
    binned: tuple[NDArray[Any], NDArray[Any]] = utils.discretize_column(
        pd.Series(real), pd.Series(synthetic), num_discrete_bins=DISCRETE_BINS
    )
    return binned


def _pair_scores(
    columns: Sequence[TableColumn], pairs: Sequence[tuple[int, int]], table: int
) -> list[dict[str, Any]]:
    """Score pairs of columns: ContingencySimilarity, and correlations where both are numbers."""
    column_pairs = _arrays.require("sdmetrics.column_pairs", extra="tabular")
    with _quiet():
        codes = [_discrete(column, table) for column in columns]
    entries = []
    for first, second in pairs:
        a, b = columns[first], columns[second]
        entry: dict[str, Any] = {
            "first": a.name,
            "second": b.name,
            "both_discrete": a.is_discrete and b.is_discrete,
            "both_numeric": not a.is_discrete and not b.is_discrete,
            "correlation_real": None,
            "correlation_synthetic": None,
            "correlation_similarity": None,
        }
        # sdmetrics wants frames; the names are ours, because two columns of a table may well be
        # called what pandas uses for its own.
        real, synthetic = (
            pd.DataFrame({"a": codes[first][i], "b": codes[second][i]}) for i in (0, 1)
        )
        with _quiet():
            similarity = column_pairs.ContingencySimilarity.compute(real, synthetic)
        # 1 - (a sum of rounded shares) / 2 may leave [0, 1] by an ulp or two
        entry["contingency_similarity"] = _finite(min(max(similarity, 0.0), 1.0))
        if entry["both_numeric"]:
            real_rho, synthetic_rho = (_correlation(a.values[t], b.values[t]) for t in (0, table))
            entry["correlation_real"], entry["correlation_synthetic"] = real_rho, synthetic_rho
            if real_rho is not None and synthetic_rho is not None:
                real, synthetic = (
                    pd.DataFrame({"a": a.values[t], "b": b.values[t]}) for t in (0, table)
                )
                with _quiet():
                    similarity = column_pairs.CorrelationSimilarity.compute(real, synthetic)
                entry["correlation_similarity"] = _finite(similarity)
        entries.append(entry)
    return entries


def _fidelity(
    column_table: Sequence[Mapping[str, Any]], pair_table: Sequence[Mapping[str, Any]]
) -> dict[str, float | None]:
    """Headline means of the two tables of scores."""

    def by_metric(metric: str) -> float | None:
        return _mean([entry["score"] for entry in column_table if entry["metric"] == metric])

    return {
        "ks_complement": by_metric("KSComplement"),
        "tv_complement": by_metric("TVComplement"),
        "contingency_similarity": _mean(
            [e["contingency_similarity"] for e in pair_table if e["both_discrete"]]
        ),
        "contingency_similarity_all": _mean([e["contingency_similarity"] for e in pair_table]),
        "correlation_similarity": _mean([e["correlation_similarity"] for e in pair_table]),
    }


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Pearson's correlation of the rows where both are present; None where it is undefined."""
    both = ~(np.isnan(a) | np.isnan(b))
    x, y = a[both], b[both]
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return None
    with _quiet():
        return _finite(float(np.corrcoef(x, y)[0, 1]))


# ------------------------------------------------------------------------------------- use


@dataclass(frozen=True)
class _Task:
    """A classification task: class numbers (n,) per table, -1 where the target is missing."""

    classes: tuple[str, ...]
    labels: tuple[NDArray[np.int64], ...]


def _classification_task(column: TableColumn) -> _Task | str:
    """Turn the target column into classes, or say why it cannot be."""
    if column.is_discrete:
        if len(column.levels) < 2:
            return f"the target {column.name!r} has one level only, so there is nothing to predict"
        if len(column.levels) > MAX_CLASSES:
            return (
                f"the target {column.name!r} has {len(column.levels)} levels; "
                f"a classifier is trained for up to {MAX_CLASSES}"
            )
        return _Task(column.levels, column.values)
    schema = column.schema
    if (
        isinstance(schema, Number)
        and schema.type == "integer"
        and 1 <= schema.max - schema.min < MAX_CLASSES
    ):
        low = int(schema.min)
        count = int(schema.max) - low + 1
        labels = tuple(
            np.where(np.isnan(values), MISSING, values - low).astype(np.int64)
            for values in column.values
        )
        return _Task(tuple(str(low + i) for i in range(count)), labels)
    return (
        f"the target {column.name!r} is a {column.kind} column; a logistic regression needs a "
        f"categorical, boolean or integer one of at most {MAX_CLASSES} values"
    )


def _features(columns: Sequence[TableColumn], table: int, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Feature table of some rows: codes and float64 numbers under positional names."""
    return pd.DataFrame(
        {f"c{i}": _in_reach(column, column.values[table][rows]) for i, column in enumerate(columns)}
    )


def _in_reach(column: TableColumn, values: NDArray[Any]) -> NDArray[Any]:
    """Numbers in another unit, if their squares would leave float64."""
    if not isinstance(column.schema, Number):
        return values
    exponent = math.frexp(max(abs(column.schema.min), abs(column.schema.max)))[1]
    return np.ldexp(values, -exponent) if exponent > _LARGEST_EXPONENT else values


def _model(columns: Sequence[TableColumn]) -> Any:
    """Logistic regression on one-hot categories and standardised numbers.

    A missing category is a level; a missing number is the mean, plus an indicator column.
    """
    compose = _arrays.require("sklearn.compose", extra="tabular")
    impute = _arrays.require("sklearn.impute", extra="tabular")
    linear_model = _arrays.require("sklearn.linear_model", extra="tabular")
    pipeline = _arrays.require("sklearn.pipeline", extra="tabular")
    preprocessing = _arrays.require("sklearn.preprocessing", extra="tabular")
    discrete = [f"c{i}" for i, column in enumerate(columns) if column.is_discrete]
    numeric = [f"c{i}" for i, column in enumerate(columns) if not column.is_discrete]
    return pipeline.make_pipeline(
        compose.ColumnTransformer(
            [
                (
                    "numbers",
                    pipeline.make_pipeline(
                        impute.SimpleImputer(add_indicator=True, keep_empty_features=True),
                        preprocessing.StandardScaler(),
                    ),
                    numeric,
                ),
                (
                    "categories",
                    preprocessing.OneHotEncoder(
                        handle_unknown="ignore", max_categories=MAX_FEATURE_LEVELS
                    ),
                    discrete,
                ),
            ]
        ),
        linear_model.LogisticRegression(max_iter=1000),
    )


def _probabilities(
    columns: Sequence[TableColumn],
    train: pd.DataFrame,
    labels: NDArray[np.int64],
    test: pd.DataFrame,
    n_classes: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fit on `train`, return class probabilities (n, n_classes) and predictions (n,) on `test`.

    A training table with one class gives that class to every row: its AUC is then 0.5.
    """
    probability = np.zeros((len(test), n_classes))
    seen = np.unique(labels)
    if len(seen) == 1:
        probability[:, seen[0]] = 1.0
        return probability, np.full(len(test), seen[0])
    model = _model(columns)
    with _quiet():
        model.fit(train, labels)
        probability[:, model[-1].classes_] = model.predict_proba(test)
        predicted: NDArray[np.int64] = model.predict(test)
    return probability, predicted


def _evaluate(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    predicted: NDArray[np.int64],
    positive: Sequence[int],
) -> tuple[float | None, float | None]:
    """F1 and ROC AUC, each averaged over the classes in `positive`.

    Two classes: `positive` is the one that counts as such. More: every class that the test rows
    hold, each against the rest (macro average).
    """
    metrics = _arrays.require("sklearn.metrics", extra="tabular")
    f1, auc = [], []
    for label in positive:
        is_class = truth == label
        if not is_class.any():
            continue  # no row to find: neither score is defined
        f1.append(_finite(metrics.f1_score(is_class, predicted == label, zero_division=0.0)))
        if not is_class.all():
            auc.append(_finite(metrics.roc_auc_score(is_class, probability[:, label])))
    return _mean(f1), _mean(auc)


def _dense_features(
    columns: Sequence[TableColumn], train: pd.DataFrame, test: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One-hot every categorical feature before sdmetrics sees it.

    sdmetrics one-hot encodes the levels of the training table and fails on a level that only the
    test table has. Encoded here, from the training table's levels, such a level is a row of
    zeros; all else is the same matrix up to the order of its columns.
    """
    out: tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]] = ({}, {})
    for i, column in enumerate(columns):
        name = f"c{i}"
        if not column.is_discrete:
            for part, frame in zip(out, (train, test), strict=True):
                part[name] = frame[name].to_numpy()
            continue
        common = train[name].value_counts().index[:MAX_FEATURE_LEVELS]
        for code in common:
            for part, frame in zip(out, (train, test), strict=True):
                part[f"{name}_{code}"] = (frame[name] == code).to_numpy(dtype=np.float64)
    return pd.DataFrame(out[0]), pd.DataFrame(out[1])


def _sdmetrics_f1(
    columns: Sequence[TableColumn],
    train: pd.DataFrame,
    labels: NDArray[np.bool_],
    test: pd.DataFrame,
    truth: NDArray[np.bool_],
    rng: np.random.Generator,
) -> float | None:
    """F1 of sdmetrics' BinaryLogisticRegression (balanced class weights, 50 steps)."""
    single_table = _arrays.require("sdmetrics.single_table", extra="tabular")
    dense_train, dense_test = _dense_features(columns, train, test)
    target = "target"  # no feature is called so: theirs are c0, c1_2, ...
    dense_train[target] = labels.astype(np.int64)
    dense_test[target] = truth.astype(np.int64)
    room = max(1, MAX_DENSE_CELLS // dense_train.shape[1])
    if len(dense_train) > room:
        dense_train = dense_train.iloc[np.sort(rng.permutation(len(dense_train))[:room])]
    with _quiet():
        score = single_table.BinaryLogisticRegression.compute(
            dense_test, dense_train, target=target
        )
    return _finite(score)


def _use_scores(
    columns: Sequence[TableColumn],
    target: str,
    *,
    has_holdout: bool,
    rng: np.random.Generator,
    max_rows: int,
) -> dict[str, Any]:
    """Train on synthetic and on real rows, test both on held-out real rows."""
    chosen = next(column for column in columns if column.name == target)
    features = [column for column in columns if column.name != target]
    task = _classification_task(chosen)
    if isinstance(task, str):
        return {"reason": task}
    if not features:
        return {"reason": f"{target!r} is the only column, so there is nothing to predict it from"}

    labelled = [np.flatnonzero(labels != MISSING) for labels in task.labels]
    shuffled = [rng.permutation(rows) for rows in labelled]
    if has_holdout:
        real_rows, test_rows, test_table = shuffled[0], shuffled[2], 2
    else:
        # ceil: two labelled rows are enough to hold one out
        n_test = math.ceil(len(shuffled[0]) / 5)
        real_rows, test_rows, test_table = shuffled[0][n_test:], shuffled[0][:n_test], 0
    synthetic_rows = shuffled[1]
    for what, rows in (
        ("real rows to train on", real_rows),
        ("held-out real rows", test_rows),
        ("synthetic rows to train on", synthetic_rows),
    ):
        if len(rows) == 0:
            return {"reason": f"there are no {what} in which {target!r} is present"}
    real_rows, synthetic_rows, test_rows = (
        np.sort(rows[:max_rows]) for rows in (real_rows, synthetic_rows, test_rows)
    )

    truth = task.labels[test_table][test_rows]
    test = _features(features, test_table, test_rows)
    counts = np.bincount(task.labels[0][real_rows], minlength=len(task.classes))
    binary = len(task.classes) == 2
    # The rarer class counts as positive; on a tie the later one of the schema.
    rarer = 0 if counts[0] < counts[1] else 1
    positive = [rarer] if binary else [int(label) for label in np.unique(truth)]

    result: dict[str, Any] = {
        "reason": "",
        "classes": list(task.classes),
        "binary": binary,
        "positive": task.classes[rarer] if binary else None,
        "positive_share": float((truth == rarer).mean()) if binary else None,
        "train_rows_real": len(real_rows),
        "train_rows_synthetic": len(synthetic_rows),
        "test_rows": len(test_rows),
        "holdout_given": has_holdout,
        "single_class_synthetic": False,
    }
    for name, table, rows in (("synthetic", 1, synthetic_rows), ("real", 0, real_rows)):
        labels = task.labels[table][rows]
        train = _features(features, table, rows)
        probability, predicted = _probabilities(features, train, labels, test, len(task.classes))
        result[f"f1_{name}"], result[f"auc_{name}"] = _evaluate(
            truth, probability, predicted, positive
        )
        if name == "synthetic":
            result["single_class_synthetic"] = len(np.unique(labels)) == 1
        if binary and (truth == rarer).any():
            result[f"binary_logistic_regression_{name}"] = _sdmetrics_f1(
                features, train, labels == rarer, test, truth == rarer, rng
            )
    return result


# ------------------------------------------------------------------------------------ scores


def scores(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    target: str | None = None,
    holdout: pd.DataFrame | None = None,
    seed: int = 0,
    *,
    max_pairs: int = 5_000,
    max_rows: int = 100_000,
) -> dict[str, Any]:
    """Compare a synthetic table with a real one. Not private: for the data holder's eyes only.

    Parameters
    ----------
    real : DataFrame, n rows
        The real table; it has every column of the schema.
    synthetic : DataFrame, any number of rows
        The synthetic table, same columns.
    schema : Schema
        Decides which columns are categories and which are numbers.
    target : str, optional
        Column for the classifier to predict. Default: the schema's own target; if it has none,
        no classifier is trained.
    holdout : DataFrame, optional
        Real rows to test the classifiers on; best rows that the synthesizer never saw. Default:
        a fifth of `real`, drawn at random, on which the real classifier is then not trained.
    seed : int
        Seed of the random split and of every subsample below.
    max_pairs : int
        Above this number of column pairs, that many are drawn at random and scored.
    max_rows : int
        Rows that a classifier is trained or tested on, at most; drawn at random.

    Returns
    -------
    dict
        JSON-safe. A score that does not exist (no such columns, constant columns, no target) is
        None. Keys:

        ``ks_complement``
            Mean KSComplement over number and datetime columns.
        ``tv_complement``
            Mean TVComplement over categorical and boolean columns.
        ``contingency_similarity``
            Mean ContingencySimilarity over pairs of categorical and boolean columns.
        ``contingency_similarity_all``
            The same over all pairs, numbers cut into ten bins.
        ``correlation_similarity``
            Mean CorrelationSimilarity (Pearson) over pairs of number and datetime columns.
        ``f1_synthetic``, ``f1_real``, ``auc_synthetic``, ``auc_real``
            F1 and ROC AUC of a logistic regression, trained on synthetic or real rows, tested on
            the same held-out real rows. Two classes: the rarer one among the real rows counts
            as positive. More: averaged over classes.
        ``binary_logistic_regression_synthetic``, ``binary_logistic_regression_real``
            F1 of sdmetrics' BinaryLogisticRegression, same rows and positive class.
        ``columns``, ``pairs``
            The tables behind the means: one dict for each column and for each pair.
        ``impossible``
            For each of the schema's rules on what is impossible, its words and how many real and
            synthetic rows break it: of ours none should.
        ``reference``
            The first five scores of `holdout` in place of the synthetic table: what other real
            rows reach. None without `holdout`.
        ``classifier``
            Target, classes, row counts, and ``reason``: why there is none, if so.
        ``rows_real``, ``rows_synthetic``, ``pairs_total``, ``seed``
            What was compared.

    Raises
    ------
    TypeError
        If a table is not a pandas DataFrame, a column holds values of the wrong kind, `schema` is
        no Schema, or `target` is not a string.
    ValueError
        If a table is empty, its columns are not the schema's, a value breaks the schema, or
        `target` is not in the schema.
    """
    _arrays.instance("schema", schema, Schema, "a Schema")
    seed = _arrays.integer("seed", seed, minimum=0)
    max_pairs = _arrays.positive_integer("max_pairs", max_pairs)
    max_rows = _arrays.positive_integer("max_rows", max_rows)
    if target is None:
        target = schema.target
    else:
        if not isinstance(target, str):
            raise TypeError(f"target must be a column name; got {_arrays.describe(target)}")
        if target not in schema.names:
            raise ValueError(f"target must be one of the schema's columns; got {target!r}")
    tables = {"real": real, "synthetic": synthetic}
    if holdout is not None:
        tables["holdout"] = holdout
    columns = table_columns(schema, **tables)
    rng = np.random.default_rng(seed)

    pairs = list(itertools.combinations(range(len(columns)), 2))
    pairs_total = len(pairs)
    if pairs_total > max_pairs:
        kept = np.sort(rng.permutation(pairs_total)[:max_pairs])
        pairs = [pairs[i] for i in kept]
    column_table = _column_scores(columns, 1)
    pair_table = _pair_scores(columns, pairs, 1)
    reference = (
        None
        if holdout is None
        else _fidelity(_column_scores(columns, 2), _pair_scores(columns, pairs, 2))
    )
    use: Mapping[str, Any] = (
        {"reason": "no target column was named"}
        if target is None
        else _use_scores(
            columns, target, has_holdout=holdout is not None, rng=rng, max_rows=max_rows
        )
    )

    measured = (
        "f1_synthetic",
        "f1_real",
        "auc_synthetic",
        "auc_real",
        "binary_logistic_regression_synthetic",
        "binary_logistic_regression_real",
    )
    return {
        **_fidelity(column_table, pair_table),
        **{key: use.get(key) for key in measured},
        "columns": column_table,
        "pairs": pair_table,
        "impossible": [
            {"rule": str(rule), "real": int(in_real), "synthetic": int(in_synthetic)}
            for rule, in_real, in_synthetic in zip(
                schema.impossible,
                *(schema.broken_rules(table).sum(axis=0) for table in (real, synthetic)),
                strict=True,
            )
        ],
        "reference": reference,
        "classifier": {
            "target": target,
            **{key: value for key, value in use.items() if key not in measured},
        },
        "rows_real": len(real),
        "rows_synthetic": len(synthetic),
        "pairs_total": pairs_total,
        "seed": seed,
    }
