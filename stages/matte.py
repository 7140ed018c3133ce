"""The source's head cut out of its picture: opacity to the single strand, without a fringe of the old background's colour.

For stills and single frames; takes about half a second. ``rgb`` is uint8 [size, size, 3], ``labels`` uint8 [size, size] with the
values of ``schemas.tables.LABELS``, ``landmarks`` float [478, 2 or 3] in crop pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import cg

from stages.blocks import dilate
from stages.filling import membrane
from stages.segmentation import CLOTH, FACE, HAIR, NECK, HeadFrame

__all__ = ["foreground_colours", "head_matte", "neck_fade", "reference_image", "solve_matte", "trimap", "without_collar"]

HAIR_BAND, SKIN_BAND = 0.03, 0.007
"""Half the width of the band in which opacity is solved for, share of the crop's side."""

COLLAR_FROM = 0.3
"""Height below the middle of the face, in heights of the face, from which hair may be a collar (the chin is at 0.5)."""

COLLAR_DIFFERENCE, COLLAR_LIGHTNESS = 38.0, 0.5
"""Distance of colours, 8-bit Lab with lightness counted by the share named second, that hair on one head does not reach."""

GAP_DIFFERENCE, GAP_SHARE = 40.0, 0.35
"""Largest distance in RGB to the background's colour of a pixel that surely shows it, and its share of that to the head's."""

GUESS_TRUST = 1e-4
"""Weight of the labels against the colours in the matte's equations."""

ALIKE, ALIKE_TRUST = 40.0, 0.1
"""Distance in RGB between hair and background up to which they look alike, and what is added to the labels' weight there."""

NECK_BEGIN, NECK_END = 0.55, 0.74
"""Where the neck fades out, in heights of the face below its middle (the chin is at 0.5)."""


def trimap(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that surely show the head or neck, and pixels that surely do not; boolean [size, size] each. Between: unknown."""
    size = labels.shape[0]
    head = (labels == HAIR) | (labels == FACE) | (labels == NECK)
    inwards = cv2.distanceTransform(head.astype(np.uint8), cv2.DIST_L2, 5)
    outwards = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, 5)
    hairy = dilate(labels == HAIR, (HAIR_BAND + SKIN_BAND) * size)
    band = np.where(hairy, HAIR_BAND, SKIN_BAND) * size
    skin = dilate(labels == FACE, SKIN_BAND * size) & ~dilate(labels == HAIR, SKIN_BAND * size)
    band[skin] = SKIN_BAND * size
    return inwards > band, outwards > band


def solve_matte(
    rgb: np.ndarray,
    front: np.ndarray,
    behind: np.ndarray,
    guess: np.ndarray | None = None,
    trust_in_guess: np.ndarray | float = GUESS_TRUST,
) -> np.ndarray:
    """Opacity between what is surely in front and surely behind: closed-form matting (Levin, Lischinski and Weiss, 2008).

    Args:
        rgb: uint8 [height, width, 3]; front, behind: boolean [height, width].
        guess: float32 [height, width] in 0..1, where nothing else decides.
        trust_in_guess: weight of the guess against what colours say, one or [height, width].

    Returns:
        float32 [height, width] in 0..1.
    """
    height, width = front.shape
    known = front | behind
    if known.all():
        return front.astype(np.float32)
    # Windows of 3x3 that hold an unknown pixel; the solution elsewhere is given.
    touched = cv2.dilate((~known).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    picture = rgb.astype(np.float64) / 255
    numbers = np.arange(height * width).reshape(height, width)
    windows = sliding_window_view(numbers, (3, 3)).reshape(height - 2, width - 2, 9)[touched]
    colours = picture.reshape(-1, 3)[windows]
    mean = colours.mean(1, keepdims=True)
    centred = colours - mean
    spread = np.einsum("wik,wil->wkl", centred, centred) / 9 + 1e-5 / 9 * np.eye(3)
    affinity = (1 + np.einsum("wik,wkl,wjl->wij", centred, np.linalg.inv(spread), centred)) / 9
    rows, columns = np.repeat(windows, 9, axis=1).ravel(), np.tile(windows, (1, 9)).ravel()
    count = height * width
    weights = coo_matrix((affinity.ravel(), (rows, columns)), (count, count)).tocsr()
    laplacian = diags(np.asarray(weights.sum(1)).ravel()) - weights
    prior = np.where(front, 1.0, 0.0 if guess is None else guess)
    prior[behind] = 0
    trust = np.where(known, 100.0, trust_in_guess if guess is not None else 1e-8).ravel()
    system = (laplacian + diags(trust)).tocsr()
    solution, _ = cg(
        system, trust * prior.ravel(), x0=prior.ravel(), rtol=1e-5, maxiter=400, M=diags(1 / np.maximum(system.diagonal(), 1e-12))
    )
    alpha = np.clip(solution.reshape(height, width), 0, 1)
    alpha[front], alpha[behind] = 1, 0
    return np.asarray(alpha, np.float32)


def without_collar(rgb: np.ndarray, labels: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """A label map in which what hangs below the jaw and does not look like the hair above it is cloth, not hair.

    A high collar is easily taken for hair. Each connected part below the jaw is judged as a whole, against hair of its own side:
    long hair, whose ends may be darker or lighter than its top, stays.
    """
    size = labels.shape[0]
    u, v = HeadFrame.of(landmarks).coordinates(size, size)
    hair = labels == HAIR
    low = hair & (v > COLLAR_FROM)
    lab = cv2.cvtColor(cv2.GaussianBlur(rgb, (0, 0), 2.0), cv2.COLOR_RGB2LAB).astype(np.float32)
    lab[..., 0] *= COLLAR_LIGHTNESS
    result = labels.copy()
    count, numbered = cv2.connectedComponents(low.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        part = numbered == number
        side = np.sign(np.median(u[part]))
        above = (hair | ((labels == FACE) & (np.abs(u) > 0.4))) & (v < 0) & (u * side > 0)
        above = above if (hair & above).sum() < 50 else hair & above
        if above.sum() < 50:
            continue
        difference = np.linalg.norm(np.median(lab[part], axis=0) - np.median(lab[above], axis=0))
        if difference > COLLAR_DIFFERENCE:
            result[part] = CLOTH
    return result


def head_matte(rgb: np.ndarray, labels: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Opacity of the head: face, ears, hair wherever it hangs, and a little neck that fades out. float32 [size, size], 0 to 1."""
    front, behind = trimap(labels)
    head = np.isin(labels, (HAIR, FACE, NECK))
    picture = cv2.GaussianBlur(rgb, (0, 0), 1.0).astype(np.float32)
    of_front, of_behind = (membrane(rgb, known, relax=1) if known.any() else picture for known in (front, behind))
    apart = np.linalg.norm(of_front - of_behind, axis=2)
    to_front, to_behind = (np.linalg.norm(picture - colours, axis=2) for colours in (of_front, of_behind))
    # What plainly has the background's colour is a gap under the hair, too narrow for the trimap.
    behind |= ~front & ~head & (to_behind < GAP_DIFFERENCE) & (to_behind < GAP_SHARE * to_front)
    guess = cv2.GaussianBlur(head.astype(np.float32), (0, 0), 0.004 * labels.shape[0])
    # Where hair and background look alike, colours say nothing: the labels' border is better than a smear.
    alike = np.exp(-((apart / ALIKE) ** 2))
    alpha = solve_matte(rgb, front, behind, guess, GUESS_TRUST + ALIKE_TRUST * alike)
    # Solved values slightly off 0 and 1 are noise that shows as a veil on white.
    alpha = np.clip((alpha - 0.06) / 0.88, 0, 1)
    return np.asarray(alpha * neck_fade(labels, landmarks), np.float32)


def neck_fade(labels: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """What is left of the opacity of a little neck that fades out, 1 on the rest of the head: float32 [size, size], 0 to 1."""
    size = labels.shape[0]
    u, v = HeadFrame.of(landmarks).coordinates(size, size)
    column = v[(labels == NECK) & (np.abs(u) < 0.3)]
    end = min(NECK_END, float(np.quantile(column, 0.98))) if column.size else NECK_END  # where the picture ends, at the latest
    fade = np.clip((end - v) / (NECK_END - NECK_BEGIN), 0, 1) * np.clip((0.6 - np.abs(u)) / 0.12, 0, 1)
    hair = cv2.GaussianBlur((labels == HAIR).astype(np.float32), (0, 0), 0.006 * size)
    neck = cv2.GaussianBlur((labels == NECK).astype(np.float32), (0, 0), 0.006 * size)
    share = np.clip(neck / np.maximum(neck + hair, 1e-3), 0, 1)
    return np.asarray(1 - share * (1 - fade), np.float32)


def foreground_colours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The head's own colours, with what shines through of the old background taken out: uint8 [size, size, 3].

    Where nothing of the head is seen its colours are continued, so that the result may be resampled freely. One step of
    Forte's fast foreground estimation (2021) from smooth first estimates of both sides.
    """
    weight = alpha[..., None].astype(np.float32)
    front = membrane(rgb, alpha > 0.97, relax=2)
    behind = membrane(rgb, alpha < 0.02, relax=2)
    picture = rgb.astype(np.float32)
    # Local detail: nearby opaque colours count more than the smooth continuation.
    for radius in (31, 7):
        window = (radius, radius)
        total = cv2.blur(alpha, window)[..., None]
        near = cv2.blur(front * weight, window) / np.maximum(total, 1e-4)
        rest = cv2.blur(behind * (1 - weight), window) / np.maximum(1 - total, 1e-4)
        front_now = np.where(total > 1e-3, near, front)
        behind_now = np.where(1 - total > 1e-3, rest, behind)
        front = np.clip(front_now + weight * (picture - weight * front_now - (1 - weight) * behind_now), 0, 255)
        behind = np.clip(behind_now + (1 - weight) * (picture - weight * front_now - (1 - weight) * behind_now), 0, 255)
    result = np.where(weight > 0.995, picture, front)
    return np.asarray(np.clip(np.rint(result), 0, 255), np.uint8)


def reference_image(rgb: np.ndarray, labels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The paper's reference image: the head alone (hair, ears, a little neck) on white, uint8 [size, size, 3].

    Args:
        rgb: the source's crop; labels: its label map; alpha: from :func:`head_matte`.
    """
    visible = alpha * dilate(np.isin(labels, (HAIR, FACE, NECK)), 2 * HAIR_BAND * labels.shape[0])
    weight = visible[..., None].astype(np.float32)
    picture = foreground_colours(rgb, alpha) * weight + 255 * (1 - weight)
    return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)
