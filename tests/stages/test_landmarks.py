"""Every face is found and followed: small ones, several, after losses, at cuts of chunks, in turned stills."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from schemas.parameters import LandmarkParameters
from schemas.tables import LANDMARK_VALUES
from stages.contract import Chunk
from stages.detectors import Detection, FaceDetector, Window, covered, overlap
from stages.landmarks import Landmarks, Networks, Observation, find_in_still, follow, landmark_columns, shoulder_frames
from stages.video.decode import open_clip, read_picture
from storage.tables import array
from tests.made_up_faces import ingest, inputs, run

PARAMETERS = LandmarkParameters()


@pytest.fixture(scope="module")
def networks():
    with Networks(PARAMETERS.minimum_score) as made:
        yield made


@pytest.fixture(scope="module")
def lenient():
    with FaceDetector(0.3) as made:
        yield made


@pytest.fixture(scope="module")
def clip(examples: Path) -> list[np.ndarray]:
    with open_clip(examples / "clip_smile.mp4") as reader:
        return [reader.read(frame) for frame in range(30)]


@pytest.fixture(scope="module")
def portrait(examples: Path) -> np.ndarray:
    return read_picture(examples / "portrait_ada.png")[0]


def followed(pictures: list[np.ndarray], networks: Networks, frames: range | None = None) -> list[list[Observation]]:
    return follow(pictures.__getitem__, frames or range(len(pictures)), 0, PARAMETERS, networks)


def placed(picture: np.ndarray, share: float, left: int, top: int, width: int = 1280, height: int = 720) -> np.ndarray:
    """A picture made smaller in an empty wide frame."""
    frame = np.full((height, width, 3), 96, np.uint8)
    small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame


def test_a_face_is_followed_through_every_frame(clip, networks):
    (track,) = followed(clip, networks)
    assert [item.frame for item in track] == list(range(len(clip)))
    assert min(item.score for item in track) > 0.9
    assert np.isfinite(track[0].shoulders).all()
    left, right = track[0].shoulders[:2], track[0].shoulders[3:5]
    assert left[0] > right[0]
    assert min(left[1], right[1]) > track[0].landmarks[:, 1].mean()


@pytest.mark.parametrize("head", [60, 40])
def test_a_small_head_in_a_wide_shot_is_found_as_exactly_as_a_large_one(clip, networks, head):
    (large,) = followed(clip[:2], networks)
    share = head / large[0].size
    (small,) = followed([placed(picture, share, 900, 300) for picture in clip[:6]], networks)
    assert len(small) == 6
    expected = large[1].landmarks[:, :2] * share + (900, 300)
    assert np.abs(small[1].landmarks[:, :2] - expected).mean() < 0.03 * head


def test_two_people_are_two_tracks_the_larger_first(clip, examples, networks):
    with open_clip(examples / "clip_turn.mp4") as reader:
        others = [reader.read(frame) for frame in range(6)]
    frames = [np.hstack([cv2.resize(a, (720, 720)), cv2.resize(b, (540, 720))]) for a, b in zip(clip[:6], others, strict=True)]
    tracks = followed(frames, networks)
    assert [len(track) for track in tracks] == [6, 6]
    assert tracks[0][0].size >= tracks[1][0].size
    assert overlap(tracks[0][0].box, tracks[1][0].box) == 0


def test_a_face_that_vanishes_for_a_moment_keeps_its_track(clip, networks):
    frames = [np.zeros_like(picture) if 10 <= k < 14 else picture for k, picture in enumerate(clip[:20])]
    (track,) = followed(frames, networks)
    assert [item.frame for item in track] == [*range(10), *range(14, 20)]


def test_a_face_that_appears_between_detections_is_followed_back(clip, networks):
    frames = [np.zeros_like(picture) if k < 13 else picture for k, picture in enumerate(clip[:24])]
    (track,) = followed(frames, networks)
    assert [item.frame for item in track] == list(range(13, 24))


def test_a_face_that_leaves_leaves_no_ghost(clip, networks):
    empty = cv2.GaussianBlur(clip[0][::-1, ::-1], (0, 0), 25)
    (track,) = followed([*clip[:12], *[empty] * 12], networks)
    assert [item.frame for item in track] == list(range(12))


def test_where_nobody_is_nobody_is_found(networks, lenient):
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    for picture in (noise, cv2.GaussianBlur(noise, (0, 0), 8)):
        assert followed([picture] * 4, networks) == []
        assert find_in_still((networks.detector, lenient), networks.mesh, picture) == []


def test_chunks_agree_with_the_whole(clip, networks):
    """Only the windows' last settling differs: far less than the landmarks tremble."""
    (whole,) = followed(clip, networks)
    (part,) = followed(clip, networks, range(14, 24))
    assert [item.frame for item in part] == list(range(14, 24))
    for item in part:
        difference = np.abs(item.landmarks - whole[item.frame].landmarks)[:, :2].mean()
        assert difference < 0.002 * item.size


def test_the_same_frames_give_the_same_numbers(clip, networks):
    one, other = (followed(clip[:4], networks) for _ in range(2))
    np.testing.assert_array_equal(one[0][3].landmarks, other[0][3].landmarks)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_still_that_lies_on_its_side_is_found(portrait, networks, lenient, quarters):
    detectors = (networks.detector, lenient)
    (upright,) = find_in_still(detectors, networks.mesh, portrait)
    (found,) = find_in_still(detectors, networks.mesh, np.ascontiguousarray(np.rot90(portrait, quarters)))
    points, width, height = upright.landmarks[:, :2], portrait.shape[1], portrait.shape[0]
    for _ in range(quarters):
        points = np.stack([points[:, 1], width - points[:, 0]], axis=1)
        width, height = height, width
    assert np.abs(found.landmarks[:, :2] - points).mean() < 0.02 * upright.size


def test_a_face_that_fills_its_still_is_found(portrait, networks, lenient):
    (whole,) = find_in_still((networks.detector, lenient), networks.mesh, portrait)
    x0, y0, x1, y1 = whole.box.astype(int)
    (found,) = find_in_still((networks.detector, lenient), networks.mesh, np.ascontiguousarray(portrait[y0:y1, x0:x1]))
    assert np.abs(found.landmarks[:, :2] + (x0, y0) - whole.landmarks[:, :2]).mean() < 0.03 * whole.size


def test_the_stage_writes_a_row_for_every_frame(tmp_path, examples):
    facts, chunks = ingest(tmp_path / "ingest", [(0, 24)], chunk_frames=12)
    media = {"clip": examples / "clip_smile.mp4"}
    artifact = run(Landmarks(), tmp_path / "landmarks", media=media, chunk=chunks[1], inputs=inputs(clip_ingest=facts))
    table = artifact.table("landmarks")
    np.testing.assert_array_equal(array(table, "frame"), np.arange(12, 24))
    assert array(table, "detected").all()
    assert array(table, "landmarks").shape == (12, LANDMARK_VALUES)
    assert artifact.facts["frames_with_faces"] == 12


def test_a_frame_without_a_face_has_one_row_that_says_so():
    columns = landmark_columns([], range(3, 5))
    assert columns["track"].tolist() == [-1, -1]
    assert not columns["detected"].any()
    assert np.isnan(columns["landmarks"]).all()
    assert columns["shoulders"][0, 2] == 0


def test_shoulders_are_measured_on_the_same_frames_whatever_the_chunks():
    whole = shoulder_frames(range(100), 15)
    parts = [shoulder_frames(Chunk(0, 0, a, b).frames, 15) for a, b in ((0, 50), (50, 100))]
    assert whole <= set().union(*parts)


def test_windows_follow_the_roll_of_the_head():
    turn = np.radians(30)
    face = np.zeros((478, 3))
    face[[33, 263], 0] = -30, 30
    face[[10, 152], 1] = -50, 50
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    window = Window.around(face @ rotation.T + (200, 100, 0))
    assert window.turn == pytest.approx(turn)
    assert (window.x, window.y) == pytest.approx((200, 100))
    assert window.side == pytest.approx(150)


def test_boxes_are_compared_by_what_they_share():
    one, inside = np.array([0.0, 0, 10, 10]), np.array([2.0, 2, 6, 6])
    assert overlap(one, one) == 1.0
    assert overlap(one, inside) == pytest.approx(0.16)
    assert covered(one, inside) == 1.0
    assert overlap(one, one + 20) == 0.0
    assert Detection(one, np.array([[2.0, 4.0], [8.0, 4.0]]), 0.9).window.side == 15.0


def test_real_faces_of_all_kinds_are_found(shared, networks, lenient):
    """Paintings, a bust, a robot, rendered people: all of them."""
    for path in sorted((shared / "media" / "portraits").iterdir()):
        found = find_in_still((networks.detector, lenient), networks.mesh, read_picture(path)[0])
        assert found, path.name
