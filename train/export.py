"""``python -m train export``: a run's averaged weights -> a checkpoint that says how it was made."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import torch

from enhancer.checkpoint import load_checkpoint, save_checkpoint
from enhancer.halo import measured_halo
from enhancer.network import RestorationNetwork
from train.config import TrainConfig, build
from train.runlog import STATE, seen_codecs


def export(run_folder: Path, which: str, output: Path, note: str) -> str:
    """Writes ``output`` (float16) and returns its SHA-256.

    Args:
        run_folder: Folder of the run.
        which: ``best`` of the validations, or ``last``, which comes from the resumable state and so
            needs nothing that a machine with torch alone could not write.
        output: Checkpoint to write.
        note: Goes into its metadata.

    Raises:
        CheckpointError: If the run has no best weights yet.
        OSError: If the run has no state.
    """
    training = (run_folder / "config.json").read_text().strip()
    config = build(TrainConfig, json.loads(training), "")
    seen = json.dumps(seen_codecs(config))
    metadata = {"training": training, "seen": seen, "note": note, "commit": checkout_commit()}
    if which == "best":
        checkpoint = load_checkpoint(run_folder / "best.safetensors")
        network = checkpoint.network
        metadata |= {key: checkpoint.metadata[key] for key in ("steps", "validation_gain_db")}
        # What was seen was found while training, where the checkpoint that the run started from lay.
        metadata["seen"] = checkpoint.metadata.get("seen", seen)
    else:
        state = torch.load(run_folder / STATE, map_location="cpu", weights_only=True)
        network = RestorationNetwork(config.network)
        network.load_state_dict(state["trainer"]["average"])
        metadata["steps"] = str(state["trainer"]["step"])
    metadata["halo"] = str(measured_halo(network.eval()))
    return save_checkpoint(output, network, codecs=config.codecs, metadata=metadata, half=True)


def checkout_commit() -> str:
    """Git commit of the checkout, or ``unknown`` outside of one."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
