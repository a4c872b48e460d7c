"""Sequence parameter sets of VVC streams (Rec. ITU-T H.266 (09/2023), 7.3.2.4).

A VVC header has no lengths to skip by: whoever wants its end reads all of it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from codec_wrappers.base import Chroma
from codec_wrappers.bits import BitReader, unescape
from codec_wrappers.errors import BitstreamError

_CHROMA: tuple[Chroma, ...] = ("400", "420", "422", "444")


@dataclass(frozen=True)
class Vui:
    """How samples are to be shown (H.274, 7.2); the codes are those of Rec. ITU-T H.273.

    Attributes:
        matrix: ``MatrixCoefficients``; 2 when the stream does not say.
        full_range: Whether samples use all codes.
        chroma_location: ``Chroma420SampleLocType``; 6 when the stream does not say.
    """

    matrix: int = 2
    full_range: bool = False
    chroma_location: int = 6


@dataclass(frozen=True)
class RefPicList:
    """What has to be known of a reference picture list to skip what follows it.

    Attributes:
        long_term_entries: Number of long-term entries.
        in_header: Whether the header that uses the list says which pictures these are.
    """

    long_term_entries: int
    in_header: bool


@dataclass
class Sps:
    """A sequence parameter set.

    Attributes:
        coded_width: Columns with the border that the conformance window cuts off.
        coded_height: Rows likewise.
        width: Columns that a decoder puts out.
        height: Rows likewise.
        complete: Whether all fields hold; False when a part of the set could not be followed, and then
            only chroma format and sizes do.

    The other fields carry what their names in the standard say.
    """

    chroma: Chroma = "420"
    log2_ctu: int = 5
    coded_width: int = 0
    coded_height: int = 0
    width: int = 0
    height: int = 0
    complete: bool = False
    bit_depth: int = 8
    poc_bits: int = 4
    poc_msb_bits: int = 0
    extra_ph_bits: int = 0
    extra_sh_bits: int = 0
    partition_override: bool = False
    dual_tree: bool = False
    max_transform_64: bool = False
    transform_skip: bool = False
    lfnst: bool = False
    joint_cbcr: bool = False
    sao: bool = False
    alf: bool = False
    ccalf: bool = False
    lmcs: bool = False
    weighted: bool = False
    long_term: bool = False
    idr_rpl: bool = False
    ref_pic_lists: list[list[RefPicList]] = field(default_factory=lambda: [[], []])
    scaling_list: bool = False
    virtual_boundaries_in_ph: bool = False
    vui: Vui = field(default_factory=Vui)


def read_sps(nal: bytes) -> tuple[int, Sps]:
    """Identifier and content of a sequence parameter set.

    Raises:
        BitstreamError: If it is damaged before the size.
    """
    bits = BitReader(unescape(nal[2:]))
    sps = Sps()
    key, vps_id, sublayers = bits.u(4), bits.u(4), bits.u(3)
    sps.chroma = _CHROMA[bits.u(2)]
    sps.log2_ctu = bits.u(2) + 5
    has_dpb = bits.flag()
    if has_dpb:
        _skip_profile_tier_level(bits, sublayers)
    bits.flag()  # sps_gdr_enabled_flag
    if bits.flag():  # sps_ref_pic_resampling_enabled_flag
        bits.flag()
    _read_size(bits, sps)
    with suppress(BitstreamError):  # what cannot be followed here may be right: the decoder judges
        _read_body(bits, sps, sublayers, has_dpb, vps_id)
        sps.complete = True
    return key, sps


def read_ref_pic_list(bits: BitReader, sps: Sps, in_header: bool | None) -> RefPicList:
    """``ref_pic_list_struct`` (7.3.10).

    Args:
        bits: Where it begins.
        sps: The set in force.
        in_header: None for a list of the SPS, which says itself; True for a list in a header.
    """
    entries = bits.ue()
    if entries > 29:
        raise BitstreamError(f"the header claims {entries} reference pictures")
    if in_header is None:
        in_header = sps.long_term and entries > 0 and bits.flag()
    long_term = 0
    for i in range(entries):
        if sps.long_term and not bits.flag():  # st_ref_pic_flag
            long_term += 1
            bits.skip(0 if in_header else sps.poc_bits)
            continue
        delta = bits.ue()
        if delta > 0 or not (sps.weighted and i > 0):
            bits.flag()  # strp_entry_sign_flag
    return RefPicList(long_term, in_header)


def _skip_profile_tier_level(bits: BitReader, sublayers: int) -> None:
    """7.3.3.1; ``sublayers`` is the number of sublayers minus 1."""
    bits.skip(7 + 1 + 8 + 1 + 1)
    if bits.flag():  # gci_present_flag
        bits.skip(71)
        bits.skip(bits.u(8))
    bits.align()
    present = [bits.flag() for _ in range(sublayers)]
    bits.align()
    bits.skip(8 * sum(present))
    bits.skip(32 * bits.u(8))


def _read_size(bits: BitReader, sps: Sps) -> None:
    sps.coded_width, sps.coded_height = bits.ue(), bits.ue()
    left = right = top = bottom = 0
    if bits.flag():  # sps_conformance_window_flag
        left, right, top, bottom = (bits.ue() for _ in range(4))
    across = 2 if sps.chroma in ("420", "422") else 1
    down = 2 if sps.chroma == "420" else 1
    sps.width = sps.coded_width - across * (left + right)
    sps.height = sps.coded_height - down * (top + bottom)
    if sps.width < 1 or sps.height < 1:
        raise BitstreamError(f"the header claims an empty picture, {sps.width} x {sps.height}")


def _read_body(bits: BitReader, sps: Sps, sublayers: int, has_dpb: bool, vps_id: int) -> None:
    if bits.flag():  # sps_subpic_info_present_flag
        raise BitstreamError("subpictures are not followed")
    sps.bit_depth = bits.ue() + 8
    if sps.bit_depth > 16:
        raise BitstreamError(f"the header claims {sps.bit_depth} bits per sample")
    bits.skip(2)  # entropy coding synchronisation, entry points
    sps.poc_bits = bits.u(4) + 4
    if bits.flag():  # sps_poc_msb_cycle_flag
        sps.poc_msb_bits = bits.ue() + 1
    sps.extra_ph_bits = sum(bits.flag() for _ in range(8 * bits.u(2)))
    sps.extra_sh_bits = sum(bits.flag() for _ in range(8 * bits.u(2)))
    if has_dpb:
        every_sublayer = sublayers > 0 and bits.flag()
        for _ in range(3 * (sublayers + 1 if every_sublayer else 1)):
            bits.ue()
    _read_partitions(bits, sps)
    _read_transforms(bits, sps)
    _read_filters(bits, sps)
    _read_ref_pic_lists(bits, sps, vps_id)
    _skip_inter_tools(bits)
    _read_intra_tools(bits, sps)
    if has_dpb and bits.flag():  # sps_timing_hrd_params_present_flag
        _skip_hrd(bits, sublayers)
    bits.flag()  # sps_field_seq_flag
    if bits.flag():  # sps_vui_parameters_present_flag
        bits.ue()
        bits.align()
        sps.vui = _read_vui(bits)


def _read_partitions(bits: BitReader, sps: Sps) -> None:
    bits.ue()  # sps_log2_min_luma_coding_block_size_minus2
    sps.partition_override = bits.flag()
    skip_split_limits(bits)
    sps.dual_tree = sps.chroma != "400" and bits.flag()
    if sps.dual_tree:
        skip_split_limits(bits)
    skip_split_limits(bits)
    sps.max_transform_64 = sps.log2_ctu > 5 and bits.flag()


def skip_split_limits(bits: BitReader) -> None:
    """Smallest quad-tree leaf and depth of the multi-type tree, and its limits if it is used."""
    bits.ue()
    if bits.ue():
        bits.ue()
        bits.ue()


def _read_transforms(bits: BitReader, sps: Sps) -> None:
    """Transforms and the tables from luma to chroma qp."""
    sps.transform_skip = bits.flag()
    if sps.transform_skip:
        bits.ue()
        bits.flag()
    if bits.flag():  # sps_mts_enabled_flag
        bits.skip(2)
    sps.lfnst = bits.flag()
    if sps.chroma == "400":
        return
    sps.joint_cbcr, same_table = bits.flag(), bits.flag()
    for _ in range(1 if same_table else 3 if sps.joint_cbcr else 2):
        bits.se()
        for _ in range(2 * (bits.ue() + 1)):
            bits.ue()


def _read_filters(bits: BitReader, sps: Sps) -> None:
    sps.sao = bits.flag()
    sps.alf = bits.flag()
    sps.ccalf = sps.alf and sps.chroma != "400" and bits.flag()
    sps.lmcs = bits.flag()


def _read_ref_pic_lists(bits: BitReader, sps: Sps, vps_id: int) -> None:
    sps.weighted = bits.u(2) != 0
    sps.long_term = bits.flag()
    if vps_id > 0 and bits.flag():  # sps_inter_layer_prediction_enabled_flag
        raise BitstreamError("prediction between layers is not followed")
    sps.idr_rpl = bits.flag()
    same = bits.flag()  # sps_rpl1_same_as_rpl0_flag
    for i in range(1 if same else 2):
        count = bits.ue()
        if count > 64:
            raise BitstreamError(f"the header claims {count} reference picture lists")
        sps.ref_pic_lists[i] = [read_ref_pic_list(bits, sps, None) for _ in range(count)]
    if same:
        sps.ref_pic_lists[1] = sps.ref_pic_lists[0]


def _skip_inter_tools(bits: BitReader) -> None:
    bits.flag()  # sps_ref_wraparound_enabled_flag
    if bits.flag():  # sps_temporal_mvp_enabled_flag
        bits.flag()
    amvr = bits.flag()
    if bits.flag():  # sps_bdof_enabled_flag
        bits.flag()
    bits.flag()  # sps_smvd_enabled_flag
    for _ in range(2):  # sps_dmvr_enabled_flag, sps_mmvd_enabled_flag
        if bits.flag():
            bits.flag()
    merge_candidates = 6 - bits.ue()
    bits.flag()  # sps_sbt_enabled_flag
    if bits.flag():  # sps_affine_enabled_flag
        bits.ue()
        bits.skip(2 if amvr else 1)
        if bits.flag():  # sps_affine_prof_enabled_flag
            bits.flag()
    bits.skip(2)  # sps_bcw_enabled_flag, sps_ciip_enabled_flag
    if merge_candidates >= 2 and bits.flag() and merge_candidates >= 3:  # sps_gpm_enabled_flag
        bits.ue()
    bits.ue()  # sps_log2_parallel_merge_level_minus2


def _read_intra_tools(bits: BitReader, sps: Sps) -> None:
    bits.skip(3)  # intra sub-partitions, several reference lines, matrix-based prediction
    bits.skip(0 if sps.chroma == "400" else 3 if sps.chroma == "420" else 1)  # cclm, chroma collocation
    palette = bits.flag()
    colour_transform = sps.chroma == "444" and not sps.max_transform_64 and bits.flag()
    if sps.transform_skip or palette:
        bits.ue()
    if bits.flag():  # sps_ibc_enabled_flag
        bits.ue()
    if bits.flag():  # sps_ladf_enabled_flag
        intervals = bits.u(2) + 1
        bits.se()
        for _ in range(intervals):
            bits.se()
            bits.ue()
    sps.scaling_list = bits.flag()
    if sps.scaling_list and sps.lfnst:
        bits.flag()
    if sps.scaling_list and colour_transform and bits.flag():
        bits.flag()
    bits.skip(2)  # dependent quantisation, sign data hiding
    if bits.flag():  # sps_virtual_boundaries_enabled_flag
        sps.virtual_boundaries_in_ph = not bits.flag()
        if not sps.virtual_boundaries_in_ph:
            skip_virtual_boundaries(bits)


def skip_virtual_boundaries(bits: BitReader) -> None:
    """Positions of vertical, then of horizontal boundaries."""
    for _ in range(2):
        for _ in range(bits.ue()):
            bits.ue()


def _skip_hrd(bits: BitReader, sublayers: int) -> None:
    """``general_timing_hrd_parameters`` and ``ols_timing_hrd_parameters`` (7.3.5)."""
    bits.skip(64)
    kinds = [bits.flag(), bits.flag()]  # NAL, VCL
    units = False
    schedules = 0
    if any(kinds):
        bits.flag()
        units = bits.flag()
        bits.skip(8 + 8 + 4 if units else 8)
        schedules = bits.ue() + 1
    every_sublayer = sublayers > 0 and bits.flag()
    for _ in range(sublayers + 1 if every_sublayer else 1):
        if bits.flag() or bits.flag():  # fixed picture rate: in general, within the sequence
            bits.ue()
        elif schedules == 1:
            bits.flag()
        for _ in range(schedules * sum(kinds)):
            for _ in range(4 if units else 2):
                bits.ue()
            bits.flag()


def _read_vui(bits: BitReader) -> Vui:
    """``vui_parameters`` (H.274, 7.2)."""
    progressive, interlaced = bits.flag(), bits.flag()
    bits.skip(2)
    if bits.flag():  # vui_aspect_ratio_info_present_flag
        bits.flag()
        if bits.u(8) == 255:
            bits.skip(32)
    if bits.flag():  # vui_overscan_info_present_flag
        bits.flag()
    matrix, full_range, location = 2, False, 6
    if bits.flag():  # vui_colour_description_present_flag
        bits.skip(16)
        matrix, full_range = bits.u(8), bits.flag()
    if bits.flag():  # vui_chroma_loc_info_present_flag
        location = bits.ue()
        if not progressive or interlaced:
            bits.ue()  # the bottom field's
    return Vui(matrix, full_range, location)
