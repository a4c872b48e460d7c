"""Small CompressAI models with random weights whose latents are not all zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec_wrappers.learned.loader import load_compressai, missing_modules

INSTALLED = not missing_modules()
AUTOREGRESSIVE = ("JointAutoregressiveHierarchicalPriors", "Cheng2020Attention")
WITH_CONTEXT = ("ScaleHyperprior", "MeanScaleHyperprior")
ARCHITECTURES = ("FactorizedPrior", *WITH_CONTEXT, *AUTOREGRESSIVE)


def random_model(name: str, *, channels: int = 8, latents: int = 12, seed: int = 0) -> nn.Module:
    load_compressai()
    from compressai import models

    torch.manual_seed(seed)
    sizes = (channels,) if name.startswith("Cheng") else (channels, latents)
    model = getattr(models, name)(*sizes).eval()
    with torch.no_grad():
        last = [layer for layer in model.g_a.modules() if isinstance(layer, nn.Conv2d)][-1]
        last.weight.mul_(8)
        if hasattr(model, "h_s"):  # means that are no integers, scales beyond the smallest
            model.h_s[-1 if name != "ScaleHyperprior" else -2].bias.add_(0.3)
    model.update(force=True)
    return model


def random_picture(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    return nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
