"""``python -m train COMMAND``: pairs, networks, learned codecs and their refiners; see ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from enhancer.cli.common import at_least_1, run_command

PRESETS = Path(__file__).parent / "presets"


def parser() -> argparse.ArgumentParser:
    """The command line of all subcommands."""
    top = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands)
    _add_pack(commands)
    _add_run(commands)
    _add_evaluate(commands)
    _add_export(commands)
    _add_average(commands)
    _add_quantize(commands)
    _add_shrink(commands)
    _add_estimate(commands)
    _add_learned(commands)
    _add_refine(commands)
    return top


def _add_prepare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("prepare", help="code and decode originals into a pair store")
    command.add_argument(
        "sources", type=Path, nargs="+", help="folders of originals (DIV2K and DPED layouts are known)"
    )
    command.add_argument("-o", "--output", type=Path, required=True, help="store (a folder) to make or to go on with")
    command.add_argument(
        "-c",
        "--codec",
        action="append",
        required=True,
        metavar="NAME[,OPTION=VALUE…]@QPS[xCOUNT]",
        help="e.g. bpg,chroma=444@20-47x4: four qps a picture, spread over 20 to 47; may be repeated",
    )
    command.add_argument("--crop", type=at_least_1, default=512, help="largest stored side in pixels (%(default)s)")
    command.add_argument(
        "--crops", type=int, default=1, help="random crops of each larger original (%(default)s); 0: cut all of it"
    )
    command.add_argument("--grain", type=float, default=0.0, help="largest deviation of grain to add, of 255 (none)")
    command.add_argument(
        "--soft-chroma", type=float, default=0.0, help="share of the originals to halve and double the chroma of (none)"
    )
    command.add_argument(
        "--scales", type=_span, metavar="LOW-HIGH", help="scale each random crop by a factor between these (no scaling)"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--workers", type=at_least_1, default=os.cpu_count() or 1)
    command.set_defaults(run=_prepare)


def _above_0(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")


def _span(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected LOW-HIGH, such as 0.6-1.25, got {text!r}") from None
    return low, high


def _prepare(args: argparse.Namespace) -> None:
    from train.prepare import CodecPlan, PrepareSettings, prepare

    plans = tuple(CodecPlan.parse(text) for text in args.codec)
    settings = PrepareSettings(plans, args.crop, args.crops, args.seed, args.grain, args.soft_chroma, args.scales)
    prepare(args.sources, args.output, settings, workers=args.workers)


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("pack", help="write a store as shards, to train on another machine")
    command.add_argument("store", type=Path)
    command.add_argument("-o", "--output", type=Path, required=True, help="folder for the shards")
    command.add_argument("--shard-mb", type=_above_0, default=60.0, help="size of a shard in megabytes (%(default)s)")
    command.add_argument(
        "--bitstreams", action="store_true", help="pack bitstreams, not decoded pictures: smaller, but needs decoders"
    )
    command.set_defaults(run=_pack)
    command = commands.add_parser("unpack", help="make a store from shards")
    command.add_argument("shards", type=Path, nargs="+")
    command.add_argument("-o", "--output", type=Path, required=True, help="store (a folder) to make or to add to")
    command.add_argument("--workers", type=at_least_1, default=os.cpu_count() or 1)
    command.set_defaults(run=_unpack)


def _pack(args: argparse.Namespace) -> None:
    from train.pack import pack

    for shard in pack(args.store, args.output, shard_megabytes=args.shard_mb, bitstreams=args.bitstreams):
        print(f"{shard}: {shard.stat().st_size / 1e6:.1f} MB")


def _unpack(args: argparse.Namespace) -> None:
    from train.pack import unpack

    unpack(args.shards, args.output, workers=args.workers)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("run", help="train a network, or go on with a run")
    names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
    command.add_argument("preset", help=f"a TOML file, or one of {names}")
    command.add_argument("-d", "--data", type=Path, required=True, help="pair store")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    command.add_argument("--set", action="append", metavar="KEY=VALUE", help="override, e.g. optimizer.lr=5e-4")
    command.add_argument("--steps", type=at_least_1, help="scale all phases so that they make this many steps together")
    command.add_argument("--fit", action="store_true", help="scale all phases so that they end with --minutes")
    command.add_argument("--eager", action="store_true", help="on a GPU: no compiled blocks, no CUDA graphs")
    command.add_argument("--compile", action="store_true", help="on a processor: compiled blocks, much faster steps")
    _add_run_options(command)
    command.set_defaults(run=_run)


def _add_run_options(command: argparse.ArgumentParser) -> None:
    """What all trainings that can be stopped and resumed have in common."""
    command.add_argument("--minutes", type=_above_0, help="stop cleanly after this time; run again to go on")
    command.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    command.add_argument("--threads", type=at_least_1, help="CPU threads")


def _check_run_options(args: argparse.Namespace) -> None:
    if args.fit and args.minutes is None:
        raise ValueError("--fit needs --minutes")
    _set_threads(args)


def _run_options(args: argparse.Namespace) -> dict[str, Any]:
    """How to train, of the command's options: what both loops take."""
    return {name: getattr(args, name) for name in ("device", "minutes", "fit", "eager")} | {"compiled": args.compile}


def _set_threads(args: argparse.Namespace) -> None:
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)


def _run(args: argparse.Namespace) -> None:
    from train.config import load_config, with_steps
    from train.loop import run

    _check_run_options(args)
    path = Path(args.preset)
    config = load_config(path if path.suffix == ".toml" else PRESETS / f"{args.preset}.toml", args.set)
    if args.steps:
        config = with_steps(config, args.steps)
    result = run(config, args.data, args.output, **_run_options(args))
    if result is not None:
        print(f"{args.output}: validation gain {result.gain:+.3f} dB over {result.pairs} pairs")


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("evaluate", help="gain of a checkpoint on the validation part of a store")
    command.add_argument("checkpoint", help="name or path")
    command.add_argument("-d", "--data", type=Path, required=True, help="pair store")
    told = ["known", "codec", "estimated", "none"]
    command.add_argument("--condition", choices=told, default="known", help="what the network is told (%(default)s)")
    command.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from train.evaluate import evaluate

    for line in evaluate(args.checkpoint, args.data, args.condition):
        print(line)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("export", help="write a run's weights as a checkpoint for users")
    command.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("-o", "--output", type=Path, required=True, help="checkpoint (.safetensors) to write")
    command.add_argument("--which", choices=["best", "last"], default="best")
    command.add_argument("--note", default="", help="data, machine and whatever else should be known")
    command.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    if (args.run_folder / "refine.json").is_file():
        from train.refine import export_refiners as export
    else:
        from train.export import export

    sha256 = export(args.run_folder, args.which, args.output, args.note)
    print(f'{args.output}: sha256 = "{sha256}"')


def _add_average(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "average", help="write the mean of the weights of checkpoints trained from one another"
    )
    command.add_argument("checkpoints", nargs="+", help="names or paths")
    command.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    command.set_defaults(run=_average)


def _average(args: argparse.Namespace) -> None:
    from train.average import average

    print(f'{args.output}: sha256 = "{average(args.checkpoints, args.output)}"')


def _add_quantize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("quantize", help="prepare a checkpoint for int8, and measure what that costs")
    command.add_argument("checkpoint", help="name or path")
    command.add_argument("-d", "--data", type=Path, required=True, help="pair store")
    command.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    command.add_argument(
        "--pairs", type=at_least_1, default=64, help="to calibrate with, and to measure with (%(default)s)"
    )
    command.set_defaults(run=_quantize)


def _add_shrink(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("shrink", help="scale a checkpoint's correction as the validation part wants it")
    command.add_argument("checkpoint", help="name or path")
    command.add_argument("-d", "--data", type=Path, help="pair store; without one, only the bound is set")
    command.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    command.add_argument("--mean-bound", type=float, metavar="B", help="first bound its local mean, of 255")
    command.set_defaults(run=_shrink)


def _shrink(args: argparse.Namespace) -> None:
    from train.shrink import shrink

    if args.data is None and args.mean_bound is None:
        raise ValueError("say --data, --mean-bound, or both")
    factors = shrink(args.checkpoint, args.data, args.output, mean_bound=args.mean_bound)
    told = ", ".join(f"{codec} {factor:.3f}" for codec, factor in sorted(factors.items()))
    print(f"{args.output}: {told or 'bounded'}")


def _quantize(args: argparse.Namespace) -> None:
    from train.quantize import quantize

    report = quantize(args.checkpoint, args.data, args.output, pairs=args.pairs)
    print(f'{args.output}: sha256 = "{report.sha256}"')
    loss = f"{report.mean_loss_db:.4f} dB on average, {report.worst_loss_db:.4f} dB at worst"
    print(f"int8 loses {loss}, over {report.pairs} validation pairs")


def _add_estimate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("estimate", help="train the estimate of codec and qp from the picture alone")
    command.add_argument("-d", "--data", type=Path, required=True, help="pair store")
    command.add_argument("-o", "--output", type=Path, required=True, help="weights (.safetensors) to write")
    command.add_argument("--cache", type=Path, required=True, help="folder for the statistics of the pictures")
    command.add_argument("--passes", type=at_least_1, default=5, help="random crops of each picture (%(default)s)")
    command.add_argument("--networks", type=at_least_1, default=3, help="networks to average (%(default)s)")
    command.set_defaults(run=_estimate)


def _estimate(args: argparse.Namespace) -> None:
    from train.estimate import EstimateSettings, train_estimate

    settings = EstimateSettings(passes=args.passes, networks=args.networks)
    for line in train_estimate(args.data, args.output, args.cache, settings):
        print(line)


def _add_learned(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("learned", help="train a learned codec, or go on with a run")
    command.add_argument("model", choices=["msh", "vrae", "msh-sf"])
    command.add_argument("-d", "--data", type=Path, required=True, help="pair store, or a folder of photographs")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    command.add_argument(
        "--lambda",
        dest="lambdas",
        metavar="L[,L…]",
        help="weight of the distortion: one for msh (0.013), lowest and highest for vrae (0.0018,0.0483), "
        "all gain vectors' for msh-sf (0.0018,0.0035,0.0067,0.013,0.025,0.0483; its base has the last)",
    )
    command.add_argument("--start", type=Path, help="weights file to start from; the base for msh-sf")
    command.add_argument("--n", type=int, default=48, help="channels of the transforms (%(default)s)")
    command.add_argument("--m", type=int, default=160, help="channels of the latents (%(default)s)")
    command.add_argument("--steps", type=int, default=10_000, help="all steps; the learning rate ends with them")
    command.add_argument("--crop", type=int, default=128, help="side of the crops, a multiple of 64 (%(default)s)")
    command.add_argument("--batch", type=int, default=8, help="crops a step (%(default)s)")
    command.add_argument("--lr", type=float, default=0.0, help="highest learning rate (0.0002; 0.005 for msh-sf)")
    command.add_argument("--hyper-lr", type=float, default=4e-4, help="of the hyperprior (%(default)s)")
    command.add_argument("--validate-every", type=int, default=1000, help="steps between validations (%(default)s)")
    command.add_argument(
        "--decoder", action="store_true", help="train the decoder alone, on rounded latents: a last round"
    )
    command.add_argument("--fit", action="store_true", help="make as many steps as --minutes allow, whatever --steps")
    command.add_argument("--eager", action="store_true", help="on a GPU: no CUDA graphs")
    command.add_argument("--compile", action="store_true", help="compile the loss: a minute at the start, faster steps")
    command.add_argument("--seed", type=int, default=0)
    _add_run_options(command)
    command.set_defaults(run=_learned)


def _learned(args: argparse.Namespace) -> None:
    from train.learned import LearnedConfig, default_lambdas, run

    _check_run_options(args)
    names = ("model", "n", "m", "steps", "crop", "batch", "lr", "hyper_lr", "seed", "decoder", "validate_every")
    lambdas = tuple(float(part) for part in args.lambdas.split(",")) if args.lambdas else default_lambdas(args.model)
    start = str(args.start) if args.start else ""
    config = LearnedConfig(**{name: getattr(args, name) for name in names}, lambdas=lambdas, start=start)
    print(run(config, args.data, args.output, **_run_options(args)))


def _add_refine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("refine", help="train refiners of a learned decoder, or their controls")
    command.add_argument("base", type=Path, help="weights file of the codec")
    command.add_argument("-d", "--data", type=Path, required=True, help="pair store; its originals are used")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    command.add_argument(
        "--cache", type=Path, required=True, help="folder for this codec's latents, shared by its runs"
    )
    command.add_argument("--refiners", default="fenm", help="e.g. qecm-learned,fenm,pixel (%(default)s)")
    command.add_argument("--mode", choices=["base", "encoder", "all"], default="base", help="what is frozen")
    command.add_argument("--control", choices=["none", "gs", "residual"], default="none", help="train this instead")
    command.add_argument("--steps", type=int, default=2000, help="all steps; the learning rate ends with them")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--set", action="append", metavar="KEY=VALUE", help="any other setting, e.g. lr=1e-3")
    command.add_argument("--architecture", default="", help="the base is this model of CompressAI's zoo")
    _add_run_options(command)
    command.set_defaults(run=_refine)


def _refine(args: argparse.Namespace) -> None:
    from train.refine import refine
    from train.refine_config import load_base, parse_settings

    _set_threads(args)
    chosen = {name: getattr(args, name) for name in ("mode", "control", "steps", "seed")}
    config = parse_settings({**chosen, "refiners": args.refiners.split(",")}, args.set or [])
    base = load_base(args.base, args.architecture)
    score = refine(config, base, args.data, args.output, cache=args.cache, device=args.device, minutes=args.minutes)
    print(f"{args.output}: {score.psnr:.3f} dB ({score.gain:+.3f}) at {score.bpp:.4f} bpp")


def main() -> int:
    """Runs the command line and returns the exit status."""
    args = parser().parse_args()
    return run_command(lambda: args.run(args), prog="train")


if __name__ == "__main__":
    sys.exit(main())
