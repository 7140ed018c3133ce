"""Expressions that fit a face's proportions, where the head model gives everybody the same displacements.

In the ICT-FaceKit an expression moves every head by the same centimetres: lids of a small eye then cross, a large eye stays open.
Noh and Neumann ("Expression Cloning", SIGGRAPH 2001) turn and scale each vertex's motion as the surface around it differs between
two faces. Here that local difference is the linear map that carries the mean face's neighbourhood onto the person's, found by
weighted least squares; eyelids, which must meet whatever the opening, have their own factor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from stages.face3d.topology import EYES, Eye
from stages.performers.head import HeadModel
from stages.performers.mediapipe_points import Correspondence

Floats = npt.NDArray[np.floating]

REACH = 1.6
"""Standard deviation of a neighbourhood, centimetres: about half a mouth, or an eye."""

_LOWEST = -9.0  # centimetres: below lies the neck, alike for all
_CONTROLS, _SAMPLES = 500, 3000
_NEAREST = 8
_STIFFNESS = 0.15  # holds a neighbourhood's map to its mean stretch where the surface says nothing: across it
_SHUT = 0.03
"""Share of its opening that a closed eye keeps, measured between the landmarks of the lids."""


class Proportions:
    """Makes head models with a person's own expressions; keeps what is the same for all people.

    Args:
        model: the head model, whose expressions move everybody alike.
    """

    def __init__(self, model: HeadModel) -> None:
        self.model = model
        face = np.flatnonzero(model.vertices_of("M_Face") & (model.neutral[:, 1] > _LOWEST))
        self._samples = face[np.linspace(0, len(face) - 1, _SAMPLES).astype(int)]
        controls = face[np.linspace(0, len(face) - 1, _CONTROLS).astype(int)]
        here, around = model.neutral[controls].astype(np.float64), model.neutral[self._samples].astype(np.float64)
        distance = np.linalg.norm(here[:, None] - around[None], axis=-1)
        weight = np.exp(-((distance / REACH) ** 2) / 2)
        self._weight = weight / weight.sum(1, keepdims=True)
        self._around = around
        self._centre = self._weight @ around
        self._spread = self._moment(around) - self._centre[:, :, None] * self._centre[:, None, :]
        far, self._near = cKDTree(here).query(model.neutral, k=_NEAREST)
        share = 1.0 / (far + 0.2) ** 2
        self._share = share / share.sum(1, keepdims=True)

    def of(self, identity: Floats) -> HeadModel:
        """The head model with the expressions of the person with this ``identity`` ``[k]``; shape and names stay."""
        base = self.model.shape(np.asarray(identity, np.float32))
        expression = np.einsum("vij,evj->evi", self.maps(base), self.model.expression, optimize=True)
        own = replace(self.model, expression=np.ascontiguousarray(expression, np.float32))
        _close_eyes(own, base)
        return own

    def maps(self, base: Floats) -> Floats:
        """The linear maps from the mean face around each vertex to a person's ``base`` [vertices, 3]: [vertices, 3, 3]."""
        there = base[self._samples].astype(np.float64)
        mixed = self._moment(there) - (self._weight @ there)[:, :, None] * self._centre[:, None, :]
        size = np.trace(self._spread, axis1=1, axis2=2)
        stretch = np.trace(mixed, axis1=1, axis2=2) / size
        stiff = (_STIFFNESS * size / 3)[:, None, None] * np.eye(3)
        maps = (mixed + stretch[:, None, None] * stiff) @ np.linalg.inv(self._spread + stiff)
        return np.asarray(np.einsum("vk,vkij->vij", self._share, maps[self._near], optimize=True))

    def _moment(self, there: Floats) -> Floats:
        products = (there[:, :, None] * self._around[:, None, :]).reshape(len(there), 9)
        return np.asarray((self._weight @ products).reshape(-1, 3, 3))


def _close_eyes(model: HeadModel, base: Floats) -> None:
    """Scale the blinks, in place, so that they close this person's eyes."""
    points = Correspondence.builtin()

    def gap(head: Floats, eye: Eye) -> float:
        landmarks = points.places(head)
        return float((landmarks[list(eye.upper), 1] - landmarks[list(eye.lower), 1]).mean())

    for eye, side in zip(EYES, "LR", strict=True):
        blink = model.expression[model.expression_names.index(f"eyeBlink_{side}")]
        rest = gap(base, eye)
        blink *= (1 - _SHUT) * rest / (rest - gap(base + blink, eye))
