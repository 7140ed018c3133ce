"""What happens during a run, for those who show or record it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flows.planning import JobPlan, Node
from storage.failures import Failure


@dataclass
class StageTotals:
    """Sums over a run. ``executed`` and ``cached`` count units (commits)."""

    executed: int = 0
    cached: int = 0
    frames: int = 0
    seconds: float = 0.0
    bookkeeping_seconds: float = 0.0


@dataclass(frozen=True)
class StepResult:
    """One node, or one group of its chunks, came to an end."""

    node: Node
    executed: int
    cached: int
    frames: int
    seconds: float
    bookkeeping_seconds: float


class Events:
    """Does nothing; observers override what they care about. Called from several threads, one call at a time."""

    def run_started(self, jobs: Sequence[JobPlan], work_seconds: float, seconds_of: Callable[[Node], float]) -> None:
        """``work_seconds`` is what all work is estimated to take, ``seconds_of`` what a frame of a node is of it."""

    def step_started(self, node: Node, units: int, frames: int) -> None: ...

    def progress(self, node: Node, frames: int) -> None: ...

    def step_finished(self, result: StepResult) -> None: ...

    def step_failed(self, node: Node, failure: Failure) -> None: ...

    def retrying(self, node: Node, failure: Failure, seconds: float) -> None: ...

    def job_finished(self, outcome: JobOutcome) -> None: ...

    def note(self, text: str) -> None: ...


DONE = ("done", "cached")
"""What a job is called that is done: by the run, or by one before."""


@dataclass
class JobOutcome:
    """How a job ended."""

    id: str
    status: str  # one of ``DONE``, or failed
    output: str | None = None
    failure: Failure | None = None
    grade: str | None = None
    frames: int | None = None
    generated: int | None = None
    reasons: list[str] = field(default_factory=list)
    """Why the grade is not ``good``."""
    notes: list[str] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    """Keys of a done job's last artifacts, by stage: what a page shows of it later, whatever has changed since."""
