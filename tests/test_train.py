"""Training: settings, drawing of crops, losses, exact resume, several processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from codec_wrappers import get_codec
from codec_wrappers.errors import UnknownCodecError
from enhancer.checkpoint import load_checkpoint
from enhancer.condition import condition_vector
from enhancer.network import NetworkConfig, RestorationNetwork
from train.config import DataSettings, OptimizerSettings, Phase, TrainConfig, build, load_config, to_json, with_steps
from train.data import CropSampler
from train.export import export
from train.grow import copy_weights
from train.loop import NotFiniteError, Processes, Trainer, run, schedule
from train.losses import crop_ms_ssim, reconstruction_loss
from train.pack import pack, unpack
from train.prepare import CodecPlan, PrepareSettings, find_originals, pixel_key, prepare
from train.runlog import load_state
from train.store import PairStore, PairWriter

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")

CONFIG = TrainConfig(
    network=NetworkConfig(channels=8, blocks=1, unshuffle=2, attention="channel", reduction=2, cell=4),
    phases=(Phase(steps=6, batch=4, crop=32), Phase(steps=4, batch=2, crop=40, loss="mae+ms_ssim")),
    data=DataSettings(weights={"bpg": 2.0, "jpeg": 1.0}, validation_pairs=4),
    optimizer=OptimizerSettings(warmup=2, decay=0.5),
    validate_every=5,
    save_every=3,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Six originals of 48 x 56 pixels, each with a noisy version by two codecs; one is for validation."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("store")
    with PairWriter(folder) as writer:
        for number in range(6):
            base = rng.integers(0, 256, (6, 7, 3), np.uint8)
            image = np.repeat(np.repeat(base, 8, axis=0), 8, axis=1)
            key = pixel_key(image)
            writer.add_original(key, "set", f"{chr(ord('a') + number)}.png", image)
            for codec, qp in (("bpg", 37), ("jpeg", 10)):
                noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
                writer.add_pair(key, codec, f"{codec}()", qp, float(qp), b"bits" * 3, noisy)
    assert {o.is_validation for o in PairStore(folder).originals.values()} == {True, False}
    return folder


# Settings


@pytest.mark.parametrize("preset", sorted((ROOT / "train/presets").glob("*.toml")), ids=lambda path: path.stem)
def test_every_preset_loads_and_comes_back_from_json(preset):
    config = load_config(preset)

    assert build(TrainConfig, json.loads(to_json(config)), "") == config


def test_paper_preset_is_the_paper_s():
    config = load_config(ROOT / "train/presets/paper.toml")

    assert (config.network.channels, config.network.blocks, config.network.attention) == (64, 30, "both")
    assert (config.optimizer.lr, config.optimizer.betas) == (1e-4, (0.0, 0.999))
    assert [phase.loss for phase in config.phases] == ["mae", "mae+ms_ssim", "mae+ms_ssim"]
    assert config.phases[0].steps == 10_000
    assert config.data.augmentation == "rotate"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network]\nchanels = 3\n[[phases]]\nsteps = 1", "unknown key network.chanels"),
        ("[network]\n[[phases]]\nbatch = 1", "missing key phases.steps"),
        ("[[phases]]\nsteps = 1", "missing key network"),
        ("[network]\n[[phases]]\nsteps = 1.5", "phases.steps must be int"),
        ("[network]\n[[phases]]\nsteps = 1\nloss = 'gan'", "phases.loss must be one of"),
        ("[network]\n[data]\nweights = {gif = 1}\n[[phases]]\nsteps = 1", "unknown codecs: gif"),
        ("[network]\ncell = 16\n[[phases]]\nsteps = 1\ncrop = 40", "crop 40 is no multiple of 16"),
        ("network = ", "Invalid value"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "preset.toml"
    path.write_text(text)

    with pytest.raises(ValueError, match=message):
        load_config(path)


def test_overrides_reach_nested_keys():
    config = load_config(ROOT / "train/presets/fast.toml", ["optimizer.lr=5e-4", "seed=3"])

    assert (config.optimizer.lr, config.seed) == (5e-4, 3)


def test_scaled_steps_keep_the_phases_proportions():
    assert [phase.steps for phase in with_steps(CONFIG, 100).phases] == [60, 40]


def test_rate_rises_stays_and_falls_to_zero():
    rates = [schedule(CONFIG, step) for step in range(CONFIG.steps)]

    assert rates[:2] == [0.5, 1.0]
    assert rates[2:5] == [1.0] * 3
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0)


# Pairs


def test_a_store_whose_writer_was_killed_is_whole_up_to_its_last_line(store, tmp_path):
    before = PairStore(store)
    for name in ("index.jsonl", "pixels.u8", "bitstreams.bin"):
        (tmp_path / name).write_bytes((store / name).read_bytes())
    with (tmp_path / "index.jsonl").open("a") as index:
        index.write('{"original": "0123", "cod')
    with (tmp_path / "pixels.u8").open("ab") as pixels:
        pixels.write(b"half a picture")

    new = np.full((40, 40, 3), 7, np.uint8)
    with PairWriter(tmp_path) as writer:
        writer.add_original("new", "set", "new.png", new)
    after = PairStore(tmp_path)

    assert after.pairs == before.pairs
    assert np.array_equal(after.image(after.originals["new"], after.originals["new"].offset), new)
    pair = after.pairs[3]
    assert np.array_equal(
        after.image(after.original(pair), pair.offset), before.image(before.original(pair), pair.offset)
    )


def test_crops_are_the_same_place_of_both_pictures_in_all_eight_orientations(tmp_path):
    rows, columns = np.mgrid[:48, :56].astype(np.uint8)
    with PairWriter(tmp_path) as writer:
        for codec, value in (("bpg", 1), ("jpeg", 2)):
            original, decoded = (np.stack([rows, columns, np.full_like(rows, v)], axis=2) for v in (value, 100 + value))
            writer.add_original(codec, "set", "a.png", original)
            writer.add_pair(codec, codec, "", 37, 37.0, b"", decoded)
    batch = CropSampler(PairStore(tmp_path), CONFIG, CPU).batch(step=0, samples=range(64), crop=32)

    x, target = (tensor.mul(255).round().int() for tensor in (batch.x, batch.target))

    assert torch.equal(x[:, :2], target[:, :2])  # the same rows and columns of the picture
    assert torch.equal(x[:, 2], target[:, 2] + 100)  # a decoded picture and its own original
    down, right = (target[:, :2].diff(dim=dim).flatten(2) for dim in (2, 3))
    assert all((step == step[..., :1]).all() for step in (down, right))
    directions = {(*d.tolist(), *r.tolist()) for d, r in zip(down[..., 0], right[..., 0], strict=True)}
    assert directions == {
        *((a, 0, 0, b) for a in (-1, 1) for b in (-1, 1)),
        *((0, a, b, 0) for a in (-1, 1) for b in (-1, 1)),
    }


def test_samples_do_not_depend_on_how_a_batch_is_shared_out(store):
    sampler = CropSampler(PairStore(store), CONFIG, CPU)

    whole = sampler.batch(5, range(6), 32)
    parts = [sampler.batch(5, part, 32) for part in (range(2), range(2, 6))]

    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
    assert torch.equal(whole.condition, torch.cat([part.condition for part in parts]))
    assert not torch.equal(whole.x, sampler.batch(6, range(6), 32).x)


def test_codecs_are_drawn_in_their_proportions_and_some_are_hidden(store):
    batch = CropSampler(PairStore(store), CONFIG, CPU).batch(0, range(600), 32)
    shares = batch.condition.mean(0)
    bpg, jpeg, unknown = (float(shares[CONFIG.codecs.index("bpg")]), float(shares[2]), float(shares[-3]))

    assert bpg / jpeg == pytest.approx(2, rel=0.3)
    assert unknown == pytest.approx(CONFIG.data.blind, abs=0.05)


def test_a_codec_without_pairs_is_refused(store):
    config = replace(CONFIG, data=DataSettings(weights={"vvc": 1.0}))

    with pytest.raises(ValueError, match="no training pairs of vvc"):
        CropSampler(PairStore(store), config, CPU)


# Losses


def test_losses_by_hand():
    y, target = torch.full((1, 3, 40, 40), 0.5), torch.full((1, 3, 40, 40), 0.25)

    assert reconstruction_loss("mae", y, target).item() == pytest.approx(0.25)
    assert reconstruction_loss("mse", y, target).item() == pytest.approx(0.0625)
    assert reconstruction_loss("mae+ms_ssim", target, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("side", [33, 64, 128, 200])
def test_ms_ssim_of_crops_falls_with_noise_and_has_a_gradient(side):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, side, side, generator=generator)
    noise = torch.randn(target.shape, generator=generator)
    values = [crop_ms_ssim(target + amount * noise, target).item() for amount in (0.0, 0.02, 0.1)]

    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)
    assert values[2] < 0.99
    y = (target + 0.1 * noise).requires_grad_()
    crop_ms_ssim(y, target).backward()
    assert y.grad is not None
    assert torch.isfinite(y.grad).all()


def test_ms_ssim_needs_33_pixels():
    with pytest.raises(ValueError, match="33 pixels"):
        crop_ms_ssim(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))


# The loop


def test_a_grown_network_computes_what_the_small_one_does():
    small, large = (RestorationNetwork(replace(CONFIG.network, blocks=blocks)) for blocks in (2, 5))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, condition = torch.rand(1, 3, 32, 32), condition_vector(CONFIG.codecs, "bpg", 32).unsqueeze(0)

    copy_weights(small, large)

    assert torch.equal(large(x, condition), small(x, condition))
    assert (small(x, condition) - x).abs().max() > 0.01
    with pytest.raises(ValueError, match="only blocks may differ"):
        copy_weights(large, small)


def test_a_run_that_was_stopped_ends_bit_identical_to_one_that_was_not(store, tmp_path):
    run(CONFIG, store, tmp_path / "whole", device="cpu", minutes=None)
    for _ in range(CONFIG.steps):  # no minutes at all: one step a call
        run(CONFIG, store, tmp_path / "parts", device="cpu", minutes=0)

    whole, parts = (load_state(tmp_path / name, CONFIG) for name in ("whole", "parts"))
    assert whole is not None
    assert parts is not None
    assert whole["trainer"]["step"] == parts["trainer"]["step"] == CONFIG.steps
    for part in ("network", "average"):
        for name, tensor in whole["trainer"][part].items():
            assert torch.equal(tensor, parts["trainer"][part][name]), name
    for name, tensor in load_checkpoint(tmp_path / "whole/last.safetensors").network.state_dict().items():
        assert torch.equal(tensor, load_checkpoint(tmp_path / "parts/last.safetensors").network.state_dict()[name])


def test_training_learns_to_remove_noise(store, tmp_path):
    config = replace(
        CONFIG, phases=(Phase(steps=80, batch=8, crop=32),), optimizer=OptimizerSettings(lr=5e-3, warmup=5)
    )

    result = run(config, store, tmp_path / "run", device="cpu", minutes=None)

    assert result is not None
    assert result.gain > 0.3
    assert load_checkpoint(tmp_path / "run/best.safetensors").metadata["validation_gain_db"] == f"{result.gain:.4f}"


def test_a_folder_with_another_run_is_refused(store, tmp_path):
    run(CONFIG, store, tmp_path, device="cpu", minutes=0)

    with pytest.raises(ValueError, match="another 'seed'"):
        run(replace(CONFIG, seed=7), store, tmp_path, device="cpu", minutes=0)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(store):
    trainer = Trainer(CONFIG, PairStore(store), Processes(0, 1, CPU))
    with torch.no_grad():
        trainer.network.tail.bias[0] = float("nan")
    before = trainer.network.head.weight.clone()

    with pytest.raises(NotFiniteError, match="at step 0"):
        trainer.advance()

    assert torch.equal(trainer.network.head.weight, before)


def test_export_says_how_the_weights_were_made(store, tmp_path):
    run(CONFIG, store, tmp_path / "run", device="cpu", minutes=None)

    export(tmp_path / "run", "best", tmp_path / "small.safetensors", "six squares")

    export(tmp_path / "run", "last", tmp_path / "last.safetensors", "")
    metadata = load_checkpoint(tmp_path / "small.safetensors").metadata
    assert metadata["note"] == "six squares"
    assert build(TrainConfig, json.loads(metadata["training"]), "") == CONFIG
    last, average = (
        load_checkpoint(p).network for p in (tmp_path / "last.safetensors", tmp_path / "run/last.safetensors")
    )
    assert torch.equal(last.head.weight, average.head.weight.half().float())


TORCH_ALONE = """
import sys
sys.modules.update(dict.fromkeys(MISSING))
from train.__main__ import main
sys.argv[0] = "train"
sys.exit(main())
"""


def test_a_machine_with_torch_numpy_and_pillow_alone_trains_from_shards(store, tmp_path):
    shards = pack(store, tmp_path / "shards", shard_megabytes=60)
    (tmp_path / "preset.toml").write_text(
        "[network]\nchannels = 4\nblocks = 1\nunshuffle = 2\ncell = 4\n[[phases]]\nsteps = 2\nbatch = 2\ncrop = 32\n"
    )
    missing = (
        "av",
        "cv2",
        "imagecodecs",
        "imageio_ffmpeg",
        "pillow_heif",
        "pytorch_msssim",
        "safetensors",
        "scipy",
        "skimage",
        "tqdm",
    )
    script = TORCH_ALONE.replace("MISSING", repr(missing))
    pairs, folder = str(tmp_path / "pairs"), str(tmp_path / "run")
    for arguments in (
        ["unpack", *map(str, shards), "-o", pairs],
        ["run", str(tmp_path / "preset.toml"), "-d", pairs, "-o", folder, "--device", "cpu"],
    ):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    export(tmp_path / "run", "last", tmp_path / "brought_home.safetensors", "")
    assert load_checkpoint(tmp_path / "brought_home.safetensors").metadata["steps"] == "2"


LOSS_CURVE = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1] + "/tests")
from test_train import CONFIG
from dataclasses import replace
from train.loop import Processes, Trainer
from train.store import PairStore
import torch.distributed as dist
torch.set_num_threads(1)
processes = Processes.start("cpu")
trainer = Trainer(replace(CONFIG, amp=False), PairStore(Path(sys.argv[2])), processes)
for _ in range(5):
    loss = torch.tensor(trainer.advance())
    if processes.count > 1:
        dist.all_reduce(loss)
    if processes.rank == 0:
        print("loss", loss.item() / processes.count)
processes.stop()
"""


def test_two_processes_have_the_loss_curve_of_one(store, tmp_path):
    script = tmp_path / "curve.py"
    script.write_text(LOSS_CURVE)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    curves = []
    for prefix in ([], torchrun):
        command = [sys.executable, *prefix, str(script), str(ROOT), str(store)]
        output = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=120
        ).stdout
        curves.append([float(line.split()[1]) for line in output.splitlines() if line.startswith("loss ")])

    assert len(curves[0]) == 5
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_shards_hold_the_whole_store_but_for_the_bitstreams(store, tmp_path):
    shards = pack(store, tmp_path / "shards", shard_megabytes=0.02)
    unpack(shards, tmp_path / "copy")
    before, after = PairStore(store), PairStore(tmp_path / "copy")

    assert len(shards) > 1
    assert [(p.original, p.codec, p.qp) for p in after.pairs] == [
        (p.original, p.codec, p.qp) for o in before.originals for p in before.pairs if p.original == o
    ]
    for pair in after.pairs:
        twin = next(p for p in before.pairs if (p.original, p.codec) == (pair.original, pair.codec))
        picture, twin_picture = after.original(pair), before.original(twin)
        assert np.array_equal(after.image(picture, pair.offset), before.image(twin_picture, twin.offset))
        assert np.array_equal(after.image(picture, picture.offset), before.image(twin_picture, twin_picture.offset))


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "shard_000.zip").write_bytes(b"PK no zip")

    with pytest.raises(ValueError, match=r"shard_000.zip is no whole shard"):
        unpack([tmp_path / "shard_000.zip"], tmp_path / "store")


def test_prepare_makes_each_pair_once_from_any_folder(tmp_path, photograph):
    source, folder = tmp_path / "photos", tmp_path / "store"
    (source / "deep").mkdir(parents=True)
    PillowImage.fromarray(photograph).save(source / "deep/cat.png")
    PillowImage.fromarray(photograph[:50, :60]).save(source / "small.png")
    settings = PrepareSettings((CodecPlan.parse("jpeg@10-30x2"), CodecPlan.parse("webp@40")), crop=96, crops=2)

    prepare([source], folder, settings, workers=1)
    first = PairStore(folder)
    prepare([source], folder, settings, workers=1)

    assert PairStore(folder).pairs == first.pairs
    assert [(o.height, o.width) for o in first.originals.values()] == [(96, 96), (96, 96), (50, 60)]
    assert len(first.pairs) == 9
    for pair in first.pairs:
        bitstream = (folder / "bitstreams.bin").read_bytes()[pair.bitstream_offset :][: pair.bytes]
        decoded = get_codec(pair.codec).decode(bitstream).image
        assert np.array_equal(decoded, first.image(first.original(pair), pair.offset))


def test_div2k_and_dped_layouts_are_known(tmp_path):
    for name in ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X2/0001x2.png"):
        (tmp_path / "DIV2K" / name).parent.mkdir(parents=True)
        (tmp_path / "DIV2K" / name).touch()
    for name in ("iphone/training_data/iphone/0.jpg", "iphone/training_data/canon/0.jpg"):
        (tmp_path / "DPED" / name).parent.mkdir(parents=True)
        (tmp_path / "DPED" / name).touch()

    assert [path.name for path in find_originals(tmp_path / "DIV2K")] == ["0001.png"]
    assert [path.parent.name for path in find_originals(tmp_path / "DPED")] == ["canon"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        find_originals(tmp_path / "empty")


@pytest.mark.parametrize("text", ["bpg", "bpg@", "bpg@20-", "gif@1", "bpg,chroma=410@30", "bpg,speed=3@30", "bpg@60"])
def test_a_wrong_codec_plan_is_refused(text):
    with pytest.raises((ValueError, UnknownCodecError)):
        CodecPlan.parse(text)


def test_a_codec_plan_spreads_its_qps():
    plan = CodecPlan.parse("bpg,chroma=444@20-47x4")

    drawn = plan.draw(np.random.default_rng(0))

    assert plan.codec == get_codec("bpg", chroma="444")
    assert [(qp - 20) // 7 for qp in drawn] == [0, 1, 2, 3]
