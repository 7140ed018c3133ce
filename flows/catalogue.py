"""A catalogue from start to end: plan, run with an engine, record, report. The two engines share all of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.delivery import require_places
from flows.devices import devices_of
from flows.estimates import Costs, seconds_of_work, stated_lengths
from flows.events import Events, JobOutcome, StageTotals
from flows.planning import Planner
from flows.reporting import FOLDER, claimed_folder, outcomes_of, planned_again, tried_again, write_report
from flows.requirements import require_pipelines, require_place, require_signable
from flows.runs import RunRecorder, new_run_id
from flows.scheduling import Batch, DirectEngine
from flows.upkeep import OF_FINISHED_JOBS, collect_garbage
from flows.workers import Limits, WorkerPool
from schemas.catalogue import Job
from schemas.configuration import Settings
from schemas.places import whole_address
from schemas.problems import HeadswapError, StoreError, UsageError
from stages.networks.registry import ModelRegistry
from storage.store import ArtifactStore


@dataclass
class RunResult:
    """What a run came to. ``exit_status``: 0 all done, 1 some jobs failed."""

    run_id: str
    outcomes: dict[str, JobOutcome]
    totals: dict[str, StageTotals]
    seconds: float
    output_url: str
    report: str | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes.values())

    @property
    def exit_status(self) -> int:
        return 1 if self.count("failed") else 0


class Observers(Events):
    """Several observers as one."""

    def __init__(self, observers: Sequence[Events]) -> None:
        for name in (name for name in vars(Events) if not name.startswith("_")):
            setattr(self, name, _each([getattr(observer, name) for observer in observers]))


def _each(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        for method in methods:
            method(*arguments)

    return call


def default_output(store: ArtifactStore, name: str) -> str:
    """Results go beside the artifacts unless a place is given."""
    return f"{store.address.rstrip('/')}/results/{name}"


def run_jobs(
    jobs: Sequence[Job],
    store: ArtifactStore,
    settings: Settings,
    *,
    name: str,
    output_url: str,
    registry: ModelRegistry | None = None,
    events: Sequence[Events] = (),
    retry_failed: bool = False,
    asked: dict[str, Any] | None = None,
    report_name: str = FOLDER,
    whole: Mapping[str, Any] | None = None,
) -> RunResult:
    """Run jobs to their end with the engine of the settings.

    What is committed in the store is not done again; giving the same jobs again after a kill goes on where it was.

    Args:
        jobs: to do. store: for all that is made. settings, name: of the run. output_url: where results go whose rows do not say
            otherwise. registry: of models. events: told what happens. retry_failed: also what is known to fail. asked: more to
            record of what was asked for. report_name: folder of the page, where it is free (``claimed_folder``). whole: record of
            the run that this one goes on with (``runs.load_whole``), of whose page this run's takes the place: it shows all
            jobs, also those that were done before.
    """
    began = time.perf_counter()
    output_url = whole_address(output_url)  # a retry may be given elsewhere
    planner = Planner(jobs, store, settings, registry or ModelRegistry(settings.models))
    require_pipelines(planner)
    require_place(output_url, settings)
    require_places(planner, output_url)
    told: list[str] = []
    planner.note = told.append  # nobody observes yet
    require_signable(planner, output_url, retry_failed=retry_failed)
    devices = devices_of(planner)
    run_id = new_run_id(name)
    wanted = report_name if whole is None else whole.get("report_folder", FOLDER)
    folder = claimed_folder(output_url, name, settings, wanted)
    recorder = RunRecorder(
        store,
        run_id,
        {
            "name": name,
            "engine": settings.engine,
            "out": output_url,
            "jobs": [job.model_dump(mode="json") for job in jobs],
            "settings": planner.settings.recorded(),
            "precision_by_devices": planner.precision_by_devices,
            "report_folder": folder,
            **({} if whole is None else {"retry_of": whole["run"]}),
            **(asked or {}),
        },
    )
    observers = Observers([recorder, *events])
    limits = Limits(seconds=settings.time_limits.of, memory_bytes=settings.worker_memory)
    state, report, record = "interrupted", None, {}
    pool = WorkerPool(settings.workers, devices=devices, limits=limits, logs=store.scratch)
    batch = Batch(planner, pool, observers, output_url=output_url, retry_failed=retry_failed)
    try:
        with pool:  # gives up processes, and the models in them, before the page is made
            planner.note = observers.note
            for text in told:
                planner.note(text)
            if whole is not None:
                _note_other_precision(planner, whole)
            planner.survey()
            costs = Costs(planner, settings.workers, stated_lengths(planner))
            observers.run_started(list(planner.jobs.values()), seconds_of_work(planner, costs), costs.seconds)
            _run(batch, settings, run_id=run_id, name=name)
        report = _report(batch, output_url, name=name, folder=folder, run_id=run_id, began=began, whole=whole)
        failed = any(outcome.status == "failed" for outcome in batch.outcomes.values())
        _apply_retention(batch, settings.retention, failed=failed)
        state = "failed" if failed else "completed"
    finally:
        try:
            record = recorder.finish(state, dict(batch.totals), report)
        except StoreError as error:
            observers.note(f"The end of the run could not be recorded: {error}")
    return RunResult(run_id, batch.outcomes, dict(batch.totals), time.perf_counter() - began, output_url, report, record)


def _note_other_precision(planner: Planner, whole: Mapping[str, Any]) -> None:
    """Tell where a retry computes otherwise than the run did: what this one had begun then counts for nothing."""
    if not (planner.precision_by_devices and whole.get("precision_by_devices")):
        return
    now = planner.settings.stages.render.diffusion.precision
    before = whole["settings"].get("stages", {}).get("render", {}).get("diffusion", {}).get("precision", now)
    if before != now:
        planner.note(
            f"The devices here compute in {now}, those of {whole['run']} in {before}: videos that it had begun with the "
            "diffusion renderer are begun anew. To go on with them, try again where such devices are."
        )


def _run(batch: Batch, settings: Settings, *, run_id: str, name: str) -> None:
    nothing_to_do = all(plan.record is not None or plan.failure is not None for plan in batch.planner.jobs.values())
    # A server of its own would take longer to start than all the rest, to show nobody that there was nothing to do.
    if settings.engine == "prefect" and not (nothing_to_do and "PREFECT_API_URL" not in os.environ):
        from flows.prefect_engine import run_with_prefect  # Prefect takes seconds to import

        run_with_prefect(batch, run_id=run_id, name=name)
        return
    engine = DirectEngine(batch, threads=batch.slots)
    try:
        batch.run(engine)
    finally:
        engine.close()


def _report(
    batch: Batch, output_url: str, *, name: str, folder: str, run_id: str, began: float, whole: Mapping[str, Any] | None
) -> str | None:
    """The page's address; None, with a note, where it cannot be written: the videos are done all the same."""
    planner, outcomes = batch.planner, batch.outcomes
    notes = []
    try:
        if whole is not None:
            try:
                outcomes = {**outcomes_of(whole), **outcomes}
                planner = planned_again(planner.store, whole, planner.settings, planner.registry)
                notes.append(tried_again(len(batch.planner.jobs)))
            except UsageError as error:  # what another version recorded; its page is left alone
                planner, outcomes, folder = batch.planner, batch.outcomes, f"{folder}-{run_id}"
                notes.append(f"Only the jobs that were tried again: {whole['run']} cannot be shown with them. {error}")
        return write_report(
            planner,
            outcomes,
            output_url,
            name=name,
            folder=folder,
            run_id=run_id,
            seconds=time.perf_counter() - began,
            step_seconds=batch.seconds,
            notes=notes,
        )
    except HeadswapError as error:
        batch.events.note(str(error))
        return None


def _apply_retention(batch: Batch, retention: str, *, failed: bool) -> None:
    """Give up what the settings do not want to keep. Jobs that failed keep what resuming them needs.

    What only this run's finished jobs needed goes at once. What belongs to clips may be needed by another run, which shares the
    store and the clip: it goes when it is a day old, as everything that others made.
    """
    if retention == "all":
        return
    planner = batch.planner
    made = [
        unit.manifest.folder
        for plan in planner.jobs.values()
        if batch.outcomes[plan.job.id].status == "done"
        for node in plan.nodes
        if node.stage in OF_FINISHED_JOBS
        for unit in planner.step(node).units or ()
        if unit.manifest is not None
    ]
    collect_garbage(planner.store, retention="resume" if failed else retention, at_once=frozenset(made))
