"""Runs the stages of clips alone, without jobs: what a data set for training is made of. Knows no Prefect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flows import pipeline
from flows.execution import describe
from flows.patience import patiently, pause_before
from flows.planning import Clip, Node, Planner, Unit, is_reference, quarantined
from flows.scheduling import record_failure
from flows.workers import WorkerPool
from schemas.problems import HeadswapError
from storage.artifacts import Manifest

Manifests = dict[str, list[Manifest]]
"""What is committed of a clip, by stage; of a chunked stage in order of frames."""


class ClipRun:
    """Brings clips to the end of the clip stages; what is committed already is not done again.

    Args:
        planner: knows keys and store. pool: does the work. note: told in a sentence what is worth telling.
        retry_failed: whether what failed for good before is tried again.
    """

    def __init__(self, planner: Planner, pool: WorkerPool, *, note: Callable[[str], None], retry_failed: bool = False) -> None:
        self.planner = planner
        self.pool = pool
        self._note = note
        self._retry_failed = retry_failed

    def run(self, clips: Sequence[Clip], tell: Callable[[int, int], None]) -> list[Manifests | HeadswapError]:
        """Every clip's artifacts, or why there are none: one bad clip stops no other. ``tell`` gets clips done and all."""
        done = 0
        lock = threading.Lock()

        def one(place: int) -> Manifests | HeadswapError:
            nonlocal done
            try:
                found: Manifests | HeadswapError = self._clip(clips[place], place)
            except HeadswapError as error:
                if error.code == "stopped":
                    raise
                found = error
            with lock:
                done += 1
                tell(done, len(clips))
            return found

        with ThreadPoolExecutor(max(1, self.pool.workers), thread_name_prefix="clip") as threads:
            try:
                return list(threads.map(one, range(len(clips))))
            except BaseException:
                self.planner.stopping.set()
                self.pool.close()
                threads.shutdown(cancel_futures=True)
                raise

    def _clip(self, clip: Clip, place: int) -> Manifests:
        if is_reference(clip.subject):
            self.planner.survey_clip(Clip(clip.subject))  # the picture's digest is part of keys
        self.planner.survey_clip(clip)
        found: Manifests = {}
        for name in pipeline.STAGES:
            if pipeline.stage(name).scope.of_clip:
                owner = clip if pipeline.depends_on(name, "track") else Clip(clip.url)
                found[name] = self._stage(Node(owner, name), place)
        return found

    def _stage(self, node: Node, place: int) -> list[Manifest]:
        return patiently(
            lambda: self._attempt(node, place),
            lambda error, attempt: pause_before(self.planner.settings.retry, error, attempt),
            self.planner.stopping,
            lambda error, pause: self._note(f"{error.message} Trying again in {pause:.0f} s."),
        )

    def _attempt(self, node: Node, place: int) -> list[Manifest]:
        (step,) = self.planner.resolve([node])
        if step.failure is not None:
            raise HeadswapError(step.failure.code, step.failure.message, step.failure.remedy)
        if step.units is None:
            raise RuntimeError(f"{node.stage} of {node.label} was started before its inputs were committed")
        standing = next((unit.failure for unit in step.missing if quarantined(unit.failure)), None)
        if standing is not None:
            if not self._retry_failed:
                raise HeadswapError(standing.code, standing.message, standing.remedy)
            self.planner.clear_failures(step.missing)
        return self._units(step.units, place)

    def _units(self, units: Sequence[Unit], place: int) -> list[Manifest]:
        missing = [unit for unit in units if unit.manifest is None]
        submitted = [(unit, self.pool.submit(describe(self.planner, unit), priority=(place,))) for unit in missing]
        first: HeadswapError | None = None
        for unit, future in submitted:
            try:
                unit.manifest = future.result().manifest
            except HeadswapError as error:
                first = first or error
                record_failure(self.planner, unit, error, self._note)
        if first is not None:
            raise first
        return [unit.manifest for unit in units if unit.manifest is not None]
