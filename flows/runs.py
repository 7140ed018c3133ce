"""Records of runs in a store: what was asked, how each job went, what it cost. Written as jobs end, so a killed run shows too."""

from __future__ import annotations

import datetime
import itertools
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from flows.events import Events, JobOutcome, StageTotals
from schemas.catalogue import Job
from schemas.problems import StoreError, UsageError
from storage.failures import Failure
from storage.store import ArtifactStore

FOLDER = "runs"

_RECORDS_AT_A_TIME = 8
"""A record lists the run's jobs: of 10,000 some megabytes."""


def new_run_id(name: str) -> str:
    """Sorts by time; readable; unique even when two machines start in the same second."""
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{moment}-{readable_id(name)}-{secrets.token_hex(2)}"


def readable_id(name: str) -> str:
    """A name as a part of file names: at most 40 letters, digits, hyphens and underscores."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:40] or "run"


def all_runs(store: ArtifactStore) -> list[str]:
    """Ids of the recorded runs, oldest first: one listing, however many jobs they had."""
    return store.list_folders(FOLDER)


def newest_first(store: ArtifactStore) -> Iterator[dict[str, Any]]:
    """Records of the runs without their jobs' outcomes: the newest by itself, which is mostly wanted, then a few at a time."""
    paths = [f"{FOLDER}/{run_id}/run.json" for run_id in reversed(all_runs(store))]
    for start, stop in itertools.pairwise([0, *range(1, len(paths), _RECORDS_AT_A_TIME), len(paths)]):
        yield from store.read_documents(paths[start:stop]).values()


def job_of(record: Mapping[str, Any], job: Mapping[str, Any]) -> Job:
    """A job of a recorded run.

    Records of earlier versions hold the default ``<id>.mp4`` as if it had been asked for; as a demand it would stand over the
    run's own container.

    Raises:
        UsageError: another version recorded it.
    """
    container = record["settings"].get("stages", {}).get("assemble", {}).get("container", "mp4")
    if container != "mp4" and job.get("output") == f"{job['id']}.mp4":
        job = {**job, "output": ""}
    try:
        return Job.model_validate(job)
    except ValidationError as error:
        raise UsageError(
            [f"The run {record.get('run')} recorded the job {job.get('id')} in a way that this version cannot read: {error}."],
            "Use the version that the run was made with.",
        ) from error


def load(store: ArtifactStore, run_id: str | None) -> dict[str, Any]:
    """A run's record, or the newest one's, with its jobs' outcomes under ``outcomes``.

    Raises:
        UsageError: no such run; names the ones there are.
    """
    record = store.read_document(f"{FOLDER}/{run_id}/run.json") if run_id else next(newest_first(store), None)
    if record is None and run_id:
        there = ", ".join(all_runs(store)[-5:]) or "none"
        raise UsageError([f"There is no run {run_id} in {store.url}."], f"The last runs are: {there}")
    if record is None:
        raise UsageError([f"There is no run in {store.url}."], "Start one: headswap run CATALOGUE --store URL")
    found = store.read_documents(store.list_documents(f"{FOLDER}/{record['run']}/jobs")).values()
    return {**record, "outcomes": {outcome["id"]: outcome for outcome in found}}


def load_whole(store: ArtifactStore, run_id: str | None) -> dict[str, Any]:
    """As ``load``; of a retry with all the jobs of the run that it goes on with, and how each of them went the last time.

    ``asked_again`` is how many jobs the retry itself was about.

    Raises:
        UsageError: no such run.
    """
    whole = before = load(store, run_id)
    followed = {whole["run"]}
    while before.get("retry_of") and before["retry_of"] not in followed:
        try:
            before = load(store, before["retry_of"])
        except UsageError:  # somebody cleared it away
            break
        followed.add(before["run"])
        outcomes = {**before["outcomes"], **whole["outcomes"]}
        whole = {"asked_again": len(whole["jobs"]), **whole, "jobs": before["jobs"], "outcomes": outcomes}
    return whole


class RunRecorder(Events):
    """Writes the record of one run.

    Raises:
        StoreError: the store cannot be written. A full one does not stop the run: what it could not take is written at the end.
    """

    def __init__(self, store: ArtifactStore, run_id: str, asked: dict[str, Any]) -> None:
        self.store = store
        self.run_id = run_id
        self._record: dict[str, Any] = {"run": run_id, "state": "running", "started": _now(), **asked}
        self._lock = threading.Lock()
        self._unwritten: dict[str, dict[str, Any]] = {}
        self._write()

    def job_finished(self, outcome: JobOutcome) -> None:
        value = {**asdict(outcome), "failure": _failure(outcome.failure), "ended": _now()}
        path = f"{FOLDER}/{self.run_id}/jobs/{outcome.id}.json"
        try:
            self.store.write_document(path, value)
        except StoreError as error:
            if error.code != "store_full":
                raise
            with self._lock:
                self._unwritten[path] = value

    def finish(self, state: str, totals: dict[str, StageTotals], report: str | None) -> dict[str, Any]:
        with self._lock:
            self._record.update(
                state=state,
                ended=_now(),
                report=report,
                stages={name: asdict(total) for name, total in totals.items()},
            )
            for path, value in self._unwritten.items():
                self.store.write_document(path, value)
            self._write()
            return dict(self._record)

    def _write(self) -> None:
        self.store.write_document(f"{FOLDER}/{self.run_id}/run.json", self._record)


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    return None if failure is None else failure.model_dump(mode="json")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
