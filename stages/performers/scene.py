"""A performer in front of a camera: pictures together with the truth about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.performers import shading
from stages.performers.appearance import Appearance, Room, display, linear
from stages.performers.head import HeadModel, bend, rotation_matrix
from stages.performers.performance import Performance
from stages.performers.raster import ambient_occlusion, lit, sphere_directions, vertex_normals, visibility
from stages.performers.surfaces import HAIRLINE, Skull, Surface, cap, clothes, curtains

Floats = npt.NDArray[np.float32]
SUPERSAMPLING = 2
LABEL_COUNT = 6
MATERIALS = {
    "M_Face": shading.SKIN,
    "M_BackHead": shading.SKIN,
    "M_Teeth": shading.TEETH,
    "M_GumsTongue": shading.GUMS,
    "M_ScleraLeft": shading.LEFT_EYE,
    "M_ScleraRight": shading.RIGHT_EYE,
    "M_IrisLeft": shading.LEFT_EYE,
    "M_IrisRight": shading.RIGHT_EYE,
    "M_EyeLashes": shading.LASHES,
}


@dataclass(frozen=True)
class Camera:
    """A pinhole that looks along -z.

    Attributes:
        width, height: of the picture. focal: in picture heights. distance: centimetres in front of the origin.
        aim: centimetres (x, y) of the model that appear in the middle of the picture.
    """

    width: int = 512
    height: int = 512
    focal: float = 2.1
    distance: float = 90.0
    aim: tuple[float, float] = (0.0, -1.5)

    @property
    def position(self) -> Floats:
        return np.array([self.aim[0], self.aim[1], self.distance], np.float32)

    def project(self, points: Floats, scale: float = 1.0) -> Floats:
        """Centimetres [n, 3] to pixels x, pixels y, depth (larger is nearer): float32 [n, 3]."""
        away = self.distance - points[:, 2]
        factor = self.focal * self.height * scale / away
        x = self.width * scale / 2 + (points[:, 0] - self.aim[0]) * factor
        y = self.height * scale / 2 - (points[:, 1] - self.aim[1]) * factor
        return np.stack([x, y, -away], 1).astype(np.float32)


@dataclass(frozen=True)
class Shot:
    """A picture and the truth about it.

    Attributes:
        picture: uint8 [h, w, 3], RGB. labels: uint8 [h, w], as in ``schemas.tables.LABELS``.
        landmarks: float32 [68, 3], Multi-PIE points in pixels of the picture; z in pixels, negative towards the viewer.
        rotation: float32 [3, 3] of the head, model to camera axes. expression: float32 [expressions], weights.
        vertices: float32 [vertices, 3] of the head model, posed, centimetres.
    """

    picture: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    landmarks: Floats
    rotation: Floats
    expression: Floats
    vertices: Floats


def _tangents(vertices: Floats, triangles: npt.NDArray[np.int32], strand: Floats, along: Floats) -> Floats:
    """Direction of the strands per vertex: float32 [vertices, 3], not normalised."""
    a, b, c = triangles.T
    first, second = vertices[b] - vertices[a], vertices[c] - vertices[a]
    across1, across2 = strand[b] - strand[a], strand[c] - strand[a]
    along1, along2 = along[b] - along[a], along[c] - along[a]
    determinant = along1 * across2 - along2 * across1
    safe = np.where(np.abs(determinant) < 1e-9, np.inf, determinant)
    direction = (first * across2[:, None] - second * across1[:, None]) / safe[:, None]
    total = [np.bincount(triangles.ravel(), np.repeat(direction[:, k], 3), minlength=len(vertices)) for k in range(3)]
    return np.stack(total, 1).astype(np.float32)


def _smooth(count: int, triangles: npt.NDArray[np.int32], values: Floats) -> Floats:
    """Mean over each vertex's neighbours, once: takes the grain out of sampled visibility."""
    corners = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    total = np.bincount(corners[:, 0], values[corners[:, 1]], minlength=count) + np.bincount(
        corners[:, 1], values[corners[:, 0]], minlength=count
    )
    degree = np.bincount(corners.ravel(), minlength=count)
    return np.where(degree > 0, (0.5 * values + 0.5 * total / np.maximum(degree, 1)), values).astype(np.float32)


class Performer:
    """A person: a head shape, an appearance, and everything that does not change from frame to frame.

    Args:
        model: the head model. identity: float32 [k], coefficients of the head's shape. appearance: everything painted and worn.
    """

    def __init__(self, model: HeadModel, identity: Floats, appearance: Appearance) -> None:
        self.model, self.identity, self.appearance = model, np.asarray(identity, np.float32), appearance
        self.base = model.shape(self.identity)
        self.count = len(self.base)
        skin = model.vertices_of("M_Face", "M_BackHead")
        surfaces = [(shading.HAIR, surface) for surface in self._hair(Skull(self.base[skin & (self.base[:, 1] > -6)]))]
        surfaces += [(shading.CLOTH, surface) for surface in clothes(self.base[skin], appearance.clothes_style, appearance.build)]
        kinds = np.array([MATERIALS.get(name, shading.SKIN) for name in model.materials])
        drawn = self._drawn(kinds)
        triangles, kind = [model.triangles[drawn]], [kinds[model.material[drawn]]]
        rest, ragged = [self.base], [np.where(kind[0] == shading.LASHES, 1.0, 0.0)]
        strand: list[Any]
        cut: list[Any]
        along: list[Any]
        vertices: list[Any]
        follow: list[Any]
        strand, cut, along = [self.base[:, 0]], [self._lash_length()], [np.zeros(self.count)]
        vertices, follow, offset = [self.base], [self.base[:, 1]], self.count
        for number, (material, surface) in enumerate(surfaces):
            triangles.append(surface.triangles + offset)
            kind.append(np.full(len(surface.triangles), material))
            rest.append(np.stack([surface.strand, surface.along, np.full(len(surface.strand), 5.0 * number)], 1))
            ragged.append(np.full(len(surface.triangles), surface.ragged))
            strand.append(surface.strand)
            cut.append(surface.cut)
            along.append(surface.along)
            vertices.append(surface.vertices)
            follow.append(surface.follow)
            offset += len(surface.vertices)
        self.triangles = np.ascontiguousarray(np.concatenate(triangles), np.int32)
        self.kind = np.concatenate(kind).astype(np.int32)
        self.rest, self.ragged, self.strand, self.cut, self.along, self.at_rest, self.follow = (
            np.ascontiguousarray(np.concatenate(parts), np.float32)
            for parts in (rest, ragged, strand, cut, along, vertices, follow)
        )
        self.occluders = np.ascontiguousarray(self.triangles[(self.kind != shading.LASHES)])
        ao = ambient_occlusion(self.at_rest, vertex_normals(self.at_rest, self.triangles), self.occluders)
        self.occlusion = _smooth(offset, self.triangles, ao)

    def _drawn(self, kinds: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Triangles of the head model that are drawn: bool. Left out: what clothes always hide, and the lower lashes."""
        middle = self.base[self.model.triangles].mean(1)
        hidden = (middle[:, 1] < -16.2) | ((middle[:, 1] < -12.3) & (np.abs(middle[:, 0]) > 6.0))
        lower = (kinds[self.model.material] == shading.LASHES) & self._lower_lid()[self.model.triangles[:, 0]]
        return ~(hidden | lower)

    def _lower_lid(self) -> npt.NDArray[np.bool_]:
        """Vertices that hardly move when the eyes close: bool [vertices]; tells lower lashes from upper ones."""
        blink = self.model.expression[[self.model.expression_names.index(f"eyeBlink_{side}") for side in "LR"]]
        return np.abs(blink[:, :, 1]).sum(0) < 0.35

    def _lash_length(self) -> Floats:
        """Share of an eyelash that is left towards its tip at each vertex: float32 [vertices], 0 at the tip; lashes only."""
        cut = np.zeros(self.count, np.float32)
        lashes = self.model.vertices_of("M_EyeLashes")
        for side in ("Left", "Right"):
            centre = self.base[self.model.vertices_of("M_Sclera" + side)].mean(0)
            chosen = lashes & (self.base[:, 0] * centre[0] > 0)
            reach = np.linalg.norm(self.base[chosen] - centre, axis=1)
            low, high = np.percentile(reach, [5, 98])
            cut[chosen] = np.clip((high - reach) / (high - low), 0, 1) * 0.95
        return cut

    def _hair(self, skull: Skull) -> list[Surface]:
        look = self.appearance
        seed = look.texture_seed
        if look.hair_style == "bald":
            return []
        if look.hair_style == "buzz":
            return [cap(skull, 0.28, ragged=0.5, seed=seed)]
        if look.hair_style == "short":
            return [cap(skull, 0.55, ragged=0.8, seed=seed), cap(skull, 1.0, quiff=0.35, ragged=1.2, seed=seed + 1)]
        if look.hair_style == "quiff":
            return [cap(skull, 0.55, quiff=0.5, ragged=0.8, seed=seed), cap(skull, 1.1, quiff=1.5, ragged=1.2, seed=seed + 1)]
        under = cap(skull, 0.08, ragged=0.6, seed=seed)
        volume = 1.3 if look.hair_style == "bob" else 1.1
        return [under, *curtains(skull, look.tips, parting=look.parting, volume=volume, wave=look.wave, seed=seed)]

    def pose(self, expression: Floats, rotation: Floats, shift: Floats, sway: Floats) -> Floats:
        """All vertices in camera axes: float32 [vertices, 3], the head model's first."""
        vertices = self.at_rest.copy()
        vertices[: self.count] += self.model.displacement(expression)
        return bend(vertices, self.follow, rotation, shift) + np.asarray(sway, np.float32)

    def shoot(
        self,
        camera: Camera,
        room: Room,
        background: Floats,
        expression: Floats,
        pose: Floats,
        shift: Floats | None = None,
        sway: Floats | None = None,
    ) -> Shot:
        """Render one frame.

        Args:
            background: float32 [h, w, 3], linear light, from ``room.paint``. expression: float32 [expressions], weights.
            pose: yaw, pitch, roll, radians. shift, sway: centimetres, of head and body.
        """
        nowhere = np.zeros(3, np.float32)
        rotation = rotation_matrix(*(float(angle) for angle in pose))
        world = self.pose(expression, rotation, nowhere if shift is None else shift, nowhere if sway is None else sway)
        normals = vertex_normals(world, self.triangles)
        key = np.asarray(room.key, np.float32)
        key = key / np.linalg.norm(key)
        # A lamp of some size: shadows with soft edges.
        cone = [key + 0.16 * spread for spread in sphere_directions(10)]
        key_light = np.mean([lit(world, normals, self.occluders, towards, size=288, bias=0.3) for towards in cone], axis=0)
        key_light = _smooth(len(world), self.triangles, key_light)
        model, look = self.model, self.appearance
        eyes = np.zeros((2, 2, 3), np.float32)
        for k, side in enumerate(("Left", "Right")):
            centre = world[: self.count][model.vertices_of("M_Sclera" + side)].mean(0)
            gaze = world[: self.count][model.vertices_of("M_Iris" + side)].mean(0) - centre
            eyes[k] = centre, gaze / np.linalg.norm(gaze)
        marks = self.base[model.points68]
        width, height = camera.width * SUPERSAMPLING, camera.height * SUPERSAMPLING
        points = camera.project(world, SUPERSAMPLING)
        seen, depth = np.full((height, width), -1, np.int32), np.full((height, width), -1e9, np.float32)
        weights = np.zeros((height, width, 2), np.float32)
        visibility(points, self.triangles, self.cut, self.strand, self.ragged, seen, weights, depth)
        picture = cv2.resize(background, (width, height), interpolation=cv2.INTER_LINEAR)
        labels = np.zeros((height, width), np.uint8)
        jaw = np.stack([np.degrees(np.abs(np.arctan2(marks[8:17, 0], marks[8:17, 2]))), marks[8:17, 1]], 1)
        stubble = {"bald": 0.0, "buzz": 0.75}.get(look.hair_style, 0.9)
        shine = 0.1 if look.hair_style == "buzz" else 1.0
        shading.shade(
            seen,
            weights,
            self.triangles,
            self.kind,
            self.rest,
            world,
            normals,
            _tangents(world, self.triangles, self.strand, self.along),
            self.occlusion,
            key_light,
            camera.position,
            np.stack([key, room.key_colour, room.fill_colour, room.sky_colour]).astype(np.float32),
            np.stack([linear(c) for c in (look.skin, look.hair, look.lips, look.iris, look.cloth)]),
            eyes,
            np.ascontiguousarray(marks[21:16:-1, :2], np.float32),
            np.ascontiguousarray(marks[22:27, :2], np.float32),
            np.ascontiguousarray(np.vstack([marks[48:60], marks[48:49]])[:, :2], np.float32),
            HAIRLINE.astype(np.float32),
            jaw.astype(np.float32),
            np.array([look.freckles, look.beard, look.brows, stubble, shine], np.float32),
            float(look.texture_seed % 97),
            picture,
            labels,
        )
        small = cv2.resize(np.minimum(picture, 1.5), (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        counts = np.stack(
            [
                (labels == k).reshape(camera.height, SUPERSAMPLING, camera.width, SUPERSAMPLING).sum((1, 3))
                for k in range(LABEL_COUNT)
            ]
        )
        landmarks = camera.project(world[model.points68])
        eye_depth = camera.distance - world[model.points68, 2].mean()
        landmarks[:, 2] = -(world[model.points68, 2] - world[model.points68, 2].mean()) * camera.focal * camera.height / eye_depth
        return Shot(display(small), counts.argmax(0).astype(np.uint8), landmarks, rotation, expression, world[: self.count])

    def shoot_frame(self, camera: Camera, room: Room, background: Floats, performance: Performance, frame: int) -> Shot:
        """Render one frame of a performance."""
        return self.shoot(
            camera,
            room,
            background,
            performance.expression[frame],
            performance.pose[frame],
            performance.shift[frame],
            performance.sway[frame],
        )
