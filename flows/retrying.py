"""Going on with a recorded run: its failed and unfinished jobs again, or its report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows import runs
from flows.events import DONE
from flows.reporting import report_of_record
from schemas.catalogue import Job
from schemas.configuration import Settings
from storage.store import ArtifactStore


@dataclass(frozen=True)
class Again:
    run_id: str
    name: str
    jobs: list[Job]
    settings: Settings
    output_url: str
    whole: Mapping[str, Any]
    """The record of all that the run was about, done jobs included: see ``runs.load_whole``."""


def settings_of_record(store: ArtifactStore, record: Mapping[str, Any], changes: Mapping[str, Any]) -> Settings:
    """The settings a run was given, with changes; what is secret (``Settings.hidden``) was not recorded and is one of these."""
    values = {**record["settings"], "store": store.address}
    # Runs of versions that did not know it had none, whatever their pipeline says by now.
    values.get("stages", {}).get("render", {}).get("diffusion", {}).setdefault("shared_noise", 0.0)
    values.update({name: value for name, value in changes.items() if value is not None})
    if os.environ.get("HEADSWAP_MODELS"):
        values["models"] = os.environ["HEADSWAP_MODELS"]
    return Settings.model_validate(values)


def changes_by(settings: Settings) -> dict[str, Any]:
    """What of a configuration holds for a run that goes on: what its record lacks, and certificate and key where it names some,
    for the run's own may have expired since, or lie elsewhere."""
    named = any(settings.origin(name) != "default" for name in ("provenance.certificate", "provenance.key"))
    return {**settings.hidden(), "provenance": settings.provenance.model_dump() if named else None}


def unfinished(store: ArtifactStore, run_id: str | None, changes: Mapping[str, Any]) -> Again:
    """Jobs of a run that failed or never ended."""
    record = runs.load_whole(store, run_id)
    done = {name for name, outcome in record["outcomes"].items() if outcome["status"] in DONE}
    jobs = [runs.job_of(record, job) for job in record["jobs"] if job["id"] not in done]
    settings = settings_of_record(store, record, changes)
    if record.get("precision_by_devices"):  # these may be others now
        settings = settings.computed_in("auto")
    return Again(record["run"], record["name"], jobs, settings, record["out"], record)


def rebuild_report(store: ArtifactStore, run_id: str | None, out: str | None, hidden: Mapping[str, Any] | None = None) -> str:
    """Write the report page of a recorded run again; of a retry with all the jobs of the run that it went on with.

    Args:
        out: another place than the run's own. hidden: what the record lacks (``Settings.hidden``).
    """
    record = runs.load_whole(store, run_id)
    settings = settings_of_record(store, record, hidden or {})
    return report_of_record(store, record, settings, out)
