"""(codec, qp, chroma format) -> the small vector that conditions the restoration network."""

from __future__ import annotations

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


def condition_size(codecs: tuple[str, ...]) -> int:
    """Length of the condition vector: one place per codec, one for unknown, chroma, severity, known flag."""
    return len(codecs) + 4


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
