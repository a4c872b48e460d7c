"""The ``enhance`` command as another process, for tests of pipes and signals."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    """The environment now, in which Python finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def enhance_command(model: str) -> str:
    """The command as one would type it into a shell, with the network ``model``."""
    program = "import sys; from enhancer.cli.enhance import main; sys.exit(main())"
    return f"'{sys.executable}' -c '{program}' --model '{model}' --backend torch --threads 1"
