"""Releases on disk: round trips, every kind of damage, and writing that is whole or not at all."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpslice import _storage, accounting, frames
from dpslice import release as release_module
from dpslice.accounting import Guarantee
from dpslice.adaptive import AdaptiveSumMechanism
from dpslice.features import MarginalSums
from dpslice.mechanism import SlicingMechanism, SumMechanism
from dpslice.release import Release, ReleaseError, RowRelease, SumRelease

PROMISE = Guarantee(epsilon=1.0, delta=1e-6, adjacency="zero_out", mechanism="test")


def make(
    n: int = 40,
    d: int = 5,
    p: int = 5,
    *,
    kind: str = "orthonormal",
    dtype: type = np.float32,
    seed: int = 0,
    **options: Any,
) -> Release:
    rng = np.random.default_rng(seed)
    return RowRelease(
        frames.make_frame(kind, d, p, seed),
        rng.normal(size=(n, p)).astype(dtype),
        1.5,
        options.pop("guarantee", PROMISE),
        frame_kind=kind,
        **options,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "people.dpslice"
    make(metadata={"source": "test"}).save(path)
    return path


def edit_certificate(path: Path, change: Callable[[dict[str, Any]], Any], *, sign: bool) -> None:
    """Change the certificate, and put its checksum right if `sign`: a skilled forger's edit."""
    file = path / "certificate.json"
    content = json.loads(file.read_text())
    change(content)
    if sign:
        content["certificate_sha256"] = release_module._certificate_digest(content)
    file.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------- round trips


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 50),
    d=st.integers(1, 12),
    p=st.integers(1, 30),
    kind=st.sampled_from(["orthonormal", "gaussian"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    mmap=st.booleans(),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    d: int,
    p: int,
    kind: str,
    dtype: type,
    mmap: bool,
) -> None:
    path = tmp_path_factory.mktemp("r") / "x.dpslice"
    release = make(n, d, p, kind=kind, dtype=dtype, metadata={"a": [1, 2.5, None, {"b": "ü"}]})
    release.save(path)
    loaded = Release.load(path, mmap=mmap)
    np.testing.assert_array_equal(loaded.frame, release.frame)
    np.testing.assert_array_equal(loaded.projections, release.projections)
    assert loaded.projections.dtype == dtype
    assert isinstance(loaded.projections, np.memmap) == mmap
    for name in ("n", "d", "p", "kind", "frame_kind", "sigma", "guarantee", "metadata"):
        assert getattr(loaded, name) == getattr(release, name)
    assert loaded.fingerprint == release.fingerprint
    loaded.verify()
    again = path.with_name("y.dpslice")
    loaded.save(again)
    for name in os.listdir(path):
        assert (path / name).read_bytes() == (again / name).read_bytes()


def test_mechanism_writes_what_save_would(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(-0.2, 0.2, (300, 4))
    mechanism = SlicingMechanism(epsilon=1.0, delta=1e-6, n_slices=6, seed=1)
    release = mechanism.release(rows, path=tmp_path / "a", block_rows=70, metadata={"x": 1})
    assert isinstance(release.projections, np.memmap)
    assert release.metadata == {"x": 1}
    release.verify()
    release.save(tmp_path / "b")
    for name in ("certificate.json", "frame.npy", "projections.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert np.load(tmp_path / "a" / "projections.npy", allow_pickle=False).shape == (300, 6)


def test_fingerprint_tells_releases_apart() -> None:
    releases = [
        make(),
        make(seed=1),
        make(n=41),
        make(metadata={"a": 1}),
        make(guarantee=Guarantee(epsilon=2.0, delta=1e-6, adjacency="zero_out", mechanism="test")),
    ]
    assert len({release.fingerprint for release in releases}) == len(releases)
    assert make().fingerprint == make().fingerprint


def test_repr_states_no_less_than_the_guarantee() -> None:
    promise = dataclasses.replace(PROMISE, epsilon=2.0000001, delta=1.0000001e-6)
    sums = SumRelease(MarginalSums((2,), [(0,)]), np.ones(2), 1.5, promise, n=promise.n)
    for release in (make(guarantee=promise), sums):
        assert "epsilon=2.00001, delta=1.00001e-06)" in repr(release)


def test_release_states_itself() -> None:
    release = make(7, 3, 3)
    assert len(release) == 7
    assert repr(release).startswith("RowRelease(n=7, d=3, p=3, frame_kind='orthonormal'")
    with pytest.raises(ValueError, match="read-only"):
        release.projections[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        release.frame[0, 0] = 1.0
    metadata = release.metadata
    metadata["b"] = 1
    assert release.metadata == {}


# ---------------------------------------------------------------------------------------- refusals


def test_parts_must_fit() -> None:
    frame, rows = np.eye(3), np.zeros((4, 3), np.float32)

    def build(frame: Any = frame, rows: Any = rows, sigma: Any = 1.0, **options: Any) -> Release:
        guarantee = options.pop("guarantee", PROMISE)
        return RowRelease(
            frame, rows, sigma, guarantee, **({"frame_kind": "orthonormal"} | options)
        )

    build()
    with pytest.raises(ReleaseError, match=r"as many columns as the frame \(3\)"):
        build(rows=np.zeros((4, 2), np.float32))
    with pytest.raises(ReleaseError, match="at least one row, feature and column"):
        build(rows=np.zeros((0, 3), np.float32))
    with pytest.raises(ReleaseError, match="said to be orthonormal, but its columns are not"):
        build(frame=np.diag([1.0, 1.0, 1.0 + 1e-6]))
    with pytest.raises(TypeError, match="frame must be a NumPy array; got"):
        build(frame=[[1.0]])
    with pytest.raises(TypeError, match="frame must have dtype float64; got float32"):
        build(frame=np.eye(3, dtype=np.float32))
    with pytest.raises(
        TypeError, match="projections must have dtype float32 or float64; got int64"
    ):
        build(rows=np.zeros((4, 3), np.int64))
    with pytest.raises(ValueError, match="projections must have two axes"):
        build(rows=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="sigma must be a finite number > 0"):
        build(sigma=0.0)
    with pytest.raises(TypeError, match="guarantee must be a Guarantee"):
        build(guarantee={"epsilon": 1.0})
    with pytest.raises(ValueError, match="frame_kind must be one of orthonormal, gaussian"):
        build(frame_kind="haar")
    with pytest.raises(TypeError, match="metadata must hold only what JSON can hold"):
        build(metadata={"x": np.zeros(2)})
    with pytest.raises(TypeError, match="metadata must hold only what JSON can hold"):
        build(metadata={"x": float("nan")})


@pytest.mark.parametrize(
    ("fact", "value", "message"),
    [
        ("n", 41, "it says n = 41, this one has 40"),
        ("d", 4, "it says d = 4, this one has 5"),
        ("p", 9, "it says p = 9, this one has 5"),
        ("frame", "gaussian", "it says frame = gaussian, this one has orthonormal"),
        ("sigma", 1.4, "it says sigma = 1.4, this one has 1.5"),
    ],
)
def test_guarantee_must_be_about_this_release(fact: str, value: object, message: str) -> None:
    other = Guarantee.from_dict(PROMISE.to_dict() | {fact: value})
    with pytest.raises(ReleaseError, match=message):
        make(guarantee=other)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"there is no release at .* no such directory"):
        Release.load(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReleaseError, match=r"there is no release at .*: it is a file"):
        Release.load(tmp_path / "file")
    with pytest.raises(
        ReleaseError, match=r"no release, or an incomplete one: no certificate.json"
    ):
        Release.load(tmp_path)


@pytest.mark.parametrize("name", ["frame.npy", "projections.npy", "certificate.json"])
def test_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ReleaseError, match=f"incomplete.*{name}"):
        Release.load(saved)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", ["frame.npy", "projections.npy"])
@pytest.mark.parametrize("keep", [0, 5, 60, 130, -1])
def test_truncated_array(saved: Path, name: str, keep: int, verify: bool) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:keep])
    with pytest.raises(ReleaseError, match=f"{name} is damaged or truncated"):
        Release.load(saved, verify=verify)


@pytest.mark.parametrize(("at", "byte"), [(10, b"\0"), (21, b","), (26, b"b")])
def test_header_that_the_reader_of_numpy_trips_over(saved: Path, at: int, byte: bytes) -> None:
    """What it raises there is no ValueError."""
    content = bytearray((saved / "frame.npy").read_bytes())
    content[at : at + 1] = byte
    (saved / "frame.npy").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"frame.npy is damaged or truncated"):
        Release.load(saved)


@pytest.mark.parametrize("keep", [0, 1, 100, -3])
def test_truncated_certificate(saved: Path, keep: int) -> None:
    content = (saved / "certificate.json").read_bytes()
    (saved / "certificate.json").write_bytes(content[:keep])
    with pytest.raises(
        ReleaseError, match=r"certificate.json is damaged or truncated: it is not JSON"
    ):
        Release.load(saved)


def test_certificate_nested_beyond_reason(saved: Path) -> None:
    path = saved / "certificate.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ReleaseError, match=r"certificate.json is no certificate: it is nested"):
        Release.load(saved)
    inner = Guarantee(epsilon=1.0, delta=1e-6, adjacency="zero_out", mechanism="test")
    record = inner.to_dict()
    for _ in range(101):
        record = {**inner.to_dict(), "parts": [record]}
    with pytest.raises(ValueError, match="parts of a guarantee must be nested at most 100 deep"):
        Guarantee.from_dict(record)


def test_certificate_that_is_no_text(saved: Path) -> None:
    (saved / "certificate.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReleaseError, match=r"certificate.json is damaged or truncated"):
        Release.load(saved)


@pytest.mark.parametrize("name", ["frame.npy", "projections.npy"])
def test_altered_array(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[-8] ^= 1  # the lowest bit of the last number of the frame
    (saved / name).write_bytes(content)
    with pytest.raises(ReleaseError, match=f"{name} has been altered or damaged: its checksum"):
        Release.load(saved)
    unchecked = Release.load(saved, verify=False)
    with pytest.raises(ReleaseError, match=f"{name} has been altered or damaged"):
        unchecked.verify()


def test_appended_bytes_are_noticed(saved: Path) -> None:
    with open(saved / "projections.npy", "ab") as file:
        file.write(b"\0" * 8)
    with pytest.raises(ReleaseError, match=r"projections.npy has been altered"):
        Release.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(sigma=0.1),
        lambda c: c["guarantee"].update(epsilon=0.01),
        lambda c: c["files"].update({"frame.npy": "0" * 64}),
        lambda c: c.update(metadata={}),
    ],
)
def test_altered_certificate(saved: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit_certificate(saved, change, sign=False)
    with pytest.raises(ReleaseError, match=r"certificate.json has been altered: its checksum"):
        Release.load(saved)


@pytest.mark.parametrize("sign", [True, False])
def test_newer_format(saved: Path, sign: bool) -> None:
    edit_certificate(saved, lambda c: c.update(format_version=2, novelty=1), sign=sign)
    with pytest.raises(
        ReleaseError,
        match=r"written by a newer dpslice \(format version 2; this one reads up to 1\)",
    ):
        Release.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "is not the certificate of a dpslice release"),
        (lambda c: c.update(format_version="1"), "has no valid format_version; got '1'"),
        (lambda c: c.update(format_version=0), "has no valid format_version; got 0"),
        (lambda c: c.pop("sigma"), r"lacks the entries \['sigma'\]"),
        (lambda c: c.update(more=1), r"has unknown ones \['more'\]"),
        (lambda c: c.update(n="40"), "is inconsistent: n must be an integer"),
        (lambda c: c.update(dtype="float16"), "is inconsistent: dtype must be one of"),
        (lambda c: c.update(files={}), "is inconsistent: the list of files is not valid"),
        (lambda c: c.update(sigma=-1.0), "is inconsistent: sigma must be a finite number > 0"),
        (lambda c: c.update(kind="sums"), r"lacks the entries \['features'\]"),
        (lambda c: c.update(kind="maps"), "of an unknown kind of release: 'maps'"),
        (lambda c: c.update(frame_kind="x"), "is inconsistent: frame_kind must be one of"),
        (lambda c: c["guarantee"].pop("delta"), "is inconsistent: the guarantee has no entry"),
        (lambda c: c["guarantee"].update(n=3), "is inconsistent: the guarantee is about another"),
        (lambda c: c.update(metadata=[]), "is inconsistent: metadata must be a mapping"),
        (
            lambda c: c.update(n=41),
            r"projections.npy holds a float32 array of shape \(40, 5\), where",
        ),
        (lambda c: c.update(d=4), r"frame.npy holds a float64 array of shape \(5, 5\), where"),
        (lambda c: c.update(dtype="float64"), r"projections.npy holds a float32 array of shape"),
    ],
)
def test_inconsistent_certificate(
    saved: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit_certificate(saved, change, sign=True)
    with pytest.raises(ReleaseError, match=message):
        Release.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["guarantee"].update(epsilon=0.5), "claims more than its numbers give"),
        (lambda c: c["guarantee"].update(n=10**6), "what rounding costs is too small"),
        (lambda c: c["guarantee"].update(n=2999), "claims more than its numbers give"),
        (lambda c: c["guarantee"].update(sensitivity=1.9), "sensitivity is too small for its"),
        (lambda c: c["guarantee"].update(sigma=100.0), "the guarantee is about another release"),
        (lambda c: c["guarantee"].update(amplified_by_order=0), "must be True or False"),
    ],
)
def test_claim_of_the_order_is_computed_again(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "x.dpslice"
    mechanism = SlicingMechanism(
        epsilon=1.0, delta=1e-6, adjacency="replace_one", amplify_by_order=True
    )
    made = mechanism.release(np.zeros((3000, 4)), path=path)
    assert made.guarantee.amplified_by_order
    assert Release.load(path).guarantee == made.guarantee
    edit_certificate(path, change, sign=True)
    with pytest.raises(ReleaseError, match=message):
        Release.load(path)


@pytest.mark.parametrize("kind", ["rows", "gaussian rows", "seeded rows", "sums", "rounds"])
def test_what_a_certificate_states_is_computed_again(tmp_path: Path, kind: str) -> None:
    path, rows = tmp_path / "x.dpslice", 0.1 * np.ones((300, 4))
    codes = np.zeros((300, 2), np.int64)
    features = MarginalSums((2, 3), [(0,), (1,)])
    if kind == "sums":
        SumMechanism(features=features, epsilon=2.0, delta=1e-6).release(codes, path=path)
    elif kind == "rounds":
        AdaptiveSumMechanism(
            features=features, candidates=[(0, 1)], rounds=1, epsilon=2.0, delta=1e-6
        ).release(codes, lambda release, groups: [np.ones((2, 3)) for _ in groups], path=path)
    else:
        SlicingMechanism(
            epsilon=2.0,
            delta=1e-6,
            frame="orthonormal" if kind == "rows" else "gaussian",
            n_slices=8,
            seed=1 if kind == "seeded rows" else None,
        ).release(rows, path=path)
    assert Release.load(path).guarantee.epsilon == 2.0

    def refused(message: str, **entries: object) -> None:
        before = (path / "certificate.json").read_text()
        edit_certificate(path, lambda c: c["guarantee"].update(entries), sign=True)
        with pytest.raises(ReleaseError, match=message):
            Release.load(path)
        (path / "certificate.json").write_text(before)

    too_small = "claims more than its numbers give: epsilon"
    refused(too_small, epsilon=1.99)
    refused(too_small, delta=5e-7)
    refused(f"{too_small}_replace_one", epsilon_replace_one=2.0)
    stated = Release.load(path).guarantee
    assert stated.max_norm is not None
    if kind in ("sums", "rounds"):
        half = stated.max_norm / 2
        refused("norm of records' is at most", max_norm=half, sensitivity=half)
        refused("distance of records' is at most", diameter=0.5)
    if kind == "seeded rows":
        assert stated.frame_norm is not None
        refused("is about another frame", frame_norm=stated.frame_norm * 0.99)


def test_what_was_composed_is_computed_again() -> None:
    one = SlicingMechanism(epsilon=1.0, delta=1e-6).account(3)
    record = Guarantee.compose(one, one).to_dict()
    assert Guarantee.from_dict(record).composition == "joint"
    with pytest.raises(ValueError, match="its numbers give: epsilon must be at least"):
        Guarantee.from_dict({**record, "epsilon": record["epsilon"] * 0.99})
    with pytest.raises(ValueError, match="its numbers give: delta must be at least"):
        Guarantee.from_dict({**record, "delta": 1e-6})
    with pytest.raises(ValueError, match="its numbers give: epsilon must be at least"):
        Guarantee.from_dict({**record, "parts": record["parts"][:1], "epsilon": 0.01})
    # What is composed is how far neighbours are apart by the bounds, not what is said of it.
    with pytest.raises(ValueError, match="its numbers give: sensitivity must be at least 1; got"):
        Guarantee.from_dict({**one.to_dict(), "sensitivity": 1e-3})
    closer = dataclasses.replace(one, sensitivity=1e-3)
    assert Guarantee.compose(closer, closer).epsilon == Guarantee.compose(one, one).epsilon


def test_a_whole_promises_under_the_adjacency_of_its_parts_alone() -> None:
    """What they add up to under one is no promise under another."""
    one = SlicingMechanism(epsilon=1.0, delta=1e-6).account(3)
    record = Guarantee.compose(one, one).to_dict()
    stronger = {**record, "adjacency": "replace_one", "epsilon": 2.0, "epsilon_replace_one": None}
    with pytest.raises(ValueError, match="parts of a guarantee must have its adjacency"):
        Guarantee.from_dict(stronger)


CERTIFICATES = json.loads(
    (Path(__file__).parent / "data" / "certificates_before_2026-11-27.json").read_text()
)


@pytest.mark.parametrize("record", CERTIFICATES, ids=lambda record: record["mechanism"])
def test_certificates_of_earlier_versions_are_read(record: dict[str, Any]) -> None:
    """They were charged a little less for rounding: by 0.2 % of epsilon = 30, here."""
    guarantee = Guarantee.from_dict(record)
    assert guarantee.to_dict() == record
    now = accounting.computed_again(guarantee)
    assert now is not None
    assert now.epsilon >= guarantee.epsilon * (1 - 1e-6) or guarantee.amplified_by_order
    with pytest.raises(ValueError, match="claims more than its numbers give: epsilon"):
        Guarantee.from_dict({**record, "epsilon": record["epsilon"] * 0.99})


def test_infinity_is_no_number_of_json(saved: Path) -> None:
    file = saved / "certificate.json"
    file.write_text(file.read_text().replace('"sigma": 1.5', '"sigma": Infinity'))
    with pytest.raises(ReleaseError, match="Infinity is no number of JSON"):
        Release.load(saved)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400, "1" * 5000])
def test_numbers_beyond_float64_in_a_certificate(saved: Path, number: str) -> None:
    file = saved / "certificate.json"
    content = json.loads(file.read_text())
    content["sigma"] = 4321.5
    forged = json.dumps(content)
    if len(number) == 400:  # Python reads and writes it, so that even its checksum can be made
        edit_certificate(saved, lambda c: c.update(sigma=int(number)), sign=True)
    else:
        file.write_text(forged.replace("4321.5", number))
    with pytest.raises(ReleaseError, match=r"certificate\.json"):
        Release.load(saved)


@pytest.mark.parametrize("count", [1e20, 1e100])
def test_sums_that_no_table_has(count: float) -> None:
    features = MarginalSums((2, 3), [(0,), (1,)])
    mechanism = SumMechanism(features=features, epsilon=2.0, delta=1e-6, adjacency="add_remove")
    made = mechanism.release(np.zeros((30, 2), np.int64))
    forged = SumRelease(features, np.full(5, count), made.sigma, made.guarantee)
    with pytest.raises(ReleaseError, match="sums must be such as a table can have"):
        forged.estimated_n  # noqa: B018 -- a property that raises
    with pytest.raises(ReleaseError, match=r"sums must lie within ±1e\+100; got one of 1e\+300"):
        SumRelease(features, np.full(5, -1e300), made.sigma, made.guarantee)
    for shape in ((6,), (1, 5), ()):
        with pytest.raises(ReleaseError, match=r"sums must have shape \(5,\), a number for each"):
            SumRelease(features, np.ones(shape), made.sigma, made.guarantee)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["frame", "projections"])
def test_numbers_of_a_release_are_finite(part: str, bad: float) -> None:
    arrays = {"frame": frames.make_frame("gaussian", 3, 4, 0), "projections": np.zeros((9000, 4))}
    arrays[part][-1, 2] = bad
    with np.errstate(invalid="ignore"), pytest.raises(ReleaseError, match=f"{part} must be finite"):
        RowRelease(arrays["frame"], arrays["projections"], 1.5, PROMISE, frame_kind="gaussian")


def test_what_is_not_finite_on_disk_is_found_by_verifying(saved: Path) -> None:
    values = np.load(saved / "projections.npy")
    values[3, 2] = np.nan
    np.save(saved / "projections.npy", values)
    digest = _storage.file_digest(saved / "projections.npy")
    edit_certificate(saved, lambda c: c["files"].update({"projections.npy": digest}), sign=True)
    with pytest.raises(ReleaseError, match=r"projections.npy must be finite"):
        Release.load(saved)
    with pytest.raises(ReleaseError, match=r"projections must be finite"):
        Release.load(saved, verify=False, mmap=False)
    mapped = Release.load(saved, verify=False)  # which does not read the rows
    with pytest.raises(ReleaseError, match=r"projections.npy must be finite"):
        mapped.verify()


@pytest.mark.parametrize("name", ["mmap", "verify"])
def test_how_to_load_is_true_or_false(saved: Path, name: str) -> None:
    """Or "no" would verify, and None would not."""
    for value in ("no", None, 0):
        with pytest.raises(TypeError, match=f"{name} must be True or False"):
            Release.load(saved, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["rows", "sums"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_copies_are_read_only_too(
    kind: str, copied: Callable[[Release], Release], tmp_path: Path
) -> None:
    if kind == "rows":
        release = make()
    else:
        features = MarginalSums((2, 3), [(0,), (1,)])
        mechanism = SumMechanism(features=features, epsilon=2.0, delta=1e-6)
        release = mechanism.release(np.zeros((30, 2), np.int64))
    release.save(tmp_path / "r")
    for one in (release, Release.load(tmp_path / "r")):
        again = copied(one)
        assert again.fingerprint == release.fingerprint
        arrays = (again.sums,) if kind == "sums" else (again.frame, again.projections)
        for array in arrays:
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0.0


def test_pickles_are_never_read(saved: Path) -> None:
    np.save(saved / "frame.npy", np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(ReleaseError, match=r"frame.npy is damaged or truncated"):
        Release.load(saved, verify=False)


# ------------------------------------------------------------------------------ whole or not at all


def test_nobody_else_sees_a_release_before_it_is_whole(tmp_path: Path) -> None:
    """Until they are shuffled, rows lie on disk in the order of the table."""
    seen = []

    def look(_: int) -> None:
        (partial,) = tmp_path.glob(".*.partial")
        seen.append(partial.stat().st_mode & 0o777)

    umask = os.umask(0o027)
    try:
        SlicingMechanism(epsilon=1.0, delta=1e-6, amplify_by_order=True).release(
            np.zeros((30, 3)), path=tmp_path / "x.dpslice", block_rows=10, progress=look
        )
    finally:
        os.umask(umask)
    assert seen == [0o700] * len(seen) != []
    assert (tmp_path / "x.dpslice").stat().st_mode & 0o777 == 0o750


def test_existing_release_is_kept_unless_told(saved: Path) -> None:
    old = Release.load(saved)
    new = make(seed=9)
    with pytest.raises(TypeError, match="overwrite must be True or False; got 'no'"):
        new.save(saved, overwrite="no")  # type: ignore[arg-type]
    with pytest.raises(FileExistsError, match="exists already; pass overwrite=True to replace it"):
        new.save(saved)
    with pytest.raises(FileExistsError, match="exists already"):
        SlicingMechanism(sigma=1.0).release(np.zeros((3, 2)), path=saved)
    assert Release.load(saved).fingerprint == old.fingerprint
    new.save(saved, overwrite=True)
    assert Release.load(saved).fingerprint == new.fingerprint
    SlicingMechanism(sigma=1.0).release(np.zeros((3, 2)), path=saved, overwrite=True)
    assert Release.load(saved).n == 3
    assert os.listdir(saved.parent) == [saved.name]


def test_what_appears_at_the_target_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "x.dpslice"

    def publish() -> None:
        with _storage.publishing(target, overwrite=False) as partial:
            (partial / "certificate.json").touch()
            target.mkdir()
            (target / "of someone else").touch()

    with pytest.raises(FileExistsError, match="exists already"):
        publish()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert [path.name for path in target.iterdir()] == ["of someone else"]


def test_what_appears_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes that release to one place, one is told; neither's release is replaced."""
    target = tmp_path / "x.dpslice"
    look, looks = _storage.refuse_existing, []

    def looked(path: Path, *, overwrite: bool) -> None:
        look(path, overwrite=overwrite)
        looks.append(path)
        if len(looks) == 2:  # before and after the release is made
            target.mkdir()
            (target / "certificate.json").write_text("of the other")

    monkeypatch.setattr(_storage, "refuse_existing", looked)
    with pytest.raises(FileExistsError, match="exists already"):
        make().save(target)
    assert len(looks) == 2
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert (target / "certificate.json").read_text() == "of the other"


def test_rows_are_not_read_if_the_target_exists(saved: Path) -> None:
    def blocks() -> Iterator[Any]:
        raise AssertionError("private rows were read")
        yield

    with pytest.raises(FileExistsError, match="exists already"):
        SlicingMechanism(sigma=1.0).release(blocks(), path=saved)


def test_only_releases_are_overwritten(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("x")
    with pytest.raises(ReleaseError, match=r"exists and is no release .* it is not overwritten"):
        make().save(home, overwrite=True)
    with pytest.raises(ReleaseError, match="exists and is no release"):
        SlicingMechanism(sigma=1.0).release(np.zeros((3, 2)), path=home, overwrite=True)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(FileExistsError, match="exists and is no directory; it is not overwritten"):
        make().save(file, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"there is no directory .* to save r in"):
        make().save(tmp_path / "missing" / "r")
    assert (home / "thesis.tex").read_text() == file.read_text() == "x"


@pytest.mark.parametrize("kind", ["file", "folder", "file of the other kind that is a folder"])
def test_releases_with_anything_else_beside_them_are_not_overwritten(
    saved: Path, kind: str
) -> None:
    if kind == "file":
        mine = saved / "people.csv"
    else:
        folder = saved / ("notes" if kind == "folder" else "sums.npy")
        folder.mkdir()
        mine = folder / "thesis.tex"
    mine.write_text("unique")
    old = Release.load(saved)
    message = r"holds '(people\.csv|notes|sums\.npy)' besides a release; it is not overwritten"
    with pytest.raises(ReleaseError, match=message):
        make(seed=9).save(saved, overwrite=True)
    with pytest.raises(ReleaseError, match=message):
        SlicingMechanism(sigma=1.0).release(np.zeros((3, 2)), path=saved, overwrite=True)
    assert mine.read_text() == "unique"
    assert Release.load(saved).fingerprint == old.fingerprint


def test_a_release_of_the_other_kind_is_overwritten(saved: Path) -> None:
    features = MarginalSums((2, 3), [(0,), (1,)])
    mechanism = SumMechanism(features=features, epsilon=2.0, delta=1e-6)
    mechanism.release(np.zeros((30, 2), np.int64), path=saved, overwrite=True)
    assert Release.load(saved).kind == "sums"
    make().save(saved, overwrite=True)
    assert Release.load(saved).kind == "rows"


def test_what_is_put_beside_a_release_while_it_is_replaced_is_kept(saved: Path) -> None:
    with _storage.publishing(saved, overwrite=True) as directory:
        new = make(seed=9)
        new.write_files(directory)
        (saved / "notes").mkdir()
        (saved / "notes" / "thesis.tex").write_text("unique")
    assert Release.load(saved).fingerprint == new.fingerprint
    assert (saved / "notes" / "thesis.tex").read_text() == "unique"
    assert os.listdir(saved.parent) == [saved.name]


def test_overwriting_works_without_an_exchange_of_names(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_storage.sys, "platform", "other")
    new = make(seed=9)
    new.save(saved, overwrite=True)
    assert Release.load(saved).fingerprint == new.fingerprint
    assert os.listdir(saved.parent) == [saved.name]


def test_old_release_comes_back_if_the_new_one_cannot_be_renamed(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Release.load(saved).fingerprint
    monkeypatch.setattr(_storage.sys, "platform", "other")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if source.name.endswith(".partial") and target == saved:
            raise OSError(errno.EIO, "input/output error")
        rename(source, target)

    monkeypatch.setattr(_storage.os, "rename", failing)
    with pytest.raises(OSError, match="input/output error"):
        make(seed=9).save(saved, overwrite=True)
    assert Release.load(saved).fingerprint == old
    assert os.listdir(saved.parent) == [saved.name]


class Failing:
    """Stands for a function: works `times` times, then raises."""

    def __init__(self, function: Callable[..., Any], times: int, error: BaseException) -> None:
        self.function, self.times, self.error = function, times, error

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.times == 0:
            raise self.error
        self.times -= 1
        return self.function(*args, **options)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), OSError(errno.EIO, "broken")])
@pytest.mark.parametrize(
    ("where", "times"),
    [
        ((_storage.NpyWriter, "append"), 0),
        ((_storage.NpyWriter, "append"), 3),
        ((_storage.NpyWriter, "close"), 0),
        ((_storage, "write_npy"), 0),
        ((_storage, "file_digest"), 1),
        ((_storage, "flush_to_disk"), 0),
        ((_storage, "flush_to_disk"), 3),
        ((_storage.os, "rename"), 0),
        ((release_module, "write_certificate"), 0),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_release_that_fails_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: tuple[Any, str],
    times: int,
    error: BaseException,
    there: bool,
) -> None:
    target = tmp_path / "r.dpslice"
    old = make()
    if there:
        old.save(target)
        if where[1] == "rename":
            monkeypatch.setattr(_storage.sys, "platform", "other")
    owner, name = where
    monkeypatch.setattr(owner, name, _bound(owner, name, times, error))
    with pytest.raises(type(error)) as caught:
        SlicingMechanism(sigma=1.0).release(
            np.zeros((50, 3)), path=target, block_rows=10, overwrite=there
        )
    if error is FULL:
        assert "no space left on the device to write" in str(caught.value)
        assert "it was not published" in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ([target.name] if there else [])
    if there:
        assert Release.load(target).fingerprint == old.fingerprint


def _bound(owner: Any, name: str, times: int, error: BaseException) -> Any:
    failing = Failing(getattr(owner, name), times, error)
    if isinstance(owner, type):
        return lambda self, *args: failing(self, *args)
    return failing


@pytest.mark.parametrize("times", [0, 1])
def test_a_save_that_fails_leaves_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    before = Release.load(saved).fingerprint
    monkeypatch.setattr(_storage, "write_npy", Failing(_storage.write_npy, times, FULL))
    with pytest.raises(OSError, match=r"no space left on the device to write .*other"):
        make().save(saved.with_name("other"))
    with pytest.raises(OSError, match="no space left on the device"):
        make(seed=4).save(saved, overwrite=True)
    assert os.listdir(saved.parent) == [saved.name]
    assert Release.load(saved).fingerprint == before


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    # A limit on the size of files stands in for the disk: the write itself fails, in the system.
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from dpslice.mechanism import SlicingMechanism\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "mechanism = SlicingMechanism(sigma=1.0)\n"
        "try:\n"
        "    mechanism.release(np.zeros((20_000, 4)), path=sys.argv[1], block_rows=500)\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no space left on the device to write" in run.stdout
    assert os.listdir(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done == 20:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        SlicingMechanism(sigma=1.0).release(
            np.zeros((50, 3)), path=tmp_path / "r", block_rows=10, progress=interrupt
        )
    assert os.listdir(tmp_path) == []


def test_an_error_in_the_rows_leaves_nothing(tmp_path: Path) -> None:
    rows = np.zeros((50, 3))
    rows[44] = np.nan
    with pytest.raises(ValueError, match="in row 44, column 0"):
        SlicingMechanism(sigma=1.0).release(rows, path=tmp_path / "r", block_rows=10)

    def broken() -> Iterator[Any]:
        yield rows[:10]
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError, match="the database went away"):
        SlicingMechanism(sigma=1.0).release(broken(), path=tmp_path / "r")
    assert os.listdir(tmp_path) == []


def test_a_killed_process_publishes_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, numpy as np\n"
        "from dpslice.mechanism import SlicingMechanism\n"
        "def kill(done):\n"
        "    if done == 30:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "SlicingMechanism(sigma=1.0).release(\n"
        "    np.zeros((50, 3)), path=sys.argv[1], block_rows=10, progress=kill)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], check=False)
    assert run.returncode == -signal.SIGKILL
    left = os.listdir(tmp_path)
    assert len(left) == 1
    assert left[0].startswith(".r.")
    assert left[0].endswith(".partial")
    with pytest.raises(ReleaseError, match="there is no release at"):
        Release.load(tmp_path / "r")


# ------------------------------------------------------------------------------------------ slices


def test_fixed_slices_are_consecutive_columns() -> None:
    release = make(10, 6, 11, kind="gaussian")
    slices = release.slices(3)
    assert (slices.n_slices, slices.slice_dim) == (3, 3)
    np.testing.assert_array_equal(slices.columns, np.arange(9).reshape(3, 3))
    for s in range(3):
        np.testing.assert_array_equal(slices.frame[s], release.frame[:, 3 * s : 3 * s + 3])
    assert release.slices(2, 4).columns.shape == (4, 2)
    assert release.slices(11).frame.shape == (1, 6, 11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "slice_dim must be an integer >= 1; got 0"),
        ((6,), r"slice_dim must be at most p, the number of released columns \(5\); got 6"),
        ((2, 3), r"n_slices \* slice_dim must be at most p, .* \(5\); got 3 \* 2 = 6"),
        ((2, 0), "n_slices must be an integer >= 1; got 0"),
    ],
)
def test_slices_that_do_not_exist(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().slices(*arguments)
    with pytest.raises(TypeError, match="slice_dim must be an integer"):
        make().slices(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("p", "k", "m"), [(6, 1, 50), (6, 3, 4), (4, 4, 2), (1, 1, 3)])
def test_reslicing_gives_orthonormal_directions_of_the_rows(p: int, k: int, m: int) -> None:
    x = np.random.default_rng(0).normal(size=(30, 6))
    frame = frames.make_frame("orthonormal", 6, p, 1)
    release = RowRelease(frame, x @ frame, 1.5, PROMISE, frame_kind="orthonormal")
    w, directions = release.reslice(k, m, np.random.default_rng(2))
    assert w.shape == (m, p, k)
    assert directions.shape == (m, 6, k)
    for s in range(m):
        np.testing.assert_allclose(w[s].T @ w[s], np.eye(k), atol=1e-13)
        np.testing.assert_allclose(directions[s].T @ directions[s], np.eye(k), atol=1e-13)
        np.testing.assert_allclose(release.projections @ w[s], x @ directions[s], atol=1e-12)
    again = release.reslice(k, m, np.random.default_rng(2))[0]
    np.testing.assert_array_equal(again, w)


def test_resliced_noise_is_as_large_and_as_white() -> None:
    # V W for white V: variance sigma^2, uncorrelated; fixed seeds, bounds at 6 standard errors.
    rng = np.random.default_rng(3)
    n, d = 40_000, 5
    frame = frames.make_frame("orthonormal", d, d, 1)
    release = RowRelease(
        frame, 1.5 * rng.normal(size=(n, d)), 1.5, PROMISE, frame_kind="orthonormal"
    )
    w, _ = release.reslice(3, 4, rng)
    for s in range(4):
        covariance = np.cov((release.projections @ w[s]).T)
        assert np.abs(covariance - 2.25 * np.eye(3)).max() < 6 * 2.25 * np.sqrt(2 / n)


def test_reslicing_needs_orthonormal_columns() -> None:
    rng = np.random.default_rng(0)
    for release in (make(10, 5, 5, kind="gaussian"), make(10, 5, 10)):
        with pytest.raises(
            ValueError, match="re-slicing needs a release with an orthonormal frame"
        ):
            release.reslice(2, 3, rng)
    with pytest.raises(ValueError, match=r"slice_dim must be at most p, .* \(5\); got 6"):
        make().reslice(6, 1, rng)
    with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator"):
        make().reslice(2, 3, 7)  # type: ignore[arg-type]
