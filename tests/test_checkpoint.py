"""Checkpoints: exact round trip, and one clear line for whatever is wrong with a file."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from enhancer import checkpoint as module
from enhancer.checkpoint import checkpoint_names, load_checkpoint, save_checkpoint
from enhancer.condition import CODECS
from enhancer.errors import CheckpointError
from enhancer.network import NetworkConfig, RestorationNetwork

CONFIG = NetworkConfig(channels=4, blocks=1, unshuffle=2, attention="channel", reduction=2, cell=4)


@pytest.fixture
def saved(tmp_path):
    network = RestorationNetwork(CONFIG)
    torch.nn.init.normal_(network.tail.weight)
    path = tmp_path / "tiny.safetensors"
    sha256 = save_checkpoint(path, network, codecs=CODECS, metadata={"steps": "12"})
    return path, network, sha256


def test_a_checkpoint_comes_back_whole(saved):
    path, network, sha256 = saved

    loaded = load_checkpoint(path)

    assert (loaded.config, loaded.codecs, loaded.metadata["steps"], loaded.sha256) == (CONFIG, CODECS, "12", sha256)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    assert not loaded.network.training


def test_half_precision_storage_halves_the_file_and_rounds_to_11_bits(saved, tmp_path):
    path, network, _ = saved
    half = tmp_path / "half.safetensors"

    save_checkpoint(half, network, codecs=CODECS, half=True)

    expected = network.tail.weight.half().float()
    assert torch.equal(load_checkpoint(half).network.tail.weight, expected)
    assert half.stat().st_size < 0.8 * path.stat().st_size


def test_a_named_checkpoint_with_another_hash_is_refused(saved, tmp_path, monkeypatch):
    path, _, sha256 = saved
    monkeypatch.setattr(module, "checkpoint_folder", lambda: tmp_path)
    manifest = tmp_path / "manifest.toml"

    manifest.write_text(f'[tiny]\nfile = "{path.name}"\nsha256 = "{sha256}"\n')
    assert checkpoint_names() == ("tiny",)
    assert load_checkpoint("tiny").sha256 == sha256

    manifest.write_text(f'[tiny]\nfile = "{path.name}"\nsha256 = "{"0" * 64}"\n')
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint("tiny")


def test_an_unknown_name_lists_the_shipped_ones(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "checkpoint_folder", lambda: tmp_path)
    (tmp_path / "manifest.toml").write_text('[tiny]\nfile = "x"\nsha256 = "x"\n')

    with pytest.raises(CheckpointError, match=r"cannot read checkpoint huge.*shipped ones: tiny"):
        load_checkpoint("huge")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(saved, keep):
    path = saved[0]
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(CheckpointError, match="safetensors"):
        load_checkpoint(path)


def test_a_pickle_is_never_run(tmp_path):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))

    with pytest.raises(CheckpointError, match="safetensors"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "no checkpoint of this package"),
        ({"version": "2"}, "format version 2"),
        ({"version": "two"}, "format version two"),
        ({"config": json.dumps({"channels": 8})}, "architecture"),
        ({"config": json.dumps({"depth": 8})}, "architecture"),
        ({"config": "no json"}, "architecture"),
        ({"codecs": json.dumps(["bpg"])}, "another condition vector"),
        ({"training": "no json"}, "training"),
        ({"training": json.dumps({"data": None})}, "training"),
        ({"training": json.dumps({"data": {"weights": {"bpg": "much"}}})}, "training"),
        ({"seen": "3"}, "training"),
    ],
)
def test_a_foreign_or_newer_file_is_refused_in_one_line(saved, changes, message):
    path = saved[0]
    loaded = load_checkpoint(path)
    save_file(loaded.network.state_dict(), path, metadata=loaded.metadata | changes)

    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)

    assert "\n" not in str(caught.value)
