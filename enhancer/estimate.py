"""Codec, qp and chroma format of a decoded picture, estimated from its pixels alone.

Statistics of the picture (:func:`enhancer.traces.traces`) go through a few small networks of fully
connected layers, whose answers are averaged. No torch is needed: an estimate takes some tens of
milliseconds a window, of which even the largest picture has four.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import load as load_tensors

from enhancer.errors import CheckpointError
from enhancer.traces import JPEG_TRACES, MIN_SIDE, TRACES, Floats, Pixels, traces

PRISTINE = "pristine"
CODECS = ("bpg", "vvc", "jpeg", "webp")
CLASSES = (*CODECS, PRISTINE)
"""What a picture can be judged to be: decoded from one of the codecs, or never coded."""

OUTPUTS = len(CLASSES) + len(CODECS) + 1
"""Of the networks: a score for each class, a severity for each codec, and the log odds of subsampled chroma."""

NAME = "estimate"
"""Of the weights in the manifest of the shipped checkpoints."""

WINDOW = 512
"""Largest side of a part of the picture that is looked at; of larger pictures, up to four parts are."""

RANGE = 4.0
"""Of normalised statistics; what lies further out is cut, for it was not seen in training."""

PRISTINE_ENOUGH = 0.1
"""Probability of being pristine from which on a picture is left as it is; hardly any decoded one has it."""

_PLAIN = 0.6  # standard deviation of green below which a window shows nothing
_CAUTION = 0.02  # taken off severities: one step of qp too low costs the networks next to nothing (some of the gain
# where corrections fade), one too high 0.03 dB
_ALWAYS_SUBSAMPLED = ("vvc", "webp")  # in training
_SURE_OF_CHROMA = 0.8  # probability from which on a chroma format is named
_GOOD_FIT = 0.2  # of JPEG's tables, from which on they say the quality better than the networks


@dataclass(frozen=True)
class Estimate:
    """What a picture seems to have been through.

    Attributes:
        codec: Name of the codec; None if the picture may never have been coded, or says too little.
        qp: Its quality index, as :class:`codec_wrappers.CodingInfo` would report it; None if unknown.
        confidence: Probability of this codec (or of being pristine) by the estimate's own account, 0..1.
        pristine: Whether the picture may never have been coded: it is best left as it is. A small
            probability is enough, for a network harms an original more than it helps a decoded picture.
        chroma: Its chroma format: ``420``, ``444`` or, of a gray picture, ``400``; None if that is unknown.
    """

    codec: str | None
    qp: float | None
    confidence: float
    pristine: bool = False
    chroma: str | None = None

    UNKNOWN: ClassVar[Estimate]


Estimate.UNKNOWN = Estimate(None, None, 0.0)


def estimate_condition(image: npt.NDArray[Any], codec: str | None = None) -> Estimate:
    """Estimates codec, qp and chroma format of a decoded picture; the same picture always gives the same answer.

    Pictures may be crops that left the codec's grid. Those that were scaled, filtered or coded twice
    are judged by the last step that left traces, if at all.

    Args:
        image: ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8, uint16 or floating point in [0, 1].
        codec: The codec, if it is known: then only qp and chroma format are estimated, with confidence 1.

    Returns:
        The estimate; an unknown codec (or qp and chroma format) if the picture is smaller than 48 pixels on a side or
        shows nothing but plain colour, or ``codec`` is none that estimates are trained for.

    Raises:
        CheckpointError: If the weights are missing or damaged.
        ValueError: If ``image`` is not such a picture.
    """
    if codec is not None and codec not in CODECS:
        return Estimate(codec, None, 1.0)
    windows = [window for window in _windows(_colours(image)) if _shows_something(window)]
    if not windows:
        return Estimate.UNKNOWN if codec is None else Estimate(codec, None, 1.0)
    table = np.stack([traces(window) for window in windows])
    logarithms, severities, subsampled = _shipped_weights().run(table)
    probabilities = np.exp(logarithms.mean(axis=0))
    probabilities /= probabilities.sum()
    pristine = round(float(probabilities[CLASSES.index(PRISTINE)]), 4)
    if codec is None and pristine >= PRISTINE_ENOUGH:
        return Estimate(None, None, pristine, pristine=True)
    best = int(probabilities[: len(CODECS)].argmax())
    name = codec or CODECS[best]
    chroma = _chroma(name, windows, float(subsampled.mean()))
    confidence = 1.0 if codec else round(float(probabilities[best]), 4)
    return Estimate(name, _qp(name, severities, table), confidence, chroma=chroma)


def is_gray(image: npt.NDArray[Any]) -> bool:
    """Whether the three colours of a picture ``(H, W, 3)`` are equal everywhere."""
    return bool((image == image[..., :1]).all())


def _chroma(codec: str, windows: Sequence[Pixels], score: float) -> str | None:
    """The chroma format by the log odds that chroma was subsampled, if the networks know this codec's pictures so."""
    limit = np.log(_SURE_OF_CHROMA / (1 - _SURE_OF_CHROMA))
    gray = all(is_gray(window) for window in windows)
    if score >= limit and not gray:
        return "420"
    if codec in _ALWAYS_SUBSAMPLED:
        return None
    return "400" if gray else "444" if score <= -limit else None


def _qp(codec: str, severities: Floats, table: Floats) -> float:
    """The qp of the median severity over all windows, a little on the safe side, in whole steps."""
    from enhancer.condition import QP_SCALES

    severity = severities[:, CODECS.index(codec)] - _CAUTION
    if codec == "jpeg":
        fits, by_tables, _ = table[:, JPEG_TRACES].T
        severity = by_tables[fits >= _GOOD_FIT] if (fits >= _GOOD_FIT).any() else severity
    best, worst = QP_SCALES[codec]
    return float(round(best + (worst - best) * min(max(float(np.median(severity)), 0.0), 1.0)))


def _colours(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A picture without alpha, ``(H, W, 3)``; gray is repeated."""
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))) or 0 in image.shape:
        raise ValueError(f"image must be (H, W), (H, W, 3) or (H, W, 4) and not empty, got shape {image.shape}")
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise ValueError(f"image must be uint8, uint16 or floating point, got {image.dtype}")
    return np.broadcast_to(image[..., None], (*image.shape, 3)) if image.ndim == 2 else image[..., :3]


def _windows(image: npt.NDArray[Any]) -> Iterator[Pixels]:
    """Up to two windows along each side, evenly spread: all of a picture that fits into them."""
    for top, left in product(*(_starts(length) for length in image.shape[:2])):
        window = image[top : top + WINDOW, left : left + WINDOW]
        if min(window.shape[:2]) >= MIN_SIDE:
            yield _to_8_bits(window)


def _starts(length: int) -> Sequence[int]:
    """Where windows begin: 0 if one is enough, else so that they lie in the middles of the two halves."""
    if length <= WINDOW:
        return (0,)
    return tuple(max(0, min(round(share * length) - WINDOW // 2, length - WINDOW)) for share in (0.25, 0.75))


def _to_8_bits(window: npt.NDArray[Any]) -> Pixels:
    if window.dtype == np.uint8:
        return np.ascontiguousarray(window)
    peak = 65535 if window.dtype == np.uint16 else 1
    return np.rint(window * np.float32(255 / peak)).astype(np.uint8)


def _shows_something(window: Pixels) -> bool:
    return float(window[..., 1].std()) >= _PLAIN


@dataclass(frozen=True)
class Weights:
    """Networks of three layers with one input normalisation; each axis 0 of the layers counts networks.

    Attributes:
        mean: Of the statistics.
        scale: 1 / standard deviation.
        layers: Weights ``(networks, inputs, outputs)`` and biases ``(networks, 1, outputs)`` of each layer.
        sha256: Of the file.
    """

    mean: Floats
    scale: Floats
    layers: tuple[tuple[Floats, Floats], ...]
    sha256: str

    def run(self, statistics: Floats) -> tuple[Floats, Floats, Floats]:
        """Per row of ``statistics``: log probability of each class, severity for each codec, and log odds of 4:2:0."""
        x = np.clip((statistics - self.mean) * self.scale, -RANGE, RANGE)[None]
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight + bias, 0)
        weight, bias = self.layers[-1]
        y = (x @ weight + bias).mean(axis=0)  # (rows, OUTPUTS)
        scores = y[:, : len(CLASSES)]
        scores = scores - scores.max(axis=1, keepdims=True)
        logarithms = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return logarithms, y[:, len(CLASSES) : -1], y[:, -1]


def load_weights(data: bytes, origin: str) -> Weights:
    """The weights in a safetensors file.

    Raises:
        CheckpointError: If it is damaged or does not fit this version of the package.
    """
    try:
        tensors = load_tensors(data)
        layers = tuple((tensors[f"{i}.weight"], tensors[f"{i}.bias"]) for i in range(3))
        weights = Weights(tensors["mean"], tensors["scale"], layers, hashlib.sha256(data).hexdigest())
        if weights.run(np.zeros((1, TRACES), np.float32))[1].shape != (1, len(CODECS)):
            raise ValueError("another number of outputs")
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{origin} holds no weights of the estimate of codec and qp") from error
    return weights


def shipped_sha256() -> str:
    """SHA-256 of the shipped weights, which decide every estimate.

    Raises:
        CheckpointError: If they are missing or damaged.
    """
    return _shipped_weights().sha256


@lru_cache(maxsize=1)
def _shipped_weights() -> Weights:
    from enhancer.checkpoint import MANIFEST, checkpoint_folder

    folder = checkpoint_folder()
    try:
        entry = tomllib.loads((folder / MANIFEST).read_text())[NAME]
        path = folder / entry["file"]
        data = path.read_bytes()
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the weights of the estimate of codec and qp are missing in {folder}") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")
    return load_weights(data, str(path))
