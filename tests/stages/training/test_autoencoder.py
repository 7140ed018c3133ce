"""Pieces of pictures that the autoencoder is trained on."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from stages.networks.presets import TINY, build
from stages.training.autoencoder import AutoencoderTask
from stages.training.recipe import AutoencoderPhase
from tests.stages.training.made_up_samples import Discs
from tests.stages.training.tiny_recipes import tiny_recipe


def pieces(recoloured: float) -> list[NDArray[np.uint8]]:
    phase = tiny_recipe().phases[0]
    assert isinstance(phase, AutoencoderPhase)
    chosen = phase.model_copy(update={"recoloured": recoloured})
    task = AutoencoderTask(build(TINY).vae, chosen, Discs(seed=1), 3, Accelerator(cpu=True), lambda step: {})
    return [task._piece(number, torch.Generator().manual_seed(number)) for number in range(40)]


def test_recoloured_pieces_are_the_same_pieces_with_their_channels_in_another_order() -> None:
    plain, recoloured, half = pieces(0.0), pieces(1.0), pieces(0.5)
    for one, other in zip(plain, recoloured, strict=True):
        assert np.array_equal(np.sort(one, -1), np.sort(other, -1))
    changed = [sum(not np.array_equal(*pair) for pair in zip(plain, others, strict=True)) for others in (recoloured, half)]
    assert 25 <= changed[0] <= 40  # one order in six is the old one; a piece without colours has only one
    assert 5 <= changed[1] < changed[0]
