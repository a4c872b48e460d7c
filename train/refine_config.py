"""Settings of ``python -m train refine``, and the refiners and codecs that they name."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from codec_wrappers.learned.models import Hyperprior
from codec_wrappers.learned.storage import load_zoo_model, parse_model
from codec_wrappers.learned.weights import WeightsFile
from enhancer.checkpoint import load_checkpoint
from enhancer.condition import condition_size, condition_vector
from enhancer.network import NetworkConfig
from enhancer.refiners import RESTORING, Refiner, fresh_refiner, residual_control
from train.config import build

Mode = Literal["base", "encoder", "all"]
Control = Literal["none", "gs", "residual"]


@dataclass(frozen=True)
class RefineConfig:
    """Everything that decides the result of a run, apart from the codec and the pictures.

    Attributes:
        refiners: Names, see :data:`enhancer.refiners.REFINER_NAMES`.
        mode: What is frozen: the whole ``base``; its ``encoder`` and entropy model, so that ``g_s`` learns
            too; or nothing (``all``), the rate being part of the loss then.
        control: ``gs``: no refiner, ``g_s`` alone learns (in mode ``all`` the codec); ``residual``: each
            refiner is replaced by a plain residual network of its size.
        steps: Optimiser steps.
        batch: Windows a step.
        crop: Side of a window in pixels.
        margin: Pixels at each side of a window that do not count: there g_s lacks its surroundings.
        lr: Highest learning rate of refiners.
        decoder_lr: The same of ``g_s``, or of the codec.
        warmup: Steps of linear rise.
        decay: Share of all steps, at the end, in which the rates fall to zero along a cosine.
        clip: Largest gradient norm.
        distortion: Weight of ``255^2 * MSE`` in the loss; 0 takes that of the codec's training.
        feature_weight: Weight of the feature loss of refiners at features.
        feature_share: Share of all steps, at the beginning, in which it counts.
        qualities: Of codecs with several; see their ``set_quality``. Each batch is of one.
        pixel: Sizes of the restoration network of ``pixel`` and ``qecm-picture``.
        pixel_start: Checkpoint that it starts from (its sizes rule then), or empty.
        seed: Of weights and windows.
        amp: Compute convolutions in bfloat16 while training, on devices that have it; not in mode ``all``,
            where rates would be too coarse.
        validation_pictures: Pictures used for validation, at most.
        validate_every: Steps between validations.
        save_every: Steps between saved states.
    """

    refiners: tuple[str, ...] = ("fenm",)
    mode: Mode = "base"
    control: Control = "none"
    steps: int = 2000
    batch: int = 8
    crop: int = 192
    margin: int = 16
    lr: float = 5e-4
    decoder_lr: float = 1e-4
    warmup: int = 50
    decay: float = 0.5
    clip: float = 1.0
    distortion: float = 0.0
    feature_weight: float = 1.0
    feature_share: float = 1 / 3
    qualities: tuple[float, ...] = (1.0,)
    pixel: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(
            channels=48, blocks=5, unshuffle=2, attention="channel", cell=4, condition=condition_size(("codec",))
        )
    )
    pixel_start: str = ""
    seed: int = 0
    amp: bool = True
    validation_pictures: int = 16
    validate_every: int = 500
    save_every: int = 500

    def __post_init__(self) -> None:
        if not self.qualities or not self.refiners:
            raise ValueError("at least one refiner and one quality are needed")
        if min(self.steps, self.batch, self.validation_pictures, self.validate_every, self.save_every) < 1:
            raise ValueError("steps, batch, validation_pictures, validate_every and save_every must be at least 1")
        if not 0 <= 2 * self.margin < self.crop:
            raise ValueError(f"margin must leave some of the {self.crop} pixels of a crop, got {self.margin}")


def parse_settings(tree: dict[str, Any], overrides: Sequence[str]) -> RefineConfig:
    """Settings from plain values and overrides, lines of TOML such as ``pixel.blocks=3``.

    Raises:
        ValueError: If a key is unknown or a value is of the wrong type.
    """
    given = tomllib.loads("\n".join(overrides))
    pixel = asdict(RefineConfig().pixel) | given.pop("pixel", {})
    return build(RefineConfig, {**tree, **given, "pixel": pixel}, "")


def schedule(config: RefineConfig, step: int) -> float:
    """Share of the highest rates at ``step``: linear warm-up, constant, cosine to zero."""
    tail = config.decay * config.steps
    past = (step + 1 - (config.steps - tail)) / tail if tail else 0.0
    return min(1.0, (step + 1) / max(config.warmup, 1)) * 0.5 * (1 + math.cos(math.pi * min(max(past, 0.0), 1.0)))


def load_base(path: Path, architecture: str = "") -> Any:
    """A codec of one's own: a weights file of ours, or of a CompressAI zoo ``architecture``.

    Raises:
        CodecError: If the file is not what it should be.
        OSError: If it cannot be read.
    """
    data = path.read_bytes()
    if not architecture:
        return parse_model(data, path)
    file = WeightsFile(path.name, path, architecture, (), hashlib.sha256(data).hexdigest())
    return deepcopy(load_zoo_model(architecture, file))


def chosen_refiners(config: RefineConfig, base: Any) -> list[Refiner]:
    """The refiners of a run, fresh, on the CPU.

    Raises:
        ValueError: If the settings do not fit the codec, or leave nothing to train.
    """
    if config.mode == "all":
        _check_codec_training(config, base)
    if config.control == "gs":
        return []
    refiners = [_fresh(name, config, base) for name in config.refiners]
    if config.control == "residual":
        refiners = [residual_control(refiner, base) for refiner in refiners if list(refiner.parameters())]
    if config.mode == "base" and not any(list(refiner.parameters()) for refiner in refiners):
        raise ValueError(f"{', '.join(config.refiners)} has no weights to train; mode all trains the codec with it")
    return [refiner.eval() for refiner in refiners]


def _check_codec_training(config: RefineConfig, base: Any) -> None:
    if not isinstance(base, Hyperprior) or base.config.kind != "msh":
        raise ValueError("mode all trains codecs of kind msh only")
    if config.crop % base.downsampling_factor:
        raise ValueError(f"crop must be a multiple of {base.downsampling_factor} in mode all, got {config.crop}")


def _fresh(name: str, config: RefineConfig, base: Any) -> Refiner:
    """A refiner; restoration networks start from the weights that the settings name."""
    if name not in RESTORING:
        return fresh_refiner(name, base)
    codec = base.config.kind if isinstance(base, Hyperprior) else "codec"
    start = load_checkpoint(config.pixel_start) if config.pixel_start else None
    # What a traditional codec keeps of local means, a learned one need not.
    network, codecs = (replace(start.config, mean_bound=0.0), start.codecs) if start else (config.pixel, (codec,))
    refiner = RESTORING[name](network, condition_vector(codecs, codec, None).tolist())
    if start:
        refiner.network.load_state_dict(start.network.state_dict())
    return refiner


def trained_distortion(base: Any) -> float:
    """Weight of the distortion that the codec was trained with (the highest of several); 0.013 if it is not known."""
    lambdas = base.config.lambdas if isinstance(base, Hyperprior) else (0.013,)
    return float(lambdas[-1])
