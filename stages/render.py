"""Stage ``render``: generates the crops of one chunk, with the source's head in place of the target's.

What is common to all renderers lives here: reading both sides, the region that may change, the statistics around it. The picture
itself is a renderer's business (``stages.renderer``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.parameters import DiffusionParameters, RenderParameters, StageParameters
from schemas.tables import FOREGROUND_BLOCKS, LANDMARKS, RENDERED
from stages.blocks import block_grid, dilate, expand_grid
from stages.contract import Input, Scope, Stage, Work
from stages.light import OTHER_LIGHT
from stages.packages import MEDIAPIPE
from stages.portrait import read_portrait
from stages.renderer import Generated, Portrait, Renderer, Scene
from stages.scenes import LitScene, Target
from stages.segmentation import FACE, HAIR
from stages.video.crops import extract_crop, to_crop
from stages.video.decode import open_clip
from stages.warp.colour import skin_statistics
from stages.warp.focus import focus_of
from stages.warp.renderer import TargetFaces, WarpRenderer
from storage.tables import array

T = TypeVar("T")

DIFFUSION_VERSION = "4"
"""Goes up, in place of the stage's version, when the diffusion renderer alone would make other pictures of the same inputs."""

SHOT_SAMPLES = 6
"""Frames of the target's shot whose face the source's colours and focus are matched to."""

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
    version = 19
    scope = Scope.JOB_CHUNK
    parameters = RenderParameters
    inputs = (
        Input("masks", "source"),
        Input("track", "target"),
        Input("masks", "target", "around"),
        Input("inpaint", "target"),
        Input("retarget", "job"),
    )
    media = ("source", "target")
    tables = (RENDERED,)

    def data_for(self, parameters: StageParameters) -> dict[str, str]:
        """Videos of the warp renderer do not become new when only diffusion changes."""
        return {**self.data, **({"diffusion": DIFFUSION_VERSION, **MEDIAPIPE} if _diffusion(parameters) is not None else {})}

    def pipelines_for(self, parameters: StageParameters) -> tuple[str, ...]:
        """The pipeline of the diffusion renderer."""
        diffusion = _diffusion(parameters)
        return (diffusion.model,) if diffusion is not None and diffusion.model is not None else ()

    def seeded_for(self, parameters: StageParameters) -> bool:
        """Noise is drawn for diffusion only."""
        return _diffusion(parameters) is not None

    def margin(self, parameters: StageParameters) -> int:
        """Windows that reach beyond a chunk, and those beside them, need their frames' conditions."""
        diffusion = _diffusion(parameters)
        if diffusion is None:
            return 0
        return diffusion.window * (1 + (diffusion.context if diffusion.blend == "step" else 0))

    def wants_device(self, parameters: StageParameters) -> bool:
        """Networks gain by a GPU, meshes do not."""
        return _diffusion(parameters) is not None

    def run(self, work: Work) -> None:
        """Writes the pictures ``crops`` (where nothing is generated, the target's own crop) and the table ``rendered``."""
        assert isinstance(work.parameters, RenderParameters)
        assert work.chunk is not None
        target = Target(work, work.chunk, self.margin(work.parameters))
        rows = {frame: _untouched() for frame in work.chunk.frames}
        with work.output.pictures("crops") as crops:
            for frame, picture in target.others():
                crops.write(frame, picture)
                work.progress(1)
            sections = target.sections()
            if sections:
                with _renderer(work, work.parameters, target) as renderer:
                    for section in sections:
                        # Networks that compute ahead end before the renderer does, also where writing fails.
                        with contextlib.closing(renderer.render(section)) as drawn:
                            for scene, result in drawn:
                                if isinstance(scene, LitScene):
                                    scene, result = scene.in_its_light(result)
                                crops.write(scene.frame, result.picture)
                                rows[scene.frame] = _row(scene, result)
                                if work.parameters.renderer == "warp":
                                    work.progress(1)
        columns = {name: np.asarray([row[name] for row in rows.values()]) for name in _untouched()}
        work.output.write_table(RENDERED, {"frame": np.asarray(list(rows), np.int32), **columns})


def _diffusion(parameters: StageParameters) -> DiffusionParameters | None:
    assert isinstance(parameters, RenderParameters)
    return parameters.diffusion if parameters.renderer == "diffusion" else None


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
_FACES: _Recent[TargetFaces] = _Recent(4)


def shot_faces(work: Work, shot: int, size: int) -> TargetFaces:
    """The target's face in some frames spread over a shot; the same for every chunk of that shot."""
    subject = work.inputs.table("track", "subject", "target", columns=["frame", "shot", "detected", "crop"])
    usable = np.flatnonzero((array(subject, "shot") == shot) & array(subject, "detected").astype(bool))
    if not len(usable):
        return TargetFaces()
    usable = usable[_in_usual_light(work, array(subject, "frame")[usable])]
    rows = usable[np.unique(np.linspace(0, len(usable) - 1, SHOT_SAMPLES).round().astype(int))]
    frames, crops = array(subject, "frame")[rows], array(subject, "crop")[rows].astype(np.float64)
    skin, focus = [], []
    with open_clip(work.media["target"]) as clip:
        for frame, crop in zip(frames, crops, strict=True):
            only = range(int(frame), int(frame) + 1)
            own = work.inputs.table("track", "subject", "target", columns=["landmarks"], frames=only)
            landmarks = to_crop(array(own, "landmarks").reshape(LANDMARKS, 3), crop, size)
            picture = extract_crop(clip.read(int(frame)), crop, size)
            skin.append(skin_statistics(picture, landmarks))
            focus.append(focus_of(picture, landmarks, float(crop[2]) / size))
    return TargetFaces([one for one in skin if one is not None], [one for one in focus if one is not None])


def _in_usual_light(work: Work, frames: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which frames of a shot resemble its plate as most do: faces of a fade are as dark as the fade."""
    plates = work.inputs.table("inpaint", "plates", "target", columns=["frame", "difference"])
    difference = np.nan_to_num(array(plates, "difference")[np.searchsorted(array(plates, "frame"), frames)])
    return np.asarray(difference <= max(OTHER_LIGHT, 3 * float(np.median(difference))))


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


@contextlib.contextmanager
def _renderer(work: Work, parameters: RenderParameters, target: Target) -> Iterator[Renderer]:
    retarget, track = work.inputs.one("retarget", "job").digest, work.inputs.one("track", "target").digest
    masks = tuple(artifact.digest for artifact in work.inputs.all("masks", "source"))
    portrait = _PORTRAITS.get((retarget, masks), lambda: read_portrait(work))
    if parameters.renderer == "diffusion":
        from stages.diffusion.renderer import diffusion_renderer  # PyTorch takes seconds to load

        with diffusion_renderer(work, parameters.diffusion, portrait, (retarget, *masks)) as renderer:
            yield renderer
        return
    shot = target.chunk.shot
    faces = _FACES.get((track, work.media["target"], shot, target.size), lambda: shot_faces(work, shot, target.size))
    yield WarpRenderer(portrait, faces, parameters.match_neck)


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
