import io
import os
import subprocess
import sys

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import opened, with_pillow
from PIL import Image as PillowImage

from enhancer.errors import EnhancerError, ImageError
from enhancer.image_io import (
    Picture,
    encode_picture,
    is_plain_picture,
    picture_format,
    picture_suffixes,
    read_picture,
    write_picture,
)

LOSSLESS = ["png", "tiff", "pam", "pnm", "bmp"]


@st.composite
def images(draw):
    """Pictures of every kind: 8 and 16 bits, gray, RGB, RGBA, any size."""
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    channels = draw(st.sampled_from([(), (3,), (4,)]))
    seed = draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from(["noise", "flat"]))
    high = np.iinfo(dtype).max
    if kind == "flat":
        return np.full(size + channels, draw(st.integers(0, high)), dtype)
    return np.random.default_rng(seed).integers(0, high + 1, size + channels).astype(dtype)


@settings(max_examples=60)
@given(image=images(), kind=st.sampled_from(LOSSLESS))
def test_lossless_formats_keep_every_sample_depth_and_channel(image, kind):
    too_deep, too_many = kind == "bmp" and image.dtype == np.uint16, kind in ("bmp", "pnm") and image.shape[2:] == (4,)
    if too_deep or too_many:
        with pytest.raises(ImageError, match=r"alpha|16"):
            encode_picture(Picture(image), kind)
        return
    content = encode_picture(Picture(image), kind)
    again = read_picture(content)
    assert again.image.dtype == image.dtype
    assert np.array_equal(again.image, image)
    assert is_plain_picture(content[:64])
    if kind == "png":
        order = [2, 1, 0, 3][: image.shape[2]] if image.ndim == 3 else ...
        seen = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(seen[..., order] if image.ndim == 3 else seen, image)
    if kind == "tiff":
        assert np.array_equal(tifffile.imread(io.BytesIO(content)).reshape(image.shape), image)


@pytest.mark.parametrize("kind", picture_suffixes())
def test_a_single_pixel_cut_out_of_a_picture_can_be_written(picture, kind):
    for pixel in (picture[5:6, 7:8, 1], picture[5:6, 7:8]):  # arrays with strides of their own
        if pixel.ndim == 2 or kind != ".pgm":
            shown = read_picture(encode_picture(Picture(pixel), kind[1:])).image
            assert abs(int(shown.flat[-1]) - int(pixel.flat[-1])) < 30


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp_files_are_converted_as_pillow_does(picture, mode):
    content = with_pillow(PillowImage.fromarray(picture).convert(mode), "BMP", dpi=(300, 300))
    with opened(content) as file:
        assert np.array_equal(read_picture(content).image, np.asarray(file.convert("L" if mode in "1L" else "RGB")))
    assert read_picture(content).dpi == pytest.approx((300, 300), abs=0.02)


def test_a_gif_of_one_frame_is_read(picture):
    content = with_pillow(PillowImage.fromarray(picture).quantize(16), "GIF")
    with opened(content) as file:
        assert np.array_equal(read_picture(content).image, np.asarray(file.convert("RGB")))


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif", "heic", "jpeg2000"])
def test_lossy_files_look_like_the_picture_and_say_how_they_were_coded(picture, kind):
    again = read_picture(encode_picture(Picture(picture), kind))
    error = np.mean((again.image.astype(float) - picture) ** 2)
    assert 10 * np.log10(255**2 / error) > 36
    assert again.info is not None
    assert again.info.codec == kind
    assert again.info.chroma == ("420" if kind == "webp" else "444")


@pytest.mark.parametrize(("kind", "frames"), [("PNG", 2), ("GIF", 2), ("WEBP", 2), ("TIFF", 2), ("AVIF", 2)])
def test_animated_input_is_refused_with_one_line(picture, kind, frames):
    pictures = [PillowImage.fromarray(np.roll(picture, i, axis=0)) for i in range(frames)]
    content = with_pillow(pictures[0], kind, save_all=True, append_images=pictures[1:])
    with pytest.raises(ImageError, match=r"animated; only still pictures|several pictures; only one") as caught:
        read_picture(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "image", "message"),
    [
        (
            "jpeg",
            np.zeros((4, 4, 4), np.uint8),
            "jpeg cannot hold an alpha channel; avif heic pam png tiff webp can",
        ),
        ("ppm", np.zeros((4, 4, 4), np.uint8), "ppm cannot hold an alpha channel"),
        ("pgm", np.zeros((4, 4, 3), np.uint8), "pgm holds gray pictures only"),
        ("webp", np.zeros((4, 4, 3), np.uint16), "webp holds 8 bits per sample, this picture has 16; heic"),
        ("gif", np.zeros((4, 4, 3), np.uint8), "unknown picture format 'gif'; known: avif bmp"),
    ],
)
def test_what_a_format_cannot_hold_is_an_error_that_names_those_that_can(kind, image, message):
    with pytest.raises(ImageError, match=message):
        encode_picture(Picture(image), kind)


def test_wrong_arrays_are_value_errors():
    with pytest.raises(ValueError, match="float64"):
        encode_picture(Picture(np.full((4, 4, 3), np.nan)), "png")
    with pytest.raises(ValueError, match="at least one pixel"):
        encode_picture(Picture(np.zeros((0, 4, 3), np.uint8)), "png")


@pytest.mark.parametrize("suffix", picture_suffixes())
def test_the_suffix_decides_the_format_when_writing(tmp_path, picture, suffix):
    path = tmp_path / f"out{suffix.upper()}"
    image = picture[..., 0] if suffix == ".pgm" else picture
    write_picture(path, Picture(image))
    again = read_picture(path)
    assert again.image.shape == image.shape
    assert again.source_format in (picture_format(path), "pnm")
    with pytest.raises(EnhancerError, match="exists already"):
        write_picture(path, Picture(image))
    write_picture(path, Picture(image), format="png", overwrite=True)
    assert read_picture(path).source_format == "png"


@pytest.mark.parametrize("name", ["out", "out.xyz", "png"])
def test_an_unknown_suffix_is_an_error_that_lists_the_known_ones(tmp_path, picture, name):
    with pytest.raises(ImageError, match=r"known: \.png \.ppm .*\.jp2"):
        write_picture(tmp_path / name, Picture(picture))
    assert os.listdir(tmp_path) == []


def test_reading_and_writing_pictures_needs_no_torch(tmp_path, picture):
    script = (
        "import sys\nfrom enhancer.image_io import read_picture, write_picture\n"
        "write_picture(sys.argv[2], read_picture(sys.argv[1]))\nprint('torch' in sys.modules)"
    )
    (tmp_path / "in.png").write_bytes(encode_picture(Picture(picture), "png"))
    arguments = [str(tmp_path / "in.png"), str(tmp_path / "out.tif")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert np.array_equal(imagecodecs.imread(str(tmp_path / "out.tif")), picture)
