"""Codec names and magic bytes -> codec classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import PurePath
from typing import Any, cast

from codec_wrappers.base import Availability, Codec
from codec_wrappers.errors import UnknownCodecError


class CodecRegistry:
    """An ordered set of codec classes with unique names; earlier classes match bytes first."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Codec]] = {}

    def __iter__(self) -> Iterator[type[Codec]]:
        return iter(self._classes.values())

    def add(self, codec_class: type[Codec]) -> None:
        """Registers a class under its ``name``.

        Raises:
            ValueError: If the name is taken; the registry is unchanged then.
        """
        if codec_class.name in self._classes:
            raise ValueError(f"codec {codec_class.name!r} is already registered")
        self._classes[codec_class.name] = codec_class

    def names(self) -> tuple[str, ...]:
        return tuple(self._classes)

    def codec_class(self, name: str) -> type[Codec]:
        """The class registered as ``name``.

        Raises:
            UnknownCodecError: If there is none; the message lists the known names.
        """
        try:
            return self._classes[name]
        except KeyError:
            raise UnknownCodecError(f"unknown codec {name!r}; known: {', '.join(self._classes)}") from None

    def create(self, name: str, **options: Any) -> Codec:
        """An instance of the codec ``name`` with encoder options; ``name:preset`` names the option ``preset`` too.

        Raises:
            UnknownCodecError: If no codec has this name.
            ValueError: If an option or its value is not known to the codec.
        """
        name, colon, preset = name.partition(":")
        if colon:
            options = {"preset": preset, **options}
        codec_class = self.codec_class(name)
        known = [field.name for field in fields(cast(Any, codec_class))]
        for option in options:
            if option not in known:
                raise ValueError(f"codec {name!r} has no option {option!r}; options: {', '.join(known)}")
        return codec_class(**options)

    def identify(self, head: bytes) -> str:
        """Name of the codec that reads a bitstream beginning with ``head`` (64 bytes suffice).

        Raises:
            UnknownCodecError: If no codec recognises it.
        """
        if not head:
            raise UnknownCodecError("the bitstream is empty")
        for codec_class in self:
            if codec_class.matches(head):
                return codec_class.name
        raise UnknownCodecError(f"no codec recognises a bitstream that begins with {head[:8].hex(' ')}")

    def by_suffix(self, path: str | PurePath) -> str:
        """Name of the codec that writes files with the suffix of ``path``, ignoring case.

        Raises:
            UnknownCodecError: If there is none; the message lists the known suffixes.
        """
        suffix = PurePath(path).suffix.lower()
        for codec_class in self:
            if suffix in codec_class.suffixes:
                return codec_class.name
        known = ", ".join(s for c in self for s in c.suffixes)
        raise UnknownCodecError(f"no codec writes {suffix or 'files without suffix'}; known: {known}")

    def availability(self) -> dict[str, tuple[Availability, ...]]:
        """What works on this machine, codec by codec."""
        return {codec_class.name: codec_class.availability() for codec_class in self}
