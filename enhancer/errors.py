"""What can go wrong in the enhancer although the arguments were right; one line per message."""

from __future__ import annotations

from codec_wrappers.errors import CodecError


class EnhancerError(Exception):
    """Base of all errors of this package."""


class CheckpointError(EnhancerError):
    """A checkpoint is missing, damaged, of another architecture or of a newer format."""


class ImageError(EnhancerError):
    """A picture file cannot be read, or is of a kind that is not supported."""


EXPECTED_ERRORS = (CodecError, EnhancerError, ValueError, OSError, MemoryError)
"""What a command reports as one line; anything else is a defect of the program."""


def one_line(error: BaseException) -> str:
    """The message of ``error`` in one line; an ``OSError`` as ``file: reason``."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError) and not str(error):
        return "out of memory"
    return " ".join(str(error).split()) or type(error).__name__
