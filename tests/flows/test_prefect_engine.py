"""Prefect runs the same plan: hits show as Cached, what may pass is retried by Prefect, one bad video stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import TaskRun
from prefect.testing.utilities import prefect_test_harness

from flows.events import Events
from flows.prefect_engine import TASKS_PER_FLOW, run_with_prefect, shards_of
from flows.scheduling import Batch
from flows.workers import WorkerPool
from schemas.catalogue import Job
from tests.flows import fakes
from tests.flows.conftest import Night, job

Clips = Callable[[str, int], Path]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def run(night: Night, jobs: list[Job], name: str) -> Batch:
    fakes.executions.clear()
    with WorkerPool(0) as pool:
        batch = Batch(night.planner(jobs), pool, Events(), output_url=str(night.out))
        run_with_prefect(batch, run_id=name, name="catalogue")
    return batch


def task_runs(name: str) -> list[TaskRun]:
    """Those of a flow run that has ended, as the server tells them: it hears of their ends a little later than we do."""
    asked = FlowRunFilter(name=FlowRunFilterName(any_=[f"{name}-shard-0"]))
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_task_runs(flow_run_filter=asked, limit=200)
            if (found and all(run.state is not None and run.state.is_final() for run in found)) or time.monotonic() > deadline:
                return found
            time.sleep(0.2)


def test_hits_show_as_cached_and_misses_as_completed(night: Night, clips: Clips) -> None:
    jobs = [job("a", clips("source", 1), clips("target", 25)), job("b", clips("source2", 1), clips("target", 25))]
    batch = run(night, jobs, "first")
    assert {outcome.status for outcome in batch.outcomes.values()} == {"done"}
    states = {task_run.name: task_run.state_name for task_run in task_runs("first")}
    assert states["ingest target"] == "Completed"
    assert states["finish a"] == "Completed"
    run(night, [*jobs, job("c", clips("source3", 1), clips("target", 25))], "second")
    states = {task_run.name: task_run.state_name for task_run in task_runs("second")}
    assert states["finish a"] == states["finish b"] == "Cached"
    assert states["ingest target"] == "Cached"
    assert states["ingest source3"] == "Completed"
    assert "ingest:target" not in fakes.executions


def test_retries_are_prefects_and_only_for_what_may_pass(night: Night, clips: Clips, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    fakes.trouble["retarget"] = [fakes.passing()]
    jobs = [job("a", clips("source", 1), clips("target", 12)), job("bad", clips("source", 1), text)]
    batch = run(night, jobs, "retrying")
    assert batch.outcomes["a"].status == "done"
    assert batch.outcomes["bad"].status == "failed"
    counts = {task_run.name: (task_run.run_count, task_run.state_name) for task_run in task_runs("retrying")}
    assert counts["retarget a"] == (2, "Completed")
    assert counts["ingest text.mp4"] == (1, "Failed")


def test_shards_bound_the_tasks_of_a_flow_run_and_keep_targets_together(night: Night, clips: Clips) -> None:
    jobs = [job(f"j{number}", clips("source", 1), clips(f"target{number % 7}", 12)) for number in range(300)]
    plans = list(night.planner(jobs).jobs.values())
    shards = shards_of(plans)
    assert sorted(plan.job.id for shard in shards for plan in shard) == sorted(name.id for name in jobs)
    assert all(sum(len(plan.nodes) + 1 for plan in shard) <= TASKS_PER_FLOW for shard in shards)
    split = [target for target in {plan.target for plan in plans} if sum(target in [p.target for p in s] for s in shards) > 1]
    assert len(split) < len(shards), "only a target at a border is in two shards"
