"""Renders for measuring: people with known coefficients, in still pictures, with what MediaPipe sees on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stages.performers.appearance import Appearance, Room
from stages.performers.camera import Camera
from stages.performers.head import HeadModel
from stages.performers.person import openness_of
from stages.performers.scene import Performer, Shot

Floats = npt.NDArray[np.floating]

RENDERS_PER_PERSON = 5
IDENTITIES = 60
"""How many of the head model's identity directions vary."""

IDENTITY_SPREAD = 0.85
"""Standard deviation of the coefficients."""

CAMERA = Camera(288, 288, 2.66, 90.0, (0.0, 1.0))
"""The face is about as large as MediaPipe's network sees it; more pixels would be thrown away."""

TURNS = np.radians([32.0, 18.0, 10.0])
"""Largest yaw, pitch and roll."""

LOWEST_TIPS = -13.0
"""Height of the ends of long hair, centimetres, at the lowest: what hangs lower is not in these pictures."""

Detector = Callable[[npt.NDArray[np.uint8], Floats], tuple[Floats, float]]
"""Picture and a guess of the landmarks -> landmarks [478, 3] in pixels, presence of a face 0..1."""


@dataclass(frozen=True)
class Sample:
    """A render and what was detected on it.

    Attributes:
        person: number of the person. identity: float32 [60], coefficients. expression: float32 [expressions], weights.
        rotation: float32 [3, 3], of the head. truth, landmarks: float32 [478, 3], pixels; NaN where no face was found.
        presence: of a face, 0..1.
    """

    person: int
    identity: npt.NDArray[np.float32]
    expression: npt.NDArray[np.float32]
    rotation: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    presence: float


def random_expression(names: Sequence[str], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A few expressions at once, both sides mostly together, and a gaze: float32 [expressions]."""
    weights = dict.fromkeys(names, 0.0)
    stems = sorted(
        {name.removesuffix("_L").removesuffix("_R") for name in names if not name.startswith(("eyeLook", "PupilDilate"))}
    )
    # What people do most is asked for more often than what they hardly ever do.
    often = ["jawOpen", "mouthSmile", "eyeBlink", "browInnerUp", "browOuterUp", "browDown", "mouthPucker", "mouthFunnel"]
    chosen = {str(stem) for stem in rng.choice(stems, size=int(rng.integers(1, 5)), replace=False)}
    chosen |= {str(stem) for stem in rng.choice(often, size=int(rng.integers(0, 3)), replace=False)}
    for stem in sorted(chosen):
        weight, lean = rng.uniform(0.15, 1.0), rng.uniform()
        for name in names:
            if name in (stem, f"{stem}_L", f"{stem}_R"):
                one_sided = (name.endswith("_L") and lean < 0.15) or (name.endswith("_R") and lean > 0.85)
                weights[name] = weight * (rng.uniform(0, 0.3) if one_sided else 1.0)
    right, down = rng.uniform(-0.8, 0.8) * rng.uniform(), rng.uniform(-0.6, 0.6) * rng.uniform()
    for name, weight in (
        ("eyeLookIn_R", right),
        ("eyeLookOut_L", right),
        ("eyeLookOut_R", -right),
        ("eyeLookIn_L", -right),
        ("eyeLookDown_L", down),
        ("eyeLookDown_R", down),
        ("eyeLookUp_L", -down),
        ("eyeLookUp_R", -down),
    ):
        weights[name] = max(weight, 0.0)
    return np.array([weights[name] for name in names], np.float32)


class SharedOpenness:
    """Openness to the sky of the average head, found once for each kind of hair, clothes and glasses: nearly that of anybody so.

    It depends on the kind alone, not on who was met first: people are the same in whatever order and process they are rendered.
    """

    def __init__(self, model: HeadModel) -> None:
        self.model = model
        self._found: dict[Appearance, npt.NDArray[np.float32]] = {}

    def of(self, look: Appearance) -> npt.NDArray[np.float32]:
        """For ``Performer``'s ``openness``: float32 [vertices], shares 0..1."""
        kind = typical(look)
        if kind not in self._found:
            self._found[kind] = openness_of(self.model, self.model.neutral, kind)
        return self._found[kind]


def typical(look: Appearance) -> Appearance:
    """The middle of all who wear such hair, such clothes and glasses or none."""
    return Appearance(
        hair_style=look.hair_style,
        clothes_style=look.clothes_style,
        parting=0.0,
        wave=0.3,
        tips=-5.75 if look.hair_style == "bob" else LOWEST_TIPS,
        glasses=0.5 if look.glasses > 0 else 0.0,
    )


class Sampler:
    """Renders people by number; the same number gives the same person and pictures.

    Args:
        detect: what looks at the pictures. seed: of everything.
    """

    def __init__(self, model: HeadModel, detect: Detector, seed: int) -> None:
        self.model, self.detect, self.seed = model, detect, seed
        self._openness = SharedOpenness(model)

    def person(self, number: int) -> list[Sample]:
        """All samples of one person."""
        rng = np.random.default_rng([self.seed, number])
        identity = (rng.normal(size=IDENTITIES) * IDENTITY_SPREAD).astype(np.float32)
        look = Appearance.drawn(int(rng.integers(2**31)))
        look = replace(look, glasses=look.glasses if rng.uniform() < 0.5 else 0.0, tips=max(look.tips, LOWEST_TIPS))
        performer = Performer(self.model, identity, look, openness=self._openness.of(look))
        samples = []
        for _ in range(RENDERS_PER_PERSON):
            room = Room.drawn(int(rng.integers(2**31)), plain=True)
            background = room.paint(CAMERA.width, CAMERA.height)
            expression = random_expression(self.model.expression_names, rng)
            pose = (rng.uniform(-1, 1, 3) * TURNS).astype(np.float32)
            shift = rng.normal(size=3) * (0.8, 0.8, 1.5)
            shot = performer.shoot(CAMERA, room, background, expression, pose, shift.astype(np.float32))
            samples.append(self._sample(number, identity, shot, rng))
        return samples

    def _sample(self, number: int, identity: npt.NDArray[np.float32], shot: Shot, rng: np.random.Generator) -> Sample:
        # A tracker looks where the face was before: near, not exactly there.
        guess = shot.landmarks[:, :2] + rng.normal(size=2) * 2.0
        landmarks, presence = self.detect(shot.picture, guess)
        return Sample(
            number,
            identity,
            shot.expression,
            shot.rotation,
            shot.landmarks,
            np.asarray(landmarks if presence >= 0.5 else np.full_like(landmarks, np.nan), np.float32),
            presence,
        )
