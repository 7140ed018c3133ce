"""The inpaint stage: plates of the background without the person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from schemas.parameters import InpaintParameters
from schemas.problems import ModelError
from stages import inpaint
from stages import segmentation as parts
from stages.contract import Inputs, Work
from stages.inpaint import InpaintStage, background_crop
from stages.video.crops import extract_crop
from stages.video.decode import open_clip
from storage.artifacts import Artifact, ArtifactWriter
from storage.tables import array
from tests.artifacts import subject_table
from tests.media import write_video
from tests.stages.painting import paint_person, textured

FRAMES, WIDTH, HEIGHT = 20, 320, 240
LINE = slice(150, 155)
"""Columns of a line on the wall."""


class _Clip:
    """A person who walks before a still or panning camera, with the artifacts that ``inpaint`` reads."""

    def __init__(
        self,
        folder: Path,
        pan: float = 0.0,
        shots: int = 1,
        side: float = 210.0,
        gains: np.ndarray | None = None,
        wall: bool = False,
        line: bool = False,
        walk: Callable[[int], float] = lambda frame: 5.0 * frame,
        card: tuple[int, int] | None = None,
    ) -> None:
        """``gains``: how bright each frame is, 0 to 1; ``wall``: of one colour; ``line``: a dark one hangs beside the hair;
        ``walk``: how far the person is to the right; ``card``: frame from which the picture is flat, and its grey."""
        self.scene = [textured(HEIGHT + 20, WIDTH + 250, seed=seed) for seed in range(shots)]
        if wall:
            self.scene = [np.full_like(scene, 150) for scene in self.scene]
        self.positions = [int(pan * frame) for frame in range(FRAMES)]
        self.shots = np.array([frame * shots // FRAMES for frame in range(FRAMES)], np.int32)
        if line:
            for scene in self.scene:
                scene[60:130, LINE] = (50, 40, 35)
        self.crops = np.array([(110.0 + walk(frame), 125.0, side) for frame in range(FRAMES)])
        pictures, self.labels = [], []
        for frame in range(FRAMES):
            picture, labels, _ = paint_person(self.truth(frame), (110 + walk(frame), 100), 56, seed=frame)
            if card is not None and frame >= card[0]:
                picture, labels = np.full_like(picture, card[1]), np.zeros_like(labels)
            pictures.append(picture if gains is None else np.rint(picture * gains[frame]).astype(np.uint8))
            self.labels.append(extract_labels(labels, self.crops[frame]))
        self.path = write_video(folder / "clip.mp4", pictures, options={"crf": "6"})
        self.folder = folder

    def truth(self, frame: int) -> np.ndarray:
        left = self.positions[frame]
        return np.ascontiguousarray(self.scene[self.shots[frame]][10 : 10 + HEIGHT, left : left + WIDTH])

    def inputs(self) -> Inputs:
        track = subject_table(self.folder / "track", self.crops, shots=self.shots)
        masks = []
        for part, frames in enumerate((range(FRAMES // 2), range(FRAMES // 2, FRAMES))):
            writer = _writer(self.folder / f"masks{part}")
            with writer.pictures("labels") as out:
                for frame in frames:
                    out.write(frame, self.labels[frame])
            masks.append(writer.local())
        return Inputs({("track", "clip"): [track], ("masks", "clip"): masks})

    def run(self, name: str = "inpaint", seed: int = 0, **parameters: object) -> Artifact:
        writer = _writer(self.folder / name)
        (self.folder / f"{name}-inputs").mkdir()
        self.folder, folder = self.folder / f"{name}-inputs", self.folder
        work = Work(InpaintParameters(**parameters), writer, self.inputs(), {"clip": self.path}, seed=seed)  # type: ignore[arg-type]
        InpaintStage().run(work)
        self.folder = folder
        return writer.local()


def _writer(folder: Path) -> ArtifactWriter:
    folder.mkdir()
    return ArtifactWriter(folder)


def extract_labels(labels: np.ndarray, crop: np.ndarray, size: int = 256) -> np.ndarray:
    """The crop of a label map, uint8 [size, size]."""
    rows, columns = (
        np.clip(np.floor(crop[k] + ((np.arange(size) + 0.5) / size - 0.5) * crop[2]).astype(int), 0, limit - 1)
        for k, limit in ((1, labels.shape[0]), (0, labels.shape[1]))
    )
    return np.ascontiguousarray(labels[np.ix_(rows, columns)])


@pytest.mark.parametrize(("pan", "limit"), [(0.0, 3.0), (6.0, 6.0)])
def test_the_background_behind_the_person_is_that_of_the_scene(tmp_path: Path, pan: float, limit: float) -> None:
    clip = _Clip(tmp_path, pan)
    made = clip.run()
    table, plates = made.table("plates"), made.pictures("plates")
    assert array(table, "frame").tolist() == list(range(FRAMES))
    assert plates.frames == [0]
    assert made.facts["unregistered_frames"] == 0
    transforms = array(table, "transform")
    assert array(table, "seen").mean() > 0.4
    assert array(table, "difference").max() < limit
    errors = []
    for frame in (0, 9, 19):
        found = background_crop(plates.read(0), transforms[frame], clip.crops[frame], 256)
        expected = extract_crop(clip.truth(frame), clip.crops[frame], 256)
        errors.append(np.abs(found.astype(int) - expected)[clip.labels[frame] == 0].mean())
    assert max(errors) < limit


def test_a_standing_camera_keeps_the_plate_perfectly_still(tmp_path: Path) -> None:
    transforms = array(_Clip(tmp_path).run().table("plates"), "transform").reshape(-1, 2, 3)
    assert np.ptp(transforms, axis=0).max() == 0
    assert np.array_equal(transforms[0, :, :2], np.eye(2))


_FADES = {"black first": np.r_[0, np.ones(FRAMES - 1)], "fade": np.linspace(0.02, 1, FRAMES)}


@pytest.mark.parametrize("kind", _FADES)
def test_a_panning_camera_is_not_taken_for_a_standing_one_where_a_shot_fades_in(tmp_path: Path, kind: str) -> None:
    made = _Clip(tmp_path, pan=6.0, gains=_FADES[kind]).run()
    moved = array(made.table("plates"), "transform").reshape(-1, 2, 3)[:, 0, 2]
    assert moved[-1] - moved[4] == pytest.approx(6 * (FRAMES - 5), abs=6)
    assert made.facts["unregistered_frames"] <= 3


@pytest.mark.parametrize("kind", _FADES)
def test_a_standing_camera_stands_still_where_a_shot_fades_in(tmp_path: Path, kind: str) -> None:
    made = _Clip(tmp_path, gains=_FADES[kind]).run()
    assert np.ptp(array(made.table("plates"), "transform"), axis=0).max() == 0
    assert made.pictures("plates").frames == [0]
    assert made.facts["unregistered_frames"] >= (kind == "black first")


def test_before_a_wall_without_detail_a_camera_stands_still_and_says_what_it_could_not_see(tmp_path: Path) -> None:
    made = _Clip(tmp_path, wall=True).run()
    assert np.ptp(array(made.table("plates"), "transform"), axis=0).max() == 0
    assert made.facts["unregistered_frames"] > 0


def test_a_camera_that_goes_too_far_between_samples_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of the frames spread over the shot resembles another, which is no reason to take it for still."""
    monkeypatch.setattr(inpaint, "_spread", lambda count, most: np.array([0, count - 1]))
    clip = _Clip(tmp_path, pan=12.0)
    assert np.ptp(array(clip.run().table("plates"), "transform").reshape(-1, 2, 3)[:, 0, 2]) == pytest.approx(228, abs=4)


def test_every_shot_has_a_plate_of_its_own(tmp_path: Path) -> None:
    clip = _Clip(tmp_path, shots=2)
    made = clip.run()
    assert array(made.table("plates"), "plate").tolist() == clip.shots.tolist()
    assert made.pictures("plates").frames == [0, 1]


def test_the_same_seed_gives_the_same_plate_bit_for_bit(tmp_path: Path) -> None:
    clip = _Clip(tmp_path)
    first, again, other = clip.run("first", seed=1), clip.run("again", seed=1), clip.run("other", seed=2)
    assert first.digest == again.digest
    assert first.digest != other.digest


@pytest.mark.parametrize("pan", [0.0, 6.0])
def test_frames_that_were_kept_give_the_plate_that_frames_read_again_give(
    tmp_path: Path, pan: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = _Clip(tmp_path, pan)
    kept = clip.run("kept")
    monkeypatch.setattr(inpaint._PlateMaker, "_samples", inpaint._PlateMaker._read)
    assert clip.run("read").digest == kept.digest


@pytest.mark.parametrize("walk", [0.0, 5.0])
@pytest.mark.parametrize("grey", [0, 235])
@pytest.mark.parametrize("start", [14, 6])
def test_a_shot_that_ends_in_flat_pictures_has_the_plate_of_what_it_showed(
    tmp_path: Path, start: int, grey: int, walk: float
) -> None:
    """Nobody is found in a flat picture: where the person was, it would show its own colour as the background."""
    clip = _Clip(tmp_path, card=(start, grey), walk=lambda frame: walk * frame)
    made = clip.run()
    assert made.pictures("plates").frames == [0]
    table, plate = made.table("plates"), made.pictures("plates").read(0)
    found = background_crop(plate, array(table, "transform")[0], clip.crops[0], 256).astype(int)
    truth = extract_crop(clip.truth(0), clip.crops[0], 256)
    assert np.abs(found - truth)[clip.labels[0] == 0].mean() < 8  # the margin beside the person is filled
    hidden = found[clip.labels[0] > 0]
    assert np.percentile(np.abs(hidden - truth.reshape(-1, 3).mean(0)).mean(1), 98) < 90  # as the wall is, and no card
    difference = array(table, "difference")
    assert difference[:start].max() < 6
    assert difference[start:].min() > 30


@pytest.mark.parametrize("sways", [True, False])
def test_a_line_on_the_wall_beside_the_hair_stays_where_the_head_sways(tmp_path: Path, sways: bool) -> None:
    """It looks like a strand of hair, but stands still; beside a head that does as well nothing can tell."""
    clip = _Clip(tmp_path, wall=True, line=True, walk=lambda frame: 4 * np.sin(frame) if sways else 0.0)
    made = clip.run()
    plate = made.pictures("plates").read(0)
    transform = array(made.table("plates"), "transform")[0].reshape(2, 3)
    left, top = (round(float(value)) for value in transform[:, 2])
    shown = plate[80 + top : 110 + top, LINE.start + left + 1 : LINE.stop + left - 1].mean()
    assert (shown < 60) == sways
    if not sways:
        assert shown > 100


def test_asking_for_lama_without_its_weights_says_how_to_register_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="models add lama"):
        _Clip(tmp_path).run(method="lama")


def test_a_real_still_camera_gets_one_plate_without_the_person(shared: Path, tmp_path: Path) -> None:
    name = "asl_help_man_hand_occludes_chin.mkv"
    with open_clip(shared / "media" / "clips" / name) as clip:
        first = clip.read(0)
    assert first.shape == (480, 640, 3)
    frames = 24
    crop = np.array([320.0, 200.0, 300.0], np.float32)
    labels = np.zeros((256, 256), np.uint8)
    labels[60:, 40:216] = parts.CLOTH
    track, masks = subject_table(tmp_path / "track", np.tile(crop, (frames, 1))), _writer(tmp_path / "masks")
    with masks.pictures("labels") as out:
        for frame in range(frames):
            out.write(frame, labels)
    writer = _writer(tmp_path / "inpaint")
    inputs = Inputs({("track", "clip"): [track], ("masks", "clip"): [masks.local()]})
    InpaintStage().run(Work(InpaintParameters(), writer, inputs, {"clip": shared / "media" / "clips" / name}))
    made = writer.local()
    plate = made.pictures("plates").read(0)
    transform = array(made.table("plates"), "transform")[0]
    assert made.facts["plates"] == 1
    background = background_crop(plate, transform, crop, 256).astype(int)
    original = extract_crop(first, crop, 256)
    assert np.abs(background[:40] - original[:40]).mean() < 4
    filled = background[100:200, 80:180]
    assert filled.std() < original[100:200, 80:180].std() / 2  # a plain wall, not a man in a printed sweater
