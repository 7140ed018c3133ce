"""Local copies of a remote store's objects: bounded, shared by the artifacts of a process, never pulled away under a reader."""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

from storage.backends import Backend
from storage.keys import digest_file
from storage.manifests import FileEntry, Manifest

DEFAULT_LIMIT = 8 << 30
"""Bytes of copies that no live artifact uses; beyond them the least recently used go."""


class Downloads:
    """Copies by content digest in one folder of this process."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._released: deque[str] = deque()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used: Counter[str] = Counter()

    def get(self, entry: FileEntry, fetch: Callable[[Path], None], user: object) -> Path:
        """The local copy of an object; kept at least as long as ``user`` lives.

        Raises:
            FileNotFoundError: where the object is missing.
            ValueError: where it is not what was committed.
        """
        path = self._folder / f"{entry.digest}{Path(entry.path).suffix}"
        with self._lock:
            if not path.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}-{secrets.token_hex(4)}.part")
                try:
                    fetch(part)
                    # Hashing costs little beside the transfer, and a damaged copy must not stay under the right name.
                    if part.stat().st_size != entry.bytes or digest_file(part) != entry.digest:
                        raise ValueError("the file's content is not what was committed")
                    os.replace(part, path)
                finally:
                    part.unlink(missing_ok=True)
            self._sizes[path.name] = entry.bytes
            self._sizes.move_to_end(path.name)
            self._used[path.name] += 1
            weakref.finalize(user, self._release, path.name).atexit = False
            self._shrink()
        return path

    def _release(self, name: str) -> None:
        """Called by the garbage collector, in whatever thread it runs: it must not wait.

        That may be the very thread that a fetch under the lock waits for, or the one that holds the lock. Where the lock is
        taken, the next one to have it does what is left to do.
        """
        self._released.append(name)
        if self._lock.acquire(blocking=False):
            try:
                self._shrink()
            finally:
                self._lock.release()

    def _shrink(self) -> None:
        while self._released:
            self._used[self._released.popleft()] -= 1
        total = sum(self._sizes.values())
        for name in list(self._sizes):
            if total <= self._limit:
                return
            if self._used[name] <= 0:
                (self._folder / name).unlink(missing_ok=True)
                total -= self._sizes.pop(name)


class StoredFiles:
    """The objects of one artifact in a remote store, for ``Artifact``."""

    def __init__(self, backend: Backend, manifest: Manifest, downloads: Callable[[], Downloads]) -> None:
        self._backend = backend
        self._folder = manifest.folder
        self._downloads = downloads
        self._paths: dict[str, Path] = {}
        self._process = os.getpid()

    def local(self, entry: FileEntry) -> Path:
        if self._process != os.getpid():
            self._paths, self._process = {}, os.getpid()
        if entry.path not in self._paths:
            remote = f"{self._folder}/{entry.path}"
            self._paths[entry.path] = self._downloads().get(entry, lambda part: self._backend.download(remote, part), self)
        return self._paths[entry.path]

    def read(self, entry: FileEntry, start: int, length: int) -> bytes | None:
        return self._backend.read(f"{self._folder}/{entry.path}", start, length)
