"""Privacy accounting of the slicing mechanism: what a release costs, and how much noise it needs.

The mechanism publishes a random frame U (d x p) and XU + V, with V i.i.d. N(0, sigma^2). Given U it
is a Gaussian mechanism whose ratio of sensitivity to noise, mu, depends on U alone, and U has the
same law whatever the data. So every exact statement here is the analytic Gaussian profile averaged
over the law of mu; bounds (the paper's Theorem 1, RDP conversion) are offered for comparison.

``sensitivity`` is the L2 distance of two neighbouring rows: ``max_norm`` for ``zero_out``
adjacency, the diameter of the record domain for ``replace_one``. The number of rows is public.

The paper is Greenewald, Yu, Wang, Xu, "Privacy without Noisy Gradients: Slicing Mechanism for
Generative Model Training", NeurIPS 2024, arXiv:2410.19941.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, Final

from dpslice import _arrays

__all__ = [
    "ADJACENCIES",
    "FRAMES",
    "Guarantee",
    "numerical_loss",
]

FRAMES: Final = ("orthonormal", "gaussian")
ADJACENCIES: Final = ("zero_out", "replace_one")


# --------------------------------------------------------------------- noise in finite precision


def numerical_loss(*, p: int, sigma: float, max_norm: float) -> tuple[float, float]:
    """Privacy lost because a computer rounds: what to add to the exact (epsilon, delta).

    The computed value and the ideal one differ by at most ``8 * 2**-52 * (max_norm + 11 sigma)``
    except with probability ``2**-74`` per number; the release is rounded to a grid of about
    ``sigma / 1024``, so that such a difference changes a cell's probability by a factor close to 1.

    Parameters
    ----------
    p : int
        Number of released columns.
    sigma : float
        Standard deviation of the noise, in the unit of the data.
    max_norm : float
        Bound C on the norm of a row. For a Gaussian frame: C times the largest column norm of
        the frame.

    Returns
    -------
    epsilon, delta : float
        ``2e-11 p (C/sigma + 11)`` and ``p 2**-70``.

    Raises
    ------
    TypeError
        If an argument is not a number of the stated kind.
    ValueError
        If an argument is out of range.
    """
    columns = _arrays.positive_integer("p", p)
    noise = _arrays.positive_real("sigma", sigma)
    norm = _arrays.positive_real("max_norm", max_norm)
    return 2e-11 * columns * (norm / noise + 11.0), columns * 2.0**-70


# -------------------------------------------------------------------------------- certificates

_NEIGHBOURS: Final = {
    "zero_out": "one record's row is replaced by a row of zeros, which stays in the table",
    "replace_one": "one record is replaced by any other record of the domain",
}
_UPWARDS: Final = Context(prec=6, rounding=ROUND_CEILING)


def _rounded_up(value: float) -> str:
    """Write a number with six significant digits, never smaller than it is."""
    if not math.isfinite(value):
        return "infinite"
    return f"{float(_UPWARDS.create_decimal(Decimal(repr(float(value))))):.6g}"


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What a release, or several together, promise: the content of a privacy certificate.

    Attributes
    ----------
    epsilon, delta : float
        Totals: upper bounds that include the numerical loss and every composed part. ``epsilon``
        may be infinite.
    adjacency : {"zero_out", "replace_one"}
        Which pairs of tables the promise is about. The number of rows is public in both.
    mechanism : str
        What was done: ``"slicing"``, ``"schema inference"``, ``"composition"``, ...
    sensitivity : float, optional
        L2 distance of two neighbouring rows, in the unit of the data.
    sigma : float, optional
        Standard deviation of the noise, in the unit of the data.
    frame : {"orthonormal", "gaussian"}, optional
        Law of the random projection.
    d, p, n : int, optional
        Features, released columns, rows (a public number).
    max_norm, diameter : float, optional
        Bounds on the norm of a row and on the distance of two rows.
    epsilon_numerical, delta_numerical : float
        Loss by rounding (`numerical_loss`), already inside ``epsilon`` and ``delta``.
    epsilon_replace_one : float, optional
        Epsilon of the same release, at the same delta, under ``replace_one`` adjacency.
    private : bool
        False where the noise is not fit for privacy: then there is no guarantee at all.
    parts : tuple of Guarantee
        What was composed, if anything.
    composition : str, optional
        How: ``"basic"`` (epsilon and delta add up) or ``"exact"`` (`composed_epsilon`).
    notes : tuple of str
        Further conditions of the promise, one sentence each; printed on the certificate.
    """

    epsilon: float
    delta: float
    adjacency: str
    mechanism: str
    sensitivity: float | None = None
    sigma: float | None = None
    frame: str | None = None
    d: int | None = None
    p: int | None = None
    n: int | None = None
    max_norm: float | None = None
    diameter: float | None = None
    epsilon_numerical: float = 0.0
    delta_numerical: float = 0.0
    epsilon_replace_one: float | None = None
    private: bool = True
    parts: tuple[Guarantee, ...] = ()
    composition: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("epsilon", _arrays.nonnegative_or_infinite("epsilon", self.epsilon))
        put("delta", _arrays.nonnegative_real("delta", self.delta))
        if self.delta > 1.0:
            raise ValueError(f"delta must be at most 1; got {self.delta}")
        _arrays.choice("adjacency", self.adjacency, ADJACENCIES)
        _arrays.text("mechanism", self.mechanism)
        if self.frame is not None:
            _arrays.choice("frame", self.frame, FRAMES)
        for name in ("sensitivity", "sigma", "max_norm", "diameter"):
            value = getattr(self, name)
            if value is not None:
                # 0 is legal: a table whose columns have one value each has no spread at all.
                put(name, _arrays.nonnegative_real(name, value))
        for name in ("d", "p", "n"):
            value = getattr(self, name)
            if value is not None:
                put(name, _arrays.integer(name, value, minimum=0 if name == "n" else 1))
        for name in ("epsilon_numerical", "delta_numerical"):
            put(name, _arrays.nonnegative_real(name, getattr(self, name)))
        if self.epsilon_replace_one is not None:
            replaced = _arrays.nonnegative_or_infinite(
                "epsilon_replace_one", self.epsilon_replace_one
            )
            put("epsilon_replace_one", replaced)
        _arrays.boolean("private", self.private)
        for part in self.parts:
            if not isinstance(part, Guarantee):
                raise TypeError(f"parts must hold Guarantee objects; got {type(part).__name__}")
        put("parts", tuple(self.parts))
        if self.composition is not None:
            _arrays.text("composition", self.composition)
        if isinstance(self.notes, str):
            raise TypeError("notes must be a sequence of sentences; got one string")
        put("notes", tuple(_arrays.text("notes", note) for note in self.notes))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        if not self.private:
            lines = [
                "NOT PRIVATE. The noise of this release is not fit for privacy: no guarantee.",
                f"{self.mechanism}; ({_rounded_up(self.epsilon)}, {_rounded_up(self.delta)}) is"
                " what secure noise of the same size would have given.",
            ]
        else:
            lines = [
                f"{self.mechanism}: ({_rounded_up(self.epsilon)}, {_rounded_up(self.delta)})"
                "-differential privacy",
                f"  epsilon       {_rounded_up(self.epsilon)}   (upper bound, rounded up)",
                f"  delta         {_rounded_up(self.delta)}",
            ]
        rows = "n is public" if self.n is None else f"n is public: n = {self.n}"
        lines.append(f"  adjacency     {self.adjacency}: {_NEIGHBOURS[self.adjacency]}; {rows}")
        if self.sensitivity is not None:
            lines.append(
                f"  Delta         {self.sensitivity:.9g}   (distance of neighbouring rows)"
            )
        bounds = []
        if self.max_norm is not None:
            bounds.append(f"norm at most {self.max_norm:.9g}")
        if self.diameter is not None:
            bounds.append(f"distance of two rows at most {self.diameter:.9g}")
        if bounds:
            lines.append(f"  rows          {', '.join(bounds)}")
        if self.sigma is not None:
            lines.append(f"  sigma         {self.sigma:.9g}   (noise on every released number)")
        if self.frame is not None:
            shape = "" if self.d is None or self.p is None else f", d = {self.d}, p = {self.p}"
            lines.append(f"  frame         {self.frame}{shape}")
        elif self.d is not None and self.p is not None:
            lines.append(f"  size          d = {self.d}, p = {self.p}")
        if self.epsilon_numerical > 0 or self.delta_numerical > 0:
            lines.append(
                f"  rounding      epsilon {_rounded_up(self.epsilon_numerical)}, delta"
                f" {_rounded_up(self.delta_numerical)}   (already included)"
            )
        if self.adjacency == "zero_out":
            if self.epsilon_replace_one is not None:
                lines.append(
                    f"  replace_one   epsilon {_rounded_up(self.epsilon_replace_one)} at the same"
                    " delta, if a record may be replaced by any other"
                )
            elif self.private:
                lines.append("  replace_one   not stated: the promise above is weaker than that")
        lines.extend(f"  note          {note}" for note in self.notes)
        if self.parts:
            how = "" if self.composition is None else f" ({self.composition} composition)"
            lines.append(f"Composed of{how}:")
            for part in self.parts:
                lines.extend("  " + line for line in part._lines())
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the guarantee as a dictionary that JSON can hold (infinity becomes ``"inf"``).

        Returns
        -------
        dict
            One entry per attribute; `parts` as a list of such dictionaries.
        """
        record: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "parts":
                value = [part.to_dict() for part in value]
            elif field.name == "notes":
                value = list(value)
            elif isinstance(value, float) and math.isinf(value):
                value = "inf"
            record[field.name] = value
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Guarantee:
        """Rebuild a guarantee from `to_dict`; every key must be there and no other.

        Parameters
        ----------
        record : mapping
            What `to_dict` gave.

        Returns
        -------
        Guarantee
            Equal to the one that was written.

        Raises
        ------
        TypeError
            If the record or an entry is of the wrong kind.
        ValueError
            If a key is missing or unknown, or an entry is out of range.
        """
        if not isinstance(record, Mapping):
            raise TypeError(f"a guarantee must be a mapping; got {type(record).__name__}")
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in record]
        unknown = [str(name) for name in record if name not in names]
        if missing:
            raise ValueError(f"the guarantee has no entry for: {', '.join(missing)}")
        if unknown:
            raise ValueError(f"the guarantee has unknown entries: {', '.join(unknown)}")
        values = dict(record)
        for name in ("epsilon", "epsilon_replace_one"):
            if values[name] == "inf":
                values[name] = math.inf
        for name in ("parts", "notes"):
            if not isinstance(values[name], (list, tuple)):
                raise TypeError(f"{name} must be a list; got {type(values[name]).__name__}")
        values["parts"] = tuple(cls.from_dict(part) for part in values["parts"])
        values["notes"] = tuple(values["notes"])
        return cls(**values)

    @staticmethod
    def compose(*guarantees: Guarantee) -> Guarantee:
        """Add up several guarantees about the same records.

        Epsilon and delta add up. (See the notes for the case in which epsilon grows less.)

        Parameters
        ----------
        *guarantees : Guarantee
            At least one, all with the same adjacency.

        Returns
        -------
        Guarantee
            The total, with the given ones as its parts; a single one is returned as it is.

        Raises
        ------
        TypeError
            If an argument is not a Guarantee.
        ValueError
            If there is none, or adjacencies or row counts differ.
        """
        for guarantee in guarantees:
            if not isinstance(guarantee, Guarantee):
                raise TypeError(f"compose takes Guarantee objects; got {type(guarantee).__name__}")
        if not guarantees:
            raise ValueError("compose needs at least one guarantee; got none")
        if len(guarantees) == 1:
            return guarantees[0]
        adjacencies = sorted({guarantee.adjacency for guarantee in guarantees})
        if len(adjacencies) > 1:
            raise ValueError(
                "guarantees to compose must have the same adjacency; got "
                + " and ".join(adjacencies)
            )
        counts = sorted({g.n for g in guarantees if g.n is not None})
        if len(counts) > 1:
            raise ValueError(
                "guarantees to compose must be about the same rows; got n = "
                + " and ".join(map(str, counts))
            )
        replaced = [g.epsilon_replace_one for g in guarantees if g.epsilon_replace_one is not None]
        return Guarantee(
            epsilon=math.fsum(g.epsilon for g in guarantees),
            delta=min(1.0, math.fsum(g.delta for g in guarantees)),
            adjacency=adjacencies[0],
            mechanism="composition",
            n=counts[0] if counts else None,
            epsilon_numerical=math.fsum(g.epsilon_numerical for g in guarantees),
            delta_numerical=math.fsum(g.delta_numerical for g in guarantees),
            epsilon_replace_one=math.fsum(replaced) if len(replaced) == len(guarantees) else None,
            private=all(g.private for g in guarantees),
            parts=guarantees,
            composition="basic",
        )
