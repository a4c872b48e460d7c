"""Rate control on a set of pictures: how close, how many encodes, how long, what quality.

    python -m benchmarks.rate_control --bpp 0.15

First each picture on its own with ``encode_to_bpp``, then the whole set within one budget, by mixing two
qps and for the best mean PSNR. Finished pictures and encodes are kept below ``--output``, so a run that
was stopped goes on; times are those of the first run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import CHECKOUT, default_pictures, markdown_table
from codec_wrappers import Codec
from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.rate_control import encode_to_bpp
from codec_wrappers.workers import WorkerPool
from enhancer.evaluation.measure import measure
from enhancer.evaluation.pictures import Original, load_image, load_originals
from enhancer.evaluation.rd import environment
from enhancer.evaluation.sources import CodecSource, conform, parse_codec
from enhancer.evaluation.target import TargetRow, run_target
from enhancer.files import write_atomically


@dataclass(frozen=True)
class Job:
    """One picture to encode to a rate."""

    original: Original
    codec: Codec
    bpp: float


@dataclass(frozen=True)
class Found:
    """One picture encoded to a rate.

    Attributes:
        picture: File name.
        width: In pixels.
        height: In pixels.
        qp: Of the stream.
        byte_count: Its size.
        bpp: Its rate.
        encodes: Full encodes tried.
        probes: Quick encodes tried.
        seconds: For the whole search.
        psnr: RGB-PSNR in dB.
        ms_ssim: Of RGB; None for small pictures.
    """

    picture: str
    width: int
    height: int
    qp: int
    byte_count: int
    bpp: float
    encodes: int
    probes: int
    seconds: float
    psnr: float
    ms_ssim: float | None


def encode_one(job: Job) -> Found:
    """Searches without the cache, so that encodes and seconds are honest."""
    image = load_image(job.original.path)
    started = time.perf_counter()
    encoding = encode_to_bpp(job.codec, image, job.bpp)
    seconds = time.perf_counter() - started
    decoded = conform(encoding.codec.decode(encoding.bitstream).image, image, job.original.name)
    values = measure(image, decoded)
    return Found(
        picture=job.original.name,
        width=job.original.width,
        height=job.original.height,
        qp=encoding.qp,
        byte_count=len(encoding.bitstream),
        bpp=encoding.bpp,
        encodes=encoding.encodes,
        probes=encoding.probes,
        seconds=seconds,
        psnr=values["psnr"] or 0.0,
        ms_ssim=values["ms_ssim"],
    )


def each_picture(
    source: CodecSource, originals: tuple[Original, ...], bpp: float, jobs: int, folder: Path
) -> list[Found]:
    """All pictures of one codec, each on its own; finished ones come from ``folder``."""
    path = folder / f"{source.label.replace(':', '-')}-{bpp:g}.json"
    known = {entry["picture"]: Found(**entry) for entry in json.loads(path.read_text())} if path.exists() else {}
    todo = [Job(original, source.codec, bpp) for original in originals if original.name not in known]
    with WorkerPool(min(jobs, max(len(todo), 1))) as pool:
        for _, found in pool.run(encode_one, todo):
            known[found.picture] = found
            print(f"{source.label} {found.picture}: {found.bpp:.4f} bpp, {found.encodes} encodes", file=sys.stderr)
            write_atomically(path, json.dumps([asdict(f) for f in known.values()], indent=1).encode(), overwrite=True)
    return [known[original.name] for original in originals]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def single_row(label: str, target: float, found: list[Found]) -> list[str]:
    shortfalls = [1 - f.bpp / target for f in found]
    similarities = [f.ms_ssim for f in found if f.ms_ssim is not None]
    probes = mean([f.probes for f in found])
    return [
        label,
        "each picture",
        f"{8 * sum(f.byte_count for f in found) / sum(f.width * f.height for f in found):.5f}",
        f"{100 * mean(shortfalls):.2f} (max {100 * max(shortfalls):.2f})",
        str(sum(f.bpp > target for f in found)),
        f"{mean([f.encodes for f in found]):.1f} (max {max(f.encodes for f in found)})"
        + (f" + {probes:.1f} quick" if probes else ""),
        f"{mean([f.psnr for f in found]):.3f}",
        f"{mean(similarities):.5f}" if similarities else "–",
        f"{mean([f.seconds for f in found]):.1f}",
    ]


def set_row(row: TargetRow, seconds: float | None) -> list[str]:
    used = row.total_bytes / row.budget_bytes
    similarity = row.means.get("ms_ssim")
    return [
        row.label,
        f"set, {row.allocation}",
        f"{row.bpp:.5f}",
        f"{100 * (1 - used):.3f} of the set",
        str(int(row.total_bytes > row.budget_bytes)),
        f"{row.encodes / len(row.pictures):.1f}",
        f"{row.means['psnr']:.3f}",
        "–" if similarity is None else f"{similarity:.5f}",
        "–" if seconds is None else f"{seconds / len(row.pictures):.1f}",
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure rate control on a folder of pictures.")
    parser.add_argument("--pictures", type=Path, default=default_pictures(), metavar="DIR")
    parser.add_argument("--bpp", type=float, default=0.15)
    parser.add_argument("--codec", action="append", metavar="CODEC", help="default: bpg:reference and vvc:reference")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=CHECKOUT / "build" / "rate_control", metavar="DIR")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    cache = EncodeCache(args.output / "cache")
    originals = load_originals(args.pictures, args.limit)
    table, document = [], []
    for source in map(parse_codec, args.codec or ["bpg:reference", "vvc:reference"]):
        found = each_picture(source, originals, args.bpp, args.jobs, args.output)
        table.append(single_row(source.label, args.bpp, found))
        document += [{"label": source.label, "pictures": [asdict(f) for f in found]}]
        for allocation in ("mix", "psnr"):
            started = time.perf_counter()
            [row] = run_target(originals, [source], args.bpp, allocations=[allocation], jobs=args.jobs, cache=cache)
            table.append(set_row(row, time.perf_counter() - started))
            document += [asdict(row)]
    head = ["codec", "target for", "bpp", "unused (%)", "above", "encodes a picture", "PSNR", "MS-SSIM", "s a picture"]
    print(f"{len(originals)} pictures of {args.pictures.name} at {args.bpp:g} bpp\n\n{markdown_table(head, table)}")
    result = {"bpp": args.bpp, "environment": environment(), "rows": document}
    write_atomically(args.output / "rate_control.json", json.dumps(result, indent=1).encode(), overwrite=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
