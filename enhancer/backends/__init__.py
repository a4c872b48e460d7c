"""Backends: the same network and the same pixels, computed by torch, OpenVINO or onnxruntime."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from enhancer.checkpoint import Checkpoint
from enhancer.errors import EnhancerError

BackendName = Literal["torch", "openvino", "onnx"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]
REQUIRED_PACKAGES: dict[BackendName, tuple[str, ...]] = {
    "torch": (),
    "openvino": ("openvino", "onnx"),
    "onnx": ("onnx", "onnxruntime"),
}


class Backend(Protocol):
    """Runs one network; may be called from several threads at once.

    ``backend(x, condition)`` takes float32 tensors on :attr:`device`, ``(N, 3, H, W)`` and ``(N, K)``,
    and returns the restored pictures as float32 on the same device.

    Attributes:
        name: One of :data:`BackendName`.
        device: Where the tensors live.
        fixed_shape: Whether a new shape of ``x`` costs a compilation.
    """

    name: BackendName
    device: torch.device
    fixed_shape: bool

    def __call__(self, x: Tensor, condition: Tensor) -> Tensor: ...


def create_backend(
    name: BackendName | Literal["auto"],
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "auto",
) -> Backend:
    """The backend ``name`` for the network of ``checkpoint``.

    Args:
        name: ``auto`` is OpenVINO on an x86 processor where it is installed, otherwise torch.
        checkpoint: Network to run.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            Only torch runs on other devices than the processor.
        threads: Threads on the processor; None leaves the choice to the backend. For torch this is
            a setting of the whole process.
        precision: Of the layers; the correction is added to the picture in float32 in any case, so that
            bfloat16 changes a sample by at most 2 of 255, and few by more than 1. ``auto`` is bfloat16 on a
            CUDA device, and with OpenVINO on a processor that computes in it; otherwise float32. ``int8`` changes a
            few samples by more, and needs a checkpoint that was calibrated for it; see :mod:`enhancer.quantization`.

    Raises:
        ValueError: If a name or number is not one of the allowed ones.
        EnhancerError: If the device or a needed package is missing here.
        CheckpointError: If ``precision`` is ``int8`` and the checkpoint was not calibrated.
    """
    if name != "auto" and name not in get_args(BackendName):
        raise ValueError(f"backend must be auto or one of {', '.join(get_args(BackendName))}, got {name!r}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    chosen = resolve_device("cpu" if device == "auto" and name in ("openvino", "onnx") else device)
    if name == "auto":
        name = "openvino" if chosen.type == "cpu" and _is_x86() and not _missing("openvino") else "torch"
    require_packages(name)
    if name == "torch":
        if precision == "int8":
            raise ValueError("backend torch does not compute in int8; openvino and onnx do, on a processor")
        from enhancer.backends.torch_backend import TorchBackend

        return TorchBackend(checkpoint, device=chosen, threads=threads, precision=precision)
    if chosen.type != "cpu":
        raise ValueError(f"backend {name} runs on the cpu only, got device {device!r}")
    if name == "openvino":
        from enhancer.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend(checkpoint, threads=threads, precision=precision)
    if precision == "bfloat16":
        raise ValueError("backend onnx computes in float32 and int8 only, got precision 'bfloat16'")
    from enhancer.backends.onnx_backend import OnnxBackend

    return OnnxBackend(checkpoint, threads=threads, precision=precision)


def require_packages(name: BackendName) -> None:
    """Raises ``EnhancerError``, with the remedy, unless the packages of backend ``name`` are installed."""
    if missing := _missing(name):
        raise EnhancerError(f"{name} needs {missing}; install it with: pip install 'enhancer[{name}]'")


def resolve_device(name: str) -> torch.device:
    """The torch device ``name``; ``auto`` is the best one of this machine.

    Raises:
        ValueError: If there is no such kind of device.
        EnhancerError: If this machine, or this build of torch, has none.
    """
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:INDEX or mps, got {name!r}")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= count:
        raise EnhancerError(f"there is no device {name} here (found {count} of this kind)")
    return device


def _missing(name: BackendName) -> str:
    """Packages that a backend needs and that are not installed, or nothing."""
    return ", ".join(package for package in REQUIRED_PACKAGES[name] if find_spec(package) is None)


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")
