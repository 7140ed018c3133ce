"""Files of weights: gigabytes, whose digests take a while and of whose reading a person wants to know."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

WORTH_TELLING = 100_000_000
"""Bytes: what is smaller is done before one could read that it has begun."""

Tell = Callable[[str], None]
"""Is given a line for a person to read."""


def silent(line: str) -> None:
    """Tell nobody."""
    del line


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def announce(what: str, size: int, tell: Tell) -> None:
    """Tell what begins, with its size in bytes, where that will take a while."""
    if size >= WORTH_TELLING:
        tell(f"{what} {gigabytes(size)}")


def gigabytes(size: int) -> str:
    """A number of bytes for a person."""
    return f"{size / 1e9:.1f} GB"
