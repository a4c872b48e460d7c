"""Published results that may be laid over measured ones, each with its source and test set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from enhancer.errors import EnhancerError
from enhancer.evaluation.results import Run

KODAK = frozenset(f"kodim{number:02}" for number in range(1, 25))


@dataclass(frozen=True)
class Published:
    """A curve, or a single point, that somebody else measured.

    Attributes:
        label: Codec.
        test_set: Name of the pictures it was measured on.
        source: Where the numbers stand.
        bpp: Rates.
        psnr: RGB-PSNR in dB, empty if not given.
        ms_ssim: MS-SSIM of RGB, empty if not given.
    """

    label: str
    test_set: str
    source: str
    bpp: tuple[float, ...]
    psnr: tuple[float, ...]
    ms_ssim: tuple[float, ...]


def bundled() -> tuple[Published, ...]:
    """The results that come with the package."""
    document = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(
        Published(c["label"], c["set"], c["source"], tuple(c["bpp"]), tuple(c["psnr"]), tuple(c["ms_ssim"]))
        for c in document["curves"]
    )


def load_overlay(path: Path) -> Published:
    """A result file in CompressAI's format: ``{"name": …, "results": {"bpp": […], "psnr-rgb": […], …}}``.

    Raises:
        EnhancerError: If it cannot be read, or is not of this format.
    """
    try:
        document = json.loads(path.read_bytes())
        results: dict[str, Any] = document["results"]
        bpp = _numbers(results["bpp"])
        psnr, ms_ssim = (_numbers(results.get(f"{name}-rgb", results.get(name, []))) for name in ("psnr", "ms-ssim"))
    except OSError as error:
        raise EnhancerError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnhancerError(f"{path} is not a result file in CompressAI's format") from error
    if any(values and len(values) != len(bpp) for values in (psnr, ms_ssim)) or not bpp:
        raise EnhancerError(f"{path}: rates and qualities differ in number")
    return Published(str(document.get("name", path.stem)), "stated by the user", path.name, bpp, psnr, ms_ssim)


def fitting(run: Run, test_set: str = "auto") -> tuple[Published, ...]:
    """The bundled curves of a test set.

    Args:
        run: What they are to be drawn beside.
        test_set: Name of the set; ``auto``: that of the run's pictures, going by their names, which tell Kodak.

    Raises:
        EnhancerError: If nothing comes with the package for the set.
    """
    if test_set == "auto":
        stems = {Path(name).stem for name in run.pictures}
        test_set = "Kodak" if stems == KODAK else ""
    elif test_set not in (known := {p.test_set for p in bundled()}):
        raise EnhancerError(f"no published results on {test_set!r} come along; there are: {', '.join(sorted(known))}")
    return tuple(p for p in bundled() if p.test_set == test_set)


def _numbers(values: list[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
