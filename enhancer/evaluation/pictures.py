"""The original pictures of an evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec_wrappers import Image
from enhancer.errors import ImageError

SUFFIXES = frozenset({".png", ".ppm", ".pgm", ".pnm", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg"})


@dataclass(frozen=True)
class Original:
    """One picture of the set.

    Attributes:
        path: Its file.
        sha256: Hash of shape, type and samples: the same picture in another file format counts as the same.
        width: In pixels.
        height: In pixels.
        bit_depth: Bits per sample of the file: 8 or 16.
    """

    path: Path
    sha256: str
    width: int
    height: int
    bit_depth: int

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def pixels(self) -> int:
        return self.width * self.height


def find_pictures(folder: Path) -> tuple[Path, ...]:
    """The picture files of a folder (not of folders below it), sorted by name.

    Raises:
        ImageError: If there is none, or two differ in their suffix only.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ImageError(f"no pictures in {folder} (known: {' '.join(sorted(SUFFIXES))})")
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise ImageError(f"{folder} has two pictures of one name: {seen[path.stem].name} and {path.name}")
        seen[path.stem] = path
    return tuple(paths)


def load_image(path: Path) -> Image:
    """Samples of a picture file, gray or RGB, uint8 or uint16.

    Raises:
        ImageError: If it cannot be read, or has transparency, which no metric here can compare.
    """
    from enhancer.image_io import read_picture

    image = read_picture(path).image
    if image.ndim == 3 and image.shape[2] == 4:
        if np.any(image[..., 3] != np.iinfo(image.dtype).max):
            raise ImageError(f"{path} has transparency; flatten it first")
        image = np.ascontiguousarray(image[..., :3])
    return image


def load_originals(folder: Path, limit: int | None = None) -> tuple[Original, ...]:
    """Reads every picture of ``folder`` once; the first ``limit`` of them by name.

    Raises:
        ImageError: If a picture cannot be used, or there is none.
    """
    return tuple(_original(path) for path in find_pictures(folder)[:limit])


def samples_sha256(image: Image) -> str:
    """Hash of shape, type and samples."""
    digest = hashlib.sha256(repr((image.shape, image.dtype.str)).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _original(path: Path) -> Original:
    image = load_image(path)
    height, width = image.shape[:2]
    return Original(path, samples_sha256(image), width, height, 8 * image.dtype.itemsize)
