"""Who is who: how alike two faces are, by an identity network where one is registered, else by the shape of the face.

Without a network the identity coefficients of the face model are compared by their cosine. On the trial clips (27 pairs of
pieces of one clip, 600 pairs of different people) pieces of one clip reach 0.67 and more, 95 % of different people stay below
0.61: enough to find the same person again after a cut, not to tell siblings apart.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from schemas.problems import ModelError
from stages.face3d.fitting import fit_identity
from stages.face3d.model import FaceModel
from stages.face3d.topology import LEFT_EYE, NOSE_TIP, OUTER_CORNERS, RIGHT_EYE

SAME_SHAPE = 0.6
"""Cosine of identity coefficients from which two faces are taken for the same person."""

SAME_EMBEDDING = 0.35
"""The same for embeddings of an ArcFace network."""

# The five points of aligned 112 x 112 pictures that ArcFace networks are trained on: eyes, nose tip, mouth corners.
_TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
_SIDE = 112


class IdentityNetwork:
    """An ArcFace network as ONNX: pictures ``[N, 3, 112, 112]`` in, embeddings ``[N, d]`` out. Runs on one thread of the CPU."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        if list(self._input.shape[1:]) != [3, _SIDE, _SIDE]:
            raise ModelError(
                "model_unsuitable",
                f"{path} takes pictures of shape {self._input.shape}, not [N, 3, 112, 112].",
                "Register an ArcFace recognition network under the name arcface.",
            )

    def embed(self, rgb: NDArray[np.uint8], landmarks: ArrayLike) -> NDArray[np.float64]:
        """Unit length embedding of the face with these landmarks ``[478, 2 or 3]`` in the picture."""
        aligned = align_face(rgb, landmarks).astype(np.float32)
        (answer,) = self._session.run(None, {self._input.name: ((aligned - 127.5) / 127.5).transpose(2, 0, 1)[None]})
        embedding = np.asarray(answer[0], np.float64)
        return embedding / max(float(np.linalg.norm(embedding)), 1e-12)


def align_face(rgb: NDArray[np.uint8], landmarks: ArrayLike) -> NDArray[np.uint8]:
    """The face brought by a similarity to where ArcFace networks expect it, uint8 ``[112, 112, 3]``."""
    points = np.asarray(landmarks, np.float64)[:, :2]
    eyes = [points[list(eye.corners)].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)]
    found = np.stack([*eyes, points[NOSE_TIP], points[OUTER_CORNERS[0]], points[OUTER_CORNERS[1]]])
    here, there = found - found.mean(0), _TEMPLATE - _TEMPLATE.mean(0)
    # Least squares similarity in the plane, as one complex number.
    turn = np.vdot(here @ (1, 1j), there @ (1, 1j)) / np.vdot(here @ (1, 1j), here @ (1, 1j))
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    matrix = np.column_stack([linear, _TEMPLATE.mean(0) - linear @ found.mean(0)])
    shrink = abs(turn)
    if shrink < 0.5:  # averaging first: the network was not trained on aliased pictures
        small = cv2.resize(rgb, None, fx=2 * shrink, fy=2 * shrink, interpolation=cv2.INTER_AREA)
        matrix[:, 0] *= rgb.shape[1] / small.shape[1]
        matrix[:, 1] *= rgb.shape[0] / small.shape[0]
        rgb = np.asarray(small, np.uint8)
    return np.asarray(cv2.warpAffine(rgb, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR), np.uint8)


def shape_descriptor(landmarks: ArrayLike) -> NDArray[np.float64]:
    """Unit length identity coefficients ``[K]`` fitted to one person's frames ``[n, 478, 3]``."""
    coefficients = fit_identity(landmarks, FaceModel.builtin())
    return coefficients / max(float(np.linalg.norm(coefficients)), 1e-12)
