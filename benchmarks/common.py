"""What the benchmarks share: where the pictures are, and tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def default_pictures() -> Path:
    """The Kodak set below ``ENHANCER_DATA``, or in the folder ``shared`` beside the checkout."""
    data = os.environ.get("ENHANCER_DATA")
    return (Path(data) if data else CHECKOUT.parent / "shared" / "data") / "eval" / "kodak"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left-aligned, the others right-aligned."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
