"""``python -m train average``: the mean of the weights of checkpoints that were trained from one another.

A training that goes on from a checkpoint's weights, on other crops, ends at as good a place nearby, with other errors;
the place between the two has fewer of them (Wortsman et al., "Model soups", ICML 2022).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from enhancer.checkpoint import load_checkpoint, save_checkpoint
from enhancer.halo import measured_halo
from enhancer.quantization import METADATA_KEY


def average(checkpoints: list[str], output: Path) -> str:
    """Writes ``output``, weights in float16, and returns its SHA-256.

    Args:
        checkpoints: Names or paths, at least two. The first one's metadata are kept, but for the ranges of int8, which
            ``python -m train quantize`` has to find anew.
        output: Checkpoint to write; may be one of them.

    Raises:
        CheckpointError: If one cannot be loaded.
        ValueError: If there are less than two, or their sizes or codecs differ.
    """
    if len(checkpoints) < 2:
        raise ValueError("there must be two checkpoints at least")
    first, *others = (load_checkpoint(checkpoint) for checkpoint in checkpoints)
    for name, other in zip(checkpoints[1:], others, strict=True):
        if (other.config, other.codecs) != (first.config, first.codecs):
            raise ValueError(f"{name} is another network than {checkpoints[0]}")
    states = [loaded.network.state_dict() for loaded in (first, *others)]
    mean = {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}
    first.network.load_state_dict(mean)
    metadata = {key: value for key, value in first.metadata.items() if key != METADATA_KEY}
    metadata["average"] = json.dumps([loaded.sha256 for loaded in (first, *others)])
    metadata["halo"] = str(measured_halo(first.network))
    return save_checkpoint(output, first.network, codecs=first.codecs, metadata=metadata, half=True)
