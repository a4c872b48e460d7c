"""``python -m train shrink``: scales a network's correction by what the validation part says, and bounds its mean.

A network has seen its training pictures many times and corrects their errors in full; of the errors of pictures it has
not seen it finds fewer, and what it takes for others is noise. The best factor on its correction is then below 1.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from enhancer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from enhancer.condition import jpeg_place
from enhancer.halo import measured_halo
from enhancer.network import RestorationNetwork
from train.store import Pair, PairStore
from train.validation import centre

LEAST_PAIRS = 20
"""Codecs with fewer validation pairs keep their factor."""

BOUNDS = (0.7, 1.1)

_ROUNDING = 1 / 12 / 255**2
"""Mean squared error that rounding to 8 bits adds."""


def shrink(
    checkpoint: str, store_folder: Path | None, output: Path, *, mean_bound: float | None = None
) -> dict[str, float]:
    """Writes ``output``: the checkpoint with its correction of each codec scaled for the highest mean PSNR gain.

    Args:
        checkpoint: Name or path.
        store_folder: Pair store, whose validation part is used; None leaves all factors as they are.
        output: Checkpoint to write, weights in float16; may be the same file.
        mean_bound: Bound on the local mean of a correction that the checkpoint gets before, of 255 (see
            :func:`enhancer.network.bound_mean`), wider for JPEG where that is coarser; None leaves it as it is.

    Returns:
        The factor of each codec that has enough validation pairs.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded.
        ValueError: If ``store_folder`` is no store, no codec has enough validation pairs, or the bound is negative.
    """
    loaded = load_checkpoint(checkpoint)
    if mean_bound is not None:
        loaded = _bounded(loaded, mean_bound)
    factors = _factors(loaded, store_folder) if store_folder is not None else {}
    with torch.no_grad():
        for codec, factor in factors.items():
            loaded.network.gain.weight[0, loaded.codecs.index(codec)] += math.log(factor)
    before = json.loads(loaded.metadata.get("shrink", "{}"))
    together = before | {codec: round(factor * before.get(codec, 1.0), 4) for codec, factor in factors.items()}
    metadata = {**loaded.metadata, "shrink": json.dumps(together)}
    save_checkpoint(output, loaded.network, codecs=loaded.codecs, metadata=metadata, half=True)
    return factors


def _factors(checkpoint: Checkpoint, store_folder: Path) -> dict[str, float]:
    store, moments = PairStore(store_folder), defaultdict(list)
    for pair in store.split(validation=True):
        if pair.codec in checkpoint.codecs and pair.codec not in checkpoint.unseen:
            moments[pair.codec].append(_moments(checkpoint, store, pair))
    factors = {codec: best_factor(np.array(of)) for codec, of in moments.items() if len(of) >= LEAST_PAIRS}
    if not factors:
        raise ValueError(f"{store_folder} has fewer than {LEAST_PAIRS} validation pairs of each codec")
    return factors


def _bounded(checkpoint: Checkpoint, mean_bound: float) -> Checkpoint:
    """The checkpoint with another bound on local means, which changes the context that a tile needs, too."""
    config = replace(checkpoint.config, mean_bound=mean_bound, jpeg_place=jpeg_place(checkpoint.codecs))
    network = RestorationNetwork(config).eval().requires_grad_(False)
    network.load_state_dict(checkpoint.network.state_dict())
    metadata = {**checkpoint.metadata, "halo": str(measured_halo(network))}
    return replace(checkpoint, network=network, metadata=metadata)


def best_factor(moments: npt.NDArray[np.float64]) -> float:
    """The factor on the corrections that gives the highest mean PSNR gain.

    Args:
        moments: For each picture the means of error squared, error times correction and correction squared; ``(N, 3)``.
    """
    from scipy.optimize import minimize_scalar

    error, product, correction = moments.T

    def loss(factor: float) -> float:
        after = error - 2 * factor * product + factor**2 * correction
        return float(np.log((after + _ROUNDING) / (error + _ROUNDING)).mean())

    return float(minimize_scalar(loss, bounds=BOUNDS, method="bounded").x)


@torch.inference_mode()
def _moments(checkpoint: Checkpoint, store: PairStore, pair: Pair) -> tuple[float, float, float]:
    """Of the central pixels of a pair, as :func:`best_factor` wants them."""
    picture = store.original(pair)
    x, target = (
        torch.from_numpy(centre(store.image(picture, offset), 256, checkpoint.network.multiple))
        .permute(2, 0, 1)[None]
        .float()
        .div(255)
        for offset in (pair.offset, picture.offset)
    )
    condition, share = checkpoint.condition(pair.codec, pair.coded_qp, pair.chroma)
    error, correction = target - x, share * checkpoint.network.correction(x, condition[None])
    return float(error.square().mean()), float((error * correction).mean()), float(correction.square().mean())
