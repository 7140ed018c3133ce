"""Media from anywhere: local files as they are, remote ones through a bounded local copy, and digests remembered."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import Callback

from schemas.places import WRONG_OPTIONS, expanded_path, without_credentials
from schemas.problems import HeadswapError, MediaError, StoreError
from storage.errors import store_error
from storage.keys import digest_file, digest_value
from storage.store import ArtifactStore

DEFAULT_LIMIT = 16 << 30
"""Bytes of remote media kept in scratch at a time."""

_THREADS = 8

_VALIDATORS = (
    *("ETag", "etag", "checksum", "Content-MD5", "Digest"),
    *("LastModified", "Last-Modified", "last_modified", "mtime", "modified", "modify", "updated", "created"),
)
"""What places say that changes with a file, in fsspec's many spellings; a creation time last, because a file can outlive it."""


def is_remote(url: str | Path) -> bool:
    """Whether a medium has to be fetched before it can be decoded."""
    return local_path(url) is None


def describe(url: str | Path, storage_options: Mapping[str, Any] | None = None) -> tuple[int, str]:
    """Size in bytes and a tag that changes with the file: modification time in nanoseconds, or the object store's etag.

    The tag is empty where the place says nothing of the kind.

    Raises:
        MediaError: ``file_missing``, ``file_denied``.
        StoreError: ``store_unreachable`` where a remote place does not answer.
    """
    path = local_path(url)
    with _media_errors(url):
        if path is not None:
            status = os.stat(path)
            if not os.path.isfile(path):
                raise IsADirectoryError(errno.EISDIR, "not a file", str(path))
            return status.st_size, str(status.st_mtime_ns)
        system, inner = _remote(str(url), storage_options)
        facts = system.info(inner)
        if facts.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, "not a file", str(url))
        tag = next((facts[name] for name in _VALIDATORS if facts.get(name)), "")
        return int(facts.get("size") or 0), str(tag).strip('"')


@contextmanager
def fetch(
    url: str | Path,
    scratch: Path,
    limit_bytes: int = DEFAULT_LIMIT,
    *,
    largest_bytes: int | None = None,
    anew: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """A local path of a medium, valid inside the context.

    A local file is given as it is. A remote one is copied to ``scratch/media`` and stays there for the next reader until
    newer ones need the room: the least recently used go first, those in use never. Several processes may share the folder.

    Args:
        limit_bytes: of the folder; a single file may exceed it and is then alone in it.
        largest_bytes: of a remote file, whatever its server says of its size; None for any.
        anew: whether a copy that is there is not good enough.
        storage_options: for fsspec, of the place (``ArtifactStore.options_for``).

    Raises:
        MediaError: ``file_missing``, ``file_denied``; ``too_large`` before or, where the place kept quiet, while copying.
        StoreError: ``store_full`` where the local disk is, ``store_unreachable``.
    """
    path = local_path(url)
    if path is not None:
        describe(url)
        yield path
        return
    size, tag = describe(url, storage_options)
    _check_size(url, size, largest_bytes)
    folder = Path(scratch) / "media" / digest_value([str(url), size, tag])
    folder.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because decoders look at it. Who reads holds the lock; it is free again when its process dies.
    copy = folder / f"medium{Path(str(url).split('?')[0]).suffix}"
    with open(folder / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if anew or not copy.exists():
            _make_room(folder.parent, limit_bytes - size)
            _download(url, copy, largest_bytes, storage_options)
        os.utime(copy)
        yield copy


def open_medium(url: str | Path, store: ArtifactStore, limit_bytes: int = DEFAULT_LIMIT) -> AbstractContextManager[Path]:
    """``fetch`` for who reads one medium beside a store: into its scratch, with its access."""
    return fetch(url, store.scratch, limit_bytes, storage_options=store.options_for(str(url)))


class _Counter(Callback):  # type: ignore[misc]
    """Ends a transfer that brings more than was allowed."""

    def __init__(self, url: str | Path, largest_bytes: int | None) -> None:
        super().__init__()
        self._url, self._largest = url, largest_bytes

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        _check_size(self._url, self.value, self._largest)


def _check_size(url: str | Path, size: int, largest: int | None) -> None:
    if largest is not None and size > largest:
        raise MediaError(
            "too_large",
            f"{without_credentials(str(url))} has {size:,} bytes or more; the limit is {largest:,}.",
            "Scale or cut it, or raise the limit (limits.max_bytes).",
        )


def _download(url: str | Path, copy: Path, largest_bytes: int | None, storage_options: Mapping[str, Any] | None) -> None:
    part = copy.with_name(f"part-{secrets.token_hex(4)}")
    try:
        with _media_errors(url):
            system, inner = _remote(str(url), storage_options)
            system.get_file(inner, str(part), callback=_Counter(url, largest_bytes))
        os.replace(part, copy)
    finally:
        part.unlink(missing_ok=True)


def digest_of(
    url: str | Path,
    store: ArtifactStore,
    *,
    limit_bytes: int = DEFAULT_LIMIT,
    largest_bytes: int | None = None,
    anew: bool = False,
) -> str:
    """Digest of a medium's content, read once: remembered in the store under address, size and time (or etag)."""
    return digest_many([url], store, limit_bytes=limit_bytes, largest_bytes=largest_bytes, anew=anew)[str(url)]


def digest_many(
    urls: Iterable[str | Path],
    store: ArtifactStore,
    *,
    limit_bytes: int = DEFAULT_LIMIT,
    largest_bytes: int | None = None,
    anew: bool = False,
) -> dict[str, str]:
    """Digests of several media by address, each read at most once; known ones are not read at all.

    Args:
        limit_bytes: of the local copies of remote media, as for ``fetch``.
        largest_bytes: of one medium, local or remote, checked before anything is read or copied; None for any.
        anew: whether a medium is read again of which its place says nothing that changes with it. For who makes a plan: who
            works on it believes what that found, or each unit of work would copy the medium once more.

    Raises:
        MediaError: ``too_large``.
        MediaError, StoreError: as ``describe``, for the first medium that cannot be read.
    """
    names = list(dict.fromkeys(str(url) for url in urls))
    with ThreadPoolExecutor(_THREADS) as pool:
        options = {name: store.options_for(name) for name in names}
        described = dict(zip(names, pool.map(describe, names, options.values()), strict=True))
        for name in names:
            _check_size(name, described[name][0], largest_bytes)
        documents = {name: _document(name, described[name]) for name in names}
        silent = {name for name in names if anew and not described[name][1]}
        known = store.read_documents(documents[name] for name in names if name not in silent)
        digests = {name: known[path].get("digest") for name, path in documents.items() if path in known}
        unknown = [name for name in names if not isinstance(digests.get(name), str)]

        def read(name: str) -> str:
            again = name in silent
            found = fetch(
                name, store.scratch, limit_bytes, largest_bytes=largest_bytes, anew=again, storage_options=options[name]
            )
            with found as path, _media_errors(name):
                return digest_file(path)

        fresh = zip(unknown, pool.map(read, unknown), strict=True)
        for name, digest in fresh:
            digests[name] = digest
            store.write_document(documents[name], {"digest": digest})
    return {name: str(digests[name]) for name in names}


def _document(url: str, facts: tuple[int, str]) -> str:
    path = local_path(url)
    address = url if path is None else str(Path(path).absolute())
    # Only a digest of the address: it may name people and places, and documents are shared.
    name = digest_value([address, *facts])
    return f"sources/{name[:2]}/{name}.json"


def _make_room(folder: Path, room: int) -> None:
    """Remove the least recently used copies that nobody reads until at most ``room`` bytes are left."""
    found = [(copy.stat(), copy) for copy in folder.glob("*/medium*")]
    total = sum(status.st_size for status, _ in found)
    for status, copy in sorted(found, key=lambda item: item[0].st_mtime_ns):
        if total <= max(room, 0):
            return
        with open(copy.with_name("lock"), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            copy.unlink(missing_ok=True)
        total -= status.st_size


def local_path(url: str | Path) -> Path | None:
    """The file on this machine that an address means, or None where it is elsewhere."""
    scheme, separator, rest = str(url).partition("://")
    if not separator:
        return expanded_path(url)
    return Path(rest) if scheme in ("file", "local") else None


def file_system(url: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it. An address without a scheme is a path, also with "::" in it.

    Raises:
        ValueError, ImportError, TypeError: there is no such kind of place, or it does not take these options; also what a file
            system raises that connects for this.
    """
    path = local_path(url)
    if path is not None:
        return fsspec.filesystem("file", **dict(storage_options or {})), str(path.absolute())
    system, inner = fsspec.core.url_to_fs(url, **dict(storage_options or {}))
    return system, inner


def _remote(url: str, storage_options: Mapping[str, Any] | None) -> tuple[Any, str]:
    try:
        return file_system(url, storage_options)
    except (ImportError, ValueError) as error:
        raise MediaError(
            "file_unsupported",
            f"{without_credentials(url)} cannot be opened: {error}.",
            "Use a local path, s3:// or https:// address.",
        ) from error
    except TypeError as error:
        raise MediaError(
            "file_unsupported",
            f"{without_credentials(url)} cannot be opened with these options: {error}.",
            WRONG_OPTIONS,
        ) from error


def may_pass(error: BaseException | None) -> bool:
    """Whether a place did not answer or said that it is busy or broken, rather than that a file is missing or denied."""
    # fsspec calls whatever a web server does "not found"; the cause knows better.
    reason = error.__cause__ if isinstance(error, FileNotFoundError) else error
    status = getattr(reason, "status", None)  # of aiohttp's error for an answer
    if isinstance(status, int):
        return status in (408, 425, 429) or status >= 500
    if isinstance(reason, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError)):
        return False
    client = type(reason).__module__.partition(".")[0]
    return isinstance(reason, OSError) or (client in ("aiohttp", "botocore") and not hasattr(reason, "response"))


@contextmanager
def _media_errors(url: str | Path) -> Iterator[None]:
    told = without_credentials(str(url))
    try:
        yield
    except FileNotFoundError as error:
        if may_pass(error):
            raise store_error(error.__cause__ or error, "reading it", str(url), "the file") from error
        raise MediaError(
            "file_missing", f"The file {told} does not exist.", "Correct the path in the catalogue or put the file there."
        ) from error
    except OSError as error:
        impossible = error.errno in (errno.ENAMETOOLONG, errno.ELOOP) and not is_remote(url)
        if impossible or isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError)):
            raise MediaError(
                "file_denied",
                f"The file {told} cannot be read ({error.strerror or error}).",
                "Check the path and its permissions.",
            ) from error
        if error.errno == errno.ENOSPC:
            raise StoreError(
                "store_full", f"No space is left in scratch for {told}.", "Free space, or set another scratch folder."
            ) from error
        raise store_error(error, "reading it", str(url), "the file") from error
    except HeadswapError:
        raise
    except Exception as error:
        if not is_remote(url):
            raise
        # Clients of remote places have errors of their own kind (botocore's, aiohttp's) for no answer and no credentials.
        raise store_error(error, "reading it", str(url), "the file") from error
