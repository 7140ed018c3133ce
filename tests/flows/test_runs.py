"""What is recorded of runs is found again without reading more than is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import runs
from flows.events import JobOutcome
from flows.inspection import _recorded_job
from schemas.problems import UsageError
from storage.store import ArtifactStore
from tests.flows.conftest import job


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(tmp_path / "store")


def record(store: ArtifactStore, run_id: str, *jobs: str) -> None:
    asked = {"jobs": [job(name, Path(run_id), Path("target")).model_dump(mode="json") for name in jobs], "settings": {}}
    recorder = runs.RunRecorder(store, run_id, asked)
    for name in jobs:
        recorder.job_finished(JobOutcome(name, "done"))
    recorder.finish("completed", {}, None)


def test_a_run_is_loaded_with_its_outcomes_and_the_newest_one_unless_named(store: ArtifactStore) -> None:
    with pytest.raises(UsageError, match="There is no run in"):
        runs.load(store, None)
    for number in range(12):
        record(store, f"2026-{number:02}", f"a{number}", f"b{number}")
    store.write_document("runs/2027-no-record/page/facts.json", {})
    assert runs.load(store, "2026-03")["outcomes"].keys() == {"a3", "b3"}
    assert runs.load(store, None)["run"] == "2026-11"
    assert [found["run"] for found in runs.newest_first(store)] == [f"2026-{number:02}" for number in reversed(range(12))]
    with pytest.raises(UsageError, match="no run 2025") as caught:
        runs.load(store, "2025")
    assert "2026-11" in str(caught.value)


def test_a_recorded_job_is_found_in_the_newest_run_that_had_it_without_reading_outcomes(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        record(store, f"2026-{number:02}", "often", *(["once"] if number == 1 else []))
    read: list[str] = []
    read_documents = ArtifactStore.read_documents
    monkeypatch.setattr(
        ArtifactStore, "read_documents", lambda self, paths: read.extend(paths := list(paths)) or read_documents(self, paths)
    )
    for name, run_id in (("often", "2026-11"), ("once", "2026-01")):
        found = _recorded_job(store, name)
        assert found is not None
        assert found[0].source == run_id
    assert _recorded_job(store, "clip.mp4") is None
    assert read
    assert all(path.endswith("/run.json") for path in read)


def test_a_default_name_in_an_earlier_versions_record_is_no_demand() -> None:
    earlier = {**job("ada", Path("a.png"), Path("b.mp4")).model_dump(mode="json"), "output": "ada.mp4"}
    for container, output in (("mkv", ""), ("mp4", "ada.mp4")):
        settings = {"stages": {"assemble": {"container": container}}}
        assert runs.job_of({"settings": settings}, earlier).output == output
    asked = {**earlier, "output": "other.mp4"}
    assert runs.job_of({"settings": {"stages": {"assemble": {"container": "mkv"}}}}, asked).output == "other.mp4"
