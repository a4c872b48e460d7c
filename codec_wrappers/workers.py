"""Runs a function over many jobs in parallel processes that never outlive this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar

from codec_wrappers.errors import CodecError

Job = TypeVar("Job")
Result = TypeVar("Result")

_GRACE_S = 2.0
_QUEUED_PER_WORKER = 3


class WorkerPool:
    """A context within which :meth:`run` spreads jobs over processes.

    With one worker everything runs in this process. Otherwise functions, jobs and results are
    pickled, and a script that uses the pool guards its start by ``if __name__ == "__main__"``.

    The workers hold one end of a pipe. When the other end closes, because the pool is closed or this
    process died, however it died, each ends its job and the programs it started.

    Args:
        workers: Number of processes.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None

    def __enter__(self) -> Self:
        if self._workers > 1:
            context = multiprocessing.get_context("spawn")
            worker_end, self._lifeline = context.Pipe(duplex=False)
            self._executor = ProcessPoolExecutor(self._workers, context, _start_worker, (worker_end,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._executor and self._lifeline:
            if kind is not None:
                self._lifeline.close()
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._lifeline.close()

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """Yields position and result of each job as it ends.

        Raises:
            CodecError: If a worker process dies.
            Exception: Whatever ``function`` raises.
        """
        if self._executor is None:
            for position, job in enumerate(jobs):
                yield position, function(job)
            return
        running: dict[Future[Result], int] = {}
        queue = enumerate(jobs)
        try:
            while True:
                # Only a few jobs are handed over at a time: they may carry whole pictures.
                while len(running) < _QUEUED_PER_WORKER * self._workers and (entry := next(queue, None)):
                    running[self._executor.submit(function, entry[1])] = entry[0]
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise CodecError("an encoder process died (crashed, or killed for want of memory)") from error


def _start_worker(lifeline: Connection) -> None:
    """Prepares a worker: Ctrl-C is the parent's business, a closed lifeline is the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _leave(*_: Any) -> None:
    sys.exit(1)  # unwinds the job, which ends the programs it runs and removes its files


def _watch(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)  # the job sits in native code, or the pool swallowed the exit and waits for more jobs
