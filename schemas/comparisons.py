"""Tables that comparisons on performers write: one row per frame, or per person, beside the summary as JSON and Markdown."""

from __future__ import annotations

import pyarrow as pa

from schemas.tables import TableSchema, column

MASK_MEASURES = (
    *(
        f"{measure}_{region}"
        for region in ("hair", "face", "head", "neck", "cloth", "hand", "person")
        for measure in ("iou", "boundary")
    ),
    "cloth_as_hair",
    "hair_as_cloth",
)
PLATE_MEASURES = ("plate_hole", "plate_psnr", "plate_rim", "plate_around", "plate_flicker")

# One row per frame. iou_*: overlap with the truth; boundary_*: pixels of the crop; plate_*: 0..255, see docs/masks.md.
MASK_COMPARISON = TableSchema(
    "mask_comparison",
    1,
    (
        column("clip", pa.int32()),
        column("frame", pa.int32()),
        column("hair_model", pa.string()),  # colour or network
        column("detected", pa.bool_()),
        *(column(name, pa.float32()) for name in (*MASK_MEASURES, *PLATE_MEASURES)),
    ),
)

RETARGETING_ERRORS = ("all", "eyes", "brows", "mouth", "expression")
RETARGETING_COUNTS = ("eyes_closed", "eyes_open", "mouth_closed", "mouth_open")

RETARGETING_COMPARISON = TableSchema(
    "retargeting_comparison",
    1,
    (
        column("pair", pa.int32()),
        column("landmarks", pa.string()),  # detected, exact, alike
        column("method", pa.string()),
        column("smile", pa.float32()),  # of the source's portrait, weight 0..1
        column("eye_ratio", pa.float32()),  # source's size over the driver's, at rest, true
        column("mouth_ratio", pa.float32()),
        *(column(name, pa.float32()) for name in RETARGETING_ERRORS),  # % of the inter-ocular distance; of weights 0..1
        *(column(f"{name}_{what}", pa.int32()) for name in RETARGETING_COUNTS for what in ("cases", "held")),
    ),
)
"""One row per pair, kind of landmarks and method; errors are means over the pair's frames."""
