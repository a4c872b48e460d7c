"""Search along one axis on which log size rises nearly linearly, more or less: qps, or log lambda."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# First guess: the cheapest qp of a codec takes about this rate on a photograph, and the range of qps
# spans about this factor (natural logarithm), evenly.
_CHEAPEST_BPP = 0.02
_LOG_RATE_SPAN = 6.0
_SHORT = 3  # interpolation is good enough over so few positions


@dataclass(frozen=True, order=True)
class Point:
    """A measured size; sizes rise with the position, more or less."""

    position: float
    log_size: float


def bracket(points: list[Point], limit: float) -> tuple[Point | None, Point | None]:
    """The last point whose log size fits ``limit``, and the first one after it (or at all) that does not."""
    low = max((p for p in points if p.log_size <= limit), default=None)
    high = min((p for p in points if p.log_size > limit and (low is None or p > low)), default=None)
    return low, high


def propose(points: list[Point], aim: float, limit: float, slope: float) -> float:
    """Position at which log size should be ``aim``, by interpolation or along a plausible slope.

    Args:
        points: What is measured, at least one.
        aim: Log size wanted.
        limit: Log size allowed; splits the points.
        slope: Expected rise of log size per unit of position.
    """
    low, high = bracket(points, limit)
    if low and high:
        share = (aim - low.log_size) / (high.log_size - low.log_size)
        return low.position + (high.position - low.position) * min(max(share, 0.1), 0.9)
    anchor = low or high or points[0]
    others = [p for p in points if p.position != anchor.position]
    if others:
        near = min(others, key=lambda p: abs(p.position - anchor.position))
        measured = (near.log_size - anchor.log_size) / (near.position - anchor.position)
        slope = min(max(measured, slope / 3), slope * 3)
    return anchor.position + (aim - anchor.log_size) / slope


def first_guess(bpp: float, qps: int) -> int:
    """Where, among ``qps`` positions and for want of any encode, ``bpp`` may lie on a photograph."""
    position = math.floor(math.log(bpp / _CHEAPEST_BPP) / _LOG_RATE_SPAN * (qps - 1))
    return min(max(position, 0), qps - 1)


def search_qp(
    sizes: Mapping[int, int],
    measure: Callable[[int], object],
    *,
    qps: int,
    target: float,
    pixels: int,
    max_measured: int,
    reach: float = 0.0,
) -> int:
    """Position of the dearest qp found whose size fits ``target``; 0 if none fits.

    Args:
        sizes: What is measured so far: bytes by position, position 0 being the cheapest qp.
        measure: Measures a position, after which ``sizes`` holds it.
        qps: Number of positions.
        target: Bytes allowed.
        pixels: Pixels that the sizes stand for.
        max_measured: The search ends when ``sizes`` holds this many; goes on only while none fits.
        reach: It also ends when log size is at most this much below that of ``target``; with 0 it
            goes on until the next position is known to be too large.
    """
    last = qps - 1
    slope = _LOG_RATE_SPAN / max(last, 1)
    limit = math.log(target)
    position = first_guess(8 * target / pixels, qps)
    previous_width = math.inf
    overtime = 0.0
    while True:
        points = [Point(position, math.log(size)) for position, size in sizes.items()]
        low, high = bracket(points, limit)
        first, end = (low.position + 1 if low else 0), (high.position - 1 if high else last)
        if first > end or (low and (limit - low.log_size <= reach or len(sizes) >= max_measured)):
            return int(low.position) if low else 0
        if points:
            # Beyond the allowed number of encodes only a stream that fits is wanted: aim lower and lower.
            overtime = 2 * overtime + 0.1 if len(sizes) >= max_measured else 0.0
            width = end - first
            slow = low and high and width > max(previous_width / 2, _SHORT)
            proposal = (first + end) / 2 if slow else propose(points, limit - overtime, limit, slope)
            previous_width = math.inf if slow else width
            position = math.floor(proposal)
        measure(int(min(max(position, first), end)))
