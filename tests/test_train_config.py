"""Training settings: presets, overrides, refusals, the schedule."""

import json

import pytest
from training import CONFIG, ROOT

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
