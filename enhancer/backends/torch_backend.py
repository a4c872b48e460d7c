"""The network by torch itself, on a processor or a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import torch
from torch import Tensor

from enhancer.backends import BackendName, Precision, in_place
from enhancer.checkpoint import Checkpoint
from enhancer.network import keep_ends_in_float32


class TorchBackend:
    """Runs the network in channels-last layout.

    Args:
        checkpoint: The network, which is copied.
        device: Where it runs.
        threads: Threads on the processor, for all of torch in this process.
        precision: Of the layers but the first and the last; ``auto`` is bfloat16 on CUDA devices only.
    """

    name: BackendName = "torch"
    fixed_shape = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = device
        self._half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
        self._network = deepcopy(checkpoint.network)
        self._network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack keyword memory_format
        if device.type == "cpu":
            in_place.prepare(self._network, half=self._half)
        else:
            keep_ends_in_float32(self._network)

    @torch.inference_mode()
    def __call__(self, x: Tensor, condition: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return in_place.restore(self._network, x, condition, half=self._half)
        layers = torch.autocast(self.device.type, torch.bfloat16) if self._half else nullcontext()
        with layers:
            restored: Tensor = self._network(x.contiguous(memory_format=torch.channels_last), condition)
        return restored.float()
