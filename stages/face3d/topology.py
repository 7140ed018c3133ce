"""Which of MediaPipe's 478 landmarks is what. Left and right are the person's: the left eye lies to the right in the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANDMARKS = 478

# fmt: off
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
# fmt: on


@dataclass(frozen=True)
class Eye:
    """Landmarks of one eye. Upper and lower lid run from the outer to the inner corner and pair up, corners excluded."""

    outer: int
    inner: int
    upper: tuple[int, ...]
    lower: tuple[int, ...]
    iris: int
    """Centre; the four points after it are the iris's border."""
    brow_upper: tuple[int, ...]
    brow_lower: tuple[int, ...]
    """Outer to inner end."""

    @property
    def corners(self) -> tuple[int, int]:
        return self.outer, self.inner

    @property
    def outline(self) -> tuple[int, ...]:
        """Closed loop: outer corner, upper lid, inner corner, lower lid."""
        return (self.outer, *self.upper, self.inner, *reversed(self.lower))

    @property
    def iris_border(self) -> tuple[int, ...]:
        return tuple(range(self.iris + 1, self.iris + 5))

    @property
    def iris_points(self) -> tuple[int, ...]:
        return (self.iris, *self.iris_border)


RIGHT_EYE = Eye(
    outer=33,
    inner=133,
    upper=(246, 161, 160, 159, 158, 157, 173),
    lower=(7, 163, 144, 145, 153, 154, 155),
    iris=468,
    brow_upper=(70, 63, 105, 66, 107),
    brow_lower=(46, 53, 52, 65, 55),
)
LEFT_EYE = Eye(
    outer=263,
    inner=362,
    upper=(466, 388, 387, 386, 385, 384, 398),
    lower=(249, 390, 373, 374, 380, 381, 382),
    iris=473,
    brow_upper=(300, 293, 334, 296, 336),
    brow_lower=(276, 283, 282, 295, 285),
)
EYES = (LEFT_EYE, RIGHT_EYE)

# Lips run from the person's right corner to the left one, corners excluded; upper and lower pair up.
OUTER_CORNERS = (61, 291)
OUTER_UPPER = (185, 40, 39, 37, 0, 267, 269, 270, 409)
OUTER_LOWER = (146, 91, 181, 84, 17, 314, 405, 321, 375)
INNER_CORNERS = (78, 308)
INNER_UPPER = (191, 80, 81, 82, 13, 312, 311, 310, 415)
INNER_LOWER = (95, 88, 178, 87, 14, 317, 402, 318, 324)
OUTER_LIPS = (OUTER_CORNERS[0], *OUTER_UPPER, OUTER_CORNERS[1], *reversed(OUTER_LOWER))
INNER_LIPS = (INNER_CORNERS[0], *INNER_UPPER, INNER_CORNERS[1], *reversed(INNER_LOWER))
LIPS = OUTER_LIPS + INNER_LIPS

NOSE_BRIDGE = (168, 6, 197, 195, 5, 4, 1)
NOSE_BASE = (98, 97, 2, 326, 327)
NOSE_TIP = 1
NOSE_ROOT = 168
UNDER_NOSE = 2
CHIN = 152

IRISES: NDArray[np.intp] = np.array((*RIGHT_EYE.iris_points, *LEFT_EYE.iris_points))


def eye_centres(landmarks: NDArray[np.floating]) -> NDArray[np.floating]:
    """Midpoints of the corners of the left and the right eye: ``[..., 478, d]`` -> ``[..., 2, d]``."""
    return np.stack([landmarks[..., list(eye.corners), :].mean(-2) for eye in EYES], axis=-2)


def interocular(landmarks: NDArray[np.floating]) -> NDArray[np.floating]:
    """Distance of the eye centres, ``[..., 478, d]`` -> ``[...]``; give three dimensions, so that a turned head keeps it."""
    centres = eye_centres(landmarks)
    return np.linalg.norm(centres[..., 0, :] - centres[..., 1, :], axis=-1)
