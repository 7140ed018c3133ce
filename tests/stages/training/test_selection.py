"""Which frames are used, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dataset import DatasetParameters
from stages.training.selection import REASONS, FrameFacts, exclusions, segments

PARAMETERS = DatasetParameters(shortest_segment=4, longest_segment=10, beside_cuts=1)


def facts(frames: int = 30) -> FrameFacts:
    shares = np.tile(np.array([0.5, 0.1, 0.1, 0.05, 0.25, 0.0]), (frames, 1))
    return FrameFacts(
        shots=np.zeros(frames, int),
        detected=np.ones(frames, bool),
        interpolated=np.zeros(frames, bool),
        crops=np.tile(np.array([500.0, 400.0, 400.0]), (frames, 1)),
        picture=(1000, 800),
        residuals=np.full(frames, 0.03),
        shares=shares,
        differences=np.full(frames, 1.0),
    )


def test_good_frames_are_all_used() -> None:
    assert (exclusions(facts(), PARAMETERS) == "").all()


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("no_face", lambda one: one.detected.__setitem__(slice(10, 14), False)),
        ("interpolated", lambda one: one.interpolated.__setitem__(slice(10, 14), True)),
        ("small", lambda one: one.crops.__setitem__((slice(10, 14), 2), 200.0)),
        ("outside", lambda one: one.crops.__setitem__((slice(10, 14), 0), -50.0)),
        ("cut_off", lambda one: one.crops.__setitem__((slice(10, 14), 1), 650.0)),
        ("covered", lambda one: one.shares.__setitem__((slice(10, 14), 5), 0.1)),
        ("other_light", lambda one: one.differences.__setitem__(slice(10, 14), 40.0)),
        ("poor_fit", lambda one: one.residuals.__setitem__(slice(10, 14), 0.5)),
        ("poor_fit", lambda one: one.residuals.__setitem__(slice(10, 14), np.nan)),
        ("no_mask", lambda one: one.shares.__setitem__((slice(10, 14), slice(1, 4)), 0.0)),
    ],
)
def test_a_bad_frame_is_left_out_with_its_reason(reason: str, change: object) -> None:
    one = facts()
    change(one)  # type: ignore[operator]
    found = exclusions(one, PARAMETERS)
    assert (found[10:14] == reason).all()
    assert (np.delete(found, slice(10, 14)) == "").all()
    assert reason in REASONS


def test_frames_beside_a_cut_are_left_out_and_no_segment_crosses_it() -> None:
    one = replace(facts(), shots=np.repeat([0, 1], 15))
    found = exclusions(one, PARAMETERS)
    assert np.flatnonzero(found == "cut").tolist() == [14, 15]
    assert segments(found, one.shots, PARAMETERS) == [range(7), range(7, 14), range(16, 23), range(23, 30)]


def test_a_run_that_is_too_short_is_left_out() -> None:
    one = facts()
    one.detected[3] = False
    found = exclusions(one, PARAMETERS)
    assert found[:4].tolist() == ["short", "short", "short", "no_face"]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 20))
def test_segments_hold_every_used_frame_exactly_once(rows: list[tuple[bool, bool]], shortest: int, longest: int) -> None:
    parameters = DatasetParameters(shortest_segment=shortest, longest_segment=longest, beside_cuts=0)
    one = replace(
        facts(len(rows)),
        detected=np.array([seen for seen, _ in rows]),
        shots=np.cumsum([cut for _, cut in rows]),
    )
    found = exclusions(one, parameters)
    made = segments(found, one.shots, parameters)
    assert [frame for segment in made for frame in segment] == np.flatnonzero(found == "").tolist()
    assert all(len(segment) >= shortest and len(set(one.shots[segment.start : segment.stop])) == 1 for segment in made)
    assert all(len(segment) <= max(longest, 2 * shortest - 1) for segment in made)
