"""AVIF and HEIC pictures from their planes, rounded to 16 bits only and with chroma interpolated.

libheif repeats chroma samples, libavif interpolates them linearly, and both round the result to the file's depth.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from codec_wrappers.base import Image
from codec_wrappers.color import BT601, BT709, BT2020, STRIP_ROWS, YCbCrFormat, yuv_to_rgb
from codec_wrappers.ffmpeg_planes import CODED_MORE, Frame, Planes, decode_frames, is_near, with_alpha
from codec_wrappers.isobmff import ItemFile

# By MatrixCoefficients of Rec. ITU-T H.273; both libraries take an unspecified one (2) for that of BT.601.
_WEIGHTS = {1: BT709, 2: BT601, 5: BT601, 6: BT601, 9: BT2020}
# How far the shown picture may be from that of the planes, of 255: both libraries calculate with integers, libavif with
# few digits (1.9 and a mean square of 0.2 on photographs).
_FARTHEST, _MEAN_SQUARE = 4.0, 0.5


def unrounded_heif(decoder: Literal["hevc", "libdav1d"], file: ItemFile, image: Image) -> Image | None:
    """The picture of the planes that ``image`` shows, with better chroma.

    Its chroma samples lie where those of ``image`` do, in the middle of what they stand for, but are interpolated by
    Lanczos' kernel, as in the pictures of BPG and VVC. Photographs come nearer to their originals by it (HEIC of
    quality 80 in 4:2:0 by a quarter to a half of the mean squared error); colours that change from one block of 2 x 2
    pixels to the next do not.

    Args:
        decoder: FFmpeg's name of the decoder.
        file: The file.
        image: What libheif (for ``hevc``) or libavif made of it, as it is stored (not turned), uint8 or uint16.

    Returns:
        uint16, full range, of the shape of ``image``; its alpha is that of ``image``. None if ``image`` is gray, or
        FFmpeg does not decode the file to planes that are those of ``image``.
    """
    if image.ndim == 2 or not file.columns:
        return None
    width, height = file.tile_size
    frames = decode_frames(
        decoder,
        file.tiles,
        max_pixels=(width + CODED_MORE) * (height + CODED_MORE),
        configuration=file.configuration if decoder == "hevc" else b"",
    )
    form = _form(file, frames[0]) if frames else None
    planes = _joined([frame.planes for frame in frames or ()], file.columns, *image.shape[:2])
    if form is None or planes is None:
        return None
    shown = yuv_to_rgb(_repeated(planes) if decoder == "hevc" else planes, form, kernel="linear", output_depth=16)
    if not _is_shown(shown, image, all_of_it=decoder == "hevc"):
        return None
    moved = _moved(shown, image) if decoder == "libdav1d" and form.full_range else None
    del shown  # as large as what comes next
    colours = yuv_to_rgb(planes, form, output_depth=16)
    if moved is not None:
        for top in range(0, len(colours), STRIP_ROWS):
            strip = colours[top : top + STRIP_ROWS]
            strip[:] = np.clip(np.rint(strip + moved), 0, 65535)
    return with_alpha(colours, image)


def _is_shown(shown: Image, image: Image, *, all_of_it: bool) -> bool:
    """Whether ``image`` is ``shown`` but for rounding; ``all_of_it`` for libheif's, less for libavif's."""
    # libavif does not interpolate the last odd column, and of limited-range BT.709 its blue is off by up to 12.
    part = ... if all_of_it else (slice(None), slice(image.shape[1] & -2 or 1), slice(2))
    return is_near(shown[part], image[part], _FARTHEST, _MEAN_SQUARE)


def _moved(shown: Image, image: Image) -> npt.NDArray[np.float32]:
    """How far libavif's picture lies from that of the planes, mean of each channel, in steps of 65535.

    Its encoder takes half a step from chroma, and its decoder gives a part of that back: worth 0.01 dB on Kodak.
    """
    scale = 65535 / np.iinfo(image.dtype).max
    return np.asarray(image[..., :3].mean(axis=(0, 1)) * scale - shown.mean(axis=(0, 1)), np.float32)


def _form(file: ItemFile, frame: Frame) -> YCbCrFormat | None:
    """How colours became samples, by the file or else the bitstream; None if not to Y, Cb and Cr."""
    weights = _WEIGHTS.get(frame.matrix if file.matrix is None else file.matrix)
    full_range = frame.full_range if file.full_range is None else file.full_range
    return weights and YCbCrFormat(*weights, full_range, file.bit_depth)


def _joined(tiles: list[Planes], columns: int, height: int, width: int) -> Planes | None:
    """The upper left part of tiles laid in rows; None if they do not cover it, or differ in size or chroma format."""
    if len({tuple((plane.shape, plane.dtype) for plane in tile) for tile in tiles}) != 1:
        return None
    y, cb, cr = (
        np.block([list(component[start : start + columns]) for start in range(0, len(tiles), columns)])
        for component in zip(*tiles, strict=True)
    )
    if y.shape[0] < height or y.shape[1] < width:
        return None
    down, right = (2 if small < large else 1 for small, large in zip(cb.shape, y.shape, strict=True))
    part = slice(-(-height // down)), slice(-(-width // right))
    return y[:height, :width], cb[part], cr[part]


def _repeated(planes: Planes) -> Planes:
    """The planes with chroma repeated to the size of luma."""
    y, cb, cr = planes
    for axis, length in enumerate(y.shape):
        if cb.shape[axis] < length:
            cb, cr = (plane.repeat(2, axis=axis) for plane in (cb, cr))
    height, width = y.shape
    return y, cb[:height, :width], cr[:height, :width]
