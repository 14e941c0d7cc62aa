"""dpslice: train generative models on private data."""
