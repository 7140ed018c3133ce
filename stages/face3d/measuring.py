"""Measures a linear face model on renders whose identity, expression and pose are known, and compares such models.

The landmarks were detected (MediaPipe), the coefficients are the renderer's. Two steps alternate: the pose of each picture, a
similarity from the landmarks that expressions hardly move; and ridge regression of the aligned landmarks on the coefficients,
in which pictures that fit badly count less. Poses are kept in the renderer's axes, so that a head that looks straight into the
camera has no rotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.face3d.fitting import FLIP, align, fit_frames, fit_identities, neutral_residuals, vector_from_rotation
from stages.face3d.model import FaceModel
from stages.face3d.reading import Reading, learn
from stages.face3d.retargeting import mirrored_landmarks
from stages.face3d.topology import EYES, IRISES, eye_centres, interocular

Floats = NDArray[np.float64]

HELD_OUT = 0.1
"""Share of the people that the regression never sees."""

DIRECTIONS = 40
RIGID = 300
LEFT_OUT = ("PupilDilate_L", "PupilDilate_R")
"""Expressions that landmarks cannot show."""

EYEBALL = 0.19
"""Radius, in model units."""

LOOKS_ASIDE, LOOKS_UP = np.radians(30.0), np.radians(22.0)
"""How far eyes turn at weight 1."""

WATCHED = ("jawOpen", "mouthSmile", "eyeBlink", "browInnerUp", "browOuterUp", "browDown", "mouthPucker")
_ROUNDS = 6
_RIDGE = 2.0
_FRONTAL = 16  # power of the cosine of the turn: what a head turned away hides, MediaPipe invents
_JUDGED_PEOPLE = 240
_PEOPLE_AT_ONCE = 32
_SAMPLES_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Samples:
    """``n`` renders. person: int [n]. identity: [n, k]. expression: [n, E], weights. rotation: [n, 3, 3], true, of the head.

    truth, landmarks: [n, 478, 3], pixels, true and detected. names: of the expressions.
    """

    person: NDArray[np.int32]
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    rotation: NDArray[np.float32]
    truth: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.person)

    def __getitem__(self, chosen: NDArray[np.generic]) -> Samples:
        arrays = {field.name: getattr(self, field.name)[chosen] for field in fields(self) if field.name != "names"}
        return Samples(names=self.names, **arrays)

    def split(self, held_out: float) -> tuple[Samples, Samples]:
        """Samples to learn from, and those of every so-many-th person, to judge with."""
        apart = self.person % round(1 / held_out) == round(1 / held_out) - 1
        return self[~apart], self[apart]


WIDENING = 1.3
"""People differ more than the drawn ones: on real clips the fit leaves a tenth less with directions so much longer."""


def regress(samples: Samples) -> FaceModel:
    """The model that explains the samples best."""
    kept = [index for index, name in enumerate(samples.names) if name not in LEFT_OUT]
    names = tuple(samples.names[index] for index in kept)
    weights = samples.expression[:, kept].astype(np.float64)
    spread = samples.identity.std(0).astype(np.float64)
    identity = samples.identity / spread
    design = np.concatenate([np.ones((len(samples), 1)), identity, weights], axis=1)
    landmarks, truth = samples.landmarks.astype(np.float64), samples.rotation.astype(np.float64)
    canonical = (landmarks * FLIP) @ truth
    canonical = (canonical - eye_centres(canonical).mean(1, keepdims=True)) / interocular(canonical)[:, None, None]
    frontal = np.maximum(truth[:, 2, 2], 0.05) ** _FRONTAL
    trust, rigid = frontal, np.arange(landmarks.shape[1])
    first_expression = 1 + identity.shape[1]
    for _ in range(_ROUNDS):
        arrays, predicted = _ridge(design, canonical, trust)
        displacement = np.tensordot(weights, arrays[first_expression:], 1)
        rigid = _least_moved(displacement)
        error = np.sqrt(((canonical - predicted) ** 2).sum(2).mean(1))
        trust = frontal / np.maximum(error / np.median(error), 1.0) ** 2
        poses = align(predicted[:, rigid], landmarks[:, rigid], depth_weight=0.5)
        # The whole model may turn without any change in what it explains: hold it to the renderer's axes.
        drift = _nearest_rotation(np.einsum("n,nji,njk->ik", trust, truth, poses.rotation))
        canonical = (poses.canonical(landmarks) @ drift.T).astype(np.float32)
    arrays, predicted = _ridge(design, canonical, trust)
    mean, expression = arrays[0], arrays[first_expression:]
    mirror = mirrored_landmarks()
    partners = _mirrored_names(names)
    flip = np.array([-1.0, 1.0, 1.0])
    mean = 0.5 * (mean + mean[mirror] * flip)
    expression = 0.5 * (expression + expression[partners][:, mirror] * flip)
    centre, unit = eye_centres(mean).mean(0), float(interocular(mean))
    expression = _gaze(names, expression / unit)
    _, strength, directions = np.linalg.svd(arrays[1:first_expression].reshape(identity.shape[1], -1), full_matrices=False)
    basis = (strength[:, None] * directions)[:DIRECTIONS].reshape(-1, landmarks.shape[1], 3)
    left = (canonical - predicted) * np.sqrt(trust)[:, None, None]
    residual = np.sqrt((left**2).sum((0, 2)) / trust.sum())
    model = FaceModel((mean - centre) / unit, WIDENING * basis / unit, expression, names, rigid, residual / unit)
    return replace(model, reading=_reading(samples, kept, model, _identities(samples, model)))


def _identities(samples: Samples, model: FaceModel) -> Floats:
    """Coefficients fitted for each sample, ``[n, K]``: half of the people from all of their pictures, half from each alone."""
    identity = np.empty((len(samples), len(model.identity)))
    persons = np.unique(samples.person)
    for start in range(0, len(persons), _PEOPLE_AT_ONCE):
        rows = np.flatnonzero(np.isin(samples.person, persons[start : start + _PEOPLE_AT_ONCE]))
        alone = samples.person[rows] % 2 == 0
        _, together = np.unique(np.where(alone, -1 - rows, samples.person[rows]), return_inverse=True)
        identity[rows] = fit_identities(samples.landmarks[rows], together, model)[together]
    return identity


def _reading(samples: Samples, kept: list[int], model: FaceModel, identity: Floats) -> Reading:
    """The filters for what neutral faces leave of the landmarks, measured on the samples and on their mirror images.

    identity: ``[n, K]``, fitted for each sample, from all of a person's pictures, as in clips, or from one, as in portraits.
    """
    residuals = np.empty(samples.landmarks.shape, np.float32)
    people = np.empty(samples.landmarks.shape, np.float32)
    rotation = np.empty((len(samples), 3, 3))
    for start in range(0, len(samples), _SAMPLES_AT_ONCE):
        rows = slice(start, start + _SAMPLES_AT_ONCE)
        landmarks = samples.landmarks[rows].astype(np.float64)
        neutral = model.shape(identity[rows])
        poses, residuals[rows] = neutral_residuals(landmarks, neutral, model)
        people[rows], rotation[rows] = neutral - model.mean, poses.rotation
    errors = vector_from_rotation(samples.rotation.astype(np.float64).transpose(0, 2, 1) @ rotation)
    weights = samples.expression[:, kept]
    mirror, flip = mirrored_landmarks(), np.array([-1.0, 1.0, 1.0], np.float32)
    mirrored_rotation = rotation * np.outer(flip, flip)
    return learn(
        np.concatenate([residuals, residuals[:, mirror] * flip]),
        np.concatenate([people, people[:, mirror] * flip]),
        np.concatenate([weights, weights[:, model.mirrored]]),
        np.concatenate([errors, errors * (1, -1, -1)]).astype(np.float32),
        np.concatenate([rotation, mirrored_rotation]),
    )


def _gaze(names: tuple[str, ...], expression: Floats) -> Floats:
    """Gaze directions as they should be: lids as measured, irises by geometry, nothing else moves.

    MediaPipe's irises say less about gaze than geometry does: they follow the renders' eyes only in part.
    """
    cleaned = expression.copy()
    for index, name in enumerate(names):
        if name.startswith("eyeLook"):
            eye = EYES[0 if name.endswith("_L") else 1]
            kept = np.zeros(expression.shape[1], bool)
            kept[list(eye.outline)] = True
            cleaned[index, ~kept] = 0
            side = 1.0 if name.endswith("_L") else -1.0
            across = {"In": -side, "Out": side}.get(name.removeprefix("eyeLook")[:-2], 0.0)
            up = {"Up": 1.0, "Down": -1.0}.get(name.removeprefix("eyeLook")[:-2], 0.0)
            moved = (across * np.sin(LOOKS_ASIDE), up * np.sin(LOOKS_UP), 0.0)
            cleaned[index, list(eye.iris_points)] = EYEBALL * np.array(moved)
    return cleaned


def compare(held_out: Samples, models: Mapping[str, FaceModel]) -> dict[str, dict[str, Any]]:
    """Errors of models on pictures of people that none of them was measured on.

    For each: ``known_expression``, root mean square distance of landmarks in per cent of the inter-ocular distance (three
    dimensions), identity fitted to the person's pictures, expression weights true, pose aligned; ``fitted``, the same in the
    picture's plane with everything fitted; ``pose_degrees``, median error of the head's rotation within 35 degrees of yaw, once
    as it is and once without the models' constant difference of axes; ``correlation`` of fitted with true weights, over all
    pictures; ``correlation_within``, over each person's pictures less their mean.
    """
    people = np.unique(held_out.person)[:_JUDGED_PEOPLE]
    samples = held_out[np.isin(held_out.person, people)]
    return {name: _judge(samples, people, model) for name, model in models.items()}


def _judge(samples: Samples, people: NDArray[np.integer], model: FaceModel) -> dict[str, Any]:
    known = np.array([samples.names.index(name) for name in model.names])
    weights = samples.expression[:, known].astype(np.float64)
    landmarks = samples.landmarks.astype(np.float64)
    fitted, rotations, planar = np.zeros_like(weights), np.zeros((len(samples), 3, 3)), np.zeros(len(samples))
    squared = np.zeros((len(samples), landmarks.shape[1]))
    for start in range(0, len(people), _PEOPLE_AT_ONCE):
        rows = np.flatnonzero(np.isin(samples.person, people[start : start + _PEOPLE_AT_ONCE]))
        _, person = np.unique(samples.person[rows], return_inverse=True)
        identity = fit_identities(landmarks[rows], person, model)[person]
        fit = fit_frames(landmarks[rows], model, identity)
        fitted[rows], rotations[rows], planar[rows] = fit.expression, fit.rotation, fit.residual
        shapes = model.shape(identity, weights[rows])
        poses = align(shapes[:, model.rigid], landmarks[rows][:, model.rigid], depth_weight=1.0)
        squared[rows] = ((poses.canonical(landmarks[rows]) - shapes) ** 2).sum(2)
    truth = samples.rotation.astype(np.float64)
    near = np.abs(np.degrees(np.arctan2(truth[:, 0, 2], truth[:, 2, 2]))) <= 35
    turned = truth.transpose(0, 2, 1) @ rotations
    constant = _nearest_rotation(turned[near].sum(0))
    _, number = np.unique(samples.person, return_inverse=True)
    return {
        "known_expression": round(100 * float(np.sqrt(squared.mean())), 2),
        "fitted": round(100 * float(np.sqrt((planar**2).mean())), 2),
        "pose_degrees": round(float(np.median(_angle(turned[near]))), 2),
        "pose_degrees_same_axes": round(float(np.median(_angle(turned[near] @ constant.T))), 2),
        "correlation": _correlations(model, fitted, weights),
        "correlation_within": _correlations(model, _less_means(fitted, number), _less_means(weights, number)),
    }


def _correlations(model: FaceModel, fitted: Floats, weights: Floats) -> dict[str, float]:
    """Of the watched expressions, both sides of the face as two pictures; weights ``[n, E]``."""
    columns = {stem: list(model.indices(stem)) for stem in WATCHED}
    return {
        stem: round(float(np.corrcoef(fitted[:, chosen].ravel(), weights[:, chosen].ravel())[0, 1]), 3)
        for stem, chosen in columns.items()
    }


def _less_means(values: Floats, person: NDArray[np.integer]) -> Floats:
    """Values ``[n, E]`` less the mean of all rows of the same person ``[n]``, numbered from 0."""
    sums = np.zeros((int(person.max()) + 1, values.shape[1]))
    np.add.at(sums, person, values)
    return np.asarray(values - (sums / np.bincount(person)[:, None])[person])


def _ridge(design: Floats, shapes: Floats, trust: Floats) -> tuple[Floats, Floats]:
    """Weighted ridge regression: arrays [columns, 478, 3] and predictions [n, 478, 3]."""
    weighted = design * (trust / trust.mean())[:, None]
    penalty = _RIDGE * np.eye(design.shape[1])
    penalty[0, 0] = 0
    solution = np.linalg.solve(weighted.T @ design + penalty, weighted.T @ shapes.reshape(len(shapes), -1))
    return np.asarray(solution.reshape(-1, *shapes.shape[1:])), np.asarray((design @ solution).reshape(shapes.shape))


def _least_moved(displacement: Floats) -> NDArray[np.int64]:
    """The landmarks [``RIGID``] that expressions [n, 478, 3] move least; never the irises or the lids."""
    moved = np.sqrt((displacement**2).sum(2).mean(0))
    moved[IRISES] = np.inf
    for eye in EYES:
        moved[[*eye.upper, *eye.lower]] = np.inf
    return np.sort(np.argsort(moved)[:RIGID]).astype(np.int64)


def _mirrored_names(names: tuple[str, ...]) -> list[int]:
    builtin = FaceModel.builtin()
    partner = {name: builtin.names[index] for name, index in zip(builtin.names, builtin.mirrored, strict=True)}
    return [names.index(partner[name]) for name in names]


def _nearest_rotation(matrix: Floats) -> Floats:
    left, _, right = np.linalg.svd(matrix)
    return np.asarray(left @ np.diag([1.0, 1.0, float(np.sign(np.linalg.det(left @ right)))]) @ right)


def _angle(rotations: Floats) -> Floats:
    """Degrees of rotations [n, 3, 3] -> [n]."""
    return np.degrees(np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1)))
