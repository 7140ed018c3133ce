"""Where the corners of the head's mesh go."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.warp import topology
from stages.warp.geometry import (
    FULL_ROTATION,
    INSET,
    ROTATION_REST,
    HeadMesh,
    Pose,
    in_plane_angle,
    limited_rotation,
    strip_triangles,
)
from tests.stages.painted_heads import portrait, pose, shape

angles = st.floats(-60, 60)


def turned(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    return cv2.Rodrigues(np.array(axis, np.float64) * np.deg2rad(degrees))[0]


def head() -> HeadMesh:
    source = portrait()
    return HeadMesh(source.landmarks, source.pose, source.matte)


@settings(max_examples=30, deadline=None)
@given(angles, angles, angles, st.floats(5, 200))
def test_lift_undoes_project(turn: float, nod: float, roll: float, scale: float) -> None:
    there = pose(scale, turn, nod, roll)
    points = shape(jawOpen=0.5)
    np.testing.assert_allclose(there.lift(there.project(points)), points, atol=1e-9)


def test_model_axes_are_seen_upright() -> None:
    seen = pose(10).project(np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(seen, [[128 + 10, 112 - 20, -30]])


@settings(max_examples=30, deadline=None)
@given(st.floats(-170, 170))
def test_the_angle_in_the_picture_is_that_of_the_roll(roll: float) -> None:
    # Counter-clockwise for the viewer is negative where y points down.
    assert in_plane_angle(pose(roll=roll).rotation) == pytest.approx(-np.deg2rad(roll), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(angles, angles, angles)
def test_rotation_is_limited_only_beyond_the_limit(turn: float, nod: float, roll: float) -> None:
    source, target = pose(turn=5).rotation, pose(turn=turn, nod=nod, roll=roll).rotation
    limited = limited_rotation(source, target)
    np.testing.assert_allclose(limited @ limited.T, np.eye(3), atol=1e-9)
    wanted = np.arccos(np.clip(source[:, 2] @ target[:, 2], -1, 1))
    shown = np.arccos(np.clip(source[:, 2] @ limited[:, 2], -1, 1))
    if wanted <= FULL_ROTATION:
        np.testing.assert_array_equal(limited, target)
    else:
        assert FULL_ROTATION - 1e-9 <= shown <= min(wanted, FULL_ROTATION + ROTATION_REST) + 1e-9


def test_nothing_moves_for_the_source_itself() -> None:
    mesh = head()
    corners, shown = mesh.place(mesh.landmarks, mesh.source_pose)
    np.testing.assert_allclose(corners[:, :2], mesh.texture, atol=1e-3)
    np.testing.assert_allclose(shown, mesh.landmarks, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 2), st.floats(-30, 30), st.floats(-30, 30))
def test_scale_and_shift_move_the_whole_head_alike(scale: float, x: float, y: float) -> None:
    mesh = head()
    there = Pose(mesh.source_pose.rotation, mesh.source_pose.translation + np.array([x, y, 0]), mesh.source_pose.scale * scale)
    corners, _ = mesh.place(there.project(shape()), there)
    moved = (mesh.texture - mesh.source_pose.translation[:2]) * scale + there.translation[:2]
    np.testing.assert_allclose(corners[:, :2], moved, atol=2e-2)


def test_the_face_goes_exactly_to_the_aligned_landmarks() -> None:
    mesh = head()
    there = pose(50, turn=20, nod=-10, roll=15)
    aligned = there.project(shape(jawOpen=0.8, eyeBlink=1.0))
    corners, _ = mesh.place(aligned, there)
    np.testing.assert_allclose(corners[: topology.MESH_LANDMARKS], aligned[: topology.MESH_LANDMARKS], atol=1e-3)


def test_an_open_jaw_does_not_move_the_top_of_the_hair() -> None:
    mesh = head()
    corners, _ = mesh.place(mesh.source_pose.project(shape(jawOpen=1.0)), mesh.source_pose)
    top = mesh.texture[:, 1] < mesh.landmarks[10, 1] - 0.6 * mesh.source_pose.scale
    assert top.sum() > 5
    np.testing.assert_allclose(corners[top, :2], mesh.texture[top], atol=0.05 * mesh.source_pose.scale)


def test_hair_keeps_its_width_when_the_head_turns() -> None:
    mesh = head()
    there = pose(turn=30)
    corners, _ = mesh.place(there.project(shape()), there)
    far = slice(topology.MESH_LANDMARKS + 72, None)
    before, after = np.ptp(mesh.texture[far, 0]), np.ptp(corners[far, 0])
    assert after > 0.88 * before  # a flat sheet would keep 0.87, a face 0.87 and less


def test_the_mesh_covers_the_matte_without_holes() -> None:
    from stages.warp.raster import rasterise

    source = portrait()
    mesh = head()
    corners, _ = mesh.place(mesh.landmarks, mesh.source_pose)
    drawn = rasterise(corners, mesh.texture, mesh.triangles, mesh.size, mesh.size)
    assert (drawn[..., 2] < np.inf)[source.matte > 0.004].all()


def test_a_ring_is_cut_into_a_strip_of_all_its_corners() -> None:
    triangles = strip_triangles(topology.INNER_LIPS)
    assert len(triangles) == len(topology.INNER_LIPS) - 2
    assert set(triangles.ravel()) == set(topology.INNER_LIPS.tolist())


def test_the_face_mesh_has_holes_only_at_eyes_and_mouth() -> None:
    edges: dict[tuple[int, int], int] = {}
    for triangle in topology.TRIANGLES:
        for a, b in zip(triangle, np.roll(triangle, 1), strict=True):
            edge = (min(int(a), int(b)), max(int(a), int(b)))
            edges[edge] = edges.get(edge, 0) + 1
    border = {corner for edge, count in edges.items() if count == 1 for corner in edge}
    rings = (topology.FACE_OVAL, topology.INNER_LIPS, topology.LEFT_EYE, topology.RIGHT_EYE)
    assert border == {int(corner) for ring in rings for corner in ring}


def test_a_turned_face_takes_the_colours_of_its_sides_from_within() -> None:
    mesh = head()
    face = slice(0, topology.MESH_LANDMARKS)
    np.testing.assert_array_equal(mesh.texture_for(mesh.source_pose), mesh.texture)
    turned_pose = Pose(turned((0, 1, 0), 25) @ mesh.source_pose.rotation, mesh.source_pose.translation, mesh.source_pose.scale)
    inside = mesh.texture_for(turned_pose)
    np.testing.assert_array_equal(inside[topology.MESH_LANDMARKS :], mesh.texture[topology.MESH_LANDMARKS :])
    hull = cv2.convexHull(mesh.texture[face])
    depths = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), True) for x, y in inside[face]])
    before = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), True) for x, y in mesh.texture[face]])
    middle = mesh.texture[face].mean(0)
    beside = np.abs(mesh.texture[face, 1] - middle[1]) < 0.3 * np.abs(mesh.texture[face, 0] - middle[0])
    assert depths[beside].min() > 0.8 * INSET * mesh.source_pose.scale
    # What is well inside stays, and nothing moves outwards.
    deep = before > 2 * INSET * mesh.source_pose.scale
    np.testing.assert_array_equal(inside[face][deep], mesh.texture[face][deep])
    assert (depths >= before - 1e-3).all()
