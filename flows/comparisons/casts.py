"""Casts of people who all perform the same and sit for a portrait each: in any two of them, one drives the other, and the other's
own performance is the truth of it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flows.comparisons import Arrays
from stages.detectors import FaceMesh, Window
from stages.performers.appearance import Appearance, Room
from stages.performers.camera import Camera
from stages.performers.head import HeadModel, loaded_head_model, rotation_matrix
from stages.performers.performance import Performance, perform
from stages.performers.proportions import Proportions
from stages.performers.sampling import LOWEST_TIPS, SharedOpenness
from stages.performers.scene import Performer

CASTS = "casts-v3"
"""Folder of the records; another name when they are made in another way, so that old ones are not mixed in."""

FRAMES = 16
PEOPLE = 3
"""In a cast: every two of them make two pairs, so that a render serves in several."""

PAIRS = PEOPLE * (PEOPLE - 1)

CAMERA = Camera(224, 224, 3.42, 90.0, (0.0, 1.6))
"""Sees the face as large as MediaPipe's network does, and little else: rendering is most of the work."""

_SECONDS, _RATE = 5.0, 25.0
_IDENTITIES = 100
_SITTING = np.radians([12.0, 8.0, 6.0])  # largest turn of a head in a portrait
_IDENTITY_SPREAD = 1.0  # the head model's own population

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cast:
    """p people in the same n frames of a performance, in a portrait with an expression of their own, and at rest.

    Landmarks are float [p, n, 478, 3] and, of portrait and rest, [p, 478, 3], pixels: ``seen``, as MediaPipe detected them;
    ``true``, exact; ``alike``, exact of people whose expressions move everybody by the same centimetres, as in the head model.

    Attributes:
        expression: weights of the performance [n, expressions]. own_expression: of the portraits [p, expressions].
        presence: of a face, by the detector, [p, n].
    """

    expression: Floats
    own_expression: Floats
    presence: Floats
    seen: Floats
    true: Floats
    alike: Floats
    portrait_seen: Floats
    portrait_true: Floats
    portrait_alike: Floats
    rest_seen: Floats
    rest_true: Floats
    rest_alike: Floats

    @classmethod
    def load(cls, path: Path) -> Cast:
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


def record(path: str, seed: int, number: int) -> Arrays:
    """Render a cast, look at it, and keep what was seen beside the truth: the arrays of a ``Cast``."""
    model, place = loaded_head_model(path), studio(path)
    rng = np.random.default_rng([seed, number, 21])
    names = model.expression_names
    performance = perform(
        names,
        round(_SECONDS * _RATE),
        _RATE,
        seed=int(rng.integers(2**31)),
        speech=float(rng.uniform(0.7, 1.2)),
        motion=float(rng.uniform(0.7, 1.4)),
        smile=float(rng.uniform(0, 1.4)),
        faces=float(rng.uniform(0.6, 1.0)) if number % 2 else 0.0,
    )
    frames = telling_frames(performance, names, FRAMES)
    room = Room.drawn(int(rng.integers(2**31)), plain=True)
    nowhere = np.zeros(3, np.float32)
    still = Act(np.zeros(len(names), np.float32), nowhere, nowhere, nowhere)
    acts = [Act(performance.expression[k], performance.pose[k], performance.shift[k], performance.sway[k]) for k in frames]
    performed, portraits, rests, own = [], [], [], []
    for _ in range(PEOPLE):
        sitter = place.sitter(rng, room)
        own.append(own_expression(names, rng))
        turned = (rng.uniform(-1, 1, 3) * _SITTING).astype(np.float32)
        performed.append([sitter.shoot(act, rng) for act in acts])
        portraits.append(sitter.shoot(Act(own[-1], turned, nowhere, nowhere), rng))
        rests.append(sitter.shoot(still, rng))
    arrays = {
        "expression": performance.expression[frames],
        "own_expression": np.stack(own),
        "presence": np.array([[look.presence for look in looks] for looks in performed], np.float32),
    }
    for kind in ("seen", "true", "alike"):
        arrays[kind] = np.stack([[getattr(look, kind) for look in looks] for looks in performed])
        arrays[f"portrait_{kind}"] = np.stack([getattr(look, kind) for look in portraits])
        arrays[f"rest_{kind}"] = np.stack([getattr(look, kind) for look in rests])
    return arrays


def telling_frames(performance: Performance, names: Sequence[str], count: int) -> list[int]:
    """Frames of a performance that show what it has: rest, blinks, the extremes of mouth, brows, gaze and turn; then any others.

    Returns:
        ``count`` numbers, ascending.
    """

    def strength(*stems: str) -> npt.NDArray[np.floating]:
        chosen = [index for index, name in enumerate(names) if name.startswith(stems)]
        return np.asarray(performance.expression[:, chosen].sum(1))

    blink, everything = strength("eyeBlink"), performance.expression.sum(1)
    wanted = [
        everything.argmin(),
        blink.argmax(),
        np.abs(blink - 1).argmin(),
        strength("jawOpen").argmax(),
        strength("mouthPucker", "mouthFunnel").argmax(),
        strength("mouthSmile").argmax(),
        strength("mouthPress", "mouthRoll").argmax(),
        strength("browInnerUp", "browOuterUp").argmax(),
        strength("browDown").argmax(),
        strength("eyeLook").argmax(),
        np.abs(performance.pose[:, 0]).argmax(),
        everything.argmax(),
    ]
    chosen = sorted({int(frame) for frame in wanted})[:count]
    others = [frame for frame in np.linspace(0, len(performance) - 1, 4 * count).astype(int).tolist() if frame not in chosen]
    spread = np.linspace(0, len(others) - 1, count - len(chosen)).round().astype(int).tolist()
    return sorted(chosen + [others[k] for k in spread])


def own_expression(names: Sequence[str], rng: np.random.Generator) -> Floats:
    """What a face in a portrait does of its own: it smiles, often with an open mouth or raised brows; float32 [expressions]."""
    weights = dict.fromkeys(names, 0.0)

    def add(stem: str, weight: float) -> None:
        for name in names:
            if name in (stem, f"{stem}_L", f"{stem}_R"):
                weights[name] = weight * float(rng.uniform(0.9, 1.0))

    smile = float(rng.uniform(0.35, 1.0))
    add("mouthSmile", smile)
    add("cheekSquint", 0.4 * smile)
    add("eyeSquint", float(rng.uniform(0, 0.5)))
    add("eyeBlink", float(rng.uniform(0, 0.2)))
    if rng.uniform() < 0.5:
        add("jawOpen", float(rng.uniform(0.05, 0.4)))
        add("mouthUpperUp", float(rng.uniform(0, 0.4)))
    brow = str(rng.choice(["browInnerUp", "browOuterUp", "browDown", "none"]))
    add(brow, float(rng.uniform(0.2, 0.8)))
    return np.array([weights[name] for name in names], np.float32)


@dataclass(frozen=True)
class Act:
    """A frame's expression weights, pose, shift and sway (``performance.Performance``)."""

    expression: Floats
    pose: Floats
    shift: Floats
    sway: Floats


@dataclass(frozen=True)
class Look:
    """A frame: landmarks [478, 3] as seen, true, and true for expressions alike for everybody; presence of a face."""

    seen: Floats
    true: Floats
    alike: Floats
    presence: float


class Sitter:
    """A person before the camera and the detector.

    Args:
        model: with expressions alike for everybody. own: with the person's own.
    """

    def __init__(
        self, model: HeadModel, own: HeadModel, identity: Floats, look: Appearance, room: Room, openness: Floats, mesh: FaceMesh
    ) -> None:
        self._own = Performer(own, identity, look, openness=openness)
        self._alike = copy.copy(self._own)
        self._alike.model = model
        self._room, self._background, self._mesh = room, room.paint(CAMERA.width, CAMERA.height), mesh

    def shoot(self, act: Act, rng: np.random.Generator) -> Look:
        """Render a frame and look at it."""
        shot = self._own.shoot(CAMERA, self._room, self._background, act.expression, act.pose, act.shift, act.sway)
        # A tracker looks where the face was before: near, not exactly there.
        guess = shot.landmarks[:, :2] + rng.normal(size=2) * 1.5
        seen, presence = self._mesh.landmarks(shot.picture, Window.around(guess))
        return Look(seen.astype(np.float32), shot.landmarks, _landmarks(self._alike, act), presence)


def _landmarks(performer: Performer, act: Act) -> Floats:
    rotation = rotation_matrix(*(float(angle) for angle in act.pose))
    vertices = performer.pose(act.expression, rotation, act.shift, act.sway)
    return CAMERA.landmarks(performer.points.places(vertices[: performer.count]))


class Studio:
    """Detector, head model and what costs much to find once."""

    def __init__(self, path: str) -> None:
        self._model, self._mesh = loaded_head_model(path), FaceMesh()
        self._proportions, self._openness = Proportions(self._model), SharedOpenness(self._model)

    def sitter(self, rng: np.random.Generator, room: Room) -> Sitter:
        """Somebody at random."""
        identity = (rng.normal(size=_IDENTITIES) * _IDENTITY_SPREAD).astype(np.float32)
        look = Appearance.drawn(int(rng.integers(2**31)))
        look = replace(look, glasses=0.0, clothes_style="crew", tips=max(look.tips, LOWEST_TIPS))
        own, openness = self._proportions.of(identity), self._openness.of(look)
        return Sitter(self._model, own, identity, look, room, openness, self._mesh)


@functools.cache
def studio(path: str) -> Studio:
    """What all people share in a process."""
    return Studio(path)
