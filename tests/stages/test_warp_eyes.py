"""Eyes of the warped head."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from stages.warp import topology
from stages.warp.eyes import LIDS, Eye, draw_lashes, shut_share, take_eye, without_eyeball
from stages.warp.head import Head
from tests.stages.painted_heads import portrait, scene

SKIN = (180, 130, 110)


def test_nothing_white_is_left_for_lids_that_close() -> None:
    picture = np.full((60, 80, 3), (180, 130, 110), np.uint8)
    angles = np.linspace(np.pi, -np.pi, 16, endpoint=False)
    contour = np.array([40, 30]) + np.stack([20 * np.cos(angles), 8 * np.sin(angles)], 1)
    picture[22:38, 20:60] = 240
    before = picture.copy()
    without_eyeball(picture, contour)
    assert picture[30, 40].max() < 160
    assert (picture[:, :12] == before[:, :12]).all()


def test_an_opening_that_was_found_too_small_leaves_nothing_of_the_eyeball_in_shut_lids() -> None:
    picture = np.full((90, 120, 3), (180, 130, 110), np.uint8)
    angles = np.linspace(np.pi, -np.pi, 16, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles)], 1)
    yy, xx = np.mgrid[:90, :120] + 0.5
    picture[((xx - 60) / 30) ** 2 + ((yy - 45) / 11) ** 2 < 1] = 240
    found = np.array([60, 45]) + rim * (28, 8)
    narrow, wide = picture.copy(), picture.copy()
    without_eyeball(narrow, found)
    without_eyeball(wide, found, LIDS)
    assert narrow.max() == 240
    assert wide.max() < 200
    assert (wide[:20] == picture[:20]).all()


def test_an_eye_counts_as_shut_gradually() -> None:
    angles = np.linspace(np.pi, -np.pi, 16, endpoint=False)
    shares = [
        shut_share(np.array([60, 45]) + np.stack([28 * np.cos(angles), 28 * height * np.sin(angles)], 1))
        for height in np.linspace(0, 0.3, 40)
    ]
    assert shares[0] == 1
    assert shares[-1] == 0
    assert (np.diff(shares) <= 0).all()
    assert np.diff(shares).min() > -0.35


def opening(height: float) -> np.ndarray:
    """Contour [16, 2] of an eye 56 pixels wide, its height a share of that: outer corner, lower lid, inner corner, upper lid."""
    angles = np.linspace(np.pi, -np.pi, 16, endpoint=False)
    return np.array([60, 45]) + np.stack([28 * np.cos(angles), 28 * height * np.sin(angles)], 1)


def painted_eye(lashes: tuple[int, int, int] | None) -> Eye:
    """An open eye in plain skin, with a line of lashes along its upper lid or without."""
    picture = np.full((90, 120, 3), SKIN, np.uint8)
    contour = opening(0.4)
    cv2.fillPoly(picture, [np.round(contour).astype(np.int32)], (240, 240, 240))
    if lashes is not None:
        line = np.concatenate([contour[8:], contour[:1]]) - (0, 2)
        cv2.polylines(picture, [np.round(line).astype(np.int32)], False, lashes, 3)
    iris = np.array([[60, 37], [68, 37], [60, 29], [52, 37], [60, 45]], np.float64)  # half under the lid
    opening_only = cv2.fillPoly(np.zeros((90, 120), np.uint8), [np.round(contour).astype(np.int32)], 1) > 0
    disc = cv2.circle(np.zeros((90, 120), np.uint8), (60, 37), 8, 1, -1) > 0
    picture[disc & opening_only] = (20, 90, 160)
    return take_eye(picture, contour, iris)


def test_lashes_have_the_colour_of_the_upper_lids_dark_line_and_are_darker_than_skin_where_there_is_none() -> None:
    assert np.abs(painted_eye((70, 30, 10)).lashes - (70, 30, 10)).max() < 12
    np.testing.assert_allclose(painted_eye(None).lashes, 0.6 * np.array(SKIN), atol=2)  # nothing of a blue iris


def test_shut_lids_meet_in_a_line_of_lashes_that_comes_as_the_eye_shuts() -> None:
    eye, lids = painted_eye((70, 30, 10)), np.full((90, 120, 3), SKIN, np.uint8)
    dark = []
    for height in np.linspace(0.3, 0.0, 40):
        picture = lids.copy()
        draw_lashes(picture, eye, opening(height))
        dark.append(float((lids - picture.astype(float)).sum()))
    assert dark[0] == 0
    assert np.diff(dark).min() > -0.12 * dark[-1]  # the line straightens, too
    assert np.diff(dark).max() < 0.35 * dark[-1]
    column = picture[:, 60].astype(float).sum(1)
    assert int(column.argmin()) in (44, 45)
    darkest = picture[int(column.argmin()), 60].astype(float)
    np.testing.assert_allclose(darkest, 0.15 * np.array(SKIN) + 0.85 * eye.lashes, atol=12)
    assert (np.abs(column - sum(SKIN)) > 1).sum() < 10  # rows, of an eye 56 pixels wide
    assert (picture[:, :28] == lids[:, :28]).all()


def test_an_eye_at_the_pictures_border_or_of_no_width_draws_no_lashes_elsewhere() -> None:
    eye = painted_eye(None)
    picture = np.full((90, 120, 3), SKIN, np.uint8)
    before = picture.copy()
    for contour in (opening(0.0) + np.array([500, 0]), opening(0.0) - np.array([0, 300])):
        draw_lashes(picture, eye, contour)
    assert (picture == before).all()
    draw_lashes(picture, eye, np.full((16, 2), 40.0))
    assert (picture == before).all()
    draw_lashes(picture, eye, opening(0.0) + np.array([45, 0]))
    assert (picture[:, :60] != before[:, :60]).any(-1).sum() == 0


def test_a_head_that_shuts_its_eyes_shows_its_lashes() -> None:
    source = portrait()
    picture = source.picture.copy()
    for contour in (topology.LEFT_EYE, topology.RIGHT_EYE):
        lid = source.landmarks[[*contour[8:], contour[0]], :2] - (0, 1)
        cv2.polylines(picture, [np.round(lid).astype(np.int32)], False, (10, 10, 10), 2)
    head, target = Head(replace(source, picture=picture)), scene(eyeBlink=1.0)
    drawn = head.draw(target.aligned, target.pose, target.picture, target.landmarks)[0].astype(float)
    for contour in (topology.LEFT_EYE, topology.RIGHT_EYE):
        x, y = target.aligned[contour[12], :2].round().astype(int)
        column = drawn[y - 6 : y + 7, x].sum(1)
        assert column.min() < 0.4 * np.median(column)  # what lies between the lids is at 0.6
        assert (column < 0.9 * np.median(column)).sum() <= 5
