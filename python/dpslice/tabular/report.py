"""One self-contained HTML page about a synthetic table: its certificate, and how good it is.

The page works offline: its style sheet and charts (SVG) are inside it, it has no script, and its
content security policy forbids loading anything. Python computes numbers and geometry (`_charts`);
the template `report.html.j2` writes every tag, with automatic escaping, so that a column named
``<script>`` stays a name.

The page compares with real rows. That is not private, and the page says so in red.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from dpslice import _arrays
from dpslice._storage import replacing
from dpslice.accounting import Guarantee
from dpslice.accounting._guarantee import leaves_of, wording
from dpslice.tabular._charts import (
    REAL,
    SYNTHETIC,
    Floats,
    category_states,
    correlation_maps,
    histogram,
    similarity_map,
    state_rows,
    training_curve,
)
from dpslice.tabular._numbers import (
    at_most_text,
    count_text,
    number_text,
    parameter_text,
    score_text,
    share_text,
)
from dpslice.tabular.columns import Datetime, Number
from dpslice.tabular.metrics import TableColumn, scores, table_columns
from dpslice.tabular.schema import Schema

__all__ = ["render_report", "write_report"]


# ------------------------------------------------------------------------------------ certificate


def _likelihood_factor(epsilon: float) -> str:
    """exp(epsilon), never smaller than it is."""
    if epsilon > 700:  # exp overflows at 709.8
        return "more than 10³⁰⁰"
    return parameter_text(math.exp(epsilon), 4)


def _detection(epsilon: float, delta: float, false_alarms: float) -> float:
    """Greatest power of a test between neighbouring tables at a rate of false alarms.

    Source: Kairouz, Oh, Viswanath 2015, Theorem 2.1: both inequalities of (epsilon, delta)
    between the two kinds of error.
    """
    by_alarm = math.exp(min(epsilon, 700.0)) * false_alarms + delta
    by_miss = 1.0 - math.exp(-epsilon) * (1.0 - delta - false_alarms)
    return min(1.0, by_alarm, by_miss)


_ADJACENCY = {
    "zero_out": {
        "name": "one row blanked (zero_out)",
        "change": "the same table in which that person’s row is blanked: it stays in its place, "
        "but says nothing",
        "doubt": "whether your row says what it says or is blank",
    },
    "replace_one": {
        "name": "one row replaced (replace_one)",
        "change": "the same table in which that person’s row is replaced by any other possible row",
        "doubt": "which of two rows is yours",
    },
    "add_remove": {
        "name": "one row in the table or not (add_remove)",
        "change": "the table without that person’s row",
        "doubt": "whether your row is in the table",
    },
}
_ADJACENCY_OF_SEVERAL = {
    "zero_out": {
        "name": "one person’s rows blanked, at most {} (zero_out)",
        "change": "the same table in which that person’s rows, at most {}, are blanked: they stay "
        "in their places, but say nothing",
        "doubt": "whether your rows say what they say or are blank",
    },
    "replace_one": {
        "name": "one person’s rows replaced, at most {} (replace_one)",
        "change": "the same table in which that person’s rows, at most {}, are replaced by any "
        "other possible rows",
        "doubt": "which of two sets of rows is yours",
    },
    "add_remove": {
        "name": "one person’s rows in the table or not, at most {} (add_remove)",
        "change": "the table without that person’s rows, at most {}",
        "doubt": "whether your rows are in the table",
    },
}
_COMPOSITION = {
    "basic": "ε and δ add up",
    "joint": "accounted for together, exactly",
    None: None,
}


def _adjacency(guarantee: Guarantee) -> dict[str, str]:
    """Say in words what neighbouring tables are."""
    rows = guarantee.rows_per_person
    if rows == 1:
        return _ADJACENCY[guarantee.adjacency]
    several = _ADJACENCY_OF_SEVERAL[guarantee.adjacency]
    return {key: text.format(count_text(rows)) for key, text in several.items()}


def _facts(guarantee: Guarantee) -> list[tuple[str, str]]:
    """Everything that one step's certificate states, as label and text."""
    facts: list[tuple[str, str]] = [
        ("Mechanism", guarantee.mechanism),
        ("Adjacency", _adjacency(guarantee)["name"]),
    ]
    sums = guarantee.mechanism == "sums"
    one, two = (
        ("the norm of a row’s features", "two rows’ features")
        if sums
        else ("a row’s norm", "two rows")
    )
    words = wording(guarantee)  # as on the certificate
    for label, value in (
        (f"Sensitivity Δ ({words.distance})", guarantee.sensitivity),
        (f"σ ({words.sigma})", guarantee.sigma),
        (f"Bound on {one}", guarantee.max_norm),
        (f"Bound on the distance of {two}", guarantee.diameter),
    ):
        if value is not None:
            facts.append((label, number_text(value)))
    if guarantee.frame is not None:
        seeded = "" if guarantee.frame_norm is None else ", seeded: for the worst pair of rows"
        facts.append(("Random directions", guarantee.frame + seeded))
    for label, count in (
        ("Features d", guarantee.d),
        ("Released sums" if sums else "Released columns p", guarantee.p),
        ("Rows n (public)", guarantee.n),
    ):
        if count is not None:
            facts.append((label, count_text(count)))
    if guarantee.epsilon_numerical > 0 or guarantee.delta_numerical > 0:
        rounding = (
            f"ε {parameter_text(guarantee.epsilon_numerical, 3)}, "
            f"δ {parameter_text(guarantee.delta_numerical, 3)}"
        )
        facts.append(("Loss by rounding, already included", rounding))
    return facts


def _certificate(guarantee: Guarantee | None) -> dict[str, Any]:
    """Everything the certificate section says."""
    if guarantee is None:
        return {"given": False}
    adjacency = _adjacency(guarantee)
    epsilon, delta, rows = guarantee.epsilon, guarantee.delta, guarantee.rows_per_person
    parts = [
        {
            "mechanism": part.mechanism,
            "adjacency": part.adjacency,
            "epsilon": parameter_text(part.epsilon),
            "delta": parameter_text(part.delta, 3),
        }
        for part in leaves_of(guarantee.parts)
    ]
    return {
        "given": True,
        "private": guarantee.private,
        "epsilon": parameter_text(epsilon),
        "delta": parameter_text(delta, 3),
        "adjacency": guarantee.adjacency,
        "adjacency_name": adjacency["name"],
        "unit": "row" if rows == 1 else "rows",
        "unit_limit": (
            "It holds for one row. Who fills several rows of the table"
            if rows == 1
            else f"It holds for people with at most {count_text(rows)} rows. Who has more"
        ),
        "change": adjacency["change"],
        "doubt": adjacency["doubt"],
        "factor": _likelihood_factor(epsilon),
        "posterior": at_most_text(1.0 / (1.0 + math.exp(-epsilon))),
        "detection": at_most_text(_detection(epsilon, delta, 0.01)),
        "n": None if guarantee.n is None else count_text(guarantee.n),
        "expected_failures": (
            None if guarantee.n is None else parameter_text(guarantee.n * guarantee.delta, 2)
        ),
        "delta_too_large": guarantee.n is not None and guarantee.n * guarantee.delta >= 1,
        "replace_one": (
            None
            if guarantee.epsilon_replace_one is None
            else parameter_text(guarantee.epsilon_replace_one)
        ),
        "mechanism": guarantee.mechanism,
        "steps": [_facts(step) for step in leaves_of([guarantee])],
        "parts": parts,
        "composition": _COMPOSITION.get(guarantee.composition),
        "notes": list(guarantee.notes),
        "text": str(guarantee),
    }


# ---------------------------------------------------------------------------- column by column


def _value_text(schema: Number | Datetime, value: float) -> str:
    """Write one value of a column."""
    if isinstance(schema, Datetime):
        unit = "D" if schema.whole_days else "s"
        return str(np.datetime64(int(value), "s").astype(f"datetime64[{unit}]")).replace("T", " ")
    return number_text(value, 4).replace("-", "−")


def _summary(column: TableColumn, regular: Sequence[Floats]) -> list[dict[str, str]]:
    """Describe the values that are neither missing nor special by a few statistics."""
    schema = column.schema
    assert isinstance(schema, Number | Datetime)

    def texts(statistic: Callable[[Floats], float]) -> list[str]:
        return [_value_text(schema, statistic(v)) if len(v) else "–" for v in regular]

    rows: list[tuple[str, Callable[[Floats], float]]] = [
        ("5th percentile", lambda v: float(np.quantile(v, 0.05, method="inverted_cdf"))),
        ("median", lambda v: float(np.quantile(v, 0.5, method="inverted_cdf"))),
        ("95th percentile", lambda v: float(np.quantile(v, 0.95, method="inverted_cdf"))),
        ("mean", lambda v: float(np.mean(v))),
    ]
    return [
        {"name": name, "real": real, "synthetic": synthetic}
        for name, (real, synthetic) in ((name, texts(s)) for name, s in rows)
    ]


def _column_card(column: TableColumn, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the card of one column shows."""
    states: list[tuple[str, str, float, float]] = []
    chart: dict[str, Any] | None = None
    summary: list[dict[str, str]] = []
    if column.is_discrete:
        states = category_states(column)
    else:
        schema = column.schema
        special = schema.special if isinstance(schema, Number) else ()
        rows = [len(column.values[t]) for t in (REAL, SYNTHETIC)]
        for value in special:
            real, synthetic = (
                float((column.values[t] == value).sum() / rows[t]) for t in (REAL, SYNTHETIC)
            )
            states.append((number_text(value), "special", real, synthetic))
        regular = [
            present[~np.isin(present, special)]
            for present in (column.present(REAL), column.present(SYNTHETIC))
        ]
        if special:
            real, synthetic = (len(regular[t]) / rows[t] for t in (REAL, SYNTHETIC))
            states.append(("any other value", "rest", real, synthetic))
        chart = histogram(column, regular)
        summary = _summary(column, regular)
    missing = [float(column.missing(t).mean()) for t in (REAL, SYNTHETIC)]
    if column.schema.nullable or max(missing) > 0:
        states.append(("missing", "missing", missing[REAL], missing[SYNTHETIC]))
    notes = [entry["note"]] if entry["note"] else []
    if column.outside[REAL] > 0:
        fate = (
            "are none of the schema’s categories and count as its “other” level"
            if column.is_discrete
            else "lie outside the schema’s bounds and count as the bound"
        )
        notes.append(f"{share_text(column.outside[REAL])} of the real values {fate}")
    return {
        "name": column.name,
        "kind": column.kind,
        "metric": entry["metric"],
        "score": score_text(entry["score"]),
        "states": state_rows(states, full=not column.is_discrete),
        "chart": chart,
        "chart_is_partial": bool(states),
        "log_scale": isinstance(column.schema, Number) and column.schema.scale == "log",
        "summary": summary,
        "notes": notes,
    }


# ----------------------------------------------------------------------- classifier and training


def _use_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores of the classifiers: trained on synthetic rows beside trained on real ones."""
    binary = results["classifier"].get("binary", True)
    rows = [
        ("ROC AUC, logistic regression", "auc", "0.5 is guessing, 1 is perfect"),
        ("F1, logistic regression", "f1", "harmonic mean of precision and recall"),
    ]
    if binary:
        rows.append(
            (
                "F1, BinaryLogisticRegression of sdmetrics",
                "binary_logistic_regression",
                "classes weighted equally, 50 steps",
            )
        )
    return [
        {
            "name": name,
            "note": note,
            "synthetic": score_text(results[f"{key}_synthetic"]),
            "real": score_text(results[f"{key}_real"]),
            "synthetic_width": round(100 * (results[f"{key}_synthetic"] or 0.0), 1),
            "real_width": round(100 * (results[f"{key}_real"] or 0.0), 1),
        }
        for name, key, note in rows
    ]


def _is_curve(value: object) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and len(value) >= 2


def _training(training: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Facts and curves of the training, as the caller named them."""
    if not training:
        return None
    facts = []
    curves = []
    for name, value in training.items():
        if _is_curve(value):
            geometry = training_curve(value)
            if geometry is not None:
                curves.append({"name": str(name), **geometry})
        elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            facts.append((str(name), str(value)))
        else:
            number = float(value)
            facts.append((str(name), number_text(number) if math.isfinite(number) else str(value)))
    return {"facts": facts, "curves": curves}


# ---------------------------------------------------------------------------------------- page


_TILES = (
    ("tv_complement", "TVComplement", "Categories, one at a time: the share that agrees."),
    ("ks_complement", "KSComplement", "Numbers and dates, one at a time: how close they lie."),
    (
        "contingency_similarity",
        "ContingencySimilarity",
        "Pairs of categories: the share of each two-way table that agrees.",
    ),
    (
        "correlation_similarity",
        "CorrelationSimilarity",
        "Pairs of numbers: how close the correlations lie.",
    ),
)


def _tile(
    name: str, text: str, value: float | None, beside: float | None, what: str
) -> dict[str, Any]:
    """Score, what it means, and the score of real rows to hold it against, if there is one."""
    return {
        "name": name,
        "text": text,
        "value": score_text(value),
        "beside": "" if beside is None else f"{score_text(beside)} {what}",
        "width": round(100 * (value or 0.0), 1),
        "mark": None if beside is None else round(100 * beside, 1),
    }


def _tiles(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    fresh = results["reference"] or {}
    tiles = [
        _tile(name, text, results[key], fresh.get(key), "for held-out real rows")
        for key, name, text in _TILES
    ]
    for key, name, text in (
        ("auc", "ROC AUC", "A classifier trained on synthetic rows, tested on real ones."),
        (
            "binary_logistic_regression",
            "F1",
            "BinaryLogisticRegression, trained on synthetic rows, tested on real ones.",
        ),
    ):
        value = results[f"{key}_synthetic"]
        if value is not None:
            tiles.append(
                _tile(name, text, value, results[f"{key}_real"], "if trained on real rows")
            )
    return tiles


def render_report(
    results: Mapping[str, Any],
    *,
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    guarantee: Guarantee | None,
    title: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> str:
    """Draw the page from scores that are already known.

    Parameters
    ----------
    results : mapping
        What `metrics.scores` gave for the same tables.
    real, synthetic, schema, guarantee, title, training
        As in `write_report`.

    Returns
    -------
    str
        The HTML page.
    """
    jinja2 = _arrays.require("jinja2", extra="tabular")
    columns = table_columns(schema, real=real, synthetic=synthetic)
    cards = [
        _column_card(column, entry)
        for column, entry in zip(columns, results["columns"], strict=True)
    ]
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = resources.files("dpslice.tabular").joinpath("report.html.j2").read_text("utf-8")
    page: str = environment.from_string(source).render(
        title=title if title is not None else schema.name or "Synthetic table",
        description=schema.description,
        rows_real=count_text(results["rows_real"]),
        rows_synthetic=count_text(results["rows_synthetic"]),
        n_columns=count_text(len(columns)),
        tiles=_tiles(results),
        certificate=_certificate(guarantee),
        cards=cards,
        similarity=similarity_map(columns, results["pairs"]),
        all_pairs=score_text(results["contingency_similarity_all"]),
        pairs_scored=count_text(len(results["pairs"])),
        pairs_total=count_text(results["pairs_total"]),
        impossible=[
            {"rule": entry["rule"], **{of: count_text(entry[of]) for of in ("real", "synthetic")}}
            for entry in results["impossible"]
        ],
        correlations=correlation_maps(columns, results["pairs"]),
        correlation_similarity=score_text(results["correlation_similarity"]),
        use=results["classifier"],
        use_rows=[] if results["classifier"]["reason"] else _use_rows(results),
        positive_share=share_text(results["classifier"].get("positive_share") or 0.0),
        count=count_text,
        training=_training(training),
        seed=results["seed"],
    )
    return page


def write_report(
    path: str | os.PathLike[str],
    *,
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    guarantee: Guarantee | None,
    target: str | None = None,
    holdout: pd.DataFrame | None = None,
    title: str | None = None,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = True,
) -> dict[str, Any]:
    """Compare a synthetic table with the real one, and write the result as one HTML page.

    The comparison reads real rows without any noise. It is **not private**: the page is for the
    data holder's eyes only, and the certificate on it does not cover it.

    Parameters
    ----------
    path : str or os.PathLike
        The page.
    real, synthetic : DataFrame
        The tables to compare; any number of rows each.
    schema : Schema
        The columns. Histograms are drawn on its public bounds.
    guarantee : Guarantee or None
        Certificate of the synthetic table; without one the page says that there is none.
    target, holdout, seed
        As in `dpslice.tabular.metrics.scores`.
    title : str, optional
        Heading of the page. Default: the schema's name.
    training : mapping, optional
        What to say about the training: a number or text is listed under its key, a sequence of
        numbers (such as the loss of every step) is drawn as a curve.
    overwrite : bool
        Whether an existing page is replaced, once the new one is complete. If not, and there is
        one, the new one is written beside it, as ``x-1.html``, and a FileExistsError says so.

    Returns
    -------
    dict
        The scores, as `dpslice.tabular.metrics.scores` returns them.

    Raises
    ------
    TypeError
        If a table is not a DataFrame, or an argument is of the wrong kind.
    ValueError
        If a table does not fit the schema, or `target` is not one of its columns.
    OSError
        If the page cannot be written; an existing one is then untouched.
    """
    place = _arrays.path("path", path)
    # Said before the work, which may take a minute, rather than after it.
    if place.is_dir():
        raise IsADirectoryError(f"path must name a file; got the directory {place}")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"path must lie in an existing directory; got {place}")
    if guarantee is not None and not isinstance(guarantee, Guarantee):
        raise TypeError(f"guarantee must be a Guarantee or None; got {type(guarantee).__name__}")
    if title is not None and not isinstance(title, str):
        raise TypeError(f"title must be a string or None; got {type(title).__name__}")
    if training is not None and not isinstance(training, Mapping):
        raise TypeError(f"training must be a mapping or None; got {type(training).__name__}")
    results = scores(real, synthetic, schema, target=target, holdout=holdout, seed=seed)
    page = render_report(
        results,
        real=real,
        synthetic=synthetic,
        schema=schema,
        guarantee=guarantee,
        title=title,
        training=training,
    )
    with replacing(place, overwrite=overwrite) as handle:
        # A lone surrogate in a name has no UTF-8 form; it becomes a question mark.
        handle.write(page.encode("utf-8", errors="replace"))
    return results
