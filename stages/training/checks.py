"""What can be known to go wrong before anything is trained: a later phase must not fail when days of earlier ones are done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.networks.presets import PRESETS
from stages.training.recipe import DiffusionPhase, Recipe

INDEX = "model_index.json"


def start_problems(recipe: Recipe, start: Path) -> list[str]:
    """Why a recipe cannot begin with a saved pipeline, by what its configuration says; no weights are read.

    Args:
        recipe: what is to be done. start: folder of ``HeadSwapPipeline.save_pretrained``.

    Returns:
        Sentences; none where nothing is wrong. A configuration that cannot be read is told when the pipeline is loaded.
    """
    if not (start / INDEX).is_file():
        return [f"{start} is no saved pipeline: it holds no {INDEX}."]
    try:
        config: dict[str, Any] = json.loads((start / "denoising_net" / "config.json").read_text(encoding="utf-8"))
        sizes = (tuple(config["channels"]), config["layers"], config["heads"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    problems = []
    wanted = PRESETS[recipe.preset].unet
    if sizes != (wanted.channels, wanted.layers, wanted.heads):
        fitting = [
            name for name, preset in PRESETS.items() if sizes == (preset.unet.channels, preset.unet.layers, preset.unet.heads)
        ]
        told = (
            f"the size {fitting[0]}"
            if fitting
            else f"other sizes (channels {list(sizes[0])}, layers {sizes[1]}, heads {sizes[2]})"
        )
        problems.append(f"{start} has {told}; the recipe {recipe.name} is for the preset {recipe.preset}.")
    if not config.get("motion", True):
        problems += [
            f"{start} has no motion modules, which phase {phase.name} trains."
            for phase in recipe.phases
            if isinstance(phase, DiffusionPhase) and "motion_modules" in phase.trains
        ]
    return problems
