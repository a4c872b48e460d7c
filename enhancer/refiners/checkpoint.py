"""Files of refiners: safetensors that carry their architecture and the hash of the codec they were trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from enhancer.errors import CheckpointError
from enhancer.files import write_atomically
from enhancer.refiners.attach import Attachment, attach
from enhancer.refiners.base import Refiner
from enhancer.refiners.networks import FEnM, PictureQECM, PixelRefiner, PlainResidual
from enhancer.refiners.qecm import FourierQECM, LearnedQECM

FORMAT = "enhancer-refiners"
VERSION = 1
KINDS: dict[str, type[Refiner]] = {
    kind.kind: kind for kind in (FEnM, FourierQECM, LearnedQECM, PictureQECM, PixelRefiner, PlainResidual)
}
_DERIVED = ("_quantized_cdf", "_cdf_length", "_offset", "scale_table")
"""Tables that a codec's ``update()`` computes from its weights."""


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of a codec's weights: names, shapes and float32 values, in the order of names.

    Entropy-coding tables are left out: the hash is the same before and after ``update()``. Refiners are
    no part of it, but a decoder that :func:`enhancer.refiners.attach` swapped in would be.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name.rpartition(".")[2] not in _DERIVED:
            digest.update(f"{name} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class RefinerSet:
    """Refiners that belong together, and the codec that they belong to.

    Attributes:
        refiners: In the order in which they are applied.
        base_sha256: :func:`weights_sha256` of the codec.
        decoder: Weights of ``g_s`` that were trained along with them, or None.
        feature_index: Where features are refined; see :func:`enhancer.refiners.attach`.
        metadata: Whatever training tells.
        sha256: Of the file; empty before it is saved.
    """

    refiners: tuple[Refiner, ...]
    base_sha256: str
    decoder: Mapping[str, Tensor] | None = None
    feature_index: int = -1
    metadata: dict[str, str] = field(default_factory=dict)
    sha256: str = ""

    def attach(self, model: nn.Module) -> Attachment:
        """Attaches the set to the codec it was trained on.

        Raises:
            CheckpointError: If ``model`` has other weights than that codec.
            ValueError: See :func:`enhancer.refiners.attach`.
        """
        if (found := weights_sha256(model)) != self.base_sha256:
            raise CheckpointError(
                f"these refiners were trained on a codec with weights {self.base_sha256[:12]}…, not {found[:12]}…"
            )
        return attach(model, self.refiners, decoder=self.decoder, feature_index=self.feature_index)


def save_refiners(path: Path, refiners: RefinerSet, *, half: bool = False) -> str:
    """Writes a set, whole or not at all, and returns the file's SHA-256.

    Args:
        path: File to write; replaced if it exists.
        refiners: The set.
        half: Store weights as float16, half the size.
    """
    header = {
        **refiners.metadata,
        "format": FORMAT,
        "version": str(VERSION),
        "base_sha256": refiners.base_sha256,
        "feature_index": str(refiners.feature_index),
        "refiners": json.dumps([{"kind": r.kind, "options": r.options} for r in refiners.refiners]),
    }
    states: dict[str, Mapping[str, Tensor]] = {str(i): r.state_dict() for i, r in enumerate(refiners.refiners)}
    if refiners.decoder is not None:
        states["decoder"] = refiners.decoder
    dtype = torch.float16 if half else torch.float32
    tensors = {
        f"{part}.{name}": value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for part, state in states.items()
        for name, value in state.items()
    }
    data = save_tensors(tensors, metadata=header)
    write_atomically(path, data, overwrite=True)
    return hashlib.sha256(data).hexdigest()


def load_refiners(path: Path) -> RefinerSet:
    """Reads a set; its refiners are in evaluation mode and take no gradient.

    Raises:
        CheckpointError: If the file is damaged, no set of refiners, or newer than this version.
        OSError: If it cannot be read.
    """
    data = path.read_bytes()
    try:
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but holds no refiners")
    if (version := metadata.get("version")) != str(VERSION):
        raise CheckpointError(f"{path} has format version {version}; this release reads version {VERSION}")
    try:
        entries = json.loads(metadata["refiners"])
        refiners = tuple(_build(entry, _state(tensors, str(i))) for i, entry in enumerate(entries))
        index, base = int(metadata["feature_index"]), str(metadata["base_sha256"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the architecture that it names") from error
    decoder = _state(tensors, "decoder") or None
    return RefinerSet(refiners, base, decoder, index, metadata, hashlib.sha256(data).hexdigest())


def _state(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _build(entry: dict[str, Any], state: dict[str, Tensor]) -> Refiner:
    refiner = KINDS[entry["kind"]](**entry["options"])
    refiner.load_state_dict(state)
    return refiner.eval().requires_grad_(False)
