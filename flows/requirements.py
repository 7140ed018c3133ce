"""What jobs need that can be known before anything runs: everything that is missing is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from flows import pipeline
from schemas.parameters import AssembleParameters, RenderParameters
from schemas.problems import UsageError
from stages.networks.registered import Registration

if TYPE_CHECKING:  # planning itself asks for pipelines
    from flows.planning import Planner


def as_wanted(parameters: RenderParameters, pipelines: Mapping[str, Registration]) -> RenderParameters:
    """The diffusion renderer's parameters, sampling as its pipeline wants it where nobody set anything else.

    Raises:
        UsageError: what was set does not go with what the pipeline wants.
    """
    chosen = parameters.diffusion
    registration = pipelines.get(chosen.model or "")
    if registration is None or not registration.sampling:
        return parameters
    try:
        return parameters.model_copy(update={"diffusion": chosen.or_as_wanted(registration.sampling)})
    except ValueError as error:
        wants = ", ".join(f"{name} {value}" for name, value in registration.sampling.items())
        raise UsageError(
            [f"stages.render.diffusion: {error}."],
            f"The pipeline {registration.name} wants {wants}; set what goes with your values too.",
        ) from error


def require_pipelines(planner: Planner) -> None:
    """``UsageError`` with every pipeline that jobs need and nobody registered: no such job could be done."""
    wanted: dict[str, list[str]] = {}
    for plan in planner.jobs.values():
        for node in plan.nodes:
            if isinstance(node.owner, str):
                for name in pipeline.stage(node.stage).pipelines_for(planner.parameters(node)):
                    wanted.setdefault(name, []).append(plan.job.id)
    here = planner.registry.pipelines
    problems = [
        f"The diffusion renderer needs the pipeline {name}, which is not registered (jobs: {', '.join(jobs[:5])}"
        + (f" and {len(jobs) - 5} more)." if len(jobs) > 5 else ").")
        for name, jobs in wanted.items()
        if name not in here
    ]
    if problems:
        there = f"or take one that is there ({', '.join(here)}) with --set stages.render.diffusion.model=NAME; " if here else ""
        raise UsageError(
            problems,
            "Register one: `headswap models add NAME FOLDER --licence TEXT` takes a trained pipeline, or the files that "
            f"AniPortrait or AnimateAnyone publish (docs/models.md); {there}or use --renderer warp, which needs none.",
        )


def require_signable(planner: Planner) -> None:
    """``UsageError`` with every job whose result is to be signed in a container that cannot hold a signature."""
    if planner.settings.provenance.certificate is None:
        return
    unsignable = [
        name
        for name, plan in planner.jobs.items()
        for node in plan.nodes
        if node.stage == "assemble" and cast(AssembleParameters, planner.parameters(node)).container == "mkv"
    ]
    if unsignable:
        raise UsageError(
            [f"{name}: its result is to be signed (provenance.certificate), which .mkv cannot hold." for name in unsignable],
            "Name an output that ends with .mp4 or .mov, or leave the certificate out.",
        )
