"""The example catalogue that ships, and a job from a single pair."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.catalogue import Catalogue, Job, edits_of, read_catalogue, resolve, safe_id
from schemas.problems import ModelError, UsageError
from stages.networks.registry import ModelRegistry
from storage.sources import local_path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CONTAINERS = (".mp4", ".mkv", ".mov")
DEMO_PIPELINE = "headswap-demo"
DEMO_SAMPLING: dict[str, Any] = {
    "stages.render.diffusion.solver": "dpm++",
    "stages.render.diffusion.steps": 8,
}
"""How the demo samples: in few steps, for a CPU. All else is as ``headswap-demo`` says in its ``sampling.json``."""


def example_catalogue() -> Catalogue:
    """Rendered people only: nobody's likeness."""
    return read_catalogue(EXAMPLES / "catalogue.csv")


def demo_renderer(registry: ModelRegistry, asked: str | None) -> tuple[str, str]:
    """Which renderer the demo uses, and a sentence that says why.

    The diffusion renderer where a trained pipeline ``headswap-demo`` is registered or ships, else the warp.

    Args:
        registry: of models.
        asked: by the person, or None.
    """
    how = f"`headswap models add {DEMO_PIPELINE} FOLDER` registers one."
    found = registry.pipelines.get(DEMO_PIPELINE)
    if asked is not None:
        untrained = (
            f" Its pipeline is not trained: {' '.join(found.notes)}" if asked == "diffusion" and found and found.notes else ""
        )
        return asked, f"The demo uses the renderer {asked}, as asked for.{untrained}"
    if found is None:
        return "warp", f"The demo uses the renderer warp: no trained pipeline {DEMO_PIPELINE} is here. {how}"
    try:
        folder = registry.require(DEMO_PIPELINE)
    except ModelError as error:
        return "warp", f"The demo uses the renderer warp: {error.message}"
    if found.notes:
        return "warp", f"The demo uses the renderer warp: the pipeline {DEMO_PIPELINE} is not trained. {' '.join(found.notes)}"
    return "diffusion", f"The demo uses the renderer diffusion with {DEMO_PIPELINE} from {folder} (licence: {found.licence})."


def single_job(
    source: str,
    target: str,
    output: Path,
    *,
    rights: str,
    renderer: str | None,
    edits: str | None,
    subject: str | None,
    seed: int,
    options_for: Callable[[str], Mapping[str, Any]] = lambda url: {},
) -> Job:
    """The job of one pair; refused like a catalogue's row, with every problem at once.

    Args:
        options_for: of fsspec, for the address of a file of edits. The rest as in a catalogue's row.

    Raises:
        UsageError: no rights, files that are not there, an output that is no video file, edits that cannot be made, ...
    """
    problems: list[str] = []
    remedies: list[str] = []
    if not rights.strip():
        problems.append(
            "No rights are given: say on what ground the source's likeness is used, for instance "
            '--rights "own likeness", --rights synthetic, or the reference of a release.'
        )
    if output.suffix.lower() not in CONTAINERS:
        problems.append(f"The output {output} must end in one of {', '.join(CONTAINERS)}.")
    here = str(Path.cwd() / "-")
    given = {
        "source": resolve(source, here),
        "target": resolve(target, here),
        "subject": resolve(subject, here) if subject and subject != "largest" and not subject.isdigit() else subject,
        "edits": resolve(edits, here) if edits and not edits.lstrip().startswith("{") else edits,
    }
    pictured = subject is not None and subject != "largest" and not subject.isdigit()
    for what in ("source", "target", *(["subject"] if pictured else [])):
        address = given[what]
        local = local_path(address or ".")
        if local is not None and (why := _missing(local)):
            problems.append(f"The {what} {str(local)!r} {why}.")
    try:
        job = _checked(
            {
                "id": safe_id(output.stem),
                **given,
                "rights": rights.strip() or "not given",
                "renderer": renderer and str(renderer),
                "seed": seed,
                "output": output.name if output.suffix.lower() in CONTAINERS else "told.mp4",
            }
        )
        edits_of(job, storage_options=options_for(job.edits or ""))
    except UsageError as error:
        problems += error.problems
        remedies += [error.remedy] if error.remedy else []
    if problems:
        raise UsageError(problems, " ".join(remedies))
    return job


def _missing(path: Path) -> str:
    """Why a file cannot be read as far as its place is concerned; empty where it is there."""
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return "is a folder"
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be reached ({error.strerror if isinstance(error, OSError) else error})"
    return ""


def _checked(values: dict[str, object]) -> Job:
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc']))}: {item.get('ctx', {}).get('error', item['msg'])}" for item in error.errors()
        ]
        raise UsageError(problems) from error
