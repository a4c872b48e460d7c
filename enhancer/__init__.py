"""Restores decoded pictures with a trained network.

torch is loaded when :class:`Enhancer` is first asked for, so that commands start without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enhancer.errors import CheckpointError, EnhancerError, ImageError

if TYPE_CHECKING:
    from enhancer.inference import Enhancer

__all__ = ["CheckpointError", "Enhancer", "EnhancerError", "ImageError"]


def __getattr__(name: str) -> Any:
    if name != "Enhancer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from enhancer.inference import Enhancer

    return Enhancer
