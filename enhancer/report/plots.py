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
    for run, (codec, network) in zip(runs, curve_styles(runs), strict=True):
        points = [(p.bpp, p.value) for p in run.curve(metric).points if math.isfinite(p.value)]
        line, mark = ("-", "--", "-.")[network % 3], "osD^v"[network % 5]
        rates, values = zip(*sorted(points), strict=True)
        axes.plot(rates, values, line, color=f"C{codec % 10}", marker=mark, markersize=5, label=run.label)
    for overlay in overlays:
        if published := overlay_values(overlay, metric):
            label = f"{overlay.label} (published, {overlay.test_set})"
            axes.plot(overlay.bpp, published, ":", linewidth=1, label=label)
    axes.set_xlabel(f"bits per pixel, mean of {len(runs[0].pictures)} pictures")
    axes.set_ylabel(TITLES[metric])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    data = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "enhancer"}):
        figure.savefig(data, format=file_format, dpi=160, metadata={"Date": None} if file_format == "svg" else None)
    return data.getvalue()


def curve_styles(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """For each run the number of its codec, for a colour, and of its network, for a line; 0 is no network."""
    codecs = list(dict.fromkeys(str(run.source) for run in runs))
    networks = [str(None), *dict.fromkeys(str(run.enhancement) for run in runs if run.enhancement is not None)]
    return [(codecs.index(str(run.source)), networks.index(str(run.enhancement))) for run in runs]


def overlay_values(overlay: Published, metric: str) -> tuple[float, ...]:
    """The overlay's values of a metric; empty if it was not published."""
    if metric == "ms_ssim_db":
        return tuple(-10.0 * math.log10(1.0 - v) for v in overlay.ms_ssim)
    return {"psnr": overlay.psnr, "ms_ssim": overlay.ms_ssim}.get(metric, ())
