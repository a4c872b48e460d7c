"""A list of what was coded how: one row per picture, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from codec_wrappers.base import Codec


@dataclass(frozen=True)
class CodedPicture:
    """One picture of a coded set.

    Attributes:
        file: Path of the original, or ``#n`` for the n-th array.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        codec: Encoder with all its options; ``codec.encode(image, qp)`` gives the stream again.
        qp: The codec's native quality index.
        size: Bytes of the stream.
        metrics: Quality of the decoded picture by name, ``psnr`` in dB over all samples.
        versions: Versions of the encoder.
        key: Name of the stream in the cache.
    """

    file: str
    width: int
    height: int
    codec: Codec
    qp: int
    size: int
    metrics: dict[str, float] = field(hash=False)
    versions: str
    key: str

    @property
    def bpp(self) -> float:
        return 8 * self.size / (self.width * self.height)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite PSNR is None."""
        knob = self.codec.fine_knob
        return {
            "file": self.file,
            "width": self.width,
            "height": self.height,
            "codec": self.codec.name,
            "qp": self.qp,
            **({knob.option: getattr(self.codec, knob.option)} if knob else {}),
            "bytes": self.size,
            "bpp": round(self.bpp, 6),
            "metrics": {name: value if math.isfinite(value) else None for name, value in self.metrics.items()},
            "options": asdict(cast(Any, self.codec)),
            "versions": self.versions,
        }


def manifest_json(pictures: Sequence[CodedPicture], **summary: Any) -> str:
    """The manifest as one JSON object: ``summary``, then the list ``pictures``."""
    return json.dumps({**summary, "pictures": [picture.to_dict() for picture in pictures]}, indent=2) + "\n"


def manifest_csv(pictures: Sequence[CodedPicture]) -> str:
    """The manifest as CSV with one line per picture; options and metrics are columns of their own."""
    rows = []
    for picture in pictures:
        row = picture.to_dict()
        metrics, options = row.pop("metrics"), row.pop("options")
        rows.append({**row, **metrics, **{f"option {name}": value for name, value in options.items()}})
    buffer = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
