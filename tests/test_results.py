"""RESULTS.md: how its tables come about from runs, and that a second call measures nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PillowImage

from benchmarks import results, results_tables
from benchmarks.results_tables import gain_tables, weak_spots
from codec_wrappers import get_codec
from enhancer.evaluation.results import Record, Run
from tests.small_network import write_random_checkpoint


def run(label, qualities, *, enhanced=False, qps=(27, 32)):
    """A run with one PSNR for each qp and picture."""
    records = [
        Record(
            picture=name,
            picture_sha256=name,
            width=100,
            height=100,
            qp=qp,
            byte_count=1250,
            bpp=1.0,
            metrics={"psnr": value, "ms_ssim": 0.9},
            bitstream_sha256=None,
            output_sha256="",
            coding=None,
            seconds={"enhance": 0.02},
        )
        for qp, row in zip(qps, qualities, strict=True)
        for name, value in zip("ab", row, strict=True)
    ]
    enhancement = {"model": "net", "ensemble": "none", "backend": "torch", "device": "cpu"} if enhanced else None
    return Run(label, {"codec": label.partition(" +")[0]}, enhancement, {}, tuple(records))


def test_gains_stand_below_their_codec_with_the_worst_picture():
    runs = [run("X", [[30, 32], [28, 30]]), run("X + net", [[30.5, 32.1], [27.9, 30.3]], enhanced=True)]

    table = gain_tables(runs).splitlines()

    assert table[0] == "| codec, + network | qp 27 | qp 32 | mean gain (dB) |"
    assert table[2] == "| X | 31.00 dB, 1.00 bpp | 29.00 dB, 1.00 bpp |  |"
    assert table[3] == "| + net | +0.30 (+0.10) | +0.10 (-0.10) | +0.200 |"


def test_weak_spots_come_worst_first_and_the_rest_is_counted():
    good = [run("X", [[30, 32], [28, 30]]), run("X + net", [[30.5, 32.1], [28.2, 30.3]], enhanced=True)]
    bad = [run("Y", [[30, 32], [28, 30]]), run("Y + net", [[30.5, 32.1], [27.9, 30.3]], enhanced=True)]
    worse = [run("Z", [[30, 32], [28, 30]]), run("Z + net", [[29.5, 32.1], [27.9, 30.3]], enhanced=True)]

    lines = weak_spots({"Set": [*good, *bad, *worse]}).splitlines()

    assert lines[2] == "| Set | Z + net | -0.050 | -0.50 | a | 27 | 2 of 4 | 0 of 4 |"
    assert lines[3].startswith("| Set | Y + net | +0.200 | -0.10 | a | 32 | 1 of 4 |")
    assert lines[5] == "In the other 1 of 3 combinations of pictures, codec and network PSNR falls nowhere."
    assert weak_spots({"Set": good}) == "PSNR falls in none of the 1 combinations of pictures, codec and network."


@pytest.fixture
def small_set(tmp_path, photograph, monkeypatch):
    """Arguments for four small pictures, two quick codecs and a small network."""
    folder = tmp_path / "data" / "kodak"
    folder.mkdir(parents=True)
    for i in range(4):
        crop = np.ascontiguousarray(photograph[20 * i : 20 * i + 64, 60 * i : 60 * i + 80])
        PillowImage.fromarray(crop).save(folder / f"p{i}.png")
    monkeypatch.setattr(results, "ANCHOR", "BPG 4:2:0=jpeg@20,40,60,80")
    monkeypatch.setattr(results, "OTHER_CODECS", ("webp:effort=0@20,40,60,80",))
    monkeypatch.setattr(results, "TARGET_BPP", 1.5)
    monkeypatch.setattr(results_tables, "RESAMPLES", 20)
    model = write_random_checkpoint(tmp_path / "net.safetensors")
    codecs = ["--codec", "BPG 4:2:0=jpeg@20,40,60,80", "--codec", "VVC=webp@20,40,60,80"]
    options = ["--quick", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--jobs", "1", *codecs]
    return [*options, "--model", str(model), "--backend", "torch", "--device", "cpu"]


@pytest.fixture
def encodes(monkeypatch):
    """Filled with an entry for each encode."""
    made = []
    for name in ("jpeg", "webp"):
        kind = type(get_codec(name))
        original = kind.encode
        monkeypatch.setattr(kind, "encode", lambda *a, _f=original, **k: made.append(1) or _f(*a, **k))
    return made


def test_streams_made_beforehand_are_all_that_is_needed_and_a_second_call_only_writes(small_set, encodes, tmp_path):
    path = tmp_path / "RESULTS-quick.md"

    assert results.main([*small_set, "--encode"]) == 0
    made = len(encodes)
    assert made >= 4 * 4 * 3
    assert not path.exists()
    assert results.main(small_set) == 0
    first = path.read_text()
    assert results.main(small_set) == 0

    assert len(encodes) == made
    assert path.read_text() == first
    titles = [line for line in first.splitlines() if line.startswith("#")]
    assert titles[:3] == ["# Results", "## Weak spots", "## Kodak, four pictures"]
    assert "| VVC + net against BPG 4:2:0 |" in first
    assert "| VVC + net (rotate) |" in first
    assert "| webp:effort=0 against BPG 4:2:0 |" in first
    assert "| net.safetensors |" in first
    assert "enhance-eval rd DATA/kodak" in first


def test_a_large_network_is_left_out_where_a_set_says_so_and_the_page_tells(small_set, tmp_path, monkeypatch):
    sets = (results.PictureSet("First", "kodak"), results.PictureSet("Second", "kodak", large_networks=False))
    monkeypatch.setattr(results, "SETS", sets)
    monkeypatch.setattr(results, "LARGE_KMAC", 0)
    monkeypatch.setattr(results, "cost_table", lambda _: "")
    path = tmp_path / "RESULTS.md"

    assert results.main([*[option for option in small_set if option != "--quick"], "--write", str(path)]) == 0

    first, second = path.read_text().split("## Second")
    model = small_set[small_set.index("--model") + 1]
    assert "| + net |" in first
    assert "| + net |" not in second
    assert f"Without `{model}`: `make results ARGS=--full`." in second
