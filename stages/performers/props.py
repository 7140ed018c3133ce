"""Things of tubes: glasses on the nose, and a hand with its forearm that passes before the face. Geometry only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.performers.surfaces import Integers, Surface, grid_triangles

Floats = npt.NDArray[np.floating]


_ROUNDED = np.concatenate([np.linspace(0, 0.88, 10), 0.9 + 0.1 * np.sin(np.linspace(0, np.pi / 2, 7))])
"""Steps along a finger, close together where its tip is round."""


def tube(path: Floats, wide: Floats, deep: Floats, *, columns: int = 12, across: Floats | None = None) -> tuple[Floats, Integers]:
    """A tube around a path.

    Args:
        path: [n, 3], centimetres. wide, deep: [n], half axes of the cross-section, along ``across`` and at right angles to it.
        across: [3], not parallel to the path; x by default.

    Returns:
        vertices float32 [n * columns, 3], triangles int32.
    """
    path = np.asarray(path, np.float64)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    first = np.broadcast_to(np.array([1.0, 0, 0]) if across is None else np.asarray(across, np.float64), path.shape)
    second = np.cross(first, along)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    first = np.cross(along, second)
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    ring = np.cos(turn)[None, :, None] * first[:, None] * np.asarray(wide)[:, None, None]
    ring = ring + np.sin(turn)[None, :, None] * second[:, None] * np.asarray(deep)[:, None, None]
    vertices = (path[:, None] + ring).reshape(-1, 3)
    triangles = grid_triangles(len(path), columns, closed=True)
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    centre = np.repeat(path, columns, axis=0)[triangles].mean(1)
    if (normals * (corners.mean(1) - centre)).sum() < 0:
        triangles = np.ascontiguousarray(triangles[:, ::-1])
    return vertices.astype(np.float32), triangles


def _surface(vertices: Floats, triangles: Integers, across: Floats, along: Floats) -> Surface:
    count = len(vertices)
    return Surface(
        vertices.astype(np.float32),
        triangles,
        across.astype(np.float32),
        along.astype(np.float32),
        np.full(count, 10.0, np.float32),
        np.full(count, 10.0, np.float32),
    )


def _joined(parts: list[tuple[Floats, Integers]]) -> tuple[Floats, Integers]:
    offsets = np.cumsum([0] + [len(vertices) for vertices, _ in parts])
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(
        [triangles + offset for (_, triangles), offset in zip(parts, offsets, strict=False)]
    ).astype(np.int32)


def glasses(eyes: Floats, bridge: Floats, ears: Floats, *, roundness: float, size: float, thickness: float) -> Surface:
    """A frame with two rims, a bridge and temples.

    Args:
        eyes: [2, 3], centres of the eyeballs, left first. bridge: [3], on the nose. ears: [2, 3], where the temples end.
        roundness: 0 for a box, 1 for circles. size: half the width of a lens. thickness: half, of the frame.
    """
    parts = []
    turn = np.linspace(0, 2 * np.pi, 41)
    front = float(bridge[2]) + 0.35
    power = 2.0 + 3.0 * (1 - roundness)
    for k, side in enumerate((1.0, -1.0)):
        centre = np.array([eyes[k, 0] * 1.02, eyes[k, 1] - 0.25, front])
        reach = (np.abs(np.cos(turn)) ** power + np.abs(np.sin(turn)) ** power) ** (-1 / power)
        tall = size * (0.72 + 0.24 * roundness)
        rim = np.stack([size * reach * np.cos(turn), tall * reach * np.sin(turn), 0 * turn], 1)
        # The lenses follow the face backwards to the side.
        rim[:, 2] = -0.10 * (rim[:, 0] * side + size)
        parts.append(tube(centre + rim, np.full(41, thickness), np.full(41, thickness), columns=8, across=np.array([0, 0, 1.0])))
        hinge = centre + np.array([side * size, 0.45 * tall, -0.2 * size])
        t = np.linspace(0, 1, 10)[:, None]
        temple = hinge + (np.asarray(ears[k]) - hinge) * t
        temple[:, 0] += side * 0.35 * np.sin(np.pi * t[:, 0])
        parts.append(tube(temple, np.full(10, thickness * 0.8), np.full(10, thickness), columns=8))
    inner = [np.array([eyes[k, 0] * 1.02 - side * size, eyes[k, 1], front]) for k, side in enumerate((1.0, -1.0))]
    t = np.linspace(0, 1, 9)[:, None]
    arch = inner[0] + (inner[1] - inner[0]) * t
    arch[:, 1] += 0.30 * np.sin(np.pi * t[:, 0])
    parts.append(tube(arch, np.full(9, thickness), np.full(9, thickness), columns=8, across=np.array([0, 0, 1.0])))
    vertices, triangles = _joined(parts)
    return _surface(vertices, triangles, vertices[:, 0], vertices[:, 1])


def hand(side: float) -> tuple[Surface, Surface]:
    """A raised hand and its sleeve, around the wrist: fingers up, back of the hand to the camera.

    ``side``: +1 for the person's left hand, -1 for the right.
    """
    parts = []
    t = np.linspace(0, 1, 14)
    palm = np.stack([0 * t, -1.0 + 10.8 * t, 0.25 * np.sin(np.pi * t)], 1)
    ends = np.sqrt(np.clip(1 - np.clip((t - 0.86) / 0.14, 0, 1) ** 2, 0.02, 1))
    parts.append(tube(palm, (2.6 + 1.45 * np.clip(t / 0.7, 0, 1)) * ends, (1.75 - 0.35 * t) * ends, columns=20))
    for place, length, thick, splay in (
        (-3.0, 6.4, 0.80, -0.20),
        (-1.0, 7.6, 0.88, -0.06),
        (1.05, 8.0, 0.90, 0.05),
        (3.05, 7.2, 0.86, 0.16),
    ):
        t = _ROUNDED
        finger = np.stack([place + length * t * np.sin(splay), 8.6 + length * t * np.cos(splay), 0.2 - 1.5 * t**2], 1)
        joints = 1 + 0.07 * np.cos(2 * np.pi * (t - 0.05) * 2.2)
        size = thick * (1 - 0.18 * t) * joints * np.sqrt(np.clip(1 - np.clip((t - 0.9) / 0.1, 0, 1) ** 2, 0.02, 1))
        parts.append(tube(finger, size, size * 0.92, columns=12))
    t = _ROUNDED
    thumb = np.stack([1.2 + 4.9 * t, 0.6 + 7.0 * t - 0.8 * t**2, 0.1 - 1.1 * t], 1)
    size = (1.45 - 0.55 * t) * np.sqrt(np.clip(1 - np.clip((t - 0.9) / 0.1, 0, 1) ** 2, 0.02, 1))
    parts.append(tube(thumb, size, size * 0.9, columns=12))
    t = np.linspace(0, 1, 8)
    arm = np.stack([0 * t, -9.0 + 8.6 * t, 0 * t], 1)
    parts.append(tube(arm, 3.4 - 0.75 * t, 2.6 - 0.75 * t, columns=20))
    vertices, triangles = _joined(parts)
    t = np.linspace(0, 1, 14)
    cuff = np.stack([0.8 * t, -6.0 - 34.0 * t, -2.5 * t], 1)
    sleeve, folded = tube(cuff, 3.9 + 1.7 * t + 0.12 * np.sin(40 * t), 3.2 + 1.7 * t, columns=24)
    surfaces = []
    for places, corners in ((vertices, triangles), (sleeve, folded)):
        mirrored = places * np.array([side, 1, 1], np.float32)
        surfaces.append(
            _surface(
                mirrored,
                corners if side > 0 else np.ascontiguousarray(corners[:, ::-1]),
                places[:, 0] + places[:, 2],
                places[:, 1],
            )
        )
    return surfaces[0], surfaces[1]
