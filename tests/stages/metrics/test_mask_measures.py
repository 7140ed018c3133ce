"""Measures of masks and plates, on arrays whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import LABELS
from stages.metrics import masks as measures

SQUARE = np.zeros((40, 40), bool)
SQUARE[10:30, 10:30] = True


def moved(mask: np.ndarray, by: int) -> np.ndarray:
    return np.roll(mask, by, axis=1)


def test_overlap_of_the_same_is_one_and_of_strangers_nothing() -> None:
    assert measures.intersection_over_union(SQUARE, SQUARE) == 1
    assert measures.intersection_over_union(SQUARE, ~SQUARE) == 0
    assert np.isnan(measures.intersection_over_union(np.zeros_like(SQUARE), np.zeros_like(SQUARE)))


@given(st.integers(-10, 10))
def test_overlap_of_a_moved_square_is_as_computed_by_hand(by: int) -> None:
    expected = (20 - abs(by)) / (20 + abs(by))
    assert measures.intersection_over_union(SQUARE, moved(SQUARE, by)) == pytest.approx(expected)


def test_only_pixels_that_count_are_counted() -> None:
    left = np.zeros_like(SQUARE)
    left[:, :20] = True
    assert measures.intersection_over_union(SQUARE, moved(SQUARE, 3), left) == pytest.approx(7 / 10)


def test_the_boundary_error_is_the_distance_between_outlines() -> None:
    column, further = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    column[:, :20], further[:, :25] = True, True
    assert measures.boundary_error(column, further) == pytest.approx(5, abs=0.05)
    assert measures.boundary_error(SQUARE, SQUARE) == 0
    assert np.isnan(measures.boundary_error(SQUARE, np.zeros_like(SQUARE)))


def test_the_border_of_the_picture_is_no_outline() -> None:
    whole = np.ones((8, 8), bool)
    assert not measures.boundary(whole).any()
    half = whole.copy()
    half[:, 4:] = False
    assert measures.boundary(half).sum() == 8
    assert not measures.boundary(half, half).any()


def test_every_label_is_part_of_a_region_and_the_person_is_all_of_them() -> None:
    labels = np.arange(len(LABELS), dtype=np.uint8)[None]
    assert measures.region(labels, "person").tolist() == [[False, True, True, True, True, True]]
    assert measures.region(labels, "head").tolist() == [[False, True, True, False, False, False]]
    told = measures.label_measures(labels, labels)
    assert all(told[f"iou_{name}"] == 1 for name in measures.REGIONS)


def test_cloth_taken_for_hair_is_a_share_of_the_cloth() -> None:
    truth = np.array([[4, 4, 4, 4, 1, 1]], np.uint8)
    told = measures.label_measures(np.array([[1, 4, 4, 4, 1, 4]], np.uint8), truth)
    assert (told["cloth_as_hair"], told["hair_as_cloth"]) == (0.25, 0.5)
    assert np.isnan(told["iou_hand"])
    left = np.array([[True, True, False, False, False, False]])
    assert measures.label_measures(np.array([[1, 4, 4, 4, 1, 4]], np.uint8), truth, left)["cloth_as_hair"] == 0.5
    assert np.isnan(measures.label_measures(truth, truth, left)["hair_as_cloth"])


def test_plate_errors_count_inside_the_hole_only() -> None:
    truth = np.full((40, 40, 3), 100, np.uint8)
    plate = truth.copy()
    plate[~SQUARE] = 0
    plate[SQUARE] += 10
    assert measures.absolute_error(plate, truth, SQUARE) == pytest.approx(10)
    assert measures.peak_signal_to_noise(plate, truth, SQUARE) == pytest.approx(20 * np.log10(255 / 10))
    assert measures.peak_signal_to_noise(truth, truth, SQUARE) == measures.LARGEST_PSNR
    assert np.isnan(measures.absolute_error(plate, truth, np.zeros_like(SQUARE)))


def test_the_rim_of_a_hole_is_as_wide_as_asked() -> None:
    assert measures.rim(SQUARE, 2).sum() == 20 * 20 - 16 * 16
    assert (measures.rim(SQUARE, 100) == SQUARE).all()


def test_a_constant_error_does_not_flicker_and_a_single_flash_does() -> None:
    rng = np.random.default_rng(0)
    truth = [rng.integers(20, 200, (40, 40, 3)).astype(np.uint8) for _ in range(5)]
    steady = [picture + np.uint8(20) for picture in truth]
    holes = [SQUARE] * 5
    told = measures.flicker_error(steady, truth, holes)
    assert np.isnan(told[[0, -1]]).all()
    assert (told[1:-1] == 0).all()
    steady[2] = steady[2] + np.uint8(8)
    assert measures.flicker_error(steady, truth, holes)[1:-1] == pytest.approx([4, 8, 4])
