"""What is painted on a head, per vertex: found once for a person, so that a frame only interpolates it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.performers.raster import GRAIN
from stages.performers.surfaces import hairline_height

Floats = npt.NDArray[np.float32]

COLUMNS = 15
U, V, LAYER, RED, UNDER, FRECKLES, BEARD, HAIRLINE, LIP, BROW, BROW_AT, BROW_SLANT, JAW, PATCH, DEPTH = range(COLUMNS)
"""Columns: texture coordinates in centimetres and layer of the surface; strength of blood, of the shadow under the eyes, of
freckles and of the beard; centimetres above the hairline and inside the lips; distance from the brow's middle line as a
share of its width, position along it, direction across its hairs; centimetres above the jaw; patches of tone;
the vertex's place from back to front, centimetres."""

LASH = BEARD
"""Of eyelashes, which grow no beard: the share of the lash that is left towards its tip."""

FAR = -9.0
"""Of signed distances where a feature is nowhere near."""


def plain_paint(across: npt.ArrayLike, along: npt.ArrayLike, layer: float) -> Floats:
    """Paint of hair and cloth: only texture coordinates. float32 [vertices, 15]."""
    across = np.asarray(across, np.float32)
    paint = np.zeros((len(across), COLUMNS), np.float32)
    paint[:, U], paint[:, V], paint[:, LAYER] = across, along, layer
    return paint


def head_paint(vertices: Floats, points68: npt.NDArray[np.integer], seed: float) -> Floats:
    """Paint of a neutral head.

    Args:
        vertices: float32 [vertices, 3], at rest, centimetres. points68: vertices of the 68 points of Multi-PIE.
        seed: shifts the random patterns.

    Returns:
        float32 [vertices, 15].
    """
    x, y, z = (vertices[:, axis].astype(np.float64) for axis in range(3))
    marks = vertices[points68].astype(np.float64)
    around = np.degrees(np.abs(np.arctan2(x, z)))
    paint = np.zeros((len(vertices), COLUMNS))
    paint[:, U], paint[:, V], paint[:, LAYER], paint[:, DEPTH] = 9.5 * np.arctan2(x, z) + 3 * seed, y, seed, z
    paint[:, PATCH] = _patches(paint[:, U] * 0.55, y * 0.55) - 0.5
    # Blood under cheeks, nose and ears.
    red = 0.55 * np.exp(-((np.abs(x) - 5.0) ** 2) / 5 - (y + 0.2) ** 2 / 5) + 0.5 * np.exp(-(x**2) / 1.6 - (y - 0.3) ** 2 / 1.6)
    paint[:, RED] = (
        red * _step(4.0, 8.0, z) + 0.5 * _step(7.7, 8.8, np.abs(x)) + 0.25 * np.exp(-(x**2) / 4 - (y + 6.5) ** 2 / 1.5)
    )
    paint[:, UNDER] = np.exp(-((np.abs(x) - 3.0) ** 2) / 2.2 - (y - 2.1) ** 2 / 0.35)
    paint[:, FRECKLES] = np.exp(-((y - 0.8) ** 2) / 7) * _step(3.0, 7.0, z)
    edge = -2.6 + 0.02 * np.maximum(0.0, around - 20) ** 1.25
    cheeks = _step(0.0, 1.3, edge - y) * _step(-11.5, -8.5, y) * _step(-1.0, 1.5, z)
    moustache = np.exp(-((y + 1.75) ** 2) / 0.35) * _step(2.9, 2.0, np.abs(x)) * _step(9.0, 10.0, z)
    paint[:, BEARD] = np.maximum(cheeks, moustache)
    paint[:, HAIRLINE] = y - hairline_height(vertices)
    # From the chin to the corner of the jaw; ears, and all beside them, count as face down to that height.
    jaw = np.stack([np.degrees(np.abs(np.arctan2(marks[8:13, 0], marks[8:13, 2]))), marks[8:13, 1]], 1)
    paint[:, JAW] = y - np.interp(around, jaw[:, 0], jaw[:, 1])
    paint[:, LIP] = FAR
    near = (z > 8) & (y < -1.0) & (np.abs(x) < 3.6)
    lips = np.vstack([marks[48:60], marks[48:49]])[:, :2]
    distance, _ = _along_line(x[near], y[near], lips)
    paint[near, LIP] = np.where(_inside(x[near], y[near], lips), distance, -distance)
    paint[:, BROW] = 9.0
    for side, line in ((1.0, marks[22:27, :2]), (-1.0, marks[21:16:-1, :2])):
        near = (z > 5) & (y > 3.0) & (x * side > -0.3)
        distance, where = _along_line(x[near], y[near], line)
        wide = 0.52 * (1 - 0.62 * where**2)
        closer = distance / wide < paint[near, BROW]
        rows = np.flatnonzero(near)[closer]
        paint[rows, BROW] = (distance / wide)[closer]
        paint[rows, BROW_AT] = where[closer]
        paint[rows, BROW_SLANT] = (np.abs(x[near]) * 0.9 - y[near] * (1.0 - 0.75 * where))[closer]
    return paint.astype(np.float32)


def _step(low: float, high: float, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _patches(u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``raster.grain`` of many points."""
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = u - i, v - j
    i, j, k, m = i & 255, j & 255, (i + 1) & 255, (j + 1) & 255
    low = GRAIN[i, j] + (GRAIN[k, j] - GRAIN[i, j]) * a
    high = GRAIN[i, m] + (GRAIN[k, m] - GRAIN[i, m]) * a
    return np.asarray(low + (high - low) * b, np.float64)


def _along_line(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], line: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distance of points to a polyline [n, 2] and position along it, 0..1."""
    best, where = np.full(len(x), 1e9), np.zeros(len(x))
    for k in range(len(line) - 1):
        dx, dy = line[k + 1] - line[k]
        t = np.clip(((x - line[k, 0]) * dx + (y - line[k, 1]) * dy) / (dx * dx + dy * dy), 0, 1)
        distance = np.hypot(x - line[k, 0] - t * dx, y - line[k, 1] - t * dy)
        closer = distance < best
        best[closer], where[closer] = distance[closer], ((k + t) / (len(line) - 1))[closer]
    return best, where


def _inside(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], polygon: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    inside = np.zeros(len(x), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, 1, axis=0), strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside
