"""Decoded latents of a pair store's originals, made once by a codec's own encoder and decoder, and windows of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from codec_wrappers.learned.coding import to_tensor
from enhancer.files import write_atomically
from enhancer.refiners import Context, Refiner, attach, weights_sha256
from enhancer.refiners.build import tells_context
from train.progress import track
from train.store import Original, PairStore

INDEX = "latents.json"
_WHOLE = slice(None)


@dataclass(frozen=True)
class Latents:
    """Latents as the decoder hands them to ``g_s``, of one picture or of a batch of windows.

    Attributes:
        decoded: Quantised latents, ``(N, M, h, w)``.
        context: Their means and scales, empty for models that tell none.
        unquantised: The same before quantisation.
        target: The original there, ``(N, 3, H, W)``, uint8 values / 255.
    """

    decoded: Tensor
    context: Context
    unquantised: Tensor
    target: Tensor


class _Recorder(Refiner):
    """Keeps what it is shown and changes nothing."""

    kind = "recorder"
    point = "latent"

    def __init__(self, context: bool) -> None:
        super().__init__({})
        self.needs_context = context
        self.seen: tuple[Tensor, Context] | None = None

    def forward(self, t: Tensor, context: Context) -> Tensor:
        self.seen = t.clone(), context
        return t


class LatentCache:
    """A folder with one file a picture and quality; pictures that are there already are not coded again.

    Args:
        folder: Where the files lie.
        base: The codec.
        store: The pictures.

    Raises:
        ValueError: If the folder holds latents of another codec.
    """

    def __init__(self, folder: Path, base: nn.Module, store: PairStore) -> None:
        self.folder = folder
        self.base = base
        self.store = store
        self.stride = 0  # pixels a latent, known once there is a file
        folder.mkdir(parents=True, exist_ok=True)
        index, sha256 = folder / INDEX, weights_sha256(base)
        if index.is_file():
            known = json.loads(index.read_text())
            if known["base_sha256"] != sha256:
                raise ValueError(f"{folder} holds latents of another codec, {known['base_sha256'][:12]}…")
        else:
            index.write_text(json.dumps({"base_sha256": sha256}) + "\n")

    def fill(self, originals: Sequence[Original], qualities: Sequence[float]) -> None:
        """Codes and decodes what is not there yet; Ctrl-C loses no finished picture."""
        wanted = [(original, quality) for quality in qualities for original in originals]
        missing = [entry for entry in wanted if not self._path(*entry).is_file()]
        for original, quality in track(missing, desc="latents", unit="picture", disable=None):
            self._code(original, quality)
        with safe_open(self._path(*wanted[0]), framework="pt") as file:
            self.stride = int(file.metadata()["stride"])

    def bits_per_pixel(self, originals: Sequence[Original], quality: float) -> float:
        """Mean over pictures of the size of the entropy-coded streams, without any container."""
        rates = []
        for original in originals:
            with safe_open(self._path(original, quality), framework="pt") as file:
                rates.append(8 * int(file.metadata()["bytes"]) / (original.height * original.width))
        return float(np.mean(rates))

    def read(
        self, original: Original, quality: float, rows: slice = _WHOLE, columns: slice = _WHOLE
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Tensors of a picture within latent ``rows`` and ``columns``, and the original there (uint8, H, W, 3)."""
        with safe_open(self._path(original, quality), framework="pt") as file:
            tensors = {name: file.get_slice(name)[:, rows, columns].float() for name in file.keys()}  # noqa: SIM118
        pixels = torch.from_numpy(np.asarray(self.store.image(original, original.offset)))
        inner = (slice(*(e and e * self.stride for e in (s.start, s.stop))) for s in (rows, columns))
        return tensors, pixels[tuple(inner)]

    def _path(self, original: Original, quality: float) -> Path:
        return self.folder / f"{original.key}-{quality:g}.safetensors"

    @torch.no_grad()
    def _code(self, original: Original, quality: float) -> None:
        base: Any = self.base
        set_quality(base, quality)
        x = to_tensor(self.store.image(original, original.offset), base.downsampling_factor)
        recorder, analysed = _Recorder(tells_context(base)), []
        handle = base.g_a.register_forward_hook(lambda *call: analysed.append(call[2]))
        coded = base.compress(x.to(next(base.parameters()).device))
        handle.remove()
        decoder, base.g_s = base.g_s, nn.Sequential(nn.Identity())  # the picture is not wanted
        try:
            with attach(base, [recorder]):
                base.decompress(coded["strings"], coded["shape"])
        finally:
            base.g_s = decoder
        assert recorder.seen is not None
        decoded, context = recorder.seen
        tensors = {"decoded": decoded, "unquantised": analysed[0].half(), "mu": context.mu, "sigma": context.sigma}
        described = {
            "bytes": str(sum(len(string) for strings in coded["strings"] for string in strings)),
            "stride": str(x.shape[-1] // decoded.shape[-1]),
        }
        kept = {name: tensor[0].cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        write_atomically(self._path(original, quality), save_tensors(kept, described), overwrite=True)


class WindowSampler:
    """Random windows of cached latents; those of step ``s`` depend on ``(seed, s)`` only.

    Args:
        cache: Filled with ``originals`` at ``qualities``.
        originals: Pictures to draw from.
        qualities: Each batch is of one of them.
        crop: Side of a window in pixels, a multiple of the pixels a latent.
        batch: Windows in a batch.
        seed: See above.

    Raises:
        ValueError: If ``crop`` is no such multiple, or no picture is that large.
    """

    def __init__(
        self,
        cache: LatentCache,
        originals: Sequence[Original],
        qualities: Sequence[float],
        *,
        crop: int,
        batch: int,
        seed: int,
    ) -> None:
        if crop < 1 or crop % cache.stride:
            raise ValueError(f"crop must be a positive multiple of {cache.stride}, got {crop}")
        self._originals = [o for o in originals if min(o.height, o.width) >= crop]
        if not self._originals:
            raise ValueError(f"no training picture is {crop} pixels large")
        self._cache, self._qualities = cache, tuple(qualities)
        self._side, self._batch, self._seed = crop // cache.stride, batch, seed

    def batch(self, step: int) -> tuple[float, Latents]:
        """The batch of ``step`` and its quality."""
        rng = np.random.default_rng((self._seed, step))
        quality = self._qualities[int(rng.integers(len(self._qualities)))]
        return quality, collate([self._draw(rng, quality) for _ in range(self._batch)])

    def _draw(self, rng: np.random.Generator, quality: float) -> tuple[dict[str, Tensor], Tensor]:
        original = self._originals[int(rng.integers(len(self._originals)))]
        top, left = (
            int(rng.integers(length // self._cache.stride - self._side + 1))
            for length in (original.height, original.width)
        )
        return self._cache.read(original, quality, slice(top, top + self._side), slice(left, left + self._side))


def collate(items: Sequence[tuple[dict[str, Tensor], Tensor]]) -> Latents:
    """A batch of what :meth:`LatentCache.read` returned, all of one size."""
    tensors = {name: torch.stack([item[0][name] for item in items]) for name in items[0][0]}
    target = torch.stack([item[1] for item in items]).permute(0, 3, 1, 2).float() / 255
    context = Context(tensors.get("mu"), tensors.get("sigma"))
    return Latents(tensors["decoded"], context, tensors["unquantised"], target)


def set_quality(base: Any, quality: float) -> None:
    """Sets the quality of models that have more than one."""
    if hasattr(base, "set_quality"):
        base.set_quality(quality)


def split_originals(store: PairStore) -> tuple[list[Original], list[Original]]:
    """Originals for training and for validation; where no name falls to validation, the first one does.

    Raises:
        ValueError: If there are fewer than two.
    """
    everything = list(store.originals.values())
    names = {o.name for o in everything if o.is_validation} or {min((o.name for o in everything), default="")}
    training = [o for o in everything if o.name not in names]
    if not training or len(training) == len(everything):
        raise ValueError(f"{store.folder} has too few originals to train on some and to validate on others")
    return training, [o for o in everything if o.name in names]
