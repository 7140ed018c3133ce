"""Eyes of the warped head."""

from __future__ import annotations

import numpy as np

from stages.warp.eyes import LIDS, shut_share, without_eyeball


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
