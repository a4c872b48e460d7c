from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_network import CODECS, random_checkpoint, write_random_checkpoint
from training import make_store

from enhancer.backends import create_backend
from enhancer.backends.export import cached_onnx
from enhancer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from enhancer.cli import export
from enhancer.condition import condition_vector
from enhancer.errors import CheckpointError
from enhancer.inference import Enhancer
from enhancer.quantization import QuantizedConv, calibrated, quantized, stored_ranges, trunk_layers
from train.quantize import quantize

RUNTIMES = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} not installed")
    )
    for name, package in (("openvino", "openvino"), ("onnx", "onnxruntime"))
]


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENHANCER_CACHE", str(tmp_path / "cache"))


def batches(picture: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    return [(x, condition_vector(CODECS, codec, 30)[None]) for codec in CODECS]


@pytest.fixture(scope="module")
def checkpoint(picture) -> Checkpoint:
    """A network whose corrections are of the size of a trained one's, calibrated on the picture."""
    plain = random_checkpoint(std=0.06)
    return replace(plain, metadata={"int8": json.dumps(calibrated(plain.network, batches(picture)))})


def test_inputs_and_weights_of_a_layer_take_256_values_at_most():
    conv = torch.nn.Conv2d(1, 2, 1).requires_grad_(False)
    conv.weight.copy_(torch.tensor([0.3, -100.0]).view(2, 1, 1, 1))
    torch.nn.init.zeros_(conv.bias)
    x = torch.linspace(-3, 3, 10_000).view(1, 1, 100, 100)

    y = QuantizedConv(conv, -1.0, 2.0)(x)

    assert y[:, 0].unique().numel() == 256
    assert y[:, 0].max() == pytest.approx(0.3 * 2.0, abs=1e-3)  # the range ends at 2
    assert y[:, 0].min() == pytest.approx(0.3 * -1.0, abs=1e-3)
    inside = (x > -1) & (x < 2)
    assert (y[:, 1:] + 100 * x)[
        inside
    ].abs().max() <= 100 * 3 / 255 / 2 + 1e-3  # half a step; each channel has its scale


def test_zero_stays_zero_so_that_borders_are_padded_with_a_step():
    conv = torch.nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)

    y = QuantizedConv(conv, -0.123, 4.567)(torch.zeros(1, 1, 4, 4))

    torch.testing.assert_close(y, conv.bias.expand_as(y))


def test_calibration_cuts_rare_outliers_off():
    checkpoint = random_checkpoint(blocks=1)
    x, condition = torch.rand(1, 3, 64, 64), condition_vector(CODECS, "bpg", 30)[None]
    kept = calibrated(checkpoint.network, [(x, condition)])
    x[0, :, 0, 0] = 60.0  # no picture has such a pixel

    disturbed = calibrated(checkpoint.network, [(x, condition)])

    assert list(kept) == trunk_layers(checkpoint.network) == ["blocks.0.conv1", "blocks.0.conv2", "fuse"]
    assert disturbed["blocks.0.conv1"][1] < 12 * kept["blocks.0.conv1"][1]  # the outlier is 60 times as large
    assert kept["blocks.0.conv2"][0] == 0.0  # after a ReLU


def test_the_first_and_the_last_layer_keep_their_precision(checkpoint):
    network = quantized(checkpoint.network, stored_ranges(checkpoint))

    kinds = {name: type(module) for name, module in network.named_modules()}
    assert kinds["head"] is kinds["tail"] is torch.nn.Conv2d
    assert kinds["blocks.0.conv1"] is kinds["fuse"] is QuantizedConv
    assert type(checkpoint.network.fuse) is torch.nn.Conv2d  # the original is untouched


def test_eight_bits_change_the_picture_little(checkpoint, picture):
    (x, condition), *_ = batches(picture)

    exact = checkpoint.network(x, condition)
    rounded = quantized(checkpoint.network, stored_ranges(checkpoint))(x, condition)

    correction, error = (exact - x).square().mean(), (rounded - exact).square().mean()
    assert 0 < error < correction / 1000


@pytest.mark.parametrize("backend", RUNTIMES)
def test_runtimes_compute_the_quantised_network_in_tiles_as_whole(backend, checkpoint, picture):
    runner = create_backend(backend, checkpoint, device="cpu", threads=1, precision="int8")
    emulated = replace(checkpoint, network=quantized(checkpoint.network, stored_ranges(checkpoint)))
    expected = Enhancer(emulated, create_backend("torch", emulated, device="cpu"), tile=1024).enhance(picture)

    for tile in (1024, 32):
        result = Enhancer(checkpoint, runner, tile=tile).enhance(picture)
        assert np.abs(result.astype(int) - expected).max() <= 2, tile
        assert np.mean(result != expected) < 0.1
    assert np.abs(expected.astype(int) - picture).max() > 4


def test_the_cache_tells_eight_bits_and_other_ranges_apart(checkpoint):
    wider = {name: (2 * low, 2 * high) for name, (low, high) in stored_ranges(checkpoint).items()}
    other = replace(checkpoint, metadata={"int8": json.dumps(wider)})

    models = {cached_onnx(checkpoint), cached_onnx(checkpoint, int8=True), cached_onnx(other, int8=True)}

    assert len(models) == 3
    assert cached_onnx(checkpoint, int8=True) in models


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, "was not calibrated for int8"),
        ("no json", "cannot be read"),
        ('{"fuse": 3}', "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"fuse": [0, 1]}', "not those of its layers"),
    ],
)
def test_ranges_that_are_missing_or_damaged_are_refused(checkpoint, stored, message):
    metadata = {} if stored is None else {"int8": stored}

    cached_onnx(checkpoint)  # which is not what is asked for
    with pytest.raises(CheckpointError, match=message):
        cached_onnx(replace(checkpoint, metadata=metadata), int8=True)


def test_calibration_without_pictures_is_refused(checkpoint):
    with pytest.raises(ValueError, match="at least one picture"):
        calibrated(checkpoint.network, [])


def test_torch_does_not_pretend_to_compute_in_eight_bits(checkpoint):
    with pytest.raises(ValueError, match="torch does not compute in int8"):
        create_backend("torch", checkpoint, device="cpu", precision="int8")


def test_the_command_calibrates_on_the_training_part_and_measures_on_the_other(tmp_path):
    make_store(tmp_path / "store")
    source = write_random_checkpoint(tmp_path / "net.safetensors", std=0.02)

    report = quantize(str(source), tmp_path / "store", tmp_path / "int8.safetensors", pairs=4)

    written = load_checkpoint(tmp_path / "int8.safetensors")
    assert list(stored_ranges(written)) == trunk_layers(written.network)
    assert report.sha256 == written.sha256
    assert report.pairs == 2  # one original is for validation, coded by two of the codecs
    assert 0 < abs(report.mean_loss_db) < 0.1
    assert report.mean_loss_db <= report.worst_loss_db < 0.1


def test_a_store_of_other_codecs_is_refused(tmp_path):
    make_store(tmp_path / "store")
    network = random_checkpoint().network
    save_checkpoint(tmp_path / "net.safetensors", network, codecs=("vvc", "webp", "avif"))

    with pytest.raises(ValueError, match="no pairs of vvc, webp, avif"):
        quantize(str(tmp_path / "net.safetensors"), tmp_path / "store", tmp_path / "out.safetensors")


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime not installed")
def test_the_export_command_writes_eight_bits_on_request(checkpoint, tmp_path, capsys):
    import onnx

    source = tmp_path / "net.safetensors"
    save_checkpoint(source, checkpoint.network, codecs=CODECS, metadata=checkpoint.metadata)

    assert export.main([str(source), "-o", str(tmp_path / "int8.onnx"), "--int8"]) == 0

    operations = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert operations.count("QuantizeLinear") == 2 * len(trunk_layers(checkpoint.network))  # inputs and weights
    plain = write_random_checkpoint(tmp_path / "plain.safetensors")
    assert export.main([str(plain), "-o", str(tmp_path / "none.onnx"), "--int8"]) == 1
    assert "was not calibrated" in capsys.readouterr().err
    assert not (tmp_path / "none.onnx").exists()
