"""Files and folders that are complete or not there: written beside, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".{}.partial"


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder to write into that takes the place of ``target`` when all is written, and is gone where writing failed."""
    partial = target.with_name(_PARTIAL.format(target.name))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        flush_folder(partial)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        flush(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_whole(target: Path, content: str | bytes) -> None:
    """Write a file that holds what it held or all of ``content`` (text as UTF-8), whenever the process or the machine ends."""
    partial = target.with_name(_PARTIAL.format(f"{target.name}.{os.getpid()}"))
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    flush(target.parent)


def remove_partial(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half written in a folder; nobody else may write there at the time.

    Args:
        name: pattern of what they were writing. In a folder that may be somebody else's, say what is ours.
    """
    for left in folder.glob(_PARTIAL.format(name)):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Have the disk hold a folder and everything in it."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def flush(path: Path) -> None:
    """Have the disk hold what a file, or the list of a folder, says."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
