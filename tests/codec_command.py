"""The command ``enhance-codec`` within this process, and how its failures look."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from enhancer.cli.codec import main


def run_codec(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Status, standard output and standard error of the command."""
    status = main([str(argument) for argument in arguments])
    return (status, *capsys.readouterr())


def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps the command off the user's cache and this process's signals; returns its folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("ENHANCER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return folder


def assert_failed(result, message, output=None):
    status, out, err = result
    assert (status, out) == (1, "")
    assert err.startswith("enhance-codec: ")
    assert len(err.splitlines()) == 1
    assert message in err
    if output is not None:
        assert not output.exists()
        assert [path for path in output.parent.iterdir() if path.name.startswith(".")] == []


def pixels(path):
    return np.asarray(PillowImage.open(path))
