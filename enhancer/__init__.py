"""Restores decoded pictures with a trained network.

torch is loaded when :class:`Enhancer` or :func:`enhance` is first asked for, so that commands start without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enhancer.errors import CheckpointError, EnhancerError, ImageError

if TYPE_CHECKING:
    from enhancer.inference import Enhancer, enhance

__all__ = ["CheckpointError", "Enhancer", "EnhancerError", "ImageError", "enhance"]


def __getattr__(name: str) -> Any:
    if name not in ("Enhancer", "enhance"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from enhancer import inference

    return getattr(inference, name)
