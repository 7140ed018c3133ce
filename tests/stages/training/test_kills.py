"""The long form of the promise that a killed run goes on to the bit: kill -9 at random moments. `make training` runs it."""

from __future__ import annotations

import random
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

    started = time.monotonic()
    assert begin(tmp_path / "straight").wait() == 0
    whole = time.monotonic() - started
    moments, kills = random.Random(5), 0
    while True:
        process = begin(tmp_path / "killed")
        try:
            assert process.wait(whole * moments.uniform(0.4, 0.9)) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills > 0
    straight = weights_of(tmp_path / "straight" / "pipeline")
    assert straight
    assert same(weights_of(tmp_path / "killed" / "pipeline"), straight)
    assert (tmp_path / "straight" / "metrics.jsonl").read_text().count('"loss"') == (
        tmp_path / "killed" / "metrics.jsonl"
    ).read_text().count('"loss"')
