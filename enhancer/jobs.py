"""Which file is enhanced into which: folders, default names, collisions. Nothing is read or written here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codec_wrappers import REGISTRY
from enhancer.errors import EnhancerError
from enhancer.image_io import picture_format, picture_suffixes

MARK = ".enhanced"
COMPARE_MARK = ".compare"
"""Stand between name and suffix of outputs that get no name by the user."""

LOSSLESS_SUFFIXES = (".png", ".ppm", ".pgm", ".pnm", ".pam", ".tif", ".tiff", ".bmp")
STREAM_SUFFIXES = (".y4m", ".yuv")


@dataclass(frozen=True)
class Job:
    """One input and its output.

    Attributes:
        source: File to read; None is standard input.
        target: File to write; None is standard output.
        comparison: File for the before/after sheet, if one is wanted.
    """

    source: Path | None
    target: Path | None
    comparison: Path | None = None

    @property
    def input(self) -> str:
        """Name of the input for messages."""
        return "-" if self.source is None else str(self.source)

    @property
    def output(self) -> str:
        """Name of the output for messages."""
        return "-" if self.target is None else str(self.target)

    @property
    def targets(self) -> tuple[Path, ...]:
        """All files that are written."""
        return tuple(path for path in (self.target, self.comparison) if path)


def plan_jobs(
    inputs: Sequence[str],
    output: str | None = None,
    *,
    recursive: bool = False,
    format: str | None = None,  # noqa: A002  (the word that users know)
    compare: bool = False,
) -> list[Job]:
    """Pairs inputs with outputs, in a stable order, and checks that no two outputs are one file.

    Args:
        inputs: Files, folders, ``-`` for standard input.
        output: A file, for one input that is no folder; ``-`` for standard output; a folder, for one
            input if it exists or ends in a slash, and always for several inputs or a folder, whose
            structure is kept. None: beside the input as ``NAME.enhanced.SUFFIX``, and for standard
            input standard output.
        recursive: Whether folders within folders are entered; links to folders are followed once.
        format: Picture format or suffix of outputs whose name is not given.
        compare: Whether comparison sheets are written, too.

    Raises:
        EnhancerError: If an input does not exist, a folder holds no picture, two outputs have one name,
            or an output is also an input.
    """
    suffix = None if format is None else _suffix_of_format(f".{format.lower().lstrip('.')}")
    found = [pair for name in inputs for pair in _expand(name, recursive, output)]
    several = len(found) > 1 or any(name != "-" and Path(name).is_dir() for name in inputs)
    if output == "-":
        if len(found) > 1:
            raise EnhancerError(f"standard output takes one picture, not {len(found)}")
        jobs = [Job(found[0][0], None)]
    else:
        jobs = [Job(source, _target(source, relative, output, several, suffix)) for source, relative in found]
    if compare:
        jobs = [replace(job, comparison=_comparison(job)) for job in jobs]
    _check_collisions(jobs)
    return jobs


def output_suffix(source: Path) -> str:
    """Suffix of the output for an input: its own one if that is a lossless format, otherwise ``.png``."""
    suffix = source.suffix.lower()
    return suffix if suffix in (*LOSSLESS_SUFFIXES, *STREAM_SUFFIXES) else ".png"


def _suffix_of_format(suffix: str) -> str:
    """The suffix itself, or the first one of a format that is named like this (``jpeg2000``, ``tiff``)."""
    if suffix in picture_suffixes():
        return suffix
    named = [known for known in picture_suffixes() if picture_format(f"x{known}") == suffix[1:]]
    if not named:
        raise EnhancerError(f"unknown picture format {suffix[1:]!r}; known: {' '.join(picture_suffixes())}")
    return named[0]


def _expand(name: str, recursive: bool, output: str | None) -> Iterator[tuple[Path | None, Path]]:
    """Inputs that ``name`` stands for, each with its path below the folder."""
    if name == "-":
        yield None, Path("stdin")
        return
    path = Path(name)
    if not path.exists():
        raise EnhancerError(f"{name}: no such file or folder")
    if not path.is_dir():
        yield path, Path(path.name)
        return
    # What an earlier run wrote into a folder within this one is no input of the next.
    left_out = frozenset({os.path.realpath(output)} if output else ()) - {os.path.realpath(path)}
    files = list(_walk(path, recursive, left_out))
    if not files:
        hint = "" if recursive else " (--recursive looks into its folders)"
        raise EnhancerError(f"{name}: no picture in this folder{hint}")
    yield from ((file, file.relative_to(path)) for file in files)


def _walk(folder: Path, recursive: bool, above: frozenset[str]) -> Iterator[Path]:
    """Picture files in a folder, sorted by name, without folders in ``above`` or inside themselves by a link."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise EnhancerError(f"cannot read folder {folder}: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir():
            if recursive:
                yield from _walk(entry, recursive, above | {real})
        elif entry.suffix.lower() in _input_suffixes() and not _is_own_output(entry):
            yield entry


def _input_suffixes() -> set[str]:
    codecs = {suffix for codec_class in REGISTRY for suffix in codec_class.suffixes}
    return {*picture_suffixes(), *codecs, ".gif", ".y4m"}


def _is_own_output(path: Path) -> bool:
    """Whether an earlier run made this file, which is then no input of the next."""
    return path.stem.endswith((MARK, COMPARE_MARK))


def _target(source: Path | None, relative: Path, output: str | None, several: bool, suffix: str | None) -> Path | None:
    if suffix is None or relative.suffix.lower() in STREAM_SUFFIXES:
        suffix = output_suffix(relative)
    if output is None:
        return None if source is None else source.with_name(f"{source.stem}{MARK}{suffix}")
    if several or Path(output).is_dir() or output.endswith(("/", os.sep)):
        return Path(output) / relative.with_suffix(suffix)
    return Path(output)


def _comparison(job: Job) -> Path:
    """The sheet lies beside the output, or beside the input if the output is a pipe."""
    path = job.target or job.source or Path("stdin")
    return path.with_name(f"{path.stem}{COMPARE_MARK}.png")


def _check_collisions(jobs: list[Job]) -> None:
    """Raises unless all outputs differ from each other and from the inputs of other jobs."""
    readers = {os.path.realpath(job.source): job for job in jobs if job.source}
    writers: dict[str, Job] = {}
    for job in jobs:
        for target in job.targets:
            real = os.path.realpath(target)
            other = writers.setdefault(real, job)
            if other is not job:
                raise EnhancerError(f"{other.input} and {job.input} would both be written to {target}")
            if readers.get(real, job) is not job:
                raise EnhancerError(f"the output of {job.input}, {target}, is itself an input")
