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
"""Strands are much narrower than this many pixels of a crop of 256; odd."""

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
    left, top, width, height = cv2.boundingRect(near.view(np.uint8))
    box = np.s_[
        max(top - STRAND_WIDTH, 0) : top + height + STRAND_WIDTH, max(left - STRAND_WIDTH, 0) : left + width + STRAND_WIDTH
    ]
    direction, distance, level, hidden = (_enlarged(plane, hair.shape)[box] for plane in _towards_hair(rgb, hair, person))
    along = np.einsum("ijk,ijk->ij", rgb[box].astype(np.float32), direction) - level
    np.copyto(along, hidden, where=person[box])
    # Eight bits suffice, and make the median of many pixels cheap.
    coded = cv2.convertScaleAbs(np.clip(along, -127, 127) + 128)
    usual = cv2.medianBlur(coded, STRAND_WIDTH).astype(np.float32) - 128
    near[box] &= (along - usual > STRAND_DIFFERENCE) & (distance - usual > APART)
    return near


def _enlarged(plane: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _towards_hair(
    rgb: NDArray[np.uint8], hair: NDArray[np.bool_], person: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Where in the space of colours the hair lies, seen from the background: all of it smooth, so half the resolution will do.

    Returns:
        float32 of half the picture's height and width: the unit vector [..., 3] from the background's colour to that of the hair
        nearby; the distance between both; the background's colour along the vector; and by how much the background behind the
        person, continued from beside it, departs from that.
    """
    half = (rgb.shape[1] // 2, rgb.shape[0] // 2)
    small = cv2.resize(rgb, half, interpolation=cv2.INTER_AREA)
    ours, covered = (cv2.resize(mask.view(np.uint8) * 255, half, interpolation=cv2.INTER_AREA) for mask in (hair, person))
    behind = membrane(small, covered == 0, relax=1)
    around = cv2.blur(behind, (STRAND_WIDTH // 2 | 1,) * 2)
    weight = (ours == 255).astype(np.float32)
    window = (2 * int(STRAND_REACH * len(hair)) + 5,) * 2
    colour = cv2.blur(small * weight[..., None], window) / np.maximum(cv2.blur(weight, window), 1e-4)[..., None]
    towards = colour - around
    distance = np.sqrt(np.einsum("ijk,ijk->ij", towards, towards))
    direction = towards / np.maximum(distance, 1e-3)[..., None]
    level = np.einsum("ijk,ijk->ij", around, direction)
    return direction, distance, level, np.einsum("ijk,ijk->ij", behind, direction) - level


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
    to_ours, to_theirs, apart = (
        np.einsum("ijk,ijk->ij", difference, difference) for difference in (picture - ours, picture - theirs, ours - theirs)
    )
    alike = ~inside & ~beyond & (to_ours < LIKENESS**2 * to_theirs) & (apart > APART**2)
    count, numbered = cv2.connectedComponents((alike | inside).view(np.uint8), connectivity=4)
    of_person = np.zeros(count, bool)
    of_person[numbered[inside]] = True
    attached = of_person[numbered]
    return cv2.resize((alike & attached).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
