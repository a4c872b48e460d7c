"""The only place that starts an external program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from codec_wrappers.errors import CodecUnavailableError, ToolError


def find_tool(*names: str) -> str | None:
    """Path of the first of ``names`` that is an executable on PATH, or None."""
    return next((path for name in names if (path := shutil.which(name))), None)


def require_tool(*names: str) -> str:
    """Like :func:`find_tool`.

    Raises:
        CodecUnavailableError: If none is found.
    """
    path = find_tool(*names)
    if path is None:
        raise CodecUnavailableError(f"{' or '.join(names)} is not on PATH")
    return path


def run_tool(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout_s: float,
    cwd: str | Path | None = None,
) -> bytes:
    """Runs a program to its end and returns what it wrote to standard output.

    The program runs in a process group of its own, which is killed as a whole on a time-out or any
    exception (Ctrl-C included), so that no orphan is left.

    Args:
        command: Argument list; no shell is involved.
        stdin: Bytes for its standard input.
        timeout_s: Wall-clock limit in seconds.
        cwd: Working directory of the program.

    Raises:
        CodecUnavailableError: If the program cannot be started.
        ToolError: If it exits with a non-zero status or takes longer than ``timeout_s``; the message
            ends with the program's own last words.
    """
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise CodecUnavailableError(f"cannot start {name}: {error.strerror}") from error
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{name} took longer than {timeout_s:g} s", command=command, returncode=None) from error
    finally:
        _kill_group(process)
    if process.returncode != 0:
        raise ToolError(
            f"{name} {_ending(process.returncode)}: {_last_words(stderr or stdout)}",
            command=command,
            returncode=process.returncode,
        )
    return stdout


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the program's process group and reaps the program."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with suppress(OSError):
                pipe.close()


def _ending(returncode: int) -> str:
    return f"was killed by signal {-returncode}" if returncode < 0 else f"exited with status {returncode}"


def _last_words(output: bytes, lines: int = 3) -> str:
    """The last few non-empty lines of a program's output as one line."""
    words = [line.strip() for line in output[-4000:].decode(errors="replace").splitlines() if line.strip()]
    return "; ".join(words[-lines:]) or "no message"
