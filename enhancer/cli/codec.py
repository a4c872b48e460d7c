"""``enhance-codec``: drives the real codecs, to a quality, to a rate, and over sets of pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from enhancer.cli import codec_decode, codec_encode, codec_list, codec_mix
from enhancer.cli.common import run_command

PROG = "enhance-codec"


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog=PROG, description="Encodes pictures by BPG, VVC and other codecs to a quality or a rate, and decodes them."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (codec_encode, codec_decode, codec_mix, codec_list):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status (0 done, 1 failed, 2 wrong usage)."""
    args = build_parser().parse_args(argv)
    return run_command(lambda: args.run(args), PROG)


if __name__ == "__main__":
    raise SystemExit(main())
