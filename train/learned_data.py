"""Crops of originals for the learned codecs: step and sample number decide, nothing else is remembered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.store import Original, PairStore, Pixels

_VALIDATION_CROPS = 12
_VALIDATION_SIDE = 256


@dataclass(frozen=True)
class Pictures:
    """Pictures to train on, and others to validate with; uint8 RGB."""

    training: tuple[Pixels, ...]
    held_out: tuple[Pixels, ...]

    @classmethod
    def open(cls, source: Path, side: int) -> Pictures:
        """The originals of a pair store, or the pictures of a folder (read whole into memory).

        One file in ten is held out, by its name. Pictures smaller than ``side`` are left out.

        Raises:
            ValueError: If none is large enough to train on.
        """
        parts: tuple[list[Pixels], list[Pixels]] = ([], [])
        for original, image in _stored(source) if (source / "index.jsonl").is_file() else _loose(source):
            if min(image.shape[:2]) >= side:
                parts[original.is_validation].append(image)
        if not parts[0]:
            raise ValueError(f"{source} holds no picture of at least {side} x {side} pixels to train on")
        return cls(tuple(parts[0]), tuple(parts[1]))

    def batch(self, seed: int, step: int, count: int, side: int) -> Tensor:
        """``(count, 3, side, side)`` in [0, 1]: random places in random pictures, turned and mirrored."""
        crops = [self._crop(np.random.default_rng((seed, step, sample)), side) for sample in range(count)]
        return _tensor(np.stack(crops))

    def _crop(self, rng: np.random.Generator, side: int) -> Pixels:
        image = self.training[int(rng.integers(len(self.training)))]
        top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
        crop = np.rot90(image[top : top + side, left : left + side], int(rng.integers(4)))
        return crop[:, ::-1] if rng.integers(2) else crop

    def validation(self) -> Iterator[Tensor]:
        """Centres of pictures that are held out, one a batch."""
        for image in self.held_out[:_VALIDATION_CROPS]:
            height, width = (min(length // 64 * 64, _VALIDATION_SIDE) for length in image.shape[:2])
            top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
            yield _tensor(image[None, top : top + height, left : left + width])


def _tensor(crops: Pixels) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)  # channels_last in memory
    return x.float().div_(255)


def _stored(folder: Path) -> Iterator[tuple[Original, Pixels]]:
    store = PairStore(folder)
    for original in store.originals.values():
        yield original, store.image(original, original.offset)


def _loose(folder: Path) -> Iterator[tuple[Original, Pixels]]:
    from enhancer.image_io import read_picture
    from train.prepare import SUFFIXES

    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            image = read_picture(path).image
            if image.dtype == np.uint16:
                image = np.round(image / 257).astype(np.uint8)
            image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]
            yield Original("", "", path.name, image.shape[0], image.shape[1], 0), image
