"""A tiny pair store and training settings, for the tests of training."""

from pathlib import Path

import numpy as np
import torch

from enhancer.network import NetworkConfig
from train.config import DataSettings, OptimizerSettings, Phase, TrainConfig
from train.prepare import pixel_key
from train.store import PairStore, PairWriter

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")

CONFIG = TrainConfig(
    network=NetworkConfig(channels=8, blocks=1, unshuffle=2, attention="channel", reduction=2, cell=4),
    phases=(Phase(steps=6, batch=4, crop=32), Phase(steps=4, batch=2, crop=40, loss="mae+ms_ssim")),
    data=DataSettings(weights={"bpg": 2.0, "jpeg": 1.0}, validation_pairs=4),
    optimizer=OptimizerSettings(warmup=2, decay=0.5),
    validate_every=5,
    save_every=3,
)


def make_store(folder: Path) -> Path:
    """Six originals of 48 x 56 pixels, each with a noisy version by two codecs; one is for validation."""
    rng = np.random.default_rng(1)
    with PairWriter(folder) as writer:
        for number in range(6):
            base = rng.integers(0, 256, (6, 7, 3), np.uint8)
            image = np.repeat(np.repeat(base, 8, axis=0), 8, axis=1)
            key = pixel_key(image)
            writer.add_original(key, "set", f"{chr(ord('a') + number)}.png", image)
            for codec, qp in (("bpg", 37), ("jpeg", 10)):
                noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
                writer.add_pair(key, codec, f"{codec}()", qp, float(qp), b"bits" * 3, noisy)
    assert {o.is_validation for o in PairStore(folder).originals.values()} == {True, False}
    return folder
