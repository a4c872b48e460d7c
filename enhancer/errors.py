"""What can go wrong in the enhancer although the arguments were right; one line per message."""

from __future__ import annotations


class EnhancerError(Exception):
    """Base of all errors of this package."""


class CheckpointError(EnhancerError):
    """A checkpoint is missing, damaged, of another architecture or of a newer format."""


class ImageError(EnhancerError):
    """A picture file cannot be read, or is of a kind that is not supported."""
