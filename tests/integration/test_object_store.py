"""A whole catalogue on an object store: media, artifacts and results on s3://, the same results as on a disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest

from stages.training.shards import ShardSamples
from storage.store import ArtifactStore
from tests.integration.conftest import Headswap, write_catalogue
from tests.nights import ObjectStore, digests, executed, inside, object_store, short_night
from tests.signing import write_chain


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


@pytest.mark.usefixtures("committed")
def test_credentials_in_the_configuration_are_enough_for_signing_inspecting_and_training_data(
    remote: Remote, tmp_path: Path
) -> None:
    bucket = f"s3://{remote.server.bucket}"
    chain, key = write_chain(tmp_path)
    options = {"endpoint_url": remote.server.environment["AWS_ENDPOINT_URL"], "key": "test", "secret": "test"}
    settings = {"store": remote.store, "storage_options": options, "workers": 1}
    signing = {"provenance": {"certificate": str(chain), "key": str(key)}}
    config = tmp_path / "night.yaml"
    config.write_text(json.dumps({**settings, **signing}))  # YAML can be written so
    (tmp_path / "clips.csv").write_text("id,clip,rights\none,one.mp4,synthetic\n")
    for name, path in (("night.csv", remote.catalogue), ("clips.csv", tmp_path / "clips.csv")):
        remote.server.client().upload_file(str(path), remote.server.bucket, f"media/{name}")

    def call(*arguments: str) -> dict[str, Any]:
        ended = inside(remote.headswap, *arguments, "--config", str(config), "--json")
        assert ended.status == 0, ended.err
        return ended.document

    signed = call("run", f"{bucket}/media/night.csv", "--out", f"{bucket}/signed", "--engine", "direct")
    assert (signed["done"] + signed["cached"], executed(signed)) == (2, 0)
    (tmp_path / "a.mp4").write_bytes(remote.read("signed/a.mp4"))
    manifest = json.loads(c2pa.Reader(str(tmp_path / "a.mp4")).json())
    (ingredient,) = manifest["manifests"][manifest["active_manifest"]]["ingredients"]
    assert ingredient["title"].endswith(".mp4"), "the target was read to be named"

    sheets = call("inspect", f"{bucket}/media/one.mp4", "--out", str(tmp_path / "sheets"))["pictures"]
    assert all(Path(path).stat().st_size for path in sheets)

    parameters = ("--parameter", "shortest_segment=4", "--parameter", "validation=0", "--size", "128")
    told = call("dataset", "prepare", f"{bucket}/media/clips.csv", "--out", f"{bucket}/set", *parameters)
    assert told["splits"]["train"]["frames"] == 8
    sample = ShardSamples(f"{bucket}/set", storage_options=options).sample(1, 4)
    assert sample.target.shape == (4, 128, 128, 3)


@pytest.mark.usefixtures("committed")
def test_intermediates_can_go_from_an_object_store(remote: Remote) -> None:
    freed = remote.run("--retention", "results", "--minimum-age-hours", "0", command="gc")
    assert freed["freed_bytes"]
    after = remote.run("--out", remote.out, "--engine", "direct")
    assert (after["cached"], executed(after)) == (2, 0), "results are enough to know that a job is done"
