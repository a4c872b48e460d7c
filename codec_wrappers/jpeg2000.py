"""JPEG 2000: JP2 files and bare codestreams, 1 to 16 bits, through OpenJPEG.

Sources: Rec. ITU-T T.800, Annex A (codestream) and Annex I (JP2); EXIF and XMP are stored in UUID boxes
as ExifTool and Adobe's XMP specification (part 3) describe them.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from codec_wrappers.base import (
    DEFAULT_MAX_PIXELS,
    NO_METADATA,
    Availability,
    Chroma,
    CodingInfo,
    Decoded,
    FineKnob,
    Image,
    Metadata,
    QpRange,
    check_image,
    check_pixels,
    check_positive,
)
from codec_wrappers.boxes import boxes_of, first_boxes
from codec_wrappers.errors import BitstreamError
from codec_wrappers.pillow_codecs import decoding, encoding
from codec_wrappers.samples import fitting_icc, full_range, packed

_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_CODESTREAM = b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_EXIF_UUID, _XMP_UUID = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_SRGB, _GRAY, _SYCC = 16, 17, 18


@dataclass(frozen=True)
class Jpeg2000Codec:
    """JPEG 2000, 9-7 wavelet with the irreversible colour transform, 8 or 16 bits, through OpenJPEG.

    ``qp`` is the PSNR that the encoder aims at, in tenths of a dB: 385 asks for 38.5 dB over all
    components (as the encoder measures it). Gray pictures stay gray; chroma is never subsampled.

    Args:
        container: Whether a JP2 file is written, which can hold metadata, or a bare codestream.
        max_pixels: Files that claim more are refused.
    """

    container: bool = True
    max_pixels: int = DEFAULT_MAX_PIXELS

    name: ClassVar[str] = "jpeg2000"
    suffixes: ClassVar[tuple[str, ...]] = (".jp2", ".j2k", ".j2c", ".jpc")
    qp_range: ClassVar[QpRange] = QpRange(150, 600, rate_rises=True)
    fine_knob: ClassVar[FineKnob | None] = None

    def __post_init__(self) -> None:
        check_positive("max_pixels", self.max_pixels)

    @classmethod
    def matches(cls, head: bytes) -> bool:
        return head.startswith((_SIGNATURE, _CODESTREAM))

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        try:
            import imagecodecs

            version = imagecodecs.jpeg2k_version()
        except (ImportError, RuntimeError) as error:
            return (Availability("imagecodecs", False, f"{error}; install imagecodecs"),)
        return (Availability("imagecodecs", True, version),)

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        """Returns a JP2 file or codestream; a bare codestream has no place for ``metadata``.

        Raises:
            ValueError: If ``qp``, the shape or the dtype is not supported: there is no alpha here, as the
                encoder would trade its errors for those of the colours.
            CodecError: If OpenJPEG fails.
        """
        import imagecodecs

        self.qp_range.check(qp)
        check_image(image, depths=(8, 16))
        psnr: Any = qp / 10  # the annotation of imagecodecs says int, its code and its documentation a float
        options: dict[str, Any] = {"codecformat": "j2k", "reversible": False, "numthreads": 1}
        with encoding("JPEG 2000"):
            codestream = bytes(imagecodecs.jpeg2k_encode(packed(image), level=psnr, **options))
        return _jp2(codestream, image, metadata) if self.container else codestream

    def decode(self, bitstream: bytes) -> Decoded:
        """Returns the picture; up to 8 bits as Pillow decodes it, deeper ones scaled to uint16.

        Raises:
            BitstreamError: If the file is damaged, truncated, larger than ``max_pixels``, or has more
                than four components or colours that are not supported at its depth.
        """
        file = _parse(bitstream)
        for width, height in file.sizes:
            check_pixels(width, height, self.max_pixels)
        with decoding("JPEG 2000"):
            image = _decode_deep(bitstream, file) if file.bit_depth > 8 else _decode_pillow(bitstream)
        info = CodingInfo(self.name, None, file.chroma, file.bit_depth)
        return Decoded(image, info, replace(file.metadata, icc=fitting_icc(file.metadata.icc, image)))


@dataclass(frozen=True)
class _File:
    """What the boxes and the SIZ segment say."""

    sizes: tuple[tuple[int, int], ...]
    components: int
    bit_depth: int
    chroma: Chroma
    color_space: int | None
    metadata: Metadata


def _parse(data: bytes) -> _File:
    try:
        if data.startswith(_CODESTREAM):
            return _file(data, 0, len(data), {})
        if not data.startswith(_SIGNATURE):
            raise BitstreamError("not a JPEG 2000 file", offset=0)
        boxes = first_boxes(data, 0, len(data))
        if b"jp2h" not in boxes or b"jp2c" not in boxes:
            raise BitstreamError("the JPEG 2000 file is truncated or damaged: a box is missing", offset=len(data))
        return _file(data, *boxes[b"jp2c"], boxes)
    except (struct.error, IndexError) as error:
        raise BitstreamError("the JPEG 2000 file is truncated or damaged in its header") from error


def _file(data: bytes, start: int, end: int, boxes: dict[bytes, tuple[int, int]]) -> _File:
    if data[start : start + 4] != _CODESTREAM:
        raise BitstreamError("the JPEG 2000 file has no codestream", offset=start)
    x1, y1, x0, y0 = struct.unpack_from(">IIII", data, start + 8)
    (count,) = struct.unpack_from(">H", data, start + 40)
    if not 1 <= count <= 4 or data[end - 2 : end] != _END:
        reason = "is truncated" if 1 <= count <= 4 else f"has {count} components; 1 to 4 are supported"
        raise BitstreamError(f"the JPEG 2000 file {reason}")
    parts = [struct.unpack_from(">BBB", data, start + 42 + 3 * i) for i in range(count)]
    sizes = [(x1 - x0, y1 - y0)]
    color_space = icc = None
    if boxes:
        for kind, (begin, stop) in reversed(boxes_of(data, *boxes[b"jp2h"])):
            if kind == b"ihdr":
                height, width = struct.unpack_from(">II", data, begin)
                sizes.append((width, height))
            elif kind == b"colr" and data[begin] == 1:
                (color_space,) = struct.unpack_from(">I", data, begin + 3)
            elif kind == b"colr" and data[begin] in (2, 3):
                icc = data[begin + 3 : stop]
    exif, xmp = _uuid_contents(data, boxes)
    share = parts[1][1] * parts[1][2] if count >= 3 else 1
    return _File(
        sizes=tuple(sizes),
        components=count,
        bit_depth=max((depth & 0x7F) + 1 for depth, _, _ in parts),
        chroma="400" if count < 3 else "444" if share == 1 else "422" if share == 2 else "420",
        color_space=color_space,
        metadata=Metadata(exif, icc, xmp),
    )


def _uuid_contents(data: bytes, boxes: dict[bytes, tuple[int, int]]) -> tuple[bytes | None, bytes | None]:
    """EXIF and XMP blocks."""
    found: dict[bytes, bytes] = {}
    for kind, (begin, end) in boxes_of(data, 0, len(data)) if boxes else ():
        if kind == b"uuid":
            found.setdefault(data[begin : begin + 16], data[begin + 16 : end])
    return found.get(_EXIF_UUID) or None, found.get(_XMP_UUID) or None


def _decode_pillow(data: bytes) -> Image:
    """Up to 8 bits: Pillow also converts palettes, CMYK and subsampled YCbCr."""
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

    with Jpeg2KImageFile(io.BytesIO(data)) as file:
        file.load()
        has_alpha = file.mode in ("LA", "RGBA", "PA")
        mode = "RGBA" if has_alpha else "L" if file.mode == "L" else "RGB"
        return np.array(file if file.mode == mode else file.convert(mode))


def _decode_deep(data: bytes, file: _File) -> Image:
    """9 to 16 bits, gray or RGB with or without alpha."""
    import imagecodecs

    if file.color_space == _SYCC or file.chroma not in ("400", "444"):
        raise BitstreamError("JPEG 2000 files of more than 8 bits are supported in gray and RGB only")
    image: Image = imagecodecs.jpeg2k_decode(data, numthreads=1)
    if image.dtype != np.uint16:
        raise BitstreamError(f"JPEG 2000 files with samples of type {image.dtype} are not supported")
    image = full_range(image, (1 << file.bit_depth) - 1)
    return image[..., [0, 0, 0, 1]] if image.ndim == 3 and image.shape[2] == 2 else image


def _jp2(codestream: bytes, image: Image, metadata: Metadata) -> bytes:
    """Wraps a codestream; T.800, I.5."""
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    header = _box(b"ihdr", struct.pack(">IIHBBBB", height, width, channels, 8 * image.itemsize - 1, 7, 0, 0))
    if metadata.icc is not None:
        header += _box(b"colr", b"\2\0\0" + metadata.icc)
    else:
        header += _box(b"colr", struct.pack(">BBBI", 1, 0, 0, _GRAY if channels == 1 else _SRGB))
    blocks = [(_EXIF_UUID, metadata.exif), (_XMP_UUID, metadata.xmp)]
    extra = b"".join(_box(b"uuid", uuid + block) for uuid, block in blocks if block is not None)
    kind = _box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return _SIGNATURE + kind + _box(b"jp2h", header) + extra + _box(b"jp2c", codestream)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content
