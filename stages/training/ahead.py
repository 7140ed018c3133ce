"""Samples made ahead of time by other processes, so that a GPU does not wait for them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType
from typing import ClassVar

import cv2

from schemas.problems import HeadswapError
from stages.orphans import end_with_parent
from stages.processes import finished, kill_processes, one_thread_each
from stages.training.samples import SampleSource, TrainingSample

Opener = Callable[[], SampleSource]
"""Opens the source in a worker: a module's function, or a ``functools.partial`` of one."""

STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Signals that the whole group of processes gets (Ctrl-C, a scheduler). The parent decides what they mean: it ends its step,
which may need samples yet, and saves a checkpoint."""

_opener: Opener | None = None
_source: SampleSource | None = None


class _Worker(SpawnProcess):
    """A process that ignores SIGTERM, so that its pool, which ends the others when one has died, has to kill it."""

    def terminate(self) -> None:
        self.kill()


class _Context(SpawnContext):
    Process: ClassVar[type[SpawnProcess]] = _Worker


class SamplesAhead:
    """A ``SampleSource`` whose samples are the same as those of the source that it opens in each worker.

    Workers leave it to this process what SIGINT and SIGTERM mean, and end when it does, however it ends.

    Args:
        opener: of the source. workers: processes.
    """

    def __init__(self, opener: Opener, workers: int) -> None:
        self.workers = workers
        self._born_with = contextlib.ExitStack()
        self._pool = ProcessPoolExecutor(workers, _Context(), initializer=_begin_worker, initargs=(opener, os.getpid()))
        self._under_way: dict[tuple[int, int], Future[TrainingSample]] = {}

    def sample(self, number: int, frames: int) -> TrainingSample:
        """See ``SampleSource``; returns at once where the sample was announced long enough ago.

        Raises:
            HeadswapError: what the source raises; ``worker_died`` (retryable).
        """
        self.announce([number], frames)
        with _told():
            (made,) = finished(self._pool, [self._under_way.pop((number, frames))])
            return made.result()

    def announce(self, numbers: Iterable[int], frames: int) -> None:
        """Begin samples that will be asked for."""
        for number in numbers:
            if (number, frames) not in self._under_way:
                with _told(), _signals_later():
                    self._under_way[number, frames] = self._pool.submit(_make, number, frames)

    def __enter__(self) -> SamplesAhead:
        # Else each worker begins a thread a core for every product of matrices.
        self._born_with.enter_context(one_thread_each())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._born_with:
            if kind is not None:
                kill_processes(self._pool)
            self._pool.shutdown(cancel_futures=True)


@contextmanager
def _told() -> Iterator[None]:
    """A pool that broke as an error that says what to do."""
    try:
        yield
    except BrokenProcessPool as error:
        raise HeadswapError(
            "worker_died",
            "A process that makes training samples died: memory ran out, or somebody killed it.",
            "Give the same command with --resume; with fewer --workers if memory ran out.",
            retryable=True,
        ) from error


@contextmanager
def _signals_later() -> Iterator[None]:
    """Signals wait until the block is done. A process that begins in it has them waiting too, until it can ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(opener: Opener, parent: int) -> None:
    global _opener
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    end_with_parent(parent)
    cv2.setNumThreads(1)
    _opener = opener


def _make(number: int, frames: int) -> TrainingSample:
    global _source
    if _source is None:  # here and not before: errors of an initialiser would not find their way to the parent
        assert _opener is not None
        _source = _opener()
    return _source.sample(number, frames)
