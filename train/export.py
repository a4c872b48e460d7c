"""``python -m train export``: a run's averaged weights -> a checkpoint that says how it was made."""

from __future__ import annotations

import subprocess
from pathlib import Path

from enhancer.checkpoint import load_checkpoint, save_checkpoint


def export(run_folder: Path, which: str, output: Path, note: str) -> str:
    """Writes ``output`` (float16) and returns its SHA-256.

    Raises:
        CheckpointError: If the run has no weights yet.
    """
    checkpoint = load_checkpoint(run_folder / f"{which}.safetensors")
    reserved = ("format", "version", "config", "codecs")
    metadata = {key: value for key, value in checkpoint.metadata.items() if key not in reserved}
    metadata |= {"training": (run_folder / "config.json").read_text().strip(), "note": note, "commit": _commit()}
    return save_checkpoint(output, checkpoint.network, codecs=checkpoint.codecs, metadata=metadata, half=True)


def _commit() -> str:
    """Git commit of the checkout, or ``unknown`` outside of one."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
