"""Command lines of the VVC programs: ffmpeg with libvvenc, vvencapp and vvdecapp, VTM.

All take planar 4:2:0 samples of 10 bits in 16-bit little-endian words, and write the stream to a
file: libvvenc prints warnings on standard output, where they would end up inside a piped stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from codec_wrappers.errors import CodecError, CodecUnavailableError, ToolError
from codec_wrappers.process import find_tool, require_tool, run_tool

VTM_ENCODER = ("EncoderApp", "EncoderAppStatic")
VTM_DECODER = ("DecoderApp", "DecoderAppStatic")

_CENTRE = 1  # Chroma420SampleLocType of H.273
_VUI = {  # BT.601 matrix, full range, primaries and transfer of sRGB
    "ColourPrimaries": ("bt709", "1"),
    "TransferCharacteristics": ("iec61966-2-1", "13"),
    "MatrixCoefficients": ("bt470bg", "5"),
}


@dataclass(frozen=True)
class EncoderJob:
    """One picture to encode.

    Attributes:
        samples: Y, then Cb, then Cr.
        width: Columns of luma, even.
        height: Rows of luma, even.
        qp: The encoder's quantisation parameter, 0 to 63.
        speed: vvenc's preset; VTM has its configuration file instead.
        chroma_qp_offset: Added to the qp of Cb and Cr.
        lambda_scale: Factor of the Lagrange multiplier.
        timeout_s: Time limit in seconds.
    """

    samples: bytes
    width: int
    height: int
    qp: int
    speed: str
    chroma_qp_offset: int
    lambda_scale: float
    timeout_s: float

    def options(self) -> dict[str, str]:
        """Options that are named alike in vvenc and VTM; neutral ones are left out."""
        found = {}
        if self.chroma_qp_offset:
            # Not with CbQpOffsetDualTree: in intra pictures the two add up.
            found["CbQpOffset"] = found["CrQpOffset"] = str(self.chroma_qp_offset)
        if self.lambda_scale != 1:
            found["LambdaModifierI"] = f"{self.lambda_scale:.6g}"
        return found

    def vvenc_options(self) -> dict[str, str]:
        """All options of vvenc that have no switch of their own."""
        vui = {name: value for name, (value, _) in _VUI.items()}
        location = {"chromalocinfopresent": "1", "ChromaSampleLocType": str(_CENTRE)}
        return {"Range": "full", **vui, **location, "accessunitdelimiter": "0", **self.options()}


def encode_by_ffmpeg(job: EncoderJob) -> bytes:
    """Stream made by an ffmpeg that has libvvenc.

    Raises:
        CodecUnavailableError: If there is none.
        ToolError: If it fails or takes too long.
    """
    # qpa=0: perceptual adaptation trades PSNR for looks and would skew rate-distortion curves.
    # g=1: all intra, which also keeps the parameter sets short.
    with _folder() as folder:
        output = folder / "out.266"
        command = [
            *(find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", f"{job.width}x{job.height}", "-r", "1", "-i", "-"),
            *("-frames:v", "1", "-c:v", "libvvenc", "-preset", job.speed, "-qp", str(job.qp), "-qpa", "0"),
            *(
                "-g",
                "1",
                "-threads",
                "1",
                "-vvenc-params",
                ":".join(f"{k}={v}" for k, v in job.vvenc_options().items()),
            ),
            *("-f", "vvc", str(output)),
        ]
        run_tool(command, stdin=job.samples, timeout_s=job.timeout_s)
        return _read_output(output, command)


def encode_by_vvenc(job: EncoderJob) -> bytes:
    """Stream made by ``vvencapp``; raises like :func:`encode_by_ffmpeg`."""
    program = require_tool("vvencapp")
    with _folder() as folder:
        (folder / "in.yuv").write_bytes(job.samples)
        output = folder / "out.266"
        command = [
            *(program, "-i", str(folder / "in.yuv"), "-s", f"{job.width}x{job.height}", "-c", "yuv420_10"),
            *("--preset", job.speed, "-q", str(job.qp), "--qpa", "0", "-t", "1", "-ip", "1", "-v", "0"),
            *("-o", str(output), "--additional", " ".join(f"{k}={v}" for k, v in job.vvenc_options().items())),
        ]
        run_tool(command, timeout_s=job.timeout_s)
        return _read_output(output, command)


def encode_by_vtm(job: EncoderJob, config: str) -> bytes:
    """Stream made by VTM's encoder with the all-intra configuration file ``config``.

    Raises like :func:`encode_by_ffmpeg`.
    """
    program = require_tool(*VTM_ENCODER)
    with _folder() as folder:
        (folder / "in.yuv").write_bytes(job.samples)
        output = folder / "out.266"
        options = [
            *(f"InputFile={folder / 'in.yuv'}", f"BitstreamFile={output}"),
            *(f"SourceWidth={job.width}", f"SourceHeight={job.height}", "ConformanceWindowMode=1"),
            *("InputBitDepth=10", "InternalBitDepth=10", "InputChromaFormat=420"),
            *("FrameRate=1", "FramesToBeEncoded=1", "TemporalSubsampleRatio=1", f"QP={job.qp}"),
            *("VuiParametersPresent=1", "ProgressiveSource=1", "ColourDescriptionPresent=1", "VideoFullRange=1"),
            *(f"{name}={code}" for name, (_, code) in _VUI.items()),
            *("ChromaLocInfoPresent=1", f"ChromaSampleLocType={_CENTRE}"),
            *(f"{name}={value}" for name, value in job.options().items()),
        ]
        command = [program, "-c", str(Path(config).absolute()), *(f"--{option}" for option in options)]
        run_tool(command, timeout_s=job.timeout_s)
        return _read_output(output, command)


def decode_by_vvdec(bitstream: bytes, timeout_s: float) -> bytes:
    """Planes of all pictures of ``bitstream``, one after the other, as ``vvdecapp`` writes them.

    Words of 16 bits above 8 bits per sample, else bytes.

    Raises:
        CodecUnavailableError: If the program is not on PATH.
        ToolError: If it fails or takes too long.
    """
    program = require_tool("vvdecapp")
    with _folder() as folder:
        (folder / "in.266").write_bytes(bitstream)
        output = folder / "out.yuv"
        command = [program, "-b", str(folder / "in.266"), "-o", str(output), "-t", "1", "-v", "0"]
        run_tool(command, timeout_s=timeout_s)
        return _read_output(output, command)


def decode_by_vtm(bitstream: bytes, timeout_s: float) -> bytes:
    """Like :func:`decode_by_vvdec`, by VTM's decoder."""
    program = require_tool(*VTM_DECODER)
    with _folder() as folder:
        (folder / "in.266").write_bytes(bitstream)
        output = folder / "out.yuv"
        command = [program, "-b", str(folder / "in.266"), "-o", str(output), "-d", "0"]
        run_tool(command, timeout_s=timeout_s)
        return _read_output(output, command)


def find_ffmpeg() -> str:
    """Path of an ffmpeg with libvvenc: that of imageio-ffmpeg, else the one on PATH.

    Raises:
        CodecUnavailableError: If neither has libvvenc.
    """
    for path in filter(None, (_bundled_ffmpeg(), find_tool("ffmpeg"))):
        if ffmpeg_version(path):
            return path
    raise CodecUnavailableError(
        "no ffmpeg with libvvenc: install imageio-ffmpeg 0.6 or newer, or an ffmpeg built with libvvenc on PATH"
    )


@lru_cache(maxsize=8)
def ffmpeg_version(path: str) -> str:
    """First line that the ffmpeg at ``path`` prints about itself, or "" if it has no libvvenc."""
    try:
        encoders = run_tool([path, "-hide_banner", "-encoders"], timeout_s=20)
        version = run_tool([path, "-version"], timeout_s=20)
    except CodecError:
        return ""
    return (
        version.decode(errors="replace").partition(" Copyright")[0].splitlines()[0] if b"libvvenc" in encoders else ""
    )


def _bundled_ffmpeg() -> str | None:
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed; installed without a binary
        return None


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="vvc-") as folder:
        yield Path(folder)


def _read_output(path: Path, command: list[str]) -> bytes:
    """What a program wrote; it may fail with status 0 and leave no file or an empty one."""
    data = path.read_bytes() if path.exists() else b""
    if not data:
        raise ToolError(f"{Path(command[0]).name} wrote no output", command=command, returncode=0)
    return data
