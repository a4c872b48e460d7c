"""QECM: compensation of the quantisation error of latents, by a Fourier series or by a learned network.

The error of rounding, ``t - round(t)``, is a sawtooth of period 1; a few terms of its Fourier series,
``S(t) = sum over k of (-1)^(k+1) / (pi k) * sin(2 pi k t)``, stand for it where a gradient is wanted.
"""

from __future__ import annotations

from math import exp, pi
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from enhancer.refiners.base import Context, Refiner, zero

FourierMode = Literal["paper", "soft"]

TERMS = 5


def fourier_error(t: Tensor, terms: int = TERMS) -> Tensor:
    """The first ``terms`` terms of the series of ``t - round(t)``; exactly 0 where ``t`` is an integer."""
    t = t - t.round()  # the period is 1; sines of large arguments would be inexact
    total = torch.zeros_like(t)
    for k in range(1, terms + 1):
        total = total + (-1) ** (k + 1) / (pi * k) * torch.sin(2 * pi * k * t)
    return total


def truncated_laplace(like: Tensor, *, mean: float, scale: float, seed: int) -> Tensor:
    """Noise of a Laplace distribution cut to [-1/2, 1/2], in the shape of ``like``; the same for the same seed.

    Drawn on the CPU by inverting the distribution function, so that every device gets the same values.
    """

    def cumulative(x: float) -> float:
        tail = 0.5 * exp(-abs(x - mean) / scale)
        return tail if x < mean else 1 - tail

    low, high = cumulative(-0.5), cumulative(0.5)
    uniform = torch.rand(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centred = low + (high - low) * uniform - 0.5
    noise = mean - scale * centred.sign() * torch.log1p(-2 * centred.abs())
    return noise.clamp(-0.5, 0.5).to(like)


class FourierQECM(Refiner):
    """QECM by Fourier series, in two modes.

    ``paper``: the published blocks as they stand. Before quantisation ``t - S(t)``, after it
    ``t + S(t)``, on the latent itself, and truncated Laplacian noise after decoding. Where the latent
    is rounded to integers the blocks do nothing, because S is 0 there and ``round(t - S(t)) = round(t)``;
    where rounding is relative to a mean, the decoder's block moves the latent.

    ``soft``: ``t - S(t - mean)`` before and after: soft rounding as in universal quantisation
    (Agustsson and Theis, NeurIPS 2020, arXiv:2006.09952). After hard rounding it is the identity, so it
    acts in training alone.

    The blocks around the quantiser act only while the base itself is trained, in place of plain
    additive noise; nothing here ever touches the encoder of a finished codec. Has no weights.

    Args:
        mode: See above.
        terms: Terms of the series.
        noise_scale: Scale of the decoder's noise; 0 switches it off. Mode ``paper`` only.
        noise_mean: Its mean.
        seed: Of the noise: decoding is deterministic.
    """

    kind: ClassVar[str] = "qecm-fourier"
    point = "latent"

    def __init__(
        self,
        mode: FourierMode,
        terms: int = TERMS,
        noise_scale: float = 0.0,
        noise_mean: float = 0.0,
        seed: int = 0,
    ) -> None:
        if mode not in get_args(FourierMode):
            raise ValueError(f"mode must be one of {', '.join(get_args(FourierMode))}, got {mode!r}")
        if noise_scale < 0 or (mode == "soft" and noise_scale):
            raise ValueError(f"noise_scale must be >= 0, and 0 in mode soft, got {noise_scale}")
        super().__init__(
            {"mode": mode, "terms": terms, "noise_scale": noise_scale, "noise_mean": noise_mean, "seed": seed}
        )
        self.mode, self.terms = mode, terms
        self.noise_scale, self.noise_mean, self.seed = noise_scale, noise_mean, seed

    def before_quantiser(self, t: Tensor, mean: Tensor | None) -> Tensor:
        """The encoder's block, for training."""
        return t - fourier_error(self._centred(t, mean), self.terms)

    def after_quantiser(self, t: Tensor, mean: Tensor | None) -> Tensor:
        """The decoder's block, the "inverse" in mode ``paper``."""
        sign = 1 if self.mode == "paper" else -1
        return t + sign * fourier_error(self._centred(t, mean), self.terms)

    def _centred(self, t: Tensor, mean: Tensor | None) -> Tensor:
        return t if self.mode == "paper" or mean is None else t - mean

    def forward(self, t: Tensor, context: Context) -> Tensor:  # noqa: ARG002 - the interface
        if self.training or self.mode == "soft":
            return t  # in training the quantiser's output has been through the block already
        t = self.after_quantiser(t, None)
        if self.noise_scale:
            t = t + truncated_laplace(t, mean=self.noise_mean, scale=self.noise_scale, seed=self.seed)
        return t


class LearnedQECM(Refiner):
    """A small network moves each element of the latent within its quantisation cell, by 1/2 at most.

    It sees the decoded integer ``q = t - mu``, ``mu`` and ``log sigma`` and a neighbourhood of 3 x 3
    latents; without context (factorised and autoregressive models) only ``t``. The last layer starts at zero.

    Args:
        channels: Channels of the latent.
        hidden: Width of the network.
        context: Whether ``mu`` and ``sigma`` are there.
    """

    kind: ClassVar[str] = "qecm-learned"
    point = "latent"

    def __init__(self, channels: int, hidden: int = 64, context: bool = True) -> None:
        super().__init__({"channels": channels, "hidden": hidden, "context": context})
        self.needs_context = context
        self.body = nn.Sequential(
            nn.Conv2d(channels * (3 if context else 1), hidden, kernel_size=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1),
            nn.LeakyReLU(0.1),
            zero(nn.Conv2d(hidden, channels, kernel_size=1)),
        )

    def forward(self, t: Tensor, context: Context) -> Tensor:
        known = t
        if self.needs_context:
            if context.mu is None or context.sigma is None:
                raise ValueError("this refiner needs the latent's means and scales")
            known = torch.cat([t - context.mu, context.mu, context.sigma.log()], dim=1)
        return t + 0.5 * torch.tanh(self.body(known))
