"""Fits the face model to the subject: one identity for the clip, pose and expression for every frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from schemas.parameters import FitParameters
from schemas.tables import fit_table, identity_table
from stages.contract import Input, Scope, Stage, Work
from stages.face3d.fitting import Poses, euler_angles, fit_frames, fit_identity
from stages.face3d.model import FaceModel, builtin_digest
from stages.face3d.smoothing import EXPRESSION_TREMOR, margin, runs_of, smooth_poses, smooth_rotations, steady
from storage.artifacts import Artifact
from storage.tables import array

_ROWS = 512
_MODEL = FaceModel.builtin()


class Fit3dmm(Stage):
    """Identity from frames spread over the clip, then every frame in batches."""

    name = "fit3dmm"
    version = 4
    scope = Scope.CLIP
    parameters = FitParameters
    inputs = (Input("track"),)
    tables = (identity_table(len(_MODEL.identity)), fit_table(len(_MODEL.names)))
    data: ClassVar = {"face_model": builtin_digest()}

    def run(self, work: Work) -> None:
        parameters = work.parameters
        assert isinstance(parameters, FitParameters)
        track = work.inputs.one("track")
        seen = array(track.table("subject", columns=["frame", "detected", "interpolated"]), "detected")
        samples = identity_samples(track, parameters.identity_frames)
        first = fit_frames(samples, _MODEL, np.zeros(len(_MODEL.identity)))
        identity = fit_identity(samples, _MODEL, frontal_weights(first.poses))
        work.output.write_table(self.tables[0], {"coefficients": identity[None], "frames_used": np.array([len(samples)])})
        residuals: list[NDArray[np.float64]] = []
        with work.output.table_writer(self.tables[1]) as writer:
            for columns in _fitted(track, identity, parameters.smoothing_frames):
                writer.write(columns)
                residuals.append(columns["residual"][columns["detected"]])
                work.progress(len(columns["frame"]))
        residual = np.concatenate(residuals)
        work.output.facts.update(
            {
                "frames": len(seen),
                "frames_fitted": int(seen.sum()),
                "residual_median": round(float(np.median(residual)), 5),
                "residual_95": round(float(np.quantile(residual, 0.95)), 5),
                "expressions": list(_MODEL.names),
            }
        )


def frontal_weights(poses: Poses) -> NDArray[np.float64]:
    """Trust in each frame for the identity, ``[n]``: a head seen from the side hides half of its shape."""
    yaw, pitch, _ = np.radians(euler_angles(poses.rotation)).T
    return np.asarray(np.maximum(np.cos(yaw) * np.cos(pitch), 0.05) ** 4)


def identity_samples(track: Artifact, count: int) -> NDArray[np.float64]:
    """Landmarks ``[at most count, 478, 3]`` of detected frames, evenly spread over the clip; bridged frames are left out."""
    flags = track.table("subject", columns=["frame", "detected", "interpolated"])
    usable = np.flatnonzero(array(flags, "detected") & ~array(flags, "interpolated"))
    wanted = set(usable[np.unique(np.linspace(0, len(usable) - 1, count).round().astype(int))].tolist())
    found = []
    for batch in track.batches("subject", columns=["frame", "landmarks"], rows=_ROWS):
        rows = [row for row, frame in enumerate(array(batch, "frame")) if int(frame) in wanted]
        if rows:
            found.append(array(batch, "landmarks")[rows].reshape(-1, 478, 3).astype(np.float64))
    return np.concatenate(found)


def _fitted(track: Artifact, identity: NDArray[np.float64], smoothing: float) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Columns of the fit table in batches. Smoothing needs neighbours: each batch is fitted with a margin of them."""
    flags = track.table("subject", columns=["frame", "shot"])
    shots = array(flags, "shot")
    around = margin(smoothing)
    for start in range(0, len(shots), _ROWS):
        stop = min(start + _ROWS, len(shots))
        low, high = max(start - around, 0), min(stop + around, len(shots))
        table = track.table("subject", columns=["frame", "detected", "landmarks"], frames=range(low, high))
        detected = array(table, "detected")
        landmarks = array(table, "landmarks").reshape(-1, 478, 3).astype(np.float64)
        fit = fit_frames(landmarks[detected], _MODEL, identity)
        poses, expression, held = fit.poses, fit.expression, fit.rotation
        if smoothing > 0:
            runs = runs_of(np.flatnonzero(detected), shots[low:high][detected])
            held = smooth_rotations(held, poses.scale, runs, smoothing)
            poses = smooth_poses(poses, runs, smoothing)
            expression = np.clip(steady(expression, runs, smoothing, EXPRESSION_TREMOR), 0, 1)
        inner = slice(start - low, stop - low)
        columns: dict[str, NDArray[np.generic]] = {
            "frame": np.arange(low, high, dtype=np.int32),
            "detected": detected,
            "expression": _spread(expression, detected),
            "rotation": _spread(poses.rotation.reshape(-1, 9), detected),
            "translation": _spread(poses.translation, detected),
            "scale": _spread(poses.scale, detected),
            "head_rotation": _spread(held.reshape(-1, 9), detected),
            "residual": _spread(fit.residual, detected),
        }
        yield {name: values[inner] for name, values in columns.items()}


def _spread(values: NDArray[np.float64], detected: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rows of detected frames among NaN for the others."""
    every = np.full((len(detected), *values.shape[1:]), np.nan, np.float32)
    every[detected] = values
    return every
