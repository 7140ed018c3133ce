"""From a clip's artifacts to the frames of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.dataset import DatasetClip, DatasetParameters
from schemas.tables import LANDMARKS
from stages.condition_image import reference_picture
from stages.plates import background_crop
from stages.portrait import cut_out
from stages.training.selection import FrameFacts
from stages.training.shard_format import FrameRecord
from stages.training.shards import shrunk, shrunk_labels
from stages.video.crops import extract_crop, to_crop
from stages.video.decode import open_clip
from stages.video.view import crop_part
from storage.artifacts import Artifact, PictureReader
from storage.tables import array

Artifacts = Mapping[str, Sequence[Artifact]]
"""By stage; of a chunked stage in order of frames."""


@dataclass(frozen=True)
class Piece:
    """A run of consecutive frames of one clip that goes into one shard. ``number``: of the clip in its catalogue."""

    clip: DatasetClip
    number: int
    segment: int
    frames: range


def frame_facts(artifacts: Artifacts) -> FrameFacts:
    """What decides whether frames are used, from the tables of track, fit3dmm, masks and inpaint."""
    subject = artifacts["track"][0].table("subject", columns=["frame", "shot", "detected", "interpolated", "crop"])
    fit = artifacts["fit3dmm"][0].table("fit", columns=["frame", "residual"])
    stream = artifacts["ingest"][0].facts["stream"]
    assert isinstance(stream, dict)
    frames = array(subject, "frame")
    residuals = np.full(len(frames), np.nan)
    residuals[np.searchsorted(frames, array(fit, "frame"))] = array(fit, "residual")
    shares = np.concatenate([array(one.table("masks", columns=["shares"]), "shares") for one in artifacts["masks"]])
    plates = artifacts["inpaint"][0].table("plates", columns=["frame", "difference"])
    differences = np.full(len(frames), np.nan)
    differences[np.searchsorted(frames, array(plates, "frame"))] = array(plates, "difference")
    return FrameFacts(
        shots=array(subject, "shot"),
        detected=array(subject, "detected").astype(bool),
        interpolated=array(subject, "interpolated").astype(bool),
        crops=array(subject, "crop").astype(np.float64),
        picture=(int(stream["width"]), int(stream["height"])),
        residuals=residuals,
        shares=shares,
        differences=differences,
    )


def piece_frames(piece: Piece, artifacts: Artifacts, media: Path, parameters: DatasetParameters) -> Iterator[FrameRecord]:
    """The frames of a piece, cropped, shrunk to the data set's size, some with a reference picture."""
    subject = artifacts["track"][0].table("subject", columns=["frame", "crop", "landmarks", "shoulders"], frames=piece.frames)
    crops = array(subject, "crop").astype(np.float64)
    size = parameters.size
    landmarks = to_crop(array(subject, "landmarks").reshape(-1, LANDMARKS, 3), crops, size)
    shoulders = array(subject, "shoulders").astype(np.float64).reshape(-1, 2, 3)
    shoulders[..., :2] = to_crop(shoulders[..., :2], crops, size)
    backgrounds = _Backgrounds(artifacts["inpaint"][0], piece.frames)
    labels_of = _Labels([artifact.pictures("labels") for artifact in artifacts["masks"]])
    with open_clip(media) as clip:
        for row, (frame, view) in enumerate(clip.iterate_views(piece.frames)):
            full = labels_of.read(frame)
            part, there = crop_part(view, crops[row])
            crop = extract_crop(part, there, full.shape[0])
            wanted = row % parameters.reference_interval == 0
            yield FrameRecord(
                key=f"{piece.number:05d}-{frame:06d}",
                clip=piece.clip.id,
                person=piece.clip.identity,
                rights=piece.clip.rights,
                rights_said_of=piece.clip.rights_said_of,
                frame=int(frame),
                segment=piece.segment,
                picture=shrunk(crop, size),
                background=shrunk(backgrounds.crop(row, crops[row], full.shape[0]), size),
                labels=shrunk_labels(full, size),
                landmarks=landmarks[row].astype(np.float32),
                shoulders=shoulders[row].astype(np.float32),
                reference=_reference(crop, full, landmarks[row] * (full.shape[0] / size), crops[row], size) if wanted else None,
            )


def _reference(
    picture: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[np.float64],
    crop: npt.NDArray[np.float64],
    size: int,
) -> npt.NDArray[np.uint8]:
    """The head on white, cut out as a source's head is: of the whole crop, then shrunk.

    Args:
        picture, labels, landmarks: of the crop as the pipeline has it, and in its pixels.
        crop: where it lies in the video: centre x, centre y, side.
        size: side of the result.
    """
    colours, matte, _ = cut_out(picture, labels, landmarks, crop)
    return shrunk(reference_picture(colours, matte), size)


class _Labels:
    def __init__(self, readers: Sequence[PictureReader]) -> None:
        self._of = {frame: reader for reader in readers for frame in reader.frames}

    def read(self, frame: int) -> npt.NDArray[np.uint8]:
        return np.asarray(self._of[frame].read(frame), np.uint8)


class _Backgrounds:
    """What is behind the person, from the plates."""

    def __init__(self, artifact: Artifact, frames: range) -> None:
        table = artifact.table("plates", columns=["frame", "plate", "transform"])
        rows = np.argsort(array(table, "frame"), kind="stable")
        rows = rows[np.searchsorted(array(table, "frame")[rows], np.asarray(frames))]
        self._plates, self._transforms = array(table, "plate")[rows], array(table, "transform")[rows].astype(np.float64)
        self._pictures = artifact.pictures("plates")
        self._held: tuple[int, npt.NDArray[np.uint8]] | None = None

    def crop(self, row: int, crop: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.uint8]:
        number = int(self._plates[row])
        if self._held is None or self._held[0] != number:
            self._held = number, self._pictures.read(number)
        return background_crop(self._held[1], self._transforms[row], crop, size)
