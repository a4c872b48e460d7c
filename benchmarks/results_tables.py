"""The tables of RESULTS.md, from the runs of ``enhance-eval rd``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.common import markdown_table
from enhancer.bd_rate import Bootstrap
from enhancer.evaluation.compare import comparable_metrics, compare_runs
from enhancer.evaluation.results import Run
from enhancer.evaluation.target import TargetRow

BD_METRICS = {"psnr": "RGB-PSNR", "psnr_y601": "Y-PSNR", "ms_ssim_db": "MS-SSIM"}


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


def pairs(runs: Sequence[Run]) -> list[Pair]:
    """Every enhanced run with the run of its codec alone."""
    by_source = {str(run.source): run for run in runs if run.enhancement is None}
    return [Pair(by_source[str(run.source)], run) for run in runs if run.enhancement is not None]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def gain_table(found: Sequence[Pair]) -> str:
    """Mean gain of RGB-PSNR at each operating point."""
    rows = []
    for pair in found:
        points = []
        for qp in pair.enhanced.qps:
            rate = mean([r.bpp or 0.0 for r in pair.enhanced.at(qp)])
            points.append(f"{mean([g for _, _, g in pair.gains('psnr', qp)]):+.2f} (qp {qp}, {rate:.2f} bpp)")
        overall = mean([g for _, _, g in pair.gains("psnr")])
        rows.append([pair.enhanced.label, f"{overall:+.3f}", "; ".join(points)])
    return markdown_table(["codec + network", "mean gain (dB)", "at each point (dB)"], rows)


def bd_table(comparisons: Sequence[tuple[Run, Run]]) -> str:
    """BD-rate of the second against the first run of each pair, in three metrics."""
    rows = []
    for anchor, test in comparisons:
        cells = []
        for metric in BD_METRICS:
            cells.append(_bd_cell(anchor, test, metric))
        rows.append([f"{test.label} against {anchor.label}", *cells])
    return markdown_table(["BD-rate (%)", *BD_METRICS.values()], rows)


def _bd_cell(anchor: Run, test: Run, metric: str) -> str:
    if metric not in comparable_metrics(anchor, test):
        return "–"
    try:
        result = compare_runs(anchor, test, metric=metric)
    except ValueError as error:
        return f"refused: {error}"
    delta = result.bd_rate
    if not isinstance(delta, Bootstrap):
        return f"{delta:+.1f}"
    warning = f", only {100 * result.covered:.0f} % covered" if result.covered < 0.75 else ""
    return f"{delta.value:+.1f} [{delta.interval.low:+.1f}, {delta.interval.high:+.1f}]{warning}"


def weak_spots(found: Sequence[Pair]) -> list[str]:
    """Where enhancement helps least or harms, one sentence for each codec and network."""
    sentences = []
    for pair in found:
        gains, similarity = pair.gains("psnr"), pair.gains("ms_ssim")
        picture, qp, worst = min(gains, key=lambda entry: entry[2])
        harmed = sum(gain < 0 for _, _, gain in gains)
        blurred = sum(gain < 0 for _, _, gain in similarity)
        sentences.append(
            f"- {pair.enhanced.label}: least gain {worst:+.2f} dB ({picture}, qp {qp}); PSNR falls in {harmed} of"
            f" {len(gains)} cases, MS-SSIM in {blurred} of {len(similarity)}."
        )
    return sentences


def target_rows(rows: Sequence[TargetRow]) -> str:
    """Quality at one budget."""
    head = ["codec", "budget shared by", "bpp", "RGB-PSNR", "Y-PSNR", "MS-SSIM"]
    lines = []
    for row in rows:
        similarity = row.means.get("ms_ssim")
        lines.append(
            [
                row.label,
                row.allocation,
                f"{row.bpp:.5f}",
                f"{row.means['psnr']:.3f}",
                f"{row.means['psnr_y601']:.3f}",
                "–" if similarity is None else f"{similarity:.5f}",
            ]
        )
    return markdown_table(head, lines)


def speed_table(runs: Sequence[Run], cost: dict[str, float]) -> str:
    """Cost and median time of each network, over all pictures of all codecs."""
    times: dict[str, list[float]] = {}
    backends: dict[str, str] = {}
    for run in runs:
        if run.enhancement and run.enhancement["ensemble"] == "none":
            name = run.enhancement["model"]
            backends[name] = f"{run.enhancement['backend']}, {run.enhancement['device']}"
            for record in run.records:
                seconds = record.seconds.get("enhance")
                if seconds is not None:
                    times.setdefault(name, []).append(seconds / (record.width * record.height / 1e6))
    rows = [
        [name, f"{cost[name]:.0f}" if name in cost else "–", backends[name], f"{median(values):.2f}"]
        for name, values in times.items()
    ]
    return markdown_table(["network", "kMAC/pixel", "backend", "s/megapixel, median"], rows)
