"""Keeping a store small and sound: retention, garbage, checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape

from flows import pipeline
from flows.planning import JOB_RECORD
from flows.progress import size
from schemas.names import counted, suggestion
from schemas.problems import UsageError
from storage.artifacts import Manifest
from storage.maintenance import fsck, gc, usage
from storage.store import ArtifactStore

RETENTIONS = ("all", "resume", "results")
OF_FINISHED_JOBS = ("render", "encode")
"""Stages whose artifacts only their own job needs: generated crops and segments, most of the bytes."""
KEPT_RESULTS = (*pipeline.FINAL, JOB_RECORD)


def collect_garbage(
    store: ArtifactStore,
    *,
    retention: str = "all",
    at_once: Collection[str] = (),
    dry_run: bool = False,
    minimum_age_hours: float = 24.0,
) -> dict[str, Any]:
    """Remove what no manifest reaches, and what the retention gives up.

    ``resume`` gives up what only a finished job needed (generated crops and segments: most of the bytes); ``results`` all but
    the finished videos and their measures. A finished job stays known as finished with any of them. What is younger than
    ``minimum_age_hours`` stays, because a run may be in need of it, except for the attempt folders ``at_once``.
    """
    if retention not in RETENTIONS:
        raise UsageError([f"There is no retention {retention!r}."], f"Use one of {', '.join(RETENTIONS)}.")
    dropped = {"all": lambda: (), "resume": lambda: _of_finished_jobs(store), "results": lambda: _all_but_results}[retention]()
    report = gc(
        store,
        drop=dropped,  # type: ignore[arg-type]
        at_once=at_once,
        dry_run=dry_run,
        minimum_age=minimum_age_hours * 3600,
    )
    left = usage(store)
    return {
        "store": store.url,
        "dry_run": dry_run,
        "withdrawn": report.withdrawn,
        "orphans": report.attempts,
        "temporary": report.temporary,
        "scratch": report.scratch,
        "too_young": report.young,
        "minimum_age_hours": minimum_age_hours,
        "freed_bytes": report.bytes,
        "left": {name: {"artifacts": stage.artifacts, "bytes": stage.bytes} for name, stage in left.items()},
    }


def _all_but_results(manifest: Manifest) -> bool:
    return manifest.stage not in KEPT_RESULTS


def _of_finished_jobs(store: ArtifactStore) -> Callable[[Manifest], bool]:
    """Crops and segments that went into a finished video, found by the digests in recipes."""

    def inputs(stage: str, of: str, among: set[str] | None) -> set[str]:
        items = [(stage, key) for key in store.committed(stage)]
        found: set[str] = set()
        for manifest in store.lookup_many(items).values():
            if among is None or manifest.digest in among:
                recorded = manifest.recipe.get("inputs", {})
                assert isinstance(recorded, dict)
                for name, digests in recorded.items():
                    if name.startswith(of):
                        found.update(digests)
        return found

    segments = inputs("assemble", "encode:", None)
    crops = inputs("encode", "render:", segments)
    done = {"encode": segments, "render": crops}
    return lambda manifest: manifest.digest in done.get(manifest.stage, ())


def check_store(store: ArtifactStore, *, repair: bool = False, stages: Iterable[str] | None = None) -> dict[str, Any]:
    """Hash everything again.

    Raises:
        UsageError: there is no stage of a name.
    """
    known = (*pipeline.STAGES, JOB_RECORD)
    if unknown := [name for name in stages or () if name not in known]:
        raise UsageError([f"--stage {name}: there is no such stage; {suggestion(name, known)}" for name in unknown])
    report = fsck(store, repair=repair, stages=stages)
    return {
        "store": store.url,
        "checked": report.checked,
        "bytes": report.bytes,
        "damaged": [{"kind": item.kind, "stage": item.stage, "key": item.key, "path": item.path} for item in report.damaged],
        "withdrawn": report.withdrawn,
        "orphans": report.orphans,
    }


def print_garbage(document: dict[str, Any], console: Console) -> None:
    verb = "would free" if document["dry_run"] else "freed"
    console.print(
        f"{verb} {size(document['freed_bytes'])}: {counted(len(document['withdrawn']), 'artifact')} given up, "
        f"{len(document['orphans'])} orphaned attempts, {len(document['temporary'])} temporary files, "
        f"{len(document['scratch'])} scratch folders"
    )
    if not document["freed_bytes"]:
        console.print(
            "--retention resume gives up more of finished jobs, --minimum-age-hours 0 what is new (docs/operations.md, Space)"
        )
    if document["too_young"]:
        console.print(
            f"{document['too_young']} artifacts stay because they are younger than {document['minimum_age_hours']:g} hours; "
            "where no run is going on, --minimum-age-hours 0 gives them up too"
        )
    if document["left"]:
        console.print("in the store now:" if document["dry_run"] else "left in the store:")
    for name, stage in document["left"].items():
        console.print(f"  {name:10} {stage['artifacts']:6} artifacts  {size(stage['bytes'])}", highlight=False)


def print_check(document: dict[str, Any], console: Console) -> None:
    console.print(
        f"{counted(document['checked'], 'artifact')}, {size(document['bytes'])} hashed: {len(document['damaged'])} damaged"
    )
    for item in document["damaged"]:
        console.print(f"  [red]{item['kind']}[/] {item['stage']}/{escape(item['key'])} {escape(item['path'])}", highlight=False)
    if document["withdrawn"]:
        console.print(f"{len(document['withdrawn'])} manifests were withdrawn; the next run computes these artifacts again")
    elif document["damaged"]:
        console.print("headswap fsck --repair withdraws them, so that the next run computes them again")
    if document["orphans"]:
        console.print(f"{len(document['orphans'])} attempts without a manifest (harmless; headswap gc removes them)")
