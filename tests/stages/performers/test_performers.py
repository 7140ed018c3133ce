"""Synthetic people: the truth beside the picture is the truth, and the shipped examples are faces."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from schemas.problems import ModelError
from schemas.tables import LABELS
from stages.detectors import FaceDetector, FaceMesh, Window
from stages.face3d.retargeting import openings
from stages.performers.appearance import HAIRS, SKINS, Appearance, Colour, Room, brow_tone, display, linear
from stages.performers.casting import ACTS, Person, cast, empty_room, play
from stages.performers.head import HeadModel, bend, rotation_matrix
from stages.performers.mediapipe_points import Correspondence
from stages.performers.performance import hum, perform
from stages.performers.raster import GRAIN, ambient_occlusion, grain, lit, vertex_normals, visibility
from stages.performers.scene import Camera, Performer
from stages.video.decode import open_clip, probe

PAIRED = ("eyeBlink", "mouthSmile", "cheekSquint", "browOuterUp", "browDown", "browInnerUp")
NAMES = [f"{stem}_{side}" for stem in PAIRED for side in "LR"]
NAMES += [f"eyeLook{way}_{side}" for way in ("In", "Out", "Up", "Down") for side in "LR"]
NAMES += [f"mouth{shape}_{side}" for shape in ("LowerDown", "UpperUp", "Stretch", "Press") for side in "LR"]
NAMES += ["jawOpen", "mouthFunnel", "mouthPucker", "mouthRollLower", "mouthRollUpper"]


@pytest.fixture(scope="module")
def model(shared: Path) -> HeadModel:
    return HeadModel.load(shared / "models" / "ict" / "ict_facekit.npz")


@pytest.fixture(scope="module")
def performer(model: HeadModel) -> Performer:
    identity = np.random.default_rng(5).normal(size=40).astype(np.float32) * 0.6
    return Performer(model, identity, Appearance(hair_style="bob", tips=-5.0))


def shoot(  # type: ignore[no-untyped-def]
    performer: Performer, pose: tuple[float, float, float], hand: np.ndarray | None = None, **weights: float
):
    camera, room = Camera(256, 256), Room()
    expression = np.zeros(len(performer.model.expression_names), np.float32)
    for name, weight in weights.items():
        expression[performer.model.expression_names.index(name)] = weight
    return camera, performer.shoot(camera, room, room.paint(256, 256), expression, np.array(pose, np.float32), hand=hand)


def test_nearest_triangle_is_seen_and_its_weights_interpolate() -> None:
    points = np.array([[2, 2, 1], [18, 2, 1], [2, 18, 1], [0, 0, 0], [20, 0, 0], [0, 20, 0]], np.float32)
    triangles = np.array([[3, 4, 5], [0, 1, 2]], np.int32)
    seen, depth = np.full((20, 20), -1, np.int32), np.full((20, 20), -1e9, np.float32)
    nothing = np.zeros(6, np.float32)
    visibility(points, triangles, nothing, nothing, np.zeros(2, np.float32), GRAIN, seen, depth)
    assert seen[5, 5] == 1
    assert seen[1, 0] == 0
    assert seen[19, 19] == -1
    assert depth[5, 5] == pytest.approx(1)


def test_depth_interpolates_over_a_triangle() -> None:
    points = np.array([[0, 0, 0], [40, 0, 40], [0, 40, 0]], np.float32)
    seen, depth = np.full((20, 20), -1, np.int32), np.full((20, 20), -1e9, np.float32)
    nothing = np.zeros(3, np.float32)
    visibility(points, np.array([[0, 1, 2]], np.int32), nothing, nothing, np.zeros(1, np.float32), GRAIN, seen, depth)
    np.testing.assert_allclose(depth, np.tile(np.arange(20) + 0.5, (20, 1)), atol=1e-4)


def test_strands_end_raggedly_and_solid_triangles_do_not() -> None:
    points = np.array([[0, 0, 1], [40, 0, 1], [0, 40, 1]], np.float32)
    strand, cut = points[:, 0].copy(), (2 - points[:, 1] / 10).astype(np.float32)
    covered = []
    for ragged in (0.0, 2.0):
        seen, depth = np.full((20, 20), -1, np.int32), np.full((20, 20), -1e9, np.float32)
        visibility(points, np.array([[0, 1, 2]], np.int32), cut, strand, np.full(1, ragged, np.float32), GRAIN, seen, depth)
        covered.append(seen >= 0)
    assert covered[0].all()
    assert covered[1][0].all()
    assert 0.05 < covered[1][12:].mean() < 0.95


def test_shadow_falls_where_light_is_blocked() -> None:
    y, x = np.mgrid[0:30, 0:30].astype(np.float32)
    floor = np.stack([x.ravel(), y.ravel(), np.zeros(900, np.float32)], 1)
    roof = np.array([[10, 10, 8], [20, 10, 8], [10, 20, 8], [20, 20, 8]], np.float32)
    cells = np.array([(r * 30 + c, r * 30 + c + 1, r * 30 + 30 + c) for r in range(29) for c in range(29)], np.int32)
    triangles = np.concatenate([cells, np.array([[900, 901, 902], [901, 903, 902]], np.int32)])
    vertices, normals = np.concatenate([floor, roof]), np.tile(np.array([0, 0, 1], np.float32), (904, 1))
    light = lit(vertices, normals, triangles, np.array([0, 0, 1], np.float32))[:900].reshape(30, 30)
    assert light[15, 15] < 0.05
    assert light[5, 5] > 0.95
    open_sky = ambient_occlusion(vertices, normals, triangles)[:900].reshape(30, 30)
    assert open_sky[15, 15] < 0.75 * open_sky[3, 3]


def test_normals_of_a_plane_point_up() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    np.testing.assert_allclose(vertex_normals(vertices, np.array([[0, 1, 2], [1, 3, 2]], np.int32)), [[0, 0, 1]] * 4)


def test_noise_is_smooth_and_bounded() -> None:
    values = np.array([grain(GRAIN, k * 0.01, 7.3) for k in range(1000)])
    assert 0 <= values.min() < values.max() <= 1
    assert np.abs(np.diff(values)).max() < 0.05


def test_colours_survive_the_way_to_light_and_back() -> None:
    shown = np.array([0, 12, 100, 200], np.uint8)
    np.testing.assert_array_equal(display(linear(shown.astype(np.float32))), shown)


def test_the_neck_bends_and_the_shoulders_stay() -> None:
    points = np.array([[0, 5, 8], [0, -8, 5], [0, -15, 3]], np.float32)
    turned = bend(points, points[:, 1], rotation_matrix(0.5, 0, 0), np.zeros(3, np.float32))
    moved = np.linalg.norm(turned - points, axis=1)
    assert moved[0] > moved[1] > 0
    assert moved[2] == 0
    assert turned[0, 0] > 3  # positive yaw turns to the picture's right


def test_a_performance_is_the_same_for_the_same_seed_and_stays_in_range() -> None:
    first, again, other = (perform(NAMES, 100, 25, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.expression, again.expression)
    assert not np.array_equal(first.expression, other.expression)
    assert first.expression.min() >= 0
    assert first.expression.max() <= 1
    assert first.expression[:, NAMES.index("eyeBlink_L")].max() > 0.9
    assert first.expression[:, NAMES.index("jawOpen")].std() > 0.03
    assert np.abs(np.diff(first.pose, axis=0)).max() < 0.05


def test_the_hum_is_as_long_as_the_performance_and_silent_with_a_closed_mouth() -> None:
    performance = perform(NAMES, 75, 25, seed=1)
    sound = hum(performance, seed=1)
    assert len(sound) == 3 * 44_100
    loud = np.abs(sound).reshape(75, -1).mean(1)
    assert loud[performance.voice > 0.6].mean() > 5 * loud[:4].mean()


def test_rendering_is_deterministic(performer: Performer) -> None:
    first, again = (shoot(performer, (0.2, 0, 0), jawOpen=0.3)[1] for _ in range(2))
    np.testing.assert_array_equal(first.picture, again.picture)
    np.testing.assert_array_equal(first.labels, again.labels)


def test_labels_and_landmarks_lie_where_the_picture_shows_them(performer: Performer) -> None:
    camera, shot = shoot(performer, (0, 0, 0))
    assert set(np.unique(shot.labels)) == {LABELS.index(name) for name in ("background", "hair", "face", "neck", "cloth")}
    nose = shot.points68[30, :2].astype(int)
    assert shot.labels[nose[1], nose[0]] == LABELS.index("face")
    chin = shot.points68[8, :2].astype(int)
    assert shot.labels[chin[1] + 14, chin[0]] == LABELS.index("neck")
    assert shot.labels[-3, 128] == LABELS.index("cloth")
    rows = np.flatnonzero((shot.labels == LABELS.index("hair")).any(1))
    assert rows[0] < shot.landmarks[:, 1].min()
    np.testing.assert_allclose(camera.project(shot.vertices[performer.model.points68])[:, :2], shot.points68[:, :2], atol=1e-3)


def test_expression_and_pose_move_what_they_should(performer: Performer) -> None:
    _, still = shoot(performer, (0, 0, 0))
    _, speaking = shoot(performer, (0, 0, 0), jawOpen=0.6)
    _, turned = shoot(performer, (0.4, 0, 0))
    gap = [shot.landmarks[14, 1] - shot.landmarks[13, 1] for shot in (still, speaking)]
    assert gap[1] > gap[0] + 5
    assert turned.landmarks[1, 0] > still.landmarks[1, 0] + 5
    np.testing.assert_allclose(turned.rotation @ turned.rotation.T, np.eye(3), atol=1e-6)


def test_the_eyes_turn_with_the_weights_of_gaze(performer: Performer) -> None:
    _, still = shoot(performer, (0, 0, 0))
    _, aside = shoot(performer, (0, 0, 0), eyeLookOut_L=0.8, eyeLookIn_R=0.8)
    _, upwards = shoot(performer, (0, 0, 0), eyeLookUp_L=0.8, eyeLookUp_R=0.8)
    across = still.landmarks[263, 0] - still.landmarks[33, 0]
    for iris in (468, 473):
        assert aside.landmarks[iris, 0] > still.landmarks[iris, 0] + 0.04 * across
        assert upwards.landmarks[iris, 1] < still.landmarks[iris, 1] - 0.03 * across
    np.testing.assert_allclose(aside.points68[:17], still.points68[:17], atol=0.5)


@pytest.mark.parametrize("content", [None, b"text", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_head_model_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "head.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"head\.npz") as refused:
        HeadModel.load(path)
    assert refused.value.code == "head_model_unreadable"
    assert "pickle" not in refused.value.message


def test_every_hair_style_and_garment_can_be_worn(model: HeadModel) -> None:
    camera, room = Camera(96, 96), Room("shelf", seed=1)
    background, nothing = room.paint(96, 96), np.zeros(len(model.expression_names), np.float32)
    shares = {}
    garments = ("crew", "roll", "shirt")
    for k, style in enumerate(("bald", "short", "long")):
        person = Performer(model, np.zeros(4, np.float32), Appearance(hair_style=style, clothes_style=garments[k]))  # type: ignore[arg-type]
        labels = person.shoot(camera, room, background, nothing, np.zeros(3, np.float32)).labels
        shares[style] = (labels == LABELS.index("hair")).mean()
        assert (labels == LABELS.index("cloth")).mean() > 0.1
    assert shares["bald"] == 0
    assert 0.02 < shares["short"] < shares["long"]


def test_ears_belong_to_the_face_and_the_neck_does_not(model: HeadModel) -> None:
    person = Performer(model, np.zeros(4, np.float32), Appearance(hair_style="bald"))
    _, shot = shoot(person, (0.9, 0, 0))
    beside = (model.neutral[:, 0] < -8.4) & (np.abs(model.neutral[:, 1] - 2) < 2)
    ear = Camera(256, 256).project(shot.vertices[beside].mean(0)[None])[0]
    assert shot.labels[int(ear[1]), int(ear[0])] == LABELS.index("face")


def test_a_performance_of_one_frame_holds_numbers() -> None:
    for seed in range(10):
        with np.errstate(all="raise"):
            acting = perform(NAMES, 1, 25, seed=seed, hands=1, faces=1.0, turn=1.0)
        assert np.isfinite(acting.expression).all()
        assert np.isfinite(acting.pose).all()


def test_a_hand_before_the_face_is_something_else_and_belongs_to_the_person(performer: Performer) -> None:
    _, bare = shoot(performer, (0, 0, 0))
    _, covered = shoot(performer, (0, 0, 0), hand=np.array([1, 0, -10, 17, 0.1], np.float32))
    assert (bare.labels == LABELS.index("other")).sum() == 0
    assert (covered.labels == LABELS.index("other")).mean() > 0.05
    assert (covered.alpha >= bare.alpha).all()
    np.testing.assert_array_equal(covered.landmarks, bare.landmarks)


def test_alpha_is_the_share_of_the_pixel_that_shows_the_person(performer: Performer) -> None:
    _, shot = shoot(performer, (0, 0, 0))
    background = shot.labels == LABELS.index("background")
    assert (shot.alpha[background] <= 128).all()
    assert (shot.alpha[~background] >= 64).all()
    assert set(np.unique(shot.alpha)) >= {0, 128, 255}


def test_landmarks_lie_on_the_features_that_they_name(performer: Performer) -> None:
    _, shot = shoot(performer, (0, 0, 0))
    eye = np.linalg.norm(shot.points68[36, :2] - shot.points68[45, :2])
    # Multi-PIE's points and MediaPipe's landmarks of the same places: corners of the eyes and of the mouth, the chin.
    for multi_pie, mediapipe in ((36, 33), (39, 133), (42, 362), (45, 263), (48, 61), (54, 291), (8, 152)):
        assert np.linalg.norm(shot.points68[multi_pie, :2] - shot.landmarks[mediapipe, :2]) < 0.1 * eye
    for iris, corners in ((468, (33, 133)), (473, (362, 263))):
        assert np.linalg.norm(shot.landmarks[iris, :2] - shot.landmarks[list(corners), :2].mean(0)) < 0.12 * eye
    assert shot.landmarks[1, 2] < shot.landmarks[[234, 454], 2].min()


def test_every_landmark_lies_in_one_triangle() -> None:
    points = Correspondence.builtin()
    np.testing.assert_allclose(points.weights.sum(1), 1, atol=1e-5)
    assert points.weights.min() >= 0
    assert points.vertices.shape == (478, 3)


def test_another_head_plays_the_same_on_the_same_body(model: HeadModel) -> None:
    scene = cast(model, 0, seed=3, frames=3, frames_per_second=25, width=128, height=128)
    person, swapped = scene.person, scene.other.on_body_of(scene.person)
    assert (swapped.appearance.cloth, swapped.appearance.build) == (person.appearance.cloth, person.appearance.build)
    assert swapped.appearance.hair_style == scene.other.appearance.hair_style
    for one, other in zip(play(model, scene, person), play(model, scene, swapped), strict=True):
        np.testing.assert_array_equal(one.rotation, other.rotation)
        np.testing.assert_array_equal(one.expression, other.expression)
        np.testing.assert_allclose(one.shoulders, other.shoulders)
        # Clothes and what lies behind are the same wherever hair does not fall over them.
        low = np.s_[-24:]
        bare = (one.labels[low] != LABELS.index("hair")) & (other.labels[low] != LABELS.index("hair"))
        assert (one.labels[low] == other.labels[low])[bare].mean() > 0.95


def test_scenes_repeat_and_differ(model: HeadModel) -> None:
    scenes = [cast(model, number, seed=1, frames=50, frames_per_second=25, width=64, height=64) for number in (0, 0, 1, 3)]
    np.testing.assert_array_equal(scenes[0].person.identity, scenes[1].person.identity)
    np.testing.assert_array_equal(scenes[0].performance.expression, scenes[1].performance.expression)
    assert not np.array_equal(scenes[0].person.identity, scenes[2].person.identity)
    turned = np.degrees(np.abs(scenes[2].performance.pose[:, 0])).max()
    assert 30 < turned <= 60.01
    assert np.isfinite(scenes[3].performance.hand).all(1).any()
    assert ACTS[3] == "hands"
    assert Person.drawn(4).appearance == Person.drawn(4).appearance


def test_drawn_appearances_differ_and_repeat() -> None:
    assert Appearance.drawn(4) == Appearance.drawn(4)
    assert len({Appearance.drawn(seed).hair_style for seed in range(60)}) >= 7


def test_closed_eyes_look_closed_to_the_detector(model: HeadModel) -> None:
    camera, room, mesh = Camera(288, 288, 2.66, 90.0, (0.0, 1.0)), Room(kind="plain"), FaceMesh()
    blink = np.array([name.startswith("eyeBlink") for name in model.expression_names], np.float32)
    shut = []
    for seed in range(6):
        person = Person.drawn(seed)
        performer = Performer(model, person.identity, replace(person.appearance, glasses=0.0))
        rest, closed = (
            performer.shoot(camera, room, room.paint(288, 288), share * blink, np.zeros(3, np.float32)) for share in (0.06, 1.0)
        )
        before, after = (
            openings(mesh.landmarks(shot.picture, Window.around(rest.landmarks))[0][None])[0, :2] for shot in (rest, closed)
        )
        shut += (after < 0.35 * before).tolist()
    assert np.mean(shut) > 0.8


@pytest.mark.parametrize("skin", SKINS)
@pytest.mark.parametrize("hair", [*HAIRS, (255.0, 255.0, 255.0)])
def test_brows_are_darker_than_the_skin_on_people_of_any_colouring(skin: Colour, hair: Colour) -> None:
    luminance = np.array([0.2126, 0.7152, 0.0722])
    brow = brow_tone(skin, hair)
    assert brow @ luminance <= 0.21 * (linear(skin) @ luminance)
    assert (brow <= linear(hair)).all()


def test_brows_can_be_seen_on_the_darkest_skin(model: HeadModel) -> None:
    look = Appearance(skin=SKINS[-1], hair=HAIRS[3], hair_style="bald", brows=0.65)
    camera = Camera(288, 288, 2.66, 90.0, (0.0, 1.0))
    room = Room(kind="plain")
    shots = [
        Performer(model, np.zeros(5, np.float32), replace(look, brows=brows)).shoot(
            camera, room, room.paint(288, 288), np.zeros(len(model.expression_names), np.float32), np.zeros(3, np.float32)
        )
        for brows in (0.65, 0.0)
    ]
    seen, bare = (shot.picture.astype(float).mean(-1) for shot in shots)
    brows = seen < bare - 2
    assert brows.sum() > 250
    assert seen[brows].mean() < 0.75 * bare[brows].mean()


def test_examples_are_complete_small_and_synthetic(examples: Path) -> None:
    with (examples / "catalogue.csv").open(newline="") as file:
        jobs = list(csv.DictReader(file))
    assert len(jobs) >= 3
    assert {job["rights"] for job in jobs} == {"synthetic"}
    assert all((examples / job[column]).is_file() for job in jobs for column in ("source", "target"))
    assert sum(path.stat().st_size for path in examples.iterdir() if path.is_file()) < 5e6
    facts = {path.stem: probe(path) for path in examples.glob("*.mp4")}
    assert [len(facts[name].audio) for name in ("clip_speech", "clip_smile", "clip_turn")] == [1, 0, 0]
    assert {facts[name].fps for name in facts} == {"24", "25", "30"}


def test_every_frame_of_the_examples_shows_one_face(examples: Path) -> None:
    with FaceDetector(0.5) as detector:
        for path in sorted(examples.glob("clip_*.mp4")):
            with open_clip(path) as clip:
                counts = [len(detector.detect(picture)) for _, picture in clip.iterate(step=7)]
            assert counts == [1] * len(counts), path.name
        for path in sorted(examples.glob("portrait_*.png")):
            picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            assert len(detector.detect(picture)) == 1, path.name


def test_the_empty_room_is_what_shows_beside_the_person(model: HeadModel) -> None:
    scene = cast(model, 3, seed=2, frames=3, frames_per_second=12, width=96, height=96)
    for shot, empty in zip(play(model, scene, scene.person), empty_room(scene), strict=True):
        bare = shot.alpha == 0
        assert bare.mean() > 0.2
        assert np.abs(shot.picture[bare].astype(int) - empty[bare]).max() <= 1
