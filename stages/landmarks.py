"""Landmarks of every face in a chunk of a clip, followed from frame to frame.

The detector sees the whole frame every few frames and whenever a face was lost; in between, each face is looked for where it was,
by the mesh network in a window of its own (so that a small head in a wide shot has the network's full resolution). A chunk
is begun a few frames early, inside its shot: by its first frame the windows have settled to what they would be without the cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.parameters import LandmarkParameters
from schemas.tables import LANDMARK_TABLE, LANDMARK_VALUES
from stages.contract import Input, Scope, Stage, Work
from stages.detectors import BodyPose, Detection, FaceDetector, FaceMesh, Window, covered, overlap
from stages.packages import MEDIAPIPE
from stages.video.decode import open_clip
from stages.video.view import FrameView, as_view
from stages.warm import borrowed
from storage.tables import array

WARM_UP = 6
"""Frames before a chunk on which its windows settle: each frame forgets about two thirds of what it was started with."""

_PRESENCE = 0.5
_PATIENCE = 15
_UNCONFIRMED = 3
_SHOULDERED = 2
_LENIENT = 0.3
_UPRIGHT = 0.85

Read = Callable[[int], NDArray[np.uint8] | FrameView]


@dataclass
class Observation:
    """One face in one frame: landmarks ``[478, 3]`` and box ``[4]`` in frame pixels, the mesh's presence score."""

    frame: int
    landmarks: NDArray[np.float64]
    score: float
    shoulders: NDArray[np.float64] = field(default_factory=lambda: np.array([np.nan, np.nan, 0.0] * 2))

    @property
    def box(self) -> NDArray[np.float64]:
        points = self.landmarks[:, :2]
        return np.concatenate([points.min(0), points.max(0)])

    @property
    def size(self) -> float:
        box = self.box
        return float((box[2:] - box[:2]).max())


@dataclass
class FaceTrack:
    """A face followed through a chunk. ``lost``: frames since it was seen; ``unconfirmed``: detections that missed it."""

    seen: dict[int, Observation]
    last: Observation
    lost: int = 0
    unconfirmed: int = 0

    def add(self, observation: Observation) -> None:
        self.seen[observation.frame] = observation
        self.last = observation
        self.lost = 0


class FaceTracker:
    """Follows faces through consecutive frames. Make one for each chunk; the networks may be shared."""

    def __init__(self, detector: FaceDetector, mesh: FaceMesh, parameters: LandmarkParameters) -> None:
        self._detector = detector
        self._mesh = mesh
        self._parameters = parameters
        self._recent: deque[tuple[int, FrameView]] = deque(maxlen=max(parameters.detection_interval, 1))
        self._active: list[FaceTrack] = []
        self.tracks: list[FaceTrack] = []

    def step(self, frame: int, picture: NDArray[np.uint8] | FrameView) -> None:
        """Look at the next frame."""
        view = as_view(picture)
        first = not self._recent
        for track in self._active:
            found = observe(self._mesh, view, Window.around(track.last.landmarks), frame)
            if found is not None:
                track.add(found)
            else:
                track.lost += 1
        self._merge(frame)
        regular = first or frame % self._parameters.detection_interval == 0
        if regular or any(_worth_a_search(track.lost) for track in self._active):
            nobody = all(track.lost for track in self._active)
            self._search(frame, view, regular, self._detector.detect(view.rgb(), thorough=first or (nobody and regular)))
        self._active = [track for track in self._active if track.lost <= _PATIENCE and track.unconfirmed <= _UNCONFIRMED]
        self._recent.append((frame, view))

    def _search(self, frame: int, view: FrameView, regular: bool, detections: Sequence[Detection]) -> None:
        """Hand detections to lost tracks, begin new tracks, and doubt tracks that the detector does not confirm."""
        followed = [track for track in self._active if not track.lost]
        free = [
            item for item in detections if all(overlap(item.box, track.last.box) < 0.3 for track in followed)
        ]  # fmt: skip
        if regular:
            for track in followed:
                confirmed = any(overlap(item.box, track.last.box) >= 0.2 for item in detections)
                # The mesh outlives the detector on turned and half covered heads: only where it is unsure itself is it doubted.
                track.unconfirmed = 0 if confirmed or track.last.score > 0.9 else track.unconfirmed + 1
        for item in free:
            found = observe(self._mesh, view, item.window, frame)
            found = found and observe(self._mesh, view, Window.around(found.landmarks), frame)
            if found is None or any(_same(found, track.last) for track in self._active if not track.lost):
                continue
            lost = [track for track in self._active if track.lost and _may_be(track, found)]
            if lost:
                track = min(lost, key=lambda track: _distance(track.last, found))
            elif sum(not track.lost for track in self._active) < self._parameters.maximum_people:
                track = FaceTrack({}, found)
                self._active.append(track)
                self.tracks.append(track)
            else:
                continue
            self._look_back(track, found)
            track.add(found)

    def _look_back(self, track: FaceTrack, found: Observation) -> None:
        """A face is detected some frames after it appeared: follow it back through the frames since the last detection."""
        later = found
        for frame, view in reversed(self._recent):
            others = [other.seen[frame] for other in self.tracks if other is not track and frame in other.seen]
            earlier = None if frame in track.seen else observe(self._mesh, view, Window.around(later.landmarks), frame)
            if earlier is None or any(_same(earlier, other) for other in others):
                return
            track.seen[frame] = later = earlier

    def _merge(self, frame: int) -> None:
        """Two tracks on one face: the one that has been seen more often stays."""
        for track in sorted(self._active, key=lambda track: -len(track.seen)):
            for other in self._active:
                both = track is not other and frame in track.seen and frame in other.seen
                if both and len(other.seen) <= len(track.seen) and _same(track.seen[frame], other.seen[frame]):
                    del other.seen[frame]
                    other.lost = _PATIENCE + 1


def observe(mesh: FaceMesh, picture: NDArray[np.uint8] | FrameView, window: Window, frame: int) -> Observation | None:
    """The face in a window, or None: nothing there, or a mesh that is not where or as large as a face there can be."""
    view = as_view(picture)
    landmarks, presence = mesh.landmarks(view, window)
    if not presence >= _PRESENCE or not np.isfinite(landmarks).all():
        return None
    found = Observation(frame, landmarks, presence)
    box = found.box
    centre = (box[:2] + box[2:]) / 2
    share = found.size / window.side
    outside = (centre < 0).any() or centre[0] > view.width or centre[1] > view.height
    astray = np.abs(centre - (window.x, window.y)).max() > 0.35 * window.side
    return None if outside or astray or not 0.3 < share < 1.1 else found


def find_in_still(detectors: tuple[FaceDetector, FaceDetector], mesh: FaceMesh, rgb: NDArray[np.uint8]) -> list[Observation]:
    """Faces in a still picture, the surest first.

    It is turned by quarters where that is clearly better, and tried with a lower threshold and a border before giving up.

    Args:
        detectors: a strict one and a lenient one.
    """
    height, width = rgb.shape[:2]
    for detector in detectors:
        for border in (0.0, 0.5):
            margin = round(border * max(height, width))
            picture = np.pad(rgb, ((margin, margin), (margin, margin), (0, 0)), mode="edge") if margin else rgb
            best, found = 0.0, list[Observation]()
            for quarters in (0, 1, 3, 2):
                sureness, seen = _in_turned(detector, mesh, picture, quarters)
                # The detector also answers to faces lying on their side, with a mesh that is wrong: only less surely.
                if sureness > best + (0.08 if found else 0.0):
                    best, found = sureness, seen
                if best > _UPRIGHT:
                    break
            if found:
                return [Observation(0, item.landmarks - (margin, margin, 0.0), item.score) for item in found]
    return []


def _in_turned(
    detector: FaceDetector, mesh: FaceMesh, picture: NDArray[np.uint8], quarters: int
) -> tuple[float, list[Observation]]:
    """Faces of a picture turned by quarters, in the pixels of the picture itself, and how sure the detector is of the best."""
    turned = np.ascontiguousarray(np.rot90(picture, quarters))
    found: list[Observation] = []
    best = 0.0
    for item in detector.detect(turned, thorough=True):
        seen = observe(mesh, turned, item.window, 0)
        for _ in range(4):
            seen = seen and observe(mesh, turned, Window.around(seen.landmarks), 0)
        if seen is not None:
            points = _turned_back(seen.landmarks, quarters, picture.shape[1], picture.shape[0])
            back = Observation(0, points, seen.score)
            if not any(_same(back, other) for other in found):
                found.append(back)
                best = max(best, item.score)
    return best, found


def follow(
    read: Read, frames: range, shot_start: int, parameters: LandmarkParameters, networks: Networks
) -> list[list[Observation]]:
    """Tracks of the faces in ``frames`` of one shot, the largest first, each in order of frames.

    Args:
        read: gives a frame, uint8 ``[height, width, 3]`` or a view of it; called in ascending order.
        shot_start: first frame of the shot: the tracker may begin up to there.
    """
    tracker = FaceTracker(networks.detector, networks.mesh, parameters)
    knots = shoulder_frames(frames, parameters.shoulder_interval)
    shoulders: dict[tuple[int, int], NDArray[np.float64]] = {}
    for frame in range(max(shot_start, frames.start - WARM_UP), frames.stop):
        view = as_view(read(frame))
        tracker.step(frame, view)
        if frame in knots:
            seen = [(k, track.seen[frame]) for k, track in enumerate(tracker.tracks) if frame in track.seen]
            for k, found in sorted(seen, key=lambda item: -item[1].size)[:_SHOULDERED]:
                shoulders[k, frame] = networks.pose.shoulders(view, found.box)
    tracks = []
    for k, track in enumerate(tracker.tracks):
        kept = [track.seen[frame] for frame in sorted(track.seen) if frame in frames]
        _interpolate_shoulders(kept, {frame: value for (owner, frame), value in shoulders.items() if owner == k})
        if kept:
            tracks.append(kept)
    return sorted(tracks, key=lambda track: -sum(item.size for item in track))


def shoulder_frames(frames: range, interval: int) -> set[int]:
    """Frames on which the body pose is measured: fixed multiples, so that neighbouring chunks agree, and the chunk's ends."""
    return {frames[0], frames[-1], *(frame for frame in frames if frame % interval == 0)}


class Networks:
    """The networks of this stage, borrowed together."""

    def __init__(self, minimum_score: float) -> None:
        self._borrowed = ExitStack()
        self.detector = self._borrowed.enter_context(borrowed(FaceDetector, minimum_score))
        self.mesh = self._borrowed.enter_context(borrowed(FaceMesh))
        self.pose = self._borrowed.enter_context(borrowed(BodyPose))

    def __enter__(self) -> Networks:
        return self

    def __exit__(self, *error: Any) -> None:
        self._borrowed.__exit__(*error)


class Landmarks(Stage):
    """MediaPipe landmarks, box, score and shoulders of every face in a chunk."""

    name = "landmarks"
    version = 1
    scope = Scope.CLIP_CHUNK
    parameters = LandmarkParameters
    inputs = (Input("ingest"),)
    media = ("clip",)
    tables = (LANDMARK_TABLE,)
    data = MEDIAPIPE

    def run(self, work: Work) -> None:
        assert isinstance(work.parameters, LandmarkParameters)
        assert work.chunk is not None
        chunk = work.chunk
        chunks = work.inputs.table("ingest", "chunks")
        shot_start = int(array(chunks, "start")[array(chunks, "shot") == chunk.shot].min())
        with Networks(work.parameters.minimum_score) as networks, open_clip(work.media["clip"]) as reader:
            if len(reader) == 1:
                tracks = _still(reader.read(0), work.parameters, networks)
            else:

                def read(frame: int) -> FrameView:
                    if frame >= chunk.start:
                        work.progress(1)
                    return reader.view(frame)

                tracks = follow(read, chunk.frames, shot_start, work.parameters, networks)
        work.output.write_table(LANDMARK_TABLE, landmark_columns(tracks, chunk.frames))
        work.output.facts["tracks"] = len(tracks)
        work.output.facts["frames_with_faces"] = len({item.frame for track in tracks for item in track})


def landmark_columns(tracks: Sequence[Sequence[Observation]], frames: range) -> dict[str, NDArray[np.generic]]:
    """Columns of the landmark table: one row per frame and track, and one with track -1 for a frame without a face."""
    rows = sorted(((item.frame, k, item) for k, track in enumerate(tracks) for item in track), key=lambda row: row[:2])
    present = {frame for frame, _, _ in rows}
    absent = [(frame, -1, None) for frame in frames if frame not in present]
    merged: list[tuple[int, int, Observation | None]] = sorted([*rows, *absent], key=lambda row: row[:2])
    box, points = np.full((len(merged), 4), np.nan, np.float32), np.full((len(merged), LANDMARK_VALUES), np.nan, np.float32)
    shoulders = np.tile(np.array([np.nan, np.nan, 0.0] * 2, np.float32), (len(merged), 1))
    score = np.zeros(len(merged), np.float32)
    for index, (_, _, item) in enumerate(merged):
        if item is not None:
            box[index], points[index], shoulders[index] = item.box, item.landmarks.ravel(), item.shoulders
            score[index] = item.score
    return {
        "frame": np.array([row[0] for row in merged], np.int32),
        "track": np.array([row[1] for row in merged], np.int32),
        "detected": np.array([row[2] is not None for row in merged]),
        "score": score,
        "box": box,
        "landmarks": points,
        "shoulders": shoulders,
    }


def _still(rgb: NDArray[np.uint8], parameters: LandmarkParameters, networks: Networks) -> list[list[Observation]]:
    with borrowed(FaceDetector, min(parameters.minimum_score, _LENIENT)) as lenient:
        found = find_in_still((networks.detector, lenient), networks.mesh, rgb)
    found = sorted(found, key=lambda item: -item.size)[: parameters.maximum_people]
    for item in found[:_SHOULDERED]:
        item.shoulders = networks.pose.shoulders(rgb, item.box)
    return [[item] for item in found]


def _interpolate_shoulders(observations: Sequence[Observation], measured: dict[int, NDArray[np.float64]]) -> None:
    """Shoulders between measurements move along straight lines; one side may be unknown where the other is not."""
    known = sorted(frame for frame, value in measured.items() if np.isfinite(value).all())
    if not known:
        return
    values = np.stack([measured[frame] for frame in known])
    frames = [item.frame for item in observations]
    between = np.stack([np.interp(frames, known, values[:, k]) for k in range(6)], axis=1)
    for item, value in zip(observations, between, strict=True):
        item.shoulders = value


def _turned_back(landmarks: NDArray[np.float64], quarters: int, width: int, height: int) -> NDArray[np.float64]:
    """Landmarks found in ``np.rot90(picture, quarters)``, in pixels of the ``width`` x ``height`` picture."""
    x, y, z = landmarks.T
    if quarters == 1:
        x, y = width - y, x
    elif quarters == 2:
        x, y = width - x, height - y
    elif quarters == 3:
        x, y = y, height - x
    return np.stack([x, y, z], axis=1)


def _worth_a_search(lost: int) -> bool:
    return lost > 0 and (lost <= 3 or lost % 3 == 0)


def _same(one: Observation, other: Observation) -> bool:
    return overlap(one.box, other.box) > 0.45 or covered(one.box, other.box) > 0.8


def _distance(one: Observation, other: Observation) -> float:
    return float(np.linalg.norm(one.landmarks[:, :2].mean(0) - other.landmarks[:, :2].mean(0)))


def _may_be(track: FaceTrack, found: Observation) -> bool:
    """Whether a lost face can have come here: about as large, and not farther away than it can have moved."""
    size = track.last.size
    return _distance(track.last, found) < size * (0.5 + 0.15 * track.lost) and 0.6 < found.size / size < 1.7
