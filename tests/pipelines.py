"""Pipelines of no size with random weights, registered: all parts of the renderer, and nothing a person would call a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from stages.networks import presets
from stages.networks.importing import Terms, import_pipeline
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.presets import TINY, Preset
from stages.networks.registered import write_sampling
from stages.networks.registry import ModelRegistry


def random_pipeline(preset: Preset = TINY, *, background: bool = True) -> HeadSwapPipeline:
    """Untrained, but with nothing left at zero: motion, pose and (where wanted) background have an effect."""
    made = presets.build(preset, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in (made.denoising_net, made.pose_guider):
            for name, parameter in network.named_parameters():
                if parameter.ndim > 1 and float(parameter.abs().max()) == 0:
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
                elif name == "conv_in.weight" and background and parameter.shape[1] == 8:
                    parameter[:, 4:] = 0.2 * torch.randn(parameter[:, 4:].shape, generator=generator)
    return made


def register_random(
    folder: Path, name: str, preset: Preset = TINY, *, background: bool = True, sampling: Mapping[str, object] | None = None
) -> Path:
    """Register such a pipeline in a folder of models, with how it wants to be sampled; returns the pipeline's own folder."""
    saved = folder.parent / f"{name}-saved"
    random_pipeline(preset, background=background).save_pretrained(saved)
    if sampling is not None:
        write_sampling(saved, sampling)
    terms = Terms("of no use to anybody", True, "random numbers")
    return ModelRegistry(folder).add_pipeline(name, lambda made: import_pipeline(name, saved, made, terms))
