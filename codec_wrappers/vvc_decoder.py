"""Decoded planes of VVC streams, and pictures made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from codec_wrappers.base import Chroma, Image
from codec_wrappers.color import BT601, BT709, BT2020, Plane, Siting, YCbCrFormat, luma_to_gray, yuv_to_rgb
from codec_wrappers.errors import BitstreamError
from codec_wrappers.ffmpeg_planes import samples_of
from codec_wrappers.vvc_sps import Vui
from codec_wrappers.vvc_syntax import StreamHeaders

_MATRICES = {  # kr and kb by MatrixCoefficients of H.273
    1: BT709,
    4: (0.30, 0.11),
    5: BT601,
    6: BT601,
    7: (0.212, 0.087),
    9: BT2020,
}
_IDENTITY, _UNSPECIFIED = 0, 2
_SITINGS = {  # by Chroma420SampleLocType of H.273; 6 is "unspecified", for which H.266 suggests left
    0: Siting(0, 0.5),
    1: Siting(0.5, 0.5),
    2: Siting(0, 0),
    3: Siting(0.5, 0),
    4: Siting(0, 1),
    5: Siting(0.5, 1),
    6: Siting(0, 0.5),
}


@dataclass(frozen=True)
class DecodedPlanes:
    """The samples of a picture exactly as they were decoded.

    Attributes:
        planes: Y alone, or Y, Cb, Cr; uint8 for 8 bits per sample, otherwise uint16.
        chroma: Chroma format.
        bit_depth: Bits per sample.
        vui: How samples are to be shown, as the decoder says; the chroma location is not known.
    """

    planes: tuple[Plane, ...]
    chroma: Chroma
    bit_depth: int
    vui: Vui


def decode_planes(bitstream: bytes) -> DecodedPlanes:
    """The first picture of a stream, decoded in this process by FFmpeg through PyAV.

    Raises:
        BitstreamError: If the stream is cut off, damaged, or uses what FFmpeg does not decode.
    """
    import av

    context = av.CodecContext.create("vvc", "r")
    # FFmpeg's decoder has a race: with more threads, pictures one coding tree unit wide come out
    # wrong at random, without any error.
    context.thread_count = 1
    try:
        frame = _first_frame(context, bitstream)
    except (av.FFmpegError, MemoryError) as error:
        raise BitstreamError(f"the VVC decoder failed: {getattr(error, 'strerror', None) or error}") from error
    if frame is None:
        raise BitstreamError("the stream is cut off or damaged: it holds no complete picture")
    if frame.is_corrupt:
        raise BitstreamError("the stream is damaged: the decoder reports a corrupt picture")
    depth = frame.format.components[0].bits
    planes = tuple(samples_of(plane, depth) for plane in frame.planes)
    vui = Vui(matrix=int(frame.colorspace), full_range=int(frame.color_range) == 2)
    return DecodedPlanes(planes, _chroma_of(frame.format), depth, vui)


def _first_frame(context: Any, bitstream: bytes) -> Any:
    packets = [*context.parse(bitstream), *context.parse(b""), None]  # b"" flushes the parser, None the decoder
    for packet in packets:
        for frame in context.decode(packet):
            return frame
    return None


def _chroma_of(pixel_format: Any) -> Chroma:
    name = pixel_format.name
    if name.startswith("gray"):
        return "400"
    if name.startswith("yuv420"):
        return "420"
    return "422" if name.startswith("yuv422") else "444"  # gbrp, of the identity matrix, included


def split_planes(samples: bytes, headers: StreamHeaders) -> DecodedPlanes:
    """The first picture of raw planar samples, as a decoder program writes them.

    Raises:
        BitstreamError: If there are too few, or the headers do not tell the sample format.
    """
    if headers.bit_depth is None or headers.vui is None:
        raise BitstreamError("the stream uses subpictures or layers, which only the ffmpeg backend reads")
    across = 2 if headers.chroma in ("420", "422") else 1
    down = 2 if headers.chroma == "420" else 1
    shapes = [(headers.height, headers.width)]
    if headers.chroma != "400":
        shapes += 2 * [(-(-headers.height // down), -(-headers.width // across))]
    dtype = np.dtype("u1" if headers.bit_depth == 8 else "<u2")
    needed = sum(h * w for h, w in shapes) * dtype.itemsize
    if len(samples) < needed:
        raise BitstreamError(f"the decoder wrote {len(samples)} bytes instead of {needed}")
    values = np.frombuffer(samples[:needed], dtype)
    ends = np.cumsum([h * w for h, w in shapes])[:-1]
    planes = tuple(part.reshape(shape) for part, shape in zip(np.split(values, ends), shapes, strict=True))
    return DecodedPlanes(planes, headers.chroma, headers.bit_depth, headers.vui)


def to_image(
    decoded: DecodedPlanes,
    vui: Vui,
    *,
    size: tuple[int, int] | None = None,
    gray: bool = False,
    output_depth: Literal[8, 16] = 8,
) -> Image:
    """RGB picture, or gray picture of luma, as ``vui`` says.

    Untagged streams are taken for what players take them: BT.709 from 1280 columns or 577 rows on,
    else BT.601; limited range; chroma sited left.

    Args:
        decoded: Planes of the picture.
        vui: How samples are to be shown.
        size: Height and width of the upper left part to return; None: all.
        gray: Whether to return luma alone.
        output_depth: 8 for uint8, 16 for uint16.

    Raises:
        BitstreamError: If the colour matrix is not supported.
    """
    planes = decoded.planes
    height, width = size or planes[0].shape
    if vui.matrix == _IDENTITY and decoded.chroma == "444":
        return _identity_to_rgb(decoded, vui, (height, width), output_depth)
    matrix = vui.matrix
    if matrix == _UNSPECIFIED:
        matrix = 1 if planes[0].shape[1] >= 1280 or planes[0].shape[0] > 576 else 5
    if matrix not in _MATRICES and decoded.chroma != "400":
        raise BitstreamError(f"matrix coefficients {vui.matrix} are not supported")
    form = YCbCrFormat(*_MATRICES.get(matrix, BT709), full_range=vui.full_range, bit_depth=decoded.bit_depth)
    if gray or len(planes) == 1:
        return luma_to_gray(planes[0][:height, :width], form, output_depth=output_depth)
    siting = _SITINGS.get(vui.chroma_location, _SITINGS[6])
    return yuv_to_rgb(
        (planes[0], planes[1], planes[2]), form, siting=siting, size=(height, width), output_depth=output_depth
    )


def _identity_to_rgb(decoded: DecodedPlanes, vui: Vui, size: tuple[int, int], output_depth: Literal[8, 16]) -> Image:
    """Planes that hold green, blue and red (H.273, matrix coefficients 0)."""
    form = YCbCrFormat(*BT709, full_range=vui.full_range, bit_depth=decoded.bit_depth)
    green, blue, red = (
        luma_to_gray(plane[: size[0], : size[1]], form, output_depth=output_depth) for plane in decoded.planes
    )
    return np.stack([red, green, blue], axis=-1)
