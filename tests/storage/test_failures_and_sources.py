"""Failures stay until somebody clears them; media are read once and never fill the disk."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from schemas.problems import MediaError, StoreError
from storage import sources
from storage.failures import Failure, FailureLog
from storage.keys import digest_bytes
from storage.store import FEW, ArtifactStore

from .helpers import BUCKET, Place, commit, make_place


def failure(stage: str, key: str, **changes: object) -> Failure:
    return Failure.model_validate(
        {"code": "no_face", "message": f"No face in {key}.", "remedy": "Use another clip.", "stage": stage, "key": key, **changes}
    )


def test_failures_are_recorded_found_and_cleared(store: ArtifactStore) -> None:
    log = FailureLog(store)
    assert log.all() == []
    assert log.lookup("track", "a") is None
    first = failure("track", "a", owner="clip 1", trace="Traceback ...", when="2026-01-01T00:00:00+00:00")
    log.record("track", "a", first)
    log.record("track", "a", first.model_copy(update={"attempts": 2}))
    log.record("masks", "b", failure("masks", "b", retryable=True))
    assert log.lookup("track", "a") == first.model_copy(update={"attempts": 2})
    assert log.lookup_many([("track", "a"), ("track", "c"), ("other", "a")]) == {("track", "a"): log.lookup("track", "a")}
    assert [(found.stage, found.key) for found in log.all()] == [("masks", "b"), ("track", "a")]
    log.clear("track", "a")
    log.clear("track", "a")
    assert log.lookup("track", "a") is None
    assert [found.key for found in log.all()] == ["b"]
    commit(store)
    assert store.stages() == ["masks"], "failures are a tree of their own"


def test_failures_of_few_are_looked_up_without_listing_the_whole_tree_and_of_many_with_one(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FailureLog(store)
    log.record("track", "1", failure("track", "1"))
    listed: list[str] = []
    walk = type(store.backend).walk
    monkeypatch.setattr(type(store.backend), "walk", lambda self, folder: listed.append(folder) or walk(self, folder))
    found = {("track", "1"): failure("track", "1")}
    assert log.lookup_many([(stage, str(number)) for stage in ("track", "masks") for number in range(60)]) == found
    assert listed == []
    assert log.lookup_many([(stage, str(number)) for stage in ("track", "masks") for number in range(FEW + 1)]) == found
    assert listed == ["failures/track", "failures/masks"]


def test_a_damaged_record_means_the_work_is_tried_again(store: ArtifactStore) -> None:
    log = FailureLog(store)
    log.record("track", "a", failure("track", "a"))
    for data in (b"{", b"[]", b'{"code": 1}'):
        store.write_bytes("failures/track/a.json", data)
        assert log.lookup("track", "a") is None
        assert log.all() == []


def remote_url(place: Place, name: str) -> str:
    return f"{place.url}/media/{name}"


@pytest.fixture(params=["memory", "s3"])
def remote_media(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place with three media of 1000 bytes, reached as a user's catalogue reaches them: by address, without options."""
    remote_place = make_place(request.param, tmp_path / "place", request)
    if remote_place.options:
        monkeypatch.setenv("AWS_ENDPOINT_URL", str(remote_place.options["endpoint_url"]))
    system, _ = fsspec.core.url_to_fs(remote_place.url)
    for name in "abc":
        system.pipe_file(remote_url(remote_place, f"{name}.mp4"), name.encode() * 1000)
    return remote_place


def test_a_local_file_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"abc")
    with sources.fetch(path, tmp_path / "scratch") as local:
        assert local == path
    with sources.fetch(f"file://{path}", tmp_path / "scratch") as local:
        assert local == path
    assert not (tmp_path / "scratch").exists()
    assert sources.describe(path) == (3, str(path.stat().st_mtime_ns))


def test_a_remote_file_is_copied_once_and_keeps_its_suffix(remote_media: Place, tmp_path: Path) -> None:
    url = remote_url(remote_media, "a.mp4")
    with sources.fetch(url, tmp_path) as local:
        assert local.suffix == ".mp4"
        assert local.read_bytes() == b"a" * 1000
        identity = local.stat().st_ino
    with sources.fetch(url, tmp_path) as local:
        assert local.stat().st_ino == identity
    assert sources.describe(url)[0] == 1000


def test_copies_stay_within_the_limit_and_never_go_while_they_are_read(remote_media: Place, tmp_path: Path) -> None:
    urls = {name: remote_url(remote_media, f"{name}.mp4") for name in "abc"}

    def kept() -> set[str]:
        return {path.read_bytes()[:1].decode() for path in tmp_path.glob("media/*/medium*")}

    with sources.fetch(urls["a"], tmp_path, 2500) as first:
        with sources.fetch(urls["b"], tmp_path, 2500):
            pass
        assert kept() == {"a", "b"}
        with sources.fetch(urls["c"], tmp_path, 2500):
            assert kept() == {"a", "c"}, "the one in use stays, the other one goes"
        with sources.fetch(urls["b"], tmp_path, 100) as larger:
            assert larger.read_bytes() == b"b" * 1000
            assert first.exists()


def test_a_reader_that_died_does_not_hold_its_copy(remote_media: Place, tmp_path: Path) -> None:
    with sources.fetch(remote_url(remote_media, "a.mp4"), tmp_path) as local:
        pass
    process = os.fork()
    if process == 0:
        with sources.fetch(remote_url(remote_media, "a.mp4"), tmp_path):
            os._exit(0 if local.exists() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    with sources.fetch(remote_url(remote_media, "b.mp4"), tmp_path, 1000):
        assert not local.exists()


def test_missing_and_unreadable_media_are_named(tmp_path: Path, remote_media: Place) -> None:
    for url in (tmp_path / "none.mp4", remote_url(remote_media, "none.mp4")):
        with pytest.raises(MediaError, match=r"none\.mp4") as caught:
            sources.describe(url)
        assert caught.value.code == "file_missing"
    with pytest.raises(MediaError) as caught, sources.fetch(tmp_path, tmp_path):
        pass
    assert caught.value.code == "file_denied"
    with pytest.raises(MediaError) as caught:
        sources.describe("nosuch://x/y.mp4")
    assert caught.value.code == "file_unsupported"


def test_digests_are_remembered_until_the_file_changes(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.mp4" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 100)
    read: list[Path] = []
    digest_file = sources.digest_file
    monkeypatch.setattr(sources, "digest_file", lambda path: read.append(path) or digest_file(path))
    wanted = {str(path): digest_bytes(path.read_bytes()) for path in paths}
    assert sources.digest_many([*paths, paths[0]], store) == wanted
    assert sorted(read) == sorted(paths)
    read.clear()
    assert sources.digest_many(paths, store) == wanted
    assert sources.digest_of(paths[1], store) == wanted[str(paths[1])]
    assert read == []
    paths[1].write_bytes(b"other")
    assert sources.digest_of(str(paths[1]), store) == digest_bytes(b"other")
    assert read == [paths[1]]
    assert not any(str(tmp_path) in path for path in store.list_documents("sources"))


class WebFile:
    """One file on a web server of this machine: what it is, which headers tell of it, how the server answers."""

    def __init__(self) -> None:
        self.data, self.status, self.sent = b"a" * 1000, 200, 0
        self.headers: dict[str, str] = {}
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(told.status)
                for name, value in {"Content-Length": str(len(told.data)), **told.headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()
                self.wfile.write(told.data)
                told.sent += told.status == 200

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/clip.mp4"


@pytest.fixture
def web_file() -> Iterator[WebFile]:
    served = WebFile()
    thread = threading.Thread(target=served.server.serve_forever)
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


@pytest.mark.parametrize("header", ["ETag", "Last-Modified", "Content-MD5", "Digest"])
def test_a_changed_web_file_is_noticed_by_any_header_that_tells_of_it(
    local_store: ArtifactStore, web_file: WebFile, header: str
) -> None:
    for content, value in ((b"a", '"Mon, 05 Jan 2026 10:00:00 GMT"'), (b"b", '"Tue, 06 Jan 2026 10:00:00 GMT"')):
        web_file.data, web_file.headers, web_file.sent = content * 1000, {header: value}, 0
        for _ in range(2):
            assert sources.digest_of(web_file.url, local_store, anew=True) == digest_bytes(content * 1000)
        assert web_file.sent == 1, "what has not changed is not copied again"


def test_a_web_file_that_nothing_tells_of_is_read_again_by_each_plan_but_not_by_its_work(
    local_store: ArtifactStore, web_file: WebFile
) -> None:
    for content in (b"a", b"b"):
        web_file.data, web_file.sent = content * 1000, 0
        assert sources.digest_of(web_file.url, local_store, anew=True) == digest_bytes(content * 1000)
        with ArtifactStore.open(local_store.url) as of_a_worker:
            assert sources.digest_of(web_file.url, of_a_worker) == digest_bytes(content * 1000)
        assert web_file.sent == 1


def test_a_web_server_in_trouble_is_not_a_missing_file(local_store: ArtifactStore, web_file: WebFile) -> None:
    web_file.status = 404
    with pytest.raises(MediaError) as missing:
        sources.digest_of(web_file.url, local_store)
    assert (missing.value.code, missing.value.retryable) == ("file_missing", False)
    web_file.status = 503
    for url in (web_file.url, "http://127.0.0.1:9/clip.mp4"):
        with pytest.raises(StoreError) as caught:
            sources.digest_of(url, local_store)
        assert (caught.value.code, caught.value.retryable) == ("store_unreachable", True)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_what_is_said_of_a_medium_does_not_tell_its_signature(local_store: ArtifactStore, web_file: WebFile, status: int) -> None:
    web_file.status = status
    with pytest.raises((MediaError, StoreError)) as caught:
        sources.digest_of(f"{web_file.url}?who=a%2Fb&sig=SECRET", local_store)
    assert web_file.url in caught.value.message
    assert "SECRET" not in f"{caught.value.message} {caught.value.remedy}"


def test_media_beside_the_store_are_reached_with_its_options_also_by_who_got_the_store_from_another_process(
    s3_endpoint: str, tmp_path: Path
) -> None:
    url = f"s3://{BUCKET}/beside/a.mp4"
    options = {"endpoint_url": s3_endpoint, "key": "test", "secret": "test"}
    fsspec.filesystem("s3", **options).pipe_file(url, b"a" * 1000)
    with ArtifactStore.open(f"s3://{BUCKET}/beside/store", scratch=tmp_path, storage_options=options) as store:
        handed = pickle.loads(pickle.dumps(store))
        assert sources.digest_of(url, handed) == digest_bytes(b"a" * 1000)
        with sources.open_medium(url, handed) as local:
            assert local.read_bytes() == b"a" * 1000
        assert handed.options_for("https://example.org/a.mp4") == handed.options_for("/media/a.mp4") == {}


def test_what_is_said_of_other_places_goes_with_the_store_to_another_process(tmp_path: Path) -> None:
    places = {"s3://footage": {"endpoint_url": "https://archive.example.org"}}
    with ArtifactStore.open(tmp_path, place_options=places) as store:
        handed = pickle.loads(pickle.dumps(store))
        assert handed.options_for("s3://footage/a.mp4") == places["s3://footage"]
        assert handed.options_for("s3://elsewhere/a.mp4") == {}


@pytest.mark.parametrize("url", ["https://[broken/b.mp4", "sftp://[1]/b.mp4"])
def test_an_address_that_is_none_is_an_error_of_its_medium(tmp_path: Path, url: str) -> None:
    with ArtifactStore.open(tmp_path) as store, pytest.raises((MediaError, StoreError)):
        sources.digest_of(url, store)


def test_options_that_a_place_does_not_take_are_told_as_such(tmp_path: Path) -> None:
    with (
        ArtifactStore.open(tmp_path, place_options={"ftp://ada@nas": {"username": "bob"}}) as store,
        pytest.raises(MediaError, match="with these options") as caught,
    ):
        sources.digest_of("ftp://ada@nas/a.mp4", store)
    assert (caught.value.code, caught.value.retryable) == ("file_unsupported", False)
    assert "place_options" in caught.value.remedy


def test_digest_of_a_remote_file_is_that_of_its_content(remote_media: Place) -> None:
    with remote_media.open() as store:
        assert sources.digest_of(remote_url(remote_media, "a.mp4"), store) == digest_bytes(b"a" * 1000)


def test_media_over_the_limit_are_refused_before_they_are_copied(
    remote_media: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = remote_url(remote_media, "a.mp4")
    with remote_media.open() as store:
        for name in (url, str(_file(tmp_path / "local.mp4", 1000))):
            with pytest.raises(MediaError, match=r"\.mp4 has 1,000 bytes") as caught:
                sources.digest_of(name, store, largest_bytes=999)
            assert caught.value.code == "too_large"
        assert not list(Path(store.scratch).glob("media/*/*"))
        assert sources.digest_of(url, store, limit_bytes=100, largest_bytes=1000) == digest_bytes(b"a" * 1000)
    # A place that says nothing of the size, or something wrong: what comes is counted.
    monkeypatch.setattr(sources, "describe", lambda url, options: (0, ""))
    with pytest.raises(MediaError) as caught, sources.fetch(url, tmp_path / "scratch", largest_bytes=999):
        pass
    assert caught.value.code == "too_large"
    assert not list((tmp_path / "scratch").glob("media/*/[mp]*"))


def _file(path: Path, size: int) -> Path:
    path.write_bytes(b"a" * size)
    return path


def test_keys_do_not_tell_local_from_remote(remote_media: Place, tmp_path: Path) -> None:
    local = tmp_path / "same.mp4"
    local.write_bytes(b"a" * 1000)
    with remote_media.open() as store:
        found = sources.digest_many([local, remote_url(remote_media, "a.mp4")], store)
    assert len(set(found.values())) == 1
    assert BUCKET not in "".join(found.values())
