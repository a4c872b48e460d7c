import io
import struct

import numpy as np
import pytest
import tifffile
from picture_files import opened, with_pillow
from PIL import Image as PillowImage

from enhancer.errors import ImageError
from enhancer.image_io import (
    read_picture,
)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
@pytest.mark.parametrize("tile", [None, (32, 48)])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_files_of_tifffile_are_read_exactly(picture, compression, tile, byteorder, dtype):
    image = picture.astype(dtype) * (257 if dtype == np.uint16 else 1)
    for planar, bigtiff, predictor in ((False, False, False), (True, True, False), (False, True, True)):
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            np.moveaxis(image, 2, 0) if planar else image,
            photometric="rgb",
            planarconfig="separate" if planar else "contig",
            compression=compression,
            predictor=predictor and compression in ("lzw", "zlib"),
            tile=tile,
            rowsperstrip=None if tile else 17,
            byteorder=byteorder,
            bigtiff=bigtiff,
            metadata=None,
        )
        assert np.array_equal(read_picture(buffer.getvalue()).image, image)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
def test_tiff_files_of_pillow_are_converted_as_pillow_does(picture, mode, compression):
    if compression == "jpeg" and mode in ("1", "P"):
        pytest.skip("libtiff does not write these")
    content = with_pillow(PillowImage.fromarray(picture).convert(mode), "TIFF", compression=compression)
    target = {"1": "L", "L": "L", "RGBA": "RGBA", "LA": "RGBA"}.get(mode, "RGB")
    with opened(content) as file:
        assert np.array_equal(read_picture(content).image, np.asarray(file.convert(target)))


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_tiff_files_of_odd_depths_are_scaled(rng, bits):
    samples = rng.integers(0, 1 << bits, (7, 9)).astype(np.uint8 if bits <= 8 else np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, bitspersample=bits, photometric="minisblack", metadata=None)
    peak = 255 if bits <= 8 else 65535
    image = read_picture(buffer.getvalue()).image
    assert image.dtype == samples.dtype
    assert np.array_equal(image, np.round(samples * (peak / ((1 << bits) - 1))))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_premultiplied_alpha_of_a_tiff_is_made_straight(picture, dtype):
    peak = np.iinfo(dtype).max
    straight = np.dstack([picture, picture[..., 1]]).astype(dtype) * (peak // 255)
    alpha = straight[..., 3:].astype(np.float64) / peak
    stored = np.round(straight * np.dstack([alpha, alpha, alpha, np.ones_like(alpha)])).astype(dtype)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stored, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    image = read_picture(buffer.getvalue()).image
    assert np.array_equal(image[..., 3], straight[..., 3])
    error = np.abs(image[..., :3].astype(np.int64) - straight[..., :3])
    assert (error <= np.ceil(0.5 / np.maximum(alpha, 0.5 / peak)) + 1).all()


def test_white_is_zero_is_inverted_and_unspecified_samples_are_dropped(picture):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, picture[..., 0], photometric="miniswhite", metadata=None)
    assert np.array_equal(read_picture(buffer.getvalue()).image, 255 - picture[..., 0])
    buffer = io.BytesIO()
    four = np.dstack([picture, picture[..., 0]])
    tifffile.imwrite(buffer, four, photometric="rgb", extrasamples=["unspecified"], metadata=None)
    assert np.array_equal(read_picture(buffer.getvalue()).image, picture)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": np.float32}, "1 to 16 bits per unsigned sample"),
        ({"dtype": np.uint32}, "1 to 16 bits per unsigned sample"),
        ({"compression": "zstd"}, "compression type 50000 are not supported"),
        ({"pages": 2}, "holds several pictures"),
    ],
)
def test_tiff_files_that_are_not_supported_say_why(picture, options, message):
    buffer = io.BytesIO()
    image = picture.astype(options.get("dtype", np.uint8))
    data = np.stack([image] * options["pages"]) if "pages" in options else image
    tifffile.imwrite(buffer, data, photometric="rgb", compression=options.get("compression"), metadata=None)
    with pytest.raises(ImageError, match=message):
        read_picture(buffer.getvalue())


def test_a_jpeg_strip_of_another_size_than_the_tiff_says_is_not_decoded(picture):
    content = with_pillow(picture, "TIFF", compression="jpeg")
    frame = struct.pack(">HH", *picture.shape[:2])
    assert frame in content
    with pytest.raises(ImageError, match="another size than the file says"):
        read_picture(content.replace(frame, struct.pack(">HH", 60000, 60000)))
