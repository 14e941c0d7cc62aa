"""Reports that compare with real rows: what they need, and their scores as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpslice import _arrays
from dpslice._cli import _console

NOT_PRIVATE = (
    "Scores compare with real rows, without noise: NOT PRIVATE, for the data holder's eyes only."
)
SCORES = (
    ("KSComplement (numbers)", "ks_complement", None),
    ("TVComplement (categories)", "tv_complement", None),
    ("ContingencySimilarity (pairs of categories)", "contingency_similarity", None),
    ("CorrelationSimilarity (pairs of numbers)", "correlation_similarity", None),
    ("logistic regression: ROC AUC", "auc_synthetic", "auc_real"),
    ("logistic regression: F1", "f1_synthetic", "f1_real"),
)


def check_report_packages() -> None:
    for package in ("jinja2", "sdmetrics", "sklearn"):
        _arrays.require(package, extra="tabular")


def print_scores(results: Mapping[str, Any]) -> None:
    """Scores of the synthetic rows beside what real rows reach."""
    reference = results["reference"] or {}

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = []
    for label, key, real_key in SCORES:
        of_real = reference.get(key) if real_key is None else results.get(real_key)
        rows.append([label, text(results[key]), text(of_real)])
    _console.print_table(["score (1 is best)", "synthetic", "real rows"], rows)
    target = results["classifier"]["target"]
    if results["classifier"]["reason"]:
        print(f"no classifier: {results['classifier']['reason']}")
    else:
        print(f"The classifier predicts {target!r}; it is trained on synthetic or on real rows and")
        print("tested on the same held-out real rows.")
    print(NOT_PRIVATE)
