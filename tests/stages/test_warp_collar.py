"""Collars are told from hair and skin, and cloth goes on where hair covered it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.matte import without_collar
from stages.portrait import with_crown
from stages.warp.neck import (
    CLOTH,
    FACE,
    HAIR,
    NECK,
    collar_as_cloth,
    collar_beside_skin,
    mirrored_cloth,
    missed_hair,
    specks_as_hair,
)

UNIT = 40.0


def labels_and_landmarks() -> tuple[np.ndarray, np.ndarray]:
    """A head: hair on top, face, neck, cloth to the sides and below; landmarks of nose and chin, forehead, sides."""
    labels = np.zeros((256, 256), np.uint8)
    labels[200:, 20:236] = CLOTH
    labels[150:200, 100:156] = NECK
    labels[60:160, 80:176] = FACE
    labels[30:70, 80:176] = HAIR
    landmarks = np.full((478, 2), (128.0, 110.0))
    angles = np.linspace(0, 2 * np.pi, 478)
    landmarks += np.stack([48 * np.sin(angles), -50 * np.cos(angles)], 1)
    for index, point in {1: (128, 115), 10: (128, 60), 152: (128, 160), 454: (176, 110), 234: (80, 110)}.items():
        landmarks[index] = point
    return labels, landmarks


def painted(labels: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> np.ndarray:
    picture = np.full((*labels.shape, 3), 160, np.uint8)
    for label, colour in colours.items():
        picture[labels == label] = colour
    return picture


@pytest.mark.parametrize(("colour", "expected"), [((110, 108, 106), CLOTH), ((45, 30, 22), HAIR)])
def test_a_patch_apart_is_a_collar_only_with_the_cloths_colour(colour: tuple[int, int, int], expected: int) -> None:
    labels, landmarks = labels_and_landmarks()
    picture = painted(labels, {HAIR: (45, 30, 22), FACE: (200, 150, 130), NECK: (190, 140, 120), CLOTH: (140, 140, 140)})
    labels[180:200, 160:190] = HAIR
    picture[180:200, 160:190] = colour
    small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    found = collar_as_cloth(labels, small, landmarks, UNIT)
    assert (found[182:198, 162:188] == expected).all()
    assert (found[30:60, 80:176] == HAIR).all()


def test_a_pale_collar_labelled_as_neck_is_cloth_and_dark_skin_stays_skin() -> None:
    labels, _ = labels_and_landmarks()
    picture = painted(labels, {HAIR: (20, 15, 12), FACE: (110, 70, 50), NECK: (70, 45, 32), CLOTH: (210, 200, 175)})
    labels[190:215, 120:156] = NECK
    picture[190:215, 120:156] = (120, 114, 100)
    small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    found = collar_beside_skin(labels, small, UNIT)
    assert (found[196:210, 126:150] == CLOTH).mean() > 0.95
    assert (found[165:185, 104:152] == NECK).all()


def test_nothing_is_judged_where_cloth_has_the_skins_colour() -> None:
    labels, _ = labels_and_landmarks()
    picture = painted(labels, {FACE: (200, 150, 130), NECK: (190, 140, 120), CLOTH: (200, 160, 140)})
    small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    assert collar_beside_skin(labels, small, UNIT) is labels


def test_hair_beyond_its_label_is_found_and_dark_background_is_not_hair() -> None:
    labels, _ = labels_and_landmarks()
    picture = painted(labels, {HAIR: (45, 30, 22), FACE: (200, 150, 130)})
    picture[18:30, 90:166] = (45, 30, 22)
    picture[30:60, 40:70] = (50, 34, 26)
    behind = np.full((128, 128, 3), 160, np.uint8)
    behind[15:30, 20:35] = (50, 34, 26)
    small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    found = missed_hair(labels, small, behind, UNIT)
    assert (found[20:29, 94:162] == 1).all()
    assert found[:, :72].max() == 0


def test_an_edge_between_colours_of_cloth_goes_on_sharply() -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[:, 64:] = 255
    cloth, wanted = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    cloth[32:], wanted[16:32] = 1, 1
    picture[:64] = (0, 255, 0)  # what covers the cloth
    shown = mirrored_cloth(picture, cloth, wanted)
    assert shown[40:60, :56].max() == 0
    assert shown[40:60, 72:].min() == 255


def test_between_two_edges_of_cloth_nothing_of_what_covered_it_is_left() -> None:
    picture = np.full((128, 128, 3), (190, 180, 160), np.uint8)
    cloth, wanted = np.ones((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    lock = cv2.fillPoly(np.zeros((64, 64), np.uint8), [np.array([[24, 0], [38, 0], [34, 48], [28, 46]])], 1)
    picture[cv2.resize(lock, (128, 128), interpolation=cv2.INTER_NEAREST) > 0] = (30, 20, 20)
    cloth[cv2.dilate(lock, np.ones((5, 5), np.uint8)) > 0] = 0
    wanted[cloth == 0] = 1
    assert np.abs(mirrored_cloth(picture, cloth, wanted).astype(int) - (190, 180, 160)).max() == 0


def test_a_collar_below_the_jaw_is_not_hair_and_long_hair_is() -> None:
    labels, landmarks = labels_and_landmarks()
    labels[60:150, 60:80] = HAIR
    labels[60:220, 176:200] = HAIR
    labels[160:220, 50:90] = HAIR
    picture = painted(labels, {HAIR: (200, 200, 195), FACE: (200, 150, 130)})
    picture[160:220, 50:90] = (80, 15, 20)
    found = without_collar(picture, labels, landmarks)
    assert (found[165:215, 55:85] == CLOTH).all()
    assert (found[60:220, 178:198] == HAIR).all()


def test_hair_cut_by_the_border_goes_on_as_a_dome_where_there_is_room() -> None:
    matte = np.zeros((200, 200), np.float32)
    matte[60:150, 50:150] = 1
    colours = np.full((200, 200, 3), 50, np.uint8)
    colours[:60] = 255
    labels = np.where(matte > 0, HAIR, 0).astype(np.uint8)
    shown, whole = with_crown(colours, matte, labels, 60.0)
    assert whole[54, 100] == 1
    assert whole[52, 52] == 0
    assert whole[40].max() == 0
    assert (shown[54, 100] == 50).all()
    assert matte[54, 100] == 0


def test_specks_of_neck_between_the_tips_of_hair_are_hair_and_necks_and_hands_are_not() -> None:
    labels, _ = labels_and_landmarks()
    labels[120:170, 190:230] = HAIR
    labels[168:171, 200:204] = NECK  # at its tips
    labels[10:13, 10:14] = NECK  # beside no hair
    labels[130:138, 200:217] = NECK  # a finger that holds it
    found = specks_as_hair(labels, UNIT)
    changed = found != labels
    assert changed[168:171, 200:204].all()
    assert changed.sum() == 12
    assert (found[changed] == HAIR).all()
    whole = np.where(labels == NECK, CLOTH, labels).astype(np.uint8)
    assert np.array_equal(specks_as_hair(whole, UNIT), whole)
