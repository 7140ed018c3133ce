"""Reads expression weights and the head's turn off landmarks by linear filters that were measured on renders with known truth.

A face model says where landmarks go when an expression acts; least squares turns that round as if the landmarks' errors were
independent. They are not: MediaPipe's mesh comes out of one network, so that errors of pose, depth and proportion move hundreds
of landmarks together and look like expressions. Regressing the known weights on the detected landmarks weighs landmarks by the
inverse of all their covariance (generalised least squares) and stays one matrix product a frame. White noise of ``TREMOR`` in the
regression keeps the filters from trusting differences smaller than what a detector trembles.

Landmarks of MediaPipe lie close to a subspace of few dimensions (60 hold 99 % of their variance around the fitted person). What
leaves it, a hand or a broken mesh, is put back before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TREMOR = 0.001
"""Independent error of each coordinate, model units, that the filters are made to bear. It is less than a detector trembles
(0.0013 to 0.0026) because that tremor is not independent: landmarks move together, within the subspace."""

MODES = 60
_BOUND = 3.0  # times the usual distance from the subspace
_SURELY_WRONG = 1.6  # times the bound
_LEAST_BOUND = 0.03  # model units: clean detections come closer to the subspace than this
_PASSES = 4
_WIDEST_TURN = np.radians(40.0)


@dataclass(frozen=True, eq=False)
class Reading:
    """Filters for ``residuals``: landmarks in model space less the person's neutral face, ``[n, 478, 3]``.

    Attributes:
        modes: ``[M, 478, 3]`` orthonormal directions in which residuals lie.
        weights: ``[E, 478, 3]`` filters of the expression weights. offset: ``[E]`` weights where the residual is zero.
        turn: ``[3, 478, 3]`` filters of the rotation's error, radians about the head's axes, for landmarks less the mean face.
        turn_by_angles: ``[3, 10]`` the part of it that goes with the head's own angles (``angle_terms``).
    """

    modes: Floats
    weights: Floats
    offset: Floats
    turn: Floats
    turn_by_angles: Floats

    def cleaned(self, residuals: Floats) -> Floats:
        """Residuals with outliers put back to where the other landmarks let them be expected."""
        basis = self.modes.reshape(len(self.modes), -1)
        given = residuals.reshape(len(residuals), basis.shape[1])
        clean = given
        rows = np.arange(len(given))
        for number in range(_PASSES):
            expected = (clean[rows] @ basis.T) @ basis
            left = (given[rows] - expected).reshape(len(rows), *residuals.shape[1:])
            squared = np.square(left) @ np.ones(3)
            suspect = squared.max(1) > _LEAST_BOUND**2
            if not suspect.any():
                break
            rows, expected, left, distance = rows[suspect], expected[suspect], left[suspect], np.sqrt(squared[suspect])
            size = distance / np.maximum(_BOUND * np.median(distance, axis=1), _LEAST_BOUND)[:, None]
            share = np.minimum(1.0, 1.0 / np.maximum(size, 1e-12))
            if number:  # by then the others are clean enough to tell
                share[size > _SURELY_WRONG] = 0.0
            if clean is given:
                clean = given.copy()
            clean[rows] = expected + (left * share[..., None]).reshape(len(rows), -1)
        return clean.reshape(residuals.shape)

    def expression(self, residuals: Floats) -> Floats:
        """Expression weights ``[n, E]``, 0..1."""
        filters = self.weights.reshape(len(self.weights), -1)
        return np.asarray(np.clip(residuals.reshape(len(residuals), filters.shape[1]) @ filters.T + self.offset, 0.0, 1.0))

    def turned(self, shapes: Floats, rotation: Floats) -> Floats:
        """By how much rotations ``[n, 3, 3]`` are wrong, read off the landmarks they were found from (less the mean face).

        Axis times angle in the head's axes, ``[n, 3]``.
        """
        filters = self.turn.reshape(3, -1)
        return np.asarray(
            shapes.reshape(len(shapes), filters.shape[1]) @ filters.T + angle_terms(rotation) @ self.turn_by_angles.T
        )


def angle_terms(rotation: Floats) -> Floats:
    """Polynomial in the sines of yaw, pitch and roll of rotations ``[n, 3, 3]``: ``[n, 10]``."""
    yaw = np.clip(np.arctan2(rotation[:, 0, 2], rotation[:, 2, 2]), -_WIDEST_TURN, _WIDEST_TURN)
    pitch = np.clip(np.arcsin(np.clip(-rotation[:, 1, 2], -1, 1)), -_WIDEST_TURN, _WIDEST_TURN)
    roll = np.clip(np.arctan2(rotation[:, 1, 0], rotation[:, 1, 1]), -_WIDEST_TURN, _WIDEST_TURN)
    a, b, c = np.sin(yaw), np.sin(pitch), np.sin(roll)
    return np.stack([np.ones_like(a), a, b, c, a * a, b * b, a * b, a * c, b * c, a**3], axis=1)


def learn(
    residuals: NDArray[np.float32],
    people: NDArray[np.float32],
    weights: NDArray[np.float32],
    errors: NDArray[np.float32],
    rotation: Floats,
) -> Reading:
    """The filters that read best, in closed form.

    Args:
        residuals: ``[n, 478, 3]``, model space. people: ``[n, 478, 3]``, the fitted neutral faces less the mean face.
        weights: ``[n, E]``, true. errors: ``[n, 3]`` of the rotations, axis times angle in the head's axes.
        rotation: ``[n, 3, 3]``, the rotations that are wrong by them.
    """
    flat = residuals.reshape(len(residuals), -1)
    terms = angle_terms(rotation).astype(np.float32)
    centre = flat.mean(0)
    left = flat - centre
    gram = (left.T @ left).astype(np.float64)
    noise = np.eye(len(gram)) * len(flat) * TREMOR**2
    _, modes = np.linalg.eigh(gram)
    middle = weights.mean(0)
    filters = np.linalg.solve(gram + noise, (left.T @ (weights - middle)).astype(np.float64)).T
    # The angles' part is not shrunk: it is taken out of both sides first (Frisch, Waugh and Lovell).
    weak = 1e-6 * len(terms) * np.eye(terms.shape[1])
    projector = np.linalg.solve(terms.T.astype(np.float64) @ terms + weak, terms.T.astype(np.float64))
    whole = flat + people.reshape(len(people), -1)
    about, around = projector @ whole, projector @ errors
    flat_left, errors_left = whole - terms @ about.astype(np.float32), errors - terms @ around.astype(np.float32)
    turn = np.linalg.solve((flat_left.T @ flat_left).astype(np.float64) + noise, (flat_left.T @ errors_left).astype(np.float64)).T
    shape = residuals.shape[1:]
    return Reading(
        modes[:, ::-1][:, :MODES].T.reshape(-1, *shape),
        filters.reshape(-1, *shape),
        middle - filters @ centre,
        np.asarray(turn.reshape(-1, *shape), np.float64),
        np.asarray(around.T - turn @ about.T, np.float64),
    )
