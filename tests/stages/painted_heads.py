"""A painted head with known landmarks, to check what a warp does to it."""

from __future__ import annotations

import cv2
import numpy as np

from schemas.tables import LABELS
from stages.face3d.model import FaceModel
from stages.renderer import Portrait, Scene
from stages.warp import topology
from stages.warp.geometry import Pose

SIZE = 256
SKIN, HAIR, LIPS, WHITE, IRIS, CLOTH, WALL = (
    (214, 168, 140),
    (60, 40, 30),
    (180, 70, 80),
    (240, 240, 240),
    (40, 70, 150),
    (40, 90, 60),
    (120, 130, 150),
)
TEETH = (250, 250, 235)
BACKGROUND_LABEL, HAIR_LABEL, FACE_LABEL, NECK_LABEL, CLOTH_LABEL, OTHER_LABEL = range(len(LABELS))


def pose(
    scale: float = 42.0, turn: float = 0.0, nod: float = 0.0, roll: float = 0.0, at: tuple[float, float] = (128, 112)
) -> Pose:
    """A pose in the middle of a crop of SIZE pixels; angles in degrees about the model's axes."""
    angles = np.deg2rad([nod, turn, roll])
    rotation = cv2.Rodrigues(np.array([0, 0, angles[2]]))[0] @ cv2.Rodrigues(np.array([angles[0], angles[1], 0.0]))[0]
    return Pose(rotation, np.array([*at, 0.0]), scale)


def shape(**weights: float) -> np.ndarray:
    """Landmarks [478, 3] in model space of the mean face with an expression; ``eyeBlink=1`` sets both sides."""
    model = FaceModel.builtin()
    values = np.zeros(len(model.names))
    for name, weight in weights.items():
        values[list(model.indices(name))] = weight
    return model.mean + model.displacement(values)


def fill(picture: np.ndarray, points: np.ndarray, colour: tuple[int, ...] | int) -> None:
    cv2.fillPoly(picture, [np.round((points[:, :2] - 0.5) * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def paint(landmarks: np.ndarray, scale: float, mouth: tuple[int, int, int] = TEETH) -> tuple[np.ndarray, np.ndarray]:
    """RGB and label map of a person whose face has these landmarks, [SIZE, SIZE, 3] and [SIZE, SIZE]."""
    picture = np.full((SIZE, SIZE, 3), WALL, np.uint8)
    labels = np.full((SIZE, SIZE), BACKGROUND_LABEL, np.uint8)
    oval = landmarks[topology.FACE_OVAL, :2]
    middle, chin = oval.mean(0), landmarks[152, :2]
    neck = np.array([[-0.6, -1.0], [0.6, -1.0], [0.6, 1.2], [-0.6, 1.2]]) * scale + chin
    body = np.array([[-2.4, 0.9], [2.4, 0.9], [2.8, 6.0], [-2.8, 6.0]]) * scale + chin
    for target, parts in (
        (picture, ((body, CLOTH), (neck, SKIN), (middle + (oval - middle) * 1.35 - [0, 0.25 * scale], HAIR), (oval, SKIN))),
        (labels, ((body, CLOTH_LABEL), (neck, NECK_LABEL), (middle + (oval - middle) * 1.35 - [0, 0.25 * scale], HAIR_LABEL))),
    ):
        for points, value in parts:
            if target is labels:
                cv2.fillPoly(labels, [np.round(points).astype(np.int32)], value)
            else:
                fill(picture, points, value)
    # Hair must not hide the neck.
    below = np.arange(SIZE)[:, None] > chin[1]
    in_neck = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(in_neck, [np.round(neck).astype(np.int32)], 1)
    picture[(in_neck > 0) & below] = SKIN
    labels[(in_neck > 0) & below] = NECK_LABEL
    cv2.fillPoly(labels, [np.round(oval).astype(np.int32)], FACE_LABEL)
    fill(picture, oval, SKIN)
    fill(picture, landmarks[topology.OUTER_LIPS], LIPS)
    fill(picture, landmarks[topology.INNER_LIPS], mouth)
    for ring, iris in ((topology.LEFT_EYE, topology.LEFT_IRIS), (topology.RIGHT_EYE, topology.RIGHT_IRIS)):
        eye = np.full_like(picture, WHITE)
        radius = np.linalg.norm(landmarks[iris[1:], :2] - landmarks[iris[0], :2], axis=1).mean()
        centre = tuple(int(value) for value in np.round((landmarks[iris[0], :2] - 0.5) * 16))
        cv2.circle(eye, centre, round(radius * 16), IRIS, -1, cv2.LINE_AA, 4)
        opening = np.zeros((SIZE, SIZE), np.uint8)
        fill(opening, landmarks[ring], 255)
        share = opening[..., None] / 255.0
        picture[:] = np.round(picture * (1 - share) + eye * share).astype(np.uint8)
    return picture, labels


def portrait(at: Pose | None = None, **weights: float) -> Portrait:
    """The painted head as a source."""
    at = at or pose()
    landmarks = at.project(shape(**weights))
    picture, labels = paint(landmarks, at.scale)
    matte = np.isin(labels, (HAIR_LABEL, FACE_LABEL, NECK_LABEL)).astype(np.float32)
    matte = cv2.GaussianBlur(matte, (0, 0), 0.8)
    return Portrait(picture, picture, matte, labels, landmarks, at)


def scene(frame: int = 0, at: Pose | None = None, mouth: tuple[int, int, int] = TEETH, **weights: float) -> Scene:
    """The painted person as a target whose own landmarks are the aligned ones."""
    at = at or pose()
    landmarks = at.project(shape(**weights))
    picture, labels = paint(landmarks, at.scale, mouth)
    background = np.full_like(picture, WALL)
    return Scene(frame, picture, background, labels, landmarks, landmarks.copy(), at)


def mean_colour(picture: np.ndarray, points: np.ndarray, shrink: float = 0.6) -> np.ndarray:
    """Mean RGB inside a polygon drawn in towards its middle."""
    middle = points[:, :2].mean(0)
    mask = np.zeros(picture.shape[:2], np.uint8)
    fill(mask, middle + (points[:, :2] - middle) * shrink, 255)
    return picture[mask > 128].astype(np.float64).mean(0)


def distance(first: np.ndarray | tuple[int, ...], second: np.ndarray | tuple[int, ...]) -> float:
    return float(np.linalg.norm(np.asarray(first, np.float64) - np.asarray(second, np.float64)))
