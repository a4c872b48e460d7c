"""Measures everything that RESULTS.md says, and writes it.

    python -m benchmarks.results            all sets: hours
    python -m benchmarks.results --quick    four pictures: minutes
    python -m benchmarks.results --encode   only the bitstreams, which no network is needed for

Bitstreams and measurements are kept below ``--output``, so a run that was stopped goes on, and a second
run only writes the tables again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import CHECKOUT, default_pictures, markdown_table
from benchmarks.results_encode import encode_set, encode_target
from benchmarks.results_tables import (
    bd_table,
    gain_tables,
    pairs,
    published_gains,
    target_rows,
    weak_spots,
)
from codec_wrappers.encode_cache import EncodeCache
from enhancer.checkpoint import checkpoint_names, load_checkpoint
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.parallel import threads_per_job
from enhancer.evaluation.pictures import Original, load_originals
from enhancer.evaluation.rd import RdSettings, environment, run_rd
from enhancer.evaluation.results import Run, load_run
from enhancer.evaluation.sources import CodecSource, parse_codec
from enhancer.evaluation.target import TargetRow, run_target
from enhancer.files import write_atomically
from enhancer.inference import default_checkpoint
from enhancer.network import kmac_per_pixel, parameter_count

CODECS = (
    "BPG 4:2:0=bpg:reference@27,32,37,42",
    "BPG 4:4:4=bpg:reference,chroma=444@27,32,37,42",
    "VVC=vvc:reference@27,32,37,42",
    "JPEG=jpeg@10,20,40,70",
)
ANCHOR = CODECS[0]
ANCHORS = ("BPG 4:2:0", "VVC")
OTHER_CODECS = (
    *("vvc:tuned@27,32,37,42", "vvc:fast@27,32,37,42", "bpg:tuned@27,32,37,42", "heic@15,28,40,52"),
    *("avif@20,35,50,65", "webp@10,30,50,75", "jpeg2000@270,300,330,360"),
)
"""Measured without networks, for orientation."""
OTHERS_NOTE = """\
Not measured here, and on other pictures: the gain (dB) on DIV2K's validation part in PowerQE's benchmark
(PowerQE's `docs/benchmark_results/div2k_psnr.csv`, commit 9716cd7)."""
# The other 19 of LIVE1's 29 originals are Kodak's scenes.
LIVE1_ALONE = (
    *("building2", "carnivaldolls", "cemetry", "churchandcapitol", "coinsinfountain"),
    *("dancers", "flowersonih35", "manfishing", "monarch", "studentsculpture"),
)
TARGET_BPP = 0.15
LARGE_KMAC = 1000
"""Networks of more kMAC per pixel take an hour a set on two cores; sets may leave them out, ``--full`` takes them."""


@dataclass(frozen=True)
class PictureSet:
    """A folder of pictures, how the tables call it, and whether networks that take long are measured on it."""

    title: str
    folder: str
    only: tuple[str, ...] = ()
    limit: int | None = None
    large_networks: bool = True

    @property
    def name(self) -> str:
        """Of the folder of results."""
        return self.folder if self.limit is None else f"{self.folder}-quick"


SETS = (
    PictureSet("Kodak", "kodak"),
    PictureSet("CID22, validation part", "cid22_val", large_networks=False),
    PictureSet("LIVE1 without Kodak's scenes", "live1", LIVE1_ALONE, large_networks=False),
)
QUICK = (PictureSet("Kodak, four pictures", "kodak", limit=4),)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
"""Of scikit-image, for a quick run where there is no picture set."""


def originals_of(chosen: PictureSet, data: Path) -> tuple[Original, ...]:
    found = [o for o in load_originals(data / chosen.folder) if not chosen.only or o.stem in chosen.only]
    step = 1 if chosen.limit is None else max(1, len(found) // chosen.limit)
    return tuple(found[::step][: chosen.limit])


def save_photographs(data: Path) -> PictureSet:
    """Writes the photographs of scikit-image below ``data``."""
    from PIL import Image
    from skimage import data as photographs

    folder = data / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(photographs, name)()).save(folder / f"{name}.png")
    return PictureSet("Four photographs of scikit-image", "photographs", limit=len(PHOTOGRAPHS))


def measure_set(chosen: PictureSet, args: argparse.Namespace, models: Sequence[str]) -> list[Run]:
    """Runs of all codecs with the networks of one set."""
    return measure(chosen, args, args.codec or CODECS, models_of(chosen, args, models), chosen.name)


def models_of(chosen: PictureSet, args: argparse.Namespace, models: Sequence[str]) -> list[str]:
    """Those that are measured on a set."""
    if chosen.large_networks or args.full:
        return list(models)
    return [model for model in models if kmac_per_pixel(load_checkpoint(model).config) <= LARGE_KMAC]


def measure(
    chosen: PictureSet, args: argparse.Namespace, codecs: Sequence[str], models: Sequence[str], folder: str
) -> list[Run]:
    """Runs of some codecs with some networks on one set; what was measured before is not measured again."""
    settings = RdSettings(
        enhancements=tuple(network(model, args) for model in models),
        keep_pictures=args.keep_pictures,
        overwrite=True,  # a network trained anew, say: records tell what still holds
        jobs=args.jobs,
        cache=EncodeCache(args.output / "cache"),
    )

    def progress(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print(f"{chosen.title}: {done} of {total}", file=sys.stderr)

    sources = [parse_codec(spec) for spec in codecs]
    paths = run_rd(originals_of(chosen, args.data), sources, settings, args.output / folder, progress=progress)
    return [load_run(path) for path in paths]


def network(model: str, args: argparse.Namespace, ensemble: str = "none") -> Enhancement:
    threads = threads_per_job(args.jobs)
    return Enhancement(model, ensemble=ensemble, device=args.device, backend=args.backend, threads=threads)


def across(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """BPG 4:2:0 and VVC, decoded, each as the anchor of every other codec with and without networks."""
    anchors = [run for run in runs if run.enhancement is None and run.label in ANCHORS]
    return [(anchor, test) for anchor in anchors for test in runs if test.source != anchor.source]


def encode_all(sets: Sequence[PictureSet], args: argparse.Namespace) -> None:
    """Makes the bitstreams of all sets, then those of the search for one budget."""
    cache = EncodeCache(args.output / "cache")
    sources = [parse_codec(spec) for spec in args.codec or CODECS]
    for source in sorted(sources, key=lambda source: source.codec.name == "vvc"):  # what takes longest comes last
        for chosen in sets:
            encode_set(chosen.title, originals_of(chosen, args.data), source, cache, args.jobs)
    first = originals_of(sets[0], args.data)
    for spec in OTHER_CODECS:
        encode_set(sets[0].title, first, parse_codec(spec), cache, args.jobs)
    encode_target(sets[0].title, first, target_sources(args), TARGET_BPP, cache, args.jobs)


def target_specs(args: argparse.Namespace) -> list[str]:
    """The codecs that are compared at one budget: JPEG does not reach it."""
    return [spec for spec in args.codec or CODECS if "JPEG" not in spec]


def target_sources(args: argparse.Namespace) -> list[CodecSource]:
    return [parse_codec(spec) for spec in target_specs(args)]


def target_of(chosen: PictureSet, args: argparse.Namespace, models: Sequence[str]) -> list[TargetRow]:
    enhancements = [network(model, args) for model in models]
    rotated = default_checkpoint() if default_checkpoint() in models else models[-1]
    enhancements.append(network(rotated, args, "rotate"))
    return run_target(
        originals_of(chosen, args.data),
        target_sources(args),
        TARGET_BPP,
        enhancements=enhancements,
        jobs=args.jobs,
        cache=EncodeCache(args.output / "cache"),
    )


def others(chosen: PictureSet, args: argparse.Namespace) -> list[tuple[Run, Run]]:
    """Further codecs and presets, each against BPG 4:2:0."""
    runs = measure(chosen, args, (ANCHOR, *OTHER_CODECS), (), f"{chosen.name}-codecs")
    return [(runs[0], run) for run in runs[1:]]


def commands(
    args: argparse.Namespace, chosen: PictureSet, codecs: Sequence[str], models: Sequence[str], folder: str
) -> str:
    """What repeats by hand the measurements of one set, and the comparison of its first codec with its last run."""
    results = shown_path(args.output / folder)
    first, last = (
        spec.partition("=")[0] if "=" in spec else spec.partition("@")[0] for spec in (codecs[0], codecs[-1])
    )
    test = f"{first} + {Path(models[-1]).stem}" if models else last
    words = ["enhance-eval", "rd", f"DATA/{chosen.folder}", "-o", str(results)]
    words += [word for spec in codecs for word in ("--codec", spec)]
    words += [word for model in models for word in ("--model", model)]
    lines = [shlex.join(words), shlex.join(["enhance-eval", "bd", first, test, "--results", str(results)])]
    only = "\nOnly the pictures chosen in `benchmarks/results.py` count." if chosen.only or chosen.limit else ""
    return "\n".join(["```sh", *lines, "```"]) + only


def shown_path(path: Path) -> Path:
    return path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path


def document(
    args: argparse.Namespace,
    sets: Sequence[PictureSet],
    models: Sequence[str],
    measured: dict[str, list[Run]],
    target: Sequence[TargetRow],
    codecs: Sequence[tuple[Run, Run]],
) -> str:
    """The whole file."""
    parts = ["## Weak spots", "", weak_spots(measured), ""]
    for chosen in sets:
        runs = measured[chosen.title]
        own = models_of(chosen, args, models)
        parts += [f"## {chosen.title}", "", commands(args, chosen, args.codec or CODECS, own, chosen.name), ""]
        if missing := [f"`{model}`" for model in models if model not in own]:
            parts += [f"Without {', '.join(missing)}: `make results ARGS=--full`.", ""]
        parts += ["RGB-PSNR gained at each point, mean over pictures (worst picture):", "", gain_tables(runs), ""]
        parts += ["Against the codec alone:", "", bd_table([(p.decoded, p.enhanced) for p in pairs(runs)]), ""]
        parts += ["Across codecs:", "", bd_table(across(runs)), ""]
    first = sets[0]
    specs = " ".join(f"--codec {shlex.quote(spec)}" for spec in target_specs(args))
    networks = " ".join(f"--model {model}" for model in models)
    parts += [f"## {first.title} at {TARGET_BPP:g} bits per pixel", ""]
    parts += ["Two adjacent qps mixed over the set, after table 1 of Xue and Su (CVPRW 2019):", ""]
    parts += [f"`enhance-eval target DATA/{first.folder} --bpp {TARGET_BPP:g} {specs} {networks}`;"]
    parts += ["the rows with rotation: `--ensemble rotate`.", "", target_rows(target), ""]
    parts += ["## Other codecs and presets", ""]
    parts += [commands(args, first, (ANCHOR, *OTHER_CODECS), (), f"{first.name}-codecs"), ""]
    parts += [bd_table(codecs), ""]
    parts += ["## What others publish", "", OTHERS_NOTE, "", published_gains(), ""]
    parts += ["## Cost", "", "How long they take is measured apart: `docs/speed.md`.", ""]
    parts += [cost_table(models), ""]
    return "\n".join([*head_of("make results-quick" if args.quick else "make results"), *parts])


def head_of(command: str) -> list[str]:
    machine = environment()["machine"]
    return [
        "# Results",
        "",
        f"Made by `{command}`, which goes on where it was stopped. Numbers in brackets are 95 % bootstrap intervals",
        "over pictures. PSNR and MS-SSIM are means over pictures, Y-PSNR is of full-range BT.601 luma; BD-rates are of",
        "mean curves (PCHIP), negative is better. BPG is x265 `placebo`, VVC is vvenc `medium` without perceptual",
        "adaptation: the presets `reference`. `DATA` is the folder of the picture sets. Networks restore the picture",
        "that a decoder has before it rounds to 8 bits; everything is measured on 8-bit pictures.",
        f"Machine: {machine['processor']}, {machine['cores']} cores. Settings, versions and hashes of every run stand",
        "in its `*.run.json`.",
        "",
    ]


def cost_table(models: Sequence[str]) -> str:
    """Multiplications and weights of each network."""
    loaded = {Path(model).name: load_checkpoint(model) for model in models}
    rows = [
        [name, f"{kmac_per_pixel(found.config):.1f}", f"{parameter_count(found.network):,}".replace(",", " ")]
        for name, found in loaded.items()
    ]
    return markdown_table(["network", "kMAC/pixel", "parameters"], rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure all results and write RESULTS.md.")
    parser.add_argument("--quick", action="store_true", help="four pictures of Kodak only")
    parser.add_argument("--full", action="store_true", help="all networks on all sets: hours more on two cores")
    parser.add_argument("--encode", action="store_true", help="only make the bitstreams; a later run finds them")
    parser.add_argument(
        "--data", type=Path, default=default_pictures().parent, metavar="DIR", help="folder of the sets"
    )
    parser.add_argument("--model", action="append", metavar="NAME", help="default: all shipped checkpoints")
    parser.add_argument("--codec", action="append", metavar="CODEC", help="default: BPG 4:2:0 and 4:4:4, VVC, JPEG")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep-pictures", action="store_true", help="for enhance-eval report")
    parser.add_argument("-o", "--output", type=Path, default=CHECKOUT / "build" / "results", metavar="DIR")
    parser.add_argument("--write", type=Path, metavar="FILE", help="default: RESULTS.md, or build/RESULTS-quick.md")
    args = parser.parse_args(argv)
    sets = QUICK if args.quick else SETS
    if args.quick and not (args.data / sets[0].folder).is_dir():
        args.data = args.output / "data"
        sets = (save_photographs(args.data),)
    if args.encode:
        encode_all(sets, args)
        return 0
    models = args.model or list(checkpoint_names())
    path = args.write or (args.output.parent / "RESULTS-quick.md" if args.quick else CHECKOUT / "RESULTS.md")
    codecs = others(sets[0], args)
    # The cheapest network first, and the file after each: the last may take as long as all others together.
    for count in range(1, len(models) + 1):
        measured = {chosen.title: measure_set(chosen, args, models[:count]) for chosen in sets}
        target = target_of(sets[0], args, models[:count])
        text = document(args, sets, models[:count], measured, target, codecs)
        write_atomically(path, text.encode(), overwrite=True)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
