"""Tables in which a person has several rows: no more of them than a guarantee counts on."""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Hashable, Iterable, Iterator
from typing import overload

import numpy as np
import pandas as pd

from dpslice import _arrays
from dpslice.accounting._adjacency import checked_rows_per_person
from dpslice.tabular.columns import first_place

__all__ = ["limit_rows_per_person"]


@overload
def limit_rows_per_person(df: pd.DataFrame, person: str, rows_per_person: int) -> pd.DataFrame: ...
@overload
def limit_rows_per_person(
    df: Iterable[pd.DataFrame], person: str, rows_per_person: int
) -> Iterator[pd.DataFrame]: ...
def limit_rows_per_person(
    df: pd.DataFrame | Iterable[pd.DataFrame], person: str, rows_per_person: int
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """Leave out the rows of each person beyond the first few, and the column that tells whose.

    Which rows are kept of a person depends on the rows of that person alone, so that tables which
    differ in one person's rows still do afterwards, in `rows_per_person` of them at most. A
    mechanism with that `rows_per_person` then guarantees what it says for people.

    The first rows may not be like the others (the first visits to a doctor, say): put the table
    into a random order before, where that matters.

    Parameters
    ----------
    df : pandas.DataFrame, or iterable of them
        The private table, whole or in pieces (`iter_table`).
    person : str
        Column that tells whose a row is, by values of one kind that can be compared for equality:
        all of them texts, or numbers, say. It says nothing else that is released.
    rows_per_person : int
        How many rows of a person are kept.

    Returns
    -------
    pandas.DataFrame, or iterator of them
        As `df`: the rows that are kept, in their order, without the column. Pieces are made as they
        are asked for; those of which nothing is kept are left out. In memory is, for each person,
        how many rows were seen.

    Raises
    ------
    TypeError
        If `df` is no DataFrame or iterable of them, `person` no text, a value of the column cannot
        be hashed, or values are of several kinds, so that one person may be there twice.
    ValueError
        If `rows_per_person` is out of range, there is no such column, or more than one, or one of
        its values is missing or NaN.

    Notes
    -----
    How many rows were left out is a fact about private rows. Under ``zero_out`` and ``replace_one``
    the number of rows that are kept is taken as public, as ever.

    Examples
    --------
    >>> import pandas as pd
    >>> from dpslice.tabular import limit_rows_per_person
    >>> visits = pd.DataFrame({"patient": ["a", "b", "a", "a"], "weight": [70, 60, 71, 72]})
    >>> limit_rows_per_person(visits, "patient", 2)["weight"].tolist()
    [70, 60, 71]
    """
    _arrays.text("person", person)
    limit = checked_rows_per_person(rows_per_person)
    if isinstance(df, pd.DataFrame):
        return _kept(df, person, limit, {})
    if not isinstance(df, Iterable) or isinstance(df, (str, bytes)):
        raise TypeError(
            f"df must be a DataFrame, or an iterable of them; got {_arrays.describe(df)}"
        )
    return _pieces(df, person, limit)


def _pieces(pieces: Iterable[pd.DataFrame], person: str, limit: int) -> Iterator[pd.DataFrame]:
    seen: dict[Hashable, int] = {}
    for piece in pieces:
        kept = _kept(piece, person, limit, seen)
        if len(kept):
            yield kept


def _kept(piece: pd.DataFrame, person: str, limit: int, seen: dict[Hashable, int]) -> pd.DataFrame:
    """Return the rows of a piece that are kept; `seen` are the rows of each person before it."""
    if not isinstance(piece, pd.DataFrame):
        # By its type alone: it may be a row, of an iterable of rows.
        raise TypeError(f"df must hold DataFrames; got {type(piece).__name__}")
    times = list(piece.columns).count(person)
    if times != 1:
        raise ValueError(
            f"person must name one column of the table; {person!r} is there {times} times"
        )
    whose = piece[person]
    missing = np.asarray(whose.isna(), dtype=bool)
    if missing.any():
        raise ValueError(
            f"column {person!r}: missing values{first_place(whose, missing)}, so that nobody can "
            "tell whose rows these are"
        )
    # By Python's own equality: pandas' factorize reads texts as far as their first NUL, so that
    # people whose texts begin alike would be one, and whose rows are kept would depend on others'.
    people: dict[Hashable, int] = {}
    try:
        number = np.array([people.setdefault(each, len(people)) for each in whose], dtype=np.intp)
    except TypeError:
        raise TypeError(
            f"column {person!r}: must hold values that can be hashed, such as text or numbers"
        ) from None
    _check_equality(person, people, seen)
    before = np.array([seen.get(each, 0) for each in people], dtype=np.int64)
    place = before[number] + pd.Series(number).groupby(number).cumcount().to_numpy()
    counts = before + np.bincount(number, minlength=len(people))
    seen.update(zip(people, counts.tolist(), strict=True))
    return piece.loc[place < limit].drop(columns=person)


def _check_equality(person: str, people: Iterable[Hashable], seen: dict[Hashable, int]) -> None:
    """Raise where equality may not tell whose a row is, among these people or those before them.

    pandas reads numbers of a CSV file as such in one piece, and as texts in another that has a word
    among them: who is 17 in one and "17" in the other would be two people, with twice the rows.
    """
    earlier = next(iter(seen), None)
    kinds = set() if earlier is None else {_kind_of(type(earlier))}
    kinds |= {_kind_of(each) for each in set(map(type, people))}
    if len(kinds) > 1:
        raise TypeError(
            f"column {person!r}: must hold values of one kind, as others may stand for one and the "
            f"same person; got {' and '.join(sorted(kinds))}"
        )
    if any(each != each for each in people):  # NaN, where pandas does not call it missing
        raise ValueError(
            f"column {person!r}: holds NaN, so that nobody can tell whose rows these are"
        )


def _kind_of(value_type: type) -> str:
    """Say what kind of values those of a type are; one kind can be compared for equality."""
    kinds: dict[str, tuple[type, ...]] = {
        "texts": (str,),
        "numbers": (numbers.Number, np.bool_),  # True is 1
        "times": (datetime.datetime,),  # pandas' own among them, but no days without a time
    }
    for kind, types in kinds.items():
        if issubclass(value_type, types):
            return kind
    return f"{value_type.__name__} values"
