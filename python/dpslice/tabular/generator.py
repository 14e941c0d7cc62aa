r"""A generator of encoded table rows: a small network with one head per column.

Every output is a row that the encoding could have produced: states are exactly one-hot, values lie
on the encoding's curve. The smoothed likelihood compares distributions, and a relaxed one-hot row
(a softmax at a temperature) has another distribution than the hard rows that are sampled in the
end; in trials that mismatch cost several points of every score. So the forward pass is hard, and
the backward pass uses the relaxation's gradient (the straight-through Gumbel estimator [1]_).

The Gumbel noise comes out of `z`, not out of torch's global generator: the network is a
deterministic map from noise to rows, as `dpslice.torch.fit` expects of every generator.

References
----------
.. [1] Jang, Gu and Poole, "Categorical Reparameterization with Gumbel-Softmax", arXiv:1611.01144.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpslice import _arrays
from dpslice.tabular.encoding import Block, Encoding
from dpslice.tabular.moments import Moments

__all__ = ["TabularGenerator"]

# `start_from`: what is added to a share before dividing by it, and how much of the network's random
# initial output is kept, so that the linear path leads at first. Measured, not derived.
_SHARE_FLOOR = 0.05
_START_SCALE = 0.1


class TabularGenerator(nn.Module):
    """Multilayer perceptron with a softmax head per categorical column and a place per number.

    Parameters
    ----------
    encoding : Encoding
        The encoding of the rows to generate.
    code_dim : int
        Dimension of the part of the noise that the network sees. It bounds how many directions of
        dependence between columns are learned: a row release shows only the strongest few, and
        the rest of a larger code would be fitted to noise.
    hidden : sequence of int
        Widths of the hidden layers.
    temperature : float
        Temperature of the relaxation that carries the gradient through a choice of state.

    Attributes
    ----------
    latent_dim : int
        Entries of the noise `z` for one row: `code_dim`, and one for each state, for the Gumbel
        noise.
    d : int
        Entries of an encoded row.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a number is not positive.
    """

    def __init__(
        self,
        encoding: Encoding,
        *,
        code_dim: int = 16,
        hidden: Sequence[int] = (128, 128),
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        _arrays.instance("encoding", encoding, Encoding, "an Encoding")
        self.code_dim = _arrays.positive_integer("code_dim", code_dim)
        self.temperature = _arrays.positive_real("temperature", temperature)
        self._heads = tuple(_Head(block) for block in encoding.blocks)
        self.d = encoding.d
        self.n_states = n_states = sum(block.n_states for block in encoding.blocks)
        n_places = sum(block.has_value for block in encoding.blocks)
        self.latent_dim = self.code_dim + n_states
        layers: list[nn.Module] = []
        width = self.code_dim
        for size in _arrays.elements("hidden", hidden):
            layers += [nn.Linear(width, _arrays.positive_integer("hidden", size)), nn.ReLU()]
            width = size
        self.trunk = nn.Sequential(*layers)
        # Logits of all columns side by side, then the places of the numbers: what the network
        # makes of the code, and a linear path past it, where `start_from` puts known directions.
        self.heads = nn.Linear(width, n_states + n_places)
        self.direct = nn.Linear(self.code_dim, n_states + n_places, bias=False)
        nn.init.zeros_(self.direct.weight)
        self.offset: Tensor
        self.register_buffer("offset", torch.tensor(encoding.offset, dtype=torch.float32))

    def forward(self, z: Tensor) -> Tensor:
        """Map noise to encoded rows.

        Parameters
        ----------
        z : Tensor, shape (b, latent_dim)
            Standard normal noise, in the dtype of the weights: float32, unless the module was
            converted.

        Returns
        -------
        Tensor, shape (b, d)
            Encoded rows, in that dtype.
        """
        code, gumbel_source = z[:, : self.code_dim], z[:, self.code_dim :]
        outputs = self.heads(self.trunk(code)) + self.direct(code)
        # A standard normal g has the uniform quantile Phi(g); -log(-log U) is Gumbel.
        gumbel = -torch.log(-torch.special.log_ndtr(gumbel_source))
        scores = outputs[:, : self.n_states] + gumbel  # [b, n_states]
        places = torch.sigmoid(outputs[:, self.n_states :])  # [b, n_places]
        parts: list[Tensor] = []
        first_state = first_place = 0
        for head in self._heads:
            states = None
            if head.n_states:
                chosen = scores[:, first_state : first_state + head.n_states]
                first_state += head.n_states
                states = _one_hot(chosen, self.temperature)  # [b, n_states]
                parts.append(states * head.state_weight)
            if head.n_values:
                value = head.curve(places[:, first_place : first_place + 1])  # [b, n_values]
                first_place += 1
                parts.append(value if states is None else value * states[:, :1])
        return torch.cat(parts, dim=1) - self.offset

    @torch.no_grad()
    def start_from(self, moments: Moments) -> None:
        r"""Start so that the first samples have about the given mean and leading covariance.

        A softmax head with shares :math:`\pi` moves by about
        :math:`\mathrm{diag}(\pi)\,\delta` when its logits move by :math:`\delta`, so a factor
        of covariance is put into the linear path divided by the shares. Shares that the noise
        leaves unknown are kept away from 0: a start must not rule a level out, nor give a rare one
        a huge slope.

        Parameters
        ----------
        moments : Moments
            Estimates from a release (`estimate_moments`).

        Raises
        ------
        ValueError
            If they are of rows of another length.
        """
        if moments.mean.shape != (self.d,):
            raise ValueError(
                f"moments must be of rows of {self.d} entries; got {moments.mean.shape}"
            )
        factors = moments.factors[:, : self.code_dim]  # [d, r]
        bias = np.zeros(self.heads.out_features)
        slope = np.zeros((self.heads.out_features, factors.shape[1]))
        plain = moments.mean + self.offset.cpu().numpy()
        output = 0
        for head in self._heads:
            entries = slice(head.start, head.start + head.n_states)
            outputs = slice(output, output + head.n_states)
            if head.n_states:
                share = plain[entries] / head.state_weight
                share = np.maximum(share, 1.0 / (3.0 * head.n_states))
                share /= share.sum()
                bias[outputs] = np.log(share)
                slope[outputs] = factors[entries] / (
                    head.state_weight * (share[:, None] + _SHARE_FLOOR)
                )
            output += head.n_states
        self._set(self.heads.bias, bias)
        self.heads.weight.mul_(_START_SCALE)
        self.direct.weight.zero_()
        self._set(self.direct.weight[:, : factors.shape[1]], slope)

    @staticmethod
    def _set(parameter: Tensor, values: NDArray[np.float64]) -> None:
        parameter.copy_(torch.as_tensor(values, dtype=parameter.dtype))


class _Head:
    """What the forward pass needs to know of a block: plain numbers and its curve."""

    def __init__(self, block: Block) -> None:
        self.start = block.start
        self.n_states = block.n_states
        self.n_values = block.n_values
        self.state_weight = block.state_weight
        self.harmonic_weights = block.harmonic_weights

    def curve(self, place: Tensor) -> Tensor:
        """Value entries of places in [0, 1]; the twin of the encoding's own map."""
        entries: list[Tensor] = []
        for order, weight in enumerate(self.harmonic_weights, start=1):
            angle = place * (order * math.pi)
            entries += [weight * torch.cos(angle), weight * torch.sin(angle)]
        return torch.cat(entries, dim=1)


def _one_hot(scores: Tensor, temperature: float) -> Tensor:
    """One-hot rows of the largest score; gradient of the softmax at the given temperature."""
    soft = torch.softmax(scores / temperature, dim=1)
    hard = torch.zeros_like(soft).scatter_(1, scores.argmax(dim=1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())
