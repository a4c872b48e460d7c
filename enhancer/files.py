"""Writes whole files or nothing; shared by all commands."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from enhancer.errors import EnhancerError

_DESCRIPTOR_NAMES = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR_PATH = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")


def write_atomically(path: str | Path, data: bytes, *, overwrite: bool = False) -> None:
    """Writes ``data`` to ``path`` so that at no time a part of it can be seen there; see :func:`open_atomically`.

    Args:
        path: File to write; its folder must exist.
        data: The whole content.
        overwrite: Whether an existing file may be replaced (it keeps its permissions).

    Raises:
        EnhancerError: If the file exists and ``overwrite`` is False (another process that creates it
            meanwhile wins, too), or if it cannot be written.
        BrokenPipeError: If ``path`` is a pipe that nobody reads any more.
    """
    with open_atomically(path, overwrite=overwrite) as file:
        file.write(data)


@contextmanager
def open_atomically(path: str | Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Opens a file for writing that gets its name only when the ``with`` block ends without an exception.

    The bytes go to a temporary file in the same folder, which is removed on any failure, Ctrl-C included.
    A link is followed. A pipe, a device or one of this process's own descriptors (``/dev/stdout``,
    ``/dev/fd/3``) is written to directly.

    There is no fsync: the file is whole or absent whatever happens to this process, but a power cut may
    still lose what the system has not yet stored.

    Args:
        path: See :func:`write_atomically`, also for ``overwrite`` and what is raised.
        overwrite: Whether an existing file may be replaced.
    """
    path = Path(path)
    try:
        if (descriptor := _own_descriptor(path)) is not None:
            file = os.fdopen(os.dup(descriptor), "wb")
        elif _is_special(path):
            file = os.fdopen(os.open(path, os.O_WRONLY), "wb")
        else:
            file = None
        with file or _regular(Path(os.path.realpath(path)), overwrite) as opened:
            yield opened
    except FileExistsError as error:
        raise EnhancerError(f"{path} exists already; it is replaced only with overwrite") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnhancerError(f"cannot write {path}: {error.strerror or error}") from error


def _own_descriptor(path: Path) -> int | None:
    """The descriptor that a name like ``/dev/stdout`` stands for, or None.

    Opening such a name would start again at the beginning of a redirected file, and fails for a socket.
    """
    match = _DESCRIPTOR_PATH.fullmatch(str(path))
    return int(match[1]) if match else _DESCRIPTOR_NAMES.get(str(path))


def _is_special(path: Path) -> bool:
    """True for a pipe or a device, which cannot be replaced by a file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def _regular(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    mode = _existing_mode(path)
    if mode is not None and not overwrite:
        raise FileExistsError
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                with suppress(OSError):  # some file systems have no permissions
                    os.fchmod(descriptor, mode)
            yield file
        if overwrite:
            os.replace(temporary, path)
        else:
            _rename_to_new(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _existing_mode(path: Path) -> int | None:
    """Permissions of the file at ``path``; None when there is none.

    Raises:
        IsADirectoryError: If ``path`` is a folder.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(None, "it is a folder")
    return stat.S_IMODE(mode)


def _rename_to_new(source: Path, path: Path) -> None:
    """Gives ``source`` the name ``path``, which must be free at that very moment."""
    try:
        os.link(source, path)  # fails if the name is taken, unlike a rename
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name instead
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        try:
            os.replace(source, path)
        except BaseException:
            path.unlink()
            raise
