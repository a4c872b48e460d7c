"""``python -m train refine``: trains refiners of a learned decoder, or the controls that they must beat."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from codec_wrappers.learned.coding import to_tensor
from codec_wrappers.learned.storage import dump_model
from enhancer.files import write_atomically
from enhancer.refiners import RefinerSet, attach, load_refiners, save_refiners, weights_sha256
from train.config import to_json
from train.export import checkout_commit
from train.latents import LatentCache, Latents, WindowSampler, collate, set_quality, split_originals
from train.learned_data import Pictures
from train.loop import NotFiniteError
from train.precision import has_bfloat16
from train.progress import bar
from train.refine_config import RefineConfig, chosen_refiners, load_base, schedule, trained_distortion
from train.runlog import append_log, load_state, save_state
from train.store import Original, PairStore

CONFIG = "refine.json"


@dataclass(frozen=True)
class Score:
    """Validation on 8-bit pictures.

    Attributes:
        psnr: Mean RGB-PSNR in dB.
        gain: Difference to the untouched codec's.
        bpp: Mean bits per pixel: of the streams in modes ``base`` and ``encoder``, estimated in ``all``.
        cost: Mean of bpp + distortion * 255^2 * MSE.
    """

    psnr: float
    gain: float
    bpp: float
    cost: float


class RefineTrainer:
    """Codec, refiners, optimiser and data of one run.

    Raises:
        ValueError: If there is nothing to train, or the settings do not fit the codec.
    """

    def __init__(self, config: RefineConfig, base: Any, store: PairStore, cache: Path, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.store = store
        self.step = 0
        self.base = base.to(device).eval().requires_grad_(False)
        self.base_sha256 = weights_sha256(base)
        self.distortion = config.distortion or trained_distortion(base)
        self.refiners = chosen_refiners(config, base)
        self.training, self.validation = _chosen_originals(config, store)
        if config.mode == "all":
            images = (store.image(o, o.offset) for o in self.training)
            self.pictures = Pictures(tuple(images), ())
        else:
            self.cache = LatentCache(cache, base, store)
            self.cache.fill([*self.training, *self.validation], config.qualities)
            self.sampler = WindowSampler(
                self.cache, self.training, config.qualities, crop=config.crop, batch=config.batch, seed=config.seed
            )
        self.plain = self._measure_untouched()
        learns = config.mode == "encoder" or (config.mode == "base" and config.control == "gs")
        self.attachment = attach(base, self.refiners, decoder=base.g_s.state_dict() if learns else None)
        self.learned_decoder = self.attachment.decoder if learns else None
        self.groups = self._groups()
        self.optimizer = torch.optim.Adam([{"params": list(p), "peak": peak} for p, peak in self.groups])
        self._feature: Tensor | None = None
        if at_features := [refiner for refiner in self.refiners if refiner.point == "feature"]:
            at_features[-1].register_forward_hook(self._note_feature)

    def _note_feature(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self._feature = output

    def _groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Trained parameters with the highest rate of each group."""
        config = self.config
        groups = [([p for refiner in self.refiners for p in refiner.parameters()], config.lr)]
        if self.learned_decoder is not None:
            groups.append((list(self.learned_decoder.parameters()), config.decoder_lr))
        if config.mode == "all":
            named = self.base.named_parameters()
            groups.append(([p for name, p in named if not name.endswith("quantiles")], config.decoder_lr))
        groups = [(parameters, rate) for parameters, rate in groups if parameters]
        for parameters, _ in groups:
            for parameter in parameters:
                parameter.requires_grad_()
        return groups

    def advance(self) -> float:
        """Makes one optimiser step and returns its loss.

        Raises:
            NotFiniteError: If the loss or a gradient is not finite; nothing is changed then.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(config, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._codec_loss() if config.mode == "all" else self._decoder_loss()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_([p for parameters, _ in self.groups for p in parameters], config.clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise NotFiniteError(f"loss {loss.item():.4g}, gradient norm {norm.item():.4g} at step {self.step}")
        self.optimizer.step()
        self.step += 1
        return float(loss.item())

    def _decoder_loss(self) -> Tensor:
        quality, latents = self.sampler.batch(self.step)
        latents = _to(latents, self.device)
        set_quality(self.base, quality)
        with self._precision():
            decoded = latents.decoded.contiguous(memory_format=torch.channels_last)  # so all features are: faster
            y = self.attachment.synthesise(decoded, latents.context).float()
        inner = slice(self.config.margin, self.config.crop - self.config.margin)
        error = F.mse_loss(y[..., inner, inner], latents.target[..., inner, inner])
        return self.distortion * 255**2 * error + self._feature_loss(latents.unquantised)

    def _codec_loss(self) -> Tensor:
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)  # of the quantisation noise: resuming is exact
        batch = self.pictures.batch(self.config.seed, self.step, self.config.batch, self.config.crop)
        x = batch.to(self.device)
        analysed: list[Tensor] = []
        handle = self.base.g_a.register_forward_hook(lambda *call: analysed.append(call[2].detach()))
        self._set_training(True)
        out = self.base(x)
        self._set_training(False)
        handle.remove()
        return self._rate_distortion(out, x) + self._feature_loss(analysed[0])

    def _set_training(self, training: bool) -> None:
        for module in (self.base, *self.refiners):
            module.train(training)

    def _rate_distortion(self, out: dict[str, Any], x: Tensor) -> Tensor:
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        bits = sum(-likelihood.log2().sum() for likelihood in out["likelihoods"].values())
        loss: Tensor = bits / pixels + self.distortion * 255**2 * F.mse_loss(out["x_hat"], x)
        return loss

    def _feature_loss(self, unquantised: Tensor) -> Tensor:
        """How far refined features are from those that the latent before quantisation gives."""
        config = self.config
        if self._feature is None or self.step >= config.feature_share * config.steps or not config.feature_weight:
            return torch.zeros((), device=self.device)
        with torch.no_grad(), self._precision():
            wanted = self.attachment.features(unquantised)
        return config.feature_weight * F.mse_loss(self._feature.float(), wanted.float())

    def _precision(self) -> torch.autocast:
        half = self.config.amp and self.config.mode != "all" and has_bfloat16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    @torch.no_grad()
    def validate(self) -> Score:
        """Measures the codec as it is now on the validation pictures, at all qualities."""
        if self.config.mode == "all":
            self.base.entropy_bottleneck.update(force=True, update_quantiles=True)
        results = np.array([self._measure(o, q) for o in self.validation for q in self.config.qualities])
        psnr, bpp, cost = results.mean(axis=0).tolist()
        return Score(psnr, psnr - self.plain, bpp, cost)

    @torch.no_grad()
    def _measure_untouched(self) -> float:
        with attach(self.base, []) as self.attachment:
            results = [self._measure(o, q)[0] for o in self.validation for q in self.config.qualities]
        return float(np.mean(results))

    def _measure(self, original: Original, quality: float) -> tuple[float, float, float]:
        """PSNR, bits per pixel and cost of one picture."""
        set_quality(self.base, quality)
        image = self.store.image(original, original.offset)
        if self.config.mode == "all":
            out = self.base(to_tensor(image, self.base.downsampling_factor).to(self.device))
            bits = sum(-likelihood.log2().sum().item() for likelihood in out["likelihoods"].values())
            bpp, y = bits / (original.height * original.width), out["x_hat"]
        else:
            latents = _to(collate([self.cache.read(original, quality)]), self.device)
            bpp = self.cache.bits_per_pixel([original], quality)
            y = self.attachment.synthesise(latents.decoded, latents.context)
        decoded = y[0, :, : original.height, : original.width].clamp(0, 1).mul(255).round().permute(1, 2, 0)
        error = max(float(np.mean((decoded.cpu().numpy().astype(np.float64) - image) ** 2)), 1e-9)
        return 10 * math.log10(255**2 / error), bpp, bpp + self.distortion * error

    def save(self, folder: Path, name: str, metadata: dict[str, str]) -> None:
        """Writes the refiners (``NAME.safetensors``) and, in mode ``all``, the codec (``NAME.base.safetensors``)."""
        sha256, decoder = self.base_sha256, None
        if self.config.mode == "all":
            path = folder / f"{name}.base.safetensors"
            write_atomically(path, dump_model(self.base, metadata)[0], overwrite=True)
            sha256 = weights_sha256(load_base(path))
        elif self.learned_decoder is not None:
            decoder = self.learned_decoder.state_dict()
        refiners = RefinerSet(tuple(self.refiners), sha256, decoder, self.attachment.feature_index, metadata)
        save_refiners(folder / f"{name}.safetensors", refiners)

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {
            "step": self.step,
            "parameters": [[p.detach() for p in parameters] for parameters, _ in self.groups],
            "optimizer": self.optimizer.state_dict(),
            "base_sha256": self.base_sha256,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what :meth:`state` returned.

        Raises:
            ValueError: If it is of another codec.
        """
        if state["base_sha256"] != self.base_sha256:
            raise ValueError("the run was started with another codec")
        self.step = state["step"]
        with torch.no_grad():
            for (parameters, _), saved in zip(self.groups, state["parameters"], strict=True):
                for parameter, value in zip(parameters, saved, strict=True):
                    parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])


def _chosen_originals(config: RefineConfig, store: PairStore) -> tuple[list[Original], list[Original]]:
    training, validation = split_originals(store)
    training = [o for o in training if min(o.height, o.width) >= config.crop]
    if not training:
        raise ValueError(f"no training picture is {config.crop} pixels large")
    count = min(config.validation_pictures, len(validation))
    return training, [validation[i * len(validation) // count] for i in range(count)]


def _to(latents: Latents, device: torch.device) -> Latents:
    context = latents.context
    moved = (None if t is None else t.to(device) for t in (context.mu, context.sigma))
    return replace(
        latents,
        decoded=latents.decoded.to(device),
        unquantised=latents.unquantised.to(device),
        target=latents.target.to(device),
        context=type(context)(*moved),
    )


def refine(
    config: RefineConfig,
    base: Any,
    store_folder: Path,
    output: Path,
    *,
    cache: Path,
    device: str = "auto",
    minutes: float | None = None,
) -> Score:
    """Trains until all steps are done or ``minutes`` have passed; resumes what ``output`` holds.

    ``output`` gets ``log.jsonl``, ``best.safetensors`` and ``last.safetensors`` (sets of refiners) and
    ``state.pt`` (to resume). ``base`` is changed in mode ``all``. Returns the last validation.

    Args:
        config: Settings.
        base: The codec, as :func:`load_base` gives it.
        store_folder: Pair store; only its originals are used.
        output: Folder of the run.
        cache: Folder of the latents, for all runs on this codec.
        device: ``auto``, ``cpu`` or ``cuda``.
        minutes: See above.

    Raises:
        ValueError: If the store or the settings do not fit, or ``output`` holds another run.
        NotFiniteError: If training diverges; the state saved last is good.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    state = load_state(output, config)
    trainer = RefineTrainer(config, base, PairStore(store_folder), cache, torch.device(kind))
    best = -math.inf
    if state is not None:
        trainer.restore(state["trainer"])
        best = state["best"]
    output.mkdir(parents=True, exist_ok=True)
    (output / CONFIG).write_text(to_json(config) + "\n")
    try:
        return _fit(trainer, output, best, None if minutes is None else time.monotonic() + 60 * minutes)
    finally:
        trainer.attachment.detach()


def _fit(trainer: RefineTrainer, output: Path, best: float, deadline: float | None) -> Score:
    config, losses, last = trainer.config, [], time.monotonic()
    score = trainer.validate() if trainer.step == config.steps else None
    progress = bar(total=config.steps, initial=trainer.step, unit="step", mininterval=5, disable=None)
    while trainer.step < config.steps:
        losses.append(trainer.advance())
        progress.update()
        end = trainer.step == config.steps or (deadline is not None and time.monotonic() > deadline)
        if end or trainer.step % config.validate_every == 0:
            rate = len(losses) * config.batch / (time.monotonic() - last)
            score = trainer.validate()
            _log(trainer, output, score, float(np.mean(losses)), rate)
            told = {"steps": str(trainer.step), "validation_gain_db": f"{score.gain:.4f}", "training": to_json(config)}
            trainer.save(output, "last", told)
            value = -score.cost if config.mode == "all" else score.gain
            if value > best:
                best = value
                trainer.save(output, "best", told)
            losses, last = [], time.monotonic()
        if end or trainer.step % config.save_every == 0:
            save_state(output, config, {"trainer": trainer.state(), "best": best})
        if end:
            break
    progress.close()
    assert score is not None
    return score


def _log(trainer: RefineTrainer, output: Path, score: Score, loss: float, rate: float) -> None:
    line = {
        "step": trainer.step,
        "loss": round(loss, 6),
        "lr": trainer.config.lr * schedule(trainer.config, trainer.step - 1),
        "crops_per_s": round(rate, 2),
        **{name: round(value, 4) for name, value in vars(score).items()},
        "parameters": sum(p.numel() for parameters, _ in trainer.groups for p in parameters),
    }
    append_log(output, line)


def export_refiners(run_folder: Path, which: str, output: Path, note: str) -> str:
    """Writes a run's refiners as float16 and returns the file's SHA-256.

    In mode ``all`` the codec that they belong to is written beside, as ``*.base.safetensors``.

    Args:
        run_folder: Folder of the run.
        which: ``best`` or ``last``.
        output: File to write.
        note: Goes into its metadata.
    """
    found = load_refiners(run_folder / f"{which}.safetensors")
    codec = run_folder / f"{which}.base.safetensors"
    if codec.is_file():
        write_atomically(output.with_suffix(".base.safetensors"), codec.read_bytes(), overwrite=True)
    return save_refiners(
        output, replace(found, metadata={**found.metadata, "note": note, "commit": checkout_commit()}), half=True
    )
