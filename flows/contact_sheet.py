"""Contact sheets: a few pictures of a clip side by side, with captions, as one PNG that a person can look through quickly.

All pictures are uint8 [height, width, 3] RGB; points are pixels of the picture, the centre of the first one at (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stages.face3d import topology
from storage.pictures import encode_png

Colour = tuple[int, int, int]

MAXIMUM_WIDTH = 2000
TILE_HEIGHT = 320
_GAP = 6
_CAPTION = 22
_TITLE = 34
_BACKGROUND = (24, 24, 28)
_TEXT = (230, 230, 230)

LEFT_COLOUR = (90, 200, 255)
"""Of the person's left side."""

RIGHT_COLOUR = (255, 170, 60)
MIDDLE_COLOUR = (150, 255, 130)
POINT_COLOUR = (235, 235, 235)

LABEL_COLOURS = np.array([(0, 0, 0), (200, 60, 200), (255, 190, 110), (240, 120, 60), (60, 130, 240), (80, 220, 120)], np.uint8)
"""Of the labels of ``schemas.tables.LABELS``; the background keeps the picture's own pixels."""


@dataclass(frozen=True)
class Tile:
    picture: np.ndarray
    caption: str


def evenly_spread(frames: int, count: int) -> list[int]:
    """At most ``count`` frame numbers from first to last, without repeats."""
    if frames <= 0:
        return []
    return sorted({round(position) for position in np.linspace(0, frames - 1, min(count, frames)).tolist()})


def contact_sheet(tiles: Sequence[Tile], title: str, legend: Sequence[tuple[str, Colour]] = ()) -> np.ndarray:
    """Lay tiles out in rows.

    Args:
        tiles: at least one; pictures of any size, scaled to one height.
        title: one line at the top.
        legend: words and their colours, after the title.

    Returns:
        uint8 [height, width, 3], at most ``MAXIMUM_WIDTH`` wide.
    """
    aspect = max(tile.picture.shape[1] / tile.picture.shape[0] for tile in tiles)
    width = min(round(TILE_HEIGHT * aspect), MAXIMUM_WIDTH - 2 * _GAP)
    height = max(1, min(TILE_HEIGHT, round(width / aspect)))
    columns = max(1, min(len(tiles), (MAXIMUM_WIDTH - _GAP) // (width + _GAP)))
    rows = -(-len(tiles) // columns)
    heading = f"{title}  "
    needed = _text_width(heading, 0.6) + sum(_text_width(word, 0.5) + 14 for word, _ in legend)
    total_width = min(MAXIMUM_WIDTH, max(columns * (width + _GAP) + _GAP, needed + 2 * _GAP))
    sheet = np.full((_TITLE + rows * (height + _CAPTION + _GAP) + _GAP, total_width, 3), _BACKGROUND, np.uint8)
    _write(sheet, heading, (_GAP, 23), 0.6)
    x = _GAP + _text_width(heading, 0.6)
    for word, colour in legend:
        _write(sheet, word, (x, 23), 0.5, colour)
        x += _text_width(word, 0.5) + 14
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = _GAP + column * (width + _GAP)
        top = _TITLE + row * (height + _CAPTION + _GAP)
        scale = min(width / tile.picture.shape[1], height / tile.picture.shape[0])
        size = (max(1, round(tile.picture.shape[1] * scale)), max(1, round(tile.picture.shape[0] * scale)))
        small = cv2.resize(tile.picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        caption = sheet[top : top + _CAPTION, left : left + width]
        _write(caption, tile.caption, (2, 16), 0.45)
        sheet[top + _CAPTION : top + _CAPTION + size[1], left : left + size[0]] = small
    return sheet


def save_sheet(sheet: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(sheet))
    return path


def draw_landmarks(picture: np.ndarray, landmarks: np.ndarray, *, points: bool = True, thickness: int = 1) -> None:
    """Draw one face into ``picture``: all points where there is room, and the lines of brows, eyes, irises, nose and lips.

    The person's left is blue, the right orange, what lies between green. A face with NaN is left out.

    Args:
        picture: changed in place.
        landmarks: float [478, 2 or 3], pixels of the picture.
    """
    if not np.isfinite(landmarks[:, :2]).all():
        return
    width = np.ptp(landmarks[:, 0])
    if points and width > 120 * thickness:  # on smaller faces they would hide everything
        for x, y in landmarks[:, :2]:
            cv2.circle(picture, _fixed(x, y), 10 * thickness, POINT_COLOUR, -1, cv2.LINE_AA, _SHIFT)
    for eye, colour in ((topology.LEFT_EYE, LEFT_COLOUR), (topology.RIGHT_EYE, RIGHT_COLOUR)):
        for indices, closed in (
            (eye.outline, True),
            (eye.iris_border, True),
            (eye.brow_upper, False),
            (eye.brow_lower, False),
        ):
            _line(picture, landmarks, indices, colour, closed, thickness)
    for indices, closed in (
        (topology.OUTER_LIPS, True),
        (topology.INNER_LIPS, True),
        (topology.NOSE_BRIDGE, False),
        (topology.NOSE_BASE, False),
    ):
        _line(picture, landmarks, indices, MIDDLE_COLOUR, closed, thickness)


def draw_box(picture: np.ndarray, box: np.ndarray, colour: Colour, thickness: int = 2) -> None:
    """A rectangle x0, y0, x1, y1 in pixels, in place; nothing for NaN."""
    if np.isfinite(box).all():
        cv2.rectangle(picture, _fixed(box[0], box[1]), _fixed(box[2], box[3]), colour, thickness, cv2.LINE_AA, _SHIFT)


def crop_box(crop: np.ndarray) -> np.ndarray:
    """Corners x0, y0, x1, y1 of a crop given as centre x, centre y, side."""
    half = crop[2] / 2
    return np.array([crop[0] - half, crop[1] - half, crop[0] + half, crop[1] + half])


def draw_shoulders(picture: np.ndarray, shoulders: np.ndarray) -> None:
    """Crosses at the person's left and right shoulder (x, y, visibility each), fainter where less visible; in place."""
    for (x, y, visibility), colour in zip(
        np.asarray(shoulders, np.float64).reshape(2, 3), (LEFT_COLOUR, RIGHT_COLOUR), strict=True
    ):
        if np.isfinite((x, y, visibility)).all():
            faded = tuple(int(value * max(0.3, min(1.0, visibility))) for value in colour)
            centre = (int(np.clip(x, -1e4, 1e4)), int(np.clip(y, -1e4, 1e4)))
            cv2.drawMarker(picture, centre, faded, cv2.MARKER_TILTED_CROSS, max(12, picture.shape[0] // 25), 3)


def overlay_labels(picture: np.ndarray, labels: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """The picture with every label but the background in its colour. Both of the same size."""
    tinted = picture * (1 - opacity) + LABEL_COLOURS[np.minimum(labels, len(LABEL_COLOURS) - 1)] * opacity
    return np.where((labels == 0)[..., None], picture, np.rint(tinted).astype(np.uint8))


def overlay_grid(picture: np.ndarray, grid: np.ndarray, colour: Colour, *, fill: float = 0.45) -> None:
    """Tint the blocks of a square boolean grid that are set, and draw their borders; in place."""
    size = picture.shape[0]
    mask = cv2.resize(grid.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
    picture[mask] = np.rint(picture[mask] * (1 - fill) + np.array(colour) * fill).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, colour, 2)


_SHIFT = 4
"""OpenCV draws at sixteenths of a pixel, and counts from the centre of the first pixel."""


def _fixed(x: float, y: float) -> tuple[int, int]:
    limit = 1 << 24
    return tuple(int(np.clip(np.rint((value - 0.5) * (1 << _SHIFT)), -limit, limit)) for value in (x, y))  # type: ignore[return-value]


def _line(
    picture: np.ndarray, landmarks: np.ndarray, indices: Sequence[int], colour: Colour, closed: bool, thickness: int
) -> None:
    points = np.array([_fixed(x, y) for x, y in landmarks[list(indices), :2]], np.int32)
    cv2.polylines(picture, [points], closed, colour, thickness, cv2.LINE_AA, _SHIFT)


def _text_width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(_plain(text), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0])


def _write(picture: np.ndarray, text: str, at: tuple[int, int], scale: float, colour: Colour = _TEXT) -> None:
    # A slice of the sheet is not contiguous: OpenCV would draw into a copy.
    patch = np.ascontiguousarray(picture)
    cv2.putText(patch, _plain(text), at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    picture[...] = patch


def _plain(text: str) -> str:
    """OpenCV's font has ASCII only and prints a question mark for each byte of anything else."""
    return text.encode("ascii", "replace").decode()
