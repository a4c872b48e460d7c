"""Self-ensemble: the mean over rotated and flipped versions of the input.

After "geometric self-ensemble" of Lim et al., EDSR, CVPR Workshops 2017, arXiv:1707.02921, sec. 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Ensemble = Literal["none", "rotate", "dihedral"]

TRANSFORMS: dict[Ensemble, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "rotate": tuple((turns, False) for turns in range(4)),
    "dihedral": tuple((turns, flip) for flip in (False, True) for turns in range(4)),
}
"""Quarter turns, and whether left and right are swapped first."""


def run_ensemble(network: Callable[[Tensor], Tensor], x: Tensor, mode: Ensemble) -> Tensor:
    """Mean of ``network`` over the transforms of ``mode``, each undone afterwards.

    Args:
        network: Keeps shape; runs once per transform, on ``(N, C, H, W)`` or ``(N, C, W, H)``.
        x: ``(N, C, H, W)``.
        mode: ``none`` (one run), ``rotate`` (four quarter turns) or ``dihedral`` (and their mirror images).
    """
    transforms = TRANSFORMS[mode]
    total = undone(network(transformed(x, *transforms[0])), *transforms[0])
    for transform in transforms[1:]:
        total = total + undone(network(transformed(x, *transform)), *transform)
    return total / len(transforms) if len(transforms) > 1 else total


def transformed(x: Tensor, turns: int, flip: bool) -> Tensor:
    """``x``, ``(…, H, W)``, mirrored left to right if ``flip``, then turned by ``turns`` quarters."""
    return torch.rot90(x.flip(-1) if flip else x, turns, dims=(-2, -1))


def undone(y: Tensor, turns: int, flip: bool) -> Tensor:
    """The inverse of :func:`transformed`."""
    y = torch.rot90(y, -turns, dims=(-2, -1))
    return y.flip(-1) if flip else y
