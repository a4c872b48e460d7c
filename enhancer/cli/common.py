"""What all commands share: the exit status and the one line on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from codec_wrappers.errors import CodecError
from enhancer.errors import EnhancerError

FAILED = 1
INTERRUPTED = 130


def run_command(body: Callable[[], int | None], prog: str) -> int:
    """Runs the body of a command and returns its exit status: what ``body`` returns, None being 0.

    What can go wrong with right arguments becomes one line ``prog: message`` on standard error and
    status 1; Ctrl-C is 130. A reader that closed our standard output ends the command quietly.
    """
    try:
        status = body() or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (CodecError, EnhancerError, ValueError, OSError, MemoryError) as error:
        print(f"{prog}: {one_line(error)}", file=sys.stderr)
        return FAILED


def one_line(error: BaseException) -> str:
    """The message of ``error`` in one line; an ``OSError`` as ``file: reason``."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError) and not str(error):
        return "out of memory"
    return " ".join(str(error).split()) or type(error).__name__
