"""``train average``: the mean of weights."""

import json

import pytest
import torch
from small_network import write_random_checkpoint

from enhancer.checkpoint import load_checkpoint, save_checkpoint
from enhancer.halo import measured_halo
from train.average import average


def test_the_mean_of_two_checkpoints_is_written_without_what_holds_for_one_of_them(tmp_path):
    one = load_checkpoint(write_random_checkpoint(tmp_path / "one.safetensors", std=0.02))
    three = load_checkpoint(write_random_checkpoint(tmp_path / "three.safetensors", std=0.02))
    with torch.no_grad():
        for weights in three.network.parameters():
            weights.add_(0.25)
    metadata = {**one.metadata, "int8": "{}", "note": "kept"}
    for name, loaded in (("one", one), ("three", three)):
        save_checkpoint(tmp_path / f"{name}.safetensors", loaded.network, codecs=loaded.codecs, metadata=metadata)

    average([str(tmp_path / "one.safetensors"), str(tmp_path / "three.safetensors")], tmp_path / "two.safetensors")

    two = load_checkpoint(tmp_path / "two.safetensors")
    for before, mean in zip(one.network.parameters(), two.network.parameters(), strict=True):
        torch.testing.assert_close(mean, before + 0.125, rtol=2e-3, atol=2e-3)
    assert two.metadata["note"] == "kept"
    assert "int8" not in two.metadata
    assert int(two.metadata["halo"]) == measured_halo(two.network)
    assert len(set(json.loads(two.metadata["average"]))) == 2


def test_different_networks_have_no_mean(tmp_path):
    small = write_random_checkpoint(tmp_path / "small.safetensors")

    with pytest.raises(ValueError, match="fast is another network than"):
        average([str(small), "fast"], tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="two checkpoints at least"):
        average([str(small)], tmp_path / "out.safetensors")

    assert not (tmp_path / "out.safetensors").exists()
