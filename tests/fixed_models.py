"""Synthesizers with weights of their own, always the same: releases have secret noise."""

from __future__ import annotations

from typing import Any

import torch

from dpslice.tabular import Schema, Synthesizer
from dpslice.tabular.synthesizer import MixtureOptions, TrainingOptions

QUICK: dict[str, Any] = {
    "rows": TrainingOptions(steps=10, batch_size=128),
    "sums": MixtureOptions(steps=10, components=32),
}


def quick_synthesizer(method: str, schema: Schema) -> Synthesizer:
    """One that is not trained, and would be in no time."""
    return Synthesizer(schema, epsilon=4.0, delta=1e-5, method=method, training=QUICK[method])


def fixed_synthesizer(method: str, schema: Schema, *, uneven: bool = False) -> Synthesizer:
    """One whose model is there without a release; values in a bin of sums are even, or are not."""
    synthesizer = quick_synthesizer(method, schema)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        model = synthesizer._method.new_model().eval()
        weights = model.logits if method == "sums" else model.direct.weight
        weights.copy_((1.0 if method == "sums" else 0.5) * torch.randn_like(weights))
        if method == "sums":
            for name, shape in model.named_buffers():
                counts = torch.ones(len(shape) - 1, dtype=torch.float64)
                if uneven:
                    counts = torch.rand(len(counts), dtype=torch.float64) ** 2
                model.get_buffer(name)[1:] = counts.cumsum(0)
    synthesizer.model = model
    return synthesizer
