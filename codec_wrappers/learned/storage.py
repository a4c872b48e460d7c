"""Models to and from weights files, and CompressAI's zoo models from files of the user's."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from codec_wrappers.errors import UnknownCodecError
from codec_wrappers.learned.loader import load_compressai
from codec_wrappers.learned.models import Hyperprior, ModelConfig, build
from codec_wrappers.learned.weights import FORMAT, VERSION, WeightsError, WeightsFile, parse_metadata

_REBUILT = "gaussian_conditional."  # tables that are the same for all models


def dump_model(model: Hyperprior, metadata: dict[str, str] | None = None, *, half: bool = True) -> tuple[bytes, str]:
    """The weights file of ``model`` and its SHA-256.

    The tables of the factorised prior are made anew from what is stored, so that the file decides them.

    Args:
        model: The model; unchanged.
        metadata: More to tell; must not use the reserved keys.
        half: Store the convolutions as float16, half the size.
    """
    stored = build(model.config)
    stored.entropy_bottleneck.load_state_dict(_without_tables(model.entropy_bottleneck), strict=False)
    stored.update(force=True, update_quantiles=True)
    tables = {f"entropy_bottleneck.{name}": t for name, t in stored.entropy_bottleneck.state_dict().items()}
    tensors = {name: t for name, t in model.state_dict().items() if not name.startswith(_REBUILT)} | tables
    for name, tensor in tensors.items():
        dtype = torch.float16 if half and tensor.ndim == 4 else tensor.dtype
        tensors[name] = tensor.detach().to("cpu", dtype).contiguous().clone()
    header = {"format": FORMAT, "version": str(VERSION), "config": json.dumps(asdict(model.config))}
    data = save_tensors(tensors, metadata={**(metadata or {}), **header})
    return data, hashlib.sha256(data).hexdigest()


def _without_tables(bottleneck: nn.Module) -> dict[str, Any]:
    return {name: t for name, t in bottleneck.state_dict().items() if not name.startswith("_")}


def parse_model(data: bytes, path: Path) -> Hyperprior:
    """The model of a weights file, ready to code.

    Raises:
        WeightsError: If the file is damaged or does not fit the model that it names.
    """
    metadata = parse_metadata(data, path)
    try:
        tree = json.loads(metadata["config"])
        model = build(ModelConfig(**{**tree, "lambdas": tuple(tree["lambdas"])}))
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in load_tensors(data).items()}
        own = {name: t for name, t in model.state_dict().items() if name.startswith(_REBUILT)}
        model.load_state_dict({**tensors, **own})
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} does not fit the model that it names") from error
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=8)
def load_model(file: WeightsFile) -> Hyperprior:
    """The model of a weights file; one object for all callers, so use it under :data:`coding.LOCK`.

    Raises:
        WeightsError: If the file is missing or not what it should be.
    """
    return parse_model(file.read(), file.path)


@functools.lru_cache(maxsize=2)
def load_zoo_model(architecture: str, file: WeightsFile) -> nn.Module:
    """A CompressAI zoo model with the weights of a local file (safetensors, or ``.pth.tar`` of the zoo).

    Nothing in the file is executed. Missing tables are made.

    Raises:
        UnknownCodecError: If the zoo has no such architecture.
        WeightsError: If the file is damaged or does not fit it.
    """
    kind = zoo_architectures().get(architecture)
    if kind is None:
        raise UnknownCodecError(f"unknown zoo model {architecture!r}; known: {', '.join(zoo_architectures())}")
    from compressai.zoo import load_state_dict as renamed

    data = file.read()
    try:
        tensors = _any_tensors(data, file.path)
        model = kind.from_state_dict(renamed(tensors))
        model.update()
    except Exception as error:  # a foreign file may fail in any way; all mean the same to the user
        raise WeightsError(f"{file.path} holds no weights of {architecture}") from error
    ready: nn.Module = model.eval().requires_grad_(False)
    return ready


def zoo_architectures() -> dict[str, Any]:
    """CompressAI's image models by their zoo names."""
    load_compressai()
    from compressai.zoo.image import model_architectures

    return {name.replace("_", "-"): kind for name, kind in model_architectures.items()}


def _any_tensors(data: bytes, path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(load_tensors(data))
    loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return dict(loaded.get("state_dict", loaded))
