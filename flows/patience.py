"""What may pass is tried again after growing pauses: one rule for planning, for runs of jobs and for clips alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from schemas.configuration import Retry
from schemas.problems import HeadswapError

T = TypeVar("T")

LAST_RETRY = ("worker_died", "timeout")
"""Failures that may pass, but are held against the input once every attempt of a run has met them."""

PLAN_ANEW = ("stopped", "file_changed")
"""Failures that pass, but not within this run: another plan is needed."""


def pause_before(policy: Retry, error: HeadswapError, attempt: int) -> float | None:
    """Seconds to wait before attempt number ``attempt + 1``, or None when the failure will not pass by itself."""
    if not error.retryable or error.code in PLAN_ANEW or attempt >= policy.attempts:
        return None
    # Jitter keeps many machines from coming back to a struggling store at the same moment.
    return policy.pauses()[attempt - 1] * random.uniform(0.75, 1.25)


def patiently(
    ask: Callable[[], T],
    pause: Callable[[HeadswapError, int], float | None],
    stopping: threading.Event,
    tell: Callable[[HeadswapError, float], None] = lambda error, seconds: None,
) -> T:
    """What ``ask`` gives, asked again after every failure that may pass.

    Args:
        pause: seconds to wait after an error that ended the given number of attempts; None to let it be the end.
        stopping: ends a pause, and the asking with it.
        tell: is told of each pause.

    Raises:
        HeadswapError: the last one.
    """
    attempt = 0
    while True:
        try:
            return ask()
        except HeadswapError as error:
            attempt += 1
            seconds = None if stopping.is_set() else pause(error, attempt)
            if seconds is None:
                raise
            tell(error, seconds)
            if stopping.wait(seconds):
                raise
