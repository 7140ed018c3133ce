"""What label maps missed of a person: pixels beside it that look like the person and not like the background further out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.blocks import dilate
from stages.filling import membrane

GRID = 128
"""Side of the grid on which residue is looked for."""

REACH = 0.1
"""How far from the labels it is looked for, share of the crop's side."""

LIKENESS = 0.5
"""Residue differs from the person's nearby colours by less than this share of its difference to the background's."""

APART = 18.0
"""Where the two differ by less than this (RGB, 0..255) nothing can be told."""


STRAND_REACH = 0.08
"""How far from hair single strands are looked for, share of the crop's side."""

STRAND_WIDTH = 13
"""Strands are much narrower than this many pixels of a crop of 256."""

STRAND_DIFFERENCE = 4.0
"""How far towards the hair's colour (RGB, 0..255) a strand departs from what is around it."""


def strands(rgb: NDArray[np.uint8], hair: NDArray[np.bool_], person: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Single strands that stick out of hair: narrow lines near it that depart from their surroundings towards its colour.

    Args:
        rgb: uint8 [size, size, 3], a crop of about 256 pixels. hair, person: boolean [size, size], from the labels.

    Returns:
        boolean [size, size], none of it in ``person``.
    """
    near = dilate(hair, STRAND_REACH * len(hair)) & ~person
    if not near.any():
        return near
    behind = np.where(person[..., None], membrane(rgb, ~person, relax=1), rgb)
    around = cv2.medianBlur(np.clip(np.rint(behind), 0, 255).astype(np.uint8), STRAND_WIDTH).astype(np.float32)
    reach = 2 * int(STRAND_REACH * len(hair)) + 5
    share = cv2.blur(hair.astype(np.float32), (2 * reach + 1,) * 2)[..., None]
    colour = cv2.blur(rgb * hair[..., None].astype(np.float32), (2 * reach + 1,) * 2) / np.maximum(share, 1e-4)
    towards = colour - around
    length = np.linalg.norm(towards, axis=2)
    departs = ((rgb - around) * towards).sum(2) / np.maximum(length, 1e-3)
    return near & (departs > STRAND_DIFFERENCE) & (length > APART)


def residue(rgb: NDArray[np.uint8], person: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels outside a person mask that continue the person: strands and locks that the labels missed, shadows of its colour.

    Colours of the person are continued outwards, those of the background beyond ``REACH`` inwards, by a smooth membrane each; a
    pixel between goes with the one it is much nearer to, and counts where it hangs together with the person.

    Args:
        rgb: uint8 [size, size, 3], the crop. person: boolean [size, size], without any margin.

    Returns:
        boolean [size, size]; nothing where the crop shows no person or no background.
    """
    size = person.shape[0]
    small = cv2.resize(rgb, (GRID, GRID), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(person.astype(np.uint8), (GRID, GRID), interpolation=cv2.INTER_NEAREST) > 0
    beyond = ~dilate(inside, REACH * GRID)
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if not core.any() or not beyond.any():
        return np.zeros((size, size), bool)
    picture = cv2.GaussianBlur(small, (0, 0), 0.7).astype(np.float32)
    ours, theirs = membrane(small, core, relax=1), membrane(small, beyond, relax=1)
    to_ours, to_theirs, apart = (np.linalg.norm(a - b, axis=2) for a, b in ((picture, ours), (picture, theirs), (ours, theirs)))
    alike = ~inside & ~beyond & (to_ours < LIKENESS * to_theirs) & (apart > APART)
    _, numbered = cv2.connectedComponents((alike | inside).astype(np.uint8), connectivity=4)
    attached = np.isin(numbered, np.unique(numbered[inside]))
    return cv2.resize((alike & attached).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
