"""JPEG and WebP pictures before rounding: their planes by FFmpeg, without what libjpeg and libwebp round off.

Both libraries interpolate chroma linearly (their "fancy upsampling") and round it, and round again to RGB.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from codec_wrappers.base import Image
from codec_wrappers.color import BT601, YCbCrFormat, yuv_to_rgb

_FORMATS = ("yuva420p", *(f"{kind}{chroma}p" for kind in ("yuv", "yuvj") for chroma in (420, 422, 440, 444)))
# How far the two decoders may be apart, of 255, for FFmpeg's planes to count as those of the picture: each rounds its
# inverse transform and the other its conversion, 4.0 and a mean square of 0.7 on photographs.
_FARTHEST, _MEAN_SQUARE = 8.0, 1.5


def unrounded_picture(decoder: Literal["mjpeg", "webp"], bitstream: bytes, image: Image) -> Image | None:
    """The picture that ``image`` is the rounded form of.

    Args:
        decoder: FFmpeg's name of the decoder.
        bitstream: The file.
        image: What libjpeg or libwebp decoded from it, uint8, RGB or RGBA.

    Returns:
        uint16, full range, of the shape of ``image``; its alpha is that of ``image``. None if FFmpeg does not
        decode the file to planes that are those of ``image``.
    """
    if image.ndim == 2:
        return None  # gray: whole numbers
    planes = _planes(decoder, bitstream)
    if planes is None or planes[0].shape != image.shape[:2]:
        return None
    form = YCbCrFormat(*BT601, full_range=decoder == "mjpeg", bit_depth=8)
    colours = yuv_to_rgb(planes, form, kernel="linear", output_depth=16)
    total = 0.0
    for top in range(0, len(image), 64):
        rows = slice(top, top + 64)
        difference = colours[rows] / np.float32(257) - image[rows, :, :3]
        total += float(np.square(difference).sum())
        if np.abs(difference).max() > _FARTHEST:
            return None
    if total > _MEAN_SQUARE * colours.size:
        return None
    return colours if image.shape[2] == 3 else np.dstack([colours, image[..., 3].astype(np.uint16) * 257])


def _planes(decoder: str, bitstream: bytes) -> tuple[Image, Image, Image] | None:
    """Y, Cb and Cr, uint8, of the only frame; None if FFmpeg has another idea of the file."""
    import av

    context: Any = av.CodecContext.create(decoder, "r")
    context.thread_count = 1
    try:
        frames = [frame for packet in (av.Packet(bitstream), None) for frame in context.decode(packet)]
    except (av.FFmpegError, MemoryError):
        return None
    if len(frames) != 1 or frames[0].format.name not in _FORMATS or frames[0].is_corrupt:
        return None
    if any(plane.line_size < plane.width for plane in frames[0].planes):  # some old cameras' pictures lie upside down
        return None
    y, cb, cr = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width].copy()
        for plane in frames[0].planes[:3]
    )
    return y, cb, cr
