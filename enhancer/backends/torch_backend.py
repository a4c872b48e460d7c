"""The network by torch itself, on a processor or a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import torch
from torch import Tensor

from enhancer.backends import BackendName
from enhancer.checkpoint import Checkpoint


class TorchBackend:
    """Runs the network in channels-last layout: in float32, or in bfloat16 on a CUDA device.

    In bfloat16 only the layers run in half precision; the residual is added to a float32 picture.

    Args:
        checkpoint: The network, which is copied.
        device: Where it runs.
        threads: Threads on the processor, for all of torch in this process.
        half: Whether layers run in bfloat16; None means on CUDA devices only.
    """

    name: BackendName = "torch"
    fixed_shape = False

    def __init__(
        self, checkpoint: Checkpoint, *, device: torch.device, threads: int | None = None, half: bool | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = device
        self._half = device.type == "cuda" if half is None else half
        network = deepcopy(checkpoint.network)
        self._network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack keyword memory_format

    @torch.inference_mode()
    def __call__(self, x: Tensor, condition: Tensor) -> Tensor:
        layers = torch.autocast(self.device.type, torch.bfloat16) if self._half else nullcontext()
        with layers:
            restored: Tensor = self._network(x.contiguous(memory_format=torch.channels_last), condition)
        return restored.float()
