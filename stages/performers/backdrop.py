"""What stands behind a performer over time: a camera held by hand shifts it, and lights of a street move through it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.performers.appearance import Room, linear
from stages.performers.camera import Camera

Floats = npt.NDArray[np.float32]

PARALLAX = 0.5
"""How far the background follows a move of the camera, compared with the performer: it is farther away."""

LIGHTS = 16
_MARGIN = 0.06


class Backdrop:
    """The background of a shot, painted once."""

    def __init__(self, room: Room, camera: Camera) -> None:
        self.room, self.camera = room, camera
        self._margin = round(_MARGIN * camera.height)
        self._painted = room.paint(camera.width + 2 * self._margin, camera.height + 2 * self._margin)
        rng = np.random.default_rng([room.seed, 6])
        self._lights = np.stack(
            [
                rng.uniform(0, 1, LIGHTS),  # where at the start, in widths
                rng.normal(0.45, 0.22, LIGHTS),  # height
                rng.uniform(0.03, 0.12, LIGHTS) * rng.choice([-1, 1], LIGHTS),  # widths a second
                rng.uniform(0.02, 0.06, LIGHTS),  # radius, in heights
            ],
            axis=1,
        )
        self._tones = [linear(tuple(rng.uniform(90, 255, 3))) * rng.uniform(0.35, 0.9) for _ in range(LIGHTS)]  # type: ignore[arg-type]

    def frame(self, seconds: float, drift: npt.NDArray[np.floating]) -> Floats:
        """The background at a time, the camera moved by ``drift`` [2] centimetres: float32 [height, width, 3], linear light."""
        x, y = -PARALLAX * self.camera.detail * float(drift[0]), PARALLAX * self.camera.detail * float(drift[1])
        x, y = (float(np.clip(move, -self._margin, self._margin)) for move in (x, y))
        size = (self.camera.width, self.camera.height)
        if x == y == 0:
            picture = self._painted[self._margin : self._margin + size[1], self._margin : self._margin + size[0]].copy()
        else:
            shift = np.array([[1, 0, x - self._margin], [0, 1, y - self._margin]], np.float32)
            picture = cv2.warpAffine(self._painted, shift, size, flags=cv2.INTER_LINEAR)
        if self.room.kind == "moving":
            for (start, level, speed, radius), tone in zip(self._lights, self._tones, strict=True):
                across = ((start + speed * seconds + 0.2) % 1.4 - 0.2) * size[0] + x
                self._shine(picture, across, level * size[1] + y, radius * size[1], tone)
        return np.asarray(picture, np.float32)

    @staticmethod
    def _shine(picture: Floats, x: float, y: float, radius: float, tone: Floats) -> None:
        """Add the disc of a light out of focus."""
        left, right = max(0, int(x - radius - 2)), min(picture.shape[1], int(x + radius + 3))
        top, bottom = max(0, int(y - radius - 2)), min(picture.shape[0], int(y + radius + 3))
        if left >= right or top >= bottom:
            return
        row, column = np.mgrid[top:bottom, left:right].astype(np.float32) + 0.5
        share = np.clip((radius - np.hypot(column - x, row - y)) / 2 + 0.5, 0, 1)
        picture[top:bottom, left:right] += share[..., None] * tone
