"""Runs a function over many tasks in worker processes that do not outlive this one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def default_jobs() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_job(jobs: int) -> int:
    """Share of the processors for each of ``jobs`` workers, at least one."""
    return max(1, default_jobs() // jobs)


def run_parallel(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Yields each task with its result as they finish; ``jobs`` = 1 stays in this process.

    On any exception, one in the caller included, tasks that have not begun are dropped and the
    workers end. A worker also ends when this process is killed.

    Args:
        function: Importable, with arguments and results that can be pickled.
        tasks: What to call it with.
        jobs: Worker processes, at least 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, function(task)
        return
    jobs = min(jobs, len(tasks))
    # spawn: a fork of a process in which torch or OpenCV have started threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads_per_job(jobs),))
    try:
        futures = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(threads: int) -> None:
    """Starts a worker: its share of the processors, and its end when the parent ends."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
