"""Small learned models with random weights, as weights files, for the tests of the learned codecs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from codec_wrappers.learned.models import Hyperprior, Kind, ModelConfig, Modulation, build
from codec_wrappers.learned.storage import dump_model

LAMBDAS: dict[Kind, tuple[float, ...]] = {"msh": (0.013,), "vrae": (0.0018, 0.05), "msh-sf": (0.002, 0.01, 0.05)}


def random_model(kind: Kind, *, seed: int = 1, lambdas: tuple[float, ...] = ()) -> Hyperprior:
    """Eight channels; latents with a standard deviation of about 4, coded with scales of about 2."""
    torch.manual_seed(seed)
    model = build(ModelConfig(kind, 8, 12, lambdas or LAMBDAS[kind], hidden=4))
    for module in model.modules():
        if isinstance(module, Modulation):
            module.second.weight.data += 0.05 * torch.randn(module.second.weight.shape)
    last = [layer for layer in model.g_a if isinstance(layer, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight *= 4 / model.g_a(torch.rand(1, 3, 64, 64)).std()
        model.h_s[-1].bias[:12] = 2.0
    return model.eval()


def write_weights(path: Path, model: Hyperprior, *, half: bool = True) -> str:
    """The weights file of ``model`` at ``path``; returns its name for the option ``weights``."""
    path.write_bytes(dump_model(model, half=half)[0])
    return str(path)
