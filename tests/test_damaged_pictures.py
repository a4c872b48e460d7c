import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import ICC, XMP, make_exif, make_png, with_pillow
from PIL import Image as PillowImage

from codec_wrappers import Metadata
from codec_wrappers.errors import CodecError
from enhancer.errors import ImageError
from enhancer.image_io import (
    Picture,
    encode_picture,
    read_picture,
)


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
