"""What a stage writes to and what it reads from: tables, picture sequences, files and facts under one name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from schemas.problems import StoreError
from schemas.tables import TableSchema
from storage import pictures as codec
from storage import tables
from storage.errors import translated
from storage.keys import canonical_json, digest_bytes, digest_file
from storage.manifests import FileEntry, Manifest, content_digest

if TYPE_CHECKING:
    from storage.store import ArtifactStore

__all__ = ["Artifact", "ArtifactWriter", "FileEntry", "Manifest", "PictureReader", "PictureWriter", "TableWriter"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TAR_READS = 4
"""Single pictures read from a tar in place before the whole tar is fetched."""


class ArtifactWriter:
    """Collects the output of one stage in a local folder; ``commit`` makes it visible to everybody at once.

    From ``ArtifactStore.begin`` it is a context manager that discards what was not committed. Without a store,
    ``ArtifactWriter(directory)`` serves tests and tools: ``local()`` reads back what was written.

    Attributes:
        facts: small JSON facts, part of the content digest.
        frames: where given, every table with a ``frame`` column and every picture sequence must hold exactly these frames.
    """

    def __init__(
        self,
        directory: Path,
        *,
        store: ArtifactStore | None = None,
        stage: str = "",
        key: str = "",
        recipe: Mapping[str, object] | None = None,
        stage_version: int = 0,
        frames: range | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.stage = stage
        self.key = key
        self.recipe = dict(recipe or {})
        self.stage_version = stage_version
        self.frames = frames
        self.facts: dict[str, object] = {}
        self._store = store
        self._open: set[str] = set()
        self._files: dict[str, FileEntry | None] = {}  # None: size and digest are taken at the commit

    def write_table(self, schema: TableSchema, columns: Mapping[str, object], name: str | None = None) -> None:
        """Write a whole table as ``<name>.parquet``; ``name`` is the schema's where it is not given.

        Args:
            columns: by name: numpy [rows] or [rows, ...], lists, or Arrow arrays; see ``storage.tables.arrow_table``.

        Raises:
            StoreError: ``schema_mismatch``, ``store_full``.
        """
        with self.table_writer(schema, name) as writer:
            writer.write(columns)

    @contextmanager
    def table_writer(self, schema: TableSchema, name: str | None = None) -> Iterator[TableWriter]:
        """Write a table piece by piece: each ``write(columns)`` appends a row group and frees the memory."""
        path = self._claim(f"{name or schema.name}.parquet")
        writer = TableWriter(path, schema)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        self._check_frames(path.name, writer.frames)
        self._finish(path.name)

    @contextmanager
    def pictures(self, name: str, suffix: str = ".png") -> Iterator[PictureWriter]:
        """Write a picture sequence: ``write(frame, picture)`` makes ``<name>/000123.png``."""
        if suffix != ".png":
            raise ValueError(f"picture sequences are stored without loss, as .png, not as {suffix!r}")
        folder = self._claim(name)
        folder.mkdir()
        writer = PictureWriter(folder)
        yield writer
        self._check_frames(name, writer.frames)
        self._finish(name)
        self._files.pop(name)
        self._files.update({entry.path: entry for entry in writer.entries})

    def file(self, name: str) -> Path:
        """A path to write a binary file to; ``name`` includes the suffix: ``segment.mp4``."""
        path = self._claim(name)
        self._finish(name)
        return path

    def commit(self) -> Manifest:
        """Validate and publish. Where somebody else committed the same key first, their manifest is the result."""
        if self._store is None:
            raise ValueError("this writer belongs to no store; use local() to read back what it holds")
        return self._store.commit(self)

    def local(self) -> Artifact:
        """What was written, read from the scratch folder: for tests and tools without a store."""
        return Artifact(self.seal("local"), FolderFiles(self.directory))

    def seal(self, attempt: str) -> Manifest:
        """Validate what was written and describe it. Files in the folder that nobody declared are removed.

        Raises:
            StoreError: ``output_incomplete`` where a declared file is missing or a writer is still open.
            TypeError, ValueError: where ``facts`` cannot be stored as JSON.
        """
        if self._open:
            raise StoreError(
                "output_incomplete", f"{self._who()} left {sorted(self._open)} open.", "Report this as a bug of the stage."
            )
        with translated(f"checking the output of {self._who()}", str(self.directory)):
            files = tuple(entry or self._measure(name) for name, entry in sorted(self._files.items()))
            declared = {entry.path for entry in files}
            for folder, _, names in os.walk(self.directory):
                inside = os.path.relpath(folder, self.directory)
                for name in names:
                    if (name if inside == "." else f"{inside}/{name}") not in declared:
                        os.unlink(os.path.join(folder, name))
        facts = json.loads(canonical_json(self.facts))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        digest = content_digest(files, facts)
        recipe = json.loads(canonical_json(self.recipe))
        return Manifest(self.stage, self.stage_version, self.key, attempt, digest, files, facts, recipe, created)

    def discard(self) -> None:
        """Remove the scratch folder of a writer that came from a store."""
        if self._store is not None:
            self._store.discard(self)

    def __enter__(self) -> ArtifactWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.discard()

    def _who(self) -> str:
        return f"stage {self.stage}" if self.stage else "the writer"

    def _claim(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no file name for an artifact")
        if name in self._files or name in self._open or any(path.startswith(f"{name}/") for path in self._files):
            raise ValueError(f"{name!r} was written already")
        self._open.add(name)
        return self.directory / name

    def _finish(self, name: str) -> None:
        self._open.remove(name)
        self._files[name] = None

    def _measure(self, name: str) -> FileEntry:
        path = self.directory / name
        if not path.is_file() or path.stat().st_size == 0:
            raise StoreError("output_incomplete", f"{self._who()} did not write {name}.", "Report this as a bug of the stage.")
        return FileEntry(name, path.stat().st_size, digest_file(path))

    def _check_frames(self, name: str, found: set[int] | None) -> None:
        if self.frames is None or found is None or found == set(self.frames):
            return
        missing, extra = sorted(set(self.frames) - found), sorted(found - set(self.frames))
        raise StoreError(
            "output_incomplete",
            f"{name} of {self._who()} lacks {len(missing)} frames (first {missing[:3]}) and has {len(extra)} unknown ones "
            f"(first {extra[:3]}).",
            "Report this as a bug of the stage.",
        )


class TableWriter:
    """Appends row groups to one table of an artifact."""

    def __init__(self, path: Path, schema: TableSchema) -> None:
        self._path = path
        with self._writing():
            self._writer = tables.ParquetTableWriter(path, schema)
        self.frames: set[int] | None = set() if "frame" in schema.arrow.names else None

    def write(self, columns: Mapping[str, object]) -> None:
        """Append rows: numpy [rows] or [rows, ...], lists, or Arrow arrays, by column name."""
        with self._writing():
            table = self._writer.write(columns)
        if self.frames is not None:
            self.frames.update(np.unique(tables.array(table, "frame")).tolist())

    def abandon(self) -> None:
        self._writer.abandon()

    def close(self) -> None:
        with self._writing():
            self._writer.close()

    def _writing(self) -> AbstractContextManager[None]:
        return translated(f"writing {self._path.name}", str(self._path.parent))


class PictureWriter:
    """Writes one picture sequence of an artifact."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[FileEntry] = []
        self.frames: set[int] = set()

    def write(self, frame: int, picture: np.ndarray) -> None:
        """Store one picture, uint8 [h, w] gray or labels, [h, w, 3] RGB or [h, w, 4] RGBA, under its frame number."""
        self.write_bytes(frame, codec.encode_png(picture))

    def write_bytes(self, frame: int, data: bytes) -> None:
        """Store a picture that is PNG already."""
        if frame in self.frames or frame < 0:
            raise ValueError(f"frame {frame} of {self.folder.name} was written already or is negative")
        name = f"{frame:06d}.png"
        with translated(f"writing {self.folder.name}/{name}", str(self.folder)), open(f"{self.folder}/{name}", "xb") as file:
            file.write(data)
        self.frames.add(int(frame))
        self.entries.append(FileEntry(f"{self.folder.name}/{name}", len(data), digest_bytes(data)))


class Files(Protocol):
    """Where an artifact's objects are read from."""

    def local(self, entry: FileEntry) -> Path:
        """A local file with an object's content.

        Raises:
            FileNotFoundError: where the object is missing.
            ValueError: where it is not what was committed.
        """

    def read(self, entry: FileEntry, start: int, length: int) -> bytes | None:
        """Some bytes of an object; None where it is missing."""


class FolderFiles:
    """Objects that lie in a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def local(self, entry: FileEntry) -> Path:
        return self.folder / entry.path

    def read(self, entry: FileEntry, start: int, length: int) -> bytes | None:
        try:
            with open(self.folder / entry.path, "rb") as file:
                file.seek(start)
                return file.read(length)
        except FileNotFoundError:
            return None


class Artifact:
    """A committed artifact, read lazily: nothing is opened before it is asked for.

    Everything raises ``StoreError("artifact_damaged")`` for files that are missing, of another size or undecodable.
    """

    def __init__(self, manifest: Manifest, files: Files) -> None:
        self.manifest = manifest
        self._files = files
        self._entries = {entry.path: entry for entry in manifest.files}
        self._containers = {entry.path: entry for entry in manifest.containers}

    @property
    def digest(self) -> str:
        """Of the content: the same for the same files and facts, wherever and whenever they were written."""
        return self.manifest.digest

    @property
    def facts(self) -> Mapping[str, object]:
        return self.manifest.facts

    def has(self, name: str) -> bool:
        """Whether there is a table, picture sequence or file of that name."""
        return (
            name in self._entries
            or f"{name}.parquet" in self._entries
            or any(path.startswith(f"{name}/") for path in self._entries)
        )

    def table(
        self, name: str, *, columns: Sequence[str] | None = None, frames: range | None = None, schema: TableSchema | None = None
    ) -> pa.Table:
        """A table, or only some columns, or only the rows whose ``frame`` is in ``frames``.

        Raises:
            StoreError: ``schema_mismatch`` where the file holds another table, or another version than ``schema``.
        """
        entry = self._entry(f"{name}.parquet")
        path = self._local(entry)
        with self._damage(entry):
            self._check_schema(path, schema)
            return tables.read(path, columns=columns, frames=frames)

    def batches(self, name: str, *, columns: Sequence[str] | None = None, rows: int = 512) -> Iterator[pa.Table]:
        """A table in order, at most ``rows`` rows at a time: flat memory for long clips."""
        entry = self._entry(f"{name}.parquet")
        path = self._local(entry)
        with self._damage(entry):
            self._check_schema(path, None)
            yield from tables.batches(path, columns=columns, rows=rows)

    def pictures(self, name: str) -> PictureReader:
        """A picture sequence, opened picture by picture."""
        entries = {int(Path(path).stem): entry for path, entry in self._entries.items() if path.startswith(f"{name}/")}
        if not entries:
            raise self._missing(name)
        return PictureReader(self, entries)

    def file(self, name: str) -> Path:
        """A local path of a file; a copy in the scratch folder where the store is remote. Do not write to it."""
        return self._local(self._entry(name))

    def read_entry(self, entry: FileEntry, *, whole_container: bool = False) -> bytes:
        """Bytes of one file, also from inside a tar: by a range request, or from a local copy of the whole tar."""
        holder = entry if entry.container is None else self._containers[entry.container]
        if whole_container:
            with self._damage(entry), open(self._local(holder), "rb") as file:
                file.seek(entry.offset)
                data: bytes | None = file.read(entry.bytes)
        else:
            # One byte more than committed shows a file that has grown.
            data = self._files.read(holder, entry.offset, entry.bytes + (entry.container is None))
        if data is None:
            raise self.damaged(entry, "the file is missing")
        if len(data) != entry.bytes:
            raise self.damaged(entry, "the file's size is not what was committed")
        return data

    def damaged(self, entry: FileEntry, reason: str) -> StoreError:
        manifest = self.manifest
        return StoreError(
            "artifact_damaged",
            f"The artifact of stage {manifest.stage}, key {manifest.key}, is damaged: {entry.path}: {reason}.",
            "Run `headswap fsck --repair` on the store; what is damaged is then computed again.",
        )

    def _entry(self, name: str) -> FileEntry:
        if name not in self._entries:
            raise self._missing(name)
        return self._entries[name]

    def _missing(self, name: str) -> StoreError:
        held = sorted({path.split("/")[0] for path in self._entries})
        return StoreError(
            "artifact_incomplete",
            f"The artifact of stage {self.manifest.stage}, key {self.manifest.key}, has no {name!r}; it holds {held}.",
            "The stage's version should have changed; report this as a bug.",
        )

    def _local(self, entry: FileEntry) -> Path:
        try:
            path = self._files.local(entry)
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise self.damaged(entry, "the file is missing") from error
        except ValueError as error:
            raise self.damaged(entry, str(error)) from error
        if size != entry.bytes:
            raise self.damaged(entry, f"the file has {size} bytes, committed were {entry.bytes}")
        return path

    @contextmanager
    def _damage(self, entry: FileEntry) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self.damaged(entry, f"it cannot be decoded ({error})") from error

    def _check_schema(self, path: Path, schema: TableSchema | None) -> None:
        found = tables.schema_identity(path)
        if not found or (schema is not None and found != schema.identity):
            raise StoreError(
                "schema_mismatch",
                f"{path.name} of stage {self.manifest.stage}, key {self.manifest.key}, is {found or 'no table of this project'}"
                + (f", wanted is {schema.identity}." if schema else "."),
                "Run that stage again; its version should have changed with its table.",
            )


class PictureReader:
    """One picture sequence of an artifact. ``frames`` are the frame numbers there are, in order."""

    def __init__(self, artifact: Artifact, entries: Mapping[int, FileEntry]) -> None:
        self._artifact = artifact
        self._entries = dict(sorted(entries.items()))
        self._reads = 0
        self.frames: list[int] = list(self._entries)

    def __contains__(self, frame: object) -> bool:
        return frame in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, frame: int) -> np.ndarray:
        """The array as it was written: uint8 [h, w], [h, w, 3] RGB or [h, w, 4] RGBA. KeyError for an unknown frame."""
        data = self.read_bytes(frame)
        try:
            return codec.decode_png(data)
        except ValueError as error:
            raise self._artifact.damaged(self._entries[frame], str(error)) from error

    def read_bytes(self, frame: int) -> bytes:
        """The PNG file's bytes."""
        entry = self._entries[frame]
        self._reads += 1
        return self._artifact.read_entry(entry, whole_container=entry.container is not None and self._reads > _TAR_READS)
