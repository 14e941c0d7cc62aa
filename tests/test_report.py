"""Report: one page that loads nothing, escapes everything, and draws what the numbers say."""

from __future__ import annotations

import datetime
import errno
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from dpslice.accounting import Guarantee
from dpslice.tabular import _charts, _numbers, report
from dpslice.tabular.columns import Boolean, Categorical, Datetime, Number
from dpslice.tabular.encoding import Encoding
from dpslice.tabular.metrics import scores, table_columns
from dpslice.tabular.report import render_report, write_report
from dpslice.tabular.schema import Schema
from gaussian_mechanism import gaussian_delta
from mixed_tables import SCHEMA, mixed_table

VOID = {"meta", "link", "br", "img", "input", "hr"}
INLINE = {"a", "b", "em", "strong", "sup", "span"}
SLICING = Guarantee(
    epsilon=4.99999951,
    delta=1e-5,
    adjacency="zero_out",
    mechanism="slicing",
    sensitivity=2.5,
    sigma=3.25,
    frame="orthonormal",
    d=30,
    p=30,
    n=1000,
    max_norm=2.5,
    diameter=4.0,
    epsilon_numerical=2e-8,
    delta_numerical=2e-20,
    epsilon_replace_one=8.7123411,
    notes=("A further condition.",),
)
INFERENCE = Guarantee(
    epsilon=0.5, delta=1e-6, adjacency="zero_out", mechanism="schema inference", n=1000
)


class Page(HTMLParser):
    """Reads a page: tags and attributes, text, and whether every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in INLINE:
            self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag, **wanted):
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]

    @property
    def words(self):
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def tables():
    return mixed_table(250, 1), mixed_table(200, 2)


@pytest.fixture(scope="module")
def results(tables):
    return scores(*tables, SCHEMA)


def render(tables, results, **changes):
    arguments = {"schema": SCHEMA, "guarantee": SLICING, "title": "A title"} | changes
    return render_report(results, real=tables[0], synthetic=tables[1], **arguments)


@pytest.fixture(scope="module")
def html(tables, results):
    return render(tables, results, training={"steps": 100, "loss": np.linspace(2, 1, 100)})


# ------------------------------------------------------------------------------ self-contained


def check_self_contained(html):
    page = Page(html)
    loading = {"src", "srcset", "data", "action", "formaction", "poster", "background", "ping"}
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        assert not loading & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
        assert attributes.get("http-equiv", "Content-Security-Policy") == "Content-Security-Policy"
    for style in re.findall(r"<style>(.*?)</style>", html, flags=re.S):
        assert "url(" not in style
        assert "@import" not in style
    return page


def test_page_loads_nothing_and_is_well_formed(html):
    page = check_self_contained(html)
    assert "http://" not in html
    assert "https://" not in html
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_links_lead_to_sections_and_ids_are_unique(html):
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"][1:] for attributes in page.all("a")]
    assert targets
    assert set(targets) <= set(ids)
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids


def test_charts_have_names_for_screen_readers(html):
    for chart in Page(html).all("svg"):
        assert chart.get("aria-hidden") == "true" or (
            chart["role"] == "img" and chart["aria-label"]
        )


def test_red_box_comes_first(html):
    page = Page(html)
    assert "for the data holder’s eyes only: this page is not private" in page.words.lower()
    assert page.words.index("not private") < page.words.index("TVComplement")
    classes = [attributes.get("class") for _, attributes in page.tags]
    assert classes.index("alarm") < classes.index("card tile")
    # red in both colour schemes and in print
    reds = re.findall(r"--alarm: #([0-9a-f]{6});", html)
    assert len(reds) == 3
    for red in reds:
        r, g, b = (int(red[i : i + 2], 16) for i in (0, 2, 4))
        assert r > 1.5 * max(g, b)


def test_same_input_same_page(tables, results):
    assert render(tables, results) == render(tables, results)


# ------------------------------------------------------------------------------------ escaping

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title><b>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt;",
    "http://example.com/a",
    "]]><!-- \x00 \u202e",
]


def test_names_and_categories_are_escaped():
    a, b, c, d, *_ = HOSTILE
    schema = Schema(
        (
            Categorical(a, tuple(HOSTILE), nullable=True),
            Categorical(b, (c, d)),
            Number(c, "real", 0, 1, special=(0.5,)),
            Number(d, "real", 0, 1),
        ),
        target=b,
        description=a,
    )
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            a: rng.choice(np.array(HOSTILE, dtype=object), 60),
            b: rng.choice(np.array([c, d], dtype=object), 60),
            c: rng.choice([0.5, 0.1, 0.7], 60),
            d: rng.random(60),
        }
    )
    guarantee = Guarantee(epsilon=1.0, delta=1e-6, adjacency="replace_one", mechanism=a, notes=(b,))
    html = render_report(
        scores(table, table, schema),
        real=table,
        synthetic=table,
        schema=schema,
        guarantee=guarantee,
        title=d,
        training={a: b, c: [1.0, 2.0], d: 3},
    )
    page = check_self_contained(html)
    assert "<script" not in html
    assert "<b>" not in page.text.replace(d, "")
    for text in HOSTILE[:-1]:
        assert text in page.text
    assert "49" not in page.text.split("Columns, one at a time")[0]  # the template in it stays text
    assert {a, b, c, d} <= {t.get("title") for t in page.all("span")}


def test_reason_without_classifier_is_escaped():
    name = HOSTILE[0]
    schema = Schema((Number(name, "real", 0, 1), Boolean("b")), target=name)
    table = pd.DataFrame({name: [0.1, 0.2], "b": [True, False]})
    html = render_report(
        scores(table, table, schema), real=table, synthetic=table, schema=schema, guarantee=None
    )
    assert "<script" not in html
    assert f"No classifier was trained: the target '{name}' is a number" in Page(html).words


def test_lone_surrogate_does_not_stop_the_page(tmp_path):
    schema = Schema((Categorical("a\ud800", ("x", "y\udfff")),))
    table = pd.DataFrame({"a\ud800": ["x", "y\udfff"]})
    path = tmp_path / "r.html"
    write_report(path, real=table, synthetic=table, schema=schema, guarantee=None)
    assert "a?" in Page(path.read_text("utf-8")).text


# --------------------------------------------------------------------------------- certificate


def test_certificate_in_plain_words(html):
    words = Page(html).words
    for phrase in (
        "Privacy loss ε, at most 5",
        "Failure probability δ 10⁻⁵",
        "Adjacency zero_out",
        "under replace_one, same δ 8.71235",  # rounded up
        "the same table in which that person’s row is blanked",
        "148.5 times (eε)",  # exp(5) = 148.41..., rounded up
        "n = 1,000, is public",
        "A further condition.",
        "σ (noise on every released number) 3.25",
        "Features d 30",
        "n times δ is 0.01",
        "One step, slicing, has the whole privacy loss",
        "slicing: (5, 1e-05)-differential privacy",
    ):
        assert phrase in words


def test_composed_certificate_lists_its_parts(tables, results):
    page = Page(render(tables, results, guarantee=Guarantee.compose(SLICING, INFERENCE)))
    assert "The totals above are of 2 steps: ε and δ add up." in page.words
    assert "schema inference zero_out 0.5 10⁻⁶" in page.words
    assert "slicing zero_out 5 10⁻⁵" in page.words
    # what each step states on its own is not lost in the composition
    assert "Mechanism schema inference Adjacency one row blanked (zero_out)" in page.words
    assert "σ (noise on every released number) 3.25" in page.words
    assert "Privacy loss ε, at most 5.5" in page.words
    assert "replace_one, same δ not stated" in page.words  # one part does not state it


def test_replace_one_certificate(tables, results):
    guarantee = Guarantee(epsilon=2.0, delta=1e-6, adjacency="replace_one", mechanism="slicing")
    words = Page(render(tables, results, guarantee=guarantee)).words
    assert "row is replaced by any other possible row" in words
    assert "zero_out" not in words
    assert "The number of rows is public" in words


def test_page_without_guarantee_says_so(tables, results):
    assert "No certificate was given." in Page(render(tables, results, guarantee=None)).words
    fast = Guarantee(
        epsilon=1.0, delta=1e-6, adjacency="zero_out", mechanism="slicing", private=False
    )
    words = Page(render(tables, results, guarantee=fast)).words
    assert "No guarantee at all." in words
    assert "No guarantee at all" not in Page(render(tables, results)).words


def test_delta_too_large_for_the_table_is_pointed_out(tables, results):
    guarantee = Guarantee(
        epsilon=1.0, delta=1e-3, adjacency="zero_out", mechanism="slicing", n=1000
    )
    assert (
        "δ is too large for a table of this size"
        in Page(render(tables, results, guarantee=guarantee)).words
    )


def test_infinite_and_zero_epsilon(tables, results):
    for epsilon, factor in ((math.inf, "more than 10³⁰⁰ times"), (0.0, "more than 1 times")):
        guarantee = Guarantee(
            epsilon=epsilon, delta=1e-6, adjacency="zero_out", mechanism="slicing"
        )
        assert factor in Page(render(tables, results, guarantee=guarantee)).words


SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def parsed(text):
    mantissa, _, power = text.replace(",", "").rpartition(" × ")
    if power.startswith("10") and power != power.translate(SUPERSCRIPT):
        return float(f"{mantissa or 1}e{power[2:].translate(SUPERSCRIPT)}")
    return float(power)


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1e12), st.sampled_from([2, 3, 4, 6]))
@example(4.9999999, 6)
@example(999.9999, 4)
@example(1234.5678, 6)
@example(5e-324, 3)
def test_privacy_figures_are_never_rounded_down(value, digits):
    shown = parsed(_numbers.parameter_text(value, digits))
    assert shown >= value
    if value > 1e-300:  # below, neighbouring floats are further apart than the digits
        assert shown <= value * (1 + 10.0 ** (1 - digits)) * (1 + 1e-12)


@pytest.mark.parametrize("mu", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("false_alarms", [0.001, 0.01, 0.2])
def test_detection_bound_holds_for_the_gaussian_mechanism(mu, false_alarms):
    # the exact profile of a Gaussian mechanism and the power of the best test against it
    power = norm.cdf(norm.ppf(false_alarms) + mu)
    slack = []
    for epsilon in np.linspace(0, 8, 81):
        bound = report._detection(epsilon, gaussian_delta(epsilon, mu), false_alarms)
        assert bound >= power - 1e-12
        slack.append(bound - power)
    assert min(slack) < 0.01  # and for the right epsilon it is tight


# ----------------------------------------------------------------------------- numbers as text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (1.0, "1.000"),
        (0.99951, ">0.999"),
        (0.9994, "0.999"),
        (0.0, "0.000"),
        (0.0004, "<0.001"),
        (-0.25, "−0.250"),
        (-0.0001, ">−0.001"),
    ],
)
def test_scores_as_text(value, text):
    assert _numbers.score_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.953, ".95"), (0.997, ">.99"), (1.0, "1"), (0.001, "0"), (-0.08, "−.08"), (-0.999, "<−.99"),
     (-1.0, "−1"), (-1.25, "−1.25")],
)  # fmt: skip
def test_cells_as_text(value, text):
    assert _numbers.cell_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.0001, "<0.1 %"), (0.9999, ">99.9 %"), (0.123, "12.3 %")],
)
def test_shares_as_text(value, text):
    assert _numbers.share_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "50.0 %"), (0.99331, "99.4 %"), (0.9999, ">99.9 %"), (1.0, "100 %"), (0.0, "0.0 %")],
)
def test_bounds_as_text_are_rounded_up(value, text):
    assert _numbers.at_most_text(value) == text


# -------------------------------------------------------------------------------------- charts


def histogram_of(column, *values):
    frames = [pd.DataFrame({column.name: v}) for v in values]
    (read,) = table_columns(Schema((column,)), real=frames[0], synthetic=frames[1])
    return _charts.histogram(read, [read.present(0), read.present(1)])


def shares_of(chart):
    """Shares that the bars and the outline show, from their geometry."""
    full = float(chart["y_ticks"][-1]["text"].removesuffix(" %")) / 100
    height = chart["bottom"] - chart["y_ticks"][-1]["y"]
    bars = [full * bar["h"] / height for bar in chart["bars"]]
    tops = [float(y) for _, y in re.findall(r"L(\S+) (\S+?)(?=L|$)", chart["outline"])][:-1:2]
    return bars, [full * (chart["bottom"] - y) / height for y in tops]


def test_histogram_shows_the_shares():
    column = Number("x", "integer", 1, 4)
    chart = histogram_of(column, [1, 1, 1, 2, 2, 4], [4, 4, 4, 3])
    bars, outline = shares_of(chart)
    # a tenth of a pixel on 144
    assert bars == pytest.approx([3 / 6, 2 / 6, 1 / 6], abs=0.002)
    assert outline == pytest.approx([0, 0, 1 / 4, 3 / 4], abs=0.002)


@pytest.mark.parametrize(
    "column",
    [
        Number("x", "real", -1.0, 2.5),
        Number("x", "integer", 0, 1_000_000),
        Number("x", "integer", 0, 99_999, scale="log"),
        Number("x", "real", 0.0, 3e8, scale="log"),
        Datetime("x", "2019-01-01", "2024-12-31"),
    ],
)
def test_histogram_bars_add_up_and_stay_inside(column):
    rng = np.random.default_rng(0)
    low, high = column.bounds_seconds if isinstance(column, Datetime) else (column.min, column.max)
    numbers = low + (high - low) * rng.beta(1, 3, 500)
    numbers[:2] = low, high
    values = column.from_numbers(numbers)
    chart = histogram_of(column, values, values)
    bars, outline = shares_of(chart)
    assert sum(bars) == pytest.approx(1, abs=0.02)
    assert sum(outline) == pytest.approx(1, abs=0.02)
    for bar in chart["bars"]:
        assert chart["left"] <= bar["x"] <= bar["x"] + bar["w"] <= chart["right"] + 1
        assert chart["top"] <= bar["y"] <= bar["y"] + bar["h"] <= chart["bottom"] + 0.2
    assert len(chart["x_ticks"]) >= 2
    for tick in chart["x_ticks"]:
        assert chart["left"] <= tick["x"] <= chart["right"]


def test_columns_at_the_ends_of_what_numbers_and_dates_can_be():
    schema = Schema(
        (
            Datetime("end", "1000-01-01", "9999-12-31"),
            Datetime("time", "0001-01-01T00:00:00", "9999-12-31T23:59:59"),
            Number("code", "integer", 0, 2**52 - 1),
            Number("far", "real", 1e16, 1e16 + 4),
            Number("last", "integer", 2**52 - 4, 2**52 - 1),
        )
    )
    day = datetime.datetime(9999, 12, 31)
    table = pd.DataFrame(
        {
            "end": pd.Series([day] * 6, dtype=object),
            "time": pd.Series(np.array([day] * 6, dtype="datetime64[s]")),
            "code": [4 * 10**15] * 6,
            "far": [1e16] * 6,
            "last": [2**52 - 1] * 6,
        }
    )
    page = render_report(
        scores(table, table, schema), real=table, synthetic=table, schema=schema, guarantee=None
    )
    assert "9999-12-31" in Page(page).text


def test_histogram_axis_comes_from_the_schema_alone():
    column = Number("x", "real", 0.0, 100.0)
    narrow = histogram_of(column, [50.0, 51.0], [50.0])
    wide = histogram_of(column, [0.0, 100.0], [70.0])
    assert narrow["x_ticks"] == wide["x_ticks"]
    assert [t["text"] for t in wide["x_ticks"]] == ["0", "20", "40", "60", "80", "100"]


@settings(max_examples=200, deadline=None)
@given(
    low=st.floats(-1e12, 1e12),
    span=st.floats(1e-3, 1e12),
    integer=st.booleans(),
    scale=st.sampled_from(["linear", "log"]),
)
@example(low=-1e300, span=1e300, integer=False, scale="log")
@example(low=0.0, span=1e-300, integer=False, scale="linear")
def test_axes_of_any_bounds(low, span, integer, scale):
    if integer:
        low, high = math.floor(low), math.floor(low) + math.ceil(span)
    else:
        high = low + span
        if not low < high:
            return
    column = Number("x", "integer" if integer else "real", low, high, scale=scale)
    axis = _charts._axis(column)
    assert axis.low < axis.high
    assert 1 <= axis.n_bins <= 41
    slack = 1e-6 * (axis.high - axis.low)
    for at, text in axis.ticks:
        assert axis.low - slack <= at <= axis.high + slack
        assert text
    ends = axis.place(np.array([float(low), float(high)]))
    assert axis.low - slack <= ends[0] < ends[1] <= axis.high + slack


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        ("1990-01-01", "2020-12-31", ["1990", "2000", "2010", "2020"]),
        ("2019-01-01", "2019-01-31", ["2019-01-01", "2019-01-11", "2019-01-21", "2019-01-31"]),
        (
            "2019-01-01T08:00:00",
            "2019-01-01T11:00:00",
            ["2019-01-01 08:00", "2019-01-01 09:00", "2019-01-01 10:00", "2019-01-01 11:00"],
        ),
        ("0001-01-01", "9999-12-31", ["2000", "4000", "6000", "8000"]),
    ],
)
def test_date_axis(low, high, labels):
    axis = _charts._axis(Datetime("t", low, high))
    assert [text for _, text in axis.ticks] == labels


def card_of(column, real, synthetic):
    schema = Schema((column,))
    frames = [pd.DataFrame({column.name: v}) for v in (real, synthetic)]
    (read,) = table_columns(schema, real=frames[0], synthetic=frames[1])
    (entry,) = scores(*frames, schema)["columns"]
    return report._column_card(read, entry)


def test_special_and_missing_values_have_bars_of_their_own():
    column = Number("x", "integer", 0, 10, special=(0,), nullable=True)
    card = card_of(column, [0, 0, 5, None], [0, 7, None, None])
    assert [(s["label"], s["real"], s["synthetic"]) for s in card["states"]] == [
        ("0", "50.0 %", "25.0 %"),
        ("any other value", "25.0 %", "25.0 %"),
        ("missing", "25.0 %", "50.0 %"),
    ]
    bars, outline = shares_of(card["chart"])
    assert bars == pytest.approx([1.0])
    assert sum(outline) == pytest.approx(1.0)
    assert [row["real"] for row in card["summary"]] == ["5", "5", "5", "5"]


def test_many_levels_are_folded_into_the_rest():
    levels = tuple(f"level {i}" for i in range(30))
    real = [levels[i] for i in range(30) for _ in range(i + 1)]
    card = card_of(Categorical("c", levels), real, real)
    assert len(card["states"]) == _charts.TOP_LEVELS + 1
    assert card["states"][0]["label"] == "level 29"
    assert card["states"][-1]["label"] == "20 other levels"
    widths = [state["real_width"] for state in card["states"]]
    assert max(widths) == 100
    assert card["states"][-1]["real"] == _numbers.share_text(210 / 465)


def test_share_of_missing_numbers_is_drawn_to_scale():
    card = card_of(Number("x", "real", 0, 1, nullable=True), [0.5, None, 0.1, 0.2], [0.5] * 2)
    (state,) = card["states"]
    assert (state["real_width"], state["synthetic_width"]) == (25.0, 0.0)


def test_log_axis_labels_are_short():
    axis = _charts._axis(Number("x", "integer", 0, 99_999, scale="log"))
    assert [text for _, text in axis.ticks] == ["0", "2,000", "10k", "100k"]


@pytest.mark.parametrize(
    "column",
    [
        Number("x", "integer", 0, 20, scale="log"),
        Number("x", "integer", -5, 99_999, scale="log"),
        Number("x", "real", 0.5, 3e8, scale="log"),
    ],
)
def test_log_axis_is_the_scale_of_the_encoding(column):
    values = np.unique(np.round(np.geomspace(1, column.max - column.min + 1, 50)) - 1) + column.min
    encoding = Encoding(Schema((column,)), harmonics=1)
    rows = encoding.encode(pd.DataFrame({"x": column.from_numbers(values)}))
    axis = _charts._axis(column)
    places = (axis.place(values) - axis.low) / (axis.high - axis.low)
    # the value part of a row lies on a half circle, at the angle pi times its place
    assert places == pytest.approx(np.arctan2(rows[:, 1], rows[:, 0]) / np.pi, abs=1e-12)


def test_clipped_values_are_mentioned():
    card = card_of(Number("x", "real", 0, 1), [0.5, 2.0], [0.5, 0.5])
    assert card["notes"] == [
        "50.0 % of the real values lie outside the schema’s bounds and count as the bound"
    ]


def test_similarity_map_shows_each_pair_once(tables, results):
    columns = table_columns(SCHEMA, real=tables[0], synthetic=tables[1])
    figure = _charts.similarity_map(columns, results["pairs"])
    assert len(figure["cells"]) == 28
    by_title = {cell["title"]: cell for cell in figure["cells"]}
    for pair in results["pairs"]:
        score = pair["contingency_similarity"]
        cell = by_title[f"{pair['second']} and {pair['first']}: {_numbers.score_text(score)}"]
        assert cell["opacity"] == pytest.approx(min(1, (1 - score) / 0.5), abs=1e-3)
        assert cell["x"] + cell["size"] <= figure["width"]
        assert cell["y"] + cell["size"] <= figure["height"]
    worst = [float(row["score"]) for row in figure["worst"]]
    assert worst == sorted(worst)


def test_wide_table_shows_the_columns_that_do_worst(tmp_path):
    n = _charts.HEAT_COLUMNS + 3
    schema = Schema(tuple(Boolean(f"b{i}") for i in range(n)))
    rng = np.random.default_rng(0)
    real = pd.DataFrame({f"b{i}": rng.random(20) < 0.5 for i in range(n)})
    synthetic = real.copy()
    synthetic["b7"] = ~synthetic["b7"]
    path = tmp_path / "r.html"
    write_report(path, real=real, synthetic=synthetic, schema=schema, guarantee=None)
    page = check_self_contained(path.read_text("utf-8"))
    assert f"The map shows the {_charts.HEAT_COLUMNS} columns that do worst; 3 more" in page.words
    assert "b7 and b6: " in page.text


def test_correlations_and_their_difference():
    schema = Schema((Number("x", "real", 0, 9), Number("y", "real", 0, 9), Boolean("b")))
    real = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0], "b": [True] * 3})
    synthetic = real.assign(y=[6.0, 4.0, 2.0])
    columns = table_columns(schema, real=real, synthetic=synthetic)
    maps = _charts.correlation_maps(columns, scores(real, synthetic, schema)["pairs"])
    cells = [figure["cells"][0] for figure in maps]
    assert [cell["text"] for cell in cells] == ["1", "−1", "−2.00"]
    assert [cell["kind"] for cell in cells] == ["positive", "negative", "negative"]
    constant = real.assign(x=1.0)
    maps = _charts.correlation_maps(columns, scores(constant, real, schema)["pairs"])
    assert [figure["cells"][0]["text"] for figure in maps] == ["–", "1", "–"]


def test_training_curve_and_facts():
    losses = [3.0, 2.0, float("nan"), 1.0]
    view = report._training({"loss": losses, "steps": 4, "device": "cpu", "resumed": True})
    assert view["facts"] == [("steps", "4"), ("device", "cpu"), ("resumed", "True")]
    (curve,) = view["curves"]
    points = [tuple(map(float, p.split(","))) for p in curve["points"].split()]
    assert points[0] == (curve["left"], curve["top"])
    assert points[-1] == (curve["right"], curve["bottom"])
    assert len(points) == 3
    assert report._training(None) is None
    assert report._training({"loss": [math.nan, math.nan]})["curves"] == []
    long = report._training({"loss": np.linspace(1, 0, 100_000)})["curves"][0]
    assert len(long["points"].split()) == _charts.CURVE_POINTS


# ------------------------------------------------------------------------------ awkward tables


def test_one_row_constant_and_missing_columns(tmp_path):
    one = mixed_table(1, 0, missing=0.0)
    gone = mixed_table(3, 1, missing=1.0).assign(age=20, gain=0, grade=1, income="low")
    path = tmp_path / "r.html"
    for real, synthetic in ((one, one), (gone, one), (one, gone), (gone, gone)):
        write_report(path, real=real, synthetic=synthetic, schema=SCHEMA, guarantee=SLICING)
        words = check_self_contained(path.read_text("utf-8")).words
        assert "nan" not in words.lower().split()
        assert "None" not in words


def test_one_column_table(tmp_path):
    schema = Schema((Boolean("b"),))
    table = pd.DataFrame({"b": [True, False]})
    path = tmp_path / "r.html"
    write_report(path, real=table, synthetic=table, schema=schema, guarantee=None)
    words = Page(path.read_text("utf-8")).words
    assert "2 real rows, 1 column" in words
    assert "1 columns" not in words
    assert "The table has one column, so there are no pairs." in words
    assert "fewer than two number or date columns" in words
    assert "No classifier was trained: no target column was named." in words


def test_classifier_section(html, results):
    words = Page(html).words
    positive = results["classifier"]["positive"]
    assert f"“{positive}”, the rarer class, counts as positive" in words
    assert "a random fifth of the real table" in words
    for key in ("auc", "f1", "binary_logistic_regression"):
        figures = [_numbers.score_text(results[f"{key}_{name}"]) for name in ("real", "synthetic")]
        assert " ".join(figures) in words


def test_held_out_rows_are_the_yardstick(tmp_path, tables):
    path = tmp_path / "r.html"
    found = write_report(
        path,
        real=tables[0],
        synthetic=tables[1],
        schema=SCHEMA,
        guarantee=SLICING,
        holdout=mixed_table(100, 3),
    )
    words = Page(path.read_text("utf-8")).words
    assert "which were held out." in words
    reference = _numbers.score_text(found["reference"]["tv_complement"])
    assert f"{reference} for held-out real rows" in words


def test_several_classes(tmp_path):
    schema = Schema(SCHEMA.columns, target="grade")
    path = tmp_path / "r.html"
    table = mixed_table(120, 1)
    write_report(path, real=table, synthetic=table, schema=schema, guarantee=SLICING)
    words = Page(path.read_text("utf-8")).words
    assert "Scores are averages over the 3 classes, each against the rest." in words
    assert "BinaryLogisticRegression, trained" not in words


# ------------------------------------------------------------------------------------- writing


def write(path, table, **changes):
    arguments = {"real": table, "synthetic": table, "schema": SCHEMA, "guarantee": SLICING}
    return write_report(path, **(arguments | changes))


def test_scores_are_returned_and_the_page_is_utf8(tmp_path):
    table = mixed_table(60, 1)
    path = tmp_path / "r.html"
    assert write(path, table, seed=2) == scores(table, table, SCHEMA, seed=2)
    assert path.read_bytes().decode("utf-8").startswith("<!DOCTYPE html>")
    assert Page(path.read_text("utf-8")).all("meta", charset="utf-8")
    assert "<title>Mixed table – " in path.read_text("utf-8")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_or_interrupt_leaves_the_old_page(tmp_path, monkeypatch, error, call):
    path = tmp_path / "r.html"
    path.write_text("old page")

    def fail(*args, **kwargs):
        raise error

    table = mixed_table(20, 1)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write(path, table)
    monkeypatch.undo()
    assert path.read_text() == "old page"
    assert os.listdir(tmp_path) == ["r.html"]


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path, monkeypatch):
    def must_not_run(*args, **kwargs):
        raise AssertionError("the comparison ran first")

    monkeypatch.setattr(report, "scores", must_not_run)
    table = mixed_table(5, 1)
    with pytest.raises(IsADirectoryError, match="path must name a file"):
        write(tmp_path, table)
    with pytest.raises(FileNotFoundError, match="path must lie in an existing directory"):
        write(tmp_path / "absent" / "r.html", table)
    with pytest.raises(TypeError, match="guarantee must be a Guarantee or None; got float"):
        write(tmp_path / "r.html", table, guarantee=5.0)
    with pytest.raises(TypeError, match="training must be a mapping or None; got list"):
        write(tmp_path / "r.html", table, training=[1.0])
    with pytest.raises(TypeError, match="title must be a string or None; got int"):
        write(tmp_path / "r.html", table, title=5)


def test_bad_table_leaves_nothing_behind(tmp_path):
    table = mixed_table(5, 1)
    with pytest.raises(ValueError, match="synthetic: "):
        write(tmp_path / "r.html", table, synthetic=table.drop(columns="age"))
    assert os.listdir(tmp_path) == []


def test_template_travels_with_the_package():
    from importlib import resources

    source = resources.files("dpslice.tabular").joinpath("report.html.j2").read_text("utf-8")
    assert "|safe" not in source.replace(" ", "")
    assert "autoescapefalse" not in source.replace(" ", "")


def test_datetime_statistics_are_dates():
    column = Datetime("t", datetime.date(2020, 1, 1), datetime.date(2020, 12, 31))
    days = pd.to_datetime(["2020-01-10", "2020-03-01", "2020-05-20"])
    card = card_of(column, days, days)
    medians = [row for row in card["summary"] if row["name"] == "median"]
    assert medians == [{"name": "median", "real": "2020-03-01", "synthetic": "2020-03-01"}]
