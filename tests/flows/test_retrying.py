"""Going on with a recorded run: what a record cannot hold is given again, with the same configuration as the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import cli
from flows import retrying, runs
from flows.retrying import unfinished
from schemas.configuration import Settings, load_settings
from storage.store import ArtifactStore
from tests.flows.conftest import job

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
def night(tmp_path: Path) -> Path:
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
def test_commands_about_a_store_find_it_in_the_configuration(night: Path, command: str, name: str, told: str) -> None:
    ended = invoke(command, "--config", str(night), "--json")
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)[name].endswith(told)


def test_a_retry_and_a_report_take_the_storage_options_of_the_configuration(night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert invoke(command, "--config", str(night)).exit_code == 0
    assert [settings.storage_options for settings in seen] == [OPTIONS, OPTIONS]
