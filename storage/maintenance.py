"""Keeping a store in order: removing what nothing reaches, finding what is damaged, counting what is there."""

from __future__ import annotations

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

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass
class _Attempt:
    bytes: int
    modified: float
    paths: list[str]


def gc(store: ArtifactStore, *, drop: Dropped = (), dry_run: bool = False, minimum_age: float = HOUR) -> GcReport:
    """Remove what no manifest reaches: objects of interrupted or beaten attempts, temporary files, scratch of dead processes.

    Safe beside running work: what is younger than ``minimum_age`` is left alone, because it may be on its way to its
    manifest, and each attempt is checked against its manifest once more just before it is removed.

    Args:
        drop: retention: stages whose artifacts are no longer wanted, or a function of a manifest that says so. Their
            manifests are withdrawn first, so that at no moment a manifest points to nothing.
        minimum_age: seconds, by the store's clock.
    """
    report = GcReport(dry_run)
    now = time.time()
    for stage in store.stages():
        # Objects are listed before manifests: an attempt published in between is then seen as reached.
        attempts = _attempts(store, stage)
        manifests = _manifests(store, stage)
        reached = {manifest.folder for manifest in manifests.values()}
        for key, manifest in sorted(manifests.items()):
            held = attempts.get(manifest.folder)
            if _is_dropped(manifest, drop) and (held is None or _age(store, manifest.folder, held, now) >= minimum_age):
                report.withdrawn.append(f"{stage}/{key}")
                reached.discard(manifest.folder)
                if not dry_run:
                    store.withdraw(stage, key)
        for folder, attempt in sorted(attempts.items()):
            if folder in reached or _age(store, folder, attempt, now) < minimum_age:
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


def _manifests(store: ArtifactStore, stage: str) -> dict[str, Manifest]:
    found = store.lookup_many((stage, key) for key in store.committed(stage))
    return {key: manifest for (_, key), manifest in found.items()}


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


Kind = Literal["manifest_unreadable", "manifest_misplaced", "file_missing", "file_size", "file_content", "digest_wrong"]


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
            # Manifests are listed before objects: what a manifest names was there before it, so nothing seems missing.
            manifests = _manifests(store, stage)
            attempts = _attempts(store, stage)
            reached = {manifest.folder for manifest in manifests.values()}
            unreadable = sorted(store.committed(stage) - set(manifests))
            damaged = [_unreadable(stage, key) for key in unreadable if store.lookup(stage, key) is None]
            checks = pool.map(partial(_check, store, stage, attempts), sorted(manifests.items()))
            for found, hashed in checks:
                damaged.extend(found)
                report.checked += 1
                report.bytes += hashed
            report.damaged.extend(damaged)
            report.orphans.extend(sorted(set(attempts) - reached))
            if repair:
                report.withdrawn.extend(_withdraw(store, stage, damaged, manifests))
    return report


def _unreadable(stage: str, key: str) -> Damage:
    return Damage("manifest_unreadable", stage, key, f"commits/{stage}/{key}.json")


def _check(
    store: ArtifactStore, stage: str, attempts: dict[str, _Attempt], item: tuple[str, Manifest]
) -> tuple[list[Damage], int]:
    """What is wrong with one artifact, and the bytes read to find out."""
    key, manifest = item
    place = f"commits/{stage}/{key}.json"
    if (manifest.stage, manifest.key) != (stage, key):
        return [Damage("manifest_misplaced", stage, key, place)], 0
    found = []
    if content_digest(manifest.files, manifest.facts) != manifest.digest:
        found.append(Damage("digest_wrong", stage, key, place))
    held = attempts.get(manifest.folder)
    present = set(held.paths) if held is not None else set()
    hashed = 0
    for entry in manifest.stored:
        path = f"{manifest.folder}/{entry.path}"
        kind: Kind | None = "file_missing" if path not in present else None
        if kind is None:
            kind = _compare(store, path, entry)
            hashed += entry.bytes
        if kind is not None:
            found.append(Damage(kind, stage, key, path))
    return found, hashed


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
    except OSError:
        return "file_content"  # a disk that cannot read a block back (EIO)
    finally:
        copy.unlink(missing_ok=True)


def _withdraw(store: ArtifactStore, stage: str, damaged: list[Damage], manifests: dict[str, Manifest]) -> list[str]:
    done = []
    for key in sorted({damage.key for damage in damaged}):
        # Somebody may have repaired and computed it again since it was read.
        known, current = manifests.get(key), store.lookup(stage, key)
        if current is None or known is None or current.attempt == known.attempt:
            store.withdraw(stage, key)
            done.append(f"{stage}/{key}")
    return done


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
        manifests = _manifests(store, stage)
        reached = {manifest.folder for manifest in manifests.values()}
        orphans = [attempt for folder, attempt in attempts.items() if folder not in reached]
        committed = sum(attempt.bytes for folder, attempt in attempts.items() if folder in reached)
        found[stage] = StageUsage(len(manifests), committed, len(orphans), sum(attempt.bytes for attempt in orphans))
    return found
