r"""Losses between synthetic rows and a release of rows: modules that map rows (c, d) to a scalar.

Each takes the synthetic rows in the coordinates that the release was made of, projects them as the
private rows were, and compares the two clouds slice by slice. A release is public, so no call
costs any privacy.

Randomness (batches of released rows, fresh slices, sampled noise) comes from one generator per
loss, which lives on the CPU on every device; its state is part of ``state_dict()``. Under
`torch.vmap`, as for an ensemble of generators, all share one draw, whatever `randomness` says. A
step under `torch.compile` is one graph (``fullgraph=True``), in which each run draws anew, the same
as in eager mode.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpslice import _arrays
from dpslice.divergences import Divergence, get_divergence
from dpslice.release import RowRelease, checked_release
from dpslice.torch import functional

__all__ = ["SlicedDivergence", "SlicedWasserstein", "SmoothedLikelihood"]

# Rows that the median distances of fixed slices are taken over: half a million pairs per slice,
# which pins a median to about 1 %, at a cost that does not depend on n.
MEDIAN_ROWS = 1024


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Switch autocast off: distances of nearby points do not survive 8 or 11 bits."""
    # Of other devices, such as "meta", torch may not know whether it is on.
    if device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def check_kind(loss: str, release: object, kind: str) -> None:
    found = checked_release(release).kind
    if found != kind:
        raise ValueError(f"{loss} takes a release of {kind}; got kind {found!r}")


def _as_numpy(drawn: Tensor) -> NDArray[np.int64]:
    """Return fresh integers as an array, also inside torch.func, where tensors show no values."""
    with torch._C._DisableFuncTorch():
        return drawn.numpy()


def _stretch(rows: object, n: int) -> tuple[int, int]:
    """Return the first row that is used and the one after the last: all n, or the user's."""
    if rows is None:
        return 0, n
    bounds = tuple(
        _arrays.integer("rows", row, minimum=0) for row in _arrays.elements("rows", rows)
    )
    if len(bounds) != 2 or not bounds[0] < bounds[1] <= n:
        raise ValueError(
            f"rows must be (first, stop) with 0 <= first < stop <= {n}, the rows of the release; "
            f"got {_arrays.describe(rows)}"
        )
    return bounds


class _ReleaseLoss(nn.Module):
    """What the losses on a release of rows share: batches, slices, random state, checks."""

    release: RowRelease
    _blurs = False  # whether noise is drawn for the synthetic rows
    _called: ClassVar[str]  # what the functional calls the synthetic rows, sliced

    def __init__(
        self,
        release: RowRelease,
        *,
        slices: str,
        n_slices: int | None,
        slice_dim: int,
        batch_size: int,
        rows: tuple[int, int] | None,
        seed: int | None,
    ) -> None:
        super().__init__()
        check_kind(type(self).__name__, release, "rows")
        self.release = release
        # A graph of torch.compile would take the arrays of a release, if it were asked, as inputs.
        self.d, self._sigma = release.d, release.sigma
        self.slices = _arrays.choice("slices", slices, ("fixed", "fresh"))
        self.slice_dim = _arrays.positive_integer("slice_dim", slice_dim)
        if self.slice_dim > release.p:
            raise ValueError(
                f"slice_dim must be at most the {release.p} columns of the release; got {slice_dim}"
            )
        if n_slices is None:
            n_slices = release.p // self.slice_dim
        self.n_slices = _arrays.positive_integer("n_slices", n_slices)
        self.rows = _stretch(rows, release.n)
        self.batch_size = min(
            _arrays.positive_integer("batch_size", batch_size), self.rows[1] - self.rows[0]
        )
        if seed is not None:
            seed = _arrays.seed("seed", seed)
        self.seed = seed
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

        if self.slices == "fixed":
            # [m, d, k] -> [d, m k]: the slices side by side, as they are in the release.
            fixed = release.slices(self.slice_dim, self.n_slices).frame
            frame = fixed.transpose(1, 0, 2).reshape(release.d, -1)
        elif release.frame_kind != "orthonormal" or release.p > release.d:
            raise ValueError(
                "slices='fresh' needs a release with an orthonormal frame and at most d columns: "
                "only there does a new slice carry independent noise of the same sigma; got "
                f"frame {release.frame_kind!r} with p={release.p}, d={release.d}; "
                "use slices='fixed'"
            )
        else:
            frame = release.frame  # [d, p]
        self._frame = torch.tensor(frame, dtype=torch.float64, device="cpu")
        self._frame_like: Tensor | None = None  # the frame in the dtype of the last call
        self._name = _named(self)

    # ------------------------------------------------------------------------------- state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Give a copy, by `copy` or `pickle`, a name of its own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._name = _named(self)

    def get_extra_state(self) -> Tensor:
        """Return the state of the random generator, for ``state_dict``."""
        return self._generator.get_state()

    def set_extra_state(self, state: Any) -> None:
        """Take up the state of the random generator that ``state_dict`` returned."""
        if not isinstance(state, Tensor) or state.dtype != torch.uint8:
            raise TypeError(
                "state_dict of a loss must hold the state of a random generator, a uint8 tensor; "
                f"got {_arrays.describe(state)}"
            )
        self._generator.set_state(state.cpu())

    def _settings(self) -> dict[str, object]:
        return {
            "slices": self.slices,
            "n_slices": self.n_slices,
            "slice_dim": self.slice_dim,
            "batch_size": self.batch_size,
            **({"rows": self.rows} if self.rows != (0, self.release.n) else {}),
            "seed": self.seed,
        }

    def extra_repr(self) -> str:
        """Show the release's sizes and the settings."""
        release = self.release
        sizes = {"n": release.n, "d": release.d, "p": release.p, "sigma": release.sigma}
        return ", ".join(f"{key}={value!r}" for key, value in {**sizes, **self._settings()}.items())

    # ------------------------------------------------------------------------------- slices

    def _drawn(self, draw: Callable[..., Tensor], *size: Any, **options: Any) -> Tensor:
        """Draw from the loss's generator, on the CPU, whatever torch's default device is.

        Inside torch.func it is a tensor as any other: under `torch.vmap` one draw for all.
        """
        options.update(generator=self._generator, device="cpu")
        if not torch._C._are_functorch_transforms_active():
            return draw(*size, **options)
        with torch._C._DisableFuncTorch():
            return draw(*size, **options)

    def _draw_rows(self) -> NDArray[np.intp]:
        """Draw `batch_size` distinct rows, each subset equally likely, in O(batch_size) memory."""
        first, stop = self.rows
        n, b = stop - first, self.batch_size
        if b == n:
            return np.arange(first, stop)
        if 3 * b >= n:
            return first + np.sort(_as_numpy(self._drawn(torch.randperm, n))[:b])
        rows = np.empty(0, dtype=np.int64)
        while len(rows) < b:  # by symmetry of the row numbers, repeats may simply be drawn anew
            more = _as_numpy(self._drawn(torch.randint, n, (b - len(rows),)))
            rows = np.unique(np.concatenate([rows, more]))
        return first + rows

    def _released(self, rows: NDArray[np.intp]) -> Tensor:
        """Gather released rows [b, p]; of a memory-mapped release, only they are read."""
        taken = np.take(self.release.projections, rows, axis=0)
        return torch.from_numpy(np.asarray(taken))

    def _cut(self, values: Tensor) -> Tensor:
        """Turn slices side by side, [rows, m k], into [m, rows, k]."""
        return values.reshape(-1, self.n_slices, self.slice_dim).transpose(0, 1).contiguous()

    def _frame_as(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            # A copy is of the graph, or the transform, only.
            return self._frame.to(dtype=x.dtype, device=x.device)
        cached = self._frame_like
        if cached is None or cached.dtype != x.dtype or cached.device != x.device:
            # What is made in inference mode could never be used to train.
            with torch.inference_mode(False):
                self._frame_like = cached = self._frame.to(dtype=x.dtype, device=x.device)
        return cached

    def _directions(self) -> Tensor:
        """Draw m orthonormal k-frames W of R^p, side by side: [p, m k], uniformly distributed.

        For an orthonormal frame U with p <= d columns, O W = X (U W) + V W, and V W has again
        independent entries of standard deviation sigma: a fresh slice of the same release.
        """
        m, p, k = self.n_slices, self.release.p, self.slice_dim
        normal = self._drawn(torch.randn, m, p, k, dtype=torch.float64)
        q, r = torch.linalg.qr(normal)
        # The signs of R's diagonal make Q Haar-distributed, whatever the library's convention.
        signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0.0, -1.0, 1.0)
        q = q * signs.to(q.dtype).unsqueeze(-2)
        side_by_side: Tensor = q.permute(1, 0, 2).reshape(p, m * k).contiguous()
        return side_by_side

    def _draw(self, c: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Draw all that a call needs, on the CPU; what it does not need is empty.

        Returns released rows [b, p], directions of fresh slices [p, m k], and noise for c synthetic
        rows [m, c, k].
        """
        rows = self._released(self._draw_rows()).to(dtype)
        fresh = self.slices == "fresh"
        directions = self._directions().to(dtype) if fresh else rows.new_empty(0)
        size = (self.n_slices, c, self.slice_dim) if self._blurs else (0,)
        return rows, directions, self._drawn(torch.randn, size, dtype=dtype)

    def _drawn_sizes(self, c: int) -> tuple[tuple[int, ...], ...]:
        """Return the sizes of what `_draw` returns."""
        m, p, k = self.n_slices, self.release.p, self.slice_dim
        return (
            (self.batch_size, p),
            (p, m * k) if self.slices == "fresh" else (0,),
            (m, c, k) if self._blurs else (0,),
        )

    def _pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch of released rows and the synthetic rows, sliced: [m, b, k], [m, c, k].

        Where noise is drawn, the synthetic rows come with fresh noise of the release's kind.
        """
        if torch.compiler.is_compiling():
            drawn = torch.ops.dpslice.draw_of_loss(self._name, _site(), x.shape[0], x.dtype)
        else:
            drawn = self._draw(x.shape[0], x.dtype)
        released, w, noise = (each.to(x.device) for each in drawn)
        frame = self._frame_as(x)
        if self.slices == "fixed":
            released = released[:, : frame.shape[1]]
        else:
            released, frame = released @ w, frame @ w
        private, synthetic = self._cut(released), self._cut(x @ frame)
        return private, synthetic + self._sigma * noise if self._blurs else synthetic

    # ----------------------------------------------------------------------------------- call

    def forward(self, x_synthetic: Tensor) -> Tensor:
        """Return the loss of synthetic rows.

        Parameters
        ----------
        x_synthetic : Tensor, shape (c, d), float32 or float64
            Synthetic rows, in the coordinates (and the unit) of the rows that were released. Under
            autocast, float16 and bfloat16 are taken too and computed with in float32.

        Returns
        -------
        Tensor, shape ()
            The loss; dtype and device of `x_synthetic` (float32 for the half types).

        Raises
        ------
        TypeError
            If `x_synthetic` is not a tensor of a supported dtype.
        ValueError
            If its shape is not (c, d) with c >= 1, it holds NaN or infinity, or numbers so large
            that the loss is beyond its dtype.
        """
        x = _arrays.synthetic_rows("x_synthetic", x_synthetic, d=self.d)
        with full_precision(x.device):
            if torch.compiler.is_compiling():
                return self._loss(x)
            try:
                return self._loss(x)
            except ValueError as error:
                # All else has been checked: what is wrong now is wrong with these rows.
                subject, must, rule = str(error).partition(" must ")
                if subject != self._called or not must:
                    raise
                raise ValueError(f"x_synthetic, sliced, must {rule}") from None

    def _loss(self, x: Tensor) -> Tensor:
        raise NotImplementedError


# ------------------------------------------------------------------------------ in compiled graphs
#
# What a loss draws depends on no tensor, so a graph of torch.compile holds it as one operator that
# draws anew at each run. An operator takes no loss, but the name of one. It draws on the CPU, from
# where the graph moves it: what is on the CPU cannot become part of a recorded CUDA graph. Of calls
# with equal arguments, torch's compiler makes one where there are gradients: so they are numbered.

_LOSSES: weakref.WeakValueDictionary[str, _ReleaseLoss] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_sites = itertools.count()


def _named(loss: _ReleaseLoss) -> str:
    # In another process the number may be another loss's, which a graph that was exported must not
    # take for its own: so the name is of the release and the settings, too.
    first_row = np.ascontiguousarray(loss.release.projections[:1])
    about = repr(_ReleaseLoss._settings(loss)).encode() + first_row.tobytes()
    mark = hashlib.blake2s(about, digest_size=4).hexdigest()
    name = f"{type(loss).__name__}-{next(_numbers)}-{mark}"
    _LOSSES[name] = loss
    return name


def _site() -> int:
    return next(_sites)


# Called while a graph is traced. (torch.compiler.assume_constant_result imports the compiler.)
_site._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _loss_of(name: str) -> _ReleaseLoss:
    loss = _LOSSES.get(name)
    if loss is None:
        raise RuntimeError(
            f"the graph draws for the loss {name}, which is no longer there: keep it as long as "
            "the graph, and trace another graph in another process"
        )
    return loss


def _draw_of_loss(
    name: str, site: int, c: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return _loss_of(name)._draw(c, dtype)


def _undrawn(name: str, site: int, c: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    sizes = _loss_of(name)._drawn_sizes(c)
    return tuple(torch.empty(size, dtype=dtype, device="cpu") for size in sizes)


functional._LIBRARY.define(
    "draw_of_loss(str name, int site, SymInt c, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.nondeterministic_seeded),
)
functional._LIBRARY.impl("draw_of_loss", _draw_of_loss, "CompositeExplicitAutograd")
torch.library.register_fake("dpslice::draw_of_loss", _undrawn, lib=functional._LIBRARY)


def _log(size: int, like: Tensor) -> Tensor | float:
    if torch.compiler.is_compiling():  # a number would be a constant: a graph for each size
        return like.new_full((), size, dtype=torch.float64).log().to(like.dtype)
    return math.log(size)


class SmoothedLikelihood(_ReleaseLoss):
    r"""Negative log-likelihood of the released rows under the smoothed synthetic distribution.

    The synthetic rows, projected and blurred by the release's noise, are a Gaussian mixture whose
    density is known, so no density ratio has to be estimated:

    .. math::
        L = \frac1m \sum_s \Big[ -\frac1b \sum_i \log \frac1c \sum_j
            \mathcal N(o_{si};\, y_{sj}, \sigma^2 I_k) \Big] - \frac k2 \log(2\pi e\sigma^2)

    Up to a constant, this is the Kullback-Leibler divergence KL(private ‖ synthetic) of the
    smoothed slices. The constant subtracted is the entropy of the noise, the least value that L can
    have in expectation (when all private rows coincide); so values of different k compare.
    With all columns in one slice (the default), it is maximum likelihood on the whole release.

    Parameters
    ----------
    release : RowRelease
        A release of rows.
    slices : {"fixed", "fresh"}
        Groups of consecutive columns of the release, or new random slices at every call. The latter
        need an orthonormal frame with p <= d.
    n_slices : int, optional
        Number m of slices. Default: as many as there are disjoint groups of columns.
    slice_dim : int, optional
        Dimension k of a slice. Default: all p columns.
    batch_size : int
        Released rows per call (b), drawn anew without repeats; all of them if there are fewer.
    rows : tuple of int, optional
        Released rows to use, as (first, stop): a part of the release. They are in random order, so
        that another part is a fair test of what was trained on this one; as all post-processing,
        that costs nothing. Default: all.
    seed : int, optional
        Seed of the batches and fresh slices. Default: drawn from the operating system.

    Raises
    ------
    TypeError
        If `release` is no Release, or an argument is of the wrong kind.
    ValueError
        If the release is not of rows, it has too few columns for the slices, fresh slices are
        wanted of a frame whose columns are not orthonormal, a size is below 1, or `rows` are not
        its own.

    Notes
    -----
    For finitely many synthetic rows the value is biased upwards, by about the variance of the
    mixture density relative to its square, over 2c: use as large a c as time allows.

    Examples
    --------
    >>> import numpy as np, torch, dpslice
    >>> rows = np.random.default_rng(0).normal(size=(500, 3)) * 0.2
    >>> release = dpslice.SlicingMechanism(sigma=0.3, delta=1e-5).release(rows)
    >>> loss = SmoothedLikelihood(release, seed=0)
    >>> near, far = torch.from_numpy(rows), torch.from_numpy(rows) + 1.0
    >>> bool(loss(near) < loss(far))
    True
    """

    _called = "y"

    def __init__(
        self,
        release: RowRelease,
        *,
        slices: str = "fixed",
        n_slices: int | None = None,
        slice_dim: int | None = None,
        batch_size: int = 2048,
        rows: tuple[int, int] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            release,
            slices=slices,
            n_slices=n_slices,
            slice_dim=getattr(release, "p", 1) if slice_dim is None else slice_dim,
            batch_size=batch_size,
            rows=rows,
            seed=seed,
        )

    def _loss(self, x: Tensor) -> Tensor:
        private, synthetic = self._pair(x)
        share = private.new_full(private.shape[:2], 1.0 / private[..., 0].numel())
        mean = functional.gaussian_kernel_logsumexp(
            private, synthetic, self._sigma, row_weights=share
        ).sum()
        # (k/2) log(2 pi sigma^2) of the density and (k/2) log(2 pi e sigma^2) leave k/2.
        return _log(x.shape[0], x) - 0.5 * self.slice_dim - mean


class SlicedDivergence(_ReleaseLoss):
    r"""Smoothed-sliced f-divergence of the synthetic from the private rows, equation (5) of [1]_.

    On each slice, the ratio of the synthetic to the private density is estimated at the b private
    rows :math:`o_i` by kernel mean matching with the c synthetic rows :math:`y_j`:

    .. math::
        w_i = \frac bc \sum_j K_g(o_i, y_j + \bar v_j), \quad r = (K_{oo} + \tau I)^{-1} w, \quad
        L = \frac1m \sum_s \frac1b \sum_i f(\max(r_{si}, r_{\min}))

    with :math:`K_g(u, v) = \exp(-\|u - v\|^2 / (2 g^2))`, the divergence's ``r_min`` (0 but for
    those that are infinite or steep at 0) and fresh noise :math:`\bar v_j \sim
    \mathcal N(0, \sigma^2 I)`, so that both clouds are blurred alike. With several bandwidths, r is
    the mean of theirs (Remark 3).

    Parameters
    ----------
    release : RowRelease
        A release of rows.
    divergence : str or Divergence
        Name of a divergence ("kl", "reverse_kl", "js", "squared_hellinger", "pearson", "neyman",
        "total_variation", "alpha(0.5)"), or one of one's own.
    bandwidth : "median", float or sequence of floats
        Kernel bandwidth g in the unit of the release, or several. "median": on each slice, the
        median distance of two released rows; for fixed slices, taken once, over up to 1024 rows at
        equal steps through the release (the same at every start); for fresh slices, at each call,
        over the batch.
    ridge : float
        Ridge τ > 0, or 0.
    multipliers : sequence of floats
        Each bandwidth is used times each of these.
    noise : {"analytic", "sampled"}
        Whether the average over the synthetic noise is taken in closed form (no sampling variance
        in w is left), or the noise is drawn, as in the paper. The two have the same mean of r.
    slices : {"fixed", "fresh"}
        Groups of consecutive columns of the release, or new random slices at every call. The latter
        need an orthonormal frame with p <= d.
    n_slices : int, optional
        Number m of slices. Default: as many as there are disjoint groups of columns.
    slice_dim : int
        Dimension k of a slice.
    batch_size : int, optional
        Released rows per call (b), drawn anew without repeats; all of them if there are fewer. Time
        grows with its cube. Default: 128.
    rows : tuple of int, optional
        Released rows to use, as (first, stop): a part of the release. They are in random order, so
        that another part is a fair test of what was trained on this one; as all post-processing,
        that costs nothing. Default: all.
    seed : int, optional
        Seed of batches, fresh slices and sampled noise. Default: drawn from the operating system.

    Raises
    ------
    TypeError
        If `release` is no Release, or an argument is of the wrong kind.
    ValueError
        If the release is not of rows, it has too few columns for the slices, fresh slices are
        wanted of a frame whose columns are not orthonormal, a size is below 1, `rows` are not its
        own, the divergence is unknown, a bandwidth or multiplier is not positive, or the ridge is
        negative.

    References
    ----------
    .. [1] Greenewald, Yu, Wang, Xu, "Privacy without Noisy Gradients: Slicing Mechanism for
       Generative Model Training", NeurIPS 2024, arXiv:2410.19941.

    Examples
    --------
    >>> import numpy as np, torch, dpslice
    >>> rows = np.random.default_rng(0).normal(size=(500, 4)) * 0.2
    >>> release = dpslice.SlicingMechanism(sigma=0.3, delta=1e-5).release(rows)
    >>> loss = SlicedDivergence(release, "js", seed=0)
    >>> near, far = torch.from_numpy(rows), torch.from_numpy(rows) + 1.0
    >>> bool(loss(near) < loss(far))
    True
    """

    _called = "p"

    def __init__(
        self,
        release: RowRelease,
        divergence: str | Divergence = "kl",
        bandwidth: str | float | Sequence[float] = "median",
        ridge: float = 1e-2,
        *,
        multipliers: Sequence[float] = (1.0,),
        noise: str = "analytic",
        slices: str = "fixed",
        n_slices: int | None = None,
        slice_dim: int = 2,
        batch_size: int = 128,
        rows: tuple[int, int] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            release,
            slices=slices,
            n_slices=n_slices,
            slice_dim=slice_dim,
            batch_size=batch_size,
            rows=rows,
            seed=seed,
        )
        self.divergence = get_divergence(divergence)
        self.ridge = _arrays.nonnegative_real("ridge", ridge)
        self.noise = _arrays.choice("noise", noise, ("analytic", "sampled"))
        self._blurs = self.noise == "sampled"
        self.multipliers = _arrays.positive_reals("multipliers", multipliers)
        self.bandwidth: str | tuple[float, ...]
        if isinstance(bandwidth, str):
            if bandwidth != "median":
                raise ValueError(
                    f"bandwidth must be 'median', or one or several numbers > 0; got {bandwidth!r}"
                )
            self.bandwidth = bandwidth
        else:
            self.bandwidth = _arrays.positive_reals("bandwidth", bandwidth)
        self._bandwidths: Tensor | None = None  # [G, m], where they stay the same
        if not isinstance(self.bandwidth, str):
            values = [g * multiplier for g in self.bandwidth for multiplier in self.multipliers]
            column = torch.tensor(values, dtype=torch.float64, device="cpu").unsqueeze(1)
            self._bandwidths = column.expand(-1, self.n_slices)
        elif self.slices == "fixed":
            first, stop = self.rows
            looked_at = np.linspace(first, stop - 1, min(MEDIAN_ROWS, stop - first)).round()
            released = self._released(looked_at.astype(np.intp)).double()
            self._bandwidths = self._medians(self._cut(released[:, : self._frame.shape[1]]))

    def _settings(self) -> dict[str, object]:
        own = {
            "divergence": self.divergence.name,
            **({"r_min": self.divergence.r_min} if self.divergence.code < 0 else {}),
            "bandwidth": self.bandwidth,
            "ridge": self.ridge,
            "multipliers": self.multipliers,
            "noise": self.noise,
        }
        return {**own, **super()._settings()}

    def _medians(self, private: Tensor) -> Tensor:
        """Return median distances times multipliers, [G, m], of sliced released rows [m, b, k]."""
        if private.shape[1] < 2:
            raise ValueError(
                "bandwidth='median' needs two released rows at least; "
                f"got {private.shape[1]}: give bandwidth as a number"
            )
        medians = functional.median_distance(private)
        if not torch.compiler.is_compiling():  # there, the kernel says that bandwidths must be > 0
            zero = (medians <= 0).nonzero()
            if len(zero):
                raise ValueError(
                    f"bandwidth='median' is 0 on slice {int(zero[0])}: half of all pairs of "
                    "released rows coincide there; give bandwidth as a number"
                )
        multipliers = torch.tensor(self.multipliers, dtype=medians.dtype, device=medians.device)
        return multipliers[:, None] * medians

    def _loss(self, x: Tensor) -> Tensor:
        private, synthetic = self._pair(x)
        if self._bandwidths is None:
            bandwidths = self._medians(private)
        else:
            bandwidths = self._bandwidths.to(dtype=x.dtype, device=x.device)
        sigma = 0.0 if self._blurs else self._sigma
        return functional.density_ratio_divergence(
            private, synthetic, bandwidths, self.ridge, self.divergence, sigma=sigma
        ).mean()


class SlicedWasserstein(_ReleaseLoss):
    r"""Smoothed sliced Wasserstein distance, to the power `order` [1]_.

    .. math:: L = \frac1m \sum_s \frac1b \sum_i |o_{s(i)} - (y_s + \bar v_s)_{(i)}|^q

    on sorted values, one column per slice; unequal sizes are matched by quantiles. The noise
    :math:`\bar v \sim \mathcal N(0, \sigma^2)` added to the synthetic projections is drawn at every
    call, so that both clouds are blurred alike.

    Parameters
    ----------
    release : RowRelease
        A release of rows.
    order : float
        Order q >= 1.
    slices : {"fixed", "fresh"}
        Columns of the release, or new random directions at every call. The latter need an
        orthonormal frame with p <= d.
    n_slices : int, optional
        Number m of slices. Default: p.
    batch_size : int
        Released rows per call (b), drawn anew without repeats; all of them if there are fewer.
    rows : tuple of int, optional
        Released rows to use, as (first, stop): a part of the release. They are in random order, so
        that another part is a fair test of what was trained on this one; as all post-processing,
        that costs nothing. Default: all.
    seed : int, optional
        Seed of batches, fresh slices and noise. Default: drawn from the operating system.

    Raises
    ------
    TypeError
        If `release` is no Release, or an argument is of the wrong kind.
    ValueError
        If the release is not of rows, it has too few columns for the slices, fresh slices are
        wanted of a frame whose columns are not orthonormal, a size or the order is below 1, or
        `rows` are not its own.

    References
    ----------
    .. [1] Rakotomamonjy and Ralaivola, "Differentially Private Sliced Wasserstein Distance", ICML
       2021, arXiv:2107.01848.

    Examples
    --------
    >>> import numpy as np, torch, dpslice
    >>> rows = np.random.default_rng(0).normal(size=(500, 3)) * 0.2
    >>> release = dpslice.SlicingMechanism(sigma=0.3, delta=1e-5).release(rows)
    >>> loss = SlicedWasserstein(release, order=1, seed=0)
    >>> near, far = torch.from_numpy(rows), torch.from_numpy(rows) + 1.0
    >>> bool(loss(near) < loss(far))
    True
    """

    _blurs = True
    _called = "x and y"

    def __init__(
        self,
        release: RowRelease,
        *,
        order: float = 2,
        slices: str = "fixed",
        n_slices: int | None = None,
        batch_size: int = 2048,
        rows: tuple[int, int] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            release,
            slices=slices,
            n_slices=n_slices,
            slice_dim=1,
            batch_size=batch_size,
            rows=rows,
            seed=seed,
        )
        self.order = _arrays.real_at_least_one("order", order)

    def _settings(self) -> dict[str, object]:
        return {"order": self.order, **super()._settings()}

    def _loss(self, x: Tensor) -> Tensor:
        private, noisy = self._pair(x)
        return functional.sliced_wasserstein(
            private.squeeze(-1), noisy.squeeze(-1), self.order
        ).mean()
