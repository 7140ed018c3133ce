"""The GPUs that a run uses: one process each, which keeps the networks loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from flows import pipeline
from schemas.catalogue import Job
from schemas.configuration import Settings
from schemas.parameters import RenderParameters
from schemas.problems import ModelError, UsageError

if TYPE_CHECKING:  # planning itself asks for the precision
    from flows.planning import Planner


def precision_settled(settings: Settings, jobs: Iterable[Job]) -> Settings:
    """The settings, with the precision that the devices compute in where the diffusion renderer's was left to them.

    It decides pixels, so it belongs into keys: machines that share a store must not mix two of them in one video. Devices that
    cannot be used leave it open; ``devices_of`` refuses them before a run.
    """
    if settings.stages.render.diffusion.precision != "auto" or not uses_diffusion(settings, jobs):
        return settings
    if settings.device == "cpu":
        return settings.computed_in("float32")
    import torch

    from stages.networks.runtime import choose_precision, find_device

    try:
        chosen = [choose_precision(find_device(name)) for name in device_names(settings)]
    except ModelError:
        return settings
    return settings.computed_in("bfloat16" if set(chosen) == {torch.bfloat16} else "float32")


def uses_diffusion(settings: Settings, jobs: Iterable[Job]) -> bool:
    """Whether any of the jobs is drawn by the diffusion renderer."""
    renders = (cast(RenderParameters, settings.parameters("render", job)) for job in jobs)
    return any(render.renderer == "diffusion" for render in renders)


def device_names(settings: Settings) -> list[str]:
    """The devices that the settings mean, once each, whether they are there or not where they are named."""
    if settings.device != "auto":
        return list(dict.fromkeys("cuda:0" if name == "cuda" else name for name in settings.device.split(",")))
    from stages.networks.runtime import served_gpus  # seconds for PyTorch that other runs should not pay

    return served_gpus() or ["cpu"]


def devices_of(planner: Planner) -> tuple[str, ...]:
    """Names of the GPUs for a run's work; none where no work wants one or there is none, which leaves the CPU.

    Raises:
        UsageError: a device that the settings name is not there, cannot be used (the message says why), or does not compute in
            the precision asked for.
    """
    settings = planner.settings
    wanted = {
        node.stage
        for plan in planner.jobs.values()
        for node in plan.nodes
        if isinstance(node.owner, str) and pipeline.stage(node.stage).wants_device(planner.parameters(node))
    }
    if not wanted:
        return ()
    from stages.networks.runtime import choose_precision, computes_bfloat16, find_device, unserved_gpus

    if settings.device == "auto":
        for why in unserved_gpus().values():
            planner.note(f"{why}: it is left alone.")
    names = device_names(settings)
    problems: list[ModelError] = []
    precision = settings.stages.render.diffusion.precision
    for name in names:
        try:
            choose_precision(device := find_device(name), precision)
        except ModelError as error:
            problems.append(error)
        else:
            if precision == "bfloat16" and device.type == "cpu" and not computes_bfloat16(device):
                planner.note("This processor only imitates bfloat16, which takes longer than float32.")
    if not problems and "render" in wanted and precision == "auto":
        problems = [ModelError("device_missing", "its devices did not answer at first, but do now.", "Start the command again.")]
    if problems:
        remedy = " ".join(dict.fromkeys(error.remedy for error in problems))
        raise UsageError([f"{settings.origin(_said_by(error))}: {error.message}" for error in problems], remedy)
    return tuple(name for name in names if name != "cpu")


def _said_by(error: ModelError) -> str:
    """The setting that an error of a device is about."""
    return "stages.render.diffusion.precision" if error.code == "precision_unsupported" else "device"
