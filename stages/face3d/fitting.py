"""Fits the face model to detected landmarks: batched linear algebra in closed form, no per-frame iterative optimiser.

The pose is a similarity from the landmarks that expressions hardly move. Expression weights are read off what the person's face
at rest leaves, by filters that come with the model (``stages.face3d.reading``); a model without filters has them by ridge least
squares within bounds, in turns with the pose. The identity, over several frames at once, is always found by least squares.
Landmarks that do not fit (a hand, a bad mesh) are put back to where the others let them be expected, or pull with bounded force.
Depth counts less than x and y: MediaPipe estimates it from one picture.

Coordinates: landmarks have x to the right, y down and z away from the viewer, in pixels; model axes have y up and z to the
viewer. With ``F = diag(1, -1, -1)`` the pose says ``landmarks = scale * F @ rotation @ shape + translation``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.face3d.model import FaceModel

Floats = NDArray[np.float64]
FLIP = np.array([1.0, -1.0, -1.0])
"""Model axes (y up, z to the viewer) <-> image axes (y down, z away from the viewer)."""

_BLOCK = 128
_DEPTH_WEIGHT = 0.3
_INDEPENDENT_SHARE = 0.2  # errors of neighbouring landmarks go together: so much of their number counts as evidence
_EXPRESSION_PENALTY = 4.0  # one over the variance of a weight
_RESIDUAL_FLOOR = 0.012
_ALTERNATIONS = 4
_SWEEPS = 6
_HUBER = 2.5


_JACOBIAN = np.zeros((3, 7, 4))
"""How x, y and z (first axis) of a point in homogeneous coordinates (last) move with turn, growth and shift (second)."""
for _axis, _next, _last in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _JACOBIAN[_last, _axis, _next] = _JACOBIAN[_axis, 3, _axis] = _JACOBIAN[_axis, 4 + _axis, 3] = 1.0
    _JACOBIAN[_next, _axis, _last] = -1.0


@functools.cache
def _normal_from_moments(depth_weight: float) -> Floats:
    """``[16, 49]``: the moments of points (4 x 4) -> normal equations of turn, growth and shift (7 x 7)."""
    axes = np.array([1.0, 1.0, depth_weight])
    return np.einsum("aik,ajl,a->klij", _JACOBIAN, _JACOBIAN, axes).reshape(16, 49)


@dataclass(frozen=True)
class Poses:
    """Head poses of ``n`` frames.

    Attributes:
        rotation: ``[n, 3, 3]``, from model axes to the same axes of the camera.
        translation: ``[n, 3]`` pixels: where the model's origin (midway between the eyes) lies.
        scale: ``[n]`` pixels per model unit.
    """

    rotation: Floats
    translation: Floats
    scale: Floats

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, chosen: NDArray[np.generic] | slice) -> Poses:
        return Poses(self.rotation[chosen], self.translation[chosen], self.scale[chosen])

    def project(self, shapes: ArrayLike) -> Floats:
        """Model space ``[n, p, 3]`` (or ``[p, 3]``, the same for all) -> pixels ``[n, p, 3]``."""
        turned = np.asarray(shapes, np.float64) @ self.rotation.transpose(0, 2, 1)
        return self.scale[:, None, None] * turned * FLIP + self.translation[:, None]

    def canonical(self, landmarks: ArrayLike) -> Floats:
        """Pixels ``[n, p, 3]`` -> model space ``[n, p, 3]``: the inverse of ``project``."""
        seen = (np.asarray(landmarks, np.float64) - self.translation[:, None]) * FLIP / self.scale[:, None, None]
        return np.asarray(seen @ self.rotation)


@dataclass(frozen=True)
class Fit:
    """The model fitted to ``n`` frames.

    Attributes:
        expression: ``[n, E]`` weights, 0..1.
        poses: of the ``n`` frames, as they explain the landmarks best: what to project with.
        rotation: ``[n, 3, 3]`` the heads' rotations with MediaPipe's measured errors taken out, as far as the model knows them:
            nearer to how the head is really held, but not what brings the model onto the landmarks.
        residual: ``[n]`` root mean square distance of the model to the landmarks in the picture, a fraction of the inter-ocular
            distance.
    """

    expression: Floats
    poses: Poses
    rotation: Floats
    residual: Floats


def align(
    shapes: ArrayLike,
    landmarks: ArrayLike,
    weights: ArrayLike | None = None,
    depth_weight: float = _DEPTH_WEIGHT,
    start: Poses | None = None,
    steps: int = 3,
) -> Poses:
    """The poses that bring shapes onto landmarks: weighted Umeyama, then robust Gauss-Newton steps with depth weighted down.

    Args:
        shapes: model space, ``[n, p, 3]`` or ``[p, 3]``.
        landmarks: pixels, ``[n, p, 3]``.
        weights: of the points, ``[p]``; equal by default.
        depth_weight: of z against x and y, 0..1.
        start: poses to improve; Umeyama's closed form by default.
        steps: of Gauss-Newton.
    """
    seen = np.asarray(landmarks, np.float64) * FLIP
    shapes = np.broadcast_to(np.asarray(shapes, np.float64), seen.shape)
    weight = np.ones(seen.shape[1]) if weights is None else np.asarray(weights, np.float64)
    weight = weight / weight.sum()
    if start is None:
        rotation, translation, scale = _umeyama(shapes, seen, weight)
    else:
        rotation, translation, scale = start.rotation, start.translation * FLIP, start.scale
    for _ in range(steps):
        turned = scale[:, None, None] * (shapes @ rotation.transpose(0, 2, 1))
        error = seen - turned - translation[:, None]
        distance = _lengths(error, (1.0, 1.0, depth_weight**2))
        trust = np.minimum(1.0, _HUBER * _typical(distance)[:, None] / np.maximum(distance, 1e-12))
        # Everything a step needs are moments of the points, in homogeneous coordinates.
        points = np.concatenate([turned, np.ones((*turned.shape[:2], 1))], axis=2)
        weighted = np.ascontiguousarray(((weight * trust)[..., None] * points).transpose(0, 2, 1))
        moments = (weighted @ points).reshape(len(seen), 16)
        normal = (moments @ _normal_from_moments(depth_weight)).reshape(-1, 7, 7)
        right = np.einsum("aik,nka,a->ni", _JACOBIAN, weighted @ error, (1.0, 1.0, depth_weight))[..., None]
        step = np.linalg.solve(normal, right)[..., 0]
        rotation = rotation_from_vector(step[:, :3]) @ rotation
        scale = scale * np.exp(np.clip(step[:, 3], -0.5, 0.5))
        translation = translation + step[:, 4:]
    return Poses(rotation, translation * FLIP, scale)


def fit_frames(landmarks: ArrayLike, model: FaceModel, identity: ArrayLike) -> Fit:
    """Poses and expression weights of frames, given identity coefficients ``[K]`` of the subject, or ``[n, K]`` of each frame's.

    Args:
        landmarks: pixels, ``[n, 478, 3]``, all of them finite; n may be 0.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if not np.isfinite(landmarks).all():
        raise ValueError("landmarks of undetected frames cannot be fitted; leave them out")
    identity = np.asarray(identity, np.float64)
    solver = _Solver(model)
    neutral = model.shape(identity) if identity.ndim == 1 else None
    parts = []
    for start in range(0, max(len(landmarks), 1), _BLOCK):
        block = slice(start, start + _BLOCK)
        parts.append(_fit_block(landmarks[block], model.shape(identity[block]) if neutral is None else neutral, solver))
    return Fit(
        np.concatenate([part.expression for part in parts]),
        Poses(
            np.concatenate([part.poses.rotation for part in parts]),
            np.concatenate([part.poses.translation for part in parts]),
            np.concatenate([part.poses.scale for part in parts]),
        ),
        np.concatenate([part.rotation for part in parts]),
        np.concatenate([part.residual for part in parts]),
    )


def fit_identity(landmarks: ArrayLike, model: FaceModel, weights: ArrayLike | None = None) -> Floats:
    """The identity coefficients ``[K]`` that explain all frames of one person together with an expression in each.

    Args:
        landmarks: pixels, ``[n, 478, 3]``, n >= 1.
        weights: trust in each frame, ``[n]``; equal by default. Frontal frames say more: pass the cosine of the turn, for one.
    """
    return fit_identities(landmarks, np.zeros(len(np.asarray(landmarks)), np.int64), model, weights)[0]


def fit_identities(
    landmarks: ArrayLike, person: NDArray[np.integer], model: FaceModel, weights: ArrayLike | None = None
) -> Floats:
    """``fit_identity`` for many people at once: coefficients ``[people, K]``.

    Args:
        landmarks: pixels, ``[n, 478, 3]``. person: ``[n]``, whose they are: 0 and up, each number at least once.
        weights: trust in each frame, ``[n]``; equal by default.
    """
    landmarks = np.asarray(landmarks, np.float64)
    trust = np.ones(len(landmarks)) if weights is None else np.asarray(weights, np.float64)
    share = (person == np.arange(int(person.max()) + 1)[:, None]) * trust
    share /= share.sum(1, keepdims=True)
    # Not with the model's filters: they say less than all of an expression, and its remainder would go into the identity.
    solver = _Solver(model)
    identity = np.zeros((len(share), len(model.identity)))
    expression = np.zeros((len(landmarks), len(model.names)))
    poses: Poses | None = None
    for _ in range(2 * _ALTERNATIONS):
        neutral = model.shape(identity)[person]
        shapes = neutral[:, model.rigid] + solver.rigid_displacement(expression)
        poses = align(shapes, landmarks[:, model.rigid], start=poses, steps=3 if poses is None else 1)
        seen = poses.canonical(landmarks) - neutral
        expression = solver.solve(seen, expression)
        left = _winsorised(seen - model.displacement(expression))
        identity = solver.identity(share @ left.reshape(len(left), -1), identity)
    return identity


def rotation_from_vector(vector: ArrayLike) -> Floats:
    """Rodrigues' formula: axis times angle in radians ``[..., 3]`` -> ``[..., 3, 3]``."""
    vector = np.asarray(vector, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*vector.shape[:-1], 3, 3)
    sine = np.sinc(angle / np.pi)
    cosine = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.asarray(np.eye(3) + sine * cross + cosine * (cross @ cross))


def vector_from_rotation(rotation: ArrayLike) -> Floats:
    """The inverse of ``rotation_from_vector``, ``[..., 3, 3]`` -> ``[..., 3]``, for turns well below 180 degrees."""
    rotation = np.asarray(rotation, np.float64)
    skew = rotation - np.swapaxes(rotation, -1, -2)
    doubled = np.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], axis=-1)
    sine = np.linalg.norm(doubled, axis=-1) / 2
    angle = np.arctan2(sine, (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2)
    return np.asarray(doubled * np.where(sine > 1e-12, angle / np.maximum(2 * sine, 1e-12), 0.5)[..., None])


def rotation_angle(rotation: ArrayLike) -> Floats:
    """Angle of rotations ``[..., 3, 3]`` in degrees, 0..180."""
    rotation = np.asarray(rotation, np.float64)
    skew = rotation - np.swapaxes(rotation, -1, -2)
    sine = np.sqrt(skew[..., 2, 1] ** 2 + skew[..., 0, 2] ** 2 + skew[..., 1, 0] ** 2) / 2
    return np.asarray(np.degrees(np.arctan2(sine, (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2)))


def euler_angles(rotation: ArrayLike) -> Floats:
    """Yaw, pitch, roll in degrees, ``[..., 3]``, of rotations ``Ry(yaw) @ Rx(pitch) @ Rz(roll)``.

    Positive yaw turns the nose to the image right, positive pitch downwards, positive roll is anticlockwise in the picture.
    """
    rotation = np.asarray(rotation, np.float64)
    pitch = np.arcsin(np.clip(-rotation[..., 1, 2], -1, 1))
    yaw = np.arctan2(rotation[..., 0, 2], rotation[..., 2, 2])
    roll = np.arctan2(rotation[..., 1, 0], rotation[..., 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], axis=-1))


def rotation_from_euler(degrees: ArrayLike) -> Floats:
    """The inverse of ``euler_angles``: yaw, pitch, roll ``[..., 3]`` -> ``[..., 3, 3]``."""
    radians = np.radians(np.asarray(degrees, np.float64))
    zero = np.zeros_like(radians[..., 0])
    yaw = rotation_from_vector(np.stack([zero, radians[..., 0], zero], axis=-1))
    pitch = rotation_from_vector(np.stack([radians[..., 1], zero, zero], axis=-1))
    roll = rotation_from_vector(np.stack([zero, zero, radians[..., 2]], axis=-1))
    return np.asarray(yaw @ pitch @ roll)


def neutral_residuals(landmarks: Floats, neutral: Floats, model: FaceModel) -> tuple[Poses, Floats]:
    """Poses that bring neutral faces onto landmarks by the rigid ones, and what is left then in model space: what filters read.

    Args:
        landmarks: pixels, ``[n, 478, 3]``. neutral: ``[478, 3]``, or ``[n, 478, 3]`` one for each frame.
    """
    poses = align(neutral[..., model.rigid, :], landmarks[:, model.rigid])
    return poses, poses.canonical(landmarks) - neutral


class _Solver:
    """Normal equations of a model. They are the same for every frame because outliers are pulled in rather than weighted down.

    Residuals are landmarks in model space less the person's neutral face, ``[n, 478, 3]``.
    """

    def __init__(self, model: FaceModel) -> None:
        weight = _INDEPENDENT_SHARE / (model.residual**2 + _RESIDUAL_FLOOR**2)
        axes = (weight[:, None] * (1.0, 1.0, _DEPTH_WEIGHT)).ravel()
        expression = model.expression.reshape(len(model.names), -1)
        identity = model.identity.reshape(len(model.identity), -1)
        self.model = model
        self.rigid = np.ascontiguousarray(model.expression[:, model.rigid]).reshape(len(model.names), -1)
        self.identity_right = (identity * axes).T
        self.identity_normal = identity @ self.identity_right
        self.expression_right = np.ascontiguousarray((expression * axes).T)
        self.expression_normal = expression @ self.expression_right

    def solve(self, residuals: Floats, start: Floats) -> Floats:
        """Weights within 0..1, ``[n, E]``, by bounded least squares from ``start``."""
        normal = self.expression_normal + _EXPRESSION_PENALTY * np.eye(len(self.expression_normal))
        weights = start
        for _ in range(2):
            model = self.model.displacement(weights)
            target = model + _winsorised(residuals - model)
            right = target.reshape(len(target), len(self.expression_right)) @ self.expression_right
            weights = _bounded_least_squares(normal, right, weights)
        return weights

    def rigid_displacement(self, weights: Floats) -> Floats:
        """What an expression adds to the rigid landmarks, ``[n, E]`` -> ``[n, R, 3]``."""
        return np.asarray((weights @ self.rigid).reshape(len(weights), self.rigid.shape[1] // 3, 3))

    def identity(self, left: Floats, before: Floats) -> Floats:
        """Coefficients ``[people, K]`` given what is left unexplained ``[people, 1434]`` with the coefficients ``before``."""
        right = left @ self.identity_right + before @ self.identity_normal
        return np.asarray(np.linalg.solve(self.identity_normal + np.eye(len(self.identity_normal)), right.T).T)


def _fit_block(landmarks: Floats, neutral: Floats, solver: _Solver) -> Fit:
    """Fits frames ``[n, 478, 3]`` of people with neutral faces ``[478, 3]`` or ``[n, 478, 3]``."""
    model = solver.model
    expression = np.zeros((len(landmarks), len(model.names)))
    rigid, neutral_rigid = landmarks[:, model.rigid], neutral[..., model.rigid, :]
    poses, residuals = neutral_residuals(landmarks, neutral, model)
    rotation = poses.rotation
    if model.reading is not None:
        clean = model.reading.cleaned(residuals)
        expression = model.reading.expression(clean)
        error = model.reading.turned(clean + (neutral - model.mean), rotation)
        rotation = rotation @ rotation_from_vector(-error)
        rigid = poses.project(neutral + clean)[:, model.rigid]
        poses = align(neutral_rigid + solver.rigid_displacement(expression), rigid, start=poses, steps=1)
    else:
        for step in range(_ALTERNATIONS - 1):
            expression = solver.solve(poses.canonical(landmarks) - neutral if step else residuals, expression)
            poses = align(neutral_rigid + solver.rigid_displacement(expression), rigid, start=poses, steps=1)
        rotation = poses.rotation
    shapes = neutral + model.displacement(expression)
    distance = ((poses.project(shapes) - landmarks)[..., :2] ** 2).sum(-1).mean(-1) ** 0.5
    return Fit(expression, poses, rotation, distance / poses.scale)


def _bounded_least_squares(normal: Floats, right: Floats, start: Floats) -> Floats:
    """Minimise ``x A x / 2 - b x`` with every x in 0..1, by coordinate descent: A ``[E, E]``, many b ``[n, E]`` -> ``[n, E]``."""
    weights = np.ascontiguousarray(start.T)
    gradient = normal @ weights - right.T
    diagonal = np.diag(normal)
    for _ in range(_SWEEPS):
        for index in range(len(normal)):
            moved = np.minimum(np.maximum(weights[index] - gradient[index] / diagonal[index], 0.0), 1.0)
            step = moved - weights[index]
            weights[index] = moved
            gradient += normal[index][:, None] * step
    return np.ascontiguousarray(weights.T)


def _winsorised(error: Floats) -> Floats:
    """Errors ``[n, p, 3]`` with those far above the frame's typical one shortened: Huber's modified residuals."""
    distance = _lengths(error)
    bound = _HUBER * np.maximum(_typical(distance), 1e-6)
    return np.asarray(error * np.minimum(1.0, bound[:, None] / np.maximum(distance, 1e-12))[..., None])


def _lengths(vectors: Floats, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Floats:
    """Lengths of ``[n, p, 3]``, the squares of the axes weighted: ``[n, p]``. Several times faster than ``numpy.linalg.norm``."""
    return np.asarray(np.sqrt(np.square(vectors) @ np.asarray(weights)))


def _typical(distance: Floats) -> Floats:
    """A robust size of the distances of each frame, ``[n, p]`` -> ``[n]``; of perfect landmarks not nothing, but very small."""
    return np.asarray(np.maximum(np.median(distance, axis=1) * 1.2, 1e-9))


def _umeyama(shapes: Floats, seen: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    centre_shape = np.einsum("p,npd->nd", weight, shapes)
    centre_seen = np.einsum("p,npd->nd", weight, seen)
    shape = shapes - centre_shape[:, None]
    there = seen - centre_seen[:, None]
    covariance = (there * weight[:, None]).transpose(0, 2, 1) @ shape
    left, values, right = np.linalg.svd(covariance)
    sign = np.ones((len(seen), 3))
    sign[:, 2] = np.sign(np.linalg.det(left @ right))
    rotation = (left * sign[:, None, :]) @ right
    variance = np.einsum("p,npd,npd->n", weight, shape, shape)
    scale = np.maximum((values * sign).sum(-1), 1e-12) / variance
    translation = centre_seen - scale[:, None] * np.einsum("nij,nj->ni", rotation, centre_shape)
    return rotation, translation, scale
