"""From numbers per frame to what a person should look at: flags, ranges, a grade with its reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

JITTER_FLAG = 0.04
"""Share of the inter-ocular distance: visible as trembling."""

FLICKER_FLAG = 6.0
SEAM_FLAG = 14.0
OUTSIDE_FLAG = 4.0
"""Levels of 255."""

SOFT_FLAG = 0.35
"""Share of detail lost, ``pictures.softness``: warped heads of rendered pairs lose a tenth on the mean and seldom more than this,
those of a diffusion network that was trained for an hour 0.35 to 0.49."""

FACE_LOST = "face_not_found"
MEASURES = (
    "pose_error",
    "yaw_pitch_roll_error",
    "expression_error",
    "landmark_error",
    "position_error",
    "jitter",
    "flicker",
    "seam",
    "softness",
    "outside_difference",
    "identity",
)
WORDS = {
    FACE_LOST: "no face was found where the new head should be",
    "pose_error": "the head points elsewhere than wanted",
    "landmark_error": "the face differs from the wanted one",
    "jitter": "the head trembles",
    "flicker": "the picture flickers",
    "seam": "a border shows",
    "softness": "the face is softer than the source's and the target's",
    "outside_difference": "the picture changed outside the region",
}
_POOR_SHARE, _CHECK_SHARE = 0.25, 0.02


def limits(landmark_flag: float, pose_flag: float) -> dict[str, float]:
    """The value of each measure above which a frame is flagged."""
    return {
        "pose_error": pose_flag,
        "landmark_error": landmark_flag,
        "jitter": JITTER_FLAG,
        "flicker": FLICKER_FLAG,
        "seam": SEAM_FLAG,
        "softness": SOFT_FLAG,
        "outside_difference": OUTSIDE_FLAG,
    }


def flags(measures: Mapping[str, NDArray[np.floating]], lost: NDArray[np.bool_], above: Mapping[str, float]) -> list[str]:
    """Reasons to look at each frame, comma separated, empty for none.

    Args:
        measures: columns ``[n]`` by name; NaN is never flagged. lost: bool ``[n]``, no face found. above: ``limits``.
    """
    reasons: list[list[str]] = [[FACE_LOST] if gone else [] for gone in lost]
    for name, limit in above.items():
        for row in np.flatnonzero(np.asarray(measures[name]) > limit):
            reasons[row].append(name)
    return [",".join(found) for found in reasons]


def ranges(rows: Sequence[int], reasons: Sequence[str], gap: int) -> list[tuple[int, int, str]]:
    """Flagged frames joined to ranges ``(first, end, reasons)``; frames up to ``gap`` apart belong together."""
    joined: list[tuple[int, int, str]] = []
    for frame, reason in zip(rows, reasons, strict=True):
        if not reason:
            continue
        if joined and frame - (joined[-1][1] - 1) <= gap:
            first, _, before = joined[-1]
            names = dict.fromkeys([*before.split(","), *reason.split(",")])
            joined[-1] = (first, frame + 1, ",".join(names))
        else:
            joined.append((frame, frame + 1, reason))
    return joined


def verdict(
    frames: NDArray[np.integer],
    generated: NDArray[np.bool_],
    measured: NDArray[np.bool_],
    measures: Mapping[str, NDArray[np.floating]],
    reasons: Sequence[str],
    every: int,
) -> dict[str, object]:
    """A grade with reasons, means and 95th percentiles, counts and flagged ranges: JSON without NaN.

    The grade is ``poor`` where a quarter of the measured frames is flagged, or nothing was generated; ``check`` from one in
    fifty, or where the target's own frames had to be kept; else ``good``.
    """
    flagged = np.array([bool(reason) for reason in reasons])
    share = float(flagged[measured].mean()) if measured.any() else 0.0
    kept = int((~generated).sum())
    said: list[str] = []
    if not generated.any():
        said.append("The head was replaced in no frame: the result shows the target's own frames.")
    elif kept:
        said.append(f"{kept} of {len(frames)} frames show the target's own picture: no head could be placed there.")
    for name in dict.fromkeys(part for reason in reasons for part in reason.split(",") if part):
        count = sum(name in reason.split(",") for reason in reasons)
        said.append(f"In {count} of {int(measured.sum())} measured frames {WORDS[name]}.")
    poor = not generated.any() or share >= _POOR_SHARE
    check = share >= _CHECK_SHARE or kept > 0
    return {
        "grade": "poor" if poor else "check" if check else "good",
        "reasons": said,
        "means": {name: _number(np.nanmean, values) for name, values in measures.items()},
        "worst": {name: _number(_worst(name), values) for name, values in measures.items()},
        "frames": {
            "total": len(frames),
            "generated": int(generated.sum()),
            "kept": kept,
            "measured": int(measured.sum()),
            "flagged": int(flagged.sum()),
        },
        "flagged": [list(found) for found in ranges(frames.tolist(), reasons, every)],
    }


def _worst(name: str) -> Callable[[NDArray[np.float64]], np.floating]:
    return lambda values: np.nanquantile(values, 0.05 if name == "identity" else 0.95)


def _number(statistic: Callable[[NDArray[np.float64]], np.floating], values: NDArray[np.floating]) -> float | None:
    numbers = np.asarray(values, np.float64)
    return round(float(statistic(numbers)), 5) if np.isfinite(numbers).any() else None
