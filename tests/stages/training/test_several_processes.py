"""Training shared among processes, as on several GPUs; here two on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.problems import UsageError
from stages.training.run import Order, train
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.saved_weights import same, weights_of
from tests.stages.training.tiny_recipes import tiny_recipe

ROOT = Path(__file__).resolve().parents[3]
PHASES = tuple(phase.name for phase in tiny_recipe().phases)


def run(out: Path, *death: str) -> int:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "tests.stages.training.shared_run", str(out), *death]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600, check=False).returncode


def test_two_processes_train_one_pipeline_and_one_alone_does_not_go_on_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out) == 0
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = [(row["phase"], row["step"]) for row in rows if "loss" in row]
    assert told == [(phase, step) for phase in PHASES for step in (1, 2)]
    assert (out / "pipeline" / "README.md").is_file()
    with pytest.raises(UsageError, match="number of processes"):
        train(Order(tiny_recipe(), out, Discs(), Discs(seed=1), "discs", device="cpu"), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("death", [("autoencoder", "2"), ("single-frames", "2"), ("motion", "1")])
def test_two_processes_of_which_one_is_killed_go_on_to_the_bit(tmp_path: Path, death: tuple[str, str]) -> None:
    assert run(tmp_path / "straight") == 0
    assert run(tmp_path / "killed", *death) != 0
    assert not (tmp_path / "killed" / "pipeline").exists()
    assert run(tmp_path / "killed") == 0
    for phase in PHASES:
        straight = weights_of(tmp_path / "straight" / "pipelines" / phase)
        assert straight
        assert same(weights_of(tmp_path / "killed" / "pipelines" / phase), straight), phase
