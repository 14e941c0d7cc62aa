"""Tables: public schemas, private schema inference, synthesizers, files and reports.

`Schema` says what is publicly known of a table, `Synthesizer` releases it, trains a model and
samples from that; `read_table` and `write_table` read and write tables, as CSV or Parquet;
`limit_rows_per_person` is for those in which a person has several rows.

Needs the extra ``tabular``. `Synthesizer`, its options and models, and `write_report` are imported
when they are first asked for, so that schemas and encodings work without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpslice._arrays import require

require("pandas", extra="tabular")  # before the modules below import it: says which extra is needed

from dpslice.tabular.columns import Boolean, Categorical, Column, Datetime, Number  # noqa: E402
from dpslice.tabular.discretization import Discretization  # noqa: E402
from dpslice.tabular.encoding import Block, Encoding  # noqa: E402
from dpslice.tabular.files import iter_table, read_table, write_table  # noqa: E402
from dpslice.tabular.people import limit_rows_per_person  # noqa: E402
from dpslice.tabular.rules import Rule  # noqa: E402
from dpslice.tabular.schema import Schema  # noqa: E402
from dpslice.tabular.sdv import sdv_types  # noqa: E402

if TYPE_CHECKING:
    from dpslice.tabular.generator import TabularGenerator
    from dpslice.tabular.inference import InferenceError
    from dpslice.tabular.mixture import ProductMixture
    from dpslice.tabular.report import write_report
    from dpslice.tabular.synthesizer import MixtureOptions, Synthesizer, TrainingOptions

__all__ = [
    "Block",
    "Boolean",
    "Categorical",
    "Column",
    "Datetime",
    "Discretization",
    "Encoding",
    "InferenceError",
    "MixtureOptions",
    "Number",
    "ProductMixture",
    "Rule",
    "Schema",
    "Synthesizer",
    "TabularGenerator",
    "TrainingOptions",
    "iter_table",
    "limit_rows_per_person",
    "read_table",
    "sdv_types",
    "write_report",
    "write_table",
]

_LAZY = {
    "InferenceError": "dpslice.tabular.inference",
    "MixtureOptions": "dpslice.tabular.synthesizer",
    "ProductMixture": "dpslice.tabular.mixture",
    "Synthesizer": "dpslice.tabular.synthesizer",
    "TabularGenerator": "dpslice.tabular.generator",
    "TrainingOptions": "dpslice.tabular.synthesizer",
    "write_report": "dpslice.tabular.report",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is imported on demand, too: for ``help`` and completion."""
    return sorted({*globals(), *__all__})
