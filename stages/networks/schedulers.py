"""Noise schedules and the solvers that walk them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler

from schemas.problems import UsageError

Solver = Literal["ddim", "dpm++", "unipc"]

NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
"""AniPortrait's and AnimateAnyone's at inference: velocity prediction, zero terminal signal-to-noise ratio (Lin et al. 2024)."""


def make_scheduler(solver: Solver, schedule: Mapping[str, Any] | None = None) -> SchedulerMixin:
    """A deterministic solver on a noise schedule.

    Args:
        solver: ``ddim`` (Song et al. 2021, eta 0), ``dpm++`` (DPM-Solver++(2M), Lu et al. 2022) or ``unipc`` (Zhao et al. 2023).
        schedule: configuration of a diffusers scheduler, such as that of the scheduler in use; default ``NOISE_SCHEDULE``.

    Raises:
        UsageError: there is no such solver.
    """
    schedule = dict(NOISE_SCHEDULE if schedule is None else schedule)
    if solver == "ddim":
        return DDIMScheduler.from_config({**schedule, "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1})
    if solver == "dpm++":
        return DPMSolverMultistepScheduler.from_config(
            {**schedule, "algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
        )
    if solver == "unipc":
        return UniPCMultistepScheduler.from_config({**schedule, "solver_order": 2, "final_sigmas_type": "zero"})
    raise UsageError([f"There is no solver {solver!r}."], "Choose ddim, dpm++ or unipc.")


def require_deterministic(scheduler: SchedulerMixin) -> None:
    """``UsageError`` where a scheduler draws noise of its own, which would differ from chunk to chunk."""
    kind = str(scheduler.config.get("algorithm_type", ""))
    if kind.startswith("sde") or "Ancestral" in type(scheduler).__name__ or type(scheduler).__name__.startswith("DDPM"):
        raise UsageError(
            [f"The scheduler {type(scheduler).__name__} {kind} draws noise at every step; chunks would not fit together."],
            "Choose ddim, dpm++ or unipc.",
        )
