"""A picture as files carry it, and its orientation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from codec_wrappers import CodingInfo, Image, Metadata
from codec_wrappers.base import NO_METADATA, nothing_finer
from codec_wrappers.orientation import exif_orientation, turned, with_orientation
from enhancer.errors import ImageError


@dataclass(frozen=True)
class Picture:
    """Pixels as stored (the EXIF orientation is not applied) and what else the file says.

    Attributes:
        image: uint8 or uint16, gray, RGB or RGBA with straight alpha.
        metadata: EXIF, ICC profile, XMP.
        dpi: Horizontal and vertical resolution in pixels per inch.
        source_format: Name of the file format or codec the picture was read from.
        info: How the picture was coded, if it was read from a bitstream of a codec.
        color_chunks: The PNG chunks gAMA, cHRM, sRGB and cICP; only PNG files keep them.
        unrounded: As of :class:`codec_wrappers.Decoded`.
    """

    image: Image
    metadata: Metadata = NO_METADATA
    dpi: tuple[float, float] | None = None
    source_format: str | None = None
    info: CodingInfo | None = None
    color_chunks: tuple[tuple[bytes, bytes], ...] = ()
    unrounded: Callable[[], Image | None] = field(default=nothing_finer, repr=False, compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as stored."""
        height, width = self.image.shape[:2]
        return height, width


def check_claim(width: int, height: int, max_pixels: int) -> None:
    """Raises ``ImageError`` when a header claims no pixel or more than ``max_pixels``."""
    if width < 1 or height < 1:
        raise ImageError(f"the header claims an empty picture, {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(
            f"the header claims {width} x {height} pixels, above the limit of {max_pixels} (max_pixels raises it)"
        )


def upright(picture: Picture) -> Picture:
    """The picture turned as its EXIF orientation says, with the orientation 1 afterwards."""
    orientation = exif_orientation(picture.metadata.exif)
    if orientation == 1:
        return picture
    dpi = picture.dpi[::-1] if picture.dpi and orientation >= 5 else picture.dpi
    metadata = replace(picture.metadata, exif=with_orientation(picture.metadata.exif, 1))
    image = turned(picture.image, orientation)
    return replace(picture, image=image, metadata=metadata, dpi=dpi, unrounded=nothing_finer)


def stripped(picture: Picture) -> Picture:
    """The picture without EXIF, XMP and resolution; what the EXIF orientation says is done to the pixels.

    The ICC profile stays: without it the pixels would mean other colours.
    """
    picture = upright(picture)
    return replace(picture, metadata=Metadata(icc=picture.metadata.icc), dpi=None)
