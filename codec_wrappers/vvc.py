"""The ``vvc`` codec: one H.266/VVC intra picture in a plain Annex B byte stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, Self, TypeAlias, get_args

import numpy as np

from codec_wrappers.base import (
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
    check_within,
    nothing_finer,
)
from codec_wrappers.bits import split_nals
from codec_wrappers.color import BT601, Plane, YCbCrFormat, gray_to_luma, rgb_to_yuv420
from codec_wrappers.errors import BitstreamError, CodecError, CodecUnavailableError, ToolError
from codec_wrappers.process import find_tool
from codec_wrappers.vvc_decoder import DecodedPlanes, decode_planes, split_planes, to_image
from codec_wrappers.vvc_programs import (
    VTM_DECODER,
    VTM_ENCODER,
    EncoderJob,
    decode_by_vtm,
    decode_by_vvdec,
    encode_by_ffmpeg,
    encode_by_vtm,
    encode_by_vvenc,
    ffmpeg_version,
    find_ffmpeg,
)
from codec_wrappers.vvc_sei import TrueSize, insert_true_size, parse_true_size
from codec_wrappers.vvc_sps import Vui
from codec_wrappers.vvc_syntax import StreamHeaders, read_headers, sequence_sets

Preset: TypeAlias = Literal["reference", "tuned", "faster", "fast", "medium", "slow", "slower"]
Backend: TypeAlias = Literal["ffmpeg", "vvenc", "vtm"]

CODED = YCbCrFormat(*BT601, full_range=True, bit_depth=10)
CODED_VUI = Vui(matrix=5, full_range=True, chroma_location=1)
"""How our own streams hold colour, and say so."""

LEVEL_6_3_PIXELS = 80_216_064
"""The largest picture of any level but the unlimited one (H.266, table A.1). Decoding takes some 16 bytes a pixel."""

MIN_SIDE = 16  # smaller streams do not fit into libvvenc's output buffer in ffmpeg, one byte per pixel
_BUFFER_TOO_SMALL = "external library"  # what ffmpeg says when a stream does not fit


@dataclass(frozen=True)
class VvcCodec:
    """One H.266/VVC intra picture, 4:2:0, 10 bits per sample.

    Takes uint8 and uint16, RGB and gray, of any size. Colour is coded as BT.601 full range with
    centred chroma, halved by least squares; the stream says so. Odd and tiny pictures are padded by
    repeating the border; the true size, and that a picture is gray, travel in an SEI message that
    other decoders skip, so that they show the padded picture. ``decode`` also reads streams of other
    encoders in any chroma format. Metadata are not stored: a VVC stream has no place for them.

    ``qp`` is the encoder's: vvenc codes intra pictures 3 below it, which is what ``CodingInfo.qp``
    says; VTM codes at it.

    Attributes:
        preset: ``reference`` is vvenc's ``medium`` without perceptual adaptation, the anchor of
            comparisons. ``tuned`` codes chroma 6 steps finer besides, which suits RGB-PSNR. The others
            are vvenc's presets of that name, from ``faster`` (a tenth of the time of ``medium``, 20 %
            more bits) to ``slower``. With ``vtm`` the configuration decides: only the first two.
        backend: ``ffmpeg`` (libvvenc in ffmpeg; decodes in this process), ``vvenc`` (``vvencapp`` and
            ``vvdecapp`` on PATH) or ``vtm`` (``EncoderApp`` and ``DecoderApp``, or ``…Static``, on PATH).
        vtm_config: All-intra configuration file of VTM, needed to encode with ``vtm``.
        lambda_scale: Factor of the encoder's Lagrange multiplier; larger costs fewer bits.
        chroma_qp_offset: Added to the qp of Cb and Cr, -12 to 12; None: as the preset says.
        output_depth: Bits per sample of decoded pictures, 8 (uint8) or 16 (uint16).
        timeout_s: Time limit of one program run, in seconds.
        max_pixels: Streams whose header claims more are refused, and pictures that would become such.
    """

    preset: Preset = "reference"
    backend: Backend = "ffmpeg"
    vtm_config: str | None = None
    lambda_scale: float = 1.0
    chroma_qp_offset: int | None = None
    output_depth: Literal[8, 16] = 8
    timeout_s: float = 600.0
    max_pixels: int = LEVEL_6_3_PIXELS

    name: ClassVar[str] = "vvc"
    suffixes: ClassVar[tuple[str, ...]] = (".266", ".vvc")
    qp_range: ClassVar[QpRange] = QpRange(0, 63, rate_rises=False)
    fine_knob: ClassVar[FineKnob | None] = FineKnob("lambda_scale", 0.8, 1.25)

    def __post_init__(self) -> None:
        check_option("preset", self.preset, get_args(Preset))
        check_option("backend", self.backend, get_args(Backend))
        if self.backend == "vtm" and self.preset not in ("reference", "tuned"):
            raise ValueError(f"preset must be reference or tuned with backend vtm, got {self.preset!r}")
        check_option("output_depth", self.output_depth, (8, 16))
        check_within("lambda_scale", self.lambda_scale, 0.1, 10)
        check_within("chroma_qp_offset", self._chroma_qp_offset, -12, 12)
        check_positive("timeout_s", self.timeout_s)
        check_positive("max_pixels", self.max_pixels)

    @property
    def _chroma_qp_offset(self) -> int:
        if self.chroma_qp_offset is not None:
            return self.chroma_qp_offset
        return -6 if self.preset == "tuned" else 0

    @classmethod
    def matches(cls, head: bytes) -> bool:
        """Tells whether ``head`` is a start code and a NAL unit that may come first (H.266, 7.4.2.4.3)."""
        zeros = len(head) - len(head.lstrip(b"\0"))
        start = head[zeros : zeros + 3]
        # 12 to 16: operating point, capabilities, VPS, SPS, PPS; 20: delimiter. HEVC's begin with 0x40, 0x42, 0x46.
        return zeros >= 2 and start[:2] == b"\1\0" and len(start) == 3 and start[2] >> 3 in (12, 13, 14, 15, 16, 20)

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        found = [_ffmpeg_availability()]
        for backend, encoders, decoders in (
            ("vvenc", ("vvencapp",), ("vvdecapp",)),
            ("vtm", VTM_ENCODER, VTM_DECODER),
        ):
            paths = [find_tool(*encoders), find_tool(*decoders)]
            missing = [names[0] for names, path in zip((encoders, decoders), paths, strict=True) if path is None]
            detail = f"{' and '.join(missing)} not on PATH" if missing else ", ".join(map(str, paths))
            found.append(Availability(backend, not missing, detail))
        return tuple(found)

    def probe(self) -> Self:
        """The same with vvenc's fastest preset, whose rate is 0 to 14 % higher at the same qp."""
        if self.backend == "vtm" or self.preset in ("faster", "fast"):
            return self
        return replace(self, preset="faster", chroma_qp_offset=self._chroma_qp_offset)

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:  # noqa: ARG002 - see class
        """Returns the byte stream of ``image`` (Rec. ITU-T H.266, Annex B).

        Raises:
            ValueError: If ``qp``, the size, the shape or the dtype is not supported, or ``vtm_config`` is missing.
            CodecUnavailableError: If a program is missing.
            ToolError: If a program fails or takes longer than ``timeout_s``.
        """
        self.qp_range.check(qp)
        check_image(image, channels=(1, 3), depths=(8, 16))
        height, width = image.shape[:2]
        if (height + 7) * (width + 7) > self.max_pixels:  # vvenc codes whole blocks of 8 x 8
            raise ValueError(
                f"{width} x {height} pixels are above the limit of {self.max_pixels} (max_pixels raises it)"
            )
        padded_height, padded_width = (max(side + side % 2, MIN_SIDE) for side in (height, width))
        stream = b""
        while not stream:
            padded = pad(image, padded_height, padded_width)
            try:
                stream = self._run_encoder(to_planes(padded), int(qp))
            except ToolError as error:
                # Noise at a low qp needs more than the byte per pixel that ffmpeg gives: padding buys room.
                if _BUFFER_TOO_SMALL not in str(error) or padded_height >= 4 * max(height, MIN_SIDE):
                    raise
                padded_height *= 2
        if padded.shape != image.shape or image.ndim == 2:
            stream = insert_true_size(stream, TrueSize(width, height, gray=image.ndim == 2))
        return stream

    def _run_encoder(self, planes: tuple[Plane, Plane, Plane], qp: int) -> bytes:
        """The stream of planes, checked to say how it holds colour."""
        job = EncoderJob(
            samples=b"".join(plane.astype("<u2").tobytes() for plane in planes),
            width=planes[0].shape[1],
            height=planes[0].shape[0],
            qp=qp,
            speed="medium" if self.preset in ("reference", "tuned") else self.preset,
            chroma_qp_offset=self._chroma_qp_offset,
            lambda_scale=self.lambda_scale,
            timeout_s=self.timeout_s,
        )
        if self.backend == "ffmpeg":
            stream = encode_by_ffmpeg(job)
        elif self.backend == "vvenc":
            stream = encode_by_vvenc(job)
        else:
            if self.vtm_config is None:
                raise ValueError("backend vtm needs vtm_config, the path of an all-intra configuration file")
            stream = encode_by_vtm(job, self.vtm_config)
        if read_headers(split_nals(stream)).vui != CODED_VUI:
            raise CodecError(f"the {self.backend} encoder did not tag the colour of its stream as it was told")
        return stream

    def decode(self, bitstream: bytes) -> Decoded:
        """Returns the first picture of ``bitstream``, uint8 unless ``output_depth`` is 16.

        The decoder notices nearly all damage, not all: without a checksum, about 1 % of cut or altered
        slices decode to some other picture.

        Raises:
            BitstreamError: If it cannot be decoded, or claims more than ``max_pixels``.
            CodecUnavailableError: If a program is missing.
            ToolError: If a program fails or takes longer than ``timeout_s``.
        """
        nals = split_nals(bitstream)
        for sps in sequence_sets(nals):
            check_pixels(sps.coded_width, sps.coded_height, self.max_pixels)
        headers = read_headers(nals)
        true = parse_true_size(nals) or TrueSize(headers.width, headers.height)
        if not (1 <= true.width <= headers.width and 1 <= true.height <= headers.height):
            raise BitstreamError(
                f"the stream claims {true.width} x {true.height} pixels inside {headers.width} x {headers.height}"
            )
        decoded = self._run_decoder(bitstream, headers)
        height, width = decoded.planes[0].shape
        make = partial(
            to_image,
            decoded,
            headers.vui or decoded.vui,
            size=(min(true.height, height), min(true.width, width)),
            gray=true.gray,
        )
        unrounded = partial(make, output_depth=16) if self.output_depth == 8 else nothing_finer
        info = CodingInfo(self.name, headers.qp, decoded.chroma, decoded.bit_depth)
        return Decoded(make(output_depth=self.output_depth), info, unrounded=unrounded)

    def _run_decoder(self, bitstream: bytes, headers: StreamHeaders) -> DecodedPlanes:
        if self.backend == "ffmpeg":
            return decode_planes(bitstream)
        run = decode_by_vvdec if self.backend == "vvenc" else decode_by_vtm
        return split_planes(run(bitstream, self.timeout_s), headers)


def pad(image: Image, height: int, width: int) -> Image:
    """Repeats the last row and column until the picture has the given size."""
    borders = [(0, height - image.shape[0]), (0, width - image.shape[1])] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, borders, mode="edge") if any(border for _, border in borders) else image


def to_planes(image: Image) -> tuple[Plane, Plane, Plane]:
    """Planes as :data:`CODED` says; a gray picture gets neutral chroma."""
    if image.ndim == 3:
        return rgb_to_yuv420(image, CODED)
    y = gray_to_luma(image, CODED)
    chroma = np.full((y.shape[0] // 2, y.shape[1] // 2), CODED.neutral, y.dtype)
    return y, chroma, chroma


def _ffmpeg_availability() -> Availability:
    try:
        encoder = ffmpeg_version(find_ffmpeg())
        import av

        av.codec.Codec("vvc", "r")
        return Availability("ffmpeg", True, f"{encoder} with libvvenc; decoder of PyAV {av.__version__}")
    except CodecUnavailableError as error:
        return Availability("ffmpeg", False, str(error))
    except ImportError:
        return Availability("ffmpeg", False, "PyAV is not installed: pip install av")
    except ValueError:  # what PyAV raises for an unknown codec
        return Availability("ffmpeg", False, "this PyAV cannot decode VVC: install av 14 or newer")
