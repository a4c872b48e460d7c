"""What all commands share: the exit status and the one line on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from enhancer.errors import EXPECTED_ERRORS, one_line

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
    except EXPECTED_ERRORS as error:
        print(f"{prog}: {one_line(error)}", file=sys.stderr)
        return FAILED
