"""The camera of a performer's scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.performers.posing import project

Floats = npt.NDArray[np.float32]


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

    @property
    def detail(self) -> float:
        """Pixels a centimetre at the origin."""
        return self.focal * self.height / self.distance

    def project(self, points: npt.NDArray[np.floating], scale: float = 1.0) -> Floats:
        """Centimetres [n, 3] to pixels x, pixels y, depth (larger is nearer): float32 [n, 3]."""
        focal = self.focal * self.height * scale
        flat = np.ascontiguousarray(points, np.float32)
        return np.asarray(project(flat, *self.aim, self.distance, focal, self.width * scale, self.height * scale), np.float32)

    def landmarks(self, points: npt.NDArray[np.floating]) -> Floats:
        """Centimetres [n, 3] to pixels x, y, z, z negative towards the viewer, 0 at the points' mean: float32 [n, 3]."""
        pixels = self.project(points)
        mean = float(points[:, 2].mean())
        pixels[:, 2] = -(points[:, 2] - mean) * self.focal * self.height / (self.distance - mean)
        return pixels
