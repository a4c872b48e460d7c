"""Picture files, metadata and a measure for the tests of file formats and codecs."""

import io
import struct
import zlib

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageCms

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


def psnr(decoded, image):
    error = np.mean((decoded.astype(np.float64) - image) ** 2)
    return np.inf if error == 0 else 10 * np.log10(np.iinfo(image.dtype).max ** 2 / error)
