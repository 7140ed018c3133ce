"""Fitting finds again what landmarks were made from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.face3d.fitting import (
    FLIP,
    Poses,
    align,
    euler_angles,
    fit_frames,
    fit_identity,
    rotation_angle,
    rotation_from_euler,
    rotation_from_vector,
)
from stages.face3d.model import FaceModel
from stages.face3d.resting import RestSolver

MODEL = FaceModel.builtin()
angles = st.tuples(st.floats(-60, 60), st.floats(-60, 60), st.floats(-60, 60))


def made_up(frames: int, seed: int = 0, noise: float = 0.02, outliers: float = 0.0, strength: float = 1.0):
    """Landmarks of one made-up person, with what they were made from."""
    rng = np.random.default_rng(seed)
    identity = rng.normal(size=len(MODEL.identity))
    expression = rng.uniform(0, strength, (frames, len(MODEL.names))) * (rng.uniform(size=(frames, len(MODEL.names))) < 0.1)
    poses = Poses(
        rotation_from_euler(rng.uniform(-30, 30, (frames, 3))),
        rng.uniform(100, 400, (frames, 3)),
        rng.uniform(50, 150, frames),
    )
    landmarks = poses.project(MODEL.shape(identity, expression))
    landmarks += rng.normal(size=landmarks.shape) * noise * poses.scale[:, None, None]
    bad = rng.random(landmarks.shape[:2]) < outliers
    landmarks[bad] += rng.normal(size=(int(bad.sum()), 3)) * 0.4 * poses.scale.mean()
    return landmarks, identity, expression, poses


def test_the_pose_of_a_known_shape_is_found_within_a_degree_among_noise_and_ten_percent_outliers():
    landmarks, identity, expression, poses = made_up(96, noise=0.02, outliers=0.1)
    found = align(MODEL.shape(identity, expression)[:, MODEL.rigid], landmarks[:, MODEL.rigid])
    assert rotation_angle(found.rotation @ poses.rotation.transpose(0, 2, 1)).max() < 1.0
    np.testing.assert_allclose(found.scale, poses.scale, rtol=0.01)


def test_an_unknown_face_among_noise_and_ten_percent_outliers_is_found_as_without_them():
    clean, identity, *_ = made_up(96, noise=0.003)
    dirty, *_, poses = made_up(96, noise=0.003, outliers=0.1)
    one, other = (fit_frames(landmarks, MODEL, identity) for landmarks in (clean, dirty))
    assert rotation_angle(one.poses.rotation @ other.poses.rotation.transpose(0, 2, 1)).max() < 2.0
    assert np.median(rotation_angle(other.poses.rotation @ poses.rotation.transpose(0, 2, 1))) < 1.0
    np.testing.assert_allclose(other.poses.scale, poses.scale, rtol=0.02)


def test_identity_and_expression_are_found_from_clean_landmarks():
    landmarks, identity, expression, _ = made_up(64, noise=0.001, strength=0.5)
    found = fit_identity(landmarks, MODEL)
    shape_error = np.linalg.norm(MODEL.shape(found) - MODEL.shape(identity), axis=-1)
    assert shape_error.mean() < 0.012
    fit = fit_frames(landmarks, MODEL, found)
    moved = MODEL.displacement(fit.expression) - MODEL.displacement(expression)
    assert np.linalg.norm(moved, axis=-1).mean() < 0.01
    assert np.median(fit.residual) < 0.01


def test_weights_stay_between_none_and_full():
    landmarks, *_ = made_up(8)
    landmarks[:, [13, 14], 1] += 80
    weights = fit_frames(landmarks, MODEL, np.zeros(len(MODEL.identity))).expression
    assert weights.min() >= 0
    assert weights.max() <= 1


def test_a_strong_expression_stands_out():
    names = ("jawOpen", "eyeBlink_L", "mouthSmile_R")
    weights = np.zeros((len(names), len(MODEL.names)))
    for row, name in enumerate(names):
        weights[row, MODEL.indices(name)[0]] = 1.0
    poses = Poses(np.tile(np.eye(3), (3, 1, 1)), np.full((3, 3), 200.0), np.full(3, 100.0))
    fit = fit_frames(poses.project(MODEL.mean + MODEL.displacement(weights)), MODEL, np.zeros(len(MODEL.identity)))
    assert [MODEL.names[int(index)] for index in fit.expression.argmax(1)] == list(names)


@settings(max_examples=20, deadline=None)
@given(angles, st.floats(0.2, 5), st.tuples(st.floats(-500, 500), st.floats(-500, 500)))
def test_moving_turning_and_scaling_the_picture_moves_the_pose_alike(degrees, factor, shift):
    landmarks, *_ = made_up(2)
    before = align(MODEL.mean, landmarks, depth_weight=1.0)
    turn = rotation_from_euler(degrees)
    flip = np.diag([1.0, -1.0, -1.0])
    offset = np.array([*shift, 0.0])
    after = align(MODEL.mean, factor * landmarks @ (flip @ turn @ flip).T + offset, depth_weight=1.0)
    assert rotation_angle(after.rotation @ (turn @ before.rotation).transpose(0, 2, 1)).max() < 0.05
    np.testing.assert_allclose(after.scale, factor * before.scale, rtol=1e-3)


@given(angles)
def test_angles_and_rotations_agree(degrees):
    rotation = rotation_from_euler(degrees)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(euler_angles(rotation), degrees, atol=1e-6)


@given(
    st.floats(0, 179.9), st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)).filter(lambda v: np.linalg.norm(v) > 0.1)
)
def test_the_angle_of_a_rotation_is_the_angle_it_was_made_with(degrees, axis):
    vector = np.radians(degrees) * np.array(axis) / np.linalg.norm(axis)
    assert rotation_angle(rotation_from_vector(vector)) == pytest.approx(degrees, abs=1e-4)


def test_positive_yaw_turns_the_nose_right_pitch_down_roll_anticlockwise():
    nose = MODEL.mean[1] - MODEL.mean[[234, 454]].mean(0)

    def seen(yaw: float, pitch: float, roll: float, point: np.ndarray) -> np.ndarray:
        pose = Poses(rotation_from_euler([[yaw, pitch, roll]]), np.zeros((1, 3)), np.ones(1))
        return pose.project(point[None])[0, 0]

    assert seen(30, 0, 0, nose)[0] > seen(0, 0, 0, nose)[0]
    assert seen(0, 20, 0, nose)[1] > seen(0, 0, 0, nose)[1]
    assert seen(0, 0, 20, np.array([1.0, 0, 0]))[1] < 0


def test_projecting_and_its_inverse():
    _, identity, expression, poses = made_up(5)
    shapes = MODEL.shape(identity, expression)
    np.testing.assert_allclose(poses.canonical(poses.project(shapes)), shapes, atol=1e-9)


def test_frames_do_not_influence_each_other():
    landmarks, identity, *_ = made_up(300, noise=0.01)
    together = fit_frames(landmarks, MODEL, identity)
    alone = fit_frames(landmarks[280:281], MODEL, identity)
    np.testing.assert_allclose(together.expression[280], alone.expression[0], atol=1e-9)


def test_no_frames_are_fitted_to_no_frames():
    fit = fit_frames(np.zeros((0, 478, 3)), MODEL, np.zeros(len(MODEL.identity)))
    assert fit.expression.shape == (0, len(MODEL.names))
    assert fit.rotation.shape == fit.poses.rotation.shape == (0, 3, 3)
    assert RestSolver(MODEL).expression(np.zeros((0, 478, 3)), MODEL.mean, fit.expression).shape == fit.expression.shape


def test_landmarks_without_any_error_are_aligned():
    poses = align(MODEL.mean, (MODEL.mean * FLIP * 128 + 256)[None])
    assert poses.scale[0] == pytest.approx(128, rel=1e-6)
    np.testing.assert_allclose(poses.rotation[0], np.eye(3), atol=1e-6)


def test_undetected_frames_are_refused():
    with pytest.raises(ValueError, match="leave them out"):
        fit_frames(np.full((1, 478, 3), np.nan), MODEL, np.zeros(len(MODEL.identity)))
