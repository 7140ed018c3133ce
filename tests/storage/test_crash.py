"""A kill at every step of a commit: nothing half-written is ever seen, and the next try succeeds."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.maintenance import fsck, gc, usage
from storage.remote import RemoteBackend
from storage.store import ArtifactStore

from .helpers import Place, check_whole, commit

KILLED = 137
_CHANGES = {
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.utime",
    "os.truncate",
    "shutil.copyfile",
    "shutil.rmtree",
}


def check_after_crash(place: Place) -> None:
    """Whatever happened before: absent or whole, no damage; then a second try commits and gc leaves only that."""
    with place.open() as store:
        if store.lookup("masks", "key") is not None:
            check_whole(store)
        assert store.committed("masks") == ({"key"} if store.lookup("masks", "key") else set())
        assert fsck(store).clean
        commit(store)
        check_whole(store)
        gc(store, minimum_age=0)
        check_whole(store)
        report = fsck(store)
        assert report.clean
        assert report.checked == 1
        assert report.orphans == []
        assert usage(store)["masks"].orphan_bytes == 0
        assert not [path for path in store.backend.walk("commits") if path != "commits/masks/key.json"]


def kill_before_change(number: int) -> None:
    """From now on count every change to the file system, and die like ``kill -9`` just before the given one."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in _CHANGES or writes:
            seen += 1
            if seen == number:
                os._exit(KILLED)

    sys.addaudithook(hook)


def commit_in_child(place: Place, number: int) -> bool:
    """Whether the child was killed, that is, whether its commit has at least ``number`` steps."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            store = place.open()
            kill_before_change(number)
            commit(store)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def test_local_commit_killed_before_any_change_of_the_file_system(tmp_path: Path) -> None:
    number, outcomes = 1, []
    while True:
        place = Place("local", str(tmp_path / f"store-{number}"), tmp_path)
        killed = commit_in_child(place, number)
        with place.open() as store:
            outcomes.append(store.lookup("masks", "key") is not None)
        check_after_crash(place)
        assert len(list((Path(place.url) / "scratch").iterdir())) == 0
        if not killed:
            break
        number += 1
    assert number > 15, "the hook saw the steps"
    assert outcomes == sorted(outcomes), "absent up to the publication, whole from then on"
    assert outcomes[0] is False
    assert sum(outcomes) > 1, "a kill after the publication was tried too"


def test_local_commit_killed_on_a_disk_apart_from_scratch(tmp_path: Path) -> None:
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    scratch = Path("/dev/shm") / f"headswap-crash-{os.getpid()}"

    class Apart(Place):
        def open(self) -> ArtifactStore:
            return ArtifactStore.open(self.url, scratch=scratch)

    number = 1
    while True:
        place = Apart("local", str(tmp_path / f"store-{number}"), tmp_path)
        killed = commit_in_child(place, number)
        check_after_crash(place)
        if not killed:
            break
        number += 3  # the steps between are those of the other test
    scratch.rmdir()


class Crash(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


class Faulty:
    """An fsspec file system that dies just before, or just after, its n-th operation."""

    def __init__(self, system: Any, number: int, after: bool) -> None:
        self._system, self._number, self._after = system, number, after
        self._operations = itertools.count(1)  # shared by the threads that upload

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._system, name)
        if name not in ("pipe_file", "put_file", "cat_file", "ls", "find", "rm_file", "call_s3"):
            return operation

        def counted(*arguments: Any, **options: Any) -> Any:
            last = next(self._operations) == self._number
            if last and not self._after:
                raise Crash
            try:
                return operation(*arguments, **options)
            finally:
                if last:
                    raise Crash

        return counted


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_remote_commit_that_dies_at_any_operation(remote_place: Place, tmp_path: Path, after: bool) -> None:
    number, published = 1, []
    while True:
        place = Place(remote_place.kind, f"{remote_place.url}/{number}", remote_place.scratch, remote_place.options)
        store = place.open()
        assert isinstance(store.backend, RemoteBackend)
        store.backend._connected = (Faulty(store.backend.system, number, after), store.backend.root)
        try:
            commit(store)
            finished = True
        except Crash:
            finished = False
        store.close()
        with place.open() as reading:
            published.append(reading.lookup("masks", "key") is not None)
        check_after_crash(place)
        if finished:
            break
        number += 1
    assert number > 4
    assert published == sorted(published)
    assert published[-2:] == [after, True], "the publication is the last operation"


def test_answer_lost_after_the_publication_does_not_lose_the_artifact(remote_place: Place) -> None:
    """A PUT that arrived but whose answer did not: the repeated one is refused, and what is found there is one's own."""
    with remote_place.open() as store:
        backend = store.backend
        assert isinstance(backend, RemoteBackend)
        create = type(backend).create

        def twice(path: str, data: bytes) -> bool:
            create(backend, path, data)
            return create(backend, path, data)

        backend.create = twice  # type: ignore[method-assign]
        manifest = commit(store)
        assert store.lookup("masks", "key") == manifest
        check_whole(store)
