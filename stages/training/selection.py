"""Which frames of a clip are good enough to train on, and why the others are not."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.dataset import DatasetParameters

REASONS = {
    "no_face": "no face was found",
    "interpolated": "the face was lost for a moment and bridged",
    "cut": "beside a cut, where a frame may show both shots",
    "small": "the head is too small in the video for crops of this size",
    "outside": "too much of the crop lies outside the picture",
    "cut_off": "the picture ends too far above the crop's lower border, and the body with it",
    "covered": "a hand or an object is before the head",
    "other_light": "the background is not that of the rest of the shot, or in other light (a fade, a flash, a title)",
    "poor_fit": "the landmarks do not look like a face",
    "no_mask": "no person was found in the crop",
    "short": "the run of usable frames is too short",
}
"""Codes of reasons and what they mean. The first that holds is given."""


@dataclass(frozen=True, eq=False)
class FrameFacts:
    """What the clip stages found out, one row per frame of the clip.

    Attributes:
        shots: int [n]. detected, interpolated: bool [n]. crops: float [n, 3], centre x, centre y, side in frame pixels.
        picture: width and height of the frame. residuals: float [n], of the face model's fit, in distances of the eyes.
        shares: float [n, 6], of the crop that each label covers (``schemas.tables.LABELS``).
        differences: float [n], of the frame from the plate of its shot where that shows it, 0..255; NaN where nothing is told.
    """

    shots: npt.NDArray[np.integer]
    detected: npt.NDArray[np.bool_]
    interpolated: npt.NDArray[np.bool_]
    crops: npt.NDArray[np.floating]
    picture: tuple[int, int]
    residuals: npt.NDArray[np.floating]
    shares: npt.NDArray[np.floating]
    differences: npt.NDArray[np.floating]


def exclusions(facts: FrameFacts, parameters: DatasetParameters) -> npt.NDArray[np.str_]:
    """Why each frame is left out, a code of ``REASONS``, or nothing for a frame that is used: str [n]."""
    found = np.full(len(facts.shots), "", dtype="U16")

    def exclude(code: str, frames: npt.NDArray[np.bool_]) -> None:
        found[(found == "") & frames] = code

    exclude("no_face", ~facts.detected & ~facts.interpolated)
    exclude("interpolated", facts.interpolated)
    exclude("cut", _beside_cuts(facts.shots, parameters.beside_cuts))
    exclude("small", facts.crops[:, 2] < parameters.smallest_crop * parameters.size)
    exclude("outside", _share_outside(facts.crops, *facts.picture) > parameters.largest_outside)
    below = facts.crops[:, 1] + facts.crops[:, 2] / 2 - facts.picture[1]
    exclude("cut_off", below > parameters.largest_below * facts.crops[:, 2])
    exclude("covered", facts.shares[:, 5] > parameters.largest_cover)
    exclude("other_light", facts.differences > parameters.largest_difference)
    exclude("poor_fit", ~(facts.residuals <= parameters.largest_residual))
    exclude("no_mask", facts.shares[:, 1:4].sum(1) <= 0)
    for start, stop in _runs(found == "", facts.shots):
        if stop - start < parameters.shortest_segment:
            found[start:stop] = "short"
    return found


def segments(excluded: npt.NDArray[np.str_], shots: npt.NDArray[np.integer], parameters: DatasetParameters) -> list[range]:
    """Runs of consecutive used frames of one shot, the long ones cut into pieces of nearly equal length."""
    found = []
    for start, stop in _runs(excluded == "", shots):
        wanted = -(-(stop - start) // parameters.longest_segment)
        pieces = max(1, min(wanted, (stop - start) // parameters.shortest_segment))
        bounds = [start + (stop - start) * k // pieces for k in range(pieces + 1)]
        found += [range(first, last) for first, last in itertools.pairwise(bounds)]
    return found


def _runs(used: npt.NDArray[np.bool_], shots: npt.NDArray[np.integer]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    start = None
    for row in range(len(used) + 1):
        goes_on = row < len(used) and used[row] and (start is None or shots[row] == shots[row - 1])
        if start is not None and not goes_on:
            found.append((start, row))
            start = None
        if row < len(used) and used[row] and start is None:
            start = row
    return found


def _beside_cuts(shots: npt.NDArray[np.integer], reach: int) -> npt.NDArray[np.bool_]:
    beside = np.zeros(len(shots), bool)
    for cut in np.flatnonzero(np.diff(shots)) + 1:
        beside[max(0, cut - reach) : cut + reach] = True
    return beside


def _share_outside(crops: npt.NDArray[np.floating], width: int, height: int) -> npt.NDArray[np.float64]:
    half = crops[:, 2] / 2
    spans = [
        np.clip(crops[:, axis] + half, 0, limit) - np.clip(crops[:, axis] - half, 0, limit)
        for axis, limit in ((0, width), (1, height))
    ]
    return np.asarray(1 - spans[0] * spans[1] / crops[:, 2] ** 2)
