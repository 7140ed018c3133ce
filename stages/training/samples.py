"""What the network is trained on: windows of one person with everything the network reads and should draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["FACE_POINTS", "SampleSource", "TrainingSample"]

Pixels = npt.NDArray[np.uint8]

FACE_POINTS = ("right eye", "left eye", "nose", "right mouth corner", "left mouth corner")
"""The five points by which identity networks align a face, in the order of ``TrainingSample.face_points``. Right and left are the
person's; in the picture of a face that looks at the camera the right eye is on the left."""


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """A window of consecutive frames of one person, cropped as the pipeline crops, and the conditions that go with it.

    Attributes:
        reference: uint8 [size, size, 3], RGB: the head alone (hair, ears, a little neck) on white, from another random frame of
            the clip, or from another clip of the same person.
        target: uint8 [frames, size, size, 3]: what is to be generated: the foreground, scaled, on the inpainted background.
        drawing: uint8 [frames, size, size, 3]: drawn landmarks, exactly as at inference (``stages.face3d.drawing``).
        background: uint8 [frames, size, size, 3]: the condition image: the whole person removed, with the surviving piece of
            cloth, scaled by the target's factor (``stages.condition_image``).
        head: bool [frames, size, size]: the head (hair and face) in the target.
        face_points: float32 [frames, 5, 2], x and y in pixels of the crop; see ``FACE_POINTS``.
        person: who it is; samples of one person have the same name.
        frame_numbers: [frames], numbers in the clip, in order.
    """

    reference: Pixels
    target: Pixels
    drawing: Pixels
    background: Pixels
    head: npt.NDArray[np.bool_]
    face_points: npt.NDArray[np.float32]
    person: str
    frame_numbers: tuple[int, ...]


class SampleSource(Protocol):
    """An endless, numbered supply of training samples."""

    def sample(self, number: int, frames: int) -> TrainingSample:
        """The sample with this number as a window of ``frames`` frames: a pure function of the source's seed and both
        arguments, the same in every process."""
        ...
