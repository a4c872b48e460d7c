"""The network by OpenVINO, on an x86 processor."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from enhancer.backends import DEEP_BLOCKS, BackendName, Precision
from enhancer.backends.export import cache_folder, cached_onnx
from enhancer.checkpoint import Checkpoint


class OpenVinoBackend:
    """Runs the network compiled once; the compiled model is cached on disk.

    Args:
        checkpoint: The network.
        threads: Threads on the processor; None leaves the choice to OpenVINO.
        precision: Of the layers; ``auto`` is bfloat16 where the processor has it, which halves the time, and
            float32 for networks of more than ``DEEP_BLOCKS`` blocks.
            With ``int8`` the layers that keep their precision compute as with ``auto``.
    """

    name: BackendName = "openvino"
    device = torch.device("cpu")
    fixed_shape = True

    def __init__(self, checkpoint: Checkpoint, *, threads: int | None = None, precision: Precision = "auto") -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(cached_onnx(checkpoint, int8=precision == "int8"))
        if precision in ("auto", "int8"):
            fine = checkpoint.config.blocks <= DEEP_BLOCKS
            able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            precision = "bfloat16" if fine and able else "float32"
        options: dict[str, str | int] = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        if folder := cache_folder():
            options["CACHE_DIR"] = str(folder / "openvino")
        self._compiled = core.compile_model(model, "CPU", options)
        self._local = threading.local()

    def __call__(self, x: Tensor, condition: Tensor) -> Tensor:
        if not hasattr(self._local, "request"):  # a request serves one thread at a time
            self._local.request = self._compiled.create_infer_request()
        inputs = {"x": x.contiguous().numpy(), "condition": condition.contiguous().numpy()}
        result = self._local.request.infer(inputs, share_inputs=True)
        return torch.from_numpy(result[0])
