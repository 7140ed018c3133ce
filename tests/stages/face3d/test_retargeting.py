"""Retargeting keeps what matters: closed stays closed, a face drives itself unchanged, the source's own expression is gone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.face3d.model import FaceModel
from stages.face3d.retargeting import (
    CLOSED,
    UNEXPLAINED,
    FeatureRatios,
    believed_motion,
    closed_share,
    closing,
    face_size,
    feature_ratios,
    lid_gaps,
    lid_openings,
    lip_gaps,
    lips_as_closed_as_seen,
    mirrored_displacement,
    mirrored_landmarks,
    nearly_neutral_frames,
    neutral_landmarks,
    opening_ratios,
    openings,
    restlessness,
    retarget,
    scale_field,
)
from stages.face3d.topology import CHIN, EYES, INNER_CORNERS, INNER_LOWER, INNER_UPPER, LEFT_EYE, LIPS, RIGHT_EYE

MODEL = FaceModel.builtin()
AT_REST = neutral_landmarks(MODEL.mean, np.zeros(len(MODEL.names)), MODEL)


def weights(**named: float) -> np.ndarray:
    vector = np.zeros(len(MODEL.names))
    for name, value in named.items():
        vector[list(MODEL.indices(name))] = value
    return vector


def face(seed: int) -> np.ndarray:
    """Somebody at rest, with clearly other proportions than the mean face."""
    rng = np.random.default_rng(seed)
    shape = MODEL.shape(1.5 * rng.normal(size=len(MODEL.identity)))
    for eye in EYES:
        middle = shape[[*eye.corners]].mean(0)
        points = [*eye.outline, *eye.iris_points]
        shape[points, 1] = middle[1] + (shape[points, 1] - middle[1]) * rng.uniform(0.6, 1.6)
    lips = list(LIPS)
    shape[lips, 0] *= rng.uniform(0.75, 1.3)
    return neutral_landmarks(shape, np.zeros(len(MODEL.names)), MODEL)


def with_closed_eyes(neutral: np.ndarray, left_over: float = 0.0) -> np.ndarray:
    closed = neutral.copy()
    for eye in EYES:
        gap = neutral[list(eye.upper), 1] - neutral[list(eye.lower), 1]
        closed[list(eye.upper), 1] -= gap * (1 - left_over)
    return closed


def with_open_mouth(neutral: np.ndarray, amount: float) -> np.ndarray:
    return neutral + MODEL.displacement(weights(jawOpen=amount))


def test_neutral_landmarks_have_lost_the_fitted_expression():
    smiling = weights(mouthSmile=0.8, jawOpen=0.5, browInnerUp=0.6)
    person = face(3)
    back = neutral_landmarks(person + MODEL.displacement(smiling), smiling, MODEL)
    np.testing.assert_allclose(back, person, atol=0.03)
    assert np.abs(lip_gaps(back[None])).max() < 1e-9


def test_a_face_drives_itself_unchanged():
    driver = np.stack([AT_REST, with_open_mouth(AT_REST, 0.7), AT_REST + MODEL.displacement(weights(mouthSmile=0.7))])
    result = retarget(driver, AT_REST, AT_REST, feature_ratios(AT_REST, AT_REST))
    np.testing.assert_allclose(result, driver, atol=0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 0.1))
def test_closed_eyes_stay_closed_whatever_the_proportions(one, other, left_over):
    driver, source = face(one), face(other)
    result = retarget(with_closed_eyes(driver, left_over)[None], driver, source, feature_ratios(source, driver))
    for eye in EYES:
        assert np.abs(lid_gaps(result, eye)).max() < 0.01


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 1))
def test_a_closed_mouth_stays_closed_whatever_the_proportions_and_expression(one, other, smile):
    driver, source = face(one), face(other)
    moving = neutral_landmarks(
        driver + MODEL.displacement(weights(mouthSmile=smile, mouthPucker=1 - smile)), weights(), MODEL
    )  # smiles or pouts with closed lips
    result = retarget(moving[None], driver, source, feature_ratios(source, driver))
    assert np.abs(lip_gaps(result)).max() < 1e-6


def test_lips_that_never_touch_in_a_clip_are_closed_where_they_are_closest():
    parted, speaking = with_open_mouth(AT_REST, 0.08), with_open_mouth(AT_REST, 0.6)
    width = np.linalg.norm(AT_REST[INNER_CORNERS[0]] - AT_REST[INNER_CORNERS[1]])
    assert 0.03 < lip_gaps(parted[None]).max() / width < 0.06
    clip = np.stack([parted] * 12 + [speaking] * 8)
    rest = lips_as_closed_as_seen(AT_REST, clip)
    np.testing.assert_allclose(lip_gaps(rest[None]), lip_gaps(parted[None]), atol=1e-9)
    result = retarget(clip, rest, AT_REST, FeatureRatios())
    assert lip_gaps(result[:12]).max() < 0.002
    np.testing.assert_allclose(lip_gaps(result[12:]), lip_gaps(clip[12:]), atol=0.01)


def test_lips_that_touch_now_and_then_are_closed_at_rest():
    clip = np.stack([AT_REST] * 3 + [with_open_mouth(AT_REST, 0.3)] * 17)
    np.testing.assert_allclose(lips_as_closed_as_seen(AT_REST, clip), AT_REST, atol=1e-9)


def test_a_mouth_that_is_always_wide_open_is_not_taken_for_closed():
    clip = np.stack([with_open_mouth(AT_REST, 0.6)] * 20)
    result = retarget(clip, lips_as_closed_as_seen(AT_REST, clip), AT_REST, FeatureRatios())
    np.testing.assert_allclose(lip_gaps(result), lip_gaps(clip), atol=0.01)


def test_open_eyes_open_by_the_same_share():
    driver, source = face(1), face(2)
    half = driver.copy()
    for eye in EYES:
        half[list(eye.upper), 1] -= 0.5 * (driver[list(eye.upper), 1] - driver[list(eye.lower), 1])
    result = retarget(half[None], driver, source, feature_ratios(source, driver))
    for eye in EYES:
        assert opening_ratios(result, source, eye).mean() == pytest.approx(0.5, abs=0.05)


def test_a_wider_mouth_opens_wider():
    wide = AT_REST.copy()
    wide[list(LIPS), 0] *= 1.4
    wide[CHIN, 1] -= 0.2
    ratios = feature_ratios(wide, AT_REST)
    assert ratios.mouth[0] == pytest.approx(1.4, abs=0.05)
    opened = with_open_mouth(AT_REST, 0.6)[None]
    assert lip_gaps(retarget(opened, AT_REST, wide, ratios)).max() > 1.1 * lip_gaps(opened).max()


def test_gaze_is_carried_over_by_its_place_in_the_eye():
    source = face(5)
    looking = AT_REST.copy()
    for eye in EYES:
        looking[list(eye.iris_points), 0] += 0.08
    straight, turned = retarget(np.stack([AT_REST, looking]), AT_REST, source, feature_ratios(source, AT_REST))
    for eye in EYES:
        moved = turned[eye.iris, 0] - straight[eye.iris, 0]
        width = np.linalg.norm(source[eye.outer] - source[eye.inner])
        assert moved == pytest.approx(0.08 * width / np.linalg.norm(AT_REST[eye.outer] - AT_REST[eye.inner]), rel=0.15)
        size = np.linalg.norm(turned[list(eye.iris_border)] - turned[eye.iris], axis=1)
        np.testing.assert_allclose(size, np.linalg.norm(source[list(eye.iris_border)] - source[eye.iris], axis=1), rtol=1e-6)


def test_lids_can_be_closed_and_opened_by_an_edit():
    shut = with_closed_eyes(AT_REST)
    blinks = np.array([[1.0, np.nan], [0.0, np.nan]])
    result = retarget(np.stack([AT_REST, shut]), AT_REST, AT_REST, FeatureRatios(), blinks=blinks)
    rest = lid_gaps(AT_REST[None], LEFT_EYE)[0]
    assert np.abs(lid_gaps(result, LEFT_EYE)[0]).max() < 0.01
    np.testing.assert_allclose(lid_gaps(result, LEFT_EYE)[1], rest, atol=0.02)
    assert lid_gaps(result, RIGHT_EYE)[0].mean() == pytest.approx(lid_gaps(AT_REST[None], RIGHT_EYE).mean(), rel=0.05)
    assert np.abs(lid_gaps(result, RIGHT_EYE)[1]).max() < 0.01


def test_closing_an_eye_by_an_edit_has_no_jump():
    blinks = np.stack([np.linspace(0, 1, 60)] * 2, axis=1)
    frames = np.repeat(AT_REST[None], 60, axis=0)
    gaps = lid_gaps(retarget(frames, AT_REST, AT_REST, FeatureRatios(), blinks=blinks), LEFT_EYE).mean(1)
    steps = np.diff(gaps) / gaps[0]
    assert steps.max() <= 1e-9
    assert steps.min() > -0.06


def test_how_far_an_eye_is_closed_is_read_off_its_lids():
    half = AT_REST.copy()
    for eye in EYES:
        half[list(eye.upper), 1] -= 0.5 * lid_gaps(AT_REST[None], eye)[0]
    closed = closed_share(np.stack([AT_REST, half, with_closed_eyes(AT_REST)]), AT_REST)
    np.testing.assert_allclose(closed, [[0, 0], [0.5, 0.5], [1, 1]], atol=0.03)


def with_lids_at(left: float, right: float) -> np.ndarray:
    """The face at rest with its eyes open by these shares of their opening."""
    shape = AT_REST.copy()
    for eye, share in zip(EYES, (left, right), strict=True):
        shape[list(eye.upper), 1] -= (1 - share) * lid_gaps(AT_REST[None], eye)[0]
    return shape


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_eye_read_as_half_shut_beside_a_shut_one_is_shut(mirrored):
    pairs = [(0.05, 0.45), (0.05, 0.9), (0.45, 0.45), (0.2, 0.2), (1.0, 0.6)]
    frames = np.stack([with_lids_at(*(pair[::-1] if mirrored else pair)) for pair in pairs])
    openings = np.stack([share.mean(1) for share in lid_openings(frames, AT_REST)], axis=1)
    if mirrored:
        openings = openings[:, ::-1]
    assert openings[0].max() < CLOSED
    np.testing.assert_allclose(openings[1:], pairs[1:], atol=0.01)
    result = retarget(frames, AT_REST, AT_REST, FeatureRatios())
    assert all(np.abs(lid_gaps(result, eye)[0]).max() < 0.01 for eye in EYES)


def test_an_eye_beside_a_shut_one_opens_without_a_jump():
    frames = np.stack([with_lids_at(0.0, share) for share in np.linspace(0, 1, 101)])
    right = lid_openings(frames, AT_REST)[1].mean(1)
    steps = np.diff(right)
    assert steps.min() >= -1e-9
    assert steps.max() < 0.08


def test_only_the_unexplained_part_of_a_motion_is_damped():
    smile = MODEL.displacement(weights(mouthSmile=0.6))[None]
    tremor = np.random.default_rng(0).normal(size=smile.shape) * 0.01
    believed = believed_motion(AT_REST + smile + tremor, AT_REST, smile)
    np.testing.assert_allclose(believed - AT_REST - smile, UNEXPLAINED * tremor)


def test_corrections_spread_over_the_same_skin_left_and_right():
    mirrored = mirrored_landmarks()
    left, right = np.zeros((2, 478, 3))
    for eye, shape in zip(EYES, (left, right), strict=True):
        closed = with_lids_at(0.0, 1.0) if eye is LEFT_EYE else with_lids_at(1.0, 0.0)
        shape += retarget(closed[None], AT_REST, AT_REST, FeatureRatios())[0] - AT_REST
    moved_left, moved_right = (np.abs(shape[:, 1]) > 1e-6 for shape in (left, right))
    np.testing.assert_array_equal(moved_left, moved_right[mirrored])


def test_scaling_fades_smoothly_between_regions():
    field = scale_field(FeatureRatios((1.5, 1.5), (1.5, 1.5), (0.6, 0.6)))
    assert field[LEFT_EYE.upper[3]].min() > 1.4
    assert field[13].max() < 0.7
    assert field[10] == pytest.approx(np.ones(3), abs=0.05)
    neighbours = np.linalg.norm(MODEL.mean[:, None] - MODEL.mean[None], axis=-1)
    close = (neighbours > 0) & (neighbours < 0.06)
    assert np.abs(field[:, None, 0] - field[None, :, 0])[close].max() < 0.3


def test_only_openings_far_below_half_are_closed_further():
    shares = np.linspace(0, 2, 101)
    closed = closing(shares)
    assert (closed[shares <= 0.12] == 0).all()
    np.testing.assert_allclose(closed[shares >= 0.4], shares[shares >= 0.4])
    assert (np.diff(closed) >= 0).all()


def test_openings_do_not_depend_on_size_or_turn():
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    shapes = np.stack([AT_REST, with_open_mouth(AT_REST, 0.5)])
    np.testing.assert_allclose(openings(shapes @ turn.T * 130 + 7), openings(shapes), atol=1e-9)
    assert openings(shapes)[1, 2] > 0.2 > openings(shapes)[0, 2]


def test_the_neutral_frame_is_frontal_and_at_rest():
    expression = np.stack([weights(), weights(jawOpen=0.1), weights(mouthSmile=0.8), weights()])
    opened = openings(np.stack([AT_REST, AT_REST, AT_REST, with_open_mouth(AT_REST, 0.5)]))
    turned = np.tile(np.eye(3), (4, 1, 1))
    turned[0] = [[0.5, 0, 0.87], [0, 1, 0], [-0.87, 0, 0.5]]
    chosen = nearly_neutral_frames(restlessness(expression, opened), turned)
    assert chosen.tolist() == [1, 2, 3]


def test_landmarks_mirror_in_pairs():
    partner = mirrored_landmarks()
    np.testing.assert_array_equal(partner[partner], np.arange(478))
    np.testing.assert_array_equal(partner[list(RIGHT_EYE.upper)], LEFT_EYE.upper)
    blink = MODEL.displacement(weights(eyeBlinkLeft=1.0))
    np.testing.assert_allclose(mirrored_displacement(mirrored_displacement(blink)), blink)
    assert np.abs(mirrored_displacement(blink)[list(RIGHT_EYE.upper), 1]).mean() > 0.03


def test_size_of_a_face_scales_with_it():
    assert face_size(AT_REST * 1.3 + 4) == pytest.approx(1.3 * face_size(AT_REST))


def test_a_gap_between_the_drivers_resting_lips_is_no_open_mouth_and_takes_nothing_from_a_wide_one():
    parted = AT_REST.copy()
    parted[list(INNER_UPPER), 1] += 0.012
    parted[list(INNER_LOWER), 1] -= 0.012
    wide = with_open_mouth(AT_REST, 0.8)
    result = retarget(np.stack([parted, wide]), parted, AT_REST, FeatureRatios())
    plain = retarget(wide[None], AT_REST, AT_REST, FeatureRatios())
    assert np.abs(lip_gaps(result[:1])).max() < 0.005
    np.testing.assert_allclose(lip_gaps(result[1:])[0, 3:6], lip_gaps(plain)[0, 3:6], atol=1e-6)
