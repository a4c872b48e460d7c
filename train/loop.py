"""``python -m train run``: the training loop, for one process or for many under torchrun."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from enhancer.errors import EnhancerError
from enhancer.network import NetworkConfig, RestorationNetwork, keep_ends_in_float32
from train.compiler import need_compiler
from train.config import LossName, Phase, TrainConfig, build, fit_cost, with_steps
from train.data import Batch, CropSampler, Draws
from train.graph import (
    GraphedStep,
    place_network,
    place_optimizer,
    set_average_step,
    set_rate,
    set_up_cuda,
    update_average,
)
from train.grow import copy_weights
from train.losses import reconstruction_loss
from train.precision import has_bfloat16
from train.precondition import precondition
from train.progress import bar
from train.runlog import RunLog, load_state, save_state
from train.store import PairStore
from train.teacher import Teacher
from train.validation import Validation, validate, validation_pairs


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

        Raises:
            ValueError: If CUDA is asked for and missing.
        """
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here, or torch was built without CUDA")
        if not dist.is_torchelastic_launched():
            return cls(0, 1, torch.device(kind))
        # DistributedDataParallel imports it; its functions have the process group that there is when they are defined
        # as a default argument, and would keep it alive.
        import_module("torch.distributed.nn")
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        rank = dist.get_rank()
        chosen = torch.device(kind, rank % torch.cuda.device_count()) if kind == "cuda" else torch.device(kind)
        return cls(rank, dist.get_world_size(), chosen)

    def stop(self) -> None:
        """Leaves the process group and ends its threads; no trainer may be left then, which would keep them.

        A thread that lets go of a finished tensor while Python ends aborts the process.
        """
        if self.count > 1:
            gc.collect()
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
    """Network, averaged weights, optimiser and data of one run.

    On a GPU, blocks are compiled and steps replayed as CUDA graphs, unless ``eager``; ``compiled`` compiles them on a
    processor, too. ``build`` makes the network.
    """

    def __init__(
        self,
        config: TrainConfig,
        store: PairStore,
        processes: Processes,
        *,
        eager: bool = False,
        compiled: bool = False,
        build: Callable[[NetworkConfig], RestorationNetwork] = RestorationNetwork,
    ) -> None:
        if not validation_pairs(store, config):
            raise ValueError(f"{store.folder} has no validation pairs of {', '.join(config.data.weights)}")
        torch.manual_seed(config.seed)
        self.config = config
        self.processes = processes
        self.store = store
        self.step = 0
        device = processes.device
        self.sampler = CropSampler(store, config, device)
        self.network = place_network(build(config.network), device)
        if config.optimizer.precondition:
            precondition(self.network, self.sampler, config.phases[0].crop)
        if config.start:
            from enhancer.checkpoint import load_checkpoint

            copy_weights(load_checkpoint(config.start).network, self.network)
        self.average = place_network(build(config.network), device)
        self.average.load_state_dict(self.network.state_dict())
        self.average.requires_grad_(False)
        for network in (self.network, self.average):
            keep_ends_in_float32(network)
        self.teacher = Teacher(config, device) if config.teacher else None
        self.wrapped: nn.Module = DistributedDataParallel(self.network) if processes.count > 1 else self.network
        self.optimizer = _optimizer(config, self.network)
        # Read by every step, a recorded one too: changed in place.
        self._report = torch.zeros(2, device=device)  # loss, gradient norm
        self._skip = torch.zeros((), device=device)  # 1 if one of them is not finite
        self._ema_step = torch.zeros((), device=device)
        self.optimizer.found_inf = self._skip  # type: ignore[attr-defined]  # fused Adam changes nothing then
        self._graphs: dict[tuple[int, int, str], GraphedStep] = {}
        on_device = self.sampler.device.type == "cuda"  # else crops are copied there in each step
        self._graphed = on_device and processes.count == 1 and not eager
        self._next: tuple[int, Draws] | None = None
        if self._graphed or compiled:
            for block in [*self.network.blocks, *(self.teacher.network.blocks if self.teacher else ())]:
                block.compile(dynamic=False)

    def advance(self) -> float:
        """Makes one optimiser step and returns the loss of this process's samples.

        Raises:
            NotFiniteError: If the loss or a gradient is not finite; the weights are not changed then.
        """
        phase, settings = self.config.phase_at(self.step), self.config.optimizer
        rate = settings.lr * schedule(self.config, self.step)
        for group in self.optimizer.param_groups:
            set_rate(group, rate * group["rate"])
        set_average_step(self._ema_step, settings.ema, self.step)
        draws = self._draw(self.step)
        if self._graphed:
            kind = (phase.batch, phase.crop, phase.loss)
            if kind not in self._graphs:
                self._graphs = {kind: GraphedStep(lambda *tensors: self._step(phase, Draws(*tensors)))}
            self._graphs[kind](draws.places, draws.condition, draws.codec_mse)
            self._next = (self.step + 1, self._draw(self.step + 1))  # while the GPU works
        else:
            self._step(phase, draws)
        loss, norm = self._report.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(f"loss {loss:.4g}, gradient norm {norm:.4g} at step {self.step}")
        self.step += 1
        return float(loss)

    def _draw(self, step: int) -> Draws:
        if self._next is not None and self._next[0] == step:
            return self._next[1]
        phase = self.config.phase_at(step)
        return self.sampler.draw(step, self.processes.share(phase.batch), phase.crop)

    def _step(self, phase: Phase, draws: Draws) -> None:
        """One step on the device, without waiting for it; leaves loss and gradient norm in ``_report``."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self.sampler.gather(draws, phase.crop), phase.loss)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip or math.inf)
        self._report.copy_(torch.stack([loss.detach(), norm]))
        self._skip.copy_(1 - self._report.isfinite().all().float())
        self.optimizer.step()
        update_average(self.average, self.network, self._ema_step)

    def _loss(self, batch: Batch, name: LossName) -> Tensor:
        target = batch.target
        if self.teacher is not None:
            with self._precision():
                taught = self.teacher.restore(batch.x, batch.condition, len(batch.x) * self.processes.rank)
            target = torch.lerp(target, taught, self.config.teacher_weight)
        with self._precision():
            y = self.wrapped(batch.x, batch.condition)
        return reconstruction_loss(name, y.float(), target, batch.x, batch.codec_mse)

    def _precision(self) -> torch.autocast:
        device = self.processes.device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.amp and has_bfloat16(device))

    def state(self) -> dict[str, Any]:
        """All that resuming needs; the data need nothing but the step."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pairs": len(self.store.pairs),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what :meth:`state` returned; says so if the store has changed, which draws other crops."""
        self.step = state["step"]
        before, now = state.get("pairs"), len(self.store.pairs)
        if before not in (None, now) and self.processes.rank == 0:
            print(f"{self.store.folder} has {now} pairs, and had {before}: other crops are drawn now")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        place_optimizer(self.optimizer, self.processes.device)  # the state may come from another kind of device
        self._graphs = {}  # they hold the tensors that were replaced


def _optimizer(config: TrainConfig, network: RestorationNetwork) -> torch.optim.AdamW:
    settings = config.optimizer
    head = list(network.head.parameters())
    rest = [p for name, p in network.named_parameters() if not name.startswith("head.")]
    optimizer = torch.optim.AdamW(
        [{"params": head, "rate": settings.head_lr}, {"params": rest, "rate": 1.0}],
        settings.lr,
        settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    place_optimizer(optimizer, head[0].device)
    return optimizer


def schedule(config: TrainConfig, step: int) -> float:
    """Share of the highest learning rate at ``step``: linear warm-up, constant, cosine to zero."""
    settings = config.optimizer
    tail = settings.decay * config.steps
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    past = (step + 1 - (config.steps - tail)) / tail if tail else 0.0
    return rise * 0.5 * (1 + math.cos(math.pi * min(max(past, 0.0), 1.0)))


def run(
    config: TrainConfig,
    store_folder: Path,
    output: Path,
    *,
    device: str,
    minutes: float | None,
    fit: bool = False,
    eager: bool = False,
    compiled: bool = False,
) -> Validation | None:
    """Trains until all steps are done or ``minutes`` have passed; resumes what ``output`` holds.

    ``output`` gets ``state.pt`` (to resume), ``best.safetensors`` and ``last.safetensors`` (averaged
    weights), ``log.jsonl`` and TensorBoard files. Returns the last validation. With ``fit``, all phases are
    scaled, after a few steps, so that they end with the ``minutes``. ``compiled`` steps on a processor are faster after
    a slow first one, and round otherwise.

    Raises:
        ValueError: If the store or the settings do not fit, CUDA or a compiler is asked for and missing, or ``output``
            holds another run.
        NotFiniteError: If training diverges; the state saved last is good.
    """
    if compiled:
        need_compiler()
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    processes = Processes.start(device)
    set_up_cuda(processes.device)
    try:
        if fit and processes.count > 1:
            raise ValueError("a run of several processes cannot be fitted to its time; give its --steps")
        pace = Pace(deadline) if fit and deadline is not None else None
        trainer = Trainer(config, PairStore(store_folder), processes, eager=eager, compiled=compiled)
        return _resume(trainer, output, deadline, pace)
    finally:
        processes.stop()


class Pace:
    """Measures the speed of a run, to make it end with the deadline."""

    SETTLED, MEASURED = 20, 80  # steps: from the first one on, until the second one the speed is measured
    AGAIN = 4  # and after so many times as many again: what ran beside it may have ended, or begun
    RESERVE_S = 6.0  # for the last validation and for saving

    def __init__(self, deadline: float) -> None:
        self._deadline, self._steps, self._due = deadline, 0, self.MEASURED
        self._since = (0, 0.0)  # step and time from which on the speed is measured

    def rest(self, *, falling: bool) -> int | None:
        """To be called after each step: how many more steps there is time for, when it is known anew.

        Args:
            falling: The learning rate has begun to fall, so that the number of steps should stay.
        """
        self._steps += 1
        now = time.monotonic()
        if self._steps == self.SETTLED:
            self._since = self._steps, now
        if self._steps != self._due or (falling and self._due > self.MEASURED):
            return None
        step, start = self._since
        self._due, self._since = self.AGAIN * self._steps, (self._steps, now)
        return int((self._steps - step) / (now - start) * (self._deadline - self.RESERVE_S - now))


def _resume(trainer: Trainer, output: Path, deadline: float | None, pace: Pace | None) -> Validation | None:
    state = load_state(output, trainer.config)  # which refuses another run's folder before anything is written there
    if state is not None:
        trainer.restore(state["trainer"])
        if pace is not None:  # which had scaled the phases, and does it again when it has measured
            scaled = replace(trainer.config, phases=build(TrainConfig, json.loads(state["config"]), "").phases)
            trainer.config = with_steps(scaled, max(scaled.steps, trainer.step + Pace.MEASURED + 1))
    log = RunLog(output, trainer.config, active=trainer.processes.rank == 0)
    if state is not None:
        log.best = state["best"]
    return _fit(trainer, log, output, deadline, pace)


def _fit(trainer: Trainer, log: RunLog, output: Path, deadline: float | None, pace: Pace | None) -> Validation | None:
    main = trainer.processes.rank == 0
    if main and trainer.step >= trainer.config.steps:
        print(f"{output}: all {trainer.config.steps} steps had been made")
    result: Validation | None = None
    losses: list[float] = []
    last = time.monotonic()
    progress = bar(total=trainer.config.steps, initial=trainer.step, unit="step", disable=not main, mininterval=5)
    while trainer.step < trainer.config.steps:
        losses.append(trainer.advance())
        progress.update()
        falling = trainer.step > (1 - trainer.config.optimizer.decay) * trainer.config.steps
        if pace is not None and (rest := pace.rest(falling=falling)) is not None:
            pixels = trainer.config.phase_at(trainer.step - 1).pixels
            trainer.config = fit_cost(trainer.config, (trainer.step + rest) * pixels)
            log.changed(trainer.config)
            progress.total = trainer.config.steps
        config = trainer.config
        end = trainer.step >= config.steps or _agree(deadline is not None and time.monotonic() > deadline, trainer)
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
