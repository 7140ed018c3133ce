"""A full, forbidden or unreachable place: an error that says what happened, where, and what to do."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import storage.local as local_module
from schemas.problems import StoreError
from schemas.tables import MASKS
from storage.artifacts import ArtifactWriter
from storage.errors import store_error
from storage.maintenance import fsck, gc
from storage.remote import RemoteBackend, S3Backend
from storage.store import ArtifactStore

from .helpers import BUCKET, Place, check_whole, commit, fill, mask_columns


def check_error(error: StoreError, code: str, url: str) -> None:
    assert error.code == code
    assert url in error.message
    assert error.remedy


class FailingSystem:
    """``os`` for the local store, with one function that fails."""

    def __init__(self, name: str, number: int) -> None:
        self._name, self._number = name, number

    def __getattr__(self, name: str) -> object:
        if name != self._name:
            return getattr(os, name)

        def fail(*arguments: object, **options: object) -> None:
            raise OSError(self._number, os.strerror(self._number))

        return fail


@pytest.mark.parametrize("name", ["fsync", "rename", "link", "mkdir"])
@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "store_full"), (errno.EDQUOT, "store_full"), (errno.EACCES, "store_denied")]
)
def test_a_full_or_forbidden_local_store_says_so_and_nothing_half_done_is_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, code: str
) -> None:
    with ArtifactStore.open(tmp_path / "store") as store:
        commit(store, "before")
        with monkeypatch.context() as patch:
            patch.setattr(local_module, "os", FailingSystem(name, number))
            with pytest.raises(StoreError) as caught:
                commit(store, stage="other")
        check_error(caught.value, code, str(tmp_path / "store"))
        assert store.lookup("other", "key") is None
        assert fsck(store).clean
        commit(store)
        check_whole(store)
        check_whole(store, "before")
        gc(store, minimum_age=0)
        assert fsck(store).orphans == []


def test_a_full_scratch_disk_is_reported_from_every_kind_of_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with ArtifactStore.open(tmp_path / "store") as store, store.begin("masks", "key", recipe={}, stage_version=1) as writer:
        with writer.pictures("labels") as pictures:
            monkeypatch.setattr("builtins.open", full)
            with pytest.raises(StoreError) as caught:
                pictures.write_bytes(0, b"x")
            monkeypatch.undo()
        assert caught.value.code == "store_full"
        monkeypatch.setattr("storage.tables.pq.ParquetWriter.write_table", full)
        with pytest.raises(StoreError) as caught:
            fill(writer)
        assert caught.value.code == "store_full"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_table_on_a_full_disk_is_reported_by_arrow_as_full(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "work")
    (writer.directory / "masks.parquet").symlink_to("/dev/full")
    with pytest.raises(StoreError) as caught:
        writer.write_table(MASKS, mask_columns())
    check_error(caught.value, "store_full", str(writer.directory))


def test_what_a_stage_itself_raises_while_writing_is_left_as_it_is(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "work")

    def stage() -> None:
        with writer.table_writer(MASKS) as table:
            table.write(mask_columns())
            raise ConnectionResetError("of the stage")

    with pytest.raises(ConnectionResetError, match="of the stage"):
        stage()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_the_kernels_own_full_device_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="space") as caught, open("/dev/full", "wb") as file:
        file.write(b"x" * 100_000)
    check_error(store_error(caught.value, "writing x", "place"), "store_full", "place")


def test_a_file_system_without_hard_links_still_has_one_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "os", FailingSystem("link", errno.EOPNOTSUPP))
    with ArtifactStore.open(tmp_path / "store") as store:
        assert store.backend.create("commits/masks/other.json", b"1") is True
        assert store.backend.create("commits/masks/other.json", b"2") is False
        assert store.backend.read("commits/masks/other.json") == b"1"
        commit(store)
        check_whole(store)


@pytest.mark.parametrize("inside", ["file", "file/below"])
def test_a_store_below_a_file_is_unreachable(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError) as caught:
        ArtifactStore.open(tmp_path / inside)
    check_error(caught.value, "store_unreachable", str(tmp_path / "file"))


def test_unknown_schemes_are_named() -> None:
    with pytest.raises(StoreError, match="nosuch") as caught:
        ArtifactStore.open("nosuch://place/x")
    check_error(caught.value, "store_unreachable", "nosuch://place/x")
    with pytest.raises(StoreError) as caught:
        ArtifactStore.open("https://[broken", existing=True)
    check_error(caught.value, "store_unreachable", "https://[broken")


def test_a_missing_bucket_is_not_an_empty_store(s3_endpoint: str) -> None:
    with pytest.raises(StoreError, match="bucket 'no-such-bucket'") as caught:
        ArtifactStore.open("s3://no-such-bucket/x", storage_options={"endpoint_url": s3_endpoint})
    check_error(caught.value, "store_unreachable", "s3://no-such-bucket/x")


def test_missing_credentials_are_denied_with_the_variables_to_set(monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as caught:
        ArtifactStore.open(
            f"s3://{BUCKET}/x", storage_options={"endpoint_url": s3_endpoint, "client_kwargs": {"region_name": "eu-west-1"}}
        )
    check_error(caught.value, "store_denied", f"s3://{BUCKET}/x")


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


@pytest.mark.usefixtures("s3_endpoint")
def test_a_place_that_refuses_or_never_answers_is_given_up(silent_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Backend, "opening_timeout", 1.0)
    for endpoint in ("http://127.0.0.1:9", silent_endpoint):
        started = time.monotonic()
        with pytest.raises(StoreError) as caught:
            ArtifactStore.open("s3://bucket/x", storage_options={"endpoint_url": endpoint})
        check_error(caught.value, "store_unreachable", "s3://bucket/x")
        assert caught.value.retryable
        assert time.monotonic() - started < S3Backend.opening_timeout + 20, "bounded, whatever the machine's load"


def test_a_remote_store_that_fails_in_the_middle_keeps_what_was_committed(
    remote_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote_place.open() as store:
        commit(store, "before")
        backend = store.backend
        assert isinstance(backend, RemoteBackend)
        for name in ("put_file", "pipe_file"):
            for error, code in ((ConnectionResetError("gone"), "store_unreachable"), (PermissionError("no"), "store_denied")):

                def fail(*arguments: object, error: Exception = error, **options: object) -> None:
                    raise error

                with monkeypatch.context() as patch:
                    patch.setattr(backend.system, name, fail)
                    with pytest.raises(StoreError) as caught:
                        commit(store)
                check_error(caught.value, code, store.url)
                assert store.lookup("masks", "key") is None
        commit(store)
        gc(store, minimum_age=0)
        check_whole(store)
        check_whole(store, "before")


def test_a_bucket_over_its_quota_is_full(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    with ArtifactStore.open(f"s3://{BUCKET}/quota", storage_options={"endpoint_url": s3_endpoint}) as store:
        assert isinstance(store.backend, RemoteBackend)

        def refuse(*arguments: object, **options: object) -> None:
            raise OSError(errno.EIO, "quota") from ClientError(
                {"Error": {"Code": "QuotaExceeded", "Message": "quota"}}, "PutObject"
            )

        with monkeypatch.context() as patch:
            patch.setattr(store.backend.system, "put_file", refuse)
            with pytest.raises(StoreError) as caught:
                commit(store)
        check_error(caught.value, "store_full", store.url)


def test_names_and_passwords_in_an_address_are_not_shown() -> None:
    assert S3Backend("s3://name:secret@bucket/x").url == "s3://bucket/x"
