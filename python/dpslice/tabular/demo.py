"""The table of ``dpslice demo``: the RAND Health Insurance Experiment, as statsmodels ships it.

Each row is one person in one year of the experiment, which ran from 1974 to 1982 and drew lots for
families' health insurance: how many times the person saw a doctor, which plan the family had, and
how well the person was. The table is public; the demo plays that it is not.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
import pandas as pd

from dpslice import _arrays

__all__ = ["load_tables", "prepare", "schema_text"]

HELD_OUT = 0.2  # share of the rows that is not released, but compared with
_SPLIT_SEED = 20190


def schema_text() -> str:
    """Return the demo's schema file, which says where each bound comes from.

    Returns
    -------
    str
        TOML text.
    """
    return resources.files("dpslice.tabular").joinpath("schemas/randhie.toml").read_text("utf-8")


def load_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Load the table out of the statsmodels package, and split it once and for all.

    Returns
    -------
    private, held_out : pandas.DataFrame
        Four fifths and one fifth of the 20,190 rows, in random order.

    Raises
    ------
    ImportError
        If statsmodels is not installed.
    """
    source = _arrays.require("statsmodels.datasets.randhie", extra="demo")
    table = prepare(source.load_pandas().data)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(table))
    cut = round(HELD_OUT * len(table))
    held_out, private = table.iloc[np.sort(order[:cut])], table.iloc[np.sort(order[cut:])]
    return private.reset_index(drop=True), held_out.reset_index(drop=True)


def prepare(data: pd.DataFrame) -> pd.DataFrame:
    """Undo codings that were made for regressions; each row is changed on its own.

    The logarithm of the coinsurance rate becomes the rate in percent again. The three indicators
    of good, fair and poor health, none of which is set for excellent health, become one category.
    Indicators become booleans; where an interview is missing, `physlm` is a share between 0 and 1,
    and is rounded.

    Parameters
    ----------
    data : pandas.DataFrame
        The table of `statsmodels.datasets.randhie`.

    Returns
    -------
    pandas.DataFrame
        Columns of the demo's schema.
    """
    return pd.DataFrame(
        {
            "visits": data["mdvis"].astype(int),
            "coinsurance": np.rint(np.expm1(data["lncoins"])).astype(int),
            "individual_deductible": data["idp"] == 1,
            "log_incentive": data["lpi"].astype(float),
            "log_deductible": data["fmde"].astype(float),
            "limited": data["physlm"] >= 0.5,
            "diseases": data["disea"].astype(float),
            "health": np.select(
                [data["hlthg"] == 1, data["hlthf"] == 1, data["hlthp"] == 1],
                ["good", "fair", "poor"],
                default="excellent",
            ),
        }
    )
