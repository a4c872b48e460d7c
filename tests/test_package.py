"""What is in the wheel, and that a program installed from it works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = tomllib.loads((ROOT / "checkpoints" / "manifest.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", build, folder], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / run.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(unpacked: Path, program: str) -> str:
    """Standard output of a Python program that finds our packages in ``unpacked`` only."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    run = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=unpacked.parent, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_wheel_holds_both_packages_and_nothing_else(unpacked):
    top = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}

    assert top == {"enhancer", "codec_wrappers"}


def test_wheel_holds_every_file_of_the_packages(unpacked):
    files = {
        path.relative_to(ROOT)
        for package in ("enhancer", "codec_wrappers")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {path for path in files if not (unpacked / path).is_file()} == set()


def test_wheel_holds_the_shipped_weights_byte_for_byte(unpacked):
    assert SHIPPED, "no checkpoint is shipped"
    for entry in SHIPPED.values():
        packed = unpacked / "enhancer" / "checkpoints" / entry["file"]
        assert packed.read_bytes() == (ROOT / "checkpoints" / entry["file"]).read_bytes()


def test_wheel_carries_licence_and_commands(unpacked):
    (info,) = unpacked.glob("*.dist-info")
    metadata = Parser().parsestr((info / "METADATA").read_text())
    commands = (info / "entry_points.txt").read_text()

    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text()
    assert {line.split(" = ")[0] for line in commands.splitlines() if " = " in line} >= {"enhance", "enhance-codec"}


def test_installed_package_loads_its_own_weights(unpacked):
    program = (
        "from enhancer import checkpoint\n"
        "names = checkpoint.checkpoint_names()\n"
        "print(checkpoint.checkpoint_folder())\n"
        "print(*(checkpoint.load_checkpoint(name).sha256 for name in names))"
    )

    folder, hashes = run_installed(unpacked, program).splitlines()

    assert Path(folder) == unpacked / "enhancer" / "checkpoints"
    assert hashes.split() == [entry["sha256"] for entry in SHIPPED.values() if "kind" not in entry]


@pytest.mark.parametrize("entry_point", ["enhance", "enhance-codec", "enhance-eval"])
def test_installed_commands_answer_help(unpacked, entry_point):
    (info,) = unpacked.glob("*.dist-info")
    target = dict(line.split(" = ") for line in (info / "entry_points.txt").read_text().splitlines() if " = " in line)[
        entry_point
    ]
    module, function = target.split(":")

    program = f"import sys; sys.argv = [{entry_point!r}, '--help']; from {module} import {function}; {function}()"

    assert run_installed(unpacked, program).startswith(f"usage: {entry_point}")
