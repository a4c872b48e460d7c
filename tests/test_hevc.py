from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.bits import BitWriter, escape
from codec_wrappers.bpg_container import read_file
from codec_wrappers.errors import BitstreamError, CodecError
from codec_wrappers.hevc import X265Settings, decode_intra, encode_intra
from codec_wrappers.hevc_heif import decode_heif, wrap_heif
from codec_wrappers.hevc_syntax import (
    IDR_N_LP,
    PPS,
    CodingTools,
    HevcPicture,
    PcmSettings,
    Sps,
    parse_sps,
    slice_qp,
    write_sps,
    write_vps,
)
from tests.test_bpg_container import tools

DATA = Path(__file__).parent / "data" / "bpg"


@given(
    chroma=st.integers(0, 3),
    size=st.tuples(st.integers(1, 1 << 16), st.integers(1, 1 << 16)),
    depth=st.integers(8, 14),
    value=tools(),
)
def test_an_sps_reads_back_as_it_was_written(chroma, size, depth, value):
    sps = Sps(chroma, *size, depth, depth, value)
    nal = write_sps(sps)

    assert parse_sps(nal) == sps
    assert b"\0\0\1" not in nal
    assert b"\0\0\0" not in nal


def test_an_sps_with_sub_layers_reference_sets_and_vui_is_read_to_its_end():
    """Everything that encoders put before the extension flags, with values of the definition's syntax tables."""
    writer = BitWriter()
    writer.u(4, 0)
    writer.u(3, 1)  # two sub-layers
    writer.flag(True)
    writer.u(48, 0)
    writer.u(48, 0)
    writer.u(2, 0b11)  # sub-layer profile and level present
    writer.u(14, 0)
    writer.u(48, 0)
    writer.u(48, 0)
    for value in (0, 1, 72, 40):  # id, chroma format, width, height
        writer.ue(value)
    writer.flag(True)  # conformance window
    for value in (0, 1, 0, 2, 2, 2, 4):  # ... depths, poc bits
        writer.ue(value)
    writer.flag(True)
    for value in (1, 0, 0, 4, 2, 5):
        writer.ue(value)
    for value in (0, 3, 0, 3, 1, 2):  # block sizes, inter depth, intra depth
        writer.ue(value)
    writer.u(4, 0b0010)  # no scaling lists, no amp, sao, no pcm
    writer.ue(1)  # one reference set: one negative, one positive picture
    for value in (1, 1):
        writer.ue(value)
    for _ in range(2):
        writer.ue(3)
        writer.flag(True)
    writer.u(3, 0b001)  # no long-term, no temporal mvp, strong smoothing
    _write_vui(writer)
    writer.u(9, 0b110000000)  # extension: range
    writer.u(9, 0b001000010)
    writer.trailing()

    sps = parse_sps(bytes([66, 1]) + escape(writer.to_bytes()))

    flags = frozenset({"implicit_rdpcm", "persistent_rice_adaptation"})
    assert sps == Sps(1, 72, 40, 10, 10, CodingTools(3, 6, 2, 5, 2, True, None, True, flags))


def _write_vui(writer):
    writer.u(2, 0b11)  # VUI; aspect ratio
    writer.u(8, 255)
    writer.u(32, 0)
    writer.u(2, 0b10)  # overscan
    writer.u(6, 0b110101)  # video signal type, with colour description
    writer.u(24, 0)
    writer.flag(True)  # chroma location
    writer.ue(2)
    writer.ue(2)
    writer.u(4, 0b0001)  # default display window
    for value in (1, 2, 3, 4):
        writer.ue(value)
    writer.flag(True)  # timing
    writer.u(64, 0)
    writer.flag(True)
    writer.ue(9)
    writer.flag(True)  # HRD
    writer.u(3, 0b101)  # NAL, no VCL, sub-pictures
    writer.u(19, 0)
    writer.u(8 + 4 + 15, 0)
    writer.flag(True)  # first sub-layer: fixed rate
    writer.ue(0)
    writer.ue(1)  # two buffers
    for _ in range(2):
        for value in (5, 6, 7, 8):
            writer.ue(value)
        writer.flag(False)
    writer.u(3, 0b001)  # second sub-layer: not fixed, low delay
    for value in (5, 6, 7, 8):
        writer.ue(value)
    writer.flag(False)
    writer.flag(True)  # bitstream restriction
    writer.u(3, 0)
    for value in (0, 1, 2, 3, 4):
        writer.ue(value)


@given(data=st.binary(max_size=120))
def test_any_bytes_as_an_sps_are_read_or_refused(data):
    with suppress(BitstreamError):
        assert parse_sps(b"\x42\x01" + data).width >= 0


@pytest.mark.parametrize(
    "change",
    [{"log2_min_cb": 7}, {"log2_ctb": 3}, {"log2_min_tb": 3}, {"log2_max_tb": 6}, {"transform_depth": 5}],
    ids=str,
)
def test_block_sizes_that_hevc_does_not_allow_are_refused(change):
    valid = {"log2_min_cb": 3, "log2_ctb": 6, "log2_min_tb": 2, "log2_max_tb": 5, "transform_depth": 4}
    rest = {"sao": True, "pcm": PcmSettings(8, 8, 3, 0, False), "strong_smoothing": True}
    CodingTools(**valid, **rest).check()

    with pytest.raises(BitstreamError, match="block sizes"):
        CodingTools(**{**valid, **change}, **rest).check()


def picture_with(init_qp: int, delta: int, *, sao: bool, monochrome: bool, extra_bits: int, slice_type: int = 2):
    pps, idr = BitWriter(), BitWriter()
    for value in (0, 0):
        pps.ue(value)
    pps.u(2, 0b01)  # output_flag_present
    pps.u(3, extra_bits)
    pps.u(2, 0)
    for value in (0, 0):
        pps.ue(value)
    pps.se(init_qp - 26)
    pps.trailing()
    idr.u(2, 0b10)
    idr.ue(0)
    idr.u(extra_bits, 0)
    idr.ue(slice_type)
    idr.flag(True)
    idr.u(sao * (1 if monochrome else 2), 0)
    idr.se(delta)
    idr.trailing()
    tools = CodingTools(3, 6, 2, 5, 1, sao, None, True)
    nals = (bytes([PPS << 1, 1]) + pps.to_bytes(), bytes([IDR_N_LP << 1, 1]) + idr.to_bytes())
    return HevcPicture(tools, nals)


@given(
    init_qp=st.integers(-12, 51),
    delta=st.integers(-60, 60),
    sao=st.booleans(),
    monochrome=st.booleans(),
    extra_bits=st.integers(0, 3),
)
def test_the_slice_qp_is_the_sum_of_both_parts(init_qp, delta, sao, monochrome, extra_bits):
    picture = picture_with(init_qp, delta, sao=sao, monochrome=monochrome, extra_bits=extra_bits)

    assert slice_qp(picture, monochrome=monochrome) == init_qp + delta


def test_a_slice_that_is_not_intra_is_refused():
    with pytest.raises(BitstreamError, match="not an intra slice"):
        slice_qp(picture_with(30, 0, sao=True, monochrome=False, extra_bits=0, slice_type=1), monochrome=False)


def test_the_video_parameter_set_has_no_start_code_inside():
    assert b"\0\0\1" not in write_vps()
    assert b"\0\0\0" not in write_vps()


@pytest.mark.parametrize("name", ["444", "gray", "rgb_444", "ycgco_444"])
def test_libde265_and_ffmpeg_decode_the_same_samples(name):
    file = read_file((DATA / f"{name}.bpg").read_bytes())
    size = (file.header.height, file.header.width)
    coded = file.color.tools.coded_size(*size)
    sps = Sps(0 if name == "gray" else 3, coded[1], coded[0], 8, 8, file.color.tools)

    by_ffmpeg = decode_intra(file.color, file.header.chroma, 8, size)
    by_libde265 = decode_heif(wrap_heif(file.color.nals, sps), sps)

    for a, b in zip(by_ffmpeg, by_libde265, strict=True):
        np.testing.assert_array_equal(a, b[: size[0], : size[1]])


def test_lossless_planes_of_any_odd_size_come_back_exactly(rng):
    planes = [rng.integers(0, 1024, (37, 51)).astype(np.uint16) for _ in range(3)]

    picture = encode_intra(planes, "444", 10, 30, X265Settings("ultrafast"), lossless=True)

    for decoded, plane in zip(decode_intra(picture, "444", 10, (37, 51)), planes, strict=True):
        np.testing.assert_array_equal(decoded, plane)


def test_a_colon_in_the_name_of_the_temporary_folder_does_no_harm(tmp_path, monkeypatch):
    plane = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    expected = encode_intra([plane], "400", 8, 30, X265Settings("ultrafast", lambda_scale=1.3))
    folder = tmp_path / "a:b 'c\\ d=e"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    assert encode_intra([plane], "400", 8, 30, X265Settings("ultrafast", lambda_scale=1.3)) == expected
    assert not list(folder.iterdir())


def test_a_missing_temporary_folder_is_a_codec_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    with pytest.raises(CodecError, match="cannot write x265's lambda file"):
        encode_intra([np.zeros((16, 16), np.uint8)], "400", 8, 30, X265Settings("ultrafast"))
