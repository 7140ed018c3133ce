"""The source's side of a job: the frame that ``retarget`` chose, and the head cut out of it."""

from __future__ import annotations

import numpy as np

from schemas.tables import LANDMARKS
from stages.contract import Work
from stages.matte import foreground_colours, head_matte
from stages.renderer import Portrait
from stages.video.crops import extract_crop
from stages.video.decode import open_clip
from stages.warp.geometry import Pose
from storage.tables import array


def read_portrait(work: Work) -> Portrait:
    """The source's head, from the frame and crop of the table ``neutral``."""
    table = work.inputs.table("retarget", "neutral", "job")
    frame = int(array(table, "frame")[0])
    crop = array(table, "crop")[0].astype(np.float64)
    readers = [artifact.pictures("labels") for artifact in work.inputs.all("masks", "source")]
    labels = next(reader.read(frame) for reader in readers if frame in reader)
    with open_clip(work.media["source"]) as clip:
        picture = extract_crop(clip.read(frame), crop, labels.shape[0])
    landmarks = array(table, "landmarks")[0].reshape(LANDMARKS, 3).astype(np.float64)
    pose = Pose(
        array(table, "rotation")[0].reshape(3, 3).astype(np.float64),
        array(table, "translation")[0].astype(np.float64),
        float(array(table, "scale")[0]),
    )
    matte = head_matte(picture, labels, landmarks)
    return Portrait(picture, foreground_colours(picture, matte), matte, labels, landmarks, pose)
