"""Rate-distortion runs: encode, decode, enhance, measure; resumable, in parallel processes."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.workers import WorkerPool
from enhancer.errors import EnhancerError
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.pictures import Original
from enhancer.evaluation.records import Point, RecordStore, Variant, code_hashes, library_versions, measure_point
from enhancer.evaluation.results import (
    Run,
    find_runs,
    load_run,
    run_file_name,
    run_to_json,
    to_csv,
    without_versions,
)
from enhancer.evaluation.sources import FolderSource, Source
from enhancer.files import write_atomically

Progress = Callable[[int, int], None]
"""Called with finished and total numbers of picture-qp pairs."""


@dataclass(frozen=True)
class RdSettings:
    """What holds for a whole evaluation.

    Attributes:
        qps: Operating points of all sources that do not bring their own.
        enhancements: Networks to apply; the decoded picture itself is always measured too.
        extra: Metrics to measure besides the usual ones, of :data:`enhancer.evaluation.measure.EXTRA`.
        keep_pictures: Write originals and results as PNG to ``pictures/`` of the output folder.
        overwrite: Replace runs of the same label that are of other pictures or settings.
        jobs: Worker processes.
        cache: Where bitstreams are kept, None for nowhere.
    """

    qps: tuple[int, ...] = ()
    enhancements: tuple[Enhancement, ...] = ()
    extra: tuple[str, ...] = ()
    keep_pictures: bool = False
    overwrite: bool = False
    jobs: int = 1
    cache: EncodeCache | None = None


def run_rd(
    originals: Sequence[Original],
    sources: Sequence[Source],
    settings: RdSettings,
    output: Path,
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Measures all sources, with and without each enhancement, and returns the run files.

    Below ``output``, ``records/`` keeps every finished measurement under a hash of all that decides
    it; a later call takes what fits from there, so a killed evaluation goes on where it stopped. A
    run file ``LABEL.run.json`` appears when its run is complete; ``results.csv`` then holds all runs
    of the folder.

    Raises:
        EnhancerError: If ``output`` holds a run of the same label of other pictures or settings, and these are not
            to be overwritten.
        ValueError: If labels repeat, or an operating point is not possible.
        CodecError: If a codec fails.
    """
    if not originals or not sources:
        raise ValueError("an evaluation needs at least one picture and one codec")
    variants = [Variant.of(source, e) for source in sources for e in (None, *settings.enhancements)]
    _check_labels(variants)
    for source in sources:
        source.qps(settings.qps)
        if isinstance(source, FolderSource):
            source.check(tuple(originals))
    for variant in () if settings.overwrite else variants:
        _check_existing(output, variant, originals)
    store = RecordStore(output, settings.extra, settings.keep_pictures, settings.cache)
    store.prepare()
    points = [
        Point(original, qp, tuple(v for v in variants if v.source is source), store)
        for source in sources
        for qp in source.qps(settings.qps)
        for original in originals
    ]
    with WorkerPool(min(settings.jobs, len(points))) as pool:
        for done, _ in enumerate(pool.run(measure_point, points), start=1):
            if progress:
                progress(done, len(points))
    paths = [_write_run(store, variant, originals, variant.source.qps(settings.qps)) for variant in variants]
    everything = [load_run(path) for path in find_runs(output)]
    write_atomically(output / "results.csv", to_csv(everything), overwrite=True)
    return paths


def _check_labels(variants: Sequence[Variant]) -> None:
    names: dict[str, str] = {}
    for variant in variants:
        name = run_file_name(variant.label).lower()
        if name in names:
            raise ValueError(f"two runs would be called {variant.label!r}; give one another label: LABEL=CODEC")
        names[name] = variant.label


def _check_existing(output: Path, variant: Variant, originals: Sequence[Original]) -> None:
    """Refuses to replace a run of other pictures or settings; another version is measured anew."""
    path = output / run_file_name(variant.label)
    if not path.exists():
        return
    try:
        old = load_run(path)
    except EnhancerError as error:
        raise EnhancerError(f"{error}; choose another output folder, or --overwrite") from error
    # Before 2026-11-28 networks got rounded pictures only, and runs did not say so.
    settings = [without_versions(old.source), old.enhancement and {"rounded": True, **old.enhancement}]
    wanted = json.loads(variant.identity)
    if settings != [without_versions(wanted[0]), wanted[1]]:
        raise EnhancerError(f"{path} was measured with other settings; choose another output folder, or --overwrite")
    if old.pictures != {o.name: o.sha256 for o in originals}:
        raise EnhancerError(f"{path} was measured on other pictures; choose another output folder, or --overwrite")


def _write_run(store: RecordStore, variant: Variant, originals: Sequence[Original], qps: Sequence[int]) -> Path:
    records = []
    for qp in qps:
        for original in originals:
            record = store.load(variant, original, qp)
            if record is None:
                raise EnhancerError(f"the record of {original.name} at {qp} vanished from {store.folder / 'records'}")
            records.append(record)
    source, enhancement = json.loads(variant.identity)
    path = store.folder / run_file_name(variant.label)
    run = Run(variant.label, source, enhancement, environment(), tuple(records))
    write_atomically(path, run_to_json(run), overwrite=True)
    return path


def environment() -> dict[str, Any]:
    """Versions, machine, command and time of this process."""
    return {
        "versions": dict(library_versions()),
        "code": code_hashes(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "command": sys.argv,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
