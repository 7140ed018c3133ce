"""Hair and clothes as grids of strands and folds laid over a head: geometry only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int32]

CENTRE = np.array([0.0, 4.5, 0.0], np.float32)
"""Of the skull; directions to the scalp are measured from here."""

HAIRLINE = np.array(
    [
        (0, 10.0),
        (25, 10.1),
        (42, 9.2),
        (55, 7.4),
        (66, 5.4),
        (73, 3.6),
        (79, 3.2),
        (84, 4.3),
        (100, 4.9),
        (112, 2.6),
        (125, -1.5),
        (150, -4.2),
        (180, -4.6),
    ]
)
"""Degrees around the head from the front, and the height of the hairline there."""


@dataclass(frozen=True)
class Surface:
    """A grid of vertices. Everything is float32 [vertices, ...].

    Attributes:
        vertices: [n, 3], centimetres, at rest.
        triangles: int32 [m, 3].
        strand: [n], position across the strands, centimetres (hair); around the body (clothes).
        along: [n], position along the strands, centimetres.
        cut: [n], centimetres that are left to the end of the strand.
        follow: [n], height that decides how far the vertex moves with the head.
        ragged: centimetres by which strands differ in length; 0 is a clean edge.
    """

    vertices: Floats
    triangles: Integers
    strand: Floats
    along: Floats
    cut: Floats
    follow: Floats
    ragged: float = 0.0


def grid_triangles(rows: int, columns: int, *, closed: bool) -> Integers:
    """Triangles of a grid stored row by row; ``closed`` joins the last column to the first."""
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    right = (c + 1) % columns
    a, b, d, e = r * columns + c, r * columns + right, (r + 1) * columns + c, (r + 1) * columns + right
    return np.concatenate([np.stack([a, d, b], -1).reshape(-1, 3), np.stack([b, d, e], -1).reshape(-1, 3)]).astype(np.int32)


def facing_outward(vertices: Floats, triangles: Integers, axis: Floats) -> Integers:
    """The triangles, turned round where most of them face the vertical line through ``axis``."""
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = corners.mean(1) - axis
    outward[:, 1] = np.maximum(outward[:, 1], 0)
    return triangles if (normals * outward).sum() > 0 else np.ascontiguousarray(triangles[:, ::-1])


class Skull:
    """Distance from the centre of the skull to the scalp in any direction, ears left out."""

    def __init__(self, vertices: Floats) -> None:
        relative = vertices - CENTRE
        ears = (np.abs(vertices[:, 0]) > 7.75) & (vertices[:, 1] < 4.6)
        self._radius = np.linalg.norm(relative[~ears], axis=1)
        self._tree = cKDTree(relative[~ears] / self._radius[:, None])

    def radius(self, directions: Floats) -> Floats:
        """``directions``: unit vectors [..., 3]; returns centimetres, [...]."""
        distance, index = self._tree.query(directions, k=16)
        weight = np.exp(-((distance / 0.09) ** 2)) + 1e-6
        return np.asarray((weight * self._radius[index]).sum(-1) / weight.sum(-1), np.float32)


def _smoothstep(low: float, high: float, x: Floats) -> Floats:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def hairline_height(points: Floats) -> Floats:
    """Height of the hairline around the head at the side where each point lies: [n]."""
    around = np.degrees(np.abs(np.arctan2(points[..., 0], points[..., 2])))
    return np.asarray(np.interp(around, HAIRLINE[:, 0], HAIRLINE[:, 1]), np.float32)


def cap(skull: Skull, thickness: float, *, quiff: float = 0.0, curl: float = 0.0, ragged: float = 0.7, seed: int = 0) -> Surface:
    """Short hair from the crown to the hairline, ``thickness`` centimetres over the scalp.

    ``quiff`` adds volume in front, ``curl`` (0..1) winds the strands and makes the outline lumpy.
    """
    columns, rows, tilt = 120, 60, 0.55
    turn, fall = np.meshgrid(np.linspace(np.pi, 3 * np.pi, columns), np.linspace(0.0, 2.5, rows), indexing="xy")
    direction = np.stack([np.sin(fall) * np.sin(turn), np.cos(fall), np.sin(fall) * np.cos(turn)], -1)
    lean = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    direction = direction @ lean.T
    scalp = CENTRE + direction * skull.radius(direction)[..., None]
    inside = scalp[..., 1] - hairline_height(scalp)
    phase = np.random.default_rng(seed).uniform(0, 6, 6)
    tufts = 0.12 * np.sin(7 * turn + phase[0] + 2 * fall) + 0.10 * np.sin(17 * turn + phase[1] + 3 * fall)
    front = _smoothstep(0.1, 0.95, direction[..., 2]) * _smoothstep(0.0, 2.2, inside)
    lumps = np.sin(21 * turn + phase[5]) * np.sin(17 * fall + phase[3]) + 0.6 * np.sin(37 * turn) * np.sin(31 * fall + phase[4])
    tufts = tufts + 0.13 * curl * lumps
    lift = (0.06 + thickness * np.sqrt(_smoothstep(-0.2, 3.5, inside))) * (1 + tufts) + quiff * front * (
        1 + 0.25 * np.sin(5 * turn + phase[2])
    )
    vertices = scalp + direction * lift[..., None]
    vertices[..., 1] += 0.4 * quiff * front
    across = turn * 8.0 + curl * (0.7 * np.sin(fall * 17 + 3 * np.sin(5 * turn)) + 0.4 * np.sin(fall * 41 + phase[1]))
    flat = vertices.reshape(-1, 3).astype(np.float32)
    return Surface(
        flat,
        facing_outward(flat, grid_triangles(rows, columns, closed=False), CENTRE),
        across.ravel().astype(np.float32),
        (fall * 9).ravel().astype(np.float32),
        (inside + 0.5 * ragged + 0.5 * (np.sin(9 * turn + phase[3]) + np.sin(23 * turn + phase[4])) * 0.35 * ragged)
        .ravel()
        .astype(np.float32),
        np.full(vertices[..., 0].size, 10.0, np.float32),
        ragged,
    )


def curtains(
    skull: Skull, tips: float, *, parting: float, volume: float, wave: float, build: float = 1.0, layers: int = 3, seed: int = 0
) -> list[Surface]:
    """Hair parted along a line over the head that runs down both sides, and a sheet behind the neck.

    Args:
        tips: height of the ends, centimetres (0 is about the height of the nostrils, -12 the shoulders).
        parting: angle of the parting from the middle, radians, positive to the picture's right.
        volume: centimetres over the scalp. wave: centimetres of side to side wave. layers: shells from inside to outside.
        build: width of the shoulders that long hair falls over.
    """
    rng = np.random.default_rng(seed)
    surfaces: list[Surface] = []
    for layer in range(layers):
        lift = volume * (0.45 + 0.55 * (layer + 1) / layers)
        for side in (-1.0, 1.0):
            phase = rng.uniform(0, 2 * np.pi, 4)
            rows, columns = 60, 72
            plane = np.linspace(1.07 - 0.05 * layer, -1.7, columns)  # from the hairline in front to the back of the head
            s = np.linspace(0, 1, rows)[:, None]
            # Where a strand leaves the scalp and hangs: early in front, so that it frames the face and covers the ear.
            over = 1.36 - 0.46 * _smoothstep(0.45, 1.05, plane) + 0.05 * np.sin(3 * plane + phase[0])
            share = np.minimum(s / 0.45, 1)
            sweep = parting * np.cos(np.clip(plane, -1.5, 1.5)) * (1 - share)
            beta = side * share * over + sweep
            direction = np.stack([np.sin(beta), np.cos(beta) * np.cos(plane), np.cos(beta) * np.sin(plane)], -1)
            radius = skull.radius(direction)
            raised = lift * (0.35 + 0.65 * _smoothstep(0.0, 0.5, share + 0 * plane)) + 0.10 * share * np.sin(9 * plane + phase[1])
            on_scalp = CENTRE + direction * (radius + raised)[..., None]
            leave = on_scalp[np.searchsorted(s[:, 0], 0.45)]
            down = np.maximum(s - 0.45, 0) / 0.55
            length = leave[:, 1] - tips
            drop = down * length[None]
            inward = 0.10 * _smoothstep(4, 14, drop) * (drop - 4) if wave < 0.2 else 0.0 * drop
            place = np.broadcast_to(plane[None], drop.shape)
            # The front edge turns in towards the cheek, and inner layers hang nearer to the neck: hair has depth.
            fringe = _smoothstep(0.45, 1.05, place)
            inward = inward + (2.2 * fringe * _smoothstep(0, 5, drop) + 0.9 * (layers - 1 - layer) * _smoothstep(1, 6, drop)) * (
                1 - 0.3 * fringe
            )
            bow = (1.25 - 0.7 * fringe) * np.sin(np.clip(drop / 9, 0, np.pi)) + wave * np.sin(
                0.75 * drop + 2.2 * place + phase[2]
            ) * _smoothstep(2, 7, drop)
            hanging = np.stack(
                [
                    leave[None, :, 0] + side * (bow - inward),
                    leave[None, :, 1] - drop,
                    leave[None, :, 2] - 0.13 * drop + 0.5 * wave * np.cos(0.75 * drop + 1.7 * place + phase[3]),
                ],
                -1,
            )
            vertices = np.where((s <= 0.45)[..., None], on_scalp, hanging)
            left = length[None] * (1 - down) + 2.0 * np.maximum(0.45 - s, 0)
            # Ends of the outer layers are shorter, so that tips lie in steps.
            left = left - 1.1 * layer
            flat = vertices.reshape(-1, 3).astype(np.float32)
            flat = over_shoulders(flat, (place > 0.0).ravel().astype(np.float32), build, 1.1 + 0.45 * layer)
            surfaces.append(
                Surface(
                    flat,
                    facing_outward(flat, grid_triangles(rows, columns, closed=False), CENTRE),
                    (place * 9 + 40 * layer + 17 * side).ravel().astype(np.float32),
                    (share * 12 + drop).ravel().astype(np.float32),
                    left.ravel().astype(np.float32),
                    np.maximum(vertices[..., 1], -10.5 + 0.25 * vertices[..., 1]).ravel().astype(np.float32),
                    2.4,
                )
            )
    rows, columns = 24, 64
    turn, s = np.meshgrid(np.linspace(1.55, 2 * np.pi - 1.55, columns), np.linspace(0, 1, rows), indexing="xy")
    height = 4.0 + (tips - 4.0) * s
    sway = 1 + 0.02 * np.sin(9 * turn)
    vertices = np.stack([8.4 * np.sin(turn) * sway, height, -0.5 + 8.2 * np.cos(turn) * sway - 0.08 * (4 - height)], -1)
    flat = over_shoulders(vertices.reshape(-1, 3), np.zeros(vertices[..., 0].size), build, 1.0)
    surfaces.append(
        Surface(
            flat,
            facing_outward(flat, grid_triangles(rows, columns, closed=False), CENTRE),
            (turn * 8).ravel().astype(np.float32),
            (4 - height).ravel().astype(np.float32),
            (height - tips).ravel().astype(np.float32),
            np.maximum(height, -9.0).ravel().astype(np.float32),
            2.0,
        )
    )
    return surfaces


def torso_axes(height: Floats, build: float) -> tuple[Floats, Floats]:
    """Half width and half depth of the clothed torso at heights [...], centimetres: neck, shoulders, chest."""
    levels = [9, 11, 12.5, 14, 16, 18.5, 22, 30, 60]
    wide = np.interp(-height, levels, build * np.array([5.6, 7.6, 10.4, 13.8, 17.2, 19.0, 20.0, 20.4, 20.0]))
    return wide, np.interp(-height, levels, [5.2, 6.0, 6.6, 7.2, 8.2, 9.2, 10.2, 11.2, 11.0])


def over_shoulders(vertices: Floats, front: Floats, build: float, lift: float) -> Floats:
    """Hair [n, 3] pushed out of the torso: forwards over the chest where ``front`` [n] is 1, backwards where it is 0.

    ``lift``: centimetres over the cloth.
    """
    moved = vertices.astype(np.float64)
    wide, deep = torso_axes(moved[:, 1], build)
    inside = np.sqrt(np.clip(1 - (moved[:, 0] / (wide + lift)) ** 2, 0, 1)) * (deep + lift)
    below = _smoothstep(9.5, 13.5, -moved[:, 1])
    place = moved[:, 2] - Neck.AXIS[2]
    pushed = np.where(front > 0.5, np.maximum(place, inside), np.minimum(place, -inside))
    moved[:, 2] = Neck.AXIS[2] + place + below * (pushed - place)
    return moved.astype(np.float32)


def knot(skull: Skull, seed: int) -> Surface:
    """Hair tied up in a knot on the crown."""
    columns, rows = 40, 24
    turn, fall = np.meshgrid(np.linspace(0, 2 * np.pi, columns), np.linspace(0.02, np.pi - 0.02, rows), indexing="xy")
    towards = np.array([0.0, 0.88, -0.47])
    centre = CENTRE + towards * (float(skull.radius(towards[None])[0]) + 1.3)
    size = 2.5 + 0.16 * np.sin(5 * turn + 4 * fall + seed % 6)
    vertices = centre + size[..., None] * np.stack(
        [np.sin(fall) * np.sin(turn), 0.85 * np.cos(fall), np.sin(fall) * np.cos(turn)], -1
    )
    flat = vertices.reshape(-1, 3).astype(np.float32)
    count = len(flat)
    return Surface(
        flat,
        facing_outward(flat, grid_triangles(rows, columns, closed=False), centre.astype(np.float32)),
        (fall * 4 + 1.2 * turn).ravel().astype(np.float32),
        (turn * 4 + 2).ravel().astype(np.float32),
        np.full(count, 10.0, np.float32),
        np.full(count, 10.0, np.float32),
    )


class Neck:
    """Distance from the body's axis to the skin of neck and bust, by angle and height."""

    AXIS = np.array([0.0, 0.0, -1.0], np.float32)

    def __init__(self, vertices: Floats) -> None:
        part = vertices[(vertices[:, 1] < -6.5) & (vertices[:, 2] < 6.8)] - self.AXIS
        radius = np.hypot(part[:, 0], part[:, 2])
        self._tree = cKDTree(np.stack([part[:, 0] / radius * 6, part[:, 1], part[:, 2] / radius * 6], 1))
        self._radius = radius

    def radius(self, turn: Floats, height: Floats) -> Floats:
        distance, index = self._tree.query(np.stack([np.sin(turn) * 6, height, np.cos(turn) * 6], -1), k=8)
        weight = np.exp(-(distance**2)) + 1e-6
        return np.asarray((weight * self._radius[index]).sum(-1) / weight.sum(-1), np.float32)


def _clothes(turn: Floats, radius: Floats, height: Floats, *, closed: bool = True) -> Surface:
    vertices = np.stack([radius * np.sin(turn), height, radius * np.cos(turn)], -1) + Neck.AXIS
    size = vertices[..., 0].size
    flat = vertices.reshape(-1, 3).astype(np.float32)
    return Surface(
        flat,
        facing_outward(flat, grid_triangles(*turn.shape, closed=closed), Neck.AXIS),
        (turn * 9).ravel().astype(np.float32),
        (-height).ravel().astype(np.float32),
        np.full(size, 10.0, np.float32),
        np.full(size, -30.0, np.float32),
    )


def clothes(vertices: Floats, style: str, build: float) -> list[Surface]:
    """A sweater with a round neck (``crew``), a roll neck (``roll``), or a shirt with a collar (``shirt``).

    ``vertices``: the person's head, whose neck and bust the cloth follows. ``build``: width of the shoulders, 1 for average.
    """
    neck = Neck(vertices)
    columns, rows = 112, 56
    turn, t = np.meshgrid(np.linspace(-np.pi, np.pi, columns, endpoint=False), np.linspace(0, 1, rows), indexing="xy")
    front = 0.5 + 0.5 * np.cos(turn)
    vee = np.maximum(0, 1 - np.abs(turn) / 0.34)
    opening = {"crew": -10.6 - 2.2 * front, "roll": -10.6 - 0.9 * front, "shirt": -10.6 - 1.4 * front - 3.4 * vee}[style]

    def torso(turn: Floats, height: Floats, edge: Floats) -> Floats:
        """Radius of the cloth: on the skin at its edge, on the shoulders below."""
        wide, deep = torso_axes(height, build)
        ellipse = 1 / np.sqrt((np.sin(turn) / wide) ** 2 + (np.cos(turn) / deep) ** 2)
        skin = neck.radius(turn, np.maximum(height, -15.5))
        rest = _smoothstep(0.0, 3.6, edge - height)
        free = np.where(height > -16.5, np.maximum(ellipse, skin + 0.5), ellipse)
        return np.asarray(free * rest + (skin + 0.45) * (1 - rest), np.float32)

    height = opening + (-60.0 - opening) * t**2.2
    folds = 0.35 * _smoothstep(0.15, 0.5, t) * (np.sin(5 * turn + 0.35 * height) + 0.7 * np.sin(11 * turn - 0.22 * height))
    # The arms, as far as a bust shows them: a crease between them and the chest.
    arms = 1 - 0.16 * np.exp(-(((np.abs(turn) - 1.02) / 0.085) ** 2)) * _smoothstep(18.5, 24.0, -height)
    surfaces = [_clothes(turn, torso(turn, height, opening) * arms + folds, height)]
    edge = opening[0]
    if style in ("crew", "roll"):
        around = np.linspace(0, 2 * np.pi, 14)
        turn, ring = np.meshgrid(np.linspace(-np.pi, np.pi, columns, endpoint=False), around, indexing="xy")
        thick, tall = (0.28, 0.62) if style == "crew" else (0.45, 1.25)
        height = edge - 0.35 + tall * (1 + np.cos(ring))
        radius = neck.radius(turn, np.maximum(height, -15.5)) + 0.12 + thick * (1 + np.sin(ring))
        surfaces.append(_clothes(turn, radius, height))
    else:
        gate = 0.20
        turn, v = np.meshgrid(np.linspace(gate, 2 * np.pi - gate, columns), np.linspace(0, 1, 24), indexing="xy")
        front = 0.5 + 0.5 * np.cos(turn)
        near = np.minimum(turn, 2 * np.pi - turn) - gate  # from the opening, radians
        top = -9.0 - 2.8 * front**1.3
        point = np.exp(-(((near - 0.20) / 0.28) ** 2))
        stand, fall = np.clip(v / 0.35, 0, 1), np.clip((v - 0.35) / 0.65, 0, 1)
        height = top - 1.4 * (1 - stand) - (2.4 + 2.3 * point) * fall + 0.25 * np.sin(np.pi * fall)
        lifted = 0.30 + 0.70 * np.sin(0.5 * np.pi * np.clip(fall * 2.5, 0, 1)) + 0.15 * fall
        radius = torso(turn, height, -10.6 - 1.4 * front) - 0.30 + lifted
        surfaces.append(_clothes(turn, radius, height, closed=False))
    return surfaces
