"""Processes that must not outlive the one they work for."""

from __future__ import annotations

import os
import threading
import time

POLL_SECONDS = 0.5


def end_with_parent(parent: int) -> None:
    """End this process soon after its parent is gone: one that was killed with -9 tells nobody, and workers would stay for ever.

    Args:
        parent: process id of the parent, which may be gone already.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="end-with-parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
