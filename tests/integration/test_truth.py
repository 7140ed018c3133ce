"""What the demo makes of a rendered pair against the true head swap, which the same renderer gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from stages.video.decode import open_clip
from tests.media import write_video

FIRST, FRAMES = 20, 10
CHANGED = 16
"""A pixel belongs to what a swap must change where target and truth differ by more than this in any colour."""


def frames_of(path: Path, which: range) -> np.ndarray:
    """uint8 [frames, height, width, 3]."""
    with open_clip(path) as clip:
        return np.stack([picture.copy() for _, picture in clip.iterate(which)])


def psnr(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Peak signal to noise ratio in decibels of the chosen pixels, bool [height, width]."""
    difference = (one.astype(np.float64) - other)[where]
    return float(10 * np.log10(255**2 / (difference**2).mean()))


def test_the_swapped_head_is_nearer_to_the_true_swap_than_the_targets_was(examples: Path, tmp_path: Path) -> None:
    which = range(FIRST, FIRST + FRAMES)
    target, truth = frames_of(examples / "clip_smile.mp4", which), frames_of(examples / "truth" / "ben-smiles.mp4", which)
    short = write_video(tmp_path / "target.mp4", list(target), fps=30, options={"crf": "8"})
    out = tmp_path / "swapped.mp4"
    command = [sys.executable, "-m", "cli", "swap", str(examples / "portrait_ben.png"), str(short), "-o", str(out)]
    command += ["--rights", "synthetic", "--renderer", "warp", "--store", str(tmp_path / "store"), "--workers", "1"]
    subprocess.run([*command, "--engine", "direct"], cwd=examples.parent, check=True, capture_output=True)
    result = frames_of(out, range(FRAMES))
    for before, after, true in zip(target, result, truth, strict=True):
        changed = np.abs(before.astype(int) - true).max(2) > CHANGED
        assert 0.05 < changed.mean() < 0.4
        assert psnr(after, true, changed) > psnr(before, true, changed) + 1.5
        # Beside the heads everybody agrees.
        assert psnr(after, true, ~changed) > 30
