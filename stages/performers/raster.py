"""Rasteriser for triangle meshes: a visibility buffer for shading, and depth maps for shadows and ambient occlusion.

Deferred: one pass decides which triangle every pixel sees, a second one (``stages.performers.shading``) computes colours.
Compiled with numba; single threaded and without fast maths, so that a render is the same bits everywhere.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


@numba.njit(cache=True)
def lattice(i: int, j: int, k: int) -> float:
    """Pseudo-random number in 0..1 of a lattice point."""
    n = (i * 374761393 + j * 668265263 + k * 1440662683) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFFFFFF) / 4294967296.0


@numba.njit(cache=True)
def noise(x: float, y: float, z: float) -> float:
    """Value noise in 0..1 with period 1 on each axis, smoothly interpolated."""
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    a, b, c = x - i, y - j, z - k
    a, b, c = a * a * (3 - 2 * a), b * b * (3 - 2 * b), c * c * (3 - 2 * c)
    total = 0.0
    for di in range(2):
        wa = a if di else 1 - a
        for dj in range(2):
            wb = b if dj else 1 - b
            for dk in range(2):
                total += wa * wb * (c if dk else 1 - c) * lattice(int(i) + di, int(j) + dj, int(k) + dk)
    return total


@numba.njit(cache=True)
def strand_reach(u: float) -> float:
    """How far a strand at position ``u`` (cm across the strands) falls short of its end, 0..1."""
    return 0.55 * noise(u * 2.1, 3.5, 0.5) + 0.45 * noise(u * 14.0, 7.5, 0.5)


@numba.njit(cache=True)
def visibility(
    points: Floats,
    triangles: Integers,
    cut: Floats,
    strand: Floats,
    ragged: Floats,
    triangle_buffer: Integers,
    weights: Floats,
    depth: Floats,
) -> None:
    """Which triangle each pixel sees.

    Args:
        points: float32 [vertices, 3], pixels x, pixels y, depth (larger is nearer).
        triangles: int32 [triangles, 3].
        cut, strand: float32 [vertices]; where a triangle is ragged, a pixel is left out when ``cut`` (cm to the end of the
            strand) is less than ``ragged`` times the strand's own shortfall. This makes fringes, tips and lashes.
        ragged: float32 [triangles], cm; 0 is a solid triangle.
        triangle_buffer, weights, depth: int32 [h, w], float32 [h, w, 2], float32 [h, w]; written.
    """
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, x1, y1, x2, y2 = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (y1 - y2) * (x0 - x2) + (x2 - x1) * (y0 - y2)
        if abs(area) < 1e-9:
            continue
        top, bottom = max(0, math.ceil(min(y0, y1, y2) - 0.5)), min(height - 1, math.floor(max(y0, y1, y2) - 0.5))
        left, right = max(0, math.ceil(min(x0, x1, x2) - 0.5)), min(width - 1, math.floor(max(x0, x1, x2) - 0.5))
        for row in range(top, bottom + 1):
            y = row + 0.5
            for column in range(left, right + 1):
                x = column + 0.5
                wa = ((y1 - y2) * (x - x2) + (x2 - x1) * (y - y2)) / area
                wb = ((y2 - y0) * (x - x2) + (x0 - x2) * (y - y2)) / area
                wc = 1 - wa - wb
                if wa < -1e-5 or wb < -1e-5 or wc < -1e-5:
                    continue
                z = wa * points[a, 2] + wb * points[b, 2] + wc * points[c, 2]
                if z <= depth[row, column]:
                    continue
                if ragged[t] > 0:
                    u = wa * strand[a] + wb * strand[b] + wc * strand[c]
                    if wa * cut[a] + wb * cut[b] + wc * cut[c] < ragged[t] * strand_reach(u):
                        continue
                depth[row, column] = z
                triangle_buffer[row, column] = t
                weights[row, column, 0] = wa
                weights[row, column, 1] = wb


@numba.njit(cache=True)
def depth_map(points: Floats, triangles: Integers, depth: Floats) -> None:
    """Nearest depth (largest third coordinate) per pixel of ``depth``: float32 [h, w], written."""
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, x1, y1, x2, y2 = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (y1 - y2) * (x0 - x2) + (x2 - x1) * (y0 - y2)
        if abs(area) < 1e-9:
            continue
        for row in range(max(0, math.ceil(min(y0, y1, y2))), min(height - 1, math.floor(max(y0, y1, y2))) + 1):
            for column in range(max(0, math.ceil(min(x0, x1, x2))), min(width - 1, math.floor(max(x0, x1, x2))) + 1):
                wa = ((y1 - y2) * (column - x2) + (x2 - x1) * (row - y2)) / area
                wb = ((y2 - y0) * (column - x2) + (x0 - x2) * (row - y2)) / area
                wc = 1 - wa - wb
                if wa >= -1e-5 and wb >= -1e-5 and wc >= -1e-5:
                    depth[row, column] = max(depth[row, column], wa * points[a, 2] + wb * points[b, 2] + wc * points[c, 2])


def lit(vertices: Floats, normals: Floats, triangles: Integers, towards: Floats, size: int = 192, bias: float = 0.45) -> Floats:
    """Share of light from far away in direction ``towards`` that reaches each vertex: float32 [vertices], 0..1."""
    axis = towards / np.linalg.norm(towards)
    helper = np.array([0, 1, 0], np.float32) if abs(axis[1]) < 0.9 else np.array([1, 0, 0], np.float32)
    right = np.cross(helper, axis)
    right /= np.linalg.norm(right)
    up = np.cross(axis, right)
    seen = np.stack([vertices @ right, vertices @ up, vertices @ axis], 1)
    low, high = seen[:, :2].min(0), seen[:, :2].max(0)
    scale = (size - 5) / float((high - low).max())
    seen[:, :2] = (seen[:, :2] - low) * scale + 2
    seen = np.ascontiguousarray(seen, np.float32)
    depth = np.full((size, size), -1e9, np.float32)
    depth_map(seen, triangles, depth)
    # Pushed out along the normal, against a surface shadowing itself.
    probe = seen[:, :2] + np.stack([normals @ right, normals @ up], 1) * bias * scale
    column, row = (np.clip(np.floor(probe[:, k]).astype(int), 0, size - 2) for k in (0, 1))
    fx, fy = (np.clip(probe[:, k], 0, size - 1.001) - place for k, place in ((0, column), (1, row)))
    level = seen[:, 2] + (normals @ axis) * bias + bias
    result = np.zeros(len(vertices), np.float32)
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.where(dx, fx, 1 - fx) * np.where(dy, fy, 1 - fy)
            result += (share * (depth[row + dy, column + dx] <= level)).astype(np.float32)
    return result


def sphere_directions(count: int) -> Floats:
    """Evenly spread unit vectors (Fibonacci spiral): float32 [count, 3]."""
    k = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * k / count), np.pi * (1 + 5**0.5) * k
    return np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], 1).astype(np.float32)


def ambient_occlusion(vertices: Floats, normals: Floats, triangles: Integers, directions: int = 72) -> Floats:
    """Cosine weighted share of the surroundings that each vertex sees: float32 [vertices], 0..1."""
    total, received = np.full(len(vertices), 1e-6, np.float32), np.zeros(len(vertices), np.float32)
    for towards in sphere_directions(directions):
        cosine = np.maximum(normals @ towards, 0)
        total += cosine
        received += cosine * lit(vertices, normals, triangles, towards, size=160)
    return np.asarray(received / total, np.float32)


def vertex_normals(vertices: Floats, triangles: Integers) -> Floats:
    """Area weighted unit normals: float32 [vertices, 3]."""
    corners = vertices[triangles]
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(face[:, axis], 3), minlength=len(vertices)) for axis in range(3)], axis=1
    )
    return np.asarray(normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9), np.float32)
