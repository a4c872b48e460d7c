"""What :mod:`benchmarks.speed` measures: time, memory and loss, each as a plain number."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import CHECKOUT
from codec_wrappers import Image, get_codec
from enhancer.backends import Backend, BackendName, Precision, create_backend
from enhancer.checkpoint import Checkpoint
from enhancer.errors import EnhancerError
from enhancer.image_io import Picture, read_picture, write_picture
from enhancer.inference import Enhancer
from enhancer.metrics import psnr

VARIANTS: tuple[tuple[BackendName, Precision], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnx", "float32"),
    ("onnx", "int8"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)
REFERENCE = "torch float32"
KODAK_SIZE = (512, 768)

_PEAK_MEMORY = """
import pathlib, resource
status = pathlib.Path('/proc/self/status')
lines = status.read_text().splitlines() if status.exists() else []
found = [int(line.split()[1]) for line in lines if line.startswith('VmHWM')]
print((found or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])[0] / 1024)
"""
# Not the parent's view of its children: a child counts there with the memory of the process it was forked from.


@dataclass(frozen=True)
class Timing:
    """One backend against the others, measured in turns.

    Attributes:
        seconds: For one picture, the best of all turns.
        of_peak: Share of what a matrix product reaches in the same precision.
    """

    seconds: float
    of_peak: float


def photograph(height: int, width: int) -> Image:
    """A photograph of scikit-image, repeated and cropped to the size."""
    from skimage import data

    tile: Image = data.astronaut()  # type: ignore[no-untyped-call]  # scikit-image is not annotated
    rows, columns = -(-height // tile.shape[0]), -(-width // tile.shape[1])
    return np.ascontiguousarray(np.tile(tile, (rows, columns, 1))[:height, :width])


def timed(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def backends(checkpoint: Checkpoint, threads: int | None) -> dict[str, Backend]:
    """Every backend that works here."""
    found: dict[str, Backend] = {}
    for name, precision in VARIANTS:
        try:
            found[f"{name} {precision}"] = create_backend(
                name, checkpoint, device="cpu", threads=threads, precision=precision
            )
        except EnhancerError as error:  # not calibrated, or not installed
            print(f"left out: {name} {precision}: {error}", file=sys.stderr)
    if torch.cuda.is_available():
        found["cuda bfloat16"] = create_backend("torch", checkpoint, device="cuda")
    return found


def matrix_peak(precision: str, device: str = "cpu") -> float:
    """Billions of multiply-accumulates per second of torch's matrix product."""
    size = 1536 if device == "cpu" else 8192
    a, b = (torch.rand(size, size, device=device) for _ in range(2))
    if precision == "int8":
        left, right = ((each * 127).to(torch.int8) for each in (a, b))
        return size**3 / min(timed(lambda: torch._int_mm(left, right)) for _ in range(3)) / 1e9
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    left, right = a.to(dtype), b.to(dtype)

    def product() -> None:
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()

    return size**3 / min(timed(product) for _ in range(3)) / 1e9


def compare(
    runners: dict[str, Backend], checkpoint: Checkpoint, image: Image, kmac: float, repeats: int
) -> dict[str, Timing]:
    """Times all backends on one picture.

    They take turns, so that a load on the machine meets all of them; the matrix products take theirs, too.
    """
    enhancers = {label: Enhancer(checkpoint, runner) for label, runner in runners.items()}
    kinds = {label: (label.split()[1], "cuda" if label.startswith("cuda") else "cpu") for label in runners}
    for enhancer in enhancers.values():
        enhancer.enhance(image, codec="bpg", qp=37)  # compiles
    seconds: dict[str, list[float]] = {label: [] for label in enhancers}
    peaks = dict.fromkeys(kinds.values(), 0.0)
    for _ in range(repeats):
        for label, enhancer in enhancers.items():
            seconds[label].append(timed(lambda enhancer=enhancer: enhancer.enhance(image, codec="bpg", qp=37)))  # type: ignore[misc]  # mypy does not infer the default
        peaks = {kind: max(peak, matrix_peak(*kind)) for kind, peak in peaks.items()}
    gmacs = kmac * image.shape[0] * image.shape[1] / 1e6
    return {label: Timing(min(times), gmacs / min(times) / peaks[kinds[label]]) for label, times in seconds.items()}


def largest_differences(runners: dict[str, Backend], checkpoint: Checkpoint) -> dict[str, list[int]]:
    """Per backend, the largest difference of 255 to torch's whole picture: whole, tiles of 64, tiles of 200."""
    image = photograph(256, 384)

    def enhanced(label: str, tile: int) -> Image:
        result: Image = Enhancer(checkpoint, runners[label], tile=tile).enhance(image, codec="bpg", qp=37)
        return result.astype(np.int16)

    reference = enhanced(REFERENCE, 4096)
    return {
        label: [int(np.abs(enhanced(label, tile) - reference).max()) for tile in (4096, 64, 200)] for label in runners
    }


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
        arguments = [f"{folder}/a.png", "-m", name, "--codec", "bpg", "--qp", "37", "-q"]
        return float(child(f"from enhancer.cli.enhance import main; main({arguments!r})\n{_PEAK_MEMORY}"))


def startup_seconds(name: str) -> float:
    """From the start of the process to the written file, for a picture of Kodak's size; caches are warm."""
    with tempfile.TemporaryDirectory() as folder:
        write_picture(Path(folder, "a.png"), Picture(photograph(*KODAK_SIZE)))
        arguments = [f"{folder}/a.png", "-m", name, "--codec", "bpg", "--qp", "37", "-q", "--overwrite"]
        program = f"from enhancer.cli.enhance import main; main({arguments!r})"
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
        outcomes = list(run_jobs(jobs, enhancer, BatchOptions(codec="bpg", qp=37)))
        total = time.perf_counter() - start
    return 1 - sum(outcome.elapsed_s or 0.0 for outcome in outcomes) / total


def int8_losses(checkpoint: Checkpoint, int8: Backend, pictures: Iterable[Path], qps: Iterable[int]) -> list[float]:
    """RGB-PSNR in float32 minus that in int8, dB, for each picture (mean over the qps), coded as BPG."""
    exact = Enhancer(checkpoint, create_backend("auto", checkpoint, device="cpu", precision="float32"))
    rounded, codec = Enhancer(checkpoint, int8), get_codec("bpg")
    losses = []
    for path in pictures:
        original = read_picture(path).image
        of_picture = []
        for qp in qps:
            decoded = codec.decode(codec.encode(original, qp))
            full, less = (
                psnr(enhancer.enhance_decoded(decoded), original, data_range=255) for enhancer in (exact, rounded)
            )
            of_picture.append(full - less)
        losses.append(float(np.mean(of_picture)))
    return losses


def machine() -> str:
    """What is measured on, and how busy it is."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} x {model}{gpu}; load average {os.getloadavg()[0]:.1f}; torch {torch.__version__}"
