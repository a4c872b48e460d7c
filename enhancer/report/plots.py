"""Static rate-distortion plots, PNG or SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Literal

from enhancer.errors import EnhancerError
from enhancer.evaluation.measure import TITLES
from enhancer.evaluation.results import Run
from enhancer.report.published import Published


def plot_curves(
    runs: Sequence[Run], metric: str, *, file_format: Literal["png", "svg"], overlays: Sequence[Published] = ()
) -> bytes:
    """Mean quality over mean rate of all runs, drawn by matplotlib; overlays are dashed.

    Equal runs give equal bytes: the file carries no date.

    Raises:
        EnhancerError: If matplotlib is not installed.
        ValueError: If the metric is unknown, or no run has it.
    """
    if metric not in TITLES:
        raise ValueError(f"metric must be one of {', '.join(TITLES)}, got {metric!r}")
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnhancerError("plots need matplotlib: pip install 'enhancer[report]'") from error
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for run, mark in zip(runs, "osD^v<>pP*X" * len(runs), strict=False):
        points = [(p.bpp, p.value) for p in run.curve(metric).points if math.isfinite(p.value)]
        axes.plot(*zip(*sorted(points), strict=True), marker=mark, markersize=5, label=run.label)
    for overlay in overlays:
        if values := overlay_values(overlay, metric):
            axes.plot(overlay.bpp, values, "--", linewidth=1, label=f"{overlay.label} (published, {overlay.test_set})")
    axes.set_xlabel(f"bits per pixel, mean of {len(runs[0].pictures)} pictures")
    axes.set_ylabel(TITLES[metric])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    data = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "enhancer"}):
        figure.savefig(data, format=file_format, dpi=160, metadata={"Date": None} if file_format == "svg" else None)
    return data.getvalue()


def overlay_values(overlay: Published, metric: str) -> tuple[float, ...]:
    """The overlay's values of a metric; empty if it was not published."""
    if metric == "ms_ssim_db":
        return tuple(-10.0 * math.log10(1.0 - v) for v in overlay.ms_ssim)
    return {"psnr": overlay.psnr, "ms_ssim": overlay.ms_ssim}.get(metric, ())
