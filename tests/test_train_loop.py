"""The training loop: losses, exact resume, several processes, export."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small_network import write_random_checkpoint
from training import CONFIG, CPU, ROOT, make_store

from enhancer.checkpoint import load_checkpoint
from enhancer.condition import CODECS, condition_vector
from enhancer.network import RestorationNetwork
from train.compiler import has_compiler
from train.config import DataSettings, OptimizerSettings, Phase, TrainConfig, build
from train.export import export
from train.grow import copy_weights
from train.loop import NotFiniteError, Pace, Processes, Trainer, run, schedule
from train.losses import crop_ms_ssim, reconstruction_loss
from train.pack import pack
from train.runlog import load_state
from train.store import PairStore, PairWriter
from train.validation import validation_pairs


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def test_losses_by_hand():
    y, target = torch.full((1, 3, 40, 40), 0.5), torch.full((1, 3, 40, 40), 0.25)

    x = torch.full((1, 3, 40, 40), 0.75)

    assert reconstruction_loss("mae", y, target, x).item() == pytest.approx(0.25)
    assert reconstruction_loss("mse", y, target, x).item() == pytest.approx(0.0625)
    assert reconstruction_loss("mae+ms_ssim", target, target, x).item() == pytest.approx(0, abs=1e-6)
    codec_mse = torch.tensor([0.125])
    assert reconstruction_loss("relative_mse", y, target, x, codec_mse).item() == pytest.approx(0.5, rel=1e-3)
    assert reconstruction_loss("relative_mae", y, target, x).item() == pytest.approx(0.25 / (0.5 + 1 / 255))


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


@pytest.mark.parametrize(("blocks", "channels"), [(5, 8), (2, 12), (3, 24)])
def test_a_grown_network_computes_what_the_small_one_does(blocks, channels):
    small = RestorationNetwork(replace(CONFIG.network, blocks=2))
    large = RestorationNetwork(replace(CONFIG.network, blocks=blocks, channels=channels, mean_bound=1e4))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, condition = torch.rand(1, 3, 32, 32), condition_vector(CONFIG.codecs, "bpg", 32).unsqueeze(0)

    copy_weights(small, large)

    torch.testing.assert_close(large(x, condition), small(x, condition), rtol=0, atol=1e-5)
    assert (small(x, condition) - x).abs().max() > 0.01
    with pytest.raises(ValueError, match="only blocks and channels may differ"):
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


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch's own compiler
def test_compiled_steps_are_the_same_but_for_rounding(store):
    compiled, plain = (
        Trainer(replace(CONFIG, amp=False), PairStore(store), Processes(0, 1, CPU), compiled=compiled)
        for compiled in (True, False)
    )
    before = plain.network.head.weight.detach().clone()

    losses = [(compiled.advance(), plain.advance()) for _ in range(3)]

    assert [found for found, _ in losses] == pytest.approx([expected for _, expected in losses], rel=1e-3)
    moved = (plain.network.head.weight - before).norm()
    assert (compiled.network.head.weight - plain.network.head.weight).norm() < 0.05 * moved


def test_compiling_needs_a_compiler(store, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="--compile needs a C"):
        run(CONFIG, store, tmp_path / "run", device="cpu", minutes=None, compiled=True)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_says_that_its_store_has_grown(tmp_path, capsys):
    folder = make_store(tmp_path / "store")
    config = replace(CONFIG, phases=(replace(CONFIG.phases[0], steps=3),))
    run(config, folder, tmp_path / "run", device="cpu", minutes=None)
    run(CONFIG, folder, tmp_path / "run", device="cpu", minutes=1e-6)
    assert "other crops" not in capsys.readouterr().out

    with PairWriter(folder) as writer:
        key = next(iter(writer.originals))
        writer.add_pair(key, "bpg", "bpg()", 20, 20.0, b"bits", np.zeros((48, 56, 3), np.uint8))
    run(CONFIG, folder, tmp_path / "run", device="cpu", minutes=1e-6)

    assert "has 13 pairs, and had 12: other crops are drawn now" in capsys.readouterr().out


def test_phases_are_scaled_to_end_with_the_deadline(store, tmp_path, monkeypatch):
    for name, value in (("SETTLED", 2), ("MEASURED", 8), ("RESERVE_S", 0.5)):
        monkeypatch.setattr(Pace, name, value)
    clock = itertools.count(0, 0.01)
    monkeypatch.setattr("train.loop.time", SimpleNamespace(monotonic=lambda: next(clock)))
    phases = (Phase(steps=300, batch=2, crop=32), Phase(steps=100, batch=4, crop=32))

    run(replace(CONFIG, phases=phases, validate_every=10**6), store, tmp_path, device="cpu", minutes=0.03, fit=True)

    after = build(TrainConfig, json.loads((tmp_path / "config.json").read_text()), "")
    state = load_state(tmp_path, after)
    assert state is not None
    assert state["trainer"]["step"] == after.steps > Pace.MEASURED
    assert after.phases[0].steps == pytest.approx(3 * after.phases[1].steps, abs=2)
    assert schedule(after, after.steps - 1) == pytest.approx(0, abs=1e-6)


def test_training_learns_to_remove_noise(store, tmp_path):
    # Not preconditioned: that is made for errors far smaller than those of the tiny store.
    optimizer = OptimizerSettings(lr=5e-3, warmup=5, precondition=False, head_lr=1.0)
    config = replace(CONFIG, phases=(Phase(steps=80, batch=8, crop=32),), optimizer=optimizer)

    result = run(config, store, tmp_path / "run", device="cpu", minutes=None)

    assert result is not None
    assert result.gain > 0.3
    assert load_checkpoint(tmp_path / "run/best.safetensors").metadata["validation_gain_db"] == f"{result.gain:.4f}"


def test_a_teacher_gives_its_share_of_the_target(store, tmp_path):
    checkpoint = str(write_random_checkpoint(tmp_path / "teacher.safetensors", codecs=CODECS))
    phases = (Phase(steps=1, batch=4, crop=32, loss="mse"),)
    settings = OptimizerSettings(precondition=False)
    config = replace(CONFIG, phases=phases, teacher=checkpoint, optimizer=settings, amp=False)  # float32, as here

    def first_loss(share: float) -> float:
        return Trainer(replace(config, teacher_weight=share), PairStore(store), Processes(0, 1, CPU)).advance()

    batch = Trainer(config, PairStore(store), Processes(0, 1, CPU)).sampler.batch(0, range(4), 32)
    network = load_checkpoint(checkpoint).network
    turns = [torch.rot90(batch.x[i : i + 1], i, dims=(2, 3)) for i in range(4)]  # each sample in another orientation
    shown = [network(x, batch.condition[i : i + 1]) for i, x in enumerate(turns)]
    taught = torch.cat([torch.rot90(y, -i, dims=(2, 3)) for i, y in enumerate(shown)])
    for share in (0.0, 0.25, 1.0):  # a new network returns what it is given
        target = (1 - share) * batch.target + share * taught
        assert first_loss(share) == pytest.approx(F.mse_loss(batch.x, target).item(), rel=1e-4)


def test_a_teacher_that_does_not_fit_is_refused(store, tmp_path):
    other = str(write_random_checkpoint(tmp_path / "other.safetensors"))
    wide = str(write_random_checkpoint(tmp_path / "wide.safetensors", codecs=CODECS, cell=16))

    for teacher, said in ((other, "told other codecs: bpg, vvc, jpeg"), (wide, "multiples of 32")):
        config = replace(CONFIG, teacher=teacher)
        with pytest.raises(ValueError, match=said):
            Trainer(config, PairStore(store), Processes(0, 1, CPU))


def test_a_preconditioned_network_sees_white_input_and_changes_nothing(store):
    trainer = Trainer(CONFIG, PairStore(store), Processes(0, 1, CPU))
    batch = trainer.sampler.batch(12345, range(64), 32)

    with torch.no_grad():
        features = trainer.network.head(F.pixel_unshuffle(batch.x, 2))[:, :, 1:-1, 1:-1]
        restored = trainer.network(batch.x, batch.condition)

    correlation = torch.cov(features.transpose(0, 1).flatten(1))
    torch.testing.assert_close(correlation, torch.eye(len(correlation)), rtol=0, atol=0.2)
    assert torch.equal(restored, batch.x)


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_for_devices_that_have_it(store, monkeypatch, able):
    monkeypatch.setattr("train.loop.has_bfloat16", lambda device: able)
    trainer = Trainer(CONFIG, PairStore(store), Processes(0, 1, CPU))
    seen = []
    convolution = next(m for m in trainer.network.blocks.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))

    trainer.advance()

    assert seen == [torch.bfloat16 if able else torch.float32]


def test_a_folder_with_another_run_is_refused(store, tmp_path):
    run(CONFIG, store, tmp_path, device="cpu", minutes=0)

    with pytest.raises(ValueError, match="another 'seed'"):
        run(replace(CONFIG, seed=7), store, tmp_path, device="cpu", minutes=0)

    assert json.loads((tmp_path / "config.json").read_text())["seed"] == CONFIG.seed


def test_a_fitted_run_that_is_resumed_goes_on_beyond_its_preset(store, tmp_path, monkeypatch):
    for name, value in (("SETTLED", 2), ("MEASURED", 4), ("RESERVE_S", 0.0)):
        monkeypatch.setattr(Pace, name, value)
    clock = itertools.count(0, 0.01)
    monkeypatch.setattr("train.loop.time", SimpleNamespace(monotonic=lambda: next(clock)))
    config = replace(CONFIG, phases=(Phase(steps=5, batch=2, crop=32),), validate_every=10**6)
    steps = []

    for _ in range(2):
        run(config, store, tmp_path, device="cpu", minutes=0.01, fit=True)
        state = load_state(tmp_path, config)
        assert state is not None
        steps.append(state["trainer"]["step"])

    after = build(TrainConfig, json.loads((tmp_path / "config.json").read_text()), "")
    assert config.steps < steps[0] < steps[1] == after.steps
    assert schedule(after, after.steps - 1) == pytest.approx(0, abs=1e-6)


def test_no_validation_pair_is_counted_twice(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    with PairWriter(tmp_path) as writer:
        for name in "abcdefghijk":
            writer.add_original(name, "set", "a.png" if name < "k" else "other.png", image)
            writer.add_pair(name, "bpg", "", 30, 30.0, b"", image)
    config = replace(CONFIG, data=DataSettings(weights={"bpg": 1.0}, validation_pairs=11))

    chosen = [pair.original for pair in validation_pairs(PairStore(tmp_path), config)]

    assert chosen == list("abcdefghij")


def test_a_store_without_validation_pairs_is_refused(tmp_path):
    with PairWriter(tmp_path) as writer:
        writer.add_original("a", "set", "b.png", np.zeros((64, 64, 3), np.uint8))
        writer.add_pair("a", "bpg", "", 30, 30.0, b"", np.zeros((64, 64, 3), np.uint8))
    config = replace(CONFIG, data=DataSettings(weights={"bpg": 1.0}))

    with pytest.raises(ValueError, match="has no validation pairs of bpg"):
        Trainer(config, PairStore(tmp_path), Processes(0, 1, CPU))


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
    assert 0 <= int(metadata["halo"]) <= RestorationNetwork(CONFIG.network).halo
    assert build(TrainConfig, json.loads(metadata["training"]), "") == CONFIG
    last, average = (
        load_checkpoint(p).network for p in (tmp_path / "last.safetensors", tmp_path / "run/last.safetensors")
    )
    assert torch.equal(last.head.weight, average.head.weight.half().float())


def test_a_checkpoint_says_which_codecs_it_has_seen_and_those_of_its_start(store, tmp_path):
    run(CONFIG, store, tmp_path / "a", device="cpu", minutes=None)
    drawn = tuple(codec for codec, weight in CONFIG.data.weights.items() if weight > 0)
    first = tmp_path / "a" / "last.safetensors"
    data = replace(CONFIG.data, weights={drawn[0]: 1.0})
    run(replace(CONFIG, data=data, start=str(first)), store, tmp_path / "b", device="cpu", minutes=None)
    run(replace(CONFIG, data=data), store, tmp_path / "c", device="cpu", minutes=None)

    export(tmp_path / "b", "last", tmp_path / "exported.safetensors", "")

    files = (first, tmp_path / "b/best.safetensors", tmp_path / "exported.safetensors", tmp_path / "c/last.safetensors")
    seen = [set(CODECS) - set(load_checkpoint(file).unseen) for file in files]
    assert len(drawn) > 1
    assert seen == [set(drawn)] * 3 + [{drawn[0]}]


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
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1] + "/tests")
from training import CONFIG
from dataclasses import replace
from train.loop import Processes, Trainer
from train.store import PairStore
import torch.distributed as dist

def train(processes):
    trainer = Trainer(replace(CONFIG, amp=False, teacher=sys.argv[3]), PairStore(Path(sys.argv[2])), processes)
    for _ in range(5):
        loss = torch.tensor(trainer.advance())
        if processes.count > 1:
            dist.all_reduce(loss)
        if processes.rank == 0:
            print("loss", loss.item() / processes.count)

torch.set_num_threads(1)
processes = Processes.start("cpu")
train(processes)
processes.stop()
if os.path.isdir("/proc/self/task"):
    threads = {Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")}
    assert not [name for name in threads if "gloo" in name], threads  # they may abort a process that ends
"""


def test_two_processes_have_the_loss_curve_of_one(store, tmp_path):
    script = tmp_path / "curve.py"
    script.write_text(LOSS_CURVE)
    teacher = str(write_random_checkpoint(tmp_path / "teacher.safetensors", codecs=CODECS))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    # By address: the name of a machine (of a CI's container, say) need not resolve.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]

    curves = []
    for prefix in ([], torchrun):
        command = [sys.executable, *prefix, str(script), str(ROOT), str(store), teacher]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        curves.append([float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("loss ")])

    assert len(curves[0]) == 5
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
