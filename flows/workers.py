"""Processes that do units of work and can be killed: media are untrusted and decoders crash."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from multiprocessing import process as multiprocessing_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from flows import pipeline
from flows.execution import Outcome, WorkItem, perform
from flows.lanes import Lanes
from schemas.problems import HeadswapError
from stages.orphans import end_with_parent

POLL_SECONDS = 0.5
END_SECONDS = 10.0
"""How long a killed process may take to end. One that waits for a GPU that hangs does not end at all."""
LOG_TAIL_BYTES = 4_000

TOO_LARGE = "out_of_memory"
"""The failure of work that does not fit a device, which is none of the device: another may have more memory free."""


@dataclass(frozen=True)
class Limits:
    """What a unit may use before its process is killed."""

    seconds: Callable[[str, int], float] = lambda stage, frames: 3600.0
    """By stage name and number of frames."""
    memory_bytes: int = 8 << 30


@dataclass
class _Task:
    item: WorkItem
    future: Future[Outcome]
    progress: Callable[[int], None]

    @property
    def name(self) -> tuple[str, str]:
        return self.item.stage, self.item.key


class WorkerPool:
    """A fixed number of processes, started when first needed and replaced when they die.

    Units are taken in order of priority. Results do not depend on which process does what.
    With ``workers = 0`` units are done one after another in the calling process (for debuggers and small tests).

    Args:
        workers: processes for work that needs no device.
        devices: names of GPUs; each has a process of its own, which keeps the networks loaded, for the work that wants one.
            Without any, such work is done like all other. A unit that a device failed at goes to another.
        limits: beyond which a process is killed.
        logs: folder for what native libraries say.
    """

    def __init__(
        self, workers: int, *, devices: Sequence[str] = (), limits: Limits | None = None, logs: Path | None = None
    ) -> None:
        self.workers = workers
        self.devices = tuple(devices)
        self.limits = limits or Limits()
        self._logs = logs
        self._lanes: Lanes[_Task] = Lanes([f"worker-{number}" for number in range(workers)])
        self._device_lanes: Lanes[_Task] = Lanes(self.devices)
        self._threads: dict[str, threading.Thread] = {}
        self._closing = threading.Event()
        self._inline = threading.Lock()
        self._asking = threading.Lock()
        # Native libraries read these when they are loaded, so a child must be born with them: one thread each, because
        # the pool is the parallelism.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = "1"  # another number would change the last bits of results
        os.environ.setdefault("GLOG_minloglevel", "2")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, item: WorkItem, *, priority: tuple[int, ...] = (), progress: Callable[[int], None] | None = None
    ) -> Future[Outcome]:
        """Ask for a unit of work. The future's exception is always a HeadswapError."""
        task = _Task(item, Future(), progress or _ignore)
        if self.workers == 0:
            with self._inline:
                _finish(task.future, lambda: perform(item, task.progress))
            return task.future
        with self._asking:
            if self._closing.is_set():
                task.future.set_exception(_stopped(item))
                return task.future
            lanes = self._device_lanes if item.wants_device and self.devices else self._lanes
            lanes.put(task.name, task, priority)
            # A worker for each unit that waits, up to their number; of devices all at once.
            idle = [name for name in lanes.open_lanes if name not in self._threads]
            for name in idle if lanes is self._device_lanes else idle[:1]:
                thread = threading.Thread(target=self._serve, args=(lanes, name), name=name, daemon=True)
                self._threads[name] = thread
                thread.start()
        return task.future

    def close(self) -> None:
        """Stop at once: running units are killed, waiting ones cancelled. What was committed stays."""
        with self._asking:  # from here on nobody can ask for work that no thread would take
            self._closing.set()
        for lanes in (self._lanes, self._device_lanes):
            for task in lanes.close():
                task.future.cancel()
        # Long enough for each thread to give up a process that does not end.
        deadline = time.monotonic() + 2 * END_SECONDS + 5
        for thread in self._threads.values():
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _serve(self, lanes: Lanes[_Task], lane: str) -> None:
        process: _Process | None = None
        try:
            while (task := lanes.take(lane)) is not None:
                if not task.future.set_running_or_notify_cancel():
                    continue

                def work(task: _Task = task) -> Outcome:
                    nonlocal process
                    if process is None or not process.alive:
                        process = _Process(self._logs)
                    given = replace(task, item=replace(task.item, device=lane)) if lane in self.devices else task
                    try:
                        outcome = self._watch(process, given)
                    except HeadswapError as error:
                        if lanes is self._device_lanes:
                            _blame(lanes, lane, task, error, process)
                        raise
                    lanes.succeeded(task.name, lane)
                    return outcome

                _finish(task.future, work)
        finally:
            if process is not None:
                process.kill()

    def _watch(self, process: _Process, task: _Task) -> Outcome:
        item = task.item
        allowed = self.limits.seconds(item.stage, item.frames)
        deadline = time.monotonic() + allowed
        try:
            process.connection.send(item)
            while True:
                if self._closing.is_set():
                    process.kill()
                    raise _stopped(item)
                if process.connection.poll(POLL_SECONDS):
                    kind, value = process.connection.recv()
                    if kind == "done":
                        return value
                    if kind == "failed":
                        raise value
                    task.progress(value)
                # Also while progress arrives: a stage that reports is not thereby one that ends.
                if time.monotonic() > deadline:
                    process.kill()
                    raise _timeout(item, allowed)
                if process.memory() > self.limits.memory_bytes:
                    process.kill()
                    raise _memory_limit(item, self.limits.memory_bytes)
        except (EOFError, BrokenPipeError, ConnectionResetError) as gone:
            how = process.describe_end()
            process.kill()
            raise _died(item, how) from gone


def _ignore(frames: int) -> None:
    del frames


def _stopped(item: WorkItem) -> HeadswapError:
    return HeadswapError("stopped", f"{item.stage} of {item.label} was stopped.", "Give the same command again.", retryable=True)


def _timeout(item: WorkItem, allowed: float) -> HeadswapError:
    longer = f"`--set time_limits.{item.stage}=SECONDS --retry-failed`"
    if item.device != "cpu":
        return HeadswapError(
            "device_failed",
            f"{item.stage} of {item.label} was stopped after {allowed:.0f} seconds on the device {item.device}.",
            f"Look whether the device hangs (`nvidia-smi`, `dmesg`); if it is only slow, give the command again with {longer}.",
            retryable=True,
        )
    return HeadswapError(
        "timeout",
        f"{item.stage} of {item.label} was stopped after {allowed:.0f} seconds.",
        f"If the machine is slow, give the command again with {longer}; otherwise the file hangs its decoder.",
        retryable=True,
    )


def _memory_limit(item: WorkItem, limit: int) -> HeadswapError:
    return HeadswapError(
        "memory_limit",
        f"{item.stage} of {item.label} was stopped at {limit >> 20} MiB of memory.",
        f"Give the command again with `--set worker_memory={2 * limit} --retry-failed`, where the machine has as much; "
        "or use smaller media.",
    )


def _died(item: WorkItem, how: str) -> HeadswapError:
    if item.device != "cpu":
        return HeadswapError(
            "device_failed",
            f"The process working on {item.stage} of {item.label} on the device {item.device} died ({how}).",
            "The work is tried again, on another device where there is one; if it goes on, look at the device (`nvidia-smi`, "
            "`dmesg`) and at the machine's memory.",
            retryable=True,
        )
    return HeadswapError(
        "worker_died",
        f"The process working on {item.stage} of {item.label} died ({how}).",
        "If it happens again with this file alone, the file crashes its decoder; otherwise look at the machine's memory.",
        retryable=True,
    )


def _blame(lanes: Lanes[_Task], lane: str, task: _Task, error: HeadswapError, process: _Process) -> None:
    """Keep work away from the device at which it failed; the process ends, and gives back what it holds of the device."""
    if error.code == TOO_LARGE:
        process.kill()
        lanes.failed(task.name, lane, strike=False)
    elif error.code == "device_failed":
        process.kill()
        lanes.failed(task.name, lane)
        if lane not in lanes.open_lanes:  # said with the failure, which everybody who watches the run is told
            error.message += f" That was once too often: {lane} gets no more work in this run."


def _finish(future: Future[Outcome], work: Callable[[], Outcome]) -> None:
    try:
        future.set_result(work())
    except HeadswapError as error:
        future.set_exception(error)
    except KeyboardInterrupt as error:  # without processes the work is done where Ctrl-C arrives
        future.set_exception(error)
        raise
    except BaseException as error:  # noqa: BLE001 - a fault of the pool itself must not hang the run, whatever it raises
        wrapped = HeadswapError("internal_error", f"The worker pool failed: {error}.", "Please report this with the trace.")
        wrapped.trace = "".join(traceback.format_exception(error))
        future.set_exception(wrapped)


def _bytes_of_files(process: int | None) -> int:
    """Of a process' resident memory, what are pages of files: as Linux tells it, 0 elsewhere. Shared memory is none of them."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:")), 0)


class _Process:
    """One child process and the pipe to it."""

    def __init__(self, logs: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.log = None if logs is None else logs / f"worker-{os.getpid()}-{id(self):x}.log"
        self.process = context.Process(target=_child, args=(theirs, os.getpid(), self.log, dict(pipeline.STAGES)), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it can be given work. One that was killed cannot, even if it does not end."""
        return not self.connection.closed and self.process.is_alive()

    def memory(self) -> int:
        """Bytes of its own: without pages of files (mapped weights, libraries), which cost no memory that others want."""
        try:
            used = psutil.Process(self.process.pid).memory_info().rss
        except psutil.Error:
            return 0
        return used - _bytes_of_files(self.process.pid)

    def kill(self) -> None:
        if self.connection.closed:
            return
        self.process.kill()
        self.process.join(timeout=END_SECONDS)
        if self.process.is_alive():
            # It waits inside of a driver. When this program ends, multiprocessing would wait for it, and for ever.
            multiprocessing_process._children.discard(self.process)  # type: ignore[attr-defined]
        self.connection.close()
        if self.log is not None:
            self.log.unlink(missing_ok=True)

    def describe_end(self) -> str:
        self.process.join(timeout=END_SECONDS)
        code = self.process.exitcode
        if code is None:
            return "it does not end"
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        if self.log is None or not self.log.exists():
            return how
        lines = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip().splitlines()
        return f"{how}; last words: {lines[-1]}" if lines else how


def _child(connection: Connection, parent: int, log: Path | None, stages: dict[str, str]) -> None:
    """Main loop of a worker process. ``stages`` is the parent's list: both must mean the same."""
    pipeline.STAGES = stages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    end_with_parent(parent)  # a worker that lost its parent must not go on writing
    _settle(log)
    while True:
        try:
            item: WorkItem = connection.recv()
        except EOFError:
            return
        last = [time.monotonic(), 0]

        def progress(frames: int, last: list[Any] = last) -> None:
            last[1] += frames
            if time.monotonic() - last[0] > 0.2:
                connection.send(("progress", last[1]))
                last[:] = [time.monotonic(), 0]

        try:
            outcome = perform(item, progress)
            if last[1]:
                connection.send(("progress", last[1]))
            connection.send(("done", outcome))
        except HeadswapError as error:
            error.trace = "".join(traceback.format_exception(error.__cause__ or error))
            connection.send(("failed", error))
        _give_memory_back()


def _give_memory_back() -> None:
    """Between units: a process that lives all night would otherwise keep the most that any clip ever took."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc has its own ways
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _settle(log: Path | None) -> None:
    """No hidden threads, and native libraries' chatter into a file."""
    import cv2

    cv2.setNumThreads(1)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if sys.stderr is not None:
            sys.stderr.flush()
        if stream != 2:
            os.dup2(stream, 2)
            os.close(stream)
        else:  # there was no standard error
            os.set_inheritable(2, True)
        if sys.stderr is None:
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as long as the process lasts
