"""The store on object stores and in memory, through fsspec."""

from __future__ import annotations

import errno
import ftplib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from schemas.places import WRONG_OPTIONS, without_credentials
from schemas.problems import StoreError
from storage.backends import Backend, Entry
from storage.errors import store_error

T = TypeVar("T")

_THREADS = 8
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
_LISTED_TIMES = ("LastModified", "mtime", "modified", "updated", "last_modified", "created")


class RemoteBackend(Backend):
    """Any fsspec file system.

    ``create`` relies on the file system's exclusive mode (``pipe_file(mode="create")``): atomic in memory and on S3, Google
    and Azure storage. Where a file system has no such mode it is an existence check followed by a write: of two writers
    within the same moment the later one then wins, with the same content, because stages are deterministic.

    The fsspec instance is made per process: its event loop does not survive a fork.
    """

    folders = False

    def __init__(self, url: str, options: dict[str, object] | None = None) -> None:
        self.url = without_credentials(url)
        self.address = url.rstrip("/")
        self._options = dict(options or {})
        self._forget_process()

    def _forget_process(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._connected: tuple[Any, str] | None = None
        self._made: set[str] = set()

    def __getstate__(self) -> dict[str, object]:
        return {"address": self.address, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        RemoteBackend.__init__(self, state["address"], state["options"])

    @property
    def system(self) -> Any:
        """The fsspec file system of this process."""
        return self._connect()[0]

    @property
    def root(self) -> str:
        """The store's folder inside the file system, without scheme."""
        return self._connect()[1]

    def _connect(self) -> tuple[Any, str]:
        if self._process != os.getpid():
            self._forget_process()
        with self._lock:
            if self._connected is None:
                self._require_address()
                try:
                    system, root = fsspec.core.url_to_fs(self.address, **self._connection_options())
                except OSError:
                    raise  # which may pass
                except Exception as error:  # of whatever kind: some file systems open a connection here
                    raise self._unopened(error) from error
                self._connected = (system, root.rstrip("/"))
            return self._connected

    def _require_address(self) -> None:
        """``StoreError`` where the address is none, or nothing here opens its kind."""
        for link in self.address.split("::"):
            try:
                fsspec.get_filesystem_class(link.partition("://")[0] if "://" in link else "file")
            except (ImportError, ValueError) as error:
                remedy = "Use a local folder, s3://bucket/prefix, or install the package that this scheme needs."
                raise StoreError("store_unreachable", f"The place {self.url} cannot be opened: {error}.", remedy) from error
            try:
                if link.lower().startswith("http"):  # whose file system looks at addresses no sooner than it asks them
                    _ = urlsplit(link).port
            except ValueError as error:  # which may quote a password
                told = f"The place {self.url} cannot be opened: that is no address."
                raise StoreError("store_unreachable", told, "Correct the address.") from error

    def _unopened(self, error: Exception) -> StoreError:
        """What a file system raised that is no OSError: whether that may pass depends on who raised what."""
        if isinstance(error, TypeError):
            remedy, passing = WRONG_OPTIONS, False
        else:
            remedy = f"Check the address and the credentials. {WRONG_OPTIONS}"
            names = {kind.__name__ for kind in type(error).__mro__}
            denied = isinstance(error, ftplib.error_perm) or "AuthenticationException" in names  # of SFTP's client
            # smbprotocol says so that nobody answered.
            unanswered = isinstance(error.__cause__ or error.__context__, OSError)
            passing = not denied and (unanswered or not isinstance(error, ValueError))
        told = f"{type(error).__name__}: {error}"
        return StoreError("store_unreachable", f"The place {self.url} cannot be opened ({told}).", remedy, retryable=passing)

    def check_address(self) -> None:
        """Some file systems (SFTP) open a connection for it."""
        with self._translated("opening it"):
            self._connect()

    def _connection_options(self) -> dict[str, object]:
        return dict(self._options)

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}"

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_error(error, doing, self.url) from error

    def prepare(self, *, make: bool = True) -> None:
        try:
            with self._translated("opening it"):
                system = self.system
                if make:
                    system.makedirs(self.root, exist_ok=True)
        except (ValueError, NotImplementedError) as error:
            raise StoreError(
                "store_unreachable",
                f"The store {self.url} cannot be opened: {error}.",
                "Use a local folder or s3://bucket/prefix.",
            ) from error

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes | None:
        with self._translated(f"reading {path}"):
            try:
                end = None if length is None else start + length
                return self._cat(self._path(path), start or None, end)
            except FileNotFoundError:
                return None

    def _cat(self, path: str, start: int | None, end: int | None) -> bytes:
        return self.system.cat_file(path, start=start, end=end)

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        found = self._all(self.read, paths)
        return {path: data for path, data in zip(paths, found, strict=True) if data is not None}

    def create(self, path: str, data: bytes) -> bool:
        with self._translated(f"publishing {path}"):
            self._make_parents(path)
            try:
                self.system.pipe_file(self._path(path), data, mode="create")
            except FileExistsError:
                return False
            except (ValueError, NotImplementedError):
                if self.system.exists(self._path(path)):
                    return False
                self.system.pipe_file(self._path(path), data)
            return True

    def replace(self, path: str, data: bytes) -> None:
        with self._translated(f"writing {path}"):
            self._make_parents(path)
            self.system.pipe_file(self._path(path), data)

    def adopt(self, directory: Path, files: Sequence[str], target: str) -> None:
        self._all(lambda name: self.upload(directory / name, f"{target}/{name}"), files)

    def upload(self, local: Path, path: str) -> None:
        with self._translated(f"writing {path}"):
            self._make_parents(path)
            self.system.put_file(str(local), self._path(path))

    def download(self, path: str, local: Path) -> None:
        with self._translated(f"reading {path}"):
            try:
                self.system.get_file(self._path(path), str(local))
            except FileNotFoundError:
                local.unlink(missing_ok=True)
                missing = True
            else:
                missing = False
        if missing:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)

    def _make_parents(self, path: str) -> None:
        """Make the folder of an object, which a file system with folders needs (SFTP, SMB, HDFS)."""
        folder = path.rpartition("/")[0]
        if folder not in self._made:
            self.system.makedirs(self._path(folder), exist_ok=True)
            self._made.add(folder)

    def names(self, folder: str) -> dict[str, Entry]:
        return {facts["name"].rsplit("/", 1)[1]: _entry(facts) for facts in self._list(folder) if facts["type"] == "file"}

    def subfolders(self, folder: str) -> list[str]:
        return sorted(facts["name"].rstrip("/").rsplit("/", 1)[1] for facts in self._list(folder) if facts["type"] == "directory")

    def _list(self, folder: str) -> list[dict[str, Any]]:
        path = self._path(folder)
        with self._translated(f"listing {folder}"):
            # fsspec remembers listings; what other processes committed since would stay invisible.
            self.system.invalidate_cache()
            try:
                found = self.system.ls(path, detail=True)
            except FileNotFoundError:
                return []
        return [facts for facts in found if facts["name"].rstrip("/") != path.rstrip("/")]

    def walk(self, folder: str) -> dict[str, Entry]:
        with self._translated(f"listing {folder}"):
            self.system.invalidate_cache()
            try:
                found = self.system.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self.root) + 1
        return {name[start:]: _entry(facts) for name, facts in found.items() if facts["type"] == "file"}

    def delete(self, paths: Iterable[str]) -> None:
        self._all(self._delete, list(paths))

    def _delete(self, path: str) -> None:
        with self._translated(f"removing {path}"):
            try:
                self.system.rm_file(self._path(path))
            except (FileNotFoundError, KeyError):
                return

    def delete_tree(self, folder: str) -> None:
        self.delete(self.walk(folder))

    def _all(self, function: Callable[[str], T], items: Sequence[str]) -> list[T]:
        if len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
            return list(pool.map(function, items))


class MemoryBackend(RemoteBackend):
    """fsspec's ``memory://``, for tests and trials inside one process.

    One lock for all, because its readers share a position per file and its exclusive mode checks before it writes.
    """

    _everybody = threading.RLock()

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        with self._everybody, super()._translated(doing):
            yield

    def _make_parents(self, path: str) -> None:
        del path  # it has no folders

    def _all(self, function: Callable[[str], T], items: Sequence[str]) -> list[T]:
        return [function(item) for item in items]


def _renew_memory_lock() -> None:
    # Another thread may have held it at the moment of the fork.
    MemoryBackend._everybody = threading.RLock()


os.register_at_fork(after_in_child=_renew_memory_lock)


class S3Backend(RemoteBackend):
    """S3 and what speaks its protocol. The service must honour ``If-None-Match`` on PUT, as AWS, MinIO and Ceph do."""

    attempts = 3
    connect_timeout = 3.0
    read_timeout = 15.0
    opening_timeout = 20.0

    def _connection_options(self) -> dict[str, object]:
        options = dict(self._options)
        patience = {
            "connect_timeout": self.connect_timeout,
            "read_timeout": self.read_timeout,
            "retries": {"total_max_attempts": self.attempts, "mode": "standard"},
        }
        options["config_kwargs"] = {**patience, **dict(options.get("config_kwargs") or {})}  # type: ignore[call-overload]
        return options

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        # Imported late: botocore takes a quarter of a second that local stores need not pay.
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreError(
                "store_denied",
                f"There are no credentials for the store {self.url} ({error}).",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
            ) from error
        except (OSError, BotoCoreError, ClientError) as error:
            if _code(error) in _FULL_CODES:
                raise store_error(OSError(errno.ENOSPC, str(error)), doing, self.url) from error
            raise store_error(error, doing, self.url) from error

    def check_address(self) -> None:
        super().check_address()
        bucket = self._split()[0]
        if not re.fullmatch(r"[\w.-]{1,255}|arn:\S+", bucket, re.ASCII):
            raise StoreError(
                "store_unreachable",
                f"The place {self.url} cannot be opened: {bucket!r} is no name of a bucket.",
                "Write s3://bucket/prefix.",
            )

    def prepare(self, *, make: bool = True) -> None:
        """Ask for the bucket: a missing one would otherwise look like an empty store. None is made."""
        del make
        bucket, _, prefix = self._split()
        try:
            with self._translated("opening it"):
                system = self.system
                sync(
                    system.loop,
                    system._call_s3,
                    "list_objects_v2",
                    Bucket=bucket,
                    Prefix=f"{prefix}commits/",
                    MaxKeys=1,
                    timeout=self.opening_timeout,
                )
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise StoreError(
                    "store_unreachable",
                    f"The bucket {bucket!r} of the store {self.url} does not exist.",
                    "Create the bucket or correct the address.",
                ) from error
            raise

    def _make_parents(self, path: str) -> None:
        del path  # it has no folders

    def _split(self) -> tuple[str, str, str]:
        bucket, _, inner = self.root.partition("/")
        return bucket, inner, f"{inner}/" if inner else ""

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes | None:
        try:
            return super().read(path, start, length)
        except StoreError as error:
            # A range behind the end of the object: there is nothing there, as in a local file.
            if _code(error.__cause__) in ("InvalidRange", "416"):
                return b""
            raise

    def _cat(self, path: str, start: int | None, end: int | None) -> bytes:
        # One request; with more s3fs asks for the size first.
        return self.system.cat_file(path, start=start, end=end, max_concurrency=1)

    def create(self, path: str, data: bytes) -> bool:
        with self._translated(f"publishing {path}"):
            for attempt in range(5):
                try:
                    self.system.pipe_file(self._path(path), data, mode="create")
                    return True
                except OSError as error:
                    code = _code(error)
                    if isinstance(error, FileExistsError) or code in ("PreconditionFailed", "412"):
                        return False
                    if code not in ("ConditionalRequestConflict", "409"):
                        raise
                # Two conditional writes at once: S3 asks both to try again.
                time.sleep(0.1 * 2**attempt)
            raise TimeoutError(errno.ETIMEDOUT, "conditional writes keep colliding")

    def delete(self, paths: Iterable[str]) -> None:
        bucket, _, prefix = self._split()
        keys = [{"Key": f"{prefix}{path}"} for path in paths]
        for start in range(0, len(keys), 1000):
            with self._translated("removing objects"):
                done = self.system.call_s3(
                    "delete_objects", Bucket=bucket, Delete={"Objects": keys[start : start + 1000], "Quiet": True}
                )
                refused = done.get("Errors") or []
                if refused:
                    raise PermissionError(errno.EACCES, refused[0].get("Message", "refused"), refused[0].get("Key"))


def _code(error: BaseException | None) -> str:
    """S3's own name of an error, also of one that s3fs has translated."""
    for source in (error, error.__cause__ if error is not None else None):
        response = getattr(source, "response", None)
        if response:
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _entry(facts: dict[str, Any]) -> Entry:
    modified = next((facts[name] for name in _LISTED_TIMES if facts.get(name)), 0.0)
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    tag = facts.get("ETag") or facts.get("etag") or facts.get("md5Hash") or ""
    return Entry(int(facts["size"] or 0), seconds, f"{tag}-{seconds}")
