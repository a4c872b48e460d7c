"""The :class:`Enhancer`: restores decoded pictures of any kind and size with a trained network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import count
from math import prod
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from codec_wrappers import Decoded, Image
from enhancer.backends import Backend, BackendName, Precision, create_backend
from enhancer.checkpoint import Checkpoint, checkpoint_names, load_checkpoint
from enhancer.ensemble import Ensemble, run_ensemble
from enhancer.errors import EnhancerError
from enhancer.estimate import estimate_condition
from enhancer.memory import bytes_per_pixel, choose_tile, memory_budget
from enhancer.tensors import AnyImage, from_unit, pad_to_multiple, to_unit, unpack
from enhancer.tiling import run_tiled

Tile = int | Literal["auto"]
Progress = Callable[[float], None]

AUTO = "auto"
"""Stands for a codec that is to be estimated from the picture."""


class Enhancer:
    """A loaded network, ready to restore pictures; safe to share between threads.

    The result does not depend on tiles, batches or free memory: any setting gives the same picture,
    within 1 of 255 across backends that compute in float32, within 2 in bfloat16.

    Args:
        checkpoint: The network.
        backend: What runs it.
        tile: Side of a tile in pixels, rounded up to what the network needs, or ``auto``.
        ensemble: ``rotate`` averages over 4 rotations, ``dihedral`` over 8 rotations and mirror images.
        strength: Share of the correction that is applied: 0 returns the input, 1 the network's output (less of it
            for pictures of very high quality). Anything above 0 is a share of what is added to the picture before
            rounding, if there is one.

    Attributes:
        halo: Context in pixels around a tile. The network's exact one, unless the checkpoint's metadata
            hold a smaller ``halo`` that was measured to be enough for its weights.

    Raises:
        ValueError: If an option is not one of the allowed ones.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: Backend,
        *,
        tile: Tile = "auto",
        ensemble: Ensemble = "none",
        strength: float = 1.0,
    ) -> None:
        if tile != "auto" and (not isinstance(tile, int) or tile < 1):
            raise ValueError(f"tile must be auto or a positive number of pixels, got {tile!r}")
        if ensemble not in get_args(Ensemble):
            raise ValueError(f"ensemble must be one of {', '.join(get_args(Ensemble))}, got {ensemble!r}")
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be in 0..1, got {strength}")
        self.checkpoint = checkpoint
        self.backend = backend
        self.tile = tile
        self.ensemble = ensemble
        self.strength = strength
        self.halo = int(checkpoint.metadata.get("halo", checkpoint.network.halo))

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        backend: BackendName | Literal["auto"] = "auto",
        tile: Tile = "auto",
        ensemble: Ensemble = "none",
        strength: float = 1.0,
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> Self:
        """Loads a checkpoint and prepares a backend for it.

        Args:
            name_or_path: Name of a shipped checkpoint (``fast``, ``balanced``, ``max``) or a file.
            device: See :func:`enhancer.backends.create_backend`, also for ``backend``, ``threads`` and
                ``precision``.
            backend: ``auto``, ``torch``, ``openvino`` or ``onnx``.
            tile: See the class, also for ``ensemble`` and ``strength``.
            ensemble: ``none``, ``rotate`` or ``dihedral``.
            strength: 0..1.
            threads: Threads on the processor.
            precision: ``auto``, ``float32``, ``bfloat16`` or ``int8``.

        Raises:
            CheckpointError: If the checkpoint cannot be loaded.
            EnhancerError: If the device or a package is missing.
            ValueError: If an option is not one of the allowed ones.
        """
        checkpoint = load_checkpoint(name_or_path)
        runner = create_backend(backend, checkpoint, device=device, threads=threads, precision=precision)
        return cls(checkpoint, runner, tile=tile, ensemble=ensemble, strength=strength)

    def enhance(
        self,
        image: AnyImage | list[AnyImage],
        *,
        codec: str | None = None,
        qp: float | None = None,
        chroma: str | None = None,
        unrounded: AnyImage | Callable[[], AnyImage | None] | None = None,
        progress: Progress | None = None,
    ) -> AnyImage:
        """Returns the restored picture, of the same kind, shape and dtype as ``image``.

        Integers stay at their depth (16 bits never pass through 8) and are rounded once. Gray stays
        gray: it runs as three equal channels, whose mean is returned. Alpha is returned untouched.

        Args:
            image: ``numpy`` array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``; ``PIL.Image``; torch
                tensor ``(3, H, W)`` or ``(N, 3, H, W)``; uint8, uint16 (numpy) or floating point in
                [0, 1]. A Pillow image in another mode than gray or RGB comes back as what Pillow
                converts it to (palette and CMYK: RGB). A list gives a list.
            codec: Name of the codec that the picture has been through; None means unknown, ``auto`` that
                it and the qp are estimated, for each picture of a tensor by itself. One that seems never
                to have been coded then comes back as it is.
            qp: Its quality index, as :class:`codec_wrappers.CodingInfo` reports it; None means unknown. With a
                codec that the network has not seen, an unknown qp means ``auto``. A picture of a codec's best
                quality comes back as it is (:func:`enhancer.condition.trust`).
            chroma: Its chroma format, as reported there; None means unknown, with ``auto`` that it is estimated, too.
            unrounded: The same picture before it was rounded to ``image``, of the same shape and of a finer type, or
                a function that returns it or None (``unrounded`` of :class:`codec_wrappers.Decoded`): what is
                restored, where anything is, and rounded to the type of ``image``. With a list it must be None.
            progress: Called with the finished share, 0..1, after every tile.

        Raises:
            CheckpointError: If codec and qp are to be estimated and the weights for that are missing.
            ValueError: If ``image`` is not such a picture, or ``unrounded`` is not of its shape.
        """
        if isinstance(image, list):
            if unrounded is not None:
                raise ValueError("unrounded must be None for a list of pictures")
            return [self.enhance(each, codec=codec, qp=qp, chroma=chroma, progress=progress) for each in image]
        unpacked = unpack(image)
        finer = partial(_finer, unpacked.x, unrounded)
        if codec == AUTO or self.checkpoint.says_little(codec, qp):
            pictures = [
                self._enhance_estimated(x, lambda n=n: finer()[n : n + 1], chroma, progress)  # type: ignore[misc]
                for n, x in enumerate(unpacked.x.unsqueeze(1))
            ]
            return unpacked.pack(torch.cat(pictures))
        return unpacked.pack(self._enhance_known(unpacked.x, finer, codec, qp, chroma, progress))

    def enhance_decoded(self, decoded: Decoded, *, progress: Progress | None = None) -> Image:
        """Returns the restored picture of what a codec's ``decode`` returned, told all that its bitstream says.

        It is restored as it was before it was rounded to ``decoded.image``, where the codec has that.

        Args:
            decoded: Picture and what its bitstream says.
            progress: See :meth:`enhance`, also for what is returned and raised.
        """
        info = decoded.info
        result: Image = self.enhance(
            decoded.image,
            codec=info.codec,
            qp=info.qp,
            chroma=info.chroma,
            unrounded=decoded.unrounded,
            progress=progress,
        )
        return result

    def _enhance_estimated(
        self, x: Tensor, finer: Callable[[], Tensor], chroma: str | None, progress: Progress | None
    ) -> Tensor:
        """Restores one picture ``(1, C, H, W)`` by what it seems to have been through."""
        pixels = (x[0].float() if x.is_floating_point() else x[0]).permute(1, 2, 0).cpu().numpy()
        estimate = estimate_condition(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if estimate.pristine:
            return x.clone()
        return self._enhance_known(x, finer, estimate.codec, estimate.qp, chroma or estimate.chroma, progress)

    def _enhance_known(
        self,
        x: Tensor,
        finer: Callable[[], Tensor],
        codec: str | None,
        qp: float | None,
        chroma: str | None,
        progress: Progress | None,
    ) -> Tensor:
        """Restores ``(N, C, H, W)`` by what it has been through: what ``finer`` returns, in the type of ``x``."""
        condition, trusted = self.checkpoint.condition(codec, qp, chroma)
        strength = self.strength * trusted
        if not strength:
            return x.clone()
        return self._enhance_tensor(finer(), x.dtype, condition.to(self.backend.device), strength, progress)

    def _enhance_tensor(
        self, x: Tensor, dtype: torch.dtype, condition: Tensor, strength: float, progress: Progress | None
    ) -> Tensor:
        """Restores ``(N, C, H, W)`` on its own device, rounded to ``dtype``."""
        multiple = self.checkpoint.network.multiple
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, multiple)
        tile_size = self._tile_size(x)
        while True:
            try:
                return self._run(x, dtype, tile_size, condition, strength, progress)[..., :height, :width]
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if max(tile_size) <= multiple:
                    raise EnhancerError(f"out of memory, even with tiles of {max(tile_size)} pixels") from error
            torch.cuda.empty_cache()  # only here: while the error lives, so do the tensors of the failed attempt
            tile_size = (_round_up(tile_size[0] // 2, multiple), _round_up(tile_size[1] // 2, multiple))

    def _tile_size(self, x: Tensor) -> tuple[int, int]:
        multiple = self.checkpoint.network.multiple
        if self.tile != "auto":
            side = _round_up(self.tile, multiple)
            return side, side
        budget = memory_budget(self.backend.device) / (len(x) * bytes_per_pixel(self.checkpoint.config))
        return choose_tile(x.shape[-2], x.shape[-1], halo=self.halo, multiple=multiple, max_pixels=int(budget))

    def _run(
        self,
        x: Tensor,
        dtype: torch.dtype,
        tile_size: tuple[int, int],
        condition: Tensor,
        strength: float,
        progress: Progress | None,
    ) -> Tensor:
        tiles = prod(-(-length // side) for length, side in zip(x.shape[-2:], tile_size, strict=True))
        done = count(1)

        def network(window: Tensor) -> Tensor:
            enhanced = self._enhance_window(window, dtype, condition, strength)
            if progress:
                progress(next(done) / tiles)
            return enhanced

        return run_tiled(
            network,
            x,
            tile_size=tile_size,
            halo=self.halo,
            multiple=self.checkpoint.network.multiple,
            fixed_shape=self.backend.fixed_shape,
        )

    def _enhance_window(self, window: Tensor, dtype: torch.dtype, condition: Tensor, strength: float) -> Tensor:
        # Not all devices know uint16.
        x = to_unit((to_unit(window) if window.dtype is torch.uint16 else window).to(self.backend.device))
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        restored = run_ensemble(lambda view: self.backend(view, condition.expand(len(view), -1)), x, self.ensemble)
        y = restored if strength == 1 else x + strength * (restored - x)
        if window.shape[1] == 1:
            y = y.mean(dim=1, keepdim=True)
        return from_unit(y, dtype).to(window.device)


def _finer(x: Tensor, unrounded: AnyImage | Callable[[], AnyImage | None] | None) -> Tensor:
    """The colours of the picture before it was rounded to ``x``; ``x`` itself if that is not known."""
    picture = unrounded() if callable(unrounded) else unrounded
    if picture is None:
        return x
    finer = unpack(picture).x
    if finer.shape != x.shape:
        raise ValueError(f"unrounded must be of the shape of image, {tuple(x.shape)}, got {tuple(finer.shape)}")
    return finer


def default_checkpoint() -> str:
    """``balanced`` if it is shipped, otherwise the best one that is."""
    names = checkpoint_names()
    return "balanced" if "balanced" in names or not names else names[-1]


@lru_cache(maxsize=2)
def _shared_enhancer(model: str | Path) -> Enhancer:
    return Enhancer.from_checkpoint(model)


def enhance(
    image: AnyImage | list[AnyImage],
    *,
    codec: str | None = None,
    qp: float | None = None,
    chroma: str | None = None,
    model: str | Path | None = None,
) -> AnyImage:
    """Restores a picture with default settings; the network is loaded at the first call and kept.

    Args:
        image: See :meth:`Enhancer.enhance`, also for ``codec``, ``qp`` and what is returned and raised.
        codec: Name of the codec.
        qp: Its quality index.
        chroma: Its chroma format.
        model: Name of a shipped checkpoint or a file; None is :func:`default_checkpoint`.
    """
    return _shared_enhancer(model or default_checkpoint()).enhance(image, codec=codec, qp=qp, chroma=chroma)


def _is_out_of_memory(error: Exception) -> bool:
    """Tells apart the errors of torch, OpenVINO and onnxruntime, which have no common type for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return any(words in message for words in ("can't allocate memory", "bad_alloc", "failed to allocate"))


def _round_up(length: int, multiple: int) -> int:
    return max(-(-length // multiple), 1) * multiple
