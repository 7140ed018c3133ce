"""Who is who: how alike two faces are, by an identity network where one is registered, else by the shape of the face.

Without a network the identity coefficients of the face model are compared by their cosine. On thirds of four trial clips and
eight performances, thirds of one reach 0.72 and more, 95 % of different people stay below 0.49 (the highest of them 0.76): enough
to find the same person again after a cut, not to tell siblings apart.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.problems import ModelError
from stages.face3d.fitting import fit_identity
from stages.face3d.model import FaceModel
from stages.face3d.topology import LEFT_EYE, NOSE_TIP, OUTER_CORNERS, RIGHT_EYE

SAME_SHAPE = 0.7
"""Cosine of identity coefficients from which two faces are taken for the same person."""

SAME_EMBEDDING = 0.35
"""The same for embeddings of an ArcFace network."""

_SIDE = 112


class IdentityNetwork:
    """An ArcFace network as ONNX, run by InsightFace on one thread of the CPU.

    Args:
        path: of the network: pictures ``[N, 3, 112, 112]`` in, embeddings ``[N, d]`` out.

    Raises:
        ModelError: ``model_unsuitable`` for a network of another kind.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime
        from insightface.model_zoo import ArcFaceONNX, get_model

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        network = get_model(str(path), providers=["CPUExecutionProvider"], sess_options=options)
        if not isinstance(network, ArcFaceONNX) or network.input_size != (_SIDE, _SIDE):
            raise ModelError(
                "model_unsuitable",
                f"{path} is no network that takes pictures of shape [N, 3, 112, 112].",
                "Register an ArcFace recognition network under the name arcface.",
            )
        self._network = network

    def embed(self, rgb: NDArray[np.uint8], landmarks: ArrayLike) -> NDArray[np.float64]:
        """Unit length embedding of the face with these landmarks ``[478, 2 or 3]`` in the picture."""
        aligned = cv2.cvtColor(align_face(rgb, landmarks), cv2.COLOR_RGB2BGR)
        embedding = np.asarray(self._network.get_feat(aligned)[0], np.float64)
        return embedding / max(float(np.linalg.norm(embedding)), 1e-12)


def align_face(rgb: NDArray[np.uint8], landmarks: ArrayLike) -> NDArray[np.uint8]:
    """The face brought by a similarity to where ArcFace networks expect it, uint8 ``[112, 112, 3]``.

    Five points are aligned: eyes, nose tip, mouth corners. InsightFace counts pixels as OpenCV does, from the centre of the
    first one, landmarks here from its corner.
    """
    from insightface.utils import face_align

    points = np.asarray(landmarks, np.float64)[:, :2]
    eyes = [points[list(eye.corners)].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)]
    found = np.stack([*eyes, points[NOSE_TIP], points[OUTER_CORNERS[0]], points[OUTER_CORNERS[1]]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # InsightFace calls scikit-image by a name that is going out of use
        shrink = float(np.linalg.norm(face_align.estimate_norm(found)[:, 0]))
        if shrink < 0.5:  # averaging first: the network was not trained on aliased pictures
            small = np.asarray(cv2.resize(rgb, None, fx=2 * shrink, fy=2 * shrink, interpolation=cv2.INTER_AREA), np.uint8)
            found *= (small.shape[1] / rgb.shape[1], small.shape[0] / rgb.shape[0])
            rgb = small
        return np.asarray(face_align.norm_crop(rgb, found - 0.5, _SIDE), np.uint8)


def shape_descriptor(landmarks: ArrayLike) -> NDArray[np.float64]:
    """Unit length identity coefficients ``[K]`` fitted to one person's frames ``[n, 478, 3]``."""
    coefficients = fit_identity(landmarks, FaceModel.builtin())
    return coefficients / max(float(np.linalg.norm(coefficients)), 1e-12)
