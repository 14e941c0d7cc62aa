"""`fit`: determinism, exact resume, checkpoints, Ctrl-C, errors."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dpslice
from dpslice.release import Release
from dpslice.torch import (
    CheckpointError,
    FitResult,
    SlicedDivergence,
    SlicedWasserstein,
    SmoothedLikelihood,
    TrainingError,
    TrainingState,
    fit,
)
from dpslice.torch.training import (
    CHECKPOINT_FORMAT,
    CHECKPOINT_VERSION,
    _learning_rate_factor,
    sealed,
    unsealed,
)
from releases import gaussian_rows, make_release


@pytest.fixture(scope="module")
def release() -> Release:
    return make_release(gaussian_rows(200, 3), 0.3)


class Net(nn.Module):
    """A generator that uses what makes resuming hard: global random numbers and running sums."""

    latent_dim = 2

    def __init__(self, width: int = 8, d: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(width, d),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)  # type: ignore[no-any-return]


def net(seed: int = 0, **options: int) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(**options)


def train(generator: nn.Module, loss: Any, **options: Any) -> FitResult:
    chosen: dict[str, Any] = {"steps": 12, "batch_size": 32, "progress": False}
    return fit(generator, loss, **{**chosen, **options})


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_equal_weights(
    a: nn.Module | dict[str, Tensor], b: nn.Module | dict[str, Tensor]
) -> None:
    first = weights(a) if isinstance(a, nn.Module) else a
    second = weights(b) if isinstance(b, nn.Module) else b
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def content_of(path: Path) -> dict[str, Any]:
    return unsealed(torch.load(path, weights_only=True))


def rewrite(path: Path, content: dict[str, Any], version: int = CHECKPOINT_VERSION) -> None:
    """Write a checkpoint of other content, which its checksum fits."""
    path.write_bytes(sealed(content, format=CHECKPOINT_FORMAT, version=version))


def squared(x: Tensor) -> Tensor:
    """A loss of one's own: no release, no state."""
    return (x - 1).square().mean()


# ----------------------------------------------------------------------------- training


def test_autocast_around_all_steps_sees_the_weights_of_each():
    """It keeps the weights that it has cast until it ends."""
    want = train(net(), squared, lr=0.05).history
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = train(net(), squared, lr=0.05).history
    assert want[-1] < 0.8 * want[0]
    np.testing.assert_allclose(got, want, rtol=0.05)


def test_result(release):
    loss = SmoothedLikelihood(release, batch_size=50, seed=0)
    result = train(net(), loss, steps=50, lr=0.02)
    assert isinstance(result, FitResult)
    assert result.steps == 50
    assert result.history.shape == (50,)
    assert result.history.dtype == np.float64
    assert result.history[-10:].mean() < result.history[0] - 1
    assert result.interrupted is False
    assert 0 < result.seconds < 600
    assert repr(result).startswith("FitResult(steps=50, interrupted=False, seconds=")


def test_same_seed_same_result_whatever_the_global_state(release):
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        generator = net()
        result = train(generator, SlicedDivergence(release, seed=3, noise="sampled"), seed=5)
        runs.append((weights(generator), result.history))
    assert_equal_weights(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    other = train(net(), SlicedDivergence(release, seed=3, noise="sampled"), seed=6)
    assert not np.array_equal(other.history, runs[0][1])


def test_global_random_state_is_given_back(release):
    before = torch.get_rng_state()
    train(net(), squared)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError):
        train(net(), squared, callbacks=[lambda state: 1 / 0])
    assert torch.equal(torch.get_rng_state(), before)


def test_default_device_is_not_that_of_the_noise(tmp_path):
    # Not Adam: up to torch 2.9 at least, it counts its steps on the default device.
    options: dict[str, Any] = {"optimizer": functools.partial(torch.optim.SGD, lr=0.01)}
    generator, other = net(), net()
    train(generator, squared, **options)
    with torch.device("meta"):  # where a draw of a CPU generator could not be used
        train(other, squared, checkpoint=tmp_path / "c.pt", **options)
        content = content_of(tmp_path / "c.pt")
    assert_equal_weights(generator, other)
    assert content["history"].shape == (12,)


def test_any_module_and_any_loss():
    generator = nn.Linear(4, 3).double()
    seen: list[Tensor] = []

    def loss(x: Tensor) -> Tensor:
        seen.append(x)
        return squared(x)

    train(generator, loss, latent_dim=4, steps=3, batch_size=5)
    assert [x.shape for x in seen] == [(5, 3)] * 3
    assert seen[0].dtype == torch.float64
    with torch.no_grad():
        noise = torch.linalg.lstsq(generator.weight, (seen[0] - generator.bias).T).solution
    assert noise.shape == (4, 5)  # the rows came from noise of the width asked for


def test_mode_and_learning_rate_are_given_back():
    generator = net().eval()
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    modes: list[bool] = []
    train(
        generator,
        squared,
        optimizer=optimizer,
        callbacks=[lambda s: modes.append(s.generator.training)],
    )
    assert modes == [True] * 12
    assert not generator.training
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_optimizer_of_another_generator_is_refused():
    stale = torch.optim.Adam(net().parameters())
    for optimizer in (stale, lambda _: stale):
        with pytest.raises(ValueError, match="optimizer must hold parameters of the generator"):
            fit(net(), squared, steps=1, batch_size=4, optimizer=optimizer, progress=False)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_made_whatever_the_caller_has_switched_off(mode):
    generator = net()
    before = [p.detach().clone() for p in generator.parameters()]
    with mode():
        fit(generator, squared, steps=2, batch_size=4, progress=False)
        assert not torch.is_grad_enabled()
    assert any(not torch.equal(a, b) for a, b in zip(before, generator.parameters(), strict=True))


def test_optimizer_may_be_made_by_a_function():
    made: list[torch.optim.Optimizer] = []

    def sgd(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=0.5, momentum=0.9))
        return made[0]

    rates: list[float] = []
    train(
        net(), squared, optimizer=sgd, schedule="constant", callbacks=[lambda s: rates.append(s.lr)]
    )
    assert len(made) == 1
    assert rates == [0.5] * 12


def test_warmup_goes_before_a_schedule_of_one_s_own():
    rates = []
    fit(
        net(),
        squared,
        steps=4,
        batch_size=4,
        lr=1.0,
        warmup=2,
        schedule=lambda step: 0.5 / (step + 1),
        callbacks=[lambda state: rates.append(state.lr)],
        progress=False,
    )
    np.testing.assert_allclose(rates, [0.5 / 3, 0.25 * 2 / 3, 0.5 / 3, 0.125])


@pytest.mark.parametrize("lost", ["rng", "history", "optimizer", "base_lrs", "ema", "loss", "step"])
def test_checkpoint_that_lacks_something_changes_nothing(tmp_path, lost):
    path = tmp_path / "state.pt"
    how = {"batch_size": 4, "ema": 0.9, "checkpoint": path, "progress": False}
    fit(net(), squared, steps=2, **how)
    content = content_of(path)
    del content[lost]
    rewrite(path, content)
    generator = net()
    before = [p.detach().clone() for p in generator.parameters()]
    with pytest.raises(CheckpointError):
        fit(generator, squared, steps=4, **how)
    assert all(torch.equal(a, b) for a, b in zip(before, generator.parameters(), strict=True))


def test_default_optimizer_is_adam():
    # One step of Adam from rest moves each weight by lr times the sign of its gradient.
    generator = nn.Linear(1, 1)
    before = weights(generator)
    train(generator, lambda x: x.mean(), latent_dim=1, steps=1, lr=0.25, schedule="constant")
    moved = generator.bias.detach() - before["bias"]
    torch.testing.assert_close(moved, torch.tensor([-0.25]), rtol=1e-5, atol=0)


def test_schedules():
    def factors(schedule: Any, **options: int) -> list[float]:
        return [_learning_rate_factor(schedule, step, steps=10, **options) for step in range(10)]

    assert factors("constant", warmup=0) == [1.0] * 10
    assert factors("constant", warmup=3) == [0.25, 0.5, 0.75] + [1.0] * 7
    cosine = factors("cosine", warmup=0)
    assert cosine == [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert factors("cosine", warmup=2)[2:] == [
        0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)
    ]
    assert factors("cosine", warmup=20) == [(step + 1) / 21 for step in range(10)]
    assert factors(lambda step: 1 / (1 + step), warmup=0) == [1 / (1 + step) for step in range(10)]


def test_a_schedule_of_one_s_own_returns_a_number():
    for wrong in ("a", None, torch.ones(2), np.ones(2)):
        with pytest.raises(TypeError, match=r"schedule must return a number; got .* for step 0"):
            train(net(), squared, schedule=lambda step, wrong=wrong: wrong)
    with pytest.raises(ValueError, match="schedule must return a finite number; got nan"):
        train(net(), squared, schedule=lambda step: math.nan)
    rate = torch.tensor(0.5)
    assert _learning_rate_factor(lambda step: rate, 0, steps=1, warmup=0) == 0.5


def test_schedule_reaches_the_optimizer():
    rates: list[float] = []
    train(net(), squared, lr=0.01, warmup=4, callbacks=[lambda s: rates.append(s.lr)])
    expected = [
        0.01 * _learning_rate_factor("cosine", step, steps=12, warmup=4) for step in range(12)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_gradients_are_clipped():
    generator = nn.Linear(1, 1)
    before = weights(generator)
    options: dict[str, Any] = {
        "latent_dim": 1,
        "steps": 1,
        "schedule": "constant",
        "optimizer": torch.optim.SGD(generator.parameters(), lr=1.0),
    }
    train(generator, lambda x: 1000 * x.mean(), clip_grad_norm=0.5, **options)
    after = weights(generator)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in after])
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)


def test_average_of_weights():
    generator, seen = net(), []
    train(
        generator, squared, ema=0.9, lr=0.1, callbacks=[lambda s: seen.append(weights(s.generator))]
    )
    average = weights(net())
    for step, state in enumerate(seen, start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in state.items():
            if value.is_floating_point():
                average[name] = decay * average[name] + (1 - decay) * value
            else:
                average[name] = value
    for name, value in weights(generator).items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)


def test_progress_bar(capsys):
    train(net(), squared, progress=True)
    assert "12/12" in capsys.readouterr().err
    train(net(), squared)
    assert capsys.readouterr().err == ""


def test_missing_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"tqdm is needed here .*dpslice\[torch\]"):
        train(net(), squared, progress=True)


# --------------------------------------------------------------------------- callbacks


def test_callbacks_see_each_step():
    states: list[TrainingState] = []
    result = train(net(), squared, callbacks=[states.append])
    assert [s.step for s in states] == list(range(1, 13))
    assert {s.steps for s in states} == {12}
    assert [s.loss for s in states] == result.history.tolist()
    assert all(s.seconds >= 0 for s in states)


def test_a_callback_stops_the_run(tmp_path):
    def stop_at_5(state: TrainingState) -> None:
        if state.step == 5:
            state.stop()

    path = tmp_path / "c.pt"
    others: list[int] = []
    result = train(
        net(), squared, checkpoint=path, callbacks=[stop_at_5, lambda s: others.append(s.step)]
    )
    assert (result.steps, len(result.history), result.interrupted) == (5, 5, False)
    assert others[-1] == 5
    assert content_of(path)["step"] == 5


def test_what_a_callback_raises_ends_the_run():
    def fail(state: TrainingState) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(net(), squared, callbacks=[fail])


# ------------------------------------------------------------------------- exact resume


class Both(nn.Module):
    """A loss of one's own, made of two."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)  # type: ignore[no-any-return]


LOSSES = {
    "likelihood": lambda r: SmoothedLikelihood(r, batch_size=40, seed=1),
    "fresh divergence": lambda r: SlicedDivergence(
        r, slices="fresh", noise="sampled", batch_size=40, seed=1
    ),
    "wasserstein without seed": lambda r: SlicedWasserstein(r, batch_size=40),
    "own": lambda r: squared,
    "of two": lambda r: Both(SmoothedLikelihood(r, batch_size=40), SlicedWasserstein(r)),
}


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("at", [1, 5, 11])
def test_resume_is_exact(tmp_path, release, make, ema, at):
    path = tmp_path / "c.pt"
    options: dict[str, Any] = {"ema": ema, "warmup": 3, "clip_grad_norm": 1.0}
    first_loss, second_loss = make(release), make(release)
    if isinstance(first_loss, nn.Module):  # the loss without seed: the same start for both
        second_loss.load_state_dict(first_loss.state_dict())
    whole = net()
    result = train(whole, first_loss, **options)

    def stop(state: TrainingState) -> None:
        if state.step == at:
            state.stop()

    train(net(), second_loss, checkpoint=path, callbacks=[stop], **options)
    torch.manual_seed(int.from_bytes(os.urandom(4)))
    resumed = net(seed=99)  # other weights: all come from the checkpoint
    again = train(resumed, make(release), checkpoint=path, **options)
    assert_equal_weights(whole, resumed)
    np.testing.assert_array_equal(result.history, again.history)


KILLED = """
    import sys
    sys.path[:0] = {paths!r}
    import time, torch
    from releases import gaussian_rows, make_release
    from dpslice.torch import SlicedDivergence, fit

    def tell(state):
        print(state.step, flush=True)
        time.sleep(0.005)

    def run(checkpoint, callbacks):
        torch.manual_seed(0)
        generator = torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(8, 3))
        loss = SlicedDivergence(release, noise="sampled", batch_size=32, seed=1)
        result = fit(generator, loss, steps=60, batch_size=32, latent_dim=2, ema=0.9,
                     checkpoint=checkpoint, checkpoint_every=3, progress=False,
                     callbacks=callbacks)
        return generator.state_dict(), torch.from_numpy(result.history)

    torch.set_num_threads(1)
    release = make_release(gaussian_rows(200, 3), 0.3)
    resumed = run(sys.argv[1], [tell])
    torch.save((resumed, run(None, [])), sys.argv[2])  # only the last process gets here
"""


def script_of(tmp_path: Path, text: str) -> Path:
    script = tmp_path / "train.py"
    paths = [str(Path(__file__).parent), str(Path(dpslice.__file__).parents[1])]
    script.write_text(textwrap.dedent(text).format(paths=paths))
    return script


def start(script: Path, *arguments: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for_step(process: subprocess.Popen[str], step: int) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return int(line)
    raise AssertionError("the run ended before it was to be killed")


@pytest.mark.slow  # three processes that import torch
def test_a_killed_run_resumes_exactly(tmp_path):
    script = script_of(tmp_path, KILLED)
    rng = np.random.default_rng(0)
    path, result = tmp_path / "c.pt", tmp_path / "result"
    for low, high in ((5, 20), (25, 50)):  # killed twice, at random moments
        with start(script, path, result) as process:
            wait_for_step(process, int(rng.integers(low, high)))
            time.sleep(float(rng.uniform(0, 0.01)))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert not result.exists()
    with start(script, path, result) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    assert int(output.split()[0]) > 20  # it did not start again
    (resumed, history), (whole, whole_history) = torch.load(result, weights_only=True)
    assert_equal_weights(whole, resumed)
    assert torch.equal(whole_history, history)


SHARED = """
    import sys

    sys.path[:0] = {paths}
    import torch
    from torch import distributed, nn

    from dpslice.torch import SmoothedLikelihood, fit
    from releases import gaussian_rows, make_release

    rank, folder = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group("gloo", f"file://{{folder}}/meet", rank=rank, world_size=2)
    release = make_release(gaussian_rows(200, 3), 0.3)


    def train(*steps, **options):
        torch.manual_seed(0)
        net = nn.parallel.DistributedDataParallel(nn.Linear(2, 3))
        for number in steps:
            loss = SmoothedLikelihood(release, batch_size=40, seed=rank)
            how = dict(batch_size=32, latent_dim=2, schedule="constant", seed=rank, progress=False)
            result = fit(net, loss, steps=number, **how, **options)
        return [p.detach() for p in net.parameters()], result.history[-1]


    whole, last = train(8)
    parts, _ = train(5, 8, checkpoint=f"{{folder}}/{{rank}}.pt")
    assert all(map(torch.equal, whole, parts))
    others = [torch.empty_like(whole[0]) for _ in range(2)]
    distributed.all_gather(others, whole[0])
    losses = [None, None]
    distributed.all_gather_object(losses, last)
    assert torch.equal(*others) and losses[0] != losses[1], (others, losses)
    distributed.destroy_process_group()
"""


@pytest.mark.slow  # two processes that import torch
@pytest.mark.skipif(sys.platform != "linux", reason="names the loopback device of Linux")
def test_processes_share_a_generator(tmp_path):
    """Each has a loss with draws of its own; gradients, and so weights, are common to them."""
    script = script_of(tmp_path, SHARED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    commands = [[sys.executable, str(script), str(rank), str(tmp_path)] for rank in range(2)]
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for command in commands
    ]
    try:
        for process in processes:
            said = process.communicate(timeout=300)[1]
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()


def test_a_finished_run_is_not_trained_again(tmp_path):
    path = tmp_path / "c.pt"
    generator = net()
    first = train(generator, squared, checkpoint=path)
    stamp = path.stat().st_mtime_ns
    again = net(seed=5)
    second = train(again, squared, checkpoint=path)
    assert second.steps == 12
    np.testing.assert_array_equal(first.history, second.history)
    assert_equal_weights(generator, again)
    assert path.stat().st_mtime_ns == stamp


def test_a_finished_run_may_be_continued_for_more_steps(tmp_path):
    path = tmp_path / "c.pt"
    whole = net()
    train(whole, squared, steps=20, schedule="constant")
    train(net(), squared, checkpoint=path, schedule="constant")
    more = net()
    result = train(more, squared, steps=20, checkpoint=path, schedule="constant")
    assert result.steps == 20
    assert_equal_weights(whole, more)


def test_resume_false_starts_again(tmp_path):
    path = tmp_path / "c.pt"
    train(net(), squared, checkpoint=path, seed=1)
    result = train(net(), squared, checkpoint=path, seed=2, resume=False, steps=4)
    assert result.steps == 4
    assert content_of(path)["step"] == 4


@pytest.mark.parametrize("resume", [True, False])
def test_files_that_are_no_checkpoints_are_never_replaced(tmp_path, resume):
    for content, message in (
        (b"age,income\n39,50000\n", "truncated, damaged or not a checkpoint .* delete it"),
        (b"", "truncated, damaged or not a checkpoint .* delete it"),
    ):
        path = tmp_path / "c.pt"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            train(net(), squared, checkpoint=path, resume=resume, steps=4)
        assert path.read_bytes() == content
    torch.save({"weights": torch.ones(2)}, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="is not a checkpoint of dpslice"):
        train(net(), squared, checkpoint=path, resume=resume, steps=4)
    assert path.read_bytes() == before


def test_checkpoints_are_written_as_often_as_asked(tmp_path):
    path, steps = tmp_path / "c.pt", []

    def look(state: TrainingState) -> None:
        steps.append(content_of(path)["step"] if path.exists() else 0)

    train(net(), squared, checkpoint=path, checkpoint_every=5, callbacks=[look])
    assert steps == [0] * 5 + [5] * 5 + [10] * 2  # callbacks come before the save
    assert content_of(path)["step"] == 12
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


# -------------------------------------------------------------- checkpoints that do not fit


@pytest.fixture
def saved(tmp_path, release) -> Path:
    path = tmp_path / "c.pt"
    train(net(), SmoothedLikelihood(release, batch_size=40, seed=1), checkpoint=path, steps=4)
    return path


def assert_refused(path: Path, release: Release, match: str, **options: Any) -> None:
    """Check that the checkpoint is refused, and that refusing changed nothing."""
    generator = options.pop("generator", None) or net(seed=3)
    loss = options.pop("loss", None) or SmoothedLikelihood(release, batch_size=40, seed=1)
    before, content = weights(generator), path.read_bytes()
    with pytest.raises(CheckpointError, match=match):
        train(generator, loss, checkpoint=path, **options)
    assert_equal_weights(before, generator)
    assert path.read_bytes() == content


def test_another_release_is_refused(saved, release):
    other = make_release(gaussian_rows(200, 3), 0.3, seed=9)
    loss = SmoothedLikelihood(other, batch_size=40, seed=1)
    assert_refused(saved, release, "was made with another release", loss=loss)


def test_another_release_or_setting_within_a_loss_is_refused(tmp_path, release):
    def loss(r: Release, seed: int = 1) -> nn.Module:
        return Both(SlicedWasserstein(release, seed=0), SmoothedLikelihood(r, seed=seed))

    path = tmp_path / "c.pt"
    other = make_release(gaussian_rows(200, 3), 0.3, seed=9)
    train(net(), loss(other), checkpoint=path, steps=4)
    assert content_of(path)["settings"]["release"] == f"{release.fingerprint}, {other.fingerprint}"
    assert_refused(path, release, "was made with another release", loss=loss(release))
    assert_refused(path, release, "another setting loss", loss=loss(other, seed=2))


def test_another_architecture_is_refused(saved, release):
    assert_refused(
        saved,
        release,
        r"another architecture: layers.0.weight has shape \(8, 2\) there and \(9, 2\) here",
        generator=net(width=9),
    )
    deeper = nn.Sequential(nn.Linear(2, 3))
    deeper.latent_dim = 2  # type: ignore[assignment]
    assert_refused(saved, release, "0.weight is missing from the checkpoint", generator=deeper)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"batch_size": 33}, "batch_size"),
        ({"lr": 0.5}, "lr"),
        ({"seed": 1}, "seed"),
        ({"ema": 0.5}, "ema"),
        ({"schedule": "constant"}, "schedule"),
        ({"warmup": 2}, "warmup"),
        ({"clip_grad_norm": 1.0}, "clip_grad_norm"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}, "optimizer"),
    ],
)
def test_other_settings_are_refused(saved, release, options, name):
    assert_refused(saved, release, f"was made with another setting {name}: ", **options)


def test_another_loss_is_refused(saved, release):
    loss = SmoothedLikelihood(release, batch_size=40, seed=2)
    assert_refused(saved, release, "another setting loss", loss=loss)


def test_truncated_and_damaged_checkpoints_are_refused(saved, release):
    whole = saved.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-10], b"", b"nonsense" * 100):
        saved.write_bytes(content)
        assert_refused(saved, release, "is truncated, damaged or not a checkpoint of dpslice")


def test_a_checkpoint_with_a_flipped_bit_is_refused(saved, release):
    whole = saved.read_bytes()
    file = torch.load(saved, weights_only=True)
    packed = bytes(file["content"].numpy())
    start = whole.index(packed)
    for place in range(start, start + len(packed), len(packed) // 12):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert_refused(saved, release, "is truncated, damaged or not.*checksum differs")
    for change in ({"sha256": None}, {"content": None}, {"version": 1}, {"sha256": "0" * 64}):
        torch.save({**file, **change}, saved)
        if change == {"version": 1}:  # a checksum counts whatever the version
            train(net(), SmoothedLikelihood(release, batch_size=40, seed=1), checkpoint=saved)
        else:
            assert_refused(saved, release, "is truncated, damaged or not.*checksum")


@pytest.mark.parametrize("version", [None, "x", 0, True, 1.5])
def test_nonsense_for_a_version_is_refused(saved, release, version):
    torch.save({**torch.load(saved, weights_only=True), "version": version}, saved)
    assert_refused(saved, release, f"damaged or not a checkpoint.*format version {version!r}")


def test_checkpoints_of_version_1_are_read(saved, release):
    content = content_of(saved)
    del content["settings"]["given"]
    torch.save({"format": CHECKPOINT_FORMAT, "version": 1, **content}, saved)
    loss = SmoothedLikelihood(release, batch_size=40, seed=1)
    assert train(net(), loss, checkpoint=saved, settings={"spread": 0.5}).steps == 12
    assert content_of(saved)["settings"]["given"] == {"spread": 0.5}


def test_a_run_of_fewer_steps_than_the_checkpoint_is_refused(saved, release):
    assert_refused(saved, release, "is of step 4, and steps = 3: a run cannot go back", steps=3)


def test_other_settings_of_the_caller_s_are_refused(saved, release):
    match = r"another value of settings: {} there, {'spread': 0.5} here"
    assert_refused(saved, release, match, settings={"spread": 0.5})
    with pytest.raises(TypeError, match="settings must be a mapping; got 3"):
        train(net(), squared, settings=3)
    with pytest.raises(TypeError, match="settings must map strings to strings or numbers; got 'a'"):
        train(net(), squared, settings={"a": [1]})


def test_other_files_are_refused(saved, release):
    torch.save({"weights": torch.zeros(3)}, saved)
    assert_refused(saved, release, "is not a checkpoint of dpslice")
    torch.save([1, 2], saved)
    assert_refused(saved, release, "is not a checkpoint of dpslice")


def test_newer_checkpoints_are_refused(saved, release):
    rewrite(saved, content_of(saved), CHECKPOINT_VERSION + 1)
    assert_refused(saved, release, f"format version {CHECKPOINT_VERSION + 1}.*upgrade dpslice")


def test_incomplete_checkpoints_are_refused(saved, release):
    content = content_of(saved)
    for key in ("rng", "history", "optimizer", "settings"):
        rewrite(saved, {k: v for k, v in content.items() if k != key})
        with pytest.raises(CheckpointError, match=f"does not fit this run.*{key}"):
            train(net(), SmoothedLikelihood(release, batch_size=40, seed=1), checkpoint=saved)


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/dpslice-was-here",)


def test_nothing_in_a_checkpoint_is_executed(saved, release):
    torch.save({"format": Malicious()}, saved)
    assert_refused(saved, release, "is truncated, damaged or not a checkpoint of dpslice")
    rewrite(saved, {"step": Malicious()})
    assert_refused(saved, release, "damaged or not.*the content cannot be read")
    assert not Path("/tmp/dpslice-was-here").exists()


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path):
    path, other = tmp_path / "c.pt", tmp_path / "d.pt"
    train(net(), squared, checkpoint=path, steps=4)
    whole = path.read_bytes()
    # A limit on the size of files stands in for the disk: the write itself fails, in the system.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, hard))
    try:
        with pytest.raises(OSError, match=r"could not be written .*; the previous one"):
            train(net(), squared, checkpoint=path)
        with pytest.raises(OSError, match="none was written before"):
            train(net(), squared, checkpoint=other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_settings_may_be_numbers_of_any_library(tmp_path):
    settings = {"half": np.float32(0.5), "one": np.int64(1), "third": np.float64(0.25), "x": "y"}
    how = {"checkpoint": tmp_path / "c.pt", "settings": settings}
    train(net(), squared, steps=3, **how)
    assert train(net(), squared, steps=4, **how).steps == 4


def test_nothing_beside_a_checkpoint_is_lost(tmp_path):
    mine = tmp_path / "c.pt.tmp"
    mine.write_text("unique")
    train(net(), squared, checkpoint=tmp_path / "c.pt", steps=4)
    assert mine.read_text() == "unique"


# ------------------------------------------------------------------------------- Ctrl-C


def interrupt(state: TrainingState) -> None:
    if state.step == 5:
        os.kill(os.getpid(), signal.SIGINT)


def test_first_interrupt_ends_after_the_step(tmp_path):
    path = tmp_path / "c.pt"
    handler = signal.getsignal(signal.SIGINT)
    generator = net()
    result = train(generator, squared, checkpoint=path, callbacks=[interrupt])
    assert result.interrupted
    assert result.steps == len(result.history) == 5
    assert signal.getsignal(signal.SIGINT) is handler
    content = content_of(path)
    assert content["step"] == 5
    assert_equal_weights(content["generator"], generator)
    # and resumes to the very same end
    whole, resumed = net(), net(seed=8)
    train(whole, squared)
    assert not train(resumed, squared, checkpoint=path).interrupted
    assert_equal_weights(whole, resumed)


def test_an_interrupt_in_the_middle_of_a_step_waits_for_its_end():
    def loss(x: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return squared(x)

    generator, reference = net(), net()
    result = train(generator, loss)
    assert result.interrupted
    assert result.steps == 1
    train(reference, squared, callbacks=[TrainingState.stop])
    assert_equal_weights(generator, reference)


def test_second_interrupt_raises_at_once():
    def twice(state: TrainingState) -> None:
        interrupt(state)
        interrupt(state)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(net(), squared, callbacks=[twice])
    assert signal.getsignal(signal.SIGINT) is handler


def test_ignored_interrupts_stay_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert not train(net(), squared, callbacks=[interrupt]).interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


def test_training_in_another_thread():
    results: list[FitResult] = []
    thread = threading.Thread(target=lambda: results.append(train(net(), squared)))
    thread.start()
    thread.join()
    assert results[0].steps == 12


# --------------------------------------------------------------------- what is not finite


def nan_at(step: int, what: str) -> Any:
    """Make a loss that goes wrong in the given step: in its value, or in its gradient alone."""
    calls = iter(range(1, 1000))

    def loss(x: Tensor) -> Tensor:
        if next(calls) < step:
            return squared(x)
        if what == "loss":
            return squared(x) * math.nan
        return torch.sqrt(x * 0).sum()  # 0, with an infinite slope times 0

    return loss


@pytest.mark.parametrize(
    ("what", "message"), [("loss", "the loss is nan"), ("gradient", "the gradient's norm is nan")]
)
def test_nan_names_the_step_and_keeps_the_checkpoint(tmp_path, what, message):
    path = tmp_path / "c.pt"
    generator, reference = net(), net()
    with pytest.raises(TrainingError, match=f"step 8: {message}; the checkpoint of step 6 is kept"):
        train(generator, nan_at(8, what), checkpoint=path, checkpoint_every=3)
    assert content_of(path)["step"] == 6
    with contextlib.suppress(StopIteration):
        train(reference, squared, callbacks=[lambda s: s.stop() if s.step == 7 else None])
    for (name, a), b in zip(generator.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(a, b), name  # the weights of step 7
    with pytest.raises(TrainingError, match=r"step 2: .*; no checkpoint was saved"):
        train(net(), nan_at(2, what))


def test_a_run_that_explodes_names_the_step(release):
    loss = SmoothedLikelihood(release, batch_size=40, seed=1)
    with pytest.raises(TrainingError, match=r"step 2: the loss refuses .*; no checkpoint was"):
        train(net(), loss, lr=1e15)
    with pytest.raises(TrainingError, match=r"step 2: the generator's output holds NaN"):
        train(net(), loss, lr=1e30)
    with pytest.raises(ValueError, match="must have shape"):  # of the first step: a mistake
        train(net(d=4), loss)


def test_nan_of_the_generator_names_the_step():
    class Broken(nn.Linear):
        latent_dim = 2

        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z) / 0

    with pytest.raises(TrainingError, match="step 1: the generator's output holds NaN or infinity"):
        train(Broken(2, 3), squared)


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": -1}, ValueError, "steps must be an integer >= 0"),
        ({"steps": 2.0}, TypeError, "steps must be an integer >= 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
        ({"latent_dim": 0}, ValueError, "latent_dim must be an integer >= 1"),
        ({"lr": 0.0}, ValueError, "lr must be a finite number > 0"),
        (
            {"schedule": 0.5},
            TypeError,
            "schedule must be 'cosine', 'constant', or a function of the",
        ),
        ({"schedule": "linear"}, ValueError, "schedule must be one of cosine, constant"),
        ({"warmup": -1}, ValueError, "warmup must be an integer >= 0"),
        ({"clip_grad_norm": 0.0}, ValueError, "clip_grad_norm must be a finite number > 0"),
        ({"ema": 1.0}, ValueError, "ema must be strictly between 0 and 1"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"seed": 2**63}, ValueError, r"seed must be an integer < 2\*\*63"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be an integer >= 1"),
        ({"resume": 1}, TypeError, "resume must be True or False"),
        ({"progress": "yes"}, TypeError, "progress must be True or False"),
        ({"callbacks": [3]}, TypeError, "callbacks must be callable; got 3"),
        ({"callbacks": print}, TypeError, "callbacks must be a sequence of callables; got <built"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be a torch optimizer, or a function"),
        ({"optimizer": lambda p: None}, TypeError, "optimizer must return a torch optimizer"),
        ({"optimizer": torch.optim.LBFGS}, ValueError, "without a closure; got LBFGS"),
        ({"checkpoint": "/"}, ValueError, "checkpoint must be the path of a file; got the dir"),
        ({"checkpoint": "/no/such/place"}, ValueError, "checkpoint must lie in a directory that"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        train(net(), squared, **options)


def test_wrong_generators_and_losses_are_refused():
    with pytest.raises(TypeError, match=r"generator must be a torch.nn.Module; got 3"):
        train(3, squared)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"loss must be callable, such as .*; got 3"):
        train(net(), 3)
    with pytest.raises(ValueError, match="latent_dim must be given, or be an attribute"):
        train(nn.Linear(2, 3), squared)
    with pytest.raises(ValueError, match="generator must have parameters that require a gradient"):
        train(nn.Flatten(), squared, latent_dim=2)
    with pytest.raises(
        ValueError, match=r"generator must map noise of shape \(32, 2\) to a tensor"
    ):
        train(nn.Sequential(nn.Linear(2, 3), nn.Flatten(0)), squared, latent_dim=2)
    with pytest.raises(ValueError, match=r"to a tensor of shape \(32, d\); got tuple"):
        train(nn.RNN(2, 3), squared, latent_dim=2)
    wide = r"noise of shape \(batch_size, latent_dim\) = \(32, 3\); it failed: mat1 and mat2"
    with pytest.raises(ValueError, match=wide) as caught:
        train(net(), squared, latent_dim=3)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match=r"loss must map a tensor .* to a scalar tensor"):
        train(net(), lambda x: x)
    with pytest.raises(ValueError, match="that depends on it differentiably"):
        train(net(), lambda x: x.detach().mean())
    with pytest.raises(ValueError, match="loss must map a tensor"):
        train(net(), lambda x: 1.0)


def test_rows_of_the_wrong_width_are_refused(release):
    with pytest.raises(ValueError, match=r"x_synthetic must have shape \(c, 3\)"):
        train(net(d=4), SmoothedLikelihood(release, batch_size=40))
