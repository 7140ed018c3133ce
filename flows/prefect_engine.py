"""The same plan as Prefect flows and tasks: one task for each stage and group of chunks, hits shown as Cached.

Prefect orchestrates, shows and retries; the store decides what is done (a result record does not prove that an artifact exists).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import psutil

# Read by Prefect when it is imported. An ephemeral server takes 8 to 25 seconds to start on two cores.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")

from prefect import flow
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.planning import DELIVER, JobPlan, scope_of
from flows.scheduling import CHUNKS_PER_GROUP, Batch, Group
from schemas.names import counted
from schemas.problems import HeadswapError

SERVER_MARK = "_HEADSWAP_SERVER_OF"
"""Variable that an ephemeral server inherits. Not one of the HEADSWAP_ variables, which are settings."""

RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
"""What Prefect says of flows and tasks."""

TASKS_PER_FLOW = 900
"""Prefect's server stays quick below about 1,000 task runs in one flow run."""


def run_with_prefect(batch: Batch, *, run_id: str, name: str) -> None:
    """Run a planned batch as a flow with a subflow for each shard of jobs."""
    end_orphaned_servers()
    os.environ[SERVER_MARK] = f"{os.getpid()} {psutil.Process().create_time():.0f}"
    shards = shards_of(list(batch.planner.jobs.values()), lambda plan: len(batch.planner.chunks(plan.job.id) or [plan.job.id]))

    @flow(name="headswap-shard", validate_parameters=False, persist_result=False)
    def run_shard(jobs: list[str]) -> State[Any]:
        engine = PrefectEngine(batch)
        batch.run(engine, jobs)
        failed = [job for job in jobs if batch.outcomes[job].status == "failed"]
        if failed:
            return Failed(message=f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed[:10])}")
        return Completed(message=counted(len(jobs), "job"))

    @flow(name="headswap-catalogue", flow_run_name=run_id, validate_parameters=False, persist_result=False)
    def run_catalogue(catalogue: str, jobs: int) -> State[Any]:
        del catalogue
        runner: Any = ThreadPoolTaskRunner(max_workers=batch.slots)
        for number, shard in enumerate(shards):
            named = run_shard.with_options(task_runner=runner, flow_run_name=f"{run_id}-shard-{number}")
            named([plan.job.id for plan in shard], return_state=True).result(raise_on_failure=False)
        failed = sum(outcome.status == "failed" for outcome in batch.outcomes.values())
        return Failed(message=f"{failed} of {jobs} jobs failed") if failed else Completed(message=counted(jobs, "job"))

    with _quiet_once_stopped(batch):
        outcome = run_catalogue(name, len(batch.planner.jobs), return_state=True)
    missing = [job for job in batch.planner.jobs if job not in batch.outcomes]
    if missing:
        # The flow itself broke (its server went away, say): nothing committed is lost, but jobs were not run.
        raise HeadswapError(
            "engine_failed",
            f"Prefect ended the run before its {len(missing)} last jobs: {outcome.message}.",
            "Give the same command again to go on; --engine direct needs no server.",
            retryable=True,
        )


@contextmanager
def _quiet_once_stopped(batch: Batch) -> Iterator[None]:
    """Inside, Prefect says nothing of failures, which the run tells with reason and remedy, and nothing at all once the run was
    asked to stop, which Prefect takes for a crash of every flow and task."""

    def wanted(record: logging.LogRecord) -> bool:
        return not batch.stopping.is_set() and "Finished in state Failed" not in record.getMessage()

    loggers = [logging.getLogger(name) for name in RUN_LOGGERS]
    for logger in loggers:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)


def shards_of(plans: Sequence[JobPlan], chunks_of: Callable[[JobPlan], int] = lambda plan: 1) -> list[list[JobPlan]]:
    """Cut a catalogue so that one flow run has a bounded number of task runs, as far as lengths are known.

    Jobs on one target stay together where possible. ``chunks_of`` gives the chunks of a job's target.
    """
    shards: list[list[JobPlan]] = []
    size = TASKS_PER_FLOW
    for plan in sorted(plans, key=lambda plan: (plan.target, plan.order)):
        groups = -(-chunks_of(plan) // CHUNKS_PER_GROUP)
        tasks = 1 + sum(groups if scope_of(node).chunked else 1 for node in plan.nodes) if plan.record is None else 1
        if size + tasks > TASKS_PER_FLOW:
            shards.append([])
            size = 0
        shards[-1].append(plan)
        size += tasks
    for shard in shards:
        shard.sort(key=lambda plan: plan.order)
    return sorted(shards, key=lambda shard: shard[0].order)


class PrefectEngine:
    """Submits groups as task runs of the current flow run."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        policy = batch.planner.settings.retry
        delays = policy.pauses()
        self._options: dict[str, Any] = {
            "cache_policy": NO_CACHE,
            "persist_result": False,
            "retries": len(delays),
            "retry_delay_seconds": delays or None,
            "retry_jitter_factor": 0.25 if delays else None,
        }

    def submit(self, group: Group, run: Callable[[Group], bool]) -> Future[bool]:
        part = f" {group.index + 1}/{group.of}" if group.of > 1 else ""
        stage = "finish" if group.node.stage == DELIVER else group.node.stage
        done: Future[bool] = Future()
        met: list[BaseException] = []

        def work() -> State[Any]:
            try:
                cached = run(group)
            except BaseException as error:
                met.append(error)
                raise
            return Completed(name="Cached", message="all artifacts are in the store") if cached else Completed()

        def may_pass(ran: Any, task_run: TaskRun, state: State[Any]) -> bool:
            del ran, state
            error = met[-1]
            if not isinstance(error, HeadswapError):
                return False
            delay = self._batch.retry_delay(error, task_run.run_count)
            if delay is not None:
                self._batch.tell_retry(group, error, delay)
            return delay is not None

        name = f"{stage} {group.node.label}{part}"
        named: Any = Task(work, name=stage, task_run_name=name, retry_condition_fn=may_pass, **self._options)
        future = named.submit()

        def settle(finished: Any) -> None:
            finished.wait()
            state = finished.state
            if state.is_completed():
                done.set_result(state.name == "Cached")
            else:
                done.set_exception(met[-1] if met else RuntimeError(f"Prefect ended the task as {state.name}: {state.message}"))

        future.add_done_callback(settle)
        return done


def end_orphaned_servers() -> None:
    """End ephemeral servers whose run was killed with -9: they would stay for ever.

    Only processes of this user that a headswap run started which is gone.
    """
    for process in psutil.process_iter():
        try:
            if any("prefect.server" in part for part in process.cmdline()):
                mark = process.environ().get(SERVER_MARK)
                if mark is not None and not _is_running(mark):
                    process.terminate()
        except psutil.Error:
            continue


def _is_running(mark: str) -> bool:
    """Whether the process that left this mark lives; its start guards against numbers that are in use again."""
    number, started = mark.split()
    try:
        return abs(psutil.Process(int(number)).create_time() - float(started)) < 2
    except psutil.NoSuchProcess:
        return False
