"""How a performer looks: skin, hair, eyes, clothes and room, chosen by hand or drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
HairStyle = Literal["bald", "buzz", "short", "quiff", "curly", "knot", "bob", "long"]
ClothesStyle = Literal["crew", "roll", "shirt"]
Colour = tuple[float, float, float]
"""Red, green, blue as shown on a screen (sRGB), 0..255."""

SKINS: tuple[Colour, ...] = ((238, 196, 172), (226, 178, 148), (205, 150, 116), (164, 110, 80), (116, 76, 56))
HAIRS: tuple[Colour, ...] = ((34, 26, 24), (70, 44, 30), (122, 78, 46), (186, 142, 84), (140, 62, 32), (150, 146, 142))
IRISES: tuple[Colour, ...] = ((88, 122, 148), (96, 66, 38), (104, 116, 70), (60, 40, 26))
CLOTHES: tuple[Colour, ...] = ((46, 74, 108), (122, 48, 52), (58, 84, 66), (196, 186, 168), (70, 66, 76), (176, 128, 60))
GLASSES: tuple[Colour, ...] = ((34, 32, 36), (74, 44, 28), (120, 116, 110), (44, 54, 84))
_BROW_TO_SKIN = 0.2
"""Luminance of the brows' hairs in that of the skin, at most."""

STYLES: tuple[HairStyle, ...] = ("bald", "buzz", "short", "quiff", "curly", "knot", "bob", "long")
STYLE_SHARES = (0.06, 0.10, 0.16, 0.16, 0.10, 0.08, 0.14, 0.20)


@dataclass(frozen=True)
class Appearance:
    """Everything visible about a performer except the shape of the face.

    Attributes:
        skin, hair, lips, iris, cloth: colours. hair_style, clothes_style: names.
        parting: of long hair, radians from the middle. wave: of long hair, centimetres. tips: height of its ends, centimetres.
        freckles, beard, brows: strength 0..1. build: width of the shoulders, 1 is average.
        glasses: thickness of their frame 0..1, none at 0. glasses_roundness: 0 boxes, 1 circles. glasses_colour: of the frame.
        hand_skin: of the hands where it is not that of the face (another person's body).
        texture_seed: of everything painted.
    """

    skin: Colour = SKINS[1]
    hair: Colour = HAIRS[1]
    lips: Colour = (176, 98, 92)
    iris: Colour = IRISES[0]
    cloth: Colour = CLOTHES[0]
    hair_style: HairStyle = "short"
    clothes_style: ClothesStyle = "crew"
    parting: float = 0.15
    wave: float = 0.15
    tips: float = -12.0
    freckles: float = 0.0
    beard: float = 0.0
    brows: float = 0.8
    build: float = 1.0
    glasses: float = 0.0
    glasses_roundness: float = 0.5
    glasses_colour: Colour = (40, 36, 38)
    hand_skin: Colour | None = None
    texture_seed: int = 0

    @classmethod
    def drawn(cls, seed: int) -> Appearance:
        """A random appearance; the same for the same seed."""
        rng = np.random.default_rng([seed, 1])
        skin = SKINS[int(rng.integers(len(SKINS)))]
        style = STYLES[int(rng.choice(len(STYLES), p=STYLE_SHARES))]
        bearded = style in ("bald", "buzz", "short", "quiff", "curly") and rng.uniform() < 0.4
        glasses = float(rng.uniform(0.1, 1.0)) if rng.uniform() < 0.22 else 0.0
        return cls(
            skin=skin,
            hair=HAIRS[int(rng.integers(len(HAIRS)))],
            lips=tuple(float(c) for c in np.array(skin) * 0.44 + np.array([170, 62, 68]) * 0.48),  # type: ignore[arg-type]
            iris=IRISES[int(rng.integers(len(IRISES)))],
            cloth=CLOTHES[int(rng.integers(len(CLOTHES)))],
            hair_style=style,
            clothes_style=("crew", "roll", "shirt")[int(rng.integers(3))],  # type: ignore[arg-type]
            parting=float(rng.uniform(-0.35, 0.35)),
            wave=float(rng.choice([0.1, 0.3, 0.5])),
            tips=float(rng.uniform(-7, -4.5) if style == "bob" else rng.uniform(-24, -12)),
            freckles=float(rng.uniform(0, 1) ** 3),
            beard=float(rng.uniform(0.3, 1.0)) if bearded else 0.0,
            brows=float(rng.uniform(0.65, 1.0)),
            build=float(rng.uniform(0.88, 1.1)),
            glasses=glasses,
            glasses_roundness=float(rng.uniform(0, 1)),
            glasses_colour=GLASSES[int(rng.integers(len(GLASSES)))],
            texture_seed=seed,
        )


def linear(colour: Colour | npt.NDArray[np.floating]) -> Floats:
    """sRGB 0..255 to linear light 0..1: float32, same shape."""
    c = np.asarray(colour, np.float64) / 255
    return np.asarray(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4), np.float32)


def brow_tone(skin: Colour, hair: Colour) -> Floats:
    """Linear light of the brows' hairs: those of the head, as much darker than the skin as brows are on people of any colouring.

    Grey and fair hair goes with darker brows, and black brows show on the darkest skin. Brows that cannot be seen would teach
    detectors, and whoever learns from them, that foreheads move without a trace.
    """
    luminance = np.array([0.2126, 0.7152, 0.0722])
    tone, behind = 0.75 * linear(hair), linear(skin)
    darkest_needed = _BROW_TO_SKIN * float(behind @ luminance)
    return np.asarray(tone * min(1.0, darkest_needed / float(tone @ luminance)), np.float32)


def display(light: Floats) -> npt.NDArray[np.uint8]:
    """Linear light to sRGB, highlights rolled off above 0.8: uint8, same shape."""
    c = np.where(light > 0.8, 0.8 + 0.2 * (1 - np.exp(-(light - 0.8) / 0.2)), np.maximum(light, 0))
    c = np.where(c <= 0.0031308, 12.92 * c, 1.055 * np.maximum(c, 1e-9) ** (1 / 2.4) - 0.055)
    return np.asarray(np.clip(c * 255 + 0.5, 0, 255), np.uint8)


def _colour(values: npt.NDArray[np.floating]) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


@dataclass(frozen=True)
class Room:
    """What is behind the performer, and where the light comes from.

    Attributes:
        kind: ``shelf`` (books), ``window`` (panes and a plant), ``studio`` (plain, graded), ``plain`` (one colour), ``texture``
            (a rough wall with stains), ``moving`` (a street at night: ``stages.performers.backdrop`` lets its lights move).
        wall: colour. key: towards the main light, in camera axes. key_colour, fill_colour, sky_colour: linear light.
    """

    kind: Literal["shelf", "window", "studio", "plain", "texture", "moving"] = "studio"
    wall: Colour = (150, 156, 160)
    key: Colour = (-0.55, 0.55, 0.75)
    key_colour: Colour = (1.9, 1.8, 1.62)
    fill_colour: Colour = (0.22, 0.26, 0.32)
    sky_colour: Colour = (0.62, 0.65, 0.70)
    seed: int = 0
    blur: float = field(default=0.014)

    @classmethod
    def drawn(cls, seed: int, *, plain: bool = False) -> Room:
        """A random room and light; ``plain``: only backgrounds that cost nothing to paint."""
        rng = np.random.default_rng([seed, 5])
        kinds = ("studio", "plain", "texture") if plain else ("shelf", "window", "studio", "plain", "texture", "moving")
        warm, strength, turn = rng.uniform(-1, 1), rng.uniform(0.85, 1.1), rng.uniform(-1.0, 1.0)
        key = (float(np.sin(turn)), float(rng.uniform(0.3, 0.8)), float(0.45 + 0.5 * np.cos(turn)))
        sun = strength * np.array([1.9 + 0.12 * warm, 1.8, 1.66 - 0.2 * warm])
        sky = rng.uniform(0.8, 1.15) * np.array([0.62 - 0.05 * warm, 0.65, 0.70 + 0.08 * warm])
        fill = rng.uniform(0.6, 1.5) * np.array([0.22, 0.26, 0.32])
        return cls(
            kind=kinds[int(rng.integers(len(kinds)))],  # type: ignore[arg-type]
            wall=_colour(rng.uniform(60, 200, 3) * (1 - 0.5) + 0.5 * rng.uniform(60, 210)),
            key=key,
            key_colour=_colour(sun),
            sky_colour=_colour(sky),
            fill_colour=_colour(fill),
            seed=seed,
        )

    def paint(self, width: int, height: int) -> Floats:
        """The background out of focus, linear light: float32 [height, width, 3]."""
        rng = np.random.default_rng([self.seed, 2])
        if self.kind == "plain":
            return np.broadcast_to(linear(self.wall), (height, width, 3)).copy()
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        wall = linear(self.wall)
        falloff = 0.75 + 0.45 * np.exp(-(((x / width - 0.3) / 0.5) ** 2) - ((y / height - 0.25) / 0.6) ** 2)
        picture = wall * falloff[..., None]
        unit = height / 12
        if self.kind == "shelf":
            board = linear((92, 64, 44))
            for shelf in range(5):
                bottom = int((shelf + 1) * height / 4.4)
                top = int(shelf * height / 4.4) + int(unit * 0.25)
                picture[top:bottom] = board * 0.28
                at = -unit * float(rng.uniform(0, 1))
                while at < width:
                    wide, tall = unit * rng.uniform(0.28, 0.75), (bottom - top) * rng.uniform(0.62, 0.93)
                    if rng.uniform() > 0.12:
                        tone = linear(CLOTHES[int(rng.integers(len(CLOTHES)))]) * rng.uniform(0.5, 1.1)
                        left, right = max(0, int(at)), max(0, int(at + wide))
                        picture[int(bottom - tall) : bottom, left:right] = tone
                        picture[int(bottom - 0.8 * tall) : int(bottom - 0.72 * tall), left:right] = tone * 1.8
                    at += wide + 1
                picture[bottom : bottom + int(unit * 0.22)] = board
        elif self.kind == "window":
            left, right, top, bottom = int(0.06 * width), int(0.44 * width), int(0.02 * height), int(0.66 * height)
            glass = np.stack([0.9 + 0 * x, 1.0 + 0 * x, 1.12 + 0 * x], -1) * (1.15 - 0.5 * y / height)[..., None]
            picture[top:bottom, left:right] = glass[top:bottom, left:right]
            for line in np.linspace(left, right, 4):
                cv2.line(picture, (int(line), top), (int(line), bottom), (0.5, 0.48, 0.45), max(2, int(unit * 0.16)))
            for line in np.linspace(top, bottom, 3):
                cv2.line(picture, (left, int(line)), (right, int(line)), (0.5, 0.48, 0.45), max(2, int(unit * 0.16)))
            for _ in range(60):
                centre = (int(width * rng.normal(0.86, 0.06)), int(height * rng.normal(0.55, 0.16)))
                tone = linear((70, 104, 66)) * rng.uniform(0.4, 1.3)
                cv2.ellipse(
                    picture,
                    centre,
                    (int(unit * 0.7), int(unit * 0.18)),
                    rng.uniform(-80, 80),
                    0,
                    360,
                    tuple(float(c) for c in tone),
                    -1,
                )
            cv2.rectangle(picture, (int(0.80 * width), int(0.72 * height)), (int(0.92 * width), height), (0.28, 0.12, 0.07), -1)
        elif self.kind == "texture":
            rough = np.zeros((height, width), np.float32)
            for cells, strength in ((5, 0.5), (13, 0.3), (40, 0.2), (120, 0.12)):
                lattice = rng.random((cells, cells), np.float32) - 0.5
                rough += strength * cv2.resize(lattice, (width, height), interpolation=cv2.INTER_CUBIC)
            picture = np.maximum(picture * (1 + 0.9 * rough[..., None]), 0).astype(np.float32)
            return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.3 * self.blur * height), np.float32)
        elif self.kind == "moving":
            picture *= 0.25
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), self.blur * height), np.float32)
