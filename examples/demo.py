"""The main job from end to end: compress a photograph to a target rate, decode it, enhance it, compare.

    python examples/demo.py [--image my.png] [--bpp 0.15] [--output demo]

Does so with BPG and with VVC. Writes the bitstreams, the decoded and the enhanced pictures and one
sheet that shows them side by side, and prints what each step cost and gained.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec_wrappers import Image, get_codec
from codec_wrappers.rate_control import Encoding, encode_to_bpp
from enhancer import Enhancer
from enhancer.cli.common import run_command
from enhancer.compare import comparison_sheet
from enhancer.files import write_atomically
from enhancer.image_io import Picture, encode_picture, read_picture, upright
from enhancer.inference import default_checkpoint
from enhancer.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr

CODECS = ("bpg", "vvc")


@dataclass(frozen=True)
class Result:
    """One codec's way through the demo; pictures have 8 bits, as they are written and measured.

    Attributes:
        encoding: The bitstream and how it was made.
        decoded: The decoder's output.
        enhanced: The network's output.
        encode_s: Seconds of rate control and encoding.
        decode_s: Seconds of decoding.
        enhance_s: Seconds of enhancing.
    """

    encoding: Encoding
    decoded: Image
    enhanced: Image
    encode_s: float
    decode_s: float
    enhance_s: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="compress, decode, enhance and compare a photograph")
    parser.add_argument("--image", type=Path, help="picture to use (default: a photograph of scikit-image)")
    parser.add_argument("--bpp", type=float, default=0.15, help="rate limit in bits per pixel (default: %(default)s)")
    parser.add_argument("--model", help="checkpoint, by name or path (default: that of `enhance`)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    args = parser.parse_args()
    return run_command(lambda: demonstrate(args.image, args.bpp, args.model, args.output), "demo")


def demonstrate(path: Path | None, bpp: float, model: str | None, output: Path) -> None:
    """Runs the demo on the picture at ``path`` and writes to the folder ``output``."""
    original = photograph(path)
    model = model or default_checkpoint()
    enhancer = Enhancer.from_checkpoint(model)
    results = {codec: run_codec(codec, original, bpp, enhancer) for codec in CODECS}
    output.mkdir(parents=True, exist_ok=True)
    write(output / "original.png", png(original))
    for codec, result in results.items():
        write(output / f"{codec}{get_codec(codec).suffixes[0]}", result.encoding.bitstream)
        write(output / f"{codec}-decoded.png", png(result.decoded))
        write(output / f"{codec}-enhanced.png", png(result.enhanced))
    write(output / "comparison.png", png(np.vstack([sheet(original, *item) for item in results.items()])))
    name = path.name if path else "astronaut, public domain (NASA), from scikit-image"
    height, width = original.shape[:2]
    print(f"{name}: {width} x {height}, at most {bpp:g} bits per pixel, network {model}\n")
    print(table(original, results))
    print(f"\nPictures and bitstreams: {output}/ (start with {output / 'comparison.png'})")


def photograph(path: Path | None) -> Image:
    """The picture at ``path``, 8-bit gray or RGB, or a bundled photograph."""
    if path is None:
        from skimage import data

        astronaut: Image = data.astronaut()  # type: ignore[no-untyped-call]  # scikit-image has no types
        return astronaut
    image = to_8_bits(upright(read_picture(path)).image)
    return np.ascontiguousarray(image[..., :3]) if image.ndim == 3 else image


def run_codec(name: str, original: Image, bpp: float, enhancer: Enhancer) -> Result:
    """Compresses, decodes and enhances ``original``."""
    codec = get_codec(name)
    print(f"{name}: encoding to {bpp:g} bpp, decoding, enhancing ...", file=sys.stderr)
    start = time.perf_counter()
    encoding = encode_to_bpp(codec, original, bpp)
    encoded = time.perf_counter()
    decoded = codec.decode(encoding.bitstream)
    ready = time.perf_counter()
    enhanced = enhancer.enhance_decoded(decoded)
    end = time.perf_counter()
    return Result(
        encoding, to_8_bits(decoded.image), to_8_bits(enhanced), encoded - start, ready - encoded, end - ready
    )


def to_8_bits(image: Image) -> Image:
    """``image`` as uint8; 16-bit samples are scaled by 255 / 65535 and rounded."""
    return image if image.dtype == np.uint8 else np.round(image / 257.0).astype(np.uint8)


def table(original: Image, results: dict[str, Result]) -> str:
    """What each codec spent and what the network gained, as text."""
    lines = ["codec  qp   bytes    bpp   RGB-PSNR dB             MS-SSIM                   encode  decode  enhance"]
    for codec, result in results.items():
        encoding = result.encoding
        before, after = (psnr(original, image, data_range=255) for image in (result.decoded, result.enhanced))
        similarity = f"{'(too small)':25}"
        if min(original.shape[:2]) >= MS_SSIM_MIN_SIDE:
            old, new = (ms_ssim(original, image, data_range=255) for image in (result.decoded, result.enhanced))
            similarity = f"{old:.4f} -> {new:.4f} {new - old:+.4f}"
        lines.append(
            f"{codec:5} {encoding.qp:3} {len(encoding.bitstream):7} {encoding.bpp:.4f} "
            f"{before:6.2f} -> {after:5.2f} {after - before:+.2f}  {similarity}  "
            f"{result.encode_s:5.1f} s {result.decode_s:5.1f} s {result.enhance_s:6.1f} s"
        )
    return "\n".join(lines)


def sheet(original: Image, codec: str, result: Result) -> Image:
    """Original, decoded and enhanced picture side by side, with the places that changed most enlarged."""
    captions = ("original", f"{codec}, {result.encoding.bpp:.3f} bpp", f"{codec}, enhanced")
    return comparison_sheet(original, result.decoded, result.enhanced, captions=captions, crops=2)


def png(image: Image) -> bytes:
    """PNG file of a picture."""
    return encode_picture(Picture(image), "png")


def write(path: Path, data: bytes) -> None:
    """Writes a result of the demo; that of an earlier run is replaced."""
    write_atomically(path, data, overwrite=True)


if __name__ == "__main__":
    sys.exit(main())
