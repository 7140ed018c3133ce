"""Which process a waiting unit of work goes to: any, or for work on a GPU one that has not failed at it before."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Task = TypeVar("Task")

STRIKES = 3
"""Failures of a device one after another after which it gets no more work, where there is another."""


@dataclass(order=True)
class _Waiting(Generic[Task]):
    priority: tuple[int, ...]
    entered: int
    name: Hashable = field(compare=False)
    task: Task = field(compare=False)


class Lanes(Generic[Task]):
    """Waiting tasks, taken in order of priority by the lanes: one for each process.

    A task that was reported to have failed on a lane goes to another, where there is one; a lane that fails again and again is
    closed, unless it is the last.

    Args:
        lanes: their names.
    """

    def __init__(self, lanes: Sequence[str]) -> None:
        self._open = list(lanes)
        self._waiting: list[_Waiting[Task]] = []
        self._entered = itertools.count()
        self._failed_at: dict[Hashable, set[str]] = defaultdict(set)
        self._strikes: dict[str, int] = defaultdict(int)
        self._changed = threading.Condition()
        self._closed = False

    @property
    def open_lanes(self) -> tuple[str, ...]:
        """Those that still get work."""
        with self._changed:
            return tuple(self._open)

    def put(self, name: Hashable, task: Task, priority: tuple[int, ...] = ()) -> None:
        """Let a task wait; ``name`` is the same when it is tried again."""
        with self._changed:
            bisect.insort(self._waiting, _Waiting(priority, next(self._entered), name, task))
            self._changed.notify_all()

    def take(self, lane: str) -> Task | None:
        """The next task for a lane, waited for; None when it is to end."""
        with self._changed:
            while not self._closed and lane in self._open:
                for position, waiting in enumerate(self._waiting):
                    if self._may(lane, waiting.name):
                        del self._waiting[position]
                        return waiting.task
                self._changed.wait()
            return None

    def succeeded(self, name: Hashable, lane: str) -> None:
        """A task is done."""
        with self._changed:
            self._failed_at.pop(name, None)
            self._strikes[lane] = 0

    def failed(self, name: Hashable, lane: str, *, strike: bool = True) -> None:
        """A task made its process or its device fail: it had better be tried elsewhere.

        Without a ``strike`` it is nobody's fault: the task was too large for the device.
        """
        with self._changed:
            self._failed_at[name].add(lane)
            self._strikes[lane] += strike
            if self._strikes[lane] >= STRIKES and len(self._open) > 1 and lane in self._open:
                self._open.remove(lane)
            self._changed.notify_all()

    def close(self) -> list[Task]:
        """End all lanes; returns what was still waiting."""
        with self._changed:
            self._closed = True
            left = [waiting.task for waiting in self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
            return left

    def _may(self, lane: str, name: Hashable) -> bool:
        failed = self._failed_at.get(name, set())
        return lane not in failed or failed.issuperset(self._open)
