"""Codecs at one budget for a whole set, with and without enhancement, after table 1 of Xue and Su, CVPRW 2019."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

from codec_wrappers import Availability, Codec, Decoded, Image, Metadata
from codec_wrappers.allocation import Allocation, allocate
from codec_wrappers.base import NO_METADATA, FineKnob
from codec_wrappers.coding_jobs import Progress
from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.workers import WorkerPool
from enhancer.errors import EnhancerError
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.external_codec import ANY_QP
from enhancer.evaluation.measure import Values, mean_values
from enhancer.evaluation.pictures import Original, load_image
from enhancer.evaluation.records import Point, RecordStore, Variant, measure_point
from enhancer.evaluation.results import Record
from enhancer.evaluation.sources import CodecSource, Coded

Allocate: TypeAlias = Literal["mix", "psnr", "enhanced"]


@dataclass(frozen=True)
class TargetRow:
    """One line of the table.

    Attributes:
        label: Codec, or codec + network.
        allocation: How the budget was shared out.
        budget_bytes: Allowed for the whole set.
        total_bytes: Used.
        bpp: Rate over all pixels of the set.
        encodes: How many encodes finding the allocation took.
        means: Mean of each metric over the pictures.
        pictures: In the order of the set.
    """

    label: str
    allocation: Allocate
    budget_bytes: int
    total_bytes: int
    bpp: float
    encodes: int
    means: Values
    pictures: tuple[Record, ...]


@dataclass(frozen=True)
class EnhancedCodec:
    """A codec whose decoder enhances, so that an allocation maximises the quality after enhancement.

    Attributes:
        codec: The codec itself; bitstreams are its own.
        enhancement: Applied to every decoded picture, told codec and qp by the bitstream.
        cache: Where the codec's bitstreams are kept.
    """

    codec: Codec
    enhancement: Enhancement
    cache: EncodeCache

    name: ClassVar[str] = "enhanced"
    suffixes: ClassVar[tuple[str, ...]] = ()
    fine_knob: ClassVar[FineKnob | None] = None

    @property
    def qp_range(self) -> Any:
        return self.codec.qp_range

    @classmethod
    def matches(cls, head: bytes) -> bool:  # noqa: ARG003  # the protocol's signature
        return False

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        return (Availability("any", True, "a codec and a network"),)

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        """The codec's own bitstream."""
        return self.cache.encode(self.codec, image, qp, metadata=metadata)

    def decode(self, bitstream: bytes) -> Decoded:
        """The decoded and enhanced picture, with what the bitstream says."""
        decoded = self.codec.decode(bitstream)
        info = decoded.info
        coded = Coded(decoded.image, len(bitstream), None, info.codec, info, {}, unrounded=decoded.unrounded)
        return Decoded(self.enhancement.apply(coded)[0], decoded.info)


def run_target(
    originals: Sequence[Original],
    sources: Sequence[CodecSource],
    bpp: float,
    *,
    allocations: Sequence[Allocate] = ("mix",),
    enhancements: Sequence[Enhancement] = (),
    jobs: int = 1,
    cache: EncodeCache | None = None,
    records: Path | None = None,
    progress: Progress | None = None,
) -> list[TargetRow]:
    """The rows of the table: for each codec and allocation the codec alone, then with each enhancement.

    ``mix`` and ``psnr`` decide by what the codec alone gives; ``enhanced`` shares the budget out for the
    best mean PSNR after each enhancement, so it has a row for each of these only.

    Args:
        originals: The set.
        sources: Codecs with a known range of qps.
        bpp: Budget, over all pixels of the set.
        allocations: How to share the budget out.
        enhancements: Networks.
        jobs: Worker processes.
        cache: Where bitstreams are kept; by default the user's cache.
        records: Folder of measurements, from which a stopped evaluation goes on; by default a folder of the cache's.
        progress: Told after every encode.

    Raises:
        ValueError: If an argument is not possible.
        RateControlError: If a codec cannot keep to the budget.
        CodecError: If a codec fails.
    """
    cache = cache or EncodeCache()
    store = RecordStore(records or cache.folder / "measured", cache=cache)
    if unknown := set(allocations) - set(get_args(Allocate)):
        raise ValueError(f"allocate must be one of {', '.join(get_args(Allocate))}, got {unknown.pop()!r}")
    if "enhanced" in allocations and not enhancements:
        raise ValueError("to allocate for the enhanced quality a model is needed")
    for source in sources:
        if source.codec.qp_range == ANY_QP:
            raise ValueError(f"{source.label}: a search needs the range of qps: cmd[CHEAPEST..DEAREST]:…")
    store.prepare()
    rows = []
    paths = [original.path for original in originals]
    options: dict[str, Any] = {"read": load_image, "workers": jobs, "cache": cache, "progress": progress}
    for source in sources:
        for kind in allocations:
            if kind != "enhanced":
                chosen = allocate(source.codec, paths, bpp, kind, **options)
                rows += _rows(originals, source, kind, chosen, (None, *enhancements), store, jobs)
                continue
            for enhancement in enhancements:
                whole: Any = EnhancedCodec(source.codec, enhancement, cache)
                chosen = allocate(whole, paths, bpp, "psnr", **options)
                rows += _rows(originals, source, kind, chosen, (enhancement,), store, jobs)
    return rows


def _rows(
    originals: Sequence[Original],
    source: CodecSource,
    kind: Allocate,
    chosen: Allocation,
    enhancements: tuple[Enhancement | None, ...],
    store: RecordStore,
    jobs: int,
) -> list[TargetRow]:
    points = []
    for original, picture in zip(originals, chosen.pictures, strict=True):
        codec = picture.codec.codec if isinstance(picture.codec, EnhancedCodec) else picture.codec
        variants = tuple(Variant.of(CodecSource(source.label, codec), e) for e in enhancements)
        points.append(Point(original, picture.qp, variants, store))
    with WorkerPool(min(jobs, len(points))) as pool:
        for _ in pool.run(measure_point, points):
            pass
    rows = []
    for column in range(len(enhancements)):
        records = tuple(_load(store, point, column) for point in points)
        rows.append(
            TargetRow(
                label=points[0].variants[column].label,
                allocation=kind,
                budget_bytes=chosen.budget_bytes,
                total_bytes=chosen.total_bytes,
                bpp=chosen.bpp,
                encodes=chosen.encodes,
                means=mean_values([record.metrics for record in records]),
                pictures=records,
            )
        )
    return rows


def _load(store: RecordStore, point: Point, column: int) -> Record:
    record = store.load(point.variants[column], point.original, point.qp)
    if record is None:
        raise EnhancerError(f"the record of {point.original.name} at {point.qp} vanished from {store.folder}")
    return record


def target_to_json(
    rows: Sequence[TargetRow], sources: Sequence[CodecSource], bpp: float, environment: dict[str, Any]
) -> str:
    """Everything about a table, to repeat it; infinite values as the string ``inf``."""
    from enhancer.evaluation.results import finite

    document = {
        "bpp": bpp,
        "codecs": {source.label: source.identity() for source in sources},
        "environment": environment,
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)


def target_table(rows: Sequence[TargetRow]) -> list[list[str]]:
    """Head and lines of the table, as text."""
    head = ["codec", "budget shared by", "bytes", "bpp", "PSNR", "Y-PSNR (601)", "MS-SSIM", "encodes a picture"]
    lines = []
    for row in rows:
        values = [row.means.get(name) for name in ("psnr", "psnr_y601", "ms_ssim")]
        shown = ["–" if v is None else f"{v:.{digits}f}" for v, digits in zip(values, (3, 3, 5), strict=True)]
        encodes = f"{row.encodes / len(row.pictures):.1f}"
        lines.append([row.label, row.allocation, str(row.total_bytes), f"{row.bpp:.5f}", *shown, encodes])
    return [head, *lines]


def bpp_of_bytes(byte_count: int, originals: Sequence[Original]) -> float:
    """The rate that a budget of bytes for the whole set means."""
    if byte_count < 1:
        raise ValueError(f"a budget must be at least one byte, got {byte_count}")
    return 8.0 * byte_count / sum(original.pixels for original in originals)


def write_target(path: Path, text: str, *, overwrite: bool) -> None:
    """Writes the JSON of a table, whole or not at all."""
    from enhancer.files import write_atomically

    write_atomically(path, f"{text}\n".encode(), overwrite=overwrite)
