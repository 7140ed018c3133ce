"""The diffusion renderer from the command line, with networks of no size: refused without weights, whole with them, resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stages.networks.registry import ModelRegistry
from stages.video.decode import open_clip, timestamps
from storage.store import ArtifactStore
from tests.integration.conftest import Headswap
from tests.integration.test_real_media import sound
from tests.media import write_video
from tests.nights import Going, inside
from tests.pipelines import register_random

FRAMES = 12
CHUNK = 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, speech_frames: list[np.ndarray]) -> Path:
    return write_video(tmp_path_factory.mktemp("media") / "short.mp4", speech_frames[:FRAMES], audio=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registered") / "models"
    register_random(folder, "headswap-demo")
    return folder


def order(examples: Path, clip: Path, folder: Path) -> list[str | Path]:
    return [
        "swap",
        examples / "portrait_ada.png",
        clip,
        *("-o", folder / "swapped.mp4", "--rights", "synthetic", "--store", folder / "store", "--workers", "1", "--json"),
        *("--renderer", "diffusion", "--profile", "demo"),
        *("--set", "stages.render.diffusion.steps=12", "--set", f"stages.ingest.chunk_frames={CHUNK}"),
    ]


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory, headswap: Headswap, examples: Path, clip: Path, models: Path) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("swapped")
    ended = headswap(*order(examples, clip, folder), HEADSWAP_MODELS=str(models), HF_HUB_OFFLINE="1")
    assert ended.status == 0, ended.err
    return folder


def rendered(folder: Path) -> dict[str, str]:
    """Digest of every rendered chunk by its key."""
    with ArtifactStore.open(folder / "store") as store:
        keys = sorted(store.committed("render"))
        found = store.lookup_many([("render", key) for key in keys])
    return {key: manifest.digest for (_, key), manifest in found.items()}


def test_without_weights_it_is_wrong_usage_and_says_how_to_get_some(
    headswap: Headswap, examples: Path, clip: Path, tmp_path: Path
) -> None:
    arguments = [part for part in order(examples, clip, tmp_path) if part != "--json"]
    ended = inside(headswap, *arguments, HEADSWAP_MODELS=str(tmp_path / "models"))
    assert ended.status == 2
    assert "needs the pipeline headswap-demo, which is not registered" in ended.err
    assert "headswap models add" in ended.err
    assert not (tmp_path / "store" / "commits").exists()


def test_a_device_that_is_not_there_is_wrong_usage(
    headswap: Headswap, examples: Path, clip: Path, models: Path, tmp_path: Path
) -> None:
    arguments = [part for part in order(examples, clip, tmp_path) if part != "--json"]
    for setting, said in (("device=cuda:7", "cuda:7"), ("stages.render.diffusion.precision=float16", "float16")):
        ended = inside(headswap, *arguments, "--set", setting, HEADSWAP_MODELS=str(models), HEADSWAP_DEVICE="cpu")
        assert ended.status == 2, ended.err
        assert said in ended.err


def test_frames_times_and_sound_are_the_targets(swapped: Path, clip: Path) -> None:
    result = swapped / "swapped.mp4"
    pts, _, base = timestamps(clip)
    found, _, found_base = timestamps(result)
    assert len(found) == FRAMES
    assert [float(value * found_base) for value in found] == [float(value * base) for value in pts]
    assert sound(result) == sound(clip)
    with open_clip(clip) as target, open_clip(result) as swap:
        for frame in range(FRAMES):
            own, new = target.read(frame).astype(int), swap.read(frame).astype(int)
            assert np.abs(own[:24, :24] - new[:24, :24]).mean() < 3, "outside the region it is the target's picture"
        assert np.abs(own - new).max() > 60


def test_the_result_says_which_weights_drew_it_and_on_what_terms(swapped: Path, models: Path) -> None:
    record = json.loads((swapped / "swapped.mp4.provenance.json").read_text())
    drawn = record["renderer"]
    registered = ModelRegistry(models).pipelines["headswap-demo"]
    assert (drawn["name"], drawn["pipeline"], drawn["digest"]) == ("diffusion", "headswap-demo", registered.digest)
    assert (drawn["licence"], drawn["commercial"]) == (registered.licence, registered.commercial)


def test_a_job_whose_worker_dies_goes_on_at_its_chunk_and_ends_the_same(
    headswap: Headswap, examples: Path, clip: Path, models: Path, swapped: Path, tmp_path: Path
) -> None:
    shutil.copytree(swapped / "store", tmp_path / "store")
    for stage in ("render", "encode", "assemble", "measure", "job"):
        shutil.rmtree(tmp_path / "store" / "commits" / stage)
    commits = tmp_path / "store" / "commits" / "render"
    going = Going(headswap, *order(examples, clip, tmp_path), HEADSWAP_MODELS=str(models), HF_HUB_OFFLINE="1")
    going.wait_until(lambda: commits.is_dir() and any(commits.glob("*.json")))
    first = {path.name: path.stat().st_mtime_ns for path in commits.glob("*.json")}
    (worker,) = going.workers()
    worker.kill()
    status, out, err = going.end()
    assert status == 0, err
    assert json.loads(out)["stages"]["render"]["executed"] == FRAMES // CHUNK
    assert {name: (commits / name).stat().st_mtime_ns for name in first} == first, "what was committed is not done again"
    assert rendered(tmp_path) == rendered(swapped)
    assert (tmp_path / "swapped.mp4").read_bytes() == (swapped / "swapped.mp4").read_bytes()


def test_the_weights_decide_the_key_and_the_device_does_not(
    headswap: Headswap, examples: Path, clip: Path, models: Path, swapped: Path, tmp_path: Path
) -> None:
    shutil.copytree(swapped / "store", tmp_path / "store")
    again = [*order(examples, clip, tmp_path), "--set", "device=cpu"]
    ended = inside(headswap, *again, HEADSWAP_MODELS=str(models))
    assert ended.status == 0, ended.err
    assert ended.document["cached"] == 1
    others = tmp_path / "registered" / "models"
    register_random(others, "headswap-demo", background=False)
    planned = inside(
        headswap,
        *("plan", _catalogue(tmp_path, examples, clip), "--store", tmp_path / "store", "--renderer", "diffusion"),
        *("--profile", "demo", "--set", f"stages.ingest.chunk_frames={CHUNK}", "--json"),
        HEADSWAP_MODELS=str(others),
    )
    stages = {row["stage"]: row for row in planned.document["stages"]}
    assert stages["render"]["to_run"] == 1
    assert stages["retarget"]["cached"] == 1


def _catalogue(folder: Path, examples: Path, clip: Path) -> Path:
    path = folder / "one.csv"
    path.write_text(f"id,source,target,rights\none,{examples / 'portrait_ada.png'},{clip},synthetic\n")
    return path
