"""A start from which a restoration network learns fast: whitened input, small output.

Neighbouring pixels and the three colours are nearly the same number, and coding errors are a hundredth of
it. With usual initial weights almost all of a feature is local brightness, steps along that direction
shake the output by far more than the errors to be learnt, and learning waits until the rate is tiny.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

if TYPE_CHECKING:
    from enhancer.network import RestorationNetwork
    from train.data import CropSampler

BATCHES, CROPS = 24, 8
FIRST_STEP = 1 << 40  # of the batches to look at: far from any that is trained on
STANDARD_FLOOR = 1e-3  # a quarter of an 8-bit step: weaker components are rounding noise

LOG_GAIN, GAIN_PER_SEVERITY, GAIN_IF_KNOWN = -6.5, 2.0, -1.0


def precondition(network: RestorationNetwork, sampler: CropSampler, crop: int) -> None:
    """Sets the first layer of a fresh network to whiten decoded crops, and the residual's factor to a small number.

    The rows of the first layer become the strongest principal components of the patches that it sees,
    each scaled to unit variance (as Jordan, "94% on CIFAR-10 in 3.29 Seconds", arXiv:2404.00498, sec. 3.2,
    does for classification); rows beyond the number of components keep their random weights. The
    residual's factor starts far below one, so that weights of usual size make residuals as small as coding
    errors are. ``crop`` is the side of the crops that are looked at.
    """
    with torch.no_grad():
        patches = torch.cat([_patches(sampler, batch, crop, network.config.unshuffle) for batch in range(BATCHES)])
        _whiten(network.head, patches)
        network.gain.bias.fill_(LOG_GAIN)
        network.gain.weight[0, -2] = GAIN_PER_SEVERITY
        network.gain.weight[0, -1] = GAIN_IF_KNOWN


def _whiten(head: nn.Conv2d, patches: torch.Tensor) -> None:
    mean = patches.mean(0)
    variances, components = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    strongest = torch.argsort(variances, descending=True)[: head.out_channels]
    rows = components[:, strongest].T / (variances[strongest].clamp(min=0).sqrt() + STANDARD_FLOOR).unsqueeze(1)
    head.weight[: len(rows)] = rows.view(len(rows), *head.weight.shape[1:]).float()
    assert head.bias is not None
    head.bias[: len(rows)] = -(rows @ mean).float()


def _patches(sampler: CropSampler, batch: int, crop: int, unshuffle: int) -> torch.Tensor:
    """Some of the 3x3 patches of one batch on the unshuffled grid, ``(n, 9 * planes)`` in float64."""
    x = sampler.batch(FIRST_STEP + batch, range(CROPS), crop).x
    columns = F.unfold(F.pixel_unshuffle(x, unshuffle), kernel_size=3)  # (N, 9 * planes, places)
    patches = columns.permute(0, 2, 1).flatten(0, 1)
    some = torch.randperm(len(patches), generator=torch.Generator().manual_seed(batch))[: len(patches) // 7]
    return patches[some.to(patches.device)].double()
