"""Access that is given for the store serves what lies beside it, and nothing else; none of it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.places import expanded_path, name_of, options_for, place_of, told_without_credentials, without_credentials
from schemas.problems import HeadswapError, StoreError, UsageError
from storage.errors import store_error

OPTIONS = {"key": "secret"}


@pytest.mark.parametrize(
    ("url", "store", "shared"),
    [
        ("s3://media/a.mp4", "s3://bucket/store", True),
        ("s3://media/a.mp4", "s3a://bucket/store", True),
        ("gcs://media/a.mp4", "gs://bucket/store", True),
        ("az://media/a.mp4", "abfs://bucket/store", True),
        ("abfs://media@ours.dfs.core.windows.net/a.mp4", "abfs://store@ours.dfs.core.windows.net/x", True),
        ("abfs://media@theirs.dfs.core.windows.net/a.mp4", "abfs://store@ours.dfs.core.windows.net/x", False),
        ("abfs://media@theirs.dfs.core.windows.net/a.mp4", "abfs://store/x", False),
        ("ssh://nas/a.mp4", "sftp://NAS/store", True),
        ("sftp://nas.evil.example/a.mp4", "sftp://nas/store", False),
        ("sftp://nas:2222/a.mp4", "sftp://nas/store", False),
        ("sftp://ada@nas/a.mp4", "sftp://nas/store", False),
        ("ftp://elsewhere/a.mp4", "ftp://nas/store", False),
        ("smb://nas/a.mp4", "sftp://nas/store", False),
        ("https://example.org/a.mp4", "s3://bucket/store", False),
        ("/media/a.mp4", "s3://bucket/store", False),
        ("/media/a.mp4", "/store", False),
        ("file:///media/a.mp4", "file:///store", False),
        ("a.mp4", None, False),
        ("s3://media/a.mp4", None, False),
        ("https://[broken/a.mp4", "sftp://nas/store", False),
        ("sftp://[broken/a.mp4", "sftp://nas/store", False),
        ("s3://bucket[1]/a.mp4", "s3://bucket/store", True),
    ],
)
def test_the_options_of_the_store_open_what_lies_beside_it_alone(url: str, store: str | None, shared: bool) -> None:
    assert options_for(url, store, OPTIONS) == (OPTIONS if shared else {})


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("simplecache::s3://media/a.mp4", {"s3": OPTIONS}),
        ("zip://a.mp4::s3a://media/b.zip", {"s3a": OPTIONS}),
        ("zip://a.mp4::https://example.org/b.zip", {}),
        ("zip://a.mp4::/media/b.zip", {}),
    ],
)
def test_links_of_a_chained_address_get_theirs(url: str, found: dict[str, dict[str, str]]) -> None:
    assert options_for(url, "s3://bucket/store", OPTIONS) == found


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://footage/a.mp4", {"profile": "archive"}),
        ("s3://footage/new/a.mp4", {"profile": "new"}),
        ("s3://footage", {"profile": "archive"}),
        ("s3://footage-2/a.mp4", OPTIONS),
        ("s3://public/a.mp4", {}),
        ("s3a://public/a.mp4", {}),
        ("hf://datasets/a.mp4", {"token": "x"}),
        ("s3a://footage/a.mp4", {"profile": "archive"}),
        ("s3://shows/late/a.mp4", {"profile": "late"}),
        ("https://cdn.example/a.mp4", {"headers": "x"}),
        ("https://cdn.example.evil/a.mp4", {}),
        ("simplecache::s3://footage/a.mp4", {"s3": {"profile": "archive"}}),
    ],
)
def test_what_is_said_of_a_place_holds_for_what_lies_in_it(url: str, found: dict[str, object]) -> None:
    places = {
        "s3://footage/": {"profile": "archive"},
        "s3://footage/new": {"profile": "new"},
        "s3://public": {},
        "s3://shows/late": {"profile": "late"},
        "s3a://shows": {"profile": "shows"},
        "s3a://shows/early-in-the-morning": {"profile": "early"},
        "hf://": {"token": "x"},
        "https://cdn.example": {"headers": "x"},
    }
    assert options_for(url, "s3://bucket/store", OPTIONS, places) == found


def test_a_path_begins_in_a_home_or_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert expanded_path("~/store") == Path("/home/ada/store")
    assert expanded_path("~nobody-here/store") == Path("~nobody-here/store")
    assert expanded_path(Path("store")) == Path("store")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/media/a?b#c@d.mp4", "/media/a?b#c@d.mp4"),
        ("s3://bucket/a?b.mp4", "s3://bucket/a?b.mp4"),
        ("sftp://ada:SECRET@nas/a.mp4", "sftp://nas/a.mp4"),
        ("sftp://ada:SEC@RET@nas/a@b.mp4", "sftp://nas/a@b.mp4"),
        ("/media//me@home/x.mp4", "/media//me@home/x.mp4"),
        ("https://ada:SECRET@cdn/a.mp4?sig=SECRET", "https://cdn/a.mp4?…"),
        ("zip://a.mp4::HTTPS://cdn/b.zip?sig=SECRET", "zip://a.mp4::HTTPS://cdn/b.zip?…"),
        ("http://host?u=a@b&sig=SECRET", "http://host?…"),
        ("https://cdn/take#3.mp4?sig=SECRET", "https://cdn/take#…"),
        ("https://cdn/a.mp4?", "https://cdn/a.mp4?"),
        ("http://[::1]:9000/a.mp4?sig=SECRET", "http://[::1]:9000/a.mp4?…"),
        ("https://cdn/a.mp4?sig=AB::SECRET", "https://cdn/a.mp4?…"),
        ("webdav+https://cdn/b.zip?sig=SECRET", "webdav+https://cdn/b.zip?…"),
        ("https://ada:SECRET?x@cdn/a.mp4", "https://cdn/a.mp4"),
        ("sftp://ada:SEC/RET@nas/a.mp4", "sftp://nas/a.mp4"),
        ("sftp://nas:2222/me@home.mp4", "sftp://nas:2222/me@home.mp4"),
        ("s3://KEY:SECRET@bucket/a.mp4", "s3://bucket/a.mp4"),
        ("abfs://media@ours.dfs.core.windows.net/a.mp4", "abfs://media@ours.dfs.core.windows.net/a.mp4"),
        ("zip://me@home.mp4::/media/b.zip", "zip://me@home.mp4::/media/b.zip"),
        ("memory://a@b.mp4", "memory://a@b.mp4"),
        ("sftp://ada:it's SECRET@nas/a.mp4", "sftp://nas/a.mp4"),
        ("github://org:repo@main/a.mp4", "github://org:repo@main/a.mp4"),
        ("/media/a::b/c.mp4", "/media/a::b/c.mp4"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
    assert "SECRET" not in name_of(url)
    assert told_without_credentials(f"Reading {url} failed: none.").startswith(f"Reading {shown} failed")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://[2001:db8::1]:9000/a.mp4", "a.mp4"),
        ("sftp://ada:SEC/RET@nas", "sftp://nas"),
        ("memory://a@b.mp4", "a@b.mp4"),
        ("zip://", "zip://"),
        ("/media/a::b/c.mp4", "c.mp4"),
    ],
)
def test_odd_addresses_have_names_too(url: str, name: str) -> None:
    assert name_of(url) == name


@pytest.mark.parametrize(
    "text",
    [
        "url=\"https://cdn/clip.mp4?response-content-disposition=attachment; filename='a.mp4'&sig=SECRET\"",
        "url='https://cdn/ada's%20clip.mp4?sig=SECRET'",
        "https://cdn/my file.mp4?sig=SECRET: no",
        "sftp://ada:it's SECRET@nas/in/a.png: no",
        "_sftp://ada:SECRET@nas/x",
        "https://cdn.example/my face.png?SECRETTOKEN",
        "https://cdn.example/my face.png#SECRET is missing",
        "first sftp://ada:SECRET@nas/x, then https://ada:SECRET@cdn/y?a=SECRET#SECRET",
    ],
)
def test_errors_say_no_credentials_of_addresses_however_a_client_writes_them(text: str) -> None:
    assert "SECRET" not in str(HeadswapError("a_code", text, text))
    assert "SECRET" not in str(StoreError("a_code", "Nothing.", text).args)
    assert "SECRET" not in str(UsageError([text], text).problems)
    assert "SECRET" not in store_error(OSError(text), "reading", "https://cdn").message


def test_errors_of_remote_places_say_no_signature_that_stands_without_its_address() -> None:
    error = OSError("Max retries exceeded with url: /webhdfs/v1/x?op=OPEN&delegation=SECRET")
    assert "SECRET" not in store_error(error, "reading", "webhdfs://nas/x").message
    local = store_error(OSError(5, "broken", "/media/take?no=3.mp4"), "reading", "/media")
    assert "/media/take?no=3.mp4" in local.message


@pytest.mark.parametrize(
    "text",
    [
        "sftp://host: no route, ask admin@corp.example or wait",
        "https://host:8080 refused, ask admin@corp.example",
        "https://h\nTraceback: foo@bar",
        "Cannot open s3://bucket: denied for me@here",
    ],
)
def test_what_is_said_of_a_place_is_no_password(text: str) -> None:
    assert told_without_credentials(text) == text


@pytest.mark.parametrize(
    "text", ["https://h/'" + "?" * 200_000 + "=", "https://h/'" + "#" * 200_000, "a://" * 50_000, "::" * 100_000]
)
def test_long_texts_take_no_long_time(text: str) -> None:
    assert len(told_without_credentials(text)) <= len(text)
    assert len(name_of(text)) <= len(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("memory://Out/x", "memory://out/x", False),
        ("memory:///out/x", "memory://out/x", True),
        ("s3://b//k", "s3://b/k", False),
        ("S3A://b/k", "s3://b/k", True),
        ("abfs://c@account.dfs.core.windows.net/k", "abfs://c/k", True),
        ("abfs://c@account.dfs.core.windows.net/k", "abfs://d/k", False),
        ("sftp://NAS/k", "sftp://nas/k", True),
    ],
)
def test_a_place_is_the_same_however_it_is_written_and_no_other(one: str, other: str, same: bool) -> None:
    assert (place_of(one) == place_of(other)) == same
