"""The VVC codec: other encoders' streams to the bit, round trips of any size, bad input."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers import REGISTRY, get_codec
from codec_wrappers.base import CodingInfo, Image
from codec_wrappers.bits import split_nals
from codec_wrappers.color import (
    BT601,
    BT709,
    LEFT,
    YCbCrFormat,
    quantise_chroma,
    quantise_luma,
    rgb_to_ycbcr,
    rgb_to_yuv420,
)
from codec_wrappers.errors import BitstreamError, CodecError
from codec_wrappers.vvc import VvcCodec
from codec_wrappers.vvc_decoder import DecodedPlanes, decode_planes, to_image
from codec_wrappers.vvc_sei import parse_true_size
from codec_wrappers.vvc_sps import Vui
from codec_wrappers.vvc_syntax import read_headers

FOLDER = Path(__file__).parent / "data" / "vvc"
MD5 = {
    name: md5 for name, _, _, md5 in (line.split("\t") for line in (FOLDER / "md5.tsv").read_text().splitlines()[1:])
}
FAST = VvcCodec(preset="faster")


def psnr(a: Image, b: Image) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


@pytest.fixture(scope="module")
def small(photograph):
    return photograph[100:148, 180:244]


@pytest.fixture(scope="module")
def stream(small):
    return FAST.encode(small, 35)


@pytest.mark.parametrize("name", sorted(MD5))
def test_decoding_is_exact_every_time(name):
    """The sums are of another decoder, vvdec; two pictures are one coding tree unit wide."""
    data = (FOLDER / name).read_bytes()

    sums = {hashlib.md5(b"".join(p.tobytes() for p in decode_planes(data).planes)).hexdigest() for _ in range(20)}

    assert sums == {MD5[name]}


@pytest.mark.parametrize("preset", ["reference", "tuned", "faster", "fast", "medium", "slow", "slower"])
def test_every_preset_keeps_the_picture_and_says_its_qp(small, preset):
    decoded = VvcCodec(preset=preset).decode(VvcCodec(preset=preset).encode(small, 27))

    assert decoded.info == CodingInfo("vvc", qp=24, chroma="420", bit_depth=10)
    assert decoded.image.dtype == np.uint8
    assert psnr(decoded.image, small) > 34


@pytest.mark.parametrize("qp", [0, 1, 17, 50, 63])
def test_the_slice_qp_is_three_below(small, qp):
    assert FAST.decode(FAST.encode(small, qp)).info.qp == qp - 3


def test_a_larger_qp_costs_fewer_bits(small):
    sizes = [len(FAST.encode(small, qp)) for qp in (20, 28, 36, 44)]

    assert sizes == sorted(sizes, reverse=True)


def test_a_larger_lambda_costs_fewer_bits(picture):
    knob = VvcCodec.fine_knob
    sizes = [len(replace(FAST, lambda_scale=scale).encode(picture, 30)) for scale in (knob.low, 1.0, knob.high)]

    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.03 * sizes[2]


def test_tuned_serves_rgb_psnr(picture):
    reference, tuned = VvcCodec(), VvcCodec(preset="tuned")
    plain = reference.encode(picture, 32)

    better = next(b for qp in (32, 33, 34) if len(b := tuned.encode(picture, qp)) <= len(plain))

    assert psnr(tuned.decode(better).image, picture) > psnr(reference.decode(plain).image, picture)


@pytest.mark.parametrize("offset", [-12, 12])
def test_the_whole_range_of_chroma_offsets_decodes(small, offset):
    codec = replace(FAST, chroma_qp_offset=offset)

    assert psnr(codec.decode(codec.encode(small, 30)).image, small) > 28


@settings(max_examples=12)
@given(height=st.integers(1, 40), width=st.integers(1, 40), gray=st.booleans())
def test_any_size_and_gray_round_trip(height, width, gray):
    ramp = np.add.outer(5 * np.arange(height), 3 * np.arange(width)).clip(0, 255).astype(np.uint8)
    image = ramp if gray else np.stack([ramp, 255 - ramp, ramp // 2], -1)

    bitstream = FAST.encode(image, 12)
    decoded = FAST.decode(bitstream).image

    assert decoded.shape == image.shape
    assert psnr(decoded, image) > 38
    told = height % 2 or width % 2 or min(height, width) < 16 or gray
    assert (parse_true_size(split_nals(bitstream)) is not None) == bool(told)


@pytest.mark.parametrize("size", [(16, 4000), (4000, 16)], ids=str)
def test_extreme_shapes_round_trip(small, size):
    image = np.resize(small[:16, :16], (*size, 3))

    assert psnr(FAST.decode(FAST.encode(image, 30)).image, image) > 28


@pytest.mark.parametrize("size", [(16, 16), (48, 40)], ids=str)
def test_noise_gets_the_room_that_it_needs(size, rng):
    image = rng.integers(0, 256, size, dtype=np.uint8)

    bitstream = FAST.encode(image, 0)

    assert len(bitstream) > size[0] * size[1]
    assert psnr(FAST.decode(bitstream).image, image) > 45


def test_sixteen_bits_in_and_out():
    image = np.linspace(0, 65535, 64 * 48).reshape(64, 48).astype(np.uint16)
    codec = replace(FAST, output_depth=16)

    decoded = codec.decode(codec.encode(image, 5)).image

    assert decoded.dtype == np.uint16
    assert np.abs(decoded.astype(int) - image).max() < 200  # eight bits alone would be off by up to 128 before coding
    eight_bits = FAST.decode(codec.encode(image, 5))
    assert np.array_equal(np.rint(decoded / 257).astype(np.uint8), eight_bits.image)
    assert np.array_equal(eight_bits.unrounded(), decoded)


def test_eight_and_sixteen_bits_of_the_same_picture_make_the_same_stream(small):
    assert FAST.encode(small.astype(np.uint16) * 257, 30) == FAST.encode(small, 30)


def test_encoding_is_deterministic_and_the_input_is_left_alone(small):
    before = small.copy()

    assert FAST.encode(small, 30) == FAST.encode(small, 30)
    assert np.array_equal(small, before)


def coded(image: Image, form: YCbCrFormat, chroma: str, siting=LEFT) -> DecodedPlanes:
    """What a decoder would give of ``image`` in some format, coded without loss."""
    if chroma == "420":
        return DecodedPlanes(rgb_to_yuv420(image, form, siting=siting), "420", form.bit_depth, Vui())
    y, cb, cr = rgb_to_ycbcr(image / 255, form)
    planes = (quantise_luma(y, form), quantise_chroma(cb, form), quantise_chroma(cr, form))
    return DecodedPlanes(planes, "444", form.bit_depth, Vui())


@pytest.mark.parametrize("chroma", ["420", "444"])
@pytest.mark.parametrize(("matrix", "weights"), [(1, BT709), (5, BT601), (6, BT601)])
@pytest.mark.parametrize("full_range", [False, True])
def test_tagged_colour_is_honoured(picture, chroma, matrix, weights, full_range):
    planes = coded(picture, YCbCrFormat(*weights, full_range=full_range, bit_depth=10), chroma)
    assert psnr(to_image(planes, Vui(matrix, full_range, 0)), picture) > (50 if chroma == "444" else 42)
    assert psnr(to_image(planes, Vui(matrix, not full_range, 0)), picture) < 32


def test_untagged_pictures_are_limited_range_601_when_small_and_709_when_large(picture):
    limited_601 = YCbCrFormat(*BT601, full_range=False, bit_depth=10)
    assert psnr(to_image(coded(picture, limited_601, "444"), Vui()), picture) > 50

    large = np.resize(picture, (8, 1280, 3))
    limited_709 = YCbCrFormat(*BT709, full_range=False, bit_depth=10)
    assert psnr(to_image(coded(large, limited_709, "444"), Vui()), large) > 50


def test_identity_matrix_means_green_blue_red(picture):
    planes = tuple(picture[..., i] for i in (1, 2, 0))

    np.testing.assert_array_equal(to_image(DecodedPlanes(planes, "444", 8, Vui()), Vui(0, True)), picture)


def test_luma_alone_is_a_gray_picture(picture):
    planes = (picture[..., 0].astype(np.uint16) * 4 + 2,)

    image = to_image(DecodedPlanes(planes, "400", 10, Vui()), Vui(2, True))

    assert np.abs(image.astype(int) - picture[..., 0]).max() <= 1


def test_unknown_colour_is_an_error(picture):
    planes = coded(picture, YCbCrFormat(*BT601, full_range=True, bit_depth=10), "420")

    with pytest.raises(BitstreamError, match="matrix coefficients 14 are not supported"):
        to_image(planes, Vui(14, True))


def test_our_streams_say_how_they_hold_colour(stream):
    assert read_headers(split_nals(stream)).vui == Vui(matrix=5, full_range=True, chroma_location=1)


def test_a_cut_stream_is_an_error():
    data = (FOLDER / "130x98_medium_q37.266").read_bytes()

    for length in range(0, len(data), 3):
        with pytest.raises(CodecError):
            FAST.decode(data[:length])


@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_an_error_of_this_package_or_a_picture(stream, data):
    damaged = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "delete", "insert"]))
        if kind == "flip":
            damaged[position] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            damaged[position] = data.draw(st.integers(0, 255))
        elif kind == "delete":
            del damaged[position : position + data.draw(st.integers(1, 9))]
        else:
            damaged[position:position] = data.draw(st.binary(min_size=1, max_size=9))
        if not damaged:
            break
    codec = replace(FAST, max_pixels=1 << 20)

    try:
        image = codec.decode(bytes(damaged)).image
    except CodecError:
        return
    assert image.size <= 3 << 20


@given(st.binary(max_size=200))
def test_other_bytes_are_an_error(data):
    with pytest.raises(CodecError):
        FAST.decode(data)
    with pytest.raises(CodecError):
        FAST.decode(b"\0\0\1" + data)


def test_more_than_max_pixels_is_refused(stream):
    assert replace(FAST, max_pixels=64 * 48).decode(stream).image.shape == (48, 64, 3)
    with pytest.raises(BitstreamError, match="64 x 48 pixels, above the limit of 3071"):
        replace(FAST, max_pixels=64 * 48 - 1).decode(stream)


def test_what_could_not_be_decoded_again_is_not_encoded(small):
    with pytest.raises(ValueError, match="64 x 48 pixels are above the limit of 3072"):
        replace(FAST, max_pixels=3072).encode(small, 30)


def test_the_first_picture_of_several_is_returned(stream, small):
    other = FAST.encode(small[::-1], 35)

    np.testing.assert_array_equal(FAST.decode(stream + other).image, FAST.decode(stream).image)


@pytest.mark.parametrize(
    ("image", "qp", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), 64, "qp must be an integer in 0..63, got 64"),
        (np.zeros((8, 8, 3), np.uint8), -1, "qp must be an integer in 0..63, got -1"),
        (np.zeros((8, 8, 4), np.uint8), 30, r"got shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), 30, "at least one pixel"),
        (np.zeros((8, 8, 3), np.float32), 30, "uint8 or uint16, got float32"),
    ],
)
def test_wrong_arguments_are_named(image, qp, message):
    with pytest.raises(ValueError, match=message):
        FAST.encode(image, qp)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "placebo"}, "preset must be one of reference, tuned, faster, .*, got 'placebo'"),
        ({"backend": "x266"}, "backend must be one of ffmpeg, vvenc, vtm"),
        ({"backend": "vtm", "preset": "slow"}, "preset must be reference or tuned with backend vtm"),
        ({"output_depth": 10}, "output_depth must be one of 8, 16, got 10"),
        ({"lambda_scale": 0.0}, r"lambda_scale must be in 0.1..10"),
        ({"lambda_scale": float("nan")}, r"lambda_scale must be in 0.1..10"),
        ({"chroma_qp_offset": -13}, "chroma_qp_offset must be in -12..12, got -13"),
        ({"timeout_s": 0}, "timeout_s must be positive"),
        ({"max_pixels": 0}, "max_pixels must be positive"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        get_codec("vvc", **options)


def test_the_registry_knows_the_codec(stream):
    assert isinstance(get_codec("vvc"), VvcCodec)
    assert REGISTRY.by_suffix("a/b.266") == REGISTRY.by_suffix("B.VVC") == "vvc"
    assert REGISTRY.identify(stream[:64]) == "vvc"
    assert all(REGISTRY.identify((FOLDER / name).read_bytes()[:64]) == "vvc" for name in MD5)


@pytest.mark.parametrize(
    "head", [b"", b"\0\0\1", b"\0\0\1\x40\x01", b"\0\0\0\1\x46\1\x50", b"\x89PNG\r\n", b"\0\0\0\x18ftyp"]
)
def test_other_formats_are_not_taken_for_vvc(head):
    assert not VvcCodec.matches(head)


def test_the_probe_is_cheaper_and_keeps_what_moves_the_rate():
    probe = VvcCodec(preset="tuned", lambda_scale=1.1).probe()

    assert (probe.preset, probe.chroma_qp_offset, probe.lambda_scale) == ("faster", -6, 1.1)
    assert probe.probe() == probe


def test_the_probe_s_rate_is_near(picture):
    ratio = len(VvcCodec().encode(picture, 34)) / len(VvcCodec().probe().encode(picture, 34))

    assert 0.8 < ratio < 1.02


def test_instances_compare_and_pickle():
    codec = VvcCodec(preset="tuned", lambda_scale=1.1)

    assert pickle.loads(pickle.dumps(codec)) == codec != VvcCodec()
