"""``enhance-codec encode``: one picture to a quality or to a rate."""

from __future__ import annotations

import argparse
import time

from codec_wrappers import REGISTRY, Codec
from codec_wrappers.base import bits_per_pixel
from codec_wrappers.rate_control import Encoding, encode_to_bpp, encode_to_bytes
from enhancer.cli.codec_common import (
    PIPE,
    add_codec_arguments,
    add_report_arguments,
    check_output,
    codec_from,
    codec_options,
    read_source,
    report,
    write_output,
)
from enhancer.errors import EnhancerError
from enhancer.formats.picture import Picture


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser(
        "encode",
        help="encode a picture to a quality or to a rate",
        description="Encodes a picture at a quality index, or finds the largest stream within a rate.",
    )
    parser.add_argument("input", metavar="IN", help="picture of any format; - is standard input")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="bitstream; - is standard output")
    add_codec_arguments(parser, required=False)
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--qp", type=int, help="the codec's own quality index, see enhance-codec list")
    amount.add_argument("--bpp", type=float, help="limit in bits per pixel, e.g. 0.15")
    amount.add_argument("--bytes", type=int, metavar="N", help="limit in bytes")
    parser.add_argument("--strip", action="store_true", help="leave out EXIF and XMP; the colour profile stays")
    add_report_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Encodes and reports."""
    from enhancer.image_io import read_picture, stripped

    if args.output == PIPE and args.codec is None:
        args.usage_error("-o - needs --codec")
    codec = codec_from(args, args.codec or REGISTRY.by_suffix(args.output))
    check_output(args, args.input, args.output)
    picture = read_picture(read_source(PIPE) if args.input == PIPE else args.input)
    if args.strip:
        picture = stripped(picture)
    started = time.perf_counter()
    try:
        encoding = _encode(args, codec, picture)
    except ValueError as error:  # a kind of picture, or a qp, that the codec does not take
        raise EnhancerError(f"{args.input}: {codec.name}: {error}") from error
    elapsed_s = time.perf_counter() - started
    write_output(args.output, encoding.bitstream, overwrite=args.overwrite)
    _report(args, encoding, picture, elapsed_s)


def _encode(args: argparse.Namespace, codec: Codec, picture: Picture) -> Encoding:
    if args.bpp is not None:
        return encode_to_bpp(codec, picture.image, args.bpp, metadata=picture.metadata)
    if args.bytes is not None:
        return encode_to_bytes(codec, picture.image, args.bytes, metadata=picture.metadata)
    bitstream = codec.encode(picture.image, args.qp, metadata=picture.metadata)
    return Encoding(args.qp, codec, bitstream, bits_per_pixel(bitstream, picture.image), encodes=1)


def _report(args: argparse.Namespace, encoding: Encoding, picture: Picture, elapsed_s: float) -> None:
    codec, size = encoding.codec, len(encoding.bitstream)
    height, width = picture.size
    knob = codec.fine_knob
    fine = {knob.option: getattr(codec, knob.option)} if knob else {}
    facts = {
        "input": args.input,
        "output": args.output,
        "codec": codec.name,
        "qp": encoding.qp,
        **fine,
        "bytes": size,
        "bpp": encoding.bpp,
        "width": width,
        "height": height,
        "encodes": encoding.encodes,
        "probes": encoding.probes,
        "elapsed_s": round(elapsed_s, 3),
        "options": codec_options(codec),
    }
    tuned = "".join(f", {option} {value:g}" for option, value in fine.items() if value != 1)
    sentence = f"{args.output}: {codec.name} qp {encoding.qp}{tuned}, {size} bytes, {encoding.bpp:.4f} bpp"
    report(args, f"{sentence}, {elapsed_s:.1f} s", facts)
