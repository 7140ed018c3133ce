"""The source's side of a job: the frame that ``retarget`` chose, and the head cut out of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.problems import SubjectError
from schemas.tables import LANDMARKS
from stages.contract import Work
from stages.face3d.fitting import euler_angles
from stages.matte import foreground_colours, head_matte, without_collar
from stages.renderer import Portrait
from stages.segmentation import HAIR
from stages.video.crops import extract_crop
from stages.video.decode import open_clip
from stages.warp.geometry import Pose
from storage.tables import array

UPRIGHT = 60.0
"""Degrees by which the source's face may be tilted in its picture."""

ROUNDING = 0.22
"""How far hair that the picture cuts off is rounded at the ends of the cut, share of half the cut's width."""

CROWN = 0.3
"""Height of the dome that goes on above such a cut, share of half the cut's width."""

UNCERTAIN = 0.02
"""Height of the strip below the picture's border in which opacity is not certain, share of the crop's side."""


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
    _refuse_turned(work.media["source"].name, float(euler_angles(pose.rotation)[2]))
    colours, matte, labels = cut_out(picture, labels, landmarks, crop)
    return Portrait(picture, colours, matte, labels, landmarks, pose)


def _refuse_turned(name: str, roll: float) -> None:
    """Everything that is known of a head's outline takes its crown to be up: of one that is not, the crop cuts off a part.

    Args:
        name: of the source's file.
        roll: degrees, anticlockwise in the picture.
    """
    if abs(roll) <= UPRIGHT:
        return
    # No angle and no direction: of faces that lie, the mesh's own are not to be relied on.
    how = "stands on its head" if abs(roll) > 135 else "lies on its side"
    raise SubjectError(
        "portrait_turned", f"The face in {name} {how}.", "Turn the source upright, save it, and give what was saved in its place."
    )


def cut_out(
    picture: NDArray[np.uint8], labels: NDArray[np.uint8], landmarks: NDArray[np.floating], crop: NDArray[np.floating]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """A head without what is around it: the one way to a reference, at work and for data sets.

    Args:
        picture: uint8 RGB [size, size, 3], the crop. labels: uint8 [size, size], its label map.
        landmarks: float [478, 3], in pixels of the crop.
        crop: where it lies in the whole picture: centre x, centre y, side.

    Returns:
        Colours (uint8 RGB [size, size, 3]) and opacity (float32 [size, size]) of ``Portrait``, and the labels without a collar.
    """
    border = float((crop[2] / 2 - crop[1]) * labels.shape[0] / crop[2])
    labels = without_collar(picture, labels, landmarks)
    matte = head_matte(picture, labels, landmarks)
    return *with_crown(foreground_colours(picture, matte), matte, labels, border), labels


def with_crown(
    colours: NDArray[np.uint8], matte: NDArray[np.float32], labels: NDArray[np.uint8], border: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A head whose top the picture's border cuts off, rounded: hair goes on above the border as a flat dome where there is room.

    Args:
        colours: uint8 RGB [size, size, 3].
        matte: float32 [size, size].
        labels: uint8 [size, size]; hair is cut off where its label reaches the border.
        border: row of the crop at which the picture begins; negative where the picture goes on above the crop.

    Returns:
        The same, with hair mirrored at the border under the dome, and rounded off (``rounded_top``) below it where there is none.
    """
    size = matte.shape[0]
    row = int(np.ceil(max(border, 0.0) + 0.5))
    # Next to the border opacity is not certain: what is mirrored begins a little below.
    first = row + round(UNCERTAIN * size)
    cut = (labels[row : row + 4] == HAIR).any(0) & (matte[min(first, size - 1)] > 0.5)
    columns = np.flatnonzero(cut)
    if border < 0 or len(columns) < 0.03 * size:
        return colours, matte * rounded_top(matte, border)
    middle, half = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0] + 1) / 2
    height = min(CROWN * half, row - 0.02 * size)
    if height < 0.02 * size:
        return colours, matte * rounded_top(matte, border)
    colours, matte = colours.copy(), matte.copy()
    rows = np.arange(first)
    mirrored = np.minimum(2 * first - 1 - rows, size - 1)
    across = (np.arange(size, dtype=np.float32) - middle) / half
    # The dome leans on the hair's own sides, so that there is no corner where they meet.
    top = first - height * np.sqrt(np.clip(1 - across**2, 0, 1))
    dome = np.clip((rows[:, None] - top[None]) / (0.012 * size), 0, 1) * (np.abs(across) < 1)
    colours[:first] = colours[mirrored]
    matte[:first] = matte[mirrored] * dome
    return colours, matte


def rounded_top(matte: NDArray[np.float32], border: float) -> NDArray[np.float32]:
    """Opacity that rounds hair off where the upper border cuts it, float32 [size, size]; one where nothing is cut.

    Args:
        matte: float32 [size, size].
        border: row of the crop at which the picture begins; negative where the picture goes on above the crop.
    """
    size = matte.shape[0]
    row = int(np.ceil(max(border, 0.0) + 0.5))
    columns = np.flatnonzero(matte[min(row + 1, size - 1)] > 0.5)
    if len(columns) < 0.03 * size:
        return np.ones_like(matte)
    middle, half = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0] + 1) / 2
    across = np.clip((np.arange(size, dtype=np.float32) - middle) / half, -1, 1)
    depth = np.arange(size, dtype=np.float32)[:, None] - row - ROUNDING * half * across**2
    return np.asarray(np.clip(depth / (0.012 * size), 0, 1), np.float32)
