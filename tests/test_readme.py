"""The README tells the truth: what it says to type exists, and what can run here runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import imageio_ffmpeg
import pytest
from PIL import Image as PilImage

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

BLOCK = re.compile(r"^(<!-- runs -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL_TO_RUN = [code for marker, language, code in BLOCK.findall(README) if language == "sh" and marker]
SHELL_LINES = [
    line.split("#")[0].strip()
    for _, language, code in BLOCK.findall(README)
    if language == "sh"
    for line in code.splitlines()
]
PYTHON = [code for _, language, code in BLOCK.findall(README) if language == "python"]


@pytest.fixture
def workplace(photograph, tmp_path, monkeypatch):
    """A folder with the files that the README speaks of; our commands are on PATH, from this checkout."""
    folder = tmp_path / "work"
    (folder / "photos").mkdir(parents=True)
    PilImage.fromarray(photograph[60:252, 60:316]).save(folder / "photo.png")
    PilImage.fromarray(photograph[60:252, 60:316]).save(folder / "photo.jpg", quality=30)
    PilImage.fromarray(photograph[60:224, 60:228]).save(folder / "photos" / "a.png")
    PilImage.fromarray(photograph[100:264, 200:368]).save(folder / "photos" / "b.png")
    make_clip(folder / "clip.mkv")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ENHANCER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(shims(tmp_path / "bin")), prepend=os.pathsep)
    return folder


def shims(folder: Path) -> Path:
    """Scripts that do what the commands of an installed package do."""
    folder.mkdir()
    for name, target in SCRIPTS.items():
        module, function = target.split(":")
        script = folder / name
        start = f"import sys; sys.argv[0] = '{name}'; from {module} import {function}; sys.exit({function}())"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{start}" "$@"\n')
        script.chmod(0o755)
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    return folder


def make_clip(path: Path) -> None:
    source = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=0.4")
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, "-pix_fmt", "yuv420p", path], check=True)


@pytest.mark.parametrize("block", SHELL_TO_RUN)
def test_commands_run_as_written(block, workplace):
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )

    assert run.returncode == 0, run.stderr
    for name in re.findall(r"(?:-o|>) (\S+)", block):
        assert Path(name).exists(), f"{name} was not written"


@pytest.mark.parametrize("block", PYTHON)
def test_python_examples_run_as_written(block, workplace):
    run = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    for name in re.findall(r'save\("([^"]+)"\)', block):
        assert Path(name).is_file()


def test_make_targets_and_variables_exist():
    makefile = (ROOT / "Makefile").read_text()
    words = {word for line in SHELL_LINES if line.startswith("make ") for word in line.split()[1:]}

    for word in words:
        name, equals, _ = word.partition("=")
        assert re.search(rf"^{name} :?=" if equals else rf"^{name}:", makefile, re.MULTILINE), word


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if line.startswith("python -m train")])
def test_training_commands_have_the_options_that_are_named(line, workplace):
    command, *rest = line.split()[3:]

    run = subprocess.run([sys.executable, "-m", "train", command, "--help"], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    options = [word for word in rest if word.startswith("-")]
    assert [option for option in options if not re.search(rf"(?<!\S){option}\b", run.stdout)] == []


def test_files_that_are_linked_exist():
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README) + re.findall(r'src="(?!https?:)([^"]+)"', README)

    assert [target for target in targets if not (ROOT / target).exists()] == []
