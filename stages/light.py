"""The light in which one picture shows what another shows: fades, flashes, exposures."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LITTLE = 2.0
"""Difference (0..255, mean) that is not worth a change of light."""

OTHER_LIGHT = 12.0
"""Difference (0..255, mean) between a frame and its plate from which it is a fade, a flash or another picture: 20 to 160 there,
and 5 at the most in all others of the clips that were looked at."""

FEWEST_TOLD = 64
"""Pixels, neither black nor white, that it takes to tell a light."""

SURE = 0.6
"""Share of the pixels, those most alike, by which it is told: labels may be wrong, most of all in the dark, or things move."""

OFFSET_PRICE = (0.002, 0.0002)
"""What an offset costs in frames that are darker, and in brighter ones: most of what darkens fades to black, where coding leaves
less contrast than the fade does; what brightens may fade to white, which is an offset for the most part."""

DARKEST = 1 / 40
"""A light with less contrast than this tells nothing of what it shows."""


@dataclass(frozen=True)
class Light:
    """How a fade, a flash or an exposure shows what another picture shows: colour times gain plus offset."""

    gain: float = 1.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """RGB, 0..255."""

    def shown(self, picture: np.ndarray) -> np.ndarray:
        """A picture, uint8 [h, w, 3], in this light."""
        return self._toned(picture, self.gain, np.asarray(self.offset))

    def taken_from(self, picture: np.ndarray) -> np.ndarray:
        """A picture, uint8 [h, w, 3], that was taken in this light, as it would be without."""
        gain = max(self.gain, DARKEST)
        return self._toned(picture, 1 / gain, -np.asarray(self.offset) / gain)

    def beside(self, other: Light) -> Light:
        """What this light is to what was taken in the ``other``."""
        gain = self.gain / max(other.gain, DARKEST)
        return Light(gain, tuple(float(a - gain * b) for a, b in zip(self.offset, other.offset, strict=True)))  # type: ignore[arg-type]

    def partly(self, share: float) -> Light:
        """So much of it, 0..1."""
        return Light(1 + share * (self.gain - 1), tuple(share * value for value in self.offset))  # type: ignore[arg-type]

    @staticmethod
    def _toned(picture: np.ndarray, gain: float, offset: np.ndarray) -> np.ndarray:
        tones = np.clip(np.rint(np.arange(256)[:, None] * gain + offset), 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(picture, np.ascontiguousarray(tones[None])), np.uint8)


@dataclass(frozen=True)
class Likeness:
    """How a picture shows what another shows."""

    light: Light
    without: float
    with_it: float
    """Mean absolute difference, 0..255, of both without and with the light, over the pixels by which that was told."""
    share: float
    """0..1, how far the light explains their difference: not at all, where it only finds another picture's mean."""


def light_between(picture: np.ndarray, plain: np.ndarray, visible: np.ndarray) -> Likeness:
    """The light in which ``picture`` shows what ``plain`` shows; none where too little is visible.

    Args:
        picture, plain: uint8 [h, w, 3], one upon the other. visible: boolean [h, w], where both show the same.
    """
    step = max(1, int(np.sqrt(visible.size / 16384)))
    places = visible[::step, ::step]
    shown, plain = picture[::step, ::step][places].astype(np.float64), plain[::step, ::step][places].astype(np.float64)
    if len(shown) < FEWEST_TOLD:
        return Likeness(Light(), 0.0, 0.0, 0.0)
    # What is cut off at black or white tells neither gain nor offset.
    whole = (shown > 1) & (shown < 254)
    if np.count_nonzero(whole.any(1)) >= FEWEST_TOLD:
        told = whole.any(1)
        shown, plain, whole = shown[told], plain[told], whole[told]
    else:
        whole = np.ones_like(whole)
    weight = whole / whole.sum(1, keepdims=True)
    light, kept = Light(), np.ones(len(shown), bool)
    for _ in range(5):
        light = _least_squares(shown[kept], plain[kept], whole[kept])
        error = (np.abs(plain * light.gain + light.offset - shown) * weight).sum(1)
        kept = error <= np.quantile(error, SURE)
    without, with_it = float((np.abs(plain - shown) * weight).sum(1)[kept].mean()), float(error[kept].mean())
    contrast = float(np.abs(shown[kept] - shown[kept].mean(0)).mean())
    unexplained = max(with_it - LITTLE, 0) / max(contrast, 1e-6)
    smaller = (0.9 - with_it / max(without, 1e-6)) / 0.3
    share = min(smaller, (0.6 - unexplained) / 0.3, _alike(shown[kept], plain[kept]))
    return Likeness(light, without, with_it, float(np.clip(share, 0, 1)))


def _alike(shown: np.ndarray, plain: np.ndarray) -> float:
    """From 1, where both float [n, 3] show the same, to 0 and less, where each shows something of its own; 1 where one of them
    is too flat to tell."""
    one, other = shown.mean(1), plain.mean(1)
    spread = min(float(one.std()), float(other.std()))
    if spread < 2 * LITTLE:
        return 1.0
    return (float(np.corrcoef(one, other)[0, 1]) - 0.3) / 0.4


def _least_squares(shown: np.ndarray, plain: np.ndarray, whole: np.ndarray) -> Light:
    """The light by which ``plain``, float [n, 3], comes nearest to ``shown``, where that is ``whole``, boolean [n, 3].

    Where there is hardly any contrast a gain cannot be told from an offset: then nothing is added, as in a fade from black.
    """
    weight = np.where(whole.sum(0) >= FEWEST_TOLD / 4, whole, True).astype(np.float64)
    weight /= weight.sum(0)
    middle, there = (weight * plain).sum(0), (weight * shown).sum(0)
    # An offset has a small price: as that of so many of the pixels which the light should show as black.
    price = OFFSET_PRICE[int(there.mean() > middle.mean())]
    spread = float((weight * (plain - middle) ** 2).sum()) + price * float(middle @ middle)
    common = float((weight * (plain - middle) * (shown - there)).sum()) + price * float(middle @ there)
    gain = float(np.clip(common / max(spread, 1e-6), 0, 4))
    return Light(gain, tuple(float(value) for value in there - gain * middle))  # type: ignore[arg-type]


def light_behind(picture: np.ndarray, background: np.ndarray, open_to_view: np.ndarray, person: np.ndarray) -> Light:
    """The light in which a frame's crop shows its background: none, where the plate resembles the frame, or nothing explains how
    they differ. From the one to the other it rises smoothly, so that nothing jumps from frame to frame.

    The person stands in the same light: where no person could look as this one does, what is behind is another thing in its
    usual light (a screen that turns white, a tunnel behind a car's window).

    Args:
        picture, background: uint8 [size, size, 3]. open_to_view: boolean [size, size], surely not the person. person: likewise,
            most likely the person.
    """
    found = light_between(picture, background, open_to_view)
    share = found.share * float(np.clip((found.without - LITTLE) / (2 * LITTLE), 0, 1))
    if share > 0 and person.any():
        colours, darkest = picture[person].astype(np.float64), np.asarray(found.light.offset)
        beyond = ((colours < darkest - 4 * LITTLE) | (colours > darkest + 255 * found.light.gain + 4 * LITTLE)).any(1).mean()
        share *= float(np.clip((0.1 - beyond) / 0.08, 0, 1))
    return found.light.partly(share * share * (3 - 2 * share)) if share > 0 else Light()
