"""`headswap inspect` says what it can show, to somebody who gave a name of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import runs
from flows.inspection import inspect_from_store
from schemas.configuration import load_settings
from schemas.problems import HeadswapError, UsageError
from stages.networks.registry import ModelRegistry
from storage.store import ArtifactStore
from tests.flows.conftest import job


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(tmp_path / "store")


def refusal(store: ArtifactStore, name: str) -> HeadswapError:
    folder = Path(store.url)
    with pytest.raises(HeadswapError) as refused:
        inspect_from_store(name, store, load_settings({"store": store.url}), ModelRegistry(folder / "models"), folder / "out")
    return refused.value


def record(store: ArtifactStore, run_id: str, *names: str) -> None:
    jobs = [job(name, Path("source"), Path("target")).model_dump(mode="json") for name in names]
    runs.RunRecorder(store, run_id, {"jobs": jobs, "settings": {}})


def test_what_is_neither_a_file_nor_a_job_is_told_as_both_with_the_jobs_there_are(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record(store, "2026-01", "old")
    record(store, "2026-02", "anna", "ben")
    error = refusal(store, "nosuchjob")
    assert isinstance(error, UsageError)
    assert error.problems == (
        f"'nosuchjob' is neither a file ({tmp_path / 'nosuchjob'} does not exist) nor a job of a recorded run.",
    )
    assert error.remedy == "The jobs of the newest run, 2026-02, are: anna, ben."
    assert refusal(store, "ana").remedy.startswith("Did you mean 'anna'? ")
    assert "scenes/none.mp4 does not exist" in refusal(store, "scenes/none.mp4").message


def test_of_many_jobs_ten_are_named(store: ArtifactStore) -> None:
    record(store, "2026-01", *(f"j{number:02}" for number in range(25)))
    remedy = refusal(store, "nosuchjob").remedy
    assert "j09 and 15 more." in remedy
    assert "j10" not in remedy


def test_a_store_without_a_run_is_told(store: ArtifactStore) -> None:
    assert refusal(store, "nosuchjob").remedy == f"Give the path of a clip; no run is recorded in {store.url}."


def test_a_file_that_is_there_is_not_taken_for_missing(store: ArtifactStore, tmp_path: Path) -> None:
    assert refusal(store, str(tmp_path)).code == "file_denied"
    (tmp_path / "clip.mp4").write_bytes(b"no clip, but a file")
    error = refusal(store, str(tmp_path / "clip.mp4"))
    assert "neither" not in error.message
    assert error.code != "file_missing"
