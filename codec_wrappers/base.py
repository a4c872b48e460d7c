"""The types that all codecs share: pictures, quality ranges, results, the ``Codec`` protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import BitstreamError

Image: TypeAlias = npt.NDArray[Any]
"""sRGB picture, uint8 or uint16 (full range of the type): ``(H, W)`` gray, ``(H, W, 3)`` RGB or
``(H, W, 4)`` RGB with straight (not premultiplied) alpha. H, W >= 1."""

Chroma: TypeAlias = Literal["400", "420", "422", "444"]

DEFAULT_MAX_PIXELS = 1 << 28
"""Pictures that claim more pixels than this are refused before anything is allocated for them."""


@dataclass(frozen=True)
class QpRange:
    """Limits (inclusive) and direction of a codec's native quality index.

    Attributes:
        low: Smallest index.
        high: Largest index.
        rate_rises: True when a larger index costs more bits (JPEG quality), False for a
            quantisation parameter (BPG, VVC).
    """

    low: int
    high: int
    rate_rises: bool

    def check(self, qp: int) -> None:
        """Raises ``ValueError`` unless ``qp`` is an integer within the limits."""
        if int(qp) != qp or not self.low <= qp <= self.high:
            raise ValueError(f"qp must be an integer in {self.low}..{self.high}, got {qp}")

    def by_rate(self) -> range:
        """All indices, cheapest (fewest bits) first."""
        return range(self.low, self.high + 1) if self.rate_rises else range(self.high, self.low - 1, -1)


@dataclass(frozen=True)
class FineKnob:
    """A continuous encoder option that moves the rate between two neighbouring qps.

    Attributes:
        option: Name of the codec's field, e.g. ``lambda_scale``; 1.0 is neutral and a larger value
            costs fewer bits. ``dataclasses.replace(codec, **{option: value})`` applies it.
        low: Smallest useful value (most bits).
        high: Largest useful value (fewest bits).
    """

    option: str
    low: float
    high: float


@dataclass(frozen=True)
class Metadata:
    """What a picture file carries beside pixels; each part is the raw payload or None.

    Attributes:
        exif: TIFF structure, without the ``Exif\\0\\0`` prefix of JPEG.
        icc: ICC profile.
        xmp: XMP packet, UTF-8 XML.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None

    def __bool__(self) -> bool:
        return not (self.exif is None and self.icc is None and self.xmp is None)


NO_METADATA = Metadata()


@dataclass(frozen=True)
class CodingInfo:
    """What the bitstream itself says about how it was coded.

    Attributes:
        codec: Registered name of the codec.
        qp: Quantisation parameter of the (first) slice for HEVC and VVC, quality derived from the
            tables for JPEG, None where the format does not tell. For VVC this is the slice QP:
            vvenc codes intra pictures at its ``-q`` minus 3.
        chroma: Chroma format of the coded picture.
        bit_depth: Bits per sample of the coded picture.
    """

    codec: str
    qp: float | None
    chroma: Chroma
    bit_depth: int


def nothing_finer() -> Image | None:
    """What a decoder has that gives nothing but its picture of 8 or 16 bits; see :class:`Decoded`."""
    return None


@dataclass(frozen=True)
class Decoded:
    """A decoded picture together with what its bitstream says.

    ``image`` is uint8 for 8-bit bitstreams, uint16 (full range) for deeper ones, unless the codec's
    documentation says otherwise.

    Attributes:
        image: The picture, as the codec's decoders show it.
        info: How it was coded.
        metadata: What the bitstream holds besides.
        unrounded: Returns the picture before it was rounded to ``image``: uint16, full range, of the same shape; None
            if the decoder has nothing finer. Interpolated chroma and the conversion to RGB leave fractions, which
            ``image`` loses: noise with a mean square of 0.08 to 0.3 steps of 255, which counts where a codec's own
            error is small. (JPEG is decoded anew for it, by FFmpeg, whose inverse transform rounds in its own way.)
    """

    image: Image
    info: CodingInfo
    metadata: Metadata = field(default=NO_METADATA)
    unrounded: Callable[[], Image | None] = field(default=nothing_finer, repr=False, compare=False)


@runtime_checkable
class Codec(Protocol):
    """A picture codec: a frozen dataclass whose fields are its encoder options.

    Instances compare, hash, print and pickle; all state is in the options.

    Attributes:
        name: Registered name.
        suffixes: File suffixes with the dot, the preferred one first.
        qp_range: Limits and direction of ``qp``.
        fine_knob: Continuous option for the last percent of rate control, or None.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    qp_range: ClassVar[QpRange]
    fine_knob: ClassVar[FineKnob | None]

    @classmethod
    def matches(cls, head: bytes) -> bool:
        """Tells from the first bytes (64 suffice) whether this codec reads the bitstream."""
        ...

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        """One entry per backend: usable here or not, with version or reason. Never raises."""
        ...

    def probe(self) -> Self:
        """A cheaper configuration whose rate is close to this one's; itself if there is none."""
        ...

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        """Returns the bitstream of ``image``, container included; stores ``metadata`` if it can.

        Raises:
            ValueError: If ``qp``, the shape or the dtype of ``image`` is not supported.
            CodecUnavailableError: If a needed program or library is missing.
            CodecError: If encoding fails.
        """
        ...

    def decode(self, bitstream: bytes) -> Decoded:
        """Returns the first picture of ``bitstream`` and what the bitstream says.

        Raises:
            BitstreamError: If ``bitstream`` cannot be decoded, or claims more than the codec's
                ``max_pixels``.
            CodecUnavailableError: If a needed program or library is missing.
        """
        ...


@dataclass(frozen=True)
class Availability:
    """Whether one backend of a codec works on this machine.

    Attributes:
        backend: Name of the backend, e.g. ``pyav``.
        available: Whether it can encode and decode here.
        detail: Version if available, otherwise the reason and the remedy, one line.
    """

    backend: str
    available: bool
    detail: str


def bits_per_pixel(bitstream: bytes, image: Image) -> float:
    """Rate in bits per pixel of the full-resolution picture: ``8 * bytes / (H * W)``."""
    height, width = image.shape[:2]
    return 8.0 * len(bitstream) / float(height * width)


def check_image(image: Image, *, channels: tuple[int, ...] = (1, 3), depths: tuple[int, ...] = (8,)) -> None:
    """Raises ``ValueError`` unless ``image`` is a picture as :data:`Image` says.

    Args:
        image: The array to check.
        channels: Allowed channel counts; 1 stands for a two-dimensional gray picture.
        depths: Allowed bits per sample of the type: 8 (uint8), 16 (uint16).
    """
    if image.dtype not in [np.dtype(f"uint{depth}") for depth in depths]:
        raise ValueError(f"image must be {' or '.join(f'uint{d}' for d in depths)}, got {image.dtype}")
    found = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if found not in channels or (image.ndim == 3 and found == 1):
        raise ValueError(f"image must be (H, W) or (H, W, C) with {channels} channels, got shape {image.shape}")
    if 0 in image.shape:
        raise ValueError(f"image must have at least one pixel, got shape {image.shape}")


def check_option(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises ``ValueError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Raises ``ValueError`` unless ``value`` lies between the limits (inclusive)."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, got {value}")


def check_positive(name: str, value: float) -> None:
    """Raises ``ValueError`` unless ``value`` is above zero."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises ``BitstreamError`` when a header claims no pixel or more than ``max_pixels``."""
    if width < 1 or height < 1:
        raise BitstreamError(f"the header claims an empty picture, {width} x {height}")
    if width * height > max_pixels:
        raise BitstreamError(
            f"the header claims {width} x {height} pixels, above the limit of {max_pixels} (max_pixels raises it)"
        )
