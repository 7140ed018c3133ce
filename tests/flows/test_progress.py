"""What a person sees: the same on a terminal and in a log, whatever files are called."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from flows.catalogue import RunResult
from flows.estimates import Costs
from flows.progress import ProgressView, duration, seconds_left, size
from flows.scheduling import Batch, DirectEngine
from flows.summary import print_plan, print_status, print_summary
from flows.workers import WorkerPool
from schemas.catalogue import Job
from tests.flows.conftest import Night, job

Clips = Callable[[str, int], Path]


def run(night: Night, jobs: list[Job], *, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=200)
    planner = night.planner(jobs)
    with ProgressView(console) as view, WorkerPool(0) as pool:
        view.run_started(list(planner.jobs.values()), 1.0, Costs(planner, 2).seconds)
        batch = Batch(planner, pool, view, output_url=str(night.out))
        engine = DirectEngine(batch, threads=2)
        batch.run(engine)
        engine.close()
    result = RunResult("run", batch.outcomes, dict(batch.totals), 1.0, str(night.out), "page.html")
    print_summary(result, night.store, console)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_names_that_look_like_markup_are_shown_as_they_are(night: Night, clips: Clips, tmp_path: Path, terminal: bool) -> None:
    jobs = [job("hostile", clips("source", 1), tmp_path / "[/b].mp4"), job("good", clips("source", 1), clips("take[final]", 12))]
    told = run(night, jobs, terminal=terminal)
    assert "[/b].mp4" in told
    assert "1 done" in told
    assert "1 failed" in told


def test_plans_and_states_show_such_names_too(night: Night, tmp_path: Path, clips: Clips) -> None:
    text = io.StringIO()
    console = Console(file=text, width=200)
    failure = {"message": "[/b].mp4 is missing.", "remedy": "[red]Put it there.", "stage": "ingest", "code": "file_missing"}
    plan = {
        "jobs": [{"id": "a", "failure": failure}],
        "clips": 1,
        "states": {"failed": 1},
        "stages": [],
        "seconds": 0.0,
        "workers": 1,
        "bytes": 0,
        "clips_of_unknown_length": 0,
        "notes": [],
    }
    print_plan(plan, console)
    status = {
        "run": "[/i]",
        "state": "running",
        "started": "now",
        "ended": None,
        "jobs": 1,
        "done": 0,
        "cached": 0,
        "failed": 1,
        "unfinished": [],
        "failures": [{"id": "a", **failure}],
        "stages": {},
        "report": "[/u].html",
    }
    print_status(status, console)
    assert text.getvalue().count("[/b].mp4") == 2
    assert "[/u].html" in text.getvalue()


def test_durations_and_sizes_read_well() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 75, 3700)] == ["0 s", "1 min 0 s", "1 min 15 s", "1 h 1 min"]
    assert [size(count) for count in (10, 1536, 3 << 30)] == ["10 bytes", "1.5 KiB", "3.0 GiB"]


def test_the_time_left_is_neither_absurd_after_the_first_frame_nor_deaf_to_a_slow_machine() -> None:
    assert seconds_left(elapsed=10.0, done=0.01, total=60.0) < 100.0  # models were loading
    assert seconds_left(elapsed=2000.0, done=500.0, total=1000.0) == pytest.approx(2000.0, rel=0.05)
