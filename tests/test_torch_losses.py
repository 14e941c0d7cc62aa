"""The losses: formulas, noise, slices, batches, random state, errors."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import torch_reference as reference
from dpslice import MarginalSums, SumMechanism
from dpslice.divergences import Divergence
from dpslice.release import Release, RowRelease
from dpslice.torch import SlicedDivergence, SlicedWasserstein, SmoothedLikelihood, fit, functional
from releases import gaussian_rows, make_release

F64 = torch.float64
SIGMA = 0.3


@pytest.fixture(scope="module")
def release() -> Release:
    return make_release(gaussian_rows(60, 5), SIGMA)


@pytest.fixture(scope="module")
def wide_release() -> Release:
    return make_release(gaussian_rows(60, 4), SIGMA, p=10, frame_kind="gaussian")


def synthetic(c: int = 40, d: int = 5, *, seed: int = 7, dtype: torch.dtype = F64) -> Tensor:
    return torch.from_numpy(gaussian_rows(c, d, seed=seed)).to(dtype).requires_grad_()


def sliced(release: Release, x: Tensor, k: int, m: int) -> tuple[Tensor, Tensor]:
    """Cut released and synthetic rows into fixed slices, column group by column group."""
    released = torch.from_numpy(np.array(release.projections, dtype=np.float64))
    projected = x @ torch.from_numpy(np.array(release.frame))
    groups = [slice(s * k, (s + 1) * k) for s in range(m)]
    return (
        torch.stack([released[:, g] for g in groups]),
        torch.stack([projected[:, g] for g in groups]),
    )


def value_and_gradient(value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return value.detach(), torch.autograd.grad(value, x)[0]


def assert_same(got: Tensor, want: Tensor, x: Tensor, tol: float = 1e-9) -> None:
    (value, gradient), (true_value, true_gradient) = (value_and_gradient(v, x) for v in (got, want))
    torch.testing.assert_close(value, true_value, rtol=tol, atol=tol)
    scale = float(true_gradient.abs().max())
    torch.testing.assert_close(gradient, true_gradient, rtol=tol, atol=tol * scale)


LOSSES = {
    "likelihood": lambda r, **k: SmoothedLikelihood(r, **k),
    "likelihood of slices": lambda r, **k: SmoothedLikelihood(r, slice_dim=2, **k),
    "likelihood, fresh": lambda r, **k: SmoothedLikelihood(r, slices="fresh", slice_dim=2, **k),
    "divergence": lambda r, **k: SlicedDivergence(r, **k),
    "divergence, sampled": lambda r, **k: SlicedDivergence(r, noise="sampled", **k),
    "divergence, fresh": lambda r, **k: SlicedDivergence(r, slices="fresh", **k),
    "wasserstein": lambda r, **k: SlicedWasserstein(r, **k),
    "wasserstein, fresh": lambda r, **k: SlicedWasserstein(r, slices="fresh", **k),
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES.keys())


# ---------------------------------------------------------------------- SmoothedLikelihood


@pytest.mark.parametrize(("k", "m"), [(5, 1), (2, 2), (1, 5), (1, 3)])
def test_likelihood_is_the_density_of_a_mixture(release, k, m):
    x = synthetic()
    loss = SmoothedLikelihood(release, slice_dim=k, n_slices=m)
    o, y = sliced(release, x, k, m)
    normal = torch.distributions.Normal(y[:, None], SIGMA)
    log_density = torch.logsumexp(normal.log_prob(o[:, :, None]).sum(-1), -1) - math.log(len(x))
    expected = -log_density.mean() - k / 2 * math.log(2 * math.pi * math.e * SIGMA**2)
    assert_same(loss(x), expected, x)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_value_is_zero_where_nothing_but_noise_is_left(k):
    # All private rows coincide with all synthetic rows: L is the mean of (|v|^2 / sigma^2 - k) / 2
    # over n m slices, of variance k / (2 n m). Five standard deviations: wrong in 1 of 10^6 seeds.
    n, d = 4000, 5
    release = make_release(np.full((n, d), 0.1), SIGMA)
    loss = SmoothedLikelihood(release, slice_dim=k, batch_size=n)
    value = float(loss(torch.full((3, d), 0.1, dtype=F64)))
    assert abs(value) < 5 * math.sqrt(k / (2 * n * loss.n_slices))


def test_gradient_vanishes_at_the_truth_in_expectation():
    # At the true distribution the expected likelihood is stationary. Its derivative in a shift and
    # a scale of the synthetic rows, averaged over 100 independent releases, must lie within 5
    # standard errors (wrong in 1 of 10^6 seeds); at a shift of 0.1 it lies far outside.
    d, c = 2, 2000
    generator = torch.Generator().manual_seed(0)

    def derivatives(shift: float) -> np.ndarray:
        found = []
        for seed in range(100):
            rng = np.random.default_rng(seed)
            release = make_release(0.2 * rng.normal(size=(200, d)), SIGMA, seed=seed)
            loss = SmoothedLikelihood(release)
            parameters = torch.tensor([shift, 1.0], dtype=F64, requires_grad=True)
            z = torch.randn(c, d, generator=generator, dtype=F64)
            value = loss(parameters[0] + 0.2 * parameters[1] * z)
            found.append(torch.autograd.grad(value, parameters)[0].numpy())
        return np.array(found)

    at_truth = derivatives(0.0)
    standard_error = at_truth.std(axis=0, ddof=1) / math.sqrt(len(at_truth))
    assert (np.abs(at_truth.mean(axis=0)) < 5 * standard_error).all()
    away = derivatives(0.1)
    assert away[:, 0].mean() > 20 * standard_error[0]


class Affine(nn.Module):
    """A Gaussian: mean and factor of its covariance are its weights."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.latent_dim = d
        self.mean = nn.Parameter(torch.zeros(d))
        self.factor = nn.Parameter(0.1 * torch.eye(d))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.factor.T + self.mean


def test_likelihood_recovers_a_gaussian():
    # 10,000 rows: noise and sampling leave errors of about (0.5^2 + 0.3^2) / 100 = 0.005 in mean
    # and covariance; the tolerance is several times that.
    rows = gaussian_rows(10_000, 3)
    release = make_release(rows, SIGMA)
    generator = Affine(3)
    loss = SmoothedLikelihood(release, batch_size=1000, seed=0)
    fit(generator, loss, steps=400, batch_size=1000, lr=0.02, progress=False, ema=0.99)
    factor = generator.factor.detach().double().numpy()
    np.testing.assert_allclose(generator.mean.detach().numpy(), rows.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(factor @ factor.T, np.cov(rows.T), atol=0.03)


# ----------------------------------------------------------------------- SlicedDivergence


@pytest.mark.parametrize(("k", "m"), [(1, 5), (2, 2), (3, 1)])
@pytest.mark.parametrize("name", ["kl", "js", "pearson"])
def test_divergence_is_equation_5(release, name, k, m):
    x = synthetic()
    loss = SlicedDivergence(
        release, name, bandwidth=[0.5, 0.9], ridge=0.05, slice_dim=k, n_slices=m, batch_size=60
    )
    o, y = sliced(release, x, k, m)
    ratios = [
        reference.density_ratio(o, y, torch.full((m,), g, dtype=F64), 0.05, SIGMA)
        for g in (0.5, 0.9)
    ]
    ratio = torch.stack(ratios).mean(0).clamp_min(loss.divergence.r_min)
    assert_same(loss(x), reference.DIVERGENCES[name](ratio).mean(), x, tol=1e-7)


def test_median_bandwidth_of_fixed_slices(release):
    x = synthetic()
    loss = SlicedDivergence(release, "pearson", multipliers=(0.5, 2.0), batch_size=60)
    o, y = sliced(release, x, 2, 2)
    # 60 rows: fewer than the loss samples, so it saw all of them.
    medians = reference.median_distance(o)
    ratios = [reference.density_ratio(o, y, g * medians, 0.01, SIGMA) for g in (0.5, 2.0)]
    expected = reference.DIVERGENCES["pearson"](torch.stack(ratios).mean(0).clamp_min(0)).mean()
    assert_same(loss(x), expected, x, tol=1e-7)


def test_median_bandwidth_of_many_rows_takes_some():
    release = make_release(gaussian_rows(5000, 2), SIGMA)
    a, b = (SlicedDivergence(release, slice_dim=1, seed=seed) for seed in (0, 1))
    x = synthetic(d=2)
    o, _ = sliced(release, x, 1, 2)
    assert torch.equal(a._bandwidths, b._bandwidths)  # no randomness in it
    # The median of |N(0, s^2)| differences from 1024 rows: standard error about 2.5 %.
    torch.testing.assert_close(
        a._bandwidths[0], reference.median_distance(o[:, ::5]), rtol=0.15, atol=0
    )


def test_median_bandwidth_of_fresh_slices(release):
    # All columns in one slice: any rotation has the same distances, so the value is the fixed one.
    x = synthetic()
    fixed, fresh = (
        SlicedDivergence(release, slice_dim=5, slices=slices, batch_size=60)
        for slices in ("fixed", "fresh")
    )
    assert_same(fresh(x), fixed(x), x, tol=1e-5)  # released rows are float32, rotated in float64


def test_analytic_noise_is_the_mean_of_sampled_noise(release):
    # The ratio is linear in w, and w is the mean over the noise: averaged over 2000 draws, each
    # of 60 ratios lies within 5 standard errors of the closed form (wrong in 1 of 30,000 seeds).
    x = synthetic()
    o, y = sliced(release, x.detach(), 2, 2)
    exact = functional.density_ratio(o, y, 0.6, 0.1, sigma=SIGMA)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [
            functional.density_ratio(
                o, y + SIGMA * torch.randn(y.shape, generator=generator, dtype=F64), 0.6, 0.1
            )
            for _ in range(2000)
        ]
    )
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 5 * error).all()


def test_sampled_noise_of_the_loss_has_the_mean_of_the_analytic(release):
    # f(t) = t - 1 is linear, and with this ridge and bandwidth no ratio is negative, so the loss
    # itself has that mean. Five standard errors: wrong in 1 of 10^6 seeds.
    linear = Divergence("linear", value=lambda t: t - 1)
    x = synthetic().detach()
    analytic, sampled = (
        SlicedDivergence(release, linear, 1.5, ridge=5.0, noise=noise, batch_size=60, seed=0)
        for noise in ("analytic", "sampled")
    )
    draws = torch.stack([sampled(x) for _ in range(500)])
    assert float(draws.std()) > 0
    error = float(draws.std()) / math.sqrt(len(draws))
    assert abs(float(draws.mean() - analytic(x))) < 5 * error


@pytest.mark.parametrize("make", [LOSSES["divergence"], LOSSES["wasserstein"]])
def test_training_lowers_the_loss(make):
    release = make_release(gaussian_rows(1000, 3), SIGMA)
    loss = make(release, seed=0)
    result = fit(Affine(3), loss, steps=60, batch_size=200, lr=0.02, progress=False)
    assert result.history[-10:].mean() < 0.7 * result.history[:10].mean()


# ---------------------------------------------------------------------- SlicedWasserstein


@pytest.mark.parametrize("order", [1, 2, 3])
def test_wasserstein_is_the_distance_of_sorted_values(release, order):
    x = synthetic(60)
    loss = SlicedWasserstein(release, order=order, batch_size=60, seed=3)
    o, y = sliced(release, x, 1, 5)
    generator = torch.Generator().manual_seed(3)
    noisy = y + SIGMA * torch.randn(y.shape, generator=generator, dtype=F64)
    difference = o.sort(1).values - noisy.sort(1).values
    assert_same(loss(x), (difference.abs() ** order).mean(), x)


# --------------------------------------------------------------------------- slices, batches


def test_fresh_directions_are_orthonormal_and_differ(release):
    loss = SmoothedLikelihood(release, slices="fresh", slice_dim=3, n_slices=4, seed=0)
    w = loss._directions().reshape(5, 4, 3).permute(1, 0, 2)  # [m, p, k]
    identity = torch.eye(3, dtype=F64).expand(4, 3, 3)
    torch.testing.assert_close(w.transpose(1, 2) @ w, identity, rtol=0, atol=1e-12)
    assert not torch.allclose(w[0], w[1])
    assert not torch.allclose(loss._directions().reshape(5, 4, 3).permute(1, 0, 2), w)


def test_fresh_directions_are_uniform(release):
    # A uniform direction of R^5 has coordinates of mean 0 and second moment 1/5, each squared
    # coordinate of variance 8/175. Five standard errors over 4000 directions, 5 + 5 comparisons:
    # wrong in 1 of 10^5 seeds.
    loss = SlicedWasserstein(release, slices="fresh", n_slices=4000, seed=0)
    w = loss._directions()  # [p, m]
    assert (w.mean(1).abs() < 5 * math.sqrt(1 / 5 / 4000)).all()
    assert ((w.square().mean(1) - 1 / 5).abs() < 5 * math.sqrt(8 / 175 / 4000)).all()


def test_fresh_slices_are_projections_of_the_rows(release):
    # Released rows that hold no noise are rows times frame; their fresh slices are then the rows
    # projected on the synthetic rows' own directions, so equal clouds are equal on every slice.
    rows = gaussian_rows(60, 5)
    clean = RowRelease(
        np.array(release.frame),
        rows @ release.frame,
        SIGMA,
        release.guarantee,
        frame_kind="orthonormal",
    )
    loss = SmoothedLikelihood(clean, slices="fresh", slice_dim=2, n_slices=6, seed=0)
    private, synthetic_ = loss._pair(torch.from_numpy(rows))
    torch.testing.assert_close(private, synthetic_, rtol=0, atol=1e-12)


def test_fresh_slices_have_the_noise_of_the_release():
    # Released rows that hold nothing but noise: on a fresh slice its variance is sigma^2, here
    # from 2000 x 6 independent values. Five standard errors: wrong in 1 of 10^6 seeds.
    release = make_release(np.zeros((2000, 6)), SIGMA)
    loss = SmoothedLikelihood(release, slices="fresh", slice_dim=6, n_slices=1, seed=0)
    private, _ = loss._pair(torch.zeros(1, 6, dtype=F64))
    variance = float(private.square().mean())
    assert abs(variance / SIGMA**2 - 1) < 5 * math.sqrt(2 / private.numel())


def test_batches_are_distinct_rows_drawn_uniformly():
    release = make_release(gaussian_rows(30, 2), SIGMA)
    for size in (1, 7, 12, 30, 100):  # by rejection, by permutation, all
        loss = SmoothedLikelihood(release, batch_size=size, seed=0)
        counts = np.zeros(30)
        for _ in range(600):
            rows = loss._draw_rows()
            assert len(set(rows.tolist())) == len(rows) == min(size, 30)
            counts += np.bincount(rows, minlength=30)
        share = min(size, 30) / 30
        # Binomial counts; five standard deviations over 4 x 30 counts: wrong in 1 of 10^4 seeds.
        assert (np.abs(counts - 600 * share) <= 5 * np.sqrt(600 * share * (1 - share))).all()


@every_loss
@pytest.mark.parametrize("size", [4, 19, 100])  # drawn by rejection, by permutation, all
def test_a_loss_on_some_rows_is_that_of_a_release_of_them(release, make, size):
    first, stop = 10, 47
    part = RowRelease(
        release.frame,
        release.projections[first:stop],
        release.sigma,
        dataclasses.replace(release.guarantee, n=stop - first),
        frame_kind=release.frame_kind,
    )
    x = synthetic()
    loss = make(release, rows=(first, stop), batch_size=size, seed=0)
    assert_same(loss(x), make(part, batch_size=size, seed=0)(x), x)
    assert "rows=(10, 47)" in repr(loss)
    assert not torch.equal(loss(x), make(release, batch_size=size, seed=0)(x))


@pytest.mark.parametrize("all_rows", [None, (0, 60), [0, 60]])
def test_all_rows_may_be_named(release, all_rows):
    loss = SlicedWasserstein(release, rows=all_rows, seed=0)
    assert loss.rows == (0, 60)
    assert "rows=" not in repr(loss)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ((0, 61), ValueError, r"0 <= first < stop <= 60, the rows of the release; got \(0, 61\)"),
        ((5, 5), ValueError, r"0 <= first < stop <= 60"),
        ((9, 5), ValueError, r"0 <= first < stop <= 60"),
        ((-5, 5), ValueError, "rows must be an integer >= 0"),
        ((0, 5, 9), ValueError, r"rows must be \(first, stop\)"),
        ((0.0, 0.8), TypeError, "rows must be an integer >= 0"),
        (48, TypeError, "rows must be a sequence"),
        ("ab", TypeError, "rows must be a sequence"),
    ],
)
def test_rows_that_are_no_part_are_refused(release, rows, error, message):
    with pytest.raises(error, match=message):
        SmoothedLikelihood(release, rows=rows)


def test_defaults(release):
    likelihood = SmoothedLikelihood(release)
    assert (likelihood.n_slices, likelihood.slice_dim, likelihood.batch_size) == (1, 5, 60)
    divergence = SlicedDivergence(release)
    assert (divergence.n_slices, divergence.slice_dim, divergence.batch_size) == (2, 2, 60)
    assert SlicedWasserstein(release).n_slices == 5


@every_loss
def test_torch_func_differentiates(release, make):
    x = synthetic()  # which wants a gradient
    options = {"seed": 3, "batch_size": 20}  # so that rows are drawn
    (want,) = torch.autograd.grad(make(release, **options)(x), x)
    torch.testing.assert_close(torch.func.grad(make(release, **options))(x.detach()), want)


@every_loss
def test_vmap_is_a_loop_with_one_draw(release, make):
    rows = torch.stack([synthetic(seed=seed).detach() for seed in range(3)])
    options = {"seed": 3, "batch_size": 20}
    want = torch.stack([make(release, **options)(x) for x in rows])
    torch.testing.assert_close(torch.func.vmap(make(release, **options))(rows), want)
    # Gradients inside, as of an ensemble.
    want = torch.stack([torch.func.grad(make(release, **options))(x) for x in rows])
    got = torch.func.vmap(torch.func.grad(make(release, **options)))(rows)
    torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match="must hold finite numbers"):
        torch.func.vmap(make(release))(rows * math.nan)


@every_loss
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_step_is_one_graph_and_draws_anew(release, make, backend):
    options = {"seed": 3, "batch_size": 19}  # so that some rows are drawn again
    loss, again = make(release, **options), make(release, **options)
    scale = torch.full((1,), 3.0, dtype=F64, requires_grad=True)

    torch.compiler.reset()
    graphs = CompileCounterWithBackend(backend)
    compiled = torch.compile(lambda x: 2 * loss(scale * x), backend=graphs, fullgraph=True)
    values = []
    for c in (40, 40, 40, 50, 60, 70):
        x = synthetic(c).detach()
        value = compiled(x)
        assert_same(value, 2 * again(scale * x), scale, tol=1e-12)
        values.append(float(value.detach()))
    assert len(set(values)) == len(values)
    assert graphs.frame_count <= 2  # once more where the number of rows varies


@every_loss
def test_compiled_loss_takes_up_its_state_and_copies_draw_for_themselves(release, make):
    x = synthetic().detach()
    options = {"seed": 3, "batch_size": 19}
    again = make(release, **options)
    want = [again(x) for _ in range(3)]
    torch.compiler.reset()
    compiled = torch.compile(lambda loss: loss(x), backend="eager", fullgraph=True)
    loss = make(release, **options)
    state = copy.deepcopy(loss.state_dict())
    assert compiled(loss) == want[0]
    copies = copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))
    for each in (*copies, loss):
        assert [compiled(each) for _ in range(2)] == want[1:]
    loss.load_state_dict(state)
    assert [compiled(loss) for _ in range(3)] == want


def test_a_graph_serves_losses_of_other_numbers(release):
    """Numbers that vary are symbols of a graph."""
    x = synthetic().detach()
    torch.compiler.reset()
    compiled = torch.compile(lambda loss: loss(x), backend="eager", fullgraph=True)
    noisier = make_release(gaussian_rows(60, 5), 2 * SIGMA)
    for each in (release, noisier):
        for make in (SlicedDivergence, SmoothedLikelihood, SlicedWasserstein):
            assert compiled(make(each, seed=0)) == make(each, seed=0)(x)
    loss = SlicedDivergence(noisier, ridge=0.2, seed=0)
    assert compiled(loss) == SlicedDivergence(noisier, ridge=0.2, seed=0)(x)


def test_one_graph_with_several_losses_or_calls(release):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = SlicedWasserstein(release, seed=0, batch_size=19)
            self.second = SmoothedLikelihood(release, seed=0, batch_size=19)

        def forward(self, x: Tensor) -> Tensor:
            once = self.first(x) + 10 * self.second(x)
            return once + 100 * self.first(x + 1) + 1000 * self.first(x)

    x = synthetic()
    torch.compiler.reset()
    compiled = torch.compile(Both(), backend="aot_eager", fullgraph=True)
    again = Both()
    for _ in range(3):
        assert_same(compiled(x), again(x), x, tol=1e-12)


def test_a_graph_without_its_loss_says_so(release):
    name = SlicedWasserstein(release, seed=0)._name
    gc.collect()
    with pytest.raises(RuntimeError, match="which is no longer there: keep it as long"):
        torch.ops.dpslice.draw_of_loss(name, 0, 7, F64)


def test_names_in_graphs_tell_releases_and_settings_apart(release):
    """A graph that is exported and loaded elsewhere must not draw from another release."""
    other = make_release(gaussian_rows(60, 5), SIGMA, seed=1)

    def mark(of, **options):
        return SlicedWasserstein(of, **options)._name.split("-")[-1]

    assert mark(release) == mark(release)
    assert len({mark(release), mark(other), mark(release, batch_size=19)}) == 3


@every_loss
def test_the_operator_that_draws_tells_its_sizes(release, make):
    loss = make(release, batch_size=19)
    given = (loss._name, 0, 7, torch.float32)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.dpslice.draw_of_loss, given, test_utils=tests)


@every_loss
def test_compiled_loss_refuses_what_is_not_finite(release, make):
    torch.compiler.reset()
    compiled = torch.compile(make(release), backend="eager", fullgraph=True)
    with pytest.raises(ValueError, match="must hold finite numbers"):
        compiled(synthetic().detach() * math.nan)


@every_loss
def test_compiled_loss_under_modes(release, make):
    """Without a gradient, in inference mode, with autocast: a graph each."""
    options = {"seed": 3, "batch_size": 19}
    loss, again = make(release, **options), make(release, **options)
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    x = synthetic(dtype=torch.bfloat16).detach()
    for mode in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with mode, torch.autocast("cpu", dtype=torch.bfloat16):
            assert compiled(x) == again(x)


@pytest.mark.filterwarnings("error")
@every_loss
def test_memory_mapped_release(tmp_path, release, make):
    release.save(tmp_path / "r.dpslice")
    mapped = Release.load(tmp_path / "r.dpslice", mmap=True)
    assert not mapped.projections.flags.writeable
    x = synthetic()
    for size in (16, 60):
        assert_same(
            make(mapped, seed=0, batch_size=size)(x), make(release, seed=0, batch_size=size)(x), x
        )


def test_the_release_is_never_copied_whole(tmp_path):
    make_release(gaussian_rows(100_000, 4), SIGMA).save(tmp_path / "r.dpslice")
    mapped = Release.load(tmp_path / "r.dpslice", mmap=True, verify=False)
    x = synthetic(16, 4)
    tracemalloc.start()
    try:
        for make in (SmoothedLikelihood, SlicedDivergence, SlicedWasserstein):
            make(mapped, batch_size=64, seed=0)(x).backward()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < mapped.projections.nbytes / 4  # 1.6 MB; NumPy's memory is traced


# ------------------------------------------------------------- random state, dtypes, repr


@every_loss
def test_same_seed_same_values(release, make):
    x = synthetic()
    first, second, other = (make(release, seed=s, batch_size=20) for s in (0, 0, 1))
    values = [[float(loss(x.detach())) for _ in range(3)] for loss in (first, second, other)]
    assert values[0] == values[1] != values[2]
    assert len(set(values[0])) == 3  # batches differ from call to call


@every_loss
def test_state_dict_resumes_exactly(release, make):
    x = synthetic().detach()
    loss = make(release, batch_size=20)  # no seed: from the operating system
    loss(x)
    state = {key: value.clone() for key, value in loss.state_dict().items()}
    values = [float(loss(x)) for _ in range(3)]
    again = make(release, batch_size=20)
    again.load_state_dict(state)
    assert [float(again(x)) for _ in range(3)] == values


def test_unseeded_losses_differ(release):
    x = synthetic().detach()
    a, b = (SmoothedLikelihood(release, batch_size=20) for _ in range(2))
    assert [float(a(x)) for _ in range(4)] != [float(b(x)) for _ in range(4)]


def test_state_of_something_else_is_refused(release):
    loss = SmoothedLikelihood(release)
    with pytest.raises(TypeError, match="state of a random generator, a uint8 tensor; got"):
        loss.load_state_dict({"_extra_state": torch.zeros(3)})


@every_loss
def test_global_random_state_is_left_alone(release, make):
    before = torch.get_rng_state()
    make(release, seed=0, batch_size=20)(synthetic())
    assert torch.equal(torch.get_rng_state(), before)


@every_loss
def test_losses_are_copied_and_pickled_after_a_transform(release, make):
    loss = make(release, seed=0, batch_size=19)
    torch.func.grad(loss)(synthetic().detach())
    copies = copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))
    value = loss(synthetic())
    for copied in copies:
        assert torch.equal(copied(synthetic()), value)


@every_loss
def test_default_device_is_for_others(release, make):
    # As after torch.set_default_device("cuda"), to which the losses' CPU generator is no help. A
    # tensor that was made on "meta" could not be computed with.
    options = {"seed": 0, "batch_size": 19}  # few enough for rows to be drawn one by one
    expected = make(release, **options)(synthetic())
    x = synthetic()
    with torch.device("meta"):
        value = make(release, **options)(x)
    assert torch.equal(value, expected)


def test_default_device_is_not_that_of_given_bandwidths(release):
    expected = SlicedDivergence(release, bandwidth=0.5, seed=0)(synthetic())
    x = synthetic()
    with torch.device("meta"):
        value = SlicedDivergence(release, bandwidth=0.5, seed=0)(x)
    assert torch.equal(value, expected)


@every_loss
def test_dtype_follows_the_rows(release, make):
    x = synthetic()
    loss = make(release, seed=0)
    state = loss.state_dict()["_extra_state"].clone()
    double = loss(x)
    for dtype in (torch.float32, F64):  # back and forth: nothing is kept in the wrong dtype
        loss.set_extra_state(state)
        value = loss(x.to(dtype))
        assert value.dtype == dtype
        assert value.ndim == 0
        # Sampled noise differs between dtypes, and so does the value a little.
        torch.testing.assert_close(value.double(), double, rtol=0.2, atol=0.02)
    loss.set_extra_state(state)
    assert torch.equal(loss(x), double)


@every_loss
def test_autocast_computes_in_float32(release, make):
    x = synthetic(dtype=torch.bfloat16)
    loss = make(release, seed=0)
    state = loss.state_dict()["_extra_state"].clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x)
    loss.set_extra_state(state)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(x.float()))
    assert torch.autograd.grad(value, x)[0].dtype == torch.bfloat16
    with pytest.raises(TypeError, match=r"float64; got torch.bfloat16; .* pass .float\(\)"):
        loss(x)


def test_rows_without_values_have_a_loss_without_one(release):
    assert SmoothedLikelihood(release)(synthetic().detach().to("meta")).is_meta


def test_repr_shows_release_and_settings(release):
    assert repr(SmoothedLikelihood(release, seed=4)) == (
        "SmoothedLikelihood(n=60, d=5, p=5, sigma=0.3, slices='fixed', n_slices=1, slice_dim=5, "
        "batch_size=60, seed=4)"
    )
    text = repr(SlicedDivergence(release, "js", [0.1, 0.2], noise="sampled"))
    assert "divergence='js', bandwidth=(0.1, 0.2), ridge=0.01" in text
    assert "noise='sampled'" in text
    assert "order=2.0" in repr(SlicedWasserstein(release))


def test_losses_have_no_weights(release):
    loss = SlicedDivergence(release)
    assert list(loss.parameters()) == []
    assert list(loss.state_dict()) == ["_extra_state"]


@every_loss
def test_one_synthetic_row(release, make):
    x = synthetic(1)
    (gradient,) = torch.autograd.grad(make(release, seed=0)(x), x)
    assert torch.isfinite(gradient).all()


def test_more_columns_than_features(wide_release):
    x = synthetic(d=4)
    assert torch.isfinite(SmoothedLikelihood(wide_release)(x))
    loss = SlicedDivergence(wide_release, slice_dim=3)
    assert loss.n_slices == 3  # the tenth column is left over
    assert torch.isfinite(loss(x))


# ------------------------------------------------------------------------------------- errors


@every_loss
def test_wrong_rows_are_refused(release, make):
    loss = make(release, seed=0)
    with pytest.raises(TypeError, match="x_synthetic must be a torch tensor; got ndarray"):
        loss(np.zeros((3, 5)))
    with pytest.raises(TypeError, match=r"got tuple of arrays, .* pass the rows alone, batch\[0\]"):
        loss((synthetic(), torch.zeros(40)))
    for shape in ((3, 4), (5,), (0, 5), (1, 3, 5)):
        with pytest.raises(ValueError, match=r"x_synthetic must have shape \(c, 5\) with c >= 1"):
            loss(torch.zeros(shape))
    for dtype in (torch.int64, torch.float16):
        with pytest.raises(TypeError, match="x_synthetic must have dtype float32 or float64; got"):
            loss(torch.zeros(3, 5, dtype=dtype))
    for bad in (math.nan, math.inf):
        x = torch.zeros(3, 5)
        x[1, 2] = bad
        with pytest.raises(ValueError, match=r"x_synthetic must hold finite .* at \(1, 2\)"):
            loss(x)


@every_loss
def test_rows_that_are_too_large_are_refused_by_their_name(release, make):
    loss = make(release, seed=0)
    for factor in (1e30, 1e38):
        with pytest.raises(
            ValueError, match=r"^x_synthetic, sliced, must (lie|be of) .* in slice \d$"
        ):
            loss(factor * synthetic(dtype=torch.float32))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"slices": "new"}, ValueError, "slices must be one of fixed, fresh"),
        ({"slice_dim": 6}, ValueError, "slice_dim must be at most the 5 columns"),
        ({"slice_dim": 0}, ValueError, "slice_dim must be an integer >= 1"),
        ({"slice_dim": 2, "n_slices": 3}, ValueError, r"n_slices \* slice_dim must be at most p"),
        ({"n_slices": 0}, ValueError, "n_slices must be an integer >= 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer >= 1"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"seed": 2**64}, ValueError, r"seed must be an integer < 2\*\*63"),
        ({"divergence": "kld"}, ValueError, "divergence must be one of kl"),
        ({"divergence": 3}, TypeError, "divergence must be a name or a Divergence"),
        ({"bandwidth": "mean"}, ValueError, "must be 'median', or one or several numbers > 0"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth must be a finite number > 0"),
        ({"bandwidth": [1.0, -1.0]}, ValueError, "bandwidth must be a finite number > 0"),
        ({"bandwidth": []}, ValueError, "bandwidth must hold at least one number"),
        ({"bandwidth": None}, TypeError, "bandwidth must be a finite number > 0"),
        ({"multipliers": (0.0,)}, ValueError, "multipliers must be a finite number > 0"),
        ({"ridge": -1.0}, ValueError, "ridge must be a finite number >= 0"),
        ({"noise": "none"}, ValueError, "noise must be one of analytic, sampled"),
    ],
)
def test_wrong_settings_are_refused(release, options, error, message):
    with pytest.raises(error, match=message):
        SlicedDivergence(release, **options)


def test_wrong_order_is_refused(release):
    with pytest.raises(ValueError, match="order must be a finite number >= 1"):
        SlicedWasserstein(release, order=0.5)


@pytest.mark.parametrize("make", [SmoothedLikelihood, SlicedDivergence, SlicedWasserstein])
def test_what_is_no_release_is_refused(make):
    with pytest.raises(TypeError, match=r"release must be a dpslice\.Release; got ndarray"):
        make(np.zeros((3, 3)))


def test_another_kind_of_release_is_refused():
    features = MarginalSums((2,), [(0,)], [1.0])
    sums = SumMechanism(features=features, sigma=SIGMA).release(np.zeros((5, 1), np.int64))
    with pytest.raises(ValueError, match="SmoothedLikelihood takes a release of rows; got kind 's"):
        SmoothedLikelihood(sums)


@pytest.mark.parametrize("frame_kind", ["gaussian", "orthonormal"])
def test_fresh_slices_need_orthonormal_columns(frame_kind):
    release = make_release(gaussian_rows(20, 3), SIGMA, p=6, frame_kind=frame_kind)
    with pytest.raises(ValueError, match="slices='fresh' needs a release with an orthonormal"):
        SmoothedLikelihood(release, slices="fresh")


def test_median_bandwidth_needs_two_different_rows():
    one = make_release(gaussian_rows(1, 3), SIGMA)
    with pytest.raises(ValueError, match="bandwidth='median' needs two released rows at least"):
        SlicedDivergence(one)
    fresh = SlicedDivergence(one, slices="fresh")
    with pytest.raises(ValueError, match="bandwidth='median' needs two released rows at least"):
        fresh(synthetic(d=3))
    assert torch.isfinite(SlicedDivergence(one, bandwidth=1.0)(synthetic(d=3)))
    same = RowRelease(
        np.eye(3), np.ones((5, 3), np.float32), SIGMA, one.guarantee, frame_kind="orthonormal"
    )
    with pytest.raises(ValueError, match="bandwidth='median' is 0 on slice 0"):
        SlicedDivergence(same)
    fresh = SlicedDivergence(same, slices="fresh")
    with pytest.raises(ValueError, match="bandwidth='median' is 0 on slice 0"):
        fresh(synthetic(d=3))
    torch.compiler.reset()
    compiled = torch.compile(fresh, backend="eager", fullgraph=True)
    with pytest.raises(ValueError, match="bandwidth must be finite and > 0"):
        compiled(synthetic(d=3).detach())


@every_loss
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_look_at_the_loss_in_inference_mode_does_not_stop_training(
    make: Callable[..., Any], dtype: torch.dtype, release: Release
) -> None:
    """What a loss keeps for the next call must not be made in that mode."""
    looked_at, not_looked_at = make(release, seed=0), make(release, seed=0)
    with torch.inference_mode():
        looked_at(synthetic(dtype=dtype))
    with torch.no_grad():
        not_looked_at(synthetic(dtype=dtype))  # draws the same
    x, y = synthetic(dtype=dtype), synthetic(dtype=dtype)
    looked_at(x).backward()
    not_looked_at(y).backward()
    torch.testing.assert_close(x.grad, y.grad)
