"""Fits the face model to detected landmarks: batched linear algebra in closed form, no per-frame iterative optimiser.

Three steps alternate a few times: the pose (a similarity, from the landmarks that expressions hardly move), the expression
weights (ridge least squares within bounds), and, over several frames at once, the identity. Landmarks that do not fit (a hand,
a bad mesh) pull with bounded force. Depth counts less than x and y: MediaPipe estimates it from one picture.

Coordinates: landmarks have x to the right, y down and z away from the viewer, in pixels; model axes have y up and z to the
viewer. With ``F = diag(1, -1, -1)`` the pose says ``landmarks = scale * F @ rotation @ shape + translation``.
"""

from __future__ import annotations

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
        poses: of the ``n`` frames.
        residual: ``[n]`` root mean square distance of the model to the landmarks in the picture, a fraction of the inter-ocular
            distance.
    """

    expression: Floats
    poses: Poses
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
        axes = (weight * trust)[:, None] * np.array([1.0, 1.0, depth_weight])[:, None]
        # Turn (three), scale and shift (three) down, axes and points across: contiguous in memory as they are filled and used.
        jacobian = np.zeros((len(seen), 7, 3, seen.shape[1]))
        x, y, z = (turned[..., axis] for axis in range(3))
        jacobian[:, 0, 1], jacobian[:, 0, 2] = -z, y
        jacobian[:, 1, 0], jacobian[:, 1, 2] = z, -x
        jacobian[:, 2, 0], jacobian[:, 2, 1] = -y, x
        jacobian[:, 3] = turned.transpose(0, 2, 1)
        for axis in range(3):
            jacobian[:, 4 + axis, axis] = 1.0
        flat = jacobian.reshape(len(seen), 7, -1)
        weighted = (jacobian * axes[:, None]).reshape(len(seen), 7, -1)
        normal = weighted @ flat.transpose(0, 2, 1)
        right = weighted @ error.transpose(0, 2, 1).reshape(len(seen), -1, 1)
        step = np.linalg.solve(normal, right)[..., 0]
        rotation = rotation_from_vector(step[:, :3]) @ rotation
        scale = scale * np.exp(np.clip(step[:, 3], -0.5, 0.5))
        translation = translation + step[:, 4:]
    return Poses(rotation, translation * FLIP, scale)


def fit_frames(landmarks: ArrayLike, model: FaceModel, identity: ArrayLike) -> Fit:
    """Poses and expression weights of frames, given the subject's identity coefficients ``[K]``.

    Args:
        landmarks: pixels, ``[n, 478, 3]``, all of them finite.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if not np.isfinite(landmarks).all():
        raise ValueError("landmarks of undetected frames cannot be fitted; leave them out")
    neutral = model.shape(identity)
    solver = _Solver(model)
    parts = [_fit_block(landmarks[start : start + _BLOCK], neutral, solver) for start in range(0, len(landmarks), _BLOCK)]
    if not parts:
        nothing = Poses(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros(0))
        return Fit(np.zeros((0, len(model.names))), nothing, np.zeros(0))
    return Fit(
        np.concatenate([part.expression for part in parts]),
        Poses(
            np.concatenate([part.poses.rotation for part in parts]),
            np.concatenate([part.poses.translation for part in parts]),
            np.concatenate([part.poses.scale for part in parts]),
        ),
        np.concatenate([part.residual for part in parts]),
    )


def fit_identity(landmarks: ArrayLike, model: FaceModel, weights: ArrayLike | None = None) -> Floats:
    """The identity coefficients ``[K]`` that explain all frames of one person together with an expression in each.

    Args:
        landmarks: pixels, ``[n, 478, 3]``, n >= 1.
        weights: trust in each frame, ``[n]``; equal by default. Frontal frames say more: pass the cosine of the turn, for one.
    """
    landmarks = np.asarray(landmarks, np.float64)
    share = np.ones(len(landmarks)) if weights is None else np.asarray(weights, np.float64)
    share = share / share.sum()
    solver = _Solver(model)
    identity = np.zeros(len(model.identity))
    expression = np.zeros((len(landmarks), len(model.names)))
    poses: Poses | None = None
    for _ in range(2 * _ALTERNATIONS):
        neutral = model.shape(identity)
        shapes = (neutral + model.displacement(expression))[:, model.rigid]
        poses = align(shapes, landmarks[:, model.rigid], start=poses, steps=3 if poses is None else 1)
        seen = poses.canonical(landmarks)
        expression = solver.expression(seen - neutral, expression)
        left = seen - neutral - model.displacement(expression)
        identity = solver.identity(np.tensordot(share, _winsorised(left), axes=1), identity)
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


class _Solver:
    """Normal equations of a model. They are the same for every frame because outliers are pulled in rather than weighted down."""

    def __init__(self, model: FaceModel) -> None:
        weight = _INDEPENDENT_SHARE / (model.residual**2 + _RESIDUAL_FLOOR**2)
        axes = (weight[:, None] * (1.0, 1.0, _DEPTH_WEIGHT)).ravel()
        expression = model.expression.reshape(len(model.names), -1)
        identity = model.identity.reshape(len(model.identity), -1)
        self.model = model
        self.expression_right = np.ascontiguousarray((expression * axes).T)
        self.expression_normal = expression @ self.expression_right
        self.identity_right = (identity * axes).T
        self.identity_normal = identity @ self.identity_right

    def expression(self, displacement: Floats, start: Floats) -> Floats:
        """Weights within 0..1 for observed displacements from the neutral face, ``[n, 478, 3]`` -> ``[n, E]``."""
        normal = self.expression_normal + _EXPRESSION_PENALTY * np.eye(len(self.expression_normal))
        weights = start
        for _ in range(2):
            model = self.model.displacement(weights)
            target = model + _winsorised(displacement - model)
            right = target.reshape(len(target), -1) @ self.expression_right
            weights = _bounded_least_squares(normal, right, weights)
        return weights

    def identity(self, left: Floats, before: Floats) -> Floats:
        """Coefficients given what is left unexplained ``[478, 3]`` with the coefficients ``before``."""
        right = left.reshape(-1) @ self.identity_right + self.identity_normal @ before
        return np.asarray(np.linalg.solve(self.identity_normal + np.eye(len(before)), right), np.float64)


def _fit_block(landmarks: Floats, neutral: Floats, solver: _Solver) -> Fit:
    model = solver.model
    expression = np.zeros((len(landmarks), len(model.names)))
    rigid = landmarks[:, model.rigid]
    poses = align(neutral[model.rigid], rigid)
    for _ in range(_ALTERNATIONS - 1):
        expression = solver.expression(poses.canonical(landmarks) - neutral, expression)
        shapes = neutral + model.displacement(expression)
        poses = align(shapes[:, model.rigid], rigid, start=poses, steps=1)
    distance = ((poses.project(shapes) - landmarks)[..., :2] ** 2).sum(-1).mean(-1) ** 0.5
    return Fit(expression, poses, distance / poses.scale)


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
    """A robust size of the distances of each frame, ``[n, p]`` -> ``[n]``."""
    return np.asarray(np.median(distance, axis=1) * 1.2)


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
