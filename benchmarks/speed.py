"""Speed, memory and parity of the networks on this machine, as one page.

    python -m benchmarks.speed --all -o docs/speed.md       # everything; the machine should be idle
    python -m benchmarks.speed --models fast                # backends against each other, and their pixels
    python -m benchmarks.speed --startup --memory --folder  # and the command as a whole

Backends take turns, so that a load on the machine meets all of them, and the best of ``--repeats`` counts.
The peak is a matrix product of torch in the same precision, measured in the same turns.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.common import default_pictures, markdown_table
from benchmarks.speed_measures import (
    REFERENCE,
    Timing,
    backends,
    compare,
    folder_overhead,
    int8_losses,
    largest_differences,
    machine,
    peak_memory_mb,
    photograph,
    startup_seconds,
)
from enhancer.checkpoint import checkpoint_names, load_checkpoint
from enhancer.files import write_atomically
from enhancer.network import kmac_per_pixel

INT8_QPS = (27, 32, 37, 42)
SECONDS = {"fast": (0.5, 0.3), "balanced": (1.8, 1.0), "max": (25.0, 8.0)}
"""Seconds per megapixel on two idle cores: what must be reached, and what is aimed at."""


@dataclass(frozen=True)
class Figure:
    """One measured value and its goals; ``unit`` stands after each number."""

    what: str
    must: float
    aim: float
    value: float
    unit: str
    digits: int = 2
    more_is_better: bool = False

    def row(self) -> list[str]:
        """The cells of its line in the table."""
        numbers = [f"{value:.{self.digits}f}{self.unit}" for value in (self.must, self.aim, self.value)]
        return [self.what, *numbers, "aim" if self._meets(self.aim) else "must" if self._meets(self.must) else "no"]

    def _meets(self, goal: float) -> bool:
        return self.value >= goal if self.more_is_better else self.value <= goal


@dataclass
class Report:
    """What has been measured so far."""

    figures: list[Figure] = field(default_factory=list)
    times: list[list[str]] = field(default_factory=list)
    differences: list[list[str]] = field(default_factory=list)

    def page(self, head: str) -> str:
        """The report in Markdown."""
        parts = [head]
        if self.figures:
            parts.append(markdown_table(("figure", "must", "aim", "here", "reached"), [f.row() for f in self.figures]))
        titles = ("network", "backend", "kMAC/px", "s/MP", "times torch float32", "of the peak in its precision")
        parts.append(markdown_table(titles, self.times))
        parts.append(
            "Largest difference of 255 between torch's whole picture in float32 and each other way to it. int8,\n"
            "which may change a sample by more than 1, is what one asks for by name."
        )
        parts.append(markdown_table(("network", "backend", "whole", "tiles of 64", "tiles of 200"), self.differences))
        return "\n\n".join(parts) + "\n"


def measure(name: str, args: argparse.Namespace, report: Report) -> None:
    """Adds what is asked for about one network."""
    checkpoint = load_checkpoint(name)
    kmac = kmac_per_pixel(checkpoint.config)
    runners = backends(checkpoint, args.threads)
    height = round((args.megapixels * 1e6 / 1.5) ** 0.5)
    image = photograph(height, round(1.5 * height))
    timings = compare(runners, checkpoint, image, kmac, args.repeats)
    per_megapixel = {label: t.seconds * 1e6 / (image.shape[0] * image.shape[1]) for label, t in timings.items()}
    for label, seconds in per_megapixel.items():
        ratio = per_megapixel[REFERENCE] / seconds
        report.times.append(
            [name, label, f"{kmac:.1f}", f"{seconds:.3f}", f"{ratio:.2f}", f"{timings[label].of_peak:.0%}"]
        )
    report.figures += _speed_figures(name, per_megapixel, timings)
    for label, largest in largest_differences(runners, checkpoint).items():
        report.differences.append([name, label, *map(str, largest)])
    if args.loss and "openvino int8" in runners and default_pictures().is_dir():
        pictures = sorted(default_pictures().iterdir())[: args.loss]
        losses = int8_losses(checkpoint, runners["openvino int8"], pictures, INT8_QPS)
        what = f"`{name}`: int8 loss, BPG, {len(losses)} pictures of Kodak"
        report.figures.append(Figure(f"{what}, mean", 0.03, 0.01, float(np.mean(losses)), " dB", 3))
        report.figures.append(Figure(f"{what}, worst", 0.1, 0.03, max(losses), " dB", 3))
    _measure_command(name, args, report)


def _speed_figures(name: str, per_megapixel: dict[str, float], timings: dict[str, Timing]) -> list[Figure]:
    on_cpu = {label: seconds for label, seconds in per_megapixel.items() if not label.startswith("cuda")}
    best = min(on_cpu, key=lambda label: on_cpu[label])
    figures = [
        Figure(f"`{name}`: {best} against torch", 2, 4, per_megapixel[REFERENCE] / on_cpu[best], "×", 1, True),
        Figure(f"`{name}`: share of the peak, {best}", 40, 70, 100 * timings[best].of_peak, " %", 0, True),
    ]
    if name in SECONDS:
        figures.insert(0, Figure(f"`{name}`: a megapixel, {best}", *SECONDS[name], on_cpu[best], " s"))
    if name == "max" and "cuda bfloat16" in per_megapixel:
        figures.append(Figure("`max`: a megapixel on the GPU", 0.15, 0.03, per_megapixel["cuda bfloat16"], " s", 3))
    return figures


def _measure_command(name: str, args: argparse.Namespace, report: Report) -> None:
    """Adds figures of the whole command: start, folder, memory."""
    if args.startup and name == "fast":  # the goal is one for it; others take longer by what they compute
        seconds = startup_seconds(name)
        report.figures.append(Figure(f"`{name}`: process start to file, 768 × 512", 4, 1.5, seconds, " s", 1))
    if args.folder:
        share = 100 * folder_overhead(name, args.folder)
        report.figures.append(Figure(f"`{name}`: outside the network, {args.folder} pictures", 25, 10, share, " %", 0))
    if args.memory:
        megabytes = peak_memory_mb(name, args.memory)
        report.figures.append(
            Figure(f"`{name}`: peak memory, {args.memory:g} MP", 2000, 800, megabytes, " MB", 0),
        )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(checkpoint_names()), metavar="NAME")
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", type=float, nargs="?", const=24.0, metavar="MP", help="peak memory, default 24 MP")
    parser.add_argument("--startup", action="store_true", help="seconds from process start to file")
    parser.add_argument("--folder", type=int, nargs="?", const=500, metavar="N", help="overhead for N small pictures")
    parser.add_argument(
        "--loss", type=int, nargs="?", const=24, metavar="N", help="loss of int8 on N pictures of Kodak"
    )
    parser.add_argument("--all", action="store_true", help="all of these")
    parser.add_argument("-o", "--output", type=Path, help="page to write (default: print it)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.all:
        args.startup, args.memory = True, args.memory or 24.0
        args.folder, args.loss = args.folder or 500, args.loss or 24
    before, report = machine(), Report()
    command = " ".join(argv if argv is not None else sys.argv[1:])
    for name in args.models:
        print(f"{name} …", file=sys.stderr)
        measure(name, args, report)
        page = report.page(
            f"# Speed\n\n{before} (at the end: {machine().split('; ')[1]})  \n`python -m benchmarks.speed {command}`"
        )
        if args.output:  # after each network: the last may take as long as all others
            write_atomically(args.output, page.encode(), overwrite=True)
    if not args.output:
        print(page, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
