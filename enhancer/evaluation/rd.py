"""Rate-distortion runs: encode, decode, enhance, measure; resumable, in parallel processes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from codec_wrappers import Image
from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.errors import CodecError
from codec_wrappers.workers import WorkerPool
from enhancer.errors import EnhancerError
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.measure import measure
from enhancer.evaluation.pictures import Original, load_image, samples_sha256
from enhancer.evaluation.results import (
    FORMAT,
    Record,
    Run,
    find_runs,
    load_run,
    record_from_dict,
    record_to_json,
    run_file_name,
    run_to_json,
    to_csv,
)
from enhancer.evaluation.sources import Coded, FolderSource, Source, named
from enhancer.files import write_atomically

Progress = Callable[[int, int], None]
"""Called with finished and total numbers of picture-qp pairs."""

_PACKAGE = Path(__file__).resolve().parent.parent
_SOURCES = {
    "measuring": (_PACKAGE, ("metrics.py", "evaluation/measure.py")),
    "coding": (_PACKAGE.parent / "codec_wrappers", ("*.py",)),
    "enhancing": (
        _PACKAGE,
        ("network.py", "condition.py", "ensemble.py", "tensors.py", "tiling.py", "inference.py", "backends/*.py"),
    ),
}
"""Files whose change asks for new measurements; enhancing concerns enhanced pictures only."""


@dataclass(frozen=True)
class RdSettings:
    """What holds for a whole evaluation.

    Attributes:
        qps: Operating points of all sources that do not bring their own.
        enhancements: Networks to apply; the decoded picture itself is always measured too.
        vmaf: Measure VMAF as well.
        keep_pictures: Write originals and results as PNG to ``pictures/`` of the output folder.
        jobs: Worker processes.
        cache: Where bitstreams are kept, None for nowhere.
    """

    qps: tuple[int, ...] = ()
    enhancements: tuple[Enhancement, ...] = ()
    vmaf: bool = False
    keep_pictures: bool = False
    jobs: int = 1
    cache: EncodeCache | None = None


@dataclass(frozen=True)
class _Variant:
    """One column of the evaluation: a source, maybe enhanced."""

    label: str
    source: Source
    enhancement: Enhancement | None
    identity: str
    """JSON of everything that decides the numbers of this variant."""

    def key(self, original: Original, qp: int, vmaf: bool) -> str:
        code = {kind: sha256 for kind, sha256 in code_hashes().items() if kind != "enhancing" or self.enhancement}
        text = json.dumps([FORMAT, code, _library_versions(), self.identity, original.sha256, qp, vmaf])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Task:
    """One picture at one operating point, for all variants of one source."""

    original: Original
    qp: int
    variants: tuple[_Variant, ...]
    output: Path
    settings: RdSettings


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
        EnhancerError: If ``output`` holds a run of the same label of other pictures or settings.
        ValueError: If labels repeat, or an operating point is not possible.
        CodecError: If a codec fails.
    """
    if not originals or not sources:
        raise ValueError("an evaluation needs at least one picture and one codec")
    variants = [v for source in sources for v in _variants(source, settings)]
    _check_labels(variants)
    for source in sources:
        source.qps(settings.qps)
        if isinstance(source, FolderSource):
            source.check(tuple(originals))
    for variant in variants:
        _check_existing(output, variant, originals)
    for folder in ("records", "pictures") if settings.keep_pictures else ("records",):
        (output / folder).mkdir(parents=True, exist_ok=True)
    tasks = [
        _Task(original, qp, tuple(v for v in variants if v.source is source), output, settings)
        for source in sources
        for qp in source.qps(settings.qps)
        for original in originals
    ]
    with WorkerPool(min(settings.jobs, len(tasks))) as pool:
        for done, _ in enumerate(pool.run(_measure_task, tasks), start=1):
            if progress:
                progress(done, len(tasks))
    paths = [_write_run(output, variant, originals, settings) for variant in variants]
    everything = [load_run(path) for path in find_runs(output)]
    write_atomically(output / "results.csv", to_csv(everything), overwrite=True)
    return paths


def _variants(source: Source, settings: RdSettings) -> list[_Variant]:
    chosen: list[tuple[str, Enhancement | None]] = [(source.label, None)]
    chosen += [(f"{source.label} + {e.label}", e) for e in settings.enhancements]
    return [
        _Variant(label, source, e, json.dumps([source.identity(), e.identity() if e else None], sort_keys=True))
        for label, e in chosen
    ]


def _check_labels(variants: Sequence[_Variant]) -> None:
    names: dict[str, str] = {}
    for variant in variants:
        name = run_file_name(variant.label).lower()
        if name in names:
            raise ValueError(f"two runs would be called {variant.label!r}; give one another label: LABEL=CODEC")
        names[name] = variant.label


def _check_existing(output: Path, variant: _Variant, originals: Sequence[Original]) -> None:
    """Refuses to replace a run of other pictures or settings; another version is measured anew."""
    path = output / run_file_name(variant.label)
    if not path.exists():
        return
    try:
        old = load_run(path)
    except EnhancerError as error:
        raise EnhancerError(f"{error}; remove it or choose another output folder") from error
    settings = [_without_versions(old.source), old.enhancement]
    wanted = json.loads(variant.identity)
    if settings != [_without_versions(wanted[0]), wanted[1]]:
        raise EnhancerError(f"{path} was measured with other settings; remove it or choose another output folder")
    if old.pictures != {o.name: o.sha256 for o in originals}:
        raise EnhancerError(f"{path} was measured on other pictures; remove it or choose another output folder")


def _without_versions(source: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key != "encoder"}


def _measure_task(task: _Task) -> None:
    """Measures what is missing of one task, and stores each record as soon as it is known."""
    missing = [v for v in task.variants if not _is_done(task, v)]
    if not missing:
        return
    image = load_image(task.original.path)
    try:
        coded = missing[0].source.produce(task.original, image, task.qp, task.settings.cache)
    except (CodecError, ValueError) as error:
        raise named(error, f"{missing[0].source.label} at qp {task.qp} of {task.original.name}") from error
    _keep(task, task.original.sha256, image)
    for variant in missing:
        output, enhance_s = variant.enhancement.apply(coded) if variant.enhancement else (coded.image, None)
        record = _measure(task, image, coded, output, enhance_s)
        _keep(task, record.output_sha256, output)
        write_atomically(_record_path(task, variant), record_to_json(record), overwrite=True)


def _is_done(task: _Task, variant: _Variant) -> bool:
    record = _load_record(task, variant)
    if record is None or not task.settings.keep_pictures:
        return record is not None
    hashes = (record.output_sha256, record.picture_sha256)
    return all(kept_picture(task.output, sha256).exists() for sha256 in hashes)


def kept_picture(output: Path, sha256: str) -> Path:
    """Where a picture with these samples lies, if pictures were kept."""
    return output / "pictures" / f"{sha256}.png"


def _keep(task: _Task, sha256: str, image: Image) -> None:
    from enhancer.image_io import Picture, write_picture

    path = kept_picture(task.output, sha256)
    if task.settings.keep_pictures and not path.exists():
        write_picture(path, Picture(image), overwrite=True)


def _measure(task: _Task, image: Image, coded: Coded, output: Image, enhance_s: float | None) -> Record:
    original = task.original
    return Record(
        picture=original.name,
        picture_sha256=original.sha256,
        width=original.width,
        height=original.height,
        qp=task.qp,
        byte_count=coded.byte_count,
        bpp=None if coded.byte_count is None else 8.0 * coded.byte_count / original.pixels,
        metrics=measure(image, output, vmaf=task.settings.vmaf),
        bitstream_sha256=coded.bitstream_sha256,
        output_sha256=samples_sha256(output),
        coding=vars(coded.info) if coded.info else None,
        seconds={**coded.seconds, "enhance": enhance_s},
    )


def _record_path(task: _Task, variant: _Variant) -> Path:
    return task.output / "records" / f"{variant.key(task.original, task.qp, task.settings.vmaf)}.json"


def _load_record(task: _Task, variant: _Variant) -> Record | None:
    """The stored record, named as the picture is called now; None if there is none or it is damaged."""
    try:
        record = record_from_dict(json.loads(_record_path(task, variant).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Record(**{**vars(record), "picture": task.original.name})


def _write_run(output: Path, variant: _Variant, originals: Sequence[Original], settings: RdSettings) -> Path:
    records = []
    for qp in variant.source.qps(settings.qps):
        for original in originals:
            record = _load_record(_Task(original, qp, (variant,), output, settings), variant)
            if record is None:
                raise EnhancerError(f"the record of {original.name} at {qp} vanished from {output / 'records'}")
            records.append(record)
    source, enhancement = json.loads(variant.identity)
    path = output / run_file_name(variant.label)
    run = Run(variant.label, source, enhancement, environment(), tuple(records))
    write_atomically(path, run_to_json(run), overwrite=True)
    return path


def environment() -> dict[str, Any]:
    """Versions, machine, command and time of this process."""
    return {
        "versions": dict(_library_versions()),
        "code": code_hashes(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "command": sys.argv,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _library_versions() -> tuple[tuple[str, str], ...]:
    names = ("enhancer", "numpy", "torch", "pytorch-msssim", "scikit-image", "openvino", "onnxruntime")
    found = [("python", platform.python_version())]
    for name in names:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


@functools.cache
def code_hashes() -> dict[str, str]:
    """Hash of the sources that decide the numbers, by what they do."""
    hashes = {}
    for kind, (folder, patterns) in _SOURCES.items():
        digest = hashlib.sha256()
        for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
            digest.update(path.read_bytes())
        hashes[kind] = digest.hexdigest()
    return hashes


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
