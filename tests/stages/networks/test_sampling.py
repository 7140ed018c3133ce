"""Windows, noise and the wave over a long video: what must hold whatever the network predicts."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler, LCMScheduler, TCDScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from schemas.problems import UsageError
from stages.networks import sampling
from stages.networks.sampling import Blend, SamplingOptions, computed_ahead, denoise
from stages.networks.schedulers import (
    NOISE_SCHEDULE,
    ExactDDIMScheduler,
    Solver,
    make_scheduler,
    require_deterministic,
    set_steps,
)
from stages.networks.windows import Window, blending_weights, frame_noise, plan_chunk, windows_of

SHAPE = (2, 3, 3)
SOLVERS: tuple[Solver, ...] = ("ddim", "dpm++", "unipc")


def noise(frame: int) -> Tensor:
    return frame_noise(7, frame, SHAPE)


def predict(window: Window, latents: Tensor, step: int) -> Tensor:
    """A made-up network in which every frame of a window depends on all others and on its place."""
    place = torch.linspace(0.5, 1.5, len(window))[None, :, None, None]
    return torch.tanh(latents * place + 0.7 * latents.mean(1, keepdim=True) + 0.1 * step)


@given(st.integers(0, 5), st.integers(1, 90), st.integers(1, 20), st.data())
def test_windows_cover_every_frame_within_the_shot_and_overlap(first: int, count: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    shot = range(first, first + count)
    windows = windows_of(shot, size, overlap)
    assert sorted({frame for window in windows for frame in window}) == list(shot)
    assert all(window == tuple(range(window[0], window[-1] + 1)) for window in windows)
    assert all(len(window) == min(size, count) for window in windows)
    for before, after in pairwise(windows):
        assert before[0] < after[0]
        assert before[-1] - after[0] + 1 >= overlap


def test_no_window_wraps_around() -> None:
    assert windows_of(range(40)) == tuple(tuple(range(start, start + 16)) for start in (0, 12, 24))
    assert windows_of(range(41))[-1] == tuple(range(25, 41))


@given(st.integers(17, 120), st.integers(0, 2), st.data())
def test_a_chunk_sees_the_windows_of_the_whole_shot(count: int, context: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, count - 1))
    chunk = range(start, data.draw(st.integers(start + 1, count)))
    plan = plan_chunk(range(count), chunk, context=context)
    whole = windows_of(range(count))
    first = whole.index(plan.windows[0])
    assert plan.windows == whole[first : first + len(plan.windows)]
    for window in whole:
        if set(window) & set(chunk):
            assert window in plan.windows
    assert plan.frames == range(plan.windows[0][0], plan.windows[-1][-1] + 1)


def test_a_chunk_outside_the_shot_is_refused() -> None:
    with pytest.raises(ValueError, match="no part of the shot"):
        plan_chunk(range(10), range(5, 12))


def test_weights_fade_linearly_over_the_overlap() -> None:
    window = tuple(range(16))
    weights = blending_weights(window, 4)
    assert weights[:5] == [1, 2, 3, 4, 4]
    assert weights == weights[::-1]
    assert blending_weights(window, 4, ramp=False) == [1.0] * 16


def test_noise_belongs_to_seed_and_frame_alone() -> None:
    assert torch.equal(frame_noise(1, 5, SHAPE), frame_noise(1, 5, SHAPE))
    assert not torch.equal(frame_noise(1, 5, SHAPE), frame_noise(1, 6, SHAPE))
    assert not torch.equal(frame_noise(1, 5, SHAPE), frame_noise(2, 5, SHAPE))
    many = torch.stack([frame_noise(0, frame, (64,)) for frame in range(500)])
    assert abs(float(many.mean())) < 0.02
    assert abs(float(many.std()) - 1) < 0.02
    neighbours = torch.corrcoef(torch.stack([many[:-1].flatten(), many[1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 0.03


def test_noise_that_is_not_shared_is_the_one_that_stored_videos_were_made_of() -> None:
    digest = hashlib.blake2b(b"3:7", digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    assert torch.equal(frame_noise(3, 7, SHAPE), torch.randn(SHAPE, generator=generator))


@pytest.mark.parametrize("shared", [0.0, 0.3, 1.0])
def test_frames_have_the_share_of_their_noise_in_common_that_was_asked_for(shared: float) -> None:
    many = torch.stack([frame_noise(0, frame, (4096,), shared) for frame in range(40)])
    assert abs(float(many.std()) - 1) < 0.03
    correlation = torch.corrcoef(many)
    between = correlation[~torch.eye(len(many), dtype=torch.bool)]
    assert torch.allclose(between, torch.full_like(between, shared), atol=0.08)


def all_windows_step_by_step(windows: tuple[Window, ...], solver: Solver, steps: int) -> Tensor:
    """What blending at every step means, written down plainly: the whole video at once."""
    scheduler = make_scheduler(solver)
    scheduler.set_timesteps(steps)
    count = windows[-1][-1] + 1
    latents = torch.stack([noise(frame) for frame in range(count)], 1)
    for step, timestep in enumerate(scheduler.timesteps):
        total, weight = torch.zeros_like(latents), torch.zeros(1, count, 1, 1)
        for window in windows:
            weights = torch.tensor(blending_weights(window, 4))[None, :, None, None]
            total[:, window[0] : window[-1] + 1] += predict(window, latents[:, window[0] : window[-1] + 1], step) * weights
            weight[:, window[0] : window[-1] + 1] += weights
        latents = scheduler.step(total / weight, timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [9, 40, 67])
def test_the_wave_gives_what_the_whole_video_at_once_gives(solver: Solver, count: int) -> None:
    windows = windows_of(range(count))
    scheduler = make_scheduler(solver)
    scheduler.set_timesteps(5)
    made = list(denoise(windows, predict, scheduler, noise))
    assert [frame for frame, _ in made] == list(range(count))
    expected = all_windows_step_by_step(windows, solver, 5)
    assert torch.allclose(torch.stack([latents for _, latents in made], 1), expected, atol=2e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.sampled_from(["step", "end"]), st.data())
def test_every_window_takes_every_step_once(count: int, size: int, steps: int, blend: str, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    windows = windows_of(range(count), size, overlap)
    calls: list[tuple[Window, int]] = []

    def counted(window: Window, latents: Tensor, step: int) -> Tensor:
        calls.append((window, step))
        return predict(window, latents, step)

    scheduler = make_scheduler("ddim")
    scheduler.set_timesteps(steps)
    frames = [frame for frame, _ in denoise(windows, counted, scheduler, noise, overlap=overlap, blend=blend)]
    assert frames == list(range(count))
    assert sorted(calls) == sorted((window, step) for window in windows for step in range(steps))


@pytest.mark.parametrize("blend", ["step", "end"])
def test_frames_are_handed_on_before_later_windows_begin(blend: str) -> None:
    steps = 3
    lead: dict[int, list[int]] = {}
    for count in (100, 400):
        furthest = [0]

        def looking(window: Window, latents: Tensor, step: int, furthest: list[int] = furthest) -> Tensor:
            furthest[0] = max(furthest[0], window[-1])
            return predict(window, latents, step)

        scheduler = make_scheduler("ddim")
        scheduler.set_timesteps(steps)
        lead[count] = [
            furthest[0] - frame for frame, _ in denoise(windows_of(range(count)), looking, scheduler, noise, blend=blend)
        ]
    # The lead is bounded by windows and steps, and is the same in a video of any length.
    assert max(lead[400]) == max(lead[100]) <= 16 + 12 * steps
    if blend == "end":
        assert max(lead[400]) < 16


@dataclass
class Kept:
    """What a predictor that keeps something of each window has kept.

    Attributes:
        made: how often something was made for each window.
        now: the windows it is there for.
        most: of which there were at a time.
        ahead: frames from the first that is not finished to the last that has begun, at the most.
    """

    made: Counter[Window] = field(default_factory=Counter)
    now: set[Window] = field(default_factory=set)
    most: int = 0
    ahead: int = 0


def in_turns(windows: tuple[Window, ...], steps: int, kept: int | None, solver: Solver = "ddim") -> tuple[Tensor, Kept]:
    """The latents of a video, and what was kept on the way."""
    told, begun = Kept(), 0

    def keeping(window: Window, latents: Tensor, step: int) -> Tensor:
        nonlocal begun
        if window not in told.now:
            told.made[window] += 1
            told.now.add(window)
        told.most, begun = max(told.most, len(told.now)), max(begun, window[-1])
        return predict(window, latents, step)

    scheduler = make_scheduler(solver)
    scheduler.set_timesteps(steps)
    made = []
    for frame, latents in denoise(windows, keeping, scheduler, noise, kept=kept, on_window_left=told.now.remove):
        told.ahead = max(told.ahead, begun - frame)
        made.append(latents)
    return torch.stack(made), told


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 150), st.integers(1, 9), st.integers(1, 5), st.sampled_from(SOLVERS), st.data())
def test_waves_that_take_turns_give_the_numbers_of_one_to_the_bit(
    count: int, steps: int, kept: int, solver: Solver, data: st.DataObject
) -> None:
    windows = windows_of(range(count), 8, data.draw(st.integers(0, 7)))
    at_once, _ = in_turns(windows, steps, None, solver)
    with patch.object(sampling, "_TURN", data.draw(st.integers(1, 6))):
        made, told = in_turns(windows, steps, kept, solver)
    assert torch.equal(made, at_once)
    assert not told.now, "every window was left"


def test_a_predictor_keeps_no_more_of_a_long_video_than_it_is_to_keep() -> None:
    kept = sampling.WINDOWS_KEPT
    ahead = set()
    for count in (700, 1000):
        windows = windows_of(range(count))
        _, one_wave = in_turns(windows, 25, None)
        assert (one_wave.most, set(one_wave.made.values())) == (25, {1})
        _, told = in_turns(windows, 25, kept)
        assert told.most == kept
        # Of 25 times that it is asked for a window, it makes again what it was not to keep in less than one in seven.
        assert sum(told.made.values()) < (1 + 25 / 7) * len(windows)
        ahead.add(told.ahead)
    assert max(ahead) <= 16 + 12 * (25 + sampling._TURN), "and the frames under way are as many, whatever the length"


def test_what_fits_is_made_once_and_as_many_turns_are_taken_as_that_needs() -> None:
    for count, steps, waves in ((112, 25, 1), (1000, 9, 1), (124, 25, 3), (160, 18, 2)):
        windows = windows_of(range(count))
        _, told = in_turns(windows, steps, 9)
        assert set(told.made.values()) == {waves}, "windows that one turn holds are made once in each wave"


def chunk_difference(blend: str, context: int) -> float:
    shot, cut = range(120), 50

    def made(chunk: range) -> dict[int, Tensor]:
        plan = plan_chunk(shot, chunk, context=context)
        scheduler = make_scheduler("ddim")
        scheduler.set_timesteps(6)
        frames = dict(denoise(plan.windows, predict, scheduler, noise, blend=blend))
        return {frame: frames[frame] for frame in chunk}

    whole, chunked = made(shot), made(range(cut)) | made(range(cut, 120))
    return max(float((whole[frame] - chunked[frame]).abs().max()) for frame in shot)


def test_chunks_blended_at_the_end_equal_the_whole_exactly() -> None:
    assert chunk_difference("end", context=0) == 0


def test_chunks_blended_at_every_step_come_nearer_to_the_whole_with_context() -> None:
    differences = [chunk_difference("step", context) for context in (0, 1, 2, 6)]
    assert differences == sorted(differences, reverse=True)
    assert differences[0] > 10 * differences[1]
    # As many windows of context as there are steps: nothing outside can have had any effect.
    assert differences[-1] < 1e-6


@pytest.mark.parametrize("steps", [7, 15, 24, 40, 60, 61])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_find_the_answer_that_is_known(solver: Solver, steps: int) -> None:
    """For data of one normal distribution the best prediction is known in closed form, and so is the noise's way to the data."""
    mean, deviation = 0.8, 0.3
    scheduler = make_scheduler(solver)
    set_steps(scheduler, steps)

    expected: dict[int, Tensor] = {}

    def exact(window: Window, latents: Tensor, step: int) -> Tensor:
        alpha = float(scheduler.alphas_cumprod[int(scheduler.timesteps[step])])
        signal, sigma = alpha**0.5, (1 - alpha) ** 0.5
        data = mean + signal * deviation**2 / (signal**2 * deviation**2 + sigma**2) * (latents - signal * mean)
        expected.update(zip(window, data.unbind(1), strict=True))
        return signal * (latents - signal * data) / sigma - sigma * data

    made = dict(denoise(windows_of(range(16)), exact, scheduler, noise))
    # The last step goes from the last time step's noise straight to the data expected there: no noise is left.
    alpha = float(scheduler.alphas_cumprod[int(scheduler.timesteps[-1])])
    scale = alpha**0.5 * deviation**2 / (alpha * deviation**2 + 1 - alpha) ** 0.5
    tolerance = 0.05 if solver == "ddim" else 0.01
    for frame, latents in made.items():
        assert torch.allclose(latents, expected[frame], atol=1e-5)
        assert torch.allclose(latents, mean + scale * noise(frame), atol=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_number_of_steps_is_taken_from_the_first_time_step_to_before_the_clean_picture(solver: Solver) -> None:
    scheduler = make_scheduler(solver)
    for steps in (*range(1, 130), 201, 999, 1000):
        set_steps(scheduler, steps)
        assert len(scheduler.timesteps) == steps
        assert scheduler.timesteps[0] == 999
        assert (scheduler.timesteps.diff() < 0).all()
        assert scheduler.timesteps[-1] >= 0
        if solver != "ddim":
            assert (len(scheduler.sigmas), float(scheduler.sigmas[-1])) == (steps + 1, 0)


def test_ddim_equals_that_of_diffusers_to_the_bit_where_the_steps_divide_the_schedule() -> None:
    for steps in (5, 8, 25, 40, 50):
        ours, theirs = make_scheduler("ddim"), DDIMScheduler.from_config(make_scheduler("ddim").config)
        ours.set_timesteps(steps)
        theirs.set_timesteps(steps)
        latents = noise(1)
        for timestep in ours.timesteps:
            expected = theirs.step(noise(int(timestep)), timestep, latents)
            found = ours.step(noise(int(timestep)), timestep, latents)
            assert torch.equal(found.prev_sample, expected.prev_sample)
            assert torch.equal(found.pred_original_sample, expected.pred_original_sample)
            latents = found.prev_sample


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_ddim_takes_every_kind_of_prediction_to_the_same_clean_latents(kind: str) -> None:
    scheduler = make_scheduler("ddim", {**NOISE_SCHEDULE, "prediction_type": kind, "rescale_betas_zero_snr": False})
    scheduler.set_timesteps(7)
    clean, added = noise(1), noise(2)
    for timestep in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[timestep]
        latents = alpha**0.5 * clean + (1 - alpha) ** 0.5 * added
        velocity = alpha**0.5 * added - (1 - alpha) ** 0.5 * clean
        predicted = {"epsilon": added, "sample": clean, "v_prediction": velocity}[kind]
        stepped, found = scheduler.step(predicted, timestep, latents, return_dict=False)
        assert torch.allclose(found, clean, atol=1e-3)
    assert torch.allclose(stepped, clean, atol=1e-3)
    with pytest.raises(ValueError, match="500 is none of the time steps"):
        scheduler.step(predicted, 500, latents)


def test_solvers_can_be_exchanged_and_keep_the_schedule() -> None:
    changed = make_scheduler("unipc", make_scheduler("ddim", {**NOISE_SCHEDULE, "beta_end": 0.02}).config)
    assert changed.config.beta_end == 0.02
    assert changed.config.prediction_type == "v_prediction"


def test_schedulers_that_draw_noise_are_refused_and_those_that_do_not_are_named() -> None:
    for solver in SOLVERS:
        scheduler = make_scheduler(solver)
        assert require_deterministic(scheduler) is scheduler
    sde = make_scheduler("dpm++")
    sde.register_to_config(algorithm_type="sde-dpmsolver++")
    for drawing in (sde, LCMScheduler(), TCDScheduler(), DDPMScheduler(), EulerAncestralDiscreteScheduler()):
        with pytest.raises(UsageError, match=r"draws noise at every step.*ExactDDIMScheduler, DPMSolver.*, UniPC"):
            require_deterministic(drawing)


def test_the_ddim_of_diffusers_is_replaced_by_the_exact_one_on_its_schedule() -> None:
    exact = require_deterministic(DDIMScheduler.from_config({**NOISE_SCHEDULE, "beta_end": 0.02}))
    assert isinstance(exact, ExactDDIMScheduler)
    assert exact.config.beta_end == 0.02


def test_solvers_that_there_are_not_are_refused() -> None:
    with pytest.raises(UsageError, match="no solver 'heun'"):
        make_scheduler("heun")  # type: ignore[arg-type]


@pytest.mark.parametrize("blend", ["step", "end"])
def test_weights_of_a_window_are_made_once_for_all_steps(blend: Blend, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Window, tuple[int, ...]]] = []
    share = sampling._share

    def counted(window: Window, frames: tuple[int, ...], *more: Any) -> Any:
        made.append((window, frames))
        return share(window, frames, *more)

    monkeypatch.setattr(sampling, "_share", counted)
    scheduler = make_scheduler("ddim")
    scheduler.set_timesteps(5)
    windows = windows_of(range(20), 8, 2)
    finished = denoise(
        windows, lambda window, latents, step: latents, scheduler, lambda frame: torch.zeros(1, 1, 1), overlap=2, blend=blend
    )
    assert [frame for frame, _ in finished] == list(range(20))
    assert len(made) == len(set(made)) >= len(windows)


def test_frames_that_lie_apart_in_a_window_are_taken_like_those_side_by_side() -> None:
    window, values = (3, 4, 5, 6), torch.arange(8.0).reshape(2, 4, 1, 1)
    for frames, places in (((4, 5), [1, 2]), ((3, 6), [0, 3])):
        share = sampling._share(window, frames, [1.0, 2.0, 3.0, 4.0], torch.device("cpu"))
        assert torch.equal(values[:, share.places], values[:, places])
        assert share.weight.flatten().tolist() == [place + 1.0 for place in places]


def test_all_wrong_options_are_named_at_once() -> None:
    wrong = SamplingOptions(steps=0, guidance_scale=0.5, guidance_interval=(0.6, 0.2), window=40, overlap=40, vae_slice=0)
    with pytest.raises(UsageError) as caught:
        wrong.check()
    assert len(caught.value.problems) == 6


def test_guidance_is_on_within_its_interval_alone() -> None:
    options = SamplingOptions(guidance_interval=(0.2, 0.8))
    assert [options.guided(step, 1000) for step in (999, 799, 500, 200, 100)] == [False, True, True, True, False]
    assert not SamplingOptions(guidance_scale=1.0).guided(500, 1000)


def test_items_are_computed_ahead_in_order_and_errors_arrive() -> None:
    def failing() -> Iterator[int]:
        yield from range(5)
        raise UsageError(["it ends here."])

    items = computed_ahead(failing(), depth=2)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="ends here"):
        next(items)


def test_computing_ahead_is_bounded_and_ends_with_its_reader() -> None:
    begun: list[int] = []
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                begun.append(number)
                yield number
                number += 1
        finally:
            closed.set()

    items = computed_ahead(endless(), depth=3)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert len(begun) <= 1 + 3 + 2
