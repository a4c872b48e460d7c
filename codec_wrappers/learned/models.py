"""The learned codecs' networks: CompressAI's mean-scale hyperprior, plain, modulated, or with channel gains.

Each is a :class:`compressai.models.MeanScaleHyperprior`, so all that works on CompressAI's models works on
these (``g_a``, ``g_s``, ``h_a``, ``h_s``, ``entropy_bottleneck``, ``gaussian_conditional``; ``forward``,
``compress``, ``decompress``). The quality is set beforehand by :meth:`Hyperprior.set_quality`.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn
from torch.func import functional_call

from codec_wrappers.learned.loader import load_compressai

load_compressai()

from compressai._CXX import pmf_to_quantized_cdf  # noqa: E402 - only load_compressai makes it importable
from compressai.layers import GDN as GDN  # noqa: E402 - for others, too
from compressai.models import MeanScaleHyperprior  # noqa: E402
from compressai.models.base import SCALES_LEVELS, SCALES_MAX, SCALES_MIN  # noqa: E402

Kind = Literal["msh", "vrae", "msh-sf"]
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
KINDS: tuple[Kind, ...] = ("msh", "vrae", "msh-sf")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model, and what it was trained for.

    Attributes:
        kind: ``msh`` (one rate), ``vrae`` (modulated, any rate), ``msh-sf`` (channel gains, any rate).
        n: Channels of the transforms and of the hyperprior's latents.
        m: Channels of the latents.
        lambdas: Weights of the distortion, rising: one for ``msh``, the lowest and the highest for
            ``vrae``, one a gain vector for ``msh-sf``.
        hidden: Width of the modulation networks.
    """

    kind: Kind
    n: int
    m: int
    lambdas: tuple[float, ...]
    hidden: int = 32

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if min(self.n, self.m, self.hidden) < 1:
            raise ValueError(f"n, m and hidden must be at least 1, got {self.n}, {self.m}, {self.hidden}")
        wanted = {"msh": len(self.lambdas) == 1, "vrae": len(self.lambdas) == 2, "msh-sf": len(self.lambdas) >= 2}
        if not wanted[self.kind] or list(self.lambdas) != sorted({v for v in self.lambdas if v > 0}):
            raise ValueError(f"{self.lambdas} are no rising, positive lambdas of {self.kind}")


class Hyperprior(MeanScaleHyperprior):  # type: ignore[misc] # CompressAI has no types
    """Mean-scale hyperprior (Minnen et al., NeurIPS 2018, arXiv:1809.02736, without the context model).

    Coding is made to agree between machines: the entropy parameters are computed in double precision on one
    thread, and the tables of the Gaussian, which are the same for all models, in double precision too; those
    of the factorised prior are part of the weights. A check over the decoded integers finds what is left.
    """

    g_a: nn.Sequential
    g_s: nn.Sequential
    h_a: nn.Sequential
    h_s: nn.Sequential

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.n, config.m)
        self.config = config
        self._set_gaussian_tables()

    def set_quality(self, value: float | Tensor) -> None:
        """Sets what the next call codes for: the divisor of the latents for ``msh``, else 0 (worst) to 1 (best).

        A tensor, which a recorded step reads anew each time, will do in training, and for ``vrae`` only.
        """
        for module in self.modules():
            if isinstance(module, (Modulation, ChannelGain, Step)):
                module.position = value

    def update(self, _scale_table: Any = None, force: bool = False, update_quantiles: bool = False) -> bool:
        """Makes the tables of the factorised prior from its weights; see CompressAI."""
        return bool(self.entropy_bottleneck.update(force=force, update_quantiles=update_quantiles))

    def _set_gaussian_tables(self) -> None:
        conditional = self.gaussian_conditional
        scales, cdf, length, offset = (torch.from_numpy(table.copy()) for table in gaussian_tables())
        conditional.scale_table = scales.float()
        conditional._quantized_cdf, conditional._cdf_length, conditional._offset = cdf, length, offset

    def compress(self, x: Tensor) -> dict[str, Any]:
        """``strings`` ([y], [z]), ``shape`` of z, and ``check`` of the integers; ``x`` padded to multiples of 64."""
        y = self.g_a(x)
        z = self.h_a(y)
        shape = z.shape[-2:]
        z_strings = self.entropy_bottleneck.compress(z)
        indexes, means = self._entropy_parameters(self.entropy_bottleneck.decompress(z_strings, shape))
        y_strings = self.gaussian_conditional.compress(y, indexes, means=means)
        check = symbols_check(self.gaussian_conditional.quantize(y, "symbols", means))
        return {"strings": [y_strings, z_strings], "shape": shape, "check": check}

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, Any]:
        """``x_hat`` in [0, 1] and ``check``."""
        indexes, means = self._entropy_parameters(self.entropy_bottleneck.decompress(strings[1], shape))
        y_hat = self.gaussian_conditional.decompress(strings[0], indexes, means=means)
        check = symbols_check(torch.round(y_hat - means).int())
        return {"x_hat": self.g_s(y_hat).clamp_(0, 1), "check": check}

    def _entropy_parameters(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Table indexes and means of y, the same wherever they are computed."""
        weights = {name: tensor.double() for name, tensor in self.h_s.state_dict().items()}
        with one_thread():
            scales, means = functional_call(self.h_s, weights, (z_hat.double(),)).chunk(2, 1)
        table = self.gaussian_conditional.scale_table.double()
        return torch.bucketize(scales.contiguous(), table[:-1]).int(), means.float()


class MshModel(Hyperprior):
    """The plain hyperprior; a step divides its latents, for rates a little beside the trained one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.g_a = nn.Sequential(*self.g_a, Step(inverse=False))
        self.g_s = nn.Sequential(OrderedDict(first=Step(inverse=True)) | OrderedDict(self.g_s.named_children()))


class VraeModel(Hyperprior):
    """Modulated autoencoder (Yang et al., IEEE SPL 2020, arXiv:1912.05526) on a hyperprior.

    A positive factor per channel, a function of the rate-distortion weight, follows every convolution of the
    analysis transforms and precedes every convolution of the synthesis transforms.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        # Uniform quantisation at high rate: the best step goes with 1 / sqrt(lambda). Training starts there.
        span = 0.5 * math.log(config.lambdas[-1] / config.lambdas[0])
        self.g_a = _modulated(self.g_a, config, after=True, span=span)
        self.g_s = _modulated(self.g_s, config, after=False, span=-span)
        self.h_a = _modulated(self.h_a, config, after=True)
        self.h_s = _modulated(self.h_s, config, after=False)


class MshSfModel(Hyperprior):
    """Scaling factors: gains per quality and channel before, separately learned ones after quantisation.

    The base is a trained ``msh`` at the highest lambda and stays as it is; the hyperprior sees the scaled
    latents. Between two trained qualities gains are interpolated geometrically (Chen and Ma, ICASSP 2020;
    Cui et al., CVPR 2021, arXiv:2003.02012).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        start = [0.5 * math.log(value / config.lambdas[-1]) for value in config.lambdas]
        self.g_a = nn.Sequential(*self.g_a, ChannelGain(start, config.m))
        gain = ChannelGain([-value for value in start], config.m)
        self.g_s = nn.Sequential(OrderedDict(first=gain) | OrderedDict(self.g_s.named_children()))

    def gains(self) -> list[nn.Parameter]:
        """The parameters that training changes."""
        return [module.log_gain for module in self.modules() if isinstance(module, ChannelGain)]


class Step(nn.Module):
    """Divides by ``position`` (or multiplies by it); neutral at 1."""

    def __init__(self, *, inverse: bool) -> None:
        super().__init__()
        self.inverse = inverse
        self.position = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x if self.position == 1.0 else x * self.position if self.inverse else x / self.position


class ChannelGain(nn.Module):
    """Multiplies each channel by a gain that depends on ``position``, 0 to 1.

    Args:
        log_gains: Logarithm of all channels' gain to start with, one a quality.
        channels: Number of channels.
    """

    def __init__(self, log_gains: list[float], channels: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.tensor(log_gains).repeat(channels, 1).t().contiguous())
        self.position = 1.0

    def forward(self, x: Tensor) -> Tensor:
        place = self.position * (len(self.log_gain) - 1)
        low = min(int(place), len(self.log_gain) - 2)
        log_gain = torch.lerp(self.log_gain[low], self.log_gain[low + 1], place - low)
        return x * log_gain.exp().view(1, -1, 1, 1)


class Modulation(nn.Module):
    """Multiplies each channel by exp(FC(ReLU(FC(position)))).

    ``position`` is 0 at the lowest and 1 at the highest lambda, linear in its logarithm.

    Args:
        channels: Number of channels.
        hidden: Width of the hidden layer.
        span: Before training the logarithm of the factor rises by so much from position 0 to 1, where it is 0.
    """

    def __init__(self, channels: int, hidden: int, span: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(1, hidden)
        self.second = nn.Linear(hidden, channels)
        self.position: float | Tensor = 1.0
        with torch.no_grad():
            self.second.weight.zero_()
            self.second.bias.fill_(-span)
            self.first.weight[0], self.first.bias[0] = 1.0, 0.0
            self.second.weight[:, 0] = span

    def factor(self) -> Tensor:
        """The factors of all channels."""
        position = torch.as_tensor(self.position, dtype=self.first.weight.dtype, device=self.first.weight.device)
        log_factor: Tensor = self.second(torch.relu(self.first(position.view(1, 1))))
        return log_factor.exp().flatten()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor().to(x.dtype).view(1, -1, 1, 1)


def _modulated(transform: nn.Sequential, config: ModelConfig, *, after: bool, span: float = 0.0) -> nn.Sequential:
    """``transform`` with a modulation beside each convolution; ``span`` for the one beside the latents."""
    layers: list[nn.Module] = []
    convolutions = [layer for layer in transform if isinstance(layer, CONVOLUTIONS)]
    beside_latents = convolutions[-1] if after else convolutions[0]
    for layer in transform:
        if isinstance(layer, CONVOLUTIONS):
            channels = layer.out_channels if after else layer.in_channels
            modulation = Modulation(channels, config.hidden, span if layer is beside_latents else 0.0)
            layers += [layer, modulation] if after else [modulation, layer]
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def folded(layers: nn.Sequential, place: int) -> dict[str, Tensor]:
    """Weight and bias of the convolution at ``place``, with the modulation beside it, if any, multiplied in."""
    layer: Any = layers[place]
    beside = [layers[i] if 0 <= i < len(layers) else None for i in (place - 1, place + 1)]
    modulation = next((module for module in beside if isinstance(module, Modulation)), None)
    if modulation is None:
        return {"weight": layer.weight, "bias": layer.bias}
    factor = modulation.factor()
    after = modulation is beside[1]
    leading = after != isinstance(layer, nn.ConvTranspose2d)  # its weight is (in, out, …), a convolution's (out, in, …)
    weight = layer.weight * (factor.view(-1, 1, 1, 1) if leading else factor.view(1, -1, 1, 1))
    return {"weight": weight, "bias": layer.bias * factor if after else layer.bias}


def build(config: ModelConfig) -> Hyperprior:
    """A model with random weights and without the tables of the factorised prior (see ``update``)."""
    kinds: dict[str, type[Hyperprior]] = {"msh": MshModel, "vrae": VraeModel, "msh-sf": MshSfModel}
    return kinds[config.kind](config)


def symbols_check(symbols: Tensor) -> int:
    """Lower half of the CRC-32 of integers, as the container stores it."""
    return zlib.crc32(symbols.cpu().numpy().astype("<i4").tobytes()) & 0xFFFF


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch use one thread within the context: sums then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def gaussian_tables() -> tuple[np.ndarray[Any, Any], ...]:
    """Scales, cumulative tables, their lengths and offsets, as CompressAI makes them but in double precision.

    The rows are CompressAI's 64 scales, the integers out to a tail of 1e-9, and a last place for all beyond.
    """
    scales = np.exp(np.linspace(math.log(SCALES_MIN), math.log(SCALES_MAX), SCALES_LEVELS))
    centers = np.ceil(scales * -special.ndtri(0.5e-9)).astype(np.int32)
    cdf = np.zeros((len(scales), 2 * int(centers.max()) + 3), np.int32)
    for row, scale, center in zip(cdf, scales, centers, strict=True):
        distance = np.abs(np.arange(-center, center + 1))
        pmf = special.ndtr((0.5 - distance) / scale) - special.ndtr((-0.5 - distance) / scale)
        tail = 2 * special.ndtr((-0.5 - center) / scale)
        row[: 2 * center + 3] = pmf_to_quantized_cdf([*pmf.tolist(), float(tail)], 16)
    return scales, cdf, 2 * centers + 3, -centers
