from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_network import write_random_checkpoint
from training import make_store

from enhancer.checkpoint import load_checkpoint
from enhancer.condition import condition_vector
from enhancer.halo import measured_halo
from train import shrink as module
from train.shrink import best_factor, shrink


def test_the_best_factor_is_that_of_least_squares_where_all_pictures_agree():
    error, correction = 4e-4, 1e-4
    moments = np.array([[error, 0.85 * correction, correction]] * 3)

    assert best_factor(moments) == pytest.approx(0.85, abs=1e-3)


def test_the_best_factor_stays_within_bounds():
    assert best_factor(np.array([[4e-4, -1e-4, 1e-4]])) == pytest.approx(module.BOUNDS[0], abs=1e-3)


def test_only_the_corrections_of_codecs_with_enough_pairs_are_scaled(tmp_path, monkeypatch):
    make_store(tmp_path / "store")
    source = write_random_checkpoint(tmp_path / "net.safetensors", std=0.02)
    monkeypatch.setattr(module, "LEAST_PAIRS", 1)

    factors = shrink(str(source), tmp_path / "store", tmp_path / "out.safetensors")

    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "out.safetensors")
    assert json.loads(after.metadata["shrink"]) == {codec: round(value, 4) for codec, value in factors.items()}
    x = torch.rand(1, 3, 4 * before.network.multiple, 4 * before.network.multiple)
    for codec in before.codecs:
        condition = condition_vector(before.codecs, codec, 30, "420")[None]
        old, new = (loaded.network.correction(x, condition) for loaded in (before, after))
        torch.testing.assert_close(new, old * factors.get(codec, 1.0), rtol=0.02, atol=1e-5)


def test_the_bound_comes_with_the_context_that_it_needs(tmp_path, monkeypatch):
    make_store(tmp_path / "store")
    source = write_random_checkpoint(tmp_path / "net.safetensors", std=0.04)
    monkeypatch.setattr(module, "LEAST_PAIRS", 1)

    shrink(str(source), tmp_path / "store", tmp_path / "out.safetensors", mean_bound=0.25)

    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "out.safetensors")
    assert after.config == replace(before.config, mean_bound=0.25, jpeg_place=before.codecs.index("jpeg"))
    assert int(after.metadata["halo"]) == measured_halo(after.network) > measured_halo(before.network)


def test_without_pairs_the_bound_is_set_and_the_factors_stay(tmp_path):
    source = write_random_checkpoint(tmp_path / "net.safetensors", std=0.04)

    factors = shrink(str(source), None, tmp_path / "out.safetensors", mean_bound=0.5)

    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "out.safetensors")
    assert factors == {}
    assert after.config.mean_bound == 0.5
    for name, tensor in before.network.state_dict().items():
        torch.testing.assert_close(after.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)  # float16


def test_a_store_with_few_pairs_is_refused(tmp_path):
    make_store(tmp_path / "store")
    source = write_random_checkpoint(tmp_path / "net.safetensors")

    with pytest.raises(ValueError, match="fewer than 20 validation pairs of each codec"):
        shrink(str(source), tmp_path / "store", tmp_path / "out.safetensors")
