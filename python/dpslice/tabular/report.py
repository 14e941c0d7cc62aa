"""One self-contained HTML page about a synthetic table: its certificate, and how good it is.

The page works offline: its style sheet and charts (SVG, drawn here) are inside it, it has no
script, and its content security policy forbids loading anything. Python computes numbers and
geometry; the template `report.html.j2` writes every tag, with automatic escaping, so that a
column named ``<script>`` stays a name.

The page compares with real rows. That is not private, and the page says so in red.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.accounting import Guarantee
from dpslice.accounting._guarantee import wording
from dpslice.tabular.files import replacing
from dpslice.tabular.metrics import TableColumn, scores, table_columns
from dpslice.tabular.schema import Datetime, Number, Schema

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["render_report", "write_report"]

Floats = NDArray[np.float64]

REAL, SYNTHETIC = 0, 1

TOP_LEVELS = 10  # levels of a category drawn one by one; the rest share one bar
LINEAR_BINS = 40
LOG_BINS = 24  # few, for on a log scale the first integers lie far apart
HEAT_COLUMNS = 40  # a larger heat map cannot be read; the least faithful columns are kept
WORST_PAIRS = 8
CURVE_POINTS = 300


# --------------------------------------------------------------------------------- numbers as text


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _plain(text: str) -> str:
    """Write the computer's 1.5e-05 as 1.5 × 10⁻⁵."""
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    power = f"10{_superscript(int(exponent))}"
    return power if mantissa == "1" else f"{mantissa} × {power}"


def _upwards(value: float, digits: int = 6) -> str:
    """Write a privacy parameter with some significant digits, never smaller than it is."""
    if math.isinf(value):
        return "∞"
    context = Context(prec=digits, rounding=ROUND_CEILING)
    rounded = float(context.create_decimal(Decimal(repr(float(value)))))
    if 1e6 > rounded >= 1000:
        return f"{rounded:,.{digits}g}" if rounded % 1 else f"{rounded:,.0f}"
    return _plain(f"{rounded:.{digits}g}")


def _number(value: float, digits: int = 6) -> str:
    """Write a measured number with some significant digits."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return _plain(f"{value:,.{digits}g}")


def _score(value: float | None, digits: int = 3) -> str:
    """Write a score so that only a perfect one reads 1, and only a worthless one 0."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    if value != 1 and float(text) == 1:
        return f">{1 - 10**-digits:.{digits}f}" if value < 1 else f"<{1 + 10**-digits:.{digits}f}"
    if value != 0 and float(text) == 0:
        return f"<{10**-digits:.{digits}f}" if value > 0 else f">−{10**-digits:.{digits}f}"
    return text.replace("-", "−")


def _cell(value: float) -> str:
    """Write a score in as few signs as a cell of a map has room for: .95, −.03, >.99."""
    text = f"{abs(value):.2f}"
    if text == "0.00":
        return "0"
    sign = "−" if value < 0 else ""
    if text == "1.00":
        return f"{sign}1" if abs(value) == 1 else f"{'<' if value < 0 else '>'}{sign}.99"
    return sign + (text[1:] if text.startswith("0") else text)


def _share(value: float) -> str:
    """Write a share in percent, so that only none reads 0 % and only all reads 100 %."""
    if value in (0.0, 1.0):
        return f"{value:.0%}".replace("%", " %")
    percent = f"{100 * value:.1f}"
    if percent == "0.0":
        return "<0.1 %"
    if percent == "100.0":
        return ">99.9 %"
    return f"{percent} %"


def _count(value: int) -> str:
    return f"{value:,}"


# ------------------------------------------------------------------------------------ certificate


def _likelihood_factor(epsilon: float) -> str:
    """exp(epsilon), never smaller than it is."""
    if epsilon > 700:  # exp overflows at 709.8
        return "more than 10³⁰⁰"
    return _upwards(math.exp(epsilon), 4)


def _at_most(share: float) -> str:
    """Write an upper bound of a probability in percent, rounded up."""
    if share >= 1:
        return "100 %"
    tenths = math.ceil(1000 * share - 1e-9)  # the bound is a computed number: 50 % stays 50.0 %
    return f"{tenths / 10:.1f} %" if tenths < 1000 else ">99.9 %"


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


def _facts(guarantee: Guarantee) -> list[tuple[str, str]]:
    """Everything that one step's certificate states, as label and text."""
    facts: list[tuple[str, str]] = [
        ("Mechanism", guarantee.mechanism),
        ("Adjacency", _ADJACENCY[guarantee.adjacency]["name"]),
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
            facts.append((label, _number(value)))
    if guarantee.frame is not None:
        seeded = "" if guarantee.frame_norm is None else ", seeded: for the worst pair of rows"
        facts.append(("Random directions", guarantee.frame + seeded))
    for label, count in (
        ("Features d", guarantee.d),
        ("Released sums" if sums else "Released columns p", guarantee.p),
        ("Rows n (public)", guarantee.n),
    ):
        if count is not None:
            facts.append((label, _count(count)))
    if guarantee.epsilon_numerical > 0 or guarantee.delta_numerical > 0:
        rounding = (
            f"ε {_upwards(guarantee.epsilon_numerical, 3)}, "
            f"δ {_upwards(guarantee.delta_numerical, 3)}"
        )
        facts.append(("Loss by rounding, already included", rounding))
    return facts


def _steps(guarantee: Guarantee) -> list[Guarantee]:
    """List the steps that were composed, those inside other compositions included."""
    if not guarantee.parts:
        return [guarantee]
    return [step for part in guarantee.parts for step in _steps(part)]


def _certificate(guarantee: Guarantee | None) -> dict[str, Any]:
    """Everything the certificate section says."""
    if guarantee is None:
        return {"given": False}
    adjacency = _ADJACENCY[guarantee.adjacency]
    epsilon, delta = guarantee.epsilon, guarantee.delta
    parts = [
        {
            "mechanism": part.mechanism,
            "adjacency": part.adjacency,
            "epsilon": _upwards(part.epsilon),
            "delta": _upwards(part.delta, 3),
        }
        for part in (_steps(guarantee) if guarantee.parts else ())
    ]
    how = {
        "basic": "ε and δ add up",
        "joint": "accounted for together, exactly",
    }
    return {
        "given": True,
        "private": guarantee.private,
        "epsilon": _upwards(epsilon),
        "delta": _upwards(delta, 3),
        "adjacency": guarantee.adjacency,
        "adjacency_name": adjacency["name"],
        "change": adjacency["change"],
        "doubt": adjacency["doubt"],
        "factor": _likelihood_factor(epsilon),
        "posterior": _at_most(1.0 / (1.0 + math.exp(-epsilon))),
        "detection": _at_most(_detection(epsilon, delta, 0.01)),
        "n": None if guarantee.n is None else _count(guarantee.n),
        "expected_failures": (
            None if guarantee.n is None else _upwards(guarantee.n * guarantee.delta, 2)
        ),
        "delta_too_large": guarantee.n is not None and guarantee.n * guarantee.delta >= 1,
        "replace_one": (
            None
            if guarantee.epsilon_replace_one is None
            else _upwards(guarantee.epsilon_replace_one)
        ),
        "mechanism": guarantee.mechanism,
        "steps": [_facts(step) for step in _steps(guarantee)],
        "parts": parts,
        "composition": how.get(guarantee.composition or "", guarantee.composition),
        "notes": list(guarantee.notes),
        "text": str(guarantee),
    }


# --------------------------------------------------------------------------------------- axes


def _nice_step(span: float, count: int) -> float:
    """Step of 1, 2 or 5 times a power of ten that cuts `span` into about `count` parts."""
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= raw * (1 - 1e-9))


def _tick_text(value: float, step: float) -> str:
    """Write a tick short: 10k and 1.5M above, just enough decimals below."""
    magnitude = max(abs(value), step)
    if magnitude >= 1e15 or step < 1e-6:
        return _plain(f"{value:.3g}").replace("-", "−")
    unit, letter = 1.0, ""
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if magnitude >= size:
            unit, letter = (1e3 if name == "k" else size), name
            break
    if value == 0:
        return "0"
    decimals = max(0, -math.floor(math.log10(step / unit) + 1e-9))
    text = f"{value / unit:,.{min(decimals, 6)}f}"
    return f"{text}{letter}".replace("-", "−")


@dataclass(frozen=True)
class _Axis:
    """A value axis: `place` maps values to a linear coordinate that runs from `low` to `high`."""

    low: float
    high: float
    n_bins: int
    place: Callable[[Floats], Floats]
    ticks: list[tuple[float, str]]  # coordinate, label


def _linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    step = _nice_step(high - low, 5)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    places: dict[str, float] = {}  # far from zero on a short axis, labels may coincide: keep one
    for i in range(first, last + 1):
        places.setdefault(_tick_text(i * step, step), min(max(i * step, low), high))
    return [(at, text) for text, at in places.items()]


def _log_ticks(
    low: float, high: float, place: Callable[[Floats], Floats]
) -> list[tuple[float, str]]:
    """Round values that lie far enough apart on the axis, coarse ones first."""
    candidates = [low, high]
    largest = max(abs(low), abs(high))
    for mantissa in (1.0, 5.0, 2.0):
        decades = range(math.floor(math.log10(largest)), math.floor(math.log10(largest)) - 8, -1)
        candidates += [sign * mantissa * 10.0**k for k in decades for sign in (1, -1)]
    ends = place(np.array([low, high]))
    taken: list[tuple[float, str]] = []
    for value in candidates:
        at = float(place(np.array([value]))[0])
        if low <= value <= high and all(
            abs(at - other) >= 0.18 * (ends[1] - ends[0]) for other, _ in taken
        ):
            tiny = abs(value) < 1e-290  # as good as 0, and its power of ten may underflow
            rough = 1.0 if tiny else 10.0 ** math.floor(math.log10(abs(value)) + 1e-9)
            if abs(value / rough - round(value / rough)) > 1e-9:
                rough /= 10  # a bound that is not round gets two digits
            taken.append((at, _tick_text(value, rough)))
    return sorted(taken)


def _date_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Choose starts of years over long spans, else four dates at even distances."""
    first, last = (np.datetime64(int(v), "s") for v in (low, high))
    first_year, last_year = (int(str(v.astype("datetime64[Y]"))) for v in (first, last))
    if last_year - first_year >= 5:
        step = max(1, int(_nice_step(last_year - first_year, 5)))
        starts = {
            str(year): float(np.datetime64(f"{year:04d}", "s").astype(np.int64))
            for year in range(-(-first_year // step) * step, last_year + 1, step)
        }
        return [(at, year) for year, at in starts.items() if at >= low]
    unit = "D" if high - low >= 3 * 86_400 else "m"
    places = np.linspace(low, high, 4)
    return [
        (float(v), str(np.datetime64(int(v), "s").astype(f"datetime64[{unit}]")).replace("T", " "))
        for v in places
    ]


def _axis(schema: Number | Datetime) -> _Axis:
    """Bins and ticks of a column, from the schema's public bounds alone."""

    def identity(values: Floats) -> Floats:
        return values

    if isinstance(schema, Datetime):
        low, high = schema.bounds_seconds
        last = high + (schema.unit if schema.whole_days else 0.0)  # a day lasts until midnight
        steps = (last - low) / schema.unit
        bins = int(min(LINEAR_BINS, max(1.0, steps)))
        return _Axis(low, last, bins, identity, _date_ticks(low, high))
    low, high = (float(bound) for bound in schema.regular_bounds)
    if schema.scale == "log":
        # The scale of the encoding: distance from the bound, in units of 1 or of the range / 1000.
        unit = 1.0 if schema.type == "integer" else (high - low) / 1000

        def place(values: Floats) -> Floats:
            distance: Floats = np.log1p(np.clip(values - low, 0.0, None) / unit)
            return distance

        top = float(place(np.array([high]))[0])
        return _Axis(0.0, top, LOG_BINS, place, _log_ticks(low, high, place))
    if schema.type == "integer":
        # Whole steps per bin, the same for each bin: no comb where the width is not whole.
        step = schema.step or 1.0
        first = math.ceil(low / step) * step - 0.5 * step
        values = math.floor(high / step) - math.ceil(low / step) + 1
        width = math.ceil(values / LINEAR_BINS)
        bins = math.ceil(values / width)
        ticks = [t for t in _linear_ticks(low, high) if t[0] == round(t[0])]
        return _Axis(first, first + bins * width * step, bins, identity, ticks)
    return _Axis(low, high, LINEAR_BINS, identity, _linear_ticks(low, high))


def _anchor(x: float, left: float, right: float) -> str:
    """Keep a tick label inside the chart."""
    if x < left + 24:
        return "start"
    return "end" if x > right - 24 else "middle"


def _r(value: float) -> float:
    """Round a coordinate: a tenth of a pixel is enough, and the page stays small."""
    return round(float(value), 1) + 0.0


# ------------------------------------------------------------------------------ one-way charts


def _histogram(column: TableColumn, regular: Sequence[Floats]) -> dict[str, Any] | None:
    """Geometry of a histogram: bars for the real table, an outline for the synthetic one."""
    if len(regular[REAL]) == 0 and len(regular[SYNTHETIC]) == 0:
        return None
    assert isinstance(column.schema, Number | Datetime)
    axis = _axis(column.schema)
    edges = np.linspace(axis.low, axis.high, axis.n_bins + 1)
    shares = []
    for values in regular:
        inside = np.clip(axis.place(values), axis.low, axis.high)
        counts = np.histogram(inside, edges)[0]
        shares.append(counts / max(1, len(values)))
    width, height = 440.0, 180.0
    left, right, top, bottom = 46.0, 434.0, 10.0, 154.0
    peak = float(max(shares[REAL].max(), shares[SYNTHETIC].max()))
    step = _nice_step(peak, 3)
    ceiling = step * math.ceil(peak / step - 1e-9)

    def x(coordinate: float) -> float:
        return left + (right - left) * (coordinate - axis.low) / (axis.high - axis.low)

    def y(share: float) -> float:
        return bottom - (bottom - top) * share / ceiling

    bars = [
        {"x": _r(x(a)), "y": _r(y(s)), "w": _r(max(x(b) - x(a) - 0.6, 0.6)), "h": _r(bottom - y(s))}
        for a, b, s in zip(edges[:-1], edges[1:], shares[REAL], strict=True)
        if s > 0
    ]
    outline = [f"M{_r(x(edges[0]))} {_r(bottom)}"]
    for a, b, s in zip(edges[:-1], edges[1:], shares[SYNTHETIC], strict=True):
        outline.append(f"L{_r(x(a))} {_r(y(s))}L{_r(x(b))} {_r(y(s))}")
    outline.append(f"L{_r(x(edges[-1]))} {_r(bottom)}")
    digits = max(0, -math.floor(math.log10(100 * step) + 1e-9))
    return {
        "width": width,
        "height": height,
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "bars": bars,
        "outline": "".join(outline) if len(regular[SYNTHETIC]) else "",
        "x_ticks": [
            {"x": _r(x(at)), "text": text, "anchor": _anchor(x(at), left, right)}
            for at, text in axis.ticks
        ],
        "y_ticks": [
            {"y": _r(y(i * step)), "text": f"{100 * i * step:.{digits}f} %"}
            for i in range(round(ceiling / step) + 1)
        ],
    }


def _value_text(schema: Number | Datetime, value: float) -> str:
    """Write one value of a column."""
    if isinstance(schema, Datetime):
        unit = "D" if schema.whole_days else "s"
        return str(np.datetime64(int(value), "s").astype(f"datetime64[{unit}]")).replace("T", " ")
    return _number(value, 4).replace("-", "−")


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


def _state_rows(
    states: Sequence[tuple[str, str, float, float]], *, full: bool
) -> list[dict[str, Any]]:
    """Paired bars, one pair for each (label, css class, real share, synthetic share).

    The longest bar fills its track; with `full`, only a share of 100 % would.
    """
    widest = max([1.0 if full else 0.0, *(max(real, made) for _, _, real, made in states)])
    return [
        {
            "label": label,
            "kind": kind,
            "real": _share(real),
            "synthetic": _share(synthetic),
            "real_width": round(100 * real / widest, 2) if widest else 0,
            "synthetic_width": round(100 * synthetic / widest, 2) if widest else 0,
        }
        for label, kind, real, synthetic in states
    ]


def _category_states(column: TableColumn) -> list[tuple[str, str, float, float]]:
    """Shares of the levels: all of them, or the commonest and the rest; then missing."""
    shares = [
        np.bincount(column.present(t), minlength=len(column.levels)) / len(column.values[t])
        for t in (REAL, SYNTHETIC)
    ]
    order = list(range(len(column.levels)))
    if len(order) > TOP_LEVELS + 1:  # a rest of one level would save nothing
        order = [int(i) for i in np.argsort(-(shares[REAL] + shares[SYNTHETIC]), kind="stable")]
        order, rest = order[:TOP_LEVELS], order[TOP_LEVELS:]
    else:
        rest = []
    states = [(column.levels[i], "level", shares[REAL][i], shares[SYNTHETIC][i]) for i in order]
    if rest:
        states.append(
            (
                f"{len(rest)} other levels",
                "rest",
                float(shares[REAL][rest].sum()),
                float(shares[SYNTHETIC][rest].sum()),
            )
        )
    return states


def _column_card(column: TableColumn, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the card of one column shows."""
    states: list[tuple[str, str, float, float]] = []
    chart: dict[str, Any] | None = None
    summary: list[dict[str, str]] = []
    if column.is_discrete:
        states = _category_states(column)
    else:
        schema = column.schema
        special = schema.special if isinstance(schema, Number) else ()
        rows = [len(column.values[t]) for t in (REAL, SYNTHETIC)]
        for value in special:
            real, synthetic = (
                float((column.values[t] == value).sum() / rows[t]) for t in (REAL, SYNTHETIC)
            )
            states.append((_number(value), "special", real, synthetic))
        regular = [
            present[~np.isin(present, special)]
            for present in (column.present(REAL), column.present(SYNTHETIC))
        ]
        if special:
            real, synthetic = (len(regular[t]) / rows[t] for t in (REAL, SYNTHETIC))
            states.append(("any other value", "rest", real, synthetic))
        chart = _histogram(column, regular)
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
        notes.append(f"{_share(column.outside[REAL])} of the real values {fate}")
    return {
        "name": column.name,
        "kind": column.kind,
        "metric": entry["metric"],
        "score": _score(entry["score"]),
        "states": _state_rows(states, full=not column.is_discrete),
        "chart": chart,
        "chart_is_partial": bool(states),
        "log_scale": isinstance(column.schema, Number) and column.schema.scale == "log",
        "summary": summary,
        "notes": notes,
    }


# ---------------------------------------------------------------------------------- matrices


def _clip_label(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _triangle(
    names: Sequence[str],
    values: Mapping[tuple[int, int], float | None],
    *,
    opacity: Callable[[float], float],
    cell_class: Callable[[float], str],
    title: Callable[[int, int, float | None], str],
) -> dict[str, Any]:
    """Geometry of a lower triangle of cells; column names stand on its diagonal.

    The names run into the empty upper triangle, so none has to be turned.
    """
    n = len(names)
    cell = 36.0 if n <= 20 else 20.0
    texts = [_clip_label(name, 20) for name in names]
    widths = [6.8 * len(text) for text in texts]  # a guess for 12 px text, on the large side
    label = 8.0 + max(widths[1:])
    width = label + max(j * cell + max(cell, widths[j] + 4) for j in range(n - 1))
    cells = []
    for (i, j), value in values.items():
        strength = 0.0 if value is None else min(max(opacity(value), 0.0), 1.0)
        cells.append(
            {
                "x": _r(label + j * cell),
                "y": _r(i * cell),
                "size": _r(cell - 2),
                "opacity": round(strength, 3),
                "kind": "void" if value is None else cell_class(value),
                "strong": strength > 0.62,
                "text": "" if n > 20 else "–" if value is None else _cell(value),
                "title": title(i, j, value),
            }
        )
    return {
        "width": _r(width),
        "height": _r(n * cell),
        "cell": cell,
        "label": _r(label - 8),
        "cells": cells,
        "rows": [
            {"y": _r(i * cell + cell / 2), "text": texts[i], "full": name}
            for i, name in enumerate(names)
            if i > 0
        ],
        "diagonal": [
            {
                "x": _r(label + j * cell + 2),
                "y": _r(j * cell + cell / 2),
                "text": texts[j],
                "full": name,
            }
            for j, name in enumerate(names)
            if j < n - 1
        ],
    }


def _similarity_map(
    columns: Sequence[TableColumn], pairs: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Heat map of ContingencySimilarity, at most HEAT_COLUMNS columns: those that do worst."""
    names = [column.name for column in columns]
    if len(names) < 2:
        return None
    by_name: dict[str, list[float]] = {name: [] for name in names}
    for pair in pairs:
        for end in ("first", "second"):
            by_name[pair[end]].append(pair["contingency_similarity"])
    shown = names
    if len(names) > HEAT_COLUMNS:
        means = np.array([np.mean(by_name[name]) if by_name[name] else 1.0 for name in names])
        worst = sorted(np.argsort(means, kind="stable")[:HEAT_COLUMNS])
        shown = [names[i] for i in worst]
    index = {name: i for i, name in enumerate(shown)}
    values = {
        (index[pair["second"]], index[pair["first"]]): pair["contingency_similarity"]
        for pair in pairs
        if pair["first"] in index and pair["second"] in index
    }

    def title(i: int, j: int, value: float | None) -> str:
        return f"{shown[i]} and {shown[j]}: {_score(value)}"

    figure = _triangle(
        shown,
        values,
        opacity=lambda value: (1.0 - value) / 0.5,
        cell_class=lambda value: "gap",
        title=title,
    )
    worst_pairs = sorted(pairs, key=lambda pair: float(pair["contingency_similarity"]))
    return {
        **figure,
        "omitted": len(names) - len(shown),
        "worst": [
            {
                "first": pair["first"],
                "second": pair["second"],
                "score": _score(pair["contingency_similarity"]),
            }
            for pair in worst_pairs[:WORST_PAIRS]
        ],
    }


def _correlation_maps(
    columns: Sequence[TableColumn], pairs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Triangles of Pearson correlations: real, synthetic, and their difference."""
    names = [column.name for column in columns if not column.is_discrete][:HEAT_COLUMNS]
    index = {name: i for i, name in enumerate(names)}
    numeric = [
        pair
        for pair in pairs
        if pair["both_numeric"] and pair["first"] in index and pair["second"] in index
    ]
    if not numeric:
        return []

    def sign(value: float) -> str:
        return "positive" if value >= 0 else "negative"

    def title(i: int, j: int, value: float | None) -> str:
        return f"{names[i]} and {names[j]}: {'not defined' if value is None else _score(value)}"

    def figure(
        heading: str, value_of: Callable[[Mapping[str, Any]], float | None], full: float
    ) -> dict[str, Any]:
        values = {(index[pair["second"]], index[pair["first"]]): value_of(pair) for pair in numeric}
        geometry = _triangle(
            names, values, opacity=lambda v: abs(v) / full, cell_class=sign, title=title
        )
        return {"heading": heading, "full": _score(full, 1), **geometry}

    def difference(pair: Mapping[str, Any]) -> float | None:
        real, synthetic = pair["correlation_real"], pair["correlation_synthetic"]
        return None if real is None or synthetic is None else float(synthetic - real)

    return [
        figure("Real", lambda pair: pair["correlation_real"], 1.0),
        figure("Synthetic", lambda pair: pair["correlation_synthetic"], 1.0),
        figure("Synthetic minus real", difference, 0.5),
    ]


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
            "synthetic": _score(results[f"{key}_synthetic"]),
            "real": _score(results[f"{key}_real"]),
            "synthetic_width": round(100 * (results[f"{key}_synthetic"] or 0.0), 1),
            "real_width": round(100 * (results[f"{key}_real"] or 0.0), 1),
        }
        for name, key, note in rows
    ]


def _is_curve(value: object) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and len(value) >= 2


def _curve(values: Sequence[float]) -> dict[str, Any] | None:
    """Geometry of a training curve; each point is the mean of a block of steps."""
    series = np.asarray(values, dtype=np.float64)
    blocks = np.array_split(series, min(CURVE_POINTS, len(series)))
    ends = np.cumsum([len(block) for block in blocks])
    means = np.array([block.mean() for block in blocks])
    known = np.isfinite(means)
    if not known.any():
        return None
    low, high = float(means[known].min()), float(means[known].max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    left, right, top, bottom = 56.0, 634.0, 10.0, 150.0

    def x(step: float) -> float:
        return left + (right - left) * (step - 1) / max(1, len(series) - 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    points = [
        f"{_r(x(end))},{_r(y(mean))}" for end, mean in zip(ends[known], means[known], strict=True)
    ]
    return {
        "width": 640.0,
        "height": 176.0,
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "points": " ".join(points),
        "x_ticks": [
            {"x": _r(x(at)), "text": text, "anchor": _anchor(x(at), left, right)}
            for at, text in _linear_ticks(1, len(series))
        ],
        "y_ticks": [{"y": _r(y(at)), "text": text} for at, text in _linear_ticks(low, high)],
    }


def _training(training: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Facts and curves of the training, as the caller named them."""
    if not training:
        return None
    facts = []
    curves = []
    for name, value in training.items():
        if _is_curve(value):
            geometry = _curve(value)
            if geometry is not None:
                curves.append({"name": str(name), **geometry})
        elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            facts.append((str(name), str(value)))
        else:
            number = float(value)
            facts.append((str(name), _number(number) if math.isfinite(number) else str(value)))
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
        "value": _score(value),
        "beside": "" if beside is None else f"{_score(beside)} {what}",
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
        rows_real=_count(results["rows_real"]),
        rows_synthetic=_count(results["rows_synthetic"]),
        n_columns=_count(len(columns)),
        tiles=_tiles(results),
        certificate=_certificate(guarantee),
        cards=cards,
        similarity=_similarity_map(columns, results["pairs"]),
        all_pairs=_score(results["contingency_similarity_all"]),
        pairs_scored=_count(len(results["pairs"])),
        pairs_total=_count(results["pairs_total"]),
        correlations=_correlation_maps(columns, results["pairs"]),
        correlation_similarity=_score(results["correlation_similarity"]),
        use=results["classifier"],
        use_rows=[] if results["classifier"]["reason"] else _use_rows(results),
        positive_share=_share(results["classifier"].get("positive_share") or 0.0),
        count=_count,
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
) -> dict[str, Any]:
    """Compare a synthetic table with the real one, and write the result as one HTML page.

    The comparison reads real rows without any noise. It is **not private**: the page is for the
    data holder's eyes only, and the certificate on it does not cover it.

    Parameters
    ----------
    path : str or os.PathLike
        The page; an existing one is replaced once the new one is complete, not before.
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
    place = Path(path)
    # Said before the work, which may take a minute, rather than after it.
    if place.is_dir():
        raise IsADirectoryError(f"path must name a file; got the directory {place}")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"path must lie in an existing directory; got {place}")
    if guarantee is not None and not isinstance(guarantee, Guarantee):
        raise TypeError(f"guarantee must be a Guarantee or None; got {type(guarantee).__name__}")
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
    with replacing(place) as handle:
        # A lone surrogate in a name has no UTF-8 form; it becomes a question mark.
        handle.write(page.encode("utf-8", errors="replace"))
    return results
