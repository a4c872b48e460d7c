"""The BPG codec as a whole. The files in data/bpg were made by bpgenc (libbpg 0.9.8, JCTVC encoder), the PNGs
beside them by bpgdec."""

from __future__ import annotations

import dataclasses
import itertools
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers import get_codec, identify
from codec_wrappers.base import Image, Metadata
from codec_wrappers.bpg import BpgCodec
from codec_wrappers.bpg_container import BpgFile, read_file, write_file
from codec_wrappers.errors import BitstreamError, CodecError

DATA = Path(__file__).parent / "data" / "bpg"
VECTORS = sorted(path.stem for path in DATA.glob("*.bpg"))


def vector(name: str) -> bytes:
    return (DATA / f"{name}.bpg").read_bytes()


def psnr(a: Image, b: Image) -> float:
    full = float(np.iinfo(a.dtype).max)
    error = np.mean((a / full - b / np.iinfo(b.dtype).max) ** 2)
    return float("inf") if error == 0 else -10 * float(np.log10(error))


@pytest.fixture(scope="module")
def small(picture: Image) -> Image:
    return np.ascontiguousarray(picture[:53, :71])


def with_alpha(image: Image) -> Image:
    """``image`` with an alpha plane that rises from left to right and is never near zero."""
    full = np.iinfo(image.dtype).max
    ramp = np.linspace(0.3, 1, image.shape[1]) * full
    alpha = np.broadcast_to(ramp.astype(image.dtype), image.shape[:2])
    return np.dstack([image, alpha])


@pytest.mark.parametrize("name", VECTORS)
def test_files_of_the_reference_encoder_decode_to_the_pixels_of_the_reference_decoder(name):
    expected = imagecodecs.png_decode((DATA / f"{name}.png").read_bytes())

    image = BpgCodec(output_depth=8).decode(vector(name)).image

    if image.ndim == 2:  # bpgdec writes gray pictures as RGB
        image = np.dstack([image] * 3)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("name", "qp", "chroma", "bit_depth"),
    [
        ("420", 29, "420", 8),
        ("q0", 0, "420", 8),
        ("q51", 51, "420", 8),
        ("422", 29, "422", 8),
        ("rgba_444", 29, "444", 8),
        ("gray_alpha", 29, "400", 8),
        ("12bit_420", 29, "420", 12),
    ],
)
def test_the_bitstream_tells_qp_chroma_and_depth(name, qp, chroma, bit_depth):
    info = BpgCodec().decode(vector(name)).info

    assert (info.codec, info.qp, info.chroma, info.bit_depth) == ("bpg", qp, chroma, bit_depth)


@pytest.mark.parametrize("name", ["10bit_420", "12bit_420"])
def test_deep_files_decode_to_16_bits_that_agree_with_the_8_bit_output(name):
    fine = BpgCodec().decode(vector(name)).image
    coarse = BpgCodec(output_depth=8).decode(vector(name)).image

    assert fine.dtype == np.uint16
    assert len(np.unique(fine)) > 300
    assert np.abs(fine / 257 - coarse).max() < 0.51


def test_8_bit_files_can_be_decoded_to_16_bits():
    coarse = BpgCodec().decode(vector("420")).image
    fine = BpgCodec(output_depth=16).decode(vector("420")).image

    assert coarse.dtype == np.uint8
    assert np.abs(fine / 257 - coarse).max() < 0.51


def test_gray_files_stay_gray_unless_they_have_alpha():
    assert BpgCodec().decode(vector("gray")).image.ndim == 2
    assert BpgCodec().decode(vector("gray_alpha")).image.shape[2] == 4


VARIANTS = [
    *({"chroma": c, "bit_depth": d} for c, d in itertools.product(("420", "422", "444"), (8, 10, 12))),
    *({"chroma": c, "chroma_siting": "left"} for c in ("420", "422")),
    *({"chroma": c, "color_space": s} for c, s in itertools.product(("420", "444"), ("bt709", "bt2020", "ycgco"))),
    {"chroma": "444", "color_space": "rgb"},
    {"chroma": "444", "color_space": "rgb", "limited_range": True},
    {"chroma": "444", "color_space": "ycgco", "limited_range": True},
    {"limited_range": True},
    {"limited_range": True, "bit_depth": 10},
    {"preset": "tuned"},
    {"preset": "tuned", "chroma": "444"},
]


@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_variant_comes_back_close_to_the_original(small, options, alpha):
    image = with_alpha(small) if alpha else small
    codec = BpgCodec(**{"preset": "fast", **options})

    decoded = codec.decode(codec.encode(image, 8))

    assert decoded.image.shape == image.shape
    assert decoded.image.dtype == (np.uint8 if codec.bit_depth == 8 else np.uint16)
    assert (decoded.info.chroma, decoded.info.bit_depth, decoded.info.qp) == (codec.chroma, codec.bit_depth, 8)
    # Fine coloured detail is lost with subsampled chroma, whatever the qp.
    assert psnr(image[..., :3], decoded.image[..., :3]) > (44 if codec.chroma == "444" else 37)
    if alpha:
        assert psnr(image[..., 3], decoded.image[..., 3]) > 48


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_premultiplied_colours_come_back_divided_by_alpha(small, bit_depth):
    codec = BpgCodec("fast", chroma="444", bit_depth=bit_depth, premultiplied=True)
    image = with_alpha(small)

    bitstream = codec.encode(image, 4)

    assert read_file(bitstream).header.premultiplied
    assert psnr(image, codec.decode(bitstream).image) > 42


def test_where_premultiplied_alpha_is_zero_colours_become_white(small):
    codec = BpgCodec("fast", lossless=False, premultiplied=True)
    image = with_alpha(small)
    image[..., 3] = 0

    decoded = codec.decode(codec.encode(image, 20)).image

    assert (decoded[..., :3] == 255).all()
    assert (decoded[..., 3] == 0).all()


@pytest.mark.parametrize("bit_depth", [10, 12])
@pytest.mark.parametrize("shape", ["gray", "rgb", "rgba"])
def test_16_bit_pictures_keep_more_than_8_bits(small, bit_depth, shape):
    deep = small.astype(np.uint16) * 256 + np.arange(small.shape[1], dtype=np.uint16)[None, :, None]
    image = {"gray": deep[..., 0], "rgb": deep, "rgba": with_alpha(deep)}[shape]
    codec = BpgCodec("fast", chroma="444", bit_depth=bit_depth)

    decoded = codec.decode(codec.encode(image, 0)).image

    assert decoded.dtype == np.uint16
    assert psnr(image, decoded) > 52


@pytest.mark.parametrize("shape", ["gray", "rgb", "rgba"])
def test_lossless_is_exact(small, shape):
    image = {"gray": small[..., 1], "rgb": small, "rgba": with_alpha(small)}[shape]
    codec = BpgCodec(preset="fast", lossless=True)

    np.testing.assert_array_equal(codec.decode(codec.encode(image, 30)).image, image)


@settings(max_examples=25)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    options=st.fixed_dictionaries(
        {
            "chroma": st.sampled_from(["420", "422", "444"]),
            "chroma_siting": st.sampled_from(["center", "left"]),
            "bit_depth": st.sampled_from([8, 10]),
        }
    ),
    channels=st.sampled_from([0, 3, 4]),
)
def test_any_size_comes_back_in_its_size_and_colour(height, width, options, channels):
    shape = (height, width, channels) if channels else (height, width)
    image = np.full(shape, 90, np.uint8)
    if channels:
        image[..., :] = (200, 90, 30, 160)[:channels]
    codec = BpgCodec("fast", output_depth=8, **options)

    decoded = codec.decode(codec.encode(image, 12)).image

    assert decoded.shape == shape
    assert np.abs(decoded.astype(int) - image).max() <= 3


@pytest.mark.parametrize("preset", ["reference", "tuned", "fast"])
@pytest.mark.parametrize("size", [(1, 1), (8, 24), (24, 20), (31, 70), (40, 33)], ids=str)
def test_every_preset_codes_small_pictures(small, preset, size):
    codec, image = BpgCodec(preset=preset), small[: size[0], : size[1]]

    assert psnr(codec.decode(codec.encode(image, 10)).image, image) > 30


@pytest.mark.parametrize("size", [(1, 3000), (3000, 2), (16, 9000)])
def test_long_thin_pictures_are_coded(size):
    image = np.full((*size, 3), 77, np.uint8)
    codec = BpgCodec(preset="fast")

    decoded = codec.decode(codec.encode(image, 30)).image

    assert np.abs(decoded.astype(int) - 77).max() <= 3


def test_a_lower_qp_costs_more_bits_and_gives_a_better_picture(small):
    codec = BpgCodec()
    streams = [codec.encode(small, qp) for qp in (45, 35, 25, 15)]
    quality = [psnr(small, codec.decode(stream).image) for stream in streams]

    assert [len(stream) for stream in streams] == sorted(len(stream) for stream in streams)
    assert quality == sorted(quality)
    assert [codec.decode(stream).info.qp for stream in streams] == [45, 35, 25, 15]


@pytest.mark.parametrize("bit_depth", [8, 10, 12])
@pytest.mark.parametrize("qp", [0, 21, 51])
def test_the_slice_has_the_qp_that_was_asked_for(small, bit_depth, qp):
    codec = BpgCodec("fast", bit_depth=bit_depth)

    assert codec.decode(codec.encode(small, qp)).info.qp == qp


@pytest.mark.parametrize("preset", ["reference", "tuned", "fast"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_a_larger_lambda_costs_fewer_bits(small, preset, bit_depth):
    codec = BpgCodec(preset=preset, bit_depth=bit_depth)
    scales = (0.7, 0.85, 1.0, 1.18, 1.4)

    sizes = [len(dataclasses.replace(codec, lambda_scale=scale).encode(small, 32)) for scale in scales]

    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.1 * sizes[-1]


def test_a_lambda_scale_leaves_no_trace_in_later_encodings(small):
    before = BpgCodec().encode(small, 32)
    scaled = BpgCodec(lambda_scale=1.4).encode(small, 32)

    assert BpgCodec().encode(small, 32) == before != scaled


def test_tuned_gives_a_better_picture_at_the_same_size(picture):
    def curve(preset):
        codec = BpgCodec(preset=preset)
        streams = [codec.encode(picture, qp) for qp in range(37, 29, -2)]
        return np.log([len(data) for data in streams]), [psnr(picture, codec.decode(data).image) for data in streams]

    sizes = np.log([600, 700, 800, 900])
    gain = np.interp(sizes, *curve("tuned")) - np.interp(sizes, *curve("reference"))

    assert gain.mean() > 0.1


def test_metadata_come_back(small):
    metadata = Metadata(exif=b"MM\0*\0\0\0\x08", icc=bytes(range(256)) * 20, xmp=b"")
    codec = BpgCodec(preset="fast")

    assert codec.decode(codec.encode(small, 40, metadata=metadata)).metadata == metadata
    assert not codec.decode(codec.encode(small, 40)).metadata


def test_the_w_plane_of_a_cmyk_file_darkens_its_colours(small):
    codec = BpgCodec(preset="fast", chroma="444", color_space="rgb")
    file = read_file(codec.encode(np.dstack([small, np.full(small.shape[:2], 128, np.uint8)]), 4))
    header = dataclasses.replace(file.header, alpha=False, extra_plane_is_w=True)

    decoded = codec.decode(write_file(BpgFile(header, file.color, file.alpha))).image

    assert decoded.shape == small.shape
    assert np.abs(decoded - small / 2.0).mean() < 1.5


def test_the_first_picture_of_an_animation_is_decoded():
    file = read_file(vector("rgba_420"))

    def twice(part):
        return dataclasses.replace(part, nals=part.nals * 2)

    header = dataclasses.replace(file.header, animated=True)
    animation = write_file(BpgFile(header, twice(file.color), twice(file.alpha)))

    decoded = BpgCodec().decode(animation).image

    np.testing.assert_array_equal(decoded, BpgCodec().decode(vector("rgba_420")).image)


@pytest.mark.parametrize("depth", [11, 13, 14])
def test_depths_that_no_decoder_here_reads_are_refused_by_name(depth):
    file = read_file(vector("10bit_420"))
    changed = dataclasses.replace(file, header=dataclasses.replace(file.header, bit_depth=depth))

    with pytest.raises(BitstreamError, match=f"{depth} bits cannot be decoded"):
        BpgCodec().decode(write_file(changed))


def test_lossless_files_with_subsampled_chroma_are_refused_rather_than_decoded_wrongly():
    file = read_file(vector("lossless_rgb"))
    header = dataclasses.replace(file.header, chroma="420", color_space="bt601")

    with pytest.raises(BitstreamError, match="lossless"):
        BpgCodec().decode(write_file(dataclasses.replace(file, header=header)))


def test_a_picture_above_the_limit_is_refused_before_decoding():
    file = read_file(vector("420"))
    huge = dataclasses.replace(file, header=dataclasses.replace(file.header, width=60000, height=60000))

    with pytest.raises(BitstreamError, match="60000 x 60000"):
        BpgCodec().decode(write_file(huge))
    with pytest.raises(BitstreamError, match="131 x 97"):
        BpgCodec(max_pixels=10_000).decode(vector("420"))


def test_a_size_that_so_few_bytes_cannot_hold_is_refused():
    file = read_file(vector("420"))
    large = dataclasses.replace(file, header=dataclasses.replace(file.header, width=10_000, height=10_000))

    with pytest.raises(BitstreamError, match="too short for a picture of 10000 x 10000"):
        BpgCodec().decode(write_file(large))


@pytest.mark.parametrize("name", ["420", "422", "444", "rgba_420"])
def test_the_unrounded_picture_is_the_picture_within_a_step_and_has_its_alpha(name):
    decoded = BpgCodec().decode(vector(name))

    unrounded = decoded.unrounded()

    assert (unrounded.shape, unrounded.dtype) == (decoded.image.shape, np.uint16)
    difference = unrounded / 257 - decoded.image
    assert np.abs(difference[..., :3]).max() < 2
    assert 0.05 < np.mean(difference[..., :3] ** 2) < 0.5
    if name == "rgba_420":
        np.testing.assert_array_equal(np.rint(unrounded[..., 3] / 257), decoded.image[..., 3])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chroma": "444"},
        {"chroma": "422", "chroma_siting": "left"},
        {"limited_range": True},
        {"bit_depth": 10, "output_depth": 8},
        {"bit_depth": 12, "chroma": "422", "output_depth": 8},
    ],
    ids=str,
)
def test_the_unrounded_picture_is_nearer_to_the_original(photograph, options):
    original = np.ascontiguousarray(photograph[:127, :129])
    codec = BpgCodec("fast", **options)
    decoded = codec.decode(codec.encode(original, 4))

    before, after = (np.mean((p - original) ** 2.0) for p in (decoded.image, decoded.unrounded() / 257))

    assert after < before - 0.05


@pytest.mark.parametrize(("name", "depth"), [("420", 16), ("gray", "auto"), ("lossless_rgb", "auto")])
def test_whole_numbers_and_16_bits_have_nothing_finer(name, depth):
    assert BpgCodec(output_depth=depth).decode(vector(name)).unrounded() is None


@pytest.mark.parametrize("name", ["420", "lossless_rgb", "rgba_444"])
def test_truncated_files_of_the_reference_encoder_are_noticed(name):
    data = vector(name)

    for length in range(0, len(data) - 8, max(1, len(data) // 60)):
        with pytest.raises(BitstreamError):
            BpgCodec().decode(data[:length])


def test_every_truncation_of_an_own_file_is_noticed(small):
    data = BpgCodec(preset="fast").encode(small, 40)

    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            BpgCodec().decode(data[:length])


@pytest.mark.parametrize("name", ["1x1", "q51", "gray_alpha", "lossless_rgb", "md5_sei"])
def test_damaged_files_raise_nothing_but_codec_errors(name, rng):
    data = vector(name)
    codec = BpgCodec(max_pixels=1 << 20)

    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            damaged[int(len(data) * rng.random() ** 2)] = rng.integers(256)  # mostly near the headers
        with suppress(CodecError):
            assert codec.decode(bytes(damaged)).image.size > 0


@pytest.mark.parametrize("data", [b"", b"BPG", b"BPG\xfb", b"\x89PNG\r\n\x1a\n" + bytes(50), b"BPG\xfb" + bytes(100)])
def test_what_is_no_bpg_file_is_refused(data):
    with pytest.raises(BitstreamError):
        BpgCodec().decode(data)


def test_bpg_files_are_identified_by_magic():
    assert identify(vector("420")) == "bpg"
    assert not BpgCodec.matches(b"BPG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, "preset must be one of"),
        ({"chroma": "400"}, "chroma must be one of"),
        ({"bit_depth": 11}, "bit_depth must be one of"),
        ({"color_space": "srgb"}, "color_space must be one of"),
        ({"color_space": "rgb"}, "needs chroma '444'"),
        ({"output_depth": 12}, "output_depth must be one of"),
        ({"lambda_scale": 0.0}, "lambda_scale must be"),
        ({"max_pixels": 0}, "max_pixels must be positive, got 0"),
        ({"timeout_s": 0}, "timeout_s must be positive, got 0"),
        ({"backend": "libbpg", "preset": "tuned"}, "backend 'libbpg'"),
    ],
)
def test_wrong_options_are_refused_with_the_allowed_ones(options, message):
    with pytest.raises(ValueError, match=message):
        get_codec("bpg", **options)


def test_wrong_pictures_are_refused(small):
    with pytest.raises(ValueError, match="qp must be"):
        BpgCodec().encode(small, 52)
    with pytest.raises(ValueError, match="uint8"):
        BpgCodec().encode(small.astype(np.uint16), 30)
    with pytest.raises(ValueError, match="shape"):
        BpgCodec().encode(small[..., :2], 30)
    with pytest.raises(ValueError, match="at least one pixel"):
        BpgCodec().encode(small[:0], 30)
