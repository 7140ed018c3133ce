"""The rasteriser against triangles worked out by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.warp.raster import OUTSIDE, rasterise, triangle_rows


def drawn(vertices: list[list[float]], triangles: list[list[int]], size: int = 8, texture: list[list[float]] | None = None):
    corners = np.array(vertices, np.float32)
    places = corners[:, :2].copy() if texture is None else np.array(texture, np.float32)
    return rasterise(corners, places, triangle_rows(np.array(triangles)), size, size)


def test_covers_the_pixels_whose_centres_lie_inside() -> None:
    result = drawn([[0, 0, 0], [4, 0, 0], [0, 4, 0]], [[0, 1, 2]])
    expected = np.zeros((8, 8), bool)
    for y in range(4):
        for x in range(4):
            expected[y, x] = (x + 0.5) + (y + 0.5) <= 4
    np.testing.assert_array_equal(result[..., 2] < np.inf, expected)
    assert (result[~expected][:, 0] == OUTSIDE).all()


def test_winding_does_not_matter() -> None:
    corners = [[1, 1, 0], [7, 2, 0], [3, 6, 0]]
    np.testing.assert_allclose(drawn(corners, [[0, 1, 2]]), drawn(corners, [[2, 1, 0]]), atol=1e-4)


def test_texture_coordinates_are_linear() -> None:
    result = drawn([[0, 0, 0], [8, 0, 0], [0, 8, 0]], [[0, 1, 2]], texture=[[10, 20], [26, 20], [10, 52]])
    inside = result[..., 2] < np.inf
    y, x = np.nonzero(inside)
    np.testing.assert_allclose(result[inside][:, 0], 10 + 2 * (x + 0.5), atol=1e-4)
    np.testing.assert_allclose(result[inside][:, 1], 20 + 4 * (y + 0.5), atol=1e-4)


def test_the_nearer_triangle_wins_in_whatever_order() -> None:
    corners = [[0, 0, 5], [8, 0, 5], [0, 8, 5], [0, 0, 1], [4, 0, 1], [0, 4, 1]]
    texture = [[1, 1]] * 3 + [[2, 2]] * 3
    for order in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        result = drawn(corners, order, texture=texture)
        assert result[0, 0, 0] == 2
        assert result[0, 6, 0] == 1


def test_two_triangles_of_a_square_leave_no_gap() -> None:
    result = drawn([[0, 0, 0], [8, 0, 0], [8, 8, 0], [0, 8, 0]], [[0, 1, 2], [0, 2, 3]])
    assert (result[..., 2] == 0).all()


def test_degenerate_and_unknown_corners_draw_nothing() -> None:
    nothing = drawn([[1, 1, 0], [5, 5, 0], [3, 3, 0], [np.nan, 0, 0], [4, 4, 0], [0, 4, 0]], [[0, 1, 2], [3, 4, 5]])
    assert (nothing[..., 2] == np.inf).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20, 30), min_size=6, max_size=6))
def test_stays_inside_the_picture_and_the_texture(values: list[float]) -> None:
    corners = [[*values[2 * k : 2 * k + 2], 0.0] for k in range(3)]
    result = drawn(corners, [[0, 1, 2]], texture=[[0, 0], [1, 0], [0, 1]])
    inside = result[..., 2] < np.inf
    assert (result[inside][:, :2] >= -1e-3).all()
    assert (result[inside][:, :2] <= 1 + 1e-3).all()
