import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as PillowImage
from PIL import ImageCms, ImageOps

from codec_wrappers import Metadata, get_codec
from codec_wrappers.errors import CodecError
from codec_wrappers.orientation import exif_orientation, turned, turned_back, with_orientation
from codec_wrappers.tiff_tags import TiffTagError, parse_tiff
from enhancer.errors import EnhancerError, ImageError
from enhancer.image_io import (
    Picture,
    encode_picture,
    is_plain_picture,
    picture_format,
    picture_suffixes,
    read_picture,
    stripped,
    upright,
    write_picture,
)

LOSSLESS = ["png", "tiff", "pam", "pnm", "bmp"]
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = "<x:xmpmeta xmlns:x='adobe:ns:meta/'>ä</x:xmpmeta>".encode()


def make_exif(orientation: int) -> bytes:
    block = PillowImage.Exif()
    block[0x010F] = "Maker"
    block[0x0112] = orientation
    block.get_ifd(0x8769)[0x829A] = 0.01
    block.get_ifd(0x8825)[1] = "N"
    return block.tobytes().removeprefix(b"Exif\0\0")


def exif_values(block: bytes) -> dict:
    loaded = PillowImage.Exif()
    loaded.load(b"Exif\0\0" + block)
    values = {tag: value for tag, value in loaded.items() if tag not in (0x8769, 0x8825)}
    return {**values, "exif": dict(loaded.get_ifd(0x8769)), "gps": dict(loaded.get_ifd(0x8825))}


def with_pillow(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    source = image if isinstance(image, PillowImage.Image) else PillowImage.fromarray(image)
    source.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(content: bytes) -> PillowImage.Image:
    return PillowImage.open(io.BytesIO(content))


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


# --- PNG -------------------------------------------------------------------------------------------------------------


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], 8
    while position < len(content):
        (length,) = struct.unpack_from(">I", content, position)
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + length]))
        position += 12 + length
    return chunks


def make_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [struct.pack(">I", len(p)) + kind + p + struct.pack(">I", zlib.crc32(kind + p)) for kind, p in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


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


# --- Netpbm ----------------------------------------------------------------------------------------------------------


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


# --- TIFF ------------------------------------------------------------------------------------------------------------


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


# --- metadata --------------------------------------------------------------------------------------------------------


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


# --- other formats ---------------------------------------------------------------------------------------------------


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


# --- bad input -------------------------------------------------------------------------------------------------------


def all_formats(picture) -> dict[str, bytes]:
    deep = picture[:40, :40].astype(np.uint16) * 257
    small = np.ascontiguousarray(picture[:40, :40])
    metadata = Metadata(exif=make_exif(6), icc=ICC[:200], xmp=XMP)
    files = {f: encode_picture(Picture(small, metadata, dpi=(72, 72)), f) for f in ("png", "tiff", "pnm", "bmp")}
    files |= {f"{f}16": encode_picture(Picture(deep, metadata), f) for f in ("png", "tiff")}
    files["tiff-lzw"] = with_pillow(small, "TIFF", compression="tiff_lzw")
    files["tiff-jpeg"] = with_pillow(small, "TIFF", compression="jpeg")
    files["png-palette"] = with_pillow(PillowImage.fromarray(small).quantize(9), "PNG", transparency=b"\0\x40")
    files["gif"] = with_pillow(PillowImage.fromarray(small).quantize(9), "GIF")
    files["jpeg"] = encode_picture(Picture(small, metadata), "jpeg")
    return files


@pytest.fixture(scope="module")
def files(picture):
    return all_formats(picture)


@pytest.mark.parametrize("name", ["png", "tiff", "pnm", "bmp", "png16", "tiff16", "tiff-lzw", "png-palette", "jpeg"])
def test_a_truncated_file_is_refused(files, name):
    content = files[name]
    for cut in sorted({0, 1, 4, len(content) - 1, *range(0, len(content), max(1, len(content) // 50))}):
        if name in ("tiff", "tiff16") and cut == len(content) - 1:  # a byte that rounds the last value up
            assert read_picture(content[:cut]).metadata == read_picture(content).metadata
            continue
        with pytest.raises(ImageError) as caught:
            read_picture(content[:cut])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["png", "tiff", "pnm", "bmp", "png16", "tiff16", "tiff-lzw", "tiff-jpeg", "png-palette", "gif"]
)
@settings(max_examples=150)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_in_one_line(files, name, data):
    content = bytearray(files[name])
    near_the_front = st.integers(0, min(len(content), 200) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.one_of(near_the_front, st.integers(0, len(content) - 1)))
        length = data.draw(st.sampled_from([1, 1, 2, 4, 16]))
        content[position : position + length] = data.draw(st.binary(max_size=length))
    mutated = bytes(content)
    if name.startswith("png"):  # wrong checksums would hide what lies behind them
        mutated = repaired(mutated)
    try:
        image = read_picture(mutated, max_pixels=1 << 20).image
    except (ImageError, CodecError) as error:
        message = str(error)
    else:
        message = "read"
        assert image.dtype in (np.uint8, np.uint16)
        assert image.shape[0] * image.shape[1] <= 1 << 20
    assert message
    assert "\n" not in message


def repaired(content: bytes) -> bytes:
    """The PNG file with right checksums, as far as its chunks can be walked through."""
    out, position = bytearray(content[:8]), 8
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        body = content[position + 4 : position + 8 + length]
        out += content[position : position + 4] + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return bytes(out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"Just some text, named .png by mistake\n", "not a picture of any known kind"),
        (b"BMW is a car maker, and this is no picture", "not a picture of any known kind"),
        (b"P6ixel", "not a picture of any known kind"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"GIF89a", "the GIF file is damaged or truncated"),
        (b"II*\0", "the TIFF file is damaged"),
        (b"\xff\xd8\xff", "truncated"),
        (b"RIFF\x04\0\0\0WEBP", "the WebP file has no picture"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason_and_the_name(tmp_path, content, message):
    path = tmp_path / "in.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"in.png: .*{message}"):
        read_picture(path)
    with pytest.raises(ImageError, match=message):
        read_picture(content)


def test_the_content_decides_and_not_the_suffix(tmp_path, picture):
    path = tmp_path / "really-a-tiff.png"
    path.write_bytes(encode_picture(Picture(picture), "tiff"))
    assert read_picture(path).source_format == "tiff"
    assert np.array_equal(read_picture(str(path)).image, picture)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    with pytest.raises(ImageError, match=r"cannot read .*nothing\.png: No such file or directory"):
        read_picture(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match=r"cannot read .*: Is a directory"):
        read_picture(tmp_path)


def gigapixel_headers() -> dict[str, bytes]:
    size = (40_000, 30_000)
    ihdr = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    tags = {256: size[0], 257: size[1], 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: size[1], 279: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return {
        "png": make_png([(b"IHDR", ihdr), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]),
        "tiff": b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4),
        "ppm": b"P6 40000 30000 255\nabc",
        "plain ppm": b"P3 40000 30000 255\n1 2 3",
        "pam": b"P7\nWIDTH 40000\nHEIGHT 30000\nDEPTH 3\nMAXVAL 255\nENDHDR\nabc",
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, *size, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(45),
        "gif": b"GIF89a" + struct.pack("<HH", 40000, 30000) + b"\x80\0\0" + bytes(6) + b";",
    }


@pytest.mark.parametrize("name", list(gigapixel_headers()))
def test_a_gigapixel_header_is_refused_at_once_and_the_limit_can_be_changed(name):
    import tracemalloc

    content = gigapixel_headers()[name]
    tracemalloc.start()
    with pytest.raises(ImageError, match="claims 40000 x 30000 pixels, above the limit of 268435456"):
        read_picture(content)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    small = encode_picture(Picture(np.zeros((10, 10, 3), np.uint8)), "png")
    with pytest.raises(ImageError, match=r"claims 10 x 10 pixels, above the limit of 99 \(max_pixels raises it\)"):
        read_picture(small, max_pixels=99)
    assert read_picture(small, max_pixels=100).size == (10, 10)


def test_pillow_s_own_limit_does_not_interfere(monkeypatch, files):
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 10)
    for name, content in files.items():
        if name != "gif":  # Pillow applies its limit inside its GIF reader
            assert read_picture(content).size == (40, 40), name


# --- writing ---------------------------------------------------------------------------------------------------------


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
