"""Stage ``inpaint``: plates of the background without the person, and where each frame finds its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from schemas.parameters import InpaintParameters
from schemas.problems import ModelError
from schemas.tables import PLATES
from stages.blocks import dilate
from stages.camera import Camera, chain, identity
from stages.contract import Input, Scope, Stage, Work
from stages.filling import Lama, fill_smooth
from stages.plates import DOUBTFUL, HEAD, HIDDEN, PlateBuilder, background_crop, covered_box, crop_to_frame, greatest_motion
from stages.residue import residue, strands
from stages.segmentation import BACKGROUND, FACE, GRID, HAIR, small_crop
from stages.video.decode import ClipReader, open_clip
from stages.video.view import FrameView, crop_part
from storage.artifacts import PictureReader
from storage.tables import array

__all__ = ["InpaintStage", "background_crop"]

SAMPLES = 48
"""Frames of a shot that its plate is made of."""

SAMPLE_BYTES = 160 << 20
"""Memory for them; larger frames, fewer samples."""

PERSON_MARGIN = 0.0125
"""The person is grown by this share of the crop's side before what is left counts as background."""

HAIR_MARGIN = 0.03
"""The same for hair, which ends softly."""

MISSED_MARGIN = 0.008
"""The same for what the labels missed."""

SURE_MARGIN = 0.004
"""What lies nearer to the person's labels than this is the person, whatever it looks like."""

BODY_MARGIN = 0.05
"""The same for the body, which may stand still while the head moves."""

POOR = 14.0
"""Mean difference (0..255) between a plate and its frames above which a shot gets more plates of fewer frames each."""

SHORTEST = 48
"""Frames of a shot below which its plates are not divided further."""


@dataclass
class _Shot:
    """The rows of one shot."""

    frames: np.ndarray
    crops: np.ndarray
    """float64 [frames, 3]."""


@dataclass
class _Plate:
    picture: np.ndarray
    rows: np.ndarray
    """Frames it serves, as positions in the shot."""
    transforms: np.ndarray
    """float64 [rows, 2, 3], frame -> plate."""
    seen: np.ndarray
    difference: np.ndarray
    poor: float
    """Middle difference of the frames it is made of, in its light."""


class InpaintStage(Stage):
    """One plate per shot for a camera that stands or turns; several where frames cannot be laid over each other."""

    name = "inpaint"
    version = 8
    scope = Scope.CLIP
    parameters = InpaintParameters
    inputs = (Input("ingest"), Input("track"), Input("masks"))
    media = ("clip",)
    models = ("lama",)
    tables = (PLATES,)
    seeded = True

    def run(self, work: Work) -> None:
        """Raises ``ModelError`` where LaMa is asked for by name and not registered."""
        parameters = work.parameters
        assert isinstance(parameters, InpaintParameters)
        fill = _filler(work, parameters)
        subject = work.inputs.table("track", "subject", columns=["frame", "shot", "crop"])
        frames, shots, crops = (array(subject, name) for name in ("frame", "shot", "crop"))
        labels = _Labels([artifact.pictures("labels") for artifact in work.inputs.all("masks")])
        number, lost = 0, 0
        with (
            open_clip(work.media["clip"]) as clip,
            work.output.pictures("plates") as pictures,
            work.output.table_writer(PLATES) as table,
        ):
            for shot in np.unique(shots):
                rows = np.nonzero(shots == shot)[0]
                maker = _PlateMaker(clip, labels, _Shot(frames[rows], crops[rows].astype(np.float64)), fill, parameters.camera)
                for plate in maker.plates():
                    pictures.write(number, plate.picture)
                    table.write(
                        {
                            "frame": frames[rows][plate.rows].astype(np.int32),
                            "plate": np.full(len(plate.rows), number, np.int32),
                            "transform": plate.transforms.reshape(-1, 6).astype(np.float32),
                            "seen": plate.seen.astype(np.float32),
                            "difference": plate.difference.astype(np.float32),
                        }
                    )
                    number += 1
                    work.progress(len(plate.rows))
                lost += maker.lost
        work.output.facts.update(plates=number, method="lama" if isinstance(fill, Lama) else "opencv", unregistered_frames=lost)


Filler = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _filler(work: Work, parameters: InpaintParameters) -> Filler:
    if parameters.method == "lama" and "lama" not in work.models:
        raise ModelError(
            "model_missing",
            "stages.inpaint.method is 'lama', but the model lama is not registered.",
            "Register it with `headswap models add lama FILE`, or set stages.inpaint.method to 'auto'.",
        )
    if parameters.method != "opencv" and "lama" in work.models:
        return Lama(work.models["lama"])
    seed = work.seed
    return lambda rgb, known: fill_smooth(rgb, known, seed)


class _Labels:
    """Label maps of a clip over its chunks."""

    def __init__(self, readers: list[PictureReader]) -> None:
        self._of = {frame: reader for reader in readers for frame in reader.frames}

    def person(self, frame: int) -> np.ndarray:
        """Boolean [256, 256] over the crop: the person, with a margin."""
        person, hair, _ = self._parts(frame)
        return self._grown(person, hair)

    def kinds(self, frame: int, rgb: np.ndarray) -> np.ndarray:
        """What a frame's crop hides of the background, and what looks like it: uint8 [256, 256], see ``PlateBuilder``.

        Args:
            rgb: uint8 [256, 256, 3], the frame's crop.
        """
        person, hair, body = self._parts(frame)
        hidden = self._grown(person, hair) | dilate(residue(rgb, person) | strands(rgb, hair, person), MISSED_MARGIN * GRID)
        # Squares are many times faster than discs, and the margin around the body need not be round.
        square = np.ones((2 * round(BODY_MARGIN * GRID) + 1,) * 2, np.uint8)
        doubtful = hidden & ~dilate(person, SURE_MARGIN * GRID) & (cv2.dilate(body.view(np.uint8), square) == 0)
        head = person & ~dilate(~person | body, SURE_MARGIN * GRID)
        return np.asarray(hidden * np.uint8(HIDDEN) | doubtful * np.uint8(DOUBTFUL) | head * np.uint8(HEAD), np.uint8)

    def _parts(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boolean [256, 256] each: any of the person, any of the hair, any of what is not head."""
        labels = self._of[frame].read(frame)
        background, hair, face = (labels == label for label in (BACKGROUND, HAIR, FACE))
        return _any(~background), _any(hair), _any(~(background | hair | face))

    @staticmethod
    def _grown(person: np.ndarray, hair: np.ndarray) -> np.ndarray:
        return dilate(person, PERSON_MARGIN * GRID) | dilate(hair, HAIR_MARGIN * GRID)


def _any(mask: np.ndarray) -> np.ndarray:
    """Boolean [256, 256], whether any pixel of a crop's mask is set there."""
    return np.asarray(cv2.resize(mask.astype(np.uint8), (GRID, GRID), interpolation=cv2.INTER_AREA) > 0)


class _PlateMaker:
    """Makes the plates of one shot."""

    def __init__(self, clip: ClipReader, labels: _Labels, shot: _Shot, fill: Filler, camera: str) -> None:
        self.clip, self.labels, self.shot, self.fill = clip, labels, shot, fill
        self.camera = camera
        self.lost = 0
        """Frames whose background could not be recognised, of those that the camera's motion was taken from."""
        self.width, self.height = clip.width, clip.height
        self._held: dict[int, FrameView] = {}
        """Samples for the first plate, by row, kept from when the camera was followed: decoding costs more than looking."""

    def plates(self) -> Iterator[_Plate]:
        rows = np.arange(len(self.shot.frames))
        still = np.tile(identity(), (len(rows), 1, 1))
        stands = True if self.camera == "still" else self._stands_still() if self.camera == "auto" else False
        if stands:
            yield from self._divide(rows, still, divide=False)
            return
        transforms, recognised = self._follow(rows)
        if self.camera == "auto":
            moved = [greatest_motion(transforms[row][None], self.width, self.height) for row in recognised]
            # What was recognised in a minority of frames is a light or a shadow on a bare wall rather than the background.
            if 2 * len(moved) < len(rows) or (stands is None and self._little(moved)):
                transforms = still
        yield from self._divide(rows, transforms, divide=True)

    def _stands_still(self) -> bool | None:
        """Whether the background moves by less than a pixel (of 640) in frames spread over the shot.

        Returns:
            None where it has detail, but most of these frames could not be compared: only following the camera can tell. A shot
            without any detail stands still, as far as a plate is concerned.
        """
        camera = Camera(closely=False)
        looked_at = _spread(len(self.shot.frames), 10)
        decided = len(looked_at) - int(0.8 * (len(looked_at) - 1))  # so many that move, and the percentile is above the limit
        limit = self._limit()
        moved, unknown = [0.0], 0
        for row, view in self._read_and_hold(looked_at):
            nothing, lost = camera.blind, camera.lost
            transform = camera.follow(view, partial(self._background, row))
            if row == looked_at[0]:
                continue
            if camera.lost == lost:
                moved.append(greatest_motion(transform[None], self.width, self.height))
            elif not nothing:
                unknown += 1
            if sum(motion >= limit for motion in moved) >= decided:
                return False
        self.lost = camera.lost
        if camera.blind or len(looked_at) == 1:
            return True
        if len(moved) == 1 or unknown > len(moved) - 1:
            return None
        return self._little(moved)

    def _little(self, moved: list[float]) -> bool:
        """Whether all but a fifth of some motions, pixels, are too small to matter."""
        return float(np.percentile(moved, 80)) < self._limit()

    def _limit(self) -> float:
        return max(1.0, max(self.width, self.height) / 640)

    def _follow(self, rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Transforms float64 [rows, 2, 3] to the shot's first frame, and the rows whose background was recognised."""
        camera, transforms, recognised = Camera(), [], []
        for row, view in self._read_and_hold(rows):
            lost = camera.lost
            transforms.append(camera.follow(view, partial(self._background, row)))
            if camera.lost == lost:
                recognised.append(row)
        self.lost = camera.lost
        return np.stack(transforms), recognised

    def _read_and_hold(self, rows: np.ndarray) -> Iterator[tuple[int, FrameView]]:
        """Frames of ``rows``; on the way, the samples for the first plate are kept for :meth:`_build`, where memory allows it."""
        every = np.arange(len(self.shot.frames))
        still = np.tile(identity(), (len(every), 1, 1))
        box = covered_box(still, self.shot.crops, self.width, self.height)
        samples = _samples(len(every), int(box[2] - box[0]), int(box[3] - box[1]))
        if len(samples) * 3 * self.width * self.height > SAMPLE_BYTES:
            samples = samples[:0]
        self._held.clear()
        wanted, kept = set(rows.tolist()), set(samples.tolist())
        for row, view in self._read(np.union1d(rows, samples)):
            if row in kept:
                self._held[row] = view
            if row in wanted:
                yield row, view

    def _read(self, rows: np.ndarray) -> Iterator[tuple[int, FrameView]]:
        views = self.clip.iterate_views([int(frame) for frame in self.shot.frames[rows]])
        for row, (_, view) in zip(rows, views, strict=True):
            yield int(row), view

    def _samples(self, rows: np.ndarray) -> Iterator[tuple[int, FrameView]]:
        """Frames of ``rows``, those that are held where that is all of them. Nothing is held afterwards."""
        held, self._held = self._held, {}
        if all(int(row) in held for row in rows):
            return ((int(row), held.pop(int(row))) for row in rows)
        return self._read(rows)

    def _background(self, row: int) -> np.ndarray:
        """Boolean [height, width]: not the person, nor what lies below the crop, where the body goes on."""
        crop = self.shot.crops[row]
        person, _ = crop_to_frame(self.labels.person(int(self.shot.frames[row])), crop, self.width, self.height)
        background = ~person
        left, right = np.clip((crop[0] - crop[2] / 2, crop[0] + crop[2] / 2), 0, self.width).astype(int)
        below = int(np.clip(crop[1] + crop[2] / 2, 0, self.height))
        background[below:, left:right] = False
        return background

    def _divide(self, rows: np.ndarray, transforms: np.ndarray, divide: bool) -> Iterator[_Plate]:
        """One plate for ``rows``; or, where it resembles its frames poorly, one for each half."""
        box = covered_box(transforms, self.shot.crops[rows], self.width, self.height)
        side = float(np.median(self.shot.crops[rows, 2]))
        too_wide = max(box[2] - box[0], box[3] - box[1]) > 6 * side
        if divide and too_wide and len(rows) > SHORTEST:
            yield from self._halves(rows, transforms)
            return
        plate = self._build(rows, transforms, box)
        if divide and len(rows) > SHORTEST and plate.poor > POOR:
            yield from self._halves(rows, transforms)
            return
        yield plate

    def _halves(self, rows: np.ndarray, transforms: np.ndarray) -> Iterator[_Plate]:
        middle = len(rows) // 2
        yield from self._divide(rows[:middle], transforms[:middle], divide=True)
        yield from self._divide(rows[middle:], transforms[middle:], divide=True)

    def _build(self, rows: np.ndarray, transforms: np.ndarray, box: np.ndarray) -> _Plate:
        offset = np.array([[1.0, 0, -box[0]], [0, 1.0, -box[1]]])
        transforms = np.stack([chain(offset, transform) for transform in transforms])
        width, height = int(box[2] - box[0]), int(box[3] - box[1])
        builder = PlateBuilder(width, height)
        chosen = _samples(len(rows), width, height)
        for position, (row, view) in zip(chosen, self._samples(rows[chosen]), strict=True):
            picture, crop = view.rgb(), self.shot.crops[row]
            found = self.labels.kinds(int(self.shot.frames[row]), small_crop(*crop_part(view, crop)))
            kinds, inside = crop_to_frame(found, crop, self.width, self.height)
            builder.add(picture, inside & (kinds & HIDDEN == 0), transforms[position], kinds)
        plate, count = builder.finish()
        # What a single frame of many shows is often a strand of hair that its labels missed.
        known = count >= (2 if sum(builder.used) >= 8 else 1)
        hidden = (kinds & HIDDEN > 0 for kinds in builder.kinds)
        seen = [float(known[mask].mean()) if mask.any() else 1.0 for mask in hidden]
        difference, departure, used = (np.asarray(values) for values in (builder.differences, builder.departures, builder.used))
        nearest = np.searchsorted((chosen[:-1] + chosen[1:]) / 2, np.arange(len(rows)))  # of the sampled frames
        poor = float(np.median(departure[nearest][used[nearest]]))
        return _Plate(self.fill(plate, known), rows, transforms, np.asarray(seen)[nearest], difference[nearest], poor)


def _samples(count: int, width: int, height: int) -> np.ndarray:
    """Which of ``count`` frames a plate of ``width`` x ``height`` pixels is made of."""
    return _spread(count, max(6, min(SAMPLES, SAMPLE_BYTES // (4 * width * height))))


def _spread(count: int, most: int) -> np.ndarray:
    """Up to ``most`` positions spread evenly over ``range(count)``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
