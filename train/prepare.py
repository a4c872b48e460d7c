"""``python -m train prepare``: originals -> pairs of originals and decoded versions in a store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from codec_wrappers import Codec, get_codec
from enhancer.image_io import read_picture
from train.camera import as_from_a_camera, rescaled
from train.progress import track
from train.store import PairStore, PairWriter, Pixels, pixels_of

SUFFIXES = {".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".ppm"}
MOST_SCALE = 8
LAYOUTS = {
    "DIV2K_train_HR": "DIV2K_train_HR",
    "DPED": "*/training_data/canon",  # the DSLR pictures; the phones' are the degraded side
}


@dataclass(frozen=True)
class CodecPlan:
    """A codec with its encoder options, and the qps to draw for each picture.

    Attributes:
        codec: The codec.
        qps: All qps to choose from.
        count: How many to draw a picture: one from each of ``count`` equal parts of ``qps``.
    """

    codec: Codec
    qps: tuple[int, ...]
    count: int

    @classmethod
    def parse(cls, text: str) -> CodecPlan:
        """Reads ``NAME[,option=value…]@QPS[xCOUNT]``; QPS is ``LOW-HIGH`` or ``Q,Q,…``; all by default.

        Raises:
            ValueError: If the text is of another form, or the codec refuses an option.
        """
        match = re.fullmatch(r"([\w-]+)((?:,\w+=[\w.-]+)*)@(\d+-\d+|\d+(?:,\d+)*)(?:x(\d+))?", text)
        if match is None:
            raise ValueError(f"expected NAME[,option=value…]@LOW-HIGH[xCOUNT] or …@Q,Q,…, got {text!r}")
        name, options, span, count = match.groups()
        if "-" in span:
            low, high = map(int, span.split("-"))
            if low > high:
                raise ValueError(f"{text!r}: qps rise from {high} to {low}")
            qps = tuple(range(low, high + 1))
        else:
            qps = tuple(map(int, span.split(",")))
        if count and int(count) < 1:
            raise ValueError(f"{text!r}: at least one qp a picture")
        default = get_codec(name)
        codec = get_codec(name, **{key: _like(getattr(default, key, ""), value) for key, value in _pairs(options)})
        for qp in qps:
            codec.qp_range.check(qp)
        return cls(codec, qps, min(int(count or len(qps)), len(qps)))

    def draw(self, rng: np.random.Generator) -> list[int]:
        """``count`` different qps, spread over the whole range."""
        return [int(rng.choice(part)) for part in np.array_split(np.array(self.qps), self.count)]


def _pairs(options: str) -> Iterator[tuple[str, str]]:
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        yield key, value


def _like(default: Any, text: str) -> Any:
    """``text`` as a value of the default's type."""
    if isinstance(default, bool):
        return text.lower() in ("1", "true", "yes")
    return type(default)(text) if isinstance(default, int | float) else text


def find_originals(folder: Path) -> list[Path]:
    """Picture files of a data set, sorted; knows the folders of DIV2K and DPED, else searches them all.

    Raises:
        ValueError: If there are none.
    """
    for pattern in LAYOUTS.values():
        files = [
            f for sub in sorted(folder.glob(pattern)) for f in sorted(sub.iterdir()) if f.suffix.lower() in SUFFIXES
        ]
        if files:
            return files
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"no pictures in {folder} (looked for {', '.join(sorted(SUFFIXES))})")
    return files


@dataclass(frozen=True)
class PrepareSettings:
    """What ``prepare`` makes.

    Attributes:
        plans: Codecs and qps.
        crop: Largest side of a stored picture, in pixels; larger originals are cropped.
        crops: Random crops of each larger original; 0 cuts it into a grid that covers all of it.
        seed: Of the choice of crops and qps, and of the grain.
        grain: Largest standard deviation of grain added to the originals, in steps of 255; 0 adds none.
        soft_chroma: Share of the originals whose chroma is halved and interpolated again.
        scales: Least and largest factor by which each random crop is scaled first; None scales none. New
            sizes are new textures, and other errors of the codec: more to learn from the same photographs.
    """

    plans: tuple[CodecPlan, ...]
    crop: int = 512
    crops: int = 1
    seed: int = 0
    grain: float = 0.0
    soft_chroma: float = 0.0
    scales: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.crop < 1 or self.crops < 0:
            raise ValueError(f"a crop needs a pixel, and their number cannot be negative: {self.crop}, {self.crops}")
        if self.grain < 0 or not 0 <= self.soft_chroma <= 1:
            raise ValueError(f"grain must be at least 0, soft chroma in 0..1, got {self.grain:g}, {self.soft_chroma:g}")
        if self.scales and not 0 < self.scales[0] <= self.scales[1] <= MOST_SCALE:
            raise ValueError(f"scales must rise, from above 0 to {MOST_SCALE}, got {self.scales}")
        if self.scales and self.crops == 0:
            raise ValueError("a grid that covers a picture cannot be scaled crop by crop: ask for random crops")


def prepare(sources: list[Path], store: Path, settings: PrepareSettings, *, workers: int) -> None:
    """Fills ``store``; pairs that it holds already are not made again.

    A source may be a folder of pictures or another store, or this one, whose originals then get further pairs.

    Raises:
        ValueError: If a source holds no pictures, pictures of a store are to be scaled, or another program is
            writing to ``store``.
        ImageError: If a picture cannot be read.
        CodecError: If a codec cannot encode.
    """
    originals = _originals(sources, settings)
    with PairWriter(store) as writer, ProcessPoolExecutor(workers) as pool:
        crops = {}
        for source, name, clean in originals:
            rng = np.random.default_rng([settings.seed, clean[0].astype(int).sum(), *name.encode()])
            image = as_from_a_camera(clean, rng, grain=settings.grain, soft_chroma=settings.soft_chroma)
            key = pixel_key(image)
            writer.add_original(key, source, name, image)
            crops[key] = image
        jobs = list(_jobs(crops, settings, writer.done))
        total = sum(crops[key].size for key, _, _ in jobs)
        print(f"{len(jobs)} pairs to make, {total / 1e9:.2f} GB decoded, in {store}")
        try:
            futures = {pool.submit(encode_decode, crops[key], codec, qp): (key, codec, qp) for key, codec, qp in jobs}
            for future in track(as_completed(futures), total=len(futures), desc="pairs", unit="pair"):
                key, codec, qp = futures.pop(future)
                writer.add_pair(key, codec.name, repr(codec), qp, *future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _originals(sources: list[Path], settings: PrepareSettings) -> Iterator[tuple[str, str, Pixels]]:
    """Data set, file name and pixels of every crop; those of a store as they are."""
    stores = [PairStore(source) for source in sources if (source / "index.jsonl").is_file()]
    if stores and settings.scales:
        raise ValueError(f"{stores[0].folder} is a store, whose pictures are taken as they are: they cannot be scaled")
    folders = [source for source in sources if source not in {store.folder for store in stores}]
    files = [(source.name, path) for source in folders for path in find_originals(source)]

    def everything() -> Iterator[tuple[str, str, Pixels]]:
        for store in stores:
            for original in store.originals.values():
                yield original.source, original.name, np.array(store.image(original, original.offset))
        for source, path in track(files, desc="originals", unit="file"):
            for image in crops_of(read_rgb(path), path.name, settings):
                yield source, path.name, image

    return everything()


def read_rgb(path: Path) -> Pixels:
    """An 8-bit RGB picture; gray is repeated, alpha dropped, 16 bits rounded."""
    image = read_picture(path).image
    if image.dtype == np.uint16:
        image = np.round(image / 257.0).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]


def crops_of(image: Pixels, name: str, settings: PrepareSettings) -> Iterator[Pixels]:
    """The picture itself if it fits, else ``settings.crops`` random crops, the same ones each time, or a grid.

    With ``settings.scales`` always random crops, each taken that much larger or smaller and scaled.
    """
    height, width = image.shape[:2]
    if settings.crops == 0:
        for rows in np.array_split(image, ceil(height / settings.crop), axis=0):
            for part in np.array_split(rows, ceil(width / settings.crop), axis=1):
                yield np.ascontiguousarray(part)
        return
    rng = np.random.default_rng([settings.seed, *name.encode()])
    fits = max(height, width) <= settings.crop and not settings.scales
    for _ in range(1 if fits else settings.crops):
        scale = rng.uniform(*settings.scales) if settings.scales else 1.0
        side = round(settings.crop / scale)
        top, left = (int(rng.integers(max(length - side, 0) + 1)) for length in (height, width))
        part = np.ascontiguousarray(image[top : top + side, left : left + side])
        yield rescaled(part, settings.crop / side) if settings.scales else part


def pixel_key(image: Pixels) -> str:
    """SHA-256 of the size and the pixels."""
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()


def _jobs(
    crops: dict[str, Pixels], settings: PrepareSettings, done: set[tuple[str, str, int]]
) -> Iterator[tuple[str, Codec, int]]:
    for plan in settings.plans:
        for key in crops:
            rng = np.random.default_rng([settings.seed, int(key[:8], 16)])
            for qp in plan.draw(rng):
                if (key, repr(plan.codec), qp) not in done:
                    yield key, plan.codec, qp


def encode_decode(image: Pixels, codec: Codec, qp: int) -> tuple[float | None, bytes, Pixels, str]:
    """Codes a picture; returns the bitstream's own qp, the bitstream, the decoded 8-bit RGB picture and its chroma."""
    bitstream = codec.encode(image, qp)
    decoded = codec.decode(bitstream)
    return decoded.info.qp, bitstream, pixels_of(decoded), decoded.info.chroma
