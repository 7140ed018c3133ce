"""Measures of hand-made arrays, whose answers are known."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.face3d.fitting import rotation_from_euler
from stages.face3d.model import FaceModel
from stages.face3d.topology import eye_centres
from stages.metrics import geometry, pictures, verdict

ANGLES = st.floats(-60, 60)


@given(ANGLES, ANGLES, ANGLES, st.floats(0, 90))
def test_pose_error_is_the_angle_between(yaw: float, pitch: float, roll: float, turn: float) -> None:
    wanted = rotation_from_euler([[yaw, pitch, roll]])
    found = wanted @ rotation_from_euler([[turn, 0, 0]])
    assert geometry.pose_error(found, wanted)[0] == pytest.approx(turn, abs=1e-5)


def test_yaw_pitch_roll_error_is_the_mean_of_three() -> None:
    found = rotation_from_euler([[10, -5, 2], [175, 0, 0]])
    wanted = rotation_from_euler([[4, -5, -1], [-175, 0, 0]])
    assert geometry.yaw_pitch_roll_error(found, wanted) == pytest.approx([3.0, 10 / 3])


def test_landmark_and_position_errors_count_in_eye_distances() -> None:
    wanted = np.zeros((2, 5, 3))
    found = wanted + np.array([3.0, 4.0, 100.0])
    assert geometry.landmark_error(found, wanted, [10, 50]) == pytest.approx([0.5, 0.1])
    assert geometry.position_error(found[:, 0], wanted[:, 0], [10, 50]) == pytest.approx([0.5, 0.1])


def test_steady_motion_has_no_acceleration() -> None:
    frames = np.arange(6)[:, None, None] * np.ones((1, 4, 2)) * 7
    unit = np.full(6, 10.0)
    assert geometry.acceleration(frames, unit)[1:-1] == pytest.approx(0)
    frames[3] += (1.0, 0.0)
    assert geometry.acceleration(frames, unit) == pytest.approx([np.nan, 0, 0.1, 0.2, 0.1, np.nan], nan_ok=True)


def test_flicker_ignores_a_fading_light() -> None:
    region = np.ones((20, 20), bool)
    level = [np.full((20, 20), value, np.float32) for value in (100, 110, 120, 140)]
    assert pictures.flicker(level[0], level[1], level[2], region) == pytest.approx(0)
    assert pictures.flicker(level[0], level[3], level[0], region) == pytest.approx(40)
    assert np.isnan(pictures.flicker(level[0], level[1], level[2], ~region))


def test_seam_is_the_step_that_the_target_does_not_have() -> None:
    target = np.full((120, 120, 3), 90, np.float32)
    target[:, :60] = 150  # an edge of the target's own runs through the region
    region = np.zeros((120, 120), bool)
    region[30:90, 30:90] = True
    result = target.copy()
    assert pictures.seam(result, target, region) == pytest.approx(0)
    result[region] += 25
    assert pictures.seam(result, target, region) == pytest.approx(25, abs=1)
    assert np.isnan(pictures.seam(result, target, np.ones_like(region)))


def painted_face(size: float, turn: float) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """A face full of fine lines in 400 pixels, and its landmarks: the distance of its eyes, pixels, and its turn, degrees."""
    landmarks = FaceModel.builtin().mean
    unit = float(np.hypot(*np.diff(eye_centres(landmarks[:, :2]), axis=0)[0]))
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = np.array([[cosine, -sine], [sine, cosine]]) * size / unit
    places = landmarks[:, :2] @ matrix.T
    shift = 200 - places.mean(0)
    y, x = np.mgrid[:1600, :1600] / 4.0 + 0.125  # four by four for each pixel
    own = (np.stack([x, y], -1) - shift) @ np.linalg.inv(matrix).T / unit
    lines = 128 + 60 * np.sin(45 * own[..., 0]) * np.sin(45 * own[..., 1])
    picture = lines.reshape(400, 4, 400, 4).mean((1, 3))
    return np.repeat(picture[..., None], 3, 2).astype(np.uint8), places + shift


@pytest.mark.parametrize(("size", "turn"), [(60, 0), (80, 30), (110, -50), (110, 170), (96, 0), (97, 0), (150, 20)])
def test_the_detail_of_a_face_does_not_depend_on_its_size_and_turn(size: float, turn: float) -> None:
    assert pictures.face_detail(*painted_face(size, turn)) == pytest.approx(pictures.face_detail(*painted_face(90, 0)), rel=0.12)


def test_a_face_that_is_blurred_is_soft_unless_source_or_target_are_as_soft() -> None:
    picture, landmarks = painted_face(90, 10)
    sharp, dim = (pictures.face_detail(shown.astype(np.uint8), landmarks) for shown in (picture, 0.6 * picture))
    assert dim == pytest.approx(sharp, rel=0.05)  # less light is not less detail
    soft = pictures.face_detail(cv2.GaussianBlur(picture, (0, 0), 3.0), landmarks)
    assert pictures.softness(sharp, sharp, sharp) == 0
    assert pictures.softness(soft, sharp, sharp) > 0.6
    assert pictures.softness(soft, soft, sharp) == pictures.softness(soft, sharp, soft) == 0
    assert pictures.softness(2 * sharp, sharp, sharp) == 0
    assert np.isnan(pictures.softness(np.nan, sharp, sharp))
    assert np.isnan(pictures.softness(sharp, np.nan, sharp))


def test_a_face_outside_of_the_picture_shows_no_detail_that_could_be_measured() -> None:
    picture, landmarks = painted_face(90, 0)
    assert np.isnan(pictures.face_detail(picture, landmarks + 250))
    assert np.isnan(pictures.face_detail(picture, np.full_like(landmarks, np.nan)))


def test_outside_difference_leaves_the_box_out() -> None:
    target = np.full((60, 80), 100, np.uint8)
    result = target.copy()
    result[20:40, 10:30] = 250
    assert pictures.outside_difference(result, target, (10, 20, 30, 40), (8, 8)) == 0
    assert pictures.outside_difference(result, target, (0, 0, 0, 0), (8, 8)) == pytest.approx(150 * 400 / 4800)
    result[0, 0] = 104
    assert pictures.outside_difference(result, target, (10, 20, 30, 40), (8, 8)) == pytest.approx(4 / 4400)
    ten_bits = target.astype(np.uint16) * 4
    assert pictures.outside_difference(target, ten_bits, (-5, -5, 20, 20), (8, 10)) == 0
    assert np.isnan(pictures.outside_difference(result, target, (-9, -9, 99, 99), (8, 8)))


def test_flags_name_every_reason_and_never_what_was_not_measured() -> None:
    above = verdict.limits(0.12, 12.0)
    columns = {name: np.full(4, np.nan) for name in verdict.MEASURES}
    columns["pose_error"][:] = (3, 13, np.nan, 12)
    columns["landmark_error"][:] = (0.1, 0.2, np.nan, 0.1)
    found = verdict.flags(columns, np.array([False, False, True, False]), above)
    assert found == ["", "pose_error,landmark_error", "face_not_found", ""]


def test_ranges_join_neighbours_and_their_reasons() -> None:
    assert verdict.ranges([0, 2, 4, 6, 8], ["", "a", "a,b", "", "c"], 2) == [(2, 5, "a,b"), (8, 9, "c")]


@pytest.mark.parametrize(
    ("flagged", "kept", "grade"), [(0, 0, "good"), (1, 0, "check"), (0, 1, "check"), (12, 0, "poor"), (0, 40, "poor")]
)
def test_grade_follows_what_is_to_be_seen(flagged: int, kept: int, grade: str) -> None:
    frames, generated = np.arange(40), np.arange(40) >= kept
    reasons = ["seam"] * flagged + [""] * (40 - flagged)
    columns = {name: np.full(40, np.nan) for name in verdict.MEASURES} | {"seam": np.linspace(0, 1, 40)}
    found = verdict.verdict(frames, generated, generated, columns, reasons, 1)
    assert found["grade"] == grade
    assert bool(found["reasons"]) == (grade != "good")
    assert found["means"]["identity"] is None  # type: ignore[index]
    assert found["worst"]["seam"] == pytest.approx(0.95)  # type: ignore[index]
