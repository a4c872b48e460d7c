"""``enhance-codec mix``: a set of pictures within one budget."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codec_wrappers import Codec, Image
from enhancer.cli.codec_common import add_codec_arguments, add_report_arguments, codec_from, report
from enhancer.errors import EnhancerError

if TYPE_CHECKING:  # loaded when the work begins, not for --help
    from tqdm import tqdm

    from codec_wrappers.allocation import Allocation

MANIFESTS = ("manifest.json", "manifest.csv")
OBJECTIVES = ("mix", "psnr", "mse", "ms_ssim")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser(
        "mix",
        help="encode a set of pictures within one budget",
        description="Encodes all pictures of a folder so that together they keep to a rate and use it up. A run "
        "that was stopped goes on where it was. Writes the bitstreams, manifest.json and manifest.csv.",
    )
    parser.add_argument("inputs", metavar="DIR", nargs="+", help="folders or pictures")
    parser.add_argument("-o", "--output", metavar="OUTDIR", type=Path, required=True, help="folder for the bitstreams")
    parser.add_argument("-r", "--recursive", action="store_true", help="enter folders within folders")
    add_codec_arguments(parser, required=True)
    parser.add_argument("--bpp", type=float, required=True, help="limit in bits per pixel over the whole set")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="mix",
        help="mix: two adjacent qps, as in the literature (default); else the best mean psnr or ms_ssim, or the "
        "least squared error, for the set",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per processor)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where encodes are kept (default: $ENHANCER_CACHE, ~/.cache/enhancer)"
    )
    add_report_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Finds the allocation and writes the streams and the manifests."""
    from codec_wrappers.allocation import allocate
    from codec_wrappers.encode_cache import EncodeCache

    codec = codec_from(args, args.codec)
    targets = _plan(args, codec)
    cache = EncodeCache(args.cache) if args.cache else EncodeCache()
    started = time.perf_counter()
    with _progress_bar(args) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        allocation = allocate(
            codec,
            list(targets),
            args.bpp,
            args.objective,
            measure=_ms_ssim if args.objective == "ms_ssim" else None,
            read=_read,
            workers=(os.cpu_count() or 1) if args.workers is None else args.workers,
            cache=cache,
            progress=advance,
        )
    _write(args, allocation, list(targets.values()), time.perf_counter() - started)


def _plan(args: argparse.Namespace, codec: Codec) -> dict[Path, Path]:
    """Bitstream files by picture, checked before the work begins."""
    from enhancer.jobs import STREAM_SUFFIXES, plan_jobs

    targets: dict[Path, Path] = {}
    writers: dict[Path, Path] = {}
    for job in plan_jobs(args.inputs, f"{args.output}{os.sep}", recursive=args.recursive):
        if job.source is None:
            raise EnhancerError("a set of pictures is not read from standard input")
        if job.target is None or job.source.suffix.lower() in STREAM_SUFFIXES:
            continue
        target = job.target.with_suffix(codec.suffixes[0])
        if (other := writers.setdefault(target, job.source)) != job.source:
            raise EnhancerError(f"{other} and {job.source} would both be written to {target}")
        if target.exists() and target.samefile(job.source):
            raise EnhancerError(f"the output {target} is the input")
        targets[job.source] = target
    existing = [path for path in (*targets.values(), *(args.output / name for name in MANIFESTS)) if path.exists()]
    if existing and not args.overwrite:
        raise EnhancerError(f"{existing[0]} exists already; it is replaced only with --overwrite")
    return targets


def _write(args: argparse.Namespace, allocation: Allocation, targets: list[Path], elapsed_s: float) -> None:
    from codec_wrappers.manifest import manifest_csv, manifest_json
    from enhancer.files import write_atomically

    summary: dict[str, Any] = {
        "codec": args.codec,
        "objective": allocation.objective,
        "target_bpp": args.bpp,
        "bpp": allocation.bpp,
        "budget_bytes": allocation.budget_bytes,
        "bytes": allocation.total_bytes,
        "encodes": allocation.encodes,
        "elapsed_s": round(elapsed_s, 3),
    }
    for position, target in enumerate(targets):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, allocation.bitstream(position), overwrite=args.overwrite)
    text = manifest_json(allocation.pictures, **summary)
    for name, content in zip(MANIFESTS, (text, manifest_csv(allocation.pictures)), strict=True):
        write_atomically(args.output / name, content.encode(), overwrite=args.overwrite)
    used = 100 * allocation.total_bytes / allocation.budget_bytes
    sentence = f"{args.output}: {len(targets)} pictures, {allocation.total_bytes} bytes, {allocation.bpp:.5f} bpp"
    report(args, f"{sentence}, {used:.2f} % of the budget, {elapsed_s:.1f} s", json.loads(text))


def _progress_bar(args: argparse.Namespace) -> tqdm[Any]:
    from tqdm import tqdm

    return tqdm(disable=args.quiet or not sys.stderr.isatty(), unit="encode", leave=False)


def _read(path: Path) -> Image:
    from enhancer.image_io import read_picture

    return read_picture(path).image


def _ms_ssim(original: Image, decoded: Image) -> float:
    import torch

    from enhancer.metrics import ms_ssim

    if multiprocessing.parent_process():
        torch.set_num_threads(1)  # the workers share the processors already
    return ms_ssim(original, decoded, data_range=float(np.iinfo(original.dtype).max))
