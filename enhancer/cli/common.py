"""What all commands share: arguments, the exit status and the one line on standard error."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from enhancer.errors import EXPECTED_ERRORS, one_line

FAILED = 1
INTERRUPTED = 130
TERMINATED = 143


def at_least_1(text: str) -> int:
    """A whole number of at least 1, as the type of an argument.

    Raises:
        argparse.ArgumentTypeError: If ``text`` is none.
    """
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")


def run_command(body: Callable[[], int | None], prog: str) -> int:
    """Runs the body of a command and returns its exit status: what ``body`` returns, None being 0.

    What can go wrong with right arguments becomes one line ``prog: message`` on standard error and
    status 1; Ctrl-C is 130, SIGTERM 143. A reader that closed our standard output ends the command quietly.
    """
    try:
        with _orderly_termination():
            status = body() or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except EXPECTED_ERRORS as error:
        print(f"{prog}: {one_line(error)}", file=sys.stderr)
        return FAILED


@contextmanager
def without_collection() -> Iterator[None]:
    """Loads modules and weights without garbage collection, and leaves what is loaded out of all later ones.

    torch alone makes some 200 000 objects that live until the end. To look through them again and again, and
    once more at exit, would take half a second.
    """
    if not gc.isenabled():  # a caller's own choice
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _orderly_termination() -> Iterator[None]:
    """Lets SIGTERM end the body by an exception, so that programs it runs end and temporary files go."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(*_: Any) -> None:
    sys.exit(TERMINATED)
