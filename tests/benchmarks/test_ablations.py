"""What the ablations change and count, on windows painted by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.ablations import RECIPE, WAYS, Swap, Way, before, parts, summary, told, written, zones
from stages.blocks import FOREGROUND_BLOCKS, block_grid, dilate, shape_agnostic_grid
from stages.segmentation import BACKGROUND, CLOTH, FACE, HAIR, NECK
from stages.training.augmentation import Draw, compose
from stages.training.recipe import read_recipe
from tests.stages.training.painted_windows import SIZE, painted_window

WHITE = np.full((SIZE, SIZE, 3), 255, np.uint8)


def test_holes_are_blocks_or_follow_the_outline_closely() -> None:
    window = painted_window(1)
    person = window.labels[0] != BACKGROUND
    blocks, outline = (
        (Way(blocks=blocks).filled(window, 0).backgrounds[0] != window.backgrounds[0]).any(-1) for blocks in (True, False)
    )
    assert not (outline & ~dilate(person, 3)).any()
    assert (outline & person).sum() > 0.95 * person.sum()
    assert np.array_equal(block_grid(blocks, FOREGROUND_BLOCKS), shape_agnostic_grid(person))


def test_people_stand_before_the_new_background_as_they_stood_before_the_old_one() -> None:
    window = painted_window(3)
    moved = before(window, 255 - window.backgrounds)
    opaque = window.opacity == 255
    assert np.abs(moved.pictures.astype(int) - window.pictures)[opaque].max() <= 1
    nobody = window.opacity == 0
    assert np.array_equal(moved.pictures[nobody], 255 - window.backgrounds[nobody])


def test_cloth_that_is_not_enhanced_is_all_cloth_but_for_its_border() -> None:
    window = painted_window(3)
    shoulders = window.shoulders[0]
    labels = window.labels[0]
    whole, kept = (Way(enhanced=enhanced).cloth(labels, shoulders, None) for enhanced in (False, True))
    assert kept.sum() < 0.6 * whole.sum()
    assert not (kept & ~whole).any()
    assert not (whole & (labels != CLOTH)).any()
    assert whole.sum() > 0.85 * (labels == CLOTH).sum()


def test_ways_without_a_part_leave_everything_else_as_it_is() -> None:
    plain = Way(scaled=False).augmentation
    assert (plain.smallest, plain.largest) == (1.0, 1.0)
    assert plain.long_hair == Way().augmentation.long_hair
    assert Way(enhanced=False).augmentation.long_hair == 0
    assert Way(enhanced=False).augmentation.smallest == Way().augmentation.smallest
    assert len(set(WAYS.values())) == len(WAYS)


def test_zones_are_where_only_one_of_two_pictures_shows_the_head() -> None:
    own, true = (np.full((8, 8), BACKGROUND, np.uint8) for _ in range(2))
    own[5:], true[5:] = CLOTH, CLOTH
    own[1:4, 2:6] = FACE
    true[1:4, 3:7] = FACE
    own[5, 2], true[5, 6] = HAIR, HAIR
    own[4, 3], true[4, 3] = NECK, NECK
    found = zones(own, true)
    places = {name: sorted({int(x) for x in np.nonzero(zone)[1]}) for name, zone in found.items()}
    assert list(places.values()) == [[2], [6], [2], [6]]
    assert [int(zone.sum()) for zone in found.values()] == [3, 3, 1, 1]


def test_the_truth_is_right_everywhere_and_the_video_s_own_picture_nowhere() -> None:
    window = painted_window(4)
    sample = compose(window, WHITE, Draw(1.0, None))
    own = 255 - sample.target[0]
    everywhere = np.ones((SIZE, SIZE), bool)
    swap = Swap(sample, own, {"all": everywhere, "none": ~everywhere})
    right, of = told(sample.target[0], swap)["all"]
    assert right == of > 0
    assert told(own, swap)["all"] == (0, of)
    assert told(own, swap)["none"] == (0, 0)


def test_differences_are_taken_on_the_same_swaps_and_empty_zones_count_nowhere() -> None:
    values = {"a": {"head": [10.0, 12.0], "hair": [0.5, float("nan")]}, "b": {"head": [9.0, 11.0], "hair": [0.25, float("nan")]}}
    found = summary(values)
    assert found["b"]["head"][:1] == [10.0]
    assert found["b"]["head"][3:] == [-1.0, -1.0, -1.0]
    assert found["a"]["hair"][3:] == [0.0, 0.0, 0.0]
    assert found["b"]["hair"][0] == 0.25
    table = written(found).splitlines()
    assert len(table) == 4
    assert table[3].startswith("| b | 10.00 (-1.00 to -1.00) | 25 (-25 to -25) |")


def test_all_ways_share_the_autoencoder_and_train_the_rest_alike() -> None:
    shared, each = parts(read_recipe(RECIPE))
    assert [phase.kind for phase in shared.phases] == ["autoencoder"]
    assert {phase.kind for phase in each.phases} == {"diffusion"}
    assert (shared.start, each.start) == ("random", "published")
