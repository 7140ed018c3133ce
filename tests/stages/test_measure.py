"""The measure stage against truth: a result that is the target itself, and the same result damaged in known ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from av import VideoFrame

from schemas.parameters import (
    FitParameters,
    IngestParameters,
    LandmarkParameters,
    MeasureParameters,
    StageParameters,
    TrackParameters,
)
from schemas.tables import FOREGROUND_BLOCKS, LANDMARKS, RENDERED, aligned_table, neutral_table
from stages.contract import Chunk, Inputs, Stage, Work
from stages.face3d.model import FaceModel
from stages.fit3dmm import Fit3dmm
from stages.ingest import Ingest
from stages.landmarks import Landmarks
from stages.measure import Measure, measured_frames, region_box, small_crop
from stages.track import Track
from stages.video.crops import to_crop
from stages.video.decode import open_clip
from stages.video.encode import SegmentWriter
from stages.video.native import native_frames
from stages.video.reduced import reduced_rgb
from storage.artifacts import Artifact, ArtifactWriter
from storage.tables import array
from tests.media import moving_picture, write_video

FRAMES, SIZE, CROP = 24, 512, 256
KEPT = range(20, 24)
"""Frames of the imagined job in which nothing was generated."""

Damage = Callable[[int, npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]


@dataclass
class Case:
    """The artifacts of a job whose result is its target."""

    folder: Path
    target: Path
    clip: dict[str, Artifact]
    crops: npt.NDArray[np.float64]

    def measured(self, damage: Damage | None = None, **parameters: object) -> tuple[dict[str, npt.NDArray[np.generic]], Artifact]:
        """Columns of the measures of a result that is the target with each frame damaged, and the artifact."""
        number = len(list(self.folder.iterdir()))
        assembled = ArtifactWriter(self.folder / f"assemble-{number}")
        with open_clip(self.target) as clip:
            pictures = [clip.read(frame) for frame in range(FRAMES)]
        damaged = [damage(frame, picture.copy()) if damage else picture for frame, picture in enumerate(pictures)]
        write(assembled.file("video.mp4"), damaged)
        assembled.facts["container"] = "mp4"
        inputs = {
            ("ingest", "target"): [self.clip["ingest"]],
            ("track", "target"): [self.clip["track"]],
            ("fit3dmm", "source"): [self.clip["fit3dmm"]],
            ("retarget", "job"): [self.clip["retarget"]],
            ("render", "job"): [self.clip["render"]],
            ("assemble", "job"): [assembled.local()],
        }
        output = ArtifactWriter(self.folder / f"measure-{number}")
        media = {"source": self.target, "target": self.target}
        Measure().run(Work(MeasureParameters(**parameters), output, Inputs(inputs), media))  # type: ignore[arg-type]
        artifact = output.local()
        table = artifact.table("measures")
        return {name: np.asarray(array(table, name)) for name in table.column_names if name != "flags"} | {
            "flags": np.array(table["flags"].to_pylist(), dtype=object)
        }, artifact


def write(path: Path, pictures: list[npt.NDArray[np.uint8]]) -> None:
    writer = SegmentWriter(
        path,
        width=SIZE,
        height=SIZE,
        pixel_format="yuv420p",
        time_base=Fraction(1, 30),
        frame_rate=Fraction(30),
        crf=8,
        color_range=1,
        color_space=1,
        color_primaries=1,
        color_transfer=1,
    )
    with writer:
        for frame, picture in enumerate(pictures):
            coded = VideoFrame.from_ndarray(picture, format="rgb24")
            writer.write(coded.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range=1), frame)


def run(
    stage: Stage, folder: Path, parameters: StageParameters, clip: Path, chunk: Chunk | None = None, **inputs: Artifact
) -> Artifact:
    output = ArtifactWriter(folder / stage.name)
    known = {(name, "clip"): [artifact] for name, artifact in inputs.items()}
    stage.run(Work(parameters, output, Inputs(known), {"clip": clip}, chunk))  # type: ignore[arg-type]
    return output.local()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Case:
    folder = tmp_path_factory.mktemp("measure")
    target = folder / "target.mp4"
    with open_clip(examples / "clip_smile.mp4") as clip:
        write(target, [clip.read(frame) for frame in range(30, 30 + FRAMES)])
    ingest = run(Ingest(), folder, IngestParameters(), target)
    landmarks = run(Landmarks(), folder, LandmarkParameters(), target, Chunk(0, 0, 0, FRAMES), ingest=ingest)
    track = run(Track(), folder, TrackParameters(), target, ingest=ingest, landmarks=landmarks)
    fit = run(Fit3dmm(), folder, FitParameters(), target, track=track)
    crops = array(track.table("subject"), "crop").astype(np.float64)
    generated = ~np.isin(np.arange(FRAMES), KEPT)
    return Case(
        folder,
        target,
        {
            "ingest": ingest,
            "track": track,
            "fit3dmm": fit,
            "retarget": aligned(folder, track, fit, crops, generated),
            "render": rendered(folder, generated),
        },
        crops,
    )


def aligned(
    folder: Path, track: Artifact, fit: Artifact, crops: npt.NDArray[np.float64], generated: npt.NDArray[np.bool_]
) -> Artifact:
    """What a job wants whose source is its target: the target's own landmarks and pose."""
    table = fit.table("fit")
    wanted = array(track.table("subject"), "landmarks").reshape(-1, LANDMARKS, 3)
    columns = {
        "frame": np.arange(FRAMES, dtype=np.int32),
        "generated": generated,
        "landmarks": to_crop(wanted, crops, CROP).reshape(FRAMES, -1),
        "expression": array(table, "expression"),
        "rotation": array(table, "rotation"),
        "translation": to_crop(array(table, "translation")[:, None], crops, CROP)[:, 0],
        "scale": array(table, "scale") * CROP / crops[:, 2],
    }
    output = ArtifactWriter(folder / "retarget")
    expressions = len(FaceModel.builtin().names)
    output.write_table(aligned_table(expressions), columns)
    source = {name: columns[name][:1] for name in ("frame", "landmarks", "expression", "rotation", "translation", "scale")}
    output.write_table(neutral_table(expressions), {**source, "crop": crops[:1], "neutral": columns["landmarks"][:1]})
    return output.local()


def rendered(folder: Path, generated: npt.NDArray[np.bool_]) -> Artifact:
    """A region in the middle of the crop."""
    region = np.zeros((FRAMES, FOREGROUND_BLOCKS, FOREGROUND_BLOCKS), bool)
    region[:, 3:12, 4:12] = True
    statistics = np.full((FRAMES, 6), np.nan, np.float32)
    output = ArtifactWriter(folder / "render")
    frames = np.arange(FRAMES, dtype=np.int32)
    output.write_table(
        RENDERED,
        {
            "frame": frames,
            "generated": generated,
            "region": region.reshape(FRAMES, -1) & generated[:, None],
            "target_statistics": statistics,
            "generated_statistics": statistics,
        },
    )
    with output.pictures("crops") as crops:
        for frame in range(FRAMES):
            crops.write(frame, np.zeros((CROP, CROP, 3), np.uint8))
    return output.local()


def box_of(case: Case, frame: int) -> tuple[int, int, int, int]:
    """The region in frame pixels."""
    x, y, side = case.crops[frame]
    block = side / FOREGROUND_BLOCKS
    left, top = x - side / 2, y - side / 2
    return tuple(round(v) for v in (left + 4 * block, top + 3 * block, left + 12 * block, top + 12 * block))  # type: ignore[return-value]


def test_target_as_its_own_result_has_no_errors(case: Case) -> None:
    columns, artifact = case.measured()
    generated = columns["generated"].astype(bool)
    assert list(np.flatnonzero(~generated)) == list(KEPT)
    ceilings = {"pose_error": 3.0, "landmark_error": 0.02, "position_error": 0.02, "expression_error": 0.05, "seam": 0.5}
    for name, ceiling in ceilings.items():
        assert np.nanmax(columns[name]) < ceiling, name
        assert np.isnan(columns[name][~generated]).all(), name
    assert np.nanmax(columns["jitter"]) < 0.02
    assert np.nanmax(columns["flicker"]) < 0.5
    assert np.nanmax(columns["softness"]) < 0.2
    assert np.isnan(columns["softness"][~generated]).all()
    assert columns["outside_difference"].max() < 2.0
    assert np.isfinite(columns["outside_difference"]).all()
    assert np.isnan(columns["identity"]).all()
    assert not any(columns["flags"])
    verdict = artifact.facts["verdict"]
    assert verdict["grade"] == "check"  # type: ignore[index]
    assert verdict["frames"] == {"total": 24, "generated": 20, "kept": 4, "measured": 20, "flagged": 0}  # type: ignore[index]
    assert "no identity network" in artifact.facts["notes"][0]  # type: ignore[index]


def test_damage_is_found_where_it_is(case: Case) -> None:
    def damage(frame: int, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        left, top, right, bottom = box_of(case, frame)
        if frame == 5:  # brighter for one frame
            picture[top:bottom, left:right] = np.minimum(picture[top:bottom, left:right].astype(int) + 40, 255)
        if frame in (11, 12):  # no head at all
            picture[top:bottom, left:right] = (120, 110, 100)
        if frame == 16:  # everything a few pixels to the right
            picture = np.roll(picture, 12, axis=1)
        if frame in KEPT:
            picture[-60:] = 255 - picture[-60:]
        return picture

    columns, artifact = case.measured(damage)
    assert columns["seam"][5] > 20
    assert columns["flicker"][5] > 20
    assert np.nanmax(columns["seam"][[2, 8, 14, 18]]) < 1
    assert [frame for frame in range(FRAMES) if "face_not_found" in columns["flags"][frame]] == [11, 12]
    assert np.isnan(columns["landmark_error"][[11, 12]]).all()
    unit = float(np.median(array(case.clip["fit3dmm"].table("fit"), "scale")))
    assert columns["position_error"][16] == pytest.approx(12 / unit, rel=0.2)
    assert columns["jitter"][16] > 0.1
    assert columns["outside_difference"][list(KEPT)].min() > 5
    assert columns["outside_difference"][[3, 8]].max() < 2
    verdict = artifact.facts["verdict"]
    assert verdict["grade"] == "poor"  # type: ignore[index]
    assert any(first <= 11 < end and "face_not_found" in reasons for first, end, reasons in verdict["flagged"])  # type: ignore[index]


def test_a_blurred_face_is_called_soft(case: Case) -> None:
    def damage(frame: int, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        left, top, right, bottom = box_of(case, frame)
        if 6 <= frame < 16:
            picture[top:bottom, left:right] = cv2.GaussianBlur(picture, (0, 0), 3.0)[top:bottom, left:right]
        return picture

    columns, artifact = case.measured(damage)
    soft = [frame for frame in range(FRAMES) if "softness" in columns["flags"][frame]]
    assert soft == list(range(6, 16))
    verdict = artifact.facts["verdict"]
    assert verdict["grade"] == "poor"  # type: ignore[index]
    assert "In 10 of 20 measured frames the face is softer than the source's and the target's." in verdict["reasons"]  # type: ignore[index]


def test_every_third_frame_may_be_enough(case: Case) -> None:
    columns, artifact = case.measured(every=3)
    measured = np.flatnonzero(np.isfinite(columns["outside_difference"]))
    assert list(measured) == list(range(0, FRAMES, 3))
    assert np.isfinite(columns["landmark_error"]).sum() == 7
    assert artifact.facts["measured_every"] == 3


def test_same_result_is_measured_the_same_twice(case: Case) -> None:
    assert case.measured()[1].digest == case.measured()[1].digest


def test_measured_frames_begin_anew_with_each_shot() -> None:
    assert measured_frames(np.array([0, 0, 0, 1, 1, 2]), 2).tolist() == [True, False, True, True, False, True]


def test_box_holds_the_region_and_room_for_chroma() -> None:
    region = np.zeros((16, 16), bool)
    region[4:8, 2:6] = True
    crop = np.array([100.0, 120.0, 160.0])
    assert region_box(region, crop) == (36, 76, 84, 124)
    assert region_box(np.zeros((16, 16), bool), crop) == (0, 0, 0, 0)


def test_small_crop_says_what_lies_outside_the_frame() -> None:
    y, x = np.mgrid[0:100, 0:100]
    frame = VideoFrame.from_ndarray(np.stack([x * 2, y * 2, 0 * x], -1).astype(np.uint8), format="rgb24").reformat(
        format="yuv444p"
    )
    # The crop's left half lies left of the frame.
    small, covered = small_crop(frame, 0, (0, 10, 40, 90), np.array([0.0, 50.0, 80.0]))
    size = len(small)
    assert not covered[:, : size // 2 - 1].any()
    assert covered[:, size // 2 + 1 :].all()
    centre = (np.arange(size) + 0.5) * 80 / size
    np.testing.assert_allclose(small[3:-3, size * 3 // 4, 1], (2 * (centre + 10) - 1)[3:-3], atol=3)
    np.testing.assert_allclose(small[size // 2, size // 2 + 4 : -3, 0], (2 * (centre - 40) - 1)[size // 2 + 4 : -3], atol=3)


def test_reduced_picture_agrees_with_the_upright_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "turned.mp4", [moving_picture(0, 160, 120)], rotation=90)
    with open_clip(path) as clip:
        upright = clip.read(0)
    (_, frame), *_ = native_frames(path)
    reduced = reduced_rgb(frame, 90, (20, 40, 100, 160), 40, 60)
    wanted = cv2.resize(upright[40:160, 20:100], (40, 60), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(reduced - wanted).mean() < 3
