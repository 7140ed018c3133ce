"""What the tests of whole runs share: a short night, an object store that can be switched off, and looks into stores."""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from cli import app
from flows.pipeline import STAGES
from storage.store import ArtifactStore
from tests.integration.conftest import Ended, Headswap, write_catalogue
from tests.media import write_video

ROOT = Path(__file__).resolve().parent.parent


def short_night(folder: Path, examples: Path, frames: list[np.ndarray]) -> Path:
    """A catalogue of two jobs on two clips of eight frames, one with sound."""
    one = write_video(folder / "one.mp4", frames[:8], audio=True)
    two = write_video(folder / "two.mp4", frames[8:16])
    return write_catalogue(
        folder / "night.csv",
        [
            {"id": "a", "source": examples / "portrait_ada.png", "target": one, "rights": "synthetic"},
            {"id": "b", "source": examples / "portrait_ben.png", "target": two, "rights": "synthetic"},
        ],
    )


def digests(store: ArtifactStore) -> dict[tuple[str, str], str]:
    """Content digests of all that the stages committed."""
    items = [(stage, key) for stage in STAGES for key in store.committed(stage)]
    return {item: manifest.digest for item, manifest in store.lookup_many(items).items()}


def inside(headswap: Headswap, *arguments: str | Path, **more: str) -> Ended:
    """The command in this process: for the quick ones, which would take most of their time to load libraries."""
    if "s3fs" in sys.modules:
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()  # it remembers the endpoint of an earlier test
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={**headswap.environment, **more})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


def executed(document: dict[str, Any]) -> int:
    """Units of work that a run did."""
    return sum(total["executed"] for total in document["stages"].values())


class ObjectStore:
    """S3 as moto serves it on this machine; ``stop`` and ``start`` again keep the port and what is stored."""

    def __init__(self) -> None:
        self.bucket = f"night-{secrets.token_hex(4)}"  # moto keeps what is stored as long as the process lives
        self.port = 0
        self._server: Any = None
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        server = pytest.importorskip("moto.server")
        self._server = server.ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def client(self) -> Any:
        boto3 = pytest.importorskip("boto3")
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )

    def open(self, url: str) -> ArtifactStore:
        return ArtifactStore.open(
            url,
            storage_options={"endpoint_url": self.environment["AWS_ENDPOINT_URL"], "key": "test", "secret": "test"},
        )


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    server = ObjectStore()
    try:
        server.client().create_bucket(Bucket=server.bucket)
        yield server
    finally:
        server.stop()


class Going:
    """The command in a process of its own, while it goes on."""

    def __init__(self, headswap: Headswap, *arguments: str | Path, **more: str) -> None:
        # Files, not pipes: what a killed run leaves behind for a moment would hold a pipe open.
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._err = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            headswap.command(*arguments),
            env={**headswap.environment, **more},
            cwd=ROOT,
            stdout=self._out,
            stderr=self._err,
        )
        self.children: list[psutil.Process] = []

    def wait_until(self, happened: Callable[[], bool], seconds: float = 120) -> None:
        """Returns once it happened; fails when the command ended before."""
        deadline = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode} too early: {self._told()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError("it never happened")
            time.sleep(0.02)
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """Its workers end by themselves then."""
        self.process.kill()
        self.process.wait()

    def _told(self) -> tuple[str, str]:
        self._out.seek(0)
        self._err.seek(0)
        return self._out.read(), self._err.read()

    def workers(self) -> list[psutil.Process]:
        return [child for child in self.children if "spawn_main" in " ".join(child.cmdline())]

    def end(self, seconds: float = 300) -> tuple[int, str, str]:
        """Exit status, stdout and stderr; no process may be left."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        _, alive = psutil.wait_procs(self.children, timeout=10)
        assert not alive, "processes outlive the command"
        return self.process.returncode, *self._told()
