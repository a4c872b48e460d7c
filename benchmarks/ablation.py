"""What each part of the network's design is worth: rows of equal cost, trained alike.

    python -m benchmarks.ablation STORE --steps 600 --batch 8

Every row costs 57 to 63 kMAC per pixel and sees the same crops for the same number of steps, so all have about the
same training compute. The gain is measured on the validation part of STORE (``python -m train prepare``); rows that are
there already (``--work``) are not trained again, only timed. One seed a row: differences of less than about 0.01 dB
say nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.common import markdown_table
from benchmarks.speed_measures import machine
from enhancer.files import write_atomically
from enhancer.network import AttentionBlock, NetworkConfig, RestorationNetwork, kmac_per_pixel
from train.__main__ import PRESETS
from train.config import Phase, TrainConfig, load_config
from train.loop import Processes, Trainer
from train.store import PairStore
from train.validation import Validation, validate

FAST = NetworkConfig(channels=48, blocks=5, unshuffle=2, attention="channel", reduction=4, cell=4)
U_BLOCKS = (2, 2, 3, 2, 2)
U_CHANNELS = (32, 64, 128, 64, 32)


class UNetwork(RestorationNetwork):
    """The same blocks in the shape of a U: one half, a quarter, an eighth of the resolution, and back.

    Levels are joined by convolutions of stride 2 and by 1x1 convolutions before a pixel-shuffle, with additions
    across, as in NAFNet (Chen et al., ECCV 2022, arXiv:2204.04676).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(replace(config, channels=U_CHANNELS[0], blocks=sum(U_BLOCKS)))
        self.multiple *= 4
        widths = [width for width, count in zip(U_CHANNELS, U_BLOCKS, strict=True) for _ in range(count)]
        self.blocks = nn.ModuleList(AttentionBlock(replace(config, channels=width)) for width in widths)
        self.down = nn.ModuleList(nn.Conv2d(w, 2 * w, kernel_size=2, stride=2) for w in U_CHANNELS[:2])
        self.up = nn.ModuleList(nn.Conv2d(w, 2 * w, kernel_size=1) for w in U_CHANNELS[2:4])
        outputs = self.modulation[2]
        assert isinstance(outputs, nn.Linear)
        self.modulation[2] = nn.Linear(outputs.in_features, sum(widths))
        for parameter in self.modulation[2].parameters():
            nn.init.zeros_(parameter)
        self._widths = widths

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scales = torch.split(torch.exp(self.modulation(condition))[..., None, None], self._widths, dim=1)
        shallow = self.head(F.pixel_unshuffle(x, self.config.unshuffle))
        y, block = shallow, 0
        skips: list[Tensor] = []
        for level, count in enumerate(U_BLOCKS):
            if level > 2:
                y = F.pixel_shuffle(self.up[level - 3](y), 2) + skips.pop()
            for _ in range(count):
                y = self.blocks[block](y, scales[block])
                block += 1
            if level < 2:
                skips.append(y)
                y = self.down[level](y)
        residual = self.tail(shallow + self.fuse(y)) * torch.exp(self.gain(condition)).view(-1, 1, 1, 1)
        return x + F.pixel_shuffle(residual, self.config.unshuffle)


def kmac_of(network: RestorationNetwork) -> float:
    """Multiply-accumulates per pixel, in thousands, counted by running the convolutions on one picture."""
    if not isinstance(network, UNetwork):
        return kmac_per_pixel(network.config)
    total, side = 0.0, 64

    def count(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        nonlocal total
        total += layer.weight.numel() * output.shape[2] * output.shape[3]

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side), torch.zeros(1, network.config.condition))
    for hook in hooks:
        hook.remove()
    return total / side**2 / 1000


@dataclass(frozen=True)
class Row:
    """One design."""

    label: str
    config: NetworkConfig
    build: Callable[[NetworkConfig], RestorationNetwork] = RestorationNetwork


ROWS = (
    Row("half resolution, 48 channels × 5 blocks, channel attention (`fast`)", FAST),
    Row("… no attention", replace(FAST, attention="none")),
    Row("… spatial attention", replace(FAST, attention="spatial")),
    Row("… channel and spatial attention", replace(FAST, attention="both")),
    Row("… channel attention over cells of 16 × 16 pixels", replace(FAST, cell=8)),
    Row("half resolution, 32 channels × 12 blocks", replace(FAST, channels=32, blocks=12)),
    Row("half resolution, 60 channels × 3 blocks", replace(FAST, channels=60, blocks=3)),
    Row("full resolution, 16 channels × 12 blocks", replace(FAST, channels=16, blocks=12, unshuffle=1, cell=8)),
    Row("quarter resolution, 96 channels × 5 blocks", replace(FAST, channels=96, blocks=5, unshuffle=4, cell=2)),
    Row("U: 32, 64, 128 channels from half resolution, 2-2-3-2-2 blocks", FAST, UNetwork),
)


def train_row(row: Row, config: TrainConfig, store: PairStore, device: torch.device) -> dict[str, object]:
    """Trains one design and measures it."""
    trainer = Trainer(config, store, Processes(0, 1, device), build=row.build)
    start = time.monotonic()
    while trainer.step < config.steps:
        trainer.advance()
    minutes = (time.monotonic() - start) / 60
    result: Validation = validate(trainer.average, store, config, device)
    network = trainer.average.to("cpu")
    return {
        "kmac": kmac_of(network),
        "gain": result.gain,
        "by_codec": result.by_codec,
        "pairs": result.pairs,
        "minutes": minutes,
    }


@torch.inference_mode()
def seconds_per_megapixel(row: Row) -> float:
    """Of plain torch in float32 on the CPU, the best of five turns."""
    network = row.build(row.config)
    x = torch.rand(1, 3, 512, 768).contiguous(memory_format=torch.channels_last)
    condition = torch.zeros(1, network.config.condition)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        network.eval()(x, condition)
        times.append(time.perf_counter() - start)
    return min(times) / 0.393216


def settings(row: Row, args: argparse.Namespace) -> TrainConfig:
    """Those of ``fast``, with this row's network."""
    config = load_config(PRESETS / "fast.toml")
    phases = (Phase(args.steps, args.batch, 96, "relative_mae"),)
    data = replace(config.data, validation_pairs=args.validation_pairs)
    return replace(config, network=row.config, phases=phases, data=data, start="")


def page(results: Sequence[tuple[Row, dict[str, object]]], args: argparse.Namespace) -> str:
    """The table in Markdown."""
    codecs = sorted({codec for _, result in results for codec in result["by_codec"]})  # type: ignore[attr-defined]
    rows = []
    for row, result in results:
        gains = [f"{result['by_codec'].get(codec, float('nan')):+.3f}" for codec in codecs]  # type: ignore[attr-defined]
        speed = f"{seconds_per_megapixel(row):.2f}"
        rows.append([row.label, f"{result['kmac']:.1f}", f"**{result['gain']:+.3f}**", *gains, speed])
    titles = ("network", "kMAC/px", "gain, dB", *codecs, "s/MP, torch float32")
    pairs = results[0][1]["pairs"]
    head = f"{args.steps} steps of {args.batch} crops of 96 × 96 pixels; {pairs} validation pairs; {machine()}"
    return f"{head}\n\n{markdown_table(titles, rows)}\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="page to write (default: print it)")
    parser.add_argument("--work", type=Path, default=Path("build/ablation"), help="results so far (%(default)s)")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--validation-pairs", type=int, default=96)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    store, results = PairStore(args.store), []
    args.work.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(ROWS):
        file = args.work / f"{number}-{args.steps}-{args.batch}.json"
        if not file.is_file():
            result = train_row(row, settings(row, args), store, torch.device(args.device))
            write_atomically(file, json.dumps(result).encode(), overwrite=False)
        results.append((row, json.loads(file.read_text())))
        print(row.label, results[-1][1], file=sys.stderr)
    text = page(results, args)
    if args.output:
        write_atomically(args.output, text.encode(), overwrite=True)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
