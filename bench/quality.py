"""Quality of private synthetic tables: releases, trains, samples and scores, one row per run.

    python bench/quality.py --seeds 3 --out bench/results/quality-adult

The table is shuffled with the run's seed; 80 % is private, 20 % is held out for the classifier.

Methods
-------
``sums``, ``rows``
    `Synthesizer` as it comes, with either kind of release.
``paper k=1|2|3``
    The configuration of the source paper, unembellished: gaussian frame, sigma by its Theorem 1,
    fixed slices of k columns, density ratio with sampled noise, batches of 128, its own start. Same
    encoding and generator.

Results are appended to OUT.jsonl as they come, and runs already there are skipped, so the command
can be stopped and started again. OUT.md holds the means over seeds. Scores compare with real rows
and are not private; the data sets are public.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import dpslice
from dpslice.tabular import Schema, Synthesizer, TabularGenerator, read_csv
from dpslice.tabular.encoding import Encoding
from dpslice.tabular.metrics import scores
from dpslice.torch import SlicedDivergence, fit

ROOT = Path(__file__).resolve().parents[1]
SCORES = (
    "tv_complement",
    "contingency_similarity",
    "ks_complement",
    "correlation_similarity",
    "auc_synthetic",
    "f1_synthetic",
)
PAPER_STEPS = 3000
PAPER_BATCH = 128


def ours(
    schema: Schema, private: pd.DataFrame, args: argparse.Namespace, seed: int, method: str
) -> Any:
    synthesizer = Synthesizer(
        schema, epsilon=args.epsilon, delta=args.delta, method=method, seed=seed
    )
    synthesizer.fit(private, progress=False)
    return synthesizer.sample(len(private)), synthesizer.guarantee


def paper(
    schema: Schema, private: pd.DataFrame, args: argparse.Namespace, seed: int, k: int
) -> Any:
    encoding = Encoding(schema)
    n_slices = encoding.d // k
    sigma = dpslice.accounting.paper_sigma(
        args.epsilon, args.delta, d=encoding.d, p=n_slices * k, sensitivity=encoding.max_norm
    )
    mechanism = dpslice.SlicingMechanism(
        sigma=sigma,
        delta=args.delta,
        n_slices=n_slices,
        slice_dim=k,
        frame="gaussian",
        max_norm=encoding.max_norm,
        seed=seed,
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


METHODS = {
    "sums": lambda *given: ours(*given, method="sums"),
    "rows": lambda *given: ours(*given, method="rows"),
    "paper k=1": lambda *given: paper(*given, k=1),
    "paper k=2": lambda *given: paper(*given, k=2),
    "paper k=3": lambda *given: paper(*given, k=3),
}


def run(method: str, table: pd.DataFrame, schema: Schema, args: Any, seed: int) -> dict[str, Any]:
    shuffled = table.sample(frac=1.0, random_state=seed).reset_index(drop=True)
    n_private = int(0.8 * len(shuffled))
    private, holdout = shuffled[:n_private], shuffled[n_private:]
    start = time.perf_counter()
    synthetic, guarantee = METHODS[method](schema, private, args, seed)
    seconds = time.perf_counter() - start
    result = scores(private, synthetic, schema, holdout=holdout, seed=seed)
    return {
        "method": method,
        "seed": seed,
        "epsilon": guarantee.epsilon,
        "delta": guarantee.delta,
        "adjacency": guarantee.adjacency,
        "seconds": seconds,
        **{name: result[name] for name in SCORES},
        # What other real rows reach: the held-out rows in place of the synthetic ones, and a
        # classifier trained on the real rows.
        "real": {**result["reference"], "auc": result["auc_real"], "f1": result["f1_real"]},
    }


def markdown(rows: Iterable[dict[str, Any]], args: argparse.Namespace) -> str:
    rows = list(rows)
    head = [name.replace("_", " ") for name in SCORES]
    lines = [
        f"Table `{args.data.name}`, epsilon = {args.epsilon:g}, delta = {args.delta:g}, zero_out; "
        f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}. "
        "Mean over seeds (smallest value).",
        "",
        "| method | seeds | " + " | ".join(head) + " | seconds |",
        "|---|---|" + "---|" * (len(head) + 1),
    ]
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        if not mine:
            continue
        cells = []
        for name in SCORES:
            values = [row[name] for row in mine if row[name] is not None]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f})" if values else "–")
        seconds = statistics.mean(row["seconds"] for row in mine)
        lines.append(f"| {method} | {len(mine)} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    real = [row["real"] for row in rows]
    cells = []
    for name in SCORES:
        values = [row[name.removesuffix("_synthetic")] for row in real]
        cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f})")
    lines.append("| other real rows | | " + " | ".join(cells) + " | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    folder = Path(os.environ.get("DPSLICE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=folder / "adult.csv.gz")
    parser.add_argument("--schema", type=Path, default=ROOT / "examples" / "adult.toml")
    parser.add_argument("--epsilon", type=float, default=5.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, required=True, help="prefix of the two files to write")
    args = parser.parse_args()
    if not args.data.exists():
        parser.error(f"{args.data} does not exist; set DPSLICE_DATA or --data")

    schema = Schema.load(args.schema)
    table = read_csv(args.data, schema)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    log = args.out.with_suffix(".jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["method"], row["seed"]) for row in rows}
    for seed in range(args.seeds):
        for method in args.methods:
            if (method, seed) in done:
                continue
            rows.append(run(method, table, schema, args, seed))
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
    args.out.with_suffix(".md").write_text(markdown(rows, args))


if __name__ == "__main__":
    main()
