"""A run among several processes: ``torchrun --nproc_per_node 2 -m tests.stages.training.shared_run OUT [PHASE STEP]``.

The first process dies when it is told of that step of that phase.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from stages.training.run import Order, train
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.tiny_recipes import tiny_recipe


def die(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
    if [phase, str(step)] == sys.argv[2:]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    train(Order(tiny_recipe(), Path(sys.argv[1]), Discs(), Discs(seed=1), "discs", device="cpu"), resume=True, tell=die)
