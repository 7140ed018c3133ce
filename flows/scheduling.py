"""Runs a plan: what is ready goes to an engine, what fails takes only its own jobs with it. Knows no Prefect.

An engine is anything that can submit a ``Group`` and give back a future: a thread pool here (``DirectEngine``), Prefect's
task runner in ``flows.prefect_engine``. Both call ``Batch.run_group``, so both do the same work and write the same artifacts.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from flows import pipeline
from flows.delivery import deliver
from flows.events import Events, JobOutcome, StageTotals, StepResult
from flows.execution import Outcome, WorkItem, describe
from flows.patience import LAST_RETRY, patiently, pause_before
from flows.planning import DELIVER, JobPlan, Node, Planner, Unit, quarantined
from flows.problems import failure_of
from flows.workers import WorkerPool
from schemas.problems import HeadswapError, StoreError
from storage.failures import Failure

T = TypeVar("T")

CHUNKS_PER_GROUP = 16
"""Chunks that one engine task covers: seconds to minutes of work, and few enough tasks for an hour of video."""


@dataclass(frozen=True)
class Group:
    """What an engine runs as one task: some chunks of a node (all of them, mostly), or the delivery of a job."""

    node: Node
    units: tuple[Unit, ...]
    index: int = 0
    of: int = 1

    @property
    def cached(self) -> bool:
        return all(unit.manifest is not None for unit in self.units)


class Engine(Protocol):
    def submit(self, group: Group, run: Callable[[Group], bool]) -> Future[bool]:
        """Run ``run(group)`` (true: all was cached) some time soon, with retries as ``Batch.retry_delay`` says."""


class DirectEngine:
    """The same plan in one process, without a server."""

    def __init__(self, batch: Batch, threads: int) -> None:
        self._batch = batch
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="step")

    def submit(self, group: Group, run: Callable[[Group], bool]) -> Future[bool]:
        return self._executor.submit(self._with_retries, group, run)

    def _with_retries(self, group: Group, run: Callable[[Group], bool]) -> bool:
        return patiently(
            lambda: run(group),
            self._batch.retry_delay,
            self._batch.stopping,
            lambda error, delay: self._batch.tell_retry(group, error, delay),
        )

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


class Batch:
    """One execution of a planned catalogue."""

    def __init__(
        self, planner: Planner, pool: WorkerPool, events: Events, *, output_url: str, retry_failed: bool = False
    ) -> None:
        self.planner = planner
        self.pool = pool
        self.events = events
        self.output_url = output_url
        self.retry_failed = retry_failed
        self.stopping = threading.Event()
        self.totals: dict[str, StageTotals] = defaultdict(StageTotals)
        self.outcomes: dict[str, JobOutcome] = {}
        self.seconds: dict[Node, float] = defaultdict(float)
        self._lock = threading.RLock()
        self._failed: dict[Node, Failure] = {}
        self._in_flight: dict[tuple[str, str], Future[Outcome]] = {}
        self._counted: set[tuple[Node, str]] = set()
        self._done: set[Node] = set()
        self._order: dict[Node, int] = {}
        for plan in planner.jobs.values():
            for node in plan.nodes:
                self._order.setdefault(node, plan.order)

    # ---- what engines call ---------------------------------------------------------------------------------------

    def run_group(self, group: Group) -> bool:
        """Do what is missing of a group. Returns whether nothing was.

        Raises:
            HeadswapError: the first failure; the group's other units are finished (and committed) before.
        """
        if group.node.stage == DELIVER:
            return self._deliver(group.node)
        began = time.perf_counter()
        missing = [unit for unit in group.units if unit.manifest is None]
        items = {unit.key: describe(self.planner, unit) for unit in missing}
        frames = sum(item.frames for item in items.values())
        if missing:
            with self._lock:
                self.events.step_started(group.node, len(missing), frames)
        counted = threading.Lock()

        def progress(done: int) -> None:
            with counted:
                self.events.progress(group.node, done)

        futures = [(unit, *self._submit(unit, items[unit.key], progress)) for unit in missing]
        error: HeadswapError | None = None
        stage_seconds = bookkeeping = 0.0
        executed = 0
        for unit, future, own in futures:
            try:
                outcome = future.result()
            except HeadswapError as raised:
                error = error or raised
                record_failure(self.planner, unit, raised, self._note)
                continue
            unit.manifest = outcome.manifest
            unit.failure = None
            if own:
                executed += 1
                stage_seconds += outcome.stage_seconds
                bookkeeping += outcome.bookkeeping_seconds
        with self._lock:
            # Another attempt at a group meets what the one before has done: that was counted.
            here = {(unit.node, unit.key) for unit in group.units if unit.manifest is not None} - self._counted
            self._counted |= here
            cached = len(here) - executed
            totals = self.totals[group.node.stage]
            self.seconds[group.node] += stage_seconds
            totals.executed += executed
            totals.cached += cached
            totals.seconds += stage_seconds
            totals.bookkeeping_seconds += bookkeeping
            totals.frames += frames if error is None else 0
            if error is None:
                self.events.step_finished(
                    StepResult(group.node, executed, cached, frames, time.perf_counter() - began, bookkeeping)
                )
        if error is not None:
            raise error
        return not missing

    def _submit(self, unit: Unit, item: WorkItem, progress: Callable[[int], None]) -> tuple[Future[Outcome], bool]:
        """The unit's future, and whether this call started it: two jobs that need the very same work share it."""
        name = (unit.node.stage, unit.key)
        with self._lock:
            running = self._in_flight.get(name)
            if running is not None and (not running.done() or running.exception() is None):
                return running, False
            future: Future[Outcome] = self.pool.submit(item, priority=self._priority(unit.node), progress=progress)
            self._in_flight[name] = future
            return future, True

    def retry_delay(self, error: HeadswapError, attempt: int) -> float | None:
        """Seconds to wait before attempt number ``attempt + 1``, or None when the failure will not pass by itself."""
        return None if self.stopping.is_set() else pause_before(self.planner.settings.retry, error, attempt)

    def tell_retry(self, group: Group, error: HeadswapError, delay: float) -> None:
        with self._lock:
            self.events.retrying(group.node, failure_of(error, stage=group.node.stage, owner=group.node.label), delay)

    # ---- the run -------------------------------------------------------------------------------------------------

    def run(self, engine: Engine, jobs: Iterable[str] | None = None) -> None:
        """Run the jobs (all of the plan's, or those named) to their end. One bad video never stops the batch.

        A store that stays away does: nothing could be committed. The jobs that are left then end as failed for that reason.
        """
        if self.stopping.is_set():
            return
        wanted = [self.planner.jobs[name] for name in jobs] if jobs is not None else list(self.planner.jobs.values())
        arrivals: queue.SimpleQueue[tuple[Group, Future[bool]]] = queue.SimpleQueue()
        graph = _Graph(self.planner, wanted, self._done)
        groups_left: dict[Node, int] = {}
        backlog: list[tuple[tuple[int, ...], int, Node]] = []
        entered = itertools.count()
        running = 0

        def start(node: Node) -> int:
            self._failed.pop(node, None)  # an earlier shard's failure that may have passed
            groups = self._groups(node)
            if isinstance(groups, Failure):
                settle(node, groups)
                return 0
            groups_left[node] = len(groups)
            for group in groups:
                future = engine.submit(group, self.run_group)
                future.add_done_callback(lambda done, group=group: arrivals.put((group, done)))  # type: ignore[misc]
            return len(groups)

        def settle(node: Node, failure: Failure) -> None:
            self._failed[node] = failure
            with self._lock:
                self.events.step_failed(node, failure)
            for plan in graph.fail(node):
                self._end_failed(plan, failure)

        try:
            for plan in wanted:
                if plan.failure is not None:
                    self._end_failed(plan, plan.failure)
                    graph.drop_job(plan)
            while True:
                for node in graph.take_ready():
                    heapq.heappush(backlog, (self._priority(node), next(entered), node))
                # Few at a time and the most urgent first, so that videos come out one after another all night.
                while backlog and running < self.slots:
                    running += start(heapq.heappop(backlog)[-1])
                if not running:
                    if graph.has_ready or backlog:
                        continue
                    break
                group, future = arrivals.get()
                running -= 1
                groups_left[group.node] -= 1
                error = future.exception()
                if error is not None and group.node not in self._failed:
                    settle(group.node, self._failure_of(group.node, error))
                if groups_left[group.node] == 0 and group.node not in self._failed:
                    self._done.add(group.node)
                    graph.finish(group.node)
        except BaseException as error:
            self.stopping.set()
            self.pool.close()
            if not isinstance(error, StoreError):
                raise
            self._give_up(error)

    def _groups(self, node: Node) -> list[Group] | Failure:
        if node.stage == DELIVER:
            return [Group(node, ())]
        step = self.planner.step(node)
        if step.state != "cached":
            (step,) = self._patiently(lambda: self.planner.resolve([node]))
        if step.failure is not None:
            return step.failure
        assert step.units is not None, f"{node} is not ready"
        standing = next((unit.failure for unit in step.missing if quarantined(unit.failure)), None)
        if standing is not None:
            if not self.retry_failed:
                return standing
            self._patiently(lambda: self.planner.clear_failures(step.missing))
        size = CHUNKS_PER_GROUP
        pieces = [tuple(step.units[k : k + size]) for k in range(0, len(step.units), size)]
        return [Group(node, piece, index, len(pieces)) for index, piece in enumerate(pieces)]

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask the store with the retries that work has: a run of hours must outlast a minute without it."""
        return patiently(
            ask,
            self.retry_delay,
            self.stopping,
            lambda error, delay: self._note(f"{error.message} Trying again in {delay:.0f} s."),
        )

    def _note(self, text: str) -> None:
        with self._lock:
            self.events.note(text)

    def _give_up(self, error: StoreError) -> None:
        for plan in self.planner.jobs.values():
            if plan.job.id not in self.outcomes:
                self.outcomes[plan.job.id] = JobOutcome(
                    plan.job.id, "failed", failure=failure_of(error, stage="store", owner=plan.job.id)
                )

    def _failure_of(self, node: Node, error: BaseException) -> Failure:
        recorded = next((unit.failure for unit in self.planner.step(node).missing if unit.failure is not None), None)
        if recorded is not None:
            return recorded
        if not isinstance(error, HeadswapError):
            error = HeadswapError("internal_error", f"{node.stage} of {node.label} failed: {error}.", "Please report this.")
        return failure_of(error, stage=node.stage, owner=node.label)

    def _priority(self, node: Node) -> tuple[int, ...]:
        """Earlier jobs first, and within them later stages first, so that results come one after another."""
        if node.stage == DELIVER:
            return (-1, 0)
        return (self._order[node], -pipeline.order(node.stage))

    @property
    def slots(self) -> int:
        """Groups that an engine has at a time: enough to keep every worker busy while others are committed."""
        return 2 * max(1, self.pool.workers + len(self.pool.devices)) + 2

    def _deliver(self, node: Node) -> bool:
        assert isinstance(node.owner, str)
        plan = self.planner.jobs[node.owner]
        outcome = deliver(self.planner, plan, self.output_url)
        with self._lock:
            self.outcomes[plan.job.id] = outcome
            self.events.job_finished(outcome)
            # Last, because a delivery that is tried again needs them. What another job shares is found in the store by then.
            for unit in self.planner.lighten(plan.job.id):
                self._in_flight.pop((unit.node.stage, unit.key), None)
        return outcome.status == "cached"

    def _end_failed(self, plan: JobPlan, failure: Failure) -> None:
        if plan.job.id in self.outcomes:
            return
        outcome = JobOutcome(plan.job.id, "failed", failure=failure)

        def tell() -> None:
            with self._lock:
                self.events.job_finished(outcome)

        self._patiently(tell)
        self.outcomes[plan.job.id] = outcome


def record_failure(planner: Planner, unit: Unit, error: HeadswapError, note: Callable[[str], None]) -> None:
    """Write down why a unit failed, so that the next run knows (and does not try a bad input every night).

    ``note`` is told where the store does not take it.
    """
    if error.code == "stopped":
        return
    # Other trouble before, the store's say, is not held against the input.
    attempts = 1 + (unit.failure.attempts if unit.failure and unit.failure.code == error.code else 0)
    # What the store did is never held against the input: a full disk is not retried at once, but by the next run.
    retryable = error.retryable or isinstance(error, StoreError)
    if error.code in LAST_RETRY and attempts >= planner.settings.retry.attempts:
        retryable = False
    unit.failure = failure_of(
        error, stage=unit.node.stage, key=unit.key, owner=unit.node.label, attempts=attempts, retryable=retryable
    )
    try:
        planner.failures.record(unit.node.stage, unit.key, unit.failure)
    except HeadswapError as unreachable:
        note(f"The failure of {unit.node.stage} of {unit.node.label} could not be recorded: {unreachable}")


class _Graph:
    """Which nodes wait for which. Cached jobs shrink to their delivery."""

    def __init__(self, planner: Planner, jobs: Sequence[JobPlan], done: set[Node]) -> None:
        self._waiting: dict[Node, set[Node]] = {}
        self._dependents: dict[Node, set[Node]] = defaultdict(set)
        self._jobs_of: dict[Node, list[JobPlan]] = defaultdict(list)
        self._ready: list[Node] = []
        for plan in jobs:
            last = Node(plan.job.id, DELIVER)
            nodes = () if plan.record is not None else plan.nodes
            for node in (*nodes, last):
                self._jobs_of[node].append(plan)
                if node in self._waiting or node in done:
                    continue
                if node == last:
                    needed = {Node(plan.job.id, name) for name in pipeline.FINAL} if nodes else set()
                else:
                    needed = planner.dependencies(node)
                self._waiting[node] = needed - done
                for other in needed - done:
                    self._dependents[other].add(node)
        self._ready = [node for node, needed in self._waiting.items() if not needed]

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    def take_ready(self) -> list[Node]:
        ready, self._ready = [node for node in self._ready if node in self._waiting], []
        for node in ready:
            del self._waiting[node]
        return ready

    def finish(self, node: Node) -> None:
        for dependent in sorted(self._dependents.pop(node, ()), key=str):
            needed = self._waiting.get(dependent)
            if needed is not None:
                needed.discard(node)
                if not needed:
                    self._ready.append(dependent)

    def fail(self, node: Node) -> list[JobPlan]:
        """Take out all that can never run now; returns the jobs that ended by it."""
        ended = {plan.job.id: plan for plan in self._jobs_of[node]}
        for plan in ended.values():
            self.drop_job(plan)
        return list(ended.values())

    def drop_job(self, plan: JobPlan) -> None:
        """Nodes that only failed jobs wanted are not worth running."""
        for node in (*plan.nodes, Node(plan.job.id, DELIVER)):
            owners = self._jobs_of[node]
            if plan in owners:
                owners.remove(plan)
            if not owners:
                self._waiting.pop(node, None)
