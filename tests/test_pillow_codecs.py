import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import psnr
from PIL import Image as PillowImage

from codec_wrappers import REGISTRY, Decoded, Metadata, get_codec, identify
from codec_wrappers.errors import BitstreamError, CodecError
from codec_wrappers.heif_codecs import AvifCodec, HeicCodec
from codec_wrappers.jpeg2000 import Jpeg2000Codec
from codec_wrappers.orientation import exif_orientation, with_orientation
from codec_wrappers.pillow_codecs import JpegCodec, WebpCodec

CODECS = [JpegCodec(), WebpCodec(), AvifCodec(), HeicCodec(preset="fast"), Jpeg2000Codec()]
HIGH = {"jpeg": 95, "webp": 95, "avif": 95, "heic": 95, "jpeg2000": 450}
MIDDLE = {"jpeg": 50, "webp": 50, "avif": 50, "heic": 50, "jpeg2000": 330}

each_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


@pytest.fixture(scope="module")
def exif():
    block = PillowImage.Exif()
    block[0x010F] = "Maker"
    block.get_ifd(0x8769)[0x829A] = 0.01
    return block.tobytes().removeprefix(b"Exif\0\0")


@pytest.fixture(scope="module")
def metadata(exif):
    return Metadata(exif=exif, icc=bytes(range(256)) * 300, xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")


@pytest.fixture(scope="module")
def streams(photograph, metadata):
    """One small colour bitstream of each codec, with metadata."""
    small = np.ascontiguousarray(photograph[100:164, 150:278])
    short = Metadata(metadata.exif, metadata.icc[:200], metadata.xmp)
    return {codec.name: codec.encode(small, MIDDLE[codec.name], metadata=short) for codec in CODECS}


@each_codec
def test_a_photograph_comes_back_close_and_more_quality_costs_more_bytes(codec, picture):
    qps = np.linspace(codec.qp_range.low, codec.qp_range.high, 7).astype(int).tolist()
    bitstreams = [codec.encode(picture, qp) for qp in qps]
    pictures = [codec.decode(bitstream) for bitstream in bitstreams]

    sizes = [len(bitstream) for bitstream in bitstreams]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4 * sizes[0]
    assert psnr(pictures[-1].image, picture) > 38 > 32 > psnr(pictures[0].image, picture)
    assert all(decoded.info.codec == codec.name and decoded.info.bit_depth == 8 for decoded in pictures)
    assert codec.encode(picture, qps[3]) == bitstreams[3]


@each_codec
@settings(max_examples=12)
@given(height=st.integers(1, 70), width=st.integers(1, 70), gray=st.booleans())
def test_any_size_is_kept(codec, photograph, height, width, gray):
    image = np.ascontiguousarray(photograph[90 : 90 + height, 120 : 120 + width, 1 if gray else slice(None)])
    decoded = codec.decode(codec.encode(image, HIGH[codec.name])).image
    assert decoded.dtype == np.uint8
    if gray and codec.name == "webp":
        assert decoded.shape == (height, width, 3)  # WebP has no gray pictures
        decoded = decoded[..., 0]
    assert decoded.shape == image.shape
    assert psnr(decoded, image) > 30 or height * width < 30


@each_codec
def test_metadata_come_back_as_they_were(codec, picture, metadata):
    bitstream = codec.encode(picture, MIDDLE[codec.name], metadata=metadata)
    assert codec.decode(bitstream).metadata == metadata
    assert not codec.decode(codec.encode(picture, MIDDLE[codec.name])).metadata


@pytest.mark.parametrize("codec", CODECS[:4], ids=lambda codec: codec.name)
def test_pillow_reads_the_same_metadata(codec, picture, metadata):
    import pillow_heif

    bitstream = codec.encode(picture, 50, metadata=metadata)
    if codec.name == "heic":
        info = pillow_heif.open_heif(bitstream).info
    else:
        with PillowImage.open(io.BytesIO(bitstream)) as file:
            info = dict(file.info)
    assert info["exif"].removeprefix(b"Exif\0\0") == metadata.exif
    assert info["icc_profile"] == metadata.icc
    assert info["xmp"] == metadata.xmp


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("codec", [AvifCodec(speed=10), HeicCodec(preset="ultrafast")], ids=lambda codec: codec.name)
def test_the_orientation_is_a_property_of_the_file_and_the_pixels_stay_as_stored(codec, picture, exif, orientation):
    import pillow_heif

    metadata = Metadata(exif=with_orientation(exif, orientation))
    bitstream = codec.encode(picture, 80, metadata=metadata)
    decoded = codec.decode(bitstream)
    assert exif_orientation(decoded.metadata.exif) == orientation
    assert decoded.image.shape == picture.shape
    assert psnr(decoded.image, picture) > 30
    if codec.name == "heic":  # libheif displays the file as the EXIF orientation says
        shown = np.asarray(pillow_heif.open_heif(bitstream))
        with PillowImage.fromarray(decoded.image) as stored:
            stored.getexif()[0x0112] = orientation
            from PIL.ImageOps import exif_transpose

            assert np.array_equal(np.asarray(exif_transpose(stored)), shown)


@each_codec
def test_the_decoded_pixels_are_those_of_pillow(codec, picture):
    import pillow_heif

    bitstream = codec.encode(picture, MIDDLE[codec.name])
    if codec.name == "heic":
        expected = np.asarray(pillow_heif.open_heif(bitstream))
    else:
        expected = np.asarray(PillowImage.open(io.BytesIO(bitstream)))
    assert np.array_equal(codec.decode(bitstream).image, expected)


@pytest.mark.parametrize("chroma", ["420", "422", "444"])
@pytest.mark.parametrize("codec_class", [JpegCodec, AvifCodec, HeicCodec])
def test_the_chroma_format_is_coded_and_reported(codec_class, picture, chroma):
    codec = codec_class(chroma=chroma)
    assert codec.decode(codec.encode(picture, 90)).info.chroma == chroma
    assert codec.decode(codec.encode(picture[..., 0], 90)).info.chroma == "400"


def test_444_keeps_more_colour_than_420():
    red_lines = np.zeros((32, 32, 3), np.uint8)
    red_lines[:, ::2, 0] = 255
    for codec_class in (JpegCodec, AvifCodec, HeicCodec):
        results = {chroma: codec_class(chroma=chroma) for chroma in ("420", "444")}
        quality = {c: psnr(codec.decode(codec.encode(red_lines, 95)).image, red_lines) for c, codec in results.items()}
        assert quality["444"] > quality["420"] + 6, codec_class


@pytest.mark.parametrize("codec", [WebpCodec(), AvifCodec(), HeicCodec(preset="fast")], ids=lambda codec: codec.name)
def test_alpha_comes_back(codec, picture):
    rgba = np.dstack([picture, picture[..., 1]])
    decoded = codec.decode(codec.encode(rgba, 90)).image
    assert decoded.shape == rgba.shape
    assert psnr(decoded[..., 3], rgba[..., 3]) > 38
    assert psnr(decoded[..., :3], picture) > 30
    if codec.name == "webp":
        assert np.array_equal(decoded[..., 3], rgba[..., 3])


def test_webp_keeps_the_colour_under_transparent_pixels(picture):
    hidden = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    assert psnr(WebpCodec().decode(WebpCodec().encode(hidden, 90)).image[..., :3], picture) > 30


@pytest.mark.parametrize("shape", [..., (..., 0)], ids=["rgb", "gray"])
def test_deep_pictures_stay_deep(picture, shape):
    deep = picture.astype(np.uint16) * 257 - (picture.astype(np.uint16) % 7) * 30
    deep = np.ascontiguousarray(deep[shape])
    for codec, depth in ((HeicCodec(chroma="444"), 10), (Jpeg2000Codec(), 16)):
        decoded = codec.decode(codec.encode(deep, codec.qp_range.high))
        assert decoded.image.dtype == np.uint16
        assert decoded.image.shape == deep.shape
        assert decoded.info.bit_depth == depth
        assert psnr(decoded.image, deep) > 48


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_avif_files_are_scaled_to_the_full_range(picture, bits):
    import imagecodecs

    peak = (1 << bits) - 1
    samples = np.round(picture / 255 * peak).astype(np.uint16)
    samples[:16, :16] = peak
    bitstream = imagecodecs.avif_encode(samples, level=95, speed=8, bitspersample=bits, pixelformat="yuv444")
    decoded = AvifCodec().decode(bytes(bitstream))
    assert decoded.info.bit_depth == bits
    assert decoded.image.dtype == np.uint16
    assert decoded.image[:12, :12].min() > 65535 * 0.99
    assert psnr(decoded.image, np.round(samples / peak * 65535).astype(np.uint16)) > 38


def test_each_bitstream_is_recognised_by_one_codec_only(streams):
    for name, stream in streams.items():
        assert identify(stream) == name
        assert [c.name for c in REGISTRY if c.matches(stream[:64])] == [name]


@pytest.mark.parametrize(
    ("major", "compatible", "expected"),
    [
        (b"avif", [b"mif1", b"miaf"], "avif"),
        (b"mif1", [b"avif", b"miaf"], "avif"),
        (b"mif1", [b"heic", b"mif1"], "heic"),
        (b"heix", [b"mif1", b"heix"], "heic"),
        (b"heic", [b"avif"], "heic"),
        (b"mp42", [b"isom"], None),
        (b"qt  ", [], None),
    ],
)
def test_avif_and_heic_are_told_apart_by_their_brands(major, compatible, expected):
    content = major + bytes(4) + b"".join(compatible)
    head = struct.pack(">I", 8 + len(content)) + b"ftyp" + content + bytes(40)
    matching = [codec.name for codec in CODECS if codec.matches(head[:64])]
    assert matching == ([expected] if expected else [])


@pytest.mark.parametrize(
    "head", [b"BPG\xfb\0\0", b"\0\0\0\1\0\x79", b"\0\0\1\x40\1", b"\x89PNG\r\n\x1a\n", b"", b"\xff\xd8"]
)
def test_other_bitstreams_are_not_claimed(head):
    assert not any(codec.matches(head) for codec in CODECS)


def decode_or_error(codec, data) -> Decoded | CodecError:
    """The decoded picture, or the one exception that decoding may raise."""
    try:
        return codec.decode(data)
    except CodecError as error:
        return error


@each_codec
def test_a_truncated_bitstream_never_gives_a_picture(codec, streams):
    stream = streams[codec.name]
    cuts = {0, 1, 2, 3, 11, 12, len(stream) - 1, *range(0, len(stream), max(1, len(stream) // 60))}
    for cut in sorted(cuts):
        with pytest.raises(BitstreamError):
            codec.decode(stream[:cut])


@each_codec
@settings(max_examples=300)
@given(data=st.data())
def test_a_mutated_bitstream_decodes_or_is_refused_in_one_line(codec, streams, data):
    stream = bytearray(streams[codec.name])
    near_the_front = st.integers(0, min(len(stream), 250) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.one_of(near_the_front, st.integers(0, len(stream) - 1)))
        length = data.draw(st.sampled_from([1, 1, 1, 2, 4, 16]))
        stream[position : position + length] = data.draw(st.binary(min_size=0, max_size=length))
    limited = get_codec(codec.name, max_pixels=1 << 20)
    outcome = decode_or_error(limited, bytes(stream))
    if isinstance(outcome, CodecError):
        assert str(outcome)
        assert "\n" not in str(outcome)
    else:
        assert outcome.image.shape[0] * outcome.image.shape[1] <= 1 << 20


@each_codec
def test_a_picture_above_the_limit_is_refused(codec, streams):
    with pytest.raises(
        BitstreamError, match=r"claims 128 x 64 pixels, above the limit of 8191 \(max_pixels raises it\)"
    ):
        get_codec(codec.name, max_pixels=128 * 64 - 1).decode(streams[codec.name])
    assert get_codec(codec.name, max_pixels=128 * 64).decode(streams[codec.name]).image.shape == (64, 128, 3)


@each_codec
def test_a_header_that_claims_gigapixels_is_refused_before_decoding(codec, streams):
    stream = streams[codec.name]
    claims = {
        "jpeg": (struct.pack(">HH", 64, 128), struct.pack(">HH", 60000, 60000)),
        "webp": (b"\x7f\0\0\x3f\0\0", b"\xff\xff\xff\xff\xff\xff"),
        "avif": (struct.pack(">II", 128, 64), struct.pack(">II", 60000, 60000)),
        "heic": (struct.pack(">II", 128, 64), struct.pack(">II", 60000, 60000)),
        "jpeg2000": (struct.pack(">II", 128, 64), struct.pack(">II", 60000, 60000)),
    }
    old, new = claims[codec.name]
    assert old in stream
    with pytest.raises(BitstreamError, match=r"above the limit of 268435456"):
        codec.decode(stream.replace(old, new))


def test_a_larger_picture_than_pillow_s_limit_is_decoded_when_allowed(monkeypatch, picture):
    bitstreams = [codec.encode(picture, MIDDLE[codec.name]) for codec in CODECS]
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 100)  # would raise above 200 and warn above 100
    for codec, bitstream in zip(CODECS, bitstreams, strict=True):
        assert codec.decode(bitstream).image.shape == picture.shape


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_animations_are_refused_in_one_line(picture, kind):
    buffer = io.BytesIO()
    frames = [PillowImage.fromarray(picture), PillowImage.fromarray(picture[::-1].copy())]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(
        BitstreamError, match=f"{kind.lower()} file is animated; only still pictures".upper()[:4] + "|animated"
    ):
        get_codec(kind.lower()).decode(buffer.getvalue())


@each_codec
def test_wrong_arguments_are_value_errors_that_name_the_allowed_values(codec, picture):
    low, high = codec.qp_range.low, codec.qp_range.high
    for qp in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{low}..{high}, got {qp}"):
            codec.encode(picture, qp)
    with pytest.raises(ValueError, match="uint8"):
        codec.encode(picture.astype(np.float32), low)
    with pytest.raises(ValueError, match="at least one pixel"):
        codec.encode(picture[:0], low)
    with pytest.raises(ValueError, match="channels"):
        codec.encode(picture[..., :2], low)
    with pytest.raises(ValueError, match="max_pixels must be positive, got 0"):
        get_codec(codec.name, max_pixels=0)


def test_unknown_options_are_value_errors_that_list_the_options_only():
    with pytest.raises(
        ValueError, match=r"codec 'jpeg' has no option 'suffixes'; options: chroma, optimize, max_pixels$"
    ):
        get_codec("jpeg", suffixes=(".x",))


def test_a_jpeg_file_of_12_bits_is_refused_with_the_reason(streams):
    position = streams["jpeg"].index(b"\xff\xc0") + 4
    twelve = streams["jpeg"][:position] + b"\x0c" + streams["jpeg"][position + 1 :]
    with pytest.raises(BitstreamError, match="12 bits per sample are not supported"):
        JpegCodec().decode(twelve)


@pytest.mark.parametrize("codec", [JpegCodec(), Jpeg2000Codec()], ids=lambda codec: codec.name)
def test_alpha_is_refused_where_it_cannot_be_kept(codec, picture):
    with pytest.raises(ValueError, match=r"\(1, 3\) channels"):
        codec.encode(np.dstack([picture, picture[..., 0]]), codec.qp_range.low)


@pytest.mark.parametrize(
    ("codec_class", "option", "value"),
    [
        (JpegCodec, "chroma", "411"),
        (WebpCodec, "effort", 7),
        (AvifCodec, "chroma", "400"),
        (AvifCodec, "speed", 11),
        (AvifCodec, "threads", 0),
        (HeicCodec, "preset", "warp"),
    ],
)
def test_wrong_options_are_value_errors(codec_class, option, value):
    with pytest.raises(ValueError, match=f"{option} must be .*got"):
        codec_class(**{option: value})


def test_a_side_that_the_format_cannot_hold_is_a_codec_error():
    for codec, width in ((JpegCodec(), 65_536), (WebpCodec(), 16_384), (AvifCodec(speed=10), 65_537)):
        with pytest.raises(CodecError, match="encoder failed"):
            codec.encode(np.zeros((1, width, 3), np.uint8), 10)


@each_codec
def test_codecs_compare_hash_and_travel_to_worker_processes(codec):
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert hash(codec) == hash(pickle.loads(pickle.dumps(codec)))
    assert codec.probe() == codec
    assert all(entry.available and entry.detail for entry in codec.availability())
