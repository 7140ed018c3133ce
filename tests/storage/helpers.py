"""What the storage tests commit, and the places they commit it to."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from schemas.tables import MASKS
from storage.artifacts import ArtifactWriter
from storage.manifests import Manifest
from storage.remote import RemoteBackend
from storage.store import ArtifactStore

BUCKET = "headswap-tests"
KINDS = ("local", "folders", "memory", "s3")
"""``folders`` is a file system with folders behind fsspec, as SFTP or SMB are: this machine's disk through fsspec's eyes."""
_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """Where a store is: ``open()`` gives a new store object, as another process would have."""

    kind: str
    url: str
    scratch: Path
    options: dict[str, object] = field(default_factory=dict)

    def open(self) -> ArtifactStore:
        if self.kind == "folders":
            backend = RemoteBackend(self.url)
            backend.prepare()
            return ArtifactStore(backend, self.scratch)
        scratch = None if self.kind == "local" else self.scratch
        return ArtifactStore.open(self.url, scratch=scratch, storage_options=self.options)


def make_place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    if kind == "local":
        return Place(kind, str(tmp_path / "store"), tmp_path)
    name = f"place-{next(_numbers)}"
    if kind == "folders":
        return Place(kind, f"file://{tmp_path}/store", tmp_path / "scratch")
    if kind == "memory":
        return Place(kind, f"memory://{name}", tmp_path / "scratch")
    endpoint = request.getfixturevalue("s3_endpoint")
    return Place(kind, f"s3://{BUCKET}/{name}", tmp_path / "scratch", {"endpoint_url": endpoint})


FRAMES = range(10, 14)


def mask_columns(frames: range = FRAMES, share: float = 0.5) -> dict[str, np.ndarray]:
    count = len(frames)
    return {
        "frame": np.arange(frames.start, frames.stop),
        "detected": np.ones(count, bool),
        "foreground": np.eye(16, dtype=bool)[None].repeat(count, 0),
        "hair": np.zeros((count, 1024), bool),
        "shares": np.full((count, 6), share, np.float32),
    }


def picture(frame: int) -> np.ndarray:
    """Label map uint8 [8, 12] that differs from frame to frame."""
    return (np.arange(96, dtype=np.uint8).reshape(8, 12) + frame).astype(np.uint8)


def fill(writer: ArtifactWriter, share: float = 0.5) -> None:
    """A table, a picture sequence, a file and a fact: one of each that an artifact can hold."""
    writer.write_table(MASKS, mask_columns(share=share))
    with writer.pictures("labels") as pictures:
        for frame in FRAMES:
            pictures.write(frame, picture(frame))
    writer.file("segment.bin").write_bytes(b"segment %.3f" % share)
    writer.facts["share"] = share


def check_whole(store: ArtifactStore, key: str = "key", share: float | None = None) -> None:
    """Everything ``fill`` wrote can be read and agrees with itself."""
    manifest = store.lookup("masks", key)
    assert manifest is not None
    artifact = store.artifact(manifest)
    written = artifact.facts["share"]
    assert share is None or written == share
    assert artifact.table("masks").num_rows == len(FRAMES)
    assert artifact.table("masks").column("shares")[0].as_py() == [pytest.approx(written)] * 6
    reader = artifact.pictures("labels")
    assert reader.frames == list(FRAMES)
    for frame in FRAMES:
        np.testing.assert_array_equal(reader.read(frame), picture(frame))
    assert artifact.file("segment.bin").read_bytes() == b"segment %.3f" % written


def commit(store: ArtifactStore, key: str = "key", share: float = 0.5, stage: str = "masks") -> Manifest:
    with store.begin(stage, key, recipe={"share": share}, stage_version=1, frames=FRAMES) as writer:
        fill(writer, share)
        return writer.commit()
