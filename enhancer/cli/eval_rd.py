"""``enhance-eval rd``: rate-distortion curves of codecs, with and without enhancement."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from enhancer.cli.common import at_least_1

if TYPE_CHECKING:
    from codec_wrappers.encode_cache import EncodeCache
    from enhancer.evaluation.enhancement import Enhancement
    from enhancer.evaluation.sources import Source

EPILOG = """\
codecs:
  bpg   bpg:tuned   bpg:preset=tuned,chroma=444   jpeg@10,30,50,70   NAME=vvc:faster
  "cmd:ENCODER -q {qp} {in} -o {out} ;; DECODER {in} -o {out}"
      any programs; pictures go in and come out as PNG, no shell is involved

a killed run goes on where it stopped when the same command is given again
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser(
        "rd",
        help="measure rate-distortion curves",
        description="Encode, decode, enhance and measure every picture of a folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pictures", type=Path, nargs="?", metavar="DIR", help="folder of original pictures")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of results")
    parser.add_argument("--codec", action="append", default=[], metavar="CODEC", help="codec to measure; repeatable")
    parser.add_argument("--qps", type=qp_list, default=(), metavar="Q,Q,…", help="operating points, e.g. 22,27,32,37")
    decoded = parser.add_argument_group("pictures decoded elsewhere")
    decoded.add_argument("--reference", type=Path, metavar="DIR", help="folder of original pictures, as DIR above")
    decoded.add_argument(
        "--decoded",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="one folder for each operating point; repeatable",
    )
    decoded.add_argument(
        "--bitstreams",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="their bitstreams, for the rates; repeatable",
    )
    decoded.add_argument("--label", default="decoded", metavar="NAME", help="name of their curve (default: decoded)")
    add_model_arguments(parser)
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        choices=("vif", "ssimulacra2", "vmaf"),
        metavar="METRIC",
        help="measure vif, ssimulacra2 or vmaf, too (vmaf needs an ffmpeg with libvmaf); repeatable",
    )
    parser.add_argument(
        "--keep-pictures", action="store_true", help="keep decoded and enhanced pictures, for the report's viewer"
    )
    parser.add_argument("--limit", type=at_least_1, metavar="N", help="only the first N pictures by name")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace runs of these labels even if of other pictures or settings"
    )
    add_run_arguments(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that choose the networks."""
    group = parser.add_argument_group("enhancement")
    group.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="checkpoint: fast, balanced, max or a file; repeatable",
    )
    group.add_argument(
        "--ensemble",
        action="append",
        choices=("none", "rotate", "dihedral"),
        metavar="MODE",
        help="none, rotate or dihedral; repeatable, each model runs with each (default: none)",
    )
    group.add_argument("--blind", action="store_true", help="let codec and qp be estimated from the pictures")
    group.add_argument(
        "--rounded",
        action="store_true",
        help="restore decoded pictures as 8-bit files hold them, not as decoders have them before rounding",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    group.add_argument("--backend", default="auto", help="auto, torch, openvino or onnx (default: auto)")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of everything that encodes many pictures."""
    parser.add_argument(
        "--jobs", type=at_least_1, metavar="N", help="worker processes (default: one for each processor)"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where bitstreams are kept (default: the user's cache folder)"
    )
    parser.add_argument("--no-cache", action="store_true", help="encode everything anew")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> None:
    """Measures what ``args`` say and names the files written."""
    from enhancer.evaluation.parallel import default_jobs
    from enhancer.evaluation.pictures import load_originals
    from enhancer.evaluation.rd import RdSettings, run_rd

    folder = args.pictures or args.reference
    if folder is None or (args.pictures and args.reference):
        args.usage_error("give the folder of original pictures once: as DIR or as --reference")
    jobs = args.jobs or default_jobs()
    settings = RdSettings(
        qps=args.qps,
        enhancements=enhancements(args, jobs),
        extra=tuple(args.extra),
        keep_pictures=args.keep_pictures,
        overwrite=args.overwrite,
        jobs=jobs,
        cache=encode_cache(args),
    )
    sources = _sources(args)
    originals = load_originals(folder, args.limit)
    with ProgressBar(args.quiet) as bar:
        paths = run_rd(originals, sources, settings, args.output, progress=bar.update)
    for path in [*paths, args.output / "results.csv"]:
        print(path)


def _sources(args: argparse.Namespace) -> list[Source]:
    from enhancer.evaluation.sources import FolderSource, parse_codec

    sources: list[Source] = [parse_codec(spec) for spec in args.codec]
    if args.decoded:
        sources.append(FolderSource(args.label, tuple(args.decoded), tuple(args.bitstreams)))
    elif args.bitstreams:
        args.usage_error("--bitstreams gives the rates of --decoded, which is missing")
    if not sources:
        args.usage_error("nothing to measure: give --codec or --decoded")
    return sources


def enhancements(args: argparse.Namespace, jobs: int) -> tuple[Enhancement, ...]:
    """Each model with each ensemble."""
    from enhancer.evaluation.enhancement import Enhancement
    from enhancer.evaluation.parallel import threads_per_job

    if not args.model and (args.ensemble or args.blind or args.rounded):
        args.usage_error("--ensemble, --blind and --rounded are settings of a --model, which is missing")
    return tuple(
        Enhancement(
            model,
            ensemble=ensemble,
            blind=args.blind,
            rounded=args.rounded,
            device=args.device,
            backend=args.backend,
            threads=threads_per_job(jobs),
        )
        for model in args.model
        for ensemble in args.ensemble or ["none"]
    )


def encode_cache(args: argparse.Namespace) -> EncodeCache | None:
    """The cache that ``args`` ask for."""
    from codec_wrappers.encode_cache import EncodeCache

    if args.no_cache:
        return None
    return EncodeCache(args.cache) if args.cache else EncodeCache()


class ProgressBar:
    """Progress on standard error, if that is a terminal."""

    def __init__(self, quiet: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="picture", disable=quiet or not sys.stderr.isatty(), file=sys.stderr)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, done: int, total: int) -> None:
        """Shows ``done`` of ``total``."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def qp_list(text: str) -> tuple[int, ...]:
    """``22,27,32`` as numbers, as the type of an argument."""
    try:
        return tuple(int(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 22,27,32, got {text!r}") from None
