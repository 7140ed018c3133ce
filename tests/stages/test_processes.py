"""Processes of pools have one thread each, those that start late too, and the process that asks for them stays as it is."""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import pytest

from schemas.problems import HeadswapError
from stages.processes import THREAD_SETTINGS, one_thread_each, process_pool

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads where Linux lists them")


def threads_after_work(_: int = 0) -> tuple[int, int, int]:
    """Threads of the process once its libraries have computed, and how many numba and OpenCV would use."""
    import cv2
    import numba
    import numpy as np
    import scipy.linalg

    square = np.random.default_rng(0).random((400, 400))
    scipy.linalg.inv(square @ square.T + np.eye(400))
    cv2.GaussianBlur(square.astype(np.float32), (0, 0), 3)
    return len(os.listdir("/proc/self/task")), numba.config.NUMBA_NUM_THREADS, cv2.getNumThreads()


@contextmanager
def asked_for(threads: str) -> Iterator[None]:
    """As on a machine with more cores than this one may have."""
    with pytest.MonkeyPatch.context() as patch:
        for name in THREAD_SETTINGS:
            patch.setenv(name, threads)
        yield


def test_the_processes_of_a_pool_compute_in_one_thread() -> None:
    watching = 1  # the thread that ends the process with its parent
    with asked_for("3"), process_pool(1) as pool:
        assert list(pool.each(threads_after_work, range(1))) == [(1 + watching, 1, 1)]


def test_processes_that_start_late_do_so_too() -> None:
    with asked_for("3"), one_thread_each(), ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert [pool.submit(threads_after_work).result() for _ in range(2)] == [(1, 1, 1)] * 2


def _killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_a_killed_process_is_an_error_that_says_what_to_do_not_a_wait_for_ever() -> None:
    with pytest.raises(HeadswapError) as caught, process_pool(1) as pool:
        list(pool.each(_killed, range(2)))
    assert caught.value.code == "worker_died"
    assert caught.value.retryable
    assert "--workers" in caught.value.remedy


def _killed_while_it_writes(_: int) -> None:
    """Announces a large result to its executor, writes a little of it, and dies."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    writer = frame.f_locals["result_queue"]._writer
    os.write(writer.fileno(), struct.pack("!i", 1 << 20) + bytes(100))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(120)
def test_a_process_killed_while_it_writes_its_result_is_told_too() -> None:
    with pytest.raises(HeadswapError) as caught, process_pool(2) as pool:
        list(pool.each(_killed_while_it_writes, range(1)))
    assert caught.value.code == "worker_died"


def test_an_error_ends_what_is_under_way_at_once() -> None:
    began = time.monotonic()

    def interrupted() -> None:
        with process_pool(1) as pool:
            results = pool.each(_slow, [0.0, 600.0])
            next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 120


def test_the_environment_is_as_before_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_SETTINGS[1:]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(THREAD_SETTINGS[0], "7")
    before = dict(os.environ)
    seen: dict[str, str] = {}

    def stopped() -> None:
        with one_thread_each():
            seen.update(os.environ)
            raise ValueError("in the midst")

    with pytest.raises(ValueError, match="in the midst"):
        stopped()
    assert [seen[name] for name in THREAD_SETTINGS] == ["1"] * len(THREAD_SETTINGS)
    assert dict(os.environ) == before
