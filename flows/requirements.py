"""What jobs and their pipeline ask for that can be known before anything runs: all that is missing or wrong is told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flows import pipeline
from schemas.catalogue import Job
from schemas.configuration import Settings
from schemas.parameters import AssembleParameters, RenderParameters
from schemas.problems import StoreError, UsageError
from stages.networks.registered import Registration
from storage.store import open_backend

if TYPE_CHECKING:  # planning itself asks for pipelines
    from flows.planning import Planner


def sampled_as_wanted(settings: Settings, jobs: Iterable[Job], pipelines: Mapping[str, Registration]) -> Settings:
    """The settings, with the way that the diffusion renderer's pipeline wants to be sampled wherever nobody set anything else.

    Raises:
        UsageError: values that were set do not go with it.
    """
    asked = (cast(RenderParameters, settings.parameters("render", job)) for job in jobs)
    name = next((render.diffusion.model for render in asked if render.renderer == "diffusion"), None)
    if name is None:
        return settings
    wanted = pipelines[name].sampling if name in pipelines else {}
    try:
        return settings.sampled_as(wanted, f"the pipeline {name}")
    except ValueError as error:
        told = ", ".join(f"{key} {value}" for key, value in sorted(wanted.items()))
        raise UsageError(
            [f"stages.render.diffusion: {error}."],
            f"The pipeline {name} wants {told}; set what goes with your values too." if told else "Set both.",
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


def require_place(output_url: str, settings: Settings) -> None:
    """``StoreError`` where results can never be put: else all work would be done before that is found out. Places that do not
    answer now may do so by then."""
    try:
        open_backend(output_url, dict(settings.storage_options_of(output_url))).check_address()
    except StoreError as error:
        if not error.retryable:
            raise


def _is_signing_left(planner: Planner, output_url: str | None, retry_failed: bool) -> bool:
    """Whether any result does not lie signed where it is wanted, or that cannot be told. Looked up beside the planner, for which
    all this is to be found out with the run."""
    from flows.delivery import is_delivered  # which imports planning, as this is imported by it
    from flows.planning import Planner, quarantined

    again = Planner([plan.job for plan in planner.jobs.values()], planner.store, planner.settings, planner.registry)
    again.note = planner.note
    again.survey()
    try:
        return output_url is None or any(
            not is_delivered(again, plan, output_url)
            if plan.record is not None
            else not quarantined(plan.failure) and (retry_failed or again.standing_failure(plan) is None)
            for plan in again.jobs.values()
        )
    except Exception:  # noqa: BLE001 - of whatever place: what cannot be read is not known to be signed
        return True


def require_signable(planner: Planner, output_url: str | None = None, *, here: bool = True, retry_failed: bool = False) -> None:
    """``UsageError`` with every job whose result is to be signed in a container that cannot hold a signature, and with what is
    wrong with certificate and key: else all work would be done before that is found out.

    Where every result lies signed where it is wanted, a certificate may have expired since: they are left as they are.

    Args:
        output_url: where results go. here: whether this machine is to sign; who only plans need not hold the key.
        retry_failed: whether jobs are tried again that failed for good before.
    """
    provenance = planner.settings.provenance
    if provenance.certificate is None or provenance.key is None:
        return
    problems = [
        f"{name}: its result is to be signed (provenance.certificate), which .mkv cannot hold."
        for name, plan in planner.jobs.items()
        for node in plan.nodes
        if node.stage == "assemble" and cast(AssembleParameters, planner.parameters(node)).container == "mkv"
    ]
    remedies = ["Name an output that ends with .mp4 or .mov, or leave the certificate out."] if problems else []
    if here:
        from stages.video.provenance import try_signing  # loads a native library that few runs need

        try:
            try_signing(Path(provenance.certificate), Path(provenance.key))
        except UsageError as error:
            if _is_signing_left(planner, output_url, retry_failed):
                problems += error.problems
                remedies += [error.remedy] if error.remedy else []
    if problems:
        raise UsageError(problems, " ".join(remedies))
