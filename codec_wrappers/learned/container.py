"""The file format of the learned codecs, byte by byte.

Integers are big-endian; a *varint* is an unsigned integer of at most 32 bits, seven bits a byte, least significant
group first, the top bit set in all bytes but the last, written as short as possible (LEB128). A *name* is
a byte with its length, 1 to 40, and that many ASCII letters, digits and ``-_.:``.

===========================  ==========================================================================
bytes                        content
===========================  ==========================================================================
4                            magic ``8B 4C 49 43`` (``\\x8bLIC``)
1                            version of this format, 1
name                         model: ``msh``, ``vrae``, ``msh-sf``, or ``learned:`` and a CompressAI zoo name
8                            weights: first bytes of the SHA-256 of the weights file
1                            quality: the codec's qp
1                            fine step ``f``: latents are divided by ``2 ** ((f - 128) / 128)``; 128 is neutral
1                            flags: bit 0 gray, bit 1 sixteen bits a sample (else eight), bit 2 the check
                             of the latents is present; the other bits are 0
varint, varint               width, height in pixels, each at least 1
1                            number of refiners, 0 to 8; for each:
name, 8                      its name and the first bytes of the SHA-256 of its file
0 or 2                       check of the latents (flag bit 2): lower half of the CRC-32 of the decoded
                             integers of y, each as 32 bits little-endian, in order (channel, row, column)
1                            number of streams, 1 to 8; for each:
varint                       its length in bytes
all streams                  rANS data of CompressAI, one after the other: y, then z
4                            CRC-32 (ISO 3309, as in zlib and PNG) of all bytes before
===========================  ==========================================================================

Nothing follows. The padded size, of which the shapes of the latents follow, is width and height rounded up to
the model's stride (64; 16 for factorised models); padding repeats the last column and row.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field

from codec_wrappers.errors import BitstreamError

MAGIC = b"\x8bLIC"
VERSION = 1
DIGEST_BYTES = 8
NEUTRAL_STEP = 128
_STEPS_PER_OCTAVE = 128
_MAX_NAME = 40
_MAX_REFINERS = 8
_MAX_STREAMS = 8
_GRAY, _DEEP, _CHECKED = 1, 2, 4
_NAME = re.compile(rb"[A-Za-z0-9._:-]{1,40}")


@dataclass(frozen=True)
class RefinerTag:
    """Which refiner a file asks for.

    Attributes:
        name: Its name.
        digest: First :data:`DIGEST_BYTES` bytes of the SHA-256 of its file.
    """

    name: str
    digest: bytes


@dataclass(frozen=True)
class LearnedFile:
    """The parsed content of a file; see the module's documentation."""

    model: str
    weights: bytes
    quality: int
    width: int
    height: int
    streams: tuple[bytes, ...] = field(repr=False)
    fine: int = NEUTRAL_STEP
    gray: bool = False
    bit_depth: int = 8
    refiners: tuple[RefinerTag, ...] = ()
    check: int | None = None

    @property
    def step(self) -> float:
        """The divisor of the latents that :attr:`fine` stands for."""
        return float(2.0 ** ((self.fine - NEUTRAL_STEP) / _STEPS_PER_OCTAVE))


def model_of(head: bytes) -> str | None:
    """Name of the model of a file that begins with ``head`` (64 bytes suffice); None for other files."""
    if not head.startswith(MAGIC) or len(head) < 6 or len(head) < 6 + head[5]:
        return None
    name = head[6 : 6 + head[5]]
    return name.decode() if _NAME.fullmatch(name) else None


def write_file(file: LearnedFile) -> bytes:
    """The bytes of ``file``.

    Raises:
        ValueError: If a value does not fit its place in the format.
    """
    if file.bit_depth not in (8, 16):
        raise ValueError(f"bit_depth must be 8 or 16, got {file.bit_depth}")
    if len(file.refiners) > _MAX_REFINERS or not 1 <= len(file.streams) <= _MAX_STREAMS:
        raise ValueError(f"at most {_MAX_REFINERS} refiners and 1 to {_MAX_STREAMS} streams fit into a file")
    checked = file.check is not None
    flags = _GRAY * file.gray | _DEEP * (file.bit_depth == 16) | _CHECKED * checked
    parts = [MAGIC, bytes([VERSION]), _name(file.model), _digest(file.weights)]
    try:
        parts.append(struct.pack(">BBB", file.quality, file.fine, flags))
        parts += [_varint(file.width), _varint(file.height), bytes([len(file.refiners)])]
        parts += [part for tag in file.refiners for part in (_name(tag.name), _digest(tag.digest))]
        parts.append(b"" if file.check is None else struct.pack(">H", file.check))
    except struct.error as error:
        raise ValueError(f"quality, fine step or check is out of range: {error}") from error
    parts += [bytes([len(file.streams)]), *(_varint(len(stream)) for stream in file.streams), *file.streams]
    data = b"".join(parts)
    return data + struct.pack(">I", zlib.crc32(data))


def read_file(data: bytes) -> LearnedFile:
    """Parses and checks a whole file.

    Raises:
        BitstreamError: If it is of another format or version, truncated, or damaged; with the position.
    """
    reader = _Reader(data)
    if reader.take(len(MAGIC), "magic") != MAGIC:
        raise BitstreamError("this is no file of a learned codec", offset=0)
    if (version := reader.byte("version")) != VERSION:
        raise BitstreamError(f"format version {version} is not known; this release reads {VERSION}", offset=4)
    model = reader.name("model")
    weights = reader.take(DIGEST_BYTES, "weights")
    quality, fine, flags = reader.take(3, "quality")
    if flags & ~(_GRAY | _DEEP | _CHECKED):
        raise BitstreamError(f"unknown flags {flags:#x}", offset=reader.position - 1)
    width, height = reader.varint("width"), reader.varint("height")
    if not width or not height:
        raise BitstreamError("the picture is empty", offset=reader.position)
    refiners = tuple(
        RefinerTag(reader.name("refiner"), reader.take(DIGEST_BYTES, "refiner"))
        for _ in range(reader.count("refiners", 0, _MAX_REFINERS))
    )
    check = int.from_bytes(reader.take(2, "check"), "big") if flags & _CHECKED else None
    lengths = [reader.varint("stream length") for _ in range(reader.count("streams", 1, _MAX_STREAMS))]
    streams = tuple(reader.take(length, "stream") for length in lengths)
    end = reader.position
    checksum = int.from_bytes(reader.take(4, "checksum"), "big")
    if reader.position != len(data):
        raise BitstreamError(f"{len(data) - reader.position} bytes follow the end", offset=reader.position)
    if checksum != zlib.crc32(data[:end]):
        raise BitstreamError("the checksum differs: the file is damaged", offset=end)
    return LearnedFile(
        *(model, weights, quality, width, height, streams, fine),
        gray=bool(flags & _GRAY),
        bit_depth=16 if flags & _DEEP else 8,
        refiners=refiners,
        check=check,
    )


class _Reader:
    """Walks through a file; every failure names what was to be read and where."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int, what: str) -> bytes:
        part = self._data[self.position : self.position + count]
        if len(part) < count:
            raise BitstreamError(f"the file ends within {what}", offset=len(self._data))
        self.position += count
        return part

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def count(self, what: str, low: int, high: int) -> int:
        number = self.byte(what)
        if not low <= number <= high:
            raise BitstreamError(f"{number} {what}, not {low} to {high}", offset=self.position - 1)
        return number

    def name(self, what: str) -> str:
        start = self.position
        name = self.take(self.count(f"bytes of the name of the {what}", 1, _MAX_NAME), what)
        if not _NAME.fullmatch(name):
            raise BitstreamError(f"the name of the {what} is none", offset=start)
        return name.decode()

    def varint(self, what: str) -> int:
        start, value = self.position, 0
        for shift in range(0, 35, 7):
            byte = self.byte(what)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 32 or (shift and not byte):
                    break
                return value
        raise BitstreamError(f"{what} is no varint of at most 32 bits", offset=start)


def _varint(value: int) -> bytes:
    if not 0 <= value < 1 << 32:
        raise ValueError(f"expected 0 to 2^32 - 1, got {value}")
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _name(name: str) -> bytes:
    if not _NAME.fullmatch(data := name.encode()):
        raise ValueError(f"a name has 1 to {_MAX_NAME} letters, digits or '-_.:', got {name!r}")
    return bytes([len(data)]) + data


def _digest(digest: bytes) -> bytes:
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, got {len(digest)}")
    return digest
