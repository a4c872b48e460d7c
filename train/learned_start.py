"""Where the training of a learned codec starts: as a block transform, or from the weights of another codec.

With usual random weights thousands of steps pass before a codec of this kind is as good as a linear transform.
So it starts as one: each layer of the analysis takes the principal components of 2x2 cells of the layer before
(together the Karhunen-Loeve transform of 16x16 blocks, but for what is dropped on the way), the synthesis is its
transpose, the divisive normalisations are close to the identity, and the latents are in units of the quantiser
step that is best at high rate.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from codec_wrappers.learned.models import CONVOLUTIONS, GDN, ChannelGain, Hyperprior, Modulation, folded

BALANCE = 0.5
"""Features are divided by this power of their standard deviation, so that a step of Adam moves all alike."""
NORMALISATION = 0.01  # of the divisive normalisations, on the diagonal
LEAST_DEVIATION = 0.05  # of a latent, in quantiser steps: what is less never leaves zero
MEANS = 3  # latents, the strongest, whose local mean the hyperprior sends
OFFSET = 6.0  # in deviations: makes these means positive between the layers
RESOLUTION = 8.0  # steps in which the hyperprior sends a deviation
FLOOR = 0.1  # of a scale, in deviations
BACKGROUND = 0.1  # share that the hyperprior's random weights keep
CHUNK = 8  # pictures that are transformed at once
UNUSED = 0.1  # share that a feature without a principal component has of its usual weight in the synthesis


@torch.no_grad()
def start_as_block_transform(model: Hyperprior, pictures: Tensor) -> None:
    """Sets a fresh model's transforms to a linear one, and its hyperprior to send local means and sizes of latents.

    Args:
        model: Any kind without gain vectors; a modulated one is set for its highest lambda.
        pictures: ``(N, 3, H, W)`` in [0, 1] to take the components from, sides a multiple of 64.

    Raises:
        ValueError: If the model has fewer than 5 channels or 4 latents.
    """
    if model.config.n < MEANS + 2 or model.config.m < MEANS + 1:
        raise ValueError(f"n must be at least {MEANS + 2} and m {MEANS + 1}, got {model.config.n}, {model.config.m}")
    quantiser_step = math.sqrt(18 / (model.config.lambdas[-1] * 255**2 * math.log(2)))
    analysis, synthesis = _convolutions(model.g_a), _convolutions(model.g_s)[::-1]
    mean = pictures.double().mean((0, 2, 3))
    features = pictures.double() - mean.view(1, -1, 1, 1)
    scale = torch.ones_like(mean)
    for forward, backward in zip(analysis, synthesis, strict=True):
        cells = F.pixel_unshuffle(features, 2)
        rows, deviations = _principal_components(cells, forward.out_channels)
        last = forward is analysis[-1]
        out_scale = torch.full_like(deviations, 1 / quantiser_step) if last else deviations**-BALANCE
        _set_pair(forward, backward, rows, out_scale, scale)
        features = torch.einsum("kc,nchw->nkhw", rows, cells)
        scale = out_scale
    # The mean of each colour is taken off by the first layer and added again by the last.
    first, last_layer = analysis[0], synthesis[0]
    first.bias -= first.weight.sum((2, 3)) @ mean.to(first.weight)
    last_layer.bias.copy_(mean)
    for layer in [*model.g_a, *model.g_s]:
        if isinstance(layer, GDN):
            layer.gamma.copy_(layer.gamma_reparam.init(NORMALISATION * torch.eye(len(layer.beta))))
    model.set_quality(1.0)
    _start_hyperprior(model, torch.cat([model.g_a(part) for part in torch.split(pictures, CHUNK)]))


def _principal_components(cells: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most ``count`` components, a row each, the strongest first, and their standard deviations."""
    samples = cells.permute(0, 2, 3, 1).flatten(0, 2)
    variances, components = torch.linalg.eigh(samples.T @ samples / len(samples))
    strongest = torch.argsort(variances, descending=True)[:count]
    return components[:, strongest].T, variances[strongest].clamp(min=1e-6).sqrt()


def _set_pair(forward: Any, backward: Any, rows: Tensor, out_scale: Tensor, in_scale: Tensor) -> None:
    """``rows`` as a convolution of stride 2 over 2x2 cells, and as the transposed convolution that undoes it.

    Features beyond ``rows`` keep their random weights in the analysis, and a small share of them in the synthesis.
    """
    count, used = len(rows), len(in_scale)
    taps = torch.zeros(count, used, 5, 5, dtype=rows.dtype)
    taps[:, :, 2:4, 2:4] = rows.view(count, used, 2, 2)
    ratio = out_scale.view(-1, 1, 1, 1) / in_scale.view(1, -1, 1, 1)
    for layer, weight in ((forward, taps * ratio), (backward, taps / ratio)):
        layer.weight[:count] = 0
        layer.weight[:count, :used] = weight.to(layer.weight)
        layer.bias.zero_()
    backward.weight[count:] *= UNUSED


def _start_hyperprior(model: Hyperprior, latents: Tensor) -> None:
    """Lets the hyperprior begin with what any codec would send beside the latents ``(N, m, H, W)``.

    These are, averaged over 4x4 positions: the strongest latents, as the mean to expect, and the size of groups of
    the others, as their scale. Both are positive features, which leaky ReLUs pass as they are.
    """
    for layer in [*_convolutions(model.h_a), *_convolutions(model.h_s)]:
        layer.weight *= BACKGROUND
        layer.bias.zero_()
    deviations = latents.std((0, 2, 3)).clamp(min=LEAST_DEVIATION)
    n, m = model.config.n, model.config.m
    watched = torch.linspace(MEANS, m - 1, (n - MEANS) // 2).round().long()
    groups = max(min(len(watched) // 2, m - MEANS), 1)
    group_of = torch.arange(len(watched)) * groups // len(watched)
    expected = torch.full((MEANS + groups,), OFFSET)
    expected[MEANS:] = latents[:, watched].abs().mean((0, 2, 3)).div(deviations[watched]).mean()
    _start_hyper_analysis(_convolutions(model.h_a), deviations, watched, group_of, expected)
    nearest = (torch.arange(m)[:, None] - watched).abs().argmin(1)
    _start_hyper_synthesis(_convolutions(model.h_s), deviations, group_of[nearest], expected)


def _start_hyper_analysis(
    layers: list[Any], deviations: Tensor, watched: Tensor, group_of: Tensor, expected: Tensor
) -> None:
    """Means and group sizes of the latents, less what is expected of them, in steps."""
    first, second, third = layers
    first.weight /= deviations.view(1, -1, 1, 1)
    for i in range(MEANS):
        first.weight[i, i, 1, 1] = 1 / deviations[i]
        first.bias[i] = OFFSET
        second.weight[i, i] += _square(0.25)
    for i, (channel, group) in enumerate(zip(watched.tolist(), group_of.tolist(), strict=True)):
        for place, sign in ((MEANS + 2 * i, 1), (MEANS + 2 * i + 1, -1)):  # the size is the sum of both, rectified
            first.weight[place, channel, 1, 1] = sign / deviations[channel]
            second.weight[MEANS + group, place] += _square(0.25) / (group_of == group).sum()
    for i in range(len(expected)):
        third.weight[i, i] += _square(0.25 * RESOLUTION)
    third.bias[: len(expected)] = -RESOLUTION * expected


def _start_hyper_synthesis(layers: list[Any], deviations: Tensor, group_of: Tensor, expected: Tensor) -> None:
    """Scales and means of all latents from what the analysis sends; ``group_of`` each latent."""
    first, second, last = layers
    for i in range(len(expected)):
        first.weight[i, i] += _smooth() / RESOLUTION  # zero on average: beyond the border, too
        second.weight[i, i] += _square(1.0)
    first.bias[: len(expected)] = expected
    m = len(deviations)
    last.weight *= torch.cat([deviations, deviations]).view(-1, 1, 1, 1)
    last.bias[:m] = FLOOR * deviations
    for channel, group in enumerate(group_of.tolist()):
        share = (1 - FLOOR) / expected[MEANS + group]
        last.weight[channel, MEANS + group, 1, 1] += share * deviations[channel]
    for i in range(MEANS):
        last.weight[m + i, i, 1, 1] += deviations[i]
        last.bias[m + i] = -OFFSET * deviations[i]


def _square(value: float) -> Tensor:
    """A 5x5 kernel of stride 2 that adds up 2x2 cells; transposed, it repeats each value in its cell."""
    kernel = torch.zeros(5, 5)
    kernel[2:4, 2:4] = value
    return kernel


def _smooth() -> Tensor:
    """A transposed 5x5 kernel of stride 2 that interpolates between such cells; nothing is 0 beyond the border."""
    taps = torch.tensor([0.0, 0.25, 0.75, 0.75, 0.25])
    return torch.outer(taps, taps)


def _convolutions(transform: nn.Sequential) -> list[Any]:
    return [layer for layer in transform if isinstance(layer, CONVOLUTIONS)]


_TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")


@torch.no_grad()
def copy_weights(source: Hyperprior, target: Hyperprior) -> None:
    """Copies what both models have: transforms and the factorised prior.

    A modulated source gives a plain target its weights at its highest rate that is not above the target's
    lambda, the modulations multiplied into the convolutions; a plain source leaves the modulations of a
    modulated target as they are, and gains become modulations of the latents: the same codec at the qualities of
    the gains. Gains are copied to no other kind.

    Raises:
        ValueError: If the models differ in their sizes, or gains reach from another lambda to another than the target.
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
    gains = [module for module in source.modules() if isinstance(module, ChannelGain)]
    if gains and modulated[target]:
        ends = [(model.config.lambdas[0], model.config.lambdas[-1]) for model in (source, target)]
        if ends[0] != ends[1]:
            raise ValueError(f"cannot start a model of lambdas {ends[1]} from gains of lambdas {ends[0]}")
        knots = [_position(target, value) for value in source.config.lambdas]
        for gain, modulation in zip(gains, (target.g_a[-1], target.g_s[0]), strict=True):
            _interpolate(modulation, torch.tensor(knots), gain.log_gain)
    prior = source.entropy_bottleneck.state_dict()
    tables = [name for name in prior if name.startswith("_")]
    target.entropy_bottleneck.load_state_dict({k: v for k, v in prior.items() if k not in tables}, strict=False)


def _interpolate(modulation: Any, knots: Tensor, log_factors: Tensor) -> None:
    """Makes the logarithm of the factors piecewise linear: ``log_factors[i]``, one a channel, at ``knots[i]``."""
    slopes = log_factors.diff(dim=0) / knots.diff()[:, None]
    bends = torch.cat([slopes[:1], slopes.diff(dim=0)])
    modulation.first.weight[: len(bends)] = 1.0
    modulation.first.bias[: len(bends)] = -knots[:-1]
    modulation.second.weight.zero_()
    modulation.second.weight[:, : len(bends)] = bends.T
    modulation.second.bias.copy_(log_factors[0])


def _position(model: Hyperprior, value: float) -> float:
    """Where ``value`` lies between the lowest (0) and the highest (1) lambda of a model, in its logarithm."""
    low, high = model.config.lambdas[0], model.config.lambdas[-1]
    ratio = torch.tensor(value / low).log() / torch.tensor(high / low).log()
    return float(ratio.clamp(0, 1))


def _places(transform: nn.Sequential) -> list[int]:
    """Places of the layers with weights that all kinds of models have."""
    return [place for place, layer in enumerate(transform) if isinstance(layer, (*CONVOLUTIONS, GDN))]


def _modulations(model: Hyperprior) -> list[Modulation]:
    return [module for module in model.modules() if isinstance(module, Modulation)]
