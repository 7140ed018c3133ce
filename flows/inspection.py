"""`headswap inspect`: from a name to the artifacts there are of it, and from those to contact sheets."""

from __future__ import annotations

import os
from pathlib import Path

from flows import runs
from flows.planning import Clip, Planner
from flows.retrying import settings_of_record
from flows.sheets import inspect_clip, inspect_job
from schemas.catalogue import Job, resolve, safe_id
from schemas.configuration import Settings
from schemas.names import named, nearest
from schemas.problems import HeadswapError, UsageError
from stages.networks.registry import ModelRegistry
from storage import sources
from storage.artifacts import Artifact
from storage.store import ArtifactStore


def inspect_from_store(
    name: str, store: ArtifactStore, settings: Settings, registry: ModelRegistry, out: Path, *, subject: str | None = None
) -> list[Path]:
    """Contact sheets of a clip, given by path or URL, or of a job of any recorded run, given by its id.

    Raises:
        UsageError: it is neither a clip nor a job, or nothing of it is in the store.
    """
    found = _recorded_job(store, name)
    if found is not None:
        job, recorded = found
        return _job_sheets(job, store, recorded, registry, out)
    url = resolve(name, str(Path.cwd() / "-"))
    planner = Planner([], store, settings, registry)
    try:
        manifests = planner.survey_clip(Clip(url, subject or settings.stages.track.subject))
    except HeadswapError as error:
        local = sources.local_path(url)
        if error.code != "file_missing" or local is None or os.path.exists(local):
            raise
        problem = f"{name!r} is neither a file ({local} does not exist) nor a job of a recorded run."
        raise UsageError([problem], _jobs(store, name)) from error
    artifacts = {stage: [store.artifact(manifest) for manifest in some] for stage, some in manifests.items()}
    with sources.open_medium(url, store, settings.scratch_bytes) as media:
        return inspect_clip(artifacts, media, out, name=safe_id(Path(url).stem))


def _recorded_job(store: ArtifactStore, name: str) -> tuple[Job, Settings] | None:
    """The newest job of that id, with the settings it ran under."""
    if "/" in name:
        return None
    for record in runs.newest_first(store):
        for job in record["jobs"]:
            if job["id"] == name:
                return runs.job_of(record, job), settings_of_record(store, record, {})
    return None


def _jobs(store: ArtifactStore, name: str) -> str:
    """Which jobs there are, for somebody who gave the name of none."""
    newest = next(runs.newest_first(store), None)
    if newest is None:
        return f"Give the path of a clip; no run is recorded in {store.url}."
    ids = [job["id"] for job in newest["jobs"]]
    near = nearest(name, ids)
    meant = f"Did you mean {near!r}? " if near else ""
    return f"{meant}The jobs of the newest run, {newest['run']}, are: {named(ids)}."


def _job_sheets(job: Job, store: ArtifactStore, settings: Settings, registry: ModelRegistry, out: Path) -> list[Path]:
    planner = Planner([job], store, settings, registry)
    planner.survey(skip_finished=False)
    plan = planner.jobs[job.id]
    if plan.failure is not None:
        raise UsageError([plan.failure.message], plan.failure.remedy)

    def artifacts(owner: Clip | str) -> dict[str, list[Artifact]]:
        found: dict[str, list[Artifact]] = {}
        for node in plan.nodes:
            if node.owner == owner or (isinstance(owner, Clip) and node.owner == Clip(owner.url)):
                units = planner.step(node).units or []
                some = [store.artifact(unit.manifest) for unit in units if unit.manifest is not None]
                if some:
                    found[node.stage] = some
        return found

    pictures = []
    for clip in (plan.source, plan.target):
        with sources.open_medium(clip.url, store, settings.scratch_bytes) as media:
            pictures += inspect_clip(artifacts(clip), media, out, name=f"{job.id}-{safe_id(Path(clip.url).stem)}")
    of_target = artifacts(plan.target)
    with sources.open_medium(job.target, store, settings.scratch_bytes) as media:
        of_job = artifacts(job.id)
        pictures += inspect_job({**of_target, **of_job}, media, out, name=job.id) if of_job else []
    return pictures
