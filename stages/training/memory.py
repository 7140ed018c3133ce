"""How a training process treats memory that it frees."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of glibc's ``mallopt``, from its ``malloc.h``."""


def hold_memory() -> bool:
    """Have this process keep memory that it has freed, for its next use.

    A step of training on a CPU frees and asks for hundreds of MiB. glibc gives each large piece back to the system and takes
    fresh, zeroed pages for the next, which costs between 3 % and a quarter of the time (docs/training.md).

    Returns:
        Whether it could be told so: only glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
