"""What a step of stage one and two is judged by: only what could be known, and any frame of a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from stages.networks.loading import load_pipeline
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.presets import TINY, build
from stages.networks.schedulers import NOISE_SCHEDULE, make_scheduler
from stages.training.batches import Batch
from stages.training.diffusion import DiffusionTask
from stages.training.recipe import DiffusionPhase
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.tiny_recipes import tiny_recipe


def task_of(phase: int, pipeline: HeadSwapPipeline | None = None, **changes: Any) -> DiffusionTask:
    """A task of a phase of the tiny recipe with other values."""
    AcceleratorState._reset_state()
    content = {**tiny_recipe().phases[phase].model_dump(), "size": 32, "cached_samples": 4, **changes}
    accelerator, pipeline = Accelerator(cpu=True), pipeline or build(TINY, seed=3)
    return DiffusionTask(pipeline, DiffusionPhase.model_validate(content), Discs(32), 3, accelerator, None, lambda step: {})


class Noted(nn.Module):
    """Predicts nothing and remembers what it was asked."""

    def forward(self, batch: Batch, noisy: Tensor, timesteps: Tensor, dropped: int) -> Tensor:
        self.batch, self.noisy, self.timesteps, self.dropped = batch, noisy, timesteps, dropped
        self.predicted = torch.zeros_like(noisy, requires_grad=True)
        return self.predicted


def judged(task: DiffusionTask, batch: int) -> tuple[Tensor, Noted, bool]:
    """Predictions of a batch that the L2 over the head moves, bool [rows, frames]; the network; whether there is that loss."""
    network = Noted()
    found = task.losses(network, batch)
    if "head" not in found:
        return torch.zeros(len(network.timesteps), network.predicted.shape[2], dtype=torch.bool), network, False
    found["head"].backward()
    assert network.predicted.grad is not None
    return network.predicted.grad.abs().sum((1, 3, 4)) > 0, network, True


def test_a_picture_without_a_reference_is_not_judged_by_whose_head_it_is() -> None:
    task = task_of(1, batch=4, judged=2, reference_drop=0.6)
    met = set()
    for batch in range(16):
        marks, network, told = judged(task, batch)
        least = sorted((int(network.timesteps[row]), row) for row in range(network.dropped, 4))[:2]
        rows = marks.any(1).nonzero().flatten().tolist()
        assert rows == sorted(row for _, row in least)  # of those with a reference the ones with the least noise
        assert told == bool(least)
        met.add(network.dropped)
    assert met >= {1, 2, 3, 4}


def test_every_frame_of_a_window_can_be_the_one_that_is_judged() -> None:
    task = task_of(2, batch=2, frames=4, judged=2, reference_drop=0.0)
    met = set()
    for batch in range(12):
        marks = judged(task, batch)[0]
        assert marks.sum(1).tolist() == [1, 1]
        assert torch.equal(marks, judged(task, batch)[0])  # a function of the batch: a run goes on to the bit
        met |= set(marks.int().argmax(1).tolist())
    assert met == {0, 1, 2, 3}


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_frames_of_a_window_have_noise_in_common_as_the_recipe_says(shared: float) -> None:
    network, correlations = Noted(), []
    task = task_of(2, batch=2, frames=4, judged=0, shared_noise=shared)
    alphas = make_scheduler("ddim").alphas_cumprod
    for batch in range(20):
        task.losses(network, batch)
        a = alphas[network.timesteps].view(-1, 1, 1, 1, 1)
        noise = (network.noisy - a.sqrt() * network.batch.target) / (1 - a).sqrt()
        correlations += [torch.corrcoef(row.transpose(0, 1).flatten(1)) for row in noise]
    found = torch.stack(correlations).mean(0)[~torch.eye(4, dtype=torch.bool)]
    assert torch.allclose(found, torch.full_like(found, shared), atol=0.1)


def test_a_schedule_of_the_recipe_is_trained_on_and_saved_with_the_pipeline(tmp_path: Path) -> None:
    pipeline, usual = build(TINY, seed=3), make_scheduler("ddim")
    wanted = make_scheduler("ddim", {**NOISE_SCHEDULE, "beta_schedule": "scaled_linear"})
    task = task_of(1, pipeline, batch=4, judged=0, schedule="scaled_linear")
    pipeline.save_pretrained(tmp_path)
    saved = load_pipeline(tmp_path).scheduler
    assert saved.config.beta_schedule == "scaled_linear"
    assert type(saved) is type(usual)
    assert torch.equal(saved.alphas_cumprod, wanted.alphas_cumprod)
    assert float(saved.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-12)
    assert not torch.allclose(wanted.alphas_cumprod, usual.alphas_cumprod, atol=0.05)
    # A network that predicts nothing is off by the mean square of the velocity, which tells the schedule.
    others = [float(task_of(1, batch=4, judged=0, schedule=betas).losses(Noted(), 0)["ldm"]) for betas in (None, "linear")]
    assert others[0] == others[1] != pytest.approx(float(task.losses(Noted(), 0)["ldm"]))
