"""Directories of tagged fields as TIFF files and EXIF blocks have them, read and written as bytes.

Sources: TIFF 6.0 (Adobe, 1992), section 2; BigTIFF design (AWare Systems); EXIF 2.32 (CIPA DC-008), 4.6.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

_DIRECTORY_TAGS = (0x8769, 0x8825, 0xA005)  # Exif, GPS, Interoperability: fields that hold a directory
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_LONG = 4


class TiffTagError(ValueError):
    """The bytes are not a directory of tagged fields, or end inside one."""


@dataclass(frozen=True)
class Field:
    """One tagged field.

    Attributes:
        kind: TIFF field type, 1 to 18.
        data: The values as stored, in the byte order of the file.
        order: ``<`` or ``>``.
        directory: What the field points to, if it holds a directory.
    """

    kind: int
    data: bytes
    order: str
    directory: Directory | None = None

    @property
    def integers(self) -> tuple[int, ...]:
        """All values of a field of unsigned integers; empty for other types."""
        letter = _INTEGERS.get(self.kind)
        if letter is None:
            return ()
        count = len(self.data) // struct.calcsize(letter)
        return struct.unpack(f"{self.order}{count}{letter}", self.data)

    @property
    def ratios(self) -> tuple[float, ...]:
        """All values of a field of unsigned rationals with a denominator above zero."""
        if self.kind != 5:
            return ()
        numbers = struct.unpack(f"{self.order}{len(self.data) // 4}I", self.data)
        return tuple(a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True) if b)


Directory: TypeAlias = dict[int, Field]


def shorts(order: str, *values: int) -> Field:
    """A field of 16-bit integers."""
    return Field(3, struct.pack(f"{order}{len(values)}H", *values), order)


def longs(order: str, *values: int) -> Field:
    """A field of 32-bit integers."""
    return Field(_LONG, struct.pack(f"{order}{len(values)}I", *values), order)


@dataclass(frozen=True)
class TiffFile:
    """The byte order and all directories of the main chain of a TIFF file or EXIF block.

    Attributes:
        order: ``<`` or ``>``.
        directories: At least one.
    """

    order: str
    directories: tuple[Directory, ...]


def parse_tiff(data: bytes, *, strict: bool, max_directories: int = 64) -> TiffFile:
    """Reads the directories of a TIFF file (classic or BigTIFF) or of an EXIF block.

    Args:
        data: The file or block.
        strict: Whether a field that lies outside ``data`` is an error, as in a truncated file; otherwise
            it is left out, as damaged EXIF is common.
        max_directories: How many directories of the main chain are read.

    Raises:
        TiffTagError: If there is no directory to read.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16 - 8 * (data[2:4] in (b"\x2a\0", b"\0\x2a")):
        raise TiffTagError("no TIFF header")
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version == 42:
        layout, (offset,) = _CLASSIC, struct.unpack_from(f"{order}I", data, 4)
    elif version == 43:
        layout, (offset,) = _BIG, struct.unpack_from(f"{order}Q", data, 8)
    else:
        raise TiffTagError("no TIFF header")
    directories: list[Directory] = []
    seen: set[int] = set()
    while offset and offset not in seen and len(directories) < max_directories:
        seen.add(offset)
        directory, offset = _read_directory(data, offset, order, layout, strict)
        directories.append(directory)
    if not directories:
        raise TiffTagError("no TIFF directory")
    return TiffFile(order, tuple(directories))


@dataclass(frozen=True)
class _Layout:
    count: str
    entry: str
    inline: int


_CLASSIC = _Layout("H", "HHI4s", 4)
_BIG = _Layout("Q", "HHQ8s", 8)


def _read_directory(
    data: bytes, offset: int, order: str, layout: _Layout, strict: bool, depth: int = 0
) -> tuple[Directory, int]:
    """The fields of the directory at ``offset``, and the offset of the next directory (0: none)."""
    count_size, entry_size = struct.calcsize(f"={layout.count}"), struct.calcsize(f"={layout.entry}")
    if offset + count_size > len(data):
        raise TiffTagError("a TIFF directory lies outside the file")
    (count,) = struct.unpack_from(order + layout.count, data, offset)
    start = offset + count_size
    end = start + count * entry_size
    if end > len(data):
        raise TiffTagError("a TIFF directory ends early")
    fields: Directory = {}
    for position in range(start, end, entry_size):
        tag, kind, length, inline = struct.unpack_from(order + layout.entry, data, position)
        size = length * _TYPE_SIZES.get(kind, 0)
        value = inline[:size]
        if size > layout.inline:
            (at,) = struct.unpack(order + ("I" if layout.inline == 4 else "Q"), inline)
            value = data[at : at + size]
        if strict and len(value) != size:
            raise TiffTagError(f"field {tag} lies outside the file")
        if not size or len(value) != size:
            continue
        field = Field(kind, value, order)
        if tag in _DIRECTORY_TAGS and depth < 2 and field.integers:
            try:
                children, _ = _read_directory(data, field.integers[0], order, layout, strict, depth + 1)
            except TiffTagError:
                if strict:
                    raise
                continue
            field = Field(kind, value, order, children)
        fields.setdefault(tag, field)
    next_size = layout.inline
    tail = data[end : end + next_size]
    following = int.from_bytes(tail, "little" if order == "<" else "big") if len(tail) == next_size else 0
    return fields, following


def build_tiff(order: str, directory: Directory, body: bytes = b"") -> bytes:
    """A TIFF structure of one directory with its sub-directories.

    Args:
        order: ``<`` or ``>``; all fields must be in it.
        directory: The fields.
        body: Bytes that are to lie between the header and the directory, from offset 8 on.

    Raises:
        TiffTagError: If the result would be larger than 4 GiB.
    """
    body += b"\0" * (len(body) % 2)  # the directory begins at an even offset
    start = 8 + len(body)
    if start >= 1 << 32:
        raise TiffTagError("a TIFF file cannot be larger than 4 GiB")
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, start)
    return header + body + _directory_bytes(order, directory, start)


def _directory_bytes(order: str, directory: Directory, offset: int) -> bytes:
    """One directory to lie at ``offset``, followed by the values that do not fit into its entries."""
    entries = struct.pack(f"{order}H", len(directory))
    values = b""
    values_at = offset + 2 + 12 * len(directory) + 4
    for tag, field in sorted(directory.items()):
        at = values_at + len(values)
        if field.directory is not None:
            entries += struct.pack(f"{order}HHII", tag, _LONG, 1, at)
            values += _directory_bytes(order, field.directory, at)
        else:
            count = len(field.data) // _TYPE_SIZES[field.kind]
            inline = field.data.ljust(4, b"\0") if len(field.data) <= 4 else struct.pack(f"{order}I", at)
            entries += struct.pack(f"{order}HHI", tag, field.kind, count) + inline
            values += field.data if len(field.data) > 4 else b""
        values += b"\0" * (len(values) % 2)  # values begin at even offsets
    return entries + bytes(4) + values
