"""The target's expression and head pose on the source's face: landmarks for every frame of the target, in its crop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from schemas.edits import Edits, read_edits
from schemas.parameters import RetargetParameters
from schemas.tables import LANDMARKS, aligned_table, neutral_table
from stages.contract import Input, Owner, Scope, Stage, Work
from stages.face3d.editing import edit_displacement, edit_expression, edit_poses
from stages.face3d.fitting import Poses, euler_angles
from stages.face3d.model import FaceModel, builtin_digest
from stages.face3d.resting import RestSolver
from stages.face3d.retargeting import (
    FeatureRatios,
    believed_motion,
    canonical_landmarks,
    closed_lips,
    closed_share,
    face_size,
    feature_ratios,
    lips_as_closed_as_seen,
    mirrored_displacement,
    nearly_neutral_frames,
    neutral_landmarks,
    openings,
    restlessness,
    retarget,
)
from stages.face3d.smoothing import landmark_tremor, margin, runs_of, smooth_poses, steady
from stages.face3d.topology import LEFT_EYE, LIPS, RIGHT_EYE
from stages.fit3dmm import frontal_weights
from stages.metrics.retargeting import invariants
from stages.video.crops import to_crop
from storage.artifacts import Artifact
from storage.tables import array

Floats = NDArray[np.float64]

_ROWS = 512
_REST_FRAMES = 64
_MODEL = FaceModel.builtin()
_SOLVER = RestSolver(_MODEL)
_EDITED_BY = {"eyes": ("eye", "cheekSquint", "cheekRaiser"), "mouth": ("mouth", "jaw", "cheekPuff")}
"""Curves that open and close on purpose what is counted of the eyes and of the mouth."""
_TURNED = 15.0
"""Degrees of yaw from which a source's hidden side shows where the target turns the other way, or is frontal."""
_PASSER_BY = 1 / 16
"""A face whose area is a smaller share of the largest one's belongs to nobody who could be meant."""
_MANY_PEOPLE = 4
"""No more are looked for, unless ``stages.landmarks.maximum_people`` says so."""
_FEW_LOST = 0.02  # share of the frames in which that goes wrong, up to which nobody is told
_BLINKS = np.array([name.startswith("eyeBlink") for name in _MODEL.names])


@dataclass(frozen=True)
class Frames:
    """Detected frames of a clip, fitted: numbers, shots ``[n]``; landmarks ``[n, 478, 3]``, crops ``[n, 3]`` in frame pixels."""

    number: NDArray[np.int64]
    shot: NDArray[np.int64]
    landmarks: Floats
    crop: Floats
    expression: Floats
    poses: Poses

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True)
class Face:
    """What retargeting needs of one person: the face at rest in model space ``[478, 3]`` and the frames it was taken from."""

    neutral: Floats
    frames: tuple[int, ...]


class Retarget(Stage):
    """Faces at rest, scale-aware retargeting, edits, the target's head pose."""

    name = "retarget"
    version = 5
    scope = Scope.JOB
    parameters = RetargetParameters
    inputs = (Input("track", "source"), Input("fit3dmm", "source"), Input("track", "target"), Input("fit3dmm", "target"))
    options = ("edits",)
    tables = (aligned_table(len(_MODEL.names)), neutral_table(len(_MODEL.names)))
    data: ClassVar = {"face_model": builtin_digest()}

    def run(self, work: Work) -> None:
        parameters = work.parameters
        assert isinstance(parameters, RetargetParameters)
        document = work.options.get("edits")
        assert document is None or isinstance(document, Mapping)
        edits = read_edits(document)
        source_clip = _Clip(work, "source")
        best = source_clip.best_frame()
        source_frame = source_clip.frames(range(best, best + 1))
        joint = parameters.method == "joint" and parameters.neutralise
        if joint:
            source_shape = canonical_landmarks(source_frame.landmarks, source_frame.poses)
            source_neutral = closed_lips(_SOLVER.rest(source_shape).shape)
        else:
            source_neutral = _at_rest(source_frame, parameters.neutralise)[0]
        self._write_neutral(work, source_frame, source_neutral, parameters.crop_size)
        target_clip = _Clip(work, "target")
        driver = target_clip.resting_face() if joint else target_clip.neutral_face(parameters.neutralise)
        ratios = feature_ratios(source_neutral, driver.neutral) if parameters.scale_aware else FeatureRatios()
        size = face_size(driver.neutral) / face_size(source_neutral) * edits.head_scale
        shift = driver.neutral.mean(0) - size * source_neutral.mean(0)
        check = _Invariants(edits)
        with work.output.table_writer(self.tables[0]) as writer:
            for rows, seen in target_clip.blocks(parameters.steadiness):
                generated = np.isin(rows, seen.number)
                shapes, poses, expression, acted = _retarget(
                    seen, driver.neutral, source_neutral, ratios, edits, target_clip, damped=joint
                )
                check.add(acted, shapes, driver.neutral, source_neutral)
                poses = Poses(
                    poses.rotation,
                    poses.project(np.broadcast_to(shift, (len(seen), 1, 3)))[:, 0],
                    poses.scale * size,
                )
                crop_scale = parameters.crop_size / seen.crop[:, 2]
                writer.write(
                    {
                        "frame": rows.astype(np.int32),
                        "generated": generated,
                        "landmarks": _spread(
                            to_crop(poses.project(shapes), seen.crop, parameters.crop_size).reshape(len(seen), 3 * LANDMARKS),
                            generated,
                        ),
                        "expression": _spread(expression, generated),
                        "rotation": _spread(poses.rotation.reshape(-1, 9), generated),
                        "translation": _spread(
                            to_crop(poses.translation[:, None], seen.crop, parameters.crop_size)[:, 0], generated
                        ),
                        "scale": _spread(poses.scale * crop_scale, generated),
                    }
                )
                work.progress(len(rows))
        work.output.facts.update(
            {
                "source_frame": best,
                "neutral_frame": driver.frames[0],
                "neutral_frames": list(driver.frames),
                "s_eye": {"left": _rounded(ratios.left_eye), "right": _rounded(ratios.right_eye)},
                "s_mouth": _rounded(ratios.mouth),
                "head_size": round(size, 4),
                "invariants": check.facts(),
                "notes": [
                    *source_clip.notes(best),
                    *_turned_aside(source_frame),
                    *_frozen_elsewhere(edits, target_clip),
                    *check.notes(),
                ],
                "expressions": list(_MODEL.names),
            }
        )

    def _write_neutral(self, work: Work, source: Frames, neutral: Floats, crop_size: int) -> None:
        shown = source.poses.project(neutral[None])
        work.output.write_table(
            self.tables[1],
            {
                "frame": source.number.astype(np.int32),
                "crop": source.crop,
                "landmarks": to_crop(source.landmarks, source.crop, crop_size).reshape(1, -1),
                "neutral": to_crop(shown, source.crop, crop_size).reshape(1, -1),
                "expression": source.expression,
                "rotation": source.poses.rotation.reshape(1, -1),
                "translation": to_crop(source.poses.translation[:, None], source.crop, crop_size)[:, 0],
                "scale": source.poses.scale * crop_size / source.crop[:, 2],
            },
        )


class _Clip:
    """The detected frames of the source or the target, read as they are needed."""

    def __init__(self, work: Work, owner: Owner) -> None:
        self._track: Artifact = work.inputs.one("track", owner)
        self._fit: Artifact = work.inputs.one("fit3dmm", owner)
        flags = self._track.table("subject", columns=["frame", "shot", "detected", "interpolated", "score"])
        self._shot = array(flags, "shot").astype(np.int64)
        self._detected = array(flags, "detected")
        self._seen = self._detected & ~array(flags, "interpolated")
        self._score = array(flags, "score")
        self._opened = self._openings()

    def _openings(self) -> Floats:
        found = [
            openings(array(batch, "landmarks").reshape(-1, 478, 3))
            for batch in self._track.batches("subject", columns=["landmarks"], rows=_ROWS)
        ]
        return np.concatenate(found)

    def frames(self, wanted: range) -> Frames:
        """The detected ones among some frames."""
        track = self._track.table("subject", columns=["frame", "landmarks", "crop"], frames=wanted)
        fit = self._fit.table("fit", columns=["frame", "expression", "rotation", "translation", "scale"], frames=wanted)
        number = array(track, "frame").astype(np.int64)
        kept = self._detected[number]
        return Frames(
            number[kept],
            self._shot[number[kept]],
            array(track, "landmarks")[kept].reshape(-1, 478, 3).astype(np.float64),
            array(track, "crop")[kept].astype(np.float64),
            array(fit, "expression")[kept].astype(np.float64),
            Poses(
                array(fit, "rotation")[kept].reshape(-1, 3, 3).astype(np.float64),
                array(fit, "translation")[kept].astype(np.float64),
                array(fit, "scale")[kept].astype(np.float64),
            ),
        )

    def nearest_seen(self, frame: int) -> int:
        """The detected frame nearest to a number."""
        seen = np.flatnonzero(self._detected)
        return int(seen[np.abs(seen - frame).argmin()])

    def expression_of(self, frame: int) -> tuple[Floats, Floats]:
        """Fitted weights ``[1, E]`` and shape ``[1, 478, 3]`` of the detected frame nearest to a number."""
        nearest = self.nearest_seen(frame)
        found = self.frames(range(nearest, nearest + 1))
        return found.expression, canonical_landmarks(found.landmarks, found.poses)

    def best_frame(self) -> int:
        """The frame of a source from which its head is taken: frontal, at rest, eyes open, mouth closed, not moving.

        Of a picture that moves the first one with a face: who gives it means what they saw of it.
        """
        if self._track.facts.get("animation"):
            return int(np.flatnonzero(self._detected)[0])
        fit = self._fit.table("fit", columns=["frame", "expression", "rotation", "translation", "scale"])
        seen = np.flatnonzero(self._seen)
        expression = array(fit, "expression")[seen].astype(np.float64)
        yaw, pitch, _ = np.abs(euler_angles(array(fit, "rotation")[seen].reshape(-1, 3, 3))).T
        scale = array(fit, "scale")[seen].astype(np.float64)
        place = array(fit, "translation")[seen, :2].astype(np.float64)
        moved = np.linalg.norm(np.gradient(place, axis=0), axis=1) if len(seen) > 1 else np.zeros(1)
        cost = (yaw + pitch) / 20 + restlessness(expression, self._opened[seen]) + 10 * moved / scale
        # A larger face is a sharper one; and the mesh should be sure.
        cost = cost - np.log2(scale / scale.max()) + 2 * (1 - self._score[seen])
        return int(seen[np.argmin(cost)])

    def notes(self, best: int) -> list[str]:
        """What a person may not have meant by a source whose head is taken from frame ``best``."""
        told = []
        if self._track.facts.get("animation"):
            told.append(f"The source is a picture that moves; its head is taken from frame {best} alone.")
        people = self._others_beside() + 1
        if people > 1:
            counted = f"{people} or more" if people >= _MANY_PEOPLE else str(people)
            told.append(
                f"The source shows {counted} people, and the largest head is taken: where another one is meant, give a picture "
                "of that person alone."
            )
        return told

    def _others_beside(self) -> int:
        """People who are certainly seen at the same time as the subject and are not much smaller."""
        people, chosen = self._track.facts.get("people"), self._track.facts.get("chosen")
        if not isinstance(people, list) or not isinstance(chosen, int):
            return 0
        subject = people[chosen]
        # Together seen in more frames than there are: not one person, taken for two after leaving and coming back.
        return sum(
            person["frames"] + subject["frames"] > len(self._shot) and person["median_area"] > _PASSER_BY * subject["median_area"]
            for number, person in enumerate(people)
            if number != chosen
        )

    def neutral_face(self, neutralise: bool) -> Face:
        """The driver's face at rest: the median of its few most neutral frames, so that no frame's error is everybody's."""
        chosen = self._nearly_neutral()
        faces = [_at_rest(self.frames(range(frame, frame + 1)), neutralise)[0] for frame in chosen]
        return Face(np.median(np.stack(faces), axis=0), chosen)

    def _nearly_neutral(self) -> tuple[int, ...]:
        fit = self._fit.table("fit", columns=["frame", "expression", "rotation"])
        seen = np.flatnonzero(self._seen)
        rotation = array(fit, "rotation")[seen].reshape(-1, 3, 3).astype(np.float64)
        restless = restlessness(array(fit, "expression")[seen].astype(np.float64), self._opened[seen])
        return tuple(seen[nearly_neutral_frames(restless, rotation)].tolist())

    def resting_face(self) -> Face:
        """The driver's face at rest by a joint fit of frames spread over the clip; the frames told are those nearest to it."""
        seen = np.flatnonzero(self._seen)
        spread = np.unique(np.linspace(0, len(seen) - 1, min(len(seen), _REST_FRAMES)).round().astype(np.int64))
        shapes, trust = [], []
        for start in range(0, len(self._shot), _ROWS):
            found = self.frames(range(start, min(start + _ROWS, len(self._shot))))
            kept = np.isin(found.number, seen[spread])
            poses = found.poses[kept]
            shapes.append(canonical_landmarks(found.landmarks[kept], poses))
            trust.append(frontal_weights(poses))
        every = np.concatenate(shapes)
        face = lips_as_closed_as_seen(_SOLVER.rest(every, np.concatenate(trust)).shape, every)
        return Face(face, self._nearly_neutral())

    def blocks(self, steadiness: float) -> Iterator[tuple[NDArray[np.int64], Frames]]:
        """Every frame's number in blocks, with the block's detected frames, steadied with their neighbours' help."""
        around = margin(steadiness)
        for start in range(0, len(self._shot), _ROWS):
            stop = min(start + _ROWS, len(self._shot))
            seen = self.frames(range(max(start - around, 0), min(stop + around, len(self._shot))))
            if len(seen):
                seen = _steadied(seen, steadiness)
            inner = (seen.number >= start) & (seen.number < stop)
            yield (
                np.arange(start, stop),
                Frames(
                    seen.number[inner],
                    seen.shot[inner],
                    seen.landmarks[inner],
                    seen.crop[inner],
                    seen.expression[inner],
                    seen.poses[inner],
                ),
            )


def _at_rest(frames: Frames, neutralise: bool) -> Floats:
    shapes = canonical_landmarks(frames.landmarks, frames.poses)
    return neutral_landmarks(shapes, frames.expression, _MODEL) if neutralise else shapes


def _retarget(
    seen: Frames,
    driver_neutral: Floats,
    source_neutral: Floats,
    ratios: FeatureRatios,
    edits: Edits,
    target: _Clip,
    *,
    damped: bool,
) -> tuple[Floats, Poses, Floats, Floats]:
    """Shapes ``[n, 478, 3]`` in model space, poses in the target's frame pixels, weights ``[n, E]``; edits applied.

    Last what the target's face did, ``[n, 478, 3]`` in model space, mirrored where that is asked for, without the curves.

    ``damped``: motion that no expression explains is believed in part.
    """
    driver = canonical_landmarks(seen.landmarks, seen.poses)
    expression = seen.expression
    if edits.mirror:
        driver = driver_neutral + mirrored_displacement(driver - driver_neutral)
        expression = expression[:, _MODEL.mirrored]
    acted = believed = driver
    if damped:
        explained = _MODEL.displacement(_SOLVER.expression(driver, driver_neutral, expression))
        believed = believed_motion(driver, driver_neutral, explained)
    blinks = None
    if edits.curves:

        def weights_of(frame: int) -> Floats:
            found = _with_blinks(*target.expression_of(frame), driver_neutral)[0]
            return found[_MODEL.mirrored] if edits.mirror else found

        fitted = _with_blinks(expression, driver, driver_neutral)
        edited = edit_expression(fitted, seen.number, edits, _MODEL, weights_of)
        moved = edit_displacement(edited.expression - fitted, _MODEL)
        driver, believed = driver + moved, believed + moved
        blinks = edited.blinks
        unasked = np.zeros_like(expression, dtype=bool)
        unasked[:, _BLINKS] = np.isnan(blinks)
        expression = np.where(unasked, expression, edited.expression)
    shapes = retarget(driver, driver_neutral, source_neutral, ratios, blinks=blinks, believed=believed)
    return shapes, edit_poses(seen.poses, seen.number, edits), expression, acted


def _turned_aside(source: Frames) -> list[str]:
    """A head that hides one of its sides: what it does not show has to come from somewhere."""
    yaw = abs(float(euler_angles(source.poses.rotation[0])[0]))
    if yaw <= _TURNED:
        return []
    return [
        f"The source's head is turned to the side by {yaw:.0f} degrees: the renderer warp stretches its hidden side, which may "
        "break. A picture from the front gives a better result."
    ]


def _frozen_elsewhere(edits: Edits, target: _Clip) -> list[str]:
    """Curves that keep the value of a frame that shows no face, or does not exist, and which frame's value they keep instead."""
    told = []
    for name, curve in edits.curves.items():
        if curve.freeze is not None and (nearest := target.nearest_seen(curve.freeze)) != curve.freeze:
            told.append(
                f"Edit of {name}: the target shows no face in frame {curve.freeze}; the value of frame {nearest} is kept."
            )
    return told


def _with_blinks(expression: Floats, shapes: Floats, neutral: Floats) -> Floats:
    """Weights ``[n, E]`` with those of the blinks read off the lids of the shapes ``[n, 478, 3]``."""
    told = expression.copy()
    for side, name in enumerate(("eyeBlink_L", "eyeBlink_R")):
        told[:, _MODEL.indices(name)[0]] = closed_share(shapes, neutral)[:, side]
    return told


def _steadied(seen: Frames, steadiness: float) -> Frames:
    """Landmarks and poses without the detector's tremor. Frames that do not follow each other are not mixed."""
    if steadiness <= 0:
        return seen
    runs = runs_of(seen.number, seen.shot)
    shapes = canonical_landmarks(seen.landmarks, seen.poses)
    poses = smooth_poses(seen.poses, runs, steadiness)
    steadied = steady(shapes.reshape(len(seen), -1), runs, steadiness, landmark_tremor(seen.poses.scale), _GROUPS)
    landmarks = poses.project(steadied.reshape(-1, 478, 3))
    return Frames(seen.number, seen.shot, landmarks, seen.crop, seen.expression, poses)


def _groups() -> NDArray[np.int64]:
    """Parts of the face that move together, a number per column of flattened landmarks ``[1434]``."""
    groups = np.zeros(478, np.int64)
    groups[list(LIPS)] = 1
    for number, eye in ((2, LEFT_EYE), (4, RIGHT_EYE)):
        groups[list(eye.outline)] = number
        groups[list(eye.iris_points)] = number + 1
    return np.repeat(groups, 3)


_GROUPS = _groups()


class _Invariants:
    """Counts the frames in which the target's eyes or mouth are closed or open, and those in which the new face keeps them so.

    What edits change on purpose is not counted: no eyes where a curve of theirs is edited, no mouth likewise.
    """

    def __init__(self, edits: Edits) -> None:
        moved = {part for part, stems in _EDITED_BY.items() for name in edits.curves if name.startswith(stems)}
        self._counts = {
            f"{part}_{state}": {"cases": 0, "held": 0} for part in _EDITED_BY if part not in moved for state in ("closed", "open")
        }

    def add(self, driver: Floats, result: Floats, driver_neutral: Floats, source_neutral: Floats) -> None:
        if len(driver):
            for name, kept in invariants(result, source_neutral, driver, driver_neutral).items():
                if name in self._counts:
                    self._counts[name]["cases"] += kept.cases
                    self._counts[name]["held"] += kept.held

    def facts(self) -> dict[str, object]:
        return dict(self._counts)

    def notes(self) -> list[str]:
        """What a person should look at."""
        told = []
        for part, state in itertools.product(_EDITED_BY, ("closed", "open")):
            count = self._counts.get(f"{part}_{state}", {"cases": 0, "held": 0})
            lost = count["cases"] - count["held"]
            if lost > max(1, _FEW_LOST * count["cases"]):
                told.append(f"The target's {part} are {state} {count['cases']} times; on the new face {lost} of them are not.")
        return told


def _spread(values: Floats, present: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rows of generated frames among NaN for the others."""
    every = np.full((len(present), *values.shape[1:]), np.nan, np.float32)
    every[present] = values
    return every


def _rounded(values: tuple[float, float]) -> list[float]:
    return [round(value, 4) for value in values]
