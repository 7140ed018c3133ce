"""What the warped head looks like: eyes, mouth, neck, and the source itself when nothing is to move."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from stages.warp import topology
from stages.warp.colour import hue_of
from stages.warp.eyes import openness as eye_openness
from stages.warp.eyes import take_eye
from stages.warp.head import Head, compose
from stages.warp.mouth import openness as mouth_openness
from tests.stages.painted_heads import (
    BACKGROUND_LABEL,
    CLOTH,
    CLOTH_LABEL,
    IRIS,
    NECK_LABEL,
    OTHER_LABEL,
    SKIN,
    TEETH,
    WALL,
    distance,
    mean_colour,
    portrait,
    pose,
    scene,
    shape,
)


def shut(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks with the upper lids on the lower ones."""
    closed = landmarks.copy()
    for ring in (topology.LEFT_EYE, topology.RIGHT_EYE):
        closed[ring[:8:-1]] = closed[ring[1:8]]
    return closed


def test_the_source_in_its_own_pose_is_the_source() -> None:
    source, target = portrait(), scene()
    colour, opacity = Head(source).draw(target.aligned, target.pose, target.picture, target.landmarks)
    solid = (source.matte > 0.99) & (opacity > 0.99)
    assert solid.sum() > 5000
    difference = np.abs(colour[solid].astype(int) - source.picture[solid]).mean(axis=1)
    assert np.quantile(difference, 0.97) < 8
    np.testing.assert_allclose(opacity[:150], source.matte[:150], atol=0.3)


def test_a_blink_closes_the_eyes_with_skin() -> None:
    at = pose(60)  # eyes a few times higher than the line of the lashes
    target = scene(at=at)
    head = Head(portrait(at))
    opened, _ = head.draw(target.aligned, target.pose, target.picture, target.landmarks)
    closed, _ = head.draw(shut(target.aligned), target.pose, target.picture, target.landmarks)
    for ring in (topology.LEFT_EYE, topology.RIGHT_EYE):
        assert distance(mean_colour(opened, target.landmarks[ring]), SKIN) > 60
        assert distance(mean_colour(closed, target.landmarks[ring]), SKIN) < 25


def test_the_iris_follows_the_gaze_and_stays_round() -> None:
    at = pose(90, at=(128, 90))
    target = scene(at=at)
    looking = target.aligned.copy()
    for iris in (topology.LEFT_IRIS, topology.RIGHT_IRIS):
        looking[iris, 0] += 7
    drawn, _ = Head(portrait(at)).draw(looking, at, target.picture, target.landmarks)
    centre = looking[topology.LEFT_IRIS[0], :2]
    blue = (np.abs(drawn.astype(int) - np.array(IRIS)).sum(2) < 90).astype(float)
    y, x = np.mgrid[: blue.shape[0], : blue.shape[1]] + 0.5
    near = blue * (np.hypot(x - centre[0], y - centre[1]) < 22)
    assert near.sum() > 40
    assert abs((near * x).sum() / near.sum() - centre[0]) < 2


def test_an_eye_that_is_shut_in_the_source_can_open() -> None:
    at = pose(90, at=(128, 90))
    source = portrait(at)
    closed = shut(source.landmarks)
    eye = take_eye(source.picture, closed[topology.LEFT_EYE], closed[topology.LEFT_IRIS])
    assert np.isfinite(eye.ball.astype(float)).all()
    assert eye.iris[..., 3].max() == 255
    # Paler than the skin around it.
    assert eye.ball.astype(float).std(axis=2).mean() < np.std(SKIN)


def test_an_open_mouth_shows_the_targets_teeth_and_no_skin_or_lip() -> None:
    target = scene(jawOpen=1.0)
    assert mouth_openness(target.aligned[topology.INNER_LIPS]) > 0.3
    picture, _ = compose(Head(portrait()), target, None)
    inside = mean_colour(picture, target.aligned[topology.INNER_LIPS], 0.5)
    assert distance(inside, TEETH) < 60


def test_an_open_mouth_is_dark_where_the_targets_is_closed() -> None:
    target = scene(mouthClose=0.0)
    closed = target.landmarks.copy()
    ring = topology.INNER_LIPS
    closed[ring[:10:-1]] = closed[ring[1:10]]
    opened = target.pose.project(shape(jawOpen=1.0))
    picture, _ = compose(Head(portrait()), replace(target, landmarks=closed, aligned=opened), None)
    assert mean_colour(picture, opened[ring], 0.5).mean() < 70


def test_teeth_of_the_source_vanish_when_the_mouth_closes() -> None:
    target = scene()
    aligned = target.aligned.copy()
    ring = topology.INNER_LIPS
    aligned[ring[:10:-1]] = aligned[ring[1:10]]
    colour, _ = Head(portrait(jawOpen=1.0)).draw(aligned, target.pose, target.picture, target.landmarks)
    outer = aligned[topology.OUTER_LIPS]
    box = np.s_[int(outer[:, 1].min()) : int(outer[:, 1].max()) + 1, int(outer[:, 0].min()) : int(outer[:, 0].max()) + 1]
    assert not (np.abs(colour[box].astype(int) - np.array(TEETH)).sum(2) < 60).any()


def test_old_hair_and_face_are_gone() -> None:
    """A much smaller new head leaves background where the old head was, not hair."""
    target = scene()
    small = pose(26, at=(128, 120))
    picture, opacity = compose(Head(portrait()), replace(target, aligned=small.project(shape()), pose=small), None)
    bare = (opacity < 0.01) & np.isin(target.labels, (1, 2))
    bare[int(target.landmarks[13, 1]) :] = False
    assert bare.sum() > 1000
    assert np.quantile(np.abs(picture[bare].astype(int) - np.array(WALL)).max(axis=1), 0.98) < 12


def test_no_gap_between_a_short_chin_and_the_neck() -> None:
    target = scene()
    high = target.aligned.copy()
    high[:, 1] -= 8
    raised = replace(target.pose, translation=target.pose.translation - [0, 8, 0])
    picture, _ = compose(Head(portrait()), replace(target, aligned=high, pose=raised), None)
    chin = high[152]
    strip = picture[int(chin[1]) + 2 : int(chin[1]) + 20, int(chin[0]) - 8 : int(chin[0]) + 8].reshape(-1, 3).astype(float)
    wall = np.linalg.norm(strip - np.array(WALL), axis=1)
    assert wall.min() > 40  # nowhere the wall; shaded skin everywhere
    hue = strip[:, 0] - strip[:, 2]
    assert (hue > 25).all()


def test_the_neck_takes_the_new_skins_tone_and_cloth_does_not() -> None:
    target = scene()
    gain = np.array([0.6, 0.7, 1.1], np.float32)
    plain, _ = compose(Head(portrait()), target, None)
    shaded, _ = compose(Head(portrait()), target, gain)
    chin = target.landmarks[152, :2]
    below = (int(chin[1] + 0.75 * target.pose.scale), int(chin[0]))
    np.testing.assert_allclose(shaded[below], plain[below] * gain, atol=8)
    cloth = (int(chin[1] + 1.15 * target.pose.scale), int(chin[0] + 1.6 * target.pose.scale))
    np.testing.assert_allclose(shaded[cloth], CLOTH, atol=2)


def test_a_bare_hand_far_from_the_chin_keeps_its_colour() -> None:
    target = scene()
    labels, picture = target.labels.copy(), target.picture.copy()
    labels[215:250, 190:230] = NECK_LABEL
    picture[215:250, 190:230] = SKIN
    gain = np.array([0.5, 0.5, 0.5], np.float32)
    result, _ = compose(Head(portrait()), replace(target, labels=labels, picture=picture), gain)
    np.testing.assert_array_equal(result[220:245, 195:225], picture[220:245, 195:225])


def test_what_is_in_front_of_the_head_stays_in_front() -> None:
    target = scene()
    labels, picture = target.labels.copy(), target.picture.copy()
    labels[120:150, 110:150] = OTHER_LABEL
    picture[120:150, 110:150] = (10, 200, 10)
    result, _ = compose(Head(portrait()), replace(target, labels=labels, picture=picture), None)
    np.testing.assert_allclose(result[126:144, 116:144].reshape(-1, 3).mean(0), (10, 200, 10), atol=2)


def test_far_from_the_head_nothing_changes() -> None:
    target = scene()
    picture, _ = compose(Head(portrait()), target, np.array([0.7, 0.7, 0.7], np.float32))
    np.testing.assert_array_equal(picture[:, :20], target.picture[:, :20])
    np.testing.assert_array_equal(picture[240:, 180:], target.picture[240:, 180:])


@pytest.mark.parametrize("ring", [topology.LEFT_EYE, topology.RIGHT_EYE])
def test_openness_is_height_over_width(ring: np.ndarray) -> None:
    opened = shape()[ring]
    assert 0.1 < eye_openness(opened) < 0.6
    flat = opened.copy()
    flat[:, 1] = 0
    flat[:, 2] = 0
    assert eye_openness(flat) < 0.01


def test_a_neck_greener_than_its_face_takes_the_new_faces_hue() -> None:
    target = scene()
    picture = target.picture.copy()
    pale = (185, 180, 140)
    picture[target.labels == NECK_LABEL] = pale
    greener = replace(target, picture=picture)
    face = np.array(SKIN, np.float64)
    hue = hue_of(face)
    shaded, _ = compose(Head(portrait()), greener, np.ones(3, np.float32), face)
    chin = target.landmarks[152, :2]
    below = shaded[int(chin[1] + 0.75 * target.pose.scale), int(chin[0])]
    assert distance(hue_of(below.astype(np.float64)), hue) < 0.4 * distance(hue_of(np.array(pale, np.float64)), hue)


@pytest.mark.parametrize(
    ("neck", "spilt"), [((70, 48, 36), 30), ((120, 120, 118), 80)], ids=["skin", "beard as grey as the wall"]
)
def test_a_dark_neck_becomes_the_pale_faces_and_nothing_beside_it_glows(neck: tuple[int, int, int], spilt: int) -> None:
    target, face, pale = scene(), np.array((96.0, 66, 50)), np.array(SKIN, np.float32)
    picture = target.picture.copy()
    skin = target.labels == NECK_LABEL
    picture[skin] = neck
    # Labels that take in a rim of wall and cloth.
    wider = cv2.dilate(skin.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    labels = np.where(wider & np.isin(target.labels, (BACKGROUND_LABEL, CLOTH_LABEL)), NECK_LABEL, target.labels).astype(np.uint8)
    shown, opacity = compose(Head(portrait()), replace(target, labels=labels, picture=picture), pale / face, face)
    rim = wider & ~cv2.dilate(skin.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & (opacity < 0.01)
    assert rim.sum() > 100
    assert (shown[rim] <= np.maximum(picture[rim], 1.1 * pale + 2)).all()
    assert np.quantile(shown[rim].astype(int) - picture[rim], 0.95) < spilt
    chin = target.landmarks[152, :2]
    below = shown[int(chin[1] + 0.8 * target.pose.scale), int(chin[0])].astype(np.float64)
    assert distance(hue_of(below), hue_of(pale)) < 0.08
    assert below.max() < 1.1 * pale.max() + 2
    assert below.mean() > np.mean(neck)
