"""Training settings: frozen dataclasses, read from TOML; unknown keys are refused."""

from __future__ import annotations

import json
import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from enhancer.condition import CODECS, condition_size, jpeg_place
from enhancer.network import NetworkConfig

T = TypeVar("T")

LossName = Literal["mae", "mse", "mae+ms_ssim", "relative_mae", "relative_mse"]
Augmentation = Literal["none", "rotate", "dihedral"]


@dataclass(frozen=True)
class Phase:
    """A part of the training with its own crops and loss.

    Attributes:
        steps: Optimiser steps.
        batch: Crops a step, over all processes.
        crop: Side of a crop in pixels.
        loss: Loss function.
    """

    steps: int
    batch: int = 16
    crop: int = 96
    loss: LossName = "mae"

    @property
    def pixels(self) -> int:
        """Pixels a step."""
        return self.batch * self.crop**2


@dataclass(frozen=True)
class DataSettings:
    """What is drawn.

    Attributes:
        weights: Share of each codec in the batches; codecs that are not named are not used.
        sources: Share of each data set (folder name); empty means all pairs alike.
        augmentation: Rotations only, rotations and flips, or none.
        blind: Share of crops whose codec and qp are hidden from the network.
        no_qp: Share of crops whose qp alone is hidden.
        no_chroma: Share of the other crops whose chroma format is hidden.
        qp_jitter: Standard deviation of noise on the qp given to the network.
        validation_pairs: Pairs used for validation (spread over the validation part).
    """

    weights: dict[str, float] = field(default_factory=lambda: {"bpg": 1.0})
    sources: dict[str, float] = field(default_factory=dict)
    augmentation: Augmentation = "dihedral"
    blind: float = 0.15
    no_qp: float = 0.05
    no_chroma: float = 0.15
    qp_jitter: float = 0.5
    validation_pairs: int = 48


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam(W) and its schedule.

    Attributes:
        lr: Highest learning rate.
        betas: Decay rates of the moments.
        weight_decay: Decoupled weight decay.
        warmup: Steps of linear rise to ``lr``.
        decay: Share of all steps, at the end, in which the rate falls to zero along a cosine; before
            that it is constant, so that a run can be prolonged by resuming with more steps.
        clip: Largest gradient norm; 0 switches clipping off.
        ema: Decay rate of the averaged weights; 0 switches averaging off.
        precondition: Start a fresh network with a whitening first layer and a small residual.
        head_lr: Factor on the first layer's learning rate.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 100
    decay: float = 0.3
    clip: float = 0.5
    ema: float = 0.999
    precondition: bool = True
    head_lr: float = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of a run, apart from the pairs.

    Attributes:
        network: Sizes of the network.
        phases: Parts of the training, in order.
        data: What is drawn.
        optimizer: Optimiser and schedule.
        seed: Of the weights and the drawing.
        amp: Compute the network in bfloat16 (autocast), on devices that have it.
        validate_every: Steps between validations.
        save_every: Steps between checkpoints.
        teacher: Checkpoint to distil from, or empty.
        teacher_weight: Share of the teacher's picture in the target.
        start: Checkpoint whose weights to start from (equal, or with fewer blocks or channels), or empty.
        codecs: Codecs of the condition vector, in order.
    """

    network: NetworkConfig
    phases: tuple[Phase, ...]
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    seed: int = 0
    amp: bool = True
    validate_every: int = 500
    save_every: int = 500
    teacher: str = ""
    teacher_weight: float = 0.5
    start: str = ""
    codecs: tuple[str, ...] = CODECS

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase that ``step`` (from 0) belongs to; the last one for all later steps."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


def load_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Reads a preset and applies ``key.key=value`` overrides (values in TOML syntax).

    Raises:
        ValueError: If the file is no TOML, a key is unknown, or a value is of the wrong type.
        OSError: If the file cannot be read.
    """
    tree = tomllib.loads(path.read_text())
    for override in overrides or []:
        key, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"expected KEY=VALUE, got {override!r}")
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{parent} is no table whose {last} could be set; set all of {parent}")
        node[last] = tomllib.loads(f"value = {value}")["value"]
    config = build(TrainConfig, tree, "")
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Raises ``ValueError`` where settings contradict one another."""
    network = config.network
    if network.condition != condition_size(config.codecs):
        raise ValueError(f"network.condition must be {condition_size(config.codecs)} for {len(config.codecs)} codecs")
    if network.jpeg_place not in (-1, place := jpeg_place(config.codecs)):
        raise ValueError(f"network.jpeg_place must be -1, or {place} for these codecs")
    if not config.phases:
        raise ValueError("phases: there must be one at least")
    if not 0 <= config.teacher_weight <= 1:
        raise ValueError(f"teacher_weight must be in 0..1, got {config.teacher_weight:g}")
    if min(config.validate_every, config.save_every) < 1:
        raise ValueError("validate_every and save_every must be at least 1")
    for phase in config.phases:
        if min(phase.steps, phase.batch, phase.crop) < 1:
            raise ValueError(f"phases: steps, batch and crop must be at least 1, got {phase}")
        if phase.crop % network.multiple:
            raise ValueError(
                f"phases: crop {phase.crop} is no multiple of {network.multiple}, which this network needs"
            )
    if unknown := set(config.data.weights) - set(config.codecs):
        raise ValueError(f"data.weights names unknown codecs: {', '.join(sorted(unknown))}")
    if min(config.data.weights.values(), default=0) < 0 or not any(config.data.weights.values()):
        raise ValueError("data.weights must not be negative, and one must be above 0")


def build(kind: type[T], tree: Any, where: str) -> T:
    """Makes a value of the (data)class ``kind`` from parsed TOML or JSON; refuses what does not fit."""
    if is_dataclass(kind):
        if not isinstance(tree, dict):
            raise ValueError(f"{where or 'the file'} must be a table")
        known = {f.name: f for f in fields(kind)}
        if unknown := set(tree) - set(known):
            raise ValueError(f"unknown key {where}{sorted(unknown)[0]}; known: {', '.join(known)}")
        missing = [
            n for n, f in known.items() if n not in tree and f.default is MISSING and f.default_factory is MISSING
        ]
        if missing:
            raise ValueError(f"missing key {where}{missing[0]}")
        hints = get_type_hints(kind)
        return kind(**{name: build(hints[name], value, f"{where}{name}.") for name, value in tree.items()})
    value: T = _plain(kind, tree, where.rstrip("."))
    return value


def _plain(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} must be one of {arguments}, got {value!r}")
        return value
    if origin is tuple and isinstance(value, list):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) != len(value):
            raise ValueError(f"{where} must have {len(inner)} values")
        return tuple(build(k, v, f"{where}.") for k, v in zip(inner, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: _plain(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (Union, UnionType):
        raise TypeError(f"{where}: unions are not supported in settings")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, origin or kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be {getattr(kind, '__name__', kind)}, got {value!r}")
    return value


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """The same settings with all phases scaled so that they make ``steps`` together."""
    return _scaled(config, steps / config.steps)


def fit_cost(config: TrainConfig, pixels: float) -> TrainConfig:
    """The same settings with all phases scaled so that they see ``pixels`` together."""
    return _scaled(config, pixels / sum(phase.steps * phase.pixels for phase in config.phases))


def _scaled(config: TrainConfig, factor: float) -> TrainConfig:
    phases = tuple(replace(phase, steps=max(1, round(phase.steps * factor))) for phase in config.phases)
    return replace(config, phases=phases)


def to_json(config: Any) -> str:
    """Settings as JSON that :func:`build` reads back."""
    return json.dumps(config, default=lambda value: {f.name: getattr(value, f.name) for f in fields(value)})
