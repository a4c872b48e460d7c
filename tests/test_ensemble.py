from __future__ import annotations

import pytest
import torch

from enhancer.ensemble import TRANSFORMS, run_ensemble


@pytest.mark.parametrize("mode", TRANSFORMS)
def test_ensemble_of_the_identity_is_the_identity(mode):
    x = torch.rand(2, 3, 5, 8, dtype=torch.float64)

    torch.testing.assert_close(run_ensemble(lambda view: view, x, mode), x)


@pytest.mark.parametrize(("mode", "runs"), [("none", 1), ("rotate", 4), ("dihedral", 8)])
def test_ensemble_shows_the_network_every_orientation_once(mode, runs):
    seen = []
    run_ensemble(lambda view: seen.append(view) or view, torch.rand(1, 1, 4, 4), mode)

    assert len({tuple(view.flatten().tolist()) for view in seen}) == len(seen) == runs


def test_rotations_average_a_directional_filter():
    """A shift by one pixel to the right becomes the mean of the shifts in all four directions."""
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1

    y = run_ensemble(lambda view: view.roll(1, dims=-1), x, "rotate")

    expected = torch.zeros(5, 5)
    expected[1, 2] = expected[3, 2] = expected[2, 1] = expected[2, 3] = 0.25
    torch.testing.assert_close(y[0, 0], expected)


def test_dihedral_ensemble_of_any_filter_commutes_with_mirroring():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)
    x = torch.rand(1, 3, 6, 9)

    torch.testing.assert_close(
        run_ensemble(network, x.flip(-1), "dihedral"), run_ensemble(network, x, "dihedral").flip(-1)
    )
