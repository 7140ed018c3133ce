"""The long form of the promise that a killed run goes on to the bit: kill -9 at random moments. `make training` runs it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stages.training.saved_weights import same, weights_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["frame", "window"])
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(tmp_path: Path, normalisation: str) -> None:
    def begin(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "tests.stages.training.killed_run", str(out), normalisation], cwd=ROOT)

    def logged(out: Path) -> int:
        metrics = out / "metrics.jsonl"
        return metrics.read_text().count('"loss"') if metrics.exists() else 0

    straight_out, killed_out = tmp_path / "straight", tmp_path / "killed"
    assert begin(straight_out).wait() == 0
    moments, kills = random.Random(5), 0
    while True:
        # By what it has done, not by the clock: how long a run takes depends on what runs beside it.
        wanted = logged(killed_out) + moments.randint(1, 5)
        process = begin(killed_out)
        while process.poll() is None and logged(killed_out) < wanted:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills > 0
    straight = weights_of(straight_out / "pipeline")
    assert straight
    assert same(weights_of(killed_out / "pipeline"), straight)
    assert logged(straight_out) == logged(killed_out)
