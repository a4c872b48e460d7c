"""One self-contained HTML page: curves, deltas, pictures. It loads nothing from anywhere."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from enhancer.bd_rate import METHODS, Bootstrap
from enhancer.errors import EnhancerError
from enhancer.evaluation.compare import comparable_metrics, compare_runs
from enhancer.evaluation.results import Run
from enhancer.report.gallery import Gallery, build_gallery
from enhancer.report.plots import curve_styles, overlay_values
from enhancer.report.published import Published

BD_METRICS = ("psnr", "psnr_y601", "ms_ssim_db")
TABLE_METRICS = ("psnr", "psnr_y601", "psnr_y709", "ms_ssim", "ms_ssim_y", "ssim", "vif", "ssimulacra2", "vmaf")


@dataclass(frozen=True)
class PageSettings:
    """What goes into the page.

    Attributes:
        title: Heading.
        anchors: Labels of the runs that others are compared with; empty for all runs without a network.
        overlays: Published curves to draw beside the measured ones.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        viewer_qps: Operating points in the viewer; empty for the cheapest and the middle one of each run.
        viewer_pictures: At most so many pictures in the viewer, None for all.
        max_bytes: Size of the page; pictures are compressed until it is kept.
    """

    title: str = "Rate-distortion report"
    anchors: tuple[str, ...] = ()
    overlays: tuple[Published, ...] = ()
    resamples: int = 500
    seed: int = 0
    viewer_qps: tuple[int, ...] = ()
    viewer_pictures: int | None = None
    max_bytes: int = 15_000_000


def build_page(runs: Sequence[Run], results: Path, settings: PageSettings) -> bytes:
    """The page for ``runs``, whose pictures lie in ``results/pictures`` if they were kept.

    Raises:
        EnhancerError: If plotly is not installed, an anchor is unknown, or not even one picture fits.
    """
    data = {
        "title": settings.title,
        "runs": [_run(run, *style) for run, style in zip(runs, curve_styles(runs), strict=True)],
        "metrics": {name: _titles()[name] for name in _titles() if any(name in run.metrics for run in runs)},
        "overlays": [_overlay(o) for o in settings.overlays],
        "bd": _deltas(runs, settings),
        "table": _picture_table(runs),
        "environment": _environments(runs),
    }
    empty = _fill(settings.title, data, Gallery())
    room = settings.max_bytes - len(empty)
    gallery = build_gallery(runs, results, settings.viewer_qps, settings.viewer_pictures, room)
    return _fill(settings.title, data, gallery)


def _fill(title: str, data: dict[str, Any], gallery: Gallery) -> bytes:
    page = _resource("template.html")
    for name, text in (
        ("title", html.escape(title)),
        ("style", _resource("style.css")),
        ("plotly", _plotly()),
        ("script", _resource("page.js") + _resource("viewer.js")),
        ("data", _script_json(data)),
        ("gallery", _script_json(gallery.as_dict())),
    ):
        before, _, after = page.partition(f"<!--{name}-->")
        page = before + text + after
    return page.encode()


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise EnhancerError("the report needs plotly: pip install 'enhancer[report]'") from error
    return str(get_plotlyjs())


def _script_json(value: object) -> str:
    """JSON that can stand inside a ``script`` element; infinity as the string ``inf``."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _titles() -> dict[str, str]:
    from enhancer.evaluation.measure import TITLES

    return TITLES


def _run(run: Run, codec: int, network: int) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for metric in run.metrics:
        try:
            points = run.curve(metric).points
        except ValueError:
            continue  # The rates are not known: such a run is in the tables and the viewer only.
        pairs = sorted(zip(points, run.qps, strict=True), key=lambda pair: pair[0].bpp)
        curves[metric] = [[p.bpp, p.value, qp] for p, qp in pairs]
    left_out = {m: names for m in run.metrics if (names := run.left_out(m))}
    return {"label": run.label, "codec": codec, "network": network, "curves": curves, "left_out": left_out}


def _overlay(overlay: Published) -> dict[str, Any]:
    values = {m: overlay_values(overlay, m) for m in ("psnr", "ms_ssim", "ms_ssim_db")}
    return {
        "label": overlay.label,
        "set": overlay.test_set,
        "source": overlay.source,
        "bpp": overlay.bpp,
        "values": {m: v for m, v in values.items() if v},
    }


def _deltas(runs: Sequence[Run], settings: PageSettings) -> list[dict[str, Any]]:
    labels = [run.label for run in runs]
    if unknown := set(settings.anchors) - set(labels):
        raise EnhancerError(f"no run is called {unknown.pop()!r}; there are: {', '.join(labels)}")
    chosen = settings.anchors or [run.label for run in runs if run.enhancement is None]
    rows = []
    for anchor in runs:
        if anchor.label in chosen:
            rows += [
                _delta(anchor, test, metric, settings)
                for test in runs
                if test is not anchor
                for metric in comparable_metrics(anchor, test)
                if metric in BD_METRICS
            ]
    return rows


def _delta(anchor: Run, test: Run, metric: str, settings: PageSettings) -> dict[str, Any]:
    row: dict[str, Any] = {"anchor": anchor.label, "test": test.label, "metric": metric}
    try:
        for method in METHODS:
            # One interval is enough: the methods differ by far less than the pictures.
            resamples = settings.resamples if method == METHODS[0] else 1
            result = compare_runs(anchor, test, metric=metric, method=method, resamples=resamples, seed=settings.seed)
            row[method] = _value(result.bd_rate)
            if method == METHODS[0]:
                row["quality"] = _value(result.bd_quality)
                row["rate_interval"], row["quality_interval"] = map(_interval, (result.bd_rate, result.bd_quality))
                row["overlap"], row["covered"] = tuple(result.overlap), result.covered
    except ValueError as error:
        row["refused"] = str(error)
    return row


def _value(delta: Bootstrap | float) -> float:
    return delta if isinstance(delta, float) else delta.value


def _interval(delta: Bootstrap | float) -> tuple[float, float] | None:
    return None if isinstance(delta, float) else (delta.interval.low, delta.interval.high)


def _picture_table(runs: Sequence[Run]) -> dict[str, Any]:
    metrics = [m for m in TABLE_METRICS if any(m in run.metrics for run in runs)]
    rows = [
        [r.picture, run.label, r.qp, r.byte_count, r.bpp, *(r.metrics.get(m) for m in metrics)]
        for run in runs
        for r in run.records
    ]
    return {"head": ["picture", "run", "qp", "bytes", "bpp", *metrics], "rows": rows}


def _environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {"label": r.label, "source": r.source, "enhancement": r.enhancement, "environment": r.environment} for r in runs
    ]
