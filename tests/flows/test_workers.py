"""Worker processes may crash, hang or eat memory: the run learns why, and the next unit finds a fresh process."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows import pipeline, workers
from flows.execution import WorkItem
from flows.lanes import STRIKES, Lanes
from flows.workers import Limits as WorkerLimits
from flows.workers import WorkerPool
from schemas.parameters import IngestParameters
from schemas.problems import HeadswapError
from stages.video.facts import Limits
from storage.sources import digest_of
from storage.store import ArtifactStore


@pytest.fixture(autouse=True)
def moody_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pipeline, "STAGES", {"moody": "tests.flows.fakes:Moody"})
    pipeline.stage.cache_clear()
    yield
    pipeline.stage.cache_clear()


def item(folder: Path, name: str, *, wants_device: bool = False, **mood: object) -> WorkItem:
    medium = folder / f"{name}.json"
    medium.write_text(json.dumps(mood))
    store = ArtifactStore.open(folder / "store")
    return WorkItem(
        stage="moody",
        key=name,
        recipe={"media": {"clip": digest_of(medium, store)}},
        label=medium.name,
        store=store,
        parameters=IngestParameters(),
        chunk=None,
        inputs={},
        media={"clip": str(medium)},
        models={},
        options={},
        seed=0,
        frames=1,
        limits=Limits(),
        media_folder=folder,
        media_bytes=1 << 30,
        wants_device=wants_device,
    )


def test_a_crashed_process_is_named_and_replaced(tmp_path: Path) -> None:
    with WorkerPool(1, logs=tmp_path / "logs") as pool:
        crashed = pool.submit(item(tmp_path, "bad", mood="crash"))
        after = pool.submit(item(tmp_path, "good", mood="calm"))
        error = crashed.exception()
        assert isinstance(error, HeadswapError)
        assert error.code == "worker_died"
        assert "bad.json" in error.message
        assert "SIGSEGV" in error.message
        assert error.retryable
        assert after.result().manifest.facts["process"] != os.getpid()


def test_a_hanging_process_is_killed_after_its_time(tmp_path: Path) -> None:
    with WorkerPool(1, limits=WorkerLimits(seconds=lambda stage, frames: 3.0)) as pool:
        error = pool.submit(item(tmp_path, "slow", mood="hang")).exception()
        assert isinstance(error, HeadswapError)
        assert error.code == "timeout"
        assert "--set time_limits.moody=" in error.remedy
        assert "--retry-failed" in error.remedy


def test_a_process_that_eats_memory_is_killed(tmp_path: Path) -> None:
    with WorkerPool(1, limits=WorkerLimits(memory_bytes=600 << 20)) as pool:
        error = pool.submit(item(tmp_path, "big", mood="eat")).exception()
        assert isinstance(error, HeadswapError)
        assert error.code == "memory_limit"
        assert f"--set worker_memory={1200 << 20} --retry-failed" in error.remedy, (
            "a retry would take the limit that was recorded"
        )


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells pages of files apart")
def test_mapped_files_are_no_memory_of_a_process_and_shared_memory_is(tmp_path: Path) -> None:
    this, size = cast(Any, SimpleNamespace(process=SimpleNamespace(pid=os.getpid()))), 64 << 20
    file = tmp_path / "weights"
    file.write_bytes(bytes(size))
    before = workers._Process.memory(this)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[place] for place in range(0, size, 4096)) == 0
        assert workers._Process.memory(this) - before < size // 2
    before = workers._Process.memory(this)
    with mmap.mmap(-1, size) as shared:
        for place in range(0, size, 4096):
            shared[place] = 1
        assert workers._Process.memory(this) - before > size // 2


def test_a_process_that_cannot_be_killed_holds_up_neither_the_next_unit_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck: list[int] = []

    def stop(process: BaseProcess) -> None:  # it neither ends nor answers, as one that waits inside of a driver
        assert process.pid is not None
        stuck.append(process.pid)
        os.kill(process.pid, signal.SIGSTOP)

    monkeypatch.setattr(workers, "END_SECONDS", 0.1)
    with WorkerPool(1, limits=WorkerLimits(seconds=lambda stage, frames: 3.0)) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(BaseProcess, "kill", stop)
            error = pool.submit(item(tmp_path, "slow", mood="hang")).exception()
        try:
            assert isinstance(error, HeadswapError)
            assert error.code == "timeout"
            monkeypatch.setattr(workers, "END_SECONDS", 10.0)
            pool.limits = WorkerLimits()
            assert pool.submit(item(tmp_path, "good", mood="calm")).result().manifest.facts["process"] not in stuck
            assert not {child.pid for child in multiprocessing.active_children()} & set(stuck), "the program would wait for it"
        finally:
            for pid in stuck:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    assert len(stuck) == 1


def test_a_fault_of_a_stage_arrives_with_its_trace(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        error = pool.submit(item(tmp_path, "odd", mood="fail")).exception()
        assert isinstance(error, HeadswapError)
        assert error.code == "internal_error"
        assert "a bad mood" in error.message
        assert "fakes.py" in error.trace


def test_closing_stops_what_runs_and_cancels_what_waits(tmp_path: Path) -> None:
    pool = WorkerPool(1)
    running = pool.submit(item(tmp_path, "slow", mood="hang"))
    waiting = pool.submit(item(tmp_path, "later", mood="calm"))
    while not running.running():
        pass
    pool.close()
    error = running.exception(timeout=20)
    assert isinstance(error, HeadswapError)
    assert error.code == "stopped"
    assert waiting.cancelled()


def test_work_for_a_device_goes_to_its_own_warm_process_and_other_work_does_not(tmp_path: Path) -> None:
    with WorkerPool(1, devices=("gpu:0",)) as pool:
        other = pool.submit(item(tmp_path, "other", mood="calm"))
        wanted = [pool.submit(item(tmp_path, f"wanted{k}", wants_device=True, mood="calm")) for k in range(2)]
        facts = [future.result().manifest.facts for future in wanted]
        assert [found["device"] for found in facts] == ["gpu:0", "gpu:0"]
        assert facts[0]["process"] == facts[1]["process"], "the process stays, with what it has loaded"
        assert other.result().manifest.facts["device"] == "cpu"
        assert other.result().manifest.facts["process"] != facts[0]["process"]


def test_without_devices_such_work_is_done_by_any_worker(tmp_path: Path) -> None:
    with WorkerPool(0) as pool:
        done = pool.submit(item(tmp_path, "wanted", wants_device=True, mood="calm"))
        assert done.result().manifest.facts["device"] == "cpu"


@pytest.mark.parametrize(("mood", "code"), [("die", "device_failed"), ("device", "device_failed"), ("scarce", "out_of_memory")])
def test_work_whose_device_dies_is_done_on_another_when_it_is_tried_again(tmp_path: Path, mood: str, code: str) -> None:
    with WorkerPool(1, devices=("gpu:0", "gpu:1")) as pool:
        work = item(tmp_path, "wanted", wants_device=True, mood=mood, broken=["gpu:0"])
        tries = 0
        while True:
            future = pool.submit(work)
            tries += 1
            error = future.exception()
            if error is None:
                break
            assert isinstance(error, HeadswapError)
            assert (error.code, error.retryable) == (code, True)
            assert "gpu:0" in error.message
            assert "decoder" not in error.remedy, "the file is not blamed for a device"
        assert tries <= 2
        assert future.result().manifest.facts["device"] == "gpu:1"


def test_a_device_that_is_too_small_for_work_does_not_get_it_again_but_keeps_all_other(tmp_path: Path) -> None:
    lanes, ended = Lanes(("gpu:0", "gpu:1")), []
    process = cast(Any, SimpleNamespace(kill=lambda: ended.append("process")))
    for number in range(2 * STRIKES):
        task = workers._Task(item(tmp_path, f"large{number}"), Future(), lambda frames: None)
        workers._blame(lanes, "gpu:0", task, HeadswapError("out_of_memory", "Too small.", retryable=True), process)
        lanes.put(task.name, task)
    other = workers._Task(item(tmp_path, "other"), Future(), lambda frames: None)
    lanes.put(other.name, other)
    assert lanes.open_lanes == ("gpu:0", "gpu:1")
    assert lanes.take("gpu:0") is other
    assert len(ended) == 2 * STRIKES, "what a process holds of the device is given back"


def test_a_failure_says_that_its_device_gets_no_more_work(tmp_path: Path) -> None:
    lanes = Lanes(("gpu:0", "gpu:1"))
    process = cast(Any, SimpleNamespace(kill=lambda: None))
    errors = []
    for number in range(STRIKES):
        task = workers._Task(item(tmp_path, f"work{number}"), Future(), lambda frames: None)
        errors.append(HeadswapError("device_failed", "gpu:0 failed.", retryable=True))
        workers._blame(lanes, "gpu:0", task, errors[-1], process)
    assert ["gpu:0 gets no more work" in error.message for error in errors] == [False] * (STRIKES - 1) + [True]
