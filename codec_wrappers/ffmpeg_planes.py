"""What pictures are made of before they are rounded: their planes by FFmpeg, and pictures of those planes.

libjpeg and libwebp interpolate chroma linearly (their "fancy upsampling") and round it, and round again to RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from codec_wrappers.base import Image
from codec_wrappers.color import BT601, STRIP_ROWS, Plane, YCbCrFormat, yuv_to_rgb

Planes: TypeAlias = tuple[Plane, Plane, Plane]
"""Y, Cb and Cr, each ``(H, W)``, uint8 or uint16."""

_FORMATS = (
    "yuva420p",
    *(f"{kind}{chroma}p" for kind in ("yuv", "yuvj") for chroma in (420, 422, 440, 444)),
    *(f"yuv{chroma}p{depth}le" for chroma in (420, 422, 444) for depth in (10, 12)),
)
# How far libjpeg's and libwebp's picture may be from FFmpeg's, of 255: each rounds its inverse transform and the other
# its conversion, 4.0 and a mean square of 0.7 on photographs.
_FARTHEST, _MEAN_SQUARE = 8.0, 1.5
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
CODED_MORE = 64
"""Rows and columns that a coded picture may have beyond the shown ones."""


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
    frames = decode_frames(
        decoder, [bitstream], max_pixels=(image.shape[0] + CODED_MORE) * (image.shape[1] + CODED_MORE)
    )
    if frames is None or frames[0].planes[0].shape != image.shape[:2]:
        return None
    form = YCbCrFormat(*BT601, full_range=decoder == "mjpeg", bit_depth=8)
    colours = yuv_to_rgb(frames[0].planes, form, kernel="linear", output_depth=16)
    return with_alpha(colours, image) if is_near(colours, image, _FARTHEST, _MEAN_SQUARE) else None


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        planes: Its samples.
        matrix: ``MatrixCoefficients`` of Rec. ITU-T H.273; 2 if the bitstream does not say it.
        full_range: Whether the samples use all codes.
    """

    planes: Planes
    matrix: int
    full_range: bool


def decode_frames(
    decoder: str, packets: Sequence[bytes], *, max_pixels: int, configuration: bytes = b""
) -> list[Frame] | None:
    """The frames of packets that hold one each; None if FFmpeg has another idea of them, or no such decoder.

    Args:
        decoder: FFmpeg's name of the decoder.
        packets: Coded pictures.
        max_pixels: A frame that claims more is refused, before there is memory for it.
        configuration: What the decoder is to know before (FFmpeg's extradata).
    """
    import av

    frames: list[Frame] = []
    try:
        context: Any = av.CodecContext.create(decoder, "r")
        context.thread_count = 1
        # idct: libjpeg's own, of those that FFmpeg has for JPEG. Its usual one is 0.03 of 255 too dark on average.
        context.options = {"max_pixels": str(max_pixels), "idct": "int"}
        if configuration:
            context.extradata = configuration
        for packet in (*map(av.Packet, packets), None):
            for frame in context.decode(packet):
                planes = _planes(frame)
                if planes is None or len(frames) == len(packets):
                    return None
                frames.append(Frame(planes, int(frame.colorspace), int(frame.color_range) == _FULL_RANGE))
    except (av.FFmpegError, av.codec.codec.UnknownCodecError, MemoryError):
        return None
    return frames if len(frames) == len(packets) else None


def _planes(frame: Any) -> Planes | None:
    """The planes of a whole YCbCr frame; None if it is of another kind."""
    if frame.is_corrupt or frame.format.name not in _FORMATS:
        return None
    if any(plane.line_size < plane.width for plane in frame.planes):  # some old cameras' pictures lie upside down
        return None
    y, cb, cr = (samples_of(plane, frame.format.components[0].bits) for plane in frame.planes[:3])
    return y, cb, cr


def samples_of(plane: Any, bit_depth: int) -> Plane:
    """A copy of the samples of one of PyAV's planes, ``(H, W)``; uint8 for 8 bits per sample, otherwise uint16."""
    dtype = np.dtype("u1" if bit_depth == 8 else "<u2")
    lines = np.frombuffer(plane, dtype).reshape(plane.height, -1)  # longer than the picture is wide
    return lines[:, : plane.width].astype(dtype.newbyteorder("="))


def is_near(colours: Image, image: Image, farthest: float, mean_square: float) -> bool:
    """Whether channels of an uint16 picture are those of ``image`` but for rounding; the bounds are of 255."""
    scale, total = np.float32(255 / np.iinfo(image.dtype).max), 0.0
    for top in range(0, len(image), STRIP_ROWS):
        rows = slice(top, top + STRIP_ROWS)
        difference = colours[rows] / np.float32(257) - image[rows, :, : colours.shape[2]] * scale
        total += float(np.square(difference).sum())
        if np.abs(difference).max() > farthest:
            return False
    return total <= mean_square * colours.size


def with_alpha(colours: Image, image: Image) -> Image:
    """The RGB picture ``colours``, uint16, with the alpha channel of ``image``, if it has one."""
    if image.shape[2] == 3:
        return colours
    alpha = image[..., 3] if image.dtype == np.uint16 else image[..., 3].astype(np.uint16) * 257
    return np.dstack([colours, alpha])
