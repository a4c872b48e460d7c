"""The pictures of the page's viewer, compressed to fit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codec_wrappers import Image
from enhancer.evaluation.records import kept_picture
from enhancer.evaluation.results import Record, Run

QUALITIES = ("lossless", 95, 90, 85, 80, 75, 70, 60, 50, 40)
"""WebP settings, best first; the first that fits is taken."""


@dataclass(frozen=True)
class Gallery:
    """Pictures with what was measured on them.

    Attributes:
        pictures: Name, size, key of the original, and ``shots``: label, qp, rate, quality and key of
            every decoded or enhanced version.
        images: Key -> WebP file.
        quality: WebP quality, or ``lossless``.
        dropped: Number of pictures of the set that are not in here.
        reason: Why the gallery is empty or smaller than the set, if it is.
    """

    pictures: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    quality: str = "lossless"
    dropped: int = 0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        urls = {k: f"data:image/webp;base64,{base64.b64encode(v).decode()}" for k, v in self.images.items()}
        return {
            "pictures": self.pictures,
            "images": urls,
            "quality": self.quality,
            "dropped": self.dropped,
            "reason": self.reason,
        }


def build_gallery(runs: Sequence[Run], results: Path, qps: tuple[int, ...], limit: int | None, room: int) -> Gallery:
    """The pictures that were kept, at the highest quality at which they take at most ``room`` bytes.

    If they do not fit at the lowest quality, pictures are left out, evenly over the set.
    """
    shown = [(run, _chosen_qps(run, qps)) for run in runs]
    names = [name for name in runs[0].pictures if _is_kept(name, shown, results)]
    if not names:
        return Gallery(reason="No pictures were kept; measure with --keep-pictures to see them here.")
    total = len(runs[0].pictures)
    if limit is not None:
        names = _spread(names, limit)
    for quality in QUALITIES:
        # A few pictures tell whether the rest can fit.
        if _estimate(_spread(names, 3), shown, results, quality) * len(names) / min(3, len(names)) > 1.1 * room:
            continue
        gallery = _gallery(names, shown, results, quality, total)
        if _base64_size(gallery.images.values()) <= room:
            return gallery
    while len(names) > 1:
        names = _spread(names, len(names) * 2 // 3)
        gallery = _gallery(names, shown, results, QUALITIES[-1], total)
        if _base64_size(gallery.images.values()) <= room:
            return gallery
    return Gallery(reason="The pictures are too large for the page's size limit.", dropped=total)


_Shown = Sequence[tuple[Run, tuple[int, ...]]]


def _chosen_qps(run: Run, qps: tuple[int, ...]) -> tuple[int, ...]:
    """The wanted points that the run has; by default its cheapest and its middle one."""
    if qps:
        return tuple(qp for qp in run.qps if qp in qps)
    by_rate = sorted(run.qps, key=lambda qp: sum(r.bpp or 0.0 for r in run.at(qp)))
    return tuple(dict.fromkeys([by_rate[0], by_rate[len(by_rate) // 2]]))


def _shots(name: str, shown: _Shown) -> list[tuple[Run, Record]]:
    return [(run, r) for run, qps in shown for qp in qps for r in run.at(qp) if r.picture == name]


def _is_kept(name: str, shown: _Shown, results: Path) -> bool:
    shots = _shots(name, shown)
    hashes = {r.output_sha256 for _, r in shots} | {r.picture_sha256 for _, r in shots}
    return bool(shots) and all(kept_picture(results, sha256).exists() for sha256 in hashes)


def _spread(names: Sequence[str], count: int) -> list[str]:
    """``count`` of the names, evenly over the list."""
    count = min(count, len(names))
    return [names[i * len(names) // count] for i in range(count)]


def _estimate(names: Sequence[str], shown: _Shown, results: Path, quality: str | int) -> int:
    return _base64_size(_gallery(names, shown, results, quality, len(names)).images.values())


def _base64_size(images: Iterable[bytes]) -> int:
    return sum(4 * (len(data) + 2) // 3 + 100 for data in images)


def _gallery(names: Sequence[str], shown: _Shown, results: Path, quality: str | int, total: int) -> Gallery:
    images: dict[str, bytes] = {}
    pictures = []

    def key(sha256: str) -> str:
        if sha256[:16] not in images:
            images[sha256[:16]] = _webp(_load(kept_picture(results, sha256)), quality)
        return sha256[:16]

    for name in names:
        shots = _shots(name, shown)
        first = shots[0][1]
        pictures.append(
            {
                "name": name,
                "width": first.width,
                "height": first.height,
                "original": key(first.picture_sha256),
                "shots": [
                    {
                        "label": run.label,
                        "enhanced": run.enhancement is not None,
                        "qp": r.qp,
                        "bpp": r.bpp,
                        "psnr": r.metrics.get("psnr"),
                        "ms_ssim": r.metrics.get("ms_ssim"),
                        "key": key(r.output_sha256),
                    }
                    for run, r in shots
                ],
            }
        )
    return Gallery(pictures, images, str(quality), total - len(names))


def _load(path: Path) -> Image:
    """A kept picture in 8 bits, which is what a browser shows."""
    from enhancer.image_io import read_picture

    image = read_picture(path).image
    return image if image.dtype == np.uint8 else np.round(image / 257.0).astype(np.uint8)


def _webp(image: Image, quality: str | int) -> bytes:
    from PIL import Image as PillowImage

    data = io.BytesIO()
    picture = PillowImage.fromarray(image).convert("RGB")
    if quality == "lossless":
        picture.save(data, "WEBP", lossless=True, quality=60, method=2)
    else:
        picture.save(data, "WEBP", quality=quality, method=4)
    return data.getvalue()
