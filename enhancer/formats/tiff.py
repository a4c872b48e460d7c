"""TIFF files of 1 to 16 bits per sample with their metadata.

The directory is read here, strip by strip, so that a truncated or damaged strip is an error and never
an empty area. Source: TIFF 6.0 (Adobe, 1992) and its technical notes on deflate and JPEG.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from codec_wrappers import Image, Metadata
from codec_wrappers.errors import BitstreamError
from codec_wrappers.jpeg_tables import parse_jpeg
from codec_wrappers.samples import fitting_icc, full_range, straight_alpha
from codec_wrappers.tiff_tags import Directory, Field, TiffTagError, build_tiff, longs, parse_tiff, shorts
from enhancer.errors import ImageError, one_line
from enhancer.formats.picture import Picture, check_claim

MAGICS = (b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b")

_ICC, _XMP = 34675, 700
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
# Fields that describe the storage; the others, but for the resolution, are the EXIF block.
_STORAGE = {
    *range(254, 260), *range(262, 267), 273, *range(277, 282), 284, *range(288, 294), 301, *range(317, 326), 330,
    *range(338, 342), 347, *range(512, 533), _ICC, _XMP,
}  # fmt: skip
_RESOLUTION = {_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT}
_GRAY_INVERTED, _GRAY, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_CHANNELS = {_GRAY_INVERTED: 1, _GRAY: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_NONE, _LZW, _JPEG, _DEFLATE, _DEFLATE_OLD, _PACKBITS = 1, 5, 7, 8, 32946, 32773
_ASSOCIATED, _STRAIGHT = 1, 2
_STRIP_BYTES = 1 << 18


@dataclass(frozen=True)
class _Layout:
    """How the samples of a picture are stored."""

    width: int
    height: int
    channels: int
    bits: int
    photometric: int
    compression: int
    predictor: int
    planar: bool
    fill_reversed: bool
    order: str
    block: tuple[int, int]  # height and width of a strip or tile
    tiled: bool
    jpeg_tables: bytes | None

    @property
    def block_channels(self) -> int:
        return 1 if self.planar else self.channels


def read(data: bytes, max_pixels: int) -> Picture:
    """Reads a TIFF file; palette and CMYK become RGB, premultiplied alpha becomes straight.

    Raises:
        ImageError: If the file is damaged, truncated, holds several pictures or more than
            ``max_pixels``, or is of a kind that is not supported.
    """
    try:
        file = parse_tiff(data, strict=True)
    except TiffTagError as error:
        raise ImageError(f"the TIFF file is damaged: {one_line(error)}") from error
    pictures = [d for d in file.directories if not _integer(d, 254, 0) & 5]  # neither thumbnail nor mask
    if len(pictures) > 1:
        raise ImageError("the TIFF file holds several pictures; only one is supported")
    directory = (pictures or list(file.directories))[0]
    layout = _layout(directory, file.order, max_pixels)
    image = _to_image(_samples(data, directory, layout), directory, layout)
    return Picture(
        image,
        _metadata(directory, file.order, image),
        dpi=_dpi(directory),
        source_format="tiff",
    )


def _integer(directory: Directory, tag: int, default: int) -> int:
    field = directory.get(tag)
    return field.integers[0] if field and field.integers else default


def _layout(directory: Directory, order: str, max_pixels: int) -> _Layout:
    width, height = _integer(directory, 256, 0), _integer(directory, 257, 0)
    check_claim(width, height, max_pixels)
    channels = _integer(directory, 277, 1)
    bits = directory[258].integers if 258 in directory else (1,)
    formats = directory[339].integers if 339 in directory else (1,)
    photometric = _integer(directory, 262, -1)
    if set(formats) != {1} or len(set(bits)) != 1 or not 1 <= bits[0] <= 16:
        raise ImageError("TIFF files with 1 to 16 bits per unsigned sample are supported, this one is of another kind")
    if photometric not in _CHANNELS or not _CHANNELS[photometric] <= channels <= _CHANNELS[photometric] + 4:
        raise ImageError(f"TIFF files of colour type {photometric} with {channels} channels are not supported")
    tiled = 322 in directory
    block = (_integer(directory, 323, 0), _integer(directory, 322, 0))
    if not tiled:
        block = (min(_integer(directory, 278, height), height), width)
    if min(block) < 1 or block[0] * block[1] > 4 * max(max_pixels, 1 << 16):
        raise ImageError("the TIFF file is damaged: impossible strip or tile size")
    jpeg_tables = directory[347].data if 347 in directory else None
    return _Layout(
        *(width, height, channels, bits[0], photometric),
        compression=_integer(directory, 259, _NONE),
        predictor=_integer(directory, 317, 1),
        planar=_integer(directory, 284, 1) == 2 and channels > 1,
        fill_reversed=_integer(directory, 266, 1) == 2,
        order=order,
        block=block,
        tiled=tiled,
        jpeg_tables=jpeg_tables,
    )


def _samples(data: bytes, directory: Directory, layout: _Layout) -> Image:
    """All samples, ``(H, W, channels)``, as stored: uint8 up to 8 bits, otherwise uint16."""
    offsets_tag, counts_tag = (324, 325) if layout.tiled else (273, 279)
    offsets = directory[offsets_tag].integers if offsets_tag in directory else ()
    counts = directory[counts_tag].integers if counts_tag in directory else ()
    rows = math.ceil(layout.height / layout.block[0])
    columns = math.ceil(layout.width / layout.block[1])
    planes = layout.channels if layout.planar else 1
    if not counts and len(offsets) == 1 and layout.compression == _NONE:
        counts = (len(data) - offsets[0],)  # old writers leave the count of a single strip out
    if len(offsets) < rows * columns * planes or len(counts) < rows * columns * planes:
        raise ImageError("the TIFF file is damaged: it does not list all strips or tiles")
    if any(not 0 < count <= len(data) - offset for offset, count in zip(offsets, counts, strict=False)):
        raise ImageError("the TIFF file is truncated: a strip or tile lies outside the file")
    samples = np.empty((layout.height, layout.width, layout.channels), np.uint8 if layout.bits <= 8 else np.uint16)
    index = 0
    for plane in range(planes):
        channels = slice(plane, plane + 1) if layout.planar else slice(None)
        for top in range(0, layout.height, layout.block[0]):
            for left in range(0, layout.width, layout.block[1]):
                segment = data[offsets[index] : offsets[index] + counts[index]]
                area = samples[top : top + layout.block[0], left : left + layout.block[1], channels]
                height = layout.block[0] if layout.tiled else area.shape[0]
                block = _decode_block(segment, height, layout)
                area[...] = block[: area.shape[0], : area.shape[1]]
                index += 1
    return samples


def _decode_block(segment: bytes, height: int, layout: _Layout) -> Image:
    """One strip or tile, ``(height, width, channels)``."""
    import imagecodecs

    width, channels = layout.block[1], layout.block_channels
    if layout.fill_reversed:
        segment = bytes(imagecodecs.bitorder_decode(segment))
    if layout.compression == _JPEG:
        return _decode_jpeg(segment, (height, width, channels), layout)
    row_bytes = (width * channels * layout.bits + 7) // 8
    raw = _decompress(segment, height * row_bytes, layout.compression)
    if len(raw) < height * row_bytes:
        raise ImageError(f"the TIFF file is damaged: a strip or tile is {height * row_bytes - len(raw)} bytes short")
    raw = raw[: height * row_bytes]
    if layout.bits in (8, 16):
        block: Image = np.frombuffer(raw, layout.order + ("u1" if layout.bits == 8 else "u2"))
    else:
        unpacked = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(height, row_bytes), axis=1)
        bits = unpacked[:, : width * channels * layout.bits].reshape(-1, layout.bits).astype(np.uint16)
        block = bits @ (1 << np.arange(layout.bits - 1, -1, -1, dtype=np.uint16))
    block = block.astype(np.uint8 if layout.bits <= 8 else np.uint16).reshape(height, width, channels)
    if layout.predictor == 2 and layout.bits in (8, 16):
        return np.cumsum(block, axis=1, dtype=block.dtype)
    if layout.predictor != 1:
        raise ImageError(f"TIFF files with predictor {layout.predictor} are not supported at this depth")
    return block


def _decompress(segment: bytes, size: int, compression: int) -> bytes:
    """At most about ``size`` decompressed bytes."""
    import imagecodecs

    try:
        if compression == _NONE:
            return segment
        if compression in (_DEFLATE, _DEFLATE_OLD):
            return zlib.decompressobj().decompress(segment, size)
        if compression == _LZW:
            return bytes(imagecodecs.lzw_decode(segment, out=size))
        if compression == _PACKBITS:
            return bytes(imagecodecs.packbits_decode(segment, out=size))
    except (zlib.error, RuntimeError, ValueError) as error:
        raise ImageError(f"the TIFF file is damaged: {one_line(error)}") from error
    raise ImageError(f"TIFF files of compression type {compression} are not supported")


def _decode_jpeg(segment: bytes, shape: tuple[int, int, int], layout: _Layout) -> Image:
    """A strip or tile with JPEG compression (technical note 2); one that is too large is refused undecoded."""
    import imagecodecs

    height, width, channels = shape
    # Four components are passed through unchanged by the name CMYK, whatever they mean.
    space = {3: "YCBCR" if layout.photometric == _YCBCR else "RGB", 4: "CMYK"}.get(channels)
    target = "RGB" if channels == 3 else space
    try:
        header = parse_jpeg(segment)
        if (header.width, header.bit_depth, len(header.sampling)) != (width, layout.bits, channels) or not (
            height <= header.height <= layout.block[0]
        ):
            raise ImageError("the TIFF file is damaged: a JPEG strip has another size than the file says")
        block: Image = imagecodecs.jpeg8_decode(
            segment,
            tables=layout.jpeg_tables,
            colorspace=space,
            outcolorspace=target,
            shape=(header.height, width),
        )
    except (BitstreamError, RuntimeError, ValueError) as error:
        raise ImageError(f"the TIFF file is damaged: {one_line(error)}") from error
    return block.reshape(header.height, width, channels)[:height]


def _to_image(samples: Image, directory: Directory, layout: _Layout) -> Image:
    """Colour and alpha from the stored samples."""
    colors = _CHANNELS[layout.photometric]
    color = samples[..., :colors]
    if layout.photometric == _PALETTE:
        image = _palette(color[..., 0], directory, layout.bits)
    else:
        image = full_range(color, (1 << layout.bits) - 1)
        if layout.photometric == _GRAY_INVERTED:
            image = np.iinfo(image.dtype).max - image
        elif layout.photometric == _CMYK:
            image = _cmyk_to_rgb(image)
        elif layout.photometric == _YCBCR and layout.compression != _JPEG:
            raise ImageError("TIFF files with YCbCr samples are supported only with JPEG compression")
    extra = directory[338].integers if 338 in directory else ()
    kinds = [kind for kind in extra if kind in (_ASSOCIATED, _STRAIGHT)]
    if not kinds or layout.channels <= colors + extra.index(kinds[0]):
        return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    alpha = full_range(samples[..., colors + extra.index(kinds[0])], (1 << layout.bits) - 1).astype(image.dtype)
    rgba = np.concatenate([np.broadcast_to(image, (*image.shape[:2], 3)), alpha[..., None]], axis=2)
    return straight_alpha(rgba) if kinds[0] == _ASSOCIATED else rgba


def _palette(indices: Image, directory: Directory, bits: int) -> Image:
    values = directory[320].integers if 320 in directory else ()
    if bits > 8 or len(values) != 3 << bits:
        raise ImageError("the TIFF file is damaged: it has no valid palette")
    table = (np.array(values, np.uint16).reshape(3, -1).T >> 8).astype(np.uint8)  # as Pillow reads it
    return table[indices]


def _cmyk_to_rgb(image: Image) -> Image:
    """Without a colour profile, as Pillow converts: each ink takes its share of what black leaves."""
    from PIL import Image as PillowImage

    if image.dtype == np.uint8:
        return np.asarray(PillowImage.fromarray(np.ascontiguousarray(image), "CMYK").convert("RGB"))
    left = 65535 - image.astype(np.uint32)
    return ((left[..., :3] * left[..., 3:] + 32767) // 65535).astype(np.uint16)


def _metadata(directory: Directory, order: str, image: Image) -> Metadata:
    exif = {tag: field for tag, field in directory.items() if tag not in _STORAGE | _RESOLUTION}
    icc, xmp = directory.get(_ICC), directory.get(_XMP)
    return Metadata(
        exif=build_tiff(order, exif) if exif else None,
        icc=fitting_icc(icc.data if icc else None, image),
        xmp=xmp.data if xmp else None,
    )


def _dpi(directory: Directory) -> tuple[float, float] | None:
    inches = {2: 1.0, 3: 2.54}.get(_integer(directory, _RESOLUTION_UNIT, 2))
    x, y = (directory[tag].ratios if tag in directory else () for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    return (x[0] * inches, y[0] * inches) if inches and x and y else None


def encode(picture: Picture) -> bytes:
    """Writes a TIFF file of 8 or 16 bits, deflate with horizontal differences, with all metadata.

    The byte order is that of the EXIF block, whose fields are kept as they are.

    Raises:
        ImageError: If the file would exceed 4 GiB.
    """
    order, directory = _exif_fields(picture.metadata.exif)
    image = picture.image if picture.image.ndim == 3 else picture.image[..., None]
    height, width, channels = image.shape
    rows = max(1, _STRIP_BYTES // (width * channels * image.itemsize))
    strips = [_compress(image[top : top + rows], order) for top in range(0, height, rows)]
    sizes = [len(strip) for strip in strips]
    offsets = np.cumsum([8, *sizes[:-1]]).tolist()
    directory |= {
        256: longs(order, width),
        257: longs(order, height),
        258: shorts(order, *[8 * image.itemsize] * channels),
        259: shorts(order, _DEFLATE),
        262: shorts(order, _GRAY if channels == 1 else _RGB),
        273: longs(order, *offsets),
        277: shorts(order, channels),
        278: longs(order, rows),
        279: longs(order, *sizes),
        317: shorts(order, 2),
    }
    if channels == 4:
        directory[338] = shorts(order, _STRAIGHT)
    directory |= _other_fields(picture, order)
    try:
        return build_tiff(order, directory, b"".join(strips))
    except TiffTagError as error:
        raise ImageError(str(error)) from error


def _compress(rows: Image, order: str) -> bytes:
    differences = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
    return zlib.compress(differences.astype(f"{order}u{rows.itemsize}").tobytes(), 4)


def _exif_fields(exif: bytes | None) -> tuple[str, Directory]:
    """Byte order and fields of an EXIF block; a damaged block has none."""
    try:
        file = parse_tiff(exif or b"", strict=False, max_directories=1)
    except TiffTagError:
        return "<", {}
    return file.order, {tag: field for tag, field in file.directories[0].items() if tag not in _STORAGE}


def _other_fields(picture: Picture, order: str) -> Directory:
    fields: Directory = {}
    if picture.metadata.icc is not None:
        fields[_ICC] = Field(7, picture.metadata.icc, order)
    if picture.metadata.xmp is not None:
        fields[_XMP] = Field(1, picture.metadata.xmp, order)
    if picture.dpi is not None:
        fields[_RESOLUTION_UNIT] = shorts(order, 2)
        for tag, value in zip((_X_RESOLUTION, _Y_RESOLUTION), picture.dpi, strict=True):
            fields[tag] = Field(5, longs(order, round(value * 10_000), 10_000).data, order)
    return fields
