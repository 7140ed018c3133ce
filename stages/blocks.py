"""Masks that do not betray the shape of a head: the paper's Shape-Agnostic Mask and Hair Enhancement.

Masks are boolean [height, width] in crop pixels; grids are boolean [rows, columns], anchored at the crop's corner.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from schemas.tables import FOREGROUND_BLOCKS, HAIR_BLOCKS

__all__ = [
    "FOREGROUND_BLOCKS",
    "HAIR_BLOCKS",
    "block_grid",
    "dilate",
    "enhance_cloth",
    "expand_grid",
    "hair_grid",
    "shape_agnostic_grid",
    "shape_agnostic_mask",
    "shoulder_rectangles",
]


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Boolean ``mask`` grown by a disc of ``radius`` pixels; unchanged below half a pixel."""
    reach = int(np.floor(radius + 0.5))
    if reach < 1:
        return mask.copy()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def block_grid(mask: np.ndarray, blocks: int) -> np.ndarray:
    """Which of ``blocks`` x ``blocks`` equal blocks hold any pixel of the mask.

    M_new(i, j) = 1 if any(M(i, j)) > 0 else 0 (paper, Shape-Agnostic Mask). An empty mask gives an empty grid.

    Args:
        mask: boolean [size, size].
        blocks: blocks per side.

    Raises:
        ValueError: if the mask is not square or its side is not a multiple of ``blocks``.
    """
    height, width = mask.shape
    if height != width or height % blocks:
        raise ValueError(f"a mask of {height}x{width} pixels cannot be cut into {blocks}x{blocks} equal blocks")
    step = height // blocks
    columns = mask.reshape(blocks, step, width).any(axis=1)
    return np.asarray(columns.reshape(blocks, blocks, step).any(axis=2))


def expand_grid(grid: np.ndarray, size: int) -> np.ndarray:
    """The pixels of a grid's blocks: boolean [size, size]. ``size`` is a multiple of the grid's side, else ValueError."""
    blocks = grid.shape[0]
    if grid.shape != (blocks, blocks) or size % blocks:
        raise ValueError(f"a grid of {grid.shape} blocks does not fill {size}x{size} pixels")
    step = size // blocks
    return np.asarray(np.repeat(np.repeat(grid, step, axis=0), step, axis=1), bool)


def shape_agnostic_grid(foreground: np.ndarray, dilation: float = 0.02, blocks: int = FOREGROUND_BLOCKS) -> np.ndarray:
    """Grid of the dilated foreground M_f. ``dilation``: radius as a share of the crop's side (the paper gives none).

    A block holds a pixel of the dilated mask where the mask meets the block grown by the same disc: only blocks without a pixel
    of the mask itself are looked at that way.
    """
    grid = block_grid(foreground, blocks)
    reach, step = int(np.floor(dilation * foreground.shape[0] + 0.5)), foreground.shape[0] // blocks
    if reach < 1 or not grid.any() or grid.all():
        return grid
    grown = dilate(np.pad(np.ones((step, step), bool), reach), reach)
    rows, columns = np.nonzero(~grid)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(foreground, reach), grown.shape)
    grid[rows, columns] = (around[rows * step, columns * step] & grown).any(axis=(1, 2))
    return grid


def shape_agnostic_mask(foreground: np.ndarray, dilation: float = 0.02, blocks: int = FOREGROUND_BLOCKS) -> np.ndarray:
    """M_f^new in pixels: what is inpainted in training."""
    return expand_grid(shape_agnostic_grid(foreground, dilation, blocks), foreground.shape[0])


def hair_grid(hair: np.ndarray, blocks: int = HAIR_BLOCKS) -> np.ndarray:
    """Grid of a hair mask (paper's figure: twice as fine as the foreground's, not dilated)."""
    return block_grid(hair, blocks)


def shoulder_rectangles(shoulders: np.ndarray, size: int, minimum_visibility: float = 0.3) -> np.ndarray:
    """M_rect: two upright rectangles from the shoulder keypoints to the crop's lower border.

    Each one spans, sideways, from half-way between its shoulder and the middle of both to as far outside of the shoulder,
    so that hair on the shoulders is under it while the collar and the chest between remain (paper's figure, Shoulder Mask).

    Args:
        shoulders: float [2, 3] or [6]: x, y in crop pixels and visibility, the person's left shoulder first.
        size: side of the crop.
        minimum_visibility: a shoulder seen less than this, or NaN, gives no rectangle. That the other one is NaN does not matter
            but for the width of its own: the middle of the crop then stands for the middle of both.

    Returns:
        boolean [size, size].
    """
    points = np.asarray(shoulders, np.float64).reshape(2, 3)
    mask = np.zeros((size, size), bool)
    usable = np.isfinite(points).all(1) & (points[:, 2] >= minimum_visibility)
    half = (points[1, 0] - points[0, 0]) / 2
    for k, (x, y, _) in enumerate(points):
        if usable[k]:
            inwards = half if k == 0 else -half
            if not np.isfinite(inwards):
                inwards = size / 2 - x
            edges = sorted((x + 0.6 * inwards, x - 0.6 * inwards))
            left, right = (int(np.clip(round(edge), 0, size)) for edge in edges)
            mask[int(np.clip(round(y), 0, size)) :, left:right] = True
    return mask


def enhance_cloth(cloth: np.ndarray, hair: np.ndarray | None, rectangles: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """The piece of cloth that survives: M_cloth_new = M_cloth * (1 - M_hair) * (1 - M_rect) (paper, Hair Enhancement).

    Args:
        cloth: boolean [size, size], M_cloth.
        hair: boolean [size, size], M_hair, or None: in training the blocks of a random long-haired person's hair, at
            inference the target's own hair and, where it will hang, the source's.
        rectangles: boolean [size, size], M_rect, from :func:`shoulder_rectangles`.
    """
    kept = cloth & ~np.asarray(rectangles, bool)
    return kept if hair is None else kept & ~hair
