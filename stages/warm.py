"""Networks that stay loaded in a process from one piece of work to the next.

Building MediaPipe's graphs costs as much as looking at ten frames, for every chunk. Only networks whose answers depend on nothing
but the picture they are given may be borrowed: whoever had one before leaves no trace.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


Network = TypeVar("Network", bound=Closable)

_lock = threading.Lock()
_idle: dict[Hashable, list[Closable]] = {}
_of_parents: list[dict[Hashable, list[Closable]]] = []


@contextmanager
def borrowed(make: Callable[..., Network], *arguments: Hashable) -> Iterator[Network]:
    """An idle network that ``make(*arguments)`` built before, else a new one; nobody else has it meanwhile.

    Afterwards one of each kind is kept until the process ends. One that was in use when an exception came is closed.
    """
    key = (make, arguments)
    with _lock:
        found = _idle.get(key)
        network: Network = found.pop() if found else None  # type: ignore[assignment]
    if network is None:
        network = make(*arguments)
    try:
        yield network
    except BaseException:
        network.close()
        raise
    with _lock:
        kept = _idle.setdefault(key, [])
        if not kept:
            kept.append(network)
            return
    network.close()


def close_idle() -> None:
    """Close what nobody uses at the moment."""
    with _lock:
        networks = [network for found in _idle.values() for network in found]
        _idle.clear()
    for network in networks:
        network.close()


def _forget() -> None:
    """In a forked process: the graphs' threads are not there, so they can neither be used nor closed."""
    global _idle, _lock
    _of_parents.append(_idle)
    _idle, _lock = {}, threading.Lock()


atexit.register(close_idle)
os.register_at_fork(after_in_child=_forget)
