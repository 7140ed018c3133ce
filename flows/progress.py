"""What a run looks like while it goes on: bars on a terminal, plain lines elsewhere (a log file, a pipe)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from flows.events import Events, JobOutcome, StepResult
from flows.planning import JobPlan, Node
from schemas.names import counted
from schemas.places import without_credentials
from storage.failures import Failure

LINE_SECONDS = 10.0
"""Pause between plain lines about work in progress."""

TRUSTED_SECONDS = 20.0
"""The table of what stages cost counts as much as this many seconds of the run itself: what is left after the first frame, with
everything still loading, is not extrapolated from that frame alone."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.fields.get("rate")
        return Text(f"{rate:6.1f} frames/s" if rate else "", style="cyan")


class ProgressView(Events):
    """Shows the jobs done, the frames per second and the time left, and each failure when it happens."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self._bars = console.is_terminal and not quiet
        self._progress: Progress | None = None
        self._overall: TaskID | None = None
        self._active: dict[Node, TaskID] = {}
        self._units: dict[Node, int] = defaultdict(int)
        self._began = time.monotonic()
        self._last_line = 0.0
        self._jobs = self._ended = 0
        self._work_total = self._work_done = 0.0
        self._seconds_of: Callable[[Node], float] = lambda node: 0.0
        self._frames = 0
        self._known_frames: dict[str, int] = {}

    def __enter__(self) -> ProgressView:
        if self._bars:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                _Rate(),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.console,
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def run_started(self, jobs: Sequence[JobPlan], work_seconds: float, seconds_of: Callable[[Node], float]) -> None:
        self._jobs = len(jobs)
        self._work_total, self._seconds_of = work_seconds, seconds_of
        cached = sum(plan.record is not None for plan in jobs)
        if self._progress is not None:
            self._overall = self._progress.add_task(counted(self._jobs, "job"), total=max(work_seconds, 1e-6))
        elif not self.quiet:
            self.console.print(f"{counted(self._jobs, 'job')}, {cached} of them finished before")

    def step_started(self, node: Node, units: int, frames: int) -> None:
        if self._progress is not None:
            if node not in self._active:
                self._active[node] = self._progress.add_task(f"  {node.stage} [dim]{escape(_short(node.label))}[/]", total=0)
            task = self._progress.tasks[self._progress.task_ids.index(self._active[node])]
            self._progress.update(self._active[node], total=(task.total or 0) + frames)

    def progress(self, node: Node, frames: int) -> None:
        self._frames += frames
        self._work_done += frames * self._seconds_of(node)
        if self._progress is not None:
            elapsed = time.monotonic() - self._began
            if node in self._active:
                self._progress.advance(self._active[node], frames)
            if self._overall is not None:
                total = max(self._work_total, self._work_done)
                self._progress.update(
                    self._overall, completed=self._work_done, total=total, rate=self._frames / max(elapsed, 1e-6)
                )
        elif not self.quiet and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(
                f"{self._ended}/{self._jobs} jobs; {self._line()}; now {node.stage} of {escape(node.label)}", highlight=False
            )

    def _line(self) -> str:
        elapsed = max(time.monotonic() - self._began, 1e-6)
        speed = f"{self._frames / elapsed:.1f} stage frames/s"
        if self._work_total > self._work_done > 0:
            return f"{speed}, about {duration(seconds_left(elapsed, self._work_done, self._work_total))} left"
        return speed

    def step_finished(self, result: StepResult) -> None:
        self._drop(result.node)

    def step_failed(self, node: Node, failure: Failure) -> None:
        self._drop(node)

    def _drop(self, node: Node) -> None:
        if self._progress is not None and node in self._active:
            self._progress.remove_task(self._active.pop(node))

    def retrying(self, node: Node, failure: Failure, seconds: float) -> None:
        self._print(f"[yellow]again in {seconds:.0f} s[/]  {node.stage} of {escape(node.label)}: {escape(failure.message)}")

    def job_finished(self, outcome: JobOutcome) -> None:
        self._ended += 1
        if self._progress is not None and self._overall is not None:
            self._progress.update(self._overall, description=f"{self._ended}/{self._jobs} jobs")
        if outcome.status == "failed" and outcome.failure is not None:
            self._print(f"[red]failed[/]  {escape(outcome.id)}: {escape(outcome.failure.message)}")
        elif not self.quiet and outcome.status == "done":
            grade = f" ({outcome.grade})" if outcome.grade else ""
            self._print(f"[green]done[/]    {escape(outcome.id)}{grade}  {escape(without_credentials(outcome.output or ''))}")

    def note(self, text: str) -> None:
        self._print(f"[yellow]note[/]    {escape(text)}")

    def _print(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)


def seconds_left(elapsed: float, done: float, total: float) -> float:
    """Seconds until the end, when ``elapsed`` seconds did ``done`` of ``total`` estimated seconds of work."""
    return (elapsed + TRUSTED_SECONDS) / (done + TRUSTED_SECONDS) * (total - done)


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """``1536`` -> ``1.5 KiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _short(text: str, width: int = 28) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
