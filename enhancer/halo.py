"""How much context around a tile the weights of a network really need.

The halo of an architecture is what could matter: every layer passes on its share, and channel attention
spreads over whole cells. With trained weights nearly all of that influence is below any rounding, and
tiles with a smaller halo give the same pixels in less time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from enhancer.network import RestorationNetwork
from enhancer.tiling import run_tiled

TOLERANCE = 0.01 / 255
"""Largest difference that counts as none: a fiftieth of what rounding to 8 bits allows."""

_TILE = 64
_PICTURE = 192


@torch.inference_mode()
def measured_halo(network: RestorationNetwork, *, tolerance: float = TOLERANCE) -> int:
    """The smallest halo with which tiles of noise equal the whole picture, plus one step for safety.

    Noise changes the most from pixel to pixel and so draws the largest corrections; it is tried with a
    condition that says nothing and with one that says the worst quality of the first codec.

    Args:
        network: Trained network.
        tolerance: Largest difference, for samples in [0, 1].

    Returns:
        A multiple of ``network.multiple``, at most ``network.halo``.
    """
    multiple = network.multiple
    tile, side = (-(-pixels // multiple) * multiple for pixels in (_TILE, _PICTURE))
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, side, side, generator=generator)
    noise[1] = noise[1].round()  # black and white
    conditions = _conditions(network)
    halo = 0
    for x, condition in ((x[None], condition[None]) for x in noise for condition in conditions):

        def restore(window: Tensor, condition: Tensor = condition) -> Tensor:
            return network(window, condition)  # type: ignore[no-any-return]  # torch types the call as Any

        whole = restore(x)
        while halo < network.halo:
            tiled = run_tiled(restore, x, tile_size=tile, halo=halo, multiple=multiple)
            if (tiled - whole).abs().max() <= tolerance:
                break
            halo += multiple
    return min(halo + multiple, network.halo)


def _conditions(network: RestorationNetwork) -> Tensor:
    """Condition vectors of an unknown picture and of the first codec at its worst."""
    conditions = torch.zeros(2, network.config.condition)
    conditions[0, -4] = 1.0
    conditions[1, [0, -2, -1]] = 1.0
    return conditions
