"""Finished swaps are measured against their truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.swaps import MEASURES, Clip, clips_of, differences, measured, sheet, table_of
from schemas.performers import HEAD_EXPRESSIONS, PERFORMANCE
from schemas.tables import LANDMARKS
from stages.detectors import FaceDetector, FaceMesh
from stages.metrics.masks import LARGEST_PSNR
from stages.segmentation import BACKGROUND, CLOTH, FACE
from stages.video.decode import open_clip
from storage.pictures import encode_png
from storage.tables import ParquetTableWriter
from tests.media import write_video

FRAMES = 3


@pytest.fixture(scope="module")
def clip(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A performance as ``headswap performers render --swaps`` leaves it: the example's, whose true swap ships."""
    folder = tmp_path_factory.mktemp("renders") / "0000"
    (folder / "swap").mkdir(parents=True)
    with FaceDetector() as detector, FaceMesh() as mesh:
        for part, source in ((folder, examples / "clip_smile.mp4"), (folder / "swap", examples / "truth" / "ben-smiles.mp4")):
            with open_clip(source) as video:
                pictures = [picture.copy() for _, picture in video.iterate(range(FRAMES))]
            write_video(part / "picture.mp4", pictures)
            (part / "labels").mkdir()
            places = []
            for frame, picture in enumerate(pictures):
                found, _ = mesh.landmarks(picture, detector.detect(picture)[0].window)
                labels = np.full(picture.shape[:2], BACKGROUND, np.uint8)
                labels[picture.shape[0] * 3 // 4 :] = CLOTH
                cv2.circle(labels, tuple(int(value) for value in found[1, :2]), 90, int(FACE), -1)
                (part / "labels" / f"{frame:06d}.png").write_bytes(encode_png(labels))
                places.append(found.ravel())
    rows: dict[str, np.ndarray] = {column.name: np.zeros((FRAMES, *shape_of(column.name))) for column in PERFORMANCE.columns}
    rows |= {"frame": np.arange(FRAMES, dtype=np.int32), "hand": np.zeros(FRAMES, bool), "landmarks": np.stack(places)}
    writer = ParquetTableWriter(folder / "swap" / "truth.parquet", PERFORMANCE)
    writer.write(rows)
    writer.close()
    return Clip("0000", folder, examples / "portrait_ben.png")


def shape_of(name: str) -> tuple[int, ...]:
    sides = {"rotation": 9, "drift": 2, "expression": HEAD_EXPRESSIONS, "points68": 204, "shoulders": 4}
    if name in ("frame", "seconds", "hand"):
        return ()
    return (sides.get(name, LANDMARKS * 3 if name == "landmarks" else 3),)


def test_the_truth_has_no_error_and_the_untouched_target_has(clip: Clip) -> None:
    with FaceMesh() as mesh:
        truth, target = measured(clip, clip.truth, mesh), measured(clip, clip.target, mesh)
    assert list(truth) == list(MEASURES)
    assert truth["head"] == truth["outside"] == LARGEST_PSNR
    assert [truth[name] for name in ("softness", "landmarks", "pose", "expression")] == [0, 0, 0, 0]
    assert truth["shape"] < 1e-6
    assert target["head"] < target["outside"] - 2
    assert target["landmarks"] > 0.02
    assert differences([target], [truth])[0]["landmarks"] == target["landmarks"]


def test_a_swap_without_a_face_is_measured_as_far_as_it_can_be(clip: Clip, tmp_path: Path) -> None:
    with open_clip(clip.truth) as video:
        empty = [np.full_like(picture, 120) for _, picture in video.iterate()]
    with FaceMesh() as mesh:
        found = measured(clip, write_video(tmp_path / "empty.mp4", empty), mesh)
    assert np.isfinite(found["head"])
    assert np.isnan([found["landmarks"], found["pose"], found["expression"], found["softness"]]).all()
    row = table_of({"empty": [found, {**found, "landmarks": 0.04}]}).splitlines()[-1]
    assert "4.00 (4.00 to 4.00)" in row
    assert "| – |" in row


def test_the_sheet_has_a_row_for_each_swap(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "swap_0000.mp4").write_bytes(clip.truth.read_bytes())
    assert sheet([clip, clip], {"warp": tmp_path}).shape == (512, 4 * 256, 3)


def test_renders_without_swaps_are_refused(tmp_path: Path) -> None:
    (tmp_path / "performers.csv").write_text("id,act\n0000,speech\n")
    with pytest.raises(SystemExit, match="--swaps"):
        clips_of(tmp_path)
