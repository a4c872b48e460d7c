"""``enhance-eval bd``: Bjøntegaard deltas between two runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from enhancer.bd_rate import METHODS
from enhancer.cli.common import at_least_1
from enhancer.errors import EnhancerError

if TYPE_CHECKING:
    from enhancer.bd_rate import Bootstrap
    from enhancer.evaluation.compare import Comparison
    from enhancer.evaluation.results import Run

DEFAULT_METRICS = ("psnr", "psnr_y601", "ms_ssim_db")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser(
        "bd",
        help="compare two runs: BD-rate, BD-PSNR",
        description="Bjøntegaard deltas of B against A: negative rates and positive qualities mean that B is better.",
    )
    parser.add_argument("anchor", metavar="A", help="run file (*.run.json), or label of a run in --results")
    parser.add_argument("test", metavar="B", help="the run that is compared with A")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of runs (default: results)"
    )
    parser.add_argument(
        "--metric", action="append", metavar="NAME", help=f"repeatable (default: {', '.join(DEFAULT_METRICS)})"
    )
    parser.add_argument("--method", action="append", choices=METHODS, help="interpolation; repeatable (default: pchip)")
    parser.add_argument("--per-picture", action="store_true", help="list every picture, too")
    parser.add_argument(
        "--resamples", type=at_least_1, default=1000, metavar="N", help="of the bootstrap (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints the comparisons; fails when none of them is possible."""
    from enhancer.evaluation.compare import compare_runs

    anchor, test = (_find(name, args.results) for name in (args.anchor, args.test))
    comparisons, refusals = [], []
    for metric in args.metric or [m for m in DEFAULT_METRICS if m in anchor.metrics]:
        for method in args.method or METHODS[:1]:
            try:
                comparisons.append(
                    compare_runs(anchor, test, metric=metric, method=method, resamples=args.resamples, seed=args.seed)
                )
            except ValueError as error:
                if str(error) not in refusals:
                    refusals.append(str(error))
    if not comparisons:
        raise EnhancerError("; ".join(refusals) or "the runs have no metric in common")
    if args.json:
        print(json.dumps({"comparisons": [asdict(c) for c in comparisons], "refused": refusals}, indent=1))
        return
    print(f"B = {test.label}\nA = {anchor.label}")
    print(f"{len(anchor.pictures)} pictures, 95 % bootstrap interval over pictures\n")
    print(_table(comparisons))
    for refusal in refusals:
        print(f"refused: {refusal}")
    for comparison in {c.metric: c for c in comparisons}.values():
        if comparison.left_out:
            print(f"without {comparison.metric}: {', '.join(comparison.left_out)}")
    if args.per_picture:
        for comparison in comparisons:
            print(f"\n{comparison.metric}, {comparison.method}\n{_picture_table(comparison)}")


def _find(name: str, results: Path) -> Run:
    from enhancer.evaluation.compare import pick_run
    from enhancer.evaluation.results import load_run, load_runs

    path = Path(name)
    return load_run(path) if path.suffix == ".json" or path.is_file() else pick_run(load_runs(results), name)


def _table(comparisons: Sequence[Comparison]) -> str:
    head = ["metric", "method", "BD-rate (%)", "BD-quality", "common quality", "covered", "common bpp"]
    rows = [
        [
            c.metric,
            c.method,
            _with_interval(c.bd_rate, ".2f"),
            _with_interval(c.bd_quality, ".4f"),
            f"{c.overlap.low:.3f}..{c.overlap.high:.3f}",
            f"{100 * c.covered:.0f} %",
            f"{c.rate_overlap.low:.4f}..{c.rate_overlap.high:.4f}",
        ]
        for c in comparisons
    ]
    return align([head, *rows])


def _with_interval(value: Bootstrap | float, form: str) -> str:
    if isinstance(value, float):
        return f"{value:+{form}}"
    return f"{value.value:+{form}} [{value.interval.low:+{form}}, {value.interval.high:+{form}}]"


def _picture_table(comparison: Comparison) -> str:
    rows = [["picture", "BD-rate (%)", "BD-quality"]]
    for p in comparison.pictures:
        if p.bd_rate is None or p.bd_quality is None:
            rows.append([p.picture, "refused", p.refused or ""])
        else:
            rows.append([p.picture, f"{p.bd_rate:+.2f}", f"{p.bd_quality:+.4f}"])
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, two blanks between them."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
