"""Block masks: they cover the person, betray nothing finer than a block, and follow the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.blocks import (
    block_grid,
    dilate,
    enhance_cloth,
    expand_grid,
    shape_agnostic_grid,
    shape_agnostic_mask,
    shoulder_rectangles,
)


def _blob(size: int, x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@given(st.integers(0, 127), st.integers(0, 127), st.integers(0, 40), st.sampled_from([8, 16, 32]))
@settings(max_examples=40, deadline=None)
def test_a_block_is_set_exactly_where_any_of_its_pixels_is(x: int, y: int, radius: int, blocks: int) -> None:
    mask = _blob(128, x, y, radius)
    grid = block_grid(mask, blocks)
    step = 128 // blocks
    for row in range(blocks):
        for column in range(blocks):
            assert grid[row, column] == mask[row * step : (row + 1) * step, column * step : (column + 1) * step].any()


@given(st.integers(0, 255), st.integers(0, 255), st.integers(1, 80), st.floats(0, 0.05))
@settings(max_examples=30, deadline=None)
def test_the_shape_agnostic_mask_covers_the_dilated_person(x: int, y: int, radius: int, dilation: float) -> None:
    mask = _blob(256, x, y, radius)
    covered = shape_agnostic_mask(mask, dilation)
    assert not (dilate(mask, dilation * 256) & ~covered).any()


def test_shapes_that_differ_by_less_than_a_block_cannot_be_told_apart() -> None:
    mask = np.zeros((256, 256), bool)
    mask[96:160, 96:160] = True
    other = mask.copy()
    other[96:160:3, 150:159] = False
    other[100, 100:120] = False
    assert np.array_equal(shape_agnostic_grid(mask, 0), shape_agnostic_grid(other, 0))


def test_an_empty_person_gives_an_empty_grid() -> None:
    assert not shape_agnostic_mask(np.zeros((128, 128), bool)).any()


def test_the_grid_is_anchored_at_the_corner_of_the_crop() -> None:
    mask = np.zeros((512, 512), bool)
    mask[31, 32] = True
    assert np.argwhere(block_grid(mask, 16)).tolist() == [[0, 1]]


@given(st.integers(1, 16).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=n, max_size=n)))
@settings(max_examples=30, deadline=None)
def test_expanding_and_gridding_are_inverse(rows: list[list[bool]]) -> None:
    grid = np.array(rows)
    assert np.array_equal(block_grid(expand_grid(grid, 4 * len(rows)), len(rows)), grid)


def test_a_mask_that_does_not_divide_into_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="equal blocks"):
        block_grid(np.zeros((100, 100), bool), 16)
    with pytest.raises(ValueError, match="does not fill"):
        expand_grid(np.zeros((16, 16), bool), 100)


def test_shoulder_rectangles_reach_the_lower_border_and_leave_the_chest_free() -> None:
    mask = shoulder_rectangles(np.array([400, 380, 0.9, 112, 390, 0.9]), 512)
    assert mask[400, 400]
    assert mask[511, 112]
    assert mask[390:, 112].all()
    assert not mask[:379].any()
    assert not mask[:, 256].any()
    assert not mask[385, 112]


def test_a_shoulder_that_is_not_seen_gives_no_rectangle() -> None:
    mask = shoulder_rectangles(np.array([[400, 380, 0.05], [112, 390, 0.9]]), 512)
    assert not mask[:, 256:].any()
    assert mask[:, :256].any()
    assert not shoulder_rectangles(np.full(6, np.nan), 512).any()


@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_a_shoulder_that_is_not_known_takes_no_other_with_it(unknown: int) -> None:
    shoulders = np.array([[400, 380, 0.9], [112, 380, 0.9]])
    both = shoulder_rectangles(shoulders, 512)
    shoulders[0, unknown] = np.nan
    mask = shoulder_rectangles(shoulders, 512)
    assert not mask[:, 256:].any()
    assert np.array_equal(mask[:, :256], both[:, :256])  # these shoulders lie as far from the middle of the crop


def test_what_survives_of_the_cloth_is_outside_of_hair_and_rectangles() -> None:
    random = np.random.default_rng(0)
    cloth, hair, rectangles = random.random((3, 64, 64)) > 0.5
    expected = cloth.astype(int) * (1 - hair) * (1 - rectangles)  # the formula of the paper
    assert np.array_equal(enhance_cloth(cloth, hair, rectangles), expected > 0)
    assert np.array_equal(enhance_cloth(cloth, None, rectangles), cloth & ~rectangles)
