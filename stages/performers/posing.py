"""Moves a performer's vertices from rest into a frame, compiled: expression, bend of the neck, sway of the body."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from stages.performers.raster import vertex_normals

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

PLACE, NORMAL, LIGHT, OPENNESS, STRAND = slice(0, 3), slice(3, 6), 6, 7, slice(8, 11)
"""Columns of a posed vertex: place (centimetres, camera axes), normal, shares of key light and open sky, direction of strands."""


@numba.njit(cache=True)
def add_expression(vertices: Floats, directions: Floats, weights: Floats) -> None:
    """Add weighted ``directions`` float32 [e, n, 3] to the first n of ``vertices`` [m >= n, 3], in place and in order."""
    count = directions.shape[1]
    for e in range(directions.shape[0]):
        w = weights[e]
        if w == 0:
            continue
        for v in range(count):
            vertices[v, 0] += w * directions[e, v, 0]
            vertices[v, 1] += w * directions[e, v, 1]
            vertices[v, 2] += w * directions[e, v, 2]


@numba.njit(cache=True)
def turn_about(vertices: Floats, follow: Floats, rotation: Floats, pivot: Floats, shift: Floats, sway: Floats) -> None:
    """``head.bend`` in place, and then ``sway`` [3] for all: ``follow`` [n] is how far each vertex goes with the head."""
    for v in range(vertices.shape[0]):
        x, y, z = vertices[v, 0] - pivot[0], vertices[v, 1] - pivot[1], vertices[v, 2] - pivot[2]
        for k in range(3):
            moved = rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2] * z + pivot[k] + shift[k]
            vertices[v, k] += (moved - vertices[v, k]) * follow[v] + sway[k]


@numba.njit(cache=True)
def turn_directions(directions: Floats, follow: Floats, rotation: Floats, out: Floats) -> None:
    """Directions at rest [n, 3] turned as far as their vertices follow the head, not normalised: ``out`` [n, 3]."""
    for v in range(directions.shape[0]):
        x, y, z = directions[v, 0], directions[v, 1], directions[v, 2]
        for k in range(3):
            turned = rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2] * z
            out[v, k] = directions[v, k] + (turned - directions[v, k]) * follow[v]


@numba.njit(cache=True)
def neighbour_mean(values: Floats, triangles: Integers) -> Floats:
    """Half of each value and half of the mean over its neighbours [n]: takes the grain out of sampled visibility."""
    total, degree = np.zeros(values.shape[0], np.float32), np.zeros(values.shape[0], np.float32)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        total[a] += values[b] + values[c]
        total[b] += values[a] + values[c]
        total[c] += values[a] + values[b]
        degree[a] += 2
        degree[b] += 2
        degree[c] += 2
    out = np.empty_like(values)
    for v in range(values.shape[0]):
        out[v] = 0.5 * values[v] + 0.5 * total[v] / degree[v] if degree[v] > 0 else values[v]
    return out


@numba.njit(cache=True)
def project(vertices: Floats, aim_x: float, aim_y: float, distance: float, focal: float, width: float, height: float) -> Floats:
    """Pinhole along -z: centimetres [n, 3 or more] to x, y and depth (larger is nearer), float32 [n, 3]."""
    out = np.empty((vertices.shape[0], 3), np.float32)
    for v in range(vertices.shape[0]):
        away = max(1.0, distance - vertices[v, 2])
        factor = focal / away
        out[v, 0] = width / 2 + (vertices[v, 0] - aim_x) * factor
        out[v, 1] = height / 2 - (vertices[v, 1] - aim_y) * factor
        out[v, 2] = -away
    return out


def strand_directions(vertices: Floats, triangles: Integers, strand: Floats, along: Floats) -> Floats:
    """Direction of the strands per vertex at rest: unit float32 [n, 3], zero where there are none."""
    a, b, c = triangles.T
    first, second = vertices[b] - vertices[a], vertices[c] - vertices[a]
    across1, across2 = strand[b] - strand[a], strand[c] - strand[a]
    along1, along2 = along[b] - along[a], along[c] - along[a]
    determinant = along1 * across2 - along2 * across1
    safe = np.where(np.abs(determinant) < 1e-9, np.inf, determinant)
    direction = (first * across2[:, None] - second * across1[:, None]) / safe[:, None]
    total = [np.bincount(triangles.ravel(), np.repeat(direction[:, k], 3), minlength=len(vertices)) for k in range(3)]
    stacked = np.stack(total, 1)
    return np.asarray(stacked / (np.linalg.norm(stacked, axis=1, keepdims=True) + 1e-9), np.float32)


def posed(vertices: Floats, triangles: Integers, openness: Floats, strands: Floats) -> Floats:
    """Rows of posed vertices, light still missing: float32 [n, 11]."""
    frame = np.empty((len(vertices), 11), np.float32)
    frame[:, PLACE] = vertices
    frame[:, NORMAL] = vertex_normals(vertices, triangles)
    frame[:, LIGHT] = 1.0
    frame[:, OPENNESS] = openness
    frame[:, STRAND] = strands
    return frame


def hand_matrix(side: float, roll: float) -> Floats:
    """Rotation of the raised hand in the picture's plane, radians; mirrored hands tilt the other way."""
    cosine, sine = math.cos(side * roll), math.sin(side * roll)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float32)
