"""What can go wrong in a codec although the arguments were right.

A wrong argument is a ``ValueError``. Every message is one line that a user can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any


class CodecError(Exception):
    """Base of all errors of this package."""


class UnknownCodecError(CodecError):
    """No codec has this name, or no codec recognises these bytes."""


class CodecUnavailableError(CodecError):
    """The codec is known, but a program or library that it needs is missing here."""


class BitstreamError(CodecError):
    """A bitstream is truncated, corrupt, of another format, or uses a feature that is not supported.

    Attributes:
        offset: Byte position at which reading failed, or None when the position is not known.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
        self.offset = offset


class ToolError(CodecError):
    """An external program failed or ran out of time.

    Attributes:
        command: The argument list.
        returncode: Exit status; negative for a signal; None when it never ended by itself.
    """

    def __init__(self, message: str, *, command: Sequence[str], returncode: int | None) -> None:
        super().__init__(message)
        self.command = tuple(command)
        self.returncode = returncode

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from its message alone, it would lack what has no default; processes of a pool send errors so."""
        return partial(type(self), command=self.command, returncode=self.returncode), self.args


class RateControlError(CodecError):
    """A target rate is out of reach; the message names the reachable range."""
