"""What the networks are told of a frame and of a source, at the networks' own size: as in training (``stages.training``)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.blocks import expand_grid, hair_grid
from stages.condition_image import condition_image, reference_picture
from stages.diffusion.placement import source_hair
from stages.face3d.drawing import draw_landmarks
from stages.networks.conditions import FrameConditions
from stages.networks.label_maps import shrunk_labels
from stages.renderer import Portrait, Scene


def frame_conditions(scene: Scene, portrait: Portrait, size: int) -> FrameConditions:
    """Drawn landmarks and condition image of a scene; pictures uint8 RGB [size, size, 3].

    The cloth that is shown ends where the source's hair will hang, as it ended in training where the person's own hair hung:
    cloth on the shoulders would otherwise say that the hair is short.
    """
    share = size / scene.picture.shape[0]
    labels = shrunk_labels(scene.labels, size)
    shoulders = scene.shoulders * (share, share, 1)
    hair = expand_grid(hair_grid(source_hair(portrait, scene)), size)
    condition, _ = condition_image(resized(scene.background, size), resized(scene.picture, size), labels, shoulders, hair)
    return FrameConditions(scene.frame, draw_landmarks(scene.aligned * share, size), condition)


def reference_of(portrait: Portrait, size: int) -> NDArray[np.uint8]:
    """The source's head alone on white, uint8 RGB [size, size, 3]."""
    return resized(reference_picture(portrait.colours, portrait.matte), size)


def resized(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A square picture at another size: averaged over areas where it shrinks, cubic where it grows."""
    if picture.shape[0] == size:
        return picture
    method = cv2.INTER_AREA if size < picture.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size, size), interpolation=method), np.uint8)
