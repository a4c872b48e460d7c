"""Finished encodes on disk, found again by what went into them.

An entry's name is the SHA-256 of the picture, the codec with all its options, versions and own sources,
the qp and the metadata, so an entry never goes stale; it holds the SHA-256 of the bitstream and the
bitstream.
Files are written whole or not at all, so any number of processes may share a folder, and a run that
was killed goes on where it stopped.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from codec_wrappers.base import NO_METADATA, Codec, Image, Metadata

_DIGEST_BYTES = hashlib.sha256().digest_size


def default_folder() -> Path:
    """``$ENHANCER_CACHE`` if set, else ``~/.cache/enhancer`` (or below ``$XDG_CACHE_HOME``)."""
    if folder := os.environ.get("ENHANCER_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enhancer"


@dataclass(frozen=True)
class EncodeCache:
    """A folder of finished encodes, made when it is first written to.

    Attributes:
        folder: Where the entries lie; two levels, the first being two hexadecimal digits.
    """

    folder: Path = field(default_factory=default_folder)

    def encode(self, codec: Codec, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        """``codec.encode(image, qp, metadata=metadata)``, from the folder if it was done before.

        Raises:
            OSError: If the folder cannot be written to.
        """
        key = encode_key(codec, image, qp, metadata)
        bitstream = self.load(key)
        if bitstream is None:
            bitstream = codec.encode(image, qp, metadata=metadata)
            self.store(key, bitstream)
        return bitstream

    def load(self, key: str) -> bytes | None:
        """The bitstream stored under ``key``; None if there is none or the entry is damaged."""
        try:
            entry = self._path(key).read_bytes()
        except OSError:
            return None
        digest, bitstream = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
        return bitstream if hashlib.sha256(bitstream).digest() == digest else None

    def store(self, key: str, bitstream: bytes) -> None:
        """Puts ``bitstream`` under ``key``, replacing what is there."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(bitstream).digest() + bitstream)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]


def encode_key(codec: Codec, image: Image, qp: int, metadata: Metadata = NO_METADATA) -> str:
    """SHA-256, in hexadecimal, of everything that decides the bitstream.

    A codec that depends on files (programs, weights) says their state by a method ``fingerprint() -> str``.
    """
    digest = hashlib.sha256()
    versions = [encoder_versions(type(codec)), code_sha256(type(codec))]
    if fingerprint := getattr(codec, "fingerprint", None):
        versions.append(fingerprint())
    for part in (codec, *versions, int(qp), metadata, image.shape, image.dtype.str):
        digest.update(repr(part).encode() + b"\0")
    digest.update(image.tobytes())
    return digest.hexdigest()


@functools.cache
def encoder_versions(codec_class: type[Codec]) -> str:
    """Versions of the backends of a codec on this machine, one line."""
    usable = [f"{entry.backend} {entry.detail}" for entry in codec_class.availability() if entry.available]
    return "; ".join(usable) or "none available"


@functools.cache
def code_sha256(codec_class: type[Codec]) -> str:
    """SHA-256 of the sources that a codec runs: colour conversion and containers are part of the encoder too.

    These are the modules of this package that the codec's own module imports, at any depth; other codecs
    may change without touching it.
    """
    digest = hashlib.sha256()
    for name in sorted(_imported_here(codec_class.__module__)):
        # The syntax tree: another comment or line break is no other encoder.
        digest.update(f"{name}\0{ast.dump(ast.parse(_source(name)))}\0".encode())
    return digest.hexdigest()


def _imported_here(module: str) -> set[str]:
    """``module`` and the modules of this package that it imports, directly or through one of them."""
    package = __name__.rpartition(".")[0]
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or not (name == module or _source(name)):
            continue
        found.add(name)
        for node in ast.walk(ast.parse(_source(name))):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [name for name in inner if _source(name)]
                # A name that is no module comes from the package's or module's own file.
                waiting += modules if len(modules) == len(inner) else [*modules, str(node.module)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.startswith(f"{package}.")]
    return found


@functools.cache
def _source(module: str) -> bytes:
    """Contents of a module's file; empty if there is no such module or it has none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # the parent is no package; a module like __main__
        return b""
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return b""
    return Path(spec.origin).read_bytes()
