"""One source's head, prepared once and drawn per frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.renderer import Portrait, Scene
from stages.warp import topology
from stages.warp.back import BackOfHead
from stages.warp.eyes import LIDS, Eye, draw_eye, draw_lashes, shut_share, take_eye, without_eyeball
from stages.warp.geometry import FLIP, HeadMesh, Pose
from stages.warp.mouth import draw_mouth
from stages.warp.neck import HAIR, OTHER, jaw_shadow, underlay
from stages.warp.raster import OUTSIDE, maps_of, rasterise, reduced, reduction, sampled
from stages.warp.shapes import bounding_box, polygon_coverage

NECK_FADE = (0.02, 0.17)
"""Distance below the outline of the face, in eye distances, over which the source's own neck fades."""


FOLD = 7.0
"""Step of the texture coordinates between neighbouring pixels that shows a fold of the mesh."""


class Head:
    """A source's head, its colours already matched to the target's shot.

    Args:
        portrait: of the source.
        saturation: of the target's mouth when shown in this head.
    """

    def __init__(self, portrait: Portrait, saturation: float = 1.0) -> None:
        self._saturation = saturation
        matte = portrait.matte * _neck_fade(portrait)
        self.mesh = HeadMesh(portrait.landmarks, portrait.pose, matte)
        self._back = BackOfHead(portrait)
        opacity = matte[..., None]
        self._texture, self._shut = (_texture(portrait, opacity, widened) for widened in (0.0, LIDS))
        self._eyes: list[tuple[Eye, NDArray[np.int64], NDArray[np.int64]]] = [
            (take_eye(portrait.picture, portrait.landmarks[contour], portrait.landmarks[iris]), contour, iris)
            for contour, iris in ((topology.LEFT_EYE, topology.LEFT_IRIS), (topology.RIGHT_EYE, topology.RIGHT_IRIS))
        ]

    def draw(
        self,
        aligned: NDArray[np.floating],
        pose: Pose,
        target: NDArray[np.uint8],
        target_landmarks: NDArray[np.floating],
        body: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The head in the pose and expression wanted.

        Args:
            aligned: float [478, 3], pixels of the target's crop.
            pose: shown by the aligned landmarks.
            target: uint8 RGB [size, size, 3], the target's crop (its mouth's inside is used).
            target_landmarks: float [478, 3], the target's own.
            body: float32 [size, size], 0..1, where the neck that it stands on and clothes are.

        Returns:
            uint8 RGB [size, size, 3], premultiplied, and opacity float32 [size, size].
        """
        corners, shown = self.mesh.place(aligned, pose)
        height, width = target.shape[:2]
        drawn = rasterise(corners, self.mesh.texture_for(pose), self.mesh.triangles, height, width)
        share = reduction(pose.scale / self.mesh.source_pose.scale, self._texture.shape[0])
        map_x, map_y = maps_of(drawn, share)
        layers = sampled(reduced(self._texture, share), map_x, map_y)
        self._shut_lids(layers, share, map_x, map_y, shown)
        _soften_folds(layers, map_x, map_y)
        head = np.ascontiguousarray(layers[..., :3])
        turn = self._turn(pose)
        for eye, contour, iris in self._eyes:
            draw_eye(head, eye, shown[contour], shown[iris], turn)
            draw_lashes(head, eye, shown[contour])
        draw_mouth(head, target, target_landmarks[topology.INNER_LIPS], shown[topology.INNER_LIPS], self._saturation)
        opacity = layers[..., 3].astype(np.float32) / np.float32(255)
        back = self._back.draw(self.mesh.aligned_pose(pose), (height, width), body)
        if back is not None:
            box, layers = back
            behind = 1 - opacity[box]
            head[box] = np.clip(head[box] + layers[..., :3] * behind[..., None] + np.float32(0.5), 0, 255).astype(np.uint8)
            opacity[box] += layers[..., 3].astype(np.float32) * behind / np.float32(255)
        return head, opacity

    @property
    def hangs(self) -> bool:
        """Whether its hair hangs down behind the body."""
        return self._back.hangs

    def _shut_lids(
        self,
        layers: NDArray[np.uint8],
        share: float,
        map_x: NDArray[np.float32],
        map_y: NDArray[np.float32],
        shown: NDArray[np.floating],
    ) -> None:
        """Where an eye closes, draw lids without anything of the eyeball, by as much as it is shut; in place."""
        closing = [(contour, shut_share(shown[contour])) for _, contour, _ in self._eyes]
        texture = reduced(self._shut, share) if any(shut > 0 for _, shut in closing) else self._shut
        for contour, shut in closing:
            if shut <= 0:
                continue
            width = float(np.linalg.norm(shown[contour[0], :2] - shown[contour[8], :2]))
            left, top, right, bottom = bounding_box(shown[contour, :2], layers.shape[:2], margin=2 * LIDS * width + 2)
            if right > left and bottom > top:
                box = np.s_[top:bottom, left:right]
                lids = sampled(texture, map_x[box], map_y[box])
                layers[box] = cv2.addWeighted(layers[box], 1 - shut, lids, shut, 0)

    def _turn(self, pose: Pose) -> NDArray[np.float64]:
        """How directions in the face's plane turn, shorten and scale from the source's picture to the frame's [2, 2]."""
        shown = self.mesh.aligned_pose(pose)
        source = self.mesh.source_pose
        relative = np.diag(FLIP) @ shown.rotation @ source.rotation.T @ np.diag(FLIP)
        return np.asarray(relative[:2, :2] * shown.scale / source.scale)


def _texture(portrait: Portrait, opacity: NDArray[np.float32], widened: float) -> NDArray[np.uint8]:
    """Premultiplied RGBA [size, size, 4] of a head with lids painted over its eyes' openings."""
    colours = portrait.colours.copy()
    for contour in (topology.LEFT_EYE, topology.RIGHT_EYE):
        without_eyeball(colours, portrait.landmarks[contour], widened)
    layers = np.concatenate([colours * opacity, 255 * opacity], axis=2)
    return np.clip(layers + 0.5, 0, 255).astype(np.uint8)


def _soften_folds(layers: NDArray[np.uint8], map_x: NDArray[np.float32], map_y: NDArray[np.float32]) -> None:
    """Smooth the steps where a nearer part of the head covers a farther one (a cheek before hair); in place."""
    fold = np.zeros(map_x.shape, np.uint8)
    for coordinate in (map_x, map_y):
        for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            # Towards the outside of the mesh the picture is transparent: no fold.
            fold[here] |= cv2.inRange(cv2.absdiff(coordinate[here], coordinate[there]), FOLD, -OUTSIDE / 2)
    rows, columns = np.flatnonzero(fold.any(1)), np.flatnonzero(fold.any(0))
    if not len(rows):
        return
    box = tuple(slice(max(int(found[0]) - 4, 0), int(found[-1]) + 5) for found in (rows, columns))
    soft = cv2.GaussianBlur(layers[box], (0, 0), 1.0)
    mask = cv2.dilate(fold[box], np.ones((3, 3), np.uint8)) > 0
    np.copyto(layers[box], soft, where=mask[..., None])


def _neck_fade(portrait: Portrait) -> NDArray[np.float32]:
    """Opacity [size, size] that lets the source's neck end softly below its jaw; one elsewhere, and on hair."""
    shape = portrait.labels.shape
    landmarks = portrait.landmarks
    outline = polygon_coverage(landmarks[topology.FACE_OVAL, :2], shape)
    distance = cv2.distanceTransform((outline < 0.5).astype(np.uint8), cv2.DIST_L2, 5) / portrait.pose.scale
    near, far = NECK_FADE
    fade = np.clip(1 - (distance - near) / (far - near), 0, 1)
    fade = fade * fade * (3 - 2 * fade)
    # From the tip of the nose downwards: ears lie higher.
    down = landmarks[152, :2] - landmarks[10, :2]
    down = down / max(float(np.linalg.norm(down)), 1e-6)
    y, x = np.mgrid[: shape[0], : shape[1]]
    height = ((x - landmarks[2, 0]) * down[0] + (y - landmarks[2, 1]) * down[1]) / portrait.pose.scale
    low = np.clip(height / 0.35, 0, 1)
    hair = cv2.dilate((portrait.labels == HAIR).astype(np.uint8), np.ones((9, 9), np.uint8))
    skin = 1 - cv2.GaussianBlur(hair.astype(np.float32), (0, 0), 2.0)
    return np.asarray(1 - low * skin * (1 - fade), np.float32)


def compose(
    head: Head, scene: Scene, gain: NDArray[np.floating] | None, face: NDArray[np.floating] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The generated crop: the new head on the target's neck, before the clean background, behind what occludes it.

    Args:
        head: of the source.
        scene: frame of the target.
        gain: float [3] on the neck's RGB towards the new skin; None leaves its colour.
        face: float [3], 0..255, colour of the target's face.

    Returns:
        uint8 RGB [size, size, 3], and the new head's opacity float32 [size, size].
    """
    unit = scene.pose.scale
    result, skin, person = underlay(scene.picture, scene.background, scene.labels, scene.landmarks, unit, gain, face)
    body = cv2.resize(person.astype(np.float32), skin.shape[::-1], interpolation=cv2.INTER_LINEAR) if head.hangs else None
    colour, opacity = head.draw(scene.aligned, scene.pose, scene.picture, scene.landmarks, body)
    rows, columns = (np.flatnonzero(((opacity > 0) | (skin > 0)).any(axis)) for axis in (1, 0))
    if len(rows):
        box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        share = jaw_shadow(opacity, skin, unit)[box] * (1 - opacity[box])
        part = result[box] * share[..., None]
        part += colour[box]
        result[box] = np.clip(part + np.float32(0.5), 0, 255).astype(np.uint8)
    occluder = scene.labels == OTHER
    if occluder.any():
        share = cv2.GaussianBlur(occluder.astype(np.float32), (0, 0), 1.2)
        result = np.asarray(cv2.blendLinear(result, scene.picture, 1 - share, share), np.uint8)
    return result, opacity
