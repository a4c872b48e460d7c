"""JPEG and WebP through Pillow and imagecodecs.

What the files say (size, sampling, quality, metadata) is read here before any library sees them, so a
wrong claim is refused before memory is taken for it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np

from codec_wrappers.base import (
    DEFAULT_MAX_PIXELS,
    NO_METADATA,
    Availability,
    CodingInfo,
    Decoded,
    FineKnob,
    Image,
    Metadata,
    QpRange,
    check_image,
    check_option,
    check_pixels,
    check_positive,
)
from codec_wrappers.errors import BitstreamError, CodecError
from codec_wrappers.ffmpeg_planes import unrounded_picture
from codec_wrappers.jpeg_tables import EXIF_PREFIX, parse_jpeg, with_metadata
from codec_wrappers.samples import fitting_icc, packed
from codec_wrappers.vp8_header import vp8_quality

ColorChroma = Literal["420", "422", "444"]


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turns whatever a library raises about damaged data into a ``BitstreamError`` of one line."""
    try:
        yield
    except CodecError:
        raise
    except MemoryError as error:
        raise BitstreamError(f"not enough memory to decode the {name} file") from error
    except Exception as error:  # libraries raise anything on hostile data, from struct.error to AssertionError
        raise BitstreamError(f"the {name} file is damaged or truncated: {_one_line(error)}") from error


@contextmanager
def encoding(name: str) -> Iterator[None]:
    """Turns what an encoder raises into a ``CodecError`` of one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise CodecError(f"the {name} encoder failed: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def pillow_availability(feature: str, library: str) -> tuple[Availability, ...]:
    """Whether Pillow was built with ``feature``."""
    try:
        from PIL import features

        version = features.version(feature) if features.check(feature) else None
    except (ImportError, ValueError) as error:
        return (Availability("pillow", False, _one_line(error)),)
    if version is None:
        return (Availability("pillow", False, f"Pillow was built without {library}; reinstall pillow from PyPI"),)
    return (Availability("pillow", True, f"{library} {version}"),)


def save_with_pillow(image: Image, format: str, metadata: Metadata, **options: Any) -> bytes:  # noqa: A002
    """Encodes by ``PIL.Image.save``; parts of ``metadata`` that are None are not passed on."""
    from PIL import Image as PillowImage

    exif = None if metadata.exif is None else EXIF_PREFIX + metadata.exif
    parts = {"exif": exif, "icc_profile": metadata.icc, "xmp": metadata.xmp}
    options |= {name: part for name, part in parts.items() if part is not None}
    buffer = io.BytesIO()
    with encoding(format):
        PillowImage.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class JpegCodec:
    """JPEG (Rec. ITU-T T.81), 8 bits, through libjpeg-turbo; ``qp`` is its quality.

    Gray pictures stay gray. A decoded file reports the quality whose tables are nearest to its own.

    Args:
        chroma: Sampling of the chroma planes.
        optimize: Whether the Huffman tables are made for the picture (smaller, same pixels).
        max_pixels: Files that claim more are refused.
    """

    chroma: ColorChroma = "420"
    optimize: bool = True
    max_pixels: int = DEFAULT_MAX_PIXELS

    name: ClassVar[str] = "jpeg"
    suffixes: ClassVar[tuple[str, ...]] = (".jpg", ".jpeg")
    qp_range: ClassVar[QpRange] = QpRange(1, 100, rate_rises=True)
    fine_knob: ClassVar[FineKnob | None] = None

    def __post_init__(self) -> None:
        check_option("chroma", self.chroma, get_args(ColorChroma))
        check_positive("max_pixels", self.max_pixels)

    @classmethod
    def matches(cls, head: bytes) -> bool:
        return head.startswith(b"\xff\xd8\xff")

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        return pillow_availability("jpg", "libjpeg")

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        """Returns a JFIF file.

        Raises:
            ValueError: If ``qp``, the shape or the dtype is not supported: JPEG has neither alpha nor 16 bits.
            CodecError: If a side is above 65500 pixels, or EXIF or XMP is too large (64 KiB).
        """
        import imagecodecs

        self.qp_range.check(qp)
        check_image(image)
        chroma = None if image.ndim == 2 else self.chroma
        with encoding("JPEG"):
            bare = imagecodecs.jpeg8_encode(packed(image), level=int(qp), subsampling=chroma, optimize=self.optimize)
        return with_metadata(bytes(bare), metadata)

    def decode(self, bitstream: bytes) -> Decoded:
        """Returns the picture, uint8, gray or RGB; CMYK and YCCK are converted as Pillow does.

        Raises:
            BitstreamError: If the file is damaged, truncated or larger than ``max_pixels``.
        """
        from PIL.JpegImagePlugin import JpegImageFile

        header = parse_jpeg(bitstream)
        check_pixels(header.width, header.height, self.max_pixels)
        if header.bit_depth != 8:
            raise BitstreamError(f"JPEG files of {header.bit_depth} bits per sample are not supported")
        with decoding("JPEG"), JpegImageFile(io.BytesIO(header.bare)) as file:
            # Reaching this class directly passes by Pillow's own limit of pixels and its warning.
            pixels = file if file.mode in ("L", "RGB") else file.convert("RGB")
            image = np.array(pixels)
            unrounded = partial(unrounded_picture, "mjpeg", header.bare, image)
        info = CodingInfo(self.name, header.quality, header.chroma, header.bit_depth)
        return Decoded(image, info, replace(header.metadata, icc=fitting_icc(header.metadata.icc, image)), unrounded)


@dataclass(frozen=True)
class WebpCodec:
    """WebP with lossy coding (RFC 6386, RFC 9649), 8 bits, 4:2:0, through libwebp; ``qp`` is its quality.

    Gray pictures become RGB, as the format knows no others. Alpha is coded without loss, and the
    colours under fully transparent pixels are kept.

    Args:
        effort: 0 (fast) to 6 (small), libwebp's ``method``.
        sharp_yuv: Whether chroma is subsampled by libwebp's slower, sharper way.
        max_pixels: Files that claim more are refused.
    """

    effort: int = 4
    sharp_yuv: bool = False
    max_pixels: int = DEFAULT_MAX_PIXELS

    name: ClassVar[str] = "webp"
    suffixes: ClassVar[tuple[str, ...]] = (".webp",)
    qp_range: ClassVar[QpRange] = QpRange(0, 100, rate_rises=True)
    fine_knob: ClassVar[FineKnob | None] = None

    def __post_init__(self) -> None:
        check_option("effort", self.effort, tuple(range(7)))
        check_positive("max_pixels", self.max_pixels)

    @classmethod
    def matches(cls, head: bytes) -> bool:
        return head.startswith(b"RIFF") and head[8:12] == b"WEBP"

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        return pillow_availability("webp", "libwebp")

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        """Returns a WebP file.

        Raises:
            ValueError: If ``qp``, the shape or the dtype is not supported.
            CodecError: If a side is above 16383 pixels.
        """
        self.qp_range.check(qp)
        check_image(image, channels=(1, 3, 4))
        if image.ndim == 2:
            image = np.dstack([image, image, image])
            metadata = replace(metadata, icc=fitting_icc(metadata.icc, image))
        return save_with_pillow(
            image, "WEBP", metadata, quality=int(qp), method=self.effort, exact=True, use_sharp_yuv=self.sharp_yuv
        )

    def decode(self, bitstream: bytes) -> Decoded:
        """Returns the picture, uint8, RGB or RGBA.

        A quality is estimated from the quantisers (within about 2 steps for libwebp's own files); a
        lossless file has none, and is reported as 4:4:4.

        Raises:
            BitstreamError: If the file is damaged, truncated, animated or larger than ``max_pixels``.
        """
        import imagecodecs

        chunks = _webp_chunks(bitstream)
        if b"ANIM" in chunks or b"ANMF" in chunks:
            raise BitstreamError("the WebP file is animated; only still pictures are supported")
        for width, height in _webp_sizes(chunks):
            check_pixels(width, height, self.max_pixels)
        with decoding("WebP"):
            image: Image = imagecodecs.webp_decode(bitstream)
        if b"VP8L" in chunks:
            info = CodingInfo(self.name, None, "444", 8)
        else:
            info = CodingInfo(self.name, vp8_quality(chunks[b"VP8 "]), "420", 8)
        unrounded = partial(unrounded_picture, "webp", bitstream, image)
        exif = chunks.get(b"EXIF", b"").removeprefix(EXIF_PREFIX) or None  # some writers put the prefix of JPEG there
        return Decoded(image, info, Metadata(exif, chunks.get(b"ICCP"), chunks.get(b"XMP ")), unrounded)


def _webp_chunks(data: bytes) -> dict[bytes, bytes]:
    """Chunks of the RIFF container, RFC 9649, section 2; the first of each kind."""
    if not WebpCodec.matches(data):
        raise BitstreamError("not a WebP file", offset=0)
    end = 8 + int.from_bytes(data[4:8], "little")
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= min(end, len(data)):
        kind, size = struct.unpack_from("<4sI", data, position)
        chunks.setdefault(kind, data[position + 8 : position + 8 + size])
        position += 8 + size + size % 2
    if end > len(data) or position > end:
        raise BitstreamError("the WebP file is truncated", offset=len(data))
    if b"VP8 " not in chunks and b"VP8L" not in chunks and b"ANMF" not in chunks:
        raise BitstreamError("the WebP file has no picture")
    return chunks


def _webp_sizes(chunks: dict[bytes, bytes]) -> Iterator[tuple[int, int]]:
    """Width and height as each header claims them."""
    if len(extended := chunks.get(b"VP8X", b"")) >= 10:
        yield 1 + int.from_bytes(extended[4:7], "little"), 1 + int.from_bytes(extended[7:10], "little")
    if len(lossy := chunks.get(b"VP8 ", b"")) >= 10:
        width, height = struct.unpack_from("<HH", lossy, 6)
        yield width & 0x3FFF, height & 0x3FFF
    if len(lossless := chunks.get(b"VP8L", b"")) >= 5:
        bits = int.from_bytes(lossless[1:5], "little")
        yield 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
