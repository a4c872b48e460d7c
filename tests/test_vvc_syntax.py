"""Headers and the SEI message of VVC streams, against other encoders' streams and hand-made ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.bits import BitWriter, escape, join_nals, split_nals, unescape
from codec_wrappers.errors import BitstreamError, CodecError
from codec_wrappers.process import run_tool
from codec_wrappers.vvc import VvcCodec
from codec_wrappers.vvc_programs import find_ffmpeg
from codec_wrappers.vvc_sei import TrueSize, insert_true_size, parse_true_size, sei_messages, serialise_true_size
from codec_wrappers.vvc_sps import Vui
from codec_wrappers.vvc_syntax import PREFIX_SEI, nal_type, read_headers, sequence_sets

VECTORS = sorted((Path(__file__).parent / "data" / "vvc").glob("*.266"))


def vvenc(image, *options: str, frames: int = 1, params: str = "") -> bytes:
    """A stream that libvvenc makes of the red samples of ``image`` as luma, with neutral chroma."""
    height, width = image.shape[:2]
    raw = (image[..., 0].astype("<u2") * 4).tobytes() + b"\0\2" * (height * width // 2)
    command = [
        *(find_ffmpeg(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", f"{width}x{height}"),
        *("-r", "25", "-i", "-", "-c:v", "libvvenc", "-preset", "faster", "-threads", "1", *options),
        # ALFSpeed=0 keeps a warning off standard output, which is the stream here.
        *("-vvenc-params", f"ALFSpeed=0:{params}" if params else "ALFSpeed=0"),
        *("-f", "vvc", "-"),
    ]
    return run_tool(command, stdin=raw * frames, timeout_s=60)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_headers_tell_size_depth_colour_and_qp(path):
    width, height, qp = (int(re.search(p, path.name)[1]) for p in (r"^(\d+)x", r"x(\d+)_", r"_q(\d+)"))

    headers = read_headers(split_nals(path.read_bytes()))

    assert (headers.width, headers.height, headers.chroma, headers.bit_depth) == (width, height, "420", 10)
    assert headers.vui == Vui(matrix=5, full_range=True, chroma_location=6)
    assert headers.qp == qp - 3


def test_slice_qp_is_found_behind_the_structures_of_video(picture):
    # Random access with five pictures: reference lists in the SPS and an adaptation parameter set.
    stream = vvenc(picture, "-qp", "30", "-qpa", "0", frames=5)

    headers = read_headers(split_nals(stream))

    assert (headers.width, headers.height, headers.qp) == (128, 96, 27)


@pytest.mark.parametrize(
    ("params", "vui"),
    [
        ("MatrixCoefficients=bt709:ColourPrimaries=bt709:TransferCharacteristics=bt709", Vui(1, False, 6)),
        ("Range=full:MatrixCoefficients=bt2020nc", Vui(9, True, 6)),
        ("AspectRatioInfoPresent=1:AspectRatioIdc=255:SarWidth=3:SarHeight=2", Vui()),
        ("chromalocinfopresent=1:ChromaSampleLocType=2:MatrixCoefficients=smpte170m", Vui(6, False, 2)),
    ],
)
def test_vui_is_read(picture, params, vui):
    assert read_headers(split_nals(vvenc(picture, "-qp", "40", "-g", "1", params=params))).vui == vui


@pytest.mark.parametrize("tiles", ["2x1", "1x2", "2x2"])
def test_slice_qp_is_found_behind_tiles(picture, tiles):
    image = np.tile(picture, (2, 2, 1))  # one unit of 128 would leave nothing to divide

    stream = vvenc(image, "-qp", "45", "-qpa", "0", "-g", "1", params=f"Level=5.1:CTUSize=64:Tiles={tiles}")

    assert read_headers(split_nals(stream)).qp == 42


def test_bit_depth_is_read(picture):
    stream = vvenc(picture, "-qp", "33", "-qpa", "0", "-g", "1", params="internal-bitdepth=8")

    headers = read_headers(split_nals(stream))

    assert (headers.bit_depth, headers.qp) == (8, 30)


def header_of_size(width: int, height: int) -> bytes:
    """Start of a sequence parameter set that claims a size, then ends."""
    bits = BitWriter()
    for length, value in ((4, 0), (4, 0), (3, 0), (2, 1), (2, 2), (1, 0), (1, 0), (1, 0)):
        bits.u(length, value)
    bits.ue(width)
    bits.ue(height)
    bits.u(9, 0)
    return bytes([0, 15 << 3 | 1]) + escape(bits.to_bytes())


def test_a_huge_claim_is_refused_before_decoding():
    nals = [header_of_size(60000, 60000), *split_nals(VECTORS[0].read_bytes())]

    assert (sequence_sets(nals)[0].width, sequence_sets(nals)[0].complete) == (60000, False)
    with pytest.raises(BitstreamError, match="claims 60000 x 60000 pixels, above the limit of 80216064"):
        VvcCodec().decode(join_nals(nals))


def test_a_stream_of_parameter_sets_alone_is_an_error():
    nals = [nal for nal in split_nals(VECTORS[0].read_bytes()) if nal_type(nal) > 11]

    with pytest.raises(BitstreamError, match="no slice"):
        read_headers(nals)


@pytest.mark.parametrize(("kind", "name"), [(15, "sequence"), (16, "picture")])
def test_a_missing_parameter_set_is_named(kind, name):
    nals = [nal for nal in split_nals(VECTORS[0].read_bytes()) if nal_type(nal) != kind]

    with pytest.raises(BitstreamError, match=f"missing {name} parameter set, 0"):
        read_headers(nals)


@given(width=st.integers(1, 70000), height=st.integers(1, 70000), gray=st.booleans())
def test_the_size_message_reads_back_and_is_a_valid_nal_unit(width, height, gray):
    true = TrueSize(width, height, gray)
    nal = serialise_true_size(true)

    assert parse_true_size([nal]) == true
    assert nal_type(nal) == PREFIX_SEI
    assert not re.search(rb"\0\0[\0-\2]", nal)
    assert split_nals(join_nals([nal])) == [nal]


def test_the_size_message_stands_before_the_first_slice_and_changes_no_pixel():
    stream = VECTORS[0].read_bytes()
    marked = insert_true_size(stream, TrueSize(101, 55))

    assert len(marked) - len(stream) < 32
    kinds = [nal_type(nal) for nal in split_nals(marked)]
    assert kinds[kinds.index(PREFIX_SEI) + 1] == 8
    whole, part = VvcCodec().decode(stream).image, VvcCodec().decode(marked).image
    assert part.shape == (55, 101, 3)
    assert (part == whole[:55, :101]).all()


def test_messages_of_others_are_passed_over():
    other = b"\x05\x10" + bytes(range(16))  # user data with another identifier
    long = b"\xff\x01\xff\x03" + bytes(258)  # type 256, size 258
    ours = unescape(serialise_true_size(TrueSize(7, 9))[2:])
    rbsp = other + long + ours

    assert [(kind, len(payload)) for kind, payload in sei_messages(rbsp)][:2] == [(5, 16), (256, 258)]
    assert parse_true_size([b"\0\xb9" + escape(rbsp)]) == TrueSize(7, 9)
    assert parse_true_size([b"\0\xb9" + escape(other + b"\x80")]) is None


@pytest.mark.parametrize("true", [TrueSize(131, 98), TrueSize(130, 99), TrueSize(0, 5)], ids=str)
def test_a_size_message_beyond_the_picture_is_an_error(true):
    stream = insert_true_size((VECTORS[0].parent / "130x98_medium_q37.266").read_bytes(), true)

    with pytest.raises(BitstreamError, match=f"{true.width} x {true.height} pixels inside 130 x 98"):
        VvcCodec().decode(stream)


@given(data=st.data())
def test_damaged_headers_are_an_error_of_this_package_or_none(data):
    nals = split_nals(VECTORS[0].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, 2))
        nal = bytearray(nals[index])
        nal[data.draw(st.integers(1, min(len(nal), 60) - 1))] = data.draw(st.integers(0, 255))
        nals[index] = bytes(nal)

    try:
        headers = read_headers(nals)
    except CodecError:
        return
    assert headers.qp is None or -12 <= headers.qp <= 63 or headers.bit_depth != 10
