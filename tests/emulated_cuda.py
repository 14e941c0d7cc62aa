"""CUDA without a GPU: the kernels of cuda/ compiled for the CPU, and a stand-in for CuPy.

`build` compiles the kernel sources, unchanged, against tests/cuda_emulator. `fake_cupy` is a module
whose arrays lie in host memory, filled with NaN until written, and that has what dpslice uses of
CuPy; with both in place, `dpslice.kernels` runs its whole way through the CUDA dispatch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
EMULATOR = ROOT / "tests" / "cuda_emulator"
KERNELS = tuple(sorted(path.name for path in (ROOT / "cuda").glob("*.cu")))

# swapcontext returns twice for the compiler, which then fears for the loops around it. Fibers jump
# from stack to stack, which a fortified longjmp takes for a mistake.
_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-clobbered")
_JUMPS = ("-U_FORTIFY_SOURCE",)


def compile_object(
    source: Path, to: Path, flags: tuple[str, ...] = (), cuda: Path = ROOT / "cuda"
) -> Path:
    """Compile one file of cuda/ or tests/cuda_emulator for the CPU."""
    command = [
        *("g++", "-std=c++20", "-fPIC", "-pthread", "-DDPSLICE_CUDA_EMULATOR"),
        *(*_WARNINGS, *_JUMPS, *flags),
        *(f"-I{EMULATOR}", f"-I{cuda}", f"-I{ROOT / 'csrc'}"),
        *("-x", "c++", "-c", str(source), "-o", str(to)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return to


def compile_kernels(
    folder: Path,
    flags: tuple[str, ...],
    cuda: Path = ROOT / "cuda",
    names: tuple[str, ...] = KERNELS,
) -> list[Path]:
    """Compile kernels, as many at a time as there are processors."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(
            pool.map(
                lambda name: compile_object(cuda / name, folder / f"{name}.o", flags, cuda), names
            )
        )


def module_in(folder: Path) -> Path:
    """The file of the module that `build` puts there."""
    return folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"


def build(
    folder: Path,
    flags: tuple[str, ...] = (),
    names: tuple[str, ...] = KERNELS,
    others: Path | None = None,
) -> Path:
    """Compile the emulated dpslice._cuda, and return its file.

    Parameters
    ----------
    folder : Path
        Where to put it.
    flags : tuple of str
        For the kernels, besides optimisation.
    names : tuple of str
        The kernels to compile.
    others : Path, optional
        The folder of an earlier build, from which the other kernels come, and the bindings.
    """
    import pybind11

    # With more optimisation, compiling would take longer, by more than running is shorter.
    objects = compile_kernels(folder, ("-O1", *flags), names=names)
    if others is not None:
        objects += [others / f"{name}.o" for name in KERNELS if name not in names]
        objects.append(others / "bindings.o")
    else:
        includes = [sysconfig.get_paths()["include"], pybind11.get_include()]
        bindings_flags = ("-O0", "-fvisibility=hidden", *(f"-isystem{path}" for path in includes))
        objects.append(
            compile_object(ROOT / "cuda" / "bindings.cpp", folder / "bindings.o", bindings_flags)
        )
    module = module_in(folder)
    subprocess.run(
        ["g++", "-shared", "-pthread", *map(str, objects), "-o", str(module)], check=True
    )
    return module


def load(module: Path, name: str = "dpslice._cuda") -> ModuleType:
    """Import a module from its file, under a name."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


# ----------------------------------------------------------------------------- a stand-in for CuPy


class Device:
    """A device that counts how often it was made current."""

    def __init__(self, number: int = 0) -> None:
        self.id = number
        self.entered = 0

    def __enter__(self) -> Device:
        self.entered += 1
        return self

    def __exit__(self, *exc: object) -> None: ...


class Stream:
    """The current stream; `capturing` is for tests to set."""

    ptr = 0
    capturing = False

    def is_capturing(self) -> bool:
        return self.capturing


class DeviceArray:
    """An array that pretends to lie on a device."""

    def __init__(self, host: Any, device: Device) -> None:
        self.host = host
        self.device = device

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.host.shape)

    @property
    def ndim(self) -> int:
        return int(self.host.ndim)

    @property
    def dtype(self) -> Any:
        return self.host.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.host.shape,
            "typestr": self.host.dtype.str,
            "data": (self.host.ctypes.data, False),
            "strides": None if self.host.flags.c_contiguous else self.host.strides,
            "version": 3,
        }

    def __getitem__(self, index: Any) -> Any:
        return self.host[index]

    def astype(self, dtype: Any) -> DeviceArray:
        return DeviceArray(self.host.astype(dtype), self.device)

    def get(self) -> Any:
        return self.host


def fake_cupy(device: Device, stream: Stream) -> ModuleType:
    """Make a module with the part of CuPy's interface that dpslice uses."""

    def empty(shape: tuple[int, ...], dtype: str) -> DeviceArray:
        host = np.empty(shape, dtype)
        host.view(np.uint8)[...] = 0xFF
        return DeviceArray(host, device)

    module = ModuleType("cupy")
    module.ndarray = DeviceArray  # type: ignore[attr-defined]
    module.empty = empty  # type: ignore[attr-defined]
    module.full = lambda shape, value, dtype: DeviceArray(  # type: ignore[attr-defined]
        np.full(shape, value, dtype), device
    )
    module.ascontiguousarray = lambda a: DeviceArray(  # type: ignore[attr-defined]
        np.ascontiguousarray(a.host), a.device
    )
    module.broadcast_to = lambda a, shape: DeviceArray(  # type: ignore[attr-defined]
        np.broadcast_to(a.host, shape), a.device
    )
    module.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        get_current_stream=lambda: stream
    )
    return module


class Emulation:
    """The emulated module and the stand-in, put in place by a fixture."""

    def __init__(self, module: ModuleType, monkeypatch: Any) -> None:
        self.module = module
        self.device = Device()
        self.stream = Stream()
        monkeypatch.setitem(sys.modules, "cupy", fake_cupy(self.device, self.stream))
        monkeypatch.setitem(sys.modules, "dpslice._cuda", module)

    def to_device(self, array: Any) -> Any:
        """Put a NumPy array on the device; None stays None."""
        return None if array is None else DeviceArray(np.asarray(array), self.device)

    @property
    def kernels(self) -> Any:
        """The CUDA twin of dpslice._core, from arrays on the device to arrays on the device."""
        from dpslice import _arrays

        return _arrays.backend_for(_arrays.Place("cupy", f"cuda:{self.device.id}", self.stream.ptr))

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call a kernel by its name in dpslice._core, NumPy in and out."""
        found = getattr(self.kernels, name)(
            *(self.to_device(a) if isinstance(a, np.ndarray) else a for a in arguments)
        )
        if isinstance(found, tuple):
            return tuple(None if part is None else part.get() for part in found)
        return found.get()
