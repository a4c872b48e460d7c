"""``python -m train learned``: trains the learned codecs ``msh``, ``vrae`` and ``msh-sf``.

Loss: bits a pixel + lambda * 255^2 * mean squared error (pictures in [0, 1]), as in CompressAI. The quantiles of the
factorised prior have their own loss and optimiser.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from codec_wrappers.learned.models import (
    CONVOLUTIONS,
    GDN,
    Hyperprior,
    Kind,
    ModelConfig,
    Modulation,
    MshSfModel,
    build,
    folded,
)
from codec_wrappers.learned.storage import dump_model, parse_model
from enhancer.files import write_atomically
from train.compiler import need_compiler
from train.config import to_json
from train.export import checkout_commit
from train.graph import (
    GraphedStep,
    place_optimizer,
    set_average_step,
    set_rate,
    set_up_cuda,
    update_average,
)
from train.learned_data import Pictures
from train.learned_start import copy_weights, start_as_block_transform
from train.loop import NotFiniteError, Pace
from train.precision import has_bfloat16
from train.progress import bar
from train.runlog import append_log, load_state, save_state

RESUMABLE = ("steps", "decay", "validate_every")
"""Settings that may differ when a run is resumed: a run may be prolonged, or brought to its end."""

TRANSFORMS_LR = 2e-4
GAINS_LR = 5e-3  # of the logarithms of gains
_GOLDEN = (math.sqrt(5) - 1) / 2
_UNKNOWN = 10**9
_FIRST_STEP = 1 << 40  # of the crops that a fresh model starts from: far from any that it is trained on
_CROPS = 96  # their number


@dataclass(frozen=True)
class LearnedConfig:
    """Everything that decides the result of a run, apart from the pictures.

    Attributes:
        model: Kind of model.
        n: Channels of its transforms.
        m: Channels of its latents.
        lambdas: See :class:`~codec_wrappers.learned.models.ModelConfig`.
        steps: Optimiser steps.
        crop: Side of the crops, a multiple of 64.
        batch: Crops a step.
        lr: Highest learning rate of Adam; 0 takes the one that suits the kind.
        hyper_lr: The same for the hyperprior and the factorised prior.
        aux_lr: Learning rate of the quantiles.
        warmup: Steps of linear rise to ``lr``.
        decay: Share of all steps, at the end, in which the rate falls to zero along a cosine.
        clip: Largest gradient norm.
        ema: Decay rate of the averaged weights, which are the result.
        start: Weights file to start from, or empty; ``msh-sf`` needs that of its base.
        seed: Of weights, crops and noise.
        decoder: Train ``g_s`` alone, on latents rounded as in a file; everything before it, and so every stream, stays
            as it is. A last round: decoders that have only seen the noise which stands for rounding gain from it (Guo
            et al., ICML 2021, arXiv:2104.05168).
        amp: Compute convolutions in bfloat16, on devices that have it, but for the picture's transforms' last ones.
        validate_every: Steps between validations.
    """

    model: Kind
    lambdas: tuple[float, ...]
    n: int = 48
    m: int = 160
    steps: int = 10_000
    crop: int = 128
    batch: int = 8
    lr: float = 0.0
    hyper_lr: float = 4e-4
    aux_lr: float = 1e-2
    warmup: int = 200
    decay: float = 0.4
    clip: float = 1.0
    ema: float = 0.998
    start: str = ""
    seed: int = 0
    decoder: bool = False
    amp: bool = True
    validate_every: int = 1000

    def __post_init__(self) -> None:
        if self.crop < 64 or self.crop % 64:
            raise ValueError(f"crop must be a multiple of 64, got {self.crop}")
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps and batch must be at least 1, got {self.steps} and {self.batch}")
        if self.model == "msh-sf" and not self.start:
            raise ValueError("msh-sf starts from the weights of a trained msh (--start)")
        if self.decoder and (self.model == "msh-sf" or not self.start):
            raise ValueError("a decoder alone is trained for msh and vrae, and from trained weights (--start)")
        if self.lr == 0:
            object.__setattr__(self, "lr", GAINS_LR if self.model == "msh-sf" else TRANSFORMS_LR)


class LearnedTrainer:
    """Model, averaged weights and optimisers of one run.

    On a GPU the steps of ``msh`` and ``vrae`` are replayed as one CUDA graph, unless ``eager``. With ``compiled`` the
    loss is fused by torch.compile, which rounds differently.
    """

    def __init__(
        self,
        config: LearnedConfig,
        pictures: Pictures,
        device: torch.device,
        *,
        eager: bool = False,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.pictures, self.device = config, pictures, device
        self.step = 0
        self.model = _start(config, pictures).to(device).train(not config.decoder)
        self.model.to(memory_format=torch.channels_last)
        self.average = build(self.model.config).to(device).eval().requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        groups, quantiles = _parameters(self.model, config)
        self.trained: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = torch.optim.Adam(groups, config.lr, fused=True)
        self.aux_optimizer = torch.optim.Adam(quantiles, config.aux_lr, fused=True) if quantiles else None
        # Read by every step, a recorded one too: changed in place.
        self._report = torch.zeros(5, device=device)  # loss, bpp, mse, aux, gradient norm
        self._skip = torch.zeros((), device=device)  # 1 if loss or gradient is not finite
        self._ema_step = torch.zeros((), device=device)
        for optimizer in self._optimizers():
            optimizer.found_inf = self._skip  # type: ignore[attr-defined]  # fused Adam changes nothing then
            place_optimizer(optimizer, device)
        # msh-sf chooses between its gain vectors in Python.
        self._graphed = device.type == "cuda" and config.model != "msh-sf" and not eager
        self._graph = GraphedStep(self._step) if self._graphed else None
        self._terms = torch.compile(rate_and_distortion, dynamic=False) if compiled else rate_and_distortion
        self._next: tuple[int, Tensor] | None = None

    def _optimizers(self) -> list[torch.optim.Adam]:
        return [self.optimizer] + ([self.aux_optimizer] if self.aux_optimizer else [])

    def advance(self) -> dict[str, float]:
        """Makes one step; returns ``loss``, ``bpp``, ``mse`` and ``aux``.

        Raises:
            NotFiniteError: If the loss or a gradient is not finite; the weights are not changed then.
        """
        config = self.config
        torch.manual_seed(1_000_003 * config.seed + self.step)  # the noise of quantisation
        x = self._crops(self.step)
        position, weight = (torch.tensor(value, device=self.device) for value in self._quality())
        rates = (config.lr, config.hyper_lr)  # of the transforms or gains, and of the hyperprior if it learns
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            set_rate(group, rate * schedule(config, self.step))
        set_average_step(self._ema_step, config.ema, self.step)
        if self._graph is not None:
            self._graph(x, position, weight)
            self._next = (self.step + 1, self._crops(self.step + 1))  # while the GPU works
        else:
            self._step(x, position, weight)
        loss, bpp, mse, aux, norm = self._report.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(f"loss {loss:.4g}, gradient norm {norm:.4g} at step {self.step}")
        self.step += 1
        return {"loss": loss, "bpp": bpp, "mse": mse, "aux": aux}

    def _crops(self, step: int) -> Tensor:
        if self._next is not None and self._next[0] == step:
            return self._next[1]
        return self.pictures.batch(self.config.seed, step, self.config.batch, self.config.crop).to(self.device)

    def _step(self, x: Tensor, position: Tensor, weight: Tensor) -> None:
        """One step on the device, without waiting for it; leaves what there is to tell in ``_report``."""
        if self.config.model != "msh":
            self.model.set_quality(position if self.config.model == "vrae" else position.item())
        self.optimizer.zero_grad(set_to_none=True)
        bpp, mse = self._terms(self.model, x, amp=self.config.amp and has_bfloat16(self.device))
        loss = bpp + weight * 255**2 * mse
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.trained, self.config.clip)
        self._skip.copy_(1 - torch.stack([loss.detach(), norm]).isfinite().all().float())
        self.optimizer.step()
        aux = self._advance_quantiles()
        self._report.copy_(torch.stack([loss.detach(), bpp.detach(), mse.detach(), aux, norm]))
        update_average(self.average, self.model, self._ema_step)

    def _quality(self) -> tuple[float, float]:
        """Position and lambda of this step; the choices cover the range evenly."""
        lambdas = self.config.lambdas
        if self.config.model == "msh":
            return 1.0, lambdas[0]
        if self.config.model == "msh-sf":
            index = self.step % len(lambdas)
            return index / (len(lambdas) - 1), lambdas[index]
        position = (self.step * _GOLDEN) % 1.0 * 1.1 - 0.05  # the ends, which have one neighbour, a little oftener
        position = min(max(position, 0.0), 1.0)
        return position, float(lambdas[0] * (lambdas[1] / lambdas[0]) ** position)

    def _advance_quantiles(self) -> Tensor:
        if self.aux_optimizer is None:
            return self._report.new_zeros(())
        self.aux_optimizer.zero_grad(set_to_none=True)
        aux: Tensor = self.model.aux_loss()
        aux.backward()  # type: ignore[no-untyped-call]
        self.aux_optimizer.step()
        return aux.detach()

    def state(self) -> dict[str, Any]:
        """All that resuming needs; the data need nothing but the step."""
        aux = self.aux_optimizer
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "aux_optimizer": aux.state_dict() if aux else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what :meth:`state` returned."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.aux_optimizer:
            self.aux_optimizer.load_state_dict(state["aux_optimizer"])
        for optimizer in self._optimizers():
            place_optimizer(optimizer, self.device)  # the state may come from another kind of device
        self._graph = GraphedStep(self._step) if self._graphed else None  # a recording has the replaced tensors

    def validate(self) -> list[dict[str, float]]:
        """Estimated rate and PSNR of the averaged weights over the validation crops, a line a quality."""
        lambdas, lines = self.config.lambdas, []
        positions = [1.0] if self.config.model == "msh" else torch.linspace(0, 1, max(len(lambdas), 5)).tolist()
        for position in positions:
            self.average.set_quality(position)
            with torch.no_grad():
                pictures = (x.to(self.device) for x in self.pictures.validation())
                results = [rate_and_distortion(self.average, x, amp=False) for x in pictures]
            bpp = sum(bpp.item() for bpp, _ in results) / max(len(results), 1)
            psnr = sum(-10 * math.log10(max(mse.item(), 1e-10)) for _, mse in results) / max(len(results), 1)
            lines.append({"position": round(position, 3), "bpp": round(bpp, 4), "psnr": round(psnr, 3)})
        return lines


def rate_and_distortion(model: Hyperprior, x: Tensor, *, amp: bool) -> tuple[Tensor, Tensor]:
    """Bits a pixel and mean squared error of a batch; noisy in training mode, rounded in evaluation mode."""
    y = _transform(model.g_a, x, amp=amp)
    z_hat, z_likelihoods = _factorised(model.entropy_bottleneck, _transform(model.h_a, y, amp=amp))
    scales, means = _transform(model.h_s, z_hat, amp=amp).chunk(2, 1)
    y_hat, y_likelihoods = model.gaussian_conditional(y, scales, means=means)
    x_hat = _transform(model.g_s, y_hat, amp=amp)
    bits = -(y_likelihoods.log2().sum() + z_likelihoods.log2().sum())
    if not model.training:
        x_hat = x_hat.clamp(0, 1)
    return bits / (x.shape[0] * x.shape[2] * x.shape[3]), (x_hat - x).square().mean()


def _factorised(prior: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """What ``prior``, an EntropyBottleneck, gives; itself it waits for the GPU, which a recorded step must not.

    The likelihoods are in another order.
    """
    values = z.transpose(0, 1).reshape(z.shape[1], 1, -1)
    values = prior.quantize(values, "noise" if prior.training else "dequantize", prior._get_medians())
    likelihoods = prior.likelihood_lower_bound(prior._likelihood(values)[0])
    return values.reshape(z.transpose(0, 1).shape).transpose(0, 1), likelihoods


def _transform(layers: nn.Sequential, x: Tensor, *, amp: bool) -> Tensor:
    """All layers; with ``amp`` those before the last convolution in bfloat16, which is too coarse for the result.

    Modulations are multiplied into the weights beside them: the same result without passes over the features.
    """
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, CONVOLUTIONS))
    for place, layer in enumerate(layers):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp and place < last):
            if place == last:
                x = x.float()
            if isinstance(layer, CONVOLUTIONS):
                x = functional_call(layer, folded(layers, place), (x,))
            elif isinstance(layer, GDN):
                x = _normalized(layer, x)
            elif not isinstance(layer, Modulation):
                x = layer(x)
    return x


def _normalized(layer: Any, x: Tensor) -> Tensor:
    """What ``layer``, a GDN, gives; its own square is a power, which autocast would compute in float32."""
    beta, gamma = layer.beta_reparam(layer.beta), layer.gamma_reparam(layer.gamma)
    norm = nn.functional.conv2d(x * x, gamma[:, :, None, None], beta)
    return x * (norm.sqrt() if layer.inverse else norm.rsqrt())


def _start(config: LearnedConfig, pictures: Pictures) -> Hyperprior:
    model = build(ModelConfig(config.model, config.n, config.m, config.lambdas))
    if config.start:
        path = Path(config.start)
        copy_weights(parse_model(path.read_bytes(), path), model)
    else:
        start_as_block_transform(model, pictures.batch(config.seed, _FIRST_STEP, _CROPS, config.crop))
    return model


def _parameters(model: Hyperprior, config: LearnedConfig) -> tuple[list[dict[str, Any]], list[nn.Parameter]]:
    """What the main optimiser changes, in groups of one rate, and the quantiles; everything else is frozen."""
    if isinstance(model, MshSfModel):
        model.requires_grad_(False)
        for gain in model.gains():
            gain.requires_grad_()
        return [{"params": model.gains(), "lr": config.lr}], []
    if config.decoder:
        model.requires_grad_(False)
        model.g_s.requires_grad_()
        return [{"params": list(model.g_s.parameters()), "lr": config.lr}], []
    prior = model.entropy_bottleneck
    transforms = [*model.g_a.parameters(), *model.g_s.parameters()]
    hyperprior = [*model.h_a.parameters(), *model.h_s.parameters()]
    hyperprior += [parameter for parameter in prior.parameters() if parameter is not prior.quantiles]
    groups = [{"params": transforms, "lr": config.lr}, {"params": hyperprior, "lr": config.hyper_lr}]
    return groups, [prior.quantiles]


def default_lambdas(model: Kind) -> tuple[float, ...]:
    """The lambdas of a kind of model if none are named: from CompressAI's ladder."""
    ladder = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
    return {"msh": (0.013,), "vrae": (ladder[0], ladder[-1]), "msh-sf": ladder}[model]


def schedule(config: LearnedConfig, step: int) -> float:
    """Share of the highest learning rate at ``step``: linear warm-up, constant, cosine to zero."""
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    tail = max(config.decay * config.steps, 1.0)
    past = (step + 1 - (config.steps - tail)) / tail
    return rise * 0.5 * (1 + math.cos(math.pi * min(max(past, 0.0), 1.0)))


def run(
    config: LearnedConfig,
    data: Path,
    output: Path,
    *,
    device: str = "auto",
    minutes: float | None = None,
    fit: bool = False,
    eager: bool = False,
    compiled: bool = False,
) -> str:
    """Trains until all steps are done or ``minutes`` have passed; resumes what ``output`` holds.

    With ``fit``, as many steps are made as the ``minutes`` allow, whatever ``config`` says. ``compiled`` steps are
    faster once the compiler has run, about a minute.

    ``output`` gets ``state.pt``, ``log.jsonl``, ``config.json`` and the weights of the average so far,
    ``learned-MODEL.safetensors``; returns an entry for a manifest of weights.

    Raises:
        ValueError: If data or settings do not fit, or ``output`` holds another run.
        NotFiniteError: If training diverges; the state saved last is good.
    """
    if compiled:
        need_compiler()
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    kind = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    set_up_cuda(kind)
    trainer = LearnedTrainer(config, Pictures.open(data, config.crop), kind, eager=eager, compiled=compiled)
    output.mkdir(parents=True, exist_ok=True)
    if (state := load_state(output, config, RESUMABLE)) is not None:
        trainer.restore(state)
    (output / "config.json").write_text(to_json(config) + "\n")
    _fit(trainer, output, deadline, fit=fit)
    return _export(trainer, output)


def _fit(trainer: LearnedTrainer, output: Path, deadline: float | None, *, fit: bool) -> None:
    config = trainer.config
    pace = Pace(deadline) if fit and deadline is not None else None
    if pace is not None:  # the full rate until the number of steps is known
        trainer.config = config = replace(config, steps=_UNKNOWN)
    total = None if pace is not None else config.steps
    progress = bar(total=total, initial=trainer.step, unit="step", mininterval=5)
    sums: dict[str, float] = {}
    since, last = trainer.step, time.monotonic()
    while trainer.step < config.steps:
        for name, value in trainer.advance().items():
            sums[name] = sums.get(name, 0.0) + value
        progress.update()
        falling = trainer.step > (1 - config.decay) * config.steps
        if pace is not None and (rest := pace.rest(falling=falling)) is not None:
            trainer.config = config = replace(config, steps=trainer.step + max(rest, 1))
            progress.total = config.steps
            (output / "config.json").write_text(to_json(config) + "\n")
        end = trainer.step == config.steps or (deadline is not None and time.monotonic() > deadline)
        if end or trainer.step % config.validate_every == 0:
            count, seconds = trainer.step - since, time.monotonic() - last
            means = {name: round(value / count, 6) for name, value in sums.items()}
            line: dict[str, Any] = {"step": trainer.step, **means, "lr": config.lr * schedule(config, trainer.step - 1)}
            line |= {"crops_per_s": round(count * config.batch / seconds, 2), "validation": trainer.validate()}
            append_log(output, line)
            save_state(output, config, trainer.state())
            sums, since, last = {}, trainer.step, time.monotonic()
        if end:
            break
    if config.steps == _UNKNOWN:
        trainer.config = replace(config, steps=trainer.step)
    progress.close()


def _export(trainer: LearnedTrainer, output: Path) -> str:
    config = trainer.config
    metadata = {"training": to_json(config), "steps": str(trainer.step), "commit": checkout_commit()}
    data, sha256 = dump_model(trainer.average, metadata)
    name = f"learned-{config.model}" + (f"-{round(1e4 * config.lambdas[0]):04}" if config.model == "msh" else "")
    path = output / f"{name}.safetensors"
    write_atomically(path, data, overwrite=True)
    lambdas = ", ".join(f"{value:g}" for value in config.lambdas)
    return (
        f'[{name}]\nfile = "{path.name}"\nsha256 = "{sha256}"\nmodel = "{config.model}"\nlambdas = [{lambdas}]\n'
        f"parameters = {sum(p.numel() for p in trainer.average.parameters())}"
    )
