"""A network as one of the things that are compared."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from codec_wrappers import Image
from enhancer.estimate import shipped_sha256

if TYPE_CHECKING:
    from enhancer.evaluation.sources import Coded
    from enhancer.inference import Enhancer


@dataclass(frozen=True)
class Enhancement:
    """Settings of an :class:`~enhancer.inference.Enhancer`.

    Attributes:
        model: Name of a shipped checkpoint, or a path.
        ensemble: ``none``, ``rotate`` or ``dihedral``.
        strength: Share of the correction, 0..1.
        blind: Do not tell codec, qp and chroma format; they are estimated, as for a bare picture.
        rounded: Restore the decoded pictures as 8-bit files hold them, not as they were before rounding; a
            blind network has nothing else.
        device: As for the enhancer.
        backend: As for the enhancer.
        threads: Threads on the processor.
    """

    model: str
    ensemble: str = "none"
    strength: float = 1.0
    blind: bool = False
    rounded: bool = False
    device: str = "auto"
    backend: str = "auto"
    threads: int = 1

    @property
    def label(self) -> str:
        """E.g. ``balanced`` or ``balanced (rotate, blind)``."""
        settings = [self.ensemble] if self.ensemble != "none" else []
        settings += [f"strength {self.strength:g}"] if self.strength != 1.0 else []
        settings += ["blind"] if self.blind else []
        settings += ["rounded"] if self.rounded and not self.blind else []
        name = Path(self.model).stem
        return f"{name} ({', '.join(settings)})" if settings else name

    def identity(self) -> dict[str, Any]:
        """What decides the pixels, ready for JSON; loads the network.

        Raises:
            EnhancerError: If it cannot be loaded.
            ValueError: If a setting is not one of the allowed ones.
        """
        enhancer = _enhancer(self)
        return {
            "model": Path(self.model).name,
            "sha256": enhancer.checkpoint.sha256,
            "ensemble": self.ensemble,
            "strength": self.strength,
            "blind": shipped_sha256() if self.blind else False,
            "rounded": self.rounded or self.blind,
            "backend": enhancer.backend.name,
            "device": enhancer.backend.device.type,
        }

    def apply(self, coded: Coded) -> tuple[Image, float]:
        """The enhanced picture and the seconds it took."""
        enhancer = _enhancer(self)
        known: dict[str, Any] = {}
        if self.blind:
            from enhancer.inference import AUTO

            known = {"codec": AUTO}
        elif info := coded.info:
            known = {"codec": coded.codec, "qp": info.qp, "chroma": info.chroma}
        started = perf_counter()
        if not (self.rounded or self.blind):
            known["unrounded"] = coded.unrounded
        image = enhancer.enhance(coded.image, **known)
        return image, perf_counter() - started


@functools.lru_cache(maxsize=4)
def _enhancer(settings: Enhancement) -> Enhancer:
    from enhancer.inference import Enhancer

    return Enhancer.from_checkpoint(
        settings.model,
        device=settings.device,
        backend=settings.backend,  # type: ignore[arg-type]  # checked there
        ensemble=settings.ensemble,  # type: ignore[arg-type]  # checked there
        strength=settings.strength,
        threads=settings.threads,
    )
