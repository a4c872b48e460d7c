"""Bit-level reading and writing for HEVC, VVC and BPG headers, and Annex B byte streams.

Sources: Rec. ITU-T H.265 / H.266, clauses 7.2 (bit reading), 7.4.2 (emulation prevention),
9.2 / 9.3 (Exp-Golomb codes), Annex B (byte stream).
"""

from __future__ import annotations

from codec_wrappers.errors import BitstreamError


class BitReader:
    """Reads bits, most significant first, from ``data`` (an RBSP: emulation prevention removed).

    Every method raises ``BitstreamError`` when the data end too early.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0  # in bits

    def u(self, bits: int) -> int:
        """Unsigned integer of ``bits`` bits (0 gives 0)."""
        end = self.position + bits
        if end > 8 * len(self._data):
            raise BitstreamError("a header ends too early", offset=len(self._data))
        first, last = self.position // 8, (end + 7) // 8
        value = int.from_bytes(self._data[first:last], "big") >> (8 * last - end)
        self.position = end
        return value & ((1 << bits) - 1)

    def flag(self) -> bool:
        return self.u(1) == 1

    def ue(self) -> int:
        """Unsigned Exp-Golomb code."""
        zeros = 0
        while self.u(1) == 0:
            zeros += 1
            if zeros > 32:
                raise BitstreamError("an Exp-Golomb code is too long", offset=self.position // 8)
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """Signed Exp-Golomb code."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)

    def skip(self, bits: int) -> None:
        self.u(bits)

    def align(self) -> None:
        """Skips to the next byte border."""
        self.position = (self.position + 7) // 8 * 8


class BitWriter:
    """Collects bits, most significant first."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def u(self, bits: int, value: int) -> None:
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{value} does not fit into {bits} bits")
        if bits:
            self._bits.append(f"{value:0{bits}b}")

    def flag(self, value: bool) -> None:
        self.u(1, int(value))

    def ue(self, value: int) -> None:
        length = (value + 1).bit_length()
        self.u(2 * length - 1, value + 1)

    def se(self, value: int) -> None:
        self.ue(2 * value - 1 if value > 0 else -2 * value)

    def trailing(self) -> None:
        """``rbsp_trailing_bits``: a one, then zeros to the byte border."""
        self.u(1, 1)

    def to_bytes(self) -> bytes:
        """All bits, padded with zeros to whole bytes."""
        text = "".join(self._bits)
        count = (len(text) + 7) // 8
        return int(text.ljust(8 * count, "0") or "0", 2).to_bytes(count, "big")


def split_nals(stream: bytes) -> list[bytes]:
    """NAL units of an Annex B byte stream, without start codes and trailing zero bytes.

    Bytes before the first start code must be zero.

    Raises:
        BitstreamError: If there is no start code, or something else stands before it.
    """
    starts = []
    position = stream.find(b"\0\0\1")
    if position < 0 or any(stream[:position]):
        raise BitstreamError("no start code of an Annex B byte stream", offset=0)
    while position >= 0:
        starts.append(position + 3)
        position = stream.find(b"\0\0\1", position + 3)
    ends = [start - 3 for start in starts[1:]] + [len(stream)]
    return [nal for start, end in zip(starts, ends, strict=True) if (nal := stream[start:end].rstrip(b"\0"))]


def join_nals(nals: list[bytes]) -> bytes:
    """Annex B byte stream of NAL units, each with a four-byte start code."""
    return b"".join(b"\0\0\0\1" + nal for nal in nals)


def unescape(payload: bytes) -> bytes:
    """Removes emulation prevention bytes: ``00 00 03`` -> ``00 00``."""
    return payload.replace(b"\0\0\3", b"\0\0")


def escape(payload: bytes) -> bytes:
    """Inserts emulation prevention bytes, so that no ``00 00 00..03`` is left."""
    out = bytearray()
    zeros = 0
    for byte in payload:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    if zeros and payload:
        out.append(3)  # a NAL unit must not end in a zero byte (H.265, 7.4.2.1)
    return bytes(out)
