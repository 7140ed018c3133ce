"""A whole catalogue on an object store: media, artifacts and results on s3://, the same results as on a disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from storage.store import ArtifactStore
from tests.integration.conftest import Headswap, write_catalogue
from tests.nights import ObjectStore, digests, executed, inside, object_store, short_night


@dataclass
class Remote:
    server: ObjectStore
    headswap: Headswap
    catalogue: Path
    local: Path
    """Folder of the same night on a disk."""

    @property
    def store(self) -> str:
        return f"s3://{self.server.bucket}/store"

    @property
    def out(self) -> str:
        return f"s3://{self.server.bucket}/videos"

    def read(self, key: str) -> bytes:
        found: bytes = self.server.client().get_object(Bucket=self.server.bucket, Key=key)["Body"].read()
        return found

    def run(self, *arguments: str, command: str = "run") -> dict[str, object]:
        given = (str(self.catalogue),) if command in ("run", "plan") else ()
        call = self.headswap if command == "run" else partial(inside, self.headswap)
        ended = call(command, *given, "--store", self.store, *arguments, "--json", **self.server.environment)
        assert ended.status == 0, ended.err
        return ended.document


@pytest.fixture(scope="module")
def remote(
    tmp_path_factory: pytest.TempPathFactory, examples: Path, speech_frames: list[np.ndarray], headswap: Headswap
) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("remote")
    catalogue = short_night(folder, examples, speech_frames)
    ended = headswap("run", catalogue, "--store", folder / "store", "--out", folder / "out", "--engine", "direct", "--json")
    assert ended.status == 0, ended.err
    with object_store() as server, catalogue.open(newline="") as file:
        rows = list(csv.DictReader(file))
        for row in rows:
            for column in ("source", "target"):
                path = Path(row[column])
                server.client().upload_file(str(path), server.bucket, f"media/{path.name}")
                row[column] = f"s3://{server.bucket}/media/{path.name}"
        yield Remote(server, headswap, write_catalogue(folder / "remote.csv", rows), folder)


@pytest.fixture(scope="module")
def committed(remote: Remote) -> dict[tuple[str, str], str]:
    """Digests of what the night's run on the object store committed."""
    first = remote.run("--out", remote.out, "--engine", "direct")
    assert (first["done"], first["failed"]) == (2, 0)
    return digests(remote.server.open(remote.store))


def test_everything_on_an_object_store_gives_the_bits_of_a_disk(remote: Remote, committed: dict[tuple[str, str], str]) -> None:
    assert committed == digests(ArtifactStore.open(remote.local / "store"))
    for name in ("a.mp4", "b.mp4"):
        put = remote.read(f"videos/{name}")
        assert put == (remote.local / "out" / name).read_bytes()
        assert json.loads(remote.read(f"videos/{name}.provenance.json"))["bytes"] == len(put)
    assert b"portrait_ada.png" in remote.read("videos/report/index.html")

    second = remote.run("--out", remote.out, "--engine", "direct")
    assert (second["done"], second["cached"], executed(second)) == (0, 2, 0)


@pytest.mark.usefixtures("committed")
def test_the_tools_work_on_an_object_store(remote: Remote, tmp_path: Path) -> None:
    assert remote.run(command="status")["cached"] == 2
    assert remote.run(command="plan")["states"] == {"cached": 2}
    assert remote.run(command="report")["report"] == f"{remote.out}/report/index.html"
    checked = remote.run(command="fsck")
    assert checked["checked"]
    assert not checked["damaged"]
    pictures = remote.run("a", "--out", str(tmp_path), command="inspect")["pictures"]
    assert isinstance(pictures, list)
    assert pictures
    assert all(Path(path).stat().st_size for path in pictures)
    freed = remote.run("--retention", "results", "--minimum-age-hours", "0", command="gc")
    assert freed["freed_bytes"]
    after = remote.run("--out", remote.out, "--engine", "direct")
    assert (after["cached"], executed(after)) == (2, 0), "results are enough to know that a job is done"
