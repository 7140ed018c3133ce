"""The artifact store: what is committed is complete and stays as it is; what is not committed does not exist."""

from __future__ import annotations

import atexit
import json
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from schemas.places import expanded_path, options_for
from schemas.problems import UsageError
from storage import scratch as scratch_folders
from storage.artifacts import Artifact, ArtifactWriter, FolderFiles
from storage.backends import Backend, Entry
from storage.downloads import Downloads, StoredFiles
from storage.errors import translated
from storage.keys import canonical_json
from storage.local import TEMPORARY, LocalBackend, remove_tree
from storage.manifests import Manifest
from storage.packing import pack
from storage.remote import MemoryBackend, RemoteBackend, S3Backend

_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
FEW = 256
"""Keys of a stage that are looked up by reading them, several at once. A listing is one request after another: on S3 one for
each 1,000 artifacts that the stage ever committed."""

_RESERVED = ("objects", "commits", "scratch")
"""Top folders that documents cannot be written to."""

_REMEMBERED = 4096
"""Manifests kept by ``lookup_many``: one with 100 pictures takes some 30 KB of memory."""

_BATCH = 256
"""Manifests read at a time: only so many are held as text beside what was made of them."""


class ArtifactStore:
    """Artifacts by stage and key on any fsspec location. Picklable, and usable again after a fork.

    Made by ``ArtifactStore.open``. As a context manager it removes its scratch folder at the end; so does the end of the process.

    Attributes:
        url: where it lies, as it may be shown. address: the same as it was given, credentials in it included.
        is_local: whether artifacts are files on this machine's disks.
    """

    def __init__(
        self,
        backend: Backend,
        scratch: Path | None = None,
        storage_options: Mapping[str, object] | None = None,
        place_options: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self.backend = backend
        self._storage_options = dict(storage_options or {})
        self._place_options = dict(place_options or {})
        self.url, self.address = backend.url, backend.address
        self.is_local = isinstance(backend, LocalBackend)
        self._scratch_parent = scratch
        self._forget_process()

    @classmethod
    def open(
        cls,
        url: str | Path,
        *,
        scratch: Path | None = None,
        storage_options: dict[str, object] | None = None,
        place_options: Mapping[str, Mapping[str, object]] | None = None,
        existing: bool = False,
    ) -> ArtifactStore:
        """Open a store, making its root where that is possible.

        Args:
            url: a local path or any fsspec URL (``s3://bucket/prefix``, ``memory://name``).
            scratch: local folder for work in progress; inside the root of a local store, else in the system's temporary folder.
            storage_options: handed to fsspec; credentials come from the environment where it has none.
            place_options: of other places, for ``options_for``.
            existing: whether there has to be one already; then nothing is made.

        Raises:
            StoreError: ``store_unreachable`` or ``store_denied``, with the address and a remedy.
            UsageError: nothing lies where a store has to be.
        """
        backend = open_backend(str(url), storage_options or {})
        backend.prepare(make=not existing)
        if existing and not backend.subfolders(""):
            raise UsageError(
                [f"There is no store at {backend.url}: nothing lies there."],
                "Check --store, or the configuration that names it; `headswap run` makes one.",
            )
        return cls(backend, Path(scratch) if scratch is not None else None, storage_options, place_options)

    def _forget_process(self) -> None:
        self._owner = os.getpid()
        self._scratch: Path | None = None
        self._lock = threading.Lock()
        self._downloads: Downloads | None = None
        self._manifests: OrderedDict[str, tuple[Entry, Manifest]] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {
            "backend": self.backend,
            "scratch": self._scratch_parent,
            "storage_options": self._storage_options,
            "place_options": self._place_options,
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __enter__(self) -> ArtifactStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ArtifactStore({self.url!r})"

    def options_for(self, url: str) -> dict[str, object]:
        """For fsspec, to open another place: what is said of it, or the store's own options (``schemas.places.options_for``)."""
        return options_for(url, self.address, self._storage_options, self._place_options)

    # Scratch

    @property
    def scratch(self) -> Path:
        """This process's local scratch folder, made at the first use; those of dead processes are removed then."""
        if self._owner != os.getpid():
            self._forget_process()
        with self._lock:
            if self._scratch is None:
                parent = self._scratch_parent
                if parent is None:
                    inside = self.backend.local_path("scratch")
                    parent = inside if inside is not None else scratch_folders.default_parent()
                with translated("making the scratch folder", str(parent)):
                    scratch_folders.remove_stale(parent)
                    self._scratch = scratch_folders.make(parent)
                atexit.register(self.close)
            return self._scratch

    def close(self) -> None:
        """Remove the scratch folder. The store can be used again; it then makes a new one."""
        if self._owner == os.getpid() and self._scratch is not None:
            scratch_folders.remove(self._scratch)
            self._scratch = self._downloads = None
            atexit.unregister(self.close)

    # Commits

    def lookup(self, stage: str, key: str) -> Manifest | None:
        """The manifest of what is committed under a key, or None. A manifest that cannot be read counts as none."""
        data = self.backend.read(_manifest_path(stage, key))
        return None if data is None else _parse(data, stage, key)

    def lookup_many(self, items: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Manifest]:
        """Manifests of those items that are committed: one listing per stage, then only manifests not read before.

        Up to ``FEW`` keys of a stage are read, several at once, without a listing: it grows with the store.
        """
        wanted: dict[str, set[str]] = {}
        for stage, key in items:
            wanted.setdefault(stage, set()).add(key)
        few = {stage: wanted.pop(stage) for stage in [stage for stage, keys in wanted.items() if len(keys) <= FEW]}
        listed: dict[str, tuple[tuple[str, str], Entry]] = {}
        for stage, keys in wanted.items():
            for name, entry in self._listing(stage).items():
                if name.removesuffix(".json") in keys:
                    key = name.removesuffix(".json")
                    listed[_manifest_path(stage, key)] = ((stage, key), entry)
        found: dict[tuple[str, str], Manifest] = {}
        direct = {_manifest_path(stage, key): (stage, key) for stage, keys in few.items() for key in keys}
        for path, data in self._read_in_batches(sorted(direct)):
            manifest = _parse(data, *direct[path])
            if manifest is not None:
                found[direct[path]] = manifest
        fresh: list[str] = []
        for path, (item, entry) in listed.items():
            known = self._manifests.get(path)
            if known is not None and known[0] == entry:
                found[item] = known[1]
            else:
                fresh.append(path)
        for path, data in self._read_in_batches(fresh):
            item, entry = listed[path]
            manifest = _parse(data, *item)
            if manifest is not None:
                found[item] = manifest
                self._manifests[path] = (entry, manifest)
        while len(self._manifests) > _REMEMBERED:
            self._manifests.popitem(last=False)
        return found

    def _read_in_batches(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Those of the objects that exist, in order."""
        for start in range(0, len(paths), _BATCH):
            yield from self.backend.read_many(paths[start : start + _BATCH]).items()

    def manifests(self, stage: str) -> Iterator[tuple[str, Manifest | None]]:
        """Every key of a stage in order, with its manifest, or None where that cannot be read; in flat memory."""
        paths = {_manifest_path(stage, key): key for key in sorted(self.committed(stage))}
        for path, data in self._read_in_batches(list(paths)):
            yield paths[path], _parse(data, stage, paths[path])

    def committed(self, stage: str) -> set[str]:
        """Keys of a stage that are committed: one listing."""
        return {name.removesuffix(".json") for name in self._listing(stage)}

    def stages(self) -> list[str]:
        """Stages that have commits or objects, in order of name."""
        return sorted({stage for top in ("commits", "objects") for stage in self.backend.subfolders(top)})

    def _listing(self, stage: str) -> dict[str, Entry]:
        _check_stage(stage)
        return {name: entry for name, entry in self.backend.names(f"commits/{stage}").items() if name.endswith(".json")}

    def begin(
        self, stage: str, key: str, *, recipe: Mapping[str, object], stage_version: int, frames: range | None = None
    ) -> ArtifactWriter:
        """A writer for the artifact of a key. Used as a context manager it leaves nothing behind unless committed.

        Args:
            recipe: what the key was made from; stored in the manifest for people. No credentials, hosts or paths.
            frames: where given, tables with a ``frame`` column and picture sequences must hold exactly these frames.
        """
        _manifest_path(stage, key)
        directory = self.scratch / f"{stage}-{secrets.token_hex(8)}"
        with translated("making the scratch folder", str(self.scratch)):
            return ArtifactWriter(
                directory, store=self, stage=stage, key=key, recipe=recipe, stage_version=stage_version, frames=frames
            )

    def commit(self, writer: ArtifactWriter) -> Manifest:
        """Validate, store the objects, publish the manifest.

        Whoever publishes first wins: the others remove their own objects and return the winner's manifest, so that all
        continue from the same content. At every moment before the publication nothing is visible; after it, all is.
        """
        manifest = writer.seal(secrets.token_hex(8))
        earlier = self.lookup(manifest.stage, manifest.key)
        if earlier is not None:
            return earlier
        manifest = self._store_objects(writer.directory, manifest)
        path, data = _manifest_path(manifest.stage, manifest.key), manifest.to_json()
        if self.backend.create(path, data):
            return manifest
        winner = self._winner(manifest.stage, manifest.key)
        if winner is None:
            # A manifest cut off by a crash or damaged on the disk counts as none.
            self.backend.replace(path, data)
            return manifest
        if winner.attempt != manifest.attempt:  # it is one's own where the answer to a first try was lost
            self.backend.delete_tree(manifest.folder)
        return winner

    def _winner(self, stage: str, key: str) -> Manifest | None:
        """The manifest that was there first; None where it stays unreadable.

        Where a place has neither hard links nor whole writes, the winner may still be writing it.
        """
        for wait in (0.0, 0.1, 0.3, 0.6):
            time.sleep(wait)
            manifest = self.lookup(stage, key)
            if manifest is not None:
                return manifest
        return None

    def _store_objects(self, directory: Path, manifest: Manifest) -> Manifest:
        if not self.backend.folders:
            with translated("packing pictures", str(directory)):
                manifest = pack(directory, manifest)
        self.backend.adopt(directory, [entry.path for entry in manifest.stored], manifest.folder)
        return manifest

    def discard(self, writer: ArtifactWriter) -> None:
        """Remove what a writer left in scratch."""
        if writer.directory.exists():
            remove_tree(writer.directory)

    def artifact(self, manifest: Manifest) -> Artifact:
        """Read access to a committed artifact."""
        folder = self.backend.local_path(manifest.folder)
        if folder is None:
            return Artifact(manifest, StoredFiles(self.backend, manifest, self._own_downloads))
        return Artifact(manifest, FolderFiles(folder))

    def _own_downloads(self) -> Downloads:
        folder = self.scratch / "downloads"
        if self._downloads is None:
            self._downloads = Downloads(folder)
        return self._downloads

    def withdraw(self, stage: str, key: str) -> None:
        """Forget a commit, so that it is computed again. Its objects stay until gc; readers that hold them are not disturbed."""
        path = _manifest_path(stage, key)
        self.backend.delete([path])

    # Documents: run records, failures, digests of sources

    def write_document(self, path: str, value: Mapping[str, object]) -> None:
        """Store a small JSON document, replacing what was there, whole or not at all."""
        self.backend.replace(_document(path), canonical_json(value))

    def read_document(self, path: str) -> dict[str, object] | None:
        """A document, or None where there is none or it cannot be read."""
        return _json(self.backend.read(_document(path)))

    def read_documents(self, paths: Iterable[str]) -> dict[str, dict[str, object]]:
        """Several documents at once; those that do not exist are left out."""
        found = {path: _json(data) for path, data in self.backend.read_many([_document(path) for path in paths]).items()}
        return {path: value for path, value in found.items() if value is not None}

    def list_documents(self, prefix: str) -> list[str]:
        """Paths of all documents and files under a folder, in order."""
        return sorted(path for path in self.backend.walk(_document(prefix.rstrip("/"))) if f"/{TEMPORARY}" not in path)

    def list_folders(self, prefix: str) -> list[str]:
        """Names of the folders directly in a folder of documents, in order: one listing, whatever they hold."""
        return self.backend.subfolders(_document(prefix))

    def delete_document(self, path: str) -> None:
        """Remove a document; it may be gone already."""
        self.backend.delete([_document(path)])

    def write_bytes(self, path: str, data: bytes) -> None:
        self.backend.replace(_document(path), data)

    def read_bytes(self, path: str) -> bytes | None:
        return self.backend.read(_document(path))

    def put_file(self, local: Path, path: str) -> None:
        """Copy a local file into the store, replacing what was there."""
        self.backend.upload(local, _document(path))

    def fetch_file(self, path: str, local: Path) -> None:
        """Copy a file of the store to a local path. Raises FileNotFoundError where there is none."""
        self.backend.download(_document(path), local)


def open_backend(url: str, storage_options: dict[str, object]) -> Backend:
    """The operations of a place, by its URL; a path is one on this machine."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalBackend(expanded_path(url).absolute())
    if scheme in ("file", "local"):
        return LocalBackend(expanded_path(rest).absolute())
    if scheme in ("s3", "s3a"):
        return S3Backend(url, storage_options)
    return MemoryBackend(url) if scheme == "memory" else RemoteBackend(url, storage_options)


def _parse(data: bytes, stage: str, key: str) -> Manifest | None:
    """None for what is cut off, damaged or the manifest of something else."""
    try:
        manifest = Manifest.from_json(data)
    except ValueError:
        return None
    return manifest if (manifest.stage, manifest.key) == (stage, key) else None


def _json(data: bytes | None) -> dict[str, object] | None:
    if data is None:
        return None
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _check_stage(stage: str) -> None:
    if not _STAGE.fullmatch(stage):
        raise ValueError(f"{stage!r} is no name of a stage")


def _manifest_path(stage: str, key: str) -> str:
    _check_stage(stage)
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key")
    return f"commits/{stage}/{key}.json"


def _document(path: str) -> str:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or parts[0] in _RESERVED or "\\" in path:
        raise ValueError(f"{path!r} is no place for a document")
    return path
