"""The network by onnxruntime, on a processor."""

from __future__ import annotations

import torch
from torch import Tensor

from enhancer.backends import BackendName, Precision
from enhancer.backends.export import OUTPUT, cached_onnx
from enhancer.checkpoint import Checkpoint

_ERRORS_ONLY = 3


class OnnxBackend:
    """Runs the network from the same model that ``enhance-export`` writes.

    Args:
        checkpoint: The network.
        threads: Threads on the processor; None leaves the choice to onnxruntime.
        precision: Of the layers; ``auto`` is float32.
    """

    name: BackendName = "onnx"
    device = torch.device("cpu")
    fixed_shape = True

    def __init__(self, checkpoint: Checkpoint, *, threads: int | None = None, precision: Precision = "auto") -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            cached_onnx(checkpoint, int8=precision == "int8"), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, x: Tensor, condition: Tensor) -> Tensor:
        inputs = {"x": x.contiguous().numpy(), "condition": condition.contiguous().numpy()}
        return torch.from_numpy(self._session.run([OUTPUT], inputs)[0])
