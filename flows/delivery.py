"""The end of a job: its record is committed, its video put where it was asked for, with a provenance file beside it."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path
from typing import Any, cast

import fsspec

from flows import pipeline
from flows.events import JobOutcome
from flows.planning import JOB_RECORD, JOB_RECORD_VERSION, Clip, JobPlan, Node, Planner
from schemas.problems import HeadswapError, StoreError
from storage import sources
from storage.artifacts import Artifact, Manifest

PROVENANCE_SUFFIX = ".provenance.json"


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
    name = video_name(video)
    wanted = plan.job.output or f"{plan.job.id}.{name.rsplit('.', 1)[-1]}"
    stem, dot, suffix = wanted.rpartition(".")
    actual = name.rsplit(".", 1)[-1]
    notes: list[str] = []
    if dot and suffix.lower() != actual:
        wanted = f"{stem}.{actual}"
        notes.append(f"The sound does not fit into .{suffix}: the result is a .{actual} file.")
    address = posixpath.join(output_url.rstrip("/"), wanted)
    record = {
        "video": wanted,
        "artifact": manifests["assemble"].digest,
        "signed": planner.settings.provenance.certificate is not None,
        **dict(cast(dict[str, Any], video.facts.get("provenance", {}))),
    }
    _place(planner, plan, video, name, address, record)
    facts: dict[str, Any] = dict(manifests["measure"].facts)
    verdict: dict[str, Any] = facts.get("verdict", {})
    counts: dict[str, Any] = verdict.get("frames", {})
    cached = plan.record is not None
    if plan.record is None:
        told = [*_media_notes(planner, plan), *_job_notes(planner, plan), *facts.get("notes", [])]
        plan.record = _commit_record(planner, plan, manifests, told)
    notes += cast(list[str], plan.record.facts.get("notes", []))
    return JobOutcome(
        id=plan.job.id,
        status="cached" if cached else "done",
        output=address,
        grade=verdict.get("grade"),
        frames=counts.get("total"),
        generated=counts.get("generated"),
        notes=notes,
    )


def video_name(video: Artifact) -> str:
    """Name of the one video file of an ``assemble`` artifact; its suffix says the container."""
    (name,) = [entry.path for entry in video.manifest.files if entry.path.startswith("video.")]
    return name


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


def _commit_record(planner: Planner, plan: JobPlan, manifests: dict[str, Manifest], notes: list[str]) -> Manifest:
    assert plan.record_key is not None
    recipe = planner.job_recipe(plan.job.id)
    with planner.store.begin(JOB_RECORD, plan.record_key, recipe=recipe, stage_version=JOB_RECORD_VERSION) as writer:
        writer.facts.update({name: manifest.key for name, manifest in manifests.items()}, notes=notes)
        return writer.commit()


def _place(planner: Planner, plan: JobPlan, video: Artifact, name: str, address: str, record: dict[str, Any]) -> None:
    """Write the video and its provenance, unless this very video is there already."""
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
        beside = path + PROVENANCE_SUFFIX
        if filesystem.exists(beside) and filesystem.exists(path):
            written = json.loads(filesystem.cat_file(beside))
            if written.pop("bytes", None) == filesystem.size(path) and written == record:
                return
        filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
        local = video.file(name)
        signed: Path | None = None
        provenance = planner.settings.provenance
        if provenance.certificate is not None and provenance.key is not None:
            from stages.video.provenance import sign  # loads a native library that few runs need

            signed = planner.store.scratch / f"signed-{video.digest}-{name}"
            with sources.fetch(plan.target.url, planner.store.scratch, limit_bytes=planner.settings.scratch_bytes) as target:
                sign(
                    local,
                    signed,
                    certificate=Path(provenance.certificate),
                    key=Path(provenance.key),
                    target=target,
                    facts=record,
                )
            local = signed
        # Under another name first: a reader of the folder never sees half a video.
        temporary = f"{posixpath.dirname(path)}/.{posixpath.basename(path)}.part"
        filesystem.put_file(str(local), temporary)
        filesystem.mv(temporary, path)
        content = json.dumps({**record, "bytes": filesystem.size(path)}, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        filesystem.pipe_file(beside, content.encode())
        if signed is not None:
            signed.unlink()
    except HeadswapError:
        raise
    except Exception as error:
        raise StoreError(
            "output_failed",
            f"The result {address} could not be written: {type(error).__name__}: {error}.",
            "Check that the place given by --out exists, may be written, and has space; the result is kept in the store.",
            retryable=True,
        ) from error
