"""Sample arithmetic that several file formats need, rounding to nearest.

65535 * 65535 plus half a divisor fits into 32 bits without sign.
"""

from __future__ import annotations

import numpy as np

from codec_wrappers.base import Image


def packed(image: Image) -> Image:
    """A copy with plain strides, as imagecodecs wants them.

    ``numpy.ascontiguousarray`` leaves the strides of sides of length 1 as they are, which it refuses.
    """
    return np.array(image, order="C")


def full_range(samples: Image, maximum: int) -> Image:
    """Scales ``0..maximum`` to the full range of uint8 (maximum up to 255) or uint16 (up to 65535)."""
    dtype, peak = (np.uint8, 255) if maximum < 256 else (np.uint16, 65535)
    if maximum == peak:
        return samples.astype(dtype, copy=False)
    return ((samples.astype(np.uint32) * peak + maximum // 2) // maximum).astype(dtype)


def straight_alpha(image: Image) -> Image:
    """Undoes the premultiplication of an RGBA picture; fully transparent pixels become black."""
    peak = int(np.iinfo(image.dtype).max)
    rgb, alpha = image[..., :3].astype(np.uint32), image[..., 3:]
    opacity = np.maximum(alpha, 1).astype(np.uint32)
    straight = np.minimum((rgb * peak + opacity // 2) // opacity, peak)
    return np.concatenate([np.where(alpha == 0, 0, straight).astype(image.dtype), alpha], axis=2)


def fitting_icc(icc: bytes | None, image: Image) -> bytes | None:
    """The ICC profile, unless it describes other channels than the picture has after its conversion.

    A CMYK profile would turn the colours of an RGB picture into others, and so would a gray one. Source:
    ICC.1:2022, 7.2.6 (data colour space).
    """
    space = (icc or b"")[16:20]
    return None if space == b"CMYK" or (space == b"GRAY" and image.ndim == 3) else icc
