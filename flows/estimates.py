"""What a plan will cost: seconds and bytes for each stage and frame, measured (docs/benchmarks.md names the machine)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flows import pipeline
from flows.planning import JobPlan, Node, Planner

# Milliseconds on one core and bytes left in the store, a frame of a 720p clip with a 512 crop.
MILLISECONDS: dict[str, float] = {
    "ingest": 5.0,
    "landmarks": 14.0,
    "track": 0.5,
    "fit3dmm": 1.5,
    "masks": 14.0,
    "inpaint": 6.0,
    "retarget": 0.6,
    "render": 60.0,
    "encode": 45.0,
    "assemble": 0.5,
    "measure": 15.0,
}
BYTES: dict[str, float] = {
    "ingest": 20,
    "landmarks": 5_400,
    "track": 5_400,
    "fit3dmm": 350,
    "masks": 5_500,
    "inpaint": 2_000,
    "retarget": 5_700,
    "render": 330_000,
    "encode": 9_000,
    "assemble": 9_000,
    "measure": 90,
}


def seconds_per_frame(stage: str) -> float:
    return MILLISECONDS.get(stage, 1.0) / 1000


@dataclass(frozen=True)
class StageEstimate:
    """Of one stage over a plan. ``frames`` counts what is known; clips not yet ingested are in ``unknown``."""

    stage: str
    cached: int
    to_run: int
    failed: int
    frames: int
    unknown: int
    seconds: float
    bytes: int


def estimate(planner: Planner, workers: int, jobs: Iterable[JobPlan] | None = None) -> list[StageEstimate]:
    """One row for each stage: steps cached, to run, and standing failures; seconds are of wall clock with ``workers``."""
    plans = list(jobs if jobs is not None else planner.jobs.values())
    nodes: dict[Node, None] = {}
    for plan in plans:
        if plan.failure is None:
            nodes.update(dict.fromkeys(plan.nodes))
    done = {node for plan in plans if plan.record is not None for node in plan.nodes}
    rows = []
    for name in pipeline.STAGES:
        cached = to_run = failed = frames = unknown = 0
        for node in (node for node in nodes if node.stage == name):
            step = planner.step(node)
            if node in done or step.state == "cached":
                cached += 1
            elif step.state == "quarantined":
                failed += 1
            else:
                to_run += 1
                length = planner.frames(node.owner)
                if length is None:
                    unknown += 1
                elif step.units is None:
                    frames += length
                else:
                    frames += sum(len(unit.chunk.frames) if unit.chunk else length for unit in step.missing)
        seconds = frames * seconds_per_frame(name) / max(1, workers)
        rows.append(StageEstimate(name, cached, to_run, failed, frames, unknown, seconds, int(frames * BYTES[name])))
    return rows


def work_seconds(planner: Planner) -> float:
    """Core seconds that are left, as far as lengths are known."""
    return sum(row.seconds for row in estimate(planner, 1))
