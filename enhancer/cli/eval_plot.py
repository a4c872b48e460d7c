"""``enhance-eval plot``: rate-distortion curves as PNG or SVG."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser("plot", help="draw curves for a paper", description="Draw all runs of a folder.")
    parser.add_argument("results", type=Path, metavar="DIR", help="folder of results")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="*.png or *.svg")
    parser.add_argument("--metric", default="psnr", metavar="NAME", help="psnr, ms_ssim_db, … (default: psnr)")
    add_overlay_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run)


def add_overlay_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for curves that were not measured here."""
    parser.add_argument(
        "--overlay",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="published curve in CompressAI's JSON format; repeatable",
    )
    parser.add_argument(
        "--published",
        nargs="?",
        const="auto",
        metavar="SET",
        help="add the published results that come along for a test set (Kodak, which is told by the names of the"
        " pictures, or 'CLIC 2019 validation')",
    )


def run(args: argparse.Namespace) -> None:
    """Draws the runs of ``args.results`` and names the file written."""
    from enhancer.evaluation.results import load_runs
    from enhancer.files import write_atomically
    from enhancer.report.plots import plot_curves
    from enhancer.report.published import fitting, load_overlay

    file_format = args.output.suffix.lower().lstrip(".")
    if file_format not in ("png", "svg"):
        raise ValueError(f"a plot is written as .png or .svg, got {args.output}")
    runs = load_runs(args.results)
    overlays = [load_overlay(path) for path in args.overlay] + list(
        fitting(runs[0], args.published) if args.published else ()
    )
    data = plot_curves(runs, args.metric, file_format=file_format, overlays=overlays)
    write_atomically(args.output, data, overwrite=args.overwrite)
    print(args.output)
