"""BMP and GIF through Pillow: formats without metadata that matters here."""

from __future__ import annotations

import io
import struct

import numpy as np

from enhancer.errors import ImageError, one_line
from enhancer.formats.picture import Picture, check_claim

BMP_MAGIC = b"BM"
GIF_MAGICS = (b"GIF87a", b"GIF89a")


def read(data: bytes, max_pixels: int) -> Picture:
    """Reads a BMP file or a GIF file of one frame; a palette becomes RGB, transparency an alpha channel.

    Raises:
        ImageError: If the file is damaged, truncated, animated or larger than ``max_pixels``.
    """
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.GifImagePlugin import GifImageFile

    name, opener = ("bmp", BmpImageFile) if data.startswith(BMP_MAGIC) else ("gif", GifImageFile)
    if name == "gif" and len(data) >= 10:
        width, height = struct.unpack_from("<HH", data, 6)
        check_claim(width, height, max_pixels)
    try:
        # The class, not Image.open: the size is checked here, against the caller's own limit.
        with opener(io.BytesIO(data)) as file:
            check_claim(*file.size, max_pixels)
            if getattr(file, "is_animated", False):
                raise ImageError("the GIF file is animated; only still pictures are supported")
            file.load()
            has_alpha = file.mode in ("RGBA", "LA", "PA") or "transparency" in file.info
            mode = "RGBA" if has_alpha else "L" if file.mode in ("L", "1") else "RGB"
            image = np.asarray(file.convert(mode))
            dpi = file.info.get("dpi")
    except ImageError:
        raise
    except Exception as error:  # Pillow raises anything on hostile data, from struct.error to DecompressionBombError
        raise ImageError(f"the {name.upper()} file is damaged or truncated: {one_line(error)}") from error
    return Picture(image, dpi=dpi if dpi and min(dpi) > 0 else None, source_format=name)


def encode_bmp(picture: Picture) -> bytes:
    """Writes a BMP file, gray or RGB, 8 bits."""
    from PIL import Image as PillowImage

    buffer = io.BytesIO()
    options = {} if picture.dpi is None else {"dpi": picture.dpi}
    PillowImage.fromarray(picture.image).save(buffer, "BMP", **options)
    return buffer.getvalue()
