"""The encoder quality behind an AVIF or HEIC picture, from the quantiser in its headers.

Both libraries map their quality of 0 to 100 to a quantiser that does not depend on the picture: libavif
(measured with version 1.4) to an index of AV1, libheif to x265's constant rate factor
``(100 - quality) / 2``, which x265 lowers by 3 for an intra picture.
"""

from __future__ import annotations

import numpy as np

from codec_wrappers.av1_header import base_q_idx
from codec_wrappers.errors import BitstreamError
from codec_wrappers.hevc_syntax import SPS, HevcPicture, nal_type, parse_sps, slice_qp

_CONFIGURATION_OBUS = 4  # where they begin in an AV1CodecConfigurationRecord
_HEVC_LENGTH_SIZE, _HEVC_ARRAYS = 21, 22  # in an HEVCDecoderConfigurationRecord

# Indices and the middle of the qualities that libavif maps to them.
_AVIF_QUALITIES = (
    (0, 4, 32, 60, 92, 120, 148, 172, 188, 244, 249, 255),
    (100.0, 99.0, 90.0, 80.5, 70.0, 60.5, 50.5, 40.5, 34.0, 6.5, 4.0, 1.0),
)


def avif_quality(configuration: bytes, coded: bytes) -> float | None:
    """The quality that makes libavif choose this quantiser, within 1; None if the headers cannot be read.

    Args:
        configuration: The content of the av1C property.
        coded: The OBUs of the picture.
    """
    try:
        index = base_q_idx(configuration[_CONFIGURATION_OBUS:] + coded)
    except BitstreamError:
        return None
    return float(np.interp(index, *_AVIF_QUALITIES))


def heic_quality(configuration: bytes, coded: bytes) -> float | None:
    """The quality that makes libheif choose this slice QP, within 1; None if the headers cannot be read.

    Args:
        configuration: The content of the hvcC property.
        coded: The NAL units of the picture, each after its length.
    """
    try:
        nals = _parameter_sets(configuration) + _nals(coded, (configuration[_HEVC_LENGTH_SIZE] & 3) + 1)
        sps = parse_sps(next(nal for nal in nals if nal_type(nal) == SPS))
        qp = slice_qp(HevcPicture(sps.tools, tuple(nals)), monochrome=sps.chroma_format == 0)
    except (BitstreamError, IndexError, StopIteration):
        return None
    return float(min(max(100 - 2 * (qp + 3), 0), 100))


def _parameter_sets(record: bytes) -> list[bytes]:
    nals: list[bytes] = []
    position = _HEVC_ARRAYS + 1
    for _ in range(record[_HEVC_ARRAYS]):
        count = int.from_bytes(record[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            length = int.from_bytes(record[position : position + 2], "big")
            nals.append(record[position + 2 : position + 2 + length])
            position += 2 + length
            if position > len(record):
                raise BitstreamError("the parameter sets end early")
    return nals


def _nals(coded: bytes, length_size: int) -> list[bytes]:
    """The first NAL units; more than a few are not needed for the first slice."""
    nals: list[bytes] = []
    position = 0
    while position + length_size < len(coded) and len(nals) < 16:
        length = int.from_bytes(coded[position : position + length_size], "big")
        nals.append(coded[position + length_size : position + length_size + length])
        position += length_size + length
    return nals
