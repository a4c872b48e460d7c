"""Picture files in and out, whole: depth, alpha, gray, ICC profile, EXIF, XMP and resolution are kept.

The content decides the format when reading, the suffix (or a name) when writing. No torch in here.
"""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np

from codec_wrappers import get_codec, identify
from codec_wrappers.base import DEFAULT_MAX_PIXELS, check_image
from codec_wrappers.errors import BitstreamError, UnknownCodecError
from codec_wrappers.jpeg_tables import parse_jpeg, with_dpi
from enhancer.errors import ImageError
from enhancer.files import write_atomically
from enhancer.formats import png, pnm, simple, tiff
from enhancer.formats.picture import Picture, stripped, upright

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "Picture",
    "encode_picture",
    "is_plain_picture",
    "picture_format",
    "picture_suffixes",
    "read_picture",
    "stripped",
    "upright",
    "write_picture",
]

_SUFFIXES = {
    ".png": "png",
    ".ppm": "ppm",
    ".pgm": "pgm",
    ".pnm": "pnm",
    ".pam": "pam",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".avif": "avif",
    ".heic": "heic",
    ".heif": "heic",
    ".jp2": "jpeg2000",
}
# Lossy formats are written so that a second loss is hardly seen; a chosen rate is the codecs' own job.
_LOSSY = {"jpeg": ("444", 95), "webp": (None, 95), "avif": ("444", 90), "heic": ("444", 90), "jpeg2000": (None, 480)}

_PIXELS_ONLY = {"ppm", "pgm", "pnm", "pam", "bmp"}
_WITH_ALPHA = {"png", "tiff", "pam", "webp", "avif", "heic"}
_DEEP = {"png", "tiff", "ppm", "pgm", "pnm", "pam", "heic", "jpeg2000"}


def read_picture(source: str | Path | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Reads a picture file or a bitstream of any registered codec.

    Pixels are as stored: the EXIF orientation is kept in the metadata and not applied (see
    :func:`upright`). Palette and CMYK become RGB as Pillow converts them, gray with alpha becomes RGBA,
    other depths than 8 and 16 are scaled to the next of the two.

    Args:
        source: Path of a file, or its content.
        max_pixels: Pictures that claim more are refused before anything is allocated for them.

    Raises:
        ImageError: If the file cannot be read, or is damaged, truncated, animated, too large or of an
            unknown kind.
        CodecError: If the codec of a bitstream is not available here or fails otherwise.
    """
    if isinstance(source, bytes):
        return _read_bytes(source, max_pixels)
    try:
        return _read_bytes(Path(source).read_bytes(), max_pixels)
    except OSError as error:
        raise ImageError(f"cannot read {source}: {error.strerror or error}") from error
    except ImageError as error:
        raise ImageError(f"{source}: {error}") from error


def _read_bytes(data: bytes, max_pixels: int) -> Picture:
    if not data:
        raise ImageError("the file is empty")
    if data.startswith(png.MAGIC):
        return png.read(data, max_pixels)
    if data.startswith(tiff.MAGICS):
        return tiff.read(data, max_pixels)
    if _is_pnm(data):
        return pnm.read(data, max_pixels)
    if _is_bmp(data) or data.startswith(simple.GIF_MAGICS):
        return simple.read(data, max_pixels)
    try:
        name = identify(data)
        decoded = get_codec(name, max_pixels=max_pixels).decode(data)
    except UnknownCodecError as error:
        raise ImageError("not a picture of any known kind") from error
    except BitstreamError as error:
        raise ImageError(str(error)) from error
    dpi = parse_jpeg(data).dpi if name == "jpeg" else None
    return Picture(decoded.image, decoded.metadata, dpi, name, decoded.info, unrounded=decoded.unrounded)


def is_plain_picture(head: bytes) -> bool:
    """Whether a file that begins so (64 bytes suffice) is PNG, PNM, TIFF, BMP or GIF: no codec's bitstream."""
    return head.startswith((png.MAGIC, *tiff.MAGICS, *simple.GIF_MAGICS)) or _is_pnm(head) or _is_bmp(head)


def _is_pnm(head: bytes) -> bool:
    return head.startswith(pnm.MAGICS) and (head[2:3].isspace() or head[2:3] == b"#")


def _is_bmp(head: bytes) -> bool:
    """Two letters alone would match any text that begins with BM: the size of the header follows at 14."""
    return head.startswith(simple.BMP_MAGIC) and head[14:18] in [
        size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)
    ]


def picture_suffixes() -> tuple[str, ...]:
    """All file suffixes that :func:`write_picture` knows."""
    return tuple(_SUFFIXES)


def picture_format(path: str | PurePath) -> str:
    """Name of the format that files with the suffix of ``path`` are written in.

    Raises:
        ImageError: If the suffix is unknown; the message lists the known ones.
    """
    suffix = PurePath(path).suffix.lower()
    if suffix not in _SUFFIXES:
        found = f"suffix {suffix}" if suffix else f"name {PurePath(path).name!r} without suffix"
        raise ImageError(f"no picture format for the {found}; known: {' '.join(_SUFFIXES)}")
    return _SUFFIXES[suffix]


def encode_picture(picture: Picture, format: str) -> bytes:  # noqa: A002  (the word that users know)
    """The content of a picture file.

    Everything is kept that the format can hold: PNG and TIFF hold all of a :class:`Picture`; the lossy
    formats EXIF, ICC profile and XMP; PNM, PAM and BMP only pixels, which are turned as the EXIF
    orientation says. Lossy formats are written at a high quality (JPEG 95 without chroma subsampling).

    Args:
        picture: What to write.
        format: A value of :func:`picture_format`, or a suffix without its dot.

    Raises:
        ImageError: If the format is unknown, or cannot hold colour, the alpha channel or 16 bits.
        CodecError: If a codec is not available here or fails.
    """
    check_image(picture.image, channels=(1, 3, 4), depths=(8, 16))
    name = _SUFFIXES.get(f".{format.lower()}", format.lower())
    _check_capacity(picture, name)
    if name == "png":
        return png.encode(picture)
    if name == "tiff":
        return tiff.encode(picture)
    if name in _PIXELS_ONLY:
        picture = upright(picture)
        return simple.encode_bmp(picture) if name == "bmp" else pnm.encode(picture.image, as_pam=name == "pam")
    chroma, quality = _LOSSY[name]
    options = {} if chroma is None else {"chroma": chroma}
    content = get_codec(name, **options).encode(picture.image, quality, metadata=picture.metadata)
    return with_dpi(content, picture.dpi) if name == "jpeg" else content


def _check_capacity(picture: Picture, name: str) -> None:
    """Raises ``ImageError`` unless the format exists and holds the channels and depth of the picture."""
    if name not in _SUFFIXES.values():
        raise ImageError(f"unknown picture format {name!r}; known: {' '.join(sorted(set(_SUFFIXES.values())))}")
    if name == "pgm" and picture.image.ndim == 3:
        raise ImageError("pgm holds gray pictures only; ppm, pnm and pam hold colour")
    if name not in _WITH_ALPHA and picture.image.ndim == 3 and picture.image.shape[2] == 4:
        raise ImageError(f"{name} cannot hold an alpha channel; {' '.join(sorted(_WITH_ALPHA))} can")
    if name not in _DEEP and picture.image.dtype == np.uint16:
        raise ImageError(f"{name} holds 8 bits per sample, this picture has 16; {' '.join(sorted(_DEEP))} hold more")


def write_picture(
    path: str | Path,
    picture: Picture,
    *,
    format: str | None = None,  # noqa: A002  (the word that users know)
    overwrite: bool = False,
) -> None:
    """Writes a picture file, whole or not at all; see :func:`write_atomically`.

    Args:
        path: File to write.
        picture: What to write.
        format: Name of the format; by default the suffix of ``path`` decides.
        overwrite: Whether an existing file may be replaced.

    Raises:
        EnhancerError: If the file exists or cannot be written.
        ImageError, CodecError: See :func:`encode_picture`.
    """
    write_atomically(path, encode_picture(picture, format or picture_format(path)), overwrite=overwrite)
