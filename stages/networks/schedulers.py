"""Noise schedules and the solvers that walk them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from schemas.problems import UsageError

Solver = Literal["ddim", "dpm++", "unipc"]

Betas = Literal["linear", "scaled_linear"]
"""How the noise grows with the time step: evenly in its variance, or in its deviation as in Stable Diffusion."""

NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
"""AniPortrait's and AnimateAnyone's at inference: velocity prediction, zero terminal signal-to-noise ratio (Lin et al. 2024).

Their training scripts (``train_stage_1.py``) take ``scaled_linear`` betas with the same ends."""


class ExactDDIMScheduler(DDIMScheduler):
    """DDIM (Song et al. 2021, eta 0) that steps from each of its time steps to the next, and from the last to no noise.

    diffusers' steps by ``num_train_timesteps // steps`` instead, which is another place wherever the spacing is rounded: of 7
    trailing steps of 142 the last ends at time step 0, not behind it, and leaves that noise in the picture. Where the number of
    steps divides that of the time steps, both compute the same, to the bit.
    """

    def step(  # type: ignore[override]  # of diffusers' options only those that a deterministic sampler has
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """One step.

        Args:
            model_output: the prediction, of the schedule's ``prediction_type``; of any shape.
            timestep: one of ``timesteps``.
            sample: noisy latents, of the same shape.
            return_dict: as ``DDIMSchedulerOutput``, else as a tuple.

        Returns:
            ``prev_sample``, the latents at the next time step, and ``pred_original_sample``, the clean latents expected now; both
            of the same shape.

        Raises:
            ValueError: ``set_timesteps`` has not been called, or ``timestep`` is none of those it set.
        """
        places = (self.timesteps == timestep).nonzero()
        if self.num_inference_steps is None or not len(places):
            raise ValueError(f"{int(timestep)} is none of the time steps that were set")
        following = int(places[0]) + 1
        alpha = self.alphas_cumprod[int(timestep)]
        last = following == len(self.timesteps)
        alpha_after = self.final_alpha_cumprod if last else self.alphas_cumprod[int(self.timesteps[following])]
        beta = 1 - alpha
        kind = self.config.prediction_type
        if kind == "v_prediction":
            clean = (alpha**0.5) * sample - (beta**0.5) * model_output
            noise = (alpha**0.5) * model_output + (beta**0.5) * sample
        elif kind == "epsilon":
            clean = (sample - beta**0.5 * model_output) / alpha**0.5
            noise = model_output
        elif kind == "sample":
            clean = model_output
            noise = (sample - alpha**0.5 * clean) / beta**0.5
        else:
            raise ValueError(f"the prediction_type {kind} is none of v_prediction, epsilon and sample")
        if self.config.thresholding:
            clean = self._threshold_sample(clean)
        elif self.config.clip_sample:
            clean = clean.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        stepped = alpha_after**0.5 * clean + (1 - alpha_after) ** 0.5 * noise
        return DDIMSchedulerOutput(prev_sample=stepped, pred_original_sample=clean) if return_dict else (stepped, clean)


DETERMINISTIC: tuple[type[SchedulerMixin], ...] = (ExactDDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler)
"""Schedulers that the sampler walks with; of diffusers' others many draw noise, and do not say so."""


def make_scheduler(solver: Solver, schedule: Mapping[str, Any] | None = None) -> SchedulerMixin:
    """A deterministic solver on a noise schedule.

    Args:
        solver: ``ddim`` (``ExactDDIMScheduler``), ``dpm++`` (DPM-Solver++(2M), Lu et al. 2022) or ``unipc`` (Zhao et al. 2023).
        schedule: configuration of a diffusers scheduler, such as that a pipeline was saved with; default ``NOISE_SCHEDULE``.

    Raises:
        UsageError: there is no such solver.
    """
    schedule = dict(NOISE_SCHEDULE if schedule is None else schedule)
    if solver == "ddim":
        return ExactDDIMScheduler.from_config({**schedule, "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1})
    if solver == "dpm++":
        return DPMSolverMultistepScheduler.from_config(
            {**schedule, "algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
        )
    if solver == "unipc":
        return UniPCMultistepScheduler.from_config({**schedule, "solver_order": 2, "final_sigmas_type": "zero"})
    raise UsageError([f"There is no solver {solver!r}."], "Choose ddim, dpm++ or unipc.")


def with_betas(scheduler: SchedulerMixin, betas: Betas) -> SchedulerMixin:
    """The same solver on the noise schedule with other betas; zero terminal signal-to-noise ratio and all else stay."""
    return type(scheduler).from_config(scheduler.config, beta_schedule=betas)


def set_steps(scheduler: SchedulerMixin, steps: int) -> None:
    """Have a scheduler of ``DETERMINISTIC`` take exactly so many steps.

    diffusers counts trailing time steps down in floating point: of 61 there come 62, the last of which is -1.
    """
    walked: Any = scheduler
    walked.set_timesteps(steps)
    surplus = len(walked.timesteps) - steps
    if surplus > 0:
        walked.timesteps = walked.timesteps[:steps]
        walked.num_inference_steps = steps
        if hasattr(walked, "sigmas"):
            walked.sigmas = torch.cat([walked.sigmas[:steps], walked.sigmas[-1:]])


def require_deterministic(scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler, or in the place of diffusers' own DDIM the exact one on the same schedule.

    Raises:
        UsageError: it is none of ``DETERMINISTIC``, or draws noise of its own, which would differ from chunk to chunk.
    """
    if type(scheduler) is DDIMScheduler:
        return make_scheduler("ddim", scheduler.config)
    known = isinstance(scheduler, DETERMINISTIC)
    # A config hands on what it was made of: the kind of another scheduler says nothing of one without kinds.
    kind = str(scheduler.config.get("algorithm_type", "")) if known else ""
    if not known or kind.startswith("sde"):
        allowed = ", ".join(each.__name__ for each in DETERMINISTIC)
        raise UsageError(
            [
                f"The scheduler {' '.join(filter(None, (type(scheduler).__name__, kind)))} draws noise at every step, or is not "
                f"known not to; chunks would not fit together. Known are {allowed} (not the sde kinds)."
            ],
            "Choose ddim, dpm++ or unipc: pipeline.scheduler = make_scheduler(SOLVER, pipeline.scheduler.config).",
        )
    return scheduler
