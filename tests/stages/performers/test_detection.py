"""Performers are taken for people by the detectors that the pipeline uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.performers import CLIPS, FRONTAL, detect


@pytest.mark.parametrize("clips", [4, pytest.param(CLIPS, marks=pytest.mark.slow)])
def test_faces_are_found_in_99_of_100_frames_that_are_not_turned_far(shared: Path, clips: int) -> None:
    seen = detect(shared / "models" / "ict" / "ict_facekit.npz", clips)
    near = seen.yaw <= FRONTAL
    assert near.sum() > 5 * clips
    assert seen.found[near].mean() >= 0.99
    assert (seen.faces <= 1).all()
