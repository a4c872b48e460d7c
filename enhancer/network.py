"""The restoration network: residual blocks with channel and spatial attention, conditioned on (codec, qp).

After Xue and Su, "Attention Based Image Compression Post-Processing Convolutional Neural Network",
CVPR Workshops 2019. Four things differ, each by configuration: the trunk may run on a
pixel-unshuffled grid, channel attention pools over fixed cells instead of the whole picture, so that
a tile gives the same pixels as the whole picture, every block is scaled by the condition, and the local
mean of what is added to the picture may be bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, lcm
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from torch import Tensor, nn

Attention = Literal["none", "channel", "spatial", "both"]

SPATIAL_KERNEL = 7

MEAN_CELL = 8
"""Side in pixels of the squares on which the local mean of a correction is taken."""

_MEAN_REACH = 2
"""Squares on each side that a local mean reaches over."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a :class:`RestorationNetwork`.

    Attributes:
        channels: Feature channels, C.
        blocks: Residual blocks.
        unshuffle: Factor r of the pixel-unshuffle before the trunk; the trunk runs on H/r x W/r.
        attention: Which attentions each block has.
        reduction: Factor by which channel attention narrows its hidden layer.
        cell: Side of the square over which channel attention pools, in trunk pixels.
        condition: Length of the condition vector.
        condition_hidden: Width of the condition's hidden layer.
        mean_bound: Largest local mean of a correction, of 255 (see :func:`bound_mean`); 0 sets no bound.
        jpeg_place: Place in the condition that says that a picture is a JPEG, if JPEG's coarse means widen the bound
            (see :func:`half_dc_step`); -1 leaves the bound the same for all codecs.
    """

    channels: int = 64
    blocks: int = 30
    unshuffle: int = 1
    attention: Attention = "both"
    reduction: int = 16
    cell: int = 8
    condition: int = 11
    condition_hidden: int = 64
    mean_bound: float = 0.0
    jpeg_place: int = -1

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "unshuffle", "reduction", "cell", "condition", "condition_hidden"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.attention not in get_args(Attention):
            raise ValueError(f"attention must be one of {get_args(Attention)}, got {self.attention!r}")
        if not 0 <= self.mean_bound < float("inf"):
            raise ValueError(f"mean_bound must be 0 or a positive number, got {self.mean_bound!r}")
        if not isinstance(self.jpeg_place, int) or not -1 <= self.jpeg_place < self.condition:
            raise ValueError(f"jpeg_place must be -1 or a place in the condition, got {self.jpeg_place!r}")

    @property
    def multiple(self) -> int:
        """Height, width and the origin of every tile must be multiples of this many pixels."""
        multiple = self.unshuffle * (self.cell if self.attention in ("channel", "both") else 1)
        return lcm(multiple, MEAN_CELL) if self.mean_bound else multiple


class ChannelAttention(nn.Module):
    """Scales each channel by a gate computed from the channel means of the surrounding cell.

    Squeeze and excitation (Hu et al., CVPR 2018, arXiv:1709.01507, sec. 3), except that the mean is
    taken over aligned ``cell`` x ``cell`` squares (local pooling, Chu et al., arXiv:2112.04491) and
    not over the picture: the gate of a pixel depends on its cell only, whatever is cut off around.
    H and W must be multiples of ``cell``. Keeps shape.
    """

    def __init__(self, channels: int, reduction: int, cell: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.cell = cell
        self.squeeze = nn.Conv2d(channels, hidden, kernel_size=1)
        self.excite = nn.Conv2d(hidden, channels, kernel_size=1)

    def gate(self, x: Tensor) -> Tensor:
        """The factor of each channel in each cell: ``(N, C, H / cell, W / cell)``."""
        pooled = F.avg_pool2d(x, self.cell)
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(pooled))))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        if not (self.training and torch.is_grad_enabled()):
            return x * F.interpolate(gate, scale_factor=float(self.cell), mode="nearest")
        # The gradient is a plain sum over each cell; that of interpolate adds pixel by pixel to memory.
        cells: Tensor = x.unflatten(3, (-1, self.cell)).unflatten(2, (-1, self.cell))  # type: ignore[no-untyped-call]
        return (cells * gate[:, :, :, None, :, None]).flatten(4, 5).flatten(2, 3)


class SpatialAttention(nn.Module):
    """Scales each pixel by a gate from the mean and the maximum over channels around it.

    Woo et al., ECCV 2018, arXiv:1807.06521, sec. 3. Keeps shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2, 1, kernel_size=SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.cat([x.mean(dim=1, keepdim=True), self._maximum(x)], dim=1)
        return x * torch.sigmoid(self.gate(summary))

    def _maximum(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return x.amax(dim=1, keepdim=True)
        # The gradient of amax looks for values that equal the maximum. torch.compile may compute x anew for that,
        # rounded otherwise, find none, and divide by zero.
        channels = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)
        return (x * (channels == x.argmax(dim=1, keepdim=True))).sum(dim=1, keepdim=True, dtype=x.dtype)


class AttentionBlock(nn.Module):
    """Residual block: conv, ReLU, conv, channel attention, spatial attention, scaled by the condition.

    Keeps the shape ``(N, C, H, W)``; ``scale`` is ``(N, C, 1, 1)``. The second convolution starts at
    zero, so a fresh block is the identity.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        _zero(self.conv2)
        self.channel = (
            ChannelAttention(channels, config.reduction, config.cell)
            if config.attention in ("channel", "both")
            else nn.Identity()
        )
        self.spatial = SpatialAttention() if config.attention in ("spatial", "both") else nn.Identity()

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y: Tensor = self.conv2(torch.relu(self.conv1(x)))
        y = self.spatial(self.channel(y)) * scale
        return x + y


class RestorationNetwork(nn.Module):
    """Restores decoded pictures.

    ``forward(x, condition)`` takes ``x`` of shape ``(N, 3, H, W)``, RGB in [0, 1], H and W multiples
    of :attr:`multiple`, and ``condition`` of shape ``(N, K)`` as
    :func:`enhancer.condition.condition_vector` makes it; it returns the restored pictures, same
    shape, not clamped. A fresh network is the identity (zero-initialised tail).

    The condition becomes one positive factor per block and channel (FC, ReLU, FC, exp: the modulation
    of Yang et al., "Variable Rate Deep Image Compression With Modulated Autoencoder", IEEE Signal
    Processing Letters 2020, sec. II-B). A last factor, log-linear in the condition as coding errors
    are in qp, scales the residual: a picture of high quality needs a small one, free of noise.

    Attributes:
        config: Sizes.
        multiple: Of ``config``.
        halo: Pixels around a tile, a multiple of ``multiple``, from which on its inside does not depend.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.multiple = config.multiple
        self.halo = _halo(config)
        planes, channels = 3 * config.unshuffle**2, config.channels
        self.head = nn.Conv2d(planes, channels, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(AttentionBlock(config) for _ in range(config.blocks))
        self.fuse = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.tail = nn.Conv2d(channels, planes, kernel_size=3, padding=1)
        self.modulation = nn.Sequential(
            nn.Linear(config.condition, config.condition_hidden),
            nn.ReLU(),
            nn.Linear(config.condition_hidden, config.blocks * channels),
        )
        self.gain = nn.Linear(config.condition, 1)
        _zero(self.tail, self.modulation[2], self.gain)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + self.correction(x, condition)

    def correction(self, x: Tensor, condition: Tensor) -> Tensor:
        """What :meth:`forward` adds to ``x``."""
        config = self.config
        scales = torch.exp(self.modulation(condition)).view(-1, config.blocks, config.channels, 1, 1)
        shallow = self.head(F.pixel_unshuffle(x, config.unshuffle))  # (N, C, H / r, W / r)
        deep = shallow
        for index, block in enumerate(self.blocks):
            deep = block(deep, scales[:, index])
        residual = self.tail(shallow + self.fuse(deep)) * torch.exp(self.gain(condition)).view(-1, 1, 1, 1)
        return bound_mean(F.pixel_shuffle(residual, config.unshuffle), self.mean_bound(condition))

    def mean_bound(self, condition: Tensor) -> float | Tensor:
        """The bound on the local mean of a correction, of 255, for ``condition``: one, or ``(N, 1, 1, 1)``."""
        config = self.config
        if not config.mean_bound or config.jpeg_place < 0:
            return config.mean_bound
        coarse = condition[:, config.jpeg_place] * half_dc_step(condition[:, -2])
        return coarse.clamp(min=config.mean_bound).view(-1, 1, 1, 1)


def half_dc_step(severity: Tensor) -> Tensor:
    """The most, of 255, by which JPEG's quantiser changes the mean of a block.

    By libjpeg's scale of qualities: 16 is the step of the DC coefficient of luma, eight times a block's mean, at
    quality 50 (ITU-T T.81, K.1).

    Args:
        severity: Of JPEG, as in :func:`enhancer.condition.condition_vector`: 0 for quality 100, 1 for quality 0.
    """
    return torch.where(severity < 0.5, 2 * severity, 0.5 / (1 - severity).clamp(min=0.01))


def bound_mean(correction: Tensor, bound: float | Tensor) -> Tensor:
    """Takes off a correction what its local mean has beyond ``bound``.

    Codecs keep local means: where a network would change one by much, in plain and nearly black areas above
    all, it is wrong far more often than the codec. The mean is taken over aligned squares of 40 x 40 pixels, one
    for every 8 x 8, and what is taken off runs linearly from one to the next.

    Args:
        correction: ``(N, 3, H, W)`` for samples in [0, 1]; H and W are multiples of :data:`MEAN_CELL`.
        bound: Of 255, one or ``(N, 1, 1, 1)``; the number 0 returns ``correction`` as it is.
    """
    if isinstance(bound, int | float) and not bound:
        return correction
    cells = F.avg_pool2d(correction, MEAN_CELL)
    mean = F.avg_pool2d(cells, 2 * _MEAN_REACH + 1, stride=1, padding=_MEAN_REACH, count_include_pad=False)
    excess = mean - mean.clamp(-bound / 255, bound / 255)  # type: ignore[arg-type]  # both numbers or both tensors
    return correction - F.interpolate(excess, scale_factor=float(MEAN_CELL), mode="bilinear", align_corners=False)


def keep_ends_in_float32(network: RestorationNetwork) -> None:
    """Makes autocast leave the first and the last layer alone.

    They see the picture itself, for which bfloat16, with its 8 bits, is too coarse.
    """
    kind = network.head.weight.device.type
    for layer in (network.head, network.tail):
        layer.forward = torch.autocast(kind, enabled=False)(layer.forward)  # type: ignore[method-assign]


def parameter_count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def kmac_per_pixel(config: NetworkConfig) -> float:
    """Multiply-accumulates per pixel of the picture, in thousands; layers without weights count nothing."""
    trunk = 9 * config.channels**2 * (2 * config.blocks + 1)
    ends = 2 * 9 * 3 * config.unshuffle**2 * config.channels
    per_block = 0.0
    if config.attention in ("channel", "both"):
        hidden = max(config.channels // config.reduction, 4)
        per_block += 2 * config.channels * hidden / config.cell**2
    if config.attention in ("spatial", "both"):
        per_block += 2 * SPATIAL_KERNEL**2
    return (trunk + ends + config.blocks * per_block) / config.unshuffle**2 / 1000


def _halo(config: NetworkConfig) -> int:
    """How far, in pixels, a wrong value outside of a window spoils the window's inside."""
    depth = 1  # head, in trunk pixels
    for _ in range(config.blocks):
        depth += 2
        if config.attention in ("channel", "both"):
            depth = ceil(depth / config.cell) * config.cell  # a spoilt pixel spoils its whole cell
        if config.attention in ("spatial", "both"):
            depth += SPATIAL_KERNEL // 2
    depth += 2  # fuse and tail
    pixels = depth * config.unshuffle
    if config.mean_bound:
        pixels = (ceil(pixels / MEAN_CELL) + _MEAN_REACH + 1) * MEAN_CELL  # one more for the line between two means
    return ceil(pixels / config.multiple) * config.multiple


def _zero(*layers: nn.Module) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
