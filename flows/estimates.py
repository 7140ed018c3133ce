"""What a plan will cost: seconds and bytes for each stage and frame, measured (docs/benchmarks.md names the machine)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flows import pipeline
from flows.planning import Clip, Node, Planner
from schemas.parameters import RenderParameters
from schemas.problems import HeadswapError
from stages.video.peek import stated_frames
from stages.video.sandbox import run_limited
from storage.sources import local_path

PEEK_SECONDS = 120.0

# Milliseconds on one core and bytes left in the store, a frame of a 720p clip with a 512 crop.
MILLISECONDS: dict[str, float] = {
    "ingest": 9.8,
    "landmarks": 24.6,
    "track": 0.5,
    "fit3dmm": 1.4,
    "masks": 44.7,
    "inpaint": 13.2,
    "retarget": 1.2,
    "render": 98.7,
    "encode": 49.2,
    "assemble": 0.5,
    "measure": 29.9,
}
BYTES: dict[str, float] = {
    "ingest": 20,
    "landmarks": 4_400,
    "track": 4_300,
    "fit3dmm": 200,
    "masks": 2_800,
    "inpaint": 700,
    "retarget": 4_400,
    "render": 225_000,
    "encode": 4_900,
    "assemble": 5_100,
    "measure": 45,
}


DIFFUSION_STEP_MILLISECONDS: dict[str, float] = {"demo": 96.0, "full": 4.6}
"""Of one step without guidance, a frame. The demo preset's on one core of a CPU; of larger ones what a window of 16 frames costs
in arithmetic (19.2 TFLOP, 12 frames of it new) at 350 TFLOP/s, half of what a large GPU reaches: not measured."""


def seconds_per_frame(stage: str) -> float:
    return MILLISECONDS.get(stage, 1.0) / 1000


def planned_seconds(planner: Planner, node: Node) -> float:
    """Seconds a frame of a node with its own parameters: the diffusion renderer's depend on the sampler."""
    parameters = planner.parameters(node)
    if not isinstance(parameters, RenderParameters) or parameters.renderer != "diffusion":
        return seconds_per_frame(node.stage)
    sampler = parameters.diffusion
    found = planner.registry.pipelines.get(sampler.model or "")
    step = DIFFUSION_STEP_MILLISECONDS["demo" if found is not None and found.profile in ("demo", "tiny") else "full"] / 1000
    guided = sampler.guidance_until - sampler.guidance_from if sampler.guidance_scale > 1 else 0.0
    return sampler.steps * step * (1 + guided) + seconds_per_frame(node.stage)


@dataclass(frozen=True)
class StageEstimate:
    """Of one stage over a plan. ``frames`` counts what is known or stated by headers; ``unknown`` are clips that say nothing."""

    stage: str
    cached: int
    to_run: int
    failed: int
    frames: int
    unknown: int
    seconds: float
    bytes: int


def stated_lengths(planner: Planner) -> dict[str, int]:
    """Frames of local clips that were never ingested, by address, as their headers state them."""
    unknown = {
        clip.url: path
        for plan in planner.jobs.values()
        if plan.record is None and plan.failure is None
        for clip in (plan.source, plan.target)
        if planner.chunks(Clip(clip.url)) is None and (path := local_path(clip.url)) is not None
    }
    if not unknown:
        return {}
    try:
        found = run_limited(stated_frames, list(unknown.values()), seconds=PEEK_SECONDS, subject="headers of clips")
    except HeadswapError:
        return {}  # one of them crashes or hangs its decoder: an estimate is not worth more
    return {url: frames for url, frames in zip(unknown, found, strict=True) if frames is not None}


def estimate(
    planner: Planner,
    workers: int,
    stated: Mapping[str, int] | None = None,
    seconds_of: Callable[[Planner, Node], float] = planned_seconds,
) -> list[StageEstimate]:
    """One row for each stage: steps cached, to run, and standing failures; seconds are of wall clock with ``workers``.

    ``stated`` are lengths of clips that were never ingested (``stated_lengths``), ``seconds_of`` the time a frame takes.
    """
    stated = stated or {}
    plans = list(planner.jobs.values())
    nodes: dict[Node, None] = {}
    for plan in plans:
        if plan.failure is None:
            nodes.update(dict.fromkeys(plan.nodes))
    done = {node for plan in plans if plan.record is not None for node in plan.nodes}
    rows = []
    for name in pipeline.STAGES:
        cached = to_run = failed = frames = unknown = 0
        seconds = 0.0
        for node in (node for node in nodes if node.stage == name):
            step = planner.step(node)
            if node in done or step.state == "cached":
                cached += 1
            elif step.state == "quarantined":
                failed += 1
            else:
                to_run += 1
                clip = node.owner if isinstance(node.owner, Clip) else planner.jobs[node.owner].target
                length = planner.frames(node.owner) or stated.get(clip.url)
                if length is None:
                    unknown += 1
                    continue
                if step.units is None:
                    left = length
                else:
                    left = sum(len(unit.chunk.frames) if unit.chunk else length for unit in step.missing)
                frames += left
                seconds += left * seconds_of(planner, node) / max(1, workers)
        rows.append(StageEstimate(name, cached, to_run, failed, frames, unknown, seconds, int(frames * BYTES[name])))
    return rows


def work_seconds(planner: Planner) -> float:
    """Core seconds that are left, as far as lengths are known or stated, as progress is counted: by stage alone."""
    usual = estimate(planner, 1, stated_lengths(planner), lambda _, node: seconds_per_frame(node.stage))
    return sum(row.seconds for row in usual)
