"""Quality of private synthetic tables: releases, trains, samples and scores, one row per run.

    python bench/quality.py                              every table, epsilon 1 and 5, both methods
    python bench/quality.py --tables adult --epsilons 5 --methods sums rows "paper k=1"

Tables are shuffled with the run's seed; 80 % is private, 20 % is held out for the classifiers: the
logistic regression of the report, and gradient boosting (scikit-learn's, as it comes).

Methods
-------
``sums``, ``rows``
    `Synthesizer` as it comes, with either kind of release.
``sums, 3 rounds``
    The same with tables of three columns chosen by the data.
``sums, stop at 0.91``
    ``sums``, trained until the loss is about what the noise explains.
``sums, 4 models``
    ``sums``, the union of four mixtures that are fitted each by itself.
``rows, in order``
    ``rows``, whose guarantee counts on the secret order that they are published in.
``paper k=1|2|3``
    The configuration of the source paper, unembellished: gaussian frame, sigma by its Theorem 1,
    fixed slices of k columns, density ratio with sampled noise, batches of 128, its own start. Same
    encoding and generator.
``mst``, ``aim``
    The two of smartnoise-synth (McKenna et al.), on the same bins as ``sums``; `mbi_numpy.py` makes
    their models. AIM goes through up to 16 rounds for each column, on junction trees of at most
    80 MB: that is its default, and what its paper bounds (smartnoise-synth bounds the tables that
    were measured, and the tree may be any size). Half an hour or more for each run.
``aim, 1 MB``
    The same on junction trees of at most 1 MB: some minutes.
``aim, 32 rounds``
    With so many rounds, on trees of any size.

        pip install smartnoise-synth==1.0.8 mbi==1.1.0

``dpgan``, ``dpctgan``, ``pategan``
    GANs of smartnoise-synth with their defaults, on the same bins, one-hot, for a minute or two (of
    ``dpctgan`` an epoch). Most of epsilon is left then: a run's `epsilon` is what it spent.
``dp-merf``
    A noisy mean embedding (Harder et al. 2021), written out in `quality_peers.py`, in torch.

What the peers' epsilon is about, and what they are given, is said in `quality_peers.py`.

Results are appended to OUT.jsonl as they come, and runs already there are skipped, so the command
can be stopped and started again. OUT.md holds the means over seeds, OUT.svg (with matplotlib)
shows them against epsilon, but for the GANs, which would flatten all else. Scores compare with real
rows and are not private; the data sets are public.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import dpslice
from dpslice.tabular import MixtureOptions, Schema, Synthesizer, TabularGenerator, read_table
from dpslice.tabular.encoding import Encoding
from dpslice.tabular.metrics import scores
from dpslice.torch import SlicedDivergence, fit
from quality_peers import dp_merf, missing, smartnoise, smartnoise_gan

ROOT = Path(__file__).resolve().parents[1]
TABLES = {
    "adult": "adult.csv.gz",
    "acs_income": "acs_income_ca.csv.gz",
    "acs_publiccoverage": "acs_publiccoverage_ca.csv.gz",
    "acs_mobility": "acs_mobility_ca.csv.gz",
    "acs_employment": "acs_employment_ca_derived.csv.gz",
}
SCORES = (
    "tv_complement",
    "contingency_similarity",
    "ks_complement",
    "correlation_similarity",
    "auc_synthetic",
    "f1_synthetic",
    "boosted_auc_synthetic",
)
PLOTTED = ("contingency_similarity", "auc_synthetic", "boosted_auc_synthetic")
UNPLOTTED = ("dpgan", "dpctgan", "pategan")
PAPER_STEPS = 3000
PAPER_BATCH = 128


def ours(
    schema: Schema,
    private: pd.DataFrame,
    epsilon: float,
    delta: float,
    seed: int,
    method: str,
    rounds: int = 0,
    amplify_by_order: bool = False,
    **options: Any,
) -> Any:
    synthesizer = Synthesizer(
        schema,
        epsilon=epsilon,
        delta=delta,
        method=method,
        training=MixtureOptions(**options) if options else None,
        rounds=rounds,
        amplify_by_order=amplify_by_order,
        seed=seed,
    )
    synthesizer.fit(private, progress=False)
    return synthesizer.sample(len(private)), synthesizer.guarantee


def paper(
    schema: Schema, private: pd.DataFrame, epsilon: float, delta: float, seed: int, k: int
) -> Any:
    encoding = Encoding(schema)
    n_slices = encoding.d // k
    sigma = dpslice.accounting.paper_sigma(
        epsilon, delta, d=encoding.d, p=n_slices * k, sensitivity=encoding.max_norm
    )
    mechanism = dpslice.SlicingMechanism(
        sigma=sigma,
        delta=delta,
        n_slices=n_slices,
        slice_dim=k,
        frame="gaussian",
        max_norm=encoding.max_norm,
    )
    release = mechanism.release(encoding.encode_blocks(private))
    loss = SlicedDivergence(
        release, divergence="kl", noise="sampled", slice_dim=k, batch_size=PAPER_BATCH, seed=seed
    )
    torch.manual_seed(seed)
    generator = TabularGenerator(encoding)
    fit(generator, loss, steps=PAPER_STEPS, batch_size=PAPER_BATCH, seed=seed, progress=False)
    z = torch.randn(
        len(private), generator.latent_dim, generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        rows = generator(z).numpy().astype(np.float64)
    return encoding.decode(rows), release.guarantee


METHODS: dict[str, Callable[..., Any]] = {
    "sums": partial(ours, method="sums"),
    "sums, 3 rounds": partial(ours, method="sums", rounds=3),
    "sums, stop at 0.91": partial(ours, method="sums", stop_at=0.91),
    "sums, 4 models": partial(ours, method="sums", models=4),
    "rows": partial(ours, method="rows"),
    "rows, in order": partial(ours, method="rows", amplify_by_order=True),
    "paper k=1": partial(paper, k=1),
    "paper k=2": partial(paper, k=2),
    "paper k=3": partial(paper, k=3),
    "mst": partial(smartnoise, method="mst"),
    "aim": partial(smartnoise, method="aim", megabytes=80.0),
    "aim, 32 rounds": partial(smartnoise, method="aim", rounds=32),
    "aim, 1 MB": partial(smartnoise, method="aim", megabytes=1.0),
    "dpgan": partial(smartnoise_gan, method="dpgan"),
    "dpctgan": partial(smartnoise_gan, method="dpctgan"),
    "pategan": partial(smartnoise_gan, method="pategan"),
    "dp-merf": dp_merf,
}


def boosted_auc(schema: Schema, train: pd.DataFrame, test: pd.DataFrame) -> float | None:
    """Area under the curve of gradient boosting on the target, trained and tested on these rows."""
    target = schema.target
    if target is None:
        return None

    def numbers(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        columns = {column.name: column.to_numbers(rows[column.name]) for column in schema}
        label = columns.pop(target)
        return np.column_stack(list(columns.values())), label

    (x, y), (x_test, y_test) = numbers(train), numbers(test)
    counts = np.unique(y, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 2:  # of a class with one row it holds out none
        return None
    model = HistGradientBoostingClassifier(random_state=0).fit(x, y)
    return float(roc_auc_score(y_test, model.predict_proba(x_test)[:, 1]))


def run(
    name: str,
    table: pd.DataFrame,
    schema: Schema,
    method: str,
    epsilon: float,
    delta: float,
    seed: int,
) -> dict[str, Any]:
    shuffled = table.sample(frac=1.0, random_state=seed).reset_index(drop=True)
    n_private = int(0.8 * len(shuffled))
    private, holdout = shuffled[:n_private], shuffled[n_private:]
    start = time.perf_counter()
    synthetic, guarantee = METHODS[method](schema, private, epsilon, delta, seed)
    seconds = time.perf_counter() - start
    result = scores(private, synthetic, schema, holdout=holdout, seed=seed)
    result["boosted_auc_synthetic"] = boosted_auc(schema, synthetic, holdout)
    return {
        "table": name,
        "asked_epsilon": epsilon,
        "method": method,
        "seed": seed,
        "epsilon": guarantee.epsilon,
        "delta": guarantee.delta,
        "adjacency": guarantee.adjacency,
        "seconds": seconds,
        **{score: result[score] for score in SCORES},
        # What other real rows reach: the held-out rows in place of the synthetic ones, and
        # classifiers trained on the real rows.
        "real": {
            **result["reference"],
            "auc": result["auc_real"],
            "f1": result["f1_real"],
            "boosted_auc": boosted_auc(schema, private, holdout),
        },
    }


def markdown(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)

    def cell(values: Iterable[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{statistics.mean(known):.3f} ({min(known):.3f})" if known else "–"

    head = [name.replace("_", " ") for name in SCORES]
    lines = [
        "# Quality of private synthetic tables",
        "",
        f"delta = {rows[0]['delta']:g}, zero_out; {os.cpu_count()} cores of "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}. Mean over seeds (smallest value). Seconds are those of a "
        "machine that did other things too.",
    ]
    for table in TABLES:
        for epsilon in sorted({r["asked_epsilon"] for r in rows if r["table"] == table}):
            here = [r for r in rows if r["table"] == table and r["asked_epsilon"] == epsilon]
            lines += [
                "",
                f"## {table}, epsilon = {epsilon:g}",
                "",
                "| method | seeds | " + " | ".join(head) + " | seconds |",
                "|---|---|" + "---|" * (len(head) + 1),
            ]
            for method in METHODS:
                mine = [row for row in here if row["method"] == method]
                if mine:
                    cells = [cell(row.get(name) for row in mine) for name in SCORES]
                    seconds = statistics.mean(row["seconds"] for row in mine)
                    lines.append(
                        f"| {method} | {len(mine)} | " + " | ".join(cells) + f" | {seconds:.0f} |"
                    )
            names = [name.removesuffix("_synthetic") for name in SCORES]
            cells = [cell(row["real"].get(name) for row in here) for name in names]
            lines.append("| other real rows | | " + " | ".join(cells) + " | |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw scores against epsilon, a column of panels for each table; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dpslice"  # the same figure for the same numbers
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    tables = [table for table in TABLES if any(row["table"] == table for row in rows)]
    plotted = [method for method in METHODS if method not in UNPLOTTED]
    colours = matplotlib.color_sequences["tab20"]
    figure, axes = pyplot.subplots(
        len(PLOTTED), len(tables), figsize=(3.2 * len(tables), 2.4 * len(PLOTTED)), squeeze=False
    )
    for score, across in zip(PLOTTED, axes, strict=True):
        for table, panel in zip(tables, across, strict=True):
            here = [row for row in rows if row["table"] == table]
            for method, colour in zip(plotted, colours, strict=False):
                points: dict[float, list[float]] = {}
                for row in here:
                    if row["method"] == method and row.get(score) is not None:
                        points.setdefault(row["asked_epsilon"], []).append(row[score])
                if points:
                    x = sorted(points)
                    y = [statistics.mean(points[epsilon]) for epsilon in x]
                    panel.plot(x, y, marker="o", markersize=3, label=method, color=colour)
            real = [row["real"].get(score.removesuffix("_synthetic")) for row in here]
            known = [value for value in real if value is not None]
            if known:
                panel.axhline(
                    statistics.mean(known), color="grey", linestyle=":", label="other real rows"
                )
            panel.set_xscale("log")
            panel.set_title(
                f"{table}\n{score.removesuffix('_synthetic').replace('_', ' ')}", size=8
            )
            panel.tick_params(labelsize=7)
    for panel in axes[-1]:
        panel.set_xlabel("epsilon", size=8)
    lines = {line.get_label(): line for panel in axes.flat for line in panel.get_lines()}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=7, fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    folder = Path(os.environ.get("DPSLICE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 5.0])
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["sums", "rows"])
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "bench" / "results" / "quality",
        help="prefix of the files to write",
    )
    args = parser.parse_args()
    for name in args.tables:
        if not (folder / TABLES[name]).exists():
            parser.error(f"{folder / TABLES[name]} does not exist; set DPSLICE_DATA")
    for method in args.methods:
        if reason := missing(method):
            parser.error(reason)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    log = args.out.with_suffix(".jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["table"], row["asked_epsilon"], row["method"], row["seed"]) for row in rows}
    for name in args.tables:
        schema = Schema.load(ROOT / "examples" / f"{name}.toml")
        table = read_table(folder / TABLES[name], schema)
        for seed, epsilon, method in itertools.product(
            range(args.seeds), args.epsilons, args.methods
        ):
            if (name, epsilon, method, seed) in done:
                continue
            rows.append(run(name, table, schema, method, epsilon, args.delta, seed))
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
            args.out.with_suffix(".md").write_text(markdown(rows))
    args.out.with_suffix(".md").write_text(markdown(rows))
    plot(rows, args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
