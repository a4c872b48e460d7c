"""PNG files, 1 to 16 bits, with their metadata.

The chunks are read and written here, the compressed pixels by libpng through imagecodecs: Pillow reduces
16 bits to 8. Source: W3C PNG Specification, third edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from codec_wrappers import Image, Metadata
from codec_wrappers.samples import fitting_icc, packed
from enhancer.errors import ImageError, one_line
from enhancer.formats.picture import Picture, check_claim

MAGIC = b"\x89PNG\r\n\x1a\n"
_XMP_KEY = b"XML:com.adobe.xmp"
_COLOR_CHUNKS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_INCH = 0.0254  # metres
_MAX_METADATA = 1 << 24  # bytes after decompression, against decompression bombs
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def read(data: bytes, max_pixels: int) -> Picture:
    """Reads a PNG file; a palette becomes RGB, transparency an alpha channel.

    Raises:
        ImageError: If the file is damaged, truncated, animated or larger than ``max_pixels``.
    """
    chunks: dict[bytes, bytes] = {}
    image_data: list[bytes] = []
    xmp = None
    for kind, payload in _chunks(data, max_pixels):
        if kind == b"acTL" and int.from_bytes(payload[:4], "big") > 1:
            raise ImageError("the PNG file is animated; only still pictures are supported")
        if kind == b"IDAT":
            image_data.append(payload)
        elif kind == b"iTXt" and payload.startswith(_XMP_KEY + b"\0"):
            xmp = _itxt_value(payload)
        else:
            chunks.setdefault(kind, payload)
    image = _decode(chunks, b"".join(image_data))
    return Picture(
        image,
        Metadata(exif=chunks.get(b"eXIf"), icc=fitting_icc(_icc(chunks.get(b"iCCP")), image), xmp=xmp),
        dpi=_dpi(chunks.get(b"pHYs")),
        source_format="png",
        color_chunks=tuple((kind, chunks[kind]) for kind in _COLOR_CHUNKS if kind in chunks),
    )


def _chunks(data: bytes, max_pixels: int) -> Iterator[tuple[bytes, bytes]]:
    """All chunks up to IEND; the first is a valid IHDR. Damaged ancillary chunks are left out."""
    position = len(MAGIC)
    first = True
    while True:
        if position + 12 > len(data):
            raise ImageError(f"the PNG file is truncated (at byte {len(data)})")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ImageError(f"the PNG file is truncated (at byte {len(data)})")
        payload = data[position + 8 : end - 4]
        intact = zlib.crc32(payload, zlib.crc32(kind)).to_bytes(4, "big") == data[end - 4 : end]
        ancillary = bool(kind[0] & 32)
        if not intact and not ancillary:
            raise ImageError(f"the PNG file is damaged: wrong checksum of a chunk (at byte {position})")
        if first:
            _check_header(kind, payload, max_pixels)
            first = False
        if kind == b"IEND":
            return
        if intact:
            yield kind, payload
        position = end


def _check_header(kind: bytes, payload: bytes, max_pixels: int) -> None:
    if kind != b"IHDR" or len(payload) != 13:
        raise ImageError("the PNG file does not begin with a header")
    width, height, depth, color, compression, filtering, interlace = struct.unpack(">IIBBBBB", payload)
    if depth not in _DEPTHS.get(color, ()) or compression or filtering or interlace > 1:
        raise ImageError("the PNG header has values that no version of PNG defines")
    check_claim(width, height, max_pixels)


def _decode(chunks: dict[bytes, bytes], image_data: bytes) -> Image:
    """Pixels from the compressed data, with what the header, palette and transparency chunks say."""
    import imagecodecs

    _check_filtered_rows(chunks[b"IHDR"], image_data)
    # Only what the pixels need: libpng writes warnings about other chunks to standard error.
    needed = [(kind, chunks[kind]) for kind in (b"IHDR", b"PLTE", b"tRNS") if kind in chunks]
    bare = [*needed, (b"IDAT", image_data), (b"IEND", b"")]
    try:
        image: Image = imagecodecs.png_decode(MAGIC + b"".join(_chunk(*chunk) for chunk in bare))
    except (RuntimeError, ValueError) as error:
        raise ImageError(f"the PNG file is damaged: {one_line(error)}") from error
    return image[..., [0, 0, 0, 1]] if image.ndim == 3 and image.shape[2] == 2 else image


def _check_filtered_rows(header: bytes, image_data: bytes) -> None:
    """Refuses compressed data that do not hold all rows, which libraries accept or complain about on their own."""
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header)
    passes = [(0, 0, 1, 1)]
    if interlace:  # Adam7: first row and column, steps (PNG, 8.2)
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    sizes = [
        (len(range(top, height, down)), 1 + (depth * _CHANNELS[color] * len(range(left, width, right)) + 7) // 8)
        for top, left, down, right in passes
        if left < width
    ]
    expected = sum(rows * stride for rows, stride in sizes)
    try:
        filtered = zlib.decompressobj().decompress(image_data, expected + 1)
    except zlib.error as error:
        raise ImageError(f"the PNG file is damaged: {error}") from error
    if len(filtered) != expected:
        raise ImageError(f"the PNG file is damaged: its pixels take {len(filtered)} bytes instead of {expected}")
    position = 0
    for rows, stride in sizes:
        part = np.frombuffer(filtered, np.uint8, count=rows * stride, offset=position)
        if part[::stride].max(initial=0) > 4:
            raise ImageError("the PNG file is damaged: unknown row filter")
        position += rows * stride


def _itxt_value(payload: bytes) -> bytes | None:
    """The text of an iTXt chunk, decompressed if need be."""
    fields = payload[payload.index(b"\0") + 1 :]
    parts = fields[2:].split(b"\0", 2)
    if len(parts) != 3:
        return None
    return parts[2] if fields[0] == 0 else _inflate(parts[2])


def _icc(payload: bytes | None) -> bytes | None:
    if payload is None or b"\0" not in payload:
        return None
    return _inflate(payload[payload.index(b"\0") + 2 :])


def _inflate(compressed: bytes) -> bytes | None:
    """Decompressed bytes; None if they are damaged or more than any honest file holds."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(compressed, _MAX_METADATA)
    except zlib.error:
        return None
    return data if inflater.eof else None


def _dpi(payload: bytes | None) -> tuple[float, float] | None:
    if payload is None or len(payload) != 9 or payload[8] != 1:
        return None
    x, y = struct.unpack(">II", payload[:8])
    return (x * _INCH, y * _INCH) if x and y else None


def encode(picture: Picture) -> bytes:
    """Writes a PNG file of 8 or 16 bits with all metadata."""
    import imagecodecs

    # PAETH rows at level 2 pack photographs as well as level 6 with all filters, in a third of the time.
    bare = bytes(imagecodecs.png_encode(packed(picture.image), level=2, filter=imagecodecs.PNG.FILTER.PAETH))
    header_end = len(MAGIC) + 25
    return bare[:header_end] + b"".join(_metadata_chunks(picture)) + bare[header_end:]


def _metadata_chunks(picture: Picture) -> Iterator[bytes]:
    for kind, payload in picture.color_chunks:
        if not (kind == b"sRGB" and picture.metadata.icc):  # the two exclude each other, PNG 11.3.2
            yield _chunk(kind, payload)
    metadata = picture.metadata
    if metadata.icc is not None and _icc_fits(metadata.icc, picture.image):
        yield _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc))
    if picture.dpi is not None:
        x, y = (round(value / _INCH) for value in picture.dpi)
        yield _chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if metadata.exif is not None:
        yield _chunk(b"eXIf", metadata.exif)
    if metadata.xmp is not None:
        yield _chunk(b"iTXt", _XMP_KEY + b"\0\0\0\0\0" + metadata.xmp)


def _icc_fits(icc: bytes, image: Image) -> bool:
    """PNG wants gray profiles for gray pictures and no others (11.3.2.3); readers complain otherwise."""
    return (icc[16:20] == b"GRAY") == (image.ndim == 2)


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
