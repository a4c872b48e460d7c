"""How a stored picture is to be turned for display: the EXIF orientation, 1 (as it is) to 8.

Source: EXIF 2.32 (CIPA DC-008), 4.6.4 A.
"""

from __future__ import annotations

import struct

import numpy as np

from codec_wrappers.base import Image
from codec_wrappers.tiff_tags import TiffFile, TiffTagError, build_tiff, parse_tiff, shorts

_TAG = 0x0112
_INVERSE = {6: 8, 8: 6}  # the others undo themselves


def turned(image: Image, orientation: int) -> Image:
    """The stored picture as it is to be displayed."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def turned_back(image: Image, orientation: int) -> Image:
    """The displayed picture as it was stored: undoes :func:`turned`."""
    return turned(image, _INVERSE.get(orientation, orientation))


def exif_orientation(exif: bytes | None) -> int:
    """The orientation that an EXIF block says; 1 if it says none."""
    file = _parse(exif)
    field = file.directories[0].get(_TAG) if file else None
    value = field.integers[0] if field and field.integers else 1
    return value if 1 <= value <= 8 else 1


def with_orientation(exif: bytes | None, orientation: int) -> bytes | None:
    """The EXIF block saying this orientation; unchanged if it says so already."""
    if exif_orientation(exif) == orientation:
        return exif
    file = _parse(exif) or TiffFile("<", ({},))
    if exif is not None and _TAG in file.directories[0]:
        return _patched(exif, file, orientation)
    return build_tiff(file.order, {**file.directories[0], _TAG: shorts(file.order, orientation)})


def _parse(exif: bytes | None) -> TiffFile | None:
    try:
        return parse_tiff(exif or b"", strict=False, max_directories=1)
    except TiffTagError:
        return None


def _patched(exif: bytes, file: TiffFile, orientation: int) -> bytes:
    """Replaces the value in place, so that private data with offsets of their own stay valid."""
    patched = bytearray(exif)
    (start,) = struct.unpack_from(f"{file.order}I", exif, 4)
    (count,) = struct.unpack_from(f"{file.order}H", exif, start)
    for position in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(f"{file.order}H", exif, position) == (_TAG,):
            struct.pack_into(f"{file.order}HIHH", patched, position + 2, 3, 1, orientation, 0)
            break
    return bytes(patched)
