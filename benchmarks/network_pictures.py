"""The pictures of docs/trainings.md and docs/networks.md: how training went, where the networks help most and least.

python -m benchmarks.network_pictures curves RUN… -o docs/images/training.png
python -m benchmarks.network_pictures crops MODEL -c bpg@37 --pictures KODAK -o docs/images/crops.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowModule
from PIL import ImageDraw, ImageFont

from benchmarks.common import CHECKOUT, default_pictures
from codec_wrappers import Image
from codec_wrappers.encode_cache import EncodeCache
from enhancer import Enhancer
from enhancer.evaluation.pictures import load_image, load_originals
from enhancer.evaluation.sources import parse_codec

CROP, ENLARGE, GAP, CAPTION = 64, 3, 6, 20


@dataclass(frozen=True)
class Place:
    """A square of a picture and what a network makes of it."""

    name: str
    gain: float  # dB of RGB-PSNR, of this square alone
    original: Image
    decoded: Image
    enhanced: Image


def draw_curves(runs: Sequence[Path], output: Path) -> None:
    """Gain on the validation part against steps, per codec, from the logs of runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(runs), 3.6), layout="constrained")
    axes = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axis, run in zip(axes, runs, strict=True):
        entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for codec in entries[0]["gain_by_codec"]:
            gains = [entry["gain_by_codec"][codec] for entry in entries]
            axis.plot([entry["step"] for entry in entries], gains, marker=".", label=codec)
        axis.set(title=run.name, xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("gain on the validation part, dB")
    axes[-1].legend()
    figure.savefig(output, dpi=110)


def places(model: str, codec_spec: str, folder: Path, cache: EncodeCache) -> list[Place]:
    """All squares of the pictures of a folder, coded at the one qp of ``codec_spec``."""
    source, enhancer = parse_codec(codec_spec), Enhancer.from_checkpoint(model)
    (qp,) = source.own_qps
    found = []
    for original in load_originals(folder):
        image = load_image(original.path)
        decoded = source.codec.decode(cache.encode(source.codec, image, qp))
        enhanced = enhancer.enhance_decoded(decoded)
        before, after = (_square_errors(image, picture) for picture in (decoded.image, enhanced))
        for row, column in np.ndindex(before.shape):
            square = np.s_[row * CROP : (row + 1) * CROP, column * CROP : (column + 1) * CROP]
            gain = 10 * float(np.log10(before[row, column] / after[row, column]))
            crops = [np.ascontiguousarray(picture[square]) for picture in (image, decoded.image, enhanced)]
            found.append(Place(f"{original.stem} {column * CROP},{row * CROP}", gain, *crops))
    return found


def _square_errors(original: Image, picture: Image) -> npt.NDArray[np.float64]:
    """Mean squared error of each square; at least that of one value in 3000 off by one."""
    rows, columns = (side // CROP for side in original.shape[:2])
    error = (original.astype(np.float64) - picture)[: rows * CROP, : columns * CROP] ** 2
    means: npt.NDArray[np.float64] = error.reshape(rows, CROP, columns, CROP, 3).mean(axis=(1, 3, 4))
    return np.maximum(means, 1 / 3000)


def draw_places(best: Sequence[Place], worst: Sequence[Place], output: Path) -> None:
    """One column for each place: original, decoded, enhanced; the best on the left."""
    side = CROP * ENLARGE
    chosen = [*best, *worst]
    sheet = PillowModule.new("RGB", ((side + GAP) * len(chosen) + GAP, 3 * (side + GAP) + 2 * CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, place in enumerate(chosen):
        left = GAP + index * (side + GAP)
        draw.text((left, 2), f"{place.gain:+.2f} dB", fill="black", font=font)
        draw.text((left, CAPTION), place.name, fill="black", font=font)
        for row, crop in enumerate((place.original, place.decoded, place.enhanced)):
            enlarged = PillowModule.fromarray(crop).resize((side, side), PillowModule.Resampling.NEAREST)
            sheet.paste(enlarged, (left, 2 * CAPTION + row * (side + GAP)))
    sheet.save(output)


def crops(args: argparse.Namespace) -> None:
    found = sorted(places(args.model, args.codec, args.pictures, EncodeCache(args.cache)), key=lambda p: p.gain)
    gains = np.array([place.gain for place in found])
    print(f"{len(found)} squares of {CROP} x {CROP}: mean {gains.mean():+.3f} dB, {np.mean(gains < 0):.1%} lose")
    for place in (*found[:3], *found[-3:][::-1]):
        print(f"{place.gain:+.2f} dB  {place.name}")
    draw_places(found[-3:][::-1], found[:3], args.output)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("curves")
    command.add_argument("runs", nargs="+", type=Path)
    command.set_defaults(call=lambda args: draw_curves(args.runs, args.output))
    command.add_argument("-o", "--output", type=Path, required=True)
    command = commands.add_parser("crops")
    command.add_argument("model")
    command.add_argument("-c", "--codec", default="bpg@37", help="with one qp (%(default)s)")
    command.add_argument("--pictures", type=Path, default=default_pictures())
    command.add_argument("--cache", type=Path, default=CHECKOUT / "build" / "results" / "cache")
    command.add_argument("-o", "--output", type=Path, required=True)
    command.set_defaults(call=crops)
    args = parser.parse_args(argv)
    args.call(args)


if __name__ == "__main__":
    main()
