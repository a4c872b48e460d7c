"""Makes the bitstreams that ``benchmarks.results`` needs, and nothing else: no network is asked.

What it leaves in the cache, the measurement finds there, as long as encoders and their wrappers stay the
same. It may be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from codec_wrappers import Codec
from codec_wrappers.allocation import allocate
from codec_wrappers.encode_cache import EncodeCache, encode_key
from codec_wrappers.errors import CodecError
from codec_wrappers.workers import WorkerPool
from enhancer.evaluation.pictures import Original, load_image
from enhancer.evaluation.sources import CodecSource


@dataclass(frozen=True)
class _Job:
    original: Original
    codec: Codec
    qp: int
    cache: EncodeCache


def encode_set(title: str, originals: Sequence[Original], source: CodecSource, cache: EncodeCache, jobs: int) -> None:
    """Encodes every picture at all qps of a codec, and says on standard error what became of it.

    A failure (a busy machine lets an encoder run into its time limit) is left to a later call.
    """
    todo = [_Job(original, source.codec, qp, cache) for qp in source.own_qps for original in originals]
    started = time.monotonic()
    with WorkerPool(min(jobs, len(todo))) as pool:
        results = [result for _, result in pool.run(_encode, todo)]
    seconds = time.monotonic() - started
    text = f"{results.count('made')} of {len(todo)} streams made, {results.count('failed')} failed, {seconds:.0f} s"
    print(f"{title}, {source.label}: {text}", file=sys.stderr)


def encode_target(
    title: str, originals: Sequence[Original], sources: Sequence[CodecSource], bpp: float, cache: EncodeCache, jobs: int
) -> None:
    """Searches the qps for one budget of the whole set, which leaves all streams of the search in the cache."""
    paths = [original.path for original in originals]
    for source in sources:
        started = time.monotonic()
        found = allocate(source.codec, paths, bpp, "mix", read=load_image, workers=jobs, cache=cache)
        seconds = time.monotonic() - started
        print(f"{title}, {source.label}: {found.bpp:.5f} bpp after {seconds:.0f} s", file=sys.stderr)


def _encode(job: _Job) -> Literal["found", "made", "failed"]:
    image = load_image(job.original.path)
    if job.cache.load(encode_key(job.codec, image, job.qp)) is not None:
        return "found"
    try:
        job.cache.encode(job.codec, image, job.qp)
    except CodecError as error:
        print(f"{job.original.name} at qp {job.qp}: {error}", file=sys.stderr)
        return "failed"
    return "made"
