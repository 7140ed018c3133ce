"""gc removes only what nothing reaches; fsck finds every flipped byte; what it withdraws can be computed again."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from schemas.problems import StoreError
from storage.maintenance import fsck, gc, usage
from storage.store import ArtifactStore

from .helpers import FRAMES, check_whole, commit, fill


def orphan(store: ArtifactStore, key: str = "orphan") -> str:
    """An attempt as a kill between the objects and the manifest leaves it."""
    writer = store.begin("masks", key, recipe={}, stage_version=1)
    fill(writer)
    manifest = store._store_objects(writer.directory, writer.seal("0123456789abcdef"))
    writer.discard()
    return manifest.folder


def damage(store: ArtifactStore, path: str) -> None:
    data = store.backend.read(path)
    assert data is not None
    middle = len(data) // 2
    store.backend.replace(path, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


def test_gc_removes_orphans_and_never_what_a_manifest_reaches(store: ArtifactStore) -> None:
    manifest = commit(store)
    folder = orphan(store)
    inside = orphan(store, "key")
    report = gc(store, minimum_age=0, dry_run=True)
    assert report.attempts == sorted([folder, inside])
    assert len(store.backend.walk(folder)) == len(manifest.stored), "a dry run removes nothing"
    done = gc(store, minimum_age=0)
    assert done.attempts == report.attempts
    assert done.bytes == report.bytes == 2 * manifest.bytes
    assert {path.rsplit("/", 1)[0].removesuffix("/labels") for path in store.backend.walk("objects")} == {manifest.folder}
    check_whole(store)
    assert gc(store, minimum_age=0).attempts == []


def test_gc_leaves_alone_what_may_be_on_its_way_to_a_manifest(store: ArtifactStore) -> None:
    folder = orphan(store)
    assert gc(store).attempts == []
    assert gc(store, minimum_age=60).attempts == []
    assert store.backend.walk(folder)


def test_gc_judges_a_local_attempt_by_its_arrival_not_by_the_age_of_its_files(local_store: ArtifactStore) -> None:
    writer = local_store.begin("masks", "key", recipe={}, stage_version=1)
    fill(writer)
    for path in writer.directory.rglob("*"):
        os.utime(path, (time.time() - 90_000,) * 2)
    manifest = local_store._store_objects(writer.directory, writer.seal("0123456789abcdef"))
    assert gc(local_store).attempts == []
    assert gc(local_store, minimum_age=0).attempts == [manifest.folder]


def test_gc_does_not_remove_an_attempt_published_while_it_looks(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = store.begin("masks", "key", recipe={}, stage_version=1, frames=FRAMES)
    fill(writer)
    manifest = store._store_objects(writer.directory, writer.seal("0123456789abcdef"))
    committed = store.committed

    def published_after_the_listing(stage: str) -> set[str]:
        keys = committed(stage)
        store.backend.create("commits/masks/key.json", manifest.to_json())
        return keys

    monkeypatch.setattr(store, "committed", published_after_the_listing)
    store.backend.create("commits/masks/other.json", b"{}")  # the stage has a listing to look at
    assert gc(store, minimum_age=0).attempts == []
    check_whole(store)


def test_retention_drops_stages_or_what_a_function_names(store: ArtifactStore) -> None:
    for stage in ("masks", "render", "encode"):
        for share in (0.25, 0.5):
            commit(store, f"share{share * 100:.0f}", share=share, stage=stage)
    assert gc(store, drop={"render"}).withdrawn == [], "too young"
    assert gc(store, drop={"render"}, minimum_age=0, dry_run=True).withdrawn == ["render/share25", "render/share50"]
    assert store.committed("render") == {"share25", "share50"}
    report = gc(store, drop={"render"}, minimum_age=0)
    assert report.withdrawn == ["render/share25", "render/share50"]
    assert len(report.attempts) == 2
    assert store.committed("render") == set()
    report = gc(store, drop=lambda manifest: manifest.facts["share"] == 0.25, minimum_age=0)
    assert report.withdrawn == ["encode/share25", "masks/share25"]
    assert store.committed("masks") == {"share50"}
    check_whole(store, "share50")


def test_gc_removes_temporary_files_and_scratch_of_dead_processes(local_store: ArtifactStore) -> None:
    commit(local_store)
    root = Path(local_store.url)
    left = root / "commits/masks/.tmp-key.json-1-2"
    left.write_bytes(b"{")
    half = root / "objects/masks/key/.tmp-0123"
    half.mkdir()
    (half / "masks.parquet").write_bytes(b"PAR1")
    process = os.fork()
    if process == 0:
        (ArtifactStore.open(root).scratch / "left").write_bytes(b"x")
        os._exit(0)
    os.waitpid(process, 0)
    foreign = root / "scratch/ffffffff-1-1-00000000"
    foreign.mkdir()
    assert local_store.committed("masks") == {"key"}
    report = gc(local_store)
    assert report.temporary == []
    assert len(report.scratch) == 1
    assert foreign.exists(), "another machine's process may be alive"
    os.utime(foreign, (time.time() - 30 * 86_400,) * 2)
    report = gc(local_store, minimum_age=0)
    assert sorted(report.temporary) == ["commits/masks/.tmp-key.json-1-2", "objects/masks/key/.tmp-0123"]
    assert report.scratch == [foreign.name]
    assert not left.exists()
    assert not half.exists()
    assert not foreign.exists()
    assert local_store.scratch.exists()
    check_whole(local_store)


def test_fsck_of_a_whole_store_is_clean_and_counts_orphans_apart(store: ArtifactStore) -> None:
    commit(store)
    folder = orphan(store)
    report = fsck(store, repair=True)
    assert report.clean
    assert report.orphans == [folder]
    assert report.withdrawn == []
    assert report.checked == 1
    assert report.to_dict()["clean"] is True
    assert fsck(store, stages=["other"]).checked == 0


def test_a_flipped_byte_in_any_file_is_found_and_the_artifact_computed_again(store: ArtifactStore) -> None:
    manifest = commit(store)
    for entry in manifest.stored:
        path = f"{store.lookup('masks', 'key').folder}/{entry.path}"  # type: ignore[union-attr]
        damage(store, path)
        report = fsck(store)
        assert [(found.kind, found.path) for found in report.damaged] == [("file_content", path)]
        assert store.lookup("masks", "key") is not None, "without repair nothing changes"
        assert fsck(store, repair=True).withdrawn == ["masks/key"]
        assert store.lookup("masks", "key") is None
        assert commit(store).digest == manifest.digest
        check_whole(store)
        assert fsck(store).clean


def test_missing_short_and_misplaced_files_and_manifests_are_found(store: ArtifactStore) -> None:
    folders = {key: commit(store, key).folder for key in ("missing", "short", "moved", "edited", "cut")}
    store.backend.delete([f"{folders['missing']}/segment.bin"])
    store.backend.replace(f"{folders['short']}/segment.bin", b"seg")
    moved = store.backend.read("commits/masks/moved.json")
    assert moved is not None
    store.backend.replace("commits/masks/elsewhere.json", moved)
    edited = store.backend.read("commits/masks/edited.json")
    assert edited is not None
    store.backend.replace("commits/masks/edited.json", edited.replace(b'"share":0.5', b'"share":0.25', 1))
    store.backend.replace("commits/masks/cut.json", b'{"manifest":1,')
    kinds = {found.key: found.kind for found in fsck(store, repair=True).damaged}
    assert kinds == {
        "missing": "file_missing",
        "short": "file_size",
        "elsewhere": "manifest_unreadable",
        "edited": "digest_wrong",
        "cut": "manifest_unreadable",
    }
    assert fsck(store).clean
    assert store.committed("masks") == {"moved"}
    check_whole(store, "moved")


def test_reading_damaged_files_names_the_place_and_the_remedy(store: ArtifactStore) -> None:
    manifest = commit(store)
    artifact = store.artifact(manifest)
    tables_and_files = {"masks.parquet": lambda: artifact.table("masks"), "segment.bin": lambda: artifact.file("segment.bin")}
    for name, read in tables_and_files.items():
        path = f"{manifest.folder}/{name}"
        whole = store.backend.read(path)
        assert whole is not None
        spoiled: list[bytes | None] = [None, whole[:-1]]
        if name.endswith(".parquet"):
            spoiled.append(bytes(len(whole)))
        for data in spoiled:
            store.backend.delete([path]) if data is None else store.backend.replace(path, data)
            artifact = store.artifact(manifest)
            store.close()  # no local copies
            with pytest.raises(StoreError) as caught:
                read()
            assert caught.value.code == "artifact_damaged"
            assert not caught.value.retryable
            assert "masks" in caught.value.message
            assert "key" in caught.value.message
            assert name in caught.value.message
            assert "headswap fsck --repair" in caught.value.remedy
        store.backend.replace(path, whole)
    check_whole(store)


def test_a_damaged_picture_is_an_error_that_names_it(store: ArtifactStore) -> None:
    manifest = commit(store)
    entry = next(entry for entry in manifest.files if entry.path == f"labels/{FRAMES[1]:06d}.png")
    path = f"{manifest.folder}/{entry.container or entry.path}"
    data = store.backend.read(path)
    assert data is not None
    changes = {
        "emptied": data[: entry.offset] + bytes(entry.bytes) + data[entry.offset + entry.bytes :],
        "cut off": data[: entry.offset + entry.bytes - 5],
        "missing": None,
    }
    for changed in changes.values():
        store.backend.delete([path]) if changed is None else store.backend.replace(path, changed)
        with pytest.raises(StoreError) as caught:
            store.artifact(manifest).pictures("labels").read(FRAMES[1])
        assert caught.value.code == "artifact_damaged"
        assert entry.path in caught.value.message


def test_a_store_of_a_newer_program_is_left_alone(store: ArtifactStore) -> None:
    manifest = commit(store)
    store.backend.replace("commits/masks/key.json", manifest.to_json().replace(b'"manifest":1', b'"manifest":2'))
    for operation in (
        lambda: gc(store, minimum_age=0),
        lambda: fsck(store, repair=True),
        lambda: store.lookup("masks", "key"),
        lambda: store.lookup_many([("masks", "key")]),
        lambda: commit(store),
    ):
        with pytest.raises(StoreError) as caught:
            operation()
        assert caught.value.code == "store_newer"
    store.backend.replace("commits/masks/key.json", manifest.to_json())
    check_whole(store)


def test_fsck_does_not_take_what_it_may_not_read_for_damage(local_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(local_store)

    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "denied", str(path))

    monkeypatch.setattr("storage.maintenance.digest_file", refuse)
    with pytest.raises(StoreError) as caught:
        fsck(local_store, repair=True)
    assert caught.value.code == "store_denied"
    assert local_store.lookup("masks", "key") is not None


def test_usage_counts_by_stage(store: ArtifactStore) -> None:
    first, second = commit(store, "a"), commit(store, "b")
    commit(store, "a", stage="render")
    orphan(store)
    found = usage(store)
    assert (found["masks"].artifacts, found["masks"].bytes) == (2, first.bytes + second.bytes)
    assert (found["masks"].orphan_attempts, found["masks"].orphan_bytes) == (1, first.bytes)
    assert (found["render"].artifacts, found["render"].orphan_attempts) == (1, 0)
