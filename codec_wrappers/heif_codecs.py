"""AVIF and HEIC: still pictures of AV1 and HEVC in a file of boxes.

Encoded by Pillow (libavif, libaom) and pillow-heif (libheif, x265), decoded by imagecodecs (libavif,
dav1d) and pillow-heif (libde265).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self, get_args

import numpy as np

from codec_wrappers.base import (
    DEFAULT_MAX_PIXELS,
    NO_METADATA,
    Availability,
    CodingInfo,
    Decoded,
    FineKnob,
    Image,
    Metadata,
    QpRange,
    check_image,
    check_option,
    check_pixels,
    check_positive,
    nothing_finer,
)
from codec_wrappers.errors import BitstreamError
from codec_wrappers.heif_planes import unrounded_heif
from codec_wrappers.heif_quality import avif_quality, heic_quality
from codec_wrappers.isobmff import ItemFile, brands, parse_items
from codec_wrappers.orientation import turned_back
from codec_wrappers.pillow_codecs import (
    ColorChroma,
    decoding,
    encoding,
    pillow_availability,
    save_with_pillow,
)
from codec_wrappers.samples import full_range, straight_alpha

_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")


def _parse(bitstream: bytes, name: str, max_pixels: int) -> ItemFile:
    """What the boxes say; raises ``BitstreamError`` for animations and too large pictures."""
    file = parse_items(bitstream)
    if file.is_sequence:
        raise BitstreamError(f"the {name} file is animated; only still pictures are supported")
    for width, height in file.sizes:
        check_pixels(width, height, max_pixels)
    return file


@dataclass(frozen=True)
class AvifCodec:
    """AVIF, 8 bits, coded by libaom through Pillow; ``qp`` is libavif's quality.

    Gray pictures are coded as 4:0:0 and stay gray. Files of 10 and 12 bits are decoded to uint16. The
    EXIF orientation is stored as the format wants it, as a property of the picture, and comes back as
    EXIF; other EXIF fields then keep their values, though not their places.

    Args:
        chroma: Sampling of the chroma planes of a colour picture.
        speed: 0 (small) to 10 (fast).
        threads: Threads of the encoder.
        max_pixels: Files that claim more are refused.
    """

    chroma: ColorChroma = "420"
    speed: int = 6
    threads: int = 1
    max_pixels: int = DEFAULT_MAX_PIXELS

    name: ClassVar[str] = "avif"
    suffixes: ClassVar[tuple[str, ...]] = (".avif",)
    qp_range: ClassVar[QpRange] = QpRange(0, 100, rate_rises=True)
    fine_knob: ClassVar[FineKnob | None] = None

    def __post_init__(self) -> None:
        check_option("chroma", self.chroma, get_args(ColorChroma))
        check_option("speed", self.speed, tuple(range(11)))
        check_positive("threads", self.threads)
        check_positive("max_pixels", self.max_pixels)

    @classmethod
    def matches(cls, head: bytes) -> bool:
        found = brands(head)
        return bool(found) and (found[0] in _AVIF_BRANDS or (found[0] not in _HEIC_BRANDS and b"avif" in found))

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        return pillow_availability("avif", "libavif")

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        """Returns an AVIF file.

        Raises:
            ValueError: If ``qp``, the shape or the dtype is not supported.
            CodecError: If a side is above 65535 pixels.
        """
        self.qp_range.check(qp)
        check_image(image, channels=(1, 3, 4))
        chroma = "4:0:0" if image.ndim == 2 else ":".join(self.chroma)
        return save_with_pillow(
            image, "AVIF", metadata, quality=int(qp), subsampling=chroma, speed=self.speed, max_threads=self.threads
        )

    def decode(self, bitstream: bytes) -> Decoded:
        """Returns the picture as stored, the rotation and mirror properties as EXIF orientation.

        The reported quality is that of libavif for the same quantiser. ``unrounded`` has chroma interpolated by a
        better filter than libavif's linear one, and is there for files of 10 and 12 bits, too.

        Raises:
            BitstreamError: If the file is damaged, truncated, animated or larger than ``max_pixels``.
        """
        import imagecodecs

        file = _parse(bitstream, "AVIF", self.max_pixels)
        with decoding("AVIF"):
            image: Image = imagecodecs.avif_decode(bitstream, numthreads=1)
        if file.chroma == "400" and image.ndim == 3 and image.shape[2] == 3:
            image = np.ascontiguousarray(image[..., 0])
        quality = avif_quality(file.configuration, file.tiles[0])
        info = CodingInfo(self.name, quality, file.chroma, file.bit_depth)
        image = full_range(image, (1 << file.bit_depth) - 1)
        return Decoded(image, info, file.metadata, partial(unrounded_heif, "libdav1d", file, image))


@dataclass(frozen=True)
class HeicCodec:
    """HEIC, 8 or 10 bits, coded by x265 through pillow-heif; ``qp`` is libheif's quality.

    uint8 pictures are coded with 8 bits, uint16 with 10. Gray pictures are coded as 4:0:0 and stay gray.

    Args:
        chroma: Sampling of the chroma planes of a colour picture.
        preset: x265 preset.
        max_pixels: Files that claim more are refused.
    """

    chroma: ColorChroma = "420"
    preset: str = "slow"
    max_pixels: int = DEFAULT_MAX_PIXELS

    name: ClassVar[str] = "heic"
    suffixes: ClassVar[tuple[str, ...]] = (".heic", ".heif")
    qp_range: ClassVar[QpRange] = QpRange(0, 100, rate_rises=True)
    fine_knob: ClassVar[FineKnob | None] = None

    def __post_init__(self) -> None:
        check_option("chroma", self.chroma, get_args(ColorChroma))
        check_option("preset", self.preset, _PRESETS)
        check_positive("max_pixels", self.max_pixels)

    @classmethod
    def matches(cls, head: bytes) -> bool:
        found = brands(head)
        heic = bool(found) and (found[0] in _HEIC_BRANDS or any(brand in _HEIC_BRANDS for brand in found))
        return heic and not AvifCodec.matches(head)

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        try:
            import pillow_heif

            encoder = pillow_heif.libheif_info()["HEIF"]
        except (ImportError, KeyError) as error:
            return (Availability("pillow-heif", False, f"{error}; install pillow-heif"),)
        if not encoder:
            return (Availability("pillow-heif", False, "libheif was built without an HEVC encoder"),)
        return (Availability("pillow-heif", True, f"libheif {pillow_heif.libheif_version()}, {encoder}"),)

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        """Returns a HEIC file.

        Raises:
            ValueError: If ``qp``, the shape or the dtype is not supported.
            CodecError: If x265 fails.
        """
        import pillow_heif

        self.qp_range.check(qp)
        check_image(image, channels=(1, 3, 4), depths=(8, 16))
        mode = "L" if image.ndim == 2 else "RGB" if image.shape[2] == 3 else "RGBA"
        options: dict[str, Any] = {"exif": metadata.exif, "icc_profile": metadata.icc, "xmp": metadata.xmp}
        if image.dtype == np.uint16:
            image = ((image.astype(np.uint32) * 1023 + 32767) // 65535).astype("<u2")
            mode, options["bit_depth"] = f"{mode};10", 10
        if image.ndim == 3:
            options["chroma"] = self.chroma
        buffer = io.BytesIO()
        with encoding("HEIC"):
            pillow_heif.encode(
                mode,
                image.shape[1::-1],
                np.ascontiguousarray(image).tobytes(),
                buffer,
                quality=int(qp),
                enc_params={"preset": self.preset},
                **{name: value for name, value in options.items() if value is not None},
            )
        return buffer.getvalue()

    def decode(self, bitstream: bytes) -> Decoded:
        """Returns the picture as stored, the rotation and mirror properties as EXIF orientation.

        Premultiplied alpha is made straight. The reported quality is that of libheif with x265 for the
        same slice QP. ``unrounded`` has chroma interpolated, which libheif repeats, and is there for files of 10 bits,
        too.

        Raises:
            BitstreamError: If the file is damaged, truncated, animated or larger than ``max_pixels``.
        """
        import pillow_heif

        file = _parse(bitstream, "HEIC", self.max_pixels)
        with decoding("HEIC"):
            picture = pillow_heif.open_heif(bitstream, convert_hdr_to_8bit=False)
            image = np.asarray(picture)
        if image.dtype == np.uint16:  # libheif's samples, moved to the upper bits
            image = full_range(image >> (16 - file.bit_depth), (1 << file.bit_depth) - 1)
        channels = 1 if image.ndim == 2 else image.shape[2]
        if channels == 2:
            image = image[..., [0, 0, 0, 1]]
        image = turned_back(image, file.orientation)
        unrounded: Callable[[], Image | None] = partial(unrounded_heif, "hevc", file, image)
        if picture.premultiplied_alpha:
            image, unrounded = straight_alpha(image), nothing_finer
        quality = heic_quality(file.configuration, file.tiles[0])
        info = CodingInfo(self.name, quality, file.chroma, file.bit_depth)
        return Decoded(image, info, file.metadata, unrounded)
