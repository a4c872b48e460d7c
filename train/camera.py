"""Originals as a camera or a film scanner would have made them.

Pictures that were scaled down have hardly any noise, and chroma as sharp as luma. A network that has seen no others
takes the grain that a codec left for an error, and sharpens chroma that never was sharp. Most photographs have been
4:2:0 once before; Kodak's, too, since Photo CD halves chroma.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from codec_wrappers.color import BT601, Plane, YCbCrFormat, from_unit, rgb_to_ycbcr, ycbcr_to_rgb
from train.store import Pixels

_FORMAT = YCbCrFormat(*BT601, full_range=True, bit_depth=8)
_REACH = 8  # pixels about a picture that its halved chroma is taken from, too
_HALVING = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
_DOUBLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def as_from_a_camera(image: Pixels, rng: np.random.Generator, *, grain: float, soft_chroma: float) -> Pixels:
    """Halves the chroma of ``image`` for a share ``soft_chroma`` of all pictures, then adds grain.

    Args:
        image: ``(H, W, 3)`` uint8.
        rng: Decides about this picture.
        grain: Largest standard deviation, in steps of 255; this picture gets between 0.15 and 1 of it. 0 adds none.
        soft_chroma: 0..1.
    """
    soft, strength, size, colour = rng.uniform(size=4)
    if soft < soft_chroma:
        image = _with_soft_chroma(image, rng)
    return _with_grain(image, rng, (0.15 + 0.85 * strength) * grain, 0.8 * size, 0.7 * colour) if grain else image


def rescaled(image: Pixels, scale: float) -> Pixels:
    """``image``, ``(H, W, 3)`` uint8, with ``scale`` times its rows and columns; Lanczos, wider when it shrinks."""
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _with_soft_chroma(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Chroma halved and interpolated again; luma as it was, but for rounding.

    Not as our codecs do it: the halved samples lie anywhere, and by any of the usual filters. Halved by a codec's own
    filters on its own samples, chroma is what that codec then keeps whole, which no real picture's is, and a network
    learns, and its validation part shows, gains that other pictures do not have.
    """
    height, width = image.shape[:2]
    border = ((_REACH, _REACH + height % 2), (_REACH, _REACH + width % 2))
    across, down = width + width % 2 + 2 * _REACH - 2, height + height % 2 + 2 * _REACH - 2  # what is halved
    left, top = rng.uniform(0, 2, 2).tolist()  # its corner, from that of the border
    place = (_REACH - left) / 2, (_REACH - top) / 2  # of the picture in its halved chroma
    halving, doubling = (filters[int(rng.integers(len(filters)))] for filters in (_HALVING, _DOUBLING))

    def soft(plane: Plane) -> Plane:
        whole = Image.fromarray(np.pad(plane, border, mode="edge"))
        half = whole.resize((across // 2, down // 2), halving, box=(left, top, left + across, top + down))
        box = (*place, place[0] + width / 2, place[1] + height / 2)
        return np.asarray(half.resize((width, height), doubling, box=box))

    return with_chroma(image, soft)


def with_chroma(image: Pixels, change: Callable[[Plane], Plane]) -> Pixels:
    """``image``, ``(H, W, 3)`` uint8, with ``change`` applied to its Cb and Cr (BT.601, full range)."""
    y, cb, cr = rgb_to_ycbcr(image.astype(np.float32) / 255, _FORMAT)
    return from_unit(ycbcr_to_rgb(y, change(cb), change(cr), _FORMAT), 8)


def _with_grain(image: Pixels, rng: np.random.Generator, deviation: float, size: float, colour: float) -> Pixels:
    """Gaussian noise, blurred by ``size`` pixels; a part ``colour`` differs between R, G and B."""
    from scipy.ndimage import gaussian_filter

    luma, chroma = rng.normal(size=(*image.shape[:2], 1)), rng.normal(size=image.shape)
    noise = gaussian_filter(luma + colour * chroma, (size, size, 0))
    grainy: Pixels = np.clip(np.rint(image + noise * (deviation / noise.std())), 0, 255).astype(np.uint8)
    return grainy
