"""One HEVC intra picture: planes -> NAL units by libx265, NAL units -> planes by FFmpeg, both inside PyAV."""

from __future__ import annotations

import math
import re
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from codec_wrappers.base import Chroma
from codec_wrappers.bits import join_nals, split_nals
from codec_wrappers.errors import BitstreamError, CodecError, CodecUnavailableError
from codec_wrappers.ffmpeg_planes import samples_of
from codec_wrappers.hevc_heif import decode_heif, wrap_heif
from codec_wrappers.hevc_syntax import PPS, SPS, HevcPicture, Sps, is_slice, nal_type, parse_sps, write_sps, write_vps

Plane: TypeAlias = npt.NDArray[Any]
"""One colour component, ``(H, W)``: uint8 at 8 bits, uint16 above."""

CHROMA_FORMATS: tuple[Chroma, ...] = ("400", "420", "422", "444")
_PIXEL_FORMATS = {"400": "gray", "420": "yuv420p", "422": "yuv422p", "444": "yuv444p"}
DECODABLE_DEPTHS = (8, 9, 10, 12)
_TAIL = b"\xff\x55\xaa" * 20

# ipratio: x265 would code intra pictures at qp - 3. No threads, no psycho-visual tricks, no
# adaptive quantisation: the same picture always gives the same bytes, and PSNR means something.
_COMMON = (
    "keyint=1:bframes=0:scenecut=0:info=0:hrd=0:aud=0:repeat-headers=1:wpp=0:frame-threads=1:pools=none:"
    "ipratio=1.0:aq-mode=0:cutree=0:rc-lookahead=0:log-level=none"
)

# x265 keeps its lambda tables in global variables: a lambda file changes every later encoding of the
# process. So each encoding brings its own, and no two run at a time.
_X265_LOCK = threading.Lock()


@dataclass(frozen=True)
class X265Settings:
    """How libx265 codes a picture.

    Attributes:
        preset: x265 preset.
        extra: More ``name=value`` x265 parameters.
        lambda_scale: Factor on the Lagrange multiplier; a larger one costs fewer bits.
    """

    preset: str = "placebo"
    extra: tuple[str, ...] = ()
    lambda_scale: float = 1.0


def subsampling(chroma: Chroma) -> tuple[int, int]:
    """Vertical and horizontal chroma subsampling factors."""
    return 2 if chroma == "420" else 1, 2 if chroma in ("420", "422") else 1


def encode_intra(
    planes: Sequence[Plane], chroma: Chroma, bit_depth: int, qp: int, settings: X265Settings, *, lossless: bool = False
) -> HevcPicture:
    """Codes one IDR picture at a constant ``qp``, on one thread; other calls in this process wait.

    Args:
        planes: Luma and, unless ``chroma`` is ``"400"``, two chroma planes of ``ceil(size / factor)``
            samples; any size. They are padded by repeating the border.
        chroma: Chroma format of ``planes``.
        bit_depth: 8, 10 or 12.
        qp: Quantisation parameter of the slice, 0..51.
        settings: Encoder settings.
        lossless: Code without loss; ``qp`` has no effect then.

    Raises:
        CodecUnavailableError: If PyAV has no libx265.
        CodecError: If x265 fails.
    """
    height, width = planes[0].shape
    block, size_options = _block_options(height, width)
    padded = _pad(planes, chroma, block)
    options = [_COMMON, f"qp={qp}", *size_options, *settings.extra, *(["lossless=1"] if lossless else [])]
    try:
        with _X265_LOCK, tempfile.TemporaryDirectory(prefix="x265-") as folder:
            lambdas = Path(folder, "lambdas")
            lambdas.write_text(_lambda_file(bit_depth, settings.lambda_scale))
            options.append("lambda-file=" + re.sub(r"([\\':=\s])", r"\\\1", str(lambdas)))
            packet = _run_x265(padded, _pixel_format(chroma, bit_depth), settings.preset, ":".join(options))
    except OSError as error:
        raise CodecError(f"cannot write x265's lambda file: {error.strerror}") from error
    nals = split_nals(packet)
    sps = next((parse_sps(nal) for nal in nals if nal_type(nal) == SPS), None)
    kept = tuple(nal for nal in nals if nal_type(nal) == PPS or is_slice(nal))
    if sps is None or sps.tools.coded_size(height, width) != (sps.height, sps.width):
        raise CodecError(f"x265 coded a picture of unexpected size for {width} x {height}")
    return HevcPicture(sps.tools, kept)


def decode_intra(picture: HevcPicture, chroma: Chroma, bit_depth: int, size: tuple[int, int]) -> list[Plane]:
    """Decodes one intra picture and crops it to ``size`` (height, width).

    Decoders go on quietly behind the end of truncated data. Bytes there cannot matter to a complete
    picture, so it is decoded again with other bytes after its end, and must come out the same.

    Returns:
        The planes, read-only: they share the decoder's memory.

    Raises:
        BitstreamError: If the data are damaged or use something that cannot be decoded here.
        CodecUnavailableError: If a needed library is missing.
    """
    height, width = size
    tools, nals = picture.tools, picture.nals
    coded = tools.coded_size(height, width)
    # Every coding tree block takes at least one bit: a prediction mode is coded without compression.
    trees = math.prod(-(-side // (1 << tools.log2_ctb)) for side in coded)
    if 8 * sum(map(len, nals)) < trees:
        raise BitstreamError(f"the data are too short for a picture of {width} x {height} pixels")
    sps = Sps(CHROMA_FORMATS.index(chroma), coded[1], coded[0], bit_depth, bit_depth, tools)
    decode = _decode_heif if "implicit_rdpcm" in tools.range_flags else _decode_ffmpeg
    planes = decode(nals, sps)
    last = max(index for index, nal in enumerate(nals) if is_slice(nal))
    again = decode([*nals[:last], nals[last] + _TAIL, *nals[last + 1 :]], sps)
    if not all(map(np.array_equal, planes, again)):
        raise BitstreamError("the HEVC data are truncated or damaged")
    vertical, horizontal = subsampling(chroma)
    factors = [(1, 1), (vertical, horizontal), (vertical, horizontal)]
    cropped = zip(planes, factors[: len(planes)], strict=True)
    return [plane[: -(-height // down), : -(-width // across)] for plane, (down, across) in cropped]


def encoder_version() -> str:
    """Versions of PyAV, FFmpeg and libx265.

    Raises:
        CodecUnavailableError: If PyAV is missing or was built without libx265.
    """
    av = _import_av()
    gray = np.zeros((16, 16), np.uint8)
    packet = _run_x265([gray], "gray", "ultrafast", "log-level=none:pools=none:ctu=16")
    version = re.search(rb"x265 \(build \d+\) - ([\w.+-]+)", packet)
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}, x265 {version[1].decode() if version else '?'}"


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise CodecUnavailableError("PyAV is missing: pip install av") from error
    return av


def _find_encoder(av: Any) -> None:
    try:
        av.codec.Codec("libx265", "w")
    except ValueError as error:  # av.codec.codec.UnknownCodecError
        raise CodecUnavailableError("this PyAV has no libx265: install the wheel of PyPI") from error


def _pixel_format(chroma: Chroma, bit_depth: int) -> str:
    return _PIXEL_FORMATS[chroma] + ("" if bit_depth == 8 else f"{bit_depth}le")


def _block_options(height: int, width: int) -> tuple[int, list[str]]:
    """Multiple to pad to, and x265's block sizes: it refuses pictures smaller than one coding tree block."""
    smallest = min(-(-height // 8) * 8, -(-width // 8) * 8)
    if smallest >= 64:
        return 8, []
    # Levels of large pictures forbid small blocks, but BPG has no levels.
    options = [f"ctu={32 if smallest >= 32 else 16}", "allow-non-conformance=1"]
    if smallest < 32:  # slow presets ask for depth 4, which a block of 16 does not have
        options += ["tu-intra-depth=3", "tu-inter-depth=3"]
    return (8, options) if smallest >= 16 else (16, [*options, "min-cu-size=16"])


def _pad(planes: Sequence[Plane], chroma: Chroma, block: int) -> list[Plane]:
    """Repeats the border until the luma size is a multiple of ``block``."""
    height, width = (-(-side // block) * block for side in planes[0].shape)
    padded = []
    for index, plane in enumerate(planes):
        down, across = subsampling(chroma) if index else (1, 1)
        missing = ((0, height // down - plane.shape[0]), (0, width // across - plane.shape[1]))
        padded.append(np.pad(plane, missing, mode="edge"))
    return padded


def _run_x265(planes: Sequence[Plane], pixel_format: str, preset: str, parameters: str) -> bytes:
    av = _import_av()
    _find_encoder(av)
    height, width = planes[0].shape
    try:
        context = av.CodecContext.create("libx265", "w")
        context.width, context.height, context.pix_fmt = width, height, pixel_format
        context.time_base = Fraction(1, 25)
        context.thread_count = 1
        context.options = {"preset": preset, "tune": "psnr", "x265-params": parameters}
        frame = av.VideoFrame(width, height, pixel_format)
        for target, plane in zip(frame.planes, planes, strict=True):
            rows = np.frombuffer(target, plane.dtype).reshape(target.height, -1)
            rows[:, : plane.shape[1]] = plane
        frame.pts = 0
        return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    except av.error.FFmpegError as error:
        raise CodecError(f"x265 failed on {width} x {height} {pixel_format}: {error.strerror}") from error


def _decode_ffmpeg(nals: Sequence[bytes], sps: Sps) -> list[Plane]:
    if sps.luma_depth not in DECODABLE_DEPTHS:
        raise BitstreamError(f"HEVC with {sps.luma_depth} bits cannot be decoded here, only with {DECODABLE_DEPTHS}")
    av = _import_av()
    try:
        context = av.CodecContext.create("hevc", "r")
        context.thread_count = 1
        context.options = {"err_detect": "explode+crccheck"}
        packet = av.Packet(join_nals([write_vps(), write_sps(sps), *nals]))
        frames = [*context.decode(packet), *context.decode(None)]
    except av.error.FFmpegError as error:
        raise BitstreamError(f"the HEVC data are damaged or not supported: {error.strerror}") from error
    if not frames or frames[0].is_corrupt:
        raise BitstreamError("the HEVC data hold no picture that can be decoded")
    frame = frames[0]
    expected = _pixel_format(CHROMA_FORMATS[sps.chroma_format], sps.luma_depth)
    if frame.format.name != expected or (frame.height, frame.width) != (sps.height, sps.width):
        raise BitstreamError("the HEVC data do not match the header of the picture")
    return [samples_of(plane, sps.luma_depth) for plane in frame.planes]


def _decode_heif(nals: Sequence[bytes], sps: Sps) -> list[Plane]:
    """By libde265: FFmpeg filters intra edges in losslessly coded blocks, where H.265 (8.4.4.2.6) forbids it."""
    chroma = CHROMA_FORMATS[sps.chroma_format]
    if chroma not in ("400", "444") or sps.luma_depth != 8:
        raise BitstreamError(f"lossless HEVC with {chroma} chroma and {sps.luma_depth} bits cannot be decoded here")
    return decode_heif(wrap_heif(nals, sps), sps)


def _lambda_file(bit_depth: int, scale: float) -> str:
    """Text of an x265 lambda file: 70 lambdas for SAD and SATD, then 70 for squared errors.

    x265's own tables, with their four decimals at 8 bits, times ``sqrt(scale)`` and ``scale``; the
    values grow with the sample range, as ``4 ** (bits - 8)`` for squared errors.
    """
    growth = 2.0 ** (bit_depth - 8)
    linear = [round(2 ** (qp / 6 - 2), 4) * growth * scale**0.5 for qp in range(70)]
    squared = [round(0.038 * math.exp(0.234 * qp), 4) * growth**2 * scale for qp in range(70)]
    return "\n".join(f"{value:.9g}" for value in linear + squared)
