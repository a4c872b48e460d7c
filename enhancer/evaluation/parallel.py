"""How many processes, and how many threads in each."""

from __future__ import annotations

import os


def default_jobs() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_job(jobs: int) -> int:
    """Share of the processors for each of ``jobs`` workers, at least one."""
    return max(1, default_jobs() // jobs)
