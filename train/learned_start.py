"""Starts a learned codec from the weights of another: of another lambda, or of another kind."""

from __future__ import annotations

import torch
from torch import nn

from codec_wrappers.learned.models import CONVOLUTIONS, GDN, Hyperprior, Modulation, folded

_TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")


@torch.no_grad()
def copy_weights(source: Hyperprior, target: Hyperprior) -> None:
    """Copies what both models have: transforms and the factorised prior.

    A modulated source gives a plain target its weights at its highest rate that is not above the target's
    lambda, the modulations multiplied into the convolutions; a plain source leaves the modulations of a
    modulated target as they are. Gains are never copied.

    Raises:
        ValueError: If the models differ in their sizes.
    """
    sizes = [(model.config.n, model.config.m) for model in (source, target)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"cannot start n, m = {sizes[1]} from weights with n, m = {sizes[0]}")
    same_kind = source.config.kind == target.config.kind
    if same_kind and source.config.lambdas == target.config.lambdas:
        target.load_state_dict(source.state_dict())
        return
    modulated = {model: any(isinstance(m, Modulation) for m in model.modules()) for model in (source, target)}
    if modulated[source] and not modulated[target]:
        source.set_quality(_position(source, target.config.lambdas[-1]))
    for name in _TRANSFORMS:
        old, new = getattr(source, name), getattr(target, name)
        for place, layer in zip(_places(old), _places(new), strict=True):
            multiplied = modulated[source] and not modulated[target] and isinstance(old[place], CONVOLUTIONS)
            new[layer].load_state_dict(folded(old, place) if multiplied else old[place].state_dict())
    if modulated[source] and modulated[target]:
        for old, new in zip(_modulations(source), _modulations(target), strict=True):
            new.load_state_dict(old.state_dict())
    prior = source.entropy_bottleneck.state_dict()
    tables = [name for name in prior if name.startswith("_")]
    target.entropy_bottleneck.load_state_dict({k: v for k, v in prior.items() if k not in tables}, strict=False)


def _position(source: Hyperprior, value: float) -> float:
    low, high = source.config.lambdas[0], source.config.lambdas[-1]
    ratio = torch.tensor(value / low).log() / torch.tensor(high / low).log()
    return float(ratio.clamp(0, 1))


def _places(transform: nn.Sequential) -> list[int]:
    """Places of the layers with weights that all kinds of models have."""
    return [place for place, layer in enumerate(transform) if isinstance(layer, (*CONVOLUTIONS, GDN))]


def _modulations(model: Hyperprior) -> list[Modulation]:
    return [module for module in model.modules() if isinstance(module, Modulation)]
