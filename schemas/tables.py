"""Arrow schemas, with versions, of every table that a stage writes.

Conventions shared by all of them:

* one row per frame unless said otherwise; a frame without a face has ``detected = false`` and NaN, never a null row;
* *frame pixels*: display orientation (rotation applied), x to the right, y down, the picture's top left corner is (0, 0)
  and the centre of its first pixel (0.5, 0.5); z in the same unit, negative towards the viewer (MediaPipe's sense);
* *crop pixels*: the same convention inside the subject's square crop, scaled to ``crop_size`` (512 by default);
* a rotation is a 3x3 matrix, row major, from model axes (x right, y up, z to the viewer) to the same axes of the camera.

Increase a table's version when its columns or their meaning change: the version is part of every key that depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

LANDMARKS = 478
"""MediaPipe's face mesh with irises."""

LANDMARK_VALUES = LANDMARKS * 3
FOREGROUND_BLOCKS = 16
"""The shape-agnostic mask's grid over the crop (paper's figures: 32 px blocks at 512)."""

HAIR_BLOCKS = 32
LABELS = ("background", "hair", "face", "neck", "cloth", "other")
"""Values 0..5 of a label map. ``face`` includes ears; ``other`` is what stands in front of the head (a hand, a microphone)."""


def numbers(count: int, kind: pa.DataType | None = None) -> pa.DataType:
    """Fixed size list of non-null numbers (float32 unless said otherwise)."""
    return pa.list_(pa.field("item", kind or pa.float32(), nullable=False), count)


def column(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


@dataclass(frozen=True)
class TableSchema:
    """A named, versioned Arrow schema. Its identity travels in the Parquet file's metadata."""

    name: str
    version: int
    columns: tuple[pa.Field, ...]

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema(self.columns, metadata={b"headswap.schema": self.identity.encode()})

    @property
    def identity(self) -> str:
        return f"{self.name}/{self.version}"


FRAMES = TableSchema(
    "frames",
    1,
    (
        column("frame", pa.int32()),
        column("pts", pa.int64()),  # in the stream's time base, as read from the file
        column("duration", pa.int64()),  # in the stream's time base; the last frame repeats the one before
        column("seconds", pa.float64()),  # from the first frame
        column("shot", pa.int32()),
    ),
)

CHUNKS = TableSchema(
    "chunks",
    1,
    (column("chunk", pa.int32()), column("shot", pa.int32()), column("start", pa.int32()), column("stop", pa.int32())),
)

# One row per frame and track; a frame in which nobody was found has one row with track = -1. Tracks are numbered inside
# their chunk; the track stage joins them. shoulders: person's left x, y, visibility; right x, y, visibility. Frame pixels.
LANDMARK_TABLE = TableSchema(
    "landmarks",
    1,
    (
        column("frame", pa.int32()),
        column("track", pa.int32()),
        column("detected", pa.bool_()),
        column("score", pa.float32()),
        column("box", numbers(4)),  # x0, y0, x1, y1 of the landmarks
        column("landmarks", numbers(LANDMARK_VALUES)),
        column("shoulders", numbers(6)),
    ),
)

# The subject, one row per frame of the clip. crop: centre x, centre y, side, in frame pixels; defined for every frame.
SUBJECT = TableSchema(
    "subject",
    1,
    (
        column("frame", pa.int32()),
        column("shot", pa.int32()),
        column("detected", pa.bool_()),
        column("interpolated", pa.bool_()),  # a loss of a few frames, bridged
        column("score", pa.float32()),
        column("crop", numbers(3)),
        column("landmarks", numbers(LANDMARK_VALUES)),
        column("shoulders", numbers(6)),
    ),
)


def identity_table(directions: int) -> TableSchema:
    """One row: the subject's identity coefficients (unit variance) and how many frames they were fitted on."""
    return TableSchema("identity", 1, (column("coefficients", numbers(directions)), column("frames_used", pa.int32())))


def fit_table(expressions: int) -> TableSchema:
    """The morphable model per frame: landmarks = scale * projection(rotation @ shape) + translation, in frame pixels.

    ``rotation`` is what explains the landmarks, ``head_rotation`` how the head is held: without the detector's measured errors.
    """
    return TableSchema(
        "fit",
        2,
        (
            column("frame", pa.int32()),
            column("detected", pa.bool_()),
            column("expression", numbers(expressions)),
            column("rotation", numbers(9)),
            column("translation", numbers(3)),
            column("scale", pa.float32()),
            column("head_rotation", numbers(9)),
            column("residual", pa.float32()),  # root mean square, as a fraction of the inter-ocular distance
        ),
    )


# Beside the label maps (PNG, crop pixels). Grids are row major, anchored at the crop's corner.
MASKS = TableSchema(
    "masks",
    1,
    (
        column("frame", pa.int32()),
        column("detected", pa.bool_()),
        column("foreground", numbers(FOREGROUND_BLOCKS**2, pa.bool_())),
        column("hair", numbers(HAIR_BLOCKS**2, pa.bool_())),
        column("shares", numbers(len(LABELS))),  # share of the crop that each label covers
    ),
)

# Where each frame finds its background. transform: 2x3, row major, frame pixels -> pixels of plate number ``plate``.
PLATES = TableSchema(
    "plates",
    1,
    (
        column("frame", pa.int32()),
        column("plate", pa.int32()),
        column("transform", numbers(6)),
        column("seen", pa.float32()),  # share of this frame's hidden pixels that other frames show
        column("difference", pa.float32()),  # mean absolute difference to the frame where both are visible, 0..255
    ),
)


def aligned_table(expressions: int) -> TableSchema:
    """Retargeted landmarks in crop pixels, with the pose and expression (after edits) that they show."""
    return TableSchema(
        "aligned",
        1,
        (
            column("frame", pa.int32()),
            column("generated", pa.bool_()),
            column("landmarks", numbers(LANDMARK_VALUES)),
            column("expression", numbers(expressions)),
            column("rotation", numbers(9)),
            column("translation", numbers(3)),  # crop pixels
            column("scale", pa.float32()),  # crop pixels per model unit
        ),
    )


def neutral_table(expressions: int) -> TableSchema:
    """One row: the source's face as detected in its best frame, and at rest. Crop pixels are those of the source's own crop."""
    return TableSchema(
        "neutral",
        1,
        (
            column("frame", pa.int32()),  # of the source
            column("crop", numbers(3)),  # centre x, centre y, side, source frame pixels
            column("landmarks", numbers(LANDMARK_VALUES)),  # as detected, crop pixels
            column("neutral", numbers(LANDMARK_VALUES)),  # without the expression, in the source's own pose, crop pixels
            column("expression", numbers(expressions)),
            column("rotation", numbers(9)),
            column("translation", numbers(3)),  # crop pixels
            column("scale", pa.float32()),  # crop pixels per model unit
        ),
    )


# Beside the generated crops (PNG). region: the blocks that may replace the target's pixels. Statistics: mean L, a, b and
# standard deviation L, a, b of the ring just outside the region, in the target and in the generated crop.
RENDERED = TableSchema(
    "rendered",
    1,
    (
        column("frame", pa.int32()),
        column("generated", pa.bool_()),
        column("region", numbers(FOREGROUND_BLOCKS**2, pa.bool_())),
        column("target_statistics", numbers(6)),
        column("generated_statistics", numbers(6)),
    ),
)

MEASURES = TableSchema(
    "measures",
    2,
    (
        column("frame", pa.int32()),
        column("seconds", pa.float64()),
        column("generated", pa.bool_()),
        column("pose_error", pa.float32()),  # geodesic degrees, result against target
        column("yaw_pitch_roll_error", pa.float32()),  # mean absolute degrees, as in the paper's table
        column("expression_error", pa.float32()),  # mean absolute difference of coefficients, result against aligned
        column("landmark_error", pa.float32()),  # result against aligned, share of the inter-ocular distance
        column("position_error", pa.float32()),  # head centre, share of the inter-ocular distance
        column("jitter", pa.float32()),  # acceleration of landmarks beyond the target's own, share of inter-ocular distance
        column("flicker", pa.float32()),  # change in the region between frames beyond the target's own, 0..255
        column("seam", pa.float32()),  # colour step across the region's border beyond the target's own, 0..255
        column("softness", pa.float32()),  # detail of the face that source and target have and the result lacks, share of it
        column("outside_difference", pa.float32()),  # mean absolute, delivered against target outside the region, 0..255
        column("identity", pa.float32()),  # cosine to the source; NaN without an identity network
        column("flags", pa.string()),  # comma separated reasons, empty when there is nothing to look at
    ),
)
