"""All quality values of one decoded picture, by name."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from codec_wrappers import Image
from codec_wrappers.errors import CodecUnavailableError, ToolError
from codec_wrappers.process import run_tool
from enhancer.metrics import (
    MS_SSIM_MIN_SIDE,
    channel_psnr,
    ms_ssim,
    mse,
    psnr_from_mse,
    similarity_db,
    ssim,
    y_ms_ssim,
    y_psnr,
)
from enhancer.perceptual import SSIMULACRA2_MIN_SIDE, VIF_MIN_SIDE, ssimulacra2, vif

Values: TypeAlias = dict[str, float | None]
"""Metric name -> value; None where the picture does not allow the metric."""

TITLES: dict[str, str] = {
    "psnr": "RGB-PSNR (dB)",
    "psnr_r": "PSNR of R (dB)",
    "psnr_g": "PSNR of G (dB)",
    "psnr_b": "PSNR of B (dB)",
    "psnr_y601": "Y-PSNR, BT.601 full range (dB)",
    "psnr_y709": "Y-PSNR, BT.709 full range (dB)",
    "mse": "RGB mean squared error (0..255 scale)",
    "ms_ssim": "MS-SSIM, mean of R, G, B",
    "ms_ssim_db": "MS-SSIM of RGB, −10·log10(1 − x) (dB)",
    "ms_ssim_y": "MS-SSIM of BT.601 luma",
    "ms_ssim_y_db": "MS-SSIM of luma, −10·log10(1 − x) (dB)",
    "ssim": "SSIM, mean of R, G, B",
    "vif": "VIF of BT.601 luma, pixel domain",
    "ssimulacra2": "SSIMULACRA2 v2.1",
    "vmaf": "VMAF v0.6.1 of BT.709 luma (libvmaf)",
}
"""What each metric is, spelt out; those of :data:`EXTRA` are measured on request only."""

LOWER_IS_BETTER = frozenset({"mse"})


def measure(reference: Image, test: Image, *, extra: Sequence[str] = ()) -> Values:
    """The metrics of :data:`TITLES` for one picture of 8 or 16 bits, of :data:`EXTRA` those asked for.

    None stands for what a picture does not allow: MS-SSIM for sides below 161 pixels, VIF below 41 and
    for a flat original, SSIM below 11, SSIMULACRA2 below 8, colour channels for gray pictures.

    Raises:
        ValueError: If the pictures cannot be compared, or a metric is unknown.
        CodecUnavailableError: If ``vmaf`` is wanted and no ffmpeg with libvmaf is here.
    """
    if unknown := set(extra) - set(EXTRA):
        raise ValueError(f"an extra metric must be one of {', '.join(EXTRA)}, got {unknown.pop()!r}")
    top = _top(reference)
    error = mse(reference, test, data_range=top)
    values: Values = {"psnr": psnr_from_mse(error)}
    channels = channel_psnr(reference, test, data_range=top)
    for name, value in zip("rgb", channels if len(channels) == 3 else (None,) * 3, strict=True):
        values[f"psnr_{name}"] = value
    values["psnr_y601"] = y_psnr(reference, test, data_range=top, matrix="bt601")
    values["psnr_y709"] = y_psnr(reference, test, data_range=top, matrix="bt709")
    values["mse"] = error
    large = min(reference.shape[:2]) >= MS_SSIM_MIN_SIDE
    for name, metric in (("ms_ssim", ms_ssim), ("ms_ssim_y", y_ms_ssim)):
        similarity = metric(reference, test, data_range=top) if large else None
        values[name] = similarity
        values[f"{name}_db"] = None if similarity is None else similarity_db(similarity)
    values["ssim"] = ssim(reference, test, data_range=top) if min(reference.shape[:2]) >= 11 else None
    return values | {name: EXTRA[name](reference, test) for name in EXTRA if name in extra}


def measure_vif(reference: Image, test: Image) -> float | None:
    """VIF, None where it is not defined."""
    flat = not np.ptp(reference, axis=(0, 1)).any()
    return None if flat or min(reference.shape[:2]) < VIF_MIN_SIDE else vif(reference, test, data_range=_top(reference))


def measure_ssimulacra2(reference: Image, test: Image) -> float | None:
    """SSIMULACRA2, None where the picture is too small."""
    small = min(reference.shape[:2]) < SSIMULACRA2_MIN_SIDE
    return None if small else ssimulacra2(reference, test, data_range=_top(reference))


def _top(image: Image) -> float:
    return float(np.iinfo(image.dtype).max)


def mean_values(pictures: Sequence[Mapping[str, float | None]]) -> Values:
    """Mean of each metric over the pictures that have it, and ``psnr_of_mean_mse``.

    The mean of dB is infinite as soon as one picture is; the PSNR of the mean error is not.
    """
    names = dict.fromkeys(name for values in pictures for name in values)
    means: Values = {}
    for name in names:
        present = [v for values in pictures if (v := values.get(name)) is not None]
        means[name] = math.fsum(present) / len(present) if present and math.inf not in present else None
        if math.inf in present:
            means[name] = math.inf
    error = means.get("mse")
    means["psnr_of_mean_mse"] = None if error is None else psnr_from_mse(error)
    return means


def measure_vmaf(reference: Image, test: Image, *, timeout_s: float = 120.0) -> float:
    """VMAF (model vmaf_v0.6.1 inside libvmaf) of one picture, by the ffmpeg of imageio-ffmpeg.

    The model was trained on video seen from three picture heights; on stills it is only indicative.

    Raises:
        CodecUnavailableError: If that ffmpeg is missing or has no libvmaf.
        ToolError: If it fails.
    """
    from enhancer.image_io import Picture, write_picture

    luma = "scale=out_color_matrix=bt709:out_range=tv,format=yuv444p"
    # The log is named without a folder: a colon or quote in a path would need escaping in the filter.
    graph = f"[0:v]{luma}[test];[1:v]{luma}[reference];[test][reference]libvmaf=log_fmt=json:log_path=vmaf.json"
    with tempfile.TemporaryDirectory(prefix="enhance-eval-") as folder:
        for name, image in (("test.png", test), ("reference.png", reference)):
            write_picture(Path(folder, name), Picture(image))
        command = [
            _ffmpeg(),
            "-v",
            "error",
            "-i",
            "test.png",
            "-i",
            "reference.png",
            "-lavfi",
            graph,
            "-f",
            "null",
            "-",
        ]
        try:
            run_tool(command, timeout_s=timeout_s, cwd=folder)
        except ToolError as error:
            if "No such filter" in str(error) or "Filter not found" in str(error):
                raise CodecUnavailableError("this ffmpeg was built without libvmaf") from error
            raise
        log = json.loads(Path(folder, "vmaf.json").read_text())
    return float(log["frames"][0]["metrics"]["vmaf"])


def _ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise CodecUnavailableError(f"VMAF needs ffmpeg: {error}") from error


EXTRA: dict[str, Callable[[Image, Image], float | None]] = {
    "vif": measure_vif,
    "ssimulacra2": measure_ssimulacra2,
    "vmaf": measure_vmaf,
}
"""Slower metrics, measured on request."""
