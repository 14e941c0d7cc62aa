"""FeatureMatching against plain torch, unbiased, and with the sums' own noise as its unit."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

from dpslice import (  # noqa: E402
    CustomFeatures,
    KernelSums,
    MarginalSums,
    SecondMoments,
    SlicingMechanism,
    SumMechanism,
)
from dpslice.torch import (  # noqa: E402
    FeatureMatching,
    MarginalMatching,
    expected_sums,
    fit,
    sum_losses,
)


def _rows(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).normal(size=(n, d))


def _waves(rows):
    library = torch if isinstance(rows, torch.Tensor) else np
    return library.sin(3.0 * rows)


FREE = KernelSums.on_random_slices(4, n_slices=6, n_landmarks=9, seed=1)
MAPS = {
    "moments": SecondMoments(4),
    "moments without a constant": SecondMoments(4, constant=0.0),
    "kernels": FREE,
    "kernels that are cut": KernelSums(FREE.frame, FREE.landmarks, FREE.bandwidth, bound=2.0),
    "kernels that are cut slice by slice": KernelSums(
        FREE.frame,
        FREE.landmarks,
        FREE.bandwidth,
        bound=np.array([0.8, 0.9, 1.0, 1.1, 1.2, 9.0]),
        weights=(1.0, 2.0, 0.5, 1.0, 1.0, 3.0),
    ),
    "kernels in two dimensions": KernelSums.on_random_slices(
        4, n_slices=3, slice_dim=2, n_landmarks=5, seed=2
    ),
    "custom": CustomFeatures(_waves, d=4, n_cells=4, norm=1.2),
}


def _loss(name: str, rows: np.ndarray, *, sigma: float = 1.0, **options) -> FeatureMatching:
    release = SumMechanism(features=MAPS[name], sigma=sigma).release(rows)
    function = _waves if name == "custom" else None
    return FeatureMatching(release, function=function, **options)


def _any_loss(name: str) -> torch.nn.Module:
    """A loss on a map, or that of marginals, of rows of 4 entries."""
    if name != "marginals":
        return _loss(name, _rows(1000))
    codes = np.random.default_rng(0).integers(0, 2, (1000, 2))
    features = MarginalSums([2, 2], groups=[(0,), (0, 1)])
    return MarginalMatching(SumMechanism(features=features, sigma=1.0).release(codes))


def _averages(name: str, rows: np.ndarray) -> np.ndarray:
    """Average features by the code that makes releases, without noise."""
    features = MAPS[name]
    units = features.unit_exponents()
    return np.ldexp(features.sum(rows).astype(np.float64), units) / len(rows)


@pytest.mark.parametrize("name", MAPS)
def test_tensors_are_released_as_arrays_are(name: str) -> None:
    rows = _rows(300)
    mechanism = SumMechanism(features=MAPS[name], sigma=MAPS[name].norm / 500.0)
    tensor = torch.from_numpy(rows).requires_grad_()
    released = [mechanism.release(source, block_rows=77) for source in (rows, tensor)]
    apart = (released[0].sums - released[1].sums) / released[0].noise
    assert np.abs(apart).max() < 10.0


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("halves", [True, False])
def test_loss_is_what_its_formula_says(name: str, halves: bool) -> None:
    loss = _loss(name, _rows(1000), halves=halves)
    x = _rows(200, seed=1) * 2.0  # some rows are clipped
    target, noise = loss.release.sums / 1000, loss.release.noise / 1000
    parts = (x[:100], x[100:]) if halves else (x, x)
    terms = np.prod([_averages(name, part) - target for part in parts], axis=0) / noise**2
    if name == "moments":
        terms = terms[:-1]  # the last is the number of records
    assert loss.n_cells == len(terms)
    got = loss(torch.from_numpy(x))
    assert float(got) == pytest.approx(terms.mean(), rel=2e-5)
    single = loss(torch.from_numpy(x).float())
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(terms.mean(), rel=2e-3)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("halves", [True, False])
def test_gradient(name: str, halves: bool) -> None:
    loss = _loss(name, _rows(1000), sigma=1e2, halves=halves)
    x = torch.from_numpy(_rows(6, seed=1) * 0.5).requires_grad_()
    assert torch.linalg.vector_norm(_waves(x), dim=1).max() < 1.2  # nothing is clipped
    assert torch.linalg.vector_norm(x, dim=1).max() < 1.0
    assert torch.autograd.gradcheck(loss, (x,), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_gradient_of_long_rows_keeps_what_draws_them_in() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(200, 5))
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    grad = rng.normal(size=rows.shape)
    x = torch.from_numpy(rows).requires_grad_()
    clipped = sum_losses._clipped(x, 2.0)
    np.testing.assert_allclose(clipped.detach(), rows * np.minimum(1.0, 2.0 / length), rtol=1e-14)
    (got,) = torch.autograd.grad(clipped, x, torch.from_numpy(grad))
    direction = rows / length
    along = (grad * direction).sum(axis=1, keepdims=True)
    # The derivative of a direction, and of the part along it only what a descent would shorten.
    across = grad - direction * along
    expected = np.where(
        length > 2.0, 2.0 / length * (across + direction * np.maximum(along, 0.0)), grad
    )
    assert 50 < (length > 2.0).sum() < 150
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
    short = torch.from_numpy(rows[length[:, 0] < 1.9][:5]).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda r: sum_losses._clipped(r, 2.0) ** 3, (short,))


@pytest.mark.parametrize(
    "name", ["kernels", "kernels that are cut", "kernels that are cut slice by slice", "custom"]
)
def test_torch_func_differentiates(name: str) -> None:
    loss = _loss(name, _rows(1000))
    x = torch.from_numpy(_rows(60, seed=1) * 2.0).requires_grad_()
    (want,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), want)


# Of torch's compiler itself, which makes one while it traces.
@pytest.mark.filterwarnings("ignore:.*Function.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "backend"),
    [("kernels", "eager"), *((name, "aot_eager") for name in (*MAPS, "marginals"))],
)
def test_compiled_step_is_one_graph(name: str, backend: str) -> None:
    loss = _any_loss(name)
    scale = torch.full((1,), 3.0, dtype=torch.float64, requires_grad=True)
    torch.compiler.reset()
    graphs = CompileCounterWithBackend(backend)
    compiled = torch.compile(lambda x: 2 * loss(scale * x), backend=graphs, fullgraph=True)
    for n in (60, 60, 80, 100):
        x = torch.from_numpy(_rows(n, seed=1))
        got, want = compiled(x), 2 * loss(scale * x)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(*(torch.autograd.grad(v, scale)[0] for v in (got, want)))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), 2 * loss(scale * x))
    assert graphs.frame_count <= 3  # where the number of rows varies, and where no gradient is made


@pytest.mark.parametrize("name", [*MAPS, "marginals"])
def test_autocast_computes_in_float32(name: str) -> None:
    loss = _any_loss(name)
    x = torch.from_numpy(_rows(60, seed=1)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x)
    assert value == loss(x.float())
    with pytest.raises(TypeError, match="must have dtype float32 or float64"):
        loss(x)


@pytest.mark.parametrize("name", [*MAPS, "marginals"])
def test_a_loss_cast_to_half_precision_is_refused(name: str) -> None:
    x = torch.from_numpy(_rows(60, seed=1))
    for cast in (torch.nn.Module.half, torch.nn.Module.bfloat16):
        with pytest.raises(TypeError, match="must stay in float32 or float64"):
            cast(_any_loss(name))(x)
    assert torch.isfinite(_any_loss(name).float()(x))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("halves", [True, False])
def test_vmap_is_a_loop(name: str, halves: bool) -> None:
    loss = _loss(name, _rows(1000), halves=halves)
    rows = torch.from_numpy(_rows(180, seed=1) * 2.0).reshape(3, 60, 4)
    torch.testing.assert_close(torch.func.vmap(loss)(rows), torch.stack([loss(x) for x in rows]))
    want = torch.stack([torch.func.grad(loss)(x) for x in rows])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(rows), want)


@pytest.mark.parametrize(
    "features",
    [SecondMoments(8), KernelSums.on_random_slices(8, n_slices=16, n_landmarks=16, seed=0)],
    ids=["moments", "kernels"],
)
def test_generator_that_starts_beyond_the_ball_comes_in(features) -> None:
    rows = 0.2 * np.random.default_rng(0).normal(size=(20_000, 8))
    loss = FeatureMatching(SumMechanism(features=features, sigma=5.0).release(rows))
    torch.manual_seed(0)
    generator = torch.nn.Linear(8, 8)
    with torch.no_grad():
        generator.weight *= 3.0
        before = generator(torch.randn(2000, 8))
        assert (torch.linalg.vector_norm(before, dim=1) > 1.0).float().mean() > 0.95
    fit(generator, loss, steps=300, batch_size=512, lr=3e-2, latent_dim=8, seed=0, progress=False)
    with torch.no_grad():
        made = generator(torch.randn(20_000, 8))
    assert float(made.std(dim=0).mean()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("name", MAPS)
def test_truth_scores_one(name: str) -> None:
    """The very rows that were released: what is left is the noise. Six standard deviations."""
    rows = _rows(1000)
    scores = [float(_loss(name, rows, halves=False)(torch.from_numpy(rows))) for _ in range(30)]
    cells = MAPS[name].n_cells
    assert abs(np.mean(scores) - 1.0) < 6.0 * math.sqrt(2.0 / (30 * cells))


def test_halves_are_unbiased() -> None:
    """Small batches of the truth score about 1 with halves, and far more without. Error 1e-6."""
    rows = _rows(100_000)
    released = _loss("moments", rows, sigma=20.0).release
    batches = [
        torch.from_numpy(rows[np.random.default_rng(i).choice(100_000, 64, replace=False)])
        for i in range(400)
    ]
    fair = [float(FeatureMatching(released)(batch)) for batch in batches]
    exact = float(FeatureMatching(released, halves=False)(torch.from_numpy(rows)))
    spread = np.std(fair) / math.sqrt(len(fair))
    assert abs(np.mean(fair) - exact) < 5.0 * spread
    biased = [float(FeatureMatching(released, halves=False)(batch)) for batch in batches]
    assert np.mean(biased) - exact > 10.0 * spread


def test_sample_and_protected_numbers_are_scaled() -> None:
    rows = _rows(50_000)
    features = MAPS["kernels"]
    few = rows[:2000]
    sampled = SumMechanism(features=features, sigma=20.0, sampling_rate=0.5).release(few)
    # A sum's deviation by the sample is at most sqrt(2000 / 4), about as much as its noise.
    assert float(FeatureMatching(sampled, halves=False)(torch.from_numpy(few))) < 15.0
    hidden = SumMechanism(features=features, sigma=5.0, adjacency="add_remove").release(rows)
    with pytest.raises(ValueError, match="does not count records"):
        FeatureMatching(hidden)
    known = FeatureMatching(hidden, n=50_000, halves=False)
    assert float(known(torch.from_numpy(rows))) < 3.0  # 54 cells: ten deviations above 1
    for bound in (features.bound, 0.5 * features.norm):
        counting = KernelSums(
            features.frame, features.landmarks, features.bandwidth, bound=bound, constant=1.0
        )
        protected = SumMechanism(features=counting, sigma=5.0, adjacency="add_remove").release(rows)
        of_count = FeatureMatching(protected, halves=False)
        assert of_count.n_cells == features.n_cells
        assert float(of_count(torch.from_numpy(rows))) < 3.0
    counted = SumMechanism(features=SecondMoments(4), sigma=5.0, adjacency="add_remove")
    estimated = FeatureMatching(counted.release(rows), halves=False)
    assert float(estimated(torch.from_numpy(rows))) < 8.0


@pytest.mark.parametrize("name", ["moments", "kernels"])
def test_generator_learns_the_released_moments(name: str) -> None:
    mixing = np.array([[0.3, 0.0, 0.1, 0.0], [0.0, 0.2, 0.0, 0.0], [0.0, 0.1, 0.1, 0.0]])
    rows = np.random.default_rng(0).normal(size=(20_000, 3)) @ mixing
    maps = {  # 4 variances and 6 covariances take more than 10 slices
        "moments": SecondMoments(4),
        "kernels": KernelSums.on_random_slices(4, n_slices=24, n_landmarks=16, seed=1),
    }
    loss = FeatureMatching(SumMechanism(features=maps[name], sigma=3.0).release(rows))

    class Linear(torch.nn.Module):
        latent_dim = 4

        def __init__(self) -> None:
            super().__init__()
            self.map = torch.nn.Linear(4, 4)

        def forward(self, z):
            return self.map(z)

    torch.manual_seed(0)
    generator = Linear()
    fit(generator, loss, steps=1500, batch_size=512, lr=1e-2, seed=0, progress=False)
    with torch.no_grad():
        made = generator(torch.randn(50_000, 4, generator=torch.Generator().manual_seed(1)))
    covariance = np.cov(made.numpy().T)
    np.testing.assert_allclose(covariance, mixing.T @ mixing, atol=0.02)


def test_rows_far_from_all_landmarks_have_a_gradient() -> None:
    """In a slice where every kernel of a row underflows."""
    features = KernelSums(
        np.eye(2)[:, :, None], np.array([[0.9]]), 0.01, bound=np.array([0.5, 0.5])
    )
    release = SumMechanism(features=features, sigma=1.0).release(_rows(10, 2))
    x = torch.tensor([[-0.9, 0.1], [0.1, -0.9]], requires_grad=True)
    FeatureMatching(release)(x).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", [name for name in MAPS if name.startswith("kernels")])
def test_expected_sums_are_those_of_the_mechanism(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = MAPS[name]
    rows = _rows(200) * 2.0  # some are clipped
    want = 3.0 * 200.0 * _averages(name, rows).reshape(features.n_slices, -1)
    assert np.linalg.norm(rows, axis=1).max() > 1.0
    x = torch.from_numpy(rows).requires_grad_()
    got = expected_sums(features, x, n=600)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=600 * 2.0**-29)
    monkeypatch.setattr(sum_losses, "_BLOCK_NUMBERS", 100)
    np.testing.assert_allclose(expected_sums(features, x, n=600), got, rtol=1e-12)
    np.testing.assert_allclose(expected_sums(features, x.float(), n=600), got, rtol=1e-4, atol=1e-4)


def test_bad_arguments_of_expected_sums_are_refused() -> None:
    x = torch.zeros(5, 4)
    with pytest.raises(TypeError, match="features must be KernelSums; got"):
        expected_sums(SecondMoments(4), x, n=5)
    with pytest.raises(TypeError, match="x_synthetic must be a torch tensor"):
        expected_sums(FREE, np.zeros((5, 4)), n=5)
    with pytest.raises(ValueError, match=r"x_synthetic must have shape \(c, 4\)"):
        expected_sums(FREE, x[:, :3], n=5)
    with pytest.raises(ValueError, match="x_synthetic must hold finite"):
        expected_sums(FREE, x * math.nan, n=5)
    with pytest.raises(ValueError, match="n must be"):
        expected_sums(FREE, x, n=0)


def test_bad_arguments_are_refused() -> None:
    rows = SlicingMechanism(sigma=1.0).release(_rows(10))
    with pytest.raises(ValueError, match="takes a release of sums"):
        FeatureMatching(rows)
    counts = SumMechanism(features=MarginalSums((2,), [(0,)]), sigma=1.0).release(
        np.zeros((5, 1), dtype=int)
    )
    with pytest.raises(ValueError, match="MarginalMatching takes MarginalSums"):
        FeatureMatching(counts)
    moments = SumMechanism(features=SecondMoments(4), sigma=1.0).release(_rows(10))
    with pytest.raises(ValueError, match="FeatureMatching takes others"):
        MarginalMatching(moments)
    with pytest.raises(ValueError, match="function is for CustomFeatures"):
        FeatureMatching(moments, function=_waves)
    custom = SumMechanism(features=MAPS["custom"], sigma=1.0).release(_rows(10))
    with pytest.raises(TypeError, match="function must be given"):
        FeatureMatching(custom)
    with pytest.raises(ValueError, match="the result of function"):
        FeatureMatching(custom, function=lambda x: x[:, :1])(torch.zeros(4, 4))
    loss = FeatureMatching(moments)
    with pytest.raises(ValueError, match="at least two rows"):
        loss(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"must have shape \(c, 4\)"):
        loss(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must hold finite numbers"):
        loss(torch.full((2, 4), math.nan))
    with pytest.raises(ValueError, match="n must be"):
        FeatureMatching(moments, n=0)
    assert "SecondMoments" in repr(loss)


def test_moments_can_be_differentiated_once_and_say_so() -> None:
    """Autograd would take the saved gradient for a constant: second derivatives of zero."""
    rows = 0.2 * np.random.default_rng(0).normal(size=(300, 3))
    release = SumMechanism(features=SecondMoments(3), sigma=1.0).release(rows)
    loss = FeatureMatching(release).double()
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiated once only"):
        torch.autograd.grad(grad.sum(), x)
    # torch.func takes the same way.
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), grad.detach())
