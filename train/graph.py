"""Replays an optimiser step as one CUDA graph: launching its kernels one by one would take longer than they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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


def fit_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """On a GPU, step counts and rates lie in its memory, so that a recorded step can read them."""
    for group in optimizer.param_groups:
        group["capturable"] = device.type == "cuda"
        group["lr"] = torch.tensor(float(group["lr"]), device=device) if device.type == "cuda" else float(group["lr"])


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Sets the learning rate of a group, where a recorded step reads it."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
