"""Geometry of the report's charts: axes, histograms, bars, maps of pairs, curves.

Each function returns coordinates and texts; the template `report.html.j2` writes the SVG. What a
chart spans comes from the schema's public bounds where there are any, not from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpslice.tabular._numbers import cell_text, plain, score_text, share_text
from dpslice.tabular._places import value_to_place
from dpslice.tabular.columns import Datetime, Number
from dpslice.tabular.metrics import TableColumn

Floats = NDArray[np.float64]

REAL, SYNTHETIC = 0, 1

TOP_LEVELS = 10  # levels of a category drawn one by one; the rest share one bar
LINEAR_BINS = 40
LOG_BINS = 24  # few, for on a log scale the first integers lie far apart
HEAT_COLUMNS = 40  # a larger heat map cannot be read; the least faithful columns are kept
WORST_PAIRS = 8
CURVE_POINTS = 300


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
        return plain(f"{value:.3g}").replace("-", "−")
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

        def place(values: Floats) -> Floats:
            return value_to_place(schema, values)  # the scale of the encoding

        return _Axis(0.0, 1.0, LOG_BINS, place, _log_ticks(low, high, place))
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


def histogram(column: TableColumn, regular: Sequence[Floats]) -> dict[str, Any] | None:
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


def state_rows(
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
            "real": share_text(real),
            "synthetic": share_text(synthetic),
            "real_width": round(100 * real / widest, 2) if widest else 0,
            "synthetic_width": round(100 * synthetic / widest, 2) if widest else 0,
        }
        for label, kind, real, synthetic in states
    ]


def category_states(column: TableColumn) -> list[tuple[str, str, float, float]]:
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
                "text": "" if n > 20 else "–" if value is None else cell_text(value),
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


def similarity_map(
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
        return f"{shown[i]} and {shown[j]}: {score_text(value)}"

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
                "score": score_text(pair["contingency_similarity"]),
            }
            for pair in worst_pairs[:WORST_PAIRS]
        ],
    }


def correlation_maps(
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
        return f"{names[i]} and {names[j]}: {'not defined' if value is None else score_text(value)}"

    def figure(
        heading: str, value_of: Callable[[Mapping[str, Any]], float | None], full: float
    ) -> dict[str, Any]:
        values = {(index[pair["second"]], index[pair["first"]]): value_of(pair) for pair in numeric}
        geometry = _triangle(
            names, values, opacity=lambda v: abs(v) / full, cell_class=sign, title=title
        )
        return {"heading": heading, "full": score_text(full, 1), **geometry}

    def difference(pair: Mapping[str, Any]) -> float | None:
        real, synthetic = pair["correlation_real"], pair["correlation_synthetic"]
        return None if real is None or synthetic is None else float(synthetic - real)

    return [
        figure("Real", lambda pair: pair["correlation_real"], 1.0),
        figure("Synthetic", lambda pair: pair["correlation_synthetic"], 1.0),
        figure("Synthetic minus real", difference, 0.5),
    ]


# ------------------------------------------------------------------------------------ curves


def training_curve(values: Sequence[float]) -> dict[str, Any] | None:
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
