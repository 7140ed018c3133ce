"""Samples made ahead of time by other processes, so that a GPU does not wait for them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType

import cv2

from stages.training.samples import SampleSource, TrainingSample

Opener = Callable[[], SampleSource]
"""Opens the source in a worker: a module's function, or a ``functools.partial`` of one."""

_source: SampleSource | None = None


class SamplesAhead:
    """A ``SampleSource`` whose samples are the same as those of the source that it opens in each worker.

    Args:
        opener: of the source. workers: processes.
    """

    def __init__(self, opener: Opener, workers: int) -> None:
        self._pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_open_in_worker, initargs=(opener,)
        )
        self._under_way: dict[tuple[int, int], Future[TrainingSample]] = {}

    def sample(self, number: int, frames: int) -> TrainingSample:
        """See ``SampleSource``; returns at once where the sample was announced long enough ago."""
        self.announce([number], frames)
        return self._under_way.pop((number, frames)).result()

    def announce(self, numbers: Iterable[int], frames: int) -> None:
        """Begin samples that will be asked for."""
        for number in numbers:
            if (number, frames) not in self._under_way:
                self._under_way[number, frames] = self._pool.submit(_make, number, frames)

    def __enter__(self) -> SamplesAhead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)


def _open_in_worker(opener: Opener) -> None:
    global _source
    cv2.setNumThreads(1)
    _source = opener()


def _make(number: int, frames: int) -> TrainingSample:
    assert _source is not None
    return _source.sample(number, frames)
