"""``enhance-eval``: measure codecs and networks, compare them, show them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from enhancer.cli import eval_bd, eval_plot, eval_rd, eval_report, eval_target
from enhancer.cli.common import run_command


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="enhance-eval", description="Measure codecs and networks on a folder of pictures."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (eval_rd, eval_bd, eval_target, eval_plot, eval_report):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status (0 done, 1 failed, 2 wrong usage)."""
    args = build_parser().parse_args(argv)
    return run_command(lambda: args.run(args), "enhance-eval")


if __name__ == "__main__":
    raise SystemExit(main())
