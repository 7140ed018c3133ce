"""A run killed with -9 at any moment: the same command goes on where it was, and the files come out the same, bit for bit."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from flows.pipeline import STAGES
from storage.maintenance import fsck
from storage.store import ArtifactStore
from tests.integration.conftest import Headswap, headswap, short_clip, speech_frames, write_catalogue
from tests.media import write_video

__all__ = ["headswap", "short_clip", "speech_frames"]

OPTIONS = ("--engine", "direct", "--workers", "2", "--set", "stages.ingest.chunk_frames=8", "--json")


@pytest.fixture(scope="module")
def catalogue(
    tmp_path_factory: pytest.TempPathFactory, examples: Path, speech_frames: list[np.ndarray], short_clip: Path
) -> Path:
    folder = tmp_path_factory.mktemp("night")
    other = folder / "other.mp4"
    write_video(other, speech_frames[16:40])
    return write_catalogue(
        folder / "night.csv",
        [
            {"id": "a", "source": examples / "portrait_ada.png", "target": short_clip, "rights": "synthetic"},
            {"id": "b", "source": examples / "portrait_ben.png", "target": other, "rights": "synthetic"},
        ],
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, headswap: Headswap, catalogue: Path) -> tuple[Path, float]:
    """The folder of a run that nobody disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    ended = headswap("run", catalogue, "--store", folder / "store", "--out", folder / "out", *OPTIONS)
    assert ended.status == 0, ended.err
    return folder, time.monotonic() - began


def committed(folder: Path) -> dict[str, set[str]]:
    store = ArtifactStore.open(folder / "store")
    return {stage: store.committed(stage) for stage in STAGES}


def digests(folder: Path) -> dict[tuple[str, str], str]:
    store = ArtifactStore.open(folder / "store")
    items = [(stage, key) for stage in STAGES for key in store.committed(stage)]
    return {item: manifest.digest for item, manifest in store.lookup_many(items).items()}


def kill_after(headswap: Headswap, arguments: list[str | Path], seconds: float) -> bool:
    """Whether the command was still going on when it was killed. Its workers end by themselves."""
    process = subprocess.Popen(
        headswap.command(*arguments),
        env=headswap.environment,
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "workers outlive their parent"
        return True
    return False


def check_resumes(
    headswap: Headswap, catalogue: Path, undisturbed: tuple[Path, float], folder: Path, moments: list[float]
) -> None:
    arguments = ["run", catalogue, "--store", folder / "store", "--out", folder / "out", *OPTIONS]
    for moment in moments:
        kill_after(headswap, arguments, moment)
    before = committed(folder)
    ended = headswap(*arguments)
    assert ended.status == 0, ended.err
    executed = {name: total["executed"] for name, total in ended.document["stages"].items() if total["executed"]}
    after = committed(folder)
    assert executed == {name: len(after[name] - before[name]) for name in STAGES if after[name] - before[name]}, (
        "what was committed before the kill is not done again"
    )
    assert digests(folder) == digests(undisturbed[0])
    for video in sorted((undisturbed[0] / "out").glob("*.mp4")):
        assert (folder / "out" / video.name).read_bytes() == video.read_bytes()
    assert not fsck(ArtifactStore.open(folder / "store")).damaged


def test_a_run_killed_twice_ends_as_an_undisturbed_one(
    headswap: Headswap, catalogue: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    check_resumes(headswap, catalogue, undisturbed, tmp_path, [undisturbed[1] * 0.45, undisturbed[1] * 0.5])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(
    headswap: Headswap, catalogue: Path, undisturbed: tuple[Path, float], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    moments = [undisturbed[1] * chance.uniform(0.1, 1.0) for _ in range(chance.randint(1, 3))]
    check_resumes(headswap, catalogue, undisturbed, tmp_path, moments)


def test_a_damaged_artifact_is_found_and_computed_again(
    headswap: Headswap, catalogue: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    arguments = ["run", catalogue, "--store", tmp_path / "store", "--out", tmp_path / "out", *OPTIONS]
    assert headswap(*arguments).status == 0
    victim = next((tmp_path / "store" / "objects" / "track").rglob("subject.parquet"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0x40
    victim.write_bytes(content)
    found = headswap("fsck", "--store", tmp_path / "store", "--json")
    assert found.status == 1
    assert [item["stage"] for item in found.document["damaged"]] == ["track"]
    assert headswap("fsck", "--store", tmp_path / "store", "--repair", "--json").status == 0
    (tmp_path / "out" / "a.mp4").unlink()
    again = headswap(*arguments)
    assert again.status == 0, again.err
    assert digests(tmp_path).keys() <= digests(undisturbed[0]).keys()
    assert (tmp_path / "out" / "a.mp4").read_bytes() == (undisturbed[0] / "out" / "a.mp4").read_bytes()
