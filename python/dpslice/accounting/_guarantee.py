"""What a release, or several together, promise: the content of a privacy certificate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, Final

from dpslice import _arrays
from dpslice.accounting._adjacency import (
    ADJACENCIES,
    SUM_ADJACENCIES,
    check_order_unit,
    checked_rows_per_person,
    neighbours,
)
from dpslice.accounting._composition import Slicing, composed_epsilon
from dpslice.accounting._rounding import SUM_ROUNDING, computed_epsilon, rounded_sensitivity
from dpslice.frames import FRAMES, orthonormal_norm


@dataclass(frozen=True)
class Wording:
    """What a certificate calls things, for one kind of mechanism."""

    null: tuple[str, str] | None = None  # the neighbour under zero_out: of one record, of several
    distance: str = "distance of neighbouring rows"
    bounds: str = "rows"
    two: str = "two rows"
    sigma: str = "noise on every released number"


_WORDING: Final = {
    "sums": Wording(
        null=("one that counts nowhere", "ones that count nowhere"),
        distance="distance of neighbouring tables' sums",
        bounds="features",
        two="two",
        sigma="noise on every released sum, in the unit of the features",
    ),
    "schema inference": Wording(
        null=("one that falls into no histogram", "ones that fall into no histogram"),
        distance="distance of neighbouring tables' counts",
        sigma="noise on every count",
    ),
}


def wording(guarantee: Guarantee) -> Wording:
    """Return the words for a certificate; several releases take those of rows or sums, if any."""
    mechanisms = {leaf.mechanism for leaf in leaves_of([guarantee])}
    shown = next((name for name in ("slicing", "sums") if name in mechanisms), guarantee.mechanism)
    words = _WORDING.get(shown, Wording())
    if shown in _WORDING or guarantee.rows_per_person == 1:
        return words
    return dataclasses.replace(words, distance="distance of all of a person's rows together")


def neighbours_of(guarantee: Guarantee) -> str:
    """Tell in words which tables a guarantee is about."""
    null, rows = wording(guarantee).null, guarantee.rows_per_person
    if guarantee.adjacency != "zero_out" or null is None:
        return neighbours(guarantee.adjacency, rows)
    if rows == 1:
        return f"one record is replaced by {null[0]}"
    return f"the records of one person, at most {rows}, are replaced by {null[1]}"


# Entries of a written guarantee that are left out where they have their defaults.
_ONLY_WHERE_SAID: Final = {
    "sampling_rate": None,
    "frame_norm": None,
    "amplified_by_order": False,
    "rows_per_person": 1,
}
_COMPOSITIONS: Final = ("basic", "joint")
_DEEPEST: Final = 100  # nested parts of one that is read


def rounded_up(value: float, digits: int = 6) -> str:
    """Write a number with some significant digits, never smaller than it is."""
    if not math.isfinite(value):
        return "infinite"
    upwards = Context(prec=digits, rounding=ROUND_CEILING)
    return f"{float(upwards.create_decimal(Decimal(repr(float(value))))):.{digits}g}"


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What a release, or several together, promise: the content of a privacy certificate.

    Attributes
    ----------
    epsilon, delta : float
        Totals: upper bounds that include the numerical loss and every composed part. ``epsilon``
        may be infinite.
    adjacency : {"zero_out", "replace_one", "add_remove"}
        Which pairs of tables the promise is about. The number of rows is public in the first two.
    mechanism : str
        What was done: ``"slicing"``, ``"sums"``, ``"schema inference"``, ``"composition"``, ...
    sensitivity : float, optional
        L2 distance of two neighbouring tables' rows, in the unit of the data; of sums, of their
        sums.
    sigma : float, optional
        Standard deviation of the noise, in the unit of the data.
    frame : {"orthonormal", "gaussian"}, optional
        Law of the random projection.
    d, p, n : int, optional
        Features, released columns (of sums: released numbers), rows (a public number, never stated
        under ``add_remove``).
    max_norm, diameter : float, optional
        Bounds on the norm of a row (of sums: of a record's features) and on the distance of two.
    epsilon_numerical, delta_numerical : float
        Loss by rounding (`numerical_loss`, at about ``epsilon``), already inside ``epsilon`` and
        ``delta``.
    epsilon_replace_one : float, optional
        Epsilon of the same release, at the same delta, under ``replace_one`` adjacency.
    private : bool
        False where the noise is not fit for privacy: then there is no guarantee at all.
    parts : tuple of Guarantee
        What was composed, if anything.
    composition : {"basic", "joint"}, optional
        How: ``"basic"``, epsilon and delta add up; or ``"joint"``, by `composed_epsilon`.
    notes : tuple of str
        Further conditions of the promise, one sentence each; printed on the certificate.
    sampling_rate : float, optional
        Of sums: probability with which each record took part, independently of the others and
        unknown to anyone.
    frame_norm : float, optional
        Bound on the spectral norm of a frame that may have been known before the records were
        fixed (it was drawn from a seed): the guarantee is for the pair of rows that it tells apart
        best. Absent where the frame was drawn afresh, or is as good in all directions.
    amplified_by_order : bool
        Of slicing: whether ``epsilon`` or ``epsilon_replace_one`` counts on the secret, uniformly
        random order of all n rows (`shuffled_delta`). Then it is no longer that of the noise alone.
    rows_per_person : int
        Records that one person has at most: the neighbours differ in all of them.

    Raises
    ------
    TypeError
        If an attribute is of the wrong kind.
    ValueError
        If one is out of range; if `n` is stated under ``add_remove``; or if `amplified_by_order`
        is, of anything but one slicing release with all that the claim follows from.
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
    sampling_rate: float | None = None
    frame_norm: float | None = None
    amplified_by_order: bool = False
    rows_per_person: int = 1

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("epsilon", _arrays.nonnegative_or_infinite("epsilon", self.epsilon))
        put("delta", _arrays.nonnegative_real("delta", self.delta))
        if self.delta > 1.0:
            raise ValueError(f"delta must be at most 1; got {self.delta}")
        _arrays.choice("adjacency", self.adjacency, SUM_ADJACENCIES)
        _line("mechanism", self.mechanism)
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
        if self.n is not None and self.adjacency == "add_remove":
            raise ValueError("n must not be stated under add_remove, which protects it")
        for name in ("epsilon_numerical", "delta_numerical"):
            put(name, _arrays.nonnegative_real(name, getattr(self, name)))
        if self.epsilon_replace_one is not None:
            replaced = _arrays.nonnegative_or_infinite(
                "epsilon_replace_one", self.epsilon_replace_one
            )
            put("epsilon_replace_one", replaced)
        _arrays.boolean("private", self.private)
        put("parts", _arrays.elements("parts", self.parts))
        for part in self.parts:
            if not isinstance(part, Guarantee):
                raise TypeError(f"parts must hold Guarantee objects; got {type(part).__name__}")
        if self.composition is not None:
            _arrays.choice("composition", self.composition, _COMPOSITIONS)
        notes = _arrays.elements("notes", self.notes)
        put("notes", tuple(_line("notes", note) for note in notes))
        if self.sampling_rate is not None:
            put("sampling_rate", _arrays.open_unit("sampling_rate", self.sampling_rate))
        if self.frame_norm is not None:
            put("frame_norm", _arrays.positive_real("frame_norm", self.frame_norm))
        put("rows_per_person", checked_rows_per_person(self.rows_per_person))
        if self.sampling_rate is not None and self.rows_per_person > 1:
            raise ValueError(
                "sampling_rate is for people with one record each; got rows_per_person = "
                f"{self.rows_per_person}"
            )
        _arrays.boolean("amplified_by_order", self.amplified_by_order)
        if self.amplified_by_order:
            self._check_order_claim()

    def _check_order_claim(self) -> None:
        """Raise unless everything is stated that the claim follows from."""
        if self.mechanism != "slicing" or self.parts or self.sampling_rate is not None:
            raise ValueError("amplified_by_order is for one slicing release alone")
        check_order_unit("amplified_by_order", self.rows_per_person)
        _arrays.choice("adjacency", self.adjacency, ADJACENCIES)
        needed = ("sigma", "frame", "d", "p", "n", "max_norm", "diameter")
        missing = [name for name in needed if not getattr(self, name)]  # 0 is none of them, either
        if self.frame == "gaussian" and self.frame_norm is None:
            missing.append("frame_norm")
        if missing:
            raise ValueError(f"amplified_by_order needs {', '.join(missing)}, above 0")

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        if not self.private:
            lines = [
                "NOT PRIVATE. The noise of this release is not fit for privacy: no guarantee.",
                f"{self.mechanism}; ({rounded_up(self.epsilon)}, {rounded_up(self.delta)}) is"
                " what secure noise of the same size would have given.",
            ]
        else:
            lines = [
                f"{self.mechanism}: ({rounded_up(self.epsilon)}, {rounded_up(self.delta)})"
                "-differential privacy",
                f"  epsilon       {rounded_up(self.epsilon)}   (upper bound, rounded up)",
                f"  delta         {rounded_up(self.delta)}",
            ]
        words = wording(self)
        rows = "n is public" if self.n is None else f"n is public: n = {self.n}"
        if self.adjacency == "add_remove":
            rows = "n is protected too, but for n > 0"
        lines.append(f"  adjacency     {self.adjacency}: {neighbours_of(self)}; {rows}")
        if self.sensitivity is not None:
            lines.append(f"  Delta         {self.sensitivity:.9g}   ({words.distance})")
        bounds = []
        if self.max_norm is not None:
            bounds.append(f"norm at most {self.max_norm:.9g}")
        if self.diameter is not None:
            bounds.append(f"distance of {words.two} at most {self.diameter:.9g}")
        if bounds:
            lines.append(f"  {words.bounds:<13} {', '.join(bounds)}")
        if self.sigma is not None:
            lines.append(f"  sigma         {self.sigma:.9g}   ({words.sigma})")
        if self.sampling_rate is not None:
            lines.append(
                f"  sampling      {self.sampling_rate:.9g}   (probability of each record to take "
                "part; which ones did is secret)"
            )
        if self.frame is not None:
            shape = "" if self.d is None or self.p is None else f", d = {self.d}, p = {self.p}"
            lines.append(f"  frame         {self.frame}{shape}")
            if self.frame_norm is not None:
                lines.append(
                    "                seeded, so perhaps known beforehand: accounted for the worst"
                    f" pair of rows (spectral norm {rounded_up(self.frame_norm)})"
                )
        elif self.d is not None and self.p is not None:
            lines.append(f"  size          d = {self.d}, p = {self.p}")
        if self.amplified_by_order:
            lines.append(
                "  order         claimed: the guarantee counts on the secret, uniformly random"
                f" order of all n = {self.n} rows; n is public"
            )
        if self.epsilon_numerical > 0 or self.delta_numerical > 0:
            lines.append(
                f"  rounding      epsilon {rounded_up(self.epsilon_numerical)}, delta"
                f" {rounded_up(self.delta_numerical)}   (already included)"
            )
        if self.adjacency != "replace_one":
            if self.epsilon_replace_one is not None:
                replaced = "a record may be replaced by any other"
                if self.rows_per_person > 1:
                    replaced = "a person's records may be replaced by any others"
                lines.append(
                    f"  replace_one   epsilon {rounded_up(self.epsilon_replace_one)} at the same"
                    f" delta, if {replaced}"
                )
            elif self.private:
                lines.append("  replace_one   not stated: the promise above is weaker than that")
        lines.extend(f"  note          {note}" for note in self.notes)
        if self.parts:
            how = "" if self.composition is None else f" ({self.composition} composition)"
            if self.composition == "joint":
                how += ", provided that no part's parameters were chosen by what another gave"
            lines.append(f"Composed of{how}:")
            for part in self.parts:
                lines.extend("  " + line for line in part._lines())
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the guarantee as a dictionary that JSON can hold (infinity becomes ``"inf"``).

        Returns
        -------
        dict
            One entry per attribute, `parts` as a list of such dictionaries; `sampling_rate`,
            `frame_norm`, `amplified_by_order` and `rows_per_person` only where they say something.
        """
        record: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _ONLY_WHERE_SAID and value == _ONLY_WHERE_SAID[field.name]:
                continue
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
        """Rebuild a guarantee from `to_dict`; every key of it must be there and no other.

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
            If a key is missing or unknown, an entry is out of range, parts are nested deeper than
            compositions ever are, or an epsilon is less than the other entries give.
        """
        return cls._from_dict(record, depth=0)

    @classmethod
    def _from_dict(cls, record: object, *, depth: int) -> Guarantee:
        if not isinstance(record, Mapping):
            raise TypeError(f"a guarantee must be a mapping; got {type(record).__name__}")
        if depth > _DEEPEST:
            raise ValueError(f"parts of a guarantee must be nested at most {_DEEPEST} deep")
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in record and name not in _ONLY_WHERE_SAID]
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
        values["parts"] = tuple(cls._from_dict(part, depth=depth + 1) for part in values["parts"])
        values["notes"] = tuple(values["notes"])
        guarantee = cls(**values)
        from dpslice.accounting._claims import refuse_overclaim  # it builds on guarantees

        refuse_overclaim(guarantee)
        return guarantee

    @staticmethod
    def compose(*guarantees: Guarantee) -> Guarantee:
        """Add up several guarantees about the same records.

        Epsilon and delta add up, however the mechanisms depend on one another's outputs. If all
        of them are sums or slicing releases of full orthonormal blocks (of any, if a person may
        have several rows) or of seeded frames, whose parameters then must not depend on the data or
        on other outputs, `composed_epsilon` at the sum of the deltas is taken where it is smaller.
        (Other frames would have to be independent of one another.) Releases that claim the order of
        their rows are counted there by their noise alone, or as any mechanism of their epsilon and
        delta, whichever gives less.

        Parameters
        ----------
        *guarantees : Guarantee
            At least one, all with the same adjacency and `rows_per_person`.

        Returns
        -------
        Guarantee
            The total, with the given ones as its parts; a single one is returned as it is.

        Raises
        ------
        TypeError
            If an argument is not a Guarantee.
        ValueError
            If there is none, or adjacencies, rows per person or row counts differ.
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
        units = sorted({guarantee.rows_per_person for guarantee in guarantees})
        if len(units) > 1:
            raise ValueError(
                "guarantees to compose must have the same rows_per_person; got "
                + " and ".join(map(str, units))
            )
        counts = sorted({g.n for g in guarantees if g.n is not None})
        if len(counts) > 1:
            raise ValueError(
                "guarantees to compose must be about the same rows; got n = "
                + " and ".join(map(str, counts))
            )
        return composed_guarantee(guarantees, adjacencies[0], counts[0] if counts else None)


def _line(name: str, value: object) -> str:
    """Return a text that is one line of a certificate, whatever shows it.

    With the ends of lines, or with what moves a terminal's cursor, one that is read from a file
    could write lines of its own, or over others.
    """
    text = _arrays.text(name, value)
    if not text.isprintable():
        raise ValueError(f"{name} must be one line of printable characters; got {text!r}")
    return text


# --------------------------------------------------------------------------- composition


def composed_guarantee(
    guarantees: Sequence[Guarantee], adjacency: str, n: int | None, *, at_least: bool = False
) -> Guarantee:
    """`Guarantee.compose` of several that go together; `at_least` as of `computed_epsilon`."""
    basic = math.fsum(g.epsilon for g in guarantees)
    total = min(basic, _joint_epsilon(guarantees, adjacency, at_least=at_least))
    replaced: float | None = None
    known = [g.epsilon_replace_one for g in guarantees if g.epsilon_replace_one is not None]
    if len(known) == len(guarantees):
        joint = _joint_epsilon(guarantees, "replace_one", at_least=at_least)
        replaced = min(math.fsum(known), joint)
    return Guarantee(
        epsilon=total,
        delta=min(1.0, math.fsum(g.delta for g in guarantees)),
        adjacency=adjacency,
        mechanism="composition",
        n=n,
        epsilon_numerical=math.fsum(g.epsilon_numerical for g in guarantees),
        delta_numerical=math.fsum(g.delta_numerical for g in guarantees),
        epsilon_replace_one=replaced,
        private=all(g.private for g in guarantees),
        parts=tuple(guarantees),
        composition="joint" if total < basic else "basic",
        rows_per_person=guarantees[0].rows_per_person,
    )


def leaves_of(guarantees: Sequence[Guarantee]) -> list[Guarantee]:
    return [leaf for g in guarantees for leaf in (leaves_of(g.parts) if g.parts else [g])]


def _distance_of(leaf: Guarantee, adjacency: str) -> float | None:
    """Return how far neighbours are apart, by the bounds of the domain."""
    if leaf.max_norm is None or adjacency != "replace_one":
        return leaf.max_norm
    wide = 2.0 * leaf.max_norm
    return wide if leaf.diameter is None else min(wide, leaf.diameter)


def _slicing_of(leaf: Guarantee, adjacency: str) -> Slicing | None:
    """Describe one computed release for `composed_epsilon`, if the certificate says enough."""
    if leaf.sigma is None or leaf.frame is None or leaf.d is None or leaf.p is None:
        return None
    norm, distance = leaf.max_norm, _distance_of(leaf, adjacency)
    if norm is None or distance is None or not (leaf.sigma > 0.0 and distance > 0.0):
        return None
    frame_norm = leaf.frame_norm
    if frame_norm is None and leaf.frame == "orthonormal" and leaf.rows_per_person > 1:
        frame_norm = orthonormal_norm(leaf.d, leaf.p)
    if frame_norm is not None:
        # No column of a frame is longer than its spectral norm.
        longest = norm * max(1.0, frame_norm)
        reach = rounded_sensitivity(
            distance * frame_norm, leaf.d, leaf.p, longest, leaf.rows_per_person
        )
        return Slicing(sigma=leaf.sigma, d=1, p=1, sensitivity=reach)
    if leaf.frame == "gaussian" or leaf.p % leaf.d != 0:
        # The ratio of these depends on the frame, and `composed_epsilon` takes frames to be
        # independent, which no certificate tells.
        return None
    exact = rounded_sensitivity(distance, leaf.d, leaf.p, norm)
    return Slicing(sigma=leaf.sigma, d=leaf.d, p=leaf.p, frame=leaf.frame, sensitivity=exact)


def _sums_of(leaf: Guarantee, adjacency: str) -> Slicing | None:
    """Describe a sum release for `composed_epsilon`: a Gaussian mechanism, as if d = p = 1."""
    if leaf.sampling_rate is not None or leaf.p is None:
        return None
    distance = _distance_of(leaf, adjacency)
    if leaf.sigma is None or distance is None or not (leaf.sigma > 0.0 and distance > 0.0):
        return None
    reach = leaf.rows_per_person * distance * SUM_ROUNDING
    return Slicing(sigma=leaf.sigma, d=1, p=1, sensitivity=reach)


def _rounded_numbers(leaf: Guarantee, at_least: bool) -> int:
    """Count the rounded numbers that one person's records are in: at most, or at least."""
    times = leaf.rows_per_person
    if leaf.mechanism != "slicing":
        # A released sum that was chosen in a round may be the average of two.
        times = 1 if at_least else 2
    return times * (leaf.p or 0)


def _joint_epsilon(
    guarantees: Sequence[Guarantee], adjacency: str, *, at_least: bool = False
) -> float:
    """Epsilon of several releases by `composed_epsilon`; infinite where that does not apply."""
    leaves = leaves_of(guarantees)
    total = _counted_together(leaves, [], adjacency, at_least)
    # What the order of rows adds is no Gaussian profile. Such a release is still the Gaussian
    # mechanism of its sigma, as above; and it is some mechanism of its epsilon and delta. Amplified
    # claims must not be added where they share the randomness that amplifies. Here none do: every
    # release draws an order and a noise of its own, so they compose as any mechanisms.
    ordered = [leaf for leaf in leaves if leaf.amplified_by_order]
    if ordered:
        rest = [leaf for leaf in leaves if not leaf.amplified_by_order]
        total = min(total, _counted_together(rest, ordered, adjacency, at_least))
    return total


def _counted_together(
    gaussian: Sequence[Guarantee], others: Sequence[Guarantee], adjacency: str, at_least: bool
) -> float:
    """`composed_epsilon` of some leaves as Gaussian mechanisms, of others as what they state."""
    parts = []
    describe = {"slicing": _slicing_of, "sums": _sums_of}
    for leaf in gaussian:
        part = describe[leaf.mechanism](leaf, adjacency) if leaf.mechanism in describe else None
        if part is None:
            return math.inf
        parts.append(part)
    if not parts:
        return math.inf
    pairs = []
    for leaf in others:
        stated = leaf.epsilon if adjacency == leaf.adjacency else leaf.epsilon_replace_one
        if stated is None or not math.isfinite(stated):
            return math.inf
        pairs.append((stated, leaf.delta))  # what rounding costs is in both
    whole = math.fsum(leaf.delta for leaf in gaussian) + math.fsum(dlt for _, dlt in pairs)
    if not 0.0 < whole < 1.0:
        return math.inf
    least = math.fsum(dlt for _, dlt in pairs) * (1.0 + 1e-12)

    def exact(target: float) -> float:
        left = math.exp(target)
        return composed_epsilon(left, parts, others=pairs) if left > least else math.inf

    rounding = math.fsum(leaf.epsilon_numerical for leaf in gaussian)
    numbers = sum(_rounded_numbers(leaf, at_least) for leaf in gaussian)
    return computed_epsilon(exact, whole, rounding, numbers, at_least=at_least)[0]
