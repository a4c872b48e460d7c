"""The encoder quality behind a lossy WebP picture, from the quantisers in its VP8 frame header.

Sources: RFC 6386, sections 7 (boolean decoder), 9.2 to 9.6 and 19.2 (frame header); the mapping of quality
to quantisers as in libwebp's quant_enc.c, which this inverts.
"""

from __future__ import annotations

import math

_START_CODE = b"\x9d\x01\x2a"


def vp8_quality(frame: bytes) -> float | None:
    """The quality (0 to 100) that makes libwebp choose quantisers like those of this key frame.

    libwebp spreads the quantisers of up to four segments around the one for the given quality; their
    mean, weighted by the area of the segments, gives it back within a few steps.

    Args:
        frame: A VP8 key frame, the content of a ``VP8 `` chunk.

    Returns:
        None if the header is damaged.
    """
    if len(frame) < 20 or frame[3:6] != _START_CODE:
        return None
    reader = _BoolReader(frame[10:])
    reader.literal(2)  # colour space, clamping
    quantisers, shares, absolute = _segments(reader)
    reader.literal(1 + 6 + 3)  # loop filter: type, level, sharpness
    if reader.flag() and reader.flag():  # adjustments of the loop filter
        for _ in range(8):
            if reader.flag():
                reader.literal(7)
    reader.literal(2)  # number of token partitions
    base = reader.literal(7)
    if not quantisers:
        quantisers, shares = [base], [1.0]
    elif not absolute:
        quantisers = [base + delta for delta in quantisers]
    linear = math.exp(3 * sum(share * _log_compression(q) for share, q in zip(shares, quantisers, strict=True)))
    return 100 * (linear * 1.5 if linear < 0.5 else (linear + 1) / 2)


def _log_compression(quantiser: int) -> float:
    """``log(c)`` of libwebp's ``quantiser = int(127 (1 - c))``; that of the segments lies around the quality's."""
    middle = quantiser + 0.5 if 0 < quantiser < 127 else quantiser  # of what is truncated to this integer
    return math.log(max(1 - max(middle, 0) / 127, 1e-3))


def _segments(reader: _BoolReader) -> tuple[list[int], list[float], bool]:
    """Quantiser of each segment (empty: no segments), the share of the picture it covers, whether absolute."""
    if not reader.flag():
        return [], [], True
    update_map, update_data = reader.flag(), reader.flag()
    quantisers: list[int] = []
    absolute = True
    if update_data:
        absolute = reader.flag()
        quantisers = [reader.signed(7) if reader.flag() else 0 for _ in range(4)]
        for _ in range(4):
            if reader.flag():
                reader.signed(6)
    first, low, high = (
        [reader.literal(8) / 255 if reader.flag() else 1.0 for _ in range(3)] if update_map else [1.0] * 3
    )
    shares = [first * low, first * (1 - low), (1 - first) * high, (1 - first) * (1 - high)]
    return quantisers, shares, absolute


class _BoolReader:
    """The boolean decoder of RFC 6386, section 7.3; reads zeros after the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 2
        self._value = int.from_bytes(data[:2], "big")
        self._range = 255
        self._shifts = 0

    def flag(self, probability: int = 128) -> bool:
        split = 1 + ((self._range - 1) * probability >> 8)
        one = self._value >= split << 8
        if one:
            self._range -= split
            self._value -= split << 8
        else:
            self._range = split
        while self._range < 128:
            self._value <<= 1
            self._range <<= 1
            self._shifts += 1
            if self._shifts == 8:
                self._shifts = 0
                if self._position < len(self._data):
                    self._value |= self._data[self._position]
                    self._position += 1
        return one

    def literal(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = value << 1 | self.flag()
        return value

    def signed(self, bits: int) -> int:
        magnitude = self.literal(bits)
        return -magnitude if self.flag() else magnitude
