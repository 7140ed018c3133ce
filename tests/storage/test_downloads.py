"""Local copies of remote objects: bounded, whole, and never pulled away from under a reader."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from storage.downloads import Downloads
from storage.keys import digest_bytes
from storage.manifests import FileEntry


class Reader:
    """Stands for an artifact that uses a copy."""


def entry(letter: str) -> FileEntry:
    data = letter.encode() * 100
    return FileEntry(f"{letter}.parquet", len(data), digest_bytes(data))


class Source:
    def __init__(self) -> None:
        self.fetched: list[str] = []

    def get(self, downloads: Downloads, letter: str, user: object) -> Path:
        def fetch(part: Path) -> None:
            self.fetched.append(letter)
            part.write_bytes(letter.encode() * 100)

        return downloads.get(entry(letter), fetch, user)


def test_a_copy_is_fetched_once_and_shared(tmp_path: Path) -> None:
    downloads, source = Downloads(tmp_path), Source()
    first, second = Reader(), Reader()
    path = source.get(downloads, "a", first)
    assert source.get(downloads, "a", second) == path
    assert path.suffix == ".parquet"
    assert source.fetched == ["a"]


def test_copies_in_use_stay_and_the_others_go_oldest_first(tmp_path: Path) -> None:
    downloads, source = Downloads(tmp_path, limit=250), Source()
    used, finished = Reader(), Reader()
    kept = source.get(downloads, "a", used)
    gone = source.get(downloads, "b", finished)
    assert gone.exists()
    third = source.get(downloads, "c", used)
    assert gone.exists(), "over the limit, but all are in use"
    del finished
    gc.collect()
    assert not gone.exists()
    assert kept.exists()
    assert third.exists()
    assert source.get(downloads, "b", used).read_bytes() == b"b" * 100


def test_a_damaged_or_interrupted_transfer_leaves_nothing(tmp_path: Path) -> None:
    downloads, reader = Downloads(tmp_path), Reader()

    def cut_off(part: Path) -> None:
        part.write_bytes(b"a" * 50)

    def flipped(part: Path) -> None:
        part.write_bytes(b"a" * 99 + b"b")

    def interrupted(part: Path) -> None:
        part.write_bytes(b"a" * 50)
        raise FileNotFoundError(part)

    for fetch, error in ((cut_off, ValueError), (flipped, ValueError), (interrupted, FileNotFoundError)):
        with pytest.raises(error):
            downloads.get(entry("a"), fetch, reader)
        assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_while_something_is_fetched_waits_for_nobody(tmp_path: Path) -> None:
    """Its end may be noticed by the thread that does the fetching, for one that holds the lock and waits for it."""
    downloads, source = Downloads(tmp_path, limit=50), Source()
    finished = [Reader()]
    gone = source.get(downloads, "a", finished[0])

    def fetch(part: Path) -> None:
        def transfer() -> None:
            finished.clear()
            gc.collect()
            part.write_bytes(b"b" * 100)

        loop = threading.Thread(target=transfer, daemon=True)
        loop.start()
        loop.join(timeout=20)
        assert not loop.is_alive(), "the transfer waits for its own end"

    used = Reader()
    assert downloads.get(entry("b"), fetch, used).exists()
    assert not gone.exists()  # was done by the one who had the lock
