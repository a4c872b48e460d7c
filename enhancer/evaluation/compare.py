"""Two runs compared: Bjøntegaard deltas of mean curves and of each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enhancer.bd_rate import (
    Bootstrap,
    Interval,
    Method,
    RdCurve,
    bd_quality,
    bd_rate,
    bootstrap_bd,
    mean_curve,
    quality_overlap,
    rate_overlap,
)
from enhancer.errors import EnhancerError
from enhancer.evaluation.measure import LOWER_IS_BETTER, TITLES
from enhancer.evaluation.results import Run, check_same_pictures


@dataclass(frozen=True)
class PictureDelta:
    """Deltas of one picture, or why there are none."""

    picture: str
    bd_rate: float | None
    bd_quality: float | None
    refused: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A test run against an anchor in one metric.

    Attributes:
        anchor: Label.
        test: Label.
        metric: Name of the metric.
        method: Interpolation.
        bd_rate: Percent; of the mean curves, with its interval over pictures (None for one picture).
        bd_quality: In the metric's unit, likewise.
        overlap: Interval of quality over which the rate was compared.
        rate_overlap: Interval of rate (bpp) over which the quality was compared.
        covered: Share of the joint interval of quality that both curves cover; a small one is a warning.
        pictures: Deltas of each picture.
        left_out: Pictures without this metric.
    """

    anchor: str
    test: str
    metric: str
    method: Method
    bd_rate: Bootstrap | float
    bd_quality: Bootstrap | float
    overlap: Interval
    rate_overlap: Interval
    covered: float
    pictures: tuple[PictureDelta, ...]
    left_out: tuple[str, ...]


def comparable_metrics(anchor: Run, test: Run) -> tuple[str, ...]:
    """Metrics that both runs have and that rise with quality."""
    return tuple(m for m in TITLES if m in anchor.metrics and m in test.metrics and m not in LOWER_IS_BETTER)


def compare_runs(
    anchor: Run,
    test: Run,
    *,
    metric: str = "psnr",
    method: Method = "pchip",
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """BD-rate and BD-quality of ``test`` against ``anchor``.

    Args:
        anchor: What a saving is relative to.
        test: Measured on the same pictures.
        metric: One of :func:`comparable_metrics`.
        method: Interpolation.
        resamples: Of the bootstrap over pictures.
        seed: Of the bootstrap.

    Raises:
        EnhancerError: If the runs are of different pictures.
        ValueError: If the metric is unknown, or the curves cannot be compared.
    """
    check_same_pictures(anchor, test)
    if metric not in comparable_metrics(anchor, test):
        known = ", ".join(comparable_metrics(anchor, test))
        raise ValueError(f"{metric!r} cannot be compared between {anchor.label} and {test.label}; possible: {known}")
    curves = _paired(anchor.picture_curves(metric), test.picture_curves(metric))
    anchors, tests = [a for a, _ in curves.values()], [t for _, t in curves.values()]
    means = (mean_curve(anchors), mean_curve(tests))
    overlap = quality_overlap(*means)
    values = [p.value for c in means for p in c.points]
    deltas: list[Bootstrap | float] = []
    for quantity, delta in (("rate", bd_rate), ("quality", bd_quality)):
        if len(anchors) > 1:
            rng = np.random.default_rng(seed)
            deltas.append(
                bootstrap_bd(anchors, tests, rng=rng, method=method, quantity=quantity, resamples=resamples)  # type: ignore[arg-type]  # the two literals
            )
        else:
            deltas.append(delta(*means, method=method))
    return Comparison(
        anchor=anchor.label,
        test=test.label,
        metric=metric,
        method=method,
        bd_rate=deltas[0],
        bd_quality=deltas[1],
        overlap=overlap,
        rate_overlap=rate_overlap(*means),
        covered=(overlap.high - overlap.low) / (max(values) - min(values)),
        pictures=tuple(_picture_delta(name, a, t, method) for name, (a, t) in curves.items()),
        left_out=tuple(sorted(set(anchor.pictures) - set(curves))),
    )


def pick_run(runs: Sequence[Run], label: str) -> Run:
    """The run called ``label``.

    Raises:
        EnhancerError: If there is none; the message lists the labels.
    """
    for run in runs:
        if run.label == label:
            return run
    raise EnhancerError(f"no run is called {label!r}; there are: {', '.join(repr(r.label) for r in runs)}")


def _paired(anchors: dict[str, RdCurve], tests: dict[str, RdCurve]) -> dict[str, tuple[RdCurve, RdCurve]]:
    pairs = {name: (curve, tests[name]) for name, curve in anchors.items() if name in tests}
    if not pairs:
        raise ValueError("no picture has the metric in both runs")
    return pairs


def _picture_delta(name: str, anchor: RdCurve, test: RdCurve, method: Method) -> PictureDelta:
    try:
        return PictureDelta(name, bd_rate(anchor, test, method=method), bd_quality(anchor, test, method=method))
    except ValueError as error:
        return PictureDelta(name, None, None, str(error))
