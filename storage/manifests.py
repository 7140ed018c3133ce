"""The record of one committed artifact: which files, which contents, which facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.problems import StoreError
from storage.keys import canonical_json, digest_value

VERSION = 1

Data = bytes  # inside the classes below `bytes` is a size


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact, as the stage wrote it: ``subject.parquet``, ``labels/000012.png``.

    Where the store packs picture sequences, ``container`` names the tar that holds it and ``offset`` is the byte of that
    tar at which its data begins.
    """

    path: str
    bytes: int
    digest: str
    container: str | None = None
    offset: int = 0

    def to_list(self) -> list[object]:
        plain: list[object] = [self.path, self.bytes, self.digest]
        return plain if self.container is None else [*plain, self.container, self.offset]


@dataclass(frozen=True)
class Manifest:
    """What a stage committed under a key.

    Attributes:
        digest: of names and contents of the files and of the facts; the same for the same content, whichever attempt, time,
            place or packing.
        files: what the stage wrote, in order of path.
        containers: tars that hold some of the files, whole; empty on local files.
        facts: small JSON facts of the stage, part of the digest.
        recipe: what the key was made from, for people and for ``inspect``.
        created: ISO 8601, UTC.
    """

    stage: str
    stage_version: int
    key: str
    attempt: str
    digest: str
    files: tuple[FileEntry, ...]
    facts: Mapping[str, object]
    recipe: Mapping[str, object]
    created: str
    containers: tuple[FileEntry, ...] = field(default=())

    @property
    def bytes(self) -> int:
        """Space taken in the store, without the manifest itself."""
        return sum(entry.bytes for entry in self.stored)

    @property
    def stored(self) -> tuple[FileEntry, ...]:
        """The objects as they lie in the store: containers, and files outside of them."""
        return (*self.containers, *(entry for entry in self.files if entry.container is None))

    @property
    def folder(self) -> str:
        """Where the objects of this attempt lie, relative to the store's root."""
        return f"objects/{self.stage}/{self.key}/{self.attempt}"

    def to_json(self) -> Data:
        plain = {
            "manifest": VERSION,
            "stage": self.stage,
            "stage_version": self.stage_version,
            "key": self.key,
            "attempt": self.attempt,
            "digest": self.digest,
            "bytes": self.bytes,
            "files": [entry.to_list() for entry in self.files],
            "containers": [entry.to_list() for entry in self.containers],
            "facts": self.facts,
            "recipe": self.recipe,
            "created": self.created,
        }
        return canonical_json(plain)

    @classmethod
    def from_json(cls, data: Data | str) -> Manifest:
        """The manifest in ``data``.

        Raises:
            ValueError: where ``data`` is not a whole manifest.
            StoreError: ``store_newer`` for a version that this program does not know. It must not count as damage, or gc would
                remove what a newer program committed.
        """
        try:
            plain = json.loads(data)
            version = plain["manifest"]
            if version != VERSION:
                raise StoreError(
                    "store_newer",
                    f"The artifact {plain['stage']}/{plain['key']} has a manifest of version {version!r}; known is {VERSION}.",
                    "Use the version of headswap that wrote this store, or a newer one.",
                )
            return cls(
                plain["stage"],
                plain["stage_version"],
                plain["key"],
                plain["attempt"],
                plain["digest"],
                tuple(FileEntry(*entry) for entry in plain["files"]),
                plain["facts"],
                plain["recipe"],
                plain["created"],
                tuple(FileEntry(*entry) for entry in plain["containers"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error


def content_digest(files: Sequence[FileEntry], facts: Mapping[str, object]) -> str:
    """Digest of an artifact's content: file names, sizes and digests in order of name, and the facts."""
    listed = sorted((entry.path, entry.bytes, entry.digest) for entry in files)
    return digest_value({"files": [list(entry) for entry in listed], "facts": facts})
