"""The tables of RESULTS.md, from the runs of ``enhance-eval rd``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.common import markdown_table
from enhancer.bd_rate import Bootstrap
from enhancer.evaluation.compare import comparable_metrics, compare_runs
from enhancer.evaluation.results import Run
from enhancer.evaluation.target import TargetRow

BD_METRICS = {"psnr": "RGB-PSNR", "psnr_y601": "Y-PSNR", "ms_ssim_db": "MS-SSIM"}
RESAMPLES = 1000
WEAK_GAIN = 0.05
"""In dB: combinations below, or with a picture that loses, are weak spots."""


PUBLISHED_GAINS = {
    "CBDNet, one model for each qp": (1.11, 1.02, 0.89, 0.77, 2.23, 2.21, 2.19, 2.19),
    "DnCNN, one model for each qp": (0.93, 0.84, 0.72, 0.59, 1.84, 1.89, 1.91, 1.89),
}
"""RGB-PSNR gained over BPG 4:2:0 at qp 27, 32, 37, 42 and JPEG at quality 10, 20, 30, 40 on the validation part of
DIV2K: PowerQE, docs/benchmark_results/div2k_psnr.csv, commit 9716cd7. No rates are given there."""


@dataclass(frozen=True)
class Pair:
    """A codec's run and the run of the same streams enhanced."""

    decoded: Run
    enhanced: Run

    def gains(self, metric: str, qp: int | None = None) -> list[tuple[str, int, float]]:
        """Picture, qp and difference, for each record (of one qp)."""
        before = {(r.picture, r.qp): r.metrics.get(metric) for r in self.decoded.records}
        found = []
        for record in self.enhanced.records:
            old, new = before[record.picture, record.qp], record.metrics.get(metric)
            if qp in (None, record.qp) and old is not None and new is not None:
                found.append((record.picture, record.qp, new - old))
        return found

    def mean_gain(self, qp: int | None = None) -> float:
        """Mean gain of RGB-PSNR in dB."""
        return mean([gain for _, _, gain in self.gains("psnr", qp)])


def pairs(runs: Sequence[Run]) -> list[Pair]:
    """Every enhanced run with the run of its codec alone."""
    by_source = {str(run.source): run for run in runs if run.enhancement is None}
    return [Pair(by_source[str(run.source)], run) for run in runs if run.enhancement is not None]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def gain_tables(runs: Sequence[Run]) -> str:
    """For each codec its rates and qualities, and below what each network adds; one table for equal qps."""
    tables = []
    found = pairs(runs)
    for qps in dict.fromkeys(pair.decoded.qps for pair in found):
        rows = []
        for run in dict.fromkeys(pair.decoded.label for pair in found if pair.decoded.qps == qps):
            mine = [pair for pair in found if pair.decoded.label == run]
            rows.append([run, *(_point(mine[0].decoded, qp) for qp in qps), ""])
            rows += [[f"+ {_network(p)}", *(_gain(p, qp) for qp in qps), f"{p.mean_gain():+.3f}"] for p in mine]
        tables.append(markdown_table(["codec, + network", *(f"qp {qp}" for qp in qps), "mean gain (dB)"], rows))
    return "\n\n".join(tables)


def published_gains() -> str:
    """What others reach, on other pictures."""
    head = [
        "published",
        *(f"BPG {qp}" for qp in (27, 32, 37, 42)),
        *(f"JPEG {quality}" for quality in (10, 20, 30, 40)),
    ]
    return markdown_table(head, [[name, *(f"{g:+.2f}" for g in gains)] for name, gains in PUBLISHED_GAINS.items()])


def _point(run: Run, qp: int) -> str:
    quality = mean([r.metrics["psnr"] or 0.0 for r in run.at(qp)])
    return f"{quality:.2f} dB, {mean([r.bpp or 0.0 for r in run.at(qp)]):.2f} bpp"


def _gain(pair: Pair, qp: int) -> str:
    gains = [gain for _, _, gain in pair.gains("psnr", qp)]
    return f"{mean(gains):+.2f} ({min(gains):+.2f})"


def _network(pair: Pair) -> str:
    return pair.enhanced.label.removeprefix(f"{pair.decoded.label} + ")


def bd_table(comparisons: Sequence[tuple[Run, Run]]) -> str:
    """BD-rate of the second against the first run of each pair, in three metrics."""
    rows = []
    for anchor, test in comparisons:
        cells = [_bd_cell(anchor, test, metric) for metric in BD_METRICS]
        rows.append([f"{test.label} against {anchor.label}", *cells])
    return markdown_table(["BD-rate (%)", *BD_METRICS.values()], rows)


def _bd_cell(anchor: Run, test: Run, metric: str) -> str:
    if metric not in comparable_metrics(anchor, test):
        return "–"
    try:
        result = compare_runs(anchor, test, metric=metric, resamples=RESAMPLES)
    except ValueError as error:
        return f"refused: {error}"
    delta = result.bd_rate
    if not isinstance(delta, Bootstrap):
        return f"{delta:+.1f}"
    warning = f", only {100 * result.covered:.0f} % covered" if result.covered < 0.75 else ""
    return f"{delta.value:+.1f} [{delta.interval.low:+.1f}, {delta.interval.high:+.1f}]{warning}"


def weak_spots(measured: Mapping[str, Sequence[Run]]) -> str:
    """Where a network gains least or harms, worst first; the rest is counted."""
    entries = [(title, pair) for title, runs in measured.items() for pair in pairs(runs)]
    rows, strong = [], 0
    for title, pair in sorted(entries, key=lambda entry: _least(entry[1])[2]):
        picture, qp, least = _least(pair)
        if least >= 0 and pair.mean_gain() >= WEAK_GAIN:
            strong += 1
            continue
        harmed = [_harmed(pair, metric) for metric in ("psnr", "ms_ssim")]
        rows.append(
            [title, pair.enhanced.label, f"{pair.mean_gain():+.3f}", f"{least:+.2f}", picture, str(qp), *harmed]
        )
    if not rows:
        return f"PSNR falls in none of the {strong} combinations of pictures, codec and network."
    rest = f"In the other {strong} of {len(entries)} combinations of pictures, codec and network PSNR falls nowhere."
    head = ["pictures", "codec + network", "mean gain (dB)", "least (dB)", "at", "qp", "PSNR falls", "MS-SSIM falls"]
    return f"{markdown_table(head, rows)}\n\n{rest}"


def _least(pair: Pair) -> tuple[str, int, float]:
    return min(pair.gains("psnr"), key=lambda entry: entry[2])


def _harmed(pair: Pair, metric: str) -> str:
    gains = [gain for _, _, gain in pair.gains(metric)]
    return f"{sum(gain < 0 for gain in gains)} of {len(gains)}"


def target_rows(rows: Sequence[TargetRow]) -> str:
    """Quality at one budget."""
    head = ["codec", "bpp", "RGB-PSNR", "Y-PSNR", "MS-SSIM"]
    lines = []
    for row in rows:
        similarity = row.means.get("ms_ssim")
        values = [f"{row.means['psnr']:.3f}", f"{row.means['psnr_y601']:.3f}"]
        lines.append([row.label, f"{row.bpp:.5f}", *values, "–" if similarity is None else f"{similarity:.5f}"])
    return markdown_table(head, lines)
