"""Rasteriser for triangle meshes: a visibility buffer for shading, and depth maps for shadows and ambient occlusion.

Deferred: one pass decides which triangle every sample sees, a second one (``stages.performers.shading``) computes colours.
Compiled with numba; single threaded and without fast maths, so that a render does not depend on the number of cores.
"""

from __future__ import annotations

import math

import cv2
import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

NOTHING = -1e9
"""Depth where nothing was drawn."""

TILE = 16
"""Side in samples of the squares whose farthest depth is remembered, so that what lies behind is passed over at once."""

_STALE = 24
"""After so many triangles over a tile its farthest depth is looked up again."""

_BEHIND = 0.01
"""Centimetres that a triangle must lie behind a whole tile: more than the rounding of depths, so nothing seen is lost."""

GRAIN_SIDE = 256
GRAIN: Floats = np.random.default_rng(20_211).random((GRAIN_SIDE, GRAIN_SIDE), np.float32)
"""Random values in 0..1 on a lattice that repeats; ``grain`` reads between them."""


@numba.njit(cache=True)
def grain(table: Floats, u: float, v: float) -> float:
    """Value noise in 0..1 with period 1 between lattice points, linear between them; repeats after 256.

    ``table``: float32 [256, 256], ``GRAIN``.
    """
    i, j = math.floor(u), math.floor(v)
    a, b = u - i, v - j
    i, j = int(i) & 255, int(j) & 255
    k, m = (i + 1) & 255, (j + 1) & 255
    low = table[i, j] + (table[k, j] - table[i, j]) * a
    high = table[i, m] + (table[k, m] - table[i, m]) * a
    return low + (high - low) * b


@numba.njit(cache=True)
def strand_reach(table: Floats, u: float) -> float:
    """How far a strand at position ``u`` (cm across the strands) falls short of its end, 0..1."""
    return 0.55 * grain(table, u * 2.1, 3.5) + 0.45 * grain(table, u * 14.0, 77.5)


@numba.njit(cache=True)
def _farthest(depth: Floats, top: int, left: int) -> float:
    """The farthest depth in a tile, ``NOTHING`` where any sample of it is still empty."""
    low = depth[top, left]
    for row in range(top, min(top + TILE, depth.shape[0])):
        for column in range(left, min(left + TILE, depth.shape[1])):
            low = min(low, depth[row, column])
        if low <= NOTHING:
            break
    return low


@numba.njit(cache=True)
def visibility(
    points: Floats,
    triangles: Integers,
    cut: Floats,
    strand: Floats,
    ragged: Floats,
    table: Floats,
    triangle_buffer: Integers,
    depth: Floats,
) -> None:
    """Which triangle each sample sees.

    Args:
        points: float32 [vertices, 3], samples x, samples y, depth (larger is nearer).
        triangles: int32 [triangles, 3].
        cut, strand: float32 [vertices]; where a triangle is ragged, a sample is left out when ``cut`` (cm to the end of the
            strand) is less than ``ragged`` times the strand's own shortfall. This makes fringes, tips and lashes.
        ragged: float32 [triangles], cm; 0 is a solid triangle. table: ``GRAIN``.
        triangle_buffer, depth: int32 [h, w], float32 [h, w]; written.
    """
    height, width = depth.shape
    tiles = ((height + TILE - 1) // TILE, (width + TILE - 1) // TILE)
    farthest, drawn = np.full(tiles, NOTHING, np.float32), np.zeros(tiles, np.int32)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, x1, y1 = float(points[a, 0]), float(points[a, 1]), float(points[b, 0]), float(points[b, 1])
        x2, y2 = float(points[c, 0]), float(points[c, 1])
        low, high = min(y0, y1, y2), max(y0, y1, y2)
        if high < 0.5 or low > height - 0.5:
            continue
        top, bottom = max(0, math.ceil(low - 0.5)), min(height - 1, math.floor(high - 0.5))
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(width - 1, math.floor(max(x0, x1, x2) - 0.5))
        if top > bottom or left > right:
            continue
        area = (y1 - y2) * (x0 - x2) + (x2 - x1) * (y0 - y2)
        if abs(area) < 1e-9:
            continue
        nearest, hidden = max(points[a, 2], points[b, 2], points[c, 2]) + _BEHIND, True
        for i in range(top // TILE, bottom // TILE + 1):
            for j in range(left // TILE, right // TILE + 1):
                if drawn[i, j] >= _STALE:
                    farthest[i, j], drawn[i, j] = _farthest(depth, i * TILE, j * TILE), 0
                if farthest[i, j] <= nearest:
                    drawn[i, j] += 1
                    hidden = False
        if hidden:
            continue
        per_area = 1.0 / area
        step_a, step_b = (y1 - y2) * per_area, (y2 - y0) * per_area
        row_a, row_b = (x2 - x1) * per_area, (x0 - x2) * per_area
        z2 = float(points[c, 2])
        z02, z12 = points[a, 2] - z2, points[b, 2] - z2
        frayed = ragged[t]
        for row in range(top, bottom + 1):
            y = row + 0.5 - y2
            wa = step_a * (left + 0.5 - x2) + row_a * y
            wb = step_b * (left + 0.5 - x2) + row_b * y
            for column in range(left, right + 1):
                # Beyond a side that the row moves away from, the rest of the row is outside too.
                if wa < -1e-6:
                    if step_a <= 0:
                        break
                elif wb < -1e-6:
                    if step_b <= 0:
                        break
                elif wa + wb > 1.000001:
                    if step_a >= 0 and step_b >= 0:
                        break
                else:
                    z = z2 + wa * z02 + wb * z12
                    if z > depth[row, column]:
                        short = False
                        if frayed > 0:
                            wc = 1 - wa - wb
                            left_over = wa * cut[a] + wb * cut[b] + wc * cut[c]
                            if left_over < frayed:
                                reach = strand_reach(table, wa * strand[a] + wb * strand[b] + wc * strand[c])
                                short = left_over < frayed * reach
                        if not short:
                            depth[row, column] = z
                            triangle_buffer[row, column] = t
                wa += step_a
                wb += step_b


@numba.njit(cache=True)
def depth_map(points: Floats, triangles: Integers, depth: Floats) -> None:
    """Nearest depth (largest third coordinate) per pixel of ``depth``: float32 [h, w], written."""
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, x1, y1 = float(points[a, 0]), float(points[a, 1]), float(points[b, 0]), float(points[b, 1])
        x2, y2 = float(points[c, 0]), float(points[c, 1])
        top, bottom = max(0, math.ceil(min(y0, y1, y2))), min(height - 1, math.floor(max(y0, y1, y2)))
        left, right = max(0, math.ceil(min(x0, x1, x2))), min(width - 1, math.floor(max(x0, x1, x2)))
        if top > bottom or left > right:
            continue
        area = (y1 - y2) * (x0 - x2) + (x2 - x1) * (y0 - y2)
        if abs(area) < 1e-9:
            continue
        per_area = 1.0 / area
        step_a, step_b = (y1 - y2) * per_area, (y2 - y0) * per_area
        row_a, row_b = (x2 - x1) * per_area, (x0 - x2) * per_area
        z2 = float(points[c, 2])
        z02, z12 = points[a, 2] - z2, points[b, 2] - z2
        for row in range(top, bottom + 1):
            wa = step_a * (left - x2) + row_a * (row - y2)
            wb = step_b * (left - x2) + row_b * (row - y2)
            for column in range(left, right + 1):
                if wa < -1e-6:
                    if step_a <= 0:
                        break
                elif wb < -1e-6:
                    if step_b <= 0:
                        break
                elif wa + wb > 1.000001:
                    if step_a >= 0 and step_b >= 0:
                        break
                else:
                    z = z2 + wa * z02 + wb * z12
                    if z > depth[row, column]:
                        depth[row, column] = z
                wa += step_a
                wb += step_b


@numba.njit(cache=True)
def _turned(vertices: Floats, basis: Floats, low: Floats, scale: float, out: Floats) -> None:
    """Vertices seen along the third row of ``basis``, in pixels of a depth map with a border of two."""
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        out[i, 0] = (basis[0, 0] * x + basis[0, 1] * y + basis[0, 2] * z - low[0]) * scale + 2
        out[i, 1] = (basis[1, 0] * x + basis[1, 1] * y + basis[1, 2] * z - low[1]) * scale + 2
        out[i, 2] = basis[2, 0] * x + basis[2, 1] * y + basis[2, 2] * z


@numba.njit(cache=True)
def _received(
    seen: Floats,
    normals: Floats,
    basis: Floats,
    scale: float,
    bias: float,
    reach: int,
    depth: Floats,
    nearest: Floats,
    farthest: Floats,
    out: Floats,
) -> None:
    """Share of a square of ``2 * reach`` pixels around each vertex that lets light through: bilinear percentage-closer filter.

    ``nearest``, ``farthest``: like ``depth``, over the square that begins at each pixel: most squares are all light or all dark.
    """
    size = depth.shape[0]
    taps = 2 * reach
    for i in range(seen.shape[0]):
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        toward = basis[2, 0] * nx + basis[2, 1] * ny + basis[2, 2] * nz
        if toward < -0.5:
            out[i] = 0.0
            continue
        # Pushed out along the normal, against a surface shadowing itself.
        x = seen[i, 0] + (basis[0, 0] * nx + basis[0, 1] * ny + basis[0, 2] * nz) * bias * scale
        y = seen[i, 1] + (basis[1, 0] * nx + basis[1, 1] * ny + basis[1, 2] * nz) * bias * scale
        level = seen[i, 2] + toward * bias + bias
        column, row = math.floor(x) - reach + 1, math.floor(y) - reach + 1
        fx, fy = x - math.floor(x), y - math.floor(y)
        if column < 0 or row < 0 or column + taps >= size or row + taps >= size:
            out[i] = 1.0
            continue
        if nearest[row, column] <= level:
            out[i] = 1.0
            continue
        if farthest[row, column] > level:
            out[i] = 0.0
            continue
        total, weights = 0.0, 0.0
        for dy in range(taps):
            wy = 1 - fy if dy == 0 else fy if dy == taps - 1 else 1.0
            for dx in range(taps):
                wx = 1 - fx if dx == 0 else fx if dx == taps - 1 else 1.0
                weights += wx * wy
                if depth[row + dy, column + dx] <= level:
                    total += wx * wy
        out[i] = total / weights


def lit(
    vertices: Floats,
    normals: Floats,
    triangles: Integers,
    towards: Floats,
    size: int = 192,
    bias: float = 0.45,
    reach: int = 1,
    framed: Floats | None = None,
) -> Floats:
    """Share of light from far away in direction ``towards`` that reaches each vertex: float32 [vertices], 0..1.

    Args:
        size: of the depth map. bias: centimetres of tolerance. reach: pixels of the map over which shadows fade.
        framed: vertices [n, 3] that the depth map must hold, all by default; outside it everything is lit.
    """
    axis = towards / np.linalg.norm(towards)
    helper = np.array([0, 1, 0], np.float32) if abs(axis[1]) < 0.9 else np.array([1, 0, 0], np.float32)
    right = np.cross(helper, axis)
    right /= np.linalg.norm(right)
    basis = np.stack([right, np.cross(axis, right), axis]).astype(np.float32)
    flat = (vertices if framed is None else framed) @ basis[:2].T
    # Column by column: numpy is slow along the first axis of a narrow array.
    low = np.array([column.min() for column in flat.T])
    high = np.array([column.max() for column in flat.T])
    scale = (size - 5) / float((high - low).max())
    seen = np.empty_like(vertices)
    _turned(vertices, basis, low, scale, seen)
    depth = np.full((size, size), NOTHING, np.float32)
    depth_map(seen, triangles, depth)
    square = np.ones((2 * reach, 2 * reach), np.uint8)
    nearest, farthest = cv2.dilate(depth, square, anchor=(0, 0)), cv2.erode(depth, square, anchor=(0, 0))
    result = np.empty(len(vertices), np.float32)
    _received(seen, normals, basis, scale, bias, reach, depth, nearest, farthest, result)
    return result


def sphere_directions(count: int) -> Floats:
    """Evenly spread unit vectors (Fibonacci spiral): float32 [count, 3]."""
    k = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * k / count), np.pi * (1 + 5**0.5) * k
    return np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], 1).astype(np.float32)


def ambient_occlusion(
    vertices: Floats, normals: Floats, triangles: Integers, directions: int = 48, framed: Floats | None = None
) -> Floats:
    """Cosine weighted share of the surroundings that each vertex sees: float32 [vertices], 0..1."""
    total, received = np.full(len(vertices), 1e-6, np.float32), np.zeros(len(vertices), np.float32)
    for towards in sphere_directions(directions):
        cosine = np.maximum(normals @ towards, 0)
        total += cosine
        received += cosine * lit(vertices, normals, triangles, towards, size=128, framed=framed)
    return np.asarray(received / total, np.float32)


@numba.njit(cache=True)
def _add_face_normals(vertices: Floats, triangles: Integers, normals: Floats) -> None:
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        px, py, pz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        qx, qy, qz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx
        for v in (a, b, c):
            normals[v, 0] += x
            normals[v, 1] += y
            normals[v, 2] += z
    for v in range(normals.shape[0]):
        norm = math.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2) + 1e-9
        normals[v, 0] /= norm
        normals[v, 1] /= norm
        normals[v, 2] /= norm


def vertex_normals(vertices: Floats, triangles: Integers) -> Floats:
    """Area weighted unit normals: float32 [vertices, 3]."""
    normals = np.zeros_like(vertices)
    _add_face_normals(vertices, triangles, normals)
    return normals
