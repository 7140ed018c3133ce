"""Stage ``masks``: per frame a label map of the subject's crop, and the block masks made from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import cv2
import numpy as np

from schemas.parameters import MaskParameters
from schemas.problems import ModelError
from schemas.tables import FOREGROUND_BLOCKS, HAIR_BLOCKS, LABELS, LANDMARKS, MASKS
from stages import blocks
from stages.contract import Input, Scope, Stage, Work
from stages.hands import POINTS, Awaiting, HandNetwork, find_hands, hand_mask
from stages.packages import MEDIAPIPE
from stages.segmentation import BACKGROUND, CLOTH, GRID, HAIR, HairNetwork, HeadParser, PersonNetwork, enlarge_labels, small_crop
from stages.video.crops import extract_crop, to_crop
from stages.video.decode import open_clip
from stages.video.view import crop_part
from stages.warm import borrowed
from storage.tables import array

FIT_FRAMES = 8
"""Frames on which the colour models of a chunk are fitted."""

FIT_SPAN = 240
"""They come from the first this many frames of the chunk, which are held in memory (0.3 MB each) until the fit."""


@dataclass
class _Frame:
    number: int
    detected: bool
    rgb: np.ndarray
    """uint8 [GRID, GRID, 3]."""
    landmarks: np.ndarray
    """float64 [478, 3], pixels of ``rgb``."""
    person: np.ndarray
    hair: np.ndarray | None
    hands: np.ndarray
    """float64 [hands, 21, 2], pixels of ``rgb``: hands at the head."""


def outside_picture(crop: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boolean [GRID, GRID]: where a crop (centre x, centre y, side) reaches beyond a frame of ``width`` x ``height``."""
    steps = ((np.arange(GRID) + 0.5) / GRID - 0.5) * float(crop[2])
    x, y = float(crop[0]) + steps, float(crop[1]) + steps
    return np.asarray(((y < 0) | (y > height))[:, None] | ((x < 0) | (x > width))[None, :])


def labels_without_face(person: np.ndarray, size: int) -> np.ndarray:
    """Label map of a frame in which no face was found: all of the person counts as cloth. uint8 [size, size]."""
    return enlarge_labels(np.where(person > 0.5, np.uint8(CLOTH), np.uint8(BACKGROUND)), size)


def mask_row(labels: np.ndarray, dilation: float) -> dict[str, np.ndarray]:
    """The block masks of a label map uint8 [size, size] and the share of the crop that each label covers."""
    return {
        "foreground": blocks.shape_agnostic_grid(labels != BACKGROUND, dilation, FOREGROUND_BLOCKS).ravel(),
        "hair": blocks.hair_grid(labels == HAIR, HAIR_BLOCKS).ravel(),
        "shares": np.array([cv2.countNonZero(cv2.compare(labels, label, cv2.CMP_EQ)) for label in range(len(LABELS))], np.float32)
        / np.float32(labels.size),
    }


def fit_parser(frames: list[_Frame]) -> HeadParser | None:
    """Colour models from up to FIT_FRAMES frames with a face, evenly spread; None where there is no face at all."""
    usable = [frame for frame in frames if frame.detected]
    if not usable:
        return None
    count = min(FIT_FRAMES, len(usable))
    chosen = [usable[k] for k in sorted({round(i) for i in np.linspace(0, len(usable) - 1, count)})]
    return HeadParser.fit(
        [frame.rgb for frame in chosen],
        [frame.landmarks for frame in chosen],
        [frame.person for frame in chosen],
        [frame.hair for frame in chosen],
    )


class MaskStage(Stage):
    """Label map (background, hair, face, neck, cloth, other) of every frame's crop."""

    name = "masks"
    version = 7
    scope = Scope.CLIP_CHUNK
    parameters = MaskParameters
    inputs = (Input("track"),)
    media = ("clip",)
    models = ("hair_segmentation",)
    tables = (MASKS,)
    data = MEDIAPIPE

    def run(self, work: Work) -> None:
        """Raises ``ModelError`` where the hair network is asked for by name and not registered."""
        parameters = work.parameters
        assert isinstance(parameters, MaskParameters)
        assert work.chunk is not None
        size = parameters.crop_size
        with ExitStack() as stack:
            labels_out = stack.enter_context(work.output.pictures("labels"))
            table = stack.enter_context(work.output.table_writer(MASKS))
            rows: dict[str, list[object]] = {column.name: [] for column in MASKS.columns}
            for item, parser in _with_parser(_frames(work, stack, _hair_network(work, parameters)), work.chunk.frames):
                labels = (
                    parser.labels(item.rgb, item.landmarks, item.person, item.hair, size, hand_mask(item.hands, GRID, GRID))
                    if parser is not None and item.detected
                    else labels_without_face(item.person, size)
                )
                labels_out.write(item.number, labels)
                row = {"frame": item.number, "detected": item.detected, **mask_row(labels, parameters.dilation)}
                for name, value in row.items():
                    rows[name].append(value)
                if len(rows["frame"]) == FIT_SPAN or item.number == work.chunk.stop - 1:
                    table.write({name: np.asarray(values) for name, values in rows.items()})
                    rows = {name: [] for name in rows}
                work.progress(1)
        work.output.facts["hair"] = "network" if _hair_path(work, parameters) else "colour"


def _with_parser(frames: Iterator[_Frame], numbers: range) -> Iterator[tuple[_Frame, HeadParser | None]]:
    """Hold frames back until the colour models are fitted, then hand them on one by one."""
    parser: HeadParser | None = None
    waiting: list[_Frame] = []
    for frame in frames:
        waiting.append(frame)
        if parser is None and len(waiting) < FIT_SPAN and frame.number != numbers[-1]:
            continue
        parser = parser or fit_parser(waiting)
        for item in waiting:
            yield item, parser
        waiting = []


def _hair_path(work: Work, parameters: MaskParameters) -> bool:
    return parameters.hair != "colour" and "hair_segmentation" in work.models


def _hair_network(work: Work, parameters: MaskParameters) -> HairNetwork | None:
    if parameters.hair == "network" and "hair_segmentation" not in work.models:
        raise ModelError(
            "model_missing",
            "stages.masks.hair is 'network', but the model hair_segmentation is not registered.",
            "Register it with `headswap models add hair_segmentation FILE`, or set stages.masks.hair to 'auto'.",
        )
    return HairNetwork(work.models["hair_segmentation"]) if _hair_path(work, parameters) else None


def _frames(work: Work, stack: ExitStack, hair: HairNetwork | None) -> Iterator[_Frame]:
    assert work.chunk is not None
    frames = work.chunk.frames
    subject = work.inputs.table("track", "subject", frames=frames, columns=["frame", "detected", "crop", "landmarks"])
    rows = {int(number): row for row, number in enumerate(array(subject, "frame"))}
    detected, crops = array(subject, "detected"), array(subject, "crop")
    landmarks = array(subject, "landmarks").reshape(-1, LANDMARKS, 3)
    person = stack.enter_context(borrowed(PersonNetwork, len(work.chunk.frames) == 1))
    clip = stack.enter_context(open_clip(work.media["clip"]))
    ready: deque[_Frame] = deque()

    def awaiting() -> Iterator[Awaiting]:
        for number, view in clip.iterate_views(frames):
            row = rows[number]
            points = to_crop(landmarks[row], crops[row], GRID)
            usable = bool(detected[row]) and bool(np.isfinite(points).all())
            part, there = crop_part(view, crops[row])
            rgb = small_crop(part, there)
            found = None
            if hair is not None and usable:
                found = hair(extract_crop(part, there, HairNetwork.SIDE))
            shown = person(rgb)
            shown[outside_picture(crops[row], view.width, view.height)] = -1
            ready.append(_Frame(number, usable, rgb, points, shown, found, np.zeros((0, POINTS, 2))))
            yield Awaiting(number, points if usable else None, crops[row], GRID, view)

    for hands in find_hands(awaiting(), stack.enter_context(borrowed(HandNetwork))):
        frame = ready.popleft()
        frame.hands = hands
        yield frame
