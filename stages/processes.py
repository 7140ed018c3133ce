"""Pools of processes with one thread each: where processes share the cores out, libraries' threads only get in the way."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
"""Variables of the environment that say how many threads numpy, scipy, PyTorch, numba and OpenCV start."""


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started inside of this block have one thread in every numerical library; this one keeps what it has.

    Libraries read their settings when they are loaded, which in a new process is before a pool's initialiser runs: processes must
    be born with them. Pools replace processes that ended and executors start them when there is work, so the block has to last
    as long as the pool.
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


@contextmanager
def process_pool(workers: int) -> Iterator[Pool]:
    """So many fresh processes of one thread each; ended with the block."""
    with one_thread_each(), multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield pool
