"""Where the source's head comes to lie in the target's crop, before anything is generated."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.renderer import Portrait, Scene
from stages.segmentation import HAIR
from stages.video.crops import opencv_matrix

PRESENT = 0.1
"""Opacity from which a part of the source counts as there."""


def onto_scene(portrait: Portrait, scene: Scene) -> NDArray[np.float64]:
    """The similarity in the picture's plane that brings the source's face onto the aligned one: [2, 3], crop to crop."""
    source, aligned = (points[:, 0] + 1j * points[:, 1] for points in (portrait.landmarks, scene.aligned))
    offsets = source - source.mean()
    turn = np.vdot(offsets, aligned - aligned.mean()) / np.vdot(offsets, offsets).real
    shift = aligned.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def placed_part(portrait: Portrait, label: int, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Opacity of what has a label in the source, moved by ``matrix``: float32 [size, size] in 0..1."""
    size = portrait.matte.shape[0]
    part = np.where(portrait.labels == label, portrait.matte, np.float32(0))
    return np.asarray(cv2.warpAffine(part, opencv_matrix(matrix), (size, size), flags=cv2.INTER_LINEAR), np.float32)


def source_hair(portrait: Portrait, scene: Scene) -> NDArray[np.bool_]:
    """The source's hair where it will be in the target, boolean [size, size]."""
    return np.asarray(placed_part(portrait, HAIR, onto_scene(portrait, scene)) >= PRESENT)
