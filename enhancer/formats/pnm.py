"""Netpbm files: PBM, PGM, PPM (plain and raw) and PAM, any maximum value up to 65535.

Source: the manual pages pbm(5), pgm(5), ppm(5), pam(5) of Netpbm.
"""

from __future__ import annotations

import re

import numpy as np

from codec_wrappers import Image
from codec_wrappers.samples import full_range
from enhancer.errors import ImageError
from enhancer.formats.picture import Picture, check_claim

MAGICS = tuple(f"P{digit}".encode() for digit in range(1, 8))
_TOKEN = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*([^\s#]+)")
_MAX_HEADER = 1 << 16


def read(data: bytes, max_pixels: int) -> Picture:
    """Reads one Netpbm picture; samples are scaled to the full range of 8 or 16 bits.

    Raises:
        ImageError: If the file is damaged, truncated, holds several pictures or more than ``max_pixels``.
    """
    digit = data[1] - ord("0")
    width, height, channels, maximum, start = _pam_header(data) if digit == 7 else _header(data, digit)
    check_claim(width, height, max_pixels)
    if not 1 <= maximum <= 65535:
        raise ImageError(f"the maximum value of the Netpbm file must be 1 to 65535, not {maximum}")
    shape = (height, width, channels)
    if digit == 4:
        samples, end = _packed_bits(data, start, width, height)
    elif digit <= 3:
        samples, end = _plain(data[start:], height * width * channels, bits=digit == 1), len(data)
    else:
        sample_type = np.dtype(np.uint8 if maximum < 256 else ">u2")
        end = start + height * width * channels * sample_type.itemsize
        _check_length(data, end)
        samples = np.frombuffer(data, sample_type, count=height * width * channels, offset=start)
    if re.match(rb"\s*P[1-7]\s", data[end : end + 64]):
        raise ImageError("the Netpbm file holds several pictures; only one is supported")
    return Picture(_to_image(samples.reshape(shape), maximum), source_format="pam" if digit == 7 else "pnm")


def _check_length(data: bytes, end: int) -> None:
    if end > len(data):
        raise ImageError(f"the Netpbm file is truncated: {len(data)} bytes instead of {end}")


def _header(data: bytes, digit: int) -> tuple[int, int, int, int, int]:
    """Width, height, channels, maximum value and the offset of the samples, for P1 to P6."""
    numbers: list[int] = []
    position = 2
    while len(numbers) < (2 if digit in (1, 4) else 3):
        match = _TOKEN.match(data, position, _MAX_HEADER)
        if not match or not match[1].isdigit() or len(match[1]) > 10:
            raise ImageError("the header of the Netpbm file is damaged or truncated")
        numbers.append(int(match[1]))
        position = match.end()
    channels = 3 if digit in (3, 6) else 1
    return numbers[0], numbers[1], channels, numbers[2] if len(numbers) == 3 else 1, position + 1


def _pam_header(data: bytes) -> tuple[int, int, int, int, int]:
    end = data.find(b"ENDHDR\n", 0, _MAX_HEADER)
    if end < 0:
        raise ImageError("the header of the PAM file is damaged or truncated")
    fields: dict[bytes, int] = {}
    for line in data[2:end].splitlines():
        name, _, value = line.strip().partition(b" ")
        if name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL") and value.strip().isdigit() and len(value) <= 12:
            fields[name] = int(value)
    if len(fields) != 4:
        raise ImageError("the header of the PAM file is damaged or truncated")
    if fields[b"DEPTH"] not in (1, 2, 3, 4):
        raise ImageError(f"PAM files of 1 to 4 channels are supported, not {fields[b'DEPTH']}")
    return fields[b"WIDTH"], fields[b"HEIGHT"], fields[b"DEPTH"], fields[b"MAXVAL"], end + 7


def _plain(text: bytes, count: int, *, bits: bool) -> Image:
    """Samples written as decimal numbers, or as single digits in a plain PBM file (1 is black)."""
    text = re.sub(rb"#[^\n\r]*", b" ", text)
    words = re.findall(rb"[01]", text) if bits else text.split()
    if len(words) < count:
        raise ImageError(f"the Netpbm file is truncated: {len(words)} samples instead of {count}")
    try:
        samples = np.array(words[:count], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ImageError("the Netpbm file has samples that are not numbers") from error
    return 1 - samples if bits else samples


def _packed_bits(data: bytes, start: int, width: int, height: int) -> tuple[Image, int]:
    stride = (width + 7) // 8
    end = start + height * stride
    _check_length(data, end)
    rows = np.frombuffer(data, np.uint8, count=height * stride, offset=start).reshape(height, stride)
    return 1 - np.unpackbits(rows, axis=1, count=width), end


def _to_image(samples: Image, maximum: int) -> Image:
    """Samples in the full range of uint8 or uint16; gray loses its axis, gray with alpha becomes RGBA."""
    if int(samples.max()) > maximum or int(samples.min()) < 0:
        raise ImageError(f"the Netpbm file has samples above its maximum value {maximum}")
    image = full_range(samples, maximum)
    channels = image.shape[2]
    if channels == 1:
        return image[..., 0]
    return image[..., [0, 0, 0, 1]] if channels == 2 else image


def encode(image: Image, *, as_pam: bool) -> bytes:
    """Writes a PAM file, or a raw PGM (gray) or PPM file (RGB); there is no place for metadata."""
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    maximum = np.iinfo(image.dtype).max
    if as_pam:
        kind = {1: "GRAYSCALE", 3: "RGB", 4: "RGB_ALPHA"}[channels]
        header = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {channels}\nMAXVAL {maximum}\nTUPLTYPE {kind}\nENDHDR\n"
    else:
        header = f"P{5 if channels == 1 else 6}\n{width} {height}\n{maximum}\n"
    return header.encode() + image.astype(image.dtype.newbyteorder(">")).tobytes()
