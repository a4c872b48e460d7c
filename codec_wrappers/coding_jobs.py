"""Coding and rating the pictures of a set, each setting once, in parallel processes.

Streams stay in the cache; only numbers are kept and sent between processes, and a picture given as a
path is in memory only while it is worked on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from codec_wrappers.base import Codec, Image
from codec_wrappers.encode_cache import EncodeCache, encode_key
from codec_wrappers.errors import CodecError
from codec_wrappers.workers import WorkerPool

Measure: TypeAlias = Callable[[Image, Image], float]
"""Quality of a decoded picture, ``measure(original, decoded)``, of equal shape and type; more is better."""

Read: TypeAlias = Callable[[Path], Image]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of finished encodes and the number of those known to be needed."""


@dataclass(frozen=True)
class CodingJob:
    """One picture to code at one setting.

    Attributes:
        source: The picture, or its path.
        name: How messages call it.
        codec: Encoder and its options.
        qp: Quality index.
        cache: Where the stream goes.
        read: Reads a path.
        rated: Whether to decode it and measure its quality.
        measure: Further quality measure, beside squared error and PSNR.
    """

    source: Path | Image
    name: str
    codec: Codec
    qp: int
    cache: EncodeCache
    read: Read | None = None
    rated: bool = False
    measure: Measure | None = None


@dataclass(frozen=True)
class Coded:
    """What became of a job.

    Attributes:
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        size: Bytes of the stream.
        key: Name of the stream in the cache.
        metrics: Empty unless rated, else ``mse`` (over samples, relative to full scale), ``psnr`` in dB
            and, with a measure, ``measure``.
    """

    width: int
    height: int
    size: int
    key: str
    metrics: dict[str, float] = field(default_factory=dict, hash=False)


def code(job: CodingJob) -> Coded:
    """Does a job.

    Raises:
        CodecError, ValueError: If the picture cannot be coded; the message names it.
    """
    image = load(job.source, job.read)
    try:
        bitstream = job.cache.encode(job.codec, image, job.qp)
        metrics = _rate(image, job.codec.decode(bitstream).image, job.measure) if job.rated else {}
    except CodecError as error:
        # A plain CodecError: some of its subclasses do not survive the way between processes.
        raise CodecError(f"{job.name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{job.name}: {error}") from error
    height, width = image.shape[:2]
    return Coded(width, height, len(bitstream), encode_key(job.codec, image, job.qp), metrics)


def load(source: Path | Image, read: Read | None) -> Image:
    """The picture itself, read if it is a path."""
    if not isinstance(source, Path):
        return source
    if read is None:
        raise ValueError(f"{source} is a path, and there is no function to read it")
    return read(source)


def _rate(original: Image, decoded: Image, measure: Measure | None) -> dict[str, float]:
    if original.ndim == 2 and decoded.ndim == 3:
        original = np.repeat(original[..., None], decoded.shape[2], axis=2)
    if original.shape != decoded.shape:
        raise CodecError(f"a picture of shape {original.shape} decodes to shape {decoded.shape}")
    if decoded.dtype != original.dtype:
        decoded = _in_depth_of(original, decoded)
    full_scale = float(np.iinfo(original.dtype).max)
    difference = (original.astype(np.float64) - decoded) / full_scale
    mse = float(np.mean(difference * difference))
    metrics = {"mse": mse, "psnr": -10 * math.log10(mse) if mse else math.inf}
    if measure is not None:
        metrics["measure"] = float(measure(original, decoded))
    return metrics


def _in_depth_of(original: Image, decoded: Image) -> Image:
    """``decoded`` in the type of ``original``: what a reader of 8-bit pictures would be given."""
    scale = np.iinfo(original.dtype).max / np.iinfo(decoded.dtype).max
    return np.round(decoded * scale).astype(original.dtype)


class PictureSet:
    """The pictures with everything that is needed to code and rate them.

    Attributes:
        images: Arrays or paths.
        cache: Where streams go.
        done: Number of jobs finished so far.
    """

    def __init__(
        self,
        images: Sequence[Path | Image],
        pool: WorkerPool,
        cache: EncodeCache,
        *,
        measure: Measure | None = None,
        read: Read | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.images, self.cache, self.done = images, cache, 0
        self._pool, self._measure, self._read, self._progress = pool, measure, read, progress

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        """Path of a picture, or ``#n`` for the n-th array."""
        image = self.images[i]
        return str(image) if isinstance(image, Path) else f"#{i}"

    def load(self, i: int) -> Image:
        return load(self.images[i], self._read)

    def code(self, wanted: Sequence[tuple[int, Codec, int, bool]]) -> list[Coded]:
        """Results, in order, for entries of picture, codec, qp, and whether its quality is needed."""
        jobs = [
            CodingJob(self.images[i], self.name(i), codec, qp, self.cache, self._read, rated, self._measure)
            for i, codec, qp, rated in wanted
        ]
        total = self.done + len(jobs)
        results = {}
        for position, coded in self._pool.run(code, jobs):
            results[position] = coded
            self.done += 1
            if self._progress:
                self._progress(self.done, total)
        return [results[position] for position in range(len(jobs))]


class CodingTable:
    """What is known of one codec: for each picture results by position of the qp, cheapest first."""

    def __init__(self, pictures: PictureSet, codec: Codec) -> None:
        self.codec = codec
        self.qps = tuple(codec.qp_range.by_rate())
        self.coded: list[dict[int, Coded]] = [{} for _ in range(len(pictures))]
        self._pictures = pictures

    def ensure(self, wanted: Sequence[tuple[int, int]], *, rated: bool) -> None:
        """Codes those of the entries (picture, position) that are not known, or not rated, yet."""
        missing = [
            (i, position)
            for i, position in dict.fromkeys(wanted)
            if (known := self.coded[i].get(position)) is None or (rated and not known.metrics)
        ]
        results = self._pictures.code([(i, self.codec, self.qps[position], rated) for i, position in missing])
        for (i, position), coded in zip(missing, results, strict=True):
            self.coded[i][position] = coded

    def total_size(self, position: int) -> int:
        """Bytes of the whole set at one qp."""
        self.ensure([(i, position) for i in range(len(self.coded))], rated=False)
        return sum(known[position].size for known in self.coded)

    def rated(self, i: int) -> dict[int, Coded]:
        """The rated results of a picture by rising position."""
        return {position: coded for position, coded in sorted(self.coded[i].items()) if coded.metrics}
