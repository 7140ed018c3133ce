"""From what a run left in the store to its report page."""

from __future__ import annotations

import datetime
import html
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy.typing as npt
from pydantic import ValidationError

from flows.delivery import final_manifests
from flows.events import DONE, JobOutcome
from flows.planning import JobPlan, Node, Planner
from flows.report import JobFailure, JobReport, RunReport, build_report
from flows.runs import job_of, readable_id
from schemas.configuration import Settings
from schemas.problems import StoreError, UsageError
from stages.networks.registry import ModelRegistry
from storage import sources
from storage.artifacts import Manifest
from storage.backends import Backend
from storage.failures import Failure
from storage.store import ArtifactStore, open_backend
from storage.tables import array

FOLDER = "report"

_CLAIM = "catalogue.json"
"""Lies beside a page and says whose it is."""


def claimed_folder(output_url: str, name: str, settings: Settings, wanted: str = FOLDER) -> str:
    """The folder below ``output_url`` for the page of a catalogue: ``wanted``, or where another one's page is ``report-<name>``.

    The catalogue's next run replaces its page. Of two catalogues that begin at once, one gets the folder. A place that cannot be
    read or written is not complained of here: it is when the page is written.

    Args:
        name: of the catalogue.
    """
    own = f"{FOLDER}-{readable_id(name)}"
    folders = dict.fromkeys([wanted, own, *(f"{own}-{number}" for number in range(2, 100))])
    try:
        place = open_backend(output_url, dict(settings.storage_options_of(output_url)))
        return next((folder for folder in folders if _claimed(place, folder, name)), wanted)
    except (StoreError, OSError):
        return wanted


def _claimed(place: Backend, folder: str, name: str) -> bool:
    """Whether a folder is the catalogue's, from now on if not before."""
    claim = place.read(f"{folder}/{_CLAIM}")
    if claim is None:
        page = place.read(f"{folder}/index.html", 0, 4096)
        if page is not None and f"<title>{html.escape(name)} – " not in page.decode(errors="replace"):
            return False  # another's, of a version that did not claim folders
        if place.create(f"{folder}/{_CLAIM}", json.dumps({"catalogue": name}).encode()):
            return True
        claim = place.read(f"{folder}/{_CLAIM}")
    try:
        return bool(json.loads(claim or b"{}").get("catalogue") == name)
    except (ValueError, AttributeError):
        return False


def write_report(
    planner: Planner,
    outcomes: Mapping[str, JobOutcome],
    output_url: str,
    *,
    name: str,
    run_id: str,
    seconds: float | None,
    folder: str = FOLDER,
    step_seconds: Mapping[Node, float] | None = None,
    started: str = "",
    notes: Iterable[str] = (),
) -> str:
    """Write the page of a run to ``<output_url>/<folder>/index.html`` and return its address.

    Raises:
        StoreError: ``output_failed`` when the place cannot be written.
    """
    stages: dict[str, float] = defaultdict(float)
    for node, spent in (step_seconds or {}).items():
        stages[node.stage] += spent
    run = RunReport(
        name=name,
        run_id=run_id,
        jobs=shown_jobs(planner, outcomes, step_seconds or {}),
        seconds=seconds,
        output=output_url,
        settings={setting.name: setting.value for setting in planner.settings.describe()},
        notes=list(notes),
        started=started,
        stages={stage: spent for stage, spent in stages.items() if spent > 0},
    )
    address = f"{output_url.rstrip('/')}/{folder}"
    try:
        filesystem, path = sources.file_system(address, planner.settings.storage_options_of(address))
        if "file" in filesystem.protocol:
            return str(build_report(run, Path(path), store=planner.store))
        # A page and its media are made here and put there whole.
        local = planner.store.scratch / f"{folder}-{run_id}"
        build_report(run, local, store=planner.store)
    except OSError as error:
        raise _output_failed(address, error) from error
    try:
        # Without the slash a folder that is there already would get another one inside.
        filesystem.put(f"{local}/", path, recursive=True)
    except Exception as error:  # remote places have errors of their own kind
        raise _output_failed(address, error) from error
    finally:
        shutil.rmtree(local, ignore_errors=True)
    return f"{address}/index.html"


def _output_failed(address: str, error: Exception) -> StoreError:
    return StoreError(
        "output_failed",
        f"The report {address} could not be written: {type(error).__name__}: {error}.",
        "Check that the place given by --out may be written and has space, then: headswap report",
        retryable=True,
    )


def planned_again(store: ArtifactStore, record: Mapping[str, Any], settings: Settings, registry: ModelRegistry) -> Planner:
    """The plan of a recorded run's jobs.

    Done jobs are not resolved anew where the record names their artifacts, as that of earlier versions does not: inputs may be
    gone and the program another one.
    """
    planner = Planner([job_of(record, job) for job in record["jobs"]], store, settings, registry)
    if any(outcome["status"] in DONE and not outcome.get("artifacts") for outcome in record["outcomes"].values()):
        planner.survey()
    return planner


def outcomes_of(record: Mapping[str, Any]) -> dict[str, JobOutcome]:
    """How each job of a recorded run went, by its id.

    Raises:
        UsageError: another version recorded it.
    """
    try:
        return {name: _outcome(value) for name, value in record["outcomes"].items()}
    except (ValidationError, TypeError) as error:
        raise UsageError(
            [f"How the jobs of {record['run']} went is recorded in a way that this version cannot read: {error}."],
            "Use the version that the run was made with.",
        ) from error


def tried_again(jobs: int) -> str:
    """A sentence for the page of a retry."""
    return f"Jobs that were tried again: {jobs}. Times are of these alone."


def report_of_record(store: ArtifactStore, record: Mapping[str, Any], settings: Settings, out: str | None) -> str:
    """The page of a recorded run again, from what the store holds now."""
    planner = planned_again(store, record, settings, ModelRegistry(settings.models))
    stages = {Node("", name): float(total["seconds"]) for name, total in record.get("stages", {}).items()}
    place = out or record["out"]
    return write_report(
        planner,
        outcomes_of(record),
        place,
        name=record["name"],
        folder=claimed_folder(place, record["name"], settings, record.get("report_folder", FOLDER)),
        run_id=record["run"],
        seconds=_wall_clock(record),
        step_seconds=stages,
        started=str(record.get("started", "")),
        notes=[tried_again(record["asked_again"])] if "asked_again" in record else [],
    )


def _wall_clock(record: Mapping[str, Any]) -> float | None:
    """Seconds from the beginning to the end of a recorded run; None of one that was killed, which recorded no end."""
    try:
        began, ended = (datetime.datetime.fromisoformat(record[name]) for name in ("started", "ended"))
    except (KeyError, TypeError, ValueError):
        return None
    return max((ended - began).total_seconds(), 0.0)


def _columns(store: ArtifactStore, manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    """What the measure stage wrote of each frame, by column."""
    table = store.artifact(manifest).table("measures")
    return {column: array(table, column) for column in table.column_names}


def _outcome(value: Mapping[str, Any]) -> JobOutcome:
    failure = value.get("failure")
    known = {name: item for name, item in value.items() if name in JobOutcome.__dataclass_fields__}
    return JobOutcome(**{**known, "failure": None if failure is None else Failure.model_validate(failure)})


def shown_jobs(planner: Planner, outcomes: Mapping[str, JobOutcome], step_seconds: Mapping[Node, float]) -> list[JobReport]:
    """What the page says of each job, in the order of the catalogue."""
    finals = _finals(planner, outcomes)
    return [_job(planner, plan, outcomes.get(name), finals.get(name), step_seconds) for name, plan in planner.jobs.items()]


def _finals(planner: Planner, outcomes: Mapping[str, JobOutcome]) -> dict[str, dict[str, Manifest]]:
    """The last artifacts of done jobs by id and stage, as far as the store still has them: those planned here are known, others
    are looked up together. The outcome's word holds where a plan of today says otherwise."""
    found, others = {}, {}
    for name, outcome in outcomes.items():
        if outcome.status not in DONE:
            continue
        try:
            found[name] = final_manifests(planner, planner.jobs[name])
        except (RuntimeError, ValueError):
            others[name] = outcome.artifacts
            continue
        if outcome.artifacts and outcome.artifacts != {stage: manifest.key for stage, manifest in found[name].items()}:
            others[name] = outcome.artifacts
            del found[name]
    manifests = planner.look_up([item for keys in others.values() for item in keys.items()])
    for name, keys in others.items():
        if keys and all(item in manifests for item in keys.items()):
            found[name] = {stage: manifests[stage, key] for stage, key in keys.items()}
    return found


def _job(
    planner: Planner,
    plan: JobPlan,
    outcome: JobOutcome | None,
    manifests: Mapping[str, Manifest] | None,
    seconds: Mapping[Node, float],
) -> JobReport:
    """What the page says of a job. ``manifests``: its last artifacts, as far as there are any."""
    job = plan.job
    common: dict[str, Any] = {"id": job.id, "source": job.source, "target": job.target, "rights": job.rights}
    if outcome is None:
        return JobReport(**common, status="skipped", notes=["The run ended before this job."])
    if outcome.status == "failed":
        failure = outcome.failure
        told = None if failure is None else JobFailure(failure.code, failure.message, failure.remedy, failure.stage)
        return JobReport(**common, status="failed", failure=told, notes=outcome.notes)
    if manifests is None:
        # The record says it is done, but its artifacts were given up since: the page says what is left to say.
        return JobReport(**common, status="cached", output=outcome.output, notes=["Its artifacts are no longer in the store."])
    measure = planner.store.artifact(manifests["measure"])
    facts: dict[str, Any] = dict(measure.facts)
    parameters = {
        f"{node.stage}.{name}": value
        for node in plan.nodes
        if isinstance(node.owner, str)
        for name, value in planner.parameters(node).model_dump(mode="json").items()
    }
    if planner.step(Node(job.id, "assemble")).units is None and "render.diffusion" in parameters:
        # Of a job done by another run: the devices of that one are not known here.
        parameters["render.diffusion"] = {**parameters["render.diffusion"], "precision": "as its run's devices had it"}
    provenance = cast(Mapping[str, Any], planner.store.artifact(manifests["assemble"]).facts.get("provenance", {}))
    return JobReport(
        **common,
        status="cached" if outcome.status == "cached" else "done",
        output=outcome.output,
        measures=partial(_columns, planner.store, manifests["measure"]) if measure.has("measures") else None,
        verdict=facts.get("verdict", {}),
        notes=outcome.notes,
        seconds={node.stage: seconds[node] for node in plan.nodes if seconds.get(node)},
        parameters=parameters,
        provenance=provenance,
    )
