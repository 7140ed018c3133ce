"""The source's head as a mesh over its crop, and where the mesh's corners go for a pose and an expression.

Inside the outline of the face the corners are landmarks and go exactly to the aligned landmarks. Around it lies a grid over the
rest of the head (hair, ears, a little neck), whose depth runs from the outline's back to the middle of the skull. A part of
the out-of-plane rotation is taken from the grid the farther it is from the face: an ellipsoid's silhouette keeps its width under
a rotation, a sheet's does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from stages.warp import topology

Array = NDArray[np.float64]

FLIP = np.array([1.0, -1.0, -1.0])
"""Model axes (y up, z to the viewer) against picture axes (y down, z away from the viewer)."""

SKULL_CENTRE = np.array([0.0, 0.15, -1.25])
"""Middle of the skull in model space (unit: distance of the eye centres, about 63 mm)."""

DEPTH_REACH = (0.65, 1.3)
"""Distance from the outline, in model units, over which depth approaches that of the skull's middle: at the sides, at the top
(where the forehead goes on under the hair)."""

SILHOUETTE_SHARE = 0.75
"""How much of the grid, far from the face, keeps its silhouette instead of being foreshortened."""

MOTION_REACH = 0.55
"""Distance from the outline, in model units, over which the expression's motion fades."""

HANGING_REACH = 1.1
"""Height below the jaw's corner, in model units, over which hair comes to hang instead of rolling with the head."""

INSET = 0.035
"""How far inside the face, in model units, the sides of a turned face take their colours. There a landmark that lies a pixel too
far out shows hair or background, and the turn would stretch that pixel over the cheek."""

INSET_ROTATION = np.deg2rad(12.0)
"""Relative out-of-plane rotation from which on the inset is whole; the source's own pose shows the source's own picture."""

FULL_ROTATION = np.deg2rad(35.0)
"""Relative out-of-plane rotation up to which the head follows exactly; beyond it, parts unseen in the source would be smeared."""

ROTATION_REST = np.deg2rad(12.0)
"""What is added, at most, beyond ``FULL_ROTATION``."""


@dataclass(frozen=True)
class Pose:
    """picture = FLIP * (scale * rotation @ model) + translation.

    Attributes:
        rotation: float64 [3, 3], model axes to camera axes.
        translation: float64 [3], pixels of the crop.
        scale: pixels of the crop per model unit.
    """

    rotation: Array
    translation: Array
    scale: float

    def project(self, model: Array) -> Array:
        """Model space [n, 3] to pixels of the crop [n, 3]."""
        return self.scale * (model @ self.rotation.T) * FLIP + self.translation

    def lift(self, picture: Array) -> Array:
        """Pixels of the crop with depth [n, 3] to model space [n, 3]."""
        return ((picture - self.translation) * FLIP / self.scale) @ self.rotation


def smooth_step(value: Array | float, low: float = 0.0, high: float = 1.0) -> Array:
    """From 0 at ``low`` to 1 at ``high`` without a corner at either end."""
    share = np.clip((np.asarray(value, np.float64) - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share))


def hanging_share(drop: Array, scale: float) -> Array:
    """How far hair hangs instead of rolling with the head, 0..1, ``drop`` pixels below the jaw's corners in the source."""
    return smooth_step(drop / scale / HANGING_REACH)


def in_plane_angle(rotation: Array) -> float:
    """Angle, in the picture's plane (y down), of the in-plane rotation nearest to a rotation; radians."""
    return float(np.arctan2(rotation[0, 1] - rotation[1, 0], rotation[0, 0] + rotation[1, 1]))


def facing_angle(one: Array, other: Array) -> float:
    """Angle between the directions in which heads of two rotations [3, 3] face, radians."""
    return float(np.arccos(np.clip(one[:, 2] @ other[:, 2], -1.0, 1.0)))


def limited_rotation(source: Array, target: Array) -> Array:
    """The target's rotation with its out-of-plane part, relative to the source's, eased off beyond ``FULL_ROTATION``.

    Args:
        source: rotation [3, 3] of the head in the source picture.
        target: rotation [3, 3] wanted.

    Returns:
        Rotation [3, 3]; the same as ``target`` while the angle between the two facing directions is below the limit.
    """
    start, end = source[:, 2], target[:, 2]
    angle = facing_angle(source, target)
    if angle <= FULL_ROTATION:
        return target
    kept = FULL_ROTATION + ROTATION_REST * np.tanh((angle - FULL_ROTATION) / (2 * ROTATION_REST))
    axis = np.cross(end, start)
    length = np.linalg.norm(axis)
    if length < 1e-9:
        return source
    back, _ = cv2.Rodrigues(axis / length * (angle - kept))
    return np.asarray(back @ target)


def outline_with_midpoints(points: Array) -> Array:
    """A closed polygon [n, k] with the middle of every edge inserted [2 n, k]."""
    middle = (points + np.roll(points, -1, axis=0)) / 2
    return np.stack([points, middle], 1).reshape(-1, points.shape[1])


class HeadMesh:
    """The source's head as a triangle mesh.

    Corners: 468 landmarks, then the outline of the face with its edges' middles, then the grid around it.

    Args:
        landmarks: float [478, 3], of the source, pixels of its crop.
        pose: of the source, in its crop.
        matte: float [size, size], opacity of the source's head in its crop; the grid covers where it is not zero.
        spacing: of the grid, pixels.
    """

    def __init__(self, landmarks: NDArray[np.floating], pose: Pose, matte: NDArray[np.floating], spacing: int = 14) -> None:
        size = matte.shape[0]
        self.source_pose = pose
        self.landmarks: Array = np.asarray(landmarks, np.float64)
        outline = outline_with_midpoints(self.landmarks[topology.FACE_OVAL])
        grid = _grid_around(outline[:, :2], matte, spacing)
        nearest = np.argmin(np.linalg.norm(grid[:, None] - outline[None, :, :2], axis=2), axis=1)
        distance = np.linalg.norm(grid - outline[nearest, :2], axis=1) / pose.scale
        centre = pose.project(SKULL_CENTRE[None])[0]

        middle = outline[:, :2].mean(0)
        upwards = np.clip((middle[1] - grid[:, 1]) / np.maximum(np.linalg.norm(grid - middle, axis=1), 1e-6), 0, 1)
        reach = DEPTH_REACH[0] + (DEPTH_REACH[1] - DEPTH_REACH[0]) * upwards**2
        closeness = np.exp(-((distance / reach) ** 1.5))
        weights = _inverse_distance(grid, outline[:, :2], 0.25 * pose.scale)
        outline_depth = weights @ outline[:, 2]
        depth = closeness * outline_depth + (1 - closeness) * np.maximum(outline_depth, centre[2])
        around = np.concatenate([grid, depth[:, None]], axis=1)

        corners = np.concatenate([self.landmarks[: topology.MESH_LANDMARKS], outline, around])
        self.texture = corners[:, :2].astype(np.float32)
        self._inset = _inset(self.landmarks[: topology.MESH_LANDMARKS, :2], INSET * pose.scale)
        self._around = around
        self._around_model = pose.lift(around)
        self._silhouette = SILHOUETTE_SHARE * (1 - closeness)
        self._motion = weights * smooth_step(1 - distance / MOTION_REACH)[:, None]
        jaw = self.landmarks[topology.JAW_CORNERS, 1].mean()
        self._hanging = hanging_share(grid[:, 1] - jaw, pose.scale) * (1 - closeness)
        self._jaw = jaw
        self._centre = centre

        first = topology.MESH_LANDMARKS
        outer = Delaunay(np.concatenate([outline[:, :2], grid])).simplices
        middle = corners[first:, :2][outer].mean(1)
        polygon = np.ascontiguousarray(outline[:, :2], np.float32)
        outside = np.array([cv2.pointPolygonTest(polygon, (float(x), float(y)), False) < 0 for x, y in middle])
        holes = np.concatenate([strip_triangles(ring) for ring in (topology.INNER_LIPS, topology.LEFT_EYE, topology.RIGHT_EYE)])
        self.triangles = np.concatenate([topology.TRIANGLES, holes, outer[outside] + first]).astype(np.int32)
        self.size = size

    def aligned_pose(self, pose: Pose) -> Pose:
        """The pose that is shown for a wanted one: its rotation limited to what the source's picture can give."""
        return Pose(limited_rotation(self.source_pose.rotation, pose.rotation), pose.translation, pose.scale)

    def texture_for(self, pose: Pose) -> NDArray[np.float32]:
        """Where in the source's crop each corner takes its colours for a wanted pose: float32 [corners, 2], pixels."""
        share = min(facing_angle(self.source_pose.rotation, self.aligned_pose(pose).rotation) / INSET_ROTATION, 1.0)
        texture = self.texture.copy()
        texture[: topology.MESH_LANDMARKS] += np.float32(share) * self._inset
        return texture

    def place(self, aligned: NDArray[np.floating], pose: Pose) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Where the mesh's corners go.

        Args:
            aligned: float [478, 3], landmarks wanted, pixels of the target's crop.
            pose: that the aligned landmarks show, in the target's crop.

        Returns:
            float32 [corners, 3] in pixels of the target's crop, and the aligned landmarks [478, 3] with the rotation shown.
        """
        shown = self.aligned_pose(pose)
        wanted = shown.project(pose.lift(np.asarray(aligned, np.float64)))
        outline = outline_with_midpoints(wanted[topology.FACE_OVAL])
        source_outline = outline_with_midpoints(self.landmarks[topology.FACE_OVAL])
        displacement = outline - shown.project(self.source_pose.lift(source_outline))

        rigid = shown.project(self._around_model)
        flat = self._flat(shown)
        silhouette = self._silhouette[:, None]
        around = (1 - silhouette) * rigid + silhouette * flat + self._motion @ displacement
        around = (1 - self._hanging[:, None]) * around + self._hanging[:, None] * self._hung(shown)
        corners = np.concatenate([wanted[: topology.MESH_LANDMARKS], outline, around])
        return corners.astype(np.float32), wanted

    def _flat(self, shown: Pose, share: float = 1.0, points: Array | None = None) -> Array:
        """The grid turned in the picture's plane only, about the skull's middle."""
        points = self._around if points is None else points
        angle = share * in_plane_angle(shown.rotation @ self.source_pose.rotation.T)
        ratio = shown.scale / self.source_pose.scale
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = np.empty_like(points)
        centre = shown.project(SKULL_CENTRE[None])[0]
        moved[:, :2] = ratio * (points[:, :2] - self._centre[:2]) @ turn.T + centre[:2]
        moved[:, 2] = ratio * (points[:, 2] - self._centre[2]) + centre[2]
        return moved

    def _hung(self, shown: Pose) -> Array:
        """The grid below the jaw, hanging straight from where the head carries the jaw's height."""
        carried = self._around.copy()
        carried[:, 1] = np.minimum(carried[:, 1], self._jaw)
        hung = self._flat(shown, points=carried)
        hung[:, 1] += (self._around[:, 1] - carried[:, 1]) * shown.scale / self.source_pose.scale
        return hung


def _inset(face: Array, reach: float) -> NDArray[np.float32]:
    """Moves, float32 [n, 2] in pixels, that keep landmarks [n, 2] about ``reach`` from the face's sides; none at top and bottom.

    The sides are those of the convex hull: in a turned face landmarks of the cheek lie farther out than the outline's.
    """
    hull = cv2.convexHull(np.ascontiguousarray(face, np.float32))
    depth = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), True) for x, y in face])
    inward = face.mean(0) - face
    inward /= np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 1e-6)
    # From 0 to 2 reach, depths are squeezed into reach to 2 reach, so that their order stays.
    missing = np.maximum(reach - np.maximum(depth, 0) / 2, 0)
    return np.asarray(missing[:, None] * np.abs(inward[:, :1]) * inward, np.float32)


def _grid_around(outline: Array, matte: NDArray[np.floating], spacing: int) -> Array:
    """Points [n, 2] of a square grid over the matte, outside the face and at some distance from its outline."""
    size = matte.shape[0]
    reach = 2 * spacing + 1
    covered = cv2.dilate((matte > 0.004).astype(np.uint8), np.ones((reach, reach), np.uint8))
    steps = np.arange(-spacing, size + 2 * spacing, spacing, dtype=np.float64)
    x, y = (axis.ravel() for axis in np.meshgrid(steps, steps))
    inside = covered[np.clip(y, 0, size - 1).astype(int), np.clip(x, 0, size - 1).astype(int)] > 0
    polygon = np.ascontiguousarray(outline, np.float32)
    far = np.array(
        [cv2.pointPolygonTest(polygon, (float(px), float(py)), True) < -0.6 * spacing for px, py in zip(x, y, strict=True)]
    )
    return np.stack([x, y], 1)[inside & far]


def _inverse_distance(points: Array, anchors: Array, softness: float) -> Array:
    """Weights [points, anchors] of Shepard interpolation, each row summing to one."""
    square = ((points[:, None] - anchors[None]) ** 2).sum(2)
    weights = 1.0 / (square + (0.2 * softness) ** 2) ** 1.5
    return np.asarray(weights / weights.sum(1, keepdims=True))


def strip_triangles(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles of a strip between the two halves of a ring that starts at one corner and has the other at its middle."""
    half = len(ring) // 2
    triangles = []
    for step in range(half):
        lower, next_lower = ring[step], ring[step + 1]
        upper, next_upper = ring[-step], ring[len(ring) - step - 1]
        triangles += [(lower, next_lower, next_upper), (lower, next_upper, upper)]
    return np.array([triangle for triangle in triangles if len(set(triangle)) == 3], np.int64)
