"""Edits do to weights and poses what their words say."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.edits import read_edits
from stages.face3d.editing import HEAD_PIVOT, edit_displacement, edit_expression, edit_poses
from stages.face3d.fitting import Poses, euler_angles
from stages.face3d.model import FaceModel
from stages.face3d.topology import EYES, LIPS

MODEL = FaceModel.builtin()
FRAMES = np.arange(4)


def edited(document: dict, base: np.ndarray | None = None):
    weights = np.full((4, len(MODEL.names)), 0.4) if base is None else base
    return edit_expression(weights, FRAMES, read_edits(document), MODEL, lambda frame: np.full(len(MODEL.names), frame / 10))


def column(result, name: str) -> np.ndarray:
    return result.expression[:, MODEL.indices(name)[0]]


def test_scale_and_offset_act_on_the_targets_own_weight():
    result = edited({"curves": {"mouthSmileLeft": {"scale": 0.5, "offset": 0.1}}})
    np.testing.assert_allclose(column(result, "mouthSmile_L"), 0.3)
    np.testing.assert_allclose(column(result, "mouthSmile_R"), 0.4)


def test_keyframes_replace_the_targets_weight():
    result = edited(
        {"curves": {"jawOpen": {"interpolation": "linear", "keyframes": [{"frame": 0, "value": 0}, {"frame": 2, "value": 1}]}}}
    )
    np.testing.assert_allclose(column(result, "jawOpen"), [0, 0.5, 1, 1])


def test_freeze_keeps_one_frames_weight():
    np.testing.assert_allclose(column(edited({"curves": {"jawOpen": {"freeze": 7}}}), "jawOpen"), 0.7)


def test_weights_stay_within_bounds():
    assert column(edited({"curves": {"jawOpen": {"offset": 0.9}}}), "jawOpen").max() == 1.0


def test_one_side_has_the_last_word_over_both():
    result = edited({"curves": {"eyeBlinkLeft": {"scale": 0.0}, "eyeBlink": {"scale": 2.0}}})
    np.testing.assert_allclose(column(result, "eyeBlink_L"), 0.0)
    np.testing.assert_allclose(column(result, "eyeBlink_R"), 0.8)


def test_blinks_are_asked_of_the_lids_and_only_where_they_are_edited():
    result = edited({"curves": {"eyeBlinkLeft": {"offset": 1.0}, "jawOpen": {"offset": 0.1}}})
    np.testing.assert_allclose(result.blinks[:, 0], 1.0)
    assert np.isnan(result.blinks[:, 1]).all()
    np.testing.assert_allclose(edited({"curves": {"eyeBlink": {"scale": 0.0}}}).blinks, 0.0)


def moved_by(name: str) -> np.ndarray:
    added = np.zeros((1, len(MODEL.names)))
    added[0, list(MODEL.indices(name))] = 0.5
    return np.linalg.norm(edit_displacement(added, MODEL)[0], axis=1)


@pytest.mark.parametrize("name", ["jawOpen", "mouthSmile", "mouthPucker"])
def test_edits_of_the_mouth_leave_brows_and_eyes_alone(name):
    moved = moved_by(name)
    assert moved[list(LIPS)].mean() > 0.01
    for eye in EYES:
        assert moved[[*eye.brow_upper, *eye.brow_lower, *eye.upper, *eye.iris_points]].max() == 0
        assert moved[list(eye.lower)].max() < 0.01


@pytest.mark.parametrize("name", ["browInnerUp", "eyeWide", "eyeBlinkLeft"])
def test_edits_of_brows_and_eyes_leave_the_mouth_alone(name):
    moved = moved_by(name)
    assert moved[list(LIPS)].max() == 0
    assert moved.max() > 0.005


def test_every_expression_belongs_to_a_part_of_the_face():
    for name in MODEL.names:
        assert moved_by(name).max() > 0


def test_pose_offsets_turn_about_the_neck_and_keep_the_size():
    poses = Poses(np.tile(np.eye(3), (4, 1, 1)), np.full((4, 3), 50.0), np.full(4, 80.0))
    turned = edit_poses(poses, FRAMES, read_edits({"head_pose": {"yaw": 10, "roll": {"offset": -5}}}))
    np.testing.assert_allclose(euler_angles(turned.rotation), np.tile([10, 0, -5], (4, 1)), atol=1e-9)
    np.testing.assert_allclose(turned.project(HEAD_PIVOT[None]), poses.project(HEAD_PIVOT[None]), atol=1e-9)
    np.testing.assert_allclose(turned.scale, poses.scale)


def test_no_edits_change_nothing():
    poses = Poses(np.tile(np.eye(3), (4, 1, 1)), np.zeros((4, 3)), np.ones(4))
    assert edit_poses(poses, FRAMES, read_edits({})) is poses
    result = edited({})
    assert result.expression == pytest.approx(0.4)
    assert np.isnan(result.blinks).all()
