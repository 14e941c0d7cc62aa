"""A generator of one's own, trained on one release with three losses. No privacy is spent twice.

Run: python examples/custom_generator.py
"""

import torch

import dpslice
from dpslice.torch import SlicedDivergence, SlicedWasserstein, SmoothedLikelihood, fit


class Ring(torch.nn.Module):
    """Any module that maps noise (b, latent_dim) to rows (b, d) will do; this one draws a ring."""

    latent_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.radius = torch.nn.Parameter(torch.tensor(0.3))
        self.wobble = torch.nn.Sequential(
            torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map noise (b, 4) to rows (b, 2)."""
        direction = torch.nn.functional.normalize(z[:, :2], dim=1)
        wobble: torch.Tensor = self.wobble(z)
        return self.radius * direction + 0.1 * wobble


# Private rows: points near a circle of radius 0.8. Rows longer than max_norm = 1 would be clipped.
torch.manual_seed(0)
angle = 2 * torch.pi * torch.rand(20_000)
private = 0.8 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.02 * torch.randn(20_000, 2)

release = dpslice.SlicingMechanism(epsilon=5.0, delta=1e-6, seed=0).release(private)
print(release.guarantee)

for loss in (
    SmoothedLikelihood(release, batch_size=1024, seed=0),
    SlicedDivergence(release, "kl", ridge=1.0, slice_dim=2, batch_size=512, seed=0),
    SlicedWasserstein(release, slices="fresh", n_slices=16, batch_size=1024, seed=0),
):
    torch.manual_seed(0)
    generator = Ring()
    result = fit(generator, loss, steps=300, batch_size=512, lr=1e-2, progress=False)
    with torch.no_grad():
        radius = generator(torch.randn(1000, 4)).norm(dim=1)
    print(
        f"{type(loss).__name__:20} {result.seconds:5.1f} s   "
        f"radius {radius.mean():.3f} +- {radius.std():.3f} (private rows: 0.80 +- 0.02)"
    )
