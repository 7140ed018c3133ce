"""Where MediaPipe's 478 landmarks lie on the head model: for each a triangle of vertices and weights of its corners.

Measured (``trace``, ``average_places``, ``settle``): performers were rendered, MediaPipe's landmarks detected on them, and each
traced back through its pixel to the surface seen there; the median over many heads gives its place (``docs/performers.md`` gives
the accuracy).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from stages.face3d.topology import INNER_LIPS
from stages.performers.camera import Camera
from stages.performers.head import HeadModel
from stages.performers.raster import GRAIN, NOTHING, vertex_normals, visibility

LANDMARKS = 478
IRIS_START = 468

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Attributes: vertices: int32 [478, 3], of the head model. weights: float32 [478, 3], of the corners; they sum to 1."""

    vertices: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]

    @classmethod
    def builtin(cls) -> Correspondence:
        """The one that ships; read once in a process."""
        return _builtin()

    def places(self, head: Floats) -> npt.NDArray[np.float32]:
        """The landmarks [478, 3] on a posed head [vertices, 3], in its units."""
        return np.asarray((head[self.vertices] * self.weights[..., None]).sum(1), np.float32)

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, vertices=self.vertices.astype(np.uint16), weights=self.weights.astype(np.float32))


IRIS_ANGLE = 24.0
"""Degrees between the gaze and the border of the iris, seen from the middle of the eyeball (``shading``)."""

_STEADY = 0.45  # centimetres of scatter up to which a landmark keeps to its place on the skin
_REACH = 4  # pixels from a detected landmark to the surface that it belongs to


def trace(
    head: Floats, triangles: npt.NDArray[np.int32], skin: npt.NDArray[np.bool_], camera: Camera, detected: Floats
) -> Floats:
    """The places of the surface under detected landmarks.

    Args:
        head: float32 [vertices, 3], posed. triangles: int32 [triangles, 3]. skin: bool [triangles], where a landmark
            can lie. detected: [478, 2 or 3], pixels.

    Returns:
        [478, 4]: triangle, weights of its corners; NaN where nothing lies near, or the surface is seen too much from the side.
    """
    points = camera.project(head)
    seen = np.full((camera.height, camera.width), -1, np.int32)
    depth = np.full(seen.shape, NOTHING, np.float32)
    nothing = np.zeros(len(points), np.float32)
    visibility(points, triangles, nothing, nothing, np.zeros(len(triangles), np.float32), GRAIN, seen, depth)
    normals = vertex_normals(np.asarray(head, np.float32), triangles)
    found = np.full((LANDMARKS, 4), np.nan)
    span = np.arange(-_REACH, _REACH + 1)
    near = sorted(((dx * dx + dy * dy, dx, dy) for dx in span for dy in span), key=lambda step: step[0])
    for index, (x, y) in enumerate(np.asarray(detected)[:, :2]):
        for _, dx, dy in near:
            column, row = int(x) + dx, int(y) + dy
            if not (0 <= column < camera.width and 0 <= row < camera.height):
                continue
            if seen[row, column] < 0 or not skin[seen[row, column]]:
                continue
            corners = triangles[seen[row, column]]
            if normals[corners, 2].mean() < 0.25:
                break
            at = np.array([x, y]) if dx == dy == 0 else np.array([column + 0.5, row + 0.5])
            frame = np.vstack([points[corners, :2].T, np.ones(3)])
            weights = np.clip(np.linalg.solve(frame, np.array([*at, 1.0])), 0, 1)
            found[index] = seen[row, column], *(weights / weights.sum())
            break
    return found


def average_places(
    neutral: Floats,
    triangles: npt.NDArray[np.int32],
    traces: Floats,
    mouth_open: npt.NDArray[np.bool_],
    canonical: Floats,
) -> Floats:
    """Places of the landmarks on the neutral head, [478, 3]; irises are left zero.

    Medians of the traces, made symmetric. Landmarks whose traces scatter (the outline of the face, which MediaPipe lets slide
    with the silhouette) are carried over from MediaPipe's canonical face by a smooth warp that the steady ones define.

    Args:
        neutral: [vertices, 3]. traces: [n, 478, 4], of ``trace``. mouth_open: [n]; only these say where the inner lips are.
        canonical: [478, 3], MediaPipe's canonical face with irises (x to the picture's right, y up, z to the viewer).
    """
    chosen = np.nan_to_num(traces[..., 0], nan=0).astype(int)
    every = (neutral[triangles[chosen]] * np.nan_to_num(traces[..., 1:])[..., None]).sum(2)
    known = np.isfinite(traces[..., 0])
    known[:, list(INNER_LIPS)] &= mouth_open[:, None]
    places, scatter = np.zeros((LANDMARKS, 3)), np.full(LANDMARKS, np.inf)
    for index in range(IRIS_START):
        points = every[known[:, index], index]
        if len(points) < 8:
            continue
        middle = np.median(points, axis=0)
        for _ in range(20):
            weight = 1 / np.maximum(np.linalg.norm(points - middle, axis=1), 0.05)
            middle = (points * weight[:, None]).sum(0) / weight.sum()
        places[index] = middle
        scatter[index] = np.median(np.linalg.norm(points - middle, axis=1))
    flip = np.array([-1.0, 1.0, 1.0])
    mirrored = cKDTree(canonical[:IRIS_START]).query(canonical[:IRIS_START] * flip)[1]
    face = places[:IRIS_START]
    steady = (scatter[:IRIS_START] < _STEADY) & (scatter[mirrored] < _STEADY)
    face[steady] = 0.5 * (face[steady] + face[mirrored[steady]] * flip)
    warp = RBFInterpolator(canonical[:IRIS_START][steady], face[steady], smoothing=1e-2, neighbors=60)
    carried = warp(canonical[:IRIS_START][~steady])
    face[~steady] = carried
    face[:] = 0.5 * (face + face[mirrored] * flip)
    return places


def settle(model: HeadModel, places: Floats, triangles: npt.NDArray[np.int32]) -> Correspondence:
    """Landmarks at the places [478, 3] of the neutral head that lie nearest on its surface; irises where the eyes look."""
    corners = model.neutral[triangles].astype(np.float64)
    tree = cKDTree(corners.mean(1))
    vertices, weights = np.zeros((LANDMARKS, 3), np.int32), np.zeros((LANDMARKS, 3), np.float32)
    for index in range(LANDMARKS):
        if index >= IRIS_START:
            continue
        best = np.inf
        for t in tree.query(places[index], k=24)[1]:
            share = _nearest_weights(corners[t], places[index])
            distance = float(np.linalg.norm(share @ corners[t] - places[index]))
            if distance < best:
                best, vertices[index], weights[index] = distance, triangles[t], share
    for start, side in ((IRIS_START, "Right"), (IRIS_START + 5, "Left")):
        ball, iris = (np.flatnonzero(model.vertices_of(f"M_{part}{side}")) for part in ("Sclera", "Iris"))
        centre = model.neutral[ball].mean(0)
        gaze = model.neutral[iris].mean(0) - centre
        gaze /= np.linalg.norm(gaze)
        surface = np.unique(np.concatenate([ball, iris]))
        towards = model.neutral[surface] - centre
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        right, up = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
        # MediaPipe's order: the centre, then the border towards the picture's right, up, left, down.
        for k, aside in enumerate((0 * right, right, up, -right, -up)):
            aside = aside - (aside @ gaze) * gaze
            angle = np.radians(IRIS_ANGLE) if k else 0.0
            wanted = np.cos(angle) * gaze + np.sin(angle) * aside / (np.linalg.norm(aside) + 1e-12)
            chosen = surface[np.argsort(-(towards @ wanted))[:3]]
            share = np.linalg.lstsq(
                np.vstack([towards[np.argsort(-(towards @ wanted))[:3]].T, np.ones(3)]), np.array([*wanted, 1.0])
            )[0]
            share = np.clip(share, 0, 1)
            vertices[start + k], weights[start + k] = chosen, share / share.sum()
    return Correspondence(vertices, weights)


def _nearest_weights(corners: Floats, point: Floats) -> npt.NDArray[np.float64]:
    """Barycentric weights [3] of the place of a triangle [3, 3] nearest to a point, to within the clipping of its edges."""
    a, b, c = corners
    system = np.stack([a - c, b - c], 1)
    u, v = np.linalg.lstsq(system, point - c)[0]
    share = np.clip([u, v, 1 - u - v], 0, 1)
    return np.asarray(share / share.sum(), np.float64)


@functools.cache
def _builtin() -> Correspondence:
    with (resources.files("stages.performers") / "data" / "landmarks.npz").open("rb") as file, np.load(file) as arrays:
        return Correspondence(arrays["vertices"].astype(np.int32), arrays["weights"].astype(np.float32))
