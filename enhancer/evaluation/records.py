"""Single measurements, each kept under a hash of all that decides it, so that none is made twice or mixed up."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from codec_wrappers import Image
from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.errors import CodecError
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.measure import measure
from enhancer.evaluation.pictures import Original, load_image, samples_sha256
from enhancer.evaluation.results import FORMAT, Record, record_from_dict, record_to_json
from enhancer.evaluation.sources import Coded, Source, named
from enhancer.files import write_atomically

_PACKAGE = Path(__file__).resolve().parent.parent
_SOURCES = {
    "measuring": ("metrics.py", "perceptual.py", "evaluation/measure.py"),
    "enhancing": (
        *("network.py", "condition.py", "estimate.py", "ensemble.py", "tensors.py", "tiling.py", "inference.py"),
        *("quantization.py", "backends/*.py", "checkpoint.py", "traces.py"),
    ),
}
"""Files whose change asks for new measurements; enhancing concerns enhanced pictures only."""


@dataclass(frozen=True)
class Variant:
    """One column of an evaluation: a source, maybe enhanced.

    Attributes:
        label: Name in tables and legends.
        source: What makes the decoded pictures.
        enhancement: The network, if any.
        identity: JSON of everything that decides the numbers: the source's and the network's.
    """

    label: str
    source: Source
    enhancement: Enhancement | None
    identity: str

    @classmethod
    def of(cls, source: Source, enhancement: Enhancement | None) -> Self:
        """The variant of a source and an enhancement; loads the network."""
        label = f"{source.label} + {enhancement.label}" if enhancement else source.label
        identity = [source.identity(), enhancement.identity() if enhancement else None]
        return cls(label, source, enhancement, json.dumps(identity, sort_keys=True))


@dataclass(frozen=True)
class RecordStore:
    """A folder of measurements and how they are made.

    Attributes:
        folder: Records lie in ``records/`` below it, pictures in ``pictures/``.
        extra: Metrics to measure besides the usual ones.
        keep_pictures: Write originals and results as PNG.
        cache: Where bitstreams are kept, None for nowhere.
    """

    folder: Path
    extra: tuple[str, ...] = ()
    keep_pictures: bool = False
    cache: EncodeCache | None = None

    def prepare(self) -> None:
        """Makes the folders."""
        for name in ("records", "pictures") if self.keep_pictures else ("records",):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def load(self, variant: Variant, original: Original, qp: int) -> Record | None:
        """The stored record, named as the picture is called now; None if there is none or it is damaged."""
        try:
            record = record_from_dict(json.loads(self._path(variant, original, qp).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return replace(record, picture=original.name)

    def save(self, variant: Variant, original: Original, record: Record) -> None:
        """Stores a record, whole or not at all."""
        write_atomically(self._path(variant, original, record.qp), record_to_json(record), overwrite=True)

    def is_done(self, variant: Variant, original: Original, qp: int) -> bool:
        """Whether nothing is left to measure or to keep."""
        record = self.load(variant, original, qp)
        if record is None or not self.keep_pictures:
            return record is not None
        hashes = (record.output_sha256, record.picture_sha256)
        return all(kept_picture(self.folder, sha256).exists() for sha256 in hashes)

    def keep(self, sha256: str, image: Image) -> None:
        """Writes a picture, if pictures are to be kept and it is not there yet."""
        from enhancer.image_io import Picture, write_picture

        path = kept_picture(self.folder, sha256)
        if self.keep_pictures and not path.exists():
            write_picture(path, Picture(image), overwrite=True)

    def _path(self, variant: Variant, original: Original, qp: int) -> Path:
        kinds = ("measuring", "enhancing") if variant.enhancement else ("measuring",)
        code = {kind: code_hashes()[kind] for kind in kinds}
        decisive = [FORMAT, code, library_versions(), variant.identity, original.sha256, qp, sorted(self.extra)]
        return self.folder / "records" / f"{hashlib.sha256(json.dumps(decisive).encode()).hexdigest()}.json"


@dataclass(frozen=True)
class Point:
    """One picture at one operating point, for variants of one source."""

    original: Original
    qp: int
    variants: tuple[Variant, ...]
    store: RecordStore


def measure_point(point: Point) -> None:
    """Measures what is missing of a point, and stores each record as soon as it is known.

    Raises:
        CodecError, ValueError: If the picture cannot be coded; the message names source, qp and picture.
    """
    original, store = point.original, point.store
    missing = [v for v in point.variants if not store.is_done(v, original, point.qp)]
    if not missing:
        return
    image = load_image(original.path)
    try:
        coded = missing[0].source.produce(original, image, point.qp, store.cache)
    except (CodecError, ValueError) as error:
        raise named(error, f"{missing[0].source.label} at qp {point.qp} of {original.name}") from error
    store.keep(original.sha256, image)
    for variant in missing:
        output, enhance_s = variant.enhancement.apply(coded) if variant.enhancement else (coded.image, None)
        record = _record(point, image, coded, output, enhance_s)
        store.keep(record.output_sha256, output)
        store.save(variant, original, record)


def _record(point: Point, image: Image, coded: Coded, output: Image, enhance_s: float | None) -> Record:
    original = point.original
    return Record(
        picture=original.name,
        picture_sha256=original.sha256,
        width=original.width,
        height=original.height,
        qp=point.qp,
        byte_count=coded.byte_count,
        bpp=None if coded.byte_count is None else 8.0 * coded.byte_count / original.pixels,
        metrics=measure(image, output, extra=point.store.extra),
        bitstream_sha256=coded.bitstream_sha256,
        output_sha256=samples_sha256(output),
        coding=vars(coded.info) if coded.info else None,
        seconds={**coded.seconds, "enhance": enhance_s},
    )


def kept_picture(output: Path, sha256: str) -> Path:
    """Where a picture with these samples lies, if pictures were kept."""
    return output / "pictures" / f"{sha256}.png"


@functools.cache
def library_versions() -> tuple[tuple[str, str], ...]:
    """Name and version of what computes the numbers."""
    names = ("enhancer", "numpy", "scipy", "torch", "pytorch-msssim", "scikit-image", "av", "openvino", "onnxruntime")
    found = [("python", platform.python_version())]
    for name in names:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


@functools.cache
def code_hashes() -> dict[str, str]:
    """Hash of the sources that decide the numbers, by what they do; a codec's are part of its source."""
    hashes = {}
    for kind, patterns in _SOURCES.items():
        digest = hashlib.sha256()
        for path in sorted(path for pattern in patterns for path in _PACKAGE.glob(pattern)):
            digest.update(path.read_bytes())
        hashes[kind] = digest.hexdigest()
    return hashes
