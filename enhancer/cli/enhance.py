"""``enhance``: restores decoded pictures, from files, folders and pipes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers import codec_names
from enhancer.cli.common import FAILED, at_least_1, run_command, without_collection
from enhancer.cli.completion import PrintCompletion
from enhancer.errors import EnhancerError
from enhancer.jobs import Job, plan_jobs

if TYPE_CHECKING:  # torch takes a second to import; --help does not wait for it
    from enhancer.batch import BatchOptions, Outcome
    from enhancer.inference import Enhancer

PROG = "enhance"
UNKNOWN = "unknown"

EXAMPLES = """\
examples:
  enhance photo.bpg                          writes photo.enhanced.png
  enhance photo.jpg -o clean.png --ensemble dihedral --compare
  enhance decoded.png --codec vvc --qp 34    a bare picture: say where it comes from, or let it be estimated
  enhance album -o clean --recursive --skip-existing
  enhance --stdin-list < pairs.tsv           loads the network once for all lines IN<TAB>OUT
  bpgdec -o /dev/stdout x.bpg | enhance - --codec bpg --qp 37 > y.png
  ffmpeg -i in.mp4 -f yuv4mpegpipe - | enhance - | ffmpeg -i - out.mkv
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``enhance``; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if bool(args.inputs) == args.stdin_list:
        parser.error("give either INPUT or --stdin-list")
    return run_command(lambda: _serve(args) if args.stdin_list else _run(args), PROG)


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``enhance``."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Restores pictures that a codec has degraded. Codec and quality are read from bitstreams.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="pictures, bitstreams, folders; - is standard input")
    parser.add_argument(
        "--stdin-list", action="store_true", help="read lines IN<TAB>OUT from standard input, answer each in JSON"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="file, folder, or - for standard output")
    parser.add_argument(
        "--completion", action=PrintCompletion, help='print a script for the shell: eval "$(enhance --completion bash)"'
    )
    _add_source_options(parser)
    _add_network_options(parser)
    _add_output_options(parser)
    return parser


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the pictures have been through")
    group.add_argument(
        "--codec",
        choices=(*codec_names(), UNKNOWN),
        help="codec of a bare picture (default: estimated from it; unknown: not even that)",
    )
    group.add_argument(
        "--qp", type=float, help="its quality index as the bitstream says it (vvenc's -q minus 3; default: estimated)"
    )
    group.add_argument("--size", metavar="WxH", help="size of the frames, if the input is raw planar YCbCr video")
    group.add_argument("--pix-fmt", metavar="NAME", default="yuv420p", help="its layout: yuv420p, yuv422p10le, gray…")
    group.add_argument(
        "--matrix", choices=("bt601", "bt709"), help="RGB matrix of video (default: bt709 from 720 lines on)"
    )
    group.add_argument("-r", "--recursive", action="store_true", help="enter folders within folders")


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("-m", "--model", help="fast, balanced, max or a file (default: balanced, else what is shipped)")
    group.add_argument(
        "--ensemble", choices=("none", "rotate", "dihedral"), default="none", help="mean of 1, 4 or 8 runs"
    )
    group.add_argument(
        "--strength", type=_fraction, default=1.0, metavar="S", help="0 (nothing) to 1 (all, the default)"
    )
    group.add_argument(
        "--tile", type=_tile, default="auto", metavar="N|auto", help="side of a tile; the result is the same"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument("--backend", choices=("auto", "torch", "openvino", "onnx"), default="auto", help="what computes")
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "int8"),
        default="auto",
        help="of the layers; at most 2 of 255 apart, except int8: the fastest, for a few hundredths of a dB",
    )
    group.add_argument("--threads", type=at_least_1, metavar="N", help="threads on the processor")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "-f", "--format", help="png, ppm, tiff, jpeg… (default: as OUT ends, else the input's if lossless, else png)"
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace existing files")
    existing.add_argument("--skip-existing", action="store_true", help="leave out what is done already")
    metadata = group.add_mutually_exclusive_group()
    metadata.add_argument("--keep-metadata", action="store_true", default=True, help="keep EXIF, XMP and DPI (default)")
    metadata.add_argument(
        "--strip", dest="keep_metadata", action="store_false", help="drop them; the colour profile stays"
    )
    group.add_argument(
        "--compare", action="store_true", help="also write NAME.compare.png: before, after, enlarged crops"
    )
    group.add_argument("--json", action="store_true", help="report one JSON object per picture")
    group.add_argument("-q", "--quiet", action="store_true", help="report failures only")
    group.add_argument("-v", "--verbose", action="store_true", help="say what computes, too")


def _fraction(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number in 0..1, got {text!r}")


def _tile(text: str) -> int | str:
    return text if text == "auto" else at_least_1(text)


def _run(args: argparse.Namespace) -> int:
    jobs = plan_jobs(args.inputs, args.output, recursive=args.recursive, format=args.format, compare=args.compare)
    to_stdout = any(job.target is None for job in jobs)
    if to_stdout and sys.stdout.isatty():
        raise EnhancerError("a picture is not written to a terminal; choose -o FILE")
    report = _Reporter(args, to_stdout)
    enhancer = _load_enhancer(args)
    return report.run(jobs, enhancer, _batch_options(args))


def _serve(args: argparse.Namespace) -> int:
    """Answers each line of standard input before it reads the next, so that a caller can wait for the answer."""
    enhancer, options = _load_enhancer(args), _batch_options(args)

    from enhancer.batch import Outcome, run_jobs

    failed = False
    for line in sys.stdin:
        if not line.strip():
            continue
        source, _, target = line.rstrip("\r\n").partition("\t")
        if source and target:
            outcomes = list(run_jobs([Job(Path(source), Path(target))], enhancer, options))
        else:
            outcomes = [Outcome(source, target, "failed", "a line must be IN<TAB>OUT")]
        for outcome in outcomes:
            print(json.dumps(outcome.as_dict()), flush=True)
            failed = failed or outcome.status == "failed"
    return FAILED if failed else 0


def _load_enhancer(args: argparse.Namespace) -> Enhancer:
    with without_collection():
        from enhancer.inference import Enhancer, default_checkpoint

        model = args.model or default_checkpoint()
        enhancer = Enhancer.from_checkpoint(
            model,
            device=args.device,
            backend=args.backend,
            tile=args.tile,
            ensemble=args.ensemble,
            strength=args.strength,
            threads=args.threads,
            precision=args.precision,
        )
    if args.verbose:
        backend = enhancer.backend
        print(f"{PROG}: model {model}, backend {backend.name} on {backend.device}", file=sys.stderr)
    return enhancer


def _batch_options(args: argparse.Namespace) -> BatchOptions:
    from enhancer.batch import BatchOptions
    from enhancer.streams import raw_format

    return BatchOptions(
        codec=None if args.codec == UNKNOWN else args.codec,
        qp=args.qp,
        estimate=args.codec != UNKNOWN,
        format=args.format,
        existing="overwrite" if args.overwrite else "skip" if args.skip_existing else "refuse",
        keep_metadata=args.keep_metadata,
        raw=raw_format(args.size, args.pix_fmt, args.matrix) if args.size else None,
        matrix=args.matrix,
    )


class _Reporter:
    """Prints outcomes and, on a terminal, a progress bar.

    Reports go to standard output, or to standard error when that carries a picture.
    """

    def __init__(self, args: argparse.Namespace, to_stdout: bool) -> None:
        self._json, self._quiet = args.json, args.quiet
        self._stream = sys.stderr if to_stdout else sys.stdout
        self._silent = args.quiet or (to_stdout and not args.json and not args.verbose)

    def run(self, jobs: list[Job], enhancer: Enhancer, options: BatchOptions) -> int:
        """Runs the jobs, reports each, and returns the exit status."""
        from tqdm import tqdm

        from enhancer.batch import run_jobs

        failed = False
        hidden = self._quiet or not sys.stderr.isatty()
        bar_format = "{l_bar}{bar}| {n:.1f}/{total:.0f} pictures [{elapsed}<{remaining}]"
        with tqdm(total=len(jobs), disable=hidden, bar_format=bar_format, leave=False) as bar:
            computed = 0  # ahead of the outcomes, which follow when a picture is written

            def advance(share: float) -> None:
                nonlocal computed
                bar.update(computed + share - bar.n)
                computed += share >= 1

            for done, outcome in enumerate(run_jobs(jobs, enhancer, options, advance), start=1):
                computed = max(computed, done)
                failed = failed or outcome.status == "failed"
                bar.clear()
                self._print(outcome)
        return FAILED if failed else 0

    def _print(self, outcome: Outcome) -> None:
        if self._json:
            print(json.dumps(outcome.as_dict()), file=self._stream, flush=True)
        elif outcome.status == "failed":
            print(f"{PROG}: {_failure(outcome)}", file=sys.stderr)
        elif not self._silent:
            print(_sentence(outcome), file=self._stream, flush=True)


def _failure(outcome: Outcome) -> str:
    error = outcome.error or ""
    return error if error.startswith(outcome.input) else f"{outcome.input}: {error}"


def _sentence(outcome: Outcome) -> str:
    if outcome.status == "skipped":
        return f"{outcome.output}: exists, skipped"
    frames = "" if outcome.frames is None else f", {outcome.frames} frames"
    return f"{outcome.input} -> {outcome.output}: {_origin(outcome)}{frames}, {outcome.elapsed_s:.2f} s"


def _origin(outcome: Outcome) -> str:
    """What the picture has been through, and how sure that is."""
    if outcome.pristine:
        return f"left as it is, maybe never coded (probability {outcome.confidence:.2f})"
    source = "unknown codec" if outcome.codec is None else outcome.codec
    quality = "" if outcome.qp is None else f" qp {outcome.qp:g}"
    left = ", too good to be corrected" if outcome.untouched else ""
    if outcome.confidence is not None:
        return f"{source}{quality}, estimated ({outcome.confidence:.0%} sure of the codec){left}"
    return f"{source}{quality}, qp estimated{left}" if outcome.estimated else f"{source}{quality}{left}"
