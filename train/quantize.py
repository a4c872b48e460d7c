"""``python -m train quantize``: finds the ranges that a checkpoint needs to run in int8, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from enhancer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from enhancer.quantization import METADATA_KEY, calibrated, quantized
from train.store import Pair, PairStore
from train.validation import centre, evenly, pair_gain

CROP = 192
"""Side of the calibration crops in pixels."""


@dataclass(frozen=True)
class Int8Report:
    """What 8 bits cost on the validation part.

    Attributes:
        sha256: Of the checkpoint that was written.
        mean_loss_db: Gain in full precision minus gain in int8, RGB-PSNR, mean over pairs.
        worst_loss_db: The largest of a pair.
        pairs: Number of pairs.
    """

    sha256: str
    mean_loss_db: float
    worst_loss_db: float
    pairs: int


def quantize(checkpoint: str, store_folder: Path, output: Path, *, pairs: int = 64) -> Int8Report:
    """Writes ``output``: the checkpoint with the ranges of its layers' inputs in its metadata.

    Args:
        checkpoint: Name or path.
        store_folder: Pair store; its training part calibrates, its validation part measures the loss.
        output: Checkpoint to write, weights in float16; may be the same file.
        pairs: How many pairs of each part are used, spread evenly over the codecs.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded.
        ValueError: If ``store_folder`` is no store, or holds no pair of a codec that the checkpoint knows.
    """
    loaded, store = load_checkpoint(checkpoint), PairStore(store_folder)
    chosen = _spread(store.split(validation=False), loaded.codecs, pairs)
    ranges = calibrated(loaded.network, _batches(loaded, store, chosen))
    metadata = {**loaded.metadata, METADATA_KEY: json.dumps(ranges)}
    sha256 = save_checkpoint(output, loaded.network, codecs=loaded.codecs, metadata=metadata, half=True)
    rounded = quantized(loaded.network, ranges)
    losses = []
    for pair in _spread(store.split(validation=True), loaded.codecs, pairs):
        condition, share = loaded.condition(pair.codec, pair.coded_qp, pair.chroma)
        exact, int8 = (
            pair_gain(network, store, pair, condition, torch.device("cpu"), strength=share)
            for network in (loaded.network, rounded)
        )
        losses.append(exact - int8)
    return Int8Report(sha256, float(np.mean(losses)), max(losses), len(losses))


def _spread(pairs: Sequence[Pair], codecs: Sequence[str], count: int) -> list[Pair]:
    """Up to ``count`` pairs, as many of each codec, evenly over the order of the store."""
    groups = [[pair for pair in pairs if pair.codec == codec] for codec in codecs]
    groups = [group for group in groups if group]
    if not groups:
        raise ValueError(f"the store holds no pairs of {', '.join(codecs)}")
    return [pair for group in groups for pair in evenly(group, -(-count // len(groups)))]


def _batches(checkpoint: Checkpoint, store: PairStore, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Tensor]]:
    """The centre of each pair's decoded picture, told codec and qp and (every fourth) told nothing."""
    for index, pair in enumerate(pairs):
        crop = centre(store.image(store.original(pair), pair.offset), CROP, checkpoint.network.multiple)
        known = index % 4 != 3
        condition, _ = checkpoint.condition(pair.codec if known else None, pair.coded_qp, pair.chroma)
        yield torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255, condition[None]
