"""``dpslice account``: the noise for an epsilon, or the epsilon of a noise; reads no data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpslice import _arrays
from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import (
    DEFAULT_DELTA,
    Adjacency,
    AdjacencyOption,
    DeltaOption,
    JsonOption,
    RowsPerPersonOption,
    load_schema,
)
from dpslice.accounting._comparison import Comparison, compare_slicing
from dpslice.accounting._guarantee import neighbours_of, rounded_up

if TYPE_CHECKING:
    from dpslice.accounting import Guarantee
    from dpslice.tabular.schema import Schema


@app.command(
    epilog=examples(
        "dpslice account --epsilon 5 --delta 1e-6 --dim 94 --columns 94",
        "dpslice account --sigma 0.8 --schema people.toml --adjacency replace_one",
        "dpslice account --epsilon 1 --dim 94 --adjacency replace_one --rows 32561",
    )
)
def account(
    dim: Annotated[
        int | None, typer.Option("--dim", help="Features d of an encoded row (or give --schema).")
    ] = None,
    columns: Annotated[
        int | None, typer.Option("--columns", help="Released columns p. Default: d.")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option("--schema", help="Take d and the bounds on the rows from a schema file."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Of --schema: the target that is to be released. Default: its own."
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Total epsilon wanted: what noise?")
    ] = None,
    sigma: Annotated[
        float | None, typer.Option("--sigma", help="Noise, in the unit of the rows: what epsilon?")
    ] = None,
    delta: DeltaOption = DEFAULT_DELTA,
    adjacency: AdjacencyOption = Adjacency.zero_out,
    rows_per_person: RowsPerPersonOption = 1,
    max_norm: Annotated[
        float | None, typer.Option("--max-norm", help="Bound on the norm of a row. Default: 1.")
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option("--diameter", help="Bound on the distance of two rows. Default: 2 max-norm."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows", "-n", help="Rows n (public): show what counting on their order gives, too."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Convert between noise and guarantee; reads no data.

    Exact accounting of both kinds of frame, what rounding costs included, beside what Theorem 1
    of the paper (arXiv 2410.19941) would need; of a schema, the noise of a release of sums too.
    Under add_remove, of sums alone: --sigma is then the noise on each of a column of weight 1.
    """
    if (epsilon is None) == (sigma is None):
        raise ValueError("exactly one of --epsilon and --sigma must be given")
    if (dim is None) == (schema is None):
        raise ValueError("exactly one of --dim and --schema must be given")
    if target is not None and schema is None:
        raise ValueError("--target is a column of a schema: give --schema")
    if adjacency is Adjacency.add_remove:
        if schema is None:
            raise ValueError("--adjacency add_remove is for releases of sums: give --schema")
        if columns is not None or rows is not None:
            raise ValueError("--columns and --rows are for releases of rows: leave them out")
    if schema is not None:
        if max_norm is not None or diameter is not None:
            raise ValueError("--max-norm and --diameter follow from --schema: leave them out")
        from dpslice.tabular.encoding import Encoding

        description = load_schema(schema, target=target)
        encoding = Encoding(description)
        if encoding.max_norm == 0.0 and (columns is not None or rows is not None):
            raise ValueError(
                f"all rows of {schema} are alike, as no column has two levels: there is no release "
                "of rows; leave out --columns and --rows"
            )
        if adjacency is Adjacency.add_remove or encoding.max_norm == 0.0:
            promise = _account_sums(
                description, epsilon, sigma, delta, adjacency.value, rows_per_person
            )
            _print_sums(promise, {"epsilon": epsilon, "sigma": sigma, "delta": delta}, json)
            return
        dim, max_norm, diameter = encoding.d, encoding.max_norm, encoding.diameter
    d = _arrays.positive_integer("dim", dim)
    p = d if columns is None else _arrays.positive_integer("columns", columns)
    compared = compare_slicing(
        epsilon=epsilon,
        sigma=sigma,
        delta=delta,
        d=d,
        p=p,
        adjacency=adjacency.value,
        max_norm=1.0 if max_norm is None else max_norm,
        diameter=diameter,
        n=rows,
        rows_per_person=rows_per_person,
    )
    sums = None
    if schema is not None and epsilon is not None:
        try:
            sums = _account_sums(
                description, epsilon, None, delta, adjacency.value, rows_per_person
            )
        except ValueError as error:  # what rows can do, sums may not: they are more numbers
            _console.remark(f"of sums, no such release can be made: {error}")
    _print_rows(compared, sums, {"epsilon": epsilon, "sigma": sigma, "delta": delta}, json)


def _account_sums(
    schema: Schema,
    epsilon: float | None,
    sigma: float | None,
    delta: float,
    adjacency: str,
    rows_per_person: int,
) -> Guarantee:
    """Tell what a release of sums of a table of this schema would guarantee."""
    from dpslice.mechanism import SumMechanism
    from dpslice.tabular.discretization import Discretization

    features = Discretization(schema).features()
    return SumMechanism(
        features=features,
        epsilon=epsilon,
        sigma=sigma,
        delta=delta,
        adjacency=adjacency,
        rows_per_person=rows_per_person,
    ).account()


def _print_rows(
    compared: Comparison, sums: Guarantee | None, asked: Mapping[str, float | None], json: bool
) -> None:
    """Print the accounts of a release of rows, and of sums beside it where they are known."""
    common = compared.frames["orthonormal"]
    paper = compared.paper
    if json:
        in_order = compared.in_order
        _console.print_json(
            {
                "asked": asked,
                "d": common.d,
                "p": common.p,
                "adjacency": common.adjacency,
                "max_norm": common.max_norm,
                "diameter": common.diameter,
                "sensitivity": compared.sensitivity,
                "frames": {name: g.to_dict() for name, g in compared.frames.items()},
                **({} if in_order is None else {"amplified_by_order": in_order.to_dict()}),
                **({} if paper is None else {"paper_theorem_1": dataclasses.asdict(paper)}),
                **({} if sums is None else {"sums": sums.to_dict()}),
            }
        )
        return
    print(f"adjacency {common.adjacency}: {neighbours_of(common)}; the number of rows is public")
    print(
        f"delta {rounded_up(common.delta)}, d = {common.d}, p = {common.p}, "
        f"rows of norm at most {common.max_norm:.9g},"
    )
    what = "rows" if common.rows_per_person == 1 else "tables"
    print(f"neighbouring {what} at most {compared.sensitivity:.9g} apart")
    print()
    up = rounded_up
    # What several rows of a person keep in a partial frame is bounded (`slicing_guarantee`).
    partial = common.rows_per_person > 1 and (common.p or 0) % (common.d or 1) != 0
    exact = "bounded" if partial else "exact"
    shown = {f"{name}, {exact}": g for name, g in compared.frames.items()}
    if compared.in_order is not None:
        shown[f"orthonormal, order of {compared.in_order.n} rows"] = compared.in_order
    cells = [
        [
            name,
            up(g.sigma or 0.0),
            "" if paper is None else f"{paper.sigma / (g.sigma or 1.0):.3f}",
            up(g.epsilon),
            "-" if g.epsilon_replace_one is None else up(g.epsilon_replace_one),
            up(g.epsilon_numerical),
        ]
        for name, g in shown.items()
    ]
    if paper is not None:
        cells.append(["gaussian, Theorem 1", up(paper.sigma), "1.000", up(paper.epsilon), "-", "-"])
    replaced = "replace_one epsilon" if common.adjacency == "zero_out" else ""
    beside = "" if paper is None else "Theorem 1's / this"
    header = ["frame", "sigma", beside, "epsilon", replaced, "of it rounding"]
    kept = [i for i, name in enumerate(header) if name]
    _console.print_table([header[i] for i in kept], [[row[i] for i in kept] for row in cells])
    if sums is not None:
        print()
        print(
            f"a release of sums instead: {sums.p} counts, noise {up(sums.sigma or 0.0)} on each "
            "of a column of weight 1"
        )


def _print_sums(promise: Guarantee, asked: Mapping[str, float | None], json: bool) -> None:
    """Print the account of a release of sums, of which no release of rows is the alternative."""
    if json:
        _console.print_json(
            {"asked": asked, "adjacency": promise.adjacency, "sums": promise.to_dict()}
        )
        return
    public = "" if promise.adjacency == "add_remove" else "; the number of rows is public"
    print(f"adjacency {promise.adjacency}: {neighbours_of(promise)}{public}")
    print(f"delta {rounded_up(promise.delta)}, {promise.p} counts,")
    print(f"neighbouring tables at most {promise.sensitivity:.9g} apart")
    print()
    up = rounded_up
    shown = {
        "sigma on each of a column of weight 1": promise.sigma,
        "epsilon": promise.epsilon,
        "replace_one epsilon": promise.epsilon_replace_one,
        "of it rounding": promise.epsilon_numerical,
    }
    known = {name: up(value) for name, value in shown.items() if value is not None}
    _console.print_table(list(known), [list(known.values())])
