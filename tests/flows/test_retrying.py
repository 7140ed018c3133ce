"""Going on with a recorded run: what a record cannot hold is given again, with the same configuration as the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import cli
from flows import catalogue, retrying, runs
from flows.events import JobOutcome
from flows.planning import Planner
from flows.retrying import unfinished
from flows.workers import WorkerPool
from schemas.configuration import Settings, load_settings
from storage.store import ArtifactStore
from tests.flows.conftest import Night, job

OPTIONS = {"endpoint_url": "http://storage.example"}


def test_storage_options_are_not_recorded_but_reach_the_run_that_goes_on(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    settings = load_settings({"store": store.url, "storage_options": OPTIONS})
    one = job("one", tmp_path / "a.png", tmp_path / "b.mp4").model_dump(mode="json")
    runs.RunRecorder(store, "run", {"name": "night", "out": "s3://results", "jobs": [one], "settings": settings.recorded()})
    assert "storage.example" not in json.dumps(store.read_document("runs/run/run.json"))
    assert unfinished(store, None, {"storage_options": OPTIONS, "workers": None}).settings.storage_options == OPTIONS
    assert unfinished(store, None, {}).settings.storage_options == {}


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A configuration, whose store holds a run that has a job left to do."""
    store = ArtifactStore.open(tmp_path / "store")
    one = job("one", tmp_path / "a.png", tmp_path / "b.mp4").model_dump(mode="json")
    asked = {"name": "night", "out": "s3://results", "jobs": [one], "settings": load_settings({"store": store.url}).recorded()}
    runs.RunRecorder(store, "run", asked)
    (tmp_path / "night.yaml").write_text(yaml.safe_dump({"store": str(tmp_path / "store"), "storage_options": OPTIONS}))
    return tmp_path / "night.yaml"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), env={"HEADSWAP_STORE": ""})


@pytest.mark.parametrize(
    ("command", "name", "told"), [("gc", "store", "store"), ("fsck", "store", "store"), ("status", "run", "run")]
)
def test_commands_about_a_store_find_it_in_the_configuration(configuration: Path, command: str, name: str, told: str) -> None:
    ended = invoke(command, "--config", str(configuration), "--json")
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)[name].endswith(told)


def test_a_retry_and_a_report_take_the_storage_options_of_the_configuration(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Settings] = []

    def kept(jobs: object, store: object, settings: Settings, **more: object) -> int:
        seen.append(settings)
        return 0

    def written(store: object, record: object, settings: Settings, out: object) -> str:
        seen.append(settings)
        return "index.html"

    monkeypatch.setattr(cli, "run_and_tell", kept)
    monkeypatch.setattr(retrying, "report_of_record", written)
    for command in ("retry", "report"):
        assert invoke(command, "--config", str(configuration)).exit_code == 0
    assert [settings.storage_options for settings in seen] == [OPTIONS, OPTIONS]


def test_the_page_of_a_retry_shows_all_jobs_of_the_run_it_goes_on_with(
    night: Night, clips: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[dict[str, str]] = []

    def write_report(planner: Planner, outcomes: Mapping[str, JobOutcome], out: str, **more: Any) -> str:
        assert list(planner.jobs) == ["fine", "late", "never"]
        assert more["folder"] == "page"
        pages.append({name: outcome.status for name, outcome in outcomes.items()})
        return "index.html"

    monkeypatch.setattr(catalogue, "write_report", write_report)
    source, later = clips("a.png", 1), night.folder / "media" / "later.mp4"
    targets = {"fine": clips("fine.mp4", 12), "late": later, "never": night.folder / "media" / "never.mp4"}
    settings, out = night.settings(engine="direct"), str(night.out)
    monkeypatch.setattr(catalogue, "WorkerPool", lambda workers, **more: WorkerPool(0))  # the made-up stages are here alone
    jobs = [job(name, source, target) for name, target in targets.items()]
    catalogue.run_jobs(jobs, night.store, settings, name="night", output_url=out, report_name="page")
    assert pages == [{"fine": "done", "late": "failed", "never": "failed"}]
    clips("later.mp4", 12)
    for expected in (["late", "never"], ["never"]):
        again = unfinished(night.store, None, {})
        assert [one.id for one in again.jobs] == expected
        catalogue.run_jobs(
            again.jobs,
            night.store,
            again.settings,
            name=again.name,
            output_url=again.output_url,
            asked={"retry_of": again.run_id},
            report_name=again.whole["report_folder"],
            whole=again.whole,
        )
        assert pages[-1] == {"fine": "done", "late": "done", "never": "failed"}
    whole = runs.load_whole(night.store, None)
    assert [one["id"] for one in whole["jobs"]] == ["fine", "late", "never"]
    assert len(runs.load(night.store, None)["jobs"]) == 1  # the record itself says what was asked of it
