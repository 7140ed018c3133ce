"""Doing one unit of work: from a description that can travel to another process, to a committed artifact. No Prefect."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import pipeline
from flows.planning import InputName, Planner, Unit
from schemas.configuration import Settings
from schemas.parameters import StageParameters
from schemas.problems import HeadswapError, MediaError, StoreError
from stages.contract import Chunk, Inputs, Work
from stages.video.facts import Limits as MediaLimits
from storage import sources
from storage.artifacts import Manifest
from storage.store import ArtifactStore


@dataclass(frozen=True)
class WorkItem:
    """Everything needed to do a unit of work, anywhere."""

    stage: str
    key: str
    recipe: Mapping[str, Any]
    label: str
    store: ArtifactStore
    parameters: StageParameters
    chunk: Chunk | None
    inputs: Mapping[InputName, tuple[Manifest, ...]]
    media: Mapping[str, str]
    models: Mapping[str, Path]
    options: Mapping[str, Any]
    seed: int
    frames: int
    """How many frames the work passes over, for progress and time limits; 1 while that is unknown."""
    limits: MediaLimits
    media_folder: Path
    """Local folder, shared by all workers of this machine, for copies of remote media."""
    media_bytes: int
    """Most that those copies may take."""
    wants_device: bool = False
    """Whether it goes to a process that has a GPU, where there are any."""
    device: str = "cpu"
    """Where it was given to; no part of the key."""


@dataclass(frozen=True)
class Outcome:
    """What came of a unit, and where its time went."""

    manifest: Manifest
    stage_seconds: float
    bookkeeping_seconds: float
    """Opening inputs, validating, committing: everything that is not the stage's own work."""


def describe(planner: Planner, unit: Unit) -> WorkItem:
    """The work item of a unit whose inputs are committed."""
    node = unit.node
    inputs = planner.input_manifests(node, unit.chunk)
    if inputs is None:
        raise RuntimeError(f"{node.stage} of {node.label} was started before its inputs were committed")
    frames = len(unit.chunk.frames) if unit.chunk else (planner.frames(node.owner) or 1)
    return WorkItem(
        stage=node.stage,
        key=unit.key,
        recipe=unit.recipe,
        label=node.label,
        store=planner.store,
        parameters=planner.parameters(node),
        chunk=unit.chunk,
        inputs=inputs,
        media=planner.media(node),
        models={name: path for name, (path, _) in planner.models(node).items()},
        options=planner.options(node),
        seed=unit.recipe["seed"] or 0,
        frames=frames,
        limits=media_limits(planner.settings),
        media_folder=planner.store.scratch,
        media_bytes=planner.settings.scratch_bytes,
        wants_device=pipeline.stage(node.stage).wants_device(planner.parameters(node)),
    )


def media_limits(settings: Settings) -> MediaLimits:
    """The settings' limits in the words of the decoders."""
    limits = settings.limits
    return MediaLimits(
        pixels=limits.max_pixels, frames=limits.max_frames, seconds=limits.max_seconds, file_bytes=limits.max_bytes
    )


def perform(item: WorkItem, progress: Callable[[int], None]) -> Outcome:
    """Run the stage and commit what it wrote.

    Raises:
        HeadswapError: what failed and what to do, whatever the cause was.
    """
    stage = pipeline.stage(item.stage)  # the first time, this loads the stage's libraries
    began = time.perf_counter()
    try:
        with ExitStack() as held:
            media = {
                owner: held.enter_context(
                    sources.fetch(
                        url,
                        item.media_folder,
                        limit_bytes=item.media_bytes,
                        largest_bytes=item.limits.file_bytes,
                        storage_options=item.store.options_for(url),
                    )
                )
                for owner, url in item.media.items()
            }
            everything = {}
            same = {}
            for (name, of, chunk), manifests in item.inputs.items():
                artifacts = tuple(item.store.artifact(manifest) for manifest in manifests)
                if chunk == "same":
                    same[name, of] = artifacts[0]
                else:
                    everything[name, of] = artifacts
            writer = held.enter_context(
                item.store.begin(
                    item.stage,
                    item.key,
                    recipe=item.recipe,
                    stage_version=stage.version,
                    frames=item.chunk.frames if item.chunk else None,
                )
            )
            work = Work(
                parameters=item.parameters,
                output=writer,
                inputs=Inputs(everything, same),
                media=media,
                chunk=item.chunk,
                models=item.models,
                device=item.device,
                seed=item.seed,
                limits=item.limits,
                options=item.options,
                progress=progress,
            )
            _check_media(item)
            started = time.perf_counter()
            stage.run(work)
            finished = time.perf_counter()
            _check_media(item)
            manifest = writer.commit()
        ended = time.perf_counter()
    except Exception as error:
        raise reason(error, item) from error
    return Outcome(manifest, finished - started, ended - began - (finished - started))


def _check_media(item: WorkItem) -> None:
    """A file that was replaced since the plan must not be committed under the old one's digest."""
    for owner, url in item.media.items():
        if sources.digest_of(url, item.store, limit_bytes=item.media_bytes) != item.recipe["media"][owner]:
            raise MediaError(
                "file_changed",
                f"{url} was changed while {item.stage} of {item.label} worked on it.",
                "Give the same command again when the file is complete.",
                retryable=True,
            )


def reason(error: Exception, item: WorkItem) -> HeadswapError:
    """Any exception as a failure with a code, a message that names the clip or job, and a remedy."""
    if isinstance(error, HeadswapError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            "store_full",
            f"No space is left while working on {item.stage} of {item.label}.",
            "Free some space (docs/operations.md, Space), then give the same command again.",
            retryable=True,
        )
    if isinstance(error, MemoryError):
        return HeadswapError(
            "out_of_memory",
            f"{item.stage} of {item.label} ran out of memory.",
            "Use fewer workers (--workers) or a smaller video.",
            retryable=True,
        )
    where = traceback.extract_tb(error.__traceback__)[-1]
    return HeadswapError(
        "internal_error",
        f"{item.stage} of {item.label} failed unexpectedly: {type(error).__name__}: {error} "
        f"({Path(where.filename).name}, line {where.lineno}).",
        "This is a fault of the program: please report it with the trace. `headswap retry` tries the job again.",
    )
