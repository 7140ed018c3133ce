"""What labels missed is found beside the person: locks, strands; and nothing where the background merely is what it is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.blocks import dilate
from stages.residue import residue, strands
from tests.stages.painting import textured

HAIR_COLOUR = (60, 35, 20)
BLURRED = 4
"""Pixels beside a border that show both sides on the grid on which residue is looked for."""


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A light, faintly textured background with a dark head of hair: picture [256, 256, 3], hair [256, 256]."""
    picture = (textured(256, 256, seed).astype(np.float32) * 0.06 + 170).astype(np.uint8)
    hair = np.zeros((256, 256), np.uint8)
    cv2.circle(hair, (128, 110), 50, 1, -1)
    picture[hair > 0] = HAIR_COLOUR
    return picture, hair > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_lock_that_the_labels_missed_is_found(seed: int) -> None:
    picture, hair = scene(seed)
    lock = np.zeros_like(hair)
    lock[100:150, 176:190] = True
    lock &= ~hair
    picture[lock] = HAIR_COLOUR
    found = residue(picture, hair)
    assert (found & lock).sum() > 0.8 * lock.sum()
    assert not (found & hair).any()
    assert not (found & ~dilate(hair | lock, BLURRED)).any()


def test_nothing_is_missing_where_the_labels_are_right() -> None:
    picture, hair = scene()
    assert not (residue(picture, hair) & ~dilate(hair, BLURRED)).any()
    assert strands(picture, hair, hair).sum() < 0.05 * hair.sum()


def test_what_does_not_hang_together_with_the_person_stays_background() -> None:
    picture, hair = scene()
    picture[100:120, 192:200] = HAIR_COLOUR
    assert not residue(picture, hair)[100:120, 192:200].any()


def test_single_strands_near_hair_are_found_and_far_ones_are_not() -> None:
    picture, hair = scene()
    near, far = np.zeros_like(hair), np.zeros_like(hair)
    near[105, 180:196] = True
    far[20, 20:60] = True
    for line in (near, far):
        picture[line] = (0.5 * picture[line] + 0.5 * np.array(HAIR_COLOUR)).astype(np.uint8)
    found = strands(picture, hair, hair)
    assert (found & near).sum() > 0.8 * near.sum()
    assert not (found & far).any()


def test_without_hair_or_person_nothing_is_found() -> None:
    picture, hair = scene()
    nobody = np.zeros_like(hair)
    assert not residue(picture, nobody).any()
    assert not strands(picture, nobody, nobody).any()
    assert not residue(picture, ~nobody).any()
