"""The BPG codec: one HEVC intra picture in a BPG file, by libx265 and FFmpeg or by libbpg's programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
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
    check_option,
    check_pixels,
    check_positive,
    check_within,
)
from codec_wrappers.bpg_color import (
    Plane,
    SampleFormat,
    image_to_planes,
    multiply_white,
    planes_to_image,
    premultiply,
    unpremultiply,
)
from codec_wrappers.bpg_container import (
    COLOR_SPACES,
    MAGIC,
    BpgFile,
    BpgHeader,
    read_file,
    read_header,
    write_file,
    write_header,
)
from codec_wrappers.bpg_programs import programs, run_bpgdec, run_bpgenc
from codec_wrappers.errors import CodecError
from codec_wrappers.hevc import X265Settings, decode_intra, encode_intra, encoder_version
from codec_wrappers.hevc_syntax import HevcPicture, slice_qp

Preset = Literal["reference", "tuned", "fast"]


@dataclass(frozen=True)
class BpgCodec:
    """BPG files (F. Bellard's Better Portable Graphics).

    Attributes:
        preset: ``reference`` is x265 ``placebo`` without psycho-visual options, which matches the
            reference encoder; ``tuned`` spends more on chroma and shifts the Lagrange multiplier for a
            better RGB-PSNR (3 to 4 % fewer bits in 4:2:0); ``fast`` halves the time for 1 % more bits.
        backend: ``pyav`` encodes by libx265 and decodes by FFmpeg, in this process; ``libbpg`` runs
            ``bpgenc`` (compression level 9 for ``reference``, 1 for ``fast``) and ``bpgdec`` from PATH.
        chroma: Chroma format of colour pictures; gray ones are stored as such.
        bit_depth: Bits per sample of the file.
        chroma_siting: Horizontal position of subsampled chroma: between two luma samples or on the left one.
        color_space: Colour space of the planes; ``rgb`` needs chroma 444.
        limited_range: Leave head- and footroom in the planes.
        premultiplied: Store colours multiplied by alpha.
        lossless: Store 8-bit RGB planes and alpha without loss, whatever the options above and ``qp`` say.
        lambda_scale: Factor on the preset's Lagrange multiplier; a larger one costs fewer bits.
        output_depth: Bits per sample of decoded pictures: 8, 16, or ``auto``: 16 for files above 8 bits.
        timeout_s: Time limit of one run of a libbpg program.
        max_pixels: Larger pictures are not decoded.
    """

    preset: Preset = "reference"
    backend: Literal["pyav", "libbpg"] = "pyav"
    chroma: Chroma = "420"
    bit_depth: int = 8
    chroma_siting: Literal["center", "left"] = "center"
    color_space: str = "bt601"
    limited_range: bool = False
    premultiplied: bool = False
    lossless: bool = False
    lambda_scale: float = 1.0
    output_depth: Literal["auto", 8, 16] = "auto"
    timeout_s: float = 600.0
    max_pixels: int = DEFAULT_MAX_PIXELS

    name: ClassVar[str] = "bpg"
    suffixes: ClassVar[tuple[str, ...]] = (".bpg",)
    qp_range: ClassVar[QpRange] = QpRange(0, 51, rate_rises=False)
    fine_knob: ClassVar[FineKnob | None] = FineKnob("lambda_scale", 0.7, 1.4)

    def __post_init__(self) -> None:
        allowed = {
            "preset": get_args(Preset),
            "backend": ("pyav", "libbpg"),
            "chroma": ("420", "422", "444"),
            "bit_depth": (8, 10, 12),
            "chroma_siting": ("center", "left"),
            "color_space": COLOR_SPACES,
            "output_depth": ("auto", 8, 16),
        }
        for option, values in allowed.items():
            check_option(option, getattr(self, option), values)
        if self.color_space == "rgb" and self.chroma != "444":
            raise ValueError(f"color_space 'rgb' needs chroma '444', got {self.chroma!r}")
        if self.backend == "libbpg" and (self.preset == "tuned" or self.lambda_scale != 1.0):
            raise ValueError("backend 'libbpg' has neither preset 'tuned' nor lambda_scale")
        check_within("lambda_scale", self.lambda_scale, 0.1, 10)
        check_positive("timeout_s", self.timeout_s)
        check_positive("max_pixels", self.max_pixels)

    @classmethod
    def matches(cls, head: bytes) -> bool:
        return head.startswith(MAGIC)

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        try:
            pyav = Availability("pyav", True, encoder_version())
        except CodecError as error:
            pyav = Availability("pyav", False, str(error))
        return (pyav, programs())

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        self.qp_range.check(qp)
        check_image(image, channels=(1, 3, 4), depths=(8,) if self.bit_depth == 8 or self.lossless else (8, 16))
        header = self._header(image, metadata)
        if self.backend == "libbpg":
            level = 1 if self.preset == "fast" else 9
            data = run_bpgenc(image, header, qp, level=level, lossless=self.lossless, timeout_s=self.timeout_s)
            written, picture = read_header(data)
            return write_header(replace(written, metadata=metadata), picture)
        color, alpha = (image[..., :3], image[..., 3]) if header.alpha else (image, None)
        if alpha is not None and header.premultiplied:
            color = premultiply(color, alpha)
        return write_file(
            BpgFile(
                header,
                color=self._encode_planes(color, header, qp),
                alpha=None if alpha is None else self._encode_planes(alpha, _alpha_header(header), qp),
            )
        )

    def decode(self, bitstream: bytes) -> Decoded:
        header, _ = read_header(bitstream)
        check_pixels(header.width, header.height, self.max_pixels)
        file = read_file(bitstream)
        qp = slice_qp(file.color, monochrome=header.chroma == "400")
        depth = self.output_depth
        if depth == "auto":
            depth = 8 if header.bit_depth == 8 else 16
        info = CodingInfo("bpg", qp, header.chroma, header.bit_depth)
        if self.backend == "libbpg":
            image = run_bpgdec(bitstream, header, output_depth=depth, timeout_s=self.timeout_s)
            return Decoded(image, info, header.metadata)
        color = _decode_planes(file.color, header)
        extra = None if file.alpha is None else _decode_planes(file.alpha, _alpha_header(header))
        image = _to_image(color, extra, header, depth)
        if depth == 16 or _is_whole(header):
            return Decoded(image, info, header.metadata)
        return Decoded(image, info, header.metadata, partial(_to_image, color, extra, header, 16, fine_chroma=True))

    def _header(self, image: Image, metadata: Metadata) -> BpgHeader:
        gray, alpha = image.ndim == 2, image.ndim == 3 and image.shape[2] == 4
        chroma: Chroma = "400" if gray else "444" if self.lossless else self.chroma
        return BpgHeader(
            width=image.shape[1],
            height=image.shape[0],
            chroma=chroma,
            left_sited=self.chroma_siting == "left" and chroma in ("420", "422"),
            bit_depth=8 if self.lossless else self.bit_depth,
            color_space="bt601" if gray else "rgb" if self.lossless else self.color_space,
            limited_range=self.limited_range and not self.lossless,
            alpha=alpha,
            premultiplied=self.premultiplied and alpha and not self.lossless,
            metadata=metadata,
        )

    def _encode_planes(self, image: Image, header: BpgHeader, qp: int) -> HevcPicture:
        planes = image_to_planes(image, _samples(header))
        settings = self._settings(header.chroma)
        return encode_intra(planes, header.chroma, header.bit_depth, qp, settings, lossless=self.lossless)

    def _settings(self, chroma: Chroma) -> X265Settings:
        if self.preset == "reference":
            return X265Settings("placebo", (), self.lambda_scale)
        if self.preset == "fast":
            return X265Settings("medium", ("rdoq-level=2",), self.lambda_scale)
        # In 4:4:4 chroma offsets cost more than they gain.
        offsets = ("cbqpoffs=-4", "crqpoffs=-4") if chroma in ("420", "422") else ()
        extra = ("strong-intra-smoothing=0", "sao-non-deblock=1", *offsets)
        return X265Settings("placebo", extra, 0.85 * self.lambda_scale)


def _alpha_header(header: BpgHeader) -> BpgHeader:
    """How the alpha plane is coded: as a gray picture of full range."""
    return replace(header, chroma="400", left_sited=False, color_space="bt601", limited_range=False)


def _samples(header: BpgHeader) -> SampleFormat:
    return SampleFormat(header.chroma, header.left_sited, header.bit_depth, header.color_space, header.limited_range)


def _decode_planes(picture: HevcPicture, header: BpgHeader) -> list[Plane]:
    return decode_intra(picture, header.chroma, header.bit_depth, (header.height, header.width))


def _is_whole(header: BpgHeader) -> bool:
    """Whether samples of 8 bits become whole numbers."""
    sums_only = header.chroma == "444" and header.color_space in ("rgb", "ycgco")
    return header.bit_depth == 8 and not header.limited_range and (sums_only or header.chroma == "400")


def _to_image(
    color: Sequence[Plane],
    extra: Sequence[Plane] | None,
    header: BpgHeader,
    depth: int,
    *,
    fine_chroma: bool = False,
) -> Image:
    """Picture of the planes of colour and of the one of alpha or white, if there is one."""
    image = planes_to_image(color, _samples(header), depth, fine_chroma=fine_chroma)
    if extra is None:
        return image
    if header.extra_plane_is_w:
        return multiply_white(image, extra[0], header.bit_depth)
    alpha = planes_to_image(extra, _samples(_alpha_header(header)), depth)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if header.premultiplied:
        image = unpremultiply(image, alpha)
    return np.dstack([image, alpha])
