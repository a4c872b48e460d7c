"""(codec, qp, chroma format) -> the small vector that conditions the restoration network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

QP_SCALES: dict[str, tuple[float, float]] = {
    "bpg": (0, 51),
    "vvc": (0, 63),
    "jpeg": (100, 0),
    "jpeg2000": (600, 150),  # PSNR in tenths of a dB
    "webp": (100, 0),
    "avif": (100, 0),
    "heic": (100, 0),
}
"""Per codec, the qp of the best and of the worst quality; a severity of 0..1 lies between them."""

CODECS = tuple(QP_SCALES)

CHROMA = {"420": -1.0, "422": -0.5, "444": 1.0, "400": 1.0}
"""How the chroma format goes into the condition: what subsampling lost can be looked for; 0 is unknown."""


_FADES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "bpg": ((2, 12), (10, 18)),
    "vvc": ((9, 19), (9, 19)),
    "jpeg": ((100, 96), (99, 95)),
    "heic": ((101, 100), (90, 76)),  # with subsampled chroma none loses up to the best
    "avif": ((101, 100), (100, 92)),
}
"""Per codec, for chroma that is subsampled and for all other: the qp up to which a correction is not to be trusted at
all, and that from which on it is in full. Where validation pictures begin to lose, and where none does any more
(docs/networks.md)."""


def trust(codec: str | None, qp: float | None, chroma: str | None = None) -> float:
    """Share of a correction that is to be applied to a picture of high quality, 0..1.

    Pictures of the very best qualities have next to no errors of coding, and what a network takes for some is the
    picture's own noise: such a one is best left as it is.

    Args:
        codec: Name of the codec; None is unknown.
        qp: Its quality index as in :func:`condition_vector`; None is unknown.
        chroma: Its chroma format; an unknown one counts as not subsampled, where less can be wrong.

    Returns:
        0 for the best qualities, rising linearly to 1 for those from which on there is enough to correct, and 1
        if nothing is known.
    """
    if codec not in _FADES or qp is None:
        return 1.0
    nothing, all_of_it = _FADES[codec][0 if chroma in ("420", "422") else 1]
    return min(max((qp - nothing) / (all_of_it - nothing), 0.0), 1.0)


_STAND_INS: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    "heic": ("bpg", (0, 100), (49, -1)),  # both are HEVC; x265's slice qp, (100 - quality) / 2 - 3, and 2
    "avif": ("bpg", (0, 6, 34, 50, 100), (51, 48.8, 37.6, 29.6, 0)),  # AV1's index of the quantiser, scaled
    "jpeg2000": ("bpg", (250, 550), (51, 0)),
}
"""Per codec, the one whose pictures are most like its own, some of its qps, and those of the other for them."""


def stand_in(codec: str, qp: float | None) -> tuple[str | None, float | None]:
    """Codec and qp that say the most of a picture to a network which has seen none of ``codec``.

    Chosen by the gain on validation pictures (docs/networks.md).

    Args:
        codec: Name of the codec.
        qp: Its quality index as in :func:`condition_vector`; None is unknown.
    """
    if codec not in _STAND_INS:
        return None, None
    name, qps, others = _STAND_INS[codec]
    return name, None if qp is None else float(np.interp(qp, qps, others))


def condition_size(codecs: tuple[str, ...]) -> int:
    """Length of the condition vector: one place per codec, one for unknown, chroma, severity, known flag."""
    return len(codecs) + 4


def jpeg_place(codecs: tuple[str, ...]) -> int:
    """Place in the condition vector that says that a picture is a JPEG; -1 if that is none of ``codecs``."""
    return codecs.index("jpeg") if "jpeg" in codecs else -1


def condition_vector(codecs: tuple[str, ...], codec: str | None, qp: float | None, chroma: str | None = None) -> Tensor:
    """The condition of a picture that ``codec`` coded with ``qp`` in the format ``chroma``.

    Args:
        codecs: The codecs that the network was trained on, in its order.
        codec: Name of the codec; None, or one that the network does not know, means unknown.
        qp: The codec's quality index as :class:`codec_wrappers.CodingInfo` reports it (for VVC the
            slice QP); None means unknown. Without a known codec it says nothing and is ignored.
        chroma: ``420``, ``422``, ``444`` or ``400``; None means unknown. Ignored without a known codec.

    Returns:
        Float tensor ``(K,)``: one-hot codec with a last place for unknown, the chroma format as in
        :data:`CHROMA`, then the severity in 0..1 and 1 if the severity is known (0, 0 if not).

    Raises:
        ValueError: If ``chroma`` is no such format.
    """
    if chroma is not None and chroma not in CHROMA:
        raise ValueError(f"chroma must be one of {', '.join(CHROMA)}, got {chroma!r}")
    vector = torch.zeros(condition_size(codecs))
    if codec not in codecs:
        vector[len(codecs)] = 1.0
        return vector
    vector[codecs.index(codec)] = 1.0
    if chroma is not None:
        vector[-3] = CHROMA[chroma]
    if qp is not None:
        best, worst = QP_SCALES[codec]
        vector[-2] = min(max((qp - best) / (worst - best), 0.0), 1.0)
        vector[-1] = 1.0
    return vector
