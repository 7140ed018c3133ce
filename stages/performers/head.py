"""The ICT-FaceKit head: a linear model of a whole head with neck, eyes, teeth and lashes.

Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020; the light version under the MIT licence.
Units are centimetres; x to the picture's right, y up, z towards the viewer; ``_L`` is the person's left.
"""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.problems import ModelError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

HIDDEN = ("M_EyeBlend", "M_EyeOcclusion", "M_LacrimalFluid")
"""Transparent helper surfaces around the eyes."""

NECK_TOP, NECK_BOTTOM = -4.5, -12.0
"""Between these heights the neck bends: above, everything follows the head; below, the shoulders."""


@dataclass(frozen=True)
class HeadModel:
    """Mesh and linear directions of the ICT-FaceKit, visible surfaces only.

    Attributes:
        neutral: float32 [vertices, 3], centimetres.
        identity: float32 [identities, vertices, 3], displacement at one standard deviation.
        expression: float32 [expressions, vertices, 3], displacement at weight 1.
        expression_names: ARKit-style names, ``_L`` the person's left.
        triangles: int32 [triangles, 3].
        material: int32 [triangles], index into ``materials``.
        points68: int [68], vertices of the 68 points of Multi-PIE.
    """

    neutral: Floats
    identity: Floats
    expression: Floats
    expression_names: tuple[str, ...]
    triangles: Integers
    material: Integers
    materials: tuple[str, ...]
    points68: npt.NDArray[np.int64]

    @classmethod
    def load(cls, path: Path) -> HeadModel:
        """Read the packed model: an ``.npz`` with the arrays of the attributes above.

        Raises:
            ModelError: ``head_model_unreadable``: the file is missing or something else.
        """
        try:
            if path.is_file() and not zipfile.is_zipfile(path):
                raise ValueError("it is not an .npz file")
            with np.load(path) as data:
                materials = tuple(str(name) for name in data["materials"])
                visible = ~np.isin(data["triangle_material"], [materials.index(name) for name in HIDDEN])
                return cls(
                    neutral=data["neutral"].astype(np.float32),
                    identity=data["identity"].astype(np.float32),
                    expression=data["expression"].astype(np.float32),
                    expression_names=tuple(str(name) for name in data["expression_names"]),
                    triangles=np.ascontiguousarray(data["triangles"][visible], np.int32),
                    material=data["triangle_material"][visible].astype(np.int32),
                    materials=materials,
                    points68=data["multipie68"].astype(np.int64),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(
                "head_model_unreadable",
                f"{path} is no packed ICT-FaceKit that can be read: {error}.",
                "Give --head-model the .npz file, or register it with `headswap models add ict FILE`.",
            ) from error

    def vertices_of(self, *names: str) -> npt.NDArray[np.bool_]:
        """Vertices that belong to the named materials: bool [vertices]."""
        chosen = np.isin(self.material, [self.materials.index(name) for name in names])
        mask = np.zeros(len(self.neutral), bool)
        mask[self.triangles[chosen].ravel()] = True
        return mask

    def shape(self, identity: Floats) -> Floats:
        """Neutral face of a person. ``identity``: float32 [k <= identities]. Returns float32 [vertices, 3].

        Identity fades out down the neck: all busts are alike, so that clothes fit everybody.
        """
        t = np.clip((self.neutral[:, 1] + 11.5) / 4.5, 0, 1)[:, None]
        displacement = np.tensordot(identity, self.identity[: len(identity)], 1)
        return np.asarray(self.neutral + t * t * (3 - 2 * t) * displacement, np.float32)

    def displacement(self, weights: Floats) -> Floats:
        """Sum of the weighted expressions; ``weights``: float32 [expressions]. Returns float32 [vertices, 3]."""
        used = np.flatnonzero(weights)
        return np.tensordot(weights[used], self.expression[used], 1).astype(np.float32)


def rotation_matrix(yaw: float, pitch: float, roll: float) -> Floats:
    """Rotation of the head, radians: yaw turns to the picture's right, pitch nods down, roll tilts anticlockwise."""
    cy, sy, cx, sx, cz, sz = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z, np.float32)


PIVOT = np.array([0.0, -6.0, -1.0], np.float32)
"""Where the head turns on the neck."""


def following_height(vertices: Floats) -> Floats:
    """Heights for ``bend`` of a head at rest [n, 3]: the jaw goes with the head although the neck beside it does not: [n]."""
    height = vertices[:, 1]
    t = np.clip((height + 10.0) / 2.0, 0, 1)
    return np.asarray(height + 0.35 * np.maximum(0, vertices[:, 2] - 1) * t * t * (3 - 2 * t), np.float32)


def bend(vertices: Floats, rest_height: Floats, rotation: Floats, shift: Floats) -> Floats:
    """Pose vertices: all the head above the neck, nothing below, smoothly between.

    Args:
        vertices: float32 [n, 3]. rest_height: float32 [n], heights that decide how far a vertex follows the head.
        rotation: float32 [3, 3]. shift: float32 [3], translation of the head in centimetres.
    """
    t = np.clip((rest_height - NECK_BOTTOM) / (NECK_TOP - NECK_BOTTOM), 0, 1)[:, None]
    follow = t * t * (3 - 2 * t)
    moved = (vertices - PIVOT) @ rotation.T + PIVOT + shift
    return np.asarray(vertices + (moved - vertices) * follow, np.float32)


@functools.lru_cache(maxsize=2)
def loaded_head_model(path: str | Path) -> HeadModel:
    """The head model of a file, read once in a process.

    Raises:
        ModelError: ``head_model_unreadable`` (``HeadModel.load``).
    """
    return HeadModel.load(Path(path))
