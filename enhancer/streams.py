"""Planar YCbCr video through the enhancer: YUV4MPEG2 and raw planes, frame by frame.

Only the correction passes through RGB: it is converted to YCbCr, its chroma is halved, and it is
added to the planes as they came. Samples that the network leaves alone therefore keep their exact value.
YUV4MPEG2: the manual page yuv4mpeg(5) of mjpegtools, and the tags that ffmpeg writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from codec_wrappers import Chroma, Image
from codec_wrappers.base import DEFAULT_MAX_PIXELS
from codec_wrappers.color import (
    BT601,
    BT709,
    CENTRE,
    LEFT,
    Halver,
    Plane,
    Siting,
    YCbCrFormat,
    luma_to_gray,
    rgb_to_ycbcr,
    yuv_to_rgb,
)
from enhancer.errors import EnhancerError

Y4M_MAGIC = b"YUV4MPEG2 "
Matrix = Literal["bt601", "bt709"]
EnhanceImage: TypeAlias = Callable[[Image, Chroma], Image]
"""Restores one uint16 picture, gray ``(H, W)`` or RGB ``(H, W, 3)``."""

_MAX_LINE = 4096
_CO_SITED = Siting(0.0, 0.0)
_COLOUR_TAG = re.compile(r"(mono|420|422|444)(jpeg|mpeg2|paldv)?(?:p?(9|10|12|14|16))?")
_PIXEL_FORMAT = re.compile(r"(gray|yuvj?)(420|422|444)?p?(9|10|12|14|16)?(?:le)?")
_HD_LINES = 720
"""From this height on, a stream that does not name its matrix is taken as BT.709."""


class TruncatedStreamError(EnhancerError):
    """A stream ends inside a frame; the frames before it have been delivered."""


@dataclass(frozen=True)
class StreamFormat:
    """How the frames of a stream are laid out: whole planes Y, Cb, Cr after each other, little endian.

    Attributes:
        width: Of luma, in samples.
        height: Likewise.
        chroma: ``400`` is luma alone.
        bit_depth: Above 8, a sample takes two bytes.
        full_range: Whether luma uses all codes or 16 to 235 (scaled).
        siting: Where chroma samples lie.
        matrix: RGB <-> YCbCr matrix; None means BT.709 from 720 lines on, otherwise BT.601.
    """

    width: int
    height: int
    chroma: Chroma = "420"
    bit_depth: int = 8
    full_range: bool = False
    siting: Siting = LEFT
    matrix: Matrix | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or self.width * self.height > DEFAULT_MAX_PIXELS:
            raise EnhancerError(f"frames of {self.width} x {self.height} are not supported")

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each plane."""
        chroma_height = -(-self.height // 2) if self.chroma == "420" else self.height
        chroma_width = self.width if self.chroma == "444" else -(-self.width // 2)
        chroma_planes = 0 if self.chroma == "400" else 2
        return ((self.height, self.width), *((chroma_height, chroma_width),) * chroma_planes)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(np.uint8 if self.bit_depth == 8 else "<u2")

    @property
    def frame_bytes(self) -> int:
        return sum(height * width for height, width in self.shapes) * self.dtype.itemsize

    @property
    def ycbcr(self) -> YCbCrFormat:
        """Matrix, range and depth."""
        matrix = self.matrix or ("bt709" if self.height >= _HD_LINES else "bt601")
        return YCbCrFormat(*(BT709 if matrix == "bt709" else BT601), self.full_range, self.bit_depth)


def enhance_y4m(
    source: BinaryIO, sink: BinaryIO, enhance: EnhanceImage, *, start: bytes = b"", matrix: Matrix | None = None
) -> int:
    """Copies a YUV4MPEG2 stream with enhanced frames; returns their number.

    The header and the parameters of each frame are passed on as they are.

    Args:
        source: Stream to read.
        sink: Where it goes; flushed after every frame.
        enhance: Restores one frame, of which it is told the chroma format.
        start: What has been read of the stream already.
        matrix: RGB matrix, which the format does not tell; see :class:`StreamFormat`.

    Raises:
        EnhancerError: If the header is damaged or of a kind that is not supported.
        TruncatedStreamError: If the stream ends inside a frame, after whole frames were delivered.
    """
    header = start + _read_line(source, "the header of the YUV4MPEG2 stream")
    form = parse_y4m_header(header, matrix)
    sink.write(header + b"\n")
    count = 0
    while line := source.read(1):
        line += _read_line(source, f"the header of frame {count + 1}")
        if not re.match(rb"FRAME(?: |$)", line):
            raise EnhancerError(f"frame {count + 1} of the YUV4MPEG2 stream does not begin with FRAME")
        frame = _enhance_frame(_read_frame(source, form, count), form, enhance)
        sink.write(line + b"\n" + frame)
        sink.flush()
        count += 1
    return count


def enhance_raw(source: BinaryIO, sink: BinaryIO, enhance: EnhanceImage, form: StreamFormat) -> int:
    """Copies raw planar frames of layout ``form``, enhanced; returns their number.

    Raises:
        TruncatedStreamError: If the stream ends inside a frame, after whole frames were delivered.
    """
    count = 0
    while first := source.read(1):
        frame = _enhance_frame(_read_frame(source, form, count, first), form, enhance)
        sink.write(frame)
        sink.flush()
        count += 1
    return count


def parse_y4m_header(header: bytes, matrix: Matrix | None = None) -> StreamFormat:
    """Layout of a stream by its first line (without the line end).

    Raises:
        EnhancerError: If it is damaged, or the stream is interlaced, has alpha or another subsampling.
    """
    if not header.startswith(Y4M_MAGIC):
        raise EnhancerError("not a YUV4MPEG2 stream")
    tags = header[len(Y4M_MAGIC) :].decode("ascii", errors="replace").split()
    values = {tag[0]: tag[1:] for tag in tags if tag[0] != "X"}
    if not (values.get("W", "").isdecimal() and values.get("H", "").isdecimal()):
        raise EnhancerError("the header of the YUV4MPEG2 stream names no width and height")
    if values.get("I", "p") not in ("p", "?"):
        raise EnhancerError("interlaced YUV4MPEG2 streams are not supported")
    colour = values.get("C", "420jpeg")
    match = _COLOUR_TAG.fullmatch(colour)
    if not match or (match[1] != "420" and match[2]):
        raise EnhancerError(
            f"YUV4MPEG2 colour space C{colour} is not supported; known: mono, 420, 422, 444, 8 to 16 bits"
        )
    depth = int(match[3] or 8)
    centred = match[2] == "jpeg" or (match[1] == "420" and not match[2] and depth == 8)
    siting = CENTRE if centred else _CO_SITED if match[2] == "paldv" else LEFT
    chroma: Chroma = "400" if match[1] == "mono" else match[1]  # type: ignore[assignment]  # one of the three, by the pattern
    # A gray picture without a range is a full-range one for ffmpeg, which writes most of these streams.
    full_range = "XCOLORRANGE=FULL" in tags or (chroma == "400" and "XCOLORRANGE=LIMITED" not in tags)
    return StreamFormat(int(values["W"]), int(values["H"]), chroma, depth, full_range, siting, matrix)


def raw_format(size: str, pixel_format: str, matrix: Matrix | None = None) -> StreamFormat:
    """Layout of raw frames by ``WIDTHxHEIGHT`` and a pixel format named as ffmpeg does.

    Raises:
        ValueError: If one of them is not understood.
    """
    sides = re.fullmatch(r"(\d+)x(\d+)", size)
    if not sides:
        raise ValueError(f"size must be WIDTHxHEIGHT, got {size!r}")
    match = _PIXEL_FORMAT.fullmatch(pixel_format)
    if not match or (match[1] == "gray") != (match[2] is None):
        raise ValueError(
            f"pixel format {pixel_format!r} is not supported; e.g. yuv420p, yuv422p10le, yuv444p12le, gray10le"
        )
    full_range = match[1] in ("yuvj", "gray")
    siting = CENTRE if match[1] == "yuvj" else LEFT
    chroma: Chroma = match[2] or "400"  # type: ignore[assignment]  # one of the four, by the pattern
    return StreamFormat(int(sides[1]), int(sides[2]), chroma, int(match[3] or 8), full_range, siting, matrix)


def _read_line(source: BinaryIO, what: str) -> bytes:
    line = source.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        raise TruncatedStreamError(f"{what} is cut off")
    return line[:-1]


def _read_frame(source: BinaryIO, form: StreamFormat, count: int, start: bytes = b"") -> list[Plane]:
    """The planes of frame number ``count``, whose first bytes are ``start``."""
    data = bytearray(start)
    while len(data) < form.frame_bytes:
        if not (part := source.read(form.frame_bytes - len(data))):
            raise TruncatedStreamError(
                f"the stream ends inside frame {count + 1}, after {len(data)} of its {form.frame_bytes} bytes"
            )
        data += part
    return list(_split(np.frombuffer(data, form.dtype), form))


def _split(samples: npt.NDArray[np.unsignedinteger], form: StreamFormat) -> Iterator[Plane]:
    start = 0
    for height, width in form.shapes:
        yield samples[start : start + height * width].reshape(height, width)
        start += height * width


def _enhance_frame(planes: list[Plane], form: StreamFormat, enhance: EnhanceImage) -> bytes:
    """The bytes of a frame after enhancement."""
    ycbcr = form.ycbcr
    if form.chroma == "400":
        gray = luma_to_gray(planes[0], ycbcr, output_depth=16)
        corrections = [(enhance(gray, form.chroma).astype(np.float32) - gray) / np.float32(65535)]
    else:
        rgb = yuv_to_rgb((planes[0], planes[1], planes[2]), ycbcr, siting=form.siting, output_depth=16)
        difference = (enhance(rgb, form.chroma).astype(np.float32) - rgb) / np.float32(65535)
        y, cb, cr = rgb_to_ycbcr(difference, ycbcr)
        corrections = [y, _to_chroma_grid(cb, form), _to_chroma_grid(cr, form)]
    scales = (ycbcr.luma_scale, ycbcr.chroma_scale, ycbcr.chroma_scale)
    return b"".join(
        _corrected(plane, correction * np.float32(scale), form)
        for plane, correction, scale in zip(planes, corrections, scales, strict=False)
    )


def _to_chroma_grid(correction: Plane, form: StreamFormat) -> Plane:
    """Halves a full-resolution correction on the axes on which the stream's chroma is halved."""
    if form.chroma in ("422", "420"):
        even = np.pad(correction, ((0, 0), (0, correction.shape[1] % 2)), mode="edge")
        correction = Halver(even.shape[1], "ls-lanczos3", form.siting.horizontal)(even.T).T
    if form.chroma == "420":
        even = np.pad(correction, ((0, correction.shape[0] % 2), (0, 0)), mode="edge")
        correction = Halver(even.shape[0], "ls-lanczos3", form.siting.vertical)(even)
    return correction


def _corrected(plane: Plane, correction: Plane, form: StreamFormat) -> bytes:
    samples: Plane = np.rint(plane + correction).clip(0, (1 << form.bit_depth) - 1).astype(form.dtype)
    return samples.tobytes()
