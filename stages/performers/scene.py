"""A performer in front of a camera: pictures together with the truth about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.performers import shading
from stages.performers.appearance import Appearance, Room, brow_tone, display, linear
from stages.performers.camera import Camera
from stages.performers.head import PIVOT, HeadModel, rotation_matrix
from stages.performers.mediapipe_points import Correspondence
from stages.performers.performance import Performance
from stages.performers.person import LOWEST_LIT, assemble
from stages.performers.posing import (
    LIGHT,
    NORMAL,
    PLACE,
    add_expression,
    hand_matrix,
    neighbour_mean,
    posed,
    turn_about,
    turn_directions,
)
from stages.performers.raster import GRAIN, NOTHING, lit, visibility

Floats = npt.NDArray[np.float32]
__all__ = ["Camera", "Performer", "Shot"]
SHOWN = display(np.linspace(0, shading.BRIGHTEST, shading.TONES, dtype=np.float32))
"""From linear light 0..1.5 to what a screen shows, uint8."""

LOOKS_ASIDE, LOOKS_UP = np.radians(30.0), np.radians(22.0)
"""How far eyes turn at weight 1 of ``eyeLook...``."""

GIVES_WAY = 0.3
"""By how many centimetres eyeballs give way to closed lids, which the head model lets cut into eyes that stand out."""

SHADOW_MAP = 288
SHADOW_REACH = 4
"""Size of the shadow map, and over how many of its pixels the shadow of a lamp of some size fades."""

SHOULDERS = np.array([[14.5, -15.5, -1.5], [-14.5, -15.5, -1.5]], np.float32)
"""Joints of the shoulders of an average build, left first, centimetres."""


@dataclass(frozen=True)
class Shot:
    """A picture and the truth about it. Pixels: x right, y down, (0, 0) the corner of the picture.

    Attributes:
        picture: uint8 [h, w, 3], RGB. labels: uint8 [h, w], as in ``schemas.tables.LABELS``; glasses belong to the face, a hand
            and its sleeve are ``other``. alpha: uint8 [h, w], share of the pixel that shows the person, hand included.
        landmarks: float32 [478, 3], pixels, in MediaPipe's order; z in pixels, negative towards the viewer.
        points68: float32 [68, 3], Multi-PIE points, likewise.
        rotation: float32 [3, 3] of the head, model to camera axes. expression: float32 [expressions], weights.
        shoulders: float32 [2, 2], joints of the left and the right shoulder, pixels.
        vertices: float32 [vertices, 3] of the head model, posed, centimetres.
    """

    picture: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.uint8]
    landmarks: Floats
    points68: Floats
    rotation: Floats
    expression: Floats
    shoulders: Floats
    vertices: Floats


def shown_on_screen(light: Floats) -> npt.NDArray[np.uint8]:
    """Linear light of a background as a picture shows it: uint8, same shape."""
    return SHOWN[(np.clip(light, 0, shading.BRIGHTEST) * ((len(SHOWN) - 1) / shading.BRIGHTEST) + 0.5).astype(np.int64)]


class Performer:
    """A person: a head shape, an appearance, and everything that does not change from frame to frame.

    Args:
        model: the head model. identity: float32 [k], coefficients of the head's shape. appearance: everything painted and worn.
        openness: float32 [vertices], to the sky, where it is known (``person.openness_of``); measured by default.
        gaze: whether the eyes turn with the weights of ``eyeLook...``; the head model itself only moves the lids.
        points: where MediaPipe's landmarks lie; the measured places by default.
    """

    def __init__(
        self,
        model: HeadModel,
        identity: Floats,
        appearance: Appearance,
        *,
        openness: Floats | None = None,
        gaze: bool = True,
        points: Correspondence | None = None,
    ) -> None:
        self.model, self.identity, self.appearance = model, np.asarray(identity, np.float32), appearance
        self.base = model.shape(self.identity)
        self.count = len(self.base)
        self.mesh = assemble(model, self.base, appearance, openness)
        self.points = points or Correspondence.builtin()
        self._eyeballs = [np.flatnonzero(model.vertices_of("M_Sclera" + side)) for side in ("Left", "Right")]
        self._turning = gaze
        self._irises = [np.flatnonzero(model.vertices_of("M_Iris" + side)) for side in ("Left", "Right")]
        self._eyes = [np.union1d(ball, iris) for ball, iris in zip(self._eyeballs, self._irises, strict=True)]
        self._looks = {name: index for index, name in enumerate(model.expression_names) if name.startswith("eyeLook")}
        self._blinks = [model.expression_names.index(f"eyeBlink_{side}") for side in "LR"]
        look = appearance
        colours = (look.skin, look.hair, look.lips, look.iris, look.cloth, look.glasses_colour, look.hand_skin or look.skin)
        self._buffers: tuple[npt.NDArray[np.int32], Floats] | None = None
        self._tones = np.stack([*(linear(colour) for colour in colours), brow_tone(look.skin, look.hair)])
        stubble = {"bald": 0.0, "buzz": 0.75}.get(look.hair_style, 0.9)
        shine = {"buzz": 0.1, "curly": 0.25}.get(look.hair_style, 1.0)
        self._traits = np.array([look.freckles, look.beard, look.brows, stubble, shine], np.float32)

    def pose(self, expression: Floats, rotation: Floats, shift: Floats, sway: Floats) -> Floats:
        """All vertices but the hands' in camera axes: float32 [vertices, 3], the head model's first."""
        vertices = self.mesh.vertices[: self.mesh.bare[0]].copy()
        add_expression(vertices, self.model.expression, np.asarray(expression, np.float32))
        if self._turning:
            self._turn_eyes(vertices, expression)
        turn_about(vertices, self.mesh.follow[: len(vertices)], rotation, PIVOT, shift, sway)
        return vertices

    def _turn_eyes(self, vertices: Floats, expression: Floats) -> None:
        """Turn the eyeballs about their middles, in place, before the head turns; they give way to closing lids."""
        weight = {name: float(expression[index]) for name, index in self._looks.items()}
        for k, (side, sign) in enumerate((("L", 1.0), ("R", -1.0))):
            aside = LOOKS_ASIDE * sign * (weight[f"eyeLookOut_{side}"] - weight[f"eyeLookIn_{side}"])
            down = LOOKS_UP * (weight[f"eyeLookDown_{side}"] - weight[f"eyeLookUp_{side}"])
            back = GIVES_WAY * float(expression[self._blinks[k]]) ** 2
            if aside != 0 or down != 0:
                centre = self.base[self._eyeballs[k]].mean(0)
                moved = (vertices[self._eyes[k]] - centre) @ rotation_matrix(aside, down, 0.0).T + centre
                vertices[self._eyes[k]] = moved
            vertices[self._eyes[k], 2] -= np.float32(back)

    def shoot(
        self,
        camera: Camera,
        room: Room,
        background: Floats,
        expression: Floats,
        pose: Floats,
        shift: Floats | None = None,
        sway: Floats | None = None,
        hand: Floats | None = None,
    ) -> Shot:
        """Render one frame.

        Args:
            background: float32 [h, w, 3], linear light, from ``room.paint``. expression: float32 [expressions], weights.
            pose: yaw, pitch, roll, radians. shift, sway: centimetres, of head and body.
            hand: float32 [5], side (+1 the person's left, -1 the right), wrist x, y, z in centimetres, roll in radians; none by
                default, or where it is NaN.
        """
        mesh, nowhere = self.mesh, np.zeros(3, np.float32)
        shift, sway = (nowhere if move is None else np.asarray(move, np.float32) for move in (shift, sway))
        rotation = rotation_matrix(*(float(angle) for angle in pose))
        world = self.pose(expression, rotation, shift, sway)
        count, corners = mesh.bare
        strands = np.empty_like(world)
        turn_directions(mesh.strands[:count], mesh.follow[:count], rotation, strands)
        chosen, part = slice(0, count), slice(0, corners)
        triangles, kind, ragged = mesh.triangles[part], mesh.kind[part], mesh.ragged[part]
        paint, openness, strand, cut = mesh.paint[chosen], mesh.openness[chosen], mesh.strand[chosen], mesh.cut[chosen]
        if hand is not None and np.isfinite(hand).all():
            places, parts = mesh.hands[1 if hand[0] > 0 else -1]
            raised = mesh.vertices[places] @ hand_matrix(float(hand[0]), float(hand[4])).T + np.asarray(hand[1:4], np.float32)
            triangles = np.concatenate([triangles, mesh.triangles[parts] - np.int32(places.start - count)])
            world = np.concatenate([world, raised.astype(np.float32)])
            strands = np.concatenate([strands, mesh.strands[places]])
            kind, ragged = (np.concatenate([have, more[parts]]) for have, more in ((kind, mesh.kind), (ragged, mesh.ragged)))
            paint, openness, strand, cut = (
                np.concatenate([have, more[places]])
                for have, more in ((paint, mesh.paint), (openness, mesh.openness), (strand, mesh.strand), (cut, mesh.cut))
            )
        frame = posed(world, triangles, openness, strands)
        key = np.asarray(room.key, np.float32)
        key = key / np.float32(np.linalg.norm(key))
        normals = np.ascontiguousarray(frame[:, NORMAL])
        framed = world[world[:, 1] > LOWEST_LIT]
        key_light = lit(world, normals, triangles, key, SHADOW_MAP, 0.3, SHADOW_REACH, framed)
        frame[:, LIGHT] = neighbour_mean(key_light, triangles)
        eyes = np.zeros((2, 2, 3), np.float32)
        for k in range(2):
            centre = world[self._eyeballs[k]].mean(0)
            gaze = world[self._irises[k]].mean(0) - centre
            eyes[k] = centre, gaze / np.linalg.norm(gaze)
        size = (camera.height * shading.SAMPLES, camera.width * shading.SAMPLES)
        points = camera.project(frame[:, PLACE], shading.SAMPLES)
        seen, depth = self._cleared(size)
        visibility(points, triangles, cut, strand, ragged, GRAIN, seen, depth)
        picture = np.empty((camera.height, camera.width, 3), np.uint8)
        labels, alpha = (np.empty((camera.height, camera.width), np.uint8) for _ in range(2))
        shading.shade(
            seen,
            depth,
            points,
            triangles,
            kind,
            paint,
            frame,
            camera.position,
            camera.detail,
            np.stack([key, room.key_colour, room.fill_colour, room.sky_colour]).astype(np.float32),
            self._tones,
            eyes,
            self._traits,
            GRAIN,
            SHOWN,
            background,
            picture,
            labels,
            alpha,
        )
        head = world[: self.count]
        shoulders = SHOULDERS * np.array([self.appearance.build, 1, 1], np.float32) + sway
        return Shot(
            picture,
            labels,
            alpha,
            camera.landmarks(self.points.places(head)),
            camera.landmarks(head[self.model.points68]),
            rotation,
            np.asarray(expression, np.float32),
            camera.project(shoulders)[:, :2],
            head,
        )

    def _cleared(self, size: tuple[int, int]) -> tuple[npt.NDArray[np.int32], Floats]:
        """The visibility buffer, empty: int32 and float32 [size]. Kept from frame to frame, since fresh memory costs more."""
        if self._buffers is None or self._buffers[0].shape != size:
            self._buffers = np.empty(size, np.int32), np.empty(size, np.float32)
        seen, depth = self._buffers
        seen.fill(-1)
        depth.fill(NOTHING)
        return seen, depth

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
            performance.hand[frame],
        )
