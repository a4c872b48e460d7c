"""Enhances many files: while one is computed, the next is read and the one before is written."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Literal, ParamSpec, TypeVar

from enhancer.errors import EXPECTED_ERRORS, EnhancerError, one_line
from enhancer.files import write_atomically
from enhancer.image_io import Picture, encode_picture, picture_format, read_picture, stripped, upright
from enhancer.inference import Enhancer, Progress
from enhancer.jobs import LOSSLESS_SUFFIXES, Job

P = ParamSpec("P")
T = TypeVar("T")

_WITHOUT_EXIF = ("ppm", "pgm", "pnm", "pam", "bmp")


@dataclass(frozen=True)
class BatchOptions:
    """How files are read and written.

    Attributes:
        codec: Codec of the inputs; None means what the file itself says, else unknown.
        qp: Its quality index; None likewise.
        format: Picture format for standard output; None is the input's if that is lossless, else PNG.
        existing: What is done about outputs that exist already.
        keep_metadata: Whether EXIF, XMP and resolution go along; the colour profile always does.
    """

    codec: str | None = None
    qp: float | None = None
    format: str | None = None
    existing: Literal["refuse", "overwrite", "skip"] = "refuse"
    keep_metadata: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of one job; ``error`` is one line if ``status`` is ``failed``.

    ``elapsed_s`` is the time in the network; codec and qp are what it was conditioned on.
    """

    input: str
    output: str
    status: Literal["enhanced", "skipped", "failed"]
    error: str | None = None
    codec: str | None = None
    qp: float | None = None
    height: int | None = None
    width: int | None = None
    elapsed_s: float | None = None

    def as_dict(self) -> dict[str, str | float | None]:
        """The fields that are known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class _Enhanced:
    """A picture before and after, on its way to the writer."""

    before: Picture
    after: Picture
    outcome: Outcome


def run_jobs(
    jobs: Iterable[Job], enhancer: Enhancer, options: BatchOptions, progress: Progress | None = None
) -> Iterator[Outcome]:
    """Runs all jobs and yields their outcomes in order; a failure of one does not stop the others.

    At most three pictures are in memory: one being read, one computed, one written.

    Args:
        jobs: What to do.
        enhancer: The network.
        options: See there.
        progress: Called with the finished share of the current picture.

    Raises:
        BrokenPipeError: If an output is a pipe that nobody reads any more.
    """
    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    todo = iter(jobs)
    ahead: deque[tuple[Job, Future[Picture | Outcome]]] = deque()
    behind: deque[Future[Outcome]] = deque()

    def fetch() -> None:
        if (job := next(todo, None)) is not None:
            ahead.append((job, reader.submit(_guarded, job, _read, job, options)))

    try:
        fetch()
        while ahead:
            job, future = ahead.popleft()
            picture = future.result()
            fetch()
            enhanced = _guarded(job, _compute, job, picture, enhancer, options, progress)
            behind.append(writer.submit(_guarded, job, _write, job, enhanced, options))
            if len(behind) > 1:
                yield behind.popleft().result()
        yield from (future.result() for future in behind)
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown(cancel_futures=True)


def _guarded(job: Job, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Outcome:
    """What ``stage`` returns, or the outcome ``failed`` if it raises one of the expected errors."""
    try:
        return stage(*args, **kwargs)
    except BrokenPipeError:
        raise
    except EXPECTED_ERRORS as error:
        return Outcome(job.input, job.output, "failed", one_line(error))


def _read(job: Job, options: BatchOptions) -> Picture | Outcome:
    """The input, or the outcome if nothing is to be done."""
    existing = next((target for target in job.targets if target.is_file()), None)
    if existing and options.existing == "skip":
        return Outcome(job.input, job.output, "skipped")
    if existing and options.existing == "refuse":
        raise EnhancerError(f"{existing} exists already; choose --overwrite or --skip-existing")
    if job.target:
        picture_format(job.target)  # an unknown suffix is better refused now than after the work
    return read_picture(sys.stdin.buffer.read() if job.source is None else job.source)


def _compute(
    job: Job, picture: Picture | Outcome, enhancer: Enhancer, options: BatchOptions, progress: Progress | None
) -> _Enhanced | Outcome:
    if isinstance(picture, Outcome):
        return picture
    info = picture.info
    codec = options.codec or (info.codec if info else None)
    qp = options.qp if options.qp is not None else info.qp if info and info.codec == codec else None
    start = time.perf_counter()
    image = enhancer.enhance(picture.image, codec=codec, qp=qp, progress=progress)
    elapsed_s = round(time.perf_counter() - start, 3)
    height, width = picture.size
    outcome = Outcome(job.input, job.output, "enhanced", None, codec, qp, height, width, elapsed_s)
    return _Enhanced(picture, replace(picture, image=image), outcome)


def _write(job: Job, enhanced: _Enhanced | Outcome, options: BatchOptions) -> Outcome:
    if isinstance(enhanced, Outcome):
        return enhanced
    overwrite = options.existing == "overwrite"
    picture = enhanced.after if options.keep_metadata else stripped(enhanced.after)
    name = picture_format(job.target) if job.target else options.format or _stdout_format(picture)
    data = encode_picture(upright(picture) if name in _WITHOUT_EXIF else picture, name)
    if job.target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(job.target, data, overwrite=overwrite)
    return enhanced.outcome


def _stdout_format(picture: Picture) -> str:
    """The format that a picture came in if it is lossless, otherwise PNG."""
    name = picture.source_format or "png"
    return name if f".{name}" in LOSSLESS_SUFFIXES else "png"
