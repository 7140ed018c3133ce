"""The GPUs that a run uses: one process each, which keeps the networks loaded."""

from __future__ import annotations

from flows import pipeline
from flows.planning import Planner
from schemas.problems import ModelError, UsageError


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
    # Seconds for PyTorch that other runs should not pay.
    from stages.networks.runtime import choose_precision, find_device, gpu_count

    if settings.device == "auto":
        names = [f"cuda:{number}" for number in range(gpu_count())] or ["cpu"]
    else:
        names = ["cuda:0" if name == "cuda" else name for name in settings.device.split(",")]
    problems: list[ModelError] = []
    for name in dict.fromkeys(names):
        try:
            choose_precision(find_device(name), settings.stages.render.diffusion.precision)
        except ModelError as error:
            problems.append(error)
    if problems:
        remedy = " ".join(dict.fromkeys(error.remedy for error in problems))
        raise UsageError([f"{settings.origin('device')}: {error.message}" for error in problems], remedy)
    return tuple(name for name in dict.fromkeys(names) if name != "cpu")
