"""The C++ compiler that torch.compile calls on a processor."""

from __future__ import annotations

import os
import shutil


def has_compiler() -> bool:
    """Whether there is one."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def need_compiler() -> None:
    """Refuses ``--compile`` where it cannot work.

    Raises:
        ValueError: If there is no compiler.
    """
    if not has_compiler():
        raise ValueError("--compile needs a C++ compiler (g++, or what CXX names)")
