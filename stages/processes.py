"""Pools of processes with one thread each: where processes share the cores out, libraries' threads only get in the way."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from schemas.problems import HeadswapError
from stages.orphans import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
"""Variables of the environment that say how many threads numpy, scipy, PyTorch, numba and OpenCV start."""

LOOK_SECONDS = 1.0
"""Between looks at whether the processes that results are waited for are alive."""


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started inside of this block have one thread in every numerical library; this one keeps what it has.

    Libraries read their settings when they are loaded, which in a new process is before a pool's initialiser runs: processes must
    be born with them. Executors start them when there is work, so the block has to last as long as the pool. The environment is
    the whole process's: blocks may lie inside one another, not overlap in several threads.
    """
    before = {name: os.environ.get(name) for name in THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Processes:
    """Fresh processes that work through items; made by ``process_pool``."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results as they come, in any order.

        Raises:
            HeadswapError: ``worker_died`` (retryable): a process was killed with its item. What ``work`` raises, as it is.
        """
        futures = [self._executor.submit(work, item) for item in items]
        try:
            for future in finished(self._executor, futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise HeadswapError(
                "worker_died",
                "A process at work died: memory ran out, or somebody killed it.",
                "Give the same command again, with fewer --workers if memory ran out: it goes on with what is missing.",
                retryable=True,
            ) from error


def finished(executor: ProcessPoolExecutor, futures: Iterable[Future[Result]]) -> Iterator[Future[Result]]:
    """An executor's futures as they come, none of which is waited for in vain.

    An executor notices by itself that a process died, and then breaks, unless that process was writing its result: the executor
    has read the first part of it then, and waits for the rest for ever. Here such an executor is broken from outside.
    """
    pending, dead = set(futures), 0
    while pending:
        done, pending = wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
        yield from done
        died = any(process.exitcode is not None for process in list((executor._processes or {}).values()))
        dead = dead + 1 if died and not done else 0
        if dead > 1:  # had it noticed, there would be no pending futures by now
            kill_processes(executor)
            executor._result_queue._writer.close()  # type: ignore[attr-defined]  # the last that could write: reading ends


def kill_processes(executor: ProcessPoolExecutor) -> None:
    """End an executor's processes at once, in the midst of items that nobody wants any more: they may take minutes."""
    for process in list((executor._processes or {}).values()):
        process.kill()


@contextmanager
def process_pool(workers: int) -> Iterator[Processes]:
    """So many fresh processes of one thread each. They end with the block, at once where it ends by an error, and with this
    process, however it ends."""
    spawn = multiprocessing.get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(workers, spawn, end_with_parent, (os.getpid(),)) as executor:
        try:
            yield Processes(executor)
        except BaseException:
            kill_processes(executor)
            executor.shutdown(cancel_futures=True)
            raise
