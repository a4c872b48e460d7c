"""A set of pictures within one budget: the mixture of two adjacent qps, or the Lagrangian optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from codec_wrappers.base import Codec, Image
from codec_wrappers.budget import Option, choose_options, fill_budget
from codec_wrappers.coding_jobs import Coded, CodingTable, Measure, PictureSet, Progress, Read
from codec_wrappers.encode_cache import EncodeCache, encoder_versions
from codec_wrappers.errors import CodecError, RateControlError
from codec_wrappers.manifest import CodedPicture
from codec_wrappers.rate_control import PROBE_RATIO, refine_to_bytes, usable_knob
from codec_wrappers.rate_search import first_guess, search_qp
from codec_wrappers.workers import WorkerPool

Objective: TypeAlias = Literal["mix", "psnr", "mse", "ms_ssim"]
Value: TypeAlias = Callable[[Coded], float]

_MAX_ROUNDS = 24  # 13 have been seen: each moves the optimum on by a few qps only
_START_SPREAD = 2  # first rated qps: this far on both sides of the mixture
_LEAP = 4  # rate and quality are extrapolated by at most so many qps
_SLOPE_BASE = 3  # positions apart that a slope is taken from, if possible: neighbours are too noisy
_WORTH_REFINING = 0.001  # of the budget
_REFINED_PICTURES = 3
_MAX_PSNR = 100.0  # stands for the infinite PSNR of an identical picture


@dataclass(frozen=True)
class Allocation:
    """What :func:`allocate` decided.

    Attributes:
        objective: What it was decided for.
        budget_bytes: Bytes allowed for all pictures together.
        pictures: One entry per picture, in the order given.
        encodes: Number of encodes that were needed, those found in the cache included.
        cache: Where the streams lie.
    """

    objective: Objective
    budget_bytes: int
    pictures: tuple[CodedPicture, ...]
    encodes: int
    cache: EncodeCache

    @property
    def total_bytes(self) -> int:
        return sum(picture.size for picture in self.pictures)

    @property
    def bpp(self) -> float:
        """Rate over the whole set."""
        return 8 * self.total_bytes / sum(picture.width * picture.height for picture in self.pictures)

    def bitstream(self, position: int) -> bytes:
        """The stream of one picture.

        Raises:
            CodecError: If the cache lost it.
        """
        bitstream = self.cache.load(self.pictures[position].key)
        if bitstream is None:
            raise CodecError(f"the stream of {self.pictures[position].file} is gone from {self.cache.folder}")
        return bitstream


def allocate(
    codec: Codec,
    images: Sequence[Path | Image],
    bpp: float,
    objective: Objective = "mix",
    *,
    measure: Measure | None = None,
    read: Read | None = None,
    workers: int = 1,
    cache: EncodeCache | None = None,
    progress: Progress | None = None,
) -> Allocation:
    """Chooses a qp for each picture so that all streams together keep to ``bpp`` bits per pixel.

    ``mix`` is the way of Xue and Su (CVPRW 2019): two adjacent qps for the whole set, the finer one for
    as many pictures as fill the budget best. The others choose freely: ``psnr`` for the best mean of the
    pictures' PSNRs, ``mse`` for the least squared error over all pixels, ``ms_ssim`` for the best mean of
    ``measure``. What is left at the end goes to a few pictures through the codec's fine knob.

    Args:
        codec: Encoder and its options.
        images: Arrays, or paths that are read when needed and then forgotten.
        bpp: Rate limit over all pixels of the set.
        objective: What to do best within the limit.
        measure: Quality of a picture, ``measure(original, decoded)`` on arrays of equal shape and type;
            more is better. Required for ``ms_ssim``; replaces the built-in measure of ``psnr``.
        read: Reads a path; required if ``images`` holds paths.
        workers: Number of processes; with more than one, ``codec``, ``measure`` and ``read`` are pickled.
        cache: Where streams are kept; by default ``EncodeCache()``.
        progress: Told after every encode.

    Raises:
        ValueError: If an argument is out of range or missing.
        RateControlError: If the limit is below or above what the codec can do.
        CodecError: If a picture cannot be encoded; the message names it.
    """
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}")
    if not (math.isfinite(bpp) and bpp > 0):
        raise ValueError(f"bpp must be a positive number, got {bpp}")
    if not len(images):
        raise ValueError("there are no pictures to allocate bytes to")
    if objective == "ms_ssim" and measure is None:
        raise ValueError("objective 'ms_ssim' needs a measure")
    if measure is not None and objective == "mse":
        raise ValueError("objective 'mse' takes no measure")
    if read is None and any(isinstance(image, Path) for image in images):
        raise ValueError("images that are paths need a function that reads them")
    with WorkerPool(workers) as pool:
        pictures = PictureSet(images, pool, cache or EncodeCache(), measure=measure, read=read, progress=progress)
        table = CodingTable(pictures, codec)
        budget, fits = _mixture(pictures, table, bpp)
        value = _value_of(objective, measure)
        chosen = _mix(table, fits, budget) if objective == "mix" else _optimum(table, fits, budget, value)
        table.ensure(list(enumerate(chosen)), rated=True)
        rows = [
            _row(pictures, i, codec, table.qps[position], table.coded[i][position], objective)
            for i, position in enumerate(chosen)
        ]
        _spend_rest(pictures, rows, [value(table.coded[i][p]) for i, p in enumerate(chosen)], budget, objective, value)
        return Allocation(objective, budget, tuple(rows), pictures.done, pictures.cache)


def _value_of(objective: Objective, measure: Measure | None) -> Value:
    """What a rated picture is worth for the objective."""
    if objective == "mse":
        return lambda coded: -coded.metrics["mse"] * coded.width * coded.height
    name = "psnr" if measure is None else "measure"
    return lambda coded: min(coded.metrics[name], _MAX_PSNR)


def _mixture(pictures: PictureSet, table: CodingTable, bpp: float) -> tuple[int, int]:
    """The budget in bytes, and the position of the dearest qp at which the whole set keeps to it.

    Raises:
        RateControlError: If the set is too large at the cheapest qp or too small at the dearest.
    """
    last = len(table.qps) - 1
    start = first_guess(bpp, last + 1)
    quick = CodingTable(pictures, table.codec.probe())
    probed = quick.codec != table.codec
    first = quick if probed else table
    # The sizes of the pictures come with the first encodes; only then the budget is known.
    totals = {start: first.total_size(start)}
    pixels = sum(known[start].width * known[start].height for known in first.coded)
    budget = math.floor(bpp * pixels / 8 + 1e-6)

    def find(source: CodingTable, totals: dict[int, int], target: float) -> int:
        def measure(position: int) -> None:
            totals[position] = source.total_size(position)

        return search_qp(totals, measure, qps=last + 1, target=target, pixels=pixels, max_measured=last + 1)

    if probed:
        start = find(quick, totals, max(budget, 1) / PROBE_RATIO)
        totals = {start: table.total_size(start)}
    fits = find(table, totals, max(budget, 1))
    reached = f"{8 * totals[fits] / pixels:.4g} bpp with {table.codec.name}"
    if totals[fits] > budget:
        raise RateControlError(f"{bpp:g} bpp are out of reach: the set takes at least {reached}")
    if fits == last and totals[fits] < 0.99 * budget:
        raise RateControlError(f"{bpp:g} bpp are out of reach: the set takes at most {reached}")
    return budget, fits


def _mix(table: CodingTable, fits: int, budget: int) -> list[int]:
    """Position ``fits`` or the next finer one for each picture, so that the budget is used best."""
    finer = min(fits + 1, len(table.qps) - 1)
    table.total_size(finer)
    steps = [known[finer].size - known[fits].size for known in table.coded]
    # A picture that is not larger at the finer qp gets it in any case.
    base = sum(known[fits].size + min(step, 0) for known, step in zip(table.coded, steps, strict=True))
    rising = [i for i, step in enumerate(steps) if step > 0]
    taken = {rising[k] for k in fill_budget([steps[i] for i in rising], budget - base)}
    return [finer if i in taken or step <= 0 else fits for i, step in enumerate(steps)]


def _optimum(table: CodingTable, fits: int, budget: int, value: Value) -> list[int]:
    """Positions with the most value within the budget.

    Size and value are measured at two qps per picture, inter- and extrapolated elsewhere, and measured
    wherever the optimum then falls and beside it, until it rests on measured neighbours only.
    """
    last = len(table.qps) - 1
    pictures = range(len(table.coded))

    def options(i: int) -> dict[int, Option]:
        return {position: Option(coded.size, value(coded)) for position, coded in table.rated(i).items()}

    around = {min(max(fits + step, 0), last) for step in (-_START_SPREAD, _START_SPREAD)}
    table.ensure([(i, position) for i in pictures for position in around], rated=True)
    for _ in range(_MAX_ROUNDS):
        chosen = _choose([_extended(options(i), last) for i in pictures], budget)
        unknown = [(i, p) for i, p in enumerate(chosen) if p not in options(i)]
        beside = [(i, q) for i, p in enumerate(chosen) for q in (p - 1, p + 1) if 0 <= q <= last]
        wanted = unknown or [(i, q) for i, q in beside if q not in options(i)]
        if not wanted and sum(options(i)[p].size for i, p in enumerate(chosen)) <= budget:
            return chosen
        table.ensure(wanted, rated=True)
    # Rare: no rest was found. All pictures at the mixture's qp keep to the budget.
    table.ensure([(i, fits) for i in pictures], rated=True)
    return _choose([options(i) for i in pictures], budget)


def _choose(rows: list[dict[int, Option]], budget: int) -> list[int]:
    """Positions of the best options; of the smallest ones where guessed sizes leave no choice."""
    picks = choose_options([list(row.values()) for row in rows], budget)
    if picks is None:
        return [min(row, key=lambda position: row[position].size) for row in rows]
    return [list(row)[pick] for row, pick in zip(rows, picks, strict=True)]


def _extended(known: dict[int, Option], last: int) -> dict[int, Option]:
    """``known`` with log size and value guessed between its positions and a little beyond them."""
    positions = np.array(list(known))
    wanted = np.arange(max(positions[0] - _LEAP, 0), min(positions[-1] + _LEAP, last) + 1)
    log_sizes = _guess(positions, np.log([option.size for option in known.values()]), wanted)
    values = _guess(positions, np.array([option.value for option in known.values()]), wanted)
    return {
        int(p): known.get(int(p)) or Option(math.ceil(math.exp(log_size)), float(value))
        for p, log_size, value in zip(wanted, log_sizes, values, strict=True)
    }


def _guess(positions: npt.NDArray[Any], values: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Values at the positions ``wanted``: linear between the known ones and along their slope outside."""
    result: npt.NDArray[np.float64] = np.interp(wanted, positions, values)
    if len(positions) > 1:
        for end, outside in ((0, wanted < positions[0]), (-1, wanted > positions[-1])):
            distance = np.abs(positions - positions[end])
            inner = np.argmin(np.where(distance >= min(_SLOPE_BASE, distance.max()), distance, np.inf))
            slope = (values[inner] - values[end]) / (positions[inner] - positions[end])
            result[outside] = values[end] + slope * (wanted[outside] - positions[end])
    return result


def _row(pictures: PictureSet, i: int, codec: Codec, qp: int, coded: Coded, objective: Objective) -> CodedPicture:
    names = {"measure": objective} if objective == "ms_ssim" else {}
    return CodedPicture(
        file=pictures.name(i),
        width=coded.width,
        height=coded.height,
        codec=codec,
        qp=qp,
        size=coded.size,
        metrics={names.get(name, name): value for name, value in coded.metrics.items() if name != "mse"},
        versions=encoder_versions(type(codec)),
        key=coded.key,
    )


def _spend_rest(
    pictures: PictureSet,
    rows: list[CodedPicture],
    values: list[float],
    budget: int,
    objective: Objective,
    value: Value,
) -> None:
    """Gives what is left to the largest pictures by the fine knob, where that does not cost quality."""
    largest = sorted(range(len(rows)), key=lambda i: rows[i].size, reverse=True)
    for i in largest[:_REFINED_PICTURES]:
        row = rows[i]
        left = budget - sum(other.size for other in rows)
        if usable_knob(row.codec) is None or left <= _WORTH_REFINING * budget:
            return
        target = row.size + left
        tolerance = min(0.5 * _WORTH_REFINING * budget / target, 0.5)
        found = refine_to_bytes(row.codec, pictures.load(i), row.qp, target, tolerance=tolerance, cache=pictures.cache)
        if found is None or len(found.bitstream) <= row.size:
            continue
        [coded] = pictures.code([(i, found.codec, found.qp, True)])
        if value(coded) >= values[i]:
            rows[i] = _row(pictures, i, found.codec, found.qp, coded, objective)
