"""``enhance-codec``: drives the real codecs, to a quality, to a rate, and over sets of pictures."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

from enhancer.cli import codec_decode, codec_encode, codec_list, codec_mix
from enhancer.cli.common import run_command

PROG = "enhance-codec"
TERMINATED = 143


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
    signal.signal(signal.SIGTERM, _leave)
    return run_command(lambda: args.run(args), PROG)


def _leave(*_: Any) -> None:
    sys.exit(TERMINATED)  # unlike dying at once, this ends the programs that encode and removes their files


if __name__ == "__main__":
    raise SystemExit(main())
