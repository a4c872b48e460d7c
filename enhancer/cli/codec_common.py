"""What the subcommands of ``enhance-codec`` share: codec options, inputs and outputs, reports."""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from codec_wrappers import REGISTRY, Codec, codec_names, get_codec
from enhancer.errors import EnhancerError
from enhancer.files import write_atomically

PIPE = "-"


def add_codec_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declares which codec encodes, and how."""
    default = "" if required else " (default: the one that writes the output's suffix)"
    parser.add_argument(
        "-c", "--codec", choices=_CodecChoices(codec_names()), required=required, help=f"codec{default}"
    )
    parser.add_argument("--preset", help="named set of encoder options, e.g. reference, tuned, fast")
    parser.add_argument("--chroma", choices=("420", "422", "444"), help="chroma format")
    parser.add_argument("--backend", help="what encodes, see enhance-codec list")
    add_option_argument(parser)


class _CodecChoices(tuple[str, ...]):
    """Names of codecs; ``NAME:PRESET`` is one of them, too."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).partition(":")[0])


def add_option_argument(parser: argparse.ArgumentParser) -> None:
    """Declares ``--option``, for what has no option of its own."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the codec, e.g. bit_depth=10; repeatable",
    )


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares whether files are replaced and how results are reported."""
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--json", action="store_true", help="report one JSON object on standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="report nothing but failures")
    # Wrong combinations that argparse cannot express are found in run, but are wrong usage all the same.
    parser.set_defaults(usage_error=parser.error)


def codec_from(args: argparse.Namespace, name: str) -> Codec:
    """The codec with the options of the command line.

    Raises:
        ValueError: If the codec has no such option or does not take its value.
    """
    options: dict[str, Any] = {
        option: value for option in ("preset", "chroma", "backend") if (value := getattr(args, option, None))
    }
    fields = getattr(REGISTRY.codec_class(name.partition(":")[0]), "__dataclass_fields__", {})
    for entry in args.option:
        option, equals, text = entry.partition("=")
        if not equals:
            args.usage_error(f"argument --option: {entry!r} is not NAME=VALUE")
        is_text = option in fields and isinstance(fields[option].default, str)
        options[option] = text if is_text else _literal(text)
    return get_codec(name, **options)


def _literal(text: str) -> Any:
    """The number, truth value or None that ``text`` spells, else ``text`` itself."""
    try:
        return ast.literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        return text


def codec_options(codec: Codec) -> dict[str, Any]:
    """All options of a codec, for reports."""
    return asdict(cast(Any, codec))


def check_output(args: argparse.Namespace, source: str, output: str) -> None:
    """Refuses, before any work is done, what could not be written in the end.

    Raises:
        EnhancerError: If the output is the input, exists, or would land on a terminal or in no folder.
    """
    if output == PIPE:
        if args.json:
            args.usage_error("--json and -o - both need standard output")
        if sys.stdout.isatty():
            raise EnhancerError("binary data are not written to a terminal; choose -o FILE")
        return
    path = Path(output)
    if source != PIPE and os.path.exists(path) and os.path.exists(source) and os.path.samefile(source, path):
        raise EnhancerError(f"the output {output} is the input")
    if path.is_dir():
        raise EnhancerError(f"cannot write {output}: it is a folder")
    if not path.parent.is_dir():
        raise EnhancerError(f"cannot write {output}: there is no folder {path.parent}")
    if path.is_file() and not args.overwrite:
        raise EnhancerError(f"{output} exists already; it is replaced only with --overwrite")


def read_source(source: str) -> bytes:
    """The content of a file, or of standard input for ``-``."""
    return sys.stdin.buffer.read() if source == PIPE else Path(source).read_bytes()


def write_output(output: str, data: bytes, *, overwrite: bool) -> None:
    """Writes a file, whole or not at all, or to standard output for ``-``."""
    if output == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(output, data, overwrite=overwrite)


def report(args: argparse.Namespace, sentence: str, facts: dict[str, Any]) -> None:
    """Prints ``facts`` as JSON on standard output, or ``sentence`` on standard error."""
    if args.json:
        print(json.dumps(facts))
    elif not args.quiet:
        print(sentence, file=sys.stderr)
