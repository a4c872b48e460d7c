from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.base import Metadata
from codec_wrappers.bpg_container import (
    COLOR_SPACES,
    FORMATS,
    BpgFile,
    BpgHeader,
    read_file,
    read_header,
    read_tools,
    ue7,
    write_file,
    write_header,
    write_tools,
)
from codec_wrappers.errors import BitstreamError
from codec_wrappers.hevc_syntax import RANGE_FLAGS, CodingTools, HevcPicture, PcmSettings

DATA = Path(__file__).parent / "data" / "bpg"

payloads = st.none() | st.binary(max_size=300)


@st.composite
def headers(draw):
    chroma, left_sited = draw(st.sampled_from(FORMATS))
    extra = draw(st.sampled_from(["none", "alpha", "premultiplied", "w"]))
    return BpgHeader(
        width=draw(st.integers(1, 1 << 31)),
        height=draw(st.integers(1, 1 << 31)),
        chroma=chroma,
        left_sited=left_sited,
        bit_depth=draw(st.integers(8, 14)),
        color_space="bt601" if chroma == "400" else draw(st.sampled_from(COLOR_SPACES)),
        limited_range=draw(st.booleans()),
        alpha=extra in ("alpha", "premultiplied"),
        premultiplied=extra == "premultiplied",
        extra_plane_is_w=extra == "w",
        animated=draw(st.booleans()),
        metadata=Metadata(draw(payloads), draw(payloads), draw(payloads)),
    )


@st.composite
def tools(draw):
    log2_ctb = draw(st.integers(4, 6))
    log2_min_cb = draw(st.integers(3, log2_ctb))
    log2_min_tb = draw(st.integers(2, min(log2_min_cb - 1, 5)))
    pcm = st.builds(
        PcmSettings, st.integers(1, 16), st.integers(1, 16), st.integers(3, 5), st.integers(0, 2), st.booleans()
    )
    return CodingTools(
        log2_min_cb,
        log2_ctb,
        log2_min_tb,
        draw(st.integers(log2_min_tb, min(log2_ctb, 5))),
        draw(st.integers(0, log2_ctb - log2_min_tb)),
        draw(st.booleans()),
        draw(st.none() | pcm),
        draw(st.booleans()),
        frozenset(draw(st.sets(st.sampled_from(RANGE_FLAGS)))),
    )


@given(header=headers(), picture=st.binary(min_size=1, max_size=50))
def test_a_header_reads_back_as_it_was_written(header, picture):
    assert read_header(write_header(header, picture)) == (header, picture)


@given(value=tools())
def test_coding_tools_read_back_as_they_were_written(value):
    assert read_tools(write_tools(value)) == value


@given(color=tools(), alpha=tools(), header=headers())
def test_a_file_reads_back_as_it_was_written(color, alpha, header):
    pps, idr = bytes([34 << 1, 1, 0xC1]), bytes([19 << 1, 1, 0xAF, 7])
    file = BpgFile(
        header,
        HevcPicture(color, (pps, idr)),
        HevcPicture(alpha, (pps, idr + b"alpha")) if header.extra_plane else None,
    )

    assert read_file(write_file(file)) == file


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.bpg")))
def test_headers_of_the_reference_encoder_are_written_back_byte_by_byte(name):
    data = (DATA / f"{name}.bpg").read_bytes()
    file = read_file(data)
    header, picture = read_header(data)
    length = ue7(len(picture))

    # bpgenc writes 0 in place of the length.
    assert write_header(header, picture).replace(length + picture, b"\0" + picture) == data
    assert picture.startswith(ue7(len(write_tools((file.alpha or file.color).tools))))
    assert write_tools((file.alpha or file.color).tools) in picture[:8]


@pytest.mark.parametrize(("value", "expected"), [(0, "00"), (127, "7f"), (128, "8100"), (16384, "818000")])
def test_numbers_are_coded_in_base_128_highest_group_first(value, expected):
    assert ue7(value).hex() == expected


def test_alpha_nal_units_are_marked_as_layer_1_and_come_first():
    picture = read_header((DATA / "rgba_420.bpg").read_bytes())[1]
    file = read_file((DATA / "rgba_420.bpg").read_bytes())

    assert file.alpha is not None
    marked = bytes([file.alpha.nals[0][0], file.alpha.nals[0][1] | 8]) + file.alpha.nals[0][2:]
    assert picture.index(marked) < picture.index(file.color.nals[0])
    assert read_header(write_file(file))[1].index(marked) == picture.index(marked)


def test_parameter_sets_that_would_contradict_the_header_are_ignored():
    file = read_file((DATA / "420.bpg").read_bytes())
    rogue = bytes([33 << 1, 1]) + b"\x01\x02\x03"
    with_sps = dataclasses.replace(file, color=HevcPicture(file.color.tools, (rogue, *file.color.nals)))

    assert read_file(write_file(with_sps)) == file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"PNG" + data[3:], "not a BPG file"),
        (lambda data: data[:4] + b"\xc0" + data[5:], "unknown pixel format"),
        (lambda data: data[:5] + b"\x50" + data[6:], "unknown pixel format, colour space"),
        (lambda data: data[:6] + b"\x80" + data[7:], "number in the BPG header is malformed"),
        (lambda data: data[:9] + ue7(5000) + data[10:], "shorter than its header says"),
        (lambda data: data[:5], "ends too early"),
        (lambda data: data[:14], "ends too early|no picture|no start code"),
    ],
)
def test_malformed_files_are_refused_with_the_reason(change, message):
    data = (DATA / "420.bpg").read_bytes()

    with pytest.raises(BitstreamError, match=message):
        read_file(change(data))
