r"""Training of any generator against a loss on a release: progress, checkpoints, exact resume.

Nothing here costs privacy. A release is public, so a generator may be trained, thrown away,
restarted and tuned on it for as long as one likes; epsilon does not move.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import math
import numbers
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpslice import _arrays, _storage

__all__ = ["CheckpointError", "FitResult", "TrainingError", "TrainingState", "fit"]

CHECKPOINT_FORMAT = "dpslice-checkpoint"
CHECKPOINT_VERSION = 2  # 1 had no checksum

OptimizerLike = torch.optim.Optimizer | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class TrainingError(RuntimeError):
    """Training cannot go on: output, loss or gradient overflow. The message names the step."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used: damaged, newer, or made by another run."""


@dataclass(frozen=True, eq=False)
class FitResult:
    """What `fit` returns.

    Attributes
    ----------
    steps : int
        Steps done since the start of the run, those before a resume included.
    history : array, shape (steps,), float64
        The loss of each step, those before a resume included.
    interrupted : bool
        Whether Ctrl-C (SIGINT) ended the run early. The last whole step was kept.
    seconds : float
        Wall-clock time of this call.
    """

    steps: int
    history: NDArray[np.float64] = field(repr=False)
    interrupted: bool
    seconds: float


@dataclass(eq=False)
class TrainingState:
    """What a callback of `fit` is given after each step.

    Attributes
    ----------
    step : int
        Steps done, the present one included: 1 after the first.
    steps : int
        Steps that the run was asked for.
    loss : float
        Loss of this step.
    lr : float
        Learning rate of this step (of the optimizer's first parameter group).
    seconds : float
        Wall-clock time since `fit` was called.
    generator : torch.nn.Module
        The generator, with the weights after this step (not their moving average).
    history : sequence of float
        The loss of every step so far. Not to be changed.
    """

    step: int
    steps: int
    loss: float
    lr: float
    seconds: float
    generator: nn.Module
    history: Sequence[float]
    _stop: bool = field(default=False, repr=False)

    def stop(self) -> None:
        """Ask `fit` to end after this step, as if it were the last one."""
        self._stop = True


# --------------------------------------------------------------------------------- small parts


def _learning_rate_factor(
    schedule: str | Callable[[int], float], step: int, *, steps: int, warmup: int
) -> float:
    """Factor on the base learning rate in step `step` (counted from 0).

    It rises linearly over the first `warmup` steps, then stays at 1 (``constant``) or follows
    (1 + cos(pi t)) / 2 for t from 0 to 1 over the rest (``cosine``). A function of the caller's is
    multiplied by the rise. A function of the step alone: no state to save.
    """
    rise = (step + 1) / (warmup + 1) if step < warmup else 1.0
    if callable(schedule):
        factor = schedule(step)
        try:
            number = float(factor)  # of a tensor or an array, too
        except (TypeError, ValueError, RuntimeError):  # each library raises its own
            raise TypeError(
                f"schedule must return a number; got {_arrays.describe(factor)} for step {step}"
            ) from None
        if not math.isfinite(number):
            raise ValueError(f"schedule must return a finite number; got {number} for step {step}")
        return rise * number
    if step < warmup or schedule == "constant":
        return rise
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * done))


class _WeightAverage:
    """Exponential moving average of the floating-point tensors of a module's state.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that the random first weights are
    forgotten however short the run.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {
            name: value.detach().clone()
            for name, value in module.state_dict().items()
            if isinstance(value, Tensor)
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        present = module.state_dict()
        for name, average in self.state.items():
            if average.is_floating_point():
                average.lerp_(present[name], 1.0 - decay)
            else:
                average.copy_(present[name])

    def load_into(self, module: nn.Module) -> None:
        module.load_state_dict({**module.state_dict(), **self.state})


class _InterruptGuard:
    """Turns the first SIGINT into a flag; the second one raises KeyboardInterrupt as usual.

    The same for SIGTERM, where a handler in Python waits for it (as in the command line). Signal
    handlers can only be set in the main thread. Elsewhere, and where a signal is ignored
    (``nohup``), nothing is changed.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(which)
                if callable(previous):
                    self._previous[which] = previous
                    signal.signal(which, self._on_signal)
        return self

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.interrupted:
            self._previous[signum](signum, frame)
        self.interrupted = True

    def __exit__(self, *error: object) -> None:
        for which, previous in self._previous.items():
            signal.signal(which, previous)


@contextlib.contextmanager
def _bar(shown: bool, *, total: int, done: int) -> Iterator[Callable[[float], None]]:
    """Show a bar of the steps; what it gives is called with the loss of each."""
    if not shown:
        yield lambda loss: None
        return
    tqdm = _arrays.require("tqdm", extra="torch").tqdm
    with tqdm(total=total, initial=min(done, total), unit="step", desc="fit") as bar:

        def show(loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            bar.update()

        yield show


@contextlib.contextmanager
def _private_rng(device: torch.device) -> Iterator[None]:
    """Give the caller's global torch generators back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def _rng_state(device: torch.device, latent: torch.Generator) -> dict[str, Tensor]:
    state = {"latent": latent.get_state(), "cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(
    state: Mapping[str, Tensor], device: torch.device, latent: torch.Generator
) -> None:
    latent.set_state(state["latent"])
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


# --------------------------------------------------------------------------------- checkpoints


def sealed(content: Mapping[str, Any], **label: Any) -> bytes:
    """Return the bytes of a file of tensors and plain values, under a label and a SHA-256.

    torch does not check the sums that its own format holds.
    """
    inner, outer = io.BytesIO(), io.BytesIO()
    torch.save(dict(content), inner)
    packed = inner.getbuffer()
    digest = hashlib.sha256(packed).hexdigest()
    torch.save(
        {**label, "sha256": digest, "content": torch.frombuffer(packed, dtype=torch.uint8)}, outer
    )
    return outer.getvalue()


def unsealed(file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of what `sealed` wrote, executing nothing in it.

    Raises
    ------
    ValueError
        If it is not what was written.
    """
    packed, digest = file.get("content"), file.get("sha256")
    if not (isinstance(packed, Tensor) and isinstance(digest, str)):
        raise ValueError("the content or its checksum is missing")
    if packed.dtype != torch.uint8 or packed.layout != torch.strided or packed.is_meta:
        raise ValueError("the content is no bytes")
    if not packed.is_contiguous():  # a few bytes that are said to be more than memory holds
        raise ValueError("the content is no bytes")
    packed = packed.numpy().tobytes()
    if hashlib.sha256(packed).hexdigest() != digest:
        raise ValueError("the content is not what was written: its checksum differs")
    try:
        content = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    except Exception as error:  # written by other hands: torch has no common class for what it says
        raise ValueError(f"the content cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise ValueError("the content is no mapping")
    return content


def _write_atomically(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that at any moment `path` is whole: the old one or the new one."""
    # Made in memory first: on a full disk, torch's own writer raises an error that helps nobody.
    data = sealed(content, format=CHECKPOINT_FORMAT, version=CHECKPOINT_VERSION)
    try:
        with _storage.replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise OSError(
            f"checkpoint {str(path)!r} could not be written ({error}); "
            f"{'the previous one is kept' if path.exists() else 'none was written before'}"
        ) from error


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it, and check that it is one of ours."""
    file = io.BytesIO(path.read_bytes())  # what cannot be read is an OSError, nothing below is
    damaged = f"checkpoint {str(path)!r} is truncated, damaged or not a checkpoint of dpslice"
    way_out = "delete it to start again"
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common class for what damaged files raise
        raise CheckpointError(f"{damaged} ({type(error).__name__}); {way_out}") from error
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{str(path)!r} is not a checkpoint of dpslice; pass another path as checkpoint"
        )
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{damaged} (format version {version!r}); {way_out}")
    if version > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"checkpoint {str(path)!r} has format version {version}; this dpslice reads up to "
            f"{CHECKPOINT_VERSION}: upgrade dpslice"
        )
    if version == 1 and "sha256" not in content:
        return content
    try:
        return unsealed(content)
    except ValueError as error:
        raise CheckpointError(f"{damaged} ({error}); {way_out}") from error


def _check_same_run(saved: Mapping[str, Any], present: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on from a checkpoint of another release or of other settings."""
    for key, value in present.items():
        if key == "given" and key not in saved:
            continue  # of version 1, which did not say
        if saved.get(key) != value:
            what = {"release": "release", "given": "value of settings"}.get(key, f"setting {key}")
            raise CheckpointError(
                f"checkpoint {str(path)!r} was made with another {what}: "
                f"{saved.get(key)!r} there, {value!r} here; "
                "pass the same, another checkpoint path, or resume=False to start again"
            )


def _check_same_architecture(saved: Mapping[str, Any], module: nn.Module, path: Path) -> None:
    """Compare names and shapes before anything is loaded: a refused load must change nothing."""
    present = module.state_dict()
    for name in (*present, *saved):
        if name not in saved or name not in present:
            where = "this generator" if name not in present else "the checkpoint"
            problem = f"{name} is missing from {where}"
        elif not (isinstance(saved[name], Tensor) and isinstance(present[name], Tensor)):
            continue  # what a module keeps besides tensors is its own to check
        elif saved[name].shape != present[name].shape:
            problem = (
                f"{name} has shape {tuple(saved[name].shape)} there and "
                f"{tuple(present[name].shape)} here"
            )
        else:
            continue
        raise CheckpointError(
            f"checkpoint {str(path)!r} is of another architecture: {problem}; "
            "pass the same generator, another checkpoint path, or resume=False to start again"
        )


# ------------------------------------------------------------------------------------------ fit


class _Run:
    """The state of one training run: everything that a checkpoint holds."""

    def __init__(
        self,
        generator: nn.Module,
        loss: Callable[[Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        settings: dict[str, Any],
        device: torch.device,
        seed: int,
        ema: float | None,
    ) -> None:
        self.generator = generator
        self.loss = loss
        self.optimizer = optimizer
        self.settings = settings
        self.device = device
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self.average = None if ema is None else _WeightAverage(generator, ema)
        self.history: list[float] = []
        self.step = 0
        self.latent = torch.Generator().manual_seed(seed)
        # Dropout, Gumbel noise and the like draw from the global generator of the device.
        global_seed = int(torch.randint(2**62, (), generator=self.latent, device="cpu"))
        torch.default_generator.manual_seed(global_seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(global_seed)

    def content(self) -> dict[str, Any]:
        loss = self.loss
        return {
            "settings": self.settings,
            "step": self.step,
            "history": torch.tensor(self.history, dtype=torch.float64, device="cpu"),
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "base_lrs": self.base_lrs,
            "ema": None if self.average is None else self.average.state,
            "loss": loss.state_dict() if isinstance(loss, nn.Module) else None,
            "rng": _rng_state(self.device, self.latent),
        }

    def restore(self, path: Path, *, steps: int) -> None:
        content = _read_checkpoint(path)
        try:
            _check_same_run(content["settings"], self.settings, path)
            _check_same_architecture(content["generator"], self.generator, path)
            if content["step"] > steps:
                raise CheckpointError(
                    f"checkpoint {str(path)!r} is of step {content['step']}, and steps = {steps}: "
                    "a run cannot go back; pass as many steps or more, another checkpoint path, or "
                    "resume=False to start again"
                )
            # This run's own state comes first, the caller's objects last: nothing of theirs has
            # changed if an entry is missing.
            self.base_lrs = [float(lr) for lr in content["base_lrs"]]
            self.history = content["history"].tolist()
            self.step = int(content["step"])
            _set_rng_state(content["rng"], self.device, self.latent)
            if self.average is not None:
                for name, value in self.average.state.items():
                    value.copy_(content["ema"][name])
            generator, optimizer, loss = (
                content[name] for name in ("generator", "optimizer", "loss")
            )
            if isinstance(self.loss, nn.Module):
                self.loss.load_state_dict(loss)
            self.optimizer.load_state_dict(optimizer)
            self.generator.load_state_dict(generator)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(
                f"checkpoint {str(path)!r} does not fit this run ({error}); "
                "pass another checkpoint path, or resume=False to start again"
            ) from error

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Train in the block: mode of the generator and learning rates are put back after it."""
        before = self.generator.training
        self.generator.train()
        try:
            yield
        finally:
            self.generator.train(before)
            for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
                group["lr"] = base  # an optimizer of the caller's may be used again


class _Checkpoint:
    """The file that a run is saved in, if there is one, and which of its steps is there."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.step: int | None = None  # None: none of this run's

    def take_up(self, run: _Run, *, steps: int, resume: bool) -> None:
        """Go on from the file if it is there and that is wanted."""
        if self.path is None or not self.path.exists():
            return
        if resume:
            run.restore(self.path, steps=steps)
            self.step = run.step
        else:
            _read_checkpoint(self.path)  # what is not known to be a checkpoint is not replaced

    def save(self, run: _Run) -> None:
        """Save the run as it is, unless that was done."""
        if self.path is not None and self.step != run.step:
            _write_atomically(run.content(), self.path)
            self.step = run.step

    @property
    def kept(self) -> str:
        """What is left where training cannot go on, in words."""
        if self.step is None:
            return "no checkpoint was saved"
        return f"the checkpoint of step {self.step} is kept at {str(self.path)!r}"


def checkpoint_path(checkpoint: str | os.PathLike[str] | None) -> Path | None:
    """Return the path of a checkpoint that is there or can be, or raise."""
    if checkpoint is None:
        return None
    path = _arrays.path("checkpoint", checkpoint)
    if path.is_dir():
        raise ValueError(f"checkpoint must be the path of a file; got the directory {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"checkpoint must lie in a directory that exists; got {str(path)!r}")
    return path


def _make_optimizer(
    optimizer: OptimizerLike | None, generator: nn.Module, lr: float
) -> torch.optim.Optimizer:
    parameters = [p for p in generator.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("generator must have parameters that require a gradient; it has none")
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=lr)
    if isinstance(optimizer, torch.optim.Optimizer):
        made = optimizer
    elif not callable(optimizer):
        raise TypeError(
            "optimizer must be a torch optimizer, or a function of the parameters that returns "
            f"one; got {_arrays.describe(optimizer)}"
        )
    else:
        made = optimizer(parameters)
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"optimizer must return a torch optimizer; got {_arrays.describe(made)}")
    held = {id(p) for group in made.param_groups for p in group["params"]}
    if not held & {id(p) for p in parameters}:
        raise ValueError(
            "optimizer must hold parameters of the generator; got one that holds others"
        )
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer must take steps without a closure; got {type(made).__name__}, which "
            "computes a loss several times a step, and each would be of another batch"
        )
    return made


def _checked_callbacks(callbacks: object) -> tuple[Callable[[TrainingState], object], ...]:
    if not isinstance(callbacks, Iterable):
        raise TypeError(
            f"callbacks must be a sequence of callables; got {_arrays.describe(callbacks)}"
        )
    given = tuple(callbacks)
    for callback in given:
        if not callable(callback):
            raise TypeError(f"callbacks must be callable; got {_arrays.describe(callback)}")
    return given


def _latent_dim(generator: nn.Module, latent_dim: int | None) -> int:
    value = getattr(generator, "latent_dim", None) if latent_dim is None else latent_dim
    if value is None:
        raise ValueError(
            "latent_dim must be given, or be an attribute of the generator: the width of the noise "
            "that it takes"
        )
    return _arrays.positive_integer("latent_dim", value)


def _checked_settings(settings: object) -> dict[str, str | float]:
    """Check what the caller says of the run, and return it as a checkpoint can hold it."""
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings must be a mapping; got {_arrays.describe(settings)}")
    plain: dict[str, str | float] = {}
    for key, value in settings.items():
        if not (isinstance(key, str) and isinstance(value, (str, numbers.Real, np.number))):
            raise TypeError(
                "settings must map strings to strings or numbers; got "
                f"{_arrays.describe(key)}: {_arrays.describe(value)}"
            )
        # Of other types, such as NumPy's, a checkpoint could be written but not be read again.
        text = isinstance(value, str)
        plain[str(key)] = str(value) if text else _arrays.finite_real(f"settings[{key!r}]", value)
    return plain


def _fingerprint(loss: object) -> str | None:
    """Name the release of a loss, and those of losses that it is made of."""
    parts = loss.modules() if isinstance(loss, nn.Module) else (loss,)
    found = (getattr(getattr(part, "release", None), "fingerprint", None) for part in parts)
    each = dict.fromkeys(fingerprint for fingerprint in found if fingerprint is not None)
    return ", ".join(each) or None


def _describe_loss(loss: object) -> str:
    """Name a loss; with its settings, where they are part of its repr."""
    told = isinstance(loss, nn.Module) and _fingerprint(loss) is not None
    return repr(loss) if told else type(loss).__qualname__  # others' may hold an address


def _one_step(
    run: _Run,
    z: Tensor,
    lr_factor: float,
    clip_grad_norm: float | None,
    saves: _Checkpoint,
) -> tuple[float, float]:
    """Do one step of training; return the loss and the learning rate.

    The weights are only touched once loss and gradient are known to be finite.
    """
    where = f"step {run.step + 1}"
    for group, lr in zip(run.optimizer.param_groups, run.base_lrs, strict=True):
        group["lr"] = lr * lr_factor
    run.optimizer.zero_grad(set_to_none=True)
    try:
        x = run.generator(z)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if run.history:
            raise
        raise ValueError(
            f"generator must take noise of shape (batch_size, latent_dim) = {tuple(z.shape)}; "
            f"it failed: {error}"
        ) from error
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[0] != z.shape[0]:
        raise ValueError(
            f"generator must map noise of shape {tuple(z.shape)} to a tensor of shape "
            f"({z.shape[0]}, d); "
            f"got {_arrays.describe(x) if isinstance(x, Tensor) else type(x).__name__}"
        )
    if not _arrays.all_finite(x):
        raise TrainingError(f"{where}: the generator's output holds NaN or infinity; {saves.kept}")
    try:
        value = run.loss(x)
    except ValueError as error:
        if not run.history:
            raise  # rows that never fitted: a mistake of the caller's
        raise TrainingError(
            f"{where}: the loss refuses the generator's output, of entries up to "
            f"{float(x.detach().abs().max()):.3g} ({error}); {saves.kept}"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise ValueError(
            "loss must map a tensor (c, d) to a scalar tensor that depends on it differentiably; "
            f"got {_arrays.describe(value)}"
        )
    loss = float(value.detach())
    if not math.isfinite(loss):
        raise TrainingError(f"{where}: the loss is {loss}; {saves.kept}")
    value.backward()
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(
        parameters, math.inf if clip_grad_norm is None else clip_grad_norm
    )
    if not math.isfinite(float(norm)):
        raise TrainingError(f"{where}: the gradient's norm is {float(norm)}; {saves.kept}")
    run.optimizer.step()
    torch.clear_autocast_cache()  # where autocast is around all steps: it holds the old weights
    run.step += 1
    run.history.append(loss)
    if run.average is not None:
        run.average.update(run.generator, run.step)
    return loss, float(run.optimizer.param_groups[0]["lr"])


def fit(
    generator: nn.Module,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    batch_size: int,
    latent_dim: int | None = None,
    optimizer: OptimizerLike | None = None,
    lr: float = 1e-3,
    schedule: str | Callable[[int], float] = "cosine",
    warmup: int = 0,
    clip_grad_norm: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = True,
    progress: bool = True,
    callbacks: Sequence[Callable[[TrainingState], object]] = (),
    settings: Mapping[str, str | float] | None = None,
) -> FitResult:
    r"""Train a generator: minimise ``loss(generator(z))`` over its weights, z ~ N(0, I).

    Each step draws fresh noise z of shape (batch_size, latent_dim), and takes one step of the
    optimizer. The same seed gives the same weights on the same machine, torch and number of
    threads.

    Parameters
    ----------
    generator : torch.nn.Module
        Any module that maps noise (b, latent_dim) to rows (b, d), in the coordinates that the
        release was made of. It is trained in place, on the device and in the dtype of its first
        parameter.
    loss : callable
        Maps rows (c, d) to a scalar: `SmoothedLikelihood`, `SlicedDivergence`,
        `SlicedWasserstein`, or a function of one's own. A sum of several should be a
        `torch.nn.Module` that holds them: of a plain function, a checkpoint knows neither the
        releases nor the random state, so a run that is resumed would draw other batches. Functions
        that a loss was given, such as a divergence of one's own, it knows by name at most.
    steps : int
        Steps to train for, in total: a resumed run does what is left of them. They may be more than
        before: the schedule is then that of the new number. A checkpoint of a later step is
        refused.
    batch_size : int
        Synthetic rows per step (c).
    latent_dim : int, optional
        Width of the noise. Default: ``generator.latent_dim``.
    optimizer : torch.optim.Optimizer or callable, optional
        An optimizer over the generator's parameters, or a function that makes one of them. Default:
        Adam at learning rate `lr`. Not one that calls a closure, as LBFGS does.
    lr : float
        Base learning rate of the default optimizer; others bring their own.
    schedule : {"cosine", "constant"} or callable
        The factor on the learning rate: falling to 0 along a half cosine, or 1, or what a function
        of the step (counted from 0) returns, a finite number.
    warmup : int
        First steps over which the learning rate rises linearly.
    clip_grad_norm : float, optional
        Largest L2 norm of the gradient; a longer one is scaled down. Default: none.
    ema : float, optional
        Decay of an exponential moving average of the weights, such as 0.999. At the end, the
        generator is given the average; the decay is smaller in the first steps, min(ema, (1 + t) /
        (10 + t)). Default: no average.
    seed : int
        Seed of the latent noise and of torch's global generators while `fit` runs; the caller's
        global generators are given back as they were.
    checkpoint : path, optional
        File to save the state of the run in: weights, optimizer, average, all states of the random
        generators, step, history, and the fingerprint of the release (or releases). It is replaced
        atomically, so at any moment it is whole.
    checkpoint_every : int
        Steps between two saves. The last step is always saved.
    resume : bool
        Whether to go on from `checkpoint` if it exists. A resumed run ends with the very weights
        of an uninterrupted one, bit by bit, for the same number of threads. If not, the checkpoint
        is replaced at the first save; a file that is none is never replaced.
    progress : bool
        Whether to show a progress bar (tqdm).
    callbacks : sequence of callables
        Each is called after each step with a `TrainingState`; ``state.stop()`` ends the run there.
        What a callback returns is ignored, what it raises ends the run.
    settings : mapping from str to str or number, optional
        What else makes the run what it is, such as how the generator was started. A checkpoint of a
        run with other settings is refused.

    Returns
    -------
    FitResult
        Steps, history of the loss, whether Ctrl-C ended the run, seconds.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged or from a newer version, or, where the run is to go on from it,
        from a run with another release, architecture or setting, or of a later step than `steps`.
        Nothing has been changed then.
    TrainingError
        If the generator's output, the loss or the gradient is not finite, or the loss refuses rows
        as it did not before.
        The message names the step; the weights are those before it, the last checkpoint is kept.
    TypeError, ValueError
        If an argument breaks the rules above.
    OSError
        If a checkpoint cannot be read or written; the one before is kept.
    ImportError
        If `progress` is asked for and tqdm is not installed.

    Notes
    -----
    *Ctrl-C*: the first one ends the run after the step at hand, saves the checkpoint and returns
    with ``interrupted=True``; a second one raises KeyboardInterrupt at once, as usual.

    *Threads*: the kernels of the losses and torch's own operators take turns, so both may use all
    processors. The former follow ``OMP_NUM_THREADS`` and ``dpslice.set_num_threads``, the latter
    ``OMP_NUM_THREADS`` and ``torch.set_num_threads``; set both alike to use fewer.

    *Randomness*: a generator that draws random numbers from anywhere but torch's global generators
    (NumPy's, say) is neither reproducible nor resumed exactly. Nor is one with dropout and the like
    while `fit` also runs in another thread of the process: torch's global generators are one for
    all threads. Run such searches in processes.

    Examples
    --------
    A generator of one's own, on a release of 3 features:

    >>> import numpy as np, torch, dpslice
    >>> from dpslice.torch import SmoothedLikelihood, fit
    >>> rows = np.random.default_rng(0).normal(size=(500, 3)) * 0.2 + 0.1
    >>> release = dpslice.SlicingMechanism(sigma=0.3, delta=1e-5).release(rows)
    >>> class Generator(torch.nn.Module):
    ...     latent_dim = 2
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layers = torch.nn.Sequential(
    ...             torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
    ...     def forward(self, z):
    ...         return self.layers(z)
    >>> generator = Generator()
    >>> result = fit(generator, SmoothedLikelihood(release, batch_size=256, seed=0),
    ...              steps=20, batch_size=256, progress=False)
    >>> result.steps, result.interrupted
    (20, False)
    >>> generator(torch.randn(5, 2)).shape
    torch.Size([5, 3])
    """
    if not isinstance(generator, nn.Module):
        raise TypeError(f"generator must be a torch.nn.Module; got {_arrays.describe(generator)}")
    if not callable(loss):
        raise TypeError(
            "loss must be callable, such as SmoothedLikelihood(release); "
            f"got {_arrays.describe(loss)}"
        )
    steps = _arrays.integer("steps", steps, minimum=0)
    batch_size = _arrays.positive_integer("batch_size", batch_size)
    latent_dim = _latent_dim(generator, latent_dim)
    lr = _arrays.positive_real("lr", lr)
    if not callable(schedule):
        if not isinstance(schedule, str):
            raise TypeError(
                "schedule must be 'cosine', 'constant', or a function of the step that returns the "
                f"factor on the learning rate; got {_arrays.describe(schedule)}"
            )
        schedule = _arrays.choice("schedule", schedule, ("cosine", "constant"))
    warmup = _arrays.integer("warmup", warmup, minimum=0)
    if clip_grad_norm is not None:
        clip_grad_norm = _arrays.positive_real("clip_grad_norm", clip_grad_norm)
    if ema is not None:
        ema = _arrays.open_unit("ema", ema)
    seed = _arrays.seed("seed", seed)
    checkpoint_every = _arrays.positive_integer("checkpoint_every", checkpoint_every)
    resume = _arrays.boolean("resume", resume)
    progress = _arrays.boolean("progress", progress)
    callbacks = _checked_callbacks(callbacks)
    saves = _Checkpoint(checkpoint_path(checkpoint))
    if progress:
        _arrays.require("tqdm", extra="torch")

    made = _make_optimizer(optimizer, generator, lr)
    first = next(generator.parameters())
    device, dtype = first.device, first.dtype
    all_settings: dict[str, Any] = {
        "release": _fingerprint(loss),
        "loss": _describe_loss(loss),
        "batch_size": batch_size,
        "latent_dim": latent_dim,
        "optimizer": type(made).__name__,
        "lr": lr if optimizer is None else None,
        "schedule": "callable" if callable(schedule) else schedule,
        "warmup": warmup,
        "clip_grad_norm": clip_grad_norm,
        "ema": ema,
        "seed": seed,
        "given": _checked_settings(settings),
    }
    start = time.monotonic()
    with (
        _InterruptGuard() as guard,
        _private_rng(device),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        run = _Run(generator, loss, made, settings=all_settings, device=device, seed=seed, ema=ema)
        saves.take_up(run, steps=steps, resume=resume)
        with run.training(), _bar(progress, total=steps, done=run.step) as show:
            stopped = False
            while run.step < steps and not stopped and not guard.interrupted:
                z = torch.randn(batch_size, latent_dim, generator=run.latent, device="cpu")
                value, rate = _one_step(
                    run,
                    z.to(device=device, dtype=dtype),
                    _learning_rate_factor(schedule, run.step, steps=steps, warmup=warmup),
                    clip_grad_norm,
                    saves,
                )
                show(value)
                state = TrainingState(
                    run.step, steps, value, rate, time.monotonic() - start, generator, run.history
                )
                for callback in callbacks:
                    callback(state)
                stopped = state._stop
                if run.step % checkpoint_every == 0:
                    saves.save(run)
            saves.save(run)
        if run.average is not None:
            run.average.load_into(generator)
    return FitResult(
        steps=run.step,
        history=np.asarray(run.history, dtype=np.float64),
        interrupted=guard.interrupted,
        seconds=time.monotonic() - start,
    )
