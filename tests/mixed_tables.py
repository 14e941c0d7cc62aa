"""Small tables with a column of every type, for the tests of metrics and report."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd

from dpslice.tabular.columns import Boolean, Categorical, Datetime, Number
from dpslice.tabular.schema import Schema

SCHEMA = Schema(
    (
        Categorical("job", ("baker", "clerk", "smith", "none"), nullable=True),
        Categorical("grade", (1, 2, 3)),
        Boolean("member", nullable=True),
        Number("age", "integer", 17, 90),
        Number("gain", "integer", 0, 99_999, special=(0,), scale="log"),
        Number("weight", "real", 30.0, 150.0, nullable=True),
        Datetime("seen", datetime.date(2019, 1, 1), datetime.date(2024, 12, 31), nullable=True),
        Categorical("income", ("low", "high")),
    ),
    target="income",
    name="Mixed table",
)


def mixed_table(n: int, seed: int, *, missing: float = 0.1) -> pd.DataFrame:
    """Draw n rows; income depends on age and job, `missing` is the share of missing cells."""
    rng = np.random.default_rng(seed)
    job = rng.choice(["baker", "clerk", "smith", "none"], n, p=[0.4, 0.3, 0.2, 0.1])
    age = rng.integers(17, 91, n)
    odds = (age - 50) / 10 + (job == "clerk") - 1
    days = rng.integers(0, 2000, n)
    frame = pd.DataFrame(
        {
            "job": job.astype(object),
            "grade": rng.integers(1, 4, n),
            "member": pd.array(rng.random(n) < 0.3, dtype="boolean"),
            "age": age,
            "gain": np.where(rng.random(n) < 0.8, 0, rng.integers(1, 99_999, n)),
            "weight": np.clip(rng.normal(70, 15, n) + (age - 50) / 5, 30, 150),
            "seen": pd.Timestamp("2019-01-01") + pd.to_timedelta(days, unit="D"),
            "income": np.where(rng.random(n) < 1 / (1 + np.exp(-odds)), "high", "low"),
        }
    )
    for name in ("job", "member", "weight", "seen"):
        frame.loc[rng.random(n) < missing, name] = None
    return frame
