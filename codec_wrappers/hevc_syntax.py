"""HEVC parameter sets and slice headers, as far as one intra picture needs them.

Clauses are those of Rec. ITU-T H.265: 7.3.2 (parameter sets), 7.3.3 (profile, tier and level),
7.3.6 (slice header), Annex E (VUI).
"""

from __future__ import annotations

from dataclasses import dataclass

from codec_wrappers.bits import BitReader, BitWriter, escape, unescape
from codec_wrappers.errors import BitstreamError

IDR_W_RADL, IDR_N_LP = 19, 20
VPS, SPS, PPS, SUFFIX_SEI = 32, 33, 34, 40
RANGE_FLAGS = (
    "transform_skip_rotation",
    "transform_skip_context",
    "implicit_rdpcm",
    "explicit_rdpcm",
    "extended_precision_processing",
    "intra_smoothing_disabled",
    "high_precision_offsets",
    "persistent_rice_adaptation",
    "cabac_bypass_alignment",
)
"""Flags of ``sps_range_extension``, in the order of the bitstream."""


def nal_type(nal: bytes) -> int:
    """``nal_unit_type`` of a NAL unit (0..63); -1 if it is too short to have one."""
    return nal[0] >> 1 & 63 if len(nal) > 2 else -1


def is_slice(nal: bytes) -> bool:
    """Whether a NAL unit is coded picture data (of any kind)."""
    return 0 <= nal_type(nal) < 32


@dataclass(frozen=True)
class PcmSettings:
    """Sample depths and block sizes of PCM coding units (7.3.2.2.1)."""

    luma_depth: int
    chroma_depth: int
    log2_min_size: int
    log2_size_range: int
    loop_filter_disabled: bool


@dataclass(frozen=True)
class CodingTools:
    """The part of an SPS that decides how intra blocks are parsed and reconstructed.

    Attributes:
        log2_min_cb: Smallest coding block, log2 of samples (3..6).
        log2_ctb: Coding tree block (4..6).
        log2_min_tb: Smallest transform block (2..5).
        log2_max_tb: Largest transform block (..5).
        transform_depth: ``max_transform_hierarchy_depth_intra``.
        sao: Sample adaptive offset.
        pcm: PCM settings, or None when PCM is off.
        strong_smoothing: ``strong_intra_smoothing_enabled_flag``.
        range_flags: Names out of :data:`RANGE_FLAGS` that are set.
    """

    log2_min_cb: int
    log2_ctb: int
    log2_min_tb: int
    log2_max_tb: int
    transform_depth: int
    sao: bool
    pcm: PcmSettings | None
    strong_smoothing: bool
    range_flags: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raises ``BitstreamError`` unless the block sizes are ones that HEVC allows (7.4.3.2.1)."""
        depth_limit = self.log2_ctb - self.log2_min_tb
        if (
            not 3 <= self.log2_min_cb <= self.log2_ctb
            or not 4 <= self.log2_ctb <= 6
            or not 2 <= self.log2_min_tb < self.log2_min_cb
            or not self.log2_min_tb <= self.log2_max_tb <= min(self.log2_ctb, 5)
            or not 0 <= self.transform_depth <= depth_limit
        ):
            raise BitstreamError("the HEVC header has block sizes that HEVC does not allow")

    def coded_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the coded picture: multiples of the smallest coding block."""
        block = 1 << self.log2_min_cb
        return -(-height // block) * block, -(-width // block) * block


@dataclass(frozen=True)
class HevcPicture:
    """An intra picture without its SPS: coding tools, then PPS and slices (and perhaps a hash SEI)."""

    tools: CodingTools
    nals: tuple[bytes, ...]


@dataclass(frozen=True)
class Sps:
    """What is kept of a sequence parameter set; sizes in luma samples, before any cropping."""

    chroma_format: int
    width: int
    height: int
    luma_depth: int
    chroma_depth: int
    tools: CodingTools


def read_block_sizes(reader: BitReader) -> tuple[int, int, int, int]:
    """Reads the four block-size codes; returns log2 of min CB, CTB, min TB, max TB."""
    min_cb = reader.ue() + 3
    ctb = reader.ue() + min_cb
    min_tb = reader.ue() + 2
    return min_cb, ctb, min_tb, reader.ue() + min_tb


def write_block_sizes(writer: BitWriter, tools: CodingTools) -> None:
    """Inverse of :func:`read_block_sizes`."""
    writer.ue(tools.log2_min_cb - 3)
    writer.ue(tools.log2_ctb - tools.log2_min_cb)
    writer.ue(tools.log2_min_tb - 2)
    writer.ue(tools.log2_max_tb - tools.log2_min_tb)


def read_pcm(reader: BitReader) -> PcmSettings | None:
    """Reads ``pcm_enabled_flag`` and, if it is set, the settings after it."""
    if not reader.flag():
        return None
    return PcmSettings(reader.u(4) + 1, reader.u(4) + 1, reader.ue() + 3, reader.ue(), reader.flag())


def write_pcm(writer: BitWriter, pcm: PcmSettings | None) -> None:
    """Inverse of :func:`read_pcm`."""
    writer.flag(pcm is not None)
    if pcm is not None:
        writer.u(4, pcm.luma_depth - 1)
        writer.u(4, pcm.chroma_depth - 1)
        writer.ue(pcm.log2_min_size - 3)
        writer.ue(pcm.log2_size_range)
        writer.flag(pcm.loop_filter_disabled)


def read_extension(reader: BitReader) -> frozenset[str]:
    """Reads the SPS extension flags and the range extension.

    Raises:
        BitstreamError: If another extension (multilayer, 3D, screen content) is present.
    """
    if not reader.flag():
        return frozenset()
    has_range = reader.flag()
    if reader.u(7):
        raise BitstreamError("the HEVC header uses an extension other than the range extensions")
    return frozenset(name for name in RANGE_FLAGS if has_range and reader.flag())


def write_extension(writer: BitWriter, flags: frozenset[str]) -> None:
    """Inverse of :func:`read_extension`."""
    writer.flag(bool(flags))
    if flags:
        writer.u(8, 0x80)
        for name in RANGE_FLAGS:
            writer.flag(name in flags)


def _skip_profile_tier_level(reader: BitReader, sub_layers_minus1: int) -> None:
    reader.skip(88 + 8)  # general profile, then level
    present = [(reader.flag(), reader.flag()) for _ in range(sub_layers_minus1)]
    if sub_layers_minus1:
        reader.skip(2 * (8 - sub_layers_minus1))
    for profile, level in present:
        reader.skip(88 * profile + 8 * level)


def _skip_reference_sets(reader: BitReader) -> None:
    """Short- and long-term reference picture sets; predicted sets do not occur in one-picture streams."""
    for index in range(reader.ue()):
        if index and reader.flag():
            raise BitstreamError("the SPS predicts reference picture sets")
        for _ in range(reader.ue() + reader.ue()):
            reader.ue()
            reader.skip(1)
    if reader.flag():
        raise BitstreamError("the SPS lists long-term reference pictures")


def _skip_hrd(reader: BitReader, sub_layers_minus1: int) -> None:
    """``hrd_parameters(1, …)`` (E.2.2)."""
    nal, vcl = reader.flag(), reader.flag()
    sub_pictures = False
    if nal or vcl:
        sub_pictures = reader.flag()
        reader.skip(19 * sub_pictures + 8 + 4 * sub_pictures + 15)
    for _ in range(sub_layers_minus1 + 1):
        low_delay, cpb_count = False, 1
        fixed_within_cvs = reader.flag() or reader.flag()
        if fixed_within_cvs:
            reader.ue()
        else:
            low_delay = reader.flag()
        if not low_delay:
            cpb_count = reader.ue() + 1
        for _ in range((nal + vcl) * cpb_count):
            for _ in range(4 if sub_pictures else 2):
                reader.ue()
            reader.skip(1)


def _skip_vui(reader: BitReader, sub_layers_minus1: int) -> None:
    """``vui_parameters`` (E.2.1)."""
    if reader.flag() and reader.u(8) == 255:  # aspect_ratio_idc: extended
        reader.skip(32)
    if reader.flag():  # overscan
        reader.skip(1)
    if reader.flag():  # video signal type
        reader.skip(4)
        reader.skip(24 * reader.u(1))
    if reader.flag():  # chroma sample location
        reader.ue()
        reader.ue()
    reader.skip(3)
    if reader.flag():  # default display window
        _ = [reader.ue() for _ in range(4)]
    if reader.flag():  # timing
        reader.skip(64)
        if reader.flag():
            reader.ue()
        if reader.flag():
            _skip_hrd(reader, sub_layers_minus1)
    if reader.flag():  # bitstream restriction
        reader.skip(3)
        _ = [reader.ue() for _ in range(5)]


def parse_sps(nal: bytes) -> Sps:
    """Reads a sequence parameter set (7.3.2.2), its NAL header included.

    Raises:
        BitstreamError: If it ends early, or uses scaling lists or another thing that never occurs
            in a one-picture intra stream.
    """
    reader = BitReader(unescape(nal[2:]))
    reader.skip(4)
    sub_layers_minus1 = reader.u(3)
    reader.skip(1)
    _skip_profile_tier_level(reader, sub_layers_minus1)
    reader.ue()  # sps_seq_parameter_set_id
    chroma_format = reader.ue()
    if chroma_format == 3:
        reader.skip(1)
    width, height = reader.ue(), reader.ue()
    if reader.flag():  # conformance window
        _ = [reader.ue() for _ in range(4)]
    luma_depth, chroma_depth = reader.ue() + 8, reader.ue() + 8
    reader.ue()  # log2_max_pic_order_cnt_lsb_minus4
    for _ in range(sub_layers_minus1 + 1 if reader.flag() else 1):
        _ = [reader.ue() for _ in range(3)]
    sizes = read_block_sizes(reader)
    reader.ue()  # max_transform_hierarchy_depth_inter
    depth_intra = reader.ue()
    if reader.flag():
        raise BitstreamError("the SPS uses scaling lists")
    reader.skip(1)  # amp
    sao = reader.flag()
    pcm = read_pcm(reader)
    _skip_reference_sets(reader)
    reader.skip(1)  # temporal motion vector prediction
    strong = reader.flag()
    if reader.flag():
        _skip_vui(reader, sub_layers_minus1)
    tools = CodingTools(*sizes, depth_intra, sao, pcm, strong, read_extension(reader))
    return Sps(chroma_format, width, height, luma_depth, chroma_depth, tools)


def _write_profile_tier_level(writer: BitWriter) -> None:
    """Format range extensions profile at the unlimited level 8.5: no decoder refuses it for its size."""
    writer.u(8, 4)  # profile space, tier, general_profile_idc
    writer.u(32, 1 << (31 - 4))  # compatible with profile 4
    writer.u(4, 0b1001)  # progressive, not interlaced, not packed, frames only
    writer.u(44, 0)
    writer.u(8, 255)


def _write_buffering(writer: BitWriter) -> None:
    writer.flag(True)
    for value in (1, 0, 0):  # max_dec_pic_buffering_minus1, max_num_reorder_pics, max_latency_increase_plus1
        writer.ue(value)


def write_vps() -> bytes:
    """A video parameter set for one layer of one picture (7.3.2.1), NAL header included."""
    writer = BitWriter()
    writer.u(4, 0)
    writer.u(2, 0b11)  # base layer is internal and available
    writer.u(6 + 3, 0)
    writer.flag(True)
    writer.u(16, 0xFFFF)
    _write_profile_tier_level(writer)
    _write_buffering(writer)
    writer.u(6, 0)
    writer.ue(0)
    writer.u(2, 0)  # no timing, no extension
    writer.trailing()
    return bytes([VPS << 1, 1]) + escape(writer.to_bytes())


def write_sps(sps: Sps) -> bytes:
    """Sequence parameter set, NAL header included, with everything BPG leaves out at BPG's fixed value."""
    writer = BitWriter()
    writer.u(4 + 3, 0)
    writer.flag(True)
    _write_profile_tier_level(writer)
    writer.ue(0)
    writer.ue(sps.chroma_format)
    if sps.chroma_format == 3:
        writer.flag(False)
    writer.ue(sps.width)
    writer.ue(sps.height)
    writer.flag(False)
    writer.ue(sps.luma_depth - 8)
    writer.ue(sps.chroma_depth - 8)
    writer.ue(4)  # 8 bits of picture order count
    _write_buffering(writer)
    write_block_sizes(writer, sps.tools)
    writer.ue(sps.tools.transform_depth)
    writer.ue(sps.tools.transform_depth)
    writer.flag(False)
    writer.flag(True)  # asymmetric motion partitions
    writer.flag(sps.tools.sao)
    write_pcm(writer, sps.tools.pcm)
    writer.ue(0)
    writer.flag(False)
    writer.flag(True)  # temporal motion vector prediction
    writer.flag(sps.tools.strong_smoothing)
    writer.flag(False)
    write_extension(writer, sps.tools.range_flags)
    writer.trailing()
    return bytes([SPS << 1, 1]) + escape(writer.to_bytes())


def slice_qp(picture: HevcPicture, *, monochrome: bool) -> int:
    """Luma quantisation parameter of the first slice: ``26 + init_qp_minus26 + slice_qp_delta``.

    Raises:
        BitstreamError: If the first PPS or IDR slice is missing, ends early, or is not intra.
    """
    pps = next((nal for nal in picture.nals if nal_type(nal) == PPS), None)
    idr = next((nal for nal in picture.nals if nal_type(nal) in (IDR_W_RADL, IDR_N_LP)), None)
    if pps is None or idr is None:
        raise BitstreamError("the HEVC data hold no picture parameter set or no IDR slice")
    reader = BitReader(unescape(pps[2:]))
    reader.ue()
    reader.ue()
    reader.skip(1)
    output_flag, extra_bits = reader.flag(), reader.u(3)
    reader.skip(2)
    reader.ue()
    reader.ue()
    qp = 26 + reader.se()
    # The first 64 bytes hold any intra slice header up to the qp.
    reader = BitReader(unescape(idr[2:66]))
    if not reader.flag():
        raise BitstreamError("the first slice of the picture is missing")
    reader.skip(1)
    reader.ue()
    reader.skip(extra_bits)
    if reader.ue() != 2:
        raise BitstreamError("the slice of a still picture is not an intra slice")
    reader.skip(output_flag + picture.tools.sao * (1 if monochrome else 2))
    return qp + reader.se()
