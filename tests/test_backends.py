from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import random_checkpoint, write_random_checkpoint

import enhancer.backends
from enhancer.backends import create_backend
from enhancer.backends.export import InParts, cache_folder, cached_onnx, in_parts, to_onnx
from enhancer.backends.torch_backend import TorchBackend
from enhancer.checkpoint import Checkpoint
from enhancer.cli import export
from enhancer.errors import EnhancerError
from enhancer.inference import Enhancer

CPU = torch.device("cpu")


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


OTHERS = [
    pytest.param("openvino", marks=needs("openvino", "onnx")),
    pytest.param("onnx", marks=needs("onnx", "onnxruntime")),
]


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ENHANCER_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint()


def by_torch(checkpoint, **options) -> Enhancer:
    return Enhancer(checkpoint, TorchBackend(checkpoint, device=CPU), **options)


def by(backend, checkpoint, **options) -> Enhancer:
    return Enhancer(checkpoint, create_backend(backend, checkpoint, threads=1, precision="float32"), **options)


@pytest.mark.parametrize("attention", ["none", "channel", "spatial", "both"])
@pytest.mark.parametrize("sizes", [{}, {"channels": 12, "unshuffle": 1, "cell": 4}], ids=["half", "full"])
@pytest.mark.parametrize("side", [(16, 40), (4, 4)])
def test_the_pass_in_place_is_that_of_the_network(attention, sizes, side):
    checkpoint = random_checkpoint(attention=attention, **sizes)
    generator = torch.Generator().manual_seed(1)
    x, condition = (
        torch.rand(2, *shape, generator=generator) for shape in ((3, *side), (checkpoint.config.condition,))
    )
    before = x.clone()

    single, half = (TorchBackend(checkpoint, device=CPU, precision=p)(x, condition) for p in ("float32", "bfloat16"))

    with torch.no_grad():
        expected = checkpoint.network(x, condition)
    change = (expected - x).abs().mean()
    torch.testing.assert_close(single, expected, atol=1e-5, rtol=1e-5)
    assert 1e-5 * change < (half - expected).abs().mean() < 0.02 * change
    assert torch.equal(x, before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_pass_in_place_bounds_local_means(precision):
    free, bounded = random_checkpoint(), random_checkpoint(mean_bound=0.25)
    x, condition = torch.rand(1, 3, 24, 40), torch.zeros(1, free.config.condition)

    restored = TorchBackend(bounded, device=CPU, precision=precision)(x, condition)

    with torch.no_grad():
        change = (bounded.network(x, condition) - free.network(x, condition)).abs().mean()
        error = (restored - bounded.network(x, condition)).abs().mean()
    assert error < 0.02 * change


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize(
    ("attention", "mean_bound"), [("none", 0.0), ("channel", 0.0), ("spatial", 0.0), ("both", 0.0), ("channel", 0.25)]
)
def test_backends_agree_within_one_step_for_every_size_and_tile(backend, attention, mean_bound, picture):
    codec, qp, place = ("jpeg", 10, 2) if mean_bound else ("vvc", 30, -1)
    checkpoint = random_checkpoint(attention=attention, mean_bound=mean_bound, jpeg_place=place)
    runner = create_backend(backend, checkpoint, threads=1, precision="float32")
    for height, width, tile in [(64, 80, "auto"), (33, 21, "auto"), (1, 1, "auto"), (96, 128, 32)]:
        image = picture[:height, :width]
        expected = by_torch(checkpoint, tile=1000).enhance(image, codec=codec, qp=qp)

        result = Enhancer(checkpoint, runner, tile=tile).enhance(image, codec=codec, qp=qp)

        assert np.abs(result.astype(int) - expected).max() <= 1
        assert np.abs(expected.astype(int) - image).max() > 1  # the network does something


@pytest.mark.parametrize("backend", OTHERS)
def test_backends_take_batches_and_ensembles(backend, checkpoint):
    x = torch.rand(2, 3, 24, 40)
    options = {"ensemble": "dihedral", "strength": 0.7}

    result = by(backend, checkpoint, **options).enhance(x)

    torch.testing.assert_close(result, by_torch(checkpoint, **options).enhance(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", OTHERS)
def test_threads_share_a_backend(backend, checkpoint, picture):
    shared = by(backend, checkpoint)
    images = [np.roll(picture, 8 * shift, axis=1) for shift in range(6)]
    expected = [shared.enhance(image) for image in images]

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(shared.enhance, images))

    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("backend", ["torch", pytest.param("openvino", marks=needs("openvino", "onnx"))])
def test_bfloat16_layers_change_a_sample_by_one_at_most(backend, picture):
    """The correction of this network is as large as a trained one's; the picture itself is added in float32."""
    checkpoint = random_checkpoint(std=0.06)
    runner = create_backend(backend, checkpoint, device="cpu", threads=1, precision="bfloat16")
    single = by_torch(checkpoint).enhance(picture)

    half = Enhancer(checkpoint, runner).enhance(picture)

    change = np.abs(single.astype(int) - picture)
    assert 1 < change.mean() < 30
    assert np.abs(half.astype(int) - single).max() <= 1


def test_precision_is_checked(checkpoint):
    with pytest.raises(ValueError, match="precision must be one of auto, float32, bfloat16, int8, got 'int4'"):
        create_backend("torch", checkpoint, precision="int4")


@needs("onnx", "onnxruntime")
def test_onnxruntime_does_not_compute_in_bfloat16(checkpoint):
    with pytest.raises(ValueError, match="backend onnx computes in float32 and int8 only"):
        create_backend("onnx", checkpoint, precision="bfloat16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_picture_of_the_processor(checkpoint, picture):
    on_gpu = Enhancer(checkpoint, create_backend("torch", checkpoint, device="cuda")).enhance(picture)

    assert np.abs(on_gpu.astype(int) - by_torch(checkpoint).enhance(picture)).mean() < 0.25


@needs("openvino", "onnx")
def test_auto_is_openvino_on_x86_and_torch_elsewhere(checkpoint, monkeypatch):
    monkeypatch.setattr(enhancer.backends.platform, "machine", lambda: "AMD64")
    assert create_backend("auto", checkpoint, device="cpu").name == "openvino"

    monkeypatch.setattr(enhancer.backends.platform, "machine", lambda: "arm64")
    assert create_backend("auto", checkpoint, device="cpu").name == "torch"


def test_a_missing_package_is_named_with_the_remedy(checkpoint, monkeypatch):
    monkeypatch.setattr(enhancer.backends, "find_spec", lambda name: None)

    assert create_backend("auto", checkpoint, device="cpu").name == "torch"
    with pytest.raises(EnhancerError, match=r"needs openvino.*pip install 'enhancer\[openvino\]'"):
        create_backend("openvino", checkpoint)


def test_only_torch_runs_on_other_devices(checkpoint, monkeypatch):
    monkeypatch.setattr(enhancer.backends, "resolve_device", torch.device)

    with pytest.raises(ValueError, match="backend onnx runs on the cpu only, got device 'cuda'"):
        create_backend("onnx", checkpoint, device="cuda")
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        create_backend("torch", checkpoint, threads=0)


@needs("onnx", "onnxruntime")
def test_export_is_a_valid_model_of_any_size(checkpoint):
    import onnx
    import onnxruntime

    model = to_onnx(checkpoint)

    onnx.checker.check_model(onnx.load_from_string(model))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for shape in [(1, 3, 4, 4), (3, 3, 20, 12)]:
        x, condition = torch.rand(shape), torch.rand(shape[0], checkpoint.config.condition)
        restored = session.run(["restored"], {"x": x.numpy(), "condition": condition.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(restored), checkpoint.network(x, condition), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["none", "both"])
def test_the_network_for_a_picture_in_parts_is_the_same_network(attention):
    """Not so with a picture rounded to bfloat16, whatever the weights are."""
    network = random_checkpoint(attention=attention).network
    generator = torch.Generator().manual_seed(3)
    x, condition = (torch.rand(2, *shape, generator=generator) for shape in ((3, 16, 24), (network.config.condition,)))
    rounded = x.to(torch.bfloat16).float()

    with torch.no_grad():
        expected = network(x, condition) - x
        in_two = InParts(network)(in_parts(x), condition)
        from_rounded = network(rounded, condition) - rounded

    size = expected.abs().mean()
    assert (in_two - expected).abs().mean() < 1e-5 * size
    assert (from_rounded - expected).abs().mean() > 3e-4 * size


@needs("onnx")
def test_an_exported_model_is_made_once_for_each_network(checkpoint, private_cache, monkeypatch):
    first = cached_onnx(checkpoint)
    other = cached_onnx(random_checkpoint(std=0.05))
    assert other != first
    assert len(list(private_cache.glob("*.onnx"))) == 2

    monkeypatch.setattr("enhancer.backends.export.to_onnx", lambda *_, **options: pytest.fail("exported again"))
    assert cached_onnx(checkpoint) == first


@needs("onnx", "onnxruntime")
def test_the_export_command_writes_a_model_that_says_how_to_use_it(tmp_path, capsys):
    import onnxruntime

    network = write_random_checkpoint(tmp_path / "net.safetensors")
    output = tmp_path / "net.onnx"

    assert export.main([str(network), "-o", str(output)]) == 0
    assert "multiples of 4" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert (properties["multiple"], properties["codecs"]) == ("4", '["bpg", "vvc", "jpeg"]')

    assert export.main([str(network), "-o", str(output)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert export.main([str(tmp_path / "none"), "-o", str(tmp_path / "none.onnx")]) == 1
    assert "cannot read checkpoint" in capsys.readouterr().err


def test_an_empty_variable_turns_the_cache_off(monkeypatch):
    monkeypatch.setenv("ENHANCER_CACHE", "")
    assert cache_folder() is None


def test_a_cache_folder_that_cannot_be_made_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ENHANCER_CACHE", str(tmp_path / "file" / "cache"))
    assert cache_folder() is None
