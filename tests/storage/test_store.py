"""The store keeps its promises on every kind of place: local files, memory, S3."""

from __future__ import annotations

import os
import pickle
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from schemas.problems import StoreError
from schemas.tables import CHUNKS, MASKS, TableSchema
from storage import tables
from storage.artifacts import ArtifactWriter
from storage.manifests import Manifest
from storage.store import FEW, ArtifactStore

from .helpers import FRAMES, KINDS, Place, check_whole, commit, fill, make_place, mask_columns, picture


def test_what_was_committed_is_read_back_by_another_process(place: Place) -> None:
    with place.open() as writing:
        manifest = commit(writing)
    with place.open() as reading:
        check_whole(reading, share=0.5)
        assert reading.lookup("masks", "key") == manifest
        artifact = reading.artifact(manifest)
        assert artifact.digest == manifest.digest
        assert artifact.facts == {"share": 0.5}
        assert [artifact.has(name) for name in ("masks", "labels", "segment.bin", "label", "other")] == [
            True,
            True,
            True,
            False,
            False,
        ]


def test_nothing_is_visible_before_the_commit_and_nothing_is_left_without_it(store: ArtifactStore) -> None:
    with store.begin("masks", "key", recipe={}, stage_version=1) as writer:
        fill(writer)
        assert store.lookup("masks", "key") is None
        assert store.committed("masks") == set()
    assert not writer.directory.exists()
    assert store.backend.walk("objects") == {}
    writer = store.begin("masks", "key", recipe={}, stage_version=1)
    fill(writer)
    writer.discard()
    assert store.lookup("masks", "key") is None
    assert not writer.directory.exists()


def test_content_digest_is_the_same_on_every_place_and_in_every_attempt(
    tmp_path: Path, s3_endpoint: str, request: pytest.FixtureRequest
) -> None:
    digests, attempts = set(), set()
    for kind in KINDS:
        for round_ in range(2):
            with make_place(kind, tmp_path / f"{kind}{round_}", request).open() as store:
                manifest = commit(store)
                digests.add(manifest.digest)
                attempts.add(manifest.attempt)
    assert len(digests) == 1
    assert len(attempts) == 2 * len(KINDS)
    other = ArtifactWriter(tmp_path / "other")
    fill(other)
    assert other.local().digest in digests


def test_content_digest_changes_with_facts_names_and_contents(tmp_path: Path) -> None:
    def digest(number: int, name: str = "a.bin", data: bytes = b"x", fact: object = 1) -> str:
        writer = ArtifactWriter(tmp_path / str(number))
        writer.file(name).write_bytes(data)
        writer.facts["fact"] = fact
        return writer.local().digest

    assert digest(0) == digest(1)
    assert len({digest(2), digest(3, name="b.bin"), digest(4, data=b"y"), digest(5, fact=2), digest(6, fact=1.0)}) == 5


def test_manifest_survives_json_and_names_no_host_or_path(place: Place) -> None:
    with place.open() as store:
        manifest = commit(store)
        data = store.backend.read("commits/masks/key.json")
    assert data is not None
    assert Manifest.from_json(data) == manifest
    text = data.decode()
    for trace in (str(place.scratch), place.url, os.uname().nodename, "127.0.0.1", "AWS"):
        assert trace not in text
    assert manifest.bytes == sum(entry.bytes for entry in manifest.stored)
    for cut in (b"", data[:-1], b"[]", b'{"manifest":1}'):
        with pytest.raises(ValueError, match=r"manifest|JSON|column|char"):
            Manifest.from_json(cut)


def test_many_are_looked_up_with_one_listing_and_known_ones_are_not_read_again(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        commit(store, f"key{number}", share=number / 8)
    commit(store, "key0", stage="other")
    calls: list[str] = []
    backend = type(store.backend)
    for name in ("names", "read_many", "read"):
        original = getattr(backend, name)

        def counted(self: object, argument: object, *rest: object, name: str = name, original: object = original) -> object:
            if name != "read_many" or argument:
                calls.append(name)
            return original(self, argument, *rest)  # type: ignore[operator]

        monkeypatch.setattr(backend, name, counted)
    numbers = range(FEW + 1)
    items = [("masks", f"key{2 * number}") for number in numbers] + [("other", f"key{number}") for number in numbers]
    found = store.lookup_many(items)
    assert set(found) == {("masks", "key0"), ("masks", "key2"), ("masks", "key4"), ("other", "key0")}
    assert found["masks", "key2"].facts == {"share": 0.25}
    assert calls.count("names") == 2
    calls.clear()
    assert store.lookup_many(items) == found
    assert calls == ["names", "names"]
    store.withdraw("masks", "key2")
    commit(store, "key6")
    assert set(store.lookup_many(items)) == set(found) - {("masks", "key2")} | {("masks", "key6")}
    assert store.committed("masks") == {"key0", "key1", "key3", "key4", "key6"}
    assert store.stages() == ["masks", "other"]


def test_a_video_of_many_chunks_is_looked_up_without_listing_the_whole_store(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, "key0")

    def listed(self: object, *rest: object) -> dict[str, object]:
        raise AssertionError("a listing grows with the store")

    monkeypatch.setattr(type(store.backend), "names", listed)
    chunks = [("masks", f"key{number}") for number in range(60)]
    assert set(store.lookup_many(chunks)) == {("masks", "key0")}


def test_manifests_are_read_a_bounded_number_at_a_time(local_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        commit(local_store, f"key{number}")
    read: list[int] = []
    read_many = type(local_store.backend).read_many
    monkeypatch.setattr(
        type(local_store.backend), "read_many", lambda self, paths: read.append(len(paths)) or read_many(self, paths)
    )
    monkeypatch.setattr("storage.store._BATCH", 2)
    items = [("masks", f"key{number}") for number in range(5)]
    assert set(local_store.lookup_many(items)) == set(items)
    monkeypatch.setattr("storage.store.FEW", 1)  # by a listing
    assert set(local_store.lookup_many(items)) == set(items)
    assert [key for key, _ in local_store.manifests("masks")] == [key for _, key in items]
    assert read == [2, 2, 1] * 3


def test_a_withdrawn_and_recomputed_artifact_is_seen_by_who_knew_the_old_one(place: Place) -> None:
    with place.open() as first, place.open() as second:
        old = commit(first, share=0.25)
        assert second.lookup_many([("masks", "key")]) == {("masks", "key"): old}
        first.withdraw("masks", "key")
        new = commit(first, share=0.5)
        assert second.lookup_many([("masks", "key")]) == {("masks", "key"): new}


def test_a_listing_does_not_lose_keys_while_others_come_and_go(local_store: ArtifactStore) -> None:
    commit(local_store)
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            local_store.backend.create("commits/masks/other.json", b"{}")
            local_store.withdraw("masks", "other")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            assert "key" in local_store.committed("masks")
            assert ("masks", "key") in local_store.lookup_many([("masks", "key"), ("masks", "other")])
    finally:
        stop.set()
        thread.join()


def test_second_commit_of_a_key_gives_the_first_manifest(store: ArtifactStore) -> None:
    first = commit(store, share=0.25)
    second = commit(store, share=0.5)
    assert second == first
    check_whole(store, share=0.25)
    assert {path.split("/")[3] for path in store.backend.walk("objects")} == {first.attempt}


def test_a_cut_off_manifest_counts_as_none_and_is_replaced(store: ArtifactStore) -> None:
    data = commit(store, share=0.25).to_json()
    store.backend.replace("commits/masks/key.json", data[: len(data) // 2])
    assert store.lookup("masks", "key") is None
    assert store.lookup_many([("masks", "key")]) == {}
    commit(store, share=0.5)
    check_whole(store, share=0.5)


def test_store_works_after_pickling_and_forking(place: Place) -> None:
    with place.open() as store:
        manifest = commit(store)
        copy = pickle.loads(pickle.dumps(store))
        check_whole(copy)
        copy.close()
        if place.kind == "memory":
            return  # a child has its own memory
        process = os.fork()
        if process == 0:
            status = 1
            try:
                check_whole(store)
                committed = commit(store, "from-child", share=0.75)
                status = 0 if committed.stage == "masks" and store.scratch.name.split("-")[1] == str(os.getpid()) else 2
                store.close()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        check_whole(store, "from-child", 0.75)
        assert store.lookup("masks", "key") == manifest


def test_pictures_are_a_folder_locally_and_one_plain_tar_on_object_stores(place: Place, tmp_path: Path) -> None:
    with place.open() as store:
        manifest = commit(store)
        objects = {path.removeprefix(f"{manifest.folder}/") for path in store.backend.walk("objects")}
        numbered = {f"labels/{frame:06d}.png" for frame in FRAMES}
        assert {entry.path for entry in manifest.files} == numbered | {"masks.parquet", "segment.bin"}
        if place.kind == "local":
            assert objects == numbered | {"masks.parquet", "segment.bin"}
            return
        assert objects == {"labels.tar", "masks.parquet", "segment.bin"}
        local = tmp_path / "labels.tar"
        store.backend.download(f"{manifest.folder}/labels.tar", local)
        with tarfile.open(local) as archive:
            assert set(archive.getnames()) == numbered
            assert {(item.mtime, item.uid, item.gid, item.uname, item.mode) for item in archive} == {(0, 0, 0, "", 0o644)}
        first = store.artifact(manifest).pictures("labels")
        np.testing.assert_array_equal(first.read(FRAMES[2]), picture(FRAMES[2]))
        assert not (store.scratch / "downloads").exists(), "one picture is read by a range request"
        for frame in [*FRAMES, *FRAMES]:
            np.testing.assert_array_equal(first.read(frame), picture(frame))
        assert len(list((store.scratch / "downloads").iterdir())) == 1, "many pictures are read from one copy"


def test_tars_of_the_same_pictures_are_the_same_bytes(remote_place: Place) -> None:
    with remote_place.open() as store:
        first, second = commit(store, "a"), commit(store, "b")
        assert first.containers[0].digest == second.containers[0].digest


def test_tables_are_filtered_by_column_and_frame_and_read_in_batches(store: ArtifactStore) -> None:
    with store.begin("masks", "key", recipe={}, stage_version=1) as writer:
        with writer.table_writer(MASKS) as table_writer:
            for start in range(0, 100, 20):
                table_writer.write(mask_columns(range(start, start + 20)))
        writer.write_table(CHUNKS, {"chunk": [0], "shot": [0], "start": [0], "stop": [100]}, name="renamed")
        manifest = writer.commit()
    artifact = store.artifact(manifest)
    found = artifact.table("masks", columns=["shares", "frame"], frames=range(35, 45))
    assert found.column_names == ["shares", "frame"]
    assert tables.array(found, "frame").tolist() == list(range(35, 45))
    assert artifact.table("renamed").to_pylist() == [{"chunk": 0, "shot": 0, "start": 0, "stop": 100}]
    assert [piece.num_rows for piece in artifact.batches("masks", columns=["frame"], rows=50)] == [50, 50]


def test_a_table_of_another_schema_or_version_is_refused(store: ArtifactStore) -> None:
    artifact = store.artifact(commit(store))
    assert artifact.table("masks", schema=MASKS).num_rows == 4
    newer = TableSchema("masks", MASKS.version + 1, MASKS.columns)
    for wanted in (lambda: artifact.table("masks", schema=newer), lambda: artifact.table("masks", columns=["no_such"])):
        with pytest.raises(StoreError) as caught:
            wanted()
        assert caught.value.code == "schema_mismatch"
        assert caught.value.remedy
    with pytest.raises(StoreError, match=r"no 'other\.parquet'") as caught:
        artifact.table("other")
    assert caught.value.code == "artifact_incomplete"


def test_incomplete_output_is_never_committed(store: ArtifactStore) -> None:
    def attempt(spoil: object) -> StoreError:
        def work() -> None:
            with store.begin("masks", "key", recipe={}, stage_version=1, frames=FRAMES) as writer:
                spoil(writer)  # type: ignore[operator]
                writer.commit()

        with pytest.raises(StoreError) as caught:
            work()
        return caught.value

    def missing_picture(writer: ArtifactWriter) -> None:
        with writer.pictures("labels") as pictures:
            pictures.write(FRAMES[0], picture(0))

    def open_table(writer: ArtifactWriter) -> None:
        writer.table_writer(MASKS).__enter__()

    spoils = {
        "segment.mp4": lambda writer: writer.file("segment.mp4"),
        "lacks 3 frames": missing_picture,
        "unknown ones": lambda writer: writer.write_table(MASKS, mask_columns(range(9, 15))),
        "open": open_table,
    }
    for says, spoil in spoils.items():
        error = attempt(spoil)
        assert error.code == "output_incomplete"
        assert says in str(error)
    assert store.lookup("masks", "key") is None
    assert store.backend.walk("objects") == {}


def test_facts_that_are_no_json_are_refused_and_undeclared_files_left_out(store: ArtifactStore) -> None:
    with store.begin("masks", "bad", recipe={}, stage_version=1) as writer:
        writer.facts["path"] = Path("x")
        with pytest.raises(TypeError, match=r"value\.path"):
            writer.commit()
    with store.begin("masks", "key", recipe={}, stage_version=1) as writer:
        fill(writer)
        (writer.directory / "half-encoded.tmp").write_bytes(b"x")
        manifest = writer.commit()
    assert not any("half-encoded" in path for path in store.backend.walk("objects"))
    check_whole(store)
    with store.begin("facts", "only", recipe={}, stage_version=1) as writer:
        writer.facts["numbers"] = (1, 2)
        manifest = writer.commit()
    assert store.artifact(manifest).facts == {"numbers": [1, 2]}


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden"])
def test_names_that_would_leave_the_artifact_are_refused(tmp_path: Path, name: str) -> None:
    writer = ArtifactWriter(tmp_path / "work")
    with pytest.raises(ValueError, match="no file name"):
        writer.file(name)


def test_names_and_frames_are_written_once(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "work")
    with writer.pictures("labels") as pictures:
        pictures.write(3, picture(0))
        with pytest.raises(ValueError, match="already"):
            pictures.write(3, picture(1))
    with pytest.raises(ValueError, match="already"):
        writer.file("labels")
    with pytest.raises(ValueError, match="without loss"), writer.pictures("photos", ".jpg"):
        pass


def test_documents_are_replaced_listed_and_deleted(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.read_document("runs/1/plan.json") is None
    store.write_document("runs/1/plan.json", {"jobs": 1})
    store.write_document("runs/1/plan.json", {"jobs": 2})
    store.write_document("runs/2/plan.json", {"jobs": 3})
    assert store.read_document("runs/1/plan.json") == {"jobs": 2}
    assert store.list_documents("runs") == ["runs/1/plan.json", "runs/2/plan.json"]
    assert store.list_documents("runs/2/") == ["runs/2/plan.json"]
    assert store.list_folders("runs") == ["1", "2"]
    assert store.list_folders("none") == []
    assert store.read_documents(["runs/1/plan.json", "runs/9/plan.json"]) == {"runs/1/plan.json": {"jobs": 2}}
    store.delete_document("runs/1/plan.json")
    store.delete_document("runs/1/plan.json")
    assert store.list_documents("runs") == ["runs/2/plan.json"]
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"picture")
    store.put_file(source, "runs/2/page/a.png")
    store.fetch_file("runs/2/page/a.png", target)
    assert target.read_bytes() == b"picture"
    store.write_bytes("runs/2/page/b.html", b"<html>")
    assert store.read_bytes("runs/2/page/b.html") == b"<html>"
    with pytest.raises(FileNotFoundError):
        store.fetch_file("runs/2/none", target)
    for path in ("../x", "/x", "objects/x", "commits/x", "a//b", ""):
        with pytest.raises(ValueError, match="no place"):
            store.write_document(path, {})
    for stage, key in (("Masks", "k"), ("masks", "../k"), ("a/b", "k"), ("masks", "")):
        with pytest.raises(ValueError, match="no "):
            store.lookup(stage, key)


def test_scratch_is_one_folder_per_process_and_that_of_dead_processes_goes(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    process = os.fork()
    if process == 0:
        (store.scratch / "left behind").write_bytes(b"x")
        os._exit(0)
    os.waitpid(process, 0)
    assert len(list((tmp_path / "store/scratch").iterdir())) == 1
    own = store.scratch
    other = ArtifactStore.open(tmp_path / "store")
    assert other.scratch != own
    assert set((tmp_path / "store/scratch").iterdir()) == {own, other.scratch}, "the dead go, the living stay"
    store.close()
    other.close()
    assert list((tmp_path / "store/scratch").iterdir()) == []


def test_scratch_on_another_disk_is_copied_and_committed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with ArtifactStore.open(tmp_path / "store", scratch=Path("/dev/shm") / f"headswap-test-{os.getpid()}") as store:
        commit(store)
        check_whole(store)
        parent = store.scratch.parent
    parent.rmdir()
