"""``enhance-export``: writes a checkpoint as an ONNX model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from enhancer.cli.common import run_command

PROG = "enhance-export"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``enhance-export``; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_command(lambda: _run(args), PROG)


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``enhance-export``."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Writes a network as an ONNX model with free height and width.",
        epilog="Inputs: x (N, 3, H, W), RGB in 0..1, and condition (N, K). Output: restored (N, 3, H, W), not clamped. "
        "The model's properties say what H and W must be multiples of, which codecs the condition knows, and which "
        "of them training has not seen: enhance tells the network another codec for these, and fades corrections "
        "towards a codec's best quality (enhancer/condition.py).",
    )
    parser.add_argument("model", metavar="MODEL", help="fast, balanced, max or a checkpoint file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="model to write, e.g. m.onnx")
    parser.add_argument("--int8", action="store_true", help="trunk of 8 bits, if the checkpoint was calibrated for it")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def _run(args: argparse.Namespace) -> None:
    if args.output.exists() and not args.overwrite:
        raise ValueError(f"{args.output} exists already; choose --overwrite")

    from enhancer.backends import require_packages
    from enhancer.backends.export import with_properties
    from enhancer.checkpoint import load_checkpoint
    from enhancer.files import write_atomically

    require_packages("onnx")
    checkpoint = load_checkpoint(args.model)
    network = checkpoint.network
    properties = {
        **checkpoint.metadata,
        "multiple": str(network.multiple),
        "halo": checkpoint.metadata.get("halo", str(network.halo)),
        "codecs": json.dumps(list(checkpoint.codecs)),
        "unseen": json.dumps(list(checkpoint.unseen)),
        "checkpoint_sha256": checkpoint.sha256,
    }
    write_atomically(args.output, with_properties(checkpoint, properties, int8=args.int8), overwrite=args.overwrite)
    print(f"{args.output}: H and W are multiples of {network.multiple}")
