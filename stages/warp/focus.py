"""How sharply a face is shown, and a portrait made as soft as the target: a sharp head on a body out of focus looks pasted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.face3d.canonical import EYES, FINE, band_contrast, canonical_face, eye_distance
from stages.renderer import Portrait

COARSE = (2.4, 4.8)
"""Widths of the blurs between which the features of a face lie, pixels of ``canonical_face``."""

TOLERANCE, REMAINING = 1.6, 1.2
"""Times the target's focus up to which a source is left alone (faces in focus have ratios of 0.45 to 0.78), and to which a much
sharper one is brought."""

STEP, LARGEST = 0.05, 3.0
"""Blurs that are tried, pixels of ``canonical_face``."""

Face = tuple[NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True)
class Focus:
    """How sharply a face is shown.

    Attributes:
        ratio: contrast of its fine lines against that of its features; much the same for whoever is in focus, less for those who
            are not.
        pixels: distance of its eyes in pixels of the frame that it is shown in, before any enlarging: small faces have few fine
            lines however sharp they are.
    """

    ratio: float
    pixels: float


def focus_of(picture: NDArray[np.uint8], landmarks: NDArray[np.floating], scale: float = 1.0) -> Focus | None:
    """The focus of a face; None where too little of it is to be seen.

    Args:
        picture: uint8 RGB [h, w, 3]. landmarks: [478, 3], of the face, in its pixels.
        scale: pixels of the frame for each of the picture.
    """
    found = canonical_face(picture, landmarks)
    return None if found is None else Focus(_ratio(*found), scale * eye_distance(landmarks))


def middle(found: Sequence[Focus]) -> Focus | None:
    """The median over frames."""
    if not found:
        return None
    return Focus(float(np.median([one.ratio for one in found])), float(np.median([one.pixels for one in found])))


def blur_towards(picture: NDArray[np.uint8], landmarks: NDArray[np.floating], focus: Focus) -> float:
    """Standard deviation of the blur, pixels of the picture, after which its face is shown about as sharply as the target's.

    Both are compared as the frame will show them. Zero for a face that is not sharper than the target's, as faces go.
    """
    found = canonical_face(picture, landmarks)
    if found is None:
        return 0.0
    face, inside = found
    excess = _shown(face, inside, focus) / max(focus.ratio, 1e-6)
    if excess <= TOLERANCE:
        return 0.0
    # Falls from one to the other without a step: shots of nearly the same focus are to look nearly the same.
    wanted = focus.ratio * max(REMAINING, 2 * TOLERANCE - excess)
    blurs = np.arange(STEP, LARGEST + STEP / 2, STEP)
    enough = (blur for blur in blurs if _shown(cv2.GaussianBlur(face, (0, 0), float(blur)), inside, focus) <= wanted)
    return float(next(enough, LARGEST)) * eye_distance(landmarks) / EYES


def as_soft_as(portrait: Portrait, focus: Focus) -> Portrait:
    """The portrait, blurred where it is clearly sharper than the target."""
    blur = blur_towards(portrait.picture, portrait.landmarks, focus)
    if blur <= 0:
        return portrait
    return replace(
        portrait,
        picture=np.asarray(cv2.GaussianBlur(portrait.picture, (0, 0), blur), np.uint8),
        colours=np.asarray(cv2.GaussianBlur(portrait.colours, (0, 0), blur), np.uint8),
        matte=np.asarray(cv2.GaussianBlur(portrait.matte, (0, 0), blur), np.float32),
    )


def _shown(face: NDArray[np.float32], inside: NDArray[np.bool_], focus: Focus) -> float:
    """The ratio of a canonical face that is shown in a frame with as few pixels as the target's."""
    shrink = focus.pixels / EYES
    if shrink < 1:
        side = max(2, round(shrink * len(face)))
        small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        face = cv2.resize(small, face.shape, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return _ratio(face, inside)


def _ratio(face: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    return band_contrast(face, inside, *FINE) / max(band_contrast(face, inside, *COARSE), 1e-3)
