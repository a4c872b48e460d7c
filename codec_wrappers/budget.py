"""Spending a budget of bytes over many pictures: subset sum, and the multiple-choice knapsack.

Both solvers are exact on small sets; on large ones what they leave is far below one picture's step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_EXACT_WEIGHTS = 64
_STATES = 20_000
_CORE_PICTURES = 200


def fill_budget(weights: Sequence[int], budget: int) -> set[int]:
    """Positions of a subset of ``weights`` (all positive) with the largest sum not above ``budget``.

    All but the smallest 64 weights are taken greedily, largest first; over the rest the sum is exact.
    """
    order = sorted(range(len(weights)), key=lambda i: weights[i], reverse=True)
    chosen = set()
    for i in order[:-_EXACT_WEIGHTS]:
        if weights[i] <= budget:
            chosen.add(i)
            budget -= weights[i]
    exact = order[-_EXACT_WEIGHTS:]
    budget = min(budget, sum(weights[i] for i in exact))
    mask = (1 << (budget + 1)) - 1
    reachable = [1]  # bit s of entry k: the first k weights can add up to s
    for i in exact:
        reachable.append((reachable[-1] | reachable[-1] << weights[i]) & mask)
    total = reachable[-1].bit_length() - 1
    for k in range(len(exact), 0, -1):
        if not reachable[k - 1] >> total & 1:
            chosen.add(exact[k - 1])
            total -= weights[exact[k - 1]]
    return chosen


@dataclass(frozen=True)
class Option:
    """One way to code a picture.

    Attributes:
        size: Bytes it takes.
        value: What it is worth; more is better.
    """

    size: int
    value: float


def choose_options(options: Sequence[Sequence[Option]], budget: int) -> list[int] | None:
    """One option per picture so that the values add up to the most within ``budget`` bytes.

    The Lagrangian optimum (Everett 1963; Shoham and Gersho 1988) is repaired greedily; then only those
    options are searched that its bound leaves open, dropping dominated partial choices.

    Args:
        options: For each picture its options, at least one, in any order.
        budget: Bytes for all pictures together.

    Returns:
        For each picture the position of its option; None if even the smallest options take more.
    """
    if not options:
        return []
    table = _Table(options)
    multiplier = table.multiplier(budget)
    if multiplier is None:
        return None
    picks = table.repair(table.lagrangian(multiplier), budget)
    return [int(i) for i in table.improve(picks, multiplier, budget)]


class _Table:
    """Options as arrays, (pictures, options), short rows padded with options of no value."""

    def __init__(self, options: Sequence[Sequence[Option]]) -> None:
        shape = len(options), max(len(row) for row in options)
        self.sizes = np.full(shape, np.iinfo(np.int64).max // 4, np.int64)
        self.values = np.full(shape, -np.inf)
        for i, row in enumerate(options):
            self.sizes[i, : len(row)] = [option.size for option in row]
            self.values[i, : len(row)] = [option.value for option in row]
        self.rows = np.arange(len(options))

    def total_size(self, picks: npt.NDArray[np.int64]) -> int:
        return int(self.sizes[self.rows, picks].sum())

    def total_value(self, picks: npt.NDArray[np.int64]) -> float:
        return float(self.values[self.rows, picks].sum())

    def lagrangian(self, multiplier: float) -> npt.NDArray[np.int64]:
        """Options with the most value minus ``multiplier`` times size; of equal ones the smallest."""
        scores = self.values - multiplier * self.sizes
        best = scores >= scores.max(axis=1, keepdims=True)
        picks: npt.NDArray[np.int64] = np.where(best, self.sizes, np.iinfo(np.int64).max).argmin(axis=1)
        return picks

    def multiplier(self, budget: int) -> float | None:
        """The smallest multiplier, nearly, whose optimum fits; None if nothing fits."""
        if int(self.sizes.min(axis=1).sum()) > budget:
            return None
        if self.total_size(self.lagrangian(0.0)) <= budget:
            return 0.0
        finite = self.values[np.isfinite(self.values)]
        high = float(finite.max() - finite.min()) + 1.0  # a byte then outweighs any gain
        low = high * 1e-18
        for _ in range(100):
            middle = (low * high) ** 0.5
            if self.total_size(self.lagrangian(middle)) <= budget:
                high = middle
            else:
                low = middle
        return high

    def repair(self, picks: npt.NDArray[np.int64], budget: int) -> npt.NDArray[np.int64]:
        """Spends what is left, best value per byte first."""
        picks = picks.copy()
        left = budget - self.total_size(picks)
        while True:
            extra = self.sizes - self.sizes[self.rows, picks][:, None]
            gain = self.values - self.values[self.rows, picks][:, None]
            rate = np.where((extra <= left) & (gain > 0), gain / np.maximum(extra, 1), 0.0)
            if rate.max() <= 0:
                return picks
            i, j = np.unravel_index(rate.argmax(), rate.shape)
            left -= int(extra[i, j])
            picks[i] = j

    def improve(self, picks: npt.NDArray[np.int64], multiplier: float, budget: int) -> npt.NDArray[np.int64]:
        """Searches the choices that the Lagrangian bound does not rule out; never worse than ``picks``."""
        scores = self.values - multiplier * self.sizes
        losses = scores.max(axis=1, keepdims=True) - scores
        gap = float(scores.max(axis=1).sum() + multiplier * budget) - self.total_value(picks)
        open_ = losses <= gap
        start = self.lagrangian(multiplier)
        second = np.where(np.arange(losses.shape[1]) == start[:, None], np.inf, losses).min(axis=1)
        core = [int(i) for i in second.argsort(kind="stable")[:_CORE_PICTURES] if open_[i].sum() > 1]
        fixed = start.copy()
        room = budget - self.total_size(start) + int(self.sizes[core, start[core]].sum())
        least = np.array([self.sizes[i, open_[i]].min() for i in core] + [0], np.int64)[::-1].cumsum()[::-1]
        size, loss = np.zeros(1, np.int64), np.zeros(1)
        trail = []
        for k, i in enumerate(core):
            column = np.flatnonzero(open_[i])
            sizes = (size[:, None] + self.sizes[i, column]).ravel()
            total = (loss[:, None] + losses[i, column]).ravel()
            keep = np.flatnonzero((sizes + least[k + 1] <= room) & (total <= gap))
            keep = keep[_undominated(sizes[keep], multiplier * sizes[keep] - total[keep])]
            if len(keep) > _STATES:
                keep = keep[total[keep].argpartition(_STATES)[:_STATES]]
            size, loss = sizes[keep], total[keep]
            trail.append((keep // len(column), column[keep % len(column)]))
        if not len(size):
            return picks
        state = int((multiplier * size - loss).argmax())
        for i, (parents, chosen) in zip(reversed(core), reversed(trail), strict=True):
            fixed[i] = chosen[state]
            state = int(parents[state])
        better = self.total_size(fixed) <= budget and self.total_value(fixed) > self.total_value(picks)
        return fixed if better else picks


def _undominated(sizes: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Positions of the entries that are worth more than every entry that is not larger."""
    order = np.lexsort((-values, sizes))
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(values[order])[:-1]])
    return order[values[order] > best_before]
