"""The network by OpenVINO, on an x86 processor."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from enhancer.backends import BackendName, Precision
from enhancer.backends.export import cache_folder, cached_onnx, in_parts
from enhancer.checkpoint import Checkpoint


class OpenVinoBackend:
    """Runs the network compiled once; the compiled model is cached on disk.

    Args:
        checkpoint: The network.
        threads: Threads on the processor; None leaves the choice to OpenVINO.
        precision: Of the layers; ``auto`` is bfloat16 where the processor has it, which halves the time, and
            float32 elsewhere. With ``int8`` the layers that keep their precision compute as with ``auto``.
    """

    name: BackendName = "openvino"
    device = torch.device("cpu")
    fixed_shape = True

    def __init__(self, checkpoint: Checkpoint, *, threads: int | None = None, precision: Precision = "auto") -> None:
        import openvino

        core = openvino.Core()
        able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._parts = precision == "bfloat16" or (precision in ("auto", "int8") and able)
        model = core.read_model(cached_onnx(checkpoint, int8=precision == "int8", parts=self._parts))
        options: dict[str, str | int] = {
            "INFERENCE_PRECISION_HINT": "bf16" if self._parts else "f32",
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
        picture = in_parts(x) if self._parts else x.contiguous()
        inputs = {"x": picture.numpy(), "condition": condition.contiguous().numpy()}
        result = torch.from_numpy(self._local.request.infer(inputs, share_inputs=True)[0])
        return x + result if self._parts else result
