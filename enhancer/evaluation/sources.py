"""Where decoded pictures come from: a codec that is run now, or folders of pictures decoded elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, cast

import numpy as np

from codec_wrappers import Codec, CodingInfo, Decoded, Image, codec_names, get_codec
from codec_wrappers.base import nothing_finer
from codec_wrappers.encode_cache import EncodeCache, code_sha256, encode_key, encoder_versions
from codec_wrappers.errors import CodecError
from enhancer.errors import ImageError
from enhancer.evaluation.external_codec import ExternalCodec
from enhancer.evaluation.pictures import Original, find_pictures, load_image

_QPS = re.compile(r"(?P<body>.*)@(?P<qps>-?\d+(?:,-?\d+)*)", re.DOTALL)
_LABEL = re.compile(r"(?P<label>[^=@\[\]]+)=(?P<body>.*)", re.DOTALL)


@dataclass(frozen=True)
class Coded:
    """One picture as it comes back from a codec.

    Attributes:
        image: Decoded picture, of the original's shape and type.
        byte_count: Size of the bitstream; None when it is not known.
        bitstream_sha256: Hash of the bitstream; None when there is none.
        codec: Name of the codec for the enhancement; None when it is not known.
        info: What the bitstream says; None when there is none.
        seconds: Time to encode (None from the cache) and to decode.
        unrounded: As of :class:`codec_wrappers.Decoded`, for ``image``.
    """

    image: Image
    byte_count: int | None
    bitstream_sha256: str | None
    codec: str | None
    info: CodingInfo | None
    seconds: dict[str, float | None]
    unrounded: Callable[[], Image | None] = nothing_finer


class Source(Protocol):
    """Something that yields a decoded picture for an original and an operating point."""

    @property
    def label(self) -> str: ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides the pictures, ready for JSON."""
        ...

    def qps(self, common: tuple[int, ...]) -> tuple[int, ...]:
        """The operating points to measure, given the ones that were asked for all sources."""
        ...

    def produce(self, original: Original, image: Image, qp: int, cache: EncodeCache | None) -> Coded: ...


@dataclass(frozen=True)
class CodecSource:
    """Encodes and decodes with a codec.

    Attributes:
        label: Name in tables and legends.
        codec: Encoder with its options.
        own_qps: Operating points of this codec alone; empty to take the common ones.
    """

    label: str
    codec: Codec
    own_qps: tuple[int, ...] = ()

    def identity(self) -> dict[str, Any]:
        codec: object = self.codec
        return {
            "kind": "codec",
            "codec": self.codec.name,
            "options": asdict(self.codec),  # type: ignore[call-overload]  # codecs are dataclasses
            "encoder": codec.fingerprint() if isinstance(codec, ExternalCodec) else encoder_versions(type(self.codec)),
            "code": code_sha256(type(self.codec)),
        }

    def qps(self, common: tuple[int, ...]) -> tuple[int, ...]:
        chosen = self.own_qps or common
        if not chosen:
            raise ValueError(f"no qps for {self.label}: give --qps, or append @22,27,32,37 to the codec")
        for qp in chosen:
            try:
                self.codec.qp_range.check(qp)
            except ValueError as error:
                raise ValueError(f"{self.label}: {error}") from error
        return tuple(dict.fromkeys(chosen))

    def produce(self, original: Original, image: Image, qp: int, cache: EncodeCache | None) -> Coded:
        if isinstance(self.codec, ExternalCodec):
            cache = None  # The cache cannot know when such a program changes.
        key = encode_key(self.codec, image, qp) if cache else ""
        bitstream = cache.load(key) if cache else None
        encode_s = None
        if bitstream is None:
            started = perf_counter()
            bitstream = self.codec.encode(image, qp)
            encode_s = perf_counter() - started
            if cache:
                cache.store(key, bitstream)
        started = perf_counter()
        decoded = self.codec.decode(bitstream)
        decode_s = perf_counter() - started
        known = None if isinstance(self.codec, ExternalCodec) else decoded.info
        return Coded(
            image=conform(decoded.image, image, f"{self.label} at qp {qp} of {original.name}"),
            byte_count=len(bitstream),
            bitstream_sha256=sha256(bitstream),
            codec=known.codec if known else None,
            info=known,
            seconds={"encode": encode_s, "decode": decode_s},
            unrounded=_finer(decoded, image),
        )


@dataclass(frozen=True)
class FolderSource:
    """Pictures that were decoded elsewhere, one folder an operating point, named like the originals.

    Attributes:
        label: Name in tables and legends.
        folders: Decoded pictures; the operating points are numbered 0, 1, … in this order.
        bitstreams: Folders of the bitstreams in the same order, for the rate; empty when it is not known.
    """

    label: str
    folders: tuple[Path, ...]
    bitstreams: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.bitstreams and len(self.bitstreams) != len(self.folders):
            raise ValueError(
                f"{len(self.folders)} folders of decoded pictures but {len(self.bitstreams)} of bitstreams"
            )

    def check(self, originals: tuple[Original, ...]) -> None:
        """Raises ``ImageError`` unless every folder has exactly one picture for each original."""
        stems = {original.stem for original in originals}
        for folder in self.folders:
            found = {path.stem for path in find_pictures(folder)}
            if missing := sorted(stems - found):
                raise ImageError(f"{folder} lacks {len(missing)} of {len(stems)} pictures, e.g. {missing[0]}")
            if extra := sorted(found - stems):
                raise ImageError(f"{folder} has {len(extra)} pictures without an original, e.g. {extra[0]}")
        for folder in self.bitstreams:
            for stem in sorted(stems):
                self._bitstream(folder, stem)

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "decoded folders",
            "pictures": [{p.stem: sha256(p.read_bytes()) for p in find_pictures(f)} for f in self.folders],
        }

    def qps(self, common: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ARG002  # folders are their own points
        return tuple(range(len(self.folders)))

    def produce(self, original: Original, image: Image, qp: int, cache: EncodeCache | None) -> Coded:  # noqa: ARG002  # nothing to cache
        path = next(p for p in find_pictures(self.folders[qp]) if p.stem == original.stem)
        data = self._bitstream(self.bitstreams[qp], original.stem).read_bytes() if self.bitstreams else None
        return Coded(
            image=conform(load_image(path), image, str(path)),
            byte_count=None if data is None else len(data),
            bitstream_sha256=None if data is None else sha256(data),
            codec=None,
            info=None,
            seconds={"encode": None, "decode": None},
        )

    @staticmethod
    def _bitstream(folder: Path, stem: str) -> Path:
        found = [path for path in sorted(folder.iterdir()) if path.stem == stem and path.is_file()]
        if len(found) != 1:
            raise ImageError(f"{folder} has {len(found)} bitstreams for {stem}, one is needed")
        return found[0]


def parse_codec(spec: str) -> CodecSource:
    """From ``[LABEL=]NAME[:OPTION,…][@QP,…]`` or ``[LABEL=]cmd:ENCODE ;; DECODE[@QP,…]``.

    An option is ``key=value``, or a bare value of ``preset``: ``bpg:tuned,chroma=444@27,32,37,42``.

    Raises:
        ValueError: If the text is not of this form, or an option is unknown.
        UnknownCodecError: If there is no such codec.
    """
    body, label = spec.strip(), None
    own_qps: tuple[int, ...] = ()
    if match := _QPS.fullmatch(body):
        body, own_qps = match["body"].strip(), tuple(int(q) for q in match["qps"].split(","))
    match = _LABEL.fullmatch(body)
    # "bpg:chroma=444" has no label, "BPG 4:4:4=bpg:chroma=444" has one.
    if match and (":" not in match["label"] or match["label"].partition(":")[0] not in (*codec_names(), "cmd")):
        label, body = match["label"].strip(), match["body"].strip()
    if re.match(r"cmd[:\[]", body):
        # Its qp_range belongs to the instance, not to the class as the protocol has it; all else fits.
        return CodecSource(label or "external", cast("Codec", ExternalCodec.parse(body)), own_qps)
    name, _, options = body.partition(":")
    codec = get_codec(name, **_options(name, options))
    return CodecSource(label or body, codec, own_qps)


def _options(name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        key, value = (key, value) if equals else ("preset", part)
        if key in options:
            raise ValueError(f"option {key!r} of codec {name!r} is given twice")
        options[key] = _value(getattr(get_codec(name), key, None), value)
    return options


def _value(default: object, text: str) -> object:
    """``text`` in the type of the option's default, as far as that tells."""
    if isinstance(default, bool):
        if text.lower() not in {"true", "false", "1", "0"}:
            raise ValueError(f"expected true or false, got {text!r}")
        return text.lower() in {"true", "1"}
    if isinstance(default, (int, float)):
        try:
            return type(default)(text)
        except ValueError:
            return float(text) if isinstance(default, int) else text
    return text


def conform(decoded: Image, original: Image, what: str) -> Image:
    """``decoded`` in the type of ``original``, rounded to it: the integers that would be written.

    A gray picture may come back as RGB with three equal channels.

    Raises:
        ImageError: If the shapes differ.
    """
    if original.ndim == 2 and decoded.ndim == 3 and np.ptp(decoded, axis=2).max() == 0:
        decoded = np.ascontiguousarray(decoded[..., 0])
    if decoded.shape != original.shape:
        sizes = " and ".join("x".join(map(str, (i.shape[1], i.shape[0], *i.shape[2:]))) for i in (decoded, original))
        raise ImageError(f"{what}: decoded and original differ in size, {sizes}")
    if decoded.dtype == original.dtype:
        return decoded
    if original.dtype == np.uint8:
        return np.round(decoded / 257.0).astype(np.uint8)
    return decoded.astype(np.uint16) * np.uint16(257)


def _finer(decoded: Decoded, original: Image) -> Callable[[], Image | None]:
    """What ``decoded`` has beyond a picture in the type of ``original``."""
    if decoded.image.shape != original.shape:
        return nothing_finer
    if decoded.image.dtype.itemsize > original.dtype.itemsize:
        return partial(np.asarray, decoded.image)
    return decoded.unrounded


def named(error: CodecError | ValueError, what: str) -> Exception:
    """``error`` with ``what`` before its message, as a type that survives the way between processes."""
    kind = CodecError if isinstance(error, CodecError) else ValueError
    return kind(f"{what}: {error}")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    import hashlib

    return hashlib.sha256(data).hexdigest()
