"""The subject is the person asked for, found again after every loss and cut, in a crop that does not tremble."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from schemas.configuration import load_settings
from schemas.parameters import TrackParameters
from schemas.problems import SubjectError
from stages.crop_path import crop_path, head_anchor
from stages.face3d.fitting import rotation_from_euler
from stages.track import Track, find_gaps
from storage.artifacts import Artifact
from storage.tables import array
from tests.made_up_faces import HEIGHT, WIDTH, Performer, ingest, inputs, landmarks, run

CLIP = {"clip": Path("holiday.mp4")}


def tracked(
    tmp_path: Path, people: list[Performer], shots: list[tuple[int, int]], codec: str = "h264", **parameters: object
) -> Artifact:
    facts, chunks = ingest(tmp_path / "ingest", shots, codec=codec)
    found = landmarks(tmp_path / "landmarks", chunks, people)
    return run(
        Track(),
        tmp_path / "track",
        TrackParameters(**parameters),
        media=CLIP,
        inputs=inputs(clip_ingest=facts, clip_landmarks=found),
    )


def centres(artifact: Artifact) -> np.ndarray:
    return np.nanmean(array(artifact.table("subject"), "landmarks").reshape(-1, 478, 3)[..., 0], axis=1)


def test_every_frame_of_the_clip_has_a_row_and_a_crop(tmp_path):
    person = Performer(1, [*range(20, 60), *range(90, 100)])
    table = tracked(tmp_path, [person], [(0, 100)]).table("subject")
    np.testing.assert_array_equal(array(table, "frame"), np.arange(100))
    assert np.isfinite(array(table, "crop")).all()
    detected = array(table, "detected")
    np.testing.assert_array_equal(np.flatnonzero(detected), person.frames)
    assert np.isnan(array(table, "landmarks")[~detected]).all()
    assert np.isfinite(array(table, "landmarks")[detected]).all()


def test_short_losses_are_bridged_and_long_ones_named(tmp_path):
    person = Performer(1, [*range(30), *range(36, 60), *range(90, 100)])
    artifact = tracked(tmp_path, [person], [(0, 100)], longest_gap_seconds=0.4)
    table = artifact.table("subject")
    np.testing.assert_array_equal(np.flatnonzero(array(table, "interpolated")), np.arange(30, 36))
    assert array(table, "detected")[30:36].all()
    assert artifact.facts["losses"] == [[60, 90]]
    np.testing.assert_allclose(array(table, "landmarks")[33], array(table, "landmarks")[29], atol=1e-3)


def test_the_largest_is_chosen_and_others_have_numbers(tmp_path):
    people = [Performer(1, list(range(50)), x=150, size=30), Performer(2, list(range(50)), x=450, size=45)]
    artifact = tracked(tmp_path / "largest", people, [(0, 50)])
    assert centres(artifact) == pytest.approx(450, abs=15)
    assert [person["frames"] for person in artifact.facts["people"]] == [50, 50]
    assert centres(tracked(tmp_path / "second", people, [(0, 50)], subject="1")) == pytest.approx(150, abs=15)


def test_a_face_that_passes_by_close_is_not_the_largest(tmp_path):
    people = [Performer(1, list(range(100)), x=150, size=30), Performer(2, [40, 41, 42, 43], x=450, size=90)]
    assert centres(tracked(tmp_path, people, [(0, 100)])) == pytest.approx(150, abs=15)


def test_after_a_cut_the_same_person_is_found_again_by_looks(tmp_path):
    """Shot and counter-shot: the other person is larger in the second shot and on the first one's place."""
    people = [
        Performer(1, list(range(40)), x=200, size=60, noise=0.004),
        Performer(2, list(range(40)), x=450, size=40, noise=0.004),
        Performer(2, list(range(40, 80)), x=200, size=60, noise=0.004),
        Performer(1, list(range(40, 80)), x=450, size=58, noise=0.004),
        Performer(1, list(range(80, 120)), x=300, size=70, noise=0.004),
    ]
    artifact = tracked(tmp_path, people, [(0, 40), (40, 80), (80, 120)])
    where = centres(artifact)
    assert where[:40] == pytest.approx(200, abs=20)
    assert where[40:80] == pytest.approx(450, abs=20)
    assert where[80:] == pytest.approx(300, abs=20)
    assert artifact.facts["compared_by"] == "shape"


def test_a_shot_without_the_subject_has_a_crop_and_is_named(tmp_path):
    artifact = tracked(tmp_path, [Performer(1, list(range(40)))], [(0, 40), (40, 80)])
    table = artifact.table("subject")
    assert artifact.facts["shots_without_subject"] == [1]
    np.testing.assert_allclose(array(table, "crop")[60], (WIDTH / 2, HEIGHT / 2, HEIGHT))


def test_chunks_do_not_show(tmp_path):
    person = Performer(1, list(range(100)), turns={k: (0.3 * k - 15, 0, 0) for k in range(100)}, noise=0.004)
    tables = []
    for length in (100, 17):
        facts, chunks = ingest(tmp_path / str(length) / "ingest", [(0, 100)], chunk_frames=length)
        found = landmarks(tmp_path / str(length) / "landmarks", chunks, [person])
        given = inputs(clip_ingest=facts, clip_landmarks=found)
        tables.append(run(Track(), tmp_path / str(length) / "track", media=CLIP, inputs=given).table("subject"))
    for name in tables[0].column_names:
        np.testing.assert_array_equal(array(tables[0], name), array(tables[1], name))


def test_a_clip_without_a_face_says_so_by_name(tmp_path):
    with pytest.raises(SubjectError, match=r"holiday\.mp4") as caught:
        tracked(tmp_path, [], [(0, 10)])
    assert caught.value.code == "no_face"


def test_the_remedy_for_a_missing_face_names_a_setting_that_there_is(tmp_path):
    with pytest.raises(SubjectError) as caught:
        tracked(tmp_path, [], [(0, 1)])
    assert caught.value.message == "No face was found in holiday.mp4."
    (name,) = re.findall(r"[a-z]+(?:\.\w+)+", caught.value.remedy)
    assert load_settings({name: 0.3}).stages.landmarks.minimum_score == 0.3


def test_a_picture_that_moves_is_marked_for_who_takes_a_head_from_it(tmp_path):
    person = Performer(1, list(range(10)))
    assert tracked(tmp_path / "gif", [person], [(0, 10)], codec="gif").facts["animation"] is True
    assert "animation" not in tracked(tmp_path / "mp4", [person], [(0, 10)]).facts


def test_a_number_too_large_says_how_many_there_are(tmp_path):
    with pytest.raises(SubjectError, match=r"holiday\.mp4 shows 1 person") as caught:
        tracked(tmp_path, [Performer(1, list(range(10)))], [(0, 10)], subject="1")
    assert caught.value.code == "no_such_subject"


def test_gaps_at_the_ends_and_across_cuts_stay():
    detected = np.array([0, 1, 0, 1, 1, 0, 1, 0], bool)
    shots = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    bridged, losses = find_gaps(detected, shots, 3)
    assert np.flatnonzero(bridged).tolist() == [2]
    assert losses == [[0, 1], [5, 6], [7, 8]]


def test_the_anchor_does_not_follow_turns_or_an_open_mouth():
    person = Performer(4, [], expressions={2: {"jawOpen": 1.0}})
    seen = np.stack([person.landmarks(frame) for frame in range(3)])
    centre = np.append(head_anchor(seen[:1])[0, :2], 0.5 * person.size)
    flip = np.diag([1.0, -1.0, -1.0])
    turn = flip @ rotation_from_euler((30, 10, 0)) @ flip
    seen[1] = (seen[1] - centre) @ turn.T + centre
    anchors = head_anchor(seen)
    np.testing.assert_allclose(anchors[:, 2], anchors[0, 2], rtol=0.03)
    np.testing.assert_allclose(anchors[:, :2], np.tile(anchors[0, :2], (3, 1)), atol=0.1 * person.size)


def test_the_crop_keeps_one_side_per_shot_and_does_not_tremble():
    rng = np.random.default_rng(0)
    anchors = np.column_stack([300 + rng.normal(size=120), 200 + rng.normal(size=120), 100 + rng.normal(size=120) * 3])
    anchors[60, :2] += 80  # one wrong frame
    shots = np.repeat([0, 1], 60)
    path = crop_path(anchors, shots, (WIDTH, HEIGHT), 2.6, 10.0)
    assert len(np.unique(path[:60, 2])) == 1
    assert np.abs(np.diff(path[:60, :2], axis=0)).max() < 0.25
    assert np.abs(np.diff(path[61:, :2], axis=0)).max() < 0.25


def test_the_crop_keeps_up_with_a_fast_head():
    x = np.concatenate([np.full(40, 200.0), np.linspace(200, 500, 12), np.full(40, 500.0)])
    anchors = np.column_stack([x, np.full_like(x, 200.0), np.full_like(x, 100.0)])
    path = crop_path(anchors, np.zeros(len(x), int), (WIDTH, HEIGHT), 2.6, 10.0)
    assert np.abs(path[:, 0] - x).max() < 0.2 * path[0, 2]
    assert np.abs(np.diff(path[:, 0], 2)).max() < 6
