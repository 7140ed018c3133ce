"""What lies under the new head: the target's body with its neck continued upwards and shaded towards the new skin."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.tables import LABELS
from stages.warp.filling import fill_smoothly

HAIR, FACE, NECK, CLOTH, OTHER = (LABELS.index(name) for name in ("hair", "face", "neck", "cloth", "other"))
COARSE = 4
"""Neck colours are filled at a quarter of the crop's size: they are smooth."""

SHADOW = 0.38
"""How much darker the neck is right under the jaw of the new head."""


def neck_column(labels: NDArray[np.uint8], landmarks: NDArray[np.floating], unit: float) -> NDArray[np.float32]:
    """Where the neck would go on under the old head: from the visible neck's sides up to the height of the mouth.

    Args:
        labels: uint8 [height, width] label map of the target's crop.
        landmarks: float [478, 3] of the target, pixels of the crop.
        unit: distance of the eye centres, pixels.

    Returns:
        float32 [height, width] soft mask in 0..1.
    """
    height, width = labels.shape
    chin = landmarks[152, :2]
    up = landmarks[10, :2] - chin
    up = up / max(float(np.linalg.norm(up)), 1e-6)
    mouth = landmarks[[13, 14], :2].mean(0)
    neck = labels == NECK
    half = 0.95 * unit
    centre = float(chin[0])
    top = int(np.clip(mouth[1], 0, height))
    rows = np.flatnonzero(neck.sum(1) > 0.3 * unit)
    lower = int(np.clip(chin[1] + 0.6 * unit, 0, height))
    if len(rows):
        band = neck[rows[0] : rows[0] + max(2, int(0.5 * unit))]
        columns = np.flatnonzero(band.sum(0) >= max(1, 0.3 * len(band)))
        if len(columns) > 0.4 * unit:
            centre = float((columns[0] + columns[-1] + 1) / 2)
            half = float(np.clip((columns[-1] + 1 - columns[0]) / 2, 0.6 * unit, 1.15 * unit))
            lower = max(lower, int(rows[0] + 0.3 * unit))
    x = np.arange(width, dtype=np.float32)[None] + 0.5
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5
    inside = np.clip((half - np.abs(x - centre)) / (0.12 * unit) + 0.5, 0, 1)
    below = np.clip((y - top) / (0.25 * unit), 0, 1) * np.clip((lower - y) / (0.1 * unit) + 1, 0, 1)
    return np.asarray(inside * below, np.float32)


def underlay(
    picture: NDArray[np.uint8],
    clean: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    landmarks: NDArray[np.floating],
    unit: float,
    gain: NDArray[np.floating] | None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture the new head is laid on.

    Args:
        picture: uint8 RGB [height, width, 3], the target's crop.
        clean: uint8 RGB, the same without the old head.
        labels: uint8 [height, width].
        landmarks: float [478, 3] of the target, pixels of the crop.
        unit: distance of the eye centres, pixels.
        gain: float [3] on the neck's RGB towards the new skin; None leaves its colour.

    Returns:
        uint8 RGB, and how much of each pixel is skin of the neck, float32 [height, width].
    """
    shape = labels.shape
    column = neck_column(labels, landmarks, unit)
    old_head = (labels == FACE) | (labels == HAIR)
    neck = (labels == NECK).astype(np.uint8)
    # The border between jaw and neck is never sharp: what is near the old face is filled rather than kept.
    grown = cv2.dilate(old_head.astype(np.uint8), np.ones((7, 7), np.uint8))
    kept = cv2.erode(neck, np.ones((5, 5), np.uint8)) & (1 - grown)
    small = (shape[1] // COARSE, shape[0] // COARSE)
    weight = cv2.resize(kept.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    reference = picture
    if weight.sum() < 4:
        face = cv2.erode((labels == FACE).astype(np.uint8), np.ones((9, 9), np.uint8))
        below = np.arange(shape[0])[:, None] > landmarks[1, 1]
        weight = 0.999 * cv2.resize((face & below).astype(np.float32), small, interpolation=cv2.INTER_AREA)
    tone = fill_smoothly(cv2.resize(reference, small, interpolation=cv2.INTER_AREA), weight)
    tone = cv2.resize(tone, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)

    filled = column * cv2.GaussianBlur(
        (grown & ~((labels == CLOTH) | (labels == OTHER)).astype(np.uint8) & 1).astype(np.float32), (0, 0), 1.5
    )
    base = clean.astype(np.float32)
    base += (tone - base) * filled[..., None]
    skin = np.maximum(cv2.GaussianBlur(neck.astype(np.float32), (0, 0), 1.2), filled)
    if gain is not None:
        y = np.arange(shape[0], dtype=np.float32)[:, None] + 0.5
        depth = (y - landmarks[152, 1]) / unit
        falloff = np.clip(1 - (depth - 1.2) / 1.6, 0.25, 1).astype(np.float32)
        base *= 1 + (gain.astype(np.float32) - 1) * (skin * falloff)[..., None]
    return np.clip(base + 0.5, 0, 255).astype(np.uint8), skin


def jaw_shadow(head: NDArray[np.float32], skin: NDArray[np.float32], unit: float) -> NDArray[np.float32]:
    """Factor [height, width] that darkens the neck just below the new head, as any head's shadow does."""
    small = cv2.resize(head, (head.shape[1] // COARSE, head.shape[0] // COARSE), interpolation=cv2.INTER_AREA)
    drop = max(1, round(0.22 * unit / COARSE))
    lowered = np.zeros_like(small)
    lowered[drop:] = small[:-drop]
    soft = cv2.GaussianBlur(lowered, (0, 0), 0.18 * unit / COARSE)
    soft = cv2.resize(soft, (head.shape[1], head.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(1 - SHADOW * soft * skin, np.float32)
