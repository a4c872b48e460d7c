"""The boxes that JP2, AVIF and HEIC files are made of: ISO/IEC 14496-12, 4.2; Rec. ITU-T T.800, I.4."""

from __future__ import annotations

import struct
from typing import TypeAlias

from codec_wrappers.errors import BitstreamError

Box: TypeAlias = tuple[bytes, tuple[int, int]]
"""Type of a box; begin and end of its content."""


def boxes_of(data: bytes, start: int, end: int) -> list[Box]:
    """The boxes between two positions, in the order of the file; those inside a box are not looked at.

    Raises:
        BitstreamError: If a box is damaged or reaches beyond ``end``.
    """
    found = []
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            header = 16
        elif size == 0:
            size = end - start
        if size < header or start + size > end:
            raise BitstreamError("the file is truncated or a box is damaged", offset=start)
        found.append((kind, (start + header, start + size)))
        start += size
    return found


def first_boxes(data: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """The first box of each type; otherwise as :func:`boxes_of`."""
    return dict(reversed(boxes_of(data, start, end)))
