"""``python -m train evaluate``: gain of a checkpoint on the validation part of a store, by codec and qp."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from enhancer.checkpoint import load_checkpoint
from enhancer.condition import condition_vector
from train.store import PairStore
from train.validation import pair_gain

Told = Literal["known", "codec", "none"]

BIN = 5
"""Width of the qp groups in the table."""


def evaluate(checkpoint: str, store_folder: Path, told: Told) -> Iterator[str]:
    """Lines of a Markdown table: codec, qps, pairs, mean and worst gain in dB of RGB-PSNR.

    Args:
        checkpoint: Name or path.
        store_folder: Pair store.
        told: Whether the network is told codec and qp, the codec alone, or nothing.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded.
        ValueError: If ``store_folder`` is no store.
    """
    loaded, store = load_checkpoint(checkpoint), PairStore(store_folder)
    groups: dict[tuple[str, int], list[float]] = defaultdict(list)
    for pair in store.split(validation=True):
        codec = None if told == "none" else pair.codec
        condition = condition_vector(loaded.codecs, codec, pair.coded_qp if told == "known" else None)
        gain = pair_gain(loaded.network, store, pair, condition, torch.device("cpu"))
        groups[pair.codec, pair.qp // BIN * BIN].append(gain)
    yield "| codec | qp | pairs | mean gain, dB | worst, dB |"
    yield "|---|---|---|---|---|"
    for (codec, low), gains in sorted(groups.items()):
        yield f"| {codec} | {low}–{low + BIN - 1} | {len(gains)} | {np.mean(gains):+.3f} | {min(gains):+.3f} |"
