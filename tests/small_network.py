"""A small network with random weights, for tests that need any network at all."""

from __future__ import annotations

from pathlib import Path

import torch

from enhancer.checkpoint import Checkpoint, save_checkpoint
from enhancer.condition import condition_size
from enhancer.network import NetworkConfig, RestorationNetwork

CODECS = ("bpg", "vvc", "jpeg")


def random_checkpoint(std: float = 0.1, codecs: tuple[str, ...] = CODECS, **sizes) -> Checkpoint:
    """A checkpoint whose network changes pictures by a few percent and heeds the condition."""
    options = {"channels": 8, "blocks": 2, "unshuffle": 2, "cell": 2, "condition": condition_size(codecs), **sizes}
    network = RestorationNetwork(NetworkConfig(**options)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    network.tail.weight.mul_(0.4)
    network.modulation[2].weight.mul_(8)
    return Checkpoint(network, codecs, {}, "0" * 64)


def write_random_checkpoint(path: Path, **sizes) -> Path:
    """Saves such a checkpoint as a file."""
    checkpoint = random_checkpoint(**sizes)
    save_checkpoint(path, checkpoint.network, codecs=checkpoint.codecs)
    return path
