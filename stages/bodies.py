"""The target's crop with its head taken away: the background behind it, and the neck and clothes that it hid.

Pure functions of one frame: ``rgb`` and ``background`` are uint8 [size, size, 3], ``labels`` uint8 [size, size] with the values
of ``schemas.tables.LABELS``.
"""

from __future__ import annotations

import cv2
import numpy as np

from stages.filling import membrane
from stages.segmentation import BACKGROUND, CLOTH, FACE, HAIR, NECK, OTHER

_COARSE = 128
"""Grid on which the body is completed: what is hidden is filled smoothly, so that nothing finer is needed."""


def body_outline(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where neck and shoulders would begin, were there no head.

    Where the body's upper edge borders on the background it is seen and taken as it is. Where hair hangs over it, the edge is
    drawn straight between what is seen on both sides: from the foot of the neck to the shoulder. The neck is continued upwards
    behind the chin, for a new head whose chin is shorter.

    Args:
        labels: uint8 [height, width]; a coarse map will do.

    Returns:
        float32 [width] each: the first row of the shoulders, and of the neck (``height`` where there is no neck), per column.
    """
    height, width = labels.shape
    columns = np.arange(width)
    body = (labels == CLOTH) | (labels == NECK)
    neck, face = labels == NECK, labels == FACE
    top = np.where(body.any(0), body.argmax(0), height)
    above = labels[np.maximum(top - 1, 0), columns]
    rows = np.where((top < height) & ((above == BACKGROUND) | (top == 0)), top, -1).astype(np.float32)
    neck_rows = np.full(width, height, np.float32)
    if not face.any():
        return _bridge(rows, height), neck_rows
    face_rows, face_columns = np.nonzero(face.any(1))[0], np.nonzero(face.any(0))[0]
    chin, tall = float(face_rows[-1]), float(face_rows[-1] - face_rows[0])
    jaw = face[face_rows[-1] - int(0.2 * tall) :].any(0)
    middle = float(np.nonzero(jaw)[0].mean())
    half = 0.26 * (face_columns[-1] - face_columns[0])
    left, right = middle - half, middle + half
    reach = np.nonzero(neck[: int(chin + 0.2 * tall)].sum(0) >= max(1, height // 64))[0]
    if len(reach) > half:
        begin, end = _main_run(reach)
        centre = (begin + end) / 2
        half = float(np.clip((end - begin) / 2, 0.7 * half, 1.5 * half))  # wider: bare shoulders
        left, right = centre - half, centre + half
    first, last = max(0, round(left)), min(width - 1, round(right))
    foot = np.nonzero(neck[:, first : last + 1].any(1))[0]
    foot_row = min(float(foot[-1]) if len(foot) else height, chin + 0.22 * tall)
    beside = (columns < first) | (columns > last)
    rows[beside & (rows >= 0)] = np.maximum(rows[beside & (rows >= 0)], foot_row - 0.05 * tall)  # shoulders slope down
    for edge in (first, last):
        rows[edge] = foot_row if rows[edge] < 0 else min(rows[edge], foot_row)
    across = np.clip((columns - (left + right) / 2) / max((right - left) / 2, 1.0), -1.5, 1.5)
    inside = np.abs(across) <= 1
    neck_rows[inside] = (chin - 0.35 * tall + 0.2 * tall * across**4)[inside]
    return _bridge(rows, height), neck_rows


def _main_run(columns: np.ndarray) -> tuple[int, int]:
    """First and last of the longest run of consecutive numbers."""
    pieces = np.split(columns, np.nonzero(np.diff(columns) > 1)[0] + 1)
    longest = max(pieces, key=len)
    return int(longest[0]), int(longest[-1])


def _bridge(rows: np.ndarray, height: int) -> np.ndarray:
    """Fill unknown entries (negative) by straight lines; beyond the last known one the shoulder slopes down gently."""
    known = np.nonzero(rows >= 0)[0]
    if not len(known):
        return np.full_like(rows, height)
    columns = np.arange(len(rows), dtype=np.float32)
    result = np.interp(columns, known, rows[known])
    result += 0.35 * (np.maximum(known[0] - columns, 0) + np.maximum(columns - known[-1], 0))
    return np.asarray(result, np.float32)


def _grown(mask: np.ndarray, share: float) -> np.ndarray:
    """``mask`` (0 or 1, uint8) grown by a share of its side; a square brush, which costs little."""
    reach = 2 * max(1, round(share * mask.shape[0])) + 1
    return np.asarray(cv2.dilate(mask, np.ones((reach, reach), np.uint8)))


def clean_target(rgb: np.ndarray, labels: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The crop without the head (hair, face, ears); neck, clothes, and what stands in front of the head stay.

    Where the head hid the background, the plate shows; where hair hung over the shoulders or the face over the neck, their
    colours are continued smoothly.

    Args:
        rgb: the target's crop.
        labels: its label map.
        background: its background without the person, from :func:`stages.plates.background_crop`.
    """
    size = rgb.shape[0]
    hair = (labels == HAIR).astype(np.uint8)
    head = hair | (labels == FACE)
    if not head.any():
        return rgb.copy()
    coarse = cv2.resize(labels, (_COARSE, _COARSE), interpolation=cv2.INTER_NEAREST)
    outlines = np.stack(body_outline(coarse))
    outlines = cv2.resize(outlines, (size, 2), interpolation=cv2.INTER_LINEAR) * (size / _COARSE)
    rows = np.arange(size, dtype=np.float32)[:, None]
    neck = (rows >= outlines[1][None]).astype(np.uint8)
    shoulders = (rows >= outlines[0][None]).astype(np.uint8)

    body = ((labels == CLOTH) | (labels == NECK)).astype(np.uint8)
    edge = _grown(head, 0.008) & body  # strands and shadow at the border to the body
    # Strands of hair that the labels miss reach far into the background; the border of the face does not.
    loose = (_grown(hair, 0.03) | _grown(head, 0.012)) & (labels == BACKGROUND)
    under = (head & (neck | shoulders)) | edge
    result = _blend(rgb, background, (head | loose) & (1 - under))
    if under.any():
        small = cv2.resize(rgb, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
        hidden = cv2.resize(head | edge, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA) > 0
        usable = cv2.dilate(hidden.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
        bare, dressed = (coarse == NECK) & usable, (coarse == CLOTH) & usable
        if bare.sum() < _COARSE // 4:  # a collar up to the chin: the chin's own colour
            rows_of_face = np.nonzero((coarse == FACE).any(1))[0]
            if len(rows_of_face):
                lowest = rows_of_face[-1] - len(rows_of_face) // 6
                bare = bare | ((coarse == FACE) & (np.arange(_COARSE)[:, None] >= lowest))
        neck_side = cv2.resize(
            ((coarse == NECK) | (coarse == FACE)).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST
        )
        as_neck = (neck | neck_side) & (1 - (hair & shoulders & (1 - neck)))
        for known, part in ((dressed, under & (1 - as_neck)), (bare, under & as_neck)):
            known = known if known.any() else bare | dressed
            if known.any() and part.any():
                filled = cv2.resize(membrane(small, known, relax=3), (size, size), interpolation=cv2.INTER_LINEAR)
                result = _blend(result, np.clip(filled, 0, 255).astype(np.uint8), part)
    keep = labels == OTHER
    result[keep] = rgb[keep]
    return result


def _blend(base: np.ndarray, top: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``top`` over ``base`` where ``mask`` (0 or 1), with a border two pixels soft."""
    alpha = cv2.blur(mask * np.uint8(255), (3, 3))
    alpha = cv2.merge([alpha, alpha, alpha])
    inverse = cv2.bitwise_not(alpha)
    return cv2.add(cv2.multiply(top, alpha, scale=1 / 255), cv2.multiply(base, inverse, scale=1 / 255))
