"""What the boxes of an AVIF or HEIC file say: sizes, depth, chroma, orientation, metadata; nothing is decoded.

Sources: ISO/IEC 14496-12 (boxes, items), ISO/IEC 23008-12 (image items and their properties),
the AV1 and HEVC configuration records (AV1 in ISOBMFF 2.3.3; ISO/IEC 14496-15, 8.3.3.1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from codec_wrappers.base import Chroma, Metadata
from codec_wrappers.boxes import boxes_of, first_boxes
from codec_wrappers.errors import BitstreamError
from codec_wrappers.orientation import turned, with_orientation

_CHROMAS: dict[int, Chroma] = {0: "400", 1: "420", 2: "422", 3: "444"}
_XMP_TYPE = b"application/rdf+xml"


def brands(head: bytes) -> tuple[bytes, ...]:
    """Major and compatible brands as far as ``head`` (64 bytes suffice) holds them; empty if there is no ftyp box."""
    if head[4:8] != b"ftyp" or len(head) < 16:
        return ()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    listed = [head[position : position + 4] for position in range(16, end - 3, 4)]
    return (head[8:12], *listed)


@dataclass(frozen=True)
class ItemFile:
    """The primary picture of a file of image items.

    Attributes:
        sizes: Width and height of every picture item, the primary one first.
        chroma, bit_depth: Of the coded picture.
        configuration: The av1C or hvcC property of the coded item; a grid has it in its tiles.
        tiles: The data of the coded item, or of the tiles of a grid, row by row; of other pictures made of several
            only those of the first.
        tile_size: Width and height of each of ``tiles``.
        columns: How many tiles are in a row; 0 if ``tiles`` are not all of the picture.
        matrix, full_range: How colours became samples, if the file says so: ``MatrixCoefficients`` of
            Rec. ITU-T H.273, and whether the samples use all codes; otherwise None, and the bitstream may say it.
        orientation: EXIF orientation that equals the file's rotation and mirror properties.
        metadata: EXIF (saying ``orientation``), ICC profile, XMP.
        is_sequence: Whether the file holds a track, an animation.
    """

    sizes: tuple[tuple[int, int], ...]
    chroma: Chroma
    bit_depth: int
    configuration: bytes = field(repr=False)
    tiles: tuple[bytes, ...] = field(repr=False)
    tile_size: tuple[int, int]
    columns: int
    matrix: int | None
    full_range: bool | None
    orientation: int
    metadata: Metadata
    is_sequence: bool


def parse_items(data: bytes) -> ItemFile:
    """Reads the boxes of a file.

    Raises:
        BitstreamError: If they are damaged or truncated, or describe no picture.
    """
    try:
        return _parse(data)
    except (struct.error, IndexError, KeyError, RecursionError) as error:
        raise BitstreamError("the boxes of the file are damaged or truncated") from error


def _parse(data: bytes) -> ItemFile:
    top = first_boxes(data, 0, len(data))
    if b"meta" not in top:
        raise BitstreamError("the file has no box that describes a picture")
    meta = first_boxes(data, top[b"meta"][0] + 4, top[b"meta"][1])
    items = _Items(data, meta)
    coded_item, kind, record = _configuration(items)
    chroma, bit_depth = _av1_format(record) if kind == b"av1C" else _hevc_format(record)
    tiles, columns = _tiles(items, coded_item)
    matrix, full_range = _matrix_and_range(items.properties(items.primary) + items.properties(coded_item))
    orientation = _orientation(items.properties(items.primary))
    return ItemFile(
        sizes=items.sizes(),
        chroma=chroma,
        bit_depth=bit_depth,
        configuration=record,
        tiles=tiles,
        tile_size=items.size(coded_item) or items.sizes()[0],
        columns=columns,
        matrix=matrix,
        full_range=full_range,
        orientation=orientation,
        metadata=_metadata(items, orientation),
        is_sequence=b"moov" in top,
    )


class _Items:
    """The items of a meta box: their data, properties and references."""

    def __init__(self, data: bytes, meta: dict[bytes, tuple[int, int]]) -> None:
        self._data = data
        self._meta = meta
        start = meta[b"pitm"][0]
        self.primary = _integer(data, start + 4, 2 if data[start] == 0 else 4)
        self.types = dict(self._read_types())
        self._locations = dict(self._read_locations())
        self.references = dict(self._read_references())
        properties = first_boxes(data, *meta[b"iprp"])
        self._property_list = [(kind, data[begin:end]) for kind, (begin, end) in boxes_of(data, *properties[b"ipco"])]
        self._owned: dict[int, list[int]] = {}
        for kind, place in boxes_of(data, *meta[b"iprp"]):
            if kind == b"ipma":
                self._read_associations(*place)

    def properties(self, item: int) -> list[tuple[bytes, bytes]]:
        """Type and value of the properties of an item, in the order of their association."""
        return [self._property_list[i - 1] for i in self._owned.get(item, []) if 0 < i <= len(self._property_list)]

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Size of each item that has one, the primary item's first."""
        items = [self.primary, *(item for item in self._owned if item != self.primary)]
        sizes = [self.size(item) for item in items]
        if sizes[0] is None:
            raise BitstreamError("the file says no size of its picture")
        return tuple(size for size in sizes if size is not None)

    def size(self, item: int) -> tuple[int, int] | None:
        """Width and height of an item, if it has one."""
        extent = dict(self.properties(item)).get(b"ispe")
        return None if extent is None else struct.unpack_from(">II", extent, 4)

    def content(self, item: int) -> bytes:
        method, extents = self._locations[item]
        base = 0
        if method == 1:
            base = self._meta[b"idat"][0]
        elif method != 0:
            raise BitstreamError("the file stores an item in a way that is not supported")
        outside = any(base + offset + length > len(self._data) for offset, length in extents)
        if outside or sum(length for _, length in extents) > len(self._data):
            raise BitstreamError("the file is truncated: an item lies outside it", offset=len(self._data))
        return b"".join(self._data[base + offset : base + offset + length] for offset, length in extents)

    def contents(self, items: list[int]) -> tuple[bytes, ...]:
        """The data of several items, which may not be more than the whole file, however often it claims them."""
        found: list[bytes] = []
        left = len(self._data)
        for item in items:
            found.append(self.content(item))
            left -= len(found[-1])
            if left < 0:
                raise BitstreamError("the items of the file overlap")
        return tuple(found)

    def _read_types(self) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
        """Item -> its type and, for MIME items, its content type."""
        start, end = self._meta[b"iinf"]
        start += 6 if self._data[start] == 0 else 8
        for kind, (begin, stop) in reversed(boxes_of(self._data, start, end)):  # so that the first wins
            version = self._data[begin]
            if kind == b"infe" and version >= 2:
                width = 2 if version == 2 else 4
                item = _integer(self._data, begin + 4, width)
                rest = self._data[begin + 6 + width : stop]
                yield item, (rest[:4], rest[4:].split(b"\0")[1] if rest[:4] == b"mime" else b"")

    def _read_locations(self) -> Iterator[tuple[int, tuple[int, list[tuple[int, int]]]]]:
        """Item -> construction method and (offset, length) of its extents."""
        data, (position, _) = self._data, self._meta[b"iloc"]
        version = data[position]
        offset_size, length_size = data[position + 4] >> 4, data[position + 4] & 15
        base_size, index_size = data[position + 5] >> 4, data[position + 5] & 15 if version else 0
        width = 2 if version < 2 else 4
        count = _integer(data, position + 6, width)
        position += 6 + width
        for _ in range(count):
            item = _integer(data, position, width)
            position += width
            method = _integer(data, position, 2) & 15 if version else 0
            position += (2 if version else 0) + 2
            base = _integer(data, position, base_size)
            extent_count = _integer(data, position + base_size, 2)
            position += base_size + 2
            if extent_count > 1 and not offset_size + length_size:
                raise BitstreamError("the boxes of the file are damaged", offset=position)
            extents = []
            for _ in range(extent_count):
                position += index_size
                offset = _integer(data, position, offset_size)
                length = _integer(data, position + offset_size, length_size)
                extents.append((base + offset, length))
                position += offset_size + length_size
            yield item, (method, extents)

    def _read_references(self) -> Iterator[tuple[tuple[bytes, int], list[int]]]:
        """(Type, from item) -> to items."""
        if b"iref" not in self._meta:
            return
        start, end = self._meta[b"iref"]
        width = 2 if self._data[start] == 0 else 4
        for kind, (begin, _) in reversed(boxes_of(self._data, start + 4, end)):
            count = _integer(self._data, begin + width, 2)
            targets = [_integer(self._data, begin + width + 2 + width * i, width) for i in range(count)]
            yield (kind, _integer(self._data, begin, width)), targets

    def _read_associations(self, position: int, end: int) -> None:
        data = self._data
        version, wide = data[position], data[position + 3] & 1
        count = _integer(data, position + 4, 4)
        position += 8
        for _ in range(count):
            if position >= end:
                raise BitstreamError("the boxes of the file are damaged", offset=position)
            width = 2 if version == 0 else 4
            item, number = _integer(data, position, width), data[position + width]
            position += width + 1
            for _ in range(number):
                index = _integer(data, position, 2) & 0x7FFF if wide else data[position] & 0x7F
                self._owned.setdefault(item, []).append(index)
                position += 2 if wide else 1


def _integer(data: bytes, position: int, width: int) -> int:
    if position + width > len(data):
        raise BitstreamError("the file is truncated", offset=len(data))
    return int.from_bytes(data[position : position + width], "big")


def _configuration(items: _Items) -> tuple[int, bytes, bytes]:
    """The coded item, the type and the content of its configuration record."""
    item = items.primary
    for _ in range(3):
        properties = dict(items.properties(item))
        for kind in (b"av1C", b"hvcC"):
            if kind in properties:
                return item, kind, properties[kind]
        item = items.references[(b"dimg", item)][0]
    raise BitstreamError("the file describes no coded picture")


def _tiles(items: _Items, first: int) -> tuple[tuple[bytes, ...], int]:
    """``tiles`` and ``columns`` of an :class:`ItemFile` whose first coded item is ``first``."""
    only = (items.content(first),)
    if first == items.primary:
        return only, 1
    if items.types.get(items.primary, (b"", b""))[0] != b"grid":
        return only, 0
    try:  # libheif may show what is not whole
        grid, members = items.content(items.primary), items.references[(b"dimg", items.primary)]
        rows, columns = grid[2] + 1, grid[3] + 1
        tile_size = items.size(first) or (0, 0)
        width, height = struct.unpack_from(">II" if grid[1] & 1 else ">HH", grid, 4)
        is_whole = rows * columns == len(members) and all(items.size(member) == tile_size for member in members)
        for count, length, tile_length in zip((columns, rows), (width, height), tile_size, strict=True):
            is_whole = is_whole and (count - 1) * tile_length < length <= count * tile_length
        return (items.contents(members), columns) if is_whole and members[0] == first else (only, 0)
    except (BitstreamError, KeyError, IndexError, struct.error):
        return only, 0


def _av1_format(record: bytes) -> tuple[Chroma, int]:
    flags = record[2]
    depth = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    subsampled = (flags >> 3 & 1) + (flags >> 2 & 1)  # horizontally, vertically
    return "400" if flags & 0x10 else _CHROMAS[3 - subsampled], depth


def _hevc_format(record: bytes) -> tuple[Chroma, int]:
    return _CHROMAS[record[16] & 3], 8 + (record[17] & 7)


def _orientation(properties: list[tuple[bytes, bytes]]) -> int:
    """The EXIF orientation that does what the properties irot and imir do, in their order."""
    corners = np.arange(6).reshape(2, 3)
    shown = corners
    for kind, value in properties:
        if kind == b"irot":
            shown = np.rot90(shown, value[0] & 3)  # counter-clockwise
        elif kind == b"imir":
            shown = shown[:, ::-1] if value[0] & 1 else shown[::-1]
    return next(o for o in range(1, 9) if np.array_equal(turned(corners, o), shown))


def _metadata(items: _Items, orientation: int) -> Metadata:
    exif = xmp = None
    for item, (kind, content_type) in items.types.items():
        if items.references.get((b"cdsc", item), [items.primary])[0] != items.primary:
            continue
        if kind == b"Exif":
            block = items.content(item)
            exif = block[4 + int.from_bytes(block[:4], "big") :] or None
        elif kind == b"mime" and content_type == _XMP_TYPE:
            xmp = items.content(item) or None
    return Metadata(exif=with_orientation(exif, orientation), icc=_icc(items.properties(items.primary)), xmp=xmp)


def _matrix_and_range(properties: list[tuple[bytes, bytes]]) -> tuple[int, bool] | tuple[None, None]:
    """What the first colr property of type nclx says; (None, None) if there is none."""
    for kind, value in properties:
        if kind == b"colr" and value[:4] == b"nclx" and len(value) >= 11:
            return int.from_bytes(value[8:10], "big"), bool(value[10] & 0x80)
    return None, None


def _icc(properties: list[tuple[bytes, bytes]]) -> bytes | None:
    colors = (value for kind, value in properties if kind == b"colr" and value[:4] in (b"prof", b"rICC"))
    return next((value[4:] for value in colors), None)
