"""Bjøntegaard deltas between rate-distortion curves: BD-rate, BD-PSNR, and how sure they are.

G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001. The curves
are interpolated over log10(rate): by piecewise cubic Hermite polynomials (``pchip``, the JCT-VC
template's way), Akima splines (``akima``) or one least-squares cubic (``cubic``, the original).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from enhancer.bd_batch import pchip_deltas

Method: TypeAlias = Literal["pchip", "akima", "cubic"]

METHODS: tuple[Method, ...] = ("pchip", "akima", "cubic")
MIN_POINTS = 4


@dataclass(frozen=True)
class RdPoint:
    """One operating point: a rate in bits per pixel and a quality value (higher is better)."""

    bpp: float
    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bpp) and self.bpp > 0):
            raise ValueError(f"a rate must be finite and positive, got {self.bpp}")
        if math.isnan(self.value):
            raise ValueError("a quality value is not a number")


@dataclass(frozen=True)
class RdCurve:
    """Quality over rate of one codec.

    Attributes:
        label: Name for tables and legends.
        metric: What ``value`` of the points is, e.g. ``psnr``; only equal metrics can be compared.
        points: In any order.
    """

    label: str
    metric: str
    points: tuple[RdPoint, ...]


class Interval(NamedTuple):
    """A closed interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """A BD value on the mean curves and its percentile confidence interval over pictures.

    Attributes:
        value: The delta between the two mean curves.
        interval: Percentile interval of the resampled deltas.
        confidence: E.g. 0.95.
        resamples: How many resamples the interval rests on.
        refused: How many further resamples could not be compared (not monotone, no overlap).
    """

    value: float
    interval: Interval
    confidence: float
    resamples: int
    refused: int


class _Integrable(Protocol):
    def integrate(self, low: float, high: float) -> Any: ...


def bd_rate(anchor: RdCurve, test: RdCurve, *, method: Method = "pchip") -> float:
    """Mean rate difference at equal quality, in percent; negative means that ``test`` saves bits.

    Raises:
        ValueError: If the curves cannot be compared: different metrics, fewer than four points, a
            point of infinite quality, quality that does not rise strictly with the rate, or no
            common interval of quality.
    """
    interval = quality_overlap(anchor, test)
    curves = (_Samples.of(anchor), _Samples.of(test))
    integrals = [_mean(s.value, s.log_rate, interval, method) for s in curves]
    return float((10.0 ** (integrals[1] - integrals[0]) - 1.0) * 100.0)


def bd_quality(anchor: RdCurve, test: RdCurve, *, method: Method = "pchip") -> float:
    """Mean quality difference at equal rate, in the metric's unit (BD-PSNR in dB); positive is better.

    Raises:
        ValueError: As :func:`bd_rate`, with a common interval of the rate.
    """
    rate_overlap(anchor, test)
    curves = (_Samples.of(anchor), _Samples.of(test))
    # From the samples themselves: an end off by one rounding is outside of Akima's domain.
    ends = [(float(s.log_rate[0]), float(s.log_rate[-1])) for s in curves]
    interval = Interval(max(low for low, _ in ends), min(high for _, high in ends))
    integrals = [_mean(s.log_rate, s.value, interval, method) for s in curves]
    return integrals[1] - integrals[0]


def quality_overlap(anchor: RdCurve, test: RdCurve) -> Interval:
    """Interval of quality that both curves cover, over which :func:`bd_rate` averages; same errors."""
    return _overlap(anchor, test, "quality", [[p.value for p in c.points] for c in (anchor, test)])


def rate_overlap(anchor: RdCurve, test: RdCurve) -> Interval:
    """Interval of rate (bpp) that both curves cover, over which :func:`bd_quality` averages; same errors."""
    return _overlap(anchor, test, "rate", [[p.bpp for p in c.points] for c in (anchor, test)])


def mean_curve(curves: Sequence[RdCurve]) -> RdCurve:
    """The curve of mean rates and mean qualities, point by point, over the pictures of a set.

    Raises:
        ValueError: If there is none, or metrics, labels or numbers of points differ.
    """
    if not curves:
        raise ValueError("no curve to average")
    first = curves[0]
    if {(c.label, c.metric, len(c.points)) for c in curves} != {(first.label, first.metric, len(first.points))}:
        raise ValueError(f"curves to average must agree in label, metric and number of points ({first.label})")
    return _with_points(first, _table(curves).mean(axis=0))


def bootstrap_bd(
    anchors: Sequence[RdCurve],
    tests: Sequence[RdCurve],
    *,
    rng: np.random.Generator,
    method: Method = "pchip",
    quantity: Literal["rate", "quality"] = "rate",
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Bootstrap:
    """A BD value of mean curves with a percentile bootstrap interval (Efron, 1979) over pictures.

    Pictures are drawn with replacement, the same ones for both codecs, so that the interval says how
    far the result depends on the choice of pictures; it says nothing about encoder noise.

    Args:
        anchors: One curve a picture.
        tests: One curve for each of the same pictures, in the same order.
        rng: Source of the resampling.
        method: Interpolation.
        quantity: ``rate`` for :func:`bd_rate`, ``quality`` for :func:`bd_quality`.
        resamples: Number of draws.
        confidence: Coverage of the interval, between 0 and 1.

    Raises:
        ValueError: If the mean curves cannot be compared, or fewer than half of the resamples can.
    """
    if len(anchors) != len(tests):
        raise ValueError(f"{len(anchors)} anchor pictures but {len(tests)} test pictures")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError("confidence must lie between 0 and 1, and resamples be at least 1")
    delta = bd_rate if quantity == "rate" else bd_quality
    value = delta(mean_curve(anchors), mean_curve(tests), method=method)
    chosen = rng.integers(len(anchors), size=(resamples, len(anchors)))
    means = [_table(curves)[chosen].mean(axis=1) for curves in (anchors, tests)]
    if method == "pchip":
        values = pchip_deltas(means[0], means[1], quantity)
    else:
        values = _deltas(anchors[0], tests[0], means, delta, method)
    if 2 * len(values) < resamples:
        raise ValueError(f"only {len(values)} of {resamples} resamples of the pictures can be compared")
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return Bootstrap(value, Interval(float(low), float(high)), confidence, len(values), resamples - len(values))


def _deltas(
    anchor: RdCurve,
    test: RdCurve,
    means: Sequence[npt.NDArray[np.float64]],
    delta: Callable[..., float],
    method: Method,
) -> npt.NDArray[np.float64]:
    """The deltas of those resampled curves that can be compared."""
    values = []
    for points_a, points_b in zip(*means, strict=True):
        with suppress(ValueError):
            values.append(delta(_with_points(anchor, points_a), _with_points(test, points_b), method=method))
    return np.array(values)


def _table(curves: Sequence[RdCurve]) -> npt.NDArray[np.float64]:
    """Rates and qualities of curves with equal numbers of points: ``(curves, points, 2)``."""
    return np.array([[(p.bpp, p.value) for p in c.points] for c in curves], dtype=np.float64)


def _with_points(curve: RdCurve, table: npt.NDArray[np.float64]) -> RdCurve:
    """``curve`` with the points of ``table``, ``(points, 2)``."""
    return RdCurve(curve.label, curve.metric, tuple(RdPoint(float(bpp), float(value)) for bpp, value in table))


class _Samples(NamedTuple):
    """A checked curve as arrays, cheapest point first."""

    log_rate: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]

    @classmethod
    def of(cls, curve: RdCurve) -> _Samples:
        if len(curve.points) < MIN_POINTS:
            raise ValueError(f"{curve.label}: {len(curve.points)} points, Bjøntegaard deltas need {MIN_POINTS}")
        if any(math.isinf(p.value) for p in curve.points):
            raise ValueError(f"{curve.label}: {curve.metric} is infinite at some point (identical pictures)")
        points = sorted(curve.points, key=lambda p: p.bpp)
        rate, value = np.array([(p.bpp, p.value) for p in points], dtype=np.float64).T
        if not (np.all(np.diff(rate) > 0) and np.all(np.diff(value) > 0)):
            raise ValueError(f"{curve.label}: {curve.metric} does not rise strictly with the rate")
        return cls(np.log10(rate), value)


def _overlap(anchor: RdCurve, test: RdCurve, axis: str, values: list[list[float]]) -> Interval:
    if anchor.metric != test.metric:
        raise ValueError(f"cannot compare {anchor.metric} of {anchor.label} with {test.metric} of {test.label}")
    for curve in (anchor, test):
        _Samples.of(curve)
    low, high = max(map(min, values)), min(map(max, values))
    if not low < high:
        raise ValueError(f"{anchor.label} and {test.label} have no common interval of {axis}")
    return Interval(low, high)


def _mean(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], interval: Interval, method: Method) -> float:
    """Mean over ``interval`` of the function through the points ``(x, y)``."""
    return float(_interpolate(x, y, method).integrate(interval.low, interval.high)) / (interval.high - interval.low)


def _interpolate(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], method: Method) -> _Integrable:
    from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

    if method == "pchip":
        return PchipInterpolator(x, y)  # type: ignore[no-any-return]  # scipy has no types
    if method == "akima":
        return Akima1DInterpolator(x, y)  # type: ignore[no-any-return]  # scipy has no types
    if method == "cubic":
        return _Cubic(x, y)
    raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


class _Cubic:
    """One least-squares cubic through all points."""

    def __init__(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
        # Fitted in coordinates scaled to [-1, 1], where the normal equations are well conditioned.
        self._integral = np.polynomial.Polynomial.fit(x, y, 3).integ()

    def integrate(self, low: float, high: float) -> float:
        return float(self._integral(high) - self._integral(low))
