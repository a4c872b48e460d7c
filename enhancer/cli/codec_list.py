"""``enhance-codec list``: codecs, backends, and what works on this machine."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from codec_wrappers import REGISTRY, Availability, Codec, availability


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the subcommand and binds it to :func:`run`."""
    parser = commands.add_parser(
        "list",
        help="list codecs, backends and what works here",
        description="Lists codecs, their quality index (best last), and each backend: its version or what it lacks.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints the list."""
    found = availability()
    if args.json:
        print(json.dumps({codec_class.name: _facts(codec_class, found[codec_class.name]) for codec_class in REGISTRY}))
        return
    for codec_class in REGISTRY:
        qps = codec_class.qp_range.by_rate()
        print(f"{codec_class.name:9} qp {qps[0]} to {qps[-1]}   files {' '.join(codec_class.suffixes)}")
        for entry in found[codec_class.name]:
            print(f"  {'+' if entry.available else '-'} {entry.backend:11} {entry.detail}")


def _facts(codec_class: type[Codec], backends: tuple[Availability, ...]) -> dict[str, Any]:
    return {
        "suffixes": codec_class.suffixes,
        "qp_worst": codec_class.qp_range.by_rate()[0],
        "qp_best": codec_class.qp_range.by_rate()[-1],
        "available": any(entry.available for entry in backends),
        "backends": [asdict(entry) for entry in backends],
    }
