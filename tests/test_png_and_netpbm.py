import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import ICC, make_exif, make_png, opened, png_chunks, with_pillow
from PIL import Image as PillowImage

from codec_wrappers import Metadata, get_codec
from enhancer.errors import ImageError
from enhancer.image_io import (
    Picture,
    encode_picture,
    read_picture,
)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("transparency", [None, 3, b"\0\x40\xff"])
def test_png_files_of_every_kind_are_converted_as_pillow_does(picture, mode, transparency):
    if isinstance(transparency, bytes) and mode != "P":
        transparency = {"L": 120, "RGB": (150, 120, 110)}.get(mode)
    if mode == "I;16":
        source = PillowImage.fromarray(picture[..., 0].astype(np.uint16) * 257)
        transparency = None
    else:
        source = PillowImage.fromarray(picture).convert(mode)
        transparency = transparency if mode in ("L", "P") or isinstance(transparency, tuple) else None
    options = {} if transparency is None else {"transparency": transparency}
    content = with_pillow(source, "PNG", **options)
    image = read_picture(content).image
    with opened(content) as file:
        alpha = "A" in mode or transparency is not None
        target = "RGBA" if alpha else {"1": "L", "P": "RGB"}.get(mode, mode)
        assert np.array_equal(image, np.asarray(file if file.mode == target else file.convert(target)))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("color", [0, 2, 4, 6])
def test_16_bit_png_files_keep_all_bits(rng, color, interlaced):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    samples = rng.integers(0, 65536, (9, 13, channels)).astype(np.uint16)
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in passes]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts for row in part)
    header = struct.pack(">IIBBBBB", 13, 9, 16, color, 0, 0, int(interlaced))
    image = read_picture(make_png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])).image
    expected = {0: samples[..., 0], 4: samples[..., [0, 0, 0, -1]]}.get(color, samples)
    assert np.array_equal(image, expected)


def test_a_transparent_colour_of_a_16_bit_png_becomes_alpha(rng):
    samples = rng.integers(0, 65536, (5, 4, 3)).astype(np.uint16)
    chunks = png_chunks(encode_picture(Picture(samples), "png"))
    chunks.insert(1, (b"tRNS", struct.pack(">HHH", *samples[2, 1])))
    image = read_picture(make_png(chunks)).image
    assert np.array_equal(image[..., :3], samples)
    assert image[2, 1, 3] == 0
    assert np.count_nonzero(image[..., 3] == 65535) == 19


def test_the_colour_chunks_of_a_png_go_from_png_to_png(picture):
    chunks = png_chunks(encode_picture(Picture(picture), "png"))
    colour = [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(32))]
    again = encode_picture(read_picture(make_png(chunks[:1] + colour + chunks[1:])), "png")
    assert sorted(chunk for chunk in png_chunks(again) if chunk in colour) == sorted(colour)


@pytest.mark.parametrize("depth", [8, 16])
def test_an_icc_profile_for_other_channels_is_not_written_into_a_png(picture, depth):
    gray = picture[..., 0].astype(np.uint8 if depth == 8 else np.uint16)
    content = encode_picture(Picture(gray, Metadata(icc=ICC)), "png")
    assert b"iCCP" not in [kind for kind, _ in png_chunks(content)]


def test_damaged_ancillary_chunks_are_left_out_and_damaged_critical_ones_refused(picture):
    content = encode_picture(Picture(picture, Metadata(exif=make_exif(3))), "png")
    position = content.index(b"eXIf") + 8
    damaged = content[:position] + b"?" + content[position + 1 :]
    assert read_picture(damaged).metadata.exif is None
    assert np.array_equal(read_picture(damaged).image, picture)
    position = content.index(b"IDAT") + 30
    with pytest.raises(ImageError, match="wrong checksum"):
        read_picture(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])


@pytest.mark.parametrize("depth", [8, 16])
def test_a_png_whose_chunks_are_whole_but_whose_pixels_are_not_is_refused(picture, depth):
    image = picture if depth == 8 else picture.astype(np.uint16) * 257
    chunks = png_chunks(encode_picture(Picture(image), "png"))
    packed = zlib.decompress(b"".join(payload for kind, payload in chunks if kind == b"IDAT"))
    for rows in (packed[: len(packed) // 2], b"\7" + packed[1:], b""):
        damaged = [chunks[0], (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        with pytest.raises(ImageError, match="the PNG file is damaged"):
            read_picture(make_png(damaged))


def test_libraries_write_nothing_to_standard_error_about_damaged_files(tmp_path, picture):
    deep = encode_picture(Picture(picture.astype(np.uint16) * 257, Metadata(icc=b"no profile" * 20)), "png")
    (tmp_path / "good.png").write_bytes(deep)
    chunks = png_chunks(deep)
    (tmp_path / "bad.png").write_bytes(make_png([chunks[0], (b"IDAT", zlib.compress(b"\7" * 99)), (b"IEND", b"")]))
    (tmp_path / "cut.jpg").write_bytes(get_codec("jpeg").encode(picture, 50)[:-30])
    script = (
        "import sys; from enhancer.image_io import read_picture\nfrom enhancer.errors import ImageError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(read_picture(name).image.dtype)\n"
        "    except ImageError as error: print('refused')\n"
    )
    paths = [str(tmp_path / name) for name in ("good.png", "bad.png", "cut.jpg")]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["uint16", "refused", "refused"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"P1\n# a comment\n3 2\n1 0 1\n010\n", [[0, 255, 0], [255, 0, 255]]),
        (b"P4\n3 2\n\xa0\x40", [[0, 255, 0], [255, 0, 255]]),
        (b"P2 2 1 3\n0 2", [[0, 170]]),
        (b"P5\n2 1\n# c\n255\n\x07\xff", [[7, 255]]),
        (b"P3\n1 1\n15\n1 2 15", [[[17, 34, 255]]]),
        (b"P6 1 1 255 abc", [[[97, 98, 99]]]),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 2\nMAXVAL 255\nTUPLTYPE GRAYSCALE_ALPHA\nENDHDR\n\x05\x80", [[[5, 5, 5, 128]]]),
        (b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 1\nMAXVAL 1\nTUPLTYPE BLACKANDWHITE\nENDHDR\n\x01\x00", [[255, 0]]),
    ],
    ids=["P1", "P4", "P2", "P5", "P3", "P6", "PAM-LA", "PAM-BW"],
)
def test_netpbm_files_of_every_kind_are_read_and_scaled(content, expected):
    image = read_picture(content).image
    assert image.dtype == np.uint8
    assert image.tolist() == expected


def test_deep_netpbm_files_are_big_endian_and_scaled_to_16_bits():
    assert read_picture(b"P5 2 1 1023\n\x03\xff\x02\x00").image.tolist() == [[65535, 32800]]  # 512 * 65535 / 1023
    assert encode_picture(Picture(np.array([[258]], np.uint16)), "pgm") == b"P5\n1 1\n65535\n\x01\x02"


@settings(max_examples=50)
@given(st.data(), st.integers(1, 65535))
def test_samples_of_any_maximum_are_scaled_to_nearest(data, maximum):
    samples = [*data.draw(st.lists(st.integers(0, maximum), min_size=1, max_size=9)), maximum]
    content = f"P2 {len(samples)} 1 {maximum} {' '.join(map(str, samples))}".encode()
    peak = 255 if maximum < 256 else 65535
    assert read_picture(content).image.tolist() == [[int(s * peak / maximum + 0.5) for s in samples]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P6\n2 2\n255\nabc", "truncated: 14 bytes instead of 23"),
        (b"P5\n2", "header of the Netpbm file is damaged or truncated"),
        (b"P5\n2 2\n0\nabcd", "maximum value .* must be 1 to 65535, not 0"),
        (b"P2\n2 1\n9\n3 10", "above its maximum value 9"),
        (b"P2\n2 1\n9\n3 x", "not numbers"),
        (b"P6\n0 7\n255\n", "empty picture, 0 x 7"),
        (b"P5 1 1 255 aP5 1 1 255 b", "several pictures"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 255\nENDHDR\nabcde", "1 to 4 channels"),
        (b"P7\nWIDTH 1\nHEIGHT 1\n", "PAM file is damaged or truncated"),
    ],
)
def test_damaged_netpbm_files_are_refused(content, message):
    with pytest.raises(ImageError, match=message):
        read_picture(content)
