"""What a performer does over time: head motion, gaze, blinks, speech and moods, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Performance:
    """A performance, one row per frame.

    Attributes:
        frames_per_second: of the rows.
        pose: float32 [frames, 3], yaw, pitch, roll of the head, radians (``head.rotation_matrix``).
        shift: float32 [frames, 3], of the head, centimetres.
        sway: float32 [frames, 3], of the whole body, centimetres.
        expression: float32 [frames, expressions], weights 0..1 in the order of the head model.
        voice: float32 [frames], loudness of speech 0..1, in step with the mouth.
        hand: float32 [frames, 5], a hand before the face (``scene.Performer.shoot``); NaN where there is none.
        drift: float32 [frames, 2], of the camera to the right and up, centimetres.
    """

    frames_per_second: float
    pose: Floats
    shift: Floats
    sway: Floats
    expression: Floats
    voice: Floats
    hand: Floats
    drift: Floats

    def __len__(self) -> int:
        return len(self.pose)


def _wander(
    seconds: npt.NDArray[np.float64], rng: np.random.Generator, slowest: float, octaves: int = 3
) -> npt.NDArray[np.float64]:
    """A smooth random curve, about -1..1: sines of rising frequency and random phase."""
    total = np.zeros_like(seconds)
    for k in range(octaves):
        frequency = slowest * (1.7**k) * rng.uniform(0.85, 1.15)
        total += np.sin(2 * np.pi * frequency * seconds + rng.uniform(0, 2 * np.pi)) / 1.6**k
    return total / sum(1.6**-k for k in range(octaves))


def _bump(seconds: npt.NDArray[np.float64], start: float, rise: float, hold: float, fall: float) -> npt.NDArray[np.float64]:
    """0, smoothly up to 1, held, and down again; in no time (a clip of one frame) by a step."""
    up = np.clip((seconds - start) / max(rise, 1e-6), 0, 1)
    down = np.clip((seconds - start - rise - hold) / max(fall, 1e-6), 0, 1)
    return (up * up * (3 - 2 * up)) * (1 - down * down * (3 - 2 * down))


VISEMES: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.42, "mouthLowerDown": 0.25, "mouthUpperUp": 0.15},
    {"jawOpen": 0.20, "mouthStretch": 0.35, "mouthSmile": 0.25, "mouthLowerDown": 0.2},
    {"jawOpen": 0.26, "mouthFunnel": 0.65},
    {"jawOpen": 0.12, "mouthPucker": 0.75},
    {"jawOpen": 0.02, "mouthPress": 0.45, "mouthRollLower": 0.3, "mouthRollUpper": 0.2},
    {"jawOpen": 0.08, "mouthRollLower": 0.35, "mouthUpperUp": 0.3},
    {"jawOpen": 0.30, "mouthLowerDown": 0.35, "mouthSmile": 0.15},
)
"""Mouth shapes for sounds like a, e, o, u, m, f, ah; without a side they act on both."""


def perform(
    names: Sequence[str],
    frames: int,
    frames_per_second: float,
    *,
    seed: int,
    speech: float = 1.0,
    motion: float = 1.0,
    smile: float = 0.5,
    faces: float = 0.0,
    turn: float = 0.0,
    hands: int = 0,
    drift: float = 0.0,
) -> Performance:
    """Invent a performance.

    Args:
        names: expression names in the order of the head model. frames, frames_per_second: length.
        speech, motion, smile: how much of each, 0 for none, 1 for usual.
        faces: strength of the grimaces that follow each other, 0..1. turn: largest yaw of slow turns of the head, radians.
        hands: how often a hand passes before the face. drift: of a camera held by hand, centimetres.
    """
    rng = np.random.default_rng(seed)
    seconds = np.arange(frames) / frames_per_second
    weights = {name: np.zeros(frames) for name in names}

    def add(name: str, curve: npt.NDArray[np.float64]) -> None:
        for full in (name,) if name in weights else (f"{name}_L", f"{name}_R"):
            weights[full] += curve

    pose = np.stack(
        [
            0.20 * _wander(seconds, rng, 0.22) + 0.03 * _wander(seconds, rng, 0.9),
            0.085 * _wander(seconds, rng, 0.28) + 0.025 * _wander(seconds, rng, 1.3),
            0.075 * _wander(seconds, rng, 0.2),
        ],
        axis=1,
    )
    shift = np.stack(
        [0.7 * _wander(seconds, rng, 0.2), 0.25 * _wander(seconds, rng, 0.4), 0.8 * _wander(seconds, rng, 0.2)], axis=1
    )
    breath = np.sin(2 * np.pi * 0.27 * seconds + rng.uniform(0, 6))
    sway = np.stack([0.6 * _wander(seconds, rng, 0.17), 0.14 * breath, 0.4 * _wander(seconds, rng, 0.2)], axis=1)

    voice = np.zeros(frames)
    start = 0.25
    while speech > 0 and start < seconds[-1]:
        length = rng.uniform(0.16, 0.30)
        loud = rng.uniform(0.6, 1.0) * speech
        shape = _bump(seconds, start - 0.05, 0.55 * length, 0.1 * length, 0.75 * length)
        for name, weight in VISEMES[int(rng.integers(len(VISEMES)))].items():
            add(name, weight * loud * shape)
        voice = np.maximum(voice, loud * shape)
        start += length * rng.uniform(0.75, 1.0) + (rng.uniform(0.3, 0.6) if rng.uniform() < 0.1 else 0.0)

    for side in ("L", "R"):
        weights[f"mouthSmile_{side}"] += (
            smile * (0.18 + 0.32 * np.clip(_wander(seconds, rng, 0.16), 0, 1)) * rng.uniform(0.92, 1.0)
        )
    add("cheekSquint", 0.35 * weights["mouthSmile_L"])
    mood = np.clip(_wander(seconds, rng, 0.35), -1, 1)
    add("browInnerUp", 0.5 * np.clip(mood, 0, 1))
    add("browOuterUp", 0.45 * np.clip(mood - 0.1, 0, 1))
    add("browDown", 0.35 * np.clip(-mood - 0.2, 0, 1))

    # The eyes rest on a point and leap to the next; mostly they hold against the turn of the head.
    leaps = np.sort(rng.uniform(0, seconds[-1] + 1e-6, max(1, int(seconds[-1] / 1.1))))
    aim = np.stack([rng.normal(0, 0.16, len(leaps) + 1), rng.normal(0, 0.08, len(leaps) + 1)], 1)
    gaze = aim[np.searchsorted(leaps, seconds, side="right")] - 0.55 * pose[:, :2] * motion / 0.5
    kernel = np.array([0.25, 0.5, 0.25])
    right, down = (np.convolve(np.pad(gaze[:, axis], 1, mode="edge"), kernel, mode="valid") for axis in (0, 1))
    add("eyeLookIn_R", np.clip(right, 0, 0.8))
    add("eyeLookOut_L", np.clip(right, 0, 0.8))
    add("eyeLookOut_R", np.clip(-right, 0, 0.8))
    add("eyeLookIn_L", np.clip(-right, 0, 0.8))
    add("eyeLookDown", np.clip(down, 0, 0.6))
    add("eyeLookUp", np.clip(-down, 0, 0.6))

    blink = np.zeros(frames)
    start = rng.uniform(0.5, 1.2)
    while start < seconds[-1] + 0.2:
        blink = np.maximum(blink, _bump(seconds, start, 0.09, 0.04, 0.15))
        start += rng.uniform(1.3, 2.8)
    for side in ("L", "R"):
        weights[f"eyeBlink_{side}"] = 0.06 + 0.94 * blink

    more = np.random.default_rng([seed, 3])  # apart, so that what is asked for does not change the rest
    if faces > 0:
        for name, curve in _grimaces(names, seconds, more).items():
            weights[name] = weights[name] + faces * curve
    pose, shift = motion * pose, motion * shift
    if turn > 0:
        pose[:, 0] = np.clip(0.97 * turn * _turning(seconds, more) + 0.2 * pose[:, 0], -turn, turn)
    hand = _passing_hands(seconds, hands, more)
    shake = drift * np.stack([_wander(seconds, more, 0.25, 4), _wander(seconds, more, 0.3, 4)], axis=1)
    expression = np.stack([np.clip(weights[name], 0, 1) for name in names], axis=1)
    as_floats = [np.asarray(a, np.float32) for a in (pose, shift, motion * sway, expression, voice, hand, shake)]
    return Performance(frames_per_second, *as_floats)


def _grimaces(names: Sequence[str], seconds: Doubles, rng: np.random.Generator) -> dict[str, Doubles]:
    """Every second or so one or two expressions, both sides mostly together: curves by name."""
    stems = sorted(
        {name.removesuffix("_L").removesuffix("_R") for name in names if not name.startswith(("eyeLook", "PupilDilate"))}
    )
    curves = {name: np.zeros(len(seconds)) for name in names}
    start = rng.uniform(0, 0.4)
    while start < seconds[-1]:
        shape = _bump(seconds, start, rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.5))
        for stem in rng.choice(stems, size=int(rng.integers(1, 3)), replace=False):
            weight, lean = rng.uniform(0.4, 1.0), rng.uniform()
            for name in names:
                if name in (stem, f"{stem}_L", f"{stem}_R"):
                    one_sided = (name.endswith("_L") and lean < 0.12) or (name.endswith("_R") and lean > 0.88)
                    curves[name] = np.maximum(curves[name], weight * shape * (0.1 if one_sided else 1.0))
        start += rng.uniform(0.5, 1.2)
    return curves


def _turning(seconds: Doubles, rng: np.random.Generator) -> Doubles:
    """From one side to the other and back, -1..1, resting a while at the ends."""
    phase = rng.uniform(0, 2 * np.pi)
    swing = np.sin(2 * np.pi * rng.uniform(0.18, 0.26) * seconds + phase)
    return np.asarray(np.sin(0.5 * np.pi * swing))


def _passing_hands(seconds: Doubles, count: int, rng: np.random.Generator) -> Doubles:
    """A hand that comes up from below, crosses the face and goes down again, ``count`` times: [frames, 5], NaN between."""
    hand = np.full((len(seconds), 5), np.nan)
    length = seconds[-1] / max(count, 1)
    for k in range(count):
        side = float(rng.choice([-1, 1]))
        start, lasting = (k + rng.uniform(0.05, 0.25)) * length, min(rng.uniform(1.2, 2.2), 0.7 * length)
        up = _bump(seconds, start, 0.35 * lasting, 0.3 * lasting, 0.35 * lasting)
        progress = np.clip((seconds - start) / max(lasting, 1e-6), 0, 1)
        top, across = rng.uniform(-17, -9), rng.uniform(-5, 5)
        x = side * (9 - 14 * progress) + across
        y = -52 + (top + 52) * up
        shown = (progress > 0) & (progress < 1)
        rows = np.stack([np.full(len(seconds), side), x, y, 17 + 1.5 * up, 0.35 - 0.5 * progress], axis=1)
        hand[shown] = rows[shown]
    return hand


def hum(performance: Performance, *, seed: int, sample_rate: int = 44_100) -> npt.NDArray[np.float32]:
    """A speech-like hum in step with the mouth: float32 [samples], mono, -1..1.

    A sawtooth-like voice at about 120 Hz through two slowly moving formants, loud where ``performance.voice`` is.
    """
    rng = np.random.default_rng(seed)
    samples = round(len(performance) / performance.frames_per_second * sample_rate)
    seconds = np.arange(samples) / sample_rate
    frame_times = np.arange(len(performance)) / performance.frames_per_second
    pitch = 118 * (1 + 0.07 * _wander(seconds, rng, 0.5) + 0.02 * _wander(seconds, rng, 4.0, 1))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    formants = (520 * (1 + 0.35 * _wander(seconds, rng, 1.8)), 1500 * (1 + 0.3 * _wander(seconds, rng, 1.5)))
    sound = np.zeros(samples)
    for harmonic in range(1, 25):
        frequency = harmonic * pitch
        gain = sum(np.exp(-(((frequency - formant) / width) ** 2)) for formant, width in zip(formants, (160, 260), strict=True))
        sound += (gain + 0.08) / harmonic**0.6 * np.sin(harmonic * phase)
    sound *= np.interp(seconds, frame_times, performance.voice)
    return np.asarray(0.35 * sound / (np.abs(sound).max() + 1e-9), np.float32)
