"""The target's side of one chunk: crops, backgrounds, labels and aligned landmarks, read frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial

import numpy as np
from numpy.typing import NDArray

from schemas.tables import LANDMARKS
from stages.blocks import dilate
from stages.contract import Chunk, Work
from stages.light import Light, light_behind
from stages.plates import background_crop
from stages.renderer import Generated, Scene, Section
from stages.segmentation import BACKGROUND
from stages.video.crops import extract_crop, to_crop
from stages.video.decode import open_clip
from stages.warp.geometry import Pose
from storage.artifacts import PictureReader
from storage.tables import array

COARSE = 4
"""The light of a frame is told at a quarter of the crop's size."""

OPEN_MARGIN = 0.04
"""What lies nearer to the person than this share of the crop's side does not tell the light of a frame: hair ends softly."""


@dataclass(frozen=True)
class LitScene(Scene):
    """A frame of a fade or a flash, as the rest of its shot would show it.

    Attributes:
        light: of the frame.
        own: the frame as it is.
    """

    light: Light = field(default_factory=Light)
    own: Scene | None = None

    def in_its_light(self, result: Generated) -> tuple[Scene, Generated]:
        """The frame as it is, and what was generated in the frame's own light."""
        assert self.own is not None
        same = (result.picture == self.picture).all(axis=2, keepdims=True)
        picture = np.where(same, self.own.picture, self.light.shown(result.picture))
        return self.own, Generated(result.frame, np.asarray(picture, np.uint8), result.head)


class Target:
    """The frames of one chunk, and of its shot around it, from the artifacts of ``track``, ``masks``, ``inpaint``, ``retarget``.

    Args:
        work: of a job's stage.
        chunk: the stage's.
        margin: frames before and after the chunk whose scenes can be asked for.

    Attributes:
        chunk: the same.
        size: side of the crop.
    """

    def __init__(self, work: Work, chunk: Chunk, margin: int = 0) -> None:
        inputs = work.inputs
        self.chunk = chunk
        self._media = work.media["target"]
        self._runs = _generated_runs(work, chunk.shot)
        shot = _shot(work, chunk.shot)
        self._around = range(max(shot.start, chunk.start - margin), min(shot.stop, chunk.stop + margin))
        columns = ["frame", "crop", "landmarks", "shoulders"]
        subject = inputs.table("track", "subject", "target", columns=columns, frames=self._around)
        frames = array(subject, "frame")
        self._crops = array(subject, "crop").astype(np.float64)
        self._landmarks = array(subject, "landmarks").reshape(-1, LANDMARKS, 3)
        self._shoulders = array(subject, "shoulders").reshape(-1, 2, 3).astype(np.float64)
        columns = ["frame", "landmarks", "rotation", "translation", "scale"]
        aligned = inputs.table("retarget", "aligned", "job", columns=columns, frames=self._around)
        self._aligned = array(aligned, "landmarks").reshape(-1, LANDMARKS, 3)
        self._poses = [
            Pose(rotation.astype(np.float64).reshape(3, 3), translation.astype(np.float64), float(scale))
            for rotation, translation, scale in zip(
                array(aligned, "rotation"), array(aligned, "translation"), array(aligned, "scale"), strict=True
            )
        ]
        plates = inputs.table("inpaint", "plates", "target", columns=["frame", "plate", "transform"], frames=self._around)
        place = np.searchsorted(array(plates, "frame"), frames)
        self._plates, self._transforms = array(plates, "plate")[place], array(plates, "transform")[place].astype(np.float64)
        self._plate_pictures = inputs.one("inpaint", "target").pictures("plates")
        self._labels: list[PictureReader] = [artifact.pictures("labels") for artifact in inputs.all("masks", "target")]
        self.size = int(self._label_map(chunk.start).shape[0])

    def others(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Number and crop of the chunk's frames in which nothing is generated."""
        generated = {frame for run in self._runs for frame in run}
        frames = [frame for frame in self.chunk.frames if frame not in generated]
        if frames:
            with open_clip(self._media) as clip:
                for frame in frames:
                    yield frame, extract_crop(clip.read(frame), self._crops[frame - self._around.start], self.size)

    def sections(self) -> list[Section]:
        """The chunk's frames in which a head is to be generated, those that follow each other together."""
        found = []
        for run in self._runs:
            frames = range(max(run.start, self.chunk.start), min(run.stop, self.chunk.stop))
            if len(frames):
                found.append(Section(frames, run, partial(self._scenes)))
        return found

    def _scenes(self, frames: range) -> Iterator[Scene]:
        plate, held = np.empty(0, np.uint8), -1
        with open_clip(self._media) as clip:
            for frame in frames:
                row = frame - self._around.start
                crop = self._crops[row]
                if int(self._plates[row]) != held:
                    held = int(self._plates[row])
                    plate = self._plate_pictures.read(held)
                shoulders = self._shoulders[row].copy()
                shoulders[:, :2] = to_crop(shoulders[:, :2], crop, self.size)
                scene = Scene(
                    frame,
                    extract_crop(clip.read(frame), crop, self.size),
                    background_crop(plate, self._transforms[row], crop, self.size),
                    self._label_map(frame),
                    to_crop(self._landmarks[row], crop, self.size),
                    self._aligned[row].astype(np.float64),
                    self._poses[row],
                    shoulders,
                )
                yield _lit(scene, _inside(crop, self.size // COARSE, clip.width, clip.height))

    def _label_map(self, frame: int) -> NDArray[np.uint8]:
        return next(reader.read(frame) for reader in self._labels if frame in reader)


def _lit(scene: Scene, inside: NDArray[np.bool_]) -> Scene:
    """A scene as it is or, where its light is not that of the plate, as it would be in that light: a head is generated there as
    in the rest of the shot, and fades with what is behind it (:meth:`LitScene.in_its_light`).

    Args:
        inside: bool [size / 4, size / 4], of the picture.
    """
    step = scene.labels.shape[0] // inside.shape[0]
    person = np.ascontiguousarray(scene.labels[::step, ::step] != BACKGROUND)
    visible = inside & ~dilate(person, OPEN_MARGIN * len(inside))
    light = light_behind(scene.picture[::step, ::step], scene.background[::step, ::step], visible, person & inside)
    if light == Light():
        return scene
    values = {one.name: getattr(scene, one.name) for one in fields(scene)}
    values["picture"] = light.taken_from(scene.picture)
    return LitScene(**values, light=light, own=scene)


def _inside(crop: NDArray[np.floating], side: int, width: int, height: int) -> NDArray[np.bool_]:
    """Where a crop, seen at ``side`` pixels, shows the picture rather than its border repeated: bool [side, side]."""
    steps = ((np.arange(side) + 0.5) / side - 0.5) * float(crop[2])
    x, y = float(crop[0]) + steps, float(crop[1]) + steps
    return np.asarray(((y > 0) & (y < height))[:, None] & ((x > 0) & (x < width))[None, :])


def _shot(work: Work, shot: int) -> range:
    """All frames of a shot of the target."""
    subject = work.inputs.table("track", "subject", "target", columns=["frame", "shot"])
    frames = array(subject, "frame")[array(subject, "shot") == shot]
    return range(int(frames[0]), int(frames[-1]) + 1)


def _generated_runs(work: Work, shot: int) -> list[range]:
    """Frames of a shot in which a head is to be generated, as runs without a gap: the same for every chunk of the shot."""
    inside = _shot(work, shot)
    aligned = work.inputs.table("retarget", "aligned", "job", columns=["frame", "generated"], frames=inside)
    frames = array(aligned, "frame")[array(aligned, "generated").astype(bool)]
    if not len(frames):
        return []
    pieces = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    return [range(int(piece[0]), int(piece[-1]) + 1) for piece in pieces]
