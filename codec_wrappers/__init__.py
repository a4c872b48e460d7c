"""Real picture codecs behind one protocol, and rate control for them. Only the learned ones use torch."""

from __future__ import annotations

from typing import Any

from codec_wrappers.base import (
    Availability,
    Chroma,
    Codec,
    CodingInfo,
    Decoded,
    Image,
    Metadata,
    QpRange,
    bits_per_pixel,
)
from codec_wrappers.bpg import BpgCodec
from codec_wrappers.heif_codecs import AvifCodec, HeicCodec
from codec_wrappers.jpeg2000 import Jpeg2000Codec
from codec_wrappers.learned.codec import LearnedCodec, MshCodec, MshSfCodec, VraeCodec
from codec_wrappers.pillow_codecs import JpegCodec, WebpCodec
from codec_wrappers.registry import CodecRegistry
from codec_wrappers.vvc import VvcCodec

REGISTRY = CodecRegistry()
REGISTRY.add(BpgCodec)
REGISTRY.add(VvcCodec)
REGISTRY.add(JpegCodec)
REGISTRY.add(WebpCodec)
REGISTRY.add(AvifCodec)
REGISTRY.add(HeicCodec)
REGISTRY.add(Jpeg2000Codec)
REGISTRY.add(MshCodec)
REGISTRY.add(VraeCodec)
REGISTRY.add(MshSfCodec)
REGISTRY.add(LearnedCodec)


def get_codec(name: str, **options: Any) -> Codec:
    """An instance of the codec ``name``; see :meth:`CodecRegistry.create`."""
    return REGISTRY.create(name, **options)


def codec_names() -> tuple[str, ...]:
    """All registered names."""
    return REGISTRY.names()


def identify(bitstream: bytes) -> str:
    """Name of the codec that reads ``bitstream``, by magic; see :meth:`CodecRegistry.identify`."""
    return REGISTRY.identify(bitstream[:64])


def availability() -> dict[str, tuple[Availability, ...]]:
    """What works on this machine, codec by codec, with versions or reasons."""
    return REGISTRY.availability()


__all__ = [
    "REGISTRY",
    "Availability",
    "Chroma",
    "Codec",
    "CodingInfo",
    "Decoded",
    "Image",
    "Metadata",
    "QpRange",
    "availability",
    "bits_per_pixel",
    "codec_names",
    "get_codec",
    "identify",
]
