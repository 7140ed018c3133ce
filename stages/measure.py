"""Stage ``measure``: how good a result is, frame by frame, measured on the delivered video.

The project's own landmarks and face model are applied to the result and compared with what was wanted: the landmarks, pose and
expression that ``retarget`` aligned (without edits, its pose and position are the target's). What a picture shows beyond the
target's own (jitter, flicker, a seam) is measured on both and subtracted. Both files are decoded once, side by side; memory
does not grow with their length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from schemas.parameters import MeasureParameters
from schemas.tables import FOREGROUND_BLOCKS, LANDMARKS, MEASURES
from stages.contract import Input, Scope, Stage, Work
from stages.detectors import MESH_SIDE, FaceMesh, Window
from stages.encode import target_frames
from stages.face3d.fitting import fit_frames
from stages.face3d.model import FaceModel, builtin_digest
from stages.identity import IdentityNetwork
from stages.ingest import stream_facts
from stages.metrics import geometry, pictures, verdict
from stages.packages import MEDIAPIPE
from stages.video.crops import crop_matrix, extract_crop, opencv_matrix, to_frame
from stages.video.decode import open_clip, probe
from stages.video.facts import StreamFacts
from stages.video.native import native_frames, plane_format
from stages.video.reduced import Box, reduced_rgb, upright_planes
from stages.warm import borrowed
from storage.tables import array

PRESENCE = 0.5
"""Of a face, below which the mesh is not believed."""

SIDE = 128
"""Side of the small crops in which seams and flicker are measured, pixels."""

IDENTITY_STEP = 5
"""The identity network looks at every so many measured frames: it costs more than everything else together."""

NETWORK = "arcface"
_BATCH = 96


class Measure(Stage):
    """Measures of every frame (or every n-th), and what to make of them.

    Writes the table ``measures`` with one row per frame of the target: NaN where a frame was not measured. Facts: ``verdict``
    (``stages.metrics.verdict``), ``measured_every``, ``notes`` for the report.
    """

    name = "measure"
    version = 3
    scope = Scope.JOB
    parameters = MeasureParameters
    inputs = (
        Input("ingest", "target"),
        Input("track", "target"),
        Input("fit3dmm", "source"),
        Input("retarget", "job"),
        Input("render", "job"),
        Input("assemble", "job"),
    )
    media = ("source", "target")
    models = (NETWORK,)
    tables = (MEASURES,)
    data: ClassVar = {"face_model": builtin_digest(), **MEDIAPIPE}

    def run(self, work: Work) -> None:
        parameters = work.parameters
        assert isinstance(parameters, MeasureParameters)
        frames = work.inputs.table("ingest", "frames", "target", columns=["frame", "seconds", "shot"])
        shots = array(frames, "shot")
        generated = array(work.inputs.table("retarget", "aligned", "job", columns=["generated"]), "generated").astype(bool)
        chosen = measured_frames(shots, parameters.every)
        columns = {name: np.full(len(shots), np.nan) for name in verdict.MEASURES}
        lost = np.zeros(len(shots), bool)
        source = _Source(work)
        with borrowed(FaceMesh) as mesh:
            pairs = _Pairs(work, generated, chosen, mesh, source)
            for batch in pairs.batches():
                _picture_measures(batch, columns)
                _head_measures(batch, columns, lost, pairs)
        above = verdict.limits(parameters.landmark_flag, parameters.pose_flag)
        reasons = verdict.flags(columns, lost, above)
        values = {name: column.astype(np.float32) for name, column in columns.items()}
        work.output.write_table(
            MEASURES,
            {
                "frame": array(frames, "frame"),
                "seconds": array(frames, "seconds"),
                "generated": generated,
                **values,
                "flags": reasons,
            },
        )
        measured = chosen & generated
        work.output.facts["verdict"] = verdict.verdict(
            array(frames, "frame"), generated, measured, columns, reasons, parameters.every
        )
        work.output.facts["measured_every"] = parameters.every
        work.output.facts["notes"] = [*_notes(parameters.every), *source.notes]


def measured_frames(shots: NDArray[np.integer], every: int) -> NDArray[np.bool_]:
    """Every n-th frame of each shot, counted from its first: bool, the length of ``shots``."""
    first = np.searchsorted(shots, shots)
    return (np.arange(len(shots)) - first) % every == 0


@dataclass(frozen=True)
class View:
    """Brightness of the crop in result and target, float32 [SIDE, SIDE], and the region in it, bool [SIDE, SIDE]."""

    result: NDArray[np.float32]
    target: NDArray[np.float32]
    region: NDArray[np.bool_]


@dataclass
class Sample:
    """What was seen in one measured frame.

    Attributes:
        frame, shot: numbers. generated: whether a head was put in.
        outside: difference outside the region. seam, softness, likeness: NaN where nothing was generated (or not looked at).
        found: landmarks in the result, float64 [478, 3], frame pixels; NaN where no face was found.
        view: of the crop, None where nothing was generated.
    """

    frame: int
    shot: int
    generated: bool
    outside: float
    seam: float
    softness: float
    likeness: float
    found: NDArray[np.float64]
    view: View | None = None


@dataclass
class Batch:
    """Consecutive measured samples, with up to two samples of the batch before in front for differences over time.

    Attributes:
        samples: in order. fresh: index of the first sample that belongs to this batch.
        step: frames between samples of a shot.
    """

    samples: list[Sample]
    fresh: int
    step: int

    def consecutive(self) -> Iterator[tuple[Sample, Sample, Sample]]:
        """Triples of neighbours in one shot in all of which a head was generated; the last of each is fresh."""
        for index in range(2, len(self.samples)):
            before, now, after = self.samples[index - 2 : index + 1]
            near = before.shot == after.shot and after.frame - before.frame == 2 * self.step
            if index >= self.fresh and near and before.generated and now.generated and after.generated:
                yield before, now, after


class _Source:
    """The source's face: how much detail it shows, and how alike others are by the identity network, where one is registered."""

    def __init__(self, work: Work) -> None:
        table = work.inputs.table("retarget", "neutral", "job", columns=["frame", "crop", "landmarks"])
        with open_clip(work.media["source"]) as clip:
            picture = extract_crop(clip.read(int(array(table, "frame")[0])), array(table, "crop")[0], _crop_size(work))
        landmarks = array(table, "landmarks")[0].reshape(LANDMARKS, 3)
        self.detail = pictures.face_detail(picture, landmarks)
        self._network: IdentityNetwork | None = None
        self.notes: list[str] = []
        self._calls = 0
        if NETWORK not in work.models:
            self.notes.append(f"Likeness to the source was not measured: no identity network is registered as {NETWORK}.")
            return
        self._network = IdentityNetwork(work.models[NETWORK])
        self._embedding = self._network.embed(picture, landmarks)

    def cosine(self, rgb: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> float:
        """NaN without a network and for the frames that it is spared."""
        self._calls += 1
        if self._network is None or self._calls % IDENTITY_STEP != 1:
            return float("nan")
        return float(self._network.embed(rgb, landmarks) @ self._embedding)


class _Pairs:
    """Streams through result and target side by side."""

    def __init__(
        self, work: Work, generated: NDArray[np.bool_], chosen: NDArray[np.bool_], mesh: FaceMesh, source: _Source
    ) -> None:
        assert isinstance(work.parameters, MeasureParameters)
        self.work, self.generated, self.chosen = work, generated, chosen
        self.step = work.parameters.every
        self.size = _crop_size(work)
        self.model = FaceModel.builtin()
        identity = work.inputs.table("fit3dmm", "identity", "source", columns=["coefficients"])
        self.identity = array(identity, "coefficients")[0].astype(np.float64)
        subject = work.inputs.table("track", "subject", "target", columns=["shot", "crop"])
        self.shots, self.crops = array(subject, "shot"), array(subject, "crop").astype(np.float64)
        self._mesh, self._source = mesh, source
        self._facts = stream_facts(work.inputs.one("ingest", "target").facts["stream"])
        assembled = work.inputs.one("assemble", "job")
        self._result: Path = assembled.file(f"video.{assembled.facts['container']}")
        self._result_facts = probe(self._result)

    def batches(self) -> Iterator[Batch]:
        """All measured frames, in order."""
        window: deque[Sample] = deque(maxlen=2)
        samples: list[Sample] = []
        for sample in self._samples():
            samples.append(sample)
            if len(samples) == _BATCH:
                yield Batch([*window, *samples], len(window), self.step)
                window.extend(samples)
                samples = []
        if samples:
            yield Batch([*window, *samples], len(window), self.step)

    def wanted(self, start: int, stop: int) -> dict[str, NDArray[np.float64]]:
        """Rows ``start..stop-1`` of the aligned table, in frame pixels, and the target's own landmarks there."""
        frames = range(start, stop)
        columns = ["landmarks", "expression", "rotation", "translation", "scale"]
        aligned = self.work.inputs.table("retarget", "aligned", "job", columns=columns, frames=frames)
        own = self.work.inputs.table("track", "subject", "target", columns=["landmarks"], frames=frames)
        crops = self.crops[start:stop]
        return {
            "landmarks": to_frame(array(aligned, "landmarks").reshape(-1, LANDMARKS, 3), crops, self.size),
            "expression": array(aligned, "expression").astype(np.float64),
            "rotation": array(aligned, "rotation").reshape(-1, 3, 3).astype(np.float64),
            "translation": to_frame(array(aligned, "translation")[:, None].astype(np.float64), crops, self.size)[:, 0],
            "unit": array(aligned, "scale") * crops[:, 2] / self.size,
            "own": array(own, "landmarks").reshape(-1, LANDMARKS, 3).astype(np.float64),
        }

    def _samples(self) -> Iterator[Sample]:
        total = len(self.generated)
        ours = native_frames(self._result, range(total))
        theirs = target_frames(self.work.media["target"], self._facts, range(total))
        rows: dict[str, NDArray[np.float64]] = {}
        regions = np.zeros((0, FOREGROUND_BLOCKS**2), bool)
        start = stop = 0
        for (frame, result), (_, target) in zip(ours, theirs, strict=True):
            if frame >= stop:
                start, stop = frame, min(frame + _BATCH, total)
                rows = self.wanted(start, stop)
                table = self.work.inputs.table("render", "rendered", "job", columns=["region"], frames=range(start, stop))
                regions = array(table, "region").reshape(-1, FOREGROUND_BLOCKS**2).astype(bool)
            self.work.progress(1)
            if self.chosen[frame]:
                landmarks = rows["landmarks"][frame - start], rows["own"][frame - start]
                yield self._look(frame, result, target, *landmarks, regions[frame - start])

    def _look(
        self,
        frame: int,
        result: VideoFrame,
        target: VideoFrame,
        expected: NDArray[np.float64],
        own: NDArray[np.float64],
        grid: NDArray[np.bool_],
    ) -> Sample:
        crop, generated = self.crops[frame], bool(self.generated[frame])
        nowhere = np.full((LANDMARKS, 3), np.nan)
        region = grid.reshape(FOREGROUND_BLOCKS, FOREGROUND_BLOCKS) if generated else np.zeros((1, 1), bool)
        box = region_box(region, crop)
        outside = _outside(result, target, box, self._result_facts, self._facts)
        sample = Sample(frame, int(self.shots[frame]), generated, outside, np.nan, np.nan, np.nan, nowhere)
        if not generated:
            return sample
        found, picture, corner, scale = self._face(result, expected)
        if found is not None:
            sample.likeness = self._source.cosine(picture, found)
            theirs, *place = _part(target, self._facts, Window.around(own))
            detail = pictures.face_detail(picture, found), pictures.face_detail(theirs, _into(own, *place))
            sample.softness = pictures.softness(detail[0], self._source.detail, detail[1])
            sample.found = found * (*scale, scale[0]) + (*corner, 0.0)
        box = _inside(crop, self._facts)
        small_ours, usable = small_crop(result, self._result_facts.rotation, box, crop)
        small_theirs, _ = small_crop(target, self._facts.rotation, box, crop)
        small_region = cv2.resize(region.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0
        sample.seam = pictures.seam(small_ours, small_theirs, small_region, usable)
        sample.view = View(pictures.brightness(small_ours), pictures.brightness(small_theirs), small_region)
        return sample

    def _face(
        self, result: VideoFrame, expected: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
        """The face of the result near the expected landmarks: landmarks in a small picture of it (None where there is none), the
        picture, and the picture's corner [2] and pixel size [2] in frame pixels."""
        window = Window.around(expected)
        picture, corner, scale = _part(result, self._result_facts, window)
        centre = (np.array([window.x, window.y]) - corner) / scale
        where = Window(float(centre[0]), float(centre[1]), window.side / float(scale.mean()), window.turn)
        found, presence = self._mesh.landmarks(picture, where)
        seen = presence >= PRESENCE and bool(np.isfinite(found).all())
        return found if seen else None, picture, corner, scale


def _part(
    frame: VideoFrame, facts: StreamFacts, window: Window
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """The part of a frame around a window, small enough for the mesh, uint8 RGB; its corner [2] and pixel size [2] in frame
    pixels."""
    left, top, right, bottom = _inside(np.array([window.x, window.y, 1.5 * window.side]), facts)
    shrink = max(1.0, window.side / MESH_SIDE)
    width, height = max(2, round((right - left) / shrink)), max(2, round((bottom - top) / shrink))
    small = reduced_rgb(frame, facts.rotation, (left, top, right, bottom), width, height)
    picture = np.clip(small + 0.5, 0, 255).astype(np.uint8)
    return picture, np.array([left, top], np.float64), np.array([(right - left) / width, (bottom - top) / height])


def _into(landmarks: NDArray[np.float64], corner: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Landmarks [478, 3] of a frame in the pixels of a part of it."""
    return np.asarray((landmarks - (*corner, 0.0)) / (*scale, scale[0]))


def region_box(region: NDArray[np.bool_], crop: NDArray[np.float64]) -> Box:
    """Frame pixels (left, top, right, bottom) that hold all blocks of a grid ``[k, k]``, with room for chroma samples."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    blocks = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], np.float64)
    corners = to_frame(blocks, crop, region.shape[0])
    low, high = np.floor(corners[0]) - 4, np.ceil(corners[1]) + 4
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def small_crop(
    frame: VideoFrame, rotation: int, box: Box, crop: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The crop at ``SIDE`` pixels, float32 [SIDE, SIDE, 3], and which of its pixels the frame covers.

    Args:
        rotation: of the display, clockwise, degrees. box: the part of the frame that the crop covers, whole frame pixels.
        crop: centre x, centre y, side, frame pixels.
    """
    left, top, right, bottom = box
    shrink = max(1.0, float(crop[2]) / SIDE)
    width, height = max(1, round((right - left) / shrink)), max(1, round((bottom - top) / shrink))
    small = reduced_rgb(frame, rotation, box, width, height)
    matrix = crop_matrix(crop, SIDE)
    matrix[:, 2] += matrix[:, :2] @ np.array([left, top], np.float64)
    matrix[:, :2] *= ((right - left) / width, (bottom - top) / height)
    turned = opencv_matrix(matrix)
    picture = cv2.warpAffine(small, turned, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    there = cv2.warpAffine(np.ones((height, width), np.uint8), turned, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
    return np.asarray(picture, np.float32), there > 0


def _inside(crop: NDArray[np.float64], facts: StreamFacts) -> Box:
    """The part of the frame, whole pixels, that a crop covers."""
    low, high = np.floor(crop[:2] - crop[2] / 2), np.ceil(crop[:2] + crop[2] / 2)
    left, top = (int(np.clip(low[k], 0, side - 1)) for k, side in ((0, facts.width), (1, facts.height)))
    right, bottom = (
        int(np.clip(high[k], first + 1, side)) for k, side, first in ((0, facts.width, left), (1, facts.height, top))
    )
    return left, top, right, bottom


def _outside(result: VideoFrame, target: VideoFrame, box: Box, ours: StreamFacts, theirs: StreamFacts) -> float:
    codes, bits = [], []
    for frame, facts in ((result, ours), (target, theirs)):
        layout = plane_format(frame.format.name)
        assert layout is not None
        codes.append(upright_planes(frame, facts.rotation)[0])
        bits.append(layout.bits)
    return pictures.outside_difference(codes[0], codes[1], box, (bits[0], bits[1]))


def _picture_measures(batch: Batch, columns: dict[str, NDArray[np.float64]]) -> None:
    for sample in batch.samples[batch.fresh :]:
        columns["outside_difference"][sample.frame] = sample.outside
        columns["seam"][sample.frame] = sample.seam
        columns["softness"][sample.frame] = sample.softness
        columns["identity"][sample.frame] = sample.likeness
    for before, now, after in batch.consecutive():
        first, middle, last = before.view, now.view, after.view
        if first is None or middle is None or last is None:
            continue
        own = pictures.flicker(first.result, middle.result, last.result, middle.region)
        reference = pictures.flicker(first.target, middle.target, last.target, middle.region)
        columns["flicker"][now.frame] = geometry.beyond(own, reference)


def _head_measures(batch: Batch, columns: dict[str, NDArray[np.float64]], lost: NDArray[np.bool_], pairs: _Pairs) -> None:
    first = batch.samples[0].frame
    wanted = pairs.wanted(first, batch.samples[-1].frame + 1)
    fresh = [sample for sample in batch.samples[batch.fresh :] if sample.generated]
    seen = [sample for sample in fresh if np.isfinite(sample.found).all()]
    for sample in fresh:
        lost[sample.frame] = not np.isfinite(sample.found).all()
    if seen:
        frames = np.array([sample.frame for sample in seen])
        found = np.stack([sample.found for sample in seen])
        goal = {name: values[frames - first] for name, values in wanted.items()}
        fit = fit_frames(found, pairs.model, pairs.identity)
        unit = goal["unit"]
        columns["pose_error"][frames] = geometry.pose_error(fit.poses.rotation, goal["rotation"])
        columns["yaw_pitch_roll_error"][frames] = geometry.yaw_pitch_roll_error(fit.poses.rotation, goal["rotation"])
        columns["expression_error"][frames] = geometry.expression_error(fit.expression, goal["expression"])
        columns["landmark_error"][frames] = geometry.landmark_error(found, goal["landmarks"], unit)
        columns["position_error"][frames] = geometry.position_error(fit.poses.translation, goal["translation"], unit)
    for before, now, after in batch.consecutive():
        rows = np.array([before.frame, now.frame, after.frame]) - first
        unit = np.repeat(wanted["unit"][rows[1]], 3)
        own = geometry.acceleration(np.stack([before.found, now.found, after.found]), unit)[1]
        reference = geometry.acceleration(wanted["own"][rows], unit)[1]
        columns["jitter"][now.frame] = geometry.beyond(own, reference)


def _crop_size(work: Work) -> int:
    """Side of the crops that aligned landmarks and generated pictures are in, pixels."""
    crops = work.inputs.all("render", "job")[0].pictures("crops")
    return int(crops.read(crops.frames[0]).shape[0])


def _notes(every: int) -> list[str]:
    return [] if every == 1 else [f"Every {every}th frame was measured."]


__all__ = ["Batch", "Measure", "Sample", "measured_frames", "region_box", "small_crop"]
