"""How well an expression was carried over to another face, against the truth of that face performing it.

Distances are in the picture's plane, after the result was brought onto the truth by a similarity (landmarks that expressions
hardly move), in per cent of the true face's inter-ocular distance in three dimensions. Statistics are over pairs of people:
frames of one pair are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.face3d.fitting import align, fit_frames
from stages.face3d.model import FaceModel
from stages.face3d.retargeting import lid_gaps, lip_gaps
from stages.face3d.topology import EYES, INNER_CORNERS, LIPS, interocular

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

REGIONS: Mapping[str, NDArray[np.intp]] = {
    "eyes": np.array(sorted({point for eye in EYES for point in (*eye.outline, *eye.iris_points)})),
    "brows": np.array(sorted({point for eye in EYES for point in (*eye.brow_upper, *eye.brow_lower)})),
    "mouth": np.array(sorted(set(LIPS))),
}
"""Landmarks of each region."""

SHUT, LEFT_OPEN = 0.12, 0.25
"""Shares of the lids' height at rest: up to the first the driver's eye is closed, beyond the second the result's is open."""

TOUCHING, PARTED = 0.01, 0.03
"""Height between the lips beyond that at rest, in widths of the mouth: up to the first the driver's mouth is closed, beyond the
second the result's is open."""


def brought_onto(found: ArrayLike, wanted: ArrayLike, model: FaceModel) -> Floats:
    """Shapes ``[n, 478, 3]`` in model space, by similarities onto landmarks ``[n, 478, 3]`` in pixels."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return align(found[:, model.rigid], wanted[:, model.rigid]).project(found)


def region_errors(placed: ArrayLike, wanted: ArrayLike) -> dict[str, Floats]:
    """Mean distance of landmarks ``[n, 478, 3]``, per cent of the inter-ocular distance, by region and over ``all``: ``[n]``."""
    placed, wanted = np.asarray(placed, np.float64), np.asarray(wanted, np.float64)
    distance = 100 * np.linalg.norm((placed - wanted)[..., :2], axis=-1) / interocular(wanted)[:, None]
    errors = {name: np.asarray(distance[:, points].mean(1)) for name, points in REGIONS.items()}
    return {**errors, "all": np.asarray(distance.mean(1))}


def expression_difference(placed: ArrayLike, wanted: ArrayLike, model: FaceModel, identity: ArrayLike) -> Floats:
    """Mean absolute difference of fitted expression weights, ``[n]``: both fitted with the true face's identity.

    Args:
        placed: results in pixels, ``[n, 478, 3]``. wanted: weights fitted to the truth, ``[n, E]``.
        identity: coefficients that the truth's frames show, ``[K]``.
    """
    found = fit_frames(placed, model, identity).expression
    return np.asarray(np.abs(found - np.asarray(wanted, np.float64)).mean(1))


def lid_opening(shapes: ArrayLike) -> Floats:
    """Mean height between the lids of the left and the right eye, ``[n, 478, 3]`` in axes of the head -> ``[n, 2]``."""
    points = np.asarray(shapes, np.float64)
    return np.stack([lid_gaps(points, eye).mean(1) for eye in EYES], axis=1)


def lip_opening(shapes: ArrayLike) -> Floats:
    """Mean height between the inner lips in widths of the mouth, ``[n, 478, 3]`` in axes of the head -> ``[n]``."""
    points = np.asarray(shapes, np.float64)
    width = np.linalg.norm(points[:, INNER_CORNERS[0]] - points[:, INNER_CORNERS[1]], axis=-1)
    return np.asarray(lip_gaps(points).mean(1) / width)


@dataclass(frozen=True)
class Kept:
    """How often something was so in the truth, and how often the result kept it."""

    cases: int
    held: int

    @classmethod
    def counted(cls, cases: Flags, broken: Flags) -> Kept:
        return cls(int(cases.sum()), int((cases & ~broken).sum()))


def invariants(found: ArrayLike, found_rest: ArrayLike, driver: ArrayLike, driver_rest: ArrayLike) -> dict[str, Kept]:
    """Whether eyes and mouth that are closed in the driver's landmarks stayed closed, and open ones open.

    Args:
        found: the results, ``[n, 478, 3]`` in model space.
        found_rest: the true face at rest, ``[478, 3]`` in model space, landmarks of the same kind (exact or detected).
        driver, driver_rest: the same of the driver.
    """
    found, driver = np.asarray(found, np.float64), np.asarray(driver, np.float64)
    found_rest, driver_rest = np.asarray(found_rest, np.float64)[None], np.asarray(driver_rest, np.float64)[None]
    true_eyes, eyes = lid_opening(driver) / lid_opening(driver_rest), lid_opening(found) / lid_opening(found_rest)
    true_lips, lips = lip_opening(driver) - lip_opening(driver_rest), lip_opening(found) - lip_opening(found_rest)
    return {
        "eyes_closed": Kept.counted(true_eyes <= SHUT, eyes > LEFT_OPEN),
        "eyes_open": Kept.counted(true_eyes >= 2 * LEFT_OPEN, eyes <= LEFT_OPEN),
        "mouth_closed": Kept.counted(true_lips <= TOUCHING, lips > PARTED),
        "mouth_open": Kept.counted(true_lips >= 2 * PARTED, lips <= TOUCHING),
    }


def bootstrap_interval(
    values: ArrayLike, groups: ArrayLike, *, seed: int, rounds: int = 4000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` ``[n]``: of errors, or of paired differences.

    Args:
        groups: what is drawn with replacement, a number for each value ``[n]``: pairs that share people are no independent ones.
    """
    values = np.asarray(values, np.float64)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    total, count = np.bincount(group, values), np.bincount(group)
    drawn = np.random.default_rng([seed, len(count)]).integers(len(count), size=(rounds, len(count)))
    means = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
