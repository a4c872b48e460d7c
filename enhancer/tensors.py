"""Pictures of any kind (numpy, Pillow, torch) as tensors, and back to the same kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor

AnyImage: TypeAlias = Any
"""``numpy.ndarray`` ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``, ``PIL.Image.Image`` or ``torch.Tensor``
``(3, H, W)`` or ``(N, 3, H, W)``: uint8, uint16 (numpy) or floating point in [0, 1]."""

INTEGER_PEAK = {torch.uint8: 255.0, torch.uint16: 65535.0}


@dataclass(frozen=True)
class Unpacked:
    """The colours of a picture as a tensor, and the way back.

    Attributes:
        x: ``(N, C, H, W)``, C = 1 (gray) or 3, in the picture's own type: uint8, uint16 or float. It may share
            memory with the picture.
        pack: Makes a picture of the original kind from such a tensor; alpha is put back untouched.
    """

    x: Tensor
    pack: Callable[[Tensor], AnyImage]


def unpack(image: AnyImage) -> Unpacked:
    """Separates the colours of ``image`` from alpha and container.

    Raises:
        ValueError: If kind, shape, dtype or values are not as :data:`AnyImage` says.
    """
    if isinstance(image, np.ndarray):
        return _unpack_array(image)
    if isinstance(image, Tensor):
        return _unpack_tensor(image)
    if isinstance(image, PilImage.Image):
        return _unpack_pil(image)
    raise ValueError(f"image must be a numpy array, a PIL image or a torch tensor, got {type(image).__name__}")


def to_unit(x: Tensor) -> Tensor:
    """Float32 in [0, 1] of an integer tensor (full range of its type) or of a floating-point one."""
    peak = INTEGER_PEAK.get(x.dtype)
    return x.float() if peak is None else x.float().div_(peak)


def from_unit(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Clamps to [0, 1] and converts to ``dtype``, rounding to the nearest integer once."""
    peak = INTEGER_PEAK.get(dtype)
    y = y.clamp(0, 1)
    return y.to(dtype) if peak is None else y.mul_(peak).round_().to(dtype)  # clamp made a copy


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeats the last row and column until H and W are multiples of ``multiple``."""
    height, width = x.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if below:
        x = torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], below, width)], dim=-2)
    if right:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], right)], dim=-1)
    return x


def _unpack_array(image: np.ndarray) -> Unpacked:
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise ValueError(f"image must be uint8, uint16 or floating point, got {image.dtype}")
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))) or 0 in image.shape:
        raise ValueError(f"image must be (H, W), (H, W, 3) or (H, W, 4) and not empty, got shape {image.shape}")
    colours = (image[..., None] if image.ndim == 2 else image[..., :3]).transpose(2, 0, 1)
    if not (image.flags.writeable and image.flags.c_contiguous):  # torch takes no read-only or mirrored arrays
        colours = np.array(colours, order="C")
    x = torch.from_numpy(colours)[None]
    _check_range(x)

    def pack(y: Tensor) -> np.ndarray:
        enhanced = y[0].permute(1, 2, 0).numpy()
        if image.ndim == 2:
            return enhanced[..., 0]
        return (
            np.concatenate([enhanced, image[..., 3:]], axis=2)
            if image.shape[2] == 4
            else np.ascontiguousarray(enhanced)
        )

    return Unpacked(x, pack)


def _unpack_tensor(image: Tensor) -> Unpacked:
    if image.dtype is not torch.uint8 and not image.is_floating_point():
        raise ValueError(f"image must be uint8 or floating point, got {image.dtype}")
    if image.ndim not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape:
        raise ValueError(f"image must be (3, H, W) or (N, 3, H, W) and not empty, got shape {tuple(image.shape)}")
    _check_range(image)
    x = image.detach() if image.ndim == 4 else image.detach()[None]
    return Unpacked(x, lambda y: y.reshape(image.shape))


def _unpack_pil(image: PilImage.Image) -> Unpacked:
    mode = _working_mode(image)
    source = image if mode == image.mode else image.convert(mode)
    channels = source.split()
    if mode == "LA":
        inner = _unpack_array(np.array(channels[0]))
    elif mode == "I;16":
        inner = _unpack_array(np.array(source).astype(np.uint16))
    else:
        inner = _unpack_array(np.array(source))

    def pack(y: Tensor) -> PilImage.Image:
        result = PilImage.fromarray(inner.pack(y))
        if mode == "LA":
            result = PilImage.merge("LA", (result, channels[1]))
        result.info = dict(image.info)
        result.info.pop("transparency", None)  # it is the alpha channel now
        return result

    return Unpacked(inner.x, pack)


def _working_mode(image: PilImage.Image) -> str:
    """The mode in which an image is enhanced: its own one, or what Pillow converts it to."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "I;16", "F"):
        transparent = "transparency" in image.info and image.mode in ("L", "RGB")
        return {"L": "LA", "RGB": "RGBA"}[image.mode] if transparent else image.mode
    if image.mode in ("I;16L", "I;16B", "I;16N"):
        return "I;16"
    if image.mode in ("1", "La"):
        return {"1": "L", "La": "LA"}[image.mode]
    if image.mode == "I":
        raise ValueError("32-bit integer pictures are not supported; convert to mode I;16 or F first")
    return "RGBA" if image.has_transparency_data else "RGB"


def _check_range(x: Tensor) -> None:
    if x.is_floating_point() and not (bool(x.isfinite().all()) and x.amin() >= 0 and x.amax() <= 1):
        raise ValueError("floating-point pictures must have values in [0, 1]")
