"""Draws training crops from a pair store: step and sample number decide, nothing else is remembered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from enhancer.condition import condition_vector
from train.config import DataSettings, TrainConfig
from train.store import Pair, PairStore


@dataclass(frozen=True)
class Batch:
    """Crops on the training device.

    Attributes:
        x: Decoded crops, ``(N, 3, S, S)``, float32 in [0, 1].
        target: Original crops, same shape.
        condition: Condition vectors, ``(N, K)``.
    """

    x: Tensor
    target: Tensor
    condition: Tensor


@dataclass(frozen=True)
class Draw:
    """One crop, as numbers: where its pixels lie and in which direction to walk."""

    x_start: int
    target_start: int
    row_step: int
    column_step: int
    condition: Tensor


class CropSampler:
    """Random crops of the training part of a store.

    Sample ``i`` of step ``s`` depends on ``(seed, s, i)`` only: that makes resuming exact and lets any
    number of processes share one global batch. The pixels are one flat uint8 tensor, on the GPU if
    they fit there; crops, rotations and flips are one gather with strides.

    Raises:
        ValueError: If the store has no training pair of a codec that is asked for.
    """

    def __init__(self, store: PairStore, config: TrainConfig, device: torch.device) -> None:
        self._store = store
        self._data: DataSettings = config.data
        self._codecs = config.codecs
        self._seed = config.seed
        self._device = device
        pixels = torch.from_numpy(np.asarray(store.pixels)) if device.type == "cpu" else None
        self._pixels = pixels if pixels is not None else torch.from_numpy(np.array(store.pixels)).to(device)
        self._groups = self._group(store.split(validation=False))
        weights = np.array([config.data.weights[codec] for codec in self._groups])
        self._codec_shares = weights / weights.sum()

    def _group(self, pairs: list[Pair]) -> dict[str, list[Pair]]:
        groups = {codec: [p for p in pairs if p.codec == codec] for codec in self._data.weights}
        for codec, group in groups.items():
            if not group:
                raise ValueError(f"the store has no training pairs of {codec}, which data.weights asks for")
        return groups

    def batch(self, step: int, samples: range, crop: int) -> Batch:
        """Samples ``samples`` of the global batch of ``step``, as crops of ``crop`` x ``crop``."""
        draws = [self._draw(step, sample, crop) for sample in samples]
        grid = torch.arange(crop, device=self._device)
        row, column = (
            torch.tensor([getattr(d, name) for d in draws], device=self._device).view(-1, 1, 1)
            for name in ("row_step", "column_step")
        )
        inner = grid.view(1, -1, 1) * row + grid.view(1, 1, -1) * column  # (N, S, S)
        x, target = (
            self._gather(inner + torch.tensor([getattr(d, name) for d in draws], device=self._device).view(-1, 1, 1))
            for name in ("x_start", "target_start")
        )
        return Batch(x, target, torch.stack([d.condition for d in draws]).to(self._device))

    def _gather(self, index: Tensor) -> Tensor:
        channels = torch.arange(3, device=self._device)
        values = self._pixels[(index.unsqueeze(-1) + channels)]  # (N, S, S, 3)
        return values.permute(0, 3, 1, 2).float().div_(255)  # channels_last in memory

    def _draw(self, step: int, sample: int, crop: int) -> Draw:
        rng = np.random.default_rng((self._seed, step, sample))
        codec = list(self._groups)[int(rng.choice(len(self._groups), p=self._codec_shares))]
        pair = self._pick(self._groups[codec], rng, crop)
        original = self._store.original(pair)
        top = int(rng.integers(original.height - crop + 1))
        left = int(rng.integers(original.width - crop + 1))
        first = 3 * (top * original.width + left)
        start, row_step, column_step = self._orient(int(rng.integers(8)), first, 3 * original.width, crop)
        return Draw(pair.offset + start, original.offset + start, row_step, column_step, self._condition(pair, rng))

    def _pick(self, pairs: list[Pair], rng: np.random.Generator, crop: int) -> Pair:
        """A pair at random that is at least one crop large; sources in their stated proportions."""
        for _ in range(1000):
            pair = pairs[int(rng.integers(len(pairs)))]
            original = self._store.original(pair)
            shares = self._data.sources
            wanted = not shares or rng.random() < shares.get(original.source, 0.0) / max(shares.values())
            if wanted and min(original.height, original.width) >= crop:
                return pair
        raise ValueError(f"no training picture of the wanted sources is {crop} pixels large")

    def _orient(self, number: int, first: int, pitch: int, crop: int) -> tuple[int, int, int]:
        """Start and strides of one of the eight orientations of a crop (0..3 rotate, 4..7 flip too)."""
        if self._data.augmentation == "none":
            number = 0
        elif self._data.augmentation == "rotate":
            number %= 4
        last = crop - 1
        return {
            0: (first, pitch, 3),
            1: (first + 3 * last, -3, pitch),
            2: (first + pitch * last + 3 * last, -pitch, -3),
            3: (first + pitch * last, 3, -pitch),
            4: (first + 3 * last, pitch, -3),
            5: (first, 3, pitch),
            6: (first + pitch * last, -pitch, 3),
            7: (first + pitch * last + 3 * last, -3, -pitch),
        }[number]

    def _condition(self, pair: Pair, rng: np.random.Generator) -> Tensor:
        hidden, jitter = rng.random(), float(rng.normal()) * self._data.qp_jitter
        codec = None if hidden < self._data.blind else pair.codec
        qp = None if hidden < self._data.blind + self._data.no_qp or pair.coded_qp is None else pair.coded_qp + jitter
        chroma = None if rng.random() < self._data.no_chroma else pair.chroma
        return condition_vector(self._codecs, codec, qp, chroma)
