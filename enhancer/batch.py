"""Enhances many files: while one is computed, the next is read and the one before is written."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import BinaryIO, Literal, ParamSpec, TypeVar

from codec_wrappers import CodingInfo, Image, Metadata
from codec_wrappers.base import nothing_finer
from enhancer.checkpoint import Checkpoint
from enhancer.compare import comparison_sheet
from enhancer.errors import EXPECTED_ERRORS, EnhancerError, one_line
from enhancer.estimate import Estimate, estimate_condition
from enhancer.files import open_atomically
from enhancer.image_io import (
    Picture,
    encode_picture,
    picture_format,
    picture_suffixes,
    read_picture,
    stripped,
    upright,
    write_picture,
)
from enhancer.inference import Enhancer, Progress
from enhancer.jobs import LOSSLESS_SUFFIXES, Job
from enhancer.streams import Y4M_MAGIC, Matrix, StreamFormat, TruncatedStreamError, enhance_raw, enhance_y4m

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class BatchOptions:
    """How files are read and written.

    Attributes:
        codec: Codec of the inputs; None means what the file itself says, else unknown.
        qp: Its quality index; None likewise.
        estimate: Whether codec, qp and chroma format are estimated from the picture where nothing says them.
        format: Picture format; None is what the suffix of the output says, on standard output the input's
            if that is lossless, else PNG.
        existing: What is done about outputs that exist already.
        keep_metadata: Whether EXIF, XMP and resolution go along; the colour profile always does.
        raw: Layout of the inputs if they are raw planes; None if they say by themselves what they are.
        matrix: RGB matrix of YUV4MPEG2 streams.
    """

    codec: str | None = None
    qp: float | None = None
    estimate: bool = False
    format: str | None = None
    existing: Literal["refuse", "overwrite", "skip"] = "refuse"
    keep_metadata: bool = True
    raw: StreamFormat | None = None
    matrix: Matrix | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one job; ``error`` is one line if ``status`` is ``failed``.

    ``elapsed_s`` is the time that restoring took, without reading and writing, for a stream of ``frames``
    all of the time; codec and qp are what the picture has been through (for a codec that the network has
    not seen, another may stand in), chroma its format as far as known. ``estimated`` says whether codec and
    qp come from the picture alone, with ``confidence``; the chroma format does wherever nothing else says it;
    ``pristine``: that it may never have been coded and was left as it is; ``untouched``: that it was
    for its high quality.
    """

    input: str
    output: str
    status: Literal["enhanced", "skipped", "failed"]
    error: str | None = None
    codec: str | None = None
    qp: float | None = None
    chroma: str | None = None
    height: int | None = None
    width: int | None = None
    elapsed_s: float | None = None
    frames: int | None = None
    estimated: Literal["codec and qp", "qp"] | None = None
    confidence: float | None = None
    pristine: bool | None = None
    untouched: bool | None = None

    def as_dict(self) -> dict[str, str | float | None]:
        """The fields that are known."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def after(self, origin: _Origin) -> Outcome:
        """The outcome for a picture of this origin."""
        found = origin.estimate
        return replace(
            self,
            codec=found.codec,
            qp=found.qp,
            chroma=origin.chroma,
            estimated=origin.estimated,
            confidence=found.confidence if origin.estimated == "codec and qp" else None,
            pristine=found.pristine or None,
            untouched=origin.untouched or None,
        )


@dataclass(frozen=True)
class _Origin:
    """What a picture has been through, and what of that is only estimated."""

    estimate: Estimate
    estimated: Literal["codec and qp", "qp"] | None = None
    chroma: str | None = None
    untouched: bool = False

    @classmethod
    def of(
        cls,
        image: Image,
        info: CodingInfo | None,
        options: BatchOptions,
        checkpoint: Checkpoint,
        chroma: str | None = None,
    ) -> _Origin:
        """What the options say, else the file, else the picture itself."""
        if info and info.codec == "webp" and info.qp is None:
            info = None  # lossless: as bare as a PNG
        codec = options.codec or (info.codec if info else None)
        if info and info.codec != codec:
            info = None
        chroma = info.chroma if info else chroma
        qp = options.qp if options.qp is not None else info.qp if info else None
        if checkpoint.says_little(codec, qp):
            codec = None
        estimate = Estimate(codec, qp, 1.0)
        estimated: Literal["codec and qp", "qp"] | None = None
        if options.estimate and not (codec and qp is not None and chroma):
            estimate = estimate_condition(image, codec)
            chroma = chroma or estimate.chroma
            if codec and qp is not None:
                estimate = replace(estimate, qp=qp)
            elif estimate.pristine or estimate.qp is not None:
                estimated = "qp" if codec else "codec and qp"
        _, share = checkpoint.condition(estimate.codec, estimate.qp, chroma)
        return cls(estimate, estimated, chroma, share == 0)

    def enhance(
        self,
        image: Image,
        enhancer: Enhancer,
        progress: Progress | None = None,
        unrounded: Callable[[], Image | None] = nothing_finer,
    ) -> Image:
        """The restored picture; one that seems never to have been coded comes back as it is."""
        if self.estimate.pristine:
            return image
        result: Image = enhancer.enhance(
            image,
            codec=self.estimate.codec,
            qp=self.estimate.qp,
            chroma=self.chroma,
            unrounded=unrounded,
            progress=progress,
        )
        return result


@dataclass(frozen=True)
class _Stream:
    """A video stream of which only the first bytes have been read."""

    source: BinaryIO
    start: bytes = b""


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
    ahead: deque[tuple[Job, Future[Picture | _Stream | Outcome]]] = deque()
    behind: deque[Future[Outcome]] = deque()

    def fetch() -> None:
        if (job := next(todo, None)) is None:
            return
        if job.source is None:  # Ctrl-C must not wait for a thread that waits for standard input
            ahead.append((job, _completed(_guarded(job, _read, job, options))))
        else:
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


def _completed(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future


def _guarded(job: Job, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Outcome:
    """What ``stage`` returns, or the outcome ``failed`` if it raises one of the expected errors."""
    try:
        return stage(*args, **kwargs)
    except BrokenPipeError:
        raise
    except EXPECTED_ERRORS as error:
        return Outcome(job.input, job.output, "failed", one_line(error))


def _read(job: Job, options: BatchOptions) -> Picture | _Stream | Outcome:
    """The input, or the outcome if nothing is to be done."""
    existing = next((target for target in job.targets if target.is_file()), None)
    if existing and options.existing == "skip":
        return Outcome(job.input, job.output, "skipped")
    if existing and options.existing == "refuse":
        raise EnhancerError(f"{existing} exists already; choose --overwrite or --skip-existing")
    source = sys.stdin.buffer if job.source is None else job.source.open("rb")
    start = b"" if options.raw else source.read(len(Y4M_MAGIC))
    if options.raw or start == Y4M_MAGIC:
        return _Stream(source, start)
    with source if job.source else nullcontext():
        data = start + source.read()
    if job.target and not options.format:
        picture_format(job.target)  # an unknown suffix is better refused now than after the work
    return read_picture(data)


def _compute(
    job: Job,
    picture: Picture | _Stream | Outcome,
    enhancer: Enhancer,
    options: BatchOptions,
    progress: Progress | None,
) -> _Enhanced | Outcome:
    if isinstance(picture, Outcome):
        return picture
    start = time.perf_counter()
    if isinstance(picture, _Stream):
        frames, origin = _run_stream(job, picture, enhancer, options)
        elapsed_s = round(time.perf_counter() - start, 3)
        return Outcome(job.input, job.output, "enhanced", elapsed_s=elapsed_s, frames=frames).after(origin)
    origin = _Origin.of(picture.image, picture.info, options, enhancer.checkpoint)
    image = origin.enhance(picture.image, enhancer, progress, picture.unrounded)
    elapsed_s = round(time.perf_counter() - start, 3)
    height, width = picture.size
    outcome = Outcome(job.input, job.output, "enhanced", height=height, width=width, elapsed_s=elapsed_s)
    picture = replace(picture, unrounded=nothing_finer)  # what it holds is not needed any more
    return _Enhanced(picture, replace(picture, image=image), outcome.after(origin))


def _run_stream(job: Job, stream: _Stream, enhancer: Enhancer, options: BatchOptions) -> tuple[int, _Origin]:
    """Reads, enhances and writes a stream frame by frame; of a truncated one, the whole frames are written.

    Codec and qp are estimated once, from the first frame that says something, so that frames do not flicker.

    Returns:
        The number of frames, and what they have been through.
    """
    if job.target and job.target.suffix.lower() in picture_suffixes():
        raise EnhancerError(
            f"a stream is not written as a picture; choose a name like {job.target.with_suffix('.y4m')}"
        )
    if job.comparison:
        raise EnhancerError("there are no comparison sheets of streams")

    origin = _Origin(Estimate(options.codec, options.qp, 1.0))

    def enhance(image: Image, chroma: str) -> Image:
        nonlocal origin
        if origin.estimated is None:
            # Decoders deliver the chroma format of the bitstream.
            origin = _Origin.of(image, None, options, enhancer.checkpoint, chroma)
        return origin.enhance(image, enhancer)

    truncated = None
    with (
        stream.source if job.source else nullcontext(),
        _open_output(job, overwrite=options.existing == "overwrite") as sink,
    ):
        try:
            if options.raw:
                frames = enhance_raw(stream.source, sink, enhance, options.raw)
            else:
                frames = enhance_y4m(stream.source, sink, enhance, start=stream.start, matrix=options.matrix)
        except TruncatedStreamError as error:
            truncated = error
    if truncated:
        raise truncated
    return frames, origin


def _open_output(job: Job, *, overwrite: bool) -> AbstractContextManager[BinaryIO]:
    if job.target is None:
        return nullcontext(sys.stdout.buffer)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    return open_atomically(job.target, overwrite=overwrite)


def _write(job: Job, enhanced: _Enhanced | Outcome, options: BatchOptions) -> Outcome:
    if isinstance(enhanced, Outcome):
        return enhanced
    overwrite = options.existing == "overwrite"
    picture = enhanced.after if options.keep_metadata else stripped(enhanced.after)
    name = options.format or (picture_format(job.target) if job.target else _stdout_format(picture))
    data = encode_picture(picture, name)
    with _open_output(job, overwrite=overwrite) as file:
        file.write(data)
        file.flush()
    if job.comparison:
        sheet = comparison_sheet(None, upright(enhanced.before).image, upright(enhanced.after).image)
        write_picture(job.comparison, Picture(sheet, Metadata(icc=picture.metadata.icc)), overwrite=overwrite)
    return enhanced.outcome


def _stdout_format(picture: Picture) -> str:
    """The format that a picture came in if it is lossless, otherwise PNG."""
    name = picture.source_format or "png"
    return name if f".{name}" in LOSSLESS_SUFFIXES else "png"
