"""``enhance-codec decode``: a bitstream of any known codec to a picture file."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any, cast

from codec_wrappers import REGISTRY, Codec, identify
from codec_wrappers.base import DEFAULT_MAX_PIXELS, CodingInfo
from enhancer.cli.codec_common import (
    PIPE,
    add_option_argument,
    add_report_arguments,
    check_output,
    codec_from,
    read_source,
    report,
    write_output,
)
from enhancer.errors import EXPECTED_ERRORS, EnhancerError, one_line


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser(
        "decode",
        help="decode a bitstream to a picture",
        description="Decodes a bitstream; its first bytes say which codec it is of.",
    )
    parser.add_argument("input", metavar="IN", help="bitstream; - is standard input")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="picture file; - is standard output")
    parser.add_argument("-f", "--format", help="picture format (default: by the output's suffix; png for -)")
    parser.add_argument("--depth", type=int, choices=(8, 16), help="bits per sample, where the codec has a choice")
    parser.add_argument("--backend", help="what decodes, see enhance-codec list")
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help=f"refuse pictures with more pixels (default: the codec's limit, mostly {DEFAULT_MAX_PIXELS})",
    )
    add_option_argument(parser)
    add_report_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Decodes and reports."""
    from enhancer.image_io import Picture, encode_picture, picture_format

    format_name = args.format or ("png" if args.output == PIPE else picture_format(args.output))
    check_output(args, args.input, args.output)
    bitstream = read_source(args.input)
    started = time.perf_counter()
    try:
        decoded = _codec(args, bitstream).decode(bitstream)
    except EXPECTED_ERRORS as error:
        raise EnhancerError(f"{'standard input' if args.input == PIPE else args.input}: {one_line(error)}") from error
    elapsed_s = time.perf_counter() - started
    picture = Picture(decoded.image, decoded.metadata, source_format=decoded.info.codec, info=decoded.info)
    write_output(args.output, encode_picture(picture, format_name), overwrite=args.overwrite)
    _report(args, decoded.info, picture.size, len(bitstream), elapsed_s)


def _codec(args: argparse.Namespace, bitstream: bytes) -> Codec:
    name = identify(bitstream)
    fields = getattr(REGISTRY.codec_class(name), "__dataclass_fields__", {})
    if args.max_pixels is not None:
        args.option.append(f"max_pixels={args.max_pixels}")
    codec = codec_from(args, name)
    if args.depth and "output_depth" in fields:
        codec = replace(cast(Any, codec), output_depth=args.depth)
    return codec


def _report(args: argparse.Namespace, info: CodingInfo, size: tuple[int, int], count: int, elapsed_s: float) -> None:
    height, width = size
    facts = {
        "input": args.input,
        "output": args.output,
        "codec": info.codec,
        "qp": info.qp,
        "chroma": info.chroma,
        "bit_depth": info.bit_depth,
        "width": width,
        "height": height,
        "bytes": count,
        "bpp": 8 * count / (width * height),
        "elapsed_s": round(elapsed_s, 3),
    }
    quality = "" if info.qp is None else f" qp {info.qp:g}"
    sentence = f"{args.output}: {width} x {height}, {info.codec}{quality}, {info.chroma}, {info.bit_depth} bits"
    report(args, f"{sentence}, {elapsed_s:.1f} s", facts)
