"""Stage ``render``: generates the crops of one chunk, with the source's head in place of the target's.

What is common to all renderers lives here: reading both sides, the region that may change, the statistics around it. The picture
itself is a renderer's business (``stages.renderer``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.parameters import RenderParameters
from schemas.problems import ModelError
from schemas.tables import FOREGROUND_BLOCKS, LANDMARKS, RENDERED
from stages.blocks import block_grid, dilate, expand_grid
from stages.contract import Chunk, Input, Scope, Stage, Work
from stages.plates import background_crop
from stages.portrait import read_portrait
from stages.renderer import Generated, Portrait, Renderer, Scene
from stages.segmentation import FACE, HAIR
from stages.video.crops import extract_crop, to_crop
from stages.video.decode import open_clip
from stages.warp.colour import SkinStatistics, skin_statistics
from stages.warp.geometry import Pose
from stages.warp.renderer import WarpRenderer
from storage.tables import array

T = TypeVar("T")

SHOT_SAMPLES = 6
"""Frames of the target's shot whose skin the source's colours are matched to."""

CHANGE = 4
"""Difference, 0..255, from which a pixel of a generated crop counts as changed."""

REGION_MARGIN = 0.045
"""The region is wider than what changes by this share of the crop's side, so that its soft border does not reach the change."""

RING = 0.06
"""Width of the ring around the region in which statistics are taken, share of the crop's side."""

_COARSE = 4
"""Regions are grown at a quarter of the crop's size."""


class Render(Stage):
    """The generated crops of a chunk."""

    name = "render"
    version = 5
    scope = Scope.JOB_CHUNK
    parameters = RenderParameters
    inputs = (
        Input("masks", "source"),
        Input("track", "target"),
        Input("masks", "target", "same"),
        Input("inpaint", "target"),
        Input("retarget", "job"),
    )
    media = ("source", "target")
    tables = (RENDERED,)

    def run(self, work: Work) -> None:
        """Writes the pictures ``crops`` (where nothing is generated, the target's own crop) and the table ``rendered``."""
        assert isinstance(work.parameters, RenderParameters)
        assert work.chunk is not None
        target = Target(work, work.chunk)
        rows = {int(frame): _untouched() for frame in target.frames}
        with work.output.pictures("crops") as crops:
            for frame, picture in target.others():
                crops.write(frame, picture)
                work.progress(1)
            if target.generated.any():
                renderer = _renderer(work, work.parameters, target)
                for scene, result in _rendered(renderer, target.scenes()):
                    crops.write(scene.frame, result.picture)
                    rows[scene.frame] = _row(scene, result)
                    work.progress(1)
        columns = {name: np.asarray([row[name] for row in rows.values()]) for name in _untouched()}
        work.output.write_table(RENDERED, {"frame": np.asarray(list(rows), np.int32), **columns})


class _Recent(Generic[T]):
    """The last few results of something slow, by what they depend on: the chunks of a job share them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._held:
            value = make()
            while len(self._held) >= self._size:
                del self._held[next(iter(self._held))]
            self._held[key] = value
        return self._held[key]


_PORTRAITS: _Recent[Portrait] = _Recent(2)
_SKIN: _Recent[list[SkinStatistics]] = _Recent(4)


class Target:
    """The target's side of one chunk.

    Attributes:
        frames: int [n], numbers of the chunk's frames.
        generated: bool [n], where a head is to be generated.
        size: side of the crop.
    """

    def __init__(self, work: Work, chunk: Chunk) -> None:
        inputs = work.inputs
        self._media = work.media["target"]
        self._chunk = chunk
        subject = inputs.table("track", "subject", "target", columns=["frame", "crop", "landmarks"], frames=chunk.frames)
        self.frames = array(subject, "frame")
        self._crops = array(subject, "crop").astype(np.float64)
        self._landmarks = array(subject, "landmarks").reshape(-1, LANDMARKS, 3)
        columns = ["frame", "generated", "landmarks", "rotation", "translation", "scale"]
        aligned = inputs.table("retarget", "aligned", "job", columns=columns, frames=chunk.frames)
        self.generated = array(aligned, "generated").astype(bool)
        self._aligned = array(aligned, "landmarks").reshape(-1, LANDMARKS, 3)
        self._poses = [
            Pose(rotation.astype(np.float64).reshape(3, 3), translation.astype(np.float64), float(scale))
            for rotation, translation, scale in zip(
                array(aligned, "rotation"), array(aligned, "translation"), array(aligned, "scale"), strict=True
            )
        ]
        plates = inputs.table("inpaint", "plates", "target", columns=["frame", "plate", "transform"], frames=chunk.frames)
        place = np.searchsorted(array(plates, "frame"), self.frames)
        self._plates, self._transforms = array(plates, "plate")[place], array(plates, "transform")[place].astype(np.float64)
        self._plate_pictures = inputs.one("inpaint", "target").pictures("plates")
        self._labels = inputs.one("masks", "target").pictures("labels")
        self.size = int(self._labels.read(int(self.frames[0])).shape[0])

    def others(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Number and crop of the frames in which nothing is generated."""
        rows = np.flatnonzero(~self.generated)
        if len(rows):
            with open_clip(self._media) as clip:
                for row in rows:
                    frame = int(self.frames[row])
                    yield frame, extract_crop(clip.read(frame), self._crops[row], self.size)

    def scenes(self) -> Iterator[Scene]:
        """The frames in which a head is to be generated, in order."""
        plate, held = np.empty(0, np.uint8), -1
        with open_clip(self._media) as clip:
            for row in np.flatnonzero(self.generated):
                frame, crop = int(self.frames[row]), self._crops[row]
                picture = extract_crop(clip.read(frame), crop, self.size)
                labels = self._labels.read(frame)
                if int(self._plates[row]) != held:
                    held = int(self._plates[row])
                    plate = self._plate_pictures.read(held)
                background = background_crop(plate, self._transforms[row], crop, self.size)
                yield Scene(
                    frame,
                    picture,
                    background,
                    labels,
                    to_crop(self._landmarks[row], crop, self.size),
                    self._aligned[row].astype(np.float64),
                    self._poses[row],
                )


def shot_skin(work: Work, shot: int, size: int) -> list[SkinStatistics]:
    """Skin of the target's face in some frames spread over a shot; the same for every chunk of that shot."""
    subject = work.inputs.table("track", "subject", "target", columns=["frame", "shot", "detected", "crop"])
    usable = np.flatnonzero((array(subject, "shot") == shot) & array(subject, "detected").astype(bool))
    if not len(usable):
        return []
    rows = usable[np.unique(np.linspace(0, len(usable) - 1, SHOT_SAMPLES).round().astype(int))]
    frames, crops = array(subject, "frame")[rows], array(subject, "crop")[rows].astype(np.float64)
    found = []
    with open_clip(work.media["target"]) as clip:
        for frame, crop in zip(frames, crops, strict=True):
            only = range(int(frame), int(frame) + 1)
            own = work.inputs.table("track", "subject", "target", columns=["landmarks"], frames=only)
            landmarks = to_crop(array(own, "landmarks").reshape(LANDMARKS, 3), crop, size)
            picture = extract_crop(clip.read(int(frame)), crop, size)
            statistics = skin_statistics(picture, landmarks)
            if statistics is not None:
                found.append(statistics)
    return found


def changed_region(scene: Scene, result: Generated) -> NDArray[np.bool_]:
    """Blocks, bool [16, 16], that hold the old head, the new head or any other change, with room for the soft border."""
    difference = cv2.absdiff(result.picture, scene.picture)
    changed = cv2.max(cv2.max(difference[..., 0], difference[..., 1]), difference[..., 2]) > CHANGE
    touched = changed | (result.head > 0.02) | (scene.labels == HAIR) | (scene.labels == FACE)
    size = touched.shape[0] // _COARSE
    coarse = touched.reshape(size, _COARSE, size, _COARSE).any(axis=(1, 3))
    return block_grid(dilate(coarse, REGION_MARGIN * size), FOREGROUND_BLOCKS)


def ring_mask(region: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """The ring just outside a region of blocks [16, 16], at a quarter of the size: bool [size / 4, size / 4]."""
    coarse = expand_grid(region, size // _COARSE)
    return dilate(coarse, RING * coarse.shape[0]) & ~coarse


def ring_statistics(picture: NDArray[np.uint8], ring: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean and standard deviation of L, a, b (8 bits) inside a ring; float32 [6], NaN where there is none.

    Args:
        picture: uint8 RGB [size, size, 3].
        ring: bool [size / 4, size / 4]; every fourth pixel in both directions is looked at.
    """
    if ring.sum() < 16:
        return np.full(6, np.nan, np.float32)
    pixels = cv2.cvtColor(picture[_COARSE // 2 :: _COARSE, _COARSE // 2 :: _COARSE][ring][None], cv2.COLOR_RGB2LAB)
    mean, deviation = cv2.meanStdDev(pixels)
    return np.concatenate([mean[:, 0], deviation[:, 0]]).astype(np.float32)


def _renderer(work: Work, parameters: RenderParameters, target: Target) -> Renderer:
    assert work.chunk is not None
    if parameters.renderer != "warp":
        raise ModelError(
            "renderer_missing",
            f"The renderer '{parameters.renderer}' has no weights here.",
            "Choose the renderer 'warp', which needs none.",
        )
    shot = work.chunk.shot
    retarget, track = work.inputs.one("retarget", "job").digest, work.inputs.one("track", "target").digest
    masks = tuple(artifact.digest for artifact in work.inputs.all("masks", "source"))
    portrait = _PORTRAITS.get((retarget, masks), lambda: read_portrait(work))
    skin = _SKIN.get((track, work.media["target"], shot, target.size), lambda: shot_skin(work, shot, target.size))
    return WarpRenderer(portrait, skin, parameters.match_neck)


def _rendered(renderer: Renderer, scenes: Iterator[Scene]) -> Iterator[tuple[Scene, Generated]]:
    """Scenes with what became of them; holds as many scenes as the renderer looks ahead."""
    waiting: list[Scene] = []

    def handed_on() -> Iterator[Scene]:
        for scene in scenes:
            waiting.append(scene)
            yield scene

    for result in renderer.render(handed_on()):
        scene = waiting.pop(0)
        if scene.frame != result.frame:
            raise ValueError(f"the renderer gave frame {result.frame} where {scene.frame} was expected")
        yield scene, result


def _row(scene: Scene, result: Generated) -> dict[str, object]:
    region = changed_region(scene, result)
    ring = ring_mask(region, scene.picture.shape[0])
    return {
        "generated": True,
        "region": region.ravel(),
        "target_statistics": ring_statistics(scene.picture, ring),
        "generated_statistics": ring_statistics(result.picture, ring),
    }


def _untouched() -> dict[str, object]:
    unknown = np.full(6, np.nan, np.float32)
    return {
        "generated": False,
        "region": np.zeros(FOREGROUND_BLOCKS**2, bool),
        "target_statistics": unknown,
        "generated_statistics": unknown,
    }
