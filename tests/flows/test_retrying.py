"""Going on with a recorded run: what a record cannot hold is given again, with the same configuration as the run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import cli
from flows import catalogue, retrying, runs
from flows.planning import Planner
from flows.reporting import claimed_folder, outcomes_of, planned_again, shown_jobs
from flows.retrying import settings_of_record, unfinished
from flows.workers import WorkerPool
from schemas.configuration import Settings, load_settings
from stages.networks.registry import ModelRegistry
from storage.store import ArtifactStore
from tests.flows.conftest import Night, job

OPTIONS = {"endpoint_url": "http://storage.example"}
HIDDEN: dict[str, Any] = {
    "storage_options": OPTIONS,
    "place_options": {"s3://footage": {"endpoint_url": "http://archive.example"}},
}


def test_options_of_places_are_not_recorded_but_reach_the_run_that_goes_on(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    settings = load_settings({"store": store.url, **HIDDEN})
    one = job("one", tmp_path / "a.png", tmp_path / "b.mp4").model_dump(mode="json")
    runs.RunRecorder(store, "run", {"name": "night", "out": "s3://results", "jobs": [one], "settings": settings.recorded()})
    assert ".example" not in json.dumps(store.read_document("runs/run/run.json"))
    assert unfinished(store, None, {**HIDDEN, "workers": None}).settings.hidden() == HIDDEN
    assert unfinished(store, None, {}).settings.hidden() == {"storage_options": {}, "place_options": {}}


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A configuration, whose store holds a run that has a job left to do."""
    store = ArtifactStore.open(tmp_path / "store")
    one = job("one", tmp_path / "a.png", tmp_path / "b.mp4").model_dump(mode="json")
    given = {"store": store.url, "provenance.certificate": "old.pem", "provenance.key": "old.key"}
    asked = {"name": "night", "out": "s3://results", "jobs": [one], "settings": load_settings(given).recorded()}
    runs.RunRecorder(store, "run", asked)
    (tmp_path / "night.yaml").write_text(yaml.safe_dump({"store": str(tmp_path / "store"), **HIDDEN}))
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


def test_a_retry_and_a_report_take_the_options_of_places_from_the_configuration(
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
    assert [settings.hidden() for settings in seen] == [HIDDEN, HIDDEN]


def test_a_retry_signs_with_the_certificate_of_the_configuration_where_it_names_one(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(cli, "run_and_tell", lambda jobs, store, settings, **more: seen.append(settings) or 0)
    before = configuration.read_text()
    for said in ("", "provenance: {certificate: new.pem, key: new.key}\n"):
        configuration.write_text(before + said)
        assert invoke("retry", "--config", str(configuration)).exit_code == 0
    assert [settings.provenance.certificate for settings in seen] == [str(Path("old.pem").absolute()), "new.pem"]


def ran(night: Night, targets: Mapping[str, Path], out: str, name: str = "page", called: str = "night") -> catalogue.RunResult:
    """A night of jobs with these targets."""
    source = night.folder / "media" / "a.png"
    jobs = [job(one, source, target) for one, target in targets.items()]
    settings = night.settings(engine="direct")
    return catalogue.run_jobs(jobs, night.store, settings, name=called, output_url=out, report_name=name)


def statuses(page: str) -> dict[str, str]:
    """How a report page says that each job went, by id."""
    found = re.findall(r'data-state="(\w+)[^"]*">\s*<td><button[^>]*>([^<]*)</button>', page)
    return {name: status for status, name in found}


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs work in this process, where alone the made-up stages are."""
    monkeypatch.setattr(catalogue, "WorkerPool", lambda workers, **more: WorkerPool(0))


@pytest.mark.usefixtures("made_up")
def test_the_page_of_a_retry_shows_all_jobs_of_the_run_it_goes_on_with(night: Night, clips: Callable[[str, int], Path]) -> None:
    clips("a.png", 1)
    media, page = night.folder / "media", night.out / "page" / "index.html"
    targets = {"fine": clips("fine.mp4", 12), "late": media / "late.mp4", "never": media / "never.mp4"}
    first = ran(night, targets, str(night.out))
    assert first.report == str(page)
    targets["fine"].unlink()  # archived, since it is done
    (media / "late.mp4").write_text(json.dumps({"name": "late", "frames": 12}))
    ended = invoke("retry", first.run_id, "--store", night.store.url, "--json")
    assert ended.exit_code == 1, ended.output
    assert json.loads(ended.stdout)["report"] == str(page)
    text = page.read_text()
    assert statuses(text) == {"fine": "done", "late": "done", "never": "failed"}
    assert "no longer in the store" not in text
    assert "Jobs that were tried again: 2." in text
    retried = json.loads(ended.stdout)["run"]
    again = unfinished(night.store, retried, {})
    assert [one.id for one in again.jobs] == ["never"]
    assert [one["id"] for one in again.whole["jobs"]] == ["fine", "late", "never"]
    assert [one["id"] for one in runs.load(night.store, retried)["jobs"]] == ["late", "never"]  # what was asked of it


@pytest.mark.usefixtures("made_up")
def test_a_retry_of_a_run_that_cannot_be_read_whole_has_a_page_of_its_own_jobs(
    night: Night, clips: Callable[[str, int], Path]
) -> None:
    clips("a.png", 1)
    first = ran(night, {"fine": clips("fine.mp4", 12), "late": night.folder / "media" / "late.mp4"}, str(night.out))
    clips("late.mp4", 12)
    record = night.store.read_document(f"runs/{first.run_id}/run.json")
    assert record is not None
    rows: Any = record["jobs"]
    rows[0]["of_another_version"] = 1
    night.store.write_document(f"runs/{first.run_id}/run.json", record)
    ended = invoke("retry", first.run_id, "--store", night.store.url, "--json")
    assert ended.exit_code == 0, ended.output
    page = json.loads(ended.stdout)["report"]
    assert Path(page).parent.name.startswith("page-")
    assert statuses((night.out / "page" / "index.html").read_text()) == {"fine": "done", "late": "failed"}  # is left alone
    text = Path(page).read_text()
    assert statuses(text) == {"late": "done"}
    assert "Only the jobs that were tried again" in text
    assert invoke("report", json.loads(ended.stdout)["run"], "--store", night.store.url).exit_code == 2


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("remote", [False, True])
def test_catalogues_that_share_a_place_have_a_page_each_which_their_next_run_replaces(
    night: Night, clips: Callable[[str, int], Path], remote: bool
) -> None:
    clips("a.png", 1)
    out = "memory://shared-place" if remote else str(night.out)
    targets = {name: clips(f"{name}.mp4", 12) for name in ("first", "second", "third")}
    pages = [
        ran(night, {job: targets[job]}, out, "report", called).report
        for job, called in (("first", "films"), ("second", "my trailers"), ("third", "films"))
    ]
    assert pages == [f"{out}/report/index.html", f"{out}/report-my-trailers/index.html", f"{out}/report/index.html"]
    filesystem, _ = fsspec.core.url_to_fs(out)
    shown = [statuses(filesystem.cat_file(page).decode()) for page in pages[:2]]
    assert [list(jobs) for jobs in shown] == [["third"], ["second"]]


@pytest.mark.parametrize("place", ["folder", "memory://claims"])
def test_of_catalogues_that_begin_at_once_one_gets_the_folder(tmp_path: Path, place: str) -> None:
    out = f"{place}/{tmp_path.name}" if "://" in place else str(tmp_path / place)
    names = ["my trailers", "my-trailers", "my/trailers", "films"]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda name: claimed_folder(out, name, load_settings({})), names * 3))
    assert found[:4] == found[4:8] == found[8:]
    assert len(set(found)) == 4
    assert "report" in found


def test_a_page_of_an_earlier_version_and_a_damaged_claim_are_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<html><head><title>A &amp; B – headswap report</title>")
    assert claimed_folder(str(tmp_path), "films", load_settings({})) == "report-films"
    assert claimed_folder(str(tmp_path), "A & B", load_settings({})) == "report"
    (tmp_path / "report-films" / "catalogue.json").write_text("")
    assert claimed_folder(str(tmp_path), "films", load_settings({})) == "report-films-2"


def test_a_retry_does_not_take_the_folder_that_another_catalogue_has_by_now(tmp_path: Path) -> None:
    assert claimed_folder(str(tmp_path), "new", load_settings({})) == "report"
    assert claimed_folder(str(tmp_path), "old", load_settings({}), "report") == "report-old"


def test_a_place_that_cannot_be_written_is_told_when_the_page_is(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    assert claimed_folder(str(tmp_path / "out"), "films", load_settings({})) == "report"


@pytest.mark.usefixtures("made_up")
def test_a_page_in_a_remote_place_takes_the_place_of_the_one_before(night: Night, clips: Callable[[str, int], Path]) -> None:
    clips("a.png", 1)
    first = ran(night, {"one": night.folder / "media" / "one.mp4"}, "memory://night", "page")
    place = fsspec.filesystem("memory")
    assert statuses(place.cat("/night/page/index.html").decode()) == {"one": "failed"}
    clips("one.mp4", 12)
    assert invoke("retry", first.run_id, "--store", night.store.url).exit_code == 0
    assert statuses(place.cat("/night/page/index.html").decode()) == {"one": "done"}


def test_a_plan_knows_whether_devices_said_the_precision_and_a_page_does_not_guess_those_of_others(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    one = job("one", tmp_path / "a.png", tmp_path / "b.mp4")
    common = {"store": store.url, "renderer": "diffusion", "device": "cpu"}
    said = {"stages.render.diffusion.precision": "float32"}
    registry = ModelRegistry(tmp_path / "models")
    assert [Planner([one], store, load_settings({**common, **more}), registry).precision_by_devices for more in ({}, said)] == [
        True,
        False,
    ]
    finals = []
    for stage in ("assemble", "measure"):
        with store.begin(stage, f"{stage}-key", recipe={}, stage_version=1) as writer:
            finals.append(writer.commit())
    outcome = {"id": "one", "status": "done", "artifacts": {manifest.stage: manifest.key for manifest in finals}}
    record = {"run": "r", "jobs": [one.model_dump(mode="json")], "outcomes": {"one": outcome}, "settings": {}}
    planner = planned_again(store, record, load_settings(common), registry)
    (told,) = shown_jobs(planner, outcomes_of(record), {})
    assert told.status == "done"
    assert told.parameters["render.diffusion"]["precision"] == "as its run's devices had it"


def test_a_record_that_says_no_shared_noise_is_gone_on_with_without_whatever_the_pipeline_says_by_now(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    recorded = load_settings({"store": store.url, "stages.render.diffusion.shared_noise": 0}).recorded()
    sampler = recorded["stages"]["render"]["diffusion"]
    assert sampler["shared_noise"] == 0
    for of_an_earlier_version in (False, True):
        if of_an_earlier_version:
            del sampler["shared_noise"]
        found = settings_of_record(store, {"settings": recorded}, {}).stages.render.diffusion
        assert found.or_as_wanted({"shared_noise": 1.0}).shared_noise == 0


def test_a_precision_that_devices_said_is_said_anew_by_those_of_the_retry(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path / "store")
    settings = load_settings({"store": store.url, "stages.render.diffusion.precision": "bfloat16"})
    one = job("one", tmp_path / "a.png", tmp_path / "b.mp4").model_dump(mode="json")
    for by_devices, expected in ((True, "auto"), (False, "bfloat16")):
        asked = {
            "name": "night",
            "out": "out",
            "jobs": [one],
            "settings": settings.recorded(),
            "precision_by_devices": by_devices,
        }
        runs.RunRecorder(store, f"run-{by_devices}", asked)
        found = unfinished(store, f"run-{by_devices}", {}).settings
        assert found.stages.render.diffusion.precision == expected


@pytest.mark.parametrize(("before", "told"), [("bfloat16", True), ("float32", False), (None, False)])
def test_a_retry_in_another_precision_says_that_videos_begin_anew(tmp_path: Path, before: str | None, told: bool) -> None:
    notes: list[str] = []
    settings = load_settings({}).computed_in("float32")
    planner = Planner([], ArtifactStore.open(tmp_path / "store"), settings, ModelRegistry(tmp_path))
    planner.precision_by_devices, planner.note = True, notes.append
    diffusion = {} if before is None else {"precision": before}
    whole = {"run": "night", "precision_by_devices": True, "settings": {"stages": {"render": {"diffusion": diffusion}}}}
    catalogue._note_other_precision(planner, whole)
    assert [("begun anew" in note, "bfloat16" in note) for note in notes] == [(True, True)] * told
