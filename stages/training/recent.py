"""A bounded memory of things that are slow to make."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The last ``size`` things used, by name; threads may share it. Copies for other processes start empty: what is held may be
    large."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._held: dict[Hashable, T] = {}

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        """What has this name, made where it is not held."""
        with self._lock:  # also while it is made, so that nothing is made twice
            value = self._held.pop(name) if name in self._held else make()
            self._held[name] = value  # the last is the one used last
            while len(self._held) > self._size:
                del self._held[next(iter(self._held))]
            return value

    def __reduce__(self) -> tuple[type[Recent[T]], tuple[int]]:
        return type(self), (self._size,)
