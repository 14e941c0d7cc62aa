"""The public description of a table: its columns, and what is said of it as a whole.

A schema is public knowledge: the norm bound of the encoded rows, hence the noise of a release,
follows from it alone. It is written by hand, read from a TOML file or from SDV metadata, or
estimated from the data at a stated privacy cost (`Schema.infer`). Nothing in this module looks at
data in order to choose a type, a category or a bound.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.accounting import Guarantee
from dpslice.tabular._documents import (
    DOCUMENT_KEYS,
    read_document,
    read_guarantee,
    table_keys,
    write_document,
)
from dpslice.tabular.columns import Column, column_from_dict, column_to_dict
from dpslice.tabular.rules import Rule, broken_rules, read_rules
from dpslice.tabular.sdv import sdv_columns, sdv_type

__all__ = ["Schema"]


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order, with what is publicly known of them.

    Parameters
    ----------
    columns : sequence of Categorical, Boolean, Number or Datetime
        The columns; names must differ.
    target : str, optional
        Name of the column that a report's models predict. A public label, nothing more.
    name, description : str, optional
        Words for readers and reports.
    guarantee : Guarantee, optional
        What estimating this schema from private data has cost; None if it is public knowledge.
        It is saved with the schema, and the synthesizer adds it to its own.
    impossible : sequence of mappings, optional
        Rules on what cannot be: public knowledge, never taken from the data. Each maps names of
        columns to values that no row has all at once: a value, a list of values, or a mapping with
        ``min``, ``max`` or both (numbers and datetimes; both ends belong to it), with ``not`` (any
        value but this one, or these), or with ``missing`` (True: a missing value, as None is;
        False: any other). Samples keep to them; releases do not depend on them. Kept as `Rule`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If there is no column, a name occurs twice, or `target` names no column; or if a rule names
        no column, says nothing or something that its column cannot hold, or rules leave no row
        possible, as far as is cheaply seen.

    Examples
    --------
    >>> from dpslice.tabular import Boolean, Number, Schema
    >>> schema = Schema([Number("age", "integer", 17, 90), Boolean("employed")])
    >>> schema.names
    ('age', 'employed')
    >>> retired = {"age": {"min": 80}, "employed": True}
    >>> schema = Schema(schema.columns, impossible=[retired])
    >>> schema.broken_rules(pd.DataFrame({"age": [80, 79], "employed": [True, True]}))
    array([[ True],
           [False]])
    """

    columns: tuple[Column, ...]
    target: str | None = None
    name: str | None = None
    description: str | None = None
    guarantee: Guarantee | None = None
    impossible: tuple[Rule, ...] = ()

    if TYPE_CHECKING:  # what the fields are made of

        def __init__(
            self,
            columns: Sequence[Column],
            target: str | None = None,
            name: str | None = None,
            description: str | None = None,
            guarantee: Guarantee | None = None,
            impossible: Sequence[Rule | Mapping[str, object]] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.columns, (str, Mapping)) or not isinstance(self.columns, Sequence):
            raise TypeError(
                f"columns must be a list of columns; got {_arrays.describe(self.columns)}"
            )
        for column in self.columns:
            if not isinstance(column, Column):
                raise TypeError(
                    "columns must be Categorical, Boolean, Number or Datetime; got "
                    f"{_arrays.describe(column)}"
                )
        _arrays.store(self, columns=tuple(self.columns))
        if not self.columns:
            raise ValueError("columns must hold at least one column; got none")
        repeated = _repeated(self.names)
        if repeated:
            raise ValueError(f"columns must have different names; {repeated[0]!r} occurs twice")
        for key in ("target", "name", "description"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{key} must be a string; got {_arrays.describe(value)}")
        if self.target is not None and self.target not in self.names:
            raise ValueError(f"target must name a column; got {self.target!r}")
        if self.guarantee is not None and not isinstance(self.guarantee, Guarantee):
            raise TypeError(
                f"guarantee must be a Guarantee; got {_arrays.describe(self.guarantee)}"
            )
        _arrays.store(self, impossible=read_rules(self.impossible, self.columns))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    # ------------------------------------------------------------------------ against a table

    def validate(self, df: pd.DataFrame) -> pd.DataFrame:
        """Check a table against the schema and return it in the schema's own form.

        Messages may quote a value of the table: they are for the data holder's eyes.

        Parameters
        ----------
        df : pandas.DataFrame, shape (n, number of columns), n >= 1
            The table. Columns may stand in any order.

        Returns
        -------
        pandas.DataFrame
            A new frame: columns in the schema's order and dtypes, unknown categories mapped to
            `other`, numbers and datetimes clipped to their bounds, index 0 to n - 1. Clipping
            is silent, since how much was clipped is a fact about private rows.

        Raises
        ------
        TypeError
            If `df` is no DataFrame, or a column holds values of the wrong kind.
        ValueError
            If the table is empty, a column is missing, unknown or doubled, or a value breaks
            the schema.
        """
        self.check_columns(df)
        return pd.DataFrame({c.name: c.from_numbers(c.to_numbers(df[c.name])) for c in self})

    def check_columns(self, df: pd.DataFrame) -> None:
        """Check the shape of a table, not its values.

        Parameters
        ----------
        df : pandas.DataFrame
            The table.

        Raises
        ------
        TypeError
            If `df` is no DataFrame.
        ValueError
            If it has no rows, or a column is missing, unknown or doubled.
        """
        _check_frame(df, self.names)
        if len(df) == 0:
            raise ValueError("df must have at least one row; got an empty table")

    def broken_rules(self, df: pd.DataFrame) -> NDArray[np.bool_]:
        """Tell which rows of a table break which rules of `impossible`.

        Values are taken as the schema takes them: clipped to bounds, and on their steps. Of real
        rows the answer is not private.

        Parameters
        ----------
        df : pandas.DataFrame, n rows
            A table; columns that no rule is about may be left out.

        Returns
        -------
        ndarray, shape (n, number of rules), bool

        Raises
        ------
        TypeError
            If `df` is no DataFrame, or a column holds values of the wrong kind.
        ValueError
            If a column is missing, or a value breaks the schema.
        """
        if not isinstance(df, pd.DataFrame):
            raise TypeError(f"df must be a pandas DataFrame; got {type(df).__name__}")
        present = list(df.columns)
        absent = [n for rule in self.impossible for n in rule.columns if present.count(n) != 1]
        if absent:
            raise ValueError(
                f"df must have each column that rules are about once; got {absent[0]!r} "
                f"{present.count(absent[0])} times"
            )
        return broken_rules(df, self.impossible, {column.name: column for column in self})

    def blocks(
        self, df: pd.DataFrame | Iterable[pd.DataFrame], *, block_rows: int
    ) -> Iterator[pd.DataFrame]:
        """Cut a table, whole or in pieces, into blocks of rows.

        Parameters
        ----------
        df : pandas.DataFrame, or iterable of them
            The table; a piece may be empty, but not all of them.
        block_rows : int
            Most rows per block.

        Yields
        ------
        pandas.DataFrame
            Blocks with the schema's columns, none empty.

        Raises
        ------
        TypeError, ValueError
            As `check_columns`; also if there is no row at all.
        """
        block_rows = _arrays.positive_integer("block_rows", block_rows)
        pieces: Iterable[pd.DataFrame] = [df] if isinstance(df, pd.DataFrame) else df
        no_pieces = (str, bytes, Mapping, pd.Series, np.ndarray)  # iterables, of values
        if not isinstance(pieces, Iterable) or isinstance(pieces, no_pieces):
            raise TypeError(
                f"df must be a pandas DataFrame, or an iterable of them; got {type(df).__name__}"
            )
        first_piece = empty = True
        for piece in pieces:
            if first_piece or not isinstance(piece, pd.DataFrame) or len(piece) > 0:
                _check_frame(piece, self.names)
            first_piece = False  # only the first piece must have columns, if it has no rows
            for first in range(0, len(piece), block_rows):
                yield piece.iloc[first : first + block_rows]
                empty = False
        if empty:
            got = "no blocks" if first_piece else "an empty table"
            raise ValueError(f"df must have at least one row; got {got}")

    # ------------------------------------------------------------------------------- as a file

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as a JSON-safe dictionary (dates as ISO 8601 text).

        Returns
        -------
        dict
            ``columns`` is a list, so that the order survives tools that sort keys.
        """
        document: dict[str, Any] = {}
        table = self._table_dict()
        if table:
            document["table"] = table
        document["columns"] = [
            {"name": column.name, **_json_safe(column_to_dict(column))} for column in self
        ]
        if self.impossible:  # without, files are as they were before there were rules
            document["impossible"] = [_json_safe(rule.to_dict()) for rule in self.impossible]
        if self.guarantee is not None:
            document["guarantee"] = self.guarantee.to_dict()
        return document

    def _table_dict(self) -> dict[str, str]:
        values = {key: getattr(self, key) for key in ("name", "description", "target")}
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Schema:
        """Build a schema from `to_dict`'s result, or from the tables of a schema file.

        Parameters
        ----------
        document : mapping
            ``columns``: a list of mappings with ``name``, or a mapping from name to keys;
            optional ``table`` with ``name``, ``description``, ``target``; optional ``guarantee``;
            optional ``impossible``, a list of mappings.

        Returns
        -------
        Schema

        Raises
        ------
        TypeError
            If `document` is no mapping.
        ValueError
            If a key is unknown or missing, a value is of the wrong kind, or the schema contradicts
            itself.
        """
        if not isinstance(document, Mapping):
            raise TypeError(f"document must be a mapping; got {_arrays.describe(document)}")
        unknown = [key for key in document if key not in DOCUMENT_KEYS]
        if unknown:
            raise ValueError(
                "a schema has the tables [table], [columns.<name>], [[impossible]] and "
                f"[guarantee]; got {unknown[0]!r}"
            )
        given = document.get("columns")
        if isinstance(given, Mapping):
            pairs = list(given.items())
        elif isinstance(given, Sequence) and not isinstance(given, str):
            pairs = []
            for entry in given:
                if not isinstance(entry, Mapping) or "name" not in entry:
                    raise ValueError("each entry of columns must be a table with a name")
                pairs.append((entry["name"], {k: v for k, v in entry.items() if k != "name"}))
        else:
            raise ValueError("a schema must have columns ([columns.<name>] tables)")
        table = table_keys(document)
        columns = [column_from_dict(name, keys) for name, keys in pairs]
        try:
            schema = cls(tuple(columns), guarantee=read_guarantee(document), **table)
        except TypeError as error:
            raise ValueError(f"[table]: {error}") from error
        try:
            return dataclasses.replace(schema, impossible=document.get("impossible", ()))
        except TypeError as error:
            raise ValueError(str(error)) from error

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write the schema as a TOML file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            The file.
        overwrite : bool
            Whether an existing file is replaced. If not, and there is one, the new one is written
            beside it, as ``x-1.toml``, and a FileExistsError says so.

        Raises
        ------
        OSError
            If the file cannot be written; an existing one is kept then.
        """
        columns = {column.name: column_to_dict(column) for column in self}
        rules = [rule.to_dict() for rule in self.impossible]
        write_document(
            path,
            self._table_dict(),
            columns,
            self.guarantee,
            impossible=rules,
            overwrite=overwrite,
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Schema:
        """Read a schema file (TOML), or SDV metadata (JSON).

        Parameters
        ----------
        path : str or path-like
            The file. Its content decides, not its name: JSON starts with a brace.
        overrides : mapping of str to mapping, optional
            For SDV metadata: what it does not say, as in `from_sdv_metadata`.

        Returns
        -------
        Schema

        Raises
        ------
        OSError
            If the file cannot be read; FileNotFoundError if there is none.
        TypeError
            If `path` is no path, or `overrides` no mapping.
        ValueError
            If the file is not UTF-8, not TOML or JSON, or no consistent schema; or if `overrides`
            are given for a TOML file.
        """
        document, is_sdv = read_document(path)
        if overrides is not None and not is_sdv:
            raise ValueError("overrides may be given for SDV metadata only, not for a TOML file")
        try:
            if is_sdv:
                return cls.from_sdv_metadata(document, overrides=overrides)
            return cls.from_dict(document)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_sdv_metadata(
        cls,
        metadata: Mapping[str, Any],
        *,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Schema:
        """Build a schema from SDV metadata, which knows types but neither bounds nor categories.

        Nor does it hold rules on what is impossible: ``dataclasses.replace(schema,
        impossible=[...])`` adds them.

        Parameters
        ----------
        metadata : mapping
            SDV metadata of one table (``columns``), or of several tables of which there is one
            (``tables``).
        overrides : mapping of str to mapping, optional
            For each column, keys of a schema file that complete or replace what the metadata
            says: ``{"age": {"min": 17, "max": 90}}``. None as a value drops the column, as
            identifiers must be.

        Returns
        -------
        Schema

        Raises
        ------
        TypeError
            If `metadata` or `overrides` is no mapping.
        ValueError
            If the metadata is malformed, or bounds or categories are still missing. To pay for
            them with privacy budget instead, pass `sdv_types(metadata)` to `Schema.infer`.

        Examples
        --------
        >>> metadata = {"columns": {"smoker": {"sdtype": "boolean"}}}
        >>> Schema.from_sdv_metadata(metadata).columns
        (Boolean(name='smoker', nullable=False, weight=1.0),)
        """
        if overrides is not None and not isinstance(overrides, Mapping):
            raise TypeError(f"overrides must be a mapping; got {_arrays.describe(overrides)}")
        given: Mapping[str, Mapping[str, Any] | None] = overrides if overrides is not None else {}
        known = sdv_columns(metadata)
        stray = [name for name in given if name not in known]
        if stray:
            raise ValueError(f"overrides: the metadata has no column {stray[0]!r}")
        columns: list[Column] = []
        incomplete: list[str] = []
        for name, keys in known.items():
            extra = given.get(name, {})
            if extra is None:
                continue
            merged: dict[str, Any] = {**({} if "type" in extra else sdv_type(name, keys)), **extra}
            needed = {"categorical": ("categories",), "boolean": ()}.get(
                str(merged["type"]), ("min", "max")
            )
            absent = [key for key in needed if key not in merged]
            if absent:
                incomplete.append(f"{name!r} ({', '.join(absent)})")
            else:
                columns.append(column_from_dict(name, merged))
        if incomplete:
            raise ValueError(
                "SDV metadata carries no bounds and no categories; still needed: "
                f"{', '.join(incomplete)}. Give them as overrides, or let Schema.infer estimate "
                "them with part of the privacy budget (types=sdv_types(metadata))"
            )
        return cls(tuple(columns))

    # ------------------------------------------------------------------------------ from data

    @classmethod
    def infer(
        cls,
        df: pd.DataFrame,
        *,
        epsilon: float,
        delta: float,
        types: Mapping[str, str | Column] | Schema | str,
        adjacency: str = "zero_out",
        nullable: bool | Collection[str] = True,
        target: str | None = None,
        prior: Guarantee | None = None,
        impossible: Sequence[Rule | Mapping[str, object]] | None = None,
        rows_per_person: int = 1,
    ) -> Schema:
        """Estimate bounds and categories from private rows, at a stated privacy cost.

        The work and its proof are in ``dpslice.tabular.inference``.

        Parameters
        ----------
        df : pandas.DataFrame, shape (n, number of columns)
            The private table. Its column names, their order and (but under ``add_remove``) n are
            taken as public.
        epsilon, delta : float
            The whole cost, shared by all columns; stated in the result's `guarantee`.
        types : mapping of str to (str or Column), Schema, or "dtypes"
            The public type of every column: integer, real, boolean, datetime (whole seconds),
            date (whole days), categorical (text) or categorical_integer. A Column is taken as
            it is and costs nothing: it must be public, or paid for in `prior`. A Schema stands for
            all its columns and for what it has cost. ``"dtypes"``: the caller declares the frame's
            dtypes to be public knowledge; dtypes that a CSV reader guessed from the values are not.
        adjacency : {"zero_out", "replace_one", "add_remove"}
            Which tables count as neighbours: those of the release that the schema is for.
        nullable : bool or collection of str
            Which columns may have missing values: public knowledge; all by default, since
            whether some value is missing is a fact about private rows.
        target : str, optional
            Target column to note in the schema. Default: that of `types`, if it is a Schema.
        prior : Guarantee, optional
            What was spent on these rows before, where columns in `types` come from an inferred
            schema (its `guarantee`); it becomes part of the result's.
        impossible : sequence of mappings, optional
            Rules to note in the schema, about columns that `types` describes completely, and
            booleans. Default: those of `types`, if it is a Schema.
        rows_per_person : int
            Rows that one person has at most: the guarantee is for all of them together. That of
            the release that the schema is for.

        Returns
        -------
        Schema
            With `guarantee` set (None if no column needed the data, now or before).

        Raises
        ------
        TypeError
            If a column does not hold values of its type.
        ValueError
            If arguments are out of range, types are missing or unknown, or a rule is about a column
            that is still to be estimated.
        InferenceError
            If the budget is too small to find anything in some columns. It is spent; the error,
            a ValueError, holds what was found in the others.
        """
        from dpslice.tabular.inference import infer_schema

        return infer_schema(
            df,
            epsilon=epsilon,
            delta=delta,
            types=types,
            adjacency=adjacency,
            nullable=nullable,
            target=target,
            prior=prior,
            impossible=impossible,
            rows_per_person=rows_per_person,
        )


def _json_safe(value: Any) -> Any:
    """Return what a schema file holds, with dates as ISO 8601 text."""
    if isinstance(value, Mapping):
        return {key: _json_safe(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json_safe(each) for each in value]
    return value.isoformat() if isinstance(value, datetime.date) else value


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _check_frame(df: pd.DataFrame, names: Sequence[str]) -> None:
    """Check that a frame has exactly these columns, once each."""
    if not isinstance(df, pd.DataFrame):
        # By its type alone: it may be a row, of an iterable of rows.
        raise TypeError(f"df must be a pandas DataFrame; got {type(df).__name__}")
    present = list(df.columns)
    doubled = _repeated(present)
    if doubled:
        raise ValueError(f"df must have each column once; {doubled[0]!r} occurs twice")
    absent = [name for name in names if name not in present]
    if absent:
        raise ValueError(f"df must have every column of the schema; missing: {_quoted(absent)}")
    extra = [name for name in present if name not in names]
    if extra:
        raise ValueError(
            f"df must have no column beyond the schema's; got {_quoted(extra)} (drop it, or add "
            "it to the schema)"
        )
