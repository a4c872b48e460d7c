"""Bjøntegaard deltas of many pairs of curves at once, for the bootstrap: the same numbers as one by one."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


def pchip_deltas(anchors: Array, tests: Array, quantity: Literal["rate", "quality"]) -> Array:
    """BD-rates (percent) or BD-qualities, PCHIP, of the pairs that can be compared; the others are left out.

    Args:
        anchors: Rates and qualities, ``(pairs, points, 2)``, points in any order.
        tests: Likewise; the number of points may differ.
        quantity: Which delta.
    """
    (rate_a, value_a), (rate_b, value_b) = _sorted(anchors), _sorted(tests)
    comparable = _rises(rate_a) & _rises(value_a) & _rises(rate_b) & _rises(value_b)
    sides = [(np.log10(rate_a), value_a), (np.log10(rate_b), value_b)]
    if quantity == "rate":
        sides = [(value, rate) for rate, value in sides]
    low = np.maximum(sides[0][0][:, 0], sides[1][0][:, 0])
    high = np.minimum(sides[0][0][:, -1], sides[1][0][:, -1])
    comparable &= low < high
    means = [_pchip_means(x[comparable], y[comparable], low[comparable], high[comparable]) for x, y in sides]
    difference = means[1] - means[0]
    return (10.0**difference - 1.0) * 100.0 if quantity == "rate" else difference


def _sorted(tables: Array) -> tuple[Array, Array]:
    """Rates and qualities, ``(pairs, points)`` each, cheapest point first."""
    order = np.argsort(tables[..., 0], axis=1)[..., None]
    ordered = np.take_along_axis(tables, order, axis=1)
    return ordered[..., 0], ordered[..., 1]


def _rises(values: Array) -> npt.NDArray[np.bool_]:
    rises: npt.NDArray[np.bool_] = np.all(np.diff(values, axis=1) > 0, axis=1)
    return rises


def _pchip_means(x: Array, y: Array, low: Array, high: Array) -> Array:
    """Means over ``low..high`` of the monotone cubics through the points; all curves rise strictly."""
    h, slopes = np.diff(x, axis=1), _pchip_slopes(x, y)
    left, right = x[:, :-1], x[:, 1:]

    def integral(end: Array) -> Array:
        """From the first point to ``end``: the sum over the pieces of a Hermite cubic's integral up to it."""
        s = (np.clip(end[:, None], left, right) - left) / h
        whole = y[:, :-1] * (s - s**3 + s**4 / 2) + y[:, 1:] * (s**3 - s**4 / 2)
        bent = slopes[:, :-1] * (s**2 / 2 - 2 * s**3 / 3 + s**4 / 4) + slopes[:, 1:] * (s**4 / 4 - s**3 / 3)
        pieces: Array = (h * (whole + h * bent)).sum(axis=1)
        return pieces

    return (integral(high) - integral(low)) / (high - low)


def _pchip_slopes(x: Array, y: Array) -> Array:
    """Slopes at the points: weighted harmonic means inside, one-sided parabolas at the ends.

    F. N. Fritsch and J. Butland, SIAM J. Sci. Stat. Comput. 1984, as SciPy has it, for rising curves.
    """
    h = np.diff(x, axis=1)
    secants = np.diff(y, axis=1) / h
    first, second = 2 * h[:, 1:] + h[:, :-1], h[:, 1:] + 2 * h[:, :-1]
    inner = (first + second) / (first / secants[:, :-1] + second / secants[:, 1:])
    ends = [
        np.maximum(((2 * h[:, i] + h[:, j]) * secants[:, i] - h[:, i] * secants[:, j]) / (h[:, i] + h[:, j]), 0.0)
        for i, j in ((0, 1), (-1, -2))
    ]
    return np.concatenate([ends[0][:, None], inner, ends[1][:, None]], axis=1)
