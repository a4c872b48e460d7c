"""One HEVC intra picture as a minimal HEIF file, and its samples by way of pillow-heif (libde265).

Box layouts: ISO/IEC 14496-12 (files), 14496-15 (hvcC), 23008-12 (items).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import BitstreamError, CodecUnavailableError
from codec_wrappers.hevc_syntax import PPS, Sps, is_slice, nal_type, write_sps, write_vps


def wrap_heif(nals: Sequence[bytes], sps: Sps) -> bytes:
    """HEIF file of one picture; 4:4:4 planes are declared to be G, B, R, so that they are not converted.

    Args:
        nals: PPS and slices; others are left out.
        sps: Describes the picture.
    """
    parameter_sets = [write_vps(), write_sps(sps), *(nal for nal in nals if nal_type(nal) == PPS)]
    payload = b"".join(struct.pack(">I", len(nal)) + nal for nal in nals if is_slice(nal))
    properties = [
        _decoder_configuration(parameter_sets, sps),
        _full_box(b"ispe", struct.pack(">II", sps.width, sps.height)),
        _box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 13, 0, 0x80)),
    ]
    associations = bytes([0, 0, 0, 1, 0, 1, len(properties), 0x81, *range(2, len(properties) + 1)])
    entry = _full_box(b"infe", struct.pack(">HH4sx", 1, 0, b"hvc1"), version=2)
    head = _box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")

    def meta(offset: int) -> bytes:
        location = struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, offset, len(payload))
        return _full_box(
            b"meta",
            _full_box(b"hdlr", bytes(4) + b"pict" + bytes(13))
            + _full_box(b"pitm", struct.pack(">H", 1))
            + _full_box(b"iinf", struct.pack(">H", 1) + entry)
            + _box(b"iprp", _box(b"ipco", b"".join(properties)) + _full_box(b"ipma", associations))
            + _full_box(b"iloc", location),
        )

    offset = len(head) + len(meta(0)) + 8
    return head + meta(offset) + _box(b"mdat", payload)


def decode_heif(file: bytes, sps: Sps) -> list[npt.NDArray[Any]]:
    """Planes of an 8-bit 4:0:0 or 4:4:4 file of :func:`wrap_heif`.

    Raises:
        BitstreamError: If libheif cannot decode it.
        CodecUnavailableError: If pillow-heif is missing.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise CodecUnavailableError("pillow-heif is missing: pip install pillow-heif") from error
    try:
        picture = pillow_heif.open_heif(io.BytesIO(file), convert_hdr_to_8bit=False)
        samples = np.asarray(picture)
    except (ValueError, RuntimeError, SyntaxError, OSError, EOFError, MemoryError) as error:
        raise BitstreamError(f"the HEVC data are damaged: {error}") from error
    if samples.dtype != np.uint8 or samples.shape[:2] != (sps.height, sps.width):
        raise BitstreamError("the HEVC data do not match the header of the picture")
    if sps.chroma_format == 0:
        return [samples if samples.ndim == 2 else samples[..., 0]]
    return [samples[..., channel] for channel in (1, 2, 0)]


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def _full_box(name: bytes, content: bytes, *, version: int = 0) -> bytes:
    return _box(name, bytes([version, 0, 0, 0]) + content)


def _decoder_configuration(parameter_sets: Sequence[bytes], sps: Sps) -> bytes:
    """``HEVCDecoderConfigurationRecord`` (14496-15, 8.3.3.1)."""
    profile = write_sps(sps)[3:6]  # general profile byte and the first compatibility flags
    record = bytes([1, profile[0], profile[1], profile[2], 0, 0, 0x90, 0, 0, 0, 0, 0, 255])
    record += bytes([0xF0, 0, 0xFC, 0xFC | sps.chroma_format, 0xF8 | sps.luma_depth - 8, 0xF8 | sps.chroma_depth - 8])
    record += bytes([0, 0, 0x0F, len(parameter_sets)])  # frame rate unknown; one layer; 4-byte NAL lengths
    for nal in parameter_sets:
        record += bytes([0x80 | nal_type(nal)]) + struct.pack(">HH", 1, len(nal)) + nal
    return _box(b"hvcC", record)
