"""Refiners of features and pixels, and the plain network that every gain is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import sqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from enhancer.network import NetworkConfig, RestorationNetwork
from enhancer.refiners.base import Context, Point, Refiner, zero
from enhancer.tensors import pad_to_multiple

Transform = Callable[[Tensor], Tensor]


class DenseBlock(nn.Module):
    """Convolutions that each see all features before them, a 1x1 fusion, and a shortcut around all.

    Huang et al., CVPR 2017, arXiv:1608.06993, without normalisation. Keeps the shape ``(N, C, H, W)``.
    """

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(channels + index * growth, growth, kernel_size=3, padding=1) for index in range(layers)
        )
        self.fuse = nn.Conv2d(channels + layers * growth, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for layer in self.layers:
            features = torch.cat([features, F.leaky_relu(layer(features), 0.1)], dim=1)
        fused: Tensor = self.fuse(features)
        return x + fused


class FEnM(Refiner):
    """Feature enhancement module: dense blocks and a convolution, with shortcuts around each and the whole.

    After the module of that name of the interleaved-block codec, which puts it behind the features of
    the synthesis transform, before the last upsampling. The last convolution starts at zero.

    Args:
        channels: Feature channels at its place.
        growth: Channels that each layer of a dense block adds.
        layers: Layers of a dense block.
        blocks: Dense blocks; 1 is the light version.
    """

    kind: ClassVar[str] = "fenm"
    point = "feature"

    def __init__(self, channels: int, growth: int = 32, layers: int = 3, blocks: int = 2) -> None:
        super().__init__({"channels": channels, "growth": growth, "layers": layers, "blocks": blocks})
        self.blocks = nn.Sequential(*(DenseBlock(channels, growth, layers) for _ in range(blocks)))
        self.tail = zero(nn.Conv2d(channels, channels, kernel_size=3, padding=1))

    def forward(self, t: Tensor, context: Context) -> Tensor:  # noqa: ARG002 - the interface
        correction: Tensor = self.tail(self.blocks(t))
        return t + correction


class PlainResidual(Refiner):
    """Three convolutions with a shortcut: what any network of that size would gain at that point.

    Args:
        point: Where it works.
        channels: Channels at its place.
        width: Channels between its convolutions.
        unshuffle: Factor of a pixel-unshuffle around it, for pixels.
    """

    kind: ClassVar[str] = "residual"

    def __init__(self, point: Point, channels: int, width: int, unshuffle: int = 1) -> None:
        super().__init__({"point": point, "channels": channels, "width": width, "unshuffle": unshuffle})
        self.point = point
        self.unshuffle = unshuffle
        planes = channels * unshuffle**2
        self.body = nn.Sequential(
            nn.Conv2d(planes, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.ReLU(),
            zero(nn.Conv2d(width, planes, kernel_size=3, padding=1)),
        )

    @classmethod
    def like(cls, refiner: Refiner, channels: int) -> PlainResidual:
        """One at the same point as ``refiner`` with as nearly as possible as many trained values."""
        wanted = sum(parameter.numel() for parameter in refiner.parameters())
        unshuffle = refiner.network.config.unshuffle if isinstance(refiner, PixelRefiner) else 1
        planes = channels * unshuffle**2
        linear = 18 * planes + 2  # 9 w^2 + (18 p + 2) w + p values for the width w and p planes
        width = (sqrt(linear**2 + 36 * max(wanted - planes, 0)) - linear) / 18
        return cls(refiner.point, channels, max(1, round(width)), unshuffle)

    def forward(self, t: Tensor, context: Context) -> Tensor:  # noqa: ARG002 - the interface
        residual = self.body(F.pixel_unshuffle(pad_to_multiple(t, self.unshuffle), self.unshuffle))
        return t + F.pixel_shuffle(residual, self.unshuffle)[..., : t.shape[-2], : t.shape[-1]]


class PixelRefiner(Refiner):
    """The restoration network after a learned decoder, told which codec it follows.

    The network sees the picture clamped to [0, 1], as it would find it in a file, and its correction is
    added to what ``g_s`` gave, so that a fresh network changes nothing, out-of-range values included.

    Args:
        network: Sizes of the network, or the same as a dict.
        condition: The condition vector of the codec; its length is ``network.condition``.
    """

    kind: ClassVar[str] = "pixel"
    point = "pixel"

    def __init__(self, network: NetworkConfig | dict[str, Any], condition: Sequence[float]) -> None:
        config = network if isinstance(network, NetworkConfig) else NetworkConfig(**network)
        if len(condition) != config.condition:
            raise ValueError(f"the network's condition has {config.condition} values, got {len(condition)}")
        super().__init__({"network": asdict(config), "condition": list(condition)})
        self.network = RestorationNetwork(config)
        self.condition: Tensor
        self.register_buffer("condition", torch.tensor(condition), persistent=False)

    def forward(self, t: Tensor, context: Context) -> Tensor:  # noqa: ARG002 - the interface
        height, width = t.shape[-2:]
        x = pad_to_multiple(t.clamp(0, 1), self.network.multiple)
        residual: Tensor = self.network(x, self.condition.expand(len(x), -1)) - x
        return t + residual[..., :height, :width]


class PictureQECM(Refiner):
    """Moves each element of the latent within its cell, by what restoring the picture does to the latent.

    ``d = g_a(restored) - g_a(picture)`` with the picture that ``g_s`` makes of the latent and the restoration
    network's version of it; the latent moves by ``tanh(2 d) / 2``, which is ``d`` where it is small and never leaves
    the cell that the bitstream tells (the quantisation constraint set of JPEG's decoders: Zakhor, IEEE TCSVT 1992).
    Costs a second ``g_s`` and two ``g_a`` beside the network.

    Args:
        network: See :class:`PixelRefiner`.
        condition: The same.

    Attributes:
        transforms: The codec's ``g_s``, without refiners at its ends, and ``g_a``, while it is attached.
    """

    kind: ClassVar[str] = "qecm-picture"
    point = "latent"

    def __init__(self, network: NetworkConfig | dict[str, Any], condition: Sequence[float]) -> None:
        restoration = PixelRefiner(network, condition)
        super().__init__(restoration.options)
        self.restoration = restoration
        self.transforms: tuple[Transform, Transform] | None = None  # in a tuple: no submodules, no part of the state

    @property
    def network(self) -> RestorationNetwork:
        return self.restoration.network

    def forward(self, t: Tensor, context: Context) -> Tensor:
        if self.transforms is None:
            raise ValueError("this refiner works on a codec only: attach it")
        synthesis, analysis = self.transforms
        picture = synthesis(t).clamp(0, 1)
        move = analysis(self.restoration(picture, context)) - analysis(picture)
        return t + 0.5 * torch.tanh(2 * move)
