"""The table generator: rows that the encoding could have made, with the laws that are set."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generator is a torch module")

from scipy import stats  # noqa: E402

from dpslice.tabular import (  # noqa: E402
    Boolean,
    Categorical,
    Datetime,
    Encoding,
    Number,
    Schema,
    TabularGenerator,
)
from dpslice.tabular.moments import Moments  # noqa: E402

SCHEMA = Schema(
    [
        Categorical("colour", ("red", "green", "blue"), nullable=True),
        Number("age", "integer", 0, 90),
        Number("gain", "real", 0.0, 1e5, special=(0.0,), scale="log"),
        Boolean("owner"),
        Datetime("seen", "2020-01-01", "2024-12-31", nullable=True),
        Categorical("only", (1,)),
    ]
)


@pytest.fixture
def encoding() -> Encoding:
    return Encoding(SCHEMA)


@pytest.fixture
def generator(encoding: Encoding) -> TabularGenerator:
    torch.manual_seed(0)
    return TabularGenerator(encoding, code_dim=4, hidden=(16,))


def _noise(generator: TabularGenerator, b: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(b, generator.latent_dim, generator=torch.Generator().manual_seed(seed))


def test_rows_are_exact_encoded_rows(encoding: Encoding, generator: TabularGenerator) -> None:
    rows = generator(_noise(generator, 500)).detach().numpy().astype(np.float64)
    assert rows.shape == (500, encoding.d)
    assert np.linalg.norm(rows, axis=1).max() <= encoding.max_norm * (1 + 1e-6)
    plain = rows + encoding.offset
    for block in encoding.blocks:
        states = plain[:, block.states]
        if block.n_states:
            np.testing.assert_allclose(
                np.sort(states, axis=1)[:, -1], block.state_weight, rtol=1e-6
            )
            np.testing.assert_allclose(states.sum(axis=1), block.state_weight, rtol=1e-5)
        if block.n_values:
            regular = (
                states[:, 0] > block.state_weight / 2 if block.n_states else np.full(500, True)
            )
            values = plain[:, block.start + block.n_states : block.stop]
            radius = np.hypot(values[:, 0], values[:, 1])
            np.testing.assert_allclose(
                radius, np.where(regular, block.harmonic_weights[0], 0.0), rtol=1e-5, atol=1e-7
            )


def test_decoded_rows_encode_to_themselves(encoding: Encoding, generator: TabularGenerator) -> None:
    rows = generator(_noise(generator, 200)).detach().numpy().astype(np.float64)
    again = encoding.encode(encoding.decode(rows))
    # Integers and dates are rounded on the way; their places move by half a step at most.
    assert np.abs(again - rows).max() < 0.03


def test_noise_alone_decides(generator: TabularGenerator) -> None:
    z = _noise(generator, 64)
    before = torch.random.get_rng_state()
    assert torch.equal(generator(z), generator(z))
    assert torch.equal(before, torch.random.get_rng_state())


def test_extreme_noise_gives_finite_rows(generator: TabularGenerator) -> None:
    z = torch.full((2, generator.latent_dim), 9.0)
    z[1] = -9.0
    assert torch.isfinite(generator(z)).all()


def test_states_follow_the_softmax_of_their_scores(encoding: Encoding) -> None:
    """Chi-squared test at error rate 1e-6: the noise turned into Gumbel noise is Gumbel."""
    generator = TabularGenerator(encoding, code_dim=1, hidden=(2,))
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    with torch.no_grad():
        generator.heads.weight.zero_()
        generator.heads.bias.zero_()
        generator.heads.bias[:4] = torch.tensor(np.log(shares))
        rows = generator(_noise(generator, 50_000)).numpy() + encoding.offset
    counts = (rows[:, :4] > 0.5).sum(axis=0)
    assert counts.sum() == 50_000
    assert stats.chisquare(counts, 50_000 * shares).pvalue > 1e-6


def test_gradient_reaches_every_parameter(generator: TabularGenerator) -> None:
    generator(_noise(generator, 256)).square().sum().backward()
    target = torch.randn(256, generator.d, generator=torch.Generator().manual_seed(1))
    (generator(_noise(generator, 256)) * target).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_start_gives_about_the_mean(encoding: Encoding, generator: TabularGenerator) -> None:
    mean = np.zeros(encoding.d)
    colour = encoding.blocks[0]
    shares = np.array([0.6, 0.3, 0.06, 0.04])
    mean[colour.states] = colour.state_weight * shares - np.asarray(colour.centre)
    generator.start_from(Moments(mean=mean, factors=np.empty((encoding.d, 0))))
    with torch.no_grad():
        rows = generator(_noise(generator, 20_000)).numpy().astype(np.float64)
    found = (rows[:, colour.states] + np.asarray(colour.centre)).mean(axis=0) / colour.state_weight
    floor = 1 / 12  # a third of the uniform share: rarer levels start there
    expected = np.maximum(shares, floor)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.03)


def test_start_puts_the_factor_into_the_covariance(
    encoding: Encoding, generator: TabularGenerator
) -> None:
    colour, owner = encoding.blocks[0], encoding.blocks[3]
    factor = np.zeros((encoding.d, 1))
    factor[colour.start : colour.start + 2, 0] = 0.15, -0.15
    factor[owner.start : owner.start + 2, 0] = 0.15, -0.15
    generator.start_from(Moments(mean=np.zeros(encoding.d), factors=factor))
    with torch.no_grad():
        rows = generator(_noise(generator, 20_000)).numpy().astype(np.float64)
    covariance = np.cov(rows.T)
    assert covariance[colour.start, owner.start] == pytest.approx(0.15**2, rel=0.5)
    assert covariance[colour.start + 1, owner.start] == pytest.approx(-(0.15**2), rel=0.5)


def test_start_from_rows_of_another_length_is_refused(generator: TabularGenerator) -> None:
    with pytest.raises(ValueError, match=f"rows of {generator.d} entries"):
        generator.start_from(Moments(mean=np.zeros(3), factors=np.empty((3, 0))))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"code_dim": 0}, "code_dim must be an integer >= 1"),
        ({"hidden": (8, 0)}, "hidden must be an integer >= 1"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0"),
    ],
)
def test_options_out_of_range_are_refused(
    encoding: Encoding, options: dict[str, object], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        TabularGenerator(encoding, **options)  # type: ignore[arg-type]


def test_arguments_of_other_kinds_are_refused(encoding: Encoding) -> None:
    with pytest.raises(TypeError, match="encoding must be an Encoding; got"):
        TabularGenerator(SCHEMA)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="hidden must be a sequence; got int 8"):
        TabularGenerator(encoding, hidden=8)  # type: ignore[arg-type]
