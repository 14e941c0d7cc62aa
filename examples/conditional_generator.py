"""A conditional generator: rows of any label, from one release of labelled rows.

The label is part of the released row, as a one-hot vector that shares the bound on the row's norm
with the features. The generator draws labels and makes features for them, so that the loss sees
whole rows; afterwards it is asked for any label.

Run: python examples/conditional_generator.py
"""

import numpy as np
import torch

import dpslice
from dpslice.torch import SmoothedLikelihood, fit

LABELS, FEATURES = 3, 2
LABEL_SCALE = 0.6  # features within 0.8 of 0 then make rows within 1: 0.6^2 + 0.8^2 = 1

# Private rows: three clusters, of 60, 30 and 10 in a hundred rows.
rng = np.random.default_rng(0)
label = rng.choice(LABELS, 20_000, p=[0.6, 0.3, 0.1])
centres = np.array([[0.5, 0.0], [-0.3, 0.4], [-0.3, -0.4]])
features = centres[label] + 0.05 * rng.normal(size=(len(label), FEATURES))
private = np.column_stack([features, LABEL_SCALE * np.eye(LABELS)[label]])

release = dpslice.SlicingMechanism(epsilon=5.0, delta=1e-6, seed=0).release(private)
print(release.guarantee)

# How frequent labels are, from the release: all orthonormal directions turned back are the rows
# again, with noise, and the average of 20,000 noises is small.
noisy_rows = release.projections @ release.frame.T
shares = np.clip(noisy_rows[:, FEATURES:].mean(axis=0) / LABEL_SCALE, 0.0, None)
shares = torch.from_numpy(shares / shares.sum())
print("shares of the labels", shares.numpy().round(3), "(private rows: 0.6, 0.3, 0.1)")


class Conditional(torch.nn.Module):
    """Features for a label and noise; `forward` draws the labels, as `fit` wants of a generator."""

    latent_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(self.latent_dim + LABELS, 64),
            torch.nn.Tanh(),
            torch.nn.Linear(64, FEATURES),
        )

    def features(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Map noise (b, 4) and labels (b,) to features (b, 2)."""
        one_hot = torch.nn.functional.one_hot(label, LABELS).to(z.dtype)
        made: torch.Tensor = self.net(torch.cat([z, one_hot], dim=1))
        return made

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map noise (b, 4) to rows (b, 5) with labels as frequent as they are."""
        label = torch.multinomial(shares, len(z), replacement=True)
        one_hot = torch.nn.functional.one_hot(label, LABELS).to(z.dtype)
        return torch.cat([self.features(z, label), LABEL_SCALE * one_hot], dim=1)


torch.manual_seed(0)
generator = Conditional()
loss = SmoothedLikelihood(release, batch_size=1024, seed=0)
fit(generator, loss, steps=600, batch_size=1024, lr=1e-2, progress=False)

with torch.no_grad():
    for wanted in range(LABELS):
        made = generator.features(torch.randn(1000, 4), torch.full((1000,), wanted))
        print(
            f"label {wanted}: mean {made.mean(dim=0).numpy().round(2)} "
            f"(private rows: {centres[wanted]})"
        )
