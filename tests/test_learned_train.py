"""Training of the learned codecs: the loss, exact resume, starts from other weights, the files it leaves."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from codec_wrappers.learned.loader import missing_modules

if missing_modules():
    pytest.skip("the extra [learned] is not installed", allow_module_level=True)

from learned_weights import random_model, write_weights

from codec_wrappers import get_codec
from codec_wrappers.learned.models import ModelConfig, Modulation, build
from codec_wrappers.learned.storage import parse_model
from train import learned_start
from train.__main__ import parser
from train.compiler import has_compiler
from train.learned import LearnedConfig, LearnedTrainer, rate_and_distortion, run, schedule
from train.learned_data import Pictures
from train.learned_start import copy_weights
from train.loop import Pace
from train.prepare import pixel_key
from train.store import PairWriter

CPU = torch.device("cpu")
TINY = LearnedConfig("vrae", (0.0018, 0.05), n=8, m=12, steps=8, crop=64, batch=2, warmup=2, validate_every=4)


@pytest.fixture(scope="module")
def store(tmp_path_factory, photograph) -> Path:
    """Six originals of 100 x 90 pixels, three of which are held out by their names, and one that is too small."""
    folder = tmp_path_factory.mktemp("learned-store")
    with PairWriter(folder) as writer:
        for name, top in zip("abcdxn", range(0, 200, 34), strict=True):
            image = np.ascontiguousarray(photograph[top : top + 100, top : top + 90])
            writer.add_original(pixel_key(image), "set", f"{name}.png", image)
        small = np.ascontiguousarray(photograph[:40, :90])
        writer.add_original(pixel_key(small), "set", "small.png", small)
    return folder


@pytest.fixture(scope="module")
def pictures(store) -> Pictures:
    return Pictures.open(store, 64)


@pytest.mark.parametrize("kind", ["msh", "vrae", "msh-sf"])
def test_rate_and_distortion_are_those_of_the_model(kind):
    """Training multiplies modulations into weights; the model that codes does not."""
    model = random_model(kind)
    model.set_quality(1.0 if kind == "msh" else 0.4)
    x = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        bpp, mse = rate_and_distortion(model, x, amp=False)
        expected = model(x)

    bits = sum(-likelihoods.log2().sum() for likelihoods in expected["likelihoods"].values())
    assert bpp.item() == pytest.approx(bits.item() / (2 * 64 * 128), rel=1e-5)
    assert mse.item() == pytest.approx((expected["x_hat"].clamp(0, 1) - x).square().mean().item(), rel=1e-5)


def test_lower_precision_changes_little():
    model = random_model("vrae")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        results = [rate_and_distortion(model, x, amp=amp) for amp in (False, True)]

    assert results[1][0].item() == pytest.approx(results[0][0].item(), rel=0.02)
    assert results[1][1].item() == pytest.approx(results[0][1].item(), rel=0.02)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_a_compiled_loss_is_the_same_but_for_rounding(pictures):
    trainer = LearnedTrainer(replace(TINY, model="msh", lambdas=(0.01,)), pictures, CPU, compiled=True)
    plain = LearnedTrainer(trainer.config, pictures, CPU)
    x = pictures.batch(0, 0, 2, 64)

    with torch.no_grad():
        found = trainer._terms(trainer.average, x, amp=True)
        expected = rate_and_distortion(trainer.average, x, amp=True)
    compiled, eager = trainer.advance(), plain.advance()

    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)
    assert compiled["loss"] == pytest.approx(eager["loss"], rel=0.1)  # other noise


def test_compiling_needs_a_compiler(store, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="--compile needs a C"):
        run(TINY, store, tmp_path / "run", device="cpu", compiled=True)
    assert not (tmp_path / "run").exists()


def test_training_lowers_the_loss(pictures):
    trainer = LearnedTrainer(replace(TINY, steps=60, lr=3e-3), pictures, CPU)

    lines = [trainer.advance() for _ in range(60)]

    assert np.mean([line["mse"] for line in lines[-10:]]) < 0.8 * np.mean([line["mse"] for line in lines[:10]])
    assert np.mean([line["bpp"] for line in lines[-10:]]) < np.mean([line["bpp"] for line in lines[:10]])


@pytest.mark.parametrize("kind", ["msh", "vrae"])
def test_a_fresh_model_is_a_block_transform(pictures, kind):
    config = LearnedConfig(kind, (0.01,) if kind == "msh" else (0.002, 0.01), n=32, m=64, crop=64, batch=4)
    model = LearnedTrainer(config, pictures, CPU).average
    x = torch.cat(list(pictures.validation()))

    with torch.no_grad():
        model.set_quality(1.0)
        latents = model.g_a(x)
        restored = model.g_s(latents)
        bpp, mse = rate_and_distortion(model, x, amp=False)

    varying = (x - x.mean((2, 3), keepdim=True)).square().mean()
    assert (restored - x).square().mean() < 0.15 * varying
    assert mse < 0.2 * varying
    assert bpp < 2.5
    strengths = latents.std((0, 2, 3))
    assert strengths[0] == strengths.max()


def test_a_fresh_hyperprior_sends_local_means_and_sizes(monkeypatch):
    """Latents without structure: everywhere, at the border too, it expects nothing but their deviation."""
    monkeypatch.setattr(learned_start, "BACKGROUND", 0.0)
    model = build(ModelConfig("msh", 16, 24, (0.01,)))
    latents = torch.randn(4, 24, 16, 16, generator=torch.Generator().manual_seed(1)) * torch.arange(24, 0, -1).view(
        -1, 1, 1
    )

    with torch.no_grad():
        learned_start._start_hyperprior(model, latents)
        level = latents.std((0, 2, 3)).view(-1, 1, 1) * torch.ones(24, 16, 16)
        sign = torch.where(torch.arange(16) % 2 == 0, 0.8, -0.8)  # sizes of a normal distribution, means of zero
        scales, means = model.h_s(model.h_a(level[None] * sign)).chunk(2, 1)
        moved = model.h_s(model.h_a(level[None] * torch.tensor(1.5).expand(16)))

    torch.testing.assert_close(scales / level, torch.ones_like(scales), atol=0.1, rtol=0)
    assert means.abs().max() < 0.05 * level.max()
    inside = moved[0, 24:27, 4:-4, 4:-4] / level[:3, 4:-4, 4:-4]
    torch.testing.assert_close(inside, torch.full_like(inside, 1.5), atol=0.05, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(5, 4), (8, 12), (64, 16), (6, 100)])
def test_models_of_any_size_start(pictures, n, m):
    LearnedTrainer(replace(TINY, n=n, m=m), pictures, CPU).advance()


def test_too_few_channels_are_refused(pictures):
    with pytest.raises(ValueError, match="n must be at least 5"):
        LearnedTrainer(replace(TINY, n=4), pictures, CPU)


@pytest.mark.parametrize("model", ["msh", "vrae"])
def test_a_resumed_run_is_the_run_that_was_never_stopped(pictures, model):
    config = replace(TINY, model=model, lambdas=(0.01,) if model == "msh" else TINY.lambdas)
    whole, first, second = (LearnedTrainer(config, pictures, CPU) for _ in range(3))
    for _ in range(5):
        whole.advance()
    for _ in range(2):
        first.advance()

    second.restore(first.state())
    for _ in range(3):
        second.advance()

    assert second.step == whole.step == 5
    for part in ("model", "average"):
        states = whole.state()[part], second.state()[part]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_each_step_has_a_quality_of_its_own_and_they_cover_the_range(pictures):
    trainer = LearnedTrainer(TINY, pictures, CPU)
    weights = []
    for step in range(200):
        trainer.step = step
        weights.append(trainer._quality()[1])

    places = np.log(np.array(weights) / TINY.lambdas[0]) / math.log(TINY.lambdas[1] / TINY.lambdas[0])
    assert (places.min(), places.max()) == (0, pytest.approx(1))
    assert np.histogram(places, 4, (0, 1))[0].min() >= 40
    assert 5 <= (places == 0).sum() <= 15


def test_gains_alone_are_trained_on_a_frozen_base(pictures, tmp_path):
    base = random_model("msh", lambdas=(0.05,))
    start = write_weights(tmp_path / "base.safetensors", base, half=False)
    trainer = LearnedTrainer(replace(TINY, model="msh-sf", lambdas=(0.002, 0.01, 0.05), start=start), pictures, CPU)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}

    for _ in range(3):
        trainer.advance()

    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"g_a.7.log_gain", "g_s.first.log_gain"}
    assert torch.equal(before["g_a.2.weight"], base.state_dict()["g_a.2.weight"])
    with pytest.raises(ValueError, match="msh-sf starts from"):
        replace(TINY, model="msh-sf", lambdas=(0.002, 0.05))


def test_a_plain_model_starts_as_the_modulated_one_at_its_lambda(tmp_path):
    source, target = random_model("vrae"), random_model("msh", seed=9, lambdas=(math.sqrt(0.0018 * 0.05),))
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    source.set_quality(0.5)
    with torch.no_grad():
        expected = source(x)
        copy_weights(source, target)
        found = target(x)

    torch.testing.assert_close(found["x_hat"], expected["x_hat"], rtol=1e-3, atol=1e-3)
    for name, likelihoods in expected["likelihoods"].items():
        torch.testing.assert_close(found["likelihoods"][name].log2().sum(), likelihoods.log2().sum(), rtol=1e-3, atol=1)


def test_a_modulated_model_starts_as_the_one_with_gains():
    lambdas = (0.002, 0.005, 0.01, 0.05)
    source = random_model("msh-sf", lambdas=lambdas)
    target = random_model("vrae", seed=9, lambdas=(lambdas[0], lambdas[-1]))
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for gain in source.gains():
            gain.add_(0.3 * torch.randn(gain.shape, generator=torch.Generator().manual_seed(2)))
        for module in target.modules():  # those within the transforms stay as they are: neutral in a fresh model
            if isinstance(module, Modulation):
                module.second.weight.zero_()
                module.second.bias.zero_()
        copy_weights(source, target)
        for i, value in enumerate(lambdas):
            source.set_quality(i / 3)
            target.set_quality(math.log(value / lambdas[0]) / math.log(lambdas[-1] / lambdas[0]))
            torch.testing.assert_close(target(x)["x_hat"], source(x)["x_hat"], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(target.g_a(x), source.g_a(x), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="from gains of lambdas"):
        copy_weights(source, random_model("vrae", lambdas=(lambdas[0], 0.02)))


@pytest.mark.parametrize("kind", ["msh", "vrae"])
def test_a_decoder_trained_alone_decodes_the_same_file_better(pictures, tmp_path, kind):
    lambdas = (0.01,) if kind == "msh" else (0.0018, 0.05)
    start = LearnedTrainer(replace(TINY, model=kind, lambdas=lambdas), pictures, CPU).model
    with torch.no_grad():
        start.g_s[-1].weight *= 1.1
    path, crops = tmp_path / "start.safetensors", pictures.batch(5, 0, 2, 64)
    write_weights(path, start, half=False)
    config = LearnedConfig(kind, lambdas, n=8, m=12, steps=60, crop=64, batch=2, lr=3e-3, start=str(path), decoder=True)
    trainer = LearnedTrainer(config, pictures, CPU)
    before = trainer.validate()

    for _ in range(60):
        trainer.advance()

    after = trainer.validate()
    write_weights(tmp_path / "end.safetensors", trainer.average, half=False)
    coded = [parse_model(file.read_bytes(), file).compress(crops) for file in (path, tmp_path / "end.safetensors")]
    assert coded[0] == coded[1]
    assert [line["bpp"] for line in after] == [line["bpp"] for line in before]
    assert min(a["psnr"] - b["psnr"] for a, b in zip(after, before, strict=True)) > 0.1


def test_weights_of_other_sizes_are_no_start():
    from codec_wrappers.learned.models import ModelConfig, build

    with pytest.raises(ValueError, match=r"cannot start n, m = \(8, 16\) from weights with n, m = \(8, 12\)"):
        copy_weights(random_model("msh"), build(ModelConfig("msh", 8, 16, (0.01,))))


def test_the_rate_of_learning_rises_stays_and_falls_to_zero():
    config = replace(TINY, steps=100, warmup=10, decay=0.4)
    shares = [schedule(config, step) for step in range(100)]

    assert shares[0] == pytest.approx(0.1)
    assert shares[10:59] == [1.0] * 49
    assert shares[79] == pytest.approx(0.5)
    assert shares[99] == pytest.approx(0)


def test_the_command_trains_resumes_and_leaves_weights_for_the_codec(store, tmp_path, capsys, picture):
    output = tmp_path / "run"
    sizes = ("--n", "8", "--m", "12", "--crop", "64", "--batch", "2")

    for steps in ("2", "4"):
        args = parser().parse_args(["learned", "vrae", "-d", str(store), "-o", str(output), "--steps", steps, *sizes])
        args.run(args)

    entry = capsys.readouterr().out
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    weights = output / "learned-vrae.safetensors"
    assert [line["step"] for line in lines] == [2, 4]
    assert set(lines[-1]) >= {"loss", "bpp", "mse", "aux", "lr", "crops_per_s", "validation", "time"}
    assert [point["position"] for point in lines[-1]["validation"]] == [0, 0.25, 0.5, 0.75, 1]
    assert parse_model(weights.read_bytes(), weights).config.lambdas == (0.0018, 0.0483)
    (tmp_path / "learned.toml").write_text(
        entry[entry.rindex("[learned") :].replace("learned-vrae.s", "run/learned-vrae.s")
    )
    codec = get_codec("vrae", weights=str(tmp_path))
    assert codec.decode(codec.encode(picture, 100)).image.shape == picture.shape
    with pytest.raises(ValueError, match="another 'batch': 2 instead of 3"):
        run(replace(TINY, lambdas=(0.0018, 0.0483), batch=3), store, output)


def test_as_many_steps_are_made_as_there_is_time_for(store, tmp_path, monkeypatch):
    for name, value in (("SETTLED", 2), ("MEASURED", 5), ("RESERVE_S", 0.5)):
        monkeypatch.setattr(Pace, name, value)
    clock = itertools.count(0, 0.01)
    for module in ("train.loop", "train.learned"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: next(clock)))

    run(replace(TINY, steps=3, validate_every=10**6), store, tmp_path, device="cpu", minutes=0.025, fit=True)

    steps = json.loads((tmp_path / "config.json").read_text())["steps"]
    assert json.loads((tmp_path / "log.jsonl").read_text())["step"] == steps > Pace.MEASURED
    assert schedule(replace(TINY, steps=steps), steps - 1) < 0.05


def test_fitting_needs_a_time(store, tmp_path):
    args = parser().parse_args(["learned", "vrae", "-d", str(store), "-o", str(tmp_path), "--fit"])

    with pytest.raises(ValueError, match="--fit needs --minutes"):
        args.run(args)


def test_a_folder_of_photographs_will_do_and_small_ones_are_left_out(tmp_path, picture):
    for name in ("one", "two"):
        PillowImage.fromarray(picture).save(tmp_path / f"{name}.png")
    PillowImage.fromarray(picture[:30]).save(tmp_path / "small.png")
    PillowImage.fromarray(picture[..., 0]).save(tmp_path / "gray.png")

    pictures = Pictures.open(tmp_path, 64)

    assert len(pictures.training) + len(pictures.held_out) == 3
    assert pictures.batch(0, 0, 3, 64).shape == (3, 3, 64, 64)
    assert torch.equal(pictures.batch(0, 5, 2, 64), pictures.batch(0, 5, 2, 64))
    assert not torch.equal(pictures.batch(0, 5, 2, 64), pictures.batch(0, 6, 2, 64))
    with pytest.raises(ValueError, match="no picture of at least 128"):
        Pictures.open(tmp_path, 128)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"crop": 100}, "multiple of 64"), ({"steps": 0}, "at least 1"), ({"decoder": True}, "a decoder alone")],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
