"""What is generated is laid over the target: new where something new is shown, the target's own everywhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.diffusion.compose import head_zone, on_background, on_white, white_key
from stages.diffusion.conditions import frame_conditions, reference_of, resized
from stages.diffusion.placement import source_hair
from stages.face3d.drawing import draw_landmarks
from stages.segmentation import CLOTH, GRID, OTHER
from stages.training.shards import shrunk_labels
from tests.stages.painted_heads import FACE_LABEL, HAIR_LABEL, SIZE, WALL, portrait, pose, scene

BLUE = np.array([40, 60, 200], np.uint8)
EVERYWHERE = np.ones((SIZE, SIZE), np.float32)


def head_of(labels: np.ndarray) -> np.ndarray:
    return np.isin(labels, (HAIR_LABEL, FACE_LABEL))


def test_what_shows_the_background_and_the_cloth_that_are_there_is_replaced_by_them() -> None:
    target = scene()
    lossy = np.clip(target.picture.astype(int) + np.random.default_rng(0).normal(0, 6, target.picture.shape), 0, 255)
    generated = np.where(head_of(target.labels)[..., None], BLUE, lossy.astype(np.uint8))
    picture, share = on_background(target, generated.astype(np.uint8), EVERYWHERE)
    far = ~np.isin(target.labels, (HAIR_LABEL, FACE_LABEL)) & (share == 0)
    assert far.mean() > 0.5
    np.testing.assert_array_equal(picture[far], target.picture[far])
    inner = np.zeros((SIZE, SIZE), bool)
    inner[SIZE // 2 - 10 : SIZE // 2 + 10, SIZE // 2 - 10 : SIZE // 2 + 10] = True
    assert np.abs(picture[inner].astype(int) - generated[inner]).max() <= 1


def test_the_old_head_is_gone_where_the_new_one_is_smaller() -> None:
    target = scene()
    smaller = np.where(head_of(target.labels)[..., None], WALL, target.picture).astype(np.uint8)
    picture, _ = on_background(target, smaller, EVERYWHERE)
    hair = target.labels == HAIR_LABEL
    wall = np.abs(picture[hair].astype(int) - np.asarray(WALL)).max(1) <= 12
    assert wall.mean() > 0.9


def test_hair_that_is_wider_and_longer_than_the_targets_is_shown_whole() -> None:
    target, source = scene(), portrait()
    size = SIZE // 8
    labels, matte = source.labels.copy(), source.matte.copy()
    rows, columns = np.nonzero(np.isin(target.labels, (HAIR_LABEL, FACE_LABEL)))
    beside = np.s_[rows.min() + 20 : rows.max() + 2 * size, columns.max() + size : columns.max() + 2 * size]
    assert (target.labels[beside] != HAIR_LABEL).all()  # far from the head that was there
    labels[beside], matte[beside] = HAIR_LABEL, 1
    zone = head_zone(replace(source, labels=labels, matte=matte), replace(target, aligned=source.landmarks))
    generated = target.picture.copy()
    generated[beside] = BLUE
    picture, share = on_background(target, generated, zone)
    inner = np.s_[beside[0].start + 4 : beside[0].stop - 4, beside[1].start + 4 : beside[1].stop - 4]
    assert share[inner].min() > 0.99
    assert np.abs(picture[inner].astype(int) - BLUE).max() <= 1


def test_what_moves_behind_the_head_and_is_not_in_the_plate_stays() -> None:
    target = scene()
    columns = np.nonzero(head_of(target.labels).any(0))[0]
    passing = np.s_[60:100, columns.max() + 8 : columns.max() + 48]
    shown = target.picture.copy()
    shown[passing] = BLUE
    target = replace(target, picture=shown)
    generated = np.where(head_of(target.labels)[..., None], 255 - target.picture, target.background).astype(np.uint8)
    picture, _ = on_background(target, generated, EVERYWHERE)
    inner = np.s_[64:96, columns.max() + 14 : columns.max() + 44]
    np.testing.assert_array_equal(picture[inner], target.picture[inner])


def test_hair_over_cloth_is_shown_though_the_plate_behind_is_as_dark() -> None:
    target = scene()
    rows, columns = np.nonzero(target.labels == CLOTH)
    lock = np.s_[rows.max() - 30 : rows.max() - 4, columns.min() + 20 : columns.min() + 44]
    hair = np.array([20, 16, 14], np.uint8)
    plate = np.full_like(target.background, 22)
    generated = target.picture.copy()
    generated[lock] = hair
    picture, _ = on_background(replace(target, background=plate), generated, EVERYWHERE)
    inner = np.s_[lock[0].start + 3 : lock[0].stop - 3, lock[1].start + 3 : lock[1].stop - 3]
    assert np.abs(picture[inner].astype(int) - hair).max() <= 1


def test_the_body_stays_the_targets_where_no_head_can_be() -> None:
    target = scene()
    zone = head_zone(portrait(), target)
    face = target.labels == FACE_LABEL
    assert zone[face].min() == 1
    corner = np.s_[-8:, :30]
    assert zone[corner].max() == 0
    picture, share = on_background(target, np.full_like(target.picture, BLUE), zone)
    np.testing.assert_array_equal(picture[corner], target.picture[corner])
    assert np.abs(picture[face].astype(int) - BLUE).max() <= 1
    assert share[face].min() > 0.99


def test_the_zone_of_the_head_follows_the_aligned_face() -> None:
    source, target = portrait(), scene()
    moved = replace(target, aligned=target.aligned + np.array([40.0, 0, 0]))
    here, there = head_zone(source, target), head_zone(source, moved)
    np.testing.assert_allclose(there[:, 40:], here[:, :-40], atol=0.02)


@pytest.mark.parametrize("compose", [lambda *given: on_background(*given, EVERYWHERE), on_white], ids=["background", "white"])
def test_hands_and_things_before_the_head_stay(compose: object) -> None:
    target = scene()
    labels = target.labels.copy()
    labels[SIZE // 2 : SIZE // 2 + 40, SIZE // 2 - 20 : SIZE // 2 + 20] = OTHER
    generated = np.full_like(target.picture, BLUE)
    picture, _ = compose(replace(target, labels=labels), generated)  # type: ignore[operator]
    inside = np.s_[SIZE // 2 + 8 : SIZE // 2 + 32, SIZE // 2 - 12 : SIZE // 2 + 12]
    assert np.abs(picture[inside].astype(int) - target.picture[inside]).max() <= 1


def test_paper_is_white_that_the_border_can_be_reached_from() -> None:
    picture = np.full((128, 128, 3), 255, np.uint8)
    picture[32:96, 32:96] = (120, 80, 60)
    picture[60:66, 60:66] = 255  # an eye
    alpha, colours = white_key(picture)
    np.testing.assert_array_equal(colours[50, 50], (120, 80, 60))
    assert alpha[40:90, 40:90].min() == 1
    assert alpha[:20].max() == 0
    assert alpha[62, 62] == 1


def test_a_border_that_fades_into_paper_is_as_transparent_as_it_was_drawn() -> None:
    skin = np.array([190, 140, 110], np.float32)
    opacity = np.clip((np.arange(128) - 40) / 4, 0, 1)[None, :, None] * np.ones((128, 1, 1))
    opacity[:, 90:] = 0
    picture = np.rint(opacity * skin + 255 * (1 - opacity)).astype(np.uint8)
    alpha, colours = white_key(picture)
    assert (np.diff(alpha[64, 40:48]) >= 0).all()
    assert alpha[64, 42] == pytest.approx(0.5 / 0.8, abs=0.05)
    shown = alpha[64, 41:84, None] * colours[64, 41:84] + 255 * (1 - alpha[64, 41:84, None])
    assert np.abs(shown - picture[64, 41:84]).max() <= 20
    assert (colours[64, 42:84].max(axis=-1) < 230).all(), "no rim of paper is left"


def test_a_head_on_white_is_matted_in_over_the_target_without_its_old_head() -> None:
    target = scene()
    head = head_of(target.labels)
    generated = np.full_like(target.picture, 255)
    generated[head] = BLUE
    person = np.zeros((GRID, GRID), np.float32)
    person[GRID // 8 : -GRID // 8, GRID // 8 : -GRID // 8] = 1
    picture, alpha = on_white(target, generated, person)
    face = target.labels == FACE_LABEL
    assert np.median(np.abs(picture[face].astype(int) - BLUE)) <= 1
    assert alpha[face].mean() > 0.8
    assert np.abs(picture[:20].astype(int) - target.picture[:20]).max() <= 1
    assert np.abs(picture[-12:].astype(int) - target.picture[-12:]).max() <= 1


def test_what_lies_far_from_any_person_is_no_head() -> None:
    target = scene()
    generated = np.full_like(target.picture, 255)
    generated[:16, :16] = 0
    person = np.zeros((GRID, GRID), np.float32)
    person[GRID // 3 : 2 * GRID // 3, GRID // 3 : 2 * GRID // 3] = 1
    _, alpha = on_white(target, generated, person)
    assert alpha[:16, :16].max() == 0
    assert white_key(generated)[0][4, 4] == 1


def test_conditions_are_composed_at_the_networks_size() -> None:
    target = scene(7, pose(turn=5))
    half = frame_conditions(target, portrait(), SIZE // 2)
    assert half.frame == 7
    assert half.drawing.shape == half.background.shape == (SIZE // 2, SIZE // 2, 3)
    np.testing.assert_array_equal(half.drawing, draw_landmarks(target.aligned / 2, SIZE // 2))
    assert frame_conditions(target, portrait(), SIZE).background.shape == (SIZE, SIZE, 3)
    # The whole person is gone; only a piece of cloth may be left.
    head = head_of(target.labels)[1::2, 1::2]
    assert (half.background[head] == np.asarray(WALL)).all()


@pytest.mark.parametrize("size", [SIZE // 4, SIZE // 2, SIZE, SIZE * 2])
def test_labels_reach_the_networks_as_in_training(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    target = scene()
    given: list[np.ndarray] = []

    def seen(
        background: np.ndarray, picture: np.ndarray, labels: np.ndarray, shoulders: np.ndarray, hair: np.ndarray
    ) -> tuple[np.ndarray, None]:
        given.append(labels)
        return background, None

    monkeypatch.setattr("stages.diffusion.conditions.condition_image", seen)
    frame_conditions(target, portrait(), size)
    np.testing.assert_array_equal(given[0], shrunk_labels(target.labels, size))
    assert given[0].shape == (size, size)


def test_cloth_is_not_shown_where_the_sources_hair_will_hang() -> None:
    """In training the person's own hair never lay over cloth that was shown."""
    target, source = scene(), portrait()
    labels = target.labels.copy()
    labels[SIZE * 3 // 4 :] = CLOTH
    target = replace(target, labels=labels, picture=np.where((labels == CLOTH)[..., None], BLUE, target.picture))
    long = source.labels.copy()
    long[SIZE // 4 :, : SIZE * 2 // 5] = HAIR_LABEL
    matte = np.where(long == HAIR_LABEL, np.float32(1), source.matte)
    short_condition = frame_conditions(target, source, SIZE).background
    long_condition = frame_conditions(target, replace(source, labels=long, matte=matte), SIZE).background
    hair = source_hair(replace(source, labels=long, matte=matte), target)
    shown = (short_condition == BLUE).all(-1)
    assert (shown & hair).any(), "the collar is under the long hair"
    assert not ((long_condition == BLUE).all(-1) & hair).any()
    far = SIZE * 3 // 5
    np.testing.assert_array_equal(long_condition[:, far:], short_condition[:, far:])


def test_the_reference_is_the_head_alone_on_white() -> None:
    source = portrait()
    picture = reference_of(source, SIZE)
    assert (picture[source.matte == 0] == 255).all()
    face = source.labels == FACE_LABEL
    assert np.abs(picture[face].astype(int) - source.colours[face]).max() <= 3
    assert resized(picture, 64).shape == (64, 64, 3)
