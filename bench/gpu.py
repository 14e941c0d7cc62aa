"""Time the CUDA kernels against torch on the same GPU, and write the report.

    python bench/gpu.py --out bench/results     GPU-DATE.json and GPU-DATE.md
    python bench/gpu.py --device cpu --quick    the same code at toy sizes: is the script sound?

Every answer is compared with torch in float64 on some of its rows before it is timed. Times are
medians of rounds in which the contenders take turns; on a GPU by its own events. A contender that
fails (out of memory, not installed) is reported with its reason.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dpslice
from dpslice import _arrays, kernels
from dpslice.divergences import get_divergence
from dpslice.torch import functional

OURS = "dpslice"
SECONDS_EACH = 1.5
FEWEST_ROUNDS, MOST_ROUNDS = 3, 30

Call = Callable[[], Any]


@dataclass
class Case:
    """One question at one size; `exponentials` and `flop` are the least that it takes."""

    name: str
    contenders: dict[str, Call]
    truth: Tensor | None = None  # what each contender's first result must be, on the first rows
    exponentials: float = 0.0
    flop: float = 0.0


class Clock:
    """Seconds of one call, by the device's own events where it is a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def __call__(self, call: Call) -> float:
        """Return how long one call took."""
        if not self.cuda:
            started = time.perf_counter()
            call()
            return time.perf_counter() - started
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def measure(case: Case, clock: Clock) -> list[dict[str, Any]]:
    """Check and time the contenders of a case, in turns."""
    rows, alive = [], {}
    for name, call in case.contenders.items():
        row: dict[str, Any] = {"case": case.name, "contender": name}
        rows.append(row)
        try:
            found = call()
            if case.truth is not None and isinstance(found, Tensor):
                part = found.detach().double().flatten()[: case.truth.numel()]
                truth = case.truth.flatten()
                row["error"] = float((part - truth).norm() / truth.norm())
            del found
            first = clock(call)
            alive[name] = (call, row, [first], min(MOST_ROUNDS, int(SECONDS_EACH / first) + 1))
        except (RuntimeError, ImportError, ValueError, NotImplementedError) as error:
            row["unavailable"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    for turn in range(MOST_ROUNDS):
        for call, _, samples, rounds in alive.values():
            if turn < max(rounds, FEWEST_ROUNDS):
                samples.append(clock(call))
    for _, row, samples, _ in alive.values():
        row["median_s"] = statistics.median(samples[1:])
        row["rounds"] = len(samples) - 1
        if case.exponentials:
            row["exponentials_per_s"] = case.exponentials / row["median_s"]
        if case.flop:
            row["flop_per_s"] = case.flop / row["median_s"]
    return rows


def gradient(value: Tensor, *leaves: Tensor) -> Tensor:
    """Backward from the sum, and give the value back."""
    torch.autograd.grad(value.sum(), leaves)
    return value


def unchecked(found: Tensor) -> None:
    """Drop a random result, which is compared with nothing."""
    del found


# ----------------------------------------------------------------------------------- the ceilings

# Chains of one instruction, as many beside each other as hide its latency.
CHAINS = r"""
template <class T, int width, class Step> __device__ void chains(T* out, int rounds, Step step) {
  T value[width];
#pragma unroll
  for (int i = 0; i < width; ++i) value[i] = threadIdx.x * T(1e-3) + i * T(0.01);
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int i = 0; i < width; ++i) value[i] = step(value[i]);
  }
  T sum = 0;
#pragma unroll
  for (int i = 0; i < width; ++i) sum += value[i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
struct Exponential {
  __device__ float operator()(float x) {
    asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
  }
};
template <class T> struct MultiplyAdd {
  __device__ T operator()(T x) { return x * T(0.999) + T(1e-3); }
};
extern "C" __global__ void exponentials(float* out, int rounds) {
  chains<float, 8>(out, rounds, Exponential{});
}
extern "C" __global__ void float32(float* out, int rounds) {
  chains<float, 16>(out, rounds, MultiplyAdd<float>{});
}
extern "C" __global__ void float64(double* out, int rounds) {
  chains<double, 16>(out, rounds, MultiplyAdd<double>{});
}
"""


def ceilings(device: torch.device, clock: Clock) -> dict[str, float]:
    """Measure what the device can do at most: exponentials, operations and bytes a second."""
    import cupy

    found = {}

    def best(name: str, call: Call, amount: float) -> None:
        call()
        found[name] = amount / min(clock(call) for _ in range(4))

    module = cupy.RawModule(code=CHAINS, options=("--std=c++17",))
    blocks, threads, rounds = (
        16 * torch.cuda.get_device_properties(device).multi_processor_count,
        256,
        1000,
    )
    out = torch.empty(blocks * threads, dtype=torch.float64, device=device)
    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream)
    for name, width in (("exponentials", 8), ("float32", 2 * 16), ("float64", 2 * 16)):
        kernel = module.get_function(name)
        label = name if name == "exponentials" else f"{name} operations"

        def call(kernel: Any = kernel) -> None:
            with stream:
                kernel((blocks,), (threads,), (out.data_ptr(), cupy.int32(rounds)))

        best(label, call, float(blocks * threads * rounds * width))
    x = torch.randn(2**28, device=device)
    y = torch.empty_like(x)
    best("bytes copied", lambda: y.copy_(x), 2.0 * 4 * x.numel())
    for dtype, size in ((torch.float32, 8192), (torch.float64, 4096)):
        a = torch.randn(size, size, device=device, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        best(f"operations of a {name} matrix product", partial(torch.matmul, a, a), 2.0 * size**3)
    return found


# -------------------------------------------------------------------------------------- the cases


def kernel_sum(device: torch.device, b: int, k: int, *, keops: bool = False) -> Case:
    """Make the case of sums, forward and backward in y, b = c; distances as in 2 dimensions."""
    x, y = (math.sqrt(2 / k) * torch.randn(1, b, k, device=device) for _ in range(2))
    leaf = y.clone().requires_grad_()
    block = min(b, 4096)

    def ours() -> Tensor:
        return gradient(functional.gaussian_kernel_sum(x, leaf, 1.0), leaf)

    def by_blocks() -> Tensor:
        """Blocks of rows, gradient written out, nothing recorded: the best torch."""
        sums, pull, weight = [], torch.zeros_like(y[0]), torch.zeros(b, 1, device=device)
        half = 0.5 * y[0].square().sum(-1)
        for rows in x[0].split(block):
            exponent = torch.addmm(-half, rows, y[0].T)
            kernel = exponent.sub_(0.5 * rows.square().sum(-1, keepdim=True)).exp_()
            sums.append(kernel.sum(1))
            pull.addmm_(kernel.T, rows)
            weight += kernel.sum(0)[:, None]
        pull -= weight * y[0]
        return torch.cat(sums)

    def by_keops() -> Tensor:
        # What KeOps compiles may bring a libstdc++ of its own, with which it crashes.
        ctypes.CDLL("libstdc++.so.6", mode=ctypes.RTLD_GLOBAL)
        from pykeops.torch import LazyTensor

        square = ((LazyTensor(x[0][:, None, :]) - LazyTensor(leaf[0][None, :, :])) ** 2).sum(-1)
        return gradient((-0.5 * square).exp().sum(1), leaf)

    rows = x[0, :64].double()
    truth = (-0.5 * torch.cdist(rows, y[0].double()).square()).exp().sum(1)
    return Case(
        f"gaussian_kernel_sum, b = c = {b}, k = {k}",
        {OURS: ours, "torch, by blocks": by_blocks} | ({"KeOps": by_keops} if keops else {}),
        truth,
        exponentials=2.0 * b * b,
    )


def plain_ratio(q: Tensor, p: Tensor, ridge: float) -> Tensor:
    """Density ratios in torch, of bandwidth 1 and b = c."""
    gram = (-0.5 * torch.cdist(q, q).square()).exp()
    gram = gram + ridge * torch.eye(q.shape[1], device=q.device, dtype=q.dtype)
    sums = (-0.5 * torch.cdist(q, p).square()).exp().sum(-1, keepdim=True)
    factor, _ = torch.linalg.cholesky_ex(gram)
    return torch.cholesky_solve(sums, factor)[..., 0]


def density_ratio(device: torch.device, m: int, b: int, k: int) -> Case:
    """Make the case of ratios, forward and backward in p, c = b."""
    q, p = torch.randn(m, b, k, device=device), torch.randn(m, b, k, device=device)
    leaf = p.clone().requires_grad_()
    ridge = 0.05

    def ours() -> Tensor:
        return gradient(functional.density_ratio(q, leaf, 1.0, ridge), leaf)

    bandwidth, ones = torch.ones(m, device=device), torch.ones(m, b, device=device)

    def alone() -> None:
        """Run the kernels without autograd, and without waiting for what they report."""
        core = _arrays.backend_for(_arrays.place_of("q", q), later=True)
        given, kept = (q, p, bandwidth, ridge, 0.0), core.room_for_factors(q)
        core.density_ratio_vjp(*given, core.density_ratio(*given, kept), ones, False, True, kept)

    truth = plain_ratio(q[:2].double(), p[:2].double(), ridge)
    contenders: dict[str, Call] = {OURS: ours}
    if device.type == "cuda":
        contenders[f"{OURS}, kernels alone"] = alone
    contenders["torch, cholesky_ex"] = lambda: gradient(plain_ratio(q, leaf, ridge), leaf)
    return Case(f"density_ratio, m = {m}, b = c = {b}, k = {k}", contenders, truth)


def divergence(device: torch.device, m: int, b: int, k: int) -> Case:
    """Make the case of the fused loss, Kullback-Leibler, forward and backward in p, c = b."""
    q, p = torch.randn(m, b, k, device=device), torch.randn(m, b, k, device=device)
    leaf = p.clone().requires_grad_()
    ridge, r_min = 0.05, get_divergence("kl").r_min

    def plain(q: Tensor, p: Tensor) -> Tensor:
        ratio = plain_ratio(q, p, ridge).clamp(min=r_min)
        return (ratio * ratio.log() - ratio + 1).mean(-1)

    def ours() -> Tensor:
        return gradient(functional.density_ratio_divergence(q, leaf, 1.0, ridge, "kl"), leaf)

    return Case(
        f"density_ratio_divergence, m = {m}, b = c = {b}, k = {k}",
        {OURS: ours, "torch, cholesky_ex": lambda: gradient(plain(q, leaf), leaf)},
        plain(q[:2].double(), p[:2].double()),
    )


def sliced_wasserstein(device: torch.device, m: int, b: int) -> Case:
    """Make the case of order 2, forward and backward in y, c = b."""
    x, y = torch.randn(m, b, device=device), torch.randn(m, b, device=device)
    leaf = y.clone().requires_grad_()

    def plain(x: Tensor, y: Tensor) -> Tensor:
        return (x.sort(dim=1).values - y.sort(dim=1).values).square().mean(1)

    return Case(
        f"sliced_wasserstein, m = {m}, b = c = {b}",
        {
            OURS: lambda: gradient(functional.sliced_wasserstein(x, leaf), leaf),
            f"{OURS}, no gradient": lambda: kernels.sliced_wasserstein(x, y),
            "torch, sort": lambda: gradient(plain(x, leaf), leaf),
            "torch, sort, no gradient": lambda: plain(x, y),
        },
        plain(x[:2].double(), y[:2].double()),
    )


def median_distance(device: torch.device, m: int, b: int, k: int) -> Case:
    """Make the case of medians, without gradients: they choose a bandwidth."""
    x = torch.randn(m, b, k, device=device)

    def by_pdist() -> Tensor:
        return torch.stack([torch.pdist(points).median() for points in x])

    def by_cdist() -> Tensor:
        i, j = torch.triu_indices(b, b, 1, device=device)
        return torch.cdist(x, x)[:, i, j].median(1).values

    # The median of an even number is between two, of which torch's is the lower.
    pairs = torch.stack([torch.pdist(points).sort().values for points in x[:2].double()])
    count = pairs.shape[1]
    return Case(
        f"median_distance, m = {m}, b = {b}, k = {k}",
        {
            OURS: lambda: kernels.median_distance(x),
            "torch, pdist": by_pdist,
            "torch, cdist": by_cdist,
        },
        (pairs[:, (count - 1) // 2] + pairs[:, count // 2]) / 2,
    )


def logsumexp(device: torch.device, b: int, k: int) -> Case:
    """Log sums forward and backward in y, b = c."""
    x, y = torch.randn(1, b, k, device=device), torch.randn(1, b, k, device=device)
    leaf = y.clone().requires_grad_()
    g = math.sqrt(k)

    def plain(x: Tensor, y: Tensor) -> Tensor:
        shift = 0.5 * y.square().sum(-1)
        exponent = (x @ y.mT - shift[:, None, :]) / g**2
        return exponent.logsumexp(-1) - 0.5 * x.square().sum(-1) / g**2

    def attention() -> None:
        """Take the same sums as an attention of x over y, y being values, too."""
        bias = (-0.5 * leaf.square().sum(-1) / g**2)[:, None, None, :].expand(1, 1, b, b)
        found = nn.functional.scaled_dot_product_attention(
            x[None], leaf[None], leaf[None], attn_mask=bias, scale=1 / g**2
        )
        gradient(found, leaf)

    ones = torch.ones(1, b, device=device)

    def total() -> None:
        """Take the total over the rows, which comes with its gradient in one call."""
        gradient(functional.gaussian_kernel_logsumexp(x, leaf, g, row_weights=ones), leaf)

    return Case(
        f"gaussian_kernel_logsumexp, b = c = {b}, k = {k}",
        {
            OURS: lambda: gradient(functional.gaussian_kernel_logsumexp(x, leaf, g), leaf),
            f"{OURS}, total of the rows": total,
            "torch, matmul and logsumexp": lambda: gradient(plain(x, leaf), leaf),
            "torch, attention": attention,
        },
        plain(x[:, :64].double(), y.double()),
        flop=6.0 * b * b * k,
    )


def project(device: torch.device, n: int, d: int, p: int) -> Case:
    """Rows times frame plus noise; the first rows are checked without noise."""
    x, frame = torch.randn(n, d, device=device), torch.randn(d, p, device=device) / math.sqrt(d)
    return Case(
        f"project, n = {n}, d = {d}, p = {p}",
        {
            f"{OURS}, no noise": lambda: kernels.project(x, frame, 0.0, "fast"),
            f"{OURS}, fast noise": lambda: unchecked(kernels.project(x, frame, 1.0, "fast")),
            f"{OURS}, secure noise": lambda: unchecked(kernels.project(x, frame, 1.0)),
            "torch, no noise": lambda: x @ frame,
            "torch, randn": lambda: unchecked((x @ frame).add_(torch.randn(n, p, device=device))),
        },
        x[:64].double() @ frame.double(),
        flop=2.0 * n * d * p,
    )


def training_step(device: torch.device, b: int, d: int, hidden: int) -> Case:
    """Make the case of a step: generator, log likelihood under noise, backward, Adam."""
    released, noise = torch.randn(1, b, d, device=device), torch.randn(b, 32, device=device)

    def make(loss_of: Callable[[Tensor], Tensor], *, graph: bool = False) -> Call:
        torch.manual_seed(0)
        layers = [nn.Linear(32, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Linear(hidden, d)).to(device)
        adam = torch.optim.Adam(net.parameters(), lr=1e-4, capturable=graph)

        def step() -> None:
            adam.zero_grad(set_to_none=True)
            loss_of(net(noise)).backward()
            adam.step()

        if not graph:
            return step
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            step()

        def replay(kept: object = (net, adam)) -> None:  # whose memory the graph works on
            recorded.replay()

        return replay

    def ours(rows: Tensor) -> Tensor:
        return -functional.gaussian_kernel_logsumexp(released, rows[None], bandwidth).mean()

    def plain(rows: Tensor) -> Tensor:
        exponent = released[0] @ rows.T - 0.5 * rows.square().sum(-1)
        return -(exponent.logsumexp(-1) - 0.5 * released[0].square().sum(-1)).mean()

    bandwidth = torch.ones(1, device=device)
    contenders = {OURS: make(ours), "torch": make(plain)}
    if device.type == "cuda":
        contenders[f"{OURS}, one graph"] = make(ours, graph=True)
    return Case(f"training step, b = c = {b}, d = {d}, MLP {hidden}-{hidden}", contenders)


def cases(device: torch.device, quick: bool, keops: bool) -> list[Callable[[], Case]]:
    """Make the cases one at a time: each needs the memory of the device for itself."""
    if quick:
        return [
            lambda: kernel_sum(device, 200, 2, keops=keops),
            lambda: density_ratio(device, 5, 20, 2),
            lambda: divergence(device, 5, 20, 2),
            lambda: sliced_wasserstein(device, 5, 20),
            lambda: median_distance(device, 5, 20, 2),
            lambda: logsumexp(device, 100, 12),
            lambda: project(device, 200, 16, 16),
            lambda: training_step(device, 64, 12, 16),
        ]
    sizes = ((1000, 128), (1000, 256), (200, 512))
    return [
        lambda: kernel_sum(device, 100_000, 2, keops=keops),
        lambda: kernel_sum(device, 16_384, 94),
        *(partial(density_ratio, device, m, b, 2) for m, b in sizes),
        lambda: divergence(device, 1000, 128, 2),
        lambda: sliced_wasserstein(device, 1000, 1024),
        lambda: sliced_wasserstein(device, 200, 50_000),
        lambda: sliced_wasserstein(device, 1, 1_000_000),
        lambda: median_distance(device, 1, 4096, 94),
        lambda: median_distance(device, 100, 1024, 2),
        lambda: logsumexp(device, 16_384, 94),
        lambda: logsumexp(device, 16_384, 784),
        lambda: project(device, 10_000_000, 128, 128),
        lambda: training_step(device, 4096, 94, 256),
    ]


# ------------------------------------------------------------------------------------- the report


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line for each contender."""
    lines = ["| case | contender | median | its time / ours | error |", "|---|---|---|---|---|"]
    for row in rows:
        ours = next(
            (r["median_s"] for r in rows if r["case"] == row["case"] and "median_s" in r), math.nan
        )
        if "median_s" in row:
            cells = [f"{row['median_s'] * 1e3:.4g} ms", f"{row['median_s'] / ours:.2f}"]
            cells.append(f"{row['error']:.1e}" if "error" in row else "")
        else:
            cells = [row["unavailable"], "", ""]
        lines.append(f"| {row['case']} | {row['contender']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ceiling_text(most: dict[str, float] | str) -> str:
    """Ceilings in words."""
    if isinstance(most, str):
        return most
    return "; ".join(f"{amount:.3g} {name}" for name, amount in most.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the report; default: print it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--keops", action="store_true", help="KeOps, too, which compiles for long")
    parser.add_argument(
        "--warm-keops", action="store_true", help="let KeOps compile what it needs, and no more"
    )
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    if arguments.warm_keops:
        kernel_sum(device, 200, 2, keops=True).contenders["KeOps"]()
        return 0
    rows = []
    for make in cases(device, arguments.quick, arguments.keops):
        rows += measure(make(), Clock(device))
        print(rows[-1]["case"], flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    most: dict[str, float] | str = "not measured"
    if device.type == "cuda":
        try:
            most = ceilings(device, Clock(device))
        except Exception as error:  # whatever CuPy's compiler says: the rows are worth more
            most = f"not measured: {type(error).__name__}: {error}"
    facts = {
        "device": name,
        "date": datetime.date.today().isoformat(),
        "dpslice": dpslice.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "ceilings a second": most,
        "rows": rows,
    }
    limits = f"Ceilings, a second: {ceiling_text(most)}.\n"
    text = f"# {name}, {facts['date']}\n\nfloat32; torch {facts['torch']}. {limits}\n{table(rows)}"
    if arguments.out is None:
        print(text)
        return 0
    stem = f"{name.lower().replace(' ', '-')}-{facts['date']}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (arguments.out / f"{stem}.md").write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
