"""Training of refiners: latents as the decoder sees them, controls, exact resume, files that attach."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learned_models import INSTALLED
from training import make_store

from enhancer.network import NetworkConfig
from enhancer.refiners import PlainResidual, attach, load_refiners, weights_sha256
from train.store import PairStore, PairWriter

if not INSTALLED:
    pytest.skip("CompressAI is not installed (the extra [learned])", allow_module_level=True)

from codec_wrappers.learned.coding import to_tensor
from codec_wrappers.learned.models import ModelConfig, build
from codec_wrappers.learned.storage import dump_model
from train.__main__ import main
from train.latents import LatentCache, WindowSampler, collate, split_originals
from train.refine import RefineTrainer, export_refiners, refine
from train.refine_config import RefineConfig, load_base, parse_settings, schedule

CPU = torch.device("cpu")
CONFIG = RefineConfig(
    refiners=("qecm-learned", "qecm-picture", "fenm", "pixel"),
    steps=6,
    batch=2,
    crop=48,
    margin=8,
    warmup=1,
    pixel=NetworkConfig(channels=4, blocks=1, unshuffle=2, attention="channel", cell=4, condition=5),
    validation_pictures=1,
    validate_every=3,
    save_every=2,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def large_store(tmp_path_factory) -> Path:
    """For mode all, which needs whole multiples of 64 pixels."""
    folder = tmp_path_factory.mktemp("large")
    with PairWriter(folder) as writer:
        for number in range(2):
            image = torch.randint(0, 256, (70, 64, 3), dtype=torch.uint8).numpy()
            writer.add_original(f"{number}", "set", f"{number}.png", image)
    return folder


@pytest.fixture(scope="module")
def base_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = build(ModelConfig("msh", 8, 12, (0.013,)))
    with torch.no_grad():
        model.g_a[6].weight.mul_(8)
    path = tmp_path_factory.mktemp("base") / "msh.safetensors"
    path.write_bytes(dump_model(model)[0])
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(config: RefineConfig, base_file: Path, store: Path, output: Path, cache: Path, **options):
    return refine(config, load_base(base_file), store, output, cache=cache, device="cpu", **options)


def test_cached_latents_are_what_the_decoder_gives_to_its_synthesis(store, base_file, cache):
    base, pictures = load_base(base_file), PairStore(store)
    latents = LatentCache(cache, base, pictures)
    original = next(iter(pictures.originals.values()))
    latents.fill([original], [1.0])
    stored = collate([latents.read(original, 1.0)])

    x = to_tensor(pictures.image(original, original.offset), 64)
    coded = base.compress(x)
    decoded = base.decompress(coded["strings"], coded["shape"])["x_hat"]

    with attach(base, []) as attachment, torch.no_grad():
        picture = attachment.synthesise(stored.decoded, stored.context).clamp(0, 1)
    assert torch.equal(picture, decoded)
    assert stored.decoded.unique().numel() > 2
    assert (stored.unquantised - stored.decoded).abs().max() < 0.51
    symbols = stored.decoded - stored.context.mu
    torch.testing.assert_close(symbols.round(), symbols, atol=1e-4, rtol=0)
    size = sum(len(string) for strings in coded["strings"] for string in strings)
    assert latents.bits_per_pixel([original], 1.0) == 8 * size / (original.height * original.width)
    assert torch.equal(stored.target[0], x[0, :, : original.height, : original.width])


def test_windows_are_cut_alike_from_latents_and_pictures(store, base_file, cache):
    pictures = PairStore(store)
    latents = LatentCache(cache, load_base(base_file), pictures)
    originals = list(pictures.originals.values())
    latents.fill(originals, [1.0])

    tensors, pixels = latents.read(originals[2], 1.0, slice(1, 3), slice(0, 2))
    whole, image = latents.read(originals[2], 1.0)

    assert torch.equal(tensors["decoded"], whole["decoded"][:, 1:3, :2])
    assert torch.equal(pixels, image[16:48, :32])
    sampler = WindowSampler(latents, originals, [1.0], crop=32, batch=3, seed=5)
    assert torch.equal(sampler.batch(7)[1].target, sampler.batch(7)[1].target)
    assert not torch.equal(sampler.batch(7)[1].target, sampler.batch(8)[1].target)
    with pytest.raises(ValueError, match="multiple of 16, got 40"):
        WindowSampler(latents, originals, [1.0], crop=40, batch=1, seed=0)


def test_latents_of_another_codec_are_refused(store, base_file, cache):
    LatentCache(cache, load_base(base_file), PairStore(store))
    other = build(ModelConfig("msh", 8, 12, (0.02,)))

    with pytest.raises(ValueError, match="latents of another codec"):
        LatentCache(cache, other, PairStore(store))


@pytest.mark.parametrize("mode", ["base", "encoder"])
def test_training_lowers_the_loss_and_its_file_refines_the_untouched_codec(mode, store, base_file, cache, tmp_path):
    config = replace(CONFIG, mode=mode, steps=12, lr=3e-3, decoder_lr=3e-3, feature_weight=0.0)

    score = run(config, base_file, store, tmp_path / "run", cache)

    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert lines[-1]["psnr"] == round(score.psnr, 4)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert score.gain > 0.1  # of random weights, anything trained gains
    base = load_base(base_file)
    made = load_refiners(tmp_path / "run" / "last.safetensors")
    assert (made.decoder is not None) == (mode == "encoder")
    original = split_originals(PairStore(store))[1][0]
    image = PairStore(store).image(original, original.offset)
    coded = base.compress(to_tensor(image, 64))
    with made.attach(base):
        x_hat = base.decompress(coded["strings"], coded["shape"])["x_hat"]
    decoded = x_hat[0, :, : original.height, : original.width].mul(255).round().permute(1, 2, 0)
    error = (decoded.double() - torch.from_numpy(image.copy()).double()).square().mean()
    assert 10 * torch.log10(255**2 / error).item() == pytest.approx(score.psnr, abs=1e-3)


@pytest.mark.parametrize("mode", ["base", "encoder"])
def test_an_interrupted_run_ends_as_the_uninterrupted_one(mode, store, base_file, cache, tmp_path):
    config = replace(CONFIG, mode=mode, save_every=3)
    whole = run(config, base_file, store, tmp_path / "whole", cache)

    for _ in range(6):
        parts = run(config, base_file, store, tmp_path / "parts", cache, minutes=0)

    assert parts == whole
    states = [load_refiners(tmp_path / name / "last.safetensors").refiners for name in ("whole", "parts")]
    for one, other in zip(*states, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_controls_train_what_they_should(store, base_file, cache):
    def trainer(**options) -> RefineTrainer:
        return RefineTrainer(replace(CONFIG, **options), load_base(base_file), PairStore(store), cache, CPU)

    def trained(trainer: RefineTrainer) -> int:
        return sum(p.numel() for parameters, _ in trainer.groups for p in parameters)

    decoder = sum(p.numel() for p in load_base(base_file).g_s.parameters())
    alone, residual, refined = trainer(control="gs"), trainer(control="residual"), trainer()
    assert alone.refiners == []
    assert trained(alone) == decoder
    assert all(isinstance(refiner, PlainResidual) for refiner in residual.refiners)
    assert [r.point for r in residual.refiners] == [r.point for r in refined.refiners]
    assert trained(residual) == pytest.approx(trained(refined), rel=0.1)
    assert trained(trainer(mode="encoder")) == trained(refined) + decoder


def test_frozen_parts_stay_as_they_are(store, base_file, cache):
    base = load_base(base_file)
    trainer = RefineTrainer(replace(CONFIG, mode="encoder"), base, PairStore(store), cache, CPU)
    trainer.advance()
    trainer.attachment.detach()

    assert weights_sha256(base) == trainer.base_sha256


def test_feature_loss_counts_in_the_first_part_only(store, base_file, cache):
    def losses(weight: float) -> list[float]:
        config = replace(CONFIG, refiners=("fenm",), feature_weight=weight, feature_share=1 / 3, lr=0.0)
        trainer = RefineTrainer(config, load_base(base_file), PairStore(store), cache, CPU)
        return [trainer.advance() for _ in range(4)]

    without, weighted = losses(0.0), losses(1e6)

    assert all(high > low for high, low in zip(weighted[:2], without[:2], strict=True))
    assert weighted[2:] == without[2:]


@pytest.mark.parametrize("refiners", [("qecm-soft", "fenm"), ("qecm-paper",)])
def test_the_whole_codec_trains_with_its_refiners(refiners, large_store, base_file, tmp_path):
    config = replace(CONFIG, mode="all", refiners=refiners, crop=64, steps=2, validate_every=2)

    run(config, base_file, large_store, tmp_path / "run", tmp_path / "unused")

    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert line["cost"] > line["bpp"] > 0
    sha256 = export_refiners(tmp_path / "run", "last", tmp_path / "all.safetensors", "a test")
    made = load_refiners(tmp_path / "all.safetensors")
    assert made.sha256 == sha256
    assert made.metadata["note"] == "a test"
    trained = load_base(tmp_path / "all.base.safetensors")
    assert weights_sha256(trained) == made.base_sha256 != weights_sha256(load_base(base_file))
    made.attach(trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refiners": ()}, "at least one refiner"),
        ({"steps": 0}, "must be at least 1"),
        ({"margin": 24}, "margin must leave some of the 48 pixels"),
    ],
)
def test_settings_that_contradict_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refiners": ("qecm-paper",)}, "no weights to train"),
        ({"refiners": ("sharpen",)}, "unknown refiner"),
        ({"crop": 64}, "no training picture is 64 pixels large"),
        ({"mode": "all"}, "crop must be a multiple of 64 in mode all"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message, store, base_file, cache, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(replace(CONFIG, **options), base_file, store, tmp_path / "run", cache)
    assert not (tmp_path / "run").exists()


def test_learning_rate_rises_stays_and_falls():
    config = RefineConfig(steps=100, warmup=10, decay=0.5)
    shares = [schedule(config, step) for step in range(100)]

    assert shares[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert set(shares[10:50]) == {1.0}
    assert shares[99] == pytest.approx(0, abs=1e-9)


def test_settings_come_from_the_command_line():
    config = parse_settings({"refiners": ["pixel"], "steps": 7}, ["lr=1e-3", "pixel.blocks=2", "qualities=[0.5, 1]"])

    assert (config.refiners, config.steps, config.lr, config.qualities) == (("pixel",), 7, 1e-3, (0.5, 1.0))
    assert config.pixel == replace(RefineConfig().pixel, blocks=2)
    for wrong, message in (
        ("speed=3", "unknown key speed"),
        ("pixel.hue=3", "unknown key pixel.hue"),
        ("lr", "Expected '='"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_settings({}, [wrong])


def test_the_command_trains_exports_and_refuses(store, base_file, cache, tmp_path, monkeypatch, capfd):
    def command(*words: str | Path) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["train", *map(str, words)])
        status = main()
        return status, *(text.splitlines() for text in capfd.readouterr())

    settings = [f"--set={s}" for s in ("crop=48", "margin=8", "batch=1", "validation_pictures=1")]
    options = ("-d", store, "--cache", cache, "--refiners", "fenm", "--steps", "1", "--device", "cpu", *settings)
    status, said, _ = command("refine", base_file, "-o", tmp_path / "run", *options)
    assert status == 0
    assert " dB (" in said[0]

    status, said, _ = command("export", tmp_path / "run", "-o", tmp_path / "fenm.safetensors", "--note", "a test")
    assert status == 0
    assert load_refiners(tmp_path / "fenm.safetensors").sha256 in said[0]

    status, said, complaint = command("refine", base_file, "-o", tmp_path / "run", *options, "--control", "gs")
    assert (status, said) == (1, [])
    assert "holds a run with another 'control'" in complaint[-1]
