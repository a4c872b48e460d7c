"""What a run leaves behind: log lines, TensorBoard, checkpoints, the state to resume from."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from enhancer.network import RestorationNetwork
from train.config import TrainConfig, to_json
from train.validation import Validation

STATE = "state.pt"
RESUMABLE = ("phases", "validate_every", "save_every")
"""Settings that may differ when a run is resumed: a run may be prolonged."""


class RunLog:
    """Appends to ``log.jsonl`` and TensorBoard, and keeps the best and the last weights.

    Attributes:
        best: Highest validation gain so far.
    """

    def __init__(self, output: Path, config: TrainConfig, *, active: bool) -> None:
        self.best = float("-inf")
        self._output, self._config, self._active = output, config, active
        self._board = None
        if active:
            output.mkdir(parents=True, exist_ok=True)
            self.changed(config)
            with suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(output))

    def changed(self, config: TrainConfig) -> None:
        """Writes down the settings, which may change in length."""
        self._config = config
        if self._active:
            (self._output / "config.json").write_text(to_json(config) + "\n")

    def record(
        self,
        step: int,
        lr_share: float,
        losses: list[float],
        rate: float,
        result: Validation,
        network: RestorationNetwork,
    ) -> None:
        """Logs a validation and saves the weights if they are the best so far."""
        loss = sum(losses) / max(len(losses), 1)
        line = {
            "step": step,
            "loss": round(loss, 6),
            "lr": self._config.optimizer.lr * lr_share,
            "crops_per_s": round(rate, 2),
            "gain": round(result.gain, 4),
            "gain_by_codec": {codec: round(gain, 4) for codec, gain in result.by_codec.items()},
        }
        append_log(self._output, line)
        if self._board is not None:
            for name in ("loss", "lr", "gain", "crops_per_s"):
                self._board.add_scalar(name, line[name], step)
        if result.gain > self.best:
            self.best = result.gain
            self._save("best", network, {"steps": str(step), "validation_gain_db": f"{result.gain:.4f}"})

    def close(self, network: RestorationNetwork) -> None:
        """Saves the last weights."""
        if self._active:
            self._save("last", network, {})
            if self._board is not None:
                self._board.close()

    def _save(self, name: str, network: RestorationNetwork, metadata: dict[str, str]) -> None:
        try:
            from enhancer.checkpoint import save_checkpoint
        except ImportError:  # no safetensors on this machine; the state holds the weights too
            return
        metadata = {"training": to_json(self._config), "seen": json.dumps(seen_codecs(self._config)), **metadata}
        save_checkpoint(self._output / f"{name}.safetensors", network, codecs=self._config.codecs, metadata=metadata)


def seen_codecs(config: TrainConfig) -> list[str]:
    """Codecs whose pictures a run draws, and those that the checkpoint it started from, if still there, has seen."""
    from enhancer.checkpoint import load_checkpoint
    from enhancer.errors import CheckpointError

    seen = {codec for codec, weight in config.data.weights.items() if weight > 0}
    if config.start:
        with suppress(CheckpointError):
            start = load_checkpoint(config.start)
            seen |= set(start.codecs) - set(start.unseen)
    return sorted(seen)


def append_log(output: Path, line: dict[str, Any]) -> None:
    """Adds ``line`` and the time to ``log.jsonl``, and shows it on standard error."""
    text = json.dumps({**line, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    with (output / "log.jsonl").open("a") as file:
        file.write(text + "\n")
    print(text, file=sys.stderr)


def save_state(output: Path, config: Any, state: dict[str, Any]) -> None:
    """Replaces the state to resume from; a kill leaves the old one or the new one, never half.

    ``config`` is the dataclass of the run's settings, here and in :func:`load_state`.
    """
    partial = output / f"{STATE}.part"
    with partial.open("wb") as file:
        torch.save({"config": to_json(config), **state}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(output / STATE)


def load_state(output: Path, config: Any, resumable: Collection[str] = RESUMABLE) -> dict[str, Any] | None:
    """The state that a run in ``output`` saved last, or None if there is none.

    Raises:
        ValueError: If that run had other settings (apart from ``resumable`` ones, lengths and intervals).
    """
    path = output / STATE
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    old, new = json.loads(state["config"]), json.loads(to_json(config))
    for key in sorted(set(old) | set(new)):
        if key not in resumable and old.get(key) != new.get(key):
            raise ValueError(f"{output} holds a run with another {key!r}: {old.get(key)} instead of {new.get(key)}")
    return state
