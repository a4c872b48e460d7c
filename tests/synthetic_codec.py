"""Codecs for the tests of rate control: one with a rate curve made to order, one around Pillow's JPEG."""

from __future__ import annotations

import io
import math
import os
import struct
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from PIL import Image as PillowImage

from codec_wrappers.base import NO_METADATA, Availability, CodingInfo, Decoded, FineKnob, Image, Metadata, QpRange
from codec_wrappers.errors import BitstreamError, ToolError

HEADER = struct.Struct(">4sHHBBf")


def noise(*what: object) -> float:
    """A fixed pseudo-random number in -1..1 for the arguments."""
    return 2 * np.random.default_rng([hash(w) & 0xFFFFFFFF for w in what]).random() - 1


@dataclass(frozen=True)
class CurveCodec:
    """Streams of a made-to-order size; they hold size, qp, fine option and first sample, then padding.

    A flat picture decodes to a flat one that is off by 1.1 to the power of qp. The first sample of the
    picture scales its size: 100 is neutral.
    """

    floor_bytes: float = 40.0
    slope: float = 0.12
    fine_slope: float = 0.36
    bump: float = 0.0
    seed: int = 0
    lambda_scale: float = 1.0
    probe_ratio: float | None = None
    log: str | None = None
    fail: Literal["", "tool", "crash", "hang"] = ""

    name: ClassVar[str] = "curve"
    suffixes: ClassVar[tuple[str, ...]] = (".curve",)
    qp_range: ClassVar[QpRange] = QpRange(0, 51, rate_rises=False)
    fine_knob: ClassVar[FineKnob | None] = FineKnob("lambda_scale", 0.6, 1.6)

    @classmethod
    def matches(cls, head: bytes) -> bool:
        return head.startswith(b"CRVE")

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        return (Availability("python", True, "1.0"),)

    def probe(self) -> Self:
        return self if self.probe_ratio is None else replace(self, probe_ratio=None, seed=self.seed + 1)

    def rate(self, qp: int, first_sample: int) -> int:
        exponent = self.slope * (self.qp_range.high - qp) - self.fine_slope * math.log(self.lambda_scale)
        bump = 1 + self.bump * noise(self.seed, qp, round(1e4 * self.lambda_scale), first_sample)
        ratio = self.probe_ratio or 1.0
        return HEADER.size + round(self.floor_bytes * first_sample / 100 * ratio * bump * math.exp(exponent))

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        self.qp_range.check(qp)
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{int(image.flat[0])} {qp} {os.getpid()}\n")
        if self.fail == "tool":
            raise ToolError("encoder exited with status 3: out of paper", command=["encoder"], returncode=3)
        if self.fail == "crash":
            os._exit(3)
        if self.fail == "hang":
            time.sleep(600)
        first = int(image.flat[0])
        head = HEADER.pack(b"CRVE", image.shape[0], image.shape[1], qp, first, self.lambda_scale)
        return head.ljust(self.rate(qp, first), b"\0") + (metadata.exif or b"")

    def decode(self, bitstream: bytes) -> Decoded:
        try:
            _, height, width, qp, first, _ = HEADER.unpack_from(bitstream)
        except struct.error as error:
            raise BitstreamError("truncated header", offset=len(bitstream)) from error
        image = np.full((height, width, 3), round(first + 1.1**qp), np.uint8)
        return Decoded(image, CodingInfo(self.name, qp, "444", 8))


class KnoblessCodec(CurveCodec):
    """The same without a fine knob."""

    fine_knob: ClassVar[FineKnob | None] = None


class RisingCodec(CurveCodec):
    """A quality from 1 to 100 instead of a quantisation parameter, without a fine knob."""

    qp_range: ClassVar[QpRange] = QpRange(1, 100, rate_rises=True)
    fine_knob: ClassVar[FineKnob | None] = None

    def rate(self, qp: int, first_sample: int) -> int:
        bump = 1 + self.bump * noise(self.seed, qp, first_sample)
        return HEADER.size + round(self.floor_bytes * bump * math.exp(self.slope * qp / 2))


@dataclass(frozen=True)
class TinyJpegCodec:
    """Pillow's JPEG, nothing more."""

    name: ClassVar[str] = "tiny-jpeg"
    suffixes: ClassVar[tuple[str, ...]] = (".jpg",)
    qp_range: ClassVar[QpRange] = QpRange(1, 95, rate_rises=True)
    fine_knob: ClassVar[FineKnob | None] = None

    @classmethod
    def matches(cls, head: bytes) -> bool:
        return head.startswith(b"\xff\xd8\xff")

    @classmethod
    def availability(cls) -> tuple[Availability, ...]:
        return (Availability("pillow", True, "any"),)

    def probe(self) -> Self:
        return self

    def encode(self, image: Image, qp: int, *, metadata: Metadata = NO_METADATA) -> bytes:
        self.qp_range.check(qp)
        buffer = io.BytesIO()
        PillowImage.fromarray(image).save(buffer, "JPEG", quality=qp, optimize=True)
        return buffer.getvalue()

    def decode(self, bitstream: bytes) -> Decoded:
        return Decoded(
            np.asarray(PillowImage.open(io.BytesIO(bitstream)).convert("RGB")), CodingInfo(self.name, None, "420", 8)
        )


def flat(first_sample: int = 100, height: int = 64, width: int = 64) -> Image:
    return np.full((height, width, 3), first_sample, np.uint8)


def textured(seed: int, height: int = 64, width: int = 64) -> Image:
    """Smooth blobs plus noise: more of both with a larger seed."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = sum(
        np.sin(rows * generator.uniform(0.02, 0.3) + columns * generator.uniform(0.02, 0.3) + k)[..., None]
        * generator.uniform(5, 25, 3)
        for k in range(4)
    )
    grain = generator.normal(0, 1 + 2 * (seed % 6), (height, width, 1))
    return np.clip(np.round(128 + waves + grain), 0, 255).astype(np.uint8)
