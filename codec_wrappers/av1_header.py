"""The quantiser index of an AV1 still picture, from its sequence and frame headers.

Source: AV1 Bitstream & Decoding Process Specification (AOMedia, 2019), clauses 5.3 (OBU header), 5.5
(sequence header), 5.9 (frame header of a key frame, up to the quantisation parameters).
"""

from __future__ import annotations

from dataclasses import dataclass

from codec_wrappers.bits import BitReader
from codec_wrappers.errors import BitstreamError

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_KEY_FRAME = 0
_SELECT = 2  # a tool that each frame switches by itself


@dataclass(frozen=True)
class _Sequence:
    """What a frame header needs to know of the sequence header."""

    reduced: bool
    width_bits: int
    height_bits: int
    width: int
    height: int
    frame_id_bits: int
    large_superblocks: bool
    screen_content: int
    integer_mv: int
    order_hint_bits: int
    superres: bool


def base_q_idx(data: bytes) -> int:
    """``base_q_idx`` (0 to 255) of the first frame in a sequence of OBUs.

    Raises:
        BitstreamError: If the headers end early, or the first frame is no ordinary key frame.
    """
    sequence = None
    for kind, payload in _obus(data):
        if kind == _SEQUENCE_HEADER:
            sequence = _sequence(BitReader(payload))
        elif kind in (_FRAME_HEADER, _FRAME):
            if sequence is None:
                break
            return _frame_q_idx(BitReader(payload), sequence)
    raise BitstreamError("the AV1 data hold no sequence header with a frame")


def _obus(data: bytes) -> list[tuple[int, bytes]]:
    """Type and payload of each OBU."""
    obus = []
    position = 0
    while position < len(data):
        header = data[position]
        position += 2 if header & 4 else 1
        size = len(data) - position
        if header & 2:  # the size in LEB128
            size = shift = 0
            while shift < 56 and position < len(data):
                byte = data[position]
                position += 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
        obus.append((header >> 3 & 15, data[position : position + size]))
        position += size
    return obus


def _sequence(r: BitReader) -> _Sequence:
    r.skip(3 + 1)  # profile, still picture
    reduced = r.flag()
    if reduced:
        r.skip(5)
    else:
        if r.flag():
            raise BitstreamError("the AV1 picture has timing information")
        delays = r.flag()
        for _ in range(r.u(5) + 1):
            r.skip(12)
            r.skip(r.u(5) > 7)
            if delays and r.flag():
                r.skip(4)
    width_bits, height_bits = r.u(4) + 1, r.u(4) + 1
    width, height = r.u(width_bits) + 1, r.u(height_bits) + 1
    frame_id_bits = 0
    if not reduced and r.flag():
        frame_id_bits = r.u(4) + 2
        frame_id_bits += r.u(3) + 1
    large = r.flag()
    r.skip(2)
    screen_content = integer_mv = _SELECT
    order_hint_bits = 0
    if not reduced:
        r.skip(4)
        order_hints = r.flag()
        r.skip(2 * order_hints)
        screen_content = _SELECT if r.flag() else r.u(1)
        if screen_content:
            integer_mv = _SELECT if r.flag() else r.u(1)
        order_hint_bits = r.u(3) + 1 if order_hints else 0
    superres = r.flag()
    return _Sequence(
        *(reduced, width_bits, height_bits, width, height, frame_id_bits),
        *(large, screen_content, integer_mv, order_hint_bits, superres),
    )


def _frame_q_idx(r: BitReader, s: _Sequence) -> int:
    if not s.reduced and (r.flag() or r.u(2) != _KEY_FRAME or not r.flag()):
        raise BitstreamError("the first AV1 frame is not a key frame that is shown")
    cdf_update_off = r.flag()
    screen_content = r.flag() if s.screen_content == _SELECT else bool(s.screen_content)
    if screen_content and s.integer_mv == _SELECT:
        r.skip(1)
    r.skip(s.frame_id_bits)
    own_size = not s.reduced and r.flag()
    r.skip(s.order_hint_bits)
    width, height = (r.u(s.width_bits) + 1, r.u(s.height_bits) + 1) if own_size else (s.width, s.height)
    upscaled = s.superres and r.flag()
    if upscaled:
        denominator = r.u(3) + 9
        width = (8 * width + denominator // 2) // denominator
    if r.flag():
        r.skip(32)  # render size
    if screen_content and not upscaled:
        r.skip(1)  # intra block copy
    if not (s.reduced or cdf_update_off):
        r.skip(1)
    _skip_tiles(r, width, height, s.large_superblocks)
    return r.u(8)


def _skip_tiles(r: BitReader, width: int, height: int, large_superblocks: bool) -> None:
    """Reads ``tile_info()``, 5.9.15, with uniform spacing."""
    size = 7 if large_superblocks else 6  # log2 of a superblock's side
    columns, rows = (-(-(8 * (-(-side // 8))) // (1 << size)) for side in (width, height))
    if not r.flag():
        raise BitstreamError("the AV1 tiles are not spaced uniformly")
    fewest_columns = _log2(4096 >> size, columns)
    fewest_tiles = max(fewest_columns, _log2((4096 * 2304) >> (2 * size), rows * columns))
    column_bits = _increments(r, fewest_columns, _log2(1, min(columns, 64)))
    row_bits = _increments(r, max(fewest_tiles - column_bits, 0), _log2(1, min(rows, 64)))
    if column_bits + row_bits:
        r.skip(column_bits + row_bits + 2)


def _log2(block: int, target: int) -> int:
    """Smallest k with ``block << k >= target``."""
    k = 0
    while block << k < target:
        k += 1
    return k


def _increments(r: BitReader, value: int, limit: int) -> int:
    while value < limit and r.flag():
        value += 1
    return value
