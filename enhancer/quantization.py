"""Eight-bit trunks: the convolutions between the first and the last layer of a network in int8.

The input of a convolution is rounded to 256 steps of a range that calibration has found, its weights to
255 steps per output channel (Jacob et al., CVPR 2018, arXiv:1712.05877, sec. 2). All else keeps its
precision: first and last layer, attention, the residual path and the picture itself. Exported, each
rounding is a pair of QuantizeLinear and DequantizeLinear, by which OpenVINO and onnxruntime compute in
int8 where the processor can (AVX-512 VNNI, AVX-VNNI, AMX).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from torch import Tensor, nn

from enhancer.checkpoint import Checkpoint
from enhancer.errors import CheckpointError
from enhancer.network import RestorationNetwork

METADATA_KEY = "int8"
"""Where a checkpoint keeps its ranges: JSON, name of the layer to the two ends of its range."""

Ranges = dict[str, tuple[float, float]]

_STEPS = 255
_SAMPLES = 20_000
"""Input values of a layer that are looked at in one batch."""


class QuantizedConv(nn.Module):
    """A 3x3 convolution whose input and weights are rounded to 8 bits.

    Args:
        conv: The convolution in full precision.
        low: Smallest input that is told apart; zero is always a step, because borders are padded with it.
        high: Largest input.
    """

    weight_scale: Tensor
    weight_zero: Tensor

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        self.conv = conv
        self.scale, self.zero = _grid(low, high)
        largest = conv.weight.detach().abs().amax(dim=(1, 2, 3))
        self.register_buffer("weight_scale", (largest / (_STEPS // 2)).clamp(min=1e-8))
        self.register_buffer("weight_zero", torch.zeros(len(largest), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, 0, _STEPS)
        weight = torch.fake_quantize_per_channel_affine(
            self.conv.weight, self.weight_scale, self.weight_zero, 0, -128, 127
        )
        return F.conv2d(x, weight, self.conv.bias, padding=self.conv.padding)


def trunk_layers(network: RestorationNetwork) -> list[str]:
    """Names of the layers that are quantised."""
    blocks = [f"blocks.{index}.{conv}" for index in range(len(network.blocks)) for conv in ("conv1", "conv2")]
    return [*blocks, "fuse"]


@torch.no_grad()
def calibrated(network: RestorationNetwork, batches: Iterable[tuple[Tensor, Tensor]]) -> Ranges:
    """The range of each layer's input that rounds inputs like those of ``batches`` with the least squared error.

    Args:
        network: In full precision.
        batches: Pictures and conditions, as ``network`` takes them.

    Raises:
        ValueError: If there is no batch.
    """
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, list[Tensor]] = {name: [] for name in trunk_layers(network)}

    def keep(name: str, x: Tensor) -> None:
        chosen = torch.randint(x.numel(), (min(_SAMPLES, x.numel()),), generator=generator)
        seen[name].append(x.flatten()[chosen])

    hooks = [
        network.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
        for name in seen
    ]
    try:
        for x, condition in batches:
            network(x, condition)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(seen.values()):
        raise ValueError("calibration needs at least one picture")
    return {name: _best_range(torch.cat(values)) for name, values in seen.items()}


def quantized(network: RestorationNetwork, ranges: Ranges) -> RestorationNetwork:
    """A copy of ``network`` with a trunk that computes as if in int8."""
    result = deepcopy(network)
    for name, (low, high) in ranges.items():
        parent, _, leaf = name.rpartition(".")
        conv: nn.Conv2d = result.get_submodule(name)  # type: ignore[assignment]  # by the network's making
        setattr(result.get_submodule(parent), leaf, QuantizedConv(conv, low, high))
    return result


def stored_ranges(checkpoint: Checkpoint) -> Ranges:
    """The ranges that the metadata of ``checkpoint`` hold.

    Raises:
        CheckpointError: If there are none, or not those of its network.
    """
    if METADATA_KEY not in checkpoint.metadata:
        raise CheckpointError("this checkpoint was not calibrated for int8; `python -m train quantize` does it")
    try:
        ranges = {
            name: (float(low), float(high))
            for name, (low, high) in json.loads(checkpoint.metadata[METADATA_KEY]).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError("the int8 ranges of this checkpoint cannot be read") from error
    if list(ranges) != trunk_layers(checkpoint.network):
        raise CheckpointError("the int8 ranges of this checkpoint are not those of its layers")
    return ranges


def _best_range(values: Tensor) -> tuple[float, float]:
    """The least error is that of a range within the extremes: outliers are rare, and finer steps serve all else."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)

    def error(share: float) -> float:
        scale, zero = _grid(share * low, share * high)
        rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, _STEPS)
        return float((rounded - values).square().mean())

    share = min((step / 40 for step in range(8, 41)), key=error)
    return share * low, share * high


def _grid(low: float, high: float) -> tuple[float, int]:
    """Step and zero point of 256 steps from ``low`` <= 0 to ``high`` >= 0."""
    scale = max(high - low, 1e-8) / _STEPS
    return scale, min(max(round(-low / scale), 0), _STEPS)
