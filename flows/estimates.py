"""What a plan will cost: seconds and bytes for each stage and frame, measured on an Intel Xeon at 2.8 GHz."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flows import pipeline
from flows.devices import device_names, uses_diffusion
from flows.planning import Clip, Node, Planner, State
from schemas.parameters import DiffusionParameters, RenderParameters
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


@dataclass(frozen=True)
class _Diffusion:
    """Milliseconds a frame: of a step without guidance, and of coding its background and the result."""

    step: float
    coding: float


_DIFFUSION = {
    ("demo", "cpu"): _Diffusion(108.0, 230.0),
    ("full", "cpu"): _Diffusion(20_000.0, 40_000.0),
    ("demo", "gpu"): _Diffusion(1.0, 5.0),
    ("full", "gpu"): _Diffusion(4.6, 10.0),
}
"""Of the preset of a pipeline and what it runs on: one core of a CPU, or a GPU. On a CPU measured; on a GPU what a window of 16
frames costs in arithmetic (`full`: 19.2 TFLOP, 12 frames of it new) at 350 TFLOP/s, half of what a large one reaches."""


def seconds_per_frame(stage: str) -> float:
    return MILLISECONDS.get(stage, 1.0) / 1000


class Costs:
    """Seconds that a frame of the nodes of a plan takes, with their own parameters, on the devices that a run would use.

    Seconds are of wall clock: what is shared is divided by those who share it. But no stage ends before its longest piece (a
    chunk, or a clip where it is not cut), so few pieces keep few workers busy.

    Args:
        planner: of the run, after its survey.
        workers: how many share what is not done on a GPU; GPUs share what is.
        stated: lengths of clips that were never ingested (``stated_lengths``).
    """

    def __init__(self, planner: Planner, workers: int, stated: Mapping[str, int] | None = None) -> None:
        self._planner, self._workers, settings = planner, max(1, workers), planner.settings
        self._stated = stated or {}
        drawn = uses_diffusion(settings, (plan.job for plan in planner.jobs.values()))
        self._gpus = sum(name != "cpu" for name in device_names(settings)) if drawn else 0
        self._stretch = self._stretches()

    def seconds(self, node: Node) -> float:
        return self._alone(node) / self._sharers(node) * self._stretch.get(node.stage, 1.0)

    def left(self, node: Node) -> tuple[int, int] | None:
        """Frames that are left to do, and those of the longest piece of them; None where not even a header says how long the
        clip is."""
        clip = node.owner if isinstance(node.owner, Clip) else self._planner.jobs[node.owner].target
        length = self._planner.frames(node.owner) or self._stated.get(clip.url)
        if length is None:
            return None
        step = self._planner.step(node)
        if step.units is not None:
            pieces = [len(unit.chunk.frames) if unit.chunk else length for unit in step.missing]
            return sum(pieces), max(pieces, default=0)
        chunked = pipeline.stage(node.stage).scope.chunked
        return length, min(length, self._planner.settings.stages.ingest.chunk_frames) if chunked else length

    def _stretches(self) -> dict[str, float]:
        """By stage, how much longer its longest piece alone takes than all of them where everybody is busy; at least 1."""
        shared: dict[str, float] = defaultdict(float)
        longest: dict[str, float] = defaultdict(float)
        for node, state in states(self._planner).items():
            left = None if state in ("cached", "quarantined") else self.left(node)
            if left is not None and left[0]:
                alone = self._alone(node)
                shared[node.stage] += left[0] * alone / self._sharers(node)
                longest[node.stage] = max(longest[node.stage], left[1] * alone)
        return {stage: max(1.0, longest[stage] / shared[stage]) for stage in shared}

    def _sharers(self, node: Node) -> int:
        return self._gpus if self._gpus and self._diffusion(node) is not None else self._workers

    def _alone(self, node: Node) -> float:
        """Seconds a frame of one worker, or one GPU."""
        diffusion = self._diffusion(node)
        if diffusion is None:
            return seconds_per_frame(node.stage)
        found = self._planner.registry.pipelines.get(diffusion.model or "")
        small = found is not None and found.profile in ("demo", "tiny")
        cost = _DIFFUSION["demo" if small else "full", "gpu" if self._gpus else "cpu"]
        guided = diffusion.guidance_until - diffusion.guidance_from if diffusion.guidance_scale > 1 else 0.0
        drawn = diffusion.steps * cost.step * (1 + guided) + cost.coding
        return drawn / 1000 + seconds_per_frame(node.stage)

    def _diffusion(self, node: Node) -> DiffusionParameters | None:
        parameters = self._planner.parameters(node)
        drawn = isinstance(parameters, RenderParameters) and parameters.renderer == "diffusion"
        return cast(RenderParameters, parameters).diffusion if drawn else None


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
    """Frames of local clips that were never ingested, by address, as their headers state them: more than are allowed are refused
    when the clip is read, or not so."""
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
    most = planner.settings.limits.max_frames
    return {url: frames for url, frames in zip(unknown, found, strict=True) if frames is not None and frames <= most}


def states(planner: Planner) -> dict[Node, State]:
    """Of every node of the jobs that can be planned; those of jobs that were finished before are cached."""
    found: dict[Node, State] = {}
    for plan in planner.jobs.values():
        if plan.failure is None:
            found.update((node, planner.step(node).state) for node in plan.nodes if node not in found)
    for plan in planner.jobs.values():
        if plan.record is not None:
            found.update(dict.fromkeys(plan.nodes, "cached"))
    return found


def estimate(planner: Planner, costs: Costs) -> list[StageEstimate]:
    """One row for each stage: steps cached, to run, and standing failures; seconds are of wall clock."""
    known = states(planner)
    rows = []
    for name in pipeline.STAGES:
        count = Counter[State]()
        frames = unknown = 0
        seconds = 0.0
        for node, state in known.items():
            if node.stage != name:
                continue
            count[state] += 1
            if state in ("cached", "quarantined"):
                continue
            left = costs.left(node)
            if left is None:
                unknown += 1
                continue
            frames += left[0]
            seconds += left[0] * costs.seconds(node)
        to_run = count["to run"] + count["waiting"]
        bytes_left = int(frames * BYTES[name])
        rows.append(StageEstimate(name, count["cached"], to_run, count["quarantined"], frames, unknown, seconds, bytes_left))
    return rows


def seconds_of_work(planner: Planner, costs: Costs) -> float:
    """What is left, as far as lengths are known or stated: the sum of what ``costs`` says of every frame."""
    return sum(row.seconds for row in estimate(planner, costs))
