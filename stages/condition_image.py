"""The two pictures the diffusion network is told with: the condition image and the reference picture.

The one place where they are composed, for training (``stages.training``) and for generating alike, so that the network sees at
work what it was trained on. A network of another size than the crop's gets them composed at its own size: shrink the picture and
the background over areas (``cv2.INTER_AREA``), the labels to the nearest, and the points by the factor first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.blocks import dilate, enhance_cloth, expand_grid, hair_grid, shoulder_rectangles
from stages.segmentation import CLOTH, FACE, HAIR, NECK, OTHER

__all__ = ["condition_image", "head_mask", "reference_picture", "surviving_cloth"]

MINIMUM_VISIBILITY = 0.3
"""A shoulder seen less than this is taken to be where shoulders usually are."""

USUAL_SHOULDERS = np.array([[0.79, 0.83, 1.0], [0.21, 0.83, 1.0]])
"""Where shoulders are in a crop of a person who looks at the camera, the left one first: shares of the side."""

RAISED = 0.5
"""The rectangles begin this share of half the shoulders' distance above the joints, at the height of the collar: hair lies on the
slope between neck and shoulder too (paper's figure, Shoulder Mask)."""

BORDER = 1 / 256
"""Cloth ends this share of the side before the head, neck or a hand begins: pixels between show a little of both."""


def head_mask(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The head in a label map [..., size, size]: hair and face with ears; boolean, same shape."""
    return np.asarray((labels == HAIR) | (labels == FACE))


def surviving_cloth(
    labels: NDArray[np.uint8], shoulders: NDArray[np.floating], hair: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """The narrow collar and chest piece that is shown to the network: M_cloth_new of the paper's Hair Enhancement.

    M_cloth_new = M_cloth * (1 - M_hair) * (1 - M_rect). M_hair always holds the blocks of the person's own hair, because a hole
    in the cloth as sharp as the hair itself would tell its outline; in training a random long-haired person's hair comes on top.

    Args:
        labels: uint8 [size, size], label map of the crop (``schemas.tables.LABELS``); ``size`` a multiple of 32.
        shoulders: float [2, 3] or [6], x and y in crop pixels and visibility, the person's left shoulder first; one that is
            not seen is taken to be at its usual place.
        hair: boolean [size, size], hair besides the person's own.

    Returns:
        boolean [size, size].
    """
    size = labels.shape[0]
    own = expand_grid(hair_grid(labels == HAIR), size)
    rectangles = shoulder_rectangles(_raised(shoulders, size), size, MINIMUM_VISIBILITY)
    cloth = enhance_cloth(labels == CLOTH, own if hair is None else own | hair, rectangles)
    return np.asarray(cloth & ~dilate(np.isin(labels, (HAIR, FACE, NECK, OTHER)), max(BORDER * size, 1.0)))


def condition_image(
    background: NDArray[np.uint8],
    picture: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    shoulders: NDArray[np.floating],
    hair: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The background without the person, with the piece of cloth that survives.

    Args:
        background: uint8 [size, size, 3], what is behind the whole person (``stages.plates.background_crop``).
        picture: uint8 [size, size, 3], the crop.
        labels, shoulders, hair: see :func:`surviving_cloth`.

    Returns:
        The condition image, uint8 [size, size, 3], and the cloth in it, boolean [size, size].
    """
    cloth = surviving_cloth(labels, shoulders, hair)
    return np.where(cloth[..., None], picture, background), cloth


def reference_picture(colours: NDArray[np.uint8], matte: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The head alone on white: uint8 [size, size, 3].

    Args:
        colours: uint8 [size, size, 3], the head's own colours (``stages.renderer.Portrait.colours``).
        matte: float [size, size] in 0..1, opacity of hair, face, ears and a little neck (``stages.renderer.Portrait.matte``).
    """
    weight = np.asarray(matte, np.float32)[..., None]
    return np.asarray(np.clip(np.rint(colours * weight + 255 * (1 - weight)), 0, 255), np.uint8)


def _raised(shoulders: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    points = np.array(shoulders, np.float64).reshape(2, 3)
    unknown = ~np.isfinite(points).all(1) | (points[:, 2] < MINIMUM_VISIBILITY)
    points[unknown] = USUAL_SHOULDERS[unknown] * (size, size, 1)
    points[:, 1] -= RAISED * np.hypot(*(points[0, :2] - points[1, :2])) / 2
    return points
