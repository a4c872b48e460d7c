"""Decodes mutated bitstreams of every format: counts crashes, hangs, memory and exceptions.

    python -m benchmarks.mutate --count 2000

Each decode runs in a worker process with a limit on memory, and is killed after ten seconds. Anything
but a decoded picture or a ``CodecError`` is a fault; the offending streams are kept. A second run
with the same output folder goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import queue
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import CHECKOUT, default_pictures, markdown_table
from codec_wrappers import Codec, codec_names, get_codec, identify
from codec_wrappers.errors import CodecError

WATCHDOG_S = 10.0
MEMORY_LIMIT = 2 << 30
ADDRESS_SPACE = 6 << 30
"""Only a guard for the machine: libraries map far more than they use, so residence is measured."""

CROPS = ((96, 128), (61, 35), (8, 8))
SPECIAL_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
HEADER_BYTES = 96


@dataclass(frozen=True)
class Trial:
    """One mutated stream and what its decoder did.

    Attributes:
        codec: Format.
        index: Number of the mutant; with the seed it determines the bytes.
        mutation: Kind of change.
        outcome: ``decoded``, ``hang``, ``crash``, or the name of the exception.
        expected: Whether a caller can live with that outcome.
        seconds: Time the decoder took.
        peak_bytes: Largest resident set of the worker during the decode; 0 if it did not survive.
        message: The exception's message or the way the worker ended.
    """

    codec: str
    index: int
    mutation: str
    outcome: str
    expected: bool
    seconds: float
    peak_bytes: int
    message: str = ""


def mutate(streams: list[bytes], rng: np.random.Generator) -> tuple[str, bytes]:
    """A random change of a random one of ``streams``: its name and the changed bytes."""
    data = bytearray(streams[rng.integers(len(streams))])
    kind = str(rng.choice(["bits", "truncate", "splice", "header", "chunk", "noise"]))
    start, end = sorted(int(x) for x in rng.integers(0, len(data) + 1, 2))
    if kind == "bits":
        for _ in range(int(rng.choice([1, 1, 2, 4, 16, 64]))):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind == "truncate":
        del data[start:]
    elif kind == "splice":
        other = streams[rng.integers(len(streams))]
        data = data[:start] + bytearray(other[int(rng.integers(len(other) + 1)) :])
    elif kind == "header":
        for _ in range(int(rng.integers(1, 5))):
            value = rng.choice(SPECIAL_BYTES) if rng.random() < 0.6 else rng.integers(256)
            data[rng.integers(min(HEADER_BYTES, len(data)))] = int(value)
    elif kind == "chunk":
        chunk = bytes(data[start:end])
        data[start:end] = chunk * 2 if rng.random() < 0.5 else b""
    else:
        data[start : start + 32] = rng.integers(0, 256, int(rng.integers(1, 33)), dtype=np.uint8).tobytes()
    return kind, bytes(data)


def seed_streams(codec: str, pictures: Path) -> list[bytes]:
    """Small valid streams of a format: encoded crops, and files of the test data in this format."""
    from enhancer.image_io import read_picture

    paths = sorted(p for p in pictures.iterdir() if p.suffix.lower() in {".png", ".webp", ".ppm"})[:2]
    if not paths:
        raise SystemExit(f"no pictures in {pictures}")
    streams = []
    for path in paths:
        image = read_picture(path).image
        for height, width in CROPS:
            crop = np.ascontiguousarray(image[64 : 64 + height, 64 : 64 + width])
            for options, qp in _settings(codec):
                try:
                    streams.append(_variant(codec, options).encode(crop, qp))
                except CodecError as error:
                    print(f"no seed of {width} x {height}: {error}", file=sys.stderr)
    for path in sorted((CHECKOUT / "tests" / "data").rglob("*")):
        if path.is_file() and 0 < path.stat().st_size < 1 << 16:
            data = path.read_bytes()
            try:
                if identify(data) == codec:
                    streams.append(data)
            except CodecError:
                continue
    return streams


def _settings(codec: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Options and qp of the seeds: two qualities, and 4:4:4 where the codec has the choice."""
    limits = get_codec(codec).qp_range
    low, high = (limits.low + share * (limits.high - limits.low) // 10 for share in (4, 7))
    yield from (({}, low), ({}, high))
    if any(f.name == "chroma" for f in dataclasses.fields(get_codec(codec))):  # type: ignore[arg-type]  # codecs are dataclasses
        yield {"chroma": "444"}, high


def _variant(codec: str, options: dict[str, Any]) -> Codec:
    try:
        return get_codec(codec, **options)
    except ValueError:
        return get_codec(codec)  # The codec has no 4:4:4.


def _worker(codec: str, warm_up: bytes, channel: Connection) -> None:
    """Decodes what comes in, says what happened, until the other side hangs up."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    decoder = get_codec(codec)
    with suppress(CodecError):
        decoder.decode(warm_up)
    channel.send(None)
    while True:
        try:
            data = channel.recv_bytes()
        except EOFError:
            return
        _reset_peak()
        outcome, expected, message = "decoded", True, ""
        try:
            decoder.decode(data)
        except Exception as error:
            outcome, expected = type(error).__name__, isinstance(error, CodecError)
            message = str(error)[:300]
            if "\n" in message:
                outcome, expected = f"{outcome} of several lines", False
        channel.send((outcome, expected, message, _peak()))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


class Decoder:
    """A worker process that is started anew whenever it died or had to be killed."""

    def __init__(self, codec: str, warm_up: bytes) -> None:
        self._codec, self._warm_up = codec, warm_up
        self._worker: tuple[BaseProcess, Connection] | None = None

    def close(self) -> None:
        if self._worker is not None:
            process, channel = self._worker
            process.kill()
            process.join()
            channel.close()
            self._worker = None

    def decode(self, data: bytes) -> tuple[str, bool, str, int, float]:
        """Outcome, whether it is expected, message, peak memory, seconds."""
        if self._worker is None:
            self._worker = self._start()
        started = time.perf_counter()
        answer = self._ask(*self._worker, data)
        return *answer, time.perf_counter() - started

    def _start(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        outer, inner = context.Pipe()
        process = context.Process(target=_worker, args=(self._codec, self._warm_up, inner), daemon=True)
        process.start()
        inner.close()
        outer.recv()  # It has loaded its libraries: their time is not the first stream's.
        return process, outer

    def _ask(self, process: BaseProcess, channel: Connection, data: bytes) -> tuple[str, bool, str, int]:
        try:
            channel.send_bytes(data)
            if channel.poll(WATCHDOG_S):
                answer: tuple[str, bool, str, int] = channel.recv()
                return answer
            self.close()
            return "hang", False, f"killed after {WATCHDOG_S:g} s", 0
        except (EOFError, BrokenPipeError, ConnectionResetError):
            process.join()
            ending = f"exit status {process.exitcode}"
            self.close()
            return "crash", False, ending, 0


def run_format(codec: str, streams: list[bytes], todo: Iterable[int], seed: int, jobs: int, output: Path) -> None:
    """Runs the mutants ``todo`` of one format and appends a line for each to the log."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in todo:
        waiting.put(index)
    lock = threading.Lock()
    log = (output / "trials.jsonl").open("a")
    number = int.from_bytes(hashlib.sha256(codec.encode()).digest()[:4], "big")

    def work() -> None:
        decoder = Decoder(codec, streams[0])
        try:
            while True:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                kind, data = mutate(streams, np.random.default_rng([seed, number, index]))
                outcome, expected, message, peak, seconds = decoder.decode(data)
                expected = expected and peak <= MEMORY_LIMIT
                trial = Trial(codec, index, kind, outcome, expected, round(seconds, 4), peak, message)
                with lock:
                    if not expected:
                        (output / f"{codec}-{index}.bin").write_bytes(data)
                        print(f"{codec} {index} ({kind}): {outcome}, {peak >> 20} MiB, {message}", file=sys.stderr)
                    log.write(json.dumps(dataclasses.asdict(trial)) + "\n")
                    log.flush()
        finally:
            decoder.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()


def summary(trials: list[Trial]) -> str:
    """One row a format."""
    rows = []
    for codec in dict.fromkeys(t.codec for t in trials):
        mine = [t for t in trials if t.codec == codec]
        kinds = Counter(t.outcome for t in mine)
        errors = ", ".join(f"{name} {n}" for name, n in kinds.most_common() if name not in {"decoded", "crash", "hang"})
        rows.append(
            [
                codec,
                str(len(mine)),
                str(kinds["decoded"]),
                str(kinds["crash"]),
                str(kinds["hang"]),
                str(sum(not t.expected for t in mine)),
                f"{max(t.seconds for t in mine):.2f}",
                str(max(t.peak_bytes for t in mine) >> 20),
                errors,
            ]
        )
    head = ["format", "mutants", "decoded", "crashes", "hangs", "faults", "slowest (s)", "peak (MiB)", "exceptions"]
    return markdown_table(head, rows)


def read_log(path: Path) -> list[Trial]:
    """All complete lines of the log; a run that was killed may have left half a line."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    if lines[-1]:
        path.write_text("".join(f"{line}\n" for line in lines[:-1]))
    return [Trial(**json.loads(line)) for line in lines[:-1]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2000, help="mutants a format (default: 2000)")
    parser.add_argument("--formats", nargs="+", choices=codec_names(), default=codec_names(), metavar="NAME")
    parser.add_argument("--pictures", type=Path, default=default_pictures(), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("-o", "--output", type=Path, default=CHECKOUT / "build" / "mutate", metavar="DIR")
    args = parser.parse_args(argv)
    output = args.output / f"seed-{args.seed}"
    output.mkdir(parents=True, exist_ok=True)
    for codec in args.formats:
        done = {t.index for t in read_log(output / "trials.jsonl") if t.codec == codec}
        todo = [i for i in range(args.count) if i not in done]
        if todo:
            run_format(codec, _kept_streams(codec, args.pictures, output), todo, args.seed, args.jobs, output)
    chosen = [t for t in read_log(output / "trials.jsonl") if t.codec in args.formats and t.index < args.count]
    trials = sorted(chosen, key=lambda t: (args.formats.index(t.codec), t.index))
    print(summary(trials))
    return int(any(not t.expected for t in trials))


def _kept_streams(codec: str, pictures: Path, output: Path) -> list[bytes]:
    """The seeds of a format, from the folder of an earlier run if there are any, so that mutants repeat."""
    folder = output / f"seeds-{codec}"
    if not (folder / "complete").exists():
        streams = seed_streams(codec, pictures)
        folder.mkdir(exist_ok=True)
        for i, stream in enumerate(streams):
            (folder / f"{i:03}.bin").write_bytes(stream)
        (folder / "complete").touch()
    return [path.read_bytes() for path in sorted(folder.glob("*.bin"))]


if __name__ == "__main__":
    sys.exit(main())
