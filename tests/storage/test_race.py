"""Two and more writers of one key: one wins, all continue with the winner's content, nothing of the others is left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from storage.maintenance import fsck, gc
from storage.store import ArtifactStore

from .helpers import FRAMES, Place, check_whole, commit, fill


def test_threads_that_commit_one_key_agree(place: Place) -> None:
    count = 5
    barrier = threading.Barrier(count)
    manifests = []
    with place.open() as store:
        store.scratch  # noqa: B018  made before the threads, as an engine does

        def work(number: int) -> None:
            with store.begin("masks", "key", recipe={}, stage_version=1, frames=FRAMES) as writer:
                fill(writer, share=(2 * number + 1) / 16)  # manifests of one length
                barrier.wait()
                manifests.append(writer.commit())

        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(manifests) == count
        check_whole(store)
        assert store.lookup("masks", "key") in manifests
        for manifest in manifests:
            assert store.artifact(manifest).table("masks").num_rows == len(FRAMES)
        assert fsck(store).clean
        if place.kind == "folders":
            return  # whose file system only looks before it writes: see the next test
        assert len(set(map(repr, manifests))) == 1
        assert {path.split("/")[3] for path in store.backend.walk("objects")} == {manifests[0].attempt}


def test_where_a_file_system_only_looks_the_later_writer_is_published_and_the_earlier_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``RemoteBackend`` says so: SFTP and SMB have no exclusive mode. Both go on, with what each has computed."""
    place = Place("folders", f"file://{tmp_path}/store", tmp_path / "scratch")
    with place.open() as first, place.open() as second:
        stored = second._store_objects
        seen = []

        def first_publishes_meanwhile(*arguments: object) -> object:
            mine = stored(*arguments)  # type: ignore[arg-type]
            seen.append(commit(first, share=0.25))
            return mine

        second._store_objects = first_publishes_meanwhile  # type: ignore[method-assign, assignment]
        with monkeypatch.context() as patched:
            # Both look before either writes; fsspec shares the file system between them.
            patched.setattr(second.backend.system, "exists", lambda path, **options: False)  # type: ignore[attr-defined]
            later = commit(second, share=0.75)
        assert first.lookup("masks", "key") == later
        check_whole(first, share=0.75)
        assert first.artifact(seen[0]).table("masks").column("shares")[0].as_py() == [pytest.approx(0.25)] * 6
        assert fsck(first).clean


def test_the_later_of_two_writers_takes_the_winners_manifest(place: Place) -> None:
    """The moment that luck rarely gives: both have stored their objects, neither has published."""
    with place.open() as first, place.open() as second:
        stored = second._store_objects

        def first_publishes_meanwhile(*arguments: object) -> object:
            mine = stored(*arguments)  # type: ignore[arg-type]
            commit(first, share=0.25)
            return mine

        second._store_objects = first_publishes_meanwhile  # type: ignore[method-assign, assignment]
        manifest = commit(second, share=0.75)
        assert manifest == first.lookup("masks", "key")
        assert manifest.facts == {"share": 0.25}
        check_whole(second, share=0.25)
        assert {path.split("/")[3] for path in second.backend.walk("objects")} == {manifest.attempt}


def test_processes_that_commit_the_same_keys_agree(tmp_path: Path) -> None:
    processes = []
    for number in range(3):
        process = os.fork()
        if process == 0:
            status = 1
            try:
                with ArtifactStore.open(tmp_path / "store") as store:
                    found = {key: commit(store, key, share=number / 8).attempt for key in map(str, range(12))}
                (tmp_path / f"found-{number}.json").write_text(json.dumps(found))
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes] == [0, 0, 0]
    found = [json.loads((tmp_path / f"found-{number}.json").read_text()) for number in range(3)]
    assert found[0] == found[1] == found[2]
    with ArtifactStore.open(tmp_path / "store") as store:
        report = fsck(store)
        assert report.clean
        assert report.checked == 12
        assert report.orphans == []


def test_gc_beside_writers_removes_nothing_they_need(tmp_path: Path) -> None:
    """Also not empty folders under their hands: gc with no minimum age would, with the default it does not."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with ArtifactStore.open(tmp_path / "store") as store:
                for number in range(15):
                    commit(store, str(number))
            status = 0
        finally:
            os._exit(status)
    with ArtifactStore.open(tmp_path / "store") as store:
        while not (done := os.waitpid(process, os.WNOHANG))[0]:
            gc(store)
        assert os.waitstatus_to_exitcode(done[1]) == 0
        report = fsck(store)
        assert (report.checked, report.clean, report.orphans) == (15, True, [])


@pytest.mark.parametrize("delay", [0.02, 0.1, 0.25])
def test_writers_killed_at_any_moment_leave_whole_artifacts(tmp_path: Path, delay: float) -> None:
    process = os.fork()
    if process == 0:
        store = ArtifactStore.open(tmp_path / "store")
        for number in range(10_000):
            commit(store, str(number))
        os._exit(0)
    deadline = time.monotonic() + 30
    while not (tmp_path / "store/commits").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with ArtifactStore.open(tmp_path / "store") as store:
        keys = store.committed("masks")
        report = fsck(store)
        assert report.clean
        assert report.checked == len(keys)
        gc(store, minimum_age=0)
        for key in keys:
            check_whole(store, key)
        assert fsck(store).orphans == []
