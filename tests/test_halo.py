from __future__ import annotations

import pytest
import torch
from small_network import random_checkpoint

from enhancer.condition import condition_vector
from enhancer.halo import _conditions, measured_halo
from enhancer.tiling import run_tiled


@pytest.mark.parametrize("mean_bound", [0.0, 0.25])
@pytest.mark.parametrize("attention", ["none", "both"])
def test_tiles_with_the_measured_halo_equal_the_whole_picture(attention, mean_bound):
    network = random_checkpoint(std=0.04, attention=attention, blocks=6, mean_bound=mean_bound).network
    halo = measured_halo(network)

    assert halo % network.multiple == 0
    assert 0 < halo < network.halo
    x = torch.rand(1, 3, 120, 160)
    condition = condition_vector(("bpg", "vvc", "jpeg"), "jpeg", 20)[None]
    tiled = run_tiled(lambda w: network(w, condition), x, tile_size=40, halo=halo, multiple=network.multiple)
    assert (tiled - network(x, condition)).abs().max() < 0.02 / 255


def test_stronger_weights_need_more_context_but_never_more_than_the_architecture_reaches():
    weak, strong = (random_checkpoint(std=std, blocks=4).network for std in (0.02, 0.3))

    assert measured_halo(weak) < measured_halo(strong) <= strong.halo
    assert measured_halo(strong, tolerance=-1.0) == strong.halo  # which nothing meets


def test_the_conditions_are_those_of_pictures():
    network = random_checkpoint().network
    codecs = ("bpg", "vvc", "jpeg")

    expected = torch.stack([condition_vector(codecs, None, None), condition_vector(codecs, "bpg", 51)])
    assert torch.equal(_conditions(network), expected)
