"""Makes ``result.png`` and ``true_swap.png`` from what ``headswap demo --out DEMO_FOLDER`` left.

``python docs/images/make_result.py DEMO_FOLDER``. ``result.png``, for each pair: the portrait on the left; beside it frames of
the target above the same frames of the result. ``true_swap.png``: frames of the target, of the result and of the true swap.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

PAIRS = {"ada-speaks": (0.0, 0.5, 0.85), "chi-turns": (0.0, 0.17, 0.85)}
"""Jobs of the example catalogue, and which frames are shown, as shares of the clip's length."""

TRUE = "ben-smiles"
TRUE_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)

PORTRAIT, FRAME = 0.86, 0.76
"""Sides of the squares that are cut out, shares of the picture's height (a clip's width, if that is less)."""

WIDTH, GAP = 1500, 6


def square(picture: NDArray[np.uint8], share: float, side: int) -> NDArray[np.uint8]:
    """The upper middle of a picture [height, width, 3]: a square of a share of its shorter side, scaled to a side."""
    height, width = picture.shape[:2]
    length = round(share * min(height, width))
    # Of what is left over in height, half goes with the shorter side: heads keep some room above them.
    top, left = round(0.25 * max(height - width, 0)), (width - length) // 2
    return np.asarray(cv2.resize(picture[top : top + length, left : left + length], (side, side), interpolation=cv2.INTER_AREA))


def frames(clip: Path, shares: tuple[float, ...]) -> list[NDArray[np.uint8]]:
    """Some frames of a clip, uint8 RGB [height, width, 3]."""
    with av.open(str(clip)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [every[round(share * (len(every) - 1))] for share in shares]


def block(job: dict[str, str], demo: Path, side: int) -> NDArray[np.uint8]:
    """One pair: portrait of twice the frames' side, targets above results; uint8 [2 side + gap, ..., 3]."""
    shares = PAIRS[job["id"]]
    target, result = frames(EXAMPLES / job["target"], shares), frames(demo / f"{job['id']}.mp4", shares)
    columns = [square(np.asarray(Image.open(EXAMPLES / job["source"]).convert("RGB")), PORTRAIT, 2 * side + GAP)]
    for before, after in zip(target, result, strict=True):
        gap = np.full((GAP, side, 3), 255, np.uint8)
        columns.append(np.vstack([square(before, FRAME, side), gap, square(after, FRAME, side)]))
    gap = np.full((2 * side + GAP, GAP, 3), 255, np.uint8)
    return np.hstack([part for column in columns for part in (column, gap)][:-1])


def main() -> None:
    demo = Path(sys.argv[1])
    with (EXAMPLES / "catalogue.csv").open() as file:
        jobs = {row["id"]: row for row in csv.DictReader(file)}
    # A portrait as wide as two frames and a gap, three frames, three gaps.
    side = (WIDTH - 4 * GAP) // 5
    blocks = [block(jobs[name], demo, side) for name in PAIRS]
    gap = np.full((2 * GAP, blocks[0].shape[1], 3), 255, np.uint8)
    save(np.vstack([part for one in blocks for part in (one, gap)][:-1]), "result.png")
    save(true_swap(jobs[TRUE], demo, side), "true_swap.png")


def true_swap(job: dict[str, str], demo: Path, side: int) -> NDArray[np.uint8]:
    """Rows of the target, the result and the truth: uint8 [3 side + 2 gaps, ..., 3]."""
    rows = []
    for clip in (EXAMPLES / job["target"], demo / f"{job['id']}.mp4", EXAMPLES / "truth" / f"{job['id']}.mp4"):
        gap = np.full((side, GAP, 3), 255, np.uint8)
        shown = [square(picture, FRAME + 0.1, side) for picture in frames(clip, TRUE_SHARES)]
        rows.append(np.hstack([part for one in shown for part in (one, gap)][:-1]))
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.vstack([part for row in rows for part in (row, gap)][:-1])


def save(picture: NDArray[np.uint8], name: str) -> None:
    """Write a PNG beside this file.

    A palette keeps a PNG of this size small; dithering (which needs a palette that is given) hides that it is one.
    """
    coloured = Image.fromarray(picture)
    palette = coloured.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    coloured.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(Path(__file__).with_name(name), optimize=True)


if __name__ == "__main__":
    main()
