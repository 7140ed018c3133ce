"""A painted person with known labels and landmarks, for tests of masks and plates."""

from __future__ import annotations

import cv2
import numpy as np

from schemas.tables import LANDMARKS
from stages import segmentation as parts

HAIR_COLOUR, SKIN_COLOUR, CLOTH_COLOUR = (70, 42, 25), (224, 172, 140), (40, 70, 160)


def painted_landmarks(centre: tuple[float, float], tall: float) -> np.ndarray:
    """float32 [478, 3]: an upright oval with eyes, brows and lips in their places; ``tall`` is the face's height."""
    x, y = centre
    points = np.zeros((LANDMARKS, 3), np.float32)
    points[:, :2] = centre
    angles = np.linspace(0, 2 * np.pi, len(parts.FACE_OVAL), endpoint=False)
    oval = np.stack([x + 0.37 * tall * np.sin(angles), y - 0.5 * tall * np.cos(angles)], -1)
    points[list(parts.FACE_OVAL), :2] = oval
    points[[10, 152], :2] = (x, y - 0.5 * tall), (x, y + 0.5 * tall)

    def ring(indices: tuple[int, ...], across: float, down: float, width: float, height: float) -> None:
        turn = np.linspace(0, 2 * np.pi, len(indices), endpoint=False)
        around = np.stack([x + (across + width * np.cos(turn)) * tall, y + (down + height * np.sin(turn)) * tall], -1)
        points[list(indices), :2] = around

    for side, eye, brow in ((1, parts.LEFT_EYE, parts.LEFT_BROW), (-1, parts.RIGHT_EYE, parts.RIGHT_BROW)):
        ring(eye, 0.16 * side, -0.08, 0.06, 0.025)
        ring(brow, 0.16 * side, -0.2, 0.09, 0.02)
    ring(parts.LIPS, 0, 0.25, 0.12, 0.04)
    return points


def paint_person(
    background: np.ndarray, centre: tuple[float, float], tall: float, long_hair: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint a person over ``background`` uint8 [h, w, 3].

    Returns:
        The picture, its label map uint8 [h, w], its landmarks float32 [478, 3].
    """
    height, width = background.shape[:2]
    labels = np.zeros((height, width), np.uint8)
    x, y = centre

    def ellipse(label: int, across: float, down: float, half_width: float, half_height: float) -> None:
        middle = (round(x + across * tall), round(y + down * tall))
        cv2.ellipse(labels, middle, (round(half_width * tall), round(half_height * tall)), 0, 0, 360, label, -1)

    ellipse(parts.HAIR, 0, -0.15, 0.52, 0.62)
    if long_hair:
        left, right = round(x - 0.52 * tall), round(x + 0.52 * tall)
        labels[round(y - 0.1 * tall) : round(y + 0.95 * tall), max(0, left) : right] = parts.HAIR
    ellipse(parts.CLOTH, 0, 1.6, 1.0, 0.9)
    if long_hair:
        for side in (-1, 1):
            left = round(x + (side * 0.4 - 0.12) * tall)
            labels[round(y + 0.5 * tall) : round(y + 1.05 * tall), max(0, left) : max(0, left + round(0.24 * tall))] = parts.HAIR
    neck = slice(max(0, round(x - 0.2 * tall)), round(x + 0.2 * tall))
    labels[round(y) : round(y + 0.8 * tall), neck] = parts.NECK
    landmarks = painted_landmarks(centre, tall)
    cv2.fillPoly(labels, [np.round(landmarks[list(parts.FACE_OVAL), :2]).astype(np.int32)], parts.FACE)

    random = np.random.default_rng(seed)
    palette = np.array([(0, 0, 0), HAIR_COLOUR, SKIN_COLOUR, SKIN_COLOUR, CLOTH_COLOUR, (0, 0, 0)], np.float64)
    painted = palette[labels] + random.normal(0, 4, (height, width, 1))
    picture = np.where((labels > 0)[..., None], np.clip(painted, 0, 255), background).astype(np.uint8)
    for indices, colour in ((parts.LEFT_EYE, (30, 30, 40)), (parts.RIGHT_EYE, (30, 30, 40)), (parts.LIPS, (170, 70, 80))):
        cv2.fillConvexPoly(picture, np.round(landmarks[list(indices), :2]).astype(np.int32), colour)
    return picture, labels, landmarks


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with detail at several sizes, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    total = np.full((height, width, 3), 120.0, np.float32)
    for cell, strength in ((64, 45), (24, 30), (8, 22)):
        noise = random.normal(0, 1, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        total += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(total, 0, 255), np.uint8)
