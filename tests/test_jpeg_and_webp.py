import io

import numpy as np
import pytest
from picture_files import psnr
from PIL import Image as PillowImage

from codec_wrappers import Metadata, identify
from codec_wrappers.errors import CodecError
from codec_wrappers.ffmpeg_planes import unrounded_picture
from codec_wrappers.heif_codecs import AvifCodec, HeicCodec
from codec_wrappers.jpeg2000 import Jpeg2000Codec
from codec_wrappers.jpeg_tables import nearest_quality, parse_jpeg, scaled_tables, with_dpi
from codec_wrappers.pillow_codecs import JpegCodec, WebpCodec


def test_the_quality_of_every_jpeg_file_of_libjpeg_is_derived_exactly(picture):
    for quality in range(1, 101):
        bitstream = JpegCodec(chroma="444").encode(picture[:16, :16], quality)
        assert parse_jpeg(bitstream).tables[:2] == scaled_tables(quality)
        gray = JpegCodec().encode(picture[:8, :8, 0], quality)
        assert JpegCodec().decode(bitstream).info.qp == JpegCodec().decode(gray).info.qp == quality


def test_pillow_s_own_subsampling_and_quality_are_recognised(picture):
    for name, chroma in (("4:2:0", "420"), ("4:2:2", "422"), ("4:4:4", "444")):
        buffer = io.BytesIO()
        PillowImage.fromarray(picture).save(buffer, "JPEG", quality=83, subsampling=name, progressive=True)
        info = JpegCodec().decode(buffer.getvalue()).info
        assert (info.qp, info.chroma) == (83, chroma)


def test_foreign_tables_get_the_nearest_quality_and_strange_ones_none():
    between = np.round((np.array(scaled_tables(40)) + np.array(scaled_tables(44))) / 2).astype(int).tolist()
    assert nearest_quality(*map(tuple, between)) in (41, 42, 43)
    luma, chroma = scaled_tables(90)
    assert nearest_quality(luma, tuple(2 * entry for entry in chroma)) in range(80, 90)
    assert nearest_quality((1, 255) * 32) is None
    assert nearest_quality(()) is None
    assert nearest_quality((0,) * 64) is None


@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_jpeg_colour_spaces_are_converted_as_pillow_does(picture, mode):
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).convert(mode).save(buffer, "JPEG", quality=90)
    decoded = JpegCodec().decode(buffer.getvalue())
    with PillowImage.open(buffer) as file:
        assert np.array_equal(decoded.image, np.asarray(file if mode == "L" else file.convert("RGB")))
    assert decoded.info.qp == 90


def test_noise_at_the_highest_quality_can_be_coded(rng):
    noise = rng.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    decoded = JpegCodec(chroma="444").decode(JpegCodec(chroma="444").encode(noise, 100)).image
    assert psnr(decoded, noise) > 45


def test_too_large_metadata_are_an_error_not_dropped(picture):
    with pytest.raises(CodecError, match="EXIF block of 70000 bytes is too large for a JPEG file"):
        JpegCodec().encode(picture, 50, metadata=Metadata(exif=bytes(70000)))


def test_the_resolution_of_a_jpeg_file_is_read_and_written(picture):
    bitstream = JpegCodec().encode(picture, 50)
    assert parse_jpeg(bitstream).dpi is None
    changed = with_dpi(bitstream, (300.0, 72.4))
    assert parse_jpeg(changed).dpi == (300.0, 72.0)
    assert np.array_equal(JpegCodec().decode(changed).image, JpegCodec().decode(bitstream).image)


@pytest.mark.parametrize("codec", [JpegCodec(), JpegCodec(chroma="422"), JpegCodec(chroma="444"), WebpCodec()], ids=str)
@pytest.mark.parametrize("odd", [0, 1])
def test_the_unrounded_picture_is_nearer_to_the_original(photograph, codec, odd):
    original = np.ascontiguousarray(photograph[: 256 - odd, : 256 - odd])
    decoded = codec.decode(codec.encode(original, 92))

    unrounded = decoded.unrounded()

    assert (unrounded.shape, unrounded.dtype) == (original.shape, np.uint16)
    difference = unrounded / 257 - decoded.image
    assert np.abs(difference).max() < 5
    assert 0.05 < np.mean(difference**2) < 1  # rounding to whole numbers alone is worth 1 / 12
    before, after = (np.mean((picture - original) ** 2.0) for picture in (decoded.image, unrounded / 257))
    assert after < before - 0.05


def test_the_unrounded_picture_keeps_the_alpha_channel(picture):
    image = np.dstack([picture, np.arange(picture.shape[1], dtype=np.uint8) * np.ones((len(picture), 1), np.uint8)])
    decoded = WebpCodec().decode(WebpCodec().encode(image, 80))

    np.testing.assert_array_equal(decoded.unrounded()[..., 3], decoded.image[..., 3].astype(np.uint16) * 257)


def test_pictures_without_fractions_or_of_other_colours_have_no_unrounded_form(picture):
    kept, cmyk, lossless = io.BytesIO(), io.BytesIO(), io.BytesIO()
    PillowImage.fromarray(picture).save(kept, "JPEG", keep_rgb=True)
    PillowImage.fromarray(picture).convert("CMYK").save(cmyk, "JPEG")
    PillowImage.fromarray(picture).save(lossless, "WEBP", lossless=True)
    gray = JpegCodec().encode(picture[..., 0], 50)

    for bitstream in (kept.getvalue(), cmyk.getvalue(), gray):
        assert JpegCodec().decode(bitstream).unrounded() is None
    assert WebpCodec().decode(lossless.getvalue()).unrounded() is None


def test_a_comment_that_turns_the_picture_over_for_ffmpeg_does_not_matter(picture):
    plain = JpegCodec().encode(picture, 90)
    comment = b"\xff\xfe\x00\x16Metasoft MJPEG Codec"

    decoded = JpegCodec().decode(plain[:2] + comment + plain[2:])

    assert np.array_equal(decoded.image, JpegCodec().decode(plain).image)
    assert decoded.unrounded() is None


def test_planes_that_are_not_those_of_the_picture_are_not_taken(picture):
    bitstream = JpegCodec().encode(picture, 90)
    image = JpegCodec().decode(bitstream).image

    assert unrounded_picture("mjpeg", bitstream, image) is not None
    assert unrounded_picture("mjpeg", bitstream, np.roll(image, 1, axis=0)) is None
    assert unrounded_picture("mjpeg", bitstream, image[:-2]) is None
    assert unrounded_picture("mjpeg", bitstream[:200], image) is None
    assert unrounded_picture("mjpeg", b"nothing of the kind", image) is None
    assert unrounded_picture("webp", bitstream, image) is None


@pytest.mark.parametrize("effort", [0, 4, 6])
@pytest.mark.parametrize("quality", [0, 20, 50, 75, 95, 100])
def test_the_quality_of_a_webp_file_is_estimated_within_two_steps(photograph, quality, effort):
    codec = WebpCodec(effort=effort)
    info = codec.decode(codec.encode(photograph, quality)).info
    assert info.qp == pytest.approx(quality, abs=2)
    assert info.chroma == "420"


@pytest.mark.parametrize("quality", [0, 5, 10, 30, 50, 75, 90, 100])
@pytest.mark.parametrize("chroma", ["420", "444"])
def test_the_quality_of_avif_and_heic_files_is_read_from_their_headers(photograph, quality, chroma):
    odd = np.ascontiguousarray(photograph[:99, :77])
    for codec in (AvifCodec(chroma=chroma, speed=8), HeicCodec(chroma=chroma, preset="fast")):
        for image in (photograph, odd, odd[..., 1]):
            found = codec.decode(codec.encode(image, quality)).info.qp
            saturated = codec.name == "heic" and quality > 94  # slice QP 0
            assert found == pytest.approx(94 if saturated else quality, abs=1)


def test_a_lossless_webp_file_has_no_quality_and_full_chroma(picture):
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).save(buffer, "WEBP", lossless=True)
    decoded = WebpCodec().decode(buffer.getvalue())
    assert (decoded.info.qp, decoded.info.chroma) == (None, "444")
    assert np.array_equal(decoded.image, picture)


@pytest.mark.parametrize("qp", [250, 305, 380, 420])
def test_jpeg_2000_reaches_the_psnr_that_is_asked_for(photograph, qp):
    decoded = Jpeg2000Codec().decode(Jpeg2000Codec().encode(photograph, qp)).image
    assert psnr(decoded, photograph) == pytest.approx(qp / 10, abs=0.8)


def test_a_bare_codestream_has_the_same_pixels(picture):
    bare = Jpeg2000Codec(container=False).encode(picture, 350)
    assert bare.startswith(b"\xff\x4f\xff\x51")
    assert identify(bare) == "jpeg2000"
    boxed = Jpeg2000Codec().encode(picture, 350)
    assert bare in boxed
    assert np.array_equal(Jpeg2000Codec().decode(bare).image, Jpeg2000Codec().decode(boxed).image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "I;16"])
def test_jpeg_2000_files_of_other_kinds_are_converted_as_pillow_does(picture, mode):
    buffer = io.BytesIO()
    if mode == "I;16":
        source = PillowImage.fromarray(picture[..., 0].astype(np.uint16) * 257)
    else:
        source = PillowImage.fromarray(picture).convert(mode)
    source.save(buffer, "JPEG2000")
    decoded = Jpeg2000Codec().decode(buffer.getvalue()).image
    target = {"RGBA": "RGBA", "LA": "RGBA", "CMYK": "RGB"}.get(mode)
    with PillowImage.open(buffer) as file:
        assert np.array_equal(decoded, np.asarray(file.convert(target) if target else file))
