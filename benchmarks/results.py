"""Measures everything that RESULTS.md says, and writes it.

    python -m benchmarks.results            all sets: hours
    python -m benchmarks.results --quick    four pictures: minutes
    python -m benchmarks.results --encode   only the bitstreams, which no network is needed for

Bitstreams and measurements are kept below ``--output``, so a run that was stopped goes on, and a second
run only writes the tables again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import CHECKOUT, default_pictures
from benchmarks.results_encode import encode_set, encode_target
from benchmarks.results_tables import bd_table, gain_table, pairs, speed_table, target_rows, weak_spots
from codec_wrappers.encode_cache import EncodeCache
from enhancer.evaluation.enhancement import Enhancement
from enhancer.evaluation.parallel import threads_per_job
from enhancer.evaluation.pictures import Original, load_originals
from enhancer.evaluation.rd import RdSettings, environment, run_rd
from enhancer.evaluation.results import Run, load_run
from enhancer.evaluation.sources import CodecSource, parse_codec
from enhancer.evaluation.target import TargetRow, run_target
from enhancer.files import write_atomically

CODECS = (
    "BPG 4:2:0=bpg:reference@27,32,37,42",
    "BPG 4:4:4=bpg:reference,chroma=444@27,32,37,42",
    "VVC=vvc:reference@27,32,37,42",
    "JPEG=jpeg@10,20,40,70",
)
# The other 19 of LIVE1's 29 originals are Kodak's scenes.
LIVE1_ALONE = (
    *("building2", "carnivaldolls", "cemetry", "churchandcapitol", "coinsinfountain"),
    *("dancers", "flowersonih35", "manfishing", "monarch", "studentsculpture"),
)
TARGET_BPP = 0.15


@dataclass(frozen=True)
class PictureSet:
    """A folder of pictures and how the tables call it."""

    title: str
    folder: str
    only: tuple[str, ...] = ()
    limit: int | None = None


SETS = (
    PictureSet("Kodak", "kodak"),
    PictureSet("CID22, validation part", "cid22_val"),
    PictureSet("LIVE1 without Kodak's scenes", "live1", LIVE1_ALONE),
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
    """Runs of all codecs with all networks on one set."""
    settings = RdSettings(
        enhancements=tuple(network(model, args) for model in models),
        keep_pictures=args.keep_pictures,
        jobs=args.jobs,
        cache=EncodeCache(args.output / "cache"),
    )

    def progress(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print(f"{chosen.title}: {done} of {total}", file=sys.stderr)

    folder = args.output / (chosen.folder if chosen.limit is None else f"{chosen.folder}-quick")
    sources = [parse_codec(spec) for spec in args.codec or CODECS]
    paths = run_rd(originals_of(chosen, args.data), sources, settings, folder, progress=progress)
    return [load_run(path) for path in paths]


def network(model: str, args: argparse.Namespace, ensemble: str = "none") -> Enhancement:
    threads = threads_per_job(args.jobs)
    return Enhancement(model, ensemble=ensemble, device=args.device, backend=args.backend, threads=threads)


def across(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Decoded pictures of every other codec as the anchor of each enhanced run and of each codec."""
    plain = [run for run in runs if run.enhancement is None]
    return [(anchor, test) for anchor in plain[:3] for test in runs if test.source != anchor.source]


def encode_all(sets: Sequence[PictureSet], args: argparse.Namespace) -> None:
    """Makes the bitstreams of all sets, then those of the search for one budget."""
    cache = EncodeCache(args.output / "cache")
    sources = [parse_codec(spec) for spec in args.codec or CODECS]
    for chosen in sets:
        encode_set(chosen.title, originals_of(chosen, args.data), sources, cache, args.jobs)
    first = originals_of(sets[0], args.data)
    encode_target(sets[0].title, first, target_sources(args), TARGET_BPP, cache, args.jobs)


def target_sources(args: argparse.Namespace) -> list[CodecSource]:
    """The codecs that are compared at one budget: JPEG does not reach it."""
    return [parse_codec(spec) for spec in args.codec or CODECS if "JPEG" not in spec]


def target_of(chosen: PictureSet, args: argparse.Namespace, models: Sequence[str]) -> list[TargetRow]:
    enhancements = [network(model, args) for model in models]
    enhancements += [network(models[-1], args, "rotate")] if models else []
    return run_target(
        originals_of(chosen, args.data),
        target_sources(args),
        TARGET_BPP,
        enhancements=enhancements,
        jobs=args.jobs,
        cache=EncodeCache(args.output / "cache"),
    )


def document(
    measured: dict[str, list[Run]], target: tuple[str, list[TargetRow]], cost: dict[str, float], command: str
) -> str:
    """The whole file."""
    spots, parts = ["## Weak spots", ""], []
    for title, runs in measured.items():
        found = pairs(runs)
        if not found:
            continue
        spots += [f"{title}:", "", *weak_spots(found), ""]
        parts += [f"## {title}: gain at each quality", "", gain_table(found), ""]
        parts += [f"## {title}: BD-rate against the codec alone", ""]
        parts += [bd_table([(pair.decoded, pair.enhanced) for pair in found]), ""]
        parts += [f"## {title}: BD-rate across codecs", "", bd_table(across(runs)), ""]
    title, rows = target
    parts += [f"## {title} at {TARGET_BPP:g} bits per pixel", "", target_rows(rows), ""]
    everything = [run for runs in measured.values() for run in runs]
    parts += ["## Speed", "", speed_table(everything, cost), ""]
    machine = environment()["machine"]
    head = [
        "# Results",
        "",
        f"Made by `{command}`; numbers in brackets are 95 % bootstrap intervals over pictures. PSNR and MS-SSIM are",
        "means over pictures, Y-PSNR is of full-range BT.601 luma, BD-rates are of mean curves (PCHIP).",
        f"Machine: {machine['processor']}, {machine['cores']} cores. Every run's settings, versions and hashes stand",
        "in its `*.run.json`.",
        "",
    ]
    return "\n".join([*head, *spots, *parts])


def cost_of(models: Sequence[str]) -> dict[str, float]:
    """kMAC per pixel of each network, by the name that run files give it."""
    from enhancer.checkpoint import load_checkpoint
    from enhancer.network import kmac_per_pixel

    return {Path(model).name: kmac_per_pixel(load_checkpoint(model).config) for model in models}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure all results and write RESULTS.md.")
    parser.add_argument("--quick", action="store_true", help="four pictures of Kodak only")
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
    from enhancer.checkpoint import checkpoint_names

    sets = QUICK if args.quick else SETS
    if args.quick and not (args.data / sets[0].folder).is_dir():
        args.data = args.output / "data"
        sets = (save_photographs(args.data),)
    if args.encode:
        encode_all(sets, args)
        return 0
    models = args.model or list(checkpoint_names())
    measured = {chosen.title: measure_set(chosen, args, models) for chosen in sets}
    target = (sets[0].title, target_of(sets[0], args, models))
    command = "make results-quick" if args.quick else "make results"
    path = args.write or (args.output.parent / "RESULTS-quick.md" if args.quick else CHECKOUT / "RESULTS.md")
    text = document(measured, target, cost_of(models), command)
    write_atomically(path, text.encode(), overwrite=True)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
