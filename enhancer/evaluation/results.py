"""Files of results: one JSON a run, a table as CSV, and curves from them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enhancer.bd_rate import RdCurve, RdPoint, mean_curve
from enhancer.errors import EnhancerError
from enhancer.evaluation.measure import TITLES, Values, mean_values

FORMAT = 1
"""Of run and record files; files of another format are refused, or measured anew."""


@dataclass(frozen=True)
class Record:
    """One picture at one operating point of one run.

    Attributes:
        picture: File name of the original.
        picture_sha256: Hash of its samples.
        width: In pixels.
        height: In pixels.
        qp: Operating point.
        byte_count: Size of the bitstream, None if not known.
        bpp: Rate, None if not known.
        metrics: Quality by name.
        bitstream_sha256: Hash of the bitstream, None if there is none.
        output_sha256: Hash of the samples that were measured.
        coding: What the bitstream says (codec, qp, chroma, bit depth), None if there is none.
        seconds: Times to encode, decode, enhance; None where nothing ran. Not part of the result.
    """

    picture: str
    picture_sha256: str
    width: int
    height: int
    qp: int
    byte_count: int | None
    bpp: float | None
    metrics: Values
    bitstream_sha256: str | None
    output_sha256: str
    coding: dict[str, Any] | None
    seconds: dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """One codec, with or without enhancement, on a set of pictures at several operating points.

    Attributes:
        label: Name in tables and legends.
        source: What makes the decoded pictures.
        enhancement: Model, its hash, ensemble …; None without enhancement.
        environment: Versions, machine, command, time.
        records: All pictures at all points, by point, then by picture.
    """

    label: str
    source: dict[str, Any]
    enhancement: dict[str, Any] | None
    environment: dict[str, Any]
    records: tuple[Record, ...]

    @property
    def qps(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(r.qp for r in self.records))

    @property
    def pictures(self) -> dict[str, str]:
        """Name -> hash of the samples."""
        return {r.picture: r.picture_sha256 for r in self.records}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that at least one picture has."""
        return tuple(m for m in TITLES if any(r.metrics.get(m) is not None for r in self.records))

    def at(self, qp: int) -> tuple[Record, ...]:
        return tuple(r for r in self.records if r.qp == qp)

    def left_out(self, metric: str) -> tuple[str, ...]:
        """Pictures that do not have ``metric`` (too small), and so are not in its mean."""
        return tuple(dict.fromkeys(r.picture for r in self.records if r.metrics.get(metric) is None))

    def picture_curves(self, metric: str) -> dict[str, RdCurve]:
        """One curve for each picture that has ``metric`` at every point.

        Raises:
            ValueError: If the rates are not known, or no picture has the metric.
        """
        if any(r.bpp is None for r in self.records):
            raise ValueError(f"{self.label}: the rates are not known")
        curves = {}
        missing = set(self.left_out(metric))
        for name in self.pictures:
            if name not in missing:
                mine = [r for r in self.records if r.picture == name]
                points = tuple(RdPoint(r.bpp or 0.0, _number(r.metrics[metric])) for r in mine)
                curves[name] = RdCurve(self.label, metric, points)
        if not curves:
            raise ValueError(f"{self.label}: no picture has {metric}")
        return curves

    def curve(self, metric: str) -> RdCurve:
        """Mean rate and mean quality at each point, over the pictures that have ``metric``."""
        return mean_curve(list(self.picture_curves(metric).values()))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def run_to_json(run: Run) -> bytes:
    """The run as JSON; infinite values as the string ``inf``, since JSON has no infinity."""
    points = [
        {"qp": qp, "mean": _means(run.at(qp)), "pictures": [record_to_dict(r) for r in run.at(qp)]} for qp in run.qps
    ]
    document = {
        "format": FORMAT,
        "label": run.label,
        "source": run.source,
        "enhancement": run.enhancement,
        "environment": run.environment,
        "metrics": {name: TITLES[name] for name in run.metrics},
        "left_out": {m: names for m in run.metrics if (names := list(run.left_out(m)))},
        "points": points,
    }
    return (json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _means(records: Sequence[Record]) -> Values:
    rates = [r.bpp for r in records]
    known = [rate for rate in rates if rate is not None]
    mean_rate = math.fsum(known) / len(known) if len(known) == len(rates) else None
    return {"bpp": mean_rate, **mean_values([r.metrics for r in records])}


def record_to_dict(record: Record) -> dict[str, Any]:
    """The fields of a record by name."""
    return dict(vars(record))


def record_from_dict(values: dict[str, Any]) -> Record:
    """Undoes :func:`record_to_dict` after a way through JSON.

    Raises:
        TypeError: If keys are missing or unknown.
        ValueError: If a metric is no number.
    """
    metrics = {k: None if v is None else float(v) for k, v in values["metrics"].items()}
    return Record(**{**values, "metrics": metrics})


def load_run(path: Path) -> Run:
    """Reads a run file.

    Raises:
        EnhancerError: If it is not one, or of another format.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise EnhancerError(
                f"{path} is of format {document['format']}, this version reads {FORMAT}; measure it anew"
            )
        records = tuple(record_from_dict(r) for point in document["points"] for r in point["pictures"])
        if not records:
            raise EnhancerError(f"{path} holds no pictures")
        return Run(**{key: document[key] for key in ("label", "source", "enhancement", "environment")}, records=records)
    except OSError as error:
        raise EnhancerError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnhancerError(f"{path} is not a result of enhance-eval rd: {type(error).__name__} {error}") from error


def find_runs(folder: Path) -> list[Path]:
    """The run files directly in ``folder``, sorted by name.

    Raises:
        EnhancerError: If there is none.
    """
    paths = sorted(folder.glob("*.run.json"))
    if not paths:
        raise EnhancerError(f"no results (*.run.json) in {folder}")
    return paths


def load_runs(folder: Path) -> list[Run]:
    """All runs of a folder: of the same pictures, by the same code, with different labels.

    Raises:
        EnhancerError: If they are not, or one cannot be read.
    """
    runs = [load_run(path) for path in find_runs(folder)]
    labels = [run.label for run in runs]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise EnhancerError(f"{folder} holds two runs called {twice.pop()!r}")
    for run in runs[1:]:
        check_same_pictures(runs[0], run)
    for first, second in itertools.combinations(runs, 2):
        if not _by_same_version(first, second):
            raise EnhancerError(
                f"{first.label} and {second.label} were measured by different versions of this program;"
                " run enhance-eval rd again for the older one"
            )
    return runs


def _by_same_version(first: Run, second: Run) -> bool:
    """Whether the parts of the program agree that both runs used: measuring, enhancing, one and the same codec."""
    codes = [run.environment.get("code", {}) for run in (first, second)]
    kinds = ("measuring", "enhancing") if first.enhancement and second.enhancement else ("measuring",)
    same_codec = without_versions(first.source) == without_versions(second.source)
    return all(codes[0].get(k) == codes[1].get(k) for k in kinds) and not (same_codec and first.source != second.source)


def without_versions(source: dict[str, Any]) -> dict[str, Any]:
    """What was asked for of a source: its identity less the versions of encoder and wrapper."""
    return {key: value for key, value in source.items() if key not in ("encoder", "code")}


def check_same_pictures(first: Run, second: Run) -> None:
    """Raises ``EnhancerError`` unless both runs measured the same pictures."""
    if first.pictures != second.pictures:
        differing = sorted(set(first.pictures.items()) ^ set(second.pictures.items()))
        raise EnhancerError(
            f"{first.label} and {second.label} were measured on different pictures, e.g. {differing[0][0]}"
        )


def run_file_name(label: str) -> str:
    """File name of a run: its label with everything but letters, digits, dot and minus replaced."""
    return re.sub(r"[^\w.+-]+", "_", label).strip("_") + ".run.json"


def to_csv(runs: Iterable[Run]) -> bytes:
    """One row for each record, and one of means (``picture`` empty) for each operating point."""
    text = io.StringIO()
    names = [*TITLES, "psnr_of_mean_mse"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "qp", "picture", "width", "height", "bytes", "bpp", *names])
    for run in runs:
        for qp in run.qps:
            records = run.at(qp)
            for r in records:
                head = [run.label, qp, r.picture, r.width, r.height, r.byte_count, r.bpp]
                writer.writerow([*head, *(r.metrics.get(name) for name in names)])
            means = _means(records)
            writer.writerow([run.label, qp, "", "", "", "", means["bpp"], *(means.get(name) for name in names)])
    return text.getvalue().encode()


def record_to_json(record: Record) -> bytes:
    """One record as JSON; infinite values as in :func:`run_to_json`."""
    return json.dumps(finite(record_to_dict(record)), allow_nan=False).encode()


def finite(value: Any) -> Any:
    """``value`` with infinite numbers as strings, at any depth: JSON has no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
