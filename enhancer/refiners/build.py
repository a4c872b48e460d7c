"""Fresh refiners that fit a codec, by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from enhancer.refiners.attach import feature_layer, input_channels, part
from enhancer.refiners.base import Point, Refiner
from enhancer.refiners.networks import FEnM, PictureQECM, PixelRefiner, PlainResidual
from enhancer.refiners.qecm import FourierQECM, LearnedQECM

REFINER_NAMES = ("qecm-paper", "qecm-soft", "qecm-learned", "qecm-picture", "fenm", "pixel")
"""In the order in which they follow each other in a decoder."""

RESTORING: dict[str, type[PixelRefiner | PictureQECM]] = {"pixel": PixelRefiner, "qecm-picture": PictureQECM}
"""Those with a restoration network inside."""


def channels_at(model: nn.Module, point: Point, feature_index: int = -1) -> int:
    """Channels of ``model`` at a refinement point."""
    if point == "pixel":
        return 3
    return input_channels(part(model, "g_s") if point == "latent" else feature_layer(model, feature_index))


def tells_context(model: nn.Module) -> bool:
    """Whether means and scales of the whole latent are known when it is decoded."""
    return hasattr(model, "gaussian_conditional") and not hasattr(model, "context_prediction")


def fresh_refiner(name: str, model: nn.Module, *, feature_index: int = -1, **options: Any) -> Refiner:
    """An untrained refiner that fits ``model``.

    Args:
        name: One of :data:`REFINER_NAMES`.
        model: The codec.
        feature_index: See :func:`enhancer.refiners.attach`.
        options: More arguments of the refiner's class; ``pixel`` and ``qecm-picture`` need ``network`` and
            ``condition``.

    Raises:
        ValueError: If there is no such refiner, or it does not fit.
    """
    if name in ("qecm-paper", "qecm-soft"):
        return FourierQECM("paper" if name == "qecm-paper" else "soft", **options)
    if name == "qecm-learned":
        return LearnedQECM(channels_at(model, "latent"), **{"context": tells_context(model), **options})
    if name == "fenm":
        return FEnM(channels_at(model, "feature", feature_index), **options)
    if name in RESTORING:
        return RESTORING[name](**options)
    raise ValueError(f"unknown refiner {name!r}; known: {', '.join(REFINER_NAMES)}")


def residual_control(refiner: Refiner, model: nn.Module, *, feature_index: int = -1) -> PlainResidual:
    """A plain residual network at the same point as ``refiner``, with as many trained values."""
    return PlainResidual.like(refiner, channels_at(model, refiner.point, feature_index))
