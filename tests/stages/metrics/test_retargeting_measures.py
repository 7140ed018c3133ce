"""Measures of retargeting: no error for the truth, the right size for a known error, intervals that know their groups."""

from __future__ import annotations

import numpy as np
import pytest

from stages.face3d.fitting import Poses, rotation_from_euler
from stages.face3d.model import FaceModel
from stages.face3d.topology import EYES, INNER_LOWER, INNER_UPPER, LIPS, interocular
from stages.metrics.retargeting import REGIONS, bootstrap_interval, brought_onto, invariants, region_errors

MODEL = FaceModel.builtin()


def posed(shapes: np.ndarray, degrees: tuple[float, float, float] = (12, -5, 3)) -> np.ndarray:
    count = len(shapes)
    rotation = np.tile(rotation_from_euler(degrees), (count, 1, 1))
    return Poses(rotation, np.full((count, 3), 100.0), np.full(count, 60.0)).project(shapes)


def test_the_truth_in_another_pose_and_size_has_no_error():
    shapes = MODEL.mean[None] + MODEL.displacement(np.zeros((2, len(MODEL.names))))
    errors = region_errors(brought_onto(1.7 * shapes + 0.3, posed(shapes), MODEL), posed(shapes))
    assert all(error == pytest.approx(0, abs=1e-3) for error in errors.values())


def test_an_error_counts_in_its_region_in_per_cent_of_the_eye_distance():
    wanted = posed(MODEL.mean[None], (0, 0, 0))
    moved = wanted.copy()
    moved[:, list(LIPS), 0] += 0.05 * interocular(wanted)[0]
    errors = region_errors(moved, wanted)
    assert errors["mouth"][0] == pytest.approx(5)
    assert errors["eyes"][0] == errors["brows"][0] == 0
    assert errors["all"][0] == pytest.approx(5 * len(set(LIPS)) / 478, rel=0.02)


def test_regions_do_not_overlap():
    assert len(np.unique(np.concatenate(list(REGIONS.values())))) == sum(len(points) for points in REGIONS.values())


def test_an_eye_that_stays_open_and_a_mouth_that_parts_are_counted():
    closed, parted = MODEL.mean.copy(), MODEL.mean.copy()
    for eye in EYES:
        closed[list(eye.upper), 1] = closed[list(eye.lower), 1]
    parted[list(INNER_UPPER), 1] += 0.05
    parted[list(INNER_LOWER), 1] -= 0.05
    driver = np.stack([closed, MODEL.mean, parted])
    kept = invariants(driver, MODEL.mean, driver, MODEL.mean)
    assert all(counted.held == counted.cases > 0 for counted in kept.values())
    wrong = invariants(np.stack([MODEL.mean, parted, MODEL.mean]), MODEL.mean, driver, MODEL.mean)
    assert (wrong["eyes_closed"].cases, wrong["eyes_closed"].held) == (2, 0)
    assert (wrong["mouth_closed"].cases, wrong["mouth_closed"].held) == (2, 1)
    assert (wrong["mouth_open"].cases, wrong["mouth_open"].held) == (1, 0)


def test_intervals_hold_the_mean_and_are_wider_where_values_go_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 6)
    together = rng.normal(size=20)[groups]
    low, high = bootstrap_interval(together, groups, seed=0)
    assert low < together.mean() < high
    alone = bootstrap_interval(together, np.arange(120), seed=0)
    assert high - low > 1.5 * (alone[1] - alone[0])
    assert bootstrap_interval(together, groups, seed=0) == (low, high)


def test_the_interval_of_equal_values_is_a_point():
    assert bootstrap_interval(np.full(9, 0.5), np.arange(9), seed=1) == (0.5, 0.5)
    values = np.random.default_rng(0).normal(3, 1, 200)
    low, high = bootstrap_interval(values, np.arange(200), seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(4 / np.sqrt(200), rel=0.2)
