"""What several test files share: a photograph, stand-ins for programs, the way to the big picture sets."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from skimage import data

from codec_wrappers import Image

if TYPE_CHECKING:
    from enhancer.inference import Enhancer

ROOT = Path(__file__).resolve().parent.parent

# A busy machine makes any single example slow; a hang is found by the run's own time limit. Continuous
# integration judges a change, so it draws the same examples every time; a person's runs look for new ones.
settings.register_profile(
    "enhancer",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("enhancer")

# A shell starts what it runs in the background deaf to Ctrl-C, and programs inherit that: those that the tests stop
# would not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def photograph() -> Image:
    """A real photograph with an odd width, uint8 ``(300, 451, 3)``, CC0, part of scikit-image; read-only."""
    image = data.chelsea()
    image.setflags(write=False)
    return image


@pytest.fixture(scope="session")
def picture(photograph: Image) -> Image:
    """A detailed part of :func:`photograph`, uint8 ``(96, 128, 3)``; read-only, as arrays made by Pillow are."""
    image = np.ascontiguousarray(photograph[70:166, 100:228])
    image.setflags(write=False)
    return image


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the checkpoint of a small network with random weights."""
    from tests.small_network import write_random_checkpoint

    return str(write_random_checkpoint(tmp_path_factory.mktemp("model") / "net.safetensors"))


@pytest.fixture(scope="session")
def enhancer(model: str) -> Enhancer:
    """The network of :func:`model`, run by torch."""
    from enhancer.inference import Enhancer

    return Enhancer.from_checkpoint(model, backend="torch")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


@pytest.fixture
def fake_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a stand-in program before all others on PATH: ``fake_tool(name, shell_script) -> path``."""
    folder = tmp_path / "fake_tools"

    def add(name: str, script: str) -> Path:
        if not folder.exists():
            folder.mkdir()
            monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return add


@pytest.fixture(scope="session")
def eval_data() -> Path:
    """Folder with the sets ``kodak``, ``cid22_val`` and ``live1`` for tests marked ``data``.

    ``$ENHANCER_DATA/eval`` or ``../shared/data/eval`` beside the checkout.
    """
    folder = Path(os.environ.get("ENHANCER_DATA", ROOT.parent / "shared" / "data")) / "eval"
    if not folder.is_dir():
        pytest.skip(f"no picture sets in {folder} (set ENHANCER_DATA)")
    return folder
