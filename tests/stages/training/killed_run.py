"""A run in a process of its own, to be killed: ``python -m tests.stages.training.killed_run OUT NORMALISATION``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from stages.networks.presets import PRESETS, TINY
from stages.training.run import Order, train
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.tiny_recipes import tiny_recipe

if __name__ == "__main__":
    # As in the preset full, whose PoseGuider keeps running statistics.
    PRESETS["tiny"] = replace(TINY, pose=replace(TINY.pose, normalisation=sys.argv[2]))
    order = Order(tiny_recipe(steps=12, save_every=3), Path(sys.argv[1]), Discs(), Discs(seed=1), "discs", device="cpu")
    train(order, resume=True)
