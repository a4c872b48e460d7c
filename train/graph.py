"""Replays an optimiser step as one CUDA graph: launching its kernels one by one would take longer than they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch

from train.data import Draws

_WARM_UP = 3
"""Steps that run as usual before the recording, so that libraries have chosen and loaded their kernels."""


class GraphedStep:
    """Calls ``step`` on the draws it is given: the first times as usual, then from a recording.

    All draws must have the same shapes. ``step`` may not wait for the GPU, and everything that differs from one call
    to the next must come from the draws or from tensors changed in place.
    """

    def __init__(self, step: Callable[[Draws], None]) -> None:
        self._step = step
        self._calls = 0
        self._inputs: Draws | None = None
        self._graph = torch.cuda.CUDAGraph()

    def __call__(self, draws: Draws) -> None:
        self._calls += 1
        if self._calls <= _WARM_UP:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # what is to be recorded must not have run on the default stream
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._step(draws)
            torch.cuda.current_stream().wait_stream(stream)
            return
        if self._inputs is None:
            self._inputs = Draws(*(getattr(draws, field.name).cuda() for field in fields(draws)))
            with torch.cuda.graph(self._graph):
                self._step(self._inputs)
        for field in fields(draws):
            getattr(self._inputs, field.name).copy_(getattr(draws, field.name))
        self._graph.replay()
