"""How fast the face model is fitted: frames a second of one core."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.document import table
from stages.face3d.fitting import Poses, fit_frames, fit_identity, rotation_from_euler
from stages.face3d.model import FaceModel

FRAMES = 4096
REPEATS = 5


def made_up(model: FaceModel, frames: int, outliers: float) -> np.ndarray:
    """Landmarks ``[frames, 478, 3]`` of one person in changing pose and expression, trembling like MediaPipe's."""
    rng = np.random.default_rng(0)
    expression = np.clip(rng.normal(size=(frames, len(model.names))) * 0.4 - 0.4, 0, 1)
    poses = Poses(
        rotation_from_euler(rng.uniform(-1, 1, (frames, 3)) * (35, 20, 15)),
        rng.uniform(100, 400, (frames, 3)),
        rng.uniform(60, 150, frames),
    )
    landmarks = poses.project(model.shape(rng.normal(size=len(model.identity)), expression))
    landmarks += rng.normal(size=landmarks.shape) * 0.003 * poses.scale[:, None, None]
    wrong = rng.random(landmarks.shape[:2]) < outliers
    landmarks[wrong] += rng.normal(size=(int(wrong.sum()), 3)) * 0.4 * poses.scale.mean()
    return landmarks


def fitting() -> str:
    """Best of a few runs, in processor time of all threads: what other work on the machine does is left out."""
    model = FaceModel.builtin()
    rows = []
    for told, outliers in (("clean", 0.0), ("one landmark in ten wrong", 0.1)):
        landmarks = made_up(model, FRAMES, outliers)
        identity = fit_identity(landmarks[:64], model)
        seconds = []
        for _ in range(REPEATS):
            began = time.process_time()
            fit_frames(landmarks, model, identity)
            seconds.append(time.process_time() - began)
        rows.append([told, f"{FRAMES / min(seconds):.0f}"])
    return (
        "## Fitting the face model: poses, expression weights and turned heads from landmarks\n\n"
        + table(["landmarks", "frames a second of one core"], rows)
        + "\n\nGoal: 2,000. Made-up landmarks that tremble by 0.3 % of the inter-ocular distance; the identity is known."
    )
