"""What every refiner is: a small network at one point of a learned decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

Point = Literal["latent", "feature", "pixel"]


@dataclass(frozen=True)
class Context:
    """What the entropy model knows about the latent, as far as the decoder knows it.

    Attributes:
        mu: Means that were taken off before rounding, the latent's shape; zeros for a model without
            means; None if the model tells none.
        sigma: Scales, the latent's shape: the entry of the scale table that codes the element, not the
            network's own value, because that entry is all that decoding passes on.
    """

    mu: Tensor | None = None
    sigma: Tensor | None = None


class Refiner(nn.Module):
    """A network that corrects the decoder at one point; a fresh one changes nothing.

    ``forward(t, context)`` returns the corrected ``t`` in its shape: at ``latent`` the input of
    ``g_s``, ``(N, M, H / 16, W / 16)``; at ``feature`` the input of a layer of ``g_s``; at ``pixel``
    its output, ``(N, 3, H, W)``, not clamped.

    Attributes:
        kind: Name in files and on command lines.
        point: Where it works.
        needs_context: Whether it needs ``mu`` and ``sigma``.
        options: What the constructor was given, as JSON stores it; ``type(self)(**options)`` is a
            fresh refiner of the same architecture.
    """

    kind: ClassVar[str]
    point: Point
    needs_context: bool = False

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, t: Tensor, context: Context) -> Tensor:
        raise NotImplementedError


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """``layer`` with all its weights at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
