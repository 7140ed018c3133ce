"""What is counted of an autoencoder's colours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.ablations import RECIPE
from benchmarks.tints import errors, with_tint
from stages.training.recipe import AutoencoderPhase
from stages.training.recipe_files import read_recipe
from tests.stages.painting import textured


def test_blur_costs_detail_and_a_lost_colour_costs_tint() -> None:
    truth = textured(64, 64, seed=1)
    truth[:32] = (150, 40, 160)
    head = np.zeros((64, 64), bool)
    head[16:48, 16:48] = True
    same = errors([truth], [truth], [head])
    assert [same[name] for name in ("lightness", "its detail", "tint", "tint, vivid colours")] == [0, 0, 0, 0]
    blurred = errors([truth], [cv2.GaussianBlur(truth, (0, 0), 2)], [head])
    grey = np.repeat(cv2.cvtColor(truth, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    lost = errors([truth], [grey], [head])
    assert blurred["its detail"] > lost["its detail"]
    assert lost["tint, vivid colours"] > 40 > blurred["tint, vivid colours"]
    assert lost["PSNR, dB"] < 25


def test_nothing_vivid_counts_nowhere() -> None:
    grey = np.full((16, 16, 3), 90, np.uint8)
    assert np.isnan(errors([grey], [grey + 10], [np.ones((16, 16), bool)])["tint, vivid colours"])


def test_only_the_weight_of_tints_differs() -> None:
    recipe = read_recipe(RECIPE)
    one, other = with_tint(recipe, 0.0), with_tint(recipe, 1.0)
    assert [len(each.phases) for each in (one, other)] == [1, 1]
    first, second = one.phases[0], other.phases[0]
    assert isinstance(first, AutoencoderPhase)
    assert isinstance(second, AutoencoderPhase)
    assert (first.tint, second.tint) == (0.0, pytest.approx(1.0))
    assert first.model_copy(update={"tint": 1.0}) == second
