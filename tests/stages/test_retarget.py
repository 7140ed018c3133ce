"""A job's landmarks: the source's face, the target's expression, pose and place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.parameters import RetargetParameters
from stages.face3d.fitting import euler_angles, rotation_angle
from stages.face3d.retargeting import openings
from stages.face3d.topology import EYES, interocular
from stages.fit3dmm import Fit3dmm
from stages.retarget import Retarget
from storage.artifacts import Artifact
from storage.tables import array
from tests.made_up_faces import MODEL, Performer, inputs, run, subject

COUNT = 50
BLINK, TALK, SMILE = 15, 25, 35


def driver() -> Performer:
    expressions: dict[int, dict[str, float]] = {TALK: {"jawOpen": 0.7}, SMILE: {"mouthSmile": 0.9}}
    return Performer(
        11,
        [frame for frame in range(COUNT) if frame != 45],
        x=300,
        y=200,
        size=50,
        turns={frame: (0.4 * frame - 10, 4, 3) for frame in range(COUNT)},
        expressions=expressions,
    )


class Blinking(Performer):
    """Closes both eyes in one frame."""

    def landmarks(self, frame: int) -> np.ndarray:
        points = super().landmarks(frame)
        if frame == BLINK:
            for eye in EYES:
                points[list(eye.upper)] = points[list(eye.lower)]
        return points


def clips(
    tmp_path: Path, source: Performer, source_count: int = 1, source_facts: dict[str, object] | None = None
) -> dict[str, Artifact]:
    target = Blinking(**vars(driver()))
    made = {}
    for owner, person, count in (("source", source, source_count), ("target", target, COUNT)):
        track = subject(tmp_path / owner / "track", person, count)
        if owner == "source" and source_facts:
            track.facts.update(source_facts)
        made[f"{owner}_track"] = track
        made[f"{owner}_fit3dmm"] = run(Fit3dmm(), tmp_path / owner / "fit", inputs=inputs(clip_track=track))
    return made


def smiling_source() -> Performer:
    return Performer(12, [0], x=500, y=400, size=120, turns={0: (8, 0, 0)}, expressions={0: {"mouthSmile": 0.7, "jawOpen": 0.3}})


def retargeted(
    tmp_path: Path,
    source: Performer | None = None,
    count: int = 1,
    edits: dict | None = None,
    source_facts: dict[str, object] | None = None,
    **parameters: object,
) -> Artifact:
    given = inputs(**clips(tmp_path, source or smiling_source(), count, source_facts))
    options = {"edits": edits} if edits else {}
    return run(Retarget(), tmp_path / "retarget", RetargetParameters(**parameters), inputs=given, options=options)


def points(artifact: Artifact) -> np.ndarray:
    return array(artifact.table("aligned"), "landmarks").reshape(-1, 478, 3).astype(float)


def test_every_frame_is_there_and_those_without_the_subject_are_not_generated(tmp_path):
    artifact = retargeted(tmp_path)
    table = artifact.table("aligned")
    np.testing.assert_array_equal(array(table, "frame"), np.arange(COUNT))
    assert np.flatnonzero(~array(table, "generated")).tolist() == [45]
    assert np.isnan(points(artifact)[45]).all()
    assert np.isfinite(points(artifact)[44]).all()


def test_pose_place_and_size_are_the_targets(tmp_path):
    artifact = retargeted(tmp_path)
    table = artifact.table("aligned")
    shown = euler_angles(array(table, "rotation")[:45].reshape(-1, 3, 3))
    np.testing.assert_allclose(shown[:, 0], 0.4 * np.arange(45) - 10, atol=1.5)
    assert points(artifact)[10, :, 0].mean() == pytest.approx(256, abs=25)
    wanted = 50 * 512 / (6.5 * 50)
    assert interocular(points(artifact)[10]) == pytest.approx(wanted, rel=0.2)


def test_the_sources_own_expression_is_gone_and_the_targets_is_there(tmp_path):
    opened = openings(points(retargeted(tmp_path)))
    assert opened[10, 2] < 0.02
    assert opened[TALK, 2] > 0.15
    assert opened[BLINK, :2].max() < 0.06
    assert opened[10, :2].min() > 0.15


def test_invariants_are_reported(tmp_path):
    facts = retargeted(tmp_path).facts
    assert facts["invariants"]["eyes_closed"] == {"cases": 2, "held": 2}
    assert facts["invariants"]["mouth_closed"]["cases"] > 30
    assert facts["invariants"]["mouth_closed"]["held"] == facts["invariants"]["mouth_closed"]["cases"]
    assert facts["notes"] == []
    assert facts["neutral_frame"] not in (BLINK, TALK, SMILE)


def test_what_an_edit_opens_is_no_broken_invariant(tmp_path):
    facts = retargeted(tmp_path, edits={"curves": {"jawOpen": {"offset": 0.5}}}).facts
    assert sorted(facts["invariants"]) == ["eyes_closed", "eyes_open"]
    assert facts["notes"] == []


def test_a_frozen_frame_without_a_face_is_told(tmp_path):
    facts = retargeted(tmp_path, edits={"curves": {"eyeBlink": {"freeze": 45}, "jawOpen": {"freeze": 999}}}).facts
    kept = [note.split(";")[1].strip() for note in facts["notes"]]
    assert kept == ["the value of frame 44 is kept.", "the value of frame 49 is kept."]


@pytest.mark.parametrize("edits", [None, {"curves": {"jawOpen": {"scale": 0.5}}, "mirror": True}])
def test_long_stretches_without_a_face_are_frames_without_a_result(tmp_path, edits):
    count, seen = 1100, range(40)
    driver = Performer(11, list(seen), x=300, y=200, size=50)
    tracks = {
        "source": subject(tmp_path / "source" / "track", smiling_source(), 1),
        "target": subject(tmp_path / "target" / "track", driver, count),
    }
    given = {}
    for owner, track in tracks.items():
        given[f"{owner}_track"] = track
        given[f"{owner}_fit3dmm"] = run(Fit3dmm(), tmp_path / owner / "fit", inputs=inputs(clip_track=track))
    options = {"edits": edits} if edits else {}
    artifact = run(Retarget(), tmp_path / "retarget", RetargetParameters(), inputs=inputs(**given), options=options)
    generated = array(artifact.table("aligned"), "generated")
    np.testing.assert_array_equal(generated, np.arange(count) < len(seen))


def test_without_neutralising_the_source_smile_stays(tmp_path):
    def width(artifact: Artifact) -> float:
        seen = points(artifact)[10]
        return float(np.linalg.norm(seen[61] - seen[291]) / interocular(seen))

    assert width(retargeted(tmp_path / "raw", neutralise=False)) > 1.05 * width(retargeted(tmp_path / "neutral"))


def test_the_neutral_table_speaks_of_the_sources_crop(tmp_path):
    source = smiling_source()
    table = retargeted(tmp_path, source).table("neutral")
    seen = array(table, "landmarks").reshape(478, 3)
    crop = array(table, "crop")[0]
    np.testing.assert_allclose((seen / 512 * crop[2])[:, :2] + crop[:2] - crop[2] / 2, source.landmarks(0)[:, :2], atol=0.05)
    neutral = array(table, "neutral").reshape(478, 3)
    assert openings(neutral[None])[0, 2] < 0.02 < openings(seen[None])[0, 2]
    np.testing.assert_allclose(neutral[[6, 168, 10]], seen[[6, 168, 10]], atol=6)


def test_a_video_as_source_gives_its_calmest_frontal_frame(tmp_path):
    source = Performer(
        12,
        list(range(6)),
        size=100,
        turns={0: (30, 0, 0), 1: (0, 25, 0)},
        expressions={2: {"jawOpen": 0.8}, 3: {"eyeBlink": 1.0}, 5: {"mouthSmile": 0.9}},
    )
    assert retargeted(tmp_path, source, 6).facts["source_frame"] == 4


def test_of_a_picture_that_moves_the_first_frame_with_a_face_is_the_portrait_and_told(tmp_path):
    source = Performer(12, [1, 2, 3], size=100, expressions={1: {"jawOpen": 0.8}})
    made = retargeted(tmp_path, source, 4, source_facts={"animation": True})
    assert made.facts["source_frame"] == 1
    assert "The source is a picture that moves; its head is taken from frame 1 alone." in made.facts["notes"]


@pytest.mark.parametrize(("yaw", "told"), [(8.0, False), (-12.0, False), (22.0, True), (-22.0, True)])
def test_a_source_that_hides_one_side_of_its_head_is_told(tmp_path, yaw, told):
    notes = retargeted(tmp_path, Performer(12, [0], size=120, turns={0: (yaw, 0, 0)})).facts["notes"]
    found = [note for note in notes if note.startswith("The source's head is turned to the side by ")]
    assert len(found) == told
    if told:
        assert abs(int(found[0].removeprefix("The source's head is turned to the side by ").split()[0]) - abs(yaw)) <= 4


def people(*found: tuple[int, float]) -> dict[str, object]:
    """Facts of ``track`` about people by the frames they are seen in and the area of their faces."""
    return {"people": [{"frames": frames, "median_area": area, "shots": [0]} for frames, area in found], "chosen": 0}


@pytest.mark.parametrize(
    ("facts", "count", "told"),
    [
        (people((1, 9000.0)), 1, None),
        (people((1, 9000.0), (1, 7000.0)), 1, "shows 2 people"),
        (people((1, 9000.0), (1, 8000.0), (1, 7000.0), (1, 6000.0)), 1, "shows 4 or more people"),
        (people((1, 9000.0), (1, 90.0)), 1, None),
        (people((4, 9000.0), (4, 7000.0)), 6, "shows 2 people"),
        (people((3, 9000.0), (3, 7000.0)), 6, None),
    ],
    ids=["one", "two", "many", "a face in the distance", "two in a video", "perhaps the same after a pause"],
)
def test_a_source_with_several_people_is_told(tmp_path, facts, count, told):
    notes = retargeted(tmp_path, Performer(12, list(range(count)), size=120), count, source_facts=facts).facts["notes"]
    found = [note for note in notes if note.startswith("The source shows")]
    assert len(found) == (told is not None)
    if told is not None:
        assert told in found[0]
        assert "largest" in found[0]


def test_edits_act_on_the_result(tmp_path):
    plain = retargeted(tmp_path / "plain")
    edits = {"curves": {"eyeBlinkLeft": {"offset": 1.0}}, "head_pose": {"yaw": 20}, "head_scale": 1.2}
    edited = retargeted(tmp_path / "edited", edits=edits)
    assert openings(points(edited))[10, 0] < 0.06 < 0.15 < openings(points(edited))[10, 1]
    assert interocular(points(edited)[10]) == pytest.approx(1.2 * interocular(points(plain)[10]), rel=0.03)
    turned = (
        array(edited.table("aligned"), "rotation")[10].reshape(3, 3)
        @ array(plain.table("aligned"), "rotation")[10].reshape(3, 3).T
    )
    assert rotation_angle(turned) == pytest.approx(20, abs=0.1)
    assert array(edited.table("aligned"), "expression")[10].max() == 1.0


def test_crop_pixels_follow_the_crop_size(tmp_path):
    small = retargeted(tmp_path / "small", crop_size=256)
    np.testing.assert_allclose(points(small)[10] * 2, points(retargeted(tmp_path / "large"))[10], rtol=1e-4, atol=1e-2)


def test_mirroring_and_freezing_reach_the_frames(tmp_path):
    edits = {"mirror": True, "curves": {"jawOpen": {"freeze": TALK}}}
    made = clips(tmp_path, smiling_source())
    fit = made["target_fit3dmm"].table("fit")
    artifact = run(Retarget(), tmp_path / "retarget", inputs=inputs(**made), options={"edits": edits})
    left, right, jaw = (MODEL.indices(name)[0] for name in ("mouthSmile_L", "mouthSmile_R", "jawOpen"))
    shown, fitted = array(artifact.table("aligned"), "expression"), array(fit, "expression")
    np.testing.assert_allclose(shown[SMILE, [left, right]], fitted[SMILE, [right, left]], atol=1e-6)
    np.testing.assert_allclose(shown[:45, jaw], fitted[TALK, jaw], atol=1e-6)
    assert openings(points(artifact))[10, 2] > 0.1
