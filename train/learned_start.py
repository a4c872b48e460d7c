"""Starts a learned codec from the weights of another: of another lambda, or of another kind."""

from __future__ import annotations

import torch
from torch import nn

from codec_wrappers.learned.models import Hyperprior, Modulation

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
            _fold(getattr(source, name), after=name.endswith("_a"))
    for name in _TRANSFORMS:
        for old, new in zip(_layers(getattr(source, name)), _layers(getattr(target, name)), strict=True):
            new.load_state_dict(old.state_dict())
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


def _layers(transform: nn.Sequential) -> list[nn.Module]:
    """Layers that all kinds of models have, if they have weights."""
    from compressai.layers import GDN

    return [layer for layer in transform if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, GDN))]


def _modulations(model: Hyperprior) -> list[Modulation]:
    return [module for module in model.modules() if isinstance(module, Modulation)]


def _fold(transform: nn.Sequential, *, after: bool) -> None:
    """Multiplies each modulation into the convolution beside it; the modulation itself is left as it is."""
    layers = list(transform)
    for place, layer in enumerate(layers):
        if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        modulation = layers[place + 1 if after else place - 1]
        channels = layer.out_channels if after else layer.in_channels
        factor = modulation(torch.ones(1, channels, 1, 1)).flatten()
        leading = after != isinstance(layer, nn.ConvTranspose2d)  # (out, in, …), transposed (in, out, …)
        layer.weight.mul_(factor.view(-1, 1, 1, 1) if leading else factor.view(1, -1, 1, 1))
        if after and layer.bias is not None:
            layer.bias.mul_(factor)
