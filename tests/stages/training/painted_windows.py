"""Windows and frames of a painted person, for tests of training data."""

from __future__ import annotations

import numpy as np

from stages import segmentation as parts
from stages.training.augmentation import Window
from stages.training.shard_format import FrameRecord
from tests.stages.painting import paint_person, textured

SIZE = 128


def painted_window(frames: int = 2, *, long_hair: bool = False, size: int = SIZE) -> Window:
    """A person who moves to the right by two pixels a frame before a textured wall that is known exactly."""
    background = textured(size, size, seed=3)
    pictures, labels, landmarks, shoulders = [], [], [], []
    for frame in range(frames):
        centre = (0.48 * size + 2 * frame, 0.4 * size)
        picture, label, points = paint_person(background, centre, 0.34 * size, long_hair, seed=frame)
        pictures.append(picture)
        labels.append(label)
        landmarks.append(points)
        shoulders.append([[centre[0] + 0.3 * size, 0.8 * size, 1], [centre[0] - 0.3 * size, 0.8 * size, 1]])
    stacked = np.stack(labels)
    return Window(
        pictures=np.stack(pictures),
        backgrounds=np.stack([background] * frames),
        labels=stacked,
        opacity=np.where(stacked != parts.BACKGROUND, 255, 0).astype(np.uint8),
        landmarks=np.stack(landmarks).astype(np.float32),
        shoulders=np.asarray(shoulders, np.float32),
        person="painted",
        frame_numbers=tuple(range(frames)),
    )


def painted_records(frames: int, *, clip: str = "a", person: str = "p", segment: int = 0, number: int = 0) -> list[FrameRecord]:
    """Frames as a data set holds them, with a reference in every fourth; the second shoulder was not seen."""
    window = painted_window(frames)
    records = []
    for k in range(frames):
        shoulders = window.shoulders[k].copy()
        shoulders[1] = np.nan
        records.append(
            FrameRecord(
                key=f"{number:05d}-{k:06d}",
                clip=clip,
                person=person,
                rights="Freigabe № 7, „synthetic“",
                frame=k,
                segment=segment,
                picture=window.pictures[k],
                background=window.backgrounds[k],
                labels=window.labels[k],
                landmarks=window.landmarks[k],
                shoulders=shoulders,
                reference=window.pictures[k][::-1].copy() if k % 4 == 0 else None,
            )
        )
    return records
