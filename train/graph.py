"""Replays an optimiser step as one CUDA graph: launching its kernels one by one would take longer than they do.

Beside that, what all trainings do alike so that their steps can be recorded: settings that lie in the GPU's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from enhancer.network import RestorationNetwork

_WARM_UP = 3
"""Steps that run as usual before the recording, so that libraries have chosen and loaded their kernels."""


class GraphedStep:
    """Calls ``step`` on the tensors it is given: the first times as usual, then from a recording.

    All calls must have the same shapes. ``step`` may not wait for the GPU, and everything that differs from one call
    to the next must come from its tensors or from others changed in place.
    """

    def __init__(self, step: Callable[..., None]) -> None:
        self._step = step
        self._calls = 0
        self._inputs: list[Tensor] = []
        self._graph = torch.cuda.CUDAGraph()

    def __call__(self, *tensors: Tensor) -> None:
        self._calls += 1
        if self._calls <= _WARM_UP:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # what is to be recorded must not have run on the default stream
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._step(*tensors)
            torch.cuda.current_stream().wait_stream(stream)
            return
        if not self._inputs:
            self._inputs = [tensor.cuda().clone() for tensor in tensors]
            with torch.cuda.graph(self._graph):
                self._step(*self._inputs)
        for own, new in zip(self._inputs, tensors, strict=True):
            own.copy_(new)
        self._graph.replay()


def set_up_cuda(device: torch.device) -> None:
    """How layers are computed on a GPU: kernels chosen by trial, float32 without short cuts."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False  # the layers at the picture: 10 bits are too coarse, too


def place_network(network: RestorationNetwork, device: torch.device) -> RestorationNetwork:
    """Moves a network to the training device, in the memory format that convolutions are fastest in; returns it."""
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def place_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """On a GPU, step counts and rates lie in its memory, so that a recorded step can read them."""
    for group in optimizer.param_groups:
        group["fused"] = True  # what looks at found_inf
        group["capturable"] = device.type == "cuda"
        group["lr"] = torch.tensor(float(group["lr"]), device=device) if device.type == "cuda" else float(group["lr"])


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Sets the learning rate of a group, where a recorded step reads it."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def set_average_step(average_step: Tensor, decay: float, step: int) -> None:
    """Sets how far the averaged weights go towards the trained ones in this step.

    A short memory at first, so that the average is not held back by the untrained weights.
    """
    average_step.fill_(1 - min(decay, (1 + step) / (10 + step)))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, average_step: Tensor) -> None:
    """Moves the averaged weights towards those of ``model``."""
    means: list[Tensor] = list(average.parameters())
    values: list[Tensor] = list(model.parameters())
    differences = torch._foreach_sub(values, means)
    torch._foreach_mul_(differences, average_step)  # a tensor: lerp would take a number only
    torch._foreach_add_(means, differences)
