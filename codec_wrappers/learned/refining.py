"""How refiners, which live in ``enhancer.refiners``, come to the learned codecs.

A refiner changes what a model's synthesis ``g_s`` makes of the decoded latents: never the encoder, never the streams.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, cast

from codec_wrappers.errors import CodecUnavailableError
from codec_wrappers.learned.container import DIGEST_BYTES, RefinerTag


class LoadedRefiner(Protocol):
    """A refiner with its weights, as ``enhancer.refiners.load_refiner(name_or_path)`` returns it.

    Attributes:
        name: Short name (letters, digits, ``-_.:``), stored in files.
        sha256: Hexadecimal SHA-256 of its file.
        base: Hexadecimal SHA-256 of the weights file of the model that it was trained on.
    """

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def base(self) -> str: ...

    def attached(self, model: Any) -> AbstractContextManager[Any]:
        """A context within which ``model`` decodes refined; contexts may be nested."""
        ...


def tag(refiner: LoadedRefiner) -> RefinerTag:
    """What a file says of ``refiner``."""
    return RefinerTag(refiner.name, bytes.fromhex(refiner.sha256)[:DIGEST_BYTES])


def load_refiners(names: Sequence[str]) -> tuple[LoadedRefiner, ...]:
    """Refiners by name or path.

    Raises:
        CodecUnavailableError: If the package that holds refiners is not installed.
        EnhancerError: If there is no such refiner, or it is damaged.
    """
    if not names:
        return ()
    try:
        # By name: this package stays below ``enhancer`` and works without it.
        load = importlib.import_module("enhancer.refiners").load_refiner
    except (ImportError, AttributeError) as error:
        raise CodecUnavailableError(f"refiners need the package enhancer: {error}") from error
    return tuple(cast(LoadedRefiner, load(name)) for name in names)


def wanted_refiners(tags: Sequence[RefinerTag], names: Sequence[str]) -> tuple[LoadedRefiner, ...]:
    """The refiners that a file asks for, among those that the user named, else by their own names.

    Raises:
        CodecUnavailableError: If one of them is not to be had with that very hash.
    """
    if not tags:
        return ()
    here = {tag(refiner): refiner for refiner in load_refiners(names or [tag.name for tag in tags])}
    for wanted in tags:
        if wanted not in here:
            raise CodecUnavailableError(
                f"the file asks for refiner {wanted.name} with SHA-256 {wanted.digest.hex()}…, which is not here"
            )
    return tuple(here[wanted] for wanted in tags)


@contextmanager
def refined(model: Any, refiners: Sequence[LoadedRefiner], base: str) -> Iterator[None]:
    """Attaches ``refiners`` to ``model``, whose weights file has the SHA-256 ``base``, for the time of the context.

    Raises:
        CodecUnavailableError: If a refiner was trained on other weights.
    """
    for refiner in refiners:
        if refiner.base != base:
            raise CodecUnavailableError(
                f"refiner {refiner.name} belongs to weights {refiner.base[:16]}…, not to {base[:16]}…"
            )
    with ExitStack() as stack:
        for refiner in refiners:
            stack.enter_context(refiner.attached(model))
        yield
