"""One SEI message of our own in VVC streams (Rec. ITU-T H.266, 7.3.6; H.274, 8.5).

The message, of the type "user data unregistered", carries what 4:2:0 VVC cannot say: a true size
that is odd, and that the picture is gray. Decoders that do not know it skip it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from codec_wrappers.bits import BitReader, BitWriter, escape, join_nals, split_nals, unescape
from codec_wrappers.errors import BitstreamError
from codec_wrappers.vvc_syntax import LAST_SLICE, PREFIX_SEI, nal_type

SEI_UUID = UUID("6f1f3d0e-92ab-4c51-a6c3-5f6b0c2e7d94")
"""Identifies our user data. Never reuse it for another layout."""

_USER_DATA_UNREGISTERED = 5


@dataclass(frozen=True)
class TrueSize:
    """What our SEI message says: the part of the decoded picture that is meant, and whether it is gray.

    Attributes:
        width: Columns to keep, from the left.
        height: Rows to keep, from the top.
        gray: Whether only luma is meant.
    """

    width: int
    height: int
    gray: bool = False


def serialise_true_size(true: TrueSize) -> bytes:
    """Prefix SEI NAL unit that says ``true``."""
    bits = BitWriter()
    bits.u(8, int(true.gray))
    bits.ue(true.width)
    bits.ue(true.height)
    payload = SEI_UUID.bytes + bits.to_bytes()
    message = bytes([_USER_DATA_UNREGISTERED, len(payload)]) + payload
    return bytes([0, PREFIX_SEI << 3 | 1]) + escape(message + b"\x80")


def parse_true_size(nals: list[bytes]) -> TrueSize | None:
    """What our SEI message in a stream says, or None if there is none.

    Raises:
        BitstreamError: If the message is there but damaged.
    """
    for nal in nals:
        if nal_type(nal) != PREFIX_SEI:
            continue
        for kind, payload in sei_messages(unescape(nal[2:])):
            if kind == _USER_DATA_UNREGISTERED and payload.startswith(SEI_UUID.bytes):
                bits = BitReader(payload[16:])
                return TrueSize(gray=bits.u(8) & 1 == 1, width=bits.ue(), height=bits.ue())
    return None


def insert_true_size(stream: bytes, true: TrueSize) -> bytes:
    """Puts the SEI message that says ``true`` before the first slice of ``stream``."""
    nals = split_nals(stream)
    first_slice = next((i for i, nal in enumerate(nals) if 0 <= nal_type(nal) <= LAST_SLICE), None)
    if first_slice is None:
        raise BitstreamError("the stream has no slice")
    nals.insert(first_slice, serialise_true_size(true))
    return join_nals(nals)


def sei_messages(rbsp: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of the messages of an SEI NAL unit (7.3.6); stops where they are cut off."""
    position = 0
    while position < len(rbsp) - 1:  # the last byte holds the trailing bits
        numbers = []
        for _ in range(2):
            value = 0
            while rbsp[position : position + 1] == b"\xff":
                value += 255
                position += 1
            if position >= len(rbsp):
                return
            numbers.append(value + rbsp[position])
            position += 1
        kind, size = numbers
        if position + size > len(rbsp):
            return
        yield kind, rbsp[position : position + size]
        position += size
