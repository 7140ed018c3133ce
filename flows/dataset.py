"""`headswap dataset prepare`: clips to shards of training data, in any place, resumable shard by shard. Knows no Prefect.

The shards follow from the clips' artifacts and the parameters alone: killed and started again, with other workers or on another
machine, the same bytes come out. A shard counts once its description lies beside it; ``dataset.json`` is written last.
"""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from flows import pipeline
from flows.clip_stages import ClipRun
from flows.dataset_frames import Piece, frame_facts, piece_frames
from flows.dataset_place import Place, failing, is_of_shard
from flows.dataset_plan import SPLITS, PreparedClip, Shard, excluded_runs, frames_in, plan_shards, without_frames
from flows.planning import Clip, Planner
from flows.problems import failure_of
from flows.workers import Limits, WorkerPool
from schemas.configuration import Settings
from schemas.dataset import DECIDED_BY, DatasetClip, DatasetParameters, split_of
from schemas.names import counted, named
from schemas.places import without_credentials
from schemas.problems import HeadswapError, MediaError
from stages.networks.registry import ModelRegistry
from stages.processes import process_pool
from stages.training.selection import REASONS, exclusions, segments
from stages.training.shard_format import (
    MANIFEST,
    SEGMENTS,
    SEGMENTS_SCHEMA,
    VERSION,
    ShardFormat,
    segments_of,
    suffix_of,
    write_shard,
)
from storage import sources
from storage.failures import FailureLog
from storage.keys import digest_file
from storage.store import ArtifactStore

_SHARDS = "shards"
"""Under which failures of the writing are recorded, beside those of stages."""

_LASTING = ("bad_timestamps",)
"""What stages may have passed over and is wrong with a medium itself. All else may be so for the moment: it is being copied."""

READERS = 16
"""Descriptions of shards that are read at a time."""

Tell = Callable[[int, int], None]


def prepare_dataset(
    clips: Sequence[DatasetClip],
    store: ArtifactStore,
    settings: Settings,
    out: Place,
    *,
    kind: ShardFormat = "webdataset",
    parameters: DatasetParameters | None = None,
    registry: ModelRegistry | None = None,
    retry_failed: bool = False,
    tell: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run what is missing of the clips' stages, and write the shards that are missing.

    Args:
        clips: from ``schemas.dataset.read_clips``. out: where the shards go. kind: ``webdataset`` or ``parquet``.
        retry_failed: whether clips that failed for good before are tried again.
        tell: gets what is counted ("clip", "shard"), how many are done and how many there are. note: gets remarks.

    Returns:
        What ``dataset.json`` holds, with ``written``: how many shards were written now.

    Raises:
        HeadswapError: ``no_usable_frames``; ``dataset_changed``, another run writes to the same place; a place that cannot be
            written.
    """
    out.names()  # a place that does not serve is told now, not after hours of work
    parameters = parameters or DatasetParameters()
    tell = tell or (lambda what, done, of: None)
    note = note or (lambda text: None)
    prepared = _prepare_clips(clips, store, settings, parameters, registry, retry_failed, partial(tell, "clip"), note)
    job, written = _Job(prepared, store, settings, out, kind, parameters), set[str]()
    while True:
        shards = plan_shards(prepared, kind, parameters)
        if not shards:
            raise HeadswapError(
                "no_usable_frames",
                f"None of the {len(clips)} clips has a usable run of frames: {_told(prepared, parameters)}.",
                "Look at clips with `headswap inspect`, or loosen the limits (docs/dataset.md).",
            )
        now, unreadable = _write_missing(shards, job, partial(tell, "shard"))
        written |= now
        if not unreadable:
            for remark in without_frames(prepared):
                note(remark)
            return {**_finish(shards, job), "written": sum(shard.recipe in written for shard in shards)}
        for found in unreadable:  # and goes on without them
            _give_up(prepared[found.number], found.reason, store)


# ---- clips


def _prepare_clips(
    clips: Sequence[DatasetClip],
    store: ArtifactStore,
    settings: Settings,
    parameters: DatasetParameters,
    registry: ModelRegistry | None,
    retry_failed: bool,
    tell: Tell,
    note: Callable[[str], None],
) -> list[PreparedClip]:
    planner = Planner([], store, settings, registry or ModelRegistry(settings.models))
    limits = Limits(seconds=settings.time_limits.of, memory_bytes=settings.worker_memory)
    meant = [Clip(clip.clip, clip.subject or settings.stages.track.subject) for clip in clips]
    with WorkerPool(settings.workers, limits=limits, logs=store.scratch) as pool:
        found = ClipRun(planner, pool, note=note, retry_failed=retry_failed).run(meant, tell)
    prepared, failures = [], FailureLog(store)
    found_late = failures.of_stage(_SHARDS)
    for number, (clip, result) in enumerate(zip(clips, found, strict=True)):
        one = PreparedClip(clip, number, split_of(clip.identity, parameters.validation))
        prepared.append(one)
        if isinstance(result, HeadswapError):
            one.fail(result)
            continue
        try:
            one.media = sources.digest_of(clip.clip, store, limit_bytes=settings.scratch_bytes)
        except MediaError as error:  # gone since its stages ran
            one.fail(error)
            continue
        if (standing := found_late.get(one.media)) is not None:
            if not retry_failed:
                one.fail(HeadswapError(standing.code, standing.message, standing.remedy))
                continue
            failures.clear(_SHARDS, one.media)
        one.manifests = result
        facts = frame_facts({stage: [store.artifact(found) for found in some] for stage, some in result.items()})
        codes = exclusions(facts, parameters)
        one.frames, one.excluded = len(codes), excluded_runs(codes)
        found_runs = enumerate(segments(codes, facts.shots, parameters))
        one.pieces = tuple(Piece(clip, number, segment, frames) for segment, frames in found_runs)
    return prepared


def _told(prepared: Sequence[PreparedClip], parameters: DatasetParameters) -> str:
    excluded = [{code: frames_in(runs) for code, runs in one.excluded.items()} for one in prepared]
    told = _left_out(excluded, parameters.model_dump(mode="json"))
    told += [f"{one.clip.id}: {one.failure.message}" for one in prepared if one.failure is not None]
    return "; ".join(told) or "they have no frames"


def _left_out(excluded: Sequence[Mapping[str, int]], parameters: Mapping[str, Any]) -> list[str]:
    """How many frames of how many clips are left out, why, and by which parameter; most frames first.

    Args:
        excluded: of each clip, how many frames by reason. parameters: of the data set, by name.
    """
    told = []
    totals = {code: [of_clip[code] for of_clip in excluded if of_clip.get(code)] for code in REASONS}
    for code, frames in sorted(totals.items(), key=lambda item: -sum(item[1])):
        if frames:
            clips = counted(len(frames), "clip")
            decides = DECIDED_BY.get(code)
            by = f" (parameter {decides}={parameters[decides]})" if decides else ""
            told.append(f"{sum(frames)} frames of {clips}, {REASONS[code]}{by}")
    return told


# ---- shards


@dataclass
class _Job:
    """What writing shards needs besides the plan; travels to worker processes."""

    prepared: list[PreparedClip]
    store: ArtifactStore
    settings: Settings
    out: Place
    kind: ShardFormat
    parameters: DatasetParameters


@dataclass(frozen=True)
class _Unreadable:
    """A clip, by its number, that cannot be read now that shards are written: it is gone since its stages ran, or these did not
    mind what is wrong with it."""

    number: int
    reason: MediaError


class _UnreadableError(Exception):
    """Carries an ``_Unreadable`` out of the writing of a shard."""

    def __init__(self, found: _Unreadable) -> None:
        super().__init__(found)
        self.found = found


def _give_up(one: PreparedClip, reason: MediaError, store: ArtifactStore) -> None:
    """Leave a clip out; what is wrong with it for good is remembered, or the next run would begin its shards anew."""
    one.fail(reason)
    if reason.code in _LASTING:
        failure = failure_of(reason, stage=_SHARDS, key=one.media, owner=one.clip.id)
        FailureLog(store).record(_SHARDS, one.media, failure)


def _write_missing(shards: Sequence[Shard], job: _Job, tell: Tell) -> tuple[set[str], list[_Unreadable]]:
    """Returns recipes of the shards that were written, and clips because of which others were not."""
    present = job.out.names()
    system, root = job.out.connect()
    planned = {name for shard in shards for name in _names(shard, job.kind)}
    missing = [shard for shard, told in zip(shards, _descriptions(shards, job, present), strict=True) if told is None]
    stale = [name for name in present if is_of_shard(name) and name not in planned]
    # Descriptions go first: whoever is stopped in the midst of this leaves nothing that passes for complete. Indexes go last.
    stale += [f"{shard.name}.json" for shard in missing]
    if missing or stale:
        stale.append(MANIFEST)
    with failing("removing what is out of date in the data set", job.out.url):
        for name in sorted(stale, key=lambda name: (not name.endswith(".json"), name.endswith(".index.parquet"), name)):
            if name in present:
                with suppress(FileNotFoundError):  # another run was faster
                    system.rm_file(f"{root}/{name}")
    done = len(shards) - len(missing)
    tell(done, len(shards))
    written, unreadable = set(), {}
    for found in _attempted(missing, job):
        if isinstance(found, _Unreadable):
            unreadable[found.number] = found
            continue
        written.add(found)
        tell(done + len(written), len(shards))
    return written, list(unreadable.values())


def _attempted(missing: Sequence[Shard], job: _Job) -> Iterator[str | _Unreadable]:
    given = [(shard, _only(job, shard)) for shard in missing]
    workers = min(job.settings.workers, len(missing))
    if workers <= 1 or job.store.url.startswith("memory:"):
        yield from map(_attempt, given)
        return
    with process_pool(workers) as pool:
        yield from pool.each(_attempt, given)


def _attempt(given: tuple[Shard, _Job]) -> str | _Unreadable:
    """The recipe of the shard, which is written now, or why it is not."""
    try:
        write_one(*given)
    except _UnreadableError as error:
        return error.found
    return given[0].recipe


def _only(job: _Job, shard: Shard) -> _Job:
    """The job with the clips of one shard: what has to travel."""
    numbers = {piece.number for piece in shard.pieces}
    some = [one for one in job.prepared if one.number in numbers]
    return _Job(some, job.store, job.settings, job.out, job.kind, job.parameters)


def _names(shard: Shard, kind: ShardFormat) -> tuple[str, str, str]:
    """Files of a shard: its description, itself, its index."""
    return f"{shard.name}.json", f"{shard.name}{suffix_of(kind)}", f"{shard.name}.index.parquet"


def _descriptions(shards: Sequence[Shard], job: _Job, present: set[str]) -> list[dict[str, Any] | None]:
    """What is told of every shard, nothing of one that is not complete or was made by another recipe."""
    system, root = job.out.connect()

    def read(shard: Shard) -> dict[str, Any] | None:
        names = _names(shard, job.kind)
        if any(name not in present for name in names):
            return None
        try:
            told: dict[str, Any] = json.loads(system.cat_file(f"{root}/{names[0]}"))
            whole = int(system.info(f"{root}/{names[1]}")["size"]) == told["bytes"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return told if whole and told.get("recipe") == shard.recipe else None

    with failing("reading the data set", job.out.url), ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(read, shards))


def write_one(shard: Shard, job: _Job) -> None:
    """Write a shard, its index and, last, its description."""
    scratch = job.store.scratch / "shards" / f"{shard.name}-{os.getpid()}-{secrets.token_hex(4)}"
    scratch.mkdir(parents=True)
    file, index = scratch / f"{shard.name}{suffix_of(job.kind)}", scratch / f"{shard.name}.index.parquet"
    parameters = job.parameters
    try:
        records = (record for piece in shard.pieces for record in _records(piece, job))
        table = write_shard(file, records, job.kind, parameters.pictures, parameters.quality)
        pq.write_table(table, index, compression="zstd")
        clips = {piece.clip.id: piece.clip for piece in shard.pieces}
        told = {
            "name": file.name,
            "recipe": shard.recipe,
            "frames": table.num_rows,
            "segments": segments_of(file.name, table),
            "bytes": file.stat().st_size,
            "digest": digest_file(file),
            "index_digest": digest_file(index),
            "clips": [{"id": clip.id, **_rights(clip)} for clip in clips.values()],
        }
        system, root = job.out.connect()
        with failing("writing a shard", job.out.url):
            for local in (index, file):
                system.put_file(str(local), f"{root}/{local.name}")
            system.pipe_file(f"{root}/{shard.name}.json", _json(told))
    finally:
        for path in scratch.iterdir():
            path.unlink()
        scratch.rmdir()


def _records(piece: Piece, job: _Job) -> Iterator[Any]:
    (one,) = [one for one in job.prepared if one.number == piece.number]
    artifacts = {stage: [job.store.artifact(found) for found in some] for stage, some in one.manifests.items()}
    try:
        _require_unchanged(one, job)
        try:
            with sources.open_medium(piece.clip.clip, job.store, job.settings.scratch_bytes) as media:
                yield from piece_frames(piece, artifacts, media, job.parameters)
        finally:  # also where it cannot be read: what is wrong with another file is not held against this one
            _require_unchanged(one, job)
    except MediaError as error:
        raise _UnreadableError(_Unreadable(piece.number, error)) from error


def _require_unchanged(one: PreparedClip, job: _Job) -> None:
    """A file that was replaced since the plan must not get into shards, nor into their failures, under the old one's digest."""
    if sources.digest_of(one.clip.clip, job.store, limit_bytes=job.settings.scratch_bytes) != one.media:
        raise MediaError(
            "file_changed",
            f"{one.clip.clip} was changed while shards were written.",
            "Give the same command again when the file is complete.",
            retryable=True,
        )


# ---- what is told about it


def _rights(clip: DatasetClip) -> dict[str, str]:
    return {"rights": clip.rights, "rights_said_of": clip.rights_said_of, "person": clip.identity}


def _finish(shards: Sequence[Shard], job: _Job) -> dict[str, Any]:
    """Write what is told about all shards together; returns what ``dataset.json`` holds."""
    system, root = job.out.connect()
    told = {}
    for shard, found in zip(shards, _descriptions(shards, job, job.out.names()), strict=True):
        if found is None:
            raise HeadswapError(
                "dataset_changed",
                f"{shard.name} in {job.out.url} is not what was written there: another run writes to the same place.",
                "Wait until the other run has ended and repeat the command, or give --out another folder.",
            )
        told[shard.name] = found
    manifest = _manifest(shards, job, told)
    rows = [segment for shard in shards for segment in told[shard.name]["segments"]]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SEGMENTS_SCHEMA), table, compression="zstd")
    with failing("writing what is told of the data set", job.out.url):
        system.pipe_file(f"{root}/{SEGMENTS}", table.getvalue())
        system.pipe_file(f"{root}/{MANIFEST}", _json(manifest))
    return manifest


def _manifest(shards: Sequence[Shard], job: _Job, told: Mapping[str, Any]) -> dict[str, Any]:
    splits = {}
    for split in SPLITS:
        mine = [one for one in job.prepared if one.split == split and one.pieces]
        found = [told[shard.name] for shard in shards if shard.name.startswith(f"{split}-")]
        splits[split] = {
            "frames": sum(shard["frames"] for shard in found),
            "segments": sum(len(shard["segments"]) for shard in found),
            "clips": len(mine),
            "people": len({one.clip.identity for one in mine}),
            "bytes": sum(shard["bytes"] for shard in found),
            "shards": [{name: shard[name] for name in ("name", "frames", "bytes", "digest")} for shard in found],
        }
    return {
        "format_version": VERSION,
        "format": job.kind,
        "size": job.parameters.size,
        "parameters": job.parameters.model_dump(mode="json"),
        "stages": {name: pipeline.stage(name).version for name in pipeline.STAGES if pipeline.stage(name).scope.of_clip},
        "splits": splits,
        "clips": [_clip_told(one) for one in job.prepared],
        "reasons": REASONS,
    }


def _clip_told(one: PreparedClip) -> dict[str, Any]:
    told: dict[str, Any] = {"id": one.clip.id, "file": Clip(one.clip.clip).name, **_rights(one.clip), "split": one.split}
    if one.failure is not None:
        return {**told, "failure": {"code": one.failure.code, "message": one.failure.message, "remedy": one.failure.remedy}}
    return {
        **told,
        "media": one.media,
        "frames": one.frames,
        "used": sum(len(piece.frames) for piece in one.pieces),
        "excluded": {code: {"frames": frames_in(runs), "runs": runs} for code, runs in sorted(one.excluded.items())},
    }


def print_dataset(told: Mapping[str, Any], out: str, console: Console) -> None:
    """What became of the clips, on a terminal."""
    for split, found in told["splits"].items():
        frames, clips, shards = counted(found["frames"], "frame"), counted(found["clips"], "clip"), len(found["shards"])
        people = counted(found["people"], "person", "people")
        size = f"{found['bytes'] / 2**20:.1f} MiB"
        console.print(f"{split}: {frames} of {clips} and {people} in {counted(shards, 'shard')}, {size}")
    excluded = [{code: found["frames"] for code, found in clip.get("excluded", {}).items()} for clip in told["clips"]]
    for line in _left_out(excluded, told["parameters"]):
        console.print(f"left out: {line}", markup=False)
    unused = [clip["id"] for clip in told["clips"] if "failure" not in clip and not clip["used"]]
    if unused:
        console.print(f"no usable frames in {len(unused)} of {len(told['clips'])} clips: {named(unused)}", markup=False)
    swapped = [clip["id"] for clip in told["clips"] if clip["rights_said_of"] == "source"]
    if swapped:
        console.print(f"note: the rights of {len(swapped)} targets were given for their sources; see that they hold for both")
    for clip in told["clips"]:
        if "failure" in clip:
            console.print(f"{clip['id']}: {clip['failure']['message']} {clip['failure']['remedy']}", markup=False)
    console.print(f"{without_credentials(out)}: {told['written']} shards written now", markup=False)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
