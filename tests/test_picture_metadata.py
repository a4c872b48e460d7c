import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from picture_files import ICC, XMP, exif_values, make_exif, opened, with_pillow
from PIL import Image as PillowImage
from PIL import ImageOps

from codec_wrappers import Metadata
from codec_wrappers.orientation import exif_orientation, turned, turned_back, with_orientation
from codec_wrappers.tiff_tags import TiffTagError, parse_tiff
from enhancer.image_io import (
    Picture,
    encode_picture,
    read_picture,
    stripped,
    upright,
)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg", "webp", "avif", "heic", "jpeg2000"])
def test_metadata_and_resolution_survive_the_file(picture, kind, dtype):
    if dtype == np.uint16 and kind in ("jpeg", "webp", "avif"):
        pytest.skip("8 bits only")
    metadata = Metadata(exif=make_exif(6), icc=ICC, xmp=XMP)
    source = Picture(picture.astype(dtype), metadata, dpi=(300.0, 150.0))
    again = read_picture(encode_picture(source, kind))
    assert (again.metadata.icc, again.metadata.xmp) == (ICC, XMP)
    assert exif_values(again.metadata.exif) == exif_values(metadata.exif)
    if kind in ("png", "tiff", "jpeg"):
        assert again.dpi == pytest.approx((300, 150), abs=0.02)
    assert again.source_format == kind
    assert again.image.shape == picture.shape


@pytest.mark.parametrize(("space", "mode"), [(b"CMYK", "CMYK"), (b"GRAY", "LA"), (b"GRAY", "L")])
def test_a_profile_of_other_channels_than_the_converted_picture_is_left_out(picture, space, mode):
    icc = ICC[:16] + space + ICC[20:]
    kinds = {"CMYK": ["JPEG", "TIFF"], "LA": ["PNG", "TIFF"], "L": ["PNG", "TIFF", "JPEG"]}
    for kind in kinds[mode]:
        content = with_pillow(PillowImage.fromarray(picture).convert(mode), kind, icc_profile=icc)
        assert icc[100:200] in content or kind == "PNG"
        assert read_picture(content).metadata.icc == (icc if mode == "L" else None)
    gray = Picture(picture[..., 0], Metadata(icc=ICC[:16] + b"GRAY" + ICC[20:]))
    assert read_picture(encode_picture(gray, "webp")).metadata.icc is None  # WebP stores gray as RGB


def test_the_resolution_of_the_exif_block_is_kept_unless_the_picture_has_one(picture):
    block = PillowImage.Exif()
    block[0x011A] = block[0x011B] = 240.0
    block[0x0128] = 2
    exif = block.tobytes().removeprefix(b"Exif\0\0")
    assert read_picture(encode_picture(Picture(picture, Metadata(exif=exif)), "tiff")).dpi == (240, 240)
    assert read_picture(encode_picture(Picture(picture, Metadata(exif=exif), (72, 36)), "tiff")).dpi == (72, 36)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_pillow_reads_the_metadata_of_our_files_and_we_read_those_of_pillow(picture, kind):
    metadata = Metadata(exif=make_exif(1), icc=ICC, xmp=XMP)
    with opened(encode_picture(Picture(picture, metadata, dpi=(300, 300)), kind)) as ours:
        assert ours.info["icc_profile"] == ICC
        assert ours.info["xmp"] == XMP
        assert ours.info["dpi"] == pytest.approx((300, 300), abs=0.02)
        assert ours.getexif()[0x010F] == "Maker"
        assert ours.getexif().get_ifd(0x8769)[0x829A] == pytest.approx(0.01)

    theirs = with_pillow(picture, kind, exif=metadata.exif, icc_profile=ICC, dpi=(72, 36))
    read = read_picture(theirs)
    assert read.metadata.icc == ICC
    assert read.dpi == pytest.approx((72, 36), abs=0.02)
    assert exif_values(read.metadata.exif)[0x010F] == "Maker"
    assert exif_values(read.metadata.exif)["exif"] == {0x829A: pytest.approx(0.01)}


def test_a_big_endian_exif_block_makes_a_big_endian_tiff_with_the_same_pixels(rng):
    image = rng.integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    contents = {}
    for order in "<>":
        block = PillowImage.Exif()
        block.endian = order
        block[0x010F] = "Maker"
        exif = block.tobytes().removeprefix(b"Exif\0\0")
        assert exif[:2] == {"<": b"II", ">": b"MM"}[order]
        contents[order] = encode_picture(Picture(image, Metadata(exif=exif)), "tiff")
    for content in contents.values():
        assert np.array_equal(read_picture(content).image, image)
        assert np.array_equal(tifffile.imread(io.BytesIO(content)), image)
    assert contents["<"][:2] + contents[">"][:2] == b"IIMM"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_kept_with_the_pixels_or_applied_but_never_both(picture, orientation):
    metadata = Metadata(exif=make_exif(orientation), icc=ICC)
    source = Picture(picture, metadata, dpi=(300.0, 150.0))
    with PillowImage.fromarray(picture) as stored:
        stored.getexif()[0x0112] = orientation
        shown = np.asarray(ImageOps.exif_transpose(stored))

    kept = read_picture(encode_picture(source, "png"))
    assert np.array_equal(kept.image, picture)
    assert exif_orientation(kept.metadata.exif) == orientation

    turned_picture = upright(kept)
    assert np.array_equal(turned_picture.image, shown)
    assert exif_orientation(turned_picture.metadata.exif) == 1
    assert exif_values(turned_picture.metadata.exif)["exif"] == exif_values(metadata.exif)["exif"]
    assert turned_picture.dpi == pytest.approx((150, 300) if orientation >= 5 else (300, 150), abs=0.02)
    assert np.array_equal(upright(turned_picture).image, shown)

    bare = stripped(kept)
    assert np.array_equal(bare.image, shown)
    assert bare.metadata == Metadata(icc=ICC)

    for kind in ("pnm", "bmp"):  # no place for the orientation, so it is applied
        assert np.array_equal(read_picture(encode_picture(source, kind)).image, shown)


@given(orientation=st.integers(1, 8), image=hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4))))
def test_turning_back_undoes_turning(orientation, image):
    assert np.array_equal(turned_back(turned(image, orientation), orientation), image)


@settings(max_examples=200)
@given(junk=st.binary(max_size=80), value=st.integers(1, 8))
def test_damaged_exif_blocks_have_the_orientation_1_and_take_another(junk, value):
    for block in (junk, b"II*\0" + junk, b"MM\0*\0\0\0\x08" + junk):
        assert 1 <= exif_orientation(block) <= 8
        assert exif_orientation(with_orientation(block, value)) == value


@settings(max_examples=200)
@given(cut=st.integers(0, 200), position=st.integers(0, 150), byte=st.integers(0, 255))
def test_damaged_tiff_directories_are_read_or_refused(cut, position, byte):
    block = bytearray(make_exif(6))
    block[position % len(block)] = byte
    for strict in (False, True):
        try:
            assert parse_tiff(bytes(block[:cut]), strict=strict).directories
        except TiffTagError:
            continue
