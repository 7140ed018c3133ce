"""What can be read from something else: all of a linear function, nothing of noise, no more than is there."""

from __future__ import annotations

import numpy as np
import pytest

from stages.metrics import leakage


def test_the_outline_of_a_drawn_head_is_measured() -> None:
    labels = np.zeros((100, 100), np.uint8)
    labels[20:60, 30:70] = 2
    labels[10:20, 30:70] = 1
    labels[20:80, 70:80] = 1
    found = dict(zip(leakage.OUTLINE, leakage.outline_parameters(labels, middle=40, face=40), strict=True))
    assert found["width"] == pytest.approx(50 / 40)
    assert found["height"] == pytest.approx(29.5 / 40)
    assert found["hair length"] == pytest.approx(1, abs=0.05)  # all but the lowest percent of the hair
    assert found["area"] == pytest.approx((40 * 40 + 10 * 40 + 60 * 10) / 40**2)


def test_a_bald_head_has_the_shortest_hair_and_an_empty_map_does_not_fail() -> None:
    labels = np.zeros((50, 50), np.uint8)
    labels[10:40, 10:40] = 2
    width, length, height, _ = leakage.outline_parameters(labels, 25, 30)
    assert (width, length) == (1, -height)
    assert np.isfinite(leakage.outline_parameters(np.zeros((50, 50), np.uint8), 25, 30)).all()


def test_what_is_a_function_of_the_seen_is_found_and_what_is_not_is_not() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(150, 6))
    linear, curved, unrelated = seen[:, :2].sum(1), np.sin(seen[:, 0]), rng.normal(size=150)
    for wanted, least, most in ((linear, 0.999, 1), (curved, 0.75, 1), (unrelated, -0.2, 0.1)):
        found, blind = leakage.predict_held_out([seen], wanted[:, None])
        assert least <= leakage.explained(wanted[:, None], found, blind) <= most


def test_nobody_is_predicted_from_themselves() -> None:
    rng = np.random.default_rng(1)
    seen, wanted = np.eye(40), rng.normal(size=(40, 1))
    found, blind = leakage.predict_held_out([seen], wanted)
    assert leakage.explained(wanted, found, blind) < 0.1


def test_what_is_the_same_for_everybody_tells_nothing() -> None:
    wanted = np.random.default_rng(2).normal(size=(20, 3))
    found, blind = leakage.predict_held_out([np.ones((20, 5))], wanted)
    assert np.array_equal(found, blind)


def test_seeing_more_does_not_predict_worse() -> None:
    rng = np.random.default_rng(3)
    seen, noise = rng.normal(size=(120, 3)), 5 * rng.normal(size=(120, 200))
    wanted = seen @ rng.normal(size=(3, 1))
    both = np.hstack([seen, noise])
    alone, blind = leakage.predict_held_out([seen], wanted)
    found, _ = leakage.predict_held_out([seen, both], wanted)
    assert leakage.explained(wanted, found, blind) == leakage.explained(wanted, alone, blind)
    assert leakage.explained(wanted, leakage.predict_held_out([both], wanted)[0], blind) < 0.5


def test_a_view_of_nothing_but_noise_is_left_alone() -> None:
    rng = np.random.default_rng(5)
    seen, noise, wanted = rng.normal(size=(100, 2)), rng.normal(size=(100, 4000)), rng.normal(size=(100, 1))
    found, blind = leakage.predict_held_out([noise], wanted)
    assert leakage.explained(wanted, found, blind) > -0.1
    wanted = seen[:, :1] + 0.5 * wanted
    alone, _ = leakage.predict_held_out([seen], wanted)
    found, _ = leakage.predict_held_out([seen, noise, np.hstack([seen, noise])], wanted)
    assert np.allclose(found, alone)


def test_pictures_are_predicted_by_their_principal_components() -> None:
    rng = np.random.default_rng(4)
    seen = rng.normal(size=(80, 2))
    wanted = seen @ rng.normal(size=(2, 300))
    found, blind = leakage.predict_held_out([seen], wanted)
    assert leakage.explained(wanted, found, blind) > 0.99


def test_bits_follow_the_share_explained() -> None:
    assert leakage.bits(0.75) == pytest.approx(1)
    assert leakage.bits(-0.3) == 0


def test_overlaps_are_counted_for_each_person() -> None:
    truth = np.array([[True, True, False, False], [True, False, False, False]])
    assert leakage.overlaps(np.array([[0.9, 0.2, 0.6, 0.1], [0.5, 0, 0, 0]]), truth).tolist() == [1 / 3, 1]
