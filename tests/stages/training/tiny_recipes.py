"""Recipes of a few steps of the tiny preset."""

from __future__ import annotations

from typing import Any

from stages.training.recipe import Recipe


def tiny_recipe(**changes: Any) -> Recipe:
    """An autoencoder, single frames (two batches a step), motion; ``steps`` each (default 2); ``changes`` of the recipe."""
    steps = changes.pop("steps", 2)
    keeping = {"log_every": 1, "save_every": changes.pop("save_every", 1), "validate_every": 100, "keep": 2}
    common = {"learning_rate": 1e-3, "warmup": 2, "decay": "cosine", "precision": "float32"}
    diffusion = {"kind": "diffusion", "batch": 2, "steps": steps, "head": 0.5, "identity": 0.1, "judged": 1, "keeping": keeping}
    everything = ["appearance_net", "denoising_net", "pose_guider", "image_encoder"]
    content: dict[str, Any] = {
        "name": "tiny",
        "preset": "tiny",
        "seed": 3,
        "start": "random",
        "validation_samples": 1,
        "validation_steps": 1,
        "phases": [
            {
                "kind": "autoencoder",
                "name": "autoencoder",
                "size": 64,
                "crop": 32,
                "batch": 2,
                "steps": steps,
                "cached_samples": 3,
                "edges": 1.0,
                "divergence": 1e-3,
                "optimisation": common,
                "keeping": keeping,
            },
            {
                **diffusion,
                "name": "single-frames",
                "size": 64,
                "frames": 1,
                "trains": everything,
                "cached_samples": 4,
                "optimisation": {**common, "accumulate": 2},
            },
            {
                **diffusion,
                "name": "motion",
                "size": 32,
                "frames": 2,
                "batch": 1,
                "trains": ["motion_modules"],
                "optimisation": {**common, "gradient_checkpointing": True},
            },
        ],
    }
    return Recipe.model_validate({**content, **changes})
