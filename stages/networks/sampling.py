"""Denoising of long videos in overlapping windows, in memory that does not grow with their length.

Two ways to bring windows together. Blended at every *step*, as in MultiDiffusion (Bar-Tal et al. 2023): predictions of
windows that share a frame are averaged before each step, so neighbours agree from the first step on. Blended at the *end*:
each window is denoised alone and finished latents are cross-faded; then a chunk of a video equals the same frames of the
whole exactly.

Blending at every step does not need the whole video at once. Window k can take step s as soon as its neighbours have taken
step s - 1; running always the first window that can run moves a wave over the video that is as wide as there are steps, gives
the same numbers as running all windows step by step, and finishes frames from the front while later ones have not begun.

What a predictor keeps of the windows of such a wave is much more than their latents. The wave is therefore cut by steps into
narrow ones that follow each other and take turns: only the windows of one of them are asked for at a time.

Nothing here knows networks: predictions come from a function.
"""

from __future__ import annotations

import copy
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from schemas.problems import UsageError
from stages.networks.windows import ChunkPlan, Window, blending_weights, plan_chunk

Blend = Literal["step", "end"]

Predict = Callable[[Window, Tensor, int], Tensor]
"""Of a window, its latents [channels, frames, height, width] and the index of a step: the prediction, of the same shape."""

Noise = Callable[[int], Tensor]
"""Of a frame: its noise [channels, height, width]."""

OnStep = Callable[[tuple[int, ...], int, Tensor], None]
"""Told frames, how many steps they have taken, and their latents [channels, frames, height, width]."""

WINDOWS_KEPT = 9
"""For how many windows a predictor should have to keep something at a time, or one more, however long the video. With 25 steps
of guidance this many cost three turns: what the PoseGuider computes again is 0.7 % of the arithmetic of ``full`` and 1.1 % of
``demo``."""

_TURN = 16
"""Windows by which each of several waves moves on in its turn. Fewer, and more is computed again at their edges; more, and more
latents and conditions are held between the waves."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample.

    Attributes:
        steps: of the solver.
        guidance_scale: of classifier-free guidance; 1 is none.
        guidance_interval: part of the noise schedule, from 0 (clean) to 1 (noise), in which guidance is on; outside it a step
            costs half (Kynkäänniemi et al. 2024).
        window: frames the MotionModule sees at once.
        overlap: frames that neighbouring windows share.
        blend: see the module.
        context: windows computed beyond a chunk on either side, where windows are blended at every step.
        seed: of the noise.
        shared_noise: share of it, 0 to 1, that all frames have in common.
        vae_slice: pictures that the VAE takes at a time.
        pose_cache_bytes: pose features kept between steps; beyond this they are computed again. Where windows overlap by half at
            the most they are kept of ``WINDOWS_KEPT`` windows, or one more, anyway.
    """

    steps: int = 25
    guidance_scale: float = 3.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    window: int = 16
    overlap: int = 4
    blend: Blend = "step"
    context: int = 1
    seed: int = 0
    shared_noise: float = 0.0
    vae_slice: int = 4
    pose_cache_bytes: int = 2 << 30

    def check(self) -> None:
        """``UsageError`` with everything that is wrong."""
        low, high = self.guidance_interval
        problems = [
            text
            for wrong, text in (
                (self.steps < 1, f"steps is {self.steps}; at least 1."),
                (self.guidance_scale < 1, f"guidance_scale is {self.guidance_scale}; at least 1, which is no guidance."),
                (not 0 <= low <= high <= 1, f"guidance_interval is {low} to {high}; it lies in 0 to 1."),
                (not 1 <= self.window <= 32, f"window is {self.window}; 1 to 32 frames."),
                (not 0 <= self.overlap < self.window, f"overlap is {self.overlap}; less than the window of {self.window}."),
                (self.blend not in ("step", "end"), f"blend is {self.blend!r}; step or end."),
                (not 0 <= self.shared_noise <= 1, f"shared_noise is {self.shared_noise}; it lies in 0 to 1."),
                (self.context < 0, f"context is {self.context}; at least 0."),
                (self.vae_slice < 1, f"vae_slice is {self.vae_slice}; at least 1."),
            )
            if wrong
        ]
        if problems:
            raise UsageError(problems)

    def plan(self, shot: range, chunk: range) -> ChunkPlan:
        """The windows of a chunk; ``plan(...).frames`` are those whose conditions must be given."""
        return plan_chunk(shot, chunk, self.window, self.overlap, self.context if self.blend == "step" else 0)

    def guided(self, timestep: float, train_timesteps: int) -> bool:
        """Whether guidance is on at a time step of 0 to ``train_timesteps - 1``."""
        low, high = self.guidance_interval
        return self.guidance_scale > 1 and low <= timestep / max(train_timesteps - 1, 1) <= high


def denoise(
    windows: Sequence[Window],
    predict: Predict,
    scheduler: SchedulerMixin,
    noise: Noise,
    *,
    overlap: int = 4,
    blend: Blend = "step",
    ramp: bool = True,
    kept: int | None = None,
    on_step: OnStep | None = None,
    on_window_left: Callable[[Window], None] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Denoise the frames of all windows; each is handed on as soon as it is finished.

    Args:
        windows: in the order of their frames; they may overlap in any way.
        predict: makes predictions; called once for each window and step.
        scheduler: a deterministic diffusers scheduler whose ``set_timesteps`` has been called. It is copied.
        noise: of unit variance.
        overlap: for the weights of blending.
        blend: at every step or at the end.
        ramp: see ``blending_weights``.
        kept: for how many windows ``predict`` has to keep something at a time, where they overlap by half at the most; default:
            as many as there are steps. With fewer it is asked for a window in several turns. The numbers are the same.
        on_step: told every step of every run of frames.
        on_window_left: told when ``predict`` will not be asked for a window again, or not before others have had their turn.

    Yields:
        Frame and its latents [channels, height, width], float32, frames ascending.
    """
    weights = [blending_weights(window, overlap, ramp=ramp) for window in windows]
    groups = _groups(windows)
    if blend == "step":
        finished = _jointly(windows, weights, groups, predict, scheduler, noise, kept, on_step, on_window_left)
    else:
        finished = _apart(windows, weights, groups, predict, scheduler, noise, on_step, on_window_left)
    order = deque(sorted({frame for window in windows for frame in window}))
    waiting: dict[int, Tensor] = {}
    for frames, latents in finished:
        waiting.update(zip(frames, latents.unbind(1), strict=True))
        while order and order[0] in waiting:
            frame = order.popleft()
            yield frame, waiting.pop(frame)


@dataclass
class _Run:
    """Frames that the same windows hold, and how far they are. The solver's memory of earlier steps is theirs alone."""

    latents: Tensor
    scheduler: Any
    step: int = 0
    total: Tensor | None = None
    """Sum of the predictions for the step to come, each multiplied by its weight."""
    weight: Tensor | None = None
    reported: int = 0


@dataclass(frozen=True)
class _Share:
    """What a window's prediction gives to frames that it holds.

    Attributes:
        places: of the frames in the window.
        weight: of each of them there, float32 [1, frames, 1, 1].
    """

    places: slice | Tensor
    weight: Tensor


def _share(window: Window, frames: Sequence[int], weights: Sequence[float], device: torch.device) -> _Share:
    """On ``device``: to be made once for all steps, because a copy to a GPU waits until it has nothing left to do."""
    places = [window.index(frame) for frame in frames]
    adjacent = places == list(range(places[0], places[0] + len(places)))
    return _Share(
        slice(places[0], places[0] + len(places)) if adjacent else torch.tensor(places, device=device),
        torch.tensor([weights[place] for place in places], device=device)[None, :, None, None],
    )


def _jointly(
    windows: Sequence[Window],
    weights: Sequence[Sequence[float]],
    groups: dict[tuple[int, ...], tuple[int, ...]],
    predict: Predict,
    scheduler: SchedulerMixin,
    noise: Noise,
    kept: int | None,
    on_step: OnStep | None,
    on_window_left: Callable[[Window], None] | None,
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    timesteps = scheduler.timesteps
    holding = _held_by(windows, groups)
    steps = [0] * len(windows)
    runs: dict[tuple[int, ...], _Run] = {}
    done: set[tuple[int, ...]] = set()
    shares: dict[int, dict[tuple[int, ...], _Share]] = {}
    """Of the windows under way, by their number."""

    def step_of(owners: tuple[int, ...]) -> int:
        return runs[owners].step if owners in runs else len(timesteps) if owners in done else 0

    def ready(limit: int, until: int) -> int | None:
        """The first window before ``limit`` that lacks steps up to ``until`` and whose frames have all taken those it saw."""
        return next(
            (
                number
                for number in range(first, limit)
                if steps[number] < until and all(step_of(owners) == steps[number] for owners in holding[number])
            ),
            None,
        )

    first = 0
    for limit, until in _turns(len(windows), len(timesteps), kept):
        asked_for: set[int] = set()
        while (number := ready(limit, until)) is not None:
            window, step = windows[number], steps[number]
            for owners in holding[number]:
                if owners not in runs:
                    runs[owners] = _begin(groups[owners], scheduler, noise)
            latents = _gather(window, {owners: groups[owners] for owners in holding[number]}, runs, timesteps[step])
            prediction = predict(window, latents, step).float()
            if step == 0:
                shares[number] = {
                    owners: _share(window, groups[owners], weights[number], prediction.device) for owners in holding[number]
                }
            steps[number] += 1
            asked_for.add(number)
            if steps[number] == until:
                asked_for.remove(number)
                if on_window_left is not None:
                    on_window_left(window)
            for owners in holding[number]:
                run, frames, share = runs[owners], groups[owners], shares[number][owners]
                weighted = prediction[:, share.places] * share.weight
                run.total = weighted if run.total is None else run.total + weighted
                run.weight = share.weight if run.weight is None else run.weight + share.weight
                run.reported += 1
                if run.reported == len(owners):
                    _advance(run, run.total / run.weight, timesteps[step])
                    if on_step is not None:
                        on_step(frames, run.step, run.latents)
                    if run.step == len(timesteps):
                        done.add(owners)
                        del runs[owners]
                        yield frames, run.latents
            if steps[number] == len(timesteps):
                del shares[number]
            while first < len(windows) and steps[first] == len(timesteps):
                first += 1
        if on_window_left is not None:
            for number in sorted(asked_for):
                on_window_left(windows[number])


def _turns(windows: int, steps: int, kept: int | None) -> Iterator[tuple[int, int]]:
    """Up to which window, and up to which step, the first window that can run is looked for, one turn after the other.

    A wave of few steps has as few windows under way: those in front of it have not begun, those behind it have left it. The
    later waves follow the first one at the distance that their windows need.
    """
    if kept is None or min(windows, steps) <= kept:
        yield windows, steps
        return
    waves = math.ceil(steps / kept)
    for limit in range(_TURN, windows + _TURN, _TURN):
        for wave in range(1, waves + 1):
            yield min(limit, windows), steps * wave // waves


def _apart(
    windows: Sequence[Window],
    weights: Sequence[Sequence[float]],
    groups: dict[tuple[int, ...], tuple[int, ...]],
    predict: Predict,
    scheduler: SchedulerMixin,
    noise: Noise,
    on_step: OnStep | None,
    on_window_left: Callable[[Window], None] | None,
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    timesteps = scheduler.timesteps
    totals: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    holding = _held_by(windows, groups)
    for number, window in enumerate(windows):
        run = _begin(window, scheduler, noise)
        for step, timestep in enumerate(timesteps):
            latents = run.scheduler.scale_model_input(run.latents, timestep)
            _advance(run, predict(window, latents, step).float(), timestep)
            if on_step is not None:
                on_step(window, run.step, run.latents)
        if on_window_left is not None:
            on_window_left(window)
        for owners in holding[number]:
            share = _share(window, groups[owners], weights[number], run.latents.device)
            total, sum_of_weights = totals.get(owners, (run.latents.new_zeros(()), run.latents.new_zeros(())))
            totals[owners] = (total + run.latents[:, share.places] * share.weight, sum_of_weights + share.weight)
            if number == owners[-1]:
                total, sum_of_weights = totals.pop(owners)
                yield groups[owners], total / sum_of_weights


def _groups(windows: Sequence[Window]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Frames by the numbers of the windows that hold them."""
    owners: dict[int, list[int]] = {}
    for number, window in enumerate(windows):
        for frame in window:
            owners.setdefault(frame, []).append(number)
    groups: dict[tuple[int, ...], list[int]] = {}
    for frame in sorted(owners):
        groups.setdefault(tuple(owners[frame]), []).append(frame)
    return {numbers: tuple(frames) for numbers, frames in groups.items()}


def _held_by(windows: Sequence[Window], groups: dict[tuple[int, ...], tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Of each window: the groups of frames it holds."""
    held: list[list[tuple[int, ...]]] = [[] for _ in windows]
    for owners in groups:
        for number in owners:
            held[number].append(owners)
    return held


def _begin(frames: Sequence[int], scheduler: SchedulerMixin, noise: Noise) -> _Run:
    latents = torch.stack([noise(frame) for frame in frames], 1) * scheduler.init_noise_sigma
    return _Run(latents, copy.deepcopy(scheduler))


def _gather(
    window: Window, groups: dict[tuple[int, ...], tuple[int, ...]], runs: dict[tuple[int, ...], _Run], timestep: Tensor
) -> Tensor:
    by_frame: dict[int, Tensor] = {}
    for owners, frames in groups.items():
        scaled = runs[owners].scheduler.scale_model_input(runs[owners].latents, timestep)
        by_frame.update(zip(frames, scaled.unbind(1), strict=True))
    return torch.stack([by_frame[frame] for frame in window], 1)


def _advance(run: _Run, prediction: Tensor, timestep: Tensor) -> None:
    """One step of the solver, frames as items of a batch: their order and number do not matter to it."""
    stepped = run.scheduler.step(prediction.transpose(0, 1), timestep, run.latents.transpose(0, 1), return_dict=False)[0]
    run.latents = stepped.transpose(0, 1)
    run.step += 1
    run.total = run.weight = None
    run.reported = 0


@dataclass
class _Ahead:
    items: queue.Queue[tuple[str, Any]]
    stop: threading.Event = field(default_factory=threading.Event)

    def put(self, kind: str, item: Any) -> None:
        while not self.stop.is_set():
            try:
                self.items.put((kind, item), timeout=0.1)
            except queue.Full:
                continue
            return


def computed_ahead(items: Iterator[Item], depth: int = 16, thread: Executor | None = None) -> Generator[Item, None, None]:
    """The same items, computed in another thread: the next window is under way while earlier frames are written.

    Args:
        items: an iterator that no one else uses; what it raises is raised here.
        depth: how many items may wait.
        thread: where they are computed, nothing else meanwhile; default: a thread of their own.
    """
    ahead = _Ahead(queue.Queue(depth))

    def work() -> None:
        try:
            for item in items:
                ahead.put("item", item)
                if ahead.stop.is_set():
                    return
            ahead.put("end", None)
        except BaseException as error:  # noqa: BLE001  (raised again where the items are taken)
            ahead.put("error", error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    if thread is None:
        own = threading.Thread(target=work, name="computed ahead", daemon=True)
        own.start()
        ended: Callable[[], object] = own.join
    else:
        ended = thread.submit(work).result
    try:
        while True:
            kind, item = ahead.items.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        ahead.stop.set()
        ended()
