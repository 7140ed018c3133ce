"""Eyes of the warped head."""

from __future__ import annotations

import numpy as np

from stages.warp.eyes import without_eyeball


def test_nothing_white_is_left_for_lids_that_close() -> None:
    picture = np.full((60, 80, 3), (180, 130, 110), np.uint8)
    angles = np.linspace(np.pi, -np.pi, 16, endpoint=False)
    contour = np.array([40, 30]) + np.stack([20 * np.cos(angles), 8 * np.sin(angles)], 1)
    picture[22:38, 20:60] = 240
    before = picture.copy()
    without_eyeball(picture, contour)
    assert picture[30, 40].max() < 160
    assert (picture[:, :12] == before[:, :12]).all()
