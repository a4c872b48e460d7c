"""Measures refiners on learned codecs, from real files and 8-bit pictures, and writes the tables of docs/learned.md.

    python -m benchmarks.learned_table checkpoints/msh-0130.safetensors --pictures kodak \\
        --refined "base: g_s alone=runs/gs-0/best.safetensors" --refined "base: FEnM=runs/fenm-0/best.safetensors"

A set of refiners is measured on the base whose weights it was trained on. Several sets of one label are seeds of one
row. The modes of QECM that have no weights need no set. A row is compared with the base and with the row
``g_s alone`` of its group, the part of the label before the colon.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.common import CHECKOUT, default_pictures, markdown_table
from codec_wrappers.base import Image
from codec_wrappers.learned.codec import MshCodec, MshSfCodec, VraeCodec
from codec_wrappers.learned.container import DIGEST_BYTES, RefinerTag, read_file, write_file
from codec_wrappers.learned.storage import load_model
from codec_wrappers.learned.weights import WeightsFile, find_weights, parse_metadata
from enhancer.evaluation.pictures import load_image, load_originals
from enhancer.files import write_atomically
from enhancer.metrics import ms_ssim, psnr
from enhancer.refiners import FourierQECM, RefinerSet, load_refiners, weights_sha256

CODECS = {codec.name: codec for codec in (MshCodec, VraeCodec, MshSfCodec)}
CONTROL = "g_s alone"
BASE = "base"
DOCUMENT = CHECKOUT / "docs" / "learned.md"
MARKS = ("<!-- table -->", "<!-- end of table -->")
NOISE = 0.1

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """A codec at one quality."""

    weights: WeightsFile
    qp: int

    @property
    def codec(self) -> Any:
        return CODECS[self.weights.model](weights=str(self.weights.path))

    @property
    def title(self) -> str:
        lambdas = "…".join(f"{value:g}" for value in self.weights.lambdas)
        return f"{self.weights.name} ({self.weights.model}, λ = {lambdas}, qp {self.qp})"


@dataclass
class Row:
    """What one decoder made of all pictures; lists are by seed and picture."""

    label: str
    values: int = 0  # trained
    bpp: list[float] = field(default_factory=list)
    psnr: list[list[float]] = field(default_factory=list)
    ms_ssim: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def group(self) -> str:
        return self.label.partition(":")[0] if ":" in self.label else ""

    def gains(self, over: Row) -> list[float]:
        """Mean gain in dB over another row's mean of seeds, one a seed."""
        anchor = np.mean(over.psnr, axis=0)
        return [float(np.mean(np.array(values) - anchor)) for values in self.psnr]


def parse_base(text: str) -> Base:
    """``FILE`` or ``FILE@QP``."""
    name, _, qp = text.rpartition("@") if "@" in text else (text, "", "1")
    path = Path(name)
    model = str(json.loads(parse_metadata(path.read_bytes(), path)["config"])["kind"])
    return Base(find_weights(model, str(path))[0], int(qp))


def sets_without_weights(sha256: str) -> list[tuple[str, RefinerSet]]:
    """The modes of QECM that need no training, as they act on a finished codec."""
    paper, noisy, soft = FourierQECM("paper"), FourierQECM("paper", noise_scale=NOISE), FourierQECM("soft")
    rows = {
        "untrained: QECM paper": paper,
        f"untrained: QECM paper, noise b = {NOISE:g}": noisy,
        "untrained: QECM soft": soft,
    }
    return [(label, RefinerSet((qecm.eval(),), sha256)) for label, qecm in rows.items()]


def measure(
    base: Base, sets: Sequence[tuple[str, RefinerSet]], pictures: Sequence[tuple[str, Image]], progress: Progress
) -> list[Row]:
    """The base's row, then one a label; every picture is coded once."""
    codec = base.codec
    coded = []
    for name, image in pictures:
        progress(f"{base.weights.name}: coding {name}")
        coded.append((image, codec.encode(image, base.qp)))
    rows = {BASE: Row(BASE)}
    _decode(rows[BASE], None, codec, coded)
    for label, refiners in sets:
        progress(f"{base.weights.name}: {label}")
        _decode(rows.setdefault(label, Row(label)), refiners, codec, coded)
    return list(rows.values())


def _decode(row: Row, refiners: RefinerSet | None, codec: Any, coded: Sequence[tuple[Image, bytes]]) -> None:
    quality = []
    for image, bitstream in coded:
        start = time.perf_counter()
        decoded = codec.decode(bitstream, refiners=(refiners,) if refiners else ()).image
        row.seconds.append(time.perf_counter() - start)
        row.bpp.append(8 * _size(bitstream, refiners, row.label) / (image.shape[0] * image.shape[1]))
        quality.append(psnr(image, decoded, data_range=255))
        if min(image.shape[:2]) > 160:
            row.ms_ssim.append(ms_ssim(image, decoded, data_range=255))
    row.psnr.append(quality)
    if refiners:
        row.values = sum(p.numel() for refiner in refiners.refiners for p in refiner.parameters())
        row.values += sum(value.numel() for value in (refiners.decoder or {}).values())


def _size(bitstream: bytes, refiners: RefinerSet | None, label: str) -> int:
    """Bytes of the file, with the entry of the refiners where there are any."""
    if refiners is None:
        return len(bitstream)
    name = "".join(c for c in label if c.isascii() and c.isalnum())[:40] or "refiner"
    tag = RefinerTag(name, bytes.fromhex(refiners.sha256 or "00" * 32)[:DIGEST_BYTES])
    return len(write_file(replace(read_file(bitstream), refiners=(tag,))))


def table(rows: Sequence[Row]) -> str:
    """Markdown; gains as mean over seeds with the smallest and the largest in brackets."""
    base = rows[0]
    controls = {row.group: row for row in rows if row.label.endswith(CONTROL)}
    lines = []
    for row in rows:
        control = controls.get(row.group)
        lines.append(
            [
                row.label,
                f"{row.values:,}".replace(",", " ") if row.values else "–",
                f"{fmean(row.bpp):.4f}",
                f"{np.mean(row.psnr):.3f}",
                _spread(row.gains(base)) if row is not base else "–",
                _spread(row.gains(control)) if control and control is not row else "–",
                f"{fmean(row.ms_ssim):.5f}" if row.ms_ssim else "–",
                f"{median(row.seconds):.2f}",
            ]
        )
    head = [
        *("decoder", "trained values", "bpp", "RGB-PSNR (dB)", "over base (dB)", f"over {CONTROL} (dB)"),
        *("MS-SSIM", "decoding (s)"),
    ]
    return markdown_table(head, lines)


def _spread(gains: Sequence[float]) -> str:
    mean = f"{fmean(gains):+.3f}"
    return mean if len(gains) == 1 else f"{mean} [{min(gains):+.3f}, {max(gains):+.3f}]"


def sections(
    bases: Sequence[Base],
    refined: Sequence[tuple[str, Path]],
    pictures: Sequence[tuple[str, Image]],
    progress: Progress,
) -> Iterator[str]:
    """One table a base.

    Raises:
        ValueError: If a set belongs to none of the bases.
    """
    loaded = [(label, load_refiners(path), path) for label, path in refined]
    hashes = [weights_sha256(load_model(base.weights)) for base in bases]
    for label, refiners, path in loaded:
        if refiners.base_sha256 not in hashes:
            raise ValueError(f"{label}: {path} was trained on none of these bases")
    for base, sha256 in zip(bases, hashes, strict=True):
        own = [(label, refiners) for label, refiners, _ in loaded if refiners.base_sha256 == sha256]
        rows = measure(base, [*own, *sets_without_weights(sha256)], pictures, progress)
        yield f"### {base.title}\n\n{table(rows)}\n"


def insert(document: str, text: str) -> str:
    """``document`` with ``text`` between its marks.

    Raises:
        ValueError: If it has no marks.
    """
    before, first, rest = document.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not first or not last:
        raise ValueError(f"no {MARKS[0]} … {MARKS[1]} to write between")
    return f"{before}{first}\n\n{text.strip()}\n\n{last}{after}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure refiners on learned codecs.")
    parser.add_argument("bases", nargs="+", metavar="WEIGHTS[@QP]", help="weights files of codecs")
    parser.add_argument(
        "--refined", action="append", default=[], metavar="[GROUP: ]LABEL=FILE", help="a row, or a seed"
    )
    parser.add_argument("--pictures", type=Path, default=default_pictures(), metavar="DIR")
    parser.add_argument("--limit", type=int, help="pictures to use")
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name} instead of standard output")
    args = parser.parse_args(argv)
    refined = [(label, Path(path)) for label, _, path in (text.rpartition("=") for text in args.refined)]
    pictures = [(o.name, load_image(o.path)) for o in load_originals(args.pictures, args.limit)]
    head = f"{len(pictures)} pictures of `{args.pictures.name}`."
    made = sections(
        [parse_base(text) for text in args.bases], refined, pictures, lambda line: print(line, file=sys.stderr)
    )
    text = "\n".join([head, "", *made])
    if args.write:
        write_atomically(DOCUMENT, insert(DOCUMENT.read_text(), text).encode(), overwrite=True)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
