"""The learned codecs behind the codec protocol: ``msh``, ``vrae``, ``msh-sf``, and CompressAI's zoo.

Torch and the models are imported by the first picture. Metadata are not stored.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Self

from codec_wrappers.base import (
    DEFAULT_MAX_PIXELS,
    NO_METADATA,
    Availability,
    Chroma,
    CodingInfo,
    Decoded,
    FineKnob,
    Image,
    Metadata,
    QpRange,
    check_image,
    check_pixels,
)
from codec_wrappers.errors import BitstreamError, CodecUnavailableError
from codec_wrappers.learned.container import NEUTRAL_STEP, LearnedFile, model_of, read_file, write_file
from codec_wrappers.learned.loader import REMEDY, compressai_version, missing_modules
from codec_wrappers.learned.refining import LoadedRefiners, named_refiners, refined, refiners_path, wanted_refiners
from codec_wrappers.learned.weights import WeightsError, WeightsFile, by_digest, find_weights

_CONTINUOUS = QpRange(0, 255, rate_rises=True)


class _QpsOfWeights:
    """``qp_range`` of a codec that has one weights file a quality; read from the class it means the shipped ones."""

    def __get__(self, codec: _HyperpriorCodec | None, owner: type[_HyperpriorCodec]) -> QpRange:
        return QpRange(1, max(1, len(find_weights(owner.name, codec.weights if codec else ""))), rate_rises=True)


class _QpOfPreset:
    """``qp_range`` of :class:`LearnedCodec`: the one quality that its preset names."""

    def __get__(self, codec: LearnedCodec | None, owner: type[LearnedCodec]) -> QpRange:
        quality = codec.quality if codec else None
        return QpRange(1, 8, rate_rises=True) if quality is None else QpRange(quality, quality, rate_rises=True)


@dataclass(frozen=True)
class _Base:
    """What all learned codecs share.

    Attributes:
        weights: A weights file, or a folder of them with a manifest; empty means the shipped ones.
        refiners: Name of shipped refiners, their kind (``pixel``: those shipped for the weights of the quality), or
            path of a refiners' file: encoding notes it in the file, decoding takes it for files that ask for
            refiners (else those of the file's names that are shipped).
        max_pixels: Larger pictures are refused when decoding.
    """

    weights: str = ""
    refiners: str = ""
    max_pixels: int = DEFAULT_MAX_PIXELS

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    qp_range: ClassVar[QpRange]
    fine_knob: ClassVar[FineKnob | None] = None

    @classmethod
    def matches(cls, head: bytes) -> bool:
        """Whether ``head`` begins a file of this codec."""
        return model_of(head) == cls.name

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        if missing := missing_modules():
            return (Availability("torch", False, f"needs {', '.join(missing)}; {REMEDY}"),)
        return (cls._weights_availability(f"CompressAI {compressai_version()}, torch {_version('torch')}"),)

    @classmethod
    @abstractmethod
    def _weights_availability(cls, versions: str) -> Availability: ...

    @abstractmethod
    def _weights_for(self, qp: int) -> WeightsFile: ...

    @abstractmethod
    def _weights_of(self, file: LearnedFile) -> WeightsFile: ...

    def _model(self, weights: WeightsFile, _name: str) -> Any:
        from codec_wrappers.learned.storage import load_model

        return load_model(weights)

    def _model_name(self) -> str:
        return self.name

    def _fine(self) -> int:
        return NEUTRAL_STEP

    def _control(self, file: LearnedFile) -> float:
        """What the model's ``set_quality`` is told."""
        return file.quality / self.qp_range.high

    def probe(self) -> Self:
        return self

    @abstractmethod
    def fingerprint(self) -> str:
        """Hashes of weights and refiners: they decide the files as much as the options do; cached ones are theirs."""

    def _hashes(self, files: Sequence[WeightsFile]) -> str:
        """Of weights, and of their refiners where there are any."""
        hashes = [file.sha256 for file in files]
        for file in files if self.refiners else ():
            with suppress(CodecUnavailableError):  # of a kind that is not shipped for every quality
                hashes.append(hashlib.sha256(refiners_path(self.refiners, file.name).read_bytes()).hexdigest())
        return " ".join(hashes)

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:  # noqa: ARG002 - see the module
        """The file of ``image``: gray or RGB, 8 or 16 bits; metadata are not stored.

        Raises:
            ValueError: If ``qp`` or the picture is not supported.
            CodecUnavailableError: If a package or the weights are missing.
            WeightsError: If the weights are damaged.
            EnhancerError: If the refiners are damaged, or were trained on other weights than those of ``qp``.
        """
        self.qp_range.check(qp)
        check_image(image, channels=(1, 3), depths=(8, 16))
        _check_packages()
        weights = self._weights_for(qp)
        from codec_wrappers.learned.coding import LOCK

        named = (named_refiners(self.refiners, weights.name),) if self.refiners else ()
        model = self._model(weights, self._model_name())
        with LOCK, refined(model, [loaded for _, loaded in named]):
            pass  # no decoder would take a file that asks for refiners of other weights
        file = LearnedFile(
            model=self._model_name(),
            weights=weights.digest,
            quality=int(qp),
            width=image.shape[1],
            height=image.shape[0],
            streams=(),
            fine=self._fine(),
            gray=image.ndim == 2,
            bit_depth=8 * image.dtype.itemsize,
            refiners=tuple(tag for tag, _ in named),
        )
        return _encoded(model, image, file, self._control(file))

    def decode(self, bitstream: bytes, *, refiners: Sequence[LoadedRefiners] | None = None) -> Decoded:
        """The picture, in the depth that was coded.

        Args:
            bitstream: The whole file.
            refiners: Applied instead of those that the file asks for; empty gives the plain picture.

        Raises:
            BitstreamError: If the file is damaged, or too large for ``max_pixels``.
            CodecUnavailableError: If a package, the weights or a refiner that the file asks for is missing.
        """
        file = read_file(bitstream)
        if not self.matches(bitstream[:64]):
            raise BitstreamError(f"this is a file of {file.model}, not of {self.name}")
        check_pixels(file.width, file.height, self.max_pixels)
        _check_packages()
        weights = self._weights_of(file)
        if refiners is None:
            refiners = wanted_refiners(file.refiners, self.refiners, weights.name)
        model = self._model(weights, file.model)
        image = _decoded(model, file, self._control(file), refiners)
        chroma: Chroma = "400" if file.gray else "444"
        return Decoded(image, CodingInfo(self.name, file.quality, chroma, file.bit_depth))


@dataclass(frozen=True)
class _HyperpriorCodec(_Base):
    """A codec whose weights this package trains."""

    one_network: ClassVar[bool] = True

    @classmethod
    def _weights_availability(cls, versions: str) -> Availability:
        try:
            found = find_weights(cls.name, "")
        except WeightsError as error:
            return Availability("torch", False, str(error))
        if not found:
            return Availability(
                "torch", False, "no weights are shipped; train some, or name some by the option weights"
            )
        names = ", ".join(f"{entry.name} {entry.sha256[:8]}" for entry in found)
        return Availability("torch", True, f"{versions}, {names}")

    def fingerprint(self) -> str:
        return self._hashes(find_weights(self.name, self.weights))

    def _weights_for(self, qp: int) -> WeightsFile:
        if not (found := find_weights(self.name, self.weights)):
            raise CodecUnavailableError(f"no weights of {self.name} are here; the option weights names some")
        return found[-1 if self.one_network else qp - 1]

    def _weights_of(self, file: LearnedFile) -> WeightsFile:
        return by_digest(find_weights(self.name, self.weights), file.weights, self.name)


@dataclass(frozen=True)
class MshCodec(_HyperpriorCodec):
    """Mean-scale hyperprior, one network a quality.

    Attributes:
        step: Divides the latents: rates beside the trained ones. 0.5 to 2, stored to 0.5 %.
    """

    step: float = 1.0

    name: ClassVar[str] = "msh"
    suffixes: ClassVar[tuple[str, ...]] = (".msh",)
    qp_range: ClassVar[QpRange] = _QpsOfWeights()  # type: ignore[assignment] # gives a QpRange when it is read
    fine_knob: ClassVar[FineKnob | None] = FineKnob("step", 0.7, 1.5)
    one_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.step < 2:
            raise ValueError(f"step must be at least 0.5 and less than 2, got {self.step}")

    def _fine(self) -> int:
        return min(NEUTRAL_STEP + round(128 * math.log2(self.step)), 255)

    def _control(self, file: LearnedFile) -> float:
        return file.step


@dataclass(frozen=True)
class VraeCodec(_HyperpriorCodec):
    """Modulated autoencoder: one network, any rate; qp 0 to 255 is linear in the logarithm of lambda."""

    name: ClassVar[str] = "vrae"
    suffixes: ClassVar[tuple[str, ...]] = (".vrae",)
    qp_range: ClassVar[QpRange] = _CONTINUOUS


@dataclass(frozen=True)
class MshSfCodec(_HyperpriorCodec):
    """One mean-scale hyperprior with scaling factors; qp 0 to 255 spans its gain vectors evenly."""

    name: ClassVar[str] = "msh-sf"
    suffixes: ClassVar[tuple[str, ...]] = (".mshsf",)
    qp_range: ClassVar[QpRange] = _CONTINUOUS


@dataclass(frozen=True)
class LearnedCodec(_Base):
    """Any image model of CompressAI's zoo, with weights from a local file.

    Attributes:
        preset: Architecture and quality, e.g. ``cheng2020-anchor:3``; decoding reads it from the file. The
            quality only names what the weights were trained for.
        weights: The weights, as the zoo distributes them (``.pth.tar``) or as safetensors. Needed.
    """

    preset: str = ""

    name: ClassVar[str] = "learned"
    suffixes: ClassVar[tuple[str, ...]] = (".lic",)
    qp_range: ClassVar[QpRange] = _QpOfPreset()  # type: ignore[assignment] # gives a QpRange when it is read

    def __post_init__(self) -> None:
        _, colon, quality = self.preset.partition(":")
        if colon and not (quality.isascii() and quality.isdecimal() and 1 <= int(quality) <= 8):
            raise ValueError(f"the quality of a zoo model is 1 to 8, got {self.preset!r}")

    @property
    def quality(self) -> int | None:
        """The quality that the preset names, if it does."""
        quality = self.preset.partition(":")[2]
        return int(quality) if quality else None

    @classmethod
    def matches(cls, head: bytes) -> bool:
        return (model_of(head) or "").startswith("learned:")

    @classmethod
    def _weights_availability(cls, versions: str) -> Availability:
        return Availability("torch", True, f"{versions}; zoo models, weights from a file (option weights)")

    def _model_name(self) -> str:
        return f"learned:{self.preset.partition(':')[0]}"

    def fingerprint(self) -> str:
        return self._hashes((self._weights_for(1),))

    def _weights_for(self, _qp: int) -> WeightsFile:
        if not self.preset:
            raise ValueError("name the zoo model, e.g. learned:cheng2020-anchor:3")
        if not self.weights:
            raise CodecUnavailableError("zoo models need the option weights=FILE; nothing is downloaded")
        path = Path(self.weights)
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
        return WeightsFile(path.name, path, self._model_name(), (), sha256)

    def _weights_of(self, file: LearnedFile) -> WeightsFile:
        named = LearnedCodec(weights=self.weights, preset=file.model.partition(":")[2])
        return by_digest((named._weights_for(1),), file.weights, file.model)

    def _model(self, weights: WeightsFile, name: str) -> Any:
        from codec_wrappers.learned.storage import load_zoo_model

        return load_zoo_model(name.partition(":")[2], weights)

    def _control(self, _file: LearnedFile) -> float:
        return 1.0


def _check_packages() -> None:
    if missing := missing_modules():
        raise CodecUnavailableError(f"learned codecs need {', '.join(missing)}; {REMEDY}")


def _encoded(model: Any, image: Image, file: LearnedFile, control: float) -> bytes:
    from codec_wrappers.learned.coding import compress

    coded = compress(model, image, control)
    return write_file(replace(file, streams=coded.streams, check=coded.check))


def _decoded(model: Any, file: LearnedFile, control: float, refiners: Sequence[LoadedRefiners]) -> Image:
    from codec_wrappers.learned.coding import LOCK, Streams, decompress, to_image

    with LOCK, refined(model, refiners):
        x = decompress(model, Streams(file.streams, file.check), control, file.width, file.height)
    return to_image(x, gray=file.gray, bit_depth=file.bit_depth)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
