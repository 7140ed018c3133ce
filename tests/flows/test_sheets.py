"""Promises of contact sheets: they show what is there, where it is, and say what is not done yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from flows.contact_sheet import (
    LABEL_COLOURS,
    LEFT_COLOUR,
    MAXIMUM_WIDTH,
    RIGHT_COLOUR,
    Tile,
    contact_sheet,
    crop_box,
    draw_landmarks,
    evenly_spread,
    overlay_grid,
    overlay_labels,
)
from flows.sheets import inspect_clip, inspect_job
from schemas.problems import UsageError
from schemas.tables import LABELS, LANDMARK_TABLE, LANDMARKS, MASKS, PLATES, RENDERED, SUBJECT, aligned_table, fit_table
from stages.face3d import topology
from storage.artifacts import Artifact, ArtifactWriter
from storage.pictures import decode_png
from tests.media import moving_pictures, write_video

FRAMES, WIDTH, HEIGHT = 6, 160, 120
CROP = (80.0, 60.0, 64.0)
SIZE = 128


def face(centre: tuple[float, float] = (80.0, 60.0), scale: float = 20.0) -> np.ndarray:
    """float32 [478, 3]: no real face, but eyes, brows and lips are apart and the person's left lies to the right."""
    random = np.random.default_rng(3)
    points = random.uniform(-1, 1, (LANDMARKS, 3))
    for eye, side in ((topology.LEFT_EYE, 1), (topology.RIGHT_EYE, -1)):
        for group in (eye.outline, eye.iris_points, eye.brow_upper, eye.brow_lower):
            points[list(group), 0] = side * (0.5 + 0.2 * points[list(group), 0])
    return np.asarray(points * scale + (*centre, 0), np.float32)


def artifact(
    folder: Path, stage: str, bounds: tuple[int, int] | None = None, **tables: tuple[object, Mapping[str, object]]
) -> ArtifactWriter:
    name = stage if bounds is None else f"{stage}-{bounds[0]}"
    writer = ArtifactWriter(folder / name, stage=stage, recipe={"frames": list(bounds) if bounds else None})
    for schema, columns in tables.values():
        writer.write_table(schema, columns)  # type: ignore[arg-type]
    return writer


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "scene.mp4", moving_pictures(FRAMES, WIDTH, HEIGHT))


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, list[Artifact]]:
    """Everything of a clip of two chunks of three frames; the face is lost in frame 5."""
    folder = tmp_path / "artifacts"
    detected = np.arange(FRAMES) < 5
    landmarks = np.where(detected[:, None], face().reshape(1, -1), np.nan).astype(np.float32)
    shoulders = np.tile(np.array([105, 80, 0.9, 55, 80, 0.9], np.float32), (FRAMES, 1))
    frames = np.arange(FRAMES, dtype=np.int32)
    subject = {
        "frame": frames,
        "shot": np.zeros(FRAMES, np.int32),
        "detected": detected,
        "interpolated": frames == 4,
        "score": np.full(FRAMES, 0.9, np.float32),
        "crop": np.tile(np.array(CROP, np.float32), (FRAMES, 1)),
        "landmarks": landmarks,
        "shoulders": shoulders,
    }
    fit = {
        "frame": frames,
        "detected": detected,
        "expression": np.zeros((FRAMES, 2), np.float32),
        "rotation": np.tile(np.eye(3, dtype=np.float32).ravel(), (FRAMES, 1)),
        "translation": np.zeros((FRAMES, 3), np.float32),
        "scale": np.ones(FRAMES, np.float32),
        "head_rotation": np.tile(np.eye(3, dtype=np.float32).ravel(), (FRAMES, 1)),
        "residual": np.full(FRAMES, 0.02, np.float32),
    }
    found = {
        "track": [artifact(folder, "track", subject=(SUBJECT, subject)).local()],
        "fit3dmm": [artifact(folder, "fit3dmm", fit=(fit_table(2), fit)).local()],
        "landmarks": [],
        "masks": [],
    }
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[32:96, 32:96] = LABELS.index("face")
    labels[96:] = LABELS.index("cloth")
    for start in (0, 3):
        rows = slice(start, start + 3)
        faces = {
            "frame": frames[rows],
            "track": np.where(detected[rows], 0, -1),
            "detected": detected[rows],
            "score": np.full(3, 0.9, np.float32),
            "box": np.where(detected[rows, None], np.array([[60, 40, 100, 80]]), np.nan).astype(np.float32),
            "landmarks": landmarks[rows],
            "shoulders": shoulders[rows],
        }
        found["landmarks"].append(artifact(folder, "landmarks", (start, start + 3), faces=(LANDMARK_TABLE, faces)).local())
        masks = {
            "frame": frames[rows],
            "detected": detected[rows],
            "foreground": np.tile(np.arange(256) >= 64, (3, 1)),
            "hair": np.tile(np.arange(1024) < 64, (3, 1)),
            "shares": np.full((3, len(LABELS)), 1 / len(LABELS), np.float32),
        }
        writer = artifact(folder, "masks", (start, start + 3), masks=(MASKS, masks))
        with writer.pictures("labels") as pictures:
            for frame in range(start, start + 3):
                pictures.write(frame, labels)
        found["masks"].append(writer.local())
    plates = {
        "frame": frames,
        "plate": np.zeros(FRAMES, np.int32),
        "transform": np.tile(np.array([1, 0, -40, 0, 1, -20], np.float32), (FRAMES, 1)),
        "seen": np.full(FRAMES, 0.5, np.float32),
        "difference": np.full(FRAMES, 1.0, np.float32),
    }
    writer = artifact(folder, "inpaint", plates=(PLATES, plates))
    with writer.pictures("plates") as pictures:
        pictures.write(0, np.full((80, 80, 3), (255, 0, 0), np.uint8))
    found["inpaint"] = [writer.local()]
    return found


def sheet_of(paths: list[Path], kind: str) -> np.ndarray:
    (path,) = [path for path in paths if path.stem.endswith(f"-{kind}")]
    return np.asarray(decode_png(path.read_bytes()))


def has_colour(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool((np.abs(picture.astype(int) - colour).max(-1) <= tolerance).any())


def test_a_whole_clip_gives_a_sheet_of_every_kind(clip: Path, artifacts: dict[str, list[Artifact]], tmp_path: Path) -> None:
    paths = inspect_clip(artifacts, clip, tmp_path / "out")
    assert [path.name for path in paths] == [
        f"scene-{kind}.png" for kind in ("landmarks", "crops", "labels", "blocks", "plates", "condition")
    ]
    for path in paths:
        sheet = decode_png(path.read_bytes())
        assert sheet.shape[1] <= MAXIMUM_WIDTH
        assert sheet.std() > 5
    assert has_colour(sheet_of(paths, "crops"), LEFT_COLOUR)
    assert has_colour(sheet_of(paths, "crops"), RIGHT_COLOUR)


def test_only_what_is_done_is_shown(clip: Path, artifacts: dict[str, list[Artifact]], tmp_path: Path) -> None:
    done = {"landmarks": artifacts["landmarks"], "masks": artifacts["masks"], "inpaint": []}
    assert [path.name for path in inspect_clip(done, clip, tmp_path / "out", name="a b")] == ["a-b-landmarks.png"]
    with pytest.raises(UsageError, match="nothing to show of scene"):
        inspect_clip({"landmarks": []}, clip, tmp_path / "out")


def test_a_chunk_that_is_not_done_leaves_its_tiles_empty(
    clip: Path, artifacts: dict[str, list[Artifact]], tmp_path: Path
) -> None:
    whole = inspect_clip(artifacts, clip, tmp_path / "whole")
    artifacts["masks"] = artifacts["masks"][:1]
    half = inspect_clip(artifacts, clip, tmp_path / "half")
    labels = (sheet_of(whole, "labels"), sheet_of(half, "labels"))
    assert labels[0].shape == labels[1].shape
    differs = (labels[0] != labels[1]).any(axis=(0, 2))
    middle = labels[0].shape[1] // 2
    assert not differs[: middle - 8].any()
    assert differs[middle + 8 :].mean() > 0.8


def test_the_plate_lies_where_the_frame_has_it(clip: Path, artifacts: dict[str, list[Artifact]], tmp_path: Path) -> None:
    sheet = sheet_of(inspect_clip(artifacts, clip, tmp_path, frames=1), "plates")
    rows, columns = np.nonzero((sheet == (255, 0, 0)).all(-1))
    # One tile of 427x320 pixels for a frame of 160x120: the plate covers x 40..120 and y 20..100 of it.
    scale = 320 / HEIGHT
    assert np.ptp(columns) + 1 == pytest.approx(80 * scale, abs=5)
    assert np.ptp(rows) + 1 == pytest.approx(80 * scale, abs=5)
    assert columns.min() == pytest.approx(6 + 40 * scale, abs=3)
    assert rows.min() == pytest.approx(34 + 22 + 20 * scale, abs=3)


def test_a_picture_is_a_clip_of_one_frame(artifacts: dict[str, list[Artifact]], tmp_path: Path) -> None:
    from storage.pictures import encode_png

    still = tmp_path / "head.png"
    still.write_bytes(encode_png(moving_pictures(1, WIDTH, HEIGHT)[0]))
    assert len(inspect_clip(artifacts, still, tmp_path / "out")) == 6


def test_a_job_is_shown_as_far_as_it_got(clip: Path, artifacts: dict[str, list[Artifact]], tmp_path: Path) -> None:
    folder = tmp_path / "job"
    frames = np.arange(FRAMES, dtype=np.int32)
    generated = frames < 5
    aligned = {
        "frame": frames,
        "generated": generated,
        "landmarks": np.where(generated[:, None], face((64, 64), 40).reshape(1, -1), np.nan).astype(np.float32),
        "expression": np.zeros((FRAMES, 2), np.float32),
        "rotation": np.zeros((FRAMES, 9), np.float32),
        "translation": np.zeros((FRAMES, 3), np.float32),
        "scale": np.ones(FRAMES, np.float32),
    }
    job = {"track": artifacts["track"], "retarget": [artifact(folder, "retarget", aligned=(aligned_table(2), aligned)).local()]}
    (path,) = inspect_job(job, clip, tmp_path / "out", name="anna")
    assert path.name == "anna-aligned.png"
    rendered = {
        "frame": frames,
        "generated": generated,
        "region": np.tile(np.arange(256) % 16 < 8, (FRAMES, 1)),
        "target_statistics": np.zeros((FRAMES, 6), np.float32),
        "generated_statistics": np.zeros((FRAMES, 6), np.float32),
    }
    writer = artifact(folder, "render", (0, FRAMES), rendered=(RENDERED, rendered))
    with writer.pictures("crops") as pictures:
        for frame in range(5):
            pictures.write(frame, np.full((SIZE, SIZE, 3), (10, 200, 30), np.uint8))
    job["render"] = [writer.local()]
    writer = artifact(folder, "assemble")
    write_video(writer.file("video.mp4"), moving_pictures(FRAMES, WIDTH, HEIGHT, seed=1))
    job["assemble"] = [writer.local()]
    paths = inspect_job(job, clip, tmp_path / "out", name="anna")
    assert [path.name for path in paths] == ["anna-aligned.png", "anna-generated.png", "anna-result.png"]
    assert has_colour(sheet_of(paths, "aligned"), LEFT_COLOUR)
    assert has_colour(sheet_of(paths, "generated"), (10, 200, 30))
    with pytest.raises(UsageError, match="nothing to show of job anna"):
        inspect_job({"track": artifacts["track"]}, clip, tmp_path / "out", name="anna")


@pytest.mark.parametrize(("frames", "count", "expected"), [(0, 3, []), (1, 3, [0]), (3, 5, [0, 1, 2]), (101, 3, [0, 50, 100])])
def test_frames_are_spread_from_first_to_last(frames: int, count: int, expected: list[int]) -> None:
    assert evenly_spread(frames, count) == expected


@pytest.mark.parametrize("shape", [(120, 160), (1280, 720), (100, 4000), (3, 3)])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_sheet_of_any_pictures_is_at_most_2000_pixels_wide(shape: tuple[int, int], count: int) -> None:
    sheet = contact_sheet([Tile(np.full((*shape, 3), 200, np.uint8), "Bär")] * count, "title", (("left", LEFT_COLOUR),))
    assert sheet.shape[1] <= MAXIMUM_WIDTH
    assert has_colour(sheet, (200, 200, 200))


def test_landmarks_are_drawn_where_they_are_and_sides_keep_their_colours() -> None:
    picture = np.zeros((400, 400, 3), np.uint8)
    landmarks = face((200, 200), 150)
    draw_landmarks(picture, landmarks, points=False, thickness=3)
    for eye, colour in ((topology.LEFT_EYE, LEFT_COLOUR), (topology.RIGHT_EYE, RIGHT_COLOUR)):
        for index in eye.brow_upper:
            x, y = np.floor(landmarks[index, :2]).astype(int)
            assert picture[y - 1 : y + 2, x - 1 : x + 2].max() > 0
        half = picture[:, 200:] if colour is LEFT_COLOUR else picture[:, :200]
        assert has_colour(half, colour)
    untouched = picture.copy()
    draw_landmarks(picture, np.full((LANDMARKS, 3), np.nan))
    assert (picture == untouched).all()


def test_overlays_touch_only_what_they_are_about() -> None:
    picture = np.full((64, 64, 3), 100, np.uint8)
    labels = np.zeros((64, 64), np.uint8)
    labels[:32] = 1
    tinted = overlay_labels(picture, labels, opacity=1.0)
    assert (tinted[:32] == LABEL_COLOURS[1]).all()
    assert (tinted[32:] == 100).all()
    grid = np.zeros((16, 16), bool)
    grid[2, 3] = True
    overlay_grid(picture, grid, (255, 0, 0), fill=0.5)
    changed = (picture != 100).any(-1)
    assert changed[8:12, 12:16].all()
    assert not changed[14:].any()
    assert crop_box(np.array([50, 40, 20])).tolist() == [40, 30, 60, 50]
