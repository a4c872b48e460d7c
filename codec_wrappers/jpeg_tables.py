"""What the marker segments of a JPEG file say: size, sampling, quality, metadata; nothing is decoded.

Sources: Rec. ITU-T T.81, Annex B (markers) and K.1 (example tables); JFIF 1.02; the scaling of the
example tables by a quality of 1 to 100 as in libjpeg's jcparam.c.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from functools import lru_cache

from codec_wrappers.base import Chroma, Metadata
from codec_wrappers.errors import BitstreamError, CodecError

_MAX_PAYLOAD = 65533  # of one marker segment
EXIF_PREFIX, XMP_PREFIX, ICC_PREFIX = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_JFIF_PREFIX = b"JFIF\0"
_INCH = 2.54  # centimetres
_SOI, _EOI, _SOS, _DQT, _APP0, _APP1, _APP2, _APP13 = 0xD8, 0xD9, 0xDA, 0xDB, 0xE0, 0xE1, 0xE2, 0xED
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_STANDALONE = {0x01, *range(0xD0, 0xD9)}

# Rec. ITU-T T.81, tables K.1 and K.2, by rows.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, *[99] * 38,
)  # fmt: skip
# Position of each coefficient of the zigzag scan (figure A.6), by rows.
_ZIGZAG = tuple(sorted(range(64), key=lambda i: (s := i // 8 + i % 8, i // 8 if s % 2 else i % 8)))
_MAX_DISTANCE = 0.5  # mean |log2| ratio of table entries above which no quality describes a table


@dataclass(frozen=True)
class JpegHeader:
    """The segments before the first scan.

    Attributes:
        width, height: In pixels.
        bit_depth: Bits per sample, 8 or 12.
        sampling: Horizontal and vertical sampling factors of each component.
        tables: Quantisation table of each component, 64 entries by rows; empty if it is missing.
        metadata: EXIF, ICC profile (joined), XMP.
        dpi: Resolution according to JFIF.
        bare: The file without EXIF, ICC, XMP, IPTC and further application segments that decoding does not need.
    """

    width: int
    height: int
    bit_depth: int
    sampling: tuple[tuple[int, int], ...]
    tables: tuple[tuple[int, ...], ...]
    metadata: Metadata
    dpi: tuple[float, float] | None
    bare: bytes = field(repr=False)

    @property
    def chroma(self) -> Chroma:
        """The nearest named chroma format."""
        if len(self.sampling) < 3:
            return "400"
        (luma_h, luma_v), (chroma_h, chroma_v) = self.sampling[:2]
        share = luma_h * luma_v / (chroma_h * chroma_v)
        return "444" if share < 1.5 else "422" if share < 3 else "420"

    @property
    def quality(self) -> int | None:
        """Quality of the scaled example tables that equal or come nearest to this file's; None if none does."""
        return nearest_quality(self.tables[0], self.tables[1] if len(self.tables) > 1 else ())


def parse_jpeg(data: bytes) -> JpegHeader:
    """Reads all segments up to the first scan.

    Raises:
        BitstreamError: If the data are no JPEG file or end before the first scan.
    """
    if data[:2] != b"\xff\xd8":
        raise BitstreamError("not a JPEG file", offset=0)
    frame: bytes | None = None
    tables: dict[int, tuple[int, ...]] = {}
    kept = [data[:2]]
    extras = _Extras()
    position = 2
    while True:
        marker, payload, end = _segment(data, position)
        if marker == _DQT:
            tables |= _quantisation_tables(payload)
        elif marker in _FRAMES:
            if frame is not None:
                raise BitstreamError("the JPEG file has two frame headers", offset=position)
            frame = payload
        elif marker == _SOS:
            break
        if _APP1 <= marker <= _APP13 or marker == _APP0:
            extras.take(marker, payload)
        if not _APP1 <= marker <= _APP13:
            kept.append(data[position:end])
        position = end
    if frame is None:
        raise BitstreamError("the JPEG file has no frame header before its first scan", offset=position)
    return _header(frame, tables, extras, b"".join([*kept, data[position:]]))


def _segment(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Marker, payload and end of the segment at ``position``; fill bytes before a marker are allowed."""
    while data[position : position + 2] == b"\xff\xff":
        position += 1
    if position + 4 > len(data):
        raise BitstreamError("the JPEG file is truncated in its header", offset=len(data))
    if data[position] != 0xFF:
        raise BitstreamError("the JPEG file has no marker where one must be", offset=position)
    marker = data[position + 1]
    if marker in _STANDALONE:
        return marker, b"", position + 2
    if marker == _EOI:
        raise BitstreamError("the JPEG file has no picture", offset=position)
    (length,) = struct.unpack_from(">H", data, position + 2)
    end = position + 2 + length
    if length < 2 or end > len(data):
        raise BitstreamError("the JPEG file is truncated in its header", offset=len(data))
    return marker, data[position + 4 : end], end


def _header(frame: bytes, tables: dict[int, tuple[int, ...]], extras: _Extras, bare: bytes) -> JpegHeader:
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5] or not 1 <= frame[5] <= 4:
        raise BitstreamError("the frame header of the JPEG file is damaged")
    depth, height, width, count = struct.unpack_from(">BHHB", frame)
    components = [frame[6 + 3 * i : 9 + 3 * i] for i in range(count)]
    sampling = tuple((factors >> 4, factors & 15) for _, factors, _ in components)
    if any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in sampling):
        raise BitstreamError("the frame header of the JPEG file is damaged")
    return JpegHeader(
        *(width, height, depth, sampling),
        tables=tuple(tables.get(table, ()) for _, _, table in components),
        metadata=extras.metadata(),
        dpi=extras.dpi,
        bare=bare,
    )


def _quantisation_tables(payload: bytes) -> dict[int, tuple[int, ...]]:
    tables = {}
    position = 0
    while position < len(payload):
        wide, index = payload[position] >> 4, payload[position] & 15
        size = 128 if wide else 64
        entries = payload[position + 1 : position + 1 + size]
        if len(entries) != size:
            raise BitstreamError("a quantisation table of the JPEG file is damaged")
        scanned = struct.unpack(f">64{'H' if wide else 'B'}", entries)
        rows = [0] * 64
        for value, place in zip(scanned, _ZIGZAG, strict=True):
            rows[place] = value
        tables[index] = tuple(rows)
        position += 1 + size
    return tables


class _Extras:
    """Collects metadata segments."""

    def __init__(self) -> None:
        self.exif: bytes | None = None
        self.xmp: bytes | None = None
        self.dpi: tuple[float, float] | None = None
        self.icc_parts: dict[int, bytes] = {}
        self.icc_count = 0

    def take(self, marker: int, payload: bytes) -> None:
        if marker == _APP0 and payload.startswith(_JFIF_PREFIX) and len(payload) >= 12:
            unit, x, y = struct.unpack_from(">BHH", payload, 7)
            scale = {1: 1.0, 2: _INCH}.get(unit)
            self.dpi = (x * scale, y * scale) if scale and x and y else None
        elif marker == _APP1 and payload.startswith(EXIF_PREFIX):
            self.exif = self.exif or payload[len(EXIF_PREFIX) :]
        elif marker == _APP1 and payload.startswith(XMP_PREFIX):
            self.xmp = self.xmp or payload[len(XMP_PREFIX) :]
        elif marker == _APP2 and payload.startswith(ICC_PREFIX) and len(payload) > 14:
            self.icc_count = payload[13]
            self.icc_parts[payload[12]] = payload[14:]

    def metadata(self) -> Metadata:
        whole = self.icc_parts and sorted(self.icc_parts) == list(range(1, self.icc_count + 1))
        icc = b"".join(part for _, part in sorted(self.icc_parts.items())) if whole else None
        return Metadata(exif=self.exif or None, icc=icc, xmp=self.xmp or None)


@lru_cache(maxsize=100)
def scaled_tables(quality: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Luma and chroma quantisation tables by rows for a quality of 1 to 100, as libjpeg makes them (8 bits)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (tuple(min(max((x * scale + 50) // 100, 1), 255) for x in base) for base in (_LUMA, _CHROMA))
    return luma, chroma


def nearest_quality(luma: tuple[int, ...], chroma: tuple[int, ...] = ()) -> int | None:
    """The quality whose tables equal or come nearest to these (by rows); None if all are far away.

    The distance is the mean of ``|log2|`` of the ratios of entries. Low qualities whose tables are all
    clipped to 255 cannot be told apart; the lowest is returned.
    """
    if len(luma) != 64 or min(luma) < 1:
        return None
    target = luma + (chroma if len(chroma) == 64 and min(chroma) >= 1 else ())

    candidates = {quality: sum(scaled_tables(quality), ())[: len(target)] for quality in range(1, 101)}
    for quality, candidate in candidates.items():
        if candidate == target:
            return quality

    def distance(quality: int) -> float:
        ratios = (abs(math.log2(a / b)) for a, b in zip(target, candidates[quality], strict=True))
        return sum(ratios) / len(target)

    best = min(candidates, key=distance)
    return best if distance(best) <= _MAX_DISTANCE else None


def with_metadata(jpeg: bytes, metadata: Metadata) -> bytes:
    """The JFIF file (as libjpeg writes it) with EXIF, XMP and ICC segments after its first segment.

    Raises:
        CodecError: If a block is too large: 64 KiB for EXIF and XMP each, 16 MiB for the ICC profile.
    """
    segments = []
    for kind, prefix, part in (("EXIF", EXIF_PREFIX, metadata.exif), ("XMP", XMP_PREFIX, metadata.xmp)):
        if part is not None:
            if len(prefix + part) > _MAX_PAYLOAD:
                raise CodecError(f"the {kind} block of {len(part)} bytes is too large for a JPEG file")
            segments.append(_marker_segment(_APP1, prefix + part))
    icc = metadata.icc or b""
    size = _MAX_PAYLOAD - len(ICC_PREFIX) - 2
    parts = [icc[start : start + size] for start in range(0, len(icc), size)]
    if len(parts) > 255:
        raise CodecError(f"the ICC profile of {len(icc)} bytes is too large for a JPEG file")
    for number, part in enumerate(parts, 1):
        segments.append(_marker_segment(_APP2, ICC_PREFIX + bytes([number, len(parts)]) + part))
    first_end = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:first_end] + b"".join(segments) + jpeg[first_end:]


def _marker_segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def with_dpi(jpeg: bytes, dpi: tuple[float, float] | None) -> bytes:
    """The JPEG file with the resolution in its JFIF header, which must be the first segment."""
    if dpi is None or jpeg[2:4] != b"\xff\xe0" or jpeg[6:11] != _JFIF_PREFIX:
        return jpeg
    x, y = (min(max(round(value), 1), 65535) for value in dpi)
    return jpeg[:13] + struct.pack(">BHH", 1, x, y) + jpeg[18:]
