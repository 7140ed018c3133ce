"""Tremor goes, motion stays, nothing comes late."""

from __future__ import annotations

import numpy as np

from stages.face3d.fitting import Poses, rotation_angle, rotation_from_euler
from stages.face3d.smoothing import landmark_tremor, margin, smooth_poses, steady

ONE = np.zeros(200, int)


def test_tremor_of_a_still_signal_is_halved_at_least():
    noise = np.random.default_rng(0).normal(size=(200, 12)) * 0.0018
    calm = steady(noise, ONE, 1.0, 0.0018, np.zeros(12, int))
    assert calm.std() < 0.6 * noise.std()


def test_a_blink_stays_as_deep_and_as_early_as_it_was():
    opening = np.ones((200, 1)) * 0.15
    opening[100:104, 0] = [0.06, 0.0, 0.02, 0.1]
    calm = steady(opening, ONE, 1.0, 0.0018)
    np.testing.assert_allclose(calm[98:106], opening[98:106], atol=0.004)
    assert calm[:, 0].argmin() == 101


def test_speech_is_not_smeared():
    mouth = 0.1 + 0.1 * np.sin(np.arange(200) * 2 * np.pi / 6)[:, None]
    np.testing.assert_allclose(steady(mouth, ONE, 1.0, 0.0018), mouth, atol=0.005)


def test_nothing_is_mixed_across_a_cut():
    values = np.concatenate([np.zeros((50, 1)), np.full((50, 1), 0.001)])
    runs = np.repeat([0, 1], 50)
    np.testing.assert_allclose(steady(values, runs, 2.0, 0.01), values, atol=1e-12)


def test_a_frame_depends_on_no_more_than_its_margin():
    values = np.random.default_rng(1).normal(size=(200, 3)) * 0.003
    around = margin(1.0)
    whole = steady(values, ONE, 1.0, 0.002)
    part = steady(values[60 - around : 80 + around], ONE[: 20 + 2 * around], 1.0, 0.002)
    np.testing.assert_allclose(part[around:-around], whole[60:80], atol=1e-12)


def test_poses_calm_down_without_losing_a_turn():
    rng = np.random.default_rng(2)
    degrees = np.zeros((200, 3))
    degrees[100:, 0] = 25.0
    rotation = rotation_from_euler(degrees + rng.normal(size=(200, 3)) * 0.08)
    poses = Poses(rotation, rng.normal(size=(200, 3)) * 0.15, 100 + rng.normal(size=200) * 0.1)
    calm = smooth_poses(poses, ONE, 1.0)
    left = rotation_angle(calm.rotation @ rotation_from_euler(degrees).transpose(0, 2, 1))
    before = rotation_angle(rotation @ rotation_from_euler(degrees).transpose(0, 2, 1))
    assert left[10:90].mean() < 0.75 * before[10:90].mean()
    assert left[98:102].max() < 1.0
    assert calm.translation[10:90].std() < 0.75 * poses.translation[10:90].std()


def test_small_faces_tremble_more():
    tremor = landmark_tremor(np.array([20.0, 200.0]))
    assert tremor[0] > 2 * tremor[1] > 0


def test_no_smoothing_changes_nothing():
    values = np.random.default_rng(3).normal(size=(10, 2))
    assert steady(values, np.zeros(10, int), 0.0, 1.0) is values
