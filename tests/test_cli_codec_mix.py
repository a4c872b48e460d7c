"""``enhance-codec mix``: a folder within one budget."""

from __future__ import annotations

import csv
import functools
import io
import json

import pytest
from codec_command import assert_failed, isolate, pixels, run_codec
from PIL import Image as PillowImage

from codec_wrappers import get_codec


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    folder = isolate(tmp_path, monkeypatch)
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture
def run(capsys):
    """Runs the command within this process: ``run(*arguments) -> (status, stdout, stderr)``."""
    return functools.partial(run_codec, capsys)


@pytest.fixture
def album(tmp_path, photograph):
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.png", "more/c.png"]):
        PillowImage.fromarray(photograph[40 * number : 40 * number + 80, 90:190]).save(folder / name)
    return folder


def test_mix_keeps_to_the_budget_and_says_how(run, album, tmp_path):
    status, out, err = run(
        *("mix", album, "-r", "-o", tmp_path / "out", "-c", "bpg", "--preset", "fast", "--bpp", 0.7),
        *("--workers", 1, "--json"),
    )
    facts = json.loads(out)

    assert (status, err) == (0, "")
    files = {name: tmp_path / "out" / f"{name}.bpg" for name in ("a", "b", "more/c")}
    assert facts["bytes"] == sum(path.stat().st_size for path in files.values()) <= facts["budget_bytes"] == 2100
    assert facts["bytes"] >= 0.98 * 2100
    assert facts["bpp"] == pytest.approx(8 * facts["bytes"] / 24000)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == facts
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "manifest.csv").read_text())))
    for row, entry, (name, path) in zip(rows, facts["pictures"], files.items(), strict=True):
        assert row["file"] == entry["file"] == str(album / f"{name}.png")
        assert int(row["bytes"]) == entry["bytes"] == path.stat().st_size
        stream = get_codec("bpg", **entry["options"]).encode(pixels(entry["file"]), entry["qp"])
        assert path.read_bytes() == stream
        assert "x265" in row["versions"]


def test_mix_by_psnr_in_processes_equals_mix_in_this_one_and_takes_encodes_from_the_cache(run, album, tmp_path):
    arguments = ["mix", album, "-r", "-c", "webp", "--bpp", 1, "--objective", "psnr", "--json"]

    here = json.loads(run(*arguments, "-o", tmp_path / "here", "--workers", 1)[1])
    entries = sorted((tmp_path / "cache").rglob("*"))
    there = json.loads(run(*arguments, "-o", tmp_path / "there", "--workers", 2)[1])

    assert there["pictures"] == here["pictures"]
    assert sorted((tmp_path / "cache").rglob("*")) == entries


def test_mix_refuses_before_any_work(run, album, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.jpg").write_bytes(b"precious")
    PillowImage.open(album / "a.png").save(album / "a.tif")
    options = ["-c", "jpeg", "--bpp", 1, "--workers", 1, "-o"]

    assert_failed(run("mix", album / "b.png", *options, tmp_path / "out"), "b.jpg exists already")
    assert_failed(run("mix", tmp_path / "empty", *options, tmp_path / "new"), "no picture in this folder")
    assert_failed(run("mix", album, *options, tmp_path / "new"), "would both be written to")
    assert_failed(run("mix", "-", *options, tmp_path / "new"), "not read from standard input")
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_mix_names_the_picture_that_it_cannot_read(run, album, tmp_path, workers):
    (album / "b.png").write_bytes((album / "b.png").read_bytes()[:99])

    result = run("mix", album, "-o", tmp_path / "out", "-c", "jpeg", "--bpp", 1, "--workers", workers)

    assert_failed(result, "b.png", tmp_path / "out")


def test_mix_out_of_reach_names_the_end(run, album, tmp_path):
    result = run("mix", album, "-o", tmp_path / "out", "-c", "jpeg", "--bpp", 0.01, "--workers", 1)

    assert_failed(result, "out of reach: the set takes at least", tmp_path / "out")
