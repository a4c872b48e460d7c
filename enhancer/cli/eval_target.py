"""``enhance-eval target``: codecs and networks at one budget for a folder of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from enhancer.cli.common import at_least_1
from enhancer.cli.eval_bd import align
from enhancer.cli.eval_rd import (
    ProgressBar,
    add_model_arguments,
    add_run_arguments,
    encode_cache,
    enhancements,
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser(
        "target",
        help="compare at one budget for the whole folder",
        description="Share a budget out over all pictures of a folder and measure what each codec makes of it.",
    )
    parser.add_argument("pictures", type=Path, metavar="DIR", help="folder of original pictures")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--bpp", type=float, help="bits per pixel over all pictures, e.g. 0.15")
    budget.add_argument("--bytes", type=int, metavar="N", help="bytes for all pictures together")
    parser.add_argument("--codec", action="append", required=True, metavar="CODEC", help="as in rd; repeatable")
    parser.add_argument(
        "--allocate",
        action="append",
        choices=("mix", "psnr", "enhanced"),
        help="two adjacent qps mixed (default), best mean PSNR decoded, or enhanced; repeatable",
    )
    add_model_arguments(parser)
    parser.add_argument("--limit", type=at_least_1, metavar="N", help="only the first N pictures by name")
    add_run_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON with everything, picture by picture")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--json", action="store_true", help="print that JSON instead of a table")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> None:
    """Prints the table."""
    from codec_wrappers.encode_cache import EncodeCache
    from enhancer.errors import EnhancerError
    from enhancer.evaluation.parallel import default_jobs
    from enhancer.evaluation.pictures import load_originals
    from enhancer.evaluation.rd import environment
    from enhancer.evaluation.sources import parse_codec
    from enhancer.evaluation.target import bpp_of_bytes, run_target, target_table, target_to_json, write_target

    if args.output and args.output.exists() and not args.overwrite:
        raise EnhancerError(f"{args.output} exists; it is replaced only with --overwrite")
    jobs = args.jobs or default_jobs()
    sources = [parse_codec(spec) for spec in args.codec]
    originals = load_originals(args.pictures, args.limit)
    bpp = args.bpp if args.bytes is None else bpp_of_bytes(args.bytes, originals)
    with ProgressBar(args.quiet) as bar, TemporaryDirectory(prefix="enhance-eval-") as scratch:
        rows = run_target(
            originals,
            sources,
            bpp,
            allocations=args.allocate or ["mix"],
            enhancements=enhancements(args, jobs),
            jobs=jobs,
            cache=encode_cache(args) or EncodeCache(Path(scratch)),
            progress=bar.update,
        )
    text = target_to_json(rows, sources, bpp, environment())
    if args.output:
        write_target(args.output, text, overwrite=args.overwrite)
    print(text if args.json else align(target_table(rows)))
