"""The benchmarks' peers answer what they are asked: tiny sizes against plain float64 NumPy."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import peers
import quality_peers
import reference
from harness import COMPILED, Case, Counts, Group, Unavailable, check, relative_error
from mixed_tables import SCHEMA, mixed_table
from reference import by_differences

BENCH = Path(peers.__file__).parent
TINY = {"m": 3, "b": 12, "c": 12, "k": 2, "n": 40, "d": 6, "p": 6}
MODULES = {
    "accounting": {},
    "density_ratio": TINY,
    "kernel_sum": TINY,
    "logsumexp": TINY,
    "median_distance": TINY,
    "project": TINY,
    "sliced_wasserstein": TINY,
    "training_step": {"b": 40, "c": 40},
    "release": {"n": 2000, "d": 6},
}
# Peers may warn of what they deprecate or miss.
pytestmark = pytest.mark.filterwarnings("default")

G = 1.3


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.normal(size=(3, 7, 2))) for _ in range(2))
    return x, y, torch.tensor(rng.normal(size=(3, 7)))


@pytest.mark.parametrize("name", MODULES)
def test_contenders_agree(name, keep_threads):
    """Every contender of every kind of case, at tiny sizes, within the tolerance of its file."""
    module = importlib.import_module(f"bench_{name}")
    seen = set()
    for case in module.CASES:
        if (case.build, case.names) in seen or case.series:
            continue
        seen.add((case.build, case.names))
        sizes = {size: MODULES[name].get(size, full) for size, full in case.sizes}
        group = case.build(**sizes)
        for contender in case.names:
            # These compile, which takes longer than all other tests together.
            if contender in (COMPILED, "KeOps"):
                continue
            try:
                made = group.contenders[contender]()
            except Unavailable:
                continue
            assert check(contender, (made.checked or made.call)(), group)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("block", [7, 60, 1 << 16])
def test_strict_pair_kernels(points, log, differences, block):
    x, y, up = points
    found = peers.pair_kernel_strict(x, y, G, up, log=log, block=block, differences=differences)()
    name = "gaussian_kernel_logsumexp" if log else "gaussian_kernel_sum"
    value = getattr(reference, name)(x, y, G)
    _, gradient, _ = getattr(reference, f"{name}_vjp")(x, y, G, None, up)
    assert relative_error(found["value"], value) < 1e-12
    assert relative_error(found["gradient"], gradient) < 1e-12


@pytest.mark.parametrize("block", [1, 100, 1 << 16])
def test_strict_density_ratio(points, block):
    q, p, _ = points
    ridge, sigma, r_min, up = 0.1, 0.4, 1e-3, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def divergence(at):
        r = np.maximum(reference.density_ratio(q, at, G, ridge, sigma), r_min)
        return (r * np.log(r) - r + 1).mean(-1)

    found = peers.density_ratio_kl_strict(q, p, G, ridge, sigma, r_min, up, block=block)()
    gradient = by_differences(lambda at: float(up.numpy() @ divergence(at)), p.numpy().copy())
    assert relative_error(found["value"], divergence(p)) < 1e-12
    assert relative_error(found["gradient"], gradient) < 1e-7
    naive = peers.density_ratio_kl(q, p, G, ridge, sigma, r_min)
    assert relative_error(naive, divergence(p)) < 1e-9  # torch's distances, on the diagonal


def test_strict_sliced_wasserstein(points):
    x, y = points[0][..., 0], points[1][..., 0]
    up = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = peers.sliced_wasserstein_strict(x, y, up, block=14)()
    gradient = by_differences(
        lambda at: float(up.numpy() @ reference.sliced_wasserstein(x, at)), y.numpy().copy()
    )
    assert relative_error(found["value"], reference.sliced_wasserstein(x, y)) < 1e-12
    assert relative_error(found["gradient"], gradient) < 1e-7


@pytest.mark.parametrize("b", [6, 7])
def test_median_distances(b):
    x = torch.tensor(np.random.default_rng(0).normal(size=(3, b, 2)))
    truth = reference.median_distance(x)
    for peer in (peers.median_distance, peers.median_distance_strict):
        assert relative_error(peer(x)()["value"], truth) < 1e-12


def test_gaussian_accounting():
    """The worked formula at epsilon = 0: delta = erf(1 / (2 sqrt 2 sigma))."""
    assert peers.gaussian_delta(0.0, 2.0) == pytest.approx(math.erf(0.25 / math.sqrt(2)), rel=1e-13)
    sigma = peers.gaussian_sigma(3.0, 1e-6)
    assert peers.gaussian_epsilon(1e-6, sigma) == pytest.approx(3.0, rel=1e-10)


def test_a_wrong_answer_is_refused():
    group = Group({}, {"value": np.ones(3)}, {"value": 1e-3}, Counts())
    assert check("peer", {"value": np.ones(3) * (1 + 1e-4)}, group)["value"] < 1e-3
    for wrong in (np.ones(3) * 1.01, np.array([1.0, np.nan, 1.0])):
        with pytest.raises(AssertionError, match="value is off by"):
            check("peer", {"value": wrong}, group)


def test_report(tmp_path, monkeypatch):
    """From two contenders' samples to the report's ratio, share of the floor and files."""
    summarise = importlib.import_module("summarise")
    counts = asdict(Counts(flop=2e6, own_products=1e6, own_lanes=1e6))

    def benchmark(contender, median, threads=1):
        info = {
            "kernel": "project",
            "variant": "fast",
            "sizes": {"n": 10, "d": 3},
            "series": None,
            "contender": contender,
            "threads": threads,
            "error": {"value": 1e-7},
            "counts": counts,
            "facts": {},
        }
        stats = {"median": median, "min": median, "iqr": 0.0, "rounds": 3, "data": [1, 2]}
        return {"extra_info": info, "stats": stats}

    raw = {
        "datetime": "2026-01-02T03:04:05",
        "machine_info": {
            "cpu": {"brand_raw": "A (B) C", "count": 2},
            "python_version": "3",
            "dpslice": {"isa": "avx2", "compiler": "gcc"},
            "versions": {"dpslice": "0", "torch": "0", "numpy": "0"},
            "ceilings": dict.fromkeys(("flop", "lanes", "exp", "key_bytes"), 1e9)
            | {"read_bytes": 1e9, "write_bytes": 1e9},
        },
        "benchmarks": [
            benchmark("dpslice", 4e-3),
            benchmark("dpslice, 2 threads", 2e-3, threads=2),
            benchmark("torch, strict", 12e-3),
            benchmark("torch, as used", 32e-3),
        ],
    }
    source = tmp_path / "raw.json"
    source.write_text(json.dumps(raw))
    monkeypatch.setattr("sys.argv", ["summarise.py", str(source), "--out", str(tmp_path / "out")])
    assert summarise.main() == 0
    text = (tmp_path / "out" / "a-b-c-avx2-2-cores-2026-01-02.md").read_text()
    assert "| project fast | 1 | 3.00 (3.00) | 3.00 | 8.00 |  | 2.00 |" in text
    assert "| dpslice | 4 ms | 1.00 | 1e-07 | 0.002 Gflop | 50% | 75% |" in text
    kept = json.loads((tmp_path / "out" / "a-b-c-avx2-2-cores-2026-01-02.json").read_text())
    assert len(kept["rows"]) == 4
    assert "data" not in kept["rows"][0]


def test_committed_counts_are_of_the_cases():
    instructions = importlib.import_module("instructions")
    names = set(instructions.cases())
    for counts in json.loads((BENCH / "instructions.json").read_text()).values():
        for isa, found in counts.items():
            assert isa in instructions.ISAS
            assert set(found) == names


def test_cases_are_told_apart():
    names = [
        case.id
        for name in MODULES
        for case in importlib.import_module(f"bench_{name}").CASES
        if isinstance(case, Case)
    ]
    assert len(names) == len(set(names))


def test_dp_merf(monkeypatch):
    """A table of every kind of column: features of norm 1, rows of the schema, its shares."""
    monkeypatch.setattr(quality_peers, "STEPS", 150)
    monkeypatch.setattr(quality_peers, "FREQUENCIES", 50)
    monkeypatch.setattr(quality_peers, "BATCH", 200)
    table = mixed_table(4000, 0)
    made, guarantee = quality_peers.dp_merf(SCHEMA, table, 5.0, 1e-5, 0)
    SCHEMA.validate(made)
    assert len(made) == len(table)
    assert (guarantee.epsilon, guarantee.adjacency) == (pytest.approx(5.0, abs=1e-6), "zero_out")
    for name in ("job", "grade", "income"):
        shares = [rows[name].value_counts(normalize=True, dropna=False) for rows in (table, made)]
        assert shares[1].sub(shares[0], fill_value=0.0).abs().max() < 0.06
    assert abs((made["gain"] == 0).mean() - 0.8) < 0.06
    assert abs(made["weight"].isna().mean() - 0.1) < 0.06

    parts = [quality_peers._part(column) for column in SCHEMA if column.name != "income"]
    features = quality_peers._Embedding(parts, 0)(*quality_peers._one_hot_states(parts, table))
    assert relative_error(features.double().square().sum(dim=1), np.ones(len(table))) < 1e-6


def test_missing_peers_are_named(monkeypatch):
    assert quality_peers.missing("sums") is None
    monkeypatch.setitem(quality_peers.NEEDS, "mst", ("no_such_module", "this==1.0"))
    assert quality_peers.missing("mst") == "mst needs no_such_module: pip install this==1.0"


@pytest.mark.slow
def test_smartnoise():
    """Codes go in and come back: what cannot occur does not, and shares are about right."""
    pytest.importorskip("snsynth")
    table = mixed_table(4000, 0)
    made, _ = quality_peers.smartnoise(SCHEMA, table, 5.0, 1e-5, 0, "mst")
    SCHEMA.validate(made)
    assert abs((made["gain"] == 0).mean() - 0.8) < 0.06
    assert abs((made["job"] == "baker").mean() - 0.36) < 0.06


def test_gan_rounds():
    """Labels of teachers are accounted as their own loop does, and no step is beyond epsilon."""
    rounds, each = quality_peers._gan_rounds("pategan", 40000, 1.0, 1e-5)
    assert each == 1
    assert quality_peers._gan_epsilon("pategan", 40000, 1e-5, rounds) <= 1.0
    assert quality_peers._gan_epsilon("pategan", 40000, 1e-5, rounds + 1) > 1.0
    with pytest.raises(ValueError, match="too little"):
        quality_peers._gan_rounds("pategan", 40000, 0.01, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpgan", "dpctgan", "pategan"])
def test_smartnoise_gan(method, monkeypatch):
    """Rows of the schema, after the steps that are paid for, as smartnoise-synth counts them."""
    nn = pytest.importorskip("snsynth.pytorch.nn")
    monkeypatch.setitem(quality_peers.GAN_STEPS, method, 3)  # of DP-SGD one epoch
    stated = []
    if method == "pategan":
        original = nn.pategan.moments_acc
        monkeypatch.setattr(
            nn.pategan, "moments_acc", lambda *given: stated.append(original(*given)) or stated[-1]
        )
    else:
        opacus = importlib.import_module("opacus")
        original = opacus.PrivacyEngine.step
        engines = set()
        monkeypatch.setattr(
            opacus.PrivacyEngine,
            "step",
            lambda engine, *given: engines.add(engine) or original(engine, *given),
        )
    table = mixed_table(4000, 0)
    made, guarantee = quality_peers.smartnoise_gan(SCHEMA, table, 20.0, 1e-5, 0, method)
    SCHEMA.validate(made)
    assert len(made) == len(table)
    if method == "pategan":
        orders = quality_peers.VOTE_ORDERS
        epsilon = ((sum(stated).numpy() - np.log(1e-5)) / orders).min()
    else:
        epsilon = engines.pop().get_privacy_spent(1e-5)[0]
    assert guarantee.epsilon == pytest.approx(epsilon, rel=1e-6)
