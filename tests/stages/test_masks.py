"""Label maps: each part is found where it is, whatever its colour, and frames without a face are marked, not lost."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from schemas.parameters import MaskParameters
from schemas.problems import ModelError
from schemas.tables import LANDMARKS
from stages import segmentation as parts
from stages.contract import Chunk, Inputs, Work
from stages.hands import Awaiting, at_head, find_hands, hand_mask
from stages.masks import MaskStage, outside_picture
from stages.matte import foreground_colours, head_matte, reference_image, solve_matte
from stages.segmentation import GRID, HairNetwork, HeadFrame, HeadParser, PersonNetwork, enlarge_labels, small_crop
from stages.video.crops import extract_crop
from stages.video.decode import open_clip
from storage.artifacts import Artifact, ArtifactWriter
from storage.tables import array
from tests.artifacts import subject_table
from tests.media import moving_pictures, write_video
from tests.stages.painting import paint_person, painted_landmarks, textured


def _overlap(found: np.ndarray, truth: np.ndarray, label: int) -> float:
    return float(((found == label) & (truth == label)).sum() / max(((found == label) | (truth == label)).sum(), 1))


def _soft(labels: np.ndarray) -> np.ndarray:
    """A person probability as a network gives it: soft at the border."""
    return cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), 2)


@pytest.mark.parametrize("long_hair", [False, True])
def test_each_part_of_a_painted_person_is_found(long_hair: bool) -> None:
    people = [paint_person(textured(256, 256, seed), (120 + 4 * seed, 105), 84, long_hair, seed) for seed in range(4)]
    pictures, truths, landmarks = zip(*people, strict=True)
    persons = [_soft(truth) for truth in truths]
    parser = HeadParser.fit(pictures, landmarks, persons, [None] * 4)
    labels = parser.labels(pictures[1], landmarks[1], persons[1])
    overlaps = {label: _overlap(labels, truths[1], label) for label in (parts.HAIR, parts.FACE, parts.NECK, parts.CLOTH)}
    assert overlaps[parts.HAIR] > 0.85
    assert overlaps[parts.FACE] > 0.9
    assert overlaps[parts.NECK] > 0.6
    assert overlaps[parts.CLOTH] > 0.85
    assert ((labels > 0) == (truths[1] > 0)).mean() > 0.97


def test_labels_keep_still_when_only_noise_changes() -> None:
    background = textured(256, 256)
    people = [paint_person(background, (128, 105), 84, True, seed) for seed in range(6)]
    pictures, truths, landmarks = zip(*people, strict=True)
    person = _soft(truths[0])
    parser = HeadParser.fit(pictures[:3], landmarks[:3], [person] * 3, [None] * 3)
    maps = [parser.labels(picture, landmarks[0], person) for picture in pictures]
    changed = np.mean([(first != second).mean() for first, second in pairwise(maps)])
    assert changed < 0.01


def test_a_map_does_not_depend_on_the_size_it_is_asked_for() -> None:
    picture, truth, landmarks = paint_person(textured(256, 256), (128, 105), 84)
    person = _soft(truth)
    parser = HeadParser.fit([picture], [landmarks], [person], [None])
    small, large = parser.labels(picture, landmarks, person), parser.labels(picture, landmarks, person, size=512)
    assert large.shape == (512, 512)
    assert (large[::2, ::2] == small).mean() > 0.99
    assert np.array_equal(enlarge_labels(small, 256), small)


def test_outside_of_the_picture_there_is_background() -> None:
    picture, truth, landmarks = paint_person(textured(256, 256), (128, 105), 84)
    person = _soft(truth)
    outside = outside_picture(np.array([128, 100, 256]), 256, 200)
    assert np.array_equal(np.nonzero(outside.any(1))[0], np.r_[:28, 228:256])
    person[outside] = -1
    parser = HeadParser.fit([picture], [landmarks], [person], [None])
    assert not parser.labels(picture, landmarks, person)[outside].any()


@pytest.mark.parametrize("side", [180.0, 400.5, 611.3, 827.0])
def test_a_crop_made_small_first_shows_what_the_smooth_one_shows(side: float) -> None:
    picture = cv2.GaussianBlur(textured(720, 900), (0, 0), 4)
    crop = np.array([430.3, 355.8, side])
    found, expected = small_crop(picture, crop).astype(int), extract_crop(picture, crop, GRID).astype(int)
    difference = np.abs(found - expected).mean()
    shifted = min(np.abs(found[:, 1:] - expected[:, :-1]).mean(), np.abs(found[1:] - expected[:-1]).mean())
    assert difference < 2
    assert difference < 0.5 * shifted


def test_the_hair_network_decides_where_colours_do_not() -> None:
    background = textured(256, 256)
    picture, truth, landmarks = paint_person(background, (128, 105), 84, long_hair=True)
    dark = picture.copy()
    dark[truth == parts.CLOTH] = (70, 42, 25)  # clothes of the hair's colour
    person, hair = _soft(truth), cv2.GaussianBlur((truth == parts.HAIR).astype(np.float32), (0, 0), 1.5)
    parser = HeadParser.fit([dark], [landmarks], [person], [hair])
    assert _overlap(parser.labels(dark, landmarks, person, hair), truth, parts.HAIR) > 0.85


def test_a_print_of_the_hairs_colour_that_hangs_from_nowhere_is_cloth() -> None:
    people = [paint_person(textured(256, 256), (128, 95), 84, seed=seed) for seed in range(2)]
    pictures, truths, landmarks = zip(*people, strict=True)
    pictures[1][205:235, 75:181] = (70, 42, 25)
    persons = [_soft(truth) for truth in truths]
    persons[1][:130] = -1  # a crop that reaches beyond the picture: the print is all that could be hair
    parser = HeadParser.fit(pictures, landmarks, persons, [None] * 2)
    cell = parts.colour_index(pictures[1][220:221, 128:129])[0, 0]
    assert parser.likelihood[2, cell] > 1e-3  # of cloth


def test_components_are_those_that_touch_their_seed_however_many_there_are() -> None:
    mask, seed = np.zeros((9, 9), np.uint8), np.zeros((9, 9), bool)
    mask[1:3, 1:3] = 1
    seed[6, 6] = True
    assert not parts._component_at(mask, seed).any()
    mask[5:8, 5:8] = 1
    assert parts._component_at(mask, seed).sum() == 9
    assert np.array_equal(parts._component_at(mask, mask > 0), mask)


@pytest.mark.parametrize("beyond", ["crop", "picture"])
def test_a_person_whose_face_is_not_shown_stays(beyond: str) -> None:
    picture, truth, landmarks = paint_person(textured(256, 256), (128, 105), 84)
    person = _soft(truth)
    parser = HeadParser.fit([picture], [landmarks], [person], [None])
    if beyond == "crop":
        landmarks = landmarks - np.array([0, 200, 0], np.float32)
    else:
        person[:150] = -1
    labels = parser.labels(picture, landmarks, person)
    assert (labels[200:] > 0).sum() > 0.8 * (truth[200:] > 0).sum()


def test_head_coordinates_turn_and_grow_with_the_head() -> None:
    landmarks = painted_landmarks((100, 90), 60)
    turn = np.array([[0, -1], [1, 0]], np.float32)  # a head lying on its side
    turned = landmarks.copy()
    turned[:, :2] = (landmarks[:, :2] - (100, 90)) @ turn.T * 2 + (128, 128)
    head = HeadFrame.of(turned)
    assert head.size == pytest.approx(120, rel=0.01)
    u, v = head.coordinates(256, 256)
    chin = turned[152, :2].astype(int)
    assert (u[chin[1], chin[0]], v[chin[1], chin[0]]) == pytest.approx((0, 0.5), abs=0.01)


# ----------------------------------------------------------------------------------------------------------------- hands


def _hand(x: float, y: float) -> np.ndarray:
    """float64 [1, 21, 2]: an upright hand whose fingertips reach (x, y)."""
    points = np.zeros((21, 2))
    points[0] = (x, y + 60)
    for finger in range(5):
        for joint in range(4):
            points[1 + 4 * finger + joint] = (x - 16 + 8 * finger, y + 36 - 12 * joint)
    return points[None]


def test_a_hand_in_front_of_the_chin_is_kept_apart_from_the_face() -> None:
    picture, truth, landmarks = paint_person(textured(256, 256), (128, 105), 84)
    hand = _hand(128, 125)
    assert at_head(hand, landmarks)
    assert not at_head(_hand(128, 200), landmarks)
    person = _soft(truth)
    parser = HeadParser.fit([picture], [landmarks], [person], [None])
    labels = parser.labels(picture, landmarks, person, front=hand_mask(hand, GRID, GRID))
    assert labels[130, 128] == parts.OTHER
    assert labels[80, 128] == parts.FACE
    assert not (parser.labels(picture, landmarks, person) == parts.OTHER).any()


def test_bare_skin_that_no_hand_touches_is_not_a_hand() -> None:
    picture, truth, landmarks = paint_person(textured(256, 256), (128, 95), 84)
    person = _soft(truth)
    picture[142:200, 105:151] = (40, 70, 160)  # a scarf
    picture[118:123, 151:156] = (70, 42, 25)
    parser = HeadParser.fit([picture], [landmarks], [person], [None])
    picture[180:240, 60:100] = (224, 172, 140)
    front = np.zeros((GRID, GRID), np.uint8)
    front[200:230, 150:180] = 255
    assert (parser.labels(picture, landmarks, person)[190:230, 70:90] == parts.NECK).all()
    labels = parser.labels(picture, landmarks, person, front=front)
    assert not (labels == parts.OTHER).any()
    front[200:230, 80:110] = 255
    assert (parser.labels(picture, landmarks, person, front=front)[190:230, 70:90] == parts.OTHER).all()


class _SeesHands:
    """In place of the network: a hand from frame 6 to 9, missed in frame 7."""

    def __init__(self) -> None:
        self.looked: list[int] = []

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        frame = int(rgb[0, 0, 0])
        self.looked.append(frame)
        return _hand(50, 50) * rgb.shape[0] / 256 if 6 <= frame <= 9 and frame != 7 else np.zeros((0, 21, 2))


def test_hands_are_looked_for_sparsely_and_bridged_where_they_are_missed() -> None:
    landmarks = painted_landmarks((60, 40), 60)
    crop = np.array([50.0, 35.0, 100.0])

    def frames() -> Iterable[Awaiting]:
        for number in range(24):
            yield Awaiting(number, landmarks, crop, 100, np.full((300, 300, 3), number, np.uint8))

    network = _SeesHands()
    found = list(find_hands(frames(), network))  # type: ignore[arg-type]
    assert all(len(found[number]) for number in range(6, 10))
    assert not any(len(found[number]) for number in [*range(5), *range(16, 24)])
    assert set(network.looked) == {0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 20, 21, 22, 23}


def test_where_hands_are_found_does_not_depend_on_where_a_chunk_begins() -> None:
    landmarks = painted_landmarks((60, 40), 60)
    crop = np.array([50.0, 35.0, 100.0])
    frames = [Awaiting(number, landmarks, crop, 100, np.full((300, 300, 3), number, np.uint8)) for number in range(32)]
    whole = [len(hands) for hands in find_hands(frames, _SeesHands())]  # type: ignore[arg-type]
    later = [len(hands) for hands in find_hands(frames[3:], _SeesHands())]  # type: ignore[arg-type]
    assert later[5:] == whole[8:]


# ----------------------------------------------------------------------------------------------------------------- matte


def test_closed_form_matting_recovers_a_known_opacity() -> None:
    rows, columns = np.mgrid[:96, :96]
    distance = np.hypot(rows - 48, columns - 48)
    truth = np.clip((36 - distance) / 12, 0, 1).astype(np.float32)
    front = np.array([200, 60, 40.0]) + 10 * np.sin(rows / 9)[..., None]
    behind = np.array([40, 90, 180.0]) + 10 * np.cos(columns / 11)[..., None]
    picture = np.rint(front * truth[..., None] + behind * (1 - truth[..., None])).astype(np.uint8)
    found = solve_matte(picture, distance < 20, distance > 40)
    assert np.abs(found - truth).mean() < 0.01
    colours = foreground_colours(picture, truth)
    edge = (truth > 0.2) & (truth < 0.9)
    assert np.abs(colours.astype(float) - front)[edge].mean() < 12  # before: about 60


def test_nothing_of_the_old_background_is_left_on_white() -> None:
    green = np.zeros((256, 256, 3), np.uint8) + np.array([20, 200, 30], np.uint8)
    picture, truth, landmarks = paint_person(green, (128, 105), 84)
    person = _soft(truth)
    labels = HeadParser.fit([picture], [landmarks], [person], [None]).labels(picture, landmarks, person)
    alpha = head_matte(picture, labels, landmarks)
    head = np.isin(truth, (parts.HAIR, parts.FACE))
    assert np.quantile(alpha[cv2.erode(head.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0], 0.01) > 0.9
    assert alpha[truth == parts.CLOTH].mean() < 0.05
    assert alpha.dtype == np.float32
    image = reference_image(picture, labels, alpha).astype(int)
    assert (image[:20] == 255).all()
    assert (image[..., 1] - image[..., [0, 2]].max(-1)).max() < 40  # no green fringe; the background itself is 170


# ----------------------------------------------------------------------------------------------------------------- stage


def _run(folder: Path, clip: Path, subject: Artifact, chunk: Chunk, **parameters: object) -> Artifact:
    folder.mkdir()
    writer = ArtifactWriter(folder, frames=chunk.frames)
    inputs = Inputs({("track", "clip"): [subject]})
    MaskStage().run(Work(MaskParameters(**parameters), writer, inputs, {"clip": clip}, chunk))  # type: ignore[arg-type]
    return writer.local()


def test_every_frame_gets_a_map_and_a_row_with_or_without_a_face(tmp_path: Path) -> None:
    frames = moving_pictures(6, 160, 120)
    clip = write_video(tmp_path / "clip.mp4", frames)
    detected = np.array([True, True, False, True, True, False])
    landmarks = np.tile(painted_landmarks((80, 50), 40), (6, 1, 1))
    landmarks[~detected] = np.nan
    subject = subject_table(tmp_path / "track", np.tile([80.0, 60.0, 100.0], (6, 1)), detected=detected, landmarks=landmarks)
    made = _run(tmp_path / "masks", clip, subject, Chunk(0, 0, 1, 6), crop_size=256)
    table, pictures = made.table("masks"), made.pictures("labels")
    assert array(table, "frame").tolist() == pictures.frames == [1, 2, 3, 4, 5]
    assert array(table, "detected").tolist() == detected[1:].tolist()
    for row, frame in enumerate(pictures.frames):
        labels = pictures.read(frame)
        assert labels.shape == (256, 256)
        assert labels.max() < len(parts.LABELS)
        shares = np.bincount(labels.ravel(), minlength=6) / labels.size
        assert np.allclose(array(table, "shares")[row], shares, atol=1e-6)
        if not detected[frame]:
            assert set(np.unique(labels)) <= {parts.BACKGROUND, parts.CLOTH}
    assert made.facts["hair"] == "colour"


def test_asking_for_a_network_that_is_not_registered_says_how_to_register_it(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_pictures(2))
    nothing = np.full((2, LANDMARKS, 3), np.nan)
    crops = np.tile([80.0, 60, 100], (2, 1))
    subject = subject_table(tmp_path / "track", crops, detected=np.zeros(2, bool), landmarks=nothing)
    with pytest.raises(ModelError, match="models add"):
        _run(tmp_path / "masks", clip, subject, Chunk(0, 0, 0, 2), hair="network")


def test_a_file_that_is_no_network_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "hair_segmentation.tflite"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"hair_segmentation\.tflite"):
        HairNetwork(path)


# ------------------------------------------------------------------------------------------------------------ real media


def _landmarks(rgb: np.ndarray) -> np.ndarray:
    import mediapipe

    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        points = mesh.process(rgb).multi_face_landmarks[0].landmark
    return np.array([[point.x, point.y, point.z] for point in points]) * (rgb.shape[1], rgb.shape[0], rgb.shape[1])


def _real_labels(shared: Path, name: str, frame: int, hair: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop of GRID pixels, landmarks in it, labels."""
    with open_clip(shared / "media" / name) as clip:
        rgb = clip.read(frame)
    side = min(rgb.shape[:2])
    left = (rgb.shape[1] - side) // 2
    crop = cv2.resize(rgb[:side, left : left + side], (512, 512), interpolation=cv2.INTER_AREA)
    points = _landmarks(crop)
    network = HairNetwork(shared / "models" / "mediapipe" / "hair_segmentation.tflite") if hair else None
    found = network(crop) if network else None
    with PersonNetwork(careful=True) as person_network:
        person = person_network(crop)
    parser = HeadParser.fit([crop], [points], [person], [found])
    return crop, points, parser.labels(crop, points, person, found)


@pytest.mark.parametrize("hair", [False, True])
@pytest.mark.parametrize(
    ("name", "frame"), [("clips/lp_s18_glasses_longhair_720p.mp4", 30), ("clips/lp_d18_expressions_man.mp4", 0)]
)
def test_a_real_head_is_divided_sensibly(shared: Path, name: str, frame: int, hair: bool) -> None:
    if hair:
        pytest.importorskip("ai_edge_litert", reason="needs the extra 'hair'")
    _, points, labels = _real_labels(shared, name, 0, hair)

    def at(x: float, y: float) -> int:
        return int(labels[int(np.clip(y, 0, 511)), int(np.clip(x, 0, 511))])

    head = HeadFrame.of(points)
    assert at(*points[1, :2]) == parts.FACE  # nose
    assert at(*points[50, :2]) == parts.FACE  # cheek
    crown = points[10, :2] - (points[152, :2] - points[10, :2]) * 0.2
    assert at(*crown) == parts.HAIR
    below = points[152, :2] + (0, 0.2 * head.size)
    assert at(*below) == parts.NECK
    assert (labels == parts.CLOTH)[-20:].mean() > 0.2
    assert (labels[:10] == parts.BACKGROUND).mean() > 0.9


def test_both_ways_of_finding_hair_agree_on_long_hair(shared: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs the extra 'hair'")
    name = "clips/lp_s18_glasses_longhair_720p.mp4"
    colour, network = (_real_labels(shared, name, 30, hair)[2] for hair in (False, True))
    assert _overlap(colour, network, parts.HAIR) > 0.8
