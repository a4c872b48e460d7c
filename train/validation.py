"""Gain of a network on the validation part of a store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from enhancer.condition import condition_vector
from enhancer.network import RestorationNetwork
from train.config import TrainConfig
from train.store import Original, Pair, PairStore, Pixels


@dataclass(frozen=True)
class Validation:
    """Mean RGB-PSNR gains in dB, measured on 8-bit pictures.

    Attributes:
        gain: Over all validation pairs.
        by_codec: Per codec.
        pairs: Number of pairs.
    """

    gain: float
    by_codec: dict[str, float]
    pairs: int


def validation_pairs(store: PairStore, config: TrainConfig) -> list[Pair]:
    """Up to ``validation_pairs`` pairs of the validation part, evenly spread over each used codec."""
    used = [codec for codec, weight in config.data.weights.items() if weight > 0]
    share = max(1, config.data.validation_pairs // len(used))
    chosen = []
    for codec in used:
        pairs = [
            p for p in store.split(validation=True) if p.codec == codec and _holds_a_cell(store.original(p), config)
        ]
        chosen += evenly(pairs, share)
    return chosen


def evenly(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Up to ``count`` of the pairs, none twice, spread over their order."""
    count = min(count, len(pairs))
    return [pairs[index * len(pairs) // count] for index in range(count)]


def _holds_a_cell(picture: Original, config: TrainConfig) -> bool:
    return min(picture.height, picture.width) >= config.network.multiple


def validate(network: RestorationNetwork, store: PairStore, config: TrainConfig, device: torch.device) -> Validation:
    """Measures ``network``, told codec and qp, on the validation pairs."""
    gains: dict[str, list[float]] = defaultdict(list)
    for pair in validation_pairs(store, config):
        condition = condition_vector(config.codecs, pair.codec, pair.coded_qp, pair.chroma)
        gains[pair.codec].append(pair_gain(network, store, pair, condition, device))
    everything = [gain for codec_gains in gains.values() for gain in codec_gains]
    by_codec = {codec: float(np.mean(values)) for codec, values in gains.items()}
    return Validation(float(np.mean(everything)) if everything else float("nan"), by_codec, len(everything))


def pair_gain(
    network: RestorationNetwork,
    store: PairStore,
    pair: Pair,
    condition: torch.Tensor,
    device: torch.device,
    *,
    crop: int = 256,
    strength: float = 1.0,
) -> float:
    """Gain in dB of RGB-PSNR on the central ``crop`` x ``crop`` pixels of a pair, with so much of the correction."""
    picture = store.original(pair)
    decoded, original = (
        centre(store.image(picture, offset), crop, network.multiple) for offset in (pair.offset, picture.offset)
    )
    restored = restore(network, decoded, condition, device, strength)
    return 10 * float(np.log10(_mse(original, decoded) / _mse(original, restored)))


@torch.inference_mode()
def restore(
    network: RestorationNetwork,
    image: Pixels,
    condition: torch.Tensor,
    device: torch.device,
    strength: float = 1.0,
) -> Pixels:
    """The restored 8-bit picture of one whose sides are multiples of ``network.multiple``."""
    x = torch.from_numpy(image).to(device).permute(2, 0, 1).unsqueeze(0).float() / 255
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        y = network(x.contiguous(memory_format=torch.channels_last), condition.to(device).unsqueeze(0))
        y = x + strength * (y - x)
    restored: Pixels = y[0].float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return restored


def _mse(original: Pixels, image: Pixels) -> float:
    """Mean squared error; at least that of one value in 3000 off by one, so that no ratio is infinite."""
    return max(float(np.mean((original.astype(np.float64) - image) ** 2)), 1 / 3000)


def centre(image: Pixels, crop: int, multiple: int) -> Pixels:
    """The middle, ``crop`` x ``crop`` pixels or as many as there are; sides and place are multiples of ``multiple``."""
    height, width = (min(crop, side) // multiple * multiple for side in image.shape[:2])
    top = (image.shape[0] - height) // 2 // multiple * multiple
    left = (image.shape[1] - width) // 2 // multiple * multiple
    return np.ascontiguousarray(image[top : top + height, left : left + width])
