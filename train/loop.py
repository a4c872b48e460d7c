"""``python -m train run``: the training loop, for one process or for many under torchrun."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from enhancer.errors import EnhancerError
from enhancer.network import RestorationNetwork
from train.config import TrainConfig
from train.data import Batch, CropSampler
from train.grow import copy_weights
from train.losses import reconstruction_loss
from train.precondition import precondition
from train.progress import bar
from train.runlog import RunLog, load_state, save_state
from train.store import PairStore
from train.validation import Validation, validate


class NotFiniteError(EnhancerError):
    """The loss or a gradient is not a finite number; the last saved state is good."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run under torchrun (``WORLD_SIZE`` etc.), or the only one."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def start(cls, device: str) -> Processes:
        """Joins the process group that torchrun describes, if there is one.

        Args:
            device: ``auto``, ``cpu`` or ``cuda``; with several processes each takes its own GPU.
        """
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if not dist.is_torchelastic_launched():
            return cls(0, 1, torch.device(kind))
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        rank = dist.get_rank()
        chosen = torch.device(kind, rank % torch.cuda.device_count()) if kind == "cuda" else torch.device(kind)
        return cls(rank, dist.get_world_size(), chosen)

    def stop(self) -> None:
        """Leaves the process group."""
        if self.count > 1:
            dist.destroy_process_group()

    def share(self, batch: int) -> range:
        """This process's samples of a global batch.

        Raises:
            ValueError: If the batch cannot be shared out equally.
        """
        if batch % self.count:
            raise ValueError(f"a batch of {batch} cannot be shared among {self.count} processes")
        size = batch // self.count
        return range(self.rank * size, (self.rank + 1) * size)


class Trainer:
    """Network, averaged weights, optimiser and data of one run."""

    def __init__(self, config: TrainConfig, store: PairStore, processes: Processes) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.processes = processes
        self.store = store
        self.step = 0
        device = processes.device
        self.sampler = CropSampler(store, config, device)
        self.network = _fresh(config, device)
        if config.optimizer.precondition:
            precondition(self.network, self.sampler, config.phases[0].crop)
        if config.start:
            from enhancer.checkpoint import load_checkpoint

            copy_weights(load_checkpoint(config.start).network, self.network)
        # The first and the last layer see the picture itself: bfloat16 is too coarse for it.
        for layer in (self.network.head, self.network.tail):
            layer.forward = torch.autocast(device.type, enabled=False)(layer.forward)  # type: ignore[method-assign]
        self.average = _fresh(config, device)
        self.average.load_state_dict(self.network.state_dict())
        self.average.requires_grad_(False)
        self.teacher = _teacher(config, device)
        settings = config.optimizer
        head = list(self.network.head.parameters())
        rest = [p for name, p in self.network.named_parameters() if not name.startswith("head.")]
        self.optimizer = torch.optim.AdamW(
            [{"params": head, "rate": settings.head_lr}, {"params": rest, "rate": 1.0}],
            settings.lr,
            settings.betas,
            weight_decay=settings.weight_decay,
        )
        self.wrapped: nn.Module = DistributedDataParallel(self.network) if processes.count > 1 else self.network

    def advance(self) -> float:
        """Makes one optimiser step and returns the loss of this process's samples.

        Raises:
            NotFiniteError: If the loss or a gradient is not finite; nothing is changed then.
        """
        phase, settings = self.config.phase_at(self.step), self.config.optimizer
        batch = self.sampler.batch(self.step, self.processes.share(phase.batch), phase.crop)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * group["rate"] * schedule(self.config, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch, phase.loss)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip or math.inf)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise NotFiniteError(f"loss {loss.item():.4g}, gradient norm {norm.item():.4g} at step {self.step}")
        self.optimizer.step()
        self._update_average()
        self.step += 1
        return float(loss.item())

    def _loss(self, batch: Batch, name: Any) -> Tensor:
        target = batch.target
        if self.teacher is not None:
            with torch.no_grad(), self._precision():
                target = torch.lerp(target, self.teacher(batch.x, batch.condition).float(), self.config.teacher_weight)
        with self._precision():
            y = self.wrapped(batch.x, batch.condition)
        return reconstruction_loss(name, y.float(), target, batch.x)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.processes.device.type, torch.bfloat16) if self.config.amp else nullcontext()

    @torch.no_grad()
    def _update_average(self) -> None:
        # A short memory at first, so that the average is not held back by the untrained weights.
        decay = min(self.config.optimizer.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def state(self) -> dict[str, Any]:
        """All that resuming needs; the data need nothing but the step."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what :meth:`state` returned."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def _fresh(config: TrainConfig, device: torch.device) -> RestorationNetwork:
    network = RestorationNetwork(config.network).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _teacher(config: TrainConfig, device: torch.device) -> RestorationNetwork | None:
    if not config.teacher:
        return None
    from enhancer.checkpoint import load_checkpoint

    return load_checkpoint(config.teacher).network.to(device)


def schedule(config: TrainConfig, step: int) -> float:
    """Share of the highest learning rate at ``step``: linear warm-up, constant, cosine to zero."""
    settings = config.optimizer
    tail = settings.decay * config.steps
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    past = (step + 1 - (config.steps - tail)) / tail if tail else 0.0
    return rise * 0.5 * (1 + math.cos(math.pi * min(max(past, 0.0), 1.0)))


def run(
    config: TrainConfig, store_folder: Path, output: Path, *, device: str, minutes: float | None
) -> Validation | None:
    """Trains until all steps are done or ``minutes`` have passed; resumes what ``output`` holds.

    ``output`` gets ``state.pt`` (to resume), ``best.safetensors`` and ``last.safetensors`` (averaged
    weights), ``log.jsonl`` and TensorBoard files. Returns the last validation.

    Raises:
        ValueError: If the store or the settings do not fit, or ``output`` holds another run.
        NotFiniteError: If training diverges; the state saved last is good.
    """
    processes = Processes.start(device)
    try:
        trainer = Trainer(config, PairStore(store_folder), processes)
        log = RunLog(output, config, active=processes.rank == 0)
        if (state := load_state(output, config)) is not None:
            trainer.restore(state["trainer"])
            log.best = state["best"]
        return _fit(trainer, log, output, deadline=None if minutes is None else time.monotonic() + 60 * minutes)
    finally:
        processes.stop()


def _fit(trainer: Trainer, log: RunLog, output: Path, deadline: float | None) -> Validation | None:
    config, main = trainer.config, trainer.processes.rank == 0
    result: Validation | None = None
    losses: list[float] = []
    last = time.monotonic()
    progress = bar(total=config.steps, initial=trainer.step, unit="step", disable=not main, mininterval=5)
    while trainer.step < config.steps:
        losses.append(trainer.advance())
        progress.update()
        end = trainer.step == config.steps or _agree(deadline is not None and time.monotonic() > deadline, trainer)
        if main and (end or trainer.step % config.validate_every == 0):
            rate = len(losses) * config.phase_at(trainer.step - 1).batch / (time.monotonic() - last)
            result = validate(trainer.average, trainer.store, config, trainer.processes.device)
            log.record(trainer.step, schedule(config, trainer.step - 1), losses, rate, result, trainer.average)
            losses, last = [], time.monotonic()
        if main and (end or trainer.step % config.save_every == 0):
            save_state(output, config, {"trainer": trainer.state(), "best": log.best})
        if end:
            break
    progress.close()
    log.close(trainer.average)
    return result


def _agree(stop: bool, trainer: Trainer) -> bool:
    """Whether the first process wants to stop, told to all."""
    if trainer.processes.count == 1:
        return stop
    flag = torch.tensor([float(stop)], device=trainer.processes.device)
    dist.broadcast(flag, src=0)
    return bool(flag.item())
