"""Training samples from performers: synthetic people rendered on the fly, with exact labels, opacity, landmarks and background.

A person plays several performances, each in a room and on a body of its own; the last ones are held out, so that a network can be
tried on people it knows doing what it has not seen. Rendered clips are kept in a folder, because rendering a frame costs far more
than reading it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import psutil

from stages.camera import identity
from stages.condition_image import reference_picture
from stages.crop_path import DROP, crop_path, head_anchor
from stages.durable import flush, flush_folder
from stages.face3d.model import builtin_digest
from stages.matte import neck_fade
from stages.performers.appearance import Room
from stages.performers.backdrop import Backdrop
from stages.performers.camera import Camera
from stages.performers.casting import LARGEST_TURN, Person
from stages.performers.head import HeadModel, loaded_head_model
from stages.performers.performance import Performance, perform
from stages.performers.scene import Performer, Shot, shown_on_screen
from stages.plates import background_crop
from stages.processes import process_pool
from stages.segmentation import BACKGROUND, FACE, HAIR, NECK
from stages.training.augmentation import COMPOSITION, Augmentation, Draw, Window, compose, draw, foreground_layer, inpainted, over
from stages.training.hair_bank import long_hair
from stages.training.recent import Recent
from stages.training.samples import TrainingSample
from stages.video.crops import extract_crop, to_crop

Pixels = npt.NDArray[np.uint8]
Split = Literal["train", "held_out"]

RECIPE = 4
"""Goes up when the same arguments give other clips, so that clips of an older recipe are rendered again."""

CROP_SCALE = 2.6
"""Side of the crop in heights of the face, as the pipeline's."""

SMOOTHING_SECONDS = 0.4
FINER = 1.2
"""Pixels of the rendered frame for each pixel of the crop, so that cutting the crop out does not blur it."""

ROOM_TO_MOVE = 1.35
"""Side of the rendered frame in sides of the crop."""

REFERENCE_STEP = 3
"""Of every so many frames one can serve as the reference."""

SMALLEST_SIZE = 64
"""Pixels of a side of the smallest samples."""

_SCRATCH = re.compile(r"[0-9a-f]+\.(?:(?P<host>.+)\.)?(?P<process>\d+)-[0-9a-f]{8}")
"""Folders that clips are written in; those of earlier versions did not name the machine."""


@dataclass(frozen=True)
class Clip:
    """A rendered clip of one person: what a window is cut from, memory-mapped.

    Attributes:
        pictures: uint8 [frames, size, size, 3]. labels, opacity: uint8 [frames, size, size].
        plate: uint8 [side, side, 3], the background of the frame. crops: float64 [frames, 3], in the frame.
        landmarks: float32 [frames, 478, 3], shoulders: float32 [frames, 2, 3], crop pixels.
        references: uint8 [n, size, size, 3], heads on white. reference_frames: int64 [n].
    """

    pictures: Pixels
    labels: Pixels
    opacity: Pixels
    plate: Pixels
    crops: npt.NDArray[np.float64]
    landmarks: npt.NDArray[np.float32]
    shoulders: npt.NDArray[np.float32]
    references: Pixels
    reference_frames: npt.NDArray[np.int64]

    def window(self, start: int, frames: int, person: str) -> Window:
        rows = range(start, start + frames)
        size = self.labels.shape[1]
        backgrounds = [background_crop(self.plate, identity(), self.crops[row], size) for row in rows]
        chosen = slice(start, start + frames)
        return Window(
            pictures=np.array(self.pictures[chosen]),
            backgrounds=np.stack(backgrounds),
            labels=np.array(self.labels[chosen]),
            opacity=np.array(self.opacity[chosen]),
            landmarks=np.array(self.landmarks[chosen]),
            shoulders=np.array(self.shoulders[chosen]),
            person=person,
            frame_numbers=tuple(rows),
        )

    def save(self, folder: Path) -> None:
        """Write as a folder of ``.npy`` that appears at once and complete; where another process was faster its own stays."""
        remove_abandoned(folder.parent)
        scratch = folder.with_name(f"{folder.name}.{platform.node()}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
        scratch.mkdir(parents=True)
        try:
            for name in self.__dataclass_fields__:
                np.save(scratch / f"{name}.npy", getattr(self, name))
            flush_folder(scratch)  # a machine that goes down must not leave clips that are there and empty
            scratch.rename(folder)
            flush(folder.parent)
        except OSError:
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> Clip:
        return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.__dataclass_fields__})


def remove_abandoned(cache: Path) -> None:
    """Remove the folders in which processes of this machine that are gone were writing clips."""
    for left in cache.glob("*.*-*"):
        found = _SCRATCH.fullmatch(left.name)
        if found and found["host"] in (None, platform.node()) and not psutil.pid_exists(int(found["process"])):
            shutil.rmtree(left, ignore_errors=True)


class PerformerSamples:
    """Numbered training samples of performers: a ``stages.training.samples.SampleSource``.

    Sample ``number`` shows person ``number % people``; performance, window, reference frame and augmentation are drawn from the
    seed and the number.

    Args:
        head_model: the ICT-FaceKit as ``.npz`` (``HeadModel.load``).
        cache: folder in which rendered clips are kept; may be shared by processes and by sources of other arguments.
        people: how many, or the numbers of those meant. size: side of the crops, a multiple of 32. seed: of everything.
        performances: of each person, the last ``held_out`` of which belong to the split ``held_out``.
        frames: of each performance. frames_per_second: of the performances.
        augmentation: how foreground and cloth are varied (``stages.training.augmentation``).
        foreign_references: share of samples, 0..1, whose reference shows the person in another performance that is trained on:
            in other clothes, another room, other light. In the rest it is another frame of the same clip, as in the paper; of
            real people there is often no other clip.
        true_backgrounds: in all clips, also where an inpainter would have had to fill in what is never seen.

    Raises:
        ValueError: for arguments that make no sense.
    """

    def __init__(
        self,
        head_model: Path,
        cache: Path,
        *,
        people: int | Sequence[int],
        size: int,
        seed: int = 0,
        performances: int = 6,
        held_out: int = 1,
        frames: int = 48,
        frames_per_second: float = 25.0,
        split: Split = "train",
        augmentation: Augmentation | None = None,
        foreign_references: float = 0.0,
        true_backgrounds: bool = False,
    ) -> None:
        self.people = tuple(range(people)) if isinstance(people, int) else tuple(people)
        if not self.people or not 0 <= held_out < performances or frames < 2:
            raise ValueError("at least one person, one performance that is not held out and two frames are needed")
        if size < SMALLEST_SIZE or size % 32:
            raise ValueError(f"the size must be a multiple of 32 from {SMALLEST_SIZE} on, not {size}")
        if split == "held_out" and not held_out:
            raise ValueError("no performance is held out")
        if not 0 <= foreign_references <= 1:
            raise ValueError(
                f"the share of references from other performances must lie between 0 and 1, not {foreign_references}"
            )
        self.head_model, self.cache = Path(head_model), Path(cache)
        self.size, self.seed, self.frames, self.frames_per_second = size, seed, frames, frames_per_second
        kept = performances - held_out
        self.performances = tuple(range(kept) if split == "train" else range(kept, performances))
        self.trained_on = tuple(range(kept))
        self.augmentation, self.foreign_references = augmentation or Augmentation(), foreign_references
        self.true_backgrounds = true_backgrounds
        self._clips: Recent[Clip] = Recent(32)  # nine open files each, of which many systems allow a process 1,024

    @property
    def digest(self) -> str:
        """Of all that decides the samples, 24 hex digits; the head model is read for it once."""
        told = {
            "clips": [[self._key(person, performance) for performance in self.performances] for person in self.people],
            "others": [[self._key(person, performance) for performance in self.trained_on] for person in self.people],
            "augmentation": repr(self.augmentation),
            "foreign_references": self.foreign_references,
            "composition": COMPOSITION,
        }
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=12).hexdigest()

    def sample(self, number: int, frames: int) -> TrainingSample:
        """The sample with this number; ``frames`` at most as many as a performance has, else ValueError."""
        return compose(*self.drawn(number, frames, number % len(self.people)))

    def swap(self, number: int, frames: int, head: int) -> TrainingSample:
        """What the sample with this number would show with another's head: the truth of a swap, as only renders have it.

        Performance, window, camera, room and body are the sample's; head, landmarks, reference and name are those of the
        ``head``-th person. The reference is of one of that person's own performances that are trained on. Nothing is trained
        on swaps.

        Raises:
            ValueError: for more ``frames`` than a performance has.
        """
        return compose(*self.drawn(number, frames, head))

    def drawn(self, number: int, frames: int, head: int) -> tuple[Window, Pixels, Draw]:
        """What a sample is composed of (``compose``): window, reference and what chance decided; ``head`` as for ``swap``.

        Raises:
            ValueError: for more ``frames`` than a performance has.
        """
        if not 1 <= frames <= self.frames:
            raise ValueError(f"performances have {self.frames} frames; a window of {frames} cannot be cut from them")
        rng = np.random.default_rng([self.seed, number, frames, 17])
        person, shown = self.people[number % len(self.people)], self.people[head]
        performance = self.performances[int(rng.integers(len(self.performances)))]
        clip = self.clip(person, performance, shown)
        start = int(rng.integers(self.frames - frames + 1))
        foreign = self.foreign_references if shown == person else 1.0
        reference = self._reference(shown, performance, range(start, start + frames), foreign, rng)
        return clip.window(start, frames, self.name(shown)), reference, draw(self.augmentation, long_hair(), rng)

    def _reference(self, person: int, performance: int, window: range, foreign: float, rng: np.random.Generator) -> Pixels:
        """A head on white, uint8 [size, size, 3]: of a frame outside of the window, or (a share ``foreign``) of another
        performance."""
        elsewhere = [other for other in self.trained_on if other != performance]
        if foreign and elsewhere and rng.uniform() < foreign:
            clip = self.clip(person, elsewhere[int(rng.integers(len(elsewhere)))])
            return np.array(clip.references[int(rng.integers(len(clip.references)))])
        clip = self.clip(person, performance)
        others = np.flatnonzero((clip.reference_frames < window.start) | (clip.reference_frames >= window.stop))
        others = others if len(others) else np.arange(len(clip.reference_frames))
        return np.array(clip.references[others[int(rng.integers(len(others)))]])

    def dressed(self, person: int, performance: int, head: int | None = None) -> Person:
        """The person as it appears in a performance: its own head (or that of ``head``), hair and skin on somebody else's body.

        If a person always wore the same, a network would read off the collar whose head to draw, and the reference would be of
        no use to it. Bodies drawn for each performance alone are not enough: among a few people most would be worn by one of them
        only. Hence body number ``person ^ performance``, a Latin square: nobody wears the same twice; of 2^k people in 2^k
        performances everybody wears everything; and who wears a body in a held-out performance has not worn it in training.
        """
        whose = person if head is None else head
        shown = Person.drawn(int(np.random.default_rng([self.seed, whose, 18]).integers(2**31)))
        body = Person.drawn(int(np.random.default_rng([self.seed, person ^ performance, 21]).integers(2**31)))
        return shown.on_body_of(body)

    def room(self, person: int, performance: int) -> Room:
        """Where a performance takes place. Rooms go round with the bodies: a wall of one's own tells whose head to draw, too."""
        return Room.drawn(int(np.random.default_rng([self.seed, person ^ performance, 22]).integers(2**31)))

    def name(self, person: int) -> str:
        """The person's name in samples."""
        return f"performer-{self.seed}-{person:04d}"

    def prepare(self, tell: Callable[[int, int], None] | None = None, *, workers: int = 1) -> None:
        """Render all clips that are not in the cache yet.

        Args:
            tell: gets how many clips are there and how many there will be. workers: processes; each renders whole people.
        """
        done, of = 0, len(self.people) * len(self.performances)
        for clips in self._prepared(min(workers, len(self.people))):
            done += clips
            if tell is not None:
                tell(done, of)

    def _prepared(self, workers: int) -> Iterator[int]:
        """Numbers of clips as they become ready."""
        if workers > 1:
            with process_pool(workers) as pool:
                yield from pool.each(self._render_person, self.people)
            return
        for person in self.people:
            for performance in self.performances:
                self.clip(person, performance)
                yield 1

    def _render_person(self, person: int) -> int:
        for performance in self.performances:
            self.clip(person, performance)
        return len(self.performances)

    def clip(self, person: int, performance: int, head: int | None = None) -> Clip:
        """A clip of a person's performance, with its own head or that of ``head``; rendered where it is not in the cache."""
        whose = person if head is None else head
        return self._clips.get((person, performance, whose), lambda: self._load(person, performance, whose))

    def _load(self, person: int, performance: int, head: int) -> Clip:
        folder = self.cache / self._key(person, performance, head)
        if not folder.is_dir():
            self._render(person, performance, head).save(folder)
        return Clip.load(folder)

    def _key(self, person: int, performance: int, head: int | None = None) -> str:
        # Crops are placed by the face model (``head_anchor``), whatever the head.
        models = [_file_digest(self.head_model), builtin_digest()]
        told = [RECIPE, *models, self.seed, person, performance, self.size, self.frames, self.frames_per_second]
        if head not in (None, person):
            told.append(f"head {head}")
        if self.true_backgrounds and performance % 2:  # the others have them anyway
            told.append("true backgrounds")
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=12).hexdigest()

    def _render(self, person: int, performance: int, head: int) -> Clip:
        model = loaded_head_model(self.head_model)
        own, shown = (self.dressed(person, performance, whose) for whose in (person, head))
        seeds = [int(value) for value in np.random.default_rng([self.seed, person, performance, 19]).integers(2**31, size=2)]
        camera = camera_for(Performer(model, own.identity, own.appearance), self.size, np.random.default_rng(seeds[0]))
        acting = act(model, self.frames, self.frames_per_second, seeds[1])
        performer = Performer(model, shown.identity, shown.appearance)
        # A swap keeps the crops of the video that it is made on, as the pipeline does.
        crops = None if head == person else self._load(person, performance, person).crops
        room, fill = self.room(person, performance), performance % 2 == 1 and not self.true_backgrounds
        return record(performer, camera, room, acting, self.size, fill=fill, crops=crops)


def act(model: HeadModel, frames: int, frames_per_second: float, seed: int) -> Performance:
    """A performance for training: speech, grimaces or slow turns, no hands, a camera that stands."""
    rng = np.random.default_rng([seed, 20])
    kind = rng.choice(["speech", "faces", "turn"], p=[0.4, 0.35, 0.25])
    return perform(
        model.expression_names,
        frames,
        frames_per_second,
        seed=seed,
        speech=0.0 if kind == "faces" else float(rng.uniform(0.6, 1.1)),
        motion=float(rng.uniform(0.8, 2.0)),
        smile=float(rng.uniform(0, 1.2)),
        faces=float(rng.uniform(0.7, 1.0)) if kind == "faces" else 0.0,
        turn=float(rng.uniform(0.4, 0.9)) * LARGEST_TURN if kind == "turn" else 0.0,
    )


def camera_for(performer: Performer, size: int, rng: np.random.Generator) -> Camera:
    """A camera whose frame holds the crop of a performer at rest, somewhat finer than ``size``, with room to move."""
    side = 16 * round(ROOM_TO_MOVE * FINER * size / 16)
    distance = float(rng.uniform(84, 112))
    camera = Camera(side, side, 2.0, distance, (0.0, 0.0))
    x, y, height = head_anchor(camera.landmarks(performer.points.places(performer.base)).astype(np.float64)[None])[0]
    aim = (float(x - side / 2) / camera.detail, float(side / 2 - y - DROP * height) / camera.detail)
    return replace(camera, aim=aim, focal=2.0 * FINER * size / (CROP_SCALE * float(height)))


def record(
    performer: Performer,
    camera: Camera,
    room: Room,
    performance: Performance,
    size: int,
    *,
    fill: bool,
    crops: npt.NDArray[np.float64] | None = None,
) -> Clip:
    """Render a performance and cut out the crops as the pipeline does.

    Args:
        size: side of the crops. fill: whether the background is filled in where the person never lets it be seen, as an inpainter
            would have to, instead of the true one. crops: float64 [frames, 3], where they are not to follow this head.
    """
    light = Backdrop(room, camera).frame(0.0, np.zeros(2))
    shots = [performer.shoot_frame(camera, room, light, performance, frame) for frame in range(len(performance))]
    truth = shown_on_screen(light)
    plate = truth
    if fill:
        never_seen = np.logical_and.reduce([shot.labels != BACKGROUND for shot in shots])
        plate = inpainted(truth, never_seen, room.seed)
    landmarks = np.stack([shot.landmarks for shot in shots])
    if crops is None:
        crops = crop_path(
            head_anchor(landmarks.astype(np.float64)),
            np.zeros(len(shots), np.int64),
            (camera.width, camera.height),
            CROP_SCALE,
            SMOOTHING_SECONDS * performance.frames_per_second,
        )
    chosen = np.arange(0, len(shots), REFERENCE_STEP)
    return Clip(
        pictures=np.stack([_picture(shot, truth, plate, crop, size) for shot, crop in zip(shots, crops, strict=True)]),
        labels=np.stack([_labels(shot.labels, crop, size) for shot, crop in zip(shots, crops, strict=True)]),
        opacity=np.stack([extract_crop(shot.alpha, crop, size) for shot, crop in zip(shots, crops, strict=True)]),
        plate=plate,
        crops=crops,
        landmarks=to_crop(landmarks, crops, size).astype(np.float32),
        shoulders=_shoulders(shots, crops, size),
        references=np.stack([_reference(shots[k], truth, crops[k], size) for k in chosen]),
        reference_frames=chosen,
    )


def _picture(shot: Shot, truth: Pixels, plate: Pixels, crop: npt.NDArray[np.float64], size: int) -> Pixels:
    """The crop of a shot, on the plate instead of the true background where that is another picture."""
    if plate is truth:
        return extract_crop(shot.picture, crop, size)
    opacity = np.asarray(shot.alpha, np.float32) / np.float32(255)
    return extract_crop(over(plate, foreground_layer(shot.picture, truth, opacity), opacity), crop, size)


def _labels(labels: Pixels, crop: npt.NDArray[np.float64], size: int) -> Pixels:
    """The crop of a label map: the label at the middle of each pixel."""
    places = [(np.arange(size) + 0.5) * crop[2] / size + crop[axis] - crop[2] / 2 for axis in (0, 1)]
    columns, rows = (np.clip(np.floor(place).astype(int), 0, labels.shape[0] - 1) for place in places)
    return np.ascontiguousarray(labels[np.ix_(rows, columns)])


def _shoulders(shots: Sequence[Shot], crops: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float32]:
    places = to_crop(np.stack([shot.shoulders for shot in shots]), crops, size)
    return np.concatenate([places, np.ones((len(shots), 2, 1))], axis=2).astype(np.float32)


def _reference(shot: Shot, truth: Pixels, crop: npt.NDArray[np.float64], size: int) -> Pixels:
    """The head alone on white, cut out by the true opacity."""
    opacity = np.asarray(shot.alpha, np.float32) / np.float32(255)
    head = np.isin(shot.labels, (HAIR, FACE, NECK)).astype(np.uint8)
    # Pixels at the border show mostly the background and have its label.
    edge = cv2.dilate(head, np.ones((3, 3), np.uint8)) * (shot.labels == BACKGROUND)
    part = cv2.GaussianBlur(np.maximum(head, edge).astype(np.float32), (0, 0), 0.5)
    matte = opacity * part * neck_fade(shot.labels, shot.landmarks)
    colours = foreground_layer(shot.picture, truth, opacity) / np.maximum(opacity, 1e-3)[..., None]
    return extract_crop(reference_picture(np.clip(colours, 0, 255).astype(np.uint8), matte), crop, size)


@functools.lru_cache(maxsize=8)
def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
