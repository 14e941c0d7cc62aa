"""Sum releases: exact accounting, noise, exact addition, files, and what they do not tell."""

from __future__ import annotations

import inspect
import json
import math
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import dpslice
from dpslice import (
    Guarantee,
    MarginalSums,
    Release,
    ReleaseError,
    RowRelease,
    SecondMoments,
    SlicingMechanism,
    SumMechanism,
    SumRelease,
    accounting,
)
from dpslice import mechanism as mechanism_module
from gaussian_mechanism import gaussian_delta
from random_reference import secure_normal_pair

FEATURES = MarginalSums((3, 4), [(0,), (1,), (0, 1)], [1.0, 2.0, 0.5])


def _codes(n: int = 1000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, 3, n), rng.integers(0, 4, n)], axis=1)


def _mechanism(**options: object) -> SumMechanism:
    given: dict = {"epsilon": 2.0, "delta": 1e-6} | options
    return SumMechanism(features=FEATURES, **given)


# ----------------------------------------------------------------------------------- accounting


def test_no_less_is_stated_than_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = accounting.calibrate_sums
    monkeypatch.setattr(
        accounting, "calibrate_sums", lambda epsilon, **how: 0.5 * right(epsilon, **how)
    )
    assert _mechanism(epsilon=1.0).account().epsilon > 1.5


@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-8), (1.0, 1e-6), (5.0, 1e-5)])
def test_epsilon_is_that_of_the_gaussian_mechanism(
    adjacency: str, epsilon: float, delta: float
) -> None:
    """Against the exact profile in SciPy, at the sigma and sensitivity that are stated."""
    promise = _mechanism(epsilon=epsilon, delta=delta, adjacency=adjacency).account()
    reach = FEATURES.diameter if adjacency == "replace_one" else FEATURES.norm
    assert promise.sensitivity == pytest.approx(reach, rel=1e-12)
    mu = promise.sensitivity / promise.sigma
    exact = gaussian_delta(epsilon, mu)
    assert exact < delta  # never less noise than needed ...
    assert exact == pytest.approx(delta, rel=1e-6, abs=0)  # ... and hardly more
    assert promise.epsilon == epsilon


def test_epsilon_agrees_with_dp_accounting() -> None:
    gaussian = pytest.importorskip("dp_accounting.dp_event")
    from dp_accounting.pld import PLDAccountant

    promise = _mechanism(epsilon=None, sigma=3.0, adjacency="add_remove").account()
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(gaussian.GaussianDpEvent(3.0 / FEATURES.norm))
    assert promise.epsilon == pytest.approx(accountant.get_epsilon(1e-6), abs=2e-4)


def test_replace_one_is_stated_beside_the_others() -> None:
    weak = _mechanism(epsilon=None, sigma=3.0).account()
    strong = _mechanism(epsilon=None, sigma=3.0, adjacency="replace_one").account()
    assert weak.epsilon_replace_one == strong.epsilon > weak.epsilon
    assert strong.epsilon_replace_one is None
    assert "Delta" in str(weak)
    assert "tables' sums" in str(weak)


def test_rounding_costs_what_is_stated() -> None:
    promise = _mechanism().account()
    assert promise.epsilon_numerical == pytest.approx(2.2e-10 * FEATURES.n_cells)
    assert promise.delta_numerical == FEATURES.n_cells * 2.0**-70
    large = SumMechanism(features=MarginalSums((1000, 1000), [(0, 1)]), epsilon=2e-4, delta=1e-6)
    with pytest.raises(ValueError, match="epsilon must exceed what rounding needs"):
        large.account()


def test_weights_whose_squares_underflow() -> None:
    features = MarginalSums((2,), [(0,)], [2.7e-162])
    assert features.norm == 2.7e-162
    assert "counts nowhere" in str(_mechanism().account())


def test_releases_compose() -> None:
    one = _mechanism(epsilon=None, sigma=3.0).account(n=1000)
    both = Guarantee.compose(one, one)
    joint = _mechanism(epsilon=None, sigma=3.0 / math.sqrt(2.0), delta=2e-6).account()
    assert both.composition == "joint"
    assert both.epsilon == pytest.approx(joint.epsilon, rel=1e-6)
    rows = SlicingMechanism(sigma=3.0, delta=1e-6).account(4, n=1000)
    mixed = Guarantee.compose(one, rows)
    assert mixed.composition == "joint"
    assert max(one.epsilon, rows.epsilon) < mixed.epsilon < one.epsilon + rows.epsilon
    with pytest.raises(ValueError, match="same adjacency"):
        Guarantee.compose(_mechanism(adjacency="add_remove").account(), rows)


# ------------------------------------------------------------------------------------- sampling


def _sampled_delta(epsilon: float, mu: float, rate: float) -> float:
    """Delta of the mechanism on a sample: both orders, by quadrature over the densities."""
    grid = np.linspace(-40.0, 40.0 + mu, 2_000_001)
    without = stats.norm.pdf(grid)
    record = (1.0 - rate) * without + rate * stats.norm.pdf(grid - mu)
    step = grid[1] - grid[0]
    return max(
        step * np.maximum(record - math.exp(epsilon) * without, 0.0).sum(),
        step * np.maximum(without - math.exp(epsilon) * record, 0.0).sum(),
    )


@pytest.mark.parametrize("adjacency", ["zero_out", "add_remove"])
@pytest.mark.parametrize(
    ("epsilon", "delta", "rate"),
    [(0.1, 1e-4, 0.5), (1.0, 1e-5, 0.1), (1.0, 1e-5, 0.9), (5.0, 1e-6, 0.01), (8.0, 1e-3, 0.3)],
)
def test_sampled_epsilon_is_exact(
    adjacency: str, epsilon: float, delta: float, rate: float
) -> None:
    promise = _mechanism(
        epsilon=epsilon, delta=delta, adjacency=adjacency, sampling_rate=rate
    ).account()
    exact = _sampled_delta(epsilon, promise.sensitivity / promise.sigma, rate)
    assert exact < delta * (1.0 + 1e-7)  # never less noise than needed ...
    assert exact == pytest.approx(delta, rel=1e-4)  # ... and hardly more
    back = _mechanism(
        epsilon=None, sigma=promise.sigma, delta=delta, adjacency=adjacency, sampling_rate=rate
    ).account()
    assert back.epsilon <= epsilon
    assert back.epsilon == pytest.approx(epsilon, rel=1e-7)


def test_sampled_epsilon_agrees_with_dp_accounting() -> None:
    event = pytest.importorskip("dp_accounting.dp_event")
    from dp_accounting.pld import PLDAccountant

    promise = _mechanism(
        epsilon=None, sigma=2.0, adjacency="add_remove", sampling_rate=0.2
    ).account()
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(event.PoissonSampledDpEvent(0.2, event.GaussianDpEvent(2.0 / FEATURES.norm)))
    assert promise.epsilon == pytest.approx(accountant.get_epsilon(1e-6), abs=2e-4)


def test_sampling_takes_the_share_that_it_states() -> None:
    """Five standard deviations of the binomial count; nothing tells that count."""
    codes = np.zeros((100_000, 2), dtype=np.int64)
    counts = []
    release = _mechanism(epsilon=None, sigma=0.01, sampling_rate=0.3).release(
        codes, progress=counts.append
    )
    assert abs(release.sums[0] - 30_000) < 5.0 * math.sqrt(100_000 * 0.21)
    assert release.n == release.estimated_n == 100_000
    assert counts == [100_000]
    again = [
        _mechanism(epsilon=None, sigma=0.01, sampling_rate=0.3).release(codes).sums[0]
        for _ in range(4)
    ]
    assert np.ptp([release.sums[0], *again]) > 1.0  # other samples; alike once in 1e9 runs
    hidden = _mechanism(
        epsilon=None, sigma=0.01, sampling_rate=0.3, adjacency="add_remove"
    ).release(codes)
    assert hidden.estimated_n == pytest.approx(100_000, rel=0.03)  # six deviations


def test_every_record_is_sampled_by_itself() -> None:
    """Share and neighbours of four million records; error rate 1e-8, at a rate wrong by 0.5 %."""
    taken = mechanism_module._sampled(4_000_000, 0.3)
    scaled = (taken - 0.3) / math.sqrt(0.21)
    assert abs(scaled.mean()) * math.sqrt(taken.size) < 6.0
    for lag in (1, 2, 8, 64):
        assert abs(np.mean(scaled[lag:] * scaled[:-lag])) * math.sqrt(taken.size - lag) < 6.0


def test_sampling_is_on_the_certificate(tmp_path: Path) -> None:
    mechanism = _mechanism(sampling_rate=0.25)
    promise = mechanism.account()
    assert promise.sampling_rate == 0.25
    assert promise.epsilon_replace_one is None
    assert "which ones did is secret" in str(promise)
    assert promise.sigma < _mechanism().account().sigma
    mechanism.release(_codes(), path=tmp_path / "p.dpslice")
    assert Release.load(tmp_path / "p.dpslice").guarantee.sampling_rate == 0.25
    assert Guarantee.from_dict(promise.to_dict()) == promise
    # Without sampling the entry is left out, as by versions that did not know it.
    assert "sampling_rate" not in _mechanism().account().to_dict()
    # The joint law of sampled parts is not that of Gaussian ones: epsilons add up.
    assert Guarantee.compose(promise, _mechanism().account()).composition == "basic"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"adjacency": "replace_one", "sampling_rate": 0.5}, "None under replace_one"),
        ({"sampling_rate": 1.0}, "sampling_rate must be strictly between 0 and 1"),
        ({"sampling_rate": 1e-7}, "sampling_rate must be above delta"),
    ],
)
def test_sampling_that_cannot_be_accounted_is_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        _mechanism(**options).account()


# ------------------------------------------------------------------------------- exact addition


@settings(deadline=None, max_examples=300)
@given(st.integers(-(2**93), 2**93), st.integers(-20, 120))
def test_sums_are_divided_exactly(value: int, shift: int) -> None:
    """Against Python's integers: whole part rounded down, and the rest to a rounding error."""
    whole, rest = Fraction(value) // Fraction(2) ** shift, Fraction(value) % Fraction(2) ** shift
    if abs(whole) >= 2**52:
        return  # sums are bounded so that this cannot be
    high, low = np.array([value >> 32]), np.array([value & 0xFFFFFFFF])
    got, left = mechanism_module._divided(high, low, np.array([shift]))
    expected = float(whole) + float(rest / Fraction(2) ** shift)
    assert 0.0 <= left[0] <= 1.0 or (shift > 94 and abs(left[0]) < 1.0)
    if shift <= 94:
        assert got[0] == whole
    assert float(got[0]) + left[0] == pytest.approx(expected, rel=1e-15, abs=1e-15)


def test_sums_beyond_64_bits_are_exact() -> None:
    """A table that fills the integers many times over, through the same addition."""
    features = SecondMoments(1, constant=0.0)
    total = mechanism_module.ExactSums(features)
    unit = features.sum(np.ones((1, 1)))
    assert unit[0] == 2**44
    for _ in range(100):
        total.add(unit * features.most_records, features.most_records)
    total._settle()
    exact = (int(total._high[0]) << 32) + int(total._low[0])
    assert exact == 100 * features.most_records * 2**44 > 2**63
    noisy = total.with_noise(1.0)[0]
    assert abs(noisy - 100 * features.most_records) < 8.0


def test_every_random_bit_makes_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 bytes a pair: each bit by itself, against 300 bits of precision; nothing is left over."""
    words = np.zeros((193, 6), np.uint32)
    for bit in range(192):
        words[bit, bit // 32] = 1 << bit % 32
    drawn = words.tobytes()

    def urandom(size: int) -> bytes:
        assert size == len(drawn)
        return drawn

    monkeypatch.setattr(mechanism_module.os, "urandom", urandom)
    pairs = mechanism_module._normals(2 * len(words)).reshape(-1, 2).tolist()
    for pair, each in zip(pairs, words.tolist(), strict=True):
        radius, *exact = secure_normal_pair(each)
        for normal, truth in zip(pair, exact, strict=True):
            assert abs(normal - truth) <= 4 * 2.0**-53 * radius


@pytest.mark.parametrize("sigma", [0.7, 3e3, 1e6, 3e12, 1e15])
def test_every_word_of_a_sum_and_of_its_noise_counts(
    sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """h round((S + V) / h) in 300 bits: each of 500 sums of up to 62 bits, all bits of each V."""
    cells = 500
    total = mechanism_module.ExactSums(MarginalSums((cells,), [(0,)]))
    rng = np.random.default_rng(0)
    bits = min(62, 40 + math.frexp(sigma)[1])  # the result has to fit float64
    sums = rng.integers(-(2**bits), 2**bits, cells)
    total._low += sums
    drawn = rng.bytes(12 * cells)
    monkeypatch.setattr(mechanism_module.os, "urandom", lambda size: drawn[:size])
    found = total.with_noise(sigma)
    words = np.frombuffer(drawn, np.uint32).reshape(-1, 6).tolist()
    normals = [normal for each in words for normal in secure_normal_pair(each)[1:]]
    grid = Fraction(2) ** (math.floor(math.log2(sigma)) - 10)
    with mpmath.workprec(300):
        for one, exact, normal in zip(found.tolist(), sums.tolist(), normals, strict=True):
            steps = (exact + mpmath.mpf(sigma) * normal) * grid.denominator / grid.numerator
            assert Fraction(one) == int(mpmath.nint(steps)) * grid


# ------------------------------------------------------------------------------------- releases


@pytest.mark.usefixtures("account_once")
def test_noise_is_gaussian_and_on_its_grid() -> None:
    """Kolmogorov-Smirnov over 19,000 numbers; the error rate is 1e-8, twice."""
    codes = _codes()
    exact = FEATURES.sum(codes)
    releases = [_mechanism(epsilon=None, sigma=7.0).release(codes) for _ in range(1000)]
    noise = np.stack([release.sums - exact for release in releases])  # [1000, 19]
    scale = releases[0].noise
    np.testing.assert_array_equal(scale, 7.0 / FEATURES.cell_weights())
    for column in range(noise.shape[1]):
        grid = 2.0 ** (math.floor(math.log2(scale[column])) - 10)
        steps = noise[:, column] / grid
        np.testing.assert_array_equal(steps, np.rint(steps))
    assert stats.kstest((noise / scale).ravel(), "norm").pvalue > 1e-8
    correlation = np.corrcoef((noise / scale).T)
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 6.7 / math.sqrt(1000)  # 171 pairs, below 6e-11 each


def test_noise_of_very_many_sums_has_its_size() -> None:
    """Moments and correlations over 2^20 numbers, at six standard errors each: error rate 3e-8.

    A standard deviation that is wrong by 1 % is found, and noise that is used again.
    """
    features = MarginalSums((1024, 1024), [(0, 1)])
    release = SumMechanism(features=features, sigma=3.0).release(np.zeros((1, 2), dtype=int))
    noise = release.sums / 3.0
    noise[0] -= 1.0 / 3.0
    n = noise.size
    assert n > 4 * mechanism_module._NOISE_CHUNK
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(noise**power) - moment) < 6.0 * math.sqrt(variance / n) + 1e-6, power
    for values in (noise, (noise**2 - 1.0) / math.sqrt(2.0)):
        for lag in (1, 2, 3, 1024, 2 * mechanism_module._NOISE_CHUNK):
            product = np.mean(values[lag:] * values[:-lag])
            assert abs(product) * math.sqrt(n - lag) < 6.0, lag


def test_large_noise_has_whole_steps() -> None:
    release = _mechanism(epsilon=None, sigma=1e5).release(_codes())
    steps = release.sums / 2.0 ** (np.floor(np.log2(release.noise)) - 10)
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert np.abs(release.sums / release.noise).max() < 6.0


def test_blocks_iterators_and_memory_maps_are_one_table(tmp_path: Path) -> None:
    codes = _codes(500)
    np.save(tmp_path / "codes.npy", codes.astype(np.int16))
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    tiny = _mechanism(epsilon=None, sigma=2.0**-7)  # noise far below a count of one
    exact = FEATURES.sum(codes)
    done: list[int] = []
    for source, options in (
        (codes, {}),
        (codes, {"block_rows": 7, "progress": done.append}),
        (iter([codes[:100], codes[100:100], codes[100:]]), {}),
        (mapped, {"block_rows": 64}),
    ):
        release = tiny.release(source, **options)
        np.testing.assert_array_equal(np.rint(release.sums), exact)
        assert release.n == 500
    assert done == [*range(7, 500, 7), 500]


def test_saved_release_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "p.dpslice"
    release = _mechanism().release(_codes(), path=path, metadata={"what": "test"})
    loaded = Release.load(path)
    assert isinstance(loaded, SumRelease)
    assert loaded.kind == "sums"
    np.testing.assert_array_equal(loaded.sums, release.sums)
    assert loaded.features == FEATURES
    assert loaded.guarantee == release.guarantee
    assert loaded.metadata == {"what": "test"}
    assert loaded.fingerprint == release.fingerprint
    assert not loaded.sums.flags.writeable
    loaded.verify()
    loaded.save(tmp_path / "again.dpslice")
    assert sorted(p.name for p in path.iterdir()) == ["certificate.json", "sums.npy"]
    assert (tmp_path / "again.dpslice" / "sums.npy").read_bytes() == (
        path / "sums.npy"
    ).read_bytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(n=7), "it says n = 1000, this one has 7"),
        (lambda c: c.update(sigma=9.0), "it says sigma"),
        (lambda c: c["features"].update(map="moments"), "unknown map"),
        (
            lambda c: c["features"].update(sizes=[3, 5]),
            r"certificate says float64 of shape \(23, 1\)",
        ),
        (lambda c: c.update(files={}), "list of files is not valid"),
        (lambda c: c.pop("features"), "lacks the entries"),
    ],
)
def test_inconsistent_certificates_are_refused(change, match: str, tmp_path: Path) -> None:
    from dpslice import release as module

    path = tmp_path / "p.dpslice"
    _mechanism().release(_codes(), path=path)
    certificate = json.loads((path / "certificate.json").read_text())
    change(certificate)
    certificate["certificate_sha256"] = module._certificate_digest(certificate)
    (path / "certificate.json").write_text(json.dumps(certificate))
    with pytest.raises(ReleaseError, match=match):
        Release.load(path)


def test_damaged_sums_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.dpslice"
    _mechanism().release(_codes(), path=path)
    content = bytearray((path / "sums.npy").read_bytes())
    content[-1] ^= 1
    (path / "sums.npy").write_bytes(content)
    with pytest.raises(ReleaseError, match="altered or damaged"):
        Release.load(path)


def test_the_kinds_say_what_they_do_not_have() -> None:
    sums = _mechanism().release(_codes())
    rows = SlicingMechanism(sigma=1.0).release(np.ones((4, 2)) / 2)
    for name in ("frame", "projections", "frame_kind", "slices", "reslice", "__len__"):
        assert (hasattr(rows, name), hasattr(sums, name)) == (True, False), name
    for name in ("sums", "features", "noise"):
        assert (hasattr(rows, name), hasattr(sums, name)) == (False, True), name
    assert rows.estimated_n == 4
    assert sums.estimated_n == 1000


def test_a_protected_number_of_records_is_an_attribute_that_is_not_there() -> None:
    sums = _mechanism(adjacency="add_remove").release(_codes())
    assert sums
    with pytest.raises(ReleaseError, match="the number of records is protected by this release"):
        sums.n  # noqa: B018
    assert not hasattr(sums, "n")
    assert dict(inspect.getmembers(sums))["kind"] == "sums"


def test_each_class_loads_its_own_kind(tmp_path: Path) -> None:
    made = {
        RowRelease: SlicingMechanism(sigma=1.0).release(np.ones((4, 2)) / 2),
        SumRelease: _mechanism().release(_codes()),
    }
    for kind, release in made.items():
        path = tmp_path / release.kind
        release.save(path)
        assert type(release) is type(Release.load(path)) is type(kind.load(path)) is kind
    with pytest.raises(ReleaseError, match="holds a release of sums, no RowRelease"):
        RowRelease.load(tmp_path / "sums")
    with pytest.raises(ReleaseError, match="holds a release of rows, no SumRelease"):
        SumRelease.load(tmp_path / "rows")
    with pytest.raises(TypeError, match="abstract"):
        Release()  # type: ignore[abstract]


def test_nothing_is_left_of_a_failed_release(tmp_path: Path) -> None:
    def broken():
        yield _codes(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _mechanism().release(broken(), path=tmp_path / "p.dpslice")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "p.dpslice").mkdir()
    with pytest.raises(ReleaseError, match="is no release"):
        _mechanism().release(_codes(), path=tmp_path / "p.dpslice", overwrite=True)
    _mechanism().release(_codes(), path=tmp_path / "q.dpslice")
    read = iter([_codes()])
    with pytest.raises(FileExistsError, match="exists already"):
        _mechanism().release(read, path=tmp_path / "q.dpslice")
    assert next(read) is not None  # nothing was read, so nothing was spent


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"features": None}, TypeError, "features must be a feature map; got None"),
        ({"sigma": 1.0}, ValueError, "exactly one of epsilon and sigma must be given; got both"),
        ({"epsilon": None}, ValueError, "got neither"),
        ({"delta": None}, ValueError, "delta must be given together with epsilon"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be a finite number > 0"),
        ({"delta": 1.0}, ValueError, "delta must be strictly between 0 and 1"),
        ({"sampling_rate": 5.0}, ValueError, "sampling_rate must be strictly between 0 and 1"),
        ({"sampling_rate": "a"}, TypeError, "sampling_rate"),
        ({"adjacency": "swap"}, ValueError, "adjacency must be one of zero_out, replace_one, add"),
    ],
)
def test_bad_settings_are_refused(options: dict, error: type[Exception], match: str) -> None:
    given = {"features": FEATURES, "epsilon": 1.0, "delta": 1e-6} | options
    with pytest.raises(error, match=match):
        SumMechanism(**given)


def test_budgets_beyond_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="epsilon must exceed what rounding needs"):
        _mechanism(epsilon=1e-12).account()
    with pytest.raises(ValueError, match="delta must exceed what rounding needs"):
        _mechanism(delta=1e-30).account()
    with pytest.raises(ValueError, match=r"sigma must be at least 2\*\*-9 times the norm"):
        _mechanism(epsilon=None, sigma=FEATURES.norm / 513.0).account()
    assert _mechanism(epsilon=None, sigma=FEATURES.norm / 512.0).account().epsilon == math.inf
    with pytest.raises(ValueError, match="noise on a sum must lie between"):
        _mechanism(epsilon=None, sigma=1e200).account()


@pytest.mark.parametrize(
    ("table", "error", "match"),
    [
        (np.zeros((0, 2), dtype=int), ValueError, "X must have at least one row; got none"),
        (iter([]), ValueError, "X must have at least one row; got none"),
        (np.zeros((3, 2)), TypeError, "X must be a NumPy array of integer codes"),
        (np.int64(3), TypeError, "X must be a NumPy array of integer codes"),
        ("codes.npy", TypeError, "X must be an array of records or an iterable of such blocks"),
        ([[0, 1]], TypeError, "a block of X must be a NumPy array of integer codes"),
        (np.ma.masked_equal(_codes(5), 1), TypeError, "X must be a plain array; got a masked one"),
        (
            iter([_codes(5), np.array([[0, 4]])]),
            ValueError,
            "a block of X.*row 5 has 4 in column 1",
        ),
    ],
)
def test_bad_tables_are_refused(table: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        _mechanism().release(table)


def test_one_record_is_a_table() -> None:
    release = _mechanism().release(np.array([[2, 3]]))
    assert release.n == 1
    assert release.estimated_n == 1


def test_n_is_not_stated_under_add_remove() -> None:
    promise = _mechanism(adjacency="add_remove").account(n=1000)
    assert promise.n is None
    with pytest.raises(ValueError, match="n must not be stated under add_remove"):
        Guarantee(epsilon=1.0, delta=1e-6, adjacency="add_remove", mechanism="sums", n=5)


def test_public_names() -> None:
    names = {"CustomFeatures", "KernelSums", "MarginalSums", "SecondMoments", "SumMechanism"}
    assert names | {"FeatureMap", "SumRelease"} <= set(dpslice.__all__)
