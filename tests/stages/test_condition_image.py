"""What the diffusion network is shown: background, surviving cloth and a head on white."""

from __future__ import annotations

import numpy as np
import pytest

from stages import segmentation as parts
from stages.blocks import dilate, expand_grid, hair_grid, shoulder_rectangles
from stages.condition_image import condition_image, head_mask, reference_picture, surviving_cloth
from tests.stages.painting import paint_person

SHOULDERS = np.array([380, 380, 1, 132, 380, 1], float)


def _frame(long_hair: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    background = np.full((512, 512, 3), (90, 140, 110), np.uint8)
    picture, labels, _ = paint_person(background, (256, 200), 160, long_hair)
    return picture, labels, background


def test_the_condition_image_is_background_with_the_cloth_that_survives() -> None:
    picture, labels, background = _frame(long_hair=True)
    image, cloth = condition_image(background, picture, labels, SHOULDERS)
    hair = expand_grid(hair_grid(labels == parts.HAIR), 512)
    raised = SHOULDERS - np.array([0, 62, 0, 0, 62, 0])  # half of half their distance
    allowed = (labels == parts.CLOTH) & ~hair & ~shoulder_rectangles(raised, 512)
    assert cloth.any()
    assert not (cloth & ~allowed).any()
    assert not (allowed & ~cloth & ~dilate((labels != parts.CLOTH) & (labels != parts.BACKGROUND), 3)).any()
    assert np.array_equal(image[cloth], picture[cloth])
    assert np.array_equal(image[~cloth], background[~cloth])


@pytest.mark.parametrize("long_hair", [False, True])
def test_no_pixel_of_head_or_neck_nor_of_one_beside_them_is_shown(long_hair: bool) -> None:
    _, labels, _ = _frame(long_hair)
    shown = surviving_cloth(labels, SHOULDERS)
    assert not (shown & dilate(np.isin(labels, (parts.HAIR, parts.FACE, parts.NECK, parts.OTHER)), 2)).any()


def test_a_hole_made_by_hair_is_as_coarse_as_the_blocks() -> None:
    _, labels, _ = _frame(long_hair=True)
    shifted = labels.copy()
    inside = expand_grid(hair_grid(labels == parts.HAIR), 512) & (labels == parts.CLOTH)
    assert inside.any()
    shifted[inside] = parts.HAIR
    there = surviving_cloth(labels, SHOULDERS)
    assert np.array_equal(surviving_cloth(shifted, SHOULDERS)[~dilate(inside, 4)], there[~dilate(inside, 4)])


def test_hair_of_another_person_can_erode_the_cloth() -> None:
    _, labels, _ = _frame(long_hair=False)
    assert surviving_cloth(labels, SHOULDERS).any()
    assert not surviving_cloth(labels, SHOULDERS, np.ones((512, 512), bool)).any()


def test_shoulders_that_were_not_seen_are_taken_to_be_at_their_usual_place() -> None:
    _, labels, _ = _frame(long_hair=False)
    unseen = surviving_cloth(labels, np.array([380, 380, 0.1, 132, 380, np.nan]))
    assert unseen.any()
    assert np.array_equal(unseen, surviving_cloth(labels, np.full(6, np.nan)))
    assert not unseen[480:, 80:130].any()


def test_the_reference_picture_is_the_head_on_white() -> None:
    colours = np.full((64, 64, 3), (10, 20, 30), np.uint8)
    matte = np.zeros((64, 64), np.float32)
    matte[10:20], matte[20:30] = 1.0, 0.5
    picture = reference_picture(colours, matte)
    assert (picture[12] == (10, 20, 30)).all()
    assert (picture[25] == np.rint((np.array((10, 20, 30)) + 255) / 2)).all()
    assert (picture[40] == 255).all()


def test_the_head_is_hair_and_face() -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(1, 6)
    assert head_mask(labels).tolist() == [[False, True, True, False, False, False]]
