"""A clip's and a job's intermediates as contact sheets: what the stages saw and made, to look at when a result is odd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from flows.contact_sheet import (
    LABEL_COLOURS,
    LEFT_COLOUR,
    RIGHT_COLOUR,
    Colour,
    Tile,
    contact_sheet,
    crop_box,
    draw_box,
    draw_landmarks,
    draw_shoulders,
    evenly_spread,
    overlay_grid,
    overlay_labels,
    save_sheet,
)
from schemas.catalogue import safe_id
from schemas.problems import UsageError
from schemas.tables import FOREGROUND_BLOCKS, HAIR_BLOCKS, LABELS, LANDMARKS
from stages.condition_image import condition_image
from stages.face3d.fitting import euler_angles
from stages.plates import background_crop
from stages.video.crops import extract_crop, opencv_matrix, to_crop
from stages.video.decode import ClipReader, open_clip
from storage.artifacts import Artifact
from storage.tables import array

Artifacts = Mapping[str, Sequence[Artifact]]
"""By stage name; of a chunked stage, the artifacts of all chunks that there are, in order."""

FRAMES = 12
CROP_SIZE = 512
"""Of crops shown without a label map, which has its own size."""

_SUBJECT_COLOUR = (80, 255, 120)
_OTHER_COLOUR = (170, 170, 170)
_REGION_COLOUR = (255, 220, 0)
_HAIR_COLOUR = (200, 60, 200)


def inspect_clip(artifacts: Artifacts, media: Path, out: Path, *, name: str | None = None, frames: int = FRAMES) -> list[Path]:
    """Draw what is there of a clip, over at most ``frames`` of its frames.

    Args:
        artifacts: of the stages ``landmarks``, ``track``, ``fit3dmm``, ``masks`` and ``inpaint``; without some, the sheets that
            show them are left out.
        media: the clip's local file.
        out: folder, made where it does not exist.
        name: begins the file names; the media file's by default.

    Returns:
        The sheets, in the order of the stages: ``-landmarks``, ``-crops``, ``-labels``, ``-blocks``, ``-plates``, ``-condition``.

    Raises:
        UsageError: none of these stages has been done.
        MediaError: the clip cannot be read.
    """
    name = name or media.stem
    sheets = {key: sheet for key, sheet in _clip_sheets().items() if sheet.possible(artifacts)}
    if not sheets:
        raise UsageError(
            [f"There is nothing to show of {name}: none of its stages has been done."], "Run a catalogue that uses it first."
        )
    return _drawn(sheets, artifacts, media, out, name, frames)


def inspect_job(artifacts: Artifacts, target: Path, out: Path, *, name: str, frames: int = FRAMES) -> list[Path]:
    """Draw what is there of a job.

    Args:
        artifacts: ``track`` of the *target*, and ``retarget``, ``render`` and ``assemble`` of the job.
        target: the target's local file.
        out: folder, made where it does not exist.
        name: the job's id, begins the file names.

    Returns:
        The sheets ``-aligned`` (retargeted landmarks on the target's crop), ``-generated`` (crops with the region that replaces
        the target's pixels) and ``-result`` (target beside result).

    Raises:
        UsageError: neither ``retarget`` nor a later stage has been done.
    """
    sheets = {key: sheet for key, sheet in _job_sheets().items() if sheet.possible(artifacts)}
    if not sheets:
        raise UsageError([f"There is nothing to show of job {name}: its own stages have not begun."], "Run its catalogue first.")
    return _drawn(sheets, artifacts, target, out, name, frames)


@dataclass
class _Seen:
    """The chosen frames of a clip and the rows that stages wrote about them."""

    artifacts: Artifacts
    clip: ClipReader
    frames: Sequence[int]

    def pictures(self) -> Iterator[tuple[int, np.ndarray]]:
        for frame in self.frames:
            yield frame, self.clip.read(frame).copy()

    def holding(self, stage: str, frame: int) -> Artifact | None:
        """The artifact of a stage that is about this frame; chunks that are not done yet are missing."""
        for artifact in self.artifacts.get(stage, ()):
            bounds = artifact.manifest.recipe.get("frames")
            if not isinstance(bounds, list) or bounds[0] <= frame < bounds[1]:
                return artifact
        return None

    def rows(self, stage: str, table: str, frame: int) -> pa.Table | None:
        artifact = self.holding(stage, frame)
        if artifact is None:
            return None
        found = artifact.table(table, frames=range(frame, frame + 1))
        return found if found.num_rows else None

    def picture_of(self, stage: str, sequence: str, frame: int) -> np.ndarray | None:
        artifact = self.holding(stage, frame)
        if artifact is None or not artifact.has(sequence):
            return None
        reader = artifact.pictures(sequence)
        return reader.read(frame) if frame in reader else None

    def crop(self, frame: int, picture: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, pa.Table] | None:
        """The crop's picture, the crop, and the subject's row."""
        row = self.rows("track", "subject", frame)
        if row is None:
            return None
        crop = array(row, "crop")[0].astype(np.float64)
        if not np.isfinite(crop).all():
            return None
        return extract_crop(picture, crop, size), crop, row

    def crop_size(self) -> int:
        """Of the crop pixels in which the job's stages count: that of the generated crops, or of the label maps."""
        for stage, sequence in (("render", "crops"), ("masks", "labels")):
            for artifact in self.artifacts.get(stage, ()):
                if artifact.has(sequence):
                    reader = artifact.pictures(sequence)
                    return int(reader.read(reader.frames[0]).shape[0])
        return CROP_SIZE


@dataclass(frozen=True)
class _Sheet:
    """One kind of sheet: how its tiles are made and what for."""

    tiles: Callable[[_Seen], Iterator[Tile]]
    stages: tuple[str, ...]
    title: str
    legend: tuple[tuple[str, Colour], ...] = ()
    any_stage: bool = False

    def possible(self, artifacts: Artifacts) -> bool:
        return (any if self.any_stage else all)(artifacts.get(stage) for stage in self.stages)


def _clip_sheets() -> dict[str, _Sheet]:
    faces = ("landmarks", "track")
    blocks = (("foreground", _REGION_COLOUR), ("hair", _HAIR_COLOUR))
    return {
        "landmarks": _Sheet(_landmark_tiles, faces, "every face found; the subject's crop in green", any_stage=True),
        "crops": _Sheet(_crop_tiles, ("track",), "the subject's crop", (("left", LEFT_COLOUR), ("right", RIGHT_COLOUR))),
        "labels": _Sheet(_label_tiles, ("track", "masks"), "label map", _label_legend()),
        "blocks": _Sheet(_block_tiles, ("track", "masks"), "block masks", blocks),
        "plates": _Sheet(_plate_tiles, ("inpaint",), "background without the person"),
        "condition": _Sheet(_condition_tiles, ("track", "masks", "inpaint"), "condition image: background and surviving cloth"),
    }


def _job_sheets() -> dict[str, _Sheet]:
    return {
        "aligned": _Sheet(_aligned_tiles, ("track", "retarget"), "retargeted landmarks on the target"),
        "generated": _Sheet(_generated_tiles, ("render",), "generated crops", (("region", _REGION_COLOUR),)),
        "result": _Sheet(_result_tiles, ("assemble",), "target and result"),
    }


def _label_legend() -> tuple[tuple[str, Colour], ...]:
    return tuple(
        (name, (int(red), int(green), int(blue)))
        for name, (red, green, blue) in list(zip(LABELS, LABEL_COLOURS, strict=True))[1:]
    )


def _drawn(sheets: Mapping[str, _Sheet], artifacts: Artifacts, media: Path, out: Path, name: str, frames: int) -> list[Path]:
    with open_clip(media) as clip:
        seen = _Seen(artifacts, clip, evenly_spread(clip.frames, frames))
        paths = []
        for key, sheet in sheets.items():
            picture = contact_sheet(list(sheet.tiles(seen)), f"{name} - {sheet.title}", sheet.legend)
            paths.append(save_sheet(picture, out / f"{safe_id(name)}-{key}.png"))
        return paths


def _empty(size: int = CROP_SIZE) -> np.ndarray:
    return np.full((size, size, 3), 40, np.uint8)


# ---- sheets of a clip


def _landmark_tiles(seen: _Seen) -> Iterator[Tile]:
    for frame, picture in seen.pictures():
        thickness = max(1, round(picture.shape[0] / 400))
        people = 0
        found = seen.rows("landmarks", "landmarks", frame)
        if found is not None:
            for box, landmarks, detected in zip(
                array(found, "box"), array(found, "landmarks").reshape(-1, LANDMARKS, 3), array(found, "detected"), strict=True
            ):
                people += bool(detected)
                draw_landmarks(picture, landmarks, thickness=thickness)
                draw_box(picture, box, _OTHER_COLOUR, thickness)
        caption = f"frame {frame}"
        caption += f", {people} found" if found is not None else ", landmarks not done"
        subject = seen.rows("track", "subject", frame)
        if subject is not None:
            if found is None:
                draw_landmarks(picture, array(subject, "landmarks").reshape(LANDMARKS, 3), thickness=thickness)
            draw_box(picture, crop_box(array(subject, "crop")[0]), _SUBJECT_COLOUR, 2 * thickness)
            caption += ", " + _detection(subject)
        yield Tile(picture, caption)


def _detection(subject: pa.Table) -> str:
    if array(subject, "interpolated")[0]:
        return "bridged"
    return f"subject {array(subject, 'score')[0]:.2f}" if array(subject, "detected")[0] else "no subject"


def _crop_tiles(seen: _Seen) -> Iterator[Tile]:
    for frame, picture in seen.pictures():
        found = seen.crop(frame, picture, CROP_SIZE)
        if found is None:
            yield Tile(_empty(), f"frame {frame}: not tracked")
            continue
        cropped, crop, row = found
        draw_landmarks(cropped, to_crop(array(row, "landmarks").reshape(LANDMARKS, 3), crop, CROP_SIZE))
        shoulders = array(row, "shoulders").reshape(2, 3).astype(np.float64)
        shoulders[:, :2] = to_crop(shoulders[:, :2], crop, CROP_SIZE)
        draw_shoulders(cropped, shoulders)
        caption = f"frame {frame}, {_detection(row)}"
        fit = seen.rows("fit3dmm", "fit", frame)
        if fit is not None and array(fit, "detected")[0]:
            yaw, pitch, roll = euler_angles(array(fit, "head_rotation")[0].reshape(3, 3))
            caption += f", yaw {yaw:.0f} pitch {pitch:.0f} roll {roll:.0f}, fit {100 * array(fit, 'residual')[0]:.1f} %"
        yield Tile(cropped, caption)


def _with_labels(seen: _Seen, draw: Callable[[np.ndarray, np.ndarray, pa.Table], tuple[np.ndarray, str]]) -> Iterator[Tile]:
    """Tiles of what ``draw`` makes of crop, label map and row of the masks table."""
    for frame, picture in seen.pictures():
        labels = seen.picture_of("masks", "labels", frame)
        row = seen.rows("masks", "masks", frame)
        found = None if labels is None else seen.crop(frame, picture, labels.shape[0])
        if labels is None or row is None or found is None:
            yield Tile(_empty(), f"frame {frame}: not done")
            continue
        drawn, caption = draw(found[0], labels, row)
        yield Tile(drawn, f"frame {frame}, {caption}")


def _label_tiles(seen: _Seen) -> Iterator[Tile]:
    def draw(cropped: np.ndarray, labels: np.ndarray, row: pa.Table) -> tuple[np.ndarray, str]:
        shares = array(row, "shares")[0]
        hair, face = (100 * float(shares[LABELS.index(label)]) for label in ("hair", "face"))
        return overlay_labels(cropped, labels), f"hair {hair:.0f} %, face {face:.0f} %" if array(row, "detected")[
            0
        ] else "no face"

    return _with_labels(seen, draw)


def _block_tiles(seen: _Seen) -> Iterator[Tile]:
    def draw(cropped: np.ndarray, labels: np.ndarray, row: pa.Table) -> tuple[np.ndarray, str]:
        del labels
        foreground = array(row, "foreground").reshape(FOREGROUND_BLOCKS, FOREGROUND_BLOCKS)
        hair = array(row, "hair").reshape(HAIR_BLOCKS, HAIR_BLOCKS)
        overlay_grid(cropped, foreground, _REGION_COLOUR, fill=0.25)
        overlay_grid(cropped, hair, _HAIR_COLOUR, fill=0.35)
        return cropped, f"{int(foreground.sum())} and {int(hair.sum())} blocks"

    return _with_labels(seen, draw)


def _plate_tiles(seen: _Seen) -> Iterator[Tile]:
    for frame, picture in seen.pictures():
        plate = _plate(seen, frame)
        if plate is None:
            yield Tile(_empty(), f"frame {frame}: not done")
            continue
        there, shown = (
            # The transform leads from frame to plate, which is the inverse of moving the plate's pixels.
            cv2.warpAffine(
                pixels, opencv_matrix(plate.transform), (seen.clip.width, seen.clip.height), flags=flags | cv2.WARP_INVERSE_MAP
            )
            for pixels, flags in (
                (np.full(plate.picture.shape[:2], 255, np.uint8), cv2.INTER_NEAREST),
                (plate.picture, cv2.INTER_LINEAR),
            )
        )
        # A plate covers what the crops see; the frame around it is dimmed.
        shown = np.where((there > 0)[..., None], shown, picture // 2)
        yield Tile(shown, f"frame {frame}, plate {plate.number}, {100 * plate.seen:.0f} % seen, off by {plate.difference:.1f}")


@dataclass(frozen=True)
class _Plate:
    """The background of one frame: a picture, and where the frame finds its pixels in it."""

    number: int
    picture: np.ndarray
    transform: np.ndarray
    """float64 [2, 3], frame pixels -> plate pixels."""
    seen: float
    difference: float


def _plate(seen: _Seen, frame: int) -> _Plate | None:
    row = seen.rows("inpaint", "plates", frame)
    artifact = seen.holding("inpaint", frame)
    if row is None or artifact is None:
        return None
    number = int(array(row, "plate")[0])
    reader = artifact.pictures("plates")
    if number not in reader:
        return None
    transform = array(row, "transform").reshape(2, 3).astype(np.float64)
    return _Plate(number, reader.read(number), transform, float(array(row, "seen")[0]), float(array(row, "difference")[0]))


def _condition_tiles(seen: _Seen) -> Iterator[Tile]:
    for frame, picture in seen.pictures():
        labels = seen.picture_of("masks", "labels", frame)
        plate = _plate(seen, frame)
        found = None if labels is None else seen.crop(frame, picture, labels.shape[0])
        if labels is None or plate is None or found is None:
            yield Tile(_empty(), f"frame {frame}: not done")
            continue
        cropped, crop, row = found
        size = labels.shape[0]
        shoulders = array(row, "shoulders").reshape(2, 3).astype(np.float64)
        shoulders[:, :2] = to_crop(shoulders[:, :2], crop, size)
        background = background_crop(plate.picture, plate.transform, crop, size)
        condition, cloth = condition_image(background, cropped, labels, shoulders)
        yield Tile(condition, f"frame {frame}, cloth {100 * cloth.mean():.0f} %")


# ---- sheets of a job


def _aligned_tiles(seen: _Seen) -> Iterator[Tile]:
    for frame, picture in seen.pictures():
        row = seen.rows("retarget", "aligned", frame)
        found = seen.crop(frame, picture, CROP_SIZE)
        if row is None or found is None:
            yield Tile(_empty(), f"frame {frame}: not done")
            continue
        cropped = found[0]
        generated = bool(array(row, "generated")[0])
        if generated:
            draw_landmarks(
                cropped, array(row, "landmarks").reshape(LANDMARKS, 3) * (CROP_SIZE / seen.crop_size()), points=False, thickness=2
            )
        yield Tile(cropped, f"frame {frame}, " + ("generated" if generated else "the target's own"))


def _generated_tiles(seen: _Seen) -> Iterator[Tile]:
    for frame in seen.frames:
        picture = seen.picture_of("render", "crops", frame)
        row = seen.rows("render", "rendered", frame)
        if picture is None or row is None:
            own = row is not None and not array(row, "generated")[0]
            yield Tile(_empty(), f"frame {frame}, the target's own" if own else f"frame {frame}: not done")
            continue
        picture = np.ascontiguousarray(picture[..., :3])
        overlay_grid(picture, array(row, "region").reshape(FOREGROUND_BLOCKS, FOREGROUND_BLOCKS), _REGION_COLOUR, fill=0.0)
        yield Tile(picture, f"frame {frame}, " + ("generated" if array(row, "generated")[0] else "the target's own"))


def _result_tiles(seen: _Seen) -> Iterator[Tile]:
    (artifact,) = seen.artifacts["assemble"]
    (video,) = [entry.path for entry in artifact.manifest.files if entry.path.startswith("video.")]
    with open_clip(artifact.file(video)) as result:
        for frame, picture in seen.pictures():
            yield Tile(np.hstack([picture, result.read(frame)]), f"frame {frame}")
