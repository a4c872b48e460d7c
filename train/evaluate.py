"""``python -m train evaluate``: gain of a checkpoint on the validation part of a store, by codec and qp."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from enhancer.checkpoint import Checkpoint, load_checkpoint
from enhancer.estimate import estimate_condition
from train.store import Pair, PairStore
from train.validation import pair_gain

Told = Literal["known", "codec", "estimated", "none"]

BIN = 5
"""Width of the qp groups in the table."""


def evaluate(checkpoint: str, store_folder: Path, told: Told) -> Iterator[str]:
    """Lines of a Markdown table: codec, qps, pairs, mean and worst gain in dB of RGB-PSNR.

    Args:
        checkpoint: Name or path.
        store_folder: Pair store.
        told: Whether the network is told codec, qp and chroma format, the codec alone, what they are
            estimated to be from the whole decoded picture, or nothing.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded.
        ValueError: If ``store_folder`` is no store.
    """
    loaded, store = load_checkpoint(checkpoint), PairStore(store_folder)
    groups: dict[tuple[str, int], list[float]] = defaultdict(list)
    for pair in store.split(validation=True):
        groups[pair.codec, pair.qp // BIN * BIN].append(_gain(loaded, store, pair, told))
    yield "| codec | qp | pairs | mean gain, dB | worst, dB |"
    yield "|---|---|---|---|---|"
    for (codec, low), gains in sorted(groups.items()):
        yield f"| {codec} | {low}–{low + BIN - 1} | {len(gains)} | {np.mean(gains):+.3f} | {min(gains):+.3f} |"


def _gain(checkpoint: Checkpoint, store: PairStore, pair: Pair, told: Told) -> float:
    codec = None if told == "none" else pair.codec
    qp, chroma = (pair.coded_qp, pair.chroma) if told == "known" else (None, None)
    if told == "estimated" or checkpoint.says_little(codec, qp):
        estimate = estimate_condition(store.image(store.original(pair), pair.offset))
        if estimate.pristine:
            return 0.0  # such a picture is left as it is
        codec, qp, chroma = estimate.codec, estimate.qp, estimate.chroma
    condition, strength = checkpoint.condition(codec, qp, chroma)
    return pair_gain(checkpoint.network, store, pair, condition, torch.device("cpu"), strength=strength)
