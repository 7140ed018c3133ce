"""The end of a job: its record is committed, its video put where it was asked for, with a provenance file beside it."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from flows import pipeline
from flows.events import JobOutcome
from flows.planning import JOB_RECORD, JOB_RECORD_VERSION, Clip, JobPlan, Node, Planner
from schemas.catalogue import Job
from schemas.parameters import AssembleParameters
from schemas.places import place_of
from schemas.problems import HeadswapError, StoreError, UsageError
from storage import sources
from storage.artifacts import Artifact, Manifest

ELSEWHERE = "Give --out another folder, or the result another name (column `output` of a catalogue)."

PROVENANCE_SUFFIX = ".provenance.json"
LEFT_OVER = datetime.timedelta(days=1)
"""Age from which what was being written is a killed run's; no video takes as long to copy."""
_PARTIAL = re.compile(r"\.headswap-[0-9a-f]{32}\.part")


def final_manifests(planner: Planner, plan: JobPlan) -> dict[str, Manifest]:
    """The job's last artifacts by stage; all are committed when this is asked."""
    found = {}
    for name in pipeline.FINAL:
        units = planner.step(Node(plan.job.id, name)).units or []
        (unit,) = units
        if unit.manifest is None:
            raise RuntimeError(f"{name} of {plan.job.id} is not committed")
        found[name] = unit.manifest
    return found


def deliver(planner: Planner, plan: JobPlan, output_url: str) -> JobOutcome:
    """Copy the finished video to its place, unless the same one is there, and say how the job went.

    Raises:
        StoreError: ``output_failed`` when the place cannot be written.
    """
    manifests = final_manifests(planner, plan)
    video = planner.store.artifact(manifests["assemble"])
    address, record = _wanted(planner, plan, video, output_url)
    replaced = _place(planner, plan, video, video_name(video), address, record)
    facts: dict[str, Any] = dict(manifests["measure"].facts)
    verdict: dict[str, Any] = facts.get("verdict", {})
    counts: dict[str, Any] = verdict.get("frames", {})
    cached = plan.record is not None
    if plan.record is None:
        told = [*planner.pipeline_notes(plan), *_media_notes(planner, plan), *_job_notes(planner, plan), *facts.get("notes", [])]
        plan.record = _commit_record(planner, plan, manifests, told)
    notes = cast(list[str], plan.record.facts.get("notes", []))
    notes = list(dict.fromkeys([*notes, *_assemble_notes(video, notes), *replaced]))
    return JobOutcome(
        id=plan.job.id,
        status="cached" if cached else "done",
        output=address,
        grade=verdict.get("grade"),
        frames=counts.get("total"),
        generated=counts.get("generated"),
        reasons=[str(reason) for reason in verdict.get("reasons") or ()],
        notes=notes,
        artifacts={name: manifest.key for name, manifest in manifests.items()},
    )


def require_places(planner: Planner, output_url: str) -> None:
    """What can be known before anything runs of where results are to lie.

    A result may yet end in another container, and what lies there may change until then: ``deliver`` looks again.

    Raises:
        UsageError: a result would be put in the place of what a job reads: footage would be lost for good.
        StoreError: ``store_denied``: a folder may not be written.
    """
    problems, denied = [], set[Path]()
    for plan in planner.jobs.values():
        asked = cast(AssembleParameters, planner.parameters(Node(plan.job.id, "assemble")))
        address = _address(plan.job, f"video.{asked.container}", output_url)
        if (what := _input_lost(planner, plan, address)) is not None:
            problems.append(f"{address} would replace {what} (the result of {plan.job.id})")
        path = sources.local_path(address)
        if path is not None and not os.path.lexists(path):
            there = next((folder for folder in path.absolute().parents if os.path.lexists(folder)), Path("/"))
            if not os.access(there, os.W_OK | os.X_OK):
                denied.add(there)
    if problems:
        more = [f"The same is so for {len(problems) - 5} more jobs."] if len(problems) > 5 else []
        raise UsageError([*(f"{problem}." for problem in problems[:5]), *more], ELSEWHERE)
    if denied:
        told = ", ".join(map(str, sorted(denied)))
        raise StoreError("store_denied", f"Results cannot be put where they are wanted: {told} may not be written.", ELSEWHERE)


def _input_lost(planner: Planner, plan: JobPlan, address: str) -> str | None:
    """What a job reads that a result at ``address`` would take the place of, in words; None where nothing is lost."""
    read = planner.inputs.get(place_of(address))
    if read is None:
        return None
    role, job = read
    return None if job != plan.job.id and _made_before(planner, plan, address) else f"the {role} of {job}"


def _made_before(planner: Planner, plan: JobPlan, address: str) -> bool:
    """Whether what lies there says of itself that it is of this pair: another job may go on from it, and nothing is lost."""
    try:
        filesystem, path = sources.file_system(address, planner.settings.storage_options_of(address))
        record = _written(filesystem, path + PROVENANCE_SUFFIX) or {}
    except Exception:  # noqa: BLE001 - a place that cannot be looked at vouches for nothing
        return False
    return (record.get("source_name"), record.get("target_name")) == (plan.source.name, plan.target.name)


def is_delivered(planner: Planner, plan: JobPlan, output_url: str) -> bool:
    """Whether a finished job's video lies where it is wanted, as it is wanted: signed or not."""
    video = planner.store.artifact(final_manifests(planner, plan)["assemble"])
    address, record = _wanted(planner, plan, video, output_url)
    filesystem, path = sources.file_system(address, planner.settings.storage_options_of(address))
    return _is_there(filesystem, path, record)


def _wanted(planner: Planner, plan: JobPlan, video: Artifact, output_url: str) -> tuple[str, dict[str, Any]]:
    """Where a job's video is to lie, and what its provenance record says, but for the bytes."""
    name = output_name(plan.job, video_name(video))
    record = {
        "video": name,
        "artifact": video.manifest.digest,
        "signed": planner.settings.provenance.certificate is not None,
        **dict(cast(dict[str, Any], video.facts.get("provenance", {}))),
    }
    return _address(plan.job, video_name(video), output_url), record


def _address(job: Job, video: str, output_url: str) -> str:
    # Not joined by posixpath: the root folder would become the current one.
    return f"{output_url.rstrip('/')}/{output_name(job, video)}"


def _is_there(filesystem: Any, path: str, record: dict[str, Any]) -> bool:
    written = _written(filesystem, path + PROVENANCE_SUFFIX)
    return written is not None and filesystem.exists(path) and written == {**record, "bytes": filesystem.size(path)}


def video_name(video: Artifact) -> str:
    """Name of the one video file of an ``assemble`` artifact; its suffix says the container."""
    (name,) = [entry.path for entry in video.manifest.files if entry.path.startswith("video.")]
    return name


def output_name(job: Job, video: str) -> str:
    """Name of a job's result below the output folder, with the suffix of the finished ``video`` whatever was asked for.

    The two differ where the sound did not fit into the container asked for; ``assemble`` has a note that says so.
    """
    suffix = PurePosixPath(video).suffix
    if job.output and PurePosixPath(job.output).suffix.lower() != suffix:
        return str(PurePosixPath(job.output).with_suffix(suffix))
    return job.output or f"{job.id}{suffix}"


def _media_notes(planner: Planner, plan: JobPlan) -> list[str]:
    """What ingest found odd about source and target: cut off in the middle, damaged frames."""
    notes = []
    for clip in (plan.source, plan.target):
        units = planner.step(Node(Clip(clip.url), "ingest")).units or []
        facts: dict[str, Any] = dict(units[0].manifest.facts) if units and units[0].manifest else {}
        notes += [f"{clip.name}: {note}" for note in facts.get("stream", {}).get("notes", [])]
        damaged = facts.get("damaged_frames", [])
        if damaged:
            notes.append(f"{clip.name}: {len(damaged)} frames cannot be decoded and repeat the one before.")
    return notes


def _job_notes(planner: Planner, plan: JobPlan) -> list[str]:
    """What retargeting and the renderer, chunk by chunk, did otherwise than asked for."""
    units = [unit for stage in ("retarget", "render") for unit in planner.step(Node(plan.job.id, stage)).units or []]
    return [note for unit in units if unit.manifest for note in cast(list[str], unit.manifest.facts.get("notes", []))]


def _assemble_notes(video: Artifact, told: list[str]) -> list[str]:
    """What assembling left out, shifted or put into another container; ingest's notes among them are told, with their clip.

    Read from the artifact rather than kept in the job's record: records of earlier versions lack them.
    """
    notes = cast(list[str], video.facts.get("notes", []))
    return [note for note in notes if not any(other.endswith(f": {note}") for other in told)]


def _commit_record(planner: Planner, plan: JobPlan, manifests: dict[str, Manifest], notes: list[str]) -> Manifest:
    assert plan.record_key is not None
    recipe = planner.job_recipe(plan.job.id)
    with planner.store.begin(JOB_RECORD, plan.record_key, recipe=recipe, stage_version=JOB_RECORD_VERSION) as writer:
        writer.facts.update({name: manifest.key for name, manifest in manifests.items()}, notes=notes)
        return writer.commit()


def _place(planner: Planner, plan: JobPlan, video: Artifact, name: str, address: str, record: dict[str, Any]) -> list[str]:
    """Write the video and its provenance, unless this very video is there already; returns a note where another job's was."""
    try:
        filesystem, path = sources.file_system(address, planner.settings.storage_options_of(address))
        if _is_there(filesystem, path, record):
            return []
        if (what := _input_lost(planner, plan, address)) is not None:
            remedy = f"{ELSEWHERE} The result is kept in the store."
            raise StoreError("output_failed", f"The result {address} would replace {what}.", remedy)
        beside = path + PROVENANCE_SUFFIX
        before = _written(filesystem, beside) or {}
        folder = posixpath.dirname(path)
        filesystem.makedirs(folder, exist_ok=True)
        _remove_left_over(filesystem, folder)
        with _finished(planner, plan, video, name, record) as local:
            with _appearing(filesystem, path) as partial:
                filesystem.put_file(str(local), partial)
                # Gone before its video is: a run killed in between leaves no video under another one's rights.
                if filesystem.exists(beside):
                    filesystem.rm_file(beside)
            # Of what was written, not of what is there by now: two runs that deliver one name must not vouch for each other.
            content = {**record, "bytes": local.stat().st_size}
        text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        with _appearing(filesystem, beside) as partial:
            filesystem.pipe_file(partial, text.encode())
        if "source_digest" not in before or all(
            before.get(name) == record.get(name) for name in ("source_digest", "target_digest")
        ):
            return []
        pair = f", {before['source_name']} on {before.get('target_name')}" if "source_name" in before else ""
        return [f"{posixpath.basename(path)} took the place of another result{pair}."]
    except HeadswapError:
        raise
    except Exception as error:
        raise StoreError(
            "output_failed",
            f"The result {address} could not be written: {type(error).__name__}: {error}.",
            "Check that the place given by --out exists, may be written, and has space; the result is kept in the store.",
            retryable=True,
        ) from error


def _written(filesystem: Any, path: str) -> dict[str, Any] | None:
    """The provenance record at ``path``; None where there is none, or one that was cut off or is somebody else's."""
    try:
        content = json.loads(filesystem.cat_file(path))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@contextlib.contextmanager
def _finished(planner: Planner, plan: JobPlan, video: Artifact, name: str, record: dict[str, Any]) -> Iterator[Path]:
    """The local file to deliver: the artifact's own, or a signed copy of it that lasts as long as the context."""
    provenance = planner.settings.provenance
    if provenance.certificate is None or provenance.key is None:
        yield video.file(name)
        return
    from stages.video.provenance import sign  # loads a native library that few runs need

    # Jobs with equal videos are signed at the same time, each for its own record.
    signed = planner.store.scratch / f"signed-{uuid.uuid4().hex}-{name}"
    try:
        with sources.open_medium(plan.target.url, planner.store, planner.settings.scratch_bytes) as target:
            sign(
                video.file(name),
                signed,
                certificate=Path(provenance.certificate),
                key=Path(provenance.key),
                target=target,
                facts=record,
            )
        yield signed
    finally:
        signed.unlink(missing_ok=True)


@contextlib.contextmanager
def _appearing(filesystem: Any, path: str) -> Iterator[str]:
    """A name to write to that takes the place of ``path`` when all is written, and is gone where writing failed.

    A reader of the folder never sees half a file, nor does another run that delivers the same name write into it.
    """
    partial = f"{posixpath.dirname(path)}/.headswap-{uuid.uuid4().hex}.part"
    try:
        yield partial
        filesystem.mv(partial, path)
    except BaseException:
        with contextlib.suppress(Exception):  # the place may be gone altogether: the first error is the one to tell
            filesystem.rm_file(partial)
        raise


@functools.cache
def _remove_left_over(filesystem: Any, folder: str) -> None:
    """Remove what killed runs were writing into a folder of results: once a process, because its listing may be long."""
    # Not every kind of place can say how old a file is, and another run may have removed it: nothing depends on it.
    with contextlib.suppress(Exception):
        for path in filesystem.ls(folder, detail=False):
            if _PARTIAL.fullmatch(posixpath.basename(path)):
                age = datetime.datetime.now(datetime.UTC) - filesystem.modified(path)
                if age > LEFT_OVER:
                    filesystem.rm_file(path)
