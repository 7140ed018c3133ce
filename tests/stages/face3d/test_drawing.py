"""Drawn landmarks show the features where they are, and nothing of the head's outline."""

from __future__ import annotations

import numpy as np

from stages.face3d.drawing import LEFT_BROW_COLOUR, RIGHT_BROW_COLOUR, draw_landmarks
from stages.face3d.fitting import Poses
from stages.face3d.model import FaceModel
from stages.face3d.topology import FACE_OVAL, LEFT_EYE, RIGHT_EYE

MODEL = FaceModel.builtin()
POSE = Poses(np.eye(3)[None], np.array([[128.0, 110.0, 0.0]]), np.array([55.0]))
POINTS = POSE.project(MODEL.mean)[0]


def colour_near(picture: np.ndarray, point: np.ndarray) -> np.ndarray:
    x, y = point[:2].astype(int)
    patch = picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3)
    return patch[patch.sum(1).argmax()]


def test_left_and_right_have_their_own_colours():
    picture = draw_landmarks(POINTS, 256)
    assert colour_near(picture, POINTS[LEFT_EYE.brow_upper[2]]).argmax() == np.argmax(LEFT_BROW_COLOUR)
    assert colour_near(picture, POINTS[RIGHT_EYE.brow_upper[2]]).argmax() == np.argmax(RIGHT_BROW_COLOUR)


def test_there_is_no_outline_of_the_face():
    picture = draw_landmarks(POINTS, 256)
    for index in FACE_OVAL:
        assert colour_near(picture, POINTS[index]).sum() == 0


def test_the_iris_shows_in_an_open_eye_and_not_in_a_closed_one():
    def filled(points: np.ndarray) -> int:
        x, y = points[LEFT_EYE.iris, :2].astype(int)
        return int(draw_landmarks(points, 256)[y, x].max())

    closed = POINTS.copy()
    closed[list(LEFT_EYE.upper)] = closed[list(LEFT_EYE.lower)]
    assert filled(POINTS) == 255
    assert filled(closed) < 128


def test_half_a_pixel_is_not_lost():
    picture = draw_landmarks(POINTS, 256).astype(float).sum(-1)
    moved = draw_landmarks(POINTS + np.array([0.5, 0, 0]), 256).astype(float).sum(-1)
    x = np.arange(256) + 0.5
    assert abs((moved.sum(0) @ x) / moved.sum() - (picture.sum(0) @ x) / picture.sum() - 0.5) < 0.15


def test_without_landmarks_only_the_background_remains():
    background = np.full((64, 64, 3), 9, np.uint8)
    np.testing.assert_array_equal(draw_landmarks(np.full((478, 3), np.nan), 64, background=background), background)
    draw_landmarks(POINTS / 4, 64, background=background)
    assert (background == 9).all()
