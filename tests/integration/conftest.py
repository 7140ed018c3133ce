"""Small real videos, made of the examples, and the command line as a person uses it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.video.decode import open_clip
from tests.media import write_video


@dataclass
class Ended:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        assert self.out, self.err
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class Headswap:
    """Runs the command in a process of its own, with nothing of this machine's settings."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        self.environment = {**kept, "HOME": str(home), "HEADSWAP_MODELS": str(home / "models"), "NO_COLOR": "1"}

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "cli", *map(str, arguments)]

    def __call__(self, *arguments: str | Path, timeout: float = 400, **more: str) -> Ended:
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**self.environment, **more},
            cwd=Path(__file__).resolve().parents[2],
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def headswap(tmp_path_factory: pytest.TempPathFactory) -> Headswap:
    return Headswap(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def speech_frames(examples: Path) -> list[np.ndarray]:
    """The first two seconds of an example clip."""
    with open_clip(examples / "clip_smile.mp4") as clip:
        return [picture.copy() for _, picture in clip.iterate(range(48))]


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory: pytest.TempPathFactory, speech_frames: list[np.ndarray]) -> Path:
    """Sixteen frames with sound."""
    path = tmp_path_factory.mktemp("media") / "short.mp4"
    write_video(path, speech_frames[:16], audio=True)
    return path


def write_catalogue(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def catalogue(tmp_path: Path) -> Callable[..., Path]:
    def make(*rows: dict[str, object], name: str = "night.csv") -> Path:
        return write_catalogue(tmp_path / name, [{"rights": "synthetic", **row} for row in rows])

    return make
