"""Pictures to the streams of a model, and back."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codec_wrappers.base import Image
from codec_wrappers.errors import BitstreamError
from codec_wrappers.learned.models import Hyperprior, one_thread

LOCK = threading.RLock()
"""Held while a model works: quality and refiners are set on the shared model object."""

# CompressAI's decoder reads 32-bit words of the stream without looking where it ends. A symbol takes at most 16
# bits, and an escape at most as many nibbles as the nibbles before it add up to; zeros end an escape.
_SLACK_PER_PIXEL = 4
_SLACK_PER_BYTE = 16


@dataclass(frozen=True)
class Streams:
    """What a model makes of a picture: rANS streams, and the check of the integers if the model has one."""

    streams: tuple[bytes, ...]
    check: int | None


def compress(model: Any, image: Image, quality: float) -> Streams:
    """Codes a picture.

    Args:
        model: A CompressAI image model.
        image: uint8 or uint16, ``(H, W)`` or ``(H, W, 3)``.
        quality: For :meth:`Hyperprior.set_quality`; other models have none.
    """
    with LOCK, torch.no_grad():
        coded = _coder(model, quality, "compress")(to_tensor(image, model.downsampling_factor))
    return Streams(tuple(strings[0] for strings in coded["strings"]), coded.get("check"))


def decompress(model: Any, coded: Streams, quality: float, width: int, height: int) -> Tensor:
    """The picture of ``coded``, float32 in [0, 1], ``(3, H, W)``.

    Raises:
        BitstreamError: If the streams are not ones of this model.
    """
    stride = model.downsampling_factor
    shape = (-(-height // stride), -(-width // stride))
    pixels = shape[0] * shape[1] * stride**2
    strings = [[s + bytes(_SLACK_PER_PIXEL * pixels + _SLACK_PER_BYTE * len(s) + 4096)] for s in coded.streams]
    with LOCK, torch.no_grad():
        try:
            result = _coder(model, quality, "decompress")(strings, shape)
        except (AssertionError, IndexError, ValueError, OverflowError) as error:
            raise BitstreamError(f"the streams do not fit the model: {error}") from error
    if coded.check != result.get("check"):
        raise BitstreamError(
            "the latents came out otherwise than they were coded: another machine's arithmetic, or a forged file"
        )
    x_hat: Tensor = result["x_hat"][0, :, :height, :width]
    return x_hat


def _coder(model: Any, quality: float, method: str) -> Any:
    """The method, prepared; a model that is not ours runs on one thread altogether."""
    if isinstance(model, Hyperprior):
        model.set_quality(quality)
        return getattr(model, method)

    def on_one_thread(*arguments: Any) -> Any:
        with one_thread():
            return getattr(model, method)(*arguments)

    return on_one_thread


def to_tensor(image: Image, stride: int) -> Tensor:
    """``(1, 3, H, W)`` in [0, 1], float32, padded to multiples of ``stride`` by the last column and row."""
    peak = np.iinfo(image.dtype).max
    x = torch.from_numpy(np.ascontiguousarray(image, np.float32) / peak)
    x = x.expand(3, *x.shape) if x.ndim == 2 else x.permute(2, 0, 1)
    height, width = x.shape[1:]
    return functional.pad(x[None].contiguous(), (0, -width % stride, 0, -height % stride), mode="replicate")


def to_image(x: Tensor, *, gray: bool, bit_depth: int) -> Image:
    """Integers of a picture ``(3, H, W)``, rounded once; gray is the mean of the channels."""
    samples = torch.nan_to_num(x).clamp(0, 1)
    samples = samples.mean(0) if gray else samples.permute(1, 2, 0)
    scaled = np.rint(samples.double().numpy() * ((1 << bit_depth) - 1))
    return np.ascontiguousarray(scaled.astype(np.uint16 if bit_depth == 16 else np.uint8))
