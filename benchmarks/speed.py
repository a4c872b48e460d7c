"""Speed and memory of the networks on this machine.

    python -m benchmarks.speed                      # seconds per megapixel of every backend, and parity
    python -m benchmarks.speed --memory --startup --folder

Backends take turns, so that a load on the machine meets all of them, and the best of ``--repeats`` counts.
The peak is a float32 matrix product of torch, measured in the same turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import CHECKOUT, markdown_table
from codec_wrappers import Image
from enhancer.backends import Backend, BackendName, Precision, create_backend
from enhancer.checkpoint import Checkpoint, checkpoint_names, load_checkpoint
from enhancer.errors import EnhancerError
from enhancer.image_io import Picture, write_picture
from enhancer.inference import Enhancer
from enhancer.network import kmac_per_pixel

VARIANTS: tuple[tuple[BackendName, Precision], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
KODAK_SIZE = (512, 768)
BACKEND_HEAD = (
    *("network", "backend", "kMAC/px", "s/MP", "times torch"),
    *("of matrix peak", "largest difference", "samples that differ"),
)


def photograph(height: int, width: int) -> Image:
    """A photograph of scikit-image, repeated and cropped to the size."""
    from skimage import data

    tile: Image = data.astronaut()  # type: ignore[no-untyped-call]  # scikit-image is not annotated
    rows, columns = -(-height // tile.shape[0]), -(-width // tile.shape[1])
    return np.ascontiguousarray(np.tile(tile, (rows, columns, 1))[:height, :width])


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def matrix_gflops() -> float:
    """Billions of multiply-accumulates per second of a float32 matrix product."""
    size = 1536
    a, b = torch.rand(size, size), torch.rand(size, size)
    return size**3 / min(timed(lambda: a @ b) for _ in range(3)) / 1e9


def backends(checkpoint: Checkpoint, threads: int | None) -> dict[str, Backend]:
    """Every backend that works here."""
    found: dict[str, Backend] = {}
    for name, precision in VARIANTS:
        try:
            found[f"{name} {precision}"] = create_backend(
                name, checkpoint, device="cpu", threads=threads, precision=precision
            )
        except EnhancerError as error:
            print(f"left out: {error}", file=sys.stderr)
    if torch.cuda.is_available():
        found["cuda bfloat16"] = create_backend("torch", checkpoint, device="cuda")
    return found


def compare_backends(name: str, megapixels: float, repeats: int, threads: int | None) -> list[list[str]]:
    """One row per backend: seconds per megapixel, ratio to torch, share of the peak, difference in pixels."""
    checkpoint = load_checkpoint(name)
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    image = photograph(height, round(1.5 * height))
    share = 1e6 / (image.shape[0] * image.shape[1])
    enhancers = {label: Enhancer(checkpoint, backend) for label, backend in backends(checkpoint, threads).items()}
    seconds: dict[str, list[float]] = {label: [] for label in enhancers}
    results = {label: enhancer.enhance(image) for label, enhancer in enhancers.items()}  # warm
    peak = 0.0
    for _ in range(repeats):
        peak = max(peak, matrix_gflops())
        for label, enhancer in enhancers.items():
            seconds[label].append(timed(lambda enhancer=enhancer: enhancer.enhance(image)) * share)  # type: ignore[misc]  # mypy does not infer the default
    kmac = kmac_per_pixel(checkpoint.config)
    reference = results["torch float32"]
    rows = []
    for label, times in seconds.items():
        best = min(times)
        difference = np.abs(results[label].astype(int) - reference)
        rows.append(
            [name, label, f"{kmac:.0f}", f"{best:.3f}", f"{min(seconds['torch float32']) / best:.2f}",
             f"{100 * kmac / best / peak:.0f} %", f"{difference.max()}", f"{100 * np.mean(difference > 0):.2f} %"]
        )  # fmt: skip
    return rows


def tile_differences(name: str, threads: int | None) -> list[list[str]]:
    """Largest difference between the whole picture and tiles of several sizes."""
    checkpoint = load_checkpoint(name)
    image = photograph(256, 384)
    rows = []
    for label, backend in backends(checkpoint, threads).items():
        whole = Enhancer(checkpoint, backend, tile=4096).enhance(image).astype(int)
        differences = (
            np.abs(Enhancer(checkpoint, backend, tile=tile).enhance(image) - whole).max() for tile in (64, 200)
        )
        rows.append([name, label, *map(str, differences)])
    return rows


def child(program: str) -> str:
    """Standard output of a fresh Python process."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def peak_memory_mb(name: str, megapixels: float) -> float:
    """Largest resident memory of a process that enhances one picture of this size, file to file."""
    with tempfile.TemporaryDirectory() as folder:
        height = round((megapixels * 1e6 / 1.5) ** 0.5)
        write_picture(Path(folder, "a.png"), Picture(photograph(height, round(1.5 * height))))
        child(f"from enhancer.cli.enhance import main; main([{folder + '/a.png'!r}, '-m', {name!r}, '-q'])")
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest child so far


def startup_seconds(name: str) -> float:
    """From the start of the process to the written file, for a picture of Kodak's size; caches are warm."""
    with tempfile.TemporaryDirectory() as folder:
        write_picture(Path(folder, "a.png"), Picture(photograph(*KODAK_SIZE)))
        program = (
            f"from enhancer.cli.enhance import main; main([{folder + '/a.png'!r}, '-m', {name!r}, '-q', '--overwrite'])"
        )
        return min(timed(lambda: child(program)) for _ in range(4))


def folder_overhead(name: str, count: int) -> float:
    """Share of the time not spent in the network, for a folder of small pictures."""
    from enhancer.batch import BatchOptions, run_jobs
    from enhancer.jobs import plan_jobs

    enhancer = Enhancer.from_checkpoint(name)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in")
        source.mkdir()
        for index in range(count):
            write_picture(source / f"{index:03}.png", Picture(photograph(160, 240)))
        jobs = plan_jobs([str(source)], f"{folder}/out")
        start = time.perf_counter()
        outcomes = list(run_jobs(jobs, enhancer, BatchOptions()))
        total = time.perf_counter() - start
    return 1 - sum(outcome.elapsed_s or 0.0 for outcome in outcomes) / total


def machine() -> str:
    """What was measured on, and how busy it was."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} x {model}{gpu}; load average {os.getloadavg()[0]:.1f}; torch {torch.__version__}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(checkpoint_names()), metavar="NAME")
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", type=float, nargs="?", const=24.0, metavar="MP", help="peak memory, default 24 MP")
    parser.add_argument("--startup", action="store_true", help="seconds from process start to file")
    parser.add_argument("--folder", type=int, nargs="?", const=500, metavar="N", help="overhead for N small pictures")
    args = parser.parse_args(argv)
    print(f"{machine()}\n`python -m benchmarks.speed {' '.join(argv if argv is not None else sys.argv[1:])}`\n")
    rows = [row for name in args.models for row in compare_backends(name, args.megapixels, args.repeats, args.threads)]
    print(markdown_table(BACKEND_HEAD, rows))
    rows = [row for name in args.models for row in tile_differences(name, args.threads)]
    print("\n" + markdown_table(["network", "backend", "tile 64 against whole", "tile 200 against whole"], rows))
    for name in args.models:
        if args.startup:
            print(f"\n{name}: {startup_seconds(name):.2f} s from process start to file, 768 x 512")
        if args.folder:
            overhead = folder_overhead(name, args.folder)
            print(f"\n{name}: {100 * overhead:.0f} % of the time outside of the network, {args.folder} files")
        if args.memory:
            print(f"\n{name}: peak memory {peak_memory_mb(name, args.memory):.0f} MB at {args.memory:g} MP")
    return 0


if __name__ == "__main__":
    sys.exit(main())
