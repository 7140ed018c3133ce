"""How sharply a face is shown, and a portrait made as soft as the target: a sharp head on a body out of focus looks pasted on."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.face3d.canonical import band_contrast, canonical_face, canonical_scale
from stages.renderer import Portrait

FINE, COARSE = (0.5, 1.2), (2.4, 4.8)
"""Bands whose contrasts are compared, each between two blurs, pixels of ``canonical_face``."""

TOLERANCE, REMAINING = 1.3, 1.1
"""Times the target's focus up to which a source is left alone (faces differ by as much), and to which a much sharper one is
brought."""

STEP, LARGEST = 0.05, 3.0
"""Blurs that are tried, pixels of ``canonical_face``."""


def focus_ratio(picture: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> float:
    """Contrast of a face's fine lines against that of its features; NaN where no face is to be seen.

    Whoever it is: faces in focus have 0.5 to 0.8, those of soft footage 0.3 to 0.45 (some twenty portraits and clips).

    Args:
        picture: uint8 RGB [h, w, 3]. landmarks: [478, 2 or 3], of the face, in its pixels.
    """
    found = canonical_face(picture, landmarks)
    return float("nan") if found is None else _ratio(*found)


def blur_towards(picture: NDArray[np.uint8], landmarks: NDArray[np.floating], focus: float) -> float:
    """Standard deviation of the blur, pixels of the picture, after which its face is about as sharp as a ``focus_ratio`` says.

    Zero for a face that is not sharper than that, as faces go, and where either is not known.
    """
    found = canonical_face(picture, landmarks)
    if found is None or not focus > 0:
        return 0.0
    face, inside = found
    excess = _ratio(face, inside) / focus
    if excess <= TOLERANCE:
        return 0.0
    # Falls from one to the other without a step: shots of nearly the same focus are to look nearly the same.
    wanted = focus * max(REMAINING, 2 * TOLERANCE - excess)
    blurs = np.arange(STEP, LARGEST + STEP / 2, STEP)
    enough = (blur for blur in blurs if _ratio(cv2.GaussianBlur(face, (0, 0), float(blur)), inside) <= wanted)
    return float(next(enough, LARGEST)) / canonical_scale(landmarks)


def as_soft_as(portrait: Portrait, focus: float) -> Portrait:
    """The portrait no sharper than a target with this ``focus_ratio``; NaN leaves it as it is."""
    blur = blur_towards(portrait.picture, portrait.landmarks, focus)
    if blur <= 0:
        return portrait
    return replace(
        portrait,
        picture=np.asarray(cv2.GaussianBlur(portrait.picture, (0, 0), blur), np.uint8),
        colours=np.asarray(cv2.GaussianBlur(portrait.colours, (0, 0), blur), np.uint8),
        matte=np.asarray(cv2.GaussianBlur(portrait.matte, (0, 0), blur), np.float32),
    )


def _ratio(face: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    return band_contrast(face, inside, *FINE) / max(band_contrast(face, inside, *COARSE), 1e-3)
