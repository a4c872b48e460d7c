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
from codec_wrappers.errors import CodecError
from codec_wrappers.workers import WorkerPool
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.external_codec import ANY_QP
from enhancer.evaluation.measure import Values, mean_values, measure
from enhancer.evaluation.pictures import Original, load_image
from enhancer.evaluation.sources import CodecSource, Coded, conform, named, sha256

Allocate: TypeAlias = Literal["mix", "psnr", "enhanced"]


@dataclass(frozen=True)
class TargetPicture:
    """One picture's share of the budget and what it became."""

    picture: str
    qp: int
    byte_count: int
    metrics: Values
    bitstream_sha256: str
    seconds: dict[str, float | None]


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
    pictures: tuple[TargetPicture, ...]


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
        coded = Coded(decoded.image, len(bitstream), None, decoded.info.codec, decoded.info, {})
        return Decoded(self.enhancement.apply(coded)[0], decoded.info)


@dataclass(frozen=True)
class _Job:
    """One picture's bitstream to decode, enhance and measure."""

    original: Original
    label: str
    codec: Codec
    qp: int
    bitstream: bytes
    enhancements: tuple[Enhancement | None, ...]


def run_target(
    originals: Sequence[Original],
    sources: Sequence[CodecSource],
    bpp: float,
    *,
    allocations: Sequence[Allocate] = ("mix",),
    enhancements: Sequence[Enhancement] = (),
    jobs: int = 1,
    cache: EncodeCache | None = None,
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
        progress: Told after every encode.

    Raises:
        ValueError: If an argument is not possible.
        RateControlError: If a codec cannot keep to the budget.
        CodecError: If a codec fails.
    """
    store = cache or EncodeCache()
    if unknown := set(allocations) - set(get_args(Allocate)):
        raise ValueError(f"allocate must be one of {', '.join(get_args(Allocate))}, got {unknown.pop()!r}")
    if "enhanced" in allocations and not enhancements:
        raise ValueError("to allocate for the enhanced quality a model is needed")
    for source in sources:
        if source.codec.qp_range == ANY_QP:
            raise ValueError(f"{source.label}: a search needs the range of qps: cmd[CHEAPEST..DEAREST]:…")
    rows = []
    paths = [original.path for original in originals]
    options: dict[str, Any] = {"read": load_image, "workers": jobs, "cache": store, "progress": progress}
    for source in sources:
        for kind in allocations:
            if kind != "enhanced":
                chosen = allocate(source.codec, paths, bpp, kind, **options)
                rows += _rows(originals, source, kind, chosen, (None, *enhancements), jobs)
                continue
            for enhancement in enhancements:
                whole: Any = EnhancedCodec(source.codec, enhancement, store)
                chosen = allocate(whole, paths, bpp, "psnr", **options)
                rows += _rows(originals, source, kind, chosen, (enhancement,), jobs)
    return rows


def _rows(
    originals: Sequence[Original],
    source: CodecSource,
    kind: Allocate,
    chosen: Allocation,
    enhancements: tuple[Enhancement | None, ...],
    jobs: int,
) -> list[TargetRow]:
    todo = []
    for i, (original, row) in enumerate(zip(originals, chosen.pictures, strict=True)):
        codec = row.codec.codec if isinstance(row.codec, EnhancedCodec) else row.codec
        todo.append(_Job(original, source.label, codec, row.qp, chosen.bitstream(i), enhancements))
    measured: list[list[TargetPicture]] = [[] for _ in todo]
    with WorkerPool(min(jobs, len(todo))) as pool:
        for position, pictures in pool.run(_measure, todo):
            measured[position] = pictures
    return [
        TargetRow(
            label=f"{source.label} + {enhancement.label}" if enhancement else source.label,
            allocation=kind,
            budget_bytes=chosen.budget_bytes,
            total_bytes=chosen.total_bytes,
            bpp=chosen.bpp,
            encodes=chosen.encodes,
            means=mean_values([pictures[column].metrics for pictures in measured]),
            pictures=tuple(pictures[column] for pictures in measured),
        )
        for column, enhancement in enumerate(enhancements)
    ]


def _measure(job: _Job) -> list[TargetPicture]:
    image = load_image(job.original.path)
    try:
        decoded = job.codec.decode(job.bitstream)
    except CodecError as error:
        raise named(error, f"{job.label} at qp {job.qp} of {job.original.name}") from error
    info = decoded.info
    output = conform(decoded.image, image, f"{job.label} at qp {job.qp} of {job.original.name}")
    coded = Coded(output, len(job.bitstream), None, info.codec, info, {})
    pictures = []
    for enhancement in job.enhancements:
        result, seconds = enhancement.apply(coded) if enhancement else (output, None)
        pictures.append(
            TargetPicture(
                picture=job.original.name,
                qp=job.qp,
                byte_count=len(job.bitstream),
                metrics=measure(image, result),
                bitstream_sha256=sha256(job.bitstream),
                seconds={"enhance": seconds},
            )
        )
    return pictures


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
