"""Workers that make samples leave signals to the process they work for, and do not outlive it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from schemas.problems import HeadswapError, UsageError
from stages.networks.presets import TINY, build
from stages.processes import THREAD_SETTINGS
from stages.training.ahead import SamplesAhead
from stages.training.autoencoder import AutoencoderTask
from stages.training.batches import AHEAD, SampleEncoder, coming_numbers, sample_numbers
from stages.training.checkpoints import Checkpoints
from stages.training.diffusion import DiffusionTask
from stages.training.recipe import AutoencoderPhase
from stages.training.samples import SampleSource, TrainingSample
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.test_shards import fingerprint
from tests.stages.training.tiny_recipes import tiny_recipe

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def training(out: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run in a group of processes of its own, in the midst of its steps, and its workers."""
    command = [sys.executable, "-m", "tests.stages.training.run_with_workers", str(out)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        told = ""
        while "step 1\n" not in told or told.count("worker") < 2:
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            told += line
        yield process, [int(number) for number in re.findall(r"worker (\d+)", told)]
    finally:
        with_group(process, signal.SIGKILL)
        process.communicate()


def with_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def gone(processes: list[int], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(alive, processes))


def alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_ends_the_step_and_saves_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    with training(tmp_path / "out") as (process, workers):
        with_group(process, number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -number, errors
        assert "BrokenProcessPool" not in errors
        assert Checkpoints(tmp_path / "out" / "checkpoints" / "autoencoder", 2).steps()
        assert gone(workers)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with training(tmp_path / "out") as (process, workers):
        process.kill()
        process.wait()
        assert gone(workers)


def test_a_worker_that_is_killed_is_told_and_the_others_end() -> None:
    with SamplesAhead(Discs, 2) as ahead:
        ahead.announce(range(40), 1)
        expected = fingerprint(Discs().sample(0, 1))
        assert fingerprint(ahead.sample(0, 1)) == expected
        workers = [child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
        os.kill(workers[0], signal.SIGKILL)
        with pytest.raises(HeadswapError, match="died") as caught:
            deque(ahead.sample(number, 1) for number in range(1, 100_000))
        assert caught.value.code == "worker_died"
        assert caught.value.retryable
        assert "--resume" in caught.value.remedy
    assert gone(workers)


def not_there() -> SampleSource:
    raise UsageError(["The data set is gone."], "Bring it back.")


def test_what_a_source_says_in_a_worker_is_heard() -> None:
    opener: Callable[[], SampleSource] = not_there
    with SamplesAhead(opener, 1) as ahead, pytest.raises(UsageError, match="The data set is gone"):
        ahead.sample(0, 1)


def tells_its_threads() -> SampleSource:
    raise UsageError([f"threads: {', '.join(os.environ.get(name, 'as many as cores') for name in THREAD_SETTINGS)}"])


def test_workers_do_not_begin_a_thread_a_core_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_SETTINGS:
        monkeypatch.setenv(name, "7")
    opener: Callable[[], SampleSource] = tells_its_threads
    with SamplesAhead(opener, 1) as ahead, pytest.raises(UsageError, match=r"threads: 1(, 1)+$"):
        ahead.sample(0, 1)
    assert {os.environ[name] for name in THREAD_SETTINGS} == {"7"}


@pytest.mark.parametrize("processes", [1, 2])
def test_samples_are_announced_in_the_order_in_which_they_are_asked_for(processes: int) -> None:
    asked = [number for batch in range(9) for number in sample_numbers(batch, 3, processes - 1, processes)]
    announced: list[int] = []
    for batch in range(9):
        announced += [number for number in coming_numbers(batch, 9, 3, processes - 1, processes) if number not in announced]
        assert announced == asked[: 3 * (batch + 1 + AHEAD)], "nothing beyond the phase, which nobody would ask for"


@pytest.mark.parametrize(("rows", "workers"), [(1, 16), (3, 16), (64, 16), (2, 0)])
def test_enough_samples_are_announced_for_every_worker_to_have_one_more(rows: int, workers: int) -> None:
    coming = coming_numbers(5, 1000, rows, 0, 1, workers)
    assert coming == list(range(5 * rows, 5 * rows + len(coming)))
    assert len(coming) >= max(rows * (1 + AHEAD), rows + 2 * workers)
    assert len(coming) < max(rows * (1 + AHEAD), rows + 2 * workers) + rows


def test_kept_samples_too_are_announced_in_the_order_in_which_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[int] = []
    monkeypatch.setattr(SamplesAhead, "announce", lambda self, numbers, frames: announced.extend(numbers))
    monkeypatch.setattr(SamplesAhead, "__init__", lambda self: None)
    encoder = SampleEncoder(SamplesAhead(), None, 64, 1, 2000, torch.float32)  # type: ignore[call-arg, arg-type]
    encoder.announce(range(1996, 2006))
    assert announced == [1996, 1997, 1998, 1999, 0, 1, 2, 3, 4, 5]


class Announcing(SamplesAhead):
    """Eight workers that only note what they are told."""

    def __init__(self) -> None:
        self.workers, self.told = 8, set[int]()

    def announce(self, numbers: Iterable[int], frames: int) -> None:
        del frames
        self.told.update(numbers)

    def sample(self, number: int, frames: int) -> TrainingSample:
        return Discs(64, seed=1).sample(number, frames)


@pytest.mark.parametrize("number", [0, 1])
def test_every_kind_of_phase_announces_for_as_many_workers_as_there_are(number: int) -> None:
    AcceleratorState._reset_state()
    accelerator, pipeline, source = Accelerator(cpu=True), build(TINY), Announcing()
    phase = tiny_recipe(steps=100).phases[number].model_copy(update={"batch": 1, "cached_samples": None, "judged": 0})
    task: AutoencoderTask | DiffusionTask
    if isinstance(phase, AutoencoderPhase):
        phase = phase.model_copy(update={"cached_samples": 1000})
        task = AutoencoderTask(pipeline.vae, phase, source, 3, accelerator, lambda step: {})
    else:
        task = DiffusionTask(pipeline, phase, source, 3, accelerator, None, lambda step: {})
    task.losses(task.module, 0)
    assert len(source.told) >= 1 + 2 * source.workers
