"""Distillation: a larger network's pictures as targets.

What a codec lost can be foreseen to a tenth only; the rest of a target is noise to the network that learns from it. A
teacher's picture is what can be foreseen, without the noise (Hinton, Vinyals and Dean, arXiv:1503.02531).
"""

from __future__ import annotations

import torch
from torch import Tensor

from enhancer.ensemble import TRANSFORMS, transformed, undone
from enhancer.network import keep_ends_in_float32
from train.config import TrainConfig
from train.graph import place_network


class Teacher:
    """The network of ``config.teacher``.

    Each sample of a batch is shown to it in another orientation: the targets then have on average what its
    self-ensemble would say, for the cost of one run.

    Attributes:
        network: It, on the training device.

    Raises:
        CheckpointError: If it cannot be loaded.
        ValueError: If it is told other codecs than the network that it teaches, or cannot see its crops.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        from enhancer.checkpoint import load_checkpoint  # here: shards are trained from without safetensors, too

        loaded = load_checkpoint(config.teacher)
        if loaded.codecs != config.codecs:
            raise ValueError(f"the teacher {config.teacher} is told other codecs: {', '.join(loaded.codecs)}")
        multiple = loaded.network.multiple
        if any(phase.crop % multiple for phase in config.phases):
            raise ValueError(f"the teacher {config.teacher} needs crops that are multiples of {multiple}")
        self.network = place_network(loaded.network, device)
        keep_ends_in_float32(self.network)  # on the device where it is by now
        self._transforms = TRANSFORMS[config.data.augmentation]

    @torch.no_grad()
    def restore(self, x: Tensor, condition: Tensor, first: int) -> Tensor:
        """Its pictures of ``x``, ``(N, 3, S, S)`` in [0, 1], sample ``first`` of a global batch and those after it."""
        which = [self._transforms[(first + i) % len(self._transforms)] for i in range(len(x))]
        turned = torch.stack([transformed(sample, *how) for sample, how in zip(x, which, strict=True)])
        y = self.network(turned.contiguous(memory_format=torch.channels_last), condition).float()
        return torch.stack([undone(sample, *how) for sample, how in zip(y, which, strict=True)])
