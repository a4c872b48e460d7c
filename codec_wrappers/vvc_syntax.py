"""What the headers of a VVC stream say about its first picture (Rec. ITU-T H.266 (09/2023), 7.3.2, 7.3.7).

Everything up to the slice quantisation parameter has to be read in order. What only video uses
(subpictures, several rectangular slices, inter pictures, layers) is not followed: the size is still
known then, and the qp is reported as None.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from codec_wrappers.base import Chroma
from codec_wrappers.bits import BitReader, unescape
from codec_wrappers.errors import BitstreamError
from codec_wrappers.vvc_sps import (
    RefPicList,
    Sps,
    Vui,
    read_ref_pic_list,
    read_sps,
    skip_split_limits,
    skip_virtual_boundaries,
)

IDR, CRA, GDR, LAST_SLICE = (7, 8), 9, 10, 11  # NAL unit types, H.266 table 5
SPS, PPS, PICTURE_HEADER, PREFIX_SEI = 15, 16, 19, 23

_SLICE_HEAD = 4096  # bytes within which a slice header ends


@dataclass(frozen=True)
class StreamHeaders:
    """What the headers say about the first picture of a stream.

    Attributes:
        width: Columns that a decoder puts out.
        height: Rows that a decoder puts out.
        chroma: Chroma format.
        bit_depth: Bits per sample; None when the SPS could not be followed.
        vui: How samples are to be shown; None likewise.
        qp: Quantisation parameter of the first slice; None when the headers could not be followed.
    """

    width: int
    height: int
    chroma: Chroma
    bit_depth: int | None
    vui: Vui | None
    qp: int | None


@dataclass
class Pps:
    """A picture parameter set; fields as their names in the standard say."""

    output_flag: bool = False
    rpl1_idx: bool = False
    init_qp: int = 26
    cu_qp_delta: bool = False
    chroma_offsets: bool = False
    cu_chroma_qp_offsets: bool = False
    deblocking_disabled: bool = False
    deblocking_in_ph: bool = False
    sao_in_ph: bool = False
    rpl_in_ph: bool = False
    alf_in_ph: bool = False
    qp_delta_in_ph: bool = False
    ph_extension: bool = False


@dataclass(frozen=True)
class PictureHeader:
    """What the slice header needs of the picture header; ``qp_delta`` is 0 if slices carry it."""

    qp_delta: int
    lmcs: bool
    scaling_list: bool


def nal_type(nal: bytes) -> int:
    """``nal_unit_type`` of a NAL unit with its two-byte header (7.3.1.2); -1 if it is cut off."""
    return nal[1] >> 3 if len(nal) > 1 else -1


def sequence_sets(nals: Iterable[bytes]) -> list[Sps]:
    """All sequence parameter sets of a stream.

    Raises:
        BitstreamError: If one is damaged before the size.
    """
    return [read_sps(nal)[1] for nal in nals if nal_type(nal) == SPS and _in_base_layer(nal)]


def read_headers(nals: Iterable[bytes]) -> StreamHeaders:
    """What the headers before and in the first slice say.

    Raises:
        BitstreamError: If a parameter set that the first slice needs is missing or has no size.
    """
    sequence: dict[int, Sps] = {}
    pictures: dict[int, bytes] = {}
    picture_header = b""
    for nal in filter(_in_base_layer, nals):
        kind = nal_type(nal)
        if kind == SPS:
            key, sps = read_sps(nal)
            sequence[key] = sps
        elif kind == PPS:
            pictures[BitReader(unescape(nal[2:])).u(6)] = unescape(nal[2:])
        elif kind == PICTURE_HEADER:
            picture_header = unescape(nal[2:])
        elif 0 <= kind <= LAST_SLICE:
            return _first_picture(nal, picture_header, sequence, pictures)
    raise BitstreamError("the stream has no slice")


def _first_picture(
    nal: bytes, picture_header: bytes, sequence: dict[int, Sps], pictures: dict[int, bytes]
) -> StreamHeaders:
    """The headers that apply to the slice ``nal``."""
    bits = BitReader(unescape(nal[2:_SLICE_HEAD]))
    header_in_slice = bits.flag()
    header = bits if header_in_slice else BitReader(picture_header)
    pps_id, intra_only = _read_ph_start(header)
    if pps_id not in pictures:
        raise BitstreamError(f"the first picture refers to a missing picture parameter set, {pps_id}")
    sps_id = BitReader(pictures[pps_id]).u(10) & 15
    if sps_id not in sequence:
        raise BitstreamError(f"the first picture refers to a missing sequence parameter set, {sps_id}")
    sps = sequence[sps_id]
    if not sps.complete:
        return StreamHeaders(sps.width, sps.height, sps.chroma, None, None, None)
    qp = None
    if intra_only:
        with suppress(BitstreamError):  # what cannot be followed here may be right: the decoder judges
            qp = _slice_qp(bits, nal_type(nal), None if header_in_slice else header, sps, pictures[pps_id])
    return StreamHeaders(sps.width, sps.height, sps.chroma, sps.bit_depth, sps.vui, qp)


def _slice_qp(bits: BitReader, kind: int, header: BitReader | None, sps: Sps, pps_payload: bytes) -> int:
    """``SliceQpY`` of an intra slice (H.266, 7.4.8).

    Args:
        bits: The slice, after ``ph_pic_parameter_set_id`` or, with ``header``, where that flag says no.
        kind: Type of the slice's NAL unit.
        header: The picture header after that element if it stands in a NAL unit of its own.
        sps: The sequence parameter set.
        pps_payload: The picture parameter set.
    """
    pps = _read_pps(BitReader(pps_payload), sps)
    ph = _read_ph_rest(header or bits, sps, pps)
    delta = ph.qp_delta if pps.qp_delta_in_ph else _read_slice_qp_delta(bits, kind, sps, pps, ph if header else None)
    qp = pps.init_qp + delta
    if not -6 * (sps.bit_depth - 8) <= qp <= 63:
        raise BitstreamError(f"the first slice claims qp {qp}")
    return qp


def _in_base_layer(nal: bytes) -> bool:
    return nal[0] & 63 == 0


def _read_pps(bits: BitReader, sps: Sps) -> Pps:
    """7.3.2.5."""
    pps = Pps()
    bits.skip(6 + 4 + 1)
    width, height = bits.ue(), bits.ue()
    for _ in range(2):  # conformance window, scaling window
        if bits.flag():
            for _ in range(4):
                bits.ue()
    pps.output_flag = bits.flag()
    partitioned = not bits.flag()
    if bits.flag():  # pps_subpic_id_mapping_present_flag
        raise BitstreamError("subpictures are not followed")
    if partitioned:
        _skip_tiles(bits, _in_ctus(width, sps), _in_ctus(height, sps))
    bits.flag()  # pps_cabac_init_present_flag
    bits.ue()
    bits.ue()
    pps.rpl1_idx = bits.flag()
    weighted = bits.u(2) != 0
    if bits.flag():  # pps_ref_wraparound_enabled_flag
        bits.ue()
    pps.init_qp = 26 + bits.se()
    pps.cu_qp_delta = bits.flag()
    pps.chroma_offsets = bits.flag()
    if pps.chroma_offsets:
        pps.cu_chroma_qp_offsets = _skip_chroma_qp_offsets(bits)
    _read_deblocking(bits, pps, partitioned)
    if partitioned:
        pps.rpl_in_ph = bits.flag()
        pps.sao_in_ph = bits.flag()
        pps.alf_in_ph = bits.flag()
        if weighted and pps.rpl_in_ph:
            bits.flag()
        pps.qp_delta_in_ph = bits.flag()
    pps.ph_extension = bits.flag()
    return pps


def _in_ctus(samples: int, sps: Sps) -> int:
    return (samples - 1 >> sps.log2_ctu) + 1


def _skip_tiles(bits: BitReader, width: int, height: int) -> None:
    """Tiles of a picture of ``width`` x ``height`` coding tree units with a single slice."""
    bits.skip(2)
    columns, rows = bits.ue() + 1, bits.ue() + 1
    first_column = bits.ue() + 1
    for _ in range(columns - 1):
        bits.ue()
    first_row = bits.ue() + 1
    for _ in range(rows - 1):
        bits.ue()
    several = columns * rows > 1 or first_column < width or first_row < height
    rectangular = not several or bits.u(2) & 1 == 1  # after pps_loop_filter_across_tiles_enabled_flag
    if not rectangular:
        raise BitstreamError("raster-scan slices are not followed")
    if bits.flag():  # pps_single_slice_per_subpic_flag
        bits.flag()  # pps_loop_filter_across_slices_enabled_flag
    elif bits.ue() > 0:  # pps_num_slices_in_pic_minus1
        raise BitstreamError("several slices are not followed")


def _skip_chroma_qp_offsets(bits: BitReader) -> bool:
    """Returns ``pps_cu_chroma_qp_offset_list_enabled_flag``."""
    bits.se()
    bits.se()
    joint = bits.flag()
    if joint:
        bits.se()
    bits.flag()  # pps_slice_chroma_qp_offsets_present_flag
    lists = bits.flag()
    if lists:
        for _ in range((bits.ue() + 1) * (3 if joint else 2)):
            bits.se()
    return lists


def _read_deblocking(bits: BitReader, pps: Pps, partitioned: bool) -> None:
    if not bits.flag():  # pps_deblocking_filter_control_present_flag
        return
    override = bits.flag()
    pps.deblocking_disabled = bits.flag()
    pps.deblocking_in_ph = partitioned and override and bits.flag()
    if not pps.deblocking_disabled:
        _skip_deblocking_offsets(bits, pps)


def _skip_deblocking_offsets(bits: BitReader, pps: Pps) -> None:
    for _ in range(6 if pps.chroma_offsets else 2):
        bits.se()


def _read_ph_start(bits: BitReader) -> tuple[int, bool]:
    """Identifier of the picture parameter set, and whether the picture has only intra slices (7.3.2.8)."""
    irap = bits.flag()
    bits.flag()  # ph_non_ref_pic_flag
    gradual_refresh = irap and bits.flag()
    inter_allowed = bits.flag()
    if inter_allowed:
        bits.flag()  # ph_intra_slice_allowed_flag
    return bits.ue(), not (gradual_refresh or inter_allowed)


def _read_ph_rest(bits: BitReader, sps: Sps, pps: Pps) -> PictureHeader:
    """The picture header of an intra picture from the picture order count on."""
    bits.skip(sps.poc_bits + sps.extra_ph_bits)
    if sps.poc_msb_bits and bits.flag():
        bits.skip(sps.poc_msb_bits)
    if sps.alf and pps.alf_in_ph:
        _skip_alf(bits, sps)
    lmcs = sps.lmcs and bits.flag()
    if lmcs:
        bits.skip(2 if sps.chroma == "400" else 3)
    scaling_list = sps.scaling_list and bits.flag()
    if scaling_list:
        bits.skip(3)
    if sps.virtual_boundaries_in_ph and bits.flag():
        skip_virtual_boundaries(bits)
    if pps.output_flag:
        bits.flag()
    if pps.rpl_in_ph:
        _skip_ref_pic_lists(bits, sps, pps)
    if sps.partition_override and bits.flag():
        for _ in range(2 if sps.dual_tree else 1):
            skip_split_limits(bits)
    for used in (pps.cu_qp_delta, pps.cu_chroma_qp_offsets):
        if used:
            bits.ue()
    qp_delta = bits.se() if pps.qp_delta_in_ph else 0
    if sps.joint_cbcr:
        bits.flag()  # ph_joint_cbcr_sign_flag
    if sps.sao and pps.sao_in_ph:
        bits.skip(1 if sps.chroma == "400" else 2)
    # ph_deblocking_params_present_flag, ph_deblocking_filter_disabled_flag
    if pps.deblocking_in_ph and bits.flag() and not (pps.deblocking_disabled or bits.flag()):
        _skip_deblocking_offsets(bits, pps)
    if pps.ph_extension:
        bits.skip(8 * bits.ue())
    return PictureHeader(qp_delta, lmcs, scaling_list)


def _read_slice_qp_delta(bits: BitReader, kind: int, sps: Sps, pps: Pps, ph: PictureHeader | None) -> int:
    """``sh_qp_delta`` of the only slice of an intra picture (7.3.7).

    Args:
        bits: After the picture header, or its absence.
        kind: Type of the NAL unit.
        sps: The sequence parameter set.
        pps: The picture parameter set.
        ph: The picture header if it stands in a NAL unit of its own.
    """
    bits.skip(sps.extra_sh_bits)
    if kind in (*IDR, CRA, GDR):
        bits.flag()  # sh_no_output_of_prior_pics_flag
    if sps.alf and not pps.alf_in_ph:
        _skip_alf(bits, sps)
    if ph:
        bits.skip(int(ph.lmcs) + int(ph.scaling_list))
    if not pps.rpl_in_ph and (kind not in IDR or sps.idr_rpl):
        _skip_ref_pic_lists(bits, sps, pps)
    return bits.se()


def _skip_alf(bits: BitReader, sps: Sps) -> None:
    """Switches and parameter sets of the adaptive loop filter."""
    if not bits.flag():
        return
    bits.skip(3 * bits.u(3))
    if sps.chroma != "400" and bits.u(2):
        bits.skip(3)
    if sps.ccalf:
        for _ in range(2):
            if bits.flag():
                bits.skip(3)


def _skip_ref_pic_lists(bits: BitReader, sps: Sps, pps: Pps) -> None:
    """``ref_pic_lists`` (7.3.9)."""
    from_sps, index = False, 0
    for i in range(2):
        known = sps.ref_pic_lists[i]
        if i == 0 or pps.rpl1_idx:
            from_sps = bool(known) and bits.flag()
            index = bits.u((len(known) - 1).bit_length()) if from_sps else 0
        elif not known:
            from_sps = False
        if from_sps and index >= len(known):
            raise BitstreamError("a picture refers to a missing reference picture list")
        chosen: RefPicList = known[index] if from_sps else read_ref_pic_list(bits, sps, in_header=True)
        for _ in range(chosen.long_term_entries):
            bits.skip(sps.poc_bits if chosen.in_header else 0)
            if bits.flag():  # delta_poc_msb_cycle_present_flag
                bits.ue()
