"""What runs in the sandbox may crash, hang or eat memory: the caller gets an error that names the file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from schemas.problems import MediaError
from stages.video.decode import probe
from stages.video.sandbox import run_limited
from tests.media import moving_pictures, write_video


def crash(path: Path) -> None:
    del path
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(path: Path) -> None:
    del path
    time.sleep(60)


def eat(path: Path) -> int:
    del path
    return int(np.ones(2**33, np.uint8).sum())


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [(crash, "decoder_crashed", "SIGSEGV"), (hang, "decoder_timeout", "2 seconds"), (eat, "decoder_memory", "memory")],
)
def test_a_misbehaving_reader_becomes_an_error(function: object, code: str, words: str) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        run_limited(function, Path("clip.mp4"), seconds=2 if function is hang else 30, memory_bytes=3 * 2**30)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert "clip.mp4" in caught.value.message


def test_results_and_errors_come_through(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(3))
    assert run_limited(probe, path) == probe(path)
    with pytest.raises(MediaError) as caught:
        run_limited(probe, tmp_path / "nothing.mp4")
    assert caught.value.code == "file_missing"
