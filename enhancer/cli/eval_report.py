"""``enhance-eval report``: one self-contained HTML page of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from enhancer.cli.common import at_least_1
from enhancer.cli.eval_plot import add_overlay_arguments
from enhancer.cli.eval_rd import qp_list


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser(
        "report",
        help="make a page of curves, tables and pictures",
        description="One HTML file with everything in it: curves, BD table, every picture, a viewer. No network.",
    )
    parser.add_argument("results", type=Path, metavar="DIR", help="folder of results")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="page to write")
    parser.add_argument("--title", default="Rate-distortion report")
    parser.add_argument(
        "--anchor",
        action="append",
        default=[],
        metavar="LABEL",
        help="run to compare others with; repeatable (default: all without a network)",
    )
    add_overlay_arguments(parser)
    parser.add_argument(
        "--viewer-qps",
        type=qp_list,
        default=(),
        metavar="Q,Q,…",
        help="points in the viewer (default: the cheapest and the middle one)",
    )
    parser.add_argument("--viewer-pictures", type=at_least_1, metavar="N", help="at most N pictures in the viewer")
    parser.add_argument(
        "--max-mb",
        type=at_least_1,
        default=15,
        metavar="MB",
        help="size of the page (default: 15); pictures are compressed to fit",
    )
    parser.add_argument(
        "--resamples", type=at_least_1, default=500, metavar="N", help="of the bootstrap (default: 500)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Writes the page and says how large it is."""
    from enhancer.errors import EnhancerError
    from enhancer.evaluation.results import load_runs
    from enhancer.files import write_atomically
    from enhancer.report.page import PageSettings, build_page
    from enhancer.report.published import fitting, load_overlay

    if args.output.exists() and not args.overwrite:
        raise EnhancerError(f"{args.output} exists; it is replaced only with --overwrite")
    runs = load_runs(args.results)
    overlays = [load_overlay(path) for path in args.overlay] + list(
        fitting(runs[0], args.published) if args.published else ()
    )
    settings = PageSettings(
        title=args.title,
        anchors=tuple(args.anchor),
        overlays=tuple(overlays),
        resamples=args.resamples,
        seed=args.seed,
        viewer_qps=args.viewer_qps,
        viewer_pictures=args.viewer_pictures,
        max_bytes=args.max_mb * 1_000_000,
    )
    page = build_page(runs, args.results, settings)
    write_atomically(args.output, page, overwrite=args.overwrite)
    print(f"{args.output}: {len(page) / 1e6:.1f} MB")
