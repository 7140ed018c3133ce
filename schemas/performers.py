"""The table of truth that lies beside a rendered clip."""

from __future__ import annotations

import pyarrow as pa

from schemas.tables import LANDMARK_VALUES, TableSchema, column, numbers

HEAD_EXPRESSIONS = 57
"""Expression directions of the head model; their names are in the clip's ``performer.json``."""

PERFORMANCE = TableSchema(
    "performance",
    1,
    (
        column("frame", pa.int32()),
        column("seconds", pa.float64()),
        column("pose", numbers(3)),  # yaw, pitch, roll of the head, degrees
        column("rotation", numbers(9)),  # the same as a matrix, row major, model axes to camera axes
        column("shift", numbers(3)),  # of the head, centimetres
        column("sway", numbers(3)),  # of the whole body, centimetres
        column("drift", numbers(2)),  # of the camera to the right and up, centimetres
        column("expression", numbers(HEAD_EXPRESSIONS)),  # weights 0..1
        column("landmarks", numbers(LANDMARK_VALUES)),  # MediaPipe's order; pixels, z too, negative towards the viewer
        column("points68", numbers(204)),  # Multi-PIE, likewise
        column("shoulders", numbers(4)),  # joints of the person's left and right shoulder, pixels
        column("hand", pa.bool_()),  # whether a hand is raised before the person
    ),
)
"""One row per frame, frame pixels (``schemas.tables``)."""
