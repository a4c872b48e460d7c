"""How refiners, which live in ``enhancer.refiners``, come to the learned codecs.

A refiner changes what a model's synthesis ``g_s`` makes of the decoded latents: never the encoder, never the streams.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from codec_wrappers.errors import CodecUnavailableError
from codec_wrappers.learned.container import DIGEST_BYTES, RefinerTag
from codec_wrappers.learned.weights import find_weights

REFINER = "refiner"
"""``model`` of shipped refiners in the manifest of weights."""


class LoadedRefiners(Protocol):
    """What ``enhancer.refiners.load_refiners(path)`` returns: refiners that work together.

    Attributes:
        sha256: Of their file, hexadecimal.
    """

    @property
    def sha256(self) -> str: ...

    def attach(self, model: Any) -> AbstractContextManager[Any]:
        """A context within which ``model`` decodes refined; fails on a model other than their own."""
        ...


def named_refiners(name: str, weights: str) -> tuple[RefinerTag, LoadedRefiners]:
    """Refiners by name or by path, and what a file says of them.

    Args:
        name: Of shipped refiners; or of their kind, such as ``pixel``: those shipped for ``weights`` then; or a path.
        weights: Name of the codec's weights: refiners of kind K for ``learned-X`` are ``refiner-X-K``.

    Raises:
        CodecUnavailableError: If there are none, or the package that holds refiners is not installed.
        EnhancerError: If the file is damaged or holds none.
        OSError: If it cannot be read.
    """
    path = refiners_path(name, weights)
    try:
        # By name: this package stays below ``enhancer`` and works without it.
        load = importlib.import_module("enhancer.refiners").load_refiners
    except ImportError as error:
        raise CodecUnavailableError(f"refiners need the package enhancer: {error}") from error
    loaded = cast(LoadedRefiners, load(path))
    return RefinerTag(path.stem, bytes.fromhex(loaded.sha256)[:DIGEST_BYTES]), loaded


def refiners_path(name: str, weights: str) -> Path:
    """File of the refiners that :func:`named_refiners` gives.

    Raises:
        CodecUnavailableError: If there is none.
    """
    shipped = {entry.name: entry.path for entry in find_weights(REFINER, "")}
    of_kind = f"{REFINER}-{weights.removeprefix('learned-')}-{name}"
    path = shipped.get(name) or shipped.get(of_kind) or Path(name)
    if not path.is_file():
        raise CodecUnavailableError(f"no refiners {name} are shipped for {weights}, and there is no such file")
    return path


def wanted_refiners(tags: Sequence[RefinerTag], name: str, weights: str) -> tuple[LoadedRefiners, ...]:
    """The refiners that a file of ``weights`` asks for: those of ``name`` if given, else shipped ones of its names.

    Raises:
        CodecUnavailableError: If they are not to be had with that very hash.
    """
    found = []
    for tag in tags:
        missing = f"the file asks for refiners {tag.name} with SHA-256 {tag.digest.hex()}…"
        if not name and tag.name not in {entry.name for entry in find_weights(REFINER, "")}:
            raise CodecUnavailableError(f"{missing}, which are not shipped; the option refiners names a file")
        here, loaded = named_refiners(name or tag.name, weights)
        if here.digest != tag.digest:
            raise CodecUnavailableError(f"{missing}, but {name or tag.name} has {here.digest.hex()}…")
        found.append(loaded)
    return tuple(found)


@contextmanager
def refined(model: Any, refiners: Sequence[LoadedRefiners]) -> Iterator[None]:
    """Attaches ``refiners`` to ``model`` for the time of the context."""
    with ExitStack() as stack:
        for loaded in refiners:
            stack.enter_context(loaded.attach(model))
        yield
