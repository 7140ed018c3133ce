"""The subject of a clip: which person it is, frame by frame, and the smooth crop that follows the head.

Chunk tracks are joined into appearances (one person in one shot), appearances of different shots into people by who looks like
whom (``stages.identity``). The subject is one of these people. The crop has one side per shot and a path that is smoothed in both
directions of time, so that it neither trembles nor lags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from schemas.parameters import TrackParameters
from schemas.problems import SubjectError
from schemas.tables import LANDMARK_VALUES, SUBJECT
from stages.contract import Input, Scope, Stage, Work
from stages.crop_path import crop_path, head_anchor
from stages.detectors import FaceDetector, FaceMesh, overlap
from stages.face3d.model import builtin_digest
from stages.identity import SAME_EMBEDDING, SAME_SHAPE, IdentityNetwork, shape_descriptor
from stages.landmarks import find_in_still
from stages.packages import MEDIAPIPE
from stages.video.decode import Limits, open_clip, read_picture
from stages.video.index import ANIMATIONS
from storage.artifacts import Artifact, TableWriter
from storage.tables import array

_DESCRIPTOR_FRAMES = 16
_BRIEF = 3
_ROWS = 512


@dataclass
class Segment:
    """A track of one chunk: rows of the landmark table, without the landmarks themselves."""

    chunk: int
    track: int
    shot: int
    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass
class Appearance:
    """One person in one shot: segments in order of time."""

    shot: int
    segments: list[Segment]
    descriptor: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def frames(self) -> int:
        return sum(len(segment.frames) for segment in self.segments)

    @property
    def areas(self) -> NDArray[np.float64]:
        boxes = np.concatenate([segment.boxes for segment in self.segments])
        return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


@dataclass
class Person:
    """Appearances of what is taken for the same person."""

    appearances: list[Appearance]

    @property
    def frames(self) -> int:
        return sum(appearance.frames for appearance in self.appearances)

    @property
    def median_area(self) -> float:
        return float(np.median(np.concatenate([appearance.areas for appearance in self.appearances])))

    @property
    def descriptor(self) -> NDArray[np.float64]:
        total = np.sum([appearance.descriptor * appearance.frames for appearance in self.appearances], axis=0)
        return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12))


class Track(Stage):
    """Chooses the subject and writes one row for every frame of the clip."""

    name = "track"
    version = 2
    scope = Scope.CLIP
    parameters = TrackParameters
    inputs = (Input("ingest"), Input("landmarks"))
    media = ("clip",)
    models = ("arcface",)
    tables = (SUBJECT,)
    data: ClassVar = {"face_model": builtin_digest(), **MEDIAPIPE}

    def run(self, work: Work) -> None:
        parameters = work.parameters
        assert isinstance(parameters, TrackParameters)
        clip = work.media["clip"]
        times = work.inputs.table("ingest", "frames")
        shots, seconds = array(times, "shot").astype(np.int64), array(times, "seconds")
        stream = work.inputs.one("ingest").facts["stream"]
        assert isinstance(stream, dict)
        picture = (int(stream["width"]), int(stream["height"]))
        rate = (len(seconds) - 1) / float(seconds[-1] - seconds[0]) if len(seconds) > 1 and seconds[-1] > seconds[0] else 25.0
        artifacts = work.inputs.all("landmarks")
        appearances = join_segments(read_segments(artifacts, shots), rate)
        if not appearances:
            raise SubjectError(
                "no_face",
                f"No face was found in {clip.name if len(seconds) == 1 else f'any frame of {clip.name}'}.",
                "Give a clip or picture that shows one, or lower stages.landmarks.minimum_score if this one does.",
            )
        describer = _Describer(work.models.get("arcface"), clip, work.limits)
        wanted = parameters.subject.strip()
        by_picture = wanted != "largest" and not wanted.isdecimal()
        if by_picture or len({appearance.shot for appearance in appearances}) > 1:
            for appearance in appearances:
                appearance.descriptor = describer.describe(appearance, artifacts)
            people = join_people(appearances, describer.threshold)
        else:
            people = [Person([appearance]) for appearance in appearances]
        people = rank(people)
        reference = work.media.get("reference") or Path(wanted)
        chosen, likeness = choose(people, wanted, clip, describer, reference)
        facts = _write_subject(work, people[chosen], artifacts, shots, rate, picture, parameters)
        work.output.facts.update(
            {
                "people": [
                    {
                        "frames": person.frames,
                        "median_area": round(person.median_area, 1),
                        "shots": [a.shot for a in person.appearances],
                    }
                    for person in people
                ],
                "chosen": chosen,
                "chosen_by": parameters.subject,
                "likeness": likeness,
                "compared_by": describer.method,
                **facts,
            }
        )
        if stream["kind"] == "video" and stream["codec"] in ANIMATIONS:  # else facts stay what they were
            work.output.facts["animation"] = True


def read_segments(artifacts: Sequence[Artifact], shots: NDArray[np.int64]) -> list[Segment]:
    """The tracks of all chunks, in order of chunk and track."""
    segments = []
    for chunk, artifact in enumerate(artifacts):
        table = artifact.table("landmarks", columns=["frame", "track", "score", "box"])
        frame, track = array(table, "frame").astype(np.int64), array(table, "track")
        boxes, scores = array(table, "box").astype(np.float64), array(table, "score").astype(np.float64)
        for number in sorted({int(value) for value in track} - {-1}):
            rows = np.flatnonzero(track == number)
            segments.append(Segment(chunk, number, int(shots[frame[rows[0]]]), frame[rows], boxes[rows], scores[rows]))
    return segments


def join_segments(segments: Sequence[Segment], rate: float) -> list[Appearance]:
    """Join tracks of one shot that follow each other in time and place. Passing false alarms of a few frames are dropped."""
    appearances: list[Appearance] = []
    for segment in sorted(segments, key=lambda item: (item.frames[0], item.chunk, item.track)):
        best, best_score = None, 0.0
        for appearance in appearances:
            last = appearance.segments[-1]
            gap = int(segment.frames[0] - last.frames[-1])
            if appearance.shot == segment.shot and gap > 0:
                score = _continuity(last.boxes[-1], segment.boxes[0], gap / rate)
                if score > best_score:
                    best, best_score = appearance, score
        if best is None:
            appearances.append(Appearance(segment.shot, [segment]))
        else:
            best.segments.append(segment)
    longest = max((appearance.frames for appearance in appearances), default=0)
    return [appearance for appearance in appearances if appearance.frames >= _BRIEF or longest < 4 * _BRIEF]


def join_people(appearances: Sequence[Appearance], threshold: float) -> list[Person]:
    """Join appearances that look alike: the most alike pair first, never two that are seen at the same time."""
    people = [Person([appearance]) for appearance in appearances]
    faces = np.stack([person.descriptor for person in people])
    likeness = faces @ faces.T
    for one, person in enumerate(people):
        likeness[one, [other for other in range(len(people)) if other <= one or _meet(person, people[other])]] = -np.inf
    likeness = np.maximum(likeness, likeness.T)
    gone: set[int] = set()
    while True:
        one, other = sorted(int(index) for index in np.unravel_index(likeness.argmax(), likeness.shape))
        if not likeness[one, other] > threshold:
            return [person for index, person in enumerate(people) if index not in gone]
        together = people[one].appearances + people[other].appearances
        people[one] = Person(sorted(together, key=lambda item: int(item.segments[0].frames[0])))
        faces[one] = people[one].descriptor
        apart = np.isinf(likeness[one]) | np.isinf(likeness[other])
        gone.add(other)
        likeness[one] = likeness[:, one] = np.where(apart, -np.inf, faces @ faces[one])
        likeness[other] = likeness[:, other] = -np.inf


def rank(people: Sequence[Person]) -> list[Person]:
    """People by the median area of their face, the largest first: number 0.

    Who is seen in less than a tenth of the frames of the most seen person comes after all the others.
    """
    most = max(person.frames for person in people)
    return sorted(
        people,
        key=lambda person: (person.frames < most / 10, -person.median_area, int(person.appearances[0].segments[0].frames[0])),
    )


def choose(people: Sequence[Person], wanted: str, clip: Path, describer: _Describer, reference: Path) -> tuple[int, float | None]:
    """Number of the person meant by ``TrackParameters.subject``; with a reference picture, how alike that person is to it."""
    if wanted == "largest":
        return 0, None
    if wanted.isdecimal():
        if int(wanted) >= len(people):
            raise SubjectError(
                "no_such_subject",
                f"{clip.name} shows {len(people)} {'person' if len(people) == 1 else 'people'}; there is no number {wanted}.",
                f"Give a subject from 0 (the largest face) to {len(people) - 1}.",
            )
        return int(wanted), None
    sought = describer.describe_picture(reference)
    likeness = [float(person.descriptor @ sought) for person in people]
    return int(np.argmax(likeness)), round(max(likeness), 4)


class _Describer:
    """Descriptors of faces, by the identity network where it is registered, else by shape."""

    def __init__(self, network: Path | None, clip: Path, limits: Limits) -> None:
        self._network = None if network is None else IdentityNetwork(network)
        self._clip = clip
        self._limits = limits
        self.method = "shape" if self._network is None else "network"
        self.threshold = SAME_SHAPE if self._network is None else SAME_EMBEDDING

    def describe(self, appearance: Appearance, artifacts: Sequence[Artifact]) -> NDArray[np.float64]:
        every = [(segment, k) for segment in appearance.segments for k in range(len(segment.frames))]
        chosen = [every[k] for k in np.unique(np.linspace(0, len(every) - 1, _DESCRIPTOR_FRAMES).round().astype(int))]
        frames = [int(segment.frames[k]) for segment, k in chosen]
        landmarks = [_one(artifacts[segment.chunk], segment.track, int(segment.frames[k])) for segment, k in chosen]
        if self._network is None:
            return shape_descriptor(np.stack(landmarks))
        with open_clip(self._clip) as reader:
            few = list(zip(frames, landmarks, strict=True))[:: max(len(frames) // 4, 1)]
            total = np.sum([self._network.embed(reader.read(frame), points) for frame, points in few], axis=0)
        return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12))

    def describe_picture(self, path: Path) -> NDArray[np.float64]:
        rgb, _ = read_picture(path, self._limits)  # no stage has looked at it before
        with FaceDetector(0.5) as strict, FaceDetector(0.3) as lenient, FaceMesh() as mesh:
            found = find_in_still((strict, lenient), mesh, rgb)
        if not found:
            message = f"No face was found in the reference picture {path}."
            raise SubjectError("no_face", message, "Give a picture of the subject's face.")
        landmarks = max(found, key=lambda item: item.size).landmarks
        return shape_descriptor(landmarks[None]) if self._network is None else self._network.embed(rgb, landmarks)


def _one(artifact: Artifact, track: int, frame: int) -> NDArray[np.float64]:
    table = artifact.table("landmarks", columns=["frame", "track", "landmarks"], frames=range(frame, frame + 1))
    row = int(np.flatnonzero(array(table, "track") == track)[0])
    return array(table, "landmarks")[row].reshape(-1, 3).astype(np.float64)


def _rows(person: Person, artifacts: Sequence[Artifact]) -> Iterator[tuple[int, float, NDArray[np.float32], NDArray[np.float32]]]:
    """Frame, score, landmarks ``[1434]`` and shoulders ``[6]`` of a person, in order of time, one chunk in memory."""
    wanted: dict[int, set[int]] = {}
    for appearance in person.appearances:
        for segment in appearance.segments:
            wanted.setdefault(segment.chunk, set()).add(segment.track)
    last = -1
    for chunk in sorted(wanted):
        table = artifacts[chunk].table("landmarks", columns=["frame", "track", "score", "landmarks", "shoulders"])
        frame, track, score = array(table, "frame"), array(table, "track"), array(table, "score")
        landmarks, shoulders = array(table, "landmarks"), array(table, "shoulders")
        for row in np.flatnonzero(np.isin(track, sorted(wanted[chunk]))):
            if int(frame[row]) > last:
                last = int(frame[row])
                yield last, float(score[row]), landmarks[row], shoulders[row]


def _write_subject(
    work: Work,
    person: Person,
    artifacts: Sequence[Artifact],
    shots: NDArray[np.int64],
    rate: float,
    picture: tuple[int, int],
    parameters: TrackParameters,
) -> dict[str, object]:
    anchors = np.full((len(shots), 3), np.nan)
    for frames, landmarks in _batches(person, artifacts):
        anchors[frames] = head_anchor(landmarks)
    detected = np.isfinite(anchors[:, 0])
    longest = int(parameters.longest_gap_seconds * rate)
    bridged, losses = find_gaps(detected, shots, longest)
    crops = crop_path(anchors, shots, picture, parameters.crop_scale, parameters.smoothing_seconds * rate)
    with work.output.table_writer(SUBJECT) as writer:
        _stream(writer, person, artifacts, shots, crops, bridged, work)
    return {
        "frames": len(shots),
        "detected_share": round(float((detected | bridged).mean()), 6),
        "interpolated_frames": int(bridged.sum()),
        "losses": losses,
        "shots_without_subject": sorted({int(shot) for shot in shots} - {int(shot) for shot in shots[detected]}),
    }


def find_gaps(detected: NDArray[np.bool_], shots: NDArray[np.int64], longest: int) -> tuple[NDArray[np.bool_], list[list[int]]]:
    """Frames to bridge, ``[n]``, and the losses that stay, as ``[first frame, end frame]``.

    A run of undetected frames is bridged where it is at most ``longest`` frames long and lies between detected frames of a shot.
    """
    bridged = np.zeros(len(detected), bool)
    losses: list[list[int]] = []
    edges = np.flatnonzero(np.diff(np.concatenate([[True], detected, [True]]).astype(int)))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        inside = start > 0 and stop < len(detected) and shots[start - 1] == shots[stop]
        if inside and stop - start <= longest:
            bridged[start:stop] = True
        else:
            losses.append([start, stop])
    return bridged, losses


def _batches(person: Person, artifacts: Sequence[Artifact]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    frames: list[int] = []
    landmarks: list[NDArray[np.float32]] = []
    for frame, _, points, _ in _rows(person, artifacts):
        frames.append(frame)
        landmarks.append(points)
        if len(frames) == _ROWS:
            yield np.array(frames), np.stack(landmarks).reshape(-1, 478, 3).astype(np.float64)
            frames, landmarks = [], []
    if frames:
        yield np.array(frames), np.stack(landmarks).reshape(-1, 478, 3).astype(np.float64)


@dataclass
class _Row:
    frame: int
    score: float
    landmarks: NDArray[np.float32]
    shoulders: NDArray[np.float32]
    detected: bool = True
    interpolated: bool = False


_NOWHERE = np.full(LANDMARK_VALUES, np.nan, np.float32)
_UNKNOWN = np.array([np.nan, np.nan, 0.0] * 2, np.float32)


def _stream(
    writer: TableWriter,
    person: Person,
    artifacts: Sequence[Artifact],
    shots: NDArray[np.int64],
    crops: NDArray[np.float64],
    bridged: NDArray[np.bool_],
    work: Work,
) -> None:
    """Write every frame's row in flat memory: a gap waits for the frame that ends it."""
    pending: list[_Row] = []

    def flush(enough: int) -> None:
        while len(pending) >= max(enough, 1):
            rows = pending[:_ROWS]
            del pending[:_ROWS]
            frames = np.array([row.frame for row in rows])
            writer.write(
                {
                    "frame": frames.astype(np.int32),
                    "shot": shots[frames].astype(np.int32),
                    "detected": np.array([row.detected for row in rows]),
                    "interpolated": np.array([row.interpolated for row in rows]),
                    "score": np.array([row.score for row in rows], np.float32),
                    "crop": crops[frames].astype(np.float32),
                    "landmarks": np.stack([row.landmarks for row in rows]),
                    "shoulders": np.stack([row.shoulders for row in rows]),
                }
            )
            work.progress(len(rows))

    before: _Row | None = None
    following = 0
    for frame, score, landmarks, shoulders in _rows(person, artifacts):
        now = _Row(frame, score, landmarks, shoulders)
        pending += [_between(before, now, gap, bool(bridged[gap])) for gap in range(following, frame)]
        pending.append(now)
        before, following = now, frame + 1
        flush(_ROWS)
    pending += [_between(None, None, frame, False) for frame in range(following, len(shots))]
    flush(1)


def _between(before: _Row | None, after: _Row | None, frame: int, bridged: bool) -> _Row:
    """A frame without a detection: on the straight line between its neighbours, or nowhere."""
    if not bridged or before is None or after is None:
        return _Row(frame, 0.0, _NOWHERE, _UNKNOWN, detected=False)
    share = np.float32((frame - before.frame) / (after.frame - before.frame))
    return _Row(
        frame,
        min(before.score, after.score),
        before.landmarks + share * (after.landmarks - before.landmarks),
        before.shoulders + share * (after.shoulders - before.shoulders),
        interpolated=True,
    )


def _continuity(last: NDArray[np.float64], first: NDArray[np.float64], seconds: float) -> float:
    """How likely a face at ``last`` is the one at ``first`` after some time: 0 not at all, more is better."""
    sizes = [float((box[2:] - box[:2]).max()) for box in (last, first)]
    distance = float(np.linalg.norm((last[:2] + last[2:] - first[:2] - first[2:]) / 2))
    reach = max(sizes) * min(0.5 + 3.0 * seconds, 2.0)
    if not 0.6 < sizes[1] / sizes[0] < 1.7 or distance >= reach or seconds > 3.0:
        return 0.0
    return overlap(last, first) + 0.5 * (1 - distance / reach) + 1e-6


def _meet(one: Person, other: Person) -> bool:
    """Whether two people are seen in one shot at the same time: then they are two."""
    spans = [
        [(a.shot, int(a.segments[0].frames[0]), int(a.segments[-1].frames[-1])) for a in person.appearances]
        for person in (one, other)
    ]
    return any(a[0] == b[0] and a[1] <= b[2] and b[1] <= a[2] for a in spans[0] for b in spans[1])
