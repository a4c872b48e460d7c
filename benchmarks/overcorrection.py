"""Whether a network corrects too much: the factor on its correction that would have served each picture best.

    python -m benchmarks.overcorrection balanced -c bpg@27,37 -c vvc@27,37 --pictures KODAK

A factor of 1 is ideal. One below 1 for all pictures of a set means that the network takes something of them, grain
or soft chroma for instance, for a coding error, because its training pictures were not like that. A diagnosis: the
factors need the originals. Luma is BT.601's, chroma what is left of R, G and B without it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import default_pictures, markdown_table
from codec_wrappers import Codec
from codec_wrappers.encode_cache import EncodeCache
from enhancer import Enhancer
from enhancer.evaluation.pictures import load_image, load_originals
from enhancer.evaluation.sources import parse_codec
from enhancer.metrics import LUMA_WEIGHTS


@dataclass(frozen=True)
class Correction:
    """What a network did to one picture; gains in dB of RGB-PSNR, before rounding to 8 bits."""

    picture: str
    gain: float
    factor: float
    factor_luma: float
    factor_chroma: float
    gain_with_factor: float


def correction(enhancer: Enhancer, codec: Codec, qp: int, path: Path, cache: EncodeCache) -> Correction:
    """Codes, decodes and enhances one picture."""
    original = load_image(path)
    decoded = codec.decode(cache.encode(codec, original, qp))
    unrounded = decoded.unrounded()
    picture = decoded.image if unrounded is None else unrounded / np.float32(257)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    info = decoded.info
    y = enhancer.enhance(x, codec=info.codec, qp=info.qp, chroma=info.chroma)
    error = (torch.from_numpy(original).permute(2, 0, 1)[None].float() / 255 - x).double()
    change = (y - x).double()
    luma = torch.tensor(LUMA_WEIGHTS["bt601"], dtype=torch.float64).view(1, 3, 1, 1)
    change_luma, error_luma = ((d * luma).sum(1, keepdim=True) for d in (change, error))
    factor = _best_factor(change, error)
    before = error.square().mean()
    gains = [10 * float(torch.log10(before / (error - f * change).square().mean())) for f in (1.0, factor)]
    of_luma = _best_factor(change_luma, error_luma)
    of_chroma = _best_factor(change - change_luma, error - error_luma)
    return Correction(path.stem, gains[0], factor, of_luma, of_chroma, gains[1])


def _best_factor(change: Tensor, error: Tensor) -> float:
    return float((change * error).sum() / change.square().sum())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint, by name or path")
    parser.add_argument("-c", "--codec", action="append", required=True, metavar="CODEC@QP,…")
    parser.add_argument("--pictures", type=Path, default=default_pictures(), metavar="DIR")
    parser.add_argument("--cache", type=Path, help="where bitstreams are kept (default: the user's cache folder)")
    args = parser.parse_args(argv)
    enhancer = Enhancer.from_checkpoint(args.model)
    cache = EncodeCache(args.cache) if args.cache else EncodeCache()
    rows = []
    for source in map(parse_codec, args.codec):
        for qp in source.own_qps:
            originals = load_originals(args.pictures)
            found = [correction(enhancer, source.codec, qp, original.path, cache) for original in originals]
            lowest = min(found, key=lambda c: c.factor)
            names = ("gain", "factor", "factor_luma", "factor_chroma", "gain_with_factor")
            means = [float(np.mean([getattr(c, name) for c in found])) for name in names]
            print(source.label, qp, means, file=sys.stderr)
            worst = f"{lowest.factor:.2f} ({lowest.picture})"
            factors = [f"{factor:.2f}" for factor in means[1:4]]
            rows.append([f"{source.label} {qp}", f"{means[0]:+.3f}", *factors, worst, f"{means[4]:+.3f}"])
    print(
        markdown_table(
            ("codec, qp", "gain, dB", "best factor", "of luma", "of chroma", "lowest", "gain with it, dB"), rows
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
