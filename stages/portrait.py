"""The source's side of a job: which of its frames shows the head best, and the head cut out of it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.problems import SubjectError
from schemas.tables import LANDMARKS
from stages.contract import Work
from stages.renderer import Portrait
from stages.segmentation import FACE, HAIR, NECK
from stages.video.crops import extract_crop, to_crop
from stages.video.decode import open_clip
from stages.warp import eyes, mouth, topology
from stages.warp.geometry import Pose
from storage.tables import array

_CANDIDATES = 400
"""Frames of a long source that are looked at."""


def portrait_costs(landmarks: NDArray[np.floating], rotations: NDArray[np.floating]) -> NDArray[np.float64]:
    """How badly frames serve as the source of a warp: turned away, eyes closed, mouth open.

    Args:
        landmarks: float [n, 478, 3].
        rotations: float [n, 3, 3], model axes to camera axes.

    Returns:
        float64 [n], in units of about a radian of turning.
    """
    turned = np.arccos(np.clip(np.asarray(rotations, np.float64)[:, 2, 2], -1, 1))
    rings = (topology.LEFT_EYE, topology.RIGHT_EYE)
    opened = np.array([min(eyes.openness(points[ring]) for ring in rings) for points in landmarks])
    spoken = np.array([mouth.openness(points[topology.INNER_LIPS]) for points in landmarks])
    return np.asarray(turned + 3.0 * np.maximum(0.25 - opened, 0) + 1.0 * np.minimum(spoken, 0.5))


def choose_frame(work: Work) -> int:
    """The source's frame that shows the head best; of equals the first.

    Raises:
        SubjectError: ``no_face`` where the source shows none.
    """
    subject = work.inputs.table("track", "subject", "source", columns=["frame", "detected", "interpolated"])
    usable = np.flatnonzero(array(subject, "detected").astype(bool) & ~array(subject, "interpolated").astype(bool))
    if not len(usable):
        name = work.media["source"].name
        raise SubjectError("no_face", f"{name} shows no face.", "Use a picture in which the face can be seen from the front.")
    rows = usable[np.unique(np.linspace(0, len(usable) - 1, _CANDIDATES).round().astype(int))]
    numbers = array(subject, "frame")[rows]
    costs = []
    for frame in numbers:
        only = range(int(frame), int(frame) + 1)
        landmarks = array(work.inputs.table("track", "subject", "source", columns=["landmarks"], frames=only), "landmarks")
        rotation = array(work.inputs.table("fit3dmm", "fit", "source", columns=["rotation"], frames=only), "rotation")
        costs.append(portrait_costs(landmarks.reshape(1, LANDMARKS, 3), rotation.reshape(1, 3, 3))[0])
    return int(numbers[int(np.argmin(costs))])


def read_portrait(work: Work, frame: int) -> tuple[Portrait, int]:
    """The source's head in one of its frames, and that frame's number."""
    only = range(frame, frame + 1)
    subject = work.inputs.table("track", "subject", "source", columns=["crop", "landmarks"], frames=only)
    fit = work.inputs.table("fit3dmm", "fit", "source", columns=["rotation", "translation", "scale"], frames=only)
    crop = array(subject, "crop")[0].astype(np.float64)
    labels = next(
        artifact.pictures("labels").read(frame)
        for artifact in work.inputs.all("masks", "source")
        if frame in artifact.pictures("labels")
    )
    size = labels.shape[0]
    with open_clip(work.media["source"]) as clip:
        picture = extract_crop(clip.read(frame), crop, size)
    pose = Pose(
        array(fit, "rotation")[0].reshape(3, 3).astype(np.float64),
        to_crop(array(fit, "translation")[0], crop, size),
        float(array(fit, "scale")[0]) * size / float(crop[2]),
    )
    landmarks = to_crop(array(subject, "landmarks")[0].reshape(LANDMARKS, 3), crop, size)
    return Portrait(picture, head_matte(picture, labels), labels, landmarks, pose), frame


def head_matte(picture: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Opacity of the head with hair, ears and neck, float32 [size, size]; the border follows the picture (He 2010)."""
    head = np.isin(labels, (HAIR, FACE, NECK)).astype(np.uint8)
    soft = cv2.ximgproc.guidedFilter(picture, head.astype(np.float32), 8, 12.0**2)
    near = cv2.dilate(head, np.ones((9, 9), np.uint8))
    return np.asarray(np.clip((soft - 0.1) / 0.85, 0, 1) * near, np.float32)
