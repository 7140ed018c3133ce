"""Going on with a recorded run: what a record cannot hold is given again, with the same configuration as the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from flows import runs
from flows.retrying import unfinished
from schemas.configuration import load_settings
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


@pytest.mark.parametrize("command", ["gc", "fsck", "report", "retry", "status"])
def test_commands_about_a_store_find_it_in_the_configuration_too(tmp_path: Path, command: str) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    asked = {"name": "night", "out": str(tmp_path / "out"), "jobs": [], "settings": load_settings().recorded()}
    runs.RunRecorder(store, "run", asked).finish("completed", {}, None)
    (tmp_path / "night.yaml").write_text(f"store: {tmp_path / 'store'}\n")
    ended = CliRunner().invoke(cli.app, [command, "--config", str(tmp_path / "night.yaml"), "--json"], env={"HEADSWAP_STORE": ""})
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told.get("store", store.url) == store.url
