"""The ``enhance`` command as another process, for tests of pipes and signals, and the pictures it works on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from codec_wrappers import Image
from enhancer.image_io import read_picture


def environment() -> dict[str, str]:
    """The environment now, in which Python finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def enhance_command(model: str) -> str:
    """The command as one would type it into a shell, with the network ``model``."""
    program = "import sys; from enhancer.cli.enhance import main; sys.exit(main())"
    return f"'{sys.executable}' -c '{program}' --model '{model}' --backend torch --threads 1"


def save(path: Path, image: Image, **options: Any) -> Path:
    """Writes a picture file by Pillow."""
    PillowImage.fromarray(image).save(path, **options)
    return path


def read(path: Path) -> Image:
    return read_picture(path).image
