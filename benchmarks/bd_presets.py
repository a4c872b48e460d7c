"""BD-rate between codecs and presets on a set of pictures: VVC against BPG, tuned against reference.

    python -m benchmarks.bd_presets

Encodes and measurements are kept below ``--output``, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.common import CHECKOUT, default_pictures, markdown_table
from codec_wrappers.encode_cache import EncodeCache
from enhancer.bd_rate import Bootstrap
from enhancer.evaluation.compare import Comparison, compare_runs
from enhancer.evaluation.pictures import load_originals
from enhancer.evaluation.rd import RdSettings, run_rd
from enhancer.evaluation.results import load_run
from enhancer.evaluation.sources import parse_codec
from enhancer.files import write_atomically

QPS = (27, 32, 37, 42)
PAIRS = (
    ("bpg:reference", "vvc:reference"),
    ("bpg:reference", "bpg:tuned"),
    ("vvc:reference", "vvc:tuned"),
    ("bpg:tuned", "vvc:tuned"),
)
METRICS = ("psnr", "psnr_y601", "ms_ssim_db")


def shown(delta: Bootstrap | float) -> str:
    if isinstance(delta, float):
        return f"{delta:+.2f}"
    return f"{delta.value:+.2f} [{delta.interval.low:+.2f}, {delta.interval.high:+.2f}]"


def line(anchor: str, test: str, comparisons: list[Comparison]) -> list[str]:
    by_metric = {c.metric: c for c in comparisons}
    first = by_metric[METRICS[0]]
    return [
        f"{test} against {anchor}",
        *(shown(by_metric[m].bd_rate) if m in by_metric else "–" for m in METRICS),
        f"{first.bd_quality if isinstance(first.bd_quality, float) else first.bd_quality.value:+.3f}",
        f"{first.overlap.low:.2f}..{first.overlap.high:.2f}",
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="BD-rate of presets on a folder of pictures.")
    parser.add_argument("--pictures", type=Path, default=default_pictures(), metavar="DIR")
    parser.add_argument("--qps", type=int, nargs="+", default=QPS)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=CHECKOUT / "build" / "bd_presets", metavar="DIR")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    originals = load_originals(args.pictures, args.limit)
    labels = list(dict.fromkeys(label for pair in PAIRS for label in pair))
    settings = RdSettings(qps=tuple(args.qps), jobs=args.jobs, cache=EncodeCache(args.output / "cache"))

    def progress(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            print(f"{done} of {total}", file=sys.stderr)

    paths = run_rd(originals, [parse_codec(label) for label in labels], settings, args.output, progress=progress)
    runs = {run.label: run for run in map(load_run, paths)}
    table, document = [], []
    for anchor, test in PAIRS:
        usable = [m for m in METRICS if m in runs[anchor].metrics]
        comparisons = [compare_runs(runs[anchor], runs[test], metric=metric) for metric in usable]
        table.append(line(anchor, test, comparisons))
        document += [asdict(c) for c in comparisons]
    head = ["", "BD-rate RGB-PSNR (%)", "Y-PSNR (%)", "MS-SSIM (%)", "BD-PSNR (dB)", "common PSNR (dB)"]
    print(
        f"{len(originals)} pictures of {args.pictures.name}, qps {', '.join(map(str, args.qps))}; pchip, 95 % interval"
    )
    print(f"\n{markdown_table(head, table)}")
    write_atomically(args.output / "bd_presets.json", json.dumps(document, indent=1).encode(), overwrite=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
