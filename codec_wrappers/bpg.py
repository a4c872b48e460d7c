"""The BPG codec: one HEVC intra picture in a BPG file, by libx265 and FFmpeg or by libbpg's programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import numpy as np

from codec_wrappers.base import (
    DEFAULT_MAX_PIXELS,
    NO_METADATA,
    Availability,
    Chroma,
    CodingInfo,
    Decoded,
    FineKnob,
    Image,
    Metadata,
    QpRange,
    check_image,
    check_pixels,
)
from codec_wrappers.bpg_color import image_to_planes, planes_to_image, premultiply, unpremultiply
from codec_wrappers.bpg_container import (
    COLOR_SPACES,
    MAGIC,
    BpgFile,
    BpgHeader,
    HevcData,
    read_file,
    read_header,
    write_file,
)
from codec_wrappers.errors import BitstreamError, CodecError
from codec_wrappers.hevc import X265Settings, decode_intra, encode_intra, encoder_version
from codec_wrappers.hevc_syntax import slice_qp

Preset = Literal["reference", "tuned", "fast"]


@dataclass(frozen=True)
class BpgCodec:
    """BPG files (F. Bellard's Better Portable Graphics).

    Attributes:
        preset: ``reference`` is x265 ``placebo`` without psycho-visual options, which matches the
            reference encoder; ``tuned`` spends more on chroma and shifts the Lagrange multiplier,
            for a better RGB-PSNR; ``fast`` is for quick results.
        chroma: Chroma format of colour pictures; gray ones are stored as such.
        bit_depth: Bits per sample of the file.
        chroma_siting: Horizontal position of subsampled chroma: between two luma samples or on the left one.
        color_space: Colour space of the planes; ``rgb`` needs chroma 444.
        limited_range: Leave head- and footroom in the planes.
        premultiplied: Store colours multiplied by alpha.
        lossless: Store RGB planes without loss, whatever ``chroma``, ``color_space`` and ``qp`` say.
        lambda_scale: Factor on the preset's Lagrange multiplier; a larger one costs fewer bits.
        output_depth: Bits per sample of decoded pictures: 8, 16, or ``auto``: 16 for files above 8 bits.
        max_pixels: Larger pictures are not decoded.
    """

    preset: Preset = "reference"
    chroma: Chroma = "420"
    bit_depth: int = 8
    chroma_siting: Literal["center", "left"] = "center"
    color_space: str = "bt601"
    limited_range: bool = False
    premultiplied: bool = False
    lossless: bool = False
    lambda_scale: float = 1.0
    output_depth: Literal["auto", 8, 16] = "auto"
    max_pixels: int = DEFAULT_MAX_PIXELS

    name: ClassVar[str] = "bpg"
    suffixes: ClassVar[tuple[str, ...]] = (".bpg",)
    qp_range: ClassVar[QpRange] = QpRange(0, 51, rate_rises=False)
    fine_knob: ClassVar[FineKnob | None] = FineKnob("lambda_scale", 0.7, 1.4)

    def __post_init__(self) -> None:
        allowed = {
            "preset": get_args(Preset),
            "chroma": ("420", "422", "444"),
            "bit_depth": (8, 10, 12),
            "chroma_siting": ("center", "left"),
            "color_space": COLOR_SPACES,
            "output_depth": ("auto", 8, 16),
        }
        for option, values in allowed.items():
            if getattr(self, option) not in values:
                raise ValueError(f"{option} must be one of {values}, got {getattr(self, option)!r}")
        if self.color_space == "rgb" and self.chroma != "444":
            raise ValueError(f"color_space 'rgb' needs chroma '444', got {self.chroma!r}")
        if not 0.1 <= self.lambda_scale <= 10:
            raise ValueError(f"lambda_scale must be in 0.1..10, got {self.lambda_scale}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be positive, got {self.max_pixels}")

    @classmethod
    def matches(cls, head: bytes) -> bool:
        return head.startswith(MAGIC)

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        try:
            return (Availability("pyav", True, encoder_version()),)
        except CodecError as error:
            return (Availability("pyav", False, str(error)),)

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        self.qp_range.check(qp)
        check_image(image, channels=(1, 3, 4), depths=(8,) if self.bit_depth == 8 or self.lossless else (8, 16))
        header = self._header(image, metadata)
        alpha = image[..., 3] if header.alpha else None
        color = image if alpha is None else image[..., :3]
        if alpha is not None and header.premultiplied:
            color = premultiply(color, alpha)
        alpha_data = None
        if alpha is not None:
            alpha_data = self._encode_planes(alpha, "400", header, qp)
        color_data = self._encode_planes(color, header.chroma, header, qp)
        return write_file(BpgFile(header, color_data, alpha_data))

    def decode(self, bitstream: bytes) -> Decoded:
        header, _ = read_header(bitstream)
        check_pixels(header.width, header.height, self.max_pixels)
        file = read_file(bitstream)
        if header.extra_plane_is_w:
            raise BitstreamError("BPG files with CMYK colours cannot be read")
        depth = self.output_depth
        if depth == "auto":
            depth = 8 if header.bit_depth == 8 else 16
        image = _decode_color(file, depth)
        if file.alpha is not None:
            if image.ndim == 2:
                image = np.repeat(image[..., None], 3, axis=2)
            alpha = _decode_planes(file.alpha, "400", header, depth)
            if header.premultiplied:
                image = unpremultiply(image, alpha)
            image = np.dstack([image, alpha])
        qp = slice_qp(list(file.color.nals), sao=file.color.tools.sao, monochrome=header.chroma == "400")
        return Decoded(image, CodingInfo("bpg", qp, header.chroma, header.bit_depth), header.metadata)

    def _header(self, image: Image, metadata: Metadata) -> BpgHeader:
        gray = image.ndim == 2
        chroma: Chroma = "400" if gray else "444" if self.lossless else self.chroma
        return BpgHeader(
            width=image.shape[1],
            height=image.shape[0],
            chroma=chroma,
            left_sited=self.chroma_siting == "left" and chroma in ("420", "422"),
            bit_depth=self.bit_depth,
            color_space="bt601" if gray else "rgb" if self.lossless else self.color_space,
            limited_range=self.limited_range and not self.lossless,
            alpha=not gray and image.shape[2] == 4,
            premultiplied=self.premultiplied and not gray and image.shape[2] == 4,
            metadata=metadata,
        )

    def _encode_planes(self, image: Image, chroma: Chroma, header: BpgHeader, qp: int) -> HevcData:
        is_alpha = header.alpha and chroma == "400"
        planes = image_to_planes(
            image,
            chroma=chroma,
            left_sited=header.left_sited,
            bit_depth=header.bit_depth,
            color_space="bt601" if is_alpha else header.color_space,
            limited_range=header.limited_range and not is_alpha,
        )
        settings = self._settings(chroma)
        picture = encode_intra(planes, chroma, header.bit_depth, qp, settings, lossless=self.lossless)
        return HevcData(picture.tools, picture.nals)

    def _settings(self, chroma: Chroma) -> X265Settings:
        if self.preset == "reference":
            return X265Settings("placebo", (), self.lambda_scale)
        if self.preset == "fast":
            return X265Settings("medium", (), self.lambda_scale)
        # In 4:4:4 chroma offsets cost more than they gain.
        offsets = ("cbqpoffs=-4", "crqpoffs=-4") if chroma in ("420", "422") else ()
        extra = ("strong-intra-smoothing=0", "sao-non-deblock=1", *offsets)
        return X265Settings("placebo", extra, 0.85 * self.lambda_scale)


def _decode_planes(data: HevcData, chroma: Chroma, header: BpgHeader, output_depth: int) -> Image:
    planes = decode_intra(data.nals, data.tools, chroma, header.bit_depth, (header.height, header.width))
    is_alpha = header.alpha and chroma == "400"
    return planes_to_image(
        planes,
        chroma=chroma,
        left_sited=header.left_sited,
        bit_depth=header.bit_depth,
        color_space=header.color_space,
        limited_range=header.limited_range,
        output_depth=output_depth,
    )


def _decode_color(file: BpgFile, output_depth: int) -> Image:
    return _decode_planes(file.color, file.header.chroma, file.header, output_depth)
