"""Who plays what: people, rooms, cameras and performances of a catalogue, drawn from a seed and the clip's number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stages.performers.appearance import Appearance, Room
from stages.performers.backdrop import Backdrop
from stages.performers.camera import Camera
from stages.performers.head import HeadModel
from stages.performers.performance import Performance, perform
from stages.performers.scene import Performer, Shot, shown_on_screen

IDENTITIES = 40
IDENTITY_SPREAD = 0.75
ACTS = ("speech", "turn", "faces", "hands", "smile")
"""What clips show in turn: talking, slow turns up to 60 degrees of yaw, grimaces, a hand before the face, smiles."""

LARGEST_TURN = np.radians(60.0)


@dataclass(frozen=True)
class Person:
    """A person: identity coefficients of the head model (float32 [40]) and an appearance."""

    identity: npt.NDArray[np.float32]
    appearance: Appearance

    @classmethod
    def drawn(cls, seed: int) -> Person:
        rng = np.random.default_rng([seed, 7])
        return cls((rng.normal(size=IDENTITIES) * IDENTITY_SPREAD).astype(np.float32), Appearance.drawn(seed))

    def on_body_of(self, other: Person) -> Person:
        """This head and hair on the other's body: clothes, shoulders and hands stay."""
        body = other.appearance
        look = replace(
            self.appearance,
            cloth=body.cloth,
            clothes_style=body.clothes_style,
            build=body.build,
            hand_skin=body.hand_skin or body.skin,
        )
        return Person(self.identity, look)


@dataclass(frozen=True)
class Scene:
    """A clip to be: who, where, how seen, doing what. ``other`` is who lends the head for the swap."""

    number: int
    act: str
    person: Person
    other: Person
    room: Room
    other_room: Room
    camera: Camera
    performance: Performance


def cast(model: HeadModel, number: int, *, seed: int, frames: int, frames_per_second: float, width: int, height: int) -> Scene:
    """The scene with this number; the same for the same arguments."""
    rng = np.random.default_rng([seed, number, 8])
    seeds = [int(value) for value in rng.integers(2**31, size=5)]
    act = ACTS[number % len(ACTS)]
    camera = Camera(
        width,
        height,
        float(rng.uniform(1.8, 2.3)) * min(1.0, width / height),
        float(rng.uniform(84, 112)),
        (float(rng.uniform(-2, 2)), float(rng.uniform(-3.5, -0.5))),
    )
    performance = perform(
        model.expression_names,
        frames,
        frames_per_second,
        seed=seeds[4],
        speech=0.0 if act == "faces" else float(rng.uniform(0.6, 1.1)),
        motion=float(rng.uniform(0.7, 1.5)),
        smile=1.3 if act == "smile" else float(rng.uniform(0, 0.8)),
        faces=float(rng.uniform(0.7, 1.0)) if act == "faces" else 0.0,
        turn=float(rng.uniform(0.6, 1.0)) * LARGEST_TURN if act == "turn" else 0.0,
        hands=max(1, round(frames / frames_per_second / 4)) if act == "hands" else 0,
        drift=float(rng.uniform(0.4, 1.2)) if rng.uniform() < 0.4 else 0.0,
    )
    person, other = Person.drawn(seeds[0]), Person.drawn(seeds[1])
    return Scene(number, act, person, other, Room.drawn(seeds[2]), Room.drawn(seeds[3]), camera, performance)


def play(model: HeadModel, scene: Scene, person: Person) -> Iterator[Shot]:
    """The scene's frames, played by a person."""
    performer = Performer(model, person.identity, person.appearance)
    backdrop = Backdrop(scene.room, scene.camera)
    for frame in range(len(scene.performance)):
        drift = scene.performance.drift[frame]
        aim = (scene.camera.aim[0] + float(drift[0]), scene.camera.aim[1] + float(drift[1]))
        background = backdrop.frame(frame / scene.performance.frames_per_second, drift)
        yield performer.shoot_frame(replace(scene.camera, aim=aim), scene.room, background, scene.performance, frame)


def empty_room(scene: Scene) -> Iterator[npt.NDArray[np.uint8]]:
    """The scene's frames without anybody: uint8 [height, width, 3] each, where nobody stands exactly what :func:`play` shows."""
    backdrop = Backdrop(scene.room, scene.camera)
    for frame in range(len(scene.performance)):
        seconds = frame / scene.performance.frames_per_second
        yield shown_on_screen(backdrop.frame(seconds, scene.performance.drift[frame]))


def portrait(model: HeadModel, scene: Scene, size: int) -> Shot:
    """A still of who lends the head, in a room of their own, smiling a little."""
    rng = np.random.default_rng([scene.number, 9])
    expression = np.zeros(len(model.expression_names), np.float32)
    for side in "LR":
        expression[model.expression_names.index(f"mouthSmile_{side}")] = rng.uniform(0, 0.6)
        expression[model.expression_names.index(f"eyeBlink_{side}")] = 0.08
    camera = Camera(size, size, 2.1, 90.0, (0.0, -1.5))
    performer = Performer(model, scene.other.identity, scene.other.appearance)
    background = Backdrop(scene.other_room, camera).frame(0.0, np.zeros(2))
    return performer.shoot(camera, scene.other_room, background, expression, rng.uniform(-0.12, 0.12, 3).astype(np.float32))
