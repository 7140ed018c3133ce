"""Edits as people write them: understood, checked all at once, equal when they mean the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.edits import Edits, Keyframe, interpolate, read_edits
from schemas.problems import UsageError


def test_every_problem_is_told_at_once_with_its_place():
    document = {
        "curves": {
            "jawOpen": {"scale": 9},
            "mouthPucker": {"keyframes": [{"frame": 5, "value": 0}, {"frame": 2, "value": 1}]},
            "eyeBlink": {"freeze": 3, "keyframes": [{"frame": 0, "value": 0}]},
            "tongueOut": {},
            "browDown_L": {},
            "browDownLeft": {"offset": 0.1},
            "mouthSmile": {"offset": float("inf")},
        },
        "head_pose": {"yaw": 90, "roll": {"offset": 10, "keyframes": [{"frame": 7, "value": 55}]}},
        "size": 2,
    }
    with pytest.raises(UsageError) as caught:
        read_edits(document, "job 7 edits")
    told = "\n".join(caught.value.problems)
    for place in (
        "job 7 edits.curves.jawOpen.scale",
        "curves.mouthPucker.keyframes",
        "curves.eyeBlink",
        "curves.tongueOut: 'tongueOut' is no expression",
        "edits.curves: browDown_L and browDownLeft are the same curve",
        "curves.mouthSmile.offset",
        "head_pose.yaw",
        "head_pose.roll: at frame 7",
        "edits.size",
    ):
        assert place in told


def test_an_unknown_expression_is_named():
    with pytest.raises(UsageError, match="tongueOut"):
        read_edits({"curves": {"tongueOut": {}}})


def test_a_spelling_does_not_change_what_is_meant():
    one, other = ({"curves": {name: {"scale": 0.5}}} for name in ("eyeBlinkLeft", "EYEBLINK_L"))
    assert read_edits(one).to_options() == read_edits(other).to_options()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_everywhere(value):
    keyframes = [{"frame": 0, "value": value}]
    for document in (
        {"curves": {"jawOpen": {"keyframes": keyframes}}},
        {"curves": {"jawOpen": {"scale": value}}},
        {"head_pose": {"yaw": value}},
        {"head_pose": {"pitch": {"keyframes": keyframes}}},
        {"head_scale": value},
    ):
        with pytest.raises(UsageError):
            read_edits(document)


def test_nothing_is_no_edit():
    assert read_edits(None) == read_edits({}) == Edits()
    assert Edits().to_options() == {}


def test_equal_edits_have_equal_options():
    one = read_edits({"curves": {"jawOpen": {"scale": 0.5, "offset": 0.0}}, "mirror": False, "head_pose": {"yaw": 4}})
    other = read_edits({"head_pose": {"yaw": {"offset": 4.0}}, "curves": {"jawOpen": {"scale": 0.5}}})
    assert one.to_options() == other.to_options()
    assert read_edits(one.to_options()) == one


KEYFRAMES = (Keyframe(frame=10, value=0.2), Keyframe(frame=20, value=1.0), Keyframe(frame=30, value=0.0))


@pytest.mark.parametrize("interpolation", ["smooth", "linear", "hold"])
def test_keyframes_are_met_and_hold_outside(interpolation):
    values = interpolate(KEYFRAMES, np.array([0, 10, 20, 30, 99]), interpolation)
    np.testing.assert_allclose(values, [0.2, 0.2, 1.0, 0.0, 0.0])


@given(st.integers(0, 60), st.sampled_from(["smooth", "linear", "hold"]))
def test_between_keyframes_values_stay_between(frame, interpolation):
    assert 0.0 <= interpolate(KEYFRAMES, np.array([frame]), interpolation)[0] <= 1.0


def test_one_keyframe_is_a_constant():
    np.testing.assert_allclose(interpolate(KEYFRAMES[:1], np.arange(30), "smooth"), 0.2)
