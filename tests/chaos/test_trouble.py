"""Trouble in the middle of a night: workers and runs killed, the store gone, the disk full. Nothing is lost, nothing hangs."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from storage.maintenance import fsck
from storage.store import ArtifactStore
from tests.disks import grow, mounted
from tests.integration.conftest import Headswap, headswap, speech_frames
from tests.nights import ROOT, Going, ObjectStore, digests, executed, inside, object_store, short_night

__all__ = ["headswap", "speech_frames"]

QUICK = ("--set", "retry.backoff_seconds=0.5", "--set", "retry.backoff_factor=2")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory, examples: Path, speech_frames: list[np.ndarray]) -> Path:
    return short_night(tmp_path_factory.mktemp("media"), examples, speech_frames)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, headswap: Headswap, catalogue: Path) -> Path:
    """The folder of the same night without trouble."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = headswap("run", catalogue, *places(folder), "--json")
    assert ended.status == 0, ended.err
    return folder


def places(folder: Path, engine: str = "direct") -> tuple[str | Path, ...]:
    return ("--store", folder / "store", "--out", folder / "out", "--engine", engine, "--workers", "1")


def committed(folder: Path, stage: str) -> Callable[[], bool]:
    """Whether something of a stage is committed."""
    return lambda: any((folder / "store" / "commits" / stage).glob("*.json"))


def check_same(folder: Path, undisturbed: Path) -> None:
    store = ArtifactStore.open(folder / "store")
    assert digests(store) == digests(ArtifactStore.open(undisturbed / "store"))
    for name in ("a.mp4", "b.mp4"):
        assert (folder / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()
    assert not fsck(store).damaged


def test_a_killed_worker_is_replaced_and_the_run_completes(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path
) -> None:
    going = Going(headswap, "run", catalogue, *places(tmp_path), *QUICK, "--json")
    going.wait_until(committed(tmp_path, "landmarks"))
    workers = going.workers()
    assert workers
    for worker in workers:
        worker.kill()
    status, _, err = going.end()
    assert status == 0, err
    check_same(tmp_path, undisturbed)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_run_that_is_asked_to_stop_ends_at_once_and_goes_on_later(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    going = Going(headswap, "run", catalogue, *places(tmp_path), "--json")
    going.wait_until(committed(tmp_path, "landmarks"))
    going.process.send_signal(number)
    status, out, err = going.end(seconds=20)
    assert (status, out) == (expected, "")
    assert "same command" in err
    stopped = inside(headswap, "status", "--store", tmp_path / "store", "--json").document
    assert stopped["state"] == "interrupted"
    assert stopped["unfinished"]
    again = headswap("run", catalogue, *places(tmp_path), "--json")
    assert again.status == 0, again.err
    check_same(tmp_path, undisturbed)


@pytest.mark.parametrize(
    ("engine", "script"),
    [
        ("direct", '"$@" 2>&1 | head -1; exit ${PIPESTATUS[0]}'),
        pytest.param("prefect", '"$@" 2>&1 | head -1; exit ${PIPESTATUS[0]}', marks=pytest.mark.slow),
        ("direct", '"$@" 2>&-'),
    ],
)
def test_a_run_whose_progress_nobody_reads_completes(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path, engine: str, script: str
) -> None:
    command = headswap.command("run", catalogue, *places(tmp_path, engine))
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command],
        env=headswap.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0
    check_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_two_runs_on_one_store_at_the_same_time_do_not_disturb_each_other(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path
) -> None:
    where = ("--store", tmp_path / "store", "--engine", "direct", "--workers", "1", "--json")
    both = [Going(headswap, "run", catalogue, *where, "--out", tmp_path / name) for name in ("out", "out2")]
    work: Counter[str] = Counter()
    for going in both:
        status, out, err = going.end()
        assert status == 0, err
        work.update({name: total["executed"] for name, total in json.loads(out)["stages"].items()})
    check_same(tmp_path, undisturbed)
    for name in ("a.mp4", "b.mp4"):
        assert (tmp_path / "out2" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()
    store = ArtifactStore.open(tmp_path / "store")
    assert all(count <= 2 * len(store.committed(stage)) for stage, count in work.items())


def prefect_servers(headswap: Headswap) -> list[psutil.Process]:
    """Servers that this session's runs started: others may be at work on this machine."""
    from flows.prefect_engine import SERVER_MARK  # Prefect takes seconds to import

    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        variables = process.info["environ"] or {}
        ours = SERVER_MARK in variables and variables.get("HOME") == str(headswap.home)
        if ours and any("prefect.server" in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_stopped_run_with_prefect_goes_on_and_leaves_no_server(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    going = Going(headswap, "run", catalogue, *places(tmp_path, "prefect"), "--json")
    going.wait_until(committed(tmp_path, "landmarks"), seconds=240)
    before = len(digests(ArtifactStore.open(tmp_path / "store")))
    servers = prefect_servers(headswap)
    assert servers
    going.process.send_signal(number)
    if number == signal.SIGKILL:
        psutil.wait_procs(going.workers(), timeout=10)
        going.children = []
    status, out, err = going.end(seconds=60)
    assert (status, out) == ({signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number], "")
    assert "ERROR" not in err, "to be stopped is no crash"
    again = headswap("run", catalogue, *places(tmp_path, "prefect"), "--json")
    assert again.status == 0, again.err
    assert executed(again.document) <= len(digests(ArtifactStore.open(tmp_path / "store"))) - before
    check_same(tmp_path, undisturbed)
    _, alive = psutil.wait_procs(servers, timeout=20)
    assert not alive
    assert not prefect_servers(headswap)


@pytest.fixture
def server() -> Iterator[ObjectStore]:
    with object_store() as started:
        yield started


def remote(folder: Path, server: ObjectStore) -> tuple[str | Path, ...]:
    return ("--store", f"s3://{server.bucket}/store", "--out", folder / "out", "--engine", "direct", "--workers", "1", "--json")


def is_there(server: ObjectStore, prefix: str) -> Callable[[], bool]:
    client = server.client()
    return lambda: client.list_objects_v2(Bucket=server.bucket, Prefix=prefix)["KeyCount"] > 0


def check_results(folder: Path, undisturbed: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        assert (folder / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()


def test_a_store_that_stays_away_ends_the_run_with_its_reason_and_loses_nothing(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path, server: ObjectStore
) -> None:
    going = Going(headswap, "run", catalogue, *remote(tmp_path, server), *QUICK, **server.environment)
    going.wait_until(is_there(server, "store/commits/landmarks/"))
    server.stop()
    status, out, err = going.end(seconds=120)
    assert status == 1, err
    assert "store_unreachable" in out
    assert "Traceback" not in err
    server.start()
    again = headswap("run", catalogue, *remote(tmp_path, server), **server.environment)
    assert again.status == 0, again.err
    assert again.document["stages"]["landmarks"]["cached"] + again.document["stages"]["ingest"]["cached"] > 0
    check_results(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_store_that_comes_back_is_waited_for(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path, server: ObjectStore
) -> None:
    going = Going(headswap, "run", catalogue, *remote(tmp_path, server), **server.environment)
    going.wait_until(is_there(server, "store/commits/landmarks/"))
    server.stop()
    time.sleep(6)
    server.start()
    status, _, err = going.end()
    assert status == 0, err
    check_results(tmp_path, undisturbed)


def test_a_full_disk_fails_what_it_cannot_hold_and_the_same_command_goes_on_with_more_room(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "1500k") as disk:
        where = ("--store", disk / "store", "--out", tmp_path / "out", "--engine", "direct", "--workers", "1", "--json")
        full = headswap("run", catalogue, *where, *QUICK)
        assert full.status == 1, full.err
        failures = [job["failure"] for job in full.document["jobs"] if job["status"] == "failed"]
        assert {failure["code"] for failure in failures} == {"store_full"}
        assert all("space" in failure["remedy"].lower() for failure in failures)
        assert executed(full.document) > 0
        grow(disk, "64m")
        again = headswap("run", catalogue, *where)
        assert again.status == 0, again.err
        check_results(tmp_path, undisturbed)
        assert sum(total["cached"] for total in again.document["stages"].values()) > 0, "what was committed is not done again"


@pytest.mark.slow
def test_results_that_do_not_fit_are_kept_in_the_store(
    headswap: Headswap, catalogue: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "16k") as disk:
        where = ("--store", tmp_path / "store", "--out", disk / "out", "--engine", "direct", "--workers", "1", "--json")
        full = headswap("run", catalogue, *where, *QUICK)
        assert full.status == 1, full.err
        assert {job["failure"]["code"] for job in full.document["jobs"] if job["failure"]} == {"output_failed"}
        assert full.document["report"] is None
        grow(disk, "64m")
        again = headswap("run", catalogue, *where)
        assert again.status == 0, again.err
        assert executed(again.document) == 0, "only put where they belong"
        for name in ("a.mp4", "b.mp4"):
            assert (disk / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()
