"""libbpg's own programs, ``bpgenc`` and ``bpgdec``, from PATH. Pictures travel as temporary PNG files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from codec_wrappers.base import Availability, Image
from codec_wrappers.bpg_container import BpgHeader
from codec_wrappers.errors import BitstreamError, CodecError, CodecUnavailableError, ToolError
from codec_wrappers.process import find_tool, require_tool, run_tool

_COLOR_SPACES = {
    "bt601": "ycbcr",
    "rgb": "rgb",
    "ycgco": "ycgco",
    "bt709": "ycbcr_bt709",
    "bt2020": "ycbcr_bt2020",
}


def programs() -> Availability:
    """Whether both programs are on PATH."""
    missing = [name for name in ("bpgenc", "bpgdec") if find_tool(name) is None]
    if missing:
        return Availability("libbpg", False, f"{' and '.join(missing)} not on PATH: install libbpg")
    return Availability("libbpg", True, f"{find_tool('bpgenc')}, {find_tool('bpgdec')}")


def run_bpgenc(image: Image, header: BpgHeader, qp: int, *, level: int, lossless: bool, timeout_s: float) -> bytes:
    """BPG file of ``image``, coded as ``header`` says, at bpgenc's compression level 1..9.

    Raises:
        CodecUnavailableError: If bpgenc is missing.
        ToolError: If it fails or takes too long.
    """
    program = require_tool("bpgenc")
    chroma = header.chroma + ("_video" if header.left_sited else "")
    command = [program, "-q", str(qp), "-m", str(level), "-b", str(header.bit_depth)]
    if header.chroma != "400":
        command += ["-f", chroma, "-c", _COLOR_SPACES[header.color_space]]
    command += ["-limitedrange"] * header.limited_range + ["-premul"] * header.premultiplied + ["-lossless"] * lossless
    with tempfile.TemporaryDirectory(prefix="bpg-") as folder:
        Path(folder, "in.png").write_bytes(_png().png_encode(np.ascontiguousarray(image)))
        command += ["-o", "out.bpg", "in.png"]
        run_tool(command, timeout_s=timeout_s, cwd=folder)
        return _output(Path(folder, "out.bpg"), command)


def run_bpgdec(bitstream: bytes, header: BpgHeader, *, output_depth: int, timeout_s: float) -> Image:
    """Picture of a BPG file, uint8 or uint16 as ``output_depth`` (8 or 16) says; gray files give ``(H, W)``.

    Raises:
        BitstreamError: If bpgdec rejects the file.
        CodecUnavailableError: If bpgdec is missing.
        ToolError: If it is killed or takes too long.
    """
    program = require_tool("bpgdec")
    with tempfile.TemporaryDirectory(prefix="bpg-") as folder:
        Path(folder, "in.bpg").write_bytes(bitstream)
        command = [program, "-b", str(output_depth), "-o", "out.png", "in.bpg"]
        try:
            run_tool(command, timeout_s=timeout_s, cwd=folder)
        except ToolError as error:
            if error.returncode is not None and error.returncode > 0:
                raise BitstreamError(str(error)) from error
            raise
        image: Image = _png().png_decode(_output(Path(folder, "out.png"), command))
    if image.shape[:2] != (header.height, header.width) or image.ndim != 3 or image.itemsize * 8 != output_depth:
        raise CodecError(f"bpgdec wrote an unexpected picture, {image.dtype} {image.shape}")
    gray = header.chroma == "400" and not header.extra_plane
    return np.ascontiguousarray(image[..., 0]) if gray else image


def _png() -> Any:
    try:
        import imagecodecs
    except ImportError as error:
        raise CodecUnavailableError("imagecodecs is missing: pip install imagecodecs") from error
    return imagecodecs


def _output(path: Path, command: list[str]) -> bytes:
    if not path.is_file() or path.stat().st_size == 0:
        raise ToolError(f"{Path(command[0]).name} wrote no output", command=command, returncode=0)
    return path.read_bytes()
