"""From pytest-benchmark's JSON to the report: trimmed JSON, Markdown tables and a plot.

    python bench/summarise.py RAW.json --out bench/results

Writes MACHINE-DATE.json (medians, errors, counts, ceilings; no samples), .md and .svg.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ceilings import Ceilings
from harness import NAIVE, OURS, OURS_TWO, STRICT, Counts

Row = dict[str, Any]
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def trimmed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what the report needs."""
    info = raw["machine_info"]
    rows = []
    for benchmark in raw["benchmarks"]:
        stats = benchmark["stats"]
        rows.append(
            {
                **benchmark["extra_info"],
                **{f"{name}_s": float(f"{stats[name]:.4g}") for name in ("median", "min")},
                "rounds": stats["rounds"],
            }
        )
    brand = info.get("cpu", {}).get("brand_raw") or info.get("processor") or info.get("machine")
    return {
        "date": raw["datetime"][:10],
        "processor": brand,
        "cores": info.get("cpu", {}).get("count"),
        "python": info.get("python_version"),
        "commit": raw.get("commit_info", {}).get("id"),
        "dirty": raw.get("commit_info", {}).get("dirty"),
        **{name: info.get(name) for name in ("dpslice", "versions", "ceilings")},
        "rows": rows,
    }


def by_case(rows: Iterable[Row]) -> dict[tuple[Any, ...], dict[str, Row]]:
    """Group rows by kernel, variant, sizes and series, in order; within, by contender."""
    cases: dict[tuple[Any, ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        sizes = tuple(row["sizes"].items())
        cases[row["kernel"], row["variant"], sizes, row["series"]][row["contender"]] = row
    return dict(cases)


# ------------------------------------------------------------------------------------- numbers


def ratio(rows: Mapping[str, Row], peer: str, ours: str = OURS) -> float | None:
    """How many times as long the peer takes."""
    if peer not in rows or ours not in rows:
        return None
    return float(rows[peer]["median_s"] / rows[ours]["median_s"])


def best_peer(rows: Mapping[str, Row]) -> str | None:
    """Name the quickest contender that is not ours; they all use one thread."""
    peers = [name for name, row in rows.items() if not name.startswith(OURS)]
    return min(peers, key=lambda name: rows[name]["median_s"], default=None)


def share_of_floor(row: Row, ceilings: Ceilings | None) -> float | None:
    """Least time by the measured ceilings over the time taken; of one thread."""
    if ceilings is None or row["threads"] != 1:
        return None
    floor = Counts(**row["counts"]).floor(ceilings)
    return floor / row["median_s"] if floor > 0 else None


def share_of_own(row: Row, ceilings: Ceilings | None) -> float | None:
    """Least time of what our way takes over the time taken, where that is counted."""
    if ceilings is None or row["contender"] != OURS:
        return None
    floor = Counts(**row["counts"]).own_floor(ceilings)
    return floor / row["median_s"] if floor > 0 else None


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


# ---------------------------------------------------------------------------------------- text


def seconds(value: float) -> str:
    for unit, name in UNITS:
        if value >= unit or name == "µs":
            return f"{value / unit:.3g} {name}"
    raise AssertionError


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def errors(row: Row) -> str:
    return ", ".join(f"{error:.0e}" for error in row["error"].values())


def counted(counts: Mapping[str, float]) -> str:
    parts = [(counts["flop"], "Gflop"), (counts["exp"], "Gexp"), (counts["key_bytes"], "GB keys")]
    parts.append((counts["read"] + counts["written"], "GB moved"))
    return ", ".join(f"{value / 1e9:.2g} {unit}" for value, unit in parts if value)


def title(kernel: str, variant: str, sizes: Iterable[tuple[str, int]]) -> str:
    return f"{kernel} {variant}".strip() + " " + ", ".join(f"{n}={v}" for n, v in sizes)


def summary(cases: Mapping[tuple[Any, ...], Mapping[str, Row]]) -> list[str]:
    """Geometric means of the ratios, kernel by kernel, over the sizes of the table."""
    kernels: dict[str, list[Mapping[str, Row]]] = defaultdict(list)
    for (kernel, variant, _, series), rows in cases.items():
        if series is None and OURS in rows:
            kernels[f"{kernel} {variant}".strip()].append(rows)
    columns = (STRICT, "best peer", NAIVE, "KeOps", "2 threads")
    lines = [
        "| kernel | sizes | × torch, strict (least) | × best peer | × torch, as used | × KeOps "
        "| two threads × one |",
        "|---|---|" + "---|" * len(columns),
    ]
    for kernel, groups in kernels.items():
        cells = []
        for column in columns:
            found = []
            for rows in groups:
                peer = best_peer(rows) if column == "best peer" else column
                value = (
                    ratio(rows, OURS, OURS_TWO)
                    if column == "2 threads"
                    else ratio(rows, peer)
                    if peer
                    else None
                )
                if value is not None:
                    found.append(value)
            cell = times(geometric_mean(found)) if found else ""
            if column == STRICT and found:
                cell += f" ({min(found):.2f})"
            cells.append(cell)
        lines.append(f"| {kernel} | {len(groups)} | " + " | ".join(cells) + " |")
    return lines


def table(
    cases: Mapping[tuple[Any, ...], Mapping[str, Row]], ceilings: Ceilings | None
) -> list[str]:
    """Write a row per contender, its time also as a multiple of ours with one thread."""
    lines = [
        "| case | contender | time | its time / ours | error: value, gradient | counted "
        "| share of floor | of what ours takes | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (kernel, variant, sizes, series), rows in cases.items():
        if series is not None:
            continue
        name = title(kernel, variant, sizes)
        for contender, row in rows.items():
            share, own = share_of_floor(row, ceilings), share_of_own(row, ceilings)
            peak = row["facts"].get("peak_bytes")
            cells = [
                name,
                contender,
                seconds(row["median_s"]),
                times(ratio(rows, contender)),
                errors(row),
                counted(row["counts"]) if name else "",
                "" if share is None else f"{share:.0%}",
                "" if own is None else f"{own:.0%}",
                "" if peak is None else f"{peak / 2**20:.0f} MiB",
            ]
            lines.append("| " + " | ".join(cells) + " |")
            name = ""
    return lines


def growth(cases: Mapping[tuple[Any, ...], Mapping[str, Row]]) -> list[str]:
    lines = ["| case | grows | ours | peer | peer / ours |", "|---|---|---|---|---|"]
    for (kernel, variant, sizes, series), rows in cases.items():
        peer = best_peer(rows)
        if series is None or peer is None or OURS not in rows:
            continue
        cells = [
            title(kernel, variant, sizes),
            series,
            seconds(rows[OURS]["median_s"]),
            f"{seconds(rows[peer]['median_s'])} ({peer})",
            times(ratio(rows, peer)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(report: Mapping[str, Any], plot: str | None) -> str:
    cases = by_case(report["rows"])
    ceilings = Ceilings(**report["ceilings"]) if report["ceilings"] else None
    ours = report["dpslice"]
    lines = [
        f"# Benchmarks, {report['date']}",
        "",
        f"{report['processor']}, {report['cores']} cores; dpslice {report['versions']['dpslice']} "
        f"({ours['isa']}, {ours['compiler']}), torch {report['versions']['torch']}, NumPy "
        f"{report['versions']['numpy']}, Python {report['python']}. float32; medians of "
        "interleaved runs; one thread unless said. How to read it: `bench/README.md`.",
        "",
    ]
    if ceilings:
        lines += [
            f"Ceilings of one core, measured: {ceilings.flop / 1e9:.0f} Gflop/s by multiply-adds, "
            f"{ceilings.lanes / 1e9:.0f} G vector operations/s of any kind (in lanes of float32), "
            f"{ceilings.exp / 1e9:.1f} G exponentials/s, {ceilings.key_bytes / 1e9:.1f} GB/s of "
            f"ChaCha20, reads {ceilings.read_bytes / 1e9:.0f} and writes "
            f"{ceilings.write_bytes / 1e9:.0f} GB/s.",
            "",
        ]
    if plot:
        lines += [f"![Ratios by kernel, and time against size]({plot})", ""]
    lines += ["## Ratios, geometric means over the sizes", "", *summary(cases), ""]
    lines += ["## Every contender", "", *table(cases, ceilings), ""]
    lines += ["## Growth", "", *growth(cases), ""]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------- plot


def plot(report: Mapping[str, Any], path: Path) -> bool:
    """Draw ratio by kernel and time against size; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dpslice"  # the same figure for the same numbers
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a tenth of the size
    from matplotlib import pyplot

    cases = by_case(report["rows"])
    series: dict[tuple[str, str], list[tuple[int, Mapping[str, Row]]]] = defaultdict(list)
    bars: list[tuple[str, Mapping[str, Row]]] = []
    for (kernel, variant, sizes, grows), found in cases.items():
        if OURS not in found:
            continue
        if grows is None and best_peer(found) is not None:
            bars.append((title(kernel, variant, sizes), found))
        elif grows is not None:
            series[f"{kernel} {variant}".strip(), grows].append((dict(sizes)[grows], found))
    panels = len(series)
    across = 3
    down = -(-panels // across)
    figure = pyplot.figure(figsize=(11, 0.24 * len(bars) + 2.6 * down + 1.5), layout="constrained")
    # Without a series the lower part stays empty.
    heights = [0.24 * len(bars) + 1, 2.6 * max(down, 0.1)]
    top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False).ravel()
    axes = top.subplots()
    marks = ((STRICT, "o", "#1f77b4"), (NAIVE, "s", "#ff7f0e"), ("best peer", "|", "black"))
    for name, marker, colour in marks:
        points_found = []
        for position, (_, rows) in enumerate(bars):
            peer = best_peer(rows) if name == "best peer" else name
            value = ratio(rows, peer) if peer else None
            if value is not None:
                points_found.append((value, position))
        if points_found:
            axes.plot(*zip(*points_found, strict=True), marker, color=colour, label=name, ms=6)
    axes.axvline(1, color="grey", lw=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time of the peer / time of dpslice, one thread")
    axes.minorticks_off()
    marked = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
    axes.set_xticks(marked, [f"{mark:g}" for mark in marked])
    axes.grid(axis="x", lw=0.3)
    if bars:
        axes.legend(fontsize=7)
    if panels:
        grid = bottom.subplots(down, across, squeeze=False).ravel()
        for panel, ((kernel, grows), points) in zip(grid, series.items(), strict=False):
            points.sort(key=lambda point: point[0])
            for name in (OURS, STRICT, NAIVE):
                line = [(size, rows[name]["median_s"]) for size, rows in points if name in rows]
                if line:
                    panel.loglog(*zip(*line, strict=True), "o-", label=name, ms=3, lw=1)
            panel.set_title(f"{kernel} over {grows}", fontsize=8)
            panel.set_xlabel(grows, fontsize=7)
            panel.minorticks_off()
            panel.set_xticks([size for size, _ in points], [f"{size:,}" for size, _ in points])
            panel.set_ylabel("s", fontsize=7)
            panel.tick_params(labelsize=6)
            panel.grid(lw=0.3)
            panel.legend(fontsize=6)
        for panel in grid[panels:]:
            panel.set_axis_off()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    # The writer leaves blanks at the ends of lines.
    path.write_text(re.sub(r"[ \t]+\n", "\n", path.read_text()))
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    args = parser.parse_args()
    report = trimmed(json.loads(args.raw.read_text()))
    if not report["rows"]:
        print("nothing was measured")
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    # Virtual machines name processors of several generations alike: the instruction set tells more.
    machine = f"{report['processor']} {report['dpslice']['isa']} {report['cores']} cores".lower()
    machine = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((?:r|tm)\)", "", machine))
    stem = args.out / f"{machine}-{report['date']}"
    # A line per row, so that two reports can be compared line by line.
    head = json.dumps({**report, "rows": []}, indent=1).removesuffix("[]\n}")
    rows = ",\n".join("  " + json.dumps(row) for row in report["rows"])
    (stem.parent / f"{stem.name}.json").write_text(f"{head}[\n{rows}\n ]\n}}\n")
    figure = stem.parent / f"{stem.name}.svg"
    drawn = plot(report, figure)
    text = markdown(report, figure.name if drawn else None)
    (stem.parent / f"{stem.name}.md").write_text(text)
    print("\n".join(summary(by_case(report["rows"]))))
    print(f"written: {stem}.json, .md" + (", .svg" if drawn else " (no plot: matplotlib missing)"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
