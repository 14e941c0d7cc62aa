"""The compiled kernels on arrays, without privacy, without autograd: NumPy in, NumPy out.

Each is batched over m slices. torch tensors on the CPU work alike and come back as tensors.

Run: python examples/kernels_on_arrays.py
"""

import numpy as np

from dpslice import kernels

rng = np.random.default_rng(0)
m, b, c, k = 8, 500, 2000, 3
x = rng.normal(size=(m, b, k))  # [m, b, k] query points
y = rng.normal(size=(m, c, k)) + 0.5  # [m, c, k] source points

# A kernel density estimate of y at x: sums over c without a (b, c) matrix in memory.
bandwidth = 0.3
density = kernels.gaussian_kernel_sum(x, y, bandwidth) / c  # [m, b]
log_density = kernels.gaussian_kernel_logsumexp(x, y, bandwidth) - np.log(c)  # [m, b]
print("largest difference of log densities", np.abs(np.log(density) - log_density).max())

# Far away the sum underflows; its logarithm does not.
far = x + 100.0
print("sum", kernels.gaussian_kernel_sum(far, y, bandwidth).max())
print("log sum", kernels.gaussian_kernel_logsumexp(far, y, bandwidth).max())

# The median heuristic, one bandwidth per slice, and the density ratio of y's rows to x's.
medians = kernels.median_distance(x)  # [m]
ratio = kernels.density_ratio(x, y, medians, ridge=1e-2)  # [m, b]
print("mean ratio", ratio.mean())

# Sliced Wasserstein distance: columns of projections on random directions, [m, b] and [m, c].
directions = rng.normal(size=(k, m))
directions /= np.linalg.norm(directions, axis=0)
u = np.ascontiguousarray((x[0] @ directions).T)
v = np.ascontiguousarray((y[0] @ directions).T)
print("squared sliced 2-Wasserstein distance", kernels.sliced_wasserstein(u, v, order=2).mean())

# XU + noise in one pass. "fast" noise with a key is for experiments; a release never uses it.
frame = np.linalg.qr(rng.normal(size=(k, k)))[0]
noisy = kernels.project(x[0], frame, 0.1, noise="fast", key=(7, 0))
print("standard deviation of the noise", (noisy - x[0] @ frame).std())
