"""Measures again where MediaPipe's landmarks lie on the head model: ``stages/performers/data/landmarks.npz``.

    python -m flows.landmark_places OUT --head-model FILE --canonical FILE [--people 150] [--seed 0]

Bald or short-haired performers without glasses or beards are rendered twice each, with closed and with open mouths; each landmark
that MediaPipe finds on them is traced back through its pixel to the surface (``stages.performers.mediapipe_points``). 0.2 s of
one core a render. ``--canonical`` is MediaPipe's canonical face with irises (``face_model_with_iris.obj`` of its repository).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.problems import UsageError
from stages.detectors import FaceMesh, Window
from stages.performers.appearance import Appearance, HairStyle, Room
from stages.performers.camera import Camera
from stages.performers.head import HeadModel
from stages.performers.mediapipe_points import LANDMARKS, Correspondence, average_places, settle, trace
from stages.performers.scene import Performer, Shot

Floats = npt.NDArray[np.floating]

CAMERA = Camera(focal=2.6)
IDENTITIES, IDENTITY_SPREAD = 40, 0.7
TURNS = np.radians([30.0, 15.0, 8.0])
FEWEST_TRACES = 60


def measure_places(head_model: Path, canonical: Path, *, people: int, seed: int) -> Correspondence:
    """The places of the landmarks, measured on two renders of each of ``people``.

    Raises:
        UsageError: MediaPipe found too few faces, or ``canonical`` does not have 478 vertices.
    """
    model = HeadModel.load(head_model)
    face = canonical_face(canonical)
    mesh = FaceMesh()
    skin = np.isin(model.material, [model.materials.index(name) for name in ("M_Face", "M_BackHead")])
    traces, mouth_open = [], []
    for number in range(people):
        for opened, shot in enumerate(_shots(model, number, seed)):
            landmarks, _ = mesh.landmarks(shot.picture, _window(shot))
            landmarks, presence = mesh.landmarks(shot.picture, Window.around(landmarks))
            if presence >= 0.5:
                traces.append(trace(shot.vertices, model.triangles, skin, CAMERA, landmarks))
                mouth_open.append(opened == 1)
    if len(traces) < FEWEST_TRACES:
        raise UsageError([f"Only {len(traces)} faces were found on {2 * people} renders."], "Give at least --people 40.")
    places = average_places(model.neutral, model.triangles, np.array(traces), np.array(mouth_open), face)
    return settle(model, places, np.ascontiguousarray(model.triangles[model.material == model.materials.index("M_Face")]))


def canonical_face(path: Path) -> Floats:
    """Vertices ``[478, 3]`` of a Wavefront file.

    Raises:
        UsageError: it has another number of vertices.
    """
    lines = [line.split() for line in path.read_text().splitlines()]
    vertices = np.array([[float(word) for word in words[1:4]] for words in lines if words[:1] == ["v"]])
    if len(vertices) != LANDMARKS:
        raise UsageError([f"{path} has {len(vertices)} vertices, not {LANDMARKS}."], "Give MediaPipe's face with irises.")
    return vertices


def _shots(model: HeadModel, number: int, seed: int) -> list[Shot]:
    """A person with closed and with open mouth; eyes open."""
    rng = np.random.default_rng([seed, number, 9])
    styles: tuple[HairStyle, ...] = ("bald", "short", "quiff", "knot", "buzz")
    look = replace(Appearance.drawn(number), glasses=0.0, beard=0.0, hair_style=styles[number % len(styles)])
    identity = (rng.normal(size=IDENTITIES) * IDENTITY_SPREAD).astype(np.float32)
    nowhere = Correspondence(np.zeros((LANDMARKS, 3), np.int32), np.zeros((LANDMARKS, 3), np.float32))
    performer = Performer(model, identity, look, gaze=False, points=nowhere)
    room = Room("studio", seed=number)
    background = room.paint(CAMERA.width, CAMERA.height)
    still = np.array([name.startswith(("eyeBlink", "eyeLook", "jaw", "mouthClose")) for name in model.expression_names])
    shots = []
    for opened in (False, True):
        expression = np.zeros(len(model.expression_names), np.float32)
        expression[rng.choice(np.flatnonzero(~still), 2)] = rng.uniform(0, 0.5, 2)
        expression[model.expression_names.index("jawOpen")] = rng.uniform(0.3, 0.8) if opened else 0.0
        pose = (rng.uniform(-1, 1, 3) * TURNS).astype(np.float32)
        shots.append(performer.shoot(CAMERA, room, background, expression, pose))
    return shots


def _window(shot: Shot) -> Window:
    """Where the face is, from the head model's own 68 points: upright, a little higher than they."""
    points = shot.points68[:, :2]
    low, high = points.min(0), points.max(0)
    across = points[42:48].mean(0) - points[36:42].mean(0)
    centre = (low + high) / 2 - (0, 15)
    return Window(float(centre[0]), float(centre[1]), 1.9 * float((high - low).max()), float(np.arctan2(across[1], across[0])))


def main() -> None:
    """Measure and write the places."""
    parser = argparse.ArgumentParser(description="Measure where MediaPipe's landmarks lie on the head model.")
    parser.add_argument("out", type=Path, help="the file of the places (.npz)")
    parser.add_argument("--head-model", type=Path, required=True, help="the packed ICT-FaceKit")
    parser.add_argument("--canonical", type=Path, required=True, help="MediaPipe's canonical face with irises (.obj)")
    parser.add_argument("--people", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    measure_places(given.head_model, given.canonical, people=given.people, seed=given.seed).save(given.out)


if __name__ == "__main__":
    main()
