"""The bytes of a BPG file: header, extension blocks, HEVC headers and NAL units.

Layout: F. Bellard, "BPG Specification", version 0.9.5. Pixels are dealt with in ``bpg_color`` and
``hevc``.
"""

from __future__ import annotations

from dataclasses import dataclass

from codec_wrappers.base import NO_METADATA, Chroma, Metadata
from codec_wrappers.bits import BitReader, BitWriter, join_nals, split_nals
from codec_wrappers.errors import BitstreamError
from codec_wrappers.hevc_syntax import (
    PPS,
    SUFFIX_SEI,
    CodingTools,
    HevcPicture,
    is_slice,
    nal_type,
    read_block_sizes,
    read_extension,
    read_pcm,
    write_block_sizes,
    write_extension,
    write_pcm,
)

MAGIC = b"BPG\xfb"
COLOR_SPACES = ("bt601", "rgb", "ycgco", "bt709", "bt2020")
FORMATS: tuple[tuple[Chroma, bool], ...] = (
    ("400", False),
    ("420", False),
    ("422", False),
    ("444", False),
    ("420", True),
    ("422", True),
)
"""``pixel_format`` -> chroma format, and whether chroma is sited at the left luma sample."""
_TAGS = {"exif": 1, "icc": 2, "xmp": 3}


@dataclass(frozen=True)
class BpgHeader:
    """Everything in a BPG file before its HEVC data.

    Attributes:
        width: True width in pixels.
        height: True height in pixels.
        chroma: Chroma format of the colour picture.
        left_sited: Chroma is horizontally co-sited with even luma samples (MPEG-2) instead of
            centred between them (JPEG). Only for 4:2:0 and 4:2:2.
        bit_depth: Bits per sample, 8..14.
        color_space: One of :data:`COLOR_SPACES`.
        limited_range: Luma 16..235 and chroma 16..240, scaled to the bit depth.
        alpha: There is an alpha plane.
        premultiplied: Colours are multiplied by alpha.
        extra_plane_is_w: The extra plane is ``1 - K`` of a CMYK picture.
        animated: More pictures follow the first.
        metadata: Payloads of the extension blocks.
    """

    width: int
    height: int
    chroma: Chroma = "420"
    left_sited: bool = False
    bit_depth: int = 8
    color_space: str = "bt601"
    limited_range: bool = False
    alpha: bool = False
    premultiplied: bool = False
    extra_plane_is_w: bool = False
    animated: bool = False
    metadata: Metadata = NO_METADATA

    @property
    def extra_plane(self) -> bool:
        """Whether a second, monochrome HEVC stream is stored."""
        return self.alpha or self.extra_plane_is_w


@dataclass(frozen=True)
class BpgFile:
    """A whole BPG file."""

    header: BpgHeader
    color: HevcPicture
    alpha: HevcPicture | None = None


class _ByteReader:
    """Reads bytes and ``ue7`` numbers; every method raises ``BitstreamError`` at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        if self.position + count > len(self.data):
            raise BitstreamError("the BPG file ends too early", offset=len(self.data))
        self.position += count
        return self.data[self.position - count : self.position]

    def ue7(self) -> int:
        """Base-128 number, most significant group first, at most 32 bits."""
        value = 0
        for count in range(5):
            byte = self.take(1)[0]
            if count == 0 and byte == 0x80:
                break
            value = value << 7 | byte & 0x7F
            if byte < 0x80 and value < 1 << 32:
                return value
        raise BitstreamError("a number in the BPG header is malformed", offset=self.position)


def ue7(value: int) -> bytes:
    """``value`` in base 128, most significant group first, with continuation bits."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def read_header(data: bytes) -> tuple[BpgHeader, bytes]:
    """Reads the header of a BPG file; returns it and the picture data, which begin with the HEVC headers.

    Raises:
        BitstreamError: If this is no BPG file, or its header is malformed or ends early.
    """
    reader = _ByteReader(data)
    if reader.take(4) != MAGIC:
        raise BitstreamError("not a BPG file: the magic bytes are missing", offset=0)
    first, second = reader.take(2)
    if first >> 5 >= len(FORMATS) or second >> 4 >= len(COLOR_SPACES) or first & 15 > 6:
        raise BitstreamError("the BPG header names an unknown pixel format, colour space or bit depth", offset=4)
    chroma, left_sited = FORMATS[first >> 5]
    alpha1, alpha2 = bool(first & 16), bool(second & 4)
    width, height, length = reader.ue7(), reader.ue7(), reader.ue7()
    extensions = reader.take(reader.ue7()) if second & 8 else b""
    if length > len(data) - reader.position:
        raise BitstreamError("the BPG file is shorter than its header says", offset=len(data))
    header = BpgHeader(
        width=width,
        height=height,
        chroma=chroma,
        left_sited=left_sited,
        bit_depth=8 + (first & 15),
        color_space=COLOR_SPACES[second >> 4],
        limited_range=bool(second & 2),
        alpha=alpha1,
        premultiplied=alpha1 and alpha2,
        extra_plane_is_w=alpha2 and not alpha1,
        animated=bool(second & 1),
        metadata=_read_extensions(extensions),
    )
    if chroma == "400" and header.color_space != "bt601":
        raise BitstreamError("a gray BPG file must use colour space 0", offset=5)
    return header, data[reader.position :][: length or None]


def _read_extensions(data: bytes) -> Metadata:
    """EXIF, ICC and XMP out of the extension blocks; unknown tags are skipped, the first of a kind wins."""
    reader = _ByteReader(data)
    payloads: dict[int, bytes] = {}
    while reader.position < len(data):
        payloads.setdefault(reader.ue7(), reader.take(reader.ue7()))
    return Metadata(**{name: payloads.get(tag) for name, tag in _TAGS.items()})


def write_header(header: BpgHeader, picture: bytes) -> bytes:
    """Inverse of :func:`read_header`: a whole BPG file.

    bpgenc leaves the length of the picture data open, which costs a byte or two less; with it every
    decoder notices a truncated file.
    """
    payloads = [(tag, getattr(header.metadata, name)) for name, tag in _TAGS.items()]
    extensions = b"".join(ue7(tag) + ue7(len(data)) + data for tag, data in payloads if data is not None)
    pixel_format = FORMATS.index((header.chroma, header.left_sited))
    first = pixel_format << 5 | header.alpha << 4 | header.bit_depth - 8
    second = (
        COLOR_SPACES.index(header.color_space) << 4
        | bool(header.metadata) << 3
        | (header.premultiplied or header.extra_plane_is_w) << 2
        | header.limited_range << 1
        | header.animated
    )
    fixed = MAGIC + bytes([first, second]) + ue7(header.width) + ue7(header.height) + ue7(len(picture))
    return fixed + (ue7(len(extensions)) + extensions if header.metadata else b"") + picture


def read_tools(payload: bytes) -> CodingTools:
    """Reads one HEVC header, without the length before it.

    Raises:
        BitstreamError: If it ends early or holds values that HEVC does not allow.
    """
    reader = BitReader(payload)
    sizes = read_block_sizes(reader)
    tools = CodingTools(
        *sizes,
        transform_depth=reader.ue(),
        sao=reader.flag(),
        pcm=read_pcm(reader),
        strong_smoothing=reader.flag(),
        range_flags=read_extension(reader),
    )
    tools.check()
    return tools


def write_tools(tools: CodingTools) -> bytes:
    """Inverse of :func:`read_tools`."""
    writer = BitWriter()
    write_block_sizes(writer, tools)
    writer.ue(tools.transform_depth)
    writer.flag(tools.sao)
    write_pcm(writer, tools.pcm)
    writer.flag(tools.strong_smoothing)
    write_extension(writer, tools.range_flags)
    return writer.to_bytes()


def read_file(data: bytes) -> BpgFile:
    """Splits a BPG file into its parts.

    Raises:
        BitstreamError: If the container is malformed or truncated.
    """
    header, picture = read_header(data)
    reader = _ByteReader(picture)
    alpha_tools = read_tools(reader.take(reader.ue7())) if header.extra_plane else None
    tools = read_tools(reader.take(reader.ue7()))
    nals = split_nals(b"\0\0\1" + picture[reader.position :])
    alpha = HevcPicture(alpha_tools, _first_picture(nals, 1)) if alpha_tools else None
    return BpgFile(header, HevcPicture(tools, _first_picture(nals, 0)), alpha)


def _first_picture(nals: list[bytes], layer: int) -> tuple[bytes, ...]:
    """PPS, slices and hash of the first picture of a layer, marked as layer 0.

    Parameter sets that BPG does not allow are left out: they would contradict the header.
    """
    kept: list[bytes] = []
    started = False
    for nal in nals:
        if len(nal) < 3 or (nal[0] & 1) << 5 | nal[1] >> 3 != layer:
            continue
        starts = is_slice(nal) and nal[2] >> 7 == 1  # first_slice_segment_in_pic_flag
        if started and (starts or nal_type(nal) == PPS):
            break
        started |= starts
        if is_slice(nal) or nal_type(nal) in (PPS, SUFFIX_SEI):
            kept.append(bytes([nal[0] & 0xFE, nal[1] & 7]) + nal[2:])
    if not started:
        raise BitstreamError("the BPG file holds no picture")
    return tuple(kept)


def write_file(file: BpgFile) -> bytes:
    """Inverse of :func:`read_file`. Alpha NAL units come before the colour ones they belong to."""
    parts = [file.color] if file.alpha is None else [file.alpha, file.color]
    headers = b"".join(ue7(len(tools)) + tools for tools in (write_tools(part.tools) for part in parts))
    nals = list(file.color.nals)
    if file.alpha is not None:
        if len(file.alpha.nals) != len(nals):
            raise ValueError("alpha and colour must have the same number of NAL units")
        marked = [bytes([nal[0], nal[1] | 8]) + nal[2:] for nal in file.alpha.nals]
        nals = [nal for pair in zip(marked, nals, strict=True) for nal in pair]
    return write_header(file.header, headers + join_nals(nals)[4:])
