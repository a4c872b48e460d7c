"""Training settings: presets, overrides, refusals, the schedule."""

import json

import pytest
import torch
from training import CONFIG, ROOT

from enhancer.cli.common import run_command
from train.__main__ import parser
from train.config import TrainConfig, build, load_config, to_json, with_steps
from train.loop import schedule


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
        ("[network]\njpeg_place = 1\n[[phases]]\nsteps = 1", "network.jpeg_place must be -1, or 2"),
        ("phases = []\n[network]", "phases: there must be one"),
        ("save_every = 0\n[network]\n[[phases]]\nsteps = 1", "save_every must be at least 1"),
        ("teacher_weight = 1.5\n[network]\n[[phases]]\nsteps = 1", "teacher_weight must be in 0..1, got 1.5"),
        ("[network]\n[[phases]]\nsteps = 1\nbatch = 0", "batch and crop must be at least 1"),
        ("[network]\n[data]\nweights = {bpg = 0}\n[[phases]]\nsteps = 1", "one must be above 0"),
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


@pytest.mark.parametrize("override", ["phases.steps=100", "validate_every.x=1"])
def test_an_override_below_what_is_no_table_is_refused(override):
    with pytest.raises(ValueError, match="is no table"):
        load_config(ROOT / "train/presets/fast.toml", [override])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run fast -d STORE -o OUT --steps 0", "expected a whole number of at least 1, got '0'"),
        ("run fast -d STORE -o OUT --threads -1", "expected a whole number of at least 1, got '-1'"),
        ("run fast -d STORE -o OUT --minutes nan", "expected a number above 0, got 'nan'"),
        ("run fast -d STORE -o OUT --device cuda", "there is no CUDA device here"),
        ("run fast -d STORE -o OUT", "STORE is no pair store"),
        ("prepare nowhere -o STORE -c jpeg@30", "no pictures in nowhere"),
        ("prepare nowhere -o STORE -c jpeg@30-20", "qps rise from 20 to 30"),
        ("prepare nowhere -o STORE -c jpeg@20-30x0", "at least one qp a picture"),
        ("prepare nowhere -o STORE -c jpeg@30 --workers 0", "expected a whole number of at least 1, got '0'"),
        ("prepare nowhere -o STORE -c jpeg@30 --crops -1", "cannot be negative"),
        ("prepare nowhere -o STORE -c jpeg@30 --scales 1-inf", "scales must rise"),
        ("prepare nowhere -o STORE -c jpeg@30 --scales 2", "expected LOW-HIGH"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="one of the mistakes is to ask for a GPU")
def test_a_mistake_on_the_command_line_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    try:
        status = run_command(lambda: run_line(arguments), "train")
    except SystemExit as left:
        status = left.code

    assert status in (1, 2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert not list(tmp_path.iterdir())


def run_line(arguments: str) -> None:
    args = parser().parse_args(arguments.split())
    args.run(args)


def test_scaled_steps_keep_the_phases_proportions():
    assert [phase.steps for phase in with_steps(CONFIG, 100).phases] == [60, 40]


def test_rate_rises_stays_and_falls_to_zero():
    rates = [schedule(CONFIG, step) for step in range(CONFIG.steps)]

    assert rates[:2] == [0.5, 1.0]
    assert rates[2:5] == [1.0] * 3
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0)
