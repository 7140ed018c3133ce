"""Crop and frame pixels are the same place said in two ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.video.crops import crop_matrix, extract_crop, frame_matrix, to_crop, to_frame

coordinates = st.floats(-5000, 5000)
crops = st.tuples(coordinates, coordinates, st.floats(8, 4000))


@given(crops, st.tuples(coordinates, coordinates, coordinates), st.integers(64, 1024))
def test_there_and_back_again(crop, point, size):
    np.testing.assert_allclose(to_frame(to_crop(point, crop, size), crop, size), point, atol=1e-6)


@given(crops, st.tuples(coordinates, coordinates), st.integers(64, 1024))
def test_matrices_say_the_same_as_the_functions(crop, point, size):
    np.testing.assert_allclose(crop_matrix(crop, size) @ (*point, 1.0), to_crop(point, crop, size), rtol=1e-7, atol=1e-5)
    there = np.vstack([crop_matrix(crop, size), (0, 0, 1)])
    back = np.vstack([frame_matrix(crop, size), (0, 0, 1)])
    np.testing.assert_allclose(back @ there, np.eye(3), atol=1e-6)


def test_corners_of_the_crop_are_corners_of_its_picture():
    corners = np.array([[60.0, 20.0], [100.0, 60.0]])
    np.testing.assert_allclose(to_crop(corners, (80, 40, 40), 512), [[0, 0], [512, 512]])


def test_depth_is_scaled_and_not_moved():
    assert to_crop([10.0, 10.0, -8.0], (10, 10, 50), 100)[2] == -16.0


def test_one_crop_for_each_frame():
    points = np.arange(2 * 4 * 3, dtype=float).reshape(2, 4, 3)
    both = np.array([[5.0, 6.0, 20.0], [9.0, 1.0, 30.0]])
    together = to_crop(points, both, 64)
    for index in range(2):
        np.testing.assert_allclose(together[index], to_crop(points[index], both[index], 64))
    with pytest.raises(ValueError, match="3 crops for 2"):
        to_crop(points, np.ones((3, 3)), 64)


def test_a_crop_of_its_own_size_is_the_picture_itself():
    picture = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    np.testing.assert_array_equal(extract_crop(picture, (40, 32, 32), 32), picture[16:48, 24:56])


@pytest.mark.parametrize("size", [50, 100, 137, 400])
def test_a_mark_lands_where_its_coordinates_say(size):
    """A soft dot drawn at a known place is found, by its centre of mass, where ``to_crop`` puts it."""
    place = np.array([101.3, 87.8])
    y, x = np.mgrid[:200, :220] + 0.5
    dot = np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * 5.0**2))
    crop = (98.7, 91.2, 100.0)
    found = extract_crop((dot * 255).astype(np.uint8), crop, size).astype(float)
    y, x = np.mgrid[:size, :size] + 0.5
    centre = np.array([(x * found).sum(), (y * found).sum()]) / found.sum()
    np.testing.assert_allclose(centre, to_crop(place, crop, size), atol=0.02 * size / 100 + 0.05)


def test_shrinking_averages_instead_of_picking_pixels():
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 255
    small = extract_crop(stripes, (256.3, 255.8, 400.0), 100)
    assert abs(float(small.mean()) - 127.5) < 2
    assert small.std() < 4


def test_outside_the_frame_the_border_repeats():
    picture = np.full((20, 20, 3), 7, np.uint8)
    picture[:, 10:] = 200
    crop = extract_crop(picture, (10, 10, 60), 60)
    assert (crop[:, 0] == 7).all()
    assert (crop[:, -1] == 200).all()


def test_an_empty_crop_is_refused():
    with pytest.raises(ValueError, match="positive side"):
        extract_crop(np.zeros((4, 4, 3), np.uint8), (1, 1, 0), 32)
