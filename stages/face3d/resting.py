"""A face at rest from landmarks that show it doing something: identity, expressions and what is left over, fitted together.

The paper's Neu-Exp takes the expression fitted for its own sake out of the landmarks and keeps all else. Against the truth
of performers most of what is wrong after retargeting comes from there (``docs/retargeting.md``). Two things are done otherwise
here. The weights are fitted for the purpose of the face at rest, with priors of their own: brows and lids of a portrait say who
somebody is rather than what they do, so expressions there have to be seen clearly to be believed. And what neither identity nor
expression explains is kept only in part: some of it belongs to the person, some is expression and detection the model cannot say.

Shapes are in model space with the pose of an earlier fit taken away (``retargeting.canonical_landmarks``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.face3d.model import FaceModel

Floats = NDArray[np.float64]

PORTRAIT_PENALTY, CLIP_PENALTY = (8.0, 48.0), (16.0, 48.0)
"""One over the variance of expression weights: of jaw, mouth, cheeks and nose; of brows and lids. What all frames of a clip have
in common is rather the person than an expression, so weights of a clip have to be seen more clearly than a picture's."""

_GAZE_PENALTY = 16.0

PERSONAL = 0.7
"""Share of the unexplained in a single frame that is the person's own; of the mean over many frames it is all."""

MOST_EVIDENCE = 4.0
"""Frames of one person are wrong in the same way: however many there are, they count as so many independent ones."""

_DEPTH_WEIGHT = 0.3
_INDEPENDENT_SHARE = 0.2  # errors of neighbouring landmarks go together: so much of their number counts as evidence
_ERROR_FLOOR = 0.012  # model units
_ROUNDS, _SWEEPS = 15, 3
_FOLLOWING_ROUNDS = 4
_HUBER = 2.5


@dataclass(frozen=True)
class RestingFace:
    """A person's face at rest.

    Attributes:
        shape: ``[478, 3]``, model space.
        expression: weights ``[n, E]`` that the frames it was found from have beyond it.
    """

    shape: Floats
    expression: Floats


class RestSolver:
    """Finds faces at rest, and expressions beyond them; keeps the normal equations of a model."""

    def __init__(self, model: FaceModel) -> None:
        self.model = model
        weight = _INDEPENDENT_SHARE / (model.residual**2 + _ERROR_FLOOR**2)
        axes = (weight[:, None] * (1.0, 1.0, _DEPTH_WEIGHT)).ravel()
        expression = model.expression.reshape(len(model.names), -1)
        identity = model.identity.reshape(len(model.identity), -1)
        upper = np.array([name.startswith(("brow", "eye")) for name in model.names])
        gaze = np.array([name.startswith("eyeLook") for name in model.names])
        self._expression_right = np.ascontiguousarray((expression * axes).T)
        normal = expression @ self._expression_right
        self._portrait, self._clip = (
            normal + np.diag(np.where(gaze, _GAZE_PENALTY, np.where(upper, above, below)))
            for below, above in (PORTRAIT_PENALTY, CLIP_PENALTY)
        )
        self._identity_right = np.ascontiguousarray((identity * axes).T)
        self._identity_normal = identity @ self._identity_right

    def rest(self, shapes: Floats, trust: Floats | None = None) -> RestingFace:
        """The face at rest of one person.

        Identity coefficients, weights of every frame within 0..1 and the mean residual, in turns until they stand still.

        Args:
            shapes: ``[n, 478, 3]``, n >= 1. trust: in each frame, ``[n]``; equal by default.
        """
        model = self.model
        share = np.ones(len(shapes)) if trust is None else trust
        share = share / share.sum()
        evidence = min(1.0 / float((share**2).sum()), MOST_EVIDENCE)
        normal = evidence * self._identity_normal + np.eye(len(model.identity))
        of_weights = self._clip if len(shapes) > 1 else self._portrait
        identity: Floats = np.zeros(len(model.identity))
        expression: Floats = np.zeros((len(shapes), len(model.names)))
        for _ in range(_ROUNDS):
            neutral = model.shape(identity)
            expression = self._weights(shapes - neutral, expression, of_weights)
            left = np.tensordot(share, _shortened(shapes - neutral - model.displacement(expression)), axes=1)
            right = left.reshape(-1) @ self._identity_right + self._identity_normal @ identity
            identity = np.asarray(np.linalg.solve(normal, evidence * right))
        neutral = model.shape(identity)
        own = np.tensordot(share, shapes - neutral - model.displacement(expression), axes=1)
        return RestingFace(neutral + _personal(evidence) * own, expression)

    def expression(self, shapes: Floats, rest: Floats, start: Floats) -> Floats:
        """Weights ``[n, E]`` of frames ``[n, 478, 3]`` beyond a face at rest ``[478, 3]``.

        Args:
            start: weights to begin with, ``[n, E]``: those of the fit are near. From nothing, a wide open mouth is not reached.
        """
        weights = start
        for _ in range(_FOLLOWING_ROUNDS):
            weights = self._weights(shapes - rest, weights, self._clip)
        return weights

    def _weights(self, displacement: Floats, start: Floats, normal: Floats) -> Floats:
        """Ridge least squares within 0..1 by coordinate descent, landmarks far off pulled in: ``[n, 478, 3]`` -> ``[n, E]``."""
        model = self.model.displacement(start)
        target = model + _shortened(displacement - model)
        weights = np.array(start.T, order="C")  # a copy: what it starts from is somebody's
        right = target.reshape(len(target), len(self._expression_right)) @ self._expression_right
        gradient = normal @ weights - right.T
        diagonal = np.diag(normal)
        for _ in range(_SWEEPS):
            for index in range(len(weights)):
                moved = np.clip(weights[index] - gradient[index] / diagonal[index], 0.0, 1.0)
                gradient += normal[index][:, None] * (moved - weights[index])
                weights[index] = moved
        return np.ascontiguousarray(weights.T)


def _personal(evidence: float) -> float:
    """Share of the mean residual that is kept: ``PERSONAL`` of one frame's, nearly all of many frames'."""
    return evidence * PERSONAL / (evidence * PERSONAL + 1 - PERSONAL)


def _shortened(error: Floats) -> Floats:
    """Errors ``[n, 478, 3]`` with those far above the frame's typical one shortened: Huber's modified residuals."""
    distance = np.linalg.norm(error, axis=-1)
    bound = _HUBER * np.maximum(1.2 * np.median(distance, axis=1), 1e-6)
    return np.asarray(error * np.minimum(1.0, bound[:, None] / np.maximum(distance, 1e-12))[..., None])
