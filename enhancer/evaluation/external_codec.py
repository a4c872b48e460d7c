"""Any encoder and decoder with a command line, as a codec for evaluations."""

from __future__ import annotations

import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from codec_wrappers.base import (
    NO_METADATA,
    Availability,
    CodingInfo,
    Decoded,
    FineKnob,
    Image,
    Metadata,
    QpRange,
    check_image,
    check_positive,
)
from codec_wrappers.errors import CodecError
from codec_wrappers.process import find_tool, run_tool

ANY_QP = QpRange(-100_000, 100_000, rate_rises=False)

_SPEC = re.compile(r"cmd(?:\[(?P<cheapest>-?\d+)\.\.(?P<dearest>-?\d+)\])?:(?P<encode>.*?);;(?P<decode>.*)", re.DOTALL)


@dataclass(frozen=True)
class ExternalCodec:
    """An encoder and a decoder given as command lines that work on files.

    ``{in}``, ``{out}`` and, for the encoder, ``{qp}`` are replaced in each word after the line was split
    as a shell would; no shell runs, so there are no pipes, variables or globs. The picture goes in and
    comes back as PNG (8 or 16 bits a sample).

    Attributes:
        encode_command: E.g. ``cwebp -q {qp} {in} -o {out}``.
        decode_command: E.g. ``dwebp {in} -o {out}``.
        cheapest_qp: The ``{qp}`` with the fewest bits, if known; searches need it.
        dearest_qp: The ``{qp}`` with the most bits, if known.
        suffix: Suffix of the bitstream's file name, for programs that go by it.
        timeout_s: Limit for each run.
    """

    encode_command: str
    decode_command: str
    cheapest_qp: int | None = None
    dearest_qp: int | None = None
    suffix: str = ".bin"
    timeout_s: float = 600.0

    name: ClassVar[str] = "cmd"
    suffixes: ClassVar[tuple[str, ...]] = ()
    fine_knob: ClassVar[FineKnob | None] = None

    def __post_init__(self) -> None:
        _check_command(self.encode_command, ("in", "out", "qp"))
        _check_command(self.decode_command, ("in", "out"))
        check_positive("timeout_s", self.timeout_s)

    @classmethod
    def parse(cls, spec: str) -> Self:
        """From ``cmd:ENCODE ;; DECODE``, or ``cmd[CHEAPEST..DEAREST]:…`` with the limits of qp.

        Raises:
            ValueError: If ``spec`` is not of this form.
        """
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise ValueError(
                f"an external codec reads 'cmd:ENCODE {{in}} {{out}} {{qp}} ;; DECODE {{in}} {{out}}', got {spec!r}"
            )
        cheapest, dearest = (None if match[key] is None else int(match[key]) for key in ("cheapest", "dearest"))
        return cls(match["encode"].strip(), match["decode"].strip(), cheapest, dearest)

    @property
    def qp_range(self) -> QpRange:
        """The limits that were given; without them nearly any integer, and no search is possible."""
        if self.cheapest_qp is None or self.dearest_qp is None:
            return ANY_QP
        low, high = sorted((self.cheapest_qp, self.dearest_qp))
        return QpRange(low, high, rate_rises=self.cheapest_qp < self.dearest_qp)

    def fingerprint(self) -> str:
        """Paths, sizes and times of the two programs, to notice when they are replaced."""
        found = [find_tool(shlex.split(command)[0]) for command in (self.encode_command, self.decode_command)]
        states = [(path, Path(path).stat()) for path in found if path]
        return "; ".join(f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states)

    @classmethod
    def matches(cls, head: bytes) -> bool:  # noqa: ARG003  # the protocol's signature; nobody knows these bytes
        return False

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        return (Availability("command", True, "the programs are given by the user"),)

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:  # noqa: ARG002  # PNG in, pixels only
        """Returns what the encoder wrote for ``image``.

        Raises:
            ValueError: If ``qp`` or the picture is not supported.
            CodecUnavailableError: If the program cannot be started.
            ToolError: If it fails or takes too long.
            CodecError: If it ends well but writes nothing.
        """
        from enhancer.image_io import Picture, write_picture

        check_image(image, depths=(8, 16))
        self.qp_range.check(qp)
        with tempfile.TemporaryDirectory(prefix="enhance-eval-") as folder:
            source, target = Path(folder, "picture.png"), Path(folder, f"coded{self.suffix}")
            write_picture(source, Picture(image))
            self._run(self.encode_command, {"in": source, "out": target, "qp": qp})
            return _read_output(target, self.encode_command)

    def decode(self, bitstream: bytes) -> Decoded:
        """Returns the picture that the decoder wrote; its chroma format and qp are not known.

        Raises:
            CodecError: As :meth:`encode`; :class:`~enhancer.errors.ImageError` if the output is no picture.
        """
        from enhancer.image_io import read_picture

        with tempfile.TemporaryDirectory(prefix="enhance-eval-") as folder:
            source, target = Path(folder, f"coded{self.suffix}"), Path(folder, "decoded.png")
            source.write_bytes(bitstream)
            self._run(self.decode_command, {"in": source, "out": target})
            image = read_picture(_read_output(target, self.decode_command)).image
        return Decoded(image, CodingInfo(codec=self.name, qp=None, chroma="444", bit_depth=8 * image.dtype.itemsize))

    def _run(self, command: str, values: dict[str, object]) -> None:
        words = shlex.split(command)
        run_tool([_fill(word, values) for word in words], timeout_s=self.timeout_s)


def _fill(word: str, values: dict[str, object]) -> str:
    """Replaces ``{key}``; other braces stay, because they may be the program's own syntax."""
    return re.sub(r"\{(\w+)\}", lambda m: str(values.get(m[1], m[0])), word)


def _check_command(command: str, keys: tuple[str, ...]) -> None:
    missing = [f"{{{key}}}" for key in keys if f"{{{key}}}" not in command]
    if missing:
        raise ValueError(f"the command {command!r} lacks {' and '.join(missing)}")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"the command {command!r} cannot be split into words: {error}") from error
    if find_tool(words[0]) is None:
        raise ValueError(f"the program {words[0]!r} of the command {command!r} is not on PATH")


def _read_output(path: Path, command: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    if not data:
        raise CodecError(f"the command {command!r} wrote no output")
    return data
