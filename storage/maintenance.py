"""Keeping a store in order: removing what nothing reaches, finding what is damaged, counting what is there."""

from __future__ import annotations

import errno
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from storage import scratch as scratch_folders
from storage.backends import Entry
from storage.errors import store_error
from storage.keys import digest_file
from storage.local import TEMPORARY, remove_tree
from storage.manifests import FileEntry, Manifest, content_digest
from storage.store import ArtifactStore

HOUR = 3600.0
FOREIGN_SCRATCH_AGE = 7 * 24 * HOUR
"""Scratch of other machines cannot be asked whether its process lives; it goes when nothing in it changed for a week."""

Dropped = Callable[[Manifest], bool] | Collection[str]


@dataclass
class GcReport:
    """What ``gc`` removed, or would remove."""

    dry_run: bool
    withdrawn: list[str] = field(default_factory=list)  # manifests given up by retention, as stage/key
    attempts: list[str] = field(default_factory=list)  # folders of objects that no manifest reaches
    temporary: list[str] = field(default_factory=list)  # files of interrupted writes
    scratch: list[str] = field(default_factory=list)  # folders of dead processes
    bytes: int = 0  # freed in the store
    young: int = 0  # artifacts that retention would give up, were they older

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass
class _Attempt:
    bytes: int
    modified: float
    paths: list[str]


def gc(
    store: ArtifactStore,
    *,
    drop: Dropped = (),
    at_once: Collection[str] = (),
    dry_run: bool = False,
    minimum_age: float = HOUR,
) -> GcReport:
    """Remove what no manifest reaches: objects of interrupted or beaten attempts, temporary files, scratch of dead processes.

    Safe beside running work: what is younger than ``minimum_age`` is left alone, because it may be on its way to its
    manifest, and each attempt is checked against its manifest once more just before it is removed.

    Args:
        drop: retention: stages whose artifacts are no longer wanted, or a function of a manifest that says so. Their
            manifests are withdrawn first, so that at no moment a manifest points to nothing.
        at_once: folders of attempts to give up whatever their age, because who asks knows that nobody needs them any more.
        minimum_age: seconds, by the store's clock.
    """
    report = GcReport(dry_run)
    now = time.time()
    for stage in store.stages():
        # Objects are listed before manifests: an attempt published in between is then seen as reached.
        attempts = _attempts(store, stage)
        reached = set()
        for key, manifest in store.manifests(stage):
            if manifest is None:
                continue  # damaged; fsck's business
            held = attempts.get(manifest.folder)
            settled = held is None or _age(store, manifest.folder, held, now) >= minimum_age
            wanted = not _is_dropped(manifest, drop)
            report.young += not wanted and not settled and manifest.folder not in at_once
            if manifest.folder in at_once or (settled and not wanted):
                report.withdrawn.append(f"{stage}/{key}")
                if not dry_run:
                    store.withdraw(stage, key)
            else:
                reached.add(manifest.folder)
        for folder, attempt in sorted(attempts.items()):
            if folder in reached or (folder not in at_once and _age(store, folder, attempt, now) < minimum_age):
                continue
            if not dry_run:
                current = store.lookup(stage, folder.split("/")[2])
                if current is not None and current.folder == folder:
                    continue
                store.backend.delete_tree(folder)
            report.attempts.append(folder)
            report.bytes += attempt.bytes
    _remove_temporary(store, report, now, minimum_age)
    _remove_scratch(store, report, now)
    return report


def _is_dropped(manifest: Manifest, drop: Dropped) -> bool:
    return drop(manifest) if callable(drop) else manifest.stage in drop


def _attempts(store: ArtifactStore, stage: str) -> dict[str, _Attempt]:
    """Objects of a stage by attempt folder."""
    found: dict[str, _Attempt] = {}
    for path, entry in store.backend.walk(f"objects/{stage}").items():
        parts = path.split("/")
        if len(parts) < 5 or parts[3].startswith(TEMPORARY):
            continue
        attempt = found.setdefault("/".join(parts[:4]), _Attempt(0, 0.0, []))
        attempt.bytes += entry.bytes
        attempt.modified = max(attempt.modified, entry.modified)
        attempt.paths.append(path)
    return found


def _age(store: ArtifactStore, folder: str, attempt: _Attempt, now: float) -> float:
    modified = attempt.modified
    local = store.backend.local_path(folder)
    if local is not None:
        # A folder arrives by rename with files that may be hours old; the commit sets the folder's own time.
        try:
            modified = max(modified, local.stat().st_mtime)
        except FileNotFoundError:
            return 0.0  # another gc has just removed it
    return now - modified


def _remove_temporary(store: ArtifactStore, report: GcReport, now: float, minimum_age: float) -> None:
    """Files and folders of interrupted local writes; object stores have none."""
    if not store.is_local:
        return
    for top in ("commits", "objects", "failures", "sources", "runs"):
        found: dict[str, list[Entry]] = {}
        for path, entry in store.backend.walk(top).items():
            parts = path.split("/")
            marked = next((index for index, part in enumerate(parts) if part.startswith(TEMPORARY)), None)
            if marked is not None:
                found.setdefault("/".join(parts[: marked + 1]), []).append(entry)
        for path, entries in sorted(found.items()):
            if now - max(entry.modified for entry in entries) < minimum_age:
                continue
            local = store.backend.local_path(path)
            if not report.dry_run and local is not None:
                remove_tree(local) if local.is_dir() else local.unlink(missing_ok=True)
            report.temporary.append(path)
            report.bytes += sum(entry.bytes for entry in entries)


def _remove_scratch(store: ArtifactStore, report: GcReport, now: float) -> None:
    parent = store.scratch.parent
    for folder in sorted(set(scratch_folders.stale(parent)) | set(_abandoned(parent, now))):
        if not report.dry_run:
            remove_tree(folder)
        report.scratch.append(folder.name)


def _abandoned(parent: Path, now: float) -> list[Path]:
    found = []
    for folder in scratch_folders.foreign(parent):
        times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
        if now - max(times) > FOREIGN_SCRATCH_AGE:
            found.append(folder)
    return found


Kind = Literal["manifest_unreadable", "file_missing", "file_size", "file_content", "digest_wrong"]


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was committed. ``path`` is relative to the store's root."""

    kind: Kind
    stage: str
    key: str
    path: str


@dataclass
class FsckReport:
    """What ``fsck`` found."""

    checked: int = 0  # artifacts
    bytes: int = 0  # read and hashed
    damaged: list[Damage] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)  # as stage/key; with repair only
    orphans: list[str] = field(default_factory=list)  # attempt folders that no manifest reaches; harmless, gc removes them

    @property
    def clean(self) -> bool:
        """Whether everything that is committed is whole. Orphans do not count."""
        return not self.damaged

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "clean": self.clean}


def fsck(store: ArtifactStore, *, repair: bool = False, stages: Iterable[str] | None = None, threads: int = 2) -> FsckReport:
    """Hash every committed object again and compare with the manifests.

    Args:
        repair: withdraw the manifests of damaged artifacts, so that the next run computes them again. Nothing else is removed.
        stages: only these; all where None.
        threads: of hashing and, on remote stores, downloading.
    """
    report = FsckReport()
    with ThreadPoolExecutor(threads) as pool:
        for stage in store.stages() if stages is None else list(stages):
            # Keys are listed before objects: what a manifest names was there before it, so nothing seems missing.
            committed = store.committed(stage)
            attempts = _attempts(store, stage)
            damaged: list[Damage] = []
            reached: set[str] = set()
            for key, manifest in store.manifests(stage):
                if key not in committed:
                    continue  # new since then
                if manifest is None:
                    found, hashed, attempt = [_unreadable(stage, key)], 0, None
                else:
                    found, hashed = _check(store, manifest, attempts.get(manifest.folder), pool)
                    attempt = manifest.attempt
                    reached.add(manifest.folder)
                    report.checked += 1
                report.bytes += hashed
                damaged.extend(found)
                if found and repair and _withdraw(store, stage, key, attempt):
                    report.withdrawn.append(f"{stage}/{key}")
            report.damaged.extend(damaged)
            report.orphans.extend(sorted(set(attempts) - reached))
    return report


def _unreadable(stage: str, key: str) -> Damage:
    return Damage("manifest_unreadable", stage, key, f"commits/{stage}/{key}.json")


def _check(store: ArtifactStore, manifest: Manifest, held: _Attempt | None, pool: ThreadPoolExecutor) -> tuple[list[Damage], int]:
    """What is wrong with one artifact, and the bytes read to find out."""
    found = []
    if content_digest(manifest.files, manifest.facts) != manifest.digest:
        found.append(Damage("digest_wrong", manifest.stage, manifest.key, f"commits/{manifest.stage}/{manifest.key}.json"))
    present = set(held.paths) if held is not None else set()
    paths = {f"{manifest.folder}/{entry.path}": entry for entry in manifest.stored}
    readable = [path for path in paths if path in present]
    kinds: dict[str, Kind | None] = dict.fromkeys(paths, "file_missing")
    kinds.update(zip(readable, pool.map(partial(_compare, store), readable, [paths[path] for path in readable]), strict=True))
    found.extend(Damage(kind, manifest.stage, manifest.key, path) for path, kind in kinds.items() if kind is not None)
    return found, sum(paths[path].bytes for path in readable)


def _compare(store: ArtifactStore, path: str, entry: FileEntry) -> Kind | None:
    local = store.backend.local_path(path)
    copy = store.scratch / f"fsck-{secrets.token_hex(8)}"
    try:
        if local is None:
            store.backend.download(path, copy)
        source = local or copy
        if source.stat().st_size != entry.bytes:
            return "file_size"
        return None if digest_file(source) == entry.digest else "file_content"
    except FileNotFoundError:
        return "file_missing"
    except OSError as error:
        if error.errno != errno.EIO:  # a block that the disk cannot give back
            raise store_error(error, f"reading {path}", store.url) from error
        return "file_content"
    finally:
        copy.unlink(missing_ok=True)


def _withdraw(store: ArtifactStore, stage: str, key: str, attempt: str | None) -> bool:
    current = store.lookup(stage, key)
    if current is not None and current.attempt != attempt:
        return False  # somebody has repaired it and computed it again since it was read
    store.withdraw(stage, key)
    return True


@dataclass(frozen=True)
class StageUsage:
    """Space of one stage: what its committed artifacts take, and what else lies there."""

    artifacts: int
    bytes: int
    orphan_attempts: int
    orphan_bytes: int


def usage(store: ArtifactStore) -> dict[str, StageUsage]:
    """Space taken by stage."""
    found = {}
    for stage in store.stages():
        attempts = _attempts(store, stage)
        reached = {manifest.folder for _, manifest in store.manifests(stage) if manifest is not None}
        orphans = [attempt for folder, attempt in attempts.items() if folder not in reached]
        committed = sum(attempt.bytes for folder, attempt in attempts.items() if folder in reached)
        found[stage] = StageUsage(len(reached), committed, len(orphans), sum(attempt.bytes for attempt in orphans))
    return found
