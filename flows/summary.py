"""Runs and plans as documents (for ``--json``) and as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import runs
from flows.catalogue import RunResult
from flows.delivery import require_places
from flows.devices import uses_diffusion
from flows.estimates import Costs, estimate, stated_lengths
from flows.events import JobOutcome
from flows.planning import Planner
from flows.progress import duration, size
from flows.requirements import require_pipelines, require_signable
from schemas.catalogue import Job
from schemas.configuration import Settings
from schemas.names import counted
from schemas.places import without_credentials
from stages.networks.registry import ModelRegistry
from storage.failures import Failure
from storage.store import ArtifactStore


def summary(result: RunResult, store: ArtifactStore) -> dict[str, Any]:
    """What a run came to, for scripts."""
    return {
        "run": result.run_id,
        "store": store.url,
        "out": without_credentials(result.output_url),
        "report": _shown(result.report),
        "done": result.count("done"),
        "cached": result.count("cached"),
        "failed": result.count("failed"),
        "seconds": round(result.seconds, 3),
        "stages": {name: asdict(total) for name, total in result.totals.items()},
        "jobs": [_outcome(outcome) for _, outcome in sorted(result.outcomes.items())],
    }


def _outcome(outcome: JobOutcome) -> dict[str, Any]:
    output = None if outcome.output is None else without_credentials(outcome.output)
    return {**asdict(outcome), "output": output, "failure": _failure(outcome.failure)}


def print_summary(result: RunResult, store: ArtifactStore, console: Console) -> None:
    failed = [outcome for outcome in result.outcomes.values() if outcome.status == "failed"]
    frames = sum(outcome.frames or 0 for outcome in result.outcomes.values() if outcome.status == "done")
    console.print()
    speed = f", {frames / result.seconds:.1f} frames/s" if frames and result.seconds > 0 else ""
    console.print(
        f"[bold]{result.count('done')} done[/], {result.count('cached')} cached, "
        f"{'[red]' if failed else ''}{len(failed)} failed{'[/]' if failed else ''} in {duration(result.seconds)}{speed}"
    )
    for outcome in failed:
        _print_failure(outcome.id, outcome.failure, console)
    for outcome in result.outcomes.values():
        if outcome.reasons:
            told = escape("; ".join(outcome.reasons))
            console.print(f"  [yellow]{escape(outcome.id)}[/] [dim]{outcome.grade}[/] {told}", highlight=False)
    for note, names in _notes(result.outcomes.values()).items():
        who = names[0] if len(names) == 1 else f"{len(names)} jobs"
        console.print(f"  [yellow]{escape(who)}[/]: {escape(note)}", highlight=False)
    console.print(f"videos  {escape(without_credentials(result.output_url))}", highlight=False)
    if result.report is not None:
        console.print(f"report  {escape(without_credentials(str(result.report)))}", highlight=False)
    console.print(f"store   {escape(store.url)}  (run {result.run_id})", highlight=False)
    if any(outcome.failure and not outcome.failure.retryable for outcome in failed):
        console.print(
            "Failures that will not pass by themselves are not tried again until: headswap retry --store " + escape(store.url)
        )


def _notes(outcomes: Iterable[JobOutcome]) -> dict[str, list[str]]:
    """The jobs that each note is about: what holds for all of them is said once."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        for note in outcome.notes:
            found.setdefault(note, []).append(outcome.id)
    return found


def _print_failure(name: str, failure: Failure | None, console: Console) -> None:
    if failure is None:
        return
    told = escape(failure.message).replace("\n", "\n      ")
    console.print(f"  [red]{escape(name)}[/] [dim]{failure.stage}/{failure.code}[/] {told}", highlight=False)
    if failure.remedy:
        console.print(f"      {escape(failure.remedy)}", highlight=False)


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    return None if failure is None else failure.model_dump(mode="json", exclude={"trace"})


def plan_document(jobs: Sequence[Job], store: ArtifactStore, settings: Settings, registry: ModelRegistry) -> dict[str, Any]:
    """What a run would do."""
    planner = Planner(jobs, store, settings, registry)
    require_pipelines(planner)
    require_signable(planner, here=False)
    if settings.out is not None:
        require_places(planner, settings.out)
    planner.survey()
    rows = estimate(planner, Costs(planner, settings.workers, stated_lengths(planner)))
    states: Counter[str] = Counter()
    described = []
    for plan in planner.jobs.values():
        failure = plan.failure
        if plan.record is not None:
            state = "cached"
        elif failure is not None:
            state = "failed"
        else:
            failure = planner.standing_failure(plan)
            state = "to run" if failure is None else "quarantined"
        states[state] += 1
        described.append(
            {
                "id": plan.job.id,
                "state": state,
                "frames": planner.frames(plan.job.id),
                "steps": dict(Counter(planner.step(node).state for node in plan.nodes))
                if plan.record is None
                else {"cached": len(plan.nodes)},
                "failure": _failure(failure),
            }
        )
    return {
        "store": store.url,
        "workers": settings.workers,
        "jobs": described,
        "states": dict(states),
        "stages": [asdict(row) for row in rows],
        "seconds": sum(row.seconds for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "clips": len({node.owner for plan in planner.jobs.values() for node in plan.nodes if node.stage == "ingest"}),
        "clips_of_unknown_length": next((row.unknown for row in rows if row.stage == "landmarks"), 0),
        "notes": _precision_notes(planner),
    }


def _precision_notes(planner: Planner) -> list[str]:
    """What a plan cannot know of the diffusion renderer's work where it is made on another machine than the run."""
    precision = planner.settings.stages.render.diffusion.precision
    if planner.precision_by_devices and planner.settings.device != "cpu":
        return [f"Diffusion in {precision}, as this machine's devices have it; for a run on other devices, plan there."]
    if precision == "auto" and uses_diffusion(planner.settings, [plan.job for plan in planner.jobs.values()]):
        device = planner.settings.device
        return [f"{device} is not here, so its precision is not known, and finished diffusion work is counted as to be done."]
    return []


def print_plan(document: dict[str, Any], console: Console) -> None:
    states = ", ".join(f"{count} {state}" for state, count in document["states"].items())
    console.print(f"{counted(len(document['jobs']), 'job')} on {counted(document['clips'], 'clip')}: {states}")
    table = Table("stage", "cached", "to run", "failed", "frames", "time", "bytes", box=None)
    for row in document["stages"]:
        unknown = f" + {row['unknown']} unknown" if row["unknown"] and row["to_run"] else ""
        table.add_row(
            row["stage"],
            str(row["cached"]),
            str(row["to_run"]),
            str(row["failed"] or ""),
            f"{row['frames']}{unknown}",
            duration(row["seconds"]),
            size(row["bytes"]),
        )
    console.print(table)
    console.print(
        f"about {duration(document['seconds'])} with {document['workers']} workers; {size(document['bytes'])} more in the store"
    )
    if document["clips_of_unknown_length"]:
        console.print(f"{document['clips_of_unknown_length']} clips do not say how long they are and are not counted")
    for note in document["notes"]:
        console.print(note, highlight=False)
    for job in document["jobs"]:
        if job["failure"] is not None:
            console.print(
                f"  [red]{escape(job['id'])}[/] {escape(job['failure']['message'])} {escape(job['failure']['remedy'])}",
                highlight=False,
            )


def _shown(address: str | None) -> str | None:
    return None if address is None else without_credentials(address)


def status_document(store: ArtifactStore, run_id: str | None) -> dict[str, Any]:
    """A run from its record, also while it goes on or after it was killed."""
    record = runs.load(store, run_id)
    outcomes = record["outcomes"]
    counts = Counter(outcome["status"] for outcome in outcomes.values())
    identifiers = [job["id"] for job in record["jobs"]]
    return {
        "run": record["run"],
        "state": record["state"],
        "name": record.get("name"),
        "started": record["started"],
        "ended": record.get("ended"),
        "out": _shown(record.get("out")),
        "report": _shown(record.get("report")),
        "engine": record.get("engine"),
        "jobs": len(identifiers),
        "done": counts["done"],
        "cached": counts["cached"],
        "failed": counts["failed"],
        "unfinished": [name for name in identifiers if name not in outcomes],
        "reasons": {name: outcome["reasons"] for name, outcome in sorted(outcomes.items()) if outcome.get("reasons")},
        "failures": [
            {"id": name, **{key: value for key, value in outcome["failure"].items() if key != "trace"}}
            for name, outcome in sorted(outcomes.items())
            if outcome["failure"]
        ],
        "stages": record.get("stages", {}),
    }


def print_status(document: dict[str, Any], console: Console) -> None:
    console.print(
        f"run {escape(document['run'])}: {document['state']} (started {document['started']}, ended {document['ended'] or '-'})",
        highlight=False,
    )
    console.print(
        f"{counted(document['jobs'], 'job')}: {document['done']} done, {document['cached']} cached, {document['failed']} failed, "
        f"{len(document['unfinished'])} unfinished"
    )
    for failure in document["failures"]:
        console.print(
            f"  [red]{escape(failure['id'])}[/] [dim]{failure['stage']}/{failure['code']}[/] {escape(failure['message'])}",
            highlight=False,
        )
        console.print(f"      {escape(failure['remedy'])}", highlight=False)
    for name, reasons in document.get("reasons", {}).items():
        console.print(f"  [yellow]{escape(name)}[/] {escape('; '.join(reasons))}", highlight=False)
    if document["stages"]:
        table = Table("stage", "executed", "cached", "frames", "frames/s", box=None)
        for name, total in document["stages"].items():
            rate = f"{total['frames'] / total['seconds']:.1f}" if total["seconds"] > 0 and total["executed"] else ""
            table.add_row(name, str(total["executed"]), str(total["cached"]), str(total["frames"]), rate)
        console.print(table)
    if document["unfinished"] and document["state"] == "running":
        console.print("If this run is not going on any more (it was killed), the same command continues it.")
    if document["report"]:
        console.print(f"report  {escape(document['report'])}", highlight=False)
