"""A run whose samples are made by two workers, to be stopped: ``python -m tests.stages.training.run_with_workers OUT``.

Prints the workers' process ids, one by one as each makes its first sample, and ``step N`` after every step.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stages.training.ahead import SamplesAhead
from stages.training.samples import TrainingSample
from tests.stages.training.made_up_samples import Discs


class SlowDiscs(Discs):
    """Slow enough that workers are at work whenever they are stopped."""

    told = False

    def sample(self, number: int, frames: int) -> TrainingSample:
        if not self.told:
            print(f"worker {os.getpid()}", flush=True)
            self.told = True
        time.sleep(0.2)
        return super().sample(number, frames)


def tell(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
    print(f"step {step}", flush=True)


if __name__ == "__main__":
    # Not above: workers import this module, and need no PyTorch.
    from stages.training.run import Order, train
    from tests.stages.training.tiny_recipes import tiny_recipe

    recipe = tiny_recipe(steps=100_000, save_every=100_000)
    content = recipe.phases[0].model_copy(update={"cached_samples": None})
    recipe = recipe.model_copy(update={"phases": (content, *recipe.phases[1:])})
    order = Order(recipe, Path(sys.argv[1]), Discs(), Discs(seed=1), "discs", device="cpu")
    with SamplesAhead(SlowDiscs, 2) as ahead:
        train(replace(order, train=ahead), tell=tell)
