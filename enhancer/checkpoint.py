"""Checkpoints: safetensors files that carry the network's configuration; named ones are checked by hash.

A checkpoint is one safetensors file. Its metadata holds ``format`` = ``enhancer``, ``version``,
``config`` (JSON of :class:`NetworkConfig`), ``codecs`` (JSON list) and whatever training adds (data,
steps, metrics, commit; ``seen``, a JSON list of the codecs whose pictures it drew). The folder's
``manifest.toml`` lists the shipped ones with their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from enhancer.condition import CODECS, condition_size, condition_vector, stand_in, trust
from enhancer.errors import CheckpointError
from enhancer.files import write_atomically
from enhancer.network import NetworkConfig, RestorationNetwork

FORMAT = "enhancer"
VERSION = 1
MANIFEST = "manifest.toml"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network, in evaluation mode, and what its file says about it.

    Attributes:
        network: The network, float32, on the CPU.
        codecs: Codecs of the condition vector, in its order; not all need have been seen in training.
        metadata: All metadata of the file.
        sha256: Of the file.
    """

    network: RestorationNetwork
    codecs: tuple[str, ...]
    metadata: dict[str, str]
    sha256: str

    @property
    def config(self) -> NetworkConfig:
        """Sizes of the network."""
        return self.network.config

    @cached_property
    def unseen(self) -> tuple[str, ...]:
        """The codecs of whose pictures training drew none: if the metadata do not say, those not in ``codecs``."""
        seen = _seen(self.metadata, self.codecs)
        return tuple(codec for codec in CODECS if codec not in seen)

    def says_little(self, codec: str | None, qp: float | None) -> bool:
        """Whether codec and qp had better be estimated together: of an unseen codec, the name alone helps little."""
        return qp is None and codec in self.unseen

    def condition(self, codec: str | None, qp: float | None, chroma: str | None = None) -> tuple[Tensor, float]:
        """What the network is told of a picture, and the share of its correction that is to be applied.

        For a codec of which the network has seen no picture, another one stands in, if there is one.

        Args:
            codec: See :func:`enhancer.condition.condition_vector`, also for ``qp``, ``chroma`` and what is raised.
            qp: Quality index.
            chroma: Chroma format.

        Returns:
            The condition ``(K,)``, and :func:`enhancer.condition.trust`.
        """
        share = trust(codec, qp, chroma)
        if codec in self.unseen:
            codec, qp = stand_in(codec, qp)
            codec = None if codec in self.unseen else codec
            share = min(share, trust(codec, qp, chroma))
        return condition_vector(self.codecs, codec, qp, chroma), share


def checkpoint_folder() -> Path:
    """Where the shipped checkpoints lie: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "checkpoints"
    return installed if (installed / MANIFEST).is_file() else package.parent / "checkpoints"


def checkpoint_names() -> tuple[str, ...]:
    """Names of the shipped checkpoints, in the manifest's order (best quality last)."""
    return tuple(_manifest())


def load_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Loads a shipped checkpoint by name, or any checkpoint by path.

    Raises:
        CheckpointError: If there is no such checkpoint, its hash is not the manifest's, or it is
            damaged, of another format, or newer than this version of the package.
    """
    entry = _manifest().get(str(name_or_path))
    path = checkpoint_folder() / entry["file"] if entry else Path(name_or_path)
    try:
        data = path.read_bytes()
    except OSError as error:
        known = ", ".join(checkpoint_names()) or "none"
        raise CheckpointError(
            f"cannot read checkpoint {name_or_path}: {error.strerror} (shipped ones: {known})"
        ) from error
    sha256 = hashlib.sha256(data).hexdigest()
    if entry and sha256 != entry["sha256"]:
        raise CheckpointError(f"checkpoint {path} is damaged: its SHA-256 is not the one in {MANIFEST}")
    tensors, metadata = _parse(data, path)
    return _build(tensors, metadata, sha256, path)


def save_checkpoint(
    path: Path,
    network: RestorationNetwork,
    *,
    codecs: tuple[str, ...],
    metadata: dict[str, str] | None = None,
    half: bool = False,
) -> str:
    """Writes a checkpoint, whole or not at all, and returns its SHA-256.

    Args:
        path: File to write; replaced if it exists.
        network: The network; its configuration goes into the file.
        codecs: Codecs of the condition vector, in order.
        metadata: More to tell; must not use the reserved keys.
        half: Store weights as float16, half the size.
    """
    header = {
        **(metadata or {}),
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(asdict(network.config)),
        "codecs": json.dumps(list(codecs)),
    }
    dtype = torch.float16 if half else torch.float32
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()}
    data = save_tensors(tensors, metadata=header)
    write_atomically(path, data, overwrite=True)
    return hashlib.sha256(data).hexdigest()


def _manifest() -> dict[str, dict[str, Any]]:
    path = checkpoint_folder() / MANIFEST
    try:
        entries = tomllib.loads(path.read_text())
        return {name: entry for name, entry in entries.items() if "kind" not in entry}  # others are no networks
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _parse(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; nothing in it is ever executed."""
    try:
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file") from error
    return tensors, metadata


def _build(tensors: dict[str, Tensor], metadata: dict[str, str], sha256: str, path: Path) -> Checkpoint:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of this package")
    if (version := metadata.get("version")) != str(VERSION):
        raise CheckpointError(f"{path} has format version {version}; this release reads version {VERSION}")
    try:
        network = RestorationNetwork(NetworkConfig(**json.loads(metadata["config"])))
        codecs = tuple(json.loads(metadata["codecs"]))
        network.load_state_dict({key: value.float() for key, value in tensors.items()})
        _seen(metadata, codecs)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the architecture and the training that it names") from error
    if network.config.condition != condition_size(codecs):
        raise CheckpointError(f"{path} was trained on another condition vector than this release makes")
    return Checkpoint(network.eval().requires_grad_(False), codecs, metadata, sha256)


def _seen(metadata: dict[str, str], codecs: tuple[str, ...]) -> frozenset[str]:
    """Codecs that ``metadata`` say training has seen, else those with a share in it, else all of ``codecs``."""
    if "seen" in metadata:
        return frozenset(json.loads(metadata["seen"]))
    training = json.loads(metadata.get("training", "{}"))
    weights: dict[str, float] = training.get("data", {}).get("weights", dict.fromkeys(codecs, 1.0))
    return frozenset(codec for codec in codecs if weights.get(codec, 0) > 0)
