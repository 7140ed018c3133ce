"""A place beside the registered models where the next one is made, and nothing of it stays when its maker is killed.

Each addition works in a folder of its own, ``.adding-NAME-...``, and holds a lock in it that its process cannot outlive. The
next addition, and whoever lists the models, removes every such folder whose lock is free. What a replacement has already moved
aside is put back if the new one never came: a registered model is not lost by a kill.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".adding-"
_LOCK = "lock"
_REPLACED = "replaced"


@contextmanager
def workplace(models: Path, name: str) -> Iterator[Path]:
    """An empty folder in the folder of models, on its file system, so that moving something to its name is one step.

    Raises:
        OSError: the folder of models cannot be written.
    """
    models.mkdir(parents=True, exist_ok=True)
    with _alone(models):
        _remove_abandoned(models)
        place = Path(tempfile.mkdtemp(dir=models, prefix=f"{_PREFIX}{name}-"))
        lock = (place / _LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield place
    finally:
        _restore(models, place)
        shutil.rmtree(place, ignore_errors=True)
        lock.close()


def clear_away(models: Path) -> bool:
    """Remove what killed additions left, and put back what they had moved aside; additions under way are left alone.

    Costs a look into the folder where there is nothing to do. Does nothing, and raises nothing, where the folder is not there or
    cannot be written.

    Returns:
        Whether there was anything that might have been left.
    """
    try:
        if not any(models.glob(f"{_PREFIX}*")) or not os.access(models, os.W_OK):
            return False
        with _alone(models):
            _remove_abandoned(models)
    except OSError:
        return False  # a file system without locks, say: the next addition will have more to tell
    return True


def replace_folder(made: Path, models: Path, name: str, place: Path) -> None:
    """Put ``made`` in the place of ``models/name``; a kill between the two steps is mended by ``clear_away``."""
    (place / _REPLACED).mkdir(exist_ok=True)
    target = models / name
    if target.exists():
        os.replace(target, place / _REPLACED / name)
    os.replace(made, target)


@contextmanager
def _alone(models: Path) -> Iterator[None]:
    """No other process makes or removes folders meanwhile: a new folder has no lock for a moment."""
    handle = os.open(models, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_abandoned(models: Path) -> None:
    for place in models.glob(f"{_PREFIX}*"):
        try:
            with (place / _LOCK).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _restore(models, place)
                shutil.rmtree(place, ignore_errors=True)
        except OSError:
            continue  # somebody is at work there, or it is not ours to remove


def _restore(models: Path, place: Path) -> None:
    """Put back what was moved aside and has no successor."""
    for replaced in (place / _REPLACED).glob("*"):
        if not (models / replaced.name).exists():
            os.replace(replaced, models / replaced.name)
